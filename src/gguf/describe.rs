//! config.json → metadata: the way back from `config.rs`, for files that are written.
//!
//! llama.cpp knows fewer switches than config.json has. What its form of an architecture cannot say is refused by name and
//! not left away.

use std::path::Path;

use serde_json::Value;

use super::config::Field;
use super::families::{FAMILIES, Family, Pairs};
use super::write::Written;
use crate::error::{Error, Result, quote};

/// Activations that a file of the architecture implies.
const IMPLIED: &[(&str, &str, &[&str])] = &[
    ("llama", "hidden_act", &["silu", "swish"]),
    ("qwen2", "hidden_act", &["silu", "swish"]),
    ("qwen3", "hidden_act", &["silu", "swish"]),
    ("gpt2", "activation_function", &["gelu_new", "gelu_pytorch_tanh"]),
];

/// Switches of config.json that a file has no word for, and the one value that it implies. What is absent implies it too.
const SWITCHES: &[(&str, &str, bool)] = &[
    ("gpt2", "scale_attn_weights", true),
    ("gpt2", "scale_attn_by_inverse_layer_idx", false),
    ("gpt2", "reorder_and_upcast_attn", false),
    ("gpt2", "add_cross_attention", false),
    ("qwen2", "use_sliding_window", false),
    ("qwen3", "use_sliding_window", false),
];

/// What transformers takes where config.json is silent.
const DEFAULTS: &[(&str, f64)] = &[("layer_norm_epsilon", 1e-5), ("rms_norm_eps", 1e-6)];

/// What a file says of a model, beside its tokenizer.
pub(crate) struct Description {
    /// Keys and values.
    pub(crate) pairs: Vec<(String, Written)>,
    family: &'static Family,
    /// Query and key heads whose rows are put side by side for rotary positions.
    neighbours: Option<(usize, usize)>,
    /// What the file leaves away, for the user.
    pub(crate) notices: Vec<String>,
}

/// What a file of this model says. `config` is a config.json at `path`, which an architecture has accepted.
pub(crate) fn describe(path: &Path, config: &Value) -> Result<Description> {
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let unsupported = |problem: String| {
        Error::unsupported(path, problem, "keep the model in safetensors; `--quant` quantises it while it is loaded")
    };
    let named = if model_type == "mistral" { "llama" } else { model_type };
    let family = FAMILIES.iter().find(|family| family.model_type == named).filter(|family| {
        IMPLIED.iter().any(|(name, ..)| *name == family.name) // the others are read, and not written yet
    });
    let Some(family) = family else {
        let known: Vec<&str> = IMPLIED.iter().map(|(name, ..)| *name).collect();
        let problem = format!(
            "models of {} cannot be written as GGUF, only {} and mistral can",
            quote(model_type),
            known.join(", ")
        );
        return Err(unsupported(problem));
    };
    for (name, field, values) in IMPLIED {
        if let Some(found) = config[*field].as_str().filter(|found| *name == family.name && !values.contains(found)) {
            return Err(unsupported(format!("a GGUF file cannot say that `{field}` is {}", quote(found))));
        }
    }
    for (name, field, implied) in SWITCHES {
        if let Some(found) = config[*field].as_bool().filter(|found| *name == family.name && found != implied) {
            return Err(unsupported(format!("a GGUF file cannot say that `{field}` is {found}")));
        }
    }
    let mut description = Description { pairs: Vec::new(), family, neighbours: None, notices: Vec::new() };
    description.text("general.architecture", family.name);
    let say = Say { path, config, family };
    for field in family.fields.iter().copied().flatten() {
        say.field(field, &mut description)?;
    }
    if family.name == "gpt2" && say.number("n_inner")?.is_none() {
        description.number("gpt2.feed_forward_length", 4 * say.need("n_embd")?);
    }
    if let Some(window) = say.window()? {
        // The form has no window for this architecture: up to its length both are the same.
        let key = format!("{}.context_length", family.name);
        description.pairs.retain(|(name, _)| *name != key);
        description.number(&key, window);
        description.notices.push(format!(
            "the file says a context of {window} tokens, the model's sliding window, for which its format has no word"
        ));
    }
    if let Some(rows) = config["vocab_size"].as_u64() {
        description.number(&format!("{}.vocab_size", family.name), rows);
    }
    if family.pairs == Pairs::Neighbours {
        let heads = say.need("num_attention_heads")?;
        let kv_heads = say.number("num_key_value_heads")?.unwrap_or(heads);
        description.neighbours = Some((heads as usize, kv_heads as usize));
    }
    Ok(description)
}

impl Description {
    /// The file's name of a tensor.
    pub(crate) fn name_of(&self, name: &str) -> Option<String> {
        // Checkpoints of GPT-2 are published with and without a prefix.
        let names = self.family.names;
        names.in_file(name).or_else(|| {
            let (prefix, _) = names.layers.split_once('.')?;
            names.in_file(&format!("{prefix}.{name}"))
        })
    }

    /// The order in which the rows of a tensor are written, where it is another one: the numbers that turn together lie side
    /// by side, and not half a head apart.
    pub(crate) fn order_of_rows(&self, name: &str, rows: usize) -> Option<Vec<usize>> {
        let (heads, kv_heads) = self.neighbours?;
        let layer = name.rsplit('.').nth(1)?;
        let heads = match layer {
            "q_proj" => heads,
            "k_proj" => kv_heads,
            _ => return None,
        };
        let head_dim = rows / heads;
        let half = head_dim / 2;
        Some((0..rows).map(|row| row / head_dim * head_dim + (row % 2) * half + row % head_dim / 2).collect())
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.pairs.push((key.to_owned(), Written::Text(value.to_owned())));
    }

    pub(crate) fn number(&mut self, key: &str, value: u64) {
        self.pairs.push((key.to_owned(), Written::U32(u32::try_from(value).unwrap_or(u32::MAX))));
    }

    fn float(&mut self, key: &str, value: f64) {
        self.pairs.push((key.to_owned(), Written::F32(value as f32)));
    }
}

/// A config that is being described.
struct Say<'a> {
    path: &'a Path,
    config: &'a Value,
    family: &'static Family,
}

impl Say<'_> {
    fn number(&self, name: &str) -> Result<Option<u64>> {
        match &self.config[name] {
            Value::Null => Ok(None),
            value => value.as_u64().filter(|value| *value <= u64::from(u32::MAX)).map(Some).ok_or_else(|| {
                let problem = format!("expected `{name}` to be a size, found {value}");
                Error::file(self.path, problem, "config.json is damaged or belongs to another model")
            }),
        }
    }

    fn need(&self, name: &str) -> Result<u64> {
        self.number(name)?.ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Error {
        let problem = format!("expected `{name}`, which a GGUF file must say, found none");
        Error::file(self.path, problem, format!("write `{name}` into config.json"))
    }

    fn unsupported(&self, problem: String) -> Error {
        Error::unsupported(
            self.path,
            problem,
            "keep the model in safetensors; `--quant` quantises it while it is loaded",
        )
    }

    /// `rope_scaling` and its newer name.
    fn rope(&self, field: &str) -> &Value {
        let older = &self.config["rope_scaling"];
        let given = if older.is_null() { &self.config["rope_parameters"] } else { older };
        &given[field]
    }

    fn field(&self, field: &Field, to: &mut Description) -> Result<()> {
        let key = |name: &str| format!("{}.{name}", self.family.name);
        match field {
            Field::Size(own, name) => to.number(&key(own), self.need(name)?),
            Field::MaybeSize(own, name) => {
                if let Some(value) = self.number(name)? {
                    to.number(&key(own), value);
                }
            }
            Field::Float(own, name) => {
                let default = || DEFAULTS.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
                let value = self.config[*name].as_f64().or_else(default).ok_or_else(|| self.missing(name))?;
                to.float(&key(own), value);
            }
            Field::MaybeFloat(own, name) => {
                if let Some(value) = self.config[*name].as_f64().or_else(|| self.rope(name).as_f64()) {
                    to.float(&key(own), value);
                }
            }
            // Of architectures that are read and not written yet.
            Field::MaybeFlag(_, name) => return Err(self.unsupported(format!("`{name}` cannot be written"))),
            Field::Window => return Err(self.unsupported("a sliding window cannot be written".to_owned())),
            Field::HeadDim => {
                if let Some(value) = self.number("head_dim")? {
                    to.number(&key("attention.key_length"), value);
                    to.number(&key("attention.value_length"), value);
                }
            }
            Field::RotaryPart => {
                let part =
                    self.config["partial_rotary_factor"].as_f64().or(self.rope("partial_rotary_factor").as_f64());
                if let Some(part) = part.filter(|part| *part != 1.0) {
                    return Err(self.unsupported(format!("a `partial_rotary_factor` of {part} cannot be written")));
                }
                let head_dim = match self.number("head_dim")? {
                    Some(head_dim) => head_dim,
                    None => self.need("hidden_size")? / self.need("num_attention_heads")?.max(1),
                };
                to.number(&key("rope.dimension_count"), head_dim);
            }
            Field::RopeScaling => {
                let kind = self.rope("rope_type").as_str().or(self.rope("type").as_str()).unwrap_or("default");
                match kind {
                    "default" => {}
                    "linear" => {
                        to.text(&key("rope.scaling.type"), "linear");
                        to.float(&key("rope.scaling.factor"), self.rope("factor").as_f64().unwrap_or(1.0));
                    }
                    // Its factors are a tensor, which the caller adds.
                    "llama3" if self.family.pairs == Pairs::Neighbours => {}
                    other => {
                        return Err(
                            self.unsupported(format!("rotary positions of kind {} cannot be written", quote(other)))
                        );
                    }
                }
            }
        }
        Ok(())
    }

    /// A sliding window that is shorter than the context.
    fn window(&self) -> Result<Option<u64>> {
        if self.config["model_type"] != "mistral" {
            return Ok(None);
        }
        let context = self.need("max_position_embeddings")?;
        Ok(self.number("sliding_window")?.filter(|window| *window < context))
    }
}
