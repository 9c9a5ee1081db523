//! Granite 3: Llama's network with factors for embeddings, scores, what each half of a block adds, and logits.
//!
//! Granite Team 2024, "Granite 3.0 Language Models".

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design};
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "granite",
    class: "GraniteForCausalLM",
    models: "Granite 3.0, 3.1, 3.2, 3.3 (2B, 8B)",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(GraniteConfig::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct GraniteConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// As many as `num_attention_heads` where it is null.
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: String,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    tie_word_embeddings: bool,
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
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
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
    config.above_zero("embedding_multiplier", Some(c.embedding_multiplier))?;
    config.above_zero("attention_multiplier", Some(c.attention_multiplier))?;
    config.above_zero("residual_multiplier", Some(c.residual_multiplier))?;
    config.above_zero("logits_scaling", Some(c.logits_scaling))?;
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads.unwrap_or(c.num_attention_heads),
        head_dim: c.head_dim,
        max_position_embeddings: c.max_position_embeddings,
        hidden_act: c.hidden_act,
        rms_norm_eps: c.rms_norm_eps,
        tie_word_embeddings: c.tie_word_embeddings,
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: if c.mlp_bias { Bias::With } else { Bias::Without },
        score_scale: Some(c.attention_multiplier),
        embedding_scale: c.embedding_multiplier,
        residual_scale: c.residual_multiplier,
        logit_scale: c.logits_scaling.recip(),
        ..Design::default()
    })
}
