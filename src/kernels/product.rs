//! Where a matrix product and its driver meet: rows prepared for one kind of weights, and the place that results go to.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

use super::lanes::{LANES, Lanes};
use super::pool::Buffer;
use super::{Before, INLINE_WORK, Kernels, Layout, Matrix, PIECES_PER_THREAD, Part, Pool, Slice};

/// How one kind of weights is multiplied: functions compiled for one set of instructions.
///
/// What `prepare` lays out depends on the kind of weights, their layout, the inputs and the rows per panel only, so that
/// matrices which agree in these share one preparation.
pub(super) struct Family {
    /// Rows of x that are prepared together when there are so many.
    pub(super) panel_rows: fn(w: &Matrix<'_>, rows: usize) -> usize,
    /// Bytes of a panel, a multiple of 64.
    pub(super) panel_bytes: fn(w: &Matrix<'_>, panel_rows: usize) -> usize,
    /// Lays up to `panel_rows` rows of x out in the order in which they are read; rows that are missing are zeros.
    pub(super) prepare: fn(w: &Matrix<'_>, panel_rows: usize, x: &[f32], to: &mut [u8]),
    /// Pieces of the outputs are cut at multiples of this.
    pub(super) column_unit: fn(w: &Matrix<'_>, rows: usize) -> usize,
    /// Some columns of x · W for all rows of the panels.
    pub(super) multiply: fn(w: &Matrix<'_>, x: Panels<'_>, columns: Range<usize>, out: &Out<'_>),
}

/// Prepared rows of x.
#[derive(Clone, Copy)]
pub(super) struct Panels<'a> {
    /// Panel after panel, each of `panel_bytes`; aligned to 64 bytes.
    pub(super) data: &'a [u8],
    /// Rows per panel; the last one may hold fewer.
    pub(super) panel_rows: usize,
    /// Bytes per panel.
    pub(super) panel_bytes: usize,
    /// Rows in all.
    pub(super) rows: usize,
}

/// Some rows and columns of y, which `(sum + bias) + residual` is written to.
///
/// Rows count from the first one of the panels, columns from the first one of the matrix. Pieces of one product write to
/// disjoint parts of the same y, which is why this is not a slice.
pub(super) struct Out<'a> {
    /// The first row's column 0.
    y: *mut f32,
    /// The same place in the residual, or null.
    residual: *const f32,
    /// Elements from row to row, in y and in the residual.
    stride: usize,
    rows: usize,
    columns: Range<usize>,
    bias: Option<&'a [f32]>,
    memory: PhantomData<&'a mut [f32]>,
}

impl<'a> Out<'a> {
    /// The part of `y` that begins at `offset` and whose rows are `stride` apart.
    ///
    /// # Safety
    ///
    /// Until the result is dropped, nobody else reads or writes the `columns` of the `rows`, and `y` stays valid for
    /// writes, and `residual`, if it is not null, for reads, of `(rows - 1) * stride + columns.end` elements.
    #[allow(unsafe_code)]
    pub(super) unsafe fn new(
        y: *mut f32,
        residual: *const f32,
        stride: usize,
        rows: usize,
        columns: Range<usize>,
        bias: Option<&'a [f32]>,
    ) -> Out<'a> {
        assert!(bias.is_none_or(|bias| bias.len() >= columns.end));
        Out { y, residual, stride, rows, columns, bias, memory: PhantomData }
    }

    /// Writes one result.
    #[inline(always)]
    pub(super) fn store(&self, row: usize, column: usize, sum: f32) {
        self.check(row, column, 1);
        let at = row * self.stride + column;
        let mut sum = sum;
        if let Some(bias) = self.bias {
            sum += bias[column];
        }
        // SAFETY: `check` found the element inside the part that `new` was promised.
        #[allow(unsafe_code)]
        unsafe {
            if !self.residual.is_null() {
                sum += *self.residual.add(at);
            }
            *self.y.add(at) = sum;
        }
    }

    /// Writes the results of sixteen columns.
    #[inline(always)]
    pub(super) fn store_lanes(&self, row: usize, column: usize, sums: &Lanes) {
        self.check(row, column, LANES);
        let at = row * self.stride + column;
        let mut sums = sums.0;
        if let Some(bias) = self.bias {
            let bias: &[f32; LANES] = bias[column..].first_chunk().expect("new asserted the length");
            for i in 0..LANES {
                sums[i] += bias[i];
            }
        }
        // SAFETY: `check` found the elements inside the part that `new` was promised.
        #[allow(unsafe_code)]
        unsafe {
            if !self.residual.is_null() {
                let residual = self.residual.add(at).cast::<[f32; LANES]>().read_unaligned();
                for i in 0..LANES {
                    sums[i] += residual[i];
                }
            }
            self.y.add(at).cast::<[f32; LANES]>().write_unaligned(sums);
        }
    }

    /// Writes the first `count` of sixteen results.
    #[inline(always)]
    pub(super) fn store_part(&self, row: usize, column: usize, sums: &Lanes, count: usize) {
        if count == LANES {
            return self.store_lanes(row, column, sums);
        }
        for (i, sum) in sums.0.iter().enumerate().take(count) {
            self.store(row, column + i, *sum);
        }
    }

    /// Where a kernel that writes by itself puts `count` columns of a row, with the bias and the residual that it adds
    /// there, null where there is none.
    #[inline(always)]
    pub(super) fn place(&self, row: usize, column: usize, count: usize) -> (*mut f32, *const f32, *const f32) {
        self.check(row, column, count);
        let at = row * self.stride + column;
        let bias = self.bias.map_or(std::ptr::null(), |bias| bias[column..].as_ptr());
        let residual = if self.residual.is_null() { self.residual } else { self.residual.wrapping_add(at) };
        (self.y.wrapping_add(at), bias, residual)
    }

    #[inline(always)]
    fn check(&self, row: usize, column: usize, count: usize) {
        assert!(row < self.rows && column >= self.columns.start && column + count <= self.columns.end);
    }
}

thread_local! {
    /// Rows of this thread on their way from `Before` to `prepare`.
    static ROWS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of prepared rows that stay in the last cache beside the weights. Above, so many rows at a time are multiplied with
/// all columns.
const RESIDENT: usize = 8 << 20;

/// Rows of such a pass: enough for a tile of weights to be unpacked for.
const PASS_ROWS: usize = 128;

/// Up to so many rows a piece of [in, out] weights is read row by row.
const STREAMED_ROWS: usize = 8;

/// Up to so many rows each thread reads a stretch of the weights from end to end, which is up to a seventh faster. With more
/// rows threads that work side by side share what they read; prompts with bf16 weights are a tenth faster so. Blocks take
/// longer to unpack than to read, and are faster in stretches whatever the rows.
const STRETCHED_ROWS: usize = 16;

/// x, laid out for one kind of weights.
struct Prepared {
    kind: (bool, bool, Layout),
    buffer: Buffer,
    panel_rows: usize,
    panel_bytes: usize,
}

/// How one part is cut into pieces.
struct Cut {
    prepared: usize,
    /// Where its outputs begin in a row of y.
    offset: usize,
    width: usize,
    across: usize,
}

/// [`Kernels::linear`].
pub(super) fn linear(
    kernels: &Kernels,
    pool: &Pool,
    parts: &[Part<'_>],
    before: Before<'_>,
    x: &[f32],
    residual: Option<&[f32]>,
) -> Vec<f32> {
    let inputs = parts.first().expect("a product has parts").matrix.inputs;
    let outputs: usize = parts.iter().map(|part| part.matrix.outputs).sum();
    for Part { matrix, bias } in parts {
        assert!(
            inputs > 0 && matrix.outputs > 0,
            "matrix without numbers: {inputs} inputs, {} outputs",
            matrix.outputs
        );
        assert_eq!(matrix.inputs, inputs, "inputs of parts");
        assert_eq!(matrix.data.len(), inputs * matrix.outputs, "length of W");
        assert!(bias.is_none_or(|bias| bias.len() == matrix.outputs), "length of the bias is not {}", matrix.outputs);
        if let Slice::Blocks(format, _) = matrix.data {
            let whole = matrix.layout == Layout::OutIn && inputs.is_multiple_of(format.block_len());
            assert!(whole, "{} weights of {inputs} inputs, {:?}", format.name(), matrix.layout);
        }
    }
    let wide = if matches!(before, Before::Gated(_)) { 2 * inputs } else { inputs };
    assert_eq!(x.len() % wide, 0, "length of x, {}, is not whole rows of {wide}", x.len());
    let rows = x.len() / wide;
    assert!(residual.is_none_or(|residual| residual.len() == rows * outputs), "length of the residual");
    if let Before::LayerNorm { weight, .. } | Before::RmsNorm { weight, .. } = before {
        assert_eq!(weight.len(), inputs, "length of the norm's weight");
    }
    if let Before::LayerNorm { bias, .. } = before {
        assert_eq!(bias.len(), inputs, "length of the norm's bias");
    }
    let mut y: Vec<f32> = Vec::with_capacity(rows * outputs);
    if rows == 0 {
        return y;
    }

    let work = rows * inputs * outputs;
    let wanted = if pool.threads() == 1 || work < INLINE_WORK { 1 } else { pool.threads() * PIECES_PER_THREAD };
    let mut prepared: Vec<Prepared> = Vec::with_capacity(1);
    let mut cuts: Vec<Cut> = Vec::with_capacity(parts.len());
    let mut offset = 0;
    for Part { matrix, .. } in parts {
        let kind = kind_of(matrix);
        let known = prepared.iter().position(|p| p.kind == kind);
        let prepared = known.unwrap_or_else(|| {
            prepared.push(prepare(kernels, pool, matrix, before, x, rows, wanted));
            prepared.len() - 1
        });
        let unit = (kernels.family(matrix).column_unit)(matrix, rows);
        // For few rows [in, out] weights stream by in runs as long as a piece is wide, and short runs are slow to fetch.
        let streams = matrix.layout == Layout::InOut && rows <= STREAMED_ROWS;
        let pieces = if streams { wanted.min(pool.threads()) } else { wanted };
        let width = matrix.outputs.div_ceil(pieces).next_multiple_of(unit);
        cuts.push(Cut { prepared, offset, width, across: matrix.outputs.div_ceil(width) });
        offset += matrix.outputs;
    }

    // Few columns are made up for by cutting the rows too, in whole panels; so are too many rows for the cache.
    let across: usize = cuts.iter().map(|cut| cut.across).sum();
    let tallest = prepared.iter().map(|p| p.panel_rows).max().unwrap_or(1);
    let bytes = prepared.iter().map(|p| rows.div_ceil(p.panel_rows) * p.panel_bytes).max().unwrap_or(0);
    let passes = if bytes > RESIDENT { rows.div_ceil(PASS_ROWS) } else { wanted.div_ceil(across).min(rows) };
    let height = rows.div_ceil(passes).next_multiple_of(tallest);
    let down = rows.div_ceil(height);

    let whole =
        Whole { y: y.as_mut_ptr(), residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr), stride: outputs };
    let each = |piece: usize| {
        let (pass, mut piece) = (piece / across, piece % across);
        let mut part = 0;
        while piece >= cuts[part].across {
            piece -= cuts[part].across;
            part += 1;
        }
        let (cut, Part { matrix, bias }) = (&cuts[part], &parts[part]);
        let columns = piece * cut.width..((piece + 1) * cut.width).min(matrix.outputs);
        let x = &prepared[cut.prepared];
        let (first, end) = (pass * height, ((pass + 1) * height).min(rows));
        let panels = first / x.panel_rows * x.panel_bytes..end.div_ceil(x.panel_rows) * x.panel_bytes;
        let panels = Panels {
            data: &x.buffer.all()[panels],
            panel_rows: x.panel_rows,
            panel_bytes: x.panel_bytes,
            rows: end - first,
        };
        // SAFETY: each piece has its own rows and columns; y has room for, and the residual holds, all rows of all
        // outputs, and both outlive the pieces.
        #[allow(unsafe_code)]
        let out = unsafe { whole.part(first, cut.offset, end - first, columns.clone(), *bias) };
        (kernels.family(matrix).multiply)(matrix, panels, columns, &out);
    };
    let streams = rows <= STRETCHED_ROWS || parts.iter().all(|part| matches!(part.matrix.data, Slice::Blocks(..)));
    if streams {
        pool.run_in_stretches(across * down, each)
    } else {
        pool.run(across * down, each)
    }
    // SAFETY: the pieces cover all rows and columns, and each kernel stores every element of its piece.
    #[allow(unsafe_code)]
    unsafe {
        y.set_len(rows * outputs);
    }
    for prepared in prepared {
        pool.give_back(prepared.buffer);
    }
    y
}

/// y, and the residual that is added to it.
struct Whole {
    y: *mut f32,
    residual: *const f32,
    stride: usize,
}

// SAFETY: pieces on several threads write to disjoint elements of y, through `part`, and only read the residual.
#[allow(unsafe_code)]
unsafe impl Sync for Whole {}

impl Whole {
    /// # Safety
    ///
    /// As for [`Out::new`], of the rows and columns that begin at `row` and `offset`.
    #[allow(unsafe_code)]
    unsafe fn part<'a>(
        &self,
        row: usize,
        offset: usize,
        rows: usize,
        columns: Range<usize>,
        bias: Option<&'a [f32]>,
    ) -> Out<'a> {
        let at = row * self.stride + offset;
        let residual = if self.residual.is_null() { self.residual } else { self.residual.wrapping_add(at) };
        // SAFETY: the caller's promise.
        unsafe { Out::new(self.y.wrapping_add(at), residual, self.stride, rows, columns, bias) }
    }
}

/// Matrices of one kind share prepared rows.
fn kind_of(w: &Matrix<'_>) -> (bool, bool, Layout) {
    (matches!(w.data, Slice::Blocks(..)), matches!(w.data, Slice::Bf16(_)), w.layout)
}

fn prepare(
    kernels: &Kernels,
    pool: &Pool,
    w: &Matrix<'_>,
    before: Before<'_>,
    x: &[f32],
    rows: usize,
    wanted: usize,
) -> Prepared {
    let family = kernels.family(w);
    let panel_rows = (family.panel_rows)(w, rows);
    let panel_bytes = (family.panel_bytes)(w, panel_rows);
    let panels = rows.div_ceil(panel_rows);
    let mut buffer = pool.take_buffer(panels * panel_bytes);
    let wide = x.len() / rows;
    let one = |x: &[f32], panel: &mut [u8]| {
        with_rows(kernels, before, x, w.inputs, |x| (family.prepare)(w, panel_rows, x, panel));
    };
    let pieces = x.chunks(panel_rows * wide).zip(buffer.bytes(panels * panel_bytes).chunks_exact_mut(panel_bytes));
    if panels == 1 || wanted == 1 || x.len() * 8 < INLINE_WORK {
        pieces.for_each(|(x, panel)| one(x, panel));
    } else {
        pool.for_each(pieces.collect(), |(x, panel)| one(x, panel));
    }
    Prepared { kind: kind_of(w), buffer, panel_rows, panel_bytes }
}

/// Hands rows of x to `then` as `before` makes them.
fn with_rows(kernels: &Kernels, before: Before<'_>, x: &[f32], inputs: usize, then: impl FnOnce(&[f32])) {
    if let Before::Nothing = before {
        return then(x);
    }
    let mut buffer = ROWS.take();
    let rows = if matches!(before, Before::Gated(_)) { x.len() / 2 } else { x.len() };
    if buffer.len() < rows {
        buffer.resize(rows, 0.0);
    }
    let out = &mut buffer[..rows];
    (kernels.before)(&before, inputs, x, out);
    then(out);
    ROWS.set(buffer);
}
