//! A body or a tunnel that always has more to move leaves the other connections of its worker their turn.

use tokio::task::yield_now;

use crate::path::{CAPACITY, Path, Peer};

const GET: &str = "GET / HTTP/1.1\r\nHost: orders\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Most bytes that a direction moves in one poll, and most reads.
const MOST: usize = 256 * 1024;
const MOST_READS: usize = 16;
/// The number of the pump's connection, and of the other one.
const PUMP: usize = 0;
const OTHER: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pump {
    Upload,
    Download,
    TunnelUp,
}

/// A pump with more room than one turn takes on both sides, on its way.
async fn start(path: &mut Path, pump: Pump) -> (Peer, usize) {
    let mut app = path.connect_with(4 * MOST);
    app.say(match pump {
        Pump::Upload => "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000000000000\r\n\r\n",
        Pump::Download => GET,
        Pump::TunnelUp => "GET / HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    });
    path.settle().await;
    let at = path.used()[0];
    let instance = &mut path.instances[at];
    match pump {
        Pump::Upload => {}
        Pump::Download => instance.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"),
        Pump::TunnelUp => {
            instance.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        }
    }
    path.settle().await;
    (app, at)
}

/// Fills the pump's source, and empties its sink: the bytes that have come out.
fn feed(pump: Pump, app: &mut Peer, instance: &mut Peer) -> usize {
    let (source, sink) = match pump {
        Pump::Upload | Pump::TunnelUp => (app, instance),
        Pump::Download => (instance, app),
    };
    while source.write(&[b'x'; CAPACITY]) > 0 {}
    sink.read();
    std::mem::take(&mut sink.got).len()
}

/// Each round of the runtime polls what is ready once, and then asks for events: `yield_now` returns after one.
/// Prints how long a round with a turn of the pump takes on the machine's clock (`cargo test --profile guard`): a GET waits for two of them.
#[tokio::test(start_paused = true)]
#[expect(
    clippy::disallowed_methods,
    reason = "tokio's clock stands still; the time is printed and decides nothing"
)]
async fn a_pump_moves_a_bounded_part_and_the_other_connection_is_polled_after_one_turn() {
    for pump in [Pump::Upload, Pump::Download, Pump::TunnelUp] {
        let mut path = Path::new(2, 4 * MOST, |_| {}).await;
        let (mut app, at) = start(&mut path, pump).await;
        let mut other = path.connect();
        path.settle().await;
        feed(pump, &mut app, &mut path.instances[at]);
        let (mut moved, mut times) = (Vec::new(), Vec::new());
        for round in 0..200 {
            path.take_polled();
            other.got.clear();
            other.say(GET);
            let mut turns = 0;
            while !other.got.ends_with(b"ok") {
                let begun = std::time::Instant::now();
                yield_now().await;
                let took = begun.elapsed();
                let polled = path.take_polled();
                if polled.contains(&PUMP) {
                    times.push(took);
                }
                turns += polled.iter().filter(|number| **number == PUMP).count();
                // The pump is polled once, and the other connection in the same round.
                assert!(polled.iter().filter(|number| **number == PUMP).count() <= 1, "{pump:?}: {polled:?}");
                assert!(polled.contains(&OTHER), "{pump:?}, round {round}: {polled:?}");
                moved.push(feed(pump, &mut app, &mut path.instances[at]));
                for instance in path.instances.iter_mut() {
                    instance.read();
                    if instance.got.ends_with(b"\r\n\r\n") {
                        instance.got.clear();
                        instance.say(OK);
                    }
                }
                other.read();
            }
            // One turn before the request, one before the response.
            assert!(turns <= 3, "{pump:?}, round {round}: {turns} turns of the pump beside one GET");
        }
        times.sort();
        let [median, last] = [times.len() / 2, times.len() * 99 / 100].map(|at| times[at]);
        println!(
            "{pump:?}: a round with a turn of it takes {median:?} in the median, 99 % take less than {last:?}"
        );
        let most = moved.iter().copied().max().unwrap();
        assert!(most <= MOST, "{pump:?} moved {most} bytes in a turn");
        assert!(most > MOST / 2, "{pump:?} moved at most {most} bytes: it is no pump");
    }
}

/// A body of tiny chunks costs a turn more than its bytes do: reads are bounded too.
#[tokio::test(start_paused = true)]
async fn a_pump_reads_a_bounded_number_of_times() {
    let mut path = Path::new(1, 64 * MOST, |_| {}).await;
    let mut app = path.connect_with(64 * MOST);
    app.say(GET);
    path.settle().await;
    let at = path.used()[0];
    path.instances[at].say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    path.settle().await;
    app.read();
    // 16 reads are at most 1 MiB, of which a sixth is data: less than the bound of bytes.
    let chunks = b"1\r\nx\r\n".repeat(MOST);
    path.instances[at].say(&chunks);
    let mut turns = 0;
    let mut data = 0;
    while data < MOST {
        path.take_polled();
        yield_now().await;
        turns += path.take_polled().len();
        app.got.clear();
        app.read();
        let moved = app.got.iter().filter(|byte| **byte == b'x').count();
        assert!(moved <= MOST_READS * CAPACITY / 6 + 1, "{moved} chunks in a turn");
        data += moved;
    }
    assert!(turns >= 2, "{turns} turns");
}
