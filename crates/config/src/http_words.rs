//! Names and values in the head of a request, as traffic rules have them.

use crate::{error::InvalidValue, names::is_token};

/// The name of a header field, in lower case.
pub(crate) fn field_name(text: &str) -> Result<String, InvalidValue> {
    match is_token(text) {
        true => Ok(text.to_ascii_lowercase()),
        false => {
            Err(InvalidValue::new("cannot be the name of a header field", "write letters, digits and -"))
        }
    }
}

/// The name of a header field that a route sets, adds or removes: not one that says how a message is framed, where it goes, or
/// how connections are used, and none of the sidecar's own.
pub(crate) fn edited_field(text: &str) -> Result<String, InvalidValue> {
    const OWN: [&str; 14] = [
        "connection",
        "content-length",
        "expect",
        // What is left of the deadline.
        "grpc-timeout",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "http2-settings",
    ];
    let name = field_name(text)?;
    if OWN.contains(&name.as_str()) || name.starts_with("x-outrigger-") {
        return Err(InvalidValue::new(
            "is written by the sidecar, and a route cannot change it",
            "remove it",
        ));
    }
    Ok(text.to_owned())
}

/// Whether a field, by its name in lower case, has credentials: no text shows its value.
pub(crate) fn has_credentials(name: &str) -> bool {
    ["authorization", "cookie", "proxy-authorization", "x-api-key"].contains(&name)
}

/// The name of a cookie.
pub(crate) fn cookie_name(text: &str) -> Result<String, InvalidValue> {
    match is_token(text) {
        true => Ok(text.to_owned()),
        false => Err(InvalidValue::new("cannot be the name of a cookie", "write letters, digits, - and _")),
    }
}

/// The name of a parameter of a query, as it is written in a target.
pub(crate) fn query_parameter(text: &str) -> Result<String, InvalidValue> {
    let is_valid = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'=' | b'#');
    match !text.is_empty() && text.bytes().all(is_valid) {
        true => Ok(text.to_owned()),
        false => Err(InvalidValue::new(
            "cannot be the name of a parameter",
            "write it as in the request, percent-encoded, without & and =",
        )),
    }
}

/// A method. Its case counts.
pub(crate) fn method(text: &str) -> Result<String, InvalidValue> {
    if !is_token(text) {
        return Err(InvalidValue::new("cannot be a method", "write GET, POST, …"));
    }
    if text.bytes().any(|byte| byte.is_ascii_lowercase()) && is_known_method(&text.to_ascii_uppercase()) {
        return Err(InvalidValue::new(
            "is no method: their case counts",
            format!("write {}", text.to_ascii_uppercase()),
        ));
    }
    Ok(text.to_owned())
}

fn is_known_method(text: &str) -> bool {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"].contains(&text)
}
