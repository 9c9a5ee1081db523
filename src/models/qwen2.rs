//! Qwen2 and Qwen2.5: Llama's network with biases on queries, keys and values, and on request a window in some layers.
//!
//! Yang et al. 2024, "Qwen2 Technical Report". The network is [`decoder`](super::decoder)'s.

use serde::{Deserialize, Serialize};

use super::decoder::{Decoder, Design};
use super::layer_types::LayerTypes;
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    models: "Qwen2, Qwen2.5 (also Coder and Math), QwQ 32B, DeepSeek-R1-Distill-Qwen",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&config.completed(&DEFAULTS).completed(Windows::default()), 1.0),
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
    head_dim: None,
    max_position_embeddings: 32768,
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: false,
};

fn design(config: &Config) -> Result<Design> {
    let windows: Windows = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    windows.check(config, llama.num_hidden_layers)?;
    Ok(Design { qkv_bias: Bias::With, window: Box::new(move |layer| windows.of(layer)), ..llama })
}

/// Which layers see a window only: config.json's fields of Qwen2 and Qwen3.
#[derive(Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Windows {
    use_sliding_window: bool,
    /// Tokens that a token of a layer with a window sees, itself included.
    sliding_window: Option<usize>,
    /// Layers without a window, the first ones, where `layer_types` does not say.
    max_window_layers: usize,
    layer_types: LayerTypes,
}

impl Default for Windows {
    fn default() -> Self {
        Windows {
            use_sliding_window: false,
            sliding_window: Some(4096),
            max_window_layers: 28,
            layer_types: LayerTypes::default(),
        }
    }
}

impl Windows {
    pub(super) fn check(&self, config: &Config, num_hidden_layers: usize) -> Result<()> {
        let window = self.sliding_window.filter(|_| self.use_sliding_window);
        self.layer_types.check(config, num_hidden_layers, window)
    }

    /// The window of a layer.
    pub(super) fn of(&self, layer: usize) -> Option<usize> {
        let slides = self.layer_types.slides(layer, layer >= self.max_window_layers);
        self.sliding_window.filter(|_| self.use_sliding_window && slides)
    }
}
