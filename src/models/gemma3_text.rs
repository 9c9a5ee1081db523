//! Gemma 3, and the text half of its larger models: Gemma 2 without caps of scores, with norms of queries and keys, five
//! layers with a window to one without, and rotary positions of their own for those.
//!
//! Gemma Team 2025, "Gemma 3 Technical Report".

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::decoder::{Decoder, Design, HeadNorms, Norms, norm_centre};
use super::layer_types::LayerTypes;
use super::rope::{self, Rotation};
use super::sizes::Sizes;
use super::{Architecture, Config, checks};
use crate::error::Result;
use crate::nn::Bias;

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    models: "Gemma 3 (270M, 1B)",
    check: |config| design(config)?.check(config).map(drop),
    complete,
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// The models that see: their text half alone is loaded.
pub(super) const WITH_VISION: Architecture = Architecture {
    model_type: "gemma3",
    class: "Gemma3ForConditionalGeneration",
    models: "Gemma 3 (4B, 12B, 27B), their text half",
    check: |config| {
        let text = text_of(config)?;
        design(&text)?.check(&text).map(drop)
    },
    complete: |config| {
        let mut json = complete(&text_of(config)?)?;
        json["model_type"] = json!(ARCHITECTURE.model_type);
        for name in
            ["bos_token_id", "eos_token_id", "pad_token_id"].iter().filter(|name| !config.json[**name].is_null())
        {
            json[*name] = config.json[*name].clone();
        }
        Ok(json)
    },
    load: |config, weights| {
        let text = text_of(config)?;
        for seeing in ["vision_tower", "multi_modal_projector", "model.vision_tower", "model.multi_modal_projector"] {
            weights.at(seeing).ignore();
        }
        // The newer spelling, in which the whole model is behind one more name.
        let newer = weights.at("model.language_model");
        let text_weights = if newer.at("norm.weight").exists() { newer } else { weights.at("language_model") };
        Decoder::load(&design(&text)?, &text, &text_weights)
    },
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 262_208,
    hidden_size: 2304,
    intermediate_size: 9216,
    num_hidden_layers: 26,
    num_attention_heads: 8,
    num_key_value_heads: Some(4),
    head_dim: Some(256),
    max_position_embeddings: 131_072,
    hidden_act: "gelu_pytorch_tanh",
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
};

/// config.json, in its own spelling; absent fields have transformers' defaults.
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Gemma3Config {
    hidden_activation: String,
    attention_bias: bool,
    /// Scores are divided by its root.
    query_pre_attn_scalar: f32,
    /// Tokens that a token of a layer with a window sees, itself included.
    sliding_window: Option<usize>,
    layer_types: LayerTypes,
    /// Where `layer_types` does not say, each of these has one layer without a window, the last.
    sliding_window_pattern: usize,
    /// `rope_theta` of layers with a window.
    rope_local_base_freq: f64,
    final_logit_softcapping: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    use_bidirectional_attention: Option<bool>,
}

impl Default for Gemma3Config {
    fn default() -> Self {
        Gemma3Config {
            hidden_activation: DEFAULTS.hidden_act.to_owned(),
            attention_bias: false,
            query_pre_attn_scalar: 256.0,
            sliding_window: Some(4096),
            layer_types: LayerTypes::default(),
            sliding_window_pattern: 6,
            rope_local_base_freq: 10_000.0,
            final_logit_softcapping: None,
            attn_logit_softcapping: None,
            use_bidirectional_attention: None,
        }
    }
}

/// The text half of a config.json; all of it where it is not divided.
fn text_of<'a>(config: &Config<'a>) -> Result<Config<'a>> {
    let json = match &config.json["text_config"] {
        Value::Object(text) => Value::Object(text.clone()),
        Value::Null => config.json.clone(),
        other => return Err(config.wrong(format!("expected an object as `text_config`, found {other}"))),
    };
    // transformers takes it from the file and does nothing with it.
    if !json["final_logit_softcapping"].is_null() {
        return Err(config.unsupported("`final_logit_softcapping` is not supported for `model_type` `gemma3`"));
    }
    Ok(Config { path: config.path, json })
}

fn design(config: &Config) -> Result<Design> {
    let c: Gemma3Config = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    c.layer_types.check(config, llama.num_hidden_layers, c.sliding_window)?;
    if c.use_bidirectional_attention == Some(true) {
        return Err(config.unsupported("`use_bidirectional_attention` is not supported"));
    }
    // transformers reads it and does nothing with it.
    if c.attn_logit_softcapping.is_some() {
        return Err(config.unsupported("`attn_logit_softcapping` is not supported for `model_type` `gemma3_text`"));
    }
    if c.sliding_window_pattern == 0 {
        return Err(config.wrong("expected a `sliding_window_pattern` of at least 1, found 0"));
    }
    checks::activation(config, "hidden_activation", &c.hidden_activation)?;
    config.above_zero("query_pre_attn_scalar", Some(c.query_pre_attn_scalar))?;
    config.above_zero("final_logit_softcapping", c.final_logit_softcapping)?;
    let rotations = rotations(config, &llama, c.rope_local_base_freq)?;
    let bias = if c.attention_bias { Bias::With } else { Bias::Without };
    let pattern = c.sliding_window_pattern;
    let slides = move |layer: usize| c.layer_types.slides(layer, has_window(pattern, layer));
    let slides = std::rc::Rc::new(slides);
    let turns = std::rc::Rc::clone(&slides);
    Ok(Design {
        hidden_act: c.hidden_activation,
        qkv_bias: bias,
        output_bias: bias,
        norms: Norms::Around,
        norm_centre: norm_centre(config),
        head_norms: HeadNorms::Each,
        score_scale: Some(c.query_pre_attn_scalar.sqrt().recip()),
        logit_cap: c.final_logit_softcapping,
        embedding_scale: (llama.hidden_size as f64).sqrt() as f32,
        window: Box::new(move |layer| c.sliding_window.filter(|_| slides(layer))),
        rotations,
        rotation: Box::new(move |layer| Some(usize::from(turns(layer)))),
        ..llama
    })
}

/// The rotation of layers without a window, and of those with one.
fn rotations(config: &Config, llama: &Design, local: f64) -> Result<Vec<Rotation>> {
    let [full, sliding] = parameters(config, llama, local)?;
    let rotation = |config: Config| rope::whole(&config, llama.head_dim(), llama.max_position_embeddings);
    Ok(vec![rotation(full)?, rotation(sliding)?])
}

/// What is said of the rotation of either. Newer files have `rope_parameters` by kind of layer; older ones have `rope_theta`
/// and `rope_scaling` for the first and `rope_local_base_freq` for the second.
fn parameters<'a>(config: &Config<'a>, llama: &Design, local: f64) -> Result<[Config<'a>; 2]> {
    let json = &config.json;
    let given = |kind: &str| json["rope_parameters"][kind].as_object().cloned().unwrap_or_default();
    let (mut full, mut sliding) = (given("full_attention"), given("sliding_attention"));
    if let Some(flat) = json["rope_parameters"].as_object().filter(|_| full.is_empty() && sliding.is_empty())
        && !flat.is_empty()
    {
        return Err(config.unsupported("`rope_parameters` that are not listed by kind of layer are not supported"));
    }
    match &json["rope_scaling"] {
        Value::Null => {}
        Value::Object(scaling) => full.extend(scaling.clone()),
        other => return Err(config.wrong(format!("expected an object as `rope_scaling`, found {other}"))),
    }
    let theta = if json["rope_theta"].is_null() { json!(1_000_000.0) } else { json["rope_theta"].clone() };
    full.entry("rope_theta").or_insert(theta);
    sliding.entry("rope_theta").or_insert(json!(local));
    let alone = |parameters: Map<String, Value>| {
        let json = json!({ "rope_parameters": parameters, "partial_rotary_factor": json["partial_rotary_factor"],
                           "head_dim": llama.head_dim(), "max_position_embeddings": llama.max_position_embeddings });
        Config { path: config.path, json }
    };
    Ok([alone(full), alone(sliding)])
}

/// In the older spelling. A scaling of layers with a window, for which it has none, is under `rope_local_scaling`.
fn complete(config: &Config) -> Result<Value> {
    let config = config.completed(&DEFAULTS).completed(Gemma3Config::default());
    let (c, llama): (Gemma3Config, _) = (config.fields()?, DEFAULTS.design(&config)?);
    let [full, sliding] = parameters(&config, &llama, c.rope_local_base_freq)?;
    let (full, sliding) = (rope::explicit(&full, 1.0)?, rope::explicit(&sliding, 1.0)?);
    let mut json = config.json;
    for name in ["rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor"] {
        json[name] = full[name].clone();
    }
    json["rope_local_base_freq"] = sliding["rope_theta"].clone();
    json["rope_local_scaling"] = sliding["rope_scaling"].clone();
    let slides = |layer| has_window(c.sliding_window_pattern, layer);
    json["layer_types"] = json!(c.layer_types.listed(llama.num_hidden_layers, slides));
    Ok(json)
}

/// Whether a layer has a window, where `layer_types` does not say.
fn has_window(pattern: usize, layer: usize) -> bool {
    !(layer + 1).is_multiple_of(pattern)
}
