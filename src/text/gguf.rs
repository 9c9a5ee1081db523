//! The tokenizer in a GGUF file: `tokenizer.ggml.*`.
//!
//! What a file does not say is as llama.cpp has it for the kind of vocabulary. A way to cut words that is not known is
//! refused by name: with another one the text would be read, and read wrongly.

use super::bpe::Merges;
use super::byte_level::character_of;
use super::charsmap::Charsmap;
use super::own_model::{Algorithm, Habits, OwnModel, SpacePrefix};
use super::spm::Scores;
use super::tokenizer_json::HINT;
use super::unigram::Unigram;
use super::vocabulary::{Kind, Vocabulary};
use super::words::Words;
use crate::error::{Error, Result, quote};
use crate::gguf::Metadata;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
const BEGIN: &str = "tokenizer.ggml.bos_token_id";
const END: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";

/// Names that mark structure even where a file, made by an older tool, has them as text.
const STRUCTURE: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<PAD>",
    "[PAD]",
];

/// What is in the names of models whose tokens take white space.
pub(super) const PHI3: &[&str] = &["phi-3", "phi3"];

/// The families of vocabularies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Bpe,
    Spm,
    Unigram,
}

/// Builds the tokenizer of a file.
pub(super) fn read(metadata: &Metadata) -> Result<OwnModel> {
    let model = metadata.string(MODEL)?.ok_or_else(|| metadata.missing(MODEL))?;
    let family = match model {
        "gpt2" | "gemma4" => Family::Bpe,
        "llama" => Family::Spm,
        "t5" => Family::Unigram,
        other => {
            return Err(metadata.unsupported(
                format!("the tokenizer {} is not supported, only gpt2, gemma4, llama and t5 are", quote(other)),
                "take a file of a model that writes text",
            ));
        }
    };
    let mut vocabulary = vocabulary(metadata, family)?;
    mark_structure(&mut vocabulary);
    let wrong = |problem: String| Error::file(metadata.path(), problem, HINT);

    let unknown = token(metadata, UNKNOWN, &vocabulary)?;
    let (algorithm, add_begin, add_end, prefix) = match family {
        Family::Bpe => {
            let words = words(metadata, model)?;
            let add_begin = words.habits.add_bos;
            (bpe(metadata, &vocabulary, words)?, add_begin, false, false)
        }
        Family::Spm => {
            let unknown = unknown.or_else(|| (vocabulary.kind(0) == Kind::Unknown).then_some(0));
            (Algorithm::Spm(Scores::new(scores(metadata, &vocabulary)?, &vocabulary, unknown)), true, false, true)
        }
        Family::Unigram => {
            if metadata.flag("tokenizer.ggml.treat_whitespace_as_suffix")? == Some(true) {
                return Err(metadata.unsupported(
                    "a tokenizer with `treat_whitespace_as_suffix` is not supported",
                    "take a file of another model",
                ));
            }
            let charsmap = bytes(metadata, CHARSMAP)?;
            let charsmap = Charsmap::new(&charsmap)
                .map_err(|found| metadata.wrong(CHARSMAP, "a table of normalisation", found))?;
            let merge_spaces = metadata.flag("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false);
            let unigram = Unigram::new(scores(metadata, &vocabulary)?, &vocabulary, unknown);
            (Algorithm::Unigram { unigram, charsmap, merge_spaces }, false, true, true)
        }
    };

    let space_prefix = match metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(prefix) {
        true => SpacePrefix::EveryPiece,
        false => SpacePrefix::Never,
    };
    let around = |key: &str, default: bool, id: &str, usual: u32| -> Result<Option<u32>> {
        if !metadata.flag(key)?.unwrap_or(default) {
            return Ok(None);
        }
        let usual = (family == Family::Spm && (usual as usize) < vocabulary.len()).then_some(usual);
        token(metadata, id, &vocabulary)?.or(usual).map(Some).ok_or_else(|| metadata.missing(id))
    };
    let begin = around("tokenizer.ggml.add_bos_token", add_begin, BEGIN, 1)?;
    let end = around("tokenizer.ggml.add_eos_token", add_end, END, 2)?;
    let name = metadata.string("general.name").ok().flatten().unwrap_or_default();
    let rstrip = if takes_white_space(name) { before_white_space(&vocabulary) } else { Vec::new() };
    let habits = Habits { space_prefix, begin, end, rstrip };
    OwnModel::new(vocabulary, algorithm, habits).map_err(wrong)
}

/// The names and types of all tokens.
fn vocabulary(metadata: &Metadata, family: Family) -> Result<Vocabulary> {
    let names = metadata.strings(TOKENS)?.ok_or_else(|| metadata.missing(TOKENS))?;
    let size = metadata.array_len(TOKENS).unwrap_or_default();
    let kinds = match metadata.integers(TYPES)? {
        Some(types) => {
            if types.len() != size {
                let found = format!("{} for {size} tokens", types.len());
                return Err(metadata.wrong(TYPES, "a type for each token", found));
            }
            let kind = |number: i64| match number {
                0 | 1 => Ok(Kind::Normal),
                2 => Ok(Kind::Unknown),
                3 => Ok(Kind::Control),
                4 => Ok(Kind::UserDefined),
                5 => Ok(Kind::Unused),
                6 => Ok(Kind::Byte),
                other => Err(metadata.wrong(TYPES, "types from 0 to 6", other.to_string())),
            };
            types.into_iter().map(kind).collect::<Result<Vec<Kind>>>()?
        }
        None => vec![Kind::Normal; size],
    };
    let typed = metadata.has(TYPES);
    let mut vocabulary =
        Vocabulary::new(names, kinds).map_err(|problem| Error::file(metadata.path(), problem, HINT))?;
    if !typed {
        for (key, kind) in [(BEGIN, Kind::Control), (END, Kind::Control), (UNKNOWN, Kind::Unknown)] {
            if let Some(id) = token(metadata, key, &vocabulary)? {
                vocabulary.set_kind(id, kind);
            }
        }
        if family != Family::Bpe {
            for id in vocabulary.bytes().iter().flatten() {
                vocabulary.set_kind(*id, Kind::Byte);
            }
        }
    }
    Ok(vocabulary)
}

fn mark_structure(vocabulary: &mut Vocabulary) {
    // A word like any other in vocabularies that write about web pages.
    if let Some(id) = vocabulary.id(b"</s>").filter(|id| vocabulary.kind(*id) == Kind::UserDefined) {
        vocabulary.set_kind(id, Kind::Control);
    }
    for id in STRUCTURE.iter().filter_map(|name| vocabulary.id(name.as_bytes())).collect::<Vec<u32>>() {
        if matches!(vocabulary.kind(id), Kind::Normal | Kind::UserDefined) {
            vocabulary.set_kind(id, Kind::Control);
        }
    }
}

/// A token of the vocabulary that a key names.
fn token(metadata: &Metadata, key: &str, vocabulary: &Vocabulary) -> Result<Option<u32>> {
    let id = metadata.token(key)?;
    match id.filter(|id| *id as usize >= vocabulary.len()) {
        Some(id) => Err(metadata.wrong(key, &format!("a token below {}", vocabulary.len()), id.to_string())),
        None => Ok(id),
    }
}

/// One finite score for each token.
fn scores(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Vec<f32>> {
    let scores = metadata.floats(SCORES)?.ok_or_else(|| metadata.missing(SCORES))?;
    if scores.len() != vocabulary.len() {
        let found = format!("{} for {} tokens", scores.len(), vocabulary.len());
        return Err(metadata.wrong(SCORES, "a score for each token", found));
    }
    match scores.iter().position(|score| !score.is_finite()) {
        Some(id) => Err(metadata.wrong(SCORES, "finite scores", format!("{} for token {id}", scores[id]))),
        None => Ok(scores),
    }
}

/// An array of bytes; empty where the key is not there.
fn bytes(metadata: &Metadata, key: &str) -> Result<Vec<u8>> {
    let numbers = metadata.integers(key)?.unwrap_or_default();
    let byte = |number: i64| u8::try_from(number).or_else(|_| i8::try_from(number).map(|number| number as u8));
    let bytes = numbers.into_iter().map(|number| byte(number).map_err(|_| number));
    bytes.collect::<Result<Vec<u8>, i64>>().map_err(|found| metadata.wrong(key, "an array of bytes", found.to_string()))
}

/// How the file's texts are cut into words.
fn words(metadata: &Metadata, model: &str) -> Result<Words> {
    let name = match metadata.string(PRE)? {
        _ if model == "gemma4" => "gemma4",
        Some(name) => name,
        None => {
            return Err(metadata.unsupported(
                format!("the file does not say how texts are cut into words: it has no {}", quote(PRE)),
                "it was made by an old tool; make it anew, or take a newer file of the model",
            ));
        }
    };
    Words::named(name).ok_or_else(|| {
        let known: Vec<&str> = Words::names().collect();
        metadata.unsupported(
            format!("{}: the way {} to cut texts into words is not supported", quote(PRE), quote(name)),
            format!("known are {}", known.join(", ")),
        )
    })
}

/// Merges, each of two tokens to a third, with a space between the two.
fn bpe(metadata: &Metadata, vocabulary: &Vocabulary, words: Words) -> Result<Algorithm> {
    let lines = metadata.strings(MERGES)?.ok_or_else(|| metadata.missing(MERGES))?;
    let mut merges = Vec::with_capacity(metadata.array_len(MERGES).unwrap_or_default());
    let mut whole = Vec::new();
    for (number, line) in lines.enumerate() {
        let wrong = || {
            let found = format!("{} as merge {number}", quote(&String::from_utf8_lossy(line)));
            metadata.wrong(MERGES, "two tokens whose concatenation is a third, with a space between them", found)
        };
        // A token may begin with a space.
        let space = line.iter().skip(1).position(|byte| *byte == b' ').ok_or_else(wrong)? + 1;
        let (left, right) = (&line[..space], &line[space + 1..]);
        whole.clear();
        whole.extend_from_slice(left);
        whole.extend_from_slice(right);
        let id = |name: &[u8]| vocabulary.id(name).ok_or_else(wrong);
        let merge = (id(left)?, id(right)?, id(&whole)?);
        // What marks structure is cut out of a text beforehand, or is not to come from it.
        if !matches!(vocabulary.kind(merge.2), Kind::Control | Kind::Unknown) {
            merges.push(merge);
        }
    }
    let mut bytes = vocabulary.bytes();
    if !words.habits.raw {
        for (byte, token) in (0..=255u8).zip(bytes.iter_mut()) {
            *token = vocabulary.id(character_of(byte).encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    Ok(Algorithm::Bpe { merges: Merges::new(vocabulary.len(), &merges), words, bytes })
}

/// Phi-3's special tokens take the white space after them, which no key of the format can say but the model's name.
pub(super) fn takes_white_space(name: &str) -> bool {
    let name = name.to_lowercase();
    PHI3.iter().any(|phi3| name.contains(phi3))
}

/// Whether a token of such a model does, one that is cut out of texts beforehand.
pub(super) fn is_before_white_space(token: &[u8]) -> bool {
    !matches!(token, b"<unk>" | b"<s>" | b"<|endoftext|>")
}

fn before_white_space(vocabulary: &Vocabulary) -> Vec<u32> {
    let strips = |id: &u32| {
        let (name, kind) = (vocabulary.name(*id), vocabulary.kind(*id));
        name == b"</s>"
            || matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined) && is_before_white_space(name)
    };
    (0..vocabulary.len() as u32).filter(strips).collect()
}
