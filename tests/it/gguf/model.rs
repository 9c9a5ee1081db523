//! Models in folders → GGUF files, as converters write them, of three kinds: other names, rows of queries and keys put in
//! pairs of neighbours for Llama, Conv1D turned round. `converter` holds all kinds against llama.cpp's own files; this is a
//! second hand, which shares nothing with the library's writer.

use std::path::Path;

use fireside::kernels::{self, Format};
use half::{bf16, f16};
use safetensors::SafeTensors;
use serde_json::Value;

use super::file::{GgufFile, U32};
use crate::support::fixture;

/// How a matrix is written. Tensors of one dimension are always F32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Numbers {
    F32,
    F16,
    Bf16,
    Blocks(Format),
}

impl Numbers {
    /// Its number in the file.
    pub fn id(self) -> u32 {
        match self {
            Numbers::F32 => 0,
            Numbers::F16 => 1,
            Numbers::Bf16 => 30,
            Numbers::Blocks(format) => match format {
                Format::Q4_0 => 2,
                Format::Q4_1 => 3,
                Format::Q5_0 => 6,
                Format::Q5_1 => 7,
                Format::Q8_0 => 8,
                Format::Q2K => 10,
                Format::Q3K => 11,
                Format::Q4K => 12,
                Format::Q5K => 13,
                Format::Q6K => 14,
                Format::Iq4Nl => 20,
                Format::Iq4Xs => 23,
                Format::Mxfp4 => 39,
            },
        }
    }

    pub fn bytes(self, numbers: &[f32]) -> Vec<u8> {
        match self {
            Numbers::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Numbers::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Numbers::Bf16 => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Numbers::Blocks(format) => {
                let mut bytes = vec![0; format.bytes(numbers.len())];
                kernels::best().quantize(format, numbers, &mut bytes);
                bytes
            }
        }
    }
}

/// The file that tests change in one thing: a tiny Llama.
pub fn base() -> GgufFile {
    gguf_of(&fixture("llama/base"), |_| Numbers::F32)
}

/// That file with another value of a key.
pub fn with(key: &str, kind: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut made = base();
    made.keys.retain(|(name, ..)| name != key.as_bytes());
    made.key(key, kind, value).bytes()
}

/// That file without a key.
pub fn without(key: &str) -> Vec<u8> {
    let mut made = base();
    assert!(made.keys.iter().any(|(name, ..)| name == key.as_bytes()), "{key}");
    made.keys.retain(|(name, ..)| name != key.as_bytes());
    made.bytes()
}

/// A tensor's name in a folder → its name in a GGUF file.
fn renamed(name: &str) -> String {
    const PARTS: &[(&str, &str)] = &[
        ("transformer.h.", "blk."),
        ("model.layers.", "blk."),
        ("h.", "blk."),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("transformer.ln_f", "output_norm"),
        ("wte", "token_embd"),
        ("wpe", "position_embd"),
        ("ln_f", "output_norm"),
    ];
    const ENDS: &[(&str, &str)] = &[
        (".input_layernorm", ".attn_norm"),
        (".self_attn.q_proj", ".attn_q"),
        (".self_attn.k_proj", ".attn_k"),
        (".self_attn.v_proj", ".attn_v"),
        (".self_attn.q_norm", ".attn_q_norm"),
        (".self_attn.k_norm", ".attn_k_norm"),
        (".self_attn.o_proj", ".attn_output"),
        (".post_attention_layernorm", ".ffn_norm"),
        (".mlp.gate_proj", ".ffn_gate"),
        (".mlp.up_proj", ".ffn_up"),
        (".mlp.down_proj", ".ffn_down"),
        (".ln_1", ".attn_norm"),
        (".attn.c_attn", ".attn_qkv"),
        (".attn.c_proj", ".attn_output"),
        (".ln_2", ".ffn_norm"),
        (".mlp.c_fc", ".ffn_up"),
        (".mlp.c_proj", ".ffn_down"),
    ];
    let (start, theirs) = PARTS.iter().find(|(start, _)| name.starts_with(start)).expect("a known start");
    let name = format!("{theirs}{}", &name[start.len()..]);
    match ENDS.iter().find(|(end, _)| name.contains(end)) {
        Some((end, theirs)) => name.replacen(end, theirs, 1),
        None => name,
    }
}

/// Rows of heads with their halves' elements made neighbours.
fn in_pairs(numbers: &[f32], heads: usize, width: usize) -> Vec<f32> {
    let head_dim = numbers.len() / width / heads;
    let rows: Vec<&[f32]> = numbers.chunks(width).collect();
    let from = |row: usize| {
        let (head, i) = (row / head_dim, row % head_dim);
        head * head_dim + i % 2 * (head_dim / 2) + i / 2
    };
    (0..rows.len()).flat_map(|row| rows[from(row)].iter().copied()).collect()
}

fn turned(numbers: &[f32], inputs: usize, outputs: usize) -> Vec<f32> {
    (0..outputs).flat_map(|o| (0..inputs).map(move |i| numbers[i * outputs + o])).collect()
}

/// The model in a folder; `numbers` says how each matrix is written, by its name in the GGUF file.
pub fn gguf_of(folder: &Path, numbers: impl Fn(&str) -> Numbers) -> GgufFile {
    let config: Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    let mut made = metadata(&config);
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let kind = config["model_type"].as_str().unwrap();
    let heads = config["num_attention_heads"].as_u64().unwrap_or(1) as usize;
    let kv_heads = config["num_key_value_heads"].as_u64().map_or(heads, |heads| heads as usize);
    let parsed = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = parsed.tensors(); // in any order
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (name, view) in tensors {
        let mut values: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut shape = view.shape().to_vec();
        let theirs = renamed(&name);
        if kind == "llama" && (theirs.contains("attn_q.") || theirs.contains("attn_k.")) {
            let heads = if theirs.contains("attn_q.") { heads } else { kv_heads };
            values = in_pairs(&values, heads, if shape.len() == 2 { shape[1] } else { 1 });
        }
        if kind == "gpt2" && shape.len() == 2 && theirs.starts_with("blk.") {
            values = turned(&values, shape[0], shape[1]);
            shape.reverse();
        }
        let kind = if shape.len() == 1 { Numbers::F32 } else { numbers(&theirs) };
        let dims: Vec<u64> = shape.iter().rev().map(|dim| *dim as u64).collect();
        made = made.tensor(&theirs, &dims, kind.id(), kind.bytes(&values));
    }
    if config["rope_scaling"]["rope_type"] == "llama3" {
        let factors = llama3_factors(&config);
        made = made.tensor("rope_freqs.weight", &[factors.len() as u64], 0, Numbers::F32.bytes(&factors));
    }
    made
}

/// What each frequency is divided by, as converters compute it.
fn llama3_factors(config: &Value) -> Vec<f32> {
    let scaling = |field: &str| config["rope_scaling"][field].as_f64().unwrap();
    let (factor, original) = (scaling("factor"), scaling("original_max_position_embeddings"));
    let (low, high) = (scaling("low_freq_factor"), scaling("high_freq_factor"));
    let (head_dim, theta) = (config["head_dim"].as_u64().unwrap(), config["rope_theta"].as_f64().unwrap_or(10_000.0));
    let of = |pair: u64| {
        let wave = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / head_dim as f64);
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(|pair| of(pair) as f32).collect()
}

fn metadata(config: &Value) -> GgufFile {
    let kind = config["model_type"].as_str().unwrap();
    let number = |field: &str| config[field].as_u64().map(|number| number as u32);
    let mut made = GgufFile::default().text("general.architecture", kind).text("general.license", "mit");
    let keys: &[(&str, &[&str])] = &[
        ("block_count", &["num_hidden_layers", "n_layer"]),
        ("context_length", &["max_position_embeddings", "n_positions"]),
        ("embedding_length", &["hidden_size", "n_embd"]),
        ("feed_forward_length", &["intermediate_size", "n_inner"]),
        ("attention.head_count", &["num_attention_heads", "n_head"]),
        ("attention.head_count_kv", &["num_key_value_heads"]),
        ("attention.key_length", &["head_dim"]),
        ("attention.value_length", &["head_dim"]),
    ];
    for (key, fields) in keys {
        if let Some(value) = fields.iter().find_map(|field| number(field)) {
            made = made.key(format!("{kind}.{key}"), U32, value.to_le_bytes());
        }
    }
    let scaling = &config["rope_scaling"];
    if scaling["type"] == "linear" {
        made = made.text(&format!("{kind}.rope.scaling.type"), "linear");
        made = made.float(&format!("{kind}.rope.scaling.factor"), scaling["factor"].as_f64().unwrap() as f32);
    }
    let floats: &[(&str, &str)] = &[
        ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
        ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
        ("rope.freq_base", "rope_theta"),
    ];
    // Where config.json does not say, it is transformers' own default.
    for (key, field) in floats {
        let default = match (kind, *field) {
            ("gpt2", "layer_norm_epsilon") => Some(1e-5),
            ("gpt2", _) => None,
            (_, "rms_norm_eps") => Some(1e-6),
            _ => None,
        };
        let value = config[*field].as_f64().or(default);
        if let Some(value) = value {
            made = made.float(&format!("{kind}.{key}"), value as f32);
        }
    }
    let last = config["eos_token_id"].as_u64().unwrap_or(0) as u32;
    tokenizer(made).number("tokenizer.ggml.eos_token_id", last)
}

/// A tokenizer of ten letters.
fn tokenizer(made: GgufFile) -> GgufFile {
    let letters: Vec<String> = ('a'..='j').map(String::from).collect();
    made.text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "gpt-2")
        .texts("tokenizer.ggml.tokens", &letters)
        .integers("tokenizer.ggml.token_type", &[1; 10])
        .texts::<String>("tokenizer.ggml.merges", &[])
}
