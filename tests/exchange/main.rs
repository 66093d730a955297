//! The exchange table: raw bytes in and raw bytes out on both sides of the proxy (`rows/README.md`).
//!
//! Rows that fail today stand in `failing.txt`, and no other row fails. With `OUTRIGGER_EXCHANGE_PEERS=1` the table is also run
//! through nginx and HAProxy, and `results.md` is written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod proxy;
mod row;
mod run;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use outrigger_tests::wait;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    proxy::{Proxy, Service},
    row::Row,
};

/// Rows under way at once.
const CONCURRENT: usize = 16;

/// What went wrong in each row that failed; `None` where the proxy is not installed.
async fn failures(proxy: Proxy, rows: &[Row]) -> Option<BTreeMap<String, String>> {
    let mut services = Vec::new();
    let mut listeners = Vec::new();
    for at in 0..rows.len() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let instance = listener.local_addr().unwrap();
        services.push(Service { name: format!("row-{at}"), listen: ([127, 0, 0, 1], 0).into(), instance });
        listeners.push(listener);
    }
    let _running = proxy::start(proxy, &mut services).await?;
    let last = services.last().unwrap().listen;
    wait::until("the proxy listens", Duration::from_secs(30), async || {
        TcpStream::connect(last).await.is_ok()
    })
    .await;
    let slots = Arc::new(Semaphore::new(CONCURRENT));
    let mut tasks = JoinSet::new();
    for ((row, service), listener) in rows.iter().cloned().zip(services).zip(listeners) {
        let slots = slots.clone();
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            let result = run::run(proxy, &row, service.listen, &service.name, listener).await;
            (row.name, result)
        });
    }
    let mut failed = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (name, result) = done.unwrap();
        if let Err(error) = result {
            failed.insert(name, error);
        }
    }
    Some(failed)
}

#[test]
fn every_row_has_a_name_of_its_own_and_a_source() {
    let rows = row::all();
    assert!(rows.len() >= 150, "{} rows", rows.len());
    let names: BTreeMap<_, _> = rows.iter().map(|row| (&row.name, &row.source)).collect();
    assert_eq!(names.len(), rows.len());
    assert!(rows.iter().all(|row| !row.steps.is_empty() && !row.source.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rows_that_fail_are_those_that_are_listed() {
    let listed: Vec<&str> =
        include_str!("failing.txt").lines().filter(|line| !line.starts_with('#')).collect();
    let failed = failures(Proxy::Outrigger, &row::all()).await.unwrap();
    let unlisted: Vec<_> = failed.iter().filter(|(name, _)| !listed.contains(&name.as_str())).collect();
    let passing: Vec<_> = listed.iter().filter(|name| !failed.contains_key(**name)).collect();
    for (name, error) in &unlisted {
        println!("FAILS: {name}\n    {error}");
    }
    for name in &passing {
        println!("PASSES, remove it from failing.txt: {name}");
    }
    assert!(unlisted.is_empty() && passing.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_through_other_proxies() {
    if std::env::var_os("OUTRIGGER_EXCHANGE_PEERS").is_none() {
        return;
    }
    let rows = row::all();
    let mut results = Vec::new();
    for proxy in [Proxy::Outrigger, Proxy::Nginx, Proxy::Haproxy] {
        results.push(failures(proxy, &rows).await);
    }
    let mut text = "# The exchange table, run through three proxies\n\n\
         Written by `OUTRIGGER_EXCHANGE_PEERS=1 cargo test -p outrigger-tests --test exchange`. For nginx and HAProxy, fields that \
         the proxy adds or replaces by design (Server, Date, Connection) and the case of names do not count, and every refusal \
         counts as one.\n\n| row | source | Outrigger | nginx | HAProxy |\n|---|---|---|---|---|\n"
        .to_owned();
    for row in &rows {
        let cell = |result: &Option<BTreeMap<String, String>>| match result {
            None => "–",
            Some(failed) if failed.contains_key(&row.name) => "no",
            Some(_) => "yes",
        };
        let [own, nginx, haproxy] = [0, 1, 2].map(|at| cell(&results[at]));
        let _ = writeln!(text, "| {} | {} | {own} | {nginx} | {haproxy} |", row.name, row.source);
    }
    let passed = |at: usize| {
        results[at].as_ref().map_or("–".to_owned(), |failed| (rows.len() - failed.len()).to_string())
    };
    let _ = writeln!(
        text,
        "| **rows that hold, of {}** | | {} | {} | {} |",
        rows.len(),
        passed(0),
        passed(1),
        passed(2)
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/exchange/results.md");
    std::fs::write(path, text).unwrap();
}
