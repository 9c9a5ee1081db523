//! The tiers: the same portable code, compiled once for every set of instructions worth having.
//!
//! There is no second way to compute anything here, so all tiers give the same bits. A kernel written by hand for one
//! tier takes the place of the entry in that tier's table and has to keep the order of additions that the portable one
//! documents; the tests compare every tier with `SCALAR`.
#![allow(unsafe_code)]

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::dense512;
#[cfg(target_arch = "x86_64")]
use super::lanes::{Element, Half, LANES, Lanes};
use super::product::Family;
use super::{Kernels, attention, matmul, rows};

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
    quantized: None,
    layer_norm: rows::layer_norm,
    rms_norm: rows::rms_norm,
    activate: rows::activate,
    attend: attention::attend,
    widen: rows::widen::<f16>,
    first_non_finite: rows::first_non_finite,
};

/// A table whose entries are compiled with `$features`.
#[cfg(target_arch = "x86_64")]
macro_rules! tier {
    ($table:ident, $name:literal, $features:literal, $half:ty, $dense:expr) => {
        pub(super) static $table: Kernels = Kernels {
            name: $name,
            dense: $dense,
            quantized: None,
            layer_norm: tier!($features, rows::layer_norm, (
                weight: &[f32],
                bias: &[f32],
                eps: f32,
                x: &[f32],
                y: &mut [f32],
            )),
            rms_norm: tier!($features, rows::rms_norm, (weight: &[f32], eps: f32, x: &[f32], y: &mut [f32],)),
            activate: tier!($features, rows::activate, (activation: super::Activation, x: &mut [f32],)),
            attend: tier!($features, attention::attend, (
                heads: &super::Heads,
                spans: &[super::Span<'_>],
                q: &[f32],
                first: usize,
                out: &mut [f32],
            )),
            widen: tier!($features, rows::widen::<$half>, (w: super::Slice<'_>, out: &mut [f32],)),
            first_non_finite: tier!($features, rows::first_non_finite, (w: super::Slice<'_>,) -> Option<usize>),
        };
    };
    // The portable matrix product, whose tile is `$vectors` times `$rows` registers.
    (dense $features:literal, $half:ty, $vectors:literal x $rows:literal) => {
        Family {
            panel_rows: matmul::panel_rows::<$rows>,
            panel_bytes: matmul::panel_bytes,
            prepare: tier!($features, matmul::prepare, (
                w: &super::Matrix<'_>,
                panel_rows: usize,
                x: &[f32],
                to: &mut [u8],
            )),
            column_unit: matmul::column_unit,
            multiply: tier!($features, matmul::matmul::<$half, $vectors, $rows>, (
                w: &super::Matrix<'_>,
                x: super::product::Panels<'_>,
                columns: std::ops::Range<usize>,
                out: &super::product::Out<'_>,
            )),
        }
    };
    ($features:literal, $function:expr, ($($arg:ident: $type:ty,)*) $(-> $result:ty)?) => {{
        #[target_feature(enable = $features)]
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

#[cfg(target_arch = "x86_64")]
tier!(AVX512BF16, "avx512bf16", "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c", Half512, dense512::BF16);

#[cfg(target_arch = "x86_64")]
tier!(AVX512, "avx512", "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c", Half512, dense512::PLAIN);

// 12 of 16 registers for sums, 2 for weights.
#[cfg(target_arch = "x86_64")]
tier!(AVX2, "avx2", "avx2,fma,f16c", Half256, tier!(dense "avx2,fma,f16c", Half256, 1 x 6));

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
    #[cfg(target_arch = "x86_64")]
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c");
    vec![
        #[cfg(target_arch = "x86_64")]
        (&AVX512BF16, avx512 && is_x86_feature_detected!("avx512bf16")),
        #[cfg(target_arch = "x86_64")]
        (&AVX512, avx512),
        #[cfg(target_arch = "x86_64")]
        (
            &AVX2,
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c"),
        ),
        (&SCALAR, true),
    ]
}
