//! User events: what clients tell to every agent. The agent keeps the last ones that it was meant to get.

use outrigger_filter::golang::Regexp;

use super::{
    event_state::{Event, NewEvent, SIZE_MAX, too_large},
    state::{Store, uuid},
};

/// Most events that the agent keeps.
const KEPT: usize = 256;
/// The event of `consul exec`, which agents do not list.
const REMOTE_EXEC: &str = "_rexec";

/// The agents that an event is meant for.
#[derive(Debug)]
pub(crate) struct EventFilters {
    node: Option<Regexp>,
    service: Option<Regexp>,
    tag: Option<Regexp>,
}

impl EventFilters {
    /// # Errors
    /// Consul's text.
    pub(crate) fn of(event: &NewEvent) -> Result<Self, String> {
        if !event.tag_filter.is_empty() && event.service_filter.is_empty() {
            return Err("Cannot provide tag filter without service filter".to_owned());
        }
        let compile = |what: &str, filter: &str| {
            let compiled = (!filter.is_empty()).then(|| Regexp::compile(filter)).transpose();
            compiled.map_err(|error| format!("Invalid {what} filter: {error}"))
        };
        Ok(Self {
            node: compile("node", &event.node_filter)?,
            service: compile("service", &event.service_filter)?,
            tag: compile("tag", &event.tag_filter)?,
        })
    }

    /// Whether the agent of this registry is meant. As in Consul, the service filter is compared with ids.
    fn fit(&self, store: &Store) -> bool {
        let fits =
            |filter: &Option<Regexp>, text: &str| filter.as_ref().is_none_or(|filter| filter.matches(text));
        let service_fits = || {
            store.agent_services().any(|service| {
                fits(&self.service, &service.id)
                    && (self.tag.is_none() || service.tags.iter().any(|tag| fits(&self.tag, tag)))
            })
        };
        fits(&self.node, &store.own_node) && (self.service.is_none() || service_fits())
    }
}

impl Store {
    /// Tells an event to the agents that it is meant for. Returns it as the client that fired it sees it.
    ///
    /// # Errors
    /// Consul's text: the event is too large.
    pub(crate) fn fire_event(&mut self, event: NewEvent, filters: &EventFilters) -> Result<Event, String> {
        if let Some(when) = too_large(&event, self.events.time) {
            let why = format!("user event exceeds configured limit of {SIZE_MAX} bytes {when} encoding");
            let why = if when == "after" { format!("encoded {why}") } else { why };
            return Err(format!(
                "1 error occurred:\n\t* error broadcasting event to segment \"\": {why}\n\n"
            ));
        }
        let fired = Event { id: uuid(), event, time: 0 };
        let time = self.events.time;
        self.events.time += 1;
        if fired.event.name != REMOTE_EXEC && filters.fit(self) {
            self.events.kept.push_back(Event { time, ..fired.clone() });
            if self.events.kept.len() > KEPT {
                self.events.kept.pop_front();
            }
        }
        Ok(fired)
    }

    /// The events that the agent keeps, the oldest first.
    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.kept.iter()
    }
}
