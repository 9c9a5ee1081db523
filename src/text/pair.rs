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

use super::crate_model::CrateModel;
use super::tokenizer_config::Config;
use super::tokenizer_json::HINT;
use super::words::QWEN2_IN_FULL;
use crate::error::{Error, Result, quote};
use crate::source::Location;

/// Reads both, and the class and added tokens of a tokenizer_config.json beside them.
pub(super) fn read(vocab: &Location, merges: &Location) -> Result<CrateModel> {
    let failed = |error: tokenizers::Error| Error::file(vocab.path(), error.to_string(), HINT);
    CrateModel::new(tokenizer(vocab, merges)?, None).map_err(failed)
}

/// The same as the crate's own.
pub(super) fn tokenizer(vocab: &Location, merges: &Location) -> Result<Tokenizer> {
    let mut names: HashMap<String, u32> = serde_json::from_str(&vocab.read_text()?)
        .map_err(|error| Error::file(vocab.path(), format!("expected an object of tokens and ids: {error}"), HINT))?;
    let pairs = parse_merges(&merges.read_text()?, &names, merges.path())?;
    let config = Config::beside(vocab)?;
    let damaged = |problem: String| Error::file(vocab.path(), problem, HINT);
    let failed = |error: tokenizers::Error| damaged(error.to_string());

    // In the order of their ids, and each once: the crate gives ids in that order.
    let mut added: BTreeMap<u32, AddedToken> = BTreeMap::new();
    for (name, id) in &names {
        if is_marker(name) || config.special().any(|special| special == name) {
            added.insert(*id, AddedToken::from(name.clone(), true));
        }
    }
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
        let matched = AddedToken::from(token.content, token.special)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .single_word(token.single_word)
            .normalized(token.normalized);
        added.insert(token.id, matched);
    }

    let begin = config.begin().filter(|_| config.add_bos_token == Some(true)).map(str::to_owned);
    let model = BPE::builder()
        .vocab_and_merges(names.iter().map(|(name, id)| (name.clone(), *id)).collect::<Vocab>(), pairs)
        .build()
        .map_err(failed)?;
    let mut inner = Tokenizer::new(model);
    let spelled = ByteLevel::new(false, true, false); // no space in front, offsets trimmed, words were cut before
    let words = match config.class() {
        None | Some("GPT2Tokenizer" | "CodeGenTokenizer" | "PreTrainedTokenizer") => {
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)) // by GPT-2's expression
        }
        Some("GPTNeoXTokenizer") => {
            inner.with_normalizer(Some(NFC)).map_err(failed)?;
            PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true))
        }
        Some("Qwen2Tokenizer") => {
            inner.with_normalizer(Some(NFC)).map_err(failed)?;
            let pattern = SplitPattern::Regex(QWEN2_IN_FULL.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
            PreTokenizerWrapper::Sequence(Sequence::new(vec![split.into(), spelled.into()]))
        }
        Some(class) => {
            return Err(Error::unsupported(
                vocab.path(),
                format!("vocab.json and merges.txt of a {} are not supported", quote(class)),
                "take a model with a tokenizer.json, or convert this one's with transformers",
            ));
        }
    };
    inner.with_pre_tokenizer(Some(words));
    inner.with_decoder(Some(DecoderWrapper::ByteLevel(spelled)));
    inner.add_tokens(added.into_values().collect::<Vec<_>>()).map_err(failed)?;
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

fn parse_merges(text: &str, vocab: &HashMap<String, u32>, path: &Path) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.is_empty() || number == 0 && line.starts_with("#version") {
            continue;
        }
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
