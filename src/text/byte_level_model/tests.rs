//! Every form that is read by a model of ours, beside the `tokenizers` crate.

mod made;

use std::path::Path;

use serde_json::{Value, json};

use super::super::added::Specials;
use super::super::crate_model::CrateModel;
use super::super::pair;
use super::super::tokenizer::Tokenizer;
use super::super::tokenizer_json::{Outline, Spelling};
use super::*;
use crate::source::Location;
use made::{Random, added, byte_level, pre_tokenizers, sequence, split, token, vocabulary};

fn ours(json: &str) -> Option<OwnModel> {
    of_json(&serde_json::from_str::<Outline<'_>>(json).expect("an outline"))
}

/// Compares the two in everything that can be asked of a tokenizer; says how many texts were compared.
fn compare(name: &str, ours: Option<OwnModel>, oracle: tokenizers::Tokenizer, texts: usize, seed: u64) -> usize {
    let ours = Tokenizer::own(ours.unwrap_or_else(|| panic!("{name} is not recognised")));
    let unknown = match oracle.get_model() {
        tokenizers::ModelWrapper::BPE(bpe) => bpe.get_unk_token().as_deref().and_then(|name| oracle.token_to_id(name)),
        _ => None,
    };
    let theirs = CrateModel::new(oracle.clone(), unknown).expect("a tokenizer");
    let theirs = Tokenizer::of_crate(Box::new(theirs), Spelling::ByteLevel, Path::new(name)).expect("a tokenizer");
    compare_vocabularies(name, &ours, &theirs);

    let added = theirs.added_tokens();
    let names: Vec<&str> = added.iter().map(|(name, _)| name.as_str()).collect();
    let mut random = Random(seed);
    for _ in 0..texts {
        let text = random.text(&names);
        for special in [false, true] {
            let expected = oracle.encode_fast(text.as_str(), special).expect("tokens");
            let found = if special { ours.encode(&text) } else { ours.encode_plain(&text) };
            assert_eq!(found.expect("tokens"), expected.get_ids(), "{name}, special {special}: {text:?}");
        }
        let ranges = random.ranges(text.len());
        for specials in [Specials::AsText, Specials::AsTextWithin(&ranges)] {
            let (found, expected) = (ours.encode_text(&text, specials), theirs.encode_text(&text, specials));
            assert_eq!(found.expect("tokens"), expected.expect("tokens"), "{name}, {specials:?}: {text:?}");
        }
        let ids: Vec<u32> = (0..random.below(12)).map(|_| random.below(ours.id_limit() + 2) as u32).collect();
        for skip in [false, true] {
            assert_eq!(ours.decode(&ids, skip), theirs.decode(&ids, skip), "{name}: {ids:?}");
            assert_eq!(ours.decode(&ids, skip), oracle.decode(&ids, skip).expect("a text"), "{name}: {ids:?}");
        }
    }
    texts
}

fn compare_vocabularies(name: &str, ours: &Tokenizer, theirs: &Tokenizer) {
    assert_eq!(ours.id_limit(), theirs.id_limit(), "{name}");
    assert_eq!(ours.vocab_size(), theirs.vocab_size(), "{name}");
    assert_eq!(ours.kind(), theirs.kind(), "{name}");
    let sorted = |tokenizer: &Tokenizer| {
        let mut added = tokenizer.added_tokens();
        added.sort();
        added
    };
    assert_eq!(sorted(ours), sorted(theirs), "{name}");
    for id in 0..ours.id_limit() as u32 + 2 {
        assert_eq!(ours.name(id), theirs.name(id), "{name}: {id}");
        assert_eq!(ours.is_special(id), theirs.is_special(id), "{name}: {id}");
        let token = ours.name(id).unwrap_or_default();
        assert_eq!(ours.id(&token), theirs.id(&token), "{name}: {token:?}");
        let bytes = |tokenizer: &Tokenizer| {
            let mut bytes = Vec::new();
            tokenizer.append_bytes(id, &mut bytes);
            bytes
        };
        assert_eq!(bytes(ours), bytes(theirs), "{name}: {id} {token:?}");
    }
    let long = "the king ".repeat(20_000);
    assert_eq!(ours.fewest_tokens(&long), theirs.fewest_tokens(&long), "{name}");
}

/// Every way to cut beside every kind of added token, with what else a file may say.
#[test]
fn every_form_that_is_recognised_gives_the_tokens_of_the_tokenizers_crate() {
    let texts = if cfg!(debug_assertions) { 15 } else { 60 };
    let (mut compared, mut number) = (0, 0);
    for (way, pre_tokenizer) in pre_tokenizers() {
        for kind in 0..5 {
            number += 1;
            let mut random = Random(number);
            let all_bytes = number % 3 != 0;
            let (vocab, merges) = vocabulary(&mut random, all_bytes);
            let size = vocab.as_object().expect("an object").len();
            let (tokens, mut added) = added(size).swap_remove(kind);
            let has = |flag: &str| number.is_multiple_of(2) ^ flag.len().is_multiple_of(2);
            // A word of the vocabulary that is special too, and one that is only cut out.
            if has("whole") {
                added.insert(0, token(size - 2, "Ġwhole", &["special"]));
                added.push(token(size - 1, "wholly", &["normalized"]));
            }
            let first = json!({ "SpecialToken": { "id": "B", "type_id": 0 } });
            let last = json!({ "SpecialToken": { "id": "E", "type_id": 0 } });
            let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
            let around = [vec![&text], vec![&first, &text], vec![&text, &last], vec![&first, &text, &last]];
            let template = json!({
                "type": "TemplateProcessing", "single": around[random.below(4)], "pair": [text, text],
                "special_tokens": {
                    "B": { "id": "B", "ids": [3], "tokens": ["x"] }, "E": { "id": "E", "ids": [size], "tokens": ["y"] },
                },
            });
            let post_processor = match random.below(4) {
                0 => Value::Null,
                1 => byte_level(true, false),
                2 => json!({ "type": "Sequence", "processors": [byte_level(false, true), template] }),
                _ => template,
            };
            let lines: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}")).collect();
            let file = json!({
                "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
                "normalizer": if has("nfc") { json!({ "type": "NFC" }) } else { Value::Null },
                "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": byte_level(true, true),
                "model": {
                    "type": "BPE", "dropout": null, "fuse_unk": false, "byte_fallback": false,
                    "unk_token": if all_bytes { json!("wholly") } else { Value::Null },
                    "continuing_subword_prefix": "", "end_of_word_suffix": "",
                    "ignore_merges": random.below(2) == 0 && !all_bytes || has("merge"),
                    "vocab": vocab, "merges": if random.below(2) == 0 { json!(lines) } else { json!(merges) },
                },
            });
            let (name, file) = (format!("{way}, {tokens}, {number}"), file.to_string());
            let oracle = file.parse().unwrap_or_else(|error| panic!("{name}: {error}"));
            compared += compare(&name, ours(&file), oracle, texts, number);
        }
    }
    assert!(compared > 100 * texts, "{compared} texts");
}

/// vocab.json and merges.txt in this folder, beside the same as the crate's own.
fn compare_pair(folder: &Path, texts: usize, seed: u64) -> usize {
    let file = |name: &str| Location::Disk(folder.join(name));
    let (vocab, merges) = (file("vocab.json"), file("merges.txt"));
    let oracle = pair::tokenizer(&vocab, &merges).expect("a pair");
    compare(&folder.display().to_string(), pair::own(&vocab, &merges), oracle, texts, seed)
}

#[test]
fn pairs_of_files_that_are_recognised_give_the_tokens_of_the_tokenizers_crate() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = |size: usize, b: String| {
        let added = |name: &str, flags: &[&str]| token(0, name, flags);
        let later = json!({
            size.to_string(): added("<|fim|>", &["special"]), (size + 1).to_string(): added("   ", &["normalized"]),
            (size + 2).to_string(): added("king's", &["single_word", "lstrip"]), b: added("b", &["rstrip"]),
        });
        [
            None,
            Some(json!({ "tokenizer_class": "GPT2Tokenizer", "bos_token": "Ġwhole", "add_bos_token": true })),
            Some(
                json!({ "tokenizer_class": "CodeGenTokenizer", "added_tokens_decoder": later, "unk_token": "wholly" }),
            ),
            Some(json!({ "tokenizer_class": "GPTNeoXTokenizerFast", "added_tokens_decoder": later,
                "bos_token": { "content": "<|fim|>" }, "add_bos_token": true })),
            Some(json!({ "tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": later, "eos_token": "Ġwhole" })),
        ]
    };
    for number in 0..20 {
        let (vocab, merges) = vocabulary(&mut Random(number), number % 3 != 0);
        let size = vocab.as_object().expect("an object").len();
        let lines: Vec<String> = merges.iter().map(|(left, right)| format!("{left} {right}\n")).collect();
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("a file");
        write("vocab.json", vocab.to_string());
        write("merges.txt", format!("#version: 0.2\n\n{}", lines.concat()));
        let settings = settings(size, vocab["b"].to_string())[number as usize % 5].clone();
        write("tokenizer_config.json", settings.unwrap_or(json!({})).to_string());
        compare_pair(folder.path(), if cfg!(debug_assertions) { 20 } else { 200 }, number);
    }
}

/// What the crate reads in a way of its own, or refuses, is left to it.
#[test]
fn what_is_unusual_is_not_recognised() {
    let (vocab, merges) = vocabulary(&mut Random(5), true);
    let size = vocab.as_object().expect("an object").len();
    let usual = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [token(size, "<|a|>", &["special"])],
        "normalizer": null, "pre_tokenizer": byte_level(false, true), "post_processor": null,
        "decoder": byte_level(true, true),
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "ignore_merges": false, "vocab": vocab, "merges": merges },
    });
    assert!(ours(&usual.to_string()).is_some());
    let check = |what: &str, edit: &dyn Fn(&mut Value)| {
        let mut file = usual.clone();
        edit(&mut file);
        assert!(file != usual && ours(&file.to_string()).is_none(), "{what}");
    };
    let digits = |each: bool| json!({ "type": "Digits", "individual_digits": each });
    let template = |pieces: Value| {
        json!({ "type": "TemplateProcessing", "single": pieces, "pair": pieces,
        "special_tokens": { "x": { "id": "x", "ids": [1], "tokens": ["x"] }, "y": { "id": "y", "ids": [1, 2], "tokens": ["x", "y"] } } })
    };
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let token_x = json!({ "SpecialToken": { "id": "x", "type_id": 0 } });
    let token_y = json!({ "SpecialToken": { "id": "y", "type_id": 0 } });
    check("another version", &|f| f["version"] = json!("2.0"));
    check("cut off", &|f| f["truncation"] = json!({ "max_length": 5 }));
    check("filled", &|f| f["padding"] = json!({}));
    check("another normalizer", &|f| f["normalizer"] = json!({ "type": "NFKC" }));
    check("a space before each digit", &|f| f["pre_tokenizer"] = sequence(&[digits(true), byte_level(true, true)]));
    check("runs of digits", &|f| f["pre_tokenizer"] = sequence(&[digits(false), byte_level(false, true)]));
    check("another pattern", &|f| {
        f["pre_tokenizer"] = sequence(&[split("a+", "Isolated", false), byte_level(false, false)])
    });
    check("what is between words", &|f| {
        f["pre_tokenizer"] = sequence(&[split(r"\p{N}", "Removed", true), byte_level(false, false)]);
    });
    check("words alone", &|f| f["pre_tokenizer"] = digits(true));
    check("no words", &|f| f["pre_tokenizer"] = Value::Null);
    check("a field that is not known", &|f| f["pre_tokenizer"]["x"] = json!(1));
    check("no decoder", &|f| f["decoder"] = Value::Null);
    check("a template without text", &|f| f["post_processor"] = template(json!([token_x])));
    check("two tokens in front", &|f| f["post_processor"] = template(json!([token_x, token_x, text])));
    check("two tokens by one name", &|f| f["post_processor"] = template(json!([token_y, text])));
    check("the text twice", &|f| f["post_processor"] = template(json!([text, text])));
    check("a damaged template", &|f| f["post_processor"] = json!({ "type": "TemplateProcessing", "single": [text] }));
    check("bytes as other tokens", &|f| f["model"]["byte_fallback"] = json!(true));
    check("an ending", &|f| f["model"]["end_of_word_suffix"] = json!("</w>"));
    check("a number for a name", &|f| f["model"]["unk_token"] = json!(0));
    check("an unknown token and bytes without a token", &|f| {
        f["model"]["unk_token"] = json!("wholly");
        f["model"]["vocab"].as_object_mut().expect("an object").remove("\u{120}\u{120}\u{120}");
        let last = f["model"]["vocab"].as_object_mut().expect("an object").remove("\u{100}").expect("a byte");
        f["model"]["vocab"]["q\u{120}"] = last;
    });
    check("a hole", &|f| f["model"]["vocab"]["qqq"] = json!(size + 9));
    check("a number twice", &|f| f["model"]["vocab"]["qqq"] = json!(7));
    check("no name", &|f| f["model"]["vocab"][""] = json!(size));
    check("a negative number", &|f| f["model"]["vocab"]["qqq"] = json!(-1));
    check("a merge twice", &|f| {
        let first = f["model"]["merges"][0].clone();
        f["model"]["merges"].as_array_mut().expect("a list").push(first);
    });
    check("a merge of unknown tokens", &|f| f["model"]["merges"][3] = json!(["qq", "x"]));
    check("a merge of an added token", &|f| f["model"]["merges"][3] = json!(["<|a", "|>"]));
    check("a merge of three", &|f| f["model"]["merges"][3] = json!(["a", "b", "c"]));
    check("merges in two forms", &|f| f["model"]["merges"][3] = json!("t h"));
    check("a special byte", &|f| f["added_tokens"] = json!([token(b'a' as usize - 33, "a", &["special"])]));
    check("a special token that merges make", &|f| {
        let id = f["model"]["vocab"]["Ġthe"].as_u64().expect("a number");
        f["added_tokens"] = json!([token(id as usize, "Ġthe", &["special"])]);
    });
    check("an added token with another number", &|f| f["added_tokens"][0]["id"] = json!(size + 1));
    check("an added token with the number of another", &|f| f["added_tokens"][0]["id"] = json!(5));
    check("an added token with two numbers", &|f| f["added_tokens"] = json!([token(size, "Ġthe", &[])]));
    check("an added token of which something is missing", &|f| {
        f["added_tokens"][0].as_object_mut().expect("an object").remove("lstrip");
    });
    check("an added token that is composed", &|f| {
        f["normalizer"] = json!({ "type": "NFC" });
        f["added_tokens"] = json!([token(size, "e\u{301}", &["normalized"])]);
    });
}

/// Vocabularies that are not ours to commit: a folder of tokenizer.json (`*.json`) and of folders with vocab.json and merges.txt.
#[test]
fn other_vocabularies_give_the_tokens_of_the_tokenizers_crate() {
    let Some(folder) = std::env::var_os("FIRESIDE_TOKENIZERS") else {
        eprintln!(
            "SKIPPED: set FIRESIDE_TOKENIZERS to a folder of files tokenizer.json under other names, or of folders with pairs"
        );
        return;
    };
    let texts = std::env::var("FIRESIDE_TEXTS").map_or(1_000, |count| count.parse().expect("a number"));
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let compared = if path.is_dir() {
            compare_pair(&path, texts, 1)
        } else {
            let file = std::fs::read_to_string(&path).expect("a file");
            let oracle = file.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            compare(&path.display().to_string(), ours(&file), oracle, texts, 1)
        };
        eprintln!("{}: {compared} texts, no difference", path.display());
    }
}
