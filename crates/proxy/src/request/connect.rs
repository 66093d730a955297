//! `CONNECT orders:80`: a connection to an instance of the service, and bytes both ways.
//!
//! The target names a service and never an address: this is no open proxy. The instance is picked and connected to as for a connection of
//! a TCP listener ([`tcp`](crate::tcp)).

use std::sync::Arc;

use outrigger_config::Limits;
use outrigger_http1::Head;
use outrigger_policy::Deadline;
use tokio::time::Instant;

use crate::{
    reason::Refusal,
    request::{
        app::{AfterRequest, Downstream, RequestAccount},
        fields::ClientDeadline,
        route,
        rules::RoutedService,
    },
    tcp::{
        connect::{Connected, connect},
        route::TcpRoute,
    },
    transport::{
        channel::Channel,
        tunnel::{self, TunnelBounds, TunnelEnd},
    },
    upstream::endpoint::Endpoint,
};

/// The response: what follows it is the instance's.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

impl Downstream<'_> {
    /// Answers a CONNECT: carries bytes to an instance of the service that its target names, and back.
    pub(crate) async fn connect<'s>(
        &mut self,
        head: &Head,
        account: &mut RequestAccount<'s>,
        service: &'s mut Option<RoutedService>,
    ) -> AfterRequest {
        // Boxed: each request would carry the room.
        match Box::pin(self.carry_connect(head, account, service)).await {
            Ok(after) => after,
            Err(refusal) => self.refuse(&refusal, account).await,
        }
    }

    async fn carry_connect<'s>(
        &mut self,
        head: &Head,
        account: &mut RequestAccount<'s>,
        service: &'s mut Option<RoutedService>,
    ) -> Result<AfterRequest, Refusal> {
        let info = self.info;
        let name = route::find_connect(info, self.settings, head)?;
        let started = account.started;
        let Some(cluster) = self.open_cluster(&name, &ClientDeadline::default(), &started).await? else {
            return Ok(AfterRequest::Close);
        };
        let clusters = info.clusters().clone();
        let Some(found) = self.unless_gone(TcpRoute::find(&clusters, &cluster)).await else {
            return Ok(AfterRequest::Close);
        };
        let found = found?;
        let (cluster, settings) = (found.cluster.clone(), found.settings.clone());
        let routed = &*service.insert(RoutedService { cluster, settings, applied: None });
        let cells = routed.settings.cells(info.worker.index);
        account.set_service(cells, &routed.cluster.label);
        if let Some(bulkhead) = &routed.settings.bulkhead {
            let deadline = Deadline::new(started.into_std(), routed.settings.policy.timeout);
            match self.find_slot(bulkhead, &routed.cluster, deadline).await? {
                Some(slot) => account.slot = Some(slot),
                None => return Ok(AfterRequest::Close),
            }
        }
        let note_attempt = |endpoint: &Endpoint| {
            account.attempts += 1;
            let elsewhere = || found.target_of(endpoint).map(|_| Arc::clone(&endpoint.service));
            account.set_instance(&endpoint.id, elsewhere);
        };
        let Some(connected) = self.unless_gone(connect(&found, info, started, note_attempt)).await else {
            return Ok(AfterRequest::Close);
        };
        let Connected { stream, open: _open, lease } = connected?;
        account.record_answer(200, None, Instant::now());
        self.channel.queue(|outbox| outbox.push(ESTABLISHED));
        let mut instance = Channel::new(stream);
        let endpoint = lease.endpoint();
        let has_left = || found.with_owner(endpoint, |owner, _| owner.has_left(endpoint));
        let Limits { tunnel_idle: idle, tunnel_grace: grace, .. } = self.settings.outbound.limits;
        let mut moved = (0, self.channel.written + ESTABLISHED.len() as u64);
        let note_moved = |app: &Channel, instance: &Channel| {
            cells.note_tunnel_bytes(&mut moved, instance.written, app.written);
        };
        let bounds = TunnelBounds { idle, grace };
        let ended =
            tunnel::carry(self.channel, &mut instance, self.timer, bounds, has_left, note_moved).await;
        Ok(match ended {
            TunnelEnd::Closed | TunnelEnd::Broken => AfterRequest::Close,
            TunnelEnd::Idle | TunnelEnd::InstanceGone => AfterRequest::Reset,
        })
    }
}
