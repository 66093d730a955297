//! Keys, sessions and locks of a registry, by the calls of crate `registry`; `consul lock` is the other client.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use outrigger_config as config;
use outrigger_registry::{
    Consistency, Cursor, HeldPut, KnownLock, Kv, KvChange, KvScope, LockAttempt, LockKind, LockPlace, Locks,
    NewSession, SessionId, consul::Consul,
};
use outrigger_tests::consul;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(30);

fn client_of(addr: SocketAddr) -> Consul {
    let address = config::ConsulAddress { tls: false, host: addr.ip().to_string(), port: addr.port() };
    Consul::new(&config::ConsulSettings { address, ..config::ConsulSettings::default() }).unwrap()
}

fn place(path: &str, limit: u32) -> LockPlace {
    LockPlace { path: path.into(), limit }
}

async fn session(consul: &Consul, lock_delay: Duration) -> SessionId {
    let ttl = Duration::from_secs(10);
    let session = NewSession { name: "a test", ttl, lock_delay, removes_keys: false, ends_with_node: false };
    consul.open_session(session).await.unwrap()
}

/// One attempt with nothing known.
async fn attempt(consul: &Consul, place: &LockPlace, session: &SessionId) -> LockAttempt {
    consul.try_lock(place, session, b"held by a test", &mut KnownLock::default()).await.unwrap()
}

fn token(attempt: &LockAttempt) -> u64 {
    match attempt {
        LockAttempt::Acquired { token } => *token,
        other => panic!("{other:?}"),
    }
}

on_both_registries! {
    values: super::values_are_written_read_watched_and_removed;
    changes: super::several_changes_are_made_together_or_not_at_all;
    held_value: super::a_held_value_goes_with_its_session;
    mutex: super::a_mutex_has_one_holder_with_a_growing_token;
    semaphore: super::a_semaphore_has_as_many_holders_as_its_limit;
    lock_delay: super::a_closed_session_frees_its_lock_after_the_lock_delay;
    lock_delay_of_semaphore: super::a_lost_place_of_a_semaphore_stays_taken_for_the_lock_delay;
    other_limit: super::a_lock_that_is_free_makes_room_for_one_with_another_limit;
    other_use: super::a_key_with_another_use_is_not_written_over;
    mutex_of_consul_lock: super::a_mutex_excludes_consul_lock_and_is_excluded;
    semaphore_of_consul_lock: super::a_semaphore_counts_consul_lock_and_is_counted;
}

async fn values_are_written_read_watched_and_removed(addr: SocketAddr) {
    let consul = &client_of(addr);
    let read = async |scope| {
        consul.watch_kv(scope, Cursor::START, Consistency::Default, WAIT).await.unwrap().entries
    };
    let (key, value) = ("conf/a b/é?&=%.yaml", [0, 255, b'x']);
    assert!(consul.put_kv(key, &value, 7, None).await.unwrap());
    let entries = read(KvScope::Key(key)).await;
    assert_eq!((&*entries[0].key, &*entries[0].value, entries[0].flags), (key, &value[..], 7));
    assert!(consul.put_kv("conf/empty", b"", 0, Some(0)).await.unwrap(), "only where there is none");
    assert!(!consul.put_kv("conf/empty", b"2", 0, Some(0)).await.unwrap());
    assert_eq!(read(KvScope::Prefix("conf/")).await.len(), 2);
    assert_eq!(read(KvScope::Key("conf/none")).await, []);

    let first =
        consul.watch_kv(KvScope::Prefix("conf/"), Cursor::START, Consistency::Default, WAIT).await.unwrap();
    let watch = consul.watch_kv(KvScope::Prefix("conf/"), first.cursor, Consistency::Default, WAIT);
    let write = consul.put_kv(key, b"new", 0, Some(entries[0].modify_index));
    let (seen, written) = tokio::join!(watch, write);
    assert!(written.unwrap());
    let seen = seen.unwrap();
    assert!(seen.entries.iter().any(|entry| entry.value == b"new"), "{seen:?}");
    assert!(seen.cursor.index() > first.cursor.index());

    assert!(!consul.delete_kv(key, Some(entries[0].modify_index)).await.unwrap(), "written since");
    assert!(consul.delete_kv(key, None).await.unwrap() && consul.delete_kv(key, None).await.unwrap());
    assert_eq!(read(KvScope::Key(key)).await, []);
}

async fn several_changes_are_made_together_or_not_at_all(addr: SocketAddr) {
    let consul = &client_of(addr);
    let read = async || {
        let scope = KvScope::Prefix("conf/");
        let answer = consul.watch_kv(scope, Cursor::START, Consistency::Default, WAIT).await.unwrap();
        let shown = |entry: outrigger_registry::KvEntry| {
            (entry.key, String::from_utf8(entry.value).unwrap(), entry.flags, entry.modify_index)
        };
        answer.entries.into_iter().map(shown).collect::<Vec<_>>()
    };
    let put = |key, value: &'static str, flags, at| KvChange::Put { key, value: value.as_bytes(), flags, at };
    let first =
        consul.change_kv(&[put("conf/a", "1", 0, Some(0)), put("conf/b", "1", 7, None)]).await.unwrap();
    let first = first.expect("there is no key");
    assert_eq!(
        read().await,
        [("conf/a".into(), "1".into(), 0, first), ("conf/b".into(), "1".into(), 7, first)]
    );
    // One condition does not hold.
    let changes = [put("conf/b", "2", 0, None), put("conf/a", "2", 0, Some(first - 1))];
    assert_eq!(consul.change_kv(&changes).await.unwrap(), None);
    let changes = [put("conf/b", "2", 0, None), KvChange::Delete { key: "conf/a", at: Some(first + 9) }];
    assert_eq!(consul.change_kv(&changes).await.unwrap(), None);
    assert_eq!(consul.change_kv(&[put("conf/a", "2", 0, Some(0))]).await.unwrap(), None, "it exists");
    assert_eq!(read().await[1].1, "1");
    let changes = [
        put("conf/b", "2", 0, Some(first)),
        KvChange::Delete { key: "conf/a", at: Some(first) },
        KvChange::Delete { key: "conf/none", at: None },
    ];
    let second = consul.change_kv(&changes).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(read().await, [("conf/b".into(), "2".into(), 0, second)]);
}

async fn a_held_value_goes_with_its_session(addr: SocketAddr) {
    let consul = &client_of(addr);
    let open = async || {
        let (ttl, lock_delay) = (Duration::from_secs(10), Duration::ZERO);
        let session = NewSession { name: "a", ttl, lock_delay, removes_keys: true, ends_with_node: false };
        consul.open_session(session).await.unwrap()
    };
    let (a, b) = (open().await, open().await);
    let read = async || {
        let scope = KvScope::Key("held/a b");
        let answer = consul.watch_kv(scope, Cursor::START, Consistency::Default, WAIT).await.unwrap();
        answer.entries.into_iter().next().map(|entry| (entry.value, entry.session.unwrap_or_default()))
    };
    let put = async |value: &[u8], session| consul.put_held_kv("held/a b", value, session).await.unwrap();
    assert_eq!(put(b"1", &a).await, HeldPut::Written);
    assert_eq!(put(b"2", &a).await, HeldPut::Written, "it holds the key already");
    assert_eq!(put(b"3", &b).await, HeldPut::HeldByOther);
    assert_eq!(read().await, Some((b"2".to_vec(), a.as_str().to_owned())));
    consul.close_session(&a).await.unwrap();
    assert_eq!(read().await, None);
    assert_eq!(put(b"4", &a).await, HeldPut::SessionLost);
    assert_eq!(put(b"5", &b).await, HeldPut::Written, "no lock-delay");
}

async fn a_mutex_has_one_holder_with_a_growing_token(addr: SocketAddr) {
    let consul = &client_of(addr);
    let (place, mut known) = (place("locks/jobs", 1), KnownLock::default());
    let (a, b) = (session(consul, Duration::ZERO).await, session(consul, Duration::ZERO).await);
    assert!(consul.renew_session(&a).await.unwrap());
    assert_eq!(consul.session_info(&a).await.unwrap().unwrap().name, "a test");
    let first = token(&consul.try_lock(&place, &a, b"a", &mut known).await.unwrap());
    assert_eq!(attempt(consul, &place, &b).await, LockAttempt::Held);
    let again = token(&consul.try_lock(&place, &a, b"a", &mut known).await.unwrap());
    assert!(again >= first, "the answer to the first attempt may have been lost");
    let state = consul.watch_lock(&place, Cursor::START, WAIT).await.unwrap();
    assert_eq!((state.kind, state.holders.len()), (LockKind::Mutex, 1));
    assert_eq!((&state.holders[0].session, &*state.holders[0].value), (&a, &b"a"[..]));

    let watch = consul.watch_lock(&place, state.cursor, WAIT);
    let release = async { consul.unlock(&place, &a, &mut known).await };
    let (freed, released) = tokio::join!(watch, release);
    assert!(released.unwrap() && freed.unwrap().holders.is_empty());
    assert!(!consul.unlock(&place, &a, &mut known).await.unwrap(), "not held any more");
    // No lock-delay after a release.
    let second = token(&attempt(consul, &place, &b).await);
    assert!(second > again, "{second} after {again}");
    // What is known is out of date: the key is read again.
    assert_eq!(consul.try_lock(&place, &a, b"a", &mut known).await.unwrap(), LockAttempt::Held);
    let gone = SessionId::recorded("11111111-1111-1111-1111-111111111111");
    assert!(!consul.renew_session(&gone).await.unwrap());
    assert_eq!(consul.session_info(&gone).await.unwrap(), None);
    consul.unlock(&place, &b, &mut known).await.unwrap();
    assert_eq!(attempt(consul, &place, &gone).await, LockAttempt::SessionLost);
}

async fn a_semaphore_has_as_many_holders_as_its_limit(addr: SocketAddr) {
    let consul = &client_of(addr);
    let place = place("locks/pool", 2);
    let (a, b, c) = (
        session(consul, Duration::ZERO).await,
        session(consul, Duration::ZERO).await,
        session(consul, Duration::ZERO).await,
    );
    let first = token(&attempt(consul, &place, &a).await);
    let second = token(&attempt(consul, &place, &b).await);
    assert!(second > first);
    assert_eq!(attempt(consul, &place, &c).await, LockAttempt::Held);
    let other = LockPlace { limit: 3, ..place.clone() };
    assert_eq!(attempt(consul, &other, &c).await, LockAttempt::OtherLimit(2));
    let state = consul.watch_lock(&place, Cursor::START, WAIT).await.unwrap();
    assert_eq!((state.kind, state.holders.len()), (LockKind::Semaphore { limit: 2 }, 2));
    assert!(consul.unlock(&place, &a, &mut KnownLock::default()).await.unwrap());
    assert!(!consul.unlock(&place, &a, &mut KnownLock::default()).await.unwrap());
    assert!(token(&attempt(consul, &place, &c).await) > second);
    assert!(!consul.remove_unused_lock(&place).await.unwrap(), "it is held");
    // A holder without a session counts no longer.
    consul.close_session(&b).await.unwrap();
    token(&attempt(consul, &place, &a).await);
}

async fn a_closed_session_frees_its_lock_after_the_lock_delay(addr: SocketAddr) {
    let consul = &client_of(addr);
    let place = place("locks/delayed", 1);
    let (a, b) = (session(consul, Duration::from_secs(2)).await, session(consul, Duration::ZERO).await);
    token(&attempt(consul, &place, &a).await);
    consul.close_session(&a).await.unwrap();
    assert_eq!(attempt(consul, &place, &b).await, LockAttempt::Delayed);
    let acquired = async {
        loop {
            if let LockAttempt::Acquired { token } = attempt(consul, &place, &b).await {
                return token;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(LONG, acquired).await.expect("the lock-delay ends");
}

/// Consul knows no lock-delay of a semaphore.
async fn a_lost_place_of_a_semaphore_stays_taken_for_the_lock_delay(addr: SocketAddr) {
    let consul = &client_of(addr);
    let (place, delay) = (place("locks/lost", 2), Duration::from_secs(2));
    let [a, b, c, d] = [(); 4].map(|()| session(consul, delay));
    let (a, b, c, d) = (a.await, b.await, c.await, d.await);
    token(&attempt(consul, &place, &a).await);
    token(&attempt(consul, &place, &b).await);
    consul.close_session(&a).await.unwrap();
    let mut known = KnownLock::default().with_lock_delay(delay);
    let since = tokio::time::Instant::now();
    let mut attempt_c = async || consul.try_lock(&place, &c, b"c", &mut known).await.unwrap();
    assert_eq!(attempt_c().await, LockAttempt::Delayed);
    // A release of another place does not shorten it, and frees that place at once.
    assert!(consul.unlock(&place, &b, &mut KnownLock::default()).await.unwrap());
    let mut known_d = KnownLock::default().with_lock_delay(delay);
    let of_d = consul.try_lock(&place, &d, b"d", &mut known_d).await.unwrap();
    token(&of_d);
    assert_eq!(attempt_c().await, LockAttempt::Delayed);
    let acquired = async {
        while attempt_c().await == LockAttempt::Delayed {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LONG, acquired).await.expect("the lock-delay ends");
    assert!(since.elapsed() >= delay, "{:?}", since.elapsed());
    assert_eq!(attempt(consul, &place, &a).await, LockAttempt::Held);
}

async fn a_key_with_another_use_is_not_written_over(addr: SocketAddr) {
    let consul = &client_of(addr);
    let owner = session(consul, Duration::ZERO).await;
    assert!(consul.put_kv("locks/text/.lock", b"text", 0, None).await.unwrap());
    for limit in [1, 2] {
        let foreign = attempt(consul, &place("locks/text", limit), &owner).await;
        assert_eq!(foreign, LockAttempt::OtherKind(LockKind::Foreign));
    }
    token(&attempt(consul, &place("locks/one", 1), &owner).await);
    assert_eq!(
        attempt(consul, &place("locks/one", 2), &owner).await,
        LockAttempt::OtherKind(LockKind::Mutex)
    );
    token(&attempt(consul, &place("locks/two", 2), &owner).await);
    let semaphore = LockKind::Semaphore { limit: 2 };
    assert_eq!(attempt(consul, &place("locks/two", 1), &owner).await, LockAttempt::OtherKind(semaphore));
}

async fn a_lock_that_is_free_makes_room_for_one_with_another_limit(addr: SocketAddr) {
    let consul = &client_of(addr);
    let owner = session(consul, Duration::ZERO).await;
    // There is nothing to remove.
    assert!(consul.remove_unused_lock(&place("locks/free", 2)).await.unwrap());
    for (before, after) in [(1, 2), (2, 3), (3, 1)] {
        let (before, after) = (place("locks/free", before), place("locks/free", after));
        token(&attempt(consul, &before, &owner).await);
        assert!(!consul.remove_unused_lock(&before).await.unwrap(), "it is held");
        assert!(consul.unlock(&before, &owner, &mut KnownLock::default()).await.unwrap());
        assert!(!matches!(attempt(consul, &after, &owner).await, LockAttempt::Acquired { .. }));
        assert!(consul.remove_unused_lock(&after).await.unwrap());
        token(&attempt(consul, &after, &owner).await);
        assert!(consul.unlock(&after, &owner, &mut KnownLock::default()).await.unwrap());
        assert!(consul.remove_unused_lock(&before).await.unwrap());
    }
    assert!(consul.put_kv("locks/text/.lock", b"text", 0, None).await.unwrap());
    assert!(!consul.remove_unused_lock(&place("locks/text", 2)).await.unwrap(), "it is no lock");
}

/// `consul lock` with a child that writes to its stdout when it holds the lock, and ends when its stdin is closed.
fn consul_lock(url: &str, path: &str, limit: &str) -> tokio::process::Child {
    tokio::process::Command::new(consul::Consul::find().unwrap())
        .args(["lock", "-http-addr", url, "-pass-stdin", "-n", limit, path, "echo held; cat >/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Resolves when the child of `consul lock` runs.
async fn wait_until_held(child: &mut tokio::process::Child) {
    use tokio::io::AsyncReadExt as _;
    let mut said = [0; 5];
    child.stdout.as_mut().unwrap().read_exact(&mut said).await.unwrap();
}

async fn wait_until_acquired(consul: &Consul, place: &LockPlace, session: &SessionId) {
    while attempt(consul, place, session).await == LockAttempt::Held {
        let state = consul.watch_lock(place, Cursor::START, WAIT).await.unwrap();
        if state.holders.len() >= place.limit as usize {
            consul.watch_lock(place, state.cursor, WAIT).await.unwrap();
        }
    }
}

async fn a_mutex_excludes_consul_lock_and_is_excluded(addr: SocketAddr) {
    // `consul lock` is Consul's binary, on the dev registry too.
    if !consul::available("a mutex excludes `consul lock` and is excluded") {
        return;
    }
    let (consul, url) = (&client_of(addr), &*format!("http://{addr}"));
    let place = place("locks/both", 1);
    let own = session(consul, Duration::ZERO).await;
    let mut other = consul_lock(url, "locks/both", "1");
    wait_until_held(&mut other).await;
    assert_eq!(attempt(consul, &place, &own).await, LockAttempt::Held);
    drop(other.stdin.take());
    wait_until_acquired(consul, &place, &own).await;
    other.wait().await.unwrap();

    let mut other = consul_lock(url, "locks/both", "1");
    // It waits: the key stays ours until it is given back.
    let state = consul.watch_lock(&place, Cursor::START, WAIT).await.unwrap();
    assert_eq!(state.holders[0].session, own);
    let held = timeout(Duration::from_millis(500), wait_until_held(&mut other)).await;
    assert!(held.is_err(), "`consul lock` did not wait");
    assert!(consul.unlock(&place, &own, &mut KnownLock::default()).await.unwrap());
    wait_until_held(&mut other).await;
    drop(other.stdin.take());
    other.wait().await.unwrap();
}

async fn a_semaphore_counts_consul_lock_and_is_counted(addr: SocketAddr) {
    // `consul lock` is Consul's binary, on the dev registry too.
    if !consul::available("a semaphore counts `consul lock` and is counted") {
        return;
    }
    let (consul, url) = (&client_of(addr), &*format!("http://{addr}"));
    let place = place("locks/three", 3);
    let own = [session(consul, Duration::ZERO).await, session(consul, Duration::ZERO).await];
    let mut first = consul_lock(url, "locks/three", "3");
    wait_until_held(&mut first).await;
    token(&attempt(consul, &place, &own[0]).await);
    let mut second = consul_lock(url, "locks/three", "3");
    wait_until_held(&mut second).await;
    assert_eq!(attempt(consul, &place, &own[1]).await, LockAttempt::Held);
    drop(first.stdin.take());
    wait_until_acquired(consul, &place, &own[1]).await;
    first.wait().await.unwrap();
    let mut third = consul_lock(url, "locks/three", "3");
    assert!(timeout(Duration::from_millis(500), wait_until_held(&mut third)).await.is_err());
    assert!(consul.unlock(&place, &own[0], &mut KnownLock::default()).await.unwrap());
    wait_until_held(&mut third).await;
    for mut child in [second, third] {
        drop(child.stdin.take());
        child.wait().await.unwrap();
    }
}
