//! The metrics of a scrape.

use std::time::Duration;

use tokio::time::sleep;

use super::{Rig, list, settle, unreachable};

const ORDERS: &str = "{datacenter=\"\",service=\"orders\"}";

#[tokio::test(start_paused = true)]
async fn the_age_grows_while_the_watcher_is_blocked() {
    let mut rig = Rig::new();
    let (_follower, _asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    let age = format!("outrigger_table_age_seconds{ORDERS}");
    assert_eq!(rig.metric(&age), Some(0.0));
    sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.metric(&age), Some(30.0));
    assert_eq!(rig.metric(&format!("outrigger_table_index{ORDERS}")), Some(7.0));
}

#[tokio::test(start_paused = true)]
async fn answers_instances_and_errors_are_counted() {
    let mut rig = Rig::new();
    let (_follower, asked) = rig.follow_and_answer("orders", list(7, &["a", "b"])).await;
    asked.answer(list(8, &["a", "b"]));
    rig.next().await.fail(unreachable());
    rig.next().await.answer(list(8, &["a", "b", "c"]));
    settle().await;
    let labelled = |name: &str, label: &str| format!("{name}{{datacenter=\"\",{label}}}");
    let cases = [
        (labelled("outrigger_table_updates_total", "result=\"accepted\",service=\"orders\""), 2.0),
        (labelled("outrigger_table_updates_total", "result=\"unchanged\",service=\"orders\""), 1.0),
        (labelled("outrigger_table_instances", "service=\"orders\",status=\"passing\""), 3.0),
        (labelled("outrigger_table_instances", "service=\"orders\",status=\"critical\""), 0.0),
        ("outrigger_watch_errors_total{error=\"connect\"}".into(), 1.0),
        ("outrigger_watched_services{kind=\"on_demand\"}".into(), 1.0),
        ("outrigger_watched_services{kind=\"declared\"}".into(), 0.0),
    ];
    for (name, value) in cases {
        assert_eq!(rig.metric(&name), Some(value), "{name} in\n{}", rig.scrape());
    }
}

#[tokio::test(start_paused = true)]
async fn the_series_of_a_service_end_with_its_last_follower() {
    let mut rig = Rig::new();
    let (follower, _asked) = rig.follow_and_answer("orders", list(7, &["a"])).await;
    assert!(rig.scrape().contains("\"orders\""));
    drop(follower);
    assert!(!rig.scrape().contains("\"orders\""));
    assert_eq!(rig.metric("outrigger_watched_services{kind=\"on_demand\"}"), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn a_made_up_name_is_no_label_and_a_declared_one_is() {
    let mut rig = Rig::new();
    let (_unknown, _asked) = rig.follow_and_answer("made-up", list(7, &[])).await;
    let _declared = rig.declare("declared");
    rig.next().await.answer(list(7, &[]));
    settle().await;
    let scrape = rig.scrape();
    assert!(!scrape.contains("made-up"), "{scrape}");
    assert!(scrape.contains("service=\"declared\""), "{scrape}");
    assert_eq!(rig.metric("outrigger_watched_services{kind=\"on_demand\"}"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_second_discovery_on_the_same_metrics_is_an_error() {
    let rig = Rig::new();
    let (registry, _asked) = super::scripted();
    let second = crate::Discovery::new(
        registry,
        outrigger_config::DiscoverySettings::default(),
        tokio::runtime::Handle::current(),
        &rig.metrics,
    );
    assert!(matches!(second, Err(prometheus::Error::AlreadyReg)));
}
