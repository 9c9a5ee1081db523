//! What config.json says of rotary positions with nothing left to be inferred, for other formats.

use serde_json::{Value, json};

use super::{FACTORS, Settings, periods};
use crate::error::Result;
use crate::models::Config;

/// The config with all that it says of rotary positions in one place each: `rope_theta`, `partial_rotary_factor`, of which
/// the default is `part`, and a `rope_scaling` that leaves nothing to be inferred, null where there is none.
pub(in crate::models) fn explicit(config: &Config, part: f64) -> Result<Value> {
    let size = |name: &str| config.json[name].as_u64().unwrap_or(0) as usize;
    let head_dim = match size("head_dim") {
        0 => size("hidden_size").checked_div(size("num_attention_heads")).unwrap_or(0),
        head_dim => head_dim,
    };
    let settings = Settings::read(config, size("max_position_embeddings"))?;
    let (given, original) = (&settings.given, settings.original_context);
    let scaling = match settings.kind {
        "default" => Value::Null,
        "llama3" => {
            let llama3 = settings.llama3()?;
            let frequencies = periods(settings.theta, head_dim).map(|period| 1.0 / period);
            let factors: Vec<f32> = frequencies.map(|frequency| llama3.divisor(frequency)).collect();
            json!({ "rope_type": FACTORS, "factors": factors })
        }
        "yarn" => json!({
            "rope_type": "yarn", "factor": settings.reach()?, "original_max_position_embeddings": original,
            "attention_factor": settings.yarn_attention()?, "beta_fast": given.beta_fast, "beta_slow": given.beta_slow,
            "truncate": given.truncate.unwrap_or(true),
        }),
        "longrope" => json!({
            "rope_type": "longrope", "original_max_position_embeddings": original,
            "attention_factor": settings.longrope_attention()?,
            "short_factor": given.short_factor, "long_factor": given.long_factor,
        }),
        kind => json!({ "rope_type": kind, "factor": given.factor }),
    };
    let mut json = config.json.clone();
    json["rope_theta"] = json!(settings.theta);
    json["partial_rotary_factor"] = json!(settings.partial_rotary_factor.unwrap_or(part));
    json["rope_scaling"] = scaling;
    json["rope_parameters"] = Value::Null;
    Ok(json)
}
