//! config.json → metadata: the way back from `config.rs`, for files that are written, by the same tables.
//!
//! llama.cpp knows fewer switches than config.json has. What its form of an architecture cannot say is refused by name and
//! not left away.

use std::path::Path;

use serde_json::Value;

use super::config::{Field, WINDOW, WINDOW_LAYERS};
use super::families::{self, Family, Fused, Implied, Pairs};
use super::write::Written;
use crate::error::{Error, Result, quote};

const HEADS: &str = "attention.head_count";
/// As many as of queries where config.json has none.
const KV_HEADS: &str = "attention.head_count_kv";

/// What a file says of a model, beside its tokenizer.
pub(crate) struct Description {
    /// Keys and values.
    pub(crate) pairs: Vec<(String, Written)>,
    family: &'static Family,
    /// Heads of queries, and of keys and values.
    heads: (usize, usize),
    /// Tensors of the file's own: by what the frequencies of rotary positions are divided.
    pub(crate) factors: Vec<(&'static str, Vec<f32>)>,
    /// What the user should know of the file.
    pub(crate) notices: Vec<String>,
}

/// Where a tensor goes, and what is done to its numbers on the way.
pub(crate) struct Destination {
    /// The file's name of it.
    pub(crate) name: String,
    /// Which of the tensors of that name it is, which lie on top of each other; `None` where it is the only one.
    pub(crate) number: Option<usize>,
    /// The order in which its rows are written, where it is another one.
    pub(crate) order: Option<Vec<usize>>,
    /// What is added to every number.
    pub(crate) more_by: f32,
}

/// What a file of this model says. `config` is a config.json at `path`, which an architecture has accepted and completed.
pub(crate) fn describe(path: &Path, model_type: &str, config: &Value) -> Result<Description> {
    let Some(family) = families::of_config(model_type, config) else {
        let problem = format!(
            "models of {} cannot be written as GGUF, only {} can",
            quote(model_type),
            families::model_types().join(", ")
        );
        return Err(refused(path, problem));
    };
    let say = Say { path, config, family };
    say.check()?;
    let heads = say.size_of(HEADS)?;
    let heads = (heads, say.size_of(KV_HEADS).unwrap_or(heads));
    let mut description = Description { pairs: Vec::new(), family, heads, factors: Vec::new(), notices: Vec::new() };
    description.text("general.architecture", family.name);
    for field in family.fields.iter().copied().flatten() {
        say.field(field, &mut description)?;
    }
    Ok(description)
}

fn refused(path: &Path, problem: String) -> Error {
    Error::unsupported(path, problem, "keep the model in safetensors; `--quant` quantises it while it is loaded")
}

impl Description {
    /// Where a tensor of so many rows goes; `None` where the file has no name for it.
    pub(crate) fn destination(&self, name: &str, rows: usize) -> Option<Destination> {
        let names = self.family.names;
        // Checkpoints are published with and without a prefix, and with one more where the model sees.
        let bare = ["language_model.", "model.language_model."].iter().find_map(|prefix| name.strip_prefix(prefix));
        let prefixed = names.layers.split_once('.').map(|(prefix, _)| format!("{prefix}.{}", bare.unwrap_or(name)));
        let spellings = [Some(name), bare, prefixed.as_deref()];
        let (own, number) = spellings.into_iter().flatten().find_map(|name| names.in_file(name))?;
        let is_norm = own.ends_with("norm.weight");
        let more_by = if is_norm { self.family.norms_more_by } else { 0.0 };
        let order = self.order_of_rows(own.split('.').rev().nth(1)?, rows);
        Some(Destination { name: own, number, order, more_by })
    }

    /// Whether a file without a head must have the table again.
    pub(crate) fn needs_head(&self) -> bool {
        self.family.has_head
    }

    fn order_of_rows(&self, layer: &str, rows: usize) -> Option<Vec<usize>> {
        let (heads, kv_heads) = self.heads;
        match (layer, self.family.pairs, self.family.fused) {
            ("attn_q", Pairs::Neighbours, _) => Some(side_by_side(heads, rows)),
            ("attn_k", Pairs::Neighbours, _) => Some(side_by_side(kv_heads, rows)),
            ("attn_qkv", _, Fused::Parts) => Some(in_parts(heads, kv_heads, rows)),
            _ => None,
        }
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        self.pairs.push((key.to_owned(), Written::Text(value.to_owned())));
    }

    fn number(&mut self, key: &str, value: u64) {
        self.pairs.push((key.to_owned(), Written::U32(u32::try_from(value).unwrap_or(u32::MAX))));
    }

    fn float(&mut self, key: &str, value: f64) {
        self.pairs.push((key.to_owned(), Written::F32(value as f32)));
    }
}

/// The numbers that turn together side by side, and not half a head apart.
fn side_by_side(heads: usize, rows: usize) -> Vec<usize> {
    let head_dim = rows / heads;
    let half = head_dim / 2;
    (0..rows).map(|row| row / head_dim * head_dim + (row % 2) * half + row % head_dim / 2).collect()
}

/// All queries, all keys, all values, where each head of keys and values stands behind its queries.
fn in_parts(heads: usize, kv_heads: usize, rows: usize) -> Vec<usize> {
    let (head_dim, shared) = (rows / (heads + 2 * kv_heads), heads / kv_heads);
    let head = |number: usize| number * head_dim..(number + 1) * head_dim;
    let queries = (0..heads).map(|query| query / shared * (shared + 2) + query % shared);
    let behind = |which: usize| (0..kv_heads).map(move |group| group * (shared + 2) + shared + which);
    queries.chain(behind(0)).chain(behind(1)).flat_map(head).collect()
}

/// A config that is being described.
struct Say<'a> {
    path: &'a Path,
    config: &'a Value,
    family: &'static Family,
}

impl Say<'_> {
    /// Refuses what no file of the family can say.
    fn check(&self) -> Result<()> {
        for implied in self.family.implied {
            let (name, is_said) = match implied {
                Implied::Flag(name, value) => (name, self.config[*name].as_bool().is_none_or(|said| said == *value)),
                Implied::Name(name, values) => {
                    (name, self.config[*name].as_str().is_none_or(|said| values.contains(&said)))
                }
                Implied::None(name) => (name, self.config[*name].is_null()),
            };
            if !is_said {
                let said = match &self.config[*name] {
                    Value::String(said) => quote(said),
                    Value::Object(_) => "not null".to_owned(),
                    said => said.to_string(),
                };
                return Err(self.unsayable(&format!("`{name}` is {said}")));
            }
        }
        match (self.family.unsayable)(self.config) {
            Some(what) => Err(self.unsayable(&what)),
            None => Ok(()),
        }
    }

    fn unsayable(&self, what: &str) -> Error {
        refused(self.path, format!("a GGUF file of `{}` cannot say that {what}", self.family.name))
    }

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

    /// The size that is under a key.
    fn size_of(&self, key: &str) -> Result<usize> {
        let mut fields = self.family.fields.iter().copied().flatten();
        let name = fields.find_map(|field| match field {
            Field::Size(own, name) | Field::MaybeSize(own, name) if *own == key => Some(*name),
            _ => None,
        });
        let size = name.map_or(Ok(None), |name| self.number(name))?.filter(|size| *size > 0);
        size.map(|size| size as usize).ok_or_else(|| self.missing(name.unwrap_or(key)))
    }

    fn head_dim(&self) -> Result<u64> {
        match self.number("head_dim")? {
            Some(head_dim) => Ok(head_dim),
            None => Ok(self.need("hidden_size")? / self.need("num_attention_heads")?.max(1)),
        }
    }

    fn field(&self, field: &Field, to: &mut Description) -> Result<()> {
        let key = |name: &str| format!("{}.{name}", self.family.name);
        let float = |name: &str| self.config[name].as_f64();
        match field {
            Field::Size(own, name) => to.number(&key(own), self.need(name)?),
            Field::MaybeSize(KV_HEADS, name) => {
                let kv_heads = self.number(name)?.map_or_else(|| self.size_of(HEADS), |heads| Ok(heads as usize))?;
                to.number(&key(KV_HEADS), kv_heads as u64);
            }
            Field::MaybeSize(own, name) => {
                self.number(name)?.into_iter().for_each(|value| to.number(&key(own), value));
            }
            Field::SizeOrFourTimes(own, name, of) => {
                let value = match self.number(name)? {
                    Some(value) => value,
                    None => 4 * self.need(of)?,
                };
                to.number(&key(own), value);
            }
            Field::Float(own, name) => to.float(&key(own), float(name).ok_or_else(|| self.missing(name))?),
            Field::MaybeFloat(own, name) => {
                float(name).into_iter().for_each(|value| to.float(&key(own), value));
            }
            Field::Cap(own, name) => {
                to.float(&key(own), float(name).ok_or_else(|| self.unsayable(&format!("`{name}` is null")))?);
            }
            Field::MaybeFlag(own, name) => {
                let flag = self.config[*name].as_bool();
                to.pairs.extend(flag.map(|flag| (key(own), Written::Bool(flag))));
            }
            Field::Text(own, value) => to.text(&key(own), value),
            Field::Rows => to.number(&key("vocab_size"), self.need("vocab_size")?),
            Field::Window => to.number(&key(WINDOW), self.number("sliding_window")?.unwrap_or(0)),
            Field::UnheededWindow => self.unheeded_window(to)?,
            Field::WindowLayers(windows) => {
                let types = self.config["layer_types"].as_array().map_or(&[][..], Vec::as_slice);
                let slides: Vec<bool> = types.iter().map(|kind| kind == "sliding_attention").collect();
                if slides.iter().enumerate().any(|(layer, slides)| *slides != windows.of(layer)) {
                    to.pairs.push((key(WINDOW_LAYERS), Written::Bools(slides)));
                }
            }
            Field::HeadDim => {
                let value = self.head_dim()?;
                to.number(&key("attention.key_length"), value);
                to.number(&key("attention.value_length"), value);
            }
            Field::RotaryPart => {
                let part = float("partial_rotary_factor").unwrap_or(1.0);
                to.number(&key("rope.dimension_count"), (self.head_dim()? as f64 * part) as u64);
            }
            Field::RopeScaling => self.scaling(to)?,
        }
        Ok(())
    }

    /// A window that llama.cpp knows nothing of: its converter says the whole context and, of some families, not the window.
    /// It is said here, since this program reads it.
    fn unheeded_window(&self, to: &mut Description) -> Result<()> {
        let context = self.need("max_position_embeddings")?;
        let window = self.number("sliding_window")?.filter(|window| *window < context);
        if window.is_some() || self.family.name == "phi3" {
            to.number(&format!("{}.{WINDOW}", self.family.name), window.unwrap_or(0));
        }
        to.notices.extend(window.map(|window| {
            format!(
                "the model's sliding window of {window} tokens is in the file, but llama.cpp does not read it: it lets \
                 each token see all {context} before it"
            )
        }));
        Ok(())
    }

    /// `rope_scaling`, in which nothing is left to be inferred.
    fn scaling(&self, to: &mut Description) -> Result<()> {
        let key = |name: &str| format!("{}.rope.scaling.{name}", self.family.name);
        let scaling = &self.config["rope_scaling"];
        let given = |name: &str| scaling[name].as_f64();
        let need = |name: &str| given(name).ok_or_else(|| self.missing(name));
        let list = |name: &str| -> Vec<f32> {
            let numbers = scaling[name].as_array().into_iter().flatten();
            numbers.filter_map(Value::as_f64).map(|number| number as f32).collect()
        };
        if self.family.name == "phi3" {
            let top = self.config["original_max_position_embeddings"].as_f64();
            let original = given("original_max_position_embeddings")
                .or(top)
                .ok_or_else(|| self.missing("original_max_position_embeddings"))?;
            to.number(&key("original_context_length"), original as u64);
        }
        let Some(kind) = scaling["rope_type"].as_str() else { return Ok(()) };
        if !self.family.scalings.contains(&kind) {
            let kind = if kind == "_factors" { "llama3" } else { kind };
            return Err(self.unsayable(&format!("its rotary positions are of kind {}", quote(kind))));
        }
        match kind {
            "_factors" => to.factors.push(("rope_freqs.weight", list("factors"))),
            "longrope" => {
                if self.family.name != "phi3" {
                    to.text(&key("type"), kind); // which Phi-3's converter does not say
                    to.number(&key("original_context_length"), need("original_max_position_embeddings")? as u64);
                }
                to.float(&key("attn_factor"), need("attention_factor")?);
                to.factors.push(("rope_factors_long.weight", list("long_factor")));
                to.factors.push(("rope_factors_short.weight", list("short_factor")));
            }
            "yarn" => {
                if scaling["truncate"] == false {
                    return Err(self.unsayable("`truncate` of its rotary positions is false"));
                }
                let (factor, attention) = (need("factor")?, need("attention_factor")?);
                to.text(&key("type"), kind);
                to.float(&key("factor"), factor);
                to.number(&key("original_context_length"), need("original_max_position_embeddings")? as u64);
                for name in ["beta_fast", "beta_slow"] {
                    given(name).into_iter().for_each(|value| to.float(&key(&format!("yarn_{name}")), value));
                }
                // What llama.cpp computes itself; the first key is its converter's, and it reads the second.
                let implied = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
                if (attention - implied).abs() > 1e-9 {
                    to.float(&key("yarn_attn_factor"), attention);
                    to.float(&key("attn_factor"), attention / implied);
                }
            }
            _ => {
                to.text(&key("type"), kind);
                to.float(&key("factor"), need("factor")?);
            }
        }
        Ok(())
    }
}
