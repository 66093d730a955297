//! `/v1/event/*`: user events.

use super::{context::HttpContext, read, reply::Reply, request::ApiRequest};
use crate::{
    blocking,
    store::{Event, EventFilters, NewEvent, Store},
    wire::event::EventJson,
};

/// The index of an empty list.
const NO_EVENT: u64 = 1;

/// `event/fire/NAME`
pub(super) fn fire(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = read::require_name(call, "Missing name")?.to_owned();
    let filter = |name: &str| call.query.first(name).unwrap_or_default().to_owned();
    let event = NewEvent {
        name,
        payload: call.body_of_known_length().to_vec(),
        node_filter: filter("node"),
        service_filter: filter("service"),
        tag_filter: filter("tag"),
    };
    let filters = EventFilters::of(&event).map_err(Reply::internal_error)?;
    read::reject_other_datacenter(context, call)?;
    let name = event.name.clone();
    let fired =
        context.store.write(|store, _| store.fire_event(event, &filters)).map_err(Reply::internal_error)?;
    context.metrics.count("consul.serf.events".to_owned());
    context.metrics.count(format!("consul.serf.events.consul:event:{name}"));
    Ok(Reply::json(&EventJson::from(&fired), call))
}

/// `event/list`: the events that the agent keeps. Waits while the newest one is that of `index`.
pub(super) async fn list(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let wait = read::parse_wait(call)?;
    let seen = read::parse_index(call)?;
    let wanted = |event: &&Event| {
        let name = call.query.first("name").unwrap_or_default();
        name.is_empty() || event.event.name == name
    };
    let index = |store: &Store| store.events().rfind(wanted).map_or(NO_EVENT, Event::index);
    if seen > 0 {
        let _slot = read::acquire_blocking_slot(context)?;
        let longest = blocking::exact_block_time(wait);
        blocking::wait_until(&context.store, longest, |store| index(store) != seen).await;
    }
    Ok(context.store.read(|store| {
        let events: Vec<EventJson<'_>> = store.events().filter(wanted).map(EventJson::from).collect();
        read::with_index(Reply::json(&events, call), index(store))
    }))
}
