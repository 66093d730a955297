//! The proxies and their settings, which all say the same: HTTP/1.1 keep-alive on both sides, one
//! worker, round robin over the same backends, no access log. Everything else has its default, except
//! for limits that would end connections during a run.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{process::PinnedProcess, scenario::SERVICE, tools::Tools};
use crate::{Error, error::doing, machine::first_line_of};

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

    /// The first number with dots in the output of its version flag.
    pub(super) fn version(self, program: &Path) -> String {
        let flag = match self {
            Self::Outrigger | Self::Envoy => "--version",
            Self::Nginx | Self::Haproxy => "-v",
        };
        version_in(&first_line_of(&program.display().to_string(), &[flag]))
    }

    /// Writes the settings and starts the proxy.
    pub(super) fn start(self, program: &Path, place: ProxySetup<'_>) -> Result<PinnedProcess, Error> {
        // Envoy reads the format from the file extension; the others ignore it.
        let file = place.dir.join(format!("{}.yaml", self.label()));
        let text = match self {
            Self::Outrigger => outrigger(place)?,
            Self::Nginx => nginx(place),
            Self::Haproxy => haproxy(place),
            Self::Envoy => envoy(place),
        };
        write(&file, &text)?;
        let file = file.display().to_string();
        let arguments: Vec<&str> = match self {
            Self::Outrigger => vec!["run", "-c", &file],
            Self::Nginx => vec!["-c", &file],
            Self::Haproxy => vec!["-db", "-f", &file],
            Self::Envoy => vec!["-c", &file, "--concurrency", "1", "--disable-hot-restart", "-l", "warn"],
        };
        PinnedProcess::start(self.label(), place.dir, place.core, program, arguments)
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

/// One HTTP server per port, all in one process with one worker.
pub(super) fn backends(
    program: &Path,
    dir: &Path,
    core: usize,
    ports: &[u16],
    body: usize,
) -> Result<PinnedProcess, Error> {
    let body = "x".repeat(body);
    let servers: String = ports
        .iter()
        .map(|port| format!("    server {{ listen 127.0.0.1:{port}; return 200 \"{body}\"; }}\n"))
        .collect();
    let file = dir.join("backends.conf");
    write(&file, &nginx_around(dir, "backends", 4096, &servers))?;
    PinnedProcess::start("backends", dir, core, program, ["-c", &file.display().to_string()])
}

fn outrigger(place: ProxySetup<'_>) -> Result<String, Error> {
    let ProxySetup { dir, port, backends, .. } = place;
    let instances: String = backends
        .iter()
        .map(|addr| format!("    - {{address: \"{}\", port: {}}}\n", addr.ip(), addr.port()))
        .collect();
    let services = dir.join("services.yaml");
    write(&services, &format!("services:\n  {SERVICE}:\n{instances}"))?;
    Ok(format!(
        "registry: {{file: {services:?}}}\n\
         outbound: {{listen: \"127.0.0.1:{port}\"}}\n\
         admin: {{listen: \"127.0.0.1:0\"}}\n\
         upstreams: [{{service: {SERVICE}}}]\n\
         workers: 1\n",
    ))
}

fn nginx(place: ProxySetup<'_>) -> String {
    let servers: String = place.backends.iter().map(|addr| format!("server {addr}; ")).collect();
    let http = format!(
        "    upstream {SERVICE} {{ {servers}keepalive 128; keepalive_requests 1000000000; }}\n\
         \x20   server {{\n\
         \x20       listen 127.0.0.1:{};\n\
         \x20       location / {{ proxy_pass http://{SERVICE}; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
         proxy_set_header Host $http_host; }}\n\
         \x20   }}\n",
        place.port,
    );
    nginx_around(place.dir, "nginx", place.connections + 512, &http)
}

/// The settings that both nginx processes share.
fn nginx_around(dir: &Path, name: &str, connections: usize, http: &str) -> String {
    let dir = dir.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {dir}/{name}-{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/{name}.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections {connections}; }}\n\
         http {{\n{temporary}    access_log off;\n    keepalive_timeout 1h;\n    keepalive_requests 1000000000;\n{http}}}\n",
    )
}

fn haproxy(place: ProxySetup<'_>) -> String {
    let ProxySetup { port, backends, connections, .. } = place;
    let servers: String =
        backends.iter().enumerate().map(|(n, addr)| format!("    server s{n} {addr}\n")).collect();
    format!(
        "global\n    nbthread 1\n    maxconn {}\n\
         defaults\n    mode http\n    timeout connect 1s\n    timeout client 1h\n    timeout server 1h\n\
         \x20   timeout http-keep-alive 1h\n\
         frontend in\n    bind 127.0.0.1:{port}\n    default_backend {SERVICE}\n\
         backend {SERVICE}\n    balance roundrobin\n    http-reuse always\n{servers}",
        connections + 512,
    )
}

fn envoy(place: ProxySetup<'_>) -> String {
    let address = |ip: &str, port: u16| format!("{{socket_address: {{address: {ip}, port_value: {port}}}}}");
    let endpoints: Vec<String> = place
        .backends
        .iter()
        .map(|addr| format!("{{endpoint: {{address: {}}}}}", address(&addr.ip().to_string(), addr.port())))
        .collect();
    format!(
        "static_resources:\n\
         \x20 listeners:\n\
         \x20 - address: {listen}\n\
         \x20   filter_chains:\n\
         \x20   - filters:\n\
         \x20     - name: http\n\
         \x20       typed_config:\n\
         \x20         '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n\
         \x20         stat_prefix: in\n\
         \x20         codec_type: HTTP1\n\
         \x20         generate_request_id: false\n\
         \x20         route_config:\n\
         \x20           virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {SERVICE}}}}}]}}]\n\
         \x20         http_filters:\n\
         \x20         - name: router\n\
         \x20           typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}\n\
         \x20 clusters:\n\
         \x20 - name: {SERVICE}\n\
         \x20   type: STATIC\n\
         \x20   connect_timeout: 1s\n\
         \x20   lb_policy: ROUND_ROBIN\n\
         \x20   load_assignment: {{cluster_name: {SERVICE}, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}\n",
        listen = address("127.0.0.1", place.port),
        endpoints = endpoints.join(", "),
    )
}

fn write(file: &Path, text: &str) -> Result<(), Error> {
    fs::write(file, text).map_err(doing(format!("write {}", file.display())))
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
            ("outrigger 0.1.0 (80b8289)", "0.1.0"),
            ("envoy  version: 1a2b3c/1.40.0/Clean/RELEASE/BoringSSL", "1.40.0"),
        ];
        for (text, version) in cases {
            assert_eq!(version_in(text), version);
        }
    }
}
