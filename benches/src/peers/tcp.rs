//! What a gibibyte through a TCP listener costs, beside HAProxy in `mode tcp`.
//!
//! Both proxies run on one core, with one worker and their defaults. They take turns within each round, so that other load on the machine
//! affects both; the ratio is that of a round.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use super::{process::PinnedProcess, proxy::ProxyProgram, tools::Tools};
use crate::{
    Effort, Error,
    error::doing,
    machine::{self, cpu_time},
    report::{Finding, Section, Table},
    stats::{Samples, ratios},
};

/// Of HAProxy's processor time.
const TARGET: f64 = 1.1;
/// What a client and the server read and write at once.
const BLOCK: usize = 256 * 1024;
/// How often a connection through a proxy that starts is tried.
const TRIES: usize = 200;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Download,
    Upload,
}

impl Way {
    const ALL: [Self; 2] = [Self::Download, Self::Upload];

    fn label(self) -> &'static str {
        match self {
            Self::Download => "to the app",
            Self::Upload => "to the instance",
        }
    }

    /// The first byte of a connection, which tells the server what follows.
    fn command(self) -> u8 {
        match self {
            Self::Download => b'd',
            Self::Upload => b'u',
        }
    }
}

/// Measures both ways.
///
/// # Errors
/// A program is missing or does not start.
pub fn run(outrigger: &Path, effort: Effort, rounds: Option<usize>) -> Result<Section, Error> {
    let tools = Tools::find()?;
    let haproxy = tools.require("haproxy")?;
    let rounds = rounds.unwrap_or(effort.choose(9, 3)).max(1);
    let len: u64 = effort.choose(1 << 30, 1 << 28);
    let core = machine::cores()?.first().copied().unwrap_or_default();
    let dir = tempfile::tempdir().map_err(doing("make a folder"))?;
    let server = start_server(len).map_err(doing("start a server"))?;
    let programs = [(ProxyProgram::Outrigger, outrigger), (ProxyProgram::Haproxy, haproxy)];
    let mut proxies = Vec::new();
    for (proxy, program) in programs {
        proxies.push(start(proxy, program, dir.path(), core, server)?);
    }
    let mut section = Section::new("A gibibyte of TCP");
    let mut table = Table::new(
        format!(
            "Milliseconds of the proxy's processor time for {} MiB over one connection, median (least to greatest)",
            len >> 20
        ),
        ["way", "Outrigger", "HAProxy", "ratio of each round"],
    );
    for way in Way::ALL {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for ((process, addr), took) in proxies.iter_mut().zip(&mut took) {
                process.check_running()?;
                let before = cpu_time(process.pid())?;
                transfer(*addr, way, len).map_err(doing(format!("carry bytes {}", way.label())))?;
                took.push((cpu_time(process.pid())? - before).as_secs_f64() * 1e3);
            }
        }
        let [ours, theirs] = &took;
        let ratio = ratios(ours, theirs);
        let [ours, theirs] = [ours, theirs].map(|took| Samples::new(took.iter().copied()).spread());
        table.row([way.label().to_owned(), ours, theirs, ratio.middle()]);
        let what = format!("processor time of a gibibyte of TCP {}, × HAProxy", way.label());
        section = section.finding(Finding::at_most(what, &ratio, "", TARGET));
    }
    let versions = programs.map(|(proxy, program)| format!("{proxy} {}", proxy.version(program))).join(", ");
    Ok(section.table(table).remark(format!("{rounds} rounds. {versions}.")))
}

#[expect(clippy::disallowed_methods, reason = "no worker runs on this thread")]
fn pause() {
    thread::sleep(Duration::from_millis(25));
}

/// Starts a proxy before `server`, and waits until it carries bytes: the process, and where it listens.
fn start(
    proxy: ProxyProgram,
    program: &Path,
    dir: &Path,
    core: usize,
    server: SocketAddr,
) -> Result<(PinnedProcess, SocketAddr), Error> {
    let listen = outrigger_net::reserve_addr();
    let (file, text) = match proxy {
        ProxyProgram::Haproxy => (
            "haproxy-tcp.cfg",
            format!(
                "global\n    nbthread 1\ndefaults\n    mode tcp\n    timeout connect 1s\n    timeout client 1h\n    timeout server 1h\n\
                 frontend in\n    bind {listen}\n    default_backend db\nbackend db\n    server s1 {server}\n"
            ),
        ),
        _ => {
            let services = dir.join("tcp-services.yaml");
            let (ip, port) = (server.ip(), server.port());
            fs::write(&services, format!("services: {{db: [{{address: {ip}, port: {port}}}]}}\n"))
                .map_err(doing("write the services"))?;
            let settings = format!(
                "registry: {{file: {services:?}}}\noutbound: {{listen: \"127.0.0.1:0\"}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
                 workers: 1\nupstreams: [{{service: db, protocol: tcp, listen: \"{listen}\"}}]\n"
            );
            ("outrigger-tcp.yaml", settings)
        }
    };
    let file = dir.join(file);
    fs::write(&file, text).map_err(doing(format!("write {}", file.display())))?;
    let (program, file) = (program.display().to_string(), file.display().to_string());
    let line = match proxy {
        ProxyProgram::Haproxy => [&*program, "-db", "-f", &*file],
        _ => [&*program, "run", "-c", &*file],
    };
    let mut process = PinnedProcess::start(proxy.label(), dir, core, line)?;
    for _ in 0..TRIES {
        process.check_running()?;
        if transfer(listen, Way::Upload, 1).is_ok() {
            return Ok((process, listen));
        }
        pause();
    }
    Err(Error::new(format!("{proxy} carries nothing")))
}

/// Moves `len` bytes over a connection of its own.
fn transfer(addr: SocketAddr, way: Way, len: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(&[way.command()])?;
    match way {
        Way::Upload => {
            write(&mut stream, len)?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_exact(&mut [0])
        }
        Way::Download if read(&mut stream)? == len => Ok(()),
        Way::Download => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn write(stream: &mut TcpStream, len: u64) -> io::Result<()> {
    let block = vec![b'x'; BLOCK];
    let mut left = len;
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        stream.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Reads to the end: the number of bytes.
fn read(stream: &mut TcpStream) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut all = 0;
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(all),
            n => all += n as u64,
        }
    }
}

/// A server on a thread of its own, until the end of this process.
fn start_server(len: u64) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    // Contained: a measurement, of which the transfer then fails.
    thread::spawn(move || {
        for stream in listener.incoming() {
            // As does one connection.
            let _ = stream.and_then(|stream| answer(stream, len));
        }
    });
    Ok(addr)
}

fn answer(mut stream: TcpStream, len: u64) -> io::Result<()> {
    let mut command = [0];
    stream.read_exact(&mut command)?;
    if command == [Way::Download.command()] {
        return write(&mut stream, len);
    }
    read(&mut stream)?;
    stream.write_all(b"k")
}
