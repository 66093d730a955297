//! Network coordinates, as `coordinate/*` show and take them.

use serde::Serialize;

use super::{
    agent::CoordinateJson,
    decode::JsonFields,
    request::{Refusal, require_datacenter},
};
use crate::store::{Coordinate, DIMENSIONS, NodeCoordinate};

/// An entry of `coordinate/nodes`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct NodeCoordinateJson<'a> {
    node: &'a str,
    segment: &'a str,
    coord: CoordinateJson<'a>,
}

impl<'a> NodeCoordinateJson<'a> {
    /// The coordinate of a node, under the name with which it was asked for.
    pub(crate) fn new(node: &'a str, row: &'a NodeCoordinate) -> Self {
        Self { node, segment: &row.segment, coord: (&row.coordinate).into() }
    }
}

impl<'a> From<&'a NodeCoordinate> for NodeCoordinateJson<'a> {
    fn from(row: &'a NodeCoordinate) -> Self {
        Self::new(&row.node, row)
    }
}

impl<'a> From<&'a Coordinate> for CoordinateJson<'a> {
    fn from(coordinate: &'a Coordinate) -> Self {
        let Coordinate { vec, error, adjustment, height } = coordinate;
        Self { vec, error: *error, adjustment: *adjustment, height: *height }
    }
}

/// An entry of `coordinate/datacenters`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DatacenterCoordinates<'a> {
    pub(crate) datacenter: &'a str,
    #[serde(rename = "AreaID")]
    pub(crate) area_id: &'static str,
    pub(crate) coordinates: Vec<NodeCoordinateJson<'a>>,
}

/// The body of `coordinate/update`. The parameter `dc` comes before the body's datacenter; `own` is the registry's.
pub(crate) fn parse_coordinate_update(
    body: &[u8],
    dc: Option<&str>,
    own: &str,
) -> Result<NodeCoordinate, Refusal> {
    let mut fields =
        JsonFields::parse_as(body, "structs.CoordinateUpdateRequest")?.at_path("CoordinateUpdateRequest");
    let wanted = fields.string("Datacenter")?;
    let (node, segment) = (fields.string("Node")?, fields.string("Segment")?);
    let coord = fields.object_as("Coord", "coordinate.Coordinate")?;
    // An ACL token has no effect without ACLs.
    fields.string("Token")?;
    let coordinate = match coord.map(|coord| coord.at_path("Coordinate.Coord")) {
        None => None,
        Some(mut coord) => {
            let vec = coord.numbers("Vec")?;
            let mut number = |name| coord.number(name);
            let (error, adjustment, height) = (number("Error")?, number("Adjustment")?, number("Height")?);
            coord.finish()?;
            Some(Coordinate { vec, error, adjustment, height })
        }
    };
    fields.finish()?;
    require_datacenter(dc.unwrap_or(&wanted), own)?;
    // Consul answers nothing at all where there is no coordinate.
    let coordinate = coordinate.ok_or_else(|| Refusal::internal("invalid coordinate"))?;
    match coordinate.vec.len() {
        DIMENSIONS => Ok(NodeCoordinate { node, segment, coordinate }),
        _ => Err(Refusal::internal("incompatible coordinate")),
    }
}
