//! The tokenizer that a GGUF file carries: `tokenizer.ggml.*`.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer as Inner};

use super::tokenizer_json::Spelling;
use crate::error::{Result, quote};
use crate::gguf::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const TYPES: &str = "tokenizer.ggml.token_type";

/// Tokens that are no text.
const CONTROL: i64 = 3;
/// Tokens that are found in a text before it is split.
const USER_DEFINED: i64 = 4;

/// Builds the tokenizer.
pub(super) fn open(metadata: &Metadata) -> Result<(Inner, Spelling)> {
    let model = metadata.string(MODEL)?.ok_or_else(|| metadata.missing(MODEL))?;
    if model != "gpt2" {
        let problem = format!("`{MODEL}` of {} is not supported, only `gpt2` is", quote(model));
        return Err(metadata.unsupported(problem, "take the model in safetensors with its tokenizer.json"));
    }
    let text = |key: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(metadata.wrong(key, "strings in UTF-8", "other bytes".to_owned())),
    };
    let tokens = metadata.strings(TOKENS)?.ok_or_else(|| metadata.missing(TOKENS))?;
    let tokens = tokens.map(|token| text(TOKENS, token)).collect::<Result<Vec<_>>>()?;
    let vocab: Vocab = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let mut merges = Vec::new();
    for merge in metadata.strings(MERGES)?.ok_or_else(|| metadata.missing(MERGES))? {
        let merge = text(MERGES, merge)?;
        let known = |part: &str| vocab.contains_key(part);
        match merge.split_once(' ') {
            Some((left, right)) if known(left) && known(right) && known(&format!("{left}{right}")) => {
                merges.push((left.to_owned(), right.to_owned()));
            }
            _ => return Err(metadata.wrong(MERGES, "pairs of tokens whose concatenation is a third", quote(&merge))),
        }
    }
    let failed = |error: tokenizers::Error| metadata.wrong(TOKENS, "a vocabulary", error.to_string());
    let mut inner = Inner::new(BPE::builder().vocab_and_merges(vocab, merges).build().map_err(failed)?);
    let byte_level = ByteLevel::new(false, true, true);
    let split = match metadata.string(PRE)?.unwrap_or("default") {
        "gpt-2" => PreTokenizerWrapper::ByteLevel(byte_level),
        "smollm" => {
            let digits = PreTokenizerWrapper::Digits(Digits::new(true));
            PreTokenizerWrapper::Sequence(Sequence::new(vec![digits, PreTokenizerWrapper::ByteLevel(byte_level)]))
        }
        other => {
            let problem = format!("`{PRE}` of {} is not supported, only `gpt-2` and `smollm` are", quote(other));
            return Err(metadata.unsupported(problem, "take the model in safetensors with its tokenizer.json"));
        }
    };
    inner.with_pre_tokenizer(Some(split));
    inner.with_post_processor(Some(PostProcessorWrapper::ByteLevel(byte_level)));
    inner.with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
    let types = metadata.integers(TYPES)?.unwrap_or_default();
    let kinds =
        |wanted: i64| tokens.iter().zip(&types).filter(move |(_, kind)| **kind == wanted).map(|(token, _)| token);
    let special: Vec<_> = kinds(CONTROL).map(|token| AddedToken::from(token.clone(), true).normalized(false)).collect();
    let added: Vec<_> =
        kinds(USER_DEFINED).map(|token| AddedToken::from(token.clone(), false).normalized(false)).collect();
    inner.add_special_tokens(special).map_err(failed)?;
    inner.add_tokens(added).map_err(failed)?;
    Ok((inner, Spelling::ByteLevel))
}
