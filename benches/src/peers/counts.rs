//! Instructions in user space (callgrind) and system calls (strace) per request.
//!
//! Other load on the machine hardly affects these figures, so that one measurement per run is enough.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{client, load::BackendGroup, proxy::ProxyProgram, tools::Tools, turn::PeerSetup};
use crate::{Error, error::doing};

/// Connections of the app in each measurement, and its requests in a full and in a quick run.
const MEASUREMENTS: [(usize, u64, u64); 2] = [(16, 20_000, 4000), (1, 5000, 1500)];
/// Requests before the count begins.
const WARM_UP: u64 = 500;

/// A count per request, over one number of connections.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CountResult {
    pub(super) connections: usize,
    pub(super) per_request: f64,
    /// The system calls by name, most frequent first; empty for instructions.
    pub(super) by_name: Vec<(String, f64)>,
}

impl PeerSetup<'_> {
    /// Instructions per request in user space; callgrind's profiles are copied to the directory `profiles`, if it is set.
    pub(super) async fn instructions(
        &self,
        proxy: ProxyProgram,
        program: &Path,
        tools: &Tools,
        profiles: Option<&Path>,
    ) -> Result<Vec<CountResult>, Error> {
        let vgdb = tools.require("vgdb")?;
        let (output, prefix) = (self.dir.join("callgrind"), self.dir.join("vgdb"));
        let option = |name: &str, path: &Path| {
            let mut option = OsString::from(name);
            option.push(path);
            option
        };
        let valgrind: [OsString; 4] = [
            tools.require("valgrind")?.into(),
            "--tool=callgrind".into(),
            option("--callgrind-out-file=", &output),
            option("--vgdb-prefix=", &prefix),
        ];
        let (mut process, addr) =
            self.place(BackendGroup::Answers, |place| proxy.start_under(&valgrind, program, place))?;
        client::until_it_answers(&mut process, addr).await?;
        let command = |command: &str| {
            let mut vgdb = Command::new(vgdb);
            vgdb.arg(option("--vgdb-prefix=", &prefix)).arg(format!("--pid={}", process.pid())).arg(command);
            run(&mut vgdb)
        };
        let generators = self.generators(addr);
        let mut results = Vec::new();
        for (part, (connections, full, quick)) in (1..).zip(MEASUREMENTS) {
            let requests = self.effort.choose(full, quick);
            generators.requests(WARM_UP, connections)?;
            command("zero")?;
            generators.requests(requests, connections)?;
            command("dump")?;
            let file = output.with_extension(part.to_string());
            let text = fs::read_to_string(&file).map_err(doing("read callgrind's profile"))?;
            let total = total_of(&text).ok_or_else(|| Error::new("find the total in callgrind's profile"))?;
            let per_request = total as f64 / requests as f64;
            results.push(CountResult { connections, per_request, by_name: Vec::new() });
            if let Some(profiles) = profiles {
                let copy = profiles.join(format!("callgrind.{}.{connections}", proxy.label()));
                fs::create_dir_all(profiles)
                    .and_then(|()| fs::copy(&file, &copy))
                    .map_err(doing(format!("write {}", copy.display())))?;
                eprintln!("  profile: {}", copy.display());
            }
        }
        Ok(results)
    }

    /// System calls per request.
    pub(super) async fn syscalls(
        &self,
        proxy: ProxyProgram,
        program: &Path,
        tools: &Tools,
    ) -> Result<Vec<CountResult>, Error> {
        let strace = tools.require("strace")?;
        let (mut process, addr) = self.place(BackendGroup::Answers, |place| proxy.start(program, place))?;
        client::until_it_answers(&mut process, addr).await?;
        let generators = self.generators(addr);
        let mut results = Vec::new();
        for (connections, full, quick) in MEASUREMENTS {
            let requests = self.effort.choose(full, quick);
            generators.requests(WARM_UP, connections)?;
            let table = self.dir.join("strace");
            let tracer = Tracer::attach(strace, process.pid(), &table)?;
            generators.requests(requests, connections)?;
            tracer.end()?;
            let text = fs::read_to_string(&table).map_err(doing("read strace's table"))?;
            let calls = calls_of(&text).ok_or_else(|| Error::new(format!("read strace's table: {text}")))?;
            let by_name: Vec<(String, f64)> =
                calls.into_iter().map(|(name, calls)| (name, calls as f64 / requests as f64)).collect();
            let per_request = by_name.iter().map(|(_, calls)| calls).sum();
            results.push(CountResult { connections, per_request, by_name });
        }
        Ok(results)
    }
}

/// strace, attached to a process.
#[derive(Debug)]
struct Tracer {
    child: Child,
    /// Open until strace ends, because a write to a closed pipe would end it early.
    errors: Option<BufReader<ChildStderr>>,
}

impl Tracer {
    /// Returns when strace counts.
    fn attach(strace: &Path, pid: u32, table: &Path) -> Result<Self, Error> {
        let mut command = Command::new(strace);
        command.args(["-c", "-f", "-p", &pid.to_string(), "-o"]).arg(table);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(doing("run strace"))?;
        let errors = child.stderr.take().map(BufReader::new);
        let mut tracer = Self { child, errors };
        let mut said = String::new();
        if let Some(errors) = &mut tracer.errors {
            // "Process 1 attached", or why not.
            errors.read_line(&mut said).map_err(doing("read from strace"))?;
        }
        if said.contains("attached") { Ok(tracer) } else { Err(Error::new(format!("attach strace: {said}"))) }
    }

    /// Detaches, whereupon strace writes its table.
    fn end(mut self) -> Result<(), Error> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::INT).map_err(doing("interrupt strace"))?;
        }
        self.child.wait().map_err(doing("wait for strace"))?;
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) -> Result<(), Error> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(doing(format!("run {name}")))?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::new(format!("{name} ended with {}: {said}", output.status)))
    }
}

/// The instructions that a profile of callgrind holds.
fn total_of(profile: &str) -> Option<u64> {
    let mut lines = profile.lines().rev();
    let total = lines.find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")))?;
    total.trim().parse().ok()
}

/// Names and numbers of calls in a table of `strace -c`, most frequent first.
fn calls_of(table: &str) -> Option<Vec<(String, u64)>> {
    let mut calls: Vec<(String, u64)> = table
        .lines()
        .filter(|line| {
            line.trim_start().starts_with(|c: char| c.is_ascii_digit()) && !line.ends_with(" total")
        })
        .map(|line| {
            // % time, seconds, usecs/call, calls, errors (or nothing), name
            let fields: Vec<&str> = line.split_whitespace().collect();
            Some(((*fields.last()?).to_owned(), fields.get(3)?.parse().ok()?))
        })
        .collect::<Option<_>>()?;
    calls.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
    (!calls.is_empty()).then_some(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRACE: &str = "% time     seconds  usecs/call     calls    errors syscall\n\
        ------ ----------- ----------- --------- --------- ----------------\n\
        \x20 60.00    0.047018          23      2000           sendto\n\
        \x20 40.00    0.036218          17      2051        51 recvfrom\n\
        ------ ----------- ----------- --------- --------- ----------------\n\
        100.00    0.083236          20      4051        51 total\n";

    #[test]
    fn a_table_of_strace_is_read() {
        let calls = [("recvfrom".to_owned(), 2051), ("sendto".to_owned(), 2000)];
        assert_eq!(calls_of(STRACE), Some(calls.to_vec()));
        assert_eq!(calls_of("strace: attach: Operation not permitted"), None);
    }

    #[test]
    fn the_total_of_a_profile_is_read() {
        assert_eq!(total_of("events: Ir\nsummary: 12\nfn=(1) a\n0 12\n\ntotals: 13\n"), Some(13));
        assert_eq!(total_of("events: Ir\nsummary: 12\n"), Some(12));
        assert_eq!(total_of("events: Ir\n"), None);
    }
}
