//! Keys and values of one sequence in the order in which attention reads them.
//!
//! A [`Chunk`] holds [`CHUNK_ROWS`] rows of one layer, head after head. A head's keys are transposed, (head_dim, rows), so
//! that one vector holds the same element of sixteen keys and scores need no sums across lanes; its values are (rows,
//! head_dim padded with zeros to whole vectors). Whatever a chunk stores them as, attention computes with the `f32` that
//! [`Chunk::read`] returns: half precision is widened exactly, and a quantised number, eight bits times the eleven of its
//! scale, is an `f32` without rounding.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use half::f16;
use half::slice::HalfBitsSliceExt;

use super::lanes::{Element, Half, LANES, Lanes};
use super::tiers::prefetch;

/// Rows of a chunk, and the keys that attention looks at together. 64 rows of a 768-wide model are 384 KB: a chunk border
/// costs nothing beside the rows in it, and a fork's one copied chunk does not matter.
pub const CHUNK_ROWS: usize = 64;

/// Neighbouring elements of a row that share a scale when they are quantised.
const SCALED: usize = 32;

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheType {
    /// 32-bit floats: nothing is lost.
    #[default]
    F32,
    /// Half precision; numbers beyond ±65504 become that.
    F16,
    /// Eight bits each, and for every 32 elements of a head one scale in half precision.
    Q8_0,
}

impl CacheType {
    /// All of them.
    pub const ALL: [CacheType; 3] = [CacheType::F32, CacheType::F16, CacheType::Q8_0];

    /// `f32`, `f16` or `q8_0`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CacheType::F32 => "f32",
            CacheType::F16 => "f16",
            CacheType::Q8_0 => "q8_0",
        }
    }

    /// About the bytes that so many numbers take.
    #[must_use]
    pub fn bytes(self, numbers: usize) -> usize {
        match self {
            CacheType::F32 => 4 * numbers,
            CacheType::F16 => 2 * numbers,
            CacheType::Q8_0 => numbers + numbers.div_ceil(SCALED) * size_of::<f16>(),
        }
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<CacheType, String> {
        let found = CacheType::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| format!("expected `f32`, `f16` or `q8_0`, found `{text}`"))
    }
}

/// What a chunk is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// What numbers are stored as.
    pub kind: CacheType,
    /// Heads in a row.
    pub n_kv_heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
}

impl CacheShape {
    /// Vectors in a row of values.
    pub(super) fn vectors(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Numbers that [`Head::keys`] and [`Head::values`] need room for.
    pub(super) fn wide_len(&self) -> usize {
        CHUNK_ROWS * (self.vectors() * LANES + self.scales())
    }

    fn keys_len(&self) -> usize {
        self.head_dim * CHUNK_ROWS
    }

    fn head_len(&self) -> usize {
        self.keys_len() + CHUNK_ROWS * self.vectors() * LANES
    }

    /// Scales of a row, and of all keys or all values of a head.
    fn scales(&self) -> usize {
        self.head_dim.div_ceil(SCALED)
    }
}

/// [`CHUNK_ROWS`] rows of keys and values of one layer.
#[derive(Clone, Debug)]
pub struct Chunk {
    shape: CacheShape,
    data: Data,
}

/// Of each head the keys (head_dim, rows), then the values (rows, vectors, LANES); of each head the scales of the keys
/// (scales, rows), then those of the values (rows, scales).
#[derive(Clone, Debug)]
enum Data {
    F32(Aligned<f32>),
    F16(Aligned<u16>),
    Q8_0(Aligned<i8>, Aligned<u16>),
}

/// One head of a chunk.
#[derive(Clone, Copy)]
pub(super) enum Head<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Q8_0(&'a [i8], &'a [u16]),
}

/// One head of a chunk, to be written.
pub(super) struct HeadMut<'a> {
    shape: CacheShape,
    data: DataMut<'a>,
}

enum DataMut<'a> {
    F32(&'a mut [f32]),
    F16(&'a mut [u16]),
    Q8_0(&'a mut [i8], &'a mut [u16]),
}

impl Chunk {
    /// A chunk of zeros, whose memory is touched only where rows are written.
    #[must_use]
    pub fn new(shape: CacheShape) -> Chunk {
        let (len, scales) = (shape.n_kv_heads * shape.head_len(), 2 * shape.n_kv_heads * shape.scales() * CHUNK_ROWS);
        let data = match shape.kind {
            CacheType::F32 => Data::F32(Aligned::zeros(len)),
            CacheType::F16 => Data::F16(Aligned::zeros(len)),
            CacheType::Q8_0 => Data::Q8_0(Aligned::zeros(len), Aligned::zeros(scales)),
        };
        Chunk { shape, data }
    }

    /// What it was made for.
    #[must_use]
    pub fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Its numbers as bytes, for a file: those of the data, and of what is quantised the scales behind them.
    #[must_use]
    pub fn parts(&self) -> Vec<&[u8]> {
        match &self.data {
            Data::F32(data) => vec![bytemuck::cast_slice(data)],
            Data::F16(data) => vec![bytemuck::cast_slice(data)],
            Data::Q8_0(data, scales) => vec![bytemuck::cast_slice(data), bytemuck::cast_slice(scales)],
        }
    }

    /// The same, to be filled.
    pub fn parts_mut(&mut self) -> Vec<&mut [u8]> {
        match &mut self.data {
            Data::F32(data) => vec![bytemuck::cast_slice_mut(data)],
            Data::F16(data) => vec![bytemuck::cast_slice_mut(data)],
            Data::Q8_0(data, scales) => vec![bytemuck::cast_slice_mut(data), bytemuck::cast_slice_mut(scales)],
        }
    }

    pub(super) fn head(&self, kv_head: usize) -> Head<'_> {
        let (len, scales) = (self.shape.head_len(), 2 * self.shape.scales() * CHUNK_ROWS);
        match &self.data {
            Data::F32(data) => Head::F32(&data[kv_head * len..][..len]),
            Data::F16(data) => Head::F16(&data[kv_head * len..][..len]),
            Data::Q8_0(data, all) => Head::Q8_0(&data[kv_head * len..][..len], &all[kv_head * scales..][..scales]),
        }
    }

    pub(super) fn heads_mut(&mut self) -> impl Iterator<Item = HeadMut<'_>> {
        let shape = self.shape;
        let (len, scales) = (shape.head_len(), 2 * shape.scales() * CHUNK_ROWS);
        let mut rest = match &mut self.data {
            Data::F32(data) => DataMut::F32(data),
            Data::F16(data) => DataMut::F16(data),
            Data::Q8_0(data, all) => DataMut::Q8_0(data, all),
        };
        (0..shape.n_kv_heads).map(move |_| {
            let data = match &mut rest {
                DataMut::F32(rest) => DataMut::F32(split_off(rest, len)),
                DataMut::F16(rest) => DataMut::F16(split_off(rest, len)),
                DataMut::Q8_0(rest, all) => DataMut::Q8_0(split_off(rest, len), split_off(all, scales)),
            };
            HeadMut { shape, data }
        })
    }

    /// Stores rows that are complete already, each (n_kv_heads * head_dim), from row `first` on. Portable and plain: what
    /// the reference path uses.
    pub fn write(&mut self, first: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shape;
        let width = shape.n_kv_heads * shape.head_dim;
        for (kv_head, mut head) in self.heads_mut().enumerate() {
            for (row, (keys, values)) in keys.chunks_exact(width).zip(values.chunks_exact(width)).enumerate() {
                let part = kv_head * shape.head_dim..(kv_head + 1) * shape.head_dim;
                head.store(first + row, &keys[part.clone()], &values[part]);
            }
        }
    }

    /// Row `row`, as (n_kv_heads * head_dim) keys and values: the numbers that attention computes with.
    #[must_use]
    pub fn read(&self, row: usize) -> (Vec<f32>, Vec<f32>) {
        let CacheShape { n_kv_heads, head_dim, .. } = self.shape;
        let scales = self.shape.scales();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for kv_head in 0..n_kv_heads {
            for i in 0..head_dim {
                let key = i * CHUNK_ROWS + row;
                let value = self.shape.keys_len() + row * self.shape.vectors() * LANES + i;
                let key_scale = i / SCALED * CHUNK_ROWS + row;
                let value_scale = (CHUNK_ROWS + row) * scales + i / SCALED;
                let number = |at: usize, scale: usize| match self.head(kv_head) {
                    Head::F32(data) => data[at],
                    Head::F16(data) => f16::from_bits(data[at]).to_f32(),
                    Head::Q8_0(data, scales) => f32::from(data[at]) * f16::from_bits(scales[scale]).to_f32(),
                };
                keys.push(number(key, key_scale));
                values.push(number(value, value_scale));
            }
        }
        (keys, values)
    }
}

impl HeadMut<'_> {
    /// The same head, to be read.
    pub(super) fn view(&self) -> Head<'_> {
        match &self.data {
            DataMut::F32(data) => Head::F32(data),
            DataMut::F16(data) => Head::F16(data),
            DataMut::Q8_0(data, scales) => Head::Q8_0(data, scales),
        }
    }

    /// Stores one row of this head.
    #[inline(always)]
    pub(super) fn store(&mut self, row: usize, key: &[f32], value: &[f32]) {
        let shape = self.shape;
        match &mut self.data {
            DataMut::F32(data) => {
                for (to, key) in data[..shape.keys_len()].chunks_exact_mut(CHUNK_ROWS).zip(key) {
                    to[row] = *key;
                }
            }
            DataMut::F16(data) => {
                for (to, key) in data[..shape.keys_len()].chunks_exact_mut(CHUNK_ROWS).zip(key) {
                    to[row] = narrow(*key);
                }
            }
            DataMut::Q8_0(data, scales) => {
                let columns = data[..shape.keys_len()].chunks_mut(SCALED * CHUNK_ROWS);
                for ((to, scales), key) in columns.zip(scales.chunks_exact_mut(CHUNK_ROWS)).zip(key.chunks(SCALED)) {
                    let mut quants = [0; SCALED];
                    scales[row] = quantize(key, &mut quants);
                    for (to, quant) in to.chunks_exact_mut(CHUNK_ROWS).zip(quants) {
                        to[row] = quant;
                    }
                }
            }
        }
        self.store_value(row, value);
    }

    /// Stores sixteen rows from row `first` on, a multiple of sixteen, with the keys transposed: (head_dim, LANES).
    #[inline(always)]
    pub(super) fn store_keys(&mut self, first: usize, keys: &[[f32; LANES]]) {
        let (shape, column) = (self.shape, first / LANES);
        match &mut self.data {
            DataMut::F32(data) => {
                let to = data.as_chunks_mut::<LANES>().0.as_chunks_mut::<KEY_VECTORS>().0;
                for (to, keys) in to.iter_mut().zip(keys) {
                    to[column] = *keys;
                }
            }
            DataMut::F16(data) => {
                let to = data.as_chunks_mut::<LANES>().0.as_chunks_mut::<KEY_VECTORS>().0;
                for (to, keys) in to.iter_mut().zip(keys) {
                    for i in 0..LANES {
                        to[column][i] = narrow(keys[i]);
                    }
                }
            }
            DataMut::Q8_0(data, scales) => {
                let to = data[..shape.keys_len()].as_chunks_mut::<LANES>().0.as_chunks_mut::<KEY_VECTORS>().0;
                let scales = scales.as_chunks_mut::<LANES>().0.as_chunks_mut::<KEY_VECTORS>().0;
                for ((to, scales), keys) in to.chunks_mut(SCALED).zip(scales).zip(keys.chunks(SCALED)) {
                    let mut largest = [0; LANES];
                    for keys in keys {
                        for i in 0..LANES {
                            largest[i] = magnitude_bits(keys[i]).max(largest[i]);
                        }
                    }
                    let mut inverse = [0.0; LANES];
                    for i in 0..LANES {
                        (scales[column][i], inverse[i]) = scale_of(largest[i]);
                    }
                    for (to, keys) in to.iter_mut().zip(keys) {
                        for i in 0..LANES {
                            to[column][i] = quant(keys[i], inverse[i]);
                        }
                    }
                }
            }
        }
    }

    /// Stores one row of values.
    #[inline(always)]
    pub(super) fn store_value(&mut self, row: usize, value: &[f32]) {
        let shape = self.shape;
        let at = shape.keys_len() + row * shape.vectors() * LANES;
        match &mut self.data {
            DataMut::F32(data) => data[at..][..value.len()].copy_from_slice(value),
            DataMut::F16(data) => {
                for (to, value) in data[at..].iter_mut().zip(value) {
                    *to = narrow(*value);
                }
            }
            DataMut::Q8_0(data, scales) => {
                let scales = &mut scales[(CHUNK_ROWS + row) * shape.scales()..];
                for ((to, scale), value) in data[at..].chunks_mut(SCALED).zip(scales).zip(value.chunks(SCALED)) {
                    let mut quants = [0; SCALED];
                    *scale = quantize(value, &mut quants);
                    to[..value.len()].copy_from_slice(&quants[..value.len()]);
                }
            }
        }
    }
}

/// The first `len` elements of what is left.
fn split_off<'a, T>(rest: &mut &'a mut [T], len: usize) -> &'a mut [T] {
    let (part, later) = std::mem::take(rest).split_at_mut(len);
    *rest = later;
    part
}

/// Up to 32 numbers as eight bits each; returns their scale.
#[inline(always)]
fn quantize(x: &[f32], quants: &mut [i8; SCALED]) -> u16 {
    let mut largest = 0;
    for x in x {
        largest = magnitude_bits(*x).max(largest);
    }
    let (scale, inverse) = scale_of(largest);
    for (to, x) in quants.iter_mut().zip(x) {
        *to = quant(*x, inverse);
    }
    scale
}

/// Ordered like magnitudes, with NaN above all.
#[inline(always)]
fn magnitude_bits(x: f32) -> u32 {
    x.to_bits() & (u32::MAX >> 1)
}

/// The scale of numbers of which the largest has these bits, and its inverse. Where one is not finite the scale is NaN, so
/// that whoever reads the row sees it.
#[inline(always)]
fn scale_of(largest: u32) -> (u16, f32) {
    let scale = narrow(f32::from_bits(largest) / 127.0);
    // Widening must not ask for the CPU's features, as `half`'s own conversion does.
    let step = Element::widen(f16::from_bits(scale));
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    (if largest >= f32::INFINITY.to_bits() { f16::NAN.to_bits() } else { scale }, inverse)
}

#[inline(always)]
fn quant(x: f32, inverse: f32) -> i8 {
    /// Adding it rounds to the nearest integer, ties to even, and leaves that in the low bits: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    let x = x * inverse;
    // Beyond, where the scale was rounded down or is the largest there is.
    let x = if x > 127.0 { 127.0 } else { x };
    let x = if x < -127.0 { -127.0 } else { x };
    (x + ROUND).to_bits() as i8
}

/// The nearest number in half precision, ties to even; ±65504 instead of an infinity, NaN for NaN. Without branches, so
/// that loops over it vectorise.
#[inline(always)]
fn narrow(x: f32) -> u16 {
    /// 2^-14, the smallest normal number of half precision.
    const NORMAL: f32 = 6.103_515_6e-5;
    /// Adding it leaves a subnormal number's bits at the end of the fraction: 0.5 has steps of 2^-24.
    const STEPS: f32 = 0.5;
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let magnitude = f32::from_bits(bits & (u32::MAX >> 1));
    let clamped = if magnitude > 65504.0 { 65504.0 } else { magnitude }; // NaN stays
    let bits = clamped.to_bits();
    // To the bias of half precision, and half a step, less one bit where the result would end in a zero bit.
    let normal = bits.wrapping_sub((127 - 15) << 23).wrapping_add(0xfff + ((bits >> 13) & 1)) >> 13;
    let subnormal = (clamped + STEPS).to_bits().wrapping_sub(STEPS.to_bits());
    let half = if clamped < NORMAL { subnormal } else { normal };
    let half = if clamped.is_nan() { 0x7e00 } else { half };
    (sign | half) as u16
}

impl<'a> Head<'a> {
    /// Vectors `columns` of the four in each row of keys, (head_dim, 4, LANES), of which the others may be anything. What
    /// is not stored as `f32` is widened to `wide`, while the same of `next` is asked for.
    #[inline(always)]
    pub(super) fn keys<H: Half>(
        self,
        shape: &CacheShape,
        columns: Range<usize>,
        next: Option<Head<'_>>,
        wide: &'a mut [f32],
    ) -> &'a [[[f32; LANES]; KEY_VECTORS]] {
        let len = shape.keys_len();
        match self {
            Head::F32(data) => return rows_of(&data[..len]),
            Head::F16(data) => {
                let ahead = elements_to(data, next.and_then(Head::halves));
                let from: &[H] = H::view(data[..len].reinterpret_cast());
                let from = from.as_chunks::<LANES>().0.as_chunks::<KEY_VECTORS>().0;
                for (to, from) in rows_of_mut(&mut wide[..len]).iter_mut().zip(from) {
                    // A row of keys is 128 bytes.
                    prefetch(&from[0], ahead);
                    prefetch(&from[2], ahead);
                    for v in 0..KEY_VECTORS {
                        if columns.contains(&v) {
                            to[v] = H::widen_lanes(&from[v]).0;
                        }
                    }
                }
            }
            Head::Q8_0(data, scales) => {
                let ahead = elements_to(data, next.and_then(Head::quants));
                ask_for_scales(next);
                let from = data[..len].as_chunks::<LANES>().0.as_chunks::<KEY_VECTORS>().0;
                let scales: &[H] = H::view(scales[..shape.scales() * CHUNK_ROWS].reinterpret_cast());
                let scales = scales.as_chunks::<LANES>().0.as_chunks::<KEY_VECTORS>().0;
                let to = rows_of_mut(&mut wide[..len]).chunks_mut(SCALED);
                for ((to, from), scales) in to.zip(from.chunks(SCALED)).zip(scales) {
                    let mut wide = [Lanes::ZERO; KEY_VECTORS];
                    for v in 0..KEY_VECTORS {
                        wide[v] = H::widen_lanes(&scales[v]);
                    }
                    for (to, from) in to.iter_mut().zip(from) {
                        prefetch(&from[0], ahead);
                        for v in 0..KEY_VECTORS {
                            if columns.contains(&v) {
                                to[v] = scaled(&from[v], wide[v]);
                            }
                        }
                    }
                }
            }
        }
        rows_of(&wide[..len])
    }

    /// Rows `rows` of the values, (rows, vectors), likewise.
    #[inline(always)]
    pub(super) fn values<H: Half>(
        self,
        shape: &CacheShape,
        rows: Range<usize>,
        next: Option<Head<'_>>,
        wide: &'a mut [f32],
    ) -> &'a [[f32; LANES]] {
        let width = shape.vectors() * LANES;
        let part = shape.keys_len() + rows.start * width..shape.keys_len() + rows.end * width;
        let (wide, wide_scales) = wide.split_at_mut(CHUNK_ROWS * width);
        let wide = &mut wide[..part.len()];
        match self {
            Head::F32(data) => return data[part].as_chunks().0,
            Head::F16(data) => {
                let ahead = elements_to(data, next.and_then(Head::halves));
                let from: &[H] = H::view(data[part].reinterpret_cast());
                let (to, from) = (wide.as_chunks_mut::<LANES>().0, from.as_chunks::<LANES>().0);
                for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
                    if i % 2 == 0 {
                        prefetch(from, ahead);
                    }
                    *to = H::widen_lanes(from).0;
                }
            }
            Head::Q8_0(data, scales) => {
                let ahead = elements_to(data, next.and_then(Head::quants));
                // All scales at once, sixteen to an instruction.
                let from: &[H] = H::view(scales[CHUNK_ROWS * shape.scales()..].reinterpret_cast());
                for (to, from) in wide_scales.as_chunks_mut::<LANES>().0.iter_mut().zip(from.as_chunks::<LANES>().0) {
                    *to = H::widen_lanes(from).0;
                }
                let scales = wide_scales[rows.start * shape.scales()..].chunks_exact(shape.scales());
                let (to, from) = (wide.as_chunks_mut::<LANES>().0, data[part].as_chunks::<LANES>().0);
                let vectors = shape.vectors();
                let rows = to.chunks_exact_mut(vectors).zip(from.chunks_exact(vectors));
                for ((to, from), scales) in rows.zip(scales) {
                    for (i, (to, from)) in to.iter_mut().zip(from).enumerate() {
                        if i % 4 == 0 {
                            prefetch(from, ahead);
                        }
                        *to = scaled(from, Lanes([scales[i * LANES / SCALED]; LANES]));
                    }
                }
            }
        }
        wide.as_chunks().0
    }

    /// How far ahead of the keys of an `f32` head its values lie, and ahead of those the keys of the next one.
    pub(super) fn ahead(self, shape: &CacheShape, next: Option<Head<'_>>) -> (usize, usize) {
        match self {
            Head::F32(data) => {
                let next = next.and_then(|next| if let Head::F32(data) = next { Some(data) } else { None });
                let to_next = elements_to(data, next);
                (shape.keys_len(), if to_next == 0 { 0 } else { to_next.wrapping_sub(shape.keys_len()) })
            }
            _ => (0, 0),
        }
    }

    fn halves(self) -> Option<&'a [u16]> {
        if let Head::F16(data) = self { Some(data) } else { None }
    }

    fn quants(self) -> Option<&'a [i8]> {
        if let Head::Q8_0(data, _) = self { Some(data) } else { None }
    }
}

/// The distance from `here` to `next` for [`prefetch`], none without a next.
fn elements_to<T>(here: &[T], next: Option<&[T]>) -> usize {
    // A difference below zero wraps around, and so does the address that it is added to.
    let distance = |next: &[T]| (next.as_ptr() as isize - here.as_ptr() as isize) / size_of::<T>() as isize;
    next.map_or(0, |next| distance(next) as usize)
}

#[inline(always)]
fn ask_for_scales(next: Option<Head<'_>>) {
    if let Some(Head::Q8_0(_, scales)) = next {
        for line in scales.as_chunks::<32>().0 {
            prefetch(line, 0);
        }
    }
}

/// Sixteen quantised numbers times their scales.
#[inline(always)]
fn scaled(from: &[i8; LANES], scales: Lanes) -> [f32; LANES] {
    let mut to = [0.0; LANES];
    for i in 0..LANES {
        to[i] = f32::from(from[i]) * scales.0[i];
    }
    to
}

/// Vectors that hold one element of all keys of a chunk.
pub(super) const KEY_VECTORS: usize = CHUNK_ROWS / LANES;

fn rows_of(keys: &[f32]) -> &[[[f32; LANES]; KEY_VECTORS]] {
    keys.as_chunks().0.as_chunks().0
}

fn rows_of_mut(keys: &mut [f32]) -> &mut [[[f32; LANES]; KEY_VECTORS]] {
    keys.as_chunks_mut().0.as_chunks_mut().0
}

/// Numbers that begin at a cache line, so that no load of a whole vector crosses one.
#[derive(Debug, Default)]
pub(super) struct Aligned<T> {
    numbers: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub(super) fn zeros(len: usize) -> Aligned<T> {
        const LINE: usize = 64;
        let spare = LINE / size_of::<T>();
        // Zeroed by the system where it is large, and so not touched yet.
        let numbers = vec![T::default(); len + spare];
        let start = numbers.as_ptr().align_offset(LINE).min(spare);
        Aligned { numbers, start, len }
    }
}

impl<T: Copy + Default> Clone for Aligned<T> {
    fn clone(&self) -> Aligned<T> {
        let mut copy = Aligned::zeros(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl<T> std::ops::Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.numbers[self.start..][..self.len]
    }
}

impl<T> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.numbers[self.start..][..self.len]
    }
}
