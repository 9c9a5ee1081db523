//! `fireside quantize`: a model as one GGUF file.

use std::io::{IsTerminal, stderr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle as BarStyle};
use serde_json::json;

use super::hub::HubArgs;
use super::model::{bytes, count, warn};
use super::output::{answer, answer_json};
use super::progress::ProgressStyle;
use crate::error::Error;
use crate::weights::Cast;
use crate::whole::check_place;

/// Write a model as a GGUF file, which llama.cpp and its relatives read too
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside quantize HuggingFaceTB/SmolLM2-135M --to q4_k_m -o smollm2.gguf
  fireside quantize ./my-model --to bf16 -o my-model.gguf
  fireside quantize my-model.gguf --to q8_0 -o small.gguf --force --json")]
pub(super) struct Args {
    /// The model: a short name, `owner/name` on the Hub, a folder, a .safetensors file, or a .gguf file that is not
    /// quantised yet
    #[arg(value_name = "MODEL")]
    model: String,
    /// What matrices become: `q8_0`, `q6_k`, `q5_k_m`, `q5_k_s`, `q5_1`, `q5_0`, `q4_k_m` (also `q4_k`), `q4_k_s`, `iq4_nl`,
    /// `q4_1`, `q4_0`, `mxfp4`, `q3_k_m`, `q2_k`, or `f32`, `f16`, `bf16`
    #[arg(long, value_name = "TYPE")]
    to: Cast,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Threads to compute with [default: all that the process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print JSON: file, numbers, bytes, types
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    check_output(&args.output, args.force)?;
    let hub = args.hub.open_for(&args.model)?;
    let threads = args.threads.and_then(|threads| NonZeroUsize::new(threads.into()));
    let bar = bar(args.hub.progress);
    let written = crate::quantize(hub, &args.model, args.to, &args.output, threads, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let written = written?;
    warn(&written.notices);
    let per_weight = 8.0 * written.bytes as f64 / written.parameters.max(1) as f64;
    if args.json {
        let types: Vec<_> = written
            .types
            .iter()
            .map(|(name, tensors, bytes)| json!({ "type": name, "tensors": tensors, "bytes": bytes }))
            .collect();
        return answer_json(&json!({
            "file": args.output,
            "parameters": written.parameters,
            "bytes": written.bytes,
            "bits_per_weight": (per_weight * 1000.0).round() / 1000.0,
            "types": types,
        }));
    }
    let mut lines = format!(
        "{}  {} numbers, {}, {per_weight:.2} bits each\n",
        args.output.display(),
        count(written.parameters),
        bytes(written.bytes as usize)
    );
    for (name, tensors, size) in &written.types {
        lines.push_str(&format!("  {name:6}  {tensors:4} tensors  {:>9}\n", bytes(*size as usize)));
    }
    answer(&lines)
}

/// Refuses before a long run what would fail at its end.
fn check_output(output: &Path, force: bool) -> Result<(), Error> {
    let refused = |problem: &str, hint: &str| Err(Error::unwritten(output, problem, hint));
    if output == Path::new("-") {
        return refused("a GGUF file is not written to stdout", "name a file; `./-` is one that is called `-`");
    }
    check_place(output)?;
    if output.exists() && !force {
        return refused("it is there already", "`--force` replaces it");
    }
    Ok(())
}

/// Shown on a terminal, unless nothing is to be.
fn bar(style: ProgressStyle) -> ProgressBar {
    if !stderr().is_terminal() || style != ProgressStyle::Auto {
        return ProgressBar::hidden();
    }
    let template = BarStyle::with_template("{bar:30} {pos} of {len} tensors, {eta} left");
    ProgressBar::no_length().with_style(template.unwrap_or_else(|_| BarStyle::default_bar()))
}
