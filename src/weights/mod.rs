//! Names → tensors, from files, without copying what can stay mapped.
//!
//! A [`Weights`] is a place in a checkpoint: `weights.at("h.0").at("attn.c_attn.weight").stored(&[768, 2304])`. It checks
//! name, shape, dtype and that every value is finite, and every error names the full tensor path. It knows no layer and
//! no architecture.

mod export;
mod fingerprint;
mod gguf;
mod quant;
mod quantize;
mod random;
mod safetensors;
mod sizes;
mod stored;
mod tables;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub use export::Cast;
pub use gguf::check_tensors;
#[cfg(all(feature = "cli", feature = "hub"))]
pub use gguf::kind_of;
pub use quant::{Mix, Quant};
pub use random::Made;
pub use safetensors::check_header;
#[cfg(all(feature = "cli", feature = "hub"))]
pub use sizes::Listed;
pub use sizes::{Sizes, Tensors};
pub use stored::{Buffer, Dtype, Kind, Stored};
pub use tables::gathered;

use crate::device::Compute;
use crate::error::{Error, Result, quote};
use crate::kernels::{Layout, Slice};
use crate::mapped::Bytes;
use crate::source::WeightFiles;

/// A place in a checkpoint: the checkpoint and a prefix of names. Cheap to clone.
#[derive(Clone)]
pub struct Weights {
    checkpoint: Arc<Checkpoint>,
    compute: Compute,
    path: String,
}

/// All tensors of a model, as they lie in their files.
#[derive(Default)]
struct Checkpoint {
    /// The file that messages name: the weight file, or the index of the shards.
    file: PathBuf,
    tensors: HashMap<String, Entry>,
    /// Makes tensors where there are no files.
    random: Option<random::Random>,
    /// What layers hold, by name.
    held: Mutex<BTreeMap<String, Held>>,
    /// Asked for so far; the rest is reported by [`Weights::unused`].
    used: Mutex<HashSet<String>>,
    /// Known to the architecture and not kept.
    ignored: Mutex<HashSet<String>>,
    warnings: Mutex<Vec<String>>,
    /// The dtype to keep weights in; `None` keeps them as stored.
    dtype: Option<Dtype>,
    /// The formats to quantise matrices to; `None` does not.
    mix: Option<Mix>,
    kind_of_file: FileKind,
    /// Nobody will look at the numbers.
    only_sizes: bool,
}

/// What follows from the files' format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FileKind {
    /// Matrices lie as the architecture's own checkpoints have them, and are looked through when they are loaded.
    #[default]
    Safetensors,
    /// The rows of all matrices are outputs. They are not looked through, so that a file of any size opens at once: what is
    /// not finite shows in the logits of the first token that meets it, which are checked.
    Gguf,
}

impl FileKind {
    /// What to do where the config asks for other tensors than there are.
    fn not_together(self) -> &'static str {
        match self {
            FileKind::Safetensors => {
                "config.json and the weights do not belong together, or a shard is missing; fetch both from the same place"
            }
            FileKind::Gguf => {
                "the file's metadata and its tensors do not belong together; take another copy of the model"
            }
        }
    }
}

/// A tensor as a layer holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its shape in the file.
    pub shape: Vec<usize>,
    /// How it is kept.
    pub kind: Kind,
    /// Its bytes as it is kept.
    pub bytes: usize,
    /// Whether those lie in a mapped file.
    pub is_mapped: bool,
}

/// What weights are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// What the files have.
    #[default]
    AsStored,
    /// One dtype.
    As(Dtype),
    /// Matrices quantised, the rest as stored.
    Quantized(Quant),
}

/// A tensor that was found in a header but not yet looked at.
struct Entry {
    file: Arc<Bytes>,
    /// Or the name of a dtype that no kernel reads.
    stored_as: Result<Kind, String>,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

/// Numbers that one thread checks in one go: a few megabytes, so that large tensors are read by all threads at once.
const CHECKED_AT_ONCE: usize = 1 << 20;

impl Weights {
    /// Opens the weight files of a model. Only headers are read; tensors are touched when a layer asks for them.
    pub fn open(files: &WeightFiles, keep: Keep, compute: Compute) -> Result<Weights> {
        let (file, tensors) = match files {
            WeightFiles::Single(location) => (location.path().to_owned(), safetensors::open(location)?),
            WeightFiles::Sharded(index) => (index.path().to_owned(), safetensors::open_shards(index, &compute.pool)?),
            WeightFiles::Gguf(location) => (location.path().to_owned(), gguf::open(location, keep)?),
        };
        let kind_of_file = match files {
            WeightFiles::Gguf(_) => FileKind::Gguf,
            WeightFiles::Single(_) | WeightFiles::Sharded(_) => FileKind::Safetensors,
        };
        let mix = if let Keep::Quantized(quant) = keep { Some(mix_of(quant, &tensors)) } else { None };
        let dtype = if let Keep::As(dtype) = keep { Some(dtype) } else { None };
        Ok(Weights::new(Checkpoint { file, tensors, dtype, mix, kind_of_file, ..Checkpoint::default() }, compute))
    }

    /// The same weights for somebody who wants to know what they would be kept as: no number is looked at.
    pub fn open_sizes(files: &WeightFiles, keep: Keep, compute: Compute) -> Result<Weights> {
        let weights = Weights::open(files, keep, compute)?;
        let checkpoint = Checkpoint { only_sizes: true, ..Arc::into_inner(weights.checkpoint).unwrap_or_default() };
        Ok(Weights::new(checkpoint, weights.compute))
    }

    /// Weights without files: every tensor that an architecture asks for is made up in `dtype`, see `random.rs`, and
    /// quantised as `mix` says.
    pub fn random(seed: u64, made: Made, dtype: Dtype, mix: Option<Mix>, compute: Compute) -> Weights {
        let random = Some(random::Random { seed, dtype, made });
        Weights::new(Checkpoint { random, mix, ..Checkpoint::default() }, compute)
    }

    fn new(checkpoint: Checkpoint, compute: Compute) -> Weights {
        Weights { checkpoint: Arc::new(checkpoint), compute, path: String::new() }
    }

    /// The place `name` below this one.
    pub fn at(&self, name: &str) -> Weights {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Weights { path, ..self.clone() }
    }

    /// True where a tensor of exactly this path exists.
    pub fn exists(&self) -> bool {
        self.checkpoint.tensors.contains_key(&self.path)
    }

    /// The machine that the layers above will run on.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// The tensor at this place, with the shape that the architecture expects.
    pub fn stored(&self, shape: &[usize]) -> Result<Stored> {
        let stored = self.source(shape)?;
        if self.is_table_again() {
            return Ok(stored); // looked at to be compared, and not held
        }
        let stored = match self.checkpoint.dtype {
            Some(dtype) if self.has_sizes_only() => {
                random::zeros(&self.path, Kind::Dense(dtype), stored.slice().len())?
            }
            Some(dtype) => stored.converted(dtype, &self.compute.pool),
            None => stored,
        };
        let is_mapped = self.checkpoint.kind_of_file == FileKind::Gguf && self.checkpoint.dtype.is_none();
        if !(self.has_sizes_only() || is_mapped && shape.len() > 1) {
            self.check_finite(&stored)?;
        }
        self.note(shape, &stored);
        Ok(stored)
    }

    /// The matrix at this place, as a layer multiplies with it or a table is read, and which way round it is kept: as it
    /// is stored, or quantised, which turns it so that its rows are outputs.
    pub fn matrix(&self, layout: Layout, inputs: usize, outputs: usize) -> Result<(Stored, Layout)> {
        let layout = match self.checkpoint.kind_of_file {
            FileKind::Gguf => Layout::OutIn,
            FileKind::Safetensors => layout,
        };
        let shape = match layout {
            Layout::OutIn => [outputs, inputs],
            Layout::InOut => [inputs, outputs],
        };
        let format = self.checkpoint.mix.as_ref().and_then(|mix| mix.format(&self.path, inputs));
        let Some(format) = format else { return Ok((self.stored(&shape)?, layout)) };
        if self.has_sizes_only() {
            self.source(&shape)?;
            let stored = random::zeros(&self.path, Kind::Blocks(format), inputs * outputs)?;
            self.note(&shape, &stored);
            return Ok((stored, Layout::OutIn));
        }
        let source = self.source(&shape)?;
        let kernels = self.compute.kernels.unwrap_or_else(crate::kernels::best);
        let blocks = quantize::quantize(
            source.slice(),
            (layout, inputs, outputs),
            format,
            (kernels, &self.compute.pool),
            |numbers| self.release(numbers),
        );
        let blocks = blocks.map_err(|found| {
            let problem =
                format!("expected weights up to 65504 to quantise, found {} at element {}", found.value, found.index);
            self.wrong(problem, "the file is damaged or the training diverged; take another copy")
        })?;
        let stored = Stored::Blocks(format, Buffer::Heap(Arc::new(blocks)));
        self.note(&shape, &stored);
        Ok((stored, Layout::OutIn))
    }

    /// Whether quantised weights have one matrix for the embedding and the head.
    pub fn is_tied(&self) -> bool {
        self.checkpoint.mix.as_ref().is_some_and(Mix::is_tied)
    }

    /// Whether a layer holds a head that is not the embedding.
    pub fn holds_head(&self) -> bool {
        self.held().keys().any(|name| quant::is_head(name))
    }

    /// Whether this is a head that repeats the embedding, which is quantised.
    fn is_table_again(&self) -> bool {
        self.is_tied() && quant::is_head(&self.path) && self.held().keys().any(|name| quant::is_embedding(name))
    }

    /// Lets go of the memory under some numbers of the tensor at this place.
    fn release(&self, numbers: std::ops::Range<usize>) {
        let Some(entry) = self.checkpoint.tensors.get(&self.path) else { return };
        let bytes = entry.range.len() / entry.shape.iter().product::<usize>().max(1);
        let start = entry.range.start;
        entry.file.release(start + numbers.start * bytes..start + numbers.end * bytes);
    }

    /// Whether nobody will look at the numbers, so that nothing needs to be done to them.
    fn has_sizes_only(&self) -> bool {
        self.checkpoint.only_sizes || self.checkpoint.random.as_ref().is_some_and(|random| random.made == Made::Sizes)
    }

    /// The tensor at this place before anything is done to it.
    fn source(&self, shape: &[usize]) -> Result<Stored> {
        match &self.checkpoint.random {
            Some(random) => random.tensor(&self.path, shape, &self.compute.pool),
            None => self.of_file(shape),
        }
    }

    /// The tensor at this place as it lies in its file.
    fn of_file(&self, shape: &[usize]) -> Result<Stored> {
        let entry = self.checkpoint.tensors.get(&self.path).ok_or_else(|| self.missing())?;
        self.mark_used();
        // Some tools write GGUF files with ones in front of what is less than four dimensions.
        let is_padded = self.checkpoint.kind_of_file == FileKind::Gguf
            && entry.shape.strip_suffix(shape).is_some_and(|rest| rest.iter().all(|size| *size == 1));
        if entry.shape != shape && !is_padded {
            return Err(self.wrong(
                format!("expected shape {shape:?}, found {:?}", entry.shape),
                self.checkpoint.kind_of_file.not_together(),
            ));
        }
        let kind = entry.stored_as.as_ref().map_err(|found| {
            let (expected, hint) = match self.checkpoint.kind_of_file {
                FileKind::Safetensors => (
                    "F32, F16 or BF16".to_owned(),
                    "convert the weights with transformers' `save_pretrained`, or take another copy of the model",
                ),
                FileKind::Gguf => (gguf::names_of_read(), gguf::OTHER_TYPE),
            };
            self.wrong(format!("expected dtype {expected}, found {found}"), hint)
        })?;
        Ok(Stored::of_file(&entry.file, *kind, entry.range.clone()))
    }

    /// A small tensor (a norm's weight, a bias) widened to f32.
    pub fn vector(&self, length: usize) -> Result<Vec<f32>> {
        Ok(self.stored(&[length])?.to_f32())
    }

    /// Notes something that the user should know of this checkpoint.
    pub fn warn(&self, warning: &str) {
        let mut warnings = self.checkpoint.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        warnings.push(format!("{warning} ({})", quote(&self.path)));
    }

    /// What was noted.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.checkpoint.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        warnings.extend(self.unquantized());
        warnings
    }

    /// How much was to be quantised and could not be.
    fn unquantized(&self) -> Option<String> {
        let mix = self.checkpoint.mix.as_ref()?;
        let held = self.held();
        let numbers = |held: &Held| held.shape.iter().product::<usize>();
        let left = held.iter().filter(|(name, held)| {
            held.shape.len() == 2 && matches!(held.kind, Kind::Dense(_)) && !quant::is_kept(name)
        });
        let left: usize = left.map(|(_, held)| numbers(held)).sum();
        let all: usize = held.values().map(numbers).sum();
        (left > 0).then(|| {
            let percent = (100.0 * left as f64 / all as f64).max(0.1);
            format!(
                "`{}` leaves {percent:.1} % of the weights as stored: rows that are not whole blocks of 32",
                mix.quant()
            )
        })
    }

    /// Declares that a tensor, or all below this place, may be left unread, such as a mask that older checkpoints store.
    pub fn ignore(&self) {
        let mut ignored = self.checkpoint.ignored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ignored.insert(self.path.clone());
    }

    /// Names in the files that no layer asked for, sorted.
    pub fn unused(&self) -> Vec<String> {
        let used = self.checkpoint.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ignored = self.checkpoint.ignored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_ignored = |name: &str| {
            let places = name.match_indices('.').map(|(end, _)| &name[..end]);
            places.chain([name]).any(|place| ignored.contains(place))
        };
        let unknown = |name: &&String| !used.contains(*name) && !is_ignored(name);
        let mut names: Vec<String> = self.checkpoint.tensors.keys().filter(unknown).cloned().collect();
        names.sort();
        names
    }

    /// Numbers and bytes of what layers hold, by how it is kept, most bytes first.
    pub fn kept(&self) -> Vec<(Kind, usize, usize)> {
        let mut kept: Vec<(Kind, usize, usize)> = Vec::new();
        for held in self.held().values() {
            let numbers = held.shape.iter().product::<usize>();
            match kept.iter_mut().find(|(kind, ..)| *kind == held.kind) {
                Some((_, count, bytes)) => (*count, *bytes) = (*count + numbers, *bytes + held.bytes),
                None => kept.push((held.kind, numbers, held.bytes)),
            }
        }
        kept.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        kept
    }

    /// How most of what layers hold is kept.
    pub fn main_kind(&self) -> Kind {
        self.kept().first().map_or(Kind::Dense(Dtype::F32), |(kind, ..)| *kind)
    }

    /// What layers hold, by name.
    pub fn held(&self) -> BTreeMap<String, Held> {
        self.checkpoint.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn note(&self, shape: &[usize], stored: &Stored) {
        let kind = stored.kind();
        let held = Held {
            shape: shape.to_vec(),
            kind,
            bytes: kind.bytes(stored.slice().len()),
            is_mapped: stored.is_mapped(),
        };
        let mut all = self.checkpoint.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.insert(self.path.clone(), held);
    }

    /// A tensor that was looked at and is not held after all.
    pub fn let_go(&self) {
        let mut all = self.checkpoint.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.remove(&self.path);
    }

    fn mark_used(&self) {
        let mut used = self.checkpoint.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        used.insert(self.path.clone());
    }

    fn check_finite(&self, stored: &Stored) -> Result<()> {
        let kernels = self.compute.kernels.unwrap_or_else(crate::kernels::best);
        let all = stored.slice();
        let starts: Vec<usize> = (0..all.len()).step_by(CHECKED_AT_ONCE).collect();
        let found = self.compute.pool.map(&starts, |start| {
            let part = all.part(*start..(start + CHECKED_AT_ONCE).min(all.len()));
            kernels.first_non_finite(part).map(|index| start + index)
        });
        let Some(index) = found.into_iter().flatten().next() else { return Ok(()) };
        let value = match stored.slice() {
            Slice::F32(values) => values[index],
            Slice::F16(values) => values[index].to_f32(),
            Slice::Bf16(values) => values[index].to_f32(),
            Slice::Blocks(..) => f32::NAN,
        };
        let cause = match self.checkpoint.dtype {
            Some(Dtype::F16) => "the value may be too large for f16; try `--dtype f32`",
            _ => "the file is damaged or the training diverged; take another copy",
        };
        Err(self.wrong(format!("expected finite weights, found {value} at element {index}"), cause))
    }

    fn missing(&self) -> Error {
        let count = self.checkpoint.tensors.len();
        Error::file(
            &self.checkpoint.file,
            format!("tensor {} is missing among the {count} in the file", quote(&self.path)),
            self.checkpoint.kind_of_file.not_together(),
        )
    }

    fn wrong(&self, problem: String, hint: &str) -> Error {
        Error::file(&self.checkpoint.file, format!("tensor {}: {problem}", quote(&self.path)), hint)
    }
}

/// The formats of a model's tensors. A head that is stored and has the embedding's very numbers is one with it.
fn mix_of(quant: Quant, tensors: &HashMap<String, Entry>) -> Mix {
    let find = |is: fn(&str) -> bool| tensors.iter().find(|(name, _)| is(name)).map(|(_, entry)| entry);
    let tied = find(quant::is_embedding).zip(find(quant::is_head)).is_some_and(|(table, head)| table.is_same(head));
    Mix::of(quant, tensors.iter().map(|(name, entry)| (name.as_str(), &entry.shape[..])), tied)
}

impl Entry {
    /// Whether another tensor has the same numbers.
    fn is_same(&self, other: &Entry) -> bool {
        let alike = self.stored_as == other.stored_as && self.shape == other.shape;
        let same = alike && self.file.all()[self.range.clone()] == other.file.all()[other.range.clone()];
        if alike {
            self.file.release(self.range.clone());
            other.file.release(other.range.clone());
        }
        same
    }
}
