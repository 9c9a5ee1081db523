//! Qwen3 with experts instead of MLPs in all layers or some, of which each token uses a few.
//!
//! Yang et al. 2025, "Qwen3 Technical Report".

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design, HeadNorms, Mixture};
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::{Bias, Routing};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen3_moe",
    class: "Qwen3MoeForCausalLM",
    models: "Qwen3 30B-A3B, 235B-A22B, Qwen3 Coder 30B-A3B",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| {
        rope::explicit(&config.renamed(ALIASES)?.completed(&DEFAULTS).completed(Qwen3MoeConfig::default()), 1.0)
    },
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 151_936,
    hidden_size: 2048,
    intermediate_size: 6144,
    num_hidden_layers: 24,
    num_attention_heads: 32,
    num_key_value_heads: Some(4),
    head_dim: None,
    max_position_embeddings: 32768,
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Qwen3MoeConfig {
    attention_bias: bool,
    use_sliding_window: bool,
    /// Tokens that a token sees, itself included, where that is asked for.
    sliding_window: Option<usize>,
    num_experts: usize,
    num_experts_per_tok: usize,
    /// The width inside an expert.
    moe_intermediate_size: usize,
    /// Whether the weights of a token's experts are divided by their sum.
    norm_topk_prob: bool,
    /// Each of these has one layer with experts, the last.
    decoder_sparse_step: usize,
    /// Layers without experts.
    mlp_only_layers: Option<Vec<usize>>,
}

impl Default for Qwen3MoeConfig {
    fn default() -> Self {
        Qwen3MoeConfig {
            attention_bias: false,
            use_sliding_window: false,
            sliding_window: Some(4096),
            num_experts: 128,
            num_experts_per_tok: 8,
            moe_intermediate_size: 768,
            norm_topk_prob: false,
            decoder_sparse_step: 1,
            mlp_only_layers: None,
        }
    }
}

/// transformers writes the one and reads both.
const ALIASES: &[(&str, &str)] = &[("num_local_experts", "num_experts")];

fn design(config: &Config) -> Result<Design> {
    let c: Qwen3MoeConfig = config.renamed(ALIASES)?.fields()?;
    let llama = DEFAULTS.design(config)?;
    let window = c.sliding_window.filter(|_| c.use_sliding_window);
    if window == Some(0) {
        return Err(config.wrong("expected a `sliding_window` of at least 1, or null, found 0"));
    }
    if c.decoder_sparse_step == 0 {
        return Err(config.wrong("expected a `decoder_sparse_step` of at least 1, found 0"));
    }
    let mixture = Mixture {
        experts: c.num_experts,
        inner: c.moe_intermediate_size,
        routing: Routing { per_token: c.num_experts_per_tok, normalised: c.norm_topk_prob },
        names: ("mlp", ["gate_proj", "up_proj", "down_proj"]),
    };
    mixture.check(config, "num_experts", "moe_intermediate_size")?;
    let dense = c.mlp_only_layers.unwrap_or_default();
    let has_experts = move |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(c.decoder_sparse_step);
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        qkv_bias: bias,
        output_bias: bias,
        head_norms: HeadNorms::Each,
        window: Box::new(move |_| window),
        experts: Box::new(move |layer| has_experts(layer).then_some(mixture)),
        ..llama
    })
}
