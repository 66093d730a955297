//! The settings of one service with their origins, for the explanation of a request. It never holds a secret.

use crate::{
    Origin, Origins, PathMatch, Policy, RouteMatch, ValueMatch,
    render::describe_layers,
    settings::{effective_layers, list_policy},
    traffic_text,
};

/// A setting of a service's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySetting {
    /// Its key below the service: `retry.max_retries`.
    pub key: String,
    /// Its value as in a settings file.
    pub value: String,
    /// Where the value comes from, and the places that it overrides, as `/config` shows them.
    pub origin: String,
    /// A route sets it.
    pub is_of_route: bool,
}

/// The key of what the registry says of a service's requests, which no file has.
pub const CHAIN_KEY: &str = "chain";
const CHAIN_ORIGIN: &str = "Consul's chain";

/// Every setting of a policy. `place`: the key under which it is (`upstreams[0]`, `defaults`). `route`: the key of a route that sets
/// some of them, with the policy that follows.
pub fn list_policy_settings(
    origins: &Origins,
    place: &str,
    policy: &Policy,
    route: Option<(&str, &Policy)>,
) -> Vec<PolicySetting> {
    let own = list_policy(policy);
    let with_route = route.map(|(_, policy)| list_policy(policy)).unwrap_or_default();
    let setting = |(key, value): (String, String), is_of_route: bool| {
        let layers = effective_layers(origins, &format!("{place}.{key}"));
        let below = describe_layers(&layers);
        let origin = match route.filter(|_| is_of_route) {
            Some((route, _)) => {
                format!("{}, over {below}", describe_origin(origins, &format!("{route}.{key}")))
            }
            None => below,
        };
        PolicySetting { key, value, origin, is_of_route }
    };
    if with_route.is_empty() {
        return own.into_iter().map(|one| setting(one, false)).collect();
    }
    let is_changed = |one: &(String, String)| !own.contains(one);
    with_route.iter().map(|one| setting(one.clone(), is_changed(one))).collect()
}

/// Where a rule comes from: `upstreams[0].routes[2]`, or, where that has no place of its own, the list or the section that it is in.
pub fn describe_origin(origins: &Origins, key: &str) -> String {
    if key.strip_prefix(CHAIN_KEY).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
        return CHAIN_ORIGIN.to_owned();
    }
    let mut key = key;
    loop {
        let layers = origins.layers(key);
        if !layers.is_empty() {
            return describe_layers(&layers.iter().collect::<Vec<_>>());
        }
        let shorter = if key.ends_with(']') { key.rsplit_once('[') } else { key.rsplit_once('.') };
        match shorter {
            Some((parent, _)) => key = parent,
            None => return Origin::Default.to_string(),
        }
    }
}

/// What a route asks of a request, as in a settings file. Empty: nothing.
pub fn describe_match(wanted: &RouteMatch) -> String {
    if *wanted == RouteMatch::default() { String::new() } else { traffic_text::match_of(wanted).to_string() }
}

/// What a route asks of a path, as in a settings file.
pub fn describe_path_match(wanted: &PathMatch) -> String {
    traffic_text::path_match(wanted).to_string()
}

/// What a route asks of a header field, as in a settings file; of a field with credentials, not its value.
pub fn describe_header_match(name: &str, wanted: &ValueMatch) -> String {
    traffic_text::header_match(name, wanted).to_string()
}

/// What a route asks of a parameter of the query, as in a settings file.
pub fn describe_value_match(wanted: &ValueMatch) -> String {
    traffic_text::value_match(wanted).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, Overrides, load};

    const TEXT: &str = "defaults:
  timeout: 9s
upstreams:
  - service: orders
    retry: {max_retries: 1}
    subsets:
      v1: {tags: [v1]}
    routes:
      - match: {path: {prefix: /a}}
        to: {subset: v1}
      - match: {headers: {x-a: {present: true}}}
        timeout: 2s
";

    #[test]
    fn a_setting_has_its_origin_and_what_it_overrides() {
        let loaded = load(Some(("o.yaml", TEXT)), &Environment::default(), &Overrides::default()).unwrap();
        let upstream = &loaded.config.upstreams[0];
        let route = upstream.traffic.routes[1].policy.as_deref().unwrap();
        let origins = &loaded.origins;
        let find = |place, policy, route, key: &str| {
            let all = list_policy_settings(origins, place, policy, route);
            let one = all.into_iter().find(|one| one.key == key).unwrap();
            (one.value, one.origin, one.is_of_route)
        };
        let route = Some(("upstreams[0].routes[1]", route));
        for (route, key, expected) in [
            (None, "retry.max_retries", ("1", "o.yaml:5", false)),
            (None, "timeout", ("9s", "o.yaml:2", false)),
            (None, "pool.max_idle", ("128", "default", false)),
            (route, "timeout", ("2s", "o.yaml:12, over o.yaml:2", true)),
            (route, "retry.max_retries", ("1", "o.yaml:5", false)),
        ] {
            let found = find("upstreams[0]", &upstream.policy, route, key);
            assert_eq!((found.0.as_str(), found.1.as_str(), found.2), expected, "{key}");
        }
        let found = find("defaults", &loaded.config.defaults, None, "timeout");
        assert_eq!((found.0.as_str(), found.1.as_str()), ("9s", "o.yaml:2"));
        for (key, expected) in [
            ("upstreams[0].routes[0]", "o.yaml:9"),
            ("upstreams[0].routes[1]", "o.yaml:11"),
            ("upstreams[0].subsets.v1", "o.yaml:7"),
            ("upstreams[0].subsets", "o.yaml:7"),
            ("defaults.mirror", "default"),
            ("chain.routes[0].timeout", "Consul's chain"),
        ] {
            assert_eq!(describe_origin(&loaded.origins, key), expected, "{key}");
        }
    }

    #[test]
    fn a_match_reads_as_in_a_file() {
        let loaded = load(Some(("o.yaml", TEXT)), &Environment::default(), &Overrides::default()).unwrap();
        let routes = &loaded.config.upstreams[0].traffic.routes;
        assert_eq!(describe_match(&routes[0].matcher), "{path: {prefix: /a}}");
        assert_eq!(describe_path_match(routes[0].matcher.path.as_ref().unwrap()), "{prefix: /a}");
        assert_eq!(describe_value_match(&routes[1].matcher.headers[0].1), "{present: true}");
        assert_eq!(describe_match(&RouteMatch::default()), "");
    }
}
