//! Requests → batches → tokens: the one place that calls `Model::forward`.
//!
//! At each step every request adds what it needs to a flat batch (a chunk of its prompt, a token for each of its texts),
//! one forward pass serves them all, and each takes its rows of logits back. What a request gets does not depend on who
//! else is in the batch.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::beams::BeamSearch;
use super::constraint::Guide;
use super::filters::log_softmax;
use super::line::{Line, Rules, check_finite};
use super::load::Loaded;
use super::piece::{FinishReason, Piece, TokenLogprob};
use super::room::Grant;
use super::sampler::likeliest;
use super::session::Memory;
use crate::error::{Error, Result};
use crate::nn::{Batch, KvCache, Rows};
use crate::text::TextStream;

/// One request on its way.
pub(super) struct Task {
    pub(super) rules: Rules,
    prompt: Vec<u32>,
    heal: Option<Heal>,
    stage: Stage,
    /// Where its cache comes from and goes to, in a session.
    memory: Option<Memory>,
    /// Tokens of the prompt that the memory had.
    pub(super) cached: usize,
    /// A row that the first forward pass must give, where the memory is a file's.
    proof: Option<KvCache>,
    /// What the user should know, found on the way.
    pub(super) warnings: Vec<String>,
    /// New tokens of each of its texts.
    lengths: Vec<usize>,
    /// Rows of logits that the running forward pass owes it.
    rows: usize,
    pub(super) prompt_logprobs: Vec<TokenLogprob>,
}

enum Stage {
    Waiting,
    Prompt(KvCache),
    Lines(Vec<Line>),
    Beams(BeamSearch),
    Done,
}

/// A last token of a prompt that may be replaced by a longer one.
pub(super) struct Heal {
    /// The bytes that the new token must begin with.
    pub(super) bytes: Vec<u8>,
    /// The token that stood there; among equals it is kept.
    pub(super) tail: u32,
    /// All tokens that begin with the bytes.
    pub(super) candidates: Vec<u32>,
    /// What the choice adds to the prompt's text.
    pub(super) added: Vec<u8>,
}

impl Task {
    pub(super) fn new(rules: Rules, prompt: Vec<u32>, heal: Option<Heal>) -> Task {
        let (stage, prompt_logprobs) = (Stage::Waiting, Vec::new());
        let (memory, proof, warnings, lengths) = (None, None, Vec::new(), Vec::new());
        Task { rules, prompt, heal, stage, memory, cached: 0, proof, warnings, lengths, rows: 0, prompt_logprobs }
    }

    /// The task begins with what `memory` holds of its prompt, and leaves its own cache there.
    pub(super) fn remember(&mut self, memory: Memory) {
        self.memory = Some(memory);
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    pub(super) fn stop(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Done);
        let Some(memory) = self.memory.as_ref().filter(|_| self.proof.is_none()) else { return };
        match stage {
            Stage::Prompt(cache) => memory.keep(&self.prompt, cache),
            Stage::Lines(lines) => {
                if let Some((ids, cache)) = lines.into_iter().next().map(Line::into_cache) {
                    memory.keep(&ids, cache);
                }
            }
            Stage::Waiting | Stage::Beams(_) | Stage::Done => {}
        }
    }

    /// Tokens that its caches may come to hold. A text that may go on to the end of the context rarely does, and counts as it
    /// grows.
    pub(super) fn most_tokens(&self, context: usize) -> usize {
        let (prompt, new) = (self.prompt.len(), self.rules.settings.max_new_tokens);
        if prompt.saturating_add(new) >= context {
            return prompt;
        }
        let texts = self.rules.settings.beams.as_ref().map_or(1, |beams| beams.beams);
        prompt.saturating_add(new.saturating_mul(texts.max(self.rules.settings.num_return_sequences)))
    }

    fn in_prompt(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Prompt(_))
    }

    /// Adds this request's share of the next forward pass. Returns how many tokens of the prompt a session had kept, once.
    fn feed<'a>(&'a mut self, loaded: &Loaded, batch: &mut Batch<'a>) -> usize {
        let mut recalled = 0;
        if let Stage::Waiting = self.stage {
            self.rules.start();
            let mut cache = self.recall(loaded);
            cache.set_goal(self.prompt.len(), loaded.reading().border);
            recalled = cache.len();
            self.proof = self.proof.take().filter(|proof| proof.len() == recalled + 1); // or the goal emptied the cache
            self.cached = recalled;
            self.stage = Stage::Prompt(cache);
        }
        let reading = loaded.reading();
        self.rows = match &mut self.stage {
            Stage::Waiting | Stage::Done => 0,
            Stage::Prompt(cache) => {
                let Range { start, end } = reading.missing(&self.prompt, cache);
                if start == 0 {
                    self.prompt_logprobs.clear(); // it may be the second time
                }
                let rows = match (self.rules.settings.prompt_logprobs, end == self.prompt.len()) {
                    (true, _) => end - start,
                    (false, last) => usize::from(last),
                };
                batch.push(&self.prompt[start..end], cache, if rows == 0 { Rows::None } else { Rows::Last(rows) });
                rows
            }
            Stage::Lines(lines) => {
                let (lookup, most_new) = (self.rules.settings.lookup, self.rules.settings.max_new_tokens);
                lines
                    .iter_mut()
                    .filter(|line| !line.is_finished())
                    .map(|line| line.feed(lookup, batch, most_new, reading))
                    .sum()
            }
            Stage::Beams(search) => search.feed(batch, reading),
        };
        recalled
    }

    /// The cache to begin with.
    fn recall(&mut self, loaded: &Loaded) -> KvCache {
        let memory = self.memory.as_ref().filter(|_| !self.rules.settings.prompt_logprobs); // those need all of it computed
        let Some(recalled) = memory.and_then(|memory| memory.recall(&self.prompt)) else { return loaded.new_cache() };
        self.proof = recalled.proof;
        recalled.cache
    }

    /// True where the rows that were computed do not go on as those of a file do: the prompt is read again from its start.
    fn refutes(&mut self, cache: &KvCache, loaded: &Loaded) -> bool {
        let Some(proof) = self.proof.take() else { return false };
        if cache.has_same_row(&proof, proof.len() - 1) {
            return false;
        }
        self.warnings.push("the prompt cache holds other numbers than this model computes; it is not used".to_owned());
        self.memory.iter().for_each(Memory::forget_stored);
        self.cached = 0;
        self.stage = Stage::Prompt(loaded.new_cache());
        true
    }

    /// Takes this request's rows of logits, each (vocabulary): as many as it fed for, whatever it makes of them.
    fn accept(&mut self, rows: &[&[f32]], loaded: &Loaded, pieces: &mut Vec<Piece>) -> Result<()> {
        if let Stage::Prompt(cache) = &mut self.stage {
            let cache = std::mem::take(cache);
            if self.refutes(&cache, loaded) {
                return Ok(());
            }
            self.note_prompt(rows, cache.len())?;
            match rows.last() {
                Some(row) if cache.len() == self.prompt.len() => self.begin(row, cache, loaded, pieces)?,
                _ => self.stage = Stage::Prompt(cache),
            }
            return Ok(());
        }
        let rules = &self.rules;
        let done = match &mut self.stage {
            Stage::Lines(lines) => {
                let mut rest = rows;
                for line in lines.iter_mut().filter(|line| !line.is_finished()) {
                    let (mine, others) = rest.split_at(line.rows_fed());
                    rest = others;
                    line.accept(mine, rules, pieces)?;
                }
                lines.iter().all(Line::is_finished)
            }
            Stage::Beams(search) => {
                let heal = self.heal.as_ref();
                search.accept(rows, rules, pieces, || new_stream(rules, &self.prompt, heal))?;
                search.is_done()
            }
            Stage::Waiting | Stage::Prompt(_) | Stage::Done => false,
        };
        if done {
            self.stop();
        }
        Ok(())
    }

    /// Says, once, what of the user's wishes for the end a grammar did not leave room for.
    fn note_ends(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            self.lengths.resize(self.lengths.len().max(piece.sequence + 1), 0);
            self.lengths[piece.sequence] += 1;
            let Some(guide) = self.rules.guide.as_ref().filter(|_| piece.finish == Some(FinishReason::Grammar)) else {
                continue;
            };
            let (setting, could_end) = (guide.setting(), guide.could_end());
            let is_short = self.lengths[piece.sequence] < self.rules.settings.min_new_tokens;
            let warnings = &mut self.warnings;
            self.rules.settings.about_end.retain(|wish| {
                let is_least = wish.starts_with("min_");
                let is_idle = if is_least { is_short } else { !could_end };
                if is_idle {
                    warnings.push(format!("`{wish}` has no effect where `{setting}` allows nothing further"));
                }
                !is_idle
            });
        }
    }

    /// The prompt is in the cache, and `row` holds the logits of what follows.
    fn begin(&mut self, row: &[f32], cache: KvCache, loaded: &Loaded, pieces: &mut Vec<Piece>) -> Result<()> {
        if let Some(heal) = self.heal.as_mut().filter(|heal| !heal.candidates.is_empty()) {
            check_finite(row, self.prompt.len() - 1)?;
            self.prompt.push(heal.choose(row, loaded, &mut self.rules.guide));
            self.note_next(self.prompt.len() - 1, row);
            self.stage = Stage::Prompt(cache);
            return Ok(());
        }
        let rules = &self.rules;
        let heal = self.heal.as_ref();
        let stream = || new_stream(rules, &self.prompt, heal);
        if let Some(beams) = self.rules.settings.beams {
            if let Some(memory) = &self.memory {
                memory.keep(&self.prompt, cache.clone());
            }
            let mut search = BeamSearch::new(beams, &self.prompt, cache, rules);
            search.accept(&[row], rules, pieces, stream)?;
            self.stage = if search.is_done() { Stage::Done } else { Stage::Beams(search) };
            return Ok(());
        }
        let mut lines = Vec::new();
        for sequence in 0..self.rules.settings.num_return_sequences {
            let mut line = Line::new(sequence, &self.prompt, cache.clone(), stream(), rules);
            line.accept(&[row], rules, pieces)?;
            lines.push(line);
        }
        let done = lines.iter().all(Line::is_finished);
        self.stage = Stage::Lines(lines);
        if done {
            self.stop();
        }
        Ok(())
    }

    /// Notes how likely the prompt's own tokens were, where that is asked for.
    fn note_prompt(&mut self, rows: &[&[f32]], cached: usize) -> Result<()> {
        if !self.rules.settings.prompt_logprobs {
            return Ok(());
        }
        if self.prompt_logprobs.is_empty() {
            self.prompt_logprobs.push(TokenLogprob { token: self.prompt[0], logprob: None, top: Vec::new() });
        }
        for (position, row) in (cached - rows.len()..).zip(rows) {
            check_finite(row, position)?;
            self.note_next(position + 1, row);
        }
        Ok(())
    }

    /// Notes how likely the prompt's token at `position` was by the row before it, where that is asked for.
    fn note_next(&mut self, position: usize, row: &[f32]) {
        let Some(next) = self.prompt.get(position).filter(|_| self.rules.settings.prompt_logprobs) else { return };
        let mut logs = row.to_vec();
        log_softmax(&mut logs);
        let top = self.rules.settings.logprobs.unwrap_or(0);
        self.prompt_logprobs.push(TokenLogprob::in_row(*next, &logs, top));
    }
}

/// Whoever stops asking for pieces leaves the cache to the session too.
impl Drop for Task {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Heal {
    /// The likeliest token that begins with the tail's bytes and goes on as the guide allows. The tail itself has a head
    /// start of 1, as in transformers.
    fn choose(&mut self, row: &[f32], loaded: &Loaded, guide: &mut Option<Guide>) -> u32 {
        if let Some(guide) = guide.as_ref() {
            let possible = |id: &u32| guide.behind(&self.bytes_behind(*id, loaded)).is_some();
            self.candidates = self.candidates.iter().copied().filter(possible).collect();
        }
        let scores: Vec<f32> =
            self.candidates.iter().map(|id| row[*id as usize] + f32::from(*id == self.tail)).collect();
        let chosen = likeliest(&scores).map_or(self.tail, |i| self.candidates[i as usize]);
        self.added = self.bytes_behind(chosen, loaded);
        *guide = guide.as_ref().and_then(|guide| guide.behind(&self.added));
        self.candidates.clear();
        chosen
    }

    /// What a token has behind the bytes that it must begin with.
    fn bytes_behind(&self, token: u32, loaded: &Loaded) -> Vec<u8> {
        let mut bytes = Vec::new();
        loaded.tokenizer.append_bytes(token, &mut bytes);
        bytes.split_off(self.bytes.len().min(bytes.len()))
    }
}

fn new_stream(rules: &Rules, prompt: &[u32], heal: Option<&Heal>) -> TextStream {
    let mut stream = TextStream::after(prompt, Arc::clone(&rules.tokenizer), rules.settings.skip_special_tokens);
    if let Some(heal) = heal {
        stream.preload(&heal.added);
    }
    stream
}

/// Time spent, by phase.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Timings {
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// How many of those a session had kept, so that they were not computed again.
    pub cached_tokens: usize,
    /// How many of them were computed so far: all others, once the first new token is there.
    pub computed_tokens: usize,
    /// New tokens of all texts.
    pub new_tokens: usize,
    /// Steps in which a prompt was read.
    pub prefill: Duration,
    /// All other steps.
    pub decode: Duration,
    /// How many other steps there were: fewer than tokens where prompt lookup guessed right.
    pub decode_steps: usize,
    /// New tokens that came out of those other steps.
    pub decoded_tokens: usize,
}

/// One forward pass for all tasks that are not done: what came out, each with the request that it belongs to. A task that
/// fails is done, and the others go on.
pub(super) fn step(
    tasks: &mut [Task],
    loaded: &Loaded,
    grant: &mut Grant,
    timings: &mut Timings,
) -> Vec<(usize, Result<Piece>)> {
    let start = Instant::now();
    let prefill = tasks.iter().any(|task| task.in_prompt());
    let mut batch = Batch::default();
    for task in tasks.iter_mut() {
        let (in_prompt, before) = (task.in_prompt(), batch.tokens().len());
        timings.cached_tokens += task.feed(loaded, &mut batch);
        timings.computed_tokens += if in_prompt { batch.tokens().len() - before } else { 0 };
    }
    let logits = grant.take(batch.tokens().len()).and_then(|()| loaded.forward(&mut batch));
    drop(batch);
    let mut results = Vec::new();
    match logits {
        Ok(logits) => {
            let rows: Vec<&[f32]> = logits.chunks_exact(loaded.model.shape().vocab_size).collect();
            let mut rest = &rows[..];
            for task in tasks.iter_mut().filter(|task| !task.is_done()) {
                let (mine, others) = rest.split_at(task.rows);
                rest = others;
                let (mut pieces, cached) = (Vec::new(), task.cached);
                let outcome = task.accept(mine, loaded, &mut pieces);
                task.note_ends(&pieces);
                timings.cached_tokens -= cached - task.cached; // a file's that were refuted
                results.extend(pieces.into_iter().map(|piece| (task.rules.request, Ok(piece))));
                if let Err(error) = outcome {
                    task.stop();
                    results.push((task.rules.request, Err(error)));
                }
            }
        }
        Err(error) => {
            // No text goes on, and each is told why.
            let waiting: Vec<usize> =
                tasks.iter().filter(|task| !task.is_done()).map(|task| task.rules.request).collect();
            tasks.iter_mut().for_each(Task::stop);
            let (problem, hint) = (error.to_string(), error.hint().unwrap_or_default().to_owned());
            let others = waiting.iter().skip(1).map(|request| (*request, Err(Error::stopped(&problem, &hint))));
            results.extend(waiting.first().map(|request| (*request, Err(error))).into_iter().chain(others));
        }
    }
    let new_tokens = results.iter().filter(|(_, result)| result.is_ok()).count();
    timings.new_tokens += new_tokens;
    if prefill {
        timings.prefill += start.elapsed();
    } else {
        timings.decode += start.elapsed();
        timings.decode_steps += 1;
        timings.decoded_tokens += new_tokens;
    }
    results
}

/// A prompt's last token, taken off so that generation may begin inside it.
pub(super) fn take_tail(prompt: &mut Vec<u32>, loaded: &Loaded) -> Result<Option<Heal>> {
    if !loaded.tokenizer.is_byte_level() {
        return Err(Error::setting("token_healing", "works with byte-level tokenizers only", "leave it out"));
    }
    let Some(tail) = prompt.last().copied().filter(|tail| prompt.len() > 1 && !loaded.tokenizer.is_special(*tail))
    else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    loaded.tokenizer.append_bytes(tail, &mut bytes);
    let vocab = loaded.model.shape().vocab_size as u32;
    let candidates: Vec<u32> =
        loaded.tokenizer.ids_starting_with(&bytes).into_iter().filter(|id| *id < vocab).collect();
    if candidates.len() < 2 {
        return Ok(None);
    }
    prompt.pop();
    Ok(Some(Heal { bytes, tail, candidates, added: Vec::new() }))
}
