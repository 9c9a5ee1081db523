//! `value | filter`

use std::rc::Rc;

use super::calls::Args;
use super::eval::Interpreter;
use super::methods::{capitalize, is_space, pairs, replace, trim};
use super::operators::percent;
use super::print::JsonStyle;
use super::value::Value;
use super::{Fault, Outcome, methods, order, tests};

const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "wordcount",
];

pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// The value that a filter makes of another.
pub(super) fn apply<'t>(run: &Interpreter<'t>, name: &str, value: Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let budget = run.budget;
    budget.step()?;
    match name {
        "default" | "d" => {
            let [default, boolean] = args.bind(name, ["default_value", "boolean"])?;
            let missing = value.is_undefined() || boolean.is_some_and(|b| b.is_true()) && !value.is_true();
            Ok(if missing { default.unwrap_or_else(|| Value::str("")) } else { value })
        }
        "length" | "count" => Ok(Value::Int(value.len(budget)? as i128)),
        "string" => Ok(Value::Str(value.text(budget)?)),
        "safe" => Ok(Value::Str(value.text(budget)?)),
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let text = value.text(budget)?;
            budget.charge(text.len())?;
            Ok(Value::str(match chars.filter(|chars| !matches!(chars, Value::None)) {
                Some(chars) => {
                    let chars = chars.text(budget)?;
                    text.trim_matches(|c| chars.contains(c))
                }
                None => trim(&text),
            }))
        }
        "title" => {
            let text = value.text(budget)?;
            budget.charge(text.len())?;
            Ok(Value::str(title(&text)))
        }
        "upper" | "lower" | "center" => {
            let text = Value::Str(value.text(budget)?);
            methods::call(run, &text, name, args)
        }
        "capitalize" => Ok(Value::str(capitalize(&value.text(budget)?))),
        "replace" => {
            let [Some(old), Some(new), most] = args.bind(name, ["old", "new", "count"])? else {
                return Err(Fault::new("replace expects two texts"));
            };
            let most = most.and_then(|most| most.as_int()).filter(|most| *most >= 0).map_or(usize::MAX, |m| m as usize);
            replace(&value.text(budget)?, &old.text(budget)?, &new.text(budget)?, most, budget)
        }
        "tojson" => tojson(run, &value, args),
        "join" => join(run, &value, args),
        "list" => Value::list(value.iterate(budget)?, budget),
        "items" => match &value {
            Value::Dict(dict) => Value::lazy(pairs(&dict.entries, budget)?.iterate(budget)?, budget),
            Value::Undefined(_) => Value::lazy(Vec::new(), budget),
            other => Err(Fault::new(format!("items expects a mapping, found {}", other.kind()))),
        },
        "first" => Ok(value.iterate(budget)?.into_iter().next().unwrap_or_else(|| Value::undefined("the first item"))),
        "last" => Ok(value.iterate(budget)?.pop().unwrap_or_else(|| Value::undefined("the last item"))),
        "reverse" => {
            if let Value::Str(text) = &value {
                budget.charge(text.len())?;
                return Ok(Value::str(text.chars().rev().collect::<String>()));
            }
            let mut items = value.iterate(budget)?;
            items.reverse();
            Value::lazy(items, budget)
        }
        "map" => map(run, &value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(run, name, &value, args),
        "sort" | "dictsort" | "unique" | "min" | "max" | "sum" | "groupby" => order::apply(run, name, value, args),
        "batch" => {
            let [Some(size), fill] = args.bind(name, ["linecount", "fill_with"])? else {
                return Err(Fault::new("batch expects a size"));
            };
            let size = size.as_int().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
            let size = size.ok_or_else(|| Fault::new("batch expects a size above 0"))?;
            let rows = value.iterate(budget)?;
            let rows = rows.chunks(size).map(|row| {
                let mut row = row.to_vec();
                if let Some(fill) = &fill {
                    budget.charge((size - row.len()).saturating_mul(size_of::<Value>()))?;
                    row.resize(size, fill.clone());
                }
                Value::list(row, budget)
            });
            Value::lazy(rows.collect::<Outcome<_>>()?, budget)
        }
        "indent" => indent(run, &value, args),
        "int" | "float" | "abs" | "round" => number(run, name, &value, args),
        "attr" => {
            let [Some(wanted)] = args.bind(name, ["name"])? else { return Err(Fault::new("attr expects a name")) };
            match &value {
                Value::Dict(_) => Ok(Value::undefined("an attribute")), // entries are no attributes
                other => run.attribute(other, &wanted.text(budget)?),
            }
        }
        "format" => {
            let values = Value::tuple(args.positional, budget)?;
            percent(&value.text(budget)?, &values, budget)
        }
        "e" | "escape" | "forceescape" => {
            let text = value.text(budget)?;
            budget.charge(text.len() * 5)?;
            let mut out = String::with_capacity(text.len());
            for c in text.chars() {
                match c {
                    '&' => out.push_str("&amp;"),
                    '<' => out.push_str("&lt;"),
                    '>' => out.push_str("&gt;"),
                    '\'' => out.push_str("&#39;"),
                    '"' => out.push_str("&#34;"),
                    c => out.push(c),
                }
            }
            Ok(Value::str(out))
        }
        "wordcount" => {
            let text = value.text(budget)?;
            budget.work(text.len())?;
            let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
            Ok(Value::Int(words.count() as i128))
        }
        other => Err(Fault::new(format!("no filter named '{other}'"))),
    }
}

/// Words begin behind white space, hyphens and opening brackets; Python's own method takes apostrophes for ends too.
fn title(text: &str) -> String {
    let mut begins = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begins = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    out
}

fn tojson<'t>(run: &Interpreter<'t>, value: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort_keys] = args.bind("tojson", names)?;
    let given = |value: Option<Value<'t>>| value.filter(|value| !matches!(value, Value::None));
    let indent = match given(indent) {
        None => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(count) => {
            let count = count.as_int().ok_or_else(|| Fault::new("indent expects a number or a text"))?;
            let count = usize::try_from(count.max(0)).map_err(|_| Fault::new("indent is too large"))?;
            run.budget.charge(count)?;
            Some(" ".repeat(count))
        }
    };
    let (item, key) = match given(separators) {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => match pair.as_items() {
            Some([Value::Str(item), Value::Str(key)]) => (item.to_string(), key.to_string()),
            _ => return Err(Fault::new("separators expects two texts")),
        },
    };
    let style = JsonStyle {
        ascii: ascii.is_some_and(|ascii| ascii.is_true()),
        indent,
        item_separator: item,
        key_separator: key,
        sort_keys: sort_keys.is_some_and(|sort| sort.is_true()),
    };
    let mut out = String::new();
    style.write(value, 0, &mut out, run.budget)?;
    Ok(Value::str(out))
}

fn join<'t>(run: &Interpreter<'t>, value: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or(Ok("".into()), |separator| separator.text(run.budget))?;
    let mut out = String::new();
    for (at, item) in value.iterate(run.budget)?.into_iter().enumerate() {
        let item = match &attribute {
            Some(attribute) => path(run, item, attribute)?,
            None => item,
        };
        let text = item.text(run.budget)?;
        run.budget.charge(text.len() + separator.len())?;
        out.push_str(if at == 0 { "" } else { &separator });
        out.push_str(&text);
    }
    Ok(Value::str(out))
}

/// `attribute="a.b"`: an item of an item.
pub(super) fn path<'t>(run: &Interpreter<'t>, value: Value<'t>, attribute: &Value<'t>) -> Outcome<Value<'t>> {
    let Some(names) = attribute.as_str() else { return run.item(&value, attribute) };
    names.split('.').try_fold(value, |value, name| match name.parse::<i128>() {
        Ok(index) => run.item(&value, &Value::Int(index)),
        Err(_) => run.item(&value, &Value::str(name)),
    })
}

/// What there is to look at: nothing in what is false, such as `none`.
fn items_of<'t>(run: &Interpreter<'t>, value: &Value<'t>) -> Outcome<Vec<Value<'t>>> {
    if value.is_true() { value.iterate(run.budget) } else { Ok(Vec::new()) }
}

fn map<'t>(run: &Interpreter<'t>, value: &Value<'t>, mut args: Args<'t>) -> Outcome<Value<'t>> {
    let mut out = Vec::new();
    if let Some(at) = args.named.iter().position(|(name, _)| &**name == "attribute") {
        let attribute = args.named.remove(at).1;
        let [default] = Args { positional: Vec::new(), named: args.named }.bind("map", ["default"])?;
        for item in items_of(run, value)? {
            let found = path(run, item, &attribute)?;
            out.push(match &default {
                Some(default) if found.is_undefined() => default.clone(),
                _ => found,
            });
        }
        return Value::lazy(out, run.budget);
    }
    if args.positional.is_empty() {
        return Err(Fault::new("map expects the name of a filter"));
    }
    let filter = args.positional.remove(0).text(run.budget)?;
    for item in items_of(run, value)? {
        let args = Args { positional: args.positional.clone(), named: args.named.clone() };
        out.push(run.budget.deeper(|| apply(run, &filter, item, args))?);
    }
    Value::lazy(out, run.budget)
}

fn select<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, mut args: Args<'t>) -> Outcome<Value<'t>> {
    let (wanted, by_attribute) = (name.starts_with("select"), name.ends_with("attr"));
    let attribute = if by_attribute {
        if args.positional.is_empty() {
            return Err(Fault::new(format!("{name} expects an attribute")));
        }
        Some(args.positional.remove(0))
    } else {
        None
    };
    let test = if args.positional.is_empty() { None } else { Some(args.positional.remove(0).text(run.budget)?) };
    let mut out = Vec::new();
    for item in items_of(run, value)? {
        let subject = match &attribute {
            Some(attribute) => path(run, item.clone(), attribute)?,
            None => item.clone(),
        };
        let holds = match &test {
            None => subject.is_true(),
            Some(test) => {
                let args = Args { positional: args.positional.clone(), named: args.named.clone() };
                tests::apply(run, test, &subject, args)?
            }
        };
        if holds == wanted {
            out.push(item);
        }
    }
    Value::lazy(out, run.budget)
}

fn indent<'t>(run: &Interpreter<'t>, value: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let (first, blank) = (first.is_some_and(|v| v.is_true()), blank.is_some_and(|v| v.is_true()));
    let indention: Rc<str> = match width {
        None => "    ".into(),
        Some(Value::Str(text)) => text,
        Some(width) => {
            let width = width.as_int().and_then(|width| usize::try_from(width).ok()).unwrap_or(0);
            run.budget.charge(width)?;
            " ".repeat(width).into()
        }
    };
    let text = value.text(run.budget)?;
    let mut out = String::new();
    for (at, line) in text.split('\n').enumerate() {
        run.budget.charge(line.len() + indention.len() + 1)?;
        out.push_str(if at == 0 { "" } else { "\n" });
        if if at == 0 { first } else { blank || !line.trim_matches(is_space).is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(Value::str(out))
}

fn number<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let text = value.as_str().map(trim);
    match name {
        "int" => {
            let [default, _base] = args.bind(name, ["default", "base"])?;
            let parsed = match (value.as_int(), value.as_f64(), text) {
                (Some(int), ..) => Some(int),
                (None, Some(float), _) => Some(float as i128),
                (None, None, Some(text)) => {
                    text.parse().ok().or_else(|| text.parse::<f64>().ok().map(|float| float as i128))
                }
                _ => None,
            };
            Ok(parsed.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            let parsed = value.as_f64().or_else(|| text.and_then(|text| text.parse().ok()));
            Ok(parsed.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "abs" => match (value.as_int(), value) {
            (Some(int), _) => Ok(Value::Int(int.saturating_abs())),
            (None, Value::Float(float)) => Ok(Value::Float(float.abs())),
            (None, other) => Err(Fault::new(format!("bad operand type for abs(): '{}'", other.kind()))),
        },
        _ => {
            let [precision, method] = args.bind(name, ["precision", "method"])?;
            let precision = precision.and_then(|precision| precision.as_int()).unwrap_or(0).clamp(-30, 30) as i32;
            let method = method.map_or(Ok("common".into()), |method| method.text(run.budget))?;
            let float = value.as_f64().ok_or_else(|| Fault::new("round expects a number"))?;
            let scale = 10f64.powi(precision);
            Ok(Value::Float(match &*method {
                "ceil" => (float * scale).ceil() / scale,
                "floor" => (float * scale).floor() / scale,
                _ => (float * scale).round_ties_even() / scale,
            }))
        }
    }
}
