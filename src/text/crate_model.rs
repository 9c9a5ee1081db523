//! A tokenizer.json run by the `tokenizers` crate, step by step as the crate does it, but for its first step: which tokens
//! are cut out of the text beforehand is for `added` to find, since the crate cannot be told where names are only text.

use std::ops::Range;

use tokenizers::normalizer::{NormalizedString, Range as In};
use tokenizers::{
    Model, ModelWrapper, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Result, Token, Tokenizer,
};

use super::added::{Added, AddedTokens, Specials};
use crate::error::quote;

/// A tokenizer of the crate and its added tokens.
pub(super) struct CrateModel {
    inner: Tokenizer,
    /// Tokens found in the text as it stands, and in the text once it is normalised.
    raw: AddedTokens,
    normalized: AddedTokens,
    /// What stands for text that the vocabulary lacks; special, and may still come from a text.
    unknown: Option<u32>,
}

impl CrateModel {
    pub(super) fn new(mut inner: Tokenizer, unknown: Option<u32>) -> Result<CrateModel> {
        inner.with_padding(None);
        inner.with_truncation(None)?;
        let (mut raw, mut normalized) = (Vec::new(), Vec::new());
        for (id, token) in inner.get_added_tokens_decoder() {
            let mut content = NormalizedString::from(token.content.as_str());
            if let Some(normalizer) = inner.get_normalizer().filter(|_| token.normalized) {
                normalizer.normalize(&mut content)?;
            }
            let added = Added {
                id,
                content: content.get().to_owned(),
                special: token.special,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                single_word: token.single_word,
            };
            if token.normalized { normalized.push(added) } else { raw.push(added) }
        }
        Ok(CrateModel { inner, raw: AddedTokens::new(raw)?, normalized: AddedTokens::new(normalized)?, unknown })
    }

    pub(super) fn inner(&self) -> &Tokenizer {
        &self.inner
    }

    /// The tokens of a text; `add_special_tokens` puts those around it that the tokenizer asks for.
    pub(super) fn encode(
        &self,
        text: &str,
        specials: Specials<'_>,
        add_special_tokens: bool,
        is_special: impl Fn(u32) -> bool,
    ) -> Result<Vec<u32>> {
        let mut pieces = PreTokenizedString::from(text);
        pieces.split(|_, piece| cut(&piece, &self.raw, specials))?;
        pieces.split(|_, mut piece| {
            if let Some(normalizer) = self.inner.get_normalizer() {
                normalizer.normalize(&mut piece)?;
            }
            cut(&piece, &self.normalized, specials)
        })?;
        if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        let model = self.inner.get_model();
        let structure = |id: u32| is_special(id) && self.unknown != Some(id);
        match specials {
            Specials::Parsed => pieces.tokenize(|piece| model.tokenize(piece.get()))?,
            _ => pieces.tokenize(|piece| without_special(model, piece.get(), &structure))?,
        }
        let encoding = pieces.into_encoding(None, 0, OffsetType::None)?;
        Ok(self.inner.post_process(encoding, None, add_special_tokens)?.get_ids().to_vec())
    }
}

type Piece = (NormalizedString, Option<Vec<Token>>);

/// Added tokens cut out of a piece.
fn cut(piece: &NormalizedString, added: &AddedTokens, specials: Specials<'_>) -> Result<Vec<Piece>> {
    let start = piece.offsets_original().0;
    let origin = |range: Range<usize>| match piece.convert_offsets(In::Normalized(range)) {
        Some(within) => start + within.start..start + within.end,
        None => start..start, // a range of nothing
    };
    let parts = added.split(piece.get(), specials, origin).into_iter().map(|(range, id)| {
        let part = piece.slice(In::Normalized(range.clone())).ok_or("a token that ends inside a character")?;
        let token = id.map(|id| vec![Token::new(id, part.get().to_owned(), (0, range.len()))]);
        Ok((part, token))
    });
    parts.collect()
}

/// A model's tokens of a text. Where a vocabulary has the name of a special token as a word of its own, the word is cut after
/// its first character.
fn without_special(model: &ModelWrapper, text: &str, is_structure: &impl Fn(u32) -> bool) -> Result<Vec<Token>> {
    let mut tokens = model.tokenize(text)?;
    let starts = tokens.iter().filter(|token| is_structure(token.id));
    let cuts: Vec<usize> = starts.map(|token| after_first_character(text, token.offsets.0)).collect();
    if cuts.is_empty() {
        return Ok(tokens);
    }
    tokens.clear();
    let mut start = 0;
    for end in cuts.into_iter().chain([text.len()]) {
        if end - start == text.len() {
            return Err(format!("the vocabulary has no word for {}, only a special token", quote(text)).into());
        }
        if start < end {
            tokens.extend(without_special(model, &text[start..end], is_structure)?);
        }
        start = end;
    }
    Ok(tokens)
}

fn after_first_character(text: &str, start: usize) -> usize {
    start + text[start..].chars().next().map_or(0, char::len_utf8)
}
