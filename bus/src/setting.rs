//! Checks of settings: refuses an invalid value with the field, the value and the allowed range.
//!
//! Every type with limits has a `check` method that uses [`SettingCheck`]: [`BusOptions`](crate::BusOptions) here, the
//! options of the storage, the limits of a team. All wrong fields are reported at once. A value is refused, never
//! changed silently, since a silently changed limit is noticed late.

use std::{fmt, ops::RangeInclusive, time::Duration};

/// A setting whose value is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} is not allowed: {allowed}")]
pub struct InvalidSetting {
    /// The field, with its section where there is one (`limits.inputs_max`).
    pub field: String,
    /// Its value.
    pub value: String,
    /// What is allowed, for people.
    pub allowed: String,
}

/// Every setting whose value is not allowed; never empty. Nothing was started or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidSettings(Vec<InvalidSetting>);

impl InvalidSettings {
    /// Each of them, in the order of the fields.
    #[must_use]
    pub fn settings(&self) -> &[InvalidSetting] {
        &self.0
    }

    /// The same, with `change` applied to each, for callers that use another name for the field.
    #[must_use]
    pub fn map(self, change: impl FnMut(InvalidSetting) -> InvalidSetting) -> Self {
        Self(self.0.into_iter().map(change).collect())
    }
}

impl fmt::Display for InvalidSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, setting) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{setting}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidSettings {}

/// Collects the settings that are not allowed.
///
/// # Examples
/// ```
/// use atra_bus::SettingCheck;
/// let mut check = SettingCheck::new("limits");
/// check.range("inputs_max", 0, 1..=1_000);
/// let error = check.finish().unwrap_err();
/// assert_eq!(error.to_string(), "limits.inputs_max = 0 is not allowed: from 1 to 1000");
/// ```
#[derive(Debug)]
pub struct SettingCheck {
    section: String,
    found: Vec<InvalidSetting>,
}

impl SettingCheck {
    /// A check of the fields of `section`; empty for none.
    #[must_use]
    pub fn new(section: impl Into<String>) -> Self {
        Self { section: section.into(), found: Vec::new() }
    }

    /// The value lies in `allowed`; `false` when not.
    pub fn range<T: PartialOrd + fmt::Display + Copy>(
        &mut self,
        field: &str,
        value: T,
        allowed: RangeInclusive<T>,
    ) -> bool {
        let is_allowed = allowed.contains(&value);
        if !is_allowed {
            self.refuse(field, value, format!("from {} to {}", allowed.start(), allowed.end()));
        }
        is_allowed
    }

    /// The duration lies in `allowed`.
    pub fn duration(&mut self, field: &str, value: Duration, allowed: RangeInclusive<Duration>) {
        if !allowed.contains(&value) {
            let allowed = format!("from {:?} to {:?}", allowed.start(), allowed.end());
            self.refuse(field, format!("{value:?}"), allowed);
        }
    }

    /// The value is not above that of another field.
    pub fn at_most<T: PartialOrd + fmt::Display + Copy>(&mut self, field: &str, value: T, other: &str, limit: T) {
        if value > limit {
            self.refuse(field, value, format!("at most {limit} ({other})"));
        }
    }

    /// The value is not below that of another field.
    pub fn at_least<T: PartialOrd + fmt::Display + Copy>(&mut self, field: &str, value: T, other: &str, limit: T) {
        if value < limit {
            self.refuse(field, value, format!("at least {limit} ({other})"));
        }
    }

    /// The value breaks a rule that is not a range.
    pub fn refuse(&mut self, field: &str, value: impl fmt::Display, allowed: impl Into<String>) {
        let field = if self.section.is_empty() { field.into() } else { format!("{}.{field}", self.section) };
        self.found.push(InvalidSetting { field, value: value.to_string(), allowed: allowed.into() });
    }

    /// Adds what another check found.
    pub fn add(&mut self, outcome: Result<(), InvalidSettings>) {
        if let Err(InvalidSettings(found)) = outcome {
            self.found.extend(found);
        }
    }

    /// Whether nothing was refused.
    ///
    /// # Errors
    /// Every setting that was refused.
    pub fn finish(self) -> Result<(), InvalidSettings> {
        if self.found.is_empty() { Ok(()) } else { Err(InvalidSettings(self.found)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_setting_is_reported_with_its_value_and_what_is_allowed() {
        let mut check = SettingCheck::new("storage");
        check.range("readers", 0_u32, 1..=64);
        check.range("retries_max", 5_u32, 0..=10);
        check.duration("slow_after", Duration::ZERO, Duration::from_millis(1)..=Duration::from_secs(1));
        check.at_most("command_bytes_max", 9, "queue_bytes_max", 8);
        let error = check.finish().expect_err("three are wrong");
        let fields: Vec<_> = error.settings().iter().map(|setting| setting.field.as_str()).collect();
        assert_eq!(fields, ["storage.readers", "storage.slow_after", "storage.command_bytes_max"]);
        assert_eq!(
            error.to_string(),
            "storage.readers = 0 is not allowed: from 1 to 64; storage.slow_after = 0ns is not allowed: from 1ms to 1s; \
             storage.command_bytes_max = 9 is not allowed: at most 8 (queue_bytes_max)"
        );
    }
}
