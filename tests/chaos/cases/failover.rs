//! The requests of a service go to another datacenter while no local instance is usable, and return.

use std::time::Duration;

use outrigger_tests::{
    consul::ConsulDatacenters,
    load::{Load, LoadPlan, RequestResults},
    process::Process,
    registry::ConsulAgent,
    scrape::Scrape,
    wait,
};

use crate::{
    case::{CaseResult, RunLength, SetupError},
    case_report::CaseReport,
    fleet::Fleet,
    instance::Behaviour,
    testbed::SERVICE,
};

/// Longest wait for requests to return, or for a watch of the other datacenter to be answered again.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most GETs that may fail while three instances that answer 503 are found out.
const MAX_ILL_GETS: u64 = 20;

/// Two datacenters with three instances each, and a caller in the first one.
struct Site {
    caller: Process,
    own: Fleet,
    other: Fleet,
    datacenters: ConsulDatacenters,
}

impl Site {
    async fn start() -> Result<Self, SetupError> {
        let datacenters = ConsulDatacenters::start().await?;
        let own = Fleet::start_three(SERVICE, ConsulAgent(datacenters.dc1.http_addr())).await;
        let other = Fleet::start_three(SERVICE, ConsulAgent(datacenters.dc2.http_addr())).await;
        let caller = Process::run(&format!(
            "registry: {{consul: {{address: \"{}\"}}}}\nstate_dir: off\n\
             upstreams: [{{service: {SERVICE}, failover: [{{datacenter: dc2}}], return_after: 2s}}]\n",
            datacenters.dc1.url()
        ))
        .await;
        caller.wait_ready().await;
        let site = Self { caller, own, other, datacenters };
        site.wait_usable_elsewhere(3).await;
        Ok(site)
    }

    fn load(&self) -> Load {
        Load::start(self.caller.outbound(), LoadPlan::mixed(SERVICE, 200))
    }

    async fn metrics(&self) -> Scrape {
        Scrape::parse(&self.caller.admin_get("/metrics").await.text())
    }

    /// Waits until requests go to the other datacenter, or do no more.
    async fn wait_over(&self, is_over: bool) {
        let what = format!("the failover is active: {is_over}");
        wait::until(&what, PATIENCE, async || {
            let active = self.metrics().await.sum("outrigger_failover_active", &[("service", SERVICE)]);
            (active == 1.0) == is_over
        })
        .await;
    }

    async fn wait_usable_elsewhere(&self, count: u64) {
        wait::until("the instances of the other datacenter are usable", PATIENCE, async || {
            let page = self.caller.admin_get("/services").await.json();
            let all = page["services"].as_array().cloned().unwrap_or_default();
            all.iter().any(|one| one["failover"]["targets"][0]["usable"].as_u64() == Some(count))
        })
        .await;
    }

    fn kill_own(&mut self) {
        self.own.members.iter_mut().for_each(|one| one.kill());
    }

    /// Kills all local instances, lets requests go elsewhere for a while, and brings the instances back.
    async fn lose_own(&mut self, load: &Load, time: Duration) {
        self.kill_own();
        self.wait_over(true).await;
        load.run_for(time).await;
        for member in &mut self.own.members {
            member.start().await;
        }
        self.wait_over(false).await;
    }

    async fn report(&self, tally: &RequestResults) -> CaseReport {
        let metrics = self.metrics().await;
        let mut row =
            CaseReport::from_load(tally, metrics.sum("outrigger_retries_total", &[("why", "again")]));
        Fleet::check_posts_of(&[&self.own, &self.other], tally, &mut row);
        let elsewhere = metrics.sum("outrigger_failover_attempts_total", &[]);
        row.require(elsewhere > 0.0, || "no request went to the other datacenter".to_owned());
        row.note(format!("{elsewhere} attempts went to the other datacenter"));
        row
    }
}

pub(super) async fn own_lost(form: RunLength) -> CaseResult {
    let mut site = Site::start().await?;
    let load = site.load();
    load.wait_requests(200).await;
    let time = form.pick([Duration::from_secs(20), Duration::from_secs(3)]);
    for _ in 0..form.pick([3, 1]) {
        site.lose_own(&load, time).await;
    }
    let before = load.elapsed();
    for member in &site.own.members {
        member.set_behaviour(&Behaviour { status: 503, ..Behaviour::default() }).await;
    }
    site.wait_over(true).await;
    load.run_for(time).await;
    for member in &site.own.members {
        member.set_behaviour(&Behaviour::default()).await;
    }
    site.wait_over(false).await;
    load.run_for(Duration::from_secs(1)).await;
    let tally = load.stop().await;
    let mut row = site.report(&tally).await;
    // An instance that answers is usable until it has failed five requests in a row: with three of them, fifteen requests.
    let ill = tally.filter(|one| one.failed_with("503") && one.ended() >= before);
    let ill_gets = ill.with_method("GET").requests();
    row.require(ill_gets <= MAX_ILL_GETS, || format!("{ill_gets} GETs got a 503 of the local instances"));
    let others = tally.filter(|one| !(one.failed_with("503") && one.ended() >= before));
    row.require_no_failed_get(&others);
    row.require_only_unknown_posts(&others);
    row.note(format!("{} requests got a 503 until the local instances were ejected", ill.requests()));
    Ok(row)
}

pub(super) async fn other_cut(form: RunLength) -> CaseResult {
    let mut site = Site::start().await?;
    let load = site.load();
    load.wait_requests(200).await;
    let time = form.pick([Duration::from_secs(60), Duration::from_secs(5)]);
    // Frozen as a whole: nothing answers, and nothing is refused.
    site.datacenters.dc2.signal("STOP")?;
    site.other.members.iter().for_each(|one| one.signal("STOP"));
    load.run_for(time).await;
    site.datacenters.dc2.signal("CONT")?;
    site.other.members.iter().for_each(|one| one.signal("CONT"));
    site.wait_usable_elsewhere(3).await;
    site.lose_own(&load, Duration::from_secs(2)).await;

    // Its Consul alone is frozen: the last table is used.
    site.datacenters.dc2.signal("STOP")?;
    load.run_for(time).await;
    site.lose_own(&load, Duration::from_secs(2)).await;
    site.datacenters.dc2.signal("CONT")?;

    // Killed as a whole, and started again.
    site.datacenters.dc2.kill()?;
    site.other.members.iter_mut().for_each(|one| one.kill());
    load.run_for(time).await;
    for member in &mut site.other.members {
        member.start().await;
    }
    // Its instances are back, and its Consul is not.
    site.lose_own(&load, Duration::from_secs(2)).await;
    site.datacenters.dc2.start().await?;
    site.datacenters.join().await?;
    site.wait_usable_elsewhere(3).await;

    // The own Consul is dead.
    site.datacenters.dc1.kill()?;
    site.lose_own(&load, time).await;
    site.datacenters.dc1.start().await?;
    site.datacenters.join().await?;
    load.run_for(Duration::from_secs(2)).await;
    let tally = load.stop().await;
    let mut row = site.report(&tally).await;
    row.require_no_failed_get(&tally);
    row.require_only_unknown_posts(&tally);
    Ok(row)
}
