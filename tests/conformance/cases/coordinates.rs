//! Network coordinates.

use crate::case::{Case, call, fresh_case, get, header_names, put, until};

const UPDATE: &str = "/v1/coordinate/update";

pub(crate) fn cases() -> Vec<Case> {
    let no_wan = "answers as a server with the usual port for other datacenters";
    vec![
        fresh_case(
            "coordinates",
            vec![
                get("/v1/coordinate/nodes"),
                header_names("GET", "/v1/coordinate/nodes"),
                get("/v1/coordinate/node/lab1"),
                get("/v1/coordinate/node/nope"),
                get("/v1/coordinate/node/"),
                get("/v1/coordinate/datacenters").differs(no_wan),
                // What is told of nodes that do not exist is dropped.
                put(UPDATE, r#"{"Node":"nope","Coord":{"Vec":[1,2,3,4,5,6,7,8]}}"#),
                put(
                    UPDATE,
                    r#"{"Node":"lab1","Segment":"x","Coord":{"Vec":[0,1,-2.5,1e-5,1e-7,1e20,1e21,0.1],"Error":1.5,"Adjustment":-0.25,"Height":1e300}}"#,
                ),
                put(
                    "/v1/coordinate/update?dc=dc1&token=t",
                    r#"{"node":"LAB1","coord":{"vec":[1,2,3,4,5,6,7,8],"error":0.5},"Token":"t","Datacenter":"nope"} trailing"#,
                ),
                put(
                    UPDATE,
                    r#"{"Node":"lab1","Segment":"x","Coord":{"Vec":[8,7,6,5,4,3,2,1],"Height":0.00001}}"#,
                ),
                until("/v1/coordinate/nodes", "LAB1"),
                get("/v1/coordinate/nodes?segment="),
                get("/v1/coordinate/nodes?segment=x&stale"),
                get("/v1/coordinate/nodes?segment=nope"),
                get("/v1/coordinate/nodes?dc=nope"),
                get("/v1/coordinate/nodes?stale&consistent"),
                get("/v1/coordinate/nodes?index=bad"),
                get("/v1/coordinate/nodes?filter=Nope==1&cached"),
                header_names("GET", "/v1/coordinate/node/lab1"),
                get("/v1/coordinate/node/lab1?segment=x&pretty"),
                get("/v1/coordinate/node/Lab1?segment=x"),
                get("/v1/coordinate/node/lab1?segment=nope"),
                get("/v1/coordinate/node/lab1?dc=nope"),
                get("/v1/coordinate/node/nope?index=bad"),
                get("/v1/coordinate/node/nope?dc=nope"),
            ],
        ),
        fresh_case(
            "coordinates refused",
            vec![
                put(UPDATE, ""),
                put(UPDATE, "{"),
                put(UPDATE, "[]"),
                put(UPDATE, r#"{"Node":1}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":1}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":{"Vec":1}}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":{"Vec":["1"]}}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":{"Vec":[1],"Error":"x"}}"#),
                put(UPDATE, r#"{"Node":"lab1","Bogus":1}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":{"Bogus":1}}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":{}}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":{"Vec":[1,2,3,4,5,6,7]}}"#),
                put(UPDATE, r#"{"Node":"lab1","Coord":{"Vec":[1,2,3,4,5,6,7,8,9]}}"#),
                put(UPDATE, r#"{"Node":"lab1","Datacenter":"nope","Coord":{"Vec":[1]}}"#),
                put(
                    "/v1/coordinate/update?dc=nope",
                    r#"{"Node":"lab1","Datacenter":"dc1","Coord":{"Vec":[1]}}"#,
                ),
                get(UPDATE),
                call("POST", UPDATE, ""),
                put("/v1/coordinate/nodes", ""),
                put("/v1/coordinate/node/lab1", ""),
                put("/v1/coordinate/datacenters", ""),
                get("/v1/coordinate/nodes/"),
                get("/v1/coordinate/node"),
                get("/v1/coordinate/"),
                get("/v1/coordinate"),
                get("/v1/coordinate/nope"),
            ],
        ),
    ]
}
