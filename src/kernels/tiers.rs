//! The tiers: the same portable code, compiled once for every set of instructions worth having.
//!
//! All tiers give the same bits. A kernel written by hand for one tier takes the place of the entry in that tier's table
//! and has to keep the order of additions that the portable one documents; the tests compare every tier with `SCALAR`.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::ops::Range;

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::attention::AttendFn;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Element, Half, LANES, Lanes};
use super::product::Family;
#[cfg(target_arch = "x86_64")]
use super::product::{Out, Panels};
#[cfg(target_arch = "x86_64")]
use super::{Before, Format, Matrix, QuantizeFn, Slice, avx2, avx512, dense512};
use super::{Kernels, attention, matmul, quantize, quantized, rows};

/// What the compiler makes of the code for the baseline CPU of the target: NEON on aarch64; on x86-64 SSE2, where every
/// `mul_add` is a call into the C library, so it is the reference and the last resort rather than fast.
pub(super) static SCALAR: Kernels = Kernels {
    name: "scalar",
    dense: Family {
        panel_rows: matmul::panel_rows::<6>,
        panel_bytes: matmul::panel_bytes,
        prepare: matmul::prepare,
        column_unit: matmul::column_unit,
        multiply: matmul::matmul::<f16, 1, 6>,
    },
    quantized: &quantized::SCALAR,
    before: rows::apply,
    attend: attention::attend::<f16, 1>,
    widen: rows::widen::<f16>,
    first_non_finite: rows::first_non_finite,
    quantize: quantize::quantize,
};

/// A table whose entries are compiled with the `$feature`s, and the function that looks for them on the CPU.
#[cfg(target_arch = "x86_64")]
macro_rules! tier {
    (
        $module:ident, $name:literal, [$($feature:tt),+], $half:ty, $dense:expr, $quantized:expr, $attend:expr,
        $quantize:expr
    ) => {
        mod $module {
            use super::*;

            pub(super) static KERNELS: Kernels = Kernels {
                name: $name,
                dense: $dense,
                quantized: $quantized,
                before: tier!([$($feature),+], rows::apply, (
                    before: &Before<'_>,
                    inputs: usize,
                    x: &[f32],
                    out: &mut [f32],
                )),
                attend: $attend,
                widen: tier!([$($feature),+], rows::widen::<$half>, (w: Slice<'_>, out: &mut [f32],)),
                first_non_finite: tier!([$($feature),+], rows::first_non_finite, (w: Slice<'_>,) -> Option<usize>),
                quantize: $quantize,
            };

            pub(super) fn runs() -> bool {
                $(is_x86_feature_detected!($feature))&&+
            }
        }
    };
    // The portable product with floats; its tile is `$vectors` times `$rows` registers.
    (dense [$($feature:tt),+], $half:ty, $vectors:literal x $rows:literal) => {
        Family {
            panel_rows: matmul::panel_rows::<$rows>,
            panel_bytes: matmul::panel_bytes,
            prepare: tier!([$($feature),+], matmul::prepare, (
                w: &Matrix<'_>,
                panel_rows: usize,
                x: &[f32],
                to: &mut [u8],
            )),
            column_unit: matmul::column_unit,
            multiply: tier!([$($feature),+], matmul::matmul::<$half, $vectors, $rows>, (
                w: &Matrix<'_>,
                x: Panels<'_>,
                columns: Range<usize>,
                out: &Out<'_>,
            )),
        }
    };
    // Attention, whose tile has `$vectors` registers in a row.
    (attend [$($feature:tt),+], $half:ty, $vectors:literal) => {
        tier!([$($feature),+], attention::attend::<$half, $vectors>, (
            layer: &super::Attend<'_>,
            qkv: &[f32],
            work: attention::Work<'_>,
        ))
    };
    ([$($feature:tt),+], $function:expr, ($($arg:ident: $type:ty,)*) $(-> $result:ty)?) => {{
        #[target_feature($(enable = $feature),+)]
        fn compiled($($arg: $type),*) $(-> $result)? {
            $function($($arg),*)
        }
        fn entry($($arg: $type),*) $(-> $result)? {
            // SAFETY: the table is private to `kernels`, and `available` hands it out only after it has found these
            // features on the CPU.
            unsafe { compiled($($arg),*) }
        }
        entry
    }};
}

// Much code that further instructions add nothing to: what the tiers with registers of 64 bytes share.
#[cfg(target_arch = "x86_64")]
const QUANTIZE_512: QuantizeFn = tier!(
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"],
    quantize::quantize,
    (format: Format, x: &[f32], to: &mut [u8],)
);

// The same for registers of 32 bytes.
#[cfg(target_arch = "x86_64")]
const QUANTIZE_256: QuantizeFn =
    tier!(["avx2", "fma", "f16c"], quantize::quantize, (format: Format, x: &[f32], to: &mut [u8],));

/// What attention is compiled to where there is AVX-512; what the CPU may have beyond is of no use to it. Of 32 registers
/// 24 are for sums, 4 for keys or values.
#[cfg(target_arch = "x86_64")]
const ATTEND_512: AttendFn =
    tier!(attend ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"], Half512, 4);

/// The same for AVX2: of 16 registers 12 are for sums, 2 for keys or values.
#[cfg(target_arch = "x86_64")]
const ATTEND_256: AttendFn = tier!(attend ["avx2", "fma", "f16c"], Half256, 1);

// Of 32 registers 24 for sums, 4 for weights.
#[cfg(target_arch = "x86_64")]
tier!(
    tier_avx512bf16,
    "avx512bf16",
    ["avx512bf16", "avx512vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"],
    Half512,
    dense512::BF16,
    &avx512::AVX512_VNNI,
    ATTEND_512,
    QUANTIZE_512
);

#[cfg(target_arch = "x86_64")]
tier!(
    tier_avx512vnni,
    "avx512vnni",
    ["avx512vnni", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"],
    Half512,
    dense512::PLAIN,
    &avx512::AVX512_VNNI,
    ATTEND_512,
    QUANTIZE_512
);

#[cfg(target_arch = "x86_64")]
tier!(
    tier_avx512,
    "avx512",
    ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma", "f16c"],
    Half512,
    dense512::PLAIN,
    &avx2::AVX2,
    ATTEND_512,
    QUANTIZE_512
);

// Of 16 registers 12 for sums, 2 for weights.
#[cfg(target_arch = "x86_64")]
tier!(
    tier_avxvnni,
    "avxvnni",
    ["avxvnni", "avx2", "fma", "f16c"],
    Half256,
    tier!(dense ["avx2", "fma", "f16c"], Half256, 1 x 6),
    &avx2::AVX_VNNI,
    ATTEND_256,
    QUANTIZE_256
);

#[cfg(target_arch = "x86_64")]
tier!(
    tier_avx2,
    "avx2",
    ["avx2", "fma", "f16c"],
    Half256,
    tier!(dense ["avx2", "fma", "f16c"], Half256, 1 x 6),
    &avx2::AVX2,
    ATTEND_256,
    QUANTIZE_256
);

/// Half precision that is widened by `vcvtph2ps`, which has the results of the portable conversion.
#[cfg(target_arch = "x86_64")]
macro_rules! half {
    ($name:ident, $from:ident => $convert:expr) => {
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        struct $name(f16);

        impl Element for $name {
            const ZERO: $name = $name(f16::ZERO);

            #[inline(always)]
            fn widen(self) -> f32 {
                self.0.widen()
            }

            #[inline(always)]
            fn widen_lanes($from: &[Self; LANES]) -> Lanes {
                // SAFETY: 32 bytes are read from an array of 32 bytes, and only the tier named below uses this type,
                // whose code runs only on a CPU that has its features. Sixteen `f32` in registers have the layout of
                // sixteen in an array.
                Lanes(unsafe { $convert })
            }
        }

        impl Half for $name {
            #[inline(always)]
            fn view(stored: &[f16]) -> &[Self] {
                // SAFETY: `repr(transparent)` over the element of `stored`.
                unsafe { std::slice::from_raw_parts(stored.as_ptr().cast(), stored.len()) }
            }
        }
    };
}

// For AVX512.
#[cfg(target_arch = "x86_64")]
half!(Half512, from => {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps};
    std::mem::transmute::<std::arch::x86_64::__m512, [f32; LANES]>(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())))
});

// For AVX2.
#[cfg(target_arch = "x86_64")]
half!(Half256, from => {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps};
    let halves = from.as_ptr().cast();
    std::mem::transmute::<[std::arch::x86_64::__m256; 2], [f32; LANES]>([
        _mm256_cvtph_ps(_mm_loadu_si128(halves)),
        _mm256_cvtph_ps(_mm_loadu_si128(halves.add(1))),
    ])
});

/// Asks for the cache line that lies `ahead` elements on from where `near` begins; past the end of the data it asks in
/// vain. A hint only, which CPUs other than x86-64 do not get.
#[inline(always)]
pub(super) fn prefetch<T, const N: usize>(near: &[T; N], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetching reads nothing that the program can see and never faults, wherever the address points; the
    // instruction is part of every x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(near.as_ptr().wrapping_add(ahead).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (near, ahead);
}

/// Every tier that this build knows, fastest first, with whether the CPU can run it.
pub(super) fn all() -> Vec<(&'static Kernels, bool)> {
    vec![
        #[cfg(target_arch = "x86_64")]
        (&tier_avx512bf16::KERNELS, tier_avx512bf16::runs()),
        #[cfg(target_arch = "x86_64")]
        (&tier_avx512vnni::KERNELS, tier_avx512vnni::runs()),
        #[cfg(target_arch = "x86_64")]
        (&tier_avx512::KERNELS, tier_avx512::runs()),
        #[cfg(target_arch = "x86_64")]
        (&tier_avxvnni::KERNELS, tier_avxvnni::runs()),
        #[cfg(target_arch = "x86_64")]
        (&tier_avx2::KERNELS, tier_avx2::runs()),
        (&SCALAR, true),
    ]
}
