//! The child process of the rigs: does the work that its one argument describes as JSON.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(Ok(work)) = std::env::args().nth(1).map(|text| serde_json::from_str(&text)) else {
        eprintln!("usage: atra-rig <work as JSON>; it is started by the tests of this crate");
        return ExitCode::from(2);
    };
    if atra_rigs::work::run(&work) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
