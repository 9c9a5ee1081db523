//! How likely a model finds a given text: log-probabilities, perplexity, bits per byte.
//!
//! A text longer than the context is read in windows that overlap. Each window starts afresh, as transformers' recipe
//! for fixed-length models does, and scores the tokens that no earlier window scored. A window's very first token has
//! nothing before it and is not scored.

use serde::Serialize;

use super::filters::log_softmax;
use super::load::Loaded;
use super::piece::TokenLogprob;
use super::request::Prompt;
use crate::error::{Error, Result, count};

/// How to read a text that is to be scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScoreOptions {
    /// Tokens of a window; the context by default.
    pub window: Option<usize>,
    /// Tokens from the start of one window to the next; half a window by default.
    pub stride: Option<usize>,
    /// The likeliest tokens to report at each place.
    pub top_logprobs: usize,
}

/// What a model thinks of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Score {
    /// Each token's log-probability; `None` where nothing stands before it.
    pub tokens: Vec<TokenLogprob>,
    /// Tokens that were scored.
    pub scored_tokens: usize,
    /// The negative sum of their log-probabilities, in nats.
    pub nll: f64,
    /// e to the mean of it per scored token.
    pub perplexity: f64,
    /// Bits of it per byte of the text.
    pub bits_per_byte: f64,
    /// The window in use.
    pub window: usize,
    /// The stride in use.
    pub stride: usize,
}

pub(super) fn score(loaded: &Loaded, text: Prompt, options: ScoreOptions) -> Result<Score> {
    let (ids, text) = loaded.tokens_of(text, false)?;
    if ids.len() < 2 {
        let found = count(ids.len(), "token");
        let problem = format!("the text has {found}, expected at least 2: the first is given, the others are scored");
        return Err(Error::prompt(problem, "score a longer text"));
    }
    let window = options.window.unwrap_or(loaded.context);
    if window < 2 || window > loaded.context {
        return Err(Error::setting(
            "window",
            format!("is {window}, expected from 2 to {}, the model's context", loaded.context),
            "",
        ));
    }
    let stride = options.stride.unwrap_or((window / 2).max(1));
    if stride == 0 || stride > window {
        return Err(Error::setting("stride", format!("is {stride}, expected from 1 to {window}, the window"), ""));
    }

    let unscored = |id: &u32| TokenLogprob { token: *id, logprob: None, top: Vec::new() };
    let mut tokens: Vec<TokenLogprob> = ids.iter().map(unscored).collect();
    let (mut begin, mut scored_to) = (0, 1);
    loop {
        let end = ids.len().min(begin + window);
        // Position p predicts token p + 1, so the first target of this window needs the row before it.
        score_window(loaded, &ids[begin..end], begin, scored_to.max(begin + 1), options.top_logprobs, &mut tokens)?;
        scored_to = end;
        if end == ids.len() {
            break;
        }
        begin += stride;
    }
    let logprobs = tokens.iter().filter_map(|token| token.logprob);
    let (scored_tokens, nll) = logprobs.fold((0, 0.0), |(count, sum), logprob| (count + 1, sum - f64::from(logprob)));
    let perplexity = (nll / scored_tokens as f64).exp();
    let bits_per_byte = nll / std::f64::consts::LN_2 / text.len().max(1) as f64;
    Ok(Score { tokens, scored_tokens, nll, perplexity, bits_per_byte, window, stride })
}

/// Scores the tokens from `first_target` on; `ids` begin at position `begin` of the text.
fn score_window(
    loaded: &Loaded,
    ids: &[u32],
    begin: usize,
    first_target: usize,
    top: usize,
    tokens: &mut [TokenLogprob],
) -> Result<()> {
    loaded.read(ids, first_target - 1 - begin, |position, row| {
        if let Some(next) = ids.get(position + 1) {
            let mut logs = row.to_vec();
            log_softmax(&mut logs);
            tokens[begin + position + 1] = TokenLogprob::in_row(*next, &logs, top);
        }
        Ok(())
    })
}
