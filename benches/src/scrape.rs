//! How long a scrape takes, and how large its page is.
//!
//! The data path and the table of services of one sidecar, on one thread with the instances: 256 declared services of three
//! instances each, before any request and after a request to each service. The time is the processor time of gathering and
//! encoding, without the admin side's HTTP and without the metrics of the process, which do not grow with the services.

use outrigger_tests::{
    instance::{Answer, Instance},
    sidecar::{Services, Sidecar},
};
use tokio::runtime;

use crate::{
    Effort, Error,
    clock::Stopwatch,
    error::doing,
    report::{Finding, Section, Table},
    stats::Samples,
};

const SERVICES: usize = 256;
const INSTANCES: usize = 3;
/// Milliseconds.
const TARGET: f64 = 20.0;

/// Scrapes of one state of the sidecar.
#[derive(Debug)]
struct Scrapes {
    /// Milliseconds of processor time.
    took: Samples,
    series: usize,
    bytes: usize,
}

/// Measures a scrape before and after the first request to each service.
///
/// # Errors
/// The runtime cannot be built, or a request fails.
pub fn run(effort: Effort) -> Result<Section, Error> {
    let rounds = effort.choose(101, 5);
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(doing("build a runtime"))?;
    let [idle, used] = runtime.block_on(measure(rounds))?;
    let mut table = Table::new(
        format!(
            "A scrape at {SERVICES} services of {INSTANCES} instances; milliseconds of processor time, median (least to greatest)"
        ),
        ["state", "ms", "series", "per service", "KiB"],
    );
    let mut section = Section::new("Scrape");
    for (state, scrapes) in [("before any request", &idle), ("after a request to each service", &used)] {
        let Scrapes { took, series, bytes } = scrapes;
        table.row([
            state.to_owned(),
            took.spread(),
            series.to_string(),
            format!("{:.1}", *series as f64 / SERVICES as f64),
            (bytes / 1024).to_string(),
        ]);
        let what = format!("a scrape at {SERVICES} services, {state}");
        section = section.finding(Finding::below(what, took.median(), "ms", TARGET));
    }
    Ok(section.table(table).remark(format!("{rounds} scrapes of each state, after one that is not counted.")))
}

async fn measure(rounds: usize) -> Result<[Scrapes; 2], Error> {
    let name = |n: usize| format!("service-{n}");
    let mut instances = Vec::new();
    for n in 0..INSTANCES {
        instances.push(Instance::scripted(&format!("i{n}"), |_| Answer::ok("ok")).await);
    }
    let all = (0..SERVICES).flat_map(|n| instances.iter().map(move |one| (n, one)));
    let services = all.fold(Services::default(), |services, (n, one)| {
        services.and_at(&name(n), &format!("{}-{n}", one.name()), one.addr(), "")
    });
    let declared: Vec<_> = (0..SERVICES).map(|n| format!("{{service: {}}}", name(n))).collect();
    let settings = format!("discovery: {{max_services: {SERVICES}}}\nupstreams: [{}]", declared.join(", "));
    let sidecar = Sidecar::start(&settings, &services).await;
    let idle = scrapes(&sidecar, rounds);
    let mut client = sidecar.client().await;
    for n in 0..SERVICES {
        let answer = client.get(&name(n), "/").await;
        if answer.status != 200 {
            return Err(Error::new(format!("a request to {}: {answer:?}", name(n))));
        }
    }
    let used = scrapes(&sidecar, rounds);
    Ok([idle, used])
}

fn scrapes(sidecar: &Sidecar, rounds: usize) -> Scrapes {
    let page = sidecar.scrape();
    let series = page.lines().filter(|line| !line.starts_with('#')).count();
    let took = (0..rounds).map(|_| {
        let start = Stopwatch::start();
        std::hint::black_box(sidecar.scrape());
        start.elapsed().cpu.as_secs_f64() * 1e3
    });
    Scrapes { took: Samples::new(took), series, bytes: page.len() }
}
