//! The flags of every `outrigger config` command: which Consul, which prefix, and what a document may set.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use outrigger_config::{
    ConsulSettings, DynamicConfig, Environment, LoadedConfig, Origin, Overrides, Registry, Token,
    error_chain, load,
};
use outrigger_dynamic_config::{DocumentVersionStore, MARK};
use outrigger_registry::{Error, consul::Consul};

use super::super::{
    report::{CommandError, print_to_stderr},
    settings::RegistryFlags,
};

/// The prefix without a flag and a settings file.
const DEFAULT_PREFIX: &str = "outrigger";

/// Where the documents are.
#[derive(Debug, Default, Args)]
pub(super) struct PlaceFlags {
    /// Settings file of the sidecars: its dynamic_config (prefix, allow, bounds), and its registry.consul without the token,
    /// which is the sidecar's. [env: OUTRIGGER_CONFIG]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prefix of the keys. Default: dynamic_config.prefix of the settings file, else outrigger.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// URL of a Consul agent. Default: CONSUL_HTTP_ADDR, else http://127.0.0.1:8500. [env: OUTRIGGER_CONSUL]
    #[arg(long, value_name = "URL")]
    consul: Option<String>,
    /// File with the ACL token. Default: CONSUL_HTTP_TOKEN_FILE, else CONSUL_HTTP_TOKEN. [env: OUTRIGGER_TOKEN_FILE]
    #[arg(long, value_name = "PATH")]
    token_file: Option<String>,
}

/// The KV, and the rules for documents.
#[derive(Debug)]
pub(super) struct DocumentPlace {
    pub(super) store: DocumentVersionStore,
    pub(super) prefix: String,
    /// With the prefix.
    pub(super) rules: DynamicConfig,
    /// The settings file. `None`: none was given.
    pub(super) file: Option<LoadedConfig>,
    has_token: bool,
    /// Of Consul.
    address: String,
}

impl PlaceFlags {
    /// Reads the settings, and opens the client. Connects to nothing.
    pub(super) fn open(&self, environment: &Environment) -> Result<DocumentPlace, CommandError> {
        let flags = RegistryFlags {
            config: self.config.clone(),
            consul: self.consul.clone(),
            token_file: self.token_file.clone(),
        };
        let loaded = flags.load(environment)?;
        let settings = consul_settings(&loaded)?;
        let mut rules = loaded.config.dynamic_config.clone();
        let prefix = match &self.prefix {
            Some(prefix) => parse_prefix(prefix)?,
            None => rules.prefix.clone().unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
        };
        rules.prefix = Some(prefix.clone());
        let consul = Consul::new(&settings)
            .map_err(|error| CommandError::Settings(format!("outrigger: {}", error_chain(&error))))?;
        let store = DocumentVersionStore::new(Arc::new(consul), &prefix);
        let file = flags.has_file(environment).then_some(loaded);
        let (has_token, address) = (settings.token.is_some(), settings.address.to_string());
        Ok(DocumentPlace { store, prefix, rules, file, has_token, address })
    }
}

/// By the reader of the setting.
fn parse_prefix(text: &str) -> Result<String, CommandError> {
    let quoted = text.replace('\'', "''");
    let file = format!("dynamic_config: {{prefix: '{quoted}'}}");
    let loaded = load(Some(("--prefix", &file)), &Environment::default(), &Overrides::default());
    let why = match &loaded {
        Ok(loaded) => match &loaded.config.dynamic_config.prefix {
            Some(prefix) => return Ok(prefix.clone()),
            None => format!("{text:?} is not a prefix of keys"),
        },
        Err(problems) => {
            problems.iter().map(|problem| format!("{}; {}", problem.what, problem.hint)).collect()
        }
    };
    Err(CommandError::Settings(format!("outrigger: --prefix: {why}")))
}

/// How Consul is asked. The token of a settings file is left out, because it is the sidecar's.
fn consul_settings(loaded: &LoadedConfig) -> Result<ConsulSettings, CommandError> {
    let Registry::Consul(settings) = &loaded.config.registry else {
        let what = "outrigger: the registry of these settings is a file, which has no documents; name a Consul by --consul";
        return Err(CommandError::Settings(what.to_owned()));
    };
    let key = match &settings.token {
        Some(Token::Value(_)) => "registry.consul.token",
        Some(Token::File(_)) => "registry.consul.token_file",
        None => return Ok(settings.clone()),
    };
    let is_of_sidecar = matches!(loaded.origins.get(key), Origin::File { .. });
    let token = settings.token.clone().filter(|_| !is_of_sidecar);
    Ok(ConsulSettings { token, ..settings.clone() })
}

impl DocumentPlace {
    /// Why the KV could not be asked.
    pub(super) fn failure(&self, error: &Error) -> CommandError {
        let mut text = error_chain(error);
        if error.is_outage() {
            text = self.outage(&text);
        } else if error.is_forbidden() && !self.has_token {
            text += "; no token is set: name it by CONSUL_HTTP_TOKEN or --token-file";
        }
        CommandError::running(text)
    }

    /// That the key of `outrigger config init` is missing, on stderr.
    pub(super) fn print_missing_mark(&self) {
        let key = self.store.key_of(MARK);
        print_to_stderr(format_args!(
            "{key} is not there: while the prefix has no key, sidecars see its first document up to 36 s late; `outrigger config init` \
             writes it"
        ));
    }

    /// That Consul does not answer, and why.
    pub(super) fn outage(&self, why: &str) -> String {
        format!("Consul at {} does not answer: {why}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(file: &str, environment: &[(&str, &str)], flags: PlaceFlags) -> Option<Token> {
        let loaded = load(
            Some(("o.yaml", file)),
            &environment.iter().copied().collect(),
            &Overrides { token_file: flags.token_file, ..Overrides::default() },
        );
        consul_settings(&loaded.unwrap()).unwrap().token
    }

    #[test]
    fn the_token_is_the_operators_own() {
        let file = "registry: {consul: {token_file: /sidecar}}";
        let own = [("CONSUL_HTTP_TOKEN", "mine")];
        assert_eq!(token(file, &[], PlaceFlags::default()), None);
        assert!(matches!(token(file, &own, PlaceFlags::default()), Some(Token::Value(_))));
        let flags = PlaceFlags { token_file: Some("/mine".into()), ..PlaceFlags::default() };
        assert_eq!(token(file, &[], flags), Some(Token::File("/mine".into())));
        let variable = "registry: {consul: {token: '${SIDECAR}'}}";
        assert_eq!(token(variable, &[("SIDECAR", "s")], PlaceFlags::default()), None);
    }

    #[test]
    fn the_prefix_is_that_of_the_flag_else_of_the_file_else_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.yaml");
        std::fs::write(&path, "dynamic_config: {prefix: team/o, bounds: {timeout: 1s..2s}}").unwrap();
        let open = |config: Option<PathBuf>, prefix: Option<&str>| {
            let flags = PlaceFlags { config, prefix: prefix.map(str::to_owned), ..PlaceFlags::default() };
            flags.open(&Environment::default())
        };
        assert_eq!(open(None, None).unwrap().prefix, "outrigger");
        let place = open(Some(path.clone()), None).unwrap();
        assert_eq!((place.prefix.as_str(), place.rules.bounds.len()), ("team/o", 1));
        let place = open(Some(path), Some("other/")).unwrap();
        assert_eq!((place.prefix.as_str(), place.rules.prefix.as_deref()), ("other", Some("other")));
        let error = open(None, Some("a//b'")).unwrap_err();
        assert!(error.to_string().contains("--prefix"), "{error}");
    }

    #[test]
    fn a_registry_of_a_file_has_no_documents() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.yaml");
        std::fs::write(&path, "registry: {file: services.yaml}").unwrap();
        let flags = PlaceFlags { config: Some(path), ..PlaceFlags::default() };
        let error = flags.open(&Environment::default()).unwrap_err();
        assert!(matches!(&error, CommandError::Settings(text) if text.contains("--consul")), "{error}");
    }
}
