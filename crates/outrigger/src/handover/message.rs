//! What the two processes say to each other: one JSON object per line.

use std::net::SocketAddr;

use outrigger_config::{Config, Registry};
use outrigger_registration::{build_registration, host_name};
use outrigger_registry::Registration;
use serde::{Deserialize, Serialize};

use crate::registry;

/// The version of the exchange. Another one is refused, because each side has to know what the other does at its end. A refusal
/// has the same form in every version.
pub(super) const VERSION: u32 = 1;

/// What the new process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromNew {
    /// The first message.
    Ask {
        version: u32,
        pid: u32,
        /// What it will register.
        instances: Vec<InstanceKey>,
    },
    /// It could serve: its settings are good, every address is bound.
    Ready,
    /// It serves.
    Taken,
}

/// What the running process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(super) enum FromRunning {
    /// Comes with a file for each socket.
    Sockets { pid: u32, sockets: Vec<SocketNote> },
    /// The end of the sockets. Comes with two files: the listener of the endpoint, and its lock.
    Endpoint,
    /// Nothing is under way for the registration any more.
    Released,
    /// It goes on serving.
    Refused { why: String },
}

/// What a socket was opened for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SocketNote {
    /// The setting.
    pub(super) key: String,
    /// The address of the setting.
    pub(super) configured_addr: SocketAddr,
}

/// An instance in a registry, as callers tell it from others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InstanceKey {
    registry: String,
    pub(super) id: String,
    name: String,
    port: u16,
}

impl InstanceKey {
    /// What these settings register, one for each service.
    pub(super) fn list(config: &Config) -> Vec<Self> {
        let Registry::Consul(_) = &config.registry else { return Vec::new() };
        let key = |service| {
            let Registration { id, name, port, .. } = build_registration(service, &host_name());
            Self { registry: registry::location(&config.registry), id, name, port }
        };
        config.services.iter().map(key).collect()
    }
}
