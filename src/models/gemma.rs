//! Gemma: Llama's network with wide heads, embeddings times the root of their width, and norms whose weights are stored
//! less 1.
//!
//! Gemma Team 2024, "Gemma: Open Models Based on Gemini Research and Technology".

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design, norm_centre};
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gemma",
    class: "GemmaForCausalLM",
    models: "Gemma 2B and 7B, CodeGemma",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(GemmaConfig::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct GemmaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    tie_word_embeddings: bool,
    attention_bias: bool,
    use_bidirectional_attention: Option<bool>,
}

impl Default for GemmaConfig {
    fn default() -> Self {
        GemmaConfig {
            vocab_size: 256_000,
            hidden_size: 3072,
            intermediate_size: 24576,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            head_dim: 256,
            hidden_act: "gelu_pytorch_tanh".to_owned(),
            max_position_embeddings: 8192,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
            attention_bias: false,
            use_bidirectional_attention: None,
        }
    }
}

fn design(config: &Config) -> Result<Design> {
    let mut c: GemmaConfig = config.fields()?;
    // The first files say `gelu` and mean its approximation.
    if c.hidden_act == "gelu" {
        c.hidden_act = "gelu_pytorch_tanh".to_owned();
    }
    if c.use_bidirectional_attention == Some(true) {
        return Err(config.unsupported("`use_bidirectional_attention` is not supported"));
    }
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads,
        head_dim: Some(c.head_dim),
        max_position_embeddings: c.max_position_embeddings,
        hidden_act: c.hidden_act,
        rms_norm_eps: c.rms_norm_eps,
        tie_word_embeddings: c.tie_word_embeddings,
        qkv_bias: bias,
        output_bias: bias,
        norm_centre: norm_centre(config),
        embedding_scale: (c.hidden_size as f64).sqrt() as f32,
        ..Design::default()
    })
}
