//! A prompt's cache in a file: the text is the one that comes without it, bit for bit, whatever happened to the file.

use std::path::{Path, PathBuf};

use fireside::{CacheType, Completion, Engine, Error, Sampling, Session};
use safetensors::SafeTensors;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::program::{fireside, run};
use crate::support::{copy_of, fixture, model, name_of, write_tokenizer};

const LONG: &str = "There was once a king who had three sons, and the fox looked at the owl. Anna walked to the harbour \
                    with a small lantern, and every day the bright mouse wanted what the old woman in the tower had.";

fn tale(kv: CacheType) -> Engine {
    Engine::builder().kv(kv).load(&model("tale")).expect("the fixture loads")
}

/// The likeliest text, with the log-probability of each token to the last bit.
fn sampling() -> Sampling {
    Sampling { max_new_tokens: Some(12), logprobs: Some(true), ignore_eos: Some(true), ..Sampling::greedy() }
}

fn text_of(session: &mut Session, prompt: &str) -> (Completion, usize, usize) {
    let mut generation = session.generate(prompt, sampling()).unwrap();
    let text = generation.completions().unwrap().remove(0);
    let timings = generation.timings();
    assert_eq!(timings.cached_tokens, generation.cached_tokens(0));
    (text, timings.cached_tokens, timings.computed_tokens)
}

fn without(engine: &Engine, prompt: &str) -> Completion {
    text_of(&mut engine.session(), prompt).0
}

/// A file that a session left, and its folder.
fn left_by(engine: &Engine, prompt: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("prompt.safetensors");
    let mut session = engine.session();
    assert_eq!(session.load(&file).unwrap(), None, "no file, and nothing to say");
    text_of(&mut session, prompt);
    assert!(session.save(&file).unwrap());
    (folder, file)
}

#[test]
fn a_later_run_starts_where_the_file_ends_with_the_same_bits() {
    for kv in CacheType::ALL {
        let engine = tale(kv);
        let (_folder, file) = left_by(&engine, LONG);
        let tokens = engine.tokenizer().encode(LONG).unwrap().len();
        assert!(tokens > 64, "more than a chunk of the cache: {tokens}");
        let longer = format!("{LONG} And then");
        let other_end = LONG.replace("the old woman", "nobody at all");
        for (prompt, least) in [(LONG, tokens - 1), (&longer, tokens - 1), (&other_end, 40), (&LONG[..100], 20)] {
            let expected = without(&engine, prompt);
            let mut session = engine.session();
            assert_eq!(session.load(&file).unwrap(), None);
            let (text, cached, computed) = text_of(&mut session, prompt);
            assert_eq!(text, expected, "{kv}, {prompt:?}");
            let all = engine.tokenizer().encode(prompt).unwrap().len();
            assert!(cached >= least && cached + computed == all, "{kv}: {cached} + {computed} of {all}");
        }
        let mut session = engine.session();
        session.load(&file).unwrap();
        let (text, cached, _) = text_of(&mut session, "Nothing of that.");
        assert_eq!((text, cached), (without(&engine, "Nothing of that."), 0));
    }
}

#[test]
fn every_length_of_a_shared_start_gives_the_same_bits() {
    let engine = tale(CacheType::F32);
    let tokens = engine.tokenizer().encode(LONG).unwrap();
    let (_folder, file) = left_by(&engine, LONG);
    for length in [1, 2, 3, 15, 16, 17, 62, 63, 64, 65, 66, tokens.len()] {
        let prompt = tokens[..length].to_vec();
        let logits = |session: &mut Session| {
            let mut generation = session.generate(prompt.clone(), sampling()).unwrap();
            (generation.completions().unwrap(), generation.cached_tokens(0))
        };
        let (expected, _) = logits(&mut engine.session());
        let mut session = engine.session();
        session.load(&file).unwrap();
        assert_eq!(logits(&mut session), (expected, length - 1));
    }
}

/// LongRoPE turns all positions of a text of more than 48 tokens otherwise: what a file holds of a shorter one is no use to it.
#[test]
fn a_file_on_the_other_side_of_longropes_border_changes_no_bit() {
    const BORDER: usize = 48;
    for name in ["phi3_longrope", "llama_longrope"] {
        let folder = copy_of(&fixture(&format!("long/{name}")));
        write_tokenizer(folder.path());
        let engine = Engine::load(&name_of(folder.path())).unwrap();
        let all: Vec<u32> = (0..80u32).map(|i| (i * i * 7 + i) % 97).collect();
        let text = |session: &mut Session, length: usize, new: usize| {
            let sampling = Sampling { max_new_tokens: Some(new), ..sampling() };
            let mut generation = session.generate(all[..length].to_vec(), sampling).unwrap();
            let texts = generation.completions().unwrap();
            let is_other = |warning: &String| warning.contains("other numbers");
            assert!(!generation.warnings().iter().any(is_other), "{name}: {:?}", generation.warnings());
            (texts, generation.cached_tokens(0))
        };
        let prompts = [30, 46, 47, 48, 49, 50, 70];
        let alone = prompts.map(|length| text(&mut engine.session(), length, 12).0);
        for (kept, new) in [(40, 1), (40, 12), (47, 1), (47, 2), (47, 3), (48, 1), (48, 2), (49, 1), (60, 12)] {
            let file = folder.path().join(format!("{kept}-{new}"));
            let mut session = engine.session();
            text(&mut session, kept, new);
            assert!(session.save(&file).unwrap());
            let is_long = kept + new - 1 > BORDER; // the last new token was not computed
            for (length, expected) in prompts.into_iter().zip(&alone) {
                let mut session = engine.session();
                assert_eq!(session.load(&file).unwrap(), None);
                let (found, cached) = text(&mut session, length, 12);
                let what = format!("{name}: {kept} and {new} tokens kept, then {length}");
                assert_eq!(found, *expected, "{what}");
                let of_use = if (length > BORDER) == is_long { kept.min(length) - 1 } else { 0 };
                assert_eq!(cached, of_use, "{what}");
            }
        }
    }
}

#[test]
fn a_file_is_written_only_where_there_is_more_to_keep() {
    let engine = tale(CacheType::F16);
    let (_folder, file) = left_by(&engine, LONG);
    let before = std::fs::read(&file).unwrap();
    let mut session = engine.session();
    session.load(&file).unwrap();
    text_of(&mut session, LONG);
    assert!(!session.save(&file).unwrap(), "the same text again");
    text_of(&mut session, &format!("{LONG} And then"));
    assert!(session.save(&file).unwrap());
    let after = std::fs::read(&file).unwrap();
    assert_ne!(after, before);
    let tensors = SafeTensors::deserialize(&after).expect("safetensors, as others read them");
    assert!(tensors.tensor("tokens").is_ok() && tensors.tensor("layers.0.chunks").is_ok());
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing else is left there");
}

#[test]
fn another_models_cache_and_what_is_none_are_errors_and_stay_as_they_are() {
    let engine = tale(CacheType::F32);
    let (folder, file) = left_by(&engine, LONG);
    let refused = |engine: &Engine, file: &Path, problem: &str| {
        let before = std::fs::read(file).ok();
        let error = engine.session().load(file).expect_err(problem);
        assert!(matches!(error, Error::File { .. }), "{error:?}");
        assert!(error.to_string().contains(problem), "expected {problem:?}: {error}");
        assert_eq!(std::fs::read(file).ok(), before);
    };
    // One weight of one layer, at a place that is looked at.
    let changed = copy_of(&fixture("tale"));
    let weights = changed.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    refused(&Engine::load(&name_of(changed.path())).unwrap(), &file, "of another model: ");
    refused(&Engine::load("ember").unwrap(), &file, "of another model: ");
    let narrow = Engine::builder().dtype("bf16".parse().unwrap()).load(&model("tale")).unwrap();
    refused(&narrow, &file, "of other weights: ");
    refused(&engine, &fixture("tale/model.safetensors"), "found something else");
    refused(&engine, &fixture("tale/config.json"), "found something else");
    let none = folder.path().join("none");
    for bytes in [&b""[..], b"1234567", b"\xff\xff\xff\xff\xff\xff\xff\xff{}", b"\x02\0\0\0\0\0\0\0{}"] {
        std::fs::write(&none, bytes).unwrap();
        refused(&engine, &none, "found something else");
    }
    refused(&engine, folder.path(), "");
}

/// The header of a file as text, and its data.
fn parts_of(file: &Path) -> (String, Vec<u8>) {
    let bytes = std::fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (String::from_utf8(bytes[8..8 + length].to_vec()).unwrap(), bytes[8 + length..].to_vec())
}

fn write_parts(file: &Path, header: &str, data: &[u8]) {
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat();
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_or_old_file_is_not_used_and_is_written_anew() {
    let engine = tale(CacheType::Q8_0);
    let expected = without(&engine, LONG);
    let (_folder, file) = left_by(&engine, LONG);
    let whole = std::fs::read(&file).unwrap();
    let (header, data) = parts_of(&file);
    let check = |what: &str, why: &str| {
        let mut session = engine.session();
        let said = session.load(&file).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(said.as_ref().is_some_and(|said| said.contains(why)), "{what}: {said:?}");
        let (text, cached, _) = text_of(&mut session, LONG);
        assert_eq!((&text, cached), (&expected, 0), "{what}");
        assert!(session.save(&file).unwrap(), "{what}");
        assert_eq!(std::fs::read(&file).unwrap(), whole, "{what}: the same file as before");
    };
    for at in [0, 1, data.len() / 3, data.len() / 2, data.len() - 200, data.len() - 1] {
        let mut data = data.clone();
        data[at] ^= 0x10;
        write_parts(&file, &header, &data);
        check(&format!("byte {at}"), "damaged: its bytes are not those");
    }
    for length in [0, 1, data.len() / 2, data.len() - 1] {
        write_parts(&file, &header, &data[..length]);
        check(&format!("cut to {length}"), "damaged: its length");
    }
    write_parts(&file, &header, &[&data[..], b"more"].concat());
    check("grown", "damaged: its length");
    let changes = [
        ("\"engine\":\"0.1.0\"", "\"engine\":\"0.0.9\"", "version `0.0.9`"),
        ("prompt cache 1", "prompt cache 2", "another version"),
        ("\"kv\":\"q8_0\"", "\"kv\":\"f16\"", "its cache is `f16`"),
        ("\"heads\":\"", "\"heads\":\"9x", "damaged"),
        ("\"heads\":\"", "\"heads\":\"16384x16384,", "damaged"),
        ("\"sha256\":\"", "\"sha256\":\"0", "damaged"),
        ("layers.0.scales", "layers.7.scales", "damaged"),
        ("\"I8\"", "\"U8\"", "damaged"),
        ("\"data_offsets\":[0,", "\"data_offsets\":[18446744073709551615,", "damaged"),
        ("\"shape\":[", "\"shape\":[4294967296,4294967296,4294967296,", "damaged"),
        ("\"shape\":[", "\"shape\":[0,", "damaged"),
        ("\"tokens\":{", "\"tokens\":{\"x\":1},\"other\":{", "damaged"),
    ];
    for (from, to, why) in changes {
        assert!(header.contains(from), "{from}");
        write_parts(&file, &header.replacen(from, to, 1), &data);
        check(to, why);
    }
}

#[test]
fn numbers_that_the_model_does_not_compute_are_found_out_whatever_the_hashes_say() {
    let engine = tale(CacheType::F32);
    let expected = without(&engine, LONG);
    let (_folder, file) = left_by(&engine, LONG);
    let (header, mut data) = parts_of(&file);
    let old = header.split("\"sha256\":\"").nth(1).unwrap()[..64].to_owned();
    data[..4096].iter_mut().for_each(|byte| *byte = 0x3c); // keys of the first layer
    let new: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    write_parts(&file, &header.replace(&old, &new), &data);
    let mut session = engine.session();
    assert_eq!(session.load(&file).unwrap(), None, "a sound file by all that it says");
    let mut generation = session.generate(LONG, sampling()).unwrap();
    assert_eq!(generation.completions().unwrap(), [expected]);
    assert!(
        generation.warnings().iter().any(|warning| warning.contains("other numbers")),
        "{:?}",
        generation.warnings()
    );
    assert_eq!((generation.cached_tokens(0), generation.timings().cached_tokens), (0, 0));
    drop(generation);
    assert!(session.save(&file).unwrap());
}

#[test]
fn the_command_keeps_reads_and_spares_the_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a prompt");
    let name = name_of(&file);
    let tale = model("tale");
    let generate = |more: &[&str], prompt: &str| {
        run(fireside([&["generate", "-m", &tale, "-t", "0", "-n", "10", "--verbose"], more, &[prompt]].concat()))
    };
    let plain = generate(&[], LONG);
    let missing = generate(&["--prompt-cache", &name, "--prompt-cache-ro"], LONG);
    assert_eq!(missing.code, Some(1));
    assert!(missing.stderr.contains("there is no such prompt cache"), "{}", missing.stderr);
    let first = generate(&["--prompt-cache", &name], LONG);
    assert_eq!((first.code, &first.stdout), (Some(0), &plain.stdout));
    assert!(first.stderr.contains("cache     0 of the prompt's "), "{}", first.stderr);
    let kept = std::fs::read(&file).unwrap();
    let longer = format!("{LONG} And so on.");
    let second = generate(&["--prompt-cache", &name, "--prompt-cache-ro"], &longer);
    assert_eq!(second.stdout, generate(&[], &longer).stdout);
    assert!(second.stderr.contains("cache     ") && !second.stderr.contains("cache     0 of"), "{}", second.stderr);
    assert_eq!(std::fs::read(&file).unwrap(), kept, "read only");
    generate(&["--prompt-cache", &name], &longer);
    assert_ne!(std::fs::read(&file).unwrap(), kept);
    let other = run(fireside(["generate", "-n", "2", "--prompt-cache", &name, LONG]));
    assert_eq!(other.code, Some(1));
    assert!(
        other.stderr.starts_with("error: cannot load ") && other.stderr.contains("another model"),
        "{}",
        other.stderr
    );
    let alone = run(fireside(["generate", "-n", "2", "--prompt-cache-ro", LONG]));
    assert_eq!(alone.code, Some(2), "{}", alone.stderr);
}

/// A file that cannot be written is a warning: the text is there.
#[cfg(unix)]
#[test]
fn a_full_disk_costs_the_cache_and_not_the_text() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("cache");
    let tale = model("tale");
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" generate -m \"$1\" -t 0 -n 5 --prompt-cache \"$2\" \"$3\"";
    let limited = || {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_fireside"), &tale, &name_of(&file), LONG]);
        run(command)
    };
    let plain = run(fireside(["generate", "-m", &tale, "-t", "0", "-n", "5", LONG]));
    let outcome = limited();
    assert_eq!((outcome.code, &outcome.stdout), (Some(0), &plain.stdout), "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("warning: ") && outcome.stderr.contains("cannot write "), "{}", outcome.stderr);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no part of a file is left");
}

#[test]
fn many_writers_leave_one_sound_file() {
    let engine = tale(CacheType::F16);
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("cache");
    std::thread::scope(|scope| {
        for writer in 0..6 {
            let (engine, file) = (engine.clone(), file.clone());
            scope.spawn(move || {
                for round in 0..5 {
                    let mut session = engine.session();
                    assert_eq!(session.load(&file).unwrap(), None, "whole at any look");
                    text_of(&mut session, &format!("{LONG} {writer} {round}"));
                    session.save(&file).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(engine.session().load(&file).unwrap(), None);
}
