//! The paths of the other programs, which `benches/tools/peers.sh` finds and installs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Error, error::doing};

/// Programs by name; for a missing one, the reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tools(BTreeMap<String, Result<PathBuf, String>>);

impl Tools {
    /// Runs the script, which may take minutes the first time.
    pub(super) fn find() -> Result<Self, Error> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/peers.sh");
        let output = Command::new("bash").arg(script).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = output.map_err(doing(format!("run {script}")))?;
        Ok(Self::read(&String::from_utf8_lossy(&output.stdout)))
    }

    fn read(text: &str) -> Self {
        let tools = text.lines().filter_map(|line| {
            let mut fields = line.split('\t');
            let (name, path) = (fields.next()?, fields.next()?);
            let found = if path == "-" { Err(fields.next()?.to_owned()) } else { Ok(PathBuf::from(path)) };
            Some((name.to_owned(), found))
        });
        Self(tools.collect())
    }

    /// A program that the measurement needs.
    pub(super) fn require(&self, name: &str) -> Result<&Path, Error> {
        self.get(name).map_err(|why| Error::new(format!("find {name}: {why}")))
    }

    /// A program, or why it is missing.
    pub(super) fn get(&self, name: &str) -> Result<&Path, &str> {
        match self.0.get(name) {
            Some(Ok(path)) => Ok(path),
            Some(Err(why)) => Err(why),
            None => Err("peers.sh does not list it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_has_a_reason() {
        let tools = Tools::read("nginx\t/usr/sbin/nginx\nenvoy\t-\tthere is no python3\n");
        assert_eq!(tools.get("nginx"), Ok(Path::new("/usr/sbin/nginx")));
        assert_eq!(tools.get("envoy"), Err("there is no python3"));
        assert!(tools.require("wrk").is_err());
    }
}
