//! OLMo 2: Llama's network with norms behind each half of a block instead of before it, and norms of all queries and of all
//! keys of a token.
//!
//! OLMo Team 2025, "2 OLMo 2 Furious".

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decoder::{Decoder, Design, HeadNorms, Norms};
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    models: "OLMo 2 (1B, 7B, 13B, 32B)",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(&DEFAULTS).completed(Olmo2Config::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 50304,
    hidden_size: 4096,
    intermediate_size: 11008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 2048,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Olmo2Config {
    attention_bias: bool,
    /// Of the first OLMo.
    clip_qkv: Value,
}

fn design(config: &Config) -> Result<Design> {
    let c: Olmo2Config = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    if !c.clip_qkv.is_null() {
        return Err(config.unsupported("`clip_qkv` is not supported for `model_type` `olmo2`"));
    }
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design { qkv_bias: bias, output_bias: bias, norms: Norms::Behind, head_norms: HeadNorms::Together, ..llama })
}
