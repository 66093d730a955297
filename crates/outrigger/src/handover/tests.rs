//! The exchange, with one side that ends, is silent, or is of another version.

use std::{net::SocketAddr, time::Duration};

use outrigger_config::Listen;
use outrigger_net::Inherited;
use outrigger_proxy::Workers;
use tokio::{net::TcpStream, time::timeout};

use super::{
    channel::{Channel, ChannelError, STEP_TIMEOUT},
    message::{FromNew, FromRunning, VERSION},
    take::TakeError,
    *,
};
use crate::{App, app::StartFrom};

const LONG: Duration = Duration::from_secs(30);

/// A sidecar of static instances, in a folder of its own.
struct Fixture {
    folder: tempfile::TempDir,
    place: Place,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("services.yaml"), "services: {}\n").unwrap();
        Self { place: Place::of(&placed(folder.path())).unwrap(), folder }
    }

    fn config(&self) -> outrigger_config::Config {
        let mut config = placed(self.folder.path());
        config.outbound.listen = Listen::localhost(0);
        config.admin.listen = Listen::localhost(0);
        config
    }

    async fn start(&self) -> App {
        App::start(self.config(), Workers::CurrentRuntime).await.unwrap()
    }

    async fn start_after(&self, inherited: Inherited) -> App {
        let from = StartFrom { inherited, is_after_another: true, runs_app: false };
        App::start_from(self.config(), Workers::CurrentRuntime, from).await.unwrap()
    }

    async fn connect(&self) -> Channel {
        Channel::new(self.place.connect().await.unwrap().unwrap().0).unwrap()
    }
}

/// Settings with a place: the port of the outbound listener names it.
fn placed(folder: &std::path::Path) -> outrigger_config::Config {
    outrigger_config::Config {
        state_dir: Some(folder.to_owned()),
        registry: outrigger_config::Registry::File(folder.join("services.yaml")),
        ..outrigger_config::Config::default()
    }
}

fn ask_of(version: u32) -> FromNew {
    FromNew::Ask { version, pid: 1, instances: Vec::new() }
}

async fn next(channel: &mut Channel) -> FromRunning {
    channel.receive(LONG).await.unwrap()
}

/// Goes on to the endpoint.
async fn receive_sockets(channel: &mut Channel) {
    while next(channel).await != FromRunning::Endpoint {}
}

async fn is_served(addr: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let served = async {
        let mut stream = TcpStream::connect(addr).await.ok()?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.starts_with("HTTP/1.1 ").then_some(())
    };
    timeout(Duration::from_secs(2), served).await.ok().flatten().is_some()
}

/// Runs `new` beside a running sidecar, which must serve on afterwards.
async fn beside_running(new: impl AsyncFn(&Fixture)) {
    let fixture = Fixture::new();
    let app = fixture.start().await;
    let endpoint = fixture.place.listen().unwrap();
    let addrs = [app.outbound_addrs()[0], app.admin_addr().unwrap()];
    tokio::select! {
        () = until_taken_over(&app, endpoint) => panic!("nothing serves any more"),
        () = async {
            new(&fixture).await;
            // The next one has its turn.
            let mut channel = fixture.connect().await;
            channel.send(&ask_of(VERSION), &[]).await.unwrap();
            receive_sockets(&mut channel).await;
        } => {}
    }
    assert!(!app.is_leaving());
    for addr in addrs {
        assert!(is_served(addr).await, "{addr}");
    }
}

#[tokio::test]
async fn a_new_process_that_ends_at_any_step_leaves_the_running_one_as_it_is() {
    beside_running(async |fixture| drop(fixture.connect().await)).await;
    beside_running(async |fixture| {
        let mut channel = fixture.connect().await;
        channel.send(&ask_of(VERSION), &[]).await.unwrap();
    })
    .await;
    beside_running(async |fixture| {
        let mut channel = fixture.connect().await;
        channel.send(&ask_of(VERSION), &[]).await.unwrap();
        receive_sockets(&mut channel).await;
    })
    .await;
    beside_running(async |fixture| {
        let mut channel = fixture.connect().await;
        channel.send(&ask_of(VERSION), &[]).await.unwrap();
        receive_sockets(&mut channel).await;
        channel.send(&FromNew::Ready, &[]).await.unwrap();
    })
    .await;
    beside_running(async |fixture| {
        let mut channel = fixture.connect().await;
        channel.send(&ask_of(VERSION), &[]).await.unwrap();
        receive_sockets(&mut channel).await;
        channel.send(&FromNew::Ready, &[]).await.unwrap();
        assert_eq!(next(&mut channel).await, FromRunning::Released);
    })
    .await;
}

#[tokio::test]
async fn another_version_and_another_order_are_refused() {
    beside_running(async |fixture| {
        let mut channel = fixture.connect().await;
        channel.send(&ask_of(VERSION + 1), &[]).await.unwrap();
        let FromRunning::Refused { why } = next(&mut channel).await else { panic!("not refused") };
        assert!(why.contains("version 1") && why.contains("version 2"), "{why}");
    })
    .await;
    beside_running(async |fixture| {
        let mut channel = fixture.connect().await;
        channel.send(&FromNew::Taken, &[]).await.unwrap();
        assert!(matches!(channel.receive::<FromRunning>(LONG).await, Err(ChannelError::Ended)));
    })
    .await;
}

#[tokio::test]
async fn the_sockets_are_found_by_their_settings_and_all_of_them_move() {
    let fixture = Fixture::new();
    let old = fixture.start().await;
    let addrs = |app: &App| [app.outbound_addrs(), app.admin_addrs().to_vec()].concat();
    let endpoint = fixture.place.listen().unwrap();
    let new = async {
        let (inherited, predecessor) = ask(&fixture.place, &fixture.config()).await.unwrap().unwrap();
        let app = fixture.start_after(inherited).await;
        (predecessor.take_place(&app).await.unwrap(), app)
    };
    let ((endpoint, new), ()) = tokio::join!(new, until_taken_over(&old, endpoint));
    assert!(endpoint.is_some() && fixture.place.path().exists());
    let moved = addrs(&old);
    assert_eq!(addrs(&new), moved, "ports that the system chose, too");
    timeout(LONG, old.finish_handed_over()).await.unwrap();
    for addr in moved {
        assert!(is_served(addr).await, "{addr}");
    }
}

/// A running side that gets the first message and gives no socket of its own.
async fn running_side(fixture: &Fixture) -> (Endpoint, Channel) {
    let endpoint = fixture.place.listen().unwrap();
    let mut channel = Channel::new(endpoint.accept().await.unwrap()).unwrap();
    assert!(matches!(channel.receive(LONG).await.unwrap(), FromNew::Ask { version: VERSION, .. }));
    channel.send(&FromRunning::Endpoint, &endpoint.files()).await.unwrap();
    (endpoint, channel)
}

/// What a new process does when the running one answers with `end`; gives whether it serves.
async fn new_side(end: impl AsyncFn(Channel)) -> (Result<Option<Endpoint>, TakeError>, bool) {
    let fixture = Fixture::new();
    let new = async {
        let (inherited, predecessor) = loop {
            match ask(&fixture.place, &fixture.config()).await.unwrap() {
                Some(asked) => break asked,
                None => tokio::task::yield_now().await,
            }
        };
        let app = fixture.start_after(inherited).await;
        let taken = predecessor.take_place(&app).await;
        let is_served = is_served(app.admin_addr().unwrap()).await;
        (taken, is_served)
    };
    let running = async {
        let (endpoint, mut channel) = running_side(&fixture).await;
        assert_eq!(channel.receive::<FromNew>(LONG).await.unwrap(), FromNew::Ready);
        end(channel).await;
        endpoint
    };
    let (taken, _endpoint) = tokio::join!(new, running);
    taken
}

#[tokio::test]
async fn a_running_process_that_ends_leaves_the_place_to_the_new_one() {
    let (taken, is_served) = new_side(async |channel| drop(channel)).await;
    assert!(taken.unwrap().is_none() && is_served);
}

#[tokio::test]
async fn a_running_process_that_refuses_goes_on_alone() {
    let (taken, is_served) = new_side(async |mut channel| {
        channel.send(&FromRunning::Refused { why: "too late".into() }, &[]).await.unwrap();
    })
    .await;
    let error = crate::telemetry::error_chain(&taken.unwrap_err());
    assert!(error.contains("too late") && error.contains("goes on"), "{error}");
    assert!(!is_served, "two would serve");
}

#[tokio::test]
async fn a_place_where_nothing_answers_is_an_error_and_an_empty_one_is_none() {
    let fixture = Fixture::new();
    assert!(ask(&fixture.place, &fixture.config()).await.unwrap().is_none());
    let endpoint = fixture.place.listen().unwrap();
    tokio::time::pause();
    let asked = ask(&fixture.place, &fixture.config()).await;
    assert!(
        matches!(asked, Err(TakeError::Exchange(ChannelError::TimedOut(STEP_TIMEOUT)))),
        "{:?}",
        asked.map(|_| ())
    );
    drop(endpoint);
}
