//! A stored matrix into blocks, on all threads, piece by piece.
//!
//! Blocks lie along the inputs. Rows of torch's `Linear` are widened a few at a time; of a `Conv1D`, whose rows are inputs,
//! some columns are turned at a time. So no copy of the matrix in f32 is ever made.

use std::ops::Range;

use crate::kernels::{Format, Kernels, Layout, Pool, Slice};

/// The first number of a matrix that no scale can reach, with its place in the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct OutOfRange {
    pub(super) index: usize,
    pub(super) value: f32,
}

/// Numbers that one thread turns into blocks in one go: few enough that the last pieces of a matrix keep all threads busy.
const PIECE: usize = 1 << 17;

/// Rows that are widened at a time: whole tiles of the search even where rows are short, see `kernels/quantize.rs`.
const ROWS: usize = 16;

/// Columns of a `Conv1D` that are turned at a time: whole cache lines of every format.
const COLUMNS: usize = 64;

/// Scales are f16, so that numbers must stay below its largest.
const LARGEST: f32 = 65504.0;

/// The blocks of a matrix, row by row of its outputs. `done` is told which numbers of `w` will not be read again.
pub(super) fn quantize(
    w: Slice<'_>,
    (layout, inputs, outputs): (Layout, usize, usize),
    format: Format,
    (kernels, pool): (&Kernels, &Pool),
    done: impl Fn(Range<usize>) + Sync,
) -> Result<Vec<u8>, OutOfRange> {
    let mut bytes = vec![0; format.bytes(inputs * outputs)];
    let rows = match layout {
        Layout::OutIn => (PIECE / inputs).next_multiple_of(ROWS),
        Layout::InOut => COLUMNS,
    };
    let starts = (0..outputs).step_by(rows);
    let mut found = vec![None; outputs.div_ceil(rows)];
    let pieces = starts.zip(bytes.chunks_mut(format.bytes(rows * inputs))).zip(&mut found).collect();
    pool.for_each(pieces, |((start, to), found): ((usize, &mut [u8]), &mut Option<OutOfRange>)| {
        let piece = start..(start + rows).min(outputs);
        *found = match layout {
            Layout::OutIn => {
                let found = quantize_rows(w, piece.clone(), inputs, format, kernels, to);
                done(piece.start * inputs..piece.end * inputs);
                found
            }
            Layout::InOut => quantize_columns(w, piece, (inputs, outputs), format, kernels, to),
        };
    });
    // Of columns all are done only now; of rows, reading a piece brings in some of its neighbours again.
    done(0..inputs * outputs);
    match found.into_iter().flatten().min_by_key(|found| found.index) {
        Some(found) => Err(found),
        None => Ok(bytes),
    }
}

fn quantize_rows(
    w: Slice<'_>,
    rows: Range<usize>,
    inputs: usize,
    format: Format,
    kernels: &Kernels,
    to: &mut [u8],
) -> Option<OutOfRange> {
    let mut widened = Vec::new();
    for (start, to) in rows.clone().step_by(ROWS).zip(to.chunks_mut(format.bytes(ROWS * inputs))) {
        let numbers = start * inputs..(start + ROWS).min(rows.end) * inputs;
        let x = match w.part(numbers.clone()) {
            Slice::F32(x) => x,
            others => {
                widened.resize(others.len(), 0.0);
                kernels.widen(others, &mut widened);
                &widened
            }
        };
        if let Some(index) = out_of_range(x) {
            return Some(OutOfRange { index: numbers.start + index, value: x[index] });
        }
        kernels.quantize(format, x, to);
    }
    None
}

fn quantize_columns(
    w: Slice<'_>,
    columns: Range<usize>,
    (inputs, outputs): (usize, usize),
    format: Format,
    kernels: &Kernels,
    to: &mut [u8],
) -> Option<OutOfRange> {
    /// Inputs that are turned at a time: what is written of each column is a cache line.
    const INPUTS: usize = 16;
    let mut turned = vec![0.0; columns.len() * inputs];
    let mut lines = [[0.0; COLUMNS]; INPUTS];
    for first in (0..inputs).step_by(INPUTS) {
        let count = INPUTS.min(inputs - first);
        for (i, line) in lines[..count].iter_mut().enumerate() {
            let start = (first + i) * outputs + columns.start;
            kernels.widen(w.part(start..start + columns.len()), &mut line[..columns.len()]);
        }
        for (column, row) in turned.chunks_exact_mut(inputs).enumerate() {
            for (to, line) in row[first..first + count].iter_mut().zip(&lines) {
                *to = line[column];
            }
        }
    }
    if out_of_range(&turned).is_some() {
        // The first of the file, not of the turned columns.
        let all = turned.iter().enumerate().filter(|(_, x)| is_out_of_range(**x));
        let places =
            all.map(|(i, x)| OutOfRange { index: i % inputs * outputs + columns.start + i / inputs, value: *x });
        return places.min_by_key(|found| found.index);
    }
    kernels.quantize(format, &turned, to);
    None
}

/// Also of what is not a number.
fn is_out_of_range(x: f32) -> bool {
    x.is_nan() || x.abs() > LARGEST
}

fn out_of_range(x: &[f32]) -> Option<usize> {
    // Without an exit the loop is a few instructions for many numbers.
    let any = x.iter().fold(false, |any, x| any | is_out_of_range(*x));
    if any { x.iter().position(|x| is_out_of_range(*x)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Mutex;

    use super::*;
    use crate::kernels::best;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * i * 31 + i * 7) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    fn pool(threads: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads)).expect("threads")
    }

    #[test]
    fn a_matrix_gives_the_same_blocks_either_way_round_on_any_number_of_threads() {
        for (inputs, outputs) in [(32, 1), (64, 70), (256, 64), (768, 201), (3072, 130)] {
            let rows = numbers(inputs * outputs);
            let mut turned = vec![0.0; rows.len()];
            for (i, x) in rows.iter().enumerate() {
                turned[i % inputs * outputs + i / inputs] = *x;
            }
            for format in Format::ALL.into_iter().filter(|format| inputs % format.block_len() == 0) {
                let mut expected = vec![0; format.bytes(rows.len())];
                best().quantize(format, &rows, &mut expected);
                for threads in [1, 3] {
                    let pool = pool(threads);
                    for (w, layout) in [(&rows, Layout::OutIn), (&turned, Layout::InOut)] {
                        let done = Mutex::new(vec![false; w.len()]);
                        let note = |range: Range<usize>| done.lock().unwrap()[range].fill(true);
                        let shape = (layout, inputs, outputs);
                        let found = quantize(Slice::F32(w), shape, format, (best(), &pool), note).unwrap();
                        assert!(found == expected, "{} {layout:?} {inputs} x {outputs}, {threads}", format.name());
                        assert!(done.into_inner().unwrap().into_iter().all(|done| done), "all numbers are let go of");
                    }
                }
            }
        }
    }

    #[test]
    fn half_precision_is_widened_first() {
        let pool = pool(2);
        let x = numbers(64 * 40);
        let halves: Vec<half::f16> = x.iter().map(|x| half::f16::from_f32(*x)).collect();
        let upper: Vec<half::bf16> = x.iter().map(|x| half::bf16::from_f32(*x)).collect();
        for (w, wide) in [
            (Slice::F16(&halves), halves.iter().map(|x| x.to_f32()).collect::<Vec<_>>()),
            (Slice::Bf16(&upper), upper.iter().map(|x| x.to_f32()).collect()),
        ] {
            for layout in [Layout::OutIn, Layout::InOut] {
                let blocks = |w| quantize(w, (layout, 64, 40), Format::Q5_1, (best(), &pool), |_| ()).unwrap();
                assert!(blocks(w) == blocks(Slice::F32(&wide)), "{w:?}");
            }
        }
    }

    #[test]
    fn the_first_number_out_of_range_is_named_by_its_place_in_the_file() {
        let pool = pool(2);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65536.0, -1e30] {
            for (index, other) in [(0, 0), (5, 4000), (2047, 2047), (64 * 63 + 1, 64 * 63 + 2)] {
                let mut w = numbers(64 * 64);
                (w[index], w[other]) = (bad, bad);
                for layout in [Layout::OutIn, Layout::InOut] {
                    let found = quantize(Slice::F32(&w), (layout, 64, 64), Format::Q8_0, (best(), &pool), |_| ());
                    let found = found.expect_err("not a weight");
                    assert_eq!((found.index, found.value.to_bits()), (index, bad.to_bits()), "{layout:?}");
                }
            }
        }
        let most = vec![LARGEST; 256];
        for format in Format::ALL {
            let blocks = quantize(Slice::F32(&most), (Layout::OutIn, 256, 1), format, (best(), &pool), |_| ()).unwrap();
            let mut back = vec![0.0; 256];
            best().widen(Slice::Blocks(format, &blocks), &mut back);
            assert!(back.iter().all(|x| x.is_finite() && *x > 0.5 * LARGEST), "{}: {:?}", format.name(), &back[..4]);
        }
    }
}
