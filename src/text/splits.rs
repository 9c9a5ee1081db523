//! How a tokenizer.json cuts texts into words before byte-pair encoding, where that is one of the ways that `words` has.
//!
//! A pattern is known by its text. What is written in another way is not guessed at.

use serde_json::{Map, Value};

use super::words::{DIGIT, GPT2, Step};

/// What a `pre_tokenizer` does.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Splits {
    pub(super) steps: Vec<Step>,
    /// A space goes before text that begins with none.
    pub(super) prefix_space: bool,
}

impl Splits {
    /// What this part of the file does, if it ends with bytes spelled in GPT-2's table and all of it is known.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<Splits> {
        let alone = std::slice::from_ref(pre_tokenizer);
        let members = match is(pre_tokenizer, "Sequence", &["pretokenizers"]) {
            Some(sequence) => sequence["pretokenizers"].as_array()?.as_slice(),
            None => alone,
        };
        let (last, before) = members.split_last()?;
        let mut steps = before.iter().map(step).collect::<Option<Vec<Step>>>()?;
        let spelled = ByteLevel::of(last)?;
        if spelled.use_regex {
            steps.push(GPT2);
        }
        // The crate would put a space before each piece that was cut out by then.
        let plain = !spelled.add_prefix_space || before.is_empty();
        plain.then_some(Splits { steps, prefix_space: spelled.add_prefix_space })
    }
}

/// A part that spells bytes.
pub(super) struct ByteLevel {
    add_prefix_space: bool,
    use_regex: bool,
}

impl ByteLevel {
    pub(super) fn of(part: &Value) -> Option<ByteLevel> {
        let part = is(part, "ByteLevel", &["add_prefix_space", "trim_offsets", "use_regex"])?;
        part.get("trim_offsets")?.as_bool()?;
        let use_regex = part.get("use_regex").map_or(Some(true), Value::as_bool)?;
        Some(ByteLevel { add_prefix_space: part.get("add_prefix_space")?.as_bool()?, use_regex })
    }
}

/// One that cuts.
fn step(part: &Value) -> Option<Step> {
    if let Some(digits) = is(part, "Digits", &["individual_digits"]) {
        return (digits.get("individual_digits")? == true).then_some(DIGIT);
    }
    let split = is(part, "Split", &["pattern", "behavior", "invert"])?;
    let pattern = split.get("pattern")?.as_object().filter(|pattern| pattern.len() == 1)?;
    let step = Step::of(pattern.get("Regex")?.as_str()?)?;
    let kept = match (split.get("behavior")?.as_str()?, split.get("invert")?.as_bool()?) {
        ("Isolated", _) => true,
        // What lies between matches is dropped, and there is nothing between them.
        ("Removed", true) => step.matches_every_character(),
        _ => false,
    };
    kept.then_some(step)
}

/// The part, if it is of this type and has no fields but these.
fn is<'a>(part: &'a Value, kind: &str, fields: &[&str]) -> Option<&'a Map<String, Value>> {
    let known = |(field, value): (&String, &Value)| match field.as_str() {
        "type" => value == kind,
        field => fields.contains(&field),
    };
    part.as_object().filter(|part| part.contains_key("type") && part.iter().all(known))
}
