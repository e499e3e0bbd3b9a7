//! The child process of the rigs: does the job that its one argument describes as JSON.

use std::process::ExitCode;

use atra_rigs::job::Job;

fn main() -> ExitCode {
    let job = std::env::args().nth(1).map(|text| serde_json::from_str::<Job>(&text));
    let Some(Ok(job)) = job else {
        eprintln!("usage: atra-rig <job as JSON>; it is started by the tests of this crate");
        return ExitCode::from(2);
    };
    if job.run() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
