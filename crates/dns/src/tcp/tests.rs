use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use outrigger_config::Config;
use outrigger_registry::testing::Listed;
use tokio::time::timeout;

use super::*;
use crate::{question::tests::asked, resolver::tests::resolver};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

struct TcpRig {
    addr: SocketAddr,
    resolver: Arc<Resolver>,
    stop: CancellationToken,
    _listed: Listed,
}

impl TcpRig {
    /// A listener on a registry that is silent.
    async fn start() -> Self {
        let (resolver, listed) = resolver(&Config::default());
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (addr, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(serve(listener, resolver.clone(), stop.clone()));
        Self { addr, resolver, stop, _listed: listed }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }
}

fn framed(id: u8, name: &str, record_type: RecordType) -> Vec<u8> {
    let mut bytes = asked(name, record_type);
    bytes[1] = id;
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat()
}

async fn read_message(stream: &mut TcpStream) -> Option<Message> {
    let read = async {
        let length = stream.read_u16().await.ok()?;
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.ok()?;
        Some(Message::from_vec(&bytes).unwrap())
    };
    timeout(LONG, read).await.unwrap()
}

#[tokio::test]
async fn questions_of_one_connection_are_answered_in_any_order() {
    let rig = TcpRig::start().await;
    let mut stream = rig.connect().await;
    let slow = framed(1, "orders.service.consul.", RecordType::A);
    let fast = framed(2, "consul.", RecordType::SOA);
    stream.write_all(&[slow, fast].concat()).await.unwrap();
    for (id, code) in [(2, ResponseCode::NoError), (1, ResponseCode::ServFail)] {
        let message = read_message(&mut stream).await.unwrap();
        assert_eq!((message.metadata.id, message.metadata.response_code), (id, code));
    }
    // In parts, on the same connection.
    let again = framed(3, "consul.", RecordType::SOA);
    stream.write_all(&again[..1]).await.unwrap();
    tokio::task::yield_now().await;
    stream.write_all(&again[1..]).await.unwrap();
    assert_eq!(read_message(&mut stream).await.unwrap().metadata.id, 3);
    drop(stream.shutdown().await);
    assert!(read_message(&mut stream).await.is_none());
}

#[tokio::test]
async fn more_questions_than_may_wait_are_answered_after_the_others() {
    let rig = TcpRig::start().await;
    let mut stream = rig.connect().await;
    let all: Vec<_> = (0..20).flat_map(|id| framed(id, "orders.service.consul.", RecordType::A)).collect();
    stream.write_all(&all).await.unwrap();
    // The client says that it is done, and gets its answers all the same (RFC 7766 §6.2.4).
    stream.shutdown().await.unwrap();
    let mut ids = Vec::new();
    while let Some(message) = read_message(&mut stream).await {
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        ids.push(message.metadata.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_question_or_with_a_part_of_one_ends() {
    let rig = TcpRig::start().await;
    for part in [&b""[..], b"\0", b"\0\x20half"] {
        let began = Instant::now();
        let mut stream = rig.connect().await;
        stream.write_all(part).await.unwrap();
        assert!(read_message(&mut stream).await.is_none());
        assert!(began.elapsed() >= IDLE && began.elapsed() < IDLE + Duration::from_secs(2));
    }
}

#[tokio::test]
async fn a_message_that_is_no_question_ends_its_connection() {
    let rig = TcpRig::start().await;
    for part in [&b"\0\0"[..], b"\0\x03abc", &[0, 12, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        let mut stream = rig.connect().await;
        stream.write_all(part).await.unwrap();
        assert!(read_message(&mut stream).await.is_none());
    }
}

#[tokio::test]
async fn the_connection_that_is_idle_for_longest_makes_room() {
    let rig = TcpRig::start().await;
    let mut all = Vec::new();
    for id in 0..MAX_CONNECTIONS {
        let mut stream = rig.connect().await;
        stream.write_all(&framed(id as u8, "consul.", RecordType::SOA)).await.unwrap();
        read_message(&mut stream).await.unwrap();
        all.push(stream);
    }
    let open = rig.resolver.metrics.connections();
    assert_eq!(open.get(), MAX_CONNECTIONS as i64);
    let mut next = rig.connect().await;
    next.write_all(&framed(9, "consul.", RecordType::SOA)).await.unwrap();
    assert_eq!(read_message(&mut next).await.unwrap().metadata.id, 9);
    assert!(read_message(&mut all[0]).await.is_none(), "the first is closed");
    all[1].write_all(&framed(8, "consul.", RecordType::SOA)).await.unwrap();
    assert_eq!(read_message(&mut all[1]).await.unwrap().metadata.id, 8, "the second is not");
}

#[tokio::test]
async fn a_stop_lets_the_questions_that_wait_end() {
    let rig = TcpRig::start().await;
    let mut stream = rig.connect().await;
    stream.write_all(&framed(1, "orders.service.consul.", RecordType::A)).await.unwrap();
    // The answer to the second shows that the first was read.
    stream.write_all(&framed(2, "consul.", RecordType::SOA)).await.unwrap();
    assert_eq!(read_message(&mut stream).await.unwrap().metadata.id, 2);
    rig.stop.cancel();
    assert_eq!(read_message(&mut stream).await.unwrap().metadata.id, 1);
    assert!(read_message(&mut stream).await.is_none());
}
