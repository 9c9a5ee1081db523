//! Rotary positions: queries and keys turned by angles that grow with the position.

use std::sync::Arc;

use candle_core::Tensor;

use crate::error::Result;
use crate::kernels::{Pairing, Rotary};

/// What turns queries and keys; cheap to clone, one for all layers.
#[derive(Clone)]
pub struct Rope(Arc<Rotary>);

impl Rope {
    /// Pair i of a head is turned by `position · frequencies[i]` radians; elements behind the pairs stay as they are.
    /// Cosines and sines are multiplied by `factor`, 1 but for YaRN and its kin. Made for positions below `positions`.
    pub fn new(frequencies: Vec<f32>, pairing: Pairing, factor: f32, positions: usize) -> Rope {
        Rope(Arc::new(Rotary::new(frequencies, pairing, factor, positions)))
    }

    pub(super) fn rotary(&self) -> &Rotary {
        &self.0
    }

    /// (tokens, heads, head_dim), turned by candle's operations.
    pub(super) fn spelled_out(&self, x: &Tensor, positions: &[u32]) -> Result<Tensor> {
        let (tokens, heads, head_dim) = x.dims3()?;
        let (turned, pairs) = (self.0.dim(), self.0.dim() / 2);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            let angles = self.0.angles(*position as usize);
            cos.extend_from_slice(angles.0);
            sin.extend_from_slice(angles.1);
        }
        let table = |numbers| Tensor::from_vec(numbers, (tokens, 1, pairs), x.device());
        let (cos, sin) = (table(cos)?, table(sin)?);
        let (part, rest) = (x.narrow(2, 0, turned)?, x.narrow(2, turned, head_dim - turned)?);
        let (a, b) = match self.0.pairing() {
            Pairing::Halves => (part.narrow(2, 0, pairs)?, part.narrow(2, pairs, pairs)?),
            Pairing::Neighbours => {
                let pairs = part.reshape((tokens, heads, pairs, 2))?;
                (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
            }
        };
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let part = match self.0.pairing() {
            Pairing::Halves => Tensor::cat(&[first, second], 2)?,
            Pairing::Neighbours => Tensor::stack(&[first, second], 3)?.reshape((tokens, heads, turned))?,
        };
        Ok(Tensor::cat(&[part, rest], 2)?)
    }
}
