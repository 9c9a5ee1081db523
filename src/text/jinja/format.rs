//! Numbers and texts in a form: `"%05.1f" % x`, and `"{:>8}".format(x)`.

use super::calls::Args;
use super::characters::escaped;
use super::eval::Interpreter;
use super::value::Value;
use super::{Budget, Fault, Outcome};

/// Most digits behind the point, and most characters that a form may fill up to, at once.
const MOST_DIGITS: usize = 1000;

/// `[[fill]align][sign][#][0][width][grouping][.precision][type]`
#[derive(Default)]
struct Form {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Form {
    fn parse(text: &str) -> Outcome<Form> {
        let mut form = Form::default();
        let mut chars: Vec<char> = text.chars().collect();
        let is_align = |c: Option<&char>| matches!(c, Some('<' | '>' | '=' | '^'));
        let mut at = 0;
        if is_align(chars.get(1)) {
            (form.fill, form.align) = (Some(chars[0]), Some(chars[1]));
            at = 2;
        } else if is_align(chars.first()) {
            form.align = Some(chars[0]);
            at = 1;
        }
        chars.drain(..at);
        let mut rest = chars.into_iter().peekable();
        form.sign = rest.next_if(|c| matches!(c, '+' | '-' | ' '));
        form.alternate = rest.next_if_eq(&'#').is_some();
        if rest.next_if_eq(&'0').is_some() {
            form.fill = form.fill.or(Some('0'));
            form.align = form.align.or(Some('0'));
        }
        let number = |rest: &mut std::iter::Peekable<std::vec::IntoIter<char>>| {
            let mut digits = String::new();
            while let Some(c) = rest.next_if(char::is_ascii_digit) {
                digits.push(c);
            }
            (!digits.is_empty()).then(|| digits.parse::<usize>().map_err(|_| too_large()))
        };
        form.width = number(&mut rest).transpose()?.unwrap_or(0);
        form.grouping = rest.next_if(|c| matches!(c, ',' | '_'));
        if rest.next_if_eq(&'.').is_some() {
            form.precision = Some(number(&mut rest).ok_or_else(|| Fault::new("format specifier missing precision"))??);
        }
        form.kind = rest.next();
        match rest.next() {
            None => Ok(form),
            Some(_) => Err(Fault::new(format!("invalid format specifier '{text}'"))),
        }
    }

    /// The digits of a number with its sign, filled up.
    fn number(&self, negative: bool, prefix: &str, digits: String, budget: &Budget) -> Outcome<String> {
        let mut body = digits;
        if let Some(separator) = self.grouping {
            let size = if matches!(self.kind, Some('b' | 'o' | 'x' | 'X')) { 4 } else { 3 };
            let whole = body.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(body.len());
            let mut grouped = String::new();
            for (at, c) in body[..whole].chars().enumerate() {
                if at > 0 && (whole - at).is_multiple_of(size) {
                    grouped.push(separator);
                }
                grouped.push(c);
            }
            body = grouped + &body[whole..];
        }
        let sign = if negative {
            "-"
        } else {
            self.sign.filter(|sign| *sign != '-').map_or("", |s| if s == '+' { "+" } else { " " })
        };
        let head = format!("{sign}{prefix}");
        if matches!(self.align, Some('=' | '0')) {
            if self.grouping.is_some() && self.fill == Some('0') && self.width > 0 {
                return Err(Fault::new("zeros in front of grouped digits are not supported"));
            }
            let missing = self.width.saturating_sub(head.len() + body.chars().count());
            budget.charge(missing.saturating_mul(4))?;
            let fill = self.fill.unwrap_or(' ');
            return Ok(head.chars().chain(std::iter::repeat_n(fill, missing)).chain(body.chars()).collect());
        }
        self.pad(&(head + &body), '>', budget)
    }

    fn pad(&self, text: &str, default: char, budget: &Budget) -> Outcome<String> {
        let missing = self.width.saturating_sub(text.chars().count());
        budget.charge(text.len().saturating_add(missing.saturating_mul(4)))?;
        let before = match self.align.filter(|align| *align != '0').unwrap_or(default) {
            '<' => 0,
            '^' => missing / 2,
            _ => missing,
        };
        let fill = |count| std::iter::repeat_n(self.fill.unwrap_or(' '), count);
        Ok(fill(before).chain(text.chars()).chain(fill(missing - before)).collect())
    }

    fn digits(&self) -> Outcome<Option<usize>> {
        match self.precision {
            Some(digits) if digits > MOST_DIGITS => Err(too_large()),
            digits => Ok(digits),
        }
    }

    fn integer(&self, int: i128, budget: &Budget) -> Outcome<String> {
        let kind = self.kind.unwrap_or('d');
        if matches!(kind, 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') {
            return self.float(int as f64, budget);
        }
        if self.precision.is_some() {
            return Err(Fault::new("precision not allowed in integer format specifier"));
        }
        if kind == 'c' {
            let c =
                u32::try_from(int).ok().and_then(char::from_u32).ok_or_else(|| Fault::new("%c arg not in range"))?;
            return self.pad(&c.to_string(), '<', budget);
        }
        let (digits, prefix) = whole_digits(kind, int.unsigned_abs())
            .ok_or_else(|| Fault::new(format!("unknown format code '{kind}' for object of type 'int'")))?;
        self.number(int < 0, if self.alternate { prefix } else { "" }, digits, budget)
    }

    fn float(&self, float: f64, budget: &Budget) -> Outcome<String> {
        let digits = self.digits()?;
        let kind = self.kind.unwrap_or(if digits.is_some() { 'N' } else { 'r' });
        let text = float_digits(kind, float.abs(), digits, self.alternate)
            .ok_or_else(|| Fault::new(format!("unknown format code '{kind}' for object of type 'float'")))?;
        self.number(float.is_sign_negative() && !float.is_nan(), "", text, budget)
    }

    fn text(&self, text: &str, budget: &Budget) -> Outcome<String> {
        if !matches!(self.kind, None | Some('s')) || self.sign.is_some() || self.grouping.is_some() || self.alternate {
            return Err(Fault::new("invalid format specifier for object of type 'str'"));
        }
        if self.align == Some('=') {
            return Err(Fault::new("'=' alignment not allowed in string format specifier"));
        }
        match self.precision {
            Some(most) => self.pad(&text.chars().take(most).collect::<String>(), '<', budget),
            None => self.pad(text, '<', budget),
        }
    }
}

fn too_large() -> Fault {
    Fault::new("too many digits in a format")
}

/// Digits of a whole number and what stands in front of them in the long form.
fn whole_digits(kind: char, int: u128) -> Option<(String, &'static str)> {
    Some(match kind {
        'd' | 'n' | 'i' | 'u' => (int.to_string(), ""),
        'b' => (format!("{int:b}"), "0b"),
        'o' => (format!("{int:o}"), "0o"),
        'x' => (format!("{int:x}"), "0x"),
        'X' => (format!("{int:X}"), "0X"),
        _ => return None,
    })
}

/// A number that is not negative: `r` as Python shows it, `N` with some significant digits and always a point.
fn float_digits(kind: char, float: f64, digits: Option<usize>, alternate: bool) -> Option<String> {
    let text = match kind {
        _ if !float.is_finite() => {
            let name = if float.is_nan() { "nan" } else { "inf" };
            if kind == '%' { format!("{name}%") } else { name.to_owned() }
        }
        'r' => super::print::float_text(float),
        'f' | 'F' => format!("{float:.*}", digits.unwrap_or(6)),
        '%' => format!("{:.*}%", digits.unwrap_or(6), float * 100.0),
        'e' | 'E' => exponent(float, digits.unwrap_or(6)),
        'g' | 'G' | 'n' | 'N' => {
            let digits = digits.unwrap_or(6).max(1);
            let long = exponent(float, digits - 1);
            let (mantissa, power) = long.split_once('e')?;
            let power: i32 = power.parse().ok()?;
            let most = digits as i32 - i32::from(kind == 'N');
            let short = |text: &str| match (alternate, text.contains('.')) {
                (false, true) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                _ => text.to_owned(),
            };
            if (-4..most.max(1)).contains(&power) {
                let fixed = short(&format!("{float:.*}", (digits as i32 - 1 - power).max(0) as usize));
                if kind == 'N' && !fixed.contains('.') { fixed + ".0" } else { fixed }
            } else {
                format!("{}e{}", short(mantissa), &long[mantissa.len() + 1..])
            }
        }
        _ => return None,
    };
    Some(if kind.is_ascii_uppercase() && kind != 'N' { text.to_uppercase() } else { text })
}

/// `1.5e+03`
fn exponent(float: f64, digits: usize) -> String {
    let text = format!("{float:.digits$e}");
    let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, power) = power.strip_prefix('-').map_or(('+', power), |power| ('-', power));
    format!("{mantissa}e{sign}{power:0>2}")
}

/// Python's `format(value, form)`.
fn formatted(value: &Value, form: &str, budget: &Budget) -> Outcome<String> {
    if form.is_empty() {
        return Ok(value.text(budget)?.to_string());
    }
    let parsed = Form::parse(form)?;
    match (value, value.as_int(), value.as_str()) {
        (_, Some(int), _) => parsed.integer(int, budget),
        (Value::Float(float), ..) => parsed.float(*float, budget),
        (_, _, Some(text)) => parsed.text(text, budget),
        (other, ..) => Err(Fault::new(format!("unsupported format string passed to {}.__format__", other.kind()))),
    }
}

fn repr(value: &Value, budget: &Budget) -> Outcome<String> {
    let mut text = String::new();
    value.repr(&mut text, budget)?;
    Ok(text)
}

fn ascii(text: &str) -> String {
    let escape = |c: char| match c as u32 {
        0..=0x7f => c.to_string(),
        code @ ..=0xff => format!("\\x{code:02x}"),
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    };
    text.chars().map(escape).collect()
}

/// What `str.format` is given, and how far it has come.
struct Fields<'a, 't> {
    run: &'a Interpreter<'t>,
    args: Args<'t>,
    /// Fields without a name so far, or none where fields are numbered.
    next: Option<usize>,
    is_markup: bool,
}

/// `"{} {0} {name!r:>8}".format(…)`; what is put into markup is escaped.
pub(super) fn fields<'t>(run: &Interpreter<'t>, text: &str, args: Args<'t>, is_markup: bool) -> Outcome<String> {
    let mut fields = Fields { run, args, next: Some(0), is_markup };
    fields.fill(text, 2)
}

impl<'t> Fields<'_, 't> {
    fn fill(&mut self, text: &str, levels: usize) -> Outcome<String> {
        let Some(levels) = levels.checked_sub(1) else { return Err(Fault::new("max string recursion exceeded")) };
        let budget = self.run.budget;
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            budget.charge(at)?;
            out.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                out.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                return Err(Fault::new("single '}' encountered in format string"));
            }
            let mut depth = 1;
            let end = rest.char_indices().find(|(_, c)| {
                depth += i32::from(*c == '{') - i32::from(*c == '}');
                depth == 0
            });
            let (end, _) = end.ok_or_else(|| Fault::new("expected '}' before end of string"))?;
            let field = &rest[..end];
            rest = &rest[end + 1..];
            let text = self.field(field, levels)?;
            budget.charge(text.len())?;
            out.push_str(&text);
        }
        out.push_str(rest);
        Ok(out)
    }

    fn field(&mut self, field: &str, levels: usize) -> Outcome<String> {
        let budget = self.run.budget;
        let bracket = field.rfind(']').map_or(0, |at| at + 1);
        let form_at = field[bracket..].find([':', '!']).map(|at| bracket + at).filter(|_| true);
        let form_at = match field.find([':', '!']) {
            Some(at) if field[..at].contains('[') => form_at,
            other => other,
        };
        let (name, tail) = form_at.map_or((field, ""), |at| field.split_at(at));
        let (conversion, form) = match tail.strip_prefix('!') {
            Some(rest) => {
                let conversion = rest.chars().next().ok_or_else(|| Fault::new("unmatched '{' in format spec"))?;
                let rest = &rest[conversion.len_utf8()..];
                match (rest.strip_prefix(':'), rest.is_empty()) {
                    (Some(form), _) => (Some(conversion), form),
                    (None, true) => (Some(conversion), ""),
                    (None, false) => return Err(Fault::new("expected ':' after conversion specifier")),
                }
            }
            None => (None, tail.strip_prefix(':').unwrap_or(tail)),
        };
        let mut value = self.value(name)?;
        let form = if form.contains(['{', '}']) { self.fill(form, levels)? } else { form.to_owned() };
        match conversion {
            None => {}
            Some('s') => value = Value::str(value.text(budget)?),
            Some('r') => value = Value::str(repr(&value, budget)?),
            Some('a') => value = Value::str(ascii(&repr(&value, budget)?)),
            Some(other) => return Err(Fault::new(format!("unknown conversion specifier '{other}'"))),
        }
        let text = formatted(&value, &form, budget)?;
        let keeps = matches!(value, Value::Markup(_));
        Ok(if self.is_markup && !keeps { escaped(&text) } else { text })
    }

    /// `0.name[key]`
    fn value(&mut self, name: &str) -> Outcome<Value<'t>> {
        let end = name.find(['.', '[']).unwrap_or(name.len());
        let (first, mut path) = name.split_at(end);
        let mixed = || Fault::new("cannot mix numbered fields with fields that have no number");
        let place = match (first.is_empty(), first.parse::<usize>()) {
            (true, _) => {
                let place = self.next.ok_or_else(mixed)?;
                self.next = Some(place + 1);
                Some(place)
            }
            (false, Ok(place)) => {
                if self.next.is_some_and(|next| next > 0) {
                    return Err(mixed());
                }
                self.next = None;
                Some(place)
            }
            (false, Err(_)) => None,
        };
        let found = match place {
            Some(place) => self.args.positional.get(place),
            None => self.args.named.iter().find(|(known, _)| **known == *first).map(|(_, value)| value),
        };
        let mut value = found.cloned().ok_or_else(|| Fault::new(format!("format() has no value for '{{{name}}}'")))?;
        while !path.is_empty() {
            self.run.budget.step()?;
            if let Some(rest) = path.strip_prefix('.') {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                value = self.run.attribute(&value, &rest[..end])?;
                path = &rest[end..];
            } else {
                let inside = path[1..].split_once(']').ok_or_else(|| Fault::new("missing ']' in format string"))?;
                let key = inside.0.parse::<i128>().map_or_else(|_| Value::str(inside.0), Value::Int);
                value = self.run.item(&value, &key)?;
                path = inside.1;
            }
        }
        Ok(value)
    }
}

/// `"%s and %03d" % (a, b)`; what is put into markup is escaped.
pub(super) fn percent(format: &str, value: &Value, is_markup: bool, budget: &Budget) -> Outcome<String> {
    let alone = std::slice::from_ref(value);
    let mut values = if let Value::Tuple(items) = value { items.items.iter() } else { alone.iter() };
    let missing = || Fault::new("not enough arguments for format string");
    let mut out = String::new();
    let mut rest = format;
    budget.charge(format.len())?;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut keyed = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let (key, after) = inside.split_once(')').ok_or_else(|| Fault::new("incomplete format key"))?;
            let Value::Dict(_) = value else { return Err(Fault::new("format requires a mapping")) };
            keyed = Some(value.entry(&Value::str(key)).ok_or_else(|| Fault::new(format!("no key '{key}'")))?);
            rest = after;
        }
        let flags_end = rest.find(|c| !matches!(c, '#' | '0' | '-' | ' ' | '+')).unwrap_or(rest.len());
        let (flags, after) = rest.split_at(flags_end);
        rest = after;
        let mut number = |rest: &mut &str| -> Outcome<Option<i128>> {
            if let Some(after) = rest.strip_prefix('*') {
                *rest = after;
                return values.next().and_then(Value::as_int).map(Some).ok_or_else(|| Fault::new("* wants int"));
            }
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            *rest = after;
            if digits.is_empty() { Ok(None) } else { digits.parse().map(Some).map_err(|_| too_large()) }
        };
        let width = number(&mut rest)?.unwrap_or(0);
        let precision = match rest.strip_prefix('.') {
            Some(after) => {
                rest = after;
                Some(number(&mut rest)?.unwrap_or(0))
            }
            None => None,
        };
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let kind = rest.chars().next().ok_or_else(|| Fault::new("incomplete format"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match keyed {
            Some(value) => value,
            None => values.next().ok_or_else(missing)?.clone(),
        };
        let size = |size: i128| usize::try_from(size.unsigned_abs()).map_err(|_| too_large());
        let mut form = Form { width: size(width)?, alternate: flags.contains('#'), ..Form::default() };
        form.precision = precision.map(size).transpose()?;
        form.sign = ['+', ' '].into_iter().find(|sign| flags.contains(*sign));
        let number = !matches!(kind, 's' | 'r' | 'a' | 'c');
        form.align = Some(if flags.contains('-') || width < 0 { '<' } else { '>' });
        if number && flags.contains('0') && form.align == Some('>') {
            (form.fill, form.align) = (Some('0'), Some('='));
        }
        let text = conversion(kind, &value, form, is_markup, budget)?;
        out.push_str(&text);
    }
    out.push_str(rest);
    if values.next().is_some() && !matches!(value, Value::Dict(_) | Value::List(_) | Value::View(_)) {
        return Err(Fault::new("not all arguments converted during string formatting"));
    }
    Ok(out)
}

fn conversion(kind: char, value: &Value, mut form: Form, is_markup: bool, budget: &Budget) -> Outcome<String> {
    let real = || value.as_f64().ok_or_else(|| Fault::new(format!("must be real number, not {}", value.kind())));
    let text = match kind {
        's' => value.text(budget)?.to_string(),
        'r' => repr(value, budget)?,
        'a' => ascii(&repr(value, budget)?),
        'c' => match (value.as_int(), value.as_str()) {
            (Some(int), _) => {
                let c = u32::try_from(int).ok().and_then(char::from_u32);
                c.ok_or_else(|| Fault::new("%c arg not in range"))?.to_string()
            }
            (None, Some(text)) if text.chars().count() == 1 => text.to_owned(),
            _ => return Err(Fault::new("%c requires int or char")),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let int = match (value.as_int(), value) {
                (Some(int), _) => int,
                (None, Value::Float(float)) if "diu".contains(kind) && float.is_finite() => *float as i128,
                _ => {
                    let problem = format!("%{kind} format: a number is required, not {}", value.kind());
                    return Err(Fault::new(problem));
                }
            };
            let least = form.digits()?.unwrap_or(0);
            let (digits, prefix) = whole_digits(kind, int.unsigned_abs()).unwrap_or_default();
            let digits = format!("{digits:0>least$}");
            return form.number(int < 0, if form.alternate { prefix } else { "" }, digits, budget);
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            form.kind = Some(kind);
            return form.float(real()?, budget);
        }
        other => return Err(Fault::new(format!("unsupported format character '{other}'"))),
    };
    let keeps = matches!(value, Value::Markup(_)) && kind == 's';
    let text = if is_markup && !keeps { escaped(&text) } else { text };
    let most = form.precision.take().unwrap_or(usize::MAX);
    form.pad(&text.chars().take(most).collect::<String>(), '>', budget)
}
