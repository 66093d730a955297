//! The load generators, and their reports.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use super::{
    load::{Load, LoadLength, LoadShape},
    process::pinned,
    proxy::SERVICE,
};
use crate::{Effort, Error, error::doing, stats::Samples};

/// The report of a load generator.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LoadResult {
    /// Answered requests.
    pub(super) requests: u64,
    /// Requests that were answered with an error or not at all.
    pub(super) failed: u64,
    pub(super) seconds: f64,
    /// Milliseconds.
    pub(super) p50: f64,
    /// Milliseconds.
    pub(super) p99: f64,
}

/// The load generators, and the target of the load.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadGenerators<'a> {
    pub(super) wrk: &'a Path,
    pub(super) h2load: &'a Path,
    pub(super) core: usize,
    pub(super) to: SocketAddr,
    pub(super) dir: &'a Path,
}

impl LoadGenerators<'_> {
    /// Runs a load.
    pub(super) fn run(&self, load: Load, effort: Effort) -> Result<LoadResult, Error> {
        let shape = load.shape();
        match (load.length(effort), shape.rate) {
            (LoadLength::Seconds(seconds), None) => self.wrk(shape, seconds),
            (LoadLength::Seconds(seconds), Some(rate)) => self.h2load(
                shape,
                &["--rps", &(rate / shape.connections).to_string(), "--duration", &seconds.to_string()],
            ),
            (LoadLength::Requests(count), _) => {
                let body = self.dir.join("body");
                fs::write(&body, vec![b'x'; shape.body]).map_err(doing("write the body of the uploads"))?;
                self.h2load(shape, &["--requests", &count.to_string(), "--data", &body.to_string_lossy()])
            }
        }
    }

    /// A number of GET requests over `connections`, all of which must be answered.
    pub(super) fn requests(&self, count: u64, connections: usize) -> Result<(), Error> {
        let mut command = pinned(self.core, self.h2load);
        command.args(["--h1", "--threads", "1", "--clients", &connections.to_string()]);
        command.args(["--requests", &count.to_string(), &format!("--connect-to={}", self.to)]);
        command.arg(format!("http://{SERVICE}/"));
        let printed = run_generator("h2load", &mut command)?;
        if printed.contains(&format!(" {count} succeeded, 0 failed")) {
            Ok(())
        } else {
            Err(Error::new(format!("send {count} requests: {printed}")))
        }
    }

    /// Each connection sends its next request when it has the response.
    fn wrk(&self, shape: LoadShape, seconds: u64) -> Result<LoadResult, Error> {
        let mut command = pinned(self.core, self.wrk);
        command.args(["--threads", "1", "--latency", "--timeout", "30s"]);
        command.args(["--connections", &shape.connections.to_string()]);
        command.args(["--duration", &format!("{seconds}s")]);
        command.args(["--header", &format!("Host: {SERVICE}")]);
        if shape.close {
            // wrk opens the next connection when the answer says that this one is closed.
            command.args(["--header", "Connection: close"]);
        }
        if shape.body > 0 {
            // The script has no functions, so that wrk formats the request once and calls no Lua per request.
            let script = self.dir.join("post.lua");
            let text = format!("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", {})\n", shape.body);
            fs::write(&script, text).map_err(doing("write the script of wrk"))?;
            command.arg("--script").arg(script);
        }
        command.arg(format!("http://{}{}", self.to, shape.path));
        let printed = run_generator("wrk", &mut command)?;
        parse_wrk(&printed).ok_or_else(|| Error::new(format!("read the report of wrk: {printed}")))
    }

    /// A load with options that wrk lacks: a rate, or a number of requests.
    fn h2load(&self, shape: LoadShape, how: &[&str]) -> Result<LoadResult, Error> {
        let log = self.dir.join("h2load.log");
        // h2load appends to an existing file.
        let _ = fs::remove_file(&log);
        let mut command = pinned(self.core, self.h2load);
        command.args(["--h1", "--threads", "1", "--clients", &shape.connections.to_string()]).args(how);
        command.arg("--log-file").arg(&log).arg(format!("--connect-to={}", self.to));
        command.arg(format!("http://{SERVICE}{}", shape.path));
        let printed = run_generator("h2load", &mut command)?;
        let text =
            fs::read_to_string(&log).map_err(doing(format!("read h2load's log; it printed: {printed}")))?;
        parse_h2load(&text).ok_or_else(|| Error::new(format!("read h2load's log; it printed: {printed}")))
    }
}

fn run_generator(name: &str, command: &mut Command) -> Result<String, Error> {
    let output = command.stderr(Stdio::piped()).output().map_err(doing(format!("run {name}")))?;
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() {
        Ok(printed)
    } else {
        Err(Error::new(format!("{name} ended with {}: {printed}", output.status)))
    }
}

/// wrk's report.
fn parse_wrk(text: &str) -> Option<LoadResult> {
    let after = |key: &str| text.lines().find_map(|line| line.trim().strip_prefix(key).map(str::trim));
    let ending = |key: &str| text.lines().find_map(|line| line.trim().split_once(key));
    let (requests, rest) = ending(" requests in ")?;
    let (time, _) = rest.split_once(',')?;
    let bad = after("Non-2xx or 3xx responses:").map_or(Some(0), |count| count.parse().ok())?;
    let broken = after("Socket errors:").map_or(Some(0), |errors| {
        errors.split(',').map(|part| part.trim().split_once(' ')?.1.parse::<u64>().ok()).sum()
    })?;
    Some(LoadResult {
        requests: requests.parse().ok()?,
        failed: bad + broken,
        seconds: millis(time)? / 1e3,
        p50: millis(after("50%")?)?,
        p99: millis(after("99%")?)?,
    })
}

/// `1.25ms` and the like.
fn millis(text: &str) -> Option<f64> {
    let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3), ("m", 6e4), ("h", 3.6e6)];
    let (number, factor) =
        units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    Some(number.parse::<f64>().ok()? * factor)
}

/// h2load's log: a line per request with its start since the epoch (microseconds), its status and its
/// duration (microseconds).
fn parse_h2load(text: &str) -> Option<LoadResult> {
    let lines: Vec<[i64; 3]> = text
        .lines()
        .map(|line| {
            let mut fields = line.split('\t').map(|field| field.parse().ok());
            Some([fields.next()??, fields.next()??, fields.next()??])
        })
        .collect::<Option<_>>()?;
    let first = lines.iter().map(|[start, ..]| start).min()?;
    let last = lines.iter().map(|[start, _, took]| start + took).max()?;
    let times = Samples::new(lines.iter().map(|[.., took]| *took as f64 / 1e3));
    Some(LoadResult {
        requests: lines.len() as u64,
        failed: lines.iter().filter(|[_, status, _]| *status != 200).count() as u64,
        seconds: (last - first) as f64 / 1e6,
        p50: times.median(),
        p99: times.percentile(0.99),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 3s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n\
        \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.30ms  210.00us  9.00ms   90.00%\n\
        \x20 Latency Distribution\n     50%    1.25ms\n     75%    1.40ms\n     90%    1.60ms\n     99%    850.00us\n\
        \x20 73561 requests in 3.10s, 92.61MB read\n";

    #[test]
    fn a_report_of_wrk_is_read() {
        let seen = LoadResult { requests: 73_561, failed: 0, seconds: 3.1, p50: 1.25, p99: 0.85 };
        assert_eq!(parse_wrk(WRK), Some(seen));
    }

    #[test]
    fn errors_of_any_kind_are_failed_requests() {
        let text = format!(
            "{WRK}  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 8\n"
        );
        assert_eq!(parse_wrk(&text).map(|seen| seen.failed), Some(15));
        assert_eq!(parse_wrk("unable to connect"), None);
    }

    #[test]
    fn a_log_of_h2load_is_read() {
        let seen = LoadResult { requests: 3, failed: 1, seconds: 2.0, p50: 2.0, p99: 3.0 };
        assert_eq!(parse_h2load("1000000\t200\t1000\n2000000\t-1\t2000\n2997000\t200\t3000\n"), Some(seen));
        assert_eq!(parse_h2load(""), None);
    }
}
