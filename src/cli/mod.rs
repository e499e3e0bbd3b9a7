//! The command line: one module per group of commands, and what they share.
//!
//! | module | what |
//! |---|---|
//! | `args` | what clap reads |
//! | `stop` | signals, for every command |
//! | `error`, `hint` | what went wrong, and what to do |
//! | `output`, `stderr`, `escape`, `layout`, `progress`, `time` | what a person and a program see |
//! | `health` | the health of a running process, in a file next to the database |
//! | `run` | a runtime with the desk, live view, signals |
//! | `import` | files into candles in a database |
//! | `sim` | simulated runs, repeated and shrunk |
//! | `market` | candles out again, indicators, back-tests, checks, searches |
//! | `risk` | stops the desk and lets it go on |
//! | `replay` | the present code over recorded inputs |
//! | `status`, `journal`, `why`, `memory`, `dead_letters`, `db` | reads of a file, whether a runtime has it or not |

pub(crate) mod args;
mod candles;
mod config;
mod db;
mod dead_letters;
mod error;
mod escape;
mod events;
mod files;
mod health;
mod hint;
mod import;
mod journal;
mod layout;
mod market;
mod memory;
mod output;
mod progress;
mod replay;
mod risk;
mod run;
mod sim;
mod status;
pub(crate) mod stderr;
pub(crate) mod stop;
mod time;
mod why;
mod words;

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use atra::{
    Read, SqliteReader,
    config::Config,
    storage::{StoreError, refuse_half_restored},
};

use self::{
    args::{
        Cli, Command, ConfigCommand, DbArgs, DbCommand, DeadLettersCommand, ImportCommand, JournalCommand,
        MemoryCommand,
    },
    error::CliError,
    output::Output,
};

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<(), CliError> {
    let json = cli.json;
    let mut out = Output::new(json);
    if cli.command.is_question() {
        out.outlive_reader();
    }
    match cli.command {
        Command::Run(args) => {
            // Its live view comes from other tasks: standard output is taken again at the end.
            drop(out);
            return run::run(&args, json);
        }
        Command::Sim(args) => sim::sim(&args, &mut out)?,
        Command::Import(ImportCommand::Candles(args)) => block_on(import::candles(args, &mut out))?,
        Command::Import(ImportCommand::Resample(args)) => block_on(import::resample(args, &mut out))?,
        Command::Export(command) => block_on(market::export::export(command, &mut out))?,
        Command::Indicators(args) => block_on(market::indicators::indicators(args, &mut out))?,
        Command::Backtest(args) => block_on(market::backtest::run(*args, &mut out))?,
        Command::Check(command) => block_on(market::check::check(command, &mut out))?,
        Command::Optimize(args) => block_on(market::optimize::optimize(*args, &mut out))?,
        Command::Risk(command) => block_on(risk::risk(command, &mut out))?,
        Command::Status(args) => block_on(status::status(&config_of(&args.db)?, args.check, &mut out))?,
        Command::Journal(JournalCommand::Tail(args)) => match block_on(journal::tail(&args, &mut out)) {
            // A signal is how following ends.
            Err(CliError::Interrupted { .. }) if args.follow => {}
            done => done?,
        },
        Command::Journal(JournalCommand::Show(args)) => block_on(journal::show(&args, &mut out))?,
        Command::Why(args) => block_on(why::why(&args, &mut out))?,
        Command::Replay(args) => block_on(replay::replay(&args, &mut out))?,
        Command::Memory(MemoryCommand::Ls { prefix, db }) => block_on(memory::ls(&prefix, &db_of(&db)?, &mut out))?,
        Command::Memory(MemoryCommand::Get { key, at, db }) => {
            block_on(memory::get(&key, at.as_ref(), &db_of(&db)?, &mut out))?;
        }
        Command::DeadLetters(DeadLettersCommand::Ls { agent, db }) => {
            block_on(dead_letters::ls(agent.as_deref(), &db_of(&db)?, &mut out))?;
        }
        Command::DeadLetters(DeadLettersCommand::Show { event, db }) => {
            block_on(dead_letters::show(&event, &db_of(&db)?, &mut out))?;
        }
        Command::Db(DbCommand::Digest { publisher, db }) => {
            block_on(db::digest(publisher.as_deref(), &db_of(&db)?, &mut out))?;
        }
        Command::Db(DbCommand::Check(db)) => block_on(db::check(&db_of(&db)?, &mut out))?,
        Command::Db(DbCommand::Info(db)) => block_on(db::info(&db_of(&db)?, &mut out))?,
        Command::Db(DbCommand::Backup { file, db }) => block_on(db::backup(&db_of(&db)?, &file, &mut out))?,
        Command::Db(DbCommand::Restore { file, db }) => block_on(db::restore(&db_of(&db)?, &file, &mut out))?,
        Command::Db(DbCommand::Prune(args)) => block_on(db::prune(&args, &mut out))?,
        Command::Db(DbCommand::ForgetTeam { team, dry_run, db }) => {
            block_on(db::forget(&team, dry_run, &db_of(&db)?, &mut out))?;
        }
        Command::Db(DbCommand::Vacuum(db)) => block_on(db::vacuum(&db_of(&db)?, &mut out))?,
        Command::Config(ConfigCommand::Show(db)) => config::show(&db, &mut out)?,
        Command::Config(ConfigCommand::Check(db)) => config::check(&db, &mut out)?,
    }
    out.finish()
}

/// Runs a command on this thread; reads of the database run on their own threads. A signal cancels the command at its
/// next wait.
fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let tokio = tokio.map_err(|source| CliError::Process { what: "tokio", source })?;
    let done = tokio.block_on(async {
        tokio::select! {
            // Biased: finished work counts, even if a signal came at the same time.
            biased;
            done = command => done,
            () = stop::asked() => Err(interrupted()),
        }
    });
    // What still runs on a thread of its own is of no use any more.
    tokio.shutdown_background();
    done
}

/// The error of a command that a signal ended.
fn interrupted() -> CliError {
    CliError::Interrupted { what: "the command was not completed" }
}

/// The configuration in force, flags included.
fn config_of(args: &DbArgs) -> Result<Config, CliError> {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(db) = &args.db {
        config.db.clone_from(db);
    }
    Ok(config)
}

/// The database that is meant.
fn db_of(args: &DbArgs) -> Result<PathBuf, CliError> {
    Ok(config_of(args)?.db)
}

/// Opens a database for reading, whether a runtime has it or not. Changes nothing.
async fn open(db: &Path) -> Result<Arc<dyn Read>, CliError> {
    refuse_folder(db)?;
    refuse_half_restored(db)?;
    readable(db).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CliError::NoDatabase { path: db.to_owned() },
        _ => CliError::File { path: db.to_owned(), source },
    })?;
    Ok(SqliteReader::open_read_only(db).await?)
}

/// Opens a backup for reading.
async fn open_backup(file: &Path) -> Result<Arc<dyn Read>, CliError> {
    match open(file).await {
        Err(CliError::NoDatabase { path }) => Err(CliError::NotFound {
            what: format!("there is no backup {}", path.display()),
            next: hint::of_missing(&path).unwrap_or_else(|| "name a file that 'atra db backup' wrote".into()),
        }),
        opened => opened,
    }
}

/// Whether a file can be opened, with the system's own error: SQLite has one code for all of them.
fn readable(db: &Path) -> std::io::Result<()> {
    hint::probe(db)
}

fn refuse_folder(db: &Path) -> Result<(), CliError> {
    if db.exists() && !db.is_file() && !db.is_dir() {
        // Opening a pipe would wait for a writer.
        let what = format!("{} is a pipe, socket or device, not a database", db.display());
        return Err(CliError::NotFound { what, next: "name a file with --db FILE".into() });
    }
    if !db.is_dir() {
        return Ok(());
    }
    let what = format!("{} is a folder, not a database", db.display());
    Err(CliError::NotFound { what, next: "name a file in it, such as --db FOLDER/atra.db".into() })
}

/// A look at a database that is going to be written to, before anything is made or changed: `None` if there is none yet
/// or nothing in it. What would refuse the writer is told here, so that no lock or log is left beside a foreign file.
async fn look(db: &Path) -> Result<Option<Arc<dyn Read>>, CliError> {
    refuse_folder(db)?;
    refuse_half_restored(db)?;
    if !db.exists() {
        return Ok(None);
    }
    let writable = std::fs::OpenOptions::new().append(true).open(db).map(drop).and_then(|()| readable(db));
    if let Err(source) = writable {
        return Err(CliError::NotWritable { path: db.to_owned(), source });
    }
    match SqliteReader::open_read_only(db).await {
        Ok(reader) => Ok(Some(reader)),
        // Left by a process that was killed while it made the file: the writer goes on with it.
        Err(StoreError::Fatal { cause, .. }) if cause.starts_with("it is empty") => Ok(None),
        Err(error) => Err(error.into()),
    }
}
