//! y = x · W + b, whatever the weight's format, orientation and place.

use candle_core::Tensor;

use super::{Embedding, on_host};
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{Kernels, Layout, Matrix};
use crate::weights::{Stored, Weights};

/// A linear layer. A model cannot tell how its weight is stored.
pub struct Linear {
    weight: Weight,
    inputs: usize,
    outputs: usize,
    compute: Compute,
}

enum Weight {
    /// For our kernels: the numbers as they lie in the file.
    Host { kernels: &'static Kernels, stored: Stored, layout: Layout, bias: Option<Vec<f32>> },
    /// For candle's operations: (inputs, outputs), f32.
    Candle { matrix: Tensor, bias: Option<Tensor> },
}

impl Linear {
    /// `name.weight` as (inputs, outputs) and `name.bias`: GPT-2's `Conv1D`.
    pub fn conv1d(weights: &Weights, inputs: usize, outputs: usize) -> Result<Linear> {
        let stored = weights.at("weight").stored(&[inputs, outputs])?;
        let bias = weights.at("bias").vector(outputs)?;
        Linear::new(stored, Layout::InOut, Some(bias), inputs, outputs, weights.compute())
    }

    /// `name.weight` as (outputs, inputs), without a bias.
    pub fn plain(weights: &Weights, inputs: usize, outputs: usize) -> Result<Linear> {
        let stored = weights.at("weight").stored(&[outputs, inputs])?;
        Linear::new(stored, Layout::OutIn, None, inputs, outputs, weights.compute())
    }

    /// The head that shares its weight with the embedding.
    pub fn tied(embedding: &Embedding, compute: &Compute) -> Result<Linear> {
        Linear::new(embedding.stored().clone(), Layout::OutIn, None, embedding.dim(), embedding.rows(), compute)
    }

    fn new(
        stored: Stored,
        layout: Layout,
        bias: Option<Vec<f32>>,
        inputs: usize,
        outputs: usize,
        compute: &Compute,
    ) -> Result<Linear> {
        let weight = if let Some(kernels) = compute.kernels {
            Weight::Host { kernels, stored, layout, bias }
        } else {
            let shape = if layout == Layout::InOut { (inputs, outputs) } else { (outputs, inputs) };
            let matrix = Tensor::from_vec(stored.to_f32(), shape, &compute.device)?;
            let matrix = if layout == Layout::InOut { matrix } else { matrix.t()?.contiguous()? };
            let bias = bias.map(|bias| Tensor::from_vec(bias, outputs, &compute.device)).transpose()?;
            Weight::Candle { matrix, bias }
        };
        Ok(Linear { weight, inputs, outputs, compute: compute.clone() })
    }

    /// (rows, inputs) → (rows, outputs)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Host { kernels, stored, layout, bias } => {
                let matrix =
                    Matrix { data: stored.slice(), layout: *layout, inputs: self.inputs, outputs: self.outputs };
                on_host("linear", x, self.outputs, |x, y| {
                    kernels.matmul(&self.compute.pool, &matrix, bias.as_deref(), x, y)
                })
            }
            Weight::Candle { matrix, bias } => {
                let y = x.matmul(matrix)?;
                Ok(match bias {
                    Some(bias) => y.broadcast_add(bias)?,
                    None => y,
                })
            }
        }
    }
}
