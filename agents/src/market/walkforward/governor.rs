//! What a re-fit may change: gates with names, versions, shadow mode, roll-back and expiry.
//!
//! [`Governor::refit`] looks at a re-fit's scores and answers with one [`Verdict`]; it never measures time itself. A
//! promoted version is valid from the next candle; every signal names the version that it used.

use serde::{Deserialize, Serialize};

use super::{Score, WalkForwardConfig, best};

/// Versions remembered for roll-backs and for the report.
const VERSIONS_MAX: usize = 16;

/// Why a challenger was not promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gate {
    /// The newest candle was not closed at the time of the re-fit.
    OpenCandle,
    /// A person froze the parameters.
    Frozen,
    /// No candidate has enough trades.
    TooFewTrades,
    /// No Sharpe is above 0: flat is better.
    NoPositiveSharpe,
    /// The neighbours on the grid are much worse: a peak of luck, not a plateau.
    NoPlateau,
    /// Not better than the incumbent by the margin, on the validation slice.
    NotBetter,
    /// Has not been the choice for long enough.
    Shadow,
    /// Was rolled back because of its drawdown, not long ago.
    RolledBack,
}

/// The limits of the gates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateLimits {
    /// Entries needed in the training window. Default: 10.
    pub trades_min: i64,
    /// Share of the peak's Sharpe that the mean of its neighbours must reach. Default: 0.7.
    pub plateau_min: f64,
    /// By how much the challenger's Sharpe must exceed the incumbent's on the validation slice. Default: 0.5.
    pub margin: f64,
    /// Milliseconds for which a challenger must stay the choice before it is promoted. Default: one day.
    pub shadow_ms: i64,
    /// Fall from the peak since promotion at which a version is rolled back, as a share. Default: 0.15.
    pub drawdown_max: f64,
    /// Milliseconds for which a version is valid unless it is confirmed. Default: 30 days.
    pub expiry_ms: i64,
    /// Milliseconds for which a candidate that was rolled back is not promoted again. Default: 7 days.
    pub penalty_ms: i64,
}

impl Default for GateLimits {
    fn default() -> Self {
        const DAY: i64 = 86_400_000;
        Self {
            trades_min: 10,
            plateau_min: 0.7,
            margin: 0.5,
            shadow_ms: DAY,
            drawdown_max: 0.15,
            expiry_ms: 30 * DAY,
            penalty_ms: 7 * DAY,
        }
    }
}

/// Parameters that are, or were, in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// 1, 2, 3 …; a roll-back is a new version too.
    pub version: u64,
    /// The candidate, or none: flat.
    pub candidate: Option<usize>,
    /// Open time of the first candle that it is valid for.
    pub valid_from: i64,
    /// From this time on it is expired: target 0.
    pub expires_at: i64,
}

/// What a re-fit, a drawdown or the time led to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The incumbent is the choice: its validity is extended.
    Confirmed {
        /// The incumbent's version.
        version: u64,
    },
    /// A challenger passed all gates but the last and is now watched.
    Proposed {
        /// The challenger.
        candidate: usize,
        /// When it may be promoted.
        earliest: i64,
    },
    /// A new version is in force from its `valid_from` on.
    Promoted {
        /// The new version.
        version: Version,
    },
    /// The challenger did not pass.
    Rejected {
        /// The challenger, if there was one.
        candidate: Option<usize>,
        /// The gate that it failed at.
        gate: Gate,
    },
    /// The version in force lost too much; the one before it is in force again, or none.
    RolledBack {
        /// The new version.
        version: Version,
    },
}

/// State of the optimizer's decisions for one series.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Governor {
    /// Newest last, at most [`VERSIONS_MAX`].
    versions: Vec<Version>,
    /// The challenger in shadow mode, and since when.
    shadow: Option<(usize, i64)>,
    /// Candidates that were rolled back, and until when they are not promoted.
    penalties: Vec<(usize, i64)>,
    frozen: bool,
}

/// What a re-fit knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence<'a> {
    config: &'a WalkForwardConfig,
    train: &'a [Score],
    validation: &'a [Score],
}

impl Governor {
    /// Flat, with no version yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest version, expired or not.
    pub fn current(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// All versions remembered, newest last.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The version that a candle of open time `time` is decided with; `None` if there is none or it is expired.
    pub fn in_force(&self, time: i64) -> Option<&Version> {
        let valid = |v: &&Version| v.valid_from <= time;
        self.versions.iter().rev().find(valid).filter(|version| time < version.expires_at)
    }

    /// A person freezes or thaws the parameters. Roll-back and expiry still work while frozen.
    pub fn freeze(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Whether the parameters are frozen.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Judges a re-fit at time `now`, when the newest candle became known at `known_at` and the next one opens at `next`.
    #[expect(clippy::too_many_arguments, reason = "three times and two slices that mean different things")]
    pub fn refit(
        &mut self,
        config: &WalkForwardConfig,
        train: &[Score],
        validation: &[Score],
        limits: &GateLimits,
        known_at: i64,
        now: i64,
        next: i64,
    ) -> Verdict {
        self.penalties.retain(|(_, until)| now < *until);
        let incumbent = self.in_force(next).copied();
        let evidence = Evidence { config, train, validation };
        let held = incumbent.and_then(|version| version.candidate);
        let challenger = match self.judge(evidence, held, limits, known_at, now) {
            Ok(candidate) if Some(candidate) == held => {
                self.shadow = None;
                return self.confirm(now, limits);
            }
            Ok(candidate) => candidate,
            Err((None, gate @ (Gate::NoPositiveSharpe | Gate::TooFewTrades))) => {
                self.shadow = None;
                // Flat needs no shadow mode: leaving the market is the safe side.
                return match held {
                    Some(_) => Verdict::Promoted { version: self.push(None, next, now, limits) },
                    None => Verdict::Rejected { candidate: None, gate },
                };
            }
            Err((candidate, gate)) => {
                // Whoever was watched has not stayed the choice.
                if candidate.is_some() {
                    self.shadow = None;
                }
                if gate == Gate::NotBetter {
                    // The incumbent held its ground. One that has expired did not: it stays expired.
                    if incumbent.is_some() {
                        self.confirm(now, limits);
                    }
                }
                return Verdict::Rejected { candidate, gate };
            }
        };
        let since = self.shadow.filter(|(watched, _)| *watched == challenger).map(|(_, since)| since);
        let waited = since.is_some_and(|since| now.saturating_sub(since) >= limits.shadow_ms);
        if limits.shadow_ms > 0 && !waited {
            if since.is_some() {
                return Verdict::Rejected { candidate: Some(challenger), gate: Gate::Shadow };
            }
            self.shadow = Some((challenger, now));
            return Verdict::Proposed { candidate: challenger, earliest: now.saturating_add(limits.shadow_ms) };
        }
        self.shadow = None;
        Verdict::Promoted { version: self.push(Some(challenger), next, now, limits) }
    }

    /// Gates in order. `Ok` is the choice, the incumbent included; an error names the challenger and its gate.
    fn judge(
        &self,
        evidence: Evidence<'_>,
        incumbent: Option<usize>,
        limits: &GateLimits,
        known_at: i64,
        now: i64,
    ) -> Result<usize, (Option<usize>, Gate)> {
        let Evidence { config, train, validation } = evidence;
        if known_at > now {
            return Err((None, Gate::OpenCandle));
        }
        if self.frozen {
            return Err((None, Gate::Frozen));
        }
        let (peak, sharpe) = best(train, limits.trades_min).ok_or((None, Gate::TooFewTrades))?;
        if sharpe <= 0.0 {
            return Err((None, Gate::NoPositiveSharpe));
        }
        let of = |scores: &[Score], i: usize| scores.get(i).and_then(|score| score.sharpe);
        if incumbent == Some(peak) {
            return Ok(peak);
        }
        let around: Vec<f64> = config.neighbours(peak).into_iter().map(|i| of(train, i).unwrap_or(0.0)).collect();
        let mean = around.iter().sum::<f64>() / around.len() as f64;
        // A candidate without neighbours cannot be told from luck either, and a mean that is no number says nothing.
        let is_plateau = !around.is_empty() && mean >= limits.plateau_min * sharpe;
        if !is_plateau {
            return Err((Some(peak), Gate::NoPlateau));
        }
        if self.penalties.iter().any(|(candidate, _)| *candidate == peak) {
            return Err((Some(peak), Gate::RolledBack));
        }
        // Against flat, whose Sharpe is 0, or an incumbent that is no better, being above 0 in validation too is enough.
        let challenger = of(validation, peak).unwrap_or(0.0);
        let better = match incumbent.and_then(|i| of(validation, i)).filter(|own| *own > 0.0) {
            Some(own) => challenger > own + limits.margin,
            None => challenger > 0.0,
        };
        if better { Ok(peak) } else { Err((Some(peak), Gate::NotBetter)) }
    }

    /// Takes the fall from the peak since promotion; rolls back to the last good version beyond the limit.
    pub fn drawdown(&mut self, drawdown: f64, now: i64, next: i64, limits: &GateLimits) -> Option<Verdict> {
        let bad = self.in_force(next)?.candidate?;
        // A drawdown that is no number is not a reason to go on.
        if drawdown < limits.drawdown_max {
            return None;
        }
        self.penalties.push((bad, now.saturating_add(limits.penalty_ms)));
        self.shadow = None;
        let punished = |candidate: usize| self.penalties.iter().any(|(c, _)| *c == candidate);
        let good = self.versions.iter().rev().filter_map(|v| v.candidate).find(|candidate| !punished(*candidate));
        Some(Verdict::RolledBack { version: self.push(good, next, now, limits) })
    }

    fn confirm(&mut self, now: i64, limits: &GateLimits) -> Verdict {
        let version = self.versions.last_mut().map_or(0, |version| {
            version.expires_at = now.saturating_add(limits.expiry_ms);
            version.version
        });
        Verdict::Confirmed { version }
    }

    fn push(&mut self, candidate: Option<usize>, valid_from: i64, now: i64, limits: &GateLimits) -> Version {
        let version = self.versions.last().map_or(1, |last| last.version + 1);
        let version = Version { version, candidate, valid_from, expires_at: now.saturating_add(limits.expiry_ms) };
        self.versions.push(version);
        if self.versions.len() > VERSIONS_MAX {
            self.versions.remove(0);
        }
        version
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pair;
    use super::*;

    const SLOW: [usize; 3] = [16, 32, 64];

    fn config() -> WalkForwardConfig {
        let pairs = SLOW.map(|slow| Pair { fast: 8, slow }).to_vec();
        WalkForwardConfig { pairs, ..WalkForwardConfig::default() }
    }

    fn scores(sharpes: [f64; 3]) -> Vec<Score> {
        sharpes.map(|sharpe| Score { sharpe: Some(sharpe), total: 0.0, trades: 10 }).to_vec()
    }

    fn limits() -> GateLimits {
        GateLimits { shadow_ms: 0, expiry_ms: 1_000, ..GateLimits::default() }
    }

    fn refit(governor: &mut Governor, sharpes: [f64; 3], limits: &GateLimits, now: i64) -> Verdict {
        let scores = scores(sharpes);
        governor.refit(&config(), &scores, &scores, limits, now, now, now)
    }

    fn gate(verdict: Verdict) -> Option<Gate> {
        match verdict {
            Verdict::Rejected { gate, .. } => Some(gate),
            _ => None,
        }
    }

    #[test]
    fn each_gate_rejects_by_name() {
        let good = [1.0, 1.0, 0.9];
        assert_eq!(gate(refit(&mut Governor::new(), [-1.0, -0.1, 0.0], &limits(), 0)), Some(Gate::NoPositiveSharpe));
        assert_eq!(gate(refit(&mut Governor::new(), [0.1, 2.0, 0.1], &limits(), 0)), Some(Gate::NoPlateau));
        let many = GateLimits { trades_min: 11, ..limits() };
        assert_eq!(gate(refit(&mut Governor::new(), good, &many, 0)), Some(Gate::TooFewTrades));
        let mut frozen = Governor::new();
        frozen.freeze(true);
        assert_eq!(gate(refit(&mut frozen, good, &limits(), 0)), Some(Gate::Frozen));
        let s = scores(good);
        let open = Governor::new().refit(&config(), &s, &s, &limits(), 1, 0, 0);
        assert_eq!(gate(open), Some(Gate::OpenCandle));
        let unproven = Governor::new().refit(&config(), &s, &scores([0.0; 3]), &limits(), 0, 0, 0);
        assert_eq!(gate(unproven), Some(Gate::NotBetter));

        let mut governor = Governor::new();
        assert!(
            matches!(refit(&mut governor, good, &limits(), 0), Verdict::Promoted { version } if version.version == 1)
        );
        assert_eq!(gate(refit(&mut governor, [1.0, 1.4, 1.5], &limits(), 1)), Some(Gate::NotBetter));
        assert!(matches!(refit(&mut governor, [1.0, 1.4, 1.6], &limits(), 2), Verdict::Promoted { .. }));
        assert_eq!(refit(&mut governor, [1.0, 1.4, 1.6], &limits(), 3), Verdict::Confirmed { version: 2 });
        assert!(matches!(refit(&mut governor, [-1.0; 3], &limits(), 4),
            Verdict::Promoted { version } if version.candidate.is_none()));
    }

    #[test]
    fn shadow_mode_waits_and_a_change_of_mind_starts_it_anew() {
        let limits = GateLimits { shadow_ms: 10, ..limits() };
        let mut governor = Governor::new();
        assert_eq!(refit(&mut governor, [1.0, 0.9, 0.9], &limits, 0), Verdict::Proposed { candidate: 0, earliest: 10 });
        assert_eq!(gate(refit(&mut governor, [1.0, 0.9, 0.9], &limits, 9)), Some(Gate::Shadow));
        assert!(matches!(refit(&mut governor, [0.9, 0.9, 1.0], &limits, 10), Verdict::Proposed { candidate: 2, .. }));
        assert!(matches!(refit(&mut governor, [0.9, 0.9, 1.0], &limits, 20), Verdict::Promoted { .. }));
    }

    #[test]
    fn a_challenger_that_was_not_the_choice_in_between_is_watched_anew() {
        let limits = GateLimits { shadow_ms: 10, ..limits() };
        let mut governor = Governor::new();
        let good = [1.0, 0.9, 0.9];
        assert!(matches!(refit(&mut governor, good, &limits, 0), Verdict::Proposed { candidate: 0, .. }));
        assert_eq!(gate(refit(&mut governor, [0.1, 2.0, 0.1], &limits, 5)), Some(Gate::NoPlateau));
        assert_eq!(refit(&mut governor, good, &limits, 10), Verdict::Proposed { candidate: 0, earliest: 20 });
        assert!(matches!(refit(&mut governor, good, &limits, 20), Verdict::Promoted { .. }));
    }

    #[test]
    fn no_neighbours_and_no_number_are_no_plateau() {
        let lone = WalkForwardConfig { pairs: vec![Pair { fast: 8, slow: 16 }], ..WalkForwardConfig::default() };
        let s = scores([1.0, 0.0, 0.0]);
        let verdict = Governor::new().refit(&lone, &s[..1], &s[..1], &limits(), 0, 0, 0);
        assert_eq!(gate(verdict), Some(Gate::NoPlateau));
        assert_eq!(gate(refit(&mut Governor::new(), [1.0, f64::NAN, 0.9], &limits(), 0)), Some(Gate::NoPlateau));
    }

    #[test]
    fn drawdown_rolls_back_to_the_last_good_version_and_bars_the_bad_one() {
        let mut governor = Governor::new();
        refit(&mut governor, [1.0, 0.9, 0.8], &limits(), 0);
        refit(&mut governor, [1.0, 1.9, 2.0], &limits(), 1);
        assert_eq!(governor.in_force(1).unwrap().candidate, Some(2));
        assert_eq!(governor.drawdown(0.149, 2, 2, &limits()), None);
        let Some(Verdict::RolledBack { version }) = governor.drawdown(0.15, 2, 2, &limits()) else { panic!() };
        assert_eq!((version.version, version.candidate), (3, Some(0)));
        assert_eq!(gate(refit(&mut governor, [1.0, 1.9, 2.0], &limits(), 3)), Some(Gate::RolledBack));
        let Some(Verdict::RolledBack { version }) = governor.drawdown(f64::NAN, 4, 4, &limits()) else { panic!() };
        assert_eq!(version.candidate, None);
        let json = serde_json::to_string(&governor).unwrap();
        assert_eq!(serde_json::from_str::<Governor>(&json).unwrap(), governor);
    }

    #[test]
    fn parameters_are_valid_from_the_next_candle_and_expire() {
        let mut governor = Governor::new();
        let s = scores([1.0, 0.9, 0.9]);
        governor.refit(&config(), &s, &s, &limits(), 100, 100, 105);
        assert_eq!(governor.in_force(104), None);
        assert_eq!(governor.in_force(105).unwrap().version, 1);
        assert_eq!(governor.in_force(1_099).unwrap().version, 1);
        assert_eq!(governor.in_force(1_100), None);
        // A challenger that fails does not bring an expired version back.
        let weak = scores([0.0; 3]);
        assert_eq!(gate(governor.refit(&config(), &s, &weak, &limits(), 1_200, 1_200, 1_205)), Some(Gate::NotBetter));
        assert_eq!(governor.in_force(1_205), None);
    }
}
