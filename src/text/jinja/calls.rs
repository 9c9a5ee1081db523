//! Calls: of functions, methods and macros; and the variable `loop`, which has methods too.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use minijinja::machinery::ast::{self, CallArg, Expr};

use super::eval::{Interpreter, Place, Scope};
use super::value::Value;
use super::{Budget, Fault, Outcome, functions, methods};

/// What a call is given.
pub(super) struct Args<'t> {
    pub(super) positional: Vec<Value<'t>>,
    pub(super) named: Vec<(Rc<str>, Value<'t>)>,
}

/// A macro and where it was written.
pub(super) struct MacroValue<'t> {
    pub(super) declaration: &'t ast::Macro<'t>,
    pub(super) scope: Rc<Scope<'t>>,
    pub(super) catches: Catches,
}

/// Which of the names that are set in every macro this one uses; without them it takes no more than its parameters.
pub(super) struct Catches {
    pub(super) varargs: bool,
    pub(super) kwargs: bool,
    pub(super) caller: bool,
}

/// The variable `loop`.
pub(super) struct LoopState<'t> {
    pub(super) items: Vec<Value<'t>>,
    pub(super) index: Cell<usize>,
    pub(super) depth: usize,
    pub(super) changed: RefCell<Option<Vec<Value<'t>>>>,
    /// What calling `loop` does, in a loop that is recursive.
    pub(super) calls: Option<(&'t ast::ForLoop<'t>, Rc<Scope<'t>>)>,
}

impl<'t> Args<'t> {
    pub(super) fn of(positional: Vec<Value<'t>>) -> Args<'t> {
        Args { positional, named: Vec::new() }
    }

    /// The values of parameters, by place or by name.
    pub(super) fn bind<const N: usize>(self, callee: &str, names: [&str; N]) -> Outcome<[Option<Value<'t>>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            return Err(Fault::new(format!("{callee}() takes at most {N} arguments, found {}", self.positional.len())));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|known| **known == *name) {
                Some(place) if bound[place].is_none() => bound[place] = Some(value),
                Some(_) => return Err(Fault::new(format!("{callee}() got multiple values for argument '{name}'"))),
                None => return Err(Fault::new(format!("{callee}() got an unexpected keyword argument '{name}'"))),
            }
        }
        Ok(bound)
    }
}

impl<'t> Interpreter<'t> {
    pub(super) fn args(&self, args: &'t [CallArg<'t>], scope: Place<'_, 't>) -> Outcome<Args<'t>> {
        let mut found = Args::of(Vec::with_capacity(args.len()));
        for arg in args {
            match arg {
                CallArg::Pos(value) => found.positional.push(self.eval(value, scope)?),
                CallArg::Kwarg(name, value) => found.named.push(((*name).into(), self.eval(value, scope)?)),
                CallArg::PosSplat(values) => found.positional.extend(self.eval(values, scope)?.iterate(self.budget)?),
                CallArg::KwargSplat(values) => {
                    let Value::Dict(dict) = self.eval(values, scope)? else {
                        return Err(Fault::new("expected a mapping behind **"));
                    };
                    for (name, value) in &dict.entries {
                        found.named.push((name.text(self.budget)?, value.clone()));
                    }
                }
            }
        }
        for (at, (name, _)) in found.named.iter().enumerate() {
            self.budget.work(at)?;
            if found.named[..at].iter().any(|(known, _)| known == name) {
                return Err(Fault::new(format!("keyword argument repeated: {name}")));
            }
        }
        Ok(found)
    }

    pub(super) fn call_expression(&self, call: &'t ast::Call<'t>, scope: Place<'_, 't>) -> Outcome<Value<'t>> {
        if let Expr::GetAttr(attribute) = &call.expr {
            let object = self.eval(&attribute.expr, scope)?;
            let args = self.args(&call.args, scope)?;
            if methods::has(&object, attribute.name) {
                return methods::call(self, &object, attribute.name, args);
            }
            return self.call(&self.attribute(&object, attribute.name)?, args);
        }
        let callee = self.eval(&call.expr, scope)?;
        let args = self.args(&call.args, scope)?;
        self.call(&callee, args)
    }

    pub(super) fn call(&self, callee: &Value<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
        self.budget.step()?;
        self.budget.deeper(|| match callee {
            Value::Function(name) => functions::call(self, name, args),
            Value::Method(method) => methods::call(self, &method.0, &method.1, args),
            Value::Macro(declared) => self.call_macro(declared, args),
            Value::Joiner(joiner) => {
                let [] = args.bind("joiner", [])?;
                Ok(if joiner.1.replace(true) { Value::Str(Rc::clone(&joiner.0)) } else { Value::str("") })
            }
            Value::Loop(state) => {
                let Some((each, scope)) = &state.calls else {
                    return Err(Fault::new("a loop that calls itself must be marked 'recursive'"));
                };
                let [Some(items)] = args.bind("loop", ["iterable"])? else {
                    return Err(Fault::new("loop() expects something to loop over"));
                };
                let mut text = String::new();
                self.run_loop(each, &items, state.depth + 1, &mut text, scope)?;
                Ok(Value::str(text))
            }
            Value::Undefined(name) => Err(Fault::undefined(name)),
            other => Err(Fault::new(format!("'{}' object is not callable", other.kind()))),
        })
    }

    fn call_macro(&self, called: &MacroValue<'t>, args: Args<'t>) -> Outcome<Value<'t>> {
        let declaration = called.declaration;
        let scope = Scope::inside(&called.scope);
        let Args { positional, mut named } = args;
        let mut positional = positional.into_iter();
        let required = declaration.args.len() - declaration.defaults.len();
        for (place, parameter) in declaration.args.iter().enumerate() {
            let Expr::Var(parameter) = parameter else { continue };
            let by_name = named.iter().position(|(name, _)| **name == *parameter.id);
            let value = match (positional.next(), by_name) {
                (Some(_), Some(_)) => {
                    let problem = format!("macro '{}' got two values for '{}'", declaration.name, parameter.id);
                    return Err(Fault::new(problem));
                }
                (Some(value), None) => value,
                (None, Some(named_at)) => named.remove(named_at).1,
                (None, None) if place >= required => self.eval(&declaration.defaults[place - required], &scope)?,
                (None, None) => Value::undefined(format!("parameter '{}' was not provided", parameter.id)),
            };
            scope.set(parameter.id, value);
        }
        let name = declaration.name;
        if !called.catches.varargs && positional.len() > 0 {
            return Err(Fault::new(format!("macro '{name}' takes not more than {} arguments", declaration.args.len())));
        }
        scope.set("varargs", Value::tuple(positional.collect(), self.budget)?);
        if called.catches.caller {
            let at = named.iter().position(|(name, _)| &**name == "caller");
            let none = || Value::undefined("no caller defined, which");
            scope.set("caller", at.map_or_else(none, |at| named.remove(at).1));
        }
        if let (false, Some((unknown, _))) = (called.catches.kwargs, named.first()) {
            return Err(Fault::new(match &**unknown {
                "caller" => format!("macro '{name}' has no use for the block of a call"),
                unknown => format!("macro '{name}' takes no keyword argument '{unknown}'"),
            }));
        }
        let rest = named.into_iter().map(|(name, value)| (Value::Str(name), value)).collect();
        scope.set("kwargs", Value::dict(rest, self.budget)?);
        let mut text = String::new();
        self.body(&declaration.body, &mut text, &scope)?;
        Ok(Value::str(text))
    }
}

impl<'t> MacroValue<'t> {
    pub(super) fn attribute(&self, name: &str, budget: &Budget) -> Outcome<Option<Value<'t>>> {
        let parameter = |parameter: &Expr| match parameter {
            Expr::Var(parameter) => Value::str(parameter.id),
            _ => Value::None,
        };
        Ok(Some(match name {
            "name" => Value::str(self.declaration.name),
            "arguments" => Value::tuple(self.declaration.args.iter().map(parameter).collect(), budget)?,
            "catch_varargs" => Value::Bool(self.catches.varargs),
            "catch_kwargs" => Value::Bool(self.catches.kwargs),
            "caller" => Value::Bool(self.catches.caller),
            _ => return Ok(None),
        }))
    }
}

impl<'t> LoopState<'t> {
    pub(super) fn attribute(&self, name: &str) -> Option<Value<'t>> {
        let (index, length) = (self.index.get(), self.items.len());
        let int = |value: usize| Value::Int(value as i128);
        Some(match name {
            "index" => int(index + 1),
            "index0" => int(index),
            "revindex" => int(length - index),
            "revindex0" => int(length - index - 1),
            "length" => int(length),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(index + 1 == length),
            "depth" => int(self.depth + 1),
            "depth0" => int(self.depth),
            "previtem" => index.checked_sub(1).map_or(Value::undefined("loop.previtem"), |at| self.items[at].clone()),
            "nextitem" => self.items.get(index + 1).cloned().unwrap_or_else(|| Value::undefined("loop.nextitem")),
            _ => return None,
        })
    }
}
