//! Detects the format and the compression of a file from its bytes, with the limits that apply to every format.

use std::cell::Cell;
use std::io::{BufReader, Cursor, Read, Seek};

use super::{ImportError, ImportOptions};

/// Packings within packings: a zip of a gzip happens, more does not.
pub(super) const DEPTH_MAX: usize = 3;
/// What is read of a text at once: enough to see its layout, little beside its candles.
const TEXT_BYTES: usize = 1 << 20;
/// Space before the first bracket of JSON that is looked over.
const SPACE_MAX: usize = 64;
/// Unpacked bytes up to which any ratio is allowed: so few do no harm.
pub(super) const ANY_RATIO_BYTES: u64 = 64 << 20;

/// What plain bytes are.
pub(super) enum Content {
    Csv,
    Json,
    Parquet,
    Feather,
    Gzip,
    Zip,
    /// Something that is known and not read, in words.
    Foreign(&'static str),
}

/// What was found in a file, unpacked. Everything but text is held as a whole.
pub(super) enum Opened<'a> {
    Text(Text<'a>),
    Json(Vec<u8>),
    Parquet(Vec<u8>),
    Feather(Vec<u8>),
    Zip(Vec<u8>),
}

/// How many bytes of the packed file were read.
#[derive(Clone, Copy)]
pub(super) enum Packed<'a> {
    /// This many up to now.
    Read(&'a Cell<u64>),
    /// This many in total, for an entry in an archive.
    Whole(u64),
}

impl Packed<'_> {
    fn bytes(self) -> u64 {
        match self {
            Self::Read(read) => read.get(),
            Self::Whole(bytes) => bytes,
        }
    }
}

/// Text that is read as it comes.
pub(super) struct Text<'a> {
    /// What was read and not yet taken.
    pub(super) bytes: Vec<u8>,
    reader: Box<dyn Read + 'a>,
    packed: Packed<'a>,
    packing: Option<&'static str>,
    unpacked: u64,
    size_max: u64,
    ratio_max: u64,
}

impl Text<'_> {
    /// Reads some more behind what there is; answers whether that is the end.
    pub(super) fn more(&mut self) -> Result<bool, ImportError> {
        let wanted = TEXT_BYTES as u64;
        let n = (&mut self.reader).take(wanted).read_to_end(&mut self.bytes).map_err(|source| match self.packing {
            Some(what) => ImportError::Packed { what, source },
            None => ImportError::Read { source },
        })?;
        self.unpacked += n as u64;
        if self.unpacked > self.size_max {
            return Err(ImportError::TooLarge { limit: self.size_max });
        }
        let (packed, unpacked, limit) = (self.packed.bytes(), self.unpacked, self.ratio_max);
        if unpacked > ANY_RATIO_BYTES && unpacked / limit.max(1) > packed {
            return Err(ImportError::Ratio { packed, unpacked, limit });
        }
        Ok((n as u64) < wanted)
    }

    /// Reads everything, within the limit of bytes held in memory.
    fn whole(mut self, what: &'static str, held_max: u64, mut is_all: bool) -> Result<Vec<u8>, ImportError> {
        loop {
            if self.bytes.len() as u64 > held_max {
                return Err(ImportError::TooLargeToHold { what, limit: held_max });
            }
            if is_all {
                return Ok(self.bytes);
            }
            is_all = self.more()?;
        }
    }
}

/// Unpacks gzip; passes text on as a stream, and any other format as a whole.
pub(super) fn open<'a>(
    reader: Box<dyn Read + 'a>,
    packed: Packed<'a>,
    options: &ImportOptions,
) -> Result<Opened<'a>, ImportError> {
    let ImportOptions { size_max, held_max, ratio_max, .. } = *options;
    let mut seen = Text { bytes: Vec::new(), reader, packed, packing: None, unpacked: 0, size_max, ratio_max };
    for _ in 0..=DEPTH_MAX {
        let is_all = seen.more()?;
        return Ok(match sniff(&seen.bytes) {
            Content::Gzip => {
                let Text { bytes, reader, .. } = seen;
                let source = BufReader::with_capacity(TEXT_BYTES / 8, Cursor::new(bytes).chain(reader));
                let reader = Box::new(flate2::bufread::MultiGzDecoder::new(source));
                let packing = Some("gzip");
                seen = Text { bytes: Vec::new(), reader, packed, packing, unpacked: 0, size_max, ratio_max };
                continue;
            }
            Content::Csv => {
                // As if nothing of it had been read yet.
                let Text { bytes, reader, packing, .. } = seen;
                let reader = Box::new(Cursor::new(bytes).chain(reader));
                Opened::Text(Text { bytes: Vec::new(), reader, packed, packing, unpacked: 0, size_max, ratio_max })
            }
            Content::Json => Opened::Json(seen.whole("JSON", held_max, is_all)?),
            Content::Parquet => Opened::Parquet(seen.whole("a packed or piped Parquet file", held_max, is_all)?),
            Content::Feather => Opened::Feather(seen.whole("a packed or piped Feather file", held_max, is_all)?),
            Content::Zip => Opened::Zip(seen.whole("a packed or piped zip archive", held_max, is_all)?),
            Content::Foreign(what) => return Err(ImportError::Foreign { what }),
        });
    }
    Err(TOO_DEEP)
}

/// Passes on the one file of a zip archive as a stream, with its packed size.
pub(super) fn of_zip<T>(
    source: impl Read + Seek,
    take: impl FnOnce(&mut dyn Read, u64) -> Result<T, ImportError>,
) -> Result<T, ImportError> {
    let damaged = |error: zip::result::ZipError| ImportError::Packed { what: "zip", source: error.into() };
    let mut archive = zip::ZipArchive::new(source).map_err(damaged)?;
    let mut files = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(damaged)?;
        // A folder of a Mac's archiver beside each file.
        if entry.is_file() && !entry.name_raw().starts_with(b"__MACOSX") {
            files.push(index);
        }
    }
    let [index] = files[..] else { return Err(ImportError::Archive { count: files.len() }) };
    let mut entry = archive.by_index(index).map_err(damaged)?;
    let packed = entry.compressed_size();
    take(&mut entry, packed).map_err(|error| match error {
        ImportError::Read { source } => ImportError::Packed { what: "zip", source },
        error => error,
    })
}

/// More layers of compression than real files have.
pub(super) const TOO_DEEP: ImportError =
    ImportError::Foreign { what: "packed more than three times: unpack it and import the file in it" };

/// What plain bytes are.
pub(super) fn sniff(bytes: &[u8]) -> Content {
    match bytes {
        [0x1f, 0x8b, ..] => Content::Gzip,
        [b'P', b'K', 3, 4, ..] => Content::Zip,
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
