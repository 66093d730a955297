//! The bodies that clients send: registrations of services and checks, catalog entries. A body is decoded whole, then
//! validated in Consul's order and with Consul's texts.

use std::{collections::BTreeMap, time::Duration};

use http::StatusCode;

use super::{
    decode::{DecodeError, JsonFields},
    duration::GoDuration,
};
use crate::store::{
    Check, CheckKind, NewCheck, NewService, NodeInfo, Probe, ProbeTarget, Service, Status, TaggedAddress,
    Weights,
};

/// Bytes of a probe's answer that are kept by default.
const OUTPUT_MAX: usize = 4096;
/// Longest wait for a probe's answer by default.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shortest pause between two probes; a shorter one counts as this.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// A refused request: status and text for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) String);

impl Refusal {
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, text.into())
    }

    /// Consul's servers refuse it.
    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, text.into())
    }

    /// The request needs a feature that this registry does not have.
    pub(crate) fn unsupported(what: &str) -> Self {
        Self(StatusCode::NOT_IMPLEMENTED, format!("The dev registry {what}"))
    }
}

impl From<DecodeError> for Refusal {
    fn from(DecodeError(reason): DecodeError) -> Self {
        Self::bad(format!("Request decode failed: {reason}"))
    }
}

/// The body of `agent/service/register`.
pub(crate) fn parse_registration(body: &[u8]) -> Result<NewService, Refusal> {
    let mut fields = JsonFields::parse(body)?;
    let id = fields.string("ID")?;
    let name = fields.string("Name")?;
    let kind = fields.string("Kind")?;
    let connect = fields.has("Proxy") | fields.has("Connect");
    let single = fields.object_if_any("Check")?;
    let several = fields.objects("Checks")?;
    // An ACL token has no effect without ACLs.
    fields.string("Token")?;
    let mut service = parse_service(&mut fields, id, name)?;
    fields.finish()?;
    let checks: Vec<RawCheck> =
        single.into_iter().chain(several).map(RawCheck::decode).collect::<Result<_, _>>()?;

    if service.name.is_empty() {
        return Err(Refusal::bad("Missing service name"));
    }
    if matches!(service.address.as_str(), "0.0.0.0" | "::" | "[::]") {
        return Err(Refusal::bad("Invalid service address"));
    }
    validate_meta(&service.meta).map_err(|why| Refusal::bad(format!("Invalid Service Meta: {why}")))?;
    let mut wanted = Vec::new();
    for check in checks.into_iter().filter(|check| !check.is_empty()) {
        check.validate_status("Status for checks must 'passing', 'warning', 'critical'")?;
        wanted.push(check.validate()?);
    }
    validate_weights(service.weights)?;
    if connect || kind.starts_with("connect-") || kind.ends_with("-gateway") {
        return Err(Refusal::unsupported("does not support Connect: leave out Kind, Proxy and Connect"));
    }
    if service.id.is_empty() {
        service.id.clone_from(&service.name);
    }
    Ok(NewService { service, checks: wanted })
}

/// The fields of a service in every kind of registration.
fn parse_service(fields: &mut JsonFields, id: String, name: String) -> Result<Service, Refusal> {
    let address = fields.string("Address")?;
    let port = fields.integer("Port")?;
    let mut named = fields.object("TaggedAddresses")?.entries("TaggedAddresses")?;
    named.extend(fields.object("tagged_addresses")?.entries("TaggedAddresses")?);
    let mut tagged_addresses = BTreeMap::new();
    for (name, mut fields) in named {
        let address = TaggedAddress { address: fields.string("Address")?, port: fields.integer("Port")? };
        fields.finish()?;
        tagged_addresses.insert(name, address);
    }
    if let Ok(ip) = address.parse::<std::net::IpAddr>() {
        let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
        for side in ["lan", "wan"] {
            let own = TaggedAddress { address: address.clone(), port };
            tagged_addresses.entry(format!("{side}_{family}")).or_insert(own);
        }
    }
    Ok(Service {
        id,
        name,
        tags: fields.strings("Tags")?,
        tagged_addresses,
        meta: fields.string_map("Meta")?,
        port,
        weights: match fields.object_if_any("Weights")? {
            None => Weights { passing: 1, warning: 1 },
            Some(mut weights) => {
                let read =
                    Weights { passing: weights.integer("Passing")?, warning: weights.integer("Warning")? };
                weights.finish()?;
                read
            }
        },
        enable_tag_override: fields.boolean("EnableTagOverride")? | fields.boolean("enable_tag_override")?,
        address,
    })
}

/// The body of `agent/check/register`: a check, and the id of its service.
pub(crate) fn parse_check_registration(body: &[u8]) -> Result<(NewCheck, Option<String>), Refusal> {
    let mut fields = JsonFields::parse(body)?;
    let id = fields.string("ID")?;
    fields.string("Token")?;
    if fields.has("CheckID") {
        return Err(Refusal::bad(r#"Request decode failed: json: unknown field "CheckID""#));
    }
    let raw = RawCheck { id, ..RawCheck::decode(fields)? };
    if raw.name.is_empty() {
        return Err(Refusal::bad("Missing check name"));
    }
    raw.validate_status("Bad check status")?;
    let service = Some(raw.service_id.clone()).filter(|id| !id.is_empty());
    Ok((raw.validate()?, service))
}

/// The body of `agent/check/update`.
pub(crate) fn parse_check_update(body: &[u8]) -> Result<(Status, String), Refusal> {
    let mut fields = JsonFields::parse(body)?;
    let status = fields.string("Status")?;
    let output = fields.string("Output")?;
    fields.finish()?;
    let status =
        Status::parse(&status).ok_or_else(|| Refusal::bad(format!("Invalid check status: '{status}'")))?;
    Ok((status, output))
}

/// A check as the body gives it.
#[derive(Debug, Default, PartialEq, Eq)]
struct RawCheck {
    id: String,
    name: String,
    notes: String,
    status: String,
    service_id: String,
    ttl: i64,
    interval: i64,
    timeout: i64,
    deregister_after: i64,
    http: String,
    headers: Vec<(String, String)>,
    method: String,
    body: String,
    tls_skip_verify: bool,
    tcp: String,
    output_max: i64,
    successes: i64,
    failures: i64,
    script: bool,
    /// A kind that this registry does not run.
    unsupported_kind: Option<&'static str>,
}

impl RawCheck {
    fn decode(mut fields: JsonFields) -> Result<Self, DecodeError> {
        let mut foreign = None;
        for name in ["GRPC", "AliasService", "AliasNode", "DockerContainerID", "docker_container_id"] {
            if fields.has(name) {
                foreign = Some(name);
            }
        }
        let script = !fields.strings("Args")?.is_empty() | !fields.strings("ScriptArgs")?.is_empty();
        for name in ["Shell", "script_args", "GRPCUseTLS", "ProxyHTTP", "ProxyGRPC"] {
            fields.has(name);
        }
        let late = fields.duration("DeregisterCriticalServiceAfter")?;
        let late_snake = fields.duration("deregister_critical_service_after")?;
        let read = Self {
            id: fields.string("CheckID")?,
            name: fields.string("Name")?,
            notes: fields.string("Notes")?,
            status: fields.string("Status")?,
            service_id: fields.string("ServiceID")? + &fields.string("service_id")?,
            ttl: fields.duration("TTL")?.0,
            interval: fields.duration("Interval")?.0,
            timeout: fields.duration("Timeout")?.0,
            deregister_after: if late == GoDuration(0) { late_snake.0 } else { late.0 },
            http: fields.string("HTTP")?,
            headers: fields.header_lists("Header")?,
            method: fields.string("Method")?,
            body: fields.string("Body")?,
            tls_skip_verify: fields.boolean("TLSSkipVerify")? | fields.boolean("tls_skip_verify")?,
            tcp: fields.string("TCP")?,
            output_max: fields.integer("OutputMaxSize")?,
            successes: fields.integer("SuccessBeforePassing")?,
            failures: fields.integer("FailuresBeforeCritical")?,
            script,
            unsupported_kind: foreign,
        };
        fields.finish()?;
        Ok(read)
    }

    /// An empty object, which Consul ignores.
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn validate_status(&self, complaint: &str) -> Result<(), Refusal> {
        match self.status.is_empty() || Status::parse(&self.status).is_some() {
            true => Ok(()),
            false => Err(Refusal::bad(complaint)),
        }
    }

    fn validate(self) -> Result<NewCheck, Refusal> {
        let is_probe = !self.http.is_empty() || !self.tcp.is_empty() || self.script;
        if self.interval > 0 && self.ttl > 0 {
            return Err(Refusal::bad("Invalid check: Interval and TTL cannot both be specified"));
        }
        if let Some(name) = self.unsupported_kind {
            return Err(Refusal::unsupported(&format!("runs TTL, HTTP and TCP checks only, not {name}")));
        }
        if is_probe && self.interval <= 0 {
            let text = "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks";
            return Err(Refusal::bad(text));
        }
        if !is_probe && self.ttl <= 0 {
            return Err(Refusal::bad("Invalid check: TTL must be > 0 for TTL checks"));
        }
        if self.output_max < 0 {
            return Err(Refusal::bad("Invalid check: MaxOutputMaxSize must be positive"));
        }
        if self.script {
            let text = "Scripts are disabled on this agent from remote calls; to enable, configure \
                        'enable_script_checks' to true";
            return Err(Refusal::internal(text));
        }
        if self.http.starts_with("https:") {
            return Err(Refusal::unsupported("runs HTTP checks without TLS only"));
        }
        Ok(NewCheck {
            kind: self.check_kind(),
            status: Status::parse(&self.status),
            successes: u32::try_from(self.successes).unwrap_or(0),
            failures: u32::try_from(self.failures).unwrap_or(0),
            deregister_after: GoDuration(self.deregister_after).positive(),
            id: Some(self.id).filter(|id| !id.is_empty()),
            name: self.name,
            notes: self.notes,
        })
    }

    fn check_kind(&self) -> CheckKind {
        if let Some(ttl) = GoDuration(self.ttl).positive() {
            return CheckKind::Ttl(ttl);
        }
        let target = if self.http.is_empty() {
            ProbeTarget::Tcp(self.tcp.clone())
        } else {
            ProbeTarget::Http {
                url: self.http.clone(),
                method: if self.method.is_empty() { "GET".to_owned() } else { self.method.clone() },
                headers: self.headers.clone(),
                body: self.body.clone(),
            }
        };
        CheckKind::Probe(Probe {
            target,
            interval: GoDuration(self.interval).positive().unwrap_or_default().max(INTERVAL_MIN),
            timeout: GoDuration(self.timeout).positive().unwrap_or(PROBE_TIMEOUT),
            output_max: usize::try_from(self.output_max).ok().filter(|max| *max > 0).unwrap_or(OUTPUT_MAX),
        })
    }
}

/// The body of `catalog/register`: a node, and optionally a service and checks of it. `datacenter`: the registry's.
pub(crate) fn parse_catalog_registration(
    body: &[u8],
    datacenter: &str,
) -> Result<(NodeInfo, Option<Service>, Vec<Check>), Refusal> {
    let mut fields = JsonFields::parse(body)?;
    let node = NodeInfo {
        id: fields.string("ID")?,
        name: fields.string("Node")?,
        address: fields.string("Address")?,
        tagged_addresses: Some(fields.string_map("TaggedAddresses")?).filter(|named| !named.is_empty()),
        meta: fields.string_map("NodeMeta")?,
    };
    let wanted = fields.string("Datacenter")?;
    fields.boolean("SkipNodeUpdate")?;
    let service = fields.object_if_any("Service")?;
    let check = fields.object_if_any("Check")?;
    let checks = fields.objects("Checks")?;
    fields.finish()?;
    require_datacenter(&wanted, datacenter)?;
    if node.name.is_empty() {
        return Err(Refusal::internal("Must provide node"));
    }
    if node.address.is_empty() {
        return Err(Refusal::internal("Must provide address if SkipNodeUpdate is not set"));
    }
    let service = service.map(parse_catalog_service).transpose()?;
    if let Some(service) = &service {
        validate_meta(&service.meta).map_err(|why| {
            let (node, id) = (&node.name, &service.id);
            Refusal::internal(format!(
                "failed inserting service: Invalid Service Meta for node {node} and serviceID {id}: {why}"
            ))
        })?;
    }
    let checks = check.into_iter().chain(checks).map(parse_catalog_check).collect::<Result<_, _>>()?;
    Ok((node, service, checks))
}

fn parse_catalog_service(mut fields: JsonFields) -> Result<Service, Refusal> {
    let name = fields.string("Service")?;
    let id = fields.string("ID")?;
    let id = if id.is_empty() { name.clone() } else { id };
    let service = parse_service(&mut fields, id, name)?;
    fields.finish()?;
    Ok(service)
}

fn parse_catalog_check(mut fields: JsonFields) -> Result<Check, Refusal> {
    let name = fields.string("Name")?;
    let id = fields.string("CheckID")?;
    fields.string("Node")?;
    let status = fields.string("Status")?;
    let check = Check {
        id: if id.is_empty() { name.clone() } else { id },
        name,
        status: Status::parse(&status).unwrap_or(Status::Critical),
        notes: fields.string("Notes")?,
        output: fields.string("Output")?,
        service_id: fields.string("ServiceID")?,
        service_name: fields.string("ServiceName")?,
        service_tags: fields.strings("ServiceTags")?,
        kind: "",
    };
    if fields.has("Definition") {
        return Err(Refusal::unsupported("runs no checks of nodes without an agent: leave out Definition"));
    }
    fields.finish()?;
    Ok(check)
}

/// The body of `catalog/deregister`: a node, and optionally a service or a check of it. `datacenter`: the registry's.
pub(crate) fn parse_catalog_removal(
    body: &[u8],
    datacenter: &str,
) -> Result<(String, Option<String>, Option<String>), Refusal> {
    let mut fields = JsonFields::parse(body)?;
    let node = fields.string("Node")?;
    let service = fields.string("ServiceID")?;
    let check = fields.string("CheckID")?;
    let wanted = fields.string("Datacenter")?;
    fields.finish()?;
    require_datacenter(&wanted, datacenter)?;
    if node.is_empty() {
        return Err(Refusal::internal("Must provide node"));
    }
    let named = |id: String| Some(id).filter(|id| !id.is_empty());
    Ok((node, named(service), named(check)))
}

/// Refuses a write for another datacenter than the registry's. For the catalog it is in the body, and the parameter `dc` has
/// no effect.
pub(crate) fn require_datacenter(wanted: &str, own: &str) -> Result<(), Refusal> {
    if wanted.is_empty() || wanted == own {
        return Ok(());
    }
    Err(Refusal::internal("No path to datacenter"))
}

fn validate_weights(weights: Weights) -> Result<(), Refusal> {
    const RANGE: std::ops::RangeInclusive<i64> = 0..=65_535;
    if weights.passing < 1 {
        return Err(Refusal::bad("Invalid Weights: Passing must be greater than 0"));
    }
    if !RANGE.contains(&weights.passing) || !RANGE.contains(&weights.warning) {
        return Err(Refusal::bad("Invalid Weights: DNS Weight must be between 0 and 65535"));
    }
    Ok(())
}

fn validate_meta(meta: &BTreeMap<String, String>) -> Result<(), String> {
    const PAIRS: usize = 64;
    const KEY: usize = 128;
    const VALUE: usize = 512;
    if meta.len() > PAIRS {
        return Err(format!("Node metadata cannot contain more than {PAIRS} key/value pairs"));
    }
    let allowed = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
    for (key, value) in meta {
        let why = if key.is_empty() {
            "Key cannot be blank".to_owned()
        } else if !key.chars().all(allowed) {
            "Key contains invalid characters".to_owned()
        } else if key.len() > KEY {
            format!("Key is too long (limit: {KEY} characters)")
        } else if key.starts_with("consul-") {
            "Key prefix 'consul-' is reserved for internal use".to_owned()
        } else if value.len() > VALUE {
            format!("Value is too long (limit: {VALUE} characters)")
        } else {
            continue;
        };
        return Err(format!("Couldn't load metadata pair ('{key}', '{value}'): {why}"));
    }
    Ok(())
}
