//! Instances and clients of a protocol that is no HTTP: the server speaks first, with a line that has its name, and sends back what it
//! gets.

#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{pattern, wait};

/// An instance. Stops when it is dropped.
#[derive(Debug)]
pub struct TcpInstance {
    name: String,
    addr: SocketAddr,
    state: Arc<State>,
    accepts: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct State {
    accepted: AtomicUsize,
    open: AtomicUsize,
    /// What is read before the instance speaks.
    header_len: usize,
    headers: Mutex<Vec<Vec<u8>>>,
}

impl TcpInstance {
    /// Starts one on a port of its own.
    pub async fn start(name: &str) -> Self {
        Self::start_with_header(name, 0).await
    }

    /// As [`TcpInstance::start`]; reads `len` bytes before it speaks, or with `usize::MAX` a line.
    ///
    /// # Panics
    /// There is no port.
    pub async fn start_with_header(name: &str, len: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(State { header_len: len, ..State::default() });
        let accepts = Mutex::new(Some(tokio::spawn(accept(listener, name.to_owned(), state.clone()))));
        Self { name: name.to_owned(), addr, state, accepts }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connections that it has accepted.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Relaxed)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.state.open.load(Relaxed)
    }

    /// What was read before it spoke, of each connection.
    pub fn headers(&self) -> Vec<Vec<u8>> {
        self.state.headers.lock().clone()
    }

    /// Closes the listener and cuts the connections, as the end of a process does.
    pub async fn kill(&self) {
        let accepts = self.accepts.lock().take();
        if let Some(accepts) = accepts {
            accepts.abort();
            let _ = accepts.await;
        }
    }

    /// Listens again at the same address.
    ///
    /// # Panics
    /// The address is taken.
    pub async fn listen_again(&self) {
        let listener = TcpListener::bind(self.addr).await.expect("the same address");
        let accepts = tokio::spawn(accept(listener, self.name.clone(), self.state.clone()));
        *self.accepts.lock() = Some(accepts);
    }
}

impl Drop for TcpInstance {
    fn drop(&mut self) {
        if let Some(accepts) = self.accepts.lock().take() {
            accepts.abort();
        }
    }
}

/// Its connections end with it.
async fn accept(listener: TcpListener, name: String, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.accepted.fetch_add(1, Relaxed);
        connections.spawn(echo(stream, name.clone(), state.clone()));
        while connections.try_join_next().is_some() {}
    }
}

struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

async fn echo(mut stream: TcpStream, name: String, state: Arc<State>) -> std::io::Result<()> {
    state.open.fetch_add(1, Relaxed);
    let _open = Open(state.clone());
    let _ = stream.set_nodelay(true);
    let mut header = Vec::new();
    while header.len() < state.header_len && !(state.header_len == usize::MAX && header.ends_with(b"\n")) {
        header.push(stream.read_u8().await?);
    }
    state.headers.lock().push(header);
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

/// The app's end of a connection.
#[derive(Debug)]
pub struct TcpClient {
    /// The connection.
    pub stream: TcpStream,
    /// The name of the instance, which it said first.
    pub instance: String,
}

impl TcpClient {
    /// Connects, and reads the name of the instance.
    ///
    /// # Panics
    /// There is no connection, or it ends before the name.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).await.expect("a connection to an instance")
    }

    /// As [`TcpClient::connect`].
    ///
    /// # Errors
    /// There is no connection, or it ends before the name.
    pub async fn try_connect(addr: SocketAddr) -> std::io::Result<Self> {
        wait::within("a connection to an instance", async {
            let mut stream = TcpStream::connect(addr).await?;
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                line.push(stream.read_u8().await?);
            }
            line.pop();
            Ok(Self { stream, instance: String::from_utf8_lossy(&line).into_owned() })
        })
        .await
    }

    /// Sends `text`, and reads the same back.
    ///
    /// # Panics
    /// Other bytes come, or the connection ends.
    pub async fn assert_echo(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("sent");
        let mut back = vec![0; text.len()];
        wait::within("the echo", self.stream.read_exact(&mut back)).await.expect("the echo");
        assert_eq!(String::from_utf8_lossy(&back), text);
    }

    /// Sends `len` bytes of the pattern while they come back, then ends the writing side and reads to the end.
    ///
    /// # Panics
    /// Other bytes come, or the connection ends early.
    pub async fn assert_echo_of_pattern(self, len: u64) {
        let (mut read, mut write) = self.stream.into_split();
        let sender = tokio::spawn(async move {
            let mut at = 0;
            while at < len {
                let part = pattern::slice_at(at, usize::try_from(len - at).unwrap_or(usize::MAX));
                write.write_all(part).await.expect("sent");
                at += part.len() as u64;
            }
            write.shutdown().await.expect("ended");
        });
        let mut buffer = vec![0; 256 * 1024];
        let mut at = 0;
        loop {
            let n = wait::within("more of the echo", read.read(&mut buffer)).await.expect("read");
            if n == 0 {
                break;
            }
            assert!(pattern::matches(at, &buffer[..n]), "other bytes at {at}");
            at += n as u64;
        }
        assert_eq!(at, len);
        wait::within("the sender ends", sender).await.expect("the sender");
    }

    /// Waits until the connection ends: `Ok` in order, else the error.
    ///
    /// # Panics
    /// Bytes come.
    pub async fn wait_end(&mut self) -> std::io::Result<()> {
        let read = wait::within("the connection ends", self.stream.read_u8()).await;
        match read {
            Ok(byte) => panic!("a byte came: {byte}"),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        }
    }
}
