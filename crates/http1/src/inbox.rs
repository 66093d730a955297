//! Bytes that were read from a stream and not yet consumed.

/// A buffer with a consumed part, a filled part and space behind it.
///
/// The buffer is initialised over its whole length, so that a reader can write into [`Inbox::space`] without `unsafe`.
/// An empty inbox can give its buffer away ([`Inbox::take_buffer`]), so that an idle connection holds none.
#[derive(Debug, Default)]
pub struct Inbox {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// An inbox without a buffer: [`Inbox::space`] is empty until [`Inbox::give_buffer`].
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, end: 0 }
    }

    /// The bytes that are not consumed yet.
    pub fn data(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Number of bytes that are not consumed yet.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether every byte is consumed.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Length of the buffer; 0 when there is none.
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Space for a read. Moves the data to the front when no space is left behind it. Empty when the buffer is full or
    /// absent.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.end == self.buffer.len() && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Counts `n` bytes of [`Inbox::space`] as data. More than the space is counted as the whole space.
    pub fn advance(&mut self, n: usize) {
        self.end = self.end.saturating_add(n).min(self.buffer.len());
    }

    /// Consumes `n` bytes of the data; more than there is consumes everything.
    pub fn consume(&mut self, n: usize) {
        self.start = self.start.saturating_add(n).min(self.end);
    }

    /// Puts a larger or a first buffer in place; the data stays. A buffer that is too small for the data is grown. Returns
    /// the buffer before.
    pub fn give_buffer(&mut self, mut buffer: Vec<u8>) -> Vec<u8> {
        let len = self.len();
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        buffer[..len].copy_from_slice(self.data());
        self.start = 0;
        self.end = len;
        std::mem::replace(&mut self.buffer, buffer)
    }

    /// Takes the buffer away when no data is left.
    pub fn take_buffer(&mut self) -> Option<Vec<u8>> {
        if !self.is_empty() || self.buffer.is_empty() {
            return None;
        }
        self.start = 0;
        self.end = 0;
        Some(std::mem::take(&mut self.buffer))
    }

    /// Takes away the buffer with its first `n` bytes of data at the front; what is behind them stays here, in `spare` when
    /// there is any. A complete head leaves the inbox by this without a copy of the head.
    pub(crate) fn split_front(&mut self, n: usize, spare: impl FnOnce() -> Vec<u8>) -> (Vec<u8>, usize) {
        let n = n.min(self.len());
        let (start, rest) = (self.start, self.start + n..self.end);
        let mut next = Self::new();
        if rest.len() > n {
            // A short head before much of a body: the head is copied.
            let mut head = spare();
            if head.len() < n {
                head.resize(n, 0);
            }
            head[..n].copy_from_slice(&self.buffer[start..rest.start]);
            self.consume(n);
            return (head, 0);
        }
        if !rest.is_empty() {
            next.buffer = spare();
            if next.buffer.len() < rest.len() {
                next.buffer.resize(rest.len(), 0);
            }
            next.end = rest.len();
            next.buffer[..rest.len()].copy_from_slice(&self.buffer[rest]);
        }
        (std::mem::replace(self, next).buffer, start)
    }

    /// Overwrites the data at `at` with `byte`; ignored outside the data.
    pub(crate) fn overwrite(&mut self, at: usize, byte: u8) {
        if let Some(slot) = self.buffer.get_mut(self.start + at)
            && self.start + at < self.end
        {
            *slot = byte;
        }
    }
}

impl From<&[u8]> for Inbox {
    fn from(bytes: &[u8]) -> Self {
        Self { buffer: bytes.to_vec(), start: 0, end: bytes.len() }
    }
}
