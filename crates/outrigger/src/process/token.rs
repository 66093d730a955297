//! The sidecar's Consul token in the environment of the app.

use std::ffi::{OsStr, OsString};

use outrigger_config::{Config, InheritedToken, Registry, Token};
use tracing::warn;

const TOKEN: &str = "CONSUL_HTTP_TOKEN";
const TOKEN_FILE: &str = "CONSUL_HTTP_TOKEN_FILE";

/// The variables that the app does not get.
pub(super) fn dropped_variables(config: &Config) -> Vec<OsString> {
    match config.app.consul_token {
        InheritedToken::Pass => Vec::new(),
        InheritedToken::Drop => {
            let mut names = variables_with_token(config, std::env::vars_os());
            names.push(TOKEN_FILE.into());
            names
        }
    }
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
    use outrigger_config::{ConsulSettings, Secret};

    use super::*;

    fn names(token: Option<Token>, environment: &[(&str, &str)]) -> Vec<OsString> {
        let registry = Registry::Consul(ConsulSettings { token, ..ConsulSettings::default() });
        let config = Config { registry, ..Config::default() };
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        variables_with_token(&config, environment)
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
