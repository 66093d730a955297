//! Traffic of every kind at once, slow clients among it, through instances that are killed and come back, beside one that is listed
//! under another id twice a second, while the settings are reloaded. A request fails only where the death of its
//! instance leaves no other end, no POST is executed twice, the metrics count what the clients saw, and afterwards nothing
//! is held and nothing runs.

use std::{collections::HashMap, sync::Arc, time::Duration};

use outrigger_tests::{
    instance::{Answer, Instance, Kill, Request, SeenRequest},
    load::{RequestResult, RequestResults},
    scrape::Scrape,
    usage,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::traffic::{BODY, Kind, Traffic};
use crate::{
    case::{CaseResult, RunLength},
    case_report::{CaseReport, format_millis},
    resource_use::MeasuredSidecar,
};

/// Time between two kills.
const KILL_INTERVAL: Duration = Duration::from_millis(1500);
/// How long a killed instance is away.
const DOWN_TIME: Duration = Duration::from_millis(400);
/// Time between two changes of the list of instances.
const CHURN_INTERVAL: Duration = Duration::from_millis(500);
/// Time between two reloads.
const RELOAD_INTERVAL: Duration = Duration::from_millis(1700);
/// The settings at the start and at the end.
const SETTINGS: &str = "upstreams: [{service: orders}]\n";
/// How long the idle process is watched, and most CPU time that it may take meanwhile.
const IDLE_TIME: Duration = Duration::from_secs(5);
const MAX_IDLE_CPU: Duration = Duration::from_millis(150);

/// An instance's answers.
fn script(request: &Request) -> Answer {
    match request.target() {
        "/slow" => Answer::ok("late").delayed(Duration::from_millis(100)),
        "/download" => Answer::pattern(1 << 20),
        "/events" => {
            let head = Answer::without_body(200).field("transfer-encoding", "chunked");
            let events = (0..20).fold(head, |stream, _| {
                stream.then_pause(Duration::from_millis(50)).then_write("7\r\nevent\n\n\r\n")
            });
            events.then_write("0\r\n\r\n")
        }
        "/tunnel" => Answer::upgrade("echo"),
        _ => Answer::ok("ok"),
    }
}

pub(super) async fn soak(form: RunLength) -> CaseResult {
    let subject = MeasuredSidecar::start("", script).await;
    let spare = Instance::scripted("spare", script).await;
    let mut audit = Audit::default();
    // The traffic before the measurement makes the allocations that happen only once.
    let mut results = run(&subject, &spare, &mut audit, form.pick([15, 4])).await;
    let before = subject.wait_idle().await;
    let seconds = form.asked_seconds().unwrap_or(form.pick([120, 10]));
    let measured = run(&subject, &spare, &mut audit, seconds).await;
    results.extend(measured);
    // Twice: what was seen last is checked by the next look.
    audit.look(&subject.instances, &spare);
    audit.look(&subject.instances, &spare);
    // No more than before: what the growth meanwhile left is no excuse.
    let released = subject.wait_released(before, before).await;
    let cpu = usage::cpu_time(subject.process.pid());
    sleep(IDLE_TIME).await;
    let idle_cpu = usage::cpu_time(subject.process.pid()).saturating_sub(cpu);

    let all = RequestResults(results);
    let mut row = CaseReport::from_load(&all, subject.retried().await);
    let failed = all.filter(|one| one.failed.as_ref().is_some_and(|why| !why.ends_with(Traffic::EXCUSED)));
    row.require(failed.0.is_empty(), || format!("failed: {}", failed.describe_failures()));
    for kind in Kind::ALL {
        let done = all.filter(|one| one.method == kind.label() && one.failed.is_none()).requests();
        row.require(done > 0, || format!("no {} succeeded", kind.label()));
    }
    row.require(audit.broken.is_empty(), || audit.broken.join("; "));
    row.require(audit.reloads > 0 && audit.changes > 0 && audit.spare_seen > 0, || {
        format!(
            "{} reloads, {} other lists, {} requests at what they listed",
            audit.reloads, audit.changes, audit.spare_seen
        )
    });
    row.require(audit.twice().is_empty(), || format!("POSTs executed twice: {:?}", audit.twice()));
    row.require(released.is_ok(), || released.clone().err().unwrap_or_default());
    row.require(idle_cpu <= MAX_IDLE_CPU, || {
        format!("{} of CPU time in {IDLE_TIME:?} without a request", format_millis(idle_cpu))
    });
    let metrics = Scrape::parse(&subject.process.admin_get("/metrics").await.text());
    let requests = all.filter(Traffic::is_request).requests();
    let unknown =
        all.filter(|one| one.failed.as_ref().is_some_and(|why| why.starts_with("502 sent_unknown")));
    // A client that has left may have got the same, without seeing it.
    let leavers = all.with_method(Kind::Leaver.label()).requests();
    for (metric, labels, seen, unseen) in [
        ("outrigger_requests_total", &[][..], requests, 0),
        ("outrigger_request_duration_seconds_count", &[], requests, 0),
        ("outrigger_requests_total", &[("code", "502")], unknown.requests(), leavers),
        ("outrigger_errors_total", &[("reason", "sent_unknown")], unknown.requests(), leavers),
    ] {
        let counted = metrics.sum(metric, labels);
        row.require((seen as f64..=(seen + unseen) as f64).contains(&counted), || {
            format!("{metric} {labels:?} is {counted}, and {seen} were seen")
        });
    }
    let after = subject.resource_use();
    row.note(format!(
        "{} kills, {} other lists, {} reloads, {} KiB before and {} after, {} files, {} of CPU time in {IDLE_TIME:?} of rest",
        audit.kills,
        audit.changes,
        audit.reloads,
        before.memory / 1024,
        after.memory / 1024,
        after.files,
        format_millis(idle_cpu)
    ));
    Ok(row)
}

/// Runs the traffic for so many seconds, while one instance after the other is killed and comes back, the list of instances
/// changes and the settings are reloaded. Afterwards list and settings are those of the start.
async fn run(
    subject: &MeasuredSidecar,
    spare: &Instance,
    audit: &mut Audit,
    seconds: u64,
) -> Vec<RequestResult> {
    let traffic = Arc::new(Traffic::new(subject.process.outbound()));
    let mut workers = JoinSet::new();
    for kind in Kind::ALL {
        for _ in 0..kind.workers() {
            workers.spawn(Arc::clone(&traffic).run_worker(kind));
        }
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let (changes, reloads) = (audit.changes, audit.reloads);
    let ((), changes, reloads) = tokio::join!(
        kill_in_turn(subject, spare, &traffic, audit, end),
        churn(subject, spare, changes, end),
        reload_in_turn(subject, reloads, end),
    );
    audit.changes = changes;
    match reloads {
        Ok(reloads) => audit.reloads = reloads,
        Err(refused) => audit.broken.push(refused),
    }
    traffic.stop();
    while let Some(ended) = workers.join_next().await {
        ended.expect("a client does not panic");
    }
    traffic.take_results()
}

async fn kill_in_turn(
    subject: &MeasuredSidecar,
    spare: &Instance,
    traffic: &Traffic,
    audit: &mut Audit,
    end: Instant,
) {
    while Instant::now() < end {
        sleep(KILL_INTERVAL).await;
        let instance = &subject.instances[audit.kills % subject.instances.len()];
        let how = if audit.kills.is_multiple_of(2) { Kill::Reset } else { Kill::Fin };
        audit.kills += 1;
        let kill = traffic.begin_kill(instance.name());
        instance.kill(how).await;
        traffic.end_kill(kill);
        sleep(DOWN_TIME).await;
        instance.listen_again().await;
        audit.look(&subject.instances, spare);
    }
}

/// Lists the spare instance under an id that was not there before, again and again. How often, with what was done before.
async fn churn(subject: &MeasuredSidecar, spare: &Instance, mut changes: usize, end: Instant) -> usize {
    while Instant::now() < end {
        sleep(CHURN_INTERVAL).await;
        changes += 1;
        subject.list_instances(&[(format!("spare-{changes}"), spare.addr())]);
    }
    subject.list_instances(&[]);
    changes
}

/// Reloads settings that change limits and bring and remove a listener. How often, with what was done before; or the
/// answer that refused one.
async fn reload_in_turn(
    subject: &MeasuredSidecar,
    mut reloads: usize,
    end: Instant,
) -> Result<usize, String> {
    let port = outrigger_net::reserve_addr();
    let others = [
        format!("upstreams: [{{service: orders, listen: \"{port}\", timeout: 14s}}]\n"),
        "upstreams: [{service: orders, max_in_flight: 1000, pool: {max_idle: 16}}]\n".to_owned(),
        SETTINGS.to_owned(),
    ];
    let mut settings = others.iter().cycle();
    while Instant::now() < end {
        sleep(RELOAD_INTERVAL).await;
        let next = settings.next().expect("a cycle has no end");
        apply(subject, next).await?;
        reloads += 1;
    }
    apply(subject, SETTINGS).await?;
    Ok(reloads + 1)
}

async fn apply(subject: &MeasuredSidecar, settings: &str) -> Result<(), String> {
    let answer = subject.reload(settings).await;
    match answer.status {
        200 => Ok(()),
        _ => Err(format!("a reload was refused: {} {}", answer.status, answer.text())),
    }
}

/// What the instances saw.
#[derive(Default)]
struct Audit {
    kills: usize,
    changes: usize,
    reloads: usize,
    /// Requests at the spare instance.
    spare_seen: usize,
    /// How often each POST was seen, by its number.
    posts: HashMap<String, u32>,
    /// Requests of the last look, with bodies that may still have been on their way then.
    last: Vec<SeenRequest>,
    broken: Vec<String>,
}

impl Audit {
    /// Takes what the instances have seen, and checks the bodies of the look before.
    fn look(&mut self, instances: &[Instance], spare: &Instance) {
        let at_spare = spare.take_seen();
        self.spare_seen += at_spare.len();
        let seen: Vec<_> = instances.iter().flat_map(Instance::take_seen).chain(at_spare).collect();
        for id in seen
            .iter()
            .filter(|one| one.request.method() == "POST")
            .filter_map(|one| one.request.head.get("x-load-id"))
        {
            *self.posts.entry(id.to_owned()).or_default() += 1;
        }
        for one in std::mem::replace(&mut self.last, seen) {
            let body = one.body();
            let is_whole = one.request.method() != "POST" || body.len == BODY as u64;
            if body.complete && !(is_whole && body.is_pattern) {
                self.broken.push(format!("a body arrived as {} bytes, or with others", body.len));
            }
        }
    }

    fn twice(&self) -> Vec<&str> {
        self.posts.iter().filter(|(_, count)| **count > 1).map(|(id, _)| id.as_str()).collect()
    }
}
