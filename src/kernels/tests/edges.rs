//! Every size around the edges of blocks, vectors and tiles, and every threads' share of it.

use super::cases::{Case, Memory, Sizes, Values, kinds};
use super::*;

/// Products of these sizes with every kind of weights.
fn check(sizes: impl Iterator<Item = (usize, usize, usize)> + Clone) {
    let tiers = available();
    let mut memory = Memory::new();
    let mut seed = 0;
    for (kind, layout) in kinds() {
        for (rows, units, outputs) in sizes.clone() {
            // Blocks in whole, rows of floats of any length.
            let inputs = if kind.unit() == 1 {
                32 * units - seed as usize % 3
            } else {
                units.div_ceil(kind.unit() / 32) * kind.unit()
            };
            seed += 1;
            Case::new(seed, kind, layout, Sizes { rows, inputs, outputs }, Values::Tame, Values::Tame)
                .check(&mut memory, &tiers);
        }
    }
}

/// Steps that leave enough for a build without optimisation.
fn step(optimised: usize) -> usize {
    if cfg!(debug_assertions) { 5 * optimised } else { optimised }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn any_number_of_rows() {
    check((1..=40).step_by(step(1)).map(|rows| (rows, 1 + rows % 3, 33)));
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn any_number_of_outputs() {
    let around = [95, 96, 97, 127, 128, 129, 191, 192, 193];
    for rows in [1, 3, 17] {
        check((1..=70).chain(around).step_by(step(1)).map(|outputs| (rows, 2, outputs)));
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn any_number_of_inputs() {
    for rows in [1, 5, 18] {
        check((1..=32).step_by(step(1)).map(|units| (rows, units, 17)));
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn large_products_are_cut_for_any_number_of_threads() {
    let tiers = available();
    let pools = [1, 2, 3, 8].map(pool);
    let mut numbers = Numbers(11);
    // The last has more prepared rows than stay in the cache, and is done in passes.
    for (rows, inputs, outputs) in [(1, 768, 301), (5, 256, 517), (40, 512, 130), (300, 256, 45), (1500, 2048, 3)] {
        if cfg!(debug_assertions) && rows > 300 {
            continue;
        }
        let x = numbers.many(rows * inputs);
        let residual = numbers.many(rows * 2 * outputs);
        for format in Format::ALL {
            let w = [0, 1].map(|_| Values::Tame.blocks(&mut numbers, format, inputs * outputs));
            let parts = w.each_ref().map(|w| Part {
                matrix: Matrix { data: Slice::Blocks(format, w), layout: Layout::OutIn, inputs, outputs },
                bias: None,
            });
            let mut right: Option<Vec<u32>> = None;
            for kernels in tiers.iter().filter(|kernels| rows < 300 || kernels.name() != "scalar") {
                for pool in &pools {
                    let y = bits(&kernels.linear(pool, &parts, Before::Nothing, &x, Some(&residual)));
                    let right = right.get_or_insert_with(|| y.clone());
                    assert_eq!(*right, y, "{} {} {rows} {}", kernels.name(), format.name(), pool.threads());
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn every_kind_of_numbers_meets_every_other() {
    use Values::{Full, NotFinite, Sparse, Tame, Tiny, Wild};
    let tiers = available();
    let mut memory = Memory::new();
    let mut seed = 0;
    for (kind, layout) in kinds() {
        for w in [Tame, Wild, Sparse, Full, Tiny, NotFinite] {
            for x in [Tame, Wild, Sparse, Full, Tiny, NotFinite] {
                for rows in [1, 4, 20] {
                    seed += 1;
                    let sizes = Sizes { rows, inputs: 256, outputs: 18 };
                    Case::new(seed, kind, layout, sizes, w, x).check(&mut memory, &tiers);
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes too long")]
fn saturated_blocks_do_not_overflow() {
    // All quants at one end, all numbers of x at the other: the largest sums that there are.
    let tiers = available();
    let one = pool(1);
    for format in Format::ALL {
        for byte in 0..=255u8 {
            let (inputs, outputs) = (512, 9);
            let mut w = vec![byte; format.bytes(inputs * outputs)];
            let scales: &[usize] = match format {
                Format::Q2K => &[80, 82],
                Format::Q3K => &[108],
                Format::Q6K => &[208],
                Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
                _ => &[0],
            };
            for block in w.chunks_exact_mut(format.block_bytes()) {
                for at in scales {
                    let scale = if format == Format::Mxfp4 { [128, byte] } else { f16::ONE.to_le_bytes() };
                    block[*at..at + 2].copy_from_slice(&scale);
                }
            }
            for x in [1.0, -1.0] {
                let x = vec![x; inputs];
                let matrix = Matrix { data: Slice::Blocks(format, &w), layout: Layout::OutIn, inputs, outputs };
                let part = Part { matrix, bias: None };
                let mut first: Option<Vec<f32>> = None;
                for kernels in &tiers {
                    let y = kernels.linear(&one, &[part], Before::Nothing, &x, None);
                    let first = first.get_or_insert_with(|| y.clone());
                    assert_eq!(bits(first), bits(&y), "{} {} {byte:#x}", kernels.name(), format.name());
                }
                let row = decode::decode(format, &w[..format.block_bytes()]);
                let sum: f64 = row.iter().map(|w| (w.scaled + w.min) * f64::from(x[0])).sum();
                let right = sum * (inputs / format.block_len()) as f64;
                let y = f64::from(first.expect("a tier ran")[0]);
                let size: f64 = row.iter().map(|w| w.scaled.abs() + w.min.abs()).sum();
                assert!((y - right).abs() <= 1e-4 * size, "{} {byte:#x}: {y} instead of {right}", format.name());
            }
        }
    }
}
