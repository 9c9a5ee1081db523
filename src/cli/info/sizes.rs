//! How large a model's weights are, by the headers of their files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};
use serde_json::Value;

use crate::Dtype;
use crate::cli::model::count;
use crate::gguf::{Gguf, Tensor};
use crate::kernels::Format;
use crate::source::{Location, Source, WeightFiles};
use crate::weights::{Keep, Kind, Mix, gathered, kind_of};

/// What headers say of weights, each tensor counted once.
pub(super) struct Sizes {
    pub(super) parameters: u64,
    /// Numbers that are stored beside the parameters and no architecture learns or reads: masks, tables of angles.
    pub(super) buffers: u64,
    /// Format, numbers and bytes as they would be kept, most bytes first.
    pub(super) dtypes: Vec<(String, u64, u64)>,
    pub(super) bytes: u64,
    /// What of `bytes` a token reads.
    pub(super) per_token: u64,
}

/// A tensor as a header has it.
pub(super) struct Listed {
    shape: Vec<usize>,
    /// Or the name of a dtype that is not read.
    stored_as: Result<Kind, String>,
    bytes: u64,
    /// Whether it is listed as outputs of inputs, whatever the architecture's own checkpoints have.
    is_turned: bool,
}

/// Tensors by their names.
pub(super) type Tensors = BTreeMap<String, Listed>;

/// What the headers of safetensors files list.
pub(super) fn in_headers<'a>(headers: impl Iterator<Item = &'a Metadata>) -> Tensors {
    let listed = |info: &TensorInfo| Listed {
        shape: info.shape.clone(),
        stored_as: read_as(info.dtype).map(Kind::Dense).ok_or_else(|| format!("{:?}", info.dtype).to_lowercase()),
        bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        is_turned: false,
    };
    headers.flat_map(Metadata::tensors).map(|(name, info)| (name, listed(info))).collect()
}

/// What the head of a GGUF file lists.
pub(super) fn in_gguf(gguf: &Gguf) -> crate::Result<Tensors> {
    let listed = |tensor: Tensor| {
        let stored_as = tensor.read_as.map(kind_of).map_err(str::to_lowercase);
        let bytes = tensor.range.len() as u64;
        (tensor.name, Listed { shape: tensor.shape, stored_as, bytes, is_turned: true })
    };
    Ok(gguf.tensors()?.into_iter().map(listed).collect())
}

impl Sizes {
    /// Adds up a model's tensors, for weights that are kept so.
    pub(super) fn of(tensors: &Tensors, keep: Keep) -> Self {
        let rows = gathered(tensors.keys().map(String::as_str));
        let shapes = tensors.iter().map(|(name, info)| (name.as_str(), &info.shape[..]));
        let mix = if let Keep::Quantized(quant) = keep { Some(Mix::of(quant, shapes, false)) } else { None };
        let mut sizes = Sizes { parameters: 0, buffers: 0, dtypes: Vec::new(), bytes: 0, per_token: 0 };
        for (name, info) in tensors {
            let numbers = info.shape.iter().fold(1u64, |product, n| product.saturating_mul(*n as u64));
            if is_buffer(name, &info.shape) {
                sizes.buffers = sizes.buffers.saturating_add(numbers);
                continue;
            }
            let kind = info.stored_as.as_ref().map(|own| match (keep, &mix, &info.shape[..]) {
                (Keep::As(dtype), ..) => Kind::Dense(dtype),
                (_, Some(mix), [_, inputs]) if info.is_turned => mix.format(name, *inputs).map_or(*own, Kind::Blocks),
                (_, Some(mix), shape) => mix.of_tensor(name, shape).map_or(*own, Kind::Blocks),
                _ => *own,
            });
            let (dtype, bytes) = match kind {
                Ok(kind) => (kind.to_string(), bytes_of(kind, numbers)),
                Err(name) => (name.clone(), info.bytes),
            };
            sizes.parameters = sizes.parameters.saturating_add(numbers);
            sizes.bytes = sizes.bytes.saturating_add(bytes);
            if !rows.contains(&name.as_str()) {
                sizes.per_token = sizes.per_token.saturating_add(bytes);
            }
            match sizes.dtypes.iter_mut().find(|(known, ..)| *known == dtype) {
                Some((_, count, sum)) => (*count, *sum) = (count.saturating_add(numbers), sum.saturating_add(bytes)),
                None => sizes.dtypes.push((dtype, numbers, bytes)),
            }
        }
        sizes.dtypes.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        sizes
    }

    /// The format of most weights; f32 where it is none that kernels read.
    pub(super) fn main_kind(&self) -> Kind {
        let name = self.dtypes.first().map_or("", |(name, ..)| name);
        let format = Format::ALL.into_iter().find(|format| format.name() == name);
        format.map_or(Kind::Dense(name.parse().unwrap_or(Dtype::F32)), Kind::Blocks)
    }

    /// `124.4M (f32)`
    pub(super) fn describe(&self) -> String {
        let numbers = |n: u64| count(usize::try_from(n).unwrap_or(usize::MAX));
        let dtypes: Vec<String> = match &self.dtypes[..] {
            [(dtype, ..)] => vec![dtype.clone()],
            several => several.iter().map(|(dtype, n, _)| format!("{} {dtype}", numbers(*n))).collect(),
        };
        let buffers = match self.buffers {
            0 => String::new(),
            n => format!("; {} more in buffers are not counted", numbers(n)),
        };
        format!("{} ({}){buffers}", numbers(self.parameters), dtypes.join(" + "))
    }
}

/// Bytes of so many numbers, of which a header may claim any count.
fn bytes_of(kind: Kind, numbers: u64) -> u64 {
    match kind {
        Kind::Dense(dtype) => numbers.saturating_mul(dtype.bytes() as u64),
        Kind::Blocks(format) => (numbers / format.block_len() as u64).saturating_mul(format.block_bytes() as u64),
    }
}

/// Masks of attention (`attn.bias` with more than one dimension, `masked_bias`) and tables of rotary angles.
fn is_buffer(name: &str, shape: &[usize]) -> bool {
    match name.rsplit('.').next().unwrap_or(name) {
        "masked_bias" | "inv_freq" => true,
        "bias" => shape.len() != 1,
        _ => false,
    }
}

fn read_as(dtype: FileDtype) -> Option<Dtype> {
    match dtype {
        FileDtype::F32 => Some(Dtype::F32),
        FileDtype::F16 => Some(Dtype::F16),
        FileDtype::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

/// The tensors of a model that was loaded, so that its headers are known to be sound; `None` if its files changed since.
pub(super) fn tensors_of(source: &Source) -> Option<Tensors> {
    match &source.weights {
        WeightFiles::Single(location) => Some(in_headers([header(location)?].iter())),
        WeightFiles::Sharded(index) => {
            let json: Value = serde_json::from_str(&index.read_text().ok()?).ok()?;
            let shards: BTreeSet<&str> = json["weight_map"].as_object()?.values().filter_map(Value::as_str).collect();
            let header = |shard: &&str| header(&Location::Disk(index.path().with_file_name(shard)));
            Some(in_headers(shards.iter().map(header).collect::<Option<Vec<_>>>()?.iter()))
        }
        WeightFiles::Gguf(file) => in_gguf(&Gguf::open(file).ok()?).ok(),
    }
}

fn header(location: &Location) -> Option<Metadata> {
    let mut file: Box<dyn Read> = match location {
        Location::Disk(path) => Box::new(std::fs::File::open(path).ok()?),
        Location::Embedded(_, bytes) => Box::new(*bytes),
    };
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header).ok()?;
    serde_json::from_slice(&header).ok()
}
