//! `discovery.mass_loss` and `state_dir`.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, time::Duration};

use outrigger_config::{Config, Environment, MassLoss, Overrides, load};

fn loaded(text: &str, env: &[(&str, &str)]) -> Config {
    let env: Environment = env.iter().copied().collect();
    load(Some(("conf/o.yaml", text)), &env, &Overrides::default())
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

fn refused(text: &str) -> String {
    load(Some(("o.yaml", text)), &Environment::default(), &Overrides::default()).unwrap_err().to_string()
}

#[test]
fn mass_loss_is_on_unless_it_is_off() {
    let second = Duration::from_secs(1);
    for (text, expected) in [
        ("{}", Some(MassLoss::default())),
        ("{mass_loss: on}", Some(MassLoss::default())),
        ("{mass_loss: off}", None),
        (
            "{mass_loss: {hold_for: 20s, confirm_for: 1s}}",
            Some(MassLoss { hold_for: 20 * second, ..MassLoss::default() }),
        ),
    ] {
        assert_eq!(loaded(&format!("discovery: {text}"), &[]).discovery.mass_loss, expected, "{text}");
    }
}

#[test]
fn a_confirmation_longer_than_the_hold_is_refused() {
    let problems = refused("discovery:\n  mass_loss: {confirm_for: 11s}\n");
    assert!(
        problems.contains("o.yaml:2:28 discovery.mass_loss.confirm_for: 11s is above hold_for (10s)"),
        "{problems}"
    );
    assert!(
        refused("discovery: {mass_loss: {probe_timeout: 1ms}}").contains("discovery.mass_loss.probe_timeout")
    );
}

#[test]
fn the_state_folder_is_the_one_set_else_the_one_of_the_environment_else_none() {
    let home = ("HOME", "/home/u");
    for (text, env, expected) in [
        ("{}", &[][..], None),
        ("{}", &[home], Some("/home/u/.local/state/outrigger")),
        ("{}", &[home, ("STATE_DIRECTORY", "/var/lib/outrigger")], Some("/var/lib/outrigger")),
        ("{state_dir: off}", &[home], None),
        ("{state_dir: /srv/state}", &[home], Some("/srv/state")),
        ("{state_dir: state}", &[home], Some("conf/state")),
        ("{}", &[home, ("OUTRIGGER_STATE_DIR", "off")], None),
        ("{state_dir: /srv/state}", &[("OUTRIGGER_STATE_DIR", "here")], Some("here")),
    ] {
        assert_eq!(loaded(text, env).state_dir, expected.map(PathBuf::from), "{text} with {env:?}");
    }
    assert!(refused("state_dir: \"\"").contains("state_dir"));
}
