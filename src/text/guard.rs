//! Text in messages never turns into control tokens.
//!
//! A template's text is one string, in which `<|im_end|>` looks the same whether the template wrote it or a person typed it.
//! So the conversation is rendered a second time, with stand-ins of private use for the characters with which control tokens
//! begin and end, wherever they stand in messages, tools and documents. A control token in that text is the template's; what
//! becomes one only when the characters are put back is not, and is cut in two before it is tokenised. Where the second text
//! is not the first with stand-ins, since the template looked for such characters, stand-ins take the place only of what is a
//! control token or a piece of one at a text's edge. If that changes the text too, the template was about to act on a control
//! token that a message holds; then it does not get to see it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

use serde_json::Value;

use super::chat::{ChatOptions, ChatTemplate, Message, Rendering};
use super::{Specials, Tokenizer};
use crate::error::{Error, Result, quote};

/// A conversation as the model reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatPrompt {
    /// The text, with the template's control tokens by their names.
    pub text: String,
    /// Its tokens. They begin as the template does: nothing is put in front.
    pub tokens: Vec<u32>,
}

impl ChatTemplate {
    /// The tokens of a conversation. A control token's name in a message, such as `<|im_end|>`, is text like any other; in an
    /// assistant's message this holds for special tokens, while `<think>` and its like are the model's own words.
    pub fn prompt(&self, tokenizer: &Tokenizer, messages: &[Message], options: &ChatOptions) -> Result<ChatPrompt> {
        let mut rendering = self.rendering(messages, options)?;
        let text = rendering.text()?;
        let controls = Controls::new(tokenizer, rendering.template().source());
        let marked = controls.marked(&mut rendering, &text)?;
        let tokens = controls.encode(tokenizer, &marked)?;
        Ok(ChatPrompt { text: marked.text, tokens })
    }

    /// The token that this template writes behind an assistant's message, if it is a control token.
    pub(crate) fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const PROBE: &str = "the end of this message";
        let messages = [Message::user("a message"), Message::assistant(PROBE)];
        let options = ChatOptions { add_generation_prompt: Some(false), ..ChatOptions::default() };
        let mut rendering = self.rendering(&messages, &options).ok()?;
        let text = rendering.text().ok()?;
        let rest = text[text.rfind(PROBE)? + PROBE.len()..].trim_start();
        let controls = Controls::new(tokenizer, rendering.template().source());
        tokenizer.id(controls.at(rest)?)
    }
}

/// A text and the control tokens in it that its template wrote.
struct Marked {
    text: String,
    own: Vec<Range<usize>>,
    /// Some of a message's text was looked at; without that there is nothing to tell apart.
    has_stand_ins: bool,
}

impl Marked {
    /// What is not the template's control tokens.
    fn messages(&self) -> Vec<Range<usize>> {
        let starts = std::iter::once(0).chain(self.own.iter().map(|range| range.end));
        let ends = self.own.iter().map(|range| range.start).chain([self.text.len()]);
        starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty()).collect()
    }
}

/// The tokens of a vocabulary that structure a conversation, by length and name.
struct Controls {
    names: BTreeMap<usize, HashSet<String>>,
    special: HashSet<String>,
    first: HashSet<char>,
    /// Characters that only markup begins or ends with: `<`, `|`, `]`, and no letter.
    edges: BTreeSet<char>,
}

impl Controls {
    /// Special tokens, and others that a template writes, such as `<tool_call>`; white space is no control.
    fn new(tokenizer: &Tokenizer, source: &str) -> Controls {
        let mut controls =
            Controls { names: BTreeMap::new(), special: HashSet::new(), first: HashSet::new(), edges: BTreeSet::new() };
        for (name, special) in tokenizer.added_tokens() {
            if name.trim().is_empty() || !special && !source.contains(&name) {
                continue;
            }
            controls.first.extend(name.chars().next());
            let ends = [name.chars().next(), name.chars().next_back()];
            controls.edges.extend(ends.into_iter().flatten().filter(|c| !c.is_alphanumeric() && !c.is_whitespace()));
            if special {
                controls.special.insert(name.clone());
            }
            controls.names.entry(name.len()).or_default().insert(name);
        }
        controls
    }

    /// The longest control token at the start of a text.
    fn at<'a>(&self, text: &'a str) -> Option<&'a str> {
        if !self.first.contains(&text.chars().next()?) {
            return None;
        }
        let prefixes = self.names.iter().rev().filter_map(|(length, names)| Some((text.get(..*length)?, names)));
        prefixes.into_iter().find(|(prefix, names)| names.contains(*prefix)).map(|(prefix, _)| prefix)
    }

    /// Renders a second time with stand-ins.
    fn marked(&self, rendering: &mut Rendering, plain: &str) -> Result<Marked> {
        let stand_ins = self.stand_ins(rendering, plain)?;
        let original = rendering.variables.clone();
        let mut last = None;
        for breadth in [Breadth::EveryEdge, Breadth::Tokens] {
            let mut found = false;
            for (name, value) in rendering.variables.iter_mut() {
                if name == "messages" {
                    for message in value.as_array_mut().into_iter().flatten() {
                        let own_words = message["role"] == "assistant";
                        let breadth = if own_words { Breadth::SpecialTokens } else { breadth };
                        found |= self.put(message, breadth, &stand_ins);
                    }
                } else if !name.ends_with("_token") {
                    found |= self.put(value, breadth, &stand_ins);
                }
            }
            if !found {
                rendering.variables = original;
                return Ok(self.taken_back(plain, &stand_ins, false));
            }
            let text = rendering.text();
            rendering.variables.clone_from(&original);
            let marked = self.taken_back(&text?, &stand_ins, true);
            if marked.text == plain {
                return Ok(marked);
            }
            last = Some(marked);
        }
        Ok(last.unwrap_or_else(|| self.taken_back(plain, &stand_ins, false)))
    }

    /// A character of private use for each edge, that stands nowhere in the conversation or the template.
    fn stand_ins(&self, rendering: &Rendering, plain: &str) -> Result<HashMap<char, char>> {
        let all = serde_json::to_string(&rendering.variables).unwrap_or_default();
        let private = |c: &char| *c >= '\u{f0000}';
        let used: HashSet<char> =
            all.chars().chain(plain.chars()).chain(rendering.template().source().chars()).filter(private).collect();
        let mut free = ('\u{f0000}'..='\u{10fffd}').filter(|c| !used.contains(c));
        let pairs = self.edges.iter().chain(&self.first).map(|c| Some((*c, free.next()?)));
        pairs.collect::<Option<HashMap<char, char>>>().ok_or_else(|| {
            Error::prompt("the conversation uses every character that Unicode keeps for private use", "shorten it")
        })
    }

    /// Puts stand-ins into every text of a value; true where there were any.
    fn put(&self, value: &mut Value, breadth: Breadth, stand_ins: &HashMap<char, char>) -> bool {
        match value {
            Value::String(text) => match self.put_into(text, breadth, stand_ins) {
                Some(other) => {
                    *text = other;
                    true
                }
                None => false,
            },
            Value::Array(items) => {
                items.iter_mut().fold(false, |found, item| self.put(item, breadth, stand_ins) | found)
            }
            Value::Object(object) => {
                let mut found = false;
                let entries = std::mem::take(object).into_iter().map(|(key, mut value)| {
                    found |= self.put(&mut value, breadth, stand_ins);
                    let other = self.put_into(&key, breadth, stand_ins);
                    found |= other.is_some();
                    (other.unwrap_or(key), value)
                });
                *object = entries.collect();
                found
            }
            _ => false,
        }
    }

    fn put_into(&self, text: &str, breadth: Breadth, stand_ins: &HashMap<char, char>) -> Option<String> {
        let mut out = String::with_capacity(text.len());
        let mut found = false;
        for (at, c) in text.char_indices() {
            let rest = &text[at..];
            let replaced = match breadth {
                Breadth::EveryEdge => self.edges.contains(&c) || self.at(rest).is_some(),
                Breadth::Tokens => {
                    self.at(rest).is_some() || self.begins_with(rest) || self.is_end(&text[..at + c.len_utf8()])
                }
                Breadth::SpecialTokens => self.at(rest).is_some_and(|name| self.special.contains(name)),
            };
            match stand_ins.get(&c).filter(|_| replaced) {
                Some(stand_in) => {
                    out.push(*stand_in);
                    found = true;
                }
                None => out.push(c),
            }
        }
        found.then_some(out)
    }

    /// Whether some control token begins with all of this text, which ends a message's text.
    fn begins_with(&self, rest: &str) -> bool {
        let longest = self.names.keys().next_back().copied().unwrap_or(0);
        rest.len() < longest
            && rest.chars().next().is_some_and(|c| self.first.contains(&c))
            && self.names.values().flatten().any(|name| name.starts_with(rest))
    }

    /// Whether some control token ends with all of this text, which begins a message's text.
    fn is_end(&self, start: &str) -> bool {
        let longest = self.names.keys().next_back().copied().unwrap_or(0);
        start.len() < longest
            && start.chars().next_back().is_some_and(|c| self.edges.contains(&c))
            && self.names.values().flatten().any(|name| name.ends_with(start))
    }

    /// The text with the stand-ins' characters, and where its template wrote control tokens.
    fn taken_back(&self, text: &str, stand_ins: &HashMap<char, char>, has_stand_ins: bool) -> Marked {
        let back: HashMap<char, char> = stand_ins.iter().map(|(c, stand_in)| (*stand_in, *c)).collect();
        let mut marked = Marked { text: String::with_capacity(text.len()), own: Vec::new(), has_stand_ins };
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            if let Some(name) = self.at(&text[at..]) {
                let start = marked.text.len();
                marked.text.push_str(name);
                marked.own.push(start..marked.text.len());
                at += name.len();
            } else {
                marked.text.push(*back.get(&c).unwrap_or(&c));
                at += c.len_utf8();
            }
        }
        marked
    }

    /// The tokens of a text, of which only the template's control tokens are such.
    fn encode(&self, tokenizer: &Tokenizer, marked: &Marked) -> Result<Vec<u32>> {
        let whole = tokenizer.encode_plain(&marked.text)?;
        if !marked.has_stand_ins || self.surplus(tokenizer, marked, &whole).is_none() {
            return Ok(whole);
        }
        let within = Specials::AsTextWithin(&marked.messages());
        let apart = tokenizer.encode_text(&marked.text, within)?;
        if self.surplus(tokenizer, marked, &apart).is_none() {
            return Ok(apart);
        }
        // What is left are tokens that are not special and still structure, such as `<tool_call>`.
        let mut cuts = vec![0];
        let mut own = marked.own.iter().peekable();
        let mut at = 0;
        while let Some(c) = marked.text[at..].chars().next() {
            if let Some(range) = own.next_if(|range| range.start == at) {
                at = range.end;
                continue;
            }
            let forged = self.at(&marked.text[at..]).is_some();
            at += c.len_utf8();
            if forged {
                cuts.push(at); // behind its first character
            }
        }
        cuts.push(marked.text.len());
        let mut tokens = Vec::new();
        for (i, ends) in cuts.windows(2).enumerate() {
            let piece = &marked.text[ends[0]..ends[1]];
            tokens.extend(if i == 0 { tokenizer.encode_plain(piece)? } else { continued(tokenizer, piece)? });
        }
        match self.surplus(tokenizer, marked, &tokens) {
            None => Ok(tokens),
            Some(name) => Err(Error::prompt(
                format!("a message holds a text that the tokenizer takes for the control token {}", quote(&name)),
                "take it out of the message",
            )),
        }
    }

    /// A control token that is there more often than the template wrote it.
    fn surplus(&self, tokenizer: &Tokenizer, marked: &Marked, tokens: &[u32]) -> Option<String> {
        let mut allowed: HashMap<u32, usize> = HashMap::new();
        for range in &marked.own {
            *allowed.entry(tokenizer.id(&marked.text[range.clone()])?).or_default() += 1;
        }
        let names = self.names.values().flatten();
        let ids: HashMap<u32, &String> = names.filter_map(|name| Some((tokenizer.id(name)?, name))).collect();
        for token in tokens {
            let Some(name) = ids.get(token) else { continue };
            match allowed.get_mut(token).filter(|left| **left > 0) {
                Some(left) => *left -= 1,
                None => return Some((*name).clone()),
            }
        }
        None
    }
}

/// Which characters of a message stand-ins take the place of.
#[derive(Clone, Copy, PartialEq)]
enum Breadth {
    /// All that control tokens begin or end with: then nothing that a template does to a text makes a control token of it.
    EveryEdge,
    /// The first one of whole control tokens, and of pieces of one at the text's edges.
    Tokens,
    /// The first one of special tokens.
    SpecialTokens,
}

/// The tokens of a text that does not begin a text: what some vocabularies put in front of a text is taken off again.
fn continued(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    const BEFORE: &str = "\n";
    let before = tokenizer.encode_plain(BEFORE)?;
    let both = tokenizer.encode_plain(&format!("{BEFORE}{text}"))?;
    match both.strip_prefix(&before[..]) {
        Some(rest) => Ok(rest.to_vec()),
        None => tokenizer.encode_plain(text), // the two merge; no vocabulary that does so puts anything in front
    }
}
