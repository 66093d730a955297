//! A small server process; its behaviour can be changed at run time.
//!
//! It logs every request before it answers, in a file that outlives `kill -9`: a request that two instances
//! have logged was executed twice. A request to [`CONTROL`] is not logged.

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
use outrigger_tests::instance::{Answer, Instance, Request};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The target that takes a new behaviour, as JSON in [`BEHAVIOUR_FIELD`], or none, and answers how many
/// requests were logged.
pub(crate) const CONTROL: &str = "/control";
/// The field with the new behaviour.
pub(crate) const BEHAVIOUR_FIELD: &str = "x-behaviour";

/// The options of the process.
#[derive(Debug, Args)]
pub(crate) struct InstanceOptions {
    /// Its name, in `x-instance` of each answer
    #[arg(long)]
    pub(crate) name: String,
    /// Where it serves
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// The file that every request is logged in
    #[arg(long)]
    pub(crate) request_log: PathBuf,
    /// A file that it reads at its start, where there is one: `end` ends it, `ill` keeps it from serving
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// Exit when the standard input ends: not under a sidecar, which gives its app none
    #[arg(long)]
    pub(crate) stdin: bool,
}

/// How it answers. The default is 200 at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Behaviour {
    /// The status of every answer.
    pub(crate) status: u16,
    /// Milliseconds before every answer.
    pub(crate) delay_ms: u64,
    /// Answers after which a connection is closed, without notice. 0: no limit.
    pub(crate) close_after: usize,
    /// Milliseconds between the last answer and the close; the next request may arrive in this time.
    pub(crate) linger_ms: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { status: 200, delay_ms: 0, close_after: 0, linger_ms: 0 }
    }
}

struct ServerState {
    name: String,
    request_log: Mutex<File>,
    behaviour: Mutex<Behaviour>,
    requests: AtomicU64,
}

/// Serves until it is killed, or until its standard input ends.
pub(crate) fn run(options: &InstanceOptions) -> ExitCode {
    if options.stdin {
        std::thread::spawn(|| {
            // Nothing is ever written: the input only ends.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
    }
    match options.config.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).as_deref() {
        Some("end") => return ExitCode::FAILURE,
        Some("ill") => loop {
            std::thread::park();
        },
        _ => {}
    }
    let log = File::options().create(true).append(true).open(&options.request_log);
    let server = Arc::new(ServerState {
        name: options.name.clone(),
        request_log: Mutex::new(log.expect("open the request log")),
        behaviour: Mutex::default(),
        requests: AtomicU64::new(0),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let answer = move |request: &Request| answer(&server, request);
        let _instance = Instance::start_on(options.listen, &options.name, answer).await;
        std::future::pending::<ExitCode>().await
    })
}

fn answer(server: &Arc<ServerState>, request: &Request) -> Answer {
    if request.target() == CONTROL {
        if let Some(behaviour) = request.head.get(BEHAVIOUR_FIELD) {
            *server.behaviour.lock() = serde_json::from_str(behaviour).expect("a behaviour");
        }
        return Answer::ok(server.requests.load(Relaxed).to_string());
    }
    let behaviour = server.behaviour.lock().clone();
    let line = format!("{} {}\n", request.method(), request.head.get("x-load-id").unwrap_or("-"));
    let logging = Arc::clone(server);
    // In one write: a kill between two would leave half an answer, which no sidecar can repeat.
    let (status, name) = (behaviour.status, &server.name);
    let text = format!("HTTP/1.1 {status} Scripted\r\nx-instance: {name}\r\ncontent-length: 4\r\n\r\ndone");
    let answer = Answer::raw(text)
        .calling(move || logging.log(&line))
        .delayed(Duration::from_millis(behaviour.delay_ms));
    if behaviour.close_after > 0 && request.nth_on_connection + 1 >= behaviour.close_after {
        answer.then_pause(Duration::from_millis(behaviour.linger_ms)).then_close()
    } else {
        answer
    }
}

impl ServerState {
    /// Called before the answer: a request that is not logged cannot have been executed.
    fn log(&self, line: &str) {
        self.requests.fetch_add(1, Relaxed);
        self.request_log.lock().write_all(line.as_bytes()).expect("write into the request log");
    }
}
