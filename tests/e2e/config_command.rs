//! `outrigger config`: documents are checked, written, reverted and followed to the sidecars that apply them.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use outrigger_registry::{Consistency, Cursor, Kv, KvScope};
use outrigger_tests::{consul, process::run_outrigger, wait};
use serde_json::Value;

use crate::{
    app::start_router,
    receipts::{ACL, DENY_KEYS, TestKv, create_token},
};

/// The commands against one registry.
struct Operator {
    registry: SocketAddr,
    folder: tempfile::TempDir,
    /// Flags of every command.
    flags: Vec<String>,
}

impl Operator {
    fn new(registry: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { registry, folder, flags: vec!["--prefix".into(), "team".into()] }
    }

    fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("document.yaml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs `outrigger config`; the words of `line`, and a file.
    async fn run_with(&self, line: &str, file: Option<&Path>) -> CommandEnd {
        let url = format!("http://{}", self.registry);
        let file = file.map(|file| file.display().to_string());
        let mut arguments = vec!["config"];
        arguments.extend(line.split_whitespace());
        arguments.extend(file.as_deref());
        arguments.extend(["--consul", url.as_str()]);
        arguments.extend(self.flags.iter().map(String::as_str));
        CommandEnd(run_outrigger(&arguments).await)
    }

    async fn run(&self, line: &str) -> CommandEnd {
        self.run_with(line, None).await
    }

    /// `put KEY FILE` with this text, and further words.
    async fn put(&self, key: &str, text: &str, more: &str) -> CommandEnd {
        let file = self.file(text);
        self.run_with(&format!("put {more} {key}"), Some(&file)).await
    }
}

struct CommandEnd(Output);

impl CommandEnd {
    fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// The exit code, stdout and stderr.
    #[track_caller]
    fn assert_code(&self, code: i32) -> (String, String) {
        let (stdout, stderr) = (self.stdout(), self.stderr());
        assert_eq!(self.0.status.code(), Some(code), "{stdout}\n{stderr}");
        (stdout, stderr)
    }

    /// The index in the last line, which is `written: KEY@INDEX`.
    #[track_caller]
    fn written(&self) -> u64 {
        let (stdout, _) = self.assert_code(0);
        let last = stdout.lines().last().unwrap_or_default();
        let index = last.strip_prefix("written: ").and_then(|place| place.rsplit_once('@'));
        index.unwrap_or_else(|| panic!("{stdout}")).1.parse().unwrap()
    }
}

/// Every key below `team/`, with its text.
async fn keys(kv: &TestKv) -> Vec<(String, String)> {
    let scope = KvScope::Prefix("team/");
    let read = kv.0.watch_kv(scope, Cursor::START, Consistency::Default, wait::TIMEOUT).await.unwrap();
    let entry = |entry: outrigger_registry::KvEntry| (entry.key, String::from_utf8(entry.value).unwrap());
    read.entries.into_iter().map(entry).collect()
}

async fn text(kv: &TestKv, key: &str) -> Option<String> {
    keys(kv).await.into_iter().find(|(known, _)| known == key).map(|(_, text)| text)
}

on_both_registries! {
    init: super::init_writes_its_key_once;
    written: super::a_document_is_checked_and_shown_and_written_once;
    races: super::a_document_that_another_program_has_written_is_not_written_over;
    reverted: super::earlier_versions_are_kept_and_can_be_had_again;
    status: super::the_status_is_applied_or_refused_or_not_answered;
}

async fn init_writes_its_key_once(registry: SocketAddr) {
    let (operator, kv) = (Operator::new(registry), TestKv::new(registry, None));
    let (_, stderr) = operator.put("defaults", "timeout: 1s\n", "--dry-run").await.assert_code(0);
    assert!(stderr.contains("team/settings/.outrigger is not there") && stderr.contains("config init"));
    let (_, stderr) = operator.run("status --at-least 0").await.assert_code(0);
    assert!(stderr.contains("config init"), "{stderr}");
    let (first, _) = operator.run("init").await.assert_code(0);
    assert_eq!(first, "written: team/settings/.outrigger\n");
    let (again, _) = operator.run("init").await.assert_code(0);
    assert!(again.starts_with("unchanged:"), "{again}");
    assert_eq!(keys(&kv).await.len(), 1);
    let (_, stderr) = operator.put("defaults", "timeout: 1s\n", "--dry-run").await.assert_code(0);
    assert_eq!(stderr, "");
}

async fn a_document_is_checked_and_shown_and_written_once(registry: SocketAddr) {
    let (operator, kv) = (Operator::new(registry), TestKv::new(registry, None));
    // A problem has its place, and nothing is written.
    let (stdout, stderr) =
        operator.put("services/orders", "timeout: 2s\nretry: {max_retries: many}\n", "").await.assert_code(2);
    let place =
        format!("{}:2:22 retry.max_retries: ", operator.folder.path().join("document.yaml").display());
    assert!(stderr.starts_with(&place) && stdout.is_empty(), "{stderr}");
    let (_, stderr) = operator.put("services/orders", "timeuot: 2s\n", "").await.assert_code(2);
    assert!(stderr.contains("timeout"), "{stderr}");
    let (_, stderr) = operator.put("service/orders", "timeout: 2s\n", "").await.assert_code(2);
    assert!(stderr.contains("services/NAME"), "{stderr}");
    let (_, stderr) = operator.run("put services/orders /no/such/file").await.assert_code(2);
    assert!(stderr.contains("/no/such/file"), "{stderr}");
    let (stdout, _) = operator.put("services/orders", "timeout: 2s\n", "--dry-run").await.assert_code(0);
    assert!(stdout.contains("+timeout: 2s\n") && stdout.contains("nothing is written"), "{stdout}");
    assert_eq!(keys(&kv).await, []);

    let written = operator.put("settings/services/orders", "timeout: 2s\nmax_pending: 7\n", "").await;
    let first = written.written();
    assert_eq!(kv.index("team/settings/services/orders").await, first);
    let (stdout, _) =
        operator.put("services/orders", "timeout: 3s\nmax_pending: 7\n", "").await.assert_code(0);
    let head = format!("--- team/settings/services/orders@{first}\n+++ ");
    let change = "@@ -1,2 +1,2 @@\n-timeout: 2s\n+timeout: 3s\n max_pending: 7\n";
    assert!(stdout.starts_with(&head) && stdout.contains(change), "{stdout}");
    let second = kv.index("team/settings/services/orders").await;
    let (stdout, _) =
        operator.put("services/orders", "timeout: 3s\nmax_pending: 7\n", "").await.assert_code(0);
    assert_eq!(stdout, format!("unchanged: team/settings/services/orders@{second}\n"));
    assert_eq!(kv.index("team/settings/services/orders").await, second);

    // get prints the text as it is.
    let (stdout, _) = operator.run("get services/orders").await.assert_code(0);
    assert_eq!(stdout, "timeout: 3s\nmax_pending: 7\n");
    let (stdout, _) = operator.run(&format!("get services/orders --index {first}")).await.assert_code(0);
    assert_eq!(stdout, "timeout: 2s\nmax_pending: 7\n");
    operator.run("get services/nothing").await.assert_code(1);
    operator.run("get services/orders --index 1").await.assert_code(1);
    let same = operator.file("timeout: 3s\nmax_pending: 7\n");
    let (stdout, _) = operator.run_with("diff services/orders", Some(&same)).await.assert_code(0);
    assert_eq!(stdout, "");
    let other = operator.file("timeout: 4s\nmax_pending: 7\n");
    let (stdout, _) = operator.run_with("diff services/orders", Some(&other)).await.assert_code(1);
    assert!(stdout.contains("-timeout: 3s\n+timeout: 4s\n"), "{stdout}");
    operator.run_with("diff services/nothing", Some(&other)).await.assert_code(1);

    // By the rules of a settings file, and its prefix is used.
    let settings = operator.folder.path().join("outrigger.yaml");
    std::fs::write(&settings, "dynamic_config: {prefix: team, bounds: {timeout: 1s..5s}}\n").unwrap();
    let bounded = Operator { flags: vec!["-c".into(), settings.display().to_string()], ..operator };
    let (_, stderr) = bounded.put("services/orders", "timeout: 6s\n", "").await.assert_code(2);
    assert!(stderr.contains("outside of dynamic_config.bounds"), "{stderr}");
    bounded.put("services/orders", "timeout: 4s\n", "").await.written();
}

async fn a_document_that_another_program_has_written_is_not_written_over(registry: SocketAddr) {
    let (operator, kv) = (Operator::new(registry), TestKv::new(registry, None));
    let first = operator.put("defaults", "timeout: 2s\n", "--at 0").await.written();
    kv.put("team/settings/defaults", "timeout: 9s\n").await;
    let (_, stderr) =
        operator.put("defaults", "timeout: 3s\n", &format!("--at {first}")).await.assert_code(1);
    assert!(stderr.contains("nothing is written") && stderr.contains(&format!("not {first}")), "{stderr}");
    operator.put("defaults", "timeout: 3s\n", "--at 0").await.assert_code(1);
    assert_eq!(text(&kv, "team/settings/defaults").await.as_deref(), Some("timeout: 9s\n"));
    // Many at once: each that is written has kept the one before it.
    let operators: Vec<_> = (0..6).map(|_| Operator::new(registry)).collect();
    let puts = operators.iter().enumerate().map(|(n, operator)| async move {
        operator.put("defaults", &format!("timeout: {}s\n", 20 + n), "").await.0.status.success()
    });
    let done = futures_util::future::join_all(puts).await;
    let written = done.iter().filter(|done| **done).count();
    let kept = keys(&kv).await.iter().filter(|(key, _)| key.starts_with("team/history/defaults/")).count();
    assert!(written >= 1 && kept == written, "{written} were written, {kept} are kept");
    let present = text(&kv, "team/settings/defaults").await.unwrap();
    assert!(done.iter().enumerate().any(|(n, done)| *done && present == format!("timeout: {}s\n", 20 + n)));
}

async fn earlier_versions_are_kept_and_can_be_had_again(registry: SocketAddr) {
    let (operator, kv) = (Operator::new(registry), TestKv::new(registry, None));
    let (_, stderr) = operator.run("revert services/orders").await.assert_code(1);
    assert!(
        stderr.contains("there is no document team/settings/services/orders, and no earlier version")
            && stderr.contains("`outrigger config put services/orders FILE`"),
        "{stderr}"
    );
    // Another program has written it, with flags of its own, which stay.
    let flagged = kv.0.put_kv("team/settings/services/flagged", b"timeout: 1s\n", 42, None).await.unwrap();
    assert!(flagged);
    let (_, stderr) = operator.run("revert services/flagged").await.assert_code(1);
    assert!(stderr.contains("is at index ") && stderr.contains("outrigger config delete"), "{stderr}");
    operator.put("services/flagged", "timeout: 2s\n", "").await.written();
    operator.run("revert services/flagged").await.written();
    let scope = KvScope::Key("team/settings/services/flagged");
    let read = kv.0.watch_kv(scope, Cursor::START, Consistency::Default, wait::TIMEOUT).await.unwrap();
    assert_eq!((read.entries[0].flags, &*read.entries[0].value), (42, &b"timeout: 1s\n"[..]));
    // Also where nothing is there to keep them.
    operator.run("delete services/flagged").await.assert_code(0);
    operator.run("revert services/flagged").await.written();
    let read = kv.0.watch_kv(scope, Cursor::START, Consistency::Default, wait::TIMEOUT).await.unwrap();
    assert_eq!((read.entries[0].flags, &*read.entries[0].value), (42, &b"timeout: 1s\n"[..]));
    operator.put("services/flagged", "timeout: 2s\n", "").await.written();
    operator.run("revert services/flagged").await.written();
    // The newest earlier version may have the text of the present one.
    kv.put("team/settings/services/flagged", "timeout: 2s\n").await;
    let (stdout, _) = operator.run("revert services/flagged").await.assert_code(0);
    assert!(stdout.starts_with("unchanged: ") && stdout.contains("--to INDEX"), "{stdout}");
    let mut indexes = Vec::new();
    for n in 1..=13 {
        indexes.push(operator.put("services/orders", &format!("timeout: {n}s\n"), "").await.written());
    }
    let history = async || {
        let all = keys(&kv).await.into_iter();
        all.filter(|(key, _)| key.starts_with("team/history/services/orders/"))
            .map(|(key, _)| key)
            .collect::<Vec<_>>()
    };
    let mut expected: Vec<_> =
        indexes[2..12].iter().map(|index| format!("team/history/services/orders/{index}")).collect();
    expected.sort();
    assert_eq!(history().await, expected, "the last ten");
    let (stdout, _) = operator.run("get services/orders --history").await.assert_code(0);
    assert_eq!(stdout.lines().count(), 11, "{stdout}");
    assert!(stdout.lines().next().unwrap().contains("in place"), "{stdout}");

    let (stdout, _) = operator.run("revert services/orders --dry-run").await.assert_code(0);
    assert!(stdout.contains("-timeout: 13s\n+timeout: 12s\n"), "{stdout}");
    operator.run("revert services/orders").await.written();
    assert_eq!(text(&kv, "team/settings/services/orders").await.as_deref(), Some("timeout: 12s\n"));
    // The version that was reverted is kept, too.
    operator.run("revert services/orders").await.written();
    assert_eq!(text(&kv, "team/settings/services/orders").await.as_deref(), Some("timeout: 13s\n"));
    operator.run(&format!("revert services/orders --to {}", indexes[6])).await.written();
    assert_eq!(text(&kv, "team/settings/services/orders").await.as_deref(), Some("timeout: 7s\n"));
    let (_, stderr) = operator.run("revert services/orders --to 1").await.assert_code(1);
    let present = kv.index("team/settings/services/orders").await;
    let is_there = format!(
        "team/settings/services/orders is at index {present}, and no version 1 of it is kept; --to takes one of "
    );
    assert!(stderr.contains(&is_there), "{stderr}");
    let (stdout, _) = operator.run(&format!("revert services/orders --to {present}")).await.assert_code(0);
    assert_eq!(
        stdout,
        format!("unchanged: team/settings/services/orders@{present} is the present version\n")
    );
    assert_eq!(history().await.len(), 10);

    let (stdout, _) = operator.run("delete services/orders").await.assert_code(0);
    assert!(
        stdout.contains("-timeout: 7s\n") && stdout.ends_with("deleted: team/settings/services/orders\n")
    );
    assert_eq!(text(&kv, "team/settings/services/orders").await, None);
    operator.run("delete services/orders").await.assert_code(1);
    let (_, stderr) = operator.run("revert services/orders --to 1").await.assert_code(1);
    assert!(
        stderr.contains("there is no document team/settings/services/orders, and no version 1"),
        "{stderr}"
    );
    operator.run("revert services/orders").await.written();
    assert_eq!(text(&kv, "team/settings/services/orders").await.as_deref(), Some("timeout: 7s\n"));
    // A version that may not be written any more is refused at its place.
    kv.put("team/history/services/orders/3", "timeout: never\n").await;
    let (_, stderr) = operator.run("revert services/orders --to 3").await.assert_code(2);
    assert!(stderr.starts_with("kv:team/settings/services/orders@3:1:10 timeout: "), "{stderr}");
    // Of a document that was written otherwise, only the versions that the command replaced are kept.
    kv.put("team/settings/services/orders", &"#".repeat(70_000)).await;
    let ended = operator.put("services/orders", "timeout: 1s\n", "").await;
    ended.written();
    assert!(ended.stderr().contains("not kept"), "{}", ended.stderr());
}

async fn the_status_is_applied_or_refused_or_not_answered(registry: SocketAddr) {
    let (operator, kv) = (Operator::new(registry), TestKv::new(registry, None));
    operator.run("init").await.assert_code(0);
    operator.run("status services/orders").await.assert_code(1);
    let index = operator.put("services/orders", "timeout: 2s\n", "").await.written();
    let (stdout, stderr) = operator.run("status services/orders --wait --timeout 300ms").await.assert_code(3);
    assert!(stdout.contains("no sidecar") && stderr.contains("team/receipts/"), "{stdout}{stderr}");
    operator.run("status services/orders --at-least 0").await.assert_code(0);

    let settings = "dynamic_config: {prefix: team, bounds: {timeout: 1s..5s}}";
    let (narrow, _) = start_router(registry, settings).await;
    let (wide, _) = start_router(registry, "dynamic_config: {prefix: team}").await;
    let (stdout, _) = operator.run("status --wait --at-least 2 services/orders").await.assert_code(0);
    assert!(stdout.starts_with(&format!("team/settings/services/orders@{index}: 2 applied\n")), "{stdout}");
    let (stdout, _) = operator.run("status --json").await.assert_code(0);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (&shown["sidecars"], &shown["documents"][0]["sidecars"][0]["state"]),
        (&2.into(), &"applied".into())
    );

    let index = operator.put("services/orders", "timeout: 9s\n", "").await.written();
    let (stdout, stderr) = operator.run("status services/orders --wait").await.assert_code(1);
    assert!(stdout.contains("refused, version") && stderr.contains("refuses"), "{stdout}{stderr}");
    let problem = format!("kv:team/settings/services/orders@{index}:1:10 timeout: ");
    assert!(stdout.contains(&problem), "{stdout}");
    operator.run("revert services/orders").await.written();
    operator.run("status services/orders --wait").await.assert_code(0);
    // A sidecar with a document of another version has not answered. Its receipt comes after up to 2 s.
    wide.shutdown().await;
    narrow.shutdown().await;
    assert_eq!(kv.receipts().await, []);
    let stale = r#"{"index":1,"version":"1","documents":{"services/orders":{"index":1,"state":"applied"}}}"#;
    kv.put("team/receipts/shop/shop-1", stale).await;
    let (stdout, _) = operator.run("status services/orders").await.assert_code(3);
    assert!(stdout.contains("shop/shop-1  pending, it has seen version 1"), "{stdout}");
    // Deleted: gone when no receipt has it.
    operator.run("delete services/orders").await.assert_code(0);
    let (stdout, _) = operator.run("status services/orders").await.assert_code(3);
    assert!(stdout.contains("(deleted): 1 pending"), "{stdout}");
    kv.put("team/receipts/shop/shop-1", r#"{"index":0,"version":"1","documents":{}}"#).await;
    operator.run("status services/orders").await.assert_code(0);
    // A wait ends with the receipt that it waits for.
    let index = operator.put("services/orders", "timeout: 2s\n", "").await.written();
    let answer = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let receipt = format!(
            "{{\"index\":{index},\"version\":\"1\",\"documents\":{{\"services/orders\":{{\"index\":{index},\"state\":\"applied\"}}}}}}"
        );
        kv.put("team/receipts/shop/shop-1", &receipt).await;
    };
    let (ended, ()) = tokio::join!(operator.run("status services/orders --wait --timeout 60s"), answer);
    ended.assert_code(0);
}

/// An agent that takes connections and never answers.
#[tokio::test]
async fn a_wait_ends_in_time_where_the_agent_does_not_answer() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let operator = Operator::new(silent.local_addr().unwrap());
    let since = tokio::time::Instant::now();
    let (_, stderr) = operator.run("status --wait --timeout 2s").await.assert_code(3);
    let why = format!("after 2s, Consul at http://{} does not answer", operator.registry);
    assert!(stderr.contains(&why) && stderr.contains("--timeout"), "{stderr}");
    let took = since.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_wait_goes_on_while_no_agent_runs() {
    let operator = Operator::new(outrigger_net::reserve_addr());
    let since = tokio::time::Instant::now();
    let (_, stderr) = operator.run("status --wait --timeout 2s").await.assert_code(3);
    let why = format!("after 2s, Consul at http://{} does not answer: connect to", operator.registry);
    assert!(stderr.contains(&why), "{stderr}");
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
    // One that is started meanwhile is asked.
    let options = outrigger_devregistry::DevRegistryOptions::default();
    let start = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        outrigger_devregistry::DevRegistry::bind(operator.registry, options).await.unwrap()
    };
    let (ended, _registry) = tokio::join!(operator.run("status --wait --timeout 60s --at-least 0"), start);
    let (stdout, _) = ended.assert_code(0);
    assert!(stdout.contains("there is no document"), "{stdout}");
}

#[tokio::test]
async fn without_consul_and_without_the_rights_the_commands_say_so() {
    let operator = Operator::new(outrigger_net::reserve_addr());
    for line in ["init", "get defaults", "status", "revert defaults", "delete defaults"] {
        let (_, stderr) = operator.run(line).await.assert_code(1);
        let address = format!("Consul at http://{} does not answer: connect to", operator.registry);
        assert!(stderr.contains(&address), "{line}: {stderr}");
    }
    if !consul::available("the policies of the documents for an operator") {
        return;
    }
    let consul = consul::Consul::server_with(ACL).await.expect("a server");
    // As in docs/dynamic-configuration.md.
    let rules = "key_prefix \"team/settings/\" { policy = \"write\" }\nkey_prefix \"team/history/\" { policy = \"write\" }\n\
                 key_prefix \"team/receipts/\" { policy = \"read\" }\n";
    let allowed = create_token(&consul, "operator", &format!("{DENY_KEYS}{rules}")).await;
    let denied = create_token(&consul, "nothing", DENY_KEYS).await;
    let mut operator = Operator::new(consul.http_addr());
    let token = operator.folder.path().join("token");
    operator.flags.extend(["--token-file".to_owned(), token.display().to_string()]);
    std::fs::write(&token, denied).unwrap();
    for line in ["init", "get defaults", "status", "status defaults", "revert defaults", "delete defaults"] {
        let (_, stderr) = operator.run(line).await.assert_code(1);
        assert!(stderr.contains("403") && stderr.contains("key_prefix"), "{line}: {stderr}");
    }
    let (_, stderr) = operator.put("defaults", "timeout: 1s\n", "").await.assert_code(1);
    assert!(stderr.contains("403"), "{stderr}");
    std::fs::write(&token, &allowed).unwrap();
    operator.run("init").await.assert_code(0);
    operator.put("defaults", "timeout: 1s\n", "").await.written();
    operator.put("defaults", "timeout: 2s\n", "").await.written();
    operator.run("revert defaults").await.written();
    operator.run("get defaults --history").await.assert_code(0);
    let settings = "key_prefix \"team/settings/\" { policy = \"write\" }\n";
    let no_history = create_token(&consul, "settings", &format!("{DENY_KEYS}{settings}")).await;
    std::fs::write(&token, no_history).unwrap();
    for line in ["get defaults --history", "revert defaults"] {
        let (_, stderr) = operator.run(line).await.assert_code(1);
        assert!(stderr.contains("403"), "{line}: {stderr}");
    }
    std::fs::write(&token, allowed).unwrap();
    operator.run("delete defaults").await.assert_code(0);
    let root = TestKv::new(consul.http_addr(), Some("root"));
    root.put("team/receipts/a/b", r#"{"index":0,"version":"1","documents":{}}"#).await;
    let (stdout, _) = operator.run("status").await.assert_code(0);
    assert!(stdout.contains("no document"), "{stdout}");
}
