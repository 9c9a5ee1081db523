//! Metadata → what config.json would say, so that architectures need not know where a model came from.
//!
//! What transformers has no word for, architectures are told by keys that begin with an underscore. Keys that would change what
//! a model computes are refused where the family does not read them; all other unknown keys are passed over.

use serde_json::{Map, Value, json};

use super::families::{Fused, Implied, Pairs};
use super::metadata::Metadata;
use super::model::Gguf;
use crate::error::{Error, Result, quote};

/// How the pairs of rotary positions lie in queries and keys; `models/rope.rs` reads it.
const ROPE_PAIRS: &str = "_rope_pairs";

/// How the rows of a fused matrix of queries, keys and values are put; the architectures that have one read it.
const QKV_ORDER: &str = "_qkv_order";

/// What is added to the weights of norms.
const NORM_CENTRE: &str = "_norm_centre";

/// One thing of the config. `describe.rs` writes what is read here.
pub(super) enum Field {
    /// A key that must be there, as a field of config.json.
    Size(&'static str, &'static str),
    MaybeSize(&'static str, &'static str),
    /// Written as four times the other field where the field is null.
    SizeOrFourTimes(&'static str, &'static str, &'static str),
    Float(&'static str, &'static str),
    MaybeFloat(&'static str, &'static str),
    /// A number that may be absent and is not absent in files that are written.
    Cap(&'static str, &'static str),
    MaybeFlag(&'static str, &'static str),
    /// A text that says nothing of the config, and is written.
    Text(&'static str, &'static str),
    /// `vocab_size`, which is only written: the table of tokens has it too.
    Rows,
    /// `attention.sliding_window`, of which 0 stands for none.
    Window,
    /// The same of families whose window llama.cpp knows nothing of.
    UnheededWindow,
    /// Which layers have that window.
    WindowLayers(Windows),
    /// `attention.key_length`, which values must share.
    HeadDim,
    /// How many of a head's numbers turn.
    RotaryPart,
    /// `rope.scaling.*` and the factors in tensors.
    RopeScaling,
}

impl Field {
    /// The key, without what stands before all keys of a family, of a field that reads one.
    fn key(&self) -> Option<&'static str> {
        match self {
            Field::Size(key, _)
            | Field::MaybeSize(key, _)
            | Field::SizeOrFourTimes(key, ..)
            | Field::Float(key, _)
            | Field::MaybeFloat(key, _)
            | Field::Cap(key, _)
            | Field::MaybeFlag(key, _) => Some(key),
            Field::Window | Field::UnheededWindow => Some(WINDOW),
            Field::WindowLayers(_) => Some(WINDOW_LAYERS),
            Field::Text(..) | Field::Rows | Field::HeadDim | Field::RotaryPart | Field::RopeScaling => None,
        }
    }
}

pub(super) const WINDOW: &str = "attention.sliding_window";
pub(super) const WINDOW_LAYERS: &str = "attention.sliding_window_pattern";

/// Which layers have a window where no key says it.
#[derive(Clone, Copy)]
pub(super) enum Windows {
    EveryOther,
    FiveOfSix,
}

impl Windows {
    /// Each of so many layers has one without a window, the last.
    fn period(self) -> usize {
        match self {
            Windows::EveryOther => 2,
            Windows::FiveOfSix => 6,
        }
    }

    pub(super) fn of(self, layer: usize) -> bool {
        !(layer + 1).is_multiple_of(self.period())
    }
}

/// Keys that change what is computed, and the value with which they do not.
const LOUD: &[(&str, f64)] = &[
    (WINDOW, 0.0),
    (WINDOW_LAYERS, 0.0),
    ("attention.causal", 1.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.scale", 0.0),
    ("attention.temperature_scale", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("logit_scale", 1.0),
    ("expert_count", 0.0),
    ("expert_shared_count", 0.0),
    ("expert_gating_func", 1.0),
    ("expert_weights_scale", 1.0),
    ("leading_dense_block_count", 0.0),
    ("rope.dimension_sections", 0.0),
    ("rope.scaling.alpha", 0.0),
    ("swin_norm", 0.0),
];

/// The keys of one family.
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) metadata: &'a Metadata,
    /// `general.architecture`.
    prefix: &'static str,
}

impl Gguf {
    /// What the model's config.json would say, with the tokens that end a text.
    pub(crate) fn config(&self) -> Result<Value> {
        let family = self.family()?;
        let metadata = &self.metadata;
        let keys = Keys { gguf: self, metadata, prefix: family.name };
        let mut config = Map::new();
        config.insert("model_type".into(), json!(family.model_type));
        config.insert("architectures".into(), json!([family.class]));
        for implied in family.implied {
            match implied {
                Implied::Flag(name, value) => _ = config.insert((*name).into(), json!(value)),
                Implied::Name(name, values) => _ = config.insert((*name).into(), json!(values[0])),
                Implied::None(_) => {}
            }
        }
        for field in family.fields.iter().copied().flatten() {
            keys.read(field, &mut config)?;
        }
        keys.refuse_unread(family.fields)?;
        const TABLE: &str = "token_embd.weight";
        let rows = self
            .shape_of(TABLE)
            .and_then(|shape| shape.iter().rev().nth(1))
            .ok_or_else(|| super::reader::damaged(self.path(), format!("tensor {} is missing", quote(TABLE))))?;
        config.insert("vocab_size".into(), json!(rows));
        config.insert("tie_word_embeddings".into(), json!(self.shape_of("output.weight").is_none()));
        if family.pairs == Pairs::Neighbours {
            config.insert(ROPE_PAIRS.into(), json!("neighbours"));
        }
        if family.fused == Fused::Parts {
            config.insert(QKV_ORDER.into(), json!("parts"));
        }
        if family.norms_more_by != 0.0 {
            config.insert(NORM_CENTRE.into(), json!(0.0));
        }
        (family.more)(&keys, &mut config)?;
        if let Some(first) = metadata.token("tokenizer.ggml.bos_token_id")? {
            config.insert("bos_token_id".into(), json!(first));
        }
        let last = ends_of_text(metadata)?;
        if !last.is_empty() {
            config.insert("eos_token_id".into(), json!(last));
        }
        Ok(Value::Object(config))
    }
}

/// The tokens at which a text ends: that of the text, that of a turn, that of a message.
fn ends_of_text(metadata: &Metadata) -> Result<Vec<u32>> {
    /// Ends of turns by their names, for files that do not say their number.
    const TURNS: [&str; 5] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|end_of_text|>"];
    const CONTROL: i64 = 3;
    let mut ends = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        ends.extend(metadata.token(&format!("tokenizer.ggml.{key}"))?);
    }
    if !metadata.has("tokenizer.ggml.eot_token_id") {
        let types = metadata.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        let named = tokens
            .into_iter()
            .flatten()
            .zip(types)
            .enumerate()
            .filter(|(_, (token, kind))| *kind == CONTROL && TURNS.iter().any(|turn| turn.as_bytes() == *token));
        ends.extend(named.map(|(id, _)| id as u32));
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

impl Keys<'_> {
    /// A key of the family.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A size, 0 and above; `None` where the key is not there.
    pub(super) fn size(&self, name: &str) -> Result<Option<usize>> {
        self.metadata.size(&self.key(name))
    }

    /// A finite number.
    pub(super) fn float(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.float(&self.key(name))
    }

    fn need<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.metadata.missing(&self.key(name)))
    }

    fn read(&self, field: &Field, config: &mut Map<String, Value>) -> Result<()> {
        match field {
            Field::Size(key, name) => {
                let value = self.need(key, self.size(key)?)?;
                config.insert((*name).into(), json!(value));
            }
            Field::Text(..) | Field::Rows => {}
            Field::MaybeSize(key, name) | Field::SizeOrFourTimes(key, name, _) => {
                self.size(key)?.and_then(|value| config.insert((*name).into(), json!(value)));
            }
            Field::Float(key, name) => {
                let value = self.need(key, self.float(key)?)?;
                config.insert((*name).into(), json!(value));
            }
            Field::MaybeFloat(key, name) | Field::Cap(key, name) => {
                self.float(key)?.and_then(|value| config.insert((*name).into(), json!(value)));
            }
            Field::MaybeFlag(key, name) => {
                self.metadata.flag(&self.key(key))?.and_then(|value| config.insert((*name).into(), json!(value)));
            }
            Field::Window | Field::UnheededWindow => {
                let window = self.size(WINDOW)?.filter(|window| *window > 0);
                config.insert("sliding_window".into(), json!(window));
            }
            Field::WindowLayers(_) => {
                if let Some(slides) = self.window_layers()? {
                    let types =
                        slides.iter().map(|slides| if *slides { "sliding_attention" } else { "full_attention" });
                    config.insert("layer_types".into(), types.collect());
                }
            }
            Field::HeadDim => {
                let (keys, values) = (self.size("attention.key_length")?, self.size("attention.value_length")?);
                if keys.is_some() && values.is_some() && keys != values {
                    return Err(self.metadata.unsupported(
                        format!(
                            "heads whose keys have {} numbers and values {} are not supported",
                            or(keys),
                            or(values)
                        ),
                        "take a model whose `attention.key_length` and `attention.value_length` are the same",
                    ));
                }
                keys.or(values).and_then(|head_dim| config.insert("head_dim".into(), json!(head_dim)));
            }
            Field::RotaryPart => {
                if let (Some(turned), Some(head_dim)) = (self.size("rope.dimension_count")?, self.head_dim()?) {
                    // The least bit more, lest the product with the head be rounded to less than the number.
                    let part = turned as f64 / head_dim as f64;
                    let part = if turned < head_dim { part.next_up() } else { part };
                    config.insert("partial_rotary_factor".into(), json!(part));
                }
            }
            Field::RopeScaling => {
                if let Some(scaling) = self.rope_scaling()? {
                    config.insert("rope_scaling".into(), scaling);
                }
            }
        }
        Ok(())
    }

    /// Which layers have a window, where a key says it: a list, or after how many there is one without.
    fn window_layers(&self) -> Result<Option<Vec<bool>>> {
        let key = self.key(WINDOW_LAYERS);
        if self.metadata.array_len(&key).is_some() {
            let whole =
                || Ok(self.metadata.integers(&key)?.map(|list| list.iter().map(|slides| *slides != 0).collect()));
            return self.metadata.flags(&key).or_else(|_| whole());
        }
        let (period, layers) = (self.size(WINDOW_LAYERS)?, self.size("block_count")?.unwrap_or(0));
        // A damaged count of layers is the architecture's to refuse.
        let slides =
            |period: usize| (0..layers.min(1 << 16)).map(move |layer| period != 0 && (layer + 1) % period != 0);
        Ok(period.map(|period| slides(period).collect()))
    }

    /// Keys that none of the fields reads, and that are not there for nothing.
    fn refuse_unread(&self, fields: &[&[Field]]) -> Result<()> {
        let is_read = |key: &str| fields.iter().copied().flatten().any(|field| field.key() == Some(key));
        for (name, without) in LOUD.iter().filter(|(name, _)| !is_read(name)) {
            let key = self.key(name);
            let number = self.metadata.float(&key).ok().flatten();
            let number = number.or_else(|| self.metadata.unsigned(&key).ok().flatten().map(|number| number as f64));
            let number = number.or_else(|| self.metadata.flag(&key).ok().flatten().map(f64::from));
            if self.metadata.has(&key) && number != Some(*without) {
                let found = number.map_or("that".to_owned(), |number| number.to_string());
                return Err(self.metadata.unsupported(
                    format!("{} of {found} is not supported for `{}`", quote(&key), self.prefix),
                    "take a copy of the model in safetensors, or another model",
                ));
            }
        }
        Ok(())
    }

    /// Numbers of a head, where the metadata say them or they follow; the architecture judges them.
    pub(super) fn head_dim(&self) -> Result<Option<usize>> {
        if let Some(head_dim) = self.size("attention.key_length")? {
            return Ok(Some(head_dim));
        }
        let (width, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        Ok(width.zip(heads).and_then(|(width, heads)| width.checked_div(heads)))
    }

    /// `rope_scaling` of config.json.
    fn rope_scaling(&self) -> Result<Option<Value>> {
        let kind = self.metadata.string(&self.key("rope.scaling.type"))?;
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?, // older files
        };
        let factor = factor.filter(|factor| *factor != 0.0); // which some tools write for none
        let turned = match self.size("rope.dimension_count")? {
            Some(turned) => Some(turned),
            None => self.head_dim()?,
        };
        // One factor a pair; a damaged count of pairs is the architecture's to refuse.
        let factors = |name: &str| match turned {
            Some(turned) => self.factors(name, turned / 2),
            None => Ok(None),
        };
        if let Some(factors) = factors("rope_freqs.weight")? {
            return match (kind, factor) {
                (None | Some("none" | "linear"), None | Some(1.0)) => {
                    Ok(Some(json!({ "rope_type": "_factors", "factors": factors })))
                }
                _ => Err(self.unsupported_scaling(kind.unwrap_or("linear"), "beside `rope_freqs.weight`")),
            };
        }
        if let (Some(long), Some(short)) = (factors("rope_factors_long.weight")?, factors("rope_factors_short.weight")?)
        {
            let mut scaling = json!({ "rope_type": "longrope", "long_factor": long, "short_factor": short });
            self.original_context(&mut scaling)?;
            if let Some(factor) = self.float("rope.scaling.attn_factor")? {
                scaling["attention_factor"] = json!(factor);
            }
            return Ok(Some(scaling));
        }
        match kind {
            Some("none") => Ok(None),
            None if factor.is_none() => Ok(None),
            None | Some("linear") => {
                let factor = self.need("rope.scaling.factor", factor)?;
                Ok((factor != 1.0).then(|| json!({ "rope_type": "linear", "factor": factor })))
            }
            Some("yarn") => {
                let mut scaling = json!({ "rope_type": "yarn", "factor": self.need("rope.scaling.factor", factor)? });
                self.original_context(&mut scaling)?;
                // Beside what follows from the factor; the other key is the converter's, which llama.cpp pays no attention to.
                let stretch = factor.filter(|factor| *factor > 1.0).map_or(1.0, |factor| 0.1 * factor.ln() + 1.0);
                let more = self.float("rope.scaling.attn_factor")?.map(|more| more * stretch);
                if let Some(attention) = more.or(self.float("rope.scaling.yarn_attn_factor")?) {
                    scaling["attention_factor"] = json!(attention);
                }
                for (key, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                    if let Some(value) = self.float(&format!("rope.scaling.{key}"))? {
                        scaling[name] = json!(value);
                    }
                }
                Ok(Some(scaling))
            }
            Some(kind) => Err(self.unsupported_scaling(kind, "in GGUF files")),
        }
    }

    fn original_context(&self, scaling: &mut Value) -> Result<()> {
        if let Some(original) = self.size("rope.scaling.original_context_length")? {
            scaling["original_max_position_embeddings"] = json!(original);
        }
        Ok(())
    }

    /// A tensor of factors, one a pair.
    fn factors(&self, name: &str, pairs: usize) -> Result<Option<Vec<f32>>> {
        let Some(factors) = self.gguf.numbers_of(name, pairs)? else { return Ok(None) };
        match factors.iter().find(|factor| !(**factor > 0.0 && factor.is_finite())) {
            Some(wrong) => {
                let problem = format!("tensor {}: expected factors above 0, found {wrong}", quote(name));
                Err(super::reader::damaged(self.gguf.path(), problem))
            }
            None => Ok(Some(factors)),
        }
    }

    fn unsupported_scaling(&self, kind: &str, place: &str) -> Error {
        let key = quote(&self.key("rope.scaling.type"));
        self.metadata.unsupported(
            format!("{key} of {} is not supported {place}", quote(kind)),
            "none, linear, yarn and longrope are read; take a copy of the model in safetensors, or another model",
        )
    }

    /// Whether the first layer has such a tensor; that of queries may hold keys and values too.
    pub(super) fn has_in_layer(&self, name: &str) -> bool {
        let has = |name: &str| self.gguf.shape_of(&format!("blk.0.{name}")).is_some();
        has(name) || has(&name.replace("attn_q.", "attn_qkv."))
    }
}

fn or(size: Option<usize>) -> String {
    size.map_or("none".to_owned(), |size| size.to_string())
}
