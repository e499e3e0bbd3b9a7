//! A team's clock: what `now()` follows, and the rule by which an input's own time moves it.
//!
//! A wall clock never follows a time that is far ahead of the machine's clock: one such event would move it there
//! permanently. A replay has no machine clock, so it must know which inputs were ignored. Therefore the team writes a
//! row on `sys.clock` before the first of them, with the machine's time and a ceiling for the times of later inputs.
//! Another row raises the ceiling when an input above it is plausible. A team whose inputs all have plausible times
//! writes no row.

use std::{sync::Arc, time::Duration};

use atra_bus::{Event, EventId, Name, Payload, Timestamp, Topic};
use serde::{Deserialize, Serialize};

/// The topic of the rows.
pub(crate) const CLOCK_TOPIC: Topic = Topic::literal("sys.clock");
/// How far a clock may lag while all inputs are too far ahead. 1 min: the clock serves people and time-outs, and each
/// row is journalled.
const LAG_MAX: Duration = Duration::from_secs(60);

/// The content of a row. Its time is the machine's.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    ceiling: Option<Timestamp>,
}

/// A team's clock. Never goes back.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TeamClock {
    pub(crate) now: Timestamp,
    /// Times of inputs above it do not move the clock.
    pub(crate) ceiling: Option<Timestamp>,
}

impl TeamClock {
    /// Moves to the time of the team's own input: a timer or a row.
    pub(crate) fn advance(&mut self, time: Timestamp) {
        self.now = self.now.max(time);
    }

    /// Moves to the time of an input from outside, unless it is above the ceiling.
    pub(crate) fn follow(&mut self, time: Timestamp) {
        if self.ceiling.is_none_or(|ceiling| time <= ceiling) {
            self.advance(time);
        }
    }

    /// Applies a row: its own or a recorded one.
    pub(crate) fn take_row(&mut self, row: &Event) {
        self.advance(row.time);
        // A row that cannot be decoded is ignored: the ceiling stays.
        if let Ok(row) = serde_json::from_str::<Row>(row.payload.json().unwrap_or_default()) {
            self.ceiling = row.ceiling;
        }
    }

    /// The row that must be written before an input of this time, if any.
    pub(crate) fn row_before(
        &self,
        input: &Event,
        source: &Name,
        wall: Timestamp,
        ahead_max: Duration,
    ) -> Option<Arc<Event>> {
        let (time, latest) = (input.time, wall.after(ahead_max));
        let ceiling = match self.ceiling {
            None if time <= latest => return None,
            Some(ceiling) if time <= latest && time <= ceiling => return None,
            _ if time <= latest => None,
            Some(ceiling) if ceiling < time && wall.since(self.now) <= LAG_MAX => return None,
            _ => Some(latest),
        };
        let id = EventId::of_all(source, &["clock", &input.id.to_string(), itoa::Buffer::new().format(wall.0)]);
        Some(Arc::new(Event {
            id,
            topic: CLOCK_TOPIC,
            version: 1,
            durable: true,
            source: source.clone(),
            time: wall,
            cause: None,
            root: id,
            hops: 0,
            payload: Payload::typed(Row { ceiling }),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const WALL: Timestamp = Timestamp(1_600_000_000_000);

    fn input(time: Timestamp) -> Event {
        let name = Name::new("other").unwrap();
        let id = EventId::of(&name, &time.to_string());
        let (topic, payload) = (Topic::literal("in.n"), Payload::typed(1));
        Event { id, topic, version: 1, durable: true, source: name, time, cause: None, root: id, hops: 0, payload }
    }

    /// Gives the clock inputs of these times at these times of the machine; answers how many rows it wrote.
    fn given(clock: &mut TeamClock, inputs: &[(Timestamp, Timestamp)]) -> usize {
        let name = Name::new("agent").unwrap();
        let mut rows = 0;
        for (time, wall) in inputs {
            let input = input(*time);
            if let Some(row) = clock.row_before(&input, &name, *wall, DAY) {
                clock.take_row(&row);
                rows += 1;
            }
            assert!(clock.row_before(&input, &name, *wall, DAY).is_none(), "one row is enough for {time}");
            clock.follow(*time);
        }
        rows
    }

    #[test]
    fn plausible_times_move_the_clock_and_need_no_row() {
        let mut clock = TeamClock::default();
        let times = [WALL.before(365 * DAY), Timestamp::MIN, WALL, WALL.after(DAY)];
        assert_eq!(given(&mut clock, &times.map(|time| (time, WALL))), 0);
        assert_eq!(clock.now, WALL.after(DAY));
    }

    #[test]
    fn times_far_ahead_never_move_the_clock_and_the_rows_are_few() {
        let mut clock = TeamClock::default();
        let far = [WALL.after(2 * DAY), Timestamp(253_402_300_800_000), Timestamp::MAX];
        let second = |n: u64| WALL.after(Duration::from_secs(n));
        let inputs: Vec<_> = (0..600).map(|n| (far[n as usize % 3], second(n))).collect();
        let rows = given(&mut clock, &inputs);
        assert!(clock.now <= second(600) && clock.now >= second(500), "{}", clock.now);
        assert!(rows <= 11, "{rows} rows in ten minutes");
        // And it goes on when the next one is plausible.
        assert_eq!(given(&mut clock, &[(second(700), second(700))]), 0);
        assert_eq!(clock.now, second(700));
        let later = second(700).after(30 * DAY);
        assert_eq!((given(&mut clock, &[(later, later)]), clock.now, clock.ceiling), (1, later, None));
    }
}
