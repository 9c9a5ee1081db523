//! Models in folders that are unusual and sound: each has one property that the plain folder lacks, loads, and computes the plain
//! folder's logits, bit by bit, and cuts texts into its tokens.

use std::path::Path;

use fireside::{Engine, Prompt};
use serde_json::{Map, Value, json};

use crate::support::{copy_of, fixture, name_of};

const TEXT: &str = "Once upon a time, the fox said: \"Ünï 世界\"\n\n  42.";
const WEIGHTS: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";

fn read(folder: &Path, file: &str) -> Vec<u8> {
    std::fs::read(folder.join(file)).expect("a file")
}

fn write(folder: &Path, file: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.join(file), bytes).expect("a written file");
}

fn remove(folder: &Path, file: &str) {
    std::fs::remove_file(folder.join(file)).expect("a removed file");
}

fn edit(folder: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&read(folder, file)).expect("JSON");
    edit(&mut json);
    write(folder, file, json.to_string());
}

/// The header of a weight file as JSON, and the numbers behind it.
fn parts(bytes: &[u8]) -> (Map<String, Value>, &[u8]) {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let (header, data) = bytes[8..].split_at(length);
    (serde_json::from_slice(header).expect("a header"), data)
}

fn weight_file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn edit_header(folder: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let bytes = read(folder, WEIGHTS);
    let (mut header, data) = parts(&bytes);
    edit(&mut header);
    write(folder, WEIGHTS, weight_file(&Value::Object(header).to_string(), data));
}

/// The header as this text makes it of the plain one.
fn spell_header(folder: &Path, spell: impl FnOnce(String) -> String) {
    let bytes = read(folder, WEIGHTS);
    let (header, data) = parts(&bytes);
    write(folder, WEIGHTS, weight_file(&spell(Value::Object(header).to_string()), data));
}

/// The tensors of a weight file, each with its bytes.
fn tensors(folder: &Path) -> Vec<(String, Value, Vec<u8>)> {
    let bytes = read(folder, WEIGHTS);
    let (header, data) = parts(&bytes);
    let mut tensors = Vec::new();
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let [start, end] = [0, 1].map(|i| entry["data_offsets"][i].as_u64().expect("an offset") as usize);
        tensors.push((name.clone(), entry.clone(), data[start..end].to_vec()));
    }
    tensors
}

/// A weight file of tensors, the numbers in the order in which they come.
fn file_of(tensors: &[(String, Value, Vec<u8>)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, entry, bytes) in tensors {
        let mut entry = entry.clone();
        entry["data_offsets"] = json!([data.len(), data.len() + bytes.len()]);
        header.insert(name.clone(), entry);
        data.extend(bytes);
    }
    weight_file(&Value::Object(header).to_string(), &data)
}

/// The weights in so many files with an index; each tensor goes where `place` says.
fn shard(folder: &Path, shards: usize, place: impl Fn(usize) -> usize, index: impl FnOnce(&mut Value)) {
    let tensors = tensors(folder);
    let name = |shard: usize| format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
    let mut map = Map::new();
    for shard in 0..shards {
        let own: Vec<_> =
            tensors.iter().enumerate().filter(|(i, _)| place(*i) == shard).map(|(_, tensor)| tensor.clone()).collect();
        write(folder, &name(shard), file_of(&own));
        own.iter().for_each(|(tensor, ..)| _ = map.insert(tensor.clone(), json!(name(shard))));
    }
    let mut json = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    index(&mut json);
    write(folder, "model.safetensors.index.json", json.to_string());
    remove(folder, WEIGHTS);
}

fn config(folder: &Path, change: impl FnOnce(&mut Value)) {
    edit(folder, "config.json", change);
}

fn tokenizer(folder: &Path, change: impl FnOnce(&mut Value)) {
    edit(folder, TOKENIZER, change);
}

/// vocab.json and merges.txt instead of tokenizer.json.
fn pair(folder: &Path, spell: impl FnOnce(String) -> String) {
    remove(folder, TOKENIZER);
    let merges = String::from_utf8(read(folder, "merges.txt")).expect("text");
    write(folder, "merges.txt", spell(merges));
}

type Change = fn(&Path);

const FOLDERS: &[(&str, Change)] = &[
    ("weights: a header with room behind it", |f| spell_header(f, |header| header + &" ".repeat(1000))),
    ("weights: a header that does not align the numbers", |f| {
        spell_header(f, |header| {
            let odd = header.len().is_multiple_of(2);
            header + if odd { " " } else { "" }
        })
    }),
    ("weights: a header with escapes", |f| spell_header(f, |header| header.replace("wte", "\\u0077te"))),
    ("weights: no metadata", |f| edit_header(f, |header| drop(header.remove("__metadata__")))),
    ("weights: metadata of another framework", |f| {
        edit_header(f, |header| drop(header.insert("__metadata__".to_owned(), json!({ "format": "np", "": "🦊\n" }))))
    }),
    ("weights: numbers in another order than names", |f| {
        let mut all = tensors(f);
        all.reverse();
        write(f, WEIGHTS, file_of(&all));
    }),
    ("weights: a tensor of no numbers", |f| {
        let mut all = tensors(f);
        all.push(("empty".to_owned(), json!({ "dtype": "F32", "shape": [0, 7] }), Vec::new()));
        write(f, WEIGHTS, file_of(&all));
    }),
    ("weights: a tensor of no dimensions", |f| {
        let mut all = tensors(f);
        all.push(("step".to_owned(), json!({ "dtype": "I64", "shape": [] }), vec![0; 8]));
        write(f, WEIGHTS, file_of(&all));
    }),
    ("weights: masks of other dtypes", |f| {
        let mut all = tensors(f);
        all.push((
            "transformer.h.0.attn.bias".to_owned(),
            json!({ "dtype": "BOOL", "shape": [1, 1, 2, 2] }),
            vec![1; 4],
        ));
        all.push(("transformer.h.1.attn.masked_bias".to_owned(), json!({ "dtype": "F16", "shape": [] }), vec![0; 2]));
        write(f, WEIGHTS, file_of(&all));
    }),
    ("weights: a name in other letters", |f| {
        let mut all = tensors(f);
        all.push(("гирлянда 🦊".to_owned(), json!({ "dtype": "U8", "shape": [1] }), vec![0]));
        write(f, WEIGHTS, file_of(&all));
    }),
    ("weights: a head that repeats the table", |f| {
        let mut all = tensors(f);
        let (_, entry, bytes) = all.iter().find(|(name, ..)| name.ends_with("wte.weight")).expect("a table").clone();
        all.push(("lm_head.weight".to_owned(), entry, bytes));
        write(f, WEIGHTS, file_of(&all));
    }),
    ("weights: names without their prefix", |f| {
        let mut all = tensors(f);
        all.iter_mut().for_each(|(name, ..)| *name = name.replacen("transformer.", "", 1));
        write(f, WEIGHTS, file_of(&all));
    }),
    ("weights: one shard of one", |f| shard(f, 1, |_| 0, |_| ())),
    ("weights: shards", |f| shard(f, 3, |tensor| tensor % 3, |_| ())),
    ("weights: a shard of no tensors", |f| shard(f, 2, |_| 1, |_| ())),
    ("weights: an index without metadata", |f| {
        shard(f, 2, |tensor| tensor % 2, |index| drop(index.as_object_mut().expect("an object").remove("metadata")))
    }),
    ("weights: an index of more words", |f| shard(f, 2, |tensor| tensor % 2, |index| index["x"] = json!([null]))),
    ("weights: pickles beside them", |f| write(f, "pytorch_model.bin", b"\x80\x04")),
    ("config: lines that end as on Windows", |f| {
        let text = String::from_utf8(read(f, "config.json")).expect("text");
        write(f, "config.json", text.replace('\n', "\r\n"));
    }),
    ("config: keys that nobody knows", |f| config(f, |c| c["x"] = json!({ "y": [1, null, "z"] }))),
    ("config: no `architectures`", |f| config(f, |c| c["architectures"] = Value::Null)),
    ("config: no `model_type`", |f| config(f, |c| drop(c.as_object_mut().expect("an object").remove("model_type")))),
    ("config: names of other architectures", |f| {
        config(f, |c| {
            for (name, alias) in
                [("n_embd", "hidden_size"), ("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads")]
            {
                c[alias] = c[name].take();
                c.as_object_mut().expect("an object").remove(name);
            }
        })
    }),
    ("config: a list of ends of texts", |f| config(f, |c| c["eos_token_id"] = json!([c["eos_token_id"]]))),
    ("config: a number with an exponent", |f| {
        config(f, |c| c["layer_norm_epsilon"] = serde_json::from_str("1000E-8").expect("a number"))
    }),
    ("config: `null` for what is optional", |f| config(f, |c| c["n_inner"] = Value::Null)),
    ("no generation_config.json", |f| remove(f, "generation_config.json")),
    ("an empty generation_config.json", |f| write(f, "generation_config.json", "{}")),
    ("no tokenizer_config.json", |f| remove(f, "tokenizer_config.json")),
    ("tokenizer: limits and padding, which are not followed", |f| {
        tokenizer(f, |t| {
            t["truncation"] = json!({ "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 });
        })
    }),
    ("tokenizer: merges as lines", |f| {
        tokenizer(f, |t| {
            for merge in t["model"]["merges"].as_array_mut().expect("merges") {
                if let [left, right] = &merge.as_array().cloned().unwrap_or_default()[..] {
                    *merge = json!(format!("{} {}", left.as_str().expect("text"), right.as_str().expect("text")));
                }
            }
        })
    }),
    ("tokenizer: merges as pairs", |f| {
        tokenizer(f, |t| {
            for merge in t["model"]["merges"].as_array_mut().expect("merges") {
                if let Some((left, right)) = merge.as_str().and_then(|line| line.split_once(' ')) {
                    *merge = json!([left, right]);
                }
            }
        })
    }),
    ("tokenizer: spaces and lines between everything", |f| {
        tokenizer(f, |_| ());
        let json: Value = serde_json::from_slice(&read(f, TOKENIZER)).expect("JSON");
        write(f, TOKENIZER, serde_json::to_string_pretty(&json).expect("JSON").replace('\n', "\r\n\t"));
    }),
    ("tokenizer: all letters as escapes", |f| {
        let text = String::from_utf8(read(f, TOKENIZER)).expect("text");
        let escaped = text.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\u{:04x}", c as u32) });
        write(f, TOKENIZER, escaped.collect::<String>());
    }),
    ("vocab.json and merges.txt alone", |f| pair(f, |merges| merges)),
    ("merges.txt without its version", |f| {
        pair(f, |merges| {
            merges.lines().filter(|line| !line.starts_with("#version")).map(|line| format!("{line}\n")).collect()
        })
    }),
    ("merges.txt with lines that end as on Windows", |f| pair(f, |merges| merges.replace('\n', "\r\n"))),
    ("merges.txt without an end of its last line", |f| pair(f, |merges| merges.trim_end().to_owned())),
];

#[test]
fn unusual_folders_load_and_compute_the_same() {
    let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 500).collect();
    let run = |folder: &Path, what: &str| {
        let mut engine = Engine::load(&name_of(folder)).unwrap_or_else(|error| panic!("{what}: {error}"));
        let logits = engine.logits(Prompt::Tokens(ids.clone())).unwrap_or_else(|error| panic!("{what}: {error}"));
        let bits: Vec<u32> = logits.into_iter().map(f32::to_bits).collect();
        (bits, engine.tokenizer().encode(TEXT).unwrap_or_else(|error| panic!("{what}: {error}")))
    };
    let plain = run(&fixture("tale"), "plain");
    for (what, change) in FOLDERS {
        let folder = copy_of(&fixture("tale"));
        change(folder.path());
        assert!(run(folder.path(), what) == plain, "{what}: other logits or tokens");
    }
    let mut names: Vec<&str> = FOLDERS.iter().map(|(what, _)| *what).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() >= 38, "{} unusual folders", names.len());
}
