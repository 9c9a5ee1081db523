//! Vocabularies that come as plain lists: of GGUF files and of SentencePiece.

use std::path::{Path, PathBuf};

use fireside::{Specials, TextStream, Tokenizer};
use serde_json::Value;

use crate::support::{cases, copy_of, fixture, ids, json, name_of};

/// A value of a GGUF file.
#[derive(Clone)]
enum Said {
    Text(String),
    Flag(bool),
    Number(u32),
    Texts(Vec<Vec<u8>>),
    Floats(Vec<f32>),
    Numbers(Vec<i32>),
}

use Said::{Flag, Floats, Number, Numbers, Text, Texts};

/// A GGUF file of these keys and no tensors.
fn gguf(keys: &[(&str, Said)]) -> Vec<u8> {
    let text = |text: &[u8]| [&(text.len() as u64).to_le_bytes()[..], text].concat();
    let list = |kind: u32, length: usize| {
        [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(length as u64).to_le_bytes()].concat()
    };
    let mut file =
        [&b"GGUF"[..], &3u32.to_le_bytes(), &0u64.to_le_bytes(), &(keys.len() as u64).to_le_bytes()].concat();
    for (key, value) in keys {
        file.extend(text(key.as_bytes()));
        file.extend(match value {
            Text(value) => [&8u32.to_le_bytes()[..], &text(value.as_bytes())].concat(),
            Flag(value) => [&7u32.to_le_bytes()[..], &[u8::from(*value)]].concat(),
            Number(value) => [4u32.to_le_bytes(), value.to_le_bytes()].concat(),
            Texts(values) => [list(8, values.len()), values.iter().flat_map(|value| text(value)).collect()].concat(),
            Floats(values) => {
                [list(6, values.len()), values.iter().flat_map(|value| value.to_le_bytes()).collect()].concat()
            }
            Numbers(values) => {
                [list(5, values.len()), values.iter().flat_map(|value| value.to_le_bytes()).collect()].concat()
            }
        });
    }
    file
}

fn open(keys: &[(&str, Said)]) -> fireside::Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocabulary.gguf");
    std::fs::write(&path, gguf(keys)).unwrap();
    Tokenizer::load(&name_of(&path))
}

/// What a converter makes of a byte-level tokenizer.json.
fn from_tokenizer_json(name: &str, pre: &str) -> Vec<(&'static str, Said)> {
    let file = json(&format!("tokenizers/{name}.json"));
    let vocab = file["model"]["vocab"].as_object().expect("a vocabulary");
    let mut names: Vec<(u64, &String)> = vocab.iter().map(|(name, id)| (id.as_u64().expect("an id"), name)).collect();
    names.sort_unstable();
    let special: Vec<&str> = file["added_tokens"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|token| token["content"].as_str().unwrap())
        .collect();
    let merge = |merge: &Value| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into_bytes();
    vec![
        ("tokenizer.ggml.model", Text("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Text(pre.to_owned())),
        ("tokenizer.ggml.tokens", Texts(names.iter().map(|(_, name)| name.as_bytes().to_vec()).collect())),
        (
            "tokenizer.ggml.token_type",
            Numbers(names.iter().map(|(_, name)| if special.contains(&name.as_str()) { 3 } else { 1 }).collect()),
        ),
        (
            "tokenizer.ggml.merges",
            Texts(file["model"]["merges"].as_array().expect("merges").iter().map(merge).collect()),
        ),
        ("tokenizer.ggml.bos_token_id", Number(0)),
    ]
}

fn streamed(tokenizer: &std::sync::Arc<Tokenizer>, ids: &[u32], skip: bool) -> String {
    let mut stream = TextStream::new(std::sync::Arc::clone(tokenizer), skip);
    let text: String = ids.iter().map(|id| stream.push(*id)).collect();
    text + &stream.finish()
}

#[test]
fn byte_level_vocabularies_of_gguf_files_give_the_ids_and_texts_of_pythons() {
    let all = json("tokenizers.json");
    for (name, pre) in [("llama3", "llama-bpe"), ("smollm2", "smollm"), ("qwen2", "qwen2")] {
        let tokenizer = std::sync::Arc::new(open(&from_tokenizer_json(name, pre)).expect("the file loads"));
        let fixture = cases(&all).iter().find(|case| case["name"] == name).expect("a case");
        assert_eq!(tokenizer.vocab_size(), fixture["vocab_size"].as_u64().unwrap() as usize);
        assert_eq!(tokenizer.kind(), "byte-level BPE");
        for case in cases(fixture) {
            let text = case["text"].as_str().expect("a text");
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case["ids"]), "{name}: {text:?}");
        }
        for case in cases(fixture).iter().chain(fixture["random_ids"].as_array().expect("a list")) {
            let found = ids(&case["ids"]);
            for (skip, decoded) in [(false, &case["decoded"]), (true, &case["decoded_without_special"])] {
                assert_eq!(&tokenizer.decode(&found, skip), decoded, "{name}: {found:?}");
                assert_eq!(&streamed(&tokenizer, &found, skip), decoded, "{name}: {found:?}");
            }
        }
    }
}

/// A folder whose tokenizer is SentencePiece's file and these settings.
fn sentencepiece(settings: &str) -> tempfile::TempDir {
    let folder = copy_of(&fixture("tale"));
    for file in ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"] {
        let _ = std::fs::remove_file(folder.path().join(file));
    }
    std::fs::copy(fixture("sentencepiece/tokenizer.model"), folder.path().join("tokenizer.model")).unwrap();
    let settings = fixture(&format!("sentencepiece/{settings}.json"));
    std::fs::copy(settings, folder.path().join("tokenizer_config.json")).unwrap();
    folder
}

#[test]
fn a_sentencepiece_file_gives_the_ids_and_texts_of_transformers() {
    let fixture = json("sentencepiece.json");
    for settings in ["llama", "no_space", "around"] {
        let folder = sentencepiece(settings);
        let tokenizer = std::sync::Arc::new(Tokenizer::load(&name_of(folder.path())).expect("the folder loads"));
        assert_eq!(tokenizer.vocab_size(), fixture["vocab_size"].as_u64().unwrap() as usize);
        assert_eq!(tokenizer.kind(), "SentencePiece BPE");
        for case in cases(&fixture) {
            let text = case["text"].as_str().expect("a text");
            assert_eq!(tokenizer.encode(text).unwrap(), ids(&case[settings]), "{settings}: {text:?}");
            if settings == "llama" {
                let found = ids(&case["llama"]);
                assert_eq!(tokenizer.decode(&found, true), case["decoded"], "{text:?}");
                assert_eq!(streamed(&tokenizer, &found, true), case["decoded"], "{text:?}");
            }
        }
    }
}

/// What a converter makes of SentencePiece's file: names, scores and types by the simplest reader of it.
fn from_sentencepiece() -> Vec<(&'static str, Said)> {
    let file = std::fs::read(fixture("sentencepiece/tokenizer.model")).unwrap();
    let (mut names, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = &file[..];
    while let [0x0a, length, token @ ..] = rest {
        let (token, after) = token.split_at(usize::from(*length)); // no token has 128 bytes
        let name = &token[2..2 + usize::from(token[1])];
        let tail = &token[2 + name.len()..];
        assert_eq!(tail[0], 0x15, "a score");
        let kind = if tail.len() > 5 { i32::from(tail[6]) } else { 1 };
        names.push(if kind == 4 {
            String::from_utf8_lossy(name).replace('▁', " ").into_bytes()
        } else {
            name.to_vec()
        });
        scores.push(f32::from_le_bytes(tail[1..5].try_into().unwrap()));
        kinds.push(kind);
        rest = after;
    }
    assert_eq!(names.len(), 460);
    vec![
        ("tokenizer.ggml.model", Text("llama".to_owned())),
        ("tokenizer.ggml.tokens", Texts(names)),
        ("tokenizer.ggml.scores", Floats(scores)),
        ("tokenizer.ggml.token_type", Numbers(kinds)),
    ]
}

#[test]
fn a_sentencepiece_vocabulary_of_a_gguf_file_gives_the_ids_of_sentencepiece() {
    let tokenizer = open(&from_sentencepiece()).expect("the file loads");
    for case in cases(&json("sentencepiece.json")) {
        let text = case["text"].as_str().expect("a text");
        let expected = ids(&case["sentencepiece"]);
        // What stands for itself before all else begins a new text with its own space; the library looks for it later.
        if !["<b>", "\n\n"].iter().any(|cut| text.contains(cut)) {
            assert_eq!(tokenizer.encode_text(text, Specials::AsText).unwrap(), expected, "{text:?}");
        }
        if !["<", "[", "\n\n"].iter().any(|cut| text.contains(cut)) {
            assert_eq!(tokenizer.encode(text).unwrap(), [&[1][..], &expected].concat(), "{text:?}");
        }
    }
    let around = [("tokenizer.ggml.add_bos_token", Flag(false)), ("tokenizer.ggml.add_eos_token", Flag(true))];
    let tokenizer = open(&[&from_sentencepiece()[..], &around].concat()).expect("the file loads");
    assert_eq!(tokenizer.encode("").unwrap(), [2]);
    let no_space = [("tokenizer.ggml.add_space_prefix", Flag(false))];
    let tokenizer = open(&[&from_sentencepiece()[..], &no_space].concat()).expect("the file loads");
    let the = tokenizer.encode_plain(" the").unwrap();
    assert_eq!(tokenizer.decode(&the, false), " the");
}

#[test]
fn a_gguf_vocabulary_that_cannot_be_used_is_refused_by_name() {
    let bpe = || from_tokenizer_json("llama3", "llama-bpe");
    let with = |mut keys: Vec<(&'static str, Said)>, key: &'static str, value: Option<Said>| {
        keys.retain(|(name, _)| *name != key);
        keys.extend(value.map(|value| (key, value)));
        keys
    };
    let check = |keys: Vec<(&'static str, Said)>, expected: &[&str]| {
        let error = open(&keys).expect_err("it is refused");
        let said = format!("{error} {}", error.hint().unwrap_or_default());
        for part in expected {
            assert!(said.contains(part), "expected {part:?}, found {said:?}");
        }
        assert!(!error.to_string().contains('\n'));
    };
    let texts = |texts: &[&str]| Some(Texts(texts.iter().map(|text| text.as_bytes().to_vec()).collect()));
    check(with(bpe(), "tokenizer.ggml.model", None), &["tokenizer.ggml.model"]);
    check(with(bpe(), "tokenizer.ggml.model", Some(Text("bert".to_owned()))), &["`bert` is not supported", "gpt2"]);
    check(with(bpe(), "tokenizer.ggml.pre", None), &["no `tokenizer.ggml.pre`"]);
    check(
        with(bpe(), "tokenizer.ggml.pre", Some(Text("llama-9".to_owned()))),
        &["`llama-9`", "not supported", "llama-bpe"],
    );
    check(with(bpe(), "tokenizer.ggml.tokens", None), &["tokenizer.ggml.tokens"]);
    check(with(bpe(), "tokenizer.ggml.tokens", Some(Flag(true))), &["an array of strings"]);
    check(with(bpe(), "tokenizer.ggml.tokens", texts(&["a", "b"])), &["a type for each token", "419 for 2"]);
    check(with(bpe(), "tokenizer.ggml.token_type", Some(Numbers(vec![9; 419]))), &["types from 0 to 6", "found 9"]);
    check(with(bpe(), "tokenizer.ggml.merges", None), &["tokenizer.ggml.merges"]);
    check(with(bpe(), "tokenizer.ggml.merges", texts(&["q zz"])), &["`q zz` as merge 0", "two tokens"]);
    check(with(bpe(), "tokenizer.ggml.merges", texts(&["alone"])), &["`alone` as merge 0"]);
    check(
        with(bpe(), "tokenizer.ggml.bos_token_id", Some(Number(419))),
        &["bos_token_id", "a token below 419", "found 419"],
    );
    check(with(bpe(), "tokenizer.ggml.bos_token_id", None), &["tokenizer.ggml.bos_token_id"]);
    let double = with(bpe(), "tokenizer.ggml.token_type", None);
    check(
        with(double, "tokenizer.ggml.tokens", texts(&["a", "b", "a"])),
        &["every token once", "`a` as token 0", "token 2"],
    );
    let spm = from_sentencepiece;
    check(with(spm(), "tokenizer.ggml.scores", None), &["tokenizer.ggml.scores"]);
    check(
        with(spm(), "tokenizer.ggml.scores", Some(Floats(vec![0.0; 459]))),
        &["a score for each token", "459 for 460"],
    );
    let mut scores = vec![0.0; 460];
    scores[17] = f32::NAN;
    check(with(spm(), "tokenizer.ggml.scores", Some(Floats(scores))), &["finite scores", "NaN for token 17"]);
    let unigram = with(spm(), "tokenizer.ggml.model", Some(Text("t5".to_owned())));
    let unigram = with(unigram, "tokenizer.ggml.eos_token_id", Some(Number(2)));
    assert_eq!(open(&unigram).unwrap().kind(), "SentencePiece unigram");
    let table = Some(Numbers(vec![200, 0, 0, 0, 1]));
    check(with(unigram.clone(), "tokenizer.ggml.precompiled_charsmap", table), &["table of normalisation"]);
    check(
        with(unigram, "tokenizer.ggml.precompiled_charsmap", Some(Numbers(vec![300]))),
        &["an array of bytes", "300"],
    );
}

#[test]
fn a_sentencepiece_file_that_cannot_be_used_is_refused_by_name() {
    let check = |edit: &dyn Fn(&Path), expected: &[&str]| {
        let folder = sentencepiece("llama");
        edit(folder.path());
        let error = Tokenizer::load(&name_of(folder.path())).expect_err("it is refused");
        for part in expected {
            assert!(error.to_string().contains(part), "expected {part:?}, found {error}");
        }
    };
    let write = |bytes: Vec<u8>| move |folder: &Path| std::fs::write(folder.join("tokenizer.model"), &bytes).unwrap();
    let whole = std::fs::read(fixture("sentencepiece/tokenizer.model")).unwrap();
    check(&write(Vec::new()), &["tokenizer.model", "unigram is not supported"]);
    check(&write(b"version https".to_vec()), &["tokenizer.model", "expected a SentencePiece model"]);
    check(&write(whole[..whole.len() / 2].to_vec()), &["tokenizer.model"]);
    let settings = |key: &'static str, value: Value| {
        move |folder: &Path| {
            let path = folder.join("tokenizer_config.json");
            let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            settings[key] = value.clone();
            std::fs::write(path, settings.to_string()).unwrap();
        }
    };
    check(&settings("tokenizer_class", "T5Tokenizer".into()), &["a `T5Tokenizer` is not supported"]);
    check(&settings("bos_token", "<start>".into()), &["the token `<start>`"]);
    let other = serde_json::json!({ "3": { "content": "[OTHER]", "special": true } });
    check(&settings("added_tokens_decoder", other), &["token 3", "`[OTHER]` and `[INST]`"]);
    let far = serde_json::json!({ "900": { "content": "far", "special": true } });
    check(&settings("added_tokens_decoder", far), &["from 460 on", "found 900"]);
}

#[test]
fn a_pair_of_files_follows_its_settings() {
    let pair = |settings: &str| {
        let folder = copy_of(&fixture("tale"));
        std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), settings).unwrap();
        Tokenizer::load(&name_of(folder.path()))
    };
    let plain = pair("{}").unwrap();
    let end = plain.id("<|endoftext|>").unwrap();
    let text = "I'LL go 123<|endoftext|>";
    let expected = plain.encode(text).unwrap();
    let settings =
        r#"{"tokenizer_class": "GPT2TokenizerFast", "bos_token": {"content": "<|endoftext|>"}, "add_bos_token": true}"#;
    assert_eq!(pair(settings).unwrap().encode(text).unwrap(), [&[end][..], &expected].concat());
    let added =
        format!(r#"{{"added_tokens_decoder": {{"{}": {{"content": "go 1", "special": false}}}}}}"#, plain.id_limit());
    let added = pair(&added).unwrap();
    assert_eq!(added.id("go 1"), Some(plain.id_limit() as u32));
    assert!(added.encode(text).unwrap().contains(&(plain.id_limit() as u32)));
    let qwen = pair(r#"{"tokenizer_class": "Qwen2Tokenizer"}"#).unwrap();
    assert_eq!(qwen.encode("e\u{301}").unwrap(), plain.encode("é").unwrap(), "it composes characters");
    let error = pair(r#"{"tokenizer_class": "RobertaTokenizer"}"#).unwrap_err().to_string();
    assert!(error.contains("`RobertaTokenizer` are not supported"), "{error}");
}

/// The list of lists that `vocabularies.py` writes.
fn rows(path: &Path) -> Vec<Vec<u8>> {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let size = if path.extension().is_some() { 4 } else { 1 };
    let (mut rows, mut rest) = (Vec::new(), &file[..]);
    while let Some((length, after)) = rest.split_first_chunk() {
        let (row, after) = after.split_at(u32::from_le_bytes(*length) as usize * size);
        rows.push(row.to_vec());
        rest = after;
    }
    rows
}

/// Published vocabularies, which are not ours to commit: `tests/oracle/vocabularies.py` collects them and asks Python.
#[test]
fn published_vocabularies_give_the_ids_of_pythons_libraries_on_random_texts() {
    let Some(folder) = std::env::var_os("FIRESIDE_VOCABULARIES").map(PathBuf::from) else {
        eprintln!("SKIPPED: set FIRESIDE_VOCABULARIES to a folder made by tests/oracle/vocabularies.py");
        return;
    };
    let texts: Vec<String> =
        rows(&folder.join("texts")).into_iter().map(|text| String::from_utf8(text).unwrap()).collect();
    let mut compared = 0;
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files {
        let loaded = match path.extension().and_then(|extension| extension.to_str()) {
            Some("gguf") => Tokenizer::load(&name_of(&path)),
            Some("model") => {
                let alone = tempfile::tempdir().unwrap();
                std::fs::copy(&path, alone.path().join("tokenizer.model")).unwrap();
                std::fs::write(alone.path().join("config.json"), "{}").unwrap();
                std::fs::write(alone.path().join("model.safetensors"), "").unwrap();
                Tokenizer::load(&name_of(alone.path()))
            }
            _ => continue,
        };
        let tokenizer = std::sync::Arc::new(loaded.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        for (kind, specials) in [("parsed", Specials::Parsed), ("as_text", Specials::AsText)] {
            let expected = path.with_extension(kind);
            if !expected.is_file() {
                continue;
            }
            let expected = rows(&expected);
            assert_eq!(expected.len(), texts.len());
            let mut wrong = 0;
            for (text, expected) in texts.iter().zip(expected) {
                // transformers puts no second space in front of a text that begins with one; the library does.
                if path.extension().is_some_and(|extension| extension == "model") && text.starts_with([' ', '▁']) {
                    continue;
                }
                let expected: Vec<u32> =
                    expected.chunks_exact(4).map(|id| u32::from_le_bytes(id.try_into().unwrap())).collect();
                let found = tokenizer.encode_text(text, specials).unwrap();
                if found != expected {
                    wrong += 1;
                    if wrong <= 3 {
                        eprintln!("{}, {kind}: {text:?}\n expected {expected:?}\n found    {found:?}", path.display());
                    }
                }
                for skip in [false, true] {
                    assert_eq!(streamed(&tokenizer, &found, skip), tokenizer.decode(&found, skip), "{text:?}");
                }
                compared += 1;
            }
            eprintln!("{}, {kind}: {wrong} of {} differ", path.display(), texts.len());
            assert_eq!(wrong, 0, "{}, {kind}", path.display());
        }
    }
    assert!(compared > 0, "no vocabulary was found in {}", folder.display());
    eprintln!("compared {compared}");
}

/// The vocabularies and vectors of llama.cpp's own test, which are not ours to commit: the folder `vendor/llama.cpp/models` of the
/// source package llama-cpp-python; `.ci/run` fetches it.
#[test]
fn llama_cpp_vectors_are_met_by_every_vocabulary() {
    let Some(folder) = std::env::var_os("FIRESIDE_LLAMA_CPP").map(PathBuf::from) else {
        eprintln!("SKIPPED: set FIRESIDE_LLAMA_CPP to vendor/llama.cpp/models of the source package llama-cpp-python");
        return;
    };
    let (mut vocabularies, mut vectors) = (0, 0);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "gguf")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (texts, expected) = (path.with_extension("gguf.inp"), path.with_extension("gguf.out"));
        let tokenizer = match (Tokenizer::load(&name_of(path)), texts.is_file()) {
            (Ok(tokenizer), true) => tokenizer,
            (Ok(_), false) => continue,
            (Err(error), _) => {
                // Words of BERT, and files that do not say how they cut words.
                let known = ["bert-bge", "aquila", "gpt-neox"].iter().any(|known| name.contains(known));
                assert!(known, "{name}: {error}");
                eprintln!("{name} is refused: {error}");
                continue;
            }
        };
        let (texts, expected) = (std::fs::read_to_string(texts).unwrap(), std::fs::read_to_string(expected).unwrap());
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let expected: Vec<Vec<u32>> = expected
            .lines()
            .map(|line| line.split_whitespace().map(|id| id.parse().expect("an id")).collect())
            .collect();
        let texts = &texts[..texts.len() - usize::from(texts.last() == Some(&""))];
        assert_eq!(texts.len(), expected.len(), "{name}");
        for (text, expected) in texts.iter().zip(expected) {
            assert_eq!(tokenizer.encode_text(text, Specials::AsText).unwrap(), expected, "{name}: {text:?}");
            vectors += 1;
        }
        vocabularies += 1;
    }
    eprintln!("{vectors} vectors of {vocabularies} vocabularies");
    assert!(vocabularies >= 12 && vectors >= 12 * 40, "{vectors} vectors of {vocabularies} vocabularies");
}
