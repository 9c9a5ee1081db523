//! Rotary positions as config.json describes them: `rope_theta`, `rope_scaling`, `rope_parameters` → frequencies.
//!
//! Su et al. 2021. Pair i of a head of d numbers turns by `theta^(-2i/d)` a position; `rope_scaling` slows some pairs down
//! so that a model reaches further than it was trained. Computed in the steps and roundings of transformers, since an
//! angle is a frequency times up to a hundred thousand.

use std::f32::consts::TAU;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Config;
use crate::error::{Result, quote};
use crate::kernels::Pairing;

/// The fields of config.json, at its top.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    rope_theta: Option<f64>,
    rope_scaling: Option<Parameters>,
    rope_parameters: Option<Parameters>,
    partial_rotary_factor: Option<f64>,
}

/// The fields of `rope_scaling`, and of `rope_parameters`, which is the newer name.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// How frequencies are slowed down.
enum Scaling {
    Default,
    /// All of them alike.
    Linear {
        factor: f32,
    },
    /// Those whose wave is long beside the context of the training, with a ramp between (Llama 3.1).
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: f32,
    },
}

/// Which elements of a head turn together: as transformers has them, unless the weights were put otherwise.
pub(super) fn pairing(config: &Config) -> Pairing {
    match config.json["_rope_pairs"].as_str() {
        Some("neighbours") => Pairing::Neighbours,
        _ => Pairing::Halves,
    }
}

/// One frequency for each pair of a head, fastest first. `context` is `max_position_embeddings`.
pub(super) fn frequencies(config: &Config, head_dim: usize, context: usize) -> Result<Vec<f32>> {
    let fields: Fields = config.fields()?;
    // As in transformers the older name counts where both are there, and what is inside counts before what is outside.
    let (name, given) = match (fields.rope_scaling, fields.rope_parameters) {
        (Some(scaling), _) => ("rope_scaling", scaling),
        (None, Some(parameters)) => ("rope_parameters", parameters),
        (None, None) => ("rope_scaling", Parameters::default()),
    };
    const THETA: f64 = 10_000.0; // Su et al.; transformers' default
    let theta = given.rope_theta.or(fields.rope_theta).unwrap_or(THETA);
    if !(theta > 0.0 && theta.is_finite()) {
        return Err(config.wrong(format!("expected `rope_theta` above 0, found {theta}")));
    }
    if let Some(part) = given.partial_rotary_factor.or(fields.partial_rotary_factor).filter(|part| *part != 1.0) {
        return Err(config.unsupported(format!("`partial_rotary_factor` of {part} is not supported, only 1 is")));
    }
    if let Some(field) = given.others.keys().next() {
        return Err(config.unsupported(format!("the field {} of `{name}` is not supported", quote(field))));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(config.wrong(format!("expected an even `head_dim`, found {head_dim}")));
    }
    let scaling = given.scaling(config, name, context)?;
    let plain = (0..head_dim / 2).map(|pair| {
        let exponent = (2 * pair) as f32 / head_dim as f32;
        1.0 / theta.powf(f64::from(exponent)) as f32
    });
    Ok(plain.map(|frequency| scaling.of(frequency)).collect())
}

impl Parameters {
    fn scaling(&self, config: &Config, name: &str, context: usize) -> Result<Scaling> {
        let number = |field: &str, value: Option<f64>| match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value as f32),
            Some(value) => Err(config.wrong(format!("expected `{field}` of `{name}` above 0, found {value}"))),
            None => Err(config.wrong(format!("expected `{field}` in `{name}`, found none"))),
        };
        let kind = self.rope_type.as_deref().or(self.old_type.as_deref()).unwrap_or("default");
        match kind {
            "default" => Ok(Scaling::Default),
            "linear" => Ok(Scaling::Linear { factor: number("factor", self.factor)? }),
            "llama3" => {
                let low_freq_factor = number("low_freq_factor", self.low_freq_factor)?;
                let high_freq_factor = number("high_freq_factor", self.high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(config.wrong(format!(
                        "expected a `high_freq_factor` above `low_freq_factor`, found {high_freq_factor} and {low_freq_factor}"
                    )));
                }
                let original = self.original_max_position_embeddings.or(Some(context as f64));
                Ok(Scaling::Llama3 {
                    factor: number("factor", self.factor)?,
                    low_freq_factor,
                    high_freq_factor,
                    original_context: number("original_max_position_embeddings", original)?,
                })
            }
            _ => Err(config.unsupported(format!(
                "`{name}` of type {} is not supported, only default, linear and llama3 are",
                quote(kind)
            ))),
        }
    }
}

impl Scaling {
    fn of(&self, frequency: f32) -> f32 {
        match *self {
            Scaling::Default => frequency,
            Scaling::Linear { factor } => frequency / factor,
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wave = TAU / frequency;
                if wave > original_context / low_freq_factor {
                    frequency / factor
                } else if wave < original_context / high_freq_factor {
                    frequency
                } else {
                    let smooth = (original_context / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn frequencies(json: Value, head_dim: usize) -> Result<Vec<f32>> {
        super::frequencies(&Config { path: Path::new("config.json"), json }, head_dim, 4096)
    }

    #[test]
    fn frequencies_of_published_models_are_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rope.json");
        let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON");
        let cases = fixture["cases"].as_array().expect("a list");
        assert!(cases.len() >= 7);
        for case in cases {
            let config = &case["config"];
            let head_dim = config["head_dim"].as_u64().expect("a number") as usize;
            let expected: Vec<f32> = serde_json::from_value(case["inv_freq"].clone()).expect("a list");
            let found = frequencies(config.clone(), head_dim).expect("frequencies");
            // torch's power of f32 is off by the last bit now and then.
            let near = |a: &f32, b: &f32| a.to_bits().abs_diff(b.to_bits()) <= 1;
            let same = found.iter().zip(&expected).filter(|(a, b)| a == b).count();
            assert!(found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| near(a, b)), "{case}");
            assert!(same * 10 >= found.len() * 9, "{}: {same} of {}", case["name"], found.len());
        }
    }

    #[test]
    fn what_is_inside_counts_before_what_is_outside_and_the_older_name_before_the_newer() {
        let check = |json: Value, expected: Value| {
            assert_eq!(frequencies(json.clone(), 8).unwrap(), frequencies(expected, 8).unwrap(), "{json}");
        };
        check(json!({}), json!({ "rope_theta": 10000, "rope_scaling": null }));
        check(json!({ "rope_theta": 5, "rope_parameters": { "rope_theta": 300.0 } }), json!({ "rope_theta": 300 }));
        check(
            json!({ "rope_theta": 7, "rope_scaling": { "type": "linear", "factor": 2 }, "rope_parameters": { "rope_theta": 3 } }),
            json!({ "rope_parameters": { "rope_theta": 7, "rope_type": "linear", "factor": 2 } }),
        );
        let llama3 = |original: Value| {
            json!({ "rope_scaling": { "rope_type": "llama3", "factor": 4, "low_freq_factor": 1,
                                                                 "high_freq_factor": 4, "original_max_position_embeddings": original } })
        };
        check(llama3(Value::Null), llama3(json!(4096)));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let check = |json: Value, words: &[&str]| {
            let message = frequencies(json.clone(), 8).expect_err("an error").to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{json}: {message}");
        };
        for kind in ["dynamic", "yarn", "longrope", "su", "mrope"] {
            check(json!({ "rope_scaling": { "type": kind, "factor": 2.0 } }), &["rope_scaling", kind, "not supported"]);
        }
        check(
            json!({ "rope_parameters": { "rope_type": "linear" } }),
            &["`factor`", "`rope_parameters`", "found none"],
        );
        check(json!({ "rope_scaling": { "type": "linear", "factor": 0 } }), &["`factor`", "found 0"]);
        check(json!({ "rope_scaling": { "type": "linear", "factor": "x" } }), &["rope_scaling", "x"]);
        check(
            json!({ "rope_scaling": { "rope_type": "default", "beta_fast": 32 } }),
            &["`beta_fast`", "`rope_scaling`"],
        );
        check(json!({ "rope_parameters": { "full_attention": { "rope_type": "default" } } }), &["`full_attention`"]);
        check(json!({ "rope_theta": 0 }), &["`rope_theta`", "found 0"]);
        check(json!({ "partial_rotary_factor": 0.5 }), &["`partial_rotary_factor`", "0.5"]);
        let llama3 = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1 });
        check(json!({ "rope_scaling": llama3 }), &["`high_freq_factor`", "1 and 4"]);
        let error = frequencies(json!({}), 7).expect_err("an odd head").to_string();
        assert!(error.contains("`head_dim`") && error.contains('7'), "{error}");
    }
}
