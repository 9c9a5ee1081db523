//! Vocabularies on their way into a file: what llama.cpp's converter writes, the ids of Python's libraries, and what a file
//! cannot say.

use std::path::Path;

use fireside::{Quantized, Tokenizer, quantize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::file::{ARRAY, BOOL, GgufFile, STRING, U32};
use crate::support::{cases, copy_of, fixture, json, name_of};

/// A model of 513 tokens under a name of its own, without a tokenizer, whose texts begin with token 1 and end with 2.
fn folder(name: &str) -> (TempDir, std::path::PathBuf) {
    let (outer, model) = (TempDir::new().unwrap(), copy_of(&fixture("tale")));
    let path = outer.path().join(name);
    for file in ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"] {
        std::fs::remove_file(model.path().join(file)).unwrap();
    }
    std::fs::rename(model.keep(), &path).unwrap();
    edit(&path.join("config.json"), |config| {
        config["bos_token_id"] = json!(1);
        config["eos_token_id"] = json!(2);
    });
    (outer, path)
}

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// The file that a folder becomes, taken apart, what it is read as, and what was said of it.
fn file_of(folder: &Path) -> (GgufFile, Tokenizer, Quantized) {
    let file = folder.with_extension("gguf");
    let told = quantize(None, &name_of(folder), "f32".parse().unwrap(), &file, None, |_, _| {})
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let parsed = GgufFile::parsed(&std::fs::read(&file).unwrap());
    (parsed, Tokenizer::load(&name_of(&file)).unwrap(), told)
}

/// The value of a key as JSON: texts, flags, sizes, and lists of texts, scores or types.
fn value_of(file: &GgufFile, key: &str) -> Value {
    let Some((_, kind, bytes)) = file.keys.iter().find(|(known, ..)| known == key.as_bytes()) else {
        return Value::Null;
    };
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    match *kind {
        STRING => json!(String::from_utf8_lossy(&bytes[8..])),
        BOOL => json!(bytes[0] == 1),
        U32 => json!(number(bytes)),
        ARRAY => {
            let mut rest = &bytes[12..];
            let mut found = Vec::new();
            while !rest.is_empty() {
                let length = if number(bytes) == STRING { 8 + number(rest) as usize } else { 4 };
                found.push(match number(bytes) {
                    STRING => json!(String::from_utf8_lossy(&rest[8..length])),
                    super::file::F32 => json!(f32::from_bits(number(rest))),
                    _ => json!(number(rest) as i32),
                });
                rest = &rest[length..];
            }
            Value::Array(found)
        }
        other => panic!("{key} is of kind {other}"),
    }
}

#[test]
fn a_sentencepiece_file_is_written_as_by_llama_cpps_converter() {
    let known = json("gguf.json");
    let vocabularies = known["vocabularies"].as_array().expect("a list");
    for case in vocabularies {
        let (_outer, path) = folder("model");
        std::fs::copy(fixture("sentencepiece/tokenizer.model"), path.join("tokenizer.model")).unwrap();
        std::fs::write(path.join("tokenizer_config.json"), case["settings"].to_string()).unwrap();
        let (own, ..) = file_of(&path);
        let is_bare = case["settings"]["added_tokens_decoder"].is_null();
        for (key, theirs) in case["keys"].as_object().expect("keys") {
            let mut own = value_of(&own, key);
            if key == "tokenizer.ggml.token_type" && is_bare {
                // Tokens that the training was told of, `<b>` and two line breaks, are taken for any others there.
                for id in [5, 6] {
                    assert_eq!((&own[id], &theirs[id]), (&json!(4), &json!(1)));
                    own[id] = json!(1);
                }
            }
            if key == "tokenizer.ggml.eot_token_id" {
                continue; // Gemma's own, whatever the vocabulary
            }
            match (own.as_array(), theirs.as_array()) {
                (Some(own), Some(theirs)) => {
                    assert_eq!(own.len(), theirs.len(), "{key}");
                    for (id, (own, theirs)) in own.iter().zip(theirs).enumerate() {
                        assert_eq!(own, theirs, "{key} of token {id} in {case}");
                    }
                }
                _ => assert_eq!(own, *theirs, "{key} in {}", case["settings"]),
            }
        }
    }
    assert_eq!(vocabularies.len(), 5);
}

/// Phi-3's tokens take the white space after them; a file says so by the model's name, and else the user is told.
#[test]
fn tokens_that_take_white_space_do_so_from_a_file_too() {
    let all = json("tokenizers.json");
    let case = cases(&all).iter().find(|case| case["name"] == "phi3_mini").expect("the tokenizer");
    let ids = |tokenizer: &Tokenizer, text: &Value| json!(tokenizer.encode(text.as_str().unwrap()).unwrap());
    let texts = || case["cases"].as_array().unwrap().iter();
    let check = |name: &str, change: &dyn Fn(&mut Value), expected: &str| {
        let (_outer, path) = folder(name);
        std::fs::copy(fixture("tokenizers/phi3_mini.json"), path.join("tokenizer.json")).unwrap();
        edit(&path.join("tokenizer.json"), change);
        let (file, tokenizer, told) = file_of(&path);
        assert_eq!(value_of(&file, "general.name"), expected, "{name}");
        (tokenizer, told.notices)
    };
    for (name, expected) in [("mini", "phi-3 mini"), ("Phi-3-mini", "Phi-3-mini"), ("my_phi3", "my_phi3")] {
        let (tokenizer, notices) = check(name, &|_| {}, expected);
        for text in texts() {
            assert_eq!(ids(&tokenizer, &text["text"]), text["ids"], "{text}");
        }
        assert_eq!(notices, [""; 0]);
    }
    // No name says this, and none may say something else.
    let lost = |change: &dyn Fn(&mut Value), words: &[&str]| {
        let (tokenizer, notices) = check("Phi-3-other", change, "Phi 3-other");
        assert!(words.iter().all(|word| notices[0].contains(word)), "{notices:?}");
        assert!(texts().any(|text| ids(&tokenizer, &text["text"]) != text["ids"]), "the flags show");
    };
    let user = 5;
    lost(&|file| file["added_tokens"][user]["rstrip"] = json!(false), &["`</s>`", "`<|end|>`", "`<|assistant|>`"]);
    // Without the token that llama.cpp looks for.
    let renamed = |file: &mut Value| {
        file["added_tokens"][2]["content"] = json!("<|end_of_text|>");
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove("<|endoftext|>").unwrap();
        vocab.insert("<|end_of_text|>".to_owned(), id);
    };
    lost(&renamed, &["`</s>`", "and 1 more"]);
    let (_, notices) = check("plain", &|file| file["added_tokens"][user]["lstrip"] = json!(true), "phi-3 plain");
    assert!(notices[0].contains("`<|user|>`") && !notices[0].contains("<|end|>"), "{notices:?}");
    let (_, notices) = check("plain", &|file| file["added_tokens"][1]["single_word"] = json!(true), "phi-3 plain");
    assert!(notices[0].contains("`<s>`"), "{notices:?}");
}

/// vocab.json and merges.txt go into a file with all that is said beside them: the class, added tokens, how texts begin.
#[test]
fn a_pair_of_files_is_written_with_its_settings() {
    let check = |settings: Value, pre: &str| {
        let (_outer, path) = folder("model");
        for file in ["vocab.json", "merges.txt"] {
            std::fs::copy(fixture(&format!("tale/{file}")), path.join(file)).unwrap();
        }
        std::fs::write(path.join("tokenizer_config.json"), settings.to_string()).unwrap();
        let expected = Tokenizer::load(&name_of(&path)).unwrap();
        let (file, found, told) = file_of(&path);
        assert_eq!(value_of(&file, "tokenizer.ggml.pre"), pre, "{settings}");
        for text in ["I'LL go 123<|endoftext|>", "e\u{301} 世界  \n\n x's", "the  go 1"] {
            let (found, expected) = (found.encode(text).unwrap(), expected.encode(text).unwrap());
            assert!(found == expected || !told.notices.is_empty(), "{settings}: {text}: {found:?} {expected:?}");
        }
        told.notices
    };
    assert_eq!(check(json!({}), "gpt-2"), [""; 0]);
    assert_eq!(check(json!({ "tokenizer_class": "Qwen2Tokenizer" }), "qwen2"), [""; 0]);
    // config.json names another token.
    let begin = json!({ "tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "add_bos_token": true });
    assert_eq!(check(begin, "gpt-2"), [""; 0]);
    let id = Tokenizer::load(&name_of(&fixture("tale"))).unwrap().id("1").unwrap();
    let added = |token: Value| json!({ "added_tokens_decoder": { id.to_string(): token } });
    assert_eq!(check(added(json!({ "content": "1", "special": false })), "gpt-2"), [""; 0]);
    let notices = check(added(json!({ "content": "1", "special": false, "single_word": true })), "gpt-2");
    assert!(notices[0].contains("`1`"), "{notices:?}");
}

/// Whatever else Python's libraries make of a text from a model's own files is told when the file is written.
#[test]
fn what_a_file_loses_is_told() {
    let check = |path: &Path, what: &str, texts: Vec<(&Value, &Value)>| {
        let (_, tokenizer, told) = file_of(path);
        let found = |text: &Value| json!(tokenizer.encode(text.as_str().unwrap()).unwrap());
        let lost: Vec<&Value> =
            texts.iter().filter(|(text, ids)| found(text) != **ids).map(|(text, _)| *text).collect();
        assert_eq!(lost.is_empty(), told.notices.is_empty(), "{what}: {:?}, {lost:?}", told.notices);
    };
    for case in cases(&json("tokenizers.json")) {
        let name = case["name"].as_str().unwrap();
        if matches!(name, "unigram" | "phi3") {
            continue; // not written, and one token too many
        }
        let (_outer, path) = folder("model");
        std::fs::copy(fixture(&format!("tokenizers/{name}.json")), path.join("tokenizer.json")).unwrap();
        let texts = case["cases"].as_array().unwrap().iter().map(|text| (&text["text"], &text["ids"])).collect();
        check(&path, name, texts);
    }
    let known = json("sentencepiece.json");
    for settings in ["llama", "no_space", "around"] {
        let (_outer, path) = folder("model");
        std::fs::copy(fixture("sentencepiece/tokenizer.model"), path.join("tokenizer.model")).unwrap();
        std::fs::copy(fixture(&format!("sentencepiece/{settings}.json")), path.join("tokenizer_config.json")).unwrap();
        let texts = cases(&known).iter().map(|text| (&text["text"], &text[settings])).collect();
        check(&path, settings, texts);
    }
}
