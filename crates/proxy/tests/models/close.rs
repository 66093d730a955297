//! A connection that is given back while its instance leaves, or while room is made for another one.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use loom::thread;
use tokio::time::Instant;

use crate::{check, pool::ConnectionPool, sync::AtomicUsize};

/// Counts how often it was dropped.
struct Connection(Arc<AtomicUsize>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn no_connection_stays_idle_at_an_instance_that_has_left() {
    let now = Instant::now();
    check(move || {
        let (pool, dropped) = (Arc::new(ConnectionPool::new(2)), Arc::new(AtomicUsize::new(0)));
        let workers: Vec<_> = [0, 1]
            .map(|worker| {
                let (pool, dropped) = (Arc::clone(&pool), Arc::clone(&dropped));
                thread::spawn(move || pool.check_in(worker, Connection(dropped), 1, now))
            })
            .into();
        pool.close();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!((pool.idle(), dropped.load(Relaxed)), (0, 2));
    });
}

#[test]
fn a_connection_is_taken_once() {
    let now = Instant::now();
    check(move || {
        let (pool, dropped) = (Arc::new(ConnectionPool::new(1)), Arc::new(AtomicUsize::new(0)));
        pool.check_in(0, Connection(Arc::clone(&dropped)), 8, now);
        let take = move |pool: &ConnectionPool<Connection>| {
            let limit = Duration::from_secs(1);
            pool.checkout(0, limit, limit, now, |_, _| false, || ())
        };
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || take(&pool))
        };
        let (own, other) = (take(&pool), other.join().unwrap());
        assert!(own.is_some() != other.is_some(), "one of the two has it");
        pool.close();
        assert_eq!(dropped.load(Relaxed), 0, "a connection in use is left alone");
        drop((own, other));
        assert_eq!(dropped.load(Relaxed), 1);
    });
}

#[test]
fn no_more_connections_are_open_than_allowed() {
    check(|| {
        let pool = Arc::new(ConnectionPool::<Connection>::new(1));
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.reserve(1))
        };
        let (own, other) = (pool.reserve(1), other.join().unwrap());
        assert!(own.is_none() || other.is_none());
        drop((own, other));
        assert_eq!(pool.open(), 0);
        assert!(pool.reserve(1).is_some(), "a reservation that failed holds no place");
    });
}
