//! The text of `/metrics`. It is made on a thread for blocking work, so that no other page waits for it.

use std::{sync::Arc, time::Duration};

use axum::body::Bytes;
use prometheus::TextEncoder;
use tokio::{sync::Mutex, task::spawn_blocking, time::Instant};

/// For how long one text serves all that ask from the network.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScrapeError {
    #[error("encode the metrics")]
    Encode(#[from] prometheus::Error),
    #[error("the thread that gathers the metrics ended")]
    Ended(#[from] tokio::task::JoinError),
}

/// The metrics as they are now.
pub(super) async fn gather(metrics: &prometheus::Registry) -> Result<Bytes, ScrapeError> {
    let metrics = metrics.clone();
    spawn_blocking(move || encode(&metrics)).await?
}

fn encode(metrics: &prometheus::Registry) -> Result<Bytes, ScrapeError> {
    Ok(TextEncoder::new().encode_to_string(&metrics.gather())?.into())
}

/// The metrics as they were at most a second ago: however many scrapers ask, they are gathered once a second.
#[derive(Debug)]
pub(super) struct SharedScrape {
    metrics: prometheus::Registry,
    /// Locked while they are gathered, so that all that ask meanwhile get the same text.
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl SharedScrape {
    pub(super) fn new(metrics: prometheus::Registry) -> Self {
        Self { metrics, last: Arc::default() }
    }

    pub(super) async fn text(&self) -> Result<Bytes, ScrapeError> {
        let mut last = self.last.clone().lock_owned().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < SHARED_FOR
        {
            return Ok(text.clone());
        }
        let (began, metrics) = (Instant::now(), self.metrics.clone());
        // The thread keeps the lock and stores the text: a scraper that closes its connection ends only its own wait.
        spawn_blocking(move || {
            let text = encode(&metrics)?;
            *last = Some((began, text.clone()));
            Ok(text)
        })
        .await?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use prometheus::{
        core::{Collector, Desc},
        proto::MetricFamily,
    };

    use super::*;

    /// Counts how often the metrics are gathered.
    struct Gathered(Arc<AtomicUsize>);

    impl Collector for Gathered {
        fn desc(&self) -> Vec<&Desc> {
            Vec::new()
        }

        fn collect(&self) -> Vec<MetricFamily> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Vec::new()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn scrapers_that_close_their_connection_share_the_gather_that_they_began() {
        let (metrics, gathered) = (prometheus::Registry::new(), Arc::new(AtomicUsize::new(0)));
        metrics.register(Box::new(Gathered(gathered.clone()))).unwrap();
        let shared = SharedScrape::new(metrics);
        for _ in 0..50 {
            // Dropped while the metrics are gathered, as hyper drops the handler of a closed connection.
            let _ = tokio::time::timeout(Duration::ZERO, shared.text()).await;
        }
        shared.text().await.unwrap();
        assert_eq!(gathered.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn scrapers_of_the_network_share_one_gather_a_second() {
        let (metrics, gathered) = (prometheus::Registry::new(), Arc::new(AtomicUsize::new(0)));
        metrics.register(Box::new(Gathered(gathered.clone()))).unwrap();
        let shared = Arc::new(SharedScrape::new(metrics.clone()));
        for expected in 1..=3 {
            let mut scrapers: tokio::task::JoinSet<_> = (0..50)
                .map(|_| {
                    let shared = shared.clone();
                    async move { shared.text().await.unwrap() }
                })
                .collect();
            while let Some(text) = scrapers.join_next().await {
                text.unwrap();
            }
            assert_eq!(gathered.load(Ordering::SeqCst), expected);
            tokio::time::advance(SHARED_FOR).await;
        }
        gather(&metrics).await.unwrap();
        gather(&metrics).await.unwrap();
        assert_eq!(gathered.load(Ordering::SeqCst), 5, "the local side sees what is now");
    }
}
