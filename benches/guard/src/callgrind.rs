//! Instructions per request, counted by callgrind within the polls of the connections' tasks.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, error::doing};

/// Requests of two runs. Their difference is divided, so that what happens once per run falls out.
const RUNS: [u64; 2] = [1_600, 8_000];

/// valgrind, and the program that it runs.
#[derive(Debug)]
pub struct Callgrind {
    valgrind: PathBuf,
    program: PathBuf,
}

impl Callgrind {
    /// Finds valgrind, or installs it, which may take a minute.
    ///
    /// # Errors
    /// When valgrind is not there and cannot be installed; the error says why.
    pub fn find() -> Result<Self, Error> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/peers.sh");
        let mut command = Command::new("bash");
        let output =
            command.args([script, "valgrind"]).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.map_err(doing(format!("run {script}")))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let fields: Vec<&str> = text.trim_end().split('\t').collect();
        match fields[..] {
            ["valgrind", "-", why] => Err(Error::new(format!("no valgrind: {why}"))),
            ["valgrind", path] => {
                let program = env::current_exe().map_err(doing("find the path of this program"))?;
                Ok(Self { valgrind: path.into(), program })
            }
            _ => Err(Error::new(format!("read what peers.sh says: {text}"))),
        }
    }

    /// Instructions per request over `connections`. The profile of the longer run is left at `profile`.
    ///
    /// # Errors
    /// When a run fails, or callgrind counts nothing.
    pub fn instructions(&self, connections: usize, profile: &Path) -> Result<f64, Error> {
        let [short, long] = RUNS.map(|requests| self.count(connections, requests, profile));
        let (short, long) = (short?, long?);
        Ok((long - short) as f64 / (RUNS[1] - RUNS[0]) as f64)
    }

    fn count(&self, connections: usize, requests: u64, profile: &Path) -> Result<u64, Error> {
        let mut output = std::ffi::OsString::from("--callgrind-out-file=");
        output.push(profile);
        let mut command = Command::new(&self.valgrind);
        command.arg("--tool=callgrind").arg(output).arg("--toggle-collect=*poll_data_path*");
        command.arg(&self.program).args(["run", &connections.to_string(), &requests.to_string()]);
        // Nothing of the environment moves the stack.
        let said = command.env_clear().stdin(Stdio::null()).output().map_err(doing("run valgrind"))?;
        if !said.status.success() {
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            return Err(Error::new(format!("run callgrind: {}: {text}", said.status)));
        }
        let text = fs::read_to_string(profile).map_err(doing("read callgrind's profile"))?;
        let total = total_of(&text).ok_or_else(|| Error::new("find the total in callgrind's profile"))?;
        if total == 0 {
            return Err(Error::new("count: the function that callgrind counts in is not in the binary"));
        }
        Ok(total)
    }
}

/// The instructions that a profile holds.
fn total_of(profile: &str) -> Option<u64> {
    profile.lines().rev().find_map(|line| line.strip_prefix("totals:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_a_profile_is_read() {
        assert_eq!(total_of("events: Ir\nsummary: 12\nfn=(1) a\n0 12\n\ntotals: 13\n"), Some(13));
        assert_eq!(total_of("events: Ir\n"), None);
    }
}
