//! Arithmetic, `%` of strings, and slices.

use minijinja::machinery::ast::BinOpKind;

use super::value::Value;
use super::{Budget, Fault, Outcome};

/// `-value`
pub(super) fn negate<'t>(value: &Value<'t>) -> Outcome<Value<'t>> {
    match (value, value.as_int()) {
        (_, Some(int)) => int.checked_neg().map(Value::Int).ok_or_else(too_large),
        (Value::Float(float), None) => Ok(Value::Float(-float)),
        (Value::Undefined(name), None) => Err(Fault::undefined(name)),
        (other, None) => Err(Fault::new(format!("bad operand type for unary -: '{}'", other.kind()))),
    }
}

fn too_large() -> Fault {
    Fault::new("a number is too large")
}

pub(super) fn arithmetic<'t>(
    op: BinOpKind,
    left: &Value<'t>,
    right: &Value<'t>,
    budget: &Budget,
) -> Outcome<Value<'t>> {
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return whole(op, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_f64(), right.as_f64()) {
        return real(op, a, b);
    }
    match (op, left, right) {
        (_, Value::Undefined(name), _) | (_, _, Value::Undefined(name)) if !matches!(op, BinOpKind::Rem) => {
            Err(Fault::undefined(name))
        }
        (BinOpKind::Add, Value::Str(a), Value::Str(b)) => {
            budget.charge(a.len() + b.len())?;
            Ok(Value::str([&**a, &**b].concat()))
        }
        (BinOpKind::Add, Value::List(a), Value::List(b)) => Value::list([&a.items[..], &b.items[..]].concat(), budget),
        (BinOpKind::Add, Value::Tuple(a), Value::Tuple(b)) => {
            Value::tuple([&a.items[..], &b.items[..]].concat(), budget)
        }
        (BinOpKind::Mul, Value::Str(text), _) if right.as_int().is_some() => {
            let times = repeats(text.len(), right, budget)?;
            Ok(Value::str(text.repeat(times)))
        }
        (BinOpKind::Mul, _, Value::Str(_) | Value::List(_)) if left.as_int().is_some() => {
            arithmetic(op, right, left, budget)
        }
        (BinOpKind::Mul, Value::List(list), _) if right.as_int().is_some() => {
            let times = repeats(list.items.len() * size_of::<Value>(), right, budget)?;
            Value::list((0..times).flat_map(|_| list.items.iter().cloned()).collect(), budget)
        }
        (BinOpKind::Rem, Value::Str(format), _) => percent(format, right, budget),
        (BinOpKind::Add, Value::Str(_), other) => {
            Err(Fault::new(format!("can only concatenate str (not \"{}\") to str", other.kind())))
        }
        _ => Err(Fault::new(format!(
            "unsupported operand types for {}: '{}' and '{}'",
            symbol(op),
            left.kind(),
            right.kind()
        ))),
    }
}

fn symbol(op: BinOpKind) -> &'static str {
    match op {
        BinOpKind::Add => "+",
        BinOpKind::Sub => "-",
        BinOpKind::Mul => "*",
        BinOpKind::Div => "/",
        BinOpKind::FloorDiv => "//",
        BinOpKind::Rem => "%",
        _ => "**",
    }
}

fn repeats(size: usize, times: &Value, budget: &Budget) -> Outcome<usize> {
    let times = usize::try_from(times.as_int().unwrap_or(0).max(0)).map_err(|_| too_large())?;
    budget.charge(size.checked_mul(times).ok_or_else(too_large)?)?;
    Ok(times)
}

fn whole<'t>(op: BinOpKind, a: i128, b: i128) -> Outcome<Value<'t>> {
    let zero = || Fault::new("division by zero");
    let result = match op {
        BinOpKind::Add => a.checked_add(b),
        BinOpKind::Sub => a.checked_sub(b),
        BinOpKind::Mul => a.checked_mul(b),
        BinOpKind::Div if b == 0 => return Err(zero()),
        BinOpKind::Div => return Ok(Value::Float(a as f64 / b as f64)),
        BinOpKind::FloorDiv | BinOpKind::Rem if b == 0 => return Err(zero()),
        // Python rounds down, and the remainder has the divisor's sign.
        BinOpKind::FloorDiv => a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q }),
        BinOpKind::Rem => a.checked_rem_euclid(b).map(|r| if b < 0 && r != 0 { r + b } else { r }),
        _ if b < 0 => return Ok(Value::Float((a as f64).powf(b as f64))),
        _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map(Value::Int).ok_or_else(too_large)
}

fn real<'t>(op: BinOpKind, a: f64, b: f64) -> Outcome<Value<'t>> {
    if b == 0.0 && matches!(op, BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem) {
        return Err(Fault::new("float division by zero"));
    }
    Ok(Value::Float(match op {
        BinOpKind::Add => a + b,
        BinOpKind::Sub => a - b,
        BinOpKind::Mul => a * b,
        BinOpKind::Div => a / b,
        BinOpKind::FloorDiv => (a / b).floor(),
        BinOpKind::Rem => a - b * (a / b).floor(),
        _ => a.powf(b),
    }))
}

/// `"%s and %03d" % (a, b)`
pub(super) fn percent<'t>(format: &str, value: &Value<'t>, budget: &Budget) -> Outcome<Value<'t>> {
    let alone = std::slice::from_ref(value);
    let mut values = if let Value::Tuple(items) = value { items.items.iter() } else { alone.iter() };
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    budget.charge(format.len())?;
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = String::new();
        while let Some(c) = chars.next_if(|c| matches!(c, '-' | '+' | ' ' | '.' | '0'..='9')) {
            spec.push(c);
        }
        let kind = chars.next().ok_or_else(|| Fault::new("incomplete format"))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| Fault::new("not enough arguments for format string"))?;
        let (left, plus) = (spec.contains('-'), spec.contains('+'));
        let numbers = spec.trim_start_matches(['-', '+', ' ']);
        let (width, digits) = numbers.split_once('.').unwrap_or((numbers, ""));
        let zeros = width.starts_with('0') && kind != 's';
        let digits = digits.parse::<usize>().ok().map(|digits| digits.min(100));
        let mut text = match kind {
            's' => value.text(budget)?.to_string(),
            'r' => {
                let mut text = String::new();
                value.repr(&mut text, budget)?;
                text
            }
            'd' | 'i' => match (value.as_int(), value.as_f64()) {
                (Some(int), _) => int.to_string(),
                (None, Some(float)) => (float as i128).to_string(),
                _ => return Err(Fault::new(format!("%d format: a number is required, not {}", value.kind()))),
            },
            'f' => match value.as_f64() {
                Some(float) => format!("{float:.*}", digits.unwrap_or(6)),
                None => return Err(Fault::new(format!("must be real number, not {}", value.kind()))),
            },
            'x' => format!("{:x}", value.as_int().ok_or_else(|| Fault::new("%x format: an integer is required"))?),
            other => return Err(Fault::new(format!("unsupported format character '{other}'"))),
        };
        if let (Some(digits), 's') = (digits, kind) {
            text = text.chars().take(digits).collect();
        }
        if plus && !text.starts_with('-') && kind != 's' {
            text.insert(0, '+');
        }
        let missing = width.parse::<usize>().unwrap_or(0).saturating_sub(text.chars().count());
        budget.charge(text.len() + missing)?;
        match (left, zeros) {
            (true, _) => out.extend(text.chars().chain(std::iter::repeat_n(' ', missing))),
            (false, true) => {
                let sign = usize::from(text.starts_with(['-', '+']));
                out.push_str(&text[..sign]);
                out.extend(std::iter::repeat_n('0', missing));
                out.push_str(&text[sign..]);
            }
            (false, false) => {
                out.extend(std::iter::repeat_n(' ', missing));
                out.push_str(&text);
            }
        }
    }
    if values.next().is_some() && !matches!(value, Value::Dict(_)) {
        return Err(Fault::new("not all arguments converted during string formatting"));
    }
    Ok(Value::str(out))
}

/// `value[start:stop:step]`
pub(super) fn slice<'t>(
    value: &Value<'t>,
    start: Option<Value<'t>>,
    stop: Option<Value<'t>>,
    step: Option<Value<'t>>,
    budget: &Budget,
) -> Outcome<Value<'t>> {
    if let Value::Undefined(name) = value {
        return Err(Fault::undefined(name));
    }
    let number = |end: Option<Value<'t>>| match end {
        None | Some(Value::None) => Ok(None),
        Some(end) => end
            .as_int()
            .map(Some)
            .ok_or_else(|| Fault::new(format!("slice indices must be integers or None, found {}", end.kind()))),
    };
    let (start, stop, step) = (number(start)?, number(stop)?, number(step)?.unwrap_or(1));
    let indices = |len: usize| -> Outcome<Vec<usize>> {
        if step == 0 {
            return Err(Fault::new("slice step cannot be zero"));
        }
        let len = len as i128;
        let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
        let end = |end: Option<i128>, default: i128| match end {
            None => default,
            Some(at) if at < 0 => at.saturating_add(len).clamp(lowest, highest),
            Some(at) => at.clamp(lowest, highest),
        };
        let (mut at, stop) =
            if step > 0 { (end(start, 0), end(stop, len)) } else { (end(start, len - 1), end(stop, -1)) };
        let mut found = Vec::new();
        while if step > 0 { at < stop } else { at > stop } {
            found.push(at as usize);
            at = at.saturating_add(step);
        }
        budget.charge(found.len() * size_of::<usize>())?;
        Ok(found)
    };
    match value {
        Value::List(items) => {
            let found = indices(items.items.len())?;
            Value::list(found.into_iter().map(|at| items.items[at].clone()).collect(), budget)
        }
        Value::Tuple(items) => {
            let found = indices(items.items.len())?;
            Value::tuple(found.into_iter().map(|at| items.items[at].clone()).collect(), budget)
        }
        Value::Str(text) => {
            budget.charge(4 * text.len())?;
            let chars: Vec<char> = text.chars().collect();
            Ok(Value::str(indices(chars.len())?.into_iter().map(|at| chars[at]).collect::<String>()))
        }
        _ => Ok(Value::undefined("a slice")),
    }
}
