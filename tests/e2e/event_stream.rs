//! A client of server-sent events.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const LONG: Duration = Duration::from_secs(60);

/// The stream: an open connection.
pub(crate) struct EventStream {
    stream: TcpStream,
    pub(crate) read: String,
}

impl EventStream {
    /// Sends the request and reads the head, which must be a 200.
    pub(crate) async fn open(addr: SocketAddr, head: &str) -> Self {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(format!("{head}\r\nHost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut events = Self { stream, read: String::new() };
        events.read_until("\r\n\r\n").await;
        assert!(events.read.starts_with("HTTP/1.1 200"), "{}", events.read);
        events
    }

    /// Holds a lock by the stream.
    pub(crate) async fn hold(addr: SocketAddr, path: &str) -> Self {
        Self::open(addr, &format!("POST {path} HTTP/1.1\r\nContent-Length: 0")).await
    }

    /// Reads until this text was read.
    pub(crate) async fn read_until(&mut self, text: &str) {
        let reads = async {
            while !self.read.contains(text) {
                let mut bytes = [0; 1024];
                let read = self.stream.read(&mut bytes).await.unwrap();
                assert!(read > 0, "the stream ended after {}", self.read);
                self.read.push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        };
        tokio::time::timeout(LONG, reads).await.unwrap_or_else(|_| panic!("no {text:?} in {}", self.read));
    }

    /// Reads to the next event with this name, and returns its data.
    pub(crate) async fn next(&mut self, name: &str) -> Value {
        self.read_until(&format!("event: {name}\n")).await;
        let at = self.read.find(&format!("event: {name}\n")).unwrap();
        self.read.drain(..at);
        self.read_until("\n\n").await;
        let end = self.read.find("\n\n").unwrap();
        let event: String = self.read.drain(..end + 2).collect();
        let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        serde_json::from_str(data).unwrap()
    }

    /// Reads to the end of the stream, and returns the rest.
    pub(crate) async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(LONG, self.stream.read_to_end(&mut bytes)).await;
        // The end of the process may reset the connection.
        let _ = read.expect("the end of the stream");
        self.read + &String::from_utf8_lossy(&bytes)
    }
}
