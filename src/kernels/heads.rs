//! What an attention layer is: its heads, where they lie in a row, and what is done to queries, keys and scores.
//!
//! Su et al. 2021 turn queries and keys by their positions; Press et al. 2021, "Train Short, Test Long", leave them and
//! lower a score by the distance to its key, `slope * (key - query)`, each head with its own slope.

use super::lanes::LANES;
use super::math::tanh;
use super::rope::Rotary;
use super::rows::{layer_norm, rms_norm};

/// The shape of an attention layer.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; each serves `n_heads / n_kv_heads` neighbouring query heads.
    pub n_kv_heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
    /// What scores are multiplied by before the softmax, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
}

/// How queries, keys and values follow each other in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// All queries, all keys, all values.
    #[default]
    Parts,
    /// Head by head: each key head's queries, its key and its value. GPT-NeoX, Bloom and Falcon store their one matrix so.
    Groups,
}

/// What attention does in one layer.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// The shape.
    pub heads: Heads,
    /// How a row is laid out.
    pub order: Order,
    /// How many tokens one sees, itself among them; all before it without a number.
    pub window: Option<usize>,
    /// Turns queries and keys by their positions.
    pub rotary: Option<&'a Rotary>,
    /// Normalises each head's query and key, before they are turned.
    pub norms: Option<HeadNorms<'a>>,
    /// Keeps scores between its negative and itself: `cap * tanh(score / cap)` of what `heads.scale` makes of them.
    pub cap: Option<f32>,
    /// Lowers scores by the distance.
    pub alibi: Option<Alibi<'a>>,
}

/// Norms of every head by itself.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// Of queries.
    pub query: HeadNorm<'a>,
    /// Of keys.
    pub key: HeadNorm<'a>,
}

/// A norm of single heads. Weights are (head_dim), for all heads alike, or (heads, head_dim).
#[derive(Clone, Copy, Debug)]
pub enum HeadNorm<'a> {
    /// `x / sqrt(mean of squares + eps) * weight`
    Rms {
        /// Factors.
        weight: &'a [f32],
        /// Keeps the root from zero.
        eps: f32,
    },
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`
    Layer {
        /// Factors.
        weight: &'a [f32],
        /// Summands, as many as factors.
        bias: &'a [f32],
        /// Keeps the root from zero.
        eps: f32,
    },
}

/// A bias for each score that grows with the distance between query and key.
#[derive(Clone, Copy, Debug)]
pub struct Alibi<'a> {
    /// How much a score loses with each token of distance, for each query head.
    pub slopes: &'a [f32],
    /// What the biases are multiplied by.
    pub scale: f32,
    /// How biases are rounded.
    pub steps: Steps,
}

/// How the biases of keys are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// Not at all.
    Exact,
    /// Slopes, positions and their products are rounded to bf16, as transformers has it for Falcon: far keys share a bias.
    Bf16,
}

/// One row's biases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tilt {
    /// A key's place is its position, or its product with this, in steps of bf16.
    rounded: Option<f32>,
    /// What a place is multiplied by.
    factor: f32,
    /// Added to all, so that what counts is the distance: near keys have small biases, whose last bits are kept.
    own: f32,
}

/// Keeps scores, which are in units of ln 2, between `-cap` and `cap`.
#[inline(always)]
pub(super) fn bound(scores: &mut [[f32; LANES]], cap: f32) {
    let cap = cap * std::f32::consts::LOG2_E;
    for scores in scores {
        for score in scores {
            *score = cap * tanh(*score / cap);
        }
    }
}

impl Attend<'_> {
    pub(super) fn group(&self) -> usize {
        self.heads.n_heads / self.heads.n_kv_heads
    }

    /// Numbers in a row of `qkv`.
    pub(super) fn width(&self) -> usize {
        (self.heads.n_heads + 2 * self.heads.n_kv_heads) * self.heads.head_dim
    }

    /// Where a query head starts in a row.
    pub(super) fn query(&self, head: usize) -> usize {
        let group = self.group();
        let place = match self.order {
            Order::Parts => head,
            Order::Groups => head / group * (group + 2) + head % group,
        };
        place * self.heads.head_dim
    }

    /// Where a key head starts in a row.
    pub(super) fn key(&self, kv_head: usize) -> usize {
        let place = match self.order {
            Order::Parts => self.heads.n_heads + kv_head,
            Order::Groups => kv_head * (self.group() + 2) + self.group(),
        };
        place * self.heads.head_dim
    }

    /// Where a head of values starts in a row.
    pub(super) fn value(&self, kv_head: usize) -> usize {
        let behind_key = match self.order {
            Order::Parts => self.heads.n_kv_heads,
            Order::Groups => 1,
        };
        self.key(kv_head) + behind_key * self.heads.head_dim
    }

    pub(super) fn check(&self, qkv: &[f32]) {
        let Heads { n_heads, n_kv_heads, head_dim, .. } = self.heads;
        assert!(
            n_kv_heads > 0 && n_heads > 0 && n_heads % n_kv_heads == 0 && head_dim > 0,
            "{n_heads} heads of {head_dim} over {n_kv_heads} key-value heads"
        );
        assert!(self.window != Some(0), "a window without tokens");
        assert!(self.cap.is_none_or(|cap| cap > 0.0), "a cap of {:?}", self.cap);
        assert_eq!(qkv.len() % self.width(), 0, "length of qkv, {}, is not whole rows of {}", qkv.len(), self.width());
        assert!(self.rotary.is_none_or(|rotary| rotary.dim() <= head_dim), "more angles than {head_dim} elements have");
        if let Some(norms) = self.norms {
            norms.query.check(n_heads, head_dim);
            norms.key.check(n_kv_heads, head_dim);
        }
        assert!(self.alibi.is_none_or(|alibi| alibi.slopes.len() == n_heads), "slopes for {n_heads} heads");
    }

    /// One head's query or key as scores are made of it.
    #[inline(always)]
    pub(super) fn settle(&self, norm: Option<HeadNorm<'_>>, position: usize, from: &[f32], to: &mut [f32]) {
        match norm {
            Some(HeadNorm::Rms { weight, eps }) => rms_norm(weight, eps, from, to),
            Some(HeadNorm::Layer { weight, bias, eps }) => layer_norm(weight, bias, eps, from, to),
            None => to.copy_from_slice(from),
        }
        if let Some(rotary) = self.rotary {
            rotary.turn(position, to);
        }
    }
}

impl<'a> HeadNorm<'a> {
    /// One head's.
    #[inline(always)]
    pub(super) fn of_head(self, head: usize, head_dim: usize) -> HeadNorm<'a> {
        let part = |all: &'a [f32]| if all.len() == head_dim { all } else { &all[head * head_dim..][..head_dim] };
        match self {
            HeadNorm::Rms { weight, eps } => HeadNorm::Rms { weight: part(weight), eps },
            HeadNorm::Layer { weight, bias, eps } => HeadNorm::Layer { weight: part(weight), bias: part(bias), eps },
        }
    }

    fn check(self, heads: usize, head_dim: usize) {
        let fits = |len: usize| len == head_dim || len == heads * head_dim;
        let fits = match self {
            HeadNorm::Rms { weight, .. } => fits(weight.len()),
            HeadNorm::Layer { weight, bias, .. } => fits(weight.len()) && bias.len() == weight.len(),
        };
        assert!(fits, "norms that do not have {head_dim} elements or {heads} times as many");
    }
}

impl Alibi<'_> {
    /// The biases of a row, in units of ln 2.
    pub(super) fn tilt(&self, head: usize, position: usize) -> Tilt {
        let scale = self.scale * std::f32::consts::LOG2_E;
        let (rounded, factor) = match self.steps {
            Steps::Exact => (None, self.slopes[head] * scale),
            Steps::Bf16 => (Some(bf16_of(self.slopes[head])), scale),
        };
        let row = Tilt { rounded, factor, own: 0.0 };
        Tilt { own: -(row.place(position as f32) * factor), ..row }
    }
}

impl Tilt {
    #[inline(always)]
    fn place(&self, position: f32) -> f32 {
        self.rounded.map_or(position, |slope| bf16_of(slope * bf16_of(position)))
    }

    /// Adds the biases of the keys from `first` on to their scores.
    #[inline(always)]
    pub(super) fn add(&self, first: usize, scores: &mut [[f32; LANES]]) {
        for (v, scores) in scores.iter_mut().enumerate() {
            for i in 0..LANES {
                // Positions are below 2²⁴ and so exact.
                let position = (first + v * LANES + i) as f32;
                scores[i] += self.place(position).mul_add(self.factor, self.own);
            }
        }
    }
}

/// Rounded to the nearest bf16, to the even one between two.
#[inline(always)]
fn bf16_of(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
}
