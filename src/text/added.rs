//! Tokens that are found in a text before anything else happens to it, such as `<|im_end|>` or a run of spaces.
//!
//! At each place the longest wins, and the leftmost place first, as in transformers. Of special tokens, those that mark
//! structure, the caller says where they are only text.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};

/// What becomes of special tokens' names, such as `<|im_end|>`, that stand in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials<'a> {
    /// They become the tokens of that name, as in transformers.
    Parsed,
    /// They are text like any other.
    AsText,
    /// They are text where they touch one of these ranges of bytes, such as what a user wrote, and tokens elsewhere.
    AsTextWithin(&'a [Range<usize>]),
}

impl Specials<'_> {
    /// Whether a special token's name at this place is a token.
    fn parsed(&self, place: &Range<usize>) -> bool {
        match self {
            Specials::Parsed => true,
            Specials::AsText => false,
            Specials::AsTextWithin(ranges) => {
                !ranges.iter().any(|range| range.start < place.end && place.start < range.end)
            }
        }
    }
}

/// One of these tokens.
#[derive(Clone, Debug)]
pub(super) struct Added {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) special: bool,
    /// Takes the white space on its left, and on its right.
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    /// Not inside a word.
    pub(super) single_word: bool,
}

/// All of them, ready to be found.
#[derive(Debug, Default)]
pub(super) struct AddedTokens {
    all: Vec<Added>,
    any: Option<AhoCorasick>,
    /// Those that are not special, by their place in `all`.
    plain: Vec<usize>,
    only_plain: Option<AhoCorasick>,
}

impl AddedTokens {
    /// Empty names are left out: they are everywhere.
    pub(super) fn new(all: Vec<Added>) -> Result<AddedTokens, String> {
        let all: Vec<Added> = all.into_iter().filter(|token| !token.content.is_empty()).collect();
        let plain: Vec<usize> = (0..all.len()).filter(|index| !all[*index].special).collect();
        let find = |names: Vec<&str>| {
            let built = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&names);
            if names.is_empty() { Ok(None) } else { built.map(Some).map_err(|error| error.to_string()) }
        };
        let any = find(all.iter().map(|token| token.content.as_str()).collect())?;
        let only_plain = find(plain.iter().map(|index| all[*index].content.as_str()).collect())?;
        Ok(AddedTokens { all, any, plain, only_plain })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Their names, and whether they are special.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, bool)> {
        self.all.iter().map(|token| (token.content.as_str(), token.special))
    }

    /// Cuts a text into tokens and what is between them. `origin` says where in the caller's text a range of this one is.
    pub(super) fn split(
        &self,
        text: &str,
        specials: Specials<'_>,
        origin: impl Fn(Range<usize>) -> Range<usize>,
    ) -> Vec<(Range<usize>, Option<u32>)> {
        let mut parts = Vec::new();
        let (mut end, mut from) = (0, 0); // what is cut already, and where to look next
        while let Some((token, place)) = self.next(text, from, specials, &origin) {
            from = place.end;
            if token.single_word && (ends_in_word(&text[..place.start]) || starts_in_word(&text[place.end..])) {
                continue;
            }
            let start = if token.lstrip { end + text[end..place.start].trim_end().len() } else { place.start };
            if end < start {
                parts.push((end..start, None));
            }
            end = place.end;
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            parts.push((start..end, Some(token.id)));
            from = end;
        }
        if end < text.len() {
            parts.push((end..text.len(), None));
        }
        parts
    }

    /// The next token at or after `from`.
    fn next(
        &self,
        text: &str,
        mut from: usize,
        specials: Specials<'_>,
        origin: &impl Fn(Range<usize>) -> Range<usize>,
    ) -> Option<(&Added, Range<usize>)> {
        loop {
            let found = self.any.as_ref()?.find(Input::new(text).range(from..))?;
            let token = &self.all[found.pattern().as_usize()];
            if !token.special || specials.parsed(&origin(found.range())) {
                return Some((token, found.range()));
            }
            // What is no token here may hide one that begins at the same place.
            let hidden = self.only_plain.as_ref().and_then(|plain| plain.find(Input::new(text).range(found.range())));
            if let Some(hidden) = hidden.filter(|hidden| hidden.start() == found.start()) {
                return Some((&self.all[self.plain[hidden.pattern().as_usize()]], hidden.range()));
            }
            from = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
        }
    }
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(is_word)
}

fn starts_in_word(text: &str) -> bool {
    text.chars().next().is_some_and(is_word)
}

/// What `\w` is in the patterns of tokenizers: letters, marks, digits and what joins them.
fn is_word(c: char) -> bool {
    let mut buffer = [0; 4];
    static WORD: std::sync::LazyLock<regex_automata::meta::Regex> =
        std::sync::LazyLock::new(|| regex_automata::meta::Regex::new(r"\w").expect("the pattern is ours"));
    WORD.is_match(c.encode_utf8(&mut buffer).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn token(id: u32, content: &str, special: bool) -> Added {
        Added { id, content: content.to_owned(), special, lstrip: false, rstrip: false, single_word: false }
    }

    #[track_caller]
    fn check(tokens: Vec<Added>, text: &str, specials: Specials<'_>, expected: &[(&str, Option<u32>)]) {
        let added = AddedTokens::new(tokens).unwrap();
        let parts = added.split(text, specials, |range| range);
        let found: Vec<(&str, Option<u32>)> = parts.into_iter().map(|(range, id)| (&text[range], id)).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn the_longest_at_the_leftmost_place_wins() {
        let tokens = || vec![token(0, "<a>", true), token(1, "<a><b>", true), token(2, "b>c", false)];
        check(tokens(), "x<a><b>c", Specials::Parsed, &[("x", None), ("<a><b>", Some(1)), ("c", None)]);
        check(tokens(), "<a><b", Specials::Parsed, &[("<a>", Some(0)), ("<b", None)]);
        check(tokens(), "", Specials::Parsed, &[]);
        check(vec![], "<a>", Specials::Parsed, &[("<a>", None)]);
        check(vec![token(7, "", true)], "ab", Specials::Parsed, &[("ab", None)]);
    }

    #[test]
    fn special_tokens_are_text_where_they_should_be() {
        let tokens = || vec![token(0, "<s>", true), token(1, "<s", false), token(2, "s>x", false)];
        check(tokens(), "<s>x", Specials::Parsed, &[("<s>", Some(0)), ("x", None)]);
        check(tokens(), "<s>x", Specials::AsText, &[("<s", Some(1)), (">x", None)]);
        check(
            vec![token(0, "<s>", true), token(2, "s>x", false)],
            "<s>x",
            Specials::AsText,
            &[("<", None), ("s>x", Some(2))],
        );
        let one = || vec![token(0, "<s>", true)];
        let all = [("<s>", Some(0)), ("<s>", None), ("<s>", Some(0))].map(|part| part);
        check(one(), "<s><s><s>", Specials::AsTextWithin(slice::from_ref(&(3..6))), &all);
        check(one(), "<s><s><s>", Specials::AsTextWithin(slice::from_ref(&(4..5))), &all);
        check(
            one(),
            "<s><s><s>",
            Specials::AsTextWithin(&[0..1, 8..9]),
            &[("<s>", None), ("<s>", Some(0)), ("<s>", None)],
        );
        check(one(), "<s>é<s>", Specials::AsTextWithin(&[]), &[("<s>", Some(0)), ("é", None), ("<s>", Some(0))]);
        check(one(), &"<s>".repeat(3), Specials::AsText, &[("<s><s><s>", None)]);
    }

    #[test]
    fn tokens_take_the_white_space_beside_them_and_stay_out_of_words() {
        let strip = Added { lstrip: true, rstrip: true, ..token(0, "<m>", true) };
        check(
            vec![strip],
            " a \t<m>\u{a0} b<m>",
            Specials::Parsed,
            &[(" a", None), (" \t<m>\u{a0} ", Some(0)), ("b", None), ("<m>", Some(0))],
        );
        let word = Added { single_word: true, ..token(0, "cat", false) };
        check(
            vec![word],
            "cat scat cats cat",
            Specials::Parsed,
            &[("cat", Some(0)), (" scat cats ", None), ("cat", Some(0))],
        );
    }
}
