//! Tokenizers that are damaged or of a kind that is not supported.

use std::path::Path;

use serde_json::{Value, json};

use crate::damage::{check_damage, edit_json, remove, write};

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
                &["`tokenizer.json`, `tokenizer.model`, or `vocab.json` and `merges.txt`"],
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
                &["tokenizer.json", "below 4194304", "4294967295"],
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
                |f| edit(f, |t| t["model"] = json!({ "type": "WordPiece", "unk_token": "a", "vocab": { "a": 0 } })),
                &["`WordPiece` is not supported"],
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
                &["`Precompiled` has a form that is not supported"],
            ),
            (
                "the same inside a sequence",
                |f| {
                    edit(f, |t| {
                        t["normalizer"] = json!({ "type": "Sequence", "normalizers": [{ "type": "Precompiled" }] })
                    })
                },
                &["`Precompiled` has a form that is not supported"],
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
                &["`tokenizer.json`, `tokenizer.model`, or"],
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
