//! A model in one GGUF file or in the parts of one: opened, its parts held against each other.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::dtype::{ReadAs, TensorType};
use super::families::{self, Family};
use super::header::{Header, TensorInfo};
use super::metadata::Metadata;
use super::names::Place;
use super::reader::damaged;
use crate::error::{Error, Result, count, quote};
use crate::mapped::Bytes;
use crate::source::{Location, PartName};

/// Parts of a model; the most of a published one are some dozens.
const MOST_PARTS: u64 = 1000;

/// A model's head: all that is known of it without looking at its numbers.
pub(crate) struct Gguf {
    pub(crate) metadata: Metadata,
    parts: Vec<Part>,
}

/// One file's tensors.
struct Part {
    tensors: Vec<TensorInfo>,
    bytes: Arc<Bytes>,
}

/// A tensor as an architecture asks for it.
pub(crate) struct Tensor {
    /// As transformers has it; as the file has it where nothing is known of it.
    pub(crate) name: String,
    /// Rows of outputs.
    pub(crate) shape: Vec<usize>,
    /// Or the name of a type that no kernel reads.
    pub(crate) read_as: Result<ReadAs, &'static str>,
    pub(crate) bytes: Arc<Bytes>,
    pub(crate) range: std::ops::Range<usize>,
}

/// A tensor as it is in the file.
pub(crate) struct RawTensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: &'a [usize],
    pub(crate) dtype: &'static TensorType,
    /// `None` for a head that came alone.
    pub(crate) bytes: Option<&'a [u8]>,
    /// The names under which architectures ask for it, or for one after the other of what lies in it.
    pub(crate) places: Vec<String>,
    /// The shape of one of these.
    pub(crate) each: Vec<usize>,
}

impl Gguf {
    /// Opens a file and, where it is the first of several parts, the others beside it.
    pub(crate) fn open(location: &Location) -> Result<Gguf> {
        let (first, bytes) = Header::open(location)?;
        let Header { metadata, tensors, .. } = first;
        let mut gguf = Gguf { metadata, parts: vec![Part { tensors, bytes }] };
        gguf.open_others(location)?;
        Ok(gguf)
    }

    /// A model whose head alone is here, as it is on the Hub before it is fetched.
    pub(crate) fn of_heads(heads: Vec<(Header, Arc<Bytes>)>) -> Option<Gguf> {
        let metadata = heads.first()?.0.metadata.clone();
        let parts = heads.into_iter().map(|(head, bytes)| Part { tensors: head.tensors, bytes }).collect();
        Some(Gguf { metadata, parts })
    }

    fn open_others(&mut self, location: &Location) -> Result<()> {
        let metadata = self.metadata.clone();
        let parts = metadata.unsigned("split.count")?.unwrap_or(0);
        if parts <= 1 {
            return Ok(());
        }
        let path = location.path();
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let name = PartName::of(&file_name).filter(|name| u64::from(name.parts) == parts && parts <= MOST_PARTS);
        let name = name.ok_or_else(|| {
            let problem = format!("expected a name such as `m-00001-of-{parts:05}.gguf` for one of {parts} parts");
            Error::file(path, problem, "parts are found by their names; give them back those that they came with")
        })?;
        check_part(&metadata, 1, parts)?;
        for number in 2..=name.parts {
            let path = path.with_file_name(name.other(number));
            if !path.is_file() {
                let problem = format!("expected part {number} of {parts}, found no such file");
                return Err(Error::file(
                    &path,
                    problem,
                    "the parts of a model lie beside each other; copy all of them",
                ));
            }
            let (part, bytes) = Header::open(&Location::Disk(path))?;
            check_part(&part.metadata, u64::from(number), parts)?;
            self.parts.push(Part { tensors: part.tensors, bytes });
        }
        let mut names = HashSet::new();
        for tensor in self.parts.iter().flat_map(|part| &part.tensors) {
            if !names.insert(&*tensor.name) {
                return Err(damaged(path, format!("the tensor {} is in two of the parts", quote(&tensor.name))));
            }
        }
        let stated = metadata.unsigned("split.tensors.count")?;
        match stated.filter(|stated| *stated != names.len() as u64) {
            Some(stated) => {
                let found = names.len();
                Err(damaged(path, format!("expected {stated} tensors in all parts, found {found}")))
            }
            None => Ok(()),
        }
    }

    /// The file that messages name.
    pub(crate) fn path(&self) -> &Path {
        self.metadata.path()
    }

    /// Which kind of model it is.
    pub(super) fn family(&self) -> Result<&'static Family> {
        families::of(self)
    }

    fn infos(&self) -> impl Iterator<Item = (&TensorInfo, &Arc<Bytes>)> {
        self.parts.iter().flat_map(|part| part.tensors.iter().map(|tensor| (tensor, &part.bytes)))
    }

    /// The shape of a tensor, by its name in the file.
    pub(super) fn shape_of(&self, name: &str) -> Option<&[usize]> {
        self.infos().find(|(tensor, _)| &*tensor.name == name).map(|(tensor, _)| &tensor.shape[..])
    }

    /// The numbers of a small tensor of f32, by its name in the file.
    pub(super) fn numbers_of(&self, name: &str, count: usize) -> Result<Option<Vec<f32>>> {
        let Some((tensor, bytes)) = self.infos().find(|(tensor, _)| &*tensor.name == name) else { return Ok(None) };
        let is_list = tensor.shape.iter().rev().skip(1).all(|size| *size == 1) && tensor.shape.last() == Some(&count);
        if tensor.dtype.read_as != Some(ReadAs::F32) || !is_list {
            let (dtype, shape) = (tensor.dtype.name, &tensor.shape);
            let problem =
                format!("tensor {}: expected {count} numbers of F32, found {shape:?} of {dtype}", quote(name));
            return Err(damaged(self.path(), problem));
        }
        // A head that came from the Hub alone has no numbers.
        let Some(bytes) = bytes.all().get(tensor.range.clone()) else { return Ok(Some(vec![1.0; count])) };
        let numbers = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Ok(Some(numbers.collect()))
    }

    /// All tensors, under the names that architectures ask for. What the config was made of is left away.
    pub(crate) fn tensors(&self) -> Result<Vec<Tensor>> {
        let names = self.family()?.names;
        let mut tensors = Vec::new();
        let mut known: HashSet<String> = HashSet::new();
        for (info, bytes) in self.infos() {
            let read_as = info.dtype.read_as.ok_or(info.dtype.name);
            let one = |name: String, shape: &[usize], range| Tensor {
                name,
                shape: shape.to_vec(),
                read_as,
                bytes: Arc::clone(bytes),
                range,
            };
            if info.name.contains("ffn_gate_up_exps") {
                let problem =
                    format!("tensor {} holds two parts of each expert, which is not supported", quote(&info.name));
                let hint = "take a file with `ffn_gate_exps` and `ffn_up_exps`, as converters write this architecture";
                return Err(Error::unsupported(self.path(), problem, hint));
            }
            let start = tensors.len();
            match names.place_of(&info.name) {
                Place::Config => {}
                Place::Named(name) => tensors.push(one(name, &info.shape, info.range.clone())),
                Place::Stacked(before, after) => {
                    let Some((count, shape)) = info.shape.split_first().filter(|(_, shape)| !shape.is_empty()) else {
                        let problem = format!("expected 2 dimensions or more, found {}", info.shape.len());
                        return Err(damaged(self.path(), format!("tensor {}: {problem}", quote(&info.name))));
                    };
                    let bytes_each = info.range.len().checked_div(*count).unwrap_or(0); // rows are whole blocks
                    let count = if bytes_each == 0 { 0 } else { *count };
                    for number in 0..count {
                        let at = info.range.start + number * bytes_each;
                        let name = format!("{before}.{number}.{after}");
                        tensors.push(one(name, shape, at..at + bytes_each));
                    }
                }
                Place::Fused(names) => {
                    let bytes_each = info.range.len().checked_div(info.shape[0]).unwrap_or(0); // rows are whole blocks
                    let mut at = info.range.start;
                    for (name, rows) in names.into_iter().zip(self.fused_rows(info)?) {
                        let mut shape = info.shape.clone();
                        shape[0] = rows;
                        tensors.push(one(name, &shape, at..at + rows * bytes_each));
                        at += rows * bytes_each;
                    }
                }
            }
            if let Some(twice) = tensors[start..].iter().find(|tensor| !known.insert(tensor.name.clone())) {
                return Err(damaged(self.path(), format!("the tensor {} is there twice", quote(&twice.name))));
            }
        }
        Ok(tensors)
    }

    /// Rows of queries, keys and values in one tensor of them.
    fn fused_rows(&self, info: &TensorInfo) -> Result<[usize; 3]> {
        let family = self.family()?;
        let heads = |key: &str| self.metadata.size(&format!("{}.attention.{key}", family.name));
        let heads = (heads("head_count")?.unwrap_or(0), heads("head_count_kv")?);
        let (rows, kv_heads) = (info.shape.first().copied().unwrap_or(0), heads.1.unwrap_or(heads.0));
        let all = kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(heads.0));
        match all.filter(|all| *all > 0 && rows.is_multiple_of(*all)) {
            Some(all) => Ok([heads.0, kv_heads, kv_heads].map(|heads| rows / all * heads)),
            None => {
                let problem = format!("expected rows for {} and two times {kv_heads} heads, found {rows}", heads.0);
                Err(damaged(self.path(), format!("tensor {}: {problem}", quote(&info.name))))
            }
        }
    }

    /// All tensors as the file has them, in its order: name, shape, type, and the name that architectures ask for, if any.
    pub(crate) fn raw_tensors(&self) -> Result<Vec<RawTensor<'_>>> {
        let names = self.family()?.names;
        let raw = self.infos().map(|(info, bytes)| {
            let (places, each) = match names.place_of(&info.name) {
                Place::Named(name) => (vec![name], info.shape.clone()),
                Place::Stacked(before, after) if !info.range.is_empty() => {
                    let name = |number| format!("{before}.{number}.{after}");
                    ((0..info.shape[0]).map(name).collect(), info.shape[1..].to_vec())
                }
                Place::Config | Place::Stacked(..) | Place::Fused(_) => (Vec::new(), Vec::new()),
            };
            let ones = each.len().saturating_sub(2).min(each.iter().take_while(|size| **size == 1).count());
            let (each, bytes) = (each[ones..].to_vec(), bytes.all().get(info.range.clone()));
            RawTensor { name: &info.name, shape: &info.shape, dtype: info.dtype, bytes, places, each }
        });
        Ok(raw.collect())
    }

    /// What it says of its architecture, for messages.
    pub(crate) fn kind(&self) -> Option<String> {
        let name = self.metadata.string("general.architecture").ok().flatten()?;
        Some(quote(name).trim_matches('`').to_owned())
    }

    /// Tokens that stand for something, under the names that chat templates have for them.
    pub(crate) fn special_tokens(&self) -> Result<Vec<(&'static str, String)>> {
        const NAMES: [(&str, &str); 5] = [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("sep_token", "seperator"), // as the format spells it
            ("pad_token", "padding"),
        ];
        let mut found = Vec::new();
        for (name, key) in NAMES {
            let Some(id) = self.metadata.token(&format!("tokenizer.ggml.{key}_token_id"))? else { continue };
            let token = self.metadata.strings("tokenizer.ggml.tokens")?.and_then(|mut tokens| tokens.nth(id as usize));
            found.extend(token.map(|token| (name, String::from_utf8_lossy(token).into_owned())));
        }
        Ok(found)
    }

    /// What its metadata say of how it may be used.
    pub(crate) fn license(&self) -> Option<String> {
        self.metadata.string("general.license").ok().flatten().map(str::to_owned)
    }
}

fn check_part(metadata: &Metadata, number: u64, parts: u64) -> Result<()> {
    let (found, of) = (metadata.unsigned("split.no")?, metadata.unsigned("split.count")?);
    if found == Some(number - 1) && of == Some(parts) {
        return Ok(());
    }
    let says =
        found.zip(of).map_or("none".to_owned(), |(found, of)| format!("part {} of {of}", found.saturating_add(1)));
    let hint = if number == 1 {
        "name the first part; the others are found beside it"
    } else {
        "the parts do not belong together; copy all of them from the same place"
    };
    Err(Error::file(
        metadata.path(),
        format!("expected part {number} of {}, found {says}", count(parts as usize, "part")),
        hint,
    ))
}
