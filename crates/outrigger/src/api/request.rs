//! Reads the requests about locks: path, query and body.

use std::{
    borrow::Cow,
    fmt::{self, Display},
    time::Duration,
};

use axum::http::Method;
use outrigger_config::parse_duration;
use outrigger_locks::{Acquire, LockName, is_lease_id};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;

use super::{problem::ApiProblem, query::pairs, reason::ApiReason};

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
/// Most characters of a request that an error repeats, so that it can be read.
const MAX_SHOWN: usize = 100;

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
        let name = |text: &str| {
            LockName::parse_requested(text).map_err(|error| ApiProblem::bad_request(error.to_string()))
        };
        match (method, last) {
            (&Method::GET | &Method::HEAD, _) => name(&path).map(Self::State),
            (&Method::POST, "hold") => name(before).map(Self::Hold),
            (&Method::POST, "renew") => match before.rsplit_once('/') {
                Some((before, lease)) if is_lease_id(lease) => {
                    Ok(Self::Renew(name(before)?, lease.to_owned()))
                }
                _ => Err(ApiProblem::bad_request("a renewal is POST /v1/locks/NAME/LEASE/renew")),
            },
            // Not a lock of this name: a renewal without its last segment would acquire one.
            (&Method::POST, lease) if is_lease_id(lease) && !before.is_empty() => {
                let detail = "the path ends with the id of a lease: POST …/LEASE/renew renews it, and DELETE …/LEASE gives it back; the last \
                              segment of the name of a lock that is leased is not 32 hexadecimal digits";
                Err(ApiProblem::new(ApiReason::MethodNotAllowed, detail).allow("GET, HEAD, DELETE"))
            }
            (&Method::POST, _) => name(&path).map(Self::Lease),
            (&Method::DELETE, lease) if is_lease_id(lease) && !before.is_empty() => {
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

/// Refuses the query of a request that takes no parameters.
///
/// # Errors
/// Names the first one.
pub(super) fn refuse_parameters(query: Option<&str>) -> Result<(), ApiProblem> {
    match pairs(query.unwrap_or_default()).next() {
        None => Ok(()),
        Some((name, _)) => {
            let detail = format!(
                "there is no parameter {:?}: of the requests about locks, those that acquire one take parameters",
                shown(name)
            );
            Err(ApiProblem::bad_request(detail))
        }
    }
}

/// Refuses the body of a renewal or a release, which take none: a `ttl` there would not be in effect.
///
/// # Errors
/// When it has content, other than an empty object.
pub(super) fn refuse_body(body: &[u8]) -> Result<(), ApiProblem> {
    let is_empty_object = || serde_json::from_slice(body).is_ok_and(|Members(members)| members.is_empty());
    if body.is_empty() || is_empty_object() {
        return Ok(());
    }
    let detail = "a renewal and a release of a lease take no body: the lease keeps the ttl, limit and value with which it was acquired";
    Err(ApiProblem::bad_request(detail))
}

/// A parameter, and in which part of the request it is.
struct Given<T> {
    value: T,
    part: &'static str,
}

/// The parameters of an acquisition, in the query or in a JSON body.
#[derive(Default)]
struct Parameters {
    wait: Option<Given<String>>,
    ttl: Option<Given<String>>,
    owner: Option<Given<String>>,
    value: Option<Given<String>>,
    limit: Option<Given<u32>>,
}

/// The part of a request in which parameters are.
const QUERY: &str = "query";
const BODY: &str = "body";

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
        let mut given = Parameters::default();
        given.read_query(query.unwrap_or_default())?;
        given.read_body(body)?;
        let wait = given.wait.map(|wait| wait.duration("wait", Duration::ZERO, MAX_WAIT)).transpose()?;
        let ttl = given.ttl.map(|ttl| ttl.duration("ttl", LEASE_TTL.0, LEASE_TTL.1)).transpose()?;
        let limit = given.limit.unwrap_or(Given { value: 1, part: QUERY });
        if !(1..=MAX_LIMIT).contains(&limit.value) {
            return Err(limit.wrong("limit", format_args!("must be 1 to {MAX_LIMIT}")));
        }
        let value = given.value.unwrap_or(Given { value: String::new(), part: QUERY });
        if value.value.len() > MAX_VALUE {
            return Err(value.wrong("value", format_args!("has at most {MAX_VALUE} bytes")));
        }
        let owner = given.owner;
        if let Some(owner) = owner.as_ref().filter(|owner| !(1..=MAX_OWNER).contains(&owner.value.len())) {
            return Err(owner.wrong("owner", format_args!("has 1 to {MAX_OWNER} bytes")));
        }
        if is_lease && ttl.is_none() {
            let detail = "a lease needs a ttl, as {\"ttl\": \"30s\"}; to hold the lock by this connection: POST /v1/locks/NAME/hold";
            return Err(ApiProblem::bad_request(detail));
        }
        let acquire = Acquire {
            name,
            limit: limit.value,
            value: value.value.into_bytes(),
            wait: wait.unwrap_or_default(),
            session_ttl: ttl.unwrap_or(DEFAULT_SESSION_TTL),
            is_internal: false,
        };
        let owner = owner.map(|owner| owner.value);
        Ok(Self { acquire, owner, ttl: ttl.unwrap_or(DEFAULT_SESSION_TTL) })
    }
}

impl Parameters {
    fn read_query(&mut self, query: &str) -> Result<(), ApiProblem> {
        for (name, value) in pairs(query) {
            let value = value.replace('+', " ");
            if has_broken_escape(&value) {
                let detail = format!(
                    "{} in the query has a % without two hexadecimal digits; write %25 for a % itself",
                    shown(name)
                );
                return Err(ApiProblem::bad_request(detail));
            }
            let value = percent_decode_str(&value)
                .decode_utf8()
                .map_err(|_| ApiProblem::bad_request(format!("{} in the query is not UTF-8", shown(name))))?;
            // Digits are the one thing that a query and JSON write in another way.
            let value = match name {
                "limit" => value.parse().map_or_else(|_| Value::from(&*value), |limit: u32| limit.into()),
                _ => value.into(),
            };
            self.set(name, value, QUERY)?;
        }
        Ok(())
    }

    fn read_body(&mut self, body: &[u8]) -> Result<(), ApiProblem> {
        if body.is_empty() {
            return Ok(());
        }
        let Members(members) = serde_json::from_slice(body).map_err(|error| {
            // It may repeat a text of any length.
            let error = error.to_string();
            let error = if error.len() > 2 * MAX_SHOWN { shown(&error) } else { error.into() };
            ApiProblem::bad_request(format!("the body is no JSON of a lock: {error}"))
        })?;
        members.into_iter().try_for_each(|(name, value)| self.set(&name, value, BODY))
    }

    /// # Errors
    /// Names the parameter and its part of the request.
    fn set(&mut self, name: &str, value: Value, part: &'static str) -> Result<(), ApiProblem> {
        let (texts, text) = match name {
            "wait" => (&mut self.wait, "a duration, as \"10s\""),
            "ttl" => (&mut self.ttl, "a duration, as \"30s\""),
            "owner" => (&mut self.owner, "a text"),
            "value" => (&mut self.value, "a text"),
            "limit" => {
                let limit = value.as_u64().and_then(|limit| u32::try_from(limit).ok());
                return put(&mut self.limit, name, limit, &value, "a whole number, as 3", part);
            }
            other => {
                let detail = format!(
                    "there is no parameter {:?}, as in the {part}; there are wait, ttl, owner, value and limit",
                    shown(other)
                );
                return Err(ApiProblem::bad_request(detail));
            }
        };
        put(texts, name, value.as_str().map(str::to_owned), &value, text, part)
    }
}

/// Keeps the value of a parameter. `read` absent: it is not of its kind. A `null` is no value.
fn put<T>(
    slot: &mut Option<Given<T>>,
    name: &str,
    read: Option<T>,
    value: &Value,
    kind: &str,
    part: &'static str,
) -> Result<(), ApiProblem> {
    let value = match read {
        Some(value) => value,
        None if value.is_null() => return Ok(()),
        None => {
            return Err(ApiProblem::bad_request(format!(
                "{name} in the {part} must be {kind}; it is {}",
                shown(&value.to_string())
            )));
        }
    };
    match slot.replace(Given { value, part }) {
        None => Ok(()),
        Some(earlier) if earlier.part == part => {
            Err(ApiProblem::bad_request(format!("{name} is in the {part} twice; write it once")))
        }
        Some(_) => {
            let detail = format!("{name} is both in the query and in the body; write it in one of them");
            Err(ApiProblem::bad_request(detail))
        }
    }
}

impl<T> Given<T> {
    fn wrong(&self, name: &str, what: impl Display) -> ApiProblem {
        ApiProblem::bad_request(format!("{name} {what}; it is in the {}", self.part))
    }
}

impl Given<String> {
    fn duration(&self, name: &str, least: Duration, most: Duration) -> Result<Duration, ApiProblem> {
        let value = parse_duration(&shown(&self.value)).map_err(|what| self.wrong(name, what))?;
        if value < least || value > most {
            let range = [least, most].map(outrigger_config::format_duration).join(" to ");
            return Err(
                self.wrong(name, format_args!("{:?} is out of range; allowed: {range}", shown(&self.value)))
            );
        }
        Ok(value)
    }
}

/// The members of a JSON object, in their order, each as often as it is written. Unlike a derived type it takes no array.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object, as {\"ttl\": \"30s\"}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

/// Whether a `%` is no escape of a byte: such a text is decoded to itself otherwise.
fn has_broken_escape(text: &str) -> bool {
    text.split('%').skip(1).any(|after| {
        let digits = after.bytes().take(2);
        digits.filter(u8::is_ascii_hexdigit).count() < 2
    })
}

/// A text of a request as an error repeats it: cut after [`MAX_SHOWN`] characters.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(MAX_SHOWN) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percent_sign_is_followed_by_two_digits() {
        for good in ["", "a", "%41", "a%2fb%00", "%25zz"] {
            assert!(!has_broken_escape(good), "{good}");
        }
        for bad in ["%", "%z", "%zz", "%4", "%4z", "a%", "%41%4", "%%41", "%é"] {
            assert!(has_broken_escape(bad), "{bad}");
        }
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        assert_eq!(shown("ü"), "ü");
        let (long, short) = ("ü".repeat(MAX_SHOWN + 1), "ü".repeat(MAX_SHOWN));
        assert_eq!((shown(&short), shown(&long)), ((&*short).into(), format!("{short}…").into()));
    }
}
