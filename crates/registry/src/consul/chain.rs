//! The compiled chain of a service: what Consul's config entries say of its requests.

use std::time::Duration;

use super::{
    Consul,
    api_client::percent_encode,
    connection::ApiResponse,
    expect_ok, malformed,
    watch::{Freshness, blocking_params},
};
use crate::{ChainAnswer, Consistency, Cursor, Error, chain};

impl Consul {
    /// One question about the chain of a service.
    pub(super) async fn read_chain(
        &self,
        service: &str,
        cursor: Cursor,
        wait: Duration,
    ) -> Result<ChainAnswer, Error> {
        let target = |from: Option<(Cursor, Duration)>| {
            let mut options = match from {
                Some((cursor, wait)) => blocking_params(cursor, wait).to_vec(),
                None => vec!["consistent".to_owned()],
            };
            options.extend(self.datacenter.as_deref().map(|name| format!("dc={}", percent_encode(name))));
            let path = format!("/v1/discovery-chain/{}", percent_encode(service));
            if options.is_empty() { path } else { format!("{path}?{}", options.join("&")) }
        };
        let parse = |reply: &ApiResponse, request: &str| {
            expect_ok(reply, request)?;
            let chain = chain::parse(&reply.body).map_err(|error| malformed(request, &error))?;
            let cursor = Freshness::read(&reply.headers, cursor, Consistency::Default).cursor;
            Ok(ChainAnswer { chain, cursor })
        };
        if cursor != Cursor::START {
            let answer = self.read_or_watch(cursor, wait, target, parse).await?;
            if answer.cursor != Cursor::START {
                return Ok(answer);
            }
        }
        self.read_or_watch(Cursor::START, wait, target, parse).await
    }
}
