//! The command line: `smallmind --help` lists its verbs.
//!
//! Not here: anything that a Rust program could call. That is in the library.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod allocations;
mod cli;

use std::process::ExitCode;

/// Counts allocations, so that `generate` can report them per token.
#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

fn main() -> ExitCode {
    cli::run(std::env::args_os().collect())
}
