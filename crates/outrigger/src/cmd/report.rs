//! How a command ends: what it prints on stdout and stderr, and its exit code.

use std::{fmt, io::Write as _, process::ExitCode};

/// Why a command ends with another code than 0. Displays as the text for stderr.
#[derive(Debug)]
pub(super) enum CommandError {
    /// The settings are wrong: 2.
    Settings(String),
    /// Something failed while the command ran: 1.
    Running(String),
    /// What the command has a code of its own for.
    WithCode(u8, String),
}

impl CommandError {
    pub(super) fn running(what: impl Into<String>) -> Self {
        Self::Running(what.into())
    }

    pub(super) fn with_code(code: u8, what: impl Into<String>) -> Self {
        Self::WithCode(code, what.into())
    }

    pub(super) fn code(&self) -> ExitCode {
        match self {
            Self::Settings(_) => ExitCode::from(2),
            Self::Running(_) => ExitCode::from(1),
            Self::WithCode(code, _) => ExitCode::from(*code),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(problems) => f.write_str(problems),
            Self::Running(what) | Self::WithCode(_, what) => write!(f, "outrigger: {what}"),
        }
    }
}

/// Writes a line to stderr. A closed stderr is ignored: there is no other place for it.
pub(super) fn print_to_stderr(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a line to stdout. Returns whether there is still a reader of stdout.
pub(super) fn try_print_line(line: impl fmt::Display) -> bool {
    writeln!(std::io::stdout(), "{line}").is_ok()
}

/// Writes a line to stdout. A closed stdout (`| head`) is no failure.
pub(super) fn print_line(line: impl fmt::Display) {
    let _ = try_print_line(line);
}
