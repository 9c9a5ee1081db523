//! OLMo 2: Llama's network with norms behind each half of a block instead of before it, and norms of all queries and of all
//! keys of a token.
//!
//! OLMo Team 2025, "2 OLMo 2 Furious".

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::decoder::{Decoder, Design, HeadNorms, Norms};
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "olmo2",
    class: "Olmo2ForCausalLM",
    models: "OLMo 2 (1B, 7B, 13B, 32B)",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(Olmo2Config::default()), 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Olmo2Config {
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
    /// Of the first OLMo.
    clip_qkv: Value,
}

impl Default for Olmo2Config {
    fn default() -> Self {
        Olmo2Config {
            vocab_size: 50304,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: None,
            head_dim: None,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: false,
            attention_bias: false,
            clip_qkv: Value::Null,
        }
    }
}

fn design(config: &Config) -> Result<Design> {
    let c: Olmo2Config = config.fields()?;
    if !c.clip_qkv.is_null() {
        return Err(config.unsupported("`clip_qkv` is not supported for `model_type` `olmo2`"));
    }
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
        norms: Norms::Behind,
        head_norms: HeadNorms::Together,
        ..Design::default()
    })
}
