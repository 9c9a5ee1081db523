//! Strings → tokens and tokens → bytes, on the `tokenizers` crate.
//!
//! What the crate leaves to us: GPT-2's original pair of files, truncation and padding that a tokenizer.json may carry
//! and a generator must not apply, and the exact bytes of one token, which streaming and stop strings are built on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::OnceLock;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, PostProcessorWrapper, PreTokenizerWrapper, Tokenizer as Inner};

use super::added::Specials;
use super::crate_model::CrateModel;
use super::stream::take_whole_characters;
use super::tokenizer_json::{self, HINT, Spelling};
use crate::error::{Error, Result, quote};
use crate::hub::Hub;
use crate::source::{Location, Source, TokenizerFiles};

/// A model's tokenizer.
pub struct Tokenizer {
    model: CrateModel,
    special: HashSet<u32>,
    /// One more than the largest id.
    id_limit: usize,
    spelling: Spelling,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("id_limit", &self.id_limit).finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// A model's tokenizer without its weights: of `ember`, a folder, a `.safetensors` file with its siblings, or a model
    /// of the Hub, of which no more than the tokenizer is fetched.
    pub fn load(name: &str) -> Result<Tokenizer> {
        match Source::local(name)? {
            Some(source) => Tokenizer::open(&source.tokenizer),
            None => Tokenizer::open(&Hub::from_env()?.tokenizer(name)?),
        }
    }

    /// The same, with a Hub that is not the environment's.
    pub fn load_with(name: &str, hub: &Hub) -> Result<Tokenizer> {
        match Source::local(name)? {
            Some(source) => Tokenizer::open(&source.tokenizer),
            None => Tokenizer::open(&hub.tokenizer(name)?),
        }
    }

    /// Reads the tokenizer's files.
    pub(crate) fn open(files: &TokenizerFiles) -> Result<Tokenizer> {
        let ((inner, spelling), path) = match files {
            TokenizerFiles::Json(json) => (tokenizer_json::read(json)?, json.path()),
            TokenizerFiles::VocabAndMerges(vocab, merges) => {
                ((from_vocab_and_merges(vocab, merges)?, Spelling::ByteLevel), vocab.path())
            }
        };
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let id_limit = inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if id_limit == 0 {
            return Err(Error::file(path, "expected a vocabulary, found no token", HINT));
        }
        let model = CrateModel::new(inner).map_err(|error| Error::file(path, error.to_string(), HINT))?;
        Ok(Tokenizer { model, special, id_limit, spelling })
    }

    /// The tokens of a text. `<|endoftext|>` and its like in the text become the tokens of that name, as in transformers.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, Specials::Parsed, true)
    }

    /// The tokens of a text, without those that the tokenizer adds around it (such as a begin-of-text token).
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, Specials::Parsed, false)
    }

    /// The tokens of a text, without those that the tokenizer adds around it, where some or all of it is text and nothing but
    /// text: no special token comes from there, whatever is written.
    pub fn encode_text(&self, text: &str, specials: Specials<'_>) -> Result<Vec<u32>> {
        self.encode_with(text, specials, false)
    }

    fn encode_with(&self, text: &str, specials: Specials<'_>, add_special_tokens: bool) -> Result<Vec<u32>> {
        match self.model.encode(text, specials, add_special_tokens, |id| self.is_special(id)) {
            Ok(ids) => Ok(ids),
            Err(error) => Err(Error::prompt(format!("the tokenizer cannot read the text: {error}"), "")),
        }
    }

    /// The text of some tokens, at once. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        if self.spelling == Spelling::Other {
            // A decoder fails only on what it did not make itself; such tokens have no text.
            return self.model.inner().decode(ids, skip_special_tokens).unwrap_or_default();
        }
        let mut bytes = Vec::new();
        for id in ids {
            if !(skip_special_tokens && self.is_special(*id)) {
                self.append_bytes(*id, &mut bytes);
            }
        }
        let mut text = take_whole_characters(&mut bytes, |count| self.in_place_of(count));
        text.push_str(&self.in_place_of(bytes.len()));
        let mut indent = self.indent();
        text.split_off(cut(&text, &mut indent))
    }

    /// What stands for bytes that are no character: U+FFFD, for each of them where bytes are tokens of their own.
    pub(super) fn in_place_of(&self, bytes: usize) -> String {
        let each = matches!(self.spelling, Spelling::SentencePiece { .. });
        char::REPLACEMENT_CHARACTER.to_string().repeat(if each { bytes } else { bytes.min(1) })
    }

    /// Most spaces that a text loses at its start.
    pub(super) fn indent(&self) -> usize {
        if let Spelling::SentencePiece { indent } = self.spelling { indent } else { 0 }
    }

    /// The token's name in the vocabulary, such as `Ġworld`.
    pub fn name(&self, id: u32) -> Option<String> {
        self.model.inner().id_to_token(id)
    }

    /// The id of a token by its name in the vocabulary.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.model.inner().token_to_id(name)
    }

    /// True for tokens that mark structure and are not text, such as `<|endoftext|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Tokens that are found in a text before anything else happens to it, and whether they are special.
    pub(super) fn added_tokens(&self) -> Vec<(String, bool)> {
        let added = self.model.inner().get_added_tokens_decoder();
        added.into_values().map(|token| (token.content, token.special)).collect()
    }

    /// One more than the largest id.
    pub fn id_limit(&self) -> usize {
        self.id_limit
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.model.inner().get_vocab_size(true)
    }

    /// What kind of tokenizer this is, for `info`.
    pub fn kind(&self) -> &'static str {
        match self.spelling {
            Spelling::ByteLevel => "byte-level BPE",
            Spelling::SentencePiece { .. } => "SentencePiece BPE",
            Spelling::Other => "tokenizer.json",
        }
    }

    /// True where every byte has a token, and each token's name is its bytes.
    pub fn is_byte_level(&self) -> bool {
        self.spelling == Spelling::ByteLevel
    }

    /// True where each token is a run of bytes, whatever stands beside it.
    pub(crate) fn is_exact(&self) -> bool {
        self.spelling != Spelling::Other
    }

    /// Appends the bytes that one token stands for. Exact for byte-level and SentencePiece vocabularies; for others the
    /// token's own text.
    pub fn append_bytes(&self, id: u32, bytes: &mut Vec<u8>) {
        let Some(name) = self.model.inner().id_to_token(id) else { return };
        match self.spelling {
            Spelling::ByteLevel => {}
            Spelling::SentencePiece { .. } => {
                let byte =
                    name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
                match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
                    Some(byte) => bytes.push(byte),
                    None => bytes.extend_from_slice(name.replace('▁', " ").as_bytes()),
                }
                return;
            }
            Spelling::Other => {
                bytes.extend_from_slice(self.model.inner().decode(&[id], false).unwrap_or_default().as_bytes());
                return;
            }
        }
        let start = bytes.len();
        for c in name.chars() {
            match byte_of(c) {
                Some(byte) => bytes.push(byte),
                // An added token is stored as plain text: one character outside the table makes the whole name so.
                None => {
                    bytes.truncate(start);
                    bytes.extend_from_slice(name.as_bytes());
                    return;
                }
            }
        }
    }

    /// A number of tokens that a text certainly has, from its length alone.
    pub fn fewest_tokens(&self, text: &str) -> usize {
        if !self.is_byte_level() || self.model.inner().get_normalizer().is_some() {
            return usize::from(!text.is_empty());
        }
        const SHORT: usize = 1 << 16; // bytes; not worth a look at the vocabulary
        if text.len() < SHORT {
            return usize::from(!text.is_empty());
        }
        let length = |id| {
            let mut bytes = Vec::new();
            self.append_bytes(id, &mut bytes);
            bytes.len()
        };
        text.len().div_ceil((0..self.id_limit as u32).map(length).max().unwrap_or(1).max(1))
    }

    /// Every id whose bytes start with `prefix`, ascending.
    pub fn ids_starting_with(&self, prefix: &[u8]) -> Vec<u32> {
        let mut bytes = Vec::new();
        (0..self.id_limit as u32)
            .filter(|id| {
                bytes.clear();
                self.append_bytes(*id, &mut bytes);
                !self.is_special(*id) && bytes.starts_with(prefix)
            })
            .collect()
    }
}

/// Where a text begins once it has lost up to `indent` spaces; what of `indent` may still be lost stays in it.
pub(super) fn cut(text: &str, indent: &mut usize) -> usize {
    let spaces = text.bytes().take(*indent).take_while(|byte| *byte == b' ').count();
    *indent = if spaces == text.len() { *indent - spaces } else { 0 };
    spaces
}

/// GPT-2's own form: names to ids, and one merge a line, best first.
fn from_vocab_and_merges(vocab: &Location, merges: &Location) -> Result<Inner> {
    let names: HashMap<String, u32> = serde_json::from_str(&vocab.read_text()?)
        .map_err(|error| Error::file(vocab.path(), format!("expected an object of tokens and ids: {error}"), HINT))?;
    let pairs = parse_merges(&merges.read_text()?, &names, merges.path())?;
    let special: BTreeMap<u32, &String> =
        names.iter().filter(|(name, _)| is_marker(name)).map(|(name, id)| (*id, name)).collect();
    let special: Vec<AddedToken> = special.into_values().map(|name| AddedToken::from(name.clone(), true)).collect();
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| Error::file(vocab.path(), error.to_string(), HINT);

    let model = BPE::builder()
        .vocab_and_merges(
            names.into_iter().collect::<Vec<_>>().into_iter().collect::<tokenizers::models::bpe::Vocab>(),
            pairs,
        )
        .build()
        .map_err(failed)?;
    let mut inner = Inner::new(model);
    let byte_level = ByteLevel::new(false, true, true); // no space in front, offsets trimmed, GPT-2's regex
    inner.with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level)));
    inner.with_post_processor(Some(PostProcessorWrapper::ByteLevel(byte_level)));
    inner.with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
    inner.add_special_tokens(special).map_err(failed)?;
    Ok(inner)
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

/// The byte that a character of a byte-level vocabulary stands for: printable Latin-1 is itself, the other 68 bytes are
/// U+0100 and on, in order.
fn byte_of(c: char) -> Option<u8> {
    static TABLE: OnceLock<[Option<u8>; 0x144]> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = [None; 0x144];
        let mut next = 0x100;
        for byte in 0..=255u8 {
            let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
            let code = if printable { byte as usize } else { next };
            next += usize::from(!printable);
            table[code] = Some(byte);
        }
        table
    });
    table.get(c as usize).copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::byte_of;

    #[test]
    fn every_byte_has_one_character_as_in_the_tokenizers_crate() {
        let mut bytes: Vec<u8> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .map(|c| byte_of(c).unwrap())
            .collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of(' '), None);
        assert_eq!(byte_of('世'), None);
    }
}
