//! A registry as a process of its own: its output is its address and that for key-value reads, a line each, and it ends with
//! its standard input.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use clap::Args;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::{consul::Consul, process::Process, registry::ConsulAgent};
use serde_json::json;

use crate::suite::Side;

/// Which registry.
#[derive(Debug, Args)]
pub(crate) struct RegistryOptions {
    side: Side,
    /// With ACLs, which allow everything by default, and this token that may do everything
    #[arg(long, value_name = "TOKEN")]
    acl: Option<String>,
}

/// A registry of this process, and the sidecar before it. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    server: Server,
    sidecar: Option<Process>,
    reads: SocketAddr,
    dns: Option<SocketAddr>,
}

#[derive(Debug)]
enum Server {
    Dev(DevRegistry),
    Consul(Box<Consul>),
}

/// The prefixes that the suites read, for `api.config.allow`.
const ALLOWED: &str = "[shared/, node/, cli/, foo, bar, base/]";
/// Keys that are there before the sidecar starts: it asks seldom about a prefix without keys.
const FIRST_KEYS: [&str; 3] = ["shared/.first", "node/.first", "cli/.first"];

impl Registry {
    /// Starts one. The dev registry has no ACLs, and ignores `acl`. `dns_answer`: what the sidecar's DNS listener answers.
    ///
    /// # Errors
    /// It did not start.
    pub(crate) async fn start(side: Side, acl: Option<&str>, dns_answer: &str) -> Result<Self, String> {
        let server = if side.is_consul() {
            // As the suites start it: checks by scripts, and a mesh.
            let mut settings = "enable_script_checks = true\nconnect { enabled = true }\n".to_owned();
            if let Some(token) = acl {
                settings += &format!("acl {{ enabled = true tokens {{ master = {token:?} }} }}\n");
            }
            let started = Consul::server_with(&settings).await;
            Server::Consul(Box::new(started.map_err(|error| error.to_string())?))
        } else {
            let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
            let bound = DevRegistry::bind(any, DevRegistryOptions::default()).await;
            Server::Dev(bound.map_err(|error| error.to_string())?)
        };
        let mut registry = Self { reads: server.addr(), server, sidecar: None, dns: None };
        if side.is_sidecar() {
            let (api, dns, at) =
                (outrigger_net::reserve_addr(), outrigger_net::reserve_addr(), registry.addr());
            for key in FIRST_KEYS {
                ConsulAgent(at).put(&format!("/v1/kv/{key}"), &json!("")).await;
            }
            let settings = format!(
                "registry: {{consul: {{address: \"http://{at}\"}}}}\n\
                 api: {{listen: \"{api}\", config: {{allow: {ALLOWED}}}}}\n\
                 dns: {{listen: \"{dns}\", answer: {dns_answer}}}\n"
            );
            let sidecar = Process::run(&settings).await;
            sidecar.wait_ready().await;
            (registry.sidecar, registry.reads, registry.dns) = (Some(sidecar), api, Some(dns));
        }
        Ok(registry)
    }

    /// The address of its HTTP API.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The addresses of the sidecar, if there is one, by the variables that tell the program of them.
    pub(crate) fn sidecar_addrs(&self) -> Vec<(&'static str, SocketAddr)> {
        let Some((sidecar, dns)) = self.sidecar.as_ref().zip(self.dns) else { return Vec::new() };
        vec![
            ("FOREIGN_DNS", dns),
            ("FOREIGN_OUTBOUND", sidecar.outbound()),
            ("FOREIGN_ADMIN", sidecar.admin()),
        ]
    }

    /// The address for key-value reads: that of the sidecar, if there is one.
    pub(crate) fn reads(&self) -> SocketAddr {
        self.reads
    }
}

impl Server {
    fn addr(&self) -> SocketAddr {
        match self {
            Self::Dev(registry) => registry.addr(),
            Self::Consul(consul) => consul.http_addr(),
        }
    }
}

/// Runs one until standard input ends.
///
/// # Errors
/// It did not start, or its addresses could not be written.
pub(crate) async fn run(options: &RegistryOptions) -> Result<ExitCode, String> {
    let registry = Registry::start(options.side, options.acl.as_deref(), "instances").await?;
    let mut output = std::io::stdout();
    writeln!(output, "http://{}\nhttp://{}", registry.addr(), registry.reads())
        .and_then(|()| output.flush())
        .map_err(|error| format!("write the addresses: {error}"))?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    ended.map_err(|error| error.to_string())?.map_err(|error| format!("read standard input: {error}"))?;
    drop(registry);
    Ok(ExitCode::SUCCESS)
}
