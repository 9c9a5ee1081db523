//! Streams a text to the terminal as the model writes it.
//!
//! ```text
//! cargo run --release --example stream -- Once upon a time
//! ```

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use fireside::{Engine, Sampling};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let prompt = if words.is_empty() { "Hello World".to_owned() } else { words.join(" ") };
    let Err(error) = stream(&prompt) else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    if let Some(hint) = error.downcast_ref().and_then(fireside::Error::hint) {
        eprintln!("\nhint: {hint}");
    }
    ExitCode::FAILURE
}

fn stream(prompt: &str) -> Result<(), Box<dyn Error>> {
    let mut engine = Engine::load("ember")?;
    let generation = engine.generate(prompt, Sampling { max_new_tokens: Some(100), ..Sampling::default() })?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", generation.leading_text(0))?; // the prompt, as `return_full_text` is on by default
    out.flush()?;
    for piece in generation {
        write!(out, "{}", piece?)?; // whole characters, never half of one
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}
