//! tokenizer_config.json, where the tokenizer itself is older than it: which class of transformers reads the files, and which
//! tokens were added.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::tokenizer_json::HINT;
use crate::error::{Error, Result, quote};
use crate::source::Location;

/// What of the file is read.
#[derive(Default, Deserialize)]
pub(super) struct Config {
    tokenizer_class: Option<String>,
    pub(super) legacy: Option<bool>,
    pub(super) add_prefix_space: Option<bool>,
    pub(super) add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
    #[serde(default)]
    bos_token: Value,
    #[serde(default)]
    eos_token: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    pad_token: Value,
    #[serde(default)]
    additional_special_tokens: Vec<Value>,
    #[serde(default)]
    added_tokens_decoder: Map<String, Value>,
}

/// A token that was added after the vocabulary was made.
#[derive(Deserialize)]
pub(super) struct AddedLater {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) special: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) single_word: bool,
    pub(super) normalized: bool,
}

impl Config {
    /// Reads the file beside another of the tokenizer's, if there is one.
    pub(super) fn beside(file: &Location) -> Result<Config> {
        let Location::Disk(path) = file else { return Ok(Config::default()) };
        let path = path.with_file_name("tokenizer_config.json");
        if !path.is_file() {
            return Ok(Config::default());
        }
        let text = Location::Disk(path.clone()).read_text()?;
        serde_json::from_str(&text)
            .map_err(|error| Error::file(&path, format!("expected a tokenizer's settings: {error}"), HINT))
    }

    /// The class, without the ending that says that it is written in Rust.
    pub(super) fn class(&self) -> Option<&str> {
        self.tokenizer_class.as_deref().map(|class| class.strip_suffix("Fast").unwrap_or(class))
    }

    pub(super) fn begin(&self) -> Option<&str> {
        content(&self.bos_token)
    }

    pub(super) fn end(&self) -> Option<&str> {
        content(&self.eos_token)
    }

    /// The names of tokens that mark structure.
    pub(super) fn special(&self) -> impl Iterator<Item = &str> {
        let named = [&self.bos_token, &self.eos_token, &self.unk_token, &self.pad_token];
        named.into_iter().chain(&self.additional_special_tokens).filter_map(content)
    }

    /// Tokens that were added, by their numbers.
    pub(super) fn added(&self) -> Result<Vec<AddedLater>, String> {
        let added = self.added_tokens_decoder.iter().map(|(id, token)| {
            let wrong =
                || format!("expected a number and a token with `content` as an added token, found {}", quote(id));
            let flag = |name: &str| token[name] == true;
            Ok(AddedLater {
                id: id.parse().map_err(|_| wrong())?,
                content: token["content"].as_str().ok_or_else(wrong)?.to_owned(),
                special: flag("special"),
                lstrip: flag("lstrip"),
                rstrip: flag("rstrip"),
                single_word: flag("single_word"),
                normalized: flag("normalized"),
            })
        });
        let mut added = added.collect::<Result<Vec<AddedLater>, String>>()?;
        added.sort_unstable_by_key(|token| token.id);
        Ok(added)
    }
}

/// A token's name, which may stand alone or with how it is matched.
fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}
