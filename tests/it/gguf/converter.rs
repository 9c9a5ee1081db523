//! Files of llama.cpp's converter: `fireside quantize` writes the same, and both compute what transformers does.

use std::collections::BTreeMap;

use fireside::quantize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::file::{BOOL, F32, GgufFile, GgufTensor, STRING, U32, string};
use super::{expected, logits, written};
use crate::support::{cases, copy_of, fixture, json, name_of, write_tokenizer};

/// Keys that the converter does not always write and llama.cpp reads.
const OURS: &[&str] = &[
    "rope.freq_base",
    "rope.scaling.attn_factor",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
];

/// Windows that the converter leaves away and llama.cpp pays no attention to.
const WINDOW: &str = "attention.sliding_window";

/// Keys of which the converter takes something else than the model has: four times the width, without looking; a factor that
/// it computes from lengths where config.json has one.
const WRONG: &[(&str, &str)] = &[
    ("gpt2/odd", "feed_forward_length"),
    ("falcon/base", "feed_forward_length"),
    ("falcon/groups", "feed_forward_length"),
    ("phi/base", "feed_forward_length"),
    ("phi3/short", "rope.scaling.attn_factor"),
    ("falcon/base", "context_length"),
    ("falcon/groups", "context_length"),
    ("falcon/heads", "context_length"),
];

/// Models of which the converter's file leaves away what shows.
const LOST: &[(&str, &str)] = &[
    ("gpt_neox/base", "rope.freq_base"),
    ("gpt_neox/new", "rope.freq_base"),
    ("falcon/groups", "rope.freq_base"),
    ("mistral/window", WINDOW),
    ("mistral/long", WINDOW),
    ("starcoder2/long", WINDOW),
];

type Keys = BTreeMap<String, (u32, Vec<u8>)>;

fn own_file(model: &str) -> GgufFile {
    let folder = copy_of(&fixture(model));
    write_tokenizer(folder.path());
    let file = folder.path().join("written.gguf");
    quantize(None, &name_of(folder.path()), "f32".parse().expect("a type"), &file, None, |_, _| {})
        .unwrap_or_else(|error| panic!("{model}: {error}"));
    GgufFile::parsed(&std::fs::read(file).expect("the file"))
}

/// What a file says of the architecture, by key.
fn keys_of(file: &GgufFile) -> Keys {
    let keys =
        file.keys.iter().map(|(key, kind, value)| (String::from_utf8_lossy(key).into_owned(), (*kind, value.clone())));
    let is_own =
        |key: &str| key == "general.architecture" || !key.starts_with("general.") && !key.starts_with("tokenizer.");
    keys.filter(|(key, _)| is_own(key)).collect()
}

/// The same of the converter's.
fn converters_keys(case: &Value) -> Keys {
    let value = |kind: &str, value: &Value| match kind {
        "UINT32" => (U32, (value.as_u64().expect("a size") as u32).to_le_bytes().to_vec()),
        "FLOAT32" => (F32, (value.as_f64().expect("a number") as f32).to_le_bytes().to_vec()),
        "BOOL" => (BOOL, vec![u8::from(value.as_bool().expect("a flag"))]),
        "STRING" => (STRING, string(value.as_str().expect("a text"))),
        other => panic!("a key of kind {other}"),
    };
    let keys = case["keys"].as_object().expect("keys").iter();
    keys.map(|(key, pair)| (key.clone(), value(pair[0].as_str().expect("a kind"), &pair[1]))).collect()
}

/// Name, shape and digest of a tensor, as the fixture has them. Factors of frequencies are computed, and held by the logits.
fn described(tensor: &GgufTensor) -> Value {
    if tensor.name.starts_with(b"rope_f") {
        return serde_json::json!([String::from_utf8_lossy(&tensor.name), tensor.dims, null]);
    }
    let digest: String = Sha256::digest(&tensor.data)[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let shape: Vec<u64> = tensor.dims.iter().rev().copied().collect();
    serde_json::json!([String::from_utf8_lossy(&tensor.name), shape, digest])
}

fn without_prefix(key: &str) -> &str {
    key.split_once('.').map_or(key, |(_, rest)| rest)
}

fn is_listed(list: &[(&str, &str)], model: &str, key: &str) -> bool {
    list.contains(&(model, without_prefix(key)))
}

fn worst(file: &GgufFile, model: &str) -> f32 {
    let (ids, expected) = expected(model);
    let (_folder, path): (TempDir, _) = written(file);
    let found = logits(&path, &ids);
    assert_eq!(found.len(), expected.len(), "{model}");
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn written_files_are_those_of_llama_cpps_converter() {
    let mut kinds = std::collections::BTreeSet::new();
    for case in cases(&json("gguf.json")) {
        let model = case["model"].as_str().expect("a model");
        let own = own_file(model);
        let mut tensors: Vec<Value> = own.tensors.iter().map(described).collect();
        tensors.sort_by_key(|tensor| tensor[0].as_str().map(str::to_owned));
        let mut known = case["tensors"].as_array().expect("tensors").clone();
        known
            .iter_mut()
            .filter(|t| t[0].as_str().is_some_and(|name| name.starts_with("rope_f")))
            .for_each(|t| t[2] = Value::Null);
        // A head that repeats the table is left away, and is there in the converter's file where it was stored.
        let table = known.iter().find(|tensor| tensor[0] == "token_embd.weight").expect("a table")[2].clone();
        let has_head = tensors.iter().any(|tensor| tensor[0] == "output.weight");
        known.retain(|tensor| has_head || tensor[0] != "output.weight" || tensor[2] != table);
        assert_eq!(tensors, known, "{model}");
        let (keys, theirs) = (keys_of(&own), converters_keys(case));
        for (key, value) in &theirs {
            match is_listed(WRONG, model, key) {
                true => assert_ne!(keys.get(key), Some(value), "{model}: {key}"),
                false => assert_eq!(keys.get(key), Some(value), "{model}: {key}"),
            }
        }
        for key in keys.keys().filter(|key| !theirs.contains_key(*key)) {
            let known = OURS.contains(&without_prefix(key)) || is_listed(LOST, model, key);
            assert!(known, "{model}: the converter does not write {key}");
        }
        kinds.insert(theirs["general.architecture"].1.clone());
    }
    assert_eq!(kinds.len(), 18, "architectures");
}

/// Queries, keys and values of each layer in one tensor, as the converter writes them when it is told to.
fn fused(file: &GgufFile) -> Option<GgufFile> {
    let mut out = GgufFile { tensors: Vec::new(), ..file.clone() };
    for tensor in &file.tensors {
        let name = String::from_utf8_lossy(&tensor.name).into_owned();
        let is = |part: &str| name.contains(&format!(".{part}."));
        if is("attn_k") || is("attn_v") {
            continue;
        }
        let mut all = tensor.clone();
        if is("attn_q") {
            all.name = name.replace("attn_q", "attn_qkv").into_bytes();
            for part in ["attn_k", "attn_v"] {
                let wanted = name.replace("attn_q", part);
                let other = file.tensors.iter().find(|other| other.name == wanted.as_bytes())?;
                *all.dims.last_mut()? += other.dims.last()?;
                all.data.extend(&other.data);
            }
        }
        out.tensors.push(all);
    }
    (out.tensors.len() < file.tensors.len()).then_some(out)
}

#[test]
fn queries_keys_and_values_may_be_one_tensor() {
    let (mut models, mut biases) = (0, 0);
    for case in cases(&json("gguf.json")) {
        let model = case["model"].as_str().expect("a model");
        let Some(file) = fused(&own_file(model)) else { continue };
        let off = worst(&file, model);
        assert!(off < 1e-4, "{model}: logits are off by {off}");
        models += 1;
        biases += usize::from(file.tensors.iter().any(|tensor| tensor.name == b"blk.0.attn_qkv.bias"));
    }
    assert!(models >= 24 && biases >= 5, "{models} models, {biases} with biases");
}

/// None of the architectures that are read has this, in llama.cpp neither.
#[test]
fn merged_parts_of_experts_are_refused_by_name() {
    let mut file = own_file("qwen3_moe/usual");
    for tensor in &mut file.tensors {
        tensor.name = String::from_utf8_lossy(&tensor.name).replace("ffn_gate_exps", "ffn_gate_up_exps").into_bytes();
    }
    let (_folder, path): (TempDir, _) = written(&file);
    let error = fireside::Engine::load(&name_of(&path)).expect_err("it is refused");
    assert!(error.to_string().contains("`blk.0.ffn_gate_up_exps.weight`"), "{error}");
}

#[test]
fn a_model_computes_the_same_in_a_written_file_and_in_the_converters() {
    for case in cases(&json("gguf.json")) {
        let model = case["model"].as_str().expect("a model");
        let own = own_file(model);
        let off = worst(&own, model);
        assert!(off < 1e-4, "{model}: logits of the written file are off by {off}");
        // Its keys, the tensors that the other test has found to be the same.
        let mut theirs = own.clone();
        let keys = keys_of(&own);
        theirs.keys.retain(|(key, ..)| !keys.contains_key(&*String::from_utf8_lossy(key)));
        for (key, (kind, value)) in converters_keys(case) {
            let (kind, value) = if is_listed(WRONG, model, &key) { keys[&key].clone() } else { (kind, value) };
            theirs = theirs.key(&key, kind, value);
        }
        let off = worst(&theirs, model);
        match LOST.iter().any(|(lost, _)| *lost == model) {
            true => assert!(off > 1e-2, "{model}: nothing is lost in the converter's file"),
            false => assert!(off < 1e-4, "{model}: logits of the converter's file are off by {off}"),
        }
    }
}
