//! What happens without a command: TTLs of checks and sessions expire, late outputs reach the catalog, services that
//! stay critical and tombstones of keys are removed, coordinates are written.
//! Nothing here reads a clock: `now` is an argument, and `next_tick` gives the time of the next call.

use std::time::Instant;

use super::{agent_state::StatusSource, model::Status, state::Store};

impl Store {
    /// When [`Store::tick`] has something to do next, if no command comes before.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let checks = self.agent.checks.values();
        let own = checks.flat_map(|held| {
            let expires = match held.source {
                StatusSource::Ttl { expires, .. } => expires,
                StatusSource::Probe { .. } | StatusSource::Maintenance => None,
            };
            [expires, held.output_sync_due]
        });
        let reaping = self.agent.checks.values().any(|held| held.deregister_after.is_some());
        let shared = [
            reaping.then_some(self.next_reap),
            self.kv_timers.next_reap(),
            self.sessions.next_expiry(),
            self.coordinates.next_due(),
        ];
        own.chain(shared).flatten().min()
    }

    /// Runs what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.expire_ttls(now);
        self.sync_due_outputs(now);
        self.reap_critical_services(now);
        self.expire_sessions(now);
        self.reap_tombstones(now);
        self.write_coordinates(now);
    }

    fn expire_ttls(&mut self, now: Instant) {
        let mut due = Vec::new();
        for (id, held) in &mut self.agent.checks {
            if let StatusSource::Ttl { expires, .. } = &mut held.source
                && expires.is_some_and(|expires| expires <= now)
            {
                *expires = None;
                due.push((id.clone(), held.output.clone()));
            }
        }
        for (id, last) in due {
            let output = match last.as_str() {
                "" => "TTL expired".to_owned(),
                last => format!("TTL expired (last output before timeout follows): {last}"),
            };
            self.update_status(&id, Status::Critical, output, now);
        }
    }

    fn sync_due_outputs(&mut self, now: Instant) {
        let checks = self.agent.checks.iter();
        let due: Vec<String> = checks
            .filter(|(_, held)| held.output_sync_due.is_some_and(|due| due <= now))
            .map(|(id, _)| id.clone())
            .collect();
        due.iter().for_each(|id| self.sync_output(id, now));
    }

    /// Removes services with a check that was critical for too long, at a fixed interval.
    fn reap_critical_services(&mut self, now: Instant) {
        if now < self.next_reap {
            return;
        }
        while self.next_reap <= now {
            self.next_reap += self.reap_interval;
        }
        let least = self.deregister_after_min;
        let overdue = |id: &String| {
            let held = self.agent.checks.get(id)?;
            let after = held.deregister_after?.max(least);
            let since = held.critical_since?;
            (now.saturating_duration_since(since) >= after).then(|| self.listed_check(id))?
        };
        let services: Vec<String> =
            self.agent.checks.keys().filter_map(overdue).map(|check| check.service_id.clone()).collect();
        for id in services {
            self.deregister(&id, now);
        }
    }
}
