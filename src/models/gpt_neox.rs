//! GPT-NeoX: rotary positions in a part of each head, attention and MLP side by side with a norm each, one fused matrix for
//! queries, keys and values, head by head.
//!
//! Black et al. 2022, "GPT-NeoX-20B". The network is [`classic`](super::classic)'s.

use serde::Deserialize;

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks, rope};
use crate::error::Result;
use crate::kernels::Pairing;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gpt_neox",
    class: "GPTNeoXForCausalLM",
    models: "Pythia (14M to 12B), GPT-NeoX 20B, Dolly v2, RedPajama-INCITE, StableLM Alpha",
    check: |config| design(config).map(drop),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`].
#[derive(Deserialize)]
#[serde(default)]
struct GptNeoxConfig {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    layer_norm_eps: f32,
    tie_word_embeddings: bool,
    use_parallel_residual: bool,
    attention_bias: bool,
}

impl Default for GptNeoxConfig {
    fn default() -> Self {
        GptNeoxConfig {
            vocab_size: 50432,
            hidden_size: 6144,
            num_hidden_layers: 44,
            num_attention_heads: 64,
            intermediate_size: 24576,
            hidden_act: "gelu".to_owned(),
            max_position_embeddings: 2048,
            layer_norm_eps: 1e-5,
            tie_word_embeddings: false,
            use_parallel_residual: true,
            attention_bias: true,
        }
    }
}

/// This architecture's own names for rotary settings.
const ALIASES: &[(&str, &str)] = &[("rotary_emb_base", "rope_theta"), ("rotary_pct", "partial_rotary_factor")];

/// How much of a head is turned where config.json does not say.
const ROTARY_PCT: f64 = 0.25;

const NAMES: Names = Names {
    prefixes: &["gpt_neox", ""],
    embedding: "embed_in",
    embedding_norm: None,
    layers: "layers",
    final_norm: Some("final_layer_norm"),
    heads: &["embed_out", "lm_head"],
    attention_norm: "input_layernorm",
    attention: "attention",
    qkv: &["query_key_value"],
    attention_out: "attention.dense",
    mlp_norm: Some("post_attention_layernorm"),
    mlp_in: &["mlp.dense_h_to_4h"],
    mlp_out: "mlp.dense_4h_to_h",
    ignored: &["bias", "masked_bias", "rotary_emb.inv_freq"],
};

fn design(config: &Config) -> Result<Design> {
    let config = &config.renamed(ALIASES)?;
    let c: GptNeoxConfig = config.fields()?;
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
    let heads = checks::heads(config, ("hidden_size", c.hidden_size), n_heads, n_heads)?;
    let rotation = rope::partial(config, heads.head_dim, c.max_position_embeddings, ROTARY_PCT)?;
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        names: NAMES,
        vocab_size: c.vocab_size,
        embedding_size: c.hidden_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        n_layers: c.num_hidden_layers,
        context: c.max_position_embeddings,
        heads,
        order: checks::qkv_order(config),
        head_norms: HeadNorms::None,
        window: Box::new(|_| None),
        positions: Positions::Rotary(rotation, Pairing::Halves),
        flow: if c.use_parallel_residual { Flow::Parallel } else { Flow::Serial },
        activation: checks::activation(config, "hidden_act", &c.hidden_act)?,
        norms: Norms { epsilon: c.layer_norm_eps, learned: true },
        biases: Biases { qkv: bias, attention_out: bias, mlp: Bias::With, head: Bias::Without },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
