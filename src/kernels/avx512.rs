//! Products with block-quantised weights for CPUs with AVX-512 VNNI.
//!
//! One primitive carries all formats: sixteen rows of weights, 32 numbers of each, become eight vectors of unsigned bytes
//! whose lane r holds four numbers of row r ([`Rows::unit`]). `vpdpbusd` multiplies them by four activations that are the
//! same in every lane, so a lane sums up one output and nothing is ever added across lanes. Weights are read where they lie.
//!
//! * Few rows of x ([`fused`]): each unit goes from its vectors straight into the sums of all rows.
//! * Many ([`tiles`]): 32 rows of weights are unpacked into a buffer that stays in the L2 cache, then used by all panels.
//!
//! Weights with an offset are stored unsigned; their sums start at minus the offset times the sum of the activations.
#![allow(unsafe_code)]

mod formats;

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::Matrix;
use super::blocks::{Format, UNIT};
use super::lanes::{LANES, Lanes};
use super::product::{Family, Out, Panels};
use super::quantized::{FEW_ROWS, SMALLEST, Shape, TILE_ROWS, blocks_of, panel_bytes, panel_rows};
use formats::{
    Extra, Iq4Nl, Iq4Xs, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Rows, Sixteen, Weights,
};

pub(super) static AVX512_VNNI: Family = Family { panel_rows, panel_bytes, prepare, column_unit, multiply };

fn column_unit(_: &Matrix<'_>, rows: usize) -> usize {
    if rows == 1 { LANES } else { 2 * LANES }
}

thread_local! {
    /// Unpacked weights and the rows of a last group; kept, since fresh memory costs a page fault for every 4 KiB.
    static SCRATCH: RefCell<[Vec<Line>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A cache line, which a vector fills.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// At least `bytes` of a buffer that grows as needed.
fn sized(buffer: &mut Vec<Line>, bytes: usize) -> *mut u8 {
    let lines = bytes.div_ceil(size_of::<Line>());
    if buffer.len() < lines {
        buffer.resize(lines, Line([0; 64]));
    }
    buffer.as_mut_ptr().cast()
}

/// A row of a panel at one unit.
#[derive(Clone, Copy)]
struct Activations {
    q: *const i32,
    scale: *const f32,
    /// Bytes from plane to plane, see `Shape`.
    plane: usize,
}

impl Activations {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn q(self, i: usize) -> __m512i {
        // SAFETY: `multiply` asserted that the panel is whole.
        _mm512_set1_epi32(unsafe { *self.q.add(i) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn float(self, plane: usize) -> __m512 {
        // SAFETY: `multiply` asserted that the panel is whole.
        _mm512_set1_ps(unsafe { *self.scale.byte_add(plane * self.plane) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn int(self, plane: usize) -> __m512i {
        // SAFETY: `multiply` asserted that the panel is whole.
        _mm512_set1_epi32(unsafe { *self.scale.byte_add(plane * self.plane).cast() })
    }

    /// The offset times a negated sum, for all lanes. One instruction, of which the compiler would make three that take
    /// the place of a twentieth of the products.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn start<F: Rows>(self, plane: usize) -> __m512i {
        let start;
        // SAFETY: `multiply` asserted that the panel is whole; four bytes are read and nothing else is touched.
        unsafe {
            std::arch::asm!(
                "vpslld {start}, dword ptr [{at}]{{1to16}}, {offset}",
                start = out(zmm_reg) start,
                at = in(reg) self.scale.byte_add(plane * self.plane),
                offset = const match F::OFFSET { Some(offset) => offset, None => 0 },
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        start
    }
}

const SCALE: usize = 0;
const SCALED_SUM: usize = 1;
const MINUS_SUM: usize = 2;
const MINUS_LOW: usize = 3;
const MINUS_HIGH: usize = 4;

/// `ROWS` rows of x times `VECTORS * 16` rows of weights, one unit of all of them.
///
/// # Safety
///
/// `a` is a place inside a whole panel, the next row's unit 32 bytes and 4 bytes on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
unsafe fn step<F: Rows, const VECTORS: usize, const ROWS: usize>(
    w: &[Weights<F::Extra>; VECTORS],
    a: Activations,
    sums: &mut [[__m512; VECTORS]; ROWS],
) {
    let zero = _mm512_setzero_si512();
    let start = |r: usize, plane: usize| match F::OFFSET {
        // SAFETY: the caller's promise.
        Some(_) => unsafe { row(a, r).start::<F>(plane) },
        None => zero,
    };
    let mut isums = [[zero; VECTORS]; ROWS];
    // A single chain of eight would be too slow for one row.
    let split = VECTORS * ROWS == 1 && !F::Extra::HALVES;
    let mut first = [[zero; VECTORS]; ROWS];
    let mut scaled = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    for r in 0..ROWS {
        isums[r] = [start(r, if F::Extra::HALVES { MINUS_LOW } else { MINUS_SUM }); VECTORS];
    }
    for i in 0..8 {
        if split && i == 4 {
            first = isums;
            isums = [[zero; VECTORS]; ROWS];
        }
        if F::Extra::HALVES && i == 4 {
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    scaled[r][v] = _mm512_mul_ps(_mm512_cvtepi32_ps(isums[r][v]), w[v].extra.scales()[0]);
                }
                isums[r] = [start(r, MINUS_HIGH); VECTORS];
            }
        }
        for r in 0..ROWS {
            // SAFETY: the caller's promise.
            let x = unsafe { row(a, r).q(i) };
            for v in 0..VECTORS {
                isums[r][v] = _mm512_dpbusd_epi32(isums[r][v], w[v].q[i], x);
            }
        }
    }
    for r in 0..ROWS {
        let a = row(a, r);
        // SAFETY: the caller's promise.
        let scale = unsafe { a.float(SCALE) };
        for v in 0..VECTORS {
            let isum = if split { _mm512_add_epi32(isums[r][v], first[r][v]) } else { isums[r][v] };
            let mut isum = _mm512_cvtepi32_ps(isum);
            if F::Extra::HALVES {
                isum = _mm512_fmadd_ps(isum, w[v].extra.scales()[1], scaled[r][v]);
            }
            sums[r][v] = _mm512_fmadd_ps(_mm512_mul_ps(isum, w[v].scale), scale, sums[r][v]);
        }
        if F::Extra::MINS && !F::Extra::HALVES {
            // SAFETY: the caller's promise.
            let sum = unsafe { a.float(SCALED_SUM) };
            for v in 0..VECTORS {
                sums[r][v] = _mm512_fmadd_ps(w[v].extra.min(), sum, sums[r][v]);
            }
        }
        if F::Extra::MINS && F::Extra::HALVES {
            // SAFETY: the caller's promise.
            let [low, high] = unsafe { [a.int(MINUS_LOW), a.int(MINUS_HIGH)] };
            for v in 0..VECTORS {
                let [m0, m1] = w[v].extra.mins();
                let minus = _mm512_add_epi32(_mm512_mullo_epi32(m0, low), _mm512_mullo_epi32(m1, high));
                let sum = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(minus));
                sums[r][v] = _mm512_fnmadd_ps(w[v].extra.min(), sum, sums[r][v]);
            }
        }
    }
}

/// The same unit of the r-th next row.
#[inline(always)]
fn row(a: Activations, r: usize) -> Activations {
    Activations { q: a.q.wrapping_add(8 * r), scale: a.scale.wrapping_add(r), plane: a.plane }
}

/// # Panics
///
/// When lengths do not fit.
fn prepare(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
    let shape = Shape::new(w, panel_rows);
    assert!(shape.units * UNIT == w.inputs && x.len().is_multiple_of(w.inputs), "{} numbers of x", x.len());
    assert!(x.len() <= panel_rows * w.inputs && to.len() >= shape.bytes(), "{} numbers, {} bytes", x.len(), to.len());
    if x.len() < panel_rows * w.inputs {
        to.fill(0); // units of zeros
    }
    for (r, x) in x.chunks_exact(w.inputs).enumerate() {
        for (unit, x) in x.as_chunks::<UNIT>().0.iter().enumerate() {
            let at = unit * panel_rows + r;
            // SAFETY: the table that holds this function is used only on CPUs with these features. `at` is a unit of the
            // shape, which fits into `to`.
            unsafe {
                let q = to.as_mut_ptr().add(at * UNIT);
                quantize(x, q, to.as_mut_ptr().add(shape.numbers() + 4 * at), shape.plane());
            }
        }
    }
}

/// Quantises 32 numbers, as `quantized::quantize` does.
///
/// # Safety
///
/// `q` has room for 32 bytes, and `planes` and each of the next four multiples of `plane` from there for four.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
unsafe fn quantize(x: &[f32; UNIT], q: *mut u8, planes: *mut u8, plane: usize) {
    // SAFETY: 16 of 32 numbers are read twice.
    let x = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(LANES))] };
    let magnitude = |x| _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
    let max = _mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(x[0]), magnitude(x[1])));
    let (mut inverse, mut scale) = (0.0, 0.0);
    if max >= f32::INFINITY.to_bits() {
        scale = f32::from_bits(max);
    } else if max >= SMALLEST.to_bits() {
        inverse = 127.0 / f32::from_bits(max);
        scale = f32::from_bits(max) / 127.0;
    }
    // Rounded to nearest, ties to even. Numbers that are not finite are no part of any sum.
    let finite = if scale.is_finite() { 0xffff } else { 0 };
    let round = |x| {
        let rounded = _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(x, _mm512_set1_ps(inverse)));
        _mm512_cvtsepi32_epi8(rounded)
    };
    let [low, high] = [round(x[0]), round(x[1])];
    let ones = _mm_set1_epi8(1);
    // Each lane the sum of four, then pairs, then pairs of those: low, high, low, high.
    let fours = |q| _mm_dpbusd_epi32(_mm_setzero_si128(), ones, q);
    let pairs = _mm_hadd_epi32(fours(low), fours(high));
    let sums = _mm_hadd_epi32(pairs, pairs);
    let (low_sum, high_sum) = (_mm_cvtsi128_si32(sums), _mm_extract_epi32::<1>(sums));
    // SAFETY: the caller's promise.
    unsafe {
        _mm_storeu_si128(q.cast(), low);
        _mm_storeu_si128(q.add(16).cast(), high);
        planes.cast::<f32>().write_unaligned(scale);
        planes.add(SCALED_SUM * plane).cast::<f32>().write_unaligned(scale * (low_sum + high_sum) as f32);
        planes.add(MINUS_SUM * plane).cast::<i32>().write_unaligned(-(low_sum + high_sum));
        planes.add(MINUS_LOW * plane).cast::<i32>().write_unaligned(-low_sum);
        planes.add(MINUS_HIGH * plane).cast::<i32>().write_unaligned(-high_sum);
    }
}

/// # Panics
///
/// When lengths do not fit.
fn multiply(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
    let (format, bytes) = blocks_of(w);
    let shape = Shape::new(w, x.panel_rows);
    assert!(shape.units * UNIT == w.inputs && w.inputs.is_multiple_of(format.block_len()), "{} inputs", w.inputs);
    assert!(bytes.len() == format.bytes(w.inputs) * w.outputs && columns.end <= w.outputs, "columns {columns:?}");
    assert!(x.panel_bytes == shape.bytes(), "panels of {} bytes", x.panel_bytes);
    assert!(x.data.len() >= x.rows.div_ceil(x.panel_rows) * x.panel_bytes, "{} rows in {} bytes", x.rows, x.data.len());
    assert!(x.rows <= x.panel_rows || x.panel_rows == TILE_ROWS, "panels of {} rows", x.panel_rows);
    // SAFETY: the table that holds this function is used only on CPUs with these features; lengths are asserted above.
    unsafe {
        match format {
            Format::Q4_0 => product::<Q4_0>(bytes, shape, x, columns, out),
            Format::Q4_1 => product::<Q4_1>(bytes, shape, x, columns, out),
            Format::Q5_0 => product::<Q5_0>(bytes, shape, x, columns, out),
            Format::Q5_1 => product::<Q5_1>(bytes, shape, x, columns, out),
            Format::Q8_0 => product::<Q8_0>(bytes, shape, x, columns, out),
            Format::Q2K => product::<Q2K>(bytes, shape, x, columns, out),
            Format::Q3K => product::<Q3K>(bytes, shape, x, columns, out),
            Format::Q4K => product::<Q4K>(bytes, shape, x, columns, out),
            Format::Q5K => product::<Q5K>(bytes, shape, x, columns, out),
            Format::Q6K => product::<Q6K>(bytes, shape, x, columns, out),
            Format::Iq4Nl => product::<Iq4Nl>(bytes, shape, x, columns, out),
            Format::Iq4Xs => product::<Iq4Xs>(bytes, shape, x, columns, out),
            Format::Mxfp4 => product::<Mxfp4>(bytes, shape, x, columns, out),
        }
    }
}

/// # Safety
///
/// `bytes` are whole rows of blocks, more than `columns.end`; the panels are whole.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn product<F: Rows>(bytes: &[u8], shape: Shape, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
    let blocks = shape.units / F::UNITS;
    let stride = blocks * F::BYTES;
    let mut scratch = SCRATCH.take();
    let [unpacked, padded] = &mut scratch;
    // Sixteen rows from `column` on, the ones past the end as zeros.
    let mut rows = |column: usize| {
        let rest = &bytes[column * stride..];
        if rest.len() >= LANES * stride {
            return rest.as_ptr();
        }
        let copy = sized(padded, LANES * stride);
        // SAFETY: `sized` made room for sixteen rows, and `rest` is fewer.
        unsafe {
            copy.write_bytes(0, LANES * stride);
            copy.copy_from_nonoverlapping(rest.as_ptr(), rest.len());
        }
        copy.cast_const()
    };
    let first = Activations {
        q: x.data.as_ptr().cast(),
        scale: x.data.as_ptr().wrapping_add(shape.numbers()).cast(),
        plane: shape.plane(),
    };
    if x.rows == 1 {
        for column in columns.clone().step_by(LANES) {
            // SAFETY: `rows` are sixteen whole ones, `first` is the whole panel.
            let sum = unsafe { single::<F>(rows(column), blocks, first, x.panel_rows) };
            out.store_part(0, column, &lanes(sum), LANES.min(columns.end - column));
        }
    } else if x.rows <= x.panel_rows {
        for column in columns.clone().step_by(2 * LANES) {
            let count = (2 * LANES).min(columns.end - column);
            let mut both = [[[_mm512_setzero_ps(); 2]; 1]; FEW_ROWS];
            let mut one = [[[_mm512_setzero_ps(); 1]; 1]; FEW_ROWS];
            // SAFETY: `rows` are sixteen whole ones, `first` is the whole panel.
            unsafe {
                if count > LANES {
                    let w = [rows(column), rows(column + LANES)];
                    few_by_two::<F>(w, blocks, first, x.panel_rows, &mut both[..x.rows]);
                } else {
                    few::<F>(rows(column), blocks, first, x.panel_rows, &mut one[..x.rows]);
                }
            }
            for r in 0..x.rows {
                if count > LANES {
                    store(out, r, column, &both[r][0], count);
                } else {
                    store(out, r, column, &one[r][0], count);
                }
            }
        }
    } else {
        let unit = size_of::<Weights<F::Extra>>();
        let tile: *mut Weights<F::Extra> = sized(unpacked, 2 * shape.units * unit).cast();
        for column in columns.clone().step_by(2 * LANES) {
            let count = (2 * LANES).min(columns.end - column);
            // SAFETY: `rows` are sixteen whole ones, `tile` has room for two units per unit, the panels are whole.
            unsafe {
                unpack::<F>(rows(column), blocks, tile);
                if count > LANES {
                    unpack::<F>(rows(column + LANES), blocks, tile.add(1));
                    tiles::<F, 2>(tile.cast(), shape, first, x, column, count, out);
                } else {
                    tiles::<F, 1>(tile.cast(), shape, first, x, column, count, out);
                }
            }
        }
    }
    SCRATCH.set(scratch);
}

/// Asks for `bytes` from `at` on.
#[inline(always)]
fn prefetch(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: prefetching reads nothing that the program can see and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line).cast()) };
    }
}

/// How far the asking for weights is ahead, beyond the sixteen rows in use: those are used from side to side and asked for
/// one after the other, so that the first bytes of the last row are needed soon after they were asked for.
const AHEAD: usize = 8 << 10;

/// Hands the units of sixteen rows to `each`, one after the other.
///
/// # Safety
///
/// `w` are sixteen rows of `blocks` blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
unsafe fn units<F: Rows>(w: *const u8, blocks: usize, mut each: impl FnMut(Weights<F::Extra>)) {
    let rows = Sixteen::new(w, blocks * F::BYTES);
    let bytes = LANES * F::BYTES / F::UNITS;
    let mut ahead = w.wrapping_add(LANES * blocks * F::BYTES + AHEAD);
    for block in 0..blocks {
        // SAFETY: the caller's promise.
        unsafe {
            let at = rows.add(block * F::BYTES);
            let header = F::header(at);
            for group in 0..F::UNITS / F::GROUP {
                let raw = F::raw(at, group);
                for i in 0..F::GROUP {
                    prefetch(ahead, bytes);
                    ahead = ahead.wrapping_add(bytes);
                    each(F::unit(&header, &raw, group, i));
                }
            }
        }
    }
}

/// Hands the units of twice sixteen rows to `each`, two at a time.
///
/// # Safety
///
/// As for `units`, of both.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
unsafe fn pairs<F: Rows>(w: [*const u8; 2], blocks: usize, mut each: impl FnMut([Weights<F::Extra>; 2])) {
    let rows = Sixteen::new(w[0], blocks * F::BYTES);
    let bytes = 2 * LANES * F::BYTES / F::UNITS;
    let mut ahead = w[0].wrapping_add(2 * LANES * blocks * F::BYTES + AHEAD);
    for block in 0..blocks {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (rows.add(block * F::BYTES), rows.others(w[1]).add(block * F::BYTES));
            let headers = (F::header(a), F::header(b));
            for group in 0..F::UNITS / F::GROUP {
                let raw = (F::raw(a, group), F::raw(b, group));
                for i in 0..F::GROUP {
                    prefetch(ahead, bytes);
                    ahead = ahead.wrapping_add(bytes);
                    each([F::unit(&headers.0, &raw.0, group, i), F::unit(&headers.1, &raw.1, group, i)]);
                }
            }
        }
    }
}

/// One row of x times sixteen of weights.
///
/// # Safety
///
/// `w` are sixteen rows of `blocks` blocks, `a` is the first unit of a whole panel of `panel_rows` rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn single<F: Rows>(w: *const u8, blocks: usize, mut a: Activations, panel_rows: usize) -> __m512 {
    let mut sums = [[_mm512_setzero_ps(); 1]; 1];
    // SAFETY: the caller's promise.
    unsafe {
        units::<F>(w, blocks, |w| {
            step::<F, 1, 1>(&[w], a, &mut sums);
            a = row(a, panel_rows);
        });
    }
    sums[0][0]
}

/// A few rows of x, as many as `sums`, times sixteen of weights.
///
/// # Safety
///
/// As for `single`, of at least as many `panel_rows`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn few<F: Rows>(w: *const u8, blocks: usize, a: Activations, panel_rows: usize, sums: &mut [[[__m512; 1]; 1]]) {
    let mut a = a;
    // SAFETY: the caller's promise.
    unsafe {
        units::<F>(w, blocks, |w| {
            let w = [w];
            for (r, sums) in sums.iter_mut().enumerate() {
                step::<F, 1, 1>(&w, row(a, r), sums);
            }
            a = row(a, panel_rows);
        });
    }
}

/// A few rows of x, as many as `sums`, times twice sixteen of weights, which halves how often x is read.
///
/// # Safety
///
/// As for `few`, with both of `w`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn few_by_two<F: Rows>(
    w: [*const u8; 2],
    blocks: usize,
    mut a: Activations,
    panel_rows: usize,
    sums: &mut [[[__m512; 2]; 1]],
) {
    // SAFETY: the caller's promise.
    unsafe {
        pairs::<F>(w, blocks, |w| {
            for (r, sums) in sums.iter_mut().enumerate() {
                step::<F, 2, 1>(&w, row(a, r), sums);
            }
            a = row(a, panel_rows);
        });
    }
}

/// Unpacks sixteen rows into every second place of `to`.
///
/// # Safety
///
/// `w` are sixteen rows of `blocks` blocks, and there is room for all their units.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn unpack<F: Rows>(w: *const u8, blocks: usize, mut to: *mut Weights<F::Extra>) {
    // SAFETY: the caller's promise.
    unsafe {
        units::<F>(w, blocks, |w| {
            *to = w;
            to = to.wrapping_add(2);
        });
    }
}

/// Writes the first `count` of the sums, which end in the last vector. Inlined by force: a call would pass the sums through
/// memory, which takes as long as a sixth of a short product.
#[inline(always)]
fn store<const VECTORS: usize>(out: &Out<'_>, row: usize, column: usize, sums: &[__m512; VECTORS], count: usize) {
    if count < VECTORS * LANES {
        for (v, sum) in sums.iter().enumerate() {
            out.store_part(row, column + LANES * v, &lanes(*sum), (count - LANES * v).min(LANES));
        }
        return;
    }
    let (y, bias, residual) = out.place(row, column, VECTORS * LANES);
    for (v, sum) in sums.iter().enumerate() {
        let at = LANES * v;
        // SAFETY: `place` found so many columns in the row, and what is not null is as long; all callers are entries of a
        // table that is used only on CPUs with AVX-512.
        unsafe {
            let mut sum = *sum;
            if !bias.is_null() {
                sum = _mm512_add_ps(sum, _mm512_loadu_ps(bias.add(at)));
            }
            if !residual.is_null() {
                sum = _mm512_add_ps(sum, _mm512_loadu_ps(residual.add(at)));
            }
            _mm512_storeu_ps(y.add(at), sum);
        }
    }
}

#[inline(always)]
fn lanes(v: __m512) -> Lanes {
    // SAFETY: sixteen `f32` in a register have the layout of sixteen in an array.
    Lanes(unsafe { std::mem::transmute::<__m512, [f32; LANES]>(v) })
}

/// All panels times the first `VECTORS` of each two unpacked units.
///
/// # Safety
///
/// `tile` are the units of the shape, which the panels have too; `first` is the first unit of the first panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn tiles<F: Rows, const VECTORS: usize>(
    tile: *const [Weights<F::Extra>; 2],
    shape: Shape,
    first: Activations,
    x: Panels<'_>,
    column: usize,
    count: usize,
    out: &Out<'_>,
) {
    for panel in 0..x.rows.div_ceil(TILE_ROWS) {
        let mut a = Activations {
            q: first.q.wrapping_byte_add(panel * x.panel_bytes),
            scale: first.scale.wrapping_byte_add(panel * x.panel_bytes),
            plane: first.plane,
        };
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; TILE_ROWS];
        for unit in 0..shape.units {
            // SAFETY: the caller's promise.
            unsafe {
                let w = &*tile.add(unit).cast();
                step::<F, VECTORS, TILE_ROWS>(w, a, &mut sums);
            }
            a = row(a, TILE_ROWS);
        }
        for (r, sums) in sums.iter().enumerate().take(x.rows - panel * TILE_ROWS) {
            store(out, panel * TILE_ROWS + r, column, sums, count);
        }
    }
}
