//! The tokens of all sequences laid flat, each sequence with its cache; no padding.
//!
//! Prefill, decode and a mix of both are the same thing: so many tokens, from so many sequences.

use std::ops::Range;

use candle_core::Tensor;

use super::KvCache;
use crate::error::Result;

/// Which of a sequence's tokens the caller wants logits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// None: a chunk of a prompt that is not the last.
    None,
    /// The last so many.
    Last(usize),
}

/// One forward pass's work.
#[derive(Default)]
pub struct Batch<'a> {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    sequences: Vec<Sequence<'a>>,
    wanted: Vec<u32>,
}

pub(super) struct Sequence<'a> {
    pub(super) rows: Range<usize>,
    /// How many of the last rows are wanted.
    wanted: usize,
    pub(super) cache: &'a mut KvCache,
}

impl Sequence<'_> {
    /// How long the sequence will be, as far as that is known.
    pub(super) fn goal(&self) -> usize {
        self.cache.goal().max(self.cache.len() + self.rows.len())
    }

    /// The last rows, which go on behind the attention of a layer; see [`Batch::onward`].
    pub(super) fn onward(&self, layer: usize) -> usize {
        let is_last = layer + 1 == self.cache.layers().len();
        if is_last { self.wanted } else { self.rows.len() }
    }
}

impl<'a> Batch<'a> {
    /// Adds the tokens that follow what `cache` holds.
    pub fn push(&mut self, tokens: &[u32], cache: &'a mut KvCache, rows: Rows) {
        let start = self.tokens.len();
        let end = start + tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((cache.len()..cache.len() + tokens.len()).map(|p| p as u32));
        let wanted = match rows {
            Rows::None => 0,
            Rows::Last(count) => count,
        };
        self.wanted.extend((end - wanted..end).map(|row| row as u32));
        self.sequences.push(Sequence { rows: start..end, wanted, cache });
    }

    /// All tokens, sequence after sequence.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Each token's position in its own sequence.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The rows of (tokens, dim) that go on behind the attention of a layer, which gives back as many: all of them, but of
    /// the last layer those that are wanted. Nobody reads what becomes of the others.
    pub fn onward(&self, x: &Tensor, layer: usize) -> Result<Tensor> {
        let rows: usize = self.sequences.iter().map(|sequence| sequence.onward(layer)).sum();
        if rows == self.tokens.len() {
            return Ok(x.clone());
        }
        let indices = Tensor::new(self.wanted.as_slice(), x.device())?;
        Ok(x.index_select(&indices, 0)?)
    }

    pub(super) fn sequences(&mut self) -> &mut [Sequence<'a>] {
        &mut self.sequences
    }

    /// Tells the caches that all layers have their rows, once a forward pass is through.
    pub fn commit(&mut self) {
        for sequence in &mut self.sequences {
            sequence.cache.advance(sequence.rows.len());
        }
    }
}
