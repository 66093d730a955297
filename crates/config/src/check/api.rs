//! The API for the local app.

use super::{app_config, reader::Reader, registry::read_path, section::Section};
use crate::{
    Api, ApiListen, Config, FileOwner, Listen, ListenHost, LockSettings, Registry, address,
    error::InvalidValue,
    units::{MINUTE, SECOND, duration_in, integer, switch},
};

/// `config` has its services, its registry and `dynamic_config` already.
pub(super) fn read_api(r: &mut Reader<'_>, root: &Section<'_>, config: &Config) -> Api {
    let mut out = Api::default();
    let s = r.section(root, "api");
    out.listen = r.get(&s, "listen", api_listen);
    r.set(&s, "mode", &mut out.socket.mode, socket_mode);
    out.socket.owner = r.get(&s, "owner", file_owner);
    if !matches!(out.listen, Some(ApiListen::Unix(_)))
        && let Some(key) = r.first_set_of(&s, &["mode", "owner"])
    {
        let hint = "set api.listen, as unix:/run/outrigger/api.sock, or remove the key";
        r.warn(r.origins.get(&key).clone(), &key, "is not used: it is for a Unix socket", hint);
    }
    out.token_file = read_path(r, &s, "token_file");
    let section = r.section(&s, "locks");
    read_locks(r, &section, &mut out.locks);
    let section = r.section(&s, "config");
    out.config = app_config::read_app_config(r, &section, config);
    let unused = ["token_file", "locks"].into_iter().find_map(|name| Some((name, s.node(name)?.at)));
    if let Some((name, at)) = unused.filter(|_| out.listen.is_none()) {
        let what = "is not used: without api.listen the API is not served";
        r.warn(r.origin_at(at), &s.key(name), what, "set api.listen, as localhost:7077");
    }
    if let (Some(listen), None) = (out.listen.as_ref().and_then(ApiListen::tcp), &out.token_file) {
        warn_open(r, listen);
    }
    out
}

/// Longest path of a Unix socket: the system takes 107 bytes, and the socket is made beside its place first.
const MAX_SOCKET_PATH: usize = 90;

/// An address, or `unix:/run/outrigger/api.sock`.
fn api_listen(text: &str) -> Result<ApiListen, InvalidValue> {
    let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) else {
        return address::listen_address(text).map(ApiListen::Tcp);
    };
    let is_path = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
    if is_path && path.len() <= MAX_SOCKET_PATH {
        return Ok(ApiListen::Unix(path.into()));
    }
    let hint = "write unix: and an absolute path of at most 90 bytes, as unix:/run/outrigger/api.sock";
    Err(InvalidValue::new("is no path of a Unix socket", hint))
}

/// `0660`, an octal number.
fn socket_mode(text: &str) -> Result<u32, InvalidValue> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_octal =
        (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if is_octal && mode <= 0o777 => Ok(mode),
        _ => Err(InvalidValue::new("is not a mode of a file", "write it as chmod takes it, as 0600 or 0660")),
    }
}

/// `user:group`, `user`, `:group`.
fn file_owner(text: &str) -> Result<FileOwner, InvalidValue> {
    let is_name = |name: &str| {
        name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let part = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    let owner = FileOwner { user: part(user), group: part(group) };
    if is_name(user) && is_name(group) && (owner.user.is_some() || owner.group.is_some()) {
        return Ok(owner);
    }
    Err(InvalidValue::new("is no owner of a file", "write it as chown takes it, as app:app, app or :app"))
}

fn read_locks(r: &mut Reader<'_>, s: &Section<'_>, out: &mut LockSettings) {
    r.set(s, "prefix", &mut out.prefix, lock_prefix);
    r.set(s, "max_held", &mut out.max_held, integer(1..=10_000));
    r.set(s, "max_waiters", &mut out.max_waiters, integer(1..=100_000));
    // Without a delay, a holder that is cut off from the registry could work beside the next one.
    r.set(s, "lock_delay", &mut out.lock_delay, |text| duration_in(SECOND..=MINUTE)(text).map(Some));
    r.set(s, "ends_with_node", &mut out.ends_with_node, switch);
}

/// A file of static instances has no locks.
pub(super) fn check_registry(r: &mut Reader<'_>, config: &Config) {
    if config.api.listen.is_some() && matches!(config.registry, Registry::File(_)) {
        let what = "has no locks to offer: registry.file keeps none";
        r.warn(
            r.origins.get("api.listen").clone(),
            "api.listen",
            what,
            "use registry.consul, or remove api.listen",
        );
    }
}

/// Plain segments, so that the key of every lock stays below it. One slash at the end is left out.
fn lock_prefix(text: &str) -> Result<String, InvalidValue> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let is_plain = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c))
    };
    if text.len() <= 128 && text.split('/').all(is_plain) {
        return Ok(text.to_owned());
    }
    let hint = "write one as locks or team/locks: letters, digits, `-`, `_`, `.`, `:` and `/`";
    Err(InvalidValue::new("is no prefix of keys", hint))
}

fn warn_open(r: &mut Reader<'_>, listen: &Listen) {
    match &listen.host {
        ListenHost::Ip(ip) if ip.to_canonical().is_loopback() => return,
        ListenHost::Localhost => return,
        ListenHost::Ip(_) | ListenHost::LinkLocal { .. } => {}
    }
    let what = format!(
        "{listen} is reached by other machines, which may take this app's locks and read its configuration"
    );
    r.warn(
        r.origins.get("api.listen").clone(),
        "api.listen",
        what,
        "keep it on localhost, or set api.token_file",
    );
}
