//! Llama and what is built like it. The network is [`decoder`](super::decoder)'s.
//!
//! Touvron et al. 2023, "LLaMA" and "Llama 2"; Grattafiori et al. 2024, "The Llama 3 Herd of Models".

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design};
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "llama",
    class: "LlamaForCausalLM",
    models: "Llama (1, 2, 3, 3.1, 3.2, 3.3), TinyLlama, SmolLM, SmolLM2",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(&DEFAULTS).completed(LlamaConfig::default()), 1.0),
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
/// [`rope`](super::rope). `pretraining_tp`, by which some files split their products, changes no result.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct LlamaConfig {
    attention_bias: bool,
    mlp_bias: bool,
}

fn design(config: &Config) -> Result<Design> {
    let c: LlamaConfig = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    let attention_bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        mlp_bias: if c.mlp_bias { Bias::With } else { Bias::Without },
        ..llama
    })
}
