//! The block formats, sixteen rows of weights at a time: how the bytes of a block become eight vectors of unsigned numbers
//! and their scales. `blocks.rs` says what the bytes mean.

use std::arch::x86_64::*;

use super::super::blocks::{Format, IQ4_NL_VALUES, MXFP4_VALUES};

/// A unit of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Weights<E> {
    /// Vector i, lane r: numbers `4 * i..4 * i + 4` of row r, plus the offset.
    pub(super) q: [__m512i; 8],
    pub(super) scale: __m512,
    pub(super) extra: E,
}

/// What a unit has beside numbers and a scale.
pub(super) trait Extra: Copy {
    /// A scale for each 16 numbers.
    const HALVES: bool;
    /// Minima.
    const MINS: bool;

    fn min(&self) -> __m512 {
        unreachable!()
    }
    fn scales(&self) -> [__m512; 2] {
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
pub(super) struct Min(__m512);

impl Extra for Min {
    const HALVES: bool = false;
    const MINS: bool = true;

    #[inline(always)]
    fn min(&self) -> __m512 {
        self.0
    }
}

/// Two scales, integers as `f32`: their products with sums stay below 2^24 and are as exact as integers, but faster.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Halves([__m512; 2]);

impl Extra for Halves {
    const HALVES: bool = true;
    const MINS: bool = false;

    #[inline(always)]
    fn scales(&self) -> [__m512; 2] {
        self.0
    }
}

/// Two scales, and two integer minima times a negated factor.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct HalvesMin {
    scales: [__m512; 2],
    min: __m512,
    mins: [__m512i; 2],
}

impl Extra for HalvesMin {
    const HALVES: bool = true;
    const MINS: bool = true;

    #[inline(always)]
    fn min(&self) -> __m512 {
        self.min
    }

    #[inline(always)]
    fn scales(&self) -> [__m512; 2] {
        self.scales
    }

    #[inline(always)]
    fn mins(&self) -> [__m512i; 2] {
        self.mins
    }
}

/// A block format, sixteen rows at a time.
pub(super) trait Rows {
    /// Bytes of a block.
    const BYTES: usize;
    /// Units of a block.
    const UNITS: usize;
    /// Units that are unpacked from the same bytes.
    const GROUP: usize;
    /// What `Weights::q` is larger by than the weights: 2 to the power of this.
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
pub(super) struct Sixteen {
    /// The first one.
    at: *const u8,
    /// Bytes from each to the next.
    stride: usize,
    /// The lanes of the second, third and last quarter of a vector, in a form that the compiler does not see through: it
    /// would make a load and a shuffle of each masked load.
    quarters: [__mmask16; 3],
}

impl Sixteen {
    pub(super) fn new(at: *const u8, stride: usize) -> Sixteen {
        Sixteen { at, stride, quarters: std::hint::black_box([0x00f0, 0x0f00, 0xf000]) }
    }

    /// Other rows that are as long.
    #[inline(always)]
    pub(super) fn others(self, at: *const u8) -> Sixteen {
        Sixteen { at, ..self }
    }

    /// The same rows, so many bytes on.
    #[inline(always)]
    pub(super) fn add(self, bytes: usize) -> Sixteen {
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

pub(super) struct Q4_0;

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

pub(super) struct Q8_0;

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
        let mut q = unsafe { transpose_32(at.add(2)) };
        for q in &mut q {
            *q = _mm512_xor_si512(*q, sign);
        }
        q
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &__m512, raw: &[__m512i; 8], _: usize, _: usize) -> Weights<()> {
        Weights { q: *raw, scale: *header, extra: () }
    }
}

pub(super) struct Q4_1;

impl Rows for Q4_1 {
    const BYTES: usize = Format::Q4_1.block_bytes();
    const UNITS: usize = 1;
    const GROUP: usize = 1;
    const OFFSET: Option<u32> = None;
    type Extra = Min;
    type Header = [__m512; 2];
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> [__m512; 2] {
        // SAFETY: the caller's promise.
        two_halves(unsafe { transpose(at) }[0])
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, _: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        nibbles(unsafe { transpose(at.add(4)) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit([scale, min]: &[__m512; 2], raw: &[__m512i; 8], _: usize, _: usize) -> Weights<Min> {
        Weights { q: *raw, scale: *scale, extra: Min(*min) }
    }
}

pub(super) struct Q5_0;

impl Rows for Q5_0 {
    const BYTES: usize = Format::Q5_0.block_bytes();
    const UNITS: usize = 1;
    const GROUP: usize = 1;
    const OFFSET: Option<u32> = Some(4);
    type Extra = ();
    /// The scale and the fifth bits.
    type Header = (__m512, __m512i);
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> (__m512, __m512i) {
        // SAFETY: the caller's promise.
        let [a, b, ..] = unsafe { transpose(at) };
        (half(a), _mm512_or_si512(_mm512_srli_epi32::<16>(a), _mm512_slli_epi32::<16>(b)))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, _: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        nibbles(unsafe { transpose(at.add(6)) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit((scale, bits): &(__m512, __m512i), raw: &[__m512i; 8], _: usize, _: usize) -> Weights<()> {
        Weights { q: add_bits(raw, *bits), scale: *scale, extra: () }
    }
}

pub(super) struct Q5_1;

impl Rows for Q5_1 {
    const BYTES: usize = Format::Q5_1.block_bytes();
    const UNITS: usize = 1;
    const GROUP: usize = 1;
    const OFFSET: Option<u32> = None;
    type Extra = Min;
    /// Scale and minimum, and the fifth bits.
    type Header = ([__m512; 2], __m512i);
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> ([__m512; 2], __m512i) {
        // SAFETY: the caller's promise.
        let [scales, bits, ..] = unsafe { transpose(at) };
        (two_halves(scales), bits)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, _: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        nibbles(unsafe { transpose(at.add(8)) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &Self::Header, raw: &[__m512i; 8], _: usize, _: usize) -> Weights<Min> {
        let ([scale, min], bits) = *header;
        Weights { q: add_bits(raw, bits), scale, extra: Min(min) }
    }
}

/// Both numbers of half precision of each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn two_halves(v: __m512i) -> [__m512; 2] {
    [half(v), half(_mm512_srli_epi32::<16>(v))]
}

/// Adds 16 times bit n to number n of every row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn add_bits(q: &[__m512i; 8], bits: __m512i) -> [__m512i; 8] {
    // Byte `v / 2` of each lane four times, of which each looks at its own bit.
    let bytes = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
    let own = [_mm512_set1_epi32(0x0804_0201), _mm512_set1_epi32(0x8040_2010_u32 as i32)];
    let sixteen = _mm512_set1_epi8(16);
    let mut sums = *q;
    for v in 0..8 {
        let byte = _mm512_shuffle_epi8(bits, _mm512_add_epi8(bytes, _mm512_set1_epi8((v / 2) as i8)));
        sums[v] = _mm512_mask_add_epi8(q[v], _mm512_test_epi8_mask(byte, own[v % 2]), q[v], sixteen);
    }
    sums
}

pub(super) struct Iq4Nl;

impl Rows for Iq4Nl {
    const BYTES: usize = Format::Iq4Nl.block_bytes();
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
        // SAFETY: the caller's promise.
        look_up(&IQ4_NL_VALUES, nibbles(unsafe { transpose(at.add(2)) }))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &__m512, raw: &[__m512i; 8], _: usize, _: usize) -> Weights<()> {
        Weights { q: *raw, scale: *header, extra: () }
    }
}

pub(super) struct Iq4Xs;

impl Rows for Iq4Xs {
    const BYTES: usize = Format::Iq4Xs.block_bytes();
    const UNITS: usize = 8;
    const GROUP: usize = 1;
    const OFFSET: Option<u32> = Some(7);
    type Extra = ();
    type Header = [__m512; 8];
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> [__m512; 8] {
        // SAFETY: the caller's promise.
        let [head, low, ..] = unsafe { transpose(at) };
        let (d, high) = (half(head), _mm512_srli_epi32::<16>(head));
        let mut scales = [d; 8];
        for (j, scale) in scales.iter_mut().enumerate() {
            let low = _mm512_and_si512(shift_right(low, 4 * j as i32), _mm512_set1_epi32(15));
            let high = _mm512_and_si512(shift_right(high, 2 * j as i32), _mm512_set1_epi32(3));
            let six_bits = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
            let factor = _mm512_cvtepi32_ps(_mm512_sub_epi32(six_bits, _mm512_set1_epi32(32)));
            *scale = _mm512_mul_ps(d, factor);
        }
        scales
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, group: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        look_up(&IQ4_NL_VALUES, nibbles(unsafe { transpose(at.add(8 + 16 * group)) }))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &[__m512; 8], raw: &[__m512i; 8], group: usize, _: usize) -> Weights<()> {
        Weights { q: *raw, scale: header[group], extra: () }
    }
}

pub(super) struct Mxfp4;

impl Rows for Mxfp4 {
    const BYTES: usize = Format::Mxfp4.block_bytes();
    const UNITS: usize = 1;
    const GROUP: usize = 1;
    const OFFSET: Option<u32> = Some(7);
    type Extra = ();
    type Header = __m512;
    type Raw = [__m512i; 8];

    /// `blocks::mxfp4_scale`
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> __m512 {
        // SAFETY: the caller's promise.
        let exponent = _mm512_and_si512(unsafe { transpose(at) }[0], _mm512_set1_epi32(255));
        let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(exponent, _mm512_set1_epi32(1)));
        let small = _mm512_cmplt_epi32_mask(exponent, _mm512_set1_epi32(2));
        _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, small, _mm512_set1_epi32(0x0020_0000), exponent))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, _: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        look_up(&MXFP4_VALUES, nibbles(unsafe { transpose(at.add(1)) }))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &__m512, raw: &[__m512i; 8], _: usize, _: usize) -> Weights<()> {
        Weights { q: *raw, scale: *header, extra: () }
    }
}

/// The values of nibbles, plus 128.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn look_up(values: &[i8; 16], nibbles: [__m512i; 8]) -> [__m512i; 8] {
    // SAFETY: 16 bytes are read from an array of 16.
    let values = unsafe { _mm_loadu_si128(values.as_ptr().cast()) };
    let values = _mm512_broadcast_i32x4(_mm_xor_si128(values, _mm_set1_epi8(-128)));
    let mut q = nibbles;
    for q in &mut q {
        *q = _mm512_shuffle_epi8(values, *q);
    }
    q
}

/// The scales and minima of eight units.
pub(super) struct Scales {
    scale: [__m512; 8],
    min: [__m512; 8],
}

pub(super) struct Q4K;

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
        let mut q = *raw;
        for q in &mut q {
            *q = if i == 0 { low_nibbles(*q) } else { high_nibbles(*q) };
        }
        Weights { q, scale: header.scale[2 * group + i], extra: Min(header.min[2 * group + i]) }
    }
}

pub(super) struct Q5K;

impl Rows for Q5K {
    const BYTES: usize = Format::Q5K.block_bytes();
    const UNITS: usize = 8;
    const GROUP: usize = 2;
    const OFFSET: Option<u32> = None;
    type Extra = Min;
    /// The scales, and the fifth bits as they lie.
    type Header = (Scales, [__m512i; 8]);
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> Self::Header {
        // SAFETY: the caller's promise.
        unsafe { (six_bit_scales(transpose(at)), transpose_32(at.add(16))) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, group: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        unsafe { transpose_32(at.add(48 + 32 * group)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &Self::Header, raw: &[__m512i; 8], group: usize, i: usize) -> Weights<Min> {
        let (Scales { scale, min }, bits) = header;
        let unit = 2 * group + i;
        let turn = _mm512_set1_epi32(4 - unit as i32);
        let mut q = [_mm512_setzero_si512(); 8];
        for v in 0..8 {
            let nibbles = if i == 0 { low_nibbles(raw[v]) } else { high_nibbles(raw[v]) };
            q[v] = or_masked(nibbles, _mm512_rolv_epi32(bits[v], turn), 16);
        }
        Weights { q, scale: scale[unit], extra: Min(min[unit]) }
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

pub(super) struct Q6K;

impl Rows for Q6K {
    const BYTES: usize = Format::Q6K.block_bytes();
    const UNITS: usize = 8;
    const GROUP: usize = 4;
    const OFFSET: Option<u32> = Some(5);
    type Extra = Halves;
    type Header = (__m512, [__m512; 16]);
    type Raw = ([[__m512i; 8]; 2], [__m512i; 8]);

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> (__m512, [__m512; 16]) {
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
        let mut q = [_mm512_setzero_si512(); 8];
        for v in 0..8 {
            let nibbles = if i < 2 { low_nibbles(low[v]) } else { high_nibbles(low[v]) };
            q[v] = or_masked(nibbles, _mm512_rolv_epi32(high[v], turn), 0x30);
        }
        let at = 8 * group + 2 * i;
        Weights { q, scale: header.0, extra: Halves([header.1[at], header.1[at + 1]]) }
    }
}

pub(super) struct Q3K;

impl Rows for Q3K {
    const BYTES: usize = Format::Q3K.block_bytes();
    const UNITS: usize = 8;
    const GROUP: usize = 4;
    const OFFSET: Option<u32> = Some(2);
    type Extra = Halves;
    /// The factor of all scales, the scales, and the third bits as they lie.
    type Header = (__m512, [__m512; 16], [__m512i; 8]);
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> Self::Header {
        // The last 16 bytes, so that none is read past the block: two of the numbers, the scales, the factor.
        // SAFETY: the caller's promise.
        let ([a, b, c, d], bits) = unsafe { (transpose(at.add(94)), transpose_32(at)) };
        let join = |low, high| _mm512_or_si512(_mm512_srli_epi32::<16>(low), _mm512_slli_epi32::<16>(high));
        let [low, mid, high] = [join(a, b), join(b, c), join(c, d)];
        let fours = [low_nibbles(low), low_nibbles(mid), high_nibbles(low), high_nibbles(mid)];
        let mut scales = fours;
        for k in 0..4 {
            let turn = _mm512_set1_epi32(4 - 2 * k as i32);
            let biased = or_masked(fours[k], _mm512_rolv_epi32(high, turn), 0x30);
            scales[k] = _mm512_sub_epi8(biased, _mm512_set1_epi8(32));
        }
        (half(_mm512_srli_epi32::<16>(d)), signed_bytes(scales), bits)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, group: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        unsafe { transpose_32(at.add(32 + 32 * group)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &Self::Header, raw: &[__m512i; 8], group: usize, i: usize) -> Weights<Halves> {
        let (scale, scales, bits) = header;
        let unit = 4 * group + i;
        let turn = _mm512_set1_epi32(2 - unit as i32);
        let mut q = *raw;
        for v in 0..8 {
            q[v] = or_masked(quarter(raw[v], i), _mm512_rolv_epi32(bits[v], turn), 4);
        }
        Weights { q, scale: *scale, extra: Halves([scales[2 * unit], scales[2 * unit + 1]]) }
    }
}

pub(super) struct Q2K;

impl Rows for Q2K {
    const BYTES: usize = Format::Q2K.block_bytes();
    const UNITS: usize = 8;
    const GROUP: usize = 4;
    const OFFSET: Option<u32> = None;
    type Extra = HalvesMin;
    /// The factors of all scales and minima, the scales, the minima.
    type Header = ([__m512; 2], [__m512; 16], [__m512i; 16]);
    type Raw = [__m512i; 8];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn header(at: Sixteen) -> Self::Header {
        // SAFETY: the caller's promise.
        let (scales, [.., factors]) = unsafe { (transpose(at), transpose(at.add(68))) };
        let [d, dmin] = two_halves(factors);
        let mut low = scales;
        for v in &mut low {
            *v = low_nibbles(*v);
        }
        let mut mins = [_mm512_setzero_si512(); 16];
        for j in 0..16 {
            let byte = shift_right(scales[j / 4], 8 * (j as i32 % 4) + 4);
            mins[j] = _mm512_and_si512(byte, _mm512_set1_epi32(15));
        }
        ([d, _mm512_xor_ps(dmin, _mm512_set1_ps(-0.0))], signed_bytes(low), mins)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn raw(at: Sixteen, group: usize) -> [__m512i; 8] {
        // SAFETY: the caller's promise.
        unsafe { transpose_32(at.add(16 + 32 * group)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
    #[inline]
    unsafe fn unit(header: &Self::Header, raw: &[__m512i; 8], group: usize, i: usize) -> Weights<HalvesMin> {
        let ([scale, min], scales, mins) = header;
        let at = 2 * (4 * group + i);
        let (scales, mins) = ([scales[at], scales[at + 1]], [mins[at], mins[at + 1]]);
        let mut q = *raw;
        for q in &mut q {
            *q = quarter(*q, i);
        }
        Weights { q, scale: *scale, extra: HalvesMin { scales, min: *min, mins } }
    }
}

/// Bits `2 * i` and `2 * i + 1` of every byte.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn quarter(v: __m512i, i: usize) -> __m512i {
    _mm512_and_si512(shift_right(v, 2 * i as i32), _mm512_set1_epi8(3))
}

/// `a | b & mask` of every byte.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn or_masked(a: __m512i, b: __m512i, mask: i8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xf8>(a, b, _mm512_set1_epi8(mask))
}

/// Byte `4 * i + j` of every lane as a signed number, of four vectors of four.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
#[inline]
fn signed_bytes(v: [__m512i; 4]) -> [__m512; 16] {
    let mut out = [_mm512_setzero_ps(); 16];
    for j in 0..16 {
        let byte = _mm512_sllv_epi32(v[j / 4], _mm512_set1_epi32(24 - 8 * (j as i32 % 4)));
        out[j] = _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(byte));
    }
    out
}
