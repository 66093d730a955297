//! Finds tasks and threads that a panic would end without notice: each is started through `essential` of crate `task`, or says beside
//! it in a comment `Contained: ` and why its panic harms nothing else (a connection, a request).

use std::path::Path;

/// What a comment says above a task that is not essential.
const CONTAINED: &str = "Contained: ";
/// How a task or a thread is started. A process is started by `spawn()`, without an argument.
const STARTS: [&str; 3] = ["spawn(", "spawn_on(", "spawn_local("];

/// Whether the rule holds for a file: for the sources of crates, not for tests and what only tests use.
pub(crate) fn is_checked(path: &Path) -> bool {
    let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
    has("crates") && has("src") && !has("tests") && !has("tests.rs") && !has("testing.rs")
}

/// Each start of a task in `text` that is neither, with its line.
pub(crate) fn unguarded(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let end = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    let lines = &lines[..end.unwrap_or(lines.len())];
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if line.trim_start().starts_with("//") || !starts_task(line, lines.get(at + 1).copied()) {
            continue;
        }
        let comment = lines[..at].iter().rev().take_while(|line| line.trim_start().starts_with("//"));
        if !comment.into_iter().any(|line| line.contains(CONTAINED)) {
            found.push(format!("line {}: {}", at + 1, line.trim()));
        }
    }
    found
}

/// Whether `line` starts a task that is not essential. `next`: the line behind it, where the arguments may stand.
fn starts_task(line: &str, next: Option<&str>) -> bool {
    STARTS.iter().flat_map(|start| line.match_indices(start)).any(|(at, start)| {
        let (before, behind) = (&line[..at], line[at + start.len()..].trim_start());
        let argument = if behind.is_empty() { next.unwrap_or_default().trim_start() } else { behind };
        let is_call = before.ends_with(['.', ':']);
        is_call && !argument.starts_with(')') && !argument.starts_with("essential(")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_essential_or_says_why_not() {
        for (text, is_fine) in [
            ("tokio::spawn(essential(\"a\", run()));", true),
            ("tasks.spawn_on(\n    essential(\"a\", run()),\n    &handle,\n);", true),
            ("tokio::spawn(run());", false),
            ("tasks.spawn(\n    run(),\n);", false),
            ("std::thread::spawn(move || run());", false),
            ("tasks.spawn_on(run(), &handle);", false),
            ("// Contained: a panic ends one connection.\ntasks.spawn(run());", true),
            ("// Some reason.\ntasks.spawn(run());", false),
            ("// Contained: of another task.\nlet a = 1;\ntasks.spawn(run());", false),
            // A process, a definition, a comment, and a call that is awaited.
            (
                "command.spawn();\nfn spawn(task: A) {}\n// tokio::spawn(run())\nspawn_blocking(work).await",
                true,
            ),
            ("let a = 1;\n#[cfg(test)]\nmod tests {\n    tokio::spawn(run());", true),
        ] {
            assert_eq!(unguarded(text).is_empty(), is_fine, "{text}");
        }
        assert_eq!(unguarded("\n  a.spawn(run());"), ["line 2: a.spawn(run());"]);
    }

    #[test]
    fn what_only_tests_use_is_not_checked() {
        for (path, expected) in [
            ("crates/proxy/src/proxy.rs", true),
            ("crates/proxy/src/listener/worker/tests.rs", false),
            ("crates/discovery/src/tests/watch.rs", false),
            ("crates/registry/src/testing.rs", false),
            ("crates/net/tests/a.rs", false),
            ("tests/harness/load.rs", false),
        ] {
            assert_eq!(is_checked(Path::new(path)), expected, "{path}");
        }
    }
}
