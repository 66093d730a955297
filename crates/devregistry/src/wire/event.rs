//! A user event, as `event/fire` and `event/list` show it.

use serde::Serialize;

use super::base64;
use crate::store::Event;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EventJson<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'a str,
    payload: Option<String>,
    node_filter: &'a str,
    service_filter: &'a str,
    tag_filter: &'a str,
    version: u8,
    #[serde(rename = "LTime")]
    time: u64,
}

impl<'a> From<&'a Event> for EventJson<'a> {
    fn from(fired: &'a Event) -> Self {
        let event = &fired.event;
        Self {
            id: &fired.id,
            name: &event.name,
            payload: (!event.payload.is_empty()).then(|| base64::encode(&event.payload)),
            node_filter: &event.node_filter,
            service_filter: &event.service_filter,
            tag_filter: &event.tag_filter,
            version: 1,
            time: fired.time,
        }
    }
}
