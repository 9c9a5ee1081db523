//! Gemma 2: Gemma with norms around both halves of a block, soft caps on scores and logits, and a window in every other
//! layer.
//!
//! Gemma Team 2024, "Gemma 2: Improving Open Language Models at a Practical Size".

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::decoder::{Decoder, Design, Norms, norm_centre};
use super::layer_types::LayerTypes;
use super::sizes::Sizes;
use super::{Architecture, Config, checks, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gemma2",
    class: "Gemma2ForCausalLM",
    models: "Gemma 2 (2B, 9B, 27B)",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| {
        let config = config.completed(&DEFAULTS).completed(Gemma2Config::default());
        let (c, layers): (Gemma2Config, _) = (config.fields()?, DEFAULTS.design(&config)?.num_hidden_layers);
        let mut json = rope::explicit(&config, 1.0)?;
        json["layer_types"] = json!(c.layer_types.listed(layers, has_window));
        Ok(json)
    },
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 256_000,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    max_position_embeddings: 8192,
    hidden_act: "gelu_pytorch_tanh",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Gemma2Config {
    hidden_activation: String,
    attention_bias: bool,
    /// Scores are divided by its root.
    query_pre_attn_scalar: f32,
    /// Tokens that a token of a layer with a window sees, itself included.
    sliding_window: Option<usize>,
    /// The even layers have a window where it does not say.
    layer_types: LayerTypes,
    final_logit_softcapping: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    use_bidirectional_attention: Option<bool>,
}

impl Default for Gemma2Config {
    fn default() -> Self {
        Gemma2Config {
            hidden_activation: DEFAULTS.hidden_act.to_owned(),
            attention_bias: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: Some(4096),
            layer_types: LayerTypes::default(),
            final_logit_softcapping: Some(30.0),
            attn_logit_softcapping: Some(50.0),
            use_bidirectional_attention: None,
        }
    }
}

/// Whether a layer has a window, where config.json does not say.
fn has_window(layer: usize) -> bool {
    layer.is_multiple_of(2)
}

fn design(config: &Config) -> Result<Design> {
    let c: Gemma2Config = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    c.layer_types.check(config, llama.num_hidden_layers, c.sliding_window)?;
    if c.use_bidirectional_attention == Some(true) {
        return Err(config.unsupported("`use_bidirectional_attention` is not supported"));
    }
    checks::activation(config, "hidden_activation", &c.hidden_activation)?;
    config.above_zero("query_pre_attn_scalar", Some(c.query_pre_attn_scalar))?;
    config.above_zero("attn_logit_softcapping", c.attn_logit_softcapping)?;
    config.above_zero("final_logit_softcapping", c.final_logit_softcapping)?;
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        hidden_act: c.hidden_activation,
        qkv_bias: bias,
        output_bias: bias,
        norms: Norms::Around,
        norm_centre: norm_centre(config),
        score_scale: Some(c.query_pre_attn_scalar.sqrt().recip()),
        score_cap: c.attn_logit_softcapping,
        logit_cap: c.final_logit_softcapping,
        embedding_scale: (llama.hidden_size as f64).sqrt() as f32,
        window: Box::new(move |layer| c.sliding_window.filter(|_| c.layer_types.slides(layer, has_window(layer)))),
        ..llama
    })
}
