//! Gemma: Llama's network with wide heads, embeddings times the root of their width, and norms whose weights are stored
//! less 1.
//!
//! Gemma Team 2024, "Gemma: Open Models Based on Gemini Research and Technology".

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design, norm_centre};
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    models: "Gemma 2B and 7B, CodeGemma",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(&DEFAULTS).completed(GemmaConfig::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 256_000,
    hidden_size: 3072,
    intermediate_size: 24576,
    num_hidden_layers: 28,
    num_attention_heads: 16,
    num_key_value_heads: Some(16),
    head_dim: Some(256),
    max_position_embeddings: 8192,
    hidden_act: "gelu_pytorch_tanh",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct GemmaConfig {
    attention_bias: bool,
    use_bidirectional_attention: Option<bool>,
}

fn design(config: &Config) -> Result<Design> {
    let c: GemmaConfig = config.fields()?;
    let mut llama = DEFAULTS.design(config)?;
    // The first files say `gelu` and mean its approximation.
    if llama.hidden_act == "gelu" {
        llama.hidden_act = "gelu_pytorch_tanh".to_owned();
    }
    if c.use_bidirectional_attention == Some(true) {
        return Err(config.unsupported("`use_bidirectional_attention` is not supported"));
    }
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        qkv_bias: bias,
        output_bias: bias,
        norm_centre: norm_centre(config),
        embedding_scale: (llama.hidden_size as f64).sqrt() as f32,
        ..llama
    })
}
