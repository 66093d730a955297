//! `outrigger check`: all that is wrong with the settings, or what would run.

use clap::Args;
use outrigger_config::{Environment, summarize};

use super::{Failure, say, settings::Settings};
use crate::{registry, telemetry::causes};

/// Check the settings: every problem with its place, or what would run
#[derive(Debug, Args)]
#[command(
    long_about = "Check the settings: every problem with its place (exit code 2), or a summary of what would run \
                  and where each value comes from (exit code 0). Connects to nothing. Files that the settings name and \
                  that cannot be used on this machine are told, but are no fault of the settings.",
    after_help = "Example:\n  outrigger check -c outrigger.yaml"
)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = arguments.settings.load(&Environment::from_process())?;
    say(summarize(&loaded).trim_end());
    if let Some(why) = registry::forgets(&loaded.config, &loaded.origins) {
        say(format!(
            "\nWhat is learned would not outlive a restart: {why}. A start without the registry would know nobody; \
             state_dir: off says that this is fine."
        ));
    }
    if let Some(why) = cannot_start(&loaded.config.registry) {
        say(format!("\nOn this machine it would not start: {why}"));
    }
    Ok(())
}

/// Why the registry could not be opened: its token, certificates or static instances are files.
fn cannot_start(settings: &outrigger_config::Registry) -> Option<String> {
    let opened = registry::open(settings, &prometheus::Registry::new());
    opened.err().map(|error| causes(&error))
}

#[cfg(test)]
mod tests {
    use outrigger_config::{ConsulSettings, Registry, Token};

    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_told_and_one_that_is_there_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let settings = Registry::Consul(ConsulSettings {
            token: Some(Token::File(path.clone())),
            ..ConsulSettings::default()
        });
        let why = cannot_start(&settings).unwrap();
        assert!(why.contains(&path.display().to_string()) && why.contains("at start"), "{why}");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(cannot_start(&settings), None);
        assert_eq!(cannot_start(&Registry::Consul(ConsulSettings::default())), None);
    }
}
