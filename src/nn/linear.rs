//! y = before(x) · W + b + residual, whatever the weights' format, orientation and place.
//!
//! What stands before a product, a norm or a non-linearity, and the residual after it are parts of the same op, so that a
//! layer is a handful of passes over its rows.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Shape, Tensor};

use super::{Activation, Embedding, Norm, numbers};
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{self, Kernels, Layout, Matrix, Part};
use crate::weights::{Stored, Weights};

/// What is done to x on its way into a product.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// Nothing.
    Nothing,
    /// A norm of each row.
    Norm(&'a Norm),
    /// A function of each element.
    Activation(Activation),
    /// `activation(first half) · second half`, of rows twice as long as the product's inputs.
    Gated(Activation),
}

/// A linear layer: one stored matrix, or several with the same input whose outputs stand side by side. A model cannot tell
/// how they are stored.
pub struct Linear {
    weight: Weight,
    compute: Compute,
}

enum Weight {
    /// For our kernels: the numbers as they lie in the file.
    Host { kernels: &'static Kernels, parts: Vec<HostPart> },
    /// For candle's operations: (inputs, outputs), f32.
    Candle { matrix: Tensor, bias: Option<Tensor> },
}

struct HostPart {
    stored: Stored,
    layout: Layout,
    bias: Option<Vec<f32>>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    /// `name.weight` as (inputs, outputs) and `name.bias`: GPT-2's `Conv1D`.
    pub fn conv1d(weights: &Weights, inputs: usize, outputs: usize) -> Result<Linear> {
        let (stored, layout) = weights.at("weight").matrix(Layout::InOut, inputs, outputs)?;
        let bias = Some(weights.at("bias").vector(outputs)?);
        let part = HostPart { stored, layout, bias, inputs, outputs };
        Linear::new(vec![part], weights.compute())
    }

    /// `name.weight` as (outputs, inputs), without a bias.
    pub fn plain(weights: &Weights, inputs: usize, outputs: usize) -> Result<Linear> {
        Linear::side_by_side(&[(weights.clone(), outputs)], inputs, Bias::Without)
    }

    /// Several matrices of one input, `name.weight` as (outputs, inputs) each, and their `name.bias` where there are any.
    pub fn side_by_side(parts: &[(Weights, usize)], inputs: usize, bias: Bias) -> Result<Linear> {
        let load = |(weights, outputs): &(Weights, usize)| -> Result<HostPart> {
            let (stored, layout) = weights.at("weight").matrix(Layout::OutIn, inputs, *outputs)?;
            let bias = match bias {
                Bias::With => Some(weights.at("bias").vector(*outputs)?),
                Bias::Without => None,
            };
            Ok(HostPart { stored, layout, bias, inputs, outputs: *outputs })
        };
        Linear::new(parts.iter().map(load).collect::<Result<_>>()?, parts[0].0.compute())
    }

    /// The head that shares its weight with the embedding.
    pub fn tied(embedding: &Embedding, compute: &Compute) -> Result<Linear> {
        let (inputs, outputs) = (embedding.dim(), embedding.rows());
        let stored = embedding.stored().clone();
        Linear::new(vec![HostPart { stored, layout: Layout::OutIn, bias: None, inputs, outputs }], compute)
    }

    /// The same with `name.bias`, of a linear layer that has none.
    pub fn with_bias(mut self, weights: &Weights) -> Result<Linear> {
        let outputs = match &self.weight {
            Weight::Host { parts, .. } => parts.iter().map(|part| part.outputs).sum(),
            Weight::Candle { matrix, .. } => matrix.dim(1)?,
        };
        let numbers = weights.at("bias").vector(outputs)?;
        match &mut self.weight {
            Weight::Host { parts, .. } => {
                let mut rest = numbers.as_slice();
                for part in parts {
                    let (own, later) = rest.split_at(part.outputs);
                    (part.bias, rest) = (Some(own.to_vec()), later);
                }
            }
            Weight::Candle { bias, .. } => *bias = Some(Tensor::new(numbers, &self.compute.device)?),
        }
        Ok(self)
    }

    fn new(parts: Vec<HostPart>, compute: &Compute) -> Result<Linear> {
        let weight = match compute.kernels {
            Some(kernels) => Weight::Host { kernels, parts },
            None => spelled_out(&parts, compute)?,
        };
        Ok(Linear { weight, compute: compute.clone() })
    }

    /// (rows, inputs) → (rows, outputs). The residual has the shape of the result.
    pub fn forward(&self, x: &Tensor, before: Before, residual: Option<&Tensor>) -> Result<Tensor> {
        match &self.weight {
            Weight::Host { kernels, parts } => {
                let parts: Vec<Part> = parts.iter().map(HostPart::view).collect();
                let op = Op { kernels, parts: &parts, before: before.view(), compute: &self.compute };
                Ok(match residual {
                    Some(residual) => x.apply_op2_no_bwd(residual, &op)?,
                    None => x.apply_op1_no_bwd(&op)?,
                })
            }
            Weight::Candle { matrix, bias } => {
                let mut y = before.spelled_out(x)?.matmul(matrix)?;
                if let Some(bias) = bias {
                    y = y.broadcast_add(bias)?;
                }
                Ok(match residual {
                    Some(residual) => (y + residual)?,
                    None => y,
                })
            }
        }
    }
}

/// Whether matrices come with a bias each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `name.bias` must be there.
    With,
    /// There is none.
    Without,
}

impl HostPart {
    fn view(&self) -> Part<'_> {
        let HostPart { stored, layout, bias, inputs, outputs } = self;
        let matrix = Matrix { data: stored.slice(), layout: *layout, inputs: *inputs, outputs: *outputs };
        Part { matrix, bias: bias.as_deref() }
    }
}

/// All parts as one matrix, (inputs, outputs).
fn spelled_out(parts: &[HostPart], compute: &Compute) -> Result<Weight> {
    let (mut matrices, mut biases) = (Vec::new(), Vec::new());
    for HostPart { stored, layout, bias, inputs, outputs } in parts {
        let shape = if *layout == Layout::InOut { (*inputs, *outputs) } else { (*outputs, *inputs) };
        let matrix = Tensor::from_vec(stored.to_f32(), shape, &compute.device)?;
        matrices.push(if *layout == Layout::InOut { matrix } else { matrix.t()? });
        if let Some(bias) = bias {
            biases.push(Tensor::new(bias.as_slice(), &compute.device)?);
        }
    }
    let matrix = Tensor::cat(&matrices, 1)?.contiguous()?;
    let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
    Ok(Weight::Candle { matrix, bias })
}

impl<'a> Before<'a> {
    fn view(self) -> kernels::Before<'a> {
        match self {
            Before::Nothing => kernels::Before::Nothing,
            Before::Norm(norm) => norm.view(),
            Before::Activation(activation) => kernels::Before::Activation(activation.kernel()),
            Before::Gated(activation) => kernels::Before::Gated(activation.kernel()),
        }
    }

    fn spelled_out(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Before::Nothing => x.clone(),
            Before::Norm(norm) => norm.spelled_out(x)?,
            Before::Activation(activation) => activation.spelled_out(x)?,
            Before::Gated(activation) => {
                let half = x.dim(D::Minus1)? / 2;
                let gate = x.narrow(1, 0, half)?.contiguous()?;
                (activation.spelled_out(&gate)? * x.narrow(1, half, half)?)?
            }
        })
    }
}

struct Op<'a> {
    kernels: &'static Kernels,
    parts: &'a [Part<'a>],
    before: kernels::Before<'a>,
    compute: &'a Compute,
}

impl Op<'_> {
    fn run(
        &self,
        x: (&CpuStorage, &candle_core::Layout),
        residual: Option<(&CpuStorage, &candle_core::Layout)>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let rows = x.1.shape().dims2()?.0;
        let residual = residual.map(|(storage, layout)| numbers(storage, layout)).transpose()?;
        let x = numbers(x.0, x.1)?;
        let y = self.kernels.linear(&self.compute.pool, self.parts, self.before, x, residual);
        let outputs = self.parts.iter().map(|part| part.matrix.outputs).sum::<usize>();
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }
}

impl CustomOp1 for Op<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &candle_core::Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.run((x, layout), None)
    }
}

impl CustomOp2 for Op<'_> {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &candle_core::Layout,
        residual: &CpuStorage,
        residual_layout: &candle_core::Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.run((x, x_layout), Some((residual, residual_layout)))
    }
}
