//! Strings → tokens and tokens → bytes.
//!
//! The lists of GGUF files are for models of ours, and so are tokenizer.json and GPT-2's original pair of files where their form
//! is one that we do exactly; the others are for the `tokenizers` crate. Here is what all have in common, and the exact bytes of one token, which streaming and stop strings are
//! built on.

use std::collections::HashSet;
use std::path::Path;

use super::added::Specials;
use super::byte_level::byte_of;
use super::crate_model::CrateModel;
use super::gguf;
use super::own_model::OwnModel;
use super::pair;
use super::sentencepiece;
use super::stream::Decoding;
use super::tokenizer_json::{self, HINT, Reader, Spelling};
use super::vocabulary::named_byte;
use crate::error::{Error, Result};
use crate::gguf::{Header, Metadata};
use crate::hub::Hub;
use crate::source::{Location, Source, TokenizerFiles, is_gguf};

/// Ids that a file may give to its tokens: several times what the largest vocabularies have, and few enough to walk through.
const MOST_IDS: usize = 1 << 22;

/// A model's tokenizer.
pub struct Tokenizer {
    model: Model,
    special: HashSet<u32>,
    /// One more than the largest id.
    id_limit: usize,
    spelling: Spelling,
}

enum Model {
    /// A tokenizer.json of a form that we do not have.
    Crate(Box<CrateModel>),
    /// All others.
    Own(Box<OwnModel>),
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
        if let Some(tokenizer) = Tokenizer::in_gguf(name) {
            return tokenizer;
        }
        match Source::local(name)? {
            Some(source) => Tokenizer::open(&source.tokenizer),
            None => Tokenizer::open(&Hub::from_env()?.tokenizer(name)?),
        }
    }

    /// The same, with a Hub that is not the environment's.
    pub fn load_with(name: &str, hub: &Hub) -> Result<Tokenizer> {
        if let Some(tokenizer) = Tokenizer::in_gguf(name) {
            return tokenizer;
        }
        match Source::local(name)? {
            Some(source) => Tokenizer::open(&source.tokenizer),
            None => Tokenizer::open(&hub.tokenizer(name)?),
        }
    }

    /// Judges the tokenizer of a GGUF file by its head alone, before the rest of it is fetched.
    pub(crate) fn check_gguf(metadata: &Metadata) -> Result<()> {
        gguf::read(metadata).map(drop)
    }

    /// Reads the tokenizer's files.
    pub(crate) fn open(files: &TokenizerFiles) -> Result<Tokenizer> {
        let reader = match files {
            TokenizerFiles::Json(json) => tokenizer_json::read(json)?,
            TokenizerFiles::VocabAndMerges(vocab, merges) => pair::read(vocab, merges)?,
            TokenizerFiles::SentencePiece(file) => return Ok(Tokenizer::own(sentencepiece::read(file)?)),
            TokenizerFiles::Gguf(file) => return Ok(Tokenizer::own(gguf::read(&Header::open(file)?.0.metadata)?)),
        };
        match reader {
            Reader::Own(model) if model.len() <= MOST_IDS => Ok(Tokenizer::own(*model)),
            Reader::Own(model) => Err(too_many_ids(files.path(), model.len() - 1)),
            Reader::Crate(model, spelling) => Tokenizer::of_crate(model, spelling, files.path()),
        }
    }

    pub(super) fn of_crate(model: Box<CrateModel>, spelling: Spelling, path: &Path) -> Result<Tokenizer> {
        let inner = model.inner();
        let added = inner.get_added_tokens_decoder();
        let vocabulary = inner.get_vocab(true);
        // A number that the vocabulary gives to another token is that token's.
        let taken: HashSet<u32> = vocabulary
            .iter()
            .filter(|(name, id)| added.get(id).is_some_and(|token| token.content != **name))
            .map(|(_, id)| *id)
            .collect();
        let is_special = |(id, token): &(&u32, &tokenizers::AddedToken)| token.special && !taken.contains(id);
        let special = added.iter().filter(is_special).map(|(id, _)| *id).collect();
        let id_limit = vocabulary.into_values().max().map_or(0, |id| id as usize + 1);
        if id_limit == 0 {
            return Err(Error::file(path, "expected a vocabulary, found no token", HINT));
        }
        if id_limit > MOST_IDS {
            return Err(too_many_ids(path, id_limit - 1));
        }
        Ok(Tokenizer { model: Model::Crate(model), special, id_limit, spelling })
    }

    /// The tokenizer in a GGUF file of this name, which need not hold a model.
    fn in_gguf(name: &str) -> Option<Result<Tokenizer>> {
        let path = Path::new(name);
        let file = is_gguf(name) && path.is_file();
        file.then(|| Tokenizer::open(&TokenizerFiles::Gguf(Location::Disk(path.to_owned()))))
    }

    pub(super) fn own(model: OwnModel) -> Tokenizer {
        let spelling = match model.is_byte_level() {
            true => Spelling::ByteLevel,
            false => Spelling::SentencePiece { indent: model.indent() },
        };
        let special = model.special().collect();
        Tokenizer { id_limit: model.len(), special, spelling, model: Model::Own(Box::new(model)) }
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
        let ids = match &self.model {
            Model::Crate(model) => model
                .encode(text, specials, add_special_tokens, |id| self.is_special(id))
                .map_err(|error| error.to_string()),
            Model::Own(model) => model.encode(text, specials, add_special_tokens),
        };
        ids.map_err(|error| Error::prompt(format!("the tokenizer cannot read the text: {error}"), ""))
    }

    /// The text of some tokens, at once, as Python's `decode` has it. Bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        if let (Spelling::Other, Model::Crate(model)) = (self.spelling, &self.model) {
            // A decoder fails only on what it did not make itself; such tokens have no text.
            return model.inner().decode(ids, skip_special_tokens).unwrap_or_default();
        }
        let mut decoding = Decoding::default();
        let mut text = String::new();
        for id in ids {
            if !(skip_special_tokens && self.is_special(*id)) {
                decoding.push(self, *id, &mut text);
            }
        }
        decoding.finish(&mut text);
        let mut indent = self.indent();
        text.split_off(cut(&text, &mut indent))
    }

    /// The byte that a token stands for where bytes are tokens of their own.
    pub(super) fn byte_token(&self, id: u32) -> Option<u8> {
        match (&self.model, self.spelling) {
            (_, Spelling::ByteLevel | Spelling::Other) => None,
            (Model::Own(model), Spelling::SentencePiece { .. }) => model.byte_token(id),
            (Model::Crate(model), Spelling::SentencePiece { .. }) => {
                named_byte(model.inner().id_to_token(id)?.as_bytes())
            }
        }
    }

    /// Most spaces that a text loses at its start.
    pub(super) fn indent(&self) -> usize {
        if let Spelling::SentencePiece { indent } = self.spelling { indent } else { 0 }
    }

    /// The token's name in the vocabulary, such as `Ġworld`.
    pub fn name(&self, id: u32) -> Option<String> {
        match &self.model {
            Model::Crate(model) => model.inner().id_to_token(id),
            Model::Own(model) => model.name(id),
        }
    }

    /// The id of a token by its name in the vocabulary.
    pub fn id(&self, name: &str) -> Option<u32> {
        match &self.model {
            Model::Crate(model) => model.inner().token_to_id(name),
            Model::Own(model) => model.id(name),
        }
    }

    /// True for tokens that mark structure and are not text, such as `<|endoftext|>`.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Tokens that are found in a text before anything else happens to it, and whether they are special.
    pub(super) fn added_tokens(&self) -> Vec<(String, bool)> {
        match &self.model {
            Model::Crate(model) => {
                let added = model.inner().get_added_tokens_decoder();
                added.into_values().map(|token| (token.content, token.special)).collect()
            }
            Model::Own(model) => model.added().map(|(name, special)| (name.to_owned(), special)).collect(),
        }
    }

    /// One more than the largest id.
    pub fn id_limit(&self) -> usize {
        self.id_limit
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        match &self.model {
            Model::Crate(model) => model.inner().get_vocab_size(true),
            Model::Own(model) => model.len(),
        }
    }

    /// What kind of tokenizer this is, for `info`.
    pub fn kind(&self) -> &'static str {
        match (&self.model, self.spelling) {
            (Model::Own(model), _) => model.kind(),
            (Model::Crate(_), Spelling::ByteLevel) => "byte-level BPE",
            (Model::Crate(_), Spelling::SentencePiece { .. }) => "SentencePiece BPE",
            (Model::Crate(_), Spelling::Other) => "tokenizer.json",
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
        let model = match &self.model {
            Model::Crate(model) => model.inner(),
            Model::Own(model) => return model.append_bytes(id, bytes),
        };
        let Some(name) = model.id_to_token(id) else { return };
        match self.spelling {
            Spelling::ByteLevel => {}
            Spelling::SentencePiece { .. } => {
                match named_byte(name.as_bytes()) {
                    Some(byte) => bytes.push(byte),
                    None => bytes.extend_from_slice(name.replace('▁', " ").as_bytes()),
                }
                return;
            }
            Spelling::Other => {
                bytes.extend_from_slice(model.decode(&[id], false).unwrap_or_default().as_bytes());
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
        let normalizes = match &self.model {
            Model::Crate(model) => model.inner().get_normalizer().is_some(),
            Model::Own(model) => model.normalizes(),
        };
        if !self.is_byte_level() || normalizes {
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

fn too_many_ids(path: &Path, found: usize) -> Error {
    Error::file(path, format!("expected ids of tokens below {MOST_IDS}, found {found}"), HINT)
}

/// Where a text begins once it has lost up to `indent` spaces; what of `indent` may still be lost stays in it.
pub(super) fn cut(text: &str, indent: &mut usize) -> usize {
    let spaces = text.bytes().take(*indent).take_while(|byte| *byte == b' ').count();
    *indent = if spaces == text.len() { *indent - spaces } else { 0 };
    spaces
}
