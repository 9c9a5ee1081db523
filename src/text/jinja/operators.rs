//! Arithmetic and slices.

use minijinja::machinery::ast::BinOpKind;

use std::rc::Rc;

use super::characters::escaped;
use super::format::percent;
use super::value::{Value, ViewOf};
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
        (BinOpKind::Add, Value::Str(_) | Value::Markup(_), Value::Str(_) | Value::Markup(_)) => {
            let (a, b) = (markup(left, budget)?, markup(right, budget)?);
            budget.charge(a.len() + b.len())?;
            Ok(Value::Markup([&*a, &*b].concat().into()))
        }
        (BinOpKind::Add, Value::List(a), Value::List(b)) => Value::list([&a.items[..], &b.items[..]].concat(), budget),
        (BinOpKind::Add, Value::Tuple(a), Value::Tuple(b)) => {
            Value::tuple([&a.items[..], &b.items[..]].concat(), budget)
        }
        (BinOpKind::Mul, Value::Str(text) | Value::Markup(text), _) if right.as_int().is_some() => {
            let times = repeats(text.len(), right, budget)?;
            Ok(left.like(text.repeat(times)))
        }
        (BinOpKind::Mul, _, Value::Str(_) | Value::Markup(_) | Value::List(_) | Value::Tuple(_))
            if left.as_int().is_some() =>
        {
            arithmetic(op, right, left, budget)
        }
        (BinOpKind::Mul, Value::List(list) | Value::Tuple(list), _) if right.as_int().is_some() => {
            let times = repeats(list.items.len() * size_of::<Value>(), right, budget)?;
            let items = (0..times).flat_map(|_| list.items.iter().cloned()).collect();
            if let Value::List(_) = left { Value::list(items, budget) } else { Value::tuple(items, budget) }
        }
        (BinOpKind::Rem, Value::Str(format), _) => percent(format, right, false, budget).map(Value::str),
        (BinOpKind::Rem, Value::Markup(format), _) => Ok(Value::Markup(percent(format, right, true, budget)?.into())),
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

/// A text as markup: escaped if it is none.
pub(super) fn markup(value: &Value, budget: &Budget) -> Outcome<Rc<str>> {
    if let Value::Markup(text) = value {
        return Ok(Rc::clone(text));
    }
    let text = value.text(budget)?;
    budget.charge(text.len().saturating_mul(5))?;
    Ok(escaped(&text).into())
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
        _ if b < 0 => return real(op, a as f64, b as f64),
        _ => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
    };
    result.map(Value::Int).ok_or_else(too_large)
}

fn real<'t>(op: BinOpKind, a: f64, b: f64) -> Outcome<Value<'t>> {
    if b == 0.0 && matches!(op, BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem) {
        return Err(Fault::new("float division by zero"));
    }
    // As Python has it: the remainder is exact and has the divisor's sign, the quotient is made of it.
    let remainder = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
    };
    Ok(Value::Float(match op {
        BinOpKind::Add => a + b,
        BinOpKind::Sub => a - b,
        BinOpKind::Mul => a * b,
        BinOpKind::Div => a / b,
        BinOpKind::FloorDiv => {
            let quotient = (a - remainder()) / b;
            let floor = quotient.floor();
            if quotient - floor > 0.5 { floor + 1.0 } else { floor }
        }
        BinOpKind::Rem => remainder(),
        _ if a == 0.0 && b < 0.0 => return Err(Fault::new("0.0 cannot be raised to a negative power")),
        _ if a < 0.0 && b.fract() != 0.0 => return Err(Fault::new("complex numbers are not supported")),
        _ => a.powf(b),
    }))
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
        Value::Str(text) | Value::Markup(text) => {
            budget.charge(4 * text.len())?;
            let chars: Vec<char> = text.chars().collect();
            Ok(value.like(indices(chars.len())?.into_iter().map(|at| chars[at]).collect::<String>()))
        }
        Value::View(view) => match view.of {
            ViewOf::Range { start: from, step: pace, .. } => {
                let items = &view.sequence.items;
                let found = indices(items.len())?;
                // Where the slice begins and ends, in steps of the range.
                let len = items.len() as i128;
                let clamp =
                    |end: i128, low: i128, high: i128| if end < 0 { (end + len).max(low) } else { end.min(high) };
                let (first, last) = match step > 0 {
                    true => (start.map_or(0, |s| clamp(s, 0, len)), stop.map_or(len, |s| clamp(s, 0, len))),
                    false => {
                        (start.map_or(len - 1, |s| clamp(s, -1, len - 1)), stop.map_or(-1, |s| clamp(s, -1, len - 1)))
                    }
                };
                let of = ViewOf::Range {
                    start: from + first * pace,
                    stop: from + last * pace,
                    step: pace.saturating_mul(step),
                };
                Value::view(of, found.into_iter().map(|at| items[at].clone()).collect(), budget)
            }
            _ => Err(Fault::new(format!("'{}' object is not subscriptable", value.kind()))),
        },
        other => Err(Fault::new(format!("'{}' object is not subscriptable", other.kind()))),
    }
}
