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

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::Matrix;
use super::blocks::{Format, UNIT};
use super::lanes::{LANES, Lanes};
use super::product::{Family, Out, Panels};
use super::quantized::{self, FEW_ROWS, Shape, TILE_ROWS, blocks_of, panel_bytes, panel_rows};

pub(super) static AVX512_VNNI: Family =
    Family { panel_rows, panel_bytes, prepare: quantized::SCALAR.prepare, column_unit, multiply };

fn column_unit(_: &Matrix<'_>, rows: usize) -> usize {
    if rows <= FEW_ROWS { LANES } else { 2 * LANES }
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

/// A unit of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C)]
struct Weights<E> {
    /// Vector i, lane r: numbers `4 * i..4 * i + 4` of row r, plus the offset.
    q: [__m512i; 8],
    scale: __m512,
    extra: E,
}

/// What a unit has beside numbers and a scale.
trait Extra: Copy {
    /// A scale for each 16 numbers.
    const HALVES: bool;
    /// Minima.
    const MINS: bool;

    fn min(&self) -> __m512 {
        unreachable!()
    }
    fn scales(&self) -> [__m512i; 2] {
        unreachable!()
    }
    fn mins(&self) -> [__m512i; 2] {
        unreachable!()
    }
}

impl Extra for () {
    const HALVES: bool = false;
    const MINS: bool = false;
}

/// One minimum.
#[derive(Clone, Copy)]
#[repr(C)]
struct Min(__m512);

impl Extra for Min {
    const HALVES: bool = false;
    const MINS: bool = true;

    #[inline(always)]
    fn min(&self) -> __m512 {
        self.0
    }
}

/// Two integer scales.
#[derive(Clone, Copy)]
#[repr(C)]
struct Halves([__m512i; 2]);

impl Extra for Halves {
    const HALVES: bool = true;
    const MINS: bool = false;

    #[inline(always)]
    fn scales(&self) -> [__m512i; 2] {
        self.0
    }
}

/// A block format, sixteen rows at a time.
trait Rows {
    /// Bytes of a block.
    const BYTES: usize;
    /// Units of a block.
    const UNITS: usize;
    /// Units that are unpacked from the same bytes.
    const GROUP: usize;
    /// What `Weights::q` is larger by: 1 << this.
    const OFFSET: Option<u32>;
    type Extra: Extra;
    /// What the units of a block share.
    type Header;
    /// The bytes of a group.
    type Raw;

    /// # Safety
    ///
    /// `at` are sixteen whole blocks. The same holds for `raw`.
    unsafe fn header(at: Sixteen) -> Self::Header;
    unsafe fn raw(at: Sixteen, group: usize) -> Self::Raw;
    unsafe fn unit(header: &Self::Header, raw: &Self::Raw, group: usize, i: usize) -> Weights<Self::Extra>;
}

/// Where sixteen rows lie.
#[derive(Clone, Copy)]
struct Sixteen {
    /// The first one.
    at: *const u8,
    /// Bytes from each to the next.
    stride: usize,
    /// The lanes of the second, third and last quarter of a vector, in a form that the compiler does not see through: it
    /// would make a load and a shuffle of each masked load.
    quarters: [__mmask16; 3],
}

impl Sixteen {
    fn new(at: *const u8, stride: usize) -> Sixteen {
        Sixteen { at, stride, quarters: std::hint::black_box([0x00f0, 0x0f00, 0xf000]) }
    }

    #[inline(always)]
    fn add(self, bytes: usize) -> Sixteen {
        Sixteen { at: self.at.wrapping_add(bytes), ..self }
    }
}

/// 16 bytes of 16 rows: vector i, lane r holds bytes `4 * i..4 * i + 4` of row r.
///
/// # Safety
///
/// 16 bytes of each row can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
unsafe fn transpose(rows: Sixteen) -> [__m512i; 4] {
    let Sixteen { at, stride, quarters: [second, third, last] } = rows;
    // SAFETY: the caller's promise.
    let four = |j: usize| unsafe {
        let row = |i: usize| _mm_loadu_si128(at.add((j + i) * stride).cast());
        let v = _mm512_castsi128_si512(row(0));
        let v = _mm512_mask_broadcast_i32x4(v, second, row(4));
        let v = _mm512_mask_broadcast_i32x4(v, third, row(8));
        _mm512_mask_broadcast_i32x4(v, last, row(12))
    };
    let [a, b, c, d] = [four(0), four(1), four(2), four(3)];
    let [ab, cd] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
    let [ab_high, cd_high] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// 32 bytes of 16 rows.
///
/// # Safety
///
/// 32 bytes of each row can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
unsafe fn transpose_32(rows: Sixteen) -> [__m512i; 8] {
    // SAFETY: the caller's promise.
    let ([a, b, c, d], [e, f, g, h]) = unsafe { (transpose(rows), transpose(rows.add(16))) };
    [a, b, c, d, e, f, g, h]
}

/// The numbers whose half precision is in the lower 16 bits of each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn half(v: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn low_nibbles(v: __m512i) -> __m512i {
    _mm512_and_si512(v, _mm512_set1_epi8(15))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn high_nibbles(v: __m512i) -> __m512i {
    low_nibbles(_mm512_srli_epi16::<4>(v))
}

/// The nibbles of 16 bytes in the order of `blocks::Q4_0`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn nibbles([a, b, c, d]: [__m512i; 4]) -> [__m512i; 8] {
    [
        low_nibbles(a),
        low_nibbles(b),
        low_nibbles(c),
        low_nibbles(d),
        high_nibbles(a),
        high_nibbles(b),
        high_nibbles(c),
        high_nibbles(d),
    ]
}

struct Q4_0;

impl Rows for Q4_0 {
    const BYTES: usize = Format::Q4_0.block_bytes();
    const UNITS: usize = 1;
    const GROUP: usize = 1;
    const OFFSET: Option<u32> = Some(3);
    type Extra = ();
    type Header = __m512;
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> __m512 {
        // SAFETY: the caller's promise.
        half(unsafe { transpose(at) }[0])
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, _: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        nibbles(unsafe { transpose(at.add(2)) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &__m512, raw: &[__m512i; 8], _: usize, _: usize) -> Weights<()> {
        Weights { q: *raw, scale: *header, extra: () }
    }
}

struct Q8_0;

impl Rows for Q8_0 {
    const BYTES: usize = Format::Q8_0.block_bytes();
    const UNITS: usize = 1;
    const GROUP: usize = 1;
    const OFFSET: Option<u32> = Some(7);
    type Extra = ();
    type Header = __m512;
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> __m512 {
        // SAFETY: the caller's promise.
        half(unsafe { transpose(at) }[0])
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, _: usize) -> [__m512i; 8] {
        let sign = _mm512_set1_epi8(-128);
        // SAFETY: the caller's promise.
        unsafe { transpose_32(at.add(2)) }.map(|v| _mm512_xor_si512(v, sign))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &__m512, raw: &[__m512i; 8], _: usize, _: usize) -> Weights<()> {
        Weights { q: *raw, scale: *header, extra: () }
    }
}

/// The scales and minima of eight units.
struct Scales {
    scale: [__m512; 8],
    min: [__m512; 8],
}

struct Q4K;

impl Rows for Q4K {
    const BYTES: usize = Format::Q4K.block_bytes();
    const UNITS: usize = 8;
    const GROUP: usize = 2;
    const OFFSET: Option<u32> = None;
    type Extra = Min;
    type Header = Scales;
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> Scales {
        // SAFETY: the caller's promise.
        six_bit_scales(unsafe { transpose(at) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, group: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        unsafe { transpose_32(at.add(16 + 32 * group)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &Scales, raw: &[__m512i; 8], group: usize, i: usize) -> Weights<Min> {
        let q = if i == 0 { raw.map(|v| low_nibbles(v)) } else { raw.map(|v| high_nibbles(v)) };
        Weights { q, scale: header.scale[2 * group + i], extra: Min(header.min[2 * group + i]) }
    }
}

/// The first 16 bytes of a block of `Q4_K` or `Q5_K`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn six_bit_scales([d, a, b, c]: [__m512i; 4]) -> Scales {
    let mask = |v, m| _mm512_and_si512(v, _mm512_set1_epi8(m));
    let scales = [mask(a, 63), _mm512_or_si512(mask(c, 15), mask(_mm512_srli_epi32::<2>(a), 48))];
    let mins = [mask(b, 63), _mm512_or_si512(mask(_mm512_srli_epi32::<4>(c), 15), mask(_mm512_srli_epi32::<2>(b), 48))];
    let minus_dmin = _mm512_xor_ps(half(_mm512_srli_epi32::<16>(d)), _mm512_set1_ps(-0.0));
    let d = half(d);
    let mut out = Scales { scale: [d; 8], min: [d; 8] };
    for j in 0..8 {
        let byte = |v| _mm512_cvtepi32_ps(_mm512_and_si512(shift_right(v, 8 * (j as i32 % 4)), _mm512_set1_epi32(255)));
        out.scale[j] = _mm512_mul_ps(d, byte(scales[j / 4]));
        out.min[j] = _mm512_mul_ps(minus_dmin, byte(mins[j / 4]));
    }
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn shift_right(v: __m512i, by: i32) -> __m512i {
    _mm512_srl_epi32(v, _mm_cvtsi32_si128(by))
}

struct Q6K;

impl Rows for Q6K {
    const BYTES: usize = Format::Q6K.block_bytes();
    const UNITS: usize = 8;
    const GROUP: usize = 4;
    const OFFSET: Option<u32> = Some(5);
    type Extra = Halves;
    type Header = (__m512, [__m512i; 16]);
    type Raw = ([[__m512i; 8]; 2], [__m512i; 8]);

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> (__m512, [__m512i; 16]) {
        // The last two of sixteen bytes, so that none is read past the block.
        // SAFETY: the caller's promise.
        let d = half(_mm512_srli_epi32::<16>(unsafe { transpose(at.add(194)) }[3]));
        // SAFETY: the caller's promise.
        (d, signed_bytes(unsafe { transpose(at.add(192)) }))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, group: usize) -> Self::Raw {
        // SAFETY: the caller's promise.
        unsafe {
            let low = at.add(64 * group);
            let nibbles = [transpose_32(low), transpose_32(low.add(32))];
            (nibbles, transpose_32(at.add(128 + 32 * group)))
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &Self::Header, raw: &Self::Raw, group: usize, i: usize) -> Weights<Halves> {
        let (low, high) = (&raw.0[i % 2], &raw.1);
        let turn = _mm512_set1_epi32(4 - 2 * i as i32);
        let q = std::array::from_fn(|v| {
            let nibbles = if i < 2 { low_nibbles(low[v]) } else { high_nibbles(low[v]) };
            or_masked(nibbles, _mm512_rolv_epi32(high[v], turn), 0x30)
        });
        let at = 8 * group + 2 * i;
        Weights { q, scale: header.0, extra: Halves([header.1[at], header.1[at + 1]]) }
    }
}

/// `a | b & mask` of every byte.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn or_masked(a: __m512i, b: __m512i, mask: i8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, _mm512_set1_epi8(mask))
}

/// Byte `4 * i + j` of every lane with its sign, of four vectors of four.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn signed_bytes(v: [__m512i; 4]) -> [__m512i; 16] {
    let mut out = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        out[4 * i] = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(v[i]));
        out[4 * i + 1] = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(v[i]));
        out[4 * i + 2] = _mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(v[i]));
        out[4 * i + 3] = _mm512_srai_epi32::<24>(v[i]);
    }
    out
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
    w: [&Weights<F::Extra>; VECTORS],
    a: Activations,
    sums: &mut [[__m512; VECTORS]; ROWS],
) {
    let zero = _mm512_setzero_si512();
    let start = |r: usize, plane: usize| match F::OFFSET {
        // SAFETY: the caller's promise.
        Some(offset) => shift_left(unsafe { row(a, r).int(plane) }, offset),
        None => zero,
    };
    let mut isums = [[zero; VECTORS]; ROWS];
    // The sums of the first 16 numbers, where they have a scale of their own or a single chain would be too slow.
    let mut part = [[zero; VECTORS]; ROWS];
    let split = F::Extra::HALVES || VECTORS * ROWS == 1;
    for r in 0..ROWS {
        isums[r] = [start(r, if F::Extra::HALVES { MINUS_LOW } else { MINUS_SUM }); VECTORS];
    }
    for i in 0..8 {
        if split && i == 4 {
            part = isums;
            for r in 0..ROWS {
                isums[r] = [if F::Extra::HALVES { start(r, MINUS_HIGH) } else { zero }; VECTORS];
            }
            if F::Extra::HALVES {
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        part[r][v] = _mm512_mullo_epi32(part[r][v], w[v].extra.scales()[0]);
                    }
                }
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
            let mut isum = isums[r][v];
            if F::Extra::HALVES {
                isum = _mm512_mullo_epi32(isum, w[v].extra.scales()[1]);
            }
            if split {
                isum = _mm512_add_epi32(isum, part[r][v]);
            }
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(isum), w[v].scale);
            sums[r][v] = _mm512_fmadd_ps(scaled, scale, sums[r][v]);
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn shift_left(v: __m512i, by: u32) -> __m512i {
    _mm512_sll_epi32(v, _mm_cvtsi32_si128(by as i32))
}

/// The same unit of the r-th next row.
#[inline(always)]
fn row(a: Activations, r: usize) -> Activations {
    Activations { q: a.q.wrapping_add(8 * r), scale: a.scale.wrapping_add(r), plane: a.plane }
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
            Format::Q8_0 => product::<Q8_0>(bytes, shape, x, columns, out),
            Format::Q4K => product::<Q4K>(bytes, shape, x, columns, out),
            Format::Q6K => product::<Q6K>(bytes, shape, x, columns, out),
            _ => (quantized::SCALAR.multiply)(w, x, columns, out),
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
    if x.rows <= x.panel_rows {
        for column in columns.clone().step_by(LANES) {
            let count = LANES.min(columns.end - column);
            // SAFETY: `rows` are sixteen whole ones, `first` is the whole panel.
            unsafe {
                let w = rows(column);
                match x.rows {
                    1 => fused::<F, 1>(w, blocks, first, x, column, count, out),
                    _ => fused_many::<F>(w, blocks, first, x, column, count, out),
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
                unpack::<F, 2>(rows(column), blocks, tile);
                if count > LANES {
                    unpack::<F, 2>(rows(column + LANES), blocks, tile.add(1));
                    tiles::<F, 2>(tile.cast(), shape, first, x, column, count, out);
                } else {
                    tiles_of_one::<F>(tile, shape, first, x, column, count, out);
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

/// Bytes ahead of the weights in use at which others are asked for, at the least.
const AHEAD: usize = 12 << 10;

/// One row of x.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn fused<F: Rows, const ROWS: usize>(
    w: *const u8,
    blocks: usize,
    first: Activations,
    x: Panels<'_>,
    column: usize,
    count: usize,
    out: &Out<'_>,
) {
    let stride = blocks * F::BYTES;
    let rows = Sixteen::new(w, stride);
    let mut ahead = w.wrapping_add((LANES * stride).max(AHEAD));
    let mut sums = [[_mm512_setzero_ps(); 1]; ROWS];
    let mut a = first;
    for block in 0..blocks {
        // SAFETY: the caller's promise.
        unsafe {
            let at = rows.add(block * F::BYTES);
            let header = F::header(at);
            for group in 0..F::UNITS / F::GROUP {
                let raw = F::raw(at, group);
                for i in 0..F::GROUP {
                    prefetch(ahead, LANES * F::BYTES / F::UNITS);
                    ahead = ahead.wrapping_add(LANES * F::BYTES / F::UNITS);
                    let w = F::unit(&header, &raw, group, i);
                    step::<F, 1, ROWS>([&w], a, &mut sums);
                    a = row(a, x.panel_rows);
                }
            }
        }
    }
    for r in 0..ROWS {
        out.store_part(r, column, &lanes(sums[r][0]), count);
    }
}

/// Few rows of x.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn fused_many<F: Rows>(
    w: *const u8,
    blocks: usize,
    first: Activations,
    x: Panels<'_>,
    column: usize,
    count: usize,
    out: &Out<'_>,
) {
    let stride = blocks * F::BYTES;
    let rows = Sixteen::new(w, stride);
    let mut ahead = w.wrapping_add((LANES * stride).max(AHEAD));
    let mut sums = [[[_mm512_setzero_ps(); 1]; 1]; FEW_ROWS];
    let sums = &mut sums[..x.rows];
    let mut a = first;
    for block in 0..blocks {
        // SAFETY: the caller's promise.
        unsafe {
            let at = rows.add(block * F::BYTES);
            let header = F::header(at);
            for group in 0..F::UNITS / F::GROUP {
                let raw = F::raw(at, group);
                for i in 0..F::GROUP {
                    prefetch(ahead, LANES * F::BYTES / F::UNITS);
                    ahead = ahead.wrapping_add(LANES * F::BYTES / F::UNITS);
                    let w = F::unit(&header, &raw, group, i);
                    for (r, sums) in sums.iter_mut().enumerate() {
                        step::<F, 1, 1>([&w], row(a, r), sums);
                    }
                    a = row(a, x.panel_rows);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        out.store_part(r, column, &lanes(sums[0][0]), count);
    }
}

fn lanes(v: __m512) -> Lanes {
    // SAFETY: sixteen `f32` in a register have the layout of sixteen in an array.
    Lanes(unsafe { std::mem::transmute::<__m512, [f32; LANES]>(v) })
}

/// Sixteen rows as units, each `APART` from the one before.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn unpack<F: Rows, const APART: usize>(w: *const u8, blocks: usize, to: *mut Weights<F::Extra>) {
    let stride = blocks * F::BYTES;
    let rows = Sixteen::new(w, stride);
    let mut ahead = w.wrapping_add((LANES * stride).max(AHEAD));
    let mut to = to;
    for block in 0..blocks {
        // SAFETY: the caller's promise.
        unsafe {
            let at = rows.add(block * F::BYTES);
            let header = F::header(at);
            for group in 0..F::UNITS / F::GROUP {
                let raw = F::raw(at, group);
                for i in 0..F::GROUP {
                    prefetch(ahead, LANES * F::BYTES / F::UNITS);
                    ahead = ahead.wrapping_add(LANES * F::BYTES / F::UNITS);
                    *to = F::unit(&header, &raw, group, i);
                    to = to.wrapping_add(APART);
                }
            }
        }
    }
}

/// All panels times an unpacked tile.
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
                let w = &*tile.add(unit);
                step::<F, VECTORS, TILE_ROWS>(std::array::from_fn(|v| &w[v]), a, &mut sums);
            }
            a = row(a, TILE_ROWS);
        }
        for (r, sums) in sums.iter().enumerate().take(x.rows - panel * TILE_ROWS) {
            let mut left = count;
            for (v, sum) in sums.iter().enumerate() {
                out.store_part(panel * TILE_ROWS + r, column + LANES * v, &lanes(*sum), left.min(LANES));
                left = left.saturating_sub(LANES);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
unsafe fn tiles_of_one<F: Rows>(
    tile: *const Weights<F::Extra>,
    shape: Shape,
    first: Activations,
    x: Panels<'_>,
    column: usize,
    count: usize,
    out: &Out<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe { tiles::<F, 1>(tile.cast(), shape, first, x, column, count, out) }
}
