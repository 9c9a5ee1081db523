//! Fetches a model from the Hub, with one line of progress, and runs it. The second time it makes no request.
//!
//! ```text
//! cargo run --release --example fetch -- distilgpt2 Once upon a time
//! ```

use std::io::Write;
use std::process::ExitCode;

use fireside::{Engine, Hub, Progress, Sampling};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let model = words.next().unwrap_or_else(|| "distilgpt2".to_owned());
    let prompt = words.collect::<Vec<_>>().join(" ");
    let Err(error) = fetch_and_run(&model, if prompt.is_empty() { "Hello World" } else { &prompt }) else {
        return ExitCode::SUCCESS;
    };
    eprintln!("error: {error}");
    if let Some(hint) = error.hint() {
        eprintln!("\nhint: {hint}");
    }
    ExitCode::FAILURE
}

fn fetch_and_run(model: &str, prompt: &str) -> fireside::Result<()> {
    let hub = Hub::from_env()?.on_progress(show);
    let mut engine = Engine::builder().hub(hub).load(model)?;
    for completion in engine.generate(prompt, Sampling::default())?.completions()? {
        println!("{}", completion.generated_text);
    }
    Ok(())
}

/// Called at most ten times a second, from the threads that download.
fn show(progress: &Progress) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    eprint!("\r{:.1} of {:.1} MB", megabytes(progress.bytes_done), megabytes(progress.bytes_total));
    if progress.finished {
        eprintln!();
    }
    let _ = std::io::stderr().flush();
}
