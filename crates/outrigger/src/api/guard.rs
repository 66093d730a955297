//! Refuses what must not use the API: pages in browsers, requests for foreign hosts, and requests without the token.
//!
//! A page in a browser can send requests to localhost, and a name that DNS points here can even read the answers. No page needs the API: so
//! every request with `Origin`, or that a browser marks with `Sec-Fetch-Site`, is refused, reads included.

use std::{io, path::Path, path::PathBuf, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
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
    if let Err(problem) = check_origin(hosts.as_ref(), request.headers()) {
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

fn check_origin(hosts: Option<&AllowedHosts>, headers: &HeaderMap) -> Result<(), ApiProblem> {
    let is_own = |host: http::uri::Authority| hosts.is_none_or(|hosts| hosts.allows(host.host()));
    if !single_host(headers).is_some_and(is_own) {
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
