//! Random products by the thousand, and by the million on demand:
//!
//! ```text
//! FIRESIDE_KERNEL_CASES=1000000 cargo test --release --lib kernels::tests::fuzz::a_million -- --ignored --nocapture
//! ```
//!
//! `FIRESIDE_KERNEL_ONLY` names one kernel, as the run prints them; `FIRESIDE_KERNEL_SEED` is the seed of the run, or, with
//! `FIRESIDE_KERNEL_CASES=1`, the one that a failed case has printed.

use super::arena::{Arena, Edge};
use super::cases::{Case, Kind, Memory, Values, kinds, name, same};
use super::*;

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    let parsed = value.strip_prefix("0x").map_or_else(|| value.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(parsed.unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// The seed of the first case is `seed` itself.
fn run(kind: Kind, layout: Layout, seed: u64, cases: u64, memory: &mut Memory) -> usize {
    let tiers = available();
    let mut compared = 0;
    for i in 0..cases {
        let seed = if i == 0 { seed } else { Numbers(seed.wrapping_add(i)).next() };
        compared += Case::random(seed, kind, layout).check(memory, &tiers);
    }
    compared
}

/// What is done to single rows and numbers, every tier against the portable one: norms, functions, widening, the search
/// for numbers that are not finite, the likeliest. Returns how many results were compared.
fn run_rows(seed: u64, cases: u64) -> usize {
    let tiers = available();
    let (scalar, fast) = tiers.split_last().expect("the portable tier");
    let mut arenas = [(); 4].map(|()| Arena::new(1 << 16));
    let mut compared = 0;
    for i in 0..cases {
        let seed = if i == 0 { seed } else { Numbers(seed.wrapping_add(i)).next() };
        let mut numbers = Numbers(seed);
        let (dim, rows) = (1 + [numbers.below(40), numbers.below(300)][numbers.below(2)], 1 + numbers.below(4));
        let [values, halves] = [(); 2].map(|()| Values::any(&mut numbers));
        let edge = Edge::any(&mut numbers);
        let [weight, bias, x, w16] = &mut arenas;
        let weight: &[f32] = weight.put(edge, &numbers.many(dim));
        let bias: &[f32] = bias.put(edge, &numbers.many(dim));
        let x: &[f32] = x.put(edge, &values.floats(&mut numbers, rows * dim));
        let w16: &[u16] = w16.put(
            edge,
            &halves.floats(&mut numbers, dim).iter().map(|w| f16::from_f32(*w).to_bits()).collect::<Vec<_>>(),
        );
        let kinds = [Slice::F32(x), Slice::F16(bytemuck::cast_slice(w16)), Slice::Bf16(bytemuck::cast_slice(w16))];
        let activation = [Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::Silu, Activation::Tanh]
            [numbers.below(5)];
        let all = |kernels: &Kernels| {
            let mut results: Vec<Vec<f32>> = Vec::new();
            for before in [
                Before::LayerNorm { weight, bias, eps: 1e-5 },
                Before::RmsNorm { weight, eps: 1e-6 },
                Before::Activation(activation),
                Before::Gated(activation),
            ] {
                // A gate takes rows that are twice as long.
                let wide = if let Before::Gated(_) = before { 2 } else { 1 };
                let mut y = vec![0.0; rows / wide * dim];
                (kernels.before)(&before, dim, &x[..y.len() * wide], &mut y);
                results.push(y);
            }
            for w in kinds {
                let mut y = vec![0.0; w.len()];
                kernels.widen(w, &mut y);
                results.push(y);
                results.push(vec![kernels.first_non_finite(w).map_or(-1.0, |at| at as f32)]);
            }
            results
        };
        let right = all(scalar);
        for kernels in fast {
            for (what, (right, y)) in right.iter().zip(all(kernels)).enumerate() {
                let same = right.len() == y.len() && right.iter().zip(&y).all(|(a, b)| same(*a, *b));
                assert!(
                    same,
                    "{}: {what} of {rows} rows of {dim}, {values:?}, {activation:?}, seed {seed:#x}",
                    kernels.name()
                );
                compared += 1;
            }
        }
    }
    compared
}

#[test]
fn random_rows_have_the_same_bits_in_every_tier() {
    run_rows(
        5,
        if cfg!(miri) {
            2
        } else if cfg!(debug_assertions) {
            200
        } else {
            4000
        },
    );
}

#[test]
fn random_products_have_the_same_bits_in_every_tier() {
    let cases = if cfg!(miri) {
        1
    } else if cfg!(debug_assertions) {
        100
    } else {
        2000
    };
    let mut memory = Memory::new();
    for (i, (kind, layout)) in kinds().into_iter().enumerate() {
        run(kind, layout, i as u64 * 7919, cases, &mut memory);
    }
}

#[test]
#[ignore = "takes minutes; FIRESIDE_KERNEL_CASES says how many"]
fn a_million() {
    let cases = setting("FIRESIDE_KERNEL_CASES").unwrap_or(1_000_000);
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_nanos() as u64;
    let seed = setting("FIRESIDE_KERNEL_SEED").unwrap_or(clock);
    let only = std::env::var("FIRESIDE_KERNEL_ONLY").ok();
    let tiers: Vec<&str> = available().iter().map(|kernels| kernels.name()).collect();
    println!("seed {seed:#x}, {cases} cases each, tiers {}", tiers.join(" "));
    let mut memory = Memory::new();
    let mut ran = 0;
    for (kind, layout) in kinds() {
        let name = name(kind, layout);
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let since = std::time::Instant::now();
        let compared = run(kind, layout, seed, cases, &mut memory);
        println!("{name}: {cases} cases, {compared} comparisons, {:.0} s", since.elapsed().as_secs_f64());
        ran += 1;
    }
    if only.as_ref().is_none_or(|only| only == "rows") {
        let since = std::time::Instant::now();
        let compared = run_rows(seed, cases);
        println!("rows: {cases} cases, {compared} comparisons, {:.0} s", since.elapsed().as_secs_f64());
        ran += 1;
    }
    assert!(ran > 0, "no kernel is called {}", only.unwrap_or_default());
}
