//! What the app does not get of the sidecar's environment: its Consul token, and the sockets of a process manager.

use std::ffi::{OsStr, OsString};

use outrigger_config::{Config, ConsulSettings, InheritedToken, Registry, Token};
use tracing::warn;

use crate::activation;

const TOKEN: &str = "CONSUL_HTTP_TOKEN";
/// The variables that name a file with the token.
const TOKEN_FILES: [&str; 2] = ["CONSUL_HTTP_TOKEN_FILE", "OUTRIGGER_TOKEN_FILE"];

/// The variables that the app does not get.
pub(super) fn dropped_variables(config: &Config) -> Vec<OsString> {
    let mut names: Vec<_> = activation::VARIABLES.map(OsString::from).into();
    if config.app.consul_token == InheritedToken::Drop {
        names.extend(variables_with_token(config, std::env::vars_os()));
        names.extend(variables_with_token_file(config, std::env::vars_os()));
    }
    names
}

/// The variables that name the file with the token: those of the settings, and each one with the path in use.
fn variables_with_token_file(
    config: &Config,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<OsString> {
    let path = match &config.registry {
        Registry::Consul(ConsulSettings { token: Some(Token::File(path)), .. }) => Some(path.as_os_str()),
        Registry::Consul(_) | Registry::File(_) => None,
    };
    let is_known = |name: &OsString| TOKEN_FILES.iter().any(|known| name == known);
    let names_file = |(name, value): &(OsString, OsString)| {
        is_known(name) || path.is_some_and(|path| !path.is_empty() && value == path)
    };
    let mut names: Vec<_> = environment.filter(names_file).map(|(name, _)| name).collect();
    names.sort();
    names
}

/// Warns that the app inherits a token, unless `is_chosen`: the settings say so themselves.
pub(crate) fn warn_of_inherited_token(config: &Config, is_chosen: bool) {
    let names = variables_with_token(config, std::env::vars_os());
    if is_chosen || names.is_empty() {
        return;
    }
    let variables = names.join(OsStr::new(", "));
    warn!(
        ?variables,
        "the app inherits the sidecar's Consul token; app.consul_token: drop keeps it from the app, \
         app.consul_token: pass accepts it and ends this warning"
    );
}

/// The variables that hold a token: the one of Consul's own tools, and each one from which the settings take theirs.
fn variables_with_token(
    config: &Config,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Vec<OsString> {
    let token = match &config.registry {
        Registry::Consul(consul) => match &consul.token {
            Some(Token::Value(secret)) => Some(secret.reveal()),
            Some(Token::File(_)) | None => None,
        },
        Registry::File(_) => None,
    };
    let holds_token = |(name, value): &(OsString, OsString)| {
        !value.is_empty() && (name == TOKEN || token.is_some_and(|token| value == token))
    };
    let mut names: Vec<_> = environment.filter(holds_token).map(|(name, _)| name).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use outrigger_config::Secret;

    use super::*;

    fn config_with(token: Option<Token>) -> Config {
        let registry = Registry::Consul(ConsulSettings { token, ..ConsulSettings::default() });
        Config { registry, ..Config::default() }
    }

    fn variables<'a>(
        environment: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = (OsString, OsString)> + use<'a> {
        environment.iter().map(|(name, value)| ((*name).into(), (*value).into()))
    }

    fn names(token: Option<Token>, environment: &[(&str, &str)]) -> Vec<OsString> {
        variables_with_token(&config_with(token), variables(environment))
    }

    #[test]
    fn the_variables_that_name_the_file_with_the_token_are_dropped_too() {
        let environment = [
            ("PATH", "/bin"),
            ("OUTRIGGER_TOKEN_FILE", "/run/token"),
            ("CONSUL_HTTP_TOKEN_FILE", "/run/other"),
            ("MY_TOKEN_FILE", "/run/token"),
        ];
        let names = |token| {
            variables_with_token_file(&config_with(token), variables(&environment)).join(OsStr::new(" "))
        };
        assert_eq!(names(None), "CONSUL_HTTP_TOKEN_FILE OUTRIGGER_TOKEN_FILE");
        assert_eq!(
            names(Some(Token::File("/run/token".into()))),
            "CONSUL_HTTP_TOKEN_FILE MY_TOKEN_FILE OUTRIGGER_TOKEN_FILE"
        );
    }

    #[test]
    fn the_variable_of_consul_and_each_one_with_the_token_hold_it() {
        let environment =
            [("PATH", "/bin"), ("MY_TOKEN", "s3cret"), ("CONSUL_HTTP_TOKEN", "other"), ("EMPTY", "")];
        let secret = |text: &str| Some(Token::Value(Secret::new(text)));
        assert_eq!(names(secret("s3cret"), &environment), ["CONSUL_HTTP_TOKEN", "MY_TOKEN"]);
        assert_eq!(names(None, &environment), ["CONSUL_HTTP_TOKEN"]);
        assert_eq!(names(secret(""), &[("CONSUL_HTTP_TOKEN", ""), ("EMPTY", "")]), [""; 0]);
        assert_eq!(names(Some(Token::File("s3cret".into())), &[("MY_TOKEN", "s3cret")]), [""; 0]);
    }
}
