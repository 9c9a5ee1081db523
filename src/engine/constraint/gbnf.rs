//! llama.cpp's grammars (GBNF) in Lark's form.
//!
//! GBNF knows rules over characters, Lark rules over tokens that are matched greedily. So whatever does not go round in
//! circles becomes one token, which keeps every string of it: rules that reach no recursion, and in the others each run of
//! such parts. What is left to greed are the borders of tokens in recursive rules: a text that comes out is always one of
//! the grammar's, and of those that a character-wise reader would accept a few may not come.

use std::collections::HashMap;
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Chars;

use super::{escaped, escaped_char};
use crate::error::quote;

/// Rules of a grammar.
const MOST_RULES: usize = 5000;

/// Repetitions, as llama.cpp bounds them.
const MOST_TIMES: u32 = 2000;

/// Whether a grammar is GBNF: only there a rule's name is followed by `::=`.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.trim_start().trim_start_matches(is_word);
        name.len() < line.trim_start().len() && name.trim_start().starts_with("::=")
    })
}

/// The same grammar for Lark.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let rules = Parser { chars: text.chars().peekable(), line: 1 }.rules()?;
    Writer::new(&rules)?.write()
}

/// Alternatives, each a sequence.
type Choice = Vec<Vec<Part>>;

enum Part {
    Text(String),
    /// A set of characters as an expression.
    Set(String),
    Rule(String),
    Group(Choice),
    Times(Box<Part>, u32, Option<u32>),
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl Parser<'_> {
    fn rules(mut self) -> Result<Vec<(String, Choice)>, String> {
        let mut rules: Vec<(String, Choice)> = Vec::new();
        self.skip(true);
        while self.chars.peek().is_some() {
            let name = self.word();
            if name.is_empty() {
                return Err(self.wrong("a rule's name"));
            }
            self.skip(false);
            for c in "::=".chars() {
                if self.next() != Some(c) {
                    return Err(self.wrong("`::=` behind a rule's name"));
                }
            }
            self.skip(true);
            let choice = self.choice(false)?;
            if !matches!(self.chars.peek(), None | Some('\n' | '\r')) {
                return Err(self.wrong("the end of the rule"));
            }
            rules.push((name, choice));
            if rules.len() > MOST_RULES {
                return Err(format!("has more than {MOST_RULES} rules"));
            }
            self.skip(true);
        }
        Ok(rules)
    }

    fn choice(&mut self, nested: bool) -> Result<Choice, String> {
        let mut choice = vec![self.sequence(nested)?];
        while self.chars.peek() == Some(&'|') {
            self.next();
            self.skip(true);
            choice.push(self.sequence(nested)?);
        }
        Ok(choice)
    }

    fn sequence(&mut self, nested: bool) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        loop {
            let part = match self.chars.peek().copied() {
                Some('"') => self.text()?,
                Some('[') => self.set()?,
                Some('.') => {
                    self.next();
                    Part::Set("(?s:.)".to_owned())
                }
                Some('(') => {
                    self.next();
                    self.skip(true);
                    let choice = self.choice(true)?;
                    if self.next() != Some(')') {
                        return Err(self.wrong("`)`"));
                    }
                    Part::Group(choice)
                }
                Some(c) if is_word(c) => Part::Rule(self.word()),
                Some(c @ ('*' | '+' | '?' | '{')) => {
                    let Some(part) = parts.pop() else { return Err(self.wrong(&format!("something before `{c}`"))) };
                    let (least, most) = self.times()?;
                    Part::Times(Box::new(part), least, most)
                }
                Some('<' | '!') => {
                    let line = self.line;
                    return Err(format!(
                        "names a token in line {line}, which is not supported: write its text instead"
                    ));
                }
                _ => return Ok(parts),
            };
            parts.push(part);
            self.skip(nested);
        }
    }

    fn times(&mut self) -> Result<(u32, Option<u32>), String> {
        match self.next() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => self.skip(true),
        }
        let least = self.number()?;
        let mut most = Some(least);
        if self.chars.peek() == Some(&',') {
            self.next();
            self.skip(true);
            most = if self.chars.peek() == Some(&'}') { None } else { Some(self.number()?) };
        }
        if self.next() != Some('}') {
            return Err(self.wrong("`}`"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(format!("repeats at least {least} times and at most fewer, in line {}", self.line));
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Result<u32, String> {
        let mut digits = String::new();
        while let Some(digit) = self.chars.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        self.skip(true);
        if digits.is_empty() {
            return Err(self.wrong("a number of repetitions"));
        }
        match digits.parse() {
            Ok(number) if number <= MOST_TIMES => Ok(number),
            _ => Err(format!("repeats {digits} times in line {}, expected at most {MOST_TIMES}", self.line)),
        }
    }

    fn text(&mut self) -> Result<Part, String> {
        self.next();
        let mut text = String::new();
        loop {
            match self.chars.peek() {
                Some('"') => break,
                Some(_) => text.push(self.character()?),
                None => return Err(self.wrong("`\"`")),
            }
        }
        self.next();
        Ok(Part::Text(text))
    }

    fn set(&mut self) -> Result<Part, String> {
        self.next();
        let negated = self.chars.next_if_eq(&'^').is_some();
        let (mut ranges, mut set) = (0, String::from(if negated { "[^" } else { "[" }));
        loop {
            match self.chars.peek() {
                Some(']') => break,
                Some(_) => {}
                None => return Err(self.wrong("`]`")),
            }
            let first = self.character()?;
            set.push_str(&escaped_char(first));
            ranges += 1;
            if self.chars.next_if_eq(&'-').is_none() {
                continue;
            }
            if self.chars.peek() == Some(&']') {
                set.push_str(&escaped_char('-'));
                continue;
            }
            let last = self.character()?;
            if last < first {
                return Err(format!("has a range in line {} that ends before it begins", self.line));
            }
            let _ = write!(set, "-{}", escaped_char(last)); // writing to a string does not fail
        }
        self.next();
        match (ranges, negated) {
            (0, true) => Ok(Part::Set("(?s:.)".to_owned())),
            (0, false) => Err(format!("has an empty set of characters in line {}", self.line)),
            _ => Ok(Part::Set(set + "]")),
        }
    }

    fn character(&mut self) -> Result<char, String> {
        let Some(c) = self.next() else { return Err(self.wrong("a character")) };
        if c != '\\' {
            return Ok(c);
        }
        let digits = match self.next() {
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some('t') => return Ok('\t'),
            Some('r') => return Ok('\r'),
            Some('n') => return Ok('\n'),
            Some(c @ ('\\' | '"' | '[' | ']' | '-')) => return Ok(c),
            _ => return Err(self.wrong("one of the escapes `\\x \\u \\U \\t \\r \\n \\\\ \\\" \\[ \\] \\-`")),
        };
        let mut code = 0u32;
        for _ in 0..digits {
            let digit = self.next().and_then(|c| c.to_digit(16));
            code = code << 4 | digit.ok_or_else(|| self.wrong(&format!("{digits} hexadecimal digits")))?;
        }
        char::from_u32(code).ok_or_else(|| self.wrong("the number of a character"))
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.chars.next_if(|c| is_word(*c)) {
            word.push(c);
        }
        word
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    /// Passes over spaces and comments, and over line ends where a rule may go on behind them.
    fn skip(&mut self, lines: bool) {
        while let Some(c) = self.chars.peek() {
            match c {
                ' ' | '\t' => drop(self.next()),
                '\n' | '\r' if lines => drop(self.next()),
                '#' => while self.chars.next_if(|c| *c != '\n' && *c != '\r').is_some() {},
                _ => return,
            }
        }
    }

    fn wrong(&mut self, expected: &str) -> String {
        let found = self.chars.peek().map_or("its end".to_owned(), |c| quote(&c.to_string()));
        format!("is not GBNF: expected {expected} in line {}, before {found}", self.line)
    }
}

/// Writes rules as Lark's: what is regular as tokens `T…`, the others as rules `r…`.
struct Writer<'a> {
    rules: &'a [(String, Choice)],
    index: HashMap<&'a str, usize>,
    regular: Vec<bool>,
    /// Tokens that runs of regular parts became, by what they are.
    runs: HashMap<String, usize>,
    out: String,
}

impl<'a> Writer<'a> {
    fn new(rules: &'a [(String, Choice)]) -> Result<Writer<'a>, String> {
        let mut index = HashMap::new();
        for (i, (name, _)) in rules.iter().enumerate() {
            if index.insert(name.as_str(), i).is_some() {
                return Err(format!("has two rules {}", quote(name)));
            }
        }
        // What a rule waits for is what it names and what is not known to be regular yet.
        let mut waits = vec![0; rules.len()];
        let mut named_by = vec![Vec::new(); rules.len()];
        for (i, (name, choice)) in rules.iter().enumerate() {
            let mut names = Vec::new();
            names_in(choice, &mut names);
            for used in names {
                let target = index.get(used).ok_or_else(|| {
                    format!("names the rule {} in the rule {}, but does not define it", quote(used), quote(name))
                })?;
                waits[i] += 1;
                named_by[*target].push(i);
            }
        }
        let mut regular = vec![false; rules.len()];
        let mut ready: Vec<usize> = (0..rules.len()).filter(|i| waits[*i] == 0).collect();
        while let Some(i) = ready.pop() {
            regular[i] = true;
            for user in &named_by[i] {
                waits[*user] -= 1;
                if waits[*user] == 0 {
                    ready.push(*user);
                }
            }
        }
        Ok(Writer { rules, index, regular, runs: HashMap::new(), out: String::new() })
    }

    fn write(mut self) -> Result<String, String> {
        let Some(root) = self.index.get("root").copied() else {
            return Err("defines no rule `root`, with which GBNF begins".to_owned());
        };
        let _ = writeln!(self.out, "start: {}", self.name(root)); // writing to a string does not fail
        for (i, (_, choice)) in self.rules.iter().enumerate() {
            let text = if self.regular[i] { self.token(choice) } else { self.rule(choice) };
            let _ = writeln!(self.out, "{}: {text}", self.name(i));
        }
        let mut runs: Vec<(String, usize)> = self.runs.drain().collect();
        runs.sort_by_key(|(_, number)| *number);
        for (text, number) in runs {
            let _ = writeln!(self.out, "RUN{number}: {text}");
        }
        Ok(self.out)
    }

    fn name(&self, rule: usize) -> String {
        if self.regular[rule] { format!("T{rule}") } else { format!("r{rule}") }
    }

    fn is_regular(&self, part: &Part) -> bool {
        match part {
            Part::Text(_) | Part::Set(_) => true,
            Part::Rule(name) => self.index.get(name.as_str()).is_some_and(|rule| self.regular[*rule]),
            Part::Group(choice) => choice.iter().flatten().all(|part| self.is_regular(part)),
            Part::Times(part, ..) => self.is_regular(part),
        }
    }

    /// A regular choice.
    fn token(&self, choice: &Choice) -> String {
        alternatives(choice.iter().map(|parts| parts.iter().map(|part| self.token_part(part)).collect()))
    }

    fn token_part(&self, part: &Part) -> String {
        match part {
            Part::Text(text) if text.is_empty() => "\"\"".to_owned(),
            Part::Text(text) => format!("/{}/", escaped(text)),
            Part::Set(set) => format!("/{set}/"),
            Part::Rule(name) => self.index.get(name.as_str()).map_or_else(String::new, |rule| self.name(*rule)),
            Part::Group(choice) => format!("({})", self.token(choice)),
            Part::Times(part, least, most) => format!("({}){}", self.token_part(part), times(*least, *most)),
        }
    }

    /// A choice that reaches a recursion.
    fn rule(&mut self, choice: &Choice) -> String {
        let sequences: Vec<Vec<String>> = choice.iter().map(|parts| self.sequence(parts)).collect();
        alternatives(sequences.into_iter())
    }

    fn sequence(&mut self, parts: &[Part]) -> Vec<String> {
        let mut texts = Vec::new();
        let runs: Vec<&[Part]> = parts.chunk_by(|a, b| self.is_regular(a) && self.is_regular(b)).collect();
        for run in runs {
            let text = match run {
                [part] if !self.is_regular(part) => match part {
                    Part::Group(choice) => format!("({})", self.rule(choice)),
                    Part::Times(part, least, most) => {
                        let inner = self.sequence(std::slice::from_ref(part)).join(" ");
                        format!("({inner}){}", times(*least, *most))
                    }
                    other => self.token_part(other),
                },
                regular => {
                    let text = regular.iter().map(|part| self.token_part(part)).collect::<Vec<_>>().join(" ");
                    let next = self.runs.len();
                    format!("RUN{}", self.runs.entry(text).or_insert(next))
                }
            };
            texts.push(text);
        }
        texts
    }
}

fn names_in<'a>(choice: &'a Choice, names: &mut Vec<&'a str>) {
    fn in_part<'a>(part: &'a Part, names: &mut Vec<&'a str>) {
        match part {
            Part::Text(_) | Part::Set(_) => {}
            Part::Rule(name) => names.push(name),
            Part::Group(choice) => names_in(choice, names),
            Part::Times(part, ..) => in_part(part, names),
        }
    }
    choice.iter().flatten().for_each(|part| in_part(part, names));
}

fn alternatives(sequences: impl Iterator<Item = Vec<String>>) -> String {
    let texts = sequences.map(|parts| if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") });
    texts.collect::<Vec<_>>().join(" | ")
}

fn times(least: u32, most: Option<u32>) -> String {
    match (least, most) {
        (0, None) => "*".to_owned(),
        (1, None) => "+".to_owned(),
        (0, Some(1)) => "?".to_owned(),
        (least, None) => format!("{{{least},}}"),
        (least, Some(most)) => format!("{{{least},{most}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_no_recursion_is_one_token() {
        let lark = to_lark("root ::= item (\",\" item)*\nitem ::= [a-c\\x41] | \"no\"").unwrap();
        assert_eq!(lark, "start: T0\nT0: T1 ((/\\x{2C}/ T1))*\nT1: /[a-c\\x{41}]/ | /no/\n".replace("\\x{41}", "A"));
        let lark = to_lark("root ::= \"(\" ws root? \")\" ws # round\nws ::= [ \\n]*").unwrap();
        assert_eq!(
            lark,
            "start: r0\nr0: RUN0 (r0)? RUN1\nT1: (/[\\x{20}\\x{A}]/)*\nRUN0: /\\x{28}/ T1\nRUN1: /\\x{29}/ T1\n"
        );
    }

    #[test]
    fn a_grammar_that_is_not_gbnf_is_refused_with_its_line() {
        let check = |text: &str, problem: &str| {
            let found = to_lark(text).unwrap_err();
            assert!(found.contains(problem), "{text:?}: {found}");
        };
        check("root ::= \"a\"\nb := \"c\"", "expected `::=` behind a rule's name in line 2");
        check("root ::= item", "names the rule `item` in the rule `root`, but does not define it");
        check("main ::= \"a\"", "defines no rule `root`");
        check("root ::= \"a\"\nroot ::= \"b\"", "two rules `root`");
        check("root ::= \"a", "expected `\"` in line 1, before its end");
        check("root ::= [a-", "expected a character in line 1");
        check("root ::= [b-a]", "ends before it begins");
        check("root ::= []", "empty set");
        check("root ::= (\"a\"", "expected `)`");
        check("root ::= * \"a\"", "something before `*`");
        check("root ::= \"a\"{3,2}", "at most fewer");
        check("root ::= \"a\"{2001}", "repeats 2001 times in line 1, expected at most 2000");
        check("root ::= \"a\"{}", "a number of repetitions");
        check("root ::= \"\\q\"", "one of the escapes");
        check("root ::= \"\\uD800\"", "the number of a character");
        check("root ::= <think>", "names a token in line 1");
        check("root ::= \"a\" & \"b\"", "the end of the rule");
    }
}
