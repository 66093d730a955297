//! Why the app is announced, and how long that waits.

use std::time::Duration;

use outrigger_policy::backoff::Backoff;
use outrigger_registry::Registration;
use tracing::{info, warn};

/// Pauses between corrections that do not last: another process may register the same id.
const CONFLICT_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };

/// This many corrections in a row are prompt, because a person may be changing the registration by hand. Another
/// sidecar with the same id causes more of them within seconds.
const PROMPT_CORRECTIONS: u32 = 10;

/// Least time between two registrations that the registry forgot. Short, because an agent may restart several times, and
/// each time callers wait for the app.
pub(super) const MIN_REREGISTER_INTERVAL: Duration = Duration::from_secs(3);

/// After a registration that lasted this long, the next correction counts as the first.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Why the app has to be announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnnounceReason {
    /// The app is healthy for the first time.
    First,
    /// An earlier run left the registration, and the app is not healthy, which has to be reported.
    FoundExisting,
    /// The registry does not hold the app, or not its check.
    Forgotten,
    /// The registry holds something else.
    Changed,
    /// The registry holds the app, but has refused a report.
    ReportRefused,
    /// The registry holds the app, but callers do not find it.
    Unlisted,
    /// The other process that kept the id has left, or does not renew its check.
    TakenOver,
    /// The credentials were replaced.
    NewCredentials,
    /// A reload changed the settings.
    NewSettings,
}

impl AnnounceReason {
    /// What the registry has taken.
    pub(super) fn announced(self) -> &'static str {
        match self {
            Self::First => "registered the app",
            Self::FoundExisting => "took over the registration of an earlier run",
            Self::Forgotten => "the registry had forgotten the app, registered again",
            Self::Changed => "another client changed the registration, corrected it",
            Self::ReportRefused => "the registry refused a report, registered again",
            Self::Unlisted => "the catalog did not list the app, registered again",
            Self::TakenOver => "the other process with this id is gone, registered the app",
            Self::NewCredentials => "the token was replaced, registered again with it",
            Self::NewSettings => "registered the app with its new settings",
        }
    }

    /// How what the registry holds differs from what was announced. `None`: it does not.
    pub(super) fn drift(self) -> Option<&'static str> {
        match self {
            Self::Forgotten => Some("forgotten: the registry does not hold the app any more"),
            Self::Changed => Some("changed: the registry holds something else"),
            Self::ReportRefused => {
                Some("report_refused: the registry holds the app, and has refused a report")
            }
            Self::Unlisted => Some("unlisted: the catalog does not list the app"),
            Self::NewCredentials => Some("credentials: the token was replaced"),
            Self::First | Self::FoundExisting | Self::TakenOver | Self::NewSettings => None,
        }
    }
}

/// Logs that the registry has taken an announcement.
pub(super) fn log_announced(registration: &Registration, reason: AnnounceReason) {
    let Registration { id, name, port, .. } = registration;
    let what = reason.announced();
    match reason {
        AnnounceReason::First | AnnounceReason::FoundExisting | AnnounceReason::NewSettings => {
            info!(id, service = name, port, "{what}");
        }
        AnnounceReason::NewCredentials => info!(id, service = name, "{what}"),
        _ => warn!(id, service = name, "{what}"),
    }
}

/// The pause before the next registration, after one that lasted this long.
pub(super) fn reannounce_pause(reason: AnnounceReason, lasted: Duration, conflicts: &mut u32) -> Duration {
    match reason {
        AnnounceReason::First
        | AnnounceReason::FoundExisting
        | AnnounceReason::TakenOver
        | AnnounceReason::NewCredentials
        | AnnounceReason::NewSettings => Duration::ZERO,
        // For Unlisted, the registrar has waited in addition.
        AnnounceReason::Forgotten | AnnounceReason::Unlisted => {
            MIN_REREGISTER_INTERVAL.saturating_sub(lasted)
        }
        AnnounceReason::Changed | AnnounceReason::ReportRefused if lasted >= SETTLED_AFTER => {
            *conflicts = 0;
            Duration::ZERO
        }
        AnnounceReason::Changed | AnnounceReason::ReportRefused => {
            let before = *conflicts;
            *conflicts += 1;
            // The first one is corrected at once.
            if before == 0 {
                Duration::ZERO
            } else {
                CONFLICT_BACKOFF.pause(before.saturating_sub(PROMPT_CORRECTIONS), fastrand::u64(..))
            }
        }
    }
}
