use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::A};
use proptest::prelude::*;
use tokio::net::TcpListener;

use super::*;
use crate::question::tests::asked;

fn question() -> Question {
    Question::read(&asked("Example.COM.", RecordType::A)).unwrap()
}

/// The answer to a question with `count` addresses.
fn answered(bytes: &[u8], count: u8, is_cut: bool, code: ResponseCode) -> Message {
    let question = Message::from_vec(bytes).unwrap();
    let mut message = Message::response(question.metadata.id, OpCode::Query);
    message.metadata.truncation = is_cut;
    message.metadata.response_code = code;
    let mut query = question.queries[0].clone();
    // Another case, as of a server that keeps none.
    query.name = query.name.to_lowercase();
    for n in 0..count {
        message.add_answer(Record::from_rdata(query.name.clone(), 60, RData::A(A([192, 0, 2, n].into()))));
    }
    message.add_query(query);
    message
}

/// A server that answers each datagram with what `answer` makes of it; none: it is silent.
async fn server(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (addr, count) = (socket.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let counted = count.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            counted.fetch_add(1, Relaxed);
            for bytes in answer(&buffer[..length]) {
                socket.send_to(&bytes, peer).await.unwrap();
            }
        }
    });
    (addr, count)
}

fn one_address(bytes: &[u8]) -> Vec<u8> {
    answered(bytes, 1, false, ResponseCode::NoError).to_vec().unwrap()
}

#[tokio::test]
async fn an_answer_comes_back_with_the_id_and_the_case_of_the_client() {
    let (addr, _) = server(|bytes| vec![one_address(bytes)]).await;
    let question = question();
    let answer = Forwarder::default().ask(&[addr], &question).await.unwrap();
    let message = Message::from_vec(&answer.for_client(&question, 512)).unwrap();
    assert_eq!((message.metadata.id, message.answers.len()), (7, 1));
    assert_eq!(message.queries[0].name.to_ascii(), "Example.COM.");
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_taken() {
    let (addr, _) = server(|bytes| {
        let good = answered(bytes, 1, false, ResponseCode::NoError);
        let mut other_id = good.clone();
        other_id.metadata.id = good.metadata.id.wrapping_add(1);
        let mut other_name = good.clone();
        other_name.queries[0].name = Name::from_ascii("example.org.").unwrap();
        let mut other_type = good.clone();
        other_type.queries[0].query_type = RecordType::AAAA;
        let mut wrong: Vec<_> =
            [other_id, other_name, other_type].iter().map(|one| one.to_vec().unwrap()).collect();
        // The question itself, bytes of nothing, and then the answer.
        wrong.extend([bytes.to_vec(), vec![0; 3], good.to_vec().unwrap()]);
        wrong
    })
    .await;
    let question = question();
    let answer = Forwarder::default().ask(&[addr], &question).await.unwrap();
    let message = Message::from_vec(&answer.for_client(&question, 512)).unwrap();
    assert_eq!(message.answers.len(), 1);
    assert_eq!(message.queries[0].query_type, RecordType::A);
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_fails_or_refuses() {
    let closed = outrigger_net::reserve_addr();
    let (refusing, _) =
        server(|bytes| vec![answered(bytes, 0, false, ResponseCode::Refused).to_vec().unwrap()]).await;
    let (good, _) = server(|bytes| vec![one_address(bytes)]).await;
    let question = question();
    let forwarder = Forwarder::default();
    let answer = forwarder.ask(&[closed, refusing, good], &question).await.unwrap();
    assert_eq!(answer.code(), ResponseCode::NoError);
    let answer = forwarder.ask(&[closed, refusing], &question).await.unwrap();
    assert_eq!(answer.code(), ResponseCode::Refused, "where no other answers, that of the client");
    assert_eq!(forwarder.ask(&[closed], &question).await, Err(PassedResult::Failed));
}

#[tokio::test]
async fn an_answer_that_is_cut_is_asked_for_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(addr).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
        let cut = answered(&buffer[..length], 0, true, ResponseCode::NoError);
        socket.send_to(&cut.to_vec().unwrap(), peer).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        let whole = answered(&bytes, 100, false, ResponseCode::NoError).to_vec().unwrap();
        stream.write_u16(u16::try_from(whole.len()).unwrap()).await.unwrap();
        stream.write_all(&whole).await.unwrap();
    });
    let question = question();
    let answer = Forwarder::default().ask(&[addr], &question).await.unwrap();
    let by_tcp = Message::from_vec(&answer.for_client(&question, 65_535)).unwrap();
    assert_eq!((by_tcp.answers.len(), by_tcp.metadata.truncation), (100, false));
    let answer = ForeignAnswer { bytes: vec![0; 600], flags: 0x8000 };
    let by_udp = Message::from_vec(&answer.for_client(&question, 512)).unwrap();
    assert!(by_udp.metadata.truncation && by_udp.answers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_waited_for_with_a_bound_and_so_are_all() {
    let (silent, count) = server(|_| Vec::new()).await;
    let began = Instant::now();
    let question = question();
    assert_eq!(Forwarder::default().ask(&[silent; 9], &question).await, Err(PassedResult::Failed));
    assert_eq!(began.elapsed(), WITHIN);
    assert!(count.load(Relaxed) <= 3);
}

#[tokio::test(start_paused = true)]
async fn no_more_questions_than_the_limit_are_on_their_way() {
    let forwarder = Forwarder::default();
    let _all = forwarder.places.clone().try_acquire_many_owned(MAX_IN_FLIGHT as u32).unwrap();
    let asked = forwarder.ask(&["127.0.0.1:9".parse().unwrap()], &question()).await;
    assert_eq!(asked, Err(PassedResult::Limited));
}

proptest! {
    #[test]
    fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0_usize..60, to: u8) {
        let question = question();
        let mut good = one_address(&asked("example.com.", RecordType::A));
        if let Some(byte) = good.get_mut(at) {
            *byte = to;
        }
        for bytes in [bytes, good] {
            if let Some(answer) = ForeignAnswer::read(&bytes, 7, &question.query) {
                answer.for_client(&question, 40);
            }
        }
    }
}
