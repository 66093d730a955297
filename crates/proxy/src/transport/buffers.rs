//! The buffers of a worker's streams. A stream holds a buffer only while the buffer holds bytes.
//!
//! The pool belongs to the thread, and a worker is a thread, so that no lock is needed. A buffer that is given back on another
//! thread joins the pool of that thread.

use std::cell::RefCell;

use outrigger_http1::Field;

/// Bytes of a usual buffer.
pub(crate) const SMALL: usize = 16 * 1024;
/// Bytes of the buffer of a stream that fills the usual one at each read.
pub(crate) const LARGE: usize = 64 * 1024;
/// Most bytes in the pool of one worker.
const MAX_POOLED: usize = 1024 * 1024;
/// Most lists of fields in the pool of one worker, and most fields of one.
const MAX_LISTS: usize = 64;
const MAX_LIST: usize = 128;

thread_local! {
    static POOL: RefCell<BufferPool> = const { RefCell::new(BufferPool::new()) };
}

struct BufferPool {
    /// Initialised over their whole length, for reads.
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// Empty, with a capacity of at least [`SMALL`], for writes.
    outgoing: Vec<Vec<u8>>,
    fields: Vec<Vec<Field>>,
    pooled: usize,
}

impl BufferPool {
    const fn new() -> Self {
        Self { small: Vec::new(), large: Vec::new(), outgoing: Vec::new(), fields: Vec::new(), pooled: 0 }
    }
}

/// A buffer for reads: `len` bytes, all of them initialised.
pub(crate) fn take_incoming(len: usize) -> Vec<u8> {
    let pooled = POOL.with_borrow_mut(|pool| {
        let buffer = match len {
            SMALL => pool.small.pop(),
            LARGE => pool.large.pop(),
            _ => None,
        };
        pool.pooled -= buffer.as_ref().map_or(0, Vec::len);
        buffer
    });
    pooled.unwrap_or_else(|| vec![0; len])
}

/// Gives a buffer for reads back.
pub(crate) fn give_incoming(buffer: Vec<u8>) {
    let len = buffer.len();
    give(|pool| {
        if pool.pooled + len > MAX_POOLED {
            return;
        }
        match len {
            SMALL => pool.small.push(buffer),
            LARGE => pool.large.push(buffer),
            _ => return,
        }
        pool.pooled += len;
    });
}

/// An empty buffer for writes.
pub(crate) fn take_outgoing() -> Vec<u8> {
    let pooled = POOL.with_borrow_mut(|pool| {
        let buffer = pool.outgoing.pop();
        pool.pooled -= buffer.as_ref().map_or(0, Vec::capacity);
        buffer
    });
    pooled.unwrap_or_else(|| Vec::with_capacity(SMALL))
}

/// Gives an empty buffer for writes back. One that has grown far is freed.
pub(crate) fn give_outgoing(buffer: Vec<u8>) {
    let capacity = buffer.capacity();
    give(|pool| {
        if (SMALL..=LARGE).contains(&capacity) && pool.pooled + capacity <= MAX_POOLED {
            pool.pooled += capacity;
            pool.outgoing.push(buffer);
        }
    });
}

/// An empty list of fields, for a parser.
pub(crate) fn take_fields() -> Vec<Field> {
    POOL.with_borrow_mut(|pool| pool.fields.pop()).unwrap_or_default()
}

/// Gives the buffer and the list of a head back.
pub(crate) fn give_head(head: outrigger_http1::Head) {
    let (bytes, fields) = head.into_parts();
    give_incoming(bytes);
    give(|pool| {
        if pool.fields.len() < MAX_LISTS && (1..=MAX_LIST).contains(&fields.capacity()) {
            pool.fields.push(fields);
        }
    });
}

/// Puts something into the pool of this thread. While the thread ends, its pool may be gone: the buffer is then freed.
fn give(keep: impl FnOnce(&mut BufferPool)) {
    let _ = POOL.try_with(|pool| keep(&mut pool.borrow_mut()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_back_is_used_again_up_to_the_bound() {
        std::thread::spawn(|| {
            let buffer = take_incoming(SMALL);
            let at = buffer.as_ptr();
            give_incoming(buffer);
            let again = take_incoming(SMALL);
            assert_eq!(again.as_ptr(), at);
            for _ in 0..100 {
                give_incoming(vec![0; LARGE]);
                give_outgoing(Vec::with_capacity(SMALL));
            }
            POOL.with_borrow(|pool| {
                let held = pool.large.iter().map(Vec::len).sum::<usize>()
                    + pool.outgoing.iter().map(Vec::capacity).sum::<usize>();
                assert_eq!(held, pool.pooled);
                assert!(held <= MAX_POOLED && held > MAX_POOLED / 2, "{held}");
            });
        })
        .join()
        .unwrap();
    }
}
