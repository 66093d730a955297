//! Programs that are not ours, found or fetched by the scripts of `tests/tools`.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Why this machine has no such program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolMissing(pub String);

impl fmt::Display for ToolMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path that a script of `tests/tools` prints, called with these arguments. May take minutes the first time.
///
/// # Errors
/// The sentence that it printed instead.
pub fn find(script: &str, arguments: &[&str]) -> Result<PathBuf, ToolMissing> {
    let script = format!("{}/tools/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("bash")
        .arg(&script)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .map_err(|error| ToolMissing(format!("{script} could not be run: {error}")))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.code() {
        Some(0) if Path::new(&said).is_file() => Ok(PathBuf::from(said)),
        Some(3) => Err(ToolMissing(said)),
        _ => Err(ToolMissing(format!("{script} ended with {}: {said}", output.status))),
    }
}
