//! Layers over candle tensors: a weight from `weights`, a forward pass, nothing else.
//!
//! On the processor each layer is a candle custom op around one of our `kernels`. Elsewhere, and with
//! `FIRESIDE_KERNELS=candle`, the same layer is spelled in candle's own operations, which makes them each other's test.
//! Tensors are f32 and flat over tokens, `(tokens, dim)`; only [`attention`] knows that tokens belong to sequences.

mod activation;
mod attention;
mod batch;
mod embedding;
mod kv_cache;
mod linear;
mod norm;

pub use activation::Activation;
pub use attention::Attention;
pub use batch::{Batch, Rows};
pub use embedding::Embedding;
pub use kv_cache::KvCache;
pub use linear::Linear;
pub use norm::LayerNorm;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::error::Result;

/// Runs `kernel(x, y)` over the numbers of a tensor on the processor; `y` has `width` numbers for each row of `x`.
fn on_host(name: &'static str, x: &Tensor, width: usize, kernel: impl Fn(&[f32], &mut [f32])) -> Result<Tensor> {
    Ok(x.apply_op1_no_bwd(&HostOp { name, width, kernel })?)
}

struct HostOp<F> {
    name: &'static str,
    width: usize,
    kernel: F,
}

impl<F: Fn(&[f32], &mut [f32])> CustomOp1 for HostOp<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, _) = layout.shape().dims2()?;
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{} needs contiguous rows", self.name)
        };
        let mut y = vec![0.0; rows * self.width];
        (self.kernel)(&storage.as_slice::<f32>()?[start..end], &mut y);
        Ok((CpuStorage::F32(y), (rows, self.width).into()))
    }
}
