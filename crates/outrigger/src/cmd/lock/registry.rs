//! A lock that this process holds in Consul itself.

use std::time::Duration;

use outrigger_config::{Environment, Registry};
use outrigger_events::Events;
use outrigger_locks::{Acquire, AcquireError, BootClock, HoldState, LockManager, LockName, Released};
use tokio::time::{Instant, sleep};

use super::wanted::{NOT_ACQUIRED, NotHeld, SILENT_WAIT, Wanted, say};
use crate::{
    cmd::{report::CommandError, settings::RegistryFlags},
    registry,
    telemetry::{self, error_chain},
};

/// The wait of a request that waits for as long as it takes.
const WITHOUT_END: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Longest time for the end of sessions after the command has ended.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Which registry, and how its sessions are opened.
pub(super) struct RegistryChoice<'a> {
    pub(super) flags: &'a RegistryFlags,
    /// Absent: that of the settings.
    pub(super) prefix: Option<&'a LockName>,
    /// Absent: that of the settings.
    pub(super) lock_delay: Option<Duration>,
    /// In the names of sessions.
    pub(super) holder: String,
}

/// The locks of this process.
pub(super) struct RegistryLocks {
    locks: LockManager,
}

/// A lock of this process.
pub(super) struct OwnHold {
    locks: LockManager,
    held: outrigger_locks::Held,
}

impl RegistryLocks {
    /// Connects to nothing. Must be called within the runtime.
    pub(super) fn open(choice: RegistryChoice<'_>, environment: &Environment) -> Result<Self, CommandError> {
        let loaded = choice.flags.load(environment)?;
        let mut log = loaded.config.log.clone();
        if !loaded.origins.is_set("log.level") {
            // What matters is said in lines of its own.
            log.level = "error".into();
        }
        telemetry::init_logging(&log);
        let metrics = prometheus::Registry::new();
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| CommandError::running(error_chain(&*error));
        if let Registry::File(path) = &loaded.config.registry {
            let text = format!(
                "outrigger: registry.file ({}) keeps no locks: set registry.consul, or use --api",
                path.display()
            );
            return Err(CommandError::Settings(text));
        }
        let opened = registry::open(&loaded.config.registry, &metrics).map_err(failed)?;
        let Some(registry) = opened.locks() else {
            return Err(CommandError::Settings("outrigger: the registry keeps no locks".into()));
        };
        let mut settings = loaded.config.api.locks;
        if let Some(prefix) = choice.prefix {
            settings.prefix = prefix.to_string();
        }
        settings.lock_delay = choice.lock_delay.or(settings.lock_delay);
        let events = Events::new(outrigger_discovery::unix_time);
        let locks = LockManager::new(registry, settings, choice.holder, None, BootClock::Kernel, events);
        locks.map(|locks| Self { locks }).map_err(|error| failed(error.into()))
    }

    pub(super) async fn acquire(&self, wanted: &Wanted) -> Result<OwnHold, NotHeld> {
        let wait = wanted.until.map(|until| until.saturating_duration_since(Instant::now()));
        let request = Acquire {
            name: wanted.name.clone(),
            limit: wanted.limit,
            value: wanted.value.clone().into_bytes(),
            wait: wait.unwrap_or(WITHOUT_END),
            session_ttl: wanted.ttl,
            is_internal: false,
        };
        let acquired = tokio::select! {
            acquired = self.locks.hold(request) => acquired,
            never = self.report_wait() => match never {},
        };
        match acquired {
            Ok(held) => Ok(OwnHold { locks: self.locks.clone(), held }),
            Err(error @ (AcquireError::Held { .. } | AcquireError::LockDelay { .. })) => {
                Err(NotHeld { code: NOT_ACQUIRED, why: error_chain(&error) })
            }
            Err(error) => Err(NotHeld::impossible(error_chain(&error))),
        }
    }

    /// Says why the lock is waited for: at first, and when the reason is another one.
    async fn report_wait(&self) -> std::convert::Infallible {
        let mut told = None;
        loop {
            sleep(SILENT_WAIT).await;
            let waiting = self.locks.overview().waiting.into_iter().next();
            let failure =
                waiting.and_then(|waiting| Some((waiting.waiting.name, waiting.waiting.last_failure?)));
            if let Some((name, (reason, detail))) = failure
                && told != Some(reason)
            {
                told = Some(reason);
                say(format_args!("waiting for the lock {name}: {detail}"));
            }
        }
    }

    /// Ends the sessions of a wait that was given up.
    pub(super) async fn end(&self) {
        self.locks.shutdown(END_WITHIN).await;
    }
}

impl OwnHold {
    pub(super) fn token(&self) -> u64 {
        self.held.token()
    }

    pub(super) async fn lost(&self) -> String {
        let mut state = self.held.state();
        match state.wait_for(|state| matches!(state, HoldState::Lost(_))).await.as_deref() {
            Ok(HoldState::Lost(reason)) => reason.to_string(),
            Ok(HoldState::Held | HoldState::Released) | Err(_) => std::future::pending().await,
        }
    }

    pub(super) async fn end(self) -> Result<(), String> {
        let is_held = *self.held.state().borrow() == HoldState::Held;
        let released = if is_held { self.held.release().await } else { Released::Now };
        self.locks.shutdown(END_WITHIN).await;
        match released {
            Released::Now => Ok(()),
            Released::Later => Err("the registry does not answer".into()),
        }
    }
}
