//! How large weights are as they would be kept, by what headers say of them: nothing is read but names, shapes and formats.

use std::collections::BTreeMap;

use super::{FileKind, Keep, Kind, Mix, Weights, gathered};

/// What headers say of weights, each tensor counted once.
#[cfg_attr(not(feature = "cli"), allow(dead_code))] // only `info` asks for more than `bytes`
pub struct Sizes {
    pub parameters: u64,
    /// Numbers that are stored beside the parameters and no architecture learns or reads: masks, tables of angles.
    pub buffers: u64,
    /// Format, numbers and bytes as they would be kept, most bytes first.
    pub dtypes: Vec<(String, u64, u64)>,
    pub bytes: u64,
    /// What of `bytes` a token reads.
    pub per_token: u64,
}

/// A tensor as a header has it.
pub struct Listed {
    pub shape: Vec<usize>,
    /// Or the name of a dtype that is not read.
    pub stored_as: Result<Kind, String>,
    pub bytes: u64,
    /// Whether it is listed as outputs of inputs, whatever the architecture's own checkpoints have.
    pub is_turned: bool,
}

/// Tensors by their names.
pub type Tensors = BTreeMap<String, Listed>;

impl Weights {
    /// What is in the files, whether an architecture asks for it or not.
    pub fn listed(&self) -> Tensors {
        let is_turned = self.checkpoint.kind_of_file == FileKind::Gguf;
        let tensors = self.checkpoint.tensors.iter();
        let listed = tensors.map(|(name, entry)| {
            let (shape, stored_as) = (entry.shape.clone(), entry.stored_as.clone());
            (name.clone(), Listed { shape, stored_as, bytes: entry.range.len() as u64, is_turned })
        });
        listed.collect()
    }
}

impl Sizes {
    /// Adds up a model's tensors, for weights that are kept so.
    pub fn of(tensors: &Tensors, keep: Keep) -> Self {
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
    #[cfg(feature = "cli")]
    pub fn main_kind(&self) -> Kind {
        let name = self.dtypes.first().map_or("", |(name, ..)| name);
        let format = crate::kernels::Format::ALL.into_iter().find(|format| format.name() == name);
        format.map_or(Kind::Dense(name.parse().unwrap_or(super::Dtype::F32)), Kind::Blocks)
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
