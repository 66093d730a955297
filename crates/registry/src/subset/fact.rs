//! An instance as the row of a filter.

use std::{collections::BTreeMap, sync::Arc};

use outrigger_filter::FilterValue;

use crate::{CheckFacts, Instance};

/// A value of an instance that a filter may select, by the names of Consul's health answers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fact<'a> {
    Instance(&'a Instance),
    Service(&'a Instance),
    Node(&'a Instance),
    Checks(&'a Instance),
    Check(&'a Instance, &'a CheckFacts),
    Weights(&'a Instance),
    Text(&'a str),
    Integer(i64),
    Texts(&'a [Arc<str>]),
    Map(&'a BTreeMap<String, String>),
}

impl<'a> FilterValue<'a> for Fact<'a> {
    fn text(self) -> &'a str {
        if let Self::Text(text) = self { text } else { "" }
    }

    fn integer(self) -> i64 {
        if let Self::Integer(number) = self { number } else { 0 }
    }

    fn boolean(self) -> bool {
        false
    }

    fn entry(self, name: &str) -> Option<Self> {
        match self {
            Self::Instance(one) => match name {
                "Service" => Some(Self::Service(one)),
                "Node" => Some(Self::Node(one)),
                "Checks" => Some(Self::Checks(one)),
                _ => None,
            },
            Self::Service(one) => match name {
                "ID" => Some(Self::Text(listed_id(one))),
                "Service" => Some(Self::Text(&one.facts.service)),
                "Tags" => Some(Self::Texts(&one.tags)),
                "Meta" => Some(Self::Map(&one.meta)),
                "Address" => Some(Self::Text(&one.facts.address)),
                "Port" => Some(Self::Integer(one.facts.port)),
                "Weights" => Some(Self::Weights(one)),
                _ => None,
            },
            Self::Weights(one) => match name {
                "Passing" => Some(Self::Integer(one.weights.passing.into())),
                "Warning" => Some(Self::Integer(one.weights.warning.into())),
                _ => None,
            },
            Self::Node(one) => match name {
                "Node" => Some(Self::Text(&one.id.node)),
                "Address" => Some(Self::Text(&one.facts.node.address)),
                "Datacenter" => Some(Self::Text(&one.id.datacenter)),
                "Meta" => Some(Self::Map(&one.facts.node.meta)),
                _ => None,
            },
            Self::Check(one, check) => match name {
                "Node" => Some(Self::Text(&one.id.node)),
                "CheckID" => Some(Self::Text(&check.id)),
                "Name" => Some(Self::Text(&check.name)),
                "Status" => Some(Self::Text(&check.status)),
                "Type" => Some(Self::Text(&check.kind)),
                "ServiceID" if check.is_of_service => Some(Self::Text(listed_id(one))),
                "ServiceName" if check.is_of_service => Some(Self::Text(&one.facts.service)),
                "ServiceTags" if check.is_of_service => Some(Self::Texts(&one.tags)),
                _ => None,
            },
            Self::Map(map) => map.get(name).map(|value| Self::Text(value)),
            Self::Checks(_) | Self::Text(_) | Self::Integer(_) | Self::Texts(_) => None,
        }
    }

    fn element(self, n: usize) -> Option<Self> {
        match self {
            Self::Texts(texts) => texts.get(n).map(|text| Self::Text(text)),
            Self::Checks(one) => one.facts.checks.get(n).map(|check| Self::Check(one, check)),
            _ => None,
        }
    }

    fn is_empty(self) -> bool {
        match self {
            Self::Texts(texts) => texts.is_empty(),
            Self::Checks(one) => one.facts.checks.is_empty(),
            Self::Map(map) => map.is_empty(),
            _ => true,
        }
    }
}

/// The id that is listed: each address of a host name is an instance with an id of its own.
fn listed_id(one: &Instance) -> &str {
    one.named.as_ref().map_or(&one.id.id, |named| &named.id)
}
