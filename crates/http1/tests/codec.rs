//! The codec against tables, models and another parser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use outrigger_http1::{
    BodyDecoder, Edits, Framing, Head, HeadKind, HeadLimits, HeadParser, Inbox, Name, Outbox, Piece, Refusal,
    RefusalKind, request_framing, response_framing, writer,
};
use proptest::{collection::vec, prelude::*, sample::select};

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 20, target: 2048 };
/// Limits that short inputs meet.
const SMALL: HeadLimits = HeadLimits { bytes: 64, fields: 3, target: 8 };

/// Parses `input` in reads that end at `cuts`; the head and what is left in the inbox.
fn parse_in(kind: HeadKind, input: &[u8], cuts: &[usize]) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
    parse_within(LIMITS, kind, input, cuts)
}

fn parse_within(
    limits: HeadLimits,
    kind: HeadKind,
    input: &[u8],
    cuts: &[usize],
) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; 8192]);
    let mut parser = HeadParser::new(kind, limits, Vec::new());
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let mut from = 0;
    let mut parsed = None;
    for cut in cuts {
        let part = &input[from..cut];
        if inbox.capacity() == 0 {
            inbox.give_buffer(vec![0; 8192]);
        }
        inbox.space()[..part.len()].copy_from_slice(part);
        inbox.advance(part.len());
        from = cut;
        if parsed.is_none() {
            parsed = parser.parse(&mut inbox, || vec![0; 8192])?;
        }
    }
    Ok(parsed.map(|head| (head, inbox.data().to_vec())))
}

fn request(input: &[u8]) -> Result<Head, Refusal> {
    Ok(parse_in(HeadKind::Request, input, &[])?.expect("a whole head").0)
}

fn response(input: &[u8]) -> Result<Head, Refusal> {
    Ok(parse_in(HeadKind::Response, input, &[])?.expect("a whole head").0)
}

fn lines(head: &Head) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    head.fields().iter().map(|field| (text(head.name(field)), text(head.value(field)))).collect()
}

fn written(head: &Head, edits: &Edits<'_>, framing: Framing) -> String {
    let mut outbox = Outbox::new();
    writer::write_head(head, edits, framing, &mut outbox);
    outbox.pending().escape_ascii().to_string().replace("\\r\\n", "\n")
}

#[test]
fn every_name_is_recognised_in_any_case() {
    for (name, text) in Name::ALL {
        assert_eq!(Name::recognize(text.as_bytes()), *name, "{text}");
        assert_eq!(Name::recognize(text.to_ascii_uppercase().as_bytes()), *name, "{text}");
        assert_eq!(name.as_str(), *text);
    }
    assert_eq!(Name::recognize(b"x-nothing"), Name::Other);
    assert_eq!(Name::Other.as_str(), "");
}

#[test]
fn a_request_keeps_case_order_and_bytes() {
    let head =
        request(b"pAtCH /a\"<>`\xff?#x HTTP/1.1\r\nhOsT: a\r\nX-B:  1 \r\nx-b:2\r\nEmpty:\r\n\r\n").unwrap();
    assert_eq!((head.method(), head.target(), head.minor()), (&b"pAtCH"[..], &b"/a\"<>`\xff?#x"[..], 1));
    let expected = [("hOsT", "a"), ("X-B", "1"), ("x-b", "2"), ("Empty", "")];
    assert_eq!(lines(&head), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn bytes_behind_a_head_stay_in_the_inbox() {
    let input = b"\r\n\nGET / HTTP/1.0\nA: b\n\nbody";
    let (head, rest) = parse_in(HeadKind::Request, input, &[]).unwrap().unwrap();
    assert_eq!((head.minor(), rest.as_slice()), (0, &b"body"[..]));
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    use RefusalKind::{HeadTooLarge, Http2Preface, Malformed, TargetTooLong, Version};
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(2048));
    let endless = format!("GET /{}", "a".repeat(3000));
    let large = format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(4096));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(21));
    let table: &[(&[u8], RefusalKind, &str)] = &[
        (b"\x16\x03\x01", Malformed, "begins with the byte `\\x16`"),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n", Malformed, "an empty line"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2Preface, "HTTP/2"),
        (b"GET / HTTP/2.0\r\n\r\n", Version, "not HTTP/1"),
        (b"GET / HTTP/0.9\r\n\r\n", Version, "not HTTP/1"),
        (b"GET / http/1.1\r\n\r\n", Malformed, "not a version"),
        (b"GET / HTTP/1.1 \r\n\r\n", Malformed, "not a version"),
        (b"GET /\r\n\r\n", Malformed, "no version"),
        (b"GET\r\n\r\n", Malformed, "no target"),
        (b"GET  / HTTP/1.1\r\n\r\n", Malformed, "two spaces"),
        (b"GE(T / HTTP/1.1\r\n\r\n", Malformed, "the method holds the byte `(`"),
        (b"GET /\x01 HTTP/1.1\r\n\r\n", Malformed, "the target holds the byte `\\x01`"),
        (b"GET /a\tb HTTP/1.1\r\n\r\n", Malformed, "the target holds the byte `\\t`"),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", Malformed, "between the field name `A` and its colon"),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", Malformed, "folded"),
        (b"GET / HTTP/1.1\r\n c\r\n\r\n", Malformed, "folded"),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", Malformed, "no colon"),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", Malformed, "no name"),
        (b"GET / HTTP/1.1\r\nA\xe4: b\r\n\r\n", Malformed, "a field name holds the byte `\\xe4`"),
        (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Malformed, "the value of `A` holds the byte `\\r`"),
        (b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n", Malformed, "the value of `A` holds the byte `\\x00`"),
        (b"GET / HTTP/1.1\r\nHost: a\x01\r\n\r\n", Malformed, "the value of `Host` holds the byte `\\x01`"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", Malformed, "holds the byte `\\x0b`"),
        (long.as_bytes(), TargetTooLong, "more than 2048 bytes"),
        (endless.as_bytes(), TargetTooLong, "more than 2048 bytes"),
        (large.as_bytes(), HeadTooLarge, "more than 4096 bytes"),
        (many.as_bytes(), HeadTooLarge, "more than 20 fields"),
    ];
    for (input, kind, detail) in table {
        let refusal = parse_in(HeadKind::Request, input, &[]).expect_err(&input.escape_ascii().to_string());
        assert_eq!(refusal.kind, *kind, "{}", input.escape_ascii());
        assert!(refusal.detail.contains(detail), "{}: {refusal}", input.escape_ascii());
    }
}

#[test]
fn controls_are_tolerated_and_reported_where_nothing_depends_on_them() {
    let head = request(b"GET / HTTP/1.1\r\nX: a\x01\tb\r\n\r\n").unwrap();
    assert!(head.has_controls());
    assert_eq!(lines(&head)[0].1, "a\\x01\\tb");
}

#[test]
fn a_response_is_read_tolerantly() {
    let head = response(b"HTTP/1.1 200\r\nA \t: b\r\nFold: 1 \r\n  2\n\t3\r\nC: d\r\n\r\n").unwrap();
    assert_eq!((head.status(), head.reason()), (200, &b""[..]));
    let expected = [("A", "b"), ("Fold", "1      2  3"), ("C", "d")];
    let lines = lines(&head);
    for ((name, value), (expected_name, expected_value)) in lines.iter().zip(expected) {
        assert_eq!(name, expected_name);
        let squeezed = |text: &str| text.replace("\\t", " ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(value), squeezed(expected_value));
    }
    assert_eq!(lines.len(), 3);
    let phrase = response(b"HTTP/1.0 404 n\xf6 such\tthing\r\n\r\n").unwrap();
    assert_eq!((phrase.reason(), phrase.minor()), (&b"n\xf6 such\tthing"[..], 0));
}

#[test]
fn what_is_wrong_with_a_response_is_named() {
    let table: &[(&[u8], &str)] = &[
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", "an empty line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "no status of three digits"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "no status of three digits"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "no status of three digits"),
        (b"HTTP/1.1  200 OK\r\n\r\n", "no status of three digits"),
        (b"ICY 200 OK\r\n\r\n", "not a version"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "not HTTP/1"),
        (b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n", "after the status line begins with white space"),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n\0\r\n\r\n", "a field name holds the byte"),
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n 2\0\r\n\r\n", "holds the byte `\\x00`"),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", "the reason phrase holds the byte `\\r`"),
    ];
    for (input, detail) in table {
        let refusal = parse_in(HeadKind::Response, input, &[]).expect_err(&input.escape_ascii().to_string());
        assert!(refusal.detail.contains(detail), "{}: {refusal}", input.escape_ascii());
    }
}

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
    ];
    for (text, is_head, expected) in table {
        let head = response(format!("HTTP/{text}\r\n").as_bytes()).unwrap();
        let found = response_framing(&head, *is_head).map(|one| (one.framing, one.is_odd)).map_err(|_| ());
        assert_eq!(found, *expected, "{text}");
    }
}

#[test]
fn a_head_is_written_as_it_came_without_what_ends_at_this_hop() {
    let head = request(
        b"GET /x HTTP/1.1\r\nB:  1\r\nConnection: keep-alive, x-own , Host\r\nHost: a\r\nX-Own: 2\r\n\
          Keep-Alive: 5\r\nTE: trailers\r\nC:3\nExpect: 100-continue\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        written(&head, &Edits::default(), Framing::None),
        "GET /x HTTP/1.1\nB:  1\nHost: a\nC: 3\nExpect: 100-continue\n\n"
    );
    let edits = Edits {
        target: Some(b"/y"),
        host: Some(b"orders"),
        drop: &[Name::Expect],
        add: b"Via: 1.1 o\r\n",
        minor: Some(0),
    };
    assert_eq!(
        written(&head, &edits, Framing::Length(3)),
        "GET /y HTTP/1.0\nB:  1\nHost: orders\nC: 3\nContent-Length: 3\nVia: 1.1 o\n\n"
    );
    let bare = request(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(
        written(&bare, &Edits { host: Some(b"a"), ..Edits::default() }, Framing::None),
        "GET / HTTP/1.0\nHost: a\n\n"
    );
}

#[test]
fn lengths_are_written_once_and_only_where_they_hold() {
    let twice =
        response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nA: b\r\ncontent-length: 5\r\n\r\n").unwrap();
    assert_eq!(
        written(&twice, &Edits::default(), Framing::Length(5)),
        "HTTP/1.1 200 OK\nContent-Length: 5\nA: b\n\n"
    );
    let odd =
        response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(
        written(&odd, &Edits::default(), Framing::Chunked),
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"
    );
    let unmodified = response(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n").unwrap();
    assert_eq!(
        written(&unmodified, &Edits::default(), Framing::None),
        "HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n"
    );
}

/// Data, trailers, and what follows a body.
type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Decodes a whole body in reads that end at `cuts`: data, trailers, and what follows.
fn decode_in(framing: Framing, input: &[u8], cuts: &[usize]) -> Result<Option<Decoded>, Refusal> {
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; input.len().max(1)]);
    let mut decoder = BodyDecoder::new(framing);
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (input.len() + 1)).collect();
    cuts.push(input.len());
    cuts.sort_unstable();
    let (mut from, mut data, mut ended) = (0, Vec::new(), false);
    for cut in cuts {
        let part = &input[from..cut];
        inbox.space()[..part.len()].copy_from_slice(part);
        inbox.advance(part.len());
        from = cut;
        while !ended {
            match decoder.decode(&mut inbox)? {
                Piece::Data(n) => {
                    data.extend_from_slice(&inbox.data()[..n]);
                    decoder.consume(&mut inbox, n);
                }
                Piece::NeedMore => break,
                Piece::End => ended = true,
            }
        }
    }
    if !ended && decoder.close().is_err() {
        return Ok(None);
    }
    Ok(Some((data, decoder.trailers().to_vec(), inbox.data().to_vec())))
}

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

#[test]
fn an_outbox_counts_what_was_accepted() {
    let mut outbox = Outbox::new();
    outbox.push(b"abc");
    outbox.advance(2);
    outbox.push(b"de");
    assert_eq!(outbox.pending(), b"cde");
    outbox.give_buffer(Vec::with_capacity(64));
    assert_eq!(outbox.pending(), b"cde");
    assert!(outbox.take_buffer().is_none());
    outbox.advance(9);
    assert!(outbox.is_empty() && outbox.take_buffer().is_some());
}

/// Bytes near valid HTTP, so that both outcomes happen.
fn almost_http(start: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let pieces = select(vec![
        "Host: a\r\n",
        "A: b\r\n",
        "A:b\n",
        "A : b\r\n",
        " fold\r\n",
        "\tx\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: a, close\r\n",
        "A\r\n",
        "A: \u{1}\r\n",
        "A: \0\r\n",
        "\r\n",
        "\n",
        "B: c\rd\r\n",
        "body",
        "GET / HTTP/1.1\r\n",
        ":",
        "x",
    ]);
    (select(start.to_vec()), vec(pieces, 0..8), vec(any::<u8>(), 0..3), any::<bool>()).prop_map(
        |(start, pieces, noise, ends)| {
            let mut all = start.as_bytes().to_vec();
            for piece in pieces {
                all.extend_from_slice(piece.as_bytes());
            }
            if noise.len() == 2 {
                all.extend_from_slice(&noise);
            }
            if ends {
                all.extend_from_slice(b"\r\n\r\n");
            }
            all
        },
    )
}

const REQUESTS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "\r\nPOST /a?b HTTP/1.0\n",
    "GET /\u{e4} HTTP/1.1\r\n",
    "GET HTTP/1.1\r\n",
    "\n\n\nG",
    "",
];
const RESPONSES: &[&str] =
    &["HTTP/1.1 200 OK\r\n", "HTTP/1.0 304\n", "HTTP/1.1 99 x\r\n", "HTTP/1.1 101 \u{e4}\r\n", ""];

type Outcome = Result<Option<(Vec<(String, String)>, Vec<u8>)>, RefusalKind>;

fn outcome(limits: HeadLimits, kind: HeadKind, input: &[u8], cuts: &[usize]) -> Outcome {
    match parse_within(limits, kind, input, cuts) {
        Ok(parsed) => Ok(parsed.map(|(head, rest)| (lines(&head), rest))),
        Err(refusal) => Err(refusal.kind),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_of_a_head_gives_the_same_result(
        input in prop_oneof![almost_http(REQUESTS), vec(any::<u8>(), 0..60)],
        cuts in vec(any::<usize>(), 0..6),
        limits in select(vec![LIMITS, SMALL]),
    ) {
        prop_assert_eq!(outcome(limits, HeadKind::Request, &input, &cuts), outcome(limits, HeadKind::Request, &input, &[]));
        let bytes: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(outcome(limits, HeadKind::Request, &input, &bytes), outcome(limits, HeadKind::Request, &input, &[]));
    }

    #[test]
    fn any_split_of_a_response_gives_the_same_result(
        input in almost_http(RESPONSES),
        cuts in vec(any::<usize>(), 0..6),
        limits in select(vec![LIMITS, SMALL]),
    ) {
        prop_assert_eq!(outcome(limits, HeadKind::Response, &input, &cuts), outcome(limits, HeadKind::Response, &input, &[]));
    }

    #[test]
    fn what_is_written_is_read_again_as_the_same_fields(input in almost_http(REQUESTS)) {
        if let Ok(Some((head, _))) = parse_in(HeadKind::Request, &input, &[]) {
            let mut outbox = Outbox::new();
            writer::write_head(&head, &Edits::default(), Framing::None, &mut outbox);
            let (again, rest) = parse_in(HeadKind::Request, outbox.pending(), &[]).unwrap().unwrap();
            prop_assert!(rest.is_empty());
            let passed: Vec<_> = head.fields().iter().filter(|field| !field.is_hop_by_hop)
                .map(|field| (head.name(field).to_vec(), head.value(field).to_vec())).collect();
            let read: Vec<_> = again.fields().iter()
                .map(|field| (again.name(field).to_vec(), again.value(field).to_vec())).collect();
            // The writer folds equal lengths into one.
            let is_length = |(name, _): &(Vec<u8>, Vec<u8>)| name.eq_ignore_ascii_case(b"content-length");
            let mut seen = false;
            let expected: Vec<_> = passed.into_iter()
                .filter(|field| !is_length(field) || !std::mem::replace(&mut seen, true)).collect();
            prop_assert_eq!(read, expected);
            prop_assert_eq!((again.method(), again.target()), (head.method(), head.target()));
        }
    }

    #[test]
    fn what_httparse_accepts_is_read_alike(input in almost_http(REQUESTS)) {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut other = httparse::Request::new(&mut fields);
        if let (Ok(httparse::Status::Complete(len)), Ok(Some((head, rest)))) =
            (other.parse(&input), parse_in(HeadKind::Request, &input, &[]))
        {
            prop_assert_eq!(&input[len..], rest.as_slice());
            prop_assert_eq!(other.method.unwrap().as_bytes(), head.method());
            prop_assert_eq!(other.path.unwrap().as_bytes(), head.target());
            let ours: Vec<_> = head.fields().iter().map(|field| (head.name(field), head.value(field))).collect();
            let theirs: Vec<_> = other.headers.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
            prop_assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn any_split_of_chunks_gives_what_was_encoded(
        chunks in vec(vec(any::<u8>(), 1..40), 0..6),
        rest in vec(any::<u8>(), 0..10),
        cuts in vec(any::<usize>(), 0..9),
    ) {
        let mut outbox = Outbox::new();
        for chunk in &chunks {
            writer::write_chunk_start(chunk.len(), &mut outbox);
            outbox.push(chunk);
            writer::write_chunk_end(&mut outbox);
        }
        writer::write_last_chunk(b"A: b\r\n", &mut outbox);
        let mut input = outbox.pending().to_vec();
        input.extend_from_slice(&rest);
        let (data, trailers, left) = decode_in(Framing::Chunked, &input, &cuts).unwrap().unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(trailers, b"A: b\r\n");
        prop_assert_eq!(left, rest);
    }

    #[test]
    fn any_split_of_broken_chunks_gives_the_same_result(
        input in vec(select(vec!["5\r\n", "hello", "\r\n", "0\r\n", "\n", "a;x\r\n", "A: b\r\n", "zz", " ", "1\r\nx\r\n"]), 0..8),
        cuts in vec(any::<usize>(), 0..9),
    ) {
        let input = input.concat();
        let kind = |result: Result<_, Refusal>| result.map_err(|refusal| refusal.detail);
        prop_assert_eq!(
            kind(decode_in(Framing::Chunked, input.as_bytes(), &cuts)),
            kind(decode_in(Framing::Chunked, input.as_bytes(), &[]))
        );
    }
}
