//! The command line: `smallmind --help` lists its verbs.
//!
//! Not here: anything that could be called from Rust as well; that is the library's.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod allocations;
mod cli;

use std::process::ExitCode;

/// Counts, so that `generate --json` can tell how much a token allocates.
#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn main() -> ExitCode {
    cli::run(std::env::args_os().collect())
}
