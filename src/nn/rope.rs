//! Rotary positions: queries and keys turned by angles that grow with the position.

use std::sync::Arc;

use candle_core::Tensor;

use super::Batch;
use crate::error::Result;
use crate::kernels::{Pairing, Rotary};

/// What turns queries and keys; cheap to clone, one for all layers.
///
/// With LongRoPE it is one of two, by the length of the sequence: **all** positions of a sequence longer than the original
/// context are turned by the second. This is what transformers computes for a sequence in one pass, and what its `generate`
/// does for Phi-3: where a text grows past the border, it forgets its cache and reads all of it again. So a sequence says how
/// long it is before its first chunk is read ([`KvCache::set_goal`]), and the same bits come out however it is cut.
#[derive(Clone)]
pub struct Rope {
    usual: Arc<Rotary>,
    /// For sequences of more tokens than this.
    long: Option<(usize, Arc<Rotary>)>,
}

impl Rope {
    /// Pair i of a head is turned by `position · frequencies[i]` radians; elements behind the pairs stay as they are.
    /// Cosines and sines are multiplied by `factor`, 1 but for YaRN and its kin. Made for positions below `positions`.
    pub fn new(frequencies: Vec<f32>, pairing: Pairing, factor: f32, positions: usize) -> Rope {
        Rope { usual: Arc::new(Rotary::new(frequencies, pairing, factor, positions)), long: None }
    }

    /// Sequences of more than `most` tokens have other frequencies.
    pub fn with_long(self, most: usize, frequencies: Vec<f32>) -> Rope {
        let long = Rotary::new(frequencies, self.usual.pairing(), self.usual.factor(), self.usual.positions());
        Rope { long: Some((most, Arc::new(long))), ..self }
    }

    /// What turns a sequence of so many tokens.
    pub(super) fn of(&self, tokens: usize) -> &Rotary {
        match &self.long {
            Some((most, long)) if tokens > *most => long,
            _ => &self.usual,
        }
    }

    /// (tokens, heads, head_dim), turned by candle's operations.
    pub(super) fn spelled_out(&self, x: &Tensor, batch: &mut Batch) -> Result<Tensor> {
        let (tokens, heads, head_dim) = x.dims3()?;
        let (turned, pairs) = (self.usual.dim(), self.usual.dim() / 2);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for sequence in batch.sequences() {
            let rotary = self.of(sequence.goal());
            for position in sequence.cache.len()..sequence.cache.len() + sequence.rows.len() {
                let angles = rotary.angles(position);
                cos.extend_from_slice(angles.0);
                sin.extend_from_slice(angles.1);
            }
        }
        let table = |numbers| Tensor::from_vec(numbers, (tokens, 1, pairs), x.device());
        let (cos, sin) = (table(cos)?, table(sin)?);
        let (part, rest) = (x.narrow(2, 0, turned)?, x.narrow(2, turned, head_dim - turned)?);
        let (a, b) = match self.usual.pairing() {
            Pairing::Halves => (part.narrow(2, 0, pairs)?, part.narrow(2, pairs, pairs)?),
            Pairing::Neighbours => {
                let pairs = part.reshape((tokens, heads, pairs, 2))?;
                (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
            }
        };
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let part = match self.usual.pairing() {
            Pairing::Halves => Tensor::cat(&[first, second], 2)?,
            Pairing::Neighbours => Tensor::stack(&[first, second], 3)?.reshape((tokens, heads, turned))?,
        };
        Ok(Tensor::cat(&[part, rest], 2)?)
    }
}
