//! A tokenizer's files → what a GGUF file says of it: the way back from `gguf.rs`.
//!
//! A GGUF file names the way in which texts are split and does not describe it, so a tokenizer whose split has no name is
//! refused. Merges of SentencePiece models become scores: a token's is the rank of the merge that makes it, negated.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::gguf::{PHI3, is_before_white_space, takes_white_space};
use super::own_model::SpacePrefix;
use super::pair;
use super::sentencepiece::{self, Said};
use super::splits::Splits;
use super::vocabulary::Kind;
use super::words::Words;
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

/// What becomes of texts where the tokenizer puts a space before them only if there is none.
const SPACES: &str = "readers of GGUF files put a space before each text and behind each special token in it, even where there is one: \
     texts that begin so, or go on behind a special token, can become other tokens than from this model's own files";

/// The score of a token that no merge makes.
const UNMERGED: f32 = -1e6;

/// What GGUF files call the ways in which texts are split before their merges.
const SPLITS: &[&str] = &["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"];

/// What a GGUF file says of a tokenizer.
pub(crate) struct InFile {
    /// Keys and values.
    pub(crate) pairs: Vec<(String, Written)>,
    /// The model's name, by which some readers tell what no key says.
    pub(crate) name: String,
    /// What the file does not say, for the user.
    pub(crate) notices: Vec<String>,
}

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
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
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

/// What a file says of a tokenizer whose model has a table of `rows` tokens, with the tokens that config.json names.
pub(crate) fn metadata_of(files: &TokenizerFiles, rows: usize, config: &Value, name: &str) -> Result<InFile> {
    let path = files.path();
    let parts = match files {
        TokenizerFiles::Json(json) => {
            let text = json.read_text()?;
            serde_json::from_str(&text).map_err(|error| {
                Error::unsupported(path, format!("expected a BPE tokenizer: {error}"), "keep the model in safetensors")
            })?
        }
        TokenizerFiles::VocabAndMerges(vocab, merges) => parts_of_pair(vocab, merges, rows)?,
        TokenizerFiles::SentencePiece(file) => return of_sentencepiece(file, rows, config, name),
        // Its keys are copied as they are.
        TokenizerFiles::Gguf(_) => return Ok(InFile { pairs: Vec::new(), name: name.to_owned(), notices: Vec::new() }),
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
    let around = parts.around();
    let first = match &around.0[..] {
        [] => config["bos_token_id"].as_u64(),
        [begin] => id_of(begin).map(u64::from),
        several => {
            let names: Vec<String> = several.iter().map(|name| quote(name)).collect();
            let problem = format!("expected one token before each text, found {}", names.join(" and "));
            return Err(Error::unsupported(path, problem, "keep the model in safetensors"));
        }
    };
    let last = config["eos_token_id"].as_u64().or(config["eos_token_id"][0].as_u64());
    for (key, id) in
        [("bos_token_id", first), ("eos_token_id", last), ("padding_token_id", config["pad_token_id"].as_u64())]
    {
        if let Some(id) = id.filter(|id| (*id as usize) < rows) {
            say(key, Written::U32(id as u32));
        }
    }
    let end = last.and_then(|id| tokens.get(id as usize));
    say("add_bos_token", Written::Bool(!around.0.is_empty()));
    say("add_eos_token", Written::Bool(end.is_some_and(|end| around.1.contains(end))));
    let flagged = |flag: fn(&Added) -> bool| -> Vec<u32> {
        parts.added_tokens.iter().filter(|token| flag(token)).map(|token| token.id).collect()
    };
    let beside =
        Beside { rstrip: flagged(|token| token.rstrip), others: flagged(|token| token.lstrip || token.single_word) };
    let (name, mut notices) = beside.told(name, &tokens, &kinds);
    if parts.model.byte_fallback && parts.prepends_a_space() && parts.pre_tokenizer["type"] == "Metaspace" {
        notices.push(SPACES.to_owned());
    }
    say("tokens", Written::Texts(tokens));
    say("token_type", Written::Integers(kinds));
    Ok(InFile { pairs, name, notices })
}

/// Tokens that look at what stands beside them in a text.
struct Beside {
    /// They take the white space after them.
    rstrip: Vec<u32>,
    /// They take the white space before them, or stand for whole words only.
    others: Vec<u32>,
}

impl Beside {
    /// The name by which readers take the tokens as they are, as far as a name can do that, and what is lost.
    ///
    /// Where it has `phi-3` in it all special tokens but three take the white space after them, and llama.cpp looks for those
    /// three and for `</s>`, without which it does not load the file.
    fn told(mut self, name: &str, tokens: &[String], kinds: &[i32]) -> (String, Vec<String>) {
        let is_cut = |id: &usize| matches!(kinds[*id], CONTROL | UNKNOWN | USER_DEFINED);
        let by_name = (0..tokens.len())
            .filter(|id| tokens[*id] == "</s>" || is_cut(id) && is_before_white_space(tokens[*id].as_bytes()));
        self.rstrip.sort_unstable();
        let looked_for = ["</s>", "<unk>", "<s>", "<|endoftext|>"];
        let is_phi3 = by_name.map(|id| id as u32).eq(self.rstrip.iter().copied())
            && looked_for.iter().all(|wanted| tokens.iter().any(|token| token == wanted));
        let mut name = name.to_owned();
        match (is_phi3, takes_white_space(&name)) {
            (true, false) => name = format!("phi-3 {name}"),
            (false, true) => name = without_phi3(&name),
            _ => {}
        }
        let lost: Vec<u32> = match is_phi3 {
            true => self.others,
            false => self.rstrip.into_iter().chain(self.others).collect(),
        };
        const SHOWN: usize = 3;
        let shown: Vec<String> = lost.iter().take(SHOWN).map(|id| quote(&tokens[*id as usize])).collect();
        let more = if lost.len() > SHOWN { format!(" and {} more", lost.len() - SHOWN) } else { String::new() };
        let notice = format!(
            "a GGUF file cannot say that {}{more} take the white space beside them or stand for whole words only (`rstrip`, \
             `lstrip`, `single_word`): where texts have such tokens, other tokens come of them than from this model's own files",
            shown.join(", ")
        );
        (name, if lost.is_empty() { Vec::new() } else { vec![notice] })
    }
}

/// `Phi-3 mini` → `Phi 3 mini`
fn without_phi3(name: &str) -> String {
    let mut name = name.to_owned();
    for phi3 in PHI3 {
        while let Some(at) = name.to_ascii_lowercase().find(phi3) {
            name.replace_range(at + "phi".len()..at + phi3.len(), " 3");
        }
    }
    name
}

/// SentencePiece's own file, which says of its tokens what a GGUF file does.
fn of_sentencepiece(file: &Location, rows: usize, config: &Value, name: &str) -> Result<InFile> {
    let Said { names, mut scores, kinds, habits, added } = sentencepiece::said(file)?;
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
    let mut kinds: Vec<i32> = kinds.into_iter().map(number_of).collect();
    let unknown = kinds.iter().position(|kind| *kind == UNKNOWN).map(|id| id as u32);
    // As converters have them: what was added below all that merges make, and rows without a token below that.
    for (id, special) in added {
        scores[id as usize] = -1000.0;
        if special || looks_special(&tokens[id as usize]) {
            kinds[id as usize] = CONTROL;
        }
    }
    scores.resize(rows, -10_000.0);
    kinds.resize(rows, UNUSED);
    let size = |name: &str| config[name].as_u64().or(config[name][0].as_u64()).map(|id| id as u32);
    let ids = [
        ("unknown_token_id", unknown),
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
    ];
    let known =
        |(key, id): (&'static str, Option<u32>)| Some((key, Written::U32(id.filter(|id| (*id as usize) < rows)?)));
    pairs.extend(ids.into_iter().filter_map(known));
    let (name, mut notices) = Beside { rstrip: habits.rstrip, others: Vec::new() }.told(name, &tokens, &kinds);
    if matches!(habits.space_prefix, SpacePrefix::TextWithout | SpacePrefix::EveryPieceWithout) {
        notices.push(SPACES.to_owned());
    }
    pairs.extend([("tokens", Written::Texts(tokens)), ("token_type", Written::Integers(kinds))]);
    let pairs = pairs.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect();
    Ok(InFile { pairs, name, notices })
}

/// Names of structure, which converters take for it even where a model's files have them as text.
fn looks_special(token: &str) -> bool {
    let is_around = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || is_around("<|", "|>")
        || is_around("<｜", "｜>")
        || is_around("<unused", ">")
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
        let splits = Splits::of(&self.pre_tokenizer).filter(|splits| !splits.prefix_space);
        let is_same = |name: &&&str| splits.as_ref().is_some_and(|splits| Words::steps(name) == Some(&splits.steps));
        let found = SPLITS.iter().find(is_same).copied();
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

    /// The tokens that are put before and after every text.
    fn around(&self) -> (Vec<String>, Vec<String>) {
        fn add(processor: &Value, around: &mut (Vec<String>, Vec<String>)) {
            for member in processor["processors"].as_array().into_iter().flatten() {
                add(member, around);
            }
            let mut is_before = true;
            for part in processor["single"].as_array().into_iter().flatten() {
                match part["SpecialToken"]["id"].as_str() {
                    Some(token) if is_before => around.0.push(token.to_owned()),
                    Some(token) => around.1.push(token.to_owned()),
                    None => is_before = false,
                }
            }
        }
        let mut around = (Vec::new(), Vec::new());
        add(&self.post_processor, &mut around);
        around
    }
}

/// GPT-2's own form, with what the settings beside it say.
fn parts_of_pair(vocab: &Location, merges: &Location, rows: usize) -> Result<Parts> {
    let damaged = |error: String| {
        let problem = format!("expected a tokenizer that can be written: {error}");
        Error::file(vocab.path(), problem, "copy the tokenizer's files from where the model came from")
    };
    let tokenizer = pair::tokenizer(vocab, merges)?;
    let last = tokenizer.get_vocab(true).into_values().max().unwrap_or_default() as usize;
    if last >= rows {
        return Err(too_many(vocab.path(), rows, last));
    }
    let json = tokenizer.to_string(false).map_err(|error| damaged(error.to_string()))?;
    serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))
}

/// `<0x0A>` and its kin.
fn is_byte(token: &str) -> bool {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok())
}
