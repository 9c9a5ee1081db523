//! Products with block-quantised weights: how activations are quantised, the order of the sums, and the portable functions
//! that every other tier is held against.
//!
//! Each row of x is quantised by itself, 32 numbers at a time: with `max` the largest magnitude among them,
//! `scale = max / 127`, `q = round(x * (127 / max))`, nearest with ties to even. 32 numbers below [`SMALLEST`] count as
//! zeros; where one is infinite or not a number, q is 0 and the scale infinite or not a number, and so are the results.
//!
//! Per output one sum in `f32` over the units of 32 weights in sequence, with all products and sums inside a unit exact:
//!
//! ```text
//! isum = scales[0] * Σ w.q * a.q over the first 16 + scales[1] * the same over the others
//! sum  = fma(f32(isum) * w.scale, a.scale, sum)
//! msum = mins[0] * Σ a.q over the first 16 + mins[1] * the same over the others
//! sum  = fma(w.min, a.scale * f32(msum), sum)                            only in formats with minima
//! ```

use std::ops::Range;

use super::blocks::{
    Block, Format, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, UNIT, Unit, view,
};
use super::product::{Family, Out, Panels};
use super::{Matrix, Slice};

/// The portable functions.
pub(super) static SCALAR: Family = Family { panel_rows, panel_bytes, prepare, column_unit, multiply };

/// The largest magnitude of a unit must reach this, `2^-118`, or its scale would not be a normal number.
pub(super) const SMALLEST: f32 = f32::from_bits((127 - 118) << 23);

/// Rows that share one reading of the weights: up to so many make one panel, more make panels of [`TILE_ROWS`].
pub(super) const FEW_ROWS: usize = 16;

/// Rows of x in a tile of a product with many rows.
pub(super) const TILE_ROWS: usize = 6;

/// Where the parts of a panel of quantised rows begin, the same for all formats and tiers. With `at = unit * rows + row`:
///
/// | part | at `at` | |
/// |---|---|---|
/// | `q` | 32 `i8` | the numbers, in their order |
/// | `scale` | `f32` | |
/// | `scaled_sum` | `f32` | `scale * f32(sum of all 32)` |
/// | `minus_sum` | `i32` | the sum of all 32, negated |
/// | `minus_low` | `i32` | the sum of the first 16, negated |
/// | `minus_high` | `i32` | the sum of the last 16, negated |
///
/// Each part begins at a multiple of 64 bytes. Negated, since a weight that is stored with an offset starts its sum at
/// minus the offset times the sum of the activations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) units: usize,
    pub(super) rows: usize,
}

impl Shape {
    pub(super) fn new(w: &Matrix<'_>, panel_rows: usize) -> Shape {
        Shape { units: w.inputs / UNIT, rows: panel_rows }
    }

    /// Bytes of `q`, to where `scale` begins.
    pub(super) fn numbers(self) -> usize {
        (self.units * self.rows * UNIT).next_multiple_of(64)
    }

    /// Bytes from each of the other parts to the next.
    pub(super) fn plane(self) -> usize {
        (self.units * self.rows * 4).next_multiple_of(64)
    }

    pub(super) fn bytes(self) -> usize {
        self.numbers() + 5 * self.plane()
    }

    fn read(self, panel: &[u8]) -> Quantized<'_> {
        let count = self.units * self.rows;
        let (q, rest) = panel[..self.bytes()].split_at(self.numbers());
        let plane = |i: usize| &rest[i * self.plane()..][..4 * count];
        Quantized {
            q: bytemuck::cast_slice(&q[..count * UNIT]),
            scale: bytemuck::cast_slice(plane(0)),
            minus_low: bytemuck::cast_slice(plane(3)),
            minus_high: bytemuck::cast_slice(plane(4)),
        }
    }
}

/// What the portable functions read of a panel.
struct Quantized<'a> {
    q: &'a [[i8; UNIT]],
    scale: &'a [f32],
    minus_low: &'a [i32],
    minus_high: &'a [i32],
}

pub(super) fn panel_rows(_: &Matrix<'_>, rows: usize) -> usize {
    if rows <= FEW_ROWS { rows } else { TILE_ROWS }
}

pub(super) fn panel_bytes(w: &Matrix<'_>, panel_rows: usize) -> usize {
    Shape::new(w, panel_rows).bytes()
}

fn column_unit(_: &Matrix<'_>, _: usize) -> usize {
    1
}

/// One unit of activations.
pub(super) struct Activations {
    pub(super) q: [i8; UNIT],
    pub(super) scale: f32,
    pub(super) minus_low: i32,
    pub(super) minus_high: i32,
}

/// Quantises 32 numbers.
#[inline(always)]
pub(super) fn quantize(x: &[f32; UNIT]) -> Activations {
    /// Added to a number below 2^22, leaves it rounded to the nearest integer in the lower bits.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23

    // As integers, so that what is not a number is larger than everything else.
    let max = x.iter().fold(0, |max, x| (x.to_bits() & 0x7fff_ffff).max(max));
    if max >= f32::INFINITY.to_bits() || max < SMALLEST.to_bits() {
        let scale = if max < SMALLEST.to_bits() { 0.0 } else { f32::from_bits(max) };
        return Activations { q: [0; UNIT], scale, minus_low: 0, minus_high: 0 };
    }
    let max = f32::from_bits(max);
    let inverse = 127.0 / max;
    let mut q = [0; UNIT];
    let mut sums = [0; 2];
    for i in 0..UNIT {
        let rounded = (x[i] * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        q[i] = rounded as i8;
        sums[i / 16] -= rounded;
    }
    Activations { q, scale: max / 127.0, minus_low: sums[0], minus_high: sums[1] }
}

fn prepare(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
    lay_out(w, panel_rows, x, to, quantize);
}

/// Lays out rows of x as [`Shape`] says, quantised by a function that has the results of [`quantize`].
#[inline(always)]
pub(super) fn lay_out(
    w: &Matrix<'_>,
    panel_rows: usize,
    x: &[f32],
    to: &mut [u8],
    quantize: impl Fn(&[f32; UNIT]) -> Activations,
) {
    let shape = Shape::new(w, panel_rows);
    let (numbers, rest) = to.split_at_mut(shape.numbers());
    let numbers: &mut [[i8; UNIT]] = bytemuck::cast_slice_mut(numbers);
    let mut planes = rest.chunks_exact_mut(shape.plane());
    let mut plane = || planes.next().expect("a panel has five");
    let (scale, scaled_sum): (&mut [f32], &mut [f32]) =
        (bytemuck::cast_slice_mut(plane()), bytemuck::cast_slice_mut(plane()));
    let [minus_sum, minus_low, minus_high]: [&mut [i32]; 3] =
        [bytemuck::cast_slice_mut(plane()), bytemuck::cast_slice_mut(plane()), bytemuck::cast_slice_mut(plane())];
    for row in 0..panel_rows {
        let x = x.chunks_exact(w.inputs).nth(row);
        for unit in 0..shape.units {
            let at = unit * panel_rows + row;
            let a = quantize(x.map_or(&[0.0; UNIT], |x| &x.as_chunks::<UNIT>().0[unit]));
            let sum = a.minus_low + a.minus_high;
            numbers[at] = a.q;
            scale[at] = a.scale;
            scaled_sum[at] = a.scale * -sum as f32;
            (minus_sum[at], minus_low[at], minus_high[at]) = (sum, a.minus_low, a.minus_high);
        }
    }
}

/// Hands a matrix of blocks to a function that is generic over their format.
macro_rules! by_format {
    ($format:expr, $function:ident($($arg:expr),*)) => {
        match $format {
            Format::Q4_0 => $function::<Q4_0>($($arg),*),
            Format::Q4_1 => $function::<Q4_1>($($arg),*),
            Format::Q5_0 => $function::<Q5_0>($($arg),*),
            Format::Q5_1 => $function::<Q5_1>($($arg),*),
            Format::Q8_0 => $function::<Q8_0>($($arg),*),
            Format::Q2K => $function::<Q2K>($($arg),*),
            Format::Q3K => $function::<Q3K>($($arg),*),
            Format::Q4K => $function::<Q4K>($($arg),*),
            Format::Q5K => $function::<Q5K>($($arg),*),
            Format::Q6K => $function::<Q6K>($($arg),*),
            Format::Iq4Nl => $function::<Iq4Nl>($($arg),*),
            Format::Iq4Xs => $function::<Iq4Xs>($($arg),*),
            Format::Mxfp4 => $function::<Mxfp4>($($arg),*),
        }
    };
}

/// The blocks of a quantised matrix.
///
/// # Panics
///
/// When its weights are not quantised.
pub(super) fn blocks_of<'a>(w: &Matrix<'a>) -> (Format, &'a [u8]) {
    match w.data {
        Slice::Blocks(format, bytes) => (format, bytes),
        _ => panic!("weights that are not quantised"),
    }
}

fn multiply(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
    let (format, bytes) = blocks_of(w);
    by_format!(format, multiply_blocks(bytes, w, x, columns, out));
}

fn multiply_blocks<B: Block>(bytes: &[u8], w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
    let shape = Shape::new(w, x.panel_rows);
    let blocks = view::<B>(bytes);
    let mut units: Vec<Unit> = Vec::with_capacity(shape.units);
    for column in columns {
        let row = &blocks[column * (shape.units / B::UNITS)..][..shape.units / B::UNITS];
        units.clear();
        units.extend(row.iter().flat_map(|block| (0..B::UNITS).map(|i| block.unit(i))));
        for (panel, data) in x.data.chunks_exact(x.panel_bytes).enumerate() {
            let a = shape.read(data);
            for r in 0..x.panel_rows.min(x.rows - panel * x.panel_rows) {
                let mut sum = 0.0;
                for (unit, w) in units.iter().enumerate() {
                    sum = add_unit::<B>(w, &a, unit * x.panel_rows + r, sum);
                }
                out.store(panel * x.panel_rows + r, column, sum);
            }
        }
    }
}

/// One step of the sum.
#[inline(always)]
fn add_unit<B: Block>(w: &Unit, a: &Quantized<'_>, at: usize, sum: f32) -> f32 {
    let q = &a.q[at];
    let mut isums = [0; 2];
    for i in 0..UNIT {
        isums[i / 16] += i32::from(w.q[i]) * i32::from(q[i]);
    }
    let isum = w.scales[0] * isums[0] + w.scales[1] * isums[1];
    let sum = (isum as f32 * w.scale).mul_add(a.scale[at], sum);
    if !B::MINS {
        return sum;
    }
    let minus = w.mins[0] * a.minus_low[at] + w.mins[1] * a.minus_high[at];
    w.min.mul_add(a.scale[at] * -minus as f32, sum)
}

/// Weights as the `f32` that their format defines: one row of an embedding, or a whole matrix.
///
/// # Panics
///
/// When `bytes` are not the blocks of `out.len()` numbers.
pub(super) fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) {
    by_format!(format, dequantize_blocks(bytes, out));
}

fn dequantize_blocks<B: Block>(bytes: &[u8], out: &mut [f32]) {
    let blocks = view::<B>(bytes);
    assert_eq!(blocks.len() * B::UNITS * UNIT, out.len(), "length of the output");
    let (units, _) = out.as_chunks_mut::<UNIT>();
    for (block, out) in blocks.iter().zip(units.chunks_exact_mut(B::UNITS)) {
        for (i, out) in out.iter_mut().enumerate() {
            let w = block.unit(i);
            for i in 0..UNIT {
                let scaled = w.scale * w.scales[i / 16] as f32 * f32::from(w.q[i]);
                out[i] = if B::MINS { scaled + w.min * w.mins[i / 16] as f32 } else { scaled };
            }
        }
    }
}
