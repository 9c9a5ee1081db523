//! Causal attention of every token over its own sequence, with grouped heads.
//!
//! softmax(q · kᵀ · scale) · v, after q and k are normalised and turned where a model has that. On the processor one kernel
//! does it over the cache's chunks where they lie; the reference gathers them and spells it out in candle's operations.

use candle_core::{D, Storage, Tensor};

use super::{Batch, Rope};
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{Attend, HeadNorms, Heads, Kernels, Sequence};
use crate::weights::Weights;

/// Attention of one layer.
pub struct Attention {
    heads: Heads,
    window: Option<usize>,
    rope: Option<Rope>,
    norms: Option<Norms>,
    compute: Compute,
}

/// RMS norms of each head's query and key.
struct Norms {
    query: Vec<f32>,
    key: Vec<f32>,
    eps: f32,
}

impl Attention {
    /// Attention with `n_heads` query heads over `n_kv_heads` key heads.
    pub fn new(heads: Heads, compute: &Compute) -> Attention {
        Attention { heads, window: None, rope: None, norms: None, compute: compute.clone() }
    }

    /// A token sees `window` tokens, itself among them.
    pub fn with_window(self, window: Option<usize>) -> Attention {
        Attention { window, ..self }
    }

    /// Queries and keys are turned by their positions.
    pub fn with_rope(self, rope: &Rope) -> Attention {
        Attention { rope: Some(rope.clone()), ..self }
    }

    /// Queries and keys are normalised head by head, with `query.weight` and `key.weight`, (head_dim), before they are
    /// turned.
    pub fn with_norms(self, query: &Weights, key: &Weights, eps: f32) -> Result<Attention> {
        let weight = |of: &Weights| of.at("weight").vector(self.heads.head_dim);
        let norms = Norms { query: weight(query)?, key: weight(key)?, eps };
        Ok(Attention { norms: Some(norms), ..self })
    }

    /// (tokens, queries | keys | values) → (tokens, n_heads · head_dim). Appends keys and values to the caches of `layer`.
    pub fn forward(&self, qkv: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        match self.compute.kernels {
            Some(kernels) => self.on_host(kernels, qkv, batch, layer),
            None => self.spelled_out(qkv, batch, layer),
        }
    }

    fn on_host(&self, kernels: &Kernels, qkv: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let (storage, layout) = qkv.storage_and_layout();
        let (Storage::Cpu(numbers), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
            return Err(candle_core::Error::msg("attention needs contiguous rows in main memory").into());
        };
        let numbers = &numbers.as_slice::<f32>()?[start..end];
        let norms = self.norms.as_ref().map(|norms| HeadNorms { query: &norms.query, key: &norms.key, eps: norms.eps });
        let rotary = self.rope.as_ref().map(Rope::rotary);
        let attend = Attend { heads: self.heads, window: self.window, rotary, norms };
        let Heads { n_heads, n_kv_heads, head_dim, .. } = self.heads;

        let mut sequences = Vec::new();
        for sequence in batch.sequences() {
            let (tokens, position) = (sequence.rows.clone(), sequence.cache.len());
            let chunks = sequence.cache.chunks_for(layer, n_kv_heads, head_dim, tokens.len());
            sequences.push(Sequence { chunks, tokens, position });
        }
        let tokens = layout.dims()[0];
        let mut out = vec![0.0; tokens * n_heads * head_dim];
        kernels.attend(&self.compute.pool, &attend, &mut sequences, numbers, &mut out);
        Ok(Tensor::from_vec(out, (tokens, n_heads * head_dim), qkv.device())?)
    }

    fn spelled_out(&self, qkv: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let Heads { n_heads, n_kv_heads, head_dim, scale } = self.heads;
        let device = qkv.device();
        let part = |first: usize, heads: usize| -> Result<Tensor> {
            let part = qkv.narrow(1, first * head_dim, heads * head_dim)?;
            Ok(part.reshape((qkv.dim(0)?, heads, head_dim))?)
        };
        let (mut q, mut k, v) =
            (part(0, n_heads)?, part(n_heads, n_kv_heads)?, part(n_heads + n_kv_heads, n_kv_heads)?);
        if let Some(norms) = &self.norms {
            let norm = |x: &Tensor, weight: &[f32]| -> Result<Tensor> {
                let root = ((x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(norms.eps))?).sqrt()?;
                Ok(x.broadcast_div(&root)?.broadcast_mul(&Tensor::new(weight, device)?)?)
            };
            (q, k) = (norm(&q, &norms.query)?, norm(&k, &norms.key)?);
        }
        if let Some(rope) = &self.rope {
            (q, k) = (rope.spelled_out(&q, batch.positions())?, rope.spelled_out(&k, batch.positions())?);
        }
        let (keys, values) = (k.flatten_all()?.to_vec1::<f32>()?, v.flatten_all()?.to_vec1::<f32>()?);
        let width = n_kv_heads * head_dim;
        let mut outputs = Vec::new();
        for sequence in batch.sequences() {
            let (rows, past) = (sequence.rows.len(), sequence.cache.len());
            let total = past + rows;
            let part = sequence.rows.start * width..sequence.rows.end * width;
            sequence.cache.write(layer, (n_kv_heads, head_dim), &keys[part.clone()], &values[part]);
            let gathered = |numbers: Vec<f32>| -> Result<Tensor> {
                let heads = Tensor::from_vec(numbers, (total, n_kv_heads, head_dim), device)?.transpose(0, 1)?;
                // (n_kv_heads, total, head_dim) → (n_heads, total, head_dim): each key head serves its group of queries
                let group = n_heads / n_kv_heads;
                let heads = heads.unsqueeze(1)?.broadcast_as((n_kv_heads, group, total, head_dim))?;
                Ok(heads.contiguous()?.reshape((n_heads, total, head_dim))?)
            };
            let (keys, values) = sequence.cache.read(layer, total);
            let (keys, values) = (gathered(keys)?, gathered(values)?);
            let q = q.narrow(0, sequence.rows.start, rows)?.transpose(0, 1)?.contiguous()?;
            let scores = (q.matmul(&keys.t()?.contiguous()?)? * f64::from(scale))?; // (n_heads, rows, total)
            let window = self.window.unwrap_or(usize::MAX);
            let mask: Vec<f32> = (past..total)
                .flat_map(|token| (0..total).map(move |key| key <= token && token - key < window))
                .map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY })
                .collect();
            let scores = scores.broadcast_add(&Tensor::from_vec(mask, (rows, total), device)?)?;
            let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&values)?; // (n_heads, rows, head_dim)
            outputs.push(out.transpose(0, 1)?.reshape((rows, n_heads * head_dim))?);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

    use candle_core::Device;

    use super::*;
    use crate::kernels::{self, CacheType, Pairing, Pool};
    use crate::nn::{KvCache, Rows};

    fn compute(kernels: Option<&'static Kernels>) -> Compute {
        Compute { device: Device::Cpu, kernels, pool: Arc::new(Pool::new(None).unwrap()) }
    }

    /// Every kind of attention, on our kernels or by candle's operations.
    fn layers(kernels: Option<&'static Kernels>) -> Vec<(&'static str, Attention)> {
        let plain = |n_heads, n_kv_heads, head_dim| {
            let heads = Heads { n_heads, n_kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
            Attention::new(heads, &compute(kernels))
        };
        let rope = |pairing, pairs: u8| {
            let frequencies = (0..pairs).map(|i| 100f32.powf(-f32::from(i) / f32::from(pairs))).collect();
            Rope::new(frequencies, pairing, 1.0, 300)
        };
        let weight = |offset: u8| (0..24).map(|i| f32::from((i * 7 + offset) % 11) / 5.0 - 1.0).collect();
        let norms = Norms { query: weight(1), key: weight(5), eps: 1e-5 };
        vec![
            ("as in GPT-2", plain(3, 3, 16)),
            ("grouped, with a window", plain(4, 2, 20).with_window(Some(70))),
            ("rotary halves", plain(4, 1, 16).with_rope(&rope(Pairing::Halves, 8))),
            ("rotary neighbours, in part", plain(2, 1, 16).with_rope(&rope(Pairing::Neighbours, 5))),
            (
                "normalised and rotary",
                Attention { norms: Some(norms), ..plain(2, 2, 24).with_rope(&rope(Pairing::Halves, 12)) },
            ),
        ]
    }

    fn numbers(tokens: usize, attention: &Attention, seed: usize) -> Tensor {
        let Heads { n_heads, n_kv_heads, head_dim, .. } = attention.heads;
        let width = (n_heads + 2 * n_kv_heads) * head_dim;
        let numbers: Vec<f32> =
            (0..tokens * width).map(|i| (((i + seed) * 7919) % 1009) as f32 / 252.0 - 2.0).collect();
        Tensor::from_vec(numbers, (tokens, width), &Device::Cpu).unwrap()
    }

    /// One pass over the rows of `qkv`, of which each cache gets as many as it says.
    fn step(attention: &Attention, caches: Vec<(&mut KvCache, usize)>, qkv: &Tensor) -> Vec<f32> {
        let mut batch = Batch::default();
        for (cache, rows) in caches {
            batch.push(&vec![0; rows], cache, Rows::None);
        }
        let out = attention.forward(qkv, &mut batch, 0).unwrap();
        batch.commit();
        out.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_kernel_agrees_with_candles_operations() {
        for kind in CacheType::ALL {
            for (ours, candle) in layers(Some(kernels::best())).iter().zip(layers(None)) {
                let mut caches = [0; 4].map(|_| KvCache::new(1, kind));
                let [a, b, c, d] = &mut caches;
                // A prompt; the rest of it beside another prompt; one token each.
                for fed in [[100, 0], [37, 130], [1, 1]] {
                    let qkv = numbers(fed[0] + fed[1], &ours.1, fed[1]);
                    let feed = |a, b| -> Vec<(&mut KvCache, usize)> {
                        [(a, fed[0]), (b, fed[1])].into_iter().filter(|(_, fed)| *fed > 0).collect()
                    };
                    let right = step(&candle.1, feed(&mut *c, &mut *d), &qkv);
                    for (i, (out, right)) in step(&ours.1, feed(&mut *a, &mut *b), &qkv).iter().zip(right).enumerate() {
                        // Rounding a key the other way in a narrow cache is a whole step of its type.
                        let bound = if kind == CacheType::F32 { 1e-5 } else { 3e-3 };
                        assert!((out - right).abs() <= bound, "{} {kind}: {out} at {i}, candle {right}", ours.0);
                    }
                }
            }
        }
    }

    #[test]
    fn a_sequence_that_went_back_has_the_bits_of_one_that_did_not() {
        for kind in CacheType::ALL {
            for kernels in kernels::available() {
                for (name, attention) in layers(Some(kernels)) {
                    let all = numbers(150, &attention, 0);
                    let rows = |range: Range<usize>| all.narrow(0, range.start, range.len()).unwrap();
                    let mut straight = KvCache::new(1, kind);
                    let right = step(&attention, vec![(&mut straight, 150)], &all);

                    let mut cache = KvCache::new(1, kind);
                    step(&attention, vec![(&mut cache, 100)], &rows(0..100));
                    let mut fork = cache.clone();
                    // Other rows from the middle of a tile on, which are taken back again.
                    cache.truncate(71);
                    step(&attention, vec![(&mut cache, 60)], &rows(90..150));
                    for mut cache in [cache, fork.clone()] {
                        cache.truncate(71);
                        let out = step(&attention, vec![(&mut cache, 79)], &rows(71..150));
                        assert_eq!(out[..], right[71 * out.len() / 79..], "{name} {kind}: {}", kernels.name());
                    }
                    let out = step(&attention, vec![(&mut fork, 50)], &rows(100..150));
                    assert_eq!(out[..], right[2 * out.len()..], "{name} {kind}: the fork");
                }
            }
        }
    }
}
