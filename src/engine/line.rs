//! One text on its way: its tokens, its cache, its stream of characters, and how it ends.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::constraint::Guide;
use super::filters::log_softmax;
use super::piece::{FinishReason, Piece, TokenLogprob};
use super::random::Random;
use super::sampler::{Sampler, draw, likeliest};
use super::settings::{Lookup, Settings};
use crate::error::{Error, Result};
use crate::nn::{Batch, KvCache, Rows};
use crate::text::{TextStream, Tokenizer};

/// A text that grows by a token at each step, or by several where a guess was right.
pub(super) struct Line {
    sequence: usize,
    ids: Vec<u32>,
    prompt_tokens: usize,
    cache: KvCache,
    /// Guesses that were fed behind the last token.
    draft: Vec<u32>,
    /// Rows of logits that come back.
    rows: usize,
    ending: Ending,
    stream: TextStream,
    random: Random,
    guide: Option<Guide>,
    finished: bool,
}

/// How a model reads: usually one token a step, since the others are in the cache.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    /// Most tokens of a text in one step.
    pub(super) chunk: usize,
    /// Texts that grow longer than this are read again: see [`KvCache::set_goal`].
    pub(super) border: Option<usize>,
}

impl Reading {
    /// Which tokens of a text the next step reads: those that its cache lacks, or the first of them.
    pub(super) fn missing(self, ids: &[u32], cache: &mut KvCache) -> Range<usize> {
        cache.set_goal(ids.len(), self.border);
        cache.len()..ids.len().min(cache.len() + self.chunk)
    }

    /// How many tokens a text of this length may get without coming to lie behind the border.
    fn before_border(self, length: usize) -> usize {
        self.border.and_then(|border| border.checked_sub(length)).unwrap_or(usize::MAX)
    }
}

/// What a request's texts are made and judged by.
pub(super) struct Rules {
    pub(super) request: usize,
    pub(super) settings: Settings,
    pub(super) sampler: Sampler,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// The start of a text under a constraint.
    pub(super) guide: Option<Guide>,
    /// When they must end; known once the first step begins.
    pub(super) deadline: Option<Instant>,
}

impl Rules {
    /// The clock of `max_time` starts.
    pub(super) fn start(&mut self) {
        self.deadline = self.settings.max_time.and_then(|time| Instant::now().checked_add(time));
    }
}

impl Line {
    pub(super) fn new(sequence: usize, prompt: &[u32], cache: KvCache, stream: TextStream, rules: &Rules) -> Line {
        Line {
            sequence,
            ids: prompt.to_vec(),
            prompt_tokens: prompt.len(),
            cache,
            draft: Vec::new(),
            rows: 0,
            ending: Ending::new(prompt, rules),
            stream,
            random: Random::new(rules.settings.seed, sequence),
            guide: rules.guide.clone(),
            finished: false,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Its tokens and the cache, which has all of them but those that were not fed yet.
    pub(super) fn into_cache(self) -> (Vec<u32>, KvCache) {
        (self.ids, self.cache)
    }

    /// Adds what the next forward pass needs; returns the rows of logits that come back.
    pub(super) fn feed<'a>(
        &'a mut self,
        lookup: Option<Lookup>,
        batch: &mut Batch<'a>,
        most_new: usize,
        reading: Reading,
    ) -> usize {
        let length = self.ids.len();
        let missing = reading.missing(&self.ids, &mut self.cache);
        self.rows = 0;
        self.draft.clear();
        if missing.end == length {
            let room = most_new.saturating_sub(length - self.prompt_tokens + 1);
            let room = room.min(reading.before_border(length));
            self.draft = lookup.map_or_else(Vec::new, |lookup| guess(&self.ids, lookup, room));
            if let Some(guide) = self.guide.as_mut().filter(|_| !self.draft.is_empty()) {
                self.draft.truncate(guide.count_of_possible(&self.draft));
            }
            self.rows = 1 + self.draft.len();
        }
        let tokens: Vec<u32> = self.ids[missing].iter().chain(&self.draft).copied().collect();
        let rows = if self.rows == 0 { Rows::None } else { Rows::Last(self.rows) };
        batch.push(&tokens, &mut self.cache, rows);
        self.rows
    }

    /// Rows of logits that the last `feed` asked for.
    pub(super) fn rows_fed(&self) -> usize {
        self.rows
    }

    /// Takes one token from each row for as long as the guesses were right.
    pub(super) fn accept(&mut self, rows: &[&[f32]], rules: &Rules, pieces: &mut Vec<Piece>) -> Result<()> {
        let draft = std::mem::take(&mut self.draft);
        for (i, row) in rows.iter().enumerate() {
            let piece = self.step(row, rules)?;
            let guessed_right = draft.get(i) == Some(&piece.token);
            self.finished = piece.finish.is_some();
            pieces.push(piece);
            if self.finished || !guessed_right {
                break;
            }
        }
        // The last token is not in the cache yet; what was guessed wrong must not be.
        self.cache.truncate(self.ids.len() - 1);
        Ok(())
    }

    fn step(&mut self, row: &[f32], rules: &Rules) -> Result<Piece> {
        check_finite(row, self.ids.len() - 1)?;
        let mut scores = row.to_vec();
        let mask = self.guide.as_mut().map(Guide::mask).transpose()?;
        rules.sampler.process(&self.ids, mask, &mut scores);
        let step = self.ids.len() - self.prompt_tokens;
        let chosen = if rules.settings.do_sample { draw(&scores, &self.random, step) } else { likeliest(&scores) };
        let token = chosen.ok_or(Error::NothingLeft { step })?;
        let logprob = rules.settings.logprobs.map(|top| {
            let mut logs = row.to_vec();
            log_softmax(&mut logs);
            TokenLogprob::in_row(token, &logs, top)
        });
        self.ids.push(token);
        let complete = advance(self.guide.as_mut(), token, rules)?;
        let finish = self.ending.after(token, self.ids.len() - self.prompt_tokens, complete, rules);
        let mut text = self.stream.push(token);
        if finish.is_some() {
            text.push_str(&self.stream.finish());
        }
        Ok(Piece { request: rules.request, sequence: self.sequence, token, text, logprob, finish, score: None })
    }
}

/// Tells a text's guide which token came. True where nothing can follow it.
pub(super) fn advance(guide: Option<&mut Guide>, token: u32, rules: &Rules) -> Result<bool> {
    match guide {
        Some(guide) if !rules.settings.eos.contains(&token) => guide.take(token),
        _ => Ok(false),
    }
}

/// Where a text ends. It remembers as many bytes as the longest stop string may reach back.
#[derive(Clone)]
pub(super) struct Ending {
    tail: Vec<u8>,
}

impl Ending {
    /// Stop strings may begin in the prompt, as in transformers.
    pub(super) fn new(prompt: &[u32], rules: &Rules) -> Ending {
        let mut ending = Ending { tail: Vec::new() };
        let longest = longest_stop(&rules.settings);
        if longest > 0 {
            let reach = prompt.len().saturating_sub(longest); // a token is at least a byte
            prompt[reach..].iter().for_each(|id| rules.tokenizer.append_bytes(*id, &mut ending.tail));
        }
        ending
    }

    /// Why the text ends after its `new`-th new token, if it does; `complete` where its grammar has nothing to add.
    pub(super) fn after(&mut self, token: u32, new: usize, complete: bool, rules: &Rules) -> Option<FinishReason> {
        let settings = &rules.settings;
        let stopped = !settings.stop_strings.is_empty() && self.completes_a_stop_string(token, rules);
        if settings.eos.contains(&token) {
            Some(FinishReason::Eos)
        } else if complete {
            Some(FinishReason::Grammar)
        } else if stopped {
            Some(FinishReason::StopString)
        } else if new >= settings.max_new_tokens {
            Some(FinishReason::Length)
        } else if rules.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            Some(FinishReason::Time)
        } else {
            None
        }
    }

    /// True where a stop string ends inside this token.
    fn completes_a_stop_string(&mut self, token: u32, rules: &Rules) -> bool {
        let longest = longest_stop(&rules.settings);
        let kept = self.tail.len().saturating_sub(longest);
        self.tail.drain(..kept);
        let before = self.tail.len();
        rules.tokenizer.append_bytes(token, &mut self.tail);
        rules.settings.stop_strings.iter().any(|stop| {
            let start = (before + 1).saturating_sub(stop.len());
            self.tail[start..].windows(stop.len()).any(|window| window == stop)
        })
    }
}

fn longest_stop(settings: &Settings) -> usize {
    settings.stop_strings.iter().map(Vec::len).max().unwrap_or(0)
}

/// Prompt lookup (Saxena 2023): what followed the last place where the text's last tokens stood before.
fn guess(ids: &[u32], lookup: Lookup, room: usize) -> Vec<u32> {
    let most = lookup.tokens.min(room);
    for n in (1..=lookup.ngram.min(ids.len() - 1)).rev() {
        let last = &ids[ids.len() - n..];
        let found = ids[..ids.len() - 1].windows(n).position(|window| window == last);
        if let Some(start) = found {
            return ids[start + n..].iter().take(most).copied().collect();
        }
    }
    Vec::new()
}

/// Logits must be numbers; anything else would pick a token without meaning, for ever.
pub(super) fn check_finite(row: &[f32], token: usize) -> Result<()> {
    match row.iter().position(|logit| !logit.is_finite()) {
        None => Ok(()),
        Some(index) => Err(Error::NonFinite { token, found: format!("{} at vocabulary entry {index}", row[index]) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_what_followed_the_longest_match() {
        let lookup = Lookup { tokens: 3, ngram: 2 };
        assert_eq!(guess(&[1, 2, 3, 4, 5, 1, 2], lookup, 10), [3, 4, 5]);
        assert_eq!(guess(&[9, 2, 7, 1, 2, 3, 1, 2], lookup, 10), [3, 1, 2], "two tokens matched before one");
        assert_eq!(guess(&[9, 2, 7, 5, 2], lookup, 2), [7, 5], "one token, cut to the room");
        assert_eq!(guess(&[1, 2, 3], lookup, 10), [0u32; 0]);
        assert_eq!(guess(&[1], lookup, 10), [0u32; 0]);
        assert_eq!(guess(&[1, 1], lookup, 0), [0u32; 0]);
    }
}
