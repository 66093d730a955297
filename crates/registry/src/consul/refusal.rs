//! The error of an answer with another status than the expected one, and a hint what to do. Pure.

use http::StatusCode;

use super::dial::WRITE_HTTPS;
use crate::Error;

/// Most characters of Consul's text that are kept.
const MAX_TEXT: usize = 300;

/// What a token needs for keys and locks, by the path of the request.
const POLICY_HINTS: &[(&str, &str)] = &[
    ("/v1/kv/", "the token's policy must allow key_prefix: read to read, write to write"),
    ("/v1/txn", "the token's policy must allow key_prefix: write for each key that is written"),
    ("/v1/session/", "the token's policy must allow session:write for the node of the agent"),
];

/// A hint for each known text of Consul. The first entry with a contained text is used.
const HINTS: &[(u16, &str, &str)] = &[
    (
        403,
        "ACL not found",
        "the token is unknown or was deleted: check it (--token-file, OUTRIGGER_TOKEN_FILE, CONSUL_HTTP_TOKEN, \
         CONSUL_HTTP_TOKEN_FILE or registry.consul.token_file)",
    ),
    (
        403,
        "",
        "the token's policy must allow service:read and node:read to discover, service:write to register",
    ),
    // What Go's server and nginx say on a TLS port.
    (400, "HTTP request to an HTTPS server", WRITE_HTTPS),
    (400, "plain HTTP request was sent to HTTPS port", WRITE_HTTPS),
    (429, "", "the agent limits the rate of requests: see its `limits` settings"),
    (500, "No path to datacenter", "no such datacenter, or it is not joined: check `datacenter`"),
    (500, "No known Consul servers", "the agent has not joined a cluster: check its retry_join"),
    (500, "No cluster leader", "the servers are electing a leader or have lost their quorum"),
    (500, "Unknown check", "the agent no longer holds the check: register again"),
    (500, "does not have associated TTL", "the agent no longer holds the check: register again"),
    (500, "Unknown service", "the agent does not hold this service"),
    (500, "rpc error", "the agent could not reach a server: usually a server left or an election is on"),
    (
        400,
        "unknown field",
        "this Consul does not know a field that was sent: its version is too old or too new",
    ),
    (301, "", "the name in the path is not one that Consul can serve, as `.`, `..` or `a//b`"),
];

/// Makes the error of an answer with `status` and `body`.
pub(super) fn refused_error(request: String, status: u16, body: &[u8]) -> Error {
    let text = one_line(body);
    let by_path = POLICY_HINTS.iter().find(|(path, _)| request.contains(path));
    let by_text = HINTS.iter().find(|(of, words, _)| *of == status && text.contains(words));
    let hint = match (by_text, by_path) {
        // The entry without a text is about services.
        (Some((403, "", _)), Some((_, hint))) => Some(*hint),
        (by_text, _) => by_text.map(|(_, _, hint)| *hint),
    };
    Error::Refused { request, status, text, hint }
}

/// Whether the answer to a request on a new connection is about the connection: newer versions of Consul send it with the
/// close that 1.8 makes without a byte.
pub(super) fn is_connection_limit(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS && one_line(body).contains("too many concurrent connections")
}

/// One line of at most [`MAX_TEXT`] characters, without control characters.
pub(super) fn one_line(body: &[u8]) -> String {
    // Cut before decoding, because an error page may be as large as the limit of an answer.
    let start = &body[..body.len().min(MAX_TEXT * 4)];
    let line: String = String::from_utf8_lossy(start)
        .split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if line.chars().count() <= MAX_TEXT {
        return line;
    }
    line.chars().take(MAX_TEXT - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_hint(status: u16, body: &str, hint: Option<&str>) -> Error {
        let error = refused_error("GET /v1/x".into(), status, body.as_bytes());
        let Error::Refused { hint: given, .. } = &error else { panic!("{error:?}") };
        match hint {
            Some(words) => assert!(given.is_some_and(|given| given.contains(words)), "{body}: {given:?}"),
            None => assert_eq!(*given, None, "{body}"),
        }
        error
    }

    #[test]
    fn known_texts_have_a_hint() {
        assert_hint(403, "ACL not found", Some("token is unknown"));
        assert_hint(403, "Permission denied", Some("node:read"));
        assert_hint(403, "Permission denied: Missing service:write on web", Some("service:write"));
        assert_hint(500, "No path to datacenter", Some("datacenter"));
        assert_hint(500, "No known Consul servers", Some("retry_join"));
        assert_hint(500, "rpc error making call: No cluster leader", Some("electing"));
        assert_hint(500, "rpc error making call: EOF", Some("server"));
        assert_hint(500, "CheckID \"service:a\" does not have associated TTL", Some("register again"));
        assert_hint(500, "Unknown check \"service:a\"", Some("register again"));
        assert_hint(400, "Client sent an HTTP request to an HTTPS server.", Some("write https://"));
        assert_hint(
            400,
            "<center>The plain HTTP request was sent to HTTPS port</center>",
            Some("CONSUL_CACERT"),
        );
        assert_hint(429, "Your request is rate limited", Some("limits"));
        assert_hint(500, "something new", None);
        assert_hint(418, "", None);
    }

    #[test]
    fn a_refused_key_or_session_names_the_rule_that_it_needs() {
        for (request, rule) in [
            ("GET /v1/kv/config/a", "key_prefix"),
            ("PUT /v1/txn", "key_prefix"),
            ("PUT /v1/session/create", "session:write"),
            ("GET /v1/health/service/a", "service:read"),
        ] {
            let denied = refused_error(request.into(), 403, b"Permission denied").to_string();
            assert!(denied.contains(rule), "{denied}");
            let unknown = refused_error(request.into(), 403, b"ACL not found").to_string();
            assert!(unknown.contains("token is unknown"), "{unknown}");
        }
    }

    #[test]
    fn the_limit_of_connections_is_told_from_the_limit_of_the_rate() {
        let said = b"Your IP is issuing too many concurrent connections, please rate limit your calls\n";
        assert!(is_connection_limit(StatusCode::TOO_MANY_REQUESTS, said));
        assert!(!is_connection_limit(StatusCode::OK, said));
        let rate = b"rate limit exceeded, try a different server";
        assert!(!is_connection_limit(StatusCode::TOO_MANY_REQUESTS, rate));
    }

    #[test]
    fn the_text_is_one_line_of_at_most_300_characters() {
        let long = "é\u{1b}[31m\n\t".repeat(1000);
        let error = assert_hint(500, &long, None);
        let Error::Refused { text, .. } = &error else { panic!("{error:?}") };
        assert_eq!(text.chars().count(), MAX_TEXT);
        assert!(!text.contains(char::is_control), "{text:?}");
        assert!(text.ends_with('…'));
    }

    #[test]
    fn the_error_reads_as_one_sentence() {
        let error = assert_hint(403, "ACL not found", Some("unknown"));
        assert!(error.to_string().starts_with("GET /v1/x answered 403: ACL not found (the token"), "{error}");
        assert_eq!(error.label(), "forbidden");
    }

    proptest::proptest! {
        #[test]
        fn no_body_panics(status: u16, body: Vec<u8>) {
            refused_error(String::new(), status, &body).to_string();
        }
    }
}
