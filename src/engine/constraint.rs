//! Constrained output: which tokens may come next, so that a text fits a JSON schema, a regular expression, a list of
//! texts or a grammar.
//!
//! The `llguidance` crate parses and computes the sets; this module says what may be asked for (`schema`), reads
//! llama.cpp's grammars (`gbnf`), gives it the model's vocabulary as bytes, and keeps it from harm: what it compiles is
//! bounded in size and nesting, and its own limits bound time and memory. Special tokens are not text and never come; the
//! end comes where the grammar may end. What it does not do: tokens that the grammar forces are drawn like all others, so
//! that a text's tokens are the model's own.

mod gbnf;
mod schema;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llguidance::api::{GrammarWithLexer, ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory, regex_to_lark};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Sampling;
use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// Characters of a schema, an expression or a grammar: far beyond what people write, and parsed in a moment.
const LONGEST: usize = 1 << 20;

/// Brackets inside brackets, which a parser follows with its stack.
const DEEPEST: usize = 500;

/// Stack of the thread that compiles; memory is taken only where it is touched.
const STACK: usize = 256 << 20;

/// A JSON schema. JSON: the schema itself, not a text that holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schema(pub Value);

impl FromStr for Schema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map(Schema).map_err(|error| format!("expected a JSON schema: {error}"))
    }
}

/// A schema, or the one in the file that follows `@`.
#[cfg(feature = "cli")]
pub(super) fn schema_argument(argument: &str) -> Result<Schema, String> {
    text_or_file(argument)?.parse()
}

/// A text, or that of the file that follows `@`.
#[cfg(feature = "cli")]
pub(super) fn text_or_file(argument: &str) -> Result<String, String> {
    match argument.strip_prefix('@') {
        None => Ok(argument.to_owned()),
        Some(file) => {
            let longest = 4 * LONGEST as u64; // bytes
            let bytes = crate::whole::read(file.as_ref(), longest)
                .map_err(|error| format!("cannot read the file: {error}"))?
                .ok_or_else(|| format!("expected a file of at most {longest} bytes, found more"))?;
            String::from_utf8(bytes).map_err(|_| "expected UTF-8 text in the file, found other bytes".to_owned())
        }
    }
}

/// What a text must be.
pub(super) struct Constraint {
    setting: &'static str,
    grammar: GrammarWithLexer,
}

impl Constraint {
    /// What the settings ask for, as far as it can be judged without a vocabulary.
    pub(super) fn of(settings: &Sampling) -> Result<Option<Constraint>> {
        let given = [
            ("json_schema", settings.json_schema.is_some()),
            ("regex", settings.regex.is_some()),
            ("choice", settings.choice.is_some()),
            ("grammar", settings.grammar.is_some()),
        ];
        let mut given = given.into_iter().filter(|(_, given)| *given).map(|(setting, _)| setting);
        let Some(setting) = given.next() else { return Ok(None) };
        if let Some(other) = given.next() {
            return Err(Error::setting(other, format!("is given beside `{setting}`"), "leave out one of the two"));
        }
        let grammar = match setting {
            "json_schema" => settings.json_schema.as_ref().map(|schema| schema::grammar(&schema.0)),
            "regex" => settings.regex.as_deref().map(expression),
            "choice" => settings.choice.as_deref().map(any_of),
            _ => settings.grammar.as_deref().map(read_grammar),
        };
        let grammar = grammar.unwrap_or_else(|| Err(String::new())).map_err(|problem| refuse(setting, problem))?;
        Ok(Some(Constraint { setting, grammar }))
    }

    /// Whether the grammar compiles, whatever the vocabulary.
    pub(super) fn check(self) -> Result<()> {
        let Constraint { setting, grammar } = self;
        let checked = apart(STACK, || {
            let init = llguidance::api::GrammarInit::Serialized(TopLevelGrammar::from_grammar(grammar));
            llguidance::panic_utils::catch_unwind(std::panic::AssertUnwindSafe(|| init.to_internal(None, limits())))
                .map(|_| ())
                .map_err(|error| refuse(setting, plain(&error.to_string())))
        });
        checked.unwrap_or_else(|error| Err(no_thread(setting, &error)))
    }
}

/// A model's vocabulary as the grammars see it.
pub(super) struct Vocabulary {
    factory: ParserFactory,
    /// The token of each single byte, where there is one.
    bytes: Arc<[Option<u32>; 256]>,
    /// The index that stands for the end: behind those of the tokens.
    end: usize,
}

impl Vocabulary {
    /// The vocabulary of a tokenizer.
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Vocabulary> {
        /// What the crate's tree can hold: far beyond any vocabulary and any useful token.
        const MOST: usize = 1 << 22;
        const LONGEST_TOKEN: usize = 512;
        let size = tokenizer.id_limit();
        if !tokenizer.is_exact() || size >= MOST {
            return Err(Error::setting(
                "json_schema",
                format!("and its kin cannot constrain this model: its tokenizer is {}", tokenizer.kind()),
                "byte-level and SentencePiece vocabularies, in which a token is a run of bytes, can be constrained",
            ));
        }
        let mut words = vec![Vec::new(); size + 1]; // one more, which stands for the end
        let mut bytes = [None; 256];
        for (id, word) in words.iter_mut().enumerate().take(size) {
            let id = id as u32;
            if tokenizer.is_special(id) {
                continue;
            }
            tokenizer.append_bytes(id, word);
            if word.len() > LONGEST_TOKEN {
                word.clear();
            }
            if let [byte] = word[..] {
                bytes[byte as usize].get_or_insert(id);
            }
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, size as u32), &words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        // Most of a vocabulary may stand in JSON's strings and in much other text: what a set of characters allows whole is
        // not looked through token by token. Each such part costs time here, once.
        let slices = [r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]+"#].map(str::to_owned);
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| Error::Tensor(error.into()))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Vocabulary { factory, bytes: Arc::new(bytes), end: size })
    }

    /// The start of a text under a constraint.
    pub(super) fn guide(&self, constraint: Constraint) -> Result<Guide> {
        let Constraint { setting, grammar } = constraint;
        let parser = apart(STACK, || self.factory.create_parser(TopLevelGrammar::from_grammar(grammar)));
        let parser = parser.map_err(|error| no_thread(setting, &error))?;
        let matcher = Matcher::new(parser);
        if let Some(problem) = matcher.get_error() {
            return Err(refuse(setting, plain(&problem)));
        }
        let (bytes, could_end) = (Arc::clone(&self.bytes), Arc::default());
        Ok(Guide { matcher, setting, mask: None, bytes, end: self.end, could_end })
    }
}

/// Where one text stands in its grammar. A clone goes its own way.
#[derive(Clone)]
pub(super) struct Guide {
    matcher: Matcher,
    setting: &'static str,
    /// What may come next, once it was asked for.
    mask: Option<Mask>,
    bytes: Arc<[Option<u32>; 256]>,
    /// The index that stands for the end.
    end: usize,
    /// Whether one of the clones ever had the choice between the end and something else.
    could_end: Arc<AtomicBool>,
}

impl Guide {
    /// The setting that it keeps to.
    pub(super) fn setting(&self) -> &'static str {
        self.setting
    }

    /// Whether a text could so far have ended somewhere else.
    pub(super) fn could_end(&self) -> bool {
        self.could_end.load(Ordering::Relaxed)
    }

    /// What may come next.
    pub(super) fn mask(&mut self) -> Result<&Mask> {
        let mask = match self.mask.take() {
            Some(mask) => mask,
            None => self.compute()?,
        };
        Ok(self.mask.insert(mask))
    }

    fn compute(&mut self) -> Result<Mask> {
        let allowed = match self.matcher.compute_mask_or_eos() {
            Ok(allowed) => allowed,
            Err(error) => return Err(self.failed(&error.to_string())),
        };
        let may_end = allowed.get(self.end);
        let mask = Mask { allowed, may_end, end: self.end };
        if may_end && !mask.is_only_the_end() {
            self.could_end.store(true, Ordering::Relaxed);
        }
        Ok(mask)
    }

    /// The text goes on with this token, which the mask allows and which is no end. True where nothing can follow.
    pub(super) fn take(&mut self, token: u32) -> Result<bool> {
        self.mask = None;
        if let Err(error) = self.matcher.consume_token(token) {
            return Err(self.failed(&error.to_string()));
        }
        if self.matcher.is_stopped() {
            return Ok(true);
        }
        match self.matcher.is_accepting() {
            Ok(true) => Ok(self.mask()?.is_only_the_end()), // an expression's last byte may leave nothing to add
            Ok(false) => Ok(false),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    /// The same behind some bytes, if a text may begin with them.
    pub(super) fn behind(&self, bytes: &[u8]) -> Option<Guide> {
        let mut guide = self.clone();
        guide.mask = None;
        let tokens: Vec<u32> = bytes.iter().map(|byte| self.bytes[*byte as usize]).collect::<Option<_>>()?;
        let taken = guide.matcher.try_consume_tokens(&tokens).ok()?;
        (taken == tokens.len()).then_some(guide)
    }

    /// The first of these tokens that may follow each other.
    pub(super) fn count_of_possible(&mut self, tokens: &[u32]) -> usize {
        self.matcher.validate_tokens(tokens).unwrap_or(0)
    }

    fn failed(&self, problem: &str) -> Error {
        Error::setting(self.setting, plain(problem), "write it more simply, or allow more")
    }
}

/// What may come next.
#[derive(Clone)]
pub(super) struct Mask {
    allowed: SimpleVob,
    may_end: bool,
    end: usize,
}

impl Mask {
    /// Whether one of these tokens may come, `ends` being those that end the text.
    pub(super) fn allows_any(&self, ids: &[u32], ends: &[u32]) -> bool {
        ids.iter().any(|id| {
            if ends.contains(id) { self.may_end } else { (*id as usize) < self.end && self.allowed.get(*id as usize) }
        })
    }

    /// Forbids the others.
    pub(super) fn apply(&self, ends: &[u32], scores: &mut [f32]) {
        let kept: Vec<(u32, f32)> =
            ends.iter().filter(|_| self.may_end).map(|id| (*id, scores[*id as usize])).collect();
        // What a model has beyond its tokenizer has no text, and stands behind the end.
        let words = self.allowed.as_slice().iter().copied().chain(std::iter::repeat(0));
        for (word, scores) in words.zip(scores.chunks_mut(32)) {
            if word == 0 {
                scores.fill(f32::NEG_INFINITY);
            } else if word != u32::MAX {
                for (bit, score) in scores.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *score = f32::NEG_INFINITY;
                    }
                }
            }
        }
        if let Some(score) = scores.get_mut(self.end) {
            *score = f32::NEG_INFINITY;
        }
        ends.iter().for_each(|id| scores[*id as usize] = f32::NEG_INFINITY);
        kept.into_iter().for_each(|(id, score)| scores[id as usize] = score);
    }

    fn is_only_the_end(&self) -> bool {
        self.may_end && self.allowed.first_bit_set() == Some(self.end)
    }
}

/// Runs what a deep grammar would overflow the stack with on a thread that has enough of it.
fn apart<T: Send>(stack: usize, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("grammar".to_owned()).stack_size(stack);
        let thread = builder.spawn_scoped(scope, work).map_err(|error| error.to_string())?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn no_thread(setting: &'static str, error: &str) -> Error {
    let problem = format!("is read on a thread of its own, which the system does not start: {error}");
    Error::setting(setting, problem, "the limits on processes (`ulimit -u`) or memory (`ulimit -v`) are reached")
}

fn limits() -> ParserLimits {
    ParserLimits { verbose_errors: false, ..ParserLimits::default() }
}

fn expression(regex: &str) -> Result<GrammarWithLexer, String> {
    check_size(regex)?;
    if regex.is_empty() {
        return Err("is empty, which would allow no text".to_owned());
    }
    if regex.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
        return Err("ends in a backslash, expected a character behind it".to_owned());
    }
    Ok(GrammarWithLexer::from_lark(format!("start: /{}/", regex_to_lark(regex, ""))))
}

fn any_of(texts: &[String]) -> Result<GrammarWithLexer, String> {
    if texts.iter().map(String::len).sum::<usize>() > LONGEST {
        return Err(format!("is longer than {LONGEST} bytes"));
    }
    if texts.is_empty() {
        return Err("is empty, expected a text at least".to_owned());
    }
    if texts.iter().any(String::is_empty) {
        return Err("holds an empty text, which would end at once".to_owned());
    }
    let options: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
    Ok(GrammarWithLexer::from_lark(format!("start: /{}/", options.join("|"))))
}

fn read_grammar(text: &str) -> Result<GrammarWithLexer, String> {
    check_size(text)?;
    if text.trim().is_empty() {
        return Err("is empty, expected rules in Lark's or GBNF's form".to_owned());
    }
    if gbnf::is_gbnf(text) {
        return Ok(GrammarWithLexer::from_lark(gbnf::to_lark(text)?));
    }
    let bare = without_literals(text);
    if bare.contains("<[") {
        return Err("names tokens by their numbers, which is not supported: write their text".to_owned());
    }
    if bare.contains("temperature") {
        return Err(
            "sets a temperature, which is not supported: the setting `temperature` holds for all of it".to_owned()
        );
    }
    Ok(GrammarWithLexer::from_lark(text.to_owned()))
}

/// A grammar in Lark's form without its strings, expressions and comments.
fn without_literals(text: &str) -> String {
    let (mut bare, mut chars) = (String::new(), text.chars().peekable());
    while let Some(c) = chars.next() {
        let end = match c {
            '"' => '"',
            '#' => '\n',
            '/' if chars.peek() == Some(&'/') => '\n',
            '/' => '/',
            _ => {
                bare.push(c);
                continue;
            }
        };
        while let Some(c) = chars.next() {
            if c == '\\' && end != '\n' {
                chars.next();
            } else if c == end {
                break;
            }
        }
    }
    bare
}

fn check_size(text: &str) -> Result<(), String> {
    if text.len() > LONGEST {
        return Err(format!("has {} bytes, expected at most {LONGEST}", text.len()));
    }
    let (mut depth, mut escaped) = (0usize, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => {}
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
        if depth > DEEPEST {
            return Err(format!("has brackets more than {DEEPEST} deep"));
        }
    }
    Ok(())
}

/// A text as an expression that matches it and stands between slashes.
fn escaped(text: &str) -> String {
    text.chars().map(escaped_char).collect()
}

fn escaped_char(c: char) -> String {
    if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:X}}}", c as u32) }
}

fn refuse(setting: &'static str, problem: String) -> Error {
    let hint = match setting {
        "json_schema" => "`--json-schema` takes a schema, or `@` and the name of a file that holds one",
        "regex" => "expressions are those of Rust's `regex` crate; they match the whole text",
        "grammar" => "grammars are Lark's, as the llguidance crate reads them, or GBNF, as llama.cpp reads it",
        _ => "",
    };
    Error::setting(setting, problem, hint)
}

/// The crate's messages as a clause, without the states and excerpts that it adds.
fn plain(problem: &str) -> String {
    if problem.contains("coerce_one_of") {
        return "has `oneOf` with options that may overlap, which is not supported: use `anyOf`".to_owned();
    }
    if problem.contains("Regex is empty") {
        return "asks for a `pattern`, a `format` and a length that no text has together".to_owned();
    }
    if problem.contains("NoExtensionBias") {
        return "allows no further text that can be written with this vocabulary".to_owned();
    }
    if let Some(clause) = problem.lines().find_map(|line| line.trim().strip_prefix("error: ")) {
        return format!("cannot be read: {clause}"); // of an expression, behind an excerpt
    }
    let first = problem.lines().next().unwrap_or_default();
    // `at 3(5): …` or `3(5): …`, a line and a column
    let place = first.split_once("): ").and_then(|(place, rest)| {
        let (line, column) = place.strip_prefix("at ").unwrap_or(place).split_once('(')?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?, rest))
    });
    match place {
        Some((line, column, rest)) => format!("cannot be read at line {line}, column {column}: {rest}"),
        None => format!("cannot be kept: {}", first.strip_prefix("panic: ").unwrap_or(first)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_without_another_thread_is_an_error_and_no_panic() {
        let error = apart(usize::MAX >> 4, || ()).expect_err("no system has such a stack");
        let error = no_thread("regex", &error);
        assert!(error.to_string().contains("does not start"), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
        assert_eq!(apart(STACK, || 7).unwrap(), 7);
    }
}
