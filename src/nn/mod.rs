//! Layers over candle tensors: a weight from `weights`, a forward pass, nothing else.
//!
//! On the processor each layer is one op around our `kernels`. Elsewhere, and with
//! `FIRESIDE_KERNELS=candle`, the same layer is spelled in candle's own operations, which makes them each other's test.
//! Tensors are f32 and flat over tokens, `(tokens, dim)`; only [`attention`] knows that tokens belong to sequences.

mod activation;
mod attention;
mod batch;
mod embedding;
mod experts;
mod kv_cache;
mod linear;
mod norm;
mod pointwise;
mod rope;

pub use activation::Activation;
pub use attention::Attention;
pub use batch::{Batch, Rows};
pub use embedding::Embedding;
pub use experts::{Expert, Experts, Routing};
pub use kv_cache::KvCache;
pub use linear::{Before, Bias, Linear};
pub use norm::Norm;
pub use pointwise::{add, bounded, scaled};
pub use rope::Rope;

use candle_core::{CpuStorage, Layout};

/// What a tensor's layout says of its storage, if that lies in one piece.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("a layer needs contiguous rows"),
    }
}
