//! The binary: what the command line asks for, and the exit code it ends with.

use std::process::ExitCode;

/// Requests allocate a few times each, and a burst of connections should give its memory back: see
/// `.cargo/config.toml` for the settings, ARCHITECTURE.md for what was compared.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    outrigger::cmd::main()
}
