//! What a drain tells, and in which order.

use super::*;

#[tokio::test]
async fn the_steps_of_a_drain_are_events_in_their_order() {
    let fixture = LifecycleFixture::new().await;
    let with_service = [
        "registered: registered the app",
        "drain_phase: leaving",
        "drain_step: report_critical: done",
        "drain_step: await_critical: failed",
        "withdrawn: the registry has confirmed it",
        "drain_step: deregister: done",
        "drain_phase: propagating",
        "drain_step: await_removed: failed",
        "drain_step: wait_unobserved: done",
        "drain_phase: safe",
        "drain_phase: closing",
        "drain_phase: gone",
    ];
    // Nothing leaves, and nothing is waited for.
    let without = &with_service[9..];
    for (plan, expected) in [(Some(fixture.plan("orders")), &with_service[..]), (None, without)] {
        let decisions = Events::default();
        let plan = plan.map(|plan| RegistrationPlan { events: decisions.clone(), ..plan });
        let first_answers = std::future::ready(());
        let lifecycle = Lifecycle::start(first_answers, fixed_propagation(PROPAGATION), decisions.clone());
        lifecycle.apply_settings(plan, fixed_drain(PROPAGATION));
        wait_until_ready(&lifecycle).await;
        tokio::time::pause();
        lifecycle.drain_and_stop(async { 0 }).await;
        tokio::time::resume();
        assert_eq!(event_lines(&decisions), expected);
    }
}
