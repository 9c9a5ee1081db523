//! What Python's strings, lists and dictionaries can do, as far as it changes nothing.

use std::rc::Rc;

use super::calls::Args;
use super::characters::{
    capitalize, casefold, is_decimal, is_digit, is_identifier, is_printable, is_space, is_title, lines, split, title,
};
use super::eval::Interpreter;
use super::format::fields;
use super::operators::markup;
use super::value::{Value, ViewOf};
use super::{Budget, Fault, Outcome};

const OF_STRINGS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
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
const OF_LISTS: &[&str] = &["copy", "count", "index"];
const OF_TUPLES: &[&str] = &["count", "index"];
const OF_DICTS: &[&str] = &["copy", "get", "items", "keys", "values"];
/// What Python's lists and dictionaries can do to themselves; in transformers' sandbox they have no such methods.
const CHANGING: &[&str] =
    &["append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update"];

/// True where `value.name` is a method.
pub(super) fn has(value: &Value, name: &str) -> bool {
    let methods = match value {
        Value::Str(_) | Value::Markup(_) => OF_STRINGS,
        Value::List(_) => OF_LISTS,
        Value::Tuple(_) => OF_TUPLES,
        Value::View(view) if matches!(view.of, ViewOf::Range { .. }) => OF_TUPLES,
        Value::Cycler(_) => &["next", "reset"],
        Value::Function("dict") => &["fromkeys"],
        Value::Dict(_) => OF_DICTS,
        Value::Loop(_) => &["changed", "cycle"],
        _ => &[],
    };
    methods.contains(&name)
}

/// True where the method would change its value, which nothing in a template may.
pub(super) fn changes(value: &Value, name: &str) -> bool {
    matches!(value, Value::List(_) | Value::Dict(_)) && CHANGING.contains(&name)
}

pub(super) fn call<'t>(run: &Interpreter<'t>, value: &Value<'t>, name: &str, args: Args<'t>) -> Outcome<Value<'t>> {
    run.budget.step()?;
    match value {
        Value::Str(text) => of_string(run, text, name, args),
        Value::Markup(text) => of_markup(run, text, name, args),
        Value::List(items) | Value::Tuple(items) => of_list(run, &items.items, name, args),
        Value::View(view) => of_list(run, &view.sequence.items, name, args),
        Value::Cycler(cycler) => {
            let [] = args.bind(name, [])?;
            let now = cycler.items[cycler.at.get()].clone();
            cycler.at.set(if name == "reset" { 0 } else { (cycler.at.get() + 1) % cycler.items.len() });
            Ok(if name == "reset" { Value::None } else { now })
        }
        Value::Function(_) => {
            let [Some(keys), value] = args.bind(name, ["iterable", "value"])? else { return Err(missing(name)) };
            let value = value.unwrap_or(Value::None);
            let entries = keys.iterate(run.budget)?.into_iter().map(|key| (key, value.clone()));
            Value::dict(entries.collect(), run.budget)
        }
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
        "copy" => {
            let [] = args.bind(name, [])?;
            Value::list(items.to_vec(), run.budget)
        }
        "count" | "index" => {
            let [Some(wanted), start, stop] = args.bind(name, ["value", "start", "stop"])? else {
                return Err(missing(name));
            };
            let (start, stop) = span(start, stop, items.len());
            let mut found = Vec::new();
            for (at, item) in items.iter().enumerate().take(stop).skip(start) {
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
        other => Err(Fault::new(format!("the method '{other}' of lists is not supported"))),
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
        _ => {
            let [] = args.bind(name, [])?;
            match name {
                "copy" => Ok(dict.clone()),
                "keys" => Value::view(ViewOf::Keys, entries.iter().map(|(key, _)| key.clone()).collect(), run.budget),
                "values" => {
                    Value::view(ViewOf::Values, entries.iter().map(|(_, value)| value.clone()).collect(), run.budget)
                }
                _ => Value::view(ViewOf::Items, pairs(entries, run.budget)?, run.budget),
            }
        }
    }
}

/// Keys with their values.
pub(super) fn pairs<'t>(entries: &[(Value<'t>, Value<'t>)], budget: &Budget) -> Outcome<Vec<Value<'t>>> {
    entries.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()], budget)).collect()
}

/// Python's `[start:stop]` of so many items.
fn span(start: Option<Value>, stop: Option<Value>, len: usize) -> (usize, usize) {
    let end = |end: Option<Value>, default: usize| match end.and_then(|end| end.as_int()) {
        None => default,
        Some(at) if at < 0 => usize::try_from(at.saturating_add(len as i128)).unwrap_or(0),
        Some(at) => usize::try_from(at).unwrap_or(usize::MAX),
    };
    (end(start, 0), end(stop, len).min(len))
}

/// The methods of a text that is markup: they give markup, and what is put into it is escaped.
fn of_markup<'t>(run: &Interpreter<'t>, text: &Rc<str>, name: &str, mut args: Args<'t>) -> Outcome<Value<'t>> {
    let escaped = |value: &Value<'t>| markup(value, run.budget).map(Value::Str);
    match name {
        "join" => {
            let [Some(items)] = args.bind(name, ["iterable"])? else { return Err(missing(name)) };
            let items = items.iterate(run.budget)?.iter().map(escaped).collect::<Outcome<_>>()?;
            args = Args::of(vec![Value::list(items, run.budget)?]);
        }
        "replace" | "ljust" | "rjust" | "center" => {
            for value in args.positional.iter_mut().skip(1).take(1) {
                *value = escaped(value)?;
            }
        }
        "format" => return Ok(Value::Markup(fields(run, text, args, true)?.into())),
        "format_map" => return Ok(Value::Markup(fields(run, text, from_map(args)?, true)?.into())),
        _ => {}
    }
    let wrap =
        |value: &Value<'t>| if let Value::Str(text) = value { Value::Markup(Rc::clone(text)) } else { value.clone() };
    Ok(match of_string(run, text, name, args)? {
        Value::List(items) => Value::list(items.items.iter().map(wrap).collect(), run.budget)?,
        Value::Tuple(items) => Value::tuple(items.items.iter().map(wrap).collect(), run.budget)?,
        other => wrap(&other),
    })
}

/// What `format_map` is given: the entries of a dictionary, by name.
fn from_map(args: Args) -> Outcome<Args> {
    let [mapping] = args.bind("format_map", ["mapping"])?;
    let Some(Value::Dict(dict)) = mapping else { return Err(Fault::new("format_map() expects a mapping")) };
    let named = dict.entries.iter().filter_map(|(key, value)| Some((Rc::from(key.as_str()?), value.clone())));
    Ok(Args { positional: Vec::new(), named: named.collect() })
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
            let [Some(wanted), start, stop] = args.bind(name, ["prefix", "start", "end"])? else {
                return Err(missing(name));
            };
            let (_, text) = part(text, start, stop)?;
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
            let [Some(end)] = args.bind(name, ["part"])? else { return Err(missing(name)) };
            let part = needed_text(&end, name)?;
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
            let [Some(wanted), start, stop] = args.bind(name, ["sub", "start", "end"])? else {
                return Err(missing(name));
            };
            let (before, text) = part(text, start, stop)?;
            let wanted = needed_text(&wanted, name)?;
            if name == "count" {
                let count = if wanted.is_empty() { text.chars().count() + 1 } else { text.matches(wanted).count() };
                return Ok(Value::Int(count as i128));
            }
            let found = if name.starts_with('r') { text.rfind(wanted) } else { text.find(wanted) };
            match found {
                Some(at) => Ok(Value::Int((before + text[..at].chars().count()) as i128)),
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
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            let size = size.and_then(|size| size.as_int()).unwrap_or(8);
            let size = usize::try_from(size.max(0)).map_err(|_| Fault::new("a tab is too wide"))?;
            budget.charge(text.matches('\t').count().saturating_mul(size))?;
            let (mut out, mut column) = (String::new(), 0usize);
            for c in text.chars() {
                if c == '\t' {
                    let spaces = size - column.checked_rem(size).unwrap_or(0);
                    out.extend(std::iter::repeat_n(' ', spaces));
                    column += spaces;
                } else {
                    out.push(c);
                    column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                }
            }
            string(out)
        }
        "format" => string(fields(run, text, args, false)?),
        "format_map" => string(fields(run, text, from_map(args)?, false)?),
        "ljust" | "rjust" | "center" | "zfill" => {
            let [Some(width), fill] = args.bind(name, ["width", "fillchar"])? else { return Err(missing(name)) };
            let fill = match (name, optional_text(fill, name)?) {
                ("zfill", None) => '0',
                (_, None) => ' ',
                (_, Some(fill)) => {
                    let mut chars = fill.chars();
                    let one = chars.next().filter(|_| chars.next().is_none() && name != "zfill");
                    one.ok_or_else(|| Fault::new("the fill character must be exactly one character long"))?
                }
            };
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
        _ => {
            let [] = args.bind(name, [])?;
            plain(text, name)
        }
    }
}

/// The methods that take nothing but the text.
fn plain<'t>(text: &str, name: &str) -> Outcome<Value<'t>> {
    let all = |test: fn(char) -> bool| Ok(Value::Bool(!text.is_empty() && text.chars().all(test)));
    let cased = |wanted: fn(char) -> bool, other: fn(char) -> bool| {
        Ok(Value::Bool(text.chars().any(wanted) && !text.chars().any(other)))
    };
    let swap =
        |c: char| if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect::<String>() };
    match name {
        "upper" => Ok(Value::str(text.to_uppercase())),
        "lower" => Ok(Value::str(text.to_lowercase())),
        "casefold" => Ok(Value::str(casefold(text))),
        "capitalize" => Ok(Value::str(capitalize(text))),
        "title" => Ok(Value::str(title(text))),
        "swapcase" => Ok(Value::str(text.chars().map(swap).collect::<String>())),
        "isalpha" => all(char::is_alphabetic),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(char::is_numeric),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_space),
        "isascii" => Ok(Value::Bool(text.is_ascii())),
        "isprintable" => Ok(Value::Bool(text.chars().all(is_printable))),
        "isidentifier" => Ok(Value::Bool(is_identifier(text))),
        "istitle" => Ok(Value::Bool(is_title(text))),
        "islower" => cased(char::is_lowercase, char::is_uppercase),
        "isupper" => cased(char::is_uppercase, char::is_lowercase),
        other => Err(Fault::new(format!("the method '{other}' of strings is not supported"))),
    }
}

/// The part of a text from one character to another, and how many characters stand before it.
fn part<'a>(text: &'a str, start: Option<Value>, stop: Option<Value>) -> Outcome<(usize, &'a str)> {
    if start.is_none() && stop.is_none() {
        return Ok((0, text));
    }
    let len = text.chars().count();
    let (start, stop) = span(start, stop, len);
    let stop = stop.max(start.min(len));
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok((start, &text[byte(start)..byte(stop)]))
}

/// The text of an argument; an undefined one has none.
fn needed_text<'a>(value: &'a Value, name: &str) -> Outcome<&'a str> {
    match value {
        Value::Str(text) | Value::Markup(text) => Ok(text),
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

pub(super) fn replace<'t>(text: &str, old: &str, new: &str, most: usize, budget: &Budget) -> Outcome<Value<'t>> {
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    budget.charge(text.len().saturating_add(found.min(most).saturating_mul(new.len())))?;
    Ok(Value::str(text.replacen(old, new, most)))
}
