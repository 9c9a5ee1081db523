//! The settings that a user may give: one struct for the library, JSON and the command line.
//!
//! Names are those of transformers' text-generation pipeline. Every field is optional: what is absent comes from the
//! model's own generation_config.json and then from the pipeline's defaults (`settings.rs` does that and checks it).

use std::str::FromStr;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::constraint::{Constraint, Schema};
#[cfg(feature = "cli")]
use super::constraint::{schema_argument, text_or_file};

/// How to generate. `Sampling::default()` leaves everything to the model.
///
/// ```
/// let sampling = fireside::Sampling { max_new_tokens: Some(40), temperature: Some(0.7), seed: Some(42), ..Default::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct Sampling {
    /// Most tokens to generate
    #[cfg_attr(feature = "cli", arg(short = 'n', long, value_name = "N", help_heading = "Length"))]
    pub max_new_tokens: Option<usize>,
    /// Most tokens of prompt and text together
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Length"))]
    pub max_length: Option<usize>,
    /// Forbid the end before this many new tokens
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Length"))]
    pub min_new_tokens: Option<usize>,
    /// Forbid the end before prompt and text have this many tokens
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Length"))]
    pub min_length: Option<usize>,
    /// Stop after the token during which this many seconds have passed
    #[cfg_attr(feature = "cli", arg(long, value_name = "SECONDS", help_heading = "Length"))]
    pub max_time: Option<f64>,
    /// Stop after a token that completes this text; may be repeated
    #[serde(deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, alias = "stop", value_name = "TEXT", help_heading = "Length"))]
    pub stop_strings: Option<Vec<String>>,
    /// Tokens that end the text
    #[serde(deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, value_name = "ID,…", value_delimiter = ',', help_heading = "Length"))]
    pub eos_token_id: Option<Vec<u32>>,
    /// Treat the end token as any other
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Length"))]
    pub ignore_eos: Option<bool>,
    /// Raise the end's chance from START new tokens on, by FACTOR to the power of the tokens since
    #[cfg_attr(feature = "cli", arg(long, value_name = "START,FACTOR", help_heading = "Length"))]
    pub exponential_decay_length_penalty: Option<LengthDecay>,

    /// Draw tokens at random; false takes the likeliest
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Sampling"))]
    pub do_sample: Option<bool>,
    /// Divide the logits; 0 is the same as --do-sample=false
    #[cfg_attr(feature = "cli", arg(short, long, value_name = "T", help_heading = "Sampling"))]
    pub temperature: Option<f64>,
    /// Keep the likeliest tokens that hold this share of the entropy
    #[cfg_attr(feature = "cli", arg(long, value_name = "H", help_heading = "Sampling"))]
    pub top_h: Option<f64>,
    /// Keep the K likeliest tokens; 0 keeps all
    #[cfg_attr(feature = "cli", arg(long, value_name = "K", help_heading = "Sampling"))]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens whose probabilities add up to P
    #[cfg_attr(feature = "cli", arg(long, value_name = "P", help_heading = "Sampling"))]
    pub top_p: Option<f64>,
    /// Keep tokens at least P times as likely as the likeliest
    #[cfg_attr(feature = "cli", arg(long, value_name = "P", help_heading = "Sampling"))]
    pub min_p: Option<f64>,
    /// Keep the most typical tokens whose probabilities add up to P
    #[cfg_attr(feature = "cli", arg(long, value_name = "P", help_heading = "Sampling"))]
    pub typical_p: Option<f64>,
    /// Drop tokens less likely than this
    #[cfg_attr(feature = "cli", arg(long, value_name = "P", help_heading = "Sampling"))]
    pub epsilon_cutoff: Option<f64>,
    /// As epsilon_cutoff, the bound falling with the entropy
    #[cfg_attr(feature = "cli", arg(long, value_name = "P", help_heading = "Sampling"))]
    pub eta_cutoff: Option<f64>,
    /// Make the random choices repeatable; the seed in use is in --verbose and --details
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Sampling"))]
    pub seed: Option<u64>,

    /// Divide the logits of tokens that occurred, prompt included (1 changes nothing)
    #[cfg_attr(feature = "cli", arg(long, value_name = "X", help_heading = "Penalties and biases"))]
    pub repetition_penalty: Option<f64>,
    /// Subtract from the logits of tokens that were generated
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Penalties and biases")
    )]
    pub presence_penalty: Option<f64>,
    /// Subtract from the logits of tokens for each time that they were generated
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Penalties and biases")
    )]
    pub frequency_penalty: Option<f64>,
    /// No run of N tokens occurs twice, prompt included
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Penalties and biases"))]
    pub no_repeat_ngram_size: Option<usize>,
    /// A text that must not occur, at a word's start or inside; may be repeated
    #[serde(deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT", help_heading = "Penalties and biases"))]
    pub bad_words: Option<Vec<String>>,
    /// Tokens that must not follow each other; may be repeated
    #[cfg_attr(feature = "cli", arg(long, value_name = "ID,…", help_heading = "Penalties and biases"))]
    pub bad_words_ids: Option<Vec<Ids>>,
    /// Tokens that must not occur
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "ID,…", value_delimiter = ',', help_heading = "Penalties and biases")
    )]
    pub suppress_tokens: Option<Vec<u32>>,
    /// Tokens that must not come first
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "ID,…", value_delimiter = ',', help_heading = "Penalties and biases")
    )]
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// The token that follows a prompt of one token
    #[cfg_attr(feature = "cli", arg(long, value_name = "ID", help_heading = "Penalties and biases"))]
    pub forced_bos_token_id: Option<u32>,
    /// The last token where the length limit ends the text
    #[serde(deserialize_with = "one_or_many")]
    #[cfg_attr(
        feature = "cli",
        arg(long, value_name = "ID,…", value_delimiter = ',', help_heading = "Penalties and biases")
    )]
    pub forced_eos_token_id: Option<Vec<u32>>,
    /// Add to the logit of the last of these tokens where it follows the others; may be repeated
    #[cfg_attr(feature = "cli", arg(long, value_name = "ID,…=BIAS", help_heading = "Penalties and biases"))]
    pub sequence_bias: Option<Vec<SequenceBias>>,
    /// Add to a token's logit; may be repeated
    #[serde(deserialize_with = "logit_bias")]
    #[cfg_attr(feature = "cli", arg(long, value_name = "ID=BIAS", help_heading = "Penalties and biases"))]
    pub logit_bias: Option<Vec<LogitBias>>,
    /// Make the processed scores log-probabilities again
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Penalties and biases"))]
    pub renormalize_logits: Option<bool>,

    /// The text is JSON that this schema allows: a schema, or @FILE
    #[cfg_attr(feature = "cli", arg(long, value_name = "SCHEMA|@FILE", value_parser = schema_argument, help_heading = "Constrained output"))]
    pub json_schema: Option<Schema>,
    /// The text matches this regular expression, all of it
    #[cfg_attr(feature = "cli", arg(long, value_name = "REGEX", help_heading = "Constrained output"))]
    pub regex: Option<String>,
    /// The text is this one; repeated, one of these
    #[serde(deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "cli", arg(long, value_name = "TEXT", help_heading = "Constrained output"))]
    pub choice: Option<Vec<String>>,
    /// The text is one of this grammar, in Lark's form or llama.cpp's (GBNF): a grammar, or @FILE
    #[cfg_attr(feature = "cli", arg(long, value_name = "GRAMMAR|@FILE", value_parser = text_or_file, help_heading = "Constrained output"))]
    pub grammar: Option<String>,

    /// Texts to return for one prompt
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Search"))]
    pub num_return_sequences: Option<usize>,
    /// Search with this many beams
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Search"))]
    pub num_beams: Option<usize>,
    /// When beam search ends: `true` at enough finished texts, `false` by estimate, `never` when none can improve
    #[cfg_attr(feature = "cli", arg(long, value_name = "WHEN", help_heading = "Search"))]
    pub early_stopping: Option<EarlyStopping>,
    /// Beam scores are divided by the length to this power; above 0 favours long texts
    #[cfg_attr(feature = "cli", arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Search"))]
    pub length_penalty: Option<f64>,
    /// Guess this many tokens ahead from earlier text; faster on repetitive text, same output
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Search"))]
    pub prompt_lookup_num_tokens: Option<usize>,
    /// Longest run of tokens that prompt lookup matches
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Search"))]
    pub max_matching_ngram_size: Option<usize>,

    /// Let the text begin inside the prompt's last token
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Prompt and output"))]
    pub token_healing: Option<bool>,
    /// Cut a prompt that is too long: `right` keeps its start, `left` its end
    #[cfg_attr(feature = "cli", arg(long, value_name = "SIDE", num_args = 0..=1, require_equals = true, default_missing_value = "right", help_heading = "Prompt and output"))]
    pub truncation: Option<Truncation>,
    /// Put the prompt in front of the text
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Prompt and output"))]
    pub return_full_text: Option<bool>,
    /// Leave tokens such as <|endoftext|> out of the text
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Prompt and output"))]
    pub skip_special_tokens: Option<bool>,
    /// Report the log-probability of each new token, before penalties and sampling
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Prompt and output"))]
    pub logprobs: Option<bool>,
    /// Report the N likeliest tokens at each place as well
    #[cfg_attr(feature = "cli", arg(long, value_name = "N", help_heading = "Prompt and output"))]
    pub top_logprobs: Option<usize>,
    /// Report the log-probabilities of the prompt's tokens too
    #[cfg_attr(feature = "cli", arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Prompt and output"))]
    pub prompt_logprobs: Option<bool>,
}

impl Sampling {
    /// The likeliest token every time.
    pub fn greedy() -> Sampling {
        Sampling { do_sample: Some(false), ..Sampling::default() }
    }

    /// Whether a schema, an expression, a choice or a grammar is asked for.
    pub fn is_constrained(&self) -> bool {
        self.json_schema.is_some() || self.regex.is_some() || self.choice.is_some() || self.grammar.is_some()
    }

    /// Whether the schema, expression, choice or grammar of the text can be kept, as far as that is known without a model.
    /// A generation asks the same; who loads or fetches a model first may want to know before.
    pub fn check_constraint(&self) -> crate::error::Result<()> {
        Constraint::of(self)?.map_or(Ok(()), Constraint::check)
    }
}

/// `$a`'s fields, and `$b`'s where those are absent. The list is the struct's, or it does not compile.
macro_rules! first_of {
    ($a:ident, $b:ident; $($field:ident),*) => { Sampling { $($field: $a.$field.or($b.$field)),* } };
}

impl Sampling {
    /// These settings, and `base`'s where these say nothing. A limit of one kind replaces a limit of the other kind.
    pub(super) fn over(self, mut base: Sampling) -> Sampling {
        if self.max_new_tokens.is_some() || self.max_length.is_some() {
            (base.max_new_tokens, base.max_length) = (None, None);
        }
        if self.min_new_tokens.is_some() || self.min_length.is_some() {
            (base.min_new_tokens, base.min_length) = (None, None);
        }
        self.beside(base)
    }

    /// These settings, and `other`'s where these say nothing.
    pub(super) fn beside(self, other: Sampling) -> Sampling {
        first_of!(
            self, other;
            max_new_tokens, max_length, min_new_tokens, min_length, max_time, stop_strings,
            eos_token_id, ignore_eos, exponential_decay_length_penalty, do_sample, temperature,
            top_h, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, seed,
            repetition_penalty, presence_penalty, frequency_penalty, no_repeat_ngram_size,
            bad_words, bad_words_ids, suppress_tokens, begin_suppress_tokens, forced_bos_token_id,
            forced_eos_token_id, sequence_bias, logit_bias, renormalize_logits,
            json_schema, regex, choice, grammar,
            num_return_sequences, num_beams, early_stopping, length_penalty,
            prompt_lookup_num_tokens, max_matching_ngram_size, token_healing, truncation,
            return_full_text, skip_special_tokens, logprobs, top_logprobs, prompt_logprobs
        )
    }
}

/// Tokens in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ids(pub Vec<u32>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ids: Result<Vec<u32>, _> = text.split(',').map(|id| id.trim().parse()).collect();
        ids.map(Ids).map_err(|_| "expected token ids with commas between them".to_owned())
    }
}

/// A bias on the last of some tokens in a row. JSON: `[[11, 12], -2.5]`, as in transformers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(Vec<u32>, f64)", into = "(Vec<u32>, f64)")]
pub struct SequenceBias {
    /// The tokens in a row.
    pub ids: Vec<u32>,
    /// What is added.
    pub bias: f64,
}

impl From<(Vec<u32>, f64)> for SequenceBias {
    fn from((ids, bias): (Vec<u32>, f64)) -> Self {
        SequenceBias { ids, bias }
    }
}

impl From<SequenceBias> for (Vec<u32>, f64) {
    fn from(entry: SequenceBias) -> Self {
        (entry.ids, entry.bias)
    }
}

impl FromStr for SequenceBias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ids, bias) = text.split_once('=').ok_or("expected token ids, `=` and a number, such as `11,12=-2.5`")?;
        let Ids(ids) = ids.parse()?;
        let bias = bias.parse().map_err(|_| format!("expected a number after `=`, found `{bias}`"))?;
        Ok(SequenceBias { ids, bias })
    }
}

/// A bias on one token. JSON: `{"50256": -100}`, as in OpenAI's API, or `[[50256, -100]]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u32, f64)", into = "(u32, f64)")]
pub struct LogitBias {
    /// The token.
    pub id: u32,
    /// What is added.
    pub bias: f64,
}

impl From<(u32, f64)> for LogitBias {
    fn from((id, bias): (u32, f64)) -> Self {
        LogitBias { id, bias }
    }
}

impl From<LogitBias> for (u32, f64) {
    fn from(entry: LogitBias) -> Self {
        (entry.id, entry.bias)
    }
}

impl FromStr for LogitBias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let SequenceBias { ids, bias } = text.parse()?;
        match ids[..] {
            [id] => Ok(LogitBias { id, bias }),
            _ => Err("expected one token id; several in a row are a `sequence_bias`".to_owned()),
        }
    }
}

/// From which new token on the end's score rises, and how steeply. JSON: `[20, 1.05]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LengthDecay(
    /// New tokens before it starts.
    pub usize,
    /// The base of the power.
    pub f64,
);

impl FromStr for LengthDecay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected a count and a factor, such as `20,1.05`".to_owned();
        let (start, factor) = text.split_once(',').ok_or_else(expected)?;
        Ok(LengthDecay(start.trim().parse().map_err(|_| expected())?, factor.trim().parse().map_err(|_| expected())?))
    }
}

/// When beam search may end. JSON: `true`, `false` or `"never"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are as many finished texts as beams.
    True,
    /// When the best running beam, at its present length, is worse than every finished one.
    False,
    /// When no running beam can become better at any length.
    Never,
}

impl FromStr for EarlyStopping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(EarlyStopping::True),
            "false" => Ok(EarlyStopping::False),
            "never" => Ok(EarlyStopping::Never),
            _ => Err("expected `true`, `false` or `never`".to_owned()),
        }
    }
}

impl Serialize for EarlyStopping {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            EarlyStopping::True => serializer.serialize_bool(true),
            EarlyStopping::False => serializer.serialize_bool(false),
            EarlyStopping::Never => serializer.serialize_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for EarlyStopping {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BoolOrWord::deserialize(deserializer)?.parse()
    }
}

/// Which end of a prompt survives. JSON: `true` (transformers' default side, `"right"`), `"left"`, or `false` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// A prompt that is too long is an error.
    Off,
    /// Cut at the right: keep the start.
    Right,
    /// Cut at the left: keep the end.
    Left,
}

impl FromStr for Truncation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "right" | "true" => Ok(Truncation::Right),
            "left" => Ok(Truncation::Left),
            "false" => Ok(Truncation::Off),
            _ => Err("expected `right`, `left` or `false`".to_owned()),
        }
    }
}

impl Serialize for Truncation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Truncation::Off => serializer.serialize_bool(false),
            Truncation::Right => serializer.serialize_str("right"),
            Truncation::Left => serializer.serialize_str("left"),
        }
    }
}

impl<'de> Deserialize<'de> for Truncation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BoolOrWord::deserialize(deserializer)?.parse()
    }
}

/// JSON's `true`, `false` or a word, for settings that have both.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected `true`, `false` or a word")]
enum BoolOrWord {
    Bool(bool),
    Word(String),
}

impl BoolOrWord {
    fn parse<T: FromStr<Err = String>, E: serde::de::Error>(self) -> Result<T, E> {
        match self {
            BoolOrWord::Bool(value) => value.to_string().parse(),
            BoolOrWord::Word(word) => word.parse(),
        }
        .map_err(E::custom)
    }
}

/// `x` or `[x, y]`: transformers takes both.
fn one_or_many<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    let read = |value: Value| match value {
        Value::Array(_) => Vec::deserialize(value),
        one => T::deserialize(one).map(|one| vec![one]),
    };
    Option::deserialize(deserializer)?.map(read).transpose().map_err(serde::de::Error::custom)
}

/// `{"id": bias}` or `[[id, bias]]`.
fn logit_bias<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<LogitBias>>, D::Error> {
    Ok(Option::<MapOrList>::deserialize(deserializer)?.map(|MapOrList(entries)| entries))
}

struct MapOrList(Vec<LogitBias>);

impl<'de> Deserialize<'de> for MapOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = MapOrList;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("biases by the ids of tokens, as in `[[464, 2.5]]`")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<MapOrList, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = list.next_element()? {
                    entries.push(entry);
                }
                Ok(MapOrList(entries))
            }

            // Entry by entry, since a map would keep the last of two with the same id.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MapOrList, A::Error> {
                let mut entries = Vec::new();
                while let Some((id, bias)) = map.next_entry::<String, f64>()? {
                    let expected = || format!("expected a token id, found `{}`", id.escape_default());
                    entries.push(LogitBias { id: id.parse().map_err(|_| A::Error::custom(expected()))?, bias });
                }
                Ok(MapOrList(entries))
            }
        }
        deserializer.deserialize_any(Entries)
    }
}
