//! Byte-level BPE of tokenizer.json, or of vocab.json and merges.txt → a model of ours, where it gives exactly the tokens that the
//! `tokenizers` crate gives; `tests` compares the two.
//!
//! Nothing is refused here: what is damaged, unusual or unknown is left to that crate, and so are the words for it.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tokenizers::PostProcessorWrapper;
use tokenizers::normalizer::NormalizedString;

use super::added::Added;
use super::bpe::Merges;
use super::byte_level::character_of;
use super::own_model::{Algorithm, Cut, OwnModel};
use super::splits::{ByteLevel, Splits};
use super::tokenizer_config::AddedLater;
use super::tokenizer_json::Outline;
use super::vocabulary::{Kind, Vocabulary};
use super::words::{Habits, Words};

#[cfg(test)]
mod tests;

/// What the files say, beside merges.
pub(super) struct Said<'a> {
    pub(super) names: Names,
    /// Tokens cut out of texts, in the order in which those that have no number yet are given theirs.
    pub(super) added: Vec<AddedLater>,
    pub(super) splits: Splits,
    pub(super) nfc: bool,
    pub(super) ignore_merges: bool,
    /// What stands for bytes that have no token.
    pub(super) unknown: Option<&'a str>,
}

/// The model of a tokenizer.json.
pub(super) fn of_json(outline: &Outline<'_>) -> Option<OwnModel> {
    let model = &outline.model;
    let nfc = match outline.normalizer.as_object() {
        None if outline.normalizer.is_null() => false,
        Some(normalizer) if normalizer.len() == 1 && normalizer["type"] == "NFC" => true,
        _ => return None,
    };
    let splits = Splits::of(&outline.pre_tokenizer)?;
    ByteLevel::of(&outline.decoder)?;
    let around = around(&outline.post_processor)?;
    let flag = |value: &Value| if value.is_null() { Some(false) } else { value.as_bool() };
    let unknown = if model.unk_token.is_null() { None } else { Some(model.unk_token.as_str()?) };
    flag(&model.fuse_unk)?;
    let is_plain = outline.version == "1.0"
        && outline.truncation.is_null()
        && outline.padding.is_null()
        && !flag(&model.byte_fallback)?
        && (model.end_of_word_suffix.is_null() || model.end_of_word_suffix == "");
    if !is_plain {
        return None;
    }
    let said = Said {
        names: serde_json::from_str(model.vocab?.get()).ok()?,
        added: outline.added_tokens.map_or(Some(Vec::new()), |added| serde_json::from_str(added.get()).ok())?,
        splits,
        nfc,
        ignore_merges: flag(&model.ignore_merges)?,
        unknown,
    };
    let merges = model.merges?.get();
    build(said, around, |vocabulary, learned| {
        let mut found = Resolved::new(vocabulary, learned);
        found.deserialize(&mut serde_json::Deserializer::from_str(merges)).ok()?;
        Some(found.merges)
    })
}

/// Merges of a vocabulary of so many tokens.
pub(super) struct Resolved<'a> {
    vocabulary: &'a Vocabulary,
    learned: u32,
    /// The name of what is found last.
    whole: Vec<u8>,
    pub(super) merges: Vec<(u32, u32, u32)>,
}

/// Puts names, added tokens and merges together.
pub(super) fn build(
    said: Said<'_>,
    around: (Option<u32>, Option<u32>),
    merges: impl FnOnce(&Vocabulary, u32) -> Option<Vec<(u32, u32, u32)>>,
) -> Option<OwnModel> {
    let Said { names, added, splits, nfc, ignore_merges, unknown } = said;
    let mut list = names.by_number()?;
    let learned = list.len() as u32;
    let mut kinds = vec![Kind::Normal; list.len()];
    for token in &added {
        let kind = if token.special { Kind::Control } else { Kind::UserDefined };
        match kinds.get_mut(token.id as usize) {
            Some(place) if *place == Kind::Normal && list[token.id as usize] == token.content.as_bytes() => {
                *place = kind;
            }
            None if token.id as usize == list.len() && !token.content.is_empty() => {
                list.push(token.content.as_bytes());
                kinds.push(kind);
            }
            _ => return None, // another number than the crate gives it
        }
    }
    let vocabulary = Vocabulary::new(list.into_iter(), kinds).ok()?;
    let is_special = |id: u32| vocabulary.kind(id) == Kind::Control;

    let mut bytes = Box::new([None; 256]);
    for (byte, token) in (0..=255u8).zip(bytes.iter_mut()) {
        let name = character_of(byte);
        *token = vocabulary.id(name.encode_utf8(&mut [0; 4]).as_bytes());
    }
    let merges = merges(&vocabulary, learned)?;
    // Special tokens that come of plain text are cut into pieces by `crate_model` where they should stay text.
    if bytes.iter().flatten().any(|id| is_special(*id) || *id >= learned)
        || merges.iter().any(|(_, _, merged)| is_special(*merged))
    {
        return None;
    }
    if let Some(unknown) = unknown {
        let unknown = vocabulary.id(unknown.as_bytes());
        if bytes.contains(&None) || ignore_merges && unknown.is_some_and(is_special) {
            return None;
        }
    }
    let merges = Merges::new(vocabulary.len(), &merges);
    if merges.has_a_pair_twice() {
        return None;
    }

    let mut cut = Cut::default();
    for token in added {
        if token.normalized && nfc && NormalizedString::from(token.content.as_str()).nfc().get() != token.content {
            return None;
        }
        let AddedLater { id, content, special, lstrip, rstrip, single_word, normalized } = token;
        let tokens = if normalized { &mut cut.normalized } else { &mut cut.raw };
        tokens.push(Added { id, content, special, lstrip, rstrip, single_word });
    }
    let habits = Habits { nfc, ignore_merges, prefix_space: splits.prefix_space, ..Habits::default() };
    let algorithm = Algorithm::Bpe { merges, words: Words::new(&splits.steps, habits), bytes };
    OwnModel::of_transformers(vocabulary, algorithm, learned, cut, around).ok()
}

/// The tokens before and after a text, of which there may be one each.
fn around(post_processor: &Value) -> Option<(Option<u32>, Option<u32>)> {
    if post_processor.is_null() {
        return Some((None, None));
    }
    PostProcessorWrapper::deserialize(post_processor).ok()?;
    let alone = std::slice::from_ref(post_processor);
    let members = match post_processor["type"].as_str()? {
        "Sequence" => post_processor["processors"].as_array()?.as_slice(),
        _ => alone,
    };
    let mut templates = members.iter().filter(|member| member["type"] != "ByteLevel");
    let (template, None) = (templates.next(), templates.next()) else { return None };
    let Some(template) = template else { return Some((None, None)) };
    if template["type"] != "TemplateProcessing" {
        return None;
    }
    let token = |piece: &Value| {
        let ids = template["special_tokens"][piece["SpecialToken"]["id"].as_str()?]["ids"].as_array()?;
        let [id] = ids.as_slice() else { return None };
        u32::try_from(id.as_u64()?).ok()
    };
    let is_text = |piece: &Value| piece["Sequence"]["id"] == "A";
    match template["single"].as_array()?.as_slice() {
        [text] if is_text(text) => Some((None, None)),
        [begin, text] if is_text(text) => Some((Some(token(begin)?), None)),
        [text, end] if is_text(text) => Some((None, Some(token(end)?))),
        [begin, text, end] if is_text(text) => Some((Some(token(begin)?), Some(token(end)?))),
        _ => None,
    }
}

/// The names of a vocabulary and their numbers, in the order of the file.
#[derive(Default)]
pub(super) struct Names {
    /// All names, one after the other.
    bytes: Vec<u8>,
    /// Where each ends, and its number.
    ends: Vec<(u32, u32)>,
}

impl Names {
    /// Each name with its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        let mut start = 0;
        self.ends.iter().map(move |(end, id)| {
            let name = &self.bytes[start as usize..*end as usize];
            start = *end;
            (name, *id)
        })
    }

    /// The names by their numbers, if those are all from zero on and every name says something.
    fn by_number(&self) -> Option<Vec<&[u8]>> {
        let mut list: Vec<&[u8]> = vec![&[]; self.ends.len()];
        for (name, id) in self.iter() {
            let place = list.get_mut(id as usize).filter(|place| place.is_empty() && !name.is_empty())?;
            *place = name;
        }
        Some(list)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Names, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Names, M::Error> {
                let mut names = Names::default();
                while map.next_key_seed(Append(&mut names.bytes))?.is_some() {
                    let end = u32::try_from(names.bytes.len()).map_err(M::Error::custom)?;
                    names.ends.push((end, map.next_value()?));
                }
                Ok(names)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// Appends a string.
struct Append<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl<'a> Resolved<'a> {
    pub(super) fn new(vocabulary: &'a Vocabulary, learned: u32) -> Resolved<'a> {
        Resolved { vocabulary, learned, whole: Vec::new(), merges: Vec::new() }
    }

    /// Adds a merge, if there is a token for the two and for what they become. `None` if there is not.
    pub(super) fn push(&mut self, left: &[u8], right: &[u8]) -> Option<()> {
        self.whole.clear();
        self.whole.extend_from_slice(left);
        self.whole.extend_from_slice(right);
        self.push_whole(left.len())
    }

    /// The same for two that stand one after the other in `whole`.
    fn push_whole(&mut self, left: usize) -> Option<()> {
        let id = |name: &[u8]| self.vocabulary.id(name).filter(|id| *id < self.learned);
        let merge = (id(&self.whole[..left])?, id(&self.whole[left..])?, id(&self.whole)?);
        self.merges.push(merge);
        Some(())
    }
}

/// A list of merges: all `"a b"`, or all `["a", "b"]`.
impl<'de> DeserializeSeed<'de> for &mut Resolved<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for &mut Resolved<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        let mut first = None;
        while let Some(form) = list.next_element_seed(OneMerge(self))? {
            if *first.get_or_insert(form) != form {
                return Err(S::Error::custom("merges in two forms"));
            }
        }
        Ok(())
    }
}

struct OneMerge<'a, 'v>(&'a mut Resolved<'v>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Line,
    Pair,
}

impl<'de> DeserializeSeed<'de> for OneMerge<'_, '_> {
    type Value = Form;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Form, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneMerge<'_, '_> {
    type Value = Form;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge")
    }

    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Form, E> {
        // The crate passes over lines with a version.
        let two = line.split_once(' ').filter(|(_, right)| !right.contains(' ') && !line.starts_with("#version"));
        let (left, right) = two.ok_or_else(|| E::custom("another line"))?;
        self.0.push(left.as_bytes(), right.as_bytes()).ok_or_else(|| E::custom("an unknown token"))?;
        Ok(Form::Line)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut two: S) -> Result<Form, S::Error> {
        let missing = || S::Error::custom("two tokens");
        self.0.whole.clear();
        two.next_element_seed(Append(&mut self.0.whole))?.ok_or_else(missing)?;
        let left = self.0.whole.len();
        two.next_element_seed(Append(&mut self.0.whole))?.ok_or_else(missing)?;
        if two.next_element::<IgnoredAny>()?.is_some() {
            return Err(missing());
        }
        self.0.push_whole(left).ok_or_else(|| S::Error::custom("an unknown token"))?;
        Ok(Form::Pair)
    }
}
