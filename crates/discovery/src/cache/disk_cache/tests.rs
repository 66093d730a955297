//! The file: its format, its mode, and the handling of files that cannot be used.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use outrigger_config::Weights;
use outrigger_registry::{CheckFacts, HealthStatus, InstanceFacts, InstanceId, NodeFacts, Unusable};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    cache::{
        format::{self, ContentError},
        state_file::StateFileError,
    },
    instances::sort_and_dedup,
};

const HERE: &str = "consul http://127.0.0.1:8500";
const DAY: Duration = Duration::from_secs(24 * 3600);

fn check(is_of_service: bool) -> CheckFacts {
    let (id, name, kind) = ("own".into(), "the app".into(), if is_of_service { "ttl" } else { "" }.into());
    CheckFacts { id, name, status: "warning".into(), kind, is_of_service }
}

fn instance(id: &str) -> Instance {
    Instance {
        id: InstanceId { datacenter: "dc1".into(), node: "n1".into(), id: id.into() },
        addr: Ok(([10, 0, 0, 1], 80).into()),
        named: None,
        facts: Arc::new(InstanceFacts {
            service: "orders".into(),
            address: "orders.internal".into(),
            port: 80,
            node: Arc::new(NodeFacts {
                address: "10.0.0.9".into(),
                meta: Arc::new([("zone".to_owned(), "a".to_owned())].into()),
            }),
            checks: [true, false].map(|is_of_service| Arc::new(check(is_of_service))).into(),
        }),
        tags: Arc::from(["v2".into()]),
        meta: Arc::new([("k".to_owned(), "\u{fc}\"\n".to_owned())].into()),
        weights: Weights { passing: 3, warning: 0 },
        status: HealthStatus::Warning,
        node_lost: false,
        draining: false,
        create_index: 7,
    }
}

fn record(service: &str, ids: &[&str], confirmed: Duration) -> ServiceRecord {
    let query = Query::new(service, Some("dc1".into()));
    ServiceRecord {
        query,
        instances: ids.iter().map(|id| instance(id)).collect(),
        index: 9,
        confirmed,
        is_estimate: false,
        presumed_gone: None,
        chain: None,
    }
}

struct TestFolder {
    folder: tempfile::TempDir,
}

impl TestFolder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn open(&self) -> StateFile {
        StateFile::open(self.folder.path(), "table", HERE).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("table.state")
    }

    /// A file as it is after `records` were saved.
    fn with(records: Vec<ServiceRecord>) -> Self {
        let place = Self::new();
        place.open().save(records, false);
        place
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.ends_with(".lock"))
            .collect();
        names.sort();
        names
    }
}

#[test]
fn what_was_saved_is_loaded() {
    let records = vec![record("orders", &["a", "b"], DAY), record("payments", &["p"], 2 * DAY)];
    let place = TestFolder::with(records.clone());
    assert_eq!(place.open().load(3 * DAY, MAX_AGE), records);
    assert_eq!(place.names(), ["table.state"], "nothing else is left behind");
}

#[test]
fn only_the_user_may_read_and_write_it() {
    let place = TestFolder::with(vec![record("orders", &["a"], DAY)]);
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let deep = place.folder.path().join("not/there/yet");
    StateFile::open(&deep, "table", HERE).unwrap();
    assert_eq!(fs::metadata(deep).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_file_that_can_only_be_read_is_read() {
    let records = vec![record("orders", &["a"], unix_time())];
    let place = TestFolder::with(records.clone());
    // A folder cannot be opened for writing, not even by root.
    let lock = place.folder.path().join("table.state.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let cache = DiskCache::open(place.folder.path(), "table", HERE);
    assert!(matches!(cache.file, CacheFile::Unusable));
    let cached = cache.load_cached(&records[0].query, now()).expect("cached");
    assert_eq!(cached.instances, records[0].instances);

    fs::write(place.path(), "rotten").unwrap();
    let cache = DiskCache::open(place.folder.path(), "table", HERE);
    assert!(cache.load_cached(&records[0].query, now()).is_none());
    assert_eq!(place.names(), ["table.state"], "a file without a lock is not renamed");
}

#[test]
fn an_instance_without_a_usable_address_is_not_kept() {
    let mut orders = record("orders", &["a", "b"], DAY);
    let bad = Instance { addr: Err(Unusable::Port(0)), ..instance("c") };
    orders.instances = orders.instances.iter().cloned().chain([bad]).collect();
    let place = TestFolder::with(vec![orders]);
    assert_eq!(place.open().load(DAY, MAX_AGE), [record("orders", &["a", "b"], DAY)]);
}

#[test]
fn an_answer_not_confirmed_for_a_week_is_not_used() {
    let place = TestFolder::with(vec![record("old", &["a"], DAY), record("new", &["b"], 2 * DAY)]);
    let mut file = place.open();
    assert_eq!(file.load(8 * DAY, MAX_AGE).len(), 2);
    assert_eq!(file.load(8 * DAY + Duration::from_millis(1), MAX_AGE), [record("new", &["b"], 2 * DAY)]);
    assert_eq!(file.load(Duration::ZERO, MAX_AGE).len(), 2, "a clock that went back makes no answer old");
}

#[test]
fn an_answer_from_the_future_is_used_and_its_age_is_unknown() {
    let tomorrow = unix_time() + DAY;
    let gone = PresumedGoneRecord { instances: Arc::from([instance("b")]), index: 3, at: tomorrow };
    let orders = ServiceRecord { presumed_gone: Some(gone), ..record("orders", &["a"], tomorrow) };
    let place = TestFolder::with(vec![orders.clone(), record("payments", &["p"], unix_time())]);
    let cache = DiskCache::open(place.folder.path(), "table", HERE);
    let cached = cache.load_cached(&orders.query, now()).unwrap();
    assert_eq!(cached.confirmed_at, None);
    assert_eq!(cached.instances, orders.instances, "whether \"b\" is gone for long is not known either");
    let payments = Query { service: "payments".into(), ..orders.query.clone() };
    assert!(cache.load_cached(&payments, now()).unwrap().confirmed_at.is_some());
    let part = Query { filter: Some("Service.Kind == x".into()), ..payments };
    assert!(cache.load_cached(&part, now()).is_none(), "a part of it is another list");
}

#[test]
fn an_answer_at_other_addresses_is_used_where_there_is_none_at_those_that_are_asked_for() {
    let at = |address, ids: &[&str]| {
        let record = record("orders", ids, unix_time());
        ServiceRecord { query: Query { address, ..record.query.clone() }, ..record }
    };
    let [auto, wan] = [at(AddressKind::Auto, &["a"]), at(AddressKind::Wan, &["a", "b"])];
    let ids = |records: Vec<ServiceRecord>, address| {
        let place = TestFolder::with(records);
        let cache = DiskCache::open(place.folder.path(), "table", HERE);
        cache.load_cached(&Query { address, ..auto.query.clone() }, now()).map(|one| one.instances.len())
    };
    let both = vec![auto.clone(), wan.clone()];
    assert_eq!(ids(both.clone(), AddressKind::Auto), Some(1));
    assert_eq!(ids(both, AddressKind::Wan), Some(2));
    assert_eq!(ids(vec![auto.clone()], AddressKind::Wan), Some(1));
    assert_eq!(ids(vec![wan], AddressKind::Lan), Some(2));
}

/// Opens the cache, lets it write what it has to, and closes it.
async fn run_once(place: &TestFolder, query: &Query) -> CachedAnswer {
    let cache = Arc::new(DiskCache::open(place.folder.path(), "table", HERE));
    let cached = cache.load_cached(query, now()).unwrap();
    let (stop, written) = (CancellationToken::new(), fs::read(place.path()).unwrap());
    let task = tokio::spawn(cache.clone().run(stop.clone()));
    // At once, because a crash writes nothing.
    let until = now() + Duration::from_secs(20);
    while fs::read(place.path()).unwrap() == written {
        assert!(now() < until, "nothing is written");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.cancel();
    task.await.unwrap();
    cached
}

#[tokio::test]
async fn an_answer_from_the_future_expires_a_week_after_it_was_first_read() {
    // Whole milliseconds, as in the file: the first read may be in the same one.
    let before = Duration::from_millis(u64::try_from(unix_time().as_millis()).unwrap());
    let far = before + 1000 * DAY;
    let gone = PresumedGoneRecord { instances: Arc::from([instance("b")]), index: 3, at: far };
    let orders = ServiceRecord { presumed_gone: Some(gone), ..record("orders", &["a"], far) };
    let place = TestFolder::with(vec![orders.clone()]);
    assert_eq!(run_once(&place, &orders.query).await.instances, orders.instances);
    let after = unix_time();
    let load = |unix_now| place.open().load(unix_now, MAX_AGE);
    let [kept] = &load(before + MAX_AGE)[..] else { panic!("one record") };
    assert!((before.as_millis()..=after.as_millis()).contains(&kept.confirmed.as_millis()), "{kept:?}");
    assert_eq!(load(after + MAX_AGE + Duration::from_millis(1)), []);
    // An instance that was presumed gone does not come back when that time comes.
    assert_eq!(kept.instances_to_serve(far).0, orders.instances);
    // The age stays unknown, and its week is not begun anew.
    let cache = DiskCache::open(place.folder.path(), "table", HERE);
    assert_eq!(cache.load_cached(&orders.query, now()).unwrap().confirmed_at, None);
    assert_eq!(cache.records()[0].confirmed, kept.confirmed);
}

#[test]
fn an_answer_that_becomes_too_old_while_the_process_runs_is_not_used_for_a_new_watch() {
    let orders = record("orders", &["a"], unix_time() - MAX_AGE + DAY);
    let place = TestFolder::with(vec![orders.clone()]);
    let cache = DiskCache::open(place.folder.path(), "table", HERE);
    assert!(cache.load_cached(&orders.query, now()).is_some());
    let older = ServiceRecord { confirmed: unix_time() - MAX_AGE - DAY, ..orders.clone() };
    cache.entries.lock().insert(orders.query.clone(), CacheEntry::Stored(older));
    assert!(cache.load_cached(&orders.query, now()).is_none());
}

#[test]
fn a_file_that_cannot_be_used_is_renamed_and_the_next_write_succeeds() {
    let good = format::encode(HERE, &[record("orders", &["a"], DAY)]).unwrap();
    let text = String::from_utf8(good.clone()).unwrap();
    let foreign = format::encode("consul http://elsewhere:8500", &[]).unwrap();
    for (content, aside) in [
        (Vec::new(), "damaged"),
        (b"\n".to_vec(), "damaged"),
        (vec![0xff; 4096], "damaged"),
        (good[..good.len() - 1].to_vec(), "damaged"),
        ([&good[..], b" "].concat(), "damaged"),
        (text.replace("10.0.0.1", "10.0.0.2").into_bytes(), "damaged"),
        (text.replacen("state 1", "state 2", 1).into_bytes(), "version"),
        (b"outrigger-state 9 something else entirely\n".to_vec(), "version"),
        (foreign, "foreign"),
    ] {
        let place = TestFolder::new();
        fs::write(place.path(), &content).unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o600)).unwrap();
        let mut file = place.open();
        assert_eq!(file.load(DAY, MAX_AGE), [], "{aside}");
        assert_eq!(place.names(), [format!("table.state.bad-{aside}")]);
        file.save(vec![record("orders", &["a"], DAY)], false);
        assert_eq!(file.load(DAY, MAX_AGE).len(), 1);
    }
}

#[test]
fn a_file_that_others_may_write_and_a_folder_in_its_place_are_foreign() {
    let place = TestFolder::with(vec![record("orders", &["a"], DAY)]);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o622)).unwrap();
    assert_eq!(place.open().load(DAY, MAX_AGE), []);
    assert_eq!(place.names(), ["table.state.bad-foreign"]);

    let place = TestFolder::new();
    fs::create_dir(place.path()).unwrap();
    assert_eq!(place.open().load(DAY, MAX_AGE), []);
    assert_eq!(place.names(), ["table.state.bad-foreign"]);
}

#[test]
fn a_link_in_the_place_of_the_file_is_foreign_and_is_not_followed() {
    let elsewhere = TestFolder::with(vec![record("orders", &["a"], DAY)]);
    for target in [elsewhere.path(), "/dev/zero".into(), "/no/such/file".into()] {
        let place = TestFolder::new();
        std::os::unix::fs::symlink(&target, place.path()).unwrap();
        assert_eq!(place.open().load(DAY, MAX_AGE), [], "{target:?}");
        assert_eq!(place.names(), ["table.state.bad-foreign"], "{target:?}");
    }
    assert_eq!(elsewhere.open().load(DAY, MAX_AGE).len(), 1, "it was left alone");
}

#[test]
fn a_link_in_the_place_of_the_lock_is_refused() {
    let place = TestFolder::new();
    let victim = place.folder.path().join("victim");
    for exists in [false, true] {
        if exists {
            fs::write(&victim, "precious").unwrap();
        }
        let lock = place.folder.path().join("table.state.lock");
        let _ = fs::remove_file(&lock);
        std::os::unix::fs::symlink(&victim, lock).unwrap();
        let opened = StateFile::open(place.folder.path(), "table", HERE);
        assert!(matches!(opened, Err(StateFileError::NotAFile { .. })), "{opened:?}");
        assert_eq!(victim.exists(), exists, "nothing was created where the link points");
    }
}

#[test]
fn a_folder_in_which_others_may_replace_the_file_is_not_used() {
    let place = TestFolder::with(vec![record("orders", &["a"], unix_time())]);
    let folder = place.folder.path();
    // A folder of root that every user may write is an `emptyDir` of Kubernetes.
    let is_root_s = fs::metadata(folder).unwrap().uid() == 0;
    for (mode, used) in [(0o755, true), (0o2775, true), (0o1777, true), (0o777, is_root_s)] {
        fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        let cache = DiskCache::open(folder, "table", HERE);
        assert_eq!(matches!(cache.file, CacheFile::Own(_)), used, "{mode:o}");
        assert_eq!(cache.entries.lock().len(), usize::from(used), "{mode:o}");
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    // As Kubernetes leaves the files of a volume with an `fsGroup`.
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o660)).unwrap();
    assert_eq!(place.open().load(DAY, MAX_AGE).len(), 1);
    // Only root can give a file away.
    if std::os::unix::fs::chown(place.path(), Some(54_321), None).is_ok() {
        assert_eq!(place.open().load(DAY, MAX_AGE), []);
        assert_eq!(place.names(), ["table.state.bad-foreign"], "a file of another user");
        std::os::unix::fs::chown(folder, Some(54_321), None).unwrap();
        let opened = StateFile::open(folder, "table", HERE);
        assert!(matches!(opened, Err(StateFileError::Folder { .. })), "{opened:?}");
    }
}

/// The result of `work`. Fails after 30 s: opening a pipe may wait for its other end for ever.
fn run_with_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(work()));
    result.recv_timeout(Duration::from_secs(30)).expect("no wait for the other end of a pipe")
}

/// Without `mkfifo`, because a child process holds this process's locks between fork and exec.
fn make_pipe(path: &std::path::Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn a_pipe_in_the_place_of_the_file_is_foreign_and_does_not_block() {
    let place = TestFolder::new();
    make_pipe(&place.path());
    let mut file = place.open();
    assert_eq!(run_with_timeout(move || file.load(DAY, MAX_AGE)), []);
    assert_eq!(place.names(), ["table.state.bad-foreign"]);
}

#[test]
fn a_pipe_in_the_place_of_the_lock_is_refused() {
    let place = TestFolder::new();
    make_pipe(&place.folder.path().join("table.state.lock"));
    let folder = place.folder.path().to_owned();
    let opened = run_with_timeout(move || StateFile::open(&folder, "table", HERE));
    assert!(matches!(opened, Err(StateFileError::NotAFile { .. })), "{opened:?}");
}

#[test]
fn one_process_at_a_time_uses_the_file() {
    let place = TestFolder::new();
    let first = place.open();
    let second = StateFile::open(place.folder.path(), "table", HERE);
    assert!(matches!(second, Err(StateFileError::InUse { .. })));
    assert!(StateFile::open(place.folder.path(), "another", HERE).is_ok());
    drop(first);
    place.open();
}

#[test]
fn unchanged_content_is_written_again_only_to_refresh_its_ages() {
    let place = TestFolder::new();
    let mut file = place.open();
    let read = || fs::read(place.path()).ok();
    file.save(Vec::new(), false);
    assert_eq!(read(), None, "nothing to write");
    file.save(vec![record("orders", &["a"], DAY)], false);
    let first = read();
    file.save(vec![record("orders", &["a"], 2 * DAY)], false);
    assert_eq!(read(), first);
    file.save(vec![record("orders", &["a"], 2 * DAY)], true);
    assert_ne!(read(), first);
    file.save(Vec::new(), false);
    assert_eq!(file.load(DAY, MAX_AGE), [], "an empty content is written");
}

/// A cache that runs and has written the one service that it has.
struct RunningCache {
    cache: Arc<DiskCache>,
    service: Arc<Service>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl RunningCache {
    async fn start(place: &TestFolder) -> Self {
        let cache = Arc::new(DiskCache::open(place.folder.path(), "table", HERE));
        let service = Arc::new(Service::new(Query::new("orders", None)));
        service.update_watch_health(|health| health.confirmed_at = Some(now()));
        service.publish(Arc::from([instance("a")]), now());
        cache.record_change(&service);
        let stop = CancellationToken::new();
        let task = tokio::spawn(cache.clone().run(stop.clone()));
        tokio::time::sleep(MIN_WRITE_INTERVAL * 2).await;
        Self { cache, service, stop, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn changes_that_end_where_they_began_do_not_put_the_refresh_off() {
    let place = TestFolder::new();
    let running = RunningCache::start(&place).await;
    let path = place.path();
    let first = fs::read(&path).unwrap();
    let mut elapsed = Duration::ZERO;
    while elapsed <= REFRESH_INTERVAL {
        let pause = REFRESH_INTERVAL / 4;
        tokio::time::sleep(pause).await;
        elapsed += pause;
        running.cache.record_change(&running.service);
    }
    tokio::time::sleep(MIN_WRITE_INTERVAL * 2).await;
    assert_ne!(fs::read(&path).unwrap(), first, "the ages are those of the last write");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_is_tried_again_after_a_minute_and_not_each_second() {
    let place = TestFolder::new();
    let running = RunningCache::start(&place).await;
    let (first, blocked) = (fs::read(place.path()).unwrap(), place.folder.path().join("table.state.tmp"));
    fs::create_dir(&blocked).unwrap();
    tokio::time::sleep(REFRESH_INTERVAL).await;
    assert_eq!(fs::read(place.path()).unwrap(), first, "the refresh failed");
    fs::remove_dir(&blocked).unwrap();
    tokio::time::sleep(RETRY_INTERVAL / 2).await;
    assert_eq!(fs::read(place.path()).unwrap(), first);
    tokio::time::sleep(RETRY_INTERVAL).await;
    assert_ne!(fs::read(place.path()).unwrap(), first);
    running.stop().await;
}

#[test]
fn a_write_that_fails_keeps_the_old_file_and_the_next_write_succeeds() {
    let place = TestFolder::with(vec![record("orders", &["a"], DAY)]);
    let mut file = place.open();
    let blocked = place.folder.path().join("table.state.tmp");
    fs::create_dir(&blocked).unwrap();
    assert!(!file.save(vec![record("orders", &["b"], DAY)], false));
    assert_eq!(file.load(DAY, MAX_AGE), [record("orders", &["a"], DAY)]);
    fs::remove_dir(&blocked).unwrap();
    assert!(file.save(vec![record("orders", &["b"], DAY)], false));
    assert_eq!(file.load(DAY, MAX_AGE), [record("orders", &["b"], DAY)]);
}

#[test]
fn a_link_in_the_place_of_the_temporary_file_is_not_followed() {
    let place = TestFolder::new();
    let mut file = place.open();
    let victim = place.folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, place.folder.path().join("table.state.tmp")).unwrap();
    file.save(vec![record("orders", &["a"], DAY)], false);
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    assert_eq!(file.load(DAY, MAX_AGE).len(), 1);
}

#[test]
fn a_folder_that_cannot_be_created_is_an_empty_cache() {
    let place = TestFolder::new();
    fs::write(place.folder.path().join("file"), "").unwrap();
    let cache = DiskCache::open(&place.folder.path().join("file/below"), "table", HERE);
    assert!(matches!(cache.file, CacheFile::Unusable) && cache.entries.lock().is_empty());
}

fn records() -> impl Strategy<Value = Vec<ServiceRecord>> {
    let status = select(vec![
        HealthStatus::Passing,
        HealthStatus::Warning,
        HealthStatus::Critical,
        HealthStatus::Maintenance,
    ]);
    let one = ("[a-z]{1,8}", any::<[u8; 16]>(), any::<(u16, u64, u16, bool)>(), status, vec(".*", 0..3));
    let one = one.prop_map(|(id, ip, (port, life, weight, lost), status, words)| Instance {
        addr: Ok((ip, port).into()),
        named: None,
        tags: words.iter().map(|word| word.as_str().into()).collect(),
        meta: Arc::new(words.into_iter().map(|word| (word.clone(), word)).collect()),
        weights: Weights { passing: weight.max(1), warning: weight },
        status,
        node_lost: lost,
        draining: lost && status == HealthStatus::Critical,
        create_index: life,
        ..instance(&id)
    });
    let service =
        (vec(one, 0..5), ".*", any::<(u64, u32, bool)>()).prop_map(|(all, name, (index, ms, dc))| {
            let address = AddressKind::ALL[usize::try_from(index % 3).unwrap()];
            let query = Query { address, ..Query::new(name, dc.then(|| "dc2".into())) };
            let instances: Arc<[_]> = sort_and_dedup(all).into();
            let lost = dc.then(|| PresumedGoneRecord { instances: instances.clone(), index: 3, at: DAY });
            ServiceRecord {
                query,
                instances,
                index,
                confirmed: Duration::from_millis(ms.into()),
                is_estimate: ms % 2 == 0,
                presumed_gone: lost,
                chain: None,
            }
        });
    vec(service, 0..5)
}

/// Files of versions before the facts have none; what is known of them otherwise is filled in.
#[test]
fn a_file_without_facts_has_those_of_the_address() {
    let file = String::from_utf8(format::encode(HERE, &[record("orders", &["a"], DAY)]).unwrap()).unwrap();
    let (_, body) = file.split_once('\n').unwrap();
    let mut body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["services"][0]["instances"][0].as_object_mut().unwrap().remove("facts").unwrap();
    let body = body.to_string();
    let sum = body.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let older = format!("outrigger-state 1 {sum:016x} {}\n{body}", body.len());
    let read = format::decode(HERE, older.as_bytes()).unwrap();
    let facts = InstanceFacts {
        service: "orders".into(),
        address: "10.0.0.1".into(),
        port: 80,
        ..InstanceFacts::default()
    };
    assert_eq!(read[0].instances[0], Instance { facts: Arc::new(facts), ..instance("a") });
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(records in records(), registry: String) {
        let file = format::encode(&registry, &records).unwrap();
        prop_assert_eq!(format::decode(&registry, &file), Ok(records));
    }

    #[test]
    fn a_file_that_is_changed_or_cut_short_is_refused(records in records(), at: prop::sample::Index, by in 1_u8.., cut: bool) {
        let mut file = format::encode(HERE, &records).unwrap();
        let at = at.index(file.len());
        if cut { file.truncate(at) } else { file[at] ^= by }
        // The checksum may be in upper case as well.
        if let Ok(read) = format::decode(HERE, &file) { prop_assert_eq!(read, records) }
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let refused = matches!(format::decode(HERE, &bytes), Err(ContentError::Damaged(_) | ContentError::Version { .. }));
        prop_assert!(refused);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_of_the_earlier_process_is_read_at_once_and_written_when_that_has_ended() {
    let orders = record("orders", &["a"], unix_time());
    let place = TestFolder::with(vec![orders.clone()]);
    let earlier = place.open();
    let cache = Arc::new(DiskCache::open_after_another(place.folder.path(), "table", HERE));
    assert_eq!(cache.load_cached(&orders.query, now()).unwrap().instances, orders.instances);
    let stop = CancellationToken::new();
    let task = tokio::spawn(cache.clone().run(stop.clone()));
    let newer = record("orders", &["a", "b"], unix_time());
    cache.entries.lock().insert(newer.query.clone(), CacheEntry::Stored(newer.clone()));
    cache.changed.notify_one();
    tokio::time::sleep(10 * AWAITED_INTERVAL).await;
    let instances =
        |records: Vec<ServiceRecord>| records.into_iter().map(|one| one.instances).collect::<Vec<_>>();
    let read = || StateFile::read_of_another(place.folder.path(), "table", HERE, (unix_time(), MAX_AGE));
    assert_eq!(instances(read()), [orders.instances], "the earlier process alone writes it");
    drop(earlier);
    let place_of =
        FilePlace { folder: place.folder.path().into(), name: "table".into(), registry: HERE.into() };
    while place_of.open().is_ok() {
        tokio::time::sleep(AWAITED_INTERVAL).await;
    }
    stop.cancel();
    task.await.unwrap();
    assert_eq!(instances(read()), [newer.instances]);
}
