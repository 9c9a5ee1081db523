//! Filters that compare: sorting, grouping, the largest and the sum.

use std::cmp::Ordering;

use minijinja::machinery::ast::BinOpKind;

use super::calls::Args;
use super::eval::Interpreter;
use super::filters::{path, path_or};
use super::operators::arithmetic;
use super::value::Value;
use super::{Fault, Outcome};

/// Filters that compare.
pub(super) fn apply<'t>(run: &Interpreter<'t>, name: &str, value: Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let budget = run.budget;
    let flag = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let folded = |value: Value<'t>, case_sensitive: bool| match &value {
        Value::Str(text) | Value::Markup(text) if !case_sensitive => {
            budget.charge(text.len())?;
            Ok(Value::str(text.to_lowercase()))
        }
        _ => Ok::<_, Fault>(value),
    };
    match name {
        "sort" => {
            let [reverse, sensitive, attribute] = args.bind(name, ["reverse", "case_sensitive", "attribute"])?;
            let sensitive = flag(sensitive);
            let keyed = value.iterate(budget)?.into_iter().map(|item| {
                let key = match &attribute {
                    Some(Value::Str(names)) if names.contains(',') => {
                        let keys =
                            names.split(',').map(|name| folded(path(run, item.clone(), &Value::str(name))?, sensitive));
                        Value::list(keys.collect::<Outcome<_>>()?, budget)?
                    }
                    Some(attribute) => folded(path(run, item.clone(), attribute)?, sensitive)?,
                    None => folded(item.clone(), sensitive)?,
                };
                Ok((key, item))
            });
            let sorted = sorted(run, keyed.collect::<Outcome<_>>()?, flag(reverse))?;
            Value::list(sorted, budget)
        }
        "dictsort" => {
            let [sensitive, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = &value else { return Err(Fault::new("dictsort expects a mapping")) };
            let by = by.map_or(Ok("key".into()), |by| by.text(budget))?;
            if !matches!(&*by, "key" | "value") {
                return Err(Fault::new("dictsort sorts by 'key' or 'value'"));
            }
            let by_value = &*by == "value";
            let sensitive = flag(sensitive);
            let keyed = dict.entries.iter().map(|(key, value)| {
                let by = folded(if by_value { value.clone() } else { key.clone() }, sensitive)?;
                Ok((by, Value::tuple(vec![key.clone(), value.clone()], budget)?))
            });
            let sorted = sorted(run, keyed.collect::<Outcome<_>>()?, flag(reverse))?;
            Value::list(sorted, budget)
        }
        "unique" => {
            let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let sensitive = flag(sensitive);
            let (mut seen, mut out): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
            'items: for item in value.iterate(budget)? {
                let key = match &attribute {
                    Some(attribute) => path(run, item.clone(), attribute)?,
                    None => item.clone(),
                };
                let key = folded(key, sensitive)?;
                key.hashable()?;
                for known in &seen {
                    if known.equals(&key, budget)? {
                        continue 'items;
                    }
                }
                seen.push(key);
                out.push(item);
            }
            Value::lazy(out, budget)
        }
        "min" | "max" => {
            let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let sensitive = flag(sensitive);
            let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
            let mut best: Option<(Value, Value)> = None;
            for item in value.iterate(budget)? {
                let key = match &attribute {
                    Some(attribute) => path(run, item.clone(), attribute)?,
                    None => item.clone(),
                };
                let key = folded(key, sensitive)?;
                let better = match &best {
                    None => true,
                    Some((best, _)) => key.compare(best, "<", budget)? == Some(wanted),
                };
                if better {
                    best = Some((key, item));
                }
            }
            Ok(best.map_or_else(|| Value::undefined("an item"), |(_, item)| item))
        }
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let attribute = attribute.filter(|attribute| !matches!(attribute, Value::None));
            value.iterate(budget)?.into_iter().try_fold(start.unwrap_or(Value::Int(0)), |sum, item| {
                let item = match &attribute {
                    Some(attribute) => path(run, item, attribute)?,
                    None => item,
                };
                arithmetic(BinOpKind::Add, &sum, &item, budget)
            })
        }
        _ => {
            let [attribute, default, sensitive] = args.bind(name, ["attribute", "default", "case_sensitive"])?;
            let attribute = attribute.ok_or_else(|| Fault::new("groupby expects an attribute"))?;
            let sensitive = flag(sensitive);
            let keyed = value.iterate(budget)?.into_iter().map(|item| {
                let key = path_or(run, item.clone(), &attribute, default.as_ref())?;
                let folded = folded(key.clone(), sensitive)?;
                Ok((folded.clone(), Value::tuple(vec![folded, key, item], budget)?))
            });
            // By what they are compared, what they are called, what is in them.
            let mut groups: Vec<(Value, Value, Vec<Value>)> = Vec::new();
            for entry in sorted(run, keyed.collect::<Outcome<_>>()?, false)? {
                let Some([folded, key, item]) = entry.as_items() else { continue };
                match groups.last_mut() {
                    Some((last, _, items)) if last.equals(folded, budget)? => items.push(item.clone()),
                    _ => groups.push((folded.clone(), key.clone(), vec![item.clone()])),
                }
            }
            let groups = groups.into_iter().map(|(_, key, items)| {
                let items = Value::list(items, budget)?;
                Value::tuple(vec![key, items], budget)
            });
            Value::list(groups.collect::<Outcome<_>>()?, budget)
        }
    }
}

/// Sorts by key; equal keys keep their order.
fn sorted<'t>(run: &Interpreter<'t>, mut keyed: Vec<(Value<'t>, Value<'t>)>, reverse: bool) -> Outcome<Vec<Value<'t>>> {
    let mut fault = None;
    keyed.sort_by(|a, b| {
        if fault.is_some() {
            return Ordering::Equal;
        }
        let (a, b) = if reverse { (&b.0, &a.0) } else { (&a.0, &b.0) };
        a.compare(b, "<", run.budget).map(|order| order.unwrap_or(Ordering::Equal)).unwrap_or_else(|found| {
            fault = Some(found);
            Ordering::Equal
        })
    });
    fault.map_or_else(|| Ok(keyed.into_iter().map(|(_, item)| item).collect()), Err)
}
