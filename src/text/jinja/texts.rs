//! Filters that lay texts out: lines, widths, sizes, addresses, attributes.

use std::rc::Rc;

use super::calls::Args;
use super::characters::{escaped, is_space, lines};
use super::eval::Interpreter;
use super::operators::markup;
use super::value::Value;
use super::{Budget, Fault, Outcome};

pub(super) fn apply<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let budget = run.budget;
    match name {
        "filesizeformat" => {
            let [binary] = args.bind(name, ["binary"])?;
            let bytes = match (value.as_f64(), value.as_str()) {
                (Some(bytes), _) => bytes,
                (None, Some(text)) => text.trim().parse().map_err(|_| Fault::new("filesizeformat expects a number"))?,
                _ => return Err(Fault::new("filesizeformat expects a number")),
            };
            Ok(Value::str(size(bytes, binary.is_some_and(|binary| binary.is_true()))))
        }
        "indent" => indent(value, args, budget),
        "truncate" => truncate(value, args, budget),
        "urlencode" => {
            let [] = args.bind(name, [])?;
            if value.as_str().is_some()
                || value.as_f64().is_some()
                || matches!(value, Value::None | Value::Undefined(_))
            {
                return Ok(Value::str(quoted(&value.text(budget)?, false, budget)?));
            }
            let pairs = match value {
                Value::Dict(dict) => super::methods::pairs(&dict.entries, budget)?,
                other => other.iterate(budget)?,
            };
            let mut parts = Vec::new();
            for pair in pairs {
                let pair = pair.iterate(budget)?;
                let [key, value] = &pair[..] else { return Err(Fault::new("urlencode expects pairs")) };
                let key = quoted(&key.text(budget)?, true, budget)?;
                parts.push(key + "=" + &quoted(&value.text(budget)?, true, budget)?);
            }
            Ok(Value::str(parts.join("&")))
        }
        "wordcount" => {
            let [] = args.bind(name, [])?;
            let text = value.text(budget)?;
            budget.work(text.len())?;
            let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
            Ok(Value::Int(words.count() as i128))
        }
        "xmlattr" => attributes(value, args, budget),
        _ => wordwrap(value, args, budget),
    }
}

/// `name="value"` for each entry that has a value, with a space in front.
fn attributes<'t>(value: &Value<'t>, args: Args<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    let [space] = args.bind("xmlattr", ["autospace"])?;
    let Value::Dict(dict) = value else {
        return Err(Fault::new(format!("xmlattr expects a mapping, found {}", value.kind())));
    };
    let mut out = String::new();
    for (key, value) in &dict.entries {
        if matches!(value, Value::None | Value::Undefined(_)) {
            continue;
        }
        let name = key.as_str().ok_or_else(|| Fault::new(format!("an attribute's name cannot be {}", key.kind())))?;
        if name.contains(|c: char| matches!(c, '\t'..='\r' | ' ' | '/' | '>' | '=')) {
            return Err(Fault::new("invalid character in attribute name"));
        }
        let (name, value) = (markup(key, budget)?, markup(value, budget)?);
        budget.charge(name.len() + value.len() + 4)?;
        out.extend([if out.is_empty() { "" } else { " " }, &name, "=\"", &value, "\""]);
    }
    let spaced = !out.is_empty() && space.is_none_or(|space| space.is_true());
    Ok(Value::str(if spaced { [" ", &out].concat() } else { out }))
}

fn size(bytes: f64, binary: bool) -> String {
    let (base, unit): (f64, _) = if binary { (1024.0, "iB") } else { (1000.0, "B") };
    if bytes == 1.0 {
        return "1 Byte".to_owned();
    }
    if bytes < base {
        return format!("{} Bytes", bytes.trunc());
    }
    let prefixes =
        if binary { ["K", "M", "G", "T", "P", "E", "Z", "Y"] } else { ["k", "M", "G", "T", "P", "E", "Z", "Y"] };
    let at = (0..7).find(|at| bytes < base.powi(at + 2)).unwrap_or(7);
    format!("{:.1} {}{unit}", base * bytes / base.powi(at + 2), prefixes[at as usize])
}

fn indent<'t>(value: &Value<'t>, args: Args<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let (first, blank) = (first.is_some_and(|v| v.is_true()), blank.is_some_and(|v| v.is_true()));
    let indention: Rc<str> = match width {
        None => "    ".into(),
        Some(Value::Str(text) | Value::Markup(text)) => text,
        Some(width) => {
            let width = width.as_int().and_then(|width| usize::try_from(width).ok()).unwrap_or(0);
            budget.charge(width)?;
            " ".repeat(width).into()
        }
    };
    let Some(text) = value.as_str() else {
        return Err(Fault::new(format!("indent expects a text, found {}", value.kind())));
    };
    let ended = [text, "\n"].concat();
    let mut out = String::new();
    for (at, line) in lines(&ended, false).into_iter().enumerate() {
        budget.charge(line.len() + indention.len() + 1)?;
        out.push_str(if at == 0 { "" } else { "\n" });
        if if at == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(value.like(out))
}

fn truncate<'t>(value: &Value<'t>, args: Args<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    let [length, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let number = |value: Option<Value>, default: i128| value.and_then(|value| value.as_int()).unwrap_or(default);
    let (length, leeway) = (number(length, 255), number(leeway, 5));
    let end = end.map_or(Ok("...".into()), |end| end.text(budget))?;
    let kept = length - end.chars().count() as i128;
    if kept < 0 || leeway < 0 {
        return Err(Fault::new(format!(
            "truncate expects a length of {} or more, found {length}",
            end.chars().count()
        )));
    }
    if value.len(budget)? as i128 <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let Some(text) = value.as_str() else {
        return Err(Fault::new(format!("truncate expects a text, found {}", value.kind())));
    };
    budget.charge(text.len() + end.len() * 5)?;
    let cut = text.char_indices().nth(kept as usize).map_or(text.len(), |(at, _)| at);
    let mut start = &text[..cut];
    if !kill.is_some_and(|kill| kill.is_true()) {
        start = start.rsplit_once(' ').map_or(start, |(before, _)| before);
    }
    let end = if let Value::Markup(_) = value { escaped(&end) } else { end.to_string() };
    Ok(value.like([start, &end].concat()))
}

/// Letters, digits and `_.-~` as they are, all else as its bytes.
fn quoted(text: &str, is_query: bool, budget: &Budget) -> Outcome<String> {
    budget.charge(text.len().saturating_mul(3))?;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if !is_query => out.push('/'),
            b' ' if is_query => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(out)
}

/// Python's `textwrap.wrap`, line by line.
fn wordwrap<'t>(value: &Value<'t>, args: Args<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, between, hyphens] = args.bind("wordwrap", names)?;
    let width = width.map_or(Some(79), |width| width.as_int()).and_then(|width| usize::try_from(width).ok());
    let width = width.filter(|width| *width > 0).ok_or_else(|| Fault::new("wordwrap expects a width above 0"))?;
    let flag = |value: Option<Value>| value.is_none_or(|value| value.is_true());
    let (long, hyphens) = (flag(long), flag(hyphens));
    let between = match between {
        None | Some(Value::None) => "\n".into(),
        Some(between) => between.text(budget)?,
    };
    let Some(text) = value.as_str() else { return Err(Fault::new("wordwrap expects a text")) };
    let mut out = Vec::new();
    for line in lines(text, false) {
        let mut rows: Vec<String> = Vec::new();
        let mut chunks: Vec<Vec<char>> = chunks(line, hyphens);
        budget.charge(line.len().saturating_mul(8))?;
        chunks.reverse();
        while !chunks.is_empty() {
            budget.step()?;
            if !rows.is_empty() && chunks.last().is_some_and(|chunk| chunk.iter().all(|c| is_space(*c))) {
                chunks.pop();
            }
            let mut row: Vec<Vec<char>> = Vec::new();
            let mut length = 0;
            while let Some(chunk) = chunks.pop_if(|chunk| length + chunk.len() <= width) {
                length += chunk.len();
                row.push(chunk);
            }
            if let Some(chunk) = chunks.last_mut().filter(|chunk| chunk.len() > width) {
                if long {
                    budget.work(4 * chunk.len())?;
                    let room = width - length;
                    let mut end = room;
                    if hyphens {
                        // Behind a hyphen within the room, if anything but hyphens stands before it.
                        let hyphen = chunk[..room].iter().rposition(|c| *c == '-').filter(|at| *at > 0);
                        end = hyphen.filter(|at| chunk[..*at].iter().any(|c| *c != '-')).map_or(room, |at| at + 1);
                    }
                    row.push(chunk.drain(..end).collect());
                } else if row.is_empty() {
                    row.extend(chunks.pop());
                }
            }
            if row.last().is_some_and(|chunk| chunk.iter().all(|c| is_space(*c))) {
                row.pop();
            }
            if !row.is_empty() {
                rows.push(row.into_iter().flatten().collect());
            }
        }
        budget.charge(rows.len().saturating_mul(between.len() + 32))?;
        out.push(rows.join(&between));
    }
    Ok(Value::str(out.join(&between)))
}

/// Words and the spaces between them; words with hyphens in their parts where they may be cut there.
fn chunks(line: &str, hyphens: bool) -> Vec<Vec<char>> {
    let is_blank = |c: char| matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ');
    let mut found: Vec<Vec<char>> = Vec::new();
    let chars: Vec<char> = line.chars().collect();
    let letter = |at: usize| chars.get(at).is_some_and(|c| c.is_alphabetic() || *c == '_');
    let mut start = 0;
    for at in 1..=chars.len() {
        let turns = at == chars.len() || is_blank(chars[at]) != is_blank(chars[at - 1]);
        // A hyphen between letters, with two before it, or one and another hyphen.
        let cuts = hyphens
            && chars[at - 1] == '-'
            && at >= 3
            && letter(at - 2)
            && (letter(at - 3) || chars[at - 3] == '-')
            && letter(at)
            && (letter(at + 1) || chars.get(at + 1) == Some(&'-'));
        if turns || cuts {
            found.push(chars[start..at].to_vec());
            start = at;
        }
    }
    found.retain(|chunk| !chunk.is_empty());
    found
}
