//! Random products by the thousand, and by the million on demand:
//!
//! ```text
//! FIRESIDE_KERNEL_CASES=1000000 cargo test --release --lib kernels::tests::fuzz::a_million -- --ignored --nocapture
//! ```
//!
//! `FIRESIDE_KERNEL_ONLY` names one kernel, as the run prints them; `FIRESIDE_KERNEL_SEED` is the seed of the run, or, with
//! `FIRESIDE_KERNEL_CASES=1`, the one that a failed case has printed.

use super::cases::{Case, Kind, Memory, kinds, name};
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
    assert!(ran > 0, "no kernel is called {}", only.unwrap_or_default());
}
