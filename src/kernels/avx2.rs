//! Products with quantised weights for CPUs with AVX2, and for those that have VNNI in 256 bits as well.
//!
//! A lane is an output: eight weight rows are transposed four bytes at a time, so that a vector holds the same four
//! numbers of eight rows, and four numbers of a row of x are multiplied with all of them. The sums of a unit of 32 come
//! out as one vector without additions across lanes, and neither order nor cut can change their bits: inside a unit they
//! are exact integers, between units there is one chain per output (see `quantized.rs`).
//!
//! How eight rows of a block are read is all that a format adds, [`Packed`]; how bytes are multiplied all that a tier adds,
//! [`Isa`]. Few rows of x are multiplied straight from the registers that the weights were unpacked to, many from a strip
//! of sixteen outputs that was unpacked once.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::Matrix;
use super::blocks::{
    Block, Format, IQ4_NL_VALUES, Iq4Nl, MXFP4_VALUES, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
    UNIT,
};
use super::product::{Family, Out, Panels};
use super::quantized::{self, FEW_ROWS, SCALAR, Shape, TILE_ROWS, blocks_of};

/// For CPUs with AVX2, FMA and F16C.
pub(super) static AVX2: Family = Family { prepare, column_unit, multiply, ..SCALAR };

/// For CPUs with AVX-VNNI as well.
pub(super) static AVX_VNNI: Family = Family { prepare, column_unit, multiply: multiply_vnni, ..SCALAR };

/// Outputs per vector.
const LANES: usize = 8;

/// Vectors of outputs in a tile of a product with many rows: two weights and twelve sums fill the sixteen registers.
const TILE_VECTORS: usize = 2;

/// How far ahead of the reading weights are fetched, at least: the time that memory takes, about 300 cycles with some room,
/// at the speed of one thread. Eight streams at once are more than the CPU's own prefetching follows.
const AHEAD: usize = 12 << 10;

fn column_unit(_: &Matrix<'_>, rows: usize) -> usize {
    if rows <= FEW_ROWS { LANES } else { LANES * TILE_VECTORS }
}

fn prepare(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
        quantized::prepare(w, panel_rows, x, to);
    }
    // SAFETY: only tables whose detection found these features name this function.
    unsafe { compiled(w, panel_rows, x, to) }
}

fn multiply(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled<B: Packed>(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
        // SAFETY: this function's features are those that `Plain` stands for.
        unsafe { product::<B, Plain, 3>(w, x, columns, out) }
    }
    // SAFETY: only tables whose detection found these features name this function.
    unsafe { by_format!(w, compiled(w, x, columns, out)) }
}

fn multiply_vnni(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
    #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
    fn compiled<B: Packed>(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
        // SAFETY: this function's features are those that `Vnni` stands for.
        unsafe {
            // With two sums per unit the registers hold half as many rows.
            if B::HALVES {
                product::<B, Vnni, 3>(w, x, columns, out);
            } else {
                product::<B, Vnni, 6>(w, x, columns, out);
            }
        }
    }
    // SAFETY: only tables whose detection found these features name this function.
    unsafe { by_format!(w, compiled(w, x, columns, out)) }
}

/// How a tier multiplies bytes. The type stands for the features: its functions are called only from functions that are
/// compiled with them.
trait Isa {
    /// Steps whose sums a register of [`Isa::step`] holds, for weights up to `largest`; 0 stands for signed weights.
    fn steps(largest: i32) -> usize;

    /// What is added to signed weights before [`Isa::step`] sees them.
    const SIGNED_OFFSET: i32;

    /// What a sum that is to begin at `sum` begins with.
    unsafe fn start(sum: __m256i) -> __m256i;

    /// `sum` plus the products of four numbers each.
    unsafe fn step(sum: __m256i, largest: i32, w: __m256i, a: __m256i) -> __m256i;

    /// The products of all steps since `start`, which was given `begun`, added to that.
    unsafe fn end(sum: __m256i, begun: __m256i) -> __m256i;
}

/// AVX2: 16-bit sums of two products, which must not leave 16 bits.
struct Plain;

/// AVX-VNNI: 32-bit sums.
struct Vnni;

impl Isa for Plain {
    #[inline(always)]
    fn steps(largest: i32) -> usize {
        // Numbers of x are at most 127. A signed weight may be -128, of which one step has up to 2 * 128 * 127 = 32512.
        match largest {
            0 => 1,
            1..=15 => 8,  // 8 * 2 * 15 * 127 = 30480
            16..=31 => 4, // 4 * 2 * 31 * 127 = 31496
            32..=63 => 2, // 2 * 2 * 63 * 127 = 32004
            _ => unreachable!("no format has larger numbers"),
        }
    }

    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn start(_: __m256i) -> __m256i {
        // SAFETY: the features that the type stands for.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn step(sum: __m256i, largest: i32, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: the features that the type stands for.
        unsafe {
            let products = match largest {
                0 => _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(a, w)),
                _ => _mm256_maddubs_epi16(w, a),
            };
            _mm256_add_epi16(sum, products)
        }
    }

    #[inline(always)]
    unsafe fn end(sum: __m256i, begun: __m256i) -> __m256i {
        // SAFETY: the features that the type stands for.
        unsafe { _mm256_add_epi32(begun, _mm256_madd_epi16(sum, _mm256_set1_epi16(1))) }
    }
}

impl Isa for Vnni {
    #[inline(always)]
    fn steps(_: i32) -> usize {
        8
    }

    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn start(sum: __m256i) -> __m256i {
        sum
    }

    #[inline(always)]
    unsafe fn step(sum: __m256i, _: i32, w: __m256i, a: __m256i) -> __m256i {
        // SAFETY: the features that the type stands for.
        unsafe { _mm256_dpbusd_avx_epi32(sum, w, a) }
    }

    #[inline(always)]
    unsafe fn end(sum: __m256i, _: __m256i) -> __m256i {
        sum
    }
}

/// The same unit of eight rows.
#[derive(Clone, Copy)]
struct Unit8 {
    /// Numbers `4 * j..` of every row in vector j, with the format's offset added.
    q: [__m256i; 8],
    scale: __m256,
    /// Unused without minima.
    min: __m256,
    /// Of the first and the last sixteen numbers; unused without [`Packed::HALVES`], as are `mins`.
    scales: [__m256i; 2],
    mins: [__m256i; 2],
}

/// Eight rows of one block of weights.
#[derive(Clone, Copy)]
struct Rows {
    first: *const u8,
    stride: usize,
}

/// A format as eight rows of it are read.
trait Packed: Block {
    /// The largest number with the offset added; 0 where numbers are kept signed.
    const LARGEST: i32;

    /// What was added to the numbers, unless they are signed.
    const OFFSET: i32;

    /// Whether the first and the last sixteen numbers of a unit have scales of their own.
    const HALVES: bool = false;

    /// Hands all units of a block to `each`, in sequence.
    ///
    /// # Safety
    ///
    /// The CPU has the features of `I`, and `rows` are eight blocks of this format.
    unsafe fn units<I: Isa>(rows: Rows, each: impl FnMut(usize, &Unit8));
}

/// Calls a function that is generic over the format of `w`.
macro_rules! by_format {
    ($w:expr, $function:ident($($arg:expr),*)) => {
        match blocks_of($w).0 {
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
            Format::Mxfp4 => $function::<Mxfp4>($($arg),*),
        }
    };
}
use by_format;

/// One panel of quantised rows, as `Shape` lays it out.
#[derive(Clone, Copy)]
struct Panel {
    q: *const i8,
    /// Scales, then the other parts, each `plane` elements on.
    scale: *const f32,
    plane: usize,
    rows: usize,
}

impl Panel {
    fn new(shape: Shape, data: &[u8]) -> Panel {
        assert!(data.len() >= shape.bytes(), "length of a panel");
        let scale = data[shape.numbers()..].as_ptr().cast();
        Panel { q: data.as_ptr().cast(), scale, plane: shape.plane() / 4, rows: shape.rows }
    }

    /// One number of a part behind the scales, in all lanes.
    ///
    /// # Safety
    ///
    /// `at` is below the units times the rows.
    #[inline(always)]
    unsafe fn sum(&self, part: usize, at: usize) -> i32 {
        // SAFETY: `new` found all parts inside the panel.
        unsafe { self.scale.add(part * self.plane + at).cast::<i32>().read() }
    }
}

/// Parts behind the scales, by their number.
const SCALED_SUM: usize = 1;
const MINUS_SUM: usize = 2;
const MINUS_LOW: usize = 3;

/// The integer sums of one unit, for some rows of x and some vectors of outputs.
///
/// # Safety
///
/// The CPU has the features of `I`; `unit` and the rows exist in the panel.
#[inline(always)]
unsafe fn isums<B: Packed, I: Isa, const ROWS: usize, const VECTORS: usize>(
    w: [&Unit8; VECTORS],
    a: &Panel,
    at: usize,
) -> [[__m256i; VECTORS]; ROWS] {
    let offset = if B::LARGEST == 0 { I::SIGNED_OFFSET } else { B::OFFSET };
    let steps = I::steps(B::LARGEST).min(if B::HALVES { 4 } else { 8 });
    // SAFETY: the features are the caller's promise, and so is that 32 numbers lie at `at + r` of the panel.
    unsafe {
        let zero = _mm256_setzero_si256();
        let mut isums = [[zero; VECTORS]; ROWS];
        let mut step = 0;
        while step < 8 {
            let half = step / 4;
            let mut begun = [zero; ROWS];
            if offset != 0 && (step == 0 || B::HALVES && step == 4) {
                let part = if B::HALVES { MINUS_LOW + half } else { MINUS_SUM };
                for r in 0..ROWS {
                    begun[r] = _mm256_set1_epi32(a.sum(part, at + r) * offset);
                }
            }
            let mut sums = [[zero; VECTORS]; ROWS];
            for r in 0..ROWS {
                sums[r] = [I::start(begun[r]); VECTORS];
            }
            for j in step..step + steps {
                for r in 0..ROWS {
                    let a = _mm256_set1_epi32(a.q.add((at + r) * UNIT + 4 * j).cast::<i32>().read());
                    for v in 0..VECTORS {
                        sums[r][v] = I::step(sums[r][v], B::LARGEST, w[v].q[j], a);
                    }
                }
            }
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    let mut sum = I::end(sums[r][v], begun[r]);
                    if B::HALVES {
                        sum = _mm256_mullo_epi32(sum, w[v].scales[half]);
                    }
                    isums[r][v] = if step == 0 { sum } else { _mm256_add_epi32(isums[r][v], sum) };
                }
            }
            step += steps;
        }
        isums
    }
}

/// Adds one unit to a chain.
///
/// # Safety
///
/// As for [`isums`].
#[inline(always)]
unsafe fn add<B: Packed>(sum: __m256, isum: __m256i, w: &Unit8, a: &Panel, at: usize) -> __m256 {
    // SAFETY: the caller's promises.
    unsafe {
        let scale = _mm256_set1_ps(a.scale.add(at).read());
        let sum = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(isum), w.scale), scale, sum);
        if !B::MINS {
            return sum;
        }
        let scaled = if B::HALVES {
            let low = _mm256_mullo_epi32(w.mins[0], _mm256_set1_epi32(-a.sum(MINUS_LOW, at)));
            let high = _mm256_mullo_epi32(w.mins[1], _mm256_set1_epi32(-a.sum(MINUS_LOW + 1, at)));
            _mm256_mul_ps(scale, _mm256_cvtepi32_ps(_mm256_add_epi32(low, high)))
        } else {
            _mm256_set1_ps(a.scale.add(SCALED_SUM * a.plane + at).read())
        };
        _mm256_fmadd_ps(w.min, scaled, sum)
    }
}

/// Some columns of the product; a tile has `ROWS` rows of x.
///
/// # Safety
///
/// The CPU has the features of `I`.
#[inline(always)]
unsafe fn product<B: Packed, I: Isa, const ROWS: usize>(
    w: &Matrix<'_>,
    x: Panels<'_>,
    columns: Range<usize>,
    out: &Out<'_>,
) {
    let shape = Shape::new(w, x.panel_rows);
    let stride = shape.units / B::UNITS * size_of::<B>();
    let bytes = blocks_of(w).1;
    assert!(columns.end <= w.outputs && bytes.len() >= w.outputs * stride, "columns {columns:?}");
    assert!(shape.units.is_multiple_of(B::UNITS) && x.panel_bytes >= shape.bytes(), "units of a row");
    if w.outputs < LANES {
        return (SCALAR.multiply)(w, x, columns, out);
    }
    // SAFETY: the caller's promise; the lengths were asserted.
    unsafe {
        let weights = Weights { bytes: bytes.as_ptr(), stride, outputs: w.outputs, blocks: shape.units / B::UNITS };
        if x.data.len() < 2 * x.panel_bytes {
            let panel = Panel::new(shape, x.data);
            assert!(x.rows <= shape.rows, "rows of a panel");
            if x.rows == 1 {
                few::<B, I, true>(&weights, 1, &panel, columns, out);
            } else {
                few::<B, I, false>(&weights, x.rows, &panel, columns, out);
            }
        } else {
            tiles::<B, I, ROWS>(&weights, shape, x, columns, out);
        }
    }
}

/// All rows of a matrix.
struct Weights {
    bytes: *const u8,
    /// Bytes per row.
    stride: usize,
    outputs: usize,
    /// Blocks per row.
    blocks: usize,
}

impl Weights {
    /// The first row of the eight that are read for `column`: the last eight of the matrix where fewer are left.
    fn first(&self, column: usize) -> usize {
        column.min(self.outputs - LANES)
    }

    /// Hands the units of eight rows to `each`, and fetches what is wanted after them.
    ///
    /// # Safety
    ///
    /// The CPU has the features of `I`, and the matrix has eight rows from `first` on.
    #[inline(always)]
    unsafe fn units<B: Packed, I: Isa>(&self, first: usize, mut each: impl FnMut(usize, &Unit8)) {
        let ahead = (LANES * self.stride).max(AHEAD);
        // SAFETY: the caller's promises.
        unsafe {
            let start = self.bytes.add(first * self.stride);
            for block in 0..self.blocks {
                // Eight blocks are read here and as many fetched, but in the order of memory.
                let next = start.wrapping_add(ahead + block * LANES * size_of::<B>());
                for line in 0..(LANES * size_of::<B>()).div_ceil(64) {
                    _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(64 * line).cast());
                }
                let rows = Rows { first: start.add(block * size_of::<B>()), stride: self.stride };
                B::units::<I>(rows, |i, w| each(block * B::UNITS + i, w));
            }
        }
    }
}

/// Columns of the product with few rows of x, which share the unpacking of the weights.
///
/// # Safety
///
/// The CPU has the features of `I`, the panel `rows` rows, and the matrix at least eight outputs.
#[inline(always)]
unsafe fn few<B: Packed, I: Isa, const ONE: bool>(
    weights: &Weights,
    rows: usize,
    x: &Panel,
    columns: Range<usize>,
    out: &Out<'_>,
) {
    // SAFETY: the caller's promises.
    unsafe {
        for column in columns.clone().step_by(LANES) {
            let first = weights.first(column);
            if ONE {
                let mut sum = _mm256_setzero_ps();
                weights.units::<B, I>(first, |unit, w| {
                    let [[isum]] = isums::<B, I, 1, 1>([w], x, unit);
                    sum = add::<B>(sum, isum, w, x, unit);
                });
                store(out, 0, first, column..columns.end, sum);
            } else {
                let mut sums = [_mm256_setzero_ps(); FEW_ROWS];
                let sums = &mut sums[..rows];
                weights.units::<B, I>(first, |unit, w| {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let at = unit * x.rows + r;
                        let [[isum]] = isums::<B, I, 1, 1>([w], x, at);
                        *sum = add::<B>(*sum, isum, w, x, at);
                    }
                });
                for (r, sum) in sums.iter().enumerate() {
                    store(out, r, first, column..columns.end, *sum);
                }
            }
        }
    }
}

/// Stores those of eight outputs from `first` on that are among `columns`.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn store(out: &Out<'_>, row: usize, first: usize, columns: Range<usize>, sums: __m256) {
    // SAFETY: `place` checked that eight elements are there to write, and to add.
    unsafe {
        if first < columns.start || first + LANES > columns.end {
            let mut lanes = [0.0; LANES];
            _mm256_storeu_ps(lanes.as_mut_ptr(), sums);
            for (i, sum) in lanes.iter().enumerate() {
                if columns.contains(&(first + i)) {
                    out.store(row, first + i, *sum);
                }
            }
            return;
        }
        let (y, bias, residual) = out.place(row, first, LANES);
        let mut sums = sums;
        if !bias.is_null() {
            sums = _mm256_add_ps(sums, _mm256_loadu_ps(bias));
        }
        if !residual.is_null() {
            sums = _mm256_add_ps(sums, _mm256_loadu_ps(residual));
        }
        _mm256_storeu_ps(y, sums);
    }
}

thread_local! {
    /// The strip that this thread unpacks weights to.
    static STRIP: RefCell<Vec<[Unit8; TILE_VECTORS]>> = const { RefCell::new(Vec::new()) };
}

/// Columns of the product with many rows of x: sixteen outputs are unpacked, then multiplied with all rows.
///
/// # Safety
///
/// The CPU has the features of `I`, and the matrix at least eight outputs.
#[inline(always)]
unsafe fn tiles<B: Packed, I: Isa, const ROWS: usize>(
    weights: &Weights,
    shape: Shape,
    x: Panels<'_>,
    columns: Range<usize>,
    out: &Out<'_>,
) {
    assert!(shape.rows == TILE_ROWS && TILE_ROWS.is_multiple_of(ROWS), "rows of a panel");
    let mut strip = STRIP.take();
    // SAFETY: the caller's promises; `ROWS` divides the rows of a panel, and the strip has all units.
    unsafe {
        if strip.len() < shape.units {
            strip.resize(shape.units, std::mem::zeroed());
        }
        let strip = &mut strip[..shape.units];
        for column in columns.clone().step_by(TILE_VECTORS * LANES) {
            let starts = [column, column + LANES];
            for v in 0..TILE_VECTORS {
                weights.units::<B, I>(weights.first(starts[v]), |unit, w| strip[unit][v] = *w);
            }
            for (panel, data) in x.data.chunks_exact(x.panel_bytes).enumerate() {
                let a = Panel::new(shape, data);
                let rows = x.rows - panel * TILE_ROWS;
                for row in (0..rows.min(TILE_ROWS)).step_by(ROWS) {
                    let sums = tile::<B, I, ROWS>(strip, &a, row);
                    for (r, sums) in sums.iter().enumerate().take(rows - row) {
                        for v in 0..TILE_VECTORS {
                            let (row, first) = (panel * TILE_ROWS + row + r, weights.first(starts[v]));
                            store(out, row, first, starts[v]..columns.end.max(starts[v]), sums[v]);
                        }
                    }
                }
            }
        }
    }
    STRIP.set(strip);
}

/// `ROWS` rows of a panel from `row` on times a strip.
///
/// # Safety
///
/// The CPU has the features of `I`; the strip has as many units as the panel, the panel the rows.
#[inline(always)]
unsafe fn tile<B: Packed, I: Isa, const ROWS: usize>(
    strip: &[[Unit8; TILE_VECTORS]],
    a: &Panel,
    row: usize,
) -> [[__m256; TILE_VECTORS]; ROWS] {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); TILE_VECTORS]; ROWS];
        for (unit, w) in strip.iter().enumerate() {
            let at = unit * a.rows + row;
            let isums = isums::<B, I, ROWS, TILE_VECTORS>(w.each_ref(), a, at);
            for r in 0..ROWS {
                for v in 0..TILE_VECTORS {
                    sums[r][v] = add::<B>(sums[r][v], isums[r][v], &w[v], a, at + r);
                }
            }
        }
        sums
    }
}

impl Rows {
    /// Sixteen bytes from `at` on of every row, as four vectors that each hold four bytes of every row.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2, and so many bytes lie there.
    #[inline(always)]
    unsafe fn words(self, at: usize) -> [__m256i; 4] {
        // SAFETY: the caller's promises.
        unsafe {
            let half = |row: usize| self.first.add(row * self.stride + at).cast::<__m128i>();
            let row = |row| {
                let first = _mm256_castsi128_si256(_mm_loadu_si128(half(row)));
                _mm256_inserti128_si256::<1>(first, _mm_loadu_si128(half(row + 4)))
            };
            let rows = [row(0), row(1), row(2), row(3)];
            let [a, b] = [_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[0], rows[1])];
            let [c, d] = [_mm256_unpacklo_epi32(rows[2], rows[3]), _mm256_unpackhi_epi32(rows[2], rows[3])];
            [
                _mm256_unpacklo_epi64(a, c),
                _mm256_unpackhi_epi64(a, c),
                _mm256_unpacklo_epi64(b, d),
                _mm256_unpackhi_epi64(b, d),
            ]
        }
    }

    /// 32 bytes from `at` on of every row.
    ///
    /// # Safety
    ///
    /// As for [`Rows::words`].
    #[inline(always)]
    unsafe fn words2(self, at: usize) -> [__m256i; 8] {
        // SAFETY: the caller's promises.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (self.words(at), self.words(at + 16));
            [a, b, c, d, e, f, g, h]
        }
    }

    /// What lies at `at` in every row.
    ///
    /// # Safety
    ///
    /// A `T` lies there.
    #[inline(always)]
    unsafe fn each<T: bytemuck::AnyBitPattern>(self, at: usize) -> [T; 8] {
        // SAFETY: the caller's promise; any bits are a `T`.
        std::array::from_fn(|row| unsafe { self.first.add(row * self.stride + at).cast::<T>().read_unaligned() })
    }

    /// One half-precision number of every row.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2 and F16C, and two bytes lie there.
    #[inline(always)]
    unsafe fn half(self, at: usize) -> __m256 {
        // SAFETY: the caller's promises.
        unsafe {
            let [a, b, c, d, e, f, g, h] = self.each::<i16>(at);
            _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h))
        }
    }

    /// Four bytes of every row.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2, and four bytes lie there.
    #[inline(always)]
    unsafe fn word(self, at: usize) -> __m256i {
        // SAFETY: the caller's promises.
        unsafe {
            let [a, b, c, d, e, f, g, h] = self.each::<i32>(at);
            _mm256_setr_epi32(a, b, c, d, e, f, g, h)
        }
    }
}

/// The two half-precision numbers of each four bytes.
///
/// # Safety
///
/// The CPU has AVX2 and F16C.
#[inline(always)]
unsafe fn halves(words: __m256i) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let lower = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
        let packed = _mm256_packus_epi32(lower, _mm256_srli_epi32::<16>(words));
        // The lanes of 128 bits hold four lower and four upper ones each.
        let sorted = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
        [_mm256_cvtph_ps(_mm256_castsi256_si128(sorted)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(sorted))]
    }
}

/// `words >> by` of each byte, as far as `mask` lets it through.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn bits(words: __m256i, by: usize, mask: i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_and_si256(_mm256_srl_epi32(words, _mm_cvtsi32_si128(by as i32)), _mm256_set1_epi8(mask)) }
}

/// `words << by` of each byte, as far as `mask` lets it through.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn bits_up(words: __m256i, by: usize, mask: i8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_and_si256(_mm256_sll_epi32(words, _mm_cvtsi32_si128(by as i32)), _mm256_set1_epi8(mask)) }
}

/// Byte `index` of each four.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn byte(words: __m256i, index: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let shifted = _mm256_srl_epi32(words, _mm_cvtsi32_si128(8 * index as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi32(0xff))
    }
}

/// Byte `index` of each four, which is signed.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn signed_byte(words: __m256i, index: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let shifted = _mm256_sll_epi32(words, _mm_cvtsi32_si128(24 - 8 * index as i32));
        _mm256_srai_epi32::<24>(shifted)
    }
}

/// The nibbles of 16 bytes from `at` on: the lower halves, then the upper halves.
///
/// # Safety
///
/// As for [`Rows::words`].
#[inline(always)]
unsafe fn nibbles(rows: Rows, at: usize) -> [__m256i; 8] {
    // SAFETY: the caller's promises.
    unsafe {
        let words = rows.words(at);
        std::array::from_fn(|j| bits(words[j % 4], j / 4 * 4, 15))
    }
}

/// The fifth bits, bit i of four bytes belonging to number i, added to nibbles.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn add_fifths(nibbles: [__m256i; 8], fifths: __m256i) -> [__m256i; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        // Bits 4 to 7 of a byte are those of an odd vector, bits 0 to 3 are made to be.
        let even = _mm256_slli_epi32::<4>(fifths);
        // In each byte of a vector, the bit that belongs to it.
        let mine = _mm256_set1_epi32(0x8040_2010_u32 as i32);
        let copies = _mm256_setr_epi64x(
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
            0x0404_0404_0000_0000,
            0x0c0c_0c0c_0808_0808,
        );
        std::array::from_fn(|j| {
            let byte = _mm256_add_epi8(copies, _mm256_set1_epi8(j as i8 / 2));
            let copied = _mm256_shuffle_epi8(if j % 2 == 0 { even } else { fifths }, byte);
            let fifth = _mm256_min_epu8(_mm256_and_si256(copied, mine), _mm256_set1_epi8(16));
            _mm256_or_si256(nibbles[j], fifth)
        })
    }
}

/// What nibbles stand for, by a table to which `offset` is added.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn look_up(nibbles: [__m256i; 8], values: &[i8; 16], offset: i32) -> [__m256i; 8] {
    let values = values.map(|value| value.wrapping_add(offset as i8));
    // SAFETY: the caller's promise; 16 bytes are read from an array of 16.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(values.as_ptr().cast()));
        nibbles.map(|nibbles| _mm256_shuffle_epi8(table, nibbles))
    }
}

/// A unit with one scale.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn plain(q: [__m256i; 8], scale: __m256) -> Unit8 {
    // SAFETY: the caller's promise.
    let zero = unsafe { _mm256_setzero_si256() };
    // SAFETY: as above.
    Unit8 { q, scale, min: unsafe { _mm256_setzero_ps() }, scales: [zero; 2], mins: [zero; 2] }
}

/// A unit with a scale for each half.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn two_scales(q: [__m256i; 8], scale: __m256, scales: [__m256i; 2]) -> Unit8 {
    // SAFETY: the caller's promise.
    Unit8 { scales, ..unsafe { plain(q, scale) } }
}

impl Packed for Q4_0 {
    const LARGEST: i32 = 15;
    const OFFSET: i32 = 8;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            each(0, &plain(nibbles(rows, 2), rows.half(0)));
        }
    }
}

impl Packed for Q4_1 {
    const LARGEST: i32 = 15;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let [scale, min] = halves(rows.word(0));
            each(0, &Unit8 { min, ..plain(nibbles(rows, 4), scale) });
        }
    }
}

impl Packed for Q5_0 {
    const LARGEST: i32 = 31;
    const OFFSET: i32 = 16;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            each(0, &plain(add_fifths(nibbles(rows, 6), rows.word(2)), rows.half(0)));
        }
    }
}

impl Packed for Q5_1 {
    const LARGEST: i32 = 31;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let [scale, min] = halves(rows.word(0));
            let q = add_fifths(nibbles(rows, 8), rows.word(4));
            each(0, &Unit8 { min, ..plain(q, scale) });
        }
    }
}

impl Packed for Q8_0 {
    const LARGEST: i32 = 0;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            // Adding 128 turns the sign bit over.
            let flip = _mm256_set1_epi8(I::SIGNED_OFFSET as i8);
            let q = rows.words2(2).map(|words| _mm256_xor_si256(words, flip));
            each(0, &plain(q, rows.half(0)));
        }
    }
}

impl Packed for Iq4Nl {
    const LARGEST: i32 = 0;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let q = look_up(nibbles(rows, 2), &IQ4_NL_VALUES, I::SIGNED_OFFSET);
            each(0, &plain(q, rows.half(0)));
        }
    }
}

impl Packed for Mxfp4 {
    const LARGEST: i32 = 24;
    const OFFSET: i32 = 12;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let q = look_up(nibbles(rows, 1), &MXFP4_VALUES, Self::OFFSET);
            let exponents = rows.each::<u8>(0).map(i32::from);
            let [a, b, c, d, e, f, g, h] = exponents;
            let exponents = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
            // 2^(exponent - 128), which is below the normal numbers for 0 and 1.
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)));
            let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
            let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
            let scale = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small));
            each(0, &plain(q, scale));
        }
    }
}

/// The scales and minima of Q4_K and Q5_K: the factors of both, and the eight of 6 bits of each, four in a vector.
struct Header {
    scale: __m256,
    min: __m256,
    scales: [__m256i; 2],
    mins: [__m256i; 2],
}

impl Header {
    /// # Safety
    ///
    /// The CPU has AVX2 and F16C, and `rows` are blocks of Q4_K or Q5_K.
    #[inline(always)]
    unsafe fn new(rows: Rows) -> Header {
        // SAFETY: the caller's promises.
        unsafe {
            let [factors, a, b, c] = rows.words(0);
            let [scale, min] = halves(factors);
            let scales = [bits(a, 0, 63), _mm256_or_si256(bits(c, 0, 15), bits(a, 2, 0x30))];
            let mins = [bits(b, 0, 63), _mm256_or_si256(bits(c, 4, 15), bits(b, 2, 0x30))];
            // Turned over here instead of eight times.
            let min = _mm256_xor_ps(min, _mm256_set1_ps(-0.0));
            Header { scale, min, scales, mins }
        }
    }

    /// # Safety
    ///
    /// The CPU has AVX2.
    #[inline(always)]
    unsafe fn unit(&self, i: usize, q: [__m256i; 8]) -> Unit8 {
        // SAFETY: the caller's promise.
        unsafe {
            let number = |words: &[__m256i; 2]| _mm256_cvtepi32_ps(byte(words[i / 4], i % 4));
            let scale = _mm256_mul_ps(self.scale, number(&self.scales));
            Unit8 { min: _mm256_mul_ps(self.min, number(&self.mins)), ..plain(q, scale) }
        }
    }
}

impl Packed for Q4K {
    const LARGEST: i32 = 15;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let header = Header::new(rows);
            for pair in 0..4 {
                let words = rows.words2(16 + 32 * pair);
                each(2 * pair, &header.unit(2 * pair, words.map(|words| bits(words, 0, 15))));
                each(2 * pair + 1, &header.unit(2 * pair + 1, words.map(|words| bits(words, 4, 15))));
            }
        }
    }
}

impl Packed for Q5K {
    const LARGEST: i32 = 31;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let header = Header::new(rows);
            let fifths = rows.words2(16);
            for pair in 0..4 {
                let words = rows.words2(48 + 32 * pair);
                for i in [2 * pair, 2 * pair + 1] {
                    let q = std::array::from_fn(|j| {
                        let fifth = if i < 4 { bits_up(fifths[j], 4 - i, 16) } else { bits(fifths[j], i - 4, 16) };
                        _mm256_or_si256(bits(words[j], i % 2 * 4, 15), fifth)
                    });
                    each(i, &header.unit(i, q));
                }
            }
        }
    }
}

impl Packed for Q2K {
    const LARGEST: i32 = 3;
    const OFFSET: i32 = 0;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let scales = rows.words(0);
            let [scale, min] = self::halves(rows.word(80));
            let min = _mm256_xor_ps(min, _mm256_set1_ps(-0.0));
            for half in 0..2 {
                let words = rows.words2(16 + 32 * half);
                for quarter in 0..4 {
                    let i = 4 * half + quarter;
                    let at = |shift, index: usize| byte(bits(scales[index / 4], shift, 15), index % 4);
                    let unit = Unit8 {
                        min,
                        mins: [at(4, 2 * i), at(4, 2 * i + 1)],
                        ..two_scales(
                            words.map(|words| bits(words, 2 * quarter, 3)),
                            scale,
                            [at(0, 2 * i), at(0, 2 * i + 1)],
                        )
                    };
                    each(i, &unit);
                }
            }
        }
    }
}

impl Packed for Q3K {
    const LARGEST: i32 = 7;
    const OFFSET: i32 = 4;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            // The last sixteen bytes of a block begin two bytes before the scales.
            let [a, b, c, d] = rows.words(94);
            let join = |low, high| _mm256_or_si256(_mm256_srli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            let (low, high, upper) = (join(a, b), join(b, c), join(c, d));
            let [_, scale] = self::halves(d);
            let six = |low, by, upper| {
                let number = _mm256_or_si256(bits(low, by, 15), upper);
                _mm256_sub_epi8(number, _mm256_set1_epi8(32))
            };
            let scales = [
                six(low, 0, bits_up(upper, 4, 0x30)),
                six(high, 0, bits_up(upper, 2, 0x30)),
                six(low, 4, bits(upper, 0, 0x30)),
                six(high, 4, bits(upper, 2, 0x30)),
            ];
            let thirds = rows.words2(0);
            for half in 0..2 {
                let words = rows.words2(32 + 32 * half);
                for quarter in 0..4 {
                    let i = 4 * half + quarter;
                    let q = std::array::from_fn(|j| {
                        let third = if i < 2 { bits_up(thirds[j], 2 - i, 4) } else { bits(thirds[j], i - 2, 4) };
                        _mm256_or_si256(bits(words[j], 2 * quarter, 3), third)
                    });
                    let at = |index: usize| signed_byte(scales[index / 4], index % 4);
                    each(i, &two_scales(q, scale, [at(2 * i), at(2 * i + 1)]));
                }
            }
        }
    }
}

impl Packed for Q6K {
    const LARGEST: i32 = 63;
    const OFFSET: i32 = 32;
    const HALVES: bool = true;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, mut each: impl FnMut(usize, &Unit8)) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let scale = rows.half(208);
            let scales = rows.words(192);
            for half in 0..2 {
                let words = [rows.words2(64 * half), rows.words2(64 * half + 32)];
                let upper = rows.words2(128 + 32 * half);
                for quarter in 0..4 {
                    let i = 4 * half + quarter;
                    let q = std::array::from_fn(|j| {
                        let upper = match quarter {
                            0 | 1 => bits_up(upper[j], 4 - 2 * quarter, 0x30),
                            _ => bits(upper[j], 2 * quarter - 4, 0x30),
                        };
                        _mm256_or_si256(bits(words[quarter % 2][j], quarter / 2 * 4, 15), upper)
                    });
                    let at = |index: usize| signed_byte(scales[index / 4], index % 4);
                    each(i, &two_scales(q, scale, [at(2 * i), at(2 * i + 1)]));
                }
            }
        }
    }
}
