//! Models in GGUF files: the same logits as from a folder, whatever the format; unusual files load.

mod converter;
#[allow(dead_code)] // the tests within the library use the rest
pub mod file;
#[cfg(feature = "cli")]
mod hostile;
pub mod model;
mod unusual;
mod vocabulary;

use std::path::{Path, PathBuf};

use fireside::kernels::{self, Format, Slice};
use fireside::{Dtype, Engine, Prompt, Sampling, Tokenizer, quantize};
use tempfile::TempDir;

use self::file::{GgufFile, I32, U16};
use self::model::{Numbers, gguf_of};
use crate::support::{f32_of, fixture, i64_of, name_of, tensor};

/// Writes a file into a folder of its own.
fn written(made: &GgufFile) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, made.bytes()).expect("a written file");
    (folder, path)
}

fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let file = fixture(&format!("{name}/expected.safetensors"));
    let (_, ids) = tensor(&file, "input_ids", i64_of);
    (ids.into_iter().map(|id| id as u32).collect(), tensor(&file, "logits", f32_of).1)
}

#[track_caller]
fn logits(path: &Path, ids: &[u32]) -> Vec<f32> {
    let mut engine = Engine::load(&name_of(path)).unwrap_or_else(|error| panic!("{error}: {:?}", error.hint()));
    assert_eq!(engine.warnings(), [""; 0]);
    engine.logits(Prompt::Tokens(ids.to_vec())).unwrap()
}

/// The distance of two lists of numbers, relative to the size of the first.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (off / a.iter().map(|a| square(*a)).sum::<f64>()).sqrt()
}

#[test]
fn logits_from_a_gguf_file_are_those_of_transformers() {
    for name in [
        "llama/base",
        "llama/one_key_head",
        "llama/llama3",
        "qwen2/base",
        "qwen3/base",
        "gpt2/base",
        "gpt2/untied",
        "gpt2/odd",
    ] {
        let (ids, expected) = expected(name);
        let made = gguf_of(&fixture(name), |_| Numbers::F32);
        for version in [2, 3] {
            let (_folder, path) = written(&GgufFile { version, ..made.clone() });
            let found = logits(&path, &ids);
            assert_eq!(found.len(), expected.len(), "{name}");
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{name}: logits differ by up to {worst}");
        }
    }
}

/// A model that is wide enough for blocks of 256, with the numbers of `kind` in every matrix: in a GGUF file, and the same
/// numbers widened.
fn wide(folder: &Path, kind: Numbers) -> (GgufFile, GgufFile) {
    let made = gguf_of(folder, |name| if name.contains("position") { Numbers::F32 } else { kind });
    let mut widened = made.clone();
    for tensor in widened.tensors.iter_mut().filter(|tensor| tensor.dtype == kind.id() && tensor.dims.len() == 2) {
        let mut numbers = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
        let halves: Vec<[u8; 2]> = tensor.data.as_chunks().0.to_vec();
        match kind {
            Numbers::Blocks(format) => kernels::best().widen(Slice::Blocks(format, &tensor.data), &mut numbers),
            Numbers::F16 => numbers = halves.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Numbers::Bf16 => numbers = halves.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
            Numbers::F32 => continue,
        }
        (tensor.dtype, tensor.data) = (0, Numbers::F32.bytes(&numbers));
    }
    (made, widened)
}

#[test]
fn every_type_of_tensor_stands_for_the_numbers_that_it_holds() {
    let folder = TempDir::new().unwrap();
    crate::quant::wide_model(folder.path(), crate::quant::Head::Absent);
    let ids: Vec<u32> = (0..50).map(|i| (i * i * 7 + 3) % 300).collect();
    let all = Format::ALL.into_iter().map(Numbers::Blocks).chain([Numbers::F16, Numbers::Bf16]);
    for kind in all {
        let (made, widened) = wide(folder.path(), kind);
        let ((_a, made), (_b, widened)) = (written(&made), written(&widened));
        let exact = logits(&widened, &ids);
        // Blocks meet activations of 8 bits, bf16 those of bf16; in this model, whose wide weights make much of every error,
        // `--quant q8_0` is off by 0.025, most of which is the activations'.
        let off = distance(&exact, &logits(&made, &ids));
        let most = if kind == Numbers::F16 { 1e-5 } else { 0.04 };
        assert!(off < most, "{kind:?}: off by {off}");
        // On request the numbers are widened, and then nothing is lost.
        let mut engine = Engine::builder().dtype(Dtype::F32).load(&name_of(&made)).unwrap();
        let off = distance(&exact, &engine.logits(Prompt::Tokens(ids.clone())).unwrap());
        assert!(off == 0.0, "{kind:?} as f32: off by {off}");
    }
}

#[test]
fn blocks_are_used_where_they_lie_and_counted_once() {
    let folder = TempDir::new().unwrap();
    crate::quant::wide_model(folder.path(), crate::quant::Head::Absent);
    let made = wide(folder.path(), Numbers::Blocks(Format::Q4K)).0;
    let (_folder, path) = written(&made);
    let engine = Engine::load(&name_of(&path)).unwrap();
    let tensors: usize = made.tensors.iter().map(|tensor| tensor.data.len()).sum();
    assert_eq!(engine.info().weight_bytes, tensors);
    assert_eq!(engine.info().dtypes, ["q4_k", "f32"]);
    assert_eq!(engine.info().license.as_deref(), Some("mit"));
}

#[test]
fn a_quantised_file_is_not_quantised_again() {
    let folder = TempDir::new().unwrap();
    crate::quant::wide_model(folder.path(), crate::quant::Head::Absent);
    let made = |kind| written(&wide(folder.path(), kind).0);
    let refused = |kind: Numbers| {
        let (_folder, path) = made(kind);
        Engine::builder().quant("q8_0".parse().unwrap()).load(&name_of(&path)).err()
    };
    let error = refused(Numbers::Blocks(Format::Q4_0)).expect("an error");
    assert!(error.is_usage() && error.to_string().contains("quantised already (q4_0)"), "{error}");
    assert!(refused(Numbers::F16).is_none());
}

/// Writes a model in so many parts; the path of the first.
fn in_parts(folder: &Path, base: &GgufFile, parts: usize) -> PathBuf {
    let path = |part: usize| folder.join(format!("m-{part:05}-of-{parts:05}.gguf"));
    for part in 1..=parts {
        let mut made = if part == 1 { base.clone() } else { GgufFile::default() };
        made.tensors = base.tensors.iter().skip(part - 1).step_by(parts).cloned().collect();
        let made = made
            .key("split.no", U16, ((part - 1) as u16).to_le_bytes())
            .key("split.count", U16, (parts as u16).to_le_bytes())
            .key("split.tensors.count", I32, (base.tensors.len() as i32).to_le_bytes());
        std::fs::write(path(part), made.bytes()).unwrap();
    }
    path(1)
}

#[test]
fn a_model_in_parts_is_one_model() {
    let base = gguf_of(&fixture("qwen3/base"), |_| Numbers::F16);
    let (ids, _) = expected("qwen3/base");
    let (_folder, plain) = written(&base);
    let reference = logits(&plain, &ids);
    for parts in [2, 3, 7] {
        let folder = TempDir::new().unwrap();
        let first = in_parts(folder.path(), &base, parts);
        assert!(logits(&first, &ids) == reference, "{parts} parts");
        assert!(logits(folder.path(), &ids) == reference, "the folder of {parts} parts");
    }
}

#[test]
fn the_ending_of_a_file_may_be_in_capitals() {
    let base = gguf_of(&fixture("llama/base"), |_| Numbers::F16);
    let (ids, _) = expected("llama/base");
    let (_folder, plain) = written(&base);
    let reference = logits(&plain, &ids);
    let tokens = Tokenizer::load(&name_of(&plain)).unwrap().encode("Hello World").unwrap();
    for name in ["M.GGUF", "m.Gguf", "M-00001-of-00002.GGUF"] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        if name.contains("-of-") {
            in_parts(folder.path(), &base, 2);
            for part in ["00001-of-00002", "00002-of-00002"] {
                let [old, new] = [format!("m-{part}.gguf"), format!("M-{part}.GGUF")].map(|n| folder.path().join(n));
                std::fs::rename(old, new).unwrap();
            }
        } else {
            std::fs::write(&path, base.bytes()).unwrap();
        }
        assert!(logits(&path, &ids) == reference, "{name}");
        assert!(logits(folder.path(), &ids) == reference, "the folder of {name}");
        assert_eq!(Tokenizer::load(&name_of(&path)).unwrap().encode("Hello World").unwrap(), tokens, "{name}");
        let again = folder.path().join("again.gguf");
        quantize(None, &name_of(&path), "q8_0".parse().unwrap(), &again, None, |_, _| {}).unwrap();
    }
}

#[test]
fn parts_that_are_missing_or_of_another_model_are_named() {
    let base = gguf_of(&fixture("llama/base"), |_| Numbers::F16);
    let check = |damage: fn(&Path), name: &str, words: &[&str]| {
        let folder = TempDir::new().unwrap();
        in_parts(folder.path(), &base, 3);
        damage(folder.path());
        let error = Engine::load(&name_of(&folder.path().join(name))).expect_err("an error");
        let text = format!("{error} hint: {}", error.hint().unwrap_or_default());
        assert!(words.iter().all(|word| text.contains(word)), "{words:?}: {text}");
    };
    let first = "m-00001-of-00003.gguf";
    check(|_| {}, "m-00002-of-00003.gguf", &["part 2 of 3", "m-00001-of-00003.gguf"]);
    check(
        |f| std::fs::remove_file(f.join("m-00003-of-00003.gguf")).unwrap(),
        first,
        &["m-00003-of-00003.gguf", "part 3"],
    );
    check(
        |f| std::fs::copy(f.join("m-00002-of-00003.gguf"), f.join("m-00003-of-00003.gguf")).map(drop).unwrap(),
        first,
        &["m-00003-of-00003.gguf", "expected part 3", "part 2 of 3"],
    );
    check(
        |f| std::fs::rename(f.join("m-00001-of-00003.gguf"), f.join("renamed.gguf")).unwrap(),
        "renamed.gguf",
        &["renamed.gguf", "-00001-of-00003.gguf"],
    );
}

#[test]
fn a_folder_with_several_models_is_refused_with_their_names() {
    let bytes = gguf_of(&fixture("llama/base"), |_| Numbers::F16).bytes();
    let folder = TempDir::new().unwrap();
    let (ids, _) = expected("llama/base");
    std::fs::write(folder.path().join("m-F16.gguf"), &bytes).unwrap();
    std::fs::write(folder.path().join("mmproj-m.gguf"), b"no language model").unwrap();
    logits(folder.path(), &ids);
    std::fs::write(folder.path().join("m-Q8_0.gguf"), &bytes).unwrap();
    let error = Engine::load(&name_of(folder.path())).expect_err("an error");
    assert!(["`m-F16.gguf`", "`m-Q8_0.gguf`"].iter().all(|name| error.to_string().contains(name)), "{error}");
}

#[test]
fn the_ends_of_texts_and_turns_come_from_the_file() {
    let base = gguf_of(&fixture("llama/base"), |_| Numbers::F32);
    let greedy = |made: &GgufFile| {
        let (_folder, path) = written(made);
        let mut engine = Engine::load(&name_of(&path)).unwrap();
        let sampling = Sampling { max_new_tokens: Some(20), ..Sampling::greedy() };
        let completion = engine.generate(vec![1_u32, 2, 3], sampling).unwrap().completions().unwrap().remove(0);
        completion.tokens
    };
    let long = greedy(&base);
    assert_eq!(long.len(), 20);
    for key in ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
        let short = greedy(&base.clone().number(key, long[4]));
        assert!(short.len() <= 5 && short.last() == Some(&long[4]), "{key}: {short:?}");
    }
}
