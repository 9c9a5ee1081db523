//! What is done to numbers one row or one element at a time: layer norm, activations, widening, and the search for
//! numbers that are not finite.

use half::{bf16, f16};

use super::lanes::{Element, Half, LANES, Lanes};
use super::math::{exp, normal_cdf, tanh};
use super::quantized::dequantize;
use super::{Activation, Before, Slice};

/// `(x - mean) / sqrt(variance + eps) * weight + bias` of every row, the mean first and the variance from the differences.
#[inline(always)]
pub(super) fn layer_norm(weight: &[f32], bias: &[f32], eps: f32, x: &[f32], y: &mut [f32]) {
    let dim = weight.len();
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        let mean = lane_sum(x, |x| x) / dim as f32;
        let variance = lane_sum(x, |x| (x - mean) * (x - mean)) / dim as f32;
        let inverse = 1.0 / (variance + eps).sqrt();
        for i in 0..dim {
            y[i] = ((x[i] - mean) * inverse).mul_add(weight[i], bias[i]);
        }
    }
}

/// `x / sqrt(mean of squares + eps) * weight` of every row.
#[inline(always)]
pub(super) fn rms_norm(weight: &[f32], eps: f32, x: &[f32], y: &mut [f32]) {
    let dim = weight.len();
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        let mean = lane_sum(x, |x| x * x) / dim as f32;
        let inverse = 1.0 / (mean + eps).sqrt();
        for i in 0..dim {
            y[i] = x[i] * inverse * weight[i];
        }
    }
}

/// The sum of `f(x)`: lane i adds up i, i + 16, …, then the lanes.
#[inline(always)]
fn lane_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sum = Lanes::ZERO;
    for chunk in chunks {
        for i in 0..LANES {
            sum.0[i] += f(chunk[i]);
        }
    }
    for (sum, x) in sum.0.iter_mut().zip(rest) {
        *sum += f(*x);
    }
    sum.sum()
}

/// Rows of x, of `inputs` numbers each, as `before` makes them.
#[inline(always)]
pub(super) fn apply(before: &Before<'_>, inputs: usize, x: &[f32], out: &mut [f32]) {
    match *before {
        Before::Nothing => out.copy_from_slice(x),
        Before::LayerNorm { weight, bias, eps } => layer_norm(weight, bias, eps, x, out),
        Before::RmsNorm { weight, eps } => rms_norm(weight, eps, x, out),
        Before::Activation(activation) => activate(activation, x, out),
        Before::Gated(activation) => {
            for (x, out) in x.chunks_exact(2 * inputs).zip(out.chunks_exact_mut(inputs)) {
                let (gate, up) = x.split_at(inputs);
                activate(activation, gate, out);
                for (out, up) in out.iter_mut().zip(up) {
                    *out *= up;
                }
            }
        }
    }
}

#[inline(always)]
fn activate(activation: Activation, x: &[f32], out: &mut [f32]) {
    match activation {
        Activation::GeluTanh => each(x, out, gelu_tanh),
        Activation::Gelu => each(x, out, |x| x * normal_cdf(x)),
        Activation::Relu => each(x, out, |x| if x < 0.0 { 0.0 } else { x }),
        Activation::Silu => each(x, out, |x| x / (1.0 + exp(-x))),
        Activation::Tanh => each(x, out, tanh),
    }
}

/// `x / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (x + 0.044715 x³)`, as `x / (1 + exp(-2u))`: the same function
/// without the cancellation at negative x.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    /// `-2 * sqrt(2 / pi)`
    const SCALE: f32 = -1.595_769_2;
    let u = (x * x * x).mul_add(0.044_715, x);
    x / (1.0 + exp(SCALE * u))
}

#[inline(always)]
fn each(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (x, out) in x.iter().zip(out) {
        *out = f(*x);
    }
}

#[inline(always)]
pub(super) fn widen<H: Half>(w: Slice<'_>, out: &mut [f32]) {
    match w {
        Slice::F32(w) => out.copy_from_slice(w),
        Slice::F16(w) => _ = Element::widen_into(H::view(w), 0, out),
        Slice::Bf16(w) => _ = Element::widen_into(w, 0, out),
        Slice::Blocks(format, bytes) => dequantize(format, bytes, out),
    }
}

#[inline(always)]
pub(super) fn first_non_finite(w: Slice<'_>) -> Option<usize> {
    // Without its sign, a number is finite if its bits are below those of infinity.
    match w {
        Slice::Blocks(..) => None,
        Slice::F32(w) => first_at_least(w, f32::INFINITY.to_bits(), |w| w.to_bits() & (u32::MAX >> 1)),
        Slice::F16(w) => first_at_least(w, f16::INFINITY.to_bits(), |w| w.to_bits() & (u16::MAX >> 1)),
        Slice::Bf16(w) => first_at_least(w, bf16::INFINITY.to_bits(), |w| w.to_bits() & (u16::MAX >> 1)),
    }
}

/// The index of the first element whose bits reach `limit`.
#[inline(always)]
fn first_at_least<E: Copy, B: Copy + Ord + Default>(w: &[E], limit: B, bits: impl Fn(E) -> B) -> Option<usize> {
    /// Large enough that the loop inside is all that counts, small enough for the second look to stay in the cache.
    const BLOCK: usize = 1024;
    for (block, w) in w.chunks(BLOCK).enumerate() {
        let mut largest = B::default();
        for &w in w {
            largest = largest.max(bits(w));
        }
        if largest >= limit {
            let inside = w.iter().position(|&w| bits(w) >= limit)?;
            return Some(block * BLOCK + inside);
        }
    }
    None
}
