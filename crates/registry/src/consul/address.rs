//! At which of its addresses an instance is listed.
//!
//! With `auto`, an instance of another datacenter than the agent's own is listed at its address for other networks, as Consul's own
//! proxies call it. An answer to a question without a datacenter says which one is the agent's own. Where none has come yet, and an
//! instance has two addresses, the agent is asked for the datacenters that it knows: that needs no right of a token, and the first
//! of them is its own, because Consul sorts them by the distance from its own servers.

use std::{sync::Arc, time::Duration};

use config::AddressKind;
use outrigger_config as config;

use super::{Consul, expect_ok, malformed, wire::ListedInstance};
use crate::{Cursor, Error, Query, resolve::UnresolvedInstance};

impl Consul {
    /// The instances of an answer to `query`, each at the address that it asks for.
    pub(super) async fn choose_addresses(
        &self,
        query: &Query,
        listed: Vec<ListedInstance>,
        wait: Duration,
    ) -> Result<Vec<UnresolvedInstance>, Error> {
        let names_datacenter = query.datacenter.is_some() || self.datacenter.is_some();
        if !names_datacenter && let Some(first) = listed.first() {
            self.note_own_datacenter(&first.lan.instance.id.datacenter);
        }
        let own = match query.address {
            AddressKind::Auto if names_datacenter && listed.iter().any(|one| one.wan.is_some()) => {
                self.find_own_datacenter(wait).await?
            }
            AddressKind::Auto | AddressKind::Lan | AddressKind::Wan => None,
        };
        let is_wan = |one: &ListedInstance| match query.address {
            AddressKind::Lan => false,
            AddressKind::Wan => true,
            AddressKind::Auto => {
                own.as_ref().is_some_and(|own| !own.eq_ignore_ascii_case(&one.lan.instance.id.datacenter))
            }
        };
        Ok(listed
            .into_iter()
            .map(|one| {
                let wan = is_wan(&one);
                one.at(wan)
            })
            .collect())
    }

    fn note_own_datacenter(&self, name: &Arc<str>) {
        let mut own = self.own_datacenter.lock();
        if !name.is_empty() && own.as_ref() != Some(name) {
            *own = Some(name.clone());
        }
    }

    /// The agent's own datacenter. `None`: it does not say.
    async fn find_own_datacenter(&self, wait: Duration) -> Result<Option<Arc<str>>, Error> {
        let known = self.own_datacenter.lock().clone();
        if known.is_some() {
            return Ok(known);
        }
        let target = |_| "/v1/catalog/datacenters".to_owned();
        let names: Vec<Arc<str>> = self
            .read_or_watch(Cursor::START, wait, target, |reply, request| {
                // What is no Consul may not have it, and is asked no less for that.
                if reply.status.is_client_error() {
                    return Ok(Vec::new());
                }
                expect_ok(reply, request)?;
                serde_json::from_slice(&reply.body).map_err(|error| malformed(request, &error))
            })
            .await?;
        let own = names.into_iter().next();
        if let Some(name) = &own {
            self.note_own_datacenter(name);
        }
        Ok(own)
    }
}
