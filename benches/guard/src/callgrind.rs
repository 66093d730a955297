//! Instructions per request, counted by callgrind within the polls of the connections' tasks.

use std::{
    collections::BTreeSet,
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

    /// Instructions per request over `connections`. `scenario`: a further argument of the run. The profile of the longer run is left
    /// at `profile`.
    ///
    /// # Errors
    /// When a run fails, or callgrind counts nothing.
    pub fn instructions(
        &self,
        connections: usize,
        scenario: Option<&str>,
        profile: &Path,
    ) -> Result<f64, Error> {
        let [short, long] = RUNS.map(|requests| self.count(connections, requests, scenario, profile));
        let (short, long) = (short?, long?);
        Ok((long - short) as f64 / (RUNS[1] - RUNS[0]) as f64)
    }

    fn count(
        &self,
        connections: usize,
        requests: u64,
        scenario: Option<&str>,
        profile: &Path,
    ) -> Result<u64, Error> {
        let mut output = std::ffi::OsString::from("--callgrind-out-file=");
        output.push(profile);
        let mut command = Command::new(&self.valgrind);
        command.arg("--tool=callgrind").arg(output).arg("--toggle-collect=*poll_data_path*");
        // Names and lines as they are, for [`files_entered`].
        command.args(["--compress-strings=no", "--compress-pos=no"]);
        command
            .arg(&self.program)
            .args(["run", &connections.to_string(), &requests.to_string()])
            .args(scenario);
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

/// The files below `root`, a part of their paths, of which a profile holds instructions. A file counts that a line of code was
/// executed from, also where the compiler has put the line into a function of another file; line 0 is code of no line.
pub fn files_entered(profile: &str, root: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut file = None;
    let mut is_call = false;
    for line in profile.lines() {
        if let Some(path) = ["fl=", "fi=", "fe="].iter().find_map(|key| line.strip_prefix(key)) {
            file = path.split_once(root).map(|(_, file)| file);
        } else if line.starts_with("calls=") {
            // The next line is what the callee took, and the line of the call.
            is_call = true;
        } else if let Some((at, _)) = line.split_once(' ')
            && let Ok(at) = at.parse::<u32>()
        {
            if let Some(file) = file.filter(|_| at > 0 && !is_call) {
                files.insert(file.to_owned());
            }
            is_call = false;
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_entered_where_a_line_of_it_was_executed() {
        let profile = "events: Ir\n\nfl=/w/crates/one/src/a.rs\nfn=a\n10 3\nfi=/w/crates/one/src/b/c.rs\n7 1\nfe=/w/crates/one/src/a.rs\n\
                       11 1\ncfi=/w/crates/one/src/d.rs\ncfn=d\ncalls=1 5\n11 40\nfi=/w/crates/one/src/lib.rs\n0 2\n\
                       \nfl=/w/crates/two/src/e.rs\nfn=e\n5 40\n";
        let entered: Vec<_> = files_entered(profile, "crates/one/src/").into_iter().collect();
        assert_eq!(entered, ["a.rs", "b/c.rs"]);
    }

    #[test]
    fn the_total_of_a_profile_is_read() {
        assert_eq!(total_of("events: Ir\nsummary: 12\nfn=(1) a\n0 12\n\ntotals: 13\n"), Some(13));
        assert_eq!(total_of("events: Ir\n"), None);
    }
}
