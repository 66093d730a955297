//! Instances that close a keep-alive connection after ten requests, with a word or without one: then the
//! next request may be on its way when the close comes.

use std::time::Duration;

use super::{Case, Form, Need, Trouble, no_get_failed, posts_only_unknown};
use crate::{
    client::{Load, Plan, Tally},
    fleet::{Fleet, Kind},
    instance::Manners,
    row::Row,
    scene::{SERVICE, Scene},
};

/// With a word, as nginx does.
pub(crate) const NGINX: Case = Case {
    name: "close-nginx",
    promise: "three nginx with keepalive_requests 10, 100,000 requests: none fails, GET or POST",
    needs: &[Need::Consul, Need::Nginx],
    limit: [Duration::from_secs(400), Duration::from_secs(60)],
    run: |form| Box::pin(nginx(form)),
};

/// Without one.
pub(crate) const UNANNOUNCED: Case = Case {
    name: "close-unannounced",
    promise: "three instances that close after 10 requests and do not say so: no GET fails, a POST only as \
              sent_unknown",
    needs: &[Need::Consul],
    limit: [Duration::from_secs(120), Duration::from_secs(60)],
    run: |form| Box::pin(unannounced(form)),
};

async fn nginx(form: Form) -> Result<Row, Trouble> {
    let mut fleet = Fleet::of(SERVICE);
    for _ in 0..3 {
        fleet.add(Kind::Nginx("keepalive_requests 10;".to_owned()));
    }
    let scene = Scene::of(fleet, "").await?;
    let tally = loaded(&scene, form.pick([1500, 800]), form.pick([100_000, 4000])).await;
    let mut row = scene.row(&tally).await;
    let failed = tally.failed();
    row.promise(failed.0.is_empty(), || format!("failed: {}", failed.failed_by_class()));
    closes_were_seen(&scene, &tally, &mut row).await;
    Ok(row)
}

async fn unannounced(form: Form) -> Result<Row, Trouble> {
    let scene = Scene::of_three("").await?;
    for member in &scene.fleet.members {
        member.behave(&Manners { close_after: 10, linger_ms: 2, ..Manners::default() }).await;
    }
    let tally = loaded(&scene, form.pick([1000, 600]), form.pick([30_000, 3000])).await;
    let mut row = scene.row(&tally).await;
    no_get_failed(&tally, &mut row);
    posts_only_unknown(&tally, &mut row);
    closes_were_seen(&scene, &tally, &mut row).await;
    let metrics = scene.caller.metrics().await;
    let races = metrics.sum("outrigger_retries_total", &[("why", "race")]);
    row.note(format!("{races} requests met a close half-way"));
    Ok(row)
}

async fn loaded(scene: &Scene, rate: u32, count: u64) -> Tally {
    let load = Load::start(scene.caller.addr(), Plan { connections: 32, ..Plan::mixed(SERVICE, rate) });
    load.reaches(count).await;
    load.stop().await
}

/// Without a connection for about every ten requests, nothing was tried.
async fn closes_were_seen(scene: &Scene, tally: &Tally, row: &mut Row) {
    let metrics = scene.caller.metrics().await;
    let opened = metrics.sum("outrigger_pool_connections_total", &[("event", "opened")]);
    // Of its last request a connection may see the beginning only.
    let least = tally.requests() as f64 / 12.0;
    row.promise(opened >= least, || format!("only {opened} connections were opened"));
    row.note(format!("{opened} connections"));
}
