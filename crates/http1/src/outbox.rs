//! Bytes that are to be written to a stream.

/// A queue of bytes with a cursor for what the stream has accepted.
///
/// `write_all` would lose how much was accepted when a write fails; that count decides whether a request was sent.
#[derive(Debug, Default)]
pub struct Outbox {
    buffer: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// An empty outbox without a buffer.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), written: 0 }
    }

    /// The bytes that are still to be written.
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.written..).unwrap_or_default()
    }

    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.written == self.buffer.len()
    }

    /// Capacity of the buffer; 0 when there is none.
    pub fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// Appends `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.is_empty() {
            self.buffer.clear();
            self.written = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Counts `n` pending bytes as written; more than there are counts all.
    pub fn advance(&mut self, n: usize) {
        self.written = self.written.saturating_add(n).min(self.buffer.len());
    }

    /// Takes the buffer away when everything is written. Its length is 0.
    pub fn take_buffer(&mut self) -> Option<Vec<u8>> {
        if !self.is_empty() || self.buffer.capacity() == 0 {
            return None;
        }
        self.written = 0;
        self.buffer.clear();
        Some(std::mem::take(&mut self.buffer))
    }

    /// Puts a buffer in place; what is pending stays.
    pub fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(self.pending());
        self.buffer = buffer;
        self.written = 0;
    }
}
