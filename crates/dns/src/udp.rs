//! Questions by UDP.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    metrics::{Dropped, Transport},
    resolver::{Resolver, Step},
};

/// Most questions that wait, per socket. More are answered with SERVFAIL at once.
pub(crate) const MAX_WAITING: usize = 256;
/// Datagrams that are read before other tasks of the thread have their turn.
const BATCH: usize = 64;
/// Longest wait at the stop for the questions that wait.
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Answers what comes to `socket` until `stop`.
pub(crate) async fn serve(socket: Arc<UdpSocket>, resolver: Arc<Resolver>, stop: CancellationToken) {
    let mut waiting = JoinSet::new();
    // A datagram may be longer than any question; what is beyond is cut.
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = waiting.join_next() => continue,
            ready = socket.readable() => if let Err(error) = ready {
                debug!(%error, "a DNS socket cannot be read");
                sleep(Duration::from_millis(100)).await;
            },
        }
        read_batch(&socket, &resolver, &mut buffer, &mut waiting);
        tokio::task::yield_now().await;
    }
    let ended = async { while waiting.join_next().await.is_some() {} };
    let _ = timeout(STOP_WITHIN, ended).await;
}

fn read_batch(
    socket: &Arc<UdpSocket>,
    resolver: &Arc<Resolver>,
    buffer: &mut [u8],
    waiting: &mut JoinSet<()>,
) {
    for _ in 0..BATCH {
        let (length, peer) = match socket.try_recv_from(buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // An earlier answer was refused by its host.
            Err(_) => continue,
        };
        if !is_local(peer) {
            resolver.metrics.count_dropped(Dropped::Peer);
            continue;
        }
        match resolver.step(buffer.get(..length).unwrap_or_default(), Transport::Udp) {
            Step::Nothing => {}
            Step::Send(bytes) => send(socket, resolver, &bytes, peer),
            Step::Later(pending) if waiting.len() >= MAX_WAITING => {
                let bytes = resolver.give_up(*pending);
                send(socket, resolver, &bytes, peer);
            }
            Step::Later(pending) => {
                let (socket, resolver) = (socket.clone(), resolver.clone());
                // Contained: a panic ends one question.
                waiting.spawn(async move {
                    let bytes = resolver.finish(*pending).await;
                    send(&socket, &resolver, &bytes, peer);
                });
            }
        }
    }
}

/// Without a wait: a client that misses an answer asks again.
fn send(socket: &UdpSocket, resolver: &Resolver, bytes: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.try_send_to(bytes, peer) {
        resolver.metrics.count_dropped(Dropped::Send);
        debug!(%peer, %error, "an answer of DNS could not be sent");
    }
}

/// Whether a client is on this machine.
pub(crate) fn is_local(peer: SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;
