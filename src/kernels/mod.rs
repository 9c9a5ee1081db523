//! What a language model computes on the CPU: slices in, slices out.
//!
//! [`Kernels`] is a table of functions compiled for one set of CPU instructions, [`best`] the fastest that this CPU can
//! run. All tables give the same bits, and **a row's result depends on that row and the weights alone**: not on the rows
//! around it, the number of threads, or how the work was cut. `matmul.rs` documents the order of additions.
//!
//! Nothing here knows of tensors, models or files. Wrong lengths are errors of the program and panic with the lengths.
//!
//! To add a weight format: a variant of [`Slice`] and its `Element`. To add a tier: a line in `tiers.rs`, where a
//! table's entry may also be replaced by one written by hand.

// Lanes, rows and steps of several arrays are indexed side by side, which reads better than zips of four iterators.
#![allow(clippy::needless_range_loop)]

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod blocks;
mod cache;
#[cfg(target_arch = "x86_64")]
mod dense512;
mod heads;
#[cfg(target_arch = "x86_64")]
mod kinds512;
mod lanes;
mod math;
mod matmul;
mod pool;
mod product;
mod quantize;
mod quantized;
mod roof;
mod rope;
mod rows;
mod select;
mod tiers;

#[cfg(test)]
mod tests;

pub use attention::Sequence;
pub use blocks::Format;
pub use cache::{CHUNK_ROWS, CacheShape, CacheType, Chunk};
pub use heads::{Alibi, Attend, HeadNorm, HeadNorms, Heads, Order, Steps};
pub use pool::Pool;
pub use roof::Arithmetic;
pub use rope::{Pairing, Rotary};
pub use select::{largest, nth_largest};

use half::{bf16, f16};

use product::Family;

/// Weights as they are stored.
#[derive(Clone, Copy, Debug)]
pub enum Slice<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// The upper half of a 32-bit float.
    Bf16(&'a [bf16]),
    /// Quantised blocks, as GGUF files lay them out.
    Blocks(Format, &'a [u8]),
}

impl<'a> Slice<'a> {
    /// A part of it; of blocks, whole ones.
    ///
    /// # Panics
    ///
    /// When it holds fewer, or the part cuts a block.
    #[must_use]
    pub fn part(&self, range: std::ops::Range<usize>) -> Slice<'a> {
        match self {
            Slice::F32(w) => Slice::F32(&w[range]),
            Slice::F16(w) => Slice::F16(&w[range]),
            Slice::Bf16(w) => Slice::Bf16(&w[range]),
            Slice::Blocks(format, w) => {
                let whole = format.block_len();
                assert!(range.start.is_multiple_of(whole) && range.end.is_multiple_of(whole), "{range:?} cuts a block");
                Slice::Blocks(*format, &w[format.bytes(range.start)..format.bytes(range.end)])
            }
        }
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Slice::F32(w) => w.len(),
            Slice::F16(w) => w.len(),
            Slice::Bf16(w) => w.len(),
            Slice::Blocks(format, w) => w.len() / format.block_bytes() * format.block_len(),
        }
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which way round a weight matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// (outputs, inputs), as in torch's `Linear`.
    OutIn,
    /// (inputs, outputs), as in GPT-2's `Conv1D`.
    InOut,
}

/// A weight matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// All its numbers, row after row.
    pub data: Slice<'a>,
    /// What a row is.
    pub layout: Layout,
    /// The length of a row of `x`.
    pub inputs: usize,
    /// The length of a row of `y`.
    pub outputs: usize,
}

/// A function applied to every element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// GELU by its tanh approximation, `gelu_new` of GPT-2.
    GeluTanh,
    /// GELU by the error function.
    Gelu,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + exp(-x))`
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// One of the matrices whose outputs stand side by side in y.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its weights.
    pub matrix: Matrix<'a>,
    /// What is added to its outputs.
    pub bias: Option<&'a [f32]>,
}

/// What is done to every row of x before it is multiplied.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a> {
    /// Nothing.
    Nothing,
    /// `(x - mean) / sqrt(variance + eps) * weight + bias`
    LayerNorm {
        /// One per input.
        weight: &'a [f32],
        /// One per input.
        bias: &'a [f32],
        /// Keeps the root from zero.
        eps: f32,
    },
    /// `x / sqrt(mean of squares + eps) * weight`
    RmsNorm {
        /// One per input.
        weight: &'a [f32],
        /// Keeps the root from zero.
        eps: f32,
    },
    /// A function of each element.
    Activation(Activation),
    /// A row is twice as long as W has inputs: `activation(first half) * second half`.
    Gated(Activation),
}

/// Format, numbers, blocks.
type QuantizeFn = fn(Format, &[f32], &mut [u8]);

/// Kernels compiled for one set of CPU instructions.
pub struct Kernels {
    name: &'static str,
    dense: Family,
    quantized: &'static Family,
    before: fn(&Before<'_>, inputs: usize, x: &[f32], out: &mut [f32]),
    attend: attention::AttendFn,
    widen: fn(Slice<'_>, &mut [f32]),
    first_non_finite: fn(Slice<'_>) -> Option<usize>,
    quantize: QuantizeFn,
}

/// A name that is not among the [`available`] kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectError {
    /// No kernels have this name.
    Unknown(String),
    /// There are kernels of this name, but this CPU lacks their instructions.
    Unsupported(String),
}

impl std::fmt::Display for SelectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SelectError::Unknown(name) => write!(f, "no kernels are called `{name}`, expected one of ")?,
            SelectError::Unsupported(name) => write!(f, "this CPU cannot run the `{name}` kernels, expected one of ")?,
        }
        for (i, kernels) in available().iter().enumerate() {
            write!(f, "{}`{}`", if i > 0 { ", " } else { "" }, kernels.name)?;
        }
        Ok(())
    }
}

impl std::error::Error for SelectError {}

/// The kernels called `name`, the [`best`] without one. The name is what a user sets in `FIRESIDE_KERNELS`.
///
/// # Errors
///
/// When there are none of this name, or none that this CPU can run.
pub fn select(name: Option<&str>) -> Result<&'static Kernels, SelectError> {
    let Some(name) = name else { return Ok(best()) };
    match tiers::all().into_iter().find(|(kernels, _)| kernels.name == name) {
        Some((kernels, true)) => Ok(kernels),
        Some((_, false)) => Err(SelectError::Unsupported(name.to_owned())),
        None => Err(SelectError::Unknown(name.to_owned())),
    }
}

/// The fastest kernels that this CPU can run.
#[must_use]
pub fn best() -> &'static Kernels {
    available()[0]
}

/// All kernels that this CPU can run, fastest first; `scalar` is always among them.
#[must_use]
pub fn available() -> Vec<&'static Kernels> {
    tiers::all().into_iter().filter_map(|(kernels, runs)| runs.then_some(kernels)).collect()
}

/// Below so many multiplications a call stays on its thread: to share work with a spinning thread costs about a
/// microsecond, in which one thread does so many.
const INLINE_WORK: usize = 1 << 16;

/// Pieces per thread of a large call, so that a thread that is held up does not hold up the call.
const PIECES_PER_THREAD: usize = 4;

impl Kernels {
    /// `scalar`, `avx2`, `avxvnni`, `avx512`, `avx512vnni` or `avx512bf16`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// `y (rows, outputs) = before(x) · W + bias + residual`, with the outputs of all parts side by side.
    ///
    /// `x` has as many numbers per row as the parts have inputs, twice as many for [`Before::Gated`].
    ///
    /// # Panics
    ///
    /// When lengths do not fit.
    #[must_use]
    pub fn linear(
        &self,
        pool: &Pool,
        parts: &[Part<'_>],
        before: Before<'_>,
        x: &[f32],
        residual: Option<&[f32]>,
    ) -> Vec<f32> {
        product::linear(self, pool, parts, before, x, residual)
    }

    /// One row as `before` makes it, by itself. Of [`Before::Gated`] it is twice as long as the result.
    ///
    /// # Panics
    ///
    /// When lengths do not fit.
    pub fn prepare_row(&self, before: Before<'_>, x: &[f32], out: &mut [f32]) {
        let wide = if matches!(before, Before::Gated(_)) { 2 * out.len() } else { out.len() };
        assert_eq!(x.len(), wide, "length of a row");
        if let Before::LayerNorm { weight, .. } | Before::RmsNorm { weight, .. } = before {
            assert_eq!(weight.len(), out.len(), "length of the norm's weight");
        }
        if let Before::LayerNorm { bias, .. } = before {
            assert_eq!(bias.len(), out.len(), "length of the norm's bias");
        }
        (self.before)(&before, out.len(), x, out);
    }

    /// The functions for weights like these.
    fn family(&self, w: &Matrix<'_>) -> &Family {
        match w.data {
            Slice::Blocks(..) => self.quantized,
            _ => &self.dense,
        }
    }

    /// `out` = the same numbers as `f32`: one row of an embedding.
    ///
    /// # Panics
    ///
    /// When lengths differ.
    pub fn widen(&self, w: Slice<'_>, out: &mut [f32]) {
        assert_eq!(w.len(), out.len(), "length of the output");
        (self.widen)(w, out);
    }

    /// The index of the first NaN or infinity, at the speed of memory.
    #[must_use]
    pub fn first_non_finite(&self, w: Slice<'_>) -> Option<usize> {
        (self.first_non_finite)(w)
    }

    /// Writes numbers as blocks: whole ones, of numbers that are finite and at most 65,504 in magnitude.
    ///
    /// # Panics
    ///
    /// When lengths do not fit.
    pub fn quantize(&self, format: Format, x: &[f32], to: &mut [u8]) {
        assert!(x.len().is_multiple_of(format.block_len()), "{} numbers are not whole blocks", x.len());
        assert_eq!(to.len(), format.bytes(x.len()), "length of the blocks");
        (self.quantize)(format, x, to);
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Kernels").field(&self.name).finish()
    }
}
