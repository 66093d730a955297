//! The proxies that the table is run through.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use outrigger_tests::{
    process::{Process, send_signal},
    tool,
};
use tempfile::TempDir;

/// A proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    Outrigger,
    Nginx,
    Haproxy,
}

impl Proxy {
    /// A head without the field lines that this proxy adds or replaces by design. Outrigger's heads are compared exactly.
    pub(crate) fn normalized(self, head: &[u8]) -> Vec<u8> {
        let own: &[&str] = match self {
            Self::Outrigger => return head.to_vec(),
            Self::Nginx => &["server:", "date:", "connection:"],
            Self::Haproxy => &["connection:", "keep-alive:"],
        };
        let keeps = |line: &&[u8]| {
            let lower = line.to_ascii_lowercase();
            !own.iter().any(|name| lower.starts_with(name.as_bytes()))
        };
        // HAProxy writes names in lower case by design: compare without case for peers.
        head.split_inclusive(|byte| *byte == b'\n')
            .filter(keeps)
            .flatten()
            .map(u8::to_ascii_lowercase)
            .collect()
    }
}

/// A running proxy with a listener for each service.
#[derive(Debug)]
pub(crate) enum Running {
    Outrigger { _process: Process, _dir: TempDir },
    Peer { child: Child, _dir: TempDir },
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Self::Peer { child, .. } = self {
            // TERM, because the workers of an nginx that is killed go on.
            let _ = send_signal(child.id(), "TERM");
            let _ = child.wait();
        }
    }
}

/// A service: its name, where the proxy listens for it, and its one instance.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) instance: SocketAddr,
}

/// Starts `proxy`, and sets where it listens for each service; `None` where the program is not installed.
pub(crate) async fn start(proxy: Proxy, services: &mut [Service]) -> Option<Running> {
    let dir = tempfile::tempdir().expect("a directory");
    if proxy != Proxy::Outrigger {
        choose_ports(services);
    }
    match proxy {
        Proxy::Outrigger => {
            let file = dir.path().join("services.yaml");
            let mut text = "services:\n".to_owned();
            let mut upstreams = String::new();
            for Service { name, listen, instance } in &*services {
                let _ = writeln!(text, "  {name}: [\"{instance}\"]");
                let _ = writeln!(upstreams, "  - {{service: {name}, listen: \"{listen}\"}}");
            }
            std::fs::write(&file, text).expect("a file");
            let process = Process::run(&format!(
                "registry: {{file: {:?}}}\nstate_dir: off\ndefaults: {{retry: {{max_retries: 0}}}}\nupstreams:\n{upstreams}",
                file.display().to_string()
            ))
            .await;
            process.wait_ready().await;
            for service in services {
                service.listen = process.upstream(&service.name);
            }
            Some(Running::Outrigger { _process: process, _dir: dir })
        }
        Proxy::Nginx => {
            let program = tool::find("nginx.sh", &[]).ok()?;
            let path = dir.path().display();
            let mut text = format!(
                "daemon off; pid {path}/pid; error_log {path}/error.log; events {{ worker_connections 4096; }} http {{ access_log off;"
            );
            for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                let _ = write!(text, " {kind}_temp_path {path}/{kind};");
            }
            for Service { name, listen, instance } in services {
                let _ = write!(
                    text,
                    "\nupstream {name} {{ server {instance}; keepalive 4; }} server {{ listen {listen}; \
                     large_client_header_buffers 4 64k; location / {{ proxy_pass http://{name}; proxy_http_version 1.1; \
                     proxy_set_header Host $http_host; proxy_set_header Connection \"\"; proxy_request_buffering off; \
                     proxy_buffering off; proxy_next_upstream off; }} }}"
                );
            }
            text.push('}');
            let file = dir.path().join("nginx.conf");
            std::fs::write(&file, text).expect("a file");
            let mut command = Command::new(program);
            command.arg("-p").arg(dir.path()).arg("-c").arg(&file);
            Some(Running::Peer { child: spawn(command), _dir: dir })
        }
        Proxy::Haproxy => {
            let program = find_haproxy()?;
            let mut text = "global\n  maxconn 4096\ndefaults\n  mode http\n  http-reuse always\n  retries 0\n  timeout connect 5s\n  \
                            timeout client 10s\n  timeout server 10s\n  timeout tunnel 10s\n"
                .to_owned();
            for Service { name, listen, instance } in services {
                let _ = writeln!(text, "listen {name}\n  bind {listen}\n  server s {instance}");
            }
            let file = dir.path().join("haproxy.cfg");
            std::fs::write(&file, text).expect("a file");
            let mut command = Command::new(program);
            command.arg("-db").arg("-f").arg(&file);
            Some(Running::Peer { child: spawn(command), _dir: dir })
        }
    }
}

/// Ports that are free now, for programs that cannot choose their own. All are held until the last is chosen.
fn choose_ports(services: &mut [Service]) {
    let bind = |service: &mut Service| {
        let held = std::net::TcpListener::bind(service.listen).expect("a port");
        service.listen = held.local_addr().expect("its address");
        held
    };
    drop(services.iter_mut().map(bind).collect::<Vec<_>>());
}

fn spawn(mut command: Command) -> Child {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts")
}

fn find_haproxy() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&folders).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("haproxy")).find(|path| path.is_file())
}
