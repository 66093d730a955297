//! Runs the cases, each within its time, and prints their rows. They run one after the other; in their short form those that mostly
//! wait run two at once.

use std::{any::Any, process::ExitCode, time::Duration};

use clap::Args;
use futures_util::{StreamExt as _, stream};
use outrigger_tests::consul::Consul;
use tokio::{sync::watch, task::LocalSet};

use crate::{
    case::{Case, Requirement, RunLength},
    case_report::{self, CaseReport, Verdict},
    cases, guard, nginx,
};

/// How many of the cases that mostly wait run at once in their short form.
const AT_ONCE: usize = 2;
/// Exit code when a signal ended it, as a shell has it.
const INTERRUPTED: u8 = 130;

/// Which cases, and how.
#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Fewer requests and less time; the promises are the same
    #[arg(long)]
    pub(crate) short: bool,
    /// How long the soak's measured part takes. Default: 2 minutes, 10 s with --short
    #[arg(long, value_name = "MINUTES", conflicts_with = "short")]
    pub(crate) minutes: Option<u64>,
    /// Every case this many times
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) rounds: u32,
    /// List the cases
    #[arg(long)]
    pub(crate) list: bool,
    /// Only these cases
    #[arg(value_name = "CASE")]
    pub(crate) cases: Vec<String>,
}

/// Runs the chosen cases.
pub(crate) fn run(asked: &RunOptions) -> ExitCode {
    let all = cases::all();
    let mut chosen: Vec<&Case> = Vec::new();
    for name in &asked.cases {
        let Some(case) = all.iter().find(|case| case.name == name) else {
            eprintln!("there is no case {name:?}; chaos --list lists the cases");
            return ExitCode::from(2);
        };
        chosen.push(case);
    }
    if chosen.is_empty() {
        chosen = all.iter().collect();
    }
    // The row of the case shows a panic; the default hook would print it a second time.
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let cases = LocalSet::new();
    let code = cases.block_on(&runtime.expect("a runtime"), run_cases(asked, &chosen));
    ExitCode::from(code)
}

async fn run_cases(asked: &RunOptions, chosen: &[&Case]) -> u8 {
    let end = guard::watch_for_end();
    let form = match asked.minutes {
        Some(minutes) => RunLength::Minutes(minutes),
        None if asked.short => RunLength::Short,
        None => RunLength::Full,
    };
    let (mut kept, mut broken, mut skipped) = (0, 0, 0);
    case_report::print_head();
    for round in 1..=asked.rounds {
        for group in chosen.chunk_by(|one, next| one.runs_beside && next.runs_beside) {
            let at_once = if form == RunLength::Short { AT_ONCE } else { 1 };
            let mut rows = stream::iter(group)
                .map(async |case| (case.name, try_case(case, form, end.clone()).await))
                .buffer_unordered(at_once);
            // To the end, so that the children of all are gone.
            while let Some((name, row)) = rows.next().await {
                let Some(mut row) = row else { continue };
                match row.verdict() {
                    Verdict::Kept => kept += 1,
                    Verdict::Broken => broken += 1,
                    Verdict::Skipped => skipped += 1,
                }
                if asked.rounds > 1 {
                    row.note(format!("round {round}"));
                }
                row.print(name);
            }
            if *end.borrow() {
                return INTERRUPTED;
            }
        }
    }
    println!("\n{kept} kept, {broken} broken, {skipped} skipped");
    u8::from(broken > 0)
}

/// The row of a case. `None`: interrupted.
async fn try_case(case: &Case, form: RunLength, mut end: watch::Receiver<bool>) -> Option<CaseReport> {
    if *end.borrow() {
        return None;
    }
    match missing_tool(case) {
        Some(why) => Some(CaseReport::skipped(&why)),
        None => run_case(case, form, &mut end).await,
    }
}

/// What this machine has not got.
fn missing_tool(case: &Case) -> Option<String> {
    case.needs
        .iter()
        .find_map(|need| match need {
            Requirement::Consul => Consul::find().err(),
            Requirement::Nginx => nginx::find().err(),
        })
        .map(|why| why.to_string())
}

/// Runs a case in a task of its own, so that all it has started ends with it. `None`: interrupted.
async fn run_case(case: &Case, form: RunLength, end: &mut watch::Receiver<bool>) -> Option<CaseReport> {
    let limit = form.pick(case.limit) + Duration::from_secs(form.asked_seconds().unwrap_or_default());
    let mut task = tokio::task::spawn_local((case.run)(form));
    let ended = tokio::select! {
        ended = tokio::time::timeout(limit, &mut task) => ended,
        _ = end.wait_for(|end| *end) => {
            task.abort();
            // Waited for, so that its children are gone.
            let _ = task.await;
            return None;
        }
    };
    Some(match ended {
        Ok(Ok(Ok(row))) => row,
        Ok(Ok(Err(trouble))) => CaseReport::broken(&format!("could not be tried: {trouble}")),
        Ok(Err(panicked)) => {
            CaseReport::broken(&panicked.try_into_panic().map_or_else(|e| e.to_string(), panic_text))
        }
        Err(_) => {
            task.abort();
            // Only that it has ended matters.
            let _ = task.await;
            CaseReport::broken(&format!("not over within {} s", Duration::as_secs(&limit)))
        }
    })
}

/// The text of a panic.
fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic".into())
}
