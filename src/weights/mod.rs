//! Names → tensors, from files, without copying what can stay mapped.
//!
//! A [`Weights`] is a place in a checkpoint: `weights.at("h.0").at("attn.c_attn.weight").stored(&[768, 2304])`. It checks
//! name, shape, dtype and that every value is finite, and every error names the full tensor path. It knows no layer and
//! no architecture.

mod random;
mod safetensors;
mod stored;
mod tables;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

pub use safetensors::check_header;
pub use stored::{Buffer, Dtype, Stored};
pub use tables::gathered;

use crate::device::Compute;
use crate::error::{Error, Result, quote};
use crate::kernels::Slice;
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
}

/// A tensor as a layer holds it.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its shape in the file.
    pub shape: Vec<usize>,
    /// The format that it is kept in.
    pub dtype: Dtype,
    /// Its bytes in that format.
    pub bytes: usize,
}

/// A tensor that was found in a header but not yet looked at.
struct Entry {
    file: Arc<safetensors::File>,
    dtype: ::safetensors::Dtype,
    shape: Vec<usize>,
    range: std::ops::Range<usize>,
}

/// Numbers that one thread checks in one go: a few megabytes, so that large tensors are read by all threads at once.
const CHECKED_AT_ONCE: usize = 1 << 20;

impl Weights {
    /// Opens the weight files of a model. Only headers are read; tensors are touched when a layer asks for them.
    pub fn open(files: &WeightFiles, dtype: Option<Dtype>, compute: Compute) -> Result<Weights> {
        let (file, tensors) = match files {
            WeightFiles::Single(location) => (location.path().to_owned(), safetensors::open(location)?),
            WeightFiles::Sharded(index) => (index.path().to_owned(), safetensors::open_shards(index, &compute.pool)?),
        };
        Ok(Weights::new(Checkpoint { file, tensors, random: None, dtype, ..Checkpoint::default() }, compute))
    }

    /// Weights without files: every tensor that an architecture asks for is made up, see `random.rs`.
    pub fn random(seed: u64, dtype: Dtype, compute: Compute) -> Weights {
        let random = Some(random::Random { seed, dtype });
        Weights::new(Checkpoint { random, ..Checkpoint::default() }, compute)
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
        let stored = match &self.checkpoint.random {
            Some(random) => random.tensor(&self.path, shape, &self.compute.pool)?,
            None => self.of_file(shape)?,
        };
        let stored = match self.checkpoint.dtype {
            Some(dtype) => stored.converted(dtype, &self.compute.pool),
            None => stored,
        };
        self.check_finite(&stored)?;
        self.note(shape, &stored);
        Ok(stored)
    }

    /// The tensor at this place as it lies in its file.
    fn of_file(&self, shape: &[usize]) -> Result<Stored> {
        let entry = self.checkpoint.tensors.get(&self.path).ok_or_else(|| self.missing())?;
        self.mark_used();
        if entry.shape != shape {
            return Err(self.wrong(
                format!("expected shape {shape:?}, found {:?}", entry.shape),
                "config.json and the weights do not belong together; fetch both from the same place",
            ));
        }
        entry.file.tensor(entry.dtype, entry.range.clone()).ok_or_else(|| {
            self.wrong(
                format!("expected dtype F32, F16 or BF16, found {:?}", entry.dtype),
                "convert the weights with transformers' `save_pretrained`, or take another copy of the model",
            )
        })
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
        self.checkpoint.warnings.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Declares that a tensor may be left unread, such as a mask that older checkpoints store.
    pub fn ignore(&self) {
        let mut ignored = self.checkpoint.ignored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ignored.insert(self.path.clone());
    }

    /// Names in the files that no layer asked for, sorted.
    pub fn unused(&self) -> Vec<String> {
        let used = self.checkpoint.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let ignored = self.checkpoint.ignored.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let unknown = |name: &&String| !used.contains(*name) && !ignored.contains(*name);
        let mut names: Vec<String> = self.checkpoint.tensors.keys().filter(unknown).cloned().collect();
        names.sort();
        names
    }

    /// Numbers and bytes of what layers asked for, by the format that it is kept in, most bytes first.
    pub fn kept(&self) -> Vec<(Dtype, usize, usize)> {
        let used = self.checkpoint.used.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut kept: Vec<(Dtype, usize, usize)> = Vec::new();
        for (_, entry) in self.checkpoint.tensors.iter().filter(|(name, _)| used.contains(*name)) {
            let Some(dtype) = self.checkpoint.dtype.or_else(|| Dtype::of_file(entry.dtype)) else { continue };
            let numbers = entry.shape.iter().product::<usize>();
            if !kept.iter().any(|(known, ..)| *known == dtype) {
                kept.push((dtype, 0, 0));
            }
            for (_, count, bytes) in kept.iter_mut().filter(|(known, ..)| *known == dtype) {
                (*count, *bytes) = (*count + numbers, *bytes + numbers * dtype.bytes());
            }
        }
        kept.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        kept
    }

    /// What layers hold, by name.
    pub fn held(&self) -> BTreeMap<String, Held> {
        self.checkpoint.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn note(&self, shape: &[usize], stored: &Stored) {
        let dtype = stored.dtype();
        let held = Held { shape: shape.to_vec(), dtype, bytes: stored.slice().len() * dtype.bytes() };
        let mut all = self.checkpoint.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.insert(self.path.clone(), held);
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
            "config.json and the weights do not belong together, or a shard is missing; fetch both from the same place",
        )
    }

    fn wrong(&self, problem: String, hint: &str) -> Error {
        Error::file(&self.checkpoint.file, format!("tensor {}: {problem}", quote(&self.path)), hint)
    }
}
