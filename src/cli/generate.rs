//! `fireside generate`: continue a text.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::input::TextArgs;
use super::model::{ModelArgs, describe, warn};
use super::output::{Usage, answer, answer_json, figure, token_json, warning};
use crate::whole::check_place;
use crate::{Completion, Engine, Error, Generation, Sampling, Session, quote};

/// The examples of this verb as a command of its own.
pub(super) const EXAMPLES: &str = "Examples:
  generate \"Hello World\"
  generate --temperature 0 -n 40 Once upon a time
  generate --choice yes --choice no \"Is the sea blue?\"
  generate --num-return-sequences 3 --seed 42 --json \"The king said\"
  cat story.txt | generate --truncation=left --verbose";

/// Continue a text
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside generate \"Hello World\"
  fireside generate --temperature 0 -n 40 Once upon a time
  fireside generate --choice yes --choice no \"Is the sea blue?\"
  fireside generate --num-return-sequences 3 --seed 42 --json \"The king said\"
  cat story.txt | fireside generate --truncation=left --verbose")]
pub(super) struct Args {
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: Sampling,
    /// Print text as it comes, which is the default for one text; =false waits for all of it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", conflicts_with = "json", help_heading = "Prompt and output")]
    stream: Option<bool>,
    /// Print what the pipeline returns: [{"generated_text": …}, …]
    #[arg(long, help_heading = "Prompt and output")]
    json: bool,
    /// With --json: tokens, finish reason, seed, settings and timings as well
    #[arg(long, requires = "json", help_heading = "Prompt and output")]
    details: bool,
    /// Start from what an earlier run left of the prompt in FILE, and leave there what this one computes
    #[arg(long, value_name = "FILE", help_heading = "Prompt and output")]
    prompt_cache: Option<PathBuf>,
    /// Start from the file of --prompt-cache and do not write it
    #[arg(long, requires = "prompt_cache", help_heading = "Prompt and output")]
    prompt_cache_ro: bool,
    /// Print model, settings and speed, on stderr
    #[arg(short, long, help_heading = "Prompt and output")]
    verbose: bool,
}

pub(super) fn run(args: Args) -> Result<()> {
    let prompt = args.text.read_prompt()?;
    args.sampling.check_constraint()?; // before a model is fetched or loaded
    let engine = args.model.load_for(&args.sampling)?;
    let mut session = engine.session();
    if let Some(file) = &args.prompt_cache {
        open_cache(&mut session, file, &args)?;
    }
    let mut generation = session.generate(prompt, args.sampling.clone())?;
    warn(generation.warnings());
    let told = generation.warnings().len();
    if !args.details {
        warn_of_unshown(&args.sampling);
    }
    let settings = generation.settings(0);
    let several = settings.num_return_sequences.unwrap_or(1) > 1;
    let searched = settings.num_beams.unwrap_or(1) > 1;
    if args.stream == Some(true) && (several || searched) {
        let problem = format!(
            "`stream` does not work with `{}` above 1",
            if searched { "num_beams" } else { "num_return_sequences" }
        );
        return Err(Usage { problem, hint: "leave out one of the two: such texts are known only at the end" }.into());
    }
    if args.verbose {
        describe(&engine);
        figure("settings", one_line(&generation));
    }
    if args.json {
        print_json(&mut generation, &engine, args.details)?;
    } else if args.stream.unwrap_or(!several && !searched) {
        print_stream(&mut generation)?;
    } else {
        let texts: Vec<String> =
            generation.completions()?.into_iter().map(|completion| completion.generated_text + "\n").collect();
        answer(&texts.join("\n"))?;
    }
    warn(&generation.warnings()[told..]);
    if args.verbose {
        if args.prompt_cache.is_some() {
            let (cached, all) = (generation.cached_tokens(0), generation.prompt_tokens(0));
            figure("cache", format!("{cached} of the prompt's {all} tokens"));
        }
        print_timings(&generation);
    }
    drop(generation); // which leaves its cache to the session
    if let Some(file) = args.prompt_cache.as_ref().filter(|_| !args.prompt_cache_ro)
        && let Err(error) = session.save(file)
    {
        warning(error); // the text is there
    }
    Ok(())
}

/// Reads the file of `--prompt-cache` where there is one.
fn open_cache(session: &mut Session, file: &Path, args: &Args) -> Result<()> {
    if args.prompt_cache_ro && !file.exists() {
        let hint = "without `--prompt-cache-ro` it is written";
        return Err(Error::file(file, "there is no such prompt cache", hint).into());
    }
    if !args.prompt_cache_ro {
        check_place(file)?;
    }
    if let Some(why) = session.load(file)? {
        let then = if args.prompt_cache_ro { "not used" } else { "written anew" };
        warning(format_args!("the prompt cache {} is {then}: {why}", quote(&file.display().to_string())));
    }
    if args.sampling.prompt_logprobs == Some(true) {
        warning("`prompt_cache` is not read beside `prompt_logprobs`, which asks for all of the prompt");
    }
    Ok(())
}

/// Settings that ask for numbers which only the details have room for.
fn warn_of_unshown(asked: &Sampling) {
    for (setting, is_asked) in [
        ("logprobs", asked.logprobs == Some(true)),
        ("top_logprobs", asked.top_logprobs.is_some()),
        ("prompt_logprobs", asked.prompt_logprobs == Some(true)),
    ] {
        if is_asked {
            warning(format_args!("`{setting}` is shown only with `--json --details`"));
        }
    }
}

fn print_stream(generation: &mut Generation) -> Result<()> {
    answer(generation.leading_text(0))?;
    for piece in generation.by_ref() {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                answer("\n")?; // what was printed stays a line of its own
                return Err(error.into());
            }
        };
        if !piece.text.is_empty() {
            answer(&piece.text)?;
        }
    }
    answer("\n")
}

fn print_json(generation: &mut Generation, engine: &Engine, details: bool) -> Result<()> {
    let completions = generation.completions()?;
    let texts: Vec<Value> = completions
        .iter()
        .map(|completion| {
            let mut text = Map::new();
            text.insert("generated_text".to_owned(), json!(completion.generated_text));
            if details {
                text.insert("details".to_owned(), details_of(completion, generation, engine));
            }
            Value::Object(text)
        })
        .collect();
    answer_json(&texts)
}

fn details_of(completion: &Completion, generation: &Generation, engine: &Engine) -> Value {
    let timings = generation.timings();
    let tokens = completion.tokens.iter().enumerate();
    let tokens: Value = tokens.map(|(i, id)| token_json(engine.tokenizer(), *id, completion.logprobs.get(i))).collect();
    let mut details = json!({
        "finish_reason": completion.finish_reason,
        "prompt_tokens": generation.prompt_tokens(completion.request),
        "generated_tokens": completion.tokens.len(),
        "seed": generation.settings(completion.request).seed,
        "tokens": tokens,
        "settings": in_force(generation, completion.request),
        "timings": {
            "load_ms": engine.info().load_time.as_secs_f64() * 1e3,
            "prefill_ms": timings.prefill.as_secs_f64() * 1e3,
            "decode_ms": timings.decode.as_secs_f64() * 1e3,
        },
    });
    let prompt = generation.prompt_logprobs(completion.request);
    if !prompt.is_empty() {
        details["prefill"] = prompt.iter().map(|seen| token_json(engine.tokenizer(), seen.token, Some(seen))).collect();
    }
    if let Some(score) = completion.score {
        details["score"] = json!(score);
    }
    details
}

/// The settings that a request runs by.
fn in_force(generation: &Generation, request: usize) -> Map<String, Value> {
    match serde_json::to_value(generation.settings(request)) {
        Ok(Value::Object(all)) => all.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

fn one_line(generation: &Generation) -> String {
    in_force(generation, 0).iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn print_timings(generation: &Generation) {
    let timings = generation.timings();
    let line = |tokens: usize, time: std::time::Duration| {
        let seconds = time.as_secs_f64();
        let unit = if tokens == 1 { "token" } else { "tokens" };
        format!("{tokens} {unit} in {:.1} ms ({:.0} tokens/s)", seconds * 1e3, tokens as f64 / seconds.max(1e-9))
    };
    figure("prefill", line(timings.computed_tokens, timings.prefill));
    figure("decode", line(timings.decoded_tokens, timings.decode));
}
