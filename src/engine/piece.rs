//! What comes out of a generation: pieces as they are made, completions once they are done.

use serde::Serialize;

/// One new token and the text that became whole with it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Piece {
    /// Which of a batch's prompts it continues; 0 for a single prompt.
    pub request: usize,
    /// Which of the prompt's `num_return_sequences` texts it belongs to.
    pub sequence: usize,
    /// The token.
    pub token: u32,
    /// Whole characters; empty while a character is spread over tokens, and for tokens that are not text.
    pub text: String,
    /// The token's log-probability, where `logprobs` asks for it.
    pub logprob: Option<TokenLogprob>,
    /// Why the text ends here, with its last token.
    pub finish: Option<FinishReason>,
    /// The score of a finished beam.
    pub score: Option<f32>,
}

impl std::fmt::Display for Piece {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it.
    Eos,
    /// What `json_schema`, `regex`, `choice` or `grammar` asks for is complete, and nothing can follow.
    Grammar,
    /// One of `stop_strings` was completed.
    StopString,
    /// `max_new_tokens`, `max_length` or the context is used up.
    Length,
    /// `max_time` has passed.
    Time,
    /// It was cancelled. No piece says so, since none came; a [`Completion`] does.
    Cancelled,
}

/// How likely a token was, before penalties and filters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// The natural logarithm of its probability; `None` for a prompt's first token, which nothing predicts.
    pub logprob: Option<f32>,
    /// The likeliest tokens at its place, likeliest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprob {
    /// Looks `token` up in a row of log-probabilities.
    pub(super) fn in_row(token: u32, row: &[f32], top: usize) -> TokenLogprob {
        let top = super::filters::best(row, top).into_iter().map(|i| (i as u32, row[i])).collect();
        TokenLogprob { token, logprob: Some(row[token as usize]), top }
    }
}

/// One finished text.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Completion {
    /// Which of a batch's prompts it continues.
    pub request: usize,
    /// Which of the prompt's texts it is.
    pub sequence: usize,
    /// What the pipeline returns: with the prompt in front, or without it where `return_full_text` is false.
    pub generated_text: String,
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Their log-probabilities, where `logprobs` asks for them.
    pub logprobs: Vec<TokenLogprob>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// The score of a finished beam.
    pub score: Option<f32>,
}

impl Completion {
    /// A text of which nothing has come yet; it stays cancelled unless a last piece says otherwise.
    pub(super) fn begin(request: usize, sequence: usize, prompt: &str) -> Completion {
        Completion {
            request,
            sequence,
            generated_text: prompt.to_owned(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finish_reason: FinishReason::Cancelled,
            score: None,
        }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        self.generated_text.push_str(&piece.text);
        self.tokens.push(piece.token);
        self.logprobs.extend(piece.logprob);
        self.finish_reason = piece.finish.unwrap_or(self.finish_reason);
        self.score = piece.score.or(self.score);
    }
}
