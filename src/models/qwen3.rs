//! Qwen3: Llama's network with norms on queries and keys, heads of a width of their own, and on request a window in some
//! layers.
//!
//! Yang et al. 2025, "Qwen3 Technical Report". The network is [`decoder`](super::decoder)'s.

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design, HeadNorms};
use super::qwen2::Windows;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    models: "Qwen3 (0.6B, 1.7B, 4B, 8B, 14B, 32B)",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(Qwen3Config::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope), windows as [`Windows`].
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Qwen3Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    /// As many as `num_attention_heads` where it is null.
    num_key_value_heads: Option<usize>,
    head_dim: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    tie_word_embeddings: bool,
    attention_bias: bool,
}

impl Default for Qwen3Config {
    fn default() -> Self {
        Qwen3Config {
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 22016,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            head_dim: 128,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 32768,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            attention_bias: false,
        }
    }
}

fn design(config: &Config) -> Result<Design> {
    let (c, windows): (Qwen3Config, Windows) = (config.fields()?, config.fields()?);
    windows.check(config, c.num_hidden_layers)?;
    let attention_bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        vocab_size: c.vocab_size,
        hidden_size: c.hidden_size,
        intermediate_size: c.intermediate_size,
        num_hidden_layers: c.num_hidden_layers,
        num_attention_heads: c.num_attention_heads,
        num_key_value_heads: c.num_key_value_heads.unwrap_or(c.num_attention_heads),
        head_dim: Some(c.head_dim),
        max_position_embeddings: c.max_position_embeddings,
        hidden_act: c.hidden_act,
        rms_norm_eps: c.rms_norm_eps,
        tie_word_embeddings: c.tie_word_embeddings,
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        head_norms: HeadNorms::Each,
        window: Box::new(move |layer| windows.of(layer)),
        ..Design::default()
    })
}
