//! The receipt of this sidecar in the registry's KV: which documents it has applied.

use outrigger_config::{Config, DocumentResult};
use outrigger_dynamic_config::{
    PlacedReceipt, Receipt, ReceiptWrite, ReceiptWriter, SessionFile, receipt_key,
};
use outrigger_registration::{build_registration, host_name};
use outrigger_task::essential;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, register_int_counter_vec_with_registry};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::registry::{self, OpenedRegistry};

/// What is to be in the KV, and the task that writes it, which starts with the first receipt.
#[derive(Debug)]
pub(super) struct Receipts {
    wanted: watch::Sender<Option<PlacedReceipt>>,
    writer: Mutex<Option<RunningWriter>>,
    /// `outrigger_dynamic_config_receipts_total`
    writes: IntCounterVec,
}

#[derive(Debug)]
struct RunningWriter {
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Receipts {
    pub(super) fn register(metrics: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let writes = register_int_counter_vec_with_registry!(
            "outrigger_dynamic_config_receipts_total",
            "Attempts to write the receipt of this sidecar, by result.",
            &["result"],
            metrics
        )?;
        ReceiptWrite::ALL.iter().for_each(|result| writes.with_label_values(&[result.label()]).reset());
        Ok(Self { wanted: watch::Sender::new(None), writer: Mutex::default(), writes })
    }

    /// The registry has these documents, with these results over the settings `config`. `port` is that of the outbound listener.
    pub(super) fn publish(
        &self,
        config: &Config,
        port: Option<u16>,
        results: &[DocumentResult],
        registry: &OpenedRegistry,
    ) {
        let Some(prefix) = &config.dynamic_config.prefix else { return self.withdraw() };
        let Some((kv, locks)) = registry.kv().zip(registry.locks()) else { return };
        let key = place(prefix, config, port);
        let receipt = Receipt::new(results, env!("CARGO_PKG_VERSION"));
        let placed = Some(PlacedReceipt { key, receipt });
        self.wanted.send_if_modified(|wanted| {
            let is_other = *wanted != placed;
            *wanted = placed;
            is_other
        });
        self.writer.lock().get_or_insert_with(|| {
            let writes = self.writes.clone();
            let observe = move |result: ReceiptWrite| writes.with_label_values(&[result.label()]).inc();
            let writer =
                ReceiptWriter::new(kv, locks, self.wanted.subscribe(), session_file(config), observe);
            let stop = CancellationToken::new();
            let task =
                tokio::spawn(essential("the receipt of the settings in the KV", writer.run(stop.clone())));
            RunningWriter { stop, task: AbortOnDropHandle::new(task) }
        });
    }

    /// There is to be no receipt.
    pub(super) fn withdraw(&self) {
        self.wanted.send_if_modified(|wanted| wanted.take().is_some());
    }

    /// Ends the session of the receipt, which removes it: for a second at most.
    pub(super) async fn stop(&self) {
        let writer = self.writer.lock().take();
        if let Some(RunningWriter { stop, task }) = writer {
            stop.cancel();
            let _ = task.await;
        }
    }
}

/// The id of this instance in the registry; without a service, the name of the machine.
pub(super) fn instance_id(config: &Config) -> String {
    let host = host_name();
    match config.services.first() {
        Some(service) => build_registration(service, &host).id,
        None => host,
    }
}

/// The key of the receipt of this sidecar. Without a service it is known by its machine and its outbound port.
fn place(prefix: &str, config: &Config, port: Option<u16>) -> String {
    match config.services.first() {
        Some(service) => receipt_key(prefix, Some(&service.name), &instance_id(config)),
        None => {
            let port = port.unwrap_or(config.outbound.listen.port);
            receipt_key(prefix, None, &format!("{}-{port}", host_name()))
        }
    }
}

/// Where the session of the receipt is kept for the next process.
fn session_file(config: &Config) -> SessionFile {
    registry::answers_place(config)
        .map_or_else(SessionFile::none, |place| SessionFile::at(place.folder, &place.name))
}
