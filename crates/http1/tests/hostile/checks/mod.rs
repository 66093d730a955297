//! What holds for any input. Used by the fuzz targets (`fuzz/`) and by the tests that replay their corpus.

pub(crate) mod peer;
pub(crate) mod relay;
pub(crate) mod strict;

use outrigger_http1::{
    BodyDecoder, Edits, Field, Framing, Head, HeadKind, HeadLimits, HeadParser, Inbox, Name, NameSet, Outbox,
    Piece, Refusal, RefusalKind, request_framing, response_framing, writer,
};

use relay::{Message, Relayed, feed};

/// A request that follows an input on its connection: it arrives whole, or not at all.
pub(crate) const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: canary\r\n\r\n";

/// The first byte chooses limits and splits; the rest is the message.
fn settings(input: &[u8]) -> Option<(HeadLimits, usize, &[u8])> {
    let (&first, message) = input.split_first()?;
    let limits = if first & 1 == 0 {
        HeadLimits { bytes: 16 * 1024, fields: 100, target: 8 * 1024 }
    } else {
        HeadLimits { bytes: 96, fields: 4, target: 16 }
    };
    Some((limits, usize::from(first >> 1).max(1), message))
}

fn parse(
    kind: HeadKind,
    limits: HeadLimits,
    step: usize,
    message: &[u8],
) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
    let mut inbox = Inbox::new();
    let mut parser = HeadParser::new(kind, limits, Vec::new());
    let mut head = None;
    for part in message.chunks(step) {
        feed(&mut inbox, part);
        if head.is_none() {
            head = parser.parse(&mut inbox, Vec::new)?;
        }
    }
    Ok(head.map(|head| (head, inbox.data().to_vec())))
}

fn fields(head: &Head) -> Vec<(Vec<u8>, Vec<u8>)> {
    head.fields().iter().map(|field| (head.name(field).to_vec(), head.value(field).to_vec())).collect()
}

/// A head is the same however it arrives; what is written is read again as the same message.
fn head(kind: HeadKind, input: &[u8]) -> Option<Head> {
    let (limits, step, message) = settings(input)?;
    let whole = parse(kind, limits, usize::MAX, message);
    let parts = parse(kind, limits, step, message);
    match (&whole, &parts) {
        (Ok(Some((one, left))), Ok(Some((other, other_left)))) => {
            assert_eq!((fields(one), left), (fields(other), other_left), "split into reads of {step}");
        }
        (Ok(None), Ok(None)) => {}
        (Err(one), Err(other)) => assert_eq!(one.kind, other.kind, "split into reads of {step}"),
        _ => panic!("split into reads of {step}: {whole:?} and {parts:?}"),
    }
    let (head, _) = whole.ok()??;
    for field in head.fields() {
        assert!(!head.value(field).iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')));
        assert_eq!(field.known, Name::recognize(head.name(field)));
    }
    let mut outbox = Outbox::new();
    writer::write_head(&head, &Edits::default(), Framing::None, &mut outbox);
    let again = parse(
        kind,
        HeadLimits { bytes: 1 << 20, fields: 200, target: 1 << 20 },
        usize::MAX,
        outbox.pending(),
    );
    let (again, rest) = again.expect("what is written is valid").expect("and complete");
    assert!(rest.is_empty(), "nothing stands behind a written head");
    // What announces chunks in a response to HEAD is written anew.
    let ends_here = |field: &Field| field.is_hop_by_hop && field.known != Name::TransferEncoding;
    assert!(!again.fields().iter().any(ends_here), "hop-by-hop fields end here");
    assert_eq!(
        (again.method(), again.target(), again.status()),
        (head.method(), head.target(), head.status())
    );
    if kind == HeadKind::Request {
        edits_are_written(&head);
    }
    Some(head)
}

/// Of an edited head the changes are written, each once, and nothing else is changed.
fn edits_are_written(head: &Head) {
    let edits = Edits {
        target: Some(b"/t"),
        host: Some(b"o"),
        drop: NameSet::of([Name::Via, Name::Expect]),
        remove: &[],
        add: b"Via: 1.1 o\r\n",
        minor: Some(1),
    };
    let mut outbox = Outbox::new();
    writer::write_head(head, &edits, Framing::Length(7), &mut outbox);
    let limits = HeadLimits { bytes: 1 << 20, fields: 200, target: 1 << 20 };
    let (again, rest) = parse(HeadKind::Request, limits, usize::MAX, outbox.pending()).unwrap().unwrap();
    assert!(rest.is_empty());
    assert_eq!((again.method(), again.target(), again.minor()), (head.method(), &b"/t"[..], 1));
    assert_eq!(again.values(Name::Host).collect::<Vec<_>>(), [b"o"]);
    assert_eq!(again.values(Name::Via).collect::<Vec<_>>(), [b"1.1 o"]);
    assert_eq!(request_framing(&again), Ok(Framing::Length(7)));
    let edited = [Name::Host, Name::Via, Name::Expect, Name::ContentLength];
    let others = |head: &Head| -> Vec<(Vec<u8>, Vec<u8>)> {
        let passing = |field: &&Field| !field.is_hop_by_hop && !edited.contains(&field.known);
        head.fields()
            .iter()
            .filter(passing)
            .map(|field| (head.name(field).to_vec(), head.value(field).to_vec()))
            .collect()
    };
    assert_eq!(others(&again), others(head));
}

/// A request: one framing or a refusal; what httparse accepts is read alike.
pub(crate) fn request(input: &[u8], with_hyper: bool) {
    if let Some((limits, step, message)) = settings(input) {
        requests(limits, step, &[message, CANARY].concat(), with_hyper);
    }
    let Some(head) = head(HeadKind::Request, input) else { return };
    if let Ok(framing) = request_framing(&head) {
        let has_length = head.first(Name::ContentLength).is_some();
        let has_coding = head.first(Name::TransferEncoding).is_some();
        assert!(!(has_length && has_coding), "both passed");
        assert_eq!(framing == Framing::Chunked, has_coding);
        assert_ne!(framing, Framing::UntilClose, "a request never ends with its connection");
    }
    let message = &input[1..];
    let mut list = [httparse::EMPTY_HEADER; 128];
    let mut other = httparse::Request::new(&mut list);
    if let Ok(httparse::Status::Complete(_)) = other.parse(message) {
        assert_eq!(other.method.map(str::as_bytes), Some(head.method()));
        assert_eq!(other.path.map(str::as_bytes), Some(head.target()));
        let theirs: Vec<_> = other
            .headers
            .iter()
            .map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec()))
            .collect();
        assert_eq!(theirs, fields(&head));
    }
}

/// A response: one framing or a refusal; what is passed on is read alike by a strict reader and by hyper.
pub(crate) fn response(input: &[u8], with_hyper: bool) {
    if let Some(head) = head(HeadKind::Response, input) {
        for is_head in [false, true] {
            if let Ok(found) = response_framing(&head, is_head) {
                let has_both = head.has(Name::ContentLength) && head.has(Name::TransferEncoding);
                assert_eq!(found.is_odd, has_both && found.framing != Framing::Tunnel);
                assert!(!is_head || matches!(found.framing, Framing::None | Framing::Tunnel));
            }
        }
    }
    let Some((limits, step, message)) = settings(input) else { return };
    let is_head = input.len().is_multiple_of(8);
    let relayed = relay::relay(HeadKind::Response, limits, step, message, is_head);
    passes_on_exactly(&relayed, false, is_head);
    if with_hyper {
        responses_are_read_alike(message, &relayed, is_head);
    }
}

/// Requests, and a canary behind them, on one connection: what is passed on is read alike by a strict reader and by hyper.
pub(crate) fn requests(limits: HeadLimits, step: usize, input: &[u8], with_hyper: bool) -> Relayed {
    let relayed = relay::relay(HeadKind::Request, limits, step, input, false);
    passes_on_exactly(&relayed, true, false);
    if with_hyper {
        requests_are_read_alike(input, &relayed);
    }
    relayed
}

/// What is written says the same messages in the plainest form, and nothing more.
fn passes_on_exactly(relayed: &Relayed, is_request: bool, is_head: bool) {
    let (messages, rest) = strict::read(is_request, is_head, &relayed.out);
    assert_eq!(messages, relayed.messages);
    assert_eq!(rest.is_empty(), !relayed.is_cut, "{}", rest.escape_ascii());
}

/// hyper reads the input as it is read here, as far as both accept it; and what is written as the same messages.
fn requests_are_read_alike(input: &[u8], relayed: &Relayed) {
    let theirs = peer::requests(input);
    for (ours, theirs) in relayed.messages.iter().zip(&theirs) {
        assert!(is_same(ours, theirs), "{ours:?} is {theirs:?} for hyper");
    }
    assert!(
        relayed.refusal.is_some() || theirs.len() <= relayed.messages.len(),
        "hyper sees {theirs:?}, where {:?} is all",
        relayed.messages
    );
    let theirs = peer::requests(&relayed.out);
    assert!(theirs.len() <= relayed.messages.len(), "hyper sees more in what is written: {theirs:?}");
    for (ours, theirs) in relayed.messages.iter().zip(&theirs) {
        assert!(is_same(ours, theirs), "{ours:?} is written, and is {theirs:?} for hyper");
    }
}

/// The same of responses: of their first final one.
fn responses_are_read_alike(input: &[u8], relayed: &Relayed, is_head: bool) {
    let Some(ours) = relayed.messages.iter().find(|message| !message.start.starts_with(b"1")) else { return };
    for (bytes, what) in [(input, "is"), (relayed.out.as_slice(), "is written, and is")] {
        if let Some(theirs) = peer::response(bytes, is_head) {
            assert!(is_same(ours, &theirs), "{ours:?} {what} {theirs:?} for hyper");
        }
    }
}

/// Whether hyper's message is this one. It knows no order of fields of different names, no case of names, and of the target it
/// keeps what is valid; fields of one hop and those that frame the body are not compared.
fn is_same(ours: &Message, theirs: &Message) -> bool {
    let comparable = |message: &Message| {
        let mut fields: Vec<_> = message
            .fields
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .filter(|(name, _)| ours.fields.iter().any(|(our, _)| our.eq_ignore_ascii_case(name)))
            .filter(|(name, _)| !matches!(name.as_slice(), b"content-length" | b"transfer-encoding"))
            .collect();
        fields.sort();
        fields
    };
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b' ' | b'?' | b'=');
    let is_same_start = ours.start == theirs.start || !ours.start.iter().all(is_plain);
    is_same_start && ours.body == theirs.body && comparable(ours) == comparable(theirs)
}

/// A chunked body against a model that reads it in one piece.
pub(crate) fn chunked(input: &[u8]) {
    let Some((_, step, message)) = settings(input) else { return };
    let whole = decode(message, usize::MAX);
    let parts = decode(message, step);
    assert_eq!(whole, parts, "split into reads of {step}");
    match (whole, model(message)) {
        (Ok(Some((data, left))), Some((expected, expected_left))) => {
            assert_eq!((data, left), (expected, expected_left));
        }
        (Ok(Some(_)), None) => panic!("accepted what the model refuses"),
        (Err(refusal), Some(_)) => {
            // Bounds, and trailers that are no fields, are not the model's.
            let is_bound = refusal.contains("more than") || refusal.contains("trailer section");
            assert!(is_bound, "refused what the model accepts: {refusal}");
        }
        (Ok(None), Some(_)) => panic!("wants more where the model is complete"),
        (Ok(None) | Err(_), None) => {}
    }
}

/// Data, and what follows the body.
type Decoded = (Vec<u8>, Vec<u8>);

fn decode(message: &[u8], step: usize) -> Result<Option<Decoded>, String> {
    let mut inbox = Inbox::new();
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut data, mut ended) = (Vec::new(), false);
    for part in message.chunks(step) {
        feed(&mut inbox, part);
        while !ended {
            match decoder.decode(&mut inbox) {
                Ok(Piece::Data(n)) => {
                    // Not always all of it: the other side may take less.
                    let n = n.min(7);
                    data.extend_from_slice(&inbox.data()[..n]);
                    decoder.consume(&mut inbox, n);
                }
                Ok(Piece::NeedMore) => break,
                Ok(Piece::End) => ended = true,
                Err(refusal) => {
                    assert_eq!(refusal.kind, RefusalKind::Body);
                    return Err(refusal.detail);
                }
            }
        }
    }
    Ok(ended.then(|| (data, inbox.data().to_vec())))
}

/// RFC 9112 §7.1 with CRLF alone as line end; `None`: broken or incomplete.
fn model(mut rest: &[u8]) -> Option<Decoded> {
    let mut data = Vec::new();
    loop {
        let line = take_line(&mut rest)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits == 0 || digits > 16 {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        let behind = &line[digits..];
        let spaces = behind.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match &behind[spaces..] {
            [] => {}
            [b';', extension @ ..] if !extension.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)) => {
            }
            _ => return None,
        }
        if size == 0 {
            while !take_line(&mut rest)?.is_empty() {}
            return Some((data, rest.to_vec()));
        }
        let size = usize::try_from(size).ok()?;
        if rest.len() < size.checked_add(2)? || &rest[size..size + 2] != b"\r\n" {
            return None;
        }
        data.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

/// The bytes up to the next CRLF; a bare LF is broken.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let line = rest[..end].strip_suffix(b"\r")?;
    *rest = &rest[end + 1..];
    Some(line)
}
