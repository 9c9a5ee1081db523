//! Models with experts whose weights are quantised while they are loaded, expert matrices included.

use std::collections::BTreeMap;
use std::path::Path;

use fireside::{Engine, EngineBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::quant::{distance, logits};
use crate::support::{name_of, write_tokenizer, write_weights};

const WIDTH: usize = 256;
const VOCABULARY: usize = 300;
const EXPERTS: usize = 4;

/// Whether every number is one that q8_0 holds: a step of its block times a whole number up to 127, which each block has.
#[derive(Clone, Copy, PartialEq)]
enum Numbers {
    Any,
    OfQ8,
}

/// Repeatable random numbers around 0.
struct Made(u32);

impl Made {
    fn whole(&mut self) -> i32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223); // Numerical Recipes
        (self.0 >> 8) as i32 % 255 - 127
    }

    fn matrix(&mut self, count: usize, spread: f32, numbers: Numbers) -> Vec<f32> {
        let step = 2f32.powi((spread / 127.0).log2().round() as i32);
        let mut made: Vec<f32> = (0..count).map(|_| self.whole() as f32 * step).collect();
        match numbers {
            Numbers::OfQ8 => made.iter_mut().step_by(32).for_each(|first| *first = 127.0 * step),
            Numbers::Any => made.iter_mut().for_each(|x| *x += 0.31 * step * (x.to_bits() >> 13 & 3) as f32),
        }
        made
    }
}

/// A model of two layers with experts, wide enough for every format.
fn with_experts(architecture: &str, folder: &Path, numbers: Numbers) {
    let mut made = Made(7);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let (block, names) = match architecture {
        "mixtral" => ("block_sparse_moe", ["w1", "w3", "w2"]),
        _ => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
    };
    let head_dim = WIDTH / 4;
    let mut put = |name: String, shape: &[usize], spread: f32, numbers: Numbers| {
        let values = made.matrix(shape.iter().product(), spread, numbers);
        tensors.insert(format!("{name}.weight"), (shape.to_vec(), values));
    };
    put("model.embed_tokens".to_owned(), &[VOCABULARY, WIDTH], 1.0, numbers);
    put("lm_head".to_owned(), &[VOCABULARY, WIDTH], 0.2, numbers);
    for layer in 0..2 {
        let at = format!("model.layers.{layer}");
        for (name, outputs) in [("q_proj", WIDTH), ("k_proj", WIDTH / 2), ("v_proj", WIDTH / 2), ("o_proj", WIDTH)] {
            put(format!("{at}.self_attn.{name}"), &[outputs, WIDTH], 0.1, numbers);
        }
        // Choices that rounding does not turn.
        put(format!("{at}.{block}.gate"), &[EXPERTS, WIDTH], 1.0, Numbers::Any);
        for expert in 0..EXPERTS {
            for name in names {
                put(format!("{at}.{block}.experts.{expert}.{name}"), &[WIDTH, WIDTH], 0.1, numbers);
            }
        }
    }
    let mut norm = |name: String, dim: usize| tensors.insert(format!("{name}.weight"), (vec![dim], vec![1.0; dim]));
    norm("model.norm".to_owned(), WIDTH);
    for layer in 0..2 {
        let at = format!("model.layers.{layer}");
        norm(format!("{at}.input_layernorm"), WIDTH);
        norm(format!("{at}.post_attention_layernorm"), WIDTH);
        if architecture == "qwen3_moe" {
            norm(format!("{at}.self_attn.q_norm"), head_dim);
            norm(format!("{at}.self_attn.k_norm"), head_dim);
        }
    }
    write_weights(folder, &tensors);
    let mut config = json!({
        "model_type": architecture, "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": WIDTH,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": head_dim,
        "max_position_embeddings": 64, "num_experts_per_tok": 2, "bos_token_id": 0, "eos_token_id": 0,
    });
    match architecture {
        "mixtral" => config["num_local_experts"] = json!(EXPERTS),
        _ => {
            config["num_experts"] = json!(EXPERTS);
            config["moe_intermediate_size"] = json!(WIDTH);
            config["norm_topk_prob"] = Value::Bool(true);
        }
    }
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a written config");
    write_tokenizer(folder);
}

fn quantised(kind: &str) -> EngineBuilder {
    Engine::builder().quant(kind.parse().expect("a known name"))
}

/// Numbers that a format holds lose nothing but in the activations that they meet, which have 8 bits.
#[test]
fn experts_in_q8_0_compute_what_their_widened_weights_do() {
    for architecture in ["mixtral", "qwen3_moe"] {
        let folder = TempDir::new().unwrap();
        with_experts(architecture, folder.path(), Numbers::OfQ8);
        let name = name_of(folder.path());
        let exact = logits(&mut Engine::load(&name).unwrap());
        let mut engine = quantised("q8_0").load(&name).unwrap();
        let off = distance(&exact, &logits(&mut engine));
        println!("{architecture}: off by {off}");
        assert!(off > 1e-4 && off < 0.02, "{architecture}: off by {off}");
        // But for routers and norms all are blocks.
        let (info, numbers) = (engine.info(), engine.info().parameters);
        assert_eq!(info.dtypes, ["q8_0", "f32"], "{architecture}");
        let per_number = info.weight_bytes as f64 / numbers as f64;
        assert!(per_number < 34.0 / 32.0 * 1.01, "{architecture}: {per_number} bytes a number");
    }
}

#[test]
fn quantised_experts_move_logits_by_no_more_than_their_formats_lose() {
    let mut wrong = false;
    // Each a fifth above what was measured: a choice of experts that rounding turns is in it.
    for (architecture, kind, most) in [
        ("mixtral", "q8_0", 0.0424),
        ("mixtral", "q4_k_m", 0.425),
        ("mixtral", "q4_0", 0.532),
        ("qwen3_moe", "q8_0", 0.03),
        ("qwen3_moe", "q4_k_m", 0.453),
        ("qwen3_moe", "q4_0", 0.459),
    ] {
        let folder = TempDir::new().unwrap();
        with_experts(architecture, folder.path(), Numbers::Any);
        let name = name_of(folder.path());
        let exact = logits(&mut Engine::load(&name).unwrap());
        let found = logits(&mut quantised(kind).load(&name).unwrap());
        for (threads, chunk) in [(1, 1), (3, 7)] {
            let again = logits(&mut quantised(kind).threads(threads).prefill_chunk(chunk).load(&name).unwrap());
            let same = found.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{architecture}, {kind}: {threads} threads, chunks of {chunk}");
        }
        let off = distance(&exact, &found);
        println!("{architecture}, {kind}: off by {off:.4}, expected at most {most}");
        wrong |= off > most || off < most / 2.0;
    }
    assert!(!wrong, "see above");
}
