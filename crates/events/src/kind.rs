//! The closed list of kinds. docs/events.md describes each.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// What was decided.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum EventKind {
            $($(#[doc = $doc])+ $name,)+
        }

        impl EventKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The name on pages, in streams and in filters.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)+
                }
            }
        }
    };
}

kinds! {
    /// The registry lists an instance that was not known.
    InstanceJoined = "instance_joined",
    /// An instance is no longer known.
    InstanceLeft = "instance_left",
    /// The registry states another health of an instance, or it can be used now, or no longer.
    InstanceHealth = "instance_health",
    /// An answer of the registry loses many instances at once, and is not believed yet.
    LossDoubted = "loss_doubted",
    /// Instances that were kept after such an answer are removed.
    LossBelieved = "loss_believed",
    /// The registry lists such instances again.
    LossRefuted = "loss_refuted",
    /// The registry gives no usable answer.
    RegistryLost = "registry_lost",
    /// The registry answers again.
    RegistryBack = "registry_back",
    /// The registry answers for other services and not for this one.
    ServiceLost = "service_lost",
    /// The registry answers for this service again.
    ServiceBack = "service_back",
}

/// No kind has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kind of event has this name")]
pub struct UnknownKind;

impl FromStr for EventKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().copied().find(|kind| kind.label() == text).ok_or(UnknownKind)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}
