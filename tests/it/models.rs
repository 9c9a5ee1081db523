//! Logits against transformers, and the rule that a row's bits depend on that row alone.

use fireside::{Engine, Prompt};

use tempfile::TempDir;

use crate::support::{copy_of, f32_of, fixture, i64_of, name_of, tensor, write_tokenizer};

/// The tiny random GPT-2s: head counts, odd widths, both name styles, an untied head, shards, every switch of config.json.
const GPT2: &[&str] = &["base", "bare", "odd", "untied", "sharded", "switches", "gelu", "f16", "bf16"];

/// A tiny GPT-2 in a folder of its own, with a tokenizer.
fn tiny(name: &str) -> TempDir {
    let folder = copy_of(&fixture(&format!("gpt2/{name}")));
    write_tokenizer(folder.path());
    folder
}

fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let file = fixture(&format!("gpt2/{name}/expected.safetensors"));
    let (_, ids) = tensor(&file, "input_ids", i64_of);
    let (_, logits) = tensor(&file, "logits", f32_of);
    (ids.into_iter().map(|id| id as u32).collect(), logits)
}

#[test]
fn logits_at_every_position_are_those_of_transformers() {
    for name in GPT2 {
        let (ids, expected) = expected(name);
        let folder = tiny(name);
        let mut engine = Engine::load(&name_of(folder.path())).unwrap_or_else(|error| panic!("{name}: {error}"));
        let logits = engine.logits(Prompt::Tokens(ids)).unwrap();
        assert_eq!(logits.len(), expected.len(), "{name}");
        let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{name}: logits differ by up to {worst}");
    }
}
