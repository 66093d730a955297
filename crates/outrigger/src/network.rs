//! Notices that the network namespace of this process is dead. A container that shares the network of another one
//! (`network_mode: service:app`) keeps the old namespace when that one is started again or made anew: the interfaces are
//! removed, `lo` alone is left, and no packet leaves or arrives any more. Only a new start of the sidecar joins the new
//! namespace.
//!
//! The namespace is dead when, for [`SILENCE`] in a row,
//!
//! - every interface that had an address is gone. One that is down or without an address is no sign: a cable that was pulled,
//!   a lease that DHCP has lost. A namespace that never had an address (a test machine) never lacks one;
//! - the registry's agent accepts no connection. It is asked anew, because a connection that has lost its route is silent, and
//!   a blocking query would wait for minutes;
//! - the app accepts no connection, where a service is configured. An app that this process has started is not asked: it lives in
//!   the same dead namespace, and answers on `lo`.
//!
//! Without any of the last two to ask (a file of static instances and no service), nothing is concluded.

use std::{io, sync::Arc, time::Duration};

use outrigger_net::{InterfaceAddress, has_interface, is_caused_by_own_shortage, own_addresses};
use outrigger_registration::{AppAddress, accepts_on_loopback};
use outrigger_task::essential;
use parking_lot::Mutex;
use prometheus::{IntGauge, register_int_gauge_with_registry};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, error, info, warn};

use crate::{registry::OpenedRegistry, telemetry::error_chain};

/// The exit status of a process that ends so: `EX_TEMPFAIL` of sysexits.h, which no other end of the sidecar has.
pub(crate) const EXIT_CODE: u8 = 75;

/// Pause between two looks at the addresses.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Pause between two looks while every interface is gone.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// How long all signs must agree. A driver that is loaded again, a virtual machine that moves and a network service that builds its
/// interfaces anew bring an interface back within a few seconds; an agent that restarts answers within as many.
const SILENCE: Duration = Duration::from_secs(10);

/// What pages and metrics show.
#[derive(Debug, Clone)]
pub(crate) struct NetworkStatus {
    lost: Arc<Mutex<Option<String>>>,
    /// `outrigger_network_lost`
    gauge: IntGauge,
}

impl NetworkStatus {
    pub(crate) fn register(metrics: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let gauge = register_int_gauge_with_registry!(
            "outrigger_network_lost",
            "1 while every network interface that had an address is gone and neither the registry nor the app answers.",
            metrics
        )?;
        Ok(Self { lost: Arc::default(), gauge })
    }

    /// What is lost, as a sentence. Absent while the network is there, or something in it still answers.
    pub(crate) fn lost(&self) -> Option<String> {
        self.lost.lock().clone()
    }

    fn set(&self, lost: Option<String>) {
        self.gauge.set(lost.is_some().into());
        *self.lost.lock() = lost;
    }
}

/// A running watch of the network namespace. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct NetworkWatch {
    dead: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

impl NetworkWatch {
    /// Watches from now on. `silent_peers`: see the function of this name.
    pub(crate) fn start<F>(status: NetworkStatus, silent_peers: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = Option<String>> + Send + 'static,
    {
        let dead = CancellationToken::new();
        let watch = watch(status, silent_peers, dead.clone());
        let task = tokio::spawn(essential("the watch of the network", watch));
        Self { dead, _task: AbortOnDropHandle::new(task) }
    }

    /// Resolves when the namespace is dead. Cancel-safe.
    pub(crate) async fn dead(&self) {
        self.dead.cancelled().await;
    }

    /// Whether the namespace is dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.dead.is_cancelled()
    }
}

async fn watch<F>(status: NetworkStatus, silent_peers: impl Fn() -> F, dead: CancellationToken)
where
    F: Future<Output = Option<String>>,
{
    let (mut known, mut silence) = (KnownAddresses::default(), Silence::default());
    let mut were_gone = false;
    loop {
        let gone = known.gone_after_look(own_addresses(), has_interface);
        if std::mem::replace(&mut were_gone, gone.is_some()) != gone.is_some() {
            match &gone {
                Some(addresses) => warn!(%addresses, "every network interface with an address is gone"),
                None => info!("the network is there again"),
            }
        }
        let silent = match &gone {
            Some(_) => silent_peers().await,
            None => None,
        };
        let is_long = silence.note(silent.is_some(), Instant::now());
        let lost = gone.zip(silent).map(|(addresses, silent)| {
            format!("every network interface with an address is gone (it was {addresses}), and {silent}")
        });
        status.set(lost.clone());
        if let (Some(why), true) = (lost, is_long) {
            error!(
                %why,
                after = ?SILENCE,
                code = EXIT_CODE,
                "the network namespace is dead: the process ends, so that its successor joins the new one"
            );
            return dead.cancel();
        }
        sleep(if were_gone { ASK_INTERVAL } else { LOOK_INTERVAL }).await;
    }
}

/// The last addresses of the namespace, each with its interface.
#[derive(Debug, Default)]
struct KnownAddresses(Vec<InterfaceAddress>);

impl KnownAddresses {
    /// The addresses that were there before as text, when none is left and each of their interfaces is gone. A look that failed
    /// says nothing.
    fn gone_after_look(
        &mut self,
        look: io::Result<Vec<InterfaceAddress>>,
        has_interface: impl Fn(u32) -> bool,
    ) -> Option<String> {
        match look {
            Ok(found) if found.is_empty() => {}
            Ok(found) => {
                self.0 = found;
                return None;
            }
            Err(error) => {
                debug!(%error, "the addresses of this network namespace cannot be read");
                return None;
            }
        }
        let all_gone = !self.0.is_empty() && self.0.iter().all(|address| !has_interface(address.interface));
        all_gone.then(|| self.0.iter().map(|address| address.ip.to_string()).collect::<Vec<_>>().join(", "))
    }
}

/// Since when nothing answers.
#[derive(Debug, Default)]
struct Silence {
    since: Option<Instant>,
}

impl Silence {
    /// Whether nothing has answered for [`SILENCE`].
    fn note(&mut self, is_silent: bool, now: Instant) -> bool {
        if !is_silent {
            self.since = None;
            return false;
        }
        now.saturating_duration_since(*self.since.get_or_insert(now)) >= SILENCE
    }
}

/// Asks the registry's agent, and the apps where there are any, for a connection. The sentence says that neither accepts
/// one; absent where one does, where that cannot be found out, and where there is none to ask.
pub(crate) async fn silent_peers(registry: &OpenedRegistry, apps: Vec<AppAddress>) -> Option<String> {
    let ports: Vec<_> =
        apps.iter().map(|app| format!("the app does not answer on port {}", app.port)).collect();
    let app = async {
        for app in apps {
            if accepts_on_loopback(app).await {
                return false;
            }
        }
        true
    };
    let (agent, app_is_silent) = tokio::join!(registry.reach(), app);
    let agent = match agent {
        Some(Err(error)) if !is_caused_by_own_shortage(&error) => {
            Some(format!("the registry does not answer: {}", error_chain(&error)))
        }
        Some(_) => return None,
        None => None,
    };
    let silent: Vec<_> = agent.into_iter().chain(ports).collect();
    (app_is_silent && !silent.is_empty()).then(|| silent.join("; "))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use outrigger_config::{Environment, Overrides, load};
    use outrigger_net::reserve_addr;
    use tokio::net::TcpListener;

    use super::*;
    use crate::registry;

    fn addresses(found: &[(u8, u32)]) -> Vec<InterfaceAddress> {
        found
            .iter()
            .map(|&(last, interface)| InterfaceAddress {
                ip: Ipv4Addr::new(10, 9, 0, last).into(),
                interface,
            })
            .collect()
    }

    #[test]
    fn addresses_are_gone_when_their_interfaces_are() {
        let mut known = KnownAddresses::default();
        let mut look = |found: &[(u8, u32)], interfaces: &[u32]| {
            known.gone_after_look(Ok(addresses(found)), |index| interfaces.contains(&index))
        };
        assert_eq!(look(&[], &[]), None, "a machine without a network lacks nothing");
        assert_eq!(look(&[], &[2]), None, "an interface that had no address yet");
        assert_eq!(look(&[(1, 2), (2, 3)], &[2, 3]), None);
        assert_eq!(look(&[], &[2, 3]), None, "a cable that was pulled, a lease that was lost");
        assert_eq!(look(&[], &[3]), None, "one interface of two is left");
        assert_eq!(look(&[], &[]).as_deref(), Some("10.9.0.1, 10.9.0.2"));
        assert_eq!(look(&[], &[7]).as_deref(), Some("10.9.0.1, 10.9.0.2"), "another one that has no address");
        assert_eq!(look(&[(3, 8)], &[8]), None, "a network that was built anew");
        assert_eq!(look(&[], &[]).as_deref(), Some("10.9.0.3"), "the last addresses count");
        let refused = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(known.gone_after_look(refused, |_| false), None, "a look that failed says nothing");
    }

    #[test]
    fn one_answer_begins_the_silence_anew() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let mut note = |is_silent, seconds| silence.note(is_silent, start + Duration::from_secs(seconds));
        let notes = [(true, 0), (true, 9), (false, 10), (true, 11), (true, 20), (true, 21), (true, 22)];
        let ends = notes.map(|(is_silent, seconds)| note(is_silent, seconds));
        assert_eq!(ends, [false, false, false, false, false, true, true]);
    }

    fn opened(text: &str) -> OpenedRegistry {
        let loaded = load(Some(("test.yaml", text)), &Environment::default(), &Overrides::default());
        registry::open(&loaded.unwrap().config.registry, &prometheus::Registry::new()).unwrap()
    }

    /// Its registered name and address are those of a namespace that is dead.
    fn app_on(port: u16) -> AppAddress {
        AppAddress {
            port,
            only: Some("192.0.2.1".to_owned()),
            registered: Some("orders-1.invalid".to_owned()),
        }
    }

    #[tokio::test]
    async fn an_agent_or_an_app_that_accepts_connections_is_no_silence() {
        let open = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let open = open.local_addr().unwrap().port();
        let (closed_agent, closed_app) = (reserve_addr().port(), reserve_addr().port());
        for (agent, app, is_silent) in [
            (closed_agent, None, true),
            (open, None, false),
            (closed_agent, Some(closed_app), true),
            (closed_agent, Some(open), false),
            (open, Some(closed_app), false),
        ] {
            let registry =
                opened(&format!("registry: {{consul: {{address: \"http://127.0.0.1:{agent}\"}}}}"));
            let silent = silent_peers(&registry, app.map(app_on).into_iter().collect()).await;
            assert_eq!(silent.is_some(), is_silent, "{agent} {app:?}: {silent:?}");
            if let Some(text) = silent {
                assert!(text.contains(&format!("127.0.0.1:{closed_agent}")), "{text}");
                assert_eq!(text.contains(&format!("port {closed_app}")), app.is_some(), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_concluded_where_there_is_nothing_to_ask() {
        let closed = reserve_addr().port();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "services: {}\n").unwrap();
        let registry = opened(&format!("registry: {{file: {}}}", file.path().display()));
        assert_eq!(silent_peers(&registry, Vec::new()).await, None);
        let expected = format!("the app does not answer on port {closed}");
        assert_eq!(silent_peers(&registry, vec![app_on(closed)]).await, Some(expected));
    }
}
