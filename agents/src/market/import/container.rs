//! What a file is, told from its bytes, and what it is packed in.

use std::io::{BufReader, Cursor, Read};

use super::ImportError;

/// Four decades of one-minute candles; a bound against an archive that unpacks without end.
const UNPACKED_BYTES_MAX: u64 = 4 << 30;
/// Packings within packings: a zip of a gzip happens, more does not.
const DEPTH_MAX: usize = 3;
/// What is read of a text at once: enough to see its layout, little beside its candles.
const TEXT_BYTES: usize = 1 << 20;
/// Space before the first bracket of JSON that is looked over.
const SPACE_MAX: usize = 64;

/// What plain bytes are.
pub(super) enum Content {
    Csv,
    Json,
    Parquet,
    Feather,
    /// Something that is known and not read, in words.
    Foreign(&'static str),
}

/// Unpacks gzip and zip, and hands the plain bytes over.
pub(super) fn unpack<T>(bytes: &[u8], take: impl FnOnce(&[u8]) -> Result<T, ImportError>) -> Result<T, ImportError> {
    let mut unpacked = Vec::new();
    for depth in 0..=DEPTH_MAX {
        let packed: &[u8] = if depth == 0 { bytes } else { &unpacked };
        let next = match packed {
            [0x1f, 0x8b, ..] => gzip(packed)?,
            [b'P', b'K', 3, 4, ..] => zip(packed)?,
            _ => break,
        };
        unpacked = next;
    }
    // An empty file in a packing is as good as an empty file.
    let is_packed = matches!(bytes, [0x1f, 0x8b, ..] | [b'P', b'K', 3, 4, ..]);
    take(if is_packed { &unpacked } else { bytes })
}

/// Text that is read as it comes.
pub(super) struct Text<'a> {
    /// What was read and not yet taken.
    pub(super) bytes: Vec<u8>,
    reader: Box<dyn Read + 'a>,
    left: u64,
    packing: Option<&'static str>,
}

impl Text<'_> {
    /// Reads some more behind what there is; answers whether that is the end.
    pub(super) fn more(&mut self) -> Result<bool, ImportError> {
        let wanted = TEXT_BYTES as u64;
        let n = (&mut self.reader).take(wanted).read_to_end(&mut self.bytes).map_err(|source| match self.packing {
            Some(what) => ImportError::Packed { what, source },
            None => ImportError::Read { source },
        })?;
        self.left = self.left.checked_sub(n as u64).ok_or(TOO_LARGE)?;
        Ok((n as u64) < wanted)
    }
}

/// Hands text over as it comes, unpacked if it is packed with gzip; anything else as all of its bytes.
pub(super) fn stream<T>(
    reader: Box<dyn Read + '_>,
    text: impl FnOnce(Text<'_>) -> Result<T, ImportError>,
    whole: impl FnOnce(Vec<u8>) -> Result<T, ImportError>,
) -> Result<T, ImportError> {
    let mut seen = Text { bytes: Vec::new(), reader, left: UNPACKED_BYTES_MAX, packing: None };
    for depth in 0..=DEPTH_MAX {
        let is_all = seen.more()?;
        match sniff(&seen.bytes) {
            Content::Csv if matches!(seen.bytes[..], [0x1f, 0x8b, ..]) && depth < DEPTH_MAX => {
                let Text { bytes, reader, left, .. } = seen;
                let packed = BufReader::with_capacity(TEXT_BYTES / 8, Cursor::new(bytes).chain(reader));
                let reader = Box::new(flate2::bufread::MultiGzDecoder::new(packed));
                seen = Text { bytes: Vec::new(), reader, left, packing: Some("gzip") };
            }
            Content::Csv if !matches!(seen.bytes[..], [b'P', b'K', 3, 4, ..]) => {
                // As if nothing of it had been read yet.
                let Text { bytes, reader, left, packing } = seen;
                let reader = Box::new(Cursor::new(bytes).chain(reader));
                return text(Text { bytes: Vec::new(), reader, left, packing });
            }
            _ => {
                if !is_all {
                    while !seen.more()? {}
                }
                return whole(seen.bytes);
            }
        }
    }
    whole(seen.bytes)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>, ImportError> {
    let read = limited(flate2::read::MultiGzDecoder::new(bytes), bytes.len().saturating_mul(4));
    read.map_err(|source| ImportError::Packed { what: "gzip", source })?.ok_or(TOO_LARGE)
}

fn zip(bytes: &[u8]) -> Result<Vec<u8>, ImportError> {
    let damaged = |error: zip::result::ZipError| ImportError::Packed { what: "zip", source: error.into() };
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        // A folder of a Mac's archiver beside each file.
        if entry.is_file() && !entry.name_raw().starts_with(b"__MACOSX") {
            files.push(index);
        }
    }
    let [index] = files[..] else { return Err(ImportError::Archive { count: files.len() }) };
    let entry = archive.by_index(index).map_err(damaged)?;
    let expected = usize::try_from(entry.size()).unwrap_or(0).min(bytes.len().saturating_mul(20));
    limited(entry, expected).map_err(|source| ImportError::Packed { what: "zip", source })?.ok_or(TOO_LARGE)
}

const TOO_LARGE: ImportError = ImportError::TooLarge { limit: UNPACKED_BYTES_MAX };

/// All that comes, or `None` if it is more than the limit.
fn limited(reader: impl Read, expected: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut plain = Vec::with_capacity(expected);
    reader.take(UNPACKED_BYTES_MAX).read_to_end(&mut plain)?;
    Ok((plain.len() as u64) < UNPACKED_BYTES_MAX).map(|fits| fits.then_some(plain))
}

/// What plain bytes are.
pub(super) fn sniff(bytes: &[u8]) -> Content {
    match bytes {
        [b'P', b'A', b'R', b'1', ..] => Content::Parquet,
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Content::Feather,
        [b'F', b'E', b'A', b'1', ..] => Content::Foreign("Feather of version 1: write it again with version 2"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Content::Foreign("text in UTF-16: save it as UTF-8"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Content::Foreign("packed with xz: unpack it first"),
        [b'B', b'Z', b'h', ..] => Content::Foreign("packed with bzip2: unpack it first"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Content::Foreign("packed with zstd: unpack it first"),
        [0x89, b'H', b'D', b'F', ..] => Content::Foreign("HDF5: write it as Feather or Parquet"),
        [b'S', b'Q', b'L', b'i', b't', b'e', ..] => Content::Foreign("an SQLite database: export its table as CSV"),
        _ => {
            let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            let first = text.iter().take(SPACE_MAX).find(|byte| !byte.is_ascii_whitespace());
            if matches!(first, Some(b'[' | b'{')) { Content::Json } else { Content::Csv }
        }
    }
}
