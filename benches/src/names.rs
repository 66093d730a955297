//! What an answer of the DNS listener costs.
//!
//! dnsperf, or where it is not available a sender of ours, asks one sidecar for as many names as it answers, with 100 questions on their way: 16
//! services of three instances each, by A and SRV. The figure is the processor time of the sidecar for each answer, so that the
//! sender's own share of the machine does not count; 50 µs are 20,000 answers a second on one core.

use std::{
    convert::Infallible, fmt::Write as _, io, net::SocketAddr, path::Path, process::Stdio, time::Duration,
};

use outrigger_tests::{
    dns::{self, A, SRV},
    process::Process,
    tool, usage,
};
use tokio::{net::UdpSocket, process::Command, runtime, task::JoinSet};

use crate::{
    Effort, Error,
    clock::Stopwatch,
    error::doing,
    report::{Finding, Section, Table},
    stats::Samples,
};

const SERVICES: usize = 16;
const INSTANCES: usize = 3;
/// Microseconds of processor time for each answer.
const TARGET: f64 = 50.0;
/// Questions on their way at once.
const AT_ONCE: usize = 100;

/// Measures both kinds of answers.
///
/// # Errors
/// A process cannot be started.
pub fn run(effort: Effort) -> Result<Section, Error> {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(doing("build a runtime"))?;
    let (rounds, seconds) = effort.choose((5, 10), (1, 2));
    let dnsperf = tool::find("dns.sh", &[]);
    let mut table = Table::new(
        "Answers by UDP; microseconds of the sidecar's processor time for each, median (least to greatest)",
        ["answer", "µs", "answers a second"],
    );
    let mut section = Section::new("Names by DNS");
    for answer in ["loopback", "instances"] {
        let (mut took, mut rates) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (micros, rate) = runtime.block_on(measure(answer, dnsperf.as_deref().ok(), seconds))?;
            took.push(micros);
            rates.push(rate);
        }
        let (took, rates) = (Samples::new(took), Samples::new(rates));
        table.row([answer.to_owned(), took.spread(), format!("{:.0}", rates.median())]);
        let what = format!("an answer by DNS, {answer}");
        section = section.finding(Finding::below(what, took.median(), "µs", TARGET));
    }
    let sender = match dnsperf {
        Ok(_) => "dnsperf".to_owned(),
        Err(why) => format!("our own sender ({why})"),
    };
    Ok(section.table(table).remark(format!(
        "{rounds} rounds of {seconds} s by {sender}, {AT_ONCE} questions at once; sender and sidecar share the machine."
    )))
}

/// The processor time of each answer in microseconds, and the answers per second of wall time.
async fn measure(answer: &str, dnsperf: Option<&Path>, seconds: u64) -> Result<(f64, f64), Error> {
    let folder = tempfile::tempdir().map_err(doing("make a folder"))?;
    let mut services = String::from("services:\n");
    for n in 0..SERVICES {
        let one = |i: usize| format!("{{id: s{n}-{i}, address: 127.0.{n}.{i}, port: 80}}");
        let all: Vec<_> = (1..=INSTANCES).map(one).collect();
        let _ = writeln!(services, "  s{n}: [{}]", all.join(", "));
    }
    let file = folder.path().join("services.yaml");
    std::fs::write(&file, services).map_err(doing("write the services"))?;
    let listen = outrigger_net::reserve_addr();
    let settings = format!(
        "registry: {{file: {file:?}}}\nworkers: 1\ndns: {{listen: \"{listen}\", answer: {answer}}}\n"
    );
    let process = Process::run(&settings).await;
    process.wait_ready().await;
    for n in 0..SERVICES {
        dns::ask(listen, &format!("s{n}.service.consul"), A).await;
    }
    let (before, watch) = (usage::cpu_time(process.pid()), Stopwatch::start());
    let answered = match dnsperf {
        Some(tools) => by_dnsperf(tools, listen, folder.path(), seconds).await?,
        None => by_ourselves(listen, Duration::from_secs(seconds)).await,
    };
    let (wall, used) = (watch.elapsed().wall, usage::cpu_time(process.pid()) - before);
    if answered == 0 {
        return Err(Error::new("no question of DNS was answered"));
    }
    Ok((used.as_secs_f64() * 1e6 / answered as f64, answered as f64 / wall.as_secs_f64()))
}

async fn by_dnsperf(tools: &Path, server: SocketAddr, folder: &Path, seconds: u64) -> Result<u64, Error> {
    let questions: String =
        (0..SERVICES).map(|n| format!("s{n}.service.consul A\n_s{n}._tcp.service.consul SRV\n")).collect();
    let file = folder.join("questions");
    std::fs::write(&file, questions).map_err(doing("write the questions"))?;
    let output = Command::new(tools)
        .args(["dnsperf", "-s", &server.ip().to_string(), "-p", &server.port().to_string()])
        .args(["-l", &seconds.to_string(), "-q", &AT_ONCE.to_string(), "-c", "4", "-d"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(doing("run dnsperf"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let completed = text.lines().find_map(|line| line.trim().strip_prefix("Queries completed:"));
    let count = completed.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    count.ok_or_else(|| Error::new(format!("dnsperf: {text}{}", String::from_utf8_lossy(&output.stderr))))
}

async fn by_ourselves(server: SocketAddr, within: Duration) -> u64 {
    let mut senders = JoinSet::new();
    for n in 0..AT_ONCE {
        senders.spawn(async move {
            let mut answered = 0;
            // It ends with the time alone, or with an error of the socket.
            let _ = tokio::time::timeout(within, ask_again_and_again(server, n, &mut answered)).await;
            answered
        });
    }
    let mut answered = 0;
    while let Some(Ok(count)) = senders.join_next().await {
        answered += count;
    }
    answered
}

async fn ask_again_and_again(server: SocketAddr, n: usize, answered: &mut u64) -> io::Result<Infallible> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.connect(server).await?;
    let name = format!("s{}.service.consul", n % SERVICES);
    let question = dns::question(1, &name, if n.is_multiple_of(2) { A } else { SRV }, Some(1232));
    let mut buffer = [0; 2048];
    loop {
        socket.send(&question).await?;
        socket.recv(&mut buffer).await?;
        *answered += 1;
    }
}
