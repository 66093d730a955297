//! `outrigger check`: every problem in the settings, or what would run.

use clap::Args;
use outrigger_config::{Environment, summarize};

use super::{
    report::{CommandError, print_line},
    settings::SettingsFlags,
};
use crate::{registry, telemetry::error_chain};

/// Check the settings: every problem with its place, or what would run
#[derive(Debug, Args)]
#[command(
    long_about = "Check the settings: every problem with its place (exit code 2), or a summary of what would run \
                  and where each value comes from (exit code 0). Connects to nothing. A file that \
                  the settings name and that cannot be used on this machine is reported, but is no problem of the \
                  settings.",
    after_help = "Example:\n  outrigger check -c outrigger.yaml"
)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    settings: SettingsFlags,
}

pub(super) fn run(arguments: &CheckArguments) -> Result<(), CommandError> {
    let loaded = arguments.settings.load(&Environment::from_process())?;
    print_line(summarize(&loaded).trim_end());
    if let Some(why) = registry::missing_state_dir(&loaded.config, &loaded.origins) {
        print_line(format!(
            "\nLearned instances would not survive a restart: {why}. A start while the registry is down would know no \
             instance. If that is intended, set state_dir: off."
        ));
    }
    if let Some(why) = registry_open_error(&loaded.config.registry) {
        print_line(format!("\nOn this machine it would not start: {why}"));
    }
    Ok(())
}

/// Why the registry could not be opened: its token, certificates and static instances are files.
fn registry_open_error(settings: &outrigger_config::Registry) -> Option<String> {
    let opened = registry::open(settings, &prometheus::Registry::new());
    opened.err().map(|error| error_chain(&*error))
}

#[cfg(test)]
mod tests {
    use outrigger_config::{ConsulSettings, Registry, Token};

    use super::*;

    #[test]
    fn a_missing_file_is_reported_and_an_existing_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let settings = Registry::Consul(ConsulSettings {
            token: Some(Token::File(path.clone())),
            ..ConsulSettings::default()
        });
        let why = registry_open_error(&settings).unwrap();
        assert!(why.contains(&path.display().to_string()) && why.contains("at start"), "{why}");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(registry_open_error(&settings), None);
        assert_eq!(registry_open_error(&Registry::Consul(ConsulSettings::default())), None);
    }
}
