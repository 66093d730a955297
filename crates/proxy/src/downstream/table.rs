//! The connections of one worker that can be woken from outside: to end when they are idle for too long, or at a drain.
//!
//! One sweep per worker replaces a timer and a drain signal per connection, which would cost several times the memory
//! of an idle connection.

use std::task::Waker;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The place of a connection in the table.
pub(crate) type Place = u32;

/// The connections of a worker.
#[derive(Debug, Default)]
pub(crate) struct ConnectionTable(Mutex<Places>);

#[derive(Debug, Default)]
struct Places {
    places: Vec<Option<Entry>>,
    free: Vec<Place>,
}

#[derive(Debug)]
struct Entry {
    waker: Waker,
    /// When its idle time is over; `None`: the connection is active.
    idle_until: Option<Instant>,
}

impl ConnectionTable {
    /// Parks a connection, which `waker` wakes at `until` or at a drain. Gives its place: `place`, when it has one.
    pub(crate) fn park(&self, place: Option<Place>, waker: &Waker, until: Instant) -> Place {
        let mut table = self.0.lock();
        let Places { places, free } = &mut *table;
        let place = place.or_else(|| free.pop()).unwrap_or_else(|| {
            places.push(None);
            Place::try_from(places.len() - 1).unwrap_or(Place::MAX)
        });
        if let Some(slot) = places.get_mut(place as usize) {
            match slot {
                Some(entry) => {
                    entry.idle_until = Some(until);
                    entry.waker.clone_from(waker);
                }
                None => *slot = Some(Entry { waker: waker.clone(), idle_until: Some(until) }),
            }
        }
        place
    }

    /// The connection is active.
    pub(crate) fn unpark(&self, place: Place) {
        if let Some(Some(entry)) = self.0.lock().places.get_mut(place as usize) {
            entry.idle_until = None;
        }
    }

    /// The connection is gone.
    pub(crate) fn remove(&self, place: Place) {
        let mut table = self.0.lock();
        if let Some(slot) = table.places.get_mut(place as usize) {
            *slot = None;
            table.free.push(place);
        }
        if table.free.len() == table.places.len() {
            *table = Places::default();
        }
    }

    /// Wakes the connections with an idle time that is over.
    pub(crate) fn wake_idle(&self, now: Instant) {
        for entry in self.0.lock().places.iter().flatten() {
            if entry.idle_until.is_some_and(|until| until <= now) {
                entry.waker.wake_by_ref();
            }
        }
    }

    /// Wakes every connection.
    pub(crate) fn wake_all(&self) {
        for entry in self.0.lock().places.iter().flatten() {
            entry.waker.wake_by_ref();
        }
    }
}
