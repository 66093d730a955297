//! What a request for the configuration asks for.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};
use outrigger_app_config::EnvQuoting;
use outrigger_config::ConfigFormat;
use percent_encoding::percent_decode_str;

use crate::api::{problem::ApiProblem, query::pairs, reason::ApiReason};

/// The formats by their names.
const FORMATS: [(&str, ConfigFormat); 4] = [
    ("json", ConfigFormat::Json),
    ("env", ConfigFormat::Env),
    ("yaml", ConfigFormat::Yaml),
    ("properties", ConfigFormat::Properties),
];

/// Media types of each, and the ranges that include them.
const MEDIA_TYPES: [(&str, ConfigFormat); 11] = [
    ("application/json", ConfigFormat::Json),
    ("*/*", ConfigFormat::Json),
    ("application/*", ConfigFormat::Json),
    ("application/yaml", ConfigFormat::Yaml),
    ("application/x-yaml", ConfigFormat::Yaml),
    ("text/yaml", ConfigFormat::Yaml),
    ("text/x-yaml", ConfigFormat::Yaml),
    ("text/x-java-properties", ConfigFormat::Properties),
    ("text/x-properties", ConfigFormat::Properties),
    ("text/plain", ConfigFormat::Env),
    ("text/*", ConfigFormat::Env),
];

/// The query.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ConfigQuery {
    /// Absent: by `Accept`.
    pub(super) format: Option<ConfigFormat>,
    /// The keys that gave the properties are asked for.
    pub(super) is_about_origins: bool,
    pub(super) quoting: EnvQuoting,
}

impl ConfigQuery {
    /// # Errors
    /// Names the parameter that is wrong, and what is allowed.
    pub(super) fn read(query: &str) -> Result<Self, ApiProblem> {
        let mut out = Self::default();
        for (name, value) in pairs(query) {
            let name = decode("the name of a parameter", name)?;
            let value = decode(&format!("the value of {name}"), value)?;
            match (&*name, &*value) {
                ("format", name) => {
                    let found = FORMATS.iter().find(|(known, _)| *known == name);
                    let (_, format) = found.ok_or_else(|| {
                        let names = FORMATS.map(|(name, _)| name).join(", ");
                        ApiProblem::bad_request(format!("there is no format {name:?}; there are {names}"))
                    })?;
                    out.format = Some(*format);
                }
                ("origins", "" | "true") => out.is_about_origins = true,
                ("origins", "false") => out.is_about_origins = false,
                ("quote", "auto") => out.quoting = EnvQuoting::WhereNeeded,
                ("quote", "never") => out.quoting = EnvQuoting::Never,
                ("quote", _) => {
                    return Err(ApiProblem::bad_request("quote is auto or never, for format=env"));
                }
                ("origins", _) => return Err(ApiProblem::bad_request("origins is true or false")),
                (other, _) => {
                    let detail =
                        format!("there is no parameter {other:?}; there are format, origins and quote");
                    return Err(ApiProblem::bad_request(detail));
                }
            }
        }
        if out.quoting == EnvQuoting::Never && out.format != Some(ConfigFormat::Env) {
            return Err(ApiProblem::bad_request("quote=never is for format=env"));
        }
        Ok(out)
    }

    /// # Errors
    /// When a stream cannot have what is asked for.
    pub(super) fn check_stream(&self) -> Result<(), ApiProblem> {
        let is_json = self.format.is_none_or(|format| format == ConfigFormat::Json);
        if is_json && !self.is_about_origins {
            return Ok(());
        }
        Err(ApiProblem::bad_request(
            "the stream has the configuration as JSON alone; ask /v1/config with each event",
        ))
    }
}

/// `what`: the text, for the problem.
fn decode<'a>(what: &str, text: &'a str) -> Result<Cow<'a, str>, ApiProblem> {
    let not_text = |_| ApiProblem::bad_request(format!("{what} ({text}) is not UTF-8"));
    percent_decode_str(text).decode_utf8().map_err(not_text)
}

/// The format that the client prefers; JSON where it names none. Of two of one weight, the first one named.
///
/// # Errors
/// When it takes none of them.
pub(super) fn accepted_format(headers: &HeaderMap) -> Result<ConfigFormat, ApiProblem> {
    let fields = headers.get_all(header::ACCEPT).iter().filter_map(|field| field.to_str().ok());
    let ranges: Vec<_> =
        fields.flat_map(|field| field.split(',')).map(str::trim).filter(|one| !one.is_empty()).collect();
    if ranges.is_empty() {
        return Ok(ConfigFormat::Json);
    }
    let mut best: Option<(f32, ConfigFormat)> = None;
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        let known = MEDIA_TYPES.iter().find(|(known, _)| *known == name);
        if let Some((_, format)) = known
            && weight > best.map_or(0.0, |(weight, _)| weight)
        {
            best = Some((weight, *format));
        }
    }
    best.map(|(_, format)| format).ok_or_else(|| {
        let detail = "the configuration can be had as application/json, application/yaml, text/x-java-properties and text/plain \
                      (NAME=value)";
        ApiProblem::new(ApiReason::NotAcceptable, detail)
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn accepted(accept: &'static str) -> Option<ConfigFormat> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
        accepted_format(&headers).ok()
    }

    #[test]
    fn the_format_is_that_of_the_largest_weight() {
        assert_eq!(accepted_format(&HeaderMap::new()).ok(), Some(ConfigFormat::Json));
        for (accept, expected) in [
            ("*/*", Some(ConfigFormat::Json)),
            ("application/yaml", Some(ConfigFormat::Yaml)),
            ("text/plain, application/json", Some(ConfigFormat::Env)),
            ("text/plain;q=0.5, application/json;q=0.9", Some(ConfigFormat::Json)),
            ("Text/X-Java-Properties; charset=utf-8", Some(ConfigFormat::Properties)),
            ("text/html, */*;q=0.1", Some(ConfigFormat::Json)),
            ("text/html", None),
            ("application/json;q=0", None),
            ("application/json;q=x", None),
            ("", Some(ConfigFormat::Json)),
        ] {
            assert_eq!(accepted(accept), expected, "{accept}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_what_there_is() {
        let query = ConfigQuery::read("format=env&quote=never&origins").unwrap();
        let expected = ConfigQuery {
            format: Some(ConfigFormat::Env),
            is_about_origins: true,
            quoting: EnvQuoting::Never,
        };
        assert_eq!(query, expected);
        assert_eq!(ConfigQuery::read("origins=false&quote=auto").unwrap(), ConfigQuery::default());
        assert_eq!(ConfigQuery::read("form%61t=%65nv").unwrap().format, Some(ConfigFormat::Env));
        for (query, expected) in [
            ("format=%FF", "the value of format (%FF) is not UTF-8"),
            ("%FF=1", "the name of a parameter (%FF) is not UTF-8"),
            ("a=b", "there is no parameter \"a\""),
        ] {
            let problem = format!("{:?}", ConfigQuery::read(query).unwrap_err()).replace("\\\"", "\"");
            assert!(problem.contains(expected), "{query}: {problem}");
        }
        for query in [
            "format=xml",
            "format=value",
            "format=",
            "origins=1",
            "quote=x",
            "quote=never",
            "a=b",
            "format=json&quote=never",
        ] {
            assert!(ConfigQuery::read(query).is_err(), "{query}");
        }
        assert!(ConfigQuery::read("format=json").unwrap().check_stream().is_ok());
        for query in ["format=env", "origins"] {
            assert!(ConfigQuery::read(query).unwrap().check_stream().is_err(), "{query}");
        }
    }
}
