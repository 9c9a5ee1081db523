//! Qwen3: Llama's network with norms on queries and keys, heads of a width of their own, and on request a window in some
//! layers.
//!
//! Yang et al. 2025, "Qwen3 Technical Report". The network is [`decoder`](super::decoder)'s.

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design, HeadNorms};
use super::qwen2::Windows;
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    models: "Qwen3 (0.6B, 1.7B, 4B, 8B, 14B, 32B)",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(&DEFAULTS).completed(Qwen3Config::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 151_936,
    hidden_size: 4096,
    intermediate_size: 22016,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: Some(32),
    head_dim: Some(128),
    max_position_embeddings: 32768,
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope), windows as [`Windows`].
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Qwen3Config {
    attention_bias: bool,
}

fn design(config: &Config) -> Result<Design> {
    let (c, windows): (Qwen3Config, Windows) = (config.fields()?, config.fields()?);
    let llama = DEFAULTS.design(config)?;
    windows.check(config, llama.num_hidden_layers)?;
    let attention_bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        head_norms: HeadNorms::Each,
        window: Box::new(move |layer| windows.of(layer)),
        ..llama
    })
}
