//! The ids of events.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Serialize, Serializer};

/// Which event of which process: `EPOCH-N`. Number 0 is the position before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    pub(crate) epoch: Epoch,
    pub(crate) number: u64,
}

/// Which process. Two processes have two, whatever the clock of the machine does between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Epoch(u64);

/// Bits of an epoch that are random; the others are milliseconds since 1970, so that a person can tell two of them apart.
const RANDOM_BITS: u32 = 22;

impl Epoch {
    pub(crate) fn new(unix_time: Duration) -> Self {
        let started = u64::try_from(unix_time.as_millis()).unwrap_or(u64::MAX);
        Self(started << RANDOM_BITS | fastrand::u64(..1 << RANDOM_BITS))
    }
}

/// The text is not of the form `EPOCH-N`: 16 hexadecimal digits, a hyphen and a decimal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id of an event has the form EPOCH-N, as the field 'id' of an event has it")]
pub struct NotAnEventId;

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch.0, self.number)
    }
}

impl FromStr for EventId {
    type Err = NotAnEventId;

    fn from_str(text: &str) -> Result<Self, NotAnEventId> {
        let (epoch, number) = text.split_once('-').ok_or(NotAnEventId)?;
        let digits = |text: &str, radix| text.bytes().all(|byte| char::from(byte).is_digit(radix));
        // `from_str_radix` takes a sign.
        if epoch.len() != 16 || !digits(epoch, 16) || !digits(number, 10) {
            return Err(NotAnEventId);
        }
        Ok(Self {
            epoch: Epoch(u64::from_str_radix(epoch, 16).map_err(|_| NotAnEventId)?),
            number: number.parse().map_err(|_| NotAnEventId)?,
        })
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
