//! Copies of requests to a mirror. Nothing that the app sees waits for one, and its response is dropped.
//!
//! A copy is made once the attempts have ended, because by then the body has been read, if it fits the replay buffer. It has its
//! own connection, and counts in the metrics of the mirror alone.

use std::{sync::Arc, time::Duration};

use outrigger_http1::{
    BodyDecoder, Edits, Framing, HeadKind, HeadLimits, HeadParser, Inbox, Name, Outbox, Piece,
    framing::response_framing, writer::write_head,
};
use outrigger_net::Purpose;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout_at},
};

use crate::{
    host::ServiceName,
    request::{
        call::Call,
        matching::MIRROR_MARK,
        rules::{MAX_SERVICES, is_usable},
    },
    transport::{streams::ALPN_HTTP1, upload::Upload},
    upstream::{
        cluster::Cluster,
        endpoint::Endpoint,
        manager::ClusterManager,
        traffic::{Mirror, MirrorResult, Target},
    },
};

/// Bytes that are read of a response at once.
const BUFFER: usize = 8192;
/// Fields that a copy to another service does not have by default.
const CREDENTIALS: [Name; 3] = [Name::Authorization, Name::Cookie, Name::ProxyAuthorization];

/// Sends a copy of the request of `call`, unless its body was not kept, or too many copies are under way.
pub(crate) fn send_copy(
    mirror: &Arc<Mirror>,
    call: &Call<'_>,
    upload: &Upload,
    clusters: &Arc<ClusterManager>,
) {
    let Some(body) = upload.whole_body() else { return mirror.count(MirrorResult::Body) };
    let Ok(permit) = mirror.in_flight.clone().try_acquire_owned() else {
        return mirror.count(MirrorResult::Limit);
    };
    let message = write_copy(mirror, call, upload, body);
    let connect_timeout = call.settings.policy.connect_timeout;
    let response = (*call.response_limits, call.head.method() == b"HEAD");
    clusters.spawn_copy(send(mirror.clone(), clusters.clone(), message, connect_timeout, response, permit));
}

/// The copy as the mirror gets it.
fn write_copy(mirror: &Mirror, call: &Call<'_>, upload: &Upload, body: &[u8]) -> Vec<u8> {
    let mut drop = call.dropped().with(Name::Expect);
    if matches!(mirror.to, Target::Service(_)) && !mirror.rule.keep_credentials {
        drop = CREDENTIALS.into_iter().fold(drop, outrigger_http1::NameSet::with);
    }
    let mut add = call.changes.add.clone();
    add.extend_from_slice(format!("{MIRROR_MARK}: 1\r\nConnection: close\r\n").as_bytes());
    let edits = Edits { drop, add: &add, ..call.edits() };
    let framing = if upload.exists() { Framing::Length(body.len() as u64) } else { Framing::None };
    let mut outbox = Outbox::new();
    write_head(call.head, &edits, framing, &mut outbox);
    outbox.push(body);
    outbox.pending().to_vec()
}

async fn send(
    mirror: Arc<Mirror>,
    clusters: Arc<ClusterManager>,
    message: Vec<u8>,
    connect_timeout: Duration,
    (limits, is_head): (HeadLimits, bool),
    permit: OwnedSemaphorePermit,
) {
    let ends = Instant::now() + mirror.rule.timeout;
    let exchange = async {
        let Some(endpoint) = find_endpoint(&mirror, &clusters).await else { return MirrorResult::NoInstance };
        // Another instance is not tried, so this one counts as the only one.
        let Ok(mut stream) =
            endpoint.open(connect_timeout, Purpose::Traffic, Some(ALPN_HTTP1), || false).await
        else {
            return MirrorResult::Failed;
        };
        #[expect(clippy::disallowed_methods, reason = "a copy is sent once, however much of it arrives")]
        if stream.write_all(&message).await.is_err() {
            return MirrorResult::Failed;
        }
        read_status(&mut stream, limits, is_head).await.map_or(MirrorResult::Failed, MirrorResult::of_status)
    };
    let result = timeout_at(ends, exchange).await;
    mirror.count(result.unwrap_or(MirrorResult::Late));
    drop(permit);
}

/// An instance of the target; of another service by its split, as of a request that a route sends there.
async fn find_endpoint(mirror: &Mirror, clusters: &ClusterManager) -> Option<Arc<Endpoint>> {
    let mut to = mirror.to.clone();
    let mut of: Option<Arc<Cluster>> = None;
    for _ in 0..MAX_SERVICES {
        let name = match &to {
            Target::Service(name) => name,
            Target::Subset(subset) => return subset.pick(&[], &[], false),
            Target::Any => return of?.pick(None, &[], &[], false),
            Target::Exact(target) => {
                let found = clusters.exact_target(&of?.key, target)?;
                return found.cluster.pick(found.subset().map(|subset| &**subset), &[], &[], false);
            }
        };
        let cluster = clusters.find_or_open(&ServiceName::plain(name)).await.ok()?;
        let traffic = cluster.view.load().settings.traffic.clone();
        // At random: the turns are those of requests.
        let value = fastrand::u64(..).to_le_bytes();
        to = traffic
            .as_ref()
            .and_then(|traffic| traffic.split.as_ref())
            .and_then(|split| split.choose(Some(&value), |to| is_usable(to, &cluster, clusters)).cloned())
            .unwrap_or(Target::Any);
        of = Some(cluster);
    }
    None
}

/// The status of the response, which is read to the end of its body. `None`: there is none, or it is broken.
async fn read_status(
    stream: &mut (impl AsyncRead + Unpin),
    limits: HeadLimits,
    is_head: bool,
) -> Option<u16> {
    let mut inbox = Inbox::new();
    inbox.give_buffer(vec![0; BUFFER]);
    let mut parser = HeadParser::new(HeadKind::Response, limits, Vec::new());
    let head = loop {
        match parser.parse(&mut inbox, || vec![0; BUFFER]).ok()? {
            Some(head) if head.status() >= 200 => break head,
            // An interim response.
            Some(_) => {}
            None => {
                read_more(stream, &mut inbox).await?;
            }
        }
    };
    let framing = response_framing(&head, is_head).ok()?.framing;
    let mut body = BodyDecoder::behind(&head, framing);
    // The end of the body, not of the connection: an instance may keep that open, whatever it was asked.
    loop {
        match body.decode(&mut inbox).ok()? {
            Piece::Data(n) => body.consume(&mut inbox, n),
            Piece::End => return Some(head.status()),
            Piece::NeedMore if read_more(stream, &mut inbox).await.is_some() => {}
            // It was cut, or the close is its end: the response came either way.
            Piece::NeedMore => return Some(head.status()),
        }
    }
}

/// `None`: nothing more comes.
async fn read_more(stream: &mut (impl AsyncRead + Unpin), inbox: &mut Inbox) -> Option<()> {
    if inbox.space().is_empty() {
        let larger = inbox.capacity().max(BUFFER / 2) * 2;
        inbox.give_buffer(vec![0; larger]);
    }
    let n = stream.read(inbox.space()).await.ok().filter(|n| *n > 0)?;
    inbox.advance(n);
    Some(())
}
