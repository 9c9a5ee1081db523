//! SmolLM3: Llama's network in which some layers are not told positions.
//!
//! Bakouch et al. 2025, "SmolLM3"; Yang et al. 2025, "Rope to Nope and Back Again".

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::decoder::{Decoder, Design};
use super::layer_types::LayerTypes;
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "smollm3",
    class: "SmolLM3ForCausalLM",
    models: "SmolLM3 3B",
    check: |config| design(config)?.check(&config.or("rope_theta", json!(2_000_000))).map(drop),
    complete: |config| {
        let config = config.completed(&DEFAULTS).completed(SmolLm3Config::default()).or("rope_theta", json!(2_000_000));
        let (c, layers): (SmolLm3Config, _) = (config.fields()?, DEFAULTS.design(&config)?.num_hidden_layers);
        let mut json = rope::explicit(&config, 1.0)?;
        let turns = |layer| u8::from(has_rope(&c.no_rope_layers, c.no_rope_layer_interval, layer));
        json["no_rope_layers"] = json!((0..layers).map(turns).collect::<Vec<_>>());
        Ok(json)
    },
    load: |config, weights| Decoder::load(&design(config)?, &config.or("rope_theta", json!(2_000_000)), weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 128_256,
    hidden_size: 2048,
    intermediate_size: 11008,
    num_hidden_layers: 36,
    num_attention_heads: 16,
    num_key_value_heads: Some(4),
    head_dim: None,
    max_position_embeddings: 32768,
    hidden_act: "silu",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
};

/// config.json, in its own spelling; absent fields have transformers' defaults. Rotary positions are read by
/// [`rope`](super::rope).
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct SmolLm3Config {
    attention_bias: bool,
    mlp_bias: bool,
    use_sliding_window: bool,
    /// Tokens that a token of a layer with a window sees, itself included.
    sliding_window: Option<usize>,
    /// Layers without positions have a window where it does not say.
    layer_types: LayerTypes,
    /// Of each layer 0 if it is not told positions, else 1.
    no_rope_layers: Option<Vec<u8>>,
    /// Where that is not given, each of these has one layer without positions, the last.
    no_rope_layer_interval: usize,
}

impl Default for SmolLm3Config {
    fn default() -> Self {
        SmolLm3Config {
            attention_bias: false,
            mlp_bias: false,
            use_sliding_window: false,
            sliding_window: None,
            layer_types: LayerTypes::default(),
            no_rope_layers: None,
            no_rope_layer_interval: 4,
        }
    }
}

fn design(config: &Config) -> Result<Design> {
    let c: SmolLm3Config = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    let window = c.sliding_window.filter(|_| c.use_sliding_window);
    c.layer_types.check(config, llama.num_hidden_layers, window)?;
    if c.no_rope_layer_interval == 0 {
        return Err(config.wrong("expected a `no_rope_layer_interval` of at least 1, found 0"));
    }
    if let Some(found) = c.no_rope_layers.as_ref().map(Vec::len).filter(|found| *found < llama.num_hidden_layers) {
        let expected = llama.num_hidden_layers;
        return Err(config.wrong(format!("expected {expected} `no_rope_layers`, one a layer, found {found}")));
    }
    let (layers, interval) = (c.no_rope_layers, c.no_rope_layer_interval);
    let turns = std::rc::Rc::new(move |layer: usize| has_rope(&layers, interval, layer));
    let unturned = std::rc::Rc::clone(&turns);
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    Ok(Design {
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: if c.mlp_bias { Bias::With } else { Bias::Without },
        window: Box::new(move |layer| window.filter(|_| c.layer_types.slides(layer, !unturned(layer)))),
        rotation: Box::new(move |layer| turns(layer).then_some(0)),
        ..llama
    })
}

/// Whether a layer is told positions.
fn has_rope(layers: &Option<Vec<u8>>, interval: usize, layer: usize) -> bool {
    match layers {
        Some(layers) => layers.get(layer).is_some_and(|has_rope| *has_rope != 0),
        None => !(layer + 1).is_multiple_of(interval),
    }
}
