//! The servers of the uploads: threads of the bench that read each body to its end and answer 200.
//!
//! They are not nginx, because nginx answers `return 200` before it has read the body, and a proxy may stop an upload then.
//! A connection has a thread with blocking reads into one buffer of 256 KiB. The threads share the core of the load generator,
//! so their time is not part of a proxy's cost.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{Error, error::doing};

const BUFFER: usize = 256 << 10;
const MAX_HEAD: usize = 16 << 10;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Starts `count` servers on `core`; they run until the bench ends.
pub(super) fn start(count: usize, core: usize) -> Result<Vec<SocketAddr>, Error> {
    (0..count).map(|_| listen(core).map_err(doing("start a server for uploads"))).collect()
}

fn listen(core: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    thread::Builder::new().name("uploads".into()).spawn(move || accept(&listener, core))?;
    Ok(addr)
}

fn accept(listener: &TcpListener, core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    // The threads of the connections inherit it. If it fails, the figures are noisy, not wrong.
    let _ = sched_setaffinity(None, &cores);
    for connection in listener.incoming().flatten() {
        // An error ends the connection: the load generator counts a failed request.
        let _ = thread::Builder::new().spawn(move || serve(connection));
    }
}

/// Answers requests until the proxy closes the connection.
fn serve(mut connection: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut filled = 0;
    loop {
        let end = loop {
            if let Some(end) = head_end(&buffer[..filled]) {
                break end;
            }
            if filled > MAX_HEAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let count = connection.read(&mut buffer[filled..])?;
            if count == 0 {
                return Ok(());
            }
            filled += count;
        };
        let length = content_length(&buffer[..end]).ok_or(io::ErrorKind::InvalidData)?;
        // The next request begins after this answer only, so everything behind the head is body.
        let mut left = length.checked_sub(filled - end).ok_or(io::ErrorKind::InvalidData)?;
        while left > 0 {
            let room = left.min(BUFFER);
            let count = connection.read(&mut buffer[..room])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= count;
        }
        connection.write_all(ANSWER)?;
        filled = 0;
    }
}

/// The length of the head with its empty line, when it is complete.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The length of the body; 0 without the field; `None` for a chunked body or a bad length, which no load has.
fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let mut length = 0;
    for line in head.lines().skip(1) {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_comes_after_the_whole_body() {
        let addr = start(1, 0).unwrap()[0];
        let mut client = TcpStream::connect(addr).unwrap();
        let body = vec![b'x'; 300_000];
        for _ in 0..2 {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
            client.write_all(head.as_bytes()).unwrap();
            client.write_all(&body[1..]).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
            assert!(client.read(&mut [0; 1]).is_err(), "an answer before the last byte");
            client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            client.write_all(&body[..1]).unwrap();
            let mut answer = vec![0; ANSWER.len()];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, ANSWER);
        }
    }

    #[test]
    fn lengths_are_read_from_heads() {
        let length = |fields: &str| content_length(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes());
        assert_eq!(length("Host: a"), Some(0));
        assert_eq!(length("content-LENGTH:  65536"), Some(65_536));
        assert_eq!(length("Content-Length: many"), None);
        assert_eq!(length("Transfer-Encoding: chunked"), None);
    }
}
