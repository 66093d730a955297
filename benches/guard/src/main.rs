//! `make guard`: counts what a request costs, and compares it with what is committed. Exit 0: no ceiling was exceeded.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use outrigger_guard::{
    Error,
    baseline::{Baseline, CEILING, Comparison, Conditions},
    callgrind::{Callgrind, files_entered},
    path::{self, ROUTES, Routes, Scenario},
};

/// The allocator of the released binary, which counts what each thread allocates.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str = "usage: guard [--rebase]\n\
    --rebase  writes the counted figures into benches/guard/baseline.txt";
/// Connections of the app in each measurement.
const MEASUREMENTS: [usize; 2] = [16, 1];
/// The directory of the files that are counted, and the file of the accept, which streams in memory do not pass.
const SOURCES: &str = "crates/proxy/src/";
const ACCEPT: &str = "listener/worker.rs";
/// Most files that a GET enters, from the accept to the last byte of the response.
const MAX_FILES: usize = 20;
/// What routes may add to the instructions of a request that the last of them takes, in percent.
const MAX_ROUTES_PERCENT: f64 = 10.0;
/// Requests of a measurement of allocations, after as many that are not counted.
const REQUESTS: u64 = 3_200;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [] => guard(false),
        ["--rebase"] => guard(true),
        // What runs under callgrind.
        ["run", connections, requests] => carry(connections, requests, None),
        ["run", connections, requests, routes] => carry(connections, requests, Some(routes)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guard: {}", outrigger_config::error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn carry(connections: &str, requests: &str, routes: Option<&str>) -> Result<ExitCode, Error> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| Error::at(format!("read {text:?}"), error));
    let connections = number(connections)?.max(1) as usize;
    let routes = routes.and_then(|routes| Routes::ALL.into_iter().find(|one| one.label() == routes));
    let scenario = match routes {
        None => Scenario::new(connections),
        Some(routes) => Scenario::with_routes(connections, routes),
    };
    path::run(&scenario, 0, number(requests)?)?;
    Ok(ExitCode::SUCCESS)
}

/// How many of the guard's checks ended how.
#[derive(Debug, Default)]
struct Tally {
    held: u32,
    exceeded: u32,
    skipped: u32,
}

fn guard(rebase: bool) -> Result<ExitCode, Error> {
    let mut tally = Tally::default();
    for connections in MEASUREMENTS {
        let cost = path::run(&Scenario::new(connections), REQUESTS, REQUESTS)?;
        let per_request = cost.allocated as f64 / cost.requests as f64;
        let polls = cost.polls as f64 / cost.requests as f64;
        println!(
            "{}: {per_request:.1} bytes allocated, {polls:.2} polls per request; the future of a parked one has {} bytes",
            label(connections),
            cost.future
        );
        match cost.allocated {
            0 => tally.held += 1,
            _ => {
                tally.exceeded += 1;
                println!(
                    "   exceeded: a request over a connection that is kept alive allocates nothing. To see where it does:\n\
                     \x20  callgrind_annotate --tree=caller {} | grep -B 6 rjem",
                    profile(connections).display()
                );
            }
        }
    }
    match Callgrind::find() {
        Ok(callgrind) => {
            instructions(&callgrind, rebase, &mut tally)?;
            files(&mut tally)?;
        }
        Err(error) => {
            println!("skipped: instructions and files: {}", outrigger_config::error_chain(&error));
            tally.skipped += (MEASUREMENTS.len() + Routes::ALL.len()) as u32 + 1;
        }
    }
    let Tally { held, exceeded, skipped } = tally;
    println!("{held} held, {exceeded} exceeded, {skipped} skipped");
    Ok(if exceeded == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn instructions(callgrind: &Callgrind, rebase: bool, tally: &mut Tally) -> Result<(), Error> {
    let (workspace, file) = (manifest().join("../.."), manifest().join("baseline.txt"));
    let conditions = Conditions::detect(&workspace)?;
    let mut counted = BTreeMap::new();
    for connections in MEASUREMENTS {
        let profile = profile(connections);
        if let Some(directory) = profile.parent() {
            fs::create_dir_all(directory)
                .map_err(|error| Error::at(format!("make {}", directory.display()), error))?;
        }
        counted.insert(connections, callgrind.instructions(connections, None, &profile)?);
    }
    if let Some((&connections, &plain)) = counted.iter().next_back() {
        for one in Routes::ALL {
            let profile = profile(connections).with_extension(one.label());
            let figure = callgrind.instructions(connections, Some(one.label()), &profile)?;
            let percent = (figure / plain - 1.0) * 100.0;
            println!(
                "{}: {figure:.1} instructions with {ROUTES} {} routes, of which the last takes the request ({percent:+.2} %)",
                label(connections),
                one.label()
            );
            match percent > MAX_ROUTES_PERCENT {
                false => tally.held += 1,
                true => {
                    tally.exceeded += 1;
                    println!(
                        "   exceeded: more than {MAX_ROUTES_PERCENT} % above a request without routes. Where: callgrind_annotate {}",
                        profile.display()
                    );
                }
            }
        }
    }
    let counted = Baseline { conditions, instructions: counted };
    if rebase {
        counted.write(&file)?;
        println!("written: {}", file.display());
    }
    let committed = Baseline::read(&file)?;
    let differences = counted.conditions.differences(&committed.conditions);
    for (&connections, &figure) in counted.instructions.iter().rev() {
        let Some((percent, comparison)) = committed.compare(connections, figure) else {
            return Err(Error::new(format!("find a figure for {connections} connections in baseline.txt")));
        };
        let label = label(connections);
        println!("{label}: {figure:.1} instructions per request ({percent:+.2} %)");
        match comparison {
            _ if !differences.is_empty() => tally.skipped += 1,
            Comparison::Exceeded => {
                tally.exceeded += 1;
                println!("{}", exceeded(connections));
            }
            Comparison::Held | Comparison::Lower => tally.held += 1,
        }
        if comparison == Comparison::Lower {
            println!(
                "   lower: commit the gain with `make guard ARGS=--rebase`, so that it is not lost unseen"
            );
        }
    }
    if !differences.is_empty() {
        println!(
            "skipped: the comparison, because {} is not the one that baseline.txt was counted with. The commit that changes the compiler or \
             Cargo.lock also commits what `make guard ARGS=--rebase` writes.",
            differences.join(" and ")
        );
    }
    Ok(())
}

/// Compares the files that a GET entered with the list in ARCHITECTURE.md and with their bound.
fn files(tally: &mut Tally) -> Result<(), Error> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| Error::at(format!("read {}", path.display()), error))
    };
    let mut entered = files_entered(&read(&profile(1))?, SOURCES);
    // Feature `testing`: what carries the streams in memory.
    entered.remove("testing.rs");
    entered.insert(ACCEPT.to_owned());
    println!("a GET enters {} files of {SOURCES}", entered.len());
    let text = read(&manifest().join("../../ARCHITECTURE.md"))?;
    let listed: BTreeSet<String> = text.lines().filter_map(listed_file).collect();
    let missing: Vec<_> = entered.difference(&listed).collect();
    let left: Vec<_> = listed.difference(&entered).collect();
    if entered.len() <= MAX_FILES && missing.is_empty() && left.is_empty() {
        tally.held += 1;
        return Ok(());
    }
    tally.exceeded += 1;
    println!(
        "   exceeded: at most {MAX_FILES}, and those that ARCHITECTURE.md lists. Not listed: {missing:?}; not entered: {left:?}"
    );
    Ok(())
}

/// The file of a line of the list in ARCHITECTURE.md: "1. `path`: what it does".
fn listed_file(line: &str) -> Option<String> {
    let (number, rest) = line.split_once(". `")?;
    number.parse::<u32>().ok()?;
    let (file, _) = rest.split_once('`')?;
    file.ends_with(".rs").then(|| file.to_owned())
}

fn label(connections: usize) -> String {
    let s = if connections == 1 { "" } else { "s" };
    format!("{connections:>2} connection{s}")
}

fn exceeded(connections: usize) -> String {
    format!(
        "   exceeded: more than {CEILING} % above benches/guard/baseline.txt. The figure has no noise: the code of this checkout \
         takes more instructions.\n\
         \x20  Where: callgrind_annotate {} (compare with that of the commit before)\n\
         \x20  Either save them, or say in the commit what they buy and commit what `make guard ARGS=--rebase` writes.",
        profile(connections).display()
    )
}

fn manifest() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The profile of the last run, under the directory of the build.
fn profile(connections: usize) -> PathBuf {
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest().join("../../target"), PathBuf::from);
    target.join("guard-profiles").join(format!("callgrind.{connections}"))
}
