//! One test: its runs, and the machine's roofs beside them.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::machine::{Energy, Probe, Rates};
use super::plan::Test;
use crate::engine::bench::{Bench, Demand};
use crate::kernels::Arithmetic;

/// What a test found.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) threads: usize,
    pub(super) depth: usize,
    pub(super) batch: usize,
    /// Of all sequences together.
    pub(super) tokens_per_s: Spread,
    /// What binds at the roof: `read`, or the arithmetic that takes longest.
    pub(super) limit: Option<String>,
    /// Tokens per second of a program that reads or computes without a break.
    pub(super) roof_tokens_per_s: Option<f64>,
    /// The median's share of that.
    pub(super) percent_of_roof: Option<f64>,
    /// Bytes that a token must read and operations that it must compute, at least.
    pub(super) bytes_per_token: f64,
    pub(super) operations_per_token: f64,
    /// The middle of the probes that ran between the repetitions.
    pub(super) read_gb_s: Option<f64>,
    pub(super) joules_per_token: Option<f64>,
}

/// Several runs of the same test.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) mean: f64,
    /// Of the sample, as llama-bench gives it; 0 of a single run.
    pub(super) sd: f64,
    pub(super) runs: Vec<f64>,
}

impl Spread {
    pub(super) fn of(runs: Vec<f64>) -> Spread {
        let n = runs.len() as f64;
        let mean = runs.iter().sum::<f64>() / n.max(1.0);
        let squares: f64 = runs.iter().map(|run| (run - mean).powi(2)).sum();
        let sd = if runs.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        Spread { median: median(&runs).unwrap_or(0.0), mean, sd, runs }
    }
}

/// The middle, or the mean of the two in the middle.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[half]),
        _ => Some((sorted[half - 1] + sorted[half]) / 2.0),
    }
}

/// Runs a test, with a probe of the memory before, between and after its runs: the speed of memory changes within
/// seconds on machines that others use too, and a share means nothing where the two belong to different moments.
pub(super) fn measure(bench: &mut Bench, test: &Test, repetitions: u16, probe: &Probe, roofs: &Rates) -> Result<Found> {
    let tokens = ((test.prompt + test.generate) * test.batch) as f64;
    let mut sequences = bench.sequences(test.batch, test.depth)?;
    let (mut times, mut reads) = (Vec::new(), vec![probe.read(bench)]);
    let mut joules = Some(0.0);
    for _ in 0..repetitions {
        bench.refresh(&mut sequences)?;
        let energy = Energy::now();
        times.push(bench.measure(&mut sequences, test.prompt, test.generate)?);
        joules = joules.zip(energy.and_then(Energy::joules_since)).map(|(sum, spent)| sum + spent);
        reads.push(probe.read(bench));
    }
    let reads: Vec<f64> = reads.into_iter().flatten().collect();
    let demand = bench.demand(test.batch, test.depth, test.prompt, test.generate);
    let read = median(&reads);
    let (limit, least) = bound(&demand, read, roofs).unzip();
    let per_second = |time: Duration| tokens / time.as_secs_f64().max(1e-9);
    let speed = Spread::of(times.iter().copied().map(per_second).collect());
    let roof = least.map(|seconds: f64| tokens / seconds);
    Ok(Found {
        name: test.name(),
        threads: bench.pool().threads(),
        depth: test.depth,
        batch: test.batch,
        limit,
        roof_tokens_per_s: roof,
        percent_of_roof: roof.map(|roof| 100.0 * speed.median / roof),
        bytes_per_token: demand.bytes / tokens,
        operations_per_token: demand.operations.iter().map(|(_, count)| count).sum::<f64>() / tokens,
        read_gb_s: read.map(|read| read / 1e9),
        joules_per_token: joules.map(|joules| joules / (tokens * f64::from(repetitions))),
        tokens_per_s: speed,
    })
}

/// The least time that a machine with these roofs needs, and what it spends it on. Reading and computing overlap, and of
/// two kinds of arithmetic one follows the other.
fn bound(demand: &Demand, read: Option<f64>, roofs: &Rates) -> Option<(String, f64)> {
    let reading = demand.bytes / read?;
    let mut computing = Vec::new();
    for (arithmetic, count) in &demand.operations {
        let (kind, rate) = roofs.best_for(*arithmetic)?;
        computing.push((kind, count / rate));
    }
    let all: f64 = computing.iter().map(|(_, seconds)| seconds).sum();
    if reading >= all {
        return Some(("read".to_owned(), reading));
    }
    let (kind, _) = computing.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    Some((name_of(kind).to_owned(), all))
}

/// `f32`, `bf16` or `int8`.
pub(super) fn name_of(arithmetic: Arithmetic) -> &'static str {
    match arithmetic {
        Arithmetic::F32 => "f32",
        Arithmetic::Bf16 => "bf16",
        Arithmetic::Int8 => "int8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_that_of_the_sample() {
        let spread = Spread::of(vec![2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!((spread.mean, spread.median), (5.0, 4.5));
        assert!((spread.sd - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12, "{}", spread.sd);
        let one = Spread::of(vec![3.0]);
        assert_eq!((one.mean, one.median, one.sd), (3.0, 3.0, 0.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_roof_is_the_slower_of_reading_and_computing() {
        let roofs = Rates { f32: Some(100.0), bf16: None, int8: Some(400.0), ..Rates::default() };
        let check = |bytes, operations: &[(Arithmetic, f64)], expected: Option<(&str, f64)>| {
            let demand = Demand { bytes, operations: operations.to_vec() };
            let found = bound(&demand, Some(10.0), &roofs);
            assert_eq!(found.as_ref().map(|(name, seconds)| (name.as_str(), *seconds)), expected);
        };
        check(100.0, &[(Arithmetic::F32, 500.0)], Some(("read", 10.0)));
        check(10.0, &[(Arithmetic::F32, 500.0)], Some(("f32", 5.0)));
        check(10.0, &[(Arithmetic::F32, 100.0), (Arithmetic::Int8, 1600.0)], Some(("int8", 5.0)));
        // Without an instruction of their own, products of bf16 are products of f32.
        check(10.0, &[(Arithmetic::Bf16, 500.0)], Some(("f32", 5.0)));
        let demand = Demand { bytes: 1.0, operations: Vec::new() };
        assert_eq!(bound(&demand, None, &roofs), None);
    }
}
