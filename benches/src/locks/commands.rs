//! Locks by commands: a process for each lock.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Output, Stdio},
};

use outrigger_tests::process;
use tokio::process::Command;

use super::timing::timed;
use crate::{Error, error::doing, stats::Samples};

/// Milliseconds of `consul lock NAME true`, from its start to its end.
pub(super) async fn consul_lock(
    consul: &Path,
    registry: SocketAddr,
    rounds: usize,
) -> Result<Samples, Error> {
    timed(rounds, async |_| {
        let mut command = consul_command(consul, registry);
        run(command.args(["bench/command", "true"])).await.map(|_| ())
    })
    .await
}

/// The same of `outrigger lock NAME -- true`. `None`: the binary has no such command.
pub(super) async fn outrigger_lock(registry: SocketAddr, rounds: usize) -> Result<Option<Samples>, Error> {
    let command = || {
        let mut command = Command::new(process::binary());
        command.stdin(Stdio::null()).env("CONSUL_HTTP_ADDR", format!("http://{registry}"));
        command
    };
    if run(command().args(["lock", "--help"])).await.is_err() {
        return Ok(None);
    }
    let samples = timed(rounds, async |_| {
        run(command().args(["lock", "bench/own-command", "--", "true"])).await.map(|_| ())
    });
    samples.await.map(Some)
}

/// Milliseconds from the end of one child to the start of the next, for `rounds` times `holders` processes `consul lock` that
/// want one lock at once.
pub(super) async fn hand_over(
    consul: &Path,
    registry: SocketAddr,
    holders: usize,
    rounds: usize,
) -> Result<Samples, Error> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        let name = format!("bench/contended-command-{round}");
        let processes: Vec<_> = (0..holders)
            .map(|_| {
                let mut command = consul_command(consul, registry);
                command.args([&name, "date +%s%N; sleep 0.1; date +%s%N"]);
                tokio::spawn(async move { run(&mut command).await })
            })
            .collect();
        let mut held = Vec::new();
        for process in processes {
            let output = process.await.map_err(doing("wait for consul lock"))??;
            held.push(stamps(&String::from_utf8_lossy(&output.stdout))?);
        }
        held.sort_unstable();
        samples.extend(held.windows(2).map(|pair| (pair[1].0.saturating_sub(pair[0].1)) as f64 / 1e6));
    }
    Ok(Samples::new(samples))
}

/// Begin and end of a child, nanoseconds since 1970.
fn stamps(output: &str) -> Result<(u64, u64), Error> {
    let mut lines = output.lines().map(str::parse);
    match (lines.next(), lines.next()) {
        (Some(Ok(begin)), Some(Ok(end))) => Ok((begin, end)),
        _ => Err(Error::new(format!("the child of consul lock printed {output:?}"))),
    }
}

fn consul_command(consul: &Path, registry: SocketAddr) -> Command {
    let mut command = Command::new(consul);
    command.stdin(Stdio::null()).arg("lock").arg(format!("-http-addr=http://{registry}"));
    command.env_remove("CONSUL_HTTP_TOKEN").env_remove("CONSUL_HTTP_ADDR");
    command
}

async fn run(command: &mut Command) -> Result<Output, Error> {
    let output = command.kill_on_drop(true).output().await.map_err(doing(format!("run {command:?}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::new(format!("{command:?} ended with {}: {errors}", output.status)))
}
