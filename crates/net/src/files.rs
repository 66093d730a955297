//! Open files that the data path leaves to probes, the registry's agent and the admin side.
//!
//! POSIX gives a new file the lowest number that is free. So a socket with one of the highest numbers below the limit
//! means that all lower ones are in use, and the data path gives that socket up, or lets it wait.

use std::{
    net::TcpStream,
    os::fd::AsRawFd,
    sync::atomic::{AtomicI32, Ordering::Relaxed},
};

/// Most files that are held back, and the part of the limit that they may be at most.
const MOST_HELD_BACK: u64 = 64;
const PART_HELD_BACK: u64 = 8;

/// The first number that is held back. Without a call of [`hold_back_files`]: none is.
static FIRST_HELD_BACK: AtomicI32 = AtomicI32::new(i32::MAX);

/// Holds back the highest of the files that `limit` (`RLIMIT_NOFILE`) allows: an eighth, at most 64. Returns how many.
pub fn hold_back_files(limit: u64) -> u64 {
    let held_back = (limit / PART_HELD_BACK).min(MOST_HELD_BACK);
    FIRST_HELD_BACK.store(i32::try_from(limit - held_back).unwrap_or(i32::MAX), Relaxed);
    held_back
}

/// Whether `socket` has a number that is held back.
pub fn is_held_back(socket: &impl AsRawFd) -> bool {
    socket.as_raw_fd() >= FIRST_HELD_BACK.load(Relaxed)
}

/// The same connection under a number that is not held back.
///
/// # Errors
/// `stream`, when no such number is free.
pub fn leave_held_back(stream: TcpStream) -> Result<TcpStream, TcpStream> {
    if !is_held_back(&stream) {
        return Ok(stream);
    }
    match stream.try_clone() {
        Ok(lower) if !is_held_back(&lower) => Ok(lower),
        Ok(_) | Err(_) => Err(stream),
    }
}
