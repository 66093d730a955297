//! The binary: what the command line asks for, and the exit code it ends with.

use std::process::ExitCode;

fn main() -> ExitCode {
    outrigger::cmd::main()
}
