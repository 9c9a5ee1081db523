//! An app that answers from inside: no argument parser, no network code, and the model is part of the binary.
//!
//! One thread runs the model, another shows the text and stops it after 24 tokens. Name a folder to use its model, or
//! anything that does not exist to see what an error tells.
//!
//! ```text
//! cargo run --release --no-default-features --features ember --example embedded_app
//! ```

use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use fireside::{Engine, Result, Sampling};

const MOST_TOKENS: usize = 24;

fn main() -> ExitCode {
    let model = std::env::args_os().nth(1).map_or("ember".to_owned(), |name| name.to_string_lossy().into_owned());
    match answer(&model, "Once upon a time") {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("\nhint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn answer(model: &str, prompt: &str) -> Result<String> {
    let mut engine = Engine::load(model)?;
    let generation = engine.generate(prompt, Sampling::default())?;
    let mut text = generation.leading_text(0).to_owned();
    let cancel = generation.cancel_handle();

    // Without room in the channel, the model is never more than a token ahead of who reads.
    let (pieces, shown) = mpsc::sync_channel(0);
    thread::spawn(move || {
        for piece in generation {
            if pieces.send(piece).is_err() {
                break; // nobody reads any more
            }
        }
    });
    for (count, piece) in (1..).zip(shown) {
        text.push_str(&piece?.text);
        if count == MOST_TOKENS {
            cancel.cancel(); // the channel closes once the model has stopped
        }
    }
    Ok(text)
}
