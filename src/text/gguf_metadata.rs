//! A tokenizer's files → what a GGUF file says of it: the way back from `gguf.rs`.
//!
//! A GGUF file names the way in which texts are split and does not describe it, so a tokenizer whose split has no name is
//! refused. Merges of SentencePiece models become scores: a token's is the rank of the merge that makes it, negated.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::own_model::SpacePrefix;
use super::sentencepiece::{self, Said};
use super::vocabulary::Kind;
use crate::error::{Error, Result, quote};
use crate::gguf::Written;
use crate::source::{Location, TokenizerFiles};

/// With which all keys begin.
const PREFIX: &str = "tokenizer.ggml.";

/// Kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The score of a token that no merge makes.
const UNMERGED: f32 = -1e6;

/// The patterns at which texts are split before their merges, and how GGUF files call them.
const SPLITS: &[(&str, &str)] = &[
    (
        "llama-bpe",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "tekken",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
];

/// The parts of a tokenizer.json that a GGUF file can say.
#[derive(Deserialize)]
struct Parts {
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    added_tokens: Vec<Added>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    unk_token: Option<String>,
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// A merge in either of the two forms that files have.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    fn line(&self) -> String {
        match self {
            Merge::Line(line) => line.clone(),
            Merge::Pair(left, right) => format!("{left} {right}"),
        }
    }

    fn merged(&self) -> String {
        match self {
            Merge::Line(line) => line.replacen(' ', "", 1),
            Merge::Pair(left, right) => format!("{left}{right}"),
        }
    }
}

/// Keys and values of a tokenizer whose model has a table of `rows` tokens, with the tokens that config.json names.
pub(crate) fn metadata_of(files: &TokenizerFiles, rows: usize, config: &Value) -> Result<Vec<(String, Written)>> {
    let path = files.path();
    let parts = match files {
        TokenizerFiles::Json(json) => {
            let text = json.read_text()?;
            serde_json::from_str(&text).map_err(|error| {
                Error::unsupported(path, format!("expected a BPE tokenizer: {error}"), "keep the model in safetensors")
            })?
        }
        TokenizerFiles::VocabAndMerges(vocab, merges) => parts_of_pair(vocab, merges)?,
        TokenizerFiles::SentencePiece(file) => return of_sentencepiece(file, rows, config),
        TokenizerFiles::Gguf(_) => return Ok(Vec::new()), // its keys are copied as they are
    };
    let mut pairs = Vec::new();
    let mut say = |key: &str, value| pairs.push((format!("{PREFIX}{key}"), value));
    if parts.model.byte_fallback {
        say("model", Written::Text("llama".to_owned()));
        say("pre", Written::Text("default".to_owned()));
        say("add_space_prefix", Written::Bool(parts.prepends_a_space()));
    } else {
        say("model", Written::Text("gpt2".to_owned()));
        say("pre", Written::Text(parts.split(path)?.to_owned()));
    }
    let (tokens, kinds) = parts.tokens(path, rows)?;
    if parts.model.byte_fallback {
        say("scores", Written::Floats(parts.scores(&tokens)));
    } else {
        say("merges", Written::Texts(parts.model.merges.iter().map(Merge::line).collect()));
    }
    let id_of = |name: &str| tokens.iter().position(|token| token == name).map(|id| id as u32);
    if let Some(id) = parts.model.unk_token.as_deref().and_then(id_of) {
        say("unknown_token_id", Written::U32(id));
    }
    let first = config["bos_token_id"].as_u64();
    let last = config["eos_token_id"].as_u64().or(config["eos_token_id"][0].as_u64());
    for (key, id) in
        [("bos_token_id", first), ("eos_token_id", last), ("padding_token_id", config["pad_token_id"].as_u64())]
    {
        if let Some(id) = id.filter(|id| (*id as usize) < rows) {
            say(key, Written::U32(id as u32));
        }
    }
    let adds = |id: Option<u64>| {
        id.and_then(|id| tokens.get(id as usize)).is_some_and(|token| parts.post_processor_adds(token))
    };
    say("add_bos_token", Written::Bool(adds(first)));
    say("add_eos_token", Written::Bool(adds(last)));
    say("tokens", Written::Texts(tokens));
    say("token_type", Written::Integers(kinds));
    Ok(pairs)
}

/// SentencePiece's own file, which says of its tokens what a GGUF file does.
fn of_sentencepiece(file: &Location, rows: usize, config: &Value) -> Result<Vec<(String, Written)>> {
    let Said { names, mut scores, kinds, habits } = sentencepiece::said(file)?;
    if names.len() > rows {
        return Err(too_many(file.path(), rows, rows));
    }
    let mut tokens = Vec::with_capacity(rows);
    for name in names {
        tokens.push(String::from_utf8(name).map_err(|error| {
            let problem = format!("expected tokens in UTF-8, found another at {}", tokens.len());
            Error::file(file.path(), format!("{problem}: {error}"), "the file is damaged; copy it again")
        })?);
    }
    tokens.extend((tokens.len()..rows).map(unused));
    scores.resize(rows, UNMERGED);
    let mut kinds: Vec<i32> = kinds.into_iter().map(number_of).collect();
    kinds.resize(rows, UNUSED);
    let size = |name: &str| config[name].as_u64().or(config[name][0].as_u64()).map(|id| id as u32);
    let ids = [
        ("unknown_token_id", kinds.iter().position(|kind| *kind == UNKNOWN).map(|id| id as u32)),
        ("bos_token_id", habits.begin.or(size("bos_token_id"))),
        ("eos_token_id", habits.end.or(size("eos_token_id"))),
        ("padding_token_id", size("pad_token_id")),
    ];
    let mut pairs = vec![
        ("model", Written::Text("llama".to_owned())),
        ("pre", Written::Text("default".to_owned())),
        ("add_space_prefix", Written::Bool(habits.space_prefix != SpacePrefix::Never)),
        ("add_bos_token", Written::Bool(habits.begin.is_some())),
        ("add_eos_token", Written::Bool(habits.end.is_some())),
        ("scores", Written::Floats(scores)),
        ("tokens", Written::Texts(tokens)),
        ("token_type", Written::Integers(kinds)),
    ];
    let known =
        |(key, id): (&'static str, Option<u32>)| Some((key, Written::U32(id.filter(|id| (*id as usize) < rows)?)));
    pairs.extend(ids.into_iter().filter_map(known));
    Ok(pairs.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect())
}

/// The name of a row of the table that no token has.
fn unused(id: usize) -> String {
    format!("[PAD{id}]")
}

fn too_many(path: &Path, rows: usize, found: usize) -> Error {
    Error::file(
        path,
        format!("expected tokens below the model's vocabulary of {rows}, found token {found}"),
        "the tokenizer belongs to another model; copy it from where the weights came from",
    )
}

/// How GGUF files count the kinds of tokens.
fn number_of(kind: Kind) -> i32 {
    match kind {
        Kind::Normal => NORMAL,
        Kind::Unknown => UNKNOWN,
        Kind::Control => CONTROL,
        Kind::UserDefined => USER_DEFINED,
        Kind::Unused => UNUSED,
        Kind::Byte => BYTE,
    }
}

impl Parts {
    /// Every token by its number, and its kind. Rows of the table that no token has are named after their number.
    fn tokens(&self, path: &Path, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
        let mut tokens: Vec<Option<String>> = vec![None; rows];
        let mut kinds = vec![UNUSED; rows];
        let unknown = self.model.unk_token.as_deref();
        let known = self.model.vocab.iter().map(|(token, id)| (token, *id, None));
        let added = self.added_tokens.iter().map(|added| (&added.content, added.id, Some(added.special)));
        for (token, id, special) in known.chain(added) {
            let Some(place) = tokens.get_mut(id as usize) else {
                return Err(too_many(path, rows, id as usize));
            };
            kinds[id as usize] = match special {
                _ if Some(token.as_str()) == unknown => UNKNOWN,
                Some(true) => CONTROL,
                Some(false) => USER_DEFINED,
                None if self.model.byte_fallback && is_byte(token) => BYTE,
                None => NORMAL,
            };
            *place = Some(token.clone());
        }
        let named = |(id, token): (usize, Option<String>)| token.unwrap_or_else(|| unused(id));
        Ok((tokens.into_iter().enumerate().map(named).collect(), kinds))
    }

    /// The rank of the merge that makes each token, negated.
    fn scores(&self, tokens: &[String]) -> Vec<f32> {
        let mut ranks: HashMap<String, usize> = HashMap::with_capacity(self.model.merges.len());
        for (rank, merge) in self.model.merges.iter().enumerate() {
            ranks.entry(merge.merged()).or_insert(rank);
        }
        tokens.iter().map(|token| ranks.get(token).map_or(UNMERGED, |rank| -(*rank as f32))).collect()
    }

    /// What GGUF files call the way in which texts are split.
    fn split(&self, path: &Path) -> Result<&'static str> {
        let members = match &self.pre_tokenizer["pretokenizers"] {
            Value::Array(members) => members.clone(),
            _ => vec![self.pre_tokenizer.clone()],
        };
        let byte_level = |member: &Value| {
            member["type"] == "ByteLevel"
                && member["add_prefix_space"] != json!(true)
                && member["use_regex"] != json!(false)
        };
        let found = match &members[..] {
            [one] if byte_level(one) => Some("gpt-2"),
            [digits, rest] if digits["type"] == "Digits" && digits["individual_digits"] == true && byte_level(rest) => {
                Some("smollm")
            }
            [split, rest] if split["type"] == "Split" && rest["type"] == "ByteLevel" && rest["use_regex"] == false => {
                let pattern = split["pattern"]["Regex"].as_str().unwrap_or_default();
                SPLITS.iter().find(|(_, known)| *known == pattern).map(|(name, _)| *name)
            }
            _ => None,
        };
        // Of the ones with names only this leaves merges aside for whole tokens, and only qwen2's composes characters.
        let found = found.filter(|name| match *name {
            "llama-bpe" => self.normalizer.is_null(),
            "qwen2" => !self.model.ignore_merges && self.normalizer["type"] == "NFC",
            _ => !self.model.ignore_merges && self.normalizer.is_null(),
        });
        found.ok_or_else(|| {
            Error::unsupported(
                path,
                format!(
                    "expected a tokenizer that splits texts as one that GGUF files have a name for, found {}",
                    quote(&self.pre_tokenizer.to_string())
                ),
                "keep the model in safetensors; `--quant` quantises it while it is loaded",
            )
        })
    }

    /// Whether a text begins as if a space stood before it.
    fn prepends_a_space(&self) -> bool {
        let of_normalizer = |part: &Value| part["type"] == "Prepend";
        let prepended = match &self.normalizer["normalizers"] {
            Value::Array(members) => members.iter().any(of_normalizer),
            _ => of_normalizer(&self.normalizer),
        };
        let scheme = &self.pre_tokenizer["prepend_scheme"];
        prepended || self.pre_tokenizer["type"] == "Metaspace" && (scheme == "always" || scheme == "first")
    }

    /// Whether a token is put around every text.
    fn post_processor_adds(&self, token: &str) -> bool {
        fn adds(processor: &Value, token: &str) -> bool {
            let members = processor["processors"].as_array();
            let single = processor["single"].as_array();
            members.is_some_and(|members| members.iter().any(|member| adds(member, token)))
                || single.is_some_and(|single| single.iter().any(|part| part["SpecialToken"]["id"] == token))
        }
        adds(&self.post_processor, token)
    }
}

/// GPT-2's own form.
fn parts_of_pair(vocab: &Location, merges: &Location) -> Result<Parts> {
    let damaged = |error: serde_json::Error| {
        let problem = format!("expected an object of tokens and ids: {error}");
        Error::file(vocab.path(), problem, "copy the tokenizer's files from where the model came from")
    };
    let vocab: HashMap<String, u32> = serde_json::from_str(&vocab.read_text()?).map_err(damaged)?;
    let special = vocab.iter().filter(|(name, _)| name.starts_with("<|") && name.ends_with("|>"));
    let added_tokens = special.map(|(name, id)| Added { id: *id, content: name.clone(), special: true }).collect();
    let text = merges.read_text()?;
    let merges = text.lines().filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let merges = merges.map(|line| Merge::Line(line.to_owned())).collect();
    let model = Model { byte_fallback: false, ignore_merges: false, unk_token: None, vocab, merges };
    let pre_tokenizer = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": true });
    Ok(Parts { normalizer: Value::Null, pre_tokenizer, post_processor: Value::Null, added_tokens, model })
}

/// `<0x0A>` and its kin.
fn is_byte(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}
