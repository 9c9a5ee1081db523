//! A sequence's keys and values in a file, from which a later run starts.
//!
//! The file is safetensors: `tokens`, and of each layer the chunks of the cache as they lie in memory (`kernels/cache.rs`
//! says how), so that the numbers come back bit for bit. Its metadata says for which model, weights, cache type and
//! version of the engine they hold, and has a hash of all that follows. A file appears under its name by one rename: who
//! reads it while another process writes gets the old one or the new one, whole.
//!
//! What a hash cannot know, one row of it can: whoever starts from a file computes its last token again and compares
//! (`engine/scheduler.rs`), at no cost, since the logits behind a prompt's last token are wanted anyway.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, quote};
use crate::kernels::{CHUNK_ROWS, CacheShape, CacheType, Chunk};
use crate::nn::KvCache;
use crate::whole::WholeFile;

/// What the metadata calls the file; the number changes when its layout or that of a chunk does.
const FORMAT: &str = "fireside prompt cache 1";
const FORMAT_FAMILY: &str = "fireside prompt cache ";

/// Longest header that is read: names and offsets of two tensors for each layer.
const LONGEST_HEADER: u64 = 1 << 20;

/// What keys and values depend on, beside the tokens.
pub(crate) struct Identity {
    /// How the user named the model.
    pub(crate) name: String,
    /// A hash of its config, its weights and what they are kept as.
    pub(crate) model: String,
    /// Layers of the model.
    pub(crate) layers: usize,
    /// What keys and values are stored as.
    pub(crate) kind: CacheType,
}

/// What came out of a file.
pub(crate) enum Found {
    /// There is no such file.
    Nothing,
    /// Tokens, and the cache that holds them.
    Cache(Vec<u32>, KvCache),
    /// A cache that cannot be used any more, and why; it may be written anew.
    Stale(String),
}

/// Writes a cache and its tokens.
pub(crate) fn write(file: &Path, identity: &Identity, tokens: &[u32], cache: &KvCache) -> Result<()> {
    let tokens: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let shapes: Vec<CacheShape> = cache.layers().iter().filter_map(|chunks| Some(chunks.first()?.shape())).collect();
    // The file's bytes behind its header, in order: of each layer its parts, of each part the chunks; then the tokens.
    let mut pieces: Vec<&[u8]> = Vec::new();
    let (mut header, mut offset) = (Map::new(), 0);
    let mut tensor = |name: String, dtype: &str, shape: Vec<usize>, part: &[&[u8]]| {
        let end = offset + part.iter().map(|piece| piece.len()).sum::<usize>();
        header.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [offset, end] }));
        offset = end;
    };
    for (layer, chunks) in cache.layers().iter().enumerate() {
        for (i, (part, dtype)) in parts_of(cache.kind()).iter().enumerate() {
            let chunks: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.parts()[i]).collect();
            let numbers = chunks.first().map_or(0, |chunk| chunk.len()) / bytes_of(dtype);
            let heads = shapes.get(layer).map_or(1, |shape| shape.n_kv_heads);
            tensor(format!("layers.{layer}.{part}"), dtype, vec![chunks.len(), heads, numbers / heads], &chunks);
            pieces.extend(chunks);
        }
    }
    tensor("tokens".to_owned(), "U32", vec![tokens.len() / 4], &[&tokens]);
    pieces.push(&tokens);

    let mut hash = Sha256::new();
    pieces.iter().for_each(|piece| hash.update(piece));
    let heads: Vec<String> = shapes.iter().map(|shape| format!("{}x{}", shape.n_kv_heads, shape.head_dim)).collect();
    let metadata = json!({
        "format": FORMAT,
        "engine": env!("CARGO_PKG_VERSION"),
        "model": identity.model,
        "model_name": identity.name,
        "kv": cache.kind().name(),
        "heads": heads.join(","),
        "goal": cache.goal().to_string(),
        "sha256": hex(&hash.finalize()),
    });
    header.insert("__metadata__".to_owned(), metadata);
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    write_pieces(file, &header, &pieces).map_err(|error| {
        let hint =
            if error.kind() == io::ErrorKind::StorageFull { "free some room, or name a file elsewhere" } else { "" };
        Error::Unwritten { path: file.to_owned(), problem: error.to_string(), hint: hint.to_owned() }
    })
}

fn write_pieces(path: &Path, header: &[u8], pieces: &[&[u8]]) -> io::Result<()> {
    let mut out = BufWriter::new(WholeFile::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header)?;
    for piece in pieces {
        out.write_all(piece)?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
}

/// Reads a file. Another model's cache, and what is no prompt cache at all, is an error: it is not this command's to
/// replace.
pub(crate) fn read(file: &Path, identity: &Identity) -> Result<Found> {
    let failed = |error: io::Error| Error::file(file, error.to_string(), "check the path and its permissions");
    if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err(Error::file(file, "expected a prompt cache, found no file", "name a file"));
    }
    let opened = match File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(failed(error)),
    };
    let size = opened.metadata().map_err(failed)?.len();
    let mut from = BufReader::with_capacity(1 << 20, opened);
    let Some(header) = read_header(&mut from).map_err(failed)? else {
        let hint = "name another file, or remove this one if it is a damaged prompt cache";
        return Err(Error::file(file, "expected a prompt cache, found something else", hint));
    };
    let said = &header.metadata;
    if said.format != FORMAT {
        return Ok(Found::Stale("it is of another version of the format".to_owned()));
    }
    if said.model != identity.model {
        let of = if said.model_name == identity.name { "other weights" } else { "another model" };
        return Err(Error::file(
            file,
            format!("the prompt cache is of {of}: {}", quote(&said.model_name)),
            "name a file for each model, `--dtype` and `--quant`, or remove this one",
        ));
    }
    if said.engine != env!("CARGO_PKG_VERSION") {
        return Ok(Found::Stale(format!("it is of version {}", quote(&said.engine))));
    }
    if said.kv != identity.kind.name() {
        return Ok(Found::Stale(format!("its cache is {}, here it is `{}`", quote(&said.kv), identity.kind)));
    }
    Ok(match header.cache(&mut from, size, identity) {
        Ok((tokens, cache)) => Found::Cache(tokens, cache),
        Err(problem) => Found::Stale(format!("it is damaged: {problem}")),
    })
}

/// A file's header, as far as it is ours.
struct Header {
    metadata: Metadata,
    tensors: HashMap<String, Tensor>,
    /// Where the data begins.
    start: u64,
}

#[derive(Deserialize)]
struct Metadata {
    format: String,
    engine: String,
    model: String,
    model_name: String,
    kv: String,
    heads: String,
    goal: String,
    sha256: String,
}

#[derive(Deserialize)]
struct Tensor {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// The header of a prompt cache; `None` where the file is none.
fn read_header(from: &mut impl Read) -> io::Result<Option<Header>> {
    let mut length = [0; 8];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Ok(None);
    }
    let mut text = Vec::new();
    from.take(length).read_to_end(&mut text)?;
    let Ok(mut tensors) = serde_json::from_slice::<HashMap<String, Value>>(&text) else { return Ok(None) };
    let metadata = tensors.remove("__metadata__").and_then(|value| serde_json::from_value::<Metadata>(value).ok());
    let Some(metadata) = metadata.filter(|metadata| metadata.format.starts_with(FORMAT_FAMILY)) else {
        return Ok(None);
    };
    let tensors = tensors.into_iter().map(|(name, value)| Ok((name, serde_json::from_value(value)?)));
    let tensors = tensors.collect::<Result<_, serde_json::Error>>().unwrap_or_default(); // missing ones are found missing
    Ok(Some(Header { metadata, tensors, start: 8 + length }))
}

impl Header {
    /// The tokens and the cache, of which every length is checked before memory is taken.
    fn cache(&self, from: &mut impl Read, size: u64, identity: &Identity) -> Result<(Vec<u32>, KvCache), String> {
        let tokens = self.tensor("tokens", "U32")?;
        let count = tokens.shape.first().copied().unwrap_or(0);
        if self.start.checked_add(tokens.data_offsets.1 as u64) != Some(size) || tokens.shape.len() != 1 {
            return Err("its length is not what its header says".to_owned());
        }
        let heads: Vec<(usize, usize)> = self.metadata.heads.split(',').filter_map(heads_of).collect();
        if heads.len() != identity.layers || count == 0 {
            return Err("it has not the layers of the model".to_owned());
        }
        let goal = self.metadata.goal.parse().map_err(|_| "its goal is no number".to_owned())?;
        let n_chunks = count.div_ceil(CHUNK_ROWS);
        let (mut at, mut hash, mut layers) = (0, Sha256::new(), Vec::new());
        for (layer, (n_kv_heads, head_dim)) in heads.into_iter().enumerate() {
            let parts = parts_of(identity.kind);
            let tensors: Result<Vec<&Tensor>, String> =
                parts.iter().map(|(part, dtype)| self.tensor(&format!("layers.{layer}.{part}"), dtype)).collect();
            let bytes: Vec<usize> =
                tensors?.iter().map(|tensor| tensor.data_offsets.1 - tensor.data_offsets.0).collect();
            let shape = CacheShape { kind: identity.kind, n_kv_heads, head_dim };
            let least = n_kv_heads * head_dim * 2 * CHUNK_ROWS; // bytes, of eight bits each
            if (least as u64) > size {
                return Err(format!("layer {layer} has not the size of its tokens"));
            }
            // One chunk tells what all take; a header that says otherwise asks for no memory.
            let one: Vec<usize> = Chunk::new(shape).parts().iter().map(|part| part.len()).collect();
            if one.iter().zip(&bytes).any(|(one, all)| one.checked_mul(n_chunks) != Some(*all)) {
                return Err(format!("layer {layer} has not the size of its tokens"));
            }
            let mut chunks: Vec<Chunk> = (0..n_chunks).map(|_| Chunk::new(shape)).collect();
            for part in 0..parts.len() {
                for chunk in &mut chunks {
                    let piece = &mut chunk.parts_mut()[part];
                    from.read_exact(piece).map_err(|error| error.to_string())?;
                    hash.update(&**piece);
                    at += piece.len();
                }
            }
            layers.push(chunks.into_iter().map(Arc::new).collect());
        }
        if at != tokens.data_offsets.0 {
            return Err("its tensors are not in order".to_owned());
        }
        let mut bytes = vec![0; 4 * count];
        from.read_exact(&mut bytes).map_err(|error| error.to_string())?;
        hash.update(&bytes);
        if hex(&hash.finalize()) != self.metadata.sha256 {
            return Err("its bytes are not those that were written".to_owned());
        }
        let tokens = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        Ok((tokens, KvCache::from_layers(layers, identity.kind, count, goal)))
    }

    fn tensor(&self, name: &str, dtype: &str) -> Result<&Tensor, String> {
        let tensor = self.tensors.get(name).filter(|tensor| tensor.dtype == dtype);
        let tensor = tensor.ok_or_else(|| format!("it has no `{name}` of {dtype}"))?;
        let numbers = tensor.shape.iter().try_fold(1usize, |product, length| product.checked_mul(*length));
        let bytes = numbers.and_then(|numbers| numbers.checked_mul(bytes_of(dtype)));
        match tensor.data_offsets.1.checked_sub(tensor.data_offsets.0) {
            Some(length) if Some(length) == bytes => Ok(tensor),
            _ => Err(format!("the shape of `{name}` does not match its bytes")),
        }
    }
}

/// The parts of a chunk, and the dtype of each.
fn parts_of(kind: CacheType) -> &'static [(&'static str, &'static str)] {
    match kind {
        CacheType::F32 => &[("chunks", "F32")],
        CacheType::F16 => &[("chunks", "F16")],
        CacheType::Q8_0 => &[("chunks", "I8"), ("scales", "F16")],
    }
}

fn bytes_of(dtype: &str) -> usize {
    match dtype {
        "F32" | "U32" => 4,
        "F16" => 2,
        _ => 1,
    }
}

/// `12x64`: heads, and numbers of a head; neither so large that a chunk of them would not fit anywhere.
fn heads_of(text: &str) -> Option<(usize, usize)> {
    const MOST: usize = 1 << 14;
    let (heads, dim) = text.split_once('x')?;
    let (heads, dim) = (heads.parse().ok()?, dim.parse().ok()?);
    ((1..=MOST).contains(&heads) && (1..=MOST).contains(&dim)).then_some((heads, dim))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
