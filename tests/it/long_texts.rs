//! Long texts of every architecture against transformers: 20 prompts, shorter and longer than windows and borders, and the
//! 256 likeliest words behind each.

use std::collections::BTreeSet;
use std::path::PathBuf;

use fireside::{Completion, Engine, Sampling};
use tempfile::TempDir;

use crate::support::{copy_of, fixture, name_of, tensor, write_tokenizer};

const NEW: usize = 256;

/// The tiny models with room for long texts, in order of their names.
pub fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture("long")).expect("the fixtures");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    folders.sort();
    folders
}

struct Long {
    folder: TempDir,
    name: String,
    /// Prompts, and what follows each.
    texts: Vec<(Vec<u32>, Vec<u32>)>,
}

impl Long {
    fn all() -> impl Iterator<Item = Long> {
        folders().into_iter().map(|original| {
            let folder = copy_of(&original);
            write_tokenizer(folder.path());
            let file = original.join("texts.safetensors");
            let (_, lengths) = tensor(&file, "prompt_lengths", |byte| usize::from(byte[0]));
            let (_, ids) = tensor(&file, "ids", |byte| u32::from(byte[0]));
            let mut rest = ids.as_slice();
            let mut take = |count: usize| {
                let (taken, left) = rest.split_at(count);
                rest = left;
                taken.to_vec()
            };
            let texts: Vec<_> = lengths.into_iter().map(|length| (take(length), take(NEW))).collect();
            assert!(rest.is_empty() && texts.len() == 20, "{}", file.display());
            Long { folder, name: name_of(original.file_name().unwrap().as_ref()), texts }
        })
    }

    fn engine(&self, threads: usize, chunk: usize) -> Engine {
        let builder = Engine::builder().threads(threads).prefill_chunk(chunk);
        builder.load(&name_of(self.folder.path())).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// The likeliest text, with the log-probability of each token to the last bit.
fn sampling() -> Sampling {
    Sampling { max_new_tokens: Some(NEW), ignore_eos: Some(true), logprobs: Some(true), ..Sampling::greedy() }
}

fn alone(engine: &mut Engine, prompt: &[u32]) -> Completion {
    engine.generate(prompt.to_vec(), sampling()).unwrap().completions().unwrap().remove(0)
}

#[test]
fn twenty_texts_of_256_words_are_those_of_transformers_for_every_architecture() {
    let mut architectures = BTreeSet::new();
    for long in Long::all() {
        let mut engine = long.engine(2, 256);
        architectures.insert(engine.info().architecture.to_owned());
        let requests = long.texts.iter().map(|(prompt, _)| (prompt.clone().into(), sampling()));
        let together = engine.generate_batch(requests).unwrap().completions().unwrap();
        assert_eq!(together.len(), long.texts.len());
        for ((prompt, expected), found) in long.texts.iter().zip(&together) {
            let same = found.tokens.iter().zip(expected).take_while(|(a, b)| a == b).count();
            assert_eq!(same, NEW, "{}: {} ids, then {same} of {NEW} words", long.name, prompt.len());
        }
        // candle's own operations, which add up in an order of their own, promise words and no bits.
        if std::env::var_os("FIRESIDE_KERNELS").is_some_and(|kernels| kernels == "candle") {
            continue;
        }
        // One of them by itself, read in other pieces by other numbers of threads: a prompt one token long, one that
        // ends at the window, and the longest, which is behind every border.
        for (request, threads, chunk) in [(0, 1, 1), (10, 3, 7), (19, 1, 33)] {
            let mut found = alone(&mut long.engine(threads, chunk), &long.texts[request].0);
            found.request = request;
            assert_eq!(found, together[request], "{}: {threads} threads, chunks of {chunk}", long.name);
        }
    }
    let expected = fireside::ARCHITECTURES.iter().map(|architecture| architecture.model_type.to_owned()).collect();
    assert_eq!(architectures, expected);
}
