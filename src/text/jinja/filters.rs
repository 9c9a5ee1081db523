//! `value | filter`

use super::calls::Args;
use super::characters::{digit_value, is_space, trim};
use super::eval::Interpreter;
use super::format::percent;
use super::methods::{pairs, replace};
use super::operators::markup;
use super::pretty::pretty;
use super::print::JsonStyle;
use super::value::Value;
use super::{Fault, Outcome, methods, order, tests, texts};

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
    "filesizeformat",
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
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "wordwrap",
    "xmlattr",
];
/// Filters of jinja2 that chat templates have no use for: for web pages, or with another result each time.
const REFUSED: &[&str] = &["random", "striptags", "urlize"];

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
        "string" => {
            let [] = args.bind(name, [])?;
            Ok(value.like(value.text(budget)?))
        }
        "safe" => Ok(Value::Markup(value.text(budget)?)),
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            let text = value.text(budget)?;
            budget.charge(text.len())?;
            Ok(value.like(match chars.filter(|chars| !matches!(chars, Value::None)) {
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
        "upper" | "lower" | "capitalize" => methods::call(run, &value.like(value.text(budget)?), name, args),
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let args = Args::of(vec![width.unwrap_or(Value::Int(80))]);
            methods::call(run, &value.like(value.text(budget)?), name, args)
        }
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
            Value::Dict(dict) => Value::lazy(pairs(&dict.entries, budget)?, budget),
            Value::Undefined(_) => Value::lazy(Vec::new(), budget),
            other => Err(Fault::new(format!("items expects a mapping, found {}", other.kind()))),
        },
        "first" => Ok(value.first(budget)?.unwrap_or_else(|| Value::undefined("the first item"))),
        "last" if matches!(value, Value::Lazy(_)) => Err(Fault::new("'generator' object is not reversible")),
        "last" => Ok(value.iterate(budget)?.pop().unwrap_or_else(|| Value::undefined("the last item"))),
        "reverse" => {
            if let Some(text) = value.as_str() {
                budget.charge(text.len())?;
                return Ok(value.like(text.chars().rev().collect::<String>()));
            }
            let mut items = value.iterate(budget)?;
            items.reverse();
            Value::lazy(items, budget)
        }
        "map" => map(run, &value, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(run, name, &value, args),
        "sort" | "dictsort" | "unique" | "min" | "max" | "sum" | "groupby" => order::apply(run, name, value, args),
        "batch" | "slice" => rows(run, name, &value, args),
        "filesizeformat" | "indent" | "truncate" | "urlencode" | "wordcount" | "wordwrap" | "xmlattr" => {
            texts::apply(run, name, &value, args)
        }
        "pprint" => {
            let [] = args.bind(name, [])?;
            Ok(Value::str(pretty(&value, budget)?))
        }
        "int" | "float" | "abs" | "round" => number(run, name, &value, args),
        "attr" => {
            let [Some(wanted)] = args.bind(name, ["name"])? else { return Err(Fault::new("attr expects a name")) };
            match &value {
                Value::Dict(_) => Ok(Value::undefined("an attribute")), // entries are no attributes
                other => run.attribute(other, &wanted.text(budget)?),
            }
        }
        "format" => {
            let given = match (args.positional.is_empty(), args.named.is_empty()) {
                (false, false) => {
                    return Err(Fault::new("can't handle positional and keyword arguments at the same time"));
                }
                (true, false) => {
                    let named = args.named.into_iter().map(|(name, value)| (Value::Str(name), value));
                    Value::dict(named.collect(), budget)?
                }
                _ => Value::tuple(args.positional, budget)?,
            };
            let is_markup = matches!(value, Value::Markup(_));
            Ok(value.like(percent(&value.text(budget)?, &given, is_markup, budget)?))
        }
        "e" | "escape" => Ok(Value::Markup(markup(&value, budget)?)),
        "forceescape" => Ok(Value::Markup(markup(&Value::Str(value.text(budget)?), budget)?)),
        other if REFUSED.contains(&other) => Err(Fault::new(format!("the filter '{other}' is not supported"))),
        other => Err(Fault::new(format!("no filter named '{other}'"))),
    }
}

/// Words begin behind white space, hyphens and opening brackets; Python's own method takes apostrophes for ends too.
fn title(text: &str) -> String {
    let mut begins = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase()); // not in title case, as Python's method would
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
    path_or(run, value, attribute, None)
}

/// The same, with something in place of what is not there.
pub(super) fn path_or<'t>(
    run: &Interpreter<'t>,
    value: Value<'t>,
    attribute: &Value<'t>,
    default: Option<&Value<'t>>,
) -> Outcome<Value<'t>> {
    let or_default = |found: Value<'t>| match default {
        Some(default) if found.is_undefined() => default.clone(),
        _ => found,
    };
    let Some(names) = attribute.as_str() else { return run.item(&value, attribute).map(or_default) };
    names.split('.').try_fold(value, |value, name| {
        let key = name.parse::<i128>().map_or_else(|_| Value::str(name), Value::Int);
        run.item(&value, &key).map(or_default)
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
            out.push(path_or(run, item, &attribute, default.as_ref())?);
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

/// `batch` fills rows of a size, `slice` makes so many rows that differ by one item at most.
fn rows<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let budget = run.budget;
    let first = if name == "batch" { "linecount" } else { "slices" };
    let [Some(size), fill] = args.bind(name, [first, "fill_with"])? else {
        return Err(Fault::new(format!("{name} expects a number")));
    };
    let fill = fill.filter(|fill| !matches!(fill, Value::None));
    let size = size.as_int().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
    let size = size.ok_or_else(|| Fault::new(format!("{name} expects a number above 0")))?;
    let items = value.iterate(budget)?;
    let mut rows = Vec::new();
    if name == "batch" {
        for row in items.chunks(size) {
            let mut row = row.to_vec();
            if let Some(fill) = &fill {
                budget.charge((size - row.len()).saturating_mul(size_of::<Value>()))?;
                row.resize(size, fill.clone());
            }
            rows.push(Value::list(row, budget)?);
        }
    } else {
        budget.charge(size.saturating_mul(64))?;
        let (each, longer) = (items.len() / size, items.len() % size);
        let mut rest = &items[..];
        for at in 0..size {
            let (row, after) = rest.split_at(each + usize::from(at < longer));
            rest = after;
            let extra = fill.iter().filter(|_| at >= longer).cloned();
            rows.push(Value::list(row.iter().cloned().chain(extra).collect(), budget)?);
        }
    }
    Value::lazy(rows, budget)
}

fn number<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    if let (Value::Undefined(what), true) = (value, name != "abs") {
        return Err(Fault::undefined(what));
    }
    let text = value.as_str();
    match name {
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            let base = base.and_then(|base| base.as_int()).unwrap_or(10);
            let whole = |float: f64| {
                let fits = float.is_finite() && float.abs() < i128::MAX as f64;
                fits.then_some(float as i128)
            };
            let parsed = match (value.as_int(), value.as_f64(), text) {
                (Some(int), ..) => Some(int),
                (None, Some(float), _) if float.is_infinite() => {
                    return Err(Fault::new("cannot convert float infinity to integer"));
                }
                (None, Some(float), _) => whole(float),
                (None, None, Some(text)) => parse_int(text, base)?.or_else(|| parse_float(text).and_then(whole)),
                _ => None,
            };
            Ok(parsed.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            let parsed = value.as_f64().or_else(|| text.and_then(parse_float));
            Ok(parsed.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        "abs" => {
            let [] = args.bind(name, [])?;
            match (value.as_int(), value) {
                (Some(int), _) => Ok(Value::Int(int.saturating_abs())),
                (None, Value::Float(float)) => Ok(Value::Float(float.abs())),
                (None, Value::Undefined(what)) => Err(Fault::undefined(what)),
                (None, other) => Err(Fault::new(format!("bad operand type for abs(): '{}'", other.kind()))),
            }
        }
        _ => {
            let [precision, method] = args.bind(name, ["precision", "method"])?;
            let precision = precision.and_then(|precision| precision.as_int()).unwrap_or(0);
            let method = method.map_or(Ok("common".into()), |method| method.text(run.budget))?;
            let float = value.as_f64().ok_or_else(|| Fault::new("round expects a number"))?;
            let digits = i32::try_from(precision.clamp(-400, 400)).unwrap_or_default();
            let scale = 10f64.powi(digits);
            match (&*method, value.as_int()) {
                ("ceil", _) => Ok(Value::Float((float * scale).ceil() / scale)),
                ("floor", _) => Ok(Value::Float((float * scale).floor() / scale)),
                ("common", Some(int)) if digits >= 0 => Ok(Value::Int(int)),
                ("common", Some(int)) => Ok(Value::Int(round_int(int, digits))),
                // The decimal digits of the number itself, which its product with a power of ten need not have.
                ("common", None) if digits >= 0 && float.is_finite() => {
                    let text = format!("{float:.*}", digits as usize);
                    Ok(Value::Float(if digits == 0 { float.round_ties_even() } else { text.parse().unwrap_or(float) }))
                }
                ("common", None) => Ok(Value::Float((float * scale).round_ties_even() / scale)),
                _ => Err(Fault::new("method must be common, ceil or floor")),
            }
        }
    }
}

/// A whole number at `-digits` places before the point; of two that are as near, the even one.
fn round_int(int: i128, digits: i32) -> i128 {
    let Some(unit) = 10i128.checked_pow(digits.unsigned_abs()) else { return 0 };
    let (down, rest) = (int.div_euclid(unit), int.rem_euclid(unit));
    let up = match (rest * 2).cmp(&unit) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Greater => 1,
        std::cmp::Ordering::Equal => down & 1,
    };
    (down + up).saturating_mul(unit)
}

/// Python's `int(text, base)`, or none where it is no number.
fn parse_int(text: &str, base: i128) -> Outcome<Option<i128>> {
    let radix = u32::try_from(base).ok().filter(|base| *base == 0 || (2..=36).contains(base));
    let radix = radix.ok_or_else(|| Fault::new("int() base must be >= 2 and <= 36, or 0"))?;
    let text = trim(text);
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let marks = [("0x", 16), ("0o", 8), ("0b", 2)];
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let mark = marks.into_iter().find(|(mark, of)| lower.as_deref() == Some(mark) && (radix == *of || radix == 0));
    let (radix, digits) = match mark {
        Some((_, of)) => (of, digits[2..].strip_prefix('_').unwrap_or(&digits[2..])),
        None if radix == 0
            && digits.len() > 1
            && digits.starts_with('0')
            && digits.contains(|c| c != '0' && c != '_') =>
        {
            return Ok(None);
        }
        None => (if radix == 0 { 10 } else { radix }, digits),
    };
    let mut found: i128 = 0;
    let mut after_digit = false;
    for c in digits.chars() {
        if c == '_' && after_digit {
            after_digit = false;
            continue;
        }
        let Some(digit) = c.to_digit(radix).or_else(|| digit_value(c).filter(|digit| *digit < radix)) else {
            return Ok(None);
        };
        let next = found.checked_mul(radix.into()).and_then(|found| found.checked_add(digit.into()));
        found = next.ok_or_else(|| Fault::new("a number is too large"))?;
        after_digit = true;
    }
    Ok(after_digit.then_some(if negative { -found } else { found }))
}

/// Python's `float(text)`: digits may be parted by single underscores.
fn parse_float(text: &str) -> Option<f64> {
    let text = trim(text);
    let digit = |c: Option<&u8>| c.is_some_and(u8::is_ascii_digit);
    let bytes = text.as_bytes();
    let sound = |at: usize| digit(at.checked_sub(1).and_then(|at| bytes.get(at))) && digit(bytes.get(at + 1));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'_' && !sound(at)) {
        return None;
    }
    let latin: String = text
        .chars()
        .filter(|c| *c != '_')
        .map(|c| digit_value(c).and_then(|d| char::from_digit(d, 10)).unwrap_or(c))
        .collect();
    latin.parse().ok()
}
