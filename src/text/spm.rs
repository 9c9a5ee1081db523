//! SentencePiece's byte-pair encoding: of all neighbours whose concatenation is a token, the one with the highest score is
//! merged, the leftmost among equals. What is no token in the end is spelled in bytes.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::vocabulary::{Kind, Vocabulary};

/// Scores and what stands for characters that are no token.
pub(super) struct Scores {
    scores: Vec<f32>,
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
}

/// A merge that may be made: the symbols that begin at two places, as long as together they are `end - left` bytes.
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    end: u32,
    token: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Candidate) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Candidate) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Candidate) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// Characters, then what they were merged to: by the byte at which each begins, where it ends and the one before begins.
struct Symbols {
    ends: Vec<u32>,
    before: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Scores {
    /// One score for each token; `-0.0` and `0.0` are the same.
    pub(super) fn new(scores: Vec<f32>, vocabulary: &Vocabulary, unknown: Option<u32>) -> Scores {
        let scores = scores.into_iter().map(|score| score + 0.0).collect();
        Scores { scores, bytes: vocabulary.bytes(), unknown }
    }

    /// A token that a text may become, or pass through on its way: those of structure and of bytes it never does.
    fn token(&self, vocabulary: &Vocabulary, name: &str) -> Option<u32> {
        let id = vocabulary.id(name.as_bytes())?;
        matches!(vocabulary.kind(id), Kind::Normal | Kind::UserDefined | Kind::Unused).then_some(id)
    }

    /// Appends the tokens of a text of less than 4 GB, whose spaces are `▁`. An error names what has no token.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let mut symbols = Symbols { ends: vec![0; text.len()], before: vec![NONE; text.len()] };
        let mut last = NONE;
        for (start, c) in text.char_indices() {
            symbols.ends[start] = (start + c.len_utf8()) as u32;
            symbols.before[start] = last;
            last = start as u32;
        }
        let candidate = |symbols: &Symbols, left: u32, right: u32| {
            let end = symbols.ends[right as usize];
            let token = self.token(vocabulary, &text[left as usize..end as usize])?;
            Some(Candidate { score: self.scores[token as usize], left, right, end, token })
        };
        let starts = text.char_indices().map(|(start, _)| start as u32);
        let pairs: Vec<Candidate> =
            starts.skip(1).filter_map(|right| candidate(&symbols, symbols.before[right as usize], right)).collect();
        let mut heap = BinaryHeap::from(pairs);
        // What unused tokens were merged from: they fall apart again.
        let mut parts: HashMap<u32, (Range<usize>, Range<usize>)> = HashMap::new();

        while let Some(Candidate { left, right, end, token, .. }) = heap.pop() {
            let (from, middle) = (left as usize, right as usize);
            if symbols.ends[from] != right || symbols.ends[middle] != end {
                continue;
            }
            if vocabulary.kind(token) == Kind::Unused {
                parts.insert(token, (from..middle, middle..end as usize));
            }
            symbols.ends[from] = end;
            symbols.ends[middle] = NONE; // swallowed
            if let Some(before) = symbols.before.get_mut(end as usize) {
                *before = left;
                heap.extend(candidate(&symbols, left, end));
            }
            if symbols.before[from] != NONE {
                heap.extend(candidate(&symbols, symbols.before[from], left));
            }
        }

        let mut start = 0;
        let mut after_unknown = false;
        while start < text.len() {
            let end = symbols.ends[start] as usize;
            self.push(vocabulary, text, start..end, &parts, &mut after_unknown, ids)?;
            start = end;
        }
        Ok(())
    }

    /// Appends the tokens of one symbol.
    fn push(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        symbol: Range<usize>,
        parts: &HashMap<u32, (Range<usize>, Range<usize>)>,
        after_unknown: &mut bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), String> {
        let mut stack = vec![symbol];
        while let Some(symbol) = stack.pop() {
            let piece = &text[symbol];
            let token = self.token(vocabulary, piece);
            if let Some(token) = token.filter(|token| vocabulary.kind(*token) != Kind::Unused) {
                ids.push(token);
                *after_unknown = false;
            } else if let Some((left, right)) = token.and_then(|token| parts.get(&token)) {
                stack.extend([right.clone(), left.clone()]);
            } else {
                self.push_bytes(piece, after_unknown, ids)?;
            }
        }
        Ok(())
    }

    /// Appends the tokens of the bytes of what is no token, or one unknown token for a run of such.
    fn push_bytes(&self, piece: &str, after_unknown: &mut bool, ids: &mut Vec<u32>) -> Result<(), String> {
        let bytes: Option<Vec<u32>> = piece.bytes().map(|byte| self.bytes[byte as usize]).collect();
        match (bytes, self.unknown) {
            (Some(bytes), _) => {
                ids.extend(bytes);
                *after_unknown = false;
            }
            (None, Some(unknown)) => {
                if !*after_unknown {
                    ids.push(unknown);
                }
                *after_unknown = true;
            }
            (None, None) => return Err(piece.to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(tokens: &[(&str, f32, Kind)], unknown: Option<u32>) -> (Scores, Vocabulary) {
        let kinds = tokens.iter().map(|token| token.2).collect();
        let vocabulary = Vocabulary::new(tokens.iter().map(|token| token.0.as_bytes()), kinds).unwrap();
        let scores = Scores::new(tokens.iter().map(|token| token.1).collect(), &vocabulary, unknown);
        (scores, vocabulary)
    }

    #[track_caller]
    fn check((scores, vocabulary): &(Scores, Vocabulary), text: &str, expected: &[&str]) {
        let mut ids = Vec::new();
        scores.encode(vocabulary, text, &mut ids).unwrap();
        let names: Vec<&str> = ids.iter().map(|id| std::str::from_utf8(vocabulary.name(*id)).unwrap()).collect();
        assert_eq!(names, expected, "{text:?}");
    }

    #[test]
    fn the_best_score_is_merged_first_and_the_leftmost_of_equals() {
        use Kind::Normal;
        let both = build(
            &[
                ("a", -9.0, Normal),
                ("b", -9.0, Normal),
                ("aa", -1.0, Normal),
                ("ab", -2.0, Normal),
                ("aab", -3.0, Normal),
            ],
            None,
        );
        check(&both, "", &[]);
        check(&both, "a", &["a"]);
        check(&both, "aaa", &["aa", "a"]);
        check(&both, "aab", &["aab"]);
        check(&both, "bab", &["b", "ab"]);
        check(&both, "aaaab", &["aa", "aab"]);
    }

    #[test]
    fn what_is_no_token_is_spelled_in_bytes_or_is_unknown() {
        use Kind::{Byte, Control, Normal, Unknown, Unused};
        let bytes = build(&[("<0xC3>", 0.0, Byte), ("<0xA9>", 0.0, Byte), ("a", 0.0, Normal)], None);
        check(&bytes, "aé", &["a", "<0xC3>", "<0xA9>"]);
        assert_eq!(bytes.0.encode(&bytes.1, "aü", &mut Vec::new()).unwrap_err(), "ü");
        let unknown = build(&[("<unk>", 0.0, Unknown), ("a", 0.0, Normal)], Some(0));
        check(&unknown, "xyaz", &["<unk>", "a", "<unk>"]);
        let structure = build(
            &[
                ("<s>", 0.0, Control),
                ("<", -1.0, Normal),
                ("s", -1.0, Normal),
                (">", -1.0, Normal),
                ("<s", -1.0, Normal),
            ],
            None,
        );
        check(&structure, "<s>", &["<s", ">"]);
        let unused = build(
            &[
                ("a", -1.0, Normal),
                ("b", -1.0, Normal),
                ("ab", -1.0, Unused),
                ("abb", -1.0, Normal),
                ("bb", -2.0, Normal),
            ],
            None,
        );
        check(&unused, "ab", &["a", "b"]);
        check(&unused, "abb", &["abb"]);
    }
}
