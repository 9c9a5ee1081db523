//! StarCoder2: rotary positions, few heads of keys and values, biases everywhere, and on request a window.
//!
//! Lozhkov et al. 2024, "StarCoder 2 and The Stack v2". The network is [`classic`](super::classic)'s.

use serde::{Deserialize, Serialize};

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks, rope};
use crate::error::Result;
use crate::kernels::{Order, Pairing};
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "starcoder2",
    class: "Starcoder2ForCausalLM",
    models: "StarCoder2 (3B, 7B, 15B)",
    check: |config| design(config).map(drop),
    complete: |config| rope::explicit(&config.completed(Starcoder2Config::default()), 1.0),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`].
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Starcoder2Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    norm_epsilon: f32,
    /// Tokens that a token sees, itself included; null for all.
    sliding_window: Option<usize>,
    /// Of all matrices of the layers.
    use_bias: bool,
    tie_word_embeddings: bool,
}

impl Default for Starcoder2Config {
    fn default() -> Self {
        Starcoder2Config {
            vocab_size: 49152,
            hidden_size: 3072,
            intermediate_size: 12288,
            num_hidden_layers: 30,
            num_attention_heads: 24,
            num_key_value_heads: 2,
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            max_position_embeddings: 4096,
            norm_epsilon: 1e-5,
            sliding_window: None,
            use_bias: true,
            tie_word_embeddings: true,
        }
    }
}

const NAMES: Names = Names {
    prefixes: &["model", ""],
    embedding: "embed_tokens",
    embedding_norm: None,
    layers: "layers",
    final_norm: Some("norm"),
    heads: &["lm_head"],
    attention_norm: "input_layernorm",
    attention: "self_attn",
    qkv: &["q_proj", "k_proj", "v_proj"],
    attention_out: "self_attn.o_proj",
    mlp_norm: Some("post_attention_layernorm"),
    mlp_in: &["mlp.c_fc"],
    mlp_out: "mlp.c_proj",
    ignored: &["rotary_emb.inv_freq"],
};

fn design(config: &Config) -> Result<Design> {
    let c: Starcoder2Config = config.fields()?;
    checks::sizes(
        config,
        &[
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("num_hidden_layers", c.num_hidden_layers),
            ("intermediate_size", c.intermediate_size),
            ("sliding_window", c.sliding_window.unwrap_or(1)),
        ],
    )?;
    checks::positions(config, "max_position_embeddings", c.max_position_embeddings)?;
    checks::epsilon(config, "norm_epsilon", c.norm_epsilon)?;
    checks::quantization(config)?;
    let n_heads = ("num_attention_heads", c.num_attention_heads);
    let n_kv_heads = ("num_key_value_heads", c.num_key_value_heads);
    let heads = checks::heads(config, ("hidden_size", c.hidden_size), n_heads, n_kv_heads)?;
    let rotation = rope::whole(config, heads.head_dim, c.max_position_embeddings)?;
    let bias = if c.use_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        names: NAMES,
        vocab_size: c.vocab_size,
        embedding_size: c.hidden_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        n_layers: c.num_hidden_layers,
        context: c.max_position_embeddings,
        heads,
        order: Order::Parts,
        head_norms: HeadNorms::None,
        window: Box::new(move |_| c.sliding_window),
        positions: Positions::Rotary(rotation, Pairing::Halves),
        flow: Flow::Serial,
        activation: checks::activation(config, "hidden_act", &c.hidden_act)?,
        norms: Norms { epsilon: c.norm_epsilon, learned: true },
        biases: Biases { qkv: bias, attention_out: bias, mlp: bias, head: Bias::Without },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
