//! Values as text: Python's `repr` and its JSON.

use std::cmp::Ordering;
use std::fmt::Write;

use super::characters::is_printable;
use super::value::{Value, ViewOf};
use super::{Budget, Fault, Outcome};

impl<'t> Value<'t> {
    /// Python's `repr`.
    pub(super) fn repr(&self, out: &mut String, budget: &Budget) -> Outcome<()> {
        let before = out.len();
        let separated = |out: &mut String, items: &[Value<'t>]| {
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                item.repr(out, budget)?;
            }
            Ok::<_, Fault>(())
        };
        match self {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(value) => out.push_str(if *value { "True" } else { "False" }),
            Value::Int(int) => out.push_str(&int.to_string()),
            Value::Float(float) => out.push_str(&float_text(*float)),
            Value::Str(text) => quoted(text, out),
            Value::Markup(text) => {
                out.push_str("Markup(");
                quoted(text, out);
                out.push(')');
            }
            Value::View(view) => match view.of {
                ViewOf::Range { start, stop, step: 1 } => _ = write!(out, "range({start}, {stop})"),
                ViewOf::Range { start, stop, step } => _ = write!(out, "range({start}, {stop}, {step})"),
                _ => {
                    let _ = write!(out, "{}([", self.kind());
                    separated(out, &view.sequence.items)?;
                    out.push_str("])");
                }
            },
            Value::Namespace(names) => {
                out.push_str("<Namespace {");
                for (i, (name, value)) in names.borrow().iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    quoted(name, out);
                    out.push_str(": ");
                    budget.deeper(|| value.repr(out, budget))?;
                }
                out.push_str("}>");
            }
            Value::Loop(state) => _ = write!(out, "<LoopContext {}/{}>", state.index.get() + 1, state.items.len()),
            Value::List(items) => {
                out.push('[');
                separated(out, &items.items)?;
                out.push(']');
            }
            Value::Tuple(items) => {
                out.push('(');
                separated(out, &items.items)?;
                out.push_str(if items.items.len() == 1 { ",)" } else { ")" });
            }
            Value::Dict(dict) => {
                out.push('{');
                for (i, (key, value)) in dict.entries.iter().enumerate() {
                    out.push_str(if i == 0 { "" } else { ", " });
                    key.repr(out, budget)?;
                    out.push_str(": ");
                    value.repr(out, budget)?;
                }
                out.push('}');
            }
            other => {
                let _ = write!(out, "<{}>", other.kind());
            }
        }
        budget.charge(out.len() - before)
    }
}

/// Python's `repr` of a float.
pub(super) fn float_text(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let size = float.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let text = float.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

/// Python's `repr` of a string.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let _ = match c as u32 {
                    code @ ..=0xff => write!(out, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// How `tojson` writes.
pub(super) struct JsonStyle {
    pub(super) ascii: bool,
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) sort_keys: bool,
}

impl JsonStyle {
    /// Python's `json.dumps`.
    pub(super) fn write(&self, value: &Value<'_>, level: usize, out: &mut String, budget: &Budget) -> Outcome<()> {
        let before = out.len();
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(int) => out.push_str(&int.to_string()),
            Value::Float(float) => out.push_str(&json_float(*float)),
            Value::Str(text) | Value::Markup(text) => self.string(text, out),
            Value::List(items) | Value::Tuple(items) => {
                out.push('[');
                for (i, item) in items.items.iter().enumerate() {
                    self.separate(i, level + 1, out, budget)?;
                    self.write(item, level + 1, out, budget)?;
                }
                if !items.items.is_empty() {
                    self.new_line(level, out, budget)?;
                }
                out.push(']');
            }
            Value::Dict(dict) => {
                out.push('{');
                let mut entries: Vec<&(Value, Value)> = dict.entries.iter().collect();
                if self.sort_keys {
                    budget.work(entries.len() * 32)?;
                    let mut fault = None;
                    entries.sort_by(|a, b| match (&fault, a.0.compare(&b.0, "<", budget)) {
                        (None, Ok(order)) => order.unwrap_or(Ordering::Equal),
                        (None, Err(found)) => {
                            fault = Some(found);
                            Ordering::Equal
                        }
                        (Some(_), _) => Ordering::Equal,
                    });
                    fault.map_or(Ok(()), Err)?;
                }
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    self.separate(i, level + 1, out, budget)?;
                    match key {
                        Value::Str(text) | Value::Markup(text) => self.string(text, out),
                        Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                            out.push('"');
                            self.write(key, level, out, budget)?;
                            out.push('"');
                        }
                        other => {
                            return Err(Fault::new(format!(
                                "keys must be str, int, float, bool or None, not {}",
                                other.kind()
                            )));
                        }
                    }
                    out.push_str(&self.key_separator);
                    self.write(value, level + 1, out, budget)?;
                }
                if !dict.entries.is_empty() {
                    self.new_line(level, out, budget)?;
                }
                out.push('}');
            }
            other => return Err(Fault::new(format!("Object of type {} is not JSON serializable", other.kind()))),
        }
        budget.charge(out.len() - before)
    }

    fn separate(&self, index: usize, level: usize, out: &mut String, budget: &Budget) -> Outcome<()> {
        if index > 0 {
            budget.charge(self.item_separator.len())?;
            out.push_str(&self.item_separator);
        }
        self.new_line(level, out, budget)
    }

    fn new_line(&self, level: usize, out: &mut String, budget: &Budget) -> Outcome<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        budget.charge(indent.len() * level)?;
        out.push('\n');
        out.extend(std::iter::repeat_n(indent.as_str(), level));
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || self.ascii && c > '~' => {
                    let mut units = [0; 2];
                    for unit in c.encode_utf16(&mut units) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn json_float(float: f64) -> String {
    match float_text(float).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        text => text.to_owned(),
    }
}
