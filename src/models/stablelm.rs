//! StableLM: Llama's block with layer norms, rotary positions in a part of each head, and on request biases on queries, keys
//! and values, norms of each head, and attention and MLP side by side.
//!
//! Bellagente et al. 2024, "Stable LM 2 1.6B Technical Report". The network is [`classic`](super::classic)'s.

use serde::{Deserialize, Serialize};

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks, rope};
use crate::error::Result;
use crate::kernels::{Order, Pairing};
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "stablelm",
    class: "StableLmForCausalLM",
    models: "StableLM 3B, StableLM 2 (1.6B, 12B), Stable Code 3B, Zephyr 3B",
    check: |config| design(config).map(drop),
    complete: |config| rope::explicit(&config.completed(StableLmConfig::default()), ROTARY),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`].
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct StableLmConfig {
    vocab_size: usize,
    intermediate_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    layer_norm_eps: f32,
    tie_word_embeddings: bool,
    use_qkv_bias: bool,
    /// Whether every head has a norm of its query and of its key.
    qk_layernorm: bool,
    /// Whether attention and MLP are side by side, behind one norm.
    use_parallel_residual: bool,
}

impl Default for StableLmConfig {
    fn default() -> Self {
        StableLmConfig {
            vocab_size: 50304,
            intermediate_size: 6912,
            hidden_size: 2560,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 4096,
            layer_norm_eps: 1e-5,
            tie_word_embeddings: false,
            use_qkv_bias: false,
            qk_layernorm: false,
            use_parallel_residual: false,
        }
    }
}

/// How much of a head is turned where config.json does not say.
const ROTARY: f64 = 0.25;

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
    mlp_in: &["mlp.gate_proj", "mlp.up_proj"],
    mlp_out: "mlp.down_proj",
    ignored: &["rotary_emb.inv_freq"],
};

fn design(config: &Config) -> Result<Design> {
    let c: StableLmConfig = config.fields()?;
    checks::sizes(
        config,
        &[
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("num_hidden_layers", c.num_hidden_layers),
            ("intermediate_size", c.intermediate_size),
        ],
    )?;
    checks::positions(config, "max_position_embeddings", c.max_position_embeddings)?;
    checks::epsilon(config, "layer_norm_eps", c.layer_norm_eps)?;
    checks::quantization(config)?;
    let n_heads = ("num_attention_heads", c.num_attention_heads);
    let n_kv_heads = ("num_key_value_heads", c.num_key_value_heads);
    let heads = checks::heads(config, ("hidden_size", c.hidden_size), n_heads, n_kv_heads)?;
    let rotation = rope::partial(config, heads.head_dim, c.max_position_embeddings, ROTARY)?;
    let qkv = if c.use_qkv_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        names: Names { mlp_norm: NAMES.mlp_norm.filter(|_| !c.use_parallel_residual), ..NAMES },
        vocab_size: c.vocab_size,
        embedding_size: c.hidden_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        n_layers: c.num_hidden_layers,
        context: c.max_position_embeddings,
        heads,
        order: Order::Parts,
        head_norms: if c.qk_layernorm { HeadNorms::Each } else { HeadNorms::None },
        window: Box::new(|_| None),
        positions: Positions::Rotary(rotation, Pairing::Halves),
        flow: if c.use_parallel_residual { Flow::Parallel } else { Flow::Serial },
        activation: checks::activation(config, "hidden_act", &c.hidden_act)?,
        norms: Norms { epsilon: c.layer_norm_eps, learned: true },
        biases: Biases { qkv, attention_out: Bias::Without, mlp: Bias::Without, head: Bias::Without },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
