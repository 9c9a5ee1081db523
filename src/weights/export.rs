//! Tensors as a file of its own keeps them: rows of outputs, cast as asked.

use std::str::FromStr;

use super::{Dtype, FileKind, Keep, Kind, Quant, Stored, Weights, quant};
use crate::error::Result;
use crate::kernels::Layout;

/// What the matrices of a file are cast to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// One dtype.
    Dense(Dtype),
    /// A mixture of block formats.
    Mix(Quant),
}

impl Cast {
    /// The same while a model is loaded.
    pub(crate) fn keep(self) -> Keep {
        match self {
            Cast::Dense(dtype) => Keep::As(dtype),
            Cast::Mix(quant) => Keep::Quantized(quant),
        }
    }

    /// The number by which GGUF files say it, for people; nothing depends on it.
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Cast::Dense(Dtype::F32) => 0,
            Cast::Dense(Dtype::F16) => 1,
            Cast::Dense(Dtype::Bf16) => 32,
            Cast::Mix(quant) => match quant {
                Quant::Q4_0 => 2,
                Quant::Q4_1 => 3,
                Quant::Q8_0 => 7,
                Quant::Q5_0 => 8,
                Quant::Q5_1 => 9,
                Quant::Q2K => 10,
                Quant::Q3KM => 12,
                Quant::Q4KS => 14,
                Quant::Q4KM => 15,
                Quant::Q5KS => 16,
                Quant::Q5KM => 17,
                Quant::Q6K => 18,
                Quant::Iq4Nl => 25,
                Quant::Mxfp4 => 38,
            },
        }
    }
}

impl FromStr for Cast {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        lower.parse().map(Cast::Dense).or_else(|_| {
            lower.parse().map(Cast::Mix).map_err(|quants: String| format!("{quants}, or `f32`, `f16`, `bf16`"))
        })
    }
}

impl Weights {
    /// How the tensor at this place is kept in a file, and its shape there. Vectors, learnt positions and what chooses experts
    /// are in f32 in all files, as llama.cpp's converter has them.
    pub(crate) fn in_file(&self, shape: &[usize]) -> (Vec<usize>, Kind) {
        let &[first, second] = shape else { return (shape.to_vec(), Kind::Dense(Dtype::F32)) };
        if quant::is_kept(&self.path) {
            return (shape.to_vec(), Kind::Dense(Dtype::F32));
        }
        let turned = self.is_turned();
        let shape = if turned { vec![second, first] } else { vec![first, second] };
        let kind = match (&self.checkpoint.mix, self.checkpoint.dtype) {
            (Some(mix), _) => mix.format(&self.path, shape[1]).map(Kind::Blocks),
            (None, dtype) => dtype.map(Kind::Dense),
        };
        (shape, kind.unwrap_or_else(|| self.as_stored()))
    }

    /// Hands on the tensor at this place as [`Weights::in_file`] has it, from its `shape` among the weights: rows in the
    /// given order, where it is another one, and every number `more_by` more, which only vectors may be.
    pub(crate) fn for_file(
        &self,
        shape: &[usize],
        order: Option<&[usize]>,
        more_by: f32,
        put: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let &[first, second] = shape else {
            let stored = self.source(shape)?;
            self.check_finite(&stored)?;
            let mut numbers = stored.to_f32();
            numbers.iter_mut().for_each(|number| *number += more_by);
            return in_order(bytemuck::cast_slice(&numbers), order, put);
        };
        let (layout, inputs, outputs) =
            if self.is_turned() { (Layout::InOut, first, second) } else { (Layout::OutIn, second, first) };
        let (stored, layout) = match quant::is_kept(&self.path) {
            true => {
                let stored = self.source(shape)?;
                self.check_finite(&stored)?;
                (stored.converted(Dtype::F32, &self.compute.pool), Layout::OutIn)
            }
            false => self.matrix(layout, inputs, outputs)?,
        };
        let done = match (&stored, layout) {
            (Stored::F32(numbers), Layout::InOut) => turned(numbers, inputs, outputs, put),
            (Stored::F16(numbers), Layout::InOut) => turned(numbers, inputs, outputs, put),
            (Stored::Bf16(numbers), Layout::InOut) => turned(numbers, inputs, outputs, put),
            (Stored::F32(numbers), Layout::OutIn) => in_order(bytemuck::cast_slice(numbers), order, put),
            (Stored::F16(numbers), Layout::OutIn) => in_order(bytemuck::cast_slice(numbers), order, put),
            (Stored::Bf16(numbers), Layout::OutIn) => in_order(bytemuck::cast_slice(numbers), order, put),
            (Stored::Blocks(_, bytes), _) => in_order(bytes, order, put),
        };
        self.release(0..first * second); // nobody will read it again
        done
    }

    /// Whether this is a head that has the embedding's very numbers.
    pub(crate) fn repeats_embedding(&self) -> bool {
        let tensors = &self.checkpoint.tensors;
        let Some(head) = tensors.get(&self.path).filter(|_| quant::is_head(&self.path)) else { return false };
        tensors.iter().any(|(name, entry)| quant::is_embedding(name) && entry.is_same(head))
    }

    /// Whether the file has the rows of this matrix as inputs.
    fn is_turned(&self) -> bool {
        self.checkpoint.kind_of_file == FileKind::Safetensors
            && quant::is_turned(&self.path)
            && self.checkpoint.tensors.keys().any(|name| name.ends_with("attn.c_attn.weight"))
    }

    fn as_stored(&self) -> Kind {
        match self.checkpoint.tensors.get(&self.path).map(|entry| &entry.stored_as) {
            Some(Ok(kind)) => *kind,
            _ => Kind::Dense(Dtype::F32), // asking for it says what is wrong with it
        }
    }
}

/// Rows of bytes, in another order where one is given.
fn in_order(bytes: &[u8], order: Option<&[usize]>, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let Some(order) = order else { return put(bytes) };
    let width = bytes.len() / order.len();
    order.iter().try_for_each(|row| put(&bytes[row * width..(row + 1) * width]))
}

/// The rows of a matrix of (inputs, outputs) as rows of outputs.
fn turned<T: bytemuck::Pod>(
    numbers: &[T],
    inputs: usize,
    outputs: usize,
    put: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    // As many columns at a time as lie in a cache line, which is then used whole.
    let columns = 64 / size_of::<T>();
    let mut rows = vec![T::zeroed(); columns * inputs];
    for start in (0..outputs).step_by(columns) {
        let columns = columns.min(outputs - start);
        for (input, row) in numbers.chunks_exact(outputs).enumerate() {
            for (column, number) in row[start..start + columns].iter().enumerate() {
                rows[column * inputs + input] = *number;
            }
        }
        put(bytemuck::cast_slice(&rows[..columns * inputs]))?;
    }
    Ok(())
}
