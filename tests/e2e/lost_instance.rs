//! An instance that passes on the errors of a sidecar behind it is compared with the others.

use outrigger_tests::{
    instance::{Answer, Instance},
    sidecar::Sidecar,
};

fn trips(sidecar: &Sidecar) -> f64 {
    sidecar.metric("outrigger_breaker_trips_total", &[("service", "orders")])
}

#[tokio::test]
async fn an_instance_that_passes_on_errors_of_a_sidecar_behind_it_is_ejected_by_its_rate() {
    for status in [503, 404] {
        let all = [Instance::start("a").await, Instance::start("b").await];
        let bad = Instance::scripted("bad", move |_| {
            Answer::status(status, "no").field("x-outrigger-error", "no_usable_instance")
        })
        .await;
        let settings = "defaults: {outlier: {base_ejection_time: 1h, max_ejection_time: 1h}}";
        let sidecar = Sidecar::orders(settings, &[&all[0], &all[1], &bad]).await;
        let mut client = sidecar.client().await;
        let mut errors = 0;
        for _ in 0..150 {
            errors += usize::from(client.get("orders", "/").await.status == status);
        }
        // Twenty requests are the fewest for a rate, and every fourth failure compares it.
        assert!((20..=24).contains(&bad.count()), "{} requests", bad.count());
        assert_eq!(errors, bad.count(), "none is repeated");
        assert_eq!(trips(&sidecar), 0.0);
        let why = sidecar.endpoints("orders").into_iter().find_map(|one| one.ejected).map(|one| one.why);
        assert_eq!(why, Some("success_rate"));
    }
}
