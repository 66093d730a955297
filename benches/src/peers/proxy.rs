//! The proxies and their settings (`benches/peers`), which all say the same: HTTP/1.1 keep-alive on both sides, one
//! worker, round robin over the same backends, no access log. Everything else has its default, except
//! for limits that would end connections during a run or refuse its loads.

use std::{
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    process::PinnedProcess,
    template::{Template, Words},
    tools::Tools,
};
use crate::{Error, machine::first_line_of};

/// The service's name, which every request carries as its Host.
pub(super) const SERVICE: &str = "orders";
/// Bytes of the answer to GET `/`.
pub(super) const BODY: usize = 1024;

const OUTRIGGER: Template =
    Template { name: "outrigger.yaml", text: include_str!("../../peers/outrigger.yaml") };
const SERVICES: Template =
    Template { name: "services.yaml", text: include_str!("../../peers/services.yaml") };
const NGINX: Template = Template { name: "nginx.conf", text: include_str!("../../peers/nginx.conf") };
const HAPROXY: Template = Template { name: "haproxy.cfg", text: include_str!("../../peers/haproxy.cfg") };
// Envoy reads the format from the file's extension.
const ENVOY: Template = Template { name: "envoy.yaml", text: include_str!("../../peers/envoy.yaml") };

/// Connections that a proxy needs beside those of the app.
const SPARE_CONNECTIONS: usize = 512;

/// A proxy that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProxyProgram {
    Outrigger,
    Nginx,
    Haproxy,
    Envoy,
}

/// Where a proxy listens, and what it connects to.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProxySetup<'a> {
    /// Directory of its files.
    pub(super) dir: &'a Path,
    pub(super) core: usize,
    /// Port that it listens on.
    pub(super) port: u16,
    pub(super) backends: &'a [SocketAddr],
    /// Most client connections.
    pub(super) connections: usize,
}

impl ProxyProgram {
    pub(super) const ALL: [Self; 4] = [Self::Outrigger, Self::Nginx, Self::Haproxy, Self::Envoy];

    /// The name of its program for `peers.sh`, and of its files.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Outrigger => "outrigger",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Envoy => "envoy",
        }
    }

    /// Its program, or why there is none.
    pub(super) fn program(self, outrigger: &Path, tools: &Tools) -> Result<PathBuf, String> {
        match self {
            Self::Outrigger => Ok(outrigger.to_owned()),
            peer => tools.get(peer.label()).map(Path::to_owned).map_err(str::to_owned),
        }
    }

    /// The first number with dots in the output of its version flag; Outrigger's with the commit.
    pub(super) fn version(self, program: &Path) -> String {
        let flag = match self {
            Self::Outrigger | Self::Envoy => "--version",
            Self::Nginx | Self::Haproxy => "-v",
        };
        let line = first_line_of(&program.display().to_string(), &[flag]);
        match line.strip_prefix("outrigger ") {
            Some(version) => version.to_owned(),
            None => version_in(&line),
        }
    }

    /// Writes the settings and starts the proxy.
    pub(super) fn start(self, program: &Path, place: ProxySetup<'_>) -> Result<PinnedProcess, Error> {
        self.start_under(&[], program, place)
    }

    /// As `start`, as the argument of another program (`wrapper`: its path and its own arguments), if there is one.
    pub(super) fn start_under(
        self,
        wrapper: &[OsString],
        program: &Path,
        place: ProxySetup<'_>,
    ) -> Result<PinnedProcess, Error> {
        let ProxySetup { dir, core, port, backends, connections } = place;
        let words =
            Words::new(dir, backends).with("PORT", port).with("CONNECTIONS", connections + SPARE_CONNECTIONS);
        let main = match self {
            Self::Outrigger => {
                SERVICES.write(dir, &words)?;
                OUTRIGGER
            }
            Self::Nginx => NGINX,
            Self::Haproxy => HAPROXY,
            Self::Envoy => ENVOY,
        };
        main.write(dir, &words)?;
        let file = dir.join(main.name).into_os_string();
        let (before, after): (&[&str], &[&str]) = match self {
            Self::Outrigger => (&["run", "-c"], &[]),
            Self::Nginx => (&["-c"], &[]),
            Self::Haproxy => (&["-db", "-f"], &[]),
            Self::Envoy => (&["-c"], &["--concurrency", "1", "--disable-hot-restart", "-l", "warn"]),
        };
        let line: Vec<OsString> = wrapper
            .iter()
            .cloned()
            .chain([program.into()])
            .chain(before.iter().map(OsString::from))
            .chain([file])
            .chain(after.iter().map(OsString::from))
            .collect();
        PinnedProcess::start(self.label(), dir, core, line)
    }
}

impl fmt::Display for ProxyProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outrigger => "Outrigger",
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
        })
    }
}

fn version_in(text: &str) -> String {
    let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    text.split([' ', '/', '-', '+', ',']).find(number).unwrap_or("?").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let cases = [
            ("nginx version: nginx/1.22.1", "1.22.1"),
            ("HAProxy version 2.6.12-1+deb12u3 2025/10/03 - https://haproxy.org/", "2.6.12"),
            ("envoy  version: 1a2b3c/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ];
        for (text, version) in cases {
            assert_eq!(version_in(text), version);
        }
    }
}
