//! Rows of a table by index.

use candle_core::Tensor;

use crate::device::Compute;
use crate::error::Result;
use crate::kernels::Layout;
use crate::weights::{Stored, Weights};

/// A table of (rows, dim); kept as stored or quantised, widened row by row.
pub struct Embedding {
    stored: Stored,
    /// Whether the head has these numbers, where they are quantised and cannot be compared.
    is_head: bool,
    rows: usize,
    dim: usize,
    compute: Compute,
}

impl Embedding {
    /// `name.weight` as (rows, dim).
    pub fn load(weights: &Weights, rows: usize, dim: usize) -> Result<Embedding> {
        let (stored, _) = weights.at("weight").matrix(Layout::OutIn, dim, rows)?;
        Ok(Embedding { stored, is_head: weights.is_tied(), rows, dim, compute: weights.compute().clone() })
    }

    /// (tokens) → (tokens, dim). Indices are below `rows`: tokens and positions are checked where they enter.
    pub fn forward(&self, indices: &[u32]) -> Result<Tensor> {
        let mut out = vec![0.0; indices.len() * self.dim];
        let kernels = self.compute.kernels.unwrap_or_else(crate::kernels::best);
        for (index, out) in indices.iter().zip(out.chunks_exact_mut(self.dim)) {
            let row = *index as usize * self.dim..(*index as usize + 1) * self.dim;
            kernels.widen(self.stored.slice().part(row), out);
        }
        Ok(Tensor::from_vec(out, (indices.len(), self.dim), &self.compute.device)?)
    }

    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// True where another tensor holds the same bits, or held them before the table was quantised.
    pub fn is_same(&self, other: &Stored) -> bool {
        match (&self.stored, other) {
            (Stored::F32(a), Stored::F32(b)) => {
                bytemuck::cast_slice::<f32, u32>(a) == bytemuck::cast_slice::<f32, u32>(b)
            }
            (Stored::F16(a), Stored::F16(b)) => bytemuck::cast_slice::<_, u16>(a) == bytemuck::cast_slice::<_, u16>(b),
            (Stored::Bf16(a), Stored::Bf16(b)) => {
                bytemuck::cast_slice::<_, u16>(a) == bytemuck::cast_slice::<_, u16>(b)
            }
            (Stored::Blocks(..), _) => self.is_head,
            _ => false,
        }
    }

    /// Entries of the table.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Width of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }
}
