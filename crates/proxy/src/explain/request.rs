//! The request that is explained: a URL and fields as they are given to a client → the head that the client would send.

use crate::host;

/// Longest URL, and longest field, bytes.
const MAX_BYTES: usize = 8 * 1024;
/// Most fields.
const MAX_FIELDS: usize = 100;

/// A request to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainRequest {
    /// As a client gets it: `http://orders/x`, `localhost:7070/svc/orders/x`.
    pub url: String,
    /// The method.
    pub method: String,
    /// Fields as curl's `-H` has them: `Name: value`; `Name;` for an empty value; `Host:` for none.
    pub headers: Vec<String>,
}

/// Why a request cannot be explained: no client would send it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// The URL is none for this sidecar.
    #[error("the URL {url:?} {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A field is none.
    #[error("the header {header:?} {reason}")]
    Header {
        /// The field.
        header: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There are too many fields.
    #[error("there are more than {MAX_FIELDS} headers")]
    TooManyHeaders,
    /// The method is none.
    #[error("{0:?} is no method; write one as GET")]
    Method(String),
}

/// A URL in its parts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RequestUrl {
    /// Host and port as they are written.
    pub(crate) authority: String,
    pub(crate) port: u16,
    /// Path and query.
    pub(super) target: String,
}

impl RequestUrl {
    /// # Errors
    /// The text is no URL, or none of plain HTTP.
    pub(crate) fn parse(text: &str) -> Result<Self, ExplainError> {
        Self::read(text).map_err(|reason| {
            let url = text.chars().take(200).collect();
            ExplainError::Url { url, reason }
        })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_BYTES {
            return Err("has more than 8 KiB");
        }
        if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err("has a space or a character that a URL has only percent-encoded (%20)");
        }
        let rest = match text.split_once("://") {
            // As for curl.
            None => text,
            Some((scheme, rest)) => match &*scheme.to_ascii_lowercase() {
                "http" => rest,
                "https" | "wss" => {
                    return Err("asks for TLS, and an app speaks plain HTTP with its sidecar: write http://");
                }
                "ws" => {
                    return Err("is one of a WebSocket: write http://, with -H 'Connection: upgrade' and \
                                -H 'Upgrade: websocket'");
                }
                _ => return Err("is none of HTTP: write http://"),
            },
        };
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("has a user name; write it as a header (Authorization)");
        }
        let host = host::host_of(authority).ok_or("has no host, or a port that is none")?;
        if host.is_empty() {
            return Err("has no host");
        }
        let port = authority.get(host.len()..).and_then(|port| port.strip_prefix(':')).unwrap_or_default();
        Ok(Self {
            port: port.parse().unwrap_or(80),
            authority: authority.to_owned(),
            target: if target.starts_with('/') { target.to_owned() } else { format!("/{target}") },
        })
    }
}

impl ExplainRequest {
    /// The bytes of the head. A client adds fields of its own (`User-Agent`, `Accept`), which are not there.
    pub(super) fn head(&self, url: &RequestUrl) -> Result<String, ExplainError> {
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_byte);
        if !is_token(&self.method) || self.method.len() > 64 {
            return Err(ExplainError::Method(self.method.chars().take(64).collect()));
        }
        if self.headers.len() > MAX_FIELDS {
            return Err(ExplainError::TooManyHeaders);
        }
        let mut host = Some(url.authority.as_str());
        let mut fields = String::new();
        for header in &self.headers {
            let wrong = |reason| {
                // Its value may be a secret.
                let name = header.split([':', ';']).next().unwrap_or_default();
                ExplainError::Header { header: name.chars().take(64).collect(), reason }
            };
            if header.len() > MAX_BYTES {
                return Err(wrong("has more than 8 KiB"));
            }
            if header.chars().any(|one| one.is_control() && one != '\t') {
                return Err(wrong("has a control character"));
            }
            let (name, value) = match (header.split_once(':'), header.strip_suffix(';')) {
                (Some((name, value)), _) => (name, Some(value.trim()).filter(|value| !value.is_empty())),
                (None, Some(name)) => (name, Some("")),
                (None, None) => return Err(wrong("is no header: write 'Name: value'")),
            };
            if !is_token(name) {
                return Err(wrong("has a name that is none"));
            }
            if name.eq_ignore_ascii_case("host") {
                host = value;
            } else if let Some(value) = value {
                fields.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        let host = host.map(|host| format!("Host: {host}\r\n")).unwrap_or_default();
        Ok(format!("{} {} HTTP/1.1\r\n{host}{fields}\r\n", self.method, url.target))
    }
}

/// Whether a byte may be in a method or in the name of a field (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_a_client_reads_it() {
        for (text, authority, port, target) in [
            ("http://orders/x", "orders", 80, "/x"),
            ("HTTP://orders", "orders", 80, "/"),
            ("orders?a=1#part", "orders", 80, "/?a=1"),
            ("localhost:7070/svc/orders/a%2Fb?x=//y", "localhost:7070", 7070, "/svc/orders/a%2Fb?x=//y"),
            ("http://[::1]:7070/x", "[::1]:7070", 7070, "/x"),
            ("http://orders/a@b", "orders", 80, "/a@b"),
        ] {
            let (authority, target) = (authority.to_owned(), target.to_owned());
            assert_eq!(RequestUrl::parse(text), Ok(RequestUrl { authority, port, target }), "{text}");
        }
        for (text, reason) in [
            ("https://orders/", "asks for TLS"),
            ("wss://orders/", "asks for TLS"),
            ("ws://orders/", "WebSocket"),
            ("ftp://orders/", "none of HTTP"),
            ("http:///x", "has no host"),
            ("", "has no host"),
            ("http://orders:http/", "a port that is none"),
            ("http://orders:99999/", "a port that is none"),
            ("http://me:secret@orders/", "user name"),
            ("http://orders/a b", "percent-encoded"),
            ("http://orders/\r\nX: y", "percent-encoded"),
            ("http://orders/\u{e9}", "percent-encoded"),
        ] {
            let error = RequestUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(RequestUrl::parse(&format!("http://orders/{}", "a".repeat(MAX_BYTES))).is_err());
    }

    #[test]
    fn a_head_is_one_that_a_client_sends() {
        let head = |method: &str, headers: &[&str]| {
            let headers = headers.iter().map(|&header| header.to_owned()).collect();
            let request = ExplainRequest { url: String::new(), method: method.into(), headers };
            request.head(&RequestUrl::parse("http://orders:80/x").unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(head("GET", &[]).unwrap(), "GET /x HTTP/1.1\r\nHost: orders:80\r\n\r\n");
        let full = head("POST", &["x-a:  1 ", "Host: other", "X-Empty;", "X-None:"]).unwrap();
        assert_eq!(full, "POST /x HTTP/1.1\r\nHost: other\r\nx-a: 1\r\nX-Empty: \r\n\r\n");
        assert_eq!(head("GET", &["Host:"]).unwrap(), "GET /x HTTP/1.1\r\n\r\n");
        for (method, header, wrong) in [
            ("G T", "a: b", "is no method"),
            ("", "a: b", "is no method"),
            ("GET", "secret", "is no header"),
            ("GET", "a b: c", "a name that is none"),
            ("GET", ": c", "a name that is none"),
            ("GET", "a: b\r\nc: d", "a control character"),
        ] {
            let error = head(method, &[header]).unwrap_err();
            assert!(error.contains(wrong), "{method} {header}: {error}");
        }
        let error = head("GET", &["Authorization: secret\n"]).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        assert!(head("GET", &vec!["a: b"; MAX_FIELDS + 1]).is_err());
    }
}
