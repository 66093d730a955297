//! What holds for any input.

use outrigger_http1::{
    Edits, Field, Framing, Head, HeadKind, HeadLimits, Name, Outbox, Refusal, RefusalKind, request_framing,
    writer,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::support::{LIMITS, SMALL, decode_in, lines, parse_in, parse_within};

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
            let Ok(framing) = request_framing(&head) else { return Ok(()) };
            let mut outbox = Outbox::new();
            writer::write_head(&head, &Edits::default(), framing, &mut outbox);
            let (again, rest) = parse_in(HeadKind::Request, outbox.pending(), &[]).unwrap().unwrap();
            prop_assert!(rest.is_empty());
            let fields = |head: &Head| -> Vec<_> {
                // The writer folds equal lengths into one, and writes the transfer coding at the end.
                let mut has_length = false;
                let passes = |field: &&Field| match field.known {
                    Name::ContentLength => !std::mem::replace(&mut has_length, true),
                    _ => !field.is_hop_by_hop,
                };
                head.fields().iter().filter(passes)
                    .map(|field| (head.name(field).to_vec(), head.value(field).to_vec())).collect()
            };
            prop_assert_eq!(fields(&again), fields(&head));
            prop_assert_eq!(request_framing(&again).unwrap(), framing);
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
