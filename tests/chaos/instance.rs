//! A small server process, made ill at run time over its control port.
//!
//! It writes down every request before it answers, in a file that outlives `kill -9`: what two
//! instances have written down was done twice.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use outrigger_tests::wire::{Framing, ReceivedBody, Wire, WireError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::{Instant, sleep},
};

/// How it is started.
#[derive(Debug, Args)]
pub(crate) struct InstanceOptions {
    /// Its name, in `x-instance` of each answer
    #[arg(long)]
    pub(crate) name: String,
    /// Where it serves
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// Where it takes orders: a line of JSON in, a line of JSON back
    #[arg(long)]
    pub(crate) control: SocketAddr,
    /// The file it writes every request down in
    #[arg(long)]
    pub(crate) request_log: PathBuf,
    /// End with the standard input: not under a sidecar, which gives its app none
    #[arg(long)]
    pub(crate) stdin: bool,
}

/// What it does with requests. The default is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Behaviour {
    /// Every answer's status.
    pub(crate) status: u16,
    /// Every answer's pause before.
    pub(crate) delay_ms: u64,
    /// Connections are closed after this many answers. 0: never.
    pub(crate) close_after: u64,
    /// The last answer before that says so.
    pub(crate) announce: bool,
    /// Pause between that answer and the close, into which the next request may fall.
    pub(crate) linger_ms: u64,
    /// Half of each answer's body, then the end of the connection.
    pub(crate) half: bool,
    /// Answers before it has read a request's body, then closes.
    pub(crate) early: bool,
    /// Connections are refused.
    pub(crate) refuse: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            status: 200,
            delay_ms: 0,
            close_after: 0,
            announce: false,
            linger_ms: 0,
            half: false,
            early: false,
            refuse: false,
        }
    }
}

/// What it has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceReport {
    /// Requests so far.
    pub(crate) requests: u64,
    /// Connections so far.
    pub(crate) accepted: u64,
    /// Connections open now.
    pub(crate) open: u64,
    /// Milliseconds since the last request; since its start when there was none.
    pub(crate) quiet_ms: u64,
}

struct ServerState {
    name: String,
    request_log: Mutex<File>,
    behaviour: watch::Sender<Behaviour>,
    requests: AtomicU64,
    accepted: AtomicU64,
    open: AtomicU64,
    last: Mutex<Instant>,
}

/// Serves until it is killed, or until its standard input ends.
pub(crate) fn run(options: &InstanceOptions) -> ExitCode {
    if options.stdin {
        std::thread::spawn(|| {
            // Nothing is ever written: it only ends.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(serve(options));
    ExitCode::SUCCESS
}

async fn serve(options: &InstanceOptions) {
    let book = File::options().create(true).append(true).open(&options.request_log).expect("open the book");
    let server = Arc::new(ServerState {
        name: options.name.clone(),
        request_log: Mutex::new(book),
        behaviour: watch::channel(Behaviour::default()).0,
        requests: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
        open: AtomicU64::new(0),
        last: Mutex::new(Instant::now()),
    });
    let control = listen(options.control).await;
    tokio::spawn(accept_commands(control, Arc::clone(&server)));
    let mut manners = server.behaviour.subscribe();
    loop {
        let listener = listen(options.listen).await;
        tokio::select! {
            () = accept(listener, &server) => {}
            _ = manners.wait_for(|manners| manners.refuse) => {}
        }
        // Its own sender is in `server`: neither wait can fail.
        let _ = manners.wait_for(|manners| !manners.refuse).await;
    }
}

/// Its port may be somebody's for a moment: until the one before it is gone.
async fn listen(addr: SocketAddr) -> TcpListener {
    loop {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        match socket.bind(addr).and_then(|()| socket.listen(1024)) {
            Ok(listener) => return listener,
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn accept(listener: TcpListener, server: &Arc<ServerState>) {
    loop {
        // Out of files for a moment: the next one may be accepted.
        let Ok((stream, _)) = listener.accept().await else { continue };
        server.accepted.fetch_add(1, Relaxed);
        server.open.fetch_add(1, Relaxed);
        let server = Arc::clone(server);
        tokio::spawn(async move {
            // How it ended is the client's to tell.
            let _ = serve_connection(Wire::new(stream), &server).await;
            server.open.fetch_sub(1, Relaxed);
        });
    }
}

async fn serve_connection(mut wire: Wire, server: &ServerState) -> Result<(), WireError> {
    let mut answers = 0;
    while let Some(head) = wire.read_head().await? {
        let manners = server.behaviour.borrow().clone();
        let (method, _, _) = head.split_start_line();
        if !manners.early {
            wire.read_body(head.framing(Framing::Length(0))?, &Mutex::new(ReceivedBody::default())).await?;
        }
        server.log_request(method, head.get("x-load-id").unwrap_or("-"));
        if manners.delay_ms > 0 {
            tokio::select! {
                () = sleep(Duration::from_millis(manners.delay_ms)) => {}
                cut = wire.wait_closed() => return Err(cut),
            }
        }
        answers += 1;
        let last = manners.close_after > 0 && answers >= manners.close_after;
        let closing = if (last && manners.announce) || manners.early { "connection: close\r\n" } else { "" };
        let (status, name) = (manners.status, &server.name);
        let body = if method == "HEAD" { "" } else { "done" };
        let body = if manners.half { "do" } else { body };
        wire.write(
            format!(
                "HTTP/1.1 {status} Chaos\r\nx-instance: {name}\r\n{closing}content-length: 4\r\n\r\n{body}"
            )
            .as_bytes(),
        )
        .await?;
        if last && manners.linger_ms > 0 {
            sleep(Duration::from_millis(manners.linger_ms)).await;
        }
        if last || manners.half || manners.early {
            return Ok(());
        }
    }
    Ok(())
}

impl ServerState {
    /// Before the answer: what is written down can have been done, what is not cannot.
    fn log_request(&self, method: &str, id: &str) {
        self.requests.fetch_add(1, Relaxed);
        *self.last.lock() = Instant::now();
        let line = format!("{method} {id}\n");
        self.request_log.lock().write_all(line.as_bytes()).expect("write into the book");
    }

    fn report(&self) -> InstanceReport {
        let last = *self.last.lock();
        InstanceReport {
            requests: self.requests.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            open: self.open.load(Relaxed),
            quiet_ms: u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

async fn accept_commands(listener: TcpListener, server: Arc<ServerState>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // One at a time: there is one who orders.
        let _ = handle_command(stream, &server).await;
    }
}

/// A line: new manners, or nothing for a report only.
async fn handle_command(stream: TcpStream, server: &ServerState) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    if !line.trim().is_empty() {
        let manners: Behaviour = serde_json::from_str(&line)?;
        server.behaviour.send_replace(manners);
    }
    let report = serde_json::to_string(&server.report())?;
    stream.get_mut().write_all(format!("{report}\n").as_bytes()).await
}
