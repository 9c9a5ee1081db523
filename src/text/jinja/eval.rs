//! Statements and expressions.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::time::SystemTime;

use minijinja::machinery::Span;
use minijinja::machinery::ast::{self, BinOpKind, CompareOpKind, Expr, Stmt, UnaryOpKind};
use minijinja::value::ValueKind;

use super::calls::{Catches, LoopState, MacroValue};
use super::value::{Names, Value, ViewOf};
use super::{Budget, Fault, Outcome, filters, functions, methods, operators, tests};

/// One render.
pub(super) struct Interpreter<'t> {
    pub(super) budget: &'t Budget<'t>,
    pub(super) now: SystemTime,
    /// What may hold itself, and is emptied at the end.
    scopes: RefCell<Vec<Rc<Scope<'t>>>>,
    namespaces: RefCell<Vec<Rc<Names<'t>>>>,
    source: &'t str,
}

/// Names of one block, and the block around it.
pub(super) struct Scope<'t> {
    names: Names<'t>,
    parent: Option<Rc<Scope<'t>>>,
}

/// Where a body goes on.
#[derive(PartialEq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl<'t> Scope<'t> {
    pub(super) fn inside(parent: &Rc<Scope<'t>>) -> Rc<Scope<'t>> {
        Rc::new(Scope { names: RefCell::default(), parent: Some(Rc::clone(parent)) })
    }

    fn get(&self, name: &str) -> Option<Value<'t>> {
        let mut scope = self;
        loop {
            if let Some((_, value)) = scope.names.borrow().iter().find(|(known, _)| **known == *name) {
                return Some(value.clone());
            }
            scope = scope.parent.as_deref()?;
        }
    }

    pub(super) fn set(&self, name: &str, value: Value<'t>) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(known, _)| **known == *name) {
            Some(entry) => entry.1 = value,
            None => names.push((name.into(), value)),
        }
    }
}

pub(super) type Place<'a, 't> = &'a Rc<Scope<'t>>;

impl<'t> Interpreter<'t> {
    pub(super) fn new(budget: &'t Budget, now: SystemTime, source: &'t str) -> Interpreter<'t> {
        Interpreter { budget, now, scopes: RefCell::default(), namespaces: RefCell::default(), source }
    }

    /// The text of a whole template.
    pub(super) fn render(&self, template: &'t Stmt<'t>, variables: &[(String, serde_json::Value)]) -> Outcome<String> {
        let root = Rc::new(Scope { names: RefCell::default(), parent: None });
        let mut out = String::new();
        let mut run = || {
            for (name, value) in variables {
                root.set(name, Value::from_json(value, self.budget)?);
            }
            let Stmt::Template(template) = template else { return Err(Fault::new("it is no template")) };
            self.body(&template.children, &mut out, &root)
        };
        let outcome = run();
        root.names.take();
        self.scopes.take().into_iter().for_each(|scope| drop(scope.names.take()));
        self.namespaces.take().into_iter().for_each(|namespace| drop(namespace.take()));
        outcome.map(|_| out)
    }

    pub(super) fn body(&self, statements: &'t [Stmt<'t>], out: &mut String, scope: Place<'_, 't>) -> Outcome<Flow> {
        for statement in statements {
            let flow = self.budget.deeper(|| self.statement(statement, out, scope))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn emit(&self, text: &str, out: &mut String) -> Outcome<()> {
        self.budget.charge(text.len())?;
        out.push_str(text);
        Ok(())
    }

    fn statement(&self, statement: &'t Stmt<'t>, out: &mut String, scope: Place<'_, 't>) -> Outcome<Flow> {
        self.budget.step()?;
        match statement {
            Stmt::EmitRaw(raw) => self.emit(raw.raw, out)?,
            Stmt::EmitExpr(emit) => {
                let line = usize::from(emit.span().start_line);
                let value = self.eval(&emit.expr, scope).map_err(|fault| fault.at(line))?;
                self.emit(&value.text(self.budget)?, out)?;
            }
            Stmt::IfCond(branch) => {
                let line = usize::from(branch.span().start_line);
                let is_true = self.eval(&branch.expr, scope).map_err(|fault| fault.at(line))?.is_true();
                return self.body(if is_true { &branch.true_body } else { &branch.false_body }, out, scope);
            }
            Stmt::ForLoop(each) => {
                let line = usize::from(each.span().start_line);
                return self.for_loop(each, out, scope).map_err(|fault| fault.at(line));
            }
            Stmt::Set(set) => {
                let line = usize::from(set.span().start_line);
                let value = self.eval(&set.expr, scope).map_err(|fault| fault.at(line))?;
                self.assign(&set.target, value, scope).map_err(|fault| fault.at(line))?;
            }
            Stmt::SetBlock(set) => {
                let mut text = String::new();
                let flow = self.body(&set.body, &mut text, &Scope::inside(scope))?;
                let mut value = Value::str(text);
                if let Some(filter) = &set.filter {
                    value = self.filter_chain(filter, value, scope)?;
                }
                self.assign(&set.target, value, scope)?;
                return Ok(flow);
            }
            Stmt::WithBlock(with) => {
                let inner = Scope::inside(scope);
                for (target, value) in &with.assignments {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.body(&with.body, out, &inner);
            }
            Stmt::FilterBlock(block) => {
                let mut text = String::new();
                let flow = self.body(&block.body, &mut text, &Scope::inside(scope))?;
                let value = self.filter_chain(&block.filter, Value::str(text), scope)?;
                self.emit(&value.text(self.budget)?, out)?;
                return Ok(flow);
            }
            Stmt::Macro(declaration) => {
                let value = self.macro_value(declaration, declaration.span(), scope);
                scope.set(declaration.name, value);
            }
            Stmt::CallBlock(block) => {
                let caller = self.macro_value(&block.macro_decl, block.macro_decl.span(), scope);
                let mut args = self.args(&block.call.args, scope)?;
                args.named.push(("caller".into(), caller));
                let callee = self.eval(&block.call.expr, scope)?;
                let value = self.call(&callee, args)?;
                self.emit(&value.text(self.budget)?, out)?;
            }
            Stmt::Do(run) => drop(self.call_expression(&run.call, scope)?),
            Stmt::AutoEscape(block) if self.eval(&block.enabled, scope)?.is_true() => {
                return Err(Fault::new("'autoescape' is not supported"));
            }
            Stmt::AutoEscape(block) => return self.body(&block.body, out, &Scope::inside(scope)),
            Stmt::Block(block) => return self.body(&block.body, out, &Scope::inside(scope)),
            Stmt::Continue(_) => return Ok(Flow::Continue),
            Stmt::Break(_) => return Ok(Flow::Break),
            _ => return Err(Fault::new("a chat template cannot load other templates")),
        }
        Ok(Flow::Next)
    }

    fn macro_value(&self, declaration: &'t ast::Macro<'t>, span: Span, scope: Place<'_, 't>) -> Value<'t> {
        self.scopes.borrow_mut().push(Rc::clone(scope));
        let source = self.source.get(span.start_offset as usize..span.end_offset as usize).unwrap_or_default();
        let uses = |name: &str| {
            let inside = |c: char| c == '_' || c.is_alphanumeric();
            source.split(|c| !inside(c)).any(|word| word == name)
        };
        let catches = Catches { varargs: uses("varargs"), kwargs: uses("kwargs"), caller: uses("caller") };
        Value::Macro(Rc::new(MacroValue { declaration, scope: Rc::clone(scope), catches }))
    }

    fn for_loop(&self, each: &'t ast::ForLoop<'t>, out: &mut String, scope: Place<'_, 't>) -> Outcome<Flow> {
        let items = self.eval(&each.iter, scope)?;
        self.run_loop(each, &items, 0, out, scope)
    }

    /// What a loop makes of some items, at a depth of its own calls.
    pub(super) fn run_loop(
        &self,
        each: &'t ast::ForLoop<'t>,
        items: &Value<'t>,
        depth: usize,
        out: &mut String,
        scope: Place<'_, 't>,
    ) -> Outcome<Flow> {
        let mut items = items.iterate(self.budget)?;
        if let Some(filter) = &each.filter_expr {
            let mut kept = Vec::new();
            for item in items {
                let inner = Scope::inside(scope);
                self.assign(&each.target, item.clone(), &inner)?;
                if self.eval(filter, &inner)?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.body(&each.else_body, out, &Scope::inside(scope));
        }
        let calls = each.recursive.then(|| {
            self.scopes.borrow_mut().push(Rc::clone(scope));
            (each, Rc::clone(scope))
        });
        let state = Rc::new(LoopState { items, index: Cell::new(0), depth, changed: RefCell::default(), calls });
        for index in 0..state.items.len() {
            state.index.set(index);
            let inner = Scope::inside(scope);
            inner.set("loop", Value::Loop(Rc::clone(&state)));
            self.assign(&each.target, state.items[index].clone(), &inner)?;
            if self.body(&each.body, out, &inner)? == Flow::Break {
                break;
            }
        }
        state.changed.take();
        Ok(Flow::Next)
    }

    fn assign(&self, target: &'t Expr<'t>, value: Value<'t>, scope: Place<'_, 't>) -> Outcome<()> {
        match target {
            Expr::Var(name) => scope.set(name.id, value),
            Expr::GetAttr(attribute) => match self.eval(&attribute.expr, scope)? {
                Value::Namespace(names) => set_in(&names, attribute.name, value)?,
                other => return Err(Fault::new(format!("cannot assign attribute on {}", other.kind()))),
            },
            Expr::Tuple(targets) => self.unpack(&targets.items, value, scope)?,
            Expr::List(targets) => self.unpack(&targets.items, value, scope)?,
            _ => return Err(Fault::new("cannot assign to an expression")),
        }
        Ok(())
    }

    fn unpack(&self, targets: &'t [Expr<'t>], value: Value<'t>, scope: Place<'_, 't>) -> Outcome<()> {
        let items = value.iterate(self.budget)?;
        if items.len() != targets.len() {
            return Err(Fault::new(format!("cannot unpack: expected {} values, found {}", targets.len(), items.len())));
        }
        targets.iter().zip(items).try_for_each(|(target, item)| self.assign(target, item, scope))
    }

    pub(super) fn new_namespace(&self, entries: Vec<(Rc<str>, Value<'t>)>) -> Outcome<Value<'t>> {
        let names = Rc::new(RefCell::new(Vec::new()));
        for (name, value) in entries {
            set_in(&names, &name, value)?;
        }
        self.budget.charge(128)?;
        self.namespaces.borrow_mut().push(Rc::clone(&names));
        Ok(Value::Namespace(names))
    }

    pub(super) fn eval(&self, expression: &'t Expr<'t>, scope: Place<'_, 't>) -> Outcome<Value<'t>> {
        self.budget.step()?;
        self.budget.deeper(|| self.evaluate(expression, scope))
    }

    fn evaluate(&self, expression: &'t Expr<'t>, scope: Place<'_, 't>) -> Outcome<Value<'t>> {
        let all = |items: &'t [Expr<'t>]| items.iter().map(|item| self.eval(item, scope)).collect::<Outcome<Vec<_>>>();
        match expression {
            Expr::Var(name) => Ok(scope
                .get(name.id)
                .or_else(|| functions::named(name.id))
                .unwrap_or_else(|| Value::undefined(format!("'{}'", name.id)))),
            Expr::Const(constant) => literal(&constant.value),
            Expr::List(list) => Value::list(all(&list.items)?, self.budget),
            Expr::Tuple(tuple) => Value::tuple(all(&tuple.items)?, self.budget),
            Expr::Map(map) => {
                let entries = all(&map.keys)?.into_iter().zip(all(&map.values)?).collect();
                Value::dict(entries, self.budget)
            }
            Expr::GetAttr(attribute) => self.attribute(&self.eval(&attribute.expr, scope)?, attribute.name),
            Expr::GetItem(item) => {
                let value = self.eval(&item.expr, scope)?;
                self.item(&value, &self.eval(&item.subscript_expr, scope)?)
            }
            Expr::Slice(slice) => {
                let value = self.eval(&slice.expr, scope)?;
                let end = |end: &'t Option<Expr<'t>>| end.as_ref().map(|end| self.eval(end, scope)).transpose();
                operators::slice(&value, end(&slice.start)?, end(&slice.stop)?, end(&slice.step)?, self.budget)
            }
            Expr::UnaryOp(operation) => {
                let value = self.eval(&operation.expr, scope)?;
                match operation.op {
                    UnaryOpKind::Not => Ok(Value::Bool(!value.is_true())),
                    UnaryOpKind::Neg => operators::negate(&value),
                }
            }
            Expr::BinOp(operation) => {
                let left = self.eval(&operation.left, scope)?;
                match operation.op {
                    BinOpKind::ScAnd if !left.is_true() => return Ok(left),
                    BinOpKind::ScOr if left.is_true() => return Ok(left),
                    _ => {}
                }
                self.binary(operation.op, left, self.eval(&operation.right, scope)?)
            }
            Expr::Compare(chain) => {
                let mut left = self.eval(&chain.expr, scope)?;
                for link in &chain.ops {
                    let right = self.eval(&link.expr, scope)?;
                    if !self.compare(link.op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::IfExpr(choice) => match (self.eval(&choice.test_expr, scope)?.is_true(), &choice.false_expr) {
                (true, _) => self.eval(&choice.true_expr, scope),
                (false, Some(other)) => self.eval(other, scope),
                (false, None) => Ok(Value::undefined("an inline if without else")),
            },
            Expr::Filter(filter) => {
                let Some(inner) = &filter.expr else { return Err(Fault::new("a filter needs a value")) };
                let value = self.eval(inner, scope)?;
                filters::apply(self, filter.name, value, self.args(&filter.args, scope)?)
            }
            Expr::Test(test) => {
                let value = self.eval(&test.expr, scope)?;
                let args = self.args(&test.args, scope)?;
                tests::apply(self, test.name, &value, args).map(Value::Bool)
            }
            Expr::Call(call) => self.call_expression(call, scope),
        }
    }

    fn filter_chain(&self, chain: &'t Expr<'t>, input: Value<'t>, scope: Place<'_, 't>) -> Outcome<Value<'t>> {
        let Expr::Filter(filter) = chain else { return Err(Fault::new("expected a filter")) };
        let value = match &filter.expr {
            Some(inner) => self.budget.deeper(|| self.filter_chain(inner, input, scope))?,
            None => input,
        };
        filters::apply(self, filter.name, value, self.args(&filter.args, scope)?)
    }

    /// `value.name`: methods and attributes first, then entries.
    pub(super) fn attribute(&self, value: &Value<'t>, name: &str) -> Outcome<Value<'t>> {
        if let Value::Undefined(what) = value {
            return Err(Fault::undefined(what));
        }
        if methods::has(value, name) {
            return Ok(Value::Method(Rc::new((value.clone(), name.into()))));
        }
        if methods::changes(value, name) {
            return Ok(Value::undefined(format!(
                "'{name}' would change a value, which a chat template may not do; it"
            )));
        }
        let found = match value {
            Value::Dict(dict) => {
                self.budget.work(dict.entries.len())?;
                value.entry(&Value::str(name))
            }
            Value::Namespace(names) => {
                names.borrow().iter().find(|(known, _)| **known == *name).map(|(_, value)| value.clone())
            }
            Value::Loop(state) => state.attribute(name),
            Value::Macro(declared) => declared.attribute(name, self.budget)?,
            Value::Cycler(cycler) if name == "current" => Some(cycler.items[cycler.at.get()].clone()),
            // What `groupby` gives.
            Value::Tuple(pair) => match (&pair.items[..], name) {
                ([grouper, _], "grouper") => Some(grouper.clone()),
                ([_, list], "list") => Some(list.clone()),
                _ => None,
            },
            _ => None,
        };
        Ok(found
            .unwrap_or_else(|| Value::undefined(format!("'{} object' has no attribute '{name}', which", value.kind()))))
    }

    /// `value[key]`: entries first, then methods and attributes.
    pub(super) fn item(&self, value: &Value<'t>, key: &Value<'t>) -> Outcome<Value<'t>> {
        if let Value::Undefined(name) = value {
            return Err(Fault::undefined(name));
        }
        if let Value::Dict(dict) = value {
            self.budget.work(dict.entries.len())?;
            if let Some(found) = value.entry(key) {
                return Ok(found);
            }
        }
        if let Some(index) = key.as_int() {
            let place = |len: usize| usize::try_from(if index < 0 { index + len as i128 } else { index }).ok();
            let found = match value {
                Value::List(items) | Value::Tuple(items) => {
                    place(items.items.len()).and_then(|at| items.items.get(at)).cloned()
                }
                Value::Str(text) | Value::Markup(text) => {
                    let len = value.len(self.budget)?;
                    place(len).and_then(|at| text.chars().nth(at)).map(|c| value.like(c.to_string()))
                }
                Value::View(view) if matches!(view.of, ViewOf::Range { .. }) => {
                    place(view.sequence.items.len()).and_then(|at| view.sequence.items.get(at)).cloned()
                }
                _ => None,
            };
            return Ok(found.unwrap_or_else(|| Value::undefined(format!("element {index}"))));
        }
        match key.as_str() {
            Some(name) => self.attribute(value, name),
            None => Ok(Value::undefined("an element")),
        }
    }

    fn compare(&self, op: CompareOpKind, left: &Value<'t>, right: &Value<'t>) -> Outcome<bool> {
        let ordered = |operator, wanted: &[Ordering]| {
            let found = left.compare(right, operator, self.budget)?;
            Ok(found.is_some_and(|found| wanted.contains(&found)))
        };
        match op {
            CompareOpKind::Eq => left.equals(right, self.budget),
            CompareOpKind::Ne => left.equals(right, self.budget).map(|equal| !equal),
            CompareOpKind::Lt => ordered("<", &[Ordering::Less]),
            CompareOpKind::Lte => ordered("<=", &[Ordering::Less, Ordering::Equal]),
            CompareOpKind::Gt => ordered(">", &[Ordering::Greater]),
            CompareOpKind::Gte => ordered(">=", &[Ordering::Greater, Ordering::Equal]),
            CompareOpKind::In => right.contains(left, self.budget),
            CompareOpKind::NotIn => right.contains(left, self.budget).map(|found| !found),
        }
    }

    fn binary(&self, op: BinOpKind, left: Value<'t>, right: Value<'t>) -> Outcome<Value<'t>> {
        let compared = |op| self.compare(op, &left, &right).map(Value::Bool);
        match op {
            BinOpKind::ScAnd | BinOpKind::ScOr => Ok(right),
            BinOpKind::Eq => compared(CompareOpKind::Eq),
            BinOpKind::Ne => compared(CompareOpKind::Ne),
            BinOpKind::Lt => compared(CompareOpKind::Lt),
            BinOpKind::Lte => compared(CompareOpKind::Lte),
            BinOpKind::Gt => compared(CompareOpKind::Gt),
            BinOpKind::Gte => compared(CompareOpKind::Gte),
            BinOpKind::In => compared(CompareOpKind::In),
            BinOpKind::Concat => {
                let (left, right) = (left.text(self.budget)?, right.text(self.budget)?);
                self.budget.charge(left.len() + right.len())?;
                Ok(Value::str([&*left, &*right].concat()))
            }
            _ => operators::arithmetic(op, &left, &right, self.budget),
        }
    }
}

fn set_in<'t>(names: &Names<'t>, name: &str, value: Value<'t>) -> Outcome<()> {
    if name.starts_with('_') {
        return Err(Fault::new(format!("a namespace holds no name that begins with an underscore, found '{name}'")));
    }
    let mut names = names.borrow_mut();
    match names.iter_mut().find(|(known, _)| **known == *name) {
        Some(entry) => entry.1 = value,
        None => names.push((name.into(), value)),
    }
    Ok(())
}

/// A constant of the template.
fn literal<'t>(value: &minijinja::Value) -> Outcome<Value<'t>> {
    Ok(match value.kind() {
        ValueKind::None => Value::None,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => {
            Value::Int(i128::try_from(value.clone()).map_err(|error| Fault::new(error.to_string()))?)
        }
        ValueKind::Number => Value::Float(f64::try_from(value.clone()).map_err(|error| Fault::new(error.to_string()))?),
        ValueKind::String => Value::str(value.as_str().unwrap_or_default()),
        other => return Err(Fault::new(format!("a literal of kind {other} is not supported"))),
    })
}
