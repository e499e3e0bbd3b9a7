//! Dates of the Gregorian calendar out of milliseconds since 1970, UTC.

const DAY_MILLIS: i64 = 86_400_000;

/// Year, month and day of a time: civil-from-days (Howard Hinnant's algorithm).
pub fn civil(millis: i64) -> (i64, i64, i64) {
    let z = millis.div_euclid(DAY_MILLIS) + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `2022-01-01`.
pub fn day(millis: i64) -> String {
    let (year, month, day) = civil(millis);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2022-01-01 00:15`.
pub fn minute(millis: i64) -> String {
    let minute = millis.rem_euclid(DAY_MILLIS) / 60_000;
    format!("{} {:02}:{:02}", day(millis), minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(minute(0), "1970-01-01 00:00");
        assert_eq!(minute(1_640_995_200_000), "2022-01-01 00:00");
        assert_eq!(minute(1_709_251_199_000), "2024-02-29 23:59");
        assert_eq!(minute(-1), "1969-12-31 23:59");
    }
}
