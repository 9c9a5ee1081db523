//! Element-wise non-linearities, by the names that config.json gives them.

use candle_core::Tensor;

use super::on_host;
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::Activation as Kernel;

/// A non-linearity.
pub struct Activation {
    kernel: Kernel,
    compute: Compute,
}

/// config.json's name → what it computes. Several names are one function.
const NAMES: &[(&str, Kernel)] = &[
    ("gelu_new", Kernel::GeluTanh),
    ("gelu_pytorch_tanh", Kernel::GeluTanh),
    ("gelu", Kernel::Gelu),
    ("relu", Kernel::Relu),
    ("silu", Kernel::Silu),
    ("swish", Kernel::Silu),
    ("tanh", Kernel::Tanh),
];

impl Activation {
    /// The function of this name, or `None`.
    pub fn named(name: &str, compute: &Compute) -> Option<Activation> {
        let (_, kernel) = NAMES.iter().find(|(known, _)| *known == name)?;
        Some(Activation { kernel: *kernel, compute: compute.clone() })
    }

    /// The names that are known, for messages.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// (rows, dim) → (rows, dim)
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.compute.kernels {
            Some(kernels) => on_host("activation", x, x.dim(1)?, |x, y| {
                y.copy_from_slice(x);
                kernels.activate(&self.compute.pool, self.kernel, y);
            }),
            None => Ok(match self.kernel {
                Kernel::GeluTanh => x.gelu()?,
                Kernel::Gelu => x.gelu_erf()?,
                Kernel::Relu => x.relu()?,
                Kernel::Silu => x.silu()?,
                Kernel::Tanh => x.tanh()?,
            }),
        }
    }
}
