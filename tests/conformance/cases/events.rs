//! User events, and what an agent tells and does as a process.

use crate::case::{Case, call, fresh_case, get, header_names, outcome, part, put, register, shape, watch};

const FIRE: &str = "/v1/event/fire";

pub(crate) fn cases() -> Vec<Case> {
    vec![fired(), sizes(), watched(), process()]
}

fn fired() -> Case {
    fresh_case(
        "user events",
        vec![
            get("/v1/event/list"),
            header_names("GET", "/v1/event/list"),
            header_names("PUT", "/v1/event/fire/first"),
            put("/v1/event/fire/deploy", "payload"),
            put("/v1/event/fire/deploy", ""),
            put("/v1/event/fire/a/b%20c?pretty", "<b>"),
            get("/v1/event/list?pretty"),
            get("/v1/event/list?name=deploy"),
            get("/v1/event/list?name=Deploy"),
            get("/v1/event/list?name="),
            get("/v1/event/list?name=deploy&node=x&service=y&tag=z"),
            get("/v1/event/list?name=nope&stale&consistent&dc=nope&filter=x"),
            get("/v1/event/list?index=bad"),
            get("/v1/event/list?wait=bad"),
            get("/v1/event/list?wait=bad&index=bad"),
            get("/v1/event/list?index=1&wait=1s"),
            // Only the events that are meant for this agent.
            register(r#"{"Name":"web","ID":"web-1","Tags":["blue","eu"]}"#),
            put("/v1/event/fire/node1?node=lab", ""),
            put("/v1/event/fire/node2?node=^b", ""),
            put("/v1/event/fire/service1?service=^web-1$", ""),
            put("/v1/event/fire/service2?service=^web$", ""),
            put("/v1/event/fire/service3?service=consul", ""),
            put("/v1/event/fire/tag1?service=web&tag=(?i)BL", ""),
            put("/v1/event/fire/tag2?service=web&tag=green", ""),
            put("/v1/event/fire/all?node=.&service=.&tag=.", ""),
            put("/v1/event/fire/_rexec", "x"),
            get("/v1/event/list"),
            put("/v1/event/fire/x?node=(", ""),
            put("/v1/event/fire/x?service=a**", ""),
            put("/v1/event/fire/x?service=a&tag=[", ""),
            put("/v1/event/fire/x?tag=y", ""),
            put("/v1/event/fire/x?tag=(&node=(", ""),
            put("/v1/event/fire/x?dc=nope", ""),
            put("/v1/event/fire/x?dc=nope&tag=y", ""),
            put("/v1/event/fire/x?dc=dc1&token=t", ""),
            put("/v1/event/fire/", "p"),
            put(FIRE, ""),
            get("/v1/event/fire/x"),
            call("POST", "/v1/event/fire/x", ""),
            put("/v1/event/list", ""),
            get("/v1/event/list/"),
            get("/v1/event/nope"),
            get("/v1/event/"),
            get("/v1/event"),
        ],
    )
}

/// Both limits, from below and from above.
fn sizes() -> Case {
    let x = |length| "x".repeat(length);
    fresh_case(
        "the size of user events",
        vec![
            put("/v1/event/fire/x", &x(414)),
            put("/v1/event/fire/x", &x(415)),
            put("/v1/event/fire/x", &x(444)),
            put("/v1/event/fire/x", &x(445)),
            put("/v1/event/fire/x", &x(3000)),
            put(&format!("{FIRE}/{}", x(18)), &x(379)),
            put(&format!("{FIRE}/{}", x(18)), &x(380)),
            put(&format!("{FIRE}/{}", x(40)), &x(334)),
            put(&format!("{FIRE}/{}", x(40)), &x(335)),
            put(&format!("{FIRE}/{}", x(200)), &x(15)),
            put(&format!("{FIRE}/{}", x(200)), &x(16)),
            put(&format!("{FIRE}/{}", x(400)), ""),
            put(&format!("{FIRE}/x?node={}", x(30)), &x(380)),
            put(&format!("{FIRE}/x?node={}", x(30)), &x(381)),
            put(&format!("{FIRE}/x?service={}&tag={}", x(40), x(50)), &x(312)),
            put(&format!("{FIRE}/x?service={}&tag={}", x(40), x(50)), &x(313)),
            get("/v1/event/list"),
        ],
    )
}

fn watched() -> Case {
    fresh_case(
        "watching user events",
        vec![
            watch("/v1/event/list"),
            put("/v1/event/fire/one", "1"),
            outcome(),
            watch("/v1/event/list"),
            put("/v1/event/fire/two", "2"),
            outcome(),
            watch("/v1/event/list"),
            outcome(),
            // Of a name: other events do not wake it.
            watch("/v1/event/list?name=one"),
            put("/v1/event/fire/two", "3"),
            outcome(),
            watch("/v1/event/list?name=one"),
            put("/v1/event/fire/one?node=nope", "4"),
            put("/v1/event/fire/one", "5"),
            outcome(),
            watch("/v1/event/list?name=none"),
            outcome(),
        ],
    )
}

fn process() -> Case {
    fresh_case(
        "the agent as a process",
        vec![
            // Counted, before the first interval of the metrics may end.
            get("/v1/catalog/datacenters"),
            register(
                r#"{"Name":"web","ID":"web-1","Checks":[{"TTL":"60s"},{"HTTP":"http://{http}/200","Interval":"60s"}]}"#,
            ),
            shape("/v1/agent/self"),
            part("/v1/agent/self", "/Stats/agent"),
            part("/v1/agent/self", "/Stats/build"),
            part("/v1/agent/self", "/Stats/consul"),
            part("/v1/agent/self", "/Stats/raft/state"),
            part("/v1/agent/self", "/Coord"),
            get("/v1/agent/members"),
            get("/v1/agent/members?segment="),
            get("/v1/agent/members?segment=_all&wan="),
            get("/v1/agent/members?segment=x"),
            get("/v1/agent/members?wan=1&segment=x"),
            get("/v1/agent/members?wan=1&segment=_all")
                .differs("answers as a server with the usual port for other datacenters"),
            put("/v1/agent/members", ""),
            shape("/v1/agent/metrics"),
            header_names("GET", "/v1/agent/metrics"),
            get("/v1/agent/metrics?format=prometheus"),
            put("/v1/agent/metrics", ""),
            put("/v1/agent/reload", ""),
            get("/v1/agent/reload"),
            get("/v1/agent/reload/"),
            get("/v1/agent/leave"),
            get("/v1/agent/leave/"),
            put("/v1/agent/force-leave/nope", ""),
            put("/v1/agent/force-leave/lab1", ""),
            put("/v1/agent/force-leave/", ""),
            put("/v1/agent/force-leave", ""),
            get("/v1/agent/force-leave/lab1"),
        ],
    )
}
