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
    /// Outlier detection has ejected an instance.
    InstanceEjected = "instance_ejected",
    /// An instance would have been ejected, but for `max_ejection_percent`.
    EjectionPrevented = "ejection_prevented",
    /// A probe has found that an instance for which requests wait accepts no connections.
    InstanceProbed = "instance_probed",
    /// The ejection of an instance is over, and the next request decides.
    InstanceProbation = "instance_probation",
    /// An instance that was ejected is used again.
    InstanceBack = "instance_back",
    /// No instance of a service is healthy, so that all are used.
    PanicBegan = "panic_began",
    /// An instance is healthy again.
    PanicEnded = "panic_ended",
    /// No instance of a service is usable, so that requests go to a failover target.
    FailoverBegan = "failover_began",
    /// Requests return to the instances of the service, or no target can take them.
    FailoverEnded = "failover_ended",
    /// The circuit breaker of a service has opened.
    BreakerOpened = "breaker_opened",
    /// It lets probes through.
    BreakerHalfOpen = "breaker_half_open",
    /// It is closed.
    BreakerClosed = "breaker_closed",
    /// The registry has taken the registration of the app.
    Registered = "registered",
    /// What the registry holds differs from what was announced.
    RegistrationDrift = "registration_drift",
    /// The app has acquired a lock.
    LockAcquired = "lock_acquired",
    /// A lock that the app held is lost.
    LockLost = "lock_lost",
    /// Another process registers the same id, or none does any more.
    RegistrationConflict = "registration_conflict",
    /// The registration is left to another process.
    RegistrationLeft = "registration_left",
    /// The app is taken out of service by hand.
    MaintenanceOn = "maintenance_on",
    /// It is put back.
    MaintenanceOff = "maintenance_off",
    /// The app is deregistered.
    Withdrawn = "withdrawn",
    /// The registry has not confirmed that the app is deregistered.
    WithdrawalUnconfirmed = "withdrawal_unconfirmed",
    /// A drain is requested.
    DrainRequested = "drain_requested",
    /// The drain of the sidecar has come to another phase.
    DrainPhase = "drain_phase",
    /// A step in which a service leaves the registry has ended.
    DrainStep = "drain_step",
    /// Settings that were read again are in place.
    ReloadApplied = "reload_applied",
    /// Settings that were read again are not used.
    ReloadRefused = "reload_refused",
    /// A document of the registry's KV is in effect, or is gone.
    DocumentApplied = "document_applied",
    /// A document of the registry's KV is refused.
    DocumentRefused = "document_refused",
    /// The app's merged configuration is known, or has changed.
    AppConfigChanged = "app_config_changed",
    /// A document or a value of the app's configuration is refused.
    AppConfigRefused = "app_config_refused",
    /// A file of the app has another content.
    ConfigFileWritten = "config_file_written",
    /// A file of the app cannot be written, or has no content.
    ConfigFileFailed = "config_file_failed",
    /// The app was told of a changed file.
    OnChangeDone = "on_change_done",
    /// It was not.
    OnChangeFailed = "on_change_failed",
    /// A restart of the app for a changed file waits.
    RestartWaits = "restart_waits",
    /// It begins: callers leave the app.
    RestartBegan = "restart_began",
    /// The app is healthy and registered after it.
    RestartEnded = "restart_ended",
    /// The app is ill after it, and keeps the slot of the service.
    RestartHeld = "restart_held",
}

/// No kind has this name. The message lists those that there are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no kind of event has this name; the kinds are: {}", EventKind::list())]
pub struct UnknownKind;

impl EventKind {
    /// The names of all kinds, for a message.
    pub fn list() -> String {
        Self::ALL.iter().map(|kind| kind.label()).collect::<Vec<_>>().join(", ")
    }
}

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
