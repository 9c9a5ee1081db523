//! What Python's strings, lists and dictionaries can do, as far as it changes nothing.

use std::rc::Rc;

use super::calls::Args;
use super::eval::Interpreter;
use super::value::Value;
use super::{Budget, Fault, Outcome};

const OF_STRINGS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const OF_LISTS: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const OF_TUPLES: &[&str] = &["count", "index"];
const OF_DICTS: &[&str] =
    &["clear", "copy", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// True where `value.name` is a method.
pub(super) fn has(value: &Value, name: &str) -> bool {
    let methods = match value {
        Value::Str(_) => OF_STRINGS,
        Value::List(_) => OF_LISTS,
        Value::Tuple(_) => OF_TUPLES,
        Value::Dict(_) => OF_DICTS,
        Value::Loop(_) => &["changed", "cycle"],
        _ => &[],
    };
    methods.contains(&name)
}

pub(super) fn call<'t>(run: &Interpreter<'t>, value: &Value<'t>, name: &str, args: Args<'t>) -> Outcome<Value<'t>> {
    run.budget.step()?;
    match value {
        Value::Str(text) => of_string(run, text, name, args),
        Value::List(items) | Value::Tuple(items) => of_list(run, &items.items, name, args),
        Value::Dict(dict) => of_dict(run, value, &dict.entries, name, args),
        Value::Loop(state) if name == "cycle" => {
            let choices = args.positional;
            let at = state.index.get() % choices.len().max(1);
            choices.get(at).cloned().ok_or_else(|| Fault::new("no items for cycling given"))
        }
        Value::Loop(state) => {
            let now = args.positional;
            let before = state.changed.replace(Some(now.clone()));
            let same = match before {
                Some(before) => Value::list(before, run.budget)?.equals(&Value::list(now, run.budget)?, run.budget)?,
                None => false,
            };
            Ok(Value::Bool(!same))
        }
        other => Err(Fault::new(format!("'{}' object has no method '{name}'", other.kind()))),
    }
}

fn of_list<'t>(run: &Interpreter<'t>, items: &[Value<'t>], name: &str, args: Args<'t>) -> Outcome<Value<'t>> {
    match name {
        "copy" => Value::list(items.to_vec(), run.budget),
        "count" | "index" => {
            let [Some(wanted)] = args.bind(name, ["value"])? else { return Err(missing(name)) };
            let mut found = Vec::new();
            for (at, item) in items.iter().enumerate() {
                if item.equals(&wanted, run.budget)? {
                    found.push(at);
                }
            }
            match (name, found.first()) {
                ("count", _) => Ok(Value::Int(found.len() as i128)),
                (_, Some(at)) => Ok(Value::Int(*at as i128)),
                (_, None) => Err(Fault::new("the value is not in the list")),
            }
        }
        _ => Err(forbidden(name)),
    }
}

fn of_dict<'t>(
    run: &Interpreter<'t>,
    dict: &Value<'t>,
    entries: &[(Value<'t>, Value<'t>)],
    name: &str,
    args: Args<'t>,
) -> Outcome<Value<'t>> {
    match name {
        "get" => {
            let [Some(key), default] = args.bind(name, ["key", "default"])? else { return Err(missing(name)) };
            run.budget.work(entries.len())?;
            Ok(dict.entry(&key).or(default).unwrap_or(Value::None))
        }
        "copy" => Ok(dict.clone()),
        "keys" => Value::list(entries.iter().map(|(key, _)| key.clone()).collect(), run.budget),
        "values" => Value::list(entries.iter().map(|(_, value)| value.clone()).collect(), run.budget),
        "items" => pairs(entries, run.budget),
        _ => Err(forbidden(name)),
    }
}

/// A list of keys with their values.
pub(super) fn pairs<'t>(entries: &[(Value<'t>, Value<'t>)], budget: &Budget) -> Outcome<Value<'t>> {
    let pairs = entries.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()], budget));
    Value::list(pairs.collect::<Outcome<_>>()?, budget)
}

fn forbidden(name: &str) -> Fault {
    Fault::new(format!("the method '{name}' is not allowed: a chat template may not change its values"))
}

fn missing(name: &str) -> Fault {
    Fault::new(format!("{name}() misses an argument"))
}

fn of_string<'t>(run: &Interpreter<'t>, text: &Rc<str>, name: &str, args: Args<'t>) -> Outcome<Value<'t>> {
    let budget = run.budget;
    budget.charge(text.len())?;
    let string = |text: String| Ok(Value::str(text));
    let same =
        |other: &str| Ok(if other.len() == text.len() { Value::Str(Rc::clone(text)) } else { Value::str(other) });
    let all = |test: fn(char) -> bool| Ok(Value::Bool(!text.is_empty() && text.chars().all(test)));
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [set] = args.bind(name, ["chars"])?;
            let set = optional_text(set, name)?;
            let matches = |c: char| set.as_deref().map_or_else(|| is_space(c), |set| set.contains(c));
            same(match name {
                "strip" => text.trim_matches(matches),
                "lstrip" => text.trim_start_matches(matches),
                _ => text.trim_end_matches(matches),
            })
        }
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            let most = most.and_then(|most| most.as_int()).filter(|most| *most >= 0);
            let most = most.map_or(usize::MAX, |most| most as usize);
            let parts = split(text, optional_text(separator, name)?.as_deref(), most, name == "rsplit")?;
            strings(parts, budget)
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            strings(lines(text, keep.is_some_and(|keep| keep.is_true())), budget)
        }
        "partition" | "rpartition" => {
            let [separator] = args.bind(name, ["sep"])?;
            let separator = optional_text(separator, name)?.filter(|separator| !separator.is_empty());
            let separator = separator.ok_or_else(|| Fault::new("empty separator"))?;
            let found = if name == "partition" { text.split_once(&*separator) } else { text.rsplit_once(&*separator) };
            let parts = match found {
                Some((before, after)) => [before, &separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::tuple(parts.into_iter().map(Value::str).collect(), budget)
        }
        "startswith" | "endswith" => {
            let [Some(wanted)] = args.bind(name, ["prefix"])? else { return Err(missing(name)) };
            let alone = std::slice::from_ref(&wanted);
            let choices = if let Value::Tuple(choices) = &wanted { &choices.items[..] } else { alone };
            for choice in choices {
                let choice = needed_text(choice, name)?;
                if if name == "startswith" { text.starts_with(choice) } else { text.ends_with(choice) } {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        "removeprefix" | "removesuffix" => {
            let [Some(part)] = args.bind(name, ["part"])? else { return Err(missing(name)) };
            let part = needed_text(&part, name)?;
            let rest = if name == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            same(rest.unwrap_or(text))
        }
        "replace" => {
            let [Some(old), Some(new), most] = args.bind(name, ["old", "new", "count"])? else {
                return Err(missing(name));
            };
            let (old, new) = (needed_text(&old, name)?, needed_text(&new, name)?);
            let most = most.and_then(|most| most.as_int()).filter(|most| *most >= 0);
            replace(text, old, new, most.map_or(usize::MAX, |most| most as usize), budget)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let [Some(part)] = args.bind(name, ["sub"])? else { return Err(missing(name)) };
            let part = needed_text(&part, name)?;
            if name == "count" {
                let count = if part.is_empty() { text.chars().count() + 1 } else { text.matches(part).count() };
                return Ok(Value::Int(count as i128));
            }
            let found = if name.starts_with('r') { text.rfind(part) } else { text.find(part) };
            match found {
                Some(at) => Ok(Value::Int(text[..at].chars().count() as i128)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => Err(Fault::new("substring not found")),
            }
        }
        "join" => {
            let [Some(items)] = args.bind(name, ["iterable"])? else { return Err(missing(name)) };
            let items = items.iterate(budget)?;
            let mut out = String::new();
            for (at, item) in items.iter().enumerate() {
                let item = needed_text(item, name)?;
                budget.charge(item.len() + text.len())?;
                out.push_str(if at == 0 { "" } else { text });
                out.push_str(item);
            }
            string(out)
        }
        "upper" => string(text.to_uppercase()),
        "lower" | "casefold" => string(text.to_lowercase()),
        "capitalize" => string(capitalize(text)),
        "title" => string(title(text)),
        "swapcase" => string(
            text.chars()
                .flat_map(|c| {
                    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect::<Vec<_>>() }
                })
                .collect(),
        ),
        "isalpha" => all(char::is_alphabetic),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "islower" => Ok(Value::Bool(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))),
        "isupper" => Ok(Value::Bool(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))),
        "ljust" | "rjust" | "center" | "zfill" => {
            let [Some(width), fill] = args.bind(name, ["width", "fillchar"])? else { return Err(missing(name)) };
            let fill = optional_text(fill, name)?.and_then(|fill| fill.chars().next());
            let fill = if name == "zfill" { '0' } else { fill.unwrap_or(' ') };
            let width = width.as_int().and_then(|width| usize::try_from(width).ok()).unwrap_or(0);
            let missing = width.saturating_sub(text.chars().count());
            budget.charge(missing.saturating_mul(4))?;
            let before = match name {
                "ljust" => 0,
                "center" => missing / 2 + (missing & width & 1),
                _ => missing,
            };
            let pad = |count| std::iter::repeat_n(fill, count);
            let sign = if name == "zfill" && text.starts_with(['-', '+']) { 1 } else { 0 };
            let (sign, rest) = text.split_at(sign);
            string(sign.chars().chain(pad(before)).chain(rest.chars()).chain(pad(missing - before)).collect())
        }
        "format" => format(text, args, budget),
        other => Err(Fault::new(format!("the method '{other}' of strings is not supported"))),
    }
}

/// What Python's `str.strip` and `str.isspace` take for white space: Unicode's, and four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// The text of an argument; an undefined one has none.
fn needed_text<'a>(value: &'a Value, name: &str) -> Outcome<&'a str> {
    match value {
        Value::Str(text) => Ok(text),
        Value::Undefined(what) => Err(Fault::undefined(what)),
        other => Err(Fault::new(format!("{name}() expects a str, found {}", other.kind()))),
    }
}

fn optional_text(value: Option<Value>, name: &str) -> Outcome<Option<Rc<str>>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => needed_text(&value, name).map(|text| Some(text.into())),
    }
}

fn strings<'t>(parts: Vec<&str>, budget: &Budget) -> Outcome<Value<'t>> {
    budget.charge(parts.iter().map(|part| part.len() + 32).sum())?;
    Value::list(parts.into_iter().map(Value::str).collect(), budget)
}

fn split<'a>(text: &'a str, separator: Option<&str>, most: usize, from_right: bool) -> Outcome<Vec<&'a str>> {
    let most = most.saturating_add(1);
    if let Some(separator) = separator {
        if separator.is_empty() {
            return Err(Fault::new("empty separator"));
        }
        if !from_right {
            return Ok(text.splitn(most, separator).collect());
        }
        let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
        parts.reverse();
        return Ok(parts);
    }
    let mut parts = Vec::new();
    let mut rest = trim(text);
    while !rest.is_empty() {
        let cut = if parts.len() + 1 == most {
            None
        } else if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        match cut {
            None => {
                parts.push(rest);
                break;
            }
            Some(at) if from_right => {
                let after = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(&rest[after..]);
                rest = rest[..at].trim_end_matches(is_space);
            }
            Some(at) => {
                parts.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_break = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_break) {
        let width =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        found.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

pub(super) fn replace<'t>(text: &str, old: &str, new: &str, most: usize, budget: &Budget) -> Outcome<Value<'t>> {
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    budget.charge(text.len().saturating_add(found.min(most).saturating_mul(new.len())))?;
    Ok(Value::str(text.replacen(old, new, most)))
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &chars.as_str().to_lowercase()
}

fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `"{} {0} {name}".format(…)`, without format specifications.
fn format<'t>(text: &str, args: Args<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    let mut out = String::new();
    let mut next = 0;
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        let (field, after) =
            rest.split_once('}').filter(|_| brace == "{").ok_or_else(|| Fault::new("single brace in format string"))?;
        rest = after;
        let value = if field.is_empty() {
            next += 1;
            args.positional.get(next - 1)
        } else if let Ok(at) = field.parse::<usize>() {
            args.positional.get(at)
        } else {
            args.named.iter().find(|(name, _)| **name == *field).map(|(_, value)| value)
        };
        let value = value.ok_or_else(|| Fault::new(format!("format() has no value for '{{{field}}}'")))?;
        let value = value.text(budget)?;
        budget.charge(value.len())?;
        out.push_str(&value);
    }
    out.push_str(rest);
    Ok(Value::str(out))
}
