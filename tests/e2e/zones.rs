//! Requests stay in the zone of the sidecar, as far as every instance gets its share.

use outrigger_tests::{
    instance::{Instance, Kill},
    sidecar::{Services, Sidecar},
    wait,
};

const SETTINGS: &str = "upstreams: [{service: orders, zone: {own: a, min_instances: 3}}]";

#[tokio::test]
async fn requests_stay_in_the_zone_and_leave_it_while_its_instances_are_ejected() {
    let all = [Instance::start("a1").await, Instance::start("a2").await];
    let far = [Instance::start("b1").await, Instance::start("b2").await];
    let mut services = Services::default().empty("orders");
    for (instances, zone) in [(&all, "a"), (&far, "b")] {
        for one in instances {
            services = services.and("orders", one, &format!("meta: {{zone: {zone}}}"));
        }
    }
    let sidecar = Sidecar::start(SETTINGS, &services).await;
    let share = |zone: &str| sidecar.metric("outrigger_zone_share", &[("service", "orders"), ("zone", zone)]);
    wait::until_true("the shares are worked out", || share("a") == 1.0).await;
    let mut client = sidecar.client().await;
    for _ in 0..40 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    let counts = || [&all[0], &all[1], &far[0], &far[1]].map(Instance::count);
    assert_eq!(counts(), [20, 20, 0, 0]);
    all[0].kill(Kill::Reset).await;
    wait::until("a third of the instances is here, for a half of the callers", wait::TIMEOUT, async || {
        assert_eq!(client.get("orders", "/").await.status, 200);
        (share("a") - 0.6667).abs() < 0.001
    })
    .await;
    let before = counts();
    for _ in 0..300 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    let here = counts()[1] - before[1];
    assert!(here.abs_diff(200) <= 2, "{here} of 300 stayed");
    // With two left, fewer than min_instances, zones do not count.
    far[0].kill(Kill::Reset).await;
    wait::until("zones do not count", wait::TIMEOUT, async || {
        assert_eq!(client.get("orders", "/").await.status, 200);
        share("a") == 0.0
    })
    .await;
    let before = counts();
    for _ in 0..100 {
        assert_eq!(client.get("orders", "/").await.status, 200);
    }
    assert_eq!([counts()[1] - before[1], counts()[3] - before[3]], [50, 50]);
}
