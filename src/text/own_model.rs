//! A tokenizer of ours: for the plain lists of GGUF files and of SentencePiece, and for those tokenizer.json whose form it does
//! exactly.
//!
//! The `tokenizers` crate has the same algorithms, with every name several times in memory; a list of 150,000 tokens and as
//! many merges is ready here in a fraction of the time.

use std::ops::Range;

use tokenizers::normalizer::{NormalizedString, Range as In};

use super::added::{Added, AddedTokens, Specials};
use super::bpe::Merges;
use super::byte_level::{byte_of, character_of};
use super::charsmap::Charsmap;
use super::spm::Scores;
use super::unigram::Unigram;
use super::vocabulary::{Kind, Vocabulary, named_byte};
use super::words::Words;
use crate::error::quote;

/// How text becomes tokens.
pub(super) enum Algorithm {
    /// Merges in the order in which they were learned, within words.
    Bpe { merges: Merges, words: Words, bytes: Box<[Option<u32>; 256]> },
    /// Merges by score, across the text.
    Spm(Scores),
    /// The best sum of scores. Runs of spaces are one space where `merge_spaces`.
    Unigram { unigram: Unigram, charsmap: Charsmap, merge_spaces: bool },
}

/// Where a space goes before text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpacePrefix {
    /// Nowhere.
    Never,
    /// Before the text and what follows a token that was cut out of it, as llama.cpp does it.
    EveryPiece,
    /// The same, but not where there is one already: transformers' `legacy`.
    EveryPieceWithout,
    /// Before the text alone, unless there is one already, as transformers does it.
    TextWithout,
}

impl SpacePrefix {
    /// Whether it goes before text that begins at `start` of all and follows a token or nothing.
    fn goes_before(self, text: &str, start: usize, after_token: bool) -> bool {
        let without = !text.starts_with([' ', '▁']);
        match self {
            SpacePrefix::Never => false,
            SpacePrefix::EveryPiece => after_token,
            SpacePrefix::EveryPieceWithout => after_token && without,
            SpacePrefix::TextWithout => start == 0 && without,
        }
    }
}

/// What a file says of a vocabulary beside its tokens.
pub(super) struct Habits {
    pub(super) space_prefix: SpacePrefix,
    /// The tokens that go around a text.
    pub(super) begin: Option<u32>,
    pub(super) end: Option<u32>,
    /// Special tokens that take the white space after them.
    pub(super) rstrip: Vec<u32>,
}

/// What is read as whom, where it is not the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// The names of added tokens are plain text, and none of them is a word.
    LlamaCpp,
    /// The names of added tokens are spelled like all others, and the first so many tokens are words.
    Transformers(u32),
}

/// The tokens that are cut out of a text: of the text as it stands, and of its characters composed.
#[derive(Default)]
pub(super) struct Cut {
    pub(super) raw: Vec<Added>,
    pub(super) normalized: Vec<Added>,
}

/// A vocabulary and its algorithm.
pub(super) struct OwnModel {
    vocabulary: Vocabulary,
    algorithm: Algorithm,
    added: AddedTokens,
    normalized: AddedTokens,
    habits: Habits,
    manner: Manner,
}

impl OwnModel {
    pub(super) fn new(vocabulary: Vocabulary, algorithm: Algorithm, habits: Habits) -> Result<OwnModel, String> {
        let mut added = Vec::new();
        for id in 0..vocabulary.len() as u32 {
            let special = matches!(vocabulary.kind(id), Kind::Control | Kind::Unknown);
            if !special && vocabulary.kind(id) != Kind::UserDefined {
                continue;
            }
            let content = std::str::from_utf8(vocabulary.name(id))
                .map_err(|_| format!("expected UTF-8 in the name of token {id}, found {}", vocabulary.quoted(id)))?;
            let rstrip = habits.rstrip.contains(&id);
            added.push(Added { id, content: content.to_owned(), special, lstrip: false, rstrip, single_word: false });
        }
        let (added, normalized) = (AddedTokens::new(added)?, AddedTokens::default());
        Ok(OwnModel { vocabulary, algorithm, added, normalized, habits, manner: Manner::LlamaCpp })
    }

    /// What transformers makes of a byte-level vocabulary, whose first `learned` tokens are what merges and whole words can
    /// become.
    pub(super) fn of_transformers(
        vocabulary: Vocabulary,
        algorithm: Algorithm,
        learned: u32,
        cut: Cut,
        (begin, end): (Option<u32>, Option<u32>),
    ) -> Result<OwnModel, String> {
        let (added, normalized) = (AddedTokens::new(cut.raw)?, AddedTokens::new(cut.normalized)?);
        let habits = Habits { space_prefix: SpacePrefix::Never, begin, end, rstrip: Vec::new() };
        Ok(OwnModel { vocabulary, algorithm, added, normalized, habits, manner: Manner::Transformers(learned) })
    }

    pub(super) fn len(&self) -> usize {
        self.vocabulary.len()
    }

    pub(super) fn name(&self, id: u32) -> Option<String> {
        let known = (id as usize) < self.len();
        known.then(|| String::from_utf8_lossy(self.vocabulary.name(id)).into_owned())
    }

    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.vocabulary.id(name.as_bytes())
    }

    /// The tokens that are cut out of a text beforehand, and whether they mark structure.
    pub(super) fn added(&self) -> impl Iterator<Item = (&str, bool)> {
        self.added.names().chain(self.normalized.names())
    }

    /// The tokens that mark structure.
    pub(super) fn special(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len() as u32).filter(|id| self.is_structure(*id))
    }

    fn is_structure(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), Kind::Control | Kind::Unknown)
    }

    /// True where names are spelled in GPT-2's table of bytes.
    pub(super) fn is_byte_level(&self) -> bool {
        matches!(&self.algorithm, Algorithm::Bpe { words, .. } if !words.habits.raw)
    }

    /// True where characters are changed before they become tokens.
    pub(super) fn normalizes(&self) -> bool {
        !matches!(&self.algorithm, Algorithm::Bpe { words, .. } if !words.habits.nfc)
    }

    /// Spaces that a text loses at its start: those that were put there.
    pub(super) fn indent(&self) -> usize {
        usize::from(self.habits.space_prefix != SpacePrefix::Never)
    }

    pub(super) fn kind(&self) -> &'static str {
        match &self.algorithm {
            Algorithm::Bpe { words, .. } if words.habits.raw => "BPE over characters",
            Algorithm::Bpe { .. } => "byte-level BPE",
            Algorithm::Spm(_) => "SentencePiece BPE",
            Algorithm::Unigram { .. } => "SentencePiece unigram",
        }
    }

    /// Appends what a token stands for.
    pub(super) fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        if id as usize >= self.len() {
            return;
        }
        let name = self.vocabulary.name(id);
        match self.vocabulary.kind(id) {
            _ if self.manner != Manner::LlamaCpp => append_spelled(name, bytes),
            Kind::Control | Kind::Unknown | Kind::UserDefined => bytes.extend_from_slice(name),
            Kind::Byte => match named_byte(name) {
                Some(byte) => bytes.push(byte),
                None => bytes.extend_from_slice(name),
            },
            Kind::Normal | Kind::Unused if self.is_byte_level() => append_spelled(name, bytes),
            Kind::Normal | Kind::Unused => match named_byte(name) {
                Some(byte) => bytes.push(byte),
                None => append_with_spaces(name, bytes),
            },
        }
    }

    /// The byte that a token stands for, where it is one.
    pub(super) fn byte_token(&self, id: u32) -> Option<u8> {
        let is_text = |kind| matches!(kind, Kind::Byte | Kind::Normal | Kind::Unused);
        if id as usize >= self.len() || !is_text(self.vocabulary.kind(id)) {
            return None;
        }
        named_byte(self.vocabulary.name(id))
    }

    /// The tokens of a text; `add_special_tokens` puts those around it that the file asks for. An error names a part of the
    /// text that the vocabulary lacks.
    pub(super) fn encode(
        &self,
        text: &str,
        specials: Specials<'_>,
        add_special_tokens: bool,
    ) -> Result<Vec<u32>, String> {
        let mut ids: Vec<u32> = self.habits.begin.filter(|_| add_special_tokens).into_iter().collect();
        let mut after_token = true;
        for (range, token) in self.added.split(text, specials, |range| range) {
            match token {
                Some(token) => ids.push(token),
                None => {
                    let piece = &text[range.clone()];
                    let space = self.habits.space_prefix.goes_before(piece, range.start, after_token);
                    self.encode_between(piece, range.start, space, specials, &mut ids).map_err(|part| {
                        format!("the vocabulary has no token for {} and none for its bytes", quote(&part))
                    })?;
                }
            }
            after_token = token.is_some();
        }
        ids.extend(self.habits.end.filter(|_| add_special_tokens));
        Ok(ids)
    }

    /// Appends the tokens of text that begins at `start` of all, once those are cut out too that are looked for in composed
    /// characters.
    fn encode_between(
        &self,
        text: &str,
        start: usize,
        space: bool,
        specials: Specials<'_>,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        let as_text = specials != Specials::Parsed;
        if self.normalized.is_empty() {
            return self.encode_piece(text, space, as_text, ids);
        }
        let composed = composed(self.normalizes(), text);
        let origin = |range: Range<usize>| match &composed {
            Some(composed) => match composed.convert_offsets(In::Normalized(range)) {
                Some(within) => start + within.start..start + within.end,
                None => start..start, // a range of nothing
            },
            None => start + range.start..start + range.end,
        };
        let text = composed.as_ref().map_or(text, NormalizedString::get);
        for (range, token) in self.normalized.split(text, specials, origin) {
            match token {
                Some(token) => ids.push(token),
                None => self.encode_piece(&text[range], space, as_text, ids)?,
            }
        }
        Ok(())
    }

    /// Appends the tokens of text between tokens that were cut out. No structure comes of it where it is read `as_text`.
    fn encode_piece(&self, text: &str, space: bool, as_text: bool, ids: &mut Vec<u32>) -> Result<(), String> {
        let spaced = |text: &str| {
            let before = if space { "▁" } else { "" };
            before.to_owned() + &text.replace(' ', "▁")
        };
        match &self.algorithm {
            Algorithm::Spm(scores) => scores.encode(&self.vocabulary, &spaced(text), ids),
            Algorithm::Unigram { unigram, charsmap, merge_spaces } => {
                let mut text = charsmap.apply(text);
                if *merge_spaces {
                    text = text.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
                }
                if text.is_empty() { Ok(()) } else { unigram.encode(&self.vocabulary, &spaced(&text), ids) }
            }
            Algorithm::Bpe { merges, words, bytes } => {
                let mut cut = |text: &str| {
                    words.cut(text, &mut |word| {
                        match self.whole_line_breaks(words, word) {
                            Some(id) => ids.push(id),
                            None if words.habits.raw => self.characters(merges, bytes, word, ids)?,
                            None => self.word(merges, words, bytes, word.as_bytes(), as_text, ids),
                        }
                        Ok(())
                    })
                };
                if words.habits.raw {
                    cut(&spaced(text))
                } else {
                    let composed = composed(words.habits.nfc, text);
                    let text = composed.as_ref().map_or(text, NormalizedString::get);
                    let space = words.habits.prefix_space && !text.starts_with(' ');
                    if space { cut(&format!(" {text}")) } else { cut(text) }
                }
            }
        }
    }

    /// A run of line breaks that is a token before any merge, as Gemma 4 has them.
    fn whole_line_breaks(&self, words: &Words, word: &str) -> Option<u32> {
        let breaks = words.habits.raw && word.bytes().all(|byte| byte == b'\n');
        if breaks { self.vocabulary.id(word.as_bytes()).filter(|id| self.is_text(*id)) } else { None }
    }

    /// A token that may be a word.
    fn is_text(&self, id: u32) -> bool {
        match self.manner {
            Manner::LlamaCpp => matches!(self.vocabulary.kind(id), Kind::Normal | Kind::UserDefined),
            Manner::Transformers(learned) => id < learned,
        }
    }

    /// A word of bytes: the token of this name, or merges.
    fn word(
        &self,
        merges: &Merges,
        words: &Words,
        of: &[Option<u32>; 256],
        word: &[u8],
        as_text: bool,
        ids: &mut Vec<u32>,
    ) {
        if words.habits.ignore_merges {
            let spelled: String = word.iter().map(|byte| character_of(*byte)).collect();
            match self.vocabulary.id(spelled.as_bytes()).filter(|id| self.is_text(*id)) {
                // The name of a special token is cut after its first character, as in `crate_model`.
                Some(id) if as_text && self.is_structure(id) && word.len() > 1 => {
                    let (first, rest) = word.split_at(1);
                    self.word(merges, words, of, first, as_text, ids);
                    return self.word(merges, words, of, rest, as_text, ids);
                }
                Some(id) => return ids.push(id),
                None => {}
            }
        }
        self.bytes(merges, of, word, ids);
    }

    /// A word as merges of its bytes. Some vocabularies have no token for some control characters, which are left out as if
    /// they were not written, as by Python's tokenizers.
    fn bytes(&self, merges: &Merges, of: &[Option<u32>; 256], word: &[u8], ids: &mut Vec<u32>) {
        let mut symbols = word.iter().filter_map(|byte| of[*byte as usize]).collect();
        merges.apply(&mut symbols);
        ids.extend(symbols);
    }

    /// A word as merges of its characters, with those that are no token in bytes.
    fn characters(
        &self,
        merges: &Merges,
        bytes: &[Option<u32>; 256],
        word: &str,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        let mut symbols = Vec::new();
        let mut buffer = [0; 4];
        for c in word.chars() {
            let name = c.encode_utf8(&mut buffer);
            match self.vocabulary.id(name.as_bytes()) {
                Some(id) => symbols.push(id),
                None => {
                    merges.apply(&mut symbols);
                    ids.append(&mut symbols);
                    for byte in name.bytes() {
                        ids.push(bytes[byte as usize].ok_or_else(|| c.to_string())?);
                    }
                }
            }
        }
        merges.apply(&mut symbols);
        ids.extend(symbols);
        Ok(())
    }
}

/// A text with its characters composed, if they should be and may have to: none below U+0300 ever is with the one before.
fn composed(nfc: bool, text: &str) -> Option<NormalizedString> {
    (nfc && text.chars().any(|c| c >= '\u{300}')).then(|| {
        let mut text = NormalizedString::from(text);
        text.nfc();
        text
    })
}

/// Appends the bytes that a name of GPT-2's table spells; a name with other characters is itself.
fn append_spelled(name: &[u8], bytes: &mut Vec<u8>) {
    let spelled =
        std::str::from_utf8(name).ok().and_then(|name| name.chars().map(byte_of).collect::<Option<Vec<u8>>>());
    match spelled {
        Some(spelled) => bytes.extend(spelled),
        None => bytes.extend_from_slice(name),
    }
}

/// Appends a name whose spaces are `▁`.
fn append_with_spaces(name: &[u8], bytes: &mut Vec<u8>) {
    match std::str::from_utf8(name) {
        Ok(name) => bytes.extend_from_slice(name.replace('▁', " ").as_bytes()),
        Err(_) => bytes.extend_from_slice(name),
    }
}
