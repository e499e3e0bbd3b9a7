//! The ledger outside of the store: one line for each thing that was sent and each answer, appended with one write
//! each, so that the end of the process loses no line that was written.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    str::FromStr,
};

use atra_storage::Level;

/// A line of the ledger. `order` names an event; it is in the event's payload too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// An event is about to be published, alone or in a step.
    Sent(u64),
    /// It is acknowledged at this seq and level.
    Acknowledged(u64, u64, Level),
    /// It was refused: nothing of it may be in the store.
    Refused(u64, String),
    /// Its outcome is unknown.
    Unknown(u64, String),
    /// Blocks from this start on are acknowledged.
    Blocks(i64),
    /// What the actor's state became.
    State(String),
    /// The journal's end as a reader sees it, told while the actor is not running well.
    Read(u64),
    /// What was measured.
    Figure(String, u64),
    /// The store could not be opened or closed.
    Error(String),
    /// The store was stopped and closed.
    Stopped,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flat = |text: &str| text.replace('\n', " ");
        match self {
            Self::Sent(order) => write!(f, "S {order}"),
            Self::Acknowledged(order, seq, Level::Process) => write!(f, "A {order} {seq} process"),
            Self::Acknowledged(order, seq, Level::Power) => write!(f, "A {order} {seq} power"),
            Self::Refused(order, why) => write!(f, "R {order} {}", flat(why)),
            Self::Unknown(order, why) => write!(f, "U {order} {}", flat(why)),
            Self::Blocks(start) => write!(f, "B {start}"),
            Self::State(state) => write!(f, "D {state}"),
            Self::Read(seq) => write!(f, "L {seq}"),
            Self::Figure(name, value) => write!(f, "F {name} {value}"),
            Self::Error(text) => write!(f, "E {}", flat(text)),
            Self::Stopped => write!(f, "Z"),
        }
    }
}

impl FromStr for Line {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("no line of a ledger: {text:?}");
        let mut parts = text.splitn(3, ' ');
        let (kind, first, rest) = (parts.next(), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let number = || first.parse::<u64>().map_err(|_| bad());
        Ok(match kind {
            Some("S") => Self::Sent(number()?),
            Some("A") => {
                let (seq, level) = rest.split_once(' ').ok_or_else(bad)?;
                let level = if level == "power" { Level::Power } else { Level::Process };
                Self::Acknowledged(number()?, seq.parse().map_err(|_| bad())?, level)
            }
            Some("R") => Self::Refused(number()?, rest.into()),
            Some("U") => Self::Unknown(number()?, rest.into()),
            Some("B") => Self::Blocks(first.parse().map_err(|_| bad())?),
            Some("D") => Self::State(first.into()),
            Some("L") => Self::Read(number()?),
            Some("F") => Self::Figure(first.into(), rest.parse().map_err(|_| bad())?),
            Some("E") => Self::Error(format!("{first} {rest}")),
            Some("Z") => Self::Stopped,
            _ => return Err(bad()),
        })
    }
}

/// Where the child writes.
#[derive(Debug)]
pub struct Ledger(File);

impl Ledger {
    /// Opens the file for appending.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        OpenOptions::new().create(true).append(true).open(path).map(Self)
    }

    /// Writes one line.
    ///
    /// # Panics
    /// When it cannot be written: without a ledger there is nothing to judge by.
    pub fn write(&self, line: &Line) {
        let text = format!("{line}\n");
        (&self.0).write_all(text.as_bytes()).expect("the ledger can be written");
    }
}

/// The whole lines of a text; the last one may have been cut off by the end of the process.
///
/// # Errors
/// A line that is none.
pub fn parse(text: &str) -> Result<Vec<Line>, String> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::parse).collect()
}
