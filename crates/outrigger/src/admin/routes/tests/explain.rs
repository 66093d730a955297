//! `/explain`.

use super::*;

#[tokio::test]
async fn an_explanation_is_json_or_text_and_a_bad_query_gets_a_sentence() {
    let admin = admin();
    let get = async |query: &str, headers: &[(&str, &str)]| {
        send(&admin.main, &format!("GET /explain{query}"), headers).await
    };
    let (status, page) = get("?url=http://orders/x&method=PUT", &[LOCAL]).await;
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, &page["request"]["method"]), (200, &"PUT".into()));
    let as_text = (200, "request    GET http://orders/x\n".to_owned());
    assert_eq!(get("?url=http://orders/x&format=text", &[LOCAL]).await, as_text);
    assert_eq!(get("?url=http://orders/x", &[LOCAL, ("accept", "text/plain")]).await, as_text);
    for (query, expected) in [
        ("", "url is missing"),
        ("?url=x&other=1", "\"other\" is none of url, method, header, format"),
        ("?url=", "the URL \"\" has no host"),
    ] {
        let (status, text) = get(query, &[LOCAL]).await;
        assert!(status == 400 && text.contains(expected), "{query}: {status} {text}");
    }
}
