//! Layer normalisation: y = (x − mean) / √(variance + eps) · weight + bias, over each row.

use candle_core::Tensor;

use super::on_host;
use crate::device::Compute;
use crate::error::Result;
use crate::weights::Weights;

/// A layer norm with weight and bias.
pub struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
    compute: Compute,
}

impl LayerNorm {
    /// `name.weight` and `name.bias`, both (dim).
    pub fn load(weights: &Weights, dim: usize, eps: f32) -> Result<LayerNorm> {
        let (weight, bias) = (weights.at("weight").vector(dim)?, weights.at("bias").vector(dim)?);
        Ok(LayerNorm { weight, bias, eps, compute: weights.compute().clone() })
    }

    /// (rows, dim) → (rows, dim)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dim = self.weight.len();
        match self.compute.kernels {
            Some(kernels) => on_host("layer_norm", x, dim, |x, y| {
                kernels.layer_norm(&self.compute.pool, &self.weight, &self.bias, self.eps, x, y)
            }),
            None => {
                let weight = Tensor::new(self.weight.as_slice(), x.device())?;
                let bias = Tensor::new(self.bias.as_slice(), x.device())?;
                Ok(candle_nn::ops::layer_norm_slow(x, &weight, &bias, self.eps)?)
            }
        }
    }
}
