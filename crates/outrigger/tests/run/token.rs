//! Whether the app inherits the sidecar's Consul token.

use crate::harness::{SidecarBuilder, registry, wait_until};

/// The app's variables with a name in `CONSUL_` or `MY_`, and the warning in the log, with these settings.
async fn inherited(settings: &str, more: &[(&str, &str)]) -> (Vec<String>, bool) {
    let registry = registry().await;
    let mut sidecar = SidecarBuilder::new(&registry, settings);
    let seen = sidecar.dir.path().join("seen");
    let script = format!("env > {0}.tmp; mv {0}.tmp {0}; exec sleep 60", seen.display());
    sidecar.command.env("CONSUL_HTTP_TOKEN", "s3cret").env("MY_TOKEN", "s3cret").env("MY_OWN", "x");
    sidecar.command.envs(more.iter().copied());
    let sidecar = sidecar.with_app(&["sh", "-c", &script]).start();
    wait_until("the app has started", async || seen.exists()).await;
    // Later in the log than the warning.
    wait_until("the start is logged", async || sidecar.log().contains("started the app")).await;
    let environment = std::fs::read_to_string(&seen).unwrap();
    let mut names: Vec<_> = environment
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
        .filter(|name| name.starts_with("CONSUL_") || name.starts_with("MY_"))
        .collect();
    names.sort();
    assert!(!sidecar.log().contains("s3cret"), "a secret is never logged");
    (names, sidecar.log().contains("the app inherits the sidecar's Consul token; app.consul_token: drop"))
}

#[tokio::test]
async fn the_app_inherits_the_token_with_a_warning_unless_the_settings_say_which() {
    let all = ["CONSUL_HTTP_TOKEN", "MY_OWN", "MY_TOKEN"];
    let (names, warned) = inherited("", &[]).await;
    assert_eq!((names.iter().map(String::as_str).collect::<Vec<_>>(), warned), (all.into(), true));
    let (names, warned) = inherited("app: {consul_token: pass}", &[]).await;
    assert_eq!((names.iter().map(String::as_str).collect::<Vec<_>>(), warned), (all.into(), false));
    let (names, warned) = inherited("app: {consul_token: drop}", &[]).await;
    assert_eq!((names, warned), (vec!["MY_OWN".to_owned()], false));
    let (names, warned) = inherited("", &[("OUTRIGGER_APP_CONSUL_TOKEN", "drop")]).await;
    assert_eq!((names, warned), (vec!["MY_OWN".to_owned()], false));
}
