//! Runs the suites, several at once, and prints the rows as they end.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use outrigger_tests::{
    consul::Consul,
    tool::{self, ToolMissing},
};
use tokio::{process::Command, time::Instant};

use crate::{
    expected::ExpectedList,
    outcome::{self, Observed},
    registry::Registry,
    suite::{Side, Suite, file},
    suites,
};

/// How many rows run at once. They have a registry each, and mostly wait.
const AT_ONCE: usize = 3;

/// Which suites, and where.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Also on the real Consul where that takes minutes
    #[arg(long)]
    consul: bool,
    /// Write what was observed into the lists
    #[arg(long)]
    record: bool,
    /// List the suites
    #[arg(long)]
    list: bool,
    /// Only these suites
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
}

/// The end of a row.
enum RowEnd {
    /// This machine cannot run it.
    Skipped(ToolMissing),
    /// What the program reported, the file with its whole output, and the seconds that it took.
    Ran(Observed, PathBuf, u64),
}

/// What all rows have counted.
#[derive(Debug, Default)]
struct Counts {
    as_listed: usize,
    not_as_listed: usize,
    skipped: usize,
}

/// Runs the chosen suites.
///
/// # Errors
/// There is no such suite, or a list cannot be read or written.
pub(crate) async fn run(options: &RunOptions) -> Result<ExitCode, String> {
    if options.list {
        for suite in suites::ALL {
            print_line(&format!("{:<20} {}", suite.name, suite.about));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (mut lists, mut rows) = (Vec::new(), Vec::new());
    for suite in chosen(&options.suites)? {
        let list = file(&format!("expected/{}.txt", suite.name));
        let text = std::fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
        let expected = ExpectedList::parse(&text).map_err(|why| format!("{}: {why}", list.display()))?;
        for side in Side::ALL {
            let wanted = !side.is_consul() || suite.quick_on_consul || options.consul;
            if wanted && expected.has(side) {
                rows.push((lists.len(), suite, side));
            }
        }
        lists.push((list, expected));
    }
    let mut counts = Counts::default();
    let mut running = stream::iter(rows)
        .map(async |(at, suite, side)| (at, suite, side, run_on(&suite, side).await))
        .buffer_unordered(AT_ONCE);
    while let Some((at, suite, side, end)) = running.next().await {
        let (_, expected) = &mut lists[at];
        compare(&suite, side, end?, expected, options.record, &mut counts);
    }
    if options.record {
        for (list, expected) in lists {
            std::fs::write(&list, expected.to_string())
                .map_err(|error| format!("{}: {error}", list.display()))?;
        }
    }
    let Counts { as_listed, not_as_listed, skipped } = counts;
    print_line(&format!("\n{as_listed} as listed, {not_as_listed} not as listed, {skipped} skipped"));
    Ok(if not_as_listed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(names: &[String]) -> Result<Vec<Suite>, String> {
    if names.is_empty() {
        return Ok(suites::ALL.to_vec());
    }
    let find = |name: &String| {
        suites::ALL
            .into_iter()
            .find(|suite| suite.name == name)
            .ok_or_else(|| format!("there is no suite {name:?}; foreign --list lists them"))
    };
    names.iter().map(find).collect()
}

/// Runs a suite on one side.
async fn run_on(suite: &Suite, side: Side) -> Result<RowEnd, String> {
    // It may install the program, which takes a minute.
    let tool = suite.tool;
    let program = tokio::task::spawn_blocking(move || tool::find("foreign.sh", &[tool])).await;
    let program = program.map_err(|error| error.to_string())?;
    let consul = if side.is_consul() { Consul::find().map(Some) } else { Ok(None) };
    let program = match (program, consul) {
        (Ok(program), Ok(_)) => program,
        (Err(why), _) | (_, Err(why)) => return Ok(RowEnd::Skipped(why)),
    };
    let begun = Instant::now();
    let (observed, log) = observe(suite, side, &program).await?;
    Ok(RowEnd::Ran(observed, log, begun.elapsed().as_secs()))
}

/// Compares a row with its list, and prints it.
fn compare(
    suite: &Suite,
    side: Side,
    end: RowEnd,
    expected: &mut ExpectedList,
    record: bool,
    counts: &mut Counts,
) {
    let row = format!("{} on {}", suite.name, side.as_str());
    let (observed, log, took) = match end {
        RowEnd::Ran(observed, log, took) => (observed, log, took),
        RowEnd::Skipped(why) => {
            print_line(&format!("skipped: {row}: {why}"));
            counts.skipped += expected.count(side);
            return;
        }
    };
    if record {
        expected.record(side, &observed);
    }
    let compared = expected.compare(side, &observed);
    counts.as_listed += compared.matched;
    counts.skipped += compared.skipped;
    counts.not_as_listed += compared.differences.len();
    let known = expected.known_failures(side);
    let verdict = match compared.differences.len() {
        0 => "as listed".to_owned(),
        count => format!("{count} NOT AS LISTED, see {}", log.display()),
    };
    print_line(&format!(
        "{row}: {} tests, {known} known failures, {} skipped, {took} s: {verdict}",
        observed.len(),
        compared.skipped
    ));
    for difference in compared.differences {
        print_line(&format!("  {difference}"));
    }
}

/// What the program reports, and the file with its whole output. A program that does not end in time, or that reports nothing,
/// differs from its list by the tests that are missing.
async fn observe(suite: &Suite, side: Side, program: &Path) -> Result<(Observed, PathBuf), String> {
    let this = std::env::current_exe().map_err(|error| format!("this program's own path: {error}"))?;
    let logs = this.parent().unwrap_or(Path::new(".")).join("foreign-logs");
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let log = logs.join(format!("{}-{}.log", suite.name, side.as_str()));
    let output = std::fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = output.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
    let room = tempfile::Builder::new().prefix("outrigger-foreign-").tempdir();
    let room = room.map_err(|error| format!("a directory: {error}"))?;

    let registry = if suite.starts_registries {
        None
    } else {
        Some(Registry::start(side, None, suite.dns_answer).await?)
    };
    let mut command = Command::new(program);
    command.args((suite.arguments)()).current_dir(room.path());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_ascii_lowercase();
        // Another Consul, a token, a proxy; the address of reads.
        if text.starts_with("consul_") || text.starts_with("foreign_") || text.ends_with("_proxy") {
            command.env_remove(&name);
        }
    }
    command.env("FOREIGN_PROGRAM", &this).env("FOREIGN_SIDE", side.as_str()).env("FOREIGN_ROOM", room.path());
    if let Ok(consul) = Consul::find() {
        command.env("FOREIGN_CONSUL", consul);
    }
    if let Some(registry) = &registry {
        command.env("CONSUL_HTTP_ADDR", format!("http://{}", registry.addr()));
        if side.is_sidecar() {
            command.env("FOREIGN_READS", format!("http://{}", registry.reads()));
        }
        for (name, addr) in registry.sidecar_addrs() {
            command.env(name, addr.to_string());
        }
    }
    command.stdin(Stdio::null()).stdout(output).stderr(errors).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("start {}: {error}", program.display()))?;
    let end = match tokio::time::timeout(suite.limit, child.wait()).await {
        Ok(Ok(status)) => format!("ended with {status}"),
        Ok(Err(error)) => format!("could not be waited for: {error}"),
        Err(_) => {
            // It has ended meanwhile when this fails.
            let _ = child.kill().await;
            format!("was ended after {} s", suite.limit.as_secs())
        }
    };
    let bytes = std::fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let observed = outcome::parse(&String::from_utf8_lossy(&bytes));
    if observed.is_empty() {
        print_line(&format!("{} on {}: reported no test, and {end}", suite.name, side.as_str()));
    }
    Ok((observed, log))
}

/// A failed write is ignored, because the error could not be printed either.
fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
