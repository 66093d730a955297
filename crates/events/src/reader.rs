//! A reader that follows the ring.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use crate::{COALESCE_WITHIN, EventFilter, EventId, Events, RecordedEvent};

/// Most readers at once.
pub const MAX_READERS: usize = 16;

/// Most deliveries of one [`EventReader::next`].
const MAX_BATCH: usize = 64;

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// With the newest events of its filter that the ring holds, at most this many.
    Newest(usize),
    /// After this position.
    After(EventId),
    /// After a position that cannot be understood, as if it were of another process.
    Unknown,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The next event.
    Event(RecordedEvent),
    /// An event that the reader has got: the time in which it is coalesced is over, and it happened again meanwhile.
    Repeated(RecordedEvent),
    /// The ring no longer holds this many events that follow, whether they were asked for or not. `None`: the reader began after a
    /// position of another process, so that it is not known.
    Lost(Option<u64>),
}

/// There are [`MAX_READERS`] already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many streams of events are open as may be: {MAX_READERS}")]
pub struct TooManyReaders;

/// One of the [`MAX_READERS`] places, until it is dropped.
#[derive(Debug)]
struct ReaderSlot {
    _place: Weak<()>,
}

impl ReaderSlot {
    fn take(places: &Arc<()>) -> Result<Self, TooManyReaders> {
        let place = Arc::downgrade(places);
        // With its own: of several that come at once for the last place, all may be refused, and none too many is taken.
        if Arc::weak_count(places) > MAX_READERS { Err(TooManyReaders) } else { Ok(Self { _place: place }) }
    }
}

/// Follows the events of a filter. It holds nothing of them: a reader that is slower than the events loses those that leave the ring,
/// and learns how many.
#[derive(Debug)]
pub struct EventReader {
    events: Events,
    _slot: ReaderSlot,
    filter: EventFilter,
    /// The number of the next event.
    next: u64,
    /// It began after a position of another process, which is not told yet.
    is_elsewhere: bool,
    /// The delivered events that may still happen again, in their order.
    pub(crate) open: VecDeque<OpenEvent>,
    last: watch::Receiver<u64>,
}

#[derive(Debug)]
pub(crate) struct OpenEvent {
    number: u64,
    /// From then on it is not coalesced.
    ends: Instant,
    /// The count that was delivered.
    count: u64,
}

impl Events {
    /// Reads from the ring, and from then on every event of `filter` when it happens.
    ///
    /// # Errors
    /// While there are [`MAX_READERS`].
    pub fn reader(&self, filter: EventFilter, from: ReadFrom) -> Result<EventReader, TooManyReaders> {
        let slot = ReaderSlot::take(self.readers())?;
        Ok(EventReader::new(self.clone(), slot, filter, from))
    }
}

impl EventReader {
    fn new(events: Events, slot: ReaderSlot, filter: EventFilter, from: ReadFrom) -> Self {
        let last = events.subscribe();
        let (next, is_elsewhere) = events.with_ring(|ring| match from {
            ReadFrom::Newest(most) => (ring.first_of_newest(&filter, most), false),
            // What is lost after a position of this process is told by `take`.
            ReadFrom::After(since) => match events.resume(ring, since) {
                (_, Some(_)) => (since.number + 1, false),
                (first, None) => (first, true),
            },
            ReadFrom::Unknown => (ring.first(), true),
        });
        Self { events, _slot: slot, filter, next, is_elsewhere, open: VecDeque::new(), last }
    }

    /// The position after everything that was delivered or passed over.
    pub fn position(&self) -> EventId {
        EventId { epoch: self.events.epoch(), number: self.next - 1 }
    }

    /// Waits until there is something to deliver; at most 64 at once. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Delivery> {
        loop {
            // Marked before the look, so that an event in between is seen by the next wait.
            self.last.borrow_and_update();
            let delivered = self.take();
            if !delivered.is_empty() {
                return delivered;
            }
            let closes = self.open.front().map(|open| open.ends);
            tokio::select! {
                // The sender is a part of `events`.
                _ = self.last.changed() => {}
                () = sleep_until(closes.unwrap_or_else(Instant::now)), if closes.is_some() => {}
            }
        }
    }

    /// What there is to deliver now; at most 64 at once.
    pub fn take(&mut self) -> Vec<Delivery> {
        let (epoch, now) = (self.events.epoch(), Instant::now());
        let (mut delivered, open, filter) = (Vec::new(), &mut self.open, &self.filter);
        let (next, is_elsewhere) = (&mut self.next, &mut self.is_elsewhere);
        self.events.with_ring(|ring| {
            if std::mem::take(is_elsewhere) {
                delivered.push(Delivery::Lost(None));
            } else if *next < ring.first() {
                delivered.push(Delivery::Lost(Some(ring.first() - *next)));
            }
            *next = ring.first().max(*next);
            // One that has left the ring is forgotten too, so that there are no more than the ring holds.
            while let Some(over) = open.front().filter(|open| open.ends <= now || open.number < ring.first())
            {
                let entry = ring.get(over.number).filter(|entry| entry.count > over.count);
                delivered.extend(entry.map(|entry| Delivery::Repeated(entry.recorded(epoch, over.number))));
                open.pop_front();
            }
            for (number, entry) in ring.since(*next) {
                if delivered.len() >= MAX_BATCH {
                    break;
                }
                *next = number + 1;
                if !filter.admits(&entry.event) {
                    continue;
                }
                delivered.push(Delivery::Event(entry.recorded(epoch, number)));
                let ends = entry.at + COALESCE_WITHIN;
                if ends > now {
                    open.push_back(OpenEvent { number, ends, count: entry.count });
                }
            }
        });
        delivered
    }
}
