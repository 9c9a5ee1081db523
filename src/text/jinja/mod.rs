//! Jinja templates as transformers runs them: parsed by `minijinja`, evaluated here with Python's semantics and a budget.
//!
//! A chat template is data from elsewhere that happens to be a program. It sees the variables that it is given and nothing
//! else: no file, environment, clock or network but through `strftime_now`, which gets a fixed time. Each render has an
//! allowance of steps, bytes and time, counted where they are spent, so that no template can hang or fill the memory.
//! minijinja's own evaluator prints `none` for Python's `None`, orders attributes before methods, and does not count bytes.

mod calls;
mod characters;
mod clock;
mod eval;
mod filters;
mod format;
mod functions;
mod methods;
mod operators;
mod order;
mod prepare;
mod pretty;
mod print;
mod tests;
mod texts;
mod value;

use std::cell::Cell;
use std::time::SystemTime;

use minijinja::machinery::parse;
use minijinja::syntax::SyntaxConfig;

pub(super) use clock::Allowance;
use clock::Clock;
use eval::Interpreter;

/// A template that parses.
#[derive(Clone, Debug)]
pub(super) struct Template {
    source: String,
    /// The same for the parser.
    parsable: String,
}

/// What a template may not do, or cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    /// Where in the template, from 1.
    pub(super) line: Option<usize>,
    /// The template said so itself, with `raise_exception`.
    pub(super) raised: bool,
}

pub(super) type Outcome<T> = Result<T, Fault>;

impl Fault {
    fn new(message: impl Into<String>) -> Fault {
        Fault { message: message.into(), line: None, raised: false }
    }

    fn undefined(name: &str) -> Fault {
        Fault::new(format!("{} is undefined", if name.is_empty() { "a value" } else { name }))
    }

    fn at(mut self, line: usize) -> Fault {
        self.line.get_or_insert(line);
        self
    }
}

/// Longest template: the longest published ones have 17,000 bytes.
const LONGEST: usize = 64 << 10;
/// Evaluations that one render may take: a long conversation's takes thousands.
const STEPS: u64 = 4_000_000;
/// Bytes that one render may allocate in all, beside those for each byte of its variables.
const BYTES: usize = 32 << 20;
const BYTES_FOR_EACH: usize = 64;
/// A level of the evaluator takes up to 6 KB without optimisation, and one of a long chain of operators, when it is freed, 0.5.
const STACK: usize = 64 << 20;
const DEPTH: usize = 1200;

/// What is left of a render's allowance.
pub(super) struct Budget<'a> {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    clock: Clock<'a>,
    depth: Cell<usize>,
}

impl Budget<'_> {
    /// An allowance for variables of so many bytes.
    fn new(variables: usize, time: &Allowance) -> Budget<'_> {
        Budget {
            steps: Cell::new(STEPS + variables as u64),
            bytes: Cell::new(BYTES.saturating_add(variables.saturating_mul(BYTES_FOR_EACH))),
            clock: Clock::start(time),
            depth: Cell::new(0),
        }
    }

    /// One evaluation.
    fn step(&self) -> Outcome<()> {
        self.steps(1)
    }

    fn steps(&self, count: u64) -> Outcome<()> {
        const LOOK: u64 = 512; // steps between two looks at the clock
        let before = self.steps.get();
        let Some(left) = before.checked_sub(count) else { return Err(Fault::new("it takes too many steps")) };
        self.steps.set(left);
        if before / LOOK != left / LOOK && self.clock.is_over() {
            return Err(Fault::new("it takes too long"));
        }
        Ok(())
    }

    /// So many bytes were looked at.
    fn work(&self, bytes: usize) -> Outcome<()> {
        self.steps(bytes as u64 / 256) // about what a comparison of strings does in the time of a step
    }

    /// So many bytes are about to be allocated.
    fn charge(&self, bytes: usize) -> Outcome<()> {
        let Some(left) = self.bytes.get().checked_sub(bytes) else {
            return Err(Fault::new("it takes too much memory"));
        };
        self.bytes.set(left);
        self.work(bytes)
    }

    /// Runs something one level deeper.
    fn deeper<T>(&self, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let depth = self.depth.get() + 1;
        if depth > DEPTH {
            return Err(Fault::new("it is nested too deeply"));
        }
        self.depth.set(depth);
        let outcome = run();
        self.depth.set(depth - 1);
        outcome
    }
}

/// What a template is given.
pub(super) struct Inputs<'a> {
    pub(super) variables: &'a [(String, serde_json::Value)],
    /// What `strftime_now` shows, in UTC.
    pub(super) now: SystemTime,
    /// How long it may work.
    pub(super) time: &'a Allowance,
}

impl Template {
    /// Takes a template that parses.
    pub(super) fn new(source: &str) -> Outcome<Template> {
        if source.len() > LONGEST {
            return Err(Fault::new(format!("it has {} bytes, expected at most {LONGEST}", source.len())));
        }
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let parsable = on_a_large_stack(|| {
            let parsable = prepare::prepare(&source)?;
            parsed(&parsable)?;
            Ok(parsable)
        })?;
        Ok(Template { source, parsable })
    }

    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// The template's text for some variables.
    pub(super) fn render(&self, inputs: &Inputs) -> Outcome<String> {
        on_a_large_stack(|| {
            let ast = parsed(&self.parsable)?;
            let size = inputs.variables.iter().map(|(_, value)| size_of(value)).sum();
            let budget = Budget::new(size, inputs.time);
            Interpreter::new(&budget, inputs.now, &self.parsable).render(&ast, inputs.variables)
        })
    }
}

fn on_a_large_stack<T: Send>(run: impl FnOnce() -> Outcome<T> + Send) -> Outcome<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(STACK);
        match thread.spawn_scoped(scope, run) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(error) => Err(Fault::new(format!("no thread to run it: {error}"))),
        }
    })
}

/// Jinja's signs, and white space as transformers has it.
fn syntax() -> Outcome<SyntaxConfig> {
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    syntax.map_err(|error| Fault::new(error.to_string()))
}

fn parsed(source: &str) -> Outcome<minijinja::machinery::ast::Stmt<'_>> {
    parse(source, "", syntax()?).map_err(fault_of)
}

fn fault_of(error: minijinja::Error) -> Fault {
    let fault = Fault::new(error.detail().map_or_else(|| error.to_string(), str::to_owned));
    match error.line() {
        Some(line) => fault.at(line),
        None => fault,
    }
}

/// Bytes of text in a JSON value, and one for each part.
fn size_of(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(text) => 1 + text.len(),
        serde_json::Value::Array(items) => 1 + items.iter().map(size_of).sum::<usize>(),
        serde_json::Value::Object(object) => {
            1 + object.iter().map(|(key, value)| 1 + key.len() + size_of(value)).sum::<usize>()
        }
        _ => 1,
    }
}
