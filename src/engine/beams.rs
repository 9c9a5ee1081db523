//! Beam search over one prompt: several texts side by side, the best by the sum of their log-probabilities.
//!
//! The bookkeeping follows transformers 5 (`_beam_search`), so that the same texts come back in the same order: from all
//! continuations the `K = beams · max(2, 1 + ends)` best; those that end are finished texts if they are among the first
//! `beams`, the best of the others run on. With `do_sample` the K continuations are drawn instead.

use super::EarlyStopping;
use super::constraint::Guide;
use super::filters::{best, log_softmax};
use super::line::{Ending, Reading, Rules, advance, check_finite};
use super::piece::{FinishReason, Piece, TokenLogprob};
use super::random::Random;
use super::sampler::draw_distinct;
use super::settings::BeamSettings;
use crate::error::{Error, Result};
use crate::nn::{Batch, KvCache, Rows};
use crate::text::TextStream;

/// The beams of one prompt.
pub(super) struct BeamSearch {
    beams: BeamSettings,
    prompt_tokens: usize,
    random: Random,
    running: Vec<Beam>,
    /// Best first, at most as many as beams.
    finished: Vec<Finished>,
    done: bool,
}

#[derive(Clone)]
struct Beam {
    ids: Vec<u32>,
    cache: KvCache,
    /// Sum of the processed log-probabilities.
    score: f32,
    ending: Ending,
    guide: Option<Guide>,
    logprobs: Vec<TokenLogprob>,
}

struct Finished {
    beam: Beam,
    score: f32,
    reason: FinishReason,
}

impl BeamSearch {
    pub(super) fn new(beams: BeamSettings, prompt: &[u32], cache: KvCache, rules: &Rules) -> BeamSearch {
        let first = Beam {
            ids: prompt.to_vec(),
            cache,
            score: 0.0,
            ending: Ending::new(prompt, rules),
            guide: rules.guide.clone(),
            logprobs: Vec::new(),
        };
        let random = Random::new(rules.settings.seed, 0);
        BeamSearch {
            beams,
            prompt_tokens: prompt.len(),
            random,
            running: vec![first],
            finished: Vec::new(),
            done: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Adds each beam's last token; returns the rows of logits that come back.
    pub(super) fn feed<'a>(&'a mut self, batch: &mut Batch<'a>, reading: Reading) -> usize {
        let mut rows = 0;
        for beam in &mut self.running {
            let missing = reading.missing(&beam.ids, &mut beam.cache);
            let is_whole = missing.end == beam.ids.len();
            rows += usize::from(is_whole);
            batch.push(&beam.ids[missing], &mut beam.cache, if is_whole { Rows::Last(1) } else { Rows::None });
        }
        rows
    }

    /// One step of the search; when it is the last, the pieces of the best texts.
    pub(super) fn accept(
        &mut self,
        rows: &[&[f32]],
        rules: &Rules,
        pieces: &mut Vec<Piece>,
        stream: impl Fn() -> TextStream,
    ) -> Result<()> {
        if rows.is_empty() {
            return Ok(()); // the beams are still read, all of them equally far
        }
        let candidates = self.candidates(rows, rules)?;
        let all_ended = candidates.iter().all(|(_, reason)| reason.is_some());
        let new = self.running[0].ids.len() + 1 - self.prompt_tokens;
        let may_finish = !(self.beams.early_stopping == EarlyStopping::True && self.finished.len() == self.beams.beams);

        let mut running = Vec::new();
        for (rank, (beam, reason)) in candidates.into_iter().enumerate() {
            match reason {
                None => running.push(beam),
                Some(reason) if rank < self.beams.beams && may_finish => {
                    let score = self.normalised(beam.score, new);
                    self.finished.push(Finished { beam, score, reason });
                }
                Some(_) => {}
            }
        }
        running.sort_by(|a, b| b.score.total_cmp(&a.score));
        running.truncate(self.beams.beams);
        self.running = running;
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.beams.beams);

        self.done = all_ended || self.running.is_empty() || !self.can_improve(new, rules);
        if self.done {
            let wanted = rules.settings.num_return_sequences;
            for (sequence, text) in self.finished.drain(..).take(wanted).enumerate() {
                pieces.extend(text.pieces(sequence, self.prompt_tokens, rules, stream()));
            }
        }
        Ok(())
    }

    /// The K best or drawn continuations, each with the reason for which it ends.
    fn candidates(&mut self, rows: &[&[f32]], rules: &Rules) -> Result<Vec<(Beam, Option<FinishReason>)>> {
        let vocab = rows[0].len();
        let step = self.running[0].ids.len() - self.prompt_tokens;
        let mut logs = Vec::with_capacity(rows.len());
        let mut scores = Vec::with_capacity(rows.len() * vocab);
        for (beam, row) in self.running.iter_mut().zip(rows) {
            check_finite(row, beam.ids.len() - 1)?;
            let mut log = row.to_vec();
            log_softmax(&mut log);
            let mut processed = log.clone();
            let mask = beam.guide.as_mut().map(Guide::mask).transpose()?;
            rules.sampler.process(&beam.ids, mask, &mut processed);
            scores.extend(processed.iter().map(|score| score + beam.score));
            logs.push(log);
        }
        let count = self.beams.beams * (1 + rules.settings.eos.len()).max(2);
        let mut chosen = if rules.settings.do_sample {
            draw_distinct(&scores, count, &self.random, step)
        } else {
            best(&scores, count)
        };
        chosen.retain(|index| scores[*index] > f32::NEG_INFINITY);
        if chosen.is_empty() {
            return Err(Error::NothingLeft { step });
        }
        chosen
            .into_iter()
            .map(|index| {
                let (parent, token) = (index / vocab, (index % vocab) as u32);
                let mut beam = self.running[parent].clone();
                beam.ids.push(token);
                beam.score = scores[index];
                if let Some(top) = rules.settings.logprobs {
                    beam.logprobs.push(TokenLogprob::in_row(token, &logs[parent], top));
                }
                let complete = advance(beam.guide.as_mut(), token, rules)?;
                let reason = beam.ending.after(token, step + 1, complete, rules);
                Ok((beam, reason))
            })
            .collect()
    }

    fn normalised(&self, score: f32, new: usize) -> f32 {
        score / (new as f64).powf(self.beams.length_penalty) as f32
    }

    /// Whether the best running beam may still become one of the best texts.
    fn can_improve(&self, new: usize, rules: &Rules) -> bool {
        if self.finished.len() < self.beams.beams {
            return true;
        }
        let length = match self.beams.early_stopping {
            EarlyStopping::True => return false,
            EarlyStopping::Never if self.beams.length_penalty > 0.0 => rules.settings.max_new_tokens,
            EarlyStopping::Never | EarlyStopping::False => new,
        };
        let worst = self.finished.last().map_or(f32::NEG_INFINITY, |text| text.score);
        self.normalised(self.running[0].score, length) > worst
    }
}

impl Finished {
    fn pieces(self, sequence: usize, prompt_tokens: usize, rules: &Rules, mut stream: TextStream) -> Vec<Piece> {
        let new = &self.beam.ids[prompt_tokens..];
        let mut logprobs = self.beam.logprobs.into_iter();
        let mut pieces: Vec<Piece> = new
            .iter()
            .map(|token| Piece {
                request: rules.request,
                sequence,
                token: *token,
                text: stream.push(*token),
                logprob: logprobs.next(),
                finish: None,
                score: None,
            })
            .collect();
        if let Some(last) = pieces.last_mut() {
            last.text.push_str(&stream.finish());
            last.finish = Some(self.reason);
            last.score = Some(self.score);
        }
        pieces
    }
}
