//! A JSON schema as a grammar, once every keyword of it is known to be kept.
//!
//! JSON Schema lets a validator ignore keywords that it does not know. Here that would be a text which the schema's author
//! would call invalid, so each keyword is one that the grammar keeps, one that only describes, or an error by name.

use std::collections::HashSet;

use llguidance::api::GrammarWithLexer;
use serde_json::{Map, Value, json};

use super::LONGEST;
use crate::error::quote;

/// Schemas inside schemas, references followed.
const DEEPEST: usize = 1000;

/// What may stand between JSON's marks: a space, or line ends with an indent. Bounded, since a model that is not sure
/// likes to add spaces for ever.
const SPACE: &str = r" |\r?\n[ \t]{0,40}";

/// Keywords that hold nothing that needs a look inside.
const VALUES: &[&str] = &[
    "const",
    "enum",
    "type",
    "minItems",
    "maxItems",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];

/// Keywords that describe and forbid nothing.
const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "default",
    "definitions",
    "deprecated",
    "description",
    "discriminator",
    "example",
    "examples",
    "id",
    "readOnly",
    "title",
    "writeOnly",
];

/// The grammar of the JSON that a schema allows.
pub(super) fn grammar(schema: &Value) -> Result<GrammarWithLexer, String> {
    let mut walk = Walk { root: schema, seen: HashSet::new() };
    walk.check(schema, "", 0)?;
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        _ => json!({}), // `true`: any JSON
    };
    hold_formats(&mut schema);
    schema["x-guidance"] = json!({ "whitespace_flexible": true, "whitespace_pattern": SPACE });
    if schema.to_string().len() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    Ok(GrammarWithLexer::from_json_schema(schema))
}

/// What a format asks for beyond what the grammar knows of it: a 29 February is a leap year's, no calendar has a year 0, and a
/// second 60 is one of some midnights only; a host's name has at most 253 characters.
fn beyond_grammar(format: &str) -> Option<Value> {
    const DAY: &str = "(?:[1-9]|0[1-9]|00[1-9]|000[1-9])[0-9]*-(?:0[13-9]|1|02-[01]|02-2[0-8])";
    const LEAP_DAY: &str = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29";
    Some(match format {
        "date" => json!({ "pattern": format!("^(?:{DAY}|{LEAP_DAY})") }),
        "date-time" => {
            json!({ "allOf": [{ "pattern": format!("^(?:{DAY}|{LEAP_DAY})") }, { "pattern": "^.{17}[0-5]" }] })
        }
        "time" => json!({ "pattern": "^.{6}[0-5]" }),
        "hostname" => json!({ "maxLength": 253 }),
        _ => return None,
    })
}

/// Adds to every schema what its format asks for beyond the grammar.
fn hold_formats(value: &mut Value) {
    let object = match value {
        Value::Array(list) => return list.iter_mut().for_each(hold_formats),
        Value::Object(object) => object,
        _ => return,
    };
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("const" | "enum", _) => {} // no schemas
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(named)) => {
                named.values_mut().for_each(hold_formats);
            }
            (_, value) => hold_formats(value),
        }
    }
    let Some(further) = object.get("format").and_then(Value::as_str).and_then(beyond_grammar) else { return };
    let all = object.entry("allOf").or_insert_with(|| json!([]));
    all.as_array_mut().into_iter().for_each(|all| all.push(further.clone()));
}

struct Walk<'a> {
    root: &'a Value,
    /// References that were followed.
    seen: HashSet<&'a str>,
}

impl<'a> Walk<'a> {
    fn check(&mut self, schema: &'a Value, path: &str, depth: usize) -> Result<(), String> {
        let here = if path.is_empty() { String::new() } else { format!(" at {}", quote(path)) };
        if depth > DEEPEST {
            return Err(format!("has schemas more than {DEEPEST} deep"));
        }
        let object = match schema {
            Value::Object(object) => object,
            Value::Bool(true) => return Ok(()),
            Value::Bool(false) if depth > 0 => return Ok(()),
            Value::Bool(false) => return Err("is `false`, which allows no text".to_owned()),
            other => return Err(format!("holds {}{here}, expected a schema: an object", kind_of(other))),
        };
        for (key, value) in object {
            let inner = format!("{path}/{key}");
            match key.as_str() {
                "items" | "additionalItems" | "additionalProperties" if !value.is_array() => {
                    self.check(value, &inner, depth + 1)?;
                }
                "items" | "prefixItems" | "anyOf" | "oneOf" | "allOf" => {
                    let list = value.as_array().ok_or_else(|| format!("holds no list at {}", quote(&inner)))?;
                    for (i, part) in list.iter().enumerate() {
                        self.check(part, &format!("{inner}/{i}"), depth + 1)?;
                    }
                }
                "properties" | "patternProperties" => {
                    let map = value.as_object().ok_or_else(|| format!("holds no object at {}", quote(&inner)))?;
                    for (name, part) in map {
                        self.check(part, &format!("{inner}/{name}"), depth + 1)?;
                    }
                }
                "$ref" => self.follow(value, &inner, depth)?,
                key if VALUES.contains(&key) => exact(value, &inner)?,
                key if ANNOTATIONS.contains(&key) => {}
                key if key.starts_with("x-") && key != "x-guidance" => {}
                key => return Err(format!("uses the keyword {}{here}, which is not supported", quote(key))),
            }
        }
        check_together(object, &here)
    }

    fn follow(&mut self, reference: &'a Value, path: &str, depth: usize) -> Result<(), String> {
        let text = reference.as_str().ok_or_else(|| format!("holds no text at {}", quote(path)))?;
        if !self.seen.insert(text) {
            return Ok(());
        }
        let known = text.strip_prefix('#').filter(|pointer| pointer.is_empty() || pointer.starts_with('/'));
        let Some(pointer) = known.filter(|pointer| !pointer.contains(['~', '%'])) else {
            return Err(format!(
                "refers to {} at {}, expected `#/…`: a place in the schema itself",
                quote(text),
                quote(path)
            ));
        };
        let target = if pointer == "/" { Some(self.root) } else { self.root.pointer(pointer) };
        let target = target.ok_or_else(|| format!("refers to {}, which it does not hold", quote(text)))?;
        // A chain of references is no deeper than the schemas in it: what was seen is not followed again.
        self.check(target, text, depth + 1)
    }
}

/// Keywords that the grammar cannot keep beside each other.
fn check_together(object: &Map<String, Value>, here: &str) -> Result<(), String> {
    let count = |key: &str| object.get(key).and_then(Value::as_u64).unwrap_or(0);
    let required = object.get("required").and_then(Value::as_array).map_or(0, Vec::len) as u64;
    if count("minProperties") > required + 1 {
        let problem = "asks for `minProperties` beyond the required ones by more than one";
        return Err(format!("{problem}{here}: names of further properties may be equal"));
    }
    if object.contains_key("additionalItems") && !object.get("items").is_some_and(Value::is_array) {
        return Err(format!("uses `additionalItems`{here} without a list of `items`, where it has no meaning"));
    }
    Ok(())
}

/// Whole numbers beyond 2^53 would be rounded on their way through the grammar.
fn exact(value: &Value, path: &str) -> Result<(), String> {
    match value {
        Value::Number(number) => {
            let most = 1i128 << 53;
            let whole = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            match whole.filter(|whole| whole.abs() > most) {
                Some(whole) => Err(format!("holds {whole} at {}, expected at most 2^53", quote(path))),
                None => Ok(()),
            }
        }
        Value::Array(list) => list.iter().try_for_each(|value| exact(value, path)),
        Value::Object(map) => map.values().try_for_each(|value| exact(value, path)),
        _ => Ok(()),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
