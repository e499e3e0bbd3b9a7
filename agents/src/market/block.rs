//! Candles as compact blocks of bytes, for a candle table whose rows hold about a thousand candles each.
//!
//! A block is columns of small differences as variable-length integers: about 9 bytes a candle on real data. It carries
//! its scale, its count and a checksum; whatever the bytes, [`decode`] gives sane sorted candles or a typed error, never
//! a panic. Where blocks are cut is fixed by time alone ([`block_start`]), so importing a file twice, or in pieces,
//! makes the same blocks.
//!
//! Layout: `magic u8 · version u8 · price decimals u8 · volume decimals u8 · checksum u32 le · count varint · columns`,
//! the columns being time (difference of differences), open (from the previous close), close (from open), high (above
//! the higher of the two), low (below the lower of the two), volume.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::candle::{Candle, CandleFault, Interval, Scale};

/// Candles in a full block: a row of some 9 kB, small enough to rewrite when a candle is added.
pub const BLOCK_CANDLES: i64 = 1024;
/// The most candles that one encoding may hold: a whole series of thirty years of minutes.
pub const ENCODE_CANDLES_MAX: usize = 1 << 24;

const MAGIC: u8 = 0xA7;
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
/// One byte for each of the six columns.
const CANDLE_BYTES_MIN: usize = 6;

/// Why bytes are not a block, or candles cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The bytes end before the block does.
    #[error("block ends early, at byte {at}")]
    Truncated {
        /// Length of the bytes.
        at: usize,
    },
    /// The first byte is not a block's.
    #[error("not a candle block: it begins with byte {found:#04x}")]
    Magic {
        /// The byte found.
        found: u8,
    },
    /// Written by a newer build.
    #[error("block version {found} is not known to this build, which reads version {known}")]
    Version {
        /// The version found.
        found: u8,
        /// The version that this build reads.
        known: u8,
    },
    /// The checksum differs.
    #[error("block is damaged: checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// Of the bytes.
        found: u32,
        /// As written in the header.
        expected: u32,
    },
    /// A number is malformed or too large, or bytes are left over.
    #[error("block is malformed: {what}, near byte {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A candle is not later than the one before it.
    #[error("candle {index} of the block is not later than the one before it")]
    Unsorted {
        /// Its place in the slice or block.
        index: usize,
    },
    /// A candle is not sane.
    #[error("candle {index} of the block: {fault}")]
    Candle {
        /// Its place in the slice or block.
        index: usize,
        /// What is wrong with it.
        fault: CandleFault,
    },
    /// More candles than [`ENCODE_CANDLES_MAX`].
    #[error("{count} candles are more than a block's limit of {limit}")]
    TooMany {
        /// How many.
        count: usize,
        /// The limit.
        limit: usize,
    },
}

/// The open time of the block that a candle belongs to: times are cut every [`BLOCK_CANDLES`] intervals since 1970.
pub fn block_start(time: i64, interval: Interval) -> i64 {
    // At most 2^10 · 2^35: no overflow. Saturating only matters within a block of the end of time.
    let length = interval.millis() * BLOCK_CANDLES;
    time.div_euclid(length).saturating_mul(length)
}

/// Splits sorted candles into runs that belong to one block each, in order.
pub fn blocks(candles: &[Candle], interval: Interval) -> impl Iterator<Item = (i64, &[Candle])> {
    candles
        .chunk_by(move |a, b| block_start(a.time, interval) == block_start(b.time, interval))
        .map(move |run| (block_start(run[0].time, interval), run))
}

/// Encodes sorted, sane candles of one series.
///
/// # Errors
/// [`BlockError::Unsorted`], [`BlockError::Candle`] or [`BlockError::TooMany`] if the candles are not so.
pub fn encode(candles: &[Candle], scale: Scale) -> Result<Vec<u8>, BlockError> {
    if candles.len() > ENCODE_CANDLES_MAX {
        return Err(BlockError::TooMany { count: candles.len(), limit: ENCODE_CANDLES_MAX });
    }
    check(candles)?;
    let mut out = Vec::with_capacity(HEADER_BYTES + 10 + candles.len() * 12);
    out.extend_from_slice(&[MAGIC, VERSION, scale.price_decimals(), scale.volume_decimals(), 0, 0, 0, 0]);
    put(&mut out, candles.len() as u64);
    let (mut time, mut delta) = (0_i64, 0_i64);
    for candle in candles {
        // Wrapping, because times may be any i64; decoding wraps back.
        let next = candle.time.wrapping_sub(time);
        put(&mut out, zigzag(next.wrapping_sub(delta)));
        (time, delta) = (candle.time, next);
    }
    let mut close = 0;
    for candle in candles {
        put(&mut out, zigzag(candle.open - close));
        close = candle.close;
    }
    candles.iter().for_each(|c| put(&mut out, zigzag(c.close - c.open)));
    candles.iter().for_each(|c| put(&mut out, (c.high - c.open.max(c.close)) as u64));
    candles.iter().for_each(|c| put(&mut out, (c.open.min(c.close) - c.low) as u64));
    candles.iter().for_each(|c| put(&mut out, c.volume as u64));
    let sum = checksum(scale, &out[HEADER_BYTES..]);
    out[4..8].copy_from_slice(&sum.to_le_bytes());
    Ok(out)
}

/// Decodes a block into candles and their scale. Checks everything: what comes out could have gone in.
///
/// # Errors
/// What is wrong with the bytes, and where.
pub fn decode(bytes: &[u8]) -> Result<(Vec<Candle>, Scale), BlockError> {
    let mut candles = Vec::new();
    let scale = decode_into(bytes, &mut candles)?;
    Ok((candles, scale))
}

/// Decodes a block to the end of `candles`, which is left as it was if there is an error. Saves an allocation per block.
///
/// # Errors
/// As [`decode`].
pub fn decode_into(bytes: &[u8], candles: &mut Vec<Candle>) -> Result<Scale, BlockError> {
    let start = candles.len();
    let result = decode_columns(bytes, candles, start);
    if result.is_err() {
        candles.truncate(start);
    }
    result
}

fn decode_columns(bytes: &[u8], candles: &mut Vec<Candle>, start: usize) -> Result<Scale, BlockError> {
    let truncated = BlockError::Truncated { at: bytes.len() };
    let (&[magic, version, price, volume, a, b, c, d], body) =
        bytes.split_first_chunk::<HEADER_BYTES>().ok_or(truncated)?;
    if magic != MAGIC {
        return Err(BlockError::Magic { found: magic });
    }
    if version != VERSION {
        return Err(BlockError::Version { found: version, known: VERSION });
    }
    let scale = Scale::new(price, volume).map_err(|_| BlockError::Malformed { what: "too many decimals", at: 2 })?;
    let (found, expected) = (checksum(scale, body), u32::from_le_bytes([a, b, c, d]));
    if found != expected {
        return Err(BlockError::Checksum { found, expected });
    }
    let mut input = Input { bytes, at: HEADER_BYTES };
    let count = input.varint()? as usize;
    if count > ENCODE_CANDLES_MAX {
        return Err(BlockError::TooMany { count, limit: ENCODE_CANDLES_MAX });
    }
    // Before anything is allocated: a count that the bytes cannot hold is refused.
    if count * CANDLE_BYTES_MIN > bytes.len() - input.at {
        return Err(truncated);
    }
    candles.reserve(count);
    let (mut time, mut delta) = (0_i64, 0_i64);
    for _ in 0..count {
        delta = delta.wrapping_add(unzigzag(input.varint()?));
        time = time.wrapping_add(delta);
        candles.push(Candle { time, ..Candle::default() });
    }
    let candles = &mut candles[start..];
    // Wrapping throughout: nonsense shows as an insane candle in `check`.
    for candle in candles.iter_mut() {
        candle.open = unzigzag(input.varint()?);
    }
    let mut close = 0_i64;
    for candle in candles.iter_mut() {
        candle.open = candle.open.wrapping_add(close);
        close = candle.open.wrapping_add(unzigzag(input.varint()?));
        candle.close = close;
    }
    for candle in candles.iter_mut() {
        candle.high = candle.open.max(candle.close).wrapping_add(input.varint()? as i64);
    }
    for candle in candles.iter_mut() {
        candle.low = candle.open.min(candle.close).wrapping_sub(input.varint()? as i64);
    }
    for candle in candles.iter_mut() {
        candle.volume = input.varint()? as i64;
    }
    if input.at != bytes.len() {
        return Err(BlockError::Malformed { what: "bytes are left over", at: input.at });
    }
    check(candles)?;
    Ok(scale)
}

fn check(candles: &[Candle]) -> Result<(), BlockError> {
    let mut last = None;
    for (index, candle) in candles.iter().enumerate() {
        candle.check().map_err(|fault| BlockError::Candle { index, fault })?;
        if last.is_some_and(|last| candle.time <= last) {
            return Err(BlockError::Unsorted { index });
        }
        last = Some(candle.time);
    }
    Ok(())
}

/// What merging new candles into existing ones found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MergeReport {
    /// Candles that were not there before.
    pub added: usize,
    /// Candles that were there already, equal in every number.
    pub equal: usize,
    /// Open times of candles that were there with other numbers; the existing ones are kept.
    pub conflicting: Vec<i64>,
}

/// Merges sorted candles of the same scale. Existing candles win over conflicting new ones: history is not rewritten
/// silently, and merging the same file twice changes nothing.
pub fn merge(existing: &[Candle], new: &[Candle]) -> (Vec<Candle>, MergeReport) {
    let mut merged = Vec::with_capacity(existing.len() + new.len());
    let mut report = MergeReport::default();
    let mut old = existing.iter().peekable();
    for candle in new {
        while let Some(before) = old.next_if(|o| o.time < candle.time) {
            merged.push(*before);
        }
        match old.peek() {
            Some(same) if same.time == candle.time && *same == candle => report.equal += 1,
            Some(other) if other.time == candle.time => report.conflicting.push(candle.time),
            _ => {
                report.added += 1;
                merged.push(*candle);
            }
        }
    }
    merged.extend(old);
    (merged, report)
}

// === integers ===

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    #[inline(always)]
    fn varint(&mut self) -> Result<u64, BlockError> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.varint_long(),
        }
    }

    #[inline]
    fn varint_long(&mut self) -> Result<u64, BlockError> {
        let (mut value, mut shift) = (0_u64, 0);
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // Ten bytes hold 70 bits: the last may only carry the 64th.
                return if shift == 63 && byte > 1 { Err(self.too_large()) } else { Ok(value) };
            }
            shift += 7;
            if shift > 63 {
                return Err(self.too_large());
            }
        }
        Err(BlockError::Truncated { at: self.bytes.len() })
    }

    fn too_large(&self) -> BlockError {
        BlockError::Malformed { what: "a number is too large", at: self.at }
    }
}

/// Eight bytes at a time through a rotate and a multiplication (the constant of FxHash): finds damage, not malice.
fn checksum(scale: Scale, bytes: &[u8]) -> u32 {
    const K: u64 = 0x517c_c1b7_2722_0a95;
    let mix = |sum: u64, word: u64| (sum.rotate_left(5) ^ word).wrapping_mul(K);
    let mut sum = mix(bytes.len() as u64, u64::from(scale.price_decimals()) << 8 | u64::from(scale.volume_decimals()));
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        sum = mix(sum, u64::from_le_bytes(*word));
    }
    for byte in rest {
        sum = mix(sum, u64::from(*byte));
    }
    (sum >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::candle::{LOTS_MAX, TICKS_MAX};
    use super::*;

    fn sane() -> impl Strategy<Value = Vec<Candle>> {
        let one = (1..TICKS_MAX, 1..TICKS_MAX, 1..TICKS_MAX, 1..TICKS_MAX, 0..LOTS_MAX, 1..5_000_000_000_i64);
        (any::<i32>(), vec(one, 0..60)).prop_map(|(start, rows)| {
            let mut time = i64::from(start) * 1_000_000;
            rows.into_iter()
                .map(|(a, b, c, d, volume, step)| {
                    time += step;
                    let mut p = [a, b, c, d];
                    p.sort_unstable();
                    let (open, close) = if volume % 2 == 0 { (p[1], p[2]) } else { (p[2], p[1]) };
                    Candle { time, open, high: p[3], low: p[0], close, volume }
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(candles in sane()) {
            let scale = Scale::new(3, 8).unwrap();
            let bytes = encode(&candles, scale).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), (candles, scale));
        }

        #[test]
        fn a_changed_byte_is_an_error_or_harmless_but_never_a_panic(candles in sane(), at: prop::sample::Index, to: u8) {
            let mut bytes = encode(&candles, Scale::default()).unwrap();
            let at = at.index(bytes.len());
            if bytes[at] != to {
                bytes[at] = to;
                prop_assert!(decode(&bytes).is_err());
            }
        }

        #[test]
        fn any_bytes_behind_a_right_checksum_never_panic(body in vec(any::<u8>(), 0..200)) {
            let scale = Scale::default();
            let mut bytes = vec![MAGIC, VERSION, 0, 0];
            bytes.extend(checksum(scale, &body).to_le_bytes());
            bytes.extend(&body);
            if let Ok((candles, scale)) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&candles, scale).unwrap()).unwrap().0, candles);
            }
        }

        #[test]
        fn a_truncated_block_is_an_error(candles in sane(), cut: prop::sample::Index) {
            let bytes = encode(&candles, Scale::default()).unwrap();
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
        }

        #[test]
        fn merging_twice_changes_nothing(candles in sane(), split: prop::sample::Index) {
            let at = split.index(candles.len() + 1);
            let (merged, report) = merge(&candles[..at], &candles);
            prop_assert_eq!(&merged, &candles);
            prop_assert_eq!((report.added, report.equal), (candles.len() - at, at));
            let (again, report) = merge(&merged, &candles);
            prop_assert_eq!(&again, &candles);
            prop_assert_eq!((report.added, report.conflicting.len()), (0, 0));
        }
    }

    #[test]
    fn a_conflict_keeps_the_existing_candle_and_is_reported() {
        let old = Candle { time: 5, open: 1, high: 1, low: 1, close: 1, volume: 0 };
        let (merged, report) = merge(&[old], &[Candle { volume: 9, ..old }]);
        assert_eq!((merged, report.conflicting), (vec![old], vec![5]));
    }

    #[test]
    fn blocks_are_cut_by_time_alone() {
        let minute = Interval::from_millis(60_000).unwrap();
        assert_eq!(block_start(0, minute), 0);
        assert_eq!(block_start(1024 * 60_000 - 1, minute), 0);
        assert_eq!(block_start(1024 * 60_000, minute), 1024 * 60_000);
        assert_eq!(block_start(-1, minute), -1024 * 60_000);
    }
}
