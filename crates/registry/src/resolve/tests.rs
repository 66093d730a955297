//! Names with several addresses, and resolvers that fail or hang. No name is looked up by the system.

use std::{collections::VecDeque, io, sync::mpsc};

use proptest::prelude::*;
use tokio::time::sleep;

use super::*;
use crate::HealthStatus;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A resolver that finds these addresses, one list after the other, and then nothing.
fn resolver_with_answers<const N: usize>(answers: [&[&str]; N]) -> Resolver {
    let answers = Mutex::new(answers.map(ips).into_iter().collect::<VecDeque<_>>());
    Resolver::with_lookups(Lookups::with_resolver(1, move |_| {
        answers.lock().pop_front().ok_or_else(|| io::Error::other("no resolver"))
    }))
}

/// A resolver that answers nothing until the sender is dropped.
fn hung_resolver() -> (Resolver, mpsc::Sender<()>) {
    let (held, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(hang);
    let lookups = Lookups::with_resolver(1, move |_| {
        let _ = hang.lock().recv();
        Err(io::Error::other("it took too long"))
    });
    (Resolver::with_lookups(lookups), held)
}

fn unresolved(id: &str, host: &str, port: i64) -> UnresolvedInstance {
    let instance = Instance {
        id: InstanceId { datacenter: "dc1".into(), node: "n".into(), id: id.into() },
        addr: Err(Unusable::NoAddress),
        named: None,
        facts: Arc::default(),
        tags: Arc::from([]),
        meta: Arc::default(),
        weights: Default::default(),
        status: HealthStatus::Passing,
        node_lost: false,
        draining: false,
        create_index: 1,
    };
    UnresolvedInstance { host: host.into(), port, instance }
}

/// Ids and addresses.
fn shown(instances: &[Instance]) -> Vec<String> {
    let addr = |one: &Instance| one.addr.as_ref().map_or_else(ToString::to_string, ToString::to_string);
    instances.iter().map(|one| format!("{} {}", one.id.id, addr(one))).collect()
}

/// What `work` returns. The paused clock stands still meanwhile, because look-ups run on threads.
async fn held<T>(work: impl Future<Output = T>) -> T {
    let (end, ended) = mpsc::channel::<()>();
    let hold = tokio::task::spawn_blocking(move || ended.recv());
    let result = work.await;
    drop(end);
    let _ = hold.await;
    result
}

async fn resolve_name(resolver: &Resolver) -> Vec<String> {
    // Past the time in which a name is not looked up again.
    sleep(MIN_LOOKUP_INTERVAL).await;
    shown(&held(resolver.resolve(vec![unresolved("db", "db.example", 5432)])).await)
}

#[tokio::test(start_paused = true)]
async fn each_address_of_a_name_is_an_instance_that_keeps_its_id() {
    let resolver = resolver_with_answers([
        &["10.0.0.2", "10.0.0.1"],
        &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        &["10.0.0.3", "10.0.0.2"],
        &["10.0.0.9", "10.0.0.2"],
    ]);
    for expected in [
        &["db 10.0.0.1:5432", "db#2 10.0.0.2:5432"][..],
        &["db 10.0.0.1:5432", "db#2 10.0.0.2:5432", "db#3 10.0.0.3:5432"],
        &["db 10.0.0.3:5432", "db#2 10.0.0.2:5432"],
        &["db 10.0.0.9:5432", "db#2 10.0.0.2:5432"],
    ] {
        assert_eq!(resolve_name(&resolver).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_of_ipv6_are_the_fallback_of_each_of_ipv4() {
    let resolver = resolver_with_answers([&["::1", "10.0.0.1", "10.0.0.2"], &["fd00::2", "fd00::1"]]);
    let both = held(resolver.resolve(vec![unresolved("db", "db.example", 5432)])).await;
    assert_eq!(shown(&both), ["db 10.0.0.1:5432", "db#2 10.0.0.2:5432"]);
    let named = both[1].named.as_ref().unwrap();
    assert_eq!(
        (&*named.host, &*named.id, &*named.fallback),
        ("db.example", "db", &["[::1]:5432".parse().unwrap()][..])
    );
    assert_eq!(resolve_name(&resolver).await, ["db [fd00::1]:5432", "db#2 [fd00::2]:5432"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_name_is_not_looked_up_and_a_wrong_port_is_named() {
    let resolver = resolver_with_answers([]);
    let listed = [
        ("a", "10.0.0.1", 80),
        ("b", "0.0.0.0", 80),
        ("c", "", 80),
        ("d", "db.example", 0),
        ("e", "::1", 1 << 17),
    ];
    let resolved = resolver.resolve(listed.map(|(id, host, port)| unresolved(id, host, port)).into()).await;
    assert_eq!(
        shown(&resolved),
        [
            "a 10.0.0.1:80",
            "b no address",
            "c no address",
            "d port 0 is not between 1 and 65535",
            "e port 131072 is not between 1 and 65535"
        ]
    );
    assert_eq!(
        resolved.iter().map(|one| one.named.is_some()).collect::<Vec<_>>(),
        [false, false, false, true, false]
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_addresses_stay_for_ten_minutes_when_the_resolver_fails() {
    let resolver = resolver_with_answers([&["10.0.0.1"], &[]]);
    for _ in 0..3 {
        assert_eq!(resolve_name(&resolver).await, ["db 10.0.0.1:5432"]);
    }
    sleep(FALLBACK_TTL).await;
    assert_eq!(resolve_name(&resolver).await, ["db host name \"db.example\" does not resolve: no resolver"]);
}

#[tokio::test]
async fn a_resolver_that_hangs_delays_one_answer_by_a_second_and_the_next_ones_not_at_all() {
    let (resolver, _held) = hung_resolver();
    // As if it had been found before.
    let found = Arc::new(NameAddresses { used: ips(&["10.0.0.1"]), fallback: Vec::new() });
    let now = Instant::now();
    let asked_at = now.checked_sub(MIN_LOOKUP_INTERVAL).unwrap();
    let known = KnownName { found: Some((found, now)), asked_at, fault: None };
    resolver.names.lock().insert("db.example".into(), known);
    let listed = || vec![unresolved("db", "db.example", 5432)];
    for (number, longest) in [(0, 3000), (1, 500), (2, 500)] {
        let from = Instant::now();
        assert_eq!(shown(&resolver.resolve(listed()).await), ["db 10.0.0.1:5432"]);
        let took = from.elapsed().as_millis();
        assert!(took < longest && (number > 0 || took >= 1000), "{took} ms");
    }
    let from = Instant::now();
    assert!(shown(&resolver.resolve(vec![unresolved("x", "other", 1)]).await)[0].contains("in time"));
    assert!(from.elapsed() < Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_name_is_looked_up_again_on_demand_but_once_a_second() {
    let resolver = resolver_with_answers([&["10.0.0.1", "10.0.0.2"], &["10.0.0.1", "10.0.0.3"]]);
    let listed = vec![unresolved("db", "db.example", 5432), unresolved("a", "10.9.9.9", 1)];
    let mut instances = held(resolver.resolve(listed)).await;
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(resolver.resolve_again(&instances).await, None, "it was looked up a moment ago");
    sleep(MIN_LOOKUP_INTERVAL).await;
    let again = held(resolver.resolve_again(&instances)).await.unwrap();
    assert_eq!(shown(&again), ["a 10.9.9.9:1", "db 10.0.0.1:5432", "db#2 10.0.0.3:5432"]);
    sleep(MIN_LOOKUP_INTERVAL).await;
    assert_eq!(held(resolver.resolve_again(&again)).await, None, "a resolver that fails changes nothing");
    assert_eq!(resolver.resolve_again(&again[..1]).await, None, "no name");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_did_not_resolve_is_found_later() {
    let resolver = resolver_with_answers([&[], &["10.0.0.1"]]);
    let instances = held(resolver.resolve(vec![unresolved("db", "db.example", 5432)])).await;
    assert!(instances[0].addr.is_err());
    sleep(MIN_LOOKUP_INTERVAL).await;
    assert_eq!(shown(&held(resolver.resolve_again(&instances)).await.unwrap()), ["db 10.0.0.1:5432"]);
}

#[tokio::test]
async fn the_number_of_kept_names_is_bounded() {
    let lookups = Lookups::with_resolver(1, |_| Ok(ips(&["10.0.0.1"])));
    let resolver = Resolver::with_lookups(lookups);
    let names = (0..MAX_REMEMBERED + 100).map(|n| format!("name-{n}").into()).collect();
    assert_eq!(resolver.look_up_all(names).await.len(), MAX_REMEMBERED + 100);
    assert_eq!(resolver.names.lock().len(), MAX_REMEMBERED);
}

proptest! {
    #[test]
    fn an_address_keeps_its_place_unless_a_place_before_it_would_stay_free(
        before in proptest::collection::hash_set(0_u8..12, 0..8),
        found in proptest::collection::hash_set(0_u8..12, 0..8),
    ) {
        let ip = |last: &u8| IpAddr::from([10, 0, 0, *last]);
        let (before, found): (Vec<_>, Vec<_>) = (before.iter().map(ip).collect(), found.iter().map(ip).collect());
        let places = keep_places(&before, &found);
        let sorted = |ips: &[IpAddr]| { let mut ips = ips.to_vec(); ips.sort_unstable(); ips };
        prop_assert_eq!(sorted(&places), sorted(&found));
        for (place, ip) in before.iter().enumerate().take(found.len()) {
            prop_assert!(!found.contains(ip) || places[place] == *ip, "{:?} {:?} {:?}", before, found, places);
        }
    }
}
