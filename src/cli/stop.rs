//! Signals that stop a command: one task on its own thread handles them from the first line of `main` to the last. So a
//! command that computes or waits cannot delay it.
//!
//! | signal | effect |
//! |---|---|
//! | the first SIGINT, SIGTERM, SIGHUP, SIGQUIT or SIGXCPU | says "shutting down…" at once and wakes [`asked`]; the command ends cleanly |
//! | another one, 50 ms later or more | ends the process at once, exit code 1 |
//! | none, until the deadline of the stop has passed | the same |
//! | SIGUSR1 | wakes [`figures_asked`]; commands without figures ignore it |
//! | SIGUSR2 | nothing: without a listener it would end the process |
//! | SIGXFSZ | nothing: the write fails with an error, which is handled like a full disk |
//! | SIGPIPE | nothing: Rust ignores it, and the write fails with an error |

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{error::CliError, stderr::note};

/// Two signals within this time count as one: `timeout` and shells signal the process and its group. 50 ms: a person is
/// slower.
const SAME_SIGNAL: Duration = Duration::from_millis(50);
/// How long a command without cleanup may take to end. 5 s: computations check for a stop far more often.
const DEADLINE: Duration = Duration::from_secs(5);
/// The part of the deadline that is left for what comes after a clean stop: 1 in 10, at most a second.
const RESERVE_MAX: Duration = Duration::from_secs(1);

/// Signals belong to the process, and so does what they asked for.
static STOP: OnceLock<Stop> = OnceLock::new();

struct Stop {
    /// When the first one came.
    asked: watch::Sender<Option<Instant>>,
    deadline_ms: AtomicU64,
    figures: Notify,
}

/// Starts signal handling, before anything else in the process.
///
/// # Errors
/// [`CliError::Process`] when the system refuses.
pub(crate) fn listen() -> Result<(), CliError> {
    let failed = |source| CliError::Process { what: "signal handling", source };
    let millis = u64::try_from(DEADLINE.as_millis()).unwrap_or(u64::MAX);
    let stop = STOP.get_or_init(|| Stop {
        asked: watch::Sender::new(None),
        deadline_ms: AtomicU64::new(millis),
        figures: Notify::new(),
    });
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (ready, is_ready) = sync_channel(1);
    let thread = std::thread::Builder::new().name("signals".into());
    let run = move || {
        tokio.block_on(async {
            match Signals::listen() {
                Ok(signals) => {
                    // The other end waits for it.
                    let _ = ready.send(Ok(()));
                    watch(signals, stop).await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    };
    thread.spawn(run).map_err(failed)?;
    is_ready.recv().unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(failed)
}

/// Takes signals until the process ends.
async fn watch(mut signals: Signals, stop: &Stop) {
    let name = signals.next(stop).await;
    let began = Instant::now();
    stop.asked.send_replace(Some(began));
    note(&format!("atra: shutting down… ({name}; a second signal ends it at once)"));
    loop {
        let deadline = Duration::from_millis(stop.deadline_ms.load(Ordering::Relaxed));
        tokio::select! {
            // Biased: a second signal has priority.
            biased;
            _ = signals.next(stop) => {
                if began.elapsed() >= SAME_SIGNAL {
                    note("atra: ended at once; nothing acknowledged is lost; the next run continues from there");
                    std::process::exit(1);
                }
            }
            () = tokio::time::sleep_until(began + deadline) => {
                let text = super::output::span(deadline);
                note(&format!("atra: not stopped within {text}: ended; nothing acknowledged is lost"));
                std::process::exit(1);
            }
        }
    }
}

/// Waits until a stop is requested.
///
/// Cancel safe.
pub(crate) async fn asked() {
    let Some(stop) = STOP.get() else { return std::future::pending().await };
    // The sender is never dropped.
    let _ = stop.asked.subscribe().wait_for(Option::is_some).await;
}

/// Whether a stop was requested.
pub(crate) fn is_asked() -> bool {
    STOP.get().is_some_and(|stop| stop.asked.borrow().is_some())
}

/// Waits until the live figures are requested.
///
/// Cancel safe.
pub(crate) async fn figures_asked() {
    match STOP.get() {
        Some(stop) => stop.figures.notified().await,
        None => std::future::pending().await,
    }
}

/// Sets how long a stop may take, for a command that has something to finish.
pub(crate) fn set_deadline(deadline: Duration) {
    if let Some(stop) = STOP.get() {
        stop.deadline_ms.store(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The rest of the deadline for a clean stop; `None` if no stop was requested.
pub(crate) fn left() -> Option<Duration> {
    let stop = STOP.get()?;
    let began = (*stop.asked.borrow())?;
    let deadline = Duration::from_millis(stop.deadline_ms.load(Ordering::Relaxed));
    Some(deadline.saturating_sub(reserve(deadline)).saturating_sub(began.elapsed()))
}

/// Waits until a stop was requested and its deadline has nearly passed.
///
/// Cancel safe.
pub(crate) async fn time_is_up() {
    asked().await;
    let reserve = STOP
        .get()
        .map_or(Duration::ZERO, |stop| reserve(Duration::from_millis(stop.deadline_ms.load(Ordering::Relaxed))));
    // Half of the reserve: behind what `left` gives, before the process is ended.
    tokio::time::sleep(left().unwrap_or_default() + reserve / 2).await;
}

/// The part of a stop's deadline that is not the runtime's.
pub(crate) fn reserve(deadline: Duration) -> Duration {
    (deadline / 10).min(RESERVE_MAX)
}

/// SIGXCPU and SIGXFSZ, by their numbers on Linux (all but MIPS) and the BSDs.
#[cfg(unix)]
const CPU_TIME: i32 = 24;
#[cfg(unix)]
const FILE_SIZE: i32 = 25;

/// The signals that are listened to.
struct Signals {
    /// Those that ask for an end, with their names.
    #[cfg(unix)]
    ends: Vec<(&'static str, tokio::signal::unix::Signal)>,
    #[cfg(unix)]
    figures: tokio::signal::unix::Signal,
    /// Held, but never waited for: without a listener these signals would end the process.
    #[cfg(unix)]
    _ignored: [tokio::signal::unix::Signal; 2],
}

impl Signals {
    #[cfg(unix)]
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut ends = vec![
            ("SIGINT", signal(SignalKind::interrupt())?),
            ("SIGTERM", signal(SignalKind::terminate())?),
            ("SIGQUIT", signal(SignalKind::quit())?),
            ("SIGXCPU", signal(SignalKind::from_raw(CPU_TIME))?),
        ];
        // Under `nohup` SIGHUP stays ignored, so that the process outlives its terminal.
        if !is_hang_up_ignored() {
            ends.push(("SIGHUP", signal(SignalKind::hangup())?));
        }
        Ok(Self {
            ends,
            figures: signal(SignalKind::user_defined1())?,
            _ignored: [signal(SignalKind::user_defined2())?, signal(SignalKind::from_raw(FILE_SIZE))?],
        })
    }

    /// Where there are no Unix signals, Ctrl-C only.
    #[cfg(not(unix))]
    fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// The name of the next one that asks for an end.
    ///
    /// Cancel safe.
    #[cfg(unix)]
    async fn next(&mut self, stop: &Stop) -> &'static str {
        std::future::poll_fn(|cx| {
            while self.figures.poll_recv(cx).is_ready() {
                stop.figures.notify_one();
            }
            let mut ends = self.ends.iter_mut();
            match ends.find_map(|(name, signal)| signal.poll_recv(cx).is_ready().then_some(*name)) {
                Some(name) => Poll::Ready(name),
                None => Poll::Pending,
            }
        })
        .await
    }

    #[cfg(not(unix))]
    async fn next(&mut self, _: &Stop) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            // No signal can arrive: wait until the work ends.
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}

/// Whether SIGHUP, signal 1, was ignored when the process began; known on Linux.
#[cfg(unix)]
fn is_hang_up_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
