//! `fireside info`: what a model is, what it needs, and how it wants to be sampled.
//!
//! A model that is here is loaded. One that is not is asked about: `remote.rs` answers from the Hub's listing,
//! config.json and the weights' headers, and fetches no weights.

#[cfg_attr(not(feature = "hub"), allow(dead_code))] // some of it only `remote` asks for
mod estimate;
#[cfg(feature = "hub")]
mod remote;

use anyhow::Result;
use serde_json::json;

use self::estimate::{Machine, Needs};
use super::model::{MachineArgs, bytes, count, warn};
use super::output::{answer, answer_json};
use crate::source::Source;
use crate::{ChatOptions, ChatTemplate, EMBEDDED, Engine, Message};

/// Show a model's architecture, size, memory, licence and defaults; of a model on the Hub without fetching it
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside info
  fireside info gpt2 --json
  fireside info openai-community/gpt2-xl --quant q4_k --kv f16
  fireside info --model ./gpt2 --dtype bf16 --context 256")]
pub(super) struct Args {
    /// The model: `ember` (inside the program), a short name that `fireside models` lists, `owner/name` on the Hub, a
    /// folder, or a .gguf or .safetensors file [default: ember]
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

/// Bytes of weights from which on it is of interest whether they fit, wherever they are from.
const LARGE: usize = 256 << 20;

pub(super) fn run(args: Args) -> Result<()> {
    let model = args.named.as_deref().or(args.model.as_deref()).unwrap_or(EMBEDDED);
    let local = Source::local(model)?;
    #[cfg(feature = "hub")]
    {
        let hub = args.machine.hub.open()?;
        if local.is_none() && !hub.is_offline() && !hub.is_cached(model) {
            return remote::show(&hub, model, &args);
        }
    }
    show(model, local.is_some(), &args)
}

/// A model that is here. One of the Hub also gets the rows of a model that is still there.
fn show(model: &str, is_local: bool, args: &Args) -> Result<()> {
    let engine = args.machine.builder(model)?.only_described().load(model)?;
    warn(engine.warnings());
    let info = engine.info();
    let cache = info.cache_bytes_per_token * info.context;
    let is_asked = args.json || args.machine.max_memory.is_some();
    let machine = if is_asked || !is_local || info.weight_bytes >= LARGE {
        let sizes = engine.sizes();
        let machine = Machine::measure(&args.machine, sizes.main_kind())?;
        Some((
            machine,
            Needs { weights: info.weight_bytes as u64, cache: Some(cache as u64), per_token: sizes.per_token },
        ))
    } else {
        None
    };
    if args.json {
        let mut json = json!({
            "name": info.name,
            "architecture": info.architecture,
            "supported": true,
            "parameters": info.parameters,
            "dtypes": info.dtypes,
            "kv": info.kv.name(),
            "layers": info.layers,
            "vocab_size": info.vocab_size,
            "context": info.context,
            "tokenizer": info.tokenizer,
            "chat_templates": engine.chat_template().map(ChatTemplate::names).unwrap_or_default(),
            "license": info.license,
            "weight_bytes": info.weight_bytes,
            "cache_bytes_per_token": info.cache_bytes_per_token,
            "memory_bytes": info.weight_bytes + cache,
            "device": info.device,
            "defaults": info.defaults,
        });
        machine.iter().for_each(|(machine, needs)| machine.add_to(&mut json, needs));
        return answer_json(&json);
    }
    let defaults: Vec<String> = info.defaults.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut rows = vec![
        ("name", info.name.clone()),
        ("architecture", info.architecture.to_owned()),
        ("parameters", format!("{} ({})", count(info.parameters), info.dtypes.join(" + "))),
        ("layers", info.layers.to_string()),
        ("context", format!("{} tokens", info.context)),
        ("tokenizer", info.tokenizer.clone()),
        ("chat", chat(&engine)),
        ("memory", memory(info.weight_bytes, cache)),
        ("licence", info.license.clone().unwrap_or_else(|| "not stated beside the weights".to_owned())),
        ("defaults", if defaults.is_empty() { "the pipeline's".to_owned() } else { defaults.join(" ") }),
        ("runs on", info.device.clone()),
    ];
    // Of a small one that is local every row is the same in every run.
    machine.iter().for_each(|(machine, needs)| rows.extend(machine.rows(needs)));
    answer_rows(&rows)
}

/// Whether one can talk with the model.
fn chat(engine: &Engine) -> String {
    let Some(template) = engine.chat_template() else {
        let refused = engine.chat_prompt(&[Message::user("")], &ChatOptions::default()).err();
        return refused.map_or_else(String::new, |error| error.to_string());
    };
    match &template.names()[..] {
        [_] => "the model's template".to_owned(),
        names => format!("the model's templates {}", names.join(", ")),
    }
}

fn memory(weights: usize, cache: usize) -> String {
    format!(
        "{} ({} of weights, {} of cache at full context)",
        bytes(weights.saturating_add(cache)),
        bytes(weights),
        bytes(cache)
    )
}

fn answer_rows(rows: &[(&str, String)]) -> Result<()> {
    answer(&rows.iter().map(|(name, value)| format!("{name:<13} {}\n", crate::error::line(value))).collect::<String>())
}
