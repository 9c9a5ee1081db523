//! Rotary positions as config.json describes them: `rope_theta`, `rope_scaling`, `rope_parameters` → frequencies.
//!
//! Su et al. 2021. Pair i of a head of d numbers turns by `theta^(-2i/d)` a position; `rope_scaling` slows some pairs down
//! so that a model reaches further than it was trained. Computed in the steps and roundings of transformers, since an
//! angle is a frequency times up to a hundred thousand.
//!
//! * `dynamic` changes frequencies for sequences longer than `max_position_embeddings` only. That is the most that a
//!   sequence may have here, so it changes nothing.
//! * `longrope` (Ding et al. 2024) has two sets of frequencies, and a sequence's length decides between them: see
//!   [`Rope`].

mod explicit;
mod llama3;

pub(super) use explicit::explicit;

use serde::Deserialize;

use self::llama3::Llama3;
use super::{Config, checks};
use crate::error::{Result, quote};
use crate::kernels::Pairing;
use crate::nn::Rope;

/// How the heads of a model are turned.
#[derive(Debug, PartialEq)]
pub(super) struct Rotation {
    /// One frequency for each pair, fastest first.
    pub(super) frequencies: Vec<f32>,
    /// Other frequencies for sequences of more tokens than this.
    pub(super) long: Option<(usize, Vec<f32>)>,
    /// What cosines and sines are multiplied by.
    pub(super) factor: f32,
}

impl Rotation {
    /// For `positions` positions.
    pub(super) fn rope(&self, pairing: Pairing, positions: usize) -> Rope {
        let rope = Rope::new(self.frequencies.clone(), pairing, self.factor, positions);
        match &self.long {
            Some((most, frequencies)) => rope.with_long(*most, frequencies.clone()),
            None => rope,
        }
    }
}

/// Which elements of a head turn together: as transformers has them, unless the rows of queries and keys were put
/// otherwise, as GGUF files of some architectures have them.
pub(super) fn pairing(config: &Config) -> Pairing {
    match config.json["_rope_pairs"].as_str() {
        Some("neighbours") => Pairing::Neighbours,
        _ => Pairing::Halves,
    }
}

/// The fields of config.json, at its top.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    rope_theta: Option<f64>,
    rope_scaling: Option<Parameters>,
    rope_parameters: Option<Parameters>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
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
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
    factors: Option<Vec<f32>>,
}

/// Frequencies divided by a number each, which a GGUF file has in a tensor.
const FACTORS: &str = "_factors";

/// Fields that every kind may have.
const SHARED: &[&str] = &["rope_type", "type", "rope_theta", "partial_rotary_factor"];

/// The kinds of scaling, and the fields that each reads beside those.
const KINDS: &[(&str, &[&str])] = &[
    ("default", &[]),
    ("linear", &["factor"]),
    ("dynamic", &["factor"]),
    ("llama3", &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]),
    (
        "yarn",
        &[
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
    ),
    (FACTORS, &["factors"]),
    ("longrope", &["factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"]),
];

/// The rotation of heads that are turned whole, of a model with `context` positions (`max_position_embeddings`).
pub(super) fn whole(config: &Config, head_dim: usize, context: usize) -> Result<Rotation> {
    checks::head_dim(config, head_dim)?;
    let settings = Settings::read(config, context)?;
    if let Some(part) = settings.partial_rotary_factor.filter(|part| *part != 1.0) {
        return Err(config.unsupported(format!("`partial_rotary_factor` of {part} is not supported, only 1 is")));
    }
    if !head_dim.is_multiple_of(2) {
        return Err(config.wrong(format!("expected an even `head_dim`, found {head_dim}")));
    }
    settings.rotation(head_dim)
}

/// The rotation of heads of which config.json's `partial_rotary_factor` says how much is turned, or else `part`.
pub(super) fn partial(config: &Config, head_dim: usize, context: usize, part: f64) -> Result<Rotation> {
    checks::head_dim(config, head_dim)?;
    let settings = Settings::read(config, context)?;
    let part = settings.partial_rotary_factor.unwrap_or(part);
    if !(part > 0.0 && part <= 1.0) {
        return Err(config.wrong(format!("expected a `partial_rotary_factor` above 0 and up to 1, found {part}")));
    }
    let turned = (head_dim as f64 * part) as usize;
    if part == 1.0 && !head_dim.is_multiple_of(2) {
        return Err(config.wrong(format!("expected an even `head_dim`, found {head_dim}")));
    }
    if !turned.is_multiple_of(2) || turned == 0 {
        return Err(config.wrong(format!(
            "expected `partial_rotary_factor` to turn an even part of a head, found {turned} of {head_dim} numbers"
        )));
    }
    settings.rotation(turned)
}

/// The rotation of `dim` numbers of a head, with nothing that config.json could say of it.
pub(super) fn plain(dim: usize) -> Rotation {
    Rotation { frequencies: periods(THETA, dim).map(|period| 1.0 / period).collect(), long: None, factor: 1.0 }
}

/// Su et al.; transformers' default.
const THETA: f64 = 10_000.0;

/// theta^(2i/d), which frequencies are the inverse of.
fn periods(theta: f64, dim: usize) -> impl Iterator<Item = f32> {
    (0..dim / 2).map(move |pair| {
        let exponent = (2 * pair) as f32 / dim as f32;
        theta.powf(f64::from(exponent)) as f32
    })
}

/// What config.json says, with what follows where it is silent.
struct Settings<'a> {
    config: &'a Config<'a>,
    /// Which of the two names is used.
    name: &'static str,
    kind: &'static str,
    given: Parameters,
    theta: f64,
    partial_rotary_factor: Option<f64>,
    context: usize,
    original_context: f64,
}

impl<'a> Settings<'a> {
    fn read(config: &'a Config<'a>, context: usize) -> Result<Settings<'a>> {
        let fields: Fields = config.fields()?;
        // As in transformers the older name counts where both are there, and what is inside counts before what is outside;
        // the original context is the other way round.
        let (name, given) = match (fields.rope_scaling, fields.rope_parameters) {
            (Some(scaling), _) => ("rope_scaling", scaling),
            (None, Some(parameters)) => ("rope_parameters", parameters),
            (None, None) => ("rope_scaling", Parameters::default()),
        };
        let theta = given.rope_theta.or(fields.rope_theta).unwrap_or(THETA);
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(config.wrong(format!("expected `rope_theta` above 0, found {theta}")));
        }
        let kind = given.rope_type.as_deref().or(given.old_type.as_deref()).unwrap_or("default");
        let Some((kind, reads)) = KINDS.iter().find(|(known, _)| *known == kind) else {
            let known: Vec<&str> = KINDS.iter().map(|(kind, _)| *kind).filter(|kind| *kind != FACTORS).collect();
            return Err(config.unsupported(format!(
                "`{name}` of type {} is not supported, only {} are",
                quote(kind),
                known.join(", ")
            )));
        };
        let is_read = |field: &str| SHARED.contains(&field) || reads.contains(&field);
        let said = config.json[name].as_object().into_iter().flatten();
        if let Some((field, _)) = said.filter(|(_, value)| !value.is_null()).find(|(field, _)| !is_read(field)) {
            let problem = format!("the field {} of `{name}` is not supported for type {kind}", quote(field));
            return Err(config.unsupported(problem));
        }
        let original = fields.original_max_position_embeddings.or(given.original_max_position_embeddings);
        let mut settings = Settings {
            config,
            name,
            kind,
            theta,
            partial_rotary_factor: given.partial_rotary_factor.or(fields.partial_rotary_factor),
            given,
            context,
            original_context: context as f64,
        };
        settings.original_context =
            settings.number("original_max_position_embeddings", Some(original.unwrap_or(context as f64)))?;
        Ok(settings)
    }

    /// A field that must be there and be above 0.
    fn number(&self, field: &str, value: Option<f64>) -> Result<f64> {
        let name = self.name;
        match value {
            Some(value) if value > 0.0 && value.is_finite() => Ok(value),
            Some(value) => Err(self.config.wrong(format!("expected `{field}` of `{name}` above 0, found {value}"))),
            None => Err(self.config.wrong(format!("expected `{field}` in `{name}`, found none"))),
        }
    }

    /// The same of a field that may be absent.
    fn optional(&self, field: &str, value: Option<f64>) -> Result<Option<f64>> {
        value.map(|value| self.number(field, Some(value))).transpose()
    }

    /// Of `dim` numbers.
    fn rotation(&self, dim: usize) -> Result<Rotation> {
        let given = &self.given;
        let periods = periods(self.theta, dim);
        let (mut long, mut factor) = (None, 1.0);
        let frequencies = match self.kind {
            "linear" => {
                let factor = self.number("factor", given.factor)? as f32;
                periods.map(|period| 1.0 / period / factor).collect()
            }
            FACTORS => {
                let factors = given.factors.as_deref().unwrap_or_default();
                if factors.len() != dim / 2 {
                    let problem = format!("expected {} factors of frequencies, found {}", dim / 2, factors.len());
                    return Err(self.config.wrong(problem));
                }
                periods.zip(factors).map(|(period, factor)| 1.0 / period / factor).collect()
            }
            "dynamic" => {
                self.number("factor", given.factor)?;
                periods.map(|period| 1.0 / period).collect()
            }
            "llama3" => {
                let llama3 = self.llama3()?;
                periods.map(|period| llama3.of(1.0 / period)).collect()
            }
            "yarn" => {
                factor = self.yarn_attention()? as f32;
                self.yarn(periods.collect(), dim)?
            }
            "longrope" => {
                factor = self.longrope_attention()? as f32;
                let periods: Vec<f32> = periods.collect();
                long = Some((
                    self.original_context as usize,
                    self.stretched(&periods, "long_factor", &given.long_factor)?,
                ));
                self.stretched(&periods, "short_factor", &given.short_factor)?
            }
            _ => periods.map(|period| 1.0 / period).collect(),
        };
        Ok(Rotation { frequencies, long, factor })
    }

    fn llama3(&self) -> Result<Llama3> {
        let low = self.number("low_freq_factor", self.given.low_freq_factor)? as f32;
        let high = self.number("high_freq_factor", self.given.high_freq_factor)? as f32;
        if high <= low {
            return Err(self
                .config
                .wrong(format!("expected a `high_freq_factor` above `low_freq_factor`, found {high} and {low}")));
        }
        let factor = self.number("factor", self.given.factor)? as f32;
        Ok(Llama3 { factor, low, high, original_context: self.original_context as f32 })
    }

    /// How many times further than in training.
    fn reach(&self) -> Result<f64> {
        let ratio = self.context as f64 / self.original_context;
        Ok(self.optional("factor", self.given.factor)?.unwrap_or(ratio))
    }

    /// Peng et al. 2023: pairs that turn often in the original context stay, those that turn less than once are slowed down,
    /// with a ramp between.
    fn yarn(&self, periods: Vec<f32>, dim: usize) -> Result<Vec<f32>> {
        let (given, factor) = (&self.given, self.reach()? as f32);
        let fast = self.optional("beta_fast", given.beta_fast)?.unwrap_or(32.0);
        let slow = self.optional("beta_slow", given.beta_slow)?.unwrap_or(1.0);
        if fast < slow || self.theta <= 1.0 {
            return Err(self.config.wrong(format!(
                "expected a `beta_fast` above `beta_slow` and a `rope_theta` above 1, found {fast}, {slow} and {}",
                self.theta
            )));
        }
        // The pair that makes so many turns in the original context.
        let pair = |turns: f64| {
            dim as f64 * (self.original_context / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (pair(fast), pair(slow));
        if given.truncate.unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let ramp = |pair: usize| ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let of = |(pair, period): (usize, f32)| {
            let kept = 1.0 - ramp(pair);
            1.0 / (factor * period) * (1.0 - kept) + 1.0 / period * kept
        };
        Ok(periods.into_iter().enumerate().map(of).collect())
    }

    /// By how much cosines and sines grow, and scores with their square.
    fn yarn_attention(&self) -> Result<f64> {
        let (given, factor) = (&self.given, self.reach()?);
        let growth = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        if let Some(given) = self.optional("attention_factor", given.attention_factor)? {
            return Ok(given);
        }
        Ok(match (given.mscale, given.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => growth(mscale) / growth(all),
            _ => growth(1.0),
        })
    }

    fn longrope_attention(&self) -> Result<f64> {
        let factor = self.reach()?;
        let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / self.original_context.ln()).sqrt() };
        Ok(self.optional("attention_factor", self.given.attention_factor)?.unwrap_or(default))
    }

    /// Each pair slowed down by a factor of its own.
    fn stretched(&self, periods: &[f32], field: &str, factors: &Option<Vec<f64>>) -> Result<Vec<f32>> {
        let (pairs, name) = (periods.len(), self.name);
        let found = factors.as_ref().map_or(0, Vec::len);
        let Some(factors) = factors.as_ref().filter(|factors| factors.len() == pairs) else {
            let problem = format!("expected {pairs} numbers in `{field}` of `{name}`, one a pair, found {found}");
            return Err(self.config.wrong(problem));
        };
        let of = |(period, factor): (&f32, &f64)| Ok(1.0 / (self.number(field, Some(*factor))? as f32 * period));
        periods.iter().zip(factors).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};

    use super::*;

    fn rotation(json: Value, head_dim: usize) -> Result<Rotation> {
        let context = json["max_position_embeddings"].as_u64().unwrap_or(4096) as usize;
        whole(&Config { path: Path::new("config.json"), json }, head_dim, context)
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
            let list = |name: &str| -> Vec<f32> { serde_json::from_value(case[name].clone()).expect("a list") };
            let found = rotation(config.clone(), head_dim).expect("frequencies");
            assert_eq!(f64::from(found.factor), case["factor"].as_f64().map_or(1.0, |x| f64::from(x as f32)), "{case}");
            let sets = [
                Some((found.frequencies, list("inv_freq"))),
                found.long.map(|(_, long)| (long, list("long_inv_freq"))),
            ];
            for (found, expected) in sets.into_iter().flatten() {
                // torch's power of f32 is off by the last bit now and then.
                let near = |a: &f32, b: &f32| a.to_bits().abs_diff(b.to_bits()) <= 1;
                let same = found.iter().zip(&expected).filter(|(a, b)| a == b).count();
                assert!(
                    found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| near(a, b)),
                    "{case}"
                );
                assert!(same * 10 >= found.len() * 9, "{}: {same} of {}", case["name"], found.len());
            }
        }
    }

    #[test]
    fn what_is_inside_counts_before_what_is_outside_and_the_older_name_before_the_newer() {
        let check = |json: Value, expected: Value| {
            assert_eq!(rotation(json.clone(), 8).unwrap(), rotation(expected, 8).unwrap(), "{json}");
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
            let message = rotation(json.clone(), 8).expect_err("an error").to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{json}: {message}");
        };
        for kind in ["su", "mrope", "proportional"] {
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
        check(json!({ "rope_scaling": { "type": "linear", "factor": 2, "beta_slow": 1 } }), &["`beta_slow`", "linear"]);
        check(json!({ "rope_scaling": { "type": "dynamic" } }), &["`factor`", "found none"]);
        let yarn = |key: &str, value: Value| json!({ "rope_scaling": { "type": "yarn", "factor": 2, key: value } });
        check(yarn("beta_fast", json!(0.5)), &["`beta_fast`", "0.5"]);
        check(yarn("beta_slow", json!(-1)), &["`beta_slow`", "-1"]);
        check(yarn("attention_factor", json!(0)), &["`attention_factor`", "found 0"]);
        check(yarn("original_max_position_embeddings", json!(0)), &["`original_max_position_embeddings`", "found 0"]);
        check(yarn("mscale", json!("x")), &["rope_scaling", "x"]);
        check(yarn("short_factor", json!([1])), &["`short_factor`", "yarn"]);
        let long = |short: Value| json!({ "rope_scaling": { "type": "longrope", "short_factor": short, "long_factor": [1, 1, 1, 1] } });
        check(long(json!([1, 1, 1])), &["4 numbers in `short_factor`", "found 3"]);
        check(long(json!([1, 1, 1, 0])), &["`short_factor`", "found 0"]);
        check(long(json!(null)), &["`short_factor`", "found 0"]);
        check(json!({ "rope_parameters": { "full_attention": { "rope_type": "default" } } }), &["`full_attention`"]);
        check(json!({ "rope_theta": 0 }), &["`rope_theta`", "found 0"]);
        check(json!({ "partial_rotary_factor": 0.5 }), &["`partial_rotary_factor`", "0.5"]);
        let llama3 = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1 });
        check(json!({ "rope_scaling": llama3 }), &["`high_freq_factor`", "1 and 4"]);
        let error = rotation(json!({}), 7).expect_err("an odd head").to_string();
        assert!(error.contains("`head_dim`") && error.contains('7'), "{error}");
    }
}
