//! Compiles the commit into the binary: the variable `OUTRIGGER_COMMIT` (for builds without a checkout, as in
//! a container), else the commit of git, else `unknown`. Never fails a build.

use std::process::Command;

fn main() {
    let commit = std::env::var("OUTRIGGER_COMMIT")
        .ok()
        .filter(|commit| !commit.trim().is_empty())
        .or_else(|| git(&["rev-parse", "--short", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=OUTRIGGER_COMMIT={}", commit.trim());
    println!("cargo:rerun-if-env-changed=OUTRIGGER_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    // These files change with each commit. A path that does not exist would cause a rebuild every time.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).map(|path| path.trim().to_owned())
            && std::path::Path::new(&path).exists()
        {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}
