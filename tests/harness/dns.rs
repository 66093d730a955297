//! A small client of DNS: the bytes of RFC 1035 and of EDNS, by hand, so that a test sees what is on the wire.
#![allow(clippy::expect_used, clippy::panic, reason = "a harness fails its test by panicking")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::wait;

/// The types of records that tests ask for.
pub const A: u16 = 1;
/// See [`A`].
pub const SOA: u16 = 6;
/// See [`A`].
pub const AAAA: u16 = 28;
/// See [`A`].
pub const SRV: u16 = 33;
/// The code of an unknown name.
pub const NXDOMAIN: u8 = 3;
/// The code of a failure.
pub const SERVFAIL: u8 = 2;
/// The code of a refusal.
pub const REFUSED: u8 = 5;

/// The bytes of a question. `size`: the size of a datagram by EDNS; `None`: without EDNS.
///
/// # Panics
/// The name has a label of more than 255 bytes.
pub fn question(id: u16, name: &str, record_type: u16, size: Option<u16>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let additionals = u16::from(size.is_some());
    for word in [id, 0x0100, 1, 0, 0, additionals] {
        bytes.extend(word.to_be_bytes());
    }
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend([record_type.to_be_bytes(), 1_u16.to_be_bytes()].concat());
    if let Some(size) = size {
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

/// An answer.
#[derive(Debug, Clone)]
pub struct DnsMessage {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The records of the answer, of the authority and the additional ones.
    pub sections: [Vec<DnsRecord>; 3],
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRecord {
    /// Its owner, with a dot at its end.
    pub name: String,
    /// Its type.
    pub record_type: u16,
    /// Seconds.
    pub ttl: u32,
    /// As `dig` shows it; of other types the bytes in hexadecimal digits.
    pub data: String,
}

impl DnsMessage {
    /// Reads one.
    ///
    /// # Panics
    /// It breaks off, or refers to what is not there.
    pub fn read(bytes: Vec<u8>) -> Self {
        let mut reader = Reader { bytes: &bytes, at: 12 };
        let counts: Vec<_> = (0..4).map(|n| word(&bytes, 4 + 2 * n)).collect();
        for _ in 0..counts[0] {
            reader.name();
            reader.at += 4;
        }
        let mut section = |count: u16| (0..count).map(|_| reader.record()).collect();
        let sections = [section(counts[1]), section(counts[2]), section(counts[3])];
        Self { bytes, sections }
    }

    /// Its id.
    pub fn id(&self) -> u16 {
        word(&self.bytes, 0)
    }

    /// Its code, without the bits of EDNS.
    pub fn code(&self) -> u8 {
        self.bytes[3] & 0xf
    }

    /// Whether it says that it is cut.
    pub fn is_cut(&self) -> bool {
        self.bytes[2] & 2 != 0
    }

    /// The data of its answers, sorted.
    pub fn answers(&self) -> Vec<String> {
        let mut all: Vec<_> = self.sections[0].iter().map(|record| record.data.clone()).collect();
        all.sort();
        all
    }

    /// The longest time to live of its answers.
    pub fn ttl(&self) -> Option<u32> {
        self.sections[0].iter().map(|record| record.ttl).max()
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> &[u8] {
        self.at += count;
        &self.bytes[self.at - count..self.at]
    }

    fn word(&mut self) -> u16 {
        word(self.take(2), 0)
    }

    fn name(&mut self) -> String {
        let (mut name, mut at, mut after) = (String::new(), self.at, None);
        loop {
            let length = usize::from(self.bytes[at]);
            match length {
                0 => break,
                0xc0.. => {
                    after.get_or_insert(at + 2);
                    let next = usize::from(word(self.bytes, at) & 0x3fff);
                    assert!(next < at, "a pointer that leads on");
                    at = next;
                }
                _ => {
                    name.push_str(&String::from_utf8_lossy(&self.bytes[at + 1..=at + length]));
                    name.push('.');
                    at += length + 1;
                }
            }
        }
        self.at = after.unwrap_or(at + 1);
        if name.is_empty() { ".".to_owned() } else { name }
    }

    fn record(&mut self) -> DnsRecord {
        let (name, record_type, _class) = (self.name(), self.word(), self.word());
        let ttl = u32::from(self.word()) << 16 | u32::from(self.word());
        let length = usize::from(self.word());
        let end = self.at + length;
        let data = match record_type {
            A => Ipv4Addr::from(*self.take(4).first_chunk::<4>().expect("an address")).to_string(),
            AAAA => Ipv6Addr::from(*self.take(16).first_chunk::<16>().expect("an address")).to_string(),
            SRV => format!("{} {} {} {}", self.word(), self.word(), self.word(), self.name()),
            _ => self.take(length).iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        assert_eq!(self.at, end, "the length of the data");
        DnsRecord { name, record_type, ttl, data }
    }
}

/// Sends `bytes` by UDP and reads the answer.
///
/// # Panics
/// None came within 10 s.
pub async fn exchange(server: SocketAddr, bytes: &[u8]) -> DnsMessage {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    socket.connect(server).await.expect("its peer");
    socket.send(bytes).await.expect("send");
    let mut buffer = vec![0; 65_536];
    let length = wait::within("an answer of DNS", socket.recv(&mut buffer)).await.expect("an answer");
    buffer.truncate(length);
    DnsMessage::read(buffer)
}

/// Asks by UDP with EDNS.
///
/// # Panics
/// As [`exchange`].
pub async fn ask(server: SocketAddr, name: &str, record_type: u16) -> DnsMessage {
    let id = fastrand::u16(..);
    let answer = exchange(server, &question(id, name, record_type, Some(1232))).await;
    assert_eq!(answer.id(), id);
    answer
}

/// Asks by TCP.
///
/// # Panics
/// The connection fails.
pub async fn ask_by_tcp(server: SocketAddr, name: &str, record_type: u16) -> DnsMessage {
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    let bytes = question(1, name, record_type, None);
    stream.write_u16(u16::try_from(bytes.len()).expect("a length")).await.expect("write");
    stream.write_all(&bytes).await.expect("write");
    let read = async {
        let mut bytes = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut bytes).await?;
        std::io::Result::Ok(bytes)
    };
    DnsMessage::read(wait::within("an answer of DNS by TCP", read).await.expect("an answer"))
}
