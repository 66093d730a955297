//! An upgraded connection: bytes both ways, until the end of the app's connection.

use outrigger_config::Limits;
use tokio::time::Instant;

use crate::{
    request::{app::Downstream, call::Call},
    transport::{
        channel::Channel,
        exchange::Exchange,
        tunnel::{self, TunnelBounds},
    },
    upstream::endpoint::Endpoint,
};

/// Carries the bytes of both sides to an end. `switched_at`: when the head of the response was queued.
pub(crate) async fn carry_upgraded(
    call: &Call<'_>,
    app: &mut Downstream<'_>,
    exchange: &mut Exchange,
    endpoint: &Endpoint,
    switched_at: Instant,
) {
    let Limits { tunnel_idle: idle, tunnel_grace: grace, .. } = app.settings.outbound.limits;
    // A switch of protocols answers the expectation, too (RFC 9110 §7.8).
    app.upload.release(false, switched_at);
    let has_left = || call.with_owner(endpoint, |owner, _| owner.has_left(endpoint));
    let bounds = TunnelBounds { idle, grace };
    let cells = call.cells();
    let mut moved =
        (exchange.channel().written, app.channel.written + app.channel.outbox.pending().len() as u64);
    let note_moved = |app: &Channel, instance: &Channel| {
        cells.note_tunnel_bytes(&mut moved, instance.written, app.written);
    };
    tunnel::run(app.channel, exchange, &mut app.upload, app.timer, bounds, has_left, note_moved).await;
}
