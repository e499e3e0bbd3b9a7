//! Ctrl-C and SIGTERM as one stream; SIGUSR1 as another; SIGXFSZ is left to the error of the write.

use crate::cli::error::CliError;

/// The signals that ask for an end.
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// Kept, and never waited for: without a listener, a file that is as large as it may be would end the process. The
    /// write gives an error too, and that is handled like a full disk.
    #[cfg(unix)]
    _file_size: tokio::signal::unix::Signal,
}

/// SIGXFSZ, by its number on Linux (all but MIPS) and the BSDs.
#[cfg(unix)]
const FILE_SIZE: i32 = 25;

/// The signal that asks for the live figures: SIGUSR1.
pub(super) struct Asked {
    #[cfg(unix)]
    user: tokio::signal::unix::Signal,
}

impl Asked {
    /// Listens from now on; call it inside a tokio runtime. Without it, the signal would end the process.
    #[cfg(unix)]
    pub(super) fn listen() -> Result<Self, CliError> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |source| CliError::Process { what: "signal handling", source };
        Ok(Self { user: signal(SignalKind::user_defined1()).map_err(failed)? })
    }

    /// Listens to nothing: there are no Unix signals.
    #[cfg(not(unix))]
    pub(super) fn listen() -> Result<Self, CliError> {
        Ok(Self {})
    }

    /// The next one. Cancel safe.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) {
        self.user.recv().await;
    }

    /// Never. Cancel safe.
    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

impl Signals {
    /// Listens from now on; call it inside a tokio runtime.
    #[cfg(unix)]
    pub(super) fn listen() -> Result<Self, CliError> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = |source| CliError::Process { what: "signal handling", source };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            _file_size: signal(SignalKind::from_raw(FILE_SIZE)).map_err(failed)?,
        })
    }

    /// Listens; where there are no Unix signals, Ctrl-C only.
    #[cfg(not(unix))]
    pub(super) fn listen() -> Result<Self, CliError> {
        Ok(Self {})
    }

    /// The next one. Cancel safe.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) {
        tokio::select! {
            // Biased only because every select here is; both mean the same.
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The next one. Cancel safe.
    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // Nobody can ask: wait for the work's own end.
            std::future::pending::<()>().await;
        }
    }
}
