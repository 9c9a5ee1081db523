//! How `f32`, `f16` and `bf16` weights are read by the loops of `dense512.rs`.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// How one kind of weights is read. A dword is an f32, or two neighbouring inputs of `bf16`.
pub(super) trait Kind {
    /// Bytes of a stored weight.
    const BYTES: usize;
    /// Inputs per dword.
    const DEPTH: usize;
    /// Whether reading takes instructions of its own.
    const WIDENS: bool = false;

    /// The dwords of `16 * DEPTH` neighbours, the first `count` of them, zeros behind.
    unsafe fn run<const WHOLE: bool>(from: *const u8, count: usize) -> __m512i;

    /// The dwords of 32 columns, the first `count` of them, zeros behind; `below` is where the row of the next input has
    /// these columns, and null past the last one. In the order that `in_order` undoes.
    unsafe fn columns<const WHOLE: bool>(from: *const u8, below: *const u8, count: usize) -> [__m512i; 2];

    /// `sum + w * x`
    unsafe fn add(sum: __m512, w: __m512i, x: __m512i) -> __m512;

    /// The sums of 32 columns from left to right.
    unsafe fn in_order(sums: [__m512; 2]) -> [__m512; 2];
}

/// `f32`
pub(super) struct Single;

/// `f16`
pub(super) struct Half;

/// `bf16`, with the CPU's own instruction for pairs of them.
pub(super) struct Brain;

/// The first `count` of 32.
#[inline(always)]
fn mask(count: usize) -> u32 {
    if count >= 32 { !0 } else { (1 << count) - 1 }
}

// SAFETY of the bodies: the callers pass pointers to as many elements as are read, masked off ones aside, from inside of
// an entry whose CPU features are those used.
impl Kind for Single {
    const BYTES: usize = 4;
    const DEPTH: usize = 1;

    #[inline(always)]
    unsafe fn run<const WHOLE: bool>(from: *const u8, count: usize) -> __m512i {
        // SAFETY: see above.
        unsafe {
            if WHOLE {
                return _mm512_loadu_si512(from.cast());
            }
            _mm512_maskz_loadu_epi32(mask(count) as u16, from.cast())
        }
    }

    #[inline(always)]
    unsafe fn columns<const WHOLE: bool>(from: *const u8, _below: *const u8, count: usize) -> [__m512i; 2] {
        // SAFETY: see above.
        unsafe {
            let next = from.wrapping_add(64).cast();
            if WHOLE {
                return [_mm512_loadu_si512(from.cast()), _mm512_loadu_si512(next)];
            }
            let mask = mask(count);
            [
                _mm512_maskz_loadu_epi32(mask as u16, from.cast()),
                _mm512_maskz_loadu_epi32((mask >> 16) as u16, next.cast()),
            ]
        }
    }

    #[inline(always)]
    unsafe fn add(sum: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(x), sum) }
    }

    #[inline(always)]
    unsafe fn in_order(sums: [__m512; 2]) -> [__m512; 2] {
        sums
    }
}

impl Kind for Half {
    const BYTES: usize = 2;
    const DEPTH: usize = 1;
    const WIDENS: bool = true;

    #[inline(always)]
    unsafe fn run<const WHOLE: bool>(from: *const u8, count: usize) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let halves = if WHOLE {
                _mm256_loadu_si256(from.cast())
            } else {
                _mm256_maskz_loadu_epi16(mask(count) as u16, from.cast())
            };
            _mm512_castps_si512(_mm512_cvtph_ps(halves))
        }
    }

    #[inline(always)]
    unsafe fn columns<const WHOLE: bool>(from: *const u8, _below: *const u8, count: usize) -> [__m512i; 2] {
        // SAFETY: see above.
        unsafe {
            [Half::run::<WHOLE>(from, count), Half::run::<WHOLE>(from.wrapping_add(32), count.saturating_sub(16))]
        }
    }

    #[inline(always)]
    unsafe fn add(sum: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { Single::add(sum, w, x) }
    }

    #[inline(always)]
    unsafe fn in_order(sums: [__m512; 2]) -> [__m512; 2] {
        sums
    }
}

impl Kind for Brain {
    const BYTES: usize = 2;
    const DEPTH: usize = 2;

    #[inline(always)]
    unsafe fn run<const WHOLE: bool>(from: *const u8, count: usize) -> __m512i {
        // SAFETY: see above.
        unsafe {
            if WHOLE {
                return _mm512_loadu_si512(from.cast());
            }
            _mm512_maskz_loadu_epi16(mask(count), from.cast())
        }
    }

    #[inline(always)]
    unsafe fn columns<const WHOLE: bool>(from: *const u8, below: *const u8, count: usize) -> [__m512i; 2] {
        // SAFETY: see above.
        unsafe {
            let even = Brain::run::<WHOLE>(from, count);
            let odd = if below.is_null() { _mm512_setzero_si512() } else { Brain::run::<WHOLE>(below, count) };
            [_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)]
        }
    }

    #[inline(always)]
    unsafe fn add(sum: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: see above; the types differ in name only.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(w),
                std::mem::transmute::<__m512i, __m512bh>(x),
            )
        }
    }

    /// Unpacking worked inside of each 128 bits: `[0 1 2 3 | 8 9 10 11 | ...]` and `[4 5 6 7 | 12 13 14 15 | ...]`.
    #[inline(always)]
    unsafe fn in_order(sums: [__m512; 2]) -> [__m512; 2] {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm512_castps_pd(sums[0]), _mm512_castps_pd(sums[1]));
            let first = _mm512_permutex2var_pd(low, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), high);
            let second = _mm512_permutex2var_pd(low, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), high);
            [_mm512_castpd_ps(first), _mm512_castpd_ps(second)]
        }
    }
}
