//! Values as Python has them: truth, equality, order and what is in them.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;

use super::calls::{LoopState, MacroValue};
use super::{Budget, Fault, Outcome};

/// A value inside a template. Lists and dictionaries cannot be changed, as in transformers' sandbox.
#[derive(Clone)]
pub(super) enum Value<'t> {
    /// Something that is not there: its name, for the message that its use gives.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Rc<str>),
    /// A text that HTML may show as it is: what `safe` and `escape` give. What is added to it is escaped.
    Markup(Rc<str>),
    List(Rc<Sequence<'t>>),
    Tuple(Rc<Sequence<'t>>),
    /// A range, or a dictionary's keys, values or items.
    View(Rc<View<'t>>),
    /// Python's generators: true even when empty, without a length, and read once.
    Lazy(Rc<Lazy<'t>>),
    Dict(Rc<Dict<'t>>),
    Namespace(Rc<Names<'t>>),
    Loop(Rc<LoopState<'t>>),
    Macro(Rc<MacroValue<'t>>),
    Function(&'static str),
    Cycler(Rc<Cycler<'t>>),
    /// What stands between, and whether it has been asked for.
    Joiner(Rc<(Rc<str>, Cell<bool>)>),
    Method(Rc<(Value<'t>, Rc<str>)>),
}

/// Names and values that change.
pub(super) type Names<'t> = RefCell<Vec<(Rc<str>, Value<'t>)>>;

/// The items of a list and how deep they nest, so that no value nests deeper than the stack.
pub(super) struct Sequence<'t> {
    pub(super) items: Vec<Value<'t>>,
    depth: usize,
}

/// Items that are something else than a list.
pub(super) struct View<'t> {
    pub(super) of: ViewOf,
    pub(super) sequence: Sequence<'t>,
}

#[derive(Clone, Copy)]
pub(super) enum ViewOf {
    Range { start: i128, stop: i128, step: i128 },
    Keys,
    Values,
    Items,
}

/// What is left of a generator.
pub(super) struct Lazy<'t> {
    rest: RefCell<VecDeque<Value<'t>>>,
    depth: usize,
}

/// `cycler(…)`
pub(super) struct Cycler<'t> {
    pub(super) items: Vec<Value<'t>>,
    pub(super) at: Cell<usize>,
    depth: usize,
}

/// Entries in the order in which they were written.
pub(super) struct Dict<'t> {
    pub(super) entries: Vec<(Value<'t>, Value<'t>)>,
    depth: usize,
}

/// Lists in lists in lists: JSON of 128 levels and what a template puts around it.
const DEEPEST: usize = 200;

impl<'t> Value<'t> {
    pub(super) fn str(text: impl Into<Rc<str>>) -> Value<'t> {
        Value::Str(text.into())
    }

    pub(super) fn undefined(name: impl Into<Rc<str>>) -> Value<'t> {
        Value::Undefined(name.into())
    }

    pub(super) fn list(items: Vec<Value<'t>>, budget: &Budget) -> Outcome<Value<'t>> {
        let depth = one_deeper(items.iter(), budget)?;
        Ok(Value::List(Rc::new(Sequence { items, depth })))
    }

    pub(super) fn tuple(items: Vec<Value<'t>>, budget: &Budget) -> Outcome<Value<'t>> {
        let depth = one_deeper(items.iter(), budget)?;
        Ok(Value::Tuple(Rc::new(Sequence { items, depth })))
    }

    pub(super) fn lazy(items: Vec<Value<'t>>, budget: &Budget) -> Outcome<Value<'t>> {
        let depth = one_deeper(items.iter(), budget)?;
        Ok(Value::Lazy(Rc::new(Lazy { rest: RefCell::new(items.into()), depth })))
    }

    pub(super) fn view(of: ViewOf, items: Vec<Value<'t>>, budget: &Budget) -> Outcome<Value<'t>> {
        let depth = one_deeper(items.iter(), budget)?;
        Ok(Value::View(Rc::new(View { of, sequence: Sequence { items, depth } })))
    }

    pub(super) fn cycler(items: Vec<Value<'t>>, budget: &Budget) -> Outcome<Value<'t>> {
        let depth = one_deeper(items.iter(), budget)?;
        Ok(Value::Cycler(Rc::new(Cycler { items, at: Cell::new(0), depth })))
    }

    /// A text, which is markup where what it was made of is.
    pub(super) fn like(&self, text: impl Into<Rc<str>>) -> Value<'t> {
        if let Value::Markup(_) = self { Value::Markup(text.into()) } else { Value::Str(text.into()) }
    }

    /// A dictionary; of equal keys the last value counts, in the first one's place.
    pub(super) fn dict(pairs: Vec<(Value<'t>, Value<'t>)>, budget: &Budget) -> Outcome<Value<'t>> {
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            key.hashable()?;
            budget.work(entries.len())?;
            match entries.iter_mut().find(|(known, _)| known.same_scalar(&key)) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
        }
        let depth = one_deeper(entries.iter().flat_map(|(key, value)| [key, value]), budget)?;
        Ok(Value::Dict(Rc::new(Dict { entries, depth })))
    }

    /// An error for what cannot be a key.
    pub(super) fn hashable(&self) -> Outcome<()> {
        match self {
            Value::List(_) | Value::Dict(_) => Err(Fault::new(format!("unhashable type: '{}'", self.kind()))),
            Value::Tuple(items) => items.items.iter().try_for_each(Value::hashable),
            _ => Ok(()),
        }
    }

    pub(super) fn from_json(json: &serde_json::Value, budget: &Budget) -> Outcome<Value<'t>> {
        budget.charge(32)?;
        Ok(match json {
            serde_json::Value::Null => Value::None,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(int), _) => Value::Int(int.into()),
                (None, Some(int)) => Value::Int(int.into()),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => {
                budget.charge(text.len())?;
                Value::str(text.as_str())
            }
            serde_json::Value::Array(items) => {
                let items = items.iter().map(|item| Value::from_json(item, budget)).collect::<Outcome<_>>()?;
                Value::list(items, budget)?
            }
            serde_json::Value::Object(object) => {
                let mut entries = Vec::with_capacity(object.len());
                for (key, value) in object {
                    budget.charge(key.len())?;
                    entries.push((Value::str(key.as_str()), Value::from_json(value, budget)?));
                }
                let depth = one_deeper(entries.iter().map(|(_, value)| value), budget)?;
                Value::Dict(Rc::new(Dict { entries, depth }))
            }
        })
    }

    /// Python's name of the type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Markup(_) => "Markup",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::View(view) => match view.of {
                ViewOf::Range { .. } => "range",
                ViewOf::Keys => "dict_keys",
                ViewOf::Values => "dict_values",
                ViewOf::Items => "dict_items",
            },
            Value::Lazy(_) => "generator",
            Value::Dict(_) => "dict",
            Value::Namespace(_) => "Namespace",
            Value::Loop(_) => "LoopContext",
            Value::Macro(_) => "Macro",
            Value::Function(_) => "function",
            Value::Cycler(_) => "Cycler",
            Value::Joiner(_) => "Joiner",
            Value::Method(_) => "method",
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Value::Str(text) | Value::Markup(text) = self { Some(text) } else { None }
    }

    /// The items of a list or tuple.
    pub(super) fn as_items(&self) -> Option<&[Value<'t>]> {
        match self {
            Value::List(sequence) | Value::Tuple(sequence) => Some(&sequence.items),
            _ => None,
        }
    }

    /// A whole number: `True` is 1.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(int) => Some(*int),
            Value::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    pub(super) fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(float) => Some(*float),
            other => other.as_int().map(|int| int as f64),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(value) => *value,
            Value::Int(int) => *int != 0,
            Value::Float(float) => *float != 0.0,
            Value::Str(text) | Value::Markup(text) => !text.is_empty(),
            Value::View(view) => !view.sequence.items.is_empty(),
            Value::List(items) | Value::Tuple(items) => !items.items.is_empty(),
            Value::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    /// Number of characters, items or entries.
    pub(super) fn len(&self, budget: &Budget) -> Outcome<usize> {
        Ok(match self {
            Value::Undefined(_) => 0,
            Value::Str(text) | Value::Markup(text) => {
                budget.work(text.len())?;
                text.chars().count()
            }
            Value::List(items) | Value::Tuple(items) => items.items.len(),
            Value::View(view) => view.sequence.items.len(),
            Value::Dict(dict) => dict.entries.len(),
            other => return Err(Fault::new(format!("object of type '{}' has no len()", other.kind()))),
        })
    }

    /// What a loop over it gives.
    pub(super) fn iterate(&self, budget: &Budget) -> Outcome<Vec<Value<'t>>> {
        let items: Vec<Value> = match self {
            Value::Undefined(_) => Vec::new(),
            Value::List(items) | Value::Tuple(items) => items.items.clone(),
            Value::View(view) => view.sequence.items.clone(),
            Value::Lazy(lazy) => lazy.rest.take().into(),
            Value::Dict(dict) => dict.entries.iter().map(|(key, _)| key.clone()).collect(),
            Value::Str(text) | Value::Markup(text) => {
                budget.charge(text.len().saturating_mul(48))?; // a string for each character
                text.chars().map(|c| Value::str(c.to_string())).collect()
            }
            other => return Err(Fault::new(format!("'{}' object is not iterable", other.kind()))),
        };
        budget.charge(items.len() * size_of::<Value>())?;
        Ok(items)
    }

    /// The first of what a loop over it gives; a generator loses no more than that.
    pub(super) fn first(&self, budget: &Budget) -> Outcome<Option<Value<'t>>> {
        match self {
            Value::Lazy(lazy) => Ok(lazy.rest.borrow_mut().pop_front()),
            Value::List(items) | Value::Tuple(items) => Ok(items.items.first().cloned()),
            other => Ok(other.iterate(budget)?.into_iter().next()),
        }
    }

    /// An entry of a dictionary.
    pub(super) fn entry(&self, key: &Value<'t>) -> Option<Value<'t>> {
        let Value::Dict(dict) = self else { return None };
        dict.entries.iter().find(|(known, _)| known.same_scalar(key)).map(|(_, value)| value.clone())
    }

    /// Equality of keys: of what can be one.
    fn same_scalar(&self, other: &Value<'t>) -> bool {
        if let (Some(a), Some(b)) = (self.as_str(), other.as_str()) {
            return a == b;
        }
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Tuple(a), Value::Tuple(b)) => {
                a.items.len() == b.items.len() && a.items.iter().zip(&b.items).all(|(a, b)| a.same_scalar(b))
            }
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((self.as_f64(), other.as_f64()), (Some(a), Some(b)) if a == b),
            },
        }
    }

    pub(super) fn equals(&self, other: &Value<'t>, budget: &Budget) -> Outcome<bool> {
        budget.step()?;
        if let (Some(a), Some(b)) = (self.as_str(), other.as_str()) {
            budget.work(a.len().min(b.len()))?;
            return Ok(a == b);
        }
        Ok(match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) => true,
            (Value::View(a), Value::View(b)) => match (a.of, b.of) {
                (ViewOf::Range { .. }, ViewOf::Range { .. }) => {
                    let (a, b) = (&a.sequence.items, &b.sequence.items);
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_scalar(b))
                }
                _ => Rc::ptr_eq(a, b),
            },
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                if a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Value::Dict(a), Value::Dict(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    budget.work(b.entries.len())?;
                    match other.entry(key) {
                        Some(found) if value.equals(&found, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (Value::Function(a), Value::Function(b)) => a == b,
            (Value::Lazy(a), Value::Lazy(b)) => Rc::ptr_eq(a, b),
            _ => self.same_scalar(other),
        })
    }

    /// The order of `<`; an error for what Python does not order.
    pub(super) fn compare(&self, other: &Value<'t>, operator: &str, budget: &Budget) -> Outcome<Option<Ordering>> {
        budget.step()?;
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (self.as_f64(), other.as_f64()) {
            return Ok(a.partial_cmp(&b));
        }
        if let (Some(a), Some(b)) = (self.as_str(), other.as_str()) {
            budget.work(a.len().min(b.len()))?;
            return Ok(Some(a.cmp(b))); // UTF-8 sorts as code points do
        }
        match (self, other) {
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, budget)? {
                        return a.compare(b, operator, budget);
                    }
                }
                Ok(Some(a.items.len().cmp(&b.items.len())))
            }
            (Value::Undefined(name), _) | (_, Value::Undefined(name)) => Err(Fault::undefined(name)),
            _ => Err(Fault::new(format!(
                "'{operator}' not supported between instances of '{}' and '{}'",
                self.kind(),
                other.kind()
            ))),
        }
    }

    /// `needle in self`
    pub(super) fn contains(&self, needle: &Value<'t>, budget: &Budget) -> Outcome<bool> {
        match self {
            Value::Str(text) | Value::Markup(text) => match needle {
                Value::Str(part) | Value::Markup(part) => {
                    budget.work(text.len() + part.len())?;
                    Ok(text.contains(&**part))
                }
                Value::Undefined(name) => Err(Fault::undefined(name)),
                other => {
                    Err(Fault::new(format!("'in <string>' requires string as left operand, not {}", other.kind())))
                }
            },
            Value::List(_) | Value::Tuple(_) | Value::View(_) => {
                let items =
                    if let Value::View(view) = self { &view.sequence.items } else { self.as_items().unwrap_or(&[]) };
                for item in items {
                    if item.equals(needle, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Lazy(_) => {
                while let Some(item) = self.first(budget)? {
                    if item.equals(needle, budget)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Dict(dict) => {
                needle.hashable()?;
                budget.work(dict.entries.len())?;
                Ok(self.entry(needle).is_some())
            }
            Value::Undefined(_) => Ok(false),
            other => Err(Fault::new(format!("argument of type '{}' is not iterable", other.kind()))),
        }
    }

    /// Python's `str`.
    pub(super) fn text(&self, budget: &Budget) -> Outcome<Rc<str>> {
        match self {
            Value::Str(text) | Value::Markup(text) => Ok(Rc::clone(text)),
            Value::Undefined(_) => Ok("".into()),
            other => {
                let mut text = String::new();
                other.repr(&mut text, budget)?;
                Ok(text.into())
            }
        }
    }
}

fn one_deeper<'a, 't: 'a>(items: impl Iterator<Item = &'a Value<'t>>, budget: &Budget) -> Outcome<usize> {
    let (mut depth, mut count) = (0, 0);
    for item in items {
        count += 1;
        depth = depth.max(match item {
            Value::List(items) | Value::Tuple(items) => items.depth,
            Value::View(view) => view.sequence.depth,
            Value::Lazy(lazy) => lazy.depth,
            Value::Cycler(cycler) => cycler.depth,
            Value::Dict(dict) => dict.depth,
            Value::Method(method) => match &method.0 {
                Value::List(items) | Value::Tuple(items) => items.depth + 1,
                Value::Dict(dict) => dict.depth + 1,
                _ => 1,
            },
            _ => 0,
        });
    }
    budget.charge(count * size_of::<Value>() + 32)?;
    if depth >= DEEPEST { Err(Fault::new("values are nested too deeply")) } else { Ok(depth + 1) }
}
