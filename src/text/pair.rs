//! GPT-2's own form of a tokenizer: vocab.json, names to ids, and merges.txt, one merge a line, best first.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::json;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer};

use super::byte_level_model::{self, Names, Resolved, Said};
use super::crate_model::CrateModel;
use super::own_model::OwnModel;
use super::splits::Splits;
use super::tokenizer_config::{AddedLater, Config};
use super::tokenizer_json::{HINT, Reader, Spelling};
use super::words::{GPT2, QWEN2, Step};
use crate::error::{Error, Result, quote};
use crate::source::Location;

/// Reads both, and the class and added tokens of a tokenizer_config.json beside them.
pub(super) fn read(vocab: &Location, merges: &Location) -> Result<Reader> {
    if let Some(model) = own(vocab, merges) {
        return Ok(Reader::Own(Box::new(model)));
    }
    let failed = |error: tokenizers::Error| Error::file(vocab.path(), error.to_string(), HINT);
    let model = CrateModel::new(tokenizer(vocab, merges)?, None).map_err(failed)?;
    Ok(Reader::Crate(Box::new(model), Spelling::ByteLevel))
}

/// A model of ours, where nothing is damaged or unusual.
pub(super) fn own(vocab: &Location, merges: &Location) -> Option<OwnModel> {
    let config = Config::beside(vocab).ok()?;
    let (nfc, step) = way(config.class())?;
    let names: Names = serde_json::from_str(&vocab.read_text().ok()?).ok()?;
    let lines = merges.read_text().ok()?;
    let named = |(name, id)| Some((std::str::from_utf8(name).ok()?, id));
    let mut added = markers(names.iter().filter_map(named), &config);
    added.extend(config.added().ok()?.into_iter().map(|token| (token.id, token)));
    let begin = begin(&config).map(|begin| {
        let known =
            names.iter().filter_map(named).chain(added.values().map(|token| (token.content.as_str(), token.id)));
        known.into_iter().find(|(name, _)| *name == begin).map(|(_, id)| id)
    });
    let begin = if let Some(begin) = begin { Some(begin?) } else { None };
    let said = Said {
        names,
        added: added.into_values().collect(),
        splits: Splits { steps: vec![step], prefix_space: false },
        nfc,
        ignore_merges: false,
        unknown: None,
    };
    byte_level_model::build(said, (begin, None), |vocabulary, learned| {
        let mut found = Resolved::new(vocabulary, learned);
        for (_, line) in merge_lines(&lines) {
            let (left, right) = line.split_once(' ')?;
            found.push(left.as_bytes(), right.as_bytes())?;
        }
        Some(found.merges)
    })
}

/// Whether a class of transformers composes characters, and how it cuts texts into words.
fn way(class: Option<&str>) -> Option<(bool, Step)> {
    match class {
        None | Some("GPT2Tokenizer" | "CodeGenTokenizer" | "PreTrainedTokenizer") => Some((false, GPT2)),
        Some("GPTNeoXTokenizer") => Some((true, GPT2)),
        Some("Qwen2Tokenizer") => Some((true, QWEN2)),
        Some(_) => None,
    }
}

/// Names that mark structure, by their spelling or by the settings; in the order of their numbers and each once, since the crate
/// gives numbers in that order.
fn markers<'a>(names: impl Iterator<Item = (&'a str, u32)>, config: &Config) -> BTreeMap<u32, AddedLater> {
    let is_special = |name: &str| is_marker(name) || config.special().any(|special| special == name);
    let marker = |(name, id): (&str, u32)| {
        let content = name.to_owned();
        (
            id,
            AddedLater {
                id,
                content,
                special: true,
                lstrip: false,
                rstrip: false,
                single_word: false,
                normalized: false,
            },
        )
    };
    names.filter(|(name, _)| is_special(name)).map(marker).collect()
}

/// The token before every text.
fn begin(config: &Config) -> Option<&str> {
    config.begin().filter(|_| config.add_bos_token == Some(true))
}

/// The same as the crate's own.
pub(super) fn tokenizer(vocab: &Location, merges: &Location) -> Result<Tokenizer> {
    let mut names: HashMap<String, u32> = serde_json::from_str(&vocab.read_text()?)
        .map_err(|error| Error::file(vocab.path(), format!("expected an object of tokens and ids: {error}"), HINT))?;
    let pairs = parse_merges(&merges.read_text()?, &names, merges.path())?;
    let config = Config::beside(vocab)?;
    let damaged = |problem: String| Error::file(vocab.path(), problem, HINT);
    let failed = |error: tokenizers::Error| damaged(error.to_string());

    let mut added = markers(names.iter().map(|(name, id)| (name.as_str(), *id)), &config);
    let size = names.values().max().map_or(0, |id| *id as usize + 1);
    for token in config.added().map_err(damaged)? {
        let known = names.get(&token.content).copied();
        if known.is_some_and(|known| known != token.id) || known.is_none() && token.id as usize != names.len().max(size)
        {
            let found = format!("{} as token {}", quote(&token.content), token.id);
            return Err(damaged(format!(
                "expected the tokens of tokenizer_config.json beside those of the file, found {found}"
            )));
        }
        names.insert(token.content.clone(), token.id);
        added.insert(token.id, token);
    }
    let matched = added.into_values().map(|token| {
        AddedToken::from(token.content, token.special)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .single_word(token.single_word)
            .normalized(token.normalized)
    });

    let begin = begin(&config).map(str::to_owned);
    let model = BPE::builder()
        .vocab_and_merges(names.iter().map(|(name, id)| (name.clone(), *id)).collect::<Vocab>(), pairs)
        .build()
        .map_err(failed)?;
    let mut inner = Tokenizer::new(model);
    let spelled = ByteLevel::new(false, true, false); // no space in front, offsets trimmed, words were cut before
    let Some((nfc, step)) = way(config.class()) else {
        return Err(Error::unsupported(
            vocab.path(),
            format!("vocab.json and merges.txt of a {} are not supported", quote(config.class().unwrap_or_default())),
            "take a model with a tokenizer.json, or convert this one's with transformers",
        ));
    };
    if nfc {
        inner.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    let words = match step {
        GPT2 => PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)), // by GPT-2's expression
        step => {
            let pattern = SplitPattern::Regex(step.pattern());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
            PreTokenizerWrapper::Sequence(Sequence::new(vec![split.into(), spelled.into()]))
        }
    };
    inner.with_pre_tokenizer(Some(words));
    inner.with_decoder(Some(DecoderWrapper::ByteLevel(spelled)));
    inner.add_tokens(matched.collect::<Vec<_>>()).map_err(failed)?;
    let around = match begin {
        None => PostProcessorWrapper::ByteLevel(spelled),
        Some(begin) => {
            let id = inner.token_to_id(&begin);
            let id = id.ok_or_else(|| damaged(format!("expected the token {}, found none", quote(&begin))))?;
            template(&begin, id).map_err(|error| damaged(error.to_string()))?
        }
    };
    inner.with_post_processor(Some(around));
    Ok(inner)
}

/// A token before every text.
fn template(begin: &str, id: u32) -> serde_json::Result<PostProcessorWrapper> {
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let first = json!({ "SpecialToken": { "id": begin, "type_id": 0 } });
    serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": [first, text("A")],
        "pair": [first, text("A"), text("B")],
        "special_tokens": { begin: { "id": begin, "ids": [id], "tokens": [begin] } },
    }))
}

/// `<|endoftext|>` and whatever else is spelled like it.
fn is_marker(name: &str) -> bool {
    name.starts_with("<|") && name.ends_with("|>")
}

/// The lines that are merges, and which lines they are.
fn merge_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_merge = |(number, line): &(usize, &str)| !line.is_empty() && (*number > 0 || !line.starts_with("#version"));
    text.lines().enumerate().filter(is_merge)
}

fn parse_merges(text: &str, vocab: &HashMap<String, u32>, path: &Path) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (number, line) in merge_lines(text) {
        let wrong =
            |found: &str| Error::file(path, format!("line {}: {found}, found {}", number + 1, quote(line)), HINT);
        let (left, right) =
            line.split_once(' ').ok_or_else(|| wrong("expected two tokens and a space between them"))?;
        if ![left.to_owned(), right.to_owned(), format!("{left}{right}")].iter().all(|token| vocab.contains_key(token))
        {
            return Err(wrong("expected two tokens of vocab.json whose concatenation is a third"));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}
