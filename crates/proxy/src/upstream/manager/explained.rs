//! What an explanation asks of the manager. It opens nothing.

use std::sync::Arc;

use outrigger_config as config;

use super::{ClusterManager, SettingsPlace};
use crate::upstream::{cluster::ClusterKey, subset::LiveSubsets, traffic::Traffic};

/// The settings of a cluster, open or not, and where they are.
#[derive(Debug)]
pub(crate) struct PlacedSettings {
    pub(crate) policy: config::Policy,
    pub(crate) policy_place: SettingsPlace,
    pub(crate) rules_place: SettingsPlace,
}

impl ClusterManager {
    /// The settings of a cluster.
    pub(crate) fn placed_settings(&self, key: &ClusterKey) -> PlacedSettings {
        let settings = self.settings.load();
        PlacedSettings {
            policy: settings.policy_for(key).clone(),
            policy_place: settings.policy_place(key),
            rules_place: settings.rules_place(key),
        }
    }

    /// The rules that a cluster would have if it were open; its subsets are empty. `None`: none.
    pub(crate) fn rules_if_open(&self, key: &ClusterKey) -> Option<Arc<Traffic>> {
        let settings = self.settings.load();
        let balance = settings.policy_for(key).balance;
        Traffic::new(settings.rules_for(key), balance, &LiveSubsets::default(), None)
    }

    /// The failover targets that a cluster would have if it were open, in the order of use.
    pub(crate) fn targets_if_open(&self, key: &ClusterKey) -> Vec<ClusterKey> {
        self.settings.load().targets_of(key)
    }
}
