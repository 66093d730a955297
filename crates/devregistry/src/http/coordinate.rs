//! `/v1/coordinate/*`: network coordinates.

use http::StatusCode;

use super::{
    context::HttpContext,
    read::{self, ReadHeaders},
    reply::Reply,
    request::ApiRequest,
};
use crate::{
    store::{Coordinate, NodeCoordinate, Store, Topic},
    wire::coordinate::{self, DatacenterCoordinates, NodeCoordinateJson},
};

/// `coordinate/datacenters`: the servers of each datacenter.
pub(super) fn datacenters(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let node = context.store.read(|store| store.own_node.clone());
    let own = NodeCoordinate { node, segment: String::new(), coordinate: Coordinate::origin() };
    let shown = DatacenterCoordinates {
        datacenter: &context.options.datacenter,
        area_id: "wan",
        coordinates: vec![NodeCoordinateJson::from(&own)],
    };
    Ok(Reply::json(&[shown], call))
}

/// `coordinate/nodes`
pub(super) async fn nodes(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let show = |store: &Store| {
        let rows = store.coordinates().filter(|row| is_in_segment(call, row));
        Reply::json(&rows.map(NodeCoordinateJson::from).collect::<Vec<_>>(), call)
    };
    read::blocking_read_with(context, call, Topic::Coordinates, ReadHeaders::Session, show).await
}

/// `coordinate/node/NAME`, shown with the name as it was asked for.
pub(super) async fn node(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let name = call.path_rest.as_str();
    let show = |store: &Store| {
        let rows = store.coordinates_of(name).filter(|row| is_in_segment(call, row));
        let rows: Vec<_> = rows.map(|row| NodeCoordinateJson::new(name, row)).collect();
        match rows.is_empty() {
            true => Reply::empty().with_status(StatusCode::NOT_FOUND),
            false => Reply::json(&rows, call),
        }
    };
    let topic = Topic::CoordinatesOf(name.to_owned());
    let reply = read::blocking_read_with(context, call, topic, ReadHeaders::Session, show).await?;
    // Without headers, as in Consul.
    let is_missing = reply.status() == StatusCode::NOT_FOUND;
    Ok(if is_missing { Reply::empty().with_status(StatusCode::NOT_FOUND) } else { reply })
}

/// `coordinate/update`
pub(super) fn update(context: &HttpContext, call: &ApiRequest) -> Result<Reply, Reply> {
    let datacenter = &context.options.datacenter;
    let wanted = call.query.first("dc").filter(|dc| !dc.is_empty());
    let told = coordinate::parse_coordinate_update(&call.body, wanted, datacenter)?;
    context.store.write(|store, now| store.update_coordinate(told, now));
    Ok(Reply::empty())
}

fn is_in_segment(call: &ApiRequest, row: &NodeCoordinate) -> bool {
    call.query.first("segment").is_none_or(|segment| row.segment == segment)
}
