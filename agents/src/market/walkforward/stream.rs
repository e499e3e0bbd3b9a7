//! The same, one candle at a time.
//!
//! Step returns are kept as integers (2^−44), so sums are exact whatever the order: a window's sums are what came in
//! less what fell out, they never drift, and they can be counted anew from the blocks after a restart, bit for bit. Only
//! the head (windows, positions, the unfinished block) and the blocks finished since are written at each save.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use super::super::candle::Candle;
use super::super::indicators::Windows;
use super::{ConfigError, Score, WalkForwardConfig, common_multiple};

/// 2^44: a step return to 13 digits, and 500,000 in an `i64`.
const ONE: f64 = 17_592_186_044_416.0;
/// Greatest step return taken into the sums; beyond it a step counts as this. Its square times 8,640 steps fits.
const RETURN_MAX: f64 = 4.0;

/// Sums of a candidate over some steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "(i64, i64, i64)", into = "(i64, i64, i64)")]
struct Sums {
    returns: i64,
    squares: i64,
    entries: i64,
}

impl From<(i64, i64, i64)> for Sums {
    fn from((returns, squares, entries): (i64, i64, i64)) -> Self {
        Self { returns, squares, entries }
    }
}

impl From<Sums> for (i64, i64, i64) {
    fn from(sums: Sums) -> Self {
        (sums.returns, sums.squares, sums.entries)
    }
}

impl Sums {
    // Wrapping: a state that was tampered with must not panic; honest sums stay far below.
    fn add(&mut self, other: Self) {
        self.returns = self.returns.wrapping_add(other.returns);
        self.squares = self.squares.wrapping_add(other.squares);
        self.entries = self.entries.wrapping_add(other.entries);
    }

    fn subtract(&mut self, other: Self) {
        self.returns = self.returns.wrapping_sub(other.returns);
        self.squares = self.squares.wrapping_sub(other.squares);
        self.entries = self.entries.wrapping_sub(other.entries);
    }
}

/// The part of the state that changes with every candle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Head {
    config: WalkForwardConfig,
    closes: Windows,
    last_open: i64,
    /// Positions decided at the last three closes, newest first: one bit a candidate.
    positions: [u64; 3],
    /// The unfinished block.
    open: Vec<Sums>,
    /// Blocks finished so far.
    blocks: u64,
}

/// A walk-forward that is fed candle by candle.
#[derive(Debug, Clone)]
pub struct WalkForward {
    head: Head,
    /// Windows of a candidate's pair, by index into `means`.
    pairs: Vec<(u8, u8)>,
    /// Factor that brings each window's sum to the common multiple: so means compare without a division.
    factors: Vec<i64>,
    means: Vec<i64>,
    warm_up: u64,
    /// A ring of finished blocks; block `b` lies at `b % len`.
    ring: Vec<Vec<Sums>>,
    train: Vec<Sums>,
    validation: Vec<Sums>,
    /// Ring places written since the last save.
    changed: Vec<usize>,
}

/// Why saved state cannot be resumed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The value of a key is not what was saved.
    #[error("saved walk-forward state {key} is damaged")]
    Damaged {
        /// Which key.
        key: String,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
    /// A key is missing, or its value has the wrong size.
    #[error("saved walk-forward state {key} is missing or does not fit")]
    Missing {
        /// Which key.
        key: String,
    },
    /// The saved configuration cannot be run.
    #[error("saved walk-forward configuration cannot be run")]
    Config(#[from] ConfigError),
}

impl WalkForward {
    /// Nothing seen yet.
    ///
    /// # Errors
    /// A configuration that cannot be run.
    pub fn new(config: WalkForwardConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let closes = Windows::new(&lengths(&config));
        let open = vec![Sums::default(); config.pairs.len()];
        Ok(Self::around(Head { config, closes, last_open: 0, positions: [0; 3], open, blocks: 0 }))
    }

    /// The parts that follow from the head; the configuration has been checked.
    fn around(head: Head) -> Self {
        let config = &head.config;
        let lengths = lengths(config);
        let multiple = lengths.iter().fold(1, |a, b| common_multiple(a, *b));
        // At most 128 lengths of at most 64 pairs.
        let index = |length: usize| lengths.iter().position(|l| *l == length).unwrap_or(0) as u8;
        let (n, blocks) = (config.pairs.len(), (config.train + config.validation) / config.step);
        Self {
            pairs: config.pairs.iter().map(|pair| (index(pair.fast), index(pair.slow))).collect(),
            factors: lengths.iter().map(|length| (multiple / length) as i64).collect(),
            means: vec![0; lengths.len()],
            warm_up: config.warm_up() as u64,
            ring: vec![vec![Sums::default(); n]; blocks],
            train: vec![Sums::default(); n],
            validation: vec![Sums::default(); n],
            changed: Vec::new(),
            head,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &WalkForwardConfig {
        &self.head.config
    }

    /// Takes the next closed candle. `true` when a re-fit is due: a block is finished and the training window is full.
    #[inline]
    pub fn update(&mut self, candle: &Candle) -> bool {
        let head = &mut self.head;
        let seen = head.closes.count();
        // This open ends step `seen` − 1, which was held as decided two closes ago.
        let counts = seen > self.warm_up;
        if counts {
            step(head, candle.open);
        }
        head.last_open = candle.open;
        head.closes.push(candle.close);
        let mut decided = 0;
        for (index, (mean, factor)) in self.means.iter_mut().zip(&self.factors).enumerate() {
            // A window that is not full gives no opinion: 0 is above nothing but itself.
            *mean = head.closes.sum(index).map_or(i64::MIN, |sum| sum * factor);
        }
        for (bit, (fast, slow)) in self.pairs.iter().enumerate() {
            let (fast, slow) = (self.means[usize::from(*fast)], self.means[usize::from(*slow)]);
            decided |= u64::from(fast > slow && slow != i64::MIN) << bit;
        }
        head.positions = [decided, head.positions[0], head.positions[1]];
        // Steps `warm_up` .. `seen` are in.
        if !counts || !(seen - self.warm_up).is_multiple_of(head.config.step as u64) {
            return false;
        }
        self.finish_block()
    }

    fn finish_block(&mut self) -> bool {
        let config = &self.head.config;
        let (train, total) = (config.train / config.step, self.ring.len());
        let validation = total - train;
        let place = (self.head.blocks % total as u64) as usize;
        // Block b enters validation, b − validation moves on to train, b − total falls out.
        let moves = (self.head.blocks >= validation as u64).then(|| (place + total - validation) % total);
        for (k, new) in self.head.open.iter().enumerate() {
            let old = self.ring[place][k];
            let moved = if validation == 0 { Some(*new) } else { moves.map(|from| self.ring[from][k]) };
            if validation > 0 {
                self.validation[k].add(*new);
            }
            if let Some(moved) = moved {
                self.train[k].add(moved);
                if validation > 0 {
                    self.validation[k].subtract(moved);
                }
            }
            // Zero until the ring is full.
            self.train[k].subtract(old);
        }
        self.ring[place].copy_from_slice(&self.head.open);
        self.head.open.fill(Sums::default());
        self.head.blocks += 1;
        if !self.changed.contains(&place) {
            self.changed.push(place);
        }
        self.is_ready()
    }

    /// Whether the training window, and validation with it, is full.
    pub fn is_ready(&self) -> bool {
        self.head.blocks >= self.ring.len() as u64
    }

    /// What each candidate did in the training window, in the order of the pairs.
    pub fn scores(&self) -> Vec<Score> {
        self.scored(&self.train, self.head.config.train)
    }

    /// What each candidate did in the validation slice; in the training window if there is none.
    pub fn validation_scores(&self) -> Vec<Score> {
        match self.head.config.validation {
            0 => self.scores(),
            steps => self.scored(&self.validation, steps),
        }
    }

    fn scored(&self, sums: &[Sums], steps: usize) -> Vec<Score> {
        let per_year = self.head.config.periods_per_year;
        let score = |s: &Sums| Score::new(s.returns as f64 / ONE, s.squares as f64 / ONE, s.entries, steps, per_year);
        sums.iter().map(score).collect()
    }

    /// Keys of what [`WalkForward::save`] would write now.
    pub fn changed_keys(&self) -> Vec<String> {
        let blocks = self.changed.iter().map(|place| format!("block.{place}"));
        std::iter::once("head".to_owned()).chain(blocks).collect()
    }

    /// Gives what changed since the last save, key by key: `head` and the blocks finished since.
    ///
    /// # Errors
    /// None that JSON of integers could have; the type is the serialiser's.
    pub fn save(&mut self, put: &mut impl FnMut(String, Value)) -> Result<(), serde_json::Error> {
        put("head".to_owned(), serde_json::to_value(&self.head)?);
        for place in self.changed.drain(..) {
            put(format!("block.{place}"), serde_json::to_value(&self.ring[place])?);
        }
        Ok(())
    }

    /// Resumes from what was saved; `None` if nothing was.
    ///
    /// # Errors
    /// State that is damaged or incomplete.
    pub fn restore(mut get: impl FnMut(&str) -> Option<Value>) -> Result<Option<Self>, RestoreError> {
        let Some(head) = get("head") else { return Ok(None) };
        let damaged = |key: &str, error| RestoreError::Damaged { key: key.to_owned(), error };
        let head: Head = serde_json::from_value(head).map_err(|error| damaged("head", error))?;
        head.config.check()?;
        if head.open.len() != head.config.pairs.len() || head.closes.lengths() != lengths(&head.config) {
            return Err(RestoreError::Missing { key: "head".to_owned() });
        }
        let mut this = Self::around(head);
        let (n, total, blocks) = (this.pairs.len(), this.ring.len() as u64, this.head.blocks);
        let train = (this.head.config.train / this.head.config.step) as u64;
        let validation = total - train;
        for block in blocks.saturating_sub(total)..blocks {
            let place = (block % total) as usize;
            let key = format!("block.{place}");
            let value = get(&key).ok_or_else(|| RestoreError::Missing { key: key.clone() })?;
            let sums: Vec<Sums> = serde_json::from_value(value).map_err(|error| damaged(&key, error))?;
            if sums.len() != n {
                return Err(RestoreError::Missing { key });
            }
            let newest = block + validation >= blocks;
            let window = if newest { &mut this.validation } else { &mut this.train };
            window.iter_mut().zip(&sums).for_each(|(window, sums)| window.add(*sums));
            this.ring[place] = sums;
        }
        Ok(Some(this))
    }
}

/// Takes the step that ends at `open` into the unfinished block. Only candidates that hold or trade are looked at.
fn step(head: &mut Head, open: i64) {
    let [_, held, before] = head.positions;
    let (ratio, fee) = (open as f64 / head.last_open as f64, head.config.fee());
    let mut add = |mut bits: u64, value: f64, entries: i64| {
        if bits == 0 {
            return;
        }
        let value = value.clamp(-RETURN_MAX, RETURN_MAX);
        let sums =
            Sums { returns: (value * ONE).round() as i64, squares: (value * value * ONE).round() as i64, entries };
        while bits != 0 {
            if let Some(open) = head.open.get_mut(bits.trailing_zeros() as usize) {
                open.add(sums);
            }
            bits &= bits - 1;
        }
    };
    add(held & before, ratio - 1.0, 0);
    add(held & !before, ratio / (1.0 + fee) - 1.0, 1);
    add(!held & before, -fee, 0);
}

/// All periods of the pairs, ascending, each once.
fn lengths(config: &WalkForwardConfig) -> Vec<usize> {
    let mut lengths: Vec<usize> = config.pairs.iter().flat_map(|pair| [pair.fast, pair.slow]).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}
