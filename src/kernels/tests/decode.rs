//! Block formats once more, number by number in `f64`, written from the layout alone: what `blocks.rs` is held against,
//! and what products with quantised weights should come out as.

use half::f16;

use super::Format;

/// `scale * q + min` of one weight; the parts are what rounding errors are relative to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight {
    pub(super) scaled: f64,
    pub(super) min: f64,
}

fn half(block: &[u8], at: usize) -> f64 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f64()
}

/// Nibble i of a block of 32: lower halves first.
fn nibble(bytes: &[u8], i: usize) -> u8 {
    if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 }
}

/// The 6-bit scale and minimum `j` of eight.
fn six_bits(packed: &[u8], j: usize) -> (f64, f64) {
    let (scale, min) = match j {
        0..4 => (packed[j] % 64, packed[j + 4] % 64),
        _ => (packed[j + 4] % 16 + packed[j - 4] / 64 * 16, packed[j + 4] / 16 + packed[j] / 64 * 16),
    };
    (f64::from(scale), f64::from(min))
}

/// The levels of IQ4_NL and IQ4_XS.
const UNEVEN: [f64; 16] = [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];

/// The numbers of one block.
pub(super) fn decode(format: Format, block: &[u8]) -> Vec<Weight> {
    assert_eq!(block.len(), format.block_bytes());
    (0..format.block_len()).map(|i| number(format, block, i)).collect()
}

fn number(format: Format, b: &[u8], i: usize) -> Weight {
    let plain = |scale: f64, q: f64| Weight { scaled: scale * q, min: 0.0 };
    let fifth = |bits: &[u8]| bits[i / 8] >> (i % 8) & 1;
    match format {
        Format::Q4_0 => plain(half(b, 0), f64::from(nibble(&b[2..], i)) - 8.0),
        Format::Q4_1 => Weight { scaled: half(b, 0) * f64::from(nibble(&b[4..], i)), min: half(b, 2) },
        Format::Q5_0 => plain(half(b, 0), f64::from(nibble(&b[6..], i) + 16 * fifth(&b[2..])) - 16.0),
        Format::Q5_1 => {
            Weight { scaled: half(b, 0) * f64::from(nibble(&b[8..], i) + 16 * fifth(&b[4..])), min: half(b, 2) }
        }
        Format::Q8_0 => plain(half(b, 0), f64::from(b[2 + i] as i8)),
        Format::Iq4Nl => plain(half(b, 0), UNEVEN[usize::from(nibble(&b[2..], i))]),
        Format::Iq4Xs => {
            let (j, high) = (i / 32, u16::from_le_bytes([b[2], b[3]]));
            let low = u16::from(b[4 + j / 2]) / [1, 16][j % 2] % 16;
            let scale = f64::from(low + 16 * (high >> (2 * j) & 3)) - 32.0;
            plain(half(b, 0) * scale, UNEVEN[usize::from(nibble(&b[8 + 16 * j..], i % 32))])
        }
        Format::Mxfp4 => {
            let magnitude = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            let nibble = nibble(&b[1..], i);
            let sign = if nibble < 8 { 1.0 } else { -1.0 };
            plain(f64::from(i32::from(b[0]) - 127).exp2(), sign * magnitude[usize::from(nibble % 8)])
        }
        Format::Q2K => {
            let both = b[i / 16];
            let q = b[16 + i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3;
            Weight {
                scaled: half(b, 80) * f64::from(both % 16) * f64::from(q),
                min: -half(b, 82) * f64::from(both / 16),
            }
        }
        Format::Q3K => {
            let low = b[32 + i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4)) & 3;
            let high = b[i % 32] >> (i / 32) & 1;
            let (scales, j) = (&b[96..108], i / 16);
            let lower = if j < 8 { scales[j] % 16 } else { scales[j - 8] / 16 };
            let upper = scales[8 + j % 4] >> (2 * (j / 4)) & 3;
            plain(half(b, 108) * (f64::from(lower + 16 * upper) - 32.0), f64::from(low + 4 * high) - 4.0)
        }
        Format::Q4K => {
            let (scale, min) = six_bits(&b[4..16], i / 32);
            let q = b[16 + i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15;
            Weight { scaled: half(b, 0) * scale * f64::from(q), min: -half(b, 2) * min }
        }
        Format::Q5K => {
            let (scale, min) = six_bits(&b[4..16], i / 32);
            let low = b[48 + i / 64 * 32 + i % 32] >> (4 * (i / 32 % 2)) & 15;
            let high = b[16 + i % 32] >> (i / 32) & 1;
            Weight { scaled: half(b, 0) * scale * f64::from(low + 16 * high), min: -half(b, 2) * min }
        }
        Format::Q6K => {
            let (part, i) = (i / 128, i % 128);
            let low = b[64 * part + i % 64] >> (4 * (i / 64)) & 15;
            let high = b[128 + 32 * part + i % 32] >> (2 * (i / 32)) & 3;
            let scale = f64::from(b[192 + 8 * part + i / 16] as i8);
            plain(half(b, 208) * scale, f64::from(low + 16 * high) - 32.0)
        }
    }
}
