//! Norms over each row. A product applies them on the way in ([`super::Before::Norm`]); those that stand elsewhere are an op
//! of their own.
//!
//! * layer norm: y = (x − mean) / √(variance + eps) · weight + bias
//! * root mean square (Zhang and Sennrich 2019): y = x / √(mean of x² + eps) · weight

use candle_core::{CpuStorage, CustomOp1, D, Layout, Shape, Tensor};

use super::numbers;
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{Before, Kernels};
use crate::weights::Weights;

/// A norm with its weights.
pub struct Norm {
    weight: Vec<f32>,
    /// Of a layer norm; the other has none.
    bias: Option<Vec<f32>>,
    eps: f32,
    compute: Compute,
}

impl Norm {
    /// A layer norm: `name.weight` and `name.bias`, both (dim).
    pub fn layer(weights: &Weights, dim: usize, eps: f32) -> Result<Norm> {
        let (weight, bias) = (weights.at("weight").vector(dim)?, weights.at("bias").vector(dim)?);
        Ok(Norm { weight, bias: Some(bias), eps, compute: weights.compute().clone() })
    }

    /// A layer norm without weights.
    pub fn layer_alone(dim: usize, eps: f32, compute: &Compute) -> Norm {
        Norm { weight: vec![1.0; dim], bias: Some(vec![0.0; dim]), eps, compute: compute.clone() }
    }

    /// A root-mean-square norm: `name.weight`, (dim). What the file has are weights less `centre`, which is 0, or 1 for Gemma.
    pub fn rms(weights: &Weights, dim: usize, eps: f32, centre: f32) -> Result<Norm> {
        let mut weight = weights.at("weight").vector(dim)?;
        weight.iter_mut().for_each(|weight| *weight += centre);
        Ok(Norm { weight, bias: None, eps, compute: weights.compute().clone() })
    }

    /// Numbers of a row.
    pub fn dim(&self) -> usize {
        self.weight.len()
    }

    /// (rows, dim) → (rows, dim)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_columns(x, 0)
    }

    /// Rows of which the numbers from `first` on, as many as the norm has weights, are normalised and the others stay.
    pub fn forward_columns(&self, x: &Tensor, first: usize) -> Result<Tensor> {
        let (dim, width) = (self.weight.len(), x.dim(D::Minus1)?);
        match self.compute.kernels {
            Some(kernels) => Ok(x.apply_op1_no_bwd(&Columns { norm: self, kernels, first })?),
            None if dim == width => self.spelled_out(x),
            None => {
                let (before, after) = (x.narrow(1, 0, first)?, x.narrow(1, first + dim, width - first - dim)?);
                let normed = self.spelled_out(&x.narrow(1, first, dim)?.contiguous()?)?;
                Ok(Tensor::cat(&[before, normed, after], 1)?)
            }
        }
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

/// A norm of some columns.
struct Columns<'a> {
    norm: &'a Norm,
    kernels: &'static Kernels,
    first: usize,
}

impl CustomOp1 for Columns<'_> {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        // Some rows make a piece that is worth waking a thread for.
        const PIECE: usize = 1 << 15;
        let width = layout.shape().dims2()?.1;
        let columns = self.first..self.first + self.norm.weight.len();
        let mut y = numbers(x, layout)?.to_vec();
        let pieces = y.chunks_mut(width * (PIECE / width).max(1)).collect();
        self.norm.compute.pool.for_each(pieces, |rows: &mut [f32]| {
            for row in rows.chunks_exact_mut(width) {
                let from = row[columns.clone()].to_vec();
                self.kernels.prepare_row(self.norm.view(), &from, &mut row[columns.clone()]);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}
