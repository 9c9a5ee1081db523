//! The products of `src/kernels` by themselves: shape × format × rows × tier × threads.
//!
//! ```text
//! cargo bench --bench kernels                                      the best tier, all threads, shapes of three models
//! cargo bench --bench kernels -- --filter q4_0                     what has this in its name; several words must all be there
//! cargo bench --bench kernels -- --tiers all --threads 1 --rows 1,512 --shapes 4096x4096
//! cargo bench --bench kernels -- --list
//! ```
//!
//! A name is `linear_{format}_{tier}/{inputs}x{outputs}/m{rows}/t{threads}`. Weights are read in turn from as many copies
//! as no cache holds, as decoding finds them. Before anything is timed, the result is compared bit for bit with the
//! portable kernels, which are the reference; a wrong kernel ends the program with 1. GB/s counts the weights once a call,
//! G(FL)OP/s a multiplication and an addition for each weight and row; beside each is its share of the roof that was
//! measured just before.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fireside::kernels::{Arithmetic, Before, Format, Kernels, Layout, Matrix, Part, Pool, Slice, available, select};
use half::{bf16, f16};

/// Inputs and outputs of the layers of GPT-2 (124M), SmolLM2-135M and Mistral-7B.
const SHAPES: &[(usize, usize)] = &[
    (768, 2304),
    (768, 3072),
    (3072, 768),
    (768, 50257),
    (576, 1536),
    (1536, 576),
    (4096, 4096),
    (4096, 14336),
    (14336, 4096),
];

/// A token, few sequences, many, a short prompt, a prompt.
const ROWS: &[usize] = &[1, 4, 8, 32, 512];

/// Bytes of weights that are gone through in turn: many times what caches hold.
const SET: usize = 512 << 20;

/// How long each case is measured, in calls that are counted one by one.
const TIME: Duration = Duration::from_millis(300);

/// Calls at least, whatever they take.
const CALLS: usize = 5;

/// The kinds of weights and how they are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32(Layout),
    F16(Layout),
    Bf16(Layout),
    Blocks(Format),
}

const KINDS: &[(&str, Kind)] = &[
    ("f32", Kind::F32(Layout::OutIn)),
    ("f16", Kind::F16(Layout::OutIn)),
    ("bf16", Kind::Bf16(Layout::OutIn)),
    ("f32-conv1d", Kind::F32(Layout::InOut)),
    ("f16-conv1d", Kind::F16(Layout::InOut)),
    ("bf16-conv1d", Kind::Bf16(Layout::InOut)),
    ("q8_0", Kind::Blocks(Format::Q8_0)),
    ("q4_0", Kind::Blocks(Format::Q4_0)),
    ("q4_1", Kind::Blocks(Format::Q4_1)),
    ("q5_0", Kind::Blocks(Format::Q5_0)),
    ("q5_1", Kind::Blocks(Format::Q5_1)),
    ("q2_k", Kind::Blocks(Format::Q2K)),
    ("q3_k", Kind::Blocks(Format::Q3K)),
    ("q4_k", Kind::Blocks(Format::Q4K)),
    ("q5_k", Kind::Blocks(Format::Q5K)),
    ("q6_k", Kind::Blocks(Format::Q6K)),
    ("iq4_nl", Kind::Blocks(Format::Iq4Nl)),
    ("iq4_xs", Kind::Blocks(Format::Iq4Xs)),
    ("mxfp4", Kind::Blocks(Format::Mxfp4)),
];

impl Kind {
    fn layout(self) -> Layout {
        match self {
            Kind::F32(layout) | Kind::F16(layout) | Kind::Bf16(layout) => layout,
            Kind::Blocks(_) => Layout::OutIn,
        }
    }

    fn arithmetic(self) -> Arithmetic {
        match self {
            Kind::F32(_) | Kind::F16(_) => Arithmetic::F32,
            Kind::Bf16(_) => Arithmetic::Bf16,
            Kind::Blocks(_) => Arithmetic::Int8,
        }
    }

    /// Whether rows of so many inputs are whole blocks.
    fn fits(self, inputs: usize) -> bool {
        match self {
            Kind::Blocks(format) => inputs.is_multiple_of(format.block_len()),
            _ => true,
        }
    }

    /// Bytes of one matrix.
    fn bytes(self, numbers: usize) -> usize {
        match self {
            Kind::F32(_) => 4 * numbers,
            Kind::F16(_) | Kind::Bf16(_) => 2 * numbers,
            Kind::Blocks(format) => format.bytes(numbers),
        }
    }
}

/// Copies of a matrix, one after the other.
enum Weights {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    Blocks(Format, Vec<u8>),
}

impl Weights {
    fn slice(&self, copy: usize, numbers: usize) -> Slice<'_> {
        let range = copy * numbers..(copy + 1) * numbers;
        match self {
            Weights::F32(w) => Slice::F32(&w[range]),
            Weights::F16(w) => Slice::F16(&w[range]),
            Weights::Bf16(w) => Slice::Bf16(&w[range]),
            Weights::Blocks(format, w) => Slice::Blocks(*format, w).part(range),
        }
    }
}

/// Numbers like those of a model, the same in every run.
fn numbers(count: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.5
    };
    (0..count).map(|_| (next() + next()) * scale).collect()
}

/// The matrix, and as many copies of it as fill the set.
fn weights(kind: Kind, inputs: usize, outputs: usize, kernels: &Kernels) -> (Weights, usize) {
    let count = inputs * outputs;
    let copies = (SET / kind.bytes(count)).max(2);
    let one = numbers(count, 1, 0.04);
    fn many<T: Copy>(one: Vec<T>, copies: usize) -> Vec<T> {
        one.repeat(copies)
    }
    let weights = match kind {
        Kind::F32(_) => Weights::F32(many(one, copies)),
        Kind::F16(_) => Weights::F16(many(one.iter().map(|x| f16::from_f32(*x)).collect(), copies)),
        Kind::Bf16(_) => Weights::Bf16(many(one.iter().map(|x| bf16::from_f32(*x)).collect(), copies)),
        Kind::Blocks(format) => {
            let mut blocks = vec![0; format.bytes(count)];
            kernels.quantize(format, &one, &mut blocks);
            Weights::Blocks(format, many(blocks, copies))
        }
    };
    (weights, copies)
}

/// What was asked for.
struct Asked {
    filter: Vec<String>,
    tiers: Vec<&'static Kernels>,
    threads: Vec<usize>,
    rows: Vec<usize>,
    shapes: Vec<(usize, usize)>,
    list: bool,
}

fn asked() -> Result<Asked, String> {
    let all = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let best = select(None).map_err(|error| error.to_string())?;
    let (mut tiers, mut threads, mut rows, mut shapes) = (vec![best], vec![all], ROWS.to_vec(), SHAPES.to_vec());
    let (mut filter, mut list) = (Vec::new(), false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("`{arg}` needs a value"));
        let number = |text: &str| match text.parse::<usize>() {
            Ok(number) if (1..=1 << 20).contains(&number) => Ok(number),
            _ => Err(format!("expected a number from 1 to {}, found `{text}`", 1 << 20)),
        };
        let list_of = |text: String| text.split(',').map(number).collect::<Result<Vec<_>, _>>();
        match arg.as_str() {
            "--bench" | "--test" => {} // what cargo adds
            "--list" => list = true,
            "--filter" => filter.extend(value()?.split_whitespace().map(str::to_owned)),
            "--threads" => threads = list_of(value()?)?,
            "--rows" => rows = list_of(value()?)?,
            "--tiers" => {
                tiers = match value()?.as_str() {
                    "all" => available(),
                    names => names
                        .split(',')
                        .map(|name| select(Some(name)).map_err(|error| error.to_string()))
                        .collect::<Result<Vec<_>, _>>()?,
                }
            }
            "--shapes" => {
                let shape = |text: &str| {
                    let (inputs, outputs) =
                        text.split_once('x').ok_or(format!("expected 4096x4096, found `{text}`"))?;
                    Ok::<_, String>((number(inputs)?, number(outputs)?))
                };
                shapes = value()?.split(',').map(shape).collect::<Result<Vec<_>, _>>()?;
            }
            _ => return Err(format!("unexpected `{arg}`; this file's first lines show what there is")),
        }
    }
    Ok(Asked { filter, tiers, threads, rows, shapes, list })
}

fn main() -> ExitCode {
    let outcome = asked().and_then(|asked| run(&asked));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(asked: &Asked) -> Result<(), String> {
    let scalar = select(Some("scalar")).map_err(|error| error.to_string())?;
    let mut pools = HashMap::new();
    for threads in &asked.threads {
        let pool = Pool::new(NonZeroUsize::new(*threads)).map_err(|error| format!("cannot start threads: {error}"))?;
        pools.insert(*threads, pool);
    }
    let every = Pool::new(None).map_err(|error| format!("cannot start threads: {error}"))?;
    let probed = vec![1u8; SET];
    if !asked.list {
        println!("{:<48} {:>10} {:>8} {:>7} {:>10} {:>7}", "kernel", "µs", "GB/s", "read", "G(FL)OP/s", "peak");
    }
    for (inputs, outputs) in &asked.shapes {
        for (format, kind) in KINDS.iter().filter(|(_, kind)| kind.fits(*inputs)) {
            let mut made = None;
            for rows in &asked.rows {
                let mut expected = None;
                for kernels in &asked.tiers {
                    for threads in &asked.threads {
                        let name = format!("linear_{format}_{}/{inputs}x{outputs}/m{rows}/t{threads}", kernels.name());
                        if !asked.filter.iter().all(|word| name.contains(word.as_str())) {
                            continue;
                        }
                        if asked.list {
                            println!("{name}");
                            continue;
                        }
                        let (stored, copies) = made.get_or_insert_with(|| weights(*kind, *inputs, *outputs, kernels));
                        let x = numbers(rows * inputs, 2, 2.0);
                        let call = |kernels: &Kernels, pool: &Pool, x: &[f32], copy: usize| {
                            let data = stored.slice(copy % *copies, inputs * outputs);
                            let matrix = Matrix { data, layout: kind.layout(), inputs: *inputs, outputs: *outputs };
                            kernels.linear(pool, &[Part { matrix, bias: None }], Before::Nothing, x, None)
                        };
                        let expected = expected.get_or_insert_with(|| {
                            let some = checked(*rows).into_iter().flat_map(|row| &x[row * inputs..(row + 1) * inputs]);
                            call(scalar, &every, &some.copied().collect::<Vec<f32>>(), 0)
                        });
                        let pool = &pools[threads];
                        let found = call(kernels, pool, &x, 0);
                        let some =
                            checked(*rows).into_iter().flat_map(|row| &found[row * outputs..(row + 1) * outputs]);
                        check(&name, expected, &some.copied().collect::<Vec<f32>>())?;
                        let work =
                            Work { bytes: kind.bytes(inputs * outputs), operations: 2 * inputs * outputs * rows };
                        report(&name, &work, kind.arithmetic(), kernels, pool, &probed, |copy| {
                            std::hint::black_box(call(kernels, pool, &x, copy));
                        });
                    }
                }
            }
        }
    }
    Ok(())
}

/// Rows whose results are compared: a row's result does not depend on the others, and the portable kernels are slow.
fn checked(rows: usize) -> Vec<usize> {
    let mut some = vec![0, rows / 3, rows - 1];
    some.dedup();
    some
}

/// The same bits as the portable kernels'.
fn check(name: &str, expected: &[f32], found: &[f32]) -> Result<(), String> {
    let differs = expected.iter().zip(found).position(|(a, b)| a.to_bits() != b.to_bits());
    match differs {
        None if expected.len() == found.len() => Ok(()),
        None => Err(format!("{name}: {} results, expected {}", found.len(), expected.len())),
        Some(at) => Err(format!("{name}: result {at} is {}, the portable kernels have {}", found[at], expected[at])),
    }
}

struct Work {
    bytes: usize,
    operations: usize,
}

/// Times a call and prints its line.
fn report(
    name: &str,
    work: &Work,
    arithmetic: Arithmetic,
    kernels: &Kernels,
    pool: &Pool,
    probed: &[u8],
    call: impl Fn(usize),
) {
    let mut reads: Vec<f64> = (0..3).map(|_| kernels.read_rate(pool, probed)).collect();
    reads.sort_by(f64::total_cmp);
    let peak = kernels.arithmetic_rate(pool, arithmetic).or_else(|| kernels.arithmetic_rate(pool, Arithmetic::F32));
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < CALLS || start.elapsed() < TIME {
        let begin = Instant::now();
        call(times.len());
        times.push(begin.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let (read, computed) = (work.bytes as f64 / median, work.operations as f64 / median);
    let share = |rate: f64, roof: Option<f64>| match roof {
        Some(roof) if roof > 0.0 => format!("{:.0} %", 100.0 * rate / roof),
        _ => "n/a".to_owned(),
    };
    println!(
        "{name:<48} {:>10.1} {:>8.1} {:>7} {:>10.1} {:>7}",
        median * 1e6,
        read / 1e9,
        share(read, Some(reads[1])),
        computed / 1e9,
        share(computed, peak)
    );
}
