//! The `atra` binary: handles signals, parses the command line, runs one command, reports errors.

mod cli;

/// An allocator of its own: the system's takes a sixth longer over the same work. See decision 47.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Set before the command line is parsed, since parse errors use it too.
    cli::stderr::begin(cli::args::wants_json(std::env::args_os()));
    // Before anything else, so that no signal is missed.
    let done = cli::stop::listen().and_then(|()| cli::args::parse()).and_then(|cli| cli.map_or(Ok(()), cli::run));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_broken_pipe() {
                cli::stderr::error(&error);
            }
            error.exit_code()
        }
    }
}
