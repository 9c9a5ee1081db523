//! `value is …`

use std::rc::Rc;

use super::calls::Args;
use super::eval::Interpreter;
use super::value::{Value, ViewOf};
use super::{Fault, Outcome, filters};

/// Whether a test holds.
pub(super) fn apply<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, args: Args<'t>) -> Outcome<bool> {
    let rest = |of: f64| match (value.as_int(), value.as_f64()) {
        (Some(int), _) => Ok(int.rem_euclid(of as i128) as f64),
        (None, Some(float)) => Ok(float.rem_euclid(of)),
        _ => Err(Fault::new(format!("'{name}' expects a number, found {}", value.kind()))),
    };
    let text = |wanted: fn(&str) -> bool| value.text(run.budget).map(|text| wanted(&text));
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => {
            let is_range = matches!(value, Value::View(view) if matches!(view.of, ViewOf::Range { .. }));
            let items = matches!(value, Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_));
            is_range || items || value.as_str().is_some()
        }
        "iterable" => {
            let items = matches!(value, Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_));
            items || matches!(value, Value::View(_) | Value::Lazy(_) | Value::Loop(_)) || value.as_str().is_some()
        }
        // Even what is undefined can be called, with an error.
        "callable" => {
            matches!(value, Value::Macro(_) | Value::Function(_) | Value::Method(_))
                || matches!(value, Value::Undefined(_) | Value::Joiner(_) | Value::Loop(_))
        }
        "escaped" => matches!(value, Value::Markup(_)),
        "odd" => rest(2.0)? == 1.0,
        "even" => rest(2.0)? == 0.0,
        "lower" => text(|text| text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))?,
        "upper" => text(|text| text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))?,
        "filter" => filters::is_known(&value.text(run.budget)?),
        "test" => is_known(&value.text(run.budget)?),
        "divisibleby" | "eq" | "equalto" | "==" | "ne" | "!=" | "lt" | "lessthan" | "<" | "le" | "<=" | "gt"
        | "greaterthan" | ">" | "ge" | ">=" | "in" | "sameas" => {
            let [Some(other)] = args.bind(name, ["other"])? else {
                return Err(Fault::new(format!("the test '{name}' expects a value to compare with")));
            };
            return compare(run, name, value, &other);
        }
        other => return Err(Fault::new(format!("no test named '{other}'"))),
    })
}

/// True for the name of a test.
fn is_known(name: &str) -> bool {
    const OTHERS: &str = " defined undefined none boolean true false integer float number string mapping sequence iterable \
        callable escaped odd even lower upper filter test divisibleby eq equalto ne lt lessthan le gt greaterthan ge in sameas \
        == != < <= > >= ";
    OTHERS.contains(&format!(" {name} "))
}

fn compare<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, other: &Value<'t>) -> Outcome<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = |operator| value.compare(other, operator, run.budget);
    Ok(match name {
        "eq" | "equalto" | "==" => value.equals(other, run.budget)?,
        "ne" | "!=" => !value.equals(other, run.budget)?,
        "lt" | "lessthan" | "<" => order("<")? == Some(Less),
        "le" | "<=" => matches!(order("<=")?, Some(Less | Equal)),
        "gt" | "greaterthan" | ">" => order(">")? == Some(Greater),
        "ge" | ">=" => matches!(order(">=")?, Some(Greater | Equal)),
        "in" => other.contains(value, run.budget)?,
        "sameas" => match (value, other) {
            (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
            (Value::Undefined(_), _) => false,
            _ => value.kind() == other.kind() && value.equals(other, run.budget)?,
        },
        _ => match (value.as_int(), other.as_int()) {
            (Some(_), Some(0)) | (None, _) | (_, None) => return Err(Fault::new("divisibleby expects integers")),
            (Some(a), Some(b)) => a % b == 0,
        },
    })
}
