//! What `agent/self`, `agent/members` and `agent/metrics` show of the agent.

use std::collections::BTreeMap;

use serde::Serialize;

use super::response::EmptyObject;

/// `agent/self`
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentSelf<'a> {
    pub(crate) config: AgentConfig<'a>,
    /// Consul shows every setting here.
    pub(crate) debug_config: BTreeMap<&'a str, &'a str>,
    pub(crate) coord: CoordinateJson<'a>,
    pub(crate) member: Member<'a>,
    pub(crate) stats: BTreeMap<&'static str, BTreeMap<&'static str, String>>,
    pub(crate) meta: BTreeMap<&'static str, &'static str>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct AgentConfig<'a> {
    pub(crate) datacenter: &'a str,
    pub(crate) node_name: &'a str,
    #[serde(rename = "NodeID")]
    pub(crate) node_id: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) server: bool,
    pub(crate) version: &'a str,
}

/// A network coordinate.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CoordinateJson<'a> {
    pub(crate) vec: &'a [f64],
    pub(crate) error: f64,
    pub(crate) adjustment: f64,
    pub(crate) height: f64,
}

/// A member of the cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Member<'a> {
    pub(crate) name: &'a str,
    pub(crate) addr: &'a str,
    pub(crate) port: u16,
    pub(crate) tags: BTreeMap<&'static str, String>,
    /// 1: alive.
    pub(crate) status: u8,
    pub(crate) protocol_min: u8,
    pub(crate) protocol_max: u8,
    pub(crate) protocol_cur: u8,
    pub(crate) delegate_min: u8,
    pub(crate) delegate_max: u8,
    pub(crate) delegate_cur: u8,
}

/// `agent/metrics`
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct MetricsJson {
    pub(crate) timestamp: String,
    pub(crate) gauges: Vec<Gauge>,
    /// Always empty.
    pub(crate) points: Vec<Gauge>,
    pub(crate) counters: Vec<SampledValue>,
    pub(crate) samples: Vec<SampledValue>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Gauge {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) labels: EmptyObject,
}

/// A counter, or the samples of one interval.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SampledValue {
    pub(crate) name: String,
    pub(crate) count: u64,
    /// The sum, per second.
    pub(crate) rate: f64,
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
    pub(crate) stddev: f64,
    pub(crate) labels: EmptyObject,
}
