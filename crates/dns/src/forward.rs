//! Questions that another server answers: those about other domains (`dns.forward`), and those in forms of Consul's DNS that
//! are not answered here (`dns.consul`).
//!
//! Each question goes out from a port of its own, with an id of its own, so that an answer cannot be guessed (RFC 5452), and no other
//! datagram is taken for its answer. An answer that is marked as cut is asked for again by TCP.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UdpSocket,
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};
use tracing::debug;

use crate::{
    metrics::PassedResult,
    question::{MAX_DATAGRAM, Question},
};

/// Most questions on their way at once. More are refused: their clients ask again.
pub(crate) const MAX_IN_FLIGHT: usize = 128;
/// Longest wait for one server.
const TRY_WITHIN: Duration = Duration::from_millis(1500);
/// Longest wait for all of them; less than the 5 s after which a client of glibc asks again.
pub(crate) const WITHIN: Duration = Duration::from_secs(4);
/// Bytes of a header.
const HEADER: usize = 12;

/// Passes questions on.
#[derive(Debug)]
pub(crate) struct Forwarder {
    places: Arc<Semaphore>,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) }
    }
}

impl Forwarder {
    /// The answer of the first of `servers` that has one. One that refuses or fails is used where no other answers.
    ///
    /// # Errors
    /// [`PassedResult::Failed`] or [`PassedResult::Limited`].
    pub(crate) async fn ask(
        &self,
        servers: &[SocketAddr],
        question: &Question,
    ) -> Result<ForeignAnswer, PassedResult> {
        let Ok(_place) = self.places.try_acquire() else { return Err(PassedResult::Limited) };
        let due = Instant::now() + WITHIN;
        let mut last = None;
        for server in servers {
            let within = due.min(Instant::now() + TRY_WITHIN);
            match timeout_at(within, ask_server(*server, question)).await {
                Ok(Ok(answer)) if answer.is_useful() => return Ok(answer),
                Ok(Ok(answer)) => last = Some(answer),
                Ok(Err(error)) => debug!(%server, %error, "a DNS server failed"),
                Err(_) => debug!(%server, "a DNS server did not answer in time"),
            }
        }
        last.ok_or(PassedResult::Failed)
    }
}

async fn ask_server(server: SocketAddr, question: &Question) -> io::Result<ForeignAnswer> {
    let asked = PassedQuestion::new(question)?;
    let answer = ask_by_datagram(server, &asked).await?;
    if !answer.is_cut() {
        return Ok(answer);
    }
    // The cut one is better than none.
    let whole = timeout(TRY_WITHIN / 2, ask_by_tcp(server, &asked)).await;
    Ok(whole.ok().and_then(Result::ok).unwrap_or(answer))
}

async fn ask_by_datagram(server: SocketAddr, asked: &PassedQuestion) -> io::Result<ForeignAnswer> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Only datagrams of this server are received, and a refusal of its host is an error.
    socket.connect(server).await?;
    socket.send(&asked.bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer =
            buffer.get(..length).and_then(|bytes| ForeignAnswer::read(bytes, asked.id, &asked.query));
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, asked: &PassedQuestion) -> io::Result<ForeignAnswer> {
    let mut stream = outrigger_net::connect(server, TRY_WITHIN).await.map_err(|error| error.source)?;
    let length = u16::try_from(asked.bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    stream.write_all(&[&length[..], &asked.bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; length.into()];
    stream.read_exact(&mut bytes).await?;
    let answer = ForeignAnswer::read(&bytes, asked.id, &asked.query);
    answer.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"))
}

/// A question as it goes out: without what the client says beside it, because that is for this hop.
struct PassedQuestion {
    id: u16,
    query: Query,
    bytes: Vec<u8>,
}

impl PassedQuestion {
    fn new(question: &Question) -> io::Result<Self> {
        let mut random = [0; 2];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let id = u16::from_be_bytes(random);
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = question.recursion_desired;
        message.metadata.checking_disabled = question.checking_disabled;
        message.add_query(question.query.clone());
        if let Some(asked) = &question.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM).set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        let bytes = message
            .to_vec()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
        Ok(Self { id, query: question.query.clone(), bytes })
    }
}

/// The answer of another server: its header and its question were read, its records are passed on as they are.
#[derive(Debug, PartialEq)]
pub(crate) struct ForeignAnswer {
    bytes: Vec<u8>,
    flags: u16,
}

impl ForeignAnswer {
    /// Reads the answer to the question `query` of the id `id`. `None`: it is none.
    pub(crate) fn read(bytes: &[u8], id: u16, query: &Query) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
        let (found_id, flags, questions) = (word(0)?, word(2)?, word(4)?);
        let (is_answer, op_code) = (flags & 0x8000 != 0, flags >> 11 & 0xf);
        if found_id != id || !is_answer || op_code != 0 || questions != 1 {
            return None;
        }
        let mut decoder = BinDecoder::new(bytes.get(HEADER..)?);
        let found = Query::read(&mut decoder).ok()?;
        // Names are equal in any case.
        (found == *query).then(|| Self { bytes: bytes.to_vec(), flags })
    }

    /// Its code, without the bits that are in an OPT record.
    pub(crate) fn code(&self) -> ResponseCode {
        ResponseCode::from(0, (self.flags & 0xf) as u8)
    }

    fn is_cut(&self) -> bool {
        self.flags & 0x200 != 0
    }

    /// Whether another server would hardly have another answer.
    fn is_useful(&self) -> bool {
        matches!(self.code(), ResponseCode::NoError | ResponseCode::NXDomain)
    }

    /// The bytes for the client, at most `limit`.
    pub(crate) fn for_client(mut self, question: &Question, limit: usize) -> Vec<u8> {
        if self.bytes.len() > limit {
            return self.cut(question);
        }
        if let Some(id) = self.bytes.first_chunk_mut() {
            *id = question.id.to_be_bytes();
        }
        // A server may write the name in another case than the client, which may check that (draft-vixie-dnsext-dns0x20).
        let mut name = Vec::new();
        if question.query.name.emit(&mut BinEncoder::new(&mut name)).is_ok()
            && let Some(found) = self.bytes.get_mut(HEADER..HEADER + name.len())
            && found.eq_ignore_ascii_case(&name)
        {
            found.copy_from_slice(&name);
        }
        self.bytes
    }

    /// Nothing but the question and the mark that the answer is longer.
    fn cut(&self, question: &Question) -> Vec<u8> {
        let mut message = Message::response(question.id, OpCode::Query);
        message.metadata.recursion_desired = question.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.truncation = true;
        message.metadata.response_code = self.code();
        message.add_query(question.query.clone());
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM);
            message.set_edns(edns);
        }
        message.to_vec().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
