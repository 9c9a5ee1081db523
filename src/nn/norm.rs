//! Norms over each row. They have no op of their own: a product applies them on the way in ([`super::Before::Norm`]).
//!
//! * layer norm: y = (x − mean) / √(variance + eps) · weight + bias
//! * root mean square (Zhang and Sennrich 2019): y = x / √(mean of x² + eps) · weight

use candle_core::{D, Tensor};

use crate::error::Result;
use crate::kernels::Before;
use crate::weights::Weights;

/// A norm with its weights.
pub struct Norm {
    weight: Vec<f32>,
    /// Of a layer norm; the other has none.
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl Norm {
    /// A layer norm: `name.weight` and `name.bias`, both (dim).
    pub fn layer(weights: &Weights, dim: usize, eps: f32) -> Result<Norm> {
        let (weight, bias) = (weights.at("weight").vector(dim)?, weights.at("bias").vector(dim)?);
        Ok(Norm { weight, bias: Some(bias), eps })
    }

    /// A root-mean-square norm: `name.weight`, (dim).
    pub fn rms(weights: &Weights, dim: usize, eps: f32) -> Result<Norm> {
        Ok(Norm { weight: weights.at("weight").vector(dim)?, bias: None, eps })
    }

    /// As the kernels take it.
    pub(super) fn view(&self) -> Before<'_> {
        let (weight, eps) = (self.weight.as_slice(), self.eps);
        match &self.bias {
            Some(bias) => Before::LayerNorm { weight, bias, eps },
            None => Before::RmsNorm { weight, eps },
        }
    }

    /// (rows, dim) → (rows, dim), in candle's operations.
    pub(super) fn spelled_out(&self, x: &Tensor) -> Result<Tensor> {
        let weight = Tensor::new(self.weight.as_slice(), x.device())?;
        Ok(match &self.bias {
            Some(bias) => {
                let bias = Tensor::new(bias.as_slice(), x.device())?;
                candle_nn::ops::layer_norm_slow(x, &weight, &bias, self.eps)?
            }
            None => {
                let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
                x.broadcast_div(&(mean + f64::from(self.eps))?.sqrt()?)?.broadcast_mul(&weight)?
            }
        })
    }
}
