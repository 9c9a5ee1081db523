//! What a tokenizer.json may hold: checked before the `tokenizers` crate sees it.
//!
//! That crate indexes and unwraps what a file says (a chunk length of zero, a template that names an absent token, any
//! damage inside the decoder), so a damaged file would end the program. Here the parts are held to those that byte-level
//! BPE and SentencePiece models are published with, each in a form that it handles; the rest is refused by name.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;

use super::byte_level_model;
use super::charsmap::Charsmap;
use super::crate_model::CrateModel;
use super::own_model::OwnModel;
use crate::error::{Error, Result, quote};
use crate::source::Location;

/// What to do about a tokenizer's file that cannot be used.
pub(super) const HINT: &str =
    "the file is damaged or of another kind; copy the tokenizer's files from where the model came from";

/// The parts around the model: the name in the file, the field that holds the members of a `Sequence`, and the types.
const PARTS: [(&str, &str, &[&str]); 4] = [
    (
        "normalizer",
        "normalizers",
        &["Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Precompiled", "Prepend", "Replace", "Strip", "StripAccents"],
    ),
    (
        "pre_tokenizer",
        "pretokenizers",
        &["ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace", "WhitespaceSplit"],
    ),
    ("post_processor", "processors", &["ByteLevel", "TemplateProcessing"]),
    ("decoder", "decoders", &["ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip"]),
];

/// How the names of a vocabulary spell the bytes that they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Each character is a byte, as in GPT-2's table.
    ByteLevel,
    /// `▁` is a space, `<0x0A>` is a byte, the rest is itself; a text loses up to `indent` spaces at its start.
    SentencePiece { indent: usize },
    /// By a decoder that looks at a token's neighbours too.
    Other,
}

impl Spelling {
    fn of(decoder: &Value) -> Spelling {
        let alone = std::slice::from_ref(decoder);
        let members = decoder["decoders"].as_array().map_or(alone, Vec::as_slice);
        let kinds: Vec<&str> = members.iter().filter_map(|member| member["type"].as_str()).collect();
        match (&kinds[..], members) {
            (["ByteLevel"], _) => Spelling::ByteLevel,
            (["Replace", "ByteFallback", "Fuse"], [space, ..]) if is_space(space) => {
                Spelling::SentencePiece { indent: 0 }
            }
            (["Replace", "ByteFallback", "Fuse", "Strip"], [space, .., strip])
                if is_space(space) && strip["content"] == " " =>
            {
                Spelling::SentencePiece { indent: strip["start"].as_u64().map_or(0, |start| start as usize) }
            }
            _ => Spelling::Other,
        }
    }
}

fn is_space(replace: &Value) -> bool {
    replace["pattern"]["String"] == "▁" && replace["content"] == " "
}

/// The fields that are looked at; vocabulary and merges are only skimmed.
#[derive(Deserialize)]
pub(super) struct Outline<'a> {
    #[serde(default)]
    pub(super) version: Value,
    #[serde(default)]
    pub(super) truncation: Value,
    #[serde(default)]
    pub(super) padding: Value,
    #[serde(borrow)]
    pub(super) added_tokens: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    #[serde(borrow)]
    pub(super) model: Model<'a>,
}

#[derive(Deserialize)]
pub(super) struct Model<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_id: Option<u32>,
    dropout: Option<f64>,
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(super) end_of_word_suffix: Value,
    #[serde(default)]
    pub(super) unk_token: Value,
    #[serde(default)]
    pub(super) byte_fallback: Value,
    #[serde(default)]
    pub(super) fuse_unk: Value,
    #[serde(default)]
    pub(super) ignore_merges: Value,
    #[serde(borrow)]
    pub(super) vocab: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) merges: Option<&'a RawValue>,
}

/// What reads texts by a tokenizer.json.
pub(super) enum Reader {
    Own(Box<OwnModel>),
    Crate(Box<CrateModel>, Spelling),
}

/// Reads a tokenizer.json.
pub(super) fn read(json: &Location) -> Result<Reader> {
    let text = json.read_text()?;
    let damaged = |problem: String| Error::file(json.path(), format!("expected a tokenizer: {problem}"), HINT);
    let unsupported = |problem: String| {
        Error::unsupported(
            json.path(),
            problem,
            "take a model with a plain BPE tokenizer, or open an issue that names the model",
        )
    };

    let outline: Outline = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    let values = [&outline.normalizer, &outline.pre_tokenizer, &outline.post_processor, &outline.decoder];
    for ((part, members, known), value) in PARTS.into_iter().zip(values) {
        check_part(value, part, members, known).map_err(unsupported)?;
    }
    check_model(&outline.model).map_err(unsupported)?;
    if let Some(model) = byte_level_model::of_json(&outline) {
        return Ok(Reader::Own(Box::new(model)));
    }

    let tokenizer: Tokenizer = text.parse().map_err(|error: tokenizers::Error| damaged(error.to_string()))?;
    match tokenizer.get_model() {
        ModelWrapper::BPE(_) | ModelWrapper::Unigram(_) => {
            let spelling = Spelling::of(&outline.decoder);
            let unknown = match tokenizer.get_model() {
                ModelWrapper::BPE(bpe) => bpe.get_unk_token().as_deref().and_then(|name| tokenizer.token_to_id(name)),
                _ => outline.model.unk_id,
            };
            let model = CrateModel::new(tokenizer, unknown).map_err(|error| damaged(error.to_string()))?;
            Ok(Reader::Crate(Box::new(model), spelling))
        }
        _ => Err(unsupported("expected a BPE or Unigram model in the tokenizer, found another kind".to_owned())),
    }
}

fn check_part(value: &Value, part: &str, members: &str, known: &[&str]) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    let kind = value["type"].as_str().ok_or_else(|| format!("expected a `type` in every {part} of the tokenizer"))?;
    if kind == "Sequence" {
        let all = value[members]
            .as_array()
            .ok_or_else(|| format!("expected a list `{members}` in the {part} of the tokenizer"))?;
        return all.iter().try_for_each(|member| check_part(member, part, members, known));
    }
    if !known.contains(&kind) {
        return Err(format!("the tokenizer's {part} {} is not supported, only {} are", quote(kind), known.join(", ")));
    }
    let safe = match kind {
        "Replace" => replaces_something(&value["pattern"]),
        "Precompiled" => value["precompiled_charsmap"]
            .as_str()
            .and_then(from_base64)
            .is_some_and(|table| Charsmap::new(&table).is_ok_and(|table| table.is_sound())),
        "Strip" if part == "decoder" => value["stop"] == 0,
        "TemplateProcessing" => template_is_complete(value),
        _ => true,
    };
    if safe { Ok(()) } else { Err(format!("the tokenizer's {part} `{kind}` has a form that is not supported")) }
}

/// A pattern that is found in no empty text.
fn replaces_something(pattern: &Value) -> bool {
    let expression = |text: &str| regex_automata::meta::Regex::new(text).is_ok_and(|regex| !regex.is_match(""));
    match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
        (Some(text), None) => !text.is_empty(),
        (None, Some(text)) => expression(text),
        _ => false,
    }
}

/// Bytes of their base64, with padding.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0u32, 0);
    for c in digits.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// A template for one text that names only that text and tokens that it lists.
fn template_is_complete(value: &Value) -> bool {
    let pieces = value["single"].as_array().map(Vec::as_slice).unwrap_or_default();
    pieces.iter().all(|piece| match (piece["Sequence"]["id"].as_str(), piece["SpecialToken"]["id"].as_str()) {
        (Some(text), None) => text == "A",
        (None, Some(token)) => value["special_tokens"].get(token).is_some(),
        _ => false,
    })
}

fn check_model(model: &Model<'_>) -> Result<(), String> {
    // GPT-2's own file, older than the field, has no type.
    if let Some(kind) = model.kind.as_deref().filter(|kind| !["BPE", "Unigram"].contains(kind)) {
        return Err(format!("the tokenizer's model {} is not supported, only BPE and Unigram are", quote(kind)));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(
            "the tokenizer's `dropout` is not supported: the same text would give other tokens each time".to_owned()
        );
    }
    if model.continuing_subword_prefix.as_deref().is_some_and(|prefix| !prefix.is_empty()) {
        return Err("the tokenizer's `continuing_subword_prefix` is not supported".to_owned());
    }
    Ok(())
}
