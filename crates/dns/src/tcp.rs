//! Questions by TCP (RFC 7766): several on one connection, also before the first is answered, and answered in any order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    metrics::{Dropped, Transport},
    resolver::{Resolver, Step},
    udp::{STOP_WITHIN, is_local},
};

/// Most connections at once, per socket. The one that is idle for longest makes room for another one.
pub(crate) const MAX_CONNECTIONS: usize = 64;
/// Most questions of one connection that wait for an answer. Further ones are not read before.
pub(crate) const MAX_PIPELINED: usize = 16;
/// A connection without a question ends after this time, also within a message that does not come to its end (RFC 7766 §6.2.3).
pub(crate) const IDLE: Duration = Duration::from_secs(10);
/// How long a connection on which no question has come yet is still read when it is to end: its question may be on its way.
const FIRST_QUESTION_WITHIN: Duration = Duration::from_millis(500);
/// How long what a client still sends is read after the last answer, because a close with unread bytes is a reset, which may take
/// that answer from the client.
const LINGER: Duration = Duration::from_millis(250);
/// Longest time that a client may leave an answer unread.
pub(crate) const WRITE_WITHIN: Duration = Duration::from_secs(5);

/// Accepts connections until `stop`.
pub(crate) async fn serve(listener: Arc<TcpListener>, resolver: Arc<Resolver>, stop: CancellationToken) {
    let mut connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.tasks.join_next() => {
                connections.forget_ended();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if !is_local(peer) => resolver.metrics.count_dropped(Dropped::Peer),
            Ok((stream, peer)) => {
                if connections.make_room() {
                    connections.add(stream, peer, resolver.clone(), &stop);
                } else {
                    resolver.metrics.count_dropped(Dropped::Connections);
                }
            }
            Err(error) => {
                debug!(%error, "the DNS listener could not accept");
                // Another accept at once would only use CPU.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let ended = async { while connections.tasks.join_next().await.is_some() {} };
    let _ = timeout(STOP_WITHIN, ended).await;
}

/// The open connections of one listener.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: Vec<OpenConnection>,
}

struct OpenConnection {
    /// Since when it is idle. `None`: a question waits for its answer.
    idle_since: Arc<Mutex<Option<Instant>>>,
    end: CancellationToken,
}

impl Connections {
    /// Whether there is room for one more; closes the one that is idle for longest where there is none.
    fn make_room(&mut self) -> bool {
        self.forget_ended();
        if self.open.len() < MAX_CONNECTIONS {
            return true;
        }
        let idle = self.open.iter().enumerate();
        let idle = idle.filter_map(|(at, one)| Some((at, (*one.idle_since.lock())?)));
        let Some((at, _)) = idle.min_by_key(|(_, since)| *since) else { return false };
        self.open.swap_remove(at).end.cancel();
        true
    }

    fn forget_ended(&mut self) {
        self.open.retain(|one| Arc::strong_count(&one.idle_since) > 1);
    }

    fn add(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        resolver: Arc<Resolver>,
        stop: &CancellationToken,
    ) {
        let idle_since = Arc::new(Mutex::new(Some(Instant::now())));
        let end = stop.child_token();
        self.open.push(OpenConnection { idle_since: idle_since.clone(), end: end.clone() });
        // Contained: a panic ends one connection.
        self.tasks.spawn(async move {
            let _counted = CountedConnection::new(resolver.metrics.connections());
            if let Err(error) = run(stream, &resolver, &idle_since, end).await {
                debug!(%peer, %error, "a DNS connection ended with an error");
            }
        });
    }
}

/// One connection in the gauge of open ones, also where its task is aborted.
struct CountedConnection(IntGauge);

impl CountedConnection {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves one connection to its end.
async fn run(
    mut stream: TcpStream,
    resolver: &Arc<Resolver>,
    idle_since: &Mutex<Option<Instant>>,
    end: CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut waiting = JoinSet::new();
    let mut read = Vec::with_capacity(512);
    let (mut is_over, mut due) = (false, Instant::now() + IDLE);
    let (mut was_asked, mut is_ending) = (false, false);
    loop {
        while waiting.len() < MAX_PIPELINED
            && let Some(message) = next_message(&mut read)
        {
            (due, was_asked) = (Instant::now() + IDLE, true);
            match resolver.step(&message, Transport::Tcp) {
                // Not a question: the bytes that follow cannot be trusted either.
                Step::Nothing => return Ok(()),
                Step::Send(bytes) => write(&mut stream, &bytes).await?,
                Step::Later(pending) => {
                    let resolver = resolver.clone();
                    // Contained: a panic ends one question.
                    waiting.spawn(async move { resolver.finish(*pending).await });
                }
            }
        }
        *idle_since.lock() = waiting.is_empty().then(|| due - IDLE);
        if waiting.is_empty() && (is_over || is_ending && was_asked) {
            return close(stream).await;
        }
        let reads = !is_over && waiting.len() < MAX_PIPELINED && !(is_ending && was_asked);
        tokio::select! {
            Some(answered) = waiting.join_next() => {
                if let Ok(bytes) = answered {
                    write(&mut stream, &bytes).await?;
                }
                due = Instant::now() + IDLE;
            }
            length = stream.read_buf(&mut read), if reads => is_over = length? == 0,
            () = sleep_until(due), if waiting.is_empty() => return close(stream).await,
            () = end.cancelled(), if !is_ending => {
                is_ending = true;
                due = due.min(Instant::now() + FIRST_QUESTION_WITHIN);
            }
        }
    }
}

/// Ends a connection so that the client gets what was written.
async fn close(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = [0; 512];
    let to_end = async { while stream.read(&mut rest).await.is_ok_and(|length| length > 0) {} };
    let _ = timeout(LINGER, to_end).await;
    Ok(())
}

/// Takes the first whole message out of what was read: two bytes of length, then the message (RFC 1035 §4.2.2).
fn next_message(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*read.first_chunk()?));
    let message = read.get(2..2 + length)?.to_vec();
    read.drain(..2 + length);
    Some(message)
}

/// Writes a message with its length, in one segment where that can be (RFC 7766 §8).
async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let bytes = [&length.to_be_bytes()[..], message].concat();
    timeout(WRITE_WITHIN, stream.write_all(&bytes))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

#[cfg(test)]
mod tests;
