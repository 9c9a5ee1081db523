//! Phi-3, Phi-3.5 and Phi-4: Llama's network with matrices of one input stored as one, and LongRoPE.
//!
//! Abdin et al. 2024, "Phi-3 Technical Report".

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::decoder::{Decoder, Design};
use super::sizes::Sizes;
use super::{Architecture, Config, rope};
use crate::error::{Result, quote};

pub(super) const ARCHITECTURE: Architecture = Architecture {
    model_type: "phi3",
    class: "Phi3ForCausalLM",
    models: "Phi-3 and Phi-3.5 mini, Phi-3 medium, Phi-4, Phi-4-mini",
    check: |config| design(config)?.check(config).map(drop),
    complete: |config| rope::explicit(&rope_of(&config.completed(&DEFAULTS).completed(Phi3Config::default()))?, 1.0),
    load: |config, weights| Decoder::load(&design(config)?, config, weights),
};

/// transformers' defaults.
const DEFAULTS: Sizes = Sizes {
    vocab_size: 32064,
    hidden_size: 3072,
    intermediate_size: 8192,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: None,
    head_dim: None,
    max_position_embeddings: 4096,
    hidden_act: "silu",
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
};

/// config.json, in its own spelling; absent fields have transformers' defaults.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Phi3Config {
    /// Tokens that a token sees, itself included; null for all.
    sliding_window: Option<usize>,
    /// These three are false in all files, and transformers knows none of them.
    attention_bias: bool,
    mlp_bias: bool,
    lm_head_bias: bool,
}

fn design(config: &Config) -> Result<Design> {
    let c: Phi3Config = config.fields()?;
    let llama = DEFAULTS.design(config)?;
    if c.sliding_window == Some(0) {
        return Err(config.wrong("expected a `sliding_window` of at least 1, or null, found 0"));
    }
    let biases = [("attention_bias", c.attention_bias), ("mlp_bias", c.mlp_bias), ("lm_head_bias", c.lm_head_bias)];
    if let Some((name, _)) = biases.iter().find(|(_, is_set)| *is_set) {
        return Err(config.unsupported(format!("`{name}` is not supported for `model_type` `phi3`")));
    }
    let rotation = rope::partial(&rope_of(config)?, llama.head_dim(), llama.max_position_embeddings, 1.0)?;
    Ok(Design { fused: true, window: Box::new(move |_| c.sliding_window), rotations: vec![rotation], ..llama })
}

/// The config with LongRoPE under its present name, and the context of the training, which is at the top of the file.
fn rope_of<'a>(config: &Config<'a>) -> Result<Config<'a>> {
    let mut json = config.json.clone();
    for name in ["rope_scaling", "rope_parameters"] {
        let Value::Object(scaling) = &mut json[name] else { continue };
        let kind = scaling.get("rope_type").or(scaling.get("type")).and_then(Value::as_str).unwrap_or("default");
        match kind {
            "default" => {}
            "longrope" | "su" | "yarn" => {
                scaling.remove("type");
                scaling.insert("rope_type".to_owned(), json!("longrope"));
            }
            _ => {
                return Err(config.unsupported(format!(
                    "`{name}` of type {} is not supported for `model_type` `phi3`, only longrope is",
                    quote(kind)
                )));
            }
        }
    }
    let inside = |name: &str| json[name]["original_max_position_embeddings"].is_null();
    if json["original_max_position_embeddings"].is_null() && inside("rope_scaling") && inside("rope_parameters") {
        json["original_max_position_embeddings"] = json!(4096);
    }
    Ok(Config { path: config.path, json })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn older_names_of_longrope_mean_the_same() {
        let rotations = |scaling: Value| {
            let json = json!({ "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 8192,
                               "rope_scaling": scaling });
            design(&Config { path: Path::new("config.json"), json }).expect("a design").rotations
        };
        let scaling = |key: &str, kind: &str| json!({ key: kind, "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0] });
        let right = rotations(scaling("rope_type", "longrope"));
        assert_eq!(right[0].long.as_ref().map(|(most, _)| *most), Some(4096), "transformers' default");
        assert!(right[0].factor > 1.0);
        for kind in ["longrope", "su", "yarn"] {
            assert_eq!(rotations(scaling("type", kind)), right, "{kind}");
        }
    }
}
