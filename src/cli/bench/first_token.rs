//! The time from the start of a process to its first token.
//!
//! It is measured from outside: this program starts itself with the same arguments and takes the time until the other
//! process has written a line. So starting the process, loading and checking the model, reading the prompt and printing
//! are all in it, and nothing that was warm in this process helps.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Result;

use super::timing::median;
use crate::cli::model::MachineArgs;
use crate::cli::output::answer;
use crate::{Prompt, Sampling};

/// What the figure means, in a line.
pub(super) const DEFINITION: &str =
    "from starting a process to its first token, after a prompt of 16 tokens; model files in the system's cache";

/// Tokens of the prompt: short enough that loading shows, long enough to be a prompt.
const PROMPT: u32 = 16;

/// Processes that are started after one that does not count.
const STARTS: usize = 3;

/// Starts beyond this take long enough that one of them tells, in ms.
const LONG: f64 = 5e3;

/// The middle of some starts, in ms; `None` where the program cannot be started again.
pub(super) fn measure() -> Option<f64> {
    let first = start()?;
    if first > LONG {
        return Some(first);
    }
    let starts: Option<Vec<f64>> = (0..STARTS).map(|_| start()).collect();
    median(&starts?)
}

/// One start.
fn start() -> Option<f64> {
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(std::env::args_os().skip(1)).arg("--first-token");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().ok()?;
    let mut line = String::new();
    let read = child.stdout.take().and_then(|stdout| BufReader::new(stdout).read_line(&mut line).ok());
    let took = start.elapsed().as_secs_f64() * 1e3;
    let ended = child.wait().ok()?;
    (ended.success() && read.is_some() && line.ends_with('\n')).then_some(took)
}

/// What the other process does.
pub(super) fn write(machine: &MachineArgs, model: &str) -> Result<()> {
    let mut engine = machine.load(model)?;
    // Any tokens do, and those at the end of a vocabulary may be special.
    let known = u32::try_from(engine.info().vocab_size).unwrap_or(u32::MAX);
    let prompt: Vec<u32> = (0..PROMPT).map(|i| (1 + 7 * i) % known).collect();
    let sampling = Sampling { max_new_tokens: Some(1), return_full_text: Some(false), ..Sampling::greedy() };
    let mut generation = engine.generate(Prompt::Tokens(prompt), sampling)?;
    let piece = generation.next().transpose()?;
    answer(&format!("{:?}\n", piece.map(|piece| piece.to_string())))
}
