//! `fireside score`: perplexity and log-probabilities of a given text.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::input::TextArgs;
use super::model::{ModelArgs, describe, warn};
use super::output::{answer, answer_json, token_json};
use crate::ScoreOptions;

/// Say how likely a model finds a text: perplexity, bits per byte, log-probabilities
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside score \"Once upon a time there was a king.\"
  fireside score --file book.txt --window 256 --stride 128
  fireside perplexity --json --top-logprobs 3 \"Hello World\"")]
pub(super) struct Args {
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens that are read at a time [default: the context]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// Tokens from one window's start to the next [default: half a window]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Report the N likeliest tokens at each place
    #[arg(long, value_name = "N", requires = "json", default_value_t = 0)]
    top_logprobs: usize,
    /// Print JSON, with the log-probability of each token
    #[arg(long)]
    json: bool,
    /// Print what was loaded, on stderr
    #[arg(short, long)]
    verbose: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let text = args.text.read()?;
    let mut engine = args.model.load()?;
    warn(engine.warnings());
    if args.verbose {
        describe(&engine);
    }
    let options = ScoreOptions { window: args.window, stride: args.stride, top_logprobs: args.top_logprobs };
    let score = engine.score(text, options)?;
    ensure!(
        score.perplexity.is_finite() && score.bits_per_byte.is_finite(),
        "the perplexity is too large for a number: {:e} nats over {} tokens",
        score.nll,
        score.scored_tokens
    );
    if args.json {
        let tokens = score.tokens.iter().map(|seen| token_json(engine.tokenizer(), seen.token, Some(seen)));
        return answer_json(&json!({
            "tokens": tokens.collect::<Value>(),
            "scored_tokens": score.scored_tokens,
            "nll": score.nll,
            "perplexity": score.perplexity,
            "bits_per_byte": score.bits_per_byte,
            "window": score.window,
            "stride": score.stride,
        }));
    }
    answer(&format!(
        "perplexity    {:.4}\nbits per byte {:.4}\ntokens        {} scored of {}, windows of {} every {}\n",
        score.perplexity,
        score.bits_per_byte,
        score.scored_tokens,
        score.tokens.len(),
        score.window,
        score.stride
    ))
}
