//! Element-wise non-linearities, by the names that config.json gives them.

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::Activation as Kernel;

/// A non-linearity. It has no op of its own: a product applies it on the way in ([`super::Before`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activation(Kernel);

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
    /// GELU by its tanh approximation.
    pub const GELU_TANH: Activation = Activation(Kernel::GeluTanh);

    /// The function of this name, or `None`.
    pub fn named(name: &str) -> Option<Activation> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, kernel)| Activation(*kernel))
    }

    /// The names that are known, for messages.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(name, _)| *name)
    }

    /// As the kernels take it.
    pub(super) fn kernel(self) -> Kernel {
        self.0
    }

    /// (rows, dim) → (rows, dim), in candle's operations.
    pub(super) fn spelled_out(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.0 {
            Kernel::GeluTanh => x.gelu()?,
            Kernel::Gelu => x.gelu_erf()?,
            Kernel::Relu => x.relu()?,
            Kernel::Silu => x.silu()?,
            Kernel::Tanh => x.tanh()?,
        })
    }
}
