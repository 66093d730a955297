//! Reads the rows of the table.

/// One exchange.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// The section of an RFC, or the peer, that the row follows.
    pub(crate) source: String,
    pub(crate) steps: Vec<Step>,
}

/// One step of an exchange; `README.md` beside the rows says what each means.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    App(Vec<u8>),
    Gets(Vec<u8>),
    Says(Vec<u8>),
    Back(Vec<u8>),
    Refuse(ExpectedError),
    Error(ExpectedError),
    Again,
    Next,
    Closed,
    Cut,
    End,
    Reset,
    SaysEnd,
    SaysReset,
    GetsEnd,
    Reused,
    Fresh,
}

/// A response of the proxy itself.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedError {
    pub(crate) status: u16,
    /// The value of `x-outrigger-error`; `-` for a response that is no error.
    pub(crate) reason: String,
    /// Part of the body; may be empty.
    pub(crate) text: String,
}

const DATE: &str = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
pub(crate) const OK: &str = "HTTP/1.1 200 OK\\n\\dContent-Length: 2\\n\\nok";

/// Every row of the table.
///
/// # Panics
/// A row that cannot be read.
pub(crate) fn all() -> Vec<Row> {
    let files = [
        include_str!("rows/requests.txt"),
        include_str!("rows/hop_by_hop.txt"),
        include_str!("rows/request_bodies.txt"),
        include_str!("rows/responses.txt"),
        include_str!("rows/interim.txt"),
        include_str!("rows/connections.txt"),
    ];
    let mut rows: Vec<Row> = Vec::new();
    for line in files.iter().flat_map(|file| file.lines()).filter(|line| !line.is_empty()) {
        if let Some(title) = line.strip_prefix("== ") {
            let (name, source) = title.split_once(" | ").unwrap_or_else(|| panic!("{line}: no source"));
            rows.push(Row { name: name.to_owned(), source: source.to_owned(), steps: Vec::new() });
        } else if let Some(row) = rows.last_mut() {
            row.steps.extend(steps(line));
        }
    }
    rows
}

fn steps(line: &str) -> Vec<Step> {
    let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
    let rest = rest.trim_start();
    let error = || {
        let mut words = rest.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let status = word().parse().unwrap_or_else(|_| panic!("{line}: no status"));
        ExpectedError { status, reason: word(), text: word() }
    };
    vec![match key {
        "app" => Step::App(unescape(rest)),
        "gets" => Step::Gets(unescape(rest)),
        "says" => Step::Says(unescape(rest)),
        "back" => Step::Back(unescape(rest)),
        "ok" => return vec![Step::Says(unescape(OK)), Step::Back(unescape(OK))],
        "refuse" => Step::Refuse(error()),
        "error" => Step::Error(error()),
        "again" => Step::Again,
        "next" => Step::Next,
        "closed" => Step::Closed,
        "cut" => Step::Cut,
        "end" => Step::End,
        "reset" => Step::Reset,
        "says-end" => Step::SaysEnd,
        "says-reset" => Step::SaysReset,
        "gets-end" => Step::GetsEnd,
        "reused" => Step::Reused,
        "fresh" => Step::Fresh,
        _ => panic!("{line}: unknown step"),
    }]
}

/// The bytes of a payload.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let repeated =
            rest.strip_prefix('{').and_then(|inner| inner.split_once('*')).and_then(|(count, tail)| {
                let (part, tail) = tail.split_once('}')?;
                Some((count.parse::<usize>().ok()?, part, tail))
            });
        if let Some((count, part, tail)) = repeated {
            out.extend(unescape(part).repeat(count));
            rest = tail;
            continue;
        }
        if first != '\\' {
            rest = &rest[first.len_utf8()..];
            out.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let code = rest.as_bytes().get(1).copied();
        let mut len = 2;
        match code {
            Some(b'n') => out.extend_from_slice(b"\r\n"),
            Some(b'l') => out.push(b'\n'),
            Some(b'c') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b's') => out.push(b' '),
            Some(b'0') => out.push(0),
            Some(b'\\') => out.push(b'\\'),
            Some(b'd') => out.extend_from_slice(DATE.as_bytes()),
            Some(b'x') => {
                let digits = rest.get(2..4).unwrap_or_default();
                out.push(u8::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{text}: bad \\x")));
                len = 4;
            }
            _ => panic!("{text}: unknown escape"),
        }
        rest = &rest[len..];
    }
    out
}
