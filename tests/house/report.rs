//! What breaks the rules, as lines that are the same in every run, and which of them are allowed.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{
    crates::{self, Sources},
    imports, tasks, words,
};

/// Most lines of a file.
const MAX_LINES: usize = 600;
/// Folders of the workspace that hold packages, or are one.
const PACKAGES: [&str; 3] = ["crates", "tests", "benches"];

/// A violation as `exceptions.txt` spells it, and lines that say more.
pub(crate) type Violations = BTreeMap<String, Vec<String>>;

/// Every violation below `root`, sorted.
///
/// # Errors
/// When a file cannot be read or parsed.
pub(crate) fn violations(root: &Path) -> Result<Violations, String> {
    let mut found = Violations::new();
    let mut sources = Sources::new();
    for package in PACKAGES {
        read_files(&root.join(package), "rs", &mut sources)?;
    }
    let mut pages = Sources::new();
    read_files(root, "md", &mut pages)?;
    for (path, text) in &sources {
        if text.lines().count() > MAX_LINES {
            found.insert(format!("long {}", shown(root, path)), Vec::new());
        }
    }
    for (path, text) in sources.iter().chain(&pages) {
        let is_rust = sources.contains_key(path);
        let uses = words::forbidden(text, is_rust);
        if !uses.is_empty() {
            found.insert(format!("words {}", shown(root, path)), uses);
        }
    }
    for (path, text) in &sources {
        let inner = path.strip_prefix(root).unwrap_or(path);
        let starts = if tasks::is_checked(inner) { tasks::unguarded(text) } else { Vec::new() };
        if !starts.is_empty() {
            found.insert(format!("task {}", shown(root, path)), starts);
        }
    }
    for target in targets(root)? {
        let read = crates::read(&target, &sources)?;
        let file = |index: usize| shown(root, &read.files[index]);
        let mut types: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for one in &read.types {
            types.entry(&one.name).or_default().push(file(one.file));
        }
        for (name, mut files) in types.into_iter().filter(|(_, files)| files.len() > 1) {
            files.sort();
            found.insert(format!("types {name} {}", files.join(" ")), Vec::new());
        }
        for circle in imports::circles(&read) {
            let mut files: Vec<String> = circle.keys().map(|&index| file(index)).collect();
            files.sort();
            let arrows = circle.iter().flat_map(|(&from, to)| {
                to.iter().map(move |(&to, names)| {
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    format!("{} uses {} of {}", file(from), names.join(", "), file(to))
                })
            });
            found.insert(format!("circle {}", files.join(" ")), arrows.collect());
        }
    }
    Ok(found)
}

/// Compares what was found with what is allowed.
///
/// # Errors
/// When there is a violation that is not allowed, or an exception that nothing needs.
pub(crate) fn compare(found: &Violations, exceptions: &str) -> Result<(), String> {
    let allowed: BTreeSet<&str> =
        exceptions.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let new = found.iter().filter(|(one, _)| !allowed.contains(one.as_str())).map(|(one, more)| {
        format!(
            "{one}\n    {}{}",
            advice(one),
            more.iter().map(|line| format!("\n    {line}")).collect::<String>()
        )
    });
    let stale = allowed
        .iter()
        .filter(|one| !found.contains_key(**one))
        .map(|one| format!("not violated any more, remove it from tests/house/exceptions.txt: {one}"));
    let problems: Vec<String> = new.chain(stale).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn advice(violation: &str) -> &'static str {
    match violation.split(' ').next() {
        Some("long") => "the file has more than 600 lines; split it by what its parts are for",
        Some("words") => {
            "a comment or a page uses a pronoun of persons; name the thing (the glossary of ARCHITECTURE.md)"
        }
        Some("task") => {
            "a panic of this task would end it without notice; start it through `essential` of crate `task`, or say above it \
             in a comment `Contained: ` and why its panic harms nothing else"
        }
        Some("types") => "types of one crate share a name; give one of them a name of two words",
        _ => "these files import each other; move what both need to a file below them",
    }
}

/// The root file of every library, binary and integration test.
fn targets(root: &Path) -> Result<Vec<PathBuf>, String> {
    let mut packages = vec![root.join("tests"), root.join("benches")];
    packages.extend(entries(&root.join("crates"))?);
    let mut targets = Vec::new();
    for package in packages.iter().filter(|package| package.join("Cargo.toml").exists()) {
        for folder in ["", "tests", "src/bin"] {
            let folder = package.join(folder);
            for entry in entries(&folder)? {
                let is_file = entry.extension().is_some_and(|ending| ending == "rs");
                let roots =
                    if is_file { vec![entry] } else { vec![entry.join("main.rs"), entry.join("lib.rs")] };
                targets.extend(roots);
            }
        }
    }
    targets.retain(|target| target.is_file() && target.file_name().is_none_or(|name| name != "build.rs"));
    targets.sort();
    targets.dedup();
    Ok(targets)
}

/// Adds every file below `folder` with this ending.
fn read_files(folder: &Path, ending: &str, into: &mut Sources) -> Result<(), String> {
    for entry in entries(folder)? {
        if entry.is_dir() {
            read_files(&entry, ending, into)?;
        } else if entry.extension().is_some_and(|found| found == ending) {
            let text = std::fs::read_to_string(&entry);
            into.insert(entry.clone(), text.map_err(|error| format!("{}: {error}", entry.display()))?);
        }
    }
    Ok(())
}

/// What a folder holds, sorted, without build output; nothing where there is no such folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let read = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<PathBuf> = read.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| name != "target" && name != ".git"));
    paths.sort();
    Ok(paths)
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The violations of one package `crates/one` with these files.
    fn check(files: &[(&str, &str)]) -> Violations {
        let root = tempfile::tempdir().unwrap();
        let package = root.path().join("crates/one");
        for (path, text) in [("Cargo.toml", "")].iter().chain(files) {
            let path = package.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        violations(root.path()).unwrap()
    }

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        check(files).into_keys().collect()
    }

    #[test]
    fn two_types_of_one_name_are_found_also_in_inline_modules() {
        let lib = "mod a; struct Same; mod inline { enum Other {} }";
        let a = "type Other = u8; trait Unique {}";
        let expected = ["types Other crates/one/src/a.rs crates/one/src/lib.rs"];
        assert_eq!(found(&[("src/lib.rs", lib), ("src/a.rs", a)]), expected);
    }

    #[test]
    fn two_targets_of_a_package_may_share_names() {
        assert!(found(&[("src/lib.rs", "struct Same;"), ("tests/it.rs", "struct Same;")]).is_empty());
    }

    #[test]
    fn a_pronoun_of_persons_is_found_in_comments_and_pages_with_its_line() {
        let text = "/// Tells\n/// whom it\n/// likes.\npub struct A;";
        let found = check(&[("src/lib.rs", text), ("README.md", "Nobody\n")]);
        assert_eq!(found["words crates/one/src/lib.rs"], ["line 2: whom"]);
        assert_eq!(found["words crates/one/README.md"], ["line 1: Nobody"]);
    }

    #[test]
    fn a_task_that_is_not_essential_is_found_in_the_sources_of_crates() {
        let text = "fn start() {\n    tokio::spawn(run());\n}";
        let found = check(&[("src/lib.rs", text), ("tests/it.rs", text)]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["task crates/one/src/lib.rs"]);
        assert_eq!(found["task crates/one/src/lib.rs"], ["line 2: tokio::spawn(run());"]);
    }

    #[test]
    fn a_file_of_601_lines_is_too_long() {
        assert!(found(&[("src/lib.rs", &"\n".repeat(600))]).is_empty());
        assert_eq!(found(&[("src/lib.rs", &"\n".repeat(601))]), ["long crates/one/src/lib.rs"]);
    }

    #[test]
    fn a_circle_is_found_through_a_re_export_and_shows_its_arrows() {
        let files = [
            ("src/lib.rs", "mod a; mod b; pub use a::A;"),
            ("src/a.rs", "pub struct A(pub crate::b::B);"),
            ("src/b.rs", "use crate::A; pub struct B(Box<A>);"),
        ];
        let circle = "circle crates/one/src/a.rs crates/one/src/b.rs";
        let arrows = [
            "crates/one/src/a.rs uses B of crates/one/src/b.rs",
            "crates/one/src/b.rs uses A of crates/one/src/a.rs",
        ];
        let found = check(&files);
        assert_eq!(found.keys().collect::<Vec<_>>(), [circle]);
        assert_eq!(found[circle], arrows);
    }

    #[test]
    fn a_parent_that_uses_its_child_is_in_a_circle_when_the_child_uses_it() {
        let child = "use super::Shared; pub fn work(_: Shared) {}";
        let uses = "mod a; pub struct Shared; pub fn run() { a::work(Shared) }";
        let only_declares = "mod a; pub struct Shared; pub use a::work;";
        let circle = ["circle crates/one/src/a.rs crates/one/src/lib.rs"];
        assert_eq!(found(&[("src/lib.rs", uses), ("src/a.rs", child)]), circle);
        assert!(found(&[("src/lib.rs", only_declares), ("src/a.rs", child)]).is_empty());
    }

    #[test]
    fn paths_within_macro_calls_are_imports() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "pub const A: u8 = 1; fn f() { assert_eq!(crate::b::B, 2); }"),
            ("src/b.rs", "pub const B: u8 = crate::a::A + 1;"),
        ];
        assert_eq!(found(&files), ["circle crates/one/src/a.rs crates/one/src/b.rs"]);
    }

    #[test]
    fn an_exception_allows_a_violation_and_is_an_error_when_nothing_needs_it() {
        let one = Violations::from([("long a.rs".to_owned(), Vec::new())]);
        assert!(compare(&one, "# a comment\nlong a.rs\n").is_ok());
        assert!(compare(&one, "").unwrap_err().contains("split it"));
        assert!(compare(&Violations::new(), "long a.rs").unwrap_err().contains("remove it"));
    }
}
