//! `/explain`: what a request would meet; as JSON and as text.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use super::services::describe_chain;
use outrigger_config::{count, escape_control, format_duration};
use outrigger_proxy::{
    ExplainRequest, ExplainedCandidate, ExplainedChain, ExplainedDestination, ExplainedFailover,
    ExplainedLimits, ExplainedMirror, ExplainedPick, ExplainedRefusal, ExplainedRequest, ExplainedRoute,
    ExplainedRules, ExplainedSplit, ExplainedZone, Explanation,
};
use percent_encoding::percent_decode_str;

/// Longest query of `/explain`, bytes: the head of a request may have as many.
const MAX_QUERY: usize = 64 * 1024;

/// The query of `/explain`.
#[derive(Debug)]
pub(crate) struct ExplainQuery {
    pub(crate) request: ExplainRequest,
    pub(crate) asks_text: bool,
}

impl ExplainQuery {
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub(crate) fn parse(query: &str) -> Result<Self, String> {
        if query.len() > MAX_QUERY {
            return Err("the query has more than 64 KiB".to_owned());
        }
        let (mut url, mut method, mut format) = (None, None, None);
        let mut headers = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| format!("{name} is not UTF-8"))?;
            let once = match name {
                "url" => &mut url,
                "method" => &mut method,
                "format" => &mut format,
                "header" => {
                    headers.push(value);
                    continue;
                }
                other => {
                    return Err(format!("{other:?} is none of url, method, header, format"));
                }
            };
            if once.replace(value).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        let asks_text = match format.as_deref() {
            Some("text") => true,
            None | Some("json") => false,
            Some(_) => return Err("format is text or json".to_owned()),
        };
        let url = url.ok_or("url is missing: /explain?url=http://orders/x")?;
        let request = ExplainRequest { url, method: method.unwrap_or_else(|| "GET".to_owned()), headers };
        Ok(Self { request, asks_text })
    }
}

fn decode(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8().ok().map(Cow::into_owned)
}

/// For people. The texts of others are escaped.
pub(crate) fn explanation_text(explanation: &Explanation) -> String {
    let mut out = Lines::default();
    let Explanation { request, name, sent, refused, answered_here, chains, rules, mirror, destinations } =
        explanation;
    out.request(request);
    if let Some(name) = name {
        let by = match name.by {
            "listener" => "the listener is the one of",
            "path" => "the path names",
            _ => "the Host names",
        };
        out.row("name", format_args!("{by} the service {}", name.service));
    }
    if *answered_here {
        out.row("answered", "by the sidecar itself: Max-Forwards is 0");
    }
    chains.iter().for_each(|chain| out.chain(chain));
    rules.iter().for_each(|rules| out.rules(rules));
    if let Some(refused) = refused {
        out.row("refused", refusal(refused));
    }
    if let Some(sent) = sent {
        out.row("sent", format_args!("{} {}, Host {}", request.method, sent.target, sent.host));
    }
    if let Some(mirror) = mirror {
        out.mirror(mirror);
    }
    for destination in destinations {
        out.line("");
        out.destination(destination);
    }
    out.0
}

fn refusal(refused: &ExplainedRefusal) -> String {
    format!("{} {}: {}", refused.status, refused.reason, refused.detail)
}

fn duration(ms: u64) -> String {
    format_duration(Duration::from_millis(ms))
}

fn percent(share: f64) -> String {
    let text = format!("{:.2}", share * 100.0);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[derive(Default)]
struct Lines(String);

// Writing to a `String` cannot fail.
impl Lines {
    fn line(&mut self, text: impl ToString) {
        self.0.push_str(&escape_control(&text.to_string()));
        self.0.push('\n');
    }

    fn row(&mut self, title: &str, text: impl ToString) {
        self.line(format!("{title:<10} {}", text.to_string()).trim_end());
    }

    fn inner(&mut self, title: &str, text: impl ToString) {
        self.line(format!("  {title:<10} {}", text.to_string()).trim_end());
    }

    fn request(&mut self, request: &ExplainedRequest) {
        let ExplainedRequest { method, target, host, listener, listener_service } = request;
        let host = host.as_ref().map(|host| format!(", Host {host}")).unwrap_or_default();
        let listener = listener.as_ref().map(|addr| format!(", to the listener {addr}")).unwrap_or_default();
        let of = listener_service.as_ref().map(|service| format!(" of {service}")).unwrap_or_default();
        self.row("request", format_args!("{method} {target}{host}{listener}{of}"));
    }

    fn chain(&mut self, ExplainedChain { service, status }: &ExplainedChain) {
        let more = match status.state {
            "unasked" => ": the first request asks Consul for it",
            "ignored" => ": the settings say where requests go",
            "default" => ": it says nothing of the requests",
            _ => "",
        };
        self.row("chain", format_args!("Consul's, of {service}: {}{more}", describe_chain(status)));
        for problem in &status.problems {
            self.row("", format_args!("no effect: {}", problem.problem));
        }
    }

    fn rules(&mut self, rules: &ExplainedRules) {
        for passed in &rules.passed {
            self.row("no match", format_args!("{} ({}): {}", passed.key, passed.origin, passed.why_not));
        }
        if let Some(route) = &rules.route {
            self.route(route);
        } else if !rules.passed.is_empty() {
            self.row("route", "none matches");
        }
        if let Some(split) = &rules.split {
            self.split(&rules.service, split);
        }
    }

    fn route(&mut self, route: &ExplainedRoute) {
        let ExplainedRoute { key, origin, asks, to, on_empty, is_empty, sets_headers, removes_headers } =
            route;
        let asks = if asks.is_empty() { "takes every request".to_owned() } else { format!("matches {asks}") };
        self.row("route", format_args!("{key} ({origin}) {asks}: to {to}"));
        match on_empty {
            Some(other) if *is_empty => {
                self.row("", format_args!("that has no usable instance: to {other} (on_empty)"));
            }
            Some(other) => self.row("", format_args!("to {other} while that has no usable instance")),
            None => {}
        }
        for (what, names) in [("sets", sets_headers), ("removes", removes_headers)] {
            if !names.is_empty() {
                self.row("", format_args!("{what} the headers {}", names.join(", ")));
            }
        }
    }

    fn split(&mut self, service: &str, split: &ExplainedSplit) {
        let how = match (&split.sticky, split.is_known) {
            (Some(sticky), true) => format!("by {sticky}, which the request has"),
            (Some(sticky), false) => format!("in turn, because the request has not {sticky}"),
            (None, _) => "in turn".to_owned(),
        };
        self.row("split", format_args!("of {service}, {} ({}): {how}", split.key, split.origin));
        for entry in &split.entries {
            let (share, weight) = (percent(entry.share), entry.weight);
            let chosen = if entry.chosen { ": this request" } else { "" };
            let empty = if entry.usable { "" } else { ", no usable instance" };
            self.row("", format_args!("{share:>7}  {} (weight {weight}{empty}){chosen}", entry.to));
        }
    }

    fn mirror(&mut self, mirror: &ExplainedMirror) {
        let ExplainedMirror { key, origin, to, share, why_not } = mirror;
        let what = match why_not {
            Some(why) => format!("no copy goes to {to}: {why}"),
            None => format!("a copy of {} of such requests goes to {to}", percent(*share)),
        };
        self.row("mirror", format_args!("{key} ({origin}): {what}"));
    }

    fn destination(&mut self, one: &ExplainedDestination) {
        let share =
            if one.share < 1.0 { format!(", {} of requests", percent(one.share)) } else { String::new() };
        let subset = one
            .subset
            .as_ref()
            .map(|subset| format!(", the subset {} ({}, {})", subset.name, subset.key, subset.origin));
        let target = one.target.as_ref().filter(|_| one.subset.is_none());
        let target = target.map(|key| format!(" ({key})")).unwrap_or_default();
        self.line(format_args!("{}{target}{}{share}", one.service, subset.unwrap_or_default()));
        if let Some(refused) = &one.refused {
            self.inner("refused", refusal(refused));
        }
        let first_answer = duration(one.registry.first_answer_ms);
        let heard =
            one.registry.heard_ago_ms.map(|ms| format!(", last heard {} ago", duration(ms / 1000 * 1000)));
        let heard = heard.unwrap_or_default();
        self.inner(
            "registry",
            match one.registry.state {
                "not_open" => format!(
                    "not open: the first request opens the service, and waits up to {first_answer} for the registry"
                ),
                "unasked" => format!("no answer yet; a request waits for it, up to {first_answer} after the first one"),
                "remembered" => format!("remembered from before the restart{heard}"),
                state => format!("{state}{heard}"),
            },
        );
        if let Some(error) = &one.registry.error {
            self.inner("", error);
        }
        let breaker = &one.breaker;
        let left = breaker.refuses_for_ms.map(|ms| format!(", refuses requests for {}", duration(ms)));
        self.inner("breaker", format_args!("{}{}", breaker.state, left.unwrap_or_default()));
        if let Some(bulkhead) = &one.bulkhead {
            let (used, most, waiting) = (bulkhead.in_flight, bulkhead.max_in_flight, bulkhead.pending);
            self.inner("bulkhead", format_args!("{used} of {most} under way, {waiting} waiting"));
        }
        self.limits(&one.limits);
        if one.registry.state != "not_open" {
            self.pick(&one.pick);
            self.candidates(&one.candidates);
        }
        if let Some(failover) = &one.failover {
            self.failover(failover);
        }
        self.line("  without a usable instance:");
        for (n, what) in one.without_instance.iter().enumerate() {
            self.line(format_args!("    {}. {what}", n + 1));
        }
        self.settings(one);
    }

    fn limits(&mut self, limits: &ExplainedLimits) {
        let mut bounds = vec![format!("{} to the head of the response", duration(limits.timeout_ms))];
        bounds.extend(limits.per_try_timeout_ms.map(|ms| format!("{} for one attempt", duration(ms))));
        bounds.push(format!("{} for a connect", duration(limits.connect_timeout_ms)));
        bounds.extend(limits.deadline_ms.map(|ms| format!("{} to the end of the response", duration(ms))));
        bounds.extend(limits.own_deadline_ms.map(|ms| format!("{} by the request itself", duration(ms))));
        self.inner("time-outs", bounds.join(", "));
        let budget = limits.retry_budget.map(|left| format!("; the budget pays for {left} now"));
        let budget = budget.unwrap_or_default();
        let retries = match limits {
            ExplainedLimits { forbids_retries: true, .. } => {
                "none: the request forbids them (x-outrigger-retry: off)".to_owned()
            }
            ExplainedLimits { max_retries: 0, .. } => "none: retry.max_retries is 0".to_owned(),
            ExplainedLimits { repeatable: true, max_retries, statuses, .. } => {
                let statuses: Vec<_> = statuses.iter().map(ToString::to_string).collect();
                let statuses = if statuses.is_empty() { "none".to_owned() } else { statuses.join(", ") };
                format!("up to {max_retries}, after a failed connection and the statuses {statuses}{budget}")
            }
            ExplainedLimits { max_retries, .. } => format!(
                "up to {max_retries}, only where nothing was sent: the method may not be repeated without an Idempotency-Key"
            ),
        };
        self.inner("retries", retries);
        if let Some(ms) = limits.hedge_after_ms {
            self.inner("hedge", format_args!("a second attempt after {}", duration(ms)));
        }
    }

    fn pick(&mut self, pick: &ExplainedPick) {
        let ExplainedPick { balance, from, service, rank, among, zones } = pick;
        let instances = count(*among, "instance");
        let what = match *rank {
            "healthy" => "which are healthy",
            "probation" => "on probation: the request decides",
            "stalled" => "which are healthy and stalled",
            "last_resort" => "as a last resort",
            "panic" => "which are ejected (panic mode)",
            _ => "none",
        };
        match service {
            None => self.inner("pick", format_args!("{balance}: no instance")),
            Some(service) => {
                let by = if *from == "failover" { " by the failover" } else { "" };
                self.inner("pick", format_args!("{balance} among {instances} of {service}{by}, {what}"));
            }
        }
        if !zones.is_empty() {
            let zone = |ExplainedZone { zone, share }: &ExplainedZone| {
                let zone = if zone.is_empty() { "none" } else { zone };
                format!("{zone} {}", percent(*share))
            };
            self.inner("zones", zones.iter().map(zone).collect::<Vec<_>>().join(", "));
        }
    }

    fn candidates(&mut self, candidates: &[ExplainedCandidate]) {
        if candidates.is_empty() {
            return self.line("  no instances");
        }
        let width = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|text| escape_control(text).chars().count()).max().unwrap_or_default()
        };
        let ids = width(&mut candidates.iter().map(|one| &one.id)).max(8);
        let nodes = width(&mut candidates.iter().map(|one| &one.node)).max(4);
        let addresses = width(&mut candidates.iter().map(|one| &one.address)).max(7);
        self.line(format_args!(
            "  {:ids$}  {:nodes$}  {:addresses$}  {:11}  {:>6}  TAKEN",
            "INSTANCE", "NODE", "ADDRESS", "STATE", "WEIGHT"
        ));
        for one in candidates {
            let ExplainedCandidate { id, node, address, status, weight, takes, why_not, .. } = one;
            let (id, node) = (escape_control(id), escape_control(node));
            let mut line =
                format!("  {id:ids$}  {node:nodes$}  {address:addresses$}  {status:11}  {weight:>6}  ");
            line.push_str(if *takes { "yes" } else { "no" });
            if let Some(why) = why_not {
                let _ = write!(line, ": {why}");
            }
            self.line(line);
        }
    }

    fn failover(&mut self, failover: &ExplainedFailover) {
        let ExplainedFailover { key, origin, active, return_after_ms, returns_in_ms, targets } = failover;
        let now = match (active, returns_in_ms) {
            (false, _) => "not active".to_owned(),
            (true, Some(ms)) => format!("active; requests return in {}", duration(*ms)),
            (true, None) => format!(
                "active; requests return when an own instance has been healthy for {}",
                duration(*return_after_ms)
            ),
        };
        self.inner("failover", format_args!("{key} ({origin}): {now}"));
        for target in targets {
            let subset =
                target.subset.as_ref().map(|name| format!(", the subset {name}")).unwrap_or_default();
            self.inner("", format_args!("to {}{subset}, {} usable", target.service, target.usable));
            self.candidates(&target.candidates);
        }
    }

    fn settings(&mut self, one: &ExplainedDestination) {
        self.line(format_args!("  settings ({}):", one.settings_at));
        let keys = one.settings.iter().map(|one| one.key.len()).max().unwrap_or_default();
        let values = one.settings.iter().map(|one| one.value.chars().count()).max().unwrap_or_default();
        for setting in &one.settings {
            let route = match (&one.target, setting.of_route) {
                (None, true) => " (the route)",
                (Some(_), true) | (_, false) => "",
            };
            let (key, value, origin) = (&setting.key, &setting.value, &setting.origin);
            self.line(format_args!("    {key:keys$}  {value:values$}  {origin}{route}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_a_request() {
        let query =
            "url=http%3A%2F%2Forders%2Fx%3Fa%3D1&method=POST&header=X-A:+1%2C2&header=b%3Bc;&format=text";
        let parsed = ExplainQuery::parse(query).unwrap();
        assert!(parsed.asks_text);
        let headers = vec!["X-A: 1,2".to_owned(), "b;c;".to_owned()];
        let (url, method) = ("http://orders/x?a=1".to_owned(), "POST".to_owned());
        assert_eq!(parsed.request, ExplainRequest { url, method, headers });
        for (query, wrong) in [
            ("", "url is missing"),
            ("url=a&url=b", "url is given twice"),
            ("url=a&uri=b", "\"uri\" is none of"),
            ("url=%ff", "url is not UTF-8"),
            ("url=a&format=xml", "format is text or json"),
        ] {
            let error = ExplainQuery::parse(query).unwrap_err();
            assert!(error.contains(wrong), "{query}: {error}");
        }
        assert!(ExplainQuery::parse(&format!("url={}", "a".repeat(MAX_QUERY))).is_err());
    }

    #[test]
    fn shares_read_as_percent() {
        let read = [1.0, 0.05, 0.333_33, 0.0].map(percent);
        assert_eq!(read, ["100%", "5%", "33.33%", "0%"]);
    }

    #[test]
    fn the_text_of_others_breaks_no_line() {
        let request = ExplainedRequest {
            method: "GET".into(),
            target: "/\u{1b}[2J".into(),
            host: Some("a\nb".into()),
            ..ExplainedRequest::default()
        };
        let explanation = Explanation { request, ..Explanation::default() };
        let text = explanation_text(&explanation);
        assert_eq!(text, "request    GET /\\u{1b}[2J, Host a\\nb\n");
    }
}
