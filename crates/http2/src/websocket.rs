//! The handshake of WebSocket over HTTP/1.1 (RFC 6455 §4), for an Extended CONNECT, which has none (RFC 8441 §5).

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What a server appends to the key (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A new key for `Sec-WebSocket-Key`. It proves no secret: it shows only that the other side speaks WebSocket.
pub fn new_key() -> String {
    let mut nonce = [0; 16];
    fastrand::fill(&mut nonce);
    STANDARD.encode(nonce)
}

/// The `Sec-WebSocket-Accept` of a server that speaks WebSocket.
pub fn accept_of(key: &str) -> String {
    let text = [key.as_bytes(), GUID].concat();
    STANDARD.encode(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3.
    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(new_key().len(), 24);
    }
}
