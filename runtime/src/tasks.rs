//! The runtime's own tasks: the one place that spawns them, contained and named.
//!
//! | task | its panic |
//! |---|---|
//! | `team NAME` (supervisor) | the team is `Failed`; the supervisor goes on and can restart it |
//! | `agent NAME` (member of a team that runs apart) | a failed turn of its team |
//! | `source NAME` | a failed source of its team |
//! | `storage`, `answers`, `watchdog` | the runtime has failed ([`Life`](crate::life::Life)) |
//!
//! Panics in destructors of users' values (agents, streams) are contained by the holder and make the team `Failed`. No
//! other file of the runtime spawns, so the end of each task is reported.

use std::{future::Future, io, thread};

use atra_bus::{
    Env, Task,
    contain::{contain, contain_call, report},
};

/// Starts a task; `panicked` gets the text of its panic, if it ends by one.
pub(crate) fn spawn(
    env: &dyn Env,
    name: &str,
    future: impl Future<Output = ()> + Send + 'static,
    panicked: impl FnOnce(String) + Send + 'static,
) -> Task {
    let task = contain(future);
    let what = name.to_owned();
    let watched = async move {
        if let Err(panic) = task.await {
            report(&what, &panic);
            tell(&what, panicked, panic);
        }
    };
    env.spawn(name, Box::pin(watched))
}

/// Starts a thread; `panicked` gets the text of its panic, if it ends by one.
pub(crate) fn spawn_thread(
    name: &str,
    run: impl FnOnce() + Send + 'static,
    panicked: impl FnOnce(String) + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let what = name.to_owned();
    let watched = move || {
        if let Err(panic) = contain_call(run) {
            report(&what, &panic);
            tell(&what, panicked, panic);
        }
    };
    thread::Builder::new().name(name.into()).spawn(watched)
}

fn tell(what: &str, panicked: impl FnOnce(String), panic: String) {
    if let Err(again) = contain_call(|| panicked(panic)) {
        report(what, &again);
    }
}
