//! Layers over candle tensors: a weight from `weights`, a forward pass, nothing else.
//!
//! On the processor each layer is one op around our `kernels`. Elsewhere, and with
//! `FIRESIDE_KERNELS=candle`, the same layer is spelled in candle's own operations, which makes them each other's test.
//! Tensors are f32 and flat over tokens, `(tokens, dim)`; only [`attention`] knows that tokens belong to sequences.

mod activation;
mod attention;
mod batch;
mod embedding;
mod kv_cache;
mod linear;
mod norm;
mod rope;

pub use activation::Activation;
pub use attention::Attention;
pub use batch::{Batch, Rows};
pub use embedding::Embedding;
pub use kv_cache::KvCache;
pub use linear::{Before, Bias, Linear};
pub use norm::Norm;
pub use rope::Rope;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::error::Result;

/// x + y, both (rows, dim). candle's own sum hands more than 65,536 numbers to a second pool of threads, beside the one
/// that `--threads` sizes; one thread adds them in less time than that pool takes to wake.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(if x.device().is_cpu() { x.apply_op2_no_bwd(y, &Sum)? } else { (x + y)? })
}

struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (Some(x_range), Some(y_range)) = (x_layout.contiguous_offsets(), y_layout.contiguous_offsets()) else {
            candle_core::bail!("a sum needs contiguous rows")
        };
        let (x, y) = (&x.as_slice::<f32>()?[x_range.0..x_range.1], &y.as_slice::<f32>()?[y_range.0..y_range.1]);
        let sum = x.iter().zip(y).map(|(x, y)| x + y).collect();
        Ok((CpuStorage::F32(sum), x_layout.shape().clone()))
    }
}
