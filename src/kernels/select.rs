//! The largest of many numbers: what sampling asks of a row of logits. No NaN among them.

use super::lanes::LANES;

/// Numbers per block whose largest stands for it.
const BLOCK: usize = 4 * LANES;

/// The index of the largest number, the first among equals; `None` where all are minus infinity or there are none.
#[must_use]
pub fn largest(x: &[f32]) -> Option<usize> {
    let most = most(x);
    if most == f32::NEG_INFINITY { None } else { x.iter().position(|x| *x == most) }
}

/// The n-th largest number, counted from 1; the smallest where there are fewer.
///
/// # Panics
///
/// When `n` is 0 or there are no numbers.
#[must_use]
pub fn nth_largest(n: usize, x: &[f32]) -> f32 {
    assert!(n > 0 && !x.is_empty(), "the {n}-th largest of {} numbers", x.len());
    let blocks = x.len() / BLOCK;
    if blocks < 2 * n {
        return select(n, x.to_vec());
    }
    // n blocks have a largest number of at least `bound`, so there are n numbers of at least that, and most are below.
    let bound = select(n, x.chunks_exact(BLOCK).map(most).collect());
    let mut candidates = Vec::with_capacity(2 * n);
    for x in x.chunks(BLOCK) {
        if most(x) >= bound {
            candidates.extend(x.iter().filter(|x| **x >= bound));
        }
    }
    select(n, candidates)
}

fn select(n: usize, mut x: Vec<f32>) -> f32 {
    let n = n.min(x.len());
    *x.select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a)).1
}

/// The largest of them, minus infinity for none.
fn most(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nth_largest_is_that_of_a_sorted_copy() {
        let mut state = 1u64;
        for len in [1, 2, 63, 64, 65, 1000, 50257] {
            let x: Vec<f32> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let x = (state >> 44) as f32 / 64.0 - 8192.0;
                    if state >> 60 == 0 { f32::NEG_INFINITY } else { x } // repeats and minus infinities
                })
                .collect();
            let mut sorted = x.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for n in [1, 2, 50, 300, len] {
                assert_eq!(nth_largest(n, &x), sorted[n.min(len) - 1], "{n} of {len}");
            }
            assert_eq!(largest(&x).map(|i| x[i]), Some(sorted[0]).filter(|x| *x > f32::NEG_INFINITY));
        }
    }

    #[test]
    fn the_first_among_equals_is_the_largest_and_nothing_is_without_hope() {
        assert_eq!(largest(&[1.0, 3.0, 3.0]), Some(1));
        assert_eq!(largest(&[-0.0, 0.0]), Some(0));
        assert_eq!(largest(&[f32::NEG_INFINITY; 40]), None);
        assert_eq!(largest(&[]), None);
    }
}
