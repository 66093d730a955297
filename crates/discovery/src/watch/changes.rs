//! Records how a new list of instances differs from the one before.

use std::cmp::Ordering;

use outrigger_events::{Event, EventKind, Events};
use outrigger_registry::{Instance, Query};

/// Most events of one kind for one change of a service. The others are counted in one more, so that a large service does not push
/// everything else out of the ring.
const MAX_OF_A_KIND: usize = 20;

/// Records the instances that joined, left or have another health. Both lists are sorted by identity.
pub(super) fn record_changes(events: &Events, service: &Query, before: &[Instance], after: &[Instance]) {
    let mut changes = Changes { events, service: service.to_string(), recorded: [0; KINDS.len()] };
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (Some(old), Some(new)) => old.id.cmp(&new.id),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => break,
        };
        let old = before.next_if(|_| order.is_le());
        let new = after.next_if(|_| order.is_ge());
        changes.record(old, new);
    }
    changes.record_rest();
}

/// The kinds of a change, in the order of [`Changes::recorded`].
const KINDS: [EventKind; 3] = [EventKind::InstanceJoined, EventKind::InstanceLeft, EventKind::InstanceHealth];

struct Changes<'a> {
    events: &'a Events,
    service: String,
    /// How many changes there were of each of [`KINDS`].
    recorded: [usize; KINDS.len()],
}

impl Changes<'_> {
    fn record(&mut self, old: Option<&Instance>, new: Option<&Instance>) {
        let (kind, instance) = match (old, new) {
            (None, Some(new)) => (0, new),
            (Some(old), None) => (1, old),
            (Some(old), Some(new)) if health(old) != health(new) => (2, new),
            _ => return,
        };
        self.recorded[kind] += 1;
        if self.recorded[kind] > MAX_OF_A_KIND {
            return;
        }
        let reason = match (old, new) {
            (None, Some(new)) => describe(new),
            (Some(old), Some(new)) => format!("{}; it was {}", describe(new), health(old)),
            _ => "the registry does not list it any more".to_owned(),
        };
        let event = Event::new(KINDS[kind], reason).of_service(&self.service);
        self.events.record(event.of_instance(&instance.id.id).on_node(&instance.id.node));
    }

    fn record_rest(self) {
        for (kind, count) in KINDS.into_iter().zip(self.recorded) {
            if count > MAX_OF_A_KIND {
                let reason = format!("{} more instances at the same time", count - MAX_OF_A_KIND);
                self.events.record(Event::new(kind, reason).of_service(&self.service));
            }
        }
    }
}

/// What the registry states of the health; also whether the instance can be used at all.
fn health(instance: &Instance) -> &'static str {
    match instance {
        Instance { addr: Err(_), .. } => "unusable",
        Instance { draining: true, .. } => "draining",
        Instance { node_lost: true, .. } => "critical, because contact with its node is lost",
        Instance { status, .. } => status.label(),
    }
}

fn describe(instance: &Instance) -> String {
    match &instance.addr {
        Ok(addr) => format!("{} at {addr}", health(instance)),
        Err(unusable) => format!("unusable: {unusable}"),
    }
}
