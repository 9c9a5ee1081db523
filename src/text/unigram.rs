//! SentencePiece's unigram model: of all ways to cut a text into tokens the one whose scores add up to the most (Viterbi).

use std::ops::Range;

use super::vocabulary::{Kind, Vocabulary};

/// How much less likely than the least likely token a character is that is no token.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The tokens that texts are cut into, in the order of their names.
pub(super) struct Unigram {
    sorted: Vec<u32>,
    /// Where in `sorted` the names are that begin with each byte.
    first: Vec<u32>,
    scores: Vec<f32>,
    unknown: Option<u32>,
    unknown_score: f64,
    bytes: Box<[Option<u32>; 256]>,
}

/// The best way to reach a place: its score, the token that ends there and where that begins.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    token: Option<u32>,
    start: usize,
}

impl Unigram {
    /// One score for each token.
    pub(super) fn new(scores: Vec<f32>, vocabulary: &Vocabulary, unknown: Option<u32>) -> Unigram {
        let normal = |id: &u32| vocabulary.kind(*id) == Kind::Normal && !vocabulary.name(*id).is_empty();
        let mut sorted: Vec<u32> = (0..vocabulary.len() as u32).filter(normal).collect();
        sorted.sort_unstable_by_key(|id| vocabulary.name(*id));
        let first = (0..=256)
            .map(|byte| sorted.partition_point(|id| usize::from(vocabulary.name(*id)[0]) < byte) as u32)
            .collect();
        let least = sorted.iter().map(|id| scores[*id as usize]).fold(f32::INFINITY, f32::min);
        let unknown_score = if sorted.is_empty() { 0.0 } else { f64::from(least) } - UNKNOWN_PENALTY;
        Unigram { sorted, first, scores, unknown, unknown_score, bytes: vocabulary.bytes() }
    }

    /// Calls `found` with the length of each token that the text begins with, shortest first.
    fn starts_of(&self, vocabulary: &Vocabulary, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let byte = usize::from(text[0]);
        let mut range = self.first[byte] as usize..self.first[byte + 1] as usize;
        let mut length = 1;
        // All names of the range begin with `length` bytes of the text; the one that is no longer comes first.
        while !range.is_empty() {
            if vocabulary.name(self.sorted[range.start]).len() == length {
                found(length, self.sorted[range.start]);
                range.start += 1;
            }
            let Some(next) = text.get(length) else { return };
            let names = &self.sorted[range.clone()];
            let from = names.partition_point(|id| vocabulary.name(*id)[length] < *next);
            let to = from + names[from..].partition_point(|id| vocabulary.name(*id)[length] == *next);
            range = range.start + from..range.start + to;
            length += 1;
        }
    }

    /// Appends the tokens of a text whose spaces are `▁`. An error names what has no token.
    pub(super) fn encode(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) -> Result<(), String> {
        let mut best = vec![Best { score: f64::NEG_INFINITY, token: None, start: 0 }; text.len() + 1];
        best[0].score = 0.0;
        for (start, c) in text.char_indices() {
            let so_far = best[start].score;
            let mut whole = false;
            self.starts_of(vocabulary, &text.as_bytes()[start..], |length, token| {
                whole |= length == c.len_utf8();
                let score = so_far + f64::from(self.scores[token as usize]);
                let end = &mut best[start + length];
                if score > end.score {
                    *end = Best { score, token: Some(token), start };
                }
            });
            let end = &mut best[start + c.len_utf8()];
            if !whole && so_far + self.unknown_score > end.score {
                *end = Best { score: so_far + self.unknown_score, token: None, start };
            }
        }
        let mut path: Vec<(Range<usize>, Option<u32>)> = Vec::new();
        let mut end = text.len();
        while end > 0 {
            path.push((best[end].start..end, best[end].token));
            end = best[end].start;
        }
        let mut after_unknown = false;
        for (range, token) in path.into_iter().rev() {
            let bytes =
                || text[range.clone()].bytes().map(|byte| self.bytes[byte as usize]).collect::<Option<Vec<u32>>>();
            match (token, bytes()) {
                (Some(token), _) => ids.push(token),
                (None, Some(bytes)) => ids.extend(bytes),
                (None, None) if after_unknown => {}
                (None, None) => ids.push(self.unknown.ok_or_else(|| text[range.clone()].to_owned())?),
            }
            after_unknown = token.is_none();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_sum_wins_and_runs_of_unknown_characters_are_one() {
        let tokens = [
            ("<unk>", 0.0),
            ("a", -2.0),
            ("b", -2.0),
            ("ab", -3.0),
            ("abc", -9.0),
            ("c", -1.0),
            ("bc", -2.5),
            ("</s>", 0.0),
        ];
        let mut kinds = vec![Kind::Normal; tokens.len()];
        (kinds[0], kinds[7]) = (Kind::Unknown, Kind::Control);
        let vocabulary = Vocabulary::new(tokens.iter().map(|token| token.0.as_bytes()), kinds).unwrap();
        let unigram = Unigram::new(tokens.iter().map(|token| token.1).collect(), &vocabulary, Some(0));
        let check = |text: &str, expected: &[&str]| {
            let mut ids = Vec::new();
            unigram.encode(&vocabulary, text, &mut ids).unwrap();
            let names: Vec<&str> = ids.iter().map(|id| tokens[*id as usize].0).collect();
            assert_eq!(names, expected, "{text:?}");
        };
        check("", &[]);
        check("abc", &["ab", "c"]);
        check("bc", &["bc"]);
        check("xyabz", &["<unk>", "ab", "<unk>"]);
        check("a</s>", &["a", "<unk>"]);
        let none = Unigram::new(tokens.iter().map(|token| token.1).collect(), &vocabulary, None);
        assert_eq!(none.encode(&vocabulary, "aé", &mut Vec::new()).unwrap_err(), "é");
    }
}
