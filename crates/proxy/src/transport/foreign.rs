//! Names the protocol of an instance that does not speak HTTP/1, by the first bytes that it sends.
//!
//! A registered port that speaks TLS, HTTP/2 or the protocol of a database is a mistake of the registration; "no valid HTTP"
//! would not tell which.

/// What the instance speaks, and what to do, as a sentence; `None`: the bytes are of no protocol that is known here.
pub(crate) fn foreign_protocol(bytes: &[u8]) -> Option<String> {
    let (protocol, advice) = match bytes {
        // A record's type (alert, handshake) and the major version of every TLS (RFC 8446 §5.1). A server that gets plain
        // HTTP sends an alert.
        [0x15 | 0x16, 3, ..] => {
            ("TLS", "set tls for the upstream (upstreams[].tls), or register its plain port")
        }
        // A SETTINGS or GOAWAY frame of stream 0 (RFC 9113 §3.4, §4.1): the first one of a server.
        [0, _, _, 4 | 7, _, 0, 0, 0, 0, ..] => {
            ("HTTP/2", "requests to instances are sent as HTTP/1.1: register a port that takes it")
        }
        _ => (text_protocol(bytes)?, "register the port on which it speaks HTTP/1.1"),
    };
    Some(format!("the instance speaks {protocol}, not HTTP/1; {advice}"))
}

/// The protocols that begin with words.
fn text_protocol(bytes: &[u8]) -> Option<&'static str> {
    // A handshake of version 10: three bytes of length, the number 0, the version.
    if matches!(bytes, [_, _, 0, 0, 10, ..]) {
        return Some("the protocol of MySQL");
    }
    let greetings: [(&[u8], &str); 8] = [
        (b"SSH-", "SSH"),
        (b"220 ", "SMTP or FTP"),
        (b"220-", "SMTP or FTP"),
        (b"-ERR ", "the protocol of Redis"),
        (b"+OK ", "POP3"),
        (b"* OK ", "IMAP"),
        (b"AMQP", "AMQP"),
        (b"ERROR\r\n", "the protocol of memcached"),
    ];
    greetings.into_iter().find(|(greeting, _)| bytes.starts_with(greeting)).map(|(_, protocol)| protocol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_protocol_is_known_by_its_first_bytes() {
        for (bytes, expected) in [
            // What OpenSSL sends to a client that speaks plain HTTP: a fatal alert.
            (&b"\x15\x03\x01\x00\x02\x02\x46"[..], Some("TLS")),
            (b"\x15\x03\x03\x00\x02\x02\x16", Some("TLS")),
            (b"\x16\x03\x03\x00\x7a\x02", Some("TLS")),
            (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03", Some("HTTP/2")),
            (b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", Some("HTTP/2")),
            (b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00", Some("HTTP/2")),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some("SSH")),
            (b"220 mail.example ESMTP\r\n", Some("SMTP or FTP")),
            (b"-ERR wrong number of arguments for 'get' command\r\n", Some("the protocol of Redis")),
            (b"\x4a\x00\x00\x00\x0a8.0.36\x00", Some("the protocol of MySQL")),
            (b"* OK IMAP4rev1 ready\r\n", Some("IMAP")),
            (b"AMQP\x00\x00\x09\x01", Some("AMQP")),
            (b"ERROR\r\n", Some("the protocol of memcached")),
            (b"HTTP/1.1 200 OK\r\n", None),
            (b"HTTP/2 200\r\n", None),
            (b"\x15", None),
            (b"\x00\x00\x00", None),
            (b"2200 x", None),
            (b"", None),
        ] {
            let found = foreign_protocol(bytes);
            let expected = expected.map(|protocol| format!("the instance speaks {protocol}, not HTTP/1; "));
            match (&found, &expected) {
                (Some(found), Some(expected)) => assert!(found.starts_with(expected), "{found}"),
                _ => assert_eq!(found, expected, "{}", bytes.escape_ascii()),
            }
        }
    }
}
