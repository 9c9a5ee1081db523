//! Bloom: no positions but scores that fall with the distance, a norm behind the vocabulary's table, one fused matrix for
//! queries, keys and values, head by head.
//!
//! BigScience Workshop 2022, "BLOOM: A 176B-Parameter Open-Access Multilingual Language Model". The network is
//! [`classic`](super::classic)'s.

use serde::Deserialize;

use super::classic::{Biases, Classic, Design, Flow, HeadNorms, Names, Norms, Positions};
use super::{Architecture, Config, checks};
use crate::error::Result;
use crate::kernels::Steps;
use crate::nn::{Activation, Bias};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "bloom",
    class: "BloomForCausalLM",
    models: "BLOOM and BLOOMZ (560M to 176B)",
    check: |config| design(config).map(drop),
    load: |config, weights| Classic::load(&design(config)?, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults.
#[derive(Deserialize)]
#[serde(default)]
struct BloomConfig {
    vocab_size: usize,
    hidden_size: usize,
    /// The older name of `hidden_size`, which counts before it.
    n_embed: Option<usize>,
    n_layer: usize,
    n_head: usize,
    /// Tokens of a text in training; transformers sets no bound.
    seq_length: usize,
    layer_norm_epsilon: f32,
    apply_residual_connection_post_layernorm: bool,
    tie_word_embeddings: bool,
}

impl Default for BloomConfig {
    fn default() -> Self {
        BloomConfig {
            vocab_size: 250_880,
            hidden_size: 64,
            n_embed: None,
            n_layer: 2,
            n_head: 8,
            seq_length: 2048,
            layer_norm_epsilon: 1e-5,
            apply_residual_connection_post_layernorm: false,
            tie_word_embeddings: true,
        }
    }
}

/// Other architectures' names for the same fields, which transformers takes too.
const ALIASES: &[(&str, &str)] = &[("num_hidden_layers", "n_layer"), ("num_attention_heads", "n_head")];

const NAMES: Names = Names {
    prefixes: &["transformer", ""],
    embedding: "word_embeddings",
    embedding_norm: Some("word_embeddings_layernorm"),
    layers: "h",
    final_norm: Some("ln_f"),
    heads: &["lm_head"],
    attention_norm: "input_layernorm",
    attention: "self_attention",
    qkv: &["query_key_value"],
    attention_out: "self_attention.dense",
    mlp_norm: Some("post_attention_layernorm"),
    mlp_in: &["mlp.dense_h_to_4h"],
    mlp_out: "mlp.dense_4h_to_h",
    ignored: &[],
};

fn design(config: &Config) -> Result<Design> {
    let config = &config.renamed(ALIASES)?;
    let c: BloomConfig = config.fields()?;
    let hidden_size = c.n_embed.unwrap_or(c.hidden_size);
    checks::sizes(config, &[("vocab_size", c.vocab_size), ("hidden_size", hidden_size), ("n_layer", c.n_layer)])?;
    checks::positions(config, "seq_length", c.seq_length)?;
    checks::epsilon(config, "layer_norm_epsilon", c.layer_norm_epsilon)?;
    checks::quantization(config)?;
    let n_head = ("n_head", c.n_head);
    let residual_is_normed = c.apply_residual_connection_post_layernorm;
    Ok(Design {
        names: NAMES,
        vocab_size: c.vocab_size,
        embedding_size: hidden_size,
        hidden_size,
        intermediate_size: 4 * hidden_size,
        n_layers: c.n_layer,
        context: c.seq_length,
        heads: checks::heads(config, ("hidden_size", hidden_size), n_head, n_head)?,
        order: checks::qkv_order(config),
        head_norms: HeadNorms::None,
        window: Box::new(|_| None),
        positions: Positions::Alibi { scale: 1.0, steps: Steps::Exact },
        flow: if residual_is_normed { Flow::NormsInResidual } else { Flow::Serial },
        activation: Activation::GELU_TANH,
        norms: Norms { epsilon: c.layer_norm_epsilon, learned: true },
        biases: Biases { qkv: Bias::With, attention_out: Bias::With, mlp: Bias::With, head: Bias::Without },
        tie_word_embeddings: c.tie_word_embeddings,
    })
}
