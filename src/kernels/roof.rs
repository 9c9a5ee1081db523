//! What the machine itself can do: bytes read and operations computed per second, by the best loop of each tier.
//!
//! These are the roofs that `fireside bench` holds the kernels against, and that a user can hold against the data sheet.
//! Nothing is multiplied that a model needs; the loops are only as wide and as independent as the instructions allow.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::time::Instant;

use super::{Kernels, Pool};

/// A kind of arithmetic that weights are multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Fused multiply-add of 32-bit floats: f32 and f16 weights.
    F32,
    /// Products of pairs of bf16, summed in f32.
    Bf16,
    /// Products of groups of bytes, summed in 32-bit integers: quantised weights.
    Int8,
}

/// A loop over registers, so many times around; it returns a number that depends on all of them.
type Spin = fn(u64) -> u64;

/// A loop and the operations of one time around, where a multiplication and an addition are two.
#[derive(Clone, Copy)]
struct Loop {
    spin: Spin,
    operations: u64,
}

/// Cache lines that `read` takes in one step, and the bytes of it.
const STEP: usize = 512;

/// Bytes that a thread reads in one go: many pages, and so few that no thread is waited for long.
const PIECE: usize = 1 << 20;

/// Times around of one measurement: some ten milliseconds, beside which the start of a thread does not count.
const AROUND: u64 = 4_000_000;

impl Kernels {
    /// Bytes per second at which the threads of a pool read `data` once.
    #[must_use]
    pub fn read_rate(&self, pool: &Pool, data: &[u8]) -> f64 {
        let read = reader(self.name());
        let start = Instant::now();
        pool.run(data.len().div_ceil(PIECE), |i| {
            black_box(read(&data[i * PIECE..data.len().min((i + 1) * PIECE)]));
        });
        data.len() as f64 / start.elapsed().as_secs_f64()
    }

    /// Operations per second of all threads of a pool; `None` where this tier has no instruction for them.
    #[must_use]
    pub fn arithmetic_rate(&self, pool: &Pool, arithmetic: Arithmetic) -> Option<f64> {
        let Loop { spin, operations } = spinner(self.name(), arithmetic)?;
        let start = Instant::now();
        pool.run(pool.threads(), |_| {
            black_box(spin(black_box(AROUND)));
        });
        Some((pool.threads() as u64 * AROUND * operations) as f64 / start.elapsed().as_secs_f64())
    }

    /// Whether this tier has instructions for it.
    #[must_use]
    pub fn has(&self, arithmetic: Arithmetic) -> bool {
        spinner(self.name(), arithmetic).is_some()
    }
}

/// The loop that reads memory fastest in a tier.
fn reader(tier: &str) -> fn(&[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if tier.starts_with("avx512") {
        return x86::read_avx512;
    } else if tier.starts_with("avx") {
        return x86::read_avx2;
    }
    let _ = tier;
    read_scalar
}

/// The loop that computes fastest in a tier.
fn spinner(tier: &str, arithmetic: Arithmetic) -> Option<Loop> {
    let found = |spin: Spin, operations| Some(Loop { spin, operations });
    match (tier, arithmetic) {
        #[cfg(target_arch = "x86_64")]
        ("avx512bf16", Arithmetic::Bf16) => found(x86::bf16_avx512, x86::REGISTERS * 64),
        #[cfg(target_arch = "x86_64")]
        ("avx512vnni" | "avx512bf16", Arithmetic::Int8) => found(x86::int8_avx512vnni, x86::REGISTERS * 128),
        #[cfg(target_arch = "x86_64")]
        ("avxvnni", Arithmetic::Int8) => found(x86::int8_avxvnni, x86::HALF_REGISTERS * 64),
        #[cfg(target_arch = "x86_64")]
        ("avx2" | "avx512", Arithmetic::Int8) => found(x86::int8_avx2, x86::HALF_REGISTERS * 64),
        #[cfg(target_arch = "x86_64")]
        ("avx512" | "avx512vnni" | "avx512bf16", Arithmetic::F32) => found(x86::f32_avx512, x86::REGISTERS * 32),
        #[cfg(target_arch = "x86_64")]
        ("avx2" | "avxvnni", Arithmetic::F32) => found(x86::f32_avx2, x86::HALF_REGISTERS * 16),
        (_, Arithmetic::F32) => found(f32_scalar, SCALAR_LANES as u64 * 2),
        _ => None,
    }
}

fn read_scalar(data: &[u8]) -> u64 {
    let mut sums = [0u64; STEP / 8];
    let mut steps = data.chunks_exact(STEP);
    for step in &mut steps {
        for (sum, word) in sums.iter_mut().zip(step.chunks_exact(8)) {
            *sum ^= u64::from_le_bytes(word.try_into().unwrap_or_default());
        }
    }
    let rest = steps.remainder().iter().fold(0, |rest, byte| rest ^ u64::from(*byte));
    sums.iter().fold(rest, |all, sum| all ^ sum)
}

/// Independent sums of the portable loop: more than any baseline keeps busy, and few enough for its registers.
const SCALAR_LANES: usize = 32;

/// A multiplication and an addition, which the baseline of x86-64 has no fused instruction for.
fn f32_scalar(around: u64) -> u64 {
    // Sums that begin alike would be computed once for all of them.
    let (factor, term) = (black_box(0.999_f32), black_box(0.001_f32));
    let mut sums: [f32; SCALAR_LANES] = std::array::from_fn(|i| black_box(i as f32));
    for _ in 0..around {
        for sum in &mut sums {
            *sum = if cfg!(target_arch = "x86_64") { *sum * factor + term } else { sum.mul_add(factor, term) };
        }
    }
    sums.iter().fold(0, |all, sum| all ^ u64::from(sum.to_bits()))
}

/// Entries of tiers: each is called through [`reader`] or [`spinner`] alone, by the name of a tier whose table the CPU's
/// features were checked for.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::array::from_fn;
    use std::hint::black_box;

    use super::STEP;

    /// Sums of a loop over 32 vector registers: twice what two units of four cycles need.
    pub(super) const REGISTERS: u64 = 16;
    /// The same over 16 registers, of which some hold what is multiplied.
    pub(super) const HALF_REGISTERS: u64 = 12;

    /// An entry that is called like any function and compiled for a tier's features.
    macro_rules! entry {
        ($name:ident, $features:literal, ($arg:ident: $type:ty) $body:block) => {
            pub(super) fn $name($arg: $type) -> u64 {
                #[target_feature(enable = $features)]
                fn compiled($arg: $type) -> u64 $body
                // SAFETY: only tiers whose features were found on this CPU lead here, as the module says.
                unsafe { compiled($arg) }
            }
        };
    }

    // Sums begin with different numbers: equal ones would be computed once for all of them.

    /// Bytes ahead at which memory is asked for. One thread reads 8 to 15 % more so, least with too little or too much
    /// ahead (Zen 5).
    const AHEAD: usize = 12 << 10;

    entry!(read_avx512, "avx512f", (data: &[u8]) {
        let mut sums = [_mm512_setzero_si512(); STEP / 64];
        let mut steps = data.chunks_exact(STEP);
        for step in &mut steps {
            for (i, (sum, line)) in sums.iter_mut().zip(step.chunks_exact(64)).enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(step.as_ptr().wrapping_add(AHEAD + 64 * i).cast());
                // SAFETY: 64 bytes are read from a chunk of 64 bytes.
                *sum = _mm512_xor_si512(*sum, unsafe { _mm512_loadu_si512(line.as_ptr().cast()) });
            }
        }
        let rest = steps.remainder().iter().fold(0, |rest, byte| rest ^ u64::from(*byte));
        rest ^ sums.into_iter().fold(0, |all, sum| all ^ _mm512_reduce_or_epi64(sum) as u64)
    });

    entry!(read_avx2, "avx2", (data: &[u8]) {
        let mut sums = [_mm256_setzero_si256(); STEP / 64];
        let mut steps = data.chunks_exact(STEP);
        for step in &mut steps {
            for (i, (sum, line)) in sums.iter_mut().zip(step.chunks_exact(64)).enumerate() {
                _mm_prefetch::<_MM_HINT_T0>(step.as_ptr().wrapping_add(AHEAD + 64 * i).cast());
                // SAFETY: twice 32 bytes are read from a chunk of 64 bytes.
                let (low, high) = unsafe {
                    (_mm256_loadu_si256(line.as_ptr().cast()), _mm256_loadu_si256(line.as_ptr().add(32).cast()))
                };
                *sum = _mm256_xor_si256(*sum, _mm256_xor_si256(low, high));
            }
        }
        let rest = steps.remainder().iter().fold(0, |rest, byte| rest ^ u64::from(*byte));
        let all = sums.into_iter().fold(_mm256_setzero_si256(), |all, sum| _mm256_xor_si256(all, sum));
        let halves = _mm_or_si128(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
        rest ^ (_mm_extract_epi64::<0>(halves) | _mm_extract_epi64::<1>(halves)) as u64
    });

    entry!(f32_avx512, "avx512f", (around: u64) {
        let (factor, term) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums: [_; REGISTERS as usize] = from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
        for _ in 0..around {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, factor, term);
            }
        }
        sums.into_iter().fold(0, |all, sum| all ^ u64::from(_mm512_reduce_add_ps(sum).to_bits()))
    });

    entry!(f32_avx2, "avx2,fma", (around: u64) {
        let (factor, term) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums: [_; HALF_REGISTERS as usize] = from_fn(|i| _mm256_set1_ps(black_box(i as f32)));
        for _ in 0..around {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, term);
            }
        }
        sums.into_iter().fold(0, |all, sum| all ^ u64::from(_mm256_cvtss_f32(sum).to_bits()))
    });

    entry!(bf16_avx512, "avx512f,avx512bf16", (around: u64) {
        let narrow = |x: f32| _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x));
        let (a, b) = (narrow(black_box(0.5)), narrow(black_box(0.25)));
        let mut sums: [_; REGISTERS as usize] = from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
        for _ in 0..around {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        sums.into_iter().fold(0, |all, sum| all ^ u64::from(_mm512_reduce_add_ps(sum).to_bits()))
    });

    entry!(int8_avx512vnni, "avx512f,avx512vnni", (around: u64) {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(-5)));
        let mut sums: [_; REGISTERS as usize] = from_fn(|i| _mm512_set1_epi32(black_box(i as i32)));
        for _ in 0..around {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        sums.into_iter().fold(0, |all, sum| all ^ _mm512_reduce_add_epi32(sum) as u64)
    });

    entry!(int8_avxvnni, "avx2,avxvnni", (around: u64) {
        let (a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-5)));
        let mut sums: [_; HALF_REGISTERS as usize] = from_fn(|i| _mm256_set1_epi32(black_box(i as i32)));
        for _ in 0..around {
            for sum in &mut sums {
                *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
            }
        }
        sums.into_iter().fold(0, |all, sum| all ^ _mm256_extract_epi32::<0>(sum) as u64)
    });

    // Bytes to words, words to double words, and the sum: three instructions for what the dot instructions do in one.
    entry!(int8_avx2, "avx2", (around: u64) {
        let (mut a, b) = (_mm256_set1_epi8(black_box(3)), _mm256_set1_epi8(black_box(-5)));
        let ones = _mm256_set1_epi16(black_box(1));
        let mut sums: [_; HALF_REGISTERS as usize] = from_fn(|i| _mm256_set1_epi32(black_box(i as i32)));
        for _ in 0..around {
            for sum in &mut sums {
                // SAFETY: no instruction at all. It lets the compiler believe that `a` has changed, since what stays the
                // same would be multiplied once for all times around.
                unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) a, options(pure, nomem, nostack, preserves_flags)) };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
            }
        }
        sums.into_iter().fold(0, |all, sum| all ^ _mm256_extract_epi32::<0>(sum) as u64)
    });
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::super::available;
    use super::*;

    #[test]
    fn every_byte_is_read_in_every_tier() {
        for len in [0, 1, 63, 512, 4096, 70_001] {
            let mut data = vec![0u8; len];
            for at in (0..len).step_by(997).chain(len.checked_sub(1)) {
                data[at] = 0x5A;
                for kernels in available() {
                    assert_ne!(reader(kernels.name())(&data), 0, "{} byte {at} of {len}", kernels.name());
                }
                data[at] = 0;
            }
        }
    }

    #[test]
    fn every_tier_has_plausible_roofs() {
        let pool = Pool::new(NonZeroUsize::new(2)).expect("threads");
        for kernels in available() {
            let rate = kernels.read_rate(&pool, &vec![1; 1 << 24]);
            assert!((1e7..1e14).contains(&rate), "{} reads {rate} bytes/s", kernels.name());
            for arithmetic in [Arithmetic::F32, Arithmetic::Bf16, Arithmetic::Int8] {
                let rate = kernels.arithmetic_rate(&pool, arithmetic);
                assert_eq!(rate.is_some(), kernels.has(arithmetic));
                assert!(
                    rate.is_none_or(|rate| (1e7..1e15).contains(&rate)),
                    "{} {arithmetic:?} {rate:?}",
                    kernels.name()
                );
            }
            assert!(kernels.has(Arithmetic::F32), "{}", kernels.name());
        }
    }
}
