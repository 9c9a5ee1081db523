//! Safetensors files and their index of shards, mapped and checked.
//!
//! The `safetensors` crate parses the header and proves that offsets lie in the file, in order and without holes. What
//! it lacks is here: maps that outlive the parser, shards opened side by side, and messages that say what to do.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Metadata;
use safetensors::{Dtype as FileDtype, SafeTensorError, SafeTensors};
use serde::Deserialize;

use super::{Dtype, Entry, Kind};
use crate::error::{Error, Result, quote};
use crate::kernels::Pool;
use crate::mapped::Bytes;
use crate::source::Location;

/// The tensors of one file.
pub(super) fn open(location: &Location) -> Result<HashMap<String, Entry>> {
    let file = match location {
        Location::Embedded(_, bytes) => Bytes::Embedded(bytes),
        Location::Disk(path) => map(path)?,
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

/// Maps a file that is long enough for a header's length.
fn map(path: &Path) -> Result<Bytes> {
    let file = Bytes::map(path)?;
    let size = file.all().len();
    if size < 8 {
        return Err(damaged(path, format!("expected a safetensors header, found a file of {size} bytes")));
    }
    Ok(file)
}

/// Where each tensor of a file lies. The header is checked against the file's length before anything is allocated.
fn entries(path: &Path, file: Arc<Bytes>) -> Result<HashMap<String, Entry>> {
    let bytes = file.all();
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(path, explain(bytes, error)))?;
    let start = 8 + header;
    let tensors = metadata.tensors();
    Ok(tensors
        .into_iter()
        .map(|(name, info)| {
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let stored_as = match info.dtype {
                FileDtype::F32 => Ok(Kind::Dense(Dtype::F32)),
                FileDtype::F16 => Ok(Kind::Dense(Dtype::F16)),
                FileDtype::BF16 => Ok(Kind::Dense(Dtype::Bf16)),
                other => Err(format!("{other:?}")),
            };
            let entry = Entry { file: Arc::clone(&file), stored_as, shape: info.shape.clone(), range };
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
