//! The binary: runs the command line and ends with its exit code.

use std::process::ExitCode;

/// A burst of connections should give its memory back; the usual request allocates nothing. The settings
/// are in `.cargo/config.toml`; docs/decisions has the comparison.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    outrigger::cmd::main()
}
