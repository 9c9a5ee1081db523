//! Qwen2 and Qwen2.5: Llama's network with biases on queries, keys and values, and on request a window in some layers.
//!
//! Yang et al. 2024, "Qwen2 Technical Report". The network is [`decoder`](super::decoder)'s.

use serde::Deserialize;

use super::decoder::{Decoder, Design};
use super::{Architecture, Config};
use crate::error::{Result, quote};
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    models: "Qwen2, Qwen2.5 (also Coder and Math), QwQ 32B, DeepSeek-R1-Distill-Qwen",
    check: |config| design(config)?.check(config).map(drop),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope), windows as [`Windows`].
#[derive(Deserialize)]
#[serde(default)]
struct Qwen2Config {
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
}

impl Default for Qwen2Config {
    fn default() -> Self {
        Qwen2Config {
            vocab_size: 151_936,
            hidden_size: 4096,
            intermediate_size: 22016,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: Some(32),
            head_dim: None,
            hidden_act: "silu".to_owned(),
            max_position_embeddings: 32768,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: false,
        }
    }
}

fn design(config: &Config) -> Result<Design> {
    let (c, windows): (Qwen2Config, Windows) = (config.fields()?, config.fields()?);
    windows.check(config, c.num_hidden_layers)?;
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
        qkv_bias: Bias::With,
        output_bias: Bias::Without,
        mlp_bias: Bias::Without,
        head_norms: false,
        window: Box::new(move |layer| windows.of(layer)),
    })
}

/// Which layers see a window only: config.json's fields of Qwen2 and Qwen3.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Windows {
    use_sliding_window: bool,
    /// Tokens that a token of a layer with a window sees, itself included.
    sliding_window: Option<usize>,
    /// Layers without a window, the first ones, where `layer_types` does not say.
    max_window_layers: usize,
    layer_types: Option<Vec<String>>,
}

impl Default for Windows {
    fn default() -> Self {
        Windows { use_sliding_window: false, sliding_window: Some(4096), max_window_layers: 28, layer_types: None }
    }
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

impl Windows {
    pub(super) fn check(&self, config: &Config, num_hidden_layers: usize) -> Result<()> {
        if self.use_sliding_window && self.sliding_window == Some(0) {
            return Err(config.wrong("expected a `sliding_window` of at least 1, or null, found 0"));
        }
        let Some(types) = &self.layer_types else { return Ok(()) };
        if types.len() != num_hidden_layers {
            let found = types.len();
            return Err(config.wrong(format!("expected {num_hidden_layers} `layer_types`, one a layer, found {found}")));
        }
        if let Some(other) = types.iter().find(|kind| ![FULL, SLIDING].contains(&kind.as_str())) {
            return Err(config.unsupported(format!(
                "`layer_types` has {}, of which only `{FULL}` and `{SLIDING}` are supported",
                quote(other)
            )));
        }
        let without = !self.use_sliding_window || self.sliding_window.is_none();
        if without && types.iter().any(|kind| kind == SLIDING) {
            return Err(config.wrong(format!(
                "`layer_types` has `{SLIDING}`, expected `use_sliding_window` and a `sliding_window` with it"
            )));
        }
        Ok(())
    }

    /// The window of a layer.
    pub(super) fn of(&self, layer: usize) -> Option<usize> {
        let slides = match &self.layer_types {
            Some(types) => types.get(layer).is_some_and(|kind| kind == SLIDING),
            None => layer >= self.max_window_layers,
        };
        self.sliding_window.filter(|_| self.use_sliding_window && slides)
    }
}
