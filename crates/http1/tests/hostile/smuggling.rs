//! Messages that one receiver reads to another end than the next one, each with a canary behind it. The canary arrives as a request
//! of its own, or not at all; what is written is read alike by a strict reader and by hyper.
//!
//! The rows follow public collections: RFC 9112 §11.2, "HTTP Desync Attacks" (2019) with the tables of smuggler tools that came
//! from it, "HTTP Request Smuggling in 2020", "Browser-Powered Desync Attacks" (2022), CVE-2023-25690, CVE-2024-27316, and the
//! bare-LF chunk extensions of 2025 (CVE-2025-22871).

use outrigger_http1::{HeadLimits, RefusalKind};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::checks::{self, CANARY, peer};

const LIMITS: HeadLimits = HeadLimits { bytes: 16 * 1024, fields: 100, target: 8 * 1024 };

/// What becomes of the message.
enum Fate {
    /// It is carried with this body, and the canary behind it is a request of its own.
    Carried(&'static str),
    /// It is refused, and nothing behind it is read.
    Refused(RefusalKind),
}

use Fate::{Carried, Refused};
use RefusalKind::{Body, Malformed, TransferCoding};

/// (fields and body behind `POST / HTTP/1.1`, fate)
const ROWS: &[(&str, Fate)] = &[
    // Length and coding.
    ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 6\r\nTransfer-Encoding: identity\r\n\r\nabcdef", Refused(Malformed)),
    ("Content-Length: 6\r\nTransfer-Encoding: xchunked\r\n\r\nabcdef", Refused(Malformed)),
    ("Content-Length: 6\r\nTransfer-Encoding:\r\n\r\nabcdef", Refused(Malformed)),
    ("Content-Length: 6\r\nConnection: Content-Length\r\n\r\nabcdef", Carried("abcdef")),
    (
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Carried("abc"),
    ),
    ("Connection: Host, close\r\nHost: o\r\nContent-Length: 0\r\n\r\n", Carried("")),
    // Names that are nearly the name.
    ("Content-Length: 5\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\nTransfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\nTransfer-Encoding\0: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\n\x0bTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\nX: y\r\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\nX: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n", Carried("0\r\n\r\n")),
    ("Content-Length: 5\r\nTransfer-Encodin\u{212a}: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 5\r\nTransfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Content-Length : 5\r\n\r\nabcde", Refused(Malformed)),
    ("Content_Length: 5\r\nContent-Length: 3\r\n\r\nabc", Carried("abc")),
    ("Content-Length: 3\r\nContent-Length\0: 5\r\n\r\nabc", Refused(Malformed)),
    (": chunked\r\nContent-Length: 3\r\n\r\nabc", Refused(Malformed)),
    // Values that are nearly `chunked`.
    ("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding: chunked\x0b\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding: chunked\x0c\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding: \x7fchunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding: \u{a0}chunked\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: 'chunked'\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding: chunked\r\nTransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(TransferCoding)),
    ("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding: chun\r\n ked\r\n\r\n0\r\n\r\n", Refused(Malformed)),
    ("Transfer-Encoding:chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", Carried("a")),
    ("Transfer-Encoding: \t chunked\t \r\n\r\n1\r\na\r\n0\r\n\r\n", Carried("a")),
    ("tRANSFER-eNCODING: CHUNKED\r\n\r\n1\r\na\r\n0\r\n\r\n", Carried("a")),
    // Lengths.
    ("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", Carried("abc")),
    ("Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", Refused(Malformed)),
    ("Content-Length: 3, 3\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 3,5\r\n\r\nabcde", Refused(Malformed)),
    ("Content-Length: +3\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: -0\r\n\r\n", Refused(Malformed)),
    ("Content-Length: 0x3\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 3.0\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 3e0\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 3_0\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 3 0\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: \x0b3\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: \u{0663}\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length:\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 18446744073709551619\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 3\r\n 0\r\n\r\nabc", Refused(Malformed)),
    ("Content-Length: 003\r\n\r\nabc", Carried("abc")),
    (
        "Content-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: canary\r\n\r\n",
        Carried("GET /smuggled HTTP/1.1\r\nHost: canary\r\n\r\n"),
    ),
    // Chunks.
    ("Transfer-Encoding: chunked\r\n\r\n0\r\n\nGET /smuggled HTTP/1.1\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n0\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3;\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n2;\nxx\r\n4c\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3;a=\"\n\"\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3_0\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3,\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n3 ;x\r\nabc\r\n0 \r\n\r\n", Carried("abc")),
    ("Transfer-Encoding: chunked\r\n\r\n0003\r\nabc\r\n000\r\n\r\n", Carried("abc")),
    ("Transfer-Encoding: chunked\r\n\r\n3;ext=\"a;b\"\r\nabc\r\n0;x\r\n\r\n", Carried("abc")),
    // Trailers.
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n", Carried("")),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\rZ: a\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\n X: y\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nX : y\r\n\r\n", Refused(Body)),
    ("Transfer-Encoding: chunked\r\n\r\n0\r\nGET /smuggled HTTP/1.1\r\n\r\n", Refused(Body)),
    // No body, whatever the bytes behind it are.
    ("Host: o\r\n\r\n", Carried("")),
    ("Host: o\n\n", Carried("")),
    ("Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc", Carried("abc")),
    ("Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: a\r\n\r\n", Carried("")),
];

#[test]
fn a_canary_arrives_whole_or_not_at_all() {
    for (rest, fate) in ROWS {
        let input = [b"POST / HTTP/1.1\r\n", rest.as_bytes(), CANARY].concat();
        for step in [1, 2, 7, usize::MAX] {
            let relayed = checks::requests(LIMITS, step, &input, true);
            let row = rest.escape_debug();
            let canaries = relayed.messages.iter().filter(|message| message.start == b"GET /canary").count();
            match fate {
                Refused(kind) => {
                    assert_eq!(relayed.refusal.as_ref().map(|refusal| refusal.kind), Some(*kind), "{row}");
                    assert!(relayed.messages.is_empty(), "{row}: {:?}", relayed.messages);
                    assert_eq!(relayed.is_cut, *kind == Body, "{row}");
                }
                Carried(body) => {
                    assert_eq!(relayed.refusal, None, "{row}");
                    assert_eq!(relayed.messages[0].body, body.as_bytes(), "{row}");
                    assert_eq!((relayed.messages.len(), canaries), (2, 1), "{row}");
                }
            }
        }
    }
}

#[test]
fn a_version_that_knows_no_chunks_has_none() {
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let relayed = checks::requests(LIMITS, usize::MAX, &[old, CANARY].concat(), true);
    assert_eq!(relayed.refusal.map(|refusal| refusal.kind), Some(Malformed));
    assert!(relayed.out.is_empty());
}

#[test]
fn hyper_reads_plain_messages() {
    let input = b"POST /a HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let seen = peer::requests(&[input, CANARY].concat());
    let found: Vec<_> =
        seen.iter().map(|message| (message.start.as_slice(), message.body.as_slice())).collect();
    assert_eq!(found, [(&b"POST /a"[..], &b"abc"[..]), (b"GET /canary", b"")]);
    let input = b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 2\r\n\r\nok";
    let seen = peer::response(input, false).unwrap();
    assert_eq!((seen.start.as_slice(), seen.body.as_slice()), (&b"200"[..], &b"ok"[..]));
    assert!(peer::response(&input[..input.len() - 1], false).is_none());
}

/// Pieces of messages, of which some make two framings, and some tear one.
const PIECES: &[&str] = &[
    "POST / HTTP/1.1\r\n",
    "GET /x HTTP/1.1\r\n",
    "HEAD / HTTP/1.0\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 5\n",
    "content-length: 0\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length : 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:\tchunked \n",
    "Transfer-Encoding: x, chunked\r\n",
    "Transfer-Encoding: \x0bchunked\r\n",
    "Connection: close\r\n",
    "Connection: Content-Length, Transfer-Encoding\r\n",
    "Host: o\r\n",
    "X: y\rz\r\n",
    " folded: 1\r\n",
    "\r\n",
    "\n",
    "5\r\nabcde\r\n",
    "5;x=\"\n\"\r\nabcde\r\n",
    "5\nabcde\n",
    "0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "0\r\n\n",
    "abcde",
    "\0",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_of_any_pieces_are_read_and_written_as_peers_read_them(
        pieces in vec(select(PIECES), 0..12),
        step in 1_usize..20,
    ) {
        let input = [b"POST / HTTP/1.1\r\n", pieces.concat().as_bytes(), CANARY].concat();
        checks::requests(LIMITS, step, &input, true);
    }

    #[test]
    fn responses_of_any_pieces_are_read_and_written_as_peers_read_them(
        start in select(vec!["HTTP/1.1 200 OK\r\n", "HTTP/1.0 200\r\n", "HTTP/1.1 204 A\r\n", "HTTP/1.1 304 A\n", "HTTP/1.1 103 A\r\n"]),
        pieces in vec(select(PIECES), 0..12),
        setting in any::<u8>(),
    ) {
        let input = [&[setting & !1], start.as_bytes(), pieces.concat().as_bytes()].concat();
        checks::response(&input, true);
    }
}
