//! A template's source, written as minijinja's parser reads it.
//!
//! jinja2 takes tuples without brackets, signs in front of numbers, every escape of Python's strings, and with transformers'
//! extension a block named `generation`. minijinja does not, so these are written otherwise, each in its line.

use minijinja::machinery::{Span, Token, tokenize};

use super::{Fault, Outcome, fault_of, syntax};

/// Most words and signs of one tag: the parser and the tree's end go as deep as `1+1+1…` is long. Published ones have 200.
const LONGEST_TAG: usize = 4000;

/// A place in the source and what is to stand there.
type Edit = (std::ops::Range<usize>, String);

/// The source for the parser; a tag that would take the parser too deep is refused.
pub(super) fn prepare(source: &str) -> Outcome<String> {
    let mut edits = Vec::new();
    let mut tag: Vec<(Token, Span)> = Vec::new();
    for token in tokenize(source, false, syntax()?) {
        let (token, span) = token.map_err(fault_of)?;
        if matches!(token, Token::BlockStart | Token::VariableStart) {
            tag.clear();
        }
        if let Token::TemplateData(_) = token {
            keep_raw(source, &span, &mut edits)?;
        }
        let closes = matches!(token, Token::BlockEnd | Token::VariableEnd);
        tag.push((token, span));
        if tag.len() > LONGEST_TAG {
            return Err(Fault::new("a tag is too long").at(usize::from(span.start_line)));
        }
        if closes {
            rewrite_tag(source, &tag, &mut edits);
        }
    }
    edits.sort_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    for (range, text) in edits {
        out.push_str(&source[at..range.start]);
        out.push_str(&text);
        at = range.end;
    }
    Ok(out + &source[at..])
}

fn place(span: &Span) -> std::ops::Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}

/// Behind `{% raw %}` jinja2 keeps a line break, and before `{% endraw %}` white space that is all there is; minijinja drops both
/// unless a `+` in the tag says that they stay. Of these jinja2 knows the one in front of `endraw` only.
fn keep_raw(source: &str, data: &Span, edits: &mut Vec<Edit>) -> Outcome<()> {
    let data = place(data);
    let Some(tag) = source[..data.start].strip_suffix("%}") else { return Ok(()) };
    let (inside, sign) = match tag.strip_suffix(['-', '+']) {
        Some(inside) => (inside, &tag[inside.len()..]),
        None => (tag, ""),
    };
    let Some(start) = inside.trim_ascii_end().strip_suffix("raw").map(str::trim_ascii_end) else { return Ok(()) };
    if !["{%", "{%-", "{%+"].iter().any(|opening| start.ends_with(opening)) {
        return Ok(());
    }
    match sign {
        "" => edits.push((tag.len()..tag.len(), "+".to_owned())),
        "+" => {
            let line = 1 + source[..tag.len()].matches('\n').count();
            return Err(Fault::new("`{% raw +%}` is no tag").at(line));
        }
        _ => return Ok(()), // white space goes, all of it
    }
    let (text, ending) = source[data.start..].split_at(data.len());
    if !text.contains('\n') && text.trim().is_empty() && !ending.starts_with("{%-") && !ending.starts_with("{%+") {
        let at = data.end + "{%".len();
        edits.push((at..at, "+".to_owned()));
    }
    Ok(())
}

fn rewrite_tag(source: &str, tag: &[(Token, Span)], edits: &mut Vec<Edit>) {
    match tag {
        [(Token::BlockStart, _), (Token::Ident(word), span), (Token::BlockEnd, _)] => {
            for (ours, parsers) in [("generation", "with"), ("endgeneration", "endwith")] {
                if *word == ours {
                    edits.push((place(span), parsers.to_owned()));
                }
            }
        }
        [(Token::VariableStart, _), inside @ .., (Token::VariableEnd, _)] => bracket(inside, edits),
        [(Token::BlockStart, _), (Token::Ident("for"), _), rest @ .., (Token::BlockEnd, _)] => {
            let word = |wanted: &str, from: usize| {
                let found = rest[from..].iter().position(|(token, _)| matches!(token, Token::Ident(w) if *w == wanted));
                found.map(|at| from + at)
            };
            if let Some(start) = word("in", 0).map(|at| at + 1) {
                let ends = [word("if", start), word("recursive", start)];
                let end = ends.into_iter().flatten().min().unwrap_or(rest.len());
                bracket(&rest[start..end], edits);
            }
        }
        _ => {}
    }
    for (at, (token, span)) in tag.iter().enumerate() {
        match token {
            Token::Plus if at > 0 && expects_value(&tag[at - 1].0) => edits.push((place(span), " ".to_owned())),
            Token::Str(_) | Token::String(_) => {
                let written = &source[place(span)];
                let escaped = escapes(written);
                if escaped != written {
                    edits.push((place(span), escaped));
                }
            }
            _ => {}
        }
    }
}

/// `a, b` → `(a, b)`
fn bracket(expression: &[(Token, Span)], edits: &mut Vec<Edit>) {
    let mut depth = 0;
    let mut is_tuple = false;
    for (token, _) in expression {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => depth -= 1,
            Token::Comma if depth == 0 => is_tuple = true,
            _ => {}
        }
    }
    if let (true, [(_, first), .., (_, last)]) = (is_tuple, expression) {
        let (start, end) = (first.start_offset as usize, last.end_offset as usize);
        edits.push((start..start, "(".to_owned()));
        edits.push((end..end, ")".to_owned()));
    }
}

/// True where a `+` behind this token is the sign of a number.
fn expects_value(token: &Token) -> bool {
    match token {
        Token::Ident(word) => matches!(*word, "and" | "or" | "not" | "if" | "elif" | "else" | "in"),
        Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::FloorDiv | Token::Pow | Token::Mod => true,
        Token::Comma | Token::Colon | Token::Tilde | Token::Assign | Token::VariableStart => true,
        Token::Eq | Token::Ne | Token::Lt | Token::Lte | Token::Gt | Token::Gte => true,
        Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => true,
        _ => false,
    }
}

/// Python's escapes that minijinja does not know, as it knows them.
fn escapes(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else { break };
        let code = |digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        match (kind, rest.get(1..9).and_then(code)) {
            ('U', Some(c)) if !matches!(c, '\'' | '"' | '\\') => {
                out.push(c);
                rest = &rest[9..];
                continue;
            }
            ('/', _) => out.push_str("\\\\/"),
            ('a', _) => out.push_str("\\x07"),
            ('v', _) => out.push_str("\\x0b"),
            ('\n', _) => {}
            _ => {
                out.push('\\');
                out.push(kind);
            }
        }
        rest = &rest[kind.len_utf8()..];
    }
    out + rest
}
