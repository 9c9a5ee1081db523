//! How eight rows of a block are read, for every format.

use std::arch::x86_64::*;

use super::super::blocks::{
    IQ4_NL_VALUES, Iq4Nl, Iq4Xs, MXFP4_VALUES, Mxfp4, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0,
};
use super::{Isa, LANES, Packed, Rows, Sink, Unit8};

/// Eight vectors, one for each value of a variable; a loop for the reason that `Sink` is no closure.
macro_rules! eight {
    ($j:ident => $vector:expr) => {{
        let mut all = [_mm256_setzero_si256(); 8];
        for $j in 0..8 {
            all[$j] = $vector;
        }
        all
    }};
}

impl Rows {
    /// Asks for one of `parts` of what is wanted next.
    #[inline(always)]
    fn fetch<B>(self, part: usize, parts: usize) {
        let lines = (LANES * size_of::<B>()).div_ceil(64).div_ceil(parts);
        for line in part * lines..(part + 1) * lines {
            // SAFETY: prefetching never faults, wherever the address points, and is part of every x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.next.wrapping_add(64 * line).cast()) };
        }
    }

    /// Sixteen bytes from `at` on of every row, as four vectors that each hold four bytes of every row.
    ///
    /// # Safety
    ///
    /// The CPU has AVX2, and so many bytes lie there.
    #[inline(always)]
    unsafe fn words(self, at: usize) -> [__m256i; 4] {
        // SAFETY: the caller's promises.
        unsafe {
            let mut rows = [_mm256_setzero_si256(); 4];
            for row in 0..4 {
                let lower = self.first.add(row * self.stride + at).cast();
                let upper = self.first.add((row + 4) * self.stride + at).cast();
                rows[row] = _mm256_castsi128_si256(_mm_loadu_si128(lower));
                rows[row] = _mm256_inserti128_si256::<1>(rows[row], _mm_loadu_si128(upper));
            }
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
    unsafe fn each<T: bytemuck::Pod>(self, at: usize) -> [T; 8] {
        let mut all = [T::zeroed(); 8];
        for row in 0..8 {
            // SAFETY: the caller's promise; any bits are a `T`.
            all[row] = unsafe { self.first.add(row * self.stride + at).cast::<T>().read_unaligned() };
        }
        all
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

/// Each four bytes that begin in the upper half of `low` and end in the lower half of `high`.
///
/// # Safety
///
/// The CPU has AVX2.
#[inline(always)]
unsafe fn join(low: __m256i, high: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_or_si256(_mm256_srli_epi32::<16>(low), _mm256_slli_epi32::<16>(high)) }
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
        eight!(j => bits(words[j % 4], j / 4 * 4, 15))
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
        eight!(j => {
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
        eight!(j => _mm256_shuffle_epi8(table, nibbles[j]))
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
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            rows.fetch::<Self>(0, 1);
            to.unit(&plain(nibbles(rows, 2), rows.half(0)));
        }
    }
}

impl Packed for Q4_1 {
    const LARGEST: i32 = 15;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            rows.fetch::<Self>(0, 1);
            let [scale, min] = halves(rows.word(0));
            to.unit(&Unit8 { min, ..plain(nibbles(rows, 4), scale) });
        }
    }
}

impl Packed for Q5_0 {
    const LARGEST: i32 = 31;
    const OFFSET: i32 = 16;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            rows.fetch::<Self>(0, 1);
            to.unit(&plain(add_fifths(nibbles(rows, 6), rows.word(2)), rows.half(0)));
        }
    }
}

impl Packed for Q5_1 {
    const LARGEST: i32 = 31;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            rows.fetch::<Self>(0, 1);
            let [scale, min] = halves(rows.word(0));
            let q = add_fifths(nibbles(rows, 8), rows.word(4));
            to.unit(&Unit8 { min, ..plain(q, scale) });
        }
    }
}

impl Packed for Q8_0 {
    const LARGEST: i32 = 0;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            rows.fetch::<Self>(0, 1);
            // Adding 128 turns the sign bit over.
            let flip = _mm256_set1_epi8(I::SIGNED_OFFSET as i8);
            let words = rows.words2(2);
            let q = eight!(j => _mm256_xor_si256(words[j], flip));
            to.unit(&plain(q, rows.half(0)));
        }
    }
}

impl Packed for Iq4Nl {
    const LARGEST: i32 = 0;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            rows.fetch::<Self>(0, 1);
            let q = look_up(nibbles(rows, 2), &IQ4_NL_VALUES, I::SIGNED_OFFSET);
            to.unit(&plain(q, rows.half(0)));
        }
    }
}

impl Packed for Iq4Xs {
    const LARGEST: i32 = 0;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let d = rows.half(0);
            let [head, low, ..] = rows.words(0);
            let high = _mm256_srli_epi32::<16>(head);
            for i in 0..8 {
                rows.fetch::<Self>(i, 8);
                let part = |v, by: usize, mask| {
                    _mm256_and_si256(_mm256_srl_epi32(v, _mm_cvtsi32_si128(by as i32)), _mm256_set1_epi32(mask))
                };
                let scale = _mm256_or_si256(part(low, 4 * i, 15), _mm256_slli_epi32::<4>(part(high, 2 * i, 3)));
                let scale = _mm256_cvtepi32_ps(_mm256_sub_epi32(scale, _mm256_set1_epi32(32)));
                let q = look_up(nibbles(rows, 8 + 16 * i), &IQ4_NL_VALUES, I::SIGNED_OFFSET);
                to.unit(&plain(q, _mm256_mul_ps(d, scale)));
            }
        }
    }
}

impl Packed for Mxfp4 {
    const LARGEST: i32 = 24;
    const OFFSET: i32 = 12;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            rows.fetch::<Self>(0, 1);
            let q = look_up(nibbles(rows, 1), &MXFP4_VALUES, Self::OFFSET);
            let exponents = rows.each::<u8>(0).map(i32::from);
            let [a, b, c, d, e, f, g, h] = exponents;
            let exponents = _mm256_setr_epi32(a, b, c, d, e, f, g, h);
            // 2^(exponent - 128), which is below the normal numbers for 0 and 1.
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(exponents, _mm256_set1_epi32(1)));
            let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
            let is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), exponents);
            let scale = _mm256_castsi256_ps(_mm256_blendv_epi8(normal, small, is_small));
            to.unit(&plain(q, scale));
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
            let scale = _mm256_cvtepi32_ps(byte(self.scales[i / 4], i % 4));
            let min = _mm256_cvtepi32_ps(byte(self.mins[i / 4], i % 4));
            Unit8 { min: _mm256_mul_ps(self.min, min), ..plain(q, _mm256_mul_ps(self.scale, scale)) }
        }
    }
}

impl Packed for Q4K {
    const LARGEST: i32 = 15;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let header = Header::new(rows);
            for pair in 0..4 {
                rows.fetch::<Self>(pair, 4);
                let words = rows.words2(16 + 32 * pair);
                for half in 0..2 {
                    to.unit(&header.unit(2 * pair + half, eight!(j => bits(words[j], 4 * half, 15))));
                }
            }
        }
    }
}

impl Packed for Q5K {
    const LARGEST: i32 = 31;
    const OFFSET: i32 = 0;

    #[inline(always)]
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let header = Header::new(rows);
            let fifths = rows.words2(16);
            for pair in 0..4 {
                rows.fetch::<Self>(pair, 4);
                let words = rows.words2(48 + 32 * pair);
                for i in [2 * pair, 2 * pair + 1] {
                    let q = eight!(j => {
                        let fifth = if i < 4 { bits_up(fifths[j], 4 - i, 16) } else { bits(fifths[j], i - 4, 16) };
                        _mm256_or_si256(bits(words[j], i % 2 * 4, 15), fifth)
                    });
                    to.unit(&header.unit(i, q));
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
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let scales = rows.words(0);
            let [scale, min] = self::halves(rows.word(80));
            let min = _mm256_xor_ps(min, _mm256_set1_ps(-0.0));
            for half in 0..2 {
                let words = rows.words2(16 + 32 * half);
                for quarter in 0..4 {
                    let i = 4 * half + quarter;
                    rows.fetch::<Self>(i, 8);
                    let (both, at) = (scales[i / 2], 2 * i % 4);
                    let (scales, mins) = (bits(both, 0, 15), bits(both, 4, 15));
                    let q = eight!(j => bits(words[j], 2 * quarter, 3));
                    let unit = two_scales(q, scale, [byte(scales, at), byte(scales, at + 1)]);
                    to.unit(&Unit8 { min, mins: [byte(mins, at), byte(mins, at + 1)], ..unit });
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
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            // The last sixteen bytes of a block begin two bytes before the scales.
            let [a, b, c, d] = rows.words(94);
            let [low, high, upper] = [join(a, b), join(b, c), join(c, d)];
            let [_, scale] = self::halves(d);
            let scales = [
                _mm256_or_si256(bits(low, 0, 15), bits_up(upper, 4, 0x30)),
                _mm256_or_si256(bits(high, 0, 15), bits_up(upper, 2, 0x30)),
                _mm256_or_si256(bits(low, 4, 15), bits(upper, 0, 0x30)),
                _mm256_or_si256(bits(high, 4, 15), bits(upper, 2, 0x30)),
            ];
            let mut signed = scales;
            for scales in &mut signed {
                *scales = _mm256_sub_epi8(*scales, _mm256_set1_epi8(32));
            }
            let thirds = rows.words2(0);
            for half in 0..2 {
                let words = rows.words2(32 + 32 * half);
                for quarter in 0..4 {
                    let i = 4 * half + quarter;
                    rows.fetch::<Self>(i, 8);
                    let q = eight!(j => {
                        let third = if i < 2 { bits_up(thirds[j], 2 - i, 4) } else { bits(thirds[j], i - 2, 4) };
                        _mm256_or_si256(bits(words[j], 2 * quarter, 3), third)
                    });
                    let (scales, at) = (signed[i / 2], 2 * i % 4);
                    to.unit(&two_scales(q, scale, [signed_byte(scales, at), signed_byte(scales, at + 1)]));
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
    unsafe fn units<I: Isa>(rows: Rows, to: &mut impl Sink) {
        // SAFETY: the caller's promises; `blocks.rs` says where in a block everything lies.
        unsafe {
            let scale = rows.half(208);
            let scales = rows.words(192);
            for half in 0..2 {
                let words = [rows.words2(64 * half), rows.words2(64 * half + 32)];
                let upper = rows.words2(128 + 32 * half);
                for quarter in 0..4 {
                    let i = 4 * half + quarter;
                    rows.fetch::<Self>(i, 8);
                    let q = eight!(j => {
                        let upper = match quarter {
                            0 | 1 => bits_up(upper[j], 4 - 2 * quarter, 0x30),
                            _ => bits(upper[j], 2 * quarter - 4, 0x30),
                        };
                        _mm256_or_si256(bits(words[quarter % 2][j], quarter / 2 * 4, 15), upper)
                    });
                    let (scales, at) = (scales[i / 2], 2 * i % 4);
                    to.unit(&two_scales(q, scale, [signed_byte(scales, at), signed_byte(scales, at + 1)]));
                }
            }
        }
    }
}
