//! `fireside bench`: how fast a model runs here, and how far that is from what the machine could do.
//!
//! Tests are named and defined as llama-bench's, so that figures can stand side by side. What is added are the machine's
//! roofs, probed beside every test, and the share of them that it reached.

mod compare;
mod first_token;
mod machine;
mod plan;
mod plot;
mod report;
mod subject;
mod timing;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use self::compare::Baseline;
use self::machine::{Probe, date, machine};
use self::plan::Plan;
use self::report::{Format, Program, Report};
use self::subject::Subject;
use super::model::MachineArgs;
use super::output::{Usage, answer, figure, warning};
use crate::EMBEDDED;
use crate::whole::check_place;

/// Measure a model's speed, and how much of this machine's memory and arithmetic it uses
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside bench
  fireside bench --model gpt2 --dtype bf16 -p 512 -n 128 -d 0,900 -t 1,2
  fireside bench --random mistral-7b --layers 4 --dtype bf16 --output json
  fireside bench --random gpt2 --plot gpt2.svg
  fireside bench --model gpt2 --batch 1,8 --save before.json
  fireside bench --model gpt2 --batch 1,8 --compare before.json --fail-if-slower 5%")]
pub(super) struct Args {
    /// The model: `ember` (inside the program), a short name such as `gpt2`, `owner/name` on the Hub, a folder,
    /// or a .gguf or .safetensors file [default: ember]
    #[arg(short, long, value_name = "MODEL", help_heading = "Model")]
    model: Option<String>,
    /// The shape of a short name or of an architecture, with random weights: nothing is fetched
    #[arg(long, value_name = "NAME", conflicts_with = "model", help_heading = "Model")]
    random: Option<String>,
    /// With --random: so many layers, where all of them would be too large or too slow
    #[arg(long, value_name = "N", requires = "random", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = "Model")]
    layers: Option<u32>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Read prompts of N tokens, the test `ppN`; 0 leaves it out [default: 512, or the context]
    #[arg(short = 'p', long = "prompt", value_name = "N,…", value_delimiter = ',', help_heading = "Tests")]
    prompt: Vec<usize>,
    /// Write N tokens one by one, the test `tgN`; 0 leaves it out [default: 128, or the context]
    #[arg(short = 'n', long = "generate", value_name = "N,…", value_delimiter = ',', help_heading = "Tests")]
    generate: Vec<usize>,
    /// Read a prompt of P tokens and write N further ones, the test `ppP+tgN`; may be repeated
    #[arg(long, value_name = "P,N", value_parser = plan::pair, help_heading = "Tests")]
    pg: Vec<(usize, usize)>,
    /// Run each test after so many tokens that are in the cache already
    #[arg(short = 'd', long, value_name = "N,…", value_delimiter = ',', default_value = "0", help_heading = "Tests")]
    depth: Vec<usize>,
    /// Run each test with so many sequences at once; tokens per second are those of all together
    #[arg(long, value_name = "B,…", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=4096), help_heading = "Tests")]
    batch: Vec<u16>,
    /// Run each test with so many threads [default: --threads]
    #[arg(short = 't', id = "sweep", value_name = "T,…", value_delimiter = ',', conflicts_with = "threads", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Tests")]
    sweep: Vec<u16>,
    /// Runs of each test that count, after one that does not
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000), help_heading = "Tests")]
    repetitions: u16,
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Result")]
    output: Format,
    /// Write the result to a file, as --output json prints it
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    save: Option<PathBuf>,
    /// Print how this result stands to one that --save wrote
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    compare: Option<PathBuf>,
    /// With --compare: fail where the median of a test is slower by more than this
    #[arg(long, value_name = "PERCENT", requires = "compare", value_parser = compare::percent, help_heading = "Result")]
    fail_if_slower: Option<f64>,
    /// Draw the roofs of this machine, and where each test lies below them, as an SVG
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    plot: Option<PathBuf>,
    /// Print what was measured how, on stderr
    #[arg(short, long, help_heading = "Result")]
    verbose: bool,
    /// Write one token after a prompt of 16 and end: what `first_token.rs` starts
    #[arg(long, hide = true)]
    first_token: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    if args.first_token {
        return first_token::write(&args.machine, args.model.as_deref().unwrap_or(EMBEDDED));
    }
    for path in args.save.iter().chain(&args.plot).filter(|path| path.is_dir() || !path.exists()) {
        check_place(path)?; // before minutes of measuring, and not after them
    }
    let baseline = args.compare.as_deref().map(Baseline::read).transpose()?;
    let threads: Vec<Option<NonZeroUsize>> = match &args.sweep[..] {
        [] => vec![args.machine.threads.and_then(|threads| NonZeroUsize::new(threads.into()))],
        sweep => sweep.iter().map(|threads| NonZeroUsize::new((*threads).into())).collect(),
    };
    let mut report: Option<Report> = None;
    let mut probe: Option<Probe> = None;
    for threads in threads {
        let mut subject = Subject::open(&args, threads)?;
        let plan = Plan::of(&args, &subject)?;
        if report.is_none() {
            let fresh = Report {
                fireside: Program::this(),
                date: date(),
                command: command(),
                machine: machine(&subject.bench),
                model: subject.describe(),
                tests: Vec::new(),
                first_token_ms: None,
                peak_memory_bytes: None,
            };
            if let Some(baseline) = &baseline {
                baseline.check_model(&fresh.model)?;
                baseline.check_tests(&plan)?;
            }
            if args.output == Format::Md {
                answer(&report::head(&fresh, plan.has_batches()))?;
            }
            report = Some(fresh);
        }
        let Some(report) = &mut report else { continue };
        plan.warm_up(&mut subject.bench)?;
        if report.peak_memory_bytes.is_none() {
            report.peak_memory_bytes = machine::peak_memory(); // before the probe takes any
        }
        let probe = probe.get_or_insert_with(Probe::new);
        let roofs = probe.roofs(&subject.bench);
        report.machine.roofs.add(&roofs);
        for test in &plan.tests {
            let found = timing::measure(&mut subject.bench, test, args.repetitions, probe, &roofs)?;
            if args.output == Format::Md {
                answer(&report::row(&found, plan.has_batches()))?;
            }
            report.tests.push(found);
        }
    }
    drop(probe);
    let Some(mut report) = report else { return Ok(()) };
    if args.random.is_none() {
        report.first_token_ms = first_token::measure();
    }
    finish(&args, &report, baseline.as_ref())
}

/// Prints, saves and judges what was measured.
fn finish(args: &Args, report: &Report, baseline: Option<&Baseline>) -> Result<()> {
    if args.verbose {
        explain(args, report);
    }
    let comparison = baseline.map(|baseline| baseline.compare(report));
    match args.output {
        Format::Md => answer(&report::foot(report))?,
        Format::Json => answer(&report.json(comparison.as_ref())?)?,
        Format::Jsonl => answer(&report.jsonl())?,
        Format::Csv => answer(&report.csv())?,
    }
    if let Some(path) = &args.save {
        write(path, &report.json(None)?)?;
    }
    if let Some(path) = &args.plot {
        match plot::plot(report) {
            Some(svg) => write(path, &svg)?,
            None => warning("nothing to draw: the roofs of this device are not known"),
        }
    }
    let Some(comparison) = comparison else { return Ok(()) };
    comparison.warnings.iter().for_each(warning);
    match args.output {
        Format::Md => answer(&format!("\n{}", comparison.table()))?,
        Format::Json => {} // it is part of the answer
        Format::Jsonl | Format::Csv => super::output::note(&comparison.table()),
    }
    args.fail_if_slower.map_or(Ok(()), |percent| comparison.judge(percent))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", crate::quote(&path.display().to_string())))
}

/// What `--verbose` says of how the figures came about.
fn explain(args: &Args, report: &Report) {
    figure(
        "roofs",
        "read: the middle of the passes over memory that ran beside the test; arithmetic: the fastest of several",
    );
    match report.first_token_ms {
        Some(_) => figure("first", first_token::DEFINITION),
        None if args.random.is_some() => {
            figure("first", "no time to a first token: random weights are made and not read")
        }
        None => figure("first", "no time to a first token: the program could not be started again"),
    }
    if report.tests.iter().all(|test| test.joules_per_token.is_none()) {
        figure("energy", "not known: this system does not tell (/sys/class/powercap)");
    }
    if report.peak_memory_bytes.is_none() {
        figure("memory", "the peak is not known: this system does not tell (/proc/self/status)");
    }
}

/// The command as it could be typed again.
fn command() -> String {
    let words = std::env::args().skip(1).map(|word| {
        let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_.,/=:%@+".contains(c));
        if plain { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    ["fireside".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}

/// Arguments of this verb that do not go together.
fn usage(problem: String, hint: &'static str) -> anyhow::Error {
    Usage { problem, hint }.into()
}
