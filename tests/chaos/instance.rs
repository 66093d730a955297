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
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Args;
use outrigger_tests::wire::{Cut, Framing, Received, Wire};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    time::{Instant, sleep},
};

/// How it is started.
#[derive(Debug, Args)]
pub(crate) struct Options {
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
    pub(crate) book: PathBuf,
    /// End with the standard input: not under a sidecar, which gives its app none
    #[arg(long)]
    pub(crate) stdin: bool,
}

/// What it does with requests. The default is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manners {
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

impl Default for Manners {
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
pub(crate) struct Report {
    /// Requests so far.
    pub(crate) requests: u64,
    /// Connections so far.
    pub(crate) accepted: u64,
    /// Connections open now.
    pub(crate) open: u64,
    /// Milliseconds since the last request; since its start when there was none.
    pub(crate) quiet_ms: u64,
}

struct Server {
    name: String,
    book: Mutex<File>,
    manners: watch::Sender<Manners>,
    requests: AtomicU64,
    accepted: AtomicU64,
    open: AtomicU64,
    last: Mutex<Instant>,
}

/// Serves until it is killed, or until its standard input ends.
pub(crate) fn run(options: &Options) -> ExitCode {
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

async fn serve(options: &Options) {
    let book = File::options().create(true).append(true).open(&options.book).expect("open the book");
    let server = Arc::new(Server {
        name: options.name.clone(),
        book: Mutex::new(book),
        manners: watch::channel(Manners::default()).0,
        requests: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
        open: AtomicU64::new(0),
        last: Mutex::new(Instant::now()),
    });
    let control = listen(options.control).await;
    tokio::spawn(orders(control, Arc::clone(&server)));
    let mut manners = server.manners.subscribe();
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

async fn accept(listener: TcpListener, server: &Arc<Server>) {
    loop {
        // Out of files for a moment: the next one may be accepted.
        let Ok((stream, _)) = listener.accept().await else { continue };
        server.accepted.fetch_add(1, Relaxed);
        server.open.fetch_add(1, Relaxed);
        let server = Arc::clone(server);
        tokio::spawn(async move {
            // How it ended is the client's to tell.
            let _ = connection(Wire::new(stream), &server).await;
            server.open.fetch_sub(1, Relaxed);
        });
    }
}

async fn connection(mut wire: Wire, server: &Server) -> Result<(), Cut> {
    let mut answers = 0;
    while let Some(head) = wire.head().await? {
        let manners = server.manners.borrow().clone();
        let (method, _, _) = head.words();
        if !manners.early {
            wire.body(head.framing(Framing::Length(0))?, &Mutex::new(Received::default())).await?;
        }
        server.write_down(method, head.get("x-chaos-id").unwrap_or("-"));
        if manners.delay_ms > 0 {
            tokio::select! {
                () = sleep(Duration::from_millis(manners.delay_ms)) => {}
                cut = wire.gone() => return Err(cut),
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

impl Server {
    /// Before the answer: what is written down can have been done, what is not cannot.
    fn write_down(&self, method: &str, id: &str) {
        self.requests.fetch_add(1, Relaxed);
        *self.last.lock().expect("the time of the last request") = Instant::now();
        let line = format!("{method} {id}\n");
        self.book.lock().expect("the book").write_all(line.as_bytes()).expect("write into the book");
    }

    fn report(&self) -> Report {
        let last = *self.last.lock().expect("the time of the last request");
        Report {
            requests: self.requests.load(Relaxed),
            accepted: self.accepted.load(Relaxed),
            open: self.open.load(Relaxed),
            quiet_ms: u64::try_from(last.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

async fn orders(listener: TcpListener, server: Arc<Server>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // One at a time: there is one who orders.
        let _ = order(stream, &server).await;
    }
}

/// A line: new manners, or nothing for a report only.
async fn order(stream: TcpStream, server: &Server) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    if !line.trim().is_empty() {
        let manners: Manners = serde_json::from_str(&line)?;
        server.manners.send_replace(manners);
    }
    let report = serde_json::to_string(&server.report())?;
    stream.get_mut().write_all(format!("{report}\n").as_bytes()).await
}
