//! Weight files that are cut, twisted, contradict config.json or hold no numbers.

use std::path::Path;

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use crate::damage::{
    Dice, attempt, check_damage, claim_header_of, edit_header, edit_json, edit_weights, find, header_length, poke,
    readable, refused, remove, says, write,
};
use crate::program::Tensor;
use crate::support::{copy_of, fixture};

#[test]
fn damaged_weights_are_told_with_the_tensor_or_the_file() {
    check_damage(
        "tale",
        &[
            (
                "missing",
                |f| remove(f, "model.safetensors"),
                &["model.safetensors", "`config.json`", "hint: safetensors and GGUF"],
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
