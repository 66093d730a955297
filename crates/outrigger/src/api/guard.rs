//! Refuses what must not use the API: pages in browsers, requests for foreign hosts, and requests without the token.
//!
//! A page in a browser can send requests to localhost, and a name that DNS points here can even read the answers. No page needs the API: so
//! every request with `Origin`, or that a browser marks with `Sec-Fetch-Site`, is refused, reads included.

use std::{io, path::Path, path::PathBuf, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use outrigger_config::{ListenHost, SmallFile};

use super::{problem::ApiProblem, reason::ApiReason};
use crate::admin::{AllowedHosts, OwnNames, single_host};

/// The header with the token.
const TOKEN_HEADER: &str = "x-outrigger-token";
/// Largest token file, bytes.
const MAX_TOKEN_FILE: usize = 4096;

/// Reads `api.token_file`.
pub(crate) type TokenFile = Arc<dyn Fn() -> Option<PathBuf> + Send + Sync>;

/// What a request must have.
pub(crate) struct ApiGuard {
    /// The address of the listener. Absent: a Unix socket, which no page of a browser reaches, so that any host may be named.
    pub(crate) listen: Option<ListenHost>,
    pub(crate) own_names: OwnNames,
    /// Reads `api.token_file`, which a reload changes. The file is read for each request, so that a new token is known at once.
    pub(crate) token_file: TokenFile,
}

/// The token in a file: its content without the white space at its ends.
///
/// # Errors
/// When the file cannot be read, or is empty: an empty token would be no protection.
pub(crate) fn read_token(path: &Path) -> io::Result<String> {
    let (text, _) = SmallFile::read_text(path, MAX_TOKEN_FILE)?;
    let token = text.trim();
    if token.is_empty() {
        return Err(io::Error::other("it is empty"));
    }
    Ok(token.to_owned())
}

/// The middleware.
pub(super) async fn check_request(
    State(guard): State<Arc<ApiGuard>>,
    request: Request,
    next: Next,
) -> Response {
    let hosts = guard.listen.clone().map(|listen| AllowedHosts { listen, names: (guard.own_names)() });
    if let Err(problem) = check_origin(hosts.as_ref(), request.uri(), request.headers()) {
        return problem.into_response();
    }
    if let Some(path) = (guard.token_file)() {
        let read = tokio::task::spawn_blocking(move || read_token(&path).map_err(|error| (path, error)));
        let given = request.headers().get(TOKEN_HEADER).map(|given| given.as_bytes().to_owned());
        match read.await {
            Ok(Ok(token)) if given.is_some_and(|given| is_same(&given, token.as_bytes())) => {}
            Ok(Ok(_)) => {
                let detail = "the header x-outrigger-token must have the content of the file api.token_file";
                return ApiProblem::new(ApiReason::TokenRequired, detail).into_response();
            }
            Ok(Err((path, error))) => {
                let detail = format!("api.token_file {} cannot be read: {error}", path.display());
                return ApiProblem::new(ApiReason::TokenUnreadable, detail).into_response();
            }
            // A panic was reported.
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
    next.run(request).await
}

fn check_origin(hosts: Option<&AllowedHosts>, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiProblem> {
    let is_own = match hosts {
        Some(hosts) => hosts.host_of(uri, headers).is_some(),
        None => single_host(headers).is_some(),
    };
    if !is_own {
        let detail =
            "the Host header must be localhost, the address of api.listen or a name of outbound.names";
        return Err(ApiProblem::new(ApiReason::ForeignHost, detail));
    }
    let is_marked = headers.get_all("sec-fetch-site").iter().any(|site| site.as_bytes() != b"none");
    if headers.contains_key(header::ORIGIN) || is_marked {
        let detail = "pages in a browser may not use the API, and no setting allows them";
        return Err(ApiProblem::new(ApiReason::ForeignOrigin, detail));
    }
    Ok(())
}

/// Compares all bytes, so that the time does not tell how many are right.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differing = given.iter().zip(token).fold(0, |differing, (a, b)| differing | (a ^ b));
    given.len() == token.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};
    use outrigger_config::ListenHost;

    use super::*;

    fn reason(
        hosts: Option<&AllowedHosts>,
        target: &'static str,
        fields: &[(&'static str, &'static str)],
    ) -> String {
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        match check_origin(hosts, &Uri::from_static(target), &fields.collect()) {
            Ok(()) => "passes".to_owned(),
            Err(problem) => {
                problem.into_response().headers()["x-outrigger-error"].to_str().unwrap().to_owned()
            }
        }
    }

    #[test]
    fn only_the_hosts_of_the_listener_pass_and_no_page_of_a_browser() {
        let names = vec!["sidecar".to_owned()];
        let own = AllowedHosts { listen: ListenHost::Localhost, names };
        for (target, host, expected) in [
            ("/v1/config", "localhost:7077", "passes"),
            ("/v1/config", "127.0.0.1", "passes"),
            ("/v1/config", "[::1]:7077", "passes"),
            ("/v1/config", "sidecar:7077", "passes"),
            ("http://localhost/v1/config", "localhost", "passes"),
            ("http://evil.example/v1/config", "localhost", "foreign_host"),
            ("/v1/config", "evil.example", "foreign_host"),
            ("/v1/config", "[::1].evil.example", "foreign_host"),
            ("/v1/config", "[::1]evil.example", "foreign_host"),
            ("/v1/config", "user@localhost", "foreign_host"),
            ("/v1/config", "localhost:80@evil.example", "foreign_host"),
            ("/v1/config", "", "foreign_host"),
        ] {
            assert_eq!(reason(Some(&own), target, &[("host", host)]), expected, "{target} {host:?}");
        }
        assert_eq!(reason(Some(&own), "/v1/config", &[]), "foreign_host");
        for (name, value, expected) in [
            ("origin", "http://localhost:7077", "foreign_origin"),
            ("sec-fetch-site", "same-origin", "foreign_origin"),
            ("sec-fetch-site", "none", "passes"),
        ] {
            let fields = [("host", "localhost"), (name, value)];
            assert_eq!(reason(Some(&own), "/v1/config", &fields), expected, "{name}: {value}");
            assert_eq!(reason(None, "/v1/config", &fields), expected, "{name}: {value}");
        }
        // On a Unix socket: any, as the path of the socket, or the empty one of Go's clients.
        for host in ["", "evil.example", "%2Frun%2Fapi.sock", "/run/api.sock"] {
            assert_eq!(reason(None, "/v1/config", &[("host", host)]), "passes", "{host:?}");
        }
        assert_eq!(reason(None, "/v1/config", &[]), "foreign_host");
    }
}
