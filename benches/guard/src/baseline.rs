//! The committed figures, and what they were counted with.

use std::{collections::BTreeMap, fmt, fs, path::Path, process::Command};

use crate::{Error, error::doing};

/// A figure this much above the committed one fails, in percent.
pub const CEILING: f64 = 1.0;

/// What the figures depend on beside the code of this workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conditions {
    /// The compiler, with its target.
    pub compiler: String,
    /// A hash of Cargo.lock.
    pub lock: String,
    /// The C library, because its `memcpy` is counted, and the vector instructions that it may use.
    pub machine: String,
}

/// Instructions per request by the number of connections, and the conditions.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// What the figures were counted with.
    pub conditions: Conditions,
    /// Connections → instructions per request.
    pub instructions: BTreeMap<usize, f64>,
}

/// What a figure is beside the committed one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Not above the ceiling.
    Held,
    /// Below by more than the ceiling's distance: the committed figure is out of date.
    Lower,
    /// Above the ceiling.
    Exceeded,
}

impl Conditions {
    /// Those of this build, on this machine. `workspace`: the directory of Cargo.lock.
    ///
    /// # Errors
    /// When Cargo.lock cannot be read, or the compiler does not tell its version.
    pub fn detect(workspace: &Path) -> Result<Self, Error> {
        let lock = fs::read(workspace.join("Cargo.lock")).map_err(doing("read Cargo.lock"))?;
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc).arg("-vV").output().map_err(doing("run rustc -vV"))?;
        let version = String::from_utf8_lossy(&output.stdout).into_owned();
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        let (Some(compiler), Some(host)) = (version.lines().next(), host) else {
            return Err(Error::new(format!("read what rustc -vV says: {version}")));
        };
        Ok(Self { compiler: format!("{compiler}, {host}"), lock: hash(&lock), machine: machine() })
    }

    /// What differs from `other`, by name.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("the compiler", &self.compiler, &other.compiler),
            ("Cargo.lock", &self.lock, &other.lock),
            ("the machine or its C library", &self.machine, &other.machine),
        ];
        pairs.into_iter().filter(|(_, one, other)| one != other).map(|(name, ..)| name).collect()
    }
}

fn machine() -> String {
    let libc = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok();
    let libc = libc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    // The ones that valgrind gives to its programs.
    let vectors =
        ["sse4_2", "avx", "avx2"].into_iter().filter(|one| flags.split(' ').any(|flag| flag == *one));
    let vectors: Vec<&str> = vectors.collect();
    format!(
        "{}, {}",
        libc.filter(|text| !text.is_empty()).as_deref().unwrap_or("no glibc"),
        vectors.join(" ")
    )
}

/// FNV-1a, in 64 bits.
fn hash(bytes: &[u8]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

impl Baseline {
    /// Reads the committed file.
    ///
    /// # Errors
    /// When it cannot be read, or is not as [`Baseline`] writes it.
    pub fn read(file: &Path) -> Result<Self, Error> {
        let doing_what = || format!("read {}", file.display());
        let text = fs::read_to_string(file).map_err(doing(doing_what()))?;
        Self::parse(&text).ok_or_else(|| Error::new(format!("{}: a line is missing or wrong", doing_what())))
    }

    fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let values: BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(" = ")).collect();
        let text = |name: &str| values.get(name).map(|value| (*value).to_owned());
        let figures =
            values.iter().filter_map(|(name, value)| Some((name.strip_prefix("instructions ")?, value)));
        let figures =
            figures.map(|(connections, value)| Some((connections.parse().ok()?, value.parse().ok()?)));
        Some(Self {
            conditions: Conditions {
                compiler: text("compiler")?,
                lock: text("lock")?,
                machine: text("machine")?,
            },
            instructions: figures.collect::<Option<_>>()?,
        })
    }

    /// Writes the file that is to be committed.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), Error> {
        fs::write(file, self.to_string()).map_err(doing(format!("write {}", file.display())))
    }

    /// `counted` beside the figure for `connections`; `None`: there is none.
    pub fn compare(&self, connections: usize, counted: f64) -> Option<(f64, Comparison)> {
        let committed = *self.instructions.get(&connections)?;
        let percent = (counted / committed - 1.0) * 100.0;
        let comparison = match percent {
            above if above > CEILING => Comparison::Exceeded,
            below if below < -CEILING => Comparison::Lower,
            _ => Comparison::Held,
        };
        Some((percent, comparison))
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions of a request by the number of connections. Written by `make guard ARGS=--rebase`."
        )?;
        writeln!(f, "compiler = {}", self.conditions.compiler)?;
        writeln!(f, "lock = {}", self.conditions.lock)?;
        writeln!(f, "machine = {}", self.conditions.machine)?;
        for (connections, figure) in &self.instructions {
            writeln!(f, "instructions {connections} = {figure:.1}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn baseline() -> Baseline {
        let conditions =
            Conditions { compiler: "rustc 1".into(), lock: hash(b"lock"), machine: "avx".into() };
        Baseline { conditions, instructions: BTreeMap::from([(1, 1000.5), (16, 2000.0)]) }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        assert_eq!(Baseline::parse(&baseline().to_string()), Some(baseline()));
        assert_eq!(Baseline::parse("compiler = rustc 1\nlock = 1\n"), None);
        assert_eq!(Baseline::parse(&baseline().to_string().replace("1000.5", "many")), None);
    }

    #[test]
    fn a_percent_is_the_ceiling() {
        let compare = |counted| baseline().compare(16, counted).map(|(_, comparison)| comparison);
        assert_eq!(compare(2019.0), Some(Comparison::Held));
        assert_eq!(compare(2021.0), Some(Comparison::Exceeded));
        assert_eq!(compare(1981.0), Some(Comparison::Held));
        assert_eq!(compare(1979.0), Some(Comparison::Lower));
        assert_eq!(baseline().compare(4, 1.0), None);
    }

    #[test]
    fn another_condition_is_named() {
        let (one, mut other) = (baseline().conditions, baseline().conditions);
        assert!(one.differences(&other).is_empty());
        other.lock = hash(b"another");
        assert_eq!(one.differences(&other), ["Cargo.lock"]);
        assert_ne!(one.lock, other.lock);
    }
}
