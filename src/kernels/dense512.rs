//! Products with `f32`, `f16` and `bf16` weights by AVX-512, in the orders of additions that `matmul.rs` documents.
//!
//! Four loops, each for all kinds of weights:
//!
//! | rows of x | `Layout::OutIn` | `Layout::InOut` |
//! |---|---|---|
//! | up to [`FEW`] | [`out_in_few`]: four weight rows at a time, straight from memory | [`in_out_few`]: eight inputs at a time, the sums stay in the caches |
//! | more | [`out_in_many`]: sixteen weight rows are interleaved once for all rows of x | [`in_out_many`]: a strip of 32 columns is copied once |
//!
//! Few rows take as long as reading the weights does, so what counts there is the order in which memory is asked for.
//!
//! The loops are `#[inline(always)]` and unsafe because they become vector code only inside of the entries at the end,
//! which carry the CPU features. Their safety is one argument: [`check`] asserts that the weights and the panels are as
//! long as the shape says, and every pointer below stays inside of that shape; only prefetches go beyond.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use half::bf16;

use super::kinds512::{Brain, Half, Kind, Single};
use super::lanes::{LANES, Lanes};
use super::product::{Family, Out, Panels};
use super::{Layout, Matrix, Slice, matmul};

/// Up to so many rows of x are multiplied while the weights stream by.
const FEW: usize = 8;

/// Rows of a panel of many: with four vectors of weights 24 sums, the most that 32 registers hold beside them.
const OUT_IN_ROWS: usize = 6;

/// The same with two vectors of weights.
const IN_OUT_ROWS: usize = 12;

/// Bytes of a packed strip of weights, and how many of them are used by a panel while it is in the caches: together a
/// quarter of a 1 MiB L2 cache.
const STRIP_BYTES: usize = 64 << 10;
const STRIPS: usize = 4;

thread_local! {
    /// The packed strip of this thread, and sums on their way. Kept, since fresh memory costs a page fault for every 4 KiB.
    static STRIP: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<Lanes>> = const { RefCell::new(Vec::new()) };
}

/// Rows per panel.
pub(super) fn panel_rows(w: &Matrix<'_>, rows: usize) -> usize {
    match (rows, w.layout) {
        (0..=FEW, _) => rows.next_power_of_two(),
        (_, Layout::OutIn) => OUT_IN_ROWS,
        (_, Layout::InOut) => IN_OUT_ROWS,
    }
}

/// Pieces begin at whole tiles.
pub(super) fn column_unit(w: &Matrix<'_>, _rows: usize) -> usize {
    match w.layout {
        Layout::OutIn => 16,
        Layout::InOut => 32,
    }
}

/// A matrix and the rows that it is multiplied with, as pointers.
struct Product<'a> {
    weights: *const u8,
    inputs: usize,
    outputs: usize,
    x: Panels<'a>,
    columns: Range<usize>,
    out: &'a Out<'a>,
}

/// Everything that the loops rely on.
fn check(w: &Matrix<'_>, x: &Panels<'_>, columns: &Range<usize>) {
    assert_eq!(w.data.len(), w.inputs * w.outputs, "length of W");
    assert!(columns.start <= columns.end && columns.end <= w.outputs, "columns {columns:?} of {}", w.outputs);
    let panels = x.rows.div_ceil(x.panel_rows);
    let panel_bytes = match w.data {
        Slice::Bf16(_) => pairs_panel_bytes(w, x.panel_rows),
        _ => matmul::panel_bytes(w, x.panel_rows),
    };
    assert!(x.panel_bytes >= panel_bytes && x.data.len() >= panels * x.panel_bytes, "{panels} panels");
}

/// Bytes of a panel for `bf16`: eight inputs of every row after each other, or two for `Layout::InOut`.
pub(super) fn pairs_panel_bytes(w: &Matrix<'_>, panel_rows: usize) -> usize {
    (w.inputs.next_multiple_of(8) * 2 * panel_rows).next_multiple_of(64)
}

/// Lays rows out as panels for `bf16`: (inputs / 8, panel_rows, 8), or (inputs / 2, panel_rows, 2) for `Layout::InOut`.
#[inline(always)]
fn prepare_pairs(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
    let to: &mut [bf16] = bytemuck::cast_slice_mut(to);
    if x.len() < panel_rows * w.inputs || !w.inputs.is_multiple_of(8) {
        to.fill(bf16::ZERO);
    }
    for (r, row) in x.chunks_exact(w.inputs).enumerate() {
        let (eights, rest) = row.as_chunks::<8>();
        match w.layout {
            Layout::OutIn => {
                let mut steps = to.as_chunks_mut::<8>().0.iter_mut().skip(r).step_by(panel_rows);
                for (x, to) in eights.iter().zip(steps.by_ref()) {
                    for (to, x) in to.iter_mut().zip(x) {
                        *to = matmul::round(*x);
                    }
                }
                if let Some(to) = steps.next() {
                    for (to, x) in to.iter_mut().zip(rest) {
                        *to = matmul::round(*x);
                    }
                }
            }
            Layout::InOut => {
                let mut pairs = to.as_chunks_mut::<2>().0.iter_mut().skip(r).step_by(panel_rows);
                for x in eights {
                    let mut rounded = [bf16::ZERO; 8];
                    for (to, x) in rounded.iter_mut().zip(x) {
                        *to = matmul::round(*x);
                    }
                    for (x, to) in rounded.as_chunks::<2>().0.iter().zip(pairs.by_ref()) {
                        *to = *x;
                    }
                }
                for (x, to) in rest.chunks(2).zip(pairs) {
                    for (to, x) in to.iter_mut().zip(x) {
                        *to = matmul::round(*x);
                    }
                }
            }
        }
    }
}

/// Four rows of 16 dwords become four steps that each hold four dwords of every row.
#[inline(always)]
unsafe fn interleave([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: register to register, in an entry with AVX-512.
    unsafe {
        let (ab0, ab1) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
        let (cd0, cd1) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
        [
            _mm512_shuffle_i32x4::<0x88>(ab0, cd0),
            _mm512_shuffle_i32x4::<0xdd>(ab0, cd0),
            _mm512_shuffle_i32x4::<0x88>(ab1, cd1),
            _mm512_shuffle_i32x4::<0xdd>(ab1, cd1),
        ]
    }
}

/// The dwords of four rows that begin `at` bytes into each, interleaved. Not by `map`: closures are not vector code.
#[inline(always)]
unsafe fn interleaved<K: Kind, const WHOLE: bool>(
    [a, b, c, d]: [*const u8; 4],
    at: usize,
    count: usize,
) -> [__m512i; 4] {
    // SAFETY: the caller's rows reach so far.
    unsafe {
        let (a, b) = (K::run::<WHOLE>(a.add(at), count), K::run::<WHOLE>(b.add(at), count));
        let (c, d) = (K::run::<WHOLE>(c.add(at), count), K::run::<WHOLE>(d.add(at), count));
        interleave([a, b, c, d])
    }
}

/// The sixteen outputs whose four partial sums lie in four neighbouring lanes each, `(p0 + p1) + (p2 + p3)`.
#[inline(always)]
unsafe fn quad_sums([a, b, c, d]: [__m512; 4]) -> Lanes {
    // SAFETY: register to register, in an entry with AVX-512; sixteen f32 in a register have the layout of an array.
    unsafe {
        // Inside of each 128 bits a transpose: afterwards lane 4 * i + j of vector p is partial sum p of output 4 * j + i.
        let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd0, cd1) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        let (ab0, ab1) = (_mm512_castps_pd(ab0), _mm512_castps_pd(ab1));
        let (cd0, cd1) = (_mm512_castps_pd(cd0), _mm512_castps_pd(cd1));
        let p0 = _mm512_castpd_ps(_mm512_unpacklo_pd(ab0, cd0));
        let p1 = _mm512_castpd_ps(_mm512_unpackhi_pd(ab0, cd0));
        let p2 = _mm512_castpd_ps(_mm512_unpacklo_pd(ab1, cd1));
        let p3 = _mm512_castpd_ps(_mm512_unpackhi_pd(ab1, cd1));
        let sums = _mm512_add_ps(_mm512_add_ps(p0, p1), _mm512_add_ps(p2, p3));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        lanes(_mm512_permutexvar_ps(order, sums))
    }
}

#[inline(always)]
fn lanes(v: __m512) -> Lanes {
    // SAFETY: sixteen f32 in a register have the layout of an array.
    Lanes(unsafe { std::mem::transmute::<__m512, [f32; LANES]>(v) })
}

/// [out, in] for few rows of x: GROUPS groups of four weight rows at a time.
#[inline(always)]
unsafe fn out_in_few<K: Kind, const GROUPS: usize, const ROWS: usize>(p: &Product<'_>) {
    assert!(p.x.rows <= ROWS, "{} rows in one panel of {ROWS}", p.x.rows);
    let row_bytes = p.inputs * K::BYTES;
    let row = |column: usize| p.weights.wrapping_add(column.min(p.outputs - 1) * row_bytes);
    let mut column = p.columns.start;
    while column < p.columns.end {
        let count = LANES.min(p.columns.end - column);
        // SAFETY: `row` is a row of W, each as long as x has inputs; the panel holds ROWS rows.
        unsafe {
            let x = p.x.data.as_ptr();
            let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
            for group in (0..count.div_ceil(4)).step_by(GROUPS) {
                let first = column + 4 * group;
                let mut rows = [[p.weights; 4]; GROUPS];
                for g in 0..GROUPS {
                    for i in 0..4 {
                        rows[g][i] = row(first + 4 * g + i);
                    }
                }
                let part = dots::<K, GROUPS, ROWS>(rows, row(first + 4 * GROUPS), p.inputs, x);
                for r in 0..ROWS {
                    for g in 0..GROUPS {
                        sums[r][group + g] = part[r][g];
                    }
                }
            }
            for r in 0..ROWS.min(p.x.rows) {
                p.out.store_part(r, column, &quad_sums(sums[r]), count);
            }
        }
        column += LANES;
    }
}

/// The partial sums of groups of four weight rows with ROWS rows of x. What is used next is asked for from `next` on, in the
/// order in which it lies in memory and as much of it as is used here: so many streams at once are more than the CPU's own
/// prefetching follows well, and DRAM is fastest in order.
#[inline(always)]
unsafe fn dots<K: Kind, const GROUPS: usize, const ROWS: usize>(
    rows: [[*const u8; 4]; GROUPS],
    next: *const u8,
    inputs: usize,
    x: *const u8,
) -> [[__m512; GROUPS]; ROWS] {
    let (unit, rest) = (16 * K::DEPTH, inputs % (16 * K::DEPTH));
    // SAFETY: see `out_in_few`.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); GROUPS]; ROWS];
        for i in 0..inputs / unit {
            let at = i * unit * K::BYTES;
            for line in 0..4 * GROUPS * unit * K::BYTES / 64 {
                _mm_prefetch::<_MM_HINT_NTA>(next.wrapping_add(4 * GROUPS * at + 64 * line).cast());
            }
            let mut steps = [[_mm512_setzero_si512(); 4]; GROUPS];
            for g in 0..GROUPS {
                steps[g] = interleaved::<K, true>(rows[g], at, unit);
            }
            for s in 0..4 {
                for r in 0..ROWS {
                    let x = spread::<16>(x.add(16 * ((4 * i + s) * ROWS + r)));
                    for g in 0..GROUPS {
                        sums[r][g] = K::add(sums[r][g], steps[g][s], x);
                    }
                }
            }
        }
        if rest > 0 {
            let i = inputs / unit;
            let mut steps = [[_mm512_setzero_si512(); 4]; GROUPS];
            for g in 0..GROUPS {
                steps[g] = interleaved::<K, false>(rows[g], i * unit * K::BYTES, rest);
            }
            for s in 0..rest.div_ceil(4 * K::DEPTH) {
                for r in 0..ROWS {
                    let x = spread::<16>(x.add(16 * ((4 * i + s) * ROWS + r)));
                    for g in 0..GROUPS {
                        sums[r][g] = K::add(sums[r][g], steps[g][s], x);
                    }
                }
            }
        }
        sums
    }
}

/// [out, in] for many rows of x: sixteen weight rows at a time are interleaved into strips that all panels use.
#[inline(always)]
unsafe fn out_in_many<K: Kind>(p: &Product<'_>) {
    const ROWS: usize = OUT_IN_ROWS;
    let row_bytes = p.inputs * K::BYTES;
    let row = |column: usize| p.weights.wrapping_add(column.min(p.outputs - 1) * row_bytes);
    let steps = p.inputs.div_ceil(4 * K::DEPTH); // of four dwords
    let block = (STRIP_BYTES / 256).min(steps.next_multiple_of(4)); // whole units of sixteen dwords
    let mut strip = take(&STRIP, STRIPS * 4 * block);
    let carried = if block < steps { p.x.rows.div_ceil(ROWS) * STRIPS * 4 * ROWS } else { 0 };
    let mut carried = take(&SUMS, carried);
    let carry = carried.as_mut_ptr().cast::<[[__m512; 4]; ROWS]>(); // (panels, STRIPS)
    let mut column = p.columns.start;
    while column < p.columns.end {
        let strips = (p.columns.end - column).div_ceil(16).min(STRIPS);
        let mut from = 0;
        while from < steps {
            let len = block.min(steps - from);
            // SAFETY: the strips have 4 * block vectors each; rows and panels are as long as `check` found them.
            unsafe {
                let to = strip.as_mut_ptr().cast::<__m512i>();
                for i in 0..4 * strips {
                    let first = column + 4 * i;
                    let rows = [row(first), row(first + 1), row(first + 2), row(first + 3)];
                    interleave_rows::<K>(rows, p.inputs, from, len, to.add(i / 4 * 4 * block + i % 4));
                }
                for panel in 0..p.x.rows.div_ceil(ROWS) {
                    let x = p.x.data.as_ptr().add(panel * p.x.panel_bytes + 16 * ROWS * from);
                    for s in 0..strips {
                        let carry = carry.add(panel * STRIPS + s);
                        let mut sums = [[_mm512_setzero_ps(); 4]; ROWS];
                        if from > 0 {
                            sums = carry.read();
                        }
                        let sums = tile::<K, 16, 4, ROWS>(sums, to.add(s * 4 * block), x, len);
                        if from + len < steps {
                            carry.write(sums);
                            continue;
                        }
                        let count = LANES.min(p.columns.end - column - 16 * s);
                        for r in 0..ROWS.min(p.x.rows - panel * ROWS) {
                            p.out.store_part(panel * ROWS + r, column + 16 * s, &quad_sums(sums[r]), count);
                        }
                    }
                }
            }
            from += len;
        }
        column += 16 * STRIPS;
    }
    STRIP.set(strip);
    SUMS.set(carried);
}

/// `sums` and the products of `steps` steps of a strip, VECTORS vectors each, with those of a panel, BYTES for each row.
///
/// A function of values: sums that are indexed by a variable, or that a panic could interrupt, would stay in memory.
#[inline(always)]
unsafe fn tile<K: Kind, const BYTES: usize, const VECTORS: usize, const ROWS: usize>(
    mut sums: [[__m512; VECTORS]; ROWS],
    mut strip: *const __m512i,
    mut x: *const u8,
    steps: usize,
) -> [[__m512; VECTORS]; ROWS] {
    // SAFETY: the strip and the panel are at least so many steps long.
    unsafe {
        for _ in 0..steps {
            let mut weights = [_mm512_setzero_si512(); VECTORS];
            for v in 0..VECTORS {
                weights[v] = *strip.add(v);
            }
            for r in 0..ROWS {
                let x = spread::<BYTES>(x.add(BYTES * r));
                for v in 0..VECTORS {
                    sums[r][v] = K::add(sums[r][v], weights[v], x);
                }
            }
            strip = strip.add(VECTORS);
            x = x.add(BYTES * ROWS);
        }
    }
    sums
}

/// 4 or 16 bytes, repeated.
#[inline(always)]
unsafe fn spread<const BYTES: usize>(x: *const u8) -> __m512i {
    // SAFETY: the caller has so many bytes.
    unsafe {
        if BYTES == 4 {
            _mm512_set1_epi32(x.cast::<i32>().read_unaligned())
        } else {
            _mm512_broadcast_i32x4(_mm_loadu_si128(x.cast()))
        }
    }
}

/// Lays steps `from..from + len` of four weight rows out as every fourth vector of a strip.
#[inline(always)]
unsafe fn interleave_rows<K: Kind>(rows: [*const u8; 4], inputs: usize, from: usize, len: usize, to: *mut __m512i) {
    let (unit, rest) = (16 * K::DEPTH, inputs % (16 * K::DEPTH));
    // SAFETY: `from` is a whole number of units, and the strip has room for whole units.
    unsafe {
        for i in 0..len.div_ceil(4) {
            let at = from / 4 + i;
            let steps = if at < inputs / unit {
                interleaved::<K, true>(rows, at * unit * K::BYTES, unit)
            } else {
                interleaved::<K, false>(rows, at * unit * K::BYTES, rest)
            };
            for s in 0..4 {
                *to.add(4 * (4 * i + s)) = steps[s];
            }
        }
    }
}

/// [in, out] for few rows of x: the weights stream by once, eight inputs at a time, while the sums of all columns of the
/// piece stay in the L1 or L2 cache.
#[inline(always)]
unsafe fn in_out_few<K: Kind, const ROWS: usize>(p: &Product<'_>) {
    assert!(p.x.rows <= ROWS, "{} rows in one panel of {ROWS}", p.x.rows);
    let steps = p.columns.len().div_ceil(32);
    let mut sums = take(&SUMS, steps * ROWS * 2);
    sums[..steps * ROWS * 2].fill(Lanes::ZERO);
    let stride = p.outputs * K::BYTES;
    let start = p.weights.wrapping_add(p.columns.start * K::BYTES);
    let (whole, rest) = (p.columns.len() / 32, p.columns.len() % 32);
    let x = p.x.data.as_ptr();
    let mut input = 0;
    // SAFETY: rows of W are `stride` bytes apart, and the piece's columns lie inside of each.
    unsafe {
        let y = sums.as_mut_ptr().cast::<__m512>();
        let run = whole * 32 * K::BYTES;
        let ahead = AHEAD.min(run);
        while input + 8 <= p.inputs {
            let from = start.add(input * stride);
            let x = x.add(input / K::DEPTH * ROWS * 4);
            for step in 0..whole {
                let at = step * 32 * K::BYTES;
                for line in 0..32 * K::BYTES / 64 {
                    let ask = at + 64 * line + ahead;
                    if ask >= run {
                        // The beginnings of the next eight runs; from there the CPU's own prefetching goes on.
                        for i in 8..16 {
                            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(i * stride + ask - run).cast());
                        }
                    } else if K::WIDENS || ROWS > 1 {
                        // So much is to be done that it does not look far enough ahead.
                        for i in 0..8 {
                            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(i * stride + ask).cast());
                        }
                    }
                }
                stream::<K, ROWS, 8, true>(from.add(at), stride, 32, x, y.add(step * ROWS * 2));
            }
            if rest > 0 {
                stream::<K, ROWS, 8, false>(from.add(whole * 32 * K::BYTES), stride, rest, x, y.add(whole * ROWS * 2));
            }
            input += 8;
        }
        while input < p.inputs {
            let depth = K::DEPTH.min(p.inputs - input);
            let from = start.add(input * stride);
            let x = x.add(input / K::DEPTH * ROWS * 4);
            for step in 0..steps {
                let count = (p.columns.len() - 32 * step).min(32);
                let (at, y) = (from.add(step * 32 * K::BYTES), y.add(step * ROWS * 2));
                if depth == 2 {
                    stream::<K, ROWS, 2, false>(at, stride, count, x, y);
                } else {
                    stream::<K, ROWS, 1, false>(at, stride, count, x, y);
                }
            }
            input += depth;
        }
        for step in 0..steps {
            for r in 0..ROWS.min(p.x.rows) {
                let y = y.add((step * ROWS + r) * 2);
                store_columns::<K>(p, r, p.columns.start + 32 * step, [*y, *y.add(1)]);
            }
        }
    }
    SUMS.set(sums);
}

/// How far ahead of their use bytes of each of eight runs of weights are asked for: 4 KiB in all, which is what a core uses
/// in the time that memory takes to answer.
const AHEAD: usize = 512;

/// Adds INPUTS inputs to the sums of up to 32 columns.
#[inline(always)]
unsafe fn stream<K: Kind, const ROWS: usize, const INPUTS: usize, const WHOLE: bool>(
    from: *const u8,
    stride: usize,
    count: usize,
    x: *const u8,
    y: *mut __m512,
) {
    // SAFETY: see `in_out_few`.
    unsafe {
        let mut weights = [[_mm512_setzero_si512(); 2]; INPUTS];
        for u in 0..INPUTS.div_ceil(K::DEPTH) {
            let at = u * K::DEPTH;
            let below = if at + 1 < INPUTS { from.add((at + 1) * stride) } else { std::ptr::null() };
            weights[u] = K::columns::<WHOLE>(from.add(at * stride), below, count);
        }
        for r in 0..ROWS {
            let y = y.add(2 * r);
            let mut sums = [*y, *y.add(1)];
            for u in 0..INPUTS.div_ceil(K::DEPTH) {
                let x = spread::<4>(x.add(4 * (u * ROWS + r)));
                sums = [K::add(sums[0], weights[u][0], x), K::add(sums[1], weights[u][1], x)];
            }
            *y = sums[0];
            *y.add(1) = sums[1];
        }
    }
}

/// Writes the sums of 32 columns, those that there are.
#[inline(always)]
unsafe fn store_columns<K: Kind>(p: &Product<'_>, row: usize, column: usize, sums: [__m512; 2]) {
    // SAFETY: register to register.
    let [first, second] = unsafe { K::in_order(sums) };
    let count = p.columns.end - column;
    p.out.store_part(row, column, &lanes(first), count.min(LANES));
    if count > LANES {
        p.out.store_part(row, column + LANES, &lanes(second), (count - LANES).min(LANES));
    }
}

/// [in, out] for many rows of x: strips of 32 columns are copied once and used by all panels, since rows that lie a
/// multiple of 4 KiB apart fall into the same few places of the L1 cache.
#[inline(always)]
unsafe fn in_out_many<K: Kind>(p: &Product<'_>) {
    const ROWS: usize = IN_OUT_ROWS;
    let stride = p.outputs * K::BYTES;
    let steps = p.inputs.div_ceil(K::DEPTH); // of a dword
    let block = (STRIP_BYTES / 128).min(steps);
    let mut strip = take(&STRIP, STRIPS * 2 * block);
    let carried = if block < steps { p.x.rows.div_ceil(ROWS) * STRIPS * 2 * ROWS } else { 0 };
    let mut carried = take(&SUMS, carried);
    let carry = carried.as_mut_ptr().cast::<[[__m512; 2]; ROWS]>(); // (panels, STRIPS)
    let mut column = p.columns.start;
    while column < p.columns.end {
        let strips = (p.columns.end - column).div_ceil(32).min(STRIPS);
        let mut from = 0;
        while from < steps {
            let len = block.min(steps - from);
            // SAFETY: the strips have 2 * block vectors each; rows and panels are as long as `check` found them.
            unsafe {
                let to = strip.as_mut_ptr().cast::<__m512i>();
                for step in 0..len {
                    let input = (from + step) * K::DEPTH;
                    let at = p.weights.add(input * stride + column * K::BYTES);
                    for s in 0..strips {
                        let at = at.add(32 * s * K::BYTES);
                        let below = if input + 1 < p.inputs { at.wrapping_add(stride) } else { std::ptr::null() };
                        let count = p.columns.end - column - 32 * s;
                        let [first, second] = if count >= 32 {
                            K::columns::<true>(at, below, 32)
                        } else {
                            K::columns::<false>(at, below, count)
                        };
                        let to = to.add(2 * (s * block + step));
                        *to = first;
                        *to.add(1) = second;
                    }
                }
                for panel in 0..p.x.rows.div_ceil(ROWS) {
                    let x = p.x.data.as_ptr().add(panel * p.x.panel_bytes + 4 * ROWS * from);
                    for s in 0..strips {
                        let carry = carry.add(panel * STRIPS + s);
                        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
                        if from > 0 {
                            sums = carry.read();
                        }
                        let sums = tile::<K, 4, 2, ROWS>(sums, to.add(s * 2 * block), x, len);
                        if from + len < steps {
                            carry.write(sums);
                            continue;
                        }
                        for r in 0..ROWS.min(p.x.rows - panel * ROWS) {
                            store_columns::<K>(p, panel * ROWS + r, column + 32 * s, sums[r]);
                        }
                    }
                }
            }
            from += len;
        }
        column += 32 * STRIPS;
    }
    STRIP.set(strip);
    SUMS.set(carried);
}

/// This thread's buffer, at least `len` vectors of it.
fn take(buffer: &'static std::thread::LocalKey<RefCell<Vec<Lanes>>>, len: usize) -> Vec<Lanes> {
    let mut buffer = buffer.take();
    if buffer.len() < len {
        buffer.resize(len, Lanes::ZERO);
    }
    buffer
}

#[inline(always)]
unsafe fn by_layout<K: Kind>(layout: Layout, p: &Product<'_>) {
    // SAFETY: the caller has checked the product.
    unsafe {
        match (layout, p.x.panel_rows) {
            (Layout::OutIn, 1) => out_in_few::<K, 1, 1>(p),
            (Layout::OutIn, 2) => out_in_few::<K, 1, 2>(p),
            (Layout::OutIn, 4) => out_in_few::<K, 1, 4>(p),
            // Two groups use every load of x twice, which pays where the weights have to be widened as well.
            (Layout::OutIn, FEW) if K::WIDENS => out_in_few::<K, 2, FEW>(p),
            (Layout::OutIn, FEW) => out_in_few::<K, 1, FEW>(p),
            (Layout::OutIn, OUT_IN_ROWS) => out_in_many::<K>(p),
            (Layout::InOut, 1) => in_out_few::<K, 1>(p),
            (Layout::InOut, 2) => in_out_few::<K, 2>(p),
            (Layout::InOut, 4) => in_out_few::<K, 4>(p),
            (Layout::InOut, FEW) => in_out_few::<K, FEW>(p),
            (Layout::InOut, IN_OUT_ROWS) => in_out_many::<K>(p),
            (_, rows) => unreachable!("panels of {rows} rows"),
        }
    }
}

macro_rules! entry {
    ($name:ident, $kind:ty, $features:literal) => {
        /// Some columns of x · W, on a CPU that has the features named.
        fn $name(w: &Matrix<'_>, weights: *const u8, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
            #[target_feature(enable = $features)]
            unsafe fn compiled(layout: Layout, p: &Product<'_>) {
                // SAFETY: passed on.
                unsafe { by_layout::<$kind>(layout, p) }
            }
            check(w, &x, &columns);
            let p = Product { weights, inputs: w.inputs, outputs: w.outputs, x, columns, out };
            // SAFETY: `check` found the lengths right, and the tables that lead here are used only on CPUs that have the
            // features.
            unsafe { compiled(w.layout, &p) }
        }
    };
}

entry!(single, Single, "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c");
entry!(half, Half, "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c");
entry!(brain, Brain, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c");

/// [`prepare_pairs`], as vector code.
fn prepare(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
    fn compiled(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
        match w.data {
            Slice::Bf16(_) => prepare_pairs(w, panel_rows, x, to),
            _ => matmul::prepare(w, panel_rows, x, to),
        }
    }
    // SAFETY: only `BF16` leads here, which is used on CPUs that have the features.
    unsafe { compiled(w, panel_rows, x, to) }
}

fn panel_bytes(w: &Matrix<'_>, panel_rows: usize) -> usize {
    match w.data {
        Slice::Bf16(_) => pairs_panel_bytes(w, panel_rows),
        _ => matmul::panel_bytes(w, panel_rows),
    }
}

fn multiply(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
    match w.data {
        Slice::F32(data) => single(w, data.as_ptr().cast(), x, columns, out),
        Slice::F16(data) => half(w, data.as_ptr().cast(), x, columns, out),
        Slice::Bf16(data) => brain(w, data.as_ptr().cast(), x, columns, out),
        Slice::Blocks(..) => unreachable!("the family of quantised weights multiplies these"),
    }
}

/// Dense weights on a CPU with AVX-512 and its instruction for `bf16`.
pub(super) const BF16: Family = Family { panel_rows, panel_bytes, prepare, column_unit, multiply };

/// Dense weights on a CPU with AVX-512: `bf16` by the portable loops.
pub(super) const PLAIN: Family = Family {
    panel_rows: |w, rows| match w.data {
        Slice::Bf16(_) => matmul::panel_rows::<OUT_IN_ROWS>(w, rows),
        _ => panel_rows(w, rows),
    },
    panel_bytes: matmul::panel_bytes,
    prepare: |w, panel_rows, x, to| {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
        fn compiled(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]) {
            matmul::prepare(w, panel_rows, x, to);
        }
        // SAFETY: this family is used only on CPUs that have the features.
        unsafe { compiled(w, panel_rows, x, to) }
    },
    column_unit: |w, rows| match w.data {
        Slice::Bf16(_) => matmul::column_unit(w, rows),
        _ => column_unit(w, rows),
    },
    multiply: |w, x, columns, out| {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")]
        fn compiled(data: &[bf16], w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>) {
            matmul::by_layout::<bf16, 4, OUT_IN_ROWS>(data, w, x, columns, out);
        }
        match w.data {
            // SAFETY: this family is used only on CPUs that have the features.
            Slice::Bf16(data) => unsafe { compiled(data, w, x, columns, out) },
            _ => multiply(w, x, columns, out),
        }
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dpbf16(sum: f32, w: [bf16; 2], x: [bf16; 2]) -> f32 {
        let dword = |[even, odd]: [bf16; 2]| {
            _mm512_set1_epi32((u32::from(odd.to_bits()) << 16 | u32::from(even.to_bits())) as i32)
        };
        // SAFETY: the types differ in name only.
        let [w, x] = [w, x].map(|pair| unsafe { std::mem::transmute::<__m512i, __m512bh>(dword(pair)) });
        _mm512_cvtss_f32(_mm512_dpbf16_ps(_mm512_set1_ps(sum), w, x))
    }

    /// What all other tiers repeat: the product of the second of a pair is added first, and each addition is rounded once.
    #[test]
    fn the_instruction_for_bf16_is_two_fused_additions_second_of_the_pair_first() {
        if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")) {
            return;
        }
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        };
        let (mut other_order, mut not_fused) = (0, 0);
        for _ in 0..200_000 {
            // Magnitudes from 2^-30 to 2^30, close enough to each other that every rounding matters.
            let middle = next() % 50 + 102;
            let mut number = |spread: u32| {
                let bits = next() & 0x007f_ffff | (middle - spread / 2 + next() % spread) << 23 | next() << 31;
                f32::from_bits(bits)
            };
            let [w0, w1, x0, x1] = [number(6), number(6), number(6), number(6)].map(bf16::from_f32);
            // Of the magnitude of the products.
            let sum = number(24) * w0.to_f32();
            let [a, b, c, d] = [w0, w1, x0, x1].map(bf16::to_f32);
            let expected = a.mul_add(c, b.mul_add(d, sum));
            // SAFETY: the features were found above.
            let found = unsafe { dpbf16(sum, [w0, w1], [x0, x1]) };
            assert_eq!(found.to_bits(), expected.to_bits(), "{sum:e} + {a:e} * {c:e} + {b:e} * {d:e}");
            other_order += usize::from(b.mul_add(d, a.mul_add(c, sum)).to_bits() != expected.to_bits());
            not_fused += usize::from(((sum + b * d) + a * c).to_bits() != expected.to_bits());
        }
        // The numbers tell the orders apart. Products of bf16 are exact in f32, so that fused or not is the same.
        assert!(other_order > 10_000, "{other_order}");
        assert_eq!(not_fused, 0);
    }
}
