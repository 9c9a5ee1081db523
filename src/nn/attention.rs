//! Causal attention of every token over its own sequence, with grouped heads.
//!
//! softmax(q · kᵀ · scale) · v. On the processor one kernel does it over the cache's chunks where they lie; the
//! reference gathers them and spells it out in candle's operations.

use candle_core::{D, Tensor};

use super::kv_cache::CHUNK_ROWS;
use super::{Batch, on_host};
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{Heads, Span};

/// Attention of one layer; it has no weights of its own.
pub struct Attention {
    heads: Heads,
    compute: Compute,
}

impl Attention {
    /// Attention with `n_heads` query heads over `n_kv_heads` key heads.
    pub fn new(heads: Heads, compute: &Compute) -> Attention {
        Attention { heads, compute: compute.clone() }
    }

    /// q (tokens, n_heads · head_dim), k and v (tokens, n_kv_heads · head_dim) → (tokens, n_heads · head_dim).
    /// Appends k and v to the caches of `layer`.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let (keys, values) = (k.flatten_all()?.to_vec1::<f32>()?, v.flatten_all()?.to_vec1::<f32>()?);
        let width = k.dim(1)?;
        for sequence in batch.sequences() {
            let rows = sequence.rows.start * width..sequence.rows.end * width;
            sequence.cache.write(layer, &keys[rows.clone()], &values[rows]);
        }
        let q = q.contiguous()?;
        match self.compute.kernels {
            Some(kernels) => {
                let caches: Vec<_> =
                    batch.sequences().iter().map(|s| (s.rows.len(), s.cache.len(), s.cache.chunks(layer))).collect();
                let spans: Vec<Span> = caches
                    .iter()
                    .flat_map(|(rows, past, (keys, values))| {
                        (0..*rows).map(move |row| Span {
                            keys,
                            values,
                            chunk_rows: CHUNK_ROWS,
                            start: 0,
                            end: past + row + 1,
                        })
                    })
                    .collect();
                on_host("attention", &q, q.dim(1)?, |q, out| {
                    kernels.attend(&self.compute.pool, &self.heads, &spans, q, out)
                })
            }
            None => self.spelled_out(&q, batch, layer),
        }
    }

    fn spelled_out(&self, q: &Tensor, batch: &mut Batch, layer: usize) -> Result<Tensor> {
        let Heads { n_heads, n_kv_heads, head_dim, scale } = self.heads;
        let device = q.device();
        let mut outputs = Vec::new();
        for sequence in batch.sequences() {
            let (rows, past) = (sequence.rows.len(), sequence.cache.len());
            let total = past + rows;
            let gathered = |chunks: Vec<&[f32]>| -> Result<Tensor> {
                let numbers = chunks.concat()[..total * n_kv_heads * head_dim].to_vec();
                let heads = Tensor::from_vec(numbers, (total, n_kv_heads, head_dim), device)?.transpose(0, 1)?;
                // (n_kv_heads, total, head_dim) → (n_heads, total, head_dim): each key head serves its group of queries
                let group = n_heads / n_kv_heads;
                let heads = heads.unsqueeze(1)?.broadcast_as((n_kv_heads, group, total, head_dim))?;
                Ok(heads.contiguous()?.reshape((n_heads, total, head_dim))?)
            };
            let (keys, values) = sequence.cache.chunks(layer);
            let (keys, values) = (gathered(keys)?, gathered(values)?);
            let q = q
                .narrow(0, sequence.rows.start, rows)?
                .reshape((rows, n_heads, head_dim))?
                .transpose(0, 1)?
                .contiguous()?;
            let scores = (q.matmul(&keys.t()?.contiguous()?)? * f64::from(scale))?; // (n_heads, rows, total)
            let mask: Vec<f32> = (0..rows)
                .flat_map(|row| (0..total).map(move |key| if key <= past + row { 0.0 } else { f32::NEG_INFINITY }))
                .collect();
            let scores = scores.broadcast_add(&Tensor::from_vec(mask, (rows, total), device)?)?;
            let out = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&values)?; // (n_heads, rows, head_dim)
            outputs.push(out.transpose(0, 1)?.reshape((rows, n_heads * head_dim))?);
        }
        Ok(Tensor::cat(&outputs, 0)?)
    }
}
