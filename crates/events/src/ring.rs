//! The ring, and the handle to it.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use crate::{Event, EventFilter, EventId, RecordedEvent, id::Epoch};

/// Entries of the ring. With the longest texts they take about 2 MB, usually a tenth of that.
pub const CAPACITY: usize = 1000;

/// The same event within this time of the first one is coalesced with it.
pub const COALESCE_WITHIN: Duration = Duration::from_secs(10);

/// The handle to the ring. Clones share it. The default has no wall clock: its times begin with 1970.
#[derive(Clone)]
pub struct Events(Arc<Shared>);

pub(crate) struct Shared {
    epoch: Epoch,
    /// Time since 1970.
    unix_time: fn() -> Duration,
    ring: Mutex<Ring>,
    /// The number of the last event: readers wait for a change.
    last: watch::Sender<u64>,
    /// Readers hold weak references to it.
    readers: Arc<()>,
}

/// What [`Events::page`] returns. Serializes as the page of docs/events.md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventPage {
    /// Where the next question goes on: there are no events before it that were asked for and are not here,
    /// but those that are lost.
    pub position: EventId,
    /// How many events after the position of the question have left the ring, whether they were asked for or not. `None`: the position
    /// belongs to another process, so that it is not known.
    pub lost: Option<u64>,
    /// In their order.
    pub events: Vec<RecordedEvent>,
}

#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// The numbers are consecutive: the last one is `last`.
    entries: VecDeque<Entry>,
    /// The number of the last event.
    pub(crate) last: u64,
    /// For each event of the ring, the number of its last entry.
    by_event: HashMap<Arc<Event>, u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) event: Arc<Event>,
    /// When it happened first.
    pub(crate) at: Instant,
    time: Duration,
    last_time: Duration,
    pub(crate) count: u64,
}

impl Ring {
    /// Takes an event. Returns whether it is a new entry.
    fn record(&mut self, event: Event, at: Instant, time: Duration) -> bool {
        let index = self.by_event.get(&event).and_then(|number| index_of(*number, self.first()));
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index))
            && at.saturating_duration_since(entry.at) < COALESCE_WITHIN
        {
            entry.count += 1;
            entry.last_time = time;
            return false;
        }
        if self.entries.len() >= CAPACITY {
            let (number, oldest) = (self.first(), self.entries.pop_front());
            if let Some(oldest) = oldest
                && self.by_event.get(&oldest.event) == Some(&number)
            {
                self.by_event.remove(&oldest.event);
            }
        }
        let event = Arc::new(event);
        self.last += 1;
        self.by_event.insert(event.clone(), self.last);
        self.entries.push_back(Entry { event, at, time, last_time: time, count: 1 });
        true
    }

    /// The number of the oldest entry; the next number while there is none.
    pub(crate) fn first(&self) -> u64 {
        self.last + 1 - self.entries.len() as u64
    }

    /// The number of the first of the newest `most` events of `filter`; the next number where there is none.
    pub(crate) fn first_of_newest(&self, filter: &EventFilter, most: usize) -> u64 {
        let newest = self.since(0).rev().filter(|(_, entry)| filter.admits(&entry.event)).take(most);
        newest.map(|(number, _)| number).last().unwrap_or(self.last + 1)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&Entry> {
        self.entries.get(index_of(number, self.first())?)
    }

    #[cfg(test)]
    pub(crate) fn by_event_len(&self) -> usize {
        self.by_event.len()
    }

    /// The entries from `number` on, with their numbers.
    pub(crate) fn since(
        &self,
        number: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, &Entry)> + ExactSizeIterator {
        let skipped = index_of(number, self.first()).unwrap_or_default().min(self.entries.len());
        let first = self.first() + skipped as u64;
        self.entries.range(skipped..).enumerate().map(move |(n, entry)| (first + n as u64, entry))
    }
}

fn index_of(number: u64, first: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(first)?).ok()
}

impl Entry {
    pub(crate) fn recorded(&self, epoch: Epoch, number: u64) -> RecordedEvent {
        RecordedEvent {
            id: EventId { epoch, number },
            time: self.time,
            last_time: self.last_time,
            count: self.count,
            event: self.event.clone(),
        }
    }
}

impl Events {
    /// An empty ring of a process that has another epoch than all others. `unix_time`: time since 1970, for the times that are shown.
    pub fn new(unix_time: fn() -> Duration) -> Self {
        Self(Arc::new(Shared {
            epoch: Epoch::new(unix_time()),
            unix_time,
            ring: Mutex::default(),
            last: watch::Sender::new(0),
            readers: Arc::default(),
        }))
    }

    /// Takes one decision. Never waits for a reader.
    pub fn record(&self, event: Event) {
        let (at, time) = (Instant::now(), (self.0.unix_time)());
        let mut ring = self.0.ring.lock();
        let is_new = ring.record(event, at, time);
        let last = ring.last;
        drop(ring);
        if is_new {
            self.0.last.send_replace(last);
        }
    }

    /// The events of `filter` that the ring holds, at most `limit`: the newest ones, or those that follow the position `since`.
    pub fn page(&self, filter: &EventFilter, since: Option<EventId>, limit: usize) -> EventPage {
        let ring = self.0.ring.lock();
        let epoch = self.0.epoch;
        let (first, lost) = match since {
            Some(since) => self.resume(&ring, since),
            None => (ring.first_of_newest(filter, limit), Some(0)),
        };
        let admitted = ring.since(first).filter(|(_, entry)| filter.admits(&entry.event)).take(limit);
        let events: Vec<_> = admitted.map(|(number, entry)| entry.recorded(epoch, number)).collect();
        let position = match since {
            // More may follow.
            Some(since) if events.len() >= limit => events.last().map_or(since, |last| last.id),
            _ => EventId { epoch, number: ring.last },
        };
        EventPage { position, lost, events }
    }

    /// The number of the first event after `since` that the ring holds, and how many it no longer holds.
    pub(crate) fn resume(&self, ring: &Ring, since: EventId) -> (u64, Option<u64>) {
        if since.epoch != self.0.epoch || since.number > ring.last {
            return (ring.first(), None);
        }
        let next = since.number + 1;
        (next.max(ring.first()), Some(ring.first().saturating_sub(next)))
    }

    /// What each reader holds a weak reference to.
    pub(crate) fn readers(&self) -> &Arc<()> {
        &self.0.readers
    }

    pub(crate) fn with_ring<T>(&self, read: impl FnOnce(&Ring) -> T) -> T {
        read(&self.0.ring.lock())
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.last.subscribe()
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new(|| Duration::ZERO)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the ring, because every part of the sidecar has the handle.
        f.debug_struct("Events").field("epoch", &self.0.epoch).finish_non_exhaustive()
    }
}
