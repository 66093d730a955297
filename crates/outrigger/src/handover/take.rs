//! The new process: asks the running one for its listening sockets, and serves in its place.

use std::{io, path::PathBuf, time::Duration};

use outrigger_config::Config;
use outrigger_net::{Inherited, InheritedSocket};
use tracing::{info, warn};

use super::{
    channel::{Channel, ChannelError, STEP_TIMEOUT},
    endpoint::{Endpoint, Place},
    message::{FromNew, FromRunning, InstanceKey, VERSION},
};
use crate::{App, telemetry::error_chain};

/// Longest wait until the running process has ended its calls for the registration; they take 20 s at most.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the place of a running sidecar is not taken. It goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error("connect to the running sidecar at {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the running sidecar goes on")]
    Exchange(#[from] ChannelError),
    #[error("a socket of the running sidecar cannot be used; it goes on")]
    Socket(#[source] io::Error),
}

/// The running sidecar, of which the place is being taken. Dropping it leaves the place with it.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    endpoint: Endpoint,
}

/// Asks the sidecar at `place` for its listening sockets. `None`: none runs there.
pub(crate) async fn ask(
    place: &Place,
    config: &Config,
) -> Result<Option<(Inherited, Predecessor)>, TakeError> {
    let connected = place.connect().await;
    let connected =
        connected.map_err(|source| TakeError::Connect { path: place.path().to_owned(), source })?;
    let Some((stream, path)) = connected else { return Ok(None) };
    let mut channel = Channel::new(stream)?;
    let ask =
        FromNew::Ask { version: VERSION, pid: std::process::id(), instances: InstanceKey::list(config) };
    channel.send(&ask, &[]).await?;
    let mut sockets = Vec::new();
    loop {
        match channel.receive(STEP_TIMEOUT).await? {
            FromRunning::Sockets { pid, sockets: notes } => {
                info!(pid, sockets = notes.len(), "taking the listening sockets of the running sidecar");
                for note in notes {
                    let socket = InheritedSocket::new(channel.take_file()?).map_err(TakeError::Socket)?;
                    sockets.push(socket.opened_for(&note.key, note.configured_addr));
                }
            }
            FromRunning::Endpoint => break,
            FromRunning::Refused { why } => return Err(ChannelError::Refused(why).into()),
            FromRunning::Released => return Err(ChannelError::unexpected().into()),
        }
    }
    let (listener, lock) = (channel.take_file()?, channel.take_file()?);
    let endpoint = Endpoint::from_files(place, path, listener, lock).map_err(TakeError::Socket)?;
    Ok(Some((Inherited::new(sockets), Predecessor { channel, endpoint })))
}

impl Predecessor {
    /// Takes its place, once `app` has learned the services. Gives the endpoint; `None`: the earlier process has ended, and may have
    /// removed it.
    ///
    /// # Errors
    /// When it goes on: then `app` has served nothing and registered nothing, and must not.
    pub(crate) async fn take_place(self, app: &App) -> Result<Option<Endpoint>, TakeError> {
        let Self { mut channel, endpoint } = self;
        app.ready_to_route().await;
        let released = async {
            channel.send(&FromNew::Ready, &[]).await?;
            match channel.receive(RELEASE_TIMEOUT).await? {
                FromRunning::Released => Ok(()),
                FromRunning::Refused { why } => Err(ChannelError::Refused(why)),
                FromRunning::Sockets { .. } | FromRunning::Endpoint => Err(ChannelError::unexpected()),
            }
        };
        let endpoint = match released.await {
            Ok(()) => Some(endpoint.take()),
            Err(error @ (ChannelError::Ended | ChannelError::TimedOut(_) | ChannelError::Io(_))) => {
                let reason = error_chain(&error);
                warn!(reason, "the earlier sidecar has not handed over to the end, going on alone");
                None
            }
            Err(error) => return Err(error.into()),
        };
        app.take_place();
        match channel.send(&FromNew::Taken, &[]).await {
            Ok(()) => info!("serving in the place of the earlier sidecar, which ends with its last request"),
            Err(error) => warn!(reason = error_chain(&error), "the earlier sidecar has ended meanwhile"),
        }
        Ok(endpoint)
    }
}
