//! Dates of the Gregorian calendar out of milliseconds since 1970 and back, UTC: Howard Hinnant's algorithms, twenty lines
//! that are tested against every day of eight centuries. A date library would bring time zones, which nothing here needs.

const DAY_MILLIS: i64 = 86_400_000;

/// The beginning of a day; `None` if the calendar has no such day.
pub fn of_date(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y - era * 400;
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * DAY_MILLIS)
}

/// Year, month and day of a time.
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
    fn every_day_of_eight_centuries_is_its_date() {
        let (mut expected, mut at) = ((1600, 1, 1), of_date(1600, 1, 1).unwrap());
        while expected.0 < 2400 {
            assert_eq!(civil(at), expected);
            let (year, month, day) = expected;
            assert_eq!(of_date(year, month, day), Some(at));
            at += DAY_MILLIS;
            let next = [(year, month, day + 1), (year, month + 1, 1), (year + 1, 1, 1)];
            expected = next.into_iter().find(|(y, m, d)| of_date(*y, *m, *d).is_some()).unwrap();
        }
        assert_eq!(at / DAY_MILLIS, 157_054);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(minute(0), "1970-01-01 00:00");
        assert_eq!(minute(1_640_995_200_000), "2022-01-01 00:00");
        assert_eq!(minute(1_709_251_199_000), "2024-02-29 23:59");
        assert_eq!(minute(-1), "1969-12-31 23:59");
    }
}
