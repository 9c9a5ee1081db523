//! What config.json of Llama and all its relatives says by the same names, and what holds where it is silent.

use serde::{Deserialize, Deserializer, Serialize};

use super::Config;
use super::decoder::Design;
use crate::error::Result;

/// Defaults: an architecture has transformers' own as a constant.
#[derive(Serialize)]
pub(super) struct Sizes {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    /// As many as `num_attention_heads` where it is none, or null in the file.
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) max_position_embeddings: usize,
    pub(super) hidden_act: &'static str,
    pub(super) rms_norm_eps: f32,
    pub(super) tie_word_embeddings: bool,
}

/// The fields of a file; what is not there is `None`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Given {
    #[serde(deserialize_with = "given")]
    vocab_size: Option<usize>,
    #[serde(deserialize_with = "given")]
    hidden_size: Option<usize>,
    #[serde(deserialize_with = "given")]
    intermediate_size: Option<usize>,
    #[serde(deserialize_with = "given")]
    num_hidden_layers: Option<usize>,
    #[serde(deserialize_with = "given")]
    num_attention_heads: Option<usize>,
    #[serde(deserialize_with = "given")]
    num_key_value_heads: Option<Option<usize>>,
    #[serde(deserialize_with = "given")]
    head_dim: Option<Option<usize>>,
    #[serde(deserialize_with = "given")]
    max_position_embeddings: Option<usize>,
    #[serde(deserialize_with = "given")]
    hidden_act: Option<String>,
    #[serde(deserialize_with = "given")]
    rms_norm_eps: Option<f32>,
    #[serde(deserialize_with = "given")]
    tie_word_embeddings: Option<bool>,
}

/// What is there may be null only where null means something.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(file: D) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(file).map(Some)
}

impl Sizes {
    /// Llama's design in the sizes that config.json gives.
    pub(super) fn design(&self, config: &Config) -> Result<Design> {
        let c: Given = config.fields()?;
        let num_attention_heads = c.num_attention_heads.unwrap_or(self.num_attention_heads);
        Ok(Design {
            vocab_size: c.vocab_size.unwrap_or(self.vocab_size),
            hidden_size: c.hidden_size.unwrap_or(self.hidden_size),
            intermediate_size: c.intermediate_size.unwrap_or(self.intermediate_size),
            num_hidden_layers: c.num_hidden_layers.unwrap_or(self.num_hidden_layers),
            num_attention_heads,
            num_key_value_heads: c
                .num_key_value_heads
                .unwrap_or(self.num_key_value_heads)
                .unwrap_or(num_attention_heads),
            head_dim: c.head_dim.unwrap_or(self.head_dim),
            max_position_embeddings: c.max_position_embeddings.unwrap_or(self.max_position_embeddings),
            hidden_act: c.hidden_act.unwrap_or_else(|| self.hidden_act.to_owned()),
            rms_norm_eps: c.rms_norm_eps.unwrap_or(self.rms_norm_eps),
            tie_word_embeddings: c.tie_word_embeddings.unwrap_or(self.tie_word_embeddings),
            ..Design::default()
        })
    }
}
