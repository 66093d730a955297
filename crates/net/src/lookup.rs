//! Host names to addresses, on threads of their own.
//!
//! The system's resolver blocks its thread, for half a minute and more where no name server answers. On the blocking threads of a
//! runtime, look-ups that hang would keep reads of files waiting, such as that of a token. Here they wait for each other only,
//! and a name that several callers ask for is looked up once.

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::{IpAddr, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

/// Most names that wait for a thread. More are refused.
const MAX_WAITING: usize = 4096;

/// The addresses of a name, in the order of the resolver and each once; or why there are none.
pub type Addresses = Result<Arc<[IpAddr]>, Arc<str>>;

/// What looks one name up. It may block.
type Resolve = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Looks names up, a few at a time.
pub struct Lookups(Arc<LookupShared>);

struct LookupShared {
    resolve: Box<Resolve>,
    most_threads: usize,
    state: Mutex<LookupState>,
}

#[derive(Default)]
struct LookupState {
    threads: usize,
    waiting: VecDeque<Arc<str>>,
    /// Names that wait, and those that are being looked up.
    pending: HashMap<Arc<str>, PendingLookup>,
}

struct PendingLookup {
    answer: watch::Sender<Option<Addresses>>,
    /// A caller has given it up.
    is_late: bool,
}

impl Lookups {
    /// Look-ups by the system, on at most `threads` threads. A thread ends when no name waits. An IPv4 address in the form of IPv6
    /// is that IPv4 address.
    pub fn new(threads: usize) -> Self {
        Self::with_resolver(threads, |name| {
            Ok((name, 0).to_socket_addrs()?.map(|addr| addr.ip().to_canonical()).collect())
        })
    }

    /// Look-ups by `resolve`, which may block.
    pub fn with_resolver(
        threads: usize,
        resolve: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static,
    ) -> Self {
        let (resolve, state) = (Box::new(resolve), Mutex::default());
        Self(Arc::new(LookupShared { resolve, most_threads: threads, state }))
    }

    /// The addresses of `name`. It may take as long as the resolver takes: call it with a time-out. A look-up goes on
    /// when its callers have given up, and the next caller joins it.
    ///
    /// # Errors
    /// The resolver's error, or that too many names wait.
    pub async fn look_up(&self, name: &str) -> Addresses {
        let mut answer = self.0.join(name)?;
        let found = answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        found.unwrap_or_else(|| Err("the look-up was given up".into()))
    }
}

impl Lookups {
    /// As [`Lookups::look_up`], for `longest` at most. `has_earlier`: the caller has addresses of an earlier look-up; then one that
    /// was given up once is not waited for again while it goes on, so that a resolver that hangs holds up one caller alone.
    /// `None`: it was not over in time.
    pub async fn look_up_within(
        &self,
        name: &str,
        longest: Duration,
        has_earlier: bool,
    ) -> Option<Addresses> {
        let is_late = self.0.state().pending.get(name).is_some_and(|pending| pending.is_late);
        let patience = if has_earlier && is_late { Duration::ZERO } else { longest };
        let found = timeout(patience, self.look_up(name)).await.ok();
        if found.is_none()
            && let Some(pending) = self.0.state().pending.get_mut(name)
        {
            pending.is_late = true;
        }
        found
    }
}

impl LookupShared {
    fn state(&self) -> MutexGuard<'_, LookupState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the look-up of `name`, or begins one.
    fn join(self: &Arc<Self>, name: &str) -> Result<watch::Receiver<Option<Addresses>>, Arc<str>> {
        let mut state = self.state();
        if let Some(pending) = state.pending.get(name) {
            return Ok(pending.answer.subscribe());
        }
        if state.waiting.len() >= MAX_WAITING {
            return Err("too many host names wait for the resolver".into());
        }
        if state.threads < self.most_threads {
            let shared = self.clone();
            let thread = thread::Builder::new().name("lookup".into());
            // Contained: a panic of the resolver is caught, and its name gets an error.
            match thread.spawn(move || shared.run()) {
                Ok(_) => state.threads += 1,
                Err(error) if state.threads == 0 => return Err(error.to_string().into()),
                // The threads that run take the name.
                Err(_) => {}
            }
        }
        let (name, (answer, receiver)) = (Arc::<str>::from(name), watch::channel(None));
        state.waiting.push_back(name.clone());
        state.pending.insert(name, PendingLookup { answer, is_late: false });
        Ok(receiver)
    }

    /// One thread.
    fn run(&self) {
        while let Some(name) = self.next_name() {
            let found = match catch_unwind(AssertUnwindSafe(|| (self.resolve)(&name))) {
                Ok(found) => found.map(each_once).map_err(|error| error.to_string().into()),
                Err(_) => Err("the resolver panicked".into()),
            };
            let pending = self.state().pending.remove(&name);
            if let Some(pending) = pending {
                pending.answer.send_replace(Some(found));
            }
        }
    }

    /// The name that has waited for longest. `None`: none waits, and the thread ends.
    fn next_name(&self) -> Option<Arc<str>> {
        let mut state = self.state();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.threads -= 1;
        }
        next
    }
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookups").field("pending", &self.0.state().pending.len()).finish_non_exhaustive()
    }
}

fn each_once(found: Vec<IpAddr>) -> Arc<[IpAddr]> {
    let mut addresses = Vec::with_capacity(found.len());
    for ip in found {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    addresses.into()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc,
    };

    use super::*;

    /// A resolver that finds the length of a name as the last part of an address, once `may_go` has an entry for it; and the
    /// number of look-ups that have begun.
    fn gated(threads: usize) -> (Arc<Lookups>, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (go, may_go) = mpsc::channel();
        let (may_go, begun) = (Mutex::new(may_go), Arc::new(AtomicUsize::new(0)));
        let counted = begun.clone();
        let lookups = Lookups::with_resolver(threads, move |name| {
            counted.fetch_add(1, SeqCst);
            let may_go = may_go.lock().unwrap_or_else(PoisonError::into_inner);
            may_go.recv().map_err(io::Error::other)?;
            Ok(vec![IpAddr::from([10, 0, 0, u8::try_from(name.len()).unwrap()]); 2])
        });
        (Arc::new(lookups), go, begun)
    }

    #[tokio::test]
    async fn a_name_that_several_ask_for_is_looked_up_once() {
        let (lookups, go, begun) = gated(4);
        let asked: Vec<_> = (0..5)
            .map(|_| {
                let lookups = lookups.clone();
                tokio::spawn(async move { lookups.look_up("orders").await })
            })
            .collect();
        while begun.load(SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // One that gives up, and one that comes later.
        assert!(timeout(Duration::ZERO, lookups.look_up("orders")).await.is_err());
        go.send(()).unwrap();
        for one in asked {
            assert_eq!(*one.await.unwrap().unwrap(), [IpAddr::from([10, 0, 0, 6])], "each address once");
        }
        assert_eq!(begun.load(SeqCst), 1);
        go.send(()).unwrap();
        lookups.look_up("orders").await.unwrap();
        assert_eq!(begun.load(SeqCst), 2, "nothing is kept");
    }

    #[tokio::test]
    async fn names_that_hang_hold_no_more_than_their_threads() {
        let (lookups, go, begun) = gated(2);
        let names: Vec<_> = (1..=20).map(|n| "x".repeat(n)).collect();
        for name in &names {
            assert!(timeout(Duration::ZERO, lookups.look_up(name)).await.is_err());
        }
        while begun.load(SeqCst) < 1 {
            tokio::task::yield_now().await;
        }
        assert!(lookups.0.state().threads <= 2);
        for _ in &names {
            go.send(()).unwrap();
        }
        for (n, name) in names.iter().enumerate() {
            // It is over, or is joined; a second one of an ended look-up needs its own turn.
            go.send(()).unwrap();
            let found = lookups.look_up(name).await.unwrap();
            assert_eq!(*found, [IpAddr::from([10, 0, 0, u8::try_from(n + 1).unwrap()])]);
        }
    }

    #[tokio::test]
    async fn a_look_up_that_was_given_up_is_not_waited_for_again_until_it_has_ended() {
        const LONG: Duration = Duration::from_secs(60);
        let (lookups, go, _) = gated(1);
        assert!(lookups.look_up_within("orders", Duration::from_millis(1), true).await.is_none());
        let since = tokio::time::Instant::now();
        assert!(lookups.look_up_within("orders", LONG, true).await.is_none());
        assert!(since.elapsed() < LONG / 2);
        // Without addresses of before there is nothing else to use.
        assert!(lookups.look_up_within("orders", Duration::from_millis(1), false).await.is_none());
        go.send(()).unwrap();
        while !lookups.0.state().pending.is_empty() {
            tokio::task::yield_now().await;
        }
        // The next one has its time, so that the addresses of before are not used for ever.
        go.send(()).unwrap();
        assert!(lookups.look_up_within("orders", LONG, true).await.is_some_and(|found| found.is_ok()));
    }

    #[tokio::test]
    async fn an_error_of_the_resolver_is_passed_on() {
        let lookups = Lookups::with_resolver(1, |_| Err(io::Error::other("no such name")));
        assert_eq!(lookups.look_up("orders").await.unwrap_err().as_ref(), "no such name");
    }

    #[tokio::test]
    async fn a_panic_of_the_resolver_is_an_error_of_its_name_alone() {
        let lookups = Lookups::with_resolver(1, |name| match name {
            "bad" => panic!("of the test"),
            _ => Ok(vec![IpAddr::from([10, 0, 0, 1])]),
        });
        assert_eq!(lookups.look_up("bad").await.unwrap_err().as_ref(), "the resolver panicked");
        assert!(lookups.look_up("good").await.is_ok());
    }

    #[tokio::test]
    async fn the_system_finds_this_machine() {
        let found = Lookups::new(1).look_up("localhost").await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
    }
}
