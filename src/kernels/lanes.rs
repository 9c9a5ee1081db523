//! Sixteen `f32` lanes, the unit that every kernel computes in.
//!
//! Plain arrays and loops of a fixed length: compiled with AVX-512 one `Lanes` is one register, with AVX2 two, on
//! NEON four. No intrinsics and no `unsafe`; which instructions come out is decided by the tier that the code is
//! inlined into (`tiers.rs`). Every function is `#[inline(always)]` for that reason.

use half::{bf16, f16};

use super::tiers::prefetch;

/// Lanes per vector: the widest register in use (AVX-512) holds sixteen `f32`.
pub(super) const LANES: usize = 16;

/// Sixteen numbers, aligned so that no load of a packed buffer crosses a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub(super) [f32; LANES]);

impl Lanes {
    pub(super) const ZERO: Lanes = Lanes([0.0; LANES]);

    #[inline(always)]
    pub(super) fn load<E: Element>(from: &[E; LANES]) -> Lanes {
        E::widen_lanes(from)
    }

    /// `P` numbers, repeated until the lanes are full.
    #[inline(always)]
    pub(super) fn repeat<const P: usize>(from: &[f32; P]) -> Lanes {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = from[i % P];
        }
        Lanes(lanes)
    }

    /// `self * factor + sum`, rounded once.
    #[inline(always)]
    pub(super) fn mul_add(self, factor: Lanes, sum: Lanes) -> Lanes {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = self.0[i].mul_add(factor.0[i], sum.0[i]);
        }
        Lanes(lanes)
    }

    #[inline(always)]
    pub(super) fn add(self, other: Lanes) -> Lanes {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = self.0[i] + other.0[i];
        }
        Lanes(lanes)
    }

    /// The sum of all lanes, always as the same tree: halves, quarters, eighths, sixteenths.
    #[inline(always)]
    pub(super) fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The sums of each four neighbouring lanes, `(p0 + p1) + (p2 + p3)`.
    #[inline(always)]
    pub(super) fn quad_sums(self) -> [f32; 4] {
        let p = self.0;
        let mut sums = [0.0; 4];
        for i in 0..4 {
            sums[i] = (p[4 * i] + p[4 * i + 1]) + (p[4 * i + 2] + p[4 * i + 3]);
        }
        sums
    }
}

/// Four rows of sixteen become four vectors that each hold four neighbours of every row.
///
/// ```text
/// row0: a0 a1 a2 a3        a0 b0 c0 d0
/// row1: b0 b1 b2 b3   ->   a1 b1 c1 d1      each letter with its digit is four lanes
/// row2: c0 c1 c2 c3        a2 b2 c2 d2
/// row3: d0 d1 d2 d3        a3 b3 c3 d3
/// ```
#[inline(always)]
pub(super) fn interleave(rows: [Lanes; 4]) -> [Lanes; 4] {
    let mut out = [Lanes::ZERO; 4];
    for step in 0..4 {
        for row in 0..4 {
            for i in 0..4 {
                out[step].0[4 * row + i] = rows[row].0[4 * step + i];
            }
        }
    }
    out
}

/// A number as a weight file stores it, and the `f32` that has exactly its value.
pub(super) trait Element: Copy {
    const ZERO: Self;

    /// Whether pairs of neighbouring inputs are added second one first; see `matmul.rs`.
    const PAIRS: bool = false;

    fn widen(self) -> f32;

    /// Sixteen at once, in the order in which they are added up: of pairs, those of each eight that come second before
    /// those that come first.
    #[inline(always)]
    fn in_order(from: &[Self; LANES]) -> Lanes {
        let lanes = Self::widen_lanes(from);
        if !Self::PAIRS {
            return lanes;
        }
        let mut ordered = [0.0; LANES];
        for i in 0..LANES {
            ordered[i] = lanes.0[i / 8 * 8 + i % 4 * 2 + ((i / 4 % 2) ^ 1)];
        }
        Lanes(ordered)
    }

    /// Sixteen at once.
    #[inline(always)]
    fn widen_lanes(from: &[Self; LANES]) -> Lanes {
        let mut lanes = [0.0; LANES];
        for i in 0..LANES {
            lanes[i] = from[i].widen();
        }
        Lanes(lanes)
    }

    /// The numbers as `f32`, in `buffer` unless they are that already. What lies `ahead` elements on is wanted next.
    #[inline(always)]
    fn widen_into<'a>(from: &'a [Self], ahead: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let (chunks, rest) = from.as_chunks::<LANES>();
        let (buffer_chunks, buffer_rest) = buffer[..from.len()].as_chunks_mut::<LANES>();
        for (to, from) in buffer_chunks.iter_mut().zip(chunks) {
            prefetch(from, ahead);
            *to = Self::widen_lanes(from).0;
        }
        for (to, from) in buffer_rest.iter_mut().zip(rest) {
            *to = from.widen();
        }
        &buffer[..from.len()]
    }
}

/// How a tier reads half precision: by [`f16`]'s portable conversion or by an instruction of the CPU.
pub(super) trait Half: Element {
    fn view(stored: &[f16]) -> &[Self];
}

impl Half for f16 {
    #[inline(always)]
    fn view(stored: &[f16]) -> &[f16] {
        stored
    }
}

impl Element for f32 {
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn widen_into<'a>(from: &'a [f32], _ahead: usize, _buffer: &'a mut [f32]) -> &'a [f32] {
        from
    }
}

impl Element for bf16 {
    const ZERO: bf16 = bf16::ZERO;
    const PAIRS: bool = true;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for f16 {
    const ZERO: f16 = f16::ZERO;

    /// Without branches, so that sixteen of them become a few vector instructions. `half`'s own conversion asks for
    /// the CPU's features on every call and cannot be inlined into a vector loop.
    #[inline(always)]
    fn widen(self) -> f32 {
        /// What the exponent gains from f16 (bias 15) to f32 (bias 127).
        const REBIAS: u32 = (127 - 15) << 23;
        let bits = u32::from(self.to_bits());
        let sign = (bits & 0x8000) << 16;
        let magnitude = (bits & 0x7fff) << 13;
        let exponent = bits & 0x7c00;
        // Infinity and NaN: the largest exponent must stay the largest.
        let special = if exponent == 0x7c00 { REBIAS } else { 0 };
        let normal = magnitude + REBIAS + special;
        // Subnormal: 2^-14 * (1 + fraction) - 2^-14 is exact and never touches an f32 subnormal, which is slow.
        let one = REBIAS + (1 << 23);
        let subnormal = (f32::from_bits(magnitude + one) - f32::from_bits(one)).to_bits();
        f32::from_bits(sign | if exponent == 0 { subnormal } else { normal })
    }
}
