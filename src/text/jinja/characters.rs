//! What Python's strings know of characters, words and lines, where Rust's know something else.

use std::sync::LazyLock;

use regex_automata::meta::Regex;

use super::{Fault, Outcome};

fn is_in(class: &LazyLock<Regex>, c: char) -> bool {
    class.is_match(c.encode_utf8(&mut [0; 4]).as_bytes())
}

fn class(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is ours")
}

/// What `str.strip` and `str.isspace` take for white space: Unicode's, and four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Where `str.splitlines` ends a line.
fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// What `repr` shows as it is.
pub(super) fn is_printable(c: char) -> bool {
    static OTHERS: LazyLock<Regex> = LazyLock::new(|| class(r"^[\p{C}\p{Z}]"));
    if c.is_ascii() { (' '..='~').contains(&c) } else { !is_in(&OTHERS, c) }
}

pub(super) fn is_decimal(c: char) -> bool {
    static DIGITS: LazyLock<Regex> = LazyLock::new(|| class(r"^\p{Nd}"));
    if c.is_ascii() { c.is_ascii_digit() } else { is_in(&DIGITS, c) }
}

/// Decimal digits, and those that are written above, below or in circles.
pub(super) fn is_digit(c: char) -> bool {
    let special = matches!(c,
        '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '①'..='⑨' | '⑴'..='⑼'
        | '⒈'..='⒐' | '⓪' | '⓵'..='⓽' | '⓿' | '❶'..='❾' | '➀'..='➈' | '➊'..='➒');
    special || is_decimal(c)
}

/// The number that a decimal digit stands for: each script's ten lie together, the zero first.
pub(super) fn digit_value(c: char) -> Option<u32> {
    if c.is_ascii() || !is_decimal(c) {
        return c.to_digit(10);
    }
    // Runs begin where the character before is none, or ten or more digits before.
    let before = (0..60).take_while(|i| char::from_u32(c as u32 - i).is_some_and(is_decimal)).count() as u32 - 1;
    Some(before % 10)
}

/// Capital letters, but of digraphs and ligatures only the first part.
pub(super) fn push_title(c: char, out: &mut String) {
    match c {
        'Ǆ'..='ǆ' => out.push('ǅ'),
        'Ǉ'..='ǉ' => out.push('ǈ'),
        'Ǌ'..='ǌ' => out.push('ǋ'),
        'Ǳ'..='ǳ' => out.push('ǲ'),
        c => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

/// The form in which texts are compared whatever their case.
pub(super) fn casefold(text: &str) -> String {
    let fold = |c: char| match c {
        'ı' => "ı".to_owned(),
        c => c.to_uppercase().flat_map(char::to_lowercase).collect(),
    };
    text.chars().map(fold).collect()
}

pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    chars.next().into_iter().for_each(|first| push_title(first, &mut out));
    out + &chars.as_str().to_lowercase()
}

/// `str.title`: words begin behind what is no letter.
pub(super) fn title(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            push_title(c, &mut out);
        }
        inside = c.is_lowercase() || c.is_uppercase() || matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ');
    }
    out
}

/// `str.istitle`
pub(super) fn is_title(text: &str) -> bool {
    let (mut inside, mut any) = (false, false);
    for c in text.chars() {
        if c.is_uppercase() {
            if inside {
                return false;
            }
            (inside, any) = (true, true);
        } else if c.is_lowercase() {
            if !inside {
                return false;
            }
        } else {
            inside = false;
        }
    }
    any
}

pub(super) fn is_identifier(text: &str) -> bool {
    let mut chars = text.chars();
    let starts = chars.next().is_some_and(|c| c == '_' || c.is_alphabetic());
    starts && chars.all(|c| c == '_' || c.is_alphanumeric())
}

/// `str.split` and `str.rsplit`, at white space where there is no separator.
pub(super) fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    most: usize,
    from_right: bool,
) -> Outcome<Vec<&'a str>> {
    let most = most.saturating_add(1);
    if let Some(separator) = separator {
        if separator.is_empty() {
            return Err(Fault::new("empty separator"));
        }
        if !from_right {
            return Ok(text.splitn(most, separator).collect());
        }
        let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
        parts.reverse();
        return Ok(parts);
    }
    let mut parts = Vec::new();
    // What is left when no more cuts are allowed keeps its white space at the far end.
    let mut rest = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
    while !rest.is_empty() {
        let cut = if parts.len() + 1 == most {
            None
        } else if from_right {
            rest.rfind(is_space)
        } else {
            rest.find(is_space)
        };
        match cut {
            None => {
                parts.push(rest);
                break;
            }
            Some(at) if from_right => {
                let after = at + rest[at..].chars().next().map_or(1, char::len_utf8);
                parts.push(&rest[after..]);
                rest = rest[..at].trim_end_matches(is_space);
            }
            Some(at) => {
                parts.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// `str.splitlines`
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_break) {
        let width =
            if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(1, char::len_utf8) };
        found.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        found.push(rest);
    }
    found
}

/// What HTML would take for markup, written as text.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}
