//! Checks a Feather file before its library reads it: whether its parts are inside the file, and their declared
//! unpacked sizes. The library allocates memory for both without a check, and a process that allocates more memory than
//! available is aborted.

use std::io::{Read, Seek, SeekFrom};

use arrow_ipc::{Block, Buffer, Message, root_as_footer, root_as_message};

use super::{ImportError, ImportOptions};

/// The magic bytes at the end and the length of the footer before them.
const TAIL_BYTES: u64 = 10;
/// Bytes of a footer or of a batch's description: one describes its columns, some hundred bytes each.
const DESCRIPTION_MAX: u64 = 16 << 20;
/// Before a message: a mark for its continuation, and its length.
const PREFIX_BYTES: usize = 8;

fn damaged(why: impl Into<String>) -> ImportError {
    ImportError::Damaged { what: "Feather", why: why.into() }
}

/// Checks the batches of a file of `len` bytes.
pub(super) fn check(source: &mut (impl Read + Seek), len: u64, options: &ImportOptions) -> Result<(), ImportError> {
    let tail = bytes_at(source, len, len.checked_sub(TAIL_BYTES), TAIL_BYTES)?;
    let footer_bytes = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    let footer = bytes_at(source, len, len.checked_sub(TAIL_BYTES + footer_bytes), footer_bytes)?;
    let footer = root_as_footer(&footer).map_err(|error| damaged(error.to_string()))?;
    let mut unpacked = 0_u64;
    for block in footer.recordBatches().iter().chain(&footer.dictionaries()).flatten() {
        unpacked = unpacked.saturating_add(check_block(source, len, block, options)?);
        super::columnar::check_unpacked(len, unpacked, options)?;
    }
    Ok(())
}

/// Checks a batch and returns its unpacked size.
fn check_block(
    source: &mut (impl Read + Seek),
    len: u64,
    block: &Block,
    options: &ImportOptions,
) -> Result<u64, ImportError> {
    let outside = || damaged("a batch lies outside of the file");
    let number = |n: i64| u64::try_from(n).map_err(|_| outside());
    let (at, described, body) =
        (number(block.offset())?, number(i64::from(block.metaDataLength()))?, number(block.bodyLength())?);
    let body_at = at.checked_add(described).ok_or_else(outside)?;
    if body_at.checked_add(body).is_none_or(|end| end > len) {
        return Err(outside());
    }
    let message = bytes_at(source, len, Some(at), described)?;
    // A file of an older version lacks the mark.
    let prefix = if message.starts_with(&[0xff; 4]) { PREFIX_BYTES } else { PREFIX_BYTES / 2 };
    let message = root_as_message(message.get(prefix..).unwrap_or_default());
    let message = message.map_err(|error| damaged(error.to_string()))?;
    let mut unpacked = 0_u64;
    let (buffers, is_packed) = buffers(&message);
    for (place, packed) in buffers {
        if place.checked_add(packed).is_none_or(|end| end > body) {
            return Err(outside());
        }
        if !is_packed || packed < 8 {
            continue;
        }
        let place = body_at.checked_add(place).ok_or_else(outside)?;
        let said = bytes_at(source, len, Some(place), 8)?;
        let said = i64::from_le_bytes(said.try_into().unwrap_or_default());
        // −1 is not packed; any other negative number the library refuses.
        unpacked = unpacked.saturating_add(u64::try_from(said).unwrap_or(packed));
    }
    if unpacked > options.held_max {
        return Err(ImportError::TooLargeToHold { what: "a batch of a Feather file", limit: options.held_max });
    }
    Ok(unpacked.max(body))
}

/// Place and length of each buffer of a batch, and whether they are packed.
fn buffers(message: &Message<'_>) -> (Vec<(u64, u64)>, bool) {
    let batch = message.header_as_record_batch();
    let Some(batch) = batch.or_else(|| message.header_as_dictionary_batch()?.data()) else {
        return (Vec::new(), false);
    };
    // A negative number is outside every body.
    let span = |buffer: &Buffer| (buffer.offset() as u64, buffer.length() as u64);
    (batch.buffers().into_iter().flatten().map(span).collect(), batch.compression().is_some())
}

fn bytes_at(source: &mut (impl Read + Seek), len: u64, at: Option<u64>, n: u64) -> Result<Vec<u8>, ImportError> {
    let end = at.and_then(|at| at.checked_add(n)).filter(|end| *end <= len && n <= DESCRIPTION_MAX);
    let (Some(at), Some(_)) = (at, end) else { return Err(damaged("a part of it lies outside of the file")) };
    let failed = |source| ImportError::Read { source };
    source.seek(SeekFrom::Start(at)).map_err(failed)?;
    let mut found = vec![0; usize::try_from(n).unwrap_or(0)];
    source.read_exact(&mut found).map_err(failed)?;
    Ok(found)
}
