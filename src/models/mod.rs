//! What each architecture computes: one file per `model_type` of config.json, and the list of them.
//!
//! A model knows no device, file format or quantisation: it names its tensors and strings layers together. To add one,
//! write `src/models/<model_type>.rs` after the pattern of `gpt2.rs` and add its line to [`ARCHITECTURES`].

mod bloom;
mod checks;
mod classic;
mod decoder;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gpt2;
mod gpt_neo;
mod gpt_neox;
mod gptj;
mod granite;
mod head;
mod layer_types;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod opt;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
mod sizes;
mod smollm3;
mod stablelm;
mod starcoder2;

use std::path::Path;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result, quote};
use crate::nn::Batch;
use crate::source::is_gguf;
use crate::weights::Weights;

/// A network with its weights: immutable, shared by all sequences.
pub trait Model: Send + Sync {
    /// The sizes that the engine plans with.
    fn shape(&self) -> &Shape;

    /// Logits (wanted rows, vocabulary) for a batch whose tokens and positions the engine has checked.
    fn forward(&self, batch: &mut Batch) -> Result<Tensor>;
}

/// What the engine must know of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Entries of the vocabulary, as the head has them.
    pub vocab_size: usize,
    /// Most tokens of a sequence.
    pub context: usize,
    /// Sequences of more tokens than this are turned by other rotary frequencies, from their first token on.
    pub border: Option<usize>,
    /// How many experts a token has, and of how many, where there are any.
    pub experts: Option<(usize, usize)>,
    /// Layers that cache keys and values.
    pub n_layers: usize,
    /// Numbers in one cached row of keys: n_kv_heads · head_dim.
    pub kv_width: usize,
    /// Numbers in a token's queries: n_heads · head_dim.
    pub q_width: usize,
}

/// One supported architecture.
pub struct Architecture {
    /// config.json's `model_type`.
    pub model_type: &'static str,
    /// config.json's entry in `architectures`.
    pub class: &'static str,
    /// The published models that are of this architecture, for README's table.
    pub models: &'static str,
    /// Refuses a config.json that contradicts itself or asks for what is not supported, before any weight is fetched.
    pub(crate) check: fn(&Config) -> Result<()>,
    /// config.json with nothing left to be inferred, for other formats: defaults are filled in, of several spellings one is
    /// left, `layer_types` are listed, and rotary positions are as [`rope::explicit`] says.
    pub(crate) complete: fn(&Config) -> Result<Value>,
    /// Builds the model from config.json and the weights.
    pub(crate) load: fn(&Config, &Weights) -> Result<Box<dyn Model>>,
}

/// Every architecture that can be loaded.
pub const ARCHITECTURES: &[Architecture] = &[
    bloom::ARCHITECTURE,
    falcon::ARCHITECTURE,
    gemma::ARCHITECTURE,
    gemma2::ARCHITECTURE,
    gemma3_text::WITH_VISION,
    gemma3_text::ARCHITECTURE,
    gpt2::ARCHITECTURE,
    gpt_neo::ARCHITECTURE,
    gpt_neox::ARCHITECTURE,
    gptj::ARCHITECTURE,
    granite::ARCHITECTURE,
    llama::ARCHITECTURE,
    mistral::ARCHITECTURE,
    mixtral::ARCHITECTURE,
    olmo2::ARCHITECTURE,
    opt::ARCHITECTURE,
    phi::ARCHITECTURE,
    phi3::ARCHITECTURE,
    qwen2::ARCHITECTURE,
    qwen3::ARCHITECTURE,
    qwen3_moe::ARCHITECTURE,
    smollm3::ARCHITECTURE,
    stablelm::ARCHITECTURE,
    starcoder2::ARCHITECTURE,
];

/// A parsed config.json, and where it came from.
pub struct Config<'a> {
    /// The file, for messages.
    pub path: &'a Path,
    /// What it says.
    pub json: Value,
}

impl<'a> Config<'a> {
    /// Parses config.json.
    pub fn parse(path: &'a Path, text: &str) -> Result<Config<'a>> {
        let json: Value = serde_json::from_str(text).map_err(|error| {
            Error::file(path, format!("expected JSON: {error}"), "the file is damaged; copy it again")
        })?;
        if !json.is_object() {
            return Err(Error::file(path, "expected a JSON object", "the file is damaged; copy it again"));
        }
        Ok(Config { path, json })
    }

    /// The architecture that runs this model.
    pub fn architecture(&self) -> Result<&'static Architecture> {
        let class = self.json["architectures"][0].as_str();
        let model_type = self.json["model_type"].as_str();
        let found = match (model_type, class) {
            (Some(model_type), Some(class)) => {
                ARCHITECTURES.iter().find(|a| a.model_type == model_type && a.class == class)
            }
            (Some(model_type), None) => ARCHITECTURES.iter().find(|a| a.model_type == model_type),
            (None, Some(class)) => ARCHITECTURES.iter().find(|a| a.class == class),
            (None, None) => {
                return Err(Error::file(
                    self.path,
                    "expected `model_type` or `architectures`, found neither",
                    "this is not the config.json of a language model",
                ));
            }
        };
        if let Some(known) = ARCHITECTURES.iter().find(|a| found.is_none() && Some(a.class) == class) {
            let (class, model_type) = (known.class, quote(model_type.unwrap_or_default()));
            return Err(
                self.wrong(format!("expected `model_type` `{}` for {class}, found {model_type}", known.model_type))
            );
        }
        found.ok_or_else(|| {
            let supported: Vec<&str> = ARCHITECTURES.iter().map(|a| a.class).collect();
            let named = quote(class.or(model_type).unwrap_or_default());
            Error::unsupported(
                self.path,
                format!("architecture {named} is not supported"),
                format!("supported architectures are {}; ARCHITECTURE.md says how to add one", supported.join(", ")),
            )
        })
    }

    /// The same config with fields under their own names, unless two names of one field have two values.
    pub fn renamed(&self, aliases: &[(&str, &str)]) -> Result<Config<'a>> {
        let mut json = self.json.clone();
        let of_number = |value: &Value| value.as_f64();
        for (alias, name) in aliases {
            let Some(value) = json.as_object_mut().and_then(|object| object.remove(*alias)) else { continue };
            let own = &json[*name];
            if !own.is_null() && !value.is_null() && *own != value && of_number(own) != of_number(&value) {
                let (own, value) = (quote(&own.to_string()), quote(&value.to_string()));
                return Err(self.wrong(format!("`{alias}` is {value} and `{name}`, which is the same, {own}")));
            }
            if own.is_null() {
                json[*name] = value;
            }
        }
        Ok(Config { path: self.path, json })
    }

    /// The same config with `defaults`, a config struct's, where it is silent.
    pub fn completed(&self, defaults: impl Serialize) -> Config<'a> {
        let mut json = self.json.clone();
        let defaults = serde_json::to_value(defaults).unwrap_or_default();
        if let (Some(object), Value::Object(defaults)) = (json.as_object_mut(), defaults) {
            defaults.into_iter().for_each(|(name, value)| _ = object.entry(name).or_insert(value));
        }
        Config { path: self.path, json }
    }

    /// The same config with `name` as its older name says, which counts before it.
    pub fn with_older(&self, older: &str, name: &str) -> Config<'a> {
        let mut json = self.json.clone();
        if !json[older].is_null() {
            json[name] = json[older].take();
        }
        Config { path: self.path, json }
    }

    /// The fields that an architecture reads.
    pub fn fields<T: for<'de> Deserialize<'de>>(&self) -> Result<T> {
        T::deserialize(&self.json).map_err(|error| {
            // serde does not say where. It reads in the file's order, and no field must be there: the first that fails alone.
            let mut fields = self.json.as_object().into_iter().flatten();
            let culprit = fields.find(|(name, value)| T::deserialize(json!({ *name: value })).is_err());
            match culprit {
                Some((name, _)) => self.wrong(format!("{}: {error}", quote(name))),
                None => self.wrong(error.to_string()),
            }
        })
    }

    /// The same config with a field that it may lack.
    pub fn or(&self, name: &str, value: Value) -> Config<'a> {
        let mut json = self.json.clone();
        if json[name].is_null() {
            json[name] = value;
        }
        Config { path: self.path, json }
    }

    /// Refuses a number that has to be above 0.
    pub fn above_zero(&self, name: &str, value: Option<f32>) -> Result<()> {
        match value {
            Some(value) if !(value > 0.0 && value.is_finite()) => {
                Err(self.wrong(format!("expected `{name}` above 0, found {value}")))
            }
            _ => Ok(()),
        }
    }

    /// A config.json that contradicts itself.
    pub fn wrong(&self, problem: impl Into<String>) -> Error {
        let hint = match is_gguf(&self.path.to_string_lossy()) {
            true => "the file's metadata are damaged; take another copy of the model",
            false => "config.json is damaged or belongs to another model",
        };
        Error::file(self.path, problem, hint)
    }

    /// A config.json that asks for what this version does not do.
    pub fn unsupported(&self, problem: impl Into<String>) -> Error {
        Error::unsupported(self.path, problem, "take a model without it, or open an issue that names the model")
    }
}
