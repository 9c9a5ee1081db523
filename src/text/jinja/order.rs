//! Filters that compare: sorting, grouping, the largest and the sum.

use std::cmp::Ordering;

use minijinja::machinery::ast::BinOpKind;

use super::calls::Args;
use super::eval::Interpreter;
use super::filters::path;
use super::operators::arithmetic;
use super::value::Value;
use super::{Fault, Outcome};

/// Filters that compare.
pub(super) fn apply<'t>(run: &Interpreter<'t>, name: &str, value: Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
    let budget = run.budget;
    let flag = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let folded = |value: Value<'t>, case_sensitive: bool| match &value {
        Value::Str(text) if !case_sensitive => {
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
                    Some(attribute) => path(run, item.clone(), attribute)?,
                    None => item.clone(),
                };
                Ok((folded(key, sensitive)?, item))
            });
            let sorted = sorted(run, keyed.collect::<Outcome<_>>()?, flag(reverse))?;
            Value::list(sorted, budget)
        }
        "dictsort" => {
            let [sensitive, by, reverse] = args.bind(name, ["case_sensitive", "by", "reverse"])?;
            let Value::Dict(dict) = &value else { return Err(Fault::new("dictsort expects a mapping")) };
            let by_value = by.is_some_and(|by| by.as_str() == Some("value"));
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
            let mut best: Option<Value> = None;
            for item in value.iterate(budget)? {
                let better = match &best {
                    None => true,
                    Some(best) => {
                        let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
                        item.compare(best, "<", budget)? == Some(wanted)
                    }
                };
                if better {
                    best = Some(item);
                }
            }
            Ok(best.unwrap_or_else(|| Value::undefined("an item")))
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
            let [attribute] = args.bind(name, ["attribute"])?;
            let attribute = attribute.ok_or_else(|| Fault::new("groupby expects an attribute"))?;
            let keyed = value.iterate(budget)?.into_iter().map(|item| {
                let key = path(run, item.clone(), &attribute)?;
                Ok((key.clone(), Value::tuple(vec![key, item], budget)?))
            });
            let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
            for pair in sorted(run, keyed.collect::<Outcome<_>>()?, false)? {
                let Some([key, item]) = pair.as_items() else { continue };
                match groups.last_mut() {
                    Some((last, items)) if last.equals(key, budget)? => items.push(item.clone()),
                    _ => groups.push((key.clone(), vec![item.clone()])),
                }
            }
            let groups = groups.into_iter().map(|(key, items)| {
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
