//! How a body ends.

use outrigger_http1::{Framing, RefusalKind, request_framing, response_framing};

use crate::support::{request, response};

#[test]
fn the_framing_of_a_request_is_never_ambiguous() {
    use Framing::{Chunked, Length, None};
    let table: &[(&str, Result<Framing, RefusalKind>)] = &[
        ("", Ok(None)),
        ("Content-Length: 0\r\n", Ok(None)),
        ("Content-Length: 5\r\n", Ok(Length(5))),
        ("Content-Length: 5\r\ncontent-length: 5\r\n", Ok(Length(5))),
        ("Content-Length: 18446744073709551615\r\n", Ok(Length(u64::MAX))),
        ("Content-Length: 18446744073709551616\r\n", Err(RefusalKind::Malformed)),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Err(RefusalKind::Malformed)),
        ("Content-Length: 5, 5\r\n", Err(RefusalKind::Malformed)),
        ("Content-Length: +5\r\n", Err(RefusalKind::Malformed)),
        ("Content-Length: -5\r\n", Err(RefusalKind::Malformed)),
        ("Content-Length: 0x5\r\n", Err(RefusalKind::Malformed)),
        ("Content-Length: 5 5\r\n", Err(RefusalKind::Malformed)),
        ("Content-Length:\r\n", Err(RefusalKind::Malformed)),
        ("Transfer-Encoding: chunked\r\n", Ok(Chunked)),
        ("TRANSFER-ENCODING: ChUnKeD\r\n", Ok(Chunked)),
        ("Transfer-Encoding: gzip, chunked\r\n", Err(RefusalKind::TransferCoding)),
        ("Transfer-Encoding: chunked, chunked\r\n", Err(RefusalKind::TransferCoding)),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(RefusalKind::TransferCoding)),
        ("Transfer-Encoding: identity\r\n", Err(RefusalKind::TransferCoding)),
        ("Transfer-Encoding:\r\n", Err(RefusalKind::TransferCoding)),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Err(RefusalKind::Malformed)),
        ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", Err(RefusalKind::Malformed)),
    ];
    for (fields, expected) in table {
        let head = request(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes()).unwrap();
        assert_eq!(request_framing(&head).map_err(|refusal| refusal.kind), *expected, "{fields}");
    }
    let old = request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(request_framing(&old).unwrap_err().kind, RefusalKind::Malformed);
}

#[test]
fn the_framing_of_a_response_is_tolerant_where_it_is_safe() {
    use Framing::{Chunked, Length, None, Tunnel, UntilClose};
    // (status line and fields, answers HEAD, framing and oddness)
    type Row = (&'static str, bool, Result<(Framing, bool), ()>);
    let table: &[Row] = &[
        ("1.1 200 OK\r\n", false, Ok((UntilClose, false))),
        ("1.1 200 OK\r\nContent-Length: 5\r\n", false, Ok((Length(5), false))),
        ("1.1 200 OK\r\nContent-Length: 5\r\n", true, Ok((None, false))),
        ("1.1 304 Not Modified\r\nContent-Length: 5\r\n", false, Ok((None, false))),
        ("1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n", false, Ok((None, false))),
        ("1.1 100 Continue\r\n", false, Ok((None, false))),
        ("1.1 101 Switching Protocols\r\n", false, Ok((Tunnel, false))),
        ("1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n", false, Ok((Length(5), false))),
        ("1.1 200 OK\r\nContent-Length: 5, 6\r\n", false, Err(())),
        ("1.1 200 OK\r\nContent-Length: x\r\n", false, Err(())),
        ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", false, Ok((Chunked, false))),
        ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", false, Ok((Chunked, true))),
        ("1.1 200 OK\r\nTransfer-Encoding: gzip\r\n", false, Err(())),
        ("1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", false, Err(())),
        ("1.0 200 OK\r\n", false, Ok((UntilClose, false))),
        ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: x\r\n", false, Ok((Chunked, true))),
        ("1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n", true, Ok((None, true))),
        ("1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n", false, Ok((Chunked, false))),
        ("1.1 200 OK\r\nContent-Length: 5\r\n 5\r\n", false, Err(())),
    ];
    for (text, is_head, expected) in table {
        let head = response(format!("HTTP/{text}\r\n").as_bytes()).unwrap();
        let found = response_framing(&head, *is_head).map(|one| (one.framing, one.is_odd)).map_err(|_| ());
        assert_eq!(found, *expected, "{text}");
    }
}
