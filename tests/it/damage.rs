//! Damage to a model's files, and the contract of what the program says to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::program::{Outcome, Tensor, edit_tensors, fireside, run};
use crate::support::{copy_of, fixture, name_of, write_tokenizer};

/// How much work bad news may be, and how long it may take where other tests and other people share the cores.
pub const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 4 });
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a message, however large what it cites.
pub const LONGEST: usize = 4096;

/// The contract of every refusal; returns the message.
#[track_caller]
pub fn refused(outcome: &Outcome, code: i32, what: &str) -> String {
    assert_eq!(outcome.code, Some(code), "{what}: {outcome:?}");
    assert_eq!(outcome.stdout, "", "{what}");
    let (effort, took) = (outcome.effort(), outcome.took);
    assert!(effort < SOON && took < PATIENCE, "{what} took {took:?}, {effort:?} of them at work");
    readable(&outcome.stderr, what);
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| !line.is_empty()).collect();
    match lines[..] {
        [error] => assert!(error.starts_with("error: "), "{what}: {error}"),
        [error, hint] => {
            assert!(error.starts_with("error: ") && hint.starts_with("hint: "), "{what}: {}", outcome.stderr)
        }
        _ => panic!("{what}: expected one line and a hint, found {}", outcome.stderr),
    }
    outcome.stderr.clone()
}

#[track_caller]
pub fn readable(text: &str, what: &str) {
    assert!(text.len() <= LONGEST, "{what}: {} bytes", text.len());
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{what}: {text:?}");
}

#[track_caller]
pub fn says(message: &str, words: &[&str], what: &str) {
    for word in words {
        assert!(message.contains(word), "{what}: expected `{word}` in {message}");
    }
}

/// The command under a limit of address space, so that memory out of proportion to these small files is a crash.
pub fn within_memory(command: Command) -> Command {
    if !cfg!(target_os = "linux") {
        return command;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -v 1000000; exec "$0" "$@""#]).arg(command.get_program()).args(command.get_args());
    shell
}

/// Generates a little from a model's folder.
pub fn attempt(folder: &Path, prompt: &str) -> Outcome {
    let name = name_of(folder);
    run(within_memory(fireside(["generate", "-m", &name, "--threads", "2", "-n", "4", "--seed", "1", prompt])))
}

/// What it is, how it is done to a model's folder, and the words of the refusal.
pub type Damage<'a> = (&'a str, fn(&Path), &'a [&'a str]);

/// Damages a copy of a model and expects these words of the refusal.
pub fn check_damage(original: &str, cases: &[Damage]) {
    for (what, damage, words) in cases {
        let folder = copy_of(&fixture(original));
        if original != "tale" {
            write_tokenizer(folder.path());
        }
        damage(folder.path());
        says(&refused(&attempt(folder.path(), "abc"), 1, what), words, what);
    }
}

pub fn write(folder: &Path, file: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(file), content).expect("a written file");
}

pub fn remove(folder: &Path, file: &str) {
    std::fs::remove_file(folder.join(file)).expect("a removed file");
}

pub fn edit_json(folder: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let text = std::fs::read(folder.join(file)).unwrap_or_else(|_| b"{}".to_vec());
    let mut json = serde_json::from_slice(&text).expect("sound JSON");
    edit(&mut json);
    write(folder, file, json.to_string());
}

pub fn set(folder: &Path, field: &str, value: Value) {
    edit_json(folder, "config.json", |config| config[field] = value);
}

pub fn edit_weights(folder: &Path, edit: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    edit_tensors(&folder.join("model.safetensors"), edit);
}

/// The one tensor whose name ends so.
pub fn find<'a>(tensors: &'a mut BTreeMap<String, Tensor>, end: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|(name, _)| name.ends_with(end)).expect("the tensor").1
}

/// Sets one number of an f32 tensor.
pub fn poke(folder: &Path, tensor: &str, index: usize, value: f32) {
    edit_weights(folder, |tensors| find(tensors, tensor).data[4 * index..][..4].copy_from_slice(&value.to_le_bytes()));
}

/// Rewrites the JSON header of the weight file, and leaves the numbers behind it alone.
pub fn edit_header(folder: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("a weight file");
    let (header, data) = bytes[8..].split_at(header_length(&bytes));
    let mut json: Value = serde_json::from_slice(header).expect("a header");
    let tensors = json.as_object_mut().expect("an object");
    tensors.remove("__metadata__");
    edit(tensors);
    let header = json.to_string();
    write(folder, "model.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat());
}

pub fn header_length(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize
}

/// Replaces the first eight bytes of the weight file, the length of its header.
pub fn claim_header_of(folder: &Path, length: u64) {
    let mut bytes = std::fs::read(folder.join("model.safetensors")).expect("a weight file");
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    write(folder, "model.safetensors", bytes);
}

/// Knuth's linear congruential generator: the same damage every time.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}
