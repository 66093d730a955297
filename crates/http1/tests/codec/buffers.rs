//! What is read and not yet consumed; what is to be written.

use outrigger_http1::{HeadKind, HeadParser, Inbox, Outbox};

use crate::support::LIMITS;

/// Puts `bytes` into the inbox, as a read would.
fn read(inbox: &mut Inbox, bytes: &[u8]) {
    inbox.space()[..bytes.len()].copy_from_slice(bytes);
    inbox.advance(bytes.len());
}

#[test]
fn an_inbox_keeps_its_data_in_order_when_it_makes_room() {
    let mut inbox = Inbox::new();
    assert!(inbox.space().is_empty() && inbox.take_buffer().is_none());
    inbox.give_buffer(vec![0; 8]);
    read(&mut inbox, b"abcdefgh");
    assert!(inbox.space().is_empty(), "it is full");
    inbox.consume(5);
    assert_eq!((inbox.data(), inbox.len()), (&b"fgh"[..], 3));
    assert_eq!(inbox.space().len(), 5, "the data moves to the front");
    read(&mut inbox, b"ij");
    assert_eq!(inbox.data(), b"fghij");
    assert!(inbox.take_buffer().is_none(), "it holds data");
    assert_eq!(inbox.give_buffer(vec![0; 2]).len(), 8);
    assert_eq!((inbox.data(), inbox.capacity()), (&b"fghij"[..], 5), "a buffer that is too small is grown");
    inbox.give_buffer(vec![0; 16]);
    assert_eq!((inbox.space().len(), inbox.data()), (11, &b"fghij"[..]));
    inbox.consume(99);
    assert!(inbox.is_empty());
    assert_eq!(inbox.space().len(), 16, "an empty inbox offers all of its buffer");
    inbox.advance(99);
    assert_eq!(inbox.len(), 16, "no more is data than there was space");
    inbox.consume(16);
    assert_eq!(inbox.take_buffer().map(|buffer| buffer.len()), Some(16));
    assert_eq!(inbox.capacity(), 0);
}

#[test]
fn a_head_takes_the_buffer_and_leaves_what_follows_in_a_spare_one() {
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; 64]);
    read(&mut inbox, b"xGET / HTTP/1.1\r\nA: b\r\n\r\nbody");
    inbox.consume(1);
    let mut parser = HeadParser::new(HeadKind::Request, LIMITS, Vec::new());
    let head = parser.parse(&mut inbox, || vec![0; 32]).unwrap().unwrap();
    assert_eq!((head.target(), head.value(&head.fields()[0])), (&b"/"[..], &b"b"[..]));
    assert_eq!((inbox.data(), inbox.capacity()), (&b"body"[..], 32));
    let (buffer, fields) = head.into_parts();
    assert_eq!((buffer.len(), fields.len()), (64, 0));
    assert!(fields.capacity() > 0, "its list is used again");
    // Nothing follows: no spare buffer is asked for.
    inbox.consume(4);
    read(&mut inbox, b"GET / HTTP/1.1\r\n\r\n");
    let asked = || -> Vec<u8> { panic!("a spare buffer is asked for") };
    assert!(parser.parse(&mut inbox, asked).unwrap().is_some());
    assert_eq!(inbox.capacity(), 0);
}

#[test]
fn a_head_before_much_of_a_body_is_copied_and_leaves_the_buffer() {
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; 256]);
    read(&mut inbox, b"POST / HTTP/1.1\r\nA: b\r\n\r\n");
    read(&mut inbox, &[b'x'; 100]);
    let mut parser = HeadParser::new(HeadKind::Request, LIMITS, Vec::new());
    let head = parser.parse(&mut inbox, || vec![0; 8]).unwrap().unwrap();
    assert_eq!((head.method(), head.value(&head.fields()[0])), (&b"POST"[..], &b"b"[..]));
    assert_eq!((inbox.data(), inbox.capacity()), (&[b'x'; 100][..], 256));
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
