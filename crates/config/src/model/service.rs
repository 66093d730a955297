//! The local app: what is registered, and how its health is probed.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use super::Secret;

/// The local app.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// The name under which other services call it: 1 to 128 letters, digits, `-`, `_` and dots. Required.
    pub name: String,
    /// The port the app listens on. Required, 1–65535.
    pub port: u16,
    /// The address at which other hosts reach it. Absent: the registry agent's own address.
    pub address: Option<String>,
    /// The registration's ID. Absent: made from name, host name and port, so that it is stable.
    pub id: Option<String>,
    /// Tags of the registration, each of 1 to 255 bytes, which may be commas too. Default none.
    pub tags: Vec<String>,
    /// Key-value metadata of the registration, by Consul's rules: at most 64 pairs, keys of at most
    /// 128 letters, digits, `-` and `_`, values of at most 512 bytes. Default none.
    pub meta: BTreeMap<String, String>,
    /// Relative share of traffic. Default 1 and 1.
    pub weights: Weights,
    /// How the sidecar checks the app's health. Default `tcp: true`.
    pub health: Health,
    /// How long a critical registration is kept before the registry removes it. Default 1m, range
    /// 1m–720h; Consul's minimum is 1m.
    pub deregister_after: Duration,
}

/// Shares of traffic by health, as in Consul's `Weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// While passing. Default 1, range 1–65535.
    pub passing: u16,
    /// While warning. Default 1, range 0–65535; 0 takes no traffic while warning.
    pub warning: u16,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

/// The probe of the local app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The request.
    pub probe: Probe,
    /// The address at which the app is asked: a host name or an IP address. Absent: the loopback addresses, and where both refuse,
    /// the service's own `address`, if this machine has it.
    pub address: Option<String>,
    /// The method of the request by HTTP. Default GET.
    pub method: String,
    /// The `Host` of the request by HTTP. Absent: `localhost` and the port, or the address that is asked and the port.
    pub host: Option<String>,
    /// Further header fields of the request by HTTP. Default none.
    pub headers: BTreeMap<String, Secret>,
    /// The status that is healthy. Absent: 2xx. 429 is a warning, unless it is expected.
    pub status: Option<ExpectedStatus>,
    /// Longest time until a change is noticed: a probe begins `interval` - `timeout` after the last one, at
    /// least half of `interval`. Default 2s, range 100ms–1h.
    pub interval: Duration,
    /// Longest wait for one probe. Default 1s, range 10ms–1m; not above `interval`.
    pub timeout: Duration,
    /// What a registered address that accepts no connection means. Default `warn`.
    pub reach: ReachTest,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            address: None,
            method: "GET".to_owned(),
            host: None,
            headers: BTreeMap::new(),
            status: None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            reach: ReachTest::Warn,
        }
    }
}

/// The statuses of a healthy app, as `200-299,401`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedStatus(pub(crate) Vec<RangeInclusive<u16>>);

impl ExpectedStatus {
    /// Whether `status` is healthy.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl fmt::Display for ExpectedStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, range) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match (range.start(), range.end()) {
                (low, high) if low == high => write!(f, "{comma}{low}")?,
                (low, high) => write!(f, "{comma}{low}-{high}")?,
            }
        }
        Ok(())
    }
}

/// Whether the service's own `address` is connected to from here while the app is healthy, and what it means when that fails.
/// Without `address` it is not tested: the address of the agent is registered, which the sidecar does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReachTest {
    /// A warning; the health stays that of the app.
    Warn,
    /// The app is critical. Needs `address`.
    Require,
    /// It is not tested.
    Off,
}

/// How a health probe asks the local app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection is accepted.
    Tcp,
    /// `GET` of this path answers: 2xx passing, 429 warning, everything else critical.
    Http(String),
}
