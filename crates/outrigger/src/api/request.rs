//! Reads the requests about locks: path, query and body.

use std::time::Duration;

use axum::http::Method;
use outrigger_config::parse_duration;
use outrigger_locks::{Acquire, LockName};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::{problem::ApiProblem, reason::ApiReason};

/// Longest wait of a request.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Shortest and longest time to live of a lease.
const LEASE_TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(86_400));
/// Time to live of the session of a lock that a connection holds.
const DEFAULT_SESSION_TTL: Duration = Duration::from_secs(15);
/// Most holders of a semaphore.
const MAX_LIMIT: u32 = 1000;
/// Largest value, bytes: other clients read it with each look at the lock.
const MAX_VALUE: usize = 4096;
/// Longest owner, bytes.
const MAX_OWNER: usize = 256;
/// Digits of the id of a lease.
const LEASE_LENGTH: usize = 32;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The state of a lock.
    State(LockName),
    /// To hold it by this connection.
    Hold(LockName),
    /// To hold it by a lease.
    Lease(LockName),
    /// To renew a lease of it.
    Renew(LockName, String),
    /// To give it back.
    Release(LockName, String),
}

impl Target {
    /// Reads method and path. `path`: what follows `/v1/locks/`, as it was sent.
    ///
    /// # Errors
    /// When the name is none, or the method does not fit.
    pub(super) fn read(method: &Method, path: &str) -> Result<Self, ApiProblem> {
        let path = percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| ApiProblem::bad_request("the path is not UTF-8"))?;
        let (before, last) = path.rsplit_once('/').unwrap_or(("", &path));
        let is_lease = |text: &str| text.len() == LEASE_LENGTH && text.bytes().all(|c| c.is_ascii_hexdigit());
        let name = |text: &str| match LockName::parse(text) {
            Ok(name) if !matches!(text.rsplit('/').next(), Some("hold" | "renew")) => Ok(name),
            Ok(_) => Err(ApiProblem::bad_request("the last segment of a name must not be `hold` or `renew`")),
            Err(error) => Err(ApiProblem::bad_request(error.to_string())),
        };
        match (method, last) {
            (&Method::GET | &Method::HEAD, _) => name(&path).map(Self::State),
            (&Method::POST, "hold") => name(before).map(Self::Hold),
            (&Method::POST, "renew") => match before.rsplit_once('/') {
                Some((before, lease)) if is_lease(lease) => Ok(Self::Renew(name(before)?, lease.to_owned())),
                _ => Err(ApiProblem::bad_request("a renewal is POST /v1/locks/NAME/LEASE/renew")),
            },
            (&Method::POST, _) => name(&path).map(Self::Lease),
            (&Method::DELETE, lease) if is_lease(lease) && !before.is_empty() => {
                Ok(Self::Release(name(before)?, lease.to_owned()))
            }
            (&Method::DELETE, _) => {
                Err(ApiProblem::bad_request("a lease is given back by DELETE /v1/locks/NAME/LEASE"))
            }
            _ => {
                let problem =
                    ApiProblem::new(ApiReason::MethodNotAllowed, "a lock takes GET, POST and DELETE");
                Err(problem.allow("GET, HEAD, POST, DELETE"))
            }
        }
    }
}

/// The parameters of an acquisition, in the query or in a JSON body.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Parameters {
    wait: Option<String>,
    ttl: Option<String>,
    owner: Option<String>,
    value: Option<String>,
    limit: Option<u32>,
}

/// An acquisition that was asked for.
#[derive(Debug, Clone)]
pub(super) struct AcquireRequest {
    pub(super) acquire: Acquire,
    pub(super) owner: Option<String>,
    /// Of a lease.
    pub(super) ttl: Duration,
}

impl AcquireRequest {
    /// Reads query and body, each of which may have some of the parameters. `is_lease`: it must have a `ttl`.
    ///
    /// # Errors
    /// Names the parameter that is wrong, and what is allowed.
    pub(super) fn read(
        name: LockName,
        query: Option<&str>,
        body: &[u8],
        is_lease: bool,
    ) -> Result<Self, ApiProblem> {
        let of_query = read_query(query.unwrap_or_default())?;
        let of_body: Parameters = if body.is_empty() {
            Parameters::default()
        } else {
            serde_json::from_slice(body)
                .map_err(|error| ApiProblem::bad_request(format!("the body is no JSON of a lock: {error}")))?
        };
        let wait = either("wait", of_query.wait, of_body.wait)?;
        let wait = wait.map(|text| duration("wait", &text, Duration::ZERO, MAX_WAIT)).transpose()?;
        let ttl = either("ttl", of_query.ttl, of_body.ttl)?;
        let ttl = ttl.map(|text| duration("ttl", &text, LEASE_TTL.0, LEASE_TTL.1)).transpose()?;
        let limit = either("limit", of_query.limit, of_body.limit)?.unwrap_or(1);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(ApiProblem::bad_request(format!("limit must be 1 to {MAX_LIMIT}")));
        }
        let value = either("value", of_query.value, of_body.value)?.unwrap_or_default();
        if value.len() > MAX_VALUE {
            return Err(ApiProblem::bad_request(format!("value has at most {MAX_VALUE} bytes")));
        }
        let owner = either("owner", of_query.owner, of_body.owner)?;
        if owner.as_ref().is_some_and(|owner| owner.is_empty() || owner.len() > MAX_OWNER) {
            return Err(ApiProblem::bad_request(format!("owner has 1 to {MAX_OWNER} bytes")));
        }
        if is_lease && ttl.is_none() {
            let detail = "a lease needs a ttl, as {\"ttl\": \"30s\"}; to hold the lock by this connection: POST /v1/locks/NAME/hold";
            return Err(ApiProblem::bad_request(detail));
        }
        let acquire = Acquire {
            name,
            limit,
            value: value.into_bytes(),
            wait: wait.unwrap_or_default(),
            session_ttl: ttl.unwrap_or(DEFAULT_SESSION_TTL),
        };
        Ok(Self { acquire, owner, ttl: ttl.unwrap_or(DEFAULT_SESSION_TTL) })
    }
}

fn read_query(query: &str) -> Result<Parameters, ApiProblem> {
    let mut out = Parameters::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value)
            .decode_utf8()
            .map_err(|_| ApiProblem::bad_request(format!("the value of {name} is not UTF-8")))?
            .into_owned();
        let earlier = match name {
            "wait" => out.wait.replace(value).is_some(),
            "ttl" => out.ttl.replace(value).is_some(),
            "owner" => out.owner.replace(value).is_some(),
            "value" => out.value.replace(value).is_some(),
            "limit" => {
                let limit = value.parse().map_err(|_| ApiProblem::bad_request("limit is no whole number"))?;
                out.limit.replace(limit).is_some()
            }
            other => {
                let detail =
                    format!("there is no parameter {other:?}; there are wait, ttl, owner, value and limit");
                return Err(ApiProblem::bad_request(detail));
            }
        };
        if earlier {
            return Err(ApiProblem::bad_request(format!("{name} is in the query twice; write it once")));
        }
    }
    Ok(out)
}

/// The value of a parameter.
fn either<T>(name: &str, of_query: Option<T>, of_body: Option<T>) -> Result<Option<T>, ApiProblem> {
    if of_query.is_some() && of_body.is_some() {
        let detail = format!("{name} is both in the query and in the body; write it in one of them");
        return Err(ApiProblem::bad_request(detail));
    }
    Ok(of_query.or(of_body))
}

fn duration(name: &str, text: &str, least: Duration, most: Duration) -> Result<Duration, ApiProblem> {
    let wrong = |what: String| ApiProblem::bad_request(format!("{name} {text:?}: {what}"));
    let value = parse_duration(text).map_err(wrong)?;
    if value < least || value > most {
        let range = [least, most].map(outrigger_config::format_duration).join(" to ");
        return Err(wrong(format!("it is out of range; allowed: {range}")));
    }
    Ok(value)
}
