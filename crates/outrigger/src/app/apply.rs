//! Puts settings in place: those of the start, with nothing to keep, and every other ones. First every step that can
//! fail, then every step that cannot. No connection is dropped, and nothing that was learned is forgotten.

use std::{net::SocketAddr, sync::Arc};

use outrigger_config::{
    Api, ApiListen, Config, LoadedConfig, Origin, ReloadPlan, SocketAccess, error_chain, fingerprint,
    plan_reload,
};
use outrigger_dns::{DNS_LISTEN, DnsChange};
use outrigger_dynamic_config::{AppliedResults, FollowedDocuments};
use outrigger_proxy::PreparedSettings;
use outrigger_registry::consul::NewCredentials;
use prometheus::Gauge;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    components::{ActiveConfig, Components},
    documents::SettingLayers,
    error::ApplyError,
    listen::{ADMIN_LISTEN, API_LISTEN, ApiBindError, ListenFailures, METRICS_LISTEN},
    receipts::instance_id,
    servers::{AdminServers, ServerChange},
};
use crate::{
    admin::{self, AdminBackend as _, AdminState, BoundListeners, ServerLimits},
    api::{self, ApiBackends, ApiGuard, ConfigBackend, DrainSignal},
    config_files::AppFiles,
    registry,
    reload::{AppliedReload, ReloadError, ReloadResult},
};

/// The parts of a sidecar, and its servers.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) components: Arc<Components>,
    pub(super) servers: AdminServers,
    pub(super) layers: SettingLayers,
    /// `outrigger_config_hash`
    pub(super) config_hash: Gauge,
}

/// Settings that can be put in place without an error: every socket is bound, and every file was read. Dropping it
/// undoes it.
#[derive(Debug)]
struct PreparedApply {
    loaded: LoadedConfig,
    proxy: PreparedSettings,
    admin: ServerChange,
    metrics: ServerChange,
    api: ServerChange,
    dns: DnsChange,
    credentials: Option<NewCredentials>,
}

/// What makes another listener of the API necessary.
#[derive(PartialEq)]
struct ApiPlace<'a> {
    listen: &'a ApiListen,
    /// Of a Unix socket.
    access: Option<&'a SocketAccess>,
}

impl<'a> ApiPlace<'a> {
    fn of(api: &'a Api) -> Option<Self> {
        let listen = api.listen.as_ref()?;
        Some(Self { listen, access: listen.tcp().is_none().then_some(&api.socket) })
    }
}

impl Running {
    /// Puts `next` in place, with the documents of the registry's KV over it. Of settings that need a restart it must have
    /// those that are in place.
    pub(super) async fn apply(self: &Arc<Self>, next: LoadedConfig) -> Result<(), ApplyError> {
        let _turn = self.layers.applying.lock().await;
        let layered = Box::new(self.layers.put_over(next, &self.components.registry));
        Box::pin(self.put_in_place(layered.loaded.clone())).await?;
        // The follower belongs to what it changes.
        let running = Arc::downgrade(self);
        let apply = move |followed| {
            let running = running.clone();
            async move { running.upgrade()?.apply_documents(followed).await }
        };
        self.layers.note_applied(*layered, &self.components.events, apply);
        Ok(())
    }

    /// Puts documents of the registry's KV over the settings of the file. `None`: not now.
    async fn apply_documents(&self, followed: FollowedDocuments) -> AppliedResults {
        let FollowedDocuments { documents, is_answered } = followed;
        let _turn = self.layers.applying.lock().await;
        if self.components.lifecycle.handle().is_leaving() {
            return None;
        }
        let (base, active) = (self.layers.base()?, self.components.active()?);
        let applied = base.with_documents(&documents, &instance_id(&base.config));
        if applied.loaded != active {
            let ReloadPlan { changed, .. } = plan_reload(&active, applied.loaded.clone());
            if let Err(error) = Box::pin(self.put_in_place(applied.loaded)).await {
                warn!(reason = error_chain(&error), "the settings of the KV cannot be put in place now");
                return None;
            }
            for change in changed {
                info!(%change, "setting changed by the KV");
            }
        }
        self.layers.note_results(&self.components.events, applied.documents.clone(), None, documents);
        if is_answered {
            let Components { proxy, registry, .. } = &*self.components;
            let port = proxy.outbound_addrs().first().map(SocketAddr::port);
            self.layers.receipts.publish(&base.config, port, &applied.documents, registry);
        }
        Some(applied.documents)
    }

    /// As [`Running::apply`], for settings with documents over them.
    pub(super) async fn put_in_place(&self, next: LoadedConfig) -> Result<(), ApplyError> {
        let prepared = self.prepare(next)?;
        self.commit(prepared).await;
        Ok(())
    }

    fn prepare(&self, loaded: LoadedConfig) -> Result<PreparedApply, ApplyError> {
        let Components { proxy, admin_thread, inherited, accepts, .. } = &*self.components;
        let config = &loaded.config;
        let running = self.components.active();
        let old = running.as_ref().map(|running| &running.config);
        // Without old settings the registry has just been opened with these.
        let old_registry = old.map_or(&config.registry, |old| &old.registry);
        let has_service = !config.services.is_empty();
        AppFiles::check(&config.api.config.files, self.components.runs_app, has_service)?;
        let credentials =
            registry::read_new_credentials(old_registry, &config.registry).map_err(ApplyError::Token)?;
        let bind = |key| {
            move |listen: &_| BoundListeners::bind(key, listen, admin_thread, inherited, accepts.clone())
        };
        let admin = ServerChange::bind(
            old.map(|old| &old.admin.listen),
            Some(&config.admin.listen),
            bind(ADMIN_LISTEN),
        );
        let metrics = ServerChange::bind(
            old.and_then(|old| old.admin.metrics_listen.as_ref()),
            config.admin.metrics_listen.as_ref(),
            bind(METRICS_LISTEN),
        );
        // One that is in use already is read with each request, and settings of other parts do not depend on it.
        let token_file_before = old.and_then(|old| old.api.token_file.as_ref());
        if let Some(path) = config.api.token_file.as_ref().filter(|path| token_file_before != Some(path)) {
            api::read_token(path).map_err(|source| ApplyError::ApiToken { path: path.clone(), source })?;
        }
        // Also here those that are in use already have been read, and are kept where they cannot be read now.
        for (n, upstream) in config.upstreams.iter().enumerate() {
            let is_known = old.is_some_and(|old| old.upstreams.iter().any(|known| known.tls == upstream.tls));
            if !is_known {
                let refused = |source| ApplyError::Tls { key: format!("upstreams[{n}]"), source };
                outrigger_proxy::check_tls_files(upstream).map_err(refused)?;
            }
        }
        let api_before = old.and_then(|old| ApiPlace::of(&old.api));
        let api = ServerChange::bind(api_before, ApiPlace::of(&config.api), |place| match place.listen {
            ApiListen::Tcp(listen) => bind(API_LISTEN)(listen).map_err(ApiBindError::Tcp),
            ApiListen::Unix(path) => {
                // A reload that changes its mode or its owner.
                let replaces = old.and_then(|old| old.api.listen.as_ref()) == Some(place.listen);
                let access = &config.api.socket;
                BoundListeners::bind_unix(API_LISTEN, path, access, replaces, admin_thread, accepts.clone())
                    .map_err(|source| ApiBindError::Unix { path: path.clone(), source })
            }
        });
        let dns_before = old.and_then(|old| old.dns.listen.as_ref());
        let dns = self.components.dns.prepare(dns_before, config.dns.listen.as_ref(), inherited);
        let own = [proxy.own_addrs(), inherited.addrs()].concat();
        let mut failures = ListenFailures::new(&own);
        let proxy =
            proxy.prepare_with(config, inherited).map_err(|refused| failures.note_proxy(&refused)).ok();
        let admin = failures.note(ADMIN_LISTEN, admin);
        let metrics = failures.note(METRICS_LISTEN, metrics);
        let api = failures.note_api(api);
        let dns = failures.note(DNS_LISTEN, dns);
        match (proxy, admin, metrics, api, dns) {
            (Some(proxy), Some(admin), Some(metrics), Some(api), Some(dns)) => {
                Ok(PreparedApply { loaded, proxy, admin, metrics, api, dns, credentials })
            }
            _ => Err(ApplyError::Listen(failures.lines)),
        }
    }

    async fn commit(&self, prepared: PreparedApply) {
        let PreparedApply { loaded, proxy, admin, metrics, api, dns, credentials } = prepared;
        let (components, config) = (&self.components, &loaded.config);
        if let Some(logs) =
            components.log_control.get().filter(|_| self.config().log.level != config.log.level)
        {
            logs.set_level(&config.log.level);
        }
        registry::apply_settings(&components.registry, config, credentials);
        components.discovery.apply_settings(config.discovery);
        components.proxy.apply_settings(proxy).await;
        components.dns.apply(dns, config, &components.proxy.outbound_addrs()).await;
        components.lifecycle.apply_settings(components.registration_plans(config), config.drain);
        components.apply_app_config(config);
        let state = AdminState {
            lifecycle: components.lifecycle.handle().clone(),
            metrics: components.metrics.clone(),
            events: components.events.clone(),
            backend: components.clone(),
        };
        if let ServerChange::Replace(bound) = metrics {
            let before = self.servers.metrics.replace(
                bound,
                admin::metrics_router(state.clone()),
                ServerLimits::PAGES,
            );
            if let Some(before) = before {
                before.stop().await;
            }
        }
        if let ServerChange::Replace(bound) = admin {
            let router = admin::admin_router(state, config.admin.listen.host.clone());
            let before = self.servers.admin.replace(bound, router, ServerLimits::PAGES);
            before.into_iter().for_each(|before| self.servers.retire(before));
        }
        // Before the API accepts, which reads its settings there.
        *components.active_config.lock() = Some(ActiveConfig::new(loaded.clone()));
        if let ServerChange::Replace(bound) = api {
            self.replace_api(bound, &config.api);
        }
        // They are no instances of a service.
        components.proxy.set_other_listeners("admin", self.servers.admin.addrs());
        components.proxy.set_other_listeners("metrics", self.servers.metrics.addrs());
        components.proxy.set_other_listeners("api", self.servers.api.addrs());
        components.proxy.set_other_listeners("dns", components.dns.addrs());
        // The hash has 48 bits, so that an f64 is exact.
        self.config_hash.set(fingerprint(config) as f64);
    }

    /// Serves the API on `bound`. The connections of the server before go on: an app may hold a lock by one.
    fn replace_api(&self, bound: Option<BoundListeners>, settings: &Api) {
        let listen = settings.listen.as_ref().and_then(ApiListen::tcp).map(|listen| listen.host.clone());
        let components = self.components.clone();
        let own_names = Arc::new(move || components.own_names());
        let components = self.components.clone();
        let token_file = Arc::new(move || components.api_token_file());
        let guard = ApiGuard { listen, own_names, token_file };
        let backends = ApiBackends {
            locks: self.components.locks.clone(),
            kv: self.components.app_config.as_ref().map(|parts| parts.reader.clone()),
            config: ConfigBackend {
                watch: self.components.app_config.as_ref().map(|parts| parts.merged.clone()),
                prefixes: self.components.app_config.as_ref().map(|parts| parts.watches.clone()),
                drain: self
                    .components
                    .locks
                    .clone()
                    .map_or_else(|| DrainSignal::Token(CancellationToken::new()), DrainSignal::Locks),
            },
        };
        let router = api::api_router(backends, guard);
        if let Some(before) = self.servers.api.replace(bound, router, ServerLimits::API) {
            self.servers.retire_api(before);
        }
    }

    /// Reads the settings again, and puts in place what needs no restart.
    pub(super) async fn reload(self: &Arc<Self>) -> ReloadResult {
        let components = &self.components;
        let read = match components.config_source.get() {
            Some(source) => source.read().await?,
            None => return Err(ReloadError::NoFile),
        };
        let leaving = components.lifecycle.handle().is_leaving();
        let Some(running) = self.layers.base().filter(|_| !leaving) else {
            return Err(ReloadError::Leaving);
        };
        // A program that rewrites a file empties it first. An empty file would deregister the app.
        if let (Some(file), None) = (settings_file(&running), settings_file(&read)) {
            let problem = format!("{file}: sets nothing any more; if that is meant, restart the sidecar");
            return Err(ReloadError::Problems { problems: vec![problem], warnings: Vec::new() });
        }
        let ReloadPlan { next, changed, needs_restart } = plan_reload(&running, read);
        let warnings = next.warnings.iter().map(ToString::to_string).collect();
        self.apply(next).await?;
        let hash = fingerprint(&self.config());
        Ok(AppliedReload { changed, needs_restart, warnings, hash })
    }

    /// The settings that are in place.
    pub(super) fn config(&self) -> Config {
        let active = self.components.active_config.lock();
        active.as_ref().map(|active| active.loaded.config.clone()).unwrap_or_default()
    }
}

/// The file that some of these settings come from, if there is one.
fn settings_file(loaded: &LoadedConfig) -> Option<&str> {
    loaded.origins.iter().find_map(|(_, origin)| match origin {
        Origin::File { file, .. } => Some(&**file),
        _ => None,
    })
}
