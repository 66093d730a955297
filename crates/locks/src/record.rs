//! What outlives the process: the highest token of each name, the leases, and the sessions that a next process is to end.
//!
//! A write replaces the file as a whole or not at all. It is on the disk before a lock is handed out, and before an app is told that its lock was
//! given back, unless the disk hangs.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use outrigger_config::{read_own_file, replace_own_file};
use outrigger_registry::{LockPlace, SessionId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::warn;

use crate::{
    LockName, LossReason, clock,
    hold::{Grant, Hold},
    validity::Validity,
};

/// Largest file that is read.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Most names with a token. Beyond it, those that were used least lately are forgotten.
const MAX_NAMES: usize = 4096;
/// Most losses of leases. Beyond it the oldest are forgotten.
const MAX_LOSSES: usize = 1024;
/// How long the loss of a lease is known.
const REMEMBER_LOSS: Duration = Duration::from_secs(3600);
/// The name of the file in the folder.
const FILE_NAME: &str = "locks.json";
/// Longest wait for a write, because a disk may hang. The write goes on.
const SAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    /// The start of the machine that the times count from.
    boot: String,
    /// By name: the highest token, and the number of its use, which orders the names.
    #[serde(default)]
    tokens: BTreeMap<String, (u64, u64)>,
    #[serde(default)]
    holds: Vec<RecordedHold>,
    /// The leases that were lost, in the order of their losses.
    #[serde(default)]
    losses: Vec<RecordedLoss>,
}

/// A lease that was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RecordedLoss {
    id: String,
    name: String,
    /// [`LossReason::name`].
    reason: String,
    /// Why the session could not be renewed.
    error: Option<String>,
    at_ms: u64,
}

/// A hold of a process that may have ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedHold {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) limit: u32,
    pub(crate) session: String,
    pub(crate) session_ttl_ms: u64,
    /// A renewal of the session that the registry has answered, perhaps not the last one. Absent: an earlier version wrote it.
    #[serde(default)]
    pub(crate) renewed_at_ms: Option<u64>,
    /// Absent: it is asked for, and it is not known whether it was acquired.
    pub(crate) token: Option<u64>,
    /// Base64.
    pub(crate) value: String,
    /// Absent: its session is to be ended: it was held by a connection, which has ended with its process, or it was given back or lost.
    pub(crate) lease: Option<RecordedLease>,
}

/// The terms of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedLease {
    pub(crate) owner: Option<String>,
    pub(crate) ttl_ms: u64,
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) holds: Vec<RecordedHold>,
    /// Leases of before the last start of the machine, by id and name. They are among the holds without their terms.
    pub(crate) ended_leases: Vec<(String, String)>,
}

/// The state of the writer.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// The last write has failed.
    is_failing: bool,
    /// The number of the last request that the file has.
    written: u64,
}

/// The file, or the same in memory alone.
#[derive(Debug)]
pub(crate) struct Record {
    path: Option<PathBuf>,
    /// What the file has is in `recorded`, or is being taken over. Nothing is written before.
    is_read: AtomicBool,
    recorded: Mutex<Recorded>,
    /// Writes one after the other, the newest content last.
    writing: Arc<tokio::sync::Mutex<Writing>>,
    /// How many writes were asked for.
    asked: AtomicU64,
    /// Another process writes the file.
    is_frozen: AtomicBool,
    /// A write has taken too long, and none has ended since.
    is_late: AtomicBool,
}

impl Record {
    /// A record in `folder`, which is not read yet. Without a folder it is kept in memory.
    pub(crate) fn new(folder: Option<&Path>) -> Arc<Self> {
        Arc::new(Self {
            path: folder.map(|folder| folder.join(FILE_NAME)),
            is_read: AtomicBool::new(false),
            recorded: Mutex::new(Recorded { boot: clock::boot_id(), ..Recorded::default() }),
            writing: Arc::default(),
            asked: AtomicU64::new(0),
            is_frozen: AtomicBool::new(false),
            is_late: AtomicBool::new(false),
        })
    }

    /// Reads what an earlier process left: its tokens and losses, and the holds, which are returned. A file that cannot be used is an
    /// empty one, with a warning. Blocks.
    pub(crate) fn read(&self) -> Left {
        let recorded = self.path.as_deref().map(read_or_warn).unwrap_or_default();
        let mut own = self.recorded.lock();
        let mut left = Left { holds: recorded.holds, ended_leases: Vec::new() };
        if recorded.boot == own.boot && !own.boot.is_empty() {
            let known = |own: &Recorded, loss: &RecordedLoss| own.losses.iter().any(|one| one.id == loss.id);
            let mut losses: Vec<_> = recorded.losses.into_iter().filter(|loss| !known(&own, loss)).collect();
            losses.append(&mut own.losses);
            own.losses = losses;
        } else {
            // Its times say nothing.
            for hold in &mut left.holds {
                if hold.lease.take().is_some() {
                    left.ended_leases.push((hold.id.clone(), hold.name.clone()));
                }
            }
        }
        for (name, (token, used)) in recorded.tokens {
            let entry = own.tokens.entry(name).or_insert((token, used));
            entry.0 = entry.0.max(token);
        }
        self.is_read.store(true, Ordering::Release);
        left
    }

    /// Notes at `now` that a lease is lost.
    pub(crate) fn note_loss(&self, id: &str, name: &str, reason: &LossReason, now: Duration) {
        let error = match reason {
            LossReason::SessionExpired { error } => error.as_deref().map(str::to_owned),
            _ => None,
        };
        let (id, name, at_ms) = (id.to_owned(), name.to_owned(), millis(now));
        let loss = RecordedLoss { id, name, reason: reason.name().to_owned(), error, at_ms };
        let losses = &mut self.recorded.lock().losses;
        losses.retain(|one| one.id != loss.id && one.at_ms + millis(REMEMBER_LOSS) > at_ms);
        if losses.len() >= MAX_LOSSES {
            losses.remove(0);
        }
        losses.push(loss);
    }

    /// Why the lease `id` of the lock `name` is lost, as far as that is known at `now`.
    pub(crate) fn loss_of(&self, id: &str, name: &str, now: Duration) -> Option<LossReason> {
        let recorded = self.recorded.lock();
        let is_it = |loss: &&RecordedLoss| {
            loss.id == id && loss.name == name && loss.at_ms + millis(REMEMBER_LOSS) > millis(now)
        };
        let loss = recorded.losses.iter().find(is_it)?;
        LossReason::recorded(&loss.reason, loss.error.as_deref())
    }

    /// Whether a next process reads it.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.path.is_some()
    }

    /// Whether this process leaves the file to another one. A write that is under way is waited for, but not for long.
    pub(crate) async fn freeze(&self, is_frozen: bool) {
        self.is_frozen.store(is_frozen, Ordering::Release);
        let _ = timeout(SAVE_TIMEOUT, self.writing.lock()).await;
    }

    /// Lets every write hang until the returned value is dropped.
    #[cfg(test)]
    pub(crate) async fn hang(&self) -> tokio::sync::OwnedMutexGuard<Writing> {
        self.writing.clone().lock_owned().await
    }

    /// Notes the token of a new holder.
    ///
    /// # Errors
    /// The highest token before, where that is higher.
    pub(crate) fn note_token(&self, name: &str, token: u64) -> Result<(), u64> {
        let mut recorded = self.recorded.lock();
        let next_use = recorded.tokens.values().map(|(_, used)| *used).max().unwrap_or_default() + 1;
        let (highest, used) = recorded.tokens.entry(name.to_owned()).or_default();
        if *highest > token {
            return Err(*highest);
        }
        (*highest, *used) = (token, next_use);
        if recorded.tokens.len() > MAX_NAMES {
            let oldest = recorded.tokens.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                recorded.tokens.remove(&oldest);
            }
        }
        Ok(())
    }

    /// Replaces the holds, and writes the file, once it was read: else it would lose what an earlier process left. Returns when the file
    /// has them, or after [`SAVE_TIMEOUT`]. A failure is logged, once until a write succeeds.
    pub(crate) async fn save_holds(self: &Arc<Self>, holds: impl Fn() -> Vec<RecordedHold> + Send + 'static) {
        let Some(path) = self.path.clone().filter(|_| self.is_read.load(Ordering::Acquire)) else { return };
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let (record, file) = (self.clone(), path.clone());
        // Contained: one write, which the next one repeats.
        let write = tokio::spawn(async move { record.write(number, file, holds).await });
        if timeout(SAVE_TIMEOUT, write).await.is_err() && !self.is_late.swap(true, Ordering::Relaxed) {
            warn!(
                file = %path.display(),
                "saving the locks that are held takes longer than {SAVE_TIMEOUT:?}: a restart of this process may lose them"
            );
        }
    }

    async fn write(&self, number: u64, path: PathBuf, holds: impl Fn() -> Vec<RecordedHold>) {
        let mut writing = self.writing.clone().lock_owned().await;
        // A later write has its content, too.
        if writing.written >= number || self.is_frozen.load(Ordering::Acquire) {
            return;
        }
        let asked = self.asked.load(Ordering::Acquire);
        // Under the lock, so that the last writer has the newest.
        let content = {
            let mut recorded = self.recorded.lock();
            recorded.holds = holds();
            serde_json::to_vec(&*recorded)
        };
        let written = tokio::task::spawn_blocking(move || {
            let result =
                content.map_err(io::Error::from).and_then(|content| replace_own_file(&path, &content));
            if let Err(error) = &result
                && !writing.is_failing
            {
                warn!(file = %path.display(), %error, "cannot save the locks that are held: a restart of this process loses them");
            }
            *writing = Writing { is_failing: result.is_err(), written: asked };
        });
        // A panic of the writer was reported.
        let _ = written.await;
        self.is_late.store(false, Ordering::Relaxed);
    }
}

impl RecordedHold {
    /// What is to be written of a hold. One that has ended is a session that is to be ended.
    pub(crate) fn of(hold: &Hold) -> Self {
        let Grant { name, place, session, token, value, .. } = &hold.grant;
        let lease = hold.lease.as_ref().filter(|_| hold.is_held());
        let lease = lease.map(|lease| RecordedLease::new(lease.owner.clone(), lease.ttl));
        let asked = Self::asked_for(&hold.id, name, place, session, &hold.validity(), value);
        Self { token: Some(*token), lease, ..asked }
    }

    /// What is to be written of a hold that is asked for, but for its lease.
    pub(crate) fn asked_for(
        id: &str,
        name: &LockName,
        place: &LockPlace,
        session: &SessionId,
        validity: &Validity,
        value: &[u8],
    ) -> Self {
        Self {
            id: id.to_owned(),
            name: name.as_str().to_owned(),
            path: place.path.clone(),
            limit: place.limit,
            session: session.as_str().to_owned(),
            session_ttl_ms: millis(validity.ttl()),
            renewed_at_ms: Some(millis(validity.renewed_at())),
            token: None,
            value: BASE64.encode(value),
            lease: None,
        }
    }

    /// Whether its session can have expired by `now`: the registry ends it no earlier than its time to live after its last renewal.
    pub(crate) fn may_have_expired(&self, now: Duration) -> bool {
        self.renewed_at_ms
            .is_none_or(|renewed_at| millis(now) >= renewed_at.saturating_add(self.session_ttl_ms))
    }

    /// The value that the holder wrote.
    pub(crate) fn decode_value(&self) -> Vec<u8> {
        BASE64.decode(&self.value).unwrap_or_default()
    }
}

impl RecordedLease {
    pub(crate) fn new(owner: Option<String>, ttl: Duration) -> Self {
        Self { owner, ttl_ms: millis(ttl) }
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn read_or_warn(path: &Path) -> Recorded {
    match read(path) {
        Ok(recorded) => recorded,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Recorded::default(),
        Err(error) => {
            warn!(
                file = %path.display(),
                %error,
                "cannot read which locks an earlier process held: they are free when their sessions expire, and lower fencing tokens \
                 are not noticed"
            );
            Recorded::default()
        }
    }
}

fn read(path: &Path) -> io::Result<Recorded> {
    let file = read_own_file(path, MAX_BYTES)?;
    serde_json::from_slice(&file.bytes).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(lease: bool) -> RecordedHold {
        RecordedHold {
            id: "1".into(),
            name: "jobs".into(),
            path: "locks/jobs".into(),
            limit: 1,
            session: "s".into(),
            session_ttl_ms: 15_000,
            renewed_at_ms: Some(1_000),
            token: Some(7),
            value: BASE64.encode([0, 255]),
            lease: lease.then_some(RecordedLease { owner: None, ttl_ms: 10 }),
        }
    }

    #[tokio::test]
    async fn what_was_saved_is_read_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Some(folder.path()));
        assert_eq!(record.read().holds, []);
        record.note_token("jobs", 7).unwrap();
        record.save_holds(|| vec![hold(true)]).await;
        let next = Record::new(Some(folder.path()));
        let left = next.read().holds;
        assert_eq!(left, [hold(true)]);
        assert_eq!(left[0].decode_value(), [0, 255]);
        assert_eq!(next.note_token("jobs", 6), Err(7));
        assert_eq!(next.note_token("jobs", 7), Ok(()), "the same holder again");
        assert_eq!(next.note_token("other", 1), Ok(()));
    }

    #[test]
    fn a_session_cannot_have_expired_before_its_time_to_live() {
        let recorded = hold(true);
        let at = |ms| recorded.may_have_expired(Duration::from_millis(ms));
        assert!(!at(0) && !at(15_999) && at(16_000));
        assert!(
            RecordedHold { renewed_at_ms: None, ..hold(true) }.may_have_expired(Duration::ZERO),
            "not known"
        );
    }

    #[tokio::test]
    async fn a_lease_of_before_the_last_start_of_the_machine_is_a_session_to_be_ended() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Some(folder.path()));
        record.read();
        record.recorded.lock().boot = "another start".into();
        record.note_loss("2", "jobs", &LossReason::Drained, Duration::ZERO);
        record.save_holds(|| vec![hold(true)]).await;
        let next = Record::new(Some(folder.path()));
        let left = next.read();
        assert_eq!(left.holds, [hold(false)]);
        assert_eq!(left.ended_leases, [("1".to_owned(), "jobs".to_owned())]);
        assert_eq!(next.loss_of("2", "jobs", Duration::ZERO), None);
    }

    #[tokio::test]
    async fn nothing_is_written_before_the_file_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let before = Record::new(Some(folder.path()));
        before.read();
        before.save_holds(|| vec![hold(true)]).await;
        let record = Record::new(Some(folder.path()));
        record.save_holds(Vec::new).await;
        assert_eq!(record.read().holds, [hold(true)]);
        record.save_holds(Vec::new).await;
        assert_eq!(Record::new(Some(folder.path())).read().holds, []);
    }

    #[tokio::test]
    async fn the_loss_of_a_lease_is_known_for_a_while_and_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Some(folder.path()));
        record.read();
        let at = Duration::from_secs(1000);
        let expired = LossReason::SessionExpired { error: Some("no leader".into()) };
        record.note_loss("1", "jobs", &expired, at);
        record.note_loss("2", "jobs", &LossReason::LeaseExpired, at);
        record.save_holds(Vec::new).await;
        let next = Record::new(Some(folder.path()));
        next.read();
        assert_eq!(next.loss_of("1", "jobs", at), Some(expired));
        assert_eq!(next.loss_of("2", "jobs", at), Some(LossReason::LeaseExpired));
        assert_eq!(next.loss_of("2", "other", at), None, "another lock");
        assert_eq!(next.loss_of("3", "jobs", at), None);
        assert_eq!(next.loss_of("1", "jobs", at + REMEMBER_LOSS), None);
        for number in 0..MAX_LOSSES {
            next.note_loss(&format!("n{number}"), "jobs", &LossReason::Drained, at);
        }
        assert_eq!(next.loss_of("1", "jobs", at), None, "the oldest");
        assert_eq!(next.recorded.lock().losses.len(), MAX_LOSSES);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "{", "[]", r#"{"boot": 1}"#] {
            let path = folder.path().join(FILE_NAME);
            replace_own_file(&path, content.as_bytes()).unwrap();
            assert_eq!(Record::new(Some(folder.path())).read().holds, [], "{content}");
        }
    }

    #[test]
    fn the_names_that_were_used_least_lately_are_forgotten() {
        let record = Record::new(None);
        for number in 0..=MAX_NAMES {
            record.note_token(&format!("lock-{number}"), 9).unwrap();
            record.note_token("often", 9).unwrap();
        }
        assert_eq!(record.note_token("lock-0", 1), Ok(()), "forgotten");
        assert_eq!(record.note_token("often", 1), Err(9));
        assert!(record.recorded.lock().tokens.len() <= MAX_NAMES + 1);
    }
}
