//! Writes log lines to stderr, and loses them rather than wait for whoever should read them.
//!
//! Stderr is a pipe, most often, and a pipe that nobody reads is full after some hundred lines. A write would
//! then hold the thread that carries requests until somebody reads, and with it every request. So a line is
//! written when there is room for it: the first that finds none waits a moment, for a reader that is only
//! slow, and those after it do not wait until there is room again. What is lost is counted.
//!
//! It does not make the pipe non-blocking: the app writes to the same one (`run -- app`).

use std::{
    borrow::Cow,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus::IntCounter;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tracing_subscriber::fmt::MakeWriter;

/// Longest wait of the first line that finds no room.
const PATIENCE: Duration = Duration::from_millis(20);

/// Most bytes of one write: there is room for all of them in a pipe that has any (`PIPE_BUF`).
const PIECE: usize = 4096;

/// Where lines go. A clone writes to the same place.
#[derive(Debug, Clone)]
pub(crate) struct Lines(Arc<Place>);

#[derive(Debug)]
struct Place {
    out: OwnedFd,
    last: Mutex<Last>,
    lost: IntCounter,
}

/// How the last line went.
#[derive(Debug, Default)]
struct Last {
    /// There was no room for it.
    stalled: bool,
    /// A piece of it was written, and not its end.
    cut: bool,
}

impl Lines {
    pub(crate) fn to_stderr() -> io::Result<Self> {
        Self::to(io::stderr().as_fd().try_clone_to_owned()?)
    }

    fn to(out: OwnedFd) -> io::Result<Self> {
        let lost = IntCounter::new(
            "outrigger_log_lines_lost_total",
            "Log lines that were not written because nobody reads stderr.",
        );
        let lost = lost.map_err(io::Error::other)?;
        Ok(Self(Arc::new(Place { out, last: Mutex::default(), lost })))
    }

    /// `outrigger_log_lines_lost_total`
    pub(crate) fn lost(&self) -> IntCounter {
        self.0.lost.clone()
    }
}

impl Place {
    fn line(&self, line: &[u8]) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // What was broken off is ended first.
        let line = if last.cut { Cow::Owned([b"\n", line].concat()) } else { Cow::Borrowed(line) };
        for (n, piece) in line.chunks(PIECE).enumerate() {
            last.stalled = !self.has_room(if last.stalled { Duration::ZERO } else { PATIENCE });
            if last.stalled || self.write(piece) == Err(Errno::AGAIN) {
                last.cut |= n > 0;
                return self.lost.inc();
            }
        }
        last.cut = false;
    }

    fn has_room(&self, wait: Duration) -> bool {
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut out = [PollFd::new(&self.out, PollFlags::OUT)];
        // An error is no lack of room: the write tells.
        poll(&mut out, Some(&wait)) != Ok(0)
    }

    fn write(&self, piece: &[u8]) -> Result<(), Errno> {
        let mut rest = piece;
        while !rest.is_empty() {
            match rustix::io::write(&self.out, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// One whole line at a time, as the subscriber has it.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, thread};

    use super::*;

    /// Enough for any pipe.
    const MANY: usize = 3_000;

    fn line(n: usize) -> String {
        format!("{n:0>1000}\n")
    }

    fn pipe() -> (io::PipeReader, Lines) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Lines::to(writer.into()).unwrap())
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_and_what_is_lost_is_counted() {
        let (mut reader, lines) = pipe();
        for n in 0..MANY {
            (&lines).write_all(line(n).as_bytes()).unwrap();
        }
        let lost = lines.lost();
        let written = MANY - lost.get() as usize;
        assert!(lost.get() > 0 && written > 0, "{lost:?}");

        // As soon as there is room it goes on.
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
    fn a_long_line_that_is_broken_off_is_not_continued_by_the_next_one() {
        let (mut reader, lines) = pipe();
        (&lines).write_all(&vec![b'x'; 4_000_000]).unwrap();
        (&lines).write_all(b"lost as well\n").unwrap();
        assert_eq!(lines.lost().get(), 2);
        let read = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        // Lost as long as there is no room.
        while lines.lost().get() > 0 {
            lines.lost().reset();
            (&lines).write_all(b"new\n").unwrap();
        }
        drop(lines);
        assert!(read.join().unwrap().ends_with("x\nnew\n"));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, lines) = pipe();
        drop(reader);
        (&lines).write_all(b"to nobody\n").unwrap();
    }
}
