//! How large a model's weights are, by the headers of their files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};
use serde_json::Value;

use crate::Dtype;
use crate::cli::model::count;
use crate::kernels::Format;
use crate::source::{Location, Source, WeightFiles};
use crate::weights::{Keep, Kind, Mix, gathered};

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

impl Sizes {
    /// Adds up the headers of a model's files, for weights that are kept so.
    pub(super) fn of<'a>(headers: impl Iterator<Item = &'a Metadata>, keep: Keep) -> Self {
        let tensors: BTreeMap<String, &TensorInfo> = headers.flat_map(Metadata::tensors).collect();
        let rows = gathered(tensors.keys().map(String::as_str));
        let shapes = tensors.iter().map(|(name, info)| (name.as_str(), &info.shape[..]));
        let mix = if let Keep::Quantized(quant) = keep { Some(Mix::of(quant, shapes, false)) } else { None };
        let mut sizes = Sizes { parameters: 0, buffers: 0, dtypes: Vec::new(), bytes: 0, per_token: 0 };
        for (name, info) in &tensors {
            let numbers = info.shape.iter().fold(1u64, |product, n| product.saturating_mul(*n as u64));
            if is_buffer(name, info) {
                sizes.buffers = sizes.buffers.saturating_add(numbers);
                continue;
            }
            let kind = read_as(info.dtype).map(|own| match (keep, &mix) {
                (Keep::As(dtype), _) => Kind::Dense(dtype),
                (_, Some(mix)) => mix.of_tensor(name, &info.shape).map_or(Kind::Dense(own), Kind::Blocks),
                _ => Kind::Dense(own),
            });
            let (dtype, bytes) = match kind {
                Some(kind) => (kind.to_string(), bytes_of(kind, numbers)),
                None => {
                    let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
                    (format!("{:?}", info.dtype).to_lowercase(), bytes)
                }
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
fn is_buffer(name: &str, info: &TensorInfo) -> bool {
    match name.rsplit('.').next().unwrap_or(name) {
        "masked_bias" | "inv_freq" => true,
        "bias" => info.shape.len() != 1,
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

/// The headers of a model that was loaded, so that they are known to be sound; `None` if its files changed since.
pub(super) fn headers(source: &Source) -> Option<Vec<Metadata>> {
    match &source.weights {
        WeightFiles::Single(location) => Some(vec![header(location)?]),
        WeightFiles::Sharded(index) => {
            let json: Value = serde_json::from_str(&index.read_text().ok()?).ok()?;
            let shards: BTreeSet<&str> = json["weight_map"].as_object()?.values().filter_map(Value::as_str).collect();
            shards.iter().map(|shard| header(&Location::Disk(index.path().with_file_name(shard)))).collect()
        }
        WeightFiles::Gguf(_) => None,
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
