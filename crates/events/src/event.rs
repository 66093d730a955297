//! One event, as it is recorded and as it is read.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, Serializer};

use crate::{EventId, EventKind, time::WallTime};

/// Longest name of a service, an instance or a node, bytes. Consul takes longer ones.
const MAX_NAME: usize = 256;

/// Longest reason, bytes. An error of another program may be longer.
const MAX_REASON: usize = 1024;

/// One decision. Longer texts are cut: names at 256 bytes, the reason at 1,024; a cut text ends with `…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Event {
    pub(crate) kind: EventKind,
    pub(crate) service: Option<Box<str>>,
    pub(crate) instance: Option<Box<str>>,
    pub(crate) node: Option<Box<str>>,
    pub(crate) reason: Box<str>,
}

impl Event {
    /// A decision about the process as a whole. `reason`: why, in the words of the log.
    pub fn new(kind: EventKind, reason: impl AsRef<str>) -> Self {
        Self { kind, service: None, instance: None, node: None, reason: cut(reason.as_ref(), MAX_REASON) }
    }

    /// The same about a service, as the log names it (`orders`, `orders[v2]`, `orders@dc2`).
    #[must_use]
    pub fn of_service(self, service: impl AsRef<str>) -> Self {
        Self { service: Some(cut(service.as_ref(), MAX_NAME)), ..self }
    }

    /// The same about the instance with this id.
    #[must_use]
    pub fn of_instance(self, instance: impl AsRef<str>) -> Self {
        Self { instance: Some(cut(instance.as_ref(), MAX_NAME)), ..self }
    }

    /// The same about an instance on this node.
    #[must_use]
    pub fn on_node(self, node: impl AsRef<str>) -> Self {
        Self { node: Some(cut(node.as_ref(), MAX_NAME)), ..self }
    }
}

/// `text`, at most `most` bytes of it.
fn cut(text: &str, most: usize) -> Box<str> {
    const MARK: char = '…';
    if text.len() <= most {
        return text.into();
    }
    let room = most - MARK.len_utf8();
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    let mut kept = String::with_capacity(most);
    kept.push_str(&text[..end]);
    kept.push(MARK);
    kept.into()
}

/// An event of the ring. Serializes as the object of docs/events.md.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedEvent {
    /// Its id.
    pub id: EventId,
    /// When it happened; the first time, where it is coalesced. Since 1970.
    pub time: Duration,
    /// When it happened for the last time.
    pub last_time: Duration,
    /// How often it happened.
    pub count: u64,
    /// What happened.
    pub event: Arc<Event>,
}

impl RecordedEvent {
    /// What was decided.
    pub fn kind(&self) -> EventKind {
        self.event.kind
    }

    /// The service, if it is about one.
    pub fn service(&self) -> Option<&str> {
        self.event.service.as_deref()
    }

    /// The id of the instance, if it is about one.
    pub fn instance(&self) -> Option<&str> {
        self.event.instance.as_deref()
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.event.reason
    }
}

impl Serialize for RecordedEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct EventObject<'a> {
            id: EventId,
            time: WallTime,
            kind: EventKind,
            #[serde(skip_serializing_if = "Option::is_none")]
            service: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            instance: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            node: Option<&'a str>,
            reason: &'a str,
            count: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            last_time: Option<WallTime>,
        }
        let object = EventObject {
            id: self.id,
            time: WallTime(self.time),
            kind: self.event.kind,
            service: self.event.service.as_deref(),
            instance: self.event.instance.as_deref(),
            node: self.event.node.as_deref(),
            reason: &self.event.reason,
            count: self.count,
            last_time: (self.count > 1).then_some(WallTime(self.last_time)),
        };
        object.serialize(serializer)
    }
}

/// Which events are asked for; by default all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Events about this service, whatever tag or datacenter the sidecar narrows it to. Compared without case.
    pub service: Option<String>,
    /// Events of these kinds. Empty: of all.
    pub kinds: Vec<EventKind>,
}

impl EventFilter {
    /// Whether `event` is asked for.
    pub(crate) fn admits(&self, event: &Event) -> bool {
        let is_about =
            |asked: &String| event.service.as_deref().is_some_and(|service| is_service(service, asked));
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && self.service.as_ref().is_none_or(is_about)
    }
}

/// Whether the label `service` is that of `asked`, or of a part of it: no name of a service has brackets or an `@`.
fn is_service(service: &str, asked: &str) -> bool {
    service.get(..asked.len()).is_some_and(|name| name.eq_ignore_ascii_case(asked))
        && matches!(service.as_bytes().get(asked.len()), None | Some(b'[' | b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        for (text, most, expected) in [
            ("", 4, ""),
            ("abcd", 4, "abcd"),
            ("abcde", 4, "a…"),
            ("ääää", 8, "ääää"),
            ("äääää", 8, "ää…"),
            ("aäää", 6, "aä…"),
        ] {
            assert_eq!(&*cut(text, most), expected);
            assert!(cut(text, most).len() <= most);
        }
        let long = "ä".repeat(MAX_REASON);
        let event =
            Event::new(EventKind::RegistryLost, &long).of_service(&long).of_instance(&long).on_node(&long);
        assert_eq!(event.reason.len(), MAX_REASON - 1);
        let names = [&event.service, &event.instance, &event.node].map(|name| name.as_ref().unwrap().len());
        assert_eq!(names, [MAX_NAME - 1; 3]);
    }

    #[test]
    fn a_filter_takes_the_parts_of_a_service_and_no_other_service() {
        let admits = |service: Option<&str>, asked: &str| {
            let event = Event::new(EventKind::InstanceJoined, "");
            let event = service.into_iter().fold(event, Event::of_service);
            EventFilter { service: Some(asked.into()), kinds: Vec::new() }.admits(&event)
        };
        for (service, asked, expected) in [
            (Some("orders"), "orders", true),
            (Some("Orders"), "orderS", true),
            (Some("orders[v2]"), "orders", true),
            (Some("orders@dc2"), "orders", true),
            (Some("orders[v2]"), "orders[v2]", true),
            (Some("orders-admin"), "orders", false),
            (Some("order"), "orders", false),
            (Some("orders"), "", false),
            (Some("ördé"), "ör", false),
            (Some("ö"), "a", false),
            (None, "orders", false),
        ] {
            assert_eq!(admits(service, asked), expected, "{service:?} {asked:?}");
        }
        let filter = EventFilter { service: None, kinds: vec![EventKind::InstanceLeft] };
        assert!(filter.admits(&Event::new(EventKind::InstanceLeft, "")));
        assert!(!filter.admits(&Event::new(EventKind::InstanceJoined, "")));
    }
}
