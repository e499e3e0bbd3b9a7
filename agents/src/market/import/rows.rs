//! Rows into candles: one careful path for every kind of file, and a quick one for the commonest line of CSV.

use std::collections::BTreeMap;

use super::super::candle::{Candle, CandleFault, DECIMALS_MAX, Interval, LOTS_MAX, Scale, TICKS_MAX, power_of_ten};
use super::dates;
use super::layout::{self, COLUMNS_MAX, Layout};
use super::number::{self, Decimal, Marks, Unit};
use super::{FlatPolicy, Gap, GapPolicy, Import, ImportError, ImportOptions, ImportReport, RefusedReason, RefusedRow};

pub(super) struct Rows<'o> {
    options: &'o ImportOptions,
    layout: Layout,
    candles: Vec<Candle>,
    price_decimals: u8,
    price_max: i64,
    volume_decimals: u8,
    /// Lowered for good once a volume did not fit with more decimals.
    volume_decimals_max: u8,
    units: Vec<Unit>,
    /// [`Unit::DayFirst`] or [`Unit::MonthFirst`] once somebody or a row has told; dates are read as day first until then.
    dates: Option<Unit>,
    /// Whether times and prices are what they look like: nobody said another unit or scale.
    is_plain: bool,
    /// What the numbers so far tell of commas and points; never [`Marks::Unsure`].
    marks: Marks,
    pub(super) report: ImportReport,
}

impl<'o> Rows<'o> {
    pub(super) fn new(options: &'o ImportOptions, layout: Layout, rows_expected: usize) -> Self {
        let report = ImportReport {
            symbol: None,
            rows: 0,
            candles: 0,
            span: None,
            units: Vec::new(),
            order: layout.order,
            newest_first: false,
            unsorted: 0,
            duplicates: 0,
            conflicts: 0,
            rounded: 0,
            zero_volume: 0,
            no_volume: layout.volume.is_none(),
            gaps: 0,
            missing: 0,
            first_gaps: Vec::new(),
            filled: 0,
            refused: 0,
            first_refused: Vec::new(),
        };
        Self {
            options,
            layout,
            candles: Vec::with_capacity(rows_expected.min(options.candles_max)),
            price_decimals: 0,
            price_max: 0,
            volume_decimals: 0,
            volume_decimals_max: DECIMALS_MAX,
            units: Vec::new(),
            dates: options.time_unit.filter(|unit| matches!(unit, Unit::DayFirst | Unit::MonthFirst)),
            is_plain: options.time_unit.is_none() && options.price_shift == 0,
            // Where commas part the columns, nobody writes decimal commas.
            marks: if layout.delimiter == b',' { Marks::Thousands } else { Marks::None },
            report,
        }
    }

    /// Reads the line at `at` and returns where the next one begins.
    pub(super) fn line<'b>(
        &mut self,
        bytes: &'b [u8],
        at: usize,
        line: usize,
        fields: &mut [&'b [u8]; COLUMNS_MAX],
    ) -> Result<usize, ImportError> {
        if let Some(next) = self.plain_line(bytes, at) {
            self.report.rows += 1;
            return Ok(next);
        }
        let delimiter = self.layout.delimiter;
        // Fields and the end of the line in one pass; a quote sends the line through the careful splitter.
        let (mut count, mut start, mut end, mut quoted) = (0, at, bytes.len(), false);
        for (offset, &byte) in bytes[at..].iter().enumerate() {
            if byte > b';' {
                continue;
            }
            if byte == delimiter {
                if count < COLUMNS_MAX {
                    fields[count] = &bytes[start..at + offset];
                    count += 1;
                }
                start = at + offset + 1;
            } else if byte == b'\n' {
                end = at + offset;
                break;
            } else if byte == b'"' {
                quoted = true;
            }
        }
        if quoted {
            count = layout::split(bytes[at..end].trim_ascii(), delimiter, fields);
        } else if count < COLUMNS_MAX {
            fields[count] = bytes[start..end].strip_suffix(b"\r").unwrap_or(&bytes[start..end]);
            count += 1;
        }
        if count == 1 && fields[0].trim_ascii().is_empty() {
            return Ok(end + 1);
        }
        self.report.rows += 1;
        if let Err(reason) = self.row(fields, count) {
            self.refuse(line, reason)?;
        }
        Ok(end + 1)
    }

    /// Takes a row of a file without lines; `place` is its number, from 1.
    #[inline]
    pub(super) fn fields(
        &mut self,
        place: usize,
        fields: &[&[u8]; COLUMNS_MAX],
        count: usize,
    ) -> Result<(), ImportError> {
        self.report.rows += 1;
        self.row(fields, count).or_else(|reason| self.refuse(place, reason))
    }

    /// The common line in one pass: milliseconds, then plain decimals, nothing else that matters. `None`, with no
    /// candle taken, for any other line and for any row that is not a good candle: the careful path finds out why.
    #[inline]
    fn plain_line(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        const PLAIN_COLUMNS: usize = 6;
        let Layout { columns, volume, needed, delimiter, .. } = self.layout;
        if columns[0] != 0 || !(5..=PLAIN_COLUMNS).contains(&needed) || !self.is_plain || self.layout.symbol.is_some() {
            return None;
        }
        // A point is a decimal one here, which is not so in every file.
        if !matches!(self.marks, Marks::Thousands | Marks::Point) {
            return None;
        }
        let digits = bytes.get(at..at + 13)?;
        let mut time = 0;
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            time = time * 10 + i64::from(digit);
        }
        at += 13;
        let mut values = [Decimal { mantissa: 0, decimals: 0, rounded: false }; PLAIN_COLUMNS];
        for value in &mut values[1..needed] {
            if *bytes.get(at)? != delimiter {
                return None;
            }
            at += 1;
            *value = number::plain_decimal(bytes, &mut at)?;
        }
        let next = match bytes.get(at) {
            None => at,
            Some(b'\n') => at + 1,
            Some(b'\r') if bytes.get(at + 1) == Some(&b'\n') => at + 2,
            // Columns that nobody asked for.
            Some(&byte) if byte == delimiter => {
                bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |end| at + end + 1)
            }
            _ => return None,
        };
        let [_, open, high, low, close] = columns;
        let prices = [values[open], values[high], values[low], values[close]];
        let volume = volume.map_or(values[0], |column| values[column]);
        self.take(time, Unit::Millis, prices, volume).ok()?;
        Some(next)
    }

    fn row(&mut self, fields: &[&[u8]; COLUMNS_MAX], count: usize) -> Result<(), RefusedReason> {
        let Layout { columns: [time, open, high, low, close], volume, needed, .. } = self.layout;
        if count < needed {
            return Err(RefusedReason::Columns { found: count, needed });
        }
        if let Some(column) = self.layout.symbol.filter(|column| *column < count) {
            self.symbol(fields[column])?;
        }
        if matches!(self.marks, Marks::None | Marks::Point) {
            self.marks(fields)?;
        }
        let parsed = if self.marks == Marks::Decimal { number::decimal_with_comma } else { number::decimal };
        let number = |i: usize| parsed(fields[i]).ok_or(RefusedReason::Number { column: i + 1 });
        let (time, unit) = match self.options.time_unit {
            None => number::time(fields[time]),
            Some(unit) => number::time_in(fields[time], unit),
        }
        .ok_or(RefusedReason::Time)?;
        let (time, unit) = self.dated(time, unit)?;
        let mut prices = [number(open)?, number(high)?, number(low)?, number(close)?];
        if self.options.price_shift > 0 {
            prices.iter_mut().for_each(|price| price.shift(self.options.price_shift));
        }
        let volume = volume.map_or(Ok(Decimal { mantissa: 0, decimals: 0, rounded: false }), number)?;

        self.take(time, unit, prices, volume)
    }

    /// Takes whose candle a row is, if it says so: all rows of a file are of one.
    fn symbol(&mut self, field: &[u8]) -> Result<(), RefusedReason> {
        let symbol = field.trim_ascii();
        match &self.report.symbol {
            _ if symbol.is_empty() => {}
            Some(first) if first.as_bytes() == symbol => {}
            Some(_) => return Err(RefusedReason::Symbol),
            None => self.report.symbol = Some(String::from_utf8_lossy(symbol).into_owned()),
        }
        Ok(())
    }

    /// Looks at the commas and points of a row's numbers. The first number that can be read in one way only tells what all
    /// are; until then one that cannot is refused, because it might be a thousand times too great. A comma is a decimal one
    /// only in a file in which no point was.
    fn marks(&mut self, fields: &[&[u8]; COLUMNS_MAX]) -> Result<(), RefusedReason> {
        let Layout { columns: [_, prices @ ..], volume, .. } = self.layout;
        let marks = prices.into_iter().chain(volume).map(|column| (column, number::marks(fields[column])));
        let first = |wanted: Marks| marks.clone().find(|(_, marks)| *marks == wanted).map(|(column, _)| column);
        let (thousands, decimal, point) = (first(Marks::Thousands), first(Marks::Decimal), first(Marks::Point));
        self.marks = match (self.marks, thousands, decimal, point) {
            (_, Some(_), None, _) => Marks::Thousands,
            (Marks::None, None, Some(_), None) => Marks::Decimal,
            (_, _, Some(column), _) => return Err(RefusedReason::Comma { column: column + 1 }),
            (_, None, None, Some(_)) => Marks::Point,
            (before, None, None, None) => before,
        };
        match first(Marks::Unsure).filter(|_| matches!(self.marks, Marks::None | Marks::Point)) {
            Some(column) => Err(RefusedReason::Comma { column: column + 1 }),
            None => Ok(()),
        }
    }

    /// Reads a date as the file's others are. The first row that can be read in one way only tells how; those before it
    /// were taken as day first, and are turned round if that was wrong.
    fn dated(&mut self, time: i64, unit: Unit) -> Result<(i64, Unit), RefusedReason> {
        match (unit, self.dates) {
            (Unit::DayFirst, None) => {
                self.dates = dates::turned(time).is_none().then_some(unit);
            }
            (Unit::DayFirst, Some(Unit::MonthFirst)) => {
                let time = dates::turned(time).ok_or(RefusedReason::DateOrder)?;
                return Ok((time, Unit::MonthFirst));
            }
            (Unit::MonthFirst, None) => {
                if self.units.iter().any(|unit| *unit != Unit::DayFirst) {
                    return Err(RefusedReason::DateOrder);
                }
                for candle in &mut self.candles {
                    candle.time = dates::turned(candle.time).ok_or(RefusedReason::DateOrder)?;
                }
                self.units.clear();
                self.dates = Some(unit);
            }
            (Unit::MonthFirst, Some(Unit::DayFirst)) => return Err(RefusedReason::DateOrder),
            _ => {}
        }
        Ok((time, unit))
    }

    /// Takes a row's values. On an error no candle is taken.
    #[inline]
    fn take(&mut self, time: i64, unit: Unit, prices: [Decimal; 4], volume: Decimal) -> Result<(), RefusedReason> {
        let decimals = prices.iter().fold(self.price_decimals, |most, p| most.max(p.decimals));
        let [open, high, low, close] =
            prices.map(|p| p.mantissa.checked_mul(power_of_ten(decimals - p.decimals)).unwrap_or(i64::MAX));
        let candle = Candle { time, open, high, low, close, volume: volume.mantissa.clamp(-1, LOTS_MAX) };
        candle.check().map_err(RefusedReason::Fault)?;
        if self.options.flat == FlatPolicy::Refuse && candle.volume == 0 && high == low {
            return Err(RefusedReason::Flat);
        }
        if decimals > self.price_decimals {
            self.widen_prices(decimals)?;
        }
        let lots = self.lots(volume)?;
        self.price_max = self.price_max.max(high);
        self.report.rounded += prices.iter().filter(|p| p.rounded).count() + usize::from(volume.rounded);
        if self.units.last() != Some(&unit) && !self.units.contains(&unit) {
            self.units.push(unit);
        }
        if self.candles.len() >= self.options.candles_max {
            return Err(RefusedReason::TooMany);
        }
        self.candles.push(Candle { volume: lots, ..candle });
        Ok(())
    }

    /// Gives all earlier prices more decimals. Happens at most [`DECIMALS_MAX`] times a file.
    fn widen_prices(&mut self, decimals: u8) -> Result<(), RefusedReason> {
        let factor = power_of_ten(decimals - self.price_decimals);
        if self.price_max.checked_mul(factor).is_none_or(|max| max > TICKS_MAX) {
            return Err(RefusedReason::Fault(CandleFault::OutOfRange));
        }
        for c in &mut self.candles {
            (c.open, c.high, c.low, c.close) = (c.open * factor, c.high * factor, c.low * factor, c.close * factor);
        }
        self.price_max *= factor;
        self.price_decimals = decimals;
        Ok(())
    }

    /// A volume in lots. Gives earlier volumes more decimals if it needs them, or all of them fewer if it is too great.
    fn lots(&mut self, volume: Decimal) -> Result<i64, RefusedReason> {
        let fits = |lots: &i64| *lots <= LOTS_MAX;
        while self.volume_decimals < volume.decimals.min(self.volume_decimals_max) {
            let greatest = self.candles.iter().map(|c| c.volume).max().unwrap_or(0);
            if greatest.checked_mul(10).filter(fits).is_none() {
                self.volume_decimals_max = self.volume_decimals;
                break;
            }
            self.candles.iter_mut().for_each(|c| c.volume *= 10);
            self.volume_decimals += 1;
        }
        loop {
            let decimals = self.volume_decimals;
            let lots = if volume.decimals <= decimals {
                volume.mantissa.checked_mul(power_of_ten(decimals - volume.decimals))
            } else {
                self.report.rounded += 1;
                let divisor = power_of_ten(volume.decimals - decimals);
                Some((volume.mantissa + divisor / 2) / divisor)
            };
            if let Some(lots) = lots.filter(fits) {
                return Ok(lots);
            }
            if decimals == 0 {
                return Err(RefusedReason::Fault(CandleFault::OutOfRange));
            }
            self.candles.iter_mut().for_each(|c| c.volume = (c.volume + 5) / 10);
            self.volume_decimals -= 1;
            self.volume_decimals_max = self.volume_decimals;
        }
    }

    fn refuse(&mut self, line: usize, reason: RefusedReason) -> Result<(), ImportError> {
        if reason == RefusedReason::TooMany {
            return Err(ImportError::TooManyCandles { limit: self.options.candles_max });
        }
        if reason == RefusedReason::Symbol {
            return Err(ImportError::Symbols { line, first: self.report.symbol.take().unwrap_or_default() });
        }
        // Somebody who said which comes first has decided; else nobody knows what the dates before it were.
        if reason == RefusedReason::DateOrder && self.options.time_unit.is_none_or(|unit| unit == Unit::Text) {
            return Err(ImportError::DateOrder { line });
        }
        let row = RefusedRow { line, reason };
        self.report.refused += 1;
        if self.report.first_refused.len() < self.options.listed_max.max(1) {
            self.report.first_refused.push(row);
        }
        if self.report.refused > self.options.refused_max {
            return Err(ImportError::TooManyRefused {
                count: self.report.refused,
                limit: self.options.refused_max,
                taken: self.candles.len(),
                first: self.report.first_refused[0],
            });
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Import, ImportError> {
        self.sort();
        let first_last = self.candles.first().zip(self.candles.last());
        let Some((first, last)) = first_last.map(|(a, b)| (a.time, b.time)) else {
            return Err(match self.report.first_refused.first() {
                Some(&first) => {
                    let (count, limit) = (self.report.refused, self.options.refused_max);
                    ImportError::TooManyRefused { count, limit, taken: 0, first }
                }
                None => ImportError::Empty { rows: self.report.rows },
            });
        };
        let interval = self.interval()?;
        if let Some(interval) = interval {
            self.gaps(interval)?;
        }
        let Self { candles, mut report, units, price_decimals, volume_decimals, .. } = self;
        report.candles = candles.len();
        report.span = Some((first, last));
        report.zero_volume = candles.iter().filter(|c| c.volume == 0).count();
        report.units = units.into_iter().map(|unit| unit.name().to_owned()).collect();
        // Both are at most DECIMALS_MAX: a Decimal has no more.
        let scale = Scale::new(price_decimals, volume_decimals).unwrap_or_default();
        Ok(Import { candles, scale, interval, report })
    }

    fn sort(&mut self) {
        let falls = self.candles.windows(2).filter(|pair| pair[0].time > pair[1].time).count();
        let rises = self.candles.windows(2).filter(|pair| pair[0].time < pair[1].time).count();
        self.report.newest_first = falls > rises;
        self.report.unsorted = falls.min(rises);
        if falls > 0 {
            // Stable, so that of two rows with one time the first in the file stays first.
            self.candles.sort_by_key(|c| c.time);
        }
        let (mut equal, mut other) = (0, 0);
        self.candles.dedup_by(|next, kept| {
            let same = next.time == kept.time;
            equal += usize::from(same && next == kept);
            other += usize::from(same && next != kept);
            same
        });
        (self.report.duplicates, self.report.conflicts) = (equal, other);
    }

    /// The commonest distance between rows; ties go to the shorter.
    fn interval(&self) -> Result<Option<Interval>, ImportError> {
        let mut distances = BTreeMap::<i64, usize>::new();
        for pair in self.candles.windows(2).take(10_000) {
            *distances.entry(pair[1].time - pair[0].time).or_default() += 1;
        }
        let found = distances.into_iter().max_by_key(|(distance, count)| (*count, -distance)).map(|(d, _)| d);
        match (self.options.interval, found) {
            (Some(wanted), Some(found)) if wanted.millis() != found => Err(ImportError::Interval { found, wanted }),
            (Some(wanted), _) => Ok(Some(wanted)),
            (None, found) => Ok(found.and_then(Interval::from_millis)),
        }
    }

    fn gaps(&mut self, interval: Interval) -> Result<(), ImportError> {
        let millis = interval.millis();
        for pair in self.candles.windows(2) {
            let distance = pair[1].time - pair[0].time;
            if distance > millis {
                let gap = Gap { after: pair[0].time, until: pair[1].time, missing: ((distance - 1) / millis) as u64 };
                self.report.gaps += 1;
                self.report.missing += gap.missing;
                if self.report.first_gaps.len() < self.options.listed_max.max(1) {
                    self.report.first_gaps.push(gap);
                }
            }
        }
        let (gaps, missing) = (self.report.gaps, self.report.missing);
        match (self.options.gaps, self.report.first_gaps.first()) {
            (GapPolicy::Refuse, Some(&first)) => Err(ImportError::Gaps { gaps, missing, first }),
            (GapPolicy::Fill, Some(_)) if missing > self.options.filled_max as u64 => {
                Err(ImportError::TooManyMissing { missing, limit: self.options.filled_max })
            }
            (GapPolicy::Fill, Some(_)) => {
                self.fill(millis);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn fill(&mut self, millis: i64) {
        let mut filled = Vec::with_capacity(self.candles.len() + self.report.missing as usize);
        for candle in &self.candles {
            while let Some(&Candle { time, close, .. }) =
                filled.last().filter(|l: &&Candle| l.time + millis < candle.time)
            {
                filled.push(Candle { time: time + millis, open: close, high: close, low: close, close, volume: 0 });
            }
            filled.push(*candle);
        }
        self.report.filled = filled.len() - self.candles.len();
        self.candles = filled;
    }
}
