//! Causal attention of every token over its own sequence, with grouped heads.
//!
//! softmax(q · kᵀ · scale) · v, after q and k are normalised and turned where a model has that. On the processor one kernel
//! does it over the cache's chunks where they lie; the reference gathers them and spells it out in candle's operations.

use candle_core::{D, DType, Device, Storage, Tensor};
use half::bf16;

use super::batch::Sequence as Fed;
use super::{Batch, Bias, Rope};
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{Alibi, Attend, HeadNorm, HeadNorms, Heads, Kernels, Order, Sequence, Steps};
use crate::weights::Weights;

/// Attention of one layer.
pub struct Attention {
    heads: Heads,
    order: Order,
    window: Option<usize>,
    rope: Option<Rope>,
    norms: Option<Norms>,
    cap: Option<f32>,
    slopes: Option<Slopes>,
    compute: Compute,
}

/// Norms of each head's query and key. Weights and biases are (head_dim), or (heads, head_dim).
struct Norms {
    query: Affine,
    key: Affine,
    eps: f32,
}

/// Of a norm's result: factors, and summands, which only a layer norm has.
struct Affine {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

/// Biases of scores by distance.
struct Slopes {
    slopes: Vec<f32>, // (n_heads)
    scale: f32,
    steps: Steps,
}

impl Attention {
    /// Attention with `n_heads` query heads over `n_kv_heads` key heads.
    pub fn new(heads: Heads, compute: &Compute) -> Attention {
        let (order, compute) = (Order::Parts, compute.clone());
        Attention { heads, order, window: None, rope: None, norms: None, cap: None, slopes: None, compute }
    }

    /// Rows hold queries, keys and values in another order.
    pub fn with_order(self, order: Order) -> Attention {
        Attention { order, ..self }
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
    /// turned. What the file has are weights less `centre`.
    pub fn with_norms(self, query: &Weights, key: &Weights, eps: f32, centre: f32) -> Result<Attention> {
        let rms = |of: &Weights| -> Result<Affine> {
            let mut weight = of.at("weight").vector(self.heads.head_dim)?;
            weight.iter_mut().for_each(|weight| *weight += centre);
            Ok(Affine { weight, bias: None })
        };
        let norms = Norms { query: rms(query)?, key: rms(key)?, eps };
        Ok(Attention { norms: Some(norms), ..self })
    }

    /// Queries and keys go through layer norms head by head before they are turned: one norm for all heads, with a weight
    /// of (head_dim), or one for each.
    pub fn with_layer_norms(self, query: &[Weights], key: &[Weights], bias: Bias, eps: f32) -> Result<Attention> {
        let layer = |of: &[Weights]| -> Result<Affine> {
            let (mut weights, mut biases) = (Vec::new(), Vec::new());
            for of in of {
                weights.extend(of.at("weight").vector(self.heads.head_dim)?);
                biases.extend(match bias {
                    Bias::With => of.at("bias").vector(self.heads.head_dim)?,
                    Bias::Without => vec![0.0; self.heads.head_dim],
                });
            }
            Ok(Affine { weight: weights, bias: Some(biases) })
        };
        let norms = Norms { query: layer(query)?, key: layer(key)?, eps };
        Ok(Attention { norms: Some(norms), ..self })
    }

    /// Scores are kept between `-cap` and `cap`, by `cap · tanh(score / cap)`.
    pub fn with_cap(self, cap: Option<f32>) -> Attention {
        Attention { cap, ..self }
    }

    /// A score is lowered by the distance to its key, times the head's slope and `scale`.
    pub fn with_alibi(self, slopes: Vec<f32>, scale: f32, steps: Steps) -> Attention {
        Attention { slopes: Some(Slopes { slopes, scale, steps }), ..self }
    }

    /// (tokens, queries, keys and values) → (tokens that go on, n_heads · head_dim): see [`Batch::onward`]. Appends keys and
    /// values of all to the caches of `layer`.
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
        let norms = self.norms.as_ref().map(Norms::view);
        let alibi = self.slopes.as_ref().map(Slopes::view);
        let (heads, order, window, cap) = (self.heads, self.order, self.window, self.cap);
        let Heads { n_heads, n_kv_heads, head_dim, .. } = self.heads;

        let onward: usize = batch.sequences().iter().map(|sequence| sequence.onward(layer)).sum();
        let mut out = vec![0.0; onward * n_heads * head_dim];
        let (mut rest, mut qkv_rest) = (out.as_mut_slice(), numbers);
        // Almost always all sequences are turned alike, and this is one call.
        for alike in batch.sequences().chunk_by_mut(|a, b| self.turns_alike(a, b)) {
            let rotary = self.rope.as_ref().map(|rope| rope.of(alike[0].goal()));
            let attend = Attend { heads, order, window, rotary, norms, cap, alibi };
            let first = alike[0].rows.start;
            let mut sequences = Vec::new();
            for sequence in alike {
                let tokens = sequence.rows.start - first..sequence.rows.end - first;
                let (position, attending) = (sequence.cache.len(), sequence.onward(layer));
                let chunks = sequence.cache.chunks_for(layer, n_kv_heads, head_dim, tokens.len());
                sequences.push(Sequence { chunks, tokens, attending, position });
            }
            let tokens = sequences.last().map_or(0, |sequence| sequence.tokens.end);
            let attending: usize = sequences.iter().map(|sequence| sequence.attending).sum();
            let (qkv, qkv_later) = qkv_rest.split_at(tokens * (n_heads + 2 * n_kv_heads) * head_dim);
            let (out, later) = rest.split_at_mut(attending * n_heads * head_dim);
            (rest, qkv_rest) = (later, qkv_later);
            kernels.attend(&self.compute.pool, &attend, &mut sequences, qkv, out);
        }
        Ok(Tensor::from_vec(out, (onward, n_heads * head_dim), qkv.device())?)
    }

    /// Whether one rotation serves both sequences.
    fn turns_alike(&self, a: &Fed, b: &Fed) -> bool {
        self.rope.as_ref().is_none_or(|rope| std::ptr::eq(rope.of(a.goal()), rope.of(b.goal())))
    }

    fn spelled_out(&self, qkv: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let Heads { n_heads, n_kv_heads, head_dim, scale } = self.heads;
        let device = qkv.device();
        let (mut q, mut k, v) = self.split(qkv)?;
        if let Some(norms) = &self.norms {
            (q, k) = (norms.query.spelled_out(&q, norms.eps)?, norms.key.spelled_out(&k, norms.eps)?);
        }
        if let Some(rope) = &self.rope {
            (q, k) = (rope.spelled_out(&q, batch)?, rope.spelled_out(&k, batch)?);
        }
        let (keys, values) = (k.flatten_all()?.to_vec1::<f32>()?, v.flatten_all()?.to_vec1::<f32>()?);
        let width = n_kv_heads * head_dim;
        let mut outputs = vec![Tensor::zeros((0, n_heads * head_dim), DType::F32, device)?];
        for sequence in batch.sequences() {
            let (rows, total) = (sequence.onward(layer), sequence.cache.len() + sequence.rows.len());
            let part = sequence.rows.start * width..sequence.rows.end * width;
            sequence.cache.write(layer, (n_kv_heads, head_dim), &keys[part.clone()], &values[part]);
            if rows == 0 {
                continue;
            }
            let gathered = |numbers: Vec<f32>| -> Result<Tensor> {
                let heads = Tensor::from_vec(numbers, (total, n_kv_heads, head_dim), device)?.transpose(0, 1)?;
                // (n_kv_heads, total, head_dim) → (n_heads, total, head_dim): each key head serves its group of queries
                let group = n_heads / n_kv_heads;
                let heads = heads.unsqueeze(1)?.broadcast_as((n_kv_heads, group, total, head_dim))?;
                Ok(heads.contiguous()?.reshape((n_heads, total, head_dim))?)
            };
            let (keys, values) = sequence.cache.read(layer, total);
            let (keys, values) = (gathered(keys)?, gathered(values)?);
            let q = q.narrow(0, sequence.rows.end - rows, rows)?.transpose(0, 1)?.contiguous()?;
            let mut scores = (q.matmul(&keys.t()?.contiguous()?)? * f64::from(scale))?; // (n_heads, rows, total)
            if let Some(cap) = self.cap {
                scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
            }
            if let Some(slopes) = &self.slopes {
                scores = scores.broadcast_add(&slopes.spelled_out(total, device)?)?;
            }
            let window = self.window.unwrap_or(usize::MAX);
            let mask: Vec<f32> = (total - rows..total)
                .flat_map(|token| (0..total).map(move |key| key <= token && token - key < window))
                .map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY })
                .collect();
            let scores = scores.broadcast_add(&Tensor::from_vec(mask, (rows, total), device)?)?;
            let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&values)?; // (n_heads, rows, head_dim)
            outputs.push(out.transpose(0, 1)?.reshape((rows, n_heads * head_dim))?);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }

    /// Queries, keys and values, each (tokens, heads, head_dim).
    fn split(&self, qkv: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let Heads { n_heads, n_kv_heads, head_dim, .. } = self.heads;
        // (tokens, groups, heads of a group, head_dim)
        let (groups, queries, others) = match self.order {
            Order::Parts => (1, n_heads, n_kv_heads),
            Order::Groups => (n_kv_heads, n_heads / n_kv_heads, 1),
        };
        let rows = qkv.reshape((qkv.dim(0)?, groups, queries + 2 * others, head_dim))?;
        let part = |first: usize, count: usize| -> Result<Tensor> {
            Ok(rows.narrow(2, first, count)?.contiguous()?.flatten(1, 2)?)
        };
        Ok((part(0, queries)?, part(queries, others)?, part(queries + others, others)?))
    }
}

impl Norms {
    fn view(&self) -> HeadNorms<'_> {
        HeadNorms { query: self.query.view(self.eps), key: self.key.view(self.eps) }
    }
}

impl Affine {
    fn view(&self, eps: f32) -> HeadNorm<'_> {
        match &self.bias {
            Some(bias) => HeadNorm::Layer { weight: &self.weight, bias, eps },
            None => HeadNorm::Rms { weight: &self.weight, eps },
        }
    }

    /// (tokens, heads, head_dim), normalised by candle's operations.
    fn spelled_out(&self, x: &Tensor, eps: f32) -> Result<Tensor> {
        let head_dim = x.dim(D::Minus1)?;
        let table = |all: &[f32]| Tensor::from_slice(all, (all.len() / head_dim, head_dim), x.device());
        let x = match &self.bias {
            Some(_) => x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?,
            None => x.clone(),
        };
        let root = ((x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?).sqrt()?;
        let x = x.broadcast_div(&root)?.broadcast_mul(&table(&self.weight)?)?;
        Ok(match &self.bias {
            Some(bias) => x.broadcast_add(&table(bias)?)?,
            None => x,
        })
    }
}

impl Slopes {
    fn view(&self) -> Alibi<'_> {
        Alibi { slopes: &self.slopes, scale: self.scale, steps: self.steps }
    }

    /// Biases of the first `keys` keys, (n_heads, 1, keys). What a query's own would be is the same for all of them and falls
    /// out of the softmax.
    fn spelled_out(&self, keys: usize, device: &Device) -> Result<Tensor> {
        let narrow = |x: f32| if self.steps == Steps::Bf16 { bf16::from_f32(x).to_f32() } else { x };
        let bias = |slope: &f32, key: usize| self.scale * narrow(narrow(*slope) * narrow(key as f32));
        let all: Vec<f32> = self.slopes.iter().flat_map(|slope| (0..keys).map(move |key| bias(slope, key))).collect();
        Ok(Tensor::from_vec(all, (self.slopes.len(), 1, keys), device)?)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;

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
        let weight = |len: usize, offset: usize| (0..len).map(|i| ((i * 7 + offset) % 11) as f32 / 5.0 - 1.0).collect();
        let rms = |len, offset| Affine { weight: weight(len, offset), bias: None };
        let affine = |len, offset| Affine { weight: weight(len, offset), bias: Some(weight(len, offset + 2)) };
        let normed = |query, key, attention| Attention { norms: Some(Norms { query, key, eps: 1e-5 }), ..attention };
        let slopes = |steps| (vec![0.3, 0.07, 0.01, 0.9], 0.8, steps);
        let alibi = |attention: Attention, (slopes, scale, steps)| attention.with_alibi(slopes, scale, steps);
        vec![
            ("as in GPT-2", plain(3, 3, 16)),
            ("grouped, with a window", plain(4, 2, 20).with_window(Some(70))),
            ("capped", plain(4, 2, 16).with_cap(Some(0.7))),
            ("rotary halves", plain(4, 1, 16).with_rope(&rope(Pairing::Halves, 8))),
            ("rotary neighbours, in part", plain(2, 1, 16).with_rope(&rope(Pairing::Neighbours, 5))),
            (
                "normalised and rotary",
                normed(rms(24, 1), rms(24, 5), plain(2, 2, 24).with_rope(&rope(Pairing::Halves, 12))),
            ),
            ("layer norms", normed(affine(16, 1), affine(16, 5), plain(4, 2, 16))),
            (
                "layer norms of each head, in groups",
                normed(affine(4 * 16, 1), affine(2 * 16, 5), plain(4, 2, 16).with_order(Order::Groups)),
            ),
            ("in groups", plain(6, 2, 16).with_order(Order::Groups).with_rope(&rope(Pairing::Halves, 3))),
            ("by distance", alibi(plain(4, 4, 16).with_order(Order::Groups), slopes(Steps::Exact))),
            ("by distance, rounded", alibi(plain(4, 2, 16), slopes(Steps::Bf16))),
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
        step_of_last(attention, caches.into_iter().map(|(cache, rows)| (cache, rows, rows)).collect(), qkv)
    }

    /// The same, with the last so many of a cache's rows wanted of the last layer.
    fn step_of_last(attention: &Attention, caches: Vec<(&mut KvCache, usize, usize)>, qkv: &Tensor) -> Vec<f32> {
        let mut batch = Batch::default();
        for (cache, rows, wanted) in caches {
            batch.push(&vec![0; rows], cache, if wanted == 0 { Rows::None } else { Rows::Last(wanted) });
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
    fn the_last_layer_attends_for_wanted_rows_alone() {
        for kernels in kernels::available().into_iter().map(Some).chain([None]) {
            for (name, attention) in layers(kernels) {
                let qkv = numbers(90 + 33, &attention, 3);
                // In the first of two layers every row goes on.
                for (n_layers, wanted) in [(1, [90, 33]), (1, [1, 0]), (1, [0, 5]), (1, [0, 0]), (2, [1, 0])] {
                    let [mut a, mut b, mut c, mut d] = [0; 4].map(|_| KvCache::new(n_layers, CacheType::F32));
                    let all = step(&attention, vec![(&mut a, 90), (&mut b, 33)], &qkv);
                    let fed = vec![(&mut c, 90, wanted[0]), (&mut d, 33, wanted[1])];
                    let out = step_of_last(&attention, fed, &qkv);
                    let row = all.len() / (90 + 33);
                    let kept = |rows: Range<usize>| &all[rows.start * row..rows.end * row];
                    let right = match n_layers {
                        1 => [kept(90 - wanted[0]..90), kept(90 + 33 - wanted[1]..90 + 33)].concat(),
                        _ => all.clone(),
                    };
                    let bound = if kernels.is_some() { 0.0 } else { 1e-5 };
                    assert_eq!(out.len(), right.len(), "{name}, {wanted:?} of {n_layers} layers");
                    for (out, right) in out.iter().zip(&right) {
                        assert!(
                            (out - right).abs() <= bound,
                            "{name}, {wanted:?} of {n_layers} layers: {out}, {right}"
                        );
                    }
                    for (stored, cache, rows) in [(&a, &c, 90), (&b, &d, 33)] {
                        assert!((0..rows).all(|row| stored.has_same_row(cache, row)), "{name}, {wanted:?}");
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
