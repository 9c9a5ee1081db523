//! `fireside verify-golden`: whether a model writes, here, the text that was published of it.

use anyhow::{Result, bail};
use serde_json::json;

use super::model::{MachineArgs, warn};
use super::output::{answer, answer_json, warning};
use crate::error::{count, quote};
use crate::hub::catalog::{Card, Golden, cards, closest, find};
use crate::{EMBEDDED, Error, Sampling};

/// Compare what a model writes with a text of it that is published
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside verify-golden ember
  fireside verify-golden gpt2 --threads 4
  fireside verify-golden gpt2 --from ./gpt2 --json")]
pub(super) struct Args {
    /// The model: `ember`, a short name of `fireside models`, or its repository
    #[arg(value_name = "MODEL")]
    model: String,
    /// Where the model is, if not where its name says: a folder, or a .gguf or .safetensors file
    #[arg(long, value_name = "PATH", help_heading = "Model")]
    from: Option<String>,
    #[command(flatten)]
    machine: MachineArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let golden = golden_of(&args.model)?;
    let mut engine = args.machine.load(args.from.as_deref().unwrap_or(&args.model))?;
    let sampling = Sampling {
        max_new_tokens: Some(golden.max_new_tokens),
        num_beams: golden.num_beams,
        return_full_text: Some(false),
        ..Sampling::greedy()
    };
    let mut generation = engine.generate(golden.prompt.as_str(), sampling)?;
    warn(generation.warnings());
    let found: String = generation.completions()?.into_iter().map(|completion| completion.generated_text).collect();
    let expected = &golden.output;
    let same = expected.chars().zip(found.chars()).take_while(|(a, b)| a == b).count();
    let identical = found == *expected;
    if args.json {
        answer_json(&json!({
            "model": args.model,
            "identical": identical,
            "prompt": golden.prompt,
            "expected": expected,
            "found": found,
            "same_characters": same,
            "max_new_tokens": golden.max_new_tokens,
            "num_beams": golden.num_beams,
            "computed_in": golden.computed_in,
            "source": golden.source,
        }))?;
    } else if identical {
        let tokens = count(golden.max_new_tokens, "token");
        answer(&format!("identical  {tokens} after {}\nsource     {}\n", quote(&golden.prompt), golden.source))?;
    } else {
        answer(&format!(
            "different  from character {} on\nexpected   {}\nfound      {}\nsource     {}\n",
            same + 1,
            around(expected, same),
            around(&found, same),
            golden.source
        ))?;
    }
    if identical {
        return Ok(());
    }
    if golden.computed_in != "f32" {
        warning(format_args!(
            "the published text was computed in {}, where one of two nearly equal tokens can win that loses in f32",
            golden.computed_in
        ));
    }
    bail!("{} does not write its golden text here", quote(&args.model))
}

/// A text near its character `at`, as one line.
fn around(text: &str, at: usize) -> String {
    const BEFORE: usize = 24; // characters that agree, so that the place is recognised
    const AFTER: usize = 32;
    let from = at.saturating_sub(BEFORE);
    let part: String = text.chars().skip(from).take(at - from + AFTER).collect();
    let more = if text.chars().count() > at + AFTER { "…" } else { "" };
    format!("{}{}{more}", if from > 0 { "…" } else { "" }, quote(&part))
}

/// The golden text of the model that a user names.
fn golden_of(name: &str) -> Result<Golden> {
    if name == EMBEDDED {
        return embedded();
    }
    let of_repo = |card: &&Card| card.repo == name || card.aliases.iter().any(|alias| alias == name);
    let Some(card) = find(name).or_else(|| cards().iter().find(of_repo)) else {
        let listed = "`fireside models` lists all";
        let hint = match closest(name) {
            Some(near) => format!("did you mean `{near}`? {listed}"),
            None => listed.to_owned(),
        };
        let problem = "no card has this name".to_owned();
        return Err(Error::ModelNotFound { name: name.to_owned(), problem, hint }.into());
    };
    let Some(golden) = &card.golden else {
        let others = cards().iter().filter(|card| card.golden.is_some()).map(|card| card.name.as_str());
        let others: Vec<&str> = [EMBEDDED].into_iter().chain(others).collect();
        bail!("no golden text of {} is known; there is one of {}", quote(&card.name), others.join(", "));
    };
    Ok(golden.clone())
}

/// What transformers makes of the model inside the program.
pub(super) fn embedded() -> Result<Golden> {
    Ok(toml::from_str(include_str!("../../models/ember/golden.toml"))?)
}
