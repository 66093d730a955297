//! Whether this machine has a Consul, and where.

use std::{
    fmt,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Consul;

/// Why there is no Consul on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether there is a Consul. If not, says on stderr that `test` was skipped, and why (past the
/// test runner's capture).
pub fn available(test: &str) -> bool {
    match Consul::find() {
        Ok(_) => true,
        Err(why) => {
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
            false
        }
    }
}

/// Asks `consul.sh`.
pub(super) fn find() -> Result<PathBuf, Skip> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/consul.sh");
    let output = Command::new("bash")
        .arg(script)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| Skip(format!("{script} could not be run: {error}")))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) if Path::new(&said).is_file() => Ok(PathBuf::from(said)),
        Some(3) => Err(Skip(said)),
        _ => Err(Skip(format!("{script} ended with {}: {said}", output.status))),
    }
}
