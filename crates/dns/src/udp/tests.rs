use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use outrigger_config::Config;

use super::*;
use crate::{question::tests::asked, resolver::tests::resolver};

#[test]
fn only_a_client_on_this_machine_is_answered() {
    for (peer, is_answered) in [
        ("127.0.0.1:5000", true),
        ("127.8.9.10:5000", true),
        ("[::1]:5000", true),
        ("[::ffff:127.0.0.1]:5000", true),
        ("10.0.0.1:5000", false),
        ("[::ffff:10.0.0.1]:5000", false),
        ("[fe80::1]:5000", false),
    ] {
        assert_eq!(is_local(peer.parse().unwrap()), is_answered, "{peer}");
    }
}

#[tokio::test]
async fn more_questions_than_may_wait_fail_at_once() {
    let (resolver, _silent) = resolver(&Config::default());
    let server = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(server.local_addr().unwrap()).await.unwrap();
    let (mut waiting, mut buffer) = (JoinSet::new(), vec![0; 4096]);
    let question = asked("orders.service.consul.", RecordType::A);
    for _ in 0..MAX_WAITING + 1 {
        client.send(&question).await.unwrap();
        server.readable().await.unwrap();
        read_batch(&server, &resolver, &mut buffer, &mut waiting);
    }
    assert_eq!(waiting.len(), MAX_WAITING);
    let length = client.recv(&mut buffer).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (7, ResponseCode::ServFail));
    assert_eq!(waiting.len(), MAX_WAITING, "none of those that wait has ended");
}
