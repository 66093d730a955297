//! What an explanation asks of the manager. It opens nothing.

use std::sync::Arc;

use outrigger_config as config;

use super::{ClusterManager, SettingsPlace};
use crate::upstream::{chain_state::ChainState, cluster::ClusterKey, subset::LiveSubsets, traffic::Traffic};

/// The settings of a cluster, open or not, and where they are.
#[derive(Debug, Clone)]
pub(crate) struct PlacedSettings {
    pub(crate) policy: config::Policy,
    pub(crate) policy_place: SettingsPlace,
    pub(crate) rules_place: SettingsPlace,
    /// Of the rules that a chain of the registry does not have.
    pub(crate) own_rules_place: SettingsPlace,
}

impl ClusterManager {
    /// The settings of a cluster.
    pub(crate) fn placed_settings(&self, key: &ClusterKey) -> PlacedSettings {
        let settings = self.settings.load();
        PlacedSettings {
            policy: settings.policy_for(key).clone(),
            policy_place: settings.policy_place(key),
            rules_place: settings.rules_place(key),
            own_rules_place: settings.own_rules_place(key),
        }
    }

    /// What is known of the chain of a cluster that is not open. `None`: the registry would not be asked.
    pub(crate) fn chain_if_open(&self, key: &ClusterKey) -> Option<ChainState> {
        let settings = self.settings.load();
        let state = if settings.wants_chain(key) { ChainState::Unasked } else { ChainState::Ignored };
        settings.may_have_chain(key).then_some(state)
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
