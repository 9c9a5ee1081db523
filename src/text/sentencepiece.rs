//! SentencePiece's own file, `tokenizer.model`, where a folder has no tokenizer.json: read as transformers' LlamaTokenizer and
//! GemmaTokenizer do it.
//!
//! The file is a message of protocol buffers. Fields are numbers, and those that nobody here knows are passed over:
//! 1 a token (1 name, 2 score, 3 type), 2 the training (3 algorithm), 3 the normalisation (2 a table, 3 a space in front).

use super::own_model::{Algorithm, Habits, OwnModel, SpacePrefix};
use super::spm::Scores;
use super::tokenizer_config::Config;
use super::tokenizer_json::HINT;
use super::vocabulary::{Kind, Vocabulary};
use crate::error::{Error, Result, quote};
use crate::source::Location;

/// What of the file is used.
#[derive(Default)]
struct Model<'a> {
    names: Vec<&'a [u8]>,
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    algorithm: u64,
    charsmap: &'a [u8],
    no_prefix: bool,
}

/// What the file and the settings beside it say.
pub(super) struct Said {
    pub(super) names: Vec<Vec<u8>>,
    pub(super) scores: Vec<f32>,
    pub(super) kinds: Vec<Kind>,
    pub(super) habits: Habits,
    /// Tokens of tokenizer_config.json, and whether it calls them special.
    pub(super) added: Vec<(u32, bool)>,
}

/// Reads the file.
pub(super) fn read(location: &Location) -> Result<OwnModel> {
    let Said { names, scores, kinds, habits, .. } = said(location)?;
    let damaged =
        |problem: String| Error::file(location.path(), format!("expected a SentencePiece model: {problem}"), HINT);
    let vocabulary = Vocabulary::new(names.iter().map(Vec::as_slice), kinds).map_err(damaged)?;
    let unknown = (0..vocabulary.len() as u32).find(|id| vocabulary.kind(*id) == Kind::Unknown);
    let scores = Scores::new(scores, &vocabulary, unknown);
    OwnModel::new(vocabulary, Algorithm::Spm(scores), habits).map_err(damaged)
}

/// Reads the file and tokenizer_config.json beside it.
pub(super) fn said(location: &Location) -> Result<Said> {
    let data = location.read_bytes()?;
    let damaged =
        |problem: String| Error::file(location.path(), format!("expected a SentencePiece model: {problem}"), HINT);
    let unsupported = |problem: String| {
        Error::unsupported(
            location.path(),
            problem,
            "take a model with a tokenizer.json, or convert this one's with transformers",
        )
    };
    let model = parse(&data).map_err(damaged)?;
    if model.algorithm != 2 {
        let found = ["none", "unigram", "BPE", "word", "char"].get(model.algorithm as usize).unwrap_or(&"another");
        return Err(unsupported(format!("a tokenizer.model of the kind {found} is not supported, only BPE is")));
    }
    if !model.charsmap.is_empty() {
        return Err(unsupported("a tokenizer.model of BPE with a table of normalisation is not supported".to_owned()));
    }
    let settings = Config::beside(location)?;
    let (prefix, usual_begin, usual_end) = match settings.class() {
        None | Some("LlamaTokenizer") => (settings.add_prefix_space.unwrap_or(!model.no_prefix), "<s>", "</s>"),
        Some("GemmaTokenizer") => (false, "<bos>", "<eos>"),
        Some(class) => {
            let known = "only LlamaTokenizer and GemmaTokenizer are";
            return Err(unsupported(format!("a tokenizer.model for a {} is not supported, {known}", quote(class))));
        }
    };
    let space_prefix = match (prefix, settings.legacy) {
        (false, _) => SpacePrefix::Never,
        (true, Some(true)) => SpacePrefix::EveryPieceWithout,
        (true, _) => SpacePrefix::TextWithout,
    };

    let mut names: Vec<Vec<u8>> = model.names.iter().map(|name| name.to_vec()).collect();
    let (mut scores, mut kinds) = (model.scores, model.kinds);
    let (mut rstrip, mut added) = (Vec::new(), Vec::new());
    for token in settings.added().map_err(damaged)? {
        let (id, content) = (token.id as usize, token.content.as_bytes());
        let kind = if token.special { Kind::Control } else { Kind::UserDefined };
        if token.lstrip || token.single_word {
            let problem =
                format!("`lstrip` and `single_word` of the token {} are not supported", quote(&token.content));
            return Err(unsupported(problem));
        }
        rstrip.extend(token.rstrip.then_some(token.id));
        added.push((token.id, token.special));
        match names.get(id) {
            Some(name) if name != content => {
                let found = format!("{} and {}", quote(&token.content), quote(&String::from_utf8_lossy(name)));
                return Err(damaged(format!(
                    "expected token {id} to be the same in tokenizer_config.json, found {found}"
                )));
            }
            Some(_) if kinds[id] == Kind::Unknown => {}
            Some(_) => kinds[id] = kind,
            None if id == names.len() => {
                names.push(content.to_vec());
                scores.push(0.0);
                kinds.push(kind);
            }
            None => {
                return Err(damaged(format!("expected added tokens from {} on without gaps, found {id}", names.len())));
            }
        }
    }
    // Tokens that the training was told of are found in the text as it is written.
    for (name, kind) in names.iter_mut().zip(&kinds) {
        if *kind == Kind::UserDefined {
            *name = String::from_utf8_lossy(name).replace('▁', " ").into_bytes();
        }
    }
    if let Some(id) = scores.iter().position(|score| !score.is_finite()) {
        return Err(damaged(format!("expected finite scores, found {} for token {id}", scores[id])));
    }
    let named = |wanted: bool, name: Option<&str>, usual: &str| -> Result<Option<u32>> {
        if !wanted {
            return Ok(None);
        }
        let name = name.unwrap_or(usual);
        let id = names.iter().position(|known| known == name.as_bytes()).map(|id| id as u32);
        id.map(Some).ok_or_else(|| damaged(format!("expected the token {}", quote(name))))
    };
    let begin = named(settings.add_bos_token.unwrap_or(settings.class().is_none()), settings.begin(), usual_begin)?;
    let end = named(settings.add_eos_token.unwrap_or(false), settings.end(), usual_end)?;
    Ok(Said { names, scores, kinds, habits: Habits { space_prefix, begin, end, rstrip }, added })
}

/// A value of a field.
enum Field<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
}

/// Calls `each` with the fields of a message.
fn fields<'a>(mut data: &'a [u8], mut each: impl FnMut(u64, Field<'a>) -> Result<(), String>) -> Result<(), String> {
    let cut_short = || "found its end within a field".to_owned();
    while !data.is_empty() {
        let key = number(&mut data)?;
        let value = match key & 7 {
            0 => Field::Number(number(&mut data)?),
            1 => {
                data = data.get(8..).ok_or_else(cut_short)?;
                continue; // eight bytes: no field that is read here
            }
            2 => {
                let length = usize::try_from(number(&mut data)?).map_err(|_| cut_short())?;
                let (value, rest) = data.split_at_checked(length).ok_or_else(cut_short)?;
                data = rest;
                Field::Bytes(value)
            }
            5 => {
                let (value, rest) = data.split_first_chunk().ok_or_else(cut_short)?;
                data = rest;
                Field::Float(f32::from_le_bytes(*value))
            }
            other => return Err(format!("found a field of the unknown type {other}")),
        };
        each(key >> 3, value)?;
    }
    Ok(())
}

/// A number, seven bits to a byte, the lowest first.
fn number(data: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = data.split_first().ok_or("found its end within a number")?;
        *data = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("found a number of more than 64 bits".to_owned())
}

fn parse(data: &[u8]) -> Result<Model<'_>, String> {
    let mut model = Model { algorithm: 1, ..Model::default() };
    fields(data, |field, value| {
        match (field, value) {
            (1, Field::Bytes(token)) => {
                let (mut name, mut score, mut kind) = (&b""[..], 0.0, 1);
                fields(token, |field, value| {
                    match (field, value) {
                        (1, Field::Bytes(found)) => name = found,
                        (2, Field::Float(found)) => score = found,
                        (3, Field::Number(found)) => kind = found,
                        _ => {}
                    }
                    Ok(())
                })?;
                let kind = match kind {
                    1 => Kind::Normal,
                    2 => Kind::Unknown,
                    3 => Kind::Control,
                    4 => Kind::UserDefined,
                    5 => Kind::Unused,
                    6 => Kind::Byte,
                    other => return Err(format!("found a token of the unknown type {other}")),
                };
                model.names.push(name);
                model.scores.push(score);
                model.kinds.push(kind);
            }
            (2, Field::Bytes(training)) => fields(training, |field, value| {
                if let (3, Field::Number(found)) = (field, value) {
                    model.algorithm = found;
                }
                Ok(())
            })?,
            (3, Field::Bytes(rules)) => fields(rules, |field, value| {
                match (field, value) {
                    (2, Field::Bytes(found)) => model.charsmap = found,
                    (3, Field::Number(found)) => model.no_prefix = found == 0,
                    _ => {}
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_messages_are_told() {
        let message = |data: &[u8]| parse(data).map(|model| model.names.len());
        assert_eq!(message(b""), Ok(0));
        assert_eq!(message(b"\x0a\x03\x0a\x01a"), Ok(1));
        assert_eq!(message(b"\x0a\x04\x0a\x01a").unwrap_err(), "found its end within a field");
        assert_eq!(message(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f").unwrap_err(), "found its end within a field");
        assert_eq!(message(&[0x80; 12]).unwrap_err(), "found a number of more than 64 bits");
        assert_eq!(message(b"\x0a").unwrap_err(), "found its end within a number");
        assert_eq!(message(b"\x0b").unwrap_err(), "found a field of the unknown type 3");
        assert_eq!(message(b"\x0a\x02\x18\x09").unwrap_err(), "found a token of the unknown type 9");
        assert_eq!(message(b"\x09\x01\x02").unwrap_err(), "found its end within a field");
    }
}
