//! A registry as a process of its own: the first line of its output is its address, and it ends with its standard input.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use clap::Args;
use outrigger_devregistry::{DevRegistry, DevRegistryOptions};
use outrigger_tests::consul::Consul;

use crate::suite::Side;

/// Which registry.
#[derive(Debug, Args)]
pub(crate) struct RegistryOptions {
    side: Side,
    /// With ACLs, which allow everything by default, and this token that may do everything
    #[arg(long, value_name = "TOKEN")]
    acl: Option<String>,
}

/// A registry of this process. Ends when it is dropped.
#[derive(Debug)]
pub(crate) enum Registry {
    Dev(DevRegistry),
    Consul(Box<Consul>),
}

impl Registry {
    /// Starts one. The dev registry has no ACLs, and ignores `acl`.
    ///
    /// # Errors
    /// It did not start.
    pub(crate) async fn start(side: Side, acl: Option<&str>) -> Result<Self, String> {
        match side {
            Side::Dev => {
                let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
                let bound = DevRegistry::bind(any, DevRegistryOptions::default()).await;
                Ok(Self::Dev(bound.map_err(|error| error.to_string())?))
            }
            Side::Consul => {
                // As the suites start it: checks by scripts, and a mesh.
                let mut settings = "enable_script_checks = true\nconnect { enabled = true }\n".to_owned();
                if let Some(token) = acl {
                    settings += &format!("acl {{ enabled = true tokens {{ master = {token:?} }} }}\n");
                }
                let started = Consul::server_with(&settings).await;
                Ok(Self::Consul(Box::new(started.map_err(|error| error.to_string())?)))
            }
        }
    }

    /// The address of its HTTP API.
    pub(crate) fn addr(&self) -> SocketAddr {
        match self {
            Self::Dev(registry) => registry.addr(),
            Self::Consul(consul) => consul.http_addr(),
        }
    }
}

/// Runs one until standard input ends.
///
/// # Errors
/// It did not start, or its address could not be written.
pub(crate) async fn run(options: &RegistryOptions) -> Result<ExitCode, String> {
    let registry = Registry::start(options.side, options.acl.as_deref()).await?;
    let mut output = std::io::stdout();
    writeln!(output, "http://{}", registry.addr())
        .and_then(|()| output.flush())
        .map_err(|error| format!("write the address: {error}"))?;
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    ended.map_err(|error| error.to_string())?.map_err(|error| format!("read standard input: {error}"))?;
    drop(registry);
    Ok(ExitCode::SUCCESS)
}
