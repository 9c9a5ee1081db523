//! Runs the prompts of a JSON-lines file as one batch and prints their texts as JSON lines, in the same order.
//!
//! A line is `{"prompt": "…"}` and any of the settings of [`Sampling`], for that prompt alone.
//!
//! ```text
//! printf '%s\n' '{"prompt": "The fox", "max_new_tokens": 20}' '{"prompt": "A king", "seed": 7}' |
//!     cargo run --release --example batch_jsonl
//! ```

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use fireside::{Engine, Prompt, Sampling};
use serde_json::{Map, Value, json};

fn main() -> ExitCode {
    let Err(error) = batch() else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    if let Some(hint) = error.downcast_ref().and_then(fireside::Error::hint) {
        eprintln!("\nhint: {hint}");
    }
    ExitCode::FAILURE
}

fn batch() -> Result<(), Box<dyn Error>> {
    let mut requests = Vec::new();
    for (number, line) in (1..).zip(std::io::stdin().lines()) {
        requests.push(request(&line?).map_err(|error| format!("line {number}: {error}"))?);
    }
    let mut generation = Engine::load("ember")?.generate_batch(requests)?;
    for warning in generation.warnings() {
        eprintln!("warning: {warning}");
    }
    let mut out = std::io::stdout().lock();
    for (request, outcome) in generation.outcomes().into_iter().enumerate() {
        match outcome {
            // With `num_return_sequences` above 1, a request has as many lines.
            Ok(texts) => texts.iter().try_for_each(|text| writeln!(out, "{}", json!(text)))?,
            Err(error) => writeln!(out, "{}", json!({ "request": request, "error": error.to_string() }))?,
        }
    }
    Ok(())
}

fn request(line: &str) -> Result<(Prompt, Sampling), Box<dyn Error>> {
    let mut fields: Map<String, Value> = serde_json::from_str(line)?;
    let Some(Value::String(prompt)) = fields.remove("prompt") else { return Err("expected a text as `prompt`".into()) };
    let sampling: Sampling = serde_json::from_value(Value::Object(fields))?; // a misspelt setting is an error
    Ok((prompt.into(), sampling))
}
