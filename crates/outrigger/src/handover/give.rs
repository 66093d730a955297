//! The running process: gives its listening sockets to a process that asks for them, and serves until that process serves.

use std::{os::fd::AsFd as _, time::Duration};

use outrigger_registration::HandOver;
use tokio::{net::UnixStream, time::sleep};
use tracing::{info, warn};

use super::{
    channel::{Channel, ChannelError, MAX_FILES, STEP_TIMEOUT},
    endpoint::Endpoint,
    message::{FromNew, FromRunning, InstanceKey, SocketNote, VERSION},
};
use crate::{App, telemetry::error_chain};

/// Longest wait until the new process could serve. It learns for 5 s at most.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause after an accept that failed.
const ACCEPT_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// Resolves when another process has taken the place of `app`, which then has to end. Dropping it in the middle of an exchange is an end
/// of this process for the other one, which goes on alone.
pub(crate) async fn until_taken_over(app: &App, endpoint: Endpoint) {
    loop {
        let stream = match endpoint.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "the socket for a replacement could not accept");
                sleep(ACCEPT_ERROR_PAUSE).await;
                continue;
            }
        };
        match give_all(app, &endpoint, stream).await {
            Ok(pid) => {
                info!(pid, "another process serves in the place of this one");
                return endpoint.leave();
            }
            Err(error) => {
                let reason = error_chain(&error);
                warn!(
                    reason,
                    "another process asked for the listening sockets and does not serve: this one goes on"
                );
            }
        }
    }
}

/// One exchange. Gives the id of the process that serves now.
async fn give_all(app: &App, endpoint: &Endpoint, stream: UnixStream) -> Result<u32, ChannelError> {
    let mut channel = Channel::new(stream)?;
    let FromNew::Ask { version, pid, instances } = channel.receive(STEP_TIMEOUT).await? else {
        return Err(ChannelError::unexpected());
    };
    if version != VERSION {
        let why = format!(
            "the running sidecar speaks version {VERSION} of the hand-over, the new one version {version}"
        );
        return refuse(&mut channel, why).await;
    }
    if app.is_leaving() {
        return refuse(&mut channel, "the running sidecar is leaving the registry".to_owned()).await;
    }
    info!(pid, "another process asks for the listening sockets");
    give_sockets(app, endpoint, &mut channel).await?;
    match channel.receive(READY_TIMEOUT).await {
        Ok(FromNew::Ready) => {}
        Ok(_) => return Err(ChannelError::unexpected()),
        Err(ChannelError::TimedOut(_)) => {
            let why = format!("it could not serve within {READY_TIMEOUT:?}");
            return refuse(&mut channel, why).await;
        }
        Err(error) => return Err(error),
    }
    let own = InstanceKey::list(&app.config()).into_iter();
    let kept = own.filter(|key| instances.contains(key)).map(|key| key.id).collect();
    app.leave_registrations(HandOver { kept }).await;
    let taken = async {
        channel.send(&FromRunning::Released, &[]).await?;
        match channel.receive(STEP_TIMEOUT).await {
            Ok(FromNew::Taken) => Ok(()),
            Ok(_) => Err(ChannelError::unexpected()),
            // It lives and was told to serve: two that serve would be worse.
            Err(ChannelError::TimedOut(_)) => Ok(()),
            Err(error) => Err(error),
        }
    };
    if let Err(error) = taken.await {
        app.take_registration_back().await;
        return Err(error);
    }
    Ok(pid)
}

async fn give_sockets(app: &App, endpoint: &Endpoint, channel: &mut Channel) -> Result<(), ChannelError> {
    let sockets = app.listening_sockets()?;
    for some in sockets.chunks(MAX_FILES) {
        let notes =
            some.iter().map(|one| SocketNote { key: one.key.clone(), configured_addr: one.configured_addr });
        let message = FromRunning::Sockets { pid: std::process::id(), sockets: notes.collect() };
        let files: Vec<_> = some.iter().map(|one| one.socket.as_fd()).collect();
        channel.send(&message, &files).await?;
    }
    channel.send(&FromRunning::Endpoint, &endpoint.files()).await
}

async fn refuse<T>(channel: &mut Channel, why: String) -> Result<T, ChannelError> {
    channel.send(&FromRunning::Refused { why: why.clone() }, &[]).await?;
    Err(ChannelError::Refused(why))
}
