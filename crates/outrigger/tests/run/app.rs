//! The app of these tests: this test binary, started again with its instructions in the environment. So the
//! tests need no second binary and no interpreter.
//!
//! It listens on `APP_PORT`, and on `APP_ADMIN_PORT` where that is set, and writes each event to `APP_LOG`, one line each.

use std::{
    fs::OpenOptions,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

fn log(line: &str) {
    let path = std::env::var("APP_LOG").unwrap();
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The answer to `GET path`, or why there is none.
fn get(addr: &str, path: &str) -> String {
    let asked = || {
        let mut socket = TcpStream::connect(addr)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    asked().unwrap_or_else(|error| error.to_string())
}

/// Logs whether outbound is open, and whether the registry lists the app.
fn log_surroundings(when: &str) {
    if let Some(outbound) = variable("APP_OUTBOUND") {
        let answer = get(&outbound, "/svc/unknown/");
        log(&format!("{when}: outbound {}", answer.lines().next().unwrap_or_default()));
    }
    if let Some(registry) = variable("APP_REGISTRY") {
        for (service, id) in [("orders", "orders-1"), ("orders-admin", "orders-admin-1")] {
            let listed = get(&registry, &format!("/v1/health/service/{service}")).contains(id);
            let of = if service == "orders" { String::new() } else { format!("{service} ") };
            log(&format!("{when}: {of}{}", if listed { "listed" } else { "not listed" }));
            if variable("APP_ADMIN_PORT").is_none() {
                break;
            }
        }
    }
}

#[tokio::test]
#[ignore = "not a test: the app that the tests start"]
async fn the_app() {
    let Some(port) = variable("APP_PORT") else { return };
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();
    let mut quit = signal(SignalKind::quit()).unwrap();
    let others = [
        ("HUP", SignalKind::hangup()),
        ("USR1", SignalKind::user_defined1()),
        ("USR2", SignalKind::user_defined2()),
        ("WINCH", SignalKind::window_change()),
        ("ALRM", SignalKind::alarm()),
        ("VTALRM", SignalKind::from_raw(Signal::VTALARM.as_raw())),
        ("PROF", SignalKind::from_raw(Signal::PROF.as_raw())),
        ("IO", SignalKind::io()),
        ("PWR", SignalKind::from_raw(Signal::POWER.as_raw())),
    ]
    .map(|(name, kind)| (name, signal(kind).unwrap()));
    for (name, mut other) in others {
        tokio::spawn(async move {
            while other.recv().await.is_some() {
                log(&format!("got {name}"));
            }
        });
    }
    log_surroundings("start");
    let listener = TcpListener::bind(("127.0.0.1", port.parse::<u16>().unwrap())).await.unwrap();
    let admin = match variable("APP_ADMIN_PORT") {
        Some(port) => Some(TcpListener::bind(("127.0.0.1", port.parse::<u16>().unwrap())).await.unwrap()),
        None => None,
    };
    log(&format!("started {}", std::process::id()));
    let accept_admin = async || match &admin {
        Some(admin) => admin.accept().await,
        None => std::future::pending().await,
    };
    let signal = loop {
        tokio::select! {
            accepted = listener.accept() => drop(accepted),
            accepted = accept_admin() => drop(accepted),
            _ = terminate.recv() => break "TERM",
            _ = interrupt.recv() => break "INT",
            _ = quit.recv() => break "QUIT",
        }
    };
    log(&format!("got {signal}"));
    log_surroundings("stop");
    log("ended");
    std::process::exit(variable("APP_EXIT").map_or(0, |code| code.parse().unwrap()));
}
