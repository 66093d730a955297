//! Consul's sessions and locks, with the keys, flags and contents of `consul lock` and of Consul's Go client, so that
//! programs of both kinds exclude each other.
//!
//! A mutex is the key `PATH/.lock` that a session holds. A semaphore is a key of the same name that lists its holders, written
//! under a condition, and one key `PATH/SESSION` for each of them, held by its session: a holder that is listed without such a key
//! has lost its session. Consul's lock-delay closes that key alone, so the contenders keep the delay among themselves
//! ([`KnownLock::with_lock_delay`]); `consul lock -n` does not.
//!
//! **Why a transaction.** `PUT /v1/kv/KEY?acquire=` answers `false` both where the lock is held and where its lock-delay is not
//! over, and does not say the index of the write. A transaction says all three, in one round trip. It also holds the condition that the
//! key is what was read last: the verb `lock` would write over any value, a semaphore's list among them.

use std::{collections::BTreeMap, time::Duration};

use ::http::{Method, StatusCode};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use outrigger_policy::backoff::Backoff;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    AGENT_CALL_TIMEOUT, Consul,
    agent::go_duration,
    api_client::{ApiRequest, percent_encode},
    connection::ApiResponse,
    expect_ok, kv, refusal,
    transaction::{Transaction, TransactionRefusal},
};
use crate::{
    AnswerFuture, Consistency, Cursor, Error, KnownLock, Kv, KvEntry, KvScope, LockAnswer, LockAttempt,
    LockHolder, LockKind, LockPlace, Locks, NewSession, SessionId, SessionInfo,
};

/// The flags of a mutex (Consul's Go client, `api/lock.go`).
const MUTEX_FLAGS: u64 = 0x2ddc_cbc0_58a5_0c18;
/// The flags of a semaphore and of its contenders (`api/semaphore.go`).
const SEMAPHORE_FLAGS: u64 = 0xe0f6_9a2b_aa41_4de0;
/// The last part of the key of both.
const LOCK_KEY: &str = ".lock";
/// How often one attempt reads the key again, because another client wrote it in between: each time another client had its way, so that
/// many that ask at once need many rounds.
const MAX_ROUNDS: u32 = 100;
/// Pauses between the rounds, so that those that ask at once do not go on in step.
const ROUNDS: Backoff = Backoff { base: Duration::from_millis(2), max: Duration::from_millis(100) };

/// The list of a semaphore.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SemaphoreList {
    limit: u32,
    #[serde(default)]
    holders: BTreeMap<String, bool>,
}

/// What stands at a place.
struct Read {
    kind: LockKind,
    /// 0: there is no key.
    written_at: u64,
    holders: Vec<LockHolder>,
    /// Listed as holders of a semaphore, without a session.
    gone: Vec<SessionId>,
}

impl Locks for Consul {
    fn open_session<'a>(&'a self, session: NewSession<'a>) -> AnswerFuture<'a, SessionId> {
        Box::pin(async move {
            // `NodeChecks` since 1.7, `Checks` before it. Without either a session has the check of the node.
            let checks: &[&str] = if session.ends_with_node { &["serfHealth"] } else { &[] };
            let body = json!({
                "Name": session.name,
                "TTL": go_duration(session.ttl),
                "LockDelay": lock_delay_text(session.lock_delay),
                "Behavior": if session.removes_keys { "delete" } else { "release" },
                "NodeChecks": checks,
                "Checks": checks,
            });
            let id: RawSessionId = self
                .call_agent(
                    "session_create",
                    Method::PUT,
                    "/v1/session/create".into(),
                    body.to_string().into(),
                    |body| serde_json::from_slice(body),
                )
                .await?;
            Ok(SessionId(id.id))
        })
    }

    fn renew_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, bool> {
        Box::pin(async move {
            let target = format!("/v1/session/renew/{}", percent_encode(&session.0));
            let ask =
                ApiRequest::call("session_renew", Method::PUT, target, Bytes::new(), AGENT_CALL_TIMEOUT);
            let request = ask.method_and_path();
            self.send_to_agent(ask, |reply| {
                if is_unknown_session(&reply) {
                    return Ok(false);
                }
                expect_ok(&reply, &request).map(|()| true)
            })
            .await
        })
    }

    fn close_session<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, ()> {
        let target = format!("/v1/session/destroy/{}", percent_encode(&session.0));
        Box::pin(self.put("session_destroy", target, Bytes::new()))
    }

    fn session_info<'a>(&'a self, session: &'a SessionId) -> AnswerFuture<'a, Option<SessionInfo>> {
        Box::pin(async move {
            let target = format!("/v1/session/info/{}", percent_encode(&session.0));
            let listed: Vec<RawSessionInfo> = self
                .call_agent("session_info", Method::GET, target, Bytes::new(), |body| {
                    serde_json::from_slice::<Option<_>>(body).map(Option::unwrap_or_default)
                })
                .await?;
            Ok(listed.into_iter().next().map(|RawSessionInfo { name, node }| SessionInfo { name, node }))
        })
    }

    fn remove_unused_lock<'a>(&'a self, place: &'a LockPlace) -> AnswerFuture<'a, bool> {
        Box::pin(async move {
            let (key, prefix) = (lock_key(place), format!("{}/", place.path));
            let entries = self.read_entries(KvScope::Prefix(&prefix)).await?;
            let read = judge(place, &entries);
            self.check_read(place, KvScope::Prefix(&prefix), &entries, &read).await?;
            match read.kind {
                LockKind::Unused => Ok(true),
                LockKind::Foreign => Ok(false),
                LockKind::Mutex | LockKind::Semaphore { .. } if !read.holders.is_empty() => Ok(false),
                // A session that acquires it meanwhile writes the key.
                LockKind::Mutex | LockKind::Semaphore { .. } => {
                    self.delete_kv(&key, Some(read.written_at)).await
                }
            }
        })
    }

    fn try_lock<'a>(
        &'a self,
        place: &'a LockPlace,
        session: &'a SessionId,
        value: &'a [u8],
        known: &'a mut KnownLock,
    ) -> AnswerFuture<'a, LockAttempt> {
        Box::pin(async move {
            if place.limit == 1 {
                self.try_mutex(place, session, value, known).await
            } else {
                self.try_semaphore(place, session, value, known).await
            }
        })
    }

    fn unlock<'a>(
        &'a self,
        place: &'a LockPlace,
        session: &'a SessionId,
        known: &'a mut KnownLock,
    ) -> AnswerFuture<'a, bool> {
        Box::pin(async move {
            if place.limit == 1 {
                self.release_mutex(place, session, known).await
            } else {
                self.release_semaphore(place, session).await
            }
        })
    }

    fn watch_lock<'a>(
        &'a self,
        place: &'a LockPlace,
        cursor: Cursor,
        wait: Duration,
    ) -> AnswerFuture<'a, LockAnswer> {
        Box::pin(async move {
            let (key, prefix) = (lock_key(place), format!("{}/", place.path));
            let scope = if place.limit == 1 { KvScope::Key(&key) } else { KvScope::Prefix(&prefix) };
            let answer = self.watch_kv(scope, cursor, Consistency::Consistent, wait).await?;
            let read = judge(place, &answer.entries);
            self.check_read(place, scope, &answer.entries, &read).await?;
            let Read { kind, written_at, holders, .. } = read;
            Ok(LockAnswer { kind, holders, last_write: written_at, cursor: answer.cursor })
        })
    }
}

impl Consul {
    async fn try_mutex(
        &self,
        place: &LockPlace,
        session: &SessionId,
        value: &[u8],
        known: &mut KnownLock,
    ) -> Result<LockAttempt, Error> {
        let key = lock_key(place);
        for round in 0..MAX_ROUNDS {
            let written_at = match known.written_at {
                Some(written_at) => written_at,
                None => {
                    let read = self.read_place(place, KvScope::Key(&key)).await?;
                    match read.kind {
                        LockKind::Unused | LockKind::Mutex => {}
                        other => return Ok(LockAttempt::OtherKind(other)),
                    }
                    match read.holders.first() {
                        // Held by this session: it was acquired, and the answer was lost.
                        Some(holder) if holder.session == *session => {}
                        Some(_) => return Ok(LockAttempt::Held),
                        None => {}
                    }
                    read.written_at
                }
            };
            let lock = json!({"KV": {
                "Verb": "lock", "Key": key, "Value": BASE64.encode(value), "Flags": MUTEX_FLAGS, "Session": session.0,
            }});
            let operations = [unchanged(&key, written_at), lock];
            match self.transact("lock", &operations).await? {
                Transaction::Done(entries) => {
                    let token = entries.last().map_or(0, |entry| entry.modify_index);
                    known.written_at = Some(token).filter(|token| *token > 0);
                    return Ok(LockAttempt::Acquired { token });
                }
                Transaction::Refused(refusal) => {
                    known.written_at = None;
                    match refusal {
                        TransactionRefusal::Held => return Ok(LockAttempt::Held),
                        TransactionRefusal::Delayed => return Ok(LockAttempt::Delayed),
                        TransactionRefusal::SessionLost => return Ok(LockAttempt::SessionLost),
                        TransactionRefusal::Changed | TransactionRefusal::NotHeld => {}
                    }
                    sleep(ROUNDS.pause(round, fastrand::u64(..))).await;
                }
            }
        }
        Err(too_many_rounds(&key))
    }

    async fn release_mutex(
        &self,
        place: &LockPlace,
        session: &SessionId,
        known: &mut KnownLock,
    ) -> Result<bool, Error> {
        let key = lock_key(place);
        // The value described the holder.
        let unlock = json!({"KV": {
            "Verb": "unlock", "Key": key, "Value": "", "Flags": MUTEX_FLAGS, "Session": session.0,
        }});
        known.written_at = None;
        match self.transact("unlock", &[unlock]).await? {
            Transaction::Done(entries) => {
                known.written_at = entries.last().map(|entry| entry.modify_index);
                Ok(true)
            }
            // A connection that broke repeats the request, which is refused then; both mean that the session no longer holds it.
            Transaction::Refused(_) => Ok(false),
        }
    }

    async fn try_semaphore(
        &self,
        place: &LockPlace,
        session: &SessionId,
        value: &[u8],
        known: &mut KnownLock,
    ) -> Result<LockAttempt, Error> {
        let (key, contender, prefix) =
            (lock_key(place), contender_key(place, session), format!("{}/", place.path));
        for round in 0..MAX_ROUNDS {
            let read = self.read_place(place, KvScope::Prefix(&prefix)).await?;
            match read.kind {
                LockKind::Unused => {}
                LockKind::Semaphore { limit } if limit == place.limit => {}
                LockKind::Semaphore { limit } => return Ok(LockAttempt::OtherLimit(limit)),
                other => return Ok(LockAttempt::OtherKind(other)),
            }
            if read.holders.iter().any(|holder| holder.session == *session) {
                return Ok(LockAttempt::Acquired { token: read.written_at });
            }
            let limit = usize::try_from(place.limit).unwrap_or(usize::MAX);
            if read.holders.len() >= limit {
                return Ok(LockAttempt::Held);
            }
            let closed = known.still_closed(&read.gone, Instant::now());
            if read.holders.len() + closed.len() >= limit {
                return Ok(LockAttempt::Delayed);
            }
            let listed = read.holders.into_iter().map(|holder| holder.session).chain(closed);
            let list = list_text(place, listed.chain([session.clone()]));
            let operations = [
                json!({"KV": {
                    "Verb": "lock", "Key": contender, "Value": BASE64.encode(value), "Flags": SEMAPHORE_FLAGS,
                    "Session": session.0,
                }}),
                replace_list(&key, &list, read.written_at),
            ];
            match self.transact("lock", &operations).await? {
                Transaction::Done(entries) => {
                    let token = entries.last().map_or(0, |entry| entry.modify_index);
                    return Ok(LockAttempt::Acquired { token });
                }
                Transaction::Refused(TransactionRefusal::SessionLost) => return Ok(LockAttempt::SessionLost),
                Transaction::Refused(TransactionRefusal::Delayed) => return Ok(LockAttempt::Delayed),
                Transaction::Refused(_) => {}
            }
            sleep(ROUNDS.pause(round, fastrand::u64(..))).await;
        }
        // There was a free place each time.
        Err(too_many_rounds(&key))
    }

    async fn release_semaphore(&self, place: &LockPlace, session: &SessionId) -> Result<bool, Error> {
        let (key, contender, prefix) =
            (lock_key(place), contender_key(place, session), format!("{}/", place.path));
        let remove = json!({"KV": {"Verb": "delete", "Key": contender}});
        for round in 0..MAX_ROUNDS {
            let read = self.read_place(place, KvScope::Prefix(&prefix)).await?;
            let held = read.holders.iter().any(|holder| holder.session == *session);
            if !held {
                self.transact("unlock", &[remove]).await?;
                return Ok(false);
            }
            // What is gone stays listed: its lock-delay may not be over.
            let listed = read.holders.into_iter().map(|holder| holder.session).chain(read.gone);
            let list = list_text(place, listed.filter(|other| other != session));
            let operations = [replace_list(&key, &list, read.written_at), remove.clone()];
            if let Transaction::Done(_) = self.transact("unlock", &operations).await? {
                return Ok(true);
            }
            sleep(ROUNDS.pause(round, fastrand::u64(..))).await;
        }
        Err(too_many_rounds(&key))
    }

    /// Tells a key that is not there from one that the token may not read: Consul shows a prefix without the keys that it hides, and refuses
    /// to read a single one, also where there is none. One is enough: the key of the lock, or that of a holder in its list.
    ///
    /// # Errors
    /// When the token may not read the key, or the registry does not answer.
    async fn check_read(
        &self,
        place: &LockPlace,
        scope: KvScope<'_>,
        entries: &[KvEntry],
        read: &Read,
    ) -> Result<(), Error> {
        if let KvScope::Key(_) = scope {
            // This question was about the key itself.
            return Ok(());
        }
        let contenders = read.gone.iter().map(|session| contender_key(place, session));
        let mut expected = std::iter::once(lock_key(place)).chain(contenders);
        match expected.find(|key| entries.iter().all(|entry| entry.key != *key)) {
            Some(missing) => self.read_entries(KvScope::Key(&missing)).await.map(drop),
            None => Ok(()),
        }
    }

    async fn read_place(&self, place: &LockPlace, scope: KvScope<'_>) -> Result<Read, Error> {
        Ok(judge(place, &self.read_entries(scope).await?))
    }

    /// Reads before all that can wait: a lock that is to be given back must not wait for watches.
    async fn read_entries(&self, scope: KvScope<'_>) -> Result<Vec<KvEntry>, Error> {
        let target = kv::target(scope, Consistency::Default, None);
        let ask = ApiRequest::get("lock_read", target, AGENT_CALL_TIMEOUT).urgent();
        let request = ask.method_and_path();
        let answer = self
            .send_to_agent(ask, |reply| {
                kv::parse_answer(&reply, Cursor::START, Consistency::Default, &request)
            })
            .await?;
        Ok(answer.entries)
    }
}

#[derive(Deserialize)]
struct RawSessionId {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawSessionInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    node: String,
}

/// The condition that a key was last written at `written_at`; 0: that there is none.
fn unchanged(key: &str, written_at: u64) -> Value {
    match written_at {
        0 => json!({"KV": {"Verb": "check-not-exists", "Key": key}}),
        index => json!({"KV": {"Verb": "check-index", "Key": key, "Index": index}}),
    }
}

fn replace_list(key: &str, list: &str, written_at: u64) -> Value {
    json!({"KV": {
        "Verb": "cas", "Key": key, "Value": BASE64.encode(list), "Flags": SEMAPHORE_FLAGS, "Index": written_at,
    }})
}

fn list_text(place: &LockPlace, holders: impl Iterator<Item = SessionId>) -> String {
    json!({"Limit": place.limit, "Holders": holders.map(|session| (session.0, true)).collect::<BTreeMap<_, _>>()})
        .to_string()
}

/// What the entries at a place say. `entries`: the key of the lock, or all keys below the path.
fn judge(place: &LockPlace, entries: &[KvEntry]) -> Read {
    let key = lock_key(place);
    let Some(lock) = entries.iter().find(|entry| entry.key == key) else {
        return Read { kind: LockKind::Unused, written_at: 0, holders: Vec::new(), gone: Vec::new() };
    };
    let written_at = lock.modify_index;
    if lock.flags == MUTEX_FLAGS {
        let holder = lock.session.clone().map(|id| LockHolder {
            session: SessionId(id),
            value: lock.value.clone(),
            written_at,
        });
        let holders = holder.into_iter().collect();
        return Read { kind: LockKind::Mutex, written_at, holders, gone: Vec::new() };
    }
    if lock.flags == SEMAPHORE_FLAGS
        && let Ok(list) = serde_json::from_slice::<SemaphoreList>(&lock.value)
    {
        let (mut holders, mut gone) = (Vec::new(), Vec::new());
        for (id, _) in list.holders.into_iter().filter(|(_, holds)| *holds) {
            let contender = format!("{}/{id}", place.path);
            let is_held =
                |entry: &&KvEntry| entry.key == contender && entry.session.as_deref() == Some(id.as_str());
            match entries.iter().find(is_held) {
                Some(entry) => holders.push(LockHolder {
                    session: SessionId(id),
                    value: entry.value.clone(),
                    written_at: entry.modify_index,
                }),
                None => gone.push(SessionId(id)),
            }
        }
        return Read { kind: LockKind::Semaphore { limit: list.limit }, written_at, holders, gone };
    }
    Read { kind: LockKind::Foreign, written_at, holders: Vec::new(), gone: Vec::new() }
}

fn too_many_rounds(key: &str) -> Error {
    Error::Malformed {
        request: format!("a change of {key}"),
        reason: format!("other clients wrote it {MAX_ROUNDS} times since it was read"),
    }
}

fn lock_key(place: &LockPlace) -> String {
    format!("{}/{LOCK_KEY}", place.path)
}

fn contender_key(place: &LockPlace, session: &SessionId) -> String {
    format!("{}/{}", place.path, session.0)
}

/// Unlike [`go_duration`], no delay at all can be written.
fn lock_delay_text(delay: Duration) -> String {
    if delay.is_zero() { "0s".into() } else { go_duration(delay) }
}

fn is_unknown_session(reply: &ApiResponse) -> bool {
    reply.status == StatusCode::NOT_FOUND && refusal::one_line(&reply.body).contains("not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, flags: u64, value: &str, session: Option<&str>) -> KvEntry {
        KvEntry {
            key: key.into(),
            value: value.into(),
            flags,
            session: session.map(str::to_owned),
            lock_index: 1,
            create_index: 3,
            modify_index: 9,
        }
    }

    #[test]
    fn a_holder_of_a_semaphore_whose_own_key_is_free_is_gone() {
        let place = LockPlace { path: "p".into(), limit: 3 };
        let list = r#"{"Limit":3,"Holders":{"a":true,"b":true,"c":true,"d":false}}"#;
        let entries = [
            entry("p/.lock", SEMAPHORE_FLAGS, list, None),
            entry("p/a", SEMAPHORE_FLAGS, "first", Some("a")),
            entry("p/b", SEMAPHORE_FLAGS, "", None),
            entry("p/d", SEMAPHORE_FLAGS, "", Some("d")),
            entry("p/nested/.lock", MUTEX_FLAGS, "", Some("e")),
        ];
        let read = judge(&place, &entries);
        assert_eq!((read.kind, read.written_at), (LockKind::Semaphore { limit: 3 }, 9));
        assert_eq!(
            read.holders,
            [LockHolder { session: SessionId("a".into()), value: b"first".into(), written_at: 9 }]
        );
        assert_eq!(
            read.gone,
            [SessionId("b".into()), SessionId("c".into())],
            "without a session, without a key"
        );
    }

    #[test]
    fn what_is_no_lock_is_foreign() {
        let place = LockPlace { path: "p".into(), limit: 1 };
        assert_eq!(judge(&place, &[]).kind, LockKind::Unused);
        for (flags, value) in [(0, "x"), (SEMAPHORE_FLAGS, "no list"), (SEMAPHORE_FLAGS, r#"{"Limit":-1}"#)] {
            assert_eq!(
                judge(&place, &[entry("p/.lock", flags, value, None)]).kind,
                LockKind::Foreign,
                "{value}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_list_of_a_semaphore_panics(value: Vec<u8>) {
            let place = LockPlace { path: "p".into(), limit: 2 };
            let lock = KvEntry { value, ..entry("p/.lock", SEMAPHORE_FLAGS, "", None) };
            judge(&place, &[lock]);
        }
    }
}
