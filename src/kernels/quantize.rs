//! Rows of `f32` into blocks of few bits: the search for the scales that lose least.
//!
//! Formats with one step of rounding (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4) give the bytes of the reference quantisers in
//! GGUF's tools. The others choose, for each group of 16 or 32 numbers, the best of a few scales near the one that just
//! reaches the largest number: with the numbers rounded for a candidate, the scale (and minimum) of least weighted squares
//! is known in closed form, and the candidate whose error is least then wins. Large weights matter more to a product
//! than small ones, so errors count by the number's magnitude.
//!
//! Sixteen groups are searched side by side, a lane for each, with plain additions and multiplications in the order of
//! the numbers: every tier writes the same bytes. Numbers are finite and below 65,504 in magnitude, which the caller
//! has checked, so that every scale is finite as f16.

use half::f16;

use super::blocks::Format;
use super::lanes::{LANES, Lanes};

/// Blocks of 32, one after the other.
macro_rules! each {
    ($x:expr, $to:expr, $bytes:literal, $block:ident) => {
        for (x, to) in $x.as_chunks::<32>().0.iter().zip($to.as_chunks_mut::<$bytes>().0) {
            $block(x, to);
        }
    };
}

/// Blocks of `$numbers`, whose scales are found in tiles of sixteen groups of `$n`; a tile that is not full ends in
/// groups of zeros. `$write` gets a block's numbers, what was found and the lane of the block's first group.
macro_rules! tiles {
    ($x:expr, $to:expr, $n:literal, $numbers:expr, $bytes:literal, $search:ident($($how:expr)?), $write:ident) => {
        for (x, to) in $x.chunks($n * LANES).zip($to.chunks_mut($n * LANES / $numbers * $bytes)) {
            let found = $search(&tile::<$n>(x), $($how)?);
            let blocks = x.as_chunks::<{ $numbers }>().0.iter().zip(to.as_chunks_mut::<$bytes>().0);
            for (block, (x, to)) in blocks.enumerate() {
                $write(x, &found, block * $numbers / $n, to);
            }
        }
    };
}

/// Numbers in a super-block.
const SUPER: usize = 256;

/// Writes whole blocks: `to` has `format.bytes(x.len())` bytes.
#[inline(always)]
pub(super) fn quantize(format: Format, x: &[f32], to: &mut [u8]) {
    // Macros and not closures: what is passed as a closure is not compiled anew for every tier.
    match format {
        Format::Q8_0 => each!(x, to, 34, q8_0),
        Format::Q4_0 => each!(x, to, 18, q4_0),
        Format::Q4_1 => each!(x, to, 20, q4_1),
        Format::Q5_0 => each!(x, to, 22, q5_0),
        Format::Q5_1 => each!(x, to, 24, q5_1),
        Format::Mxfp4 => each!(x, to, 17, mxfp4),
        Format::Iq4Nl => tiles!(x, to, 32, 32, 18, uneven(), iq4_nl),
        Format::Iq4Xs => tiles!(x, to, 32, SUPER, 136, uneven(), iq4_xs),
        Format::Q2K => tiles!(x, to, 16, SUPER, 84, with_minimum(&Q2K), q2_k),
        Format::Q3K => tiles!(x, to, 16, SUPER, 110, symmetric(&Q3K), q3_k),
        Format::Q4K => tiles!(x, to, 32, SUPER, 144, with_minimum(&Q4K), q4_k),
        Format::Q5K => tiles!(x, to, 32, SUPER, 176, with_minimum(&Q5K), q5_k),
        Format::Q6K => tiles!(x, to, 16, SUPER, 210, symmetric(&Q6K), q6_k),
    }
}

fn put_f16(to: &mut [u8], value: f32) {
    to.copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// `1 / d`, and 0 where d is 0.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The number of largest magnitude, the first of several.
#[inline(always)]
fn largest(x: &[f32; 32]) -> f32 {
    let (mut high, mut low) = ([0.0f32; LANES], [0.0f32; LANES]);
    for half in x.as_chunks::<LANES>().0 {
        for j in 0..LANES {
            high[j] = if half[j] > high[j] { half[j] } else { high[j] };
            low[j] = if half[j] < low[j] { half[j] } else { low[j] };
        }
    }
    let high = high.iter().fold(0.0f32, |a, b| a.max(*b));
    let low = low.iter().fold(0.0f32, |a, b| a.min(*b));
    if high > -low {
        high
    } else if high < -low {
        low
    } else {
        x.iter().copied().find(|x| x.abs() == high).unwrap_or(0.0)
    }
}

/// The smallest and the largest number.
#[inline(always)]
fn bounds(x: &[f32; 32]) -> (f32, f32) {
    let halves = x.as_chunks::<LANES>().0;
    let (mut low, mut high) = (halves[0], halves[0]);
    for j in 0..LANES {
        low[j] = if halves[1][j] < low[j] { halves[1][j] } else { low[j] };
        high[j] = if halves[1][j] > high[j] { halves[1][j] } else { high[j] };
    }
    (low.iter().fold(f32::MAX, |a, b| a.min(*b)), high.iter().fold(f32::MIN, |a, b| a.max(*b)))
}

/// What lies below the point of numbers from 0 on, cut off.
#[inline(always)]
fn whole(x: f32) -> f32 {
    let near = x + WHOLE - WHOLE;
    if near > x { near - 1.0 } else { near }
}

/// Levels from 0 to `MOST`, to nearest by cutting off behind `+ 0.5`.
#[inline(always)]
fn cut<const MOST: u8>(x: &[f32; 32], level: impl Fn(f32) -> f32) -> [u8; 32] {
    let mut bits = [0; 32];
    for i in 0..32 {
        let level = whole(level(x[i]));
        bits[i] = (if level < f32::from(MOST) { level } else { f32::from(MOST) } + WHOLE).to_bits();
    }
    let mut levels = [0; 32];
    for i in 0..32 {
        levels[i] = bits[i] as u8;
    }
    levels
}

/// Two numbers of 4 bits in a byte: number i and number i + 16.
#[inline(always)]
fn put_nibbles(to: &mut [u8], levels: &[u8; 32]) {
    for i in 0..16 {
        to[i] = levels[i] & 15 | levels[i + 16] << 4;
    }
}

/// The fifth bit of 32 numbers.
#[inline(always)]
fn put_fifth_bits(to: &mut [u8], levels: &[u8; 32]) {
    let mut bits = 0u32;
    for i in 0..32 {
        bits |= u32::from(levels[i] >> 4) << i;
    }
    to.copy_from_slice(&bits.to_le_bytes());
}

#[inline(always)]
fn q8_0(x: &[f32; 32], to: &mut [u8; 34]) {
    let d = largest(x).abs() / 127.0;
    let id = inverse(d);
    put_f16(&mut to[..2], d);
    let mut bits = [0; 32];
    for i in 0..32 {
        // To nearest, halves away from zero; `+ 0.5` would round what is just below a half up.
        let size = (x[i] * id).abs();
        let below = whole(size);
        let level = if size - below >= 0.5 { below + 1.0 } else { below };
        bits[i] = (level.copysign(x[i]) + WHOLE).to_bits();
    }
    for i in 0..32 {
        to[2 + i] = bits[i] as u8;
    }
}

#[inline(always)]
fn q4_0(x: &[f32; 32], to: &mut [u8; 18]) {
    let d = largest(x) / -8.0;
    let id = inverse(d);
    put_f16(&mut to[..2], d);
    put_nibbles(&mut to[2..], &cut::<15>(x, |x| x * id + 8.5));
}

#[inline(always)]
fn q4_1(x: &[f32; 32], to: &mut [u8; 20]) {
    let (low, high) = bounds(x);
    let d = (high - low) / 15.0;
    let id = inverse(d);
    put_f16(&mut to[..2], d);
    put_f16(&mut to[2..4], low);
    put_nibbles(&mut to[4..], &cut::<15>(x, |x| (x - low) * id + 0.5));
}

#[inline(always)]
fn q5_0(x: &[f32; 32], to: &mut [u8; 22]) {
    let d = largest(x) / -16.0;
    let id = inverse(d);
    put_f16(&mut to[..2], d);
    let levels = cut::<31>(x, |x| x * id + 16.5);
    put_fifth_bits(&mut to[2..6], &levels);
    put_nibbles(&mut to[6..], &levels);
}

#[inline(always)]
fn q5_1(x: &[f32; 32], to: &mut [u8; 24]) {
    let (low, high) = bounds(x);
    let d = (high - low) / 31.0;
    let id = inverse(d);
    put_f16(&mut to[..2], d);
    put_f16(&mut to[2..4], low);
    let levels = cut::<31>(x, |x| (x - low) * id + 0.5);
    put_fifth_bits(&mut to[4..8], &levels);
    put_nibbles(&mut to[8..], &levels);
}

/// The power of two is the one by which the OCP's specification of MX scales: of the largest magnitude's exponent, two
/// less, which is the exponent of the largest magnitude that 4 bits hold, 6.
#[inline(always)]
fn mxfp4(x: &[f32; 32], to: &mut [u8; 17]) {
    let exponent = (largest(x).abs().to_bits() >> 23).saturating_sub(2);
    to[0] = exponent as u8;
    // Levels are 0, 1, 2, 3, 4, 6, 8 and 12 halves of 2^(exponent - 127). Numbers below 2^-124 are nothing here.
    let id = if exponent == 0 { 0.0 } else { f32::from_bits((255 - exponent) << 23) };
    let mut levels = [0; 32];
    for i in 0..32 {
        let size = x[i].abs() * id;
        let mut level = 0;
        // What lies in the middle goes to the smaller level.
        for middle in [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0] {
            level += u8::from(size > middle);
        }
        levels[i] = if x[i] < 0.0 && level > 0 { level | 8 } else { level };
    }
    put_nibbles(&mut to[1..], &levels);
}

/// Sixteen groups of `N` numbers side by side: number i of group j is lane j of vector i.
type Tile<const N: usize> = [Lanes; N];

#[inline(always)]
fn tile<const N: usize>(x: &[f32]) -> Tile<N> {
    let mut tile = [Lanes::ZERO; N];
    for (j, group) in x.as_chunks::<N>().0.iter().enumerate() {
        for i in 0..N {
            tile[i].0[j] = group[i];
        }
    }
    tile
}

/// What a search found for each of sixteen groups: a number stands for `d * scale * level + min * m`.
struct Found {
    /// The scale of the group's block, a number that f16 has.
    d: Lanes,
    /// The group's part of it, a whole number.
    scale: Lanes,
    /// The same for the minimum.
    dmin: Lanes,
    m: Lanes,
}

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> Lanes {
    let mut lanes = Lanes::ZERO;
    for j in 0..LANES {
        lanes.0[j] = f(j);
    }
    lanes
}

/// 1.5 * 2^23: what is added to it has no room for a fraction, and its lowest bits are those of the whole number.
const WHOLE: f32 = 12_582_912.0;

/// `x` within bounds; a NaN becomes the lower one.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    if x < high { x } else { high }
}

/// `x` within bounds and rounded to nearest, halves to even.
#[inline(always)]
fn nearest(x: f32, low: f32, high: f32) -> f32 {
    clamp(x, low, high) + WHOLE - WHOLE
}

/// How the levels and scales of a format with minima are searched: see [`least_squares`].
struct WithMinimum {
    /// The largest level.
    most: f32,
    /// The largest scale and minimum of a group.
    top: f32,
    /// The candidates: the level of the largest number less `most`, from `first` in steps of a tenth.
    first: f32,
    steps: usize,
}

const Q2K: WithMinimum = WithMinimum { most: 3.0, top: 15.0, first: -0.5, steps: 15 };
const Q4K: WithMinimum = WithMinimum { most: 15.0, top: 63.0, first: -1.0, steps: 20 };
const Q5K: WithMinimum = WithMinimum { most: 31.0, top: 63.0, first: -0.5, steps: 15 };

/// How much an error of each number counts: its magnitude and, since numbers near zero must not go for nothing, the usual
/// magnitude of its group.
#[inline(always)]
fn weights<const N: usize>(x: &Tile<N>) -> Tile<N> {
    let mut squares = Lanes::ZERO;
    for i in 0..N {
        squares = lanes(|j| squares.0[j] + x[i].0[j] * x[i].0[j]);
    }
    let usual = lanes(|j| (squares.0[j] / N as f32).sqrt());
    let mut weights = [Lanes::ZERO; N];
    for i in 0..N {
        weights[i] = lanes(|j| usual.0[j] + x[i].0[j].abs());
    }
    weights
}

/// The scale and the minimum, at most 0, of each group.
#[inline(always)]
fn least_squares<const N: usize>(x: &Tile<N>, w: &Tile<N>, how: &WithMinimum) -> (Lanes, Lanes) {
    let (mut low, mut high) = (Lanes::ZERO, x[0]);
    let (mut sum_w, mut sum_x) = (Lanes::ZERO, Lanes::ZERO);
    for i in 0..N {
        low = lanes(|j| if x[i].0[j] < low.0[j] { x[i].0[j] } else { low.0[j] });
        high = lanes(|j| if x[i].0[j] > high.0[j] { x[i].0[j] } else { high.0[j] });
        sum_w = lanes(|j| sum_w.0[j] + w[i].0[j]);
        sum_x = lanes(|j| sum_x.0[j] + w[i].0[j] * x[i].0[j]);
    }
    let range = lanes(|j| high.0[j] - low.0[j]);
    let (mut scale, mut min) = (lanes(|j| range.0[j] / how.most), low);
    let mut least = error(x, w, &scale, &min, 0.0, how.most);
    for step in 0..=how.steps {
        let reach = how.first + 0.1 * step as f32 + how.most;
        let id = lanes(|j| reach / range.0[j]);
        let mut levels = [Lanes::ZERO; N];
        let (mut sum_l, mut sum_ll, mut sum_lx) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
        for i in 0..N {
            let level = lanes(|j| nearest(id.0[j] * (x[i].0[j] - low.0[j]), 0.0, how.most));
            let weighted = lanes(|j| w[i].0[j] * level.0[j]);
            sum_l = sum_l.add(weighted);
            sum_ll = lanes(|j| sum_ll.0[j] + weighted.0[j] * level.0[j]);
            sum_lx = lanes(|j| sum_lx.0[j] + weighted.0[j] * x[i].0[j]);
            levels[i] = level;
        }
        let determinant = lanes(|j| sum_w.0[j] * sum_ll.0[j] - sum_l.0[j] * sum_l.0[j]);
        let best_min = lanes(|j| (sum_ll.0[j] * sum_x.0[j] - sum_l.0[j] * sum_lx.0[j]) / determinant.0[j]);
        let best_scale = lanes(|j| {
            let free = (sum_w.0[j] * sum_lx.0[j] - sum_x.0[j] * sum_l.0[j]) / determinant.0[j];
            if best_min.0[j] > 0.0 { sum_lx.0[j] / sum_ll.0[j] } else { free }
        });
        let best_min = lanes(|j| if best_min.0[j] > 0.0 { 0.0 } else { best_min.0[j] });
        let mut sum = Lanes::ZERO;
        for i in 0..N {
            sum = lanes(|j| {
                let off = best_scale.0[j] * levels[i].0[j] + best_min.0[j] - x[i].0[j];
                sum.0[j] + w[i].0[j] * (off * off)
            });
        }
        // Comparisons with a NaN, where a group is all one number, are false.
        let better = lanes(|j| if determinant.0[j] > 0.0 && sum.0[j] < least.0[j] { 1.0 } else { 0.0 });
        least = lanes(|j| if better.0[j] > 0.0 { sum.0[j] } else { least.0[j] });
        scale = lanes(|j| if better.0[j] > 0.0 { best_scale.0[j] } else { scale.0[j] });
        min = lanes(|j| if better.0[j] > 0.0 { best_min.0[j] } else { min.0[j] });
    }
    (scale, min)
}

/// The weighted squares of what rounding to `scale * level + min` loses, with levels from `bottom` to `top`.
#[inline(always)]
fn error<const N: usize>(x: &Tile<N>, w: &Tile<N>, scale: &Lanes, min: &Lanes, bottom: f32, top: f32) -> Lanes {
    let id = lanes(|j| inverse(scale.0[j]));
    let mut sum = Lanes::ZERO;
    for i in 0..N {
        sum = lanes(|j| {
            let level = nearest((x[i].0[j] - min.0[j]) * id.0[j], bottom, top);
            let off = scale.0[j] * level + min.0[j] - x[i].0[j];
            sum.0[j] + w[i].0[j] * (off * off)
        });
    }
    sum
}

/// For each lane the largest among those of its block, of `groups` lanes.
#[inline(always)]
fn largest_of_block(x: &Lanes, groups: usize) -> Lanes {
    let mut largest = Lanes::ZERO;
    for (to, x) in largest.0.chunks_exact_mut(groups).zip(x.0.chunks_exact(groups)) {
        to.fill(x.iter().fold(0.0, |most, x| if *x > most { *x } else { most }));
    }
    largest
}

/// What f16 makes of it, for blocks of `groups` equal lanes.
#[inline(always)]
fn as_f16(x: &Lanes, groups: usize) -> Lanes {
    let mut rounded = Lanes::ZERO;
    for (to, x) in rounded.0.chunks_exact_mut(groups).zip(x.0.chunks_exact(groups)) {
        to.fill(f16::from_f32(x[0]).to_f32());
    }
    rounded
}

/// Scales and minima of blocks of 256, those of the groups as whole parts of the block's.
#[inline(always)]
fn with_minimum<const N: usize>(x: &Tile<N>, how: &WithMinimum) -> Found {
    let w = weights(x);
    let (scale, min) = least_squares(x, &w, how);
    let depth = lanes(|j| -min.0[j]);
    let (top, deepest) = (largest_of_block(&scale, SUPER / N), largest_of_block(&depth, SUPER / N));
    let d = as_f16(&lanes(|j| top.0[j] / how.top), SUPER / N);
    let dmin = as_f16(&lanes(|j| deepest.0[j] / how.top), SUPER / N);
    let part = |x: &Lanes, d: &Lanes| lanes(|j| nearest(x.0[j] * inverse(d.0[j]), 0.0, how.top));
    let (scale, m) = (part(&scale, &d), part(&depth, &dmin));

    // Rounding moved both off the best: a neighbour may lose less.
    let mut best = (scale, m);
    let mut least = Lanes([f32::INFINITY; LANES]);
    for scale_step in [0.0, -1.0, 1.0] {
        for m_step in [0.0, -1.0, 1.0] {
            let scale = lanes(|j| nearest(scale.0[j] + scale_step, 0.0, how.top));
            let m = lanes(|j| nearest(m.0[j] + m_step, 0.0, how.top));
            let lost = error(x, &w, &lanes(|j| d.0[j] * scale.0[j]), &lanes(|j| -(dmin.0[j] * m.0[j])), 0.0, how.most);
            best.0 = lanes(|j| if lost.0[j] < least.0[j] { scale.0[j] } else { best.0.0[j] });
            best.1 = lanes(|j| if lost.0[j] < least.0[j] { m.0[j] } else { best.1.0[j] });
            least = lanes(|j| if lost.0[j] < least.0[j] { lost.0[j] } else { least.0[j] });
        }
    }
    Found { d, scale: best.0, dmin, m: best.1 }
}

/// How a format without minima is searched.
struct Symmetric {
    /// Levels go from `-most` to `most - 1`.
    most: f32,
    /// Scales of groups go from `-top` to `top - 1`.
    top: f32,
}

const Q3K: Symmetric = Symmetric { most: 4.0, top: 32.0 };
const Q6K: Symmetric = Symmetric { most: 32.0, top: 128.0 };

/// Scales of blocks of 256, those of the groups as whole parts of the block's.
#[inline(always)]
fn symmetric(x: &Tile<16>, how: &Symmetric) -> Found {
    let w = weights(x);
    let scale = best_multiple(x, &w, how.most, 0.1, |x| nearest(x, -how.most, how.most - 1.0));
    let top = scale.0.iter().fold(0.0f32, |most, s| if s.abs() > most.abs() { *s } else { most });
    let d = as_f16(&lanes(|_| top / -how.top), 16);
    let part = lanes(|j| nearest(scale.0[j] * inverse(d.0[j]), -how.top, how.top - 1.0));

    // Rounding moved it off the best: a neighbour may lose less.
    let mut best = part;
    let mut least = Lanes([f32::INFINITY; LANES]);
    for step in [0.0, -1.0, 1.0] {
        let part = lanes(|j| nearest(part.0[j] + step, -how.top, how.top - 1.0));
        let scale = lanes(|j| d.0[j] * part.0[j]);
        let lost = error(x, &w, &scale, &Lanes::ZERO, -how.most, how.most - 1.0);
        best = lanes(|j| if lost.0[j] < least.0[j] { part.0[j] } else { best.0[j] });
        least = lanes(|j| if lost.0[j] < least.0[j] { lost.0[j] } else { least.0[j] });
    }
    Found { d, scale: best, dmin: Lanes::ZERO, m: Lanes::ZERO }
}

/// The scale of each group with which what `level` makes of `x / scale` comes closest to `x`. With the levels of a
/// candidate the best scale is `sum_lx / sum_ll`, and the larger `sum_lx² / sum_ll`, the less is lost. Candidates have the
/// largest number at `-most` and up to nine steps around it.
#[inline(always)]
fn best_multiple<const N: usize>(x: &Tile<N>, w: &Tile<N>, most: f32, step: f32, level: impl Fn(f32) -> f32) -> Lanes {
    let mut largest = Lanes::ZERO;
    for i in 0..N {
        largest = lanes(|j| if x[i].0[j].abs() > largest.0[j].abs() { x[i].0[j] } else { largest.0[j] });
    }
    let (mut scale, mut kept) = (Lanes::ZERO, Lanes::ZERO);
    for steps in -9..=9 {
        let reach = -(most + step * steps as f32);
        let id = lanes(|j| if largest.0[j] == 0.0 { 0.0 } else { reach / largest.0[j] });
        let (mut sum_lx, mut sum_ll) = (Lanes::ZERO, Lanes::ZERO);
        for i in 0..N {
            let level = lanes(|j| level(id.0[j] * x[i].0[j]));
            let weighted = lanes(|j| w[i].0[j] * level.0[j]);
            sum_lx = lanes(|j| sum_lx.0[j] + weighted.0[j] * x[i].0[j]);
            sum_ll = lanes(|j| sum_ll.0[j] + weighted.0[j] * level.0[j]);
        }
        let candidate = lanes(|j| sum_lx.0[j] * inverse(sum_ll.0[j]));
        let keeps = lanes(|j| candidate.0[j] * sum_lx.0[j]);
        scale = lanes(|j| if keeps.0[j] > kept.0[j] { candidate.0[j] } else { scale.0[j] });
        kept = lanes(|j| if keeps.0[j] > kept.0[j] { keeps.0[j] } else { kept.0[j] });
    }
    scale
}

/// The levels of IQ4_NL, closer to each other where weights are many.
const UNEVEN: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The level next to `x`.
#[inline(always)]
fn uneven_level(x: f32) -> f32 {
    let mut level = f32::from(UNEVEN[0]);
    for i in 1..16 {
        let (below, above) = (f32::from(UNEVEN[i - 1]), f32::from(UNEVEN[i]));
        level += if x >= (below + above) / 2.0 { above - below } else { 0.0 };
    }
    level
}

#[inline(always)]
fn uneven(x: &Tile<32>) -> Found {
    let d = best_multiple(x, &weights(x), f32::from(-UNEVEN[0]), 1.0, uneven_level);
    Found { d, scale: Lanes::ZERO, dmin: Lanes::ZERO, m: Lanes::ZERO }
}

#[inline(always)]
fn iq4_nl(x: &[f32; 32], found: &Found, lane: usize, to: &mut [u8; 18]) {
    let d = found.d.0[lane];
    put_f16(&mut to[..2], d);
    put_nibbles(&mut to[2..], &uneven_levels(x, inverse(d)));
}

/// The numbers of the levels next to `x * id`.
#[inline(always)]
fn uneven_levels(x: &[f32; 32], id: f32) -> [u8; 32] {
    let mut levels = [0; 32];
    for i in 0..32 {
        for pair in UNEVEN.windows(2) {
            levels[i] += u8::from(x[i] * id >= (f32::from(pair[0]) + f32::from(pair[1])) / 2.0);
        }
    }
    levels
}

/// Scales are multiples of one, from -32 to 31, of which the largest becomes -32.
#[inline(always)]
fn iq4_xs(x: &[f32; SUPER], found: &Found, lane: usize, to: &mut [u8; 136]) {
    let scales = &found.d.0[lane..lane + 8];
    let largest = scales.iter().fold(0.0, |most: f32, scale| if scale.abs() > most.abs() { *scale } else { most });
    let d = f16::from_f32(largest / -32.0);
    to[..2].copy_from_slice(&d.to_le_bytes());
    let (d, mut high) = (d.to_f32(), 0u16);
    to[4..8].fill(0);
    for (j, x) in x.as_chunks::<32>().0.iter().enumerate() {
        let multiple = (scales[j] * inverse(d)).round().clamp(-32.0, 31.0);
        let bits = (multiple + 32.0) as u16;
        to[4 + j / 2] |= (bits as u8 & 15) << (4 * (j % 2));
        high |= bits >> 4 << (2 * j);
        put_nibbles(&mut to[8 + 16 * j..][..16], &uneven_levels(x, inverse(d * multiple)));
    }
    to[2..4].copy_from_slice(&high.to_le_bytes());
}

/// The levels of a block's numbers, counted from 0, in groups of `N` from `lane` on.
#[inline(always)]
fn levels<const N: usize>(x: &[f32; SUPER], found: &Found, lane: usize, low: f32, high: f32) -> [u8; SUPER] {
    let mut bits = [0; SUPER];
    let groups = x.as_chunks::<N>().0.iter().zip(bits.as_chunks_mut::<N>().0);
    for (j, (x, bits)) in groups.enumerate() {
        let id = inverse(found.d.0[lane + j] * found.scale.0[lane + j]);
        let min = found.dmin.0[lane + j] * found.m.0[lane + j];
        for i in 0..N {
            bits[i] = (clamp((x[i] + min) * id, low, high) - low + WHOLE).to_bits();
        }
    }
    let mut levels = [0; SUPER];
    for i in 0..SUPER {
        levels[i] = bits[i] as u8;
    }
    levels
}

/// Two bits of each number: four numbers that lie 32 apart in a byte.
#[inline(always)]
fn put_quarters(to: &mut [u8], levels: &[u8; SUPER], shift: u32) {
    for (to, x) in to.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<128>().0) {
        for i in 0..32 {
            let bits = |k: usize| (x[i + 32 * k] >> shift & 3) << (2 * k);
            to[i] = bits(0) | bits(1) | bits(2) | bits(3);
        }
    }
}

/// The lower four bits: two numbers that lie `APART` apart in a byte.
#[inline(always)]
fn put_halves<const APART: usize>(to: &mut [u8], levels: &[u8; SUPER]) {
    for (to, x) in to.chunks_exact_mut(APART).zip(levels.chunks_exact(2 * APART)) {
        for i in 0..APART {
            to[i] = x[i] & 15 | x[i + APART] << 4;
        }
    }
}

/// One bit of each number: eight numbers that lie 32 apart in a byte.
#[inline(always)]
fn put_bits(to: &mut [u8], levels: &[u8; SUPER], shift: u32) {
    for i in 0..32 {
        to[i] = (0..8).map(|k| (levels[i + 32 * k] >> shift & 1) << k).sum();
    }
}

/// Eight scales and minima of 6 bits: four of each in whole bytes, whose upper bits are those of the other four.
#[inline(always)]
fn put_scales(to: &mut [u8], found: &Found, lane: usize) {
    for j in 0..4 {
        let part = |x: &Lanes, j: usize| x.0[lane + j] as i32 as u8;
        let (scale, m) = (part(&found.scale, j + 4), part(&found.m, j + 4));
        to[j] = part(&found.scale, j) | scale >> 4 << 6;
        to[j + 4] = part(&found.m, j) | m >> 4 << 6;
        to[j + 8] = scale & 15 | m << 4;
    }
}

#[inline(always)]
fn q2_k(x: &[f32; SUPER], found: &Found, lane: usize, to: &mut [u8; 84]) {
    for j in 0..16 {
        to[j] = found.scale.0[j] as i32 as u8 | (found.m.0[j] as i32 as u8) << 4;
    }
    put_quarters(&mut to[16..80], &levels::<16>(x, found, lane, 0.0, Q2K.most), 0);
    put_f16(&mut to[80..82], found.d.0[lane]);
    put_f16(&mut to[82..], found.dmin.0[lane]);
}

#[inline(always)]
fn q3_k(x: &[f32; SUPER], found: &Found, lane: usize, to: &mut [u8; 110]) {
    let levels = levels::<16>(x, found, lane, -Q3K.most, Q3K.most - 1.0);
    put_bits(&mut to[..32], &levels, 2);
    put_quarters(&mut to[32..96], &levels, 0);
    for j in 0..4 {
        // Lower four bits of scales 0 to 15 in eight bytes, upper two in four more.
        let part = |k: usize| (found.scale.0[j + 4 * k] + Q3K.top) as i32 as u8;
        to[96 + j] = part(0) & 15 | part(2) << 4;
        to[100 + j] = part(1) & 15 | part(3) << 4;
        to[104 + j] = part(0) >> 4 | part(1) >> 4 << 2 | part(2) >> 4 << 4 | part(3) >> 4 << 6;
    }
    put_f16(&mut to[108..], found.d.0[lane]);
}

#[inline(always)]
fn q4_k(x: &[f32; SUPER], found: &Found, lane: usize, to: &mut [u8; 144]) {
    put_f16(&mut to[..2], found.d.0[lane]);
    put_f16(&mut to[2..4], found.dmin.0[lane]);
    put_scales(&mut to[4..16], found, lane);
    put_halves::<32>(&mut to[16..], &levels::<32>(x, found, lane, 0.0, Q4K.most));
}

#[inline(always)]
fn q5_k(x: &[f32; SUPER], found: &Found, lane: usize, to: &mut [u8; 176]) {
    let levels = levels::<32>(x, found, lane, 0.0, Q5K.most);
    put_f16(&mut to[..2], found.d.0[lane]);
    put_f16(&mut to[2..4], found.dmin.0[lane]);
    put_scales(&mut to[4..16], found, lane);
    put_bits(&mut to[16..48], &levels, 4);
    put_halves::<32>(&mut to[48..], &levels);
}

#[inline(always)]
fn q6_k(x: &[f32; SUPER], found: &Found, lane: usize, to: &mut [u8; 210]) {
    let levels = levels::<16>(x, found, lane, -Q6K.most, Q6K.most - 1.0);
    put_halves::<64>(&mut to[..128], &levels);
    put_quarters(&mut to[128..192], &levels, 4);
    for j in 0..16 {
        to[192 + j] = found.scale.0[j] as i32 as u8;
    }
    put_f16(&mut to[208..], found.d.0[lane]);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use safetensors::SafeTensors;

    use super::super::{Slice, available, best};
    use super::*;

    /// `tests/fixtures/quant.safetensors`, which `tests/oracle/part_quant.py` describes.
    fn fixture() -> Vec<u8> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/quant.safetensors");
        std::fs::read(path).expect("the fixture")
    }

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
    }

    fn quantized(format: Format, x: &[f32]) -> Vec<u8> {
        let mut blocks = vec![0; format.bytes(x.len())];
        best().quantize(format, x, &mut blocks);
        blocks
    }

    fn read(format: Format, blocks: &[u8]) -> Vec<f32> {
        let mut x = vec![f32::NAN; blocks.len() / format.block_bytes() * format.block_len()];
        best().widen(Slice::Blocks(format, blocks), &mut x);
        x
    }

    #[test]
    fn formats_with_one_rounding_have_the_bytes_of_the_reference() {
        let file = fixture();
        let file = SafeTensors::deserialize(&file).expect("a fixture");
        let x = floats(file.tensor("x").expect("numbers").data());
        for format in [Format::Q8_0, Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Mxfp4] {
            let expected = file.tensor(&format!("{}.written", format.name())).expect("blocks");
            let found = quantized(format, &x);
            let differ = found.iter().zip(expected.data()).position(|(a, b)| a != b);
            assert_eq!((differ, found.len()), (None, expected.data().len()), "{}", format.name());
        }
    }

    #[test]
    fn blocks_stand_for_the_numbers_that_the_reference_reads() {
        let file = fixture();
        let file = SafeTensors::deserialize(&file).expect("a fixture");
        for format in Format::ALL {
            let of = |what: &str| file.tensor(&format!("{}.{what}", format.name())).expect("the fixture has it");
            let (blocks, expected) = (of("blocks"), floats(of("read").data()));
            for kernels in available() {
                let mut found = vec![f32::NAN; expected.len()];
                kernels.widen(Slice::Blocks(format, blocks.data()), &mut found);
                let differ = found.iter().zip(&expected).position(|(a, b)| a != b);
                assert_eq!(differ, None, "{} {}: {found:?} {expected:?}", format.name(), kernels.name());
            }
        }
    }

    #[test]
    fn every_tier_writes_the_same_bytes_however_many_at_once() {
        let file = fixture();
        let file = SafeTensors::deserialize(&file).expect("a fixture");
        let x = floats(file.tensor("x").expect("numbers").data());
        for format in Format::ALL {
            let expected = quantized(format, &x);
            for kernels in available() {
                for blocks in [1, 2, 3, 7, 16, 17] {
                    let mut found = vec![0; expected.len()];
                    let (numbers, bytes) = (blocks * format.block_len(), blocks * format.block_bytes());
                    for (x, to) in x.chunks(numbers).zip(found.chunks_mut(bytes)) {
                        kernels.quantize(format, x, to);
                    }
                    assert!(found == expected, "{} {} {blocks} at once", format.name(), kernels.name());
                }
            }
        }
    }

    /// What a row of 256 loses, as the root of the mean square, relative to the numbers' own.
    fn lost(format: Format, x: &[f32]) -> f64 {
        let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
        let off = read(format, &quantized(format, x));
        (squares(&mut x.iter().zip(&off).map(|(a, b)| a - b)) / squares(&mut x.iter().copied())).sqrt()
    }

    #[test]
    fn searched_formats_lose_less_than_with_the_reference() {
        let file = fixture();
        let file = SafeTensors::deserialize(&file).expect("a fixture");
        let x = floats(file.tensor("x").expect("numbers").data());
        let rows = x.as_chunks::<256>().0;
        let rows: Vec<&[f32; 256]> = rows[..8].iter().chain(&rows[12..22]).collect();
        // What llama.cpp's quantisers lose of these rows, in the mean.
        for (format, reference) in [
            (Format::Iq4Nl, 0.07648),
            (Format::Q2K, 0.27856),
            (Format::Q3K, 0.14708),
            (Format::Q4K, 0.06983),
            (Format::Q5K, 0.03442),
            (Format::Q6K, 0.01788),
        ] {
            let found = rows.iter().map(|x| lost(format, *x)).sum::<f64>() / rows.len() as f64;
            assert!(found < reference, "{} loses {found:.5}, the reference {reference}", format.name());
            assert!(found > 0.8 * reference, "{} cannot lose so little as {found:.5}", format.name());
        }
    }

    /// A group's numbers come back within a step of its scale, which its range and the rounding of scales allow.
    #[test]
    fn no_number_is_off_by_more_than_a_step() {
        let mut state = 9u32;
        let mut unit = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); // Numerical Recipes
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        // Steps of the range in a group, and how much coarser the rounding of a group's scale and minimum may make them.
        for (format, group, steps, slack) in [
            (Format::Q8_0, 32, 254.0, 1.01),
            (Format::Q4_0, 32, 15.0, 1.2),
            (Format::Q4_1, 32, 15.0, 1.01),
            (Format::Q5_0, 32, 31.0, 1.1),
            (Format::Q5_1, 32, 31.0, 1.01),
            (Format::Q2K, 16, 3.0, 2.0),
            (Format::Q3K, 16, 7.0, 1.5),
            (Format::Q4K, 32, 15.0, 2.0),
            (Format::Q5K, 32, 31.0, 3.0),
            (Format::Q6K, 16, 63.0, 1.5),
            (Format::Iq4Nl, 32, 9.0, 1.2),
            (Format::Iq4Xs, 32, 9.0, 1.3),
            (Format::Mxfp4, 32, 6.0, 1.01),
        ] {
            for round in 0..200 {
                let x: Vec<f32> = (0..256).map(|_| unit() * 0.1 + 0.01 * (round % 7) as f32).collect();
                let back = read(format, &quantized(format, &x));
                for (x, back) in x.chunks(group).zip(back.chunks(group)) {
                    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                    let bound = 2.0 * most / steps * slack;
                    for (x, back) in x.iter().zip(back) {
                        assert!((x - back).abs() <= bound, "{}: {x} became {back}, bound {bound}", format.name());
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_the_largest_stay_finite() {
        for format in Format::ALL {
            let zeros = read(format, &quantized(format, &[0.0; 256]));
            assert!(zeros.iter().all(|x| *x == 0.0), "{}", format.name());
            for (a, b) in [(65504.0, 65504.0), (65504.0, -65504.0), (-65504.0, 1e-30), (1e-42, -1e-44), (1e-7, 0.0)] {
                let x: Vec<f32> = (0..256).map(|i| if i % 3 == 0 { a } else { b }).collect();
                let back = read(format, &quantized(format, &x));
                let most = f32::max(a.abs(), b.abs());
                for (x, back) in x.iter().zip(&back) {
                    assert!((x - back).abs() <= 0.35 * most.max(1e-6), "{}: {x} became {back}", format.name());
                }
            }
        }
    }
}
