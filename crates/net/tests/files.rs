//! Which files the data path leaves to others. The number is the whole process's, so this test has its own.

use std::{net::TcpStream, os::fd::AsRawFd, time::Duration};

use outrigger_net::{
    Fault, Purpose, bind, connect, connect_to_instance, hold_back_files, is_held_back, leave_held_back,
};

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_data_path_leaves_the_highest_files_to_probes_agent_and_admin() {
    assert_eq!(hold_back_files(65_536), 64);
    assert_eq!(hold_back_files(128), 16);

    let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let lowest = TcpStream::connect(bound.addr).unwrap();
    // One number is left to the data path: the next free one.
    let next = TcpStream::connect(bound.addr).unwrap().as_raw_fd();
    let first = u64::try_from(next).unwrap() + 1;
    let limit = (first..).find(|limit| limit - hold_back_files(*limit) == first).unwrap();
    hold_back_files(limit);
    assert!(!is_held_back(&lowest));

    let last = connect_to_instance(bound.addr, LONG, Purpose::Traffic, || false).await.unwrap();
    let refused = connect_to_instance(bound.addr, LONG, Purpose::Traffic, || false).await.unwrap_err();
    assert_eq!((refused.fault, refused.source.raw_os_error()), (Fault::OwnShortage, Some(24)));
    let held_back = connect(bound.addr, LONG).await.unwrap();
    assert!(is_held_back(&held_back));
    assert!(is_held_back(&connect_to_instance(bound.addr, LONG, Purpose::Probe, || false).await.unwrap()));

    let waiting = leave_held_back(TcpStream::connect(bound.addr).unwrap()).unwrap_err();
    drop(last);
    let peer = waiting.local_addr().unwrap();
    let lower = leave_held_back(waiting).unwrap();
    assert!(!is_held_back(&lower));
    assert_eq!(lower.local_addr().unwrap(), peer, "the same connection");
    drop(lower);
    connect_to_instance(bound.addr, LONG, Purpose::Traffic, || false).await.unwrap();
}
