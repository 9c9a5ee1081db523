//! Phi: rotary positions in a part of each head, attention and MLP side by side behind one norm, biases everywhere.
//!
//! Li et al. 2023, "Textbooks Are All You Need II: phi-1.5". The network is [`classic`](super::classic)'s.

use serde::{Deserialize, Serialize};

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks, rope};
use crate::error::Result;
use crate::kernels::{Order, Pairing};
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "phi",
    class: "PhiForCausalLM",
    models: "Phi-1, Phi-1.5, Phi-2",
    check: |config| design(config).map(drop),
    complete: |config| rope::explicit(&config.completed(PhiConfig::default()), ROTARY),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`].
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct PhiConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// As many as `num_attention_heads` where it is null.
    num_key_value_heads: Option<usize>,
    hidden_act: String,
    max_position_embeddings: usize,
    layer_norm_eps: f32,
    tie_word_embeddings: bool,
    /// Whether queries and keys have a norm, one for all heads.
    qk_layernorm: bool,
}

impl Default for PhiConfig {
    fn default() -> Self {
        PhiConfig {
            vocab_size: 51200,
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 24,
            num_attention_heads: 32,
            num_key_value_heads: None,
            hidden_act: "gelu_new".to_owned(),
            max_position_embeddings: 2048,
            layer_norm_eps: 1e-5,
            tie_word_embeddings: false,
            qk_layernorm: false,
        }
    }
}

/// How much of a head is turned where config.json does not say.
const ROTARY: f64 = 0.5;

const NAMES: Names = Names {
    prefixes: &["model", ""],
    embedding: "embed_tokens",
    embedding_norm: None,
    layers: "layers",
    final_norm: Some("final_layernorm"),
    heads: &["lm_head"],
    attention_norm: "input_layernorm",
    attention: "self_attn",
    qkv: &["q_proj", "k_proj", "v_proj"],
    attention_out: "self_attn.dense",
    mlp_norm: None,
    mlp_in: &["mlp.fc1"],
    mlp_out: "mlp.fc2",
    ignored: &["rotary_emb.inv_freq"],
};

fn design(config: &Config) -> Result<Design> {
    let c: PhiConfig = config.fields()?;
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
    let n_kv_heads = ("num_key_value_heads", c.num_key_value_heads.unwrap_or(n_heads.1));
    let heads = checks::heads(config, ("hidden_size", c.hidden_size), n_heads, n_kv_heads)?;
    let rotation = rope::partial(config, heads.head_dim, c.max_position_embeddings, ROTARY)?;
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
        head_norms: if c.qk_layernorm { HeadNorms::Shared } else { HeadNorms::None },
        window: Box::new(|_| None),
        positions: Positions::Rotary(rotation, Pairing::Halves),
        flow: Flow::Parallel,
        activation: checks::activation(config, "hidden_act", &c.hidden_act)?,
        norms: Norms { epsilon: c.layer_norm_eps, learned: true },
        biases: Biases { qkv: Bias::With, attention_out: Bias::With, mlp: Bias::With, head: Bias::With },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
