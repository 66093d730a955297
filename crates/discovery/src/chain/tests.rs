//! When a chain is asked for, and what a failure changes.

use std::{collections::VecDeque, path::Path};

use outrigger_registry::{
    AnswerFuture, ChainAnswer, Consistency, Query, WatchAnswer,
    chain::{Node, ResolverNode, Target},
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::*;

/// A registry that answers about chains at once, and notes when it was asked. Without an answer left it never answers.
#[derive(Debug, Default)]
struct Chains {
    answers: Mutex<VecDeque<Result<ChainAnswer, Error>>>,
    asked: Mutex<Vec<(Instant, Cursor)>>,
}

impl Registry for Chains {
    fn watch<'a>(
        &'a self,
        _: &'a Query,
        _: Cursor,
        _: Consistency,
        _: Duration,
    ) -> AnswerFuture<'a, WatchAnswer> {
        Box::pin(std::future::pending())
    }

    fn watch_chain<'a>(
        &'a self,
        _: &'a str,
        cursor: Cursor,
        _: Duration,
    ) -> Option<AnswerFuture<'a, ChainAnswer>> {
        self.asked.lock().push((Instant::now(), cursor));
        let answer = self.answers.lock().pop_front();
        Some(Box::pin(async {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }))
    }

    fn longest_wait(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// A chain that sends everything to this service.
fn chain(to: &str, index: u64) -> Result<ChainAnswer, Error> {
    let resolver = ResolverNode { target: "t".to_owned(), ..ResolverNode::default() };
    let node = Node { resolver: Some(resolver), ..Node::default() };
    let target = Target { service: to.to_owned(), ..Target::default() };
    let chain = Chain {
        service_name: "orders".to_owned(),
        start_node: "n".to_owned(),
        nodes: [("n".to_owned(), node)].into(),
        targets: [("t".to_owned(), target)].into(),
        ..Chain::default()
    };
    Ok(ChainAnswer { chain, cursor: Cursor::at(index) })
}

fn refused(status: u16) -> Result<ChainAnswer, Error> {
    refused_because(status, "no")
}

fn refused_because(status: u16, text: &str) -> Result<ChainAnswer, Error> {
    Err(Error::Refused { request: "GET /".to_owned(), status, text: text.to_owned(), hint: None })
}

fn follow(answers: impl IntoIterator<Item = Result<ChainAnswer, Error>>) -> (ChainFollower, Arc<Chains>) {
    let registry =
        Arc::new(Chains { answers: Mutex::new(answers.into_iter().collect()), ..Chains::default() });
    (ChainFollower::new(registry.clone(), "orders".into(), None), registry)
}

/// A sidecar with this state file that gets these answers, and then none.
fn restart(folder: &Path, answers: impl IntoIterator<Item = Result<ChainAnswer, Error>>) -> ChainFollower {
    let cache = Arc::new(DiskCache::open(folder, "one", "here"));
    ChainFollower {
        cache: Some(cache.clone()),
        remembered: cache.load_chain(&"orders".into()),
        ..follow(answers).0
    }
}

/// Ends it, as a process ends.
async fn stop(follower: ChainFollower) {
    let stop = CancellationToken::new();
    stop.cancel();
    follower.cache.expect("a state file").run(stop).await;
}

fn target(news: &ChainNews) -> String {
    match news {
        ChainNews::Changed(rules) => rules.rules.exact_targets()[0].place.service.to_string(),
        ChainNews::Unavailable(why) => format!("unavailable: {why}"),
    }
}

#[tokio::test(start_paused = true)]
async fn equal_answers_are_no_news_and_a_service_is_asked_about_once_a_second() {
    let begun = Instant::now();
    let (mut follower, registry) = follow([chain("a", 5), chain("a", 6), chain("a", 7), chain("b", 8)]);
    assert_eq!(target(&follower.next().await), "a");
    assert_eq!(target(&follower.next().await), "b");
    let asked: Vec<_> =
        registry.asked.lock().iter().map(|(at, cursor)| (*at - begun, cursor.index())).collect();
    let second = Duration::from_secs(1);
    assert_eq!(asked, [(Duration::ZERO, 0), (second, 5), (2 * second, 6), (3 * second, 7)]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_keeps_the_last_chain_and_is_asked_about_more_and_more_seldom() {
    let failures = (0..20).map(|_| refused(500));
    let (mut follower, registry) = follow([chain("a", 5)].into_iter().chain(failures).chain([chain("b", 3)]));
    assert_eq!(target(&follower.next().await), "a");
    assert_eq!(target(&follower.next().await), "b", "no news of the failures");
    let asked = registry.asked.lock().clone();
    let pauses: Vec<_> = asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(pauses.iter().all(|pause| (INTERVAL..=BACKOFF.max).contains(pause)), "{pauses:?}");
    assert!(pauses.iter().skip(5).max() > Some(&Duration::from_secs(5)), "{pauses:?}");
    assert!(asked[2..].iter().all(|(_, cursor)| *cursor == Cursor::START));
}

#[tokio::test(start_paused = true)]
async fn without_any_chain_the_first_failure_is_news_and_a_refusal_is_asked_about_seldom() {
    // As a Consul 1.8.7 without Connect.
    let off = "Connect must be enabled in order to use this endpoint";
    let refusals = [400, 403, 404, 405].map(|status| (status, "no", 30));
    for (status, text, interval) in refusals.into_iter().chain([(500, "no", 1), (500, off, 30)]) {
        let begun = Instant::now();
        let (mut follower, registry) = follow([refused_because(status, text), chain("a", 5)]);
        assert!(target(&follower.next().await).starts_with("unavailable"));
        assert_eq!(target(&follower.next().await), "a");
        let second = registry.asked.lock()[1].0 - begun;
        assert_eq!(second, Duration::from_secs(interval), "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_while_the_registry_is_away_goes_on_with_the_last_chain() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = restart(folder.path(), [chain("a", 5), chain("b", 6)]);
    assert_eq!(target(&first.next().await), "a");
    assert_eq!(target(&first.next().await), "b");
    stop(first).await;
    // It is silent.
    let begun = Instant::now();
    let mut silent = restart(folder.path(), []);
    assert_eq!(target(&silent.next().await), "b");
    assert_eq!(begun.elapsed(), FIRST_ANSWER_WAIT);
    stop(silent).await;
    // It refuses.
    let begun = Instant::now();
    let mut refusing = restart(folder.path(), [refused(500), chain("b", 9), chain("c", 10)]);
    assert_eq!((target(&refusing.next().await), begun.elapsed()), ("b".to_owned(), Duration::ZERO));
    assert_eq!(target(&refusing.next().await), "c", "an equal answer is no news");
    stop(refusing).await;
    // An answer in time is newer.
    let mut quick = restart(folder.path(), [chain("d", 11)]);
    assert_eq!(target(&quick.next().await), "d");
    stop(quick).await;
    assert_eq!(target(&restart(folder.path(), []).next().await), "d");
}

#[tokio::test(start_paused = true)]
async fn a_restart_knows_the_last_good_filter_and_forgets_names_without_entries() {
    let folder = tempfile::tempdir().unwrap();
    let filtered = |filter: &str, index| {
        let mut answer = chain("a", index).unwrap();
        answer.chain.targets.get_mut("t").unwrap().subset.filter = filter.to_owned();
        Ok(answer)
    };
    let filter_of = |news: &ChainNews| {
        let ChainNews::Changed(rules) = news else { panic!("{news:?}") };
        let targets = rules.rules.exact_targets();
        targets[0].place.subset.as_ref().unwrap().filter.as_ref().unwrap().text().to_owned()
    };
    let (good, bad) = ("Service.Meta.version == 1", "Service.Meta.version = 1");
    let mut first = restart(folder.path(), [filtered(good, 5), filtered(bad, 6)]);
    assert_eq!(filter_of(&first.next().await), good);
    assert_eq!(filter_of(&first.next().await), good);
    stop(first).await;
    let mut silent = restart(folder.path(), []);
    assert_eq!(filter_of(&silent.next().await), good);
    stop(silent).await;
    let mut quick = restart(folder.path(), [filtered(bad, 7)]);
    assert_eq!(filter_of(&quick.next().await), good, "also where the first answer comes at once");
    stop(quick).await;
    let mut wrong = restart(folder.path(), [refused(500), filtered(bad, 7)]);
    assert_eq!(filter_of(&wrong.next().await), good);
    assert_eq!(filter_of(&wrong.next().await), good);
    // Its entries are deleted, and it has no instance.
    wrong = restart(tempfile::tempdir().unwrap().path(), [chain("orders", 8)]);
    wrong.next().await;
    let cache = wrong.cache.clone().unwrap();
    assert!(cache.load_chain(&"orders".into()).is_some());
    stop(wrong).await;
    assert!(cache.load_chain(&"orders".into()).is_none(), "a name may be made up");
}
