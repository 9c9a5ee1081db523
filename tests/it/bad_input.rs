//! Damaged models, impossible settings, prompts that cannot be: one clear line each, soon, and never a panic.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use safetensors::tensor::Dtype;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::program::{Outcome, Tensor, edit_tensors, fireside, run, run_with};
use crate::support::{copy_of, fixture, model, name_of, write_tokenizer};

/// How long bad news may take; a build without optimisation gets more.
const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 10 } else { 1 });
/// Bytes of a message, however large what it cites.
const LONGEST: usize = 4096;

/// The contract of every refusal; returns the message.
#[track_caller]
fn refused(outcome: &Outcome, code: i32, what: &str) -> String {
    assert_eq!(outcome.code, Some(code), "{what}: {outcome:?}");
    assert_eq!(outcome.stdout, "", "{what}");
    assert!(outcome.took < SOON, "{what} took {:?}", outcome.took);
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
fn readable(text: &str, what: &str) {
    assert!(text.len() <= LONGEST, "{what}: {} bytes", text.len());
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{what}: {text:?}");
}

#[track_caller]
fn says(message: &str, words: &[&str], what: &str) {
    for word in words {
        assert!(message.contains(word), "{what}: expected `{word}` in {message}");
    }
}

/// The command under a limit of address space, so that memory out of proportion to these small files is a crash.
fn within_memory(command: Command) -> Command {
    if !cfg!(target_os = "linux") {
        return command;
    }
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -v 1000000; exec "$0" "$@""#]).arg(command.get_program()).args(command.get_args());
    shell
}

/// Generates a little from a model's folder.
fn attempt(folder: &Path, prompt: &str) -> Outcome {
    let name = name_of(folder);
    run(within_memory(fireside(["generate", "-m", &name, "--threads", "2", "-n", "4", "--seed", "1", prompt])))
}

/// What it is, how it is done to a model's folder, and the words of the refusal.
type Damage<'a> = (&'a str, fn(&Path), &'a [&'a str]);

/// Damages a copy of a model and expects these words of the refusal.
fn check_damage(original: &str, cases: &[Damage]) {
    for (what, damage, words) in cases {
        let folder = copy_of(&fixture(original));
        if original != "tale" {
            write_tokenizer(folder.path());
        }
        damage(folder.path());
        says(&refused(&attempt(folder.path(), "abc"), 1, what), words, what);
    }
}

fn write(folder: &Path, file: &str, content: impl AsRef<[u8]>) {
    std::fs::write(folder.join(file), content).expect("a written file");
}

fn remove(folder: &Path, file: &str) {
    std::fs::remove_file(folder.join(file)).expect("a removed file");
}

fn edit_json(folder: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let text = std::fs::read(folder.join(file)).unwrap_or_else(|_| b"{}".to_vec());
    let mut json = serde_json::from_slice(&text).expect("sound JSON");
    edit(&mut json);
    write(folder, file, json.to_string());
}

fn set(folder: &Path, field: &str, value: Value) {
    edit_json(folder, "config.json", |config| config[field] = value);
}

fn edit_weights(folder: &Path, edit: impl FnOnce(&mut BTreeMap<String, Tensor>)) {
    edit_tensors(&folder.join("model.safetensors"), edit);
}

/// The one tensor whose name ends so.
fn find<'a>(tensors: &'a mut BTreeMap<String, Tensor>, end: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|(name, _)| name.ends_with(end)).expect("the tensor").1
}

/// Sets one number of an f32 tensor.
fn poke(folder: &Path, tensor: &str, index: usize, value: f32) {
    edit_weights(folder, |tensors| find(tensors, tensor).data[4 * index..][..4].copy_from_slice(&value.to_le_bytes()));
}

/// Rewrites the JSON header of the weight file, and leaves the numbers behind it alone.
fn edit_header(folder: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("a weight file");
    let (header, data) = bytes[8..].split_at(header_length(&bytes));
    let mut json: Value = serde_json::from_slice(header).expect("a header");
    let tensors = json.as_object_mut().expect("an object");
    tensors.remove("__metadata__");
    edit(tensors);
    let header = json.to_string();
    write(folder, "model.safetensors", [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat());
}

fn header_length(bytes: &[u8]) -> usize {
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize
}

/// Replaces the first eight bytes of the weight file, the length of its header.
fn claim_header_of(folder: &Path, length: u64) {
    let mut bytes = std::fs::read(folder.join("model.safetensors")).expect("a weight file");
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    write(folder, "model.safetensors", bytes);
}

/// Knuth's linear congruential generator: the same damage every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

#[test]
fn a_model_that_is_not_there_is_named() {
    let check = |name: &str, words: &[&str]| {
        says(&refused(&run(fireside(["generate", "-m", name, "x"])), 1, name), words, name);
        refused(&run(fireside(["info", name])), 1, name);
        refused(&run(fireside(["score", "-m", name, "x y"])), 1, name);
        refused(&run(fireside(["tokenize", "-m", name, "x"])), 1, name);
    };
    let empty = TempDir::new().unwrap();
    let (tale, folder) = (fixture("tale"), name_of(empty.path()));
    check("no-such-model", &["`no-such-model`", "neither `ember` nor a file or folder", "hint:"]);
    check("owner/name", &["`owner/name`", "Hub"]);
    check("./no/such/folder", &["`./no/such/folder`", "no such file or folder"]);
    check("", &["``"]);
    check(&folder, &["model.safetensors", "an empty folder"]);
    check(&name_of(&tale.join("config.json")), &["config.json", "`.safetensors`"]);
    check(&name_of(&tale.join("merges.txt")), &["merges.txt", "`.safetensors`"]);
    check("/dev/null", &["/dev/null"]);
    check("a\x1b[31mb\u{9b}c\nd", &["\\u{1b}[31m"]);
    check(&"x".repeat(20_000), &["xxx…"]);
    check(&"/x".repeat(10_000), &["/x/x"]);
}

#[test]
fn a_damaged_config_is_told_with_what_was_expected() {
    check_damage(
        "tale",
        &[
            ("missing", |f| remove(f, "config.json"), &["config.json", "found none"]),
            ("empty", |f| write(f, "config.json", ""), &["config.json", "expected JSON"]),
            ("no JSON", |f| write(f, "config.json", "n_embd = 3"), &["config.json", "expected JSON", "line 1"]),
            ("binary", |f| write(f, "config.json", b"\xff\xfe\x00"), &["config.json", "UTF-8", "at 0"]),
            ("an array", |f| write(f, "config.json", "[]"), &["config.json", "expected a JSON object"]),
            (
                "nested without end",
                |f| write(f, "config.json", "[".repeat(100_000)),
                &["config.json", "recursion limit"],
            ),
            (
                "an empty object",
                |f| write(f, "config.json", "{}"),
                &["`model_type`", "`architectures`", "found neither"],
            ),
            (
                "another architecture",
                |f| set(f, "architectures", json!(["FooForCausalLM"])),
                &["`FooForCausalLM` is not supported", "hint: supported architectures are"],
            ),
            ("another type", |f| write(f, "config.json", r#"{"model_type": "foo"}"#), &["`foo` is not supported"]),
            ("no heads", |f| set(f, "n_head", json!(0)), &["`n_head`", "found 0"]),
            ("heads that do not divide", |f| set(f, "n_head", json!(5)), &["multiple of `n_head`", "32 and 5"]),
            ("no width", |f| set(f, "n_embd", json!(0)), &["`n_embd`", "found 0"]),
            ("another width", |f| set(f, "n_embd", json!(64)), &["wte.weight", "[513, 64]", "[513, 32]"]),
            (
                "a vocabulary too large",
                |f| set(f, "vocab_size", json!(4_000_000_000_u64)),
                &["wte.weight", "[4000000000, 32]", "[513, 32]"],
            ),
            ("a vocabulary beyond all bounds", |f| set(f, "vocab_size", json!(u64::MAX)), &["`vocab_size`"]),
            ("a vocabulary of -1", |f| set(f, "vocab_size", json!(-1)), &["config.json", "-1"]),
            ("a vocabulary of 0", |f| set(f, "vocab_size", json!(0)), &["`vocab_size`", "found 0"]),
            ("half a vocabulary", |f| set(f, "vocab_size", json!(256.5)), &["config.json", "256.5"]),
            ("a vocabulary of words", |f| set(f, "vocab_size", json!("many")), &["config.json", "many"]),
            ("1e30 numbers", |f| set(f, "n_embd", json!(1e30)), &["config.json"]),
            (
                "positions without end",
                |f| set(f, "n_positions", json!(4_000_000_000_u64)),
                &["wpe.weight", "[512, 32]"],
            ),
            ("layers without end", |f| set(f, "n_layer", json!(4_000_000_000_u64)), &["h.2.", "missing"]),
            ("an inner width of 0", |f| set(f, "n_inner", json!(0)), &["`n_inner`", "found 0"]),
            ("an inner width without end", |f| set(f, "n_inner", json!(u64::MAX)), &["n_inner"]),
            (
                "an unknown activation",
                |f| set(f, "activation_function", json!("foo\u{1b}[31m")),
                &["activation_function", "foo\\u{1b}[31m"],
            ),
            ("a negative epsilon", |f| set(f, "layer_norm_epsilon", json!(-1)), &["layer_norm_epsilon", "-1"]),
            (
                "a separate head that is absent",
                |f| set(f, "tie_word_embeddings", json!(false)),
                &["lm_head.weight", "missing"],
            ),
            ("cross attention", |f| set(f, "add_cross_attention", json!(true)), &["add_cross_attention"]),
        ],
    );
}

#[test]
fn damaged_weights_are_told_with_the_tensor_or_the_file() {
    check_damage(
        "tale",
        &[
            (
                "missing",
                |f| remove(f, "model.safetensors"),
                &["model.safetensors", "`config.json`", "hint: only safetensors"],
            ),
            ("empty", |f| write(f, "model.safetensors", ""), &["model.safetensors", "0 bytes"]),
            (
                "of another format",
                |f| write(f, "model.safetensors", b"PK\x03\x04 this is a zip archive"),
                &["model.safetensors", "header"],
            ),
            (
                "text",
                |f| write(f, "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
                &["model.safetensors", "header"],
            ),
            (
                "cut short by a byte",
                |f| {
                    let bytes = std::fs::read(f.join("model.safetensors")).unwrap();
                    write(f, "model.safetensors", &bytes[..bytes.len() - 1]);
                },
                &["model.safetensors", "cut short"],
            ),
            (
                "grown by a byte",
                |f| {
                    let bytes = std::fs::read(f.join("model.safetensors")).unwrap();
                    write(f, "model.safetensors", [&bytes[..], b"x"].concat());
                },
                &["model.safetensors", "grown"],
            ),
            ("a header of 0 bytes", |f| claim_header_of(f, 0), &["header"]),
            ("a header longer than the file", |f| claim_header_of(f, 1 << 20), &["header", "longer"]),
            ("a header of 2^63 bytes", |f| claim_header_of(f, 1 << 63), &["header", "longer"]),
            ("a header of 2^64 - 1 bytes", |f| claim_header_of(f, u64::MAX), &["header", "longer"]),
            ("a header that ends early", |f| claim_header_of(f, 100), &["header"]),
            (
                "offsets that overlap",
                |f| {
                    edit_header(f, |header| {
                        let first = header.values().next().expect("a tensor")["data_offsets"].clone();
                        header.values_mut().nth(1).expect("a tensor")["data_offsets"] = first;
                    })
                },
                &["model.safetensors", "`"],
            ),
            (
                "offsets that run backwards",
                |f| {
                    edit_header(f, |header| {
                        header.values_mut().next().expect("a tensor")["data_offsets"] = json!([64, 0]);
                    })
                },
                &["model.safetensors"],
            ),
            (
                "offsets beyond all bounds",
                |f| {
                    edit_header(f, |header| {
                        header.values_mut().next().expect("a tensor")["data_offsets"] = json!([u64::MAX - 1, u64::MAX]);
                    })
                },
                &["model.safetensors"],
            ),
            (
                "a shape beyond all bounds",
                |f| {
                    edit_header(f, |header| {
                        header.values_mut().next().expect("a tensor")["shape"] = json!([u64::MAX, u64::MAX]);
                    })
                },
                &["model.safetensors"],
            ),
            (
                "a dtype that does not exist",
                |f| {
                    edit_header(f, |header| {
                        header.values_mut().next().expect("a tensor")["dtype"] = json!("F7\u{1b}[31m");
                    })
                },
                &["model.safetensors", "header"],
            ),
            (
                "whole numbers",
                |f| edit_weights(f, |tensors| find(tensors, "ln_f.weight").dtype = Dtype::I32),
                &["ln_f.weight", "F32, F16 or BF16", "I32"],
            ),
            (
                "double precision",
                |f| {
                    edit_weights(f, |tensors| {
                        let tensor = find(tensors, "h.1.mlp.c_fc.weight");
                        tensor.dtype = Dtype::F64;
                        tensor.data.resize(tensor.data.len() * 2, 0);
                    })
                },
                &["h.1.mlp.c_fc.weight", "F32, F16 or BF16", "F64"],
            ),
            (
                "another shape",
                |f| edit_weights(f, |tensors| find(tensors, "h.0.attn.c_attn.weight").shape = vec![96, 32]),
                &["h.0.attn.c_attn.weight", "[32, 96]", "[96, 32]"],
            ),
            (
                "one dimension more",
                |f| edit_weights(f, |tensors| find(tensors, "ln_f.bias").shape = vec![1, 32]),
                &["ln_f.bias", "[32]", "[1, 32]"],
            ),
            (
                "a missing tensor",
                |f| edit_weights(f, |tensors| tensors.retain(|name, _| !name.ends_with("h.1.ln_2.bias"))),
                &["h.1.ln_2.bias", "missing"],
            ),
            ("no tensor at all", |f| edit_weights(f, |tensors| tensors.clear()), &["wte.weight", "missing"]),
            (
                "a NaN",
                |f| poke(f, "h.0.attn.c_proj.weight", 17, f32::NAN),
                &["h.0.attn.c_proj.weight", "NaN at element 17"],
            ),
            (
                "an infinity",
                |f| poke(f, "wte.weight", 16415, f32::NEG_INFINITY),
                &["wte.weight", "-inf at element 16415"],
            ),
            (
                "an infinity in a small tensor",
                |f| poke(f, "ln_f.bias", 31, f32::INFINITY),
                &["ln_f.bias", "inf at element 31"],
            ),
        ],
    );
}

#[test]
fn weights_that_overflow_stop_with_an_error_and_no_text_without_meaning() {
    let folder = copy_of(&fixture("tale"));
    edit_weights(folder.path(), |tensors| {
        for number in find(tensors, "wte.weight").data.chunks_exact_mut(4) {
            number.copy_from_slice(&3e38f32.to_le_bytes());
        }
    });
    let outcome = attempt(folder.path(), "abc");
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    says(&outcome.stderr, &["not finite", "hint:"], "overflow");
}

#[test]
fn tensors_that_no_layer_reads_are_a_warning() {
    let folder = copy_of(&fixture("tale"));
    edit_weights(folder.path(), |tensors| {
        let extra = Tensor { dtype: Dtype::F64, shape: vec![2], data: vec![0; 16] };
        tensors.insert(format!("extra.\x1b[31m{}", "x".repeat(1 << 20)), extra);
    });
    let outcome = attempt(folder.path(), "abc");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    says(&outcome.stderr, &["warning:", "does not use", "`extra.\\u{1b}[31mxxx"], "extra");
    readable(&outcome.stderr, "extra");
}

#[test]
fn a_weight_file_cut_anywhere_is_refused() {
    let tale = std::fs::read(fixture("tale/model.safetensors")).unwrap();
    let data = 8 + header_length(&tale);
    let header: Value = serde_json::from_slice(&tale[8..data]).unwrap();
    let ends = header
        .as_object()
        .unwrap()
        .values()
        .filter_map(|tensor| tensor["data_offsets"][0].as_u64())
        .map(|start| data + start as usize);
    let mut dice = Dice(1);
    let mut cuts: Vec<usize> =
        [0, 1, 7, 8, 9, data - 1, data, data + 1, tale.len() - 1].into_iter().chain(ends).collect();
    cuts.extend((0..30).map(|_| dice.below(tale.len())));
    let folder = copy_of(&fixture("tale"));
    for cut in cuts {
        write(folder.path(), "model.safetensors", &tale[..cut]);
        let what = format!("cut at {cut}");
        says(&refused(&attempt(folder.path(), "abc"), 1, &what), &["model.safetensors", "hint:"], &what);
    }
}

#[test]
fn a_damaged_index_of_shards_is_told() {
    fn point(folder: &Path, shard: &str) {
        edit_json(folder, "model.safetensors.index.json", |index| {
            *index["weight_map"].as_object_mut().expect("a map").values_mut().next().expect("an entry") = json!(shard);
        });
    }
    check_damage(
        "gpt2/sharded",
        &[
            (
                "a missing shard",
                |f| remove(f, "model-00002-of-00003.safetensors"),
                &["model-00002-of-00003.safetensors"],
            ),
            (
                "an empty shard",
                |f| write(f, "model-00002-of-00003.safetensors", ""),
                &["model-00002-of-00003.safetensors", "0 bytes"],
            ),
            (
                "a shard of another place",
                |f| point(f, "../model.safetensors"),
                &["file names of shards", "`../model.safetensors`"],
            ),
            ("a shard at an absolute path", |f| point(f, "/etc/passwd"), &["file names of shards", "`/etc/passwd`"]),
            ("a shard below", |f| point(f, "a/b.safetensors"), &["file names of shards"]),
            ("a shard behind a backslash", |f| point(f, "..\\b.safetensors"), &["file names of shards"]),
            ("the folder itself", |f| point(f, "."), &["file names of shards"]),
            ("the folder above", |f| point(f, ".."), &["file names of shards"]),
            ("no name", |f| point(f, ""), &["file names of shards"]),
            ("a name that is a flood", |f| point(f, &"\x1b[31m".repeat(200_000)), &["\\u{1b}[31m"]),
            (
                "a tensor that is not in its shard",
                |f| {
                    let index: Value =
                        serde_json::from_slice(&std::fs::read(f.join("model.safetensors.index.json")).unwrap())
                            .unwrap();
                    let map = index["weight_map"].as_object().unwrap();
                    let first = map.values().next().unwrap().as_str().unwrap();
                    let other = map.values().filter_map(Value::as_str).find(|shard| *shard != first).unwrap();
                    point(f, other);
                },
                &["expected tensor", "missing"],
            ),
            (
                "a tensor that the index forgot",
                |f| {
                    edit_json(f, "model.safetensors.index.json", |index| {
                        index["weight_map"].as_object_mut().unwrap().retain(|name, _| !name.ends_with("ln_f.weight"));
                    })
                },
                &["ln_f.weight", "missing"],
            ),
            ("no JSON", |f| write(f, "model.safetensors.index.json", "shards!"), &["index.json", "weight_map"]),
            ("no map", |f| write(f, "model.safetensors.index.json", "{}"), &["index.json", "weight_map"]),
            (
                "a map of numbers",
                |f| write(f, "model.safetensors.index.json", r#"{"weight_map": {"a": 1}}"#),
                &["index.json", "weight_map"],
            ),
            (
                "an empty map",
                |f| write(f, "model.safetensors.index.json", r#"{"weight_map": {}}"#),
                &["wte.weight", "missing"],
            ),
        ],
    );
}

#[test]
fn a_damaged_tokenizer_is_told() {
    fn edit(folder: &Path, edit: impl FnOnce(&mut Value)) {
        edit_json(folder, "tokenizer.json", edit);
    }
    fn pair(folder: &Path) {
        remove(folder, "tokenizer.json");
    }
    check_damage(
        "tale",
        &[
            (
                "missing",
                |f| ["tokenizer.json", "vocab.json", "merges.txt"].iter().for_each(|file| remove(f, file)),
                &["`tokenizer.json`, or `vocab.json` and `merges.txt`"],
            ),
            ("garbage", |f| write(f, "tokenizer.json", "garbage"), &["tokenizer.json", "line 1 column 1"]),
            ("binary", |f| write(f, "tokenizer.json", b"\x80\x81"), &["tokenizer.json", "UTF-8"]),
            ("an empty object", |f| write(f, "tokenizer.json", "{}"), &["tokenizer.json", "`model`"]),
            ("an array", |f| write(f, "tokenizer.json", "[]"), &["tokenizer.json"]),
            (
                "nested without end",
                |f| write(f, "tokenizer.json", r#"{"normalizer":"#.repeat(50_000)),
                &["tokenizer.json", "recursion limit"],
            ),
            (
                "no vocabulary",
                |f| {
                    edit(f, |t| {
                        t["added_tokens"] = json!([]);
                        t["model"] = json!({ "type": "BPE", "vocab": {}, "merges": [] });
                    })
                },
                &["tokenizer.json", "found no token"],
            ),
            ("another version", |f| edit(f, |t| t["version"] = json!("9.0")), &["tokenizer.json", "9.0"]),
            (
                "a vocabulary larger than the model's",
                |f| edit(f, |t| t["model"]["vocab"]["zzz"] = json!(513)),
                &["tokenizer.json", "vocabulary of 513", "token 513", "another model"],
            ),
            (
                "an id beyond all bounds",
                |f| edit(f, |t| t["model"]["vocab"]["zzz"] = json!(u32::MAX)),
                &["tokenizer.json", "vocabulary of 513"],
            ),
            ("a negative id", |f| edit(f, |t| t["model"]["vocab"]["zzz"] = json!(-1)), &["tokenizer.json"]),
            (
                "merges of unknown tokens",
                |f| edit(f, |t| t["model"]["merges"][0] = json!(["q\u{1b}[31m", "x"])),
                &["tokenizer.json", "q\\u{1b}[31m", "vocabulary"],
            ),
            ("merges of one token", |f| edit(f, |t| t["model"]["merges"][0] = json!("alone")), &["tokenizer.json"]),
            (
                "another kind of model",
                |f| edit(f, |t| t["model"] = json!({ "type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]] })),
                &["`Unigram` is not supported"],
            ),
            (
                "a word list without its name",
                |f| edit(f, |t| t["model"] = json!({ "vocab": { "a": 0 }, "unk_token": "a" })),
                &["tokenizer.json", "BPE"],
            ),
            ("random merges", |f| edit(f, |t| t["model"]["dropout"] = json!(0.5)), &["`dropout`"]),
            (
                "a prefix that no merge has",
                |f| edit(f, |t| t["model"]["continuing_subword_prefix"] = json!("####")),
                &["continuing_subword_prefix"],
            ),
            (
                "chunks of no length",
                |f| edit(f, |t| t["pre_tokenizer"] = json!({ "type": "FixedLength", "length": 0 })),
                &["pre_tokenizer `FixedLength` is not supported"],
            ),
            (
                "a table that cannot be read",
                |f| edit(f, |t| t["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })),
                &["`Precompiled` is not supported"],
            ),
            (
                "the same inside a sequence",
                |f| {
                    edit(f, |t| {
                        t["normalizer"] = json!({ "type": "Sequence", "normalizers": [{ "type": "Precompiled" }] })
                    })
                },
                &["`Precompiled` is not supported"],
            ),
            (
                "a sequence without members",
                |f| edit(f, |t| t["decoder"] = json!({ "type": "Sequence" })),
                &["`decoders`"],
            ),
            (
                "nothing replaced by something",
                |f| {
                    edit(f, |t| {
                        t["normalizer"] = json!({ "type": "Replace", "pattern": { "String": "" }, "content": "x" })
                    })
                },
                &["`Replace`"],
            ),
            (
                "more cut off than there is",
                |f| edit(f, |t| t["decoder"] = json!({ "type": "Strip", "content": "H", "start": 5, "stop": 5 })),
                &["`Strip`"],
            ),
            (
                "a template of unknown tokens",
                |f| {
                    edit(f, |t| {
                        t["post_processor"] = json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "[X]", "type_id": 0 } }], "pair": [], "special_tokens": {} });
                    })
                },
                &["`TemplateProcessing`"],
            ),
            ("a part without a type", |f| edit(f, |t| t["decoder"] = json!({ "suffix": "x" })), &["`type`", "decoder"]),
            (
                "an expression that does not end",
                |f| {
                    edit(f, |t| {
                        t["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "Regex": "(" }, "behavior": "Isolated", "invert": false });
                    })
                },
                &["tokenizer.json"],
            ),
            (
                "vocab.json alone",
                |f| {
                    pair(f);
                    remove(f, "merges.txt");
                },
                &["`merges.txt` beside `vocab.json`"],
            ),
            (
                "merges.txt alone",
                |f| {
                    pair(f);
                    remove(f, "vocab.json");
                },
                &["`tokenizer.json`, or"],
            ),
            (
                "vocab.json: a list",
                |f| {
                    pair(f);
                    write(f, "vocab.json", "[1, 2]");
                },
                &["vocab.json", "expected an object"],
            ),
            (
                "vocab.json: words for ids",
                |f| {
                    pair(f);
                    write(f, "vocab.json", r#"{"a": "one"}"#);
                },
                &["vocab.json", "expected an object"],
            ),
            (
                "vocab.json: empty",
                |f| {
                    pair(f);
                    write(f, "vocab.json", "{}");
                    write(f, "merges.txt", "");
                },
                &["vocab.json", "found no token"],
            ),
            (
                "merges.txt: one token in a line",
                |f| {
                    pair(f);
                    write(f, "merges.txt", "#version: 0.2\nt\x1b[31mh\n");
                },
                &["merges.txt", "line 2", "t\\u{1b}[31mh"],
            ),
            (
                "merges.txt: unknown tokens",
                |f| {
                    pair(f);
                    write(f, "merges.txt", "qq xx\n");
                },
                &["merges.txt", "line 1", "`qq xx`"],
            ),
            (
                "merges.txt: a line that is a flood",
                |f| {
                    pair(f);
                    write(f, "merges.txt", "q".repeat(1 << 20));
                },
                &["merges.txt", "line 1"],
            ),
            (
                "merges.txt: binary",
                |f| {
                    pair(f);
                    write(f, "merges.txt", b"\xc3\x28");
                },
                &["merges.txt", "UTF-8"],
            ),
        ],
    );
}

#[test]
fn a_json_file_cut_anywhere_is_refused_by_its_name() {
    let mut dice = Dice(2);
    for file in ["config.json", "tokenizer.json", "generation_config.json", "vocab.json"] {
        let folder = copy_of(&fixture("tale"));
        if file == "vocab.json" {
            remove(folder.path(), "tokenizer.json");
        }
        let whole = std::fs::read(folder.path().join(file)).unwrap();
        let end = whole.trim_ascii_end().len();
        for cut in (0..30).map(|_| dice.below(end)) {
            write(folder.path(), file, &whole[..cut]);
            let what = format!("{file} cut at {cut}");
            says(&refused(&attempt(folder.path(), "abc"), 1, &what), &[file], &what);
        }
    }
}

#[test]
fn a_damaged_generation_config_is_told() {
    fn set(folder: &Path, field: &str, value: Value) {
        edit_json(folder, "generation_config.json", |config| config[field] = value);
    }
    check_damage(
        "tale",
        &[
            (
                "garbage",
                |f| write(f, "generation_config.json", "garbage"),
                &["generation_config.json", "expected JSON"],
            ),
            (
                "a list",
                |f| write(f, "generation_config.json", "[]"),
                &["generation_config.json", "expected a JSON object"],
            ),
            (
                "a word for a number",
                |f| set(f, "temperature", json!("hot")),
                &["generation_config.json", "`temperature`", "hot"],
            ),
            (
                "a flood for a number",
                |f| set(f, "temperature", json!("\u{9b}31m".repeat(200_000))),
                &["generation_config.json", "`temperature`"],
            ),
            (
                "a fraction for a count",
                |f| set(f, "max_new_tokens", json!(1.5)),
                &["generation_config.json", "`max_new_tokens`"],
            ),
            ("a negative count", |f| set(f, "max_length", json!(-1)), &["generation_config.json", "`max_length`"]),
            ("a word for a switch", |f| set(f, "do_sample", json!("yes")), &["generation_config.json", "`do_sample`"]),
            (
                "an object for an id",
                |f| set(f, "eos_token_id", json!({ "a": 1 })),
                &["generation_config.json", "`eos_token_id`"],
            ),
        ],
    );
    let warned = |field: &str, value: Value, word: &str| {
        let folder = copy_of(&fixture("tale"));
        set(folder.path(), field, value);
        let outcome = attempt(folder.path(), "abc");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.starts_with("warning: ") && outcome.stderr.lines().count() == 1, "{}", outcome.stderr);
        says(&outcome.stderr, &[word, "generation_config.json"], field);
        readable(&outcome.stderr, field);
    };
    warned("guidance_scale", json!(1.5), "`guidance_scale`");
    warned("frobnicate", json!(3), "`frobnicate`");
    warned(&format!("\x1b[31m{}", "x".repeat(1 << 20)), json!(3), "`\\u{1b}[31mxxx");
}

#[test]
fn names_that_are_floods_or_drive_a_terminal_stay_in_their_file() {
    let flood = || format!("\x1b]0;title\x07\u{9b}31m\r{}", "x".repeat(1 << 20));
    let check = |what: &str, damage: &dyn Fn(&Path)| {
        let folder = copy_of(&fixture("tale"));
        damage(folder.path());
        let name = name_of(folder.path());
        for args in [
            &["generate", "-m", &name, ""][..],
            &["generate", "-m", &name, "-n", "2", "abc"],
            &["info", &name],
            &["score", "-m", &name, "abc"],
        ] {
            let outcome = run(within_memory(fireside(args)));
            assert!(matches!(outcome.code, Some(0..=2)), "{what}: {outcome:?}");
            readable(&outcome.stderr, what);
            readable(&outcome.stdout, what);
        }
    };
    check("architecture", &|f| set(f, "architectures", json!([flood()])));
    check("activation", &|f| set(f, "activation_function", json!(flood())));
    check("a number", &|f| set(f, "n_embd", json!(flood())));
    check("licence", &|f| write(f, "README.md", format!("---\nlicense: {}\n---\n", flood())));
    check("a default", &|f| edit_json(f, "generation_config.json", |config| config["bad_words"] = json!([flood()])));
    check("the token that starts a text", &|f| {
        edit_json(f, "tokenizer.json", |tokenizer| tokenizer["added_tokens"][0]["content"] = json!(flood()));
    });
    check("a normalizer", &|f| {
        edit_json(f, "tokenizer.json", |tokenizer| tokenizer["normalizer"] = json!({ "type": flood() }))
    });
    check("an expression", &|f| {
        edit_json(f, "tokenizer.json", |tokenizer| {
            tokenizer["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "Regex": format!("({}", flood()) }, "behavior": "Isolated", "invert": false });
        })
    });
    check("a tensor", &|f| {
        edit_header(f, |header| {
            let first = header.keys().next().expect("a tensor").clone();
            let tensor = header.remove(&first).expect("the tensor");
            header.insert(flood(), tensor);
        })
    });
}

#[test]
fn prompts_that_cannot_be_run_are_told() {
    let tale = model("tale");
    let check = |stdin: &[u8], args: &[&str], words: &[&str]| {
        for verb in ["generate", "score"] {
            let outcome = run_with(fireside([&[verb, "-m", &tale], args].concat()), stdin);
            says(&refused(&outcome, 2, &format!("{verb} {args:?}")), words, verb);
        }
    };
    check(b"", &[], &["the prompt is empty", "<|endoftext|>"]);
    check(b"", &["-"], &["the prompt is empty"]);
    check(b"", &[""], &["the prompt is empty"]);
    check(b"ab\xffcd", &[], &["UTF-8", "at 2", "stdin"]);
    check(b"\xff\xfeU\0T\0F\0", &["-"], &["UTF-8", "at 0", "stdin"]);
    check(&[0xe2, 0x82], &[], &["UTF-8", "stdin"]);

    let long = "many words ".repeat(300);
    let outcome = run_with(fireside(["generate", "-m", &tale]), long.as_bytes());
    says(&refused(&outcome, 2, "long"), &["tokens, expected at most 511", "512", "hint: ", "--truncation"], "long");
    let outcome = run_with(fireside(["generate", "-m", &tale, "--truncation=left", "-n", "2"]), long.as_bytes());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = run(fireside(["score", "-m", &tale, "."]));
    says(&refused(&outcome, 2, "score"), &["one token, expected at least two"], "score");

    let folder = TempDir::new().unwrap();
    write(folder.path(), "latin1.txt", b"na\xefve");
    let file = |name: &str| name_of(&folder.path().join(name));
    for (path, code, words) in [
        (file("latin1.txt"), 2, &["UTF-8", "at 2", "the file"][..]),
        (file("absent.txt"), 1, &["cannot read", "absent.txt"]),
        (file(""), 1, &["cannot read"]),
    ] {
        let outcome = run(fireside(["generate", "-m", &tale, "--file", &path]));
        says(&refused(&outcome, code, &path), words, &path);
    }
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    for args in [
        vec![b"generate".to_vec(), b"ab\xff".to_vec()],
        vec![b"generate".to_vec(), b"-m".to_vec(), b"\xff".to_vec(), b"x".to_vec()],
    ] {
        let outcome = run(fireside(args.into_iter().map(OsString::from_vec)));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
        says(&outcome.stderr, &["error: ", "UTF-8"], "argument");
    }
}

#[test]
fn ids_that_are_not_in_the_vocabulary_are_refused() {
    let tale = model("tale");
    for (ids, words) in [
        ("1 2 three", &["expected token ids, found `three`"][..]),
        ("1 -2", &["found `-2`"]),
        ("513", &["found 513"]),
        ("4294967295", &["found 4294967295"]),
        ("4294967296", &["`4294967296`"]),
        ("1\x1b[31m", &["\\u{1b}[31m"]),
    ] {
        let outcome = run_with(fireside(["tokenize", "-m", &tale, "--decode"]), ids.as_bytes());
        says(&refused(&outcome, 2, ids), words, ids);
    }
}

#[test]
fn impossible_settings_are_told_by_name() {
    let tale = model("tale");
    let check = |args: &str, words: &[&str]| {
        let words_of_args: Vec<&str> = args.split(' ').collect();
        let outcome = run(fireside([&["generate", "-m", &tale], &words_of_args[..], &["abc"]].concat()));
        says(&refused(&outcome, 2, args), words, args);
    };
    check("--top-p 0", &["`top_p` is 0", "above 0"]);
    check("--top-p 1.5", &["`top_p` is 1.5", "at most 1"]);
    check("--top-h 0", &["`top_h` is 0"]);
    check("--min-p 2", &["`min_p` is 2"]);
    check("--min-p -0.1", &["`min_p` is -0.1"]);
    check("--typical-p 0", &["`typical_p` is 0"]);
    check("--epsilon-cutoff 1", &["`epsilon_cutoff` is 1"]);
    check("--eta-cutoff -1", &["`eta_cutoff` is -1"]);
    check("--temperature -1", &["`temperature` is -1", "from 0"]);
    check("--temperature 0 --do-sample", &["`temperature` is 0 while `do_sample` is true"]);
    check("--repetition-penalty 0", &["`repetition_penalty` is 0"]);
    check("--repetition-penalty -2", &["`repetition_penalty` is -2"]);
    check("--exponential-decay-length-penalty 3,0", &["`exponential_decay_length_penalty` is 0"]);
    check("--max-time 0", &["`max_time` is 0"]);
    check("--max-time -1", &["`max_time` is -1"]);
    check("--max-new-tokens 0", &["`max_new_tokens` is 0"]);
    check("--max-length 0", &["`max_length` is 0"]);
    check("--max-length 1", &["`max_length` is 1", "prompt alone has"]);
    check("--min-new-tokens 9 --max-new-tokens 5", &["`min_new_tokens` is 9", "`max_new_tokens`"]);
    check("--min-length 90 --max-length 50", &["`min_length` is 90", "`max_length`"]);
    check("--min-new-tokens 600", &["`min_new_tokens`", "600"]);
    check("--num-beams 0", &["`num_beams` is 0"]);
    check("--num-beams 100000", &["`num_beams` is 100000", "1024"]);
    check("--num-return-sequences 0", &["`num_return_sequences` is 0"]);
    check("--num-return-sequences 1000000", &["`num_return_sequences` is 1000000"]);
    check("--num-beams 2 --num-return-sequences 3", &["`num_return_sequences` is 3", "`num_beams`"]);
    check("--num-return-sequences 2 --do-sample=false", &["`num_return_sequences` is 2", "likeliest"]);
    check("--num-beams 4 --stream", &["`stream`", "`num_beams`"]);
    check("--num-return-sequences 2 --stream", &["`stream`", "`num_return_sequences`"]);
    check("--num-beams 2 --prompt-lookup-num-tokens 3", &["`prompt_lookup_num_tokens`", "`num_beams`"]);
    check(
        "--num-return-sequences 2 --prompt-lookup-num-tokens 3",
        &["`prompt_lookup_num_tokens`", "`num_return_sequences`"],
    );
    check("--prompt-lookup-num-tokens 0", &["`prompt_lookup_num_tokens` is 0"]);
    check("--max-matching-ngram-size 0 --prompt-lookup-num-tokens 3", &["`max_matching_ngram_size` is 0"]);
    check("--stop-strings=", &["`stop_strings` holds an empty text"]);
    check("--bad-words=", &["`bad_words` holds an empty text"]);
    check("--eos-token-id 513", &["`eos_token_id` holds the token 513", "below 513"]);
    check("--suppress-tokens 1,99999", &["`suppress_tokens` holds the token 99999"]);
    check("--begin-suppress-tokens 513", &["`begin_suppress_tokens` holds the token 513"]);
    check("--forced-bos-token-id 513", &["`forced_bos_token_id` holds the token 513"]);
    check("--forced-eos-token-id 513", &["`forced_eos_token_id` holds the token 513"]);
    check("--bad-words-ids 1,513", &["`bad_words_ids` holds the token 513"]);
    check("--logit-bias 513=1", &["`logit_bias` holds the token 513"]);
    check("--sequence-bias 1,513=1", &["`sequence_bias` holds the token 513"]);
    check("--context 0", &["`context` is 0", "from 2 to 512"]);
    check("--context 1", &["`context` is 1", "from 2 to 512"]);
    check("--context 513", &["`context` is 513", "from 2 to 512"]);
    check("--context 18446744073709551615", &["`context`", "from 2 to 512"]);
    check("--truncation=left --max-new-tokens 512", &["`truncation`", "512"]);
    check("--top-logprobs 2 --logprobs=false", &["`top_logprobs`", "`logprobs` is false"]);
    let score = |args: &[&str], words: &[&str]| {
        let outcome = run(fireside([&["score", "-m", &tale, "abc def"], args].concat()));
        says(&refused(&outcome, 2, &format!("{args:?}")), words, "score");
    };
    score(&["--window", "1"], &["`window` is 1", "from 2 to 512"]);
    score(&["--window", "513"], &["`window` is 513"]);
    score(&["--stride", "0"], &["`stride` is 0"]);
    score(&["--window", "10", "--stride", "11"], &["`stride` is 11", "from 1 to 10"]);
}

#[test]
fn settings_that_are_no_finite_numbers_are_told_by_name() {
    let tale = model("tale");
    let check = |args: &str, words: &[&str]| {
        let words_of_args: Vec<&str> = args.split(' ').collect();
        let outcome = run(fireside([&["generate", "-m", &tale], &words_of_args[..], &["abc"]].concat()));
        says(&refused(&outcome, 2, args), words, args);
    };
    check("--top-p nan", &["`top_p` is NaN"]);
    check("--temperature nan", &["`temperature` is NaN"]);
    check("--temperature inf", &["`temperature` is inf"]);
    check("--presence-penalty inf", &["`presence_penalty` is inf"]);
    check("--frequency-penalty nan", &["`frequency_penalty` is NaN"]);
    check("--length-penalty nan --num-beams 2", &["`length_penalty` is NaN"]);
    check("--max-time nan", &["`max_time` is NaN"]);
    check("--logit-bias 5=nan", &["`logit_bias` holds a NaN"]);
    check("--sequence-bias 1=inf", &["`sequence_bias` is inf"]);
    check("--sequence-bias 1=nan", &["`sequence_bias` is NaN"]);
    check("--exponential-decay-length-penalty 3,nan", &["`exponential_decay_length_penalty` is NaN"]);
}

#[test]
fn a_bias_of_minus_infinity_forbids_a_token() {
    let tale = model("tale");
    let text = |flags: &[&str]| {
        run(fireside(
            [&["generate", "-m", &tale, "-n", "8", "-t", "0", "Anna carried a small lantern near the mill."], flags]
                .concat(),
        ))
        .answer()
    };
    assert_eq!(text(&["--logit-bias", "504=-inf"]), text(&["--suppress-tokens", "504"]));
}

#[test]
fn arguments_that_do_not_parse_are_bad_usage() {
    let tale = model("tale");
    let check = |args: &str, words: &[&str]| {
        let words_of_args: Vec<&str> = args.split(' ').collect();
        let outcome = run(fireside([&["generate", "-m", &tale], &words_of_args[..], &["abc"]].concat()));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{args}: {outcome:?}");
        assert!(outcome.stderr.starts_with("error: "), "{args}: {}", outcome.stderr);
        readable(&outcome.stderr, args);
        says(&outcome.stderr, words, args);
    };
    check("--threads 0", &["--threads", "0"]);
    check("--threads 100000", &["--threads", "100000"]);
    check("--device tpu", &["--device", "`cpu`, `cuda`, `cuda:N` or `metal`"]);
    check("--device cuda:x", &["--device", "GPU's index", "x"]);
    check("--dtype q4", &["--dtype", "`f32`, `f16` or `bf16`"]);
    check("--temperature hot", &["--temperature", "hot"]);
    check("--top-k -1", &["--top-k", "-1"]);
    check("--top-k 1.5", &["--top-k", "1.5"]);
    check("--max-new-tokens 99999999999999999999", &["--max-new-tokens"]);
    check("--seed -1", &["--seed"]);
    check("--early-stopping maybe", &["`true`, `false` or `never`"]);
    check("--truncation=middle", &["`right`, `left` or `false`"]);
    check("--exponential-decay-length-penalty 5", &["20,1.05"]);
    check("--logit-bias 5", &["`=`", "11,12=-2.5"]);
    check("--logit-bias 5,6=1", &["sequence_bias"]);
    check("--sequence-bias 5=x", &["expected a number"]);
    check("--bad-words-ids a", &["--bad-words-ids", "token ids"]);
    check("--do-sample=maybe", &["--do-sample", "maybe"]);
    check("--json --stream", &["--json", "--stream"]);
    check("--details", &["--json"]);
    check("--file x", &["--file"]);
    check("--top-p 0.5 --top-p 0.6", &["--top-p", "multiple"]);
    check("--no-such-flag", &["--no-such-flag"]);
}

#[test]
fn hardware_that_is_not_there_is_told() {
    let tale = model("tale");
    let check = |args: &[&str], kernels: Option<&str>, words: &[&str]| {
        let mut command = fireside([&["generate", "-m", &tale], args, &["abc"]].concat());
        kernels.map(|kernels| command.env("FIRESIDE_KERNELS", kernels));
        says(&refused(&run(command), 1, &format!("{args:?} {kernels:?}")), words, "hardware");
    };
    if !cfg!(feature = "cuda") {
        check(&["--device", "cuda"], None, &["cannot use `cuda`", "--features cuda"]);
        check(&["--device", "cuda:7"], None, &["cannot use `cuda`"]);
    }
    if !cfg!(feature = "metal") {
        check(&["--device", "metal"], None, &["cannot use `metal`", "--features metal"]);
    }
    check(&[], Some("foo"), &["`FIRESIDE_KERNELS` is `foo`", "scalar"]);
    check(&[], Some("\x1b[31m"), &["\\u{1b}[31m"]);
    check(&[], Some(&"x".repeat(20_000)), &["xxx…"]);
}

#[test]
fn random_damage_to_any_file_works_or_is_told() {
    let folder = copy_of(&fixture("tale"));
    let files =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"];
    let mut dice = Dice(3);
    let mut refusals = 0;
    for case in 0..300 {
        let file = files[case % files.len()];
        let hidden = matches!(file, "vocab.json" | "merges.txt").then(|| folder.path().join("tokenizer.json"));
        let tokenizer = hidden.as_ref().map(|path| std::fs::read(path).unwrap());
        if let Some(path) = &hidden {
            std::fs::remove_file(path).unwrap();
        }
        let whole = std::fs::read(folder.path().join(file)).unwrap();
        let mut damaged = whole.clone();
        for _ in 0..=dice.below(4) {
            // Half of the damage goes where the structure is: most of a weight file is numbers.
            let reach = if dice.below(2) == 0 { damaged.len() } else { damaged.len().min(2048) };
            let at = dice.below(reach);
            match dice.below(3) {
                0 => damaged[at] ^= 1 << dice.below(8),
                1 => damaged[at] = dice.below(256) as u8,
                _ => drop(damaged.drain(at..(at + dice.below(40)).min(damaged.len()))),
            }
        }
        write(folder.path(), file, &damaged);
        let outcome = attempt(folder.path(), "Anna carried a small lantern");
        let what = format!("case {case}, {file}");
        match outcome.code {
            Some(0) => readable(&outcome.stderr, &what),
            // Numbers that overflow are found after the prompt was printed.
            Some(1) if outcome.stderr.contains("not finite") => readable(&outcome.stderr, &what),
            Some(code @ (1 | 2)) => {
                refused(&outcome, code, &what);
                refusals += 1;
            }
            _ => panic!("{what}: {outcome:?}"),
        }
        write(folder.path(), file, &whole);
        if let (Some(path), Some(tokenizer)) = (hidden, tokenizer) {
            std::fs::write(path, tokenizer).unwrap();
        }
    }
    assert!(refusals > 100, "only {refusals} of 300 were refused: the damage is too tame");
}
