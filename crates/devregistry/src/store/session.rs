//! Sessions: what holds locks, and ends with its node, its checks, its time to live, or on request.

use std::time::{Duration, Instant};

use super::{
    model::Status,
    session_table::{MISSING_SESSION, Session, SessionBehavior, SessionState, parse_id},
    state::{Store, uuid},
};

/// A longer lock-delay counts as this.
const LOCK_DELAY_MAX: Duration = Duration::from_secs(60);
/// A session ends when it was not renewed for its time to live, times this.
const TTL_MULTIPLIER: u32 = 2;

impl Store {
    /// Every session, by id.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.rows.values().map(|row| &row.session)
    }

    /// The sessions of a node, by id. Names are compared without case.
    pub(crate) fn sessions_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Session> {
        self.sessions().filter(move |session| session.is_on(node))
    }

    /// One session, if it exists.
    ///
    /// # Errors
    /// The text for an id that is no UUID.
    pub(crate) fn session(&self, id: &str) -> Result<Option<&Session>, String> {
        Ok(self.sessions.rows.get(&parse_id(id)?).map(|row| &row.session))
    }

    /// The session that is to lock a key.
    pub(super) fn require_session(&self, id: &str) -> Result<(), String> {
        match id {
            "" => Err(MISSING_SESSION.to_owned()),
            id => self.session(id)?.map(|_| ()).ok_or_else(|| format!("invalid session {id:?}")),
        }
    }

    /// Creates a session with this time to live, and returns its id.
    ///
    /// # Errors
    /// The text for a node or check that is not registered, or a check that is critical.
    pub(crate) fn create_session(
        &mut self,
        new: Session,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<String, String> {
        let at = self.next_index();
        let node = self.node(&new.node).ok_or("Missing node registration")?;
        for id in new.check_ids() {
            let lower = id.to_lowercase();
            let check = node.checks.values().find(|row| row.value.id.to_lowercase() == lower);
            match check.map(|row| row.value.status) {
                None => return Err(format!("Missing check '{id}' registration")),
                Some(Status::Critical) => return Err(format!("Check '{id}' is in critical state")),
                Some(Status::Passing | Status::Warning) => {}
            }
        }
        let id = uuid();
        let session = Session { id: id.clone(), create_index: at, modify_index: at, ..new };
        self.sessions.change(&session.node, at);
        let expiry = ttl.and_then(|ttl| {
            let life = ttl.saturating_mul(TTL_MULTIPLIER);
            Some((life, now.checked_add(life)?))
        });
        self.sessions.rows.insert(id.replace('-', ""), SessionState { session, expiry });
        Ok(id)
    }

    /// Begins the time to live of a session anew, and returns the session, if it exists.
    ///
    /// # Errors
    /// The text for an id that is no UUID.
    pub(crate) fn renew_session(&mut self, id: &str, now: Instant) -> Result<Option<&Session>, String> {
        Ok(self.sessions.rows.get_mut(&parse_id(id)?).map(|row| {
            row.expiry = row.expiry.map(|(life, end)| (life, now.checked_add(life).unwrap_or(end)));
            &row.session
        }))
    }

    /// Ends a session. An unknown id is no error.
    ///
    /// # Errors
    /// The text for an id that is no UUID.
    pub(crate) fn destroy_session(&mut self, id: &str, now: Instant) -> Result<(), String> {
        let at = self.next_index();
        self.end_session(&parse_id(id)?, at, now);
        Ok(())
    }

    /// Ends a session: frees its keys, and begins their lock-delay.
    fn end_session(&mut self, id: &str, at: u64, now: Instant) {
        let Some(SessionState { session, .. }) = self.sessions.rows.remove(id) else { return };
        self.sessions.change(&session.node, at);
        let delay = u64::try_from(session.lock_delay).map_or(Duration::ZERO, Duration::from_nanos);
        for key in self.keys_held_by(id) {
            self.free_key(&key, session.behavior == SessionBehavior::Delete, at, now);
            if !delay.is_zero() {
                self.kv_timers.delay_lock(key, delay.min(LOCK_DELAY_MAX), now);
            }
        }
    }

    /// Ends the sessions that have this check.
    pub(super) fn end_sessions_with_check(&mut self, node: &str, check: &str, at: u64, now: Instant) {
        self.end_sessions(|row| row.session.has_check(node, check), at, now);
    }

    /// Ends the sessions of a node.
    pub(super) fn end_sessions_of(&mut self, node: &str, at: u64, now: Instant) {
        self.end_sessions(|row| row.session.is_on(node), at, now);
    }

    fn end_sessions(&mut self, which: impl Fn(&SessionState) -> bool, at: u64, now: Instant) {
        let rows = self.sessions.rows.iter().filter(|(_, row)| which(row));
        let ids: Vec<String> = rows.map(|(id, _)| id.clone()).collect();
        ids.iter().for_each(|id| self.end_session(id, at, now));
    }

    /// Ends the sessions that were not renewed in time, each with an index of its own.
    pub(super) fn expire_sessions(&mut self, now: Instant) {
        let rows = self.sessions.rows.iter();
        let due = rows.filter(|(_, row)| row.expiry.is_some_and(|(_, end)| end <= now));
        let ids: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        for id in ids {
            let at = self.next_index();
            self.end_session(&id, at, now);
        }
    }
}
