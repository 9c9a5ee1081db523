//! Block-quantised weights, as GGUF files lay them out: what formats there are, and what the bytes of a block mean.
//!
//! Whatever the format, a block is seen as [`Unit`]s of 32 numbers. The layouts follow the GGUF format; every type has
//! alignment 1, so that blocks can lie anywhere in a mapped file.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::lanes::Element;

/// A block format. A row of weights is a whole number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// 32 numbers of 4 bits, one scale.
    Q4_0,
    /// 32 numbers of 4 bits, a scale and a minimum.
    Q4_1,
    /// 32 numbers of 5 bits, one scale.
    Q5_0,
    /// 32 numbers of 5 bits, a scale and a minimum.
    Q5_1,
    /// 32 numbers of 8 bits, one scale.
    Q8_0,
    /// 256 numbers of 2 bits, 16 scales and minima of 4 bits.
    Q2K,
    /// 256 numbers of 3 bits, 16 scales of 6 bits.
    Q3K,
    /// 256 numbers of 4 bits, 8 scales and minima of 6 bits.
    Q4K,
    /// 256 numbers of 5 bits, 8 scales and minima of 6 bits.
    Q5K,
    /// 256 numbers of 6 bits, 16 scales of 8 bits.
    Q6K,
    /// 32 indices of 4 bits into a table of uneven steps, one scale.
    Iq4Nl,
    /// 256 such indices, 8 scales of 6 bits.
    Iq4Xs,
    /// 32 floats of 4 bits, one power of two.
    Mxfp4,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 13] = [
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2K,
        Format::Q3K,
        Format::Q4K,
        Format::Q5K,
        Format::Q6K,
        Format::Iq4Nl,
        Format::Iq4Xs,
        Format::Mxfp4,
    ];

    /// As GGUF tools spell it, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q5_1 => "q5_1",
            Format::Q8_0 => "q8_0",
            Format::Q2K => "q2_k",
            Format::Q3K => "q3_k",
            Format::Q4K => "q4_k",
            Format::Q5K => "q5_k",
            Format::Q6K => "q6_k",
            Format::Iq4Nl => "iq4_nl",
            Format::Iq4Xs => "iq4_xs",
            Format::Mxfp4 => "mxfp4",
        }
    }

    /// Numbers in a block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Format::Q2K | Format::Q3K | Format::Q4K | Format::Q5K | Format::Q6K | Format::Iq4Xs => 256,
            _ => 32,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::Q4_0 | Format::Iq4Nl => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q2K => 84,
            Format::Q3K => 110,
            Format::Q4K => 144,
            Format::Q5K => 176,
            Format::Q6K => 210,
            Format::Iq4Xs => 136,
            Format::Mxfp4 => 17,
        }
    }

    /// Bytes of `numbers` weights, which are whole blocks.
    #[must_use]
    pub fn bytes(self, numbers: usize) -> usize {
        numbers / self.block_len() * self.block_bytes()
    }
}

/// Numbers in a [`Unit`], which is what activations are quantised by as well.
pub(super) const UNIT: usize = 32;

/// 32 weights of one block. Number i is `scale * scales[i / 16] * q[i] + min * mins[i / 16]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) q: [i8; UNIT],
    pub(super) scale: f32,
    /// 1 where a format has one scale for all of the unit.
    pub(super) scales: [i32; 2],
    /// 0 where a format has no minima.
    pub(super) min: f32,
    pub(super) mins: [i32; 2],
}

/// A block of a format.
pub(super) trait Block: Pod {
    /// Units in it.
    const UNITS: usize;

    /// Whether the units have minima.
    const MINS: bool;

    fn unit(&self, index: usize) -> Unit;
}

/// The blocks that bytes hold.
///
/// # Panics
///
/// When they are not whole blocks.
pub(super) fn view<B: Block>(bytes: &[u8]) -> &[B] {
    bytemuck::cast_slice(bytes)
}

/// Half precision at any address.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct Half([u8; 2]);

impl Half {
    pub(super) fn get(self) -> f32 {
        f16::from_le_bytes(self.0).widen()
    }
}

/// [`Format::Q4_0`]: `(nibble - 8) * d`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_0 {
    d: Half,
    /// Number i in the lower half of byte i, number 16 + i in its upper half.
    nibbles: [u8; 16],
}

/// [`Format::Q4_1`]: `nibble * d + m`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4_1 {
    d: Half,
    m: Half,
    nibbles: [u8; 16], // as in `Q4_0`
}

/// [`Format::Q5_0`]: `(nibble + 16 * bit - 16) * d`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_0 {
    d: Half,
    /// Bit i belongs to number i.
    bits: [u8; 4],
    nibbles: [u8; 16], // as in `Q4_0`
}

/// [`Format::Q5_1`]: `(nibble + 16 * bit) * d + m`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5_1 {
    d: Half,
    m: Half,
    bits: [u8; 4],     // as in `Q5_0`
    nibbles: [u8; 16], // as in `Q4_0`
}

/// [`Format::Q8_0`]: `q * d`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q8_0 {
    d: Half,
    q: [i8; 32],
}

/// [`Format::Q2K`]: `d * scale * q - dmin * min`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q2K {
    /// One byte per 16 numbers, the scale in its lower half.
    scales: [u8; 16],
    /// Bits `2 * j` and `2 * j + 1` of byte `32 * n + i` are number `128 * n + 32 * j + i`.
    quarters: [u8; 64],
    d: Half,
    dmin: Half,
}

/// [`Format::Q3K`]: `d * (scale - 32) * (q - 4)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q3K {
    /// Bit j of byte i is the third bit of number `32 * j + i`.
    bits: [u8; 32],
    quarters: [u8; 64], // as in `Q2K`
    /// 16 of 6 bits: the lower halves of the first eight bytes, then their upper halves, hold the lower four bits; bits
    /// `2 * k` and `2 * k + 1` of byte `8 + j` are the upper two of scale `4 * k + j`.
    scales: [u8; 12],
    d: Half,
}

/// [`Format::Q4K`]: `d * scale * nibble - dmin * min`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q4K {
    d: Half,
    dmin: Half,
    scales: Scales,
    /// The lower halves of bytes `32 * p..` are unit `2 * p`, the upper halves unit `2 * p + 1`.
    nibbles: [u8; 128],
}

/// [`Format::Q5K`]: `d * scale * (nibble + 16 * bit) - dmin * min`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q5K {
    d: Half,
    dmin: Half,
    scales: Scales,
    /// Bit j of byte i belongs to number `32 * j + i`.
    bits: [u8; 32],
    nibbles: [u8; 128], // as in `Q4K`
}

/// [`Format::Q6K`]: `d * scale * (q - 32)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Q6K {
    /// Of the 128 numbers from `128 * n` on, the lower halves of bytes `64 * n..` are the lower four bits of the first 64,
    /// the upper halves those of the others.
    nibbles: [u8; 128],
    /// Bits `2 * j` and `2 * j + 1` of byte `32 * n + i` are the upper two bits of number `128 * n + 32 * j + i`.
    quarters: [u8; 64],
    /// One per 16 numbers.
    scales: [i8; 16],
    d: Half,
}

/// [`Format::Iq4Nl`]: `IQ4_NL_VALUES[nibble] * d`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Iq4Nl {
    d: Half,
    nibbles: [u8; 16], // as in `Q4_0`
}

/// [`Format::Iq4Xs`]: `IQ4_NL_VALUES[nibble] * d * (scale - 32)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Iq4Xs {
    d: Half,
    /// Bits `2 * j` and `2 * j + 1` are the upper two of scale j.
    scales_high: [u8; 2],
    /// The lower four bits of two scales a byte, the first in the lower half.
    scales_low: [u8; 4],
    /// Bytes `16 * j..` are unit j, as in `Q4_0`.
    nibbles: [[u8; 16]; 8],
}

/// [`Format::Mxfp4`]: `MXFP4_VALUES[nibble] * 2^(exponent - 128)`
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Mxfp4 {
    exponent: u8,
    nibbles: [u8; 16], // as in `Q4_0`
}

/// What the nibbles of IQ4_NL stand for: steps that are finer where weights are dense.
pub(super) const IQ4_NL_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What the nibbles of MXFP4 stand for: floats of two exponent bits and one mantissa bit, doubled.
pub(super) const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Half of the power of two that an exponent byte stands for, `2^(exponent - 128)`, as the doubled values want it.
pub(super) fn mxfp4_scale(exponent: u8) -> f32 {
    match exponent {
        0 | 1 => f32::from_bits(0x0020_0000 << exponent), // below the normal numbers
        _ => f32::from_bits(u32::from(exponent - 1) << 23),
    }
}

/// Eight scales and eight minima of 6 bits. Of the first four, bytes 0..4 and 4..8 hold the scales and minima in their
/// lower six bits; of the others, bytes 8..12 hold the lower four bits, and the upper two bits of bytes 0..8 the rest.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Scales([u8; 12]);

impl Scales {
    fn get(&self, j: usize) -> (u8, u8) {
        let s = &self.0;
        match j {
            0..4 => (s[j] & 63, s[j + 4] & 63),
            _ => (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4),
        }
    }
}

const _: () = {
    assert!(size_of::<Q4_0>() == Format::Q4_0.block_bytes() && Q4_0::UNITS * UNIT == Format::Q4_0.block_len());
    assert!(size_of::<Q4_1>() == Format::Q4_1.block_bytes() && Q4_1::UNITS * UNIT == Format::Q4_1.block_len());
    assert!(size_of::<Q5_0>() == Format::Q5_0.block_bytes() && Q5_0::UNITS * UNIT == Format::Q5_0.block_len());
    assert!(size_of::<Q5_1>() == Format::Q5_1.block_bytes() && Q5_1::UNITS * UNIT == Format::Q5_1.block_len());
    assert!(size_of::<Q8_0>() == Format::Q8_0.block_bytes() && Q8_0::UNITS * UNIT == Format::Q8_0.block_len());
    assert!(size_of::<Q2K>() == Format::Q2K.block_bytes() && Q2K::UNITS * UNIT == Format::Q2K.block_len());
    assert!(size_of::<Q3K>() == Format::Q3K.block_bytes() && Q3K::UNITS * UNIT == Format::Q3K.block_len());
    assert!(size_of::<Q4K>() == Format::Q4K.block_bytes() && Q4K::UNITS * UNIT == Format::Q4K.block_len());
    assert!(size_of::<Q5K>() == Format::Q5K.block_bytes() && Q5K::UNITS * UNIT == Format::Q5K.block_len());
    assert!(size_of::<Q6K>() == Format::Q6K.block_bytes() && Q6K::UNITS * UNIT == Format::Q6K.block_len());
    assert!(size_of::<Iq4Nl>() == Format::Iq4Nl.block_bytes() && Iq4Nl::UNITS * UNIT == Format::Iq4Nl.block_len());
    assert!(size_of::<Iq4Xs>() == Format::Iq4Xs.block_bytes() && Iq4Xs::UNITS * UNIT == Format::Iq4Xs.block_len());
    assert!(size_of::<Mxfp4>() == Format::Mxfp4.block_bytes() && Mxfp4::UNITS * UNIT == Format::Mxfp4.block_len());
};

/// A unit with one scale and no minimum.
fn plain(q: [i8; UNIT], scale: f32) -> Unit {
    Unit { q, scale, scales: [1; 2], min: 0.0, mins: [0; 2] }
}

/// The 32 nibbles of 16 bytes, each handed to `f` with its number.
fn from_nibbles(bytes: &[u8; 16], f: impl Fn(usize, u8) -> i8) -> [i8; UNIT] {
    std::array::from_fn(|i| f(i, if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }))
}

/// 16 times bit i, for a fifth bit.
fn sixteen(bits: &[u8; 4], i: usize) -> u8 {
    (bits[i / 8] >> (i % 8) & 1) << 4
}

/// Numbers `32 * index..` of 256 that are kept as two bits each.
fn quarters(bytes: &[u8; 64], index: usize) -> [u8; UNIT] {
    std::array::from_fn(|i| bytes[index / 4 * 32 + i] >> (index % 4 * 2) & 3)
}

impl Block for Q4_0 {
    const UNITS: usize = 1;
    const MINS: bool = false;

    fn unit(&self, _: usize) -> Unit {
        plain(from_nibbles(&self.nibbles, |_, q| q as i8 - 8), self.d.get())
    }
}

impl Block for Q4_1 {
    const UNITS: usize = 1;
    const MINS: bool = true;

    fn unit(&self, _: usize) -> Unit {
        let q = from_nibbles(&self.nibbles, |_, q| q as i8);
        Unit { min: self.m.get(), mins: [1; 2], ..plain(q, self.d.get()) }
    }
}

impl Block for Q5_0 {
    const UNITS: usize = 1;
    const MINS: bool = false;

    fn unit(&self, _: usize) -> Unit {
        plain(from_nibbles(&self.nibbles, |i, q| (q | sixteen(&self.bits, i)) as i8 - 16), self.d.get())
    }
}

impl Block for Q5_1 {
    const UNITS: usize = 1;
    const MINS: bool = true;

    fn unit(&self, _: usize) -> Unit {
        let q = from_nibbles(&self.nibbles, |i, q| (q | sixteen(&self.bits, i)) as i8);
        Unit { min: self.m.get(), mins: [1; 2], ..plain(q, self.d.get()) }
    }
}

impl Block for Q8_0 {
    const UNITS: usize = 1;
    const MINS: bool = false;

    fn unit(&self, _: usize) -> Unit {
        plain(self.q, self.d.get())
    }
}

impl Block for Q2K {
    const UNITS: usize = 8;
    const MINS: bool = true;

    fn unit(&self, index: usize) -> Unit {
        let [a, b] = [self.scales[2 * index], self.scales[2 * index + 1]];
        Unit {
            q: quarters(&self.quarters, index).map(|q| q as i8),
            scale: self.d.get(),
            scales: [a & 15, b & 15].map(i32::from),
            min: -self.dmin.get(),
            mins: [a >> 4, b >> 4].map(i32::from),
        }
    }
}

impl Block for Q3K {
    const UNITS: usize = 8;
    const MINS: bool = false;

    fn unit(&self, index: usize) -> Unit {
        let low = quarters(&self.quarters, index);
        let q = std::array::from_fn(|i| (low[i] | (self.bits[i] >> index & 1) << 2) as i8 - 4);
        let scale = |j: usize| {
            let low = if j < 8 { self.scales[j] & 15 } else { self.scales[j - 8] >> 4 };
            i32::from(low | (self.scales[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32
        };
        Unit { scales: [scale(2 * index), scale(2 * index + 1)], ..plain(q, self.d.get()) }
    }
}

impl Block for Q4K {
    const UNITS: usize = 8;
    const MINS: bool = true;

    fn unit(&self, index: usize) -> Unit {
        let q = std::array::from_fn(|i| (self.nibbles[index / 2 * 32 + i] >> (index % 2 * 4) & 15) as i8);
        with_scales(q, self.d, self.dmin, &self.scales, index)
    }
}

impl Block for Q5K {
    const UNITS: usize = 8;
    const MINS: bool = true;

    fn unit(&self, index: usize) -> Unit {
        let q = std::array::from_fn(|i| {
            let low = self.nibbles[index / 2 * 32 + i] >> (index % 2 * 4) & 15;
            (low | (self.bits[i] >> index & 1) << 4) as i8
        });
        with_scales(q, self.d, self.dmin, &self.scales, index)
    }
}

/// The scale and the minimum of a unit are products that are rounded before anything is multiplied by them.
fn with_scales(q: [i8; UNIT], d: Half, dmin: Half, scales: &Scales, index: usize) -> Unit {
    let (scale, min) = scales.get(index);
    let min = -(dmin.get() * f32::from(min));
    Unit { min, mins: [1; 2], ..plain(q, d.get() * f32::from(scale)) }
}

impl Block for Q6K {
    const UNITS: usize = 8;
    const MINS: bool = false;

    fn unit(&self, index: usize) -> Unit {
        let high = quarters(&self.quarters, index);
        let q = std::array::from_fn(|i| {
            let low = self.nibbles[index / 4 * 64 + index % 2 * 32 + i] >> (index / 2 % 2 * 4) & 15;
            (low | high[i] << 4) as i8 - 32
        });
        let scales = [self.scales[2 * index], self.scales[2 * index + 1]].map(i32::from);
        Unit { scales, ..plain(q, self.d.get()) }
    }
}

impl Block for Iq4Nl {
    const UNITS: usize = 1;
    const MINS: bool = false;

    fn unit(&self, _: usize) -> Unit {
        plain(from_nibbles(&self.nibbles, |_, q| IQ4_NL_VALUES[usize::from(q)]), self.d.get())
    }
}

impl Block for Iq4Xs {
    const UNITS: usize = 8;
    const MINS: bool = false;

    fn unit(&self, index: usize) -> Unit {
        let low = self.scales_low[index / 2] >> (4 * (index % 2)) & 15;
        let high = self.scales_high[index / 4] >> (2 * (index % 4)) & 3;
        let scale = f32::from(low | high << 4) - 32.0;
        let q = from_nibbles(&self.nibbles[index], |_, q| IQ4_NL_VALUES[usize::from(q)]);
        plain(q, self.d.get() * scale)
    }
}

impl Block for Mxfp4 {
    const UNITS: usize = 1;
    const MINS: bool = false;

    fn unit(&self, _: usize) -> Unit {
        plain(from_nibbles(&self.nibbles, |_, q| MXFP4_VALUES[usize::from(q)]), mxfp4_scale(self.exponent))
    }
}
