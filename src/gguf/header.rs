//! The head of one file: version, metadata, the table of tensors, and the checks of all three.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::dtype::TensorType;
use super::metadata::Metadata;
use super::reader::{Reader, damaged};
use crate::error::{Error, Result, quote};
use crate::mapped::Bytes;
use crate::source::Location;

/// Tensors of a file: the largest real models have some thousands, split over files.
const MOST_TENSORS: u64 = 1 << 17;

/// Bytes of a tensor's name; llama.cpp keeps 63.
const LONGEST_NAME: usize = 1024;

/// Dimensions of a tensor, as the format has it.
const MOST_DIMS: u32 = 4;

/// What the tensors' places are multiples of where the file does not say.
const ALIGNMENT: u64 = 32;

/// The key that says.
const ALIGNMENT_KEY: &str = "general.alignment";

/// One file's head, checked.
pub(crate) struct Header {
    pub(crate) metadata: Metadata,
    /// In the order of the file.
    pub(crate) tensors: Vec<TensorInfo>,
}

/// A tensor as the table has it.
pub(crate) struct TensorInfo {
    pub(crate) name: Box<str>,
    /// As checkpoints have it: the dimension whose numbers lie side by side comes last. The file has them the other way.
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: &'static TensorType,
    /// Its bytes in the file.
    pub(crate) range: Range<usize>,
}

impl Header {
    /// Maps a file and checks its head.
    pub(crate) fn open(location: &Location) -> Result<(Header, Arc<Bytes>)> {
        let bytes = Arc::new(match location {
            Location::Embedded(_, bytes) => Bytes::Embedded(bytes),
            Location::Disk(path) => Bytes::map(path)?,
        });
        let length = bytes.all().len() as u64;
        let header =
            Header::parse(&mut Reader::new(location.path(), bytes.all(), length), location.path(), &bytes, length)?;
        Ok((header, bytes))
    }

    /// Checks the head of a file of `length` bytes, of which `bytes` are the first ones; `None` if they are too few.
    pub(crate) fn of_first(path: &Path, bytes: &Arc<Bytes>, length: u64) -> Result<Option<Header>> {
        let mut reader = Reader::new(path, bytes.all(), length);
        match Header::parse(&mut reader, path, bytes, length) {
            Err(_) if reader.is_short() => Ok(None),
            header => header.map(Some),
        }
    }

    fn parse(reader: &mut Reader, path: &Path, bytes: &Arc<Bytes>, length: u64) -> Result<Header> {
        check_version(reader, path)?;
        let tensors = reader.u64("the number of tensors")?;
        let pairs = reader.u64("the number of keys")?;
        let metadata = Metadata::read(reader, pairs, path, bytes)?;
        let alignment = alignment_of(&metadata)?;
        let table = read_table(reader, tensors)?;
        let data_start = (reader.at() as u64).next_multiple_of(alignment);
        let tensors = place(path, table, data_start, alignment, length)?;
        Ok(Header { metadata, tensors })
    }
}

fn check_version(reader: &mut Reader, path: &Path) -> Result<()> {
    let magic = reader.u32("the mark `GGUF`")?;
    if magic.to_le_bytes() != *b"GGUF" {
        let found: String =
            magic.to_le_bytes().iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from).collect();
        let older = ["lmgg", "fmgg", "tjgg", "algg"].contains(&found.as_str());
        return Err(if older {
            Error::unsupported(
                path,
                format!("expected a GGUF file, found one of its forerunners, {}", quote(&found)),
                "convert the model with a current version of llama.cpp's tools",
            )
        } else {
            damaged(path, format!("expected the mark `GGUF` at the start of the file, found {}", quote(&found)))
        });
    }
    let version = reader.u32("the version")?;
    let unsupported = |found: String| {
        let problem = format!("expected GGUF version 2 or 3, little endian, found {found}");
        Error::unsupported(path, problem, "take a copy that a current version of llama.cpp's tools wrote")
    };
    match version {
        2 | 3 => Ok(()),
        big if big & 0xffff == 0 && big != 0 => Err(unsupported(format!("big endian, version {}", big.swap_bytes()))),
        other => Err(unsupported(format!("version {other}"))),
    }
}

fn alignment_of(metadata: &Metadata) -> Result<u64> {
    const LARGEST: u64 = 1 << 20; // a huge page has 2 MiB; padding beyond that is a mistake
    match metadata.unsigned(ALIGNMENT_KEY)? {
        None => Ok(ALIGNMENT),
        Some(alignment) if alignment.is_power_of_two() && alignment <= LARGEST => Ok(alignment),
        Some(other) => {
            Err(metadata.wrong(ALIGNMENT_KEY, &format!("a power of two up to {LARGEST}"), other.to_string()))
        }
    }
}

/// A tensor, with its offset behind the start of the data and its bytes.
struct Row {
    name: Box<str>,
    shape: Vec<usize>,
    dtype: &'static TensorType,
    offset: u64,
    bytes: u64,
}

fn read_table(reader: &mut Reader, tensors: u64) -> Result<Vec<Row>> {
    const SHORTEST_ROW: u64 = 8 + 1 + 4 + 4 + 8; // a name of one byte, no dimensions, a type, an offset
    if tensors > MOST_TENSORS || tensors > reader.left() as u64 / SHORTEST_ROW {
        return Err(reader.damaged(format!(
            "expected a number of tensors that fits the file and is at most {MOST_TENSORS}, found {tensors}"
        )));
    }
    let mut names = HashSet::with_capacity(tensors as usize);
    let mut rows = Vec::with_capacity(tensors as usize);
    for _ in 0..tensors {
        let name = reader.name("a tensor's name", LONGEST_NAME)?;
        if !names.insert(name) {
            return Err(reader.damaged(format!("the tensor {} is there twice", quote(name))));
        }
        rows.push(read_row(reader, name)?);
    }
    Ok(rows)
}

fn read_row(reader: &mut Reader, name: &str) -> Result<Row> {
    let what = format!("the entry of tensor {}", quote(name));
    let wrong = |reader: &Reader, problem: String| reader.damaged(format!("tensor {}: {problem}", quote(name)));
    let dims = reader.u32(&what)?;
    if dims > MOST_DIMS {
        return Err(wrong(reader, format!("expected at most {MOST_DIMS} dimensions, found {dims}")));
    }
    let mut shape = Vec::with_capacity(dims as usize);
    for _ in 0..dims {
        let dim = reader.u64(&what)?;
        // As in ggml, which has them with a sign.
        let dim = usize::try_from(dim).ok().filter(|dim| i64::try_from(*dim).is_ok());
        shape.push(dim.ok_or_else(|| wrong(reader, "expected dimensions below 2^63, found a larger one".to_owned()))?);
    }
    let id = reader.u32(&what)?;
    let offset = reader.u64(&what)?;
    let dtype = TensorType::of(id).ok_or_else(|| wrong(reader, format!("expected a known type, found number {id}")))?;
    let inner = shape.first().copied().unwrap_or(1);
    if !inner.is_multiple_of(dtype.block_len) {
        let (name, len) = (dtype.name, dtype.block_len);
        return Err(wrong(reader, format!("expected rows of whole blocks of {len} ({name}), found rows of {inner}")));
    }
    // Dimensions of 0 may not hide others whose product is beyond all bounds.
    let most = shape.iter().map(|dim| (*dim).max(1)).try_fold(1_usize, usize::checked_mul);
    let numbers = most.map(|_| shape.iter().product::<usize>());
    let bytes = numbers.and_then(|numbers| dtype.bytes(numbers)).filter(|bytes| i64::try_from(*bytes).is_ok());
    let Some(bytes) = bytes else {
        return Err(wrong(reader, format!("expected a size below 2^63 bytes, found dimensions {shape:?}")));
    };
    shape.reverse();
    Ok(Row { name: name.into(), shape, dtype, offset, bytes: bytes as u64 })
}

/// Finds every tensor's bytes in the file: within it, aligned, and its own alone.
fn place(path: &Path, table: Vec<Row>, data_start: u64, alignment: u64, length: u64) -> Result<Vec<TensorInfo>> {
    let mut tensors = Vec::with_capacity(table.len());
    for row in table {
        let wrong = |problem: String| damaged(path, format!("tensor {}: {problem}", quote(&row.name)));
        let Row { offset, bytes, .. } = row;
        if !offset.is_multiple_of(alignment) {
            return Err(wrong(format!("expected an offset that is a multiple of {alignment}, found {offset}")));
        }
        let start = data_start.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(bytes)).filter(|end| *end <= length || bytes == 0);
        let (Some(start), Some(end)) = (start, end) else {
            return Err(wrong(format!(
                "expected {bytes} bytes at offset {offset} of the data, which starts at byte {data_start}, found a file of \
                 {length} bytes"
            )));
        };
        let range = if bytes == 0 { 0..0 } else { start as usize..end as usize };
        tensors.push(TensorInfo { name: row.name, shape: row.shape, dtype: row.dtype, range });
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().filter(|tensor| !tensor.range.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.range.start);
    for pair in order.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let names = (quote(&pair[0].name), quote(&pair[1].name));
            return Err(damaged(path, format!("the tensors {} and {} overlap", names.0, names.1)));
        }
    }
    Ok(tensors)
}
