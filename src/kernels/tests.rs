//! Every tier against plain loops in `f64`, and against the other tiers bit for bit.

mod arena;
mod attention;
mod cases;
mod decode;
mod edges;
mod fuzz;

use std::num::NonZeroUsize;

use half::{bf16, f16};

use super::*;

/// One bit of an `f32`'s fraction at 1, halved: the largest relative error of a rounding.
const ROUNDING: f64 = 1.0 / (1 << 24) as f64;

/// A repeatable stream of numbers (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Any number below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Evenly from -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn many(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit()).collect()
    }

    /// Of all magnitudes from 2^-20 to 2^20.
    fn wild(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit() * ((self.next() % 41) as f32 - 20.0).exp2()).collect()
    }
}

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads)).expect("threads start")
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn matmul(kernels: &Kernels, pool: &Pool, w: &Matrix<'_>, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
    y.copy_from_slice(&kernels.linear(pool, &[Part { matrix: *w, bias }], Before::Nothing, x, None));
}

/// (rows, outputs), in `f64`, with the sum of magnitudes that the error bound is made of.
fn naive_matmul(layout: Layout, inputs: usize, outputs: usize, w: &[f32], bias: &[f32], x: &[f32]) -> Vec<(f64, f64)> {
    let mut y = Vec::new();
    for x in x.chunks(inputs) {
        for (o, bias) in bias.iter().enumerate() {
            let (mut sum, mut size) = (f64::from(*bias), f64::from(bias.abs()));
            for (i, x) in x.iter().enumerate() {
                let w = match layout {
                    Layout::OutIn => w[o * inputs + i],
                    Layout::InOut => w[i * outputs + o],
                };
                sum += f64::from(w) * f64::from(*x);
                size += (f64::from(w) * f64::from(*x)).abs();
            }
            y.push((sum, size));
        }
    }
    y
}

/// Every property of the matrix product for one shape.
fn check_matmul(layout: Layout, rows: usize, inputs: usize, outputs: usize, wild: bool) {
    let what = format!("{layout:?} rows {rows} inputs {inputs} outputs {outputs}");
    let mut numbers = Numbers((rows * 1_000_003 + inputs * 1009 + outputs) as u64);
    let mut draw = |len| if wild { numbers.wild(len) } else { numbers.many(len) };
    let (w, bias, x) = (draw(inputs * outputs), draw(outputs), draw(rows * inputs));
    let one = pool(1);
    let matrix = Matrix { data: Slice::F32(&w), layout, inputs, outputs };
    let mut first: Option<Vec<f32>> = None;
    for kernels in available() {
        let mut y = vec![f32::NAN; rows * outputs];
        matmul(kernels, &one, &matrix, Some(&bias), &x, &mut y);
        if let Some(first) = &first {
            assert_eq!(bits(first), bits(&y), "{what}: {} has other bits", kernels.name());
            continue;
        }
        for (y, (sum, size)) in y.iter().zip(naive_matmul(layout, inputs, outputs, &w, &bias, &x)) {
            let bound = 2.0 * (inputs + 1) as f64 * ROUNDING * size;
            assert!((f64::from(*y) - sum).abs() <= bound, "{what}: {y} instead of {sum}");
        }
        for row in 0..rows {
            let mut alone = vec![f32::NAN; outputs];
            matmul(kernels, &one, &matrix, Some(&bias), &x[row * inputs..][..inputs], &mut alone);
            assert_eq!(bits(&alone), bits(&y[row * outputs..][..outputs]), "{what}: row {row} alone");
        }
        first = Some(y);
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn matmul_is_right_and_has_the_same_bits_in_every_tier_and_batch() {
    for layout in [Layout::OutIn, Layout::InOut] {
        for n in (1..=70).step_by(if cfg!(debug_assertions) { 3 } else { 1 }) {
            check_matmul(layout, 1, n, 71 - n, false);
            check_matmul(layout, 1 + n % 27, n, n, false);
            check_matmul(layout, 2 + n % 3, 71 - n, n, true);
            check_matmul(layout, 7, 5 + n % 4, 2 * n, true);
            check_matmul(layout, n, 17, 33, false);
        }
        for (rows, inputs, outputs) in [(1, 768, 200), (3, 257, 130), (13, 300, 129), (40, 513, 64), (6, 1023, 9)] {
            check_matmul(layout, rows, inputs, outputs, false);
            check_matmul(layout, rows, inputs, outputs, true);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn matmul_has_the_same_bits_with_any_number_of_threads() {
    let pools = [pool(1), pool(2), pool(3)];
    let mut numbers = Numbers(1);
    for layout in [Layout::OutIn, Layout::InOut] {
        for (rows, inputs, outputs) in
            [(1, 300, 700), (1, 257, 1001), (5, 129, 515), (64, 70, 50), (131, 96, 17), (200, 64, 300)]
        {
            let (w, x) = (numbers.many(inputs * outputs), numbers.many(rows * inputs));
            let matrix = Matrix { data: Slice::F32(&w), layout, inputs, outputs };
            for kernels in available() {
                let results = pools.each_ref().map(|pool| {
                    let mut y = vec![f32::NAN; rows * outputs];
                    matmul(kernels, pool, &matrix, None, &x, &mut y);
                    bits(&y)
                });
                assert_eq!(results[0], results[1], "{} {layout:?} {rows} {inputs} {outputs}", kernels.name());
                assert_eq!(results[0], results[2], "{} {layout:?} {rows} {inputs} {outputs}", kernels.name());
            }
        }
    }
}

#[test]
fn half_precision_weights_have_the_bits_of_the_same_weights_as_f32() {
    let mut numbers = Numbers(2);
    let pool = pool(1);
    for layout in [Layout::OutIn, Layout::InOut] {
        for (rows, inputs, outputs) in [(1, 33, 20), (1, 64, 64), (3, 37, 41), (20, 50, 70), (13, 16, 128)] {
            // Small enough to be subnormal in half precision now and then.
            let w: Vec<f32> = numbers.many(inputs * outputs).iter().map(|w| w * w * w * 1e-3).collect();
            let w16: Vec<f16> = w.iter().map(|w| f16::from_f32(*w)).collect();
            let x = numbers.many(rows * inputs);
            for kernels in available() {
                let product = |data| {
                    let mut y = vec![f32::NAN; rows * outputs];
                    matmul(kernels, &pool, &Matrix { data, layout, inputs, outputs }, None, &x, &mut y);
                    bits(&y)
                };
                let wide: Vec<f32> = w16.iter().map(|w| w.to_f32()).collect();
                assert_eq!(product(Slice::F16(&w16)), product(Slice::F32(&wide)), "{} f16 {layout:?}", kernels.name());
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn widening_is_exact_for_every_bit_pattern() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let brains: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
    for kernels in available() {
        let mut out = vec![0.0; halves.len()];
        kernels.widen(Slice::F16(&halves), &mut out);
        for (half, out) in halves.iter().zip(&out) {
            let same = if half.is_nan() { out.is_nan() } else { out.to_bits() == half.to_f32().to_bits() };
            assert!(same, "{}: {half:?} became {out}", kernels.name());
        }
        kernels.widen(Slice::Bf16(&brains), &mut out);
        for (brain, out) in brains.iter().zip(&out) {
            let same = if brain.is_nan() { out.is_nan() } else { out.to_bits() == brain.to_f32().to_bits() };
            assert!(same, "{}: {brain:?} became {out}", kernels.name());
        }
        let numbers = Numbers(3).wild(37);
        kernels.widen(Slice::F32(&numbers), &mut out[..37]);
        assert_eq!(bits(&numbers), bits(&out[..37]));
    }
}

#[test]
fn infinities_and_nans_arrive_where_they_belong() {
    for layout in [Layout::OutIn, Layout::InOut] {
        for kernels in available() {
            for rows in [1, 3, 14] {
                let (inputs, outputs) = (35, 23);
                let w = vec![0.5; inputs * outputs];
                let mut x = vec![1.0; rows * inputs];
                x[34] = f32::INFINITY;
                if rows > 1 {
                    x[inputs + 3] = f32::NAN;
                }
                let mut y = vec![0.0; rows * outputs];
                let matrix = Matrix { data: Slice::F32(&w), layout, inputs, outputs };
                matmul(kernels, &pool(1), &matrix, None, &x, &mut y);
                for (i, y) in y.iter().enumerate() {
                    match i / outputs {
                        0 => assert_eq!(*y, f32::INFINITY),
                        1 => assert!(y.is_nan()),
                        _ => assert_eq!(*y, 17.5),
                    }
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "length of x")]
fn a_wrong_length_is_named() {
    let matrix = Matrix { data: Slice::F32(&[1.0; 6]), layout: Layout::OutIn, inputs: 2, outputs: 3 };
    matmul(best(), &pool(1), &matrix, None, &[1.0; 5], &mut [0.0; 6]);
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn layer_norm_is_right_and_has_the_same_bits_everywhere() {
    let mut numbers = Numbers(4);
    for dim in (1..=70).chain([768, 1000]) {
        for rows in [1, 3, 50] {
            let (weight, bias) = (numbers.many(dim), numbers.many(dim));
            // A mean far from zero, where the variance must not be taken from sums of squares.
            let x: Vec<f32> = numbers.many(rows * dim).iter().map(|x| x + 100.0).collect();
            let mut first: Option<Vec<f32>> = None;
            for kernels in available() {
                let mut y = vec![f32::NAN; x.len()];
                let before = Before::LayerNorm { weight: &weight, bias: &bias, eps: 1e-5 };
                (kernels.before)(&before, dim, &x, &mut y);
                let first = first.get_or_insert_with(|| y.clone());
                assert_eq!(bits(first), bits(&y), "{} dim {dim} rows {rows}", kernels.name());
            }
            let y = first.expect("a tier ran");
            for (x, y) in x.chunks(dim).zip(y.chunks(dim)) {
                let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / dim as f64;
                let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / dim as f64;
                for i in 0..dim {
                    let unit = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt();
                    let right = unit * f64::from(weight[i]) + f64::from(bias[i]);
                    // x is exact to 100 * 2^-24 after the mean is taken off; the division enlarges that.
                    let bound = 8.0 * ROUNDING * (100.0 / (variance + 1e-5).sqrt() + unit.abs() + 1.0);
                    assert!((f64::from(y[i]) - right).abs() <= bound, "dim {dim}: {} instead of {right}", y[i]);
                }
            }
        }
    }
}

/// The distance of `x` from `right`, in steps between neighbouring `f32` at `right`.
fn ulps(x: f32, right: f64) -> f64 {
    let exponent = right.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(x) - right).abs() / (exponent - 23.0).exp2()
}

/// All of a range, `count` of them evenly spread.
fn sweep(from: f32, to: f32, count: usize) -> impl Iterator<Item = f32> {
    (0..=count).map(move |i| (f64::from(from) + f64::from(to - from) * i as f64 / count as f64) as f32)
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn exp_is_within_two_ulps() {
    let mut worst = 0.0f64;
    for x in sweep(-87.3, 88.7, 2_000_000) {
        worst = worst.max(ulps(math::exp(x), f64::from(x).exp()));
    }
    for x in sweep(-1.0, 1.0, 1_000_000) {
        worst = worst.max(ulps(math::exp(x), f64::from(x).exp()));
    }
    assert!(worst <= 1.5, "{worst} ulps");
    for x in sweep(-110.0, -87.0, 100_000) {
        let error = (f64::from(math::exp(x)) - f64::from(x).exp()).abs();
        assert!(error <= f64::from(f32::from_bits(2)), "exp({x}) = {}", math::exp(x));
    }
    let cases = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (f32::NEG_INFINITY, 0.0),
        (f32::INFINITY, f32::INFINITY),
        (f32::MIN, 0.0),
        (f32::MAX, f32::INFINITY),
        (88.8, f32::INFINITY),
        (-105.0, 0.0),
    ];
    for (x, expected) in cases {
        assert_eq!(math::exp(x).to_bits(), f32::to_bits(expected), "exp({x})");
    }
    assert!(math::exp(f32::NAN).is_nan());
}

/// erfc by its series near zero and by its continued fraction (Lentz) in the tail.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let mut fraction = 0.0;
    for n in (1..120).rev() {
        fraction = f64::from(n) / 2.0 / (x + fraction);
    }
    (-x * x).exp() / (x + fraction) * std::f64::consts::FRAC_2_SQRT_PI / 2.0
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn activations_follow_their_formulas() {
    type Formula = fn(f64) -> f64;
    let cases: [(Activation, Formula); 5] = [
        (Activation::GeluTanh, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + u.tanh())
        }),
        (Activation::Gelu, |x| 0.5 * x * erfc(-x / std::f64::consts::SQRT_2)),
        (Activation::Relu, |x| x.max(0.0)),
        (Activation::Silu, |x| x / (1.0 + (-x).exp())),
        (Activation::Tanh, f64::tanh),
    ];
    let mut x: Vec<f32> = sweep(-30.0, 30.0, 200_001).collect();
    x.extend(sweep(-1e-3, 1e-3, 1000));
    x.extend([0.0, -0.0, 1e-30, -1e-30, 100.0, -100.0, 1e4, -1e4, f32::INFINITY]);
    for (activation, formula) in cases {
        let mut first: Option<Vec<f32>> = None;
        for kernels in available() {
            let mut y = vec![f32::NAN; x.len()];
            (kernels.before)(&Before::Activation(activation), x.len(), &x, &mut y);
            let first = first.get_or_insert_with(|| y.clone());
            assert_eq!(bits(first), bits(&y), "{} {activation:?}", kernels.name());
        }
        for (x, y) in x.iter().zip(first.expect("a tier ran")) {
            let right = formula(f64::from(*x));
            // Relative to the result, or to 1e-7 where that is smaller than anything that matters.
            let bound = 1e-6 * right.abs() + 2e-9;
            let same = f64::from(y) == right || (f64::from(y) - right).abs() <= bound;
            assert!(same, "{activation:?}({x}) = {y} instead of {right}");
        }
        let mut nan = [f32::NAN; 19];
        (best().before)(&Before::Activation(activation), nan.len(), &nan.clone(), &mut nan);
        assert!(nan.iter().all(|x| x.is_nan()), "{activation:?} of NaN is {nan:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn the_first_non_finite_number_is_found_wherever_it_is() {
    let len = 3000;
    let (w, w16) = (vec![f32::MAX; len], vec![f16::MIN; len]);
    let wb = vec![bf16::MAX; len];
    for kernels in available() {
        let name = kernels.name();
        assert_eq!(kernels.first_non_finite(Slice::F32(&[])), None);
        assert_eq!(kernels.first_non_finite(Slice::F32(&w)), None, "{name}");
        assert_eq!(kernels.first_non_finite(Slice::F16(&w16)), None, "{name}");
        assert_eq!(kernels.first_non_finite(Slice::Bf16(&wb)), None, "{name}");
        for at in (0..70).chain([1022, 1023, 1024, 1025, 2047, 2048, len - 2, len - 1]) {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut w, mut w16, mut wb) = (w.clone(), w16.clone(), wb.clone());
                w[at] = bad;
                w16[at] = f16::from_f32(bad);
                wb[at] = bf16::from_f32(bad);
                // A second one further on must not hide the first.
                w[len - 1] = bad;
                assert_eq!(kernels.first_non_finite(Slice::F32(&w)), Some(at), "{name}");
                assert_eq!(kernels.first_non_finite(Slice::F16(&w16)), Some(at), "{name}");
                assert_eq!(kernels.first_non_finite(Slice::Bf16(&wb)), Some(at), "{name}");
            }
        }
    }
}

#[test]
fn kernels_are_selected_by_name() {
    assert_eq!(select(None).expect("the best").name(), best().name());
    assert_eq!(select(Some("scalar")).expect("always there").name(), "scalar");
    for kernels in available() {
        assert_eq!(select(Some(kernels.name())).expect("available").name(), kernels.name());
    }
    let error = select(Some("avx9")).expect_err("no such kernels");
    assert_eq!(error, SelectError::Unknown("avx9".to_owned()));
    let message = error.to_string();
    assert!(message.starts_with("no kernels are called `avx9`, expected one of `"), "{message}");
    assert!(message.ends_with("`scalar`"), "{message}");
}
