//! A reload: the start again, with something to keep. No connection is dropped, and nothing that was
//! learned is forgotten.

use std::sync::Arc;

use outrigger_config::{LoadedConfig, Origin};

use super::{
    components::{ActiveConfig, Components, MetricsServer, registration_plan},
    listen::{ListenFailures, METRICS_LISTEN, admin_failures_after_restart},
};
use crate::{
    admin::{self, AdminServer, AdminState, BoundListeners},
    reload::{AppliedReload, ReloadError, ReloadResult},
};

/// The file that some of these settings come from, if there is one.
fn settings_file(loaded: &LoadedConfig) -> Option<&str> {
    loaded.origins.iter().find_map(|(_, origin)| match origin {
        Origin::File { file, .. } => Some(&**file),
        _ => None,
    })
}

impl Components {
    /// Tells the proxy where the server for metrics listens, which is no instance of a service.
    pub(super) fn set_metrics_listeners(&self, server: Option<&AdminServer>) {
        let addrs = server.map(|server| server.addrs.clone()).unwrap_or_default();
        self.proxy.set_other_listeners("metrics", addrs);
    }

    /// One reload: first every step that can fail, then every step that cannot.
    pub(super) async fn reload(
        self: Arc<Self>,
        metrics_server: MetricsServer,
        state: AdminState,
    ) -> ReloadResult {
        let read = match self.config_source.get() {
            Some(source) => source.read().await?,
            None => return Err(ReloadError::NoFile),
        };
        if self.lifecycle.handle().drain().requested.is_cancelled() {
            return Err(ReloadError::Leaving);
        }
        let running = self.active_config.lock().loaded.clone();
        // A program that rewrites a file empties it first. An empty file would deregister the app.
        if let (Some(file), None) = (settings_file(&running), settings_file(&read)) {
            let problem = format!("{file}: sets nothing any more; if that is meant, restart the sidecar");
            return Err(ReloadError::Problems { problems: vec![problem], warnings: Vec::new() });
        }
        let own = self.proxy.own_addrs();
        // The admin side keeps its address until a restart, which then should not fail.
        let admin_failures = if read.config.admin.listen == running.config.admin.listen {
            Vec::new()
        } else {
            admin_failures_after_restart(&read.config.admin.listen, &own)
        };
        let outrigger_config::ReloadPlan { next, changed, needs_restart } =
            outrigger_config::plan_reload(&running, read);
        let (old, new) = (&running.config.admin.metrics_listen, &next.config.admin.metrics_listen);
        let moves = old != new;
        let mut failures = ListenFailures::new(&own);
        let bound = new.as_ref().filter(|_| moves).and_then(|listen| {
            failures.note(METRICS_LISTEN, BoundListeners::bind(listen, &self.admin_thread))
        });
        let prepared = self.proxy.prepare(&next.config).map_err(|refused| failures.note_proxy(&refused)).ok();
        let Some(prepared) = prepared.filter(|_| failures.lines.is_empty()) else {
            return Err(ReloadError::Address([failures.lines, admin_failures].concat().join("\n")));
        };

        if let Some(logs) =
            self.log_control.get().filter(|_| running.config.log.level != next.config.log.level)
        {
            logs.set_level(&next.config.log.level);
        }
        self.discovery.apply_settings(next.config.discovery);
        self.proxy.apply_settings(prepared).await;
        self.lifecycle.apply_settings(
            registration_plan(&next.config, self.registrar.as_ref(), &self.app_started),
            next.config.drain,
        );
        if moves {
            let server = bound.map(|bound| AdminServer::start(bound, admin::metrics_router(state)));
            self.set_metrics_listeners(server.as_ref());
            let before = std::mem::replace(&mut *metrics_server.lock(), server);
            if let Some(server) = before {
                server.stop().await;
            }
        }
        let hash = outrigger_config::fingerprint(&next.config);
        let warnings = next.warnings.iter().map(ToString::to_string).chain(admin_failures).collect();
        *self.active_config.lock() = ActiveConfig::new(next);
        Ok(AppliedReload { changed, needs_restart, warnings, hash })
    }
}
