//! What the codec costs: one request and one response, each read, framed and written again, as often as the argument says.
//!
//! The figure is the slope between two runs, in instructions, which noise cannot shake:
//!
//! ```sh
//! cargo build --release --package outrigger-http1 --example cost
//! for n in 1000 11000; do valgrind --tool=callgrind --callgrind-out-file=/dev/null target/release/examples/cost $n; done
//! ```
#![allow(clippy::expect_used, reason = "an example fails by panicking")]

use std::hint::black_box;

use outrigger_http1::{
    Edits, Field, HeadKind, HeadLimits, HeadParser, Inbox, Outbox, request_framing, response_framing, writer,
};

const REQUEST: &[u8] = b"GET /api/orders/4711?expand=items HTTP/1.1\r\nHost: orders\r\nUser-Agent: curl/7.88.1\r\n\
    Accept: application/json, text/plain, */*\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 29 Nov 2026 11:13:54 GMT\r\n\
    Content-Type: application/octet-stream\r\nContent-Length: 1024\r\nConnection: keep-alive\r\n\
    Accept-Ranges: bytes\r\n\r\n";
const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, fields: 100, target: 32 * 1024 };

fn main() {
    let mut args = std::env::args().skip(1);
    let rounds: usize = args.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let side = args.next().unwrap_or_default();
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; 16 * 1024]);
    let mut outbox = Outbox::new();
    outbox.give_buffer(Vec::with_capacity(16 * 1024));
    let mut fields = Vec::new();
    for _ in 0..rounds {
        if side != "response" {
            fields = request(&mut inbox, &mut outbox, fields);
        }
        if side != "request" {
            fields = response(&mut inbox, &mut outbox, fields);
        }
    }
}

#[inline(never)]
fn request(inbox: &mut Inbox, outbox: &mut Outbox, fields: Vec<Field>) -> Vec<Field> {
    fill(inbox, REQUEST);
    let mut parser = HeadParser::new(HeadKind::Request, LIMITS, fields);
    let head = parser.parse(inbox, Vec::new).expect("valid").expect("complete");
    let framing = request_framing(&head).expect("no body");
    black_box(head.wants_close());
    let edits = Edits { add: b"Via: 1.1 outrigger\r\n", ..Edits::default() };
    writer::write_head(&head, &edits, framing, outbox);
    outbox.advance(black_box(outbox.pending()).len());
    let (buffer, fields) = head.into_parts();
    inbox.give_buffer(buffer);
    fields
}

#[inline(never)]
fn response(inbox: &mut Inbox, outbox: &mut Outbox, fields: Vec<Field>) -> Vec<Field> {
    fill(inbox, RESPONSE);
    let mut parser = HeadParser::new(HeadKind::Response, LIMITS, fields);
    let head = parser.parse(inbox, Vec::new).expect("valid").expect("complete");
    let framing = response_framing(&head, false).expect("a length").framing;
    black_box(head.wants_close());
    writer::write_head(&head, &Edits::default(), framing, outbox);
    outbox.advance(black_box(outbox.pending()).len());
    let (buffer, fields) = head.into_parts();
    inbox.give_buffer(buffer);
    fields
}

/// What a read from a socket does.
fn fill(inbox: &mut Inbox, bytes: &[u8]) {
    inbox.space()[..bytes.len()].copy_from_slice(bytes);
    inbox.advance(bytes.len());
}
