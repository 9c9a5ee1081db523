//! Random products: any kind of weights, shape, operand and way of calling, checked in every tier.

use half::{bf16, f16};

use super::arena::{Arena, Edge};
use super::decode::{Weight, decode};
use super::*;

/// What a product is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    Blocks(Format),
}

/// All kernels of products: weights and their layout.
pub(super) fn kinds() -> Vec<(Kind, Layout)> {
    let dense = [Kind::F32, Kind::F16, Kind::Bf16].into_iter().flat_map(|kind| {
        [(kind, Layout::OutIn), (kind, Layout::InOut)] // (outputs, inputs), then as Conv1D has it
    });
    dense.chain(Format::ALL.map(|format| (Kind::Blocks(format), Layout::OutIn))).collect()
}

pub(super) fn name(kind: Kind, layout: Layout) -> String {
    match kind {
        Kind::Blocks(format) => format.name().to_owned(),
        _ => format!("{kind:?}-{layout:?}").to_lowercase(),
    }
}

impl Kind {
    /// Inputs come in multiples of it.
    pub(super) fn unit(self) -> usize {
        if let Kind::Blocks(format) = self { format.block_len() } else { 1 }
    }
}

/// What the numbers are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    /// Evenly from -1 to 1.
    Tame,
    /// Of many magnitudes.
    Wild,
    /// Mostly zeros of both signs.
    Sparse,
    /// All at the ends of their range, in signs that add up.
    Full,
    /// Next to nothing: below the normal numbers, or about to be.
    Tiny,
    /// Infinities and NaNs among them.
    NotFinite,
}

impl Values {
    pub(super) fn any(numbers: &mut Numbers) -> Values {
        match numbers.below(16) {
            0..=7 => Values::Tame,
            8..=10 => Values::Wild,
            11 => Values::Sparse,
            12 | 13 => Values::Full,
            14 => Values::Tiny,
            _ => Values::NotFinite,
        }
    }

    pub(super) fn floats(self, numbers: &mut Numbers, len: usize) -> Vec<f32> {
        match self {
            Values::Tame => numbers.many(len),
            Values::Wild => numbers.wild(len),
            Values::Sparse => (0..len).map(|_| [0.0, -0.0, 0.0, 1.0][numbers.below(4)]).collect(),
            Values::Full => {
                let sign = [1.0, -1.0][numbers.below(2)];
                let flips = numbers.below(3) == 0;
                (0..len).map(|_| if flips { [1.0, -1.0][numbers.below(2)] } else { sign }).collect()
            }
            Values::Tiny => {
                // Denormals, and around what a unit's largest number must reach.
                let exponent = [-149, -140, -130, -126, -120, -118, -117, -100][numbers.below(8)];
                (0..len)
                    .map(|_| (numbers.unit() * 4.0) * (exponent as f32 / 2.0).exp2() * (exponent as f32 / 2.0).exp2())
                    .collect()
            }
            Values::NotFinite => {
                let mut floats = numbers.many(len);
                for _ in 0..=numbers.below(3) {
                    let at = numbers.below(len);
                    floats[at] = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, f32::MAX][numbers.below(5)];
                }
                floats
            }
        }
    }

    /// Blocks whose quants are `self` and whose scales are, too.
    pub(super) fn blocks(self, numbers: &mut Numbers, format: Format, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..format.bytes(len)).map(|_| numbers.next() as u8).collect();
        if self == Values::Full {
            // All bits or none, or the numbers furthest from zero.
            let fill = [0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0][numbers.below(6)];
            bytes.fill(fill);
        }
        let scales: &[usize] = match format {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
            Format::Q2K => &[80, 82],
            Format::Q3K => &[108],
            Format::Q6K => &[208],
            Format::Mxfp4 => &[],
        };
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for at in scales {
                let scale = match self {
                    Values::Tame => f16::from_f32(numbers.unit() * 0.1),
                    Values::Wild => f16::from_f32(numbers.unit() * (numbers.below(24) as f32 - 14.0).exp2()),
                    Values::Sparse => f16::from_f32([0.0, -0.0, 1.0][numbers.below(3)]),
                    Values::Full => [f16::MAX, f16::MIN, f16::ONE][numbers.below(3)],
                    Values::Tiny => f16::from_bits(numbers.next() as u16 & 0x83ff),
                    Values::NotFinite => f16::from_bits(numbers.next() as u16),
                };
                block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            if format == Format::Mxfp4 {
                block[0] = match self {
                    Values::Tame => 120 + numbers.below(8) as u8,
                    Values::Wild => 100 + numbers.below(40) as u8,
                    Values::Sparse | Values::Tiny => numbers.below(4) as u8,
                    Values::Full => 200,
                    Values::NotFinite => numbers.next() as u8,
                };
            }
        }
        bytes
    }
}

/// The weights of one part.
enum Weights {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Blocks(Format, Vec<u8>),
}

impl Weights {
    fn new(kind: Kind, values: Values, numbers: &mut Numbers, len: usize) -> Weights {
        match kind {
            Kind::F32 => Weights::F32(values.floats(numbers, len)),
            Kind::F16 => Weights::F16(values.floats(numbers, len).into_iter().map(f16::from_f32).collect()),
            Kind::Bf16 => Weights::Bf16(values.floats(numbers, len).into_iter().map(bf16::from_f32).collect()),
            Kind::Blocks(format) => Weights::Blocks(format, values.blocks(numbers, format, len)),
        }
    }

    /// As numbers.
    fn decoded(&self) -> Vec<Weight> {
        let exact = |scaled| Weight { scaled, min: 0.0 };
        match self {
            Weights::F32(w) => w.iter().map(|w| exact(f64::from(*w))).collect(),
            Weights::F16(w) => w.iter().map(|w| exact(w.to_f64())).collect(),
            Weights::Bf16(w) => w.iter().map(|w| exact(w.to_f64())).collect(),
            Weights::Blocks(format, w) => {
                w.chunks_exact(format.block_bytes()).flat_map(|block| decode(*format, block)).collect()
            }
        }
    }

    fn put<'a>(&self, arena: &'a mut Arena, edge: Edge) -> Slice<'a> {
        match self {
            Weights::F32(w) => Slice::F32(arena.put(edge, w)),
            Weights::F16(w) => Slice::F16(arena.put(edge, w)),
            Weights::Bf16(w) => Slice::Bf16(arena.put(edge, w)),
            Weights::Blocks(format, w) => Slice::Blocks(*format, arena.put(edge, w)),
        }
    }
}

/// What is done to x first.
enum First {
    Nothing,
    LayerNorm(Vec<f32>, Vec<f32>),
    RmsNorm(Vec<f32>),
    Activation(Activation),
    Gated(Activation),
}

impl First {
    fn any(numbers: &mut Numbers, inputs: usize) -> First {
        let activation = [Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu, Activation::Tanh]
            [numbers.below(5)];
        match numbers.below(8) {
            0 => First::LayerNorm(numbers.many(inputs), numbers.many(inputs)),
            1 => First::RmsNorm(numbers.many(inputs)),
            2 => First::Activation(activation),
            3 => First::Gated(activation),
            _ => First::Nothing,
        }
    }

    fn before(&self) -> Before<'_> {
        match self {
            First::Nothing => Before::Nothing,
            First::LayerNorm(weight, bias) => Before::LayerNorm { weight, bias, eps: 1e-5 },
            First::RmsNorm(weight) => Before::RmsNorm { weight, eps: 1e-6 },
            First::Activation(activation) => Before::Activation(*activation),
            First::Gated(activation) => Before::Gated(*activation),
        }
    }
}

/// Memory that cases are laid into, one after the other.
pub(super) struct Memory {
    weights: Vec<Arena>,
    x: Arena,
    residual: Arena,
    biases: Vec<Arena>,
    pools: Vec<Pool>,
}

/// The most parts of a case.
const PARTS: usize = 3;

impl Memory {
    pub(super) fn new() -> Memory {
        let arenas = || (0..PARTS).map(|_| Arena::new(1 << 18)).collect();
        Memory {
            weights: arenas(),
            x: Arena::new(1 << 18),
            residual: Arena::new(1 << 18),
            biases: arenas(),
            pools: if cfg!(miri) { [1, 2, 2, 2] } else { [1, 2, 3, 8] }.map(pool).into(),
        }
    }
}

/// One product.
pub(super) struct Case {
    what: String,
    layout: Layout,
    rows: usize,
    inputs: usize,
    parts: Vec<(Weights, usize, Option<Vec<f32>>)>,
    first: First,
    x: Vec<f32>,
    residual: Option<Vec<f32>>,
    edge: Edge,
    /// Which of the pools.
    threads: usize,
    /// How far tiers may differ: `vdpbf16ps` takes what lies below the normal numbers for zero.
    flushed: f32,
    /// Rows that are multiplied once more by themselves.
    again: std::ops::Range<usize>,
}

/// The size of a case.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Sizes {
    /// Small, around the edges of blocks and tiles, and such that a million cases take minutes.
    pub(super) fn any(numbers: &mut Numbers, kind: Kind) -> Sizes {
        if cfg!(miri) {
            let inputs = if kind.unit() == 1 { 1 + numbers.below(20) } else { kind.unit() };
            return Sizes { rows: 1 + numbers.below(3), inputs, outputs: 1 + numbers.below(12) };
        }
        let rows = match numbers.below(16) {
            0..=7 => 1,
            8..=12 => 1 + numbers.below(8),
            13 | 14 => 1 + numbers.below(20),
            _ => 1 + numbers.below(40),
        };
        let outputs = match numbers.below(8) {
            0..=3 => 1 + numbers.below(20),
            4 | 5 => 1 + numbers.below(40),
            6 => 16 * (1 + numbers.below(4)) + numbers.below(3) - 1,
            _ => 1 + numbers.below(70),
        };
        let units = match kind.unit() {
            1 => [1 + numbers.below(20), 1 + numbers.below(70), 16 * (1 + numbers.below(6)) + numbers.below(3) - 1]
                [numbers.below(3)],
            32 => 1 + [numbers.below(4), numbers.below(12)][numbers.below(2)],
            _ => 1 + numbers.below(8) / 7,
        };
        Sizes { rows, inputs: units * kind.unit(), outputs }
    }
}

impl Case {
    /// The case of this seed.
    pub(super) fn random(seed: u64, kind: Kind, layout: Layout) -> Case {
        let mut numbers = Numbers(seed);
        let sizes = Sizes::any(&mut numbers, kind);
        let (w, x) = (Values::any(&mut numbers), Values::any(&mut numbers));
        Case::new(seed, kind, layout, sizes, w, x)
    }

    /// A case of this size, with weights and rows of x like these.
    pub(super) fn new(seed: u64, kind: Kind, layout: Layout, sizes: Sizes, w: Values, x: Values) -> Case {
        let Sizes { rows, inputs, outputs } = sizes;
        let mut numbers = Numbers(seed ^ 0x5851_f42d_4c95_7f2d);
        let mut parts = Vec::new();
        let count = if numbers.below(8) == 0 { 1 + numbers.below(PARTS) } else { 1 };
        for i in 0..count {
            // The first is of the kind that was asked for, the others of any that takes as many inputs.
            let mut kind = kind;
            if i > 0 {
                let other = kinds()[numbers.below(kinds().len())];
                if other.1 == layout && inputs.is_multiple_of(other.0.unit()) {
                    kind = other.0;
                }
            }
            let outputs = if i == 0 { outputs } else { 1 + numbers.below(24) };
            let bias = (numbers.below(2) == 0).then(|| numbers.many(outputs));
            parts.push((Weights::new(kind, w, &mut numbers, inputs * outputs), outputs, bias));
        }
        let all: usize = parts.iter().map(|(_, outputs, _)| outputs).sum();
        let first = First::any(&mut numbers, inputs);
        let wide = if let First::Gated(_) = first { 2 * inputs } else { inputs };
        // Infinity times a number that `vdpbf16ps` takes for zero is another thing.
        let x = if w == Values::Tiny && x == Values::NotFinite { Values::Tame } else { x };
        // Rows unlike each other, so that one cannot stand in for another.
        let rows_of_x: Vec<f32> = (0..rows).flat_map(|_| x.floats(&mut numbers, wide)).collect();
        let residual = (numbers.below(2) == 0).then(|| numbers.many(rows * all));
        let start = numbers.below(rows);
        let again = start..start + 1 + numbers.below(rows - start);
        let threads = if numbers.below(16) == 0 { 1 + numbers.below(3) } else { 0 };
        let edge = Edge::any(&mut numbers);
        let bf16 = parts.iter().any(|(w, ..)| matches!(w, Weights::Bf16(_)));
        let flushed = if bf16 && [w, x].contains(&Values::Tiny) {
            // Numbers that are multiplied grow to their square at most, in gates, or to the root of their count, in norms.
            let largest = rows_of_x.iter().fold(8.0f32, |largest, x| largest.max(x.abs()));
            2.0 * inputs as f32 * f32::MIN_POSITIVE * largest * largest
        } else {
            0.0
        };
        let what = format!(
            "{} of {count}: {rows} rows, {inputs} inputs, {all} outputs, weights {w:?}, x {x:?}, {edge:?}, before {:?}, \
             pool {threads}, seed {seed:#x}",
            name(kind, layout),
            std::mem::discriminant(&first.before()),
        );
        Case { what, layout, rows, inputs, parts, first, x: rows_of_x, residual, edge, threads, flushed, again }
    }

    /// Calls `with` with everything at an edge of readable memory; `rows` of x and the residual.
    fn lay_out(
        &self,
        memory: &mut Memory,
        rows: std::ops::Range<usize>,
        with: impl FnOnce(&[Part<'_>], &[f32], Option<&[f32]>, &[Pool]),
    ) {
        let Memory { weights, x, residual, biases, pools } = memory;
        let parts: Vec<Part<'_>> = (self.parts.iter().zip(weights).zip(biases))
            .map(|(((data, outputs, bias), weights), biases)| Part {
                matrix: Matrix {
                    data: data.put(weights, self.edge),
                    layout: self.layout,
                    inputs: self.inputs,
                    outputs: *outputs,
                },
                bias: bias.as_ref().map(|bias| biases.put(self.edge, bias)),
            })
            .collect();
        let part = |all: &[f32]| all.len() / self.rows * rows.start..all.len() / self.rows * rows.end;
        let x = x.put(self.edge, &self.x[part(&self.x)]);
        let residual = self.residual.as_ref().map(|all| residual.put(self.edge, &all[part(all)]));
        with(&parts, x, residual, pools);
    }

    /// Every tier has the bits of the portable one, and some rows by themselves have the bits that they have among the
    /// others. Returns how many products were compared.
    pub(super) fn check(&self, memory: &mut Memory, tiers: &[&'static Kernels]) -> usize {
        let (scalar, fast) = tiers.split_last().expect("the portable tier");
        assert_eq!(scalar.name(), "scalar");
        let before = self.first.before();
        let mut right = Vec::new();
        self.lay_out(memory, 0..self.rows, |parts, x, residual, pools| {
            right = scalar.linear(&pools[0], parts, before, x, residual);
            for kernels in fast {
                let y = kernels.linear(&pools[self.threads], parts, before, x, residual);
                self.compare(&right, &y, kernels, "");
            }
        });
        if self.again.len() < self.rows {
            let outputs = right.len() / self.rows;
            let right = &right[self.again.start * outputs..self.again.end * outputs];
            self.lay_out(memory, self.again.clone(), |parts, x, residual, pools| {
                for kernels in tiers {
                    let y = kernels.linear(&pools[0], parts, before, x, residual);
                    self.compare(right, &y, kernels, "by themselves: ");
                }
            });
        }
        if matches!(self.first, First::Nothing) {
            self.check_sums(&right);
        }
        fast.len()
    }

    fn compare(&self, right: &[f32], y: &[f32], kernels: &Kernels, how: &str) {
        assert_eq!(right.len(), y.len());
        let same = |a: f32, b: f32| same(a, b) || (a - b).abs() <= self.flushed && self.flushed > 0.0;
        let at = right.iter().zip(y).position(|(right, y)| !same(*right, *y));
        if let Some(at) = at {
            let (right, y) = (right[at], y[at]);
            panic!("{}: {}: {how}element {at} is {y:e} instead of {right:e}", kernels.name(), self.what);
        }
    }

    /// The portable result against sums in `f64`.
    fn check_sums(&self, y: &[f32]) {
        let outputs = y.len() / self.rows;
        let mut offset = 0;
        for (data, width, bias) in &self.parts {
            let w = data.decoded();
            for (row, x) in self.x.chunks_exact(self.inputs).enumerate() {
                let x = match data {
                    Weights::Blocks(..) => quantized(x),
                    Weights::Bf16(_) => x.iter().map(|x| rounded(*x)).collect(),
                    _ => x.iter().map(|x| f64::from(*x)).collect(),
                };
                // Sums of x and of products that `f32` cannot hold are infinite or not a number.
                let held = |sum: f64| sum < f64::from(f32::MAX) / 4.0;
                if !held(x.iter().map(|x| x.abs()).sum()) {
                    continue;
                }
                for o in 0..*width {
                    let bias = f64::from(bias.as_ref().map_or(0.0, |bias| bias[o]));
                    let residual = self.residual.as_ref().map_or(0.0, |all| f64::from(all[row * outputs + offset + o]));
                    let mut sum = bias + residual;
                    let mut size = bias.abs() + residual.abs();
                    let mut integers = 0.0; // where numbers of x are integers up to 127
                    for (i, x) in x.iter().enumerate() {
                        let w = match self.layout {
                            Layout::OutIn => w[o * self.inputs + i],
                            Layout::InOut => w[i * width + o],
                        };
                        sum += w.scaled * x + w.min * x;
                        size += (w.scaled * x).abs() + (w.min * x).abs();
                        integers += 127.0 * w.scaled.abs();
                    }
                    if !held(size) || matches!(data, Weights::Blocks(..)) && !held(integers) {
                        continue;
                    }
                    // Below the normal numbers a rounding is absolute; a chain has at most as many as there are inputs.
                    let tiny = 2.0 * self.inputs as f64 * f64::from(f32::MIN_POSITIVE);
                    let bound = 2.0 * (self.inputs + 2) as f64 * ROUNDING * size + tiny;
                    let y = f64::from(y[row * outputs + offset + o]);
                    assert!((y - sum).abs() <= bound, "{}: {y:e} instead of {sum:e} ± {bound:e}", self.what);
                }
            }
            offset += width;
        }
    }
}

/// Equal bits, or both not a number: which of two NaNs a sum passes on is the CPU's choice.
pub(super) fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Activations of a product with bf16 weights: rounded to bf16, next to nothing counting as nothing.
fn rounded(x: f32) -> f64 {
    if x.abs() < 2.0f32.powi(-56) { 0.0 } else { bf16::from_f32(x).to_f64() }
}

/// x as the nearest multiples of a 127th of the largest magnitude among 32.
fn quantized(x: &[f32]) -> Vec<f64> {
    let quantize = |x: &[f32]| -> Vec<f64> {
        let max = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        if x.iter().any(|x| x.is_nan()) || max.is_infinite() {
            return vec![f64::NAN; x.len()];
        }
        if max < 2.0f32.powi(-118) {
            return vec![0.0; x.len()];
        }
        let inverse = 127.0 / max;
        x.iter().map(|x| f64::from((x * inverse).round_ties_even()) * f64::from(max / 127.0)).collect()
    };
    x.chunks_exact(32).flat_map(quantize).collect()
}
