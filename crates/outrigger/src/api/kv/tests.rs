//! Paths and keys without a registry.

use super::*;

fn key(path: &str) -> Result<String, String> {
    key_of(path, Some("a=b&c")).map_err(|refusal| match refusal {
        KvRefusal::Consul(status, text) => format!("{} {text}", status.as_u16()),
        KvRefusal::Moved(location) => format!("301 {location}"),
        KvRefusal::Own(problem) => format!("{problem:?}"),
    })
}

#[test]
fn a_path_names_one_key_and_no_other() {
    for (path, expected) in [
        ("/v1/kv/config/orders/db", "config/orders/db"),
        ("/v1/kv/config/orders/", "config/orders/"),
        ("/v1/kv/config%2Forders%2Fdb", "config/orders/db"),
        ("/v1/kv/config/a%20b", "config/a b"),
        ("/v1/kv/config/a+b,c", "config/a+b,c"),
        ("/v1/kv/uml%C3%A4ut", "umläut"),
        ("/v1/kv/a%252e%252e/b", "a%2e%2e/b"),
        ("/v1/kv/", ""),
    ] {
        assert_eq!(key(path).as_deref(), Ok(expected), "{path}");
    }
}

#[test]
fn a_path_that_is_not_clean_is_answered_with_the_clean_one() {
    for (path, expected) in [
        ("/v1/kv", "301 /v1/kv/?a=b&c"),
        ("/v1/kv//config/orders", "301 /v1/kv/config/orders?a=b&c"),
        ("/v1/kv/config//orders/", "301 /v1/kv/config/orders/?a=b&c"),
        ("/v1/kv/config/./orders", "301 /v1/kv/config/orders?a=b&c"),
        ("/v1/kv/config/orders/../secret", "301 /v1/kv/config/secret?a=b&c"),
        ("/v1/kv/config/orders/%2e%2e/secret", "301 /v1/kv/config/secret?a=b&c"),
        ("/v1/kv/config/orders%2F..%2Fsecret", "301 /v1/kv/config/secret?a=b&c"),
        ("/v1/kv/../../etc", "301 /etc?a=b&c"),
        ("/v1/kv/a%20b/../c%20d%3f", "301 /v1/kv/c%20d%3F?a=b&c"),
    ] {
        assert_eq!(key(path).unwrap_err(), expected, "{path}");
    }
    for path in ["/v1/kv/%ff", "/v1/kv/%zz", "/v1/kv/a%2"] {
        assert!(key(path).unwrap_err().contains("BadRequest"), "{path}");
    }
    // Measured on Consul 1.8.7.
    for (path, query, expected) in [
        ("/v1/kv//a", None, "/v1/kv/a"),
        ("/v1/kv//a", Some(""), "/v1/kv/a?"),
        ("/v1/kv", Some(""), "/v1/kv/"),
        ("/v1/kv", Some("keys"), "/v1/kv/?keys"),
    ] {
        let moved =
            key_of(path, query).map_err(|refusal| matches!(refusal, KvRefusal::Moved(to) if to == expected));
        assert_eq!(moved, Err(true), "{path} {query:?}");
    }
    assert_eq!(escape_html("/a?b&c=<'\">"), "/a?b&amp;c=&lt;&#39;&#34;&gt;");
    assert_eq!(escape_non_ascii("/a?b=ü'"), "/a?b=%c3%bc'");
}

#[test]
fn keys_end_with_the_separator() {
    let entry = |key: &str| {
        Arc::new(KvEntry {
            key: key.into(),
            value: Vec::new(),
            flags: 0,
            session: None,
            lock_index: 0,
            create_index: 1,
            modify_index: 1,
        })
    };
    let all: Vec<_> = ["c/db/pool", "c/db/url", "c/fl", "c/x--y--z"].into_iter().map(entry).collect();
    for (prefix, separator, expected) in [
        ("c/", "/", &["c/db/", "c/fl", "c/x--y--z"][..]),
        ("c/", "", &["c/db/pool", "c/db/url", "c/fl", "c/x--y--z"]),
        ("c", "/", &["c/"]),
        ("c/", "b", &["c/db", "c/fl", "c/x--y--z"]),
        ("c/", "--", &["c/db/pool", "c/db/url", "c/fl", "c/x--"]),
    ] {
        assert_eq!(list_keys(&all, prefix, separator), expected, "{prefix} {separator}");
    }
}

#[test]
fn index_and_wait_are_those_of_consul() {
    let read = |query: &str| {
        let (index, wait) = wait_of(&GoQuery::read(query)).map_err(|refusal| match refusal {
            KvRefusal::Consul(_, text) => text,
            KvRefusal::Moved(_) | KvRefusal::Own(_) => "another refusal".into(),
        })?;
        Ok::<_, Cow<'static, str>>((index, wait.as_secs()))
    };
    for (query, expected) in [
        ("", Ok((0, 300))),
        ("index=7", Ok((7, 300))),
        ("index=7&wait=10s", Ok((7, 10))),
        ("index=7&wait=0s", Ok((7, 300))),
        ("index=7&wait=-1s", Ok((7, 300))),
        ("index=7&wait=15m", Ok((7, 600))),
        ("index=&wait=", Ok((0, 300))),
        ("index=18446744073709551615", Ok((u64::MAX, 300))),
        ("index=18446744073709551616", Err("Invalid index".into())),
        ("index=-1", Err("Invalid index".into())),
        ("index=+1", Err("Invalid index".into())),
        ("index=0x1", Err("Invalid index".into())),
        ("wait=1", Err("Invalid wait time".into())),
        ("index=abc&wait=abc", Err("Invalid wait time".into())),
    ] {
        assert_eq!(read(query), expected, "{query}");
    }
}

#[tokio::test]
async fn a_parameter_that_neither_consul_nor_its_clients_know_is_refused_by_its_name() {
    let answer = async |query: &str| {
        let control = ConnectionControl::default();
        let path = "/v1/kv/config/orders";
        match answer_or_refuse(None, &Method::GET, path, Some(query), &control).await {
            Err(KvRefusal::Own(problem)) => format!("{problem:?}"),
            Err(_) | Ok(_) => "answered".to_owned(),
        }
    };
    for query in
        ["recurse&index=1&wait=60000ms&stale&pretty&token=a&cached&near=_agent", "dc=&consistent=", ""]
    {
        let without_registry = answer(query).await;
        assert!(!without_registry.contains("no parameter"), "{query}: {without_registry}");
    }
    let refused = answer("recurse&indx=7").await;
    assert!(refused.contains("there is no parameter") && refused.contains("indx"), "{refused}");
}
