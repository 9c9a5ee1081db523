//! `exp`, `tanh` and the normal distribution function, without branches so that loops over them vectorise.
//!
//! The C library's versions differ from system to system and cannot be vectorised; these give the same bits
//! everywhere. Polynomials of `exp` are the Taylor series, those of `tanh` and `erf` are from Cephes (S. Moshier).

/// `e^x` within 1 ulp for normal results; 0 below -104, infinity above 88.8, NaN for NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding it to a small number leaves the nearest integer in the low bits of the fraction: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has 9 zero bits at its end, so n * LN2_HIGH is exact for |n| < 512.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Comparisons and not `clamp`: NaN has to pass.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.5 { -104.5 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x)); // |r| <= ln(2) / 2
    let mut p = 1.0 / 5040.0;
    p = r.mul_add(p, 1.0 / 720.0);
    p = r.mul_add(p, 1.0 / 120.0);
    p = r.mul_add(p, 1.0 / 24.0);
    p = r.mul_add(p, 1.0 / 6.0);
    p = r.mul_add(p, 0.5);
    p = r.mul_add(p, 1.0);
    p = r.mul_add(p, 1.0);
    // 2^n in two factors, since 2^128 and 2^-150 are not numbers of their own.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `2^n` for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `2^x` for x <= 0 within 1 ulp, exactly 1 at 0; 0 below -125, NaN for NaN. Half the work of `exp`.
#[inline(always)]
pub(super) fn exp2_below_zero(x: f32) -> f32 {
    /// Adding it leaves the nearest integer, plus the bias of an exponent, in the low bits: 1.5 * 2^23 + 127.
    const ROUND: f32 = 12_583_039.0;
    // A comparison and not `max`: NaN has to pass.
    let bounded = if x < -125.0 { -125.0 } else { x };
    let shifted = bounded + ROUND;
    let r = bounded - (shifted - ROUND); // |r| <= 1 / 2, exact
    // The polynomial of degree 6 with the least relative error (2e-9) among those that are 1 at 0.
    let mut p = 1.535_336_2e-4;
    p = r.mul_add(p, 1.339_887_4e-3);
    p = r.mul_add(p, 9.618_437e-3);
    p = r.mul_add(p, 5.550_332_4e-2);
    p = r.mul_add(p, 2.402_264_8e-1);
    p = r.mul_add(p, std::f32::consts::LN_2);
    p = r.mul_add(p, 1.0);
    let power = f32::from_bits(shifted.to_bits() << 23);
    if x < -125.0 { 0.0 } else { p * power }
}

/// The hyperbolic tangent within 2 ulp.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let magnitude = x.abs();
    let z = x * x;
    let mut p = -5.704_988_7e-3;
    p = z.mul_add(p, 2.063_908_8e-2);
    p = z.mul_add(p, -5.373_971_5e-2);
    p = z.mul_add(p, 1.333_144_2e-1);
    p = z.mul_add(p, -3.333_328e-1);
    let near = (p * z).mul_add(x, x);
    let far = (1.0 - 2.0 / (exp(2.0 * magnitude) + 1.0)).copysign(x);
    // Below 0.625 the subtraction would cancel; Cephes fits its polynomial up to there.
    if magnitude < 0.625 { near } else { far }
}

/// The share of a normal distribution that lies below `x`: `(1 + erf(x / sqrt 2)) / 2`, accurate in the lower tail too.
#[inline(always)]
pub(super) fn normal_cdf(x: f32) -> f32 {
    let t = x * std::f32::consts::FRAC_1_SQRT_2;
    let magnitude = t.abs();
    let z = t * t;
    // erf(t) / t, for |t| < 1
    let mut p = 7.853_861e-5;
    p = z.mul_add(p, -8.010_194e-4);
    p = z.mul_add(p, 5.188_327_6e-3);
    p = z.mul_add(p, -2.685_381_2e-2);
    p = z.mul_add(p, 1.128_358_5e-1);
    p = z.mul_add(p, -3.761_262_6e-1);
    p = z.mul_add(p, std::f32::consts::FRAC_2_SQRT_PI);
    let near = (0.5 * t).mul_add(p, 0.5);
    // erfc(t) = exp(-t²) / t * polynomial(1 / t²)
    let q = 1.0 / magnitude;
    let s = q * q;
    let mut middle = 2.326_82e-2; // 1 <= t < 2
    middle = s.mul_add(middle, -1.387_039_4e-1);
    middle = s.mul_add(middle, 3.687_424_7e-1);
    middle = s.mul_add(middle, -5.824_733e-1);
    middle = s.mul_add(middle, 6.210_004_6e-1);
    middle = s.mul_add(middle, -4.944_515_3e-1);
    middle = s.mul_add(middle, 3.404_88e-1);
    middle = s.mul_add(middle, -2.741_127e-1);
    middle = s.mul_add(middle, 5.638_259_4e-1);
    let mut tail = -1.047_766_4e1; // 2 <= t
    tail = s.mul_add(tail, 1.297_72e1);
    tail = s.mul_add(tail, -7.495_518_7);
    tail = s.mul_add(tail, 2.921_019);
    tail = s.mul_add(tail, -1.015_265_3);
    tail = s.mul_add(tail, 4.218_463_4e-1);
    tail = s.mul_add(tail, -2.820_767_4e-1);
    tail = s.mul_add(tail, 5.641_895e-1);
    let p = if magnitude < 2.0 { middle } else { tail };
    let erfc = exp(-z) * q * p;
    let far = if t < 0.0 { 0.5 * erfc } else { 1.0 - 0.5 * erfc };
    // The comparison sends NaN to `near`, which keeps it.
    if magnitude >= 1.0 { far } else { near }
}
