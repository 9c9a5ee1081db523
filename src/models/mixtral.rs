//! Mixtral: Mistral's network with experts instead of MLPs, of which each token uses a few.
//!
//! Jiang et al. 2024, "Mixtral of Experts".

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::decoder::{Decoder, Design, Mixture};
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Routing;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "mixtral",
    class: "MixtralForCausalLM",
    models: "Mixtral 8x7B, 8x22B",
    check: |config| design(config)?.check(&config.or("rope_theta", json!(1_000_000))).map(drop),
    complete: |config| {
        rope::explicit(
            &config.completed(&DEFAULTS).completed(MixtralConfig::default()).or("rope_theta", json!(1_000_000)),
            1.0,
        )
    },
    load: |config, weights| Decoder::load(&design(config)?, &config.or("rope_theta", json!(1_000_000)), weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 14336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(8),
    head_dim: None,
    max_position_embeddings: 131_072,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct MixtralConfig {
    /// Tokens that a token sees, itself included; null for all.
    sliding_window: Option<usize>,
    num_local_experts: usize,
    num_experts_per_tok: usize,
}

impl Default for MixtralConfig {
    fn default() -> Self {
        MixtralConfig { sliding_window: None, num_local_experts: 8, num_experts_per_tok: 2 }
    }
}

fn design(config: &Config) -> Result<Design> {
    let c: MixtralConfig = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    if c.sliding_window == Some(0) {
        return Err(config.wrong("expected a `sliding_window` of at least 1, or null, found 0"));
    }
    let mixture = Mixture {
        experts: c.num_local_experts,
        inner: llama.intermediate_size,
        routing: Routing { per_token: c.num_experts_per_tok, normalised: true },
        names: ("block_sparse_moe", ["w1", "w3", "w2"]),
    };
    mixture.check(config, "num_local_experts", "intermediate_size")?;
    Ok(Design { window: Box::new(move |_| c.sliding_window), experts: Box::new(move |_| Some(mixture)), ..llama })
}
