//! Bodies.

use outrigger_http1::{BodyDecoder, Framing, Inbox, Piece, RefusalKind};

use crate::support::{decode_in, request};

#[test]
fn chunked_bodies_are_read_to_their_last_byte() {
    let input =
        b"5\r\nhello\r\n00A ; x=\"y z\"\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nHost: a\r\nx-b:2\r\n\r\nGET";
    let (data, trailers, rest) = decode_in(Framing::Chunked, input, &[]).unwrap().unwrap();
    assert_eq!(data, b"hello0123456789");
    assert_eq!(trailers, b"X-Sum: 1\r\nx-b:2\r\n", "Host frames and is dropped");
    assert_eq!(rest, b"GET");
}

#[test]
fn trailers_that_frame_route_or_authenticate_are_dropped() {
    let input =
        b"0\r\nContent-Length: 5\r\ntransfer-encoding: chunked\r\nAuthorization: a\r\nSet-Cookie: a\r\n\
        Proxy-Own: a\r\nX-Outrigger-Own: a\r\nX-Forwarded-For: a\r\nVia: a\r\nTE: a\r\ngrpc-status: 0\r\n\
        grpc-retry-pushback-ms: 5\r\nETag: \"a\"\r\n\r\n";
    let (_, trailers, _) = decode_in(Framing::Chunked, input, &[]).unwrap().unwrap();
    let kept = "grpc-status: 0\r\ngrpc-retry-pushback-ms: 5\r\nETag: \"a\"\r\n";
    assert_eq!(trailers.escape_ascii().to_string(), kept.escape_default().to_string());
}

#[test]
fn trailers_that_connection_names_are_dropped() {
    let head = request(b"POST / HTTP/1.1\r\nConnection: close, x-own\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let mut inbox = Inbox::from(&b"0\r\nX-Own: 1\r\nX-Sum: 2\r\n\r\n"[..]);
    let mut decoder = BodyDecoder::behind(&head, Framing::Chunked);
    assert_eq!(decoder.decode(&mut inbox).unwrap(), Piece::End);
    assert_eq!(decoder.trailers(), b"X-Sum: 2\r\n");
}

#[test]
fn chunk_extensions_are_paid_for_by_data() {
    // 64 bytes of data and of extension, a thousand times: more extensions than are allowed without data.
    let chunk = format!("40;{}\r\n{}\r\n", "x".repeat(63), "d".repeat(64));
    let (data, ..) = decode_in(Framing::Chunked, format!("{}0\r\n\r\n", chunk.repeat(1000)).as_bytes(), &[])
        .unwrap()
        .unwrap();
    assert_eq!(data.len(), 64_000);
    let chunk = format!("1;{}\r\nd\r\n", "x".repeat(63));
    let refusal =
        decode_in(Framing::Chunked, format!("{}0\r\n\r\n", chunk.repeat(1000)).as_bytes(), &[]).unwrap_err();
    assert!(refusal.detail.contains("the chunk extensions have more than"), "{refusal}");
}

#[test]
fn a_trailer_section_that_is_too_large_is_refused_before_it_fills_the_inbox() {
    let line = |len: usize| format!("A:{}\r\n", "x".repeat(len - 4));
    let fits = format!("0\r\n{}\r\n", line(16 * 1024 - 2));
    assert!(decode_in(Framing::Chunked, fits.as_bytes(), &[3000]).unwrap().is_some());
    // All of it but the line end.
    let endless = format!("0\r\nA:{}", "x".repeat(16 * 1024 - 2));
    assert!(decode_in(Framing::Chunked, endless.as_bytes(), &[3000]).is_err());
    let too_large = format!("0\r\n{}\r\n", line(16 * 1024 - 1));
    assert!(decode_in(Framing::Chunked, too_large.as_bytes(), &[3000]).is_err());
}

#[test]
fn broken_chunks_are_named() {
    let extensions = format!("1;{}\r\n", "x".repeat(17_000));
    let trailers = format!("0\r\nA: {}\r\n\r\n", "x".repeat(17_000));
    let table: &[(&[u8], &str)] = &[
        (b"\r\n", "the size of a chunk is due"),
        (b"x\r\n", "the size of a chunk is due"),
        (b" 5\r\n", "the size of a chunk is due"),
        (b"-5\r\n", "the size of a chunk is due"),
        (b"5 5\r\n", "the end of a chunk's size is due"),
        (b"5x\r\n", "the end of a chunk's size is due"),
        (b"5\nhello\r\n", "the end of a chunk's size is due"),
        (b"5\r5", "a line feed is due"),
        (b"5;a\nhello", "a chunk extension is due"),
        (b"5;a\rb", "a line feed is due"),
        (b"00000000000000005\r\n", "more than 16 digits"),
        (b"10000000000000000\r\n", "more than 16 digits"),
        (b"1\r\nab\r\n", "the end of a chunk is due"),
        (b"1\r\na\n", "the end of a chunk is due"),
        (b"0\r\n\n", "a bare LF"),
        (b"0\r\nA: b\n\r\n", "a bare LF"),
        (b"0\r\nA b\r\n\r\n", "in the trailer section"),
        (b"0\r\n A: b\r\n\r\n", "in the trailer section"),
        (b"0\r\nA: b\x01\r\n\r\n", "a control character"),
        (extensions.as_bytes(), "the chunk extensions have more than"),
        (trailers.as_bytes(), "the trailer section has more than"),
    ];
    for (input, detail) in table {
        let refusal = decode_in(Framing::Chunked, input, &[]).expect_err(&input.escape_ascii().to_string());
        assert_eq!(refusal.kind, RefusalKind::Body);
        assert!(refusal.detail.contains(detail), "{}: {refusal}", input.escape_ascii());
    }
}

#[test]
fn a_cut_body_never_looks_complete() {
    for (framing, input) in [
        (Framing::Length(5), &b"1234"[..]),
        (Framing::Chunked, b"5\r\n1234"),
        (Framing::Chunked, b"5\r\n12345\r\n"),
        (Framing::Chunked, b"0\r\n"),
        (Framing::Chunked, b"0\r\nA: b\r\n"),
    ] {
        assert_eq!(decode_in(framing, input, &[]).unwrap(), None, "{}", input.escape_ascii());
    }
    let (data, ..) = decode_in(Framing::UntilClose, b"all of it", &[]).unwrap().unwrap();
    assert_eq!(data, b"all of it");
}
