//! Mistral: Llama's network, where each token of the first version sees the last `sliding_window` tokens.
//!
//! Jiang et al. 2023, "Mistral 7B". The network is [`decoder`](super::decoder)'s.

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design};
use super::{Architecture, Config, rope};
use crate::error::Result;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "mistral",
    class: "MistralForCausalLM",
    models: "Mistral 7B (v0.1, v0.2, v0.3), Mistral Nemo, Zephyr 7B",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(MistralConfig::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct MistralConfig {
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
    /// Tokens that a token sees, itself included; null for all.
    sliding_window: Option<usize>,
}

impl Default for MistralConfig {
    fn default() -> Self {
        MistralConfig {
            vocab_size: 32000,
            hidden_size: 4096,
            intermediate_size: 14336,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(8),
            head_dim: None,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 131_072,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
            sliding_window: Some(4096),
        }
    }
}

fn design(config: &Config) -> Result<Design> {
    let c: MistralConfig = config.fields()?;
    if c.sliding_window == Some(0) {
        return Err(config.wrong("expected a `sliding_window` of at least 1, or null, found 0"));
    }
    // Ministral alternates windows under this name; transformers would run such a file with one window for all.
    if !config.json["layer_types"].is_null() {
        return Err(config.unsupported("`layer_types` is not supported for `model_type` `mistral`"));
    }
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
        window: Box::new(move |_| c.sliding_window),
        ..Design::default()
    })
}
