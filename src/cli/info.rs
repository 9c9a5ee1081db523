//! `fireside info`: what a model is, what it needs, and how it wants to be sampled.

use anyhow::Result;
use serde_json::json;

use super::model::{MachineArgs, bytes, count, warn};
use super::output::{answer, answer_json};
use crate::EMBEDDED;

/// Show a model's architecture, size, memory, licence, tokenizer and defaults
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside info
  fireside info ./gpt2 --json
  fireside info --model ./gpt2 --dtype bf16 --context 256")]
pub(super) struct Args {
    /// The model: `ember` (inside the program), a folder, or a .safetensors file [default: ember]
    #[arg(value_name = "MODEL")]
    named: Option<String>,
    /// The same, as the other verbs take it
    #[arg(short, long, value_name = "MODEL", conflicts_with = "named", help_heading = "Model")]
    model: Option<String>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let model = args.named.or(args.model);
    let engine = args.machine.load(model.as_deref().unwrap_or(EMBEDDED))?;
    warn(engine.warnings());
    let info = engine.info();
    let cache = info.cache_bytes_per_token * info.context;
    if args.json {
        return answer_json(&json!({
            "name": info.name,
            "architecture": info.architecture,
            "parameters": info.parameters,
            "dtypes": info.dtypes,
            "layers": info.layers,
            "vocab_size": info.vocab_size,
            "context": info.context,
            "tokenizer": info.tokenizer,
            "license": info.license,
            "weight_bytes": info.weight_bytes,
            "cache_bytes_per_token": info.cache_bytes_per_token,
            "memory_bytes": info.weight_bytes + cache,
            "device": info.device,
            "defaults": info.defaults,
        }));
    }
    let defaults: Vec<String> = info.defaults.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let rows = [
        ("name", info.name.clone()),
        ("architecture", info.architecture.to_owned()),
        ("parameters", format!("{} ({})", count(info.parameters), info.dtypes.join(" + "))),
        ("layers", info.layers.to_string()),
        ("context", format!("{} tokens", info.context)),
        ("tokenizer", info.tokenizer.clone()),
        (
            "memory",
            format!(
                "{} ({} of weights, {} of cache at full context)",
                bytes(info.weight_bytes + cache),
                bytes(info.weight_bytes),
                bytes(cache)
            ),
        ),
        ("licence", info.license.clone().unwrap_or_else(|| "not stated beside the weights".to_owned())),
        ("defaults", if defaults.is_empty() { "the pipeline's".to_owned() } else { defaults.join(" ") }),
        ("runs on", info.device.clone()),
    ];
    answer(&rows.iter().map(|(name, value)| format!("{name:<13} {}\n", crate::error::line(value))).collect::<String>())
}
