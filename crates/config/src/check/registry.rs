//! Where instances come from, and how Consul is reached.

use std::path::{Path, PathBuf};

use super::{reader::Reader, section::Section};
use crate::{
    Config, ConsulAddress, ConsulSettings, Origin, Registry, Secret, Tls, Token,
    address::{self, ParsedConsulAddress},
    error::InvalidValue,
    expand,
    layers::{CONSUL_VARIABLE, REGISTRY_FILE_VARIABLE},
    names,
    raw::NodeValue,
    units::{MINUTE, SECOND, duration_in, integer},
};

/// The variable that turns TLS on.
pub(super) const SSL: &str = "CONSUL_HTTP_SSL";

pub(super) fn read_registry(r: &mut Reader<'_>, root: &Section<'_>) -> Registry {
    let s = r.section(root, "registry");
    let file = read_path(r, &s, "file");
    let section = r.section(&s, "consul");
    let consul = read_consul(r, &section);
    let Some(file) = file else { return Registry::Consul(consul) };
    let file_at = r.origins.get("registry.file").clone();
    let consul_at = r.origins.get("registry.consul.address").clone();
    let (by_file, by_consul) = (choice(&file_at), choice(&consul_at));
    let same_layer = by_file == by_consul && by_file >= Choice::Environment;
    let both_in_file = matches!(file_at, Origin::File { .. }) && s.node("consul").is_some();
    if same_layer || both_in_file {
        let hint = "instances come from one place; keep one of them";
        r.report_set("registry.file", "contradicts registry.consul", hint);
    }
    // `--consul` wins over OUTRIGGER_REGISTRY_FILE, and OUTRIGGER_CONSUL over `registry.file` in the file.
    let consul_wins = by_consul >= Choice::Environment && by_consul > by_file;
    if consul_wins { Registry::Consul(consul) } else { Registry::File(file) }
}

/// How strongly a setting chooses the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Choice {
    /// A default, or `CONSUL_HTTP_ADDR`, which may be there for other tools.
    None,
    File,
    Environment,
    Flag,
}

fn choice(origin: &Origin) -> Choice {
    match origin {
        Origin::Default => Choice::None,
        Origin::File { .. } | Origin::Kv { .. } => Choice::File,
        Origin::Environment(name) if [CONSUL_VARIABLE, REGISTRY_FILE_VARIABLE].contains(&&**name) => {
            Choice::Environment
        }
        Origin::Environment(_) => Choice::None,
        Origin::Flag(_) => Choice::Flag,
    }
}

fn read_consul(r: &mut Reader<'_>, s: &Section<'_>) -> ConsulSettings {
    let mut out = ConsulSettings::default();
    out.address = read_consul_address(r, s, out.address);
    out.datacenter = r.get(s, "datacenter", names::datacenter);
    r.set(s, "domain", &mut out.domain, names::domain);
    out.token = read_token(r, s);
    let section = r.section(s, "tls");
    out.tls = read_tls(r, &section);
    r.set(s, "wait", &mut out.wait, duration_in(SECOND..=10 * MINUTE));
    r.set(s, "max_connections", &mut out.max_connections, integer(1..=180));
    out
}

/// `CONSUL_HTTP_SSL=true` turns TLS on as in Consul's own tools, also for an `http://` from environment, file
/// or default, but not for an `http://` from a flag or its variable.
fn read_consul_address(r: &mut Reader<'_>, s: &Section<'_>, default: ConsulAddress) -> ConsulAddress {
    let mut given = ParsedConsulAddress { address: default, has_scheme: false };
    r.set(s, "address", &mut given, address::consul_address);
    let Some(ssl) = r.env.non_empty(SSL) else { return given.address };
    let origin = Origin::Environment(SSL.into());
    let wanted = match ssl {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            let wrong = InvalidValue::new("is neither true nor false", "write true or false");
            r.report(&origin, "registry.consul.address", wrong);
            return given.address;
        }
    };
    let is_explicit = choice(r.origins.get(&s.key("address"))) >= Choice::Environment;
    if wanted && !given.address.tls && !(is_explicit && given.has_scheme) {
        given.address.tls = true;
        if given.has_scheme {
            let what = "turns the http:// address into https://";
            r.warn(origin, "registry.consul.address", what, "write https://");
        }
    }
    given.address
}

/// The environment wins over the file; in the environment the token file wins over the value, as in Consul's
/// tools.
fn read_token(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Token> {
    let literal = read_token_of_file(r, s);
    let (value_key, file_key) = (s.key("token"), s.key("token_file"));
    let value = r.overlay.get(&value_key).first().cloned();
    let set_outside = !r.overlay.get(&file_key).is_empty();
    let file = read_path(r, s, "token_file");
    if literal.is_some() && s.node("token_file").is_some() {
        r.report_set(&value_key, "contradicts token_file", "keep one of them");
    }
    match (file, value, set_outside) {
        (Some(file), value, true) => {
            if let Some(value) = value {
                let what = "is not used: a token file was given too";
                r.warn(value.origin, &value_key, what, "unset one of them");
            }
            Some(Token::File(file))
        }
        (_, Some(value), false) => {
            r.origins.set(value_key.clone(), value.origin.clone());
            check_secret(r, &value.origin, &value_key, &value.text)
        }
        (Some(file), None, false) => Some(Token::File(file)),
        (None, _, _) => literal,
    }
}

/// `token: ${VARIABLE}`, and no other form, because files are copied, committed and shown.
fn read_token_of_file(r: &mut Reader<'_>, s: &Section<'_>) -> Option<Token> {
    let node = s.node("token")?;
    let (key, at) = (s.key("token"), r.origin_at(node.at));
    let variable = match &node.value {
        NodeValue::Scalar(text) => expand::whole_variable(text),
        NodeValue::Null | NodeValue::Seq(_) | NodeValue::Map(_) => None,
    };
    let Some(name) = variable else {
        let hint = "use token_file, CONSUL_HTTP_TOKEN, or a whole ${VARIABLE}";
        r.report(&at, &key, InvalidValue::new("a secret does not belong in this file", hint));
        return None;
    };
    let given_otherwise = !r.overlay.get(&key).is_empty() || !r.overlay.get(&s.key("token_file")).is_empty();
    match r.env.get(name) {
        Some(secret) if !secret.is_empty() => {
            r.origins.set(key.clone(), at.clone());
            check_secret(r, &at, &key, secret)
        }
        _ if given_otherwise => None,
        _ => {
            let what = format!("environment variable {name} {}", r.env.why_absent(name));
            r.report(&at, &key, InvalidValue::new(what, "set it, or remove the key to send no token"));
            None
        }
    }
}

/// A token that can be sent in a header. The message does not repeat it.
fn check_secret(r: &mut Reader<'_>, at: &Origin, key: &str, text: &str) -> Option<Token> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(Token::Value(Secret::new(text)));
    }
    let hint = "a token is visible ASCII without spaces; was a line end copied with it?";
    r.report(at, key, InvalidValue::new("the token cannot be sent", hint));
    None
}

fn read_tls(r: &mut Reader<'_>, s: &Section<'_>) -> Tls {
    let mut out = Tls {
        ca_file: read_path(r, s, "ca_file"),
        cert_file: read_path(r, s, "cert_file"),
        key_file: read_path(r, s, "key_file"),
        ..Tls::default()
    };
    out.server_name = r.get(s, "server_name", names::host);
    check_pair(r, s, &out);
    out
}

/// That a certificate is not without its key, nor a key without its certificate.
pub(super) fn check_pair(r: &mut Reader<'_>, s: &Section<'_>, out: &Tls) {
    for (has, lacks, missing) in [
        ("cert_file", "key_file", out.key_file.is_none()),
        ("key_file", "cert_file", out.cert_file.is_none()),
    ] {
        let lacking = missing && !r.origins.is_set(&s.key(lacks));
        if lacking && let Some(key) = r.first_set_of(s, &[has]) {
            let hint = "a certificate and its key go together";
            r.report_set(&key, format!("needs {lacks} too"), hint);
        }
    }
}

/// The path that a key holds, if any.
pub(super) fn read_path(r: &mut Reader<'_>, s: &Section<'_>, name: &str) -> Option<PathBuf> {
    let text = r.get(s, name, names::non_empty)?;
    resolve_path(r, &s.key(name), PathBuf::from(text))
}

/// A path from the file is relative to the folder of the file, any other to the working directory.
pub(super) fn resolve_path(r: &Reader<'_>, key: &str, path: PathBuf) -> Option<PathBuf> {
    let in_file = matches!(r.origins.get(key), Origin::File { .. });
    match Path::new(r.file()).parent() {
        Some(folder) if in_file => Some(folder.join(path)),
        _ => Some(path),
    }
}

/// A registry file cannot register an app.
pub(super) fn check_service(r: &mut Reader<'_>, config: &Config) {
    let Registry::File(_) = config.registry else { return };
    for n in 0..config.services.len() {
        let key = config.service_key(n);
        let at = r.origins.get(&format!("{key}.name")).clone();
        let what = "is not registered: the registry is a file";
        r.warn(at, &key, what, "use registry.consul to register it");
    }
}
