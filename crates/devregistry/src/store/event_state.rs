//! User events as data, and their size on their way between agents.

use std::collections::VecDeque;

/// Most bytes of an event, on its way between agents.
pub(super) const SIZE_MAX: usize = 512;
/// What Consul puts before the name of an event on its way.
const NAME_PREFIX: &str = "consul:event:";

/// An event as a client fires it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NewEvent {
    pub(crate) name: String,
    pub(crate) payload: Vec<u8>,
    /// Regular expressions; an empty one counts as none.
    pub(crate) node_filter: String,
    pub(crate) service_filter: String,
    pub(crate) tag_filter: String,
}

/// An event that was fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) event: NewEvent,
    /// Of the logical clock of events. 0 in the answer to the client that fired it.
    pub(crate) time: u64,
}

impl Event {
    /// The number that Consul answers as the index: the halves of the id, combined.
    pub(crate) fn index(&self) -> u64 {
        let digits = self.id.chars().filter_map(|char| char.to_digit(16));
        let number = digits.fold(0_u128, |number, digit| number << 4 | u128::from(digit));
        let [high, low] = [number >> 64, number & u128::from(u64::MAX)];
        u64::try_from(high ^ low).unwrap_or_default()
    }
}

/// The events that the agent keeps.
#[derive(Debug)]
pub(super) struct EventTable {
    pub(super) kept: VecDeque<Event>,
    /// Of the next event.
    pub(super) time: u64,
}

impl Default for EventTable {
    fn default() -> Self {
        // The clock of a new agent has ticked once.
        Self { kept: VecDeque::new(), time: 2 }
    }
}

/// Whether an event is too large before or after it is packed. Consul packs it as MessagePack, twice.
pub(super) fn too_large(event: &NewEvent, time: u64) -> Option<&'static str> {
    // Of a text with its own length.
    let text = |length: usize| {
        length
            + if length < 32 {
                1
            } else if length < 256 {
                2
            } else {
                3
            }
    };
    // The second time without the form for texts of medium length.
    let old_text = |length: usize| length + if length < 32 { 1 } else { 3 };
    let bytes = |length: usize| length + if length < 256 { 2 } else { 3 };
    let field = |key: &str, value: usize| text(key.len()) + value;
    let filter = |key: &str, filter: &str| if filter.is_empty() { 0 } else { field(key, text(filter.len())) };
    let payload = match event.payload.len() {
        0 => 0,
        length => field("p", bytes(length)),
    };
    let packed = 1
        + field("ID", text("01234567-89ab-cdef-0123-456789abcdef".len()))
        + field("n", text(event.name.len()))
        + payload
        + filter("nf", &event.node_filter)
        + filter("sf", &event.service_filter)
        + filter("tf", &event.tag_filter)
        + field("v", 1);
    let name = NAME_PREFIX.len() + event.name.len();
    if name + packed > SIZE_MAX {
        return Some("before");
    }
    let time = if time < 0x80 {
        1
    } else if time < 0x100 {
        2
    } else if time < 0x1_0000 {
        3
    } else {
        5
    };
    let message = 2
        + field("LTime", time)
        + field("Name", old_text(name))
        + field("Payload", old_text(packed))
        + field("CC", 1);
    (message > SIZE_MAX).then_some("after")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_combines_the_halves_of_the_id() {
        let event = NewEvent::default();
        // An id and its index, as Consul 1.8.7 answered them.
        let id = "d960383e-9cb8-ee58-da93-9e69ecde3d71".to_owned();
        assert_eq!(Event { id, event, time: 0 }.index(), 284_754_095_932_625_705);
    }
}
