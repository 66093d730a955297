//! nginx as an instance: another server, with its own rules for the end of a connection.

use std::{fs, net::SocketAddr, path::Path, path::PathBuf, sync::OnceLock};

use outrigger_tests::tool::{self, ToolMissing};

/// The binary, or why there is none. Searched once; may take minutes the first time.
pub(crate) fn find() -> Result<PathBuf, ToolMissing> {
    static FOUND: OnceLock<Result<PathBuf, ToolMissing>> = OnceLock::new();
    FOUND.get_or_init(|| tool::find("nginx.sh", &[])).clone()
}

/// The command of an nginx that serves on `addr`, with these lines in its `server`, and logs its requests in
/// `request_log`. Its files are in `dir`. It is one process, so that one signal is enough.
pub(crate) fn command(dir: &Path, addr: SocketAddr, request_log: &Path, server: &str) -> Vec<String> {
    let (at, request_log) = (dir.display(), request_log.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("    {name}_temp_path {at}/{name};\n"))
        .collect();
    let text = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/errors;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{temporary}    log_format request '$request_method $http_x_load_id';\n\
         \x20   access_log {request_log} request;\n\
         \x20   server {{\n        listen {addr} backlog=1024;\n        {server}\n\
         \x20       location / {{ return 200 done; }}\n    }}\n}}\n"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text).expect("write nginx.conf");
    let program = find().expect("a case without nginx is skipped").display().to_string();
    [&program, "-p", &at.to_string(), "-e", &format!("{at}/errors"), "-c", &file.display().to_string()]
        .map(str::to_owned)
        .into()
}
