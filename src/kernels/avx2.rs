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

mod formats;

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::Matrix;
use super::blocks::{Block, Format, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, UNIT};
use super::product::{Family, Out, Panels};
use super::quantized::{self, Activations, FEW_ROWS, SCALAR, SMALLEST, Shape, TILE_ROWS, blocks_of};

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

pub(super) fn prepare(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn compiled(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
        quantized::lay_out(w, panel_rows, x, to, quantize);
    }
    // SAFETY: only tables whose detection found these features name this function.
    unsafe { compiled(w, panel_rows, x, to) }
}

/// Quantises 32 numbers as `quantized::quantize` does.
#[inline(always)]
fn quantize(x: &[f32; UNIT]) -> Activations {
    // SAFETY: called by `prepare` alone, whose features these are; the numbers are read from an array of 32, and written
    // to one.
    unsafe {
        let magnitude = _mm256_set1_epi32(0x7fff_ffff);
        let mut numbers = [_mm256_setzero_ps(); 4];
        let mut max = _mm256_setzero_si256();
        for i in 0..4 {
            numbers[i] = _mm256_loadu_ps(x.as_ptr().add(8 * i));
            max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_castps_si256(numbers[i]), magnitude));
        }
        let max = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b00_00_11_10>(max));
        let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b00_00_00_01>(max));
        let max = f32::from_bits(_mm_cvtsi128_si32(max) as u32);
        if !(SMALLEST..f32::INFINITY).contains(&max) {
            return quantized::quantize(x);
        }
        let inverse = _mm256_set1_ps(127.0 / max);
        let mut integers = [_mm256_setzero_si256(); 4];
        for i in 0..4 {
            integers[i] = _mm256_cvtps_epi32(_mm256_mul_ps(numbers[i], inverse));
        }
        let [a, b, c, d] = integers;
        // The four lanes of each vector's lower half, then of their upper halves.
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
        let sorted = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        let mut q = [0; UNIT];
        _mm256_storeu_si256(q.as_mut_ptr().cast(), sorted);
        let sums = _mm256_hadd_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
        let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
        let sums = _mm_sub_epi32(_mm_setzero_si128(), _mm_hadd_epi32(sums, sums));
        Activations {
            q,
            scale: max / 127.0,
            minus_low: _mm_cvtsi128_si32(sums),
            minus_high: _mm_extract_epi32::<1>(sums),
        }
    }
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
    /// What is wanted from memory next, as much as is read.
    next: *const u8,
}

/// A format as eight rows of it are read.
trait Packed: Block {
    /// The largest number with the offset added; 0 where numbers are kept signed.
    const LARGEST: i32;

    /// What was added to the numbers, unless they are signed.
    const OFFSET: i32;

    /// Whether the first and the last sixteen numbers of a unit have scales of their own.
    const HALVES: bool = false;

    /// Hands all units of a block over, in sequence.
    ///
    /// # Safety
    ///
    /// The CPU has the features of `I`, and `rows` are eight blocks of this format.
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink);
}

/// What becomes of unpacked units. Not a closure, since only a function can be made to be compiled into its caller, with
/// the caller's instructions.
trait Sink {
    /// # Safety
    ///
    /// The CPU has the features of the tier, and the units are handed over in sequence.
    unsafe fn unit(&mut self, w: &Unit8);
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
            Format::Iq4Xs => $function::<Iq4Xs>($($arg),*),
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
                few::<B, I, 1>(&weights, 1, panel, columns, out);
            } else {
                few::<B, I, FEW_ROWS>(&weights, x.rows, panel, columns, out);
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

    /// Hands the units of eight rows over, and fetches what is wanted after them.
    ///
    /// # Safety
    ///
    /// The CPU has the features of `I`, and the matrix has eight rows from `first` on.
    #[inline(always)]
    unsafe fn units<B: Packed, I: Isa>(&self, first: usize, to: &mut impl Sink) {
        let ahead = (LANES * self.stride).max(AHEAD);
        // SAFETY: the caller's promises.
        unsafe {
            let start = self.bytes.add(first * self.stride);
            for block in 0..self.blocks {
                // Eight blocks are read here and as many fetched, but in the order of memory.
                let next = start.wrapping_add(ahead + block * LANES * size_of::<B>());
                let rows = Rows { first: start.add(block * size_of::<B>()), stride: self.stride, next };
                B::units::<I>(rows, to);
            }
        }
    }
}

/// The chains of at most `MAX` rows of x that share the unpacking of the weights. One row has its chain in a register.
struct Chains<B, I, const MAX: usize> {
    x: Panel,
    /// Where the unit that comes next begins in the panel.
    at: usize,
    sums: [__m256; MAX],
    rows: usize,
    kind: PhantomData<(B, I)>,
}

impl<B: Packed, I: Isa, const MAX: usize> Sink for Chains<B, I, MAX> {
    #[inline(always)]
    unsafe fn unit(&mut self, w: &Unit8) {
        let rows = if MAX == 1 { 1 } else { self.rows };
        for (r, sum) in self.sums[..rows].iter_mut().enumerate() {
            // SAFETY: the caller's promises; there are as many units in the panel as in the weights.
            unsafe {
                let [[isum]] = isums::<B, I, 1, 1>([w], &self.x, self.at + r);
                *sum = add::<B>(*sum, isum, w, &self.x, self.at + r);
            }
        }
        self.at += self.x.rows;
    }
}

/// Columns of the product with at most `MAX` rows of x.
///
/// # Safety
///
/// The CPU has the features of `I`, the panel `rows` rows, and the matrix at least eight outputs.
#[inline(always)]
unsafe fn few<B: Packed, I: Isa, const MAX: usize>(
    weights: &Weights,
    rows: usize,
    x: Panel,
    columns: Range<usize>,
    out: &Out<'_>,
) {
    assert!(rows <= MAX, "{rows} rows");
    // SAFETY: the caller's promises.
    unsafe {
        for column in columns.clone().step_by(LANES) {
            let first = weights.first(column);
            let mut chains =
                Chains::<B, I, MAX> { x, at: 0, sums: [_mm256_setzero_ps(); MAX], rows, kind: PhantomData };
            weights.units::<B, I>(first, &mut chains);
            for r in 0..rows {
                store(out, r, first, column..columns.end, chains.sums[r]);
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

/// One vector of outputs of a strip, as it is unpacked.
struct Strip<'a> {
    units: &'a mut [[Unit8; TILE_VECTORS]],
    unit: usize,
    vector: usize,
}

impl Sink for Strip<'_> {
    #[inline(always)]
    unsafe fn unit(&mut self, w: &Unit8) {
        self.units[self.unit][self.vector] = *w;
        self.unit += 1;
    }
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
                weights.units::<B, I>(weights.first(starts[v]), &mut Strip { units: strip, unit: 0, vector: v });
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
