//! Safetensors files and their index of shards, mapped and checked.
//!
//! The `safetensors` crate parses the header and proves that offsets lie in the file, in order and without holes. What
//! it lacks is here: maps that outlive the parser, shards opened side by side, and messages that say what to do.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::tensor::Metadata;
use safetensors::{Dtype as FileDtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::{Buffer, Entry, Stored};
use crate::error::{Error, Result, quote};
use crate::kernels::Pool;
use crate::source::Location;

/// The bytes of one file.
pub(super) enum File {
    Mapped(Arc<Mmap>),
    Embedded(&'static [u8]),
}

impl File {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            File::Mapped(map) => map,
            File::Embedded(bytes) => bytes,
        }
    }

    /// Lets go of the memory under a range that will not be read again soon. It is read from the file again if it is.
    pub(super) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let File::Mapped(map) = self {
            // SAFETY: the map is a read-only one of a file, so that a page that was let go of comes back as it is there; what
            // lies on it beside the range only has to be read again. A refusal changes nothing.
            #[allow(unsafe_code)]
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// A range of the file as numbers; `None` for a dtype that no kernel reads.
    pub(super) fn tensor(&self, dtype: FileDtype, range: Range<usize>) -> Option<Stored> {
        Some(match (self, dtype) {
            (File::Mapped(map), FileDtype::F32) => Stored::F32(Buffer::mapped(map, range)),
            (File::Mapped(map), FileDtype::F16) => Stored::F16(Buffer::mapped(map, range)),
            (File::Mapped(map), FileDtype::BF16) => Stored::Bf16(Buffer::mapped(map, range)),
            (File::Embedded(bytes), FileDtype::F32) => Stored::F32(Buffer::embedded(&bytes[range])),
            (File::Embedded(bytes), FileDtype::F16) => Stored::F16(Buffer::embedded(&bytes[range])),
            (File::Embedded(bytes), FileDtype::BF16) => Stored::Bf16(Buffer::embedded(&bytes[range])),
            _ => return None,
        })
    }
}

/// The tensors of one file.
pub(super) fn open(location: &Location) -> Result<HashMap<String, Entry>> {
    let file = match location {
        Location::Embedded(_, bytes) => File::Embedded(bytes),
        Location::Disk(path) => File::Mapped(Arc::new(map(path)?)),
    };
    entries(location.path(), Arc::new(file))
}

/// The tensors of all shards that an index names, opened side by side.
pub(super) fn open_shards(index: &Location, pool: &Pool) -> Result<HashMap<String, Entry>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }

    let path = index.path();
    let folder = path.parent().unwrap_or(Path::new(""));
    let Index { weight_map } = serde_json::from_str(&index.read_text()?).map_err(|error| {
        Error::file(
            path,
            format!("expected an index with a `weight_map`: {error}"),
            "copy the index from where the model came from",
        )
    })?;
    let names: Vec<&String> = weight_map.values().collect::<BTreeSet<_>>().into_iter().collect();
    let shards = pool.map(&names, |name| open(&Location::Disk(shard_path(path, folder, name)?)));

    let mut tensors = HashMap::with_capacity(weight_map.len());
    let mut by_shard: HashMap<&String, HashMap<String, Entry>> = HashMap::new();
    for (name, shard) in names.iter().zip(shards) {
        by_shard.insert(*name, shard?);
    }
    for (tensor, shard) in &weight_map {
        let entry = by_shard.get_mut(shard).and_then(|entries| entries.remove(tensor)).ok_or_else(|| {
            Error::file(
                path,
                format!("expected tensor {} in {}, where it is missing", quote(tensor), quote(shard)),
                "the index and the shards do not belong together; fetch all from the same place",
            )
        })?;
        tensors.insert(tensor.clone(), entry);
    }
    Ok(tensors)
}

/// A shard's path; names that would leave the model's folder are refused.
fn shard_path(index: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let mut parts = Path::new(name).components();
    let plain = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
    if !plain || name.contains(['/', '\\']) {
        return Err(Error::file(
            index,
            format!("expected file names of shards, found {}", quote(name)),
            "shards lie beside their index",
        ));
    }
    Ok(folder.join(name))
}

/// Maps a file for reading.
fn map(path: &Path) -> Result<Mmap> {
    let failed = |error: std::io::Error| Error::file(path, error.to_string(), "check the path and its permissions");
    let file = std::fs::File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size < 8 {
        return Err(damaged(path, format!("expected a safetensors header, found a file of {size} bytes")));
    }
    // SAFETY: the map is read-only and private to this process. Another process may still change the file under it; a
    // changed number is as harmless as a wrong file, and README tells users to replace model files, not to rewrite them.
    #[allow(unsafe_code)]
    unsafe { Mmap::map(&file) }.map_err(failed)
}

/// Where each tensor of a file lies. The header is checked against the file's length before anything is allocated.
fn entries(path: &Path, file: Arc<File>) -> Result<HashMap<String, Entry>> {
    let bytes = file.bytes();
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, explain(bytes, error)))?;
    let start = 8 + header;
    let tensors = metadata.tensors();
    Ok(tensors
        .into_iter()
        .map(|(name, info)| {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let entry = Entry { file: Arc::clone(&file), dtype: info.dtype, shape: info.shape.clone(), range };
            (name, entry)
        })
        .collect())
}

fn explain(bytes: &[u8], error: SafeTensorError) -> String {
    match error {
        SafeTensorError::MetadataIncompleteBuffer => format!(
            "the header describes other than the {} bytes that the file has: it is cut short or grown",
            bytes.len()
        ),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            format!("expected a safetensors header within the file's {} bytes, found a longer one", bytes.len())
        }
        SafeTensorError::TensorInvalidInfo => "a tensor's shape and dtype do not match its bytes".to_owned(),
        SafeTensorError::InvalidOffset(name) => {
            format!("the offsets of tensor {} overlap, leave a hole or are out of order", quote(&name))
        }
        other => {
            let text = quote(&other.to_string());
            format!("expected a safetensors header: {}", text.trim_matches('`'))
        }
    }
}

fn damaged(path: &Path, problem: String) -> Error {
    Error::file(path, problem, "the file is incomplete or not safetensors; copy it again")
}

/// Judges a file by its header alone, before the rest of it is fetched: are the weights in a dtype that is read?
pub fn check_header(path: &Path, header: &Metadata) -> Result<()> {
    let known = |dtype: FileDtype| matches!(dtype, FileDtype::F32 | FileDtype::F16 | FileDtype::BF16);
    let tensors = header.tensors();
    let unknown =
        tensors.iter().filter(|(name, info)| name.ends_with(".weight") && !known(info.dtype)).min_by_key(|t| t.0);
    let Some((name, info)) = unknown else { return Ok(()) };
    Err(Error::unsupported(
        path,
        format!("tensor {}: expected dtype F32, F16 or BF16, found {:?}", quote(name), info.dtype),
        "look for a copy of the model in one of these",
    ))
}
