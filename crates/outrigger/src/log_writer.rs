//! Writes log lines to stderr without blocking: a line that finds no room is lost and counted.
//!
//! Stderr is most often a pipe, and a pipe without a reader is full after some hundred lines. A blocking write
//! would then stop the thread that carries requests, and with it every request. So a line is written only when
//! there is room. At most once a second, a line that finds none waits up to 20 ms, for a slow reader.
//!
//! The app writes to the same pipe (`run -- app`), so the pipe must not become non-blocking for both: this
//! module opens it again. Where that is not possible (a socket; a pipe of another user), each write first polls
//! for room.

use std::{
    borrow::Cow,
    fs::OpenOptions,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    sync::Arc,
    time::Duration,
};

use outrigger_config::breaks_line;
use parking_lot::Mutex;
use prometheus::IntCounter;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::Errno,
};
use tokio::time::Instant;
use tracing_subscriber::fmt::MakeWriter;

/// Longest wait of a line that finds no room, and the least time between two such waits.
const MAX_WAIT: Duration = Duration::from_millis(20);
const WAIT_INTERVAL: Duration = Duration::from_secs(1);

/// Most bytes of one write (`PIPE_BUF`): a pipe that has room at all has room for these.
const MAX_WRITE: usize = 4096;

/// The output for log lines. A clone writes to the same output.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter(Arc<LogOutput>);

#[derive(Debug)]
struct LogOutput {
    out: OwnedFd,
    last: Mutex<LineState>,
    lost: IntCounter,
}

/// The state after the last line.
#[derive(Debug, Default)]
struct LineState {
    /// When a line last waited for room.
    waited: Option<Instant>,
    /// The last line was written in part.
    cut: bool,
}

impl LogWriter {
    pub(crate) fn stderr() -> io::Result<Self> {
        Self::new(io::stderr().as_fd().try_clone_to_owned()?)
    }

    pub(crate) fn new(out: OwnedFd) -> io::Result<Self> {
        let out = reopen_nonblocking(&out).unwrap_or(out);
        let lost = IntCounter::new(
            "outrigger_log_lines_lost_total",
            "Log lines that were dropped because stderr had no room for them.",
        );
        let lost = lost.map_err(io::Error::other)?;
        Ok(Self(Arc::new(LogOutput { out, last: Mutex::default(), lost })))
    }

    /// `outrigger_log_lines_lost_total`
    pub(crate) fn lost_lines(&self) -> IntCounter {
        self.0.lost.clone()
    }
}

impl LogOutput {
    fn write_line(&self, line: &[u8]) {
        let mut last = self.last.lock();
        // First ends a line that was cut.
        let line = if last.cut { Cow::Owned([b"\n", line].concat()) } else { Cow::Borrowed(line) };
        let mut rest = &line[..];
        while !rest.is_empty() {
            let written = match self.has_room(&mut last) {
                true => rustix::io::write(&self.out, &rest[..rest.len().min(MAX_WRITE)]),
                false => Err(Errno::AGAIN),
            };
            match written {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(_) => {
                    last.cut |= rest.len() < line.len();
                    return self.lost.inc();
                }
            }
        }
        last.cut = false;
    }

    fn has_room(&self, last: &mut LineState) -> bool {
        if self.is_writable(Duration::ZERO) {
            return true;
        }
        let now = Instant::now();
        if last.waited.is_some_and(|waited| now < waited + WAIT_INTERVAL) {
            return false;
        }
        last.waited = Some(now);
        self.is_writable(MAX_WAIT)
    }

    fn is_writable(&self, wait: Duration) -> bool {
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut out = [PollFd::new(&self.out, PollFlags::OUT)];
        // Any other error is no lack of room: the write returns it.
        !matches!(poll(&mut out, Some(&wait)), Ok(0) | Err(Errno::INTR))
    }
}

/// The same pipe or terminal, opened again as non-blocking. `None`: it cannot be opened, or it is a file, where
/// every writer must share one offset.
fn reopen_nonblocking(out: &OwnedFd) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", out.as_raw_fd());
    let kind = std::fs::metadata(&path).ok()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return None;
    }
    let without_waiting = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(without_waiting).open(path).ok().map(Into::into)
}

/// The subscriber writes one whole line at a time.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_line(&escape_unicode_breaks(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes the characters that JSON leaves as they are, and that a reader may take for the end of a line or a terminal for a
/// command: DEL, C1, and the line and paragraph separators of Unicode. They are inside of strings, and lines of text have none.
fn escape_unicode_breaks(line: &[u8]) -> Cow<'_, [u8]> {
    let is_first_byte = |byte: &u8| matches!(byte, 0x7f | 0xc2 | 0xe2);
    let Some(text) = line.iter().any(is_first_byte).then(|| str::from_utf8(line).ok()).flatten() else {
        return Cow::Borrowed(line);
    };
    let is_left = |one: char| breaks_line(one) && !one.is_ascii() || one == '\u{7f}';
    if !text.contains(is_left) {
        return Cow::Borrowed(line);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for one in text.chars() {
        if is_left(one) {
            escaped.push_str(&format!("\\u{:04x}", u32::from(one)));
        } else {
            escaped.push(one);
        }
    }
    Cow::Owned(escaped.into_bytes())
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, thread};

    use super::*;

    /// Lines that fill any pipe.
    const MANY: usize = 3_000;

    fn line(n: usize) -> String {
        format!("{n:0>1000}\n")
    }

    fn pipe() -> (io::PipeReader, LogWriter) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, LogWriter::new(writer.into()).unwrap())
    }

    #[test]
    fn a_full_pipe_does_not_block_and_lost_lines_are_counted() {
        let (mut reader, lines) = pipe();
        for n in 0..MANY {
            (&lines).write_all(line(n).as_bytes()).unwrap();
        }
        let lost = lines.lost_lines();
        let written = MANY - lost.get() as usize;
        assert!(lost.get() > 0 && written > 0, "{lost:?}");

        // It writes again as soon as there is room.
        let mut room = vec![0; 8 * line(0).len()];
        reader.read_exact(&mut room).unwrap();
        (&lines).write_all(b"and on\n").unwrap();
        drop(lines);
        let mut text = String::from_utf8(room).unwrap();
        reader.read_to_string(&mut text).unwrap();
        let expected: String = (0..written).map(line).collect();
        assert_eq!(text, expected + "and on\n");
    }

    #[test]
    fn a_new_line_begins_after_a_cut_line() {
        let (mut reader, lines) = pipe();
        (&lines).write_all(&vec![b'x'; 4_000_000]).unwrap();
        (&lines).write_all(b"lost as well\n").unwrap();
        assert_eq!(lines.lost_lines().get(), 2);
        let read = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        // Each line is lost until the reader makes room.
        while lines.lost_lines().get() > 0 {
            lines.lost_lines().reset();
            (&lines).write_all(b"new\n").unwrap();
        }
        drop(lines);
        assert!(read.join().unwrap().ends_with("x\nnew\n"));
    }

    #[test]
    fn a_slow_reader_does_not_slow_the_writer_down() {
        let (mut reader, lines) = pipe();
        let read = thread::spawn(move || {
            let mut page = [0; MAX_WRITE];
            // A writer that waits would wait this long for each page.
            while reader.read(&mut page).is_ok_and(|read| read > 0) {
                thread::park_timeout(MAX_WAIT / 2);
            }
        });
        let before = Instant::now();
        for n in 0..MANY {
            (&lines).write_all(line(n).as_bytes()).unwrap();
        }
        let took = before.elapsed();
        assert!(lines.lost_lines().get() > 0, "the reader was quick");
        assert!(took < MAX_WAIT * MANY as u32 / 10, "{took:?}");
        drop(lines);
        read.join().unwrap();
    }

    #[test]
    fn a_write_that_would_block_loses_the_line() {
        let (_reader, lines) = pipe();
        // All writers share the room of a pipe: another writer has filled it.
        let shared = lines.0.out.try_clone().unwrap();
        while rustix::io::write(&shared, &[b'x'; MAX_WRITE]).is_ok() {}
        (&lines).write_all(b"lost\n").unwrap();
        assert_eq!(lines.lost_lines().get(), 1);
    }

    #[test]
    fn a_closed_reader_costs_only_the_line() {
        let (reader, lines) = pipe();
        drop(reader);
        for n in 1..3 {
            (&lines).write_all(b"lost\n").unwrap();
            assert_eq!(lines.lost_lines().get(), n);
        }
    }
}
