//! The flags that stand for settings, and how flags, environment and file become a `Config`.

use std::path::PathBuf;

use clap::Args;
use outrigger_config::{CONFIG_VARIABLE, Environment, LoadedConfig, Overrides, Problems, load, load_path};

use super::report::CommandError;
use crate::reload::ConfigSource;

/// A flag wins over its environment variable, which wins over the file.
#[derive(Debug, Default, Clone, Args)]
pub(super) struct SettingsFlags {
    /// Settings file (YAML). Default: none. [env: OUTRIGGER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name under which the local app is registered. Without it, nothing is registered. [env: OUTRIGGER_SERVICE]
    #[arg(long, value_name = "NAME", help_heading = "The local app")]
    service: Option<String>,
    /// Port the local app listens on. [env: OUTRIGGER_PORT]
    #[arg(long, value_name = "PORT", help_heading = "The local app")]
    port: Option<String>,
    /// Address at which callers reach the local app. Default: the registry agent's own. [env: OUTRIGGER_ADDRESS]
    #[arg(long, value_name = "HOST", help_heading = "The local app")]
    address: Option<String>,
    /// Id of the registration. Default: made from name, host name and port. [env: OUTRIGGER_ID]
    #[arg(long, value_name = "ID", help_heading = "The local app")]
    id: Option<String>,
    /// Tag of the registration, with its commas; may be repeated. [env: OUTRIGGER_TAGS]
    #[arg(long = "tag", value_name = "TAG", help_heading = "The local app")]
    tags: Vec<String>,
    /// Path of the app's health check. Default: a TCP connection is enough. [env: OUTRIGGER_HEALTH_HTTP]
    #[arg(long, value_name = "PATH", help_heading = "The local app")]
    health_http: Option<String>,
    /// URL of the Consul agent. Default: CONSUL_HTTP_ADDR, else http://127.0.0.1:8500. [env: OUTRIGGER_CONSUL]
    #[arg(long, value_name = "URL", help_heading = "Registry")]
    consul: Option<String>,
    /// Datacenter of the services. Default: the agent's own. [env: OUTRIGGER_DATACENTER]
    #[arg(long, value_name = "NAME", help_heading = "Registry")]
    datacenter: Option<String>,
    /// File with the ACL token. [env: OUTRIGGER_TOKEN_FILE]
    #[arg(long, value_name = "PATH", help_heading = "Registry")]
    token_file: Option<String>,
    /// Static instances in a YAML file, instead of Consul. [env: OUTRIGGER_REGISTRY_FILE]
    #[arg(long, value_name = "PATH", help_heading = "Registry")]
    registry_file: Option<String>,
    /// Address for the app's requests. Default: localhost:7070. [env: OUTRIGGER_LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    listen: Option<String>,
    /// Address of the admin side. Default: localhost:7079. [env: OUTRIGGER_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    admin_listen: Option<String>,
    /// Address for metrics and health alone, for the network. Default: none. [env: OUTRIGGER_METRICS_LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    metrics_listen: Option<String>,
    /// Address of the API for the app: configuration and locks; also unix:/path. Default: none. [env: OUTRIGGER_API_LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    api_listen: Option<String>,
    /// Address of the DNS listener, which answers the names of services on this machine. Default: none. [env: OUTRIGGER_DNS_LISTEN]
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    dns_listen: Option<String>,
    /// Data-plane threads. Default: auto, which is min(cores, 2). [env: OUTRIGGER_WORKERS]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Longest wait for requests in flight at the end. Default: 30s. [env: OUTRIGGER_DRAIN]
    #[arg(long, value_name = "DURATION")]
    drain: Option<String>,
    /// What to do when the app after -- ends by itself: exit or restart. Default: exit. [env: OUTRIGGER_ON_APP_EXIT]
    #[arg(long, value_name = "WHAT", help_heading = "The local app")]
    on_app_exit: Option<String>,
    /// Log filter, as info or warn,outrigger_proxy=debug. Default: info. [env: OUTRIGGER_LOG]
    #[arg(long, value_name = "FILTER", help_heading = "Log")]
    log: Option<String>,
    /// auto, text or json. Default: auto, which is text on a terminal. [env: OUTRIGGER_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    log_format: Option<String>,
    /// One log line per request. [env: OUTRIGGER_ACCESS_LOG]
    #[arg(long, help_heading = "Log")]
    access_log: bool,
}

impl SettingsFlags {
    /// The checked settings, from flags, environment and file.
    pub(super) fn load(&self, environment: &Environment) -> Result<LoadedConfig, CommandError> {
        self.read(environment).map_err(|problems| {
            let warnings = problems.warnings().iter().map(|warning| format!("\nwarning: {warning}"));
            CommandError::Settings(warnings.fold(problems.to_string(), |text, line| text + &line))
        })
    }

    /// For a reload: reads the file again, under the same flags and environment. `None`: there is no file.
    pub(super) fn config_source(&self, environment: &Environment) -> Option<ConfigSource> {
        self.config_path(environment)?;
        let (settings, environment) = (self.clone(), environment.clone());
        Some(ConfigSource::new(move || settings.read(&environment)))
    }

    fn read(&self, environment: &Environment) -> Result<LoadedConfig, Problems> {
        let overrides = self.overrides();
        match self.config_path(environment) {
            Some(path) => load_path(&path, environment, &overrides),
            None => load(None, environment, &overrides),
        }
    }

    /// The settings file, by flag or variable.
    fn config_path(&self, environment: &Environment) -> Option<PathBuf> {
        self.config.clone().or_else(|| environment.non_empty(CONFIG_VARIABLE).map(PathBuf::from))
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            service: self.service.clone(),
            port: self.port.clone(),
            address: self.address.clone(),
            id: self.id.clone(),
            tags: self.tags.clone(),
            health_http: self.health_http.clone(),
            consul: self.consul.clone(),
            datacenter: self.datacenter.clone(),
            token_file: self.token_file.clone(),
            registry_file: self.registry_file.clone(),
            listen: self.listen.clone(),
            admin_listen: self.admin_listen.clone(),
            metrics_listen: self.metrics_listen.clone(),
            api_listen: self.api_listen.clone(),
            dns_listen: self.dns_listen.clone(),
            workers: self.workers.clone(),
            drain: self.drain.clone(),
            on_app_exit: self.on_app_exit.clone(),
            log: self.log.clone(),
            log_format: self.log_format.clone(),
            access_log: self.access_log.then_some(true),
        }
    }
}

/// Where the registry is, for a command that starts no sidecar. A flag wins over its environment variable, which wins over the file.
#[derive(Debug, Default, Clone, Args)]
pub(super) struct RegistryFlags {
    /// Settings file (YAML), of which the registry is used. Default: none. [env: OUTRIGGER_CONFIG]
    #[arg(short, long, value_name = "FILE", help_heading = "Registry")]
    pub(super) config: Option<PathBuf>,
    /// URL of the Consul agent. Default: CONSUL_HTTP_ADDR, else http://127.0.0.1:8500. [env: OUTRIGGER_CONSUL]
    #[arg(long, value_name = "URL", help_heading = "Registry")]
    pub(super) consul: Option<String>,
    /// File with the ACL token. Default: CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE. [env: OUTRIGGER_TOKEN_FILE]
    #[arg(long, value_name = "PATH", help_heading = "Registry")]
    pub(super) token_file: Option<String>,
}

impl RegistryFlags {
    /// The first of the flags that is given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let Self { config, consul, token_file } = self;
        let given = [
            ("--config", config.is_some()),
            ("--consul", consul.is_some()),
            ("--token-file", token_file.is_some()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// The checked settings, from flags, environment and file.
    pub(super) fn load(&self, environment: &Environment) -> Result<LoadedConfig, CommandError> {
        self.as_settings().load(environment)
    }

    /// Whether a settings file is named, by flag or variable.
    pub(super) fn has_file(&self, environment: &Environment) -> bool {
        self.as_settings().config_path(environment).is_some()
    }

    fn as_settings(&self) -> SettingsFlags {
        let Self { config, consul, token_file } = self.clone();
        SettingsFlags { config, consul, token_file, ..SettingsFlags::default() }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestCommandLine {
        #[command(flatten)]
        settings: SettingsFlags,
    }

    fn loaded(line: &str, environment: &[(&str, &str)]) -> Result<LoadedConfig, CommandError> {
        let line = TestCommandLine::try_parse_from(["x"].into_iter().chain(line.split_whitespace())).unwrap();
        line.settings.load(&environment.iter().copied().collect())
    }

    #[test]
    fn without_file_and_flags_the_settings_are_the_defaults() {
        assert_eq!(loaded("", &[]).unwrap().config, outrigger_config::Config::default());
    }

    #[test]
    fn a_service_and_its_port_are_enough_to_register() {
        let service = loaded("--service orders --port 8080", &[]).unwrap().config.services.remove(0);
        assert_eq!((&*service.name, service.port), ("orders", 8080));
    }

    #[test]
    fn every_flag_reaches_its_setting() {
        let line = "--service orders --port 8080 --address 10.0.0.5 --id o-1 --tag a --tag b --health-http /up \
                    --consul http://10.0.0.1:8501 --datacenter dc2 --token-file /t --listen 127.0.0.1:7171 \
                    --admin-listen 127.0.0.1:7172 --metrics-listen 0.0.0.0:7173 --workers 3 --drain 7s \
                    --on-app-exit restart --log debug --log-format json --access-log";
        let config = loaded(line, &[]).unwrap().config;
        let shown = format!("{config:?}");
        for part in [
            "orders",
            "8080",
            "10.0.0.5",
            "o-1",
            "[\"a\", \"b\"]",
            "/up",
            "10.0.0.1",
            "8501",
            "dc2",
            "/t",
            "7171",
            "7172",
            "7173",
            "Count(3)",
            "7s",
            "Restart",
            "debug",
            "Json",
            "access: true",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let config = loaded("--registry-file services.yaml", &[]).unwrap().config;
        assert_eq!(config.registry, outrigger_config::Registry::File("services.yaml".into()));
    }

    #[test]
    fn every_flag_has_a_variable_that_its_help_names() {
        let command = <TestCommandLine as clap::CommandFactory>::command();
        let flags: Vec<_> =
            command.get_arguments().filter_map(|flag| Some((flag.get_long()?, flag))).collect();
        assert!(flags.len() >= 20, "{flags:?}");
        for (name, flag) in flags {
            let plural = if name == "tag" { "S" } else { "" };
            let variable = format!("OUTRIGGER_{}{plural}", name.to_uppercase().replace('-', "_"));
            let help = flag.get_help().unwrap().to_string();
            assert!(help.contains(&format!("[env: {variable}]")), "--{name}: {help}");
            let sets_key = outrigger_config::VARIABLES.iter().any(|(known, _)| *known == variable);
            assert!(sets_key || variable == CONFIG_VARIABLE, "--{name} has no {variable}");
        }
    }

    #[test]
    fn every_variable_reaches_its_setting_as_its_flag_does() {
        for (line, environment) in [
            ("--consul http://10.0.0.1:8501", [("OUTRIGGER_CONSUL", "http://10.0.0.1:8501")]),
            ("--token-file /t", [("OUTRIGGER_TOKEN_FILE", "/t")]),
            ("--datacenter dc2", [("OUTRIGGER_DATACENTER", "dc2")]),
            ("--registry-file s.yaml", [("OUTRIGGER_REGISTRY_FILE", "s.yaml")]),
            ("--listen 127.0.0.1:1", [("OUTRIGGER_LISTEN", "127.0.0.1:1")]),
            ("--admin-listen 127.0.0.1:1", [("OUTRIGGER_ADMIN_LISTEN", "127.0.0.1:1")]),
            ("--metrics-listen 127.0.0.1:1", [("OUTRIGGER_METRICS_LISTEN", "127.0.0.1:1")]),
            ("--workers 3", [("OUTRIGGER_WORKERS", "3")]),
            ("--drain 7s", [("OUTRIGGER_DRAIN", "7s")]),
            ("--on-app-exit restart", [("OUTRIGGER_ON_APP_EXIT", "restart")]),
            ("--log debug", [("OUTRIGGER_LOG", "debug")]),
            ("--log-format json", [("OUTRIGGER_LOG_FORMAT", "json")]),
            ("--access-log", [("OUTRIGGER_ACCESS_LOG", "true")]),
        ] {
            let (by_flag, by_variable) = (loaded(line, &[]).unwrap(), loaded("", &environment).unwrap());
            assert_eq!(by_flag.config, by_variable.config, "{line}");
            assert_ne!(by_flag.config, outrigger_config::Config::default(), "{line}");
            assert_eq!(by_variable.warnings, [], "{line}");
        }
        let app = [("OUTRIGGER_SERVICE", "orders"), ("OUTRIGGER_PORT", "8080")];
        for (line, variable) in [
            ("--address 10.0.0.5", ("OUTRIGGER_ADDRESS", "10.0.0.5")),
            ("--id o-1", ("OUTRIGGER_ID", "o-1")),
            ("--tag a --tag b", ("OUTRIGGER_TAGS", "a,b")),
            ("--tag a", ("OUTRIGGER_TAG", "a")),
            ("--tag a,b --tag c", ("OUTRIGGER_TAGS", r"a\,b,c")),
            ("--health-http /up", ("OUTRIGGER_HEALTH_HTTP", "/up")),
        ] {
            let by_variable = loaded("", &[app[0], app[1], variable]).unwrap();
            assert_eq!(loaded(line, &app).unwrap().config, by_variable.config, "{line}");
            assert_ne!(loaded("", &app).unwrap().config, by_variable.config, "{line}");
        }
    }

    #[test]
    fn the_variable_of_the_file_works_and_counts_as_unset_when_it_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outrigger.yaml");
        std::fs::write(&path, "workers: 7\n").unwrap();
        let path = path.to_string_lossy();
        let workers =
            |environment: &[(&str, &str)]| loaded("", environment).unwrap().config.workers.to_string();
        assert_eq!(workers(&[("OUTRIGGER_CONFIG", &path)]), "7");
        assert_eq!(workers(&[("OUTRIGGER_CONFIG", "")]), "auto");
    }

    #[test]
    fn a_file_with_problems_also_shows_its_old_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outrigger.yaml");
        std::fs::write(&path, "workers: many\ndrain: {cap: 9s}\n").unwrap();
        let text = loaded(&format!("-c {}", path.display()), &[]).unwrap_err().to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines.len() == 2 && lines[0].contains("workers") && !lines[0].starts_with("warning"),
            "{text}"
        );
        assert!(lines[1].starts_with("warning: ") && lines[1].contains("drain.max_propagation"), "{text}");
    }

    #[test]
    fn a_flag_wins_over_the_environment_which_wins_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outrigger.yaml");
        std::fs::write(&path, "service: {name: file, port: 1}\n").unwrap();
        let file = format!("-c {}", path.display());
        let name = |line: &str, environment: &[(&str, &str)]| {
            loaded(line, environment).unwrap().config.services.remove(0).name
        };
        assert_eq!(name(&file, &[]), "file");
        assert_eq!(name(&file, &[("OUTRIGGER_SERVICE", "environment")]), "environment");
        let line = format!("{file} --service flag");
        assert_eq!(name(&line, &[("OUTRIGGER_SERVICE", "environment")]), "flag");
    }

    #[test]
    fn a_problem_names_the_flag_or_the_file_and_exits_with_2() {
        let failure = loaded("--service orders --port eighty", &[]).unwrap_err();
        assert!(failure.to_string().contains("--port"), "{failure}");
        assert!(matches!(failure, CommandError::Settings(_)));
        let failure = loaded("-c /no/such/file.yaml", &[]).unwrap_err();
        assert!(failure.to_string().contains("/no/such/file.yaml"), "{failure}");
    }
}
