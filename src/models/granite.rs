//! Granite 3: Llama's network with factors for embeddings, scores, what each half of a block adds, and logits.
//!
//! Granite Team 2024, "Granite 3.0 Language Models".

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design};
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "granite",
    class: "GraniteForCausalLM",
    models: "Granite 3.0, 3.1, 3.2, 3.3 (2B, 8B)",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(&DEFAULTS).completed(GraniteConfig::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: 11008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct GraniteConfig {
    attention_bias: bool,
    mlp_bias: bool,
    embedding_multiplier: f32,
    /// What scores are multiplied by, instead of 1 / √head_dim.
    attention_multiplier: f32,
    residual_multiplier: f32,
    /// What logits are divided by.
    logits_scaling: f32,
}

impl Default for GraniteConfig {
    fn default() -> Self {
        GraniteConfig {
            attention_bias: false,
            mlp_bias: false,
            embedding_multiplier: 1.0,
            attention_multiplier: 1.0,
            residual_multiplier: 1.0,
            logits_scaling: 1.0,
        }
    }
}

fn design(config: &Config) -> Result<Design> {
    let c: GraniteConfig = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    config.above_zero("embedding_multiplier", Some(c.embedding_multiplier))?;
    config.above_zero("attention_multiplier", Some(c.attention_multiplier))?;
    config.above_zero("residual_multiplier", Some(c.residual_multiplier))?;
    config.above_zero("logits_scaling", Some(c.logits_scaling))?;
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: if c.mlp_bias { Bias::With } else { Bias::Without },
        score_scale: Some(c.attention_multiplier),
        embedding_scale: c.embedding_multiplier,
        residual_scale: c.residual_multiplier,
        logit_scale: c.logits_scaling.recip(),
        ..llama
    })
}
