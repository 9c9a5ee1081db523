//! `value is …`

use super::calls::Args;
use super::eval::Interpreter;
use super::value::Value;
use super::{Fault, Outcome, filters};

/// Whether a test holds.
pub(super) fn apply<'t>(run: &Interpreter<'t>, name: &str, value: &Value<'t>, args: Args<'t>) -> Outcome<bool> {
    let number = |wanted: fn(i128) -> bool| match value.as_int() {
        Some(int) => Ok(wanted(int)),
        None => Err(Fault::new(format!("'{name}' expects an integer, found {}", value.kind()))),
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
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => {
            matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_))
        }
        "iterable" => {
            matches!(value, Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_))
        }
        "callable" => matches!(value, Value::Macro(_) | Value::Function(_) | Value::Method(_)),
        "escaped" => false,
        "odd" => number(|int| int % 2 != 0)?,
        "even" => number(|int| int % 2 == 0)?,
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
        callable escaped odd even lower upper filter test divisibleby eq equalto ne lt lessthan le gt greaterthan ge in sameas ";
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
        "sameas" => value.kind() == other.kind() && value.equals(other, run.budget)?,
        _ => match (value.as_int(), other.as_int()) {
            (Some(_), Some(0)) | (None, _) | (_, None) => return Err(Fault::new("divisibleby expects integers")),
            (Some(a), Some(b)) => a % b == 0,
        },
    })
}
