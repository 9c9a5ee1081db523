//! Python's `pprint.pformat`: values laid out in lines of at most 80 characters, dictionaries by their keys' order.

use std::cmp::Ordering;

use super::characters::{is_space, lines};
use super::value::Value;
use super::{Budget, Fault, Outcome};

const WIDTH: usize = 80;

/// A value as `pprint` shows it.
pub(super) fn pretty(value: &Value, budget: &Budget) -> Outcome<String> {
    let mut out = String::new();
    write(&sorted(value, budget)?, 0, 0, 0, &mut out, budget)?;
    Ok(out)
}

/// The value with the dictionaries in its lists, tuples and dictionaries sorted; what else holds some shows them as they are.
fn sorted<'t>(value: &Value<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    let all = |items: &[Value<'t>]| items.iter().map(|item| sorted(item, budget)).collect::<Outcome<Vec<_>>>();
    match value {
        Value::List(items) => Value::list(all(&items.items)?, budget),
        Value::Tuple(items) => Value::tuple(all(&items.items)?, budget),
        Value::Dict(dict) => {
            let pairs = dict.entries.iter().map(|(key, value)| Ok((key.clone(), sorted(value, budget)?)));
            let mut pairs = pairs.collect::<Outcome<Vec<_>>>()?;
            let mut fault = None;
            pairs.sort_by(|a, b| {
                in_order(&a.0, &b.0, budget).unwrap_or_else(|found| {
                    fault.get_or_insert(found);
                    Ordering::Equal
                })
            });
            fault.map_or_else(|| Value::dict(pairs, budget), Err)
        }
        other => Ok(other.clone()),
    }
}

/// Keys that Python does not compare stand by the names of their types; of the same type by their places in memory.
fn in_order<'t>(a: &Value<'t>, b: &Value<'t>, budget: &Budget) -> Outcome<Ordering> {
    match a.compare(b, "<", budget) {
        Ok(order) => Ok(order.unwrap_or(Ordering::Equal)),
        Err(_) if a.kind() != b.kind() => Ok(a.kind().cmp(b.kind())),
        Err(_) => Err(Fault::new(format!("pprint cannot sort keys of type {} here", a.kind()))),
    }
}

/// Writes a value that begins in a column and is followed by so many signs of what it is in.
fn write(v: &Value, column: usize, after: usize, level: usize, out: &mut String, budget: &Budget) -> Outcome<()> {
    let mut text = String::new();
    v.repr(&mut text, budget)?;
    if text.chars().count() as i128 <= WIDTH as i128 - column as i128 - after as i128 {
        out.push_str(&text);
        return Ok(());
    }
    let list = |items: &[Value], end: &str, out: &mut String| {
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push(',');
                new_line(column + 1, out, budget)?;
            }
            let after = if at + 1 == items.len() { after + end.len() } else { 1 };
            write(item, column + 1, after, level + 1, out, budget)?;
        }
        out.push_str(end);
        Ok(())
    };
    match v {
        Value::List(items) => {
            out.push('[');
            list(&items.items, "]", out)
        }
        Value::Tuple(items) => {
            out.push('(');
            list(&items.items, if items.items.len() == 1 { ",)" } else { ")" }, out)
        }
        Value::Dict(dict) => {
            out.push('{');
            for (at, (key, value)) in dict.entries.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                    new_line(column + 1, out, budget)?;
                }
                let start = out.len();
                key.repr(out, budget)?;
                let column = column + 3 + out[start..].chars().count();
                out.push_str(": ");
                let after = if at + 1 == dict.entries.len() { after + 1 } else { 1 };
                write(value, column, after, level + 1, out, budget)?;
            }
            out.push('}');
            Ok(())
        }
        Value::Str(words) if !words.is_empty() => string(words, text, (column, after, level), out, budget),
        _ => {
            out.push_str(&text);
            Ok(())
        }
    }
}

fn new_line(column: usize, out: &mut String, budget: &Budget) -> Outcome<()> {
    budget.charge(column + 1)?;
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', column));
    Ok(())
}

fn repr(text: &str, budget: &Budget) -> Outcome<(String, i128)> {
    let mut out = String::new();
    Value::str(text).repr(&mut out, budget)?;
    let width = out.chars().count() as i128;
    Ok((out, width))
}

/// A text as several that Python reads as one: at its line breaks, and between words where a line is too long.
fn string(
    text: &str,
    whole: String,
    (column, after, level): (usize, usize, usize),
    out: &mut String,
    budget: &Budget,
) -> Outcome<()> {
    // What stands by itself stands in brackets.
    let (column, after) = if level == 0 { (column + 1, after as i128 + 1) } else { (column, after as i128) };
    let room = WIDTH as i128 - column as i128;
    let mut chunks = Vec::new();
    let all = lines(text, true);
    for (at, line) in all.iter().enumerate() {
        let is_last = at + 1 == all.len();
        let (shown, width) = repr(line, budget)?;
        if width <= if is_last { room - after } else { room } {
            chunks.push(shown);
            continue;
        }
        let mut current = String::new();
        let words = words(line);
        for (word_at, word) in words.iter().enumerate() {
            let room = if is_last && word_at + 1 == words.len() { room - after } else { room };
            budget.charge(current.len() + word.len())?;
            let candidate = [&current, *word].concat();
            if repr(&candidate, budget)?.1 > room {
                if !current.is_empty() {
                    chunks.push(repr(&current, budget)?.0);
                }
                current = (*word).to_owned();
            } else {
                current = candidate;
            }
        }
        if !current.is_empty() {
            chunks.push(repr(&current, budget)?.0);
        }
    }
    if let [_] = &chunks[..] {
        out.push_str(&whole);
        return Ok(());
    }
    if level == 0 {
        out.push('(');
    }
    for (at, chunk) in chunks.iter().enumerate() {
        if at > 0 {
            new_line(column, out, budget)?;
        }
        out.push_str(chunk);
    }
    if level == 0 {
        out.push(')');
    }
    Ok(())
}

/// Words, each with the white space behind it.
fn words(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let word = rest.find(is_space).unwrap_or(rest.len());
        let end = rest[word..].find(|c| !is_space(c)).map_or(rest.len(), |at| word + at);
        let (first, after) = rest.split_at(end);
        found.push(first);
        rest = after;
    }
    found
}
