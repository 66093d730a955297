//! A reader of what the codec writes, as strict as can be: RFC 9112 without one tolerance. What it reads, every receiver reads
//! alike, so nothing can be smuggled in it.

use super::relay::Message;

/// The complete messages of `out`, and what is left of it. Panics on anything that is not in its plainest form.
pub(crate) fn read(is_request: bool, is_head: bool, out: &[u8]) -> (Vec<Message>, &[u8]) {
    let (mut messages, mut rest) = (Vec::new(), out);
    while let Some((message, behind)) = message(is_request, is_head, rest) {
        messages.push(message);
        rest = behind;
    }
    (messages, rest)
}

fn message(is_request: bool, is_head: bool, input: &[u8]) -> Option<(Message, &[u8])> {
    let end = input.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, mut rest) = (&input[..end], &input[end + 4..]);
    let mut lines = lines(head);
    let start = lines.remove(0);
    let (start, has_no_body) =
        if is_request { (request_line(start), false) } else { status_line(start, is_head) };
    let (mut fields, mut lengths, mut codings) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let (name, value) = field(line);
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => codings.push(value),
            _ => fields.push((name, value)),
        }
    }
    let mut message = Message { start, fields, ..Message::default() };
    match (lengths.as_slice(), codings.as_slice()) {
        (_, [] | [_]) if has_no_body && lengths.len() + codings.len() <= 1 => {}
        ([], []) => assert!(is_request, "a response of no length"),
        ([length], []) => {
            assert!(!length.is_empty() && length.iter().all(u8::is_ascii_digit), "a length of digits");
            let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap_or(usize::MAX);
            if rest.len() < length {
                return None;
            }
            let (body, behind) = rest.split_at(length);
            message.body = body.to_vec();
            rest = behind;
        }
        ([], [coding]) => {
            assert_eq!(coding, b"chunked");
            rest = chunks(rest, &mut message)?;
        }
        _ => panic!("ambiguous framing: {}", head.escape_ascii()),
    }
    Some((message, rest))
}

fn chunks<'a>(mut rest: &'a [u8], message: &mut Message) -> Option<&'a [u8]> {
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let digits = std::str::from_utf8(&rest[..end]).unwrap();
        assert!(digits.bytes().all(|byte| byte.is_ascii_hexdigit()), "a size without more: {digits}");
        let size = usize::from_str_radix(digits, 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            break;
        }
        if rest.len() < size + 2 {
            return None;
        }
        message.body.extend_from_slice(&rest[..size]);
        assert_eq!(&rest[size..size + 2], b"\r\n");
        rest = &rest[size + 2..];
    }
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let (line, behind) = rest.split_at(end + 2);
        rest = behind;
        if line == b"\r\n" {
            return Some(rest);
        }
        field(&line[..end]);
        message.trailers.extend_from_slice(line);
    }
}

fn lines(head: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut rest) = (Vec::new(), head);
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    for line in &lines {
        assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | b'\0')), "{}", line.escape_ascii());
    }
    lines
}

fn request_line(line: &[u8]) -> Vec<u8> {
    let parts: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts.as_slice() else { panic!("{}", line.escape_ascii()) };
    assert!(!method.is_empty() && method.iter().all(is_token_byte) && !target.is_empty());
    assert!(target.iter().all(|byte| *byte > b' ' && *byte != 0x7f));
    [method, b" ".as_slice(), target].concat()
}

/// The status, and whether there is no body.
fn status_line(line: &[u8], is_head: bool) -> (Vec<u8>, bool) {
    let Some((b"HTTP/1.1 ", rest)) = line.split_at_checked(9) else { panic!("{}", line.escape_ascii()) };
    assert!(rest[..3].iter().all(u8::is_ascii_digit) && rest[3] == b' ');
    let has_no_body = is_head || rest[0] == b'1' || matches!(&rest[..3], b"204" | b"304");
    (rest[..3].to_vec(), has_no_body)
}

fn field(line: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap();
    let name = &line[..colon];
    assert!(!name.is_empty() && name.iter().all(is_token_byte), "{}", line.escape_ascii());
    let value = line[colon + 1..].trim_ascii();
    assert!(value.iter().all(|byte| !matches!(byte, b'\r' | b'\n' | b'\0')), "{}", line.escape_ascii());
    (name.to_vec(), trim(&line[colon + 1..]).to_vec())
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_token_byte(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte)
}
