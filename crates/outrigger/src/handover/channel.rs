//! Messages and files over a Unix socket, between processes of one user.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
    process::geteuid,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::UnixStream,
    time::timeout,
};

/// Longest time for a message of which the other side has nothing to wait for.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Most files of one message; Linux takes 253 (`SCM_MAX_FD`).
pub(super) const MAX_FILES: usize = 100;

/// Longest message, bytes.
const MAX_MESSAGE: usize = 256 * 1024;

/// Most files that were received and not taken.
const MAX_WAITING_FILES: usize = 10_000;

/// Why an exchange ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// The socket failed.
    #[error("the socket between the two processes")]
    Io(#[from] io::Error),
    /// The other process belongs to another user.
    #[error("user {peer} is not this process's user ({own}) and not root")]
    OtherUser {
        /// Its user.
        peer: u32,
        /// This process's user.
        own: u32,
    },
    /// The other process has ended, or closed the connection.
    #[error("the other process has ended")]
    Ended,
    /// The other process did not do its part in time.
    #[error("the other process has not answered within {0:?}")]
    TimedOut(Duration),
    /// What the other process said is not understood.
    #[error("the other process speaks another language, perhaps that of another version: {0}")]
    Invalid(String),
    /// The other process refuses.
    #[error("{0}")]
    Refused(String),
}

impl ChannelError {
    /// A message that has no place at this step.
    pub(super) fn unexpected() -> Self {
        Self::Invalid("an unexpected message".to_owned())
    }
}

/// One side of an exchange.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
    files: VecDeque<OwnedFd>,
}

impl Channel {
    /// An exchange over `stream`. The listening sockets decide what the app's requests reach: only this user and root get or give them.
    pub(super) fn new(stream: UnixStream) -> Result<Self, ChannelError> {
        let (peer, own) = (stream.peer_cred()?.uid(), geteuid().as_raw());
        if peer != own && peer != 0 {
            return Err(ChannelError::OtherUser { peer, own });
        }
        Ok(Self { stream, received: Vec::new(), files: VecDeque::new() })
    }

    /// Sends a message with at most [`MAX_FILES`] files.
    pub(super) async fn send(
        &mut self,
        message: &impl Serialize,
        files: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let mut line =
            serde_json::to_vec(message).map_err(|error| ChannelError::Invalid(error.to_string()))?;
        line.push(b'\n');
        let sent = async {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || send_with_files(&self.stream, &line, files))
                .await?;
            self.stream.write_all(&line[sent..]).await
        };
        match timeout(STEP_TIMEOUT, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if is_end(&error) => Err(ChannelError::Ended),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ChannelError::TimedOut(STEP_TIMEOUT)),
        }
    }

    /// The next message, within `most`.
    pub(super) async fn receive<T: DeserializeOwned>(&mut self, most: Duration) -> Result<T, ChannelError> {
        let line = match timeout(most, self.receive_line()).await {
            Ok(line) => line?,
            Err(_) => return Err(ChannelError::TimedOut(most)),
        };
        serde_json::from_slice(&line).map_err(|error| ChannelError::Invalid(error.to_string()))
    }

    async fn receive_line(&mut self) -> Result<Vec<u8>, ChannelError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<_> = self.received.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.received.len() > MAX_MESSAGE || self.files.len() > MAX_WAITING_FILES {
                return Err(ChannelError::Invalid("a message is too long".to_owned()));
            }
            let (stream, received, files) = (&self.stream, &mut self.received, &mut self.files);
            match stream.async_io(Interest::READABLE, || receive_with_files(stream, received, files)).await {
                Ok(0) => return Err(ChannelError::Ended),
                Ok(_) => {}
                Err(error) if is_end(&error) => return Err(ChannelError::Ended),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next file that came with the messages so far.
    pub(super) fn take_file(&mut self) -> Result<OwnedFd, ChannelError> {
        self.files.pop_front().ok_or_else(|| ChannelError::Invalid("a file is missing".to_owned()))
    }
}

/// Whether the other process has ended.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Sends the begin of `line`, and all of `files` with it.
fn send_with_files(stream: &UnixStream, line: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files for one message"));
    }
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Appends what has come to `received` and `files`. 0: the other side has closed.
fn receive_with_files(
    stream: &UnixStream,
    received: &mut Vec<u8>,
    files: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 16 * 1024];
    let slices = &mut [IoSliceMut::new(&mut bytes)];
    let count = recvmsg(stream.as_fd(), slices, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            files.extend(sent);
        }
    }
    received.extend_from_slice(&bytes[..count]);
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one).unwrap(), Channel::new(other).unwrap())
    }

    #[tokio::test]
    async fn messages_and_files_arrive_in_order_however_they_are_read() {
        let (mut one, mut other) = pair();
        let files: Vec<_> = (0..5).map(|n| file_with(&n.to_string())).collect();
        let long = "x".repeat(40_000);
        let send = async {
            one.send(&"first", &[files[0].as_fd(), files[1].as_fd()]).await.unwrap();
            one.send(&"second", &[]).await.unwrap();
            one.send(&long, &files[2..].iter().map(|file| file.as_fd()).collect::<Vec<_>>()).await.unwrap();
        };
        let receive = async {
            for expected in ["first", "second", &long] {
                assert_eq!(other.receive::<String>(STEP_TIMEOUT).await.unwrap(), expected);
            }
        };
        tokio::join!(send, receive);
        for n in 0..5 {
            let mut text = String::new();
            std::fs::File::from(other.take_file().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, n.to_string());
        }
        assert!(matches!(other.take_file(), Err(ChannelError::Invalid(_))));
    }

    fn file_with(text: &str) -> std::fs::File {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), text).unwrap();
        std::fs::File::open(folder.path().join("file")).unwrap()
    }

    #[tokio::test]
    async fn an_end_silence_and_noise_are_told_apart() {
        let (one, mut other) = pair();
        let silent = other.receive::<String>(Duration::from_millis(10)).await;
        assert!(matches!(silent, Err(ChannelError::TimedOut(_))), "{silent:?}");
        drop(one);
        assert!(matches!(other.receive::<String>(STEP_TIMEOUT).await, Err(ChannelError::Ended)));
        assert!(matches!(other.send(&"x", &[]).await, Err(ChannelError::Ended)));

        let (mut one, mut other) = pair();
        one.stream.write_all(b"{}\n").await.unwrap();
        assert!(matches!(other.receive::<String>(STEP_TIMEOUT).await, Err(ChannelError::Invalid(_))));
        let flood = async { one.stream.write_all(&vec![b'x'; 4 * MAX_MESSAGE]).await };
        let (received, _) = tokio::join!(
            async {
                let received = other.receive::<String>(STEP_TIMEOUT).await;
                drop(other);
                received
            },
            flood
        );
        assert!(matches!(received, Err(ChannelError::Invalid(_))), "{received:?}");
    }

    #[tokio::test]
    async fn a_file_is_closed_when_this_process_executes_another_program() {
        let (mut one, mut other) = pair();
        one.send(&"x", &[file_with("x").as_fd()]).await.unwrap();
        other.receive::<String>(STEP_TIMEOUT).await.unwrap();
        let flags = rustix::io::fcntl_getfd(other.take_file().unwrap()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
