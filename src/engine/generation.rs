//! A generation in progress: an iterator of pieces, which does the work as it is asked for them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::load::Loaded;
use super::piece::{Completion, Piece, TokenLogprob};
use super::sampling::Sampling;
use super::scheduler::{Task, Timings, step};
use crate::error::Result;

/// Texts on their way. Each `next` gives one new token of one of them; dropping it stops the work.
///
/// An error ends the prompt that it belongs to; in a batch the others go on.
pub struct Generation {
    loaded: Arc<Loaded>,
    tasks: Vec<Task>,
    prompts: Vec<PromptText>,
    ready: VecDeque<Result<Piece>>,
    cancel: CancelHandle,
    warnings: Vec<String>,
    timings: Timings,
}

/// What is known of a prompt before the first step.
pub(super) struct PromptText {
    pub(super) text: String,
    pub(super) tokens: usize,
}

/// Stops a [`Generation`] from another thread, or from a signal's handler.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// The generation gives what is ready and then ends.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// True once somebody has cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Generation {
    pub(super) fn new(
        loaded: Arc<Loaded>,
        tasks: Vec<Task>,
        prompts: Vec<PromptText>,
        warnings: Vec<String>,
    ) -> Generation {
        let timings = Timings { prompt_tokens: prompts.iter().map(|prompt| prompt.tokens).sum(), ..Timings::default() };
        Generation {
            loaded,
            tasks,
            prompts,
            ready: VecDeque::new(),
            cancel: CancelHandle::default(),
            warnings,
            timings,
        }
    }

    /// A handle that another thread may keep to stop this generation.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Settings that were given and have no effect, and what else the user should know, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The settings that a prompt runs by, the seed in use included.
    pub fn settings(&self, request: usize) -> &Sampling {
        &self.tasks[request].rules.settings.resolved
    }

    /// Time spent so far.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Tokens of a prompt, as the model reads it.
    pub fn prompt_tokens(&self, request: usize) -> usize {
        self.prompts[request].tokens
    }

    /// How likely a prompt's own tokens were, where `prompt_logprobs` asks for it; whole once the first piece is there.
    pub fn prompt_logprobs(&self, request: usize) -> &[TokenLogprob] {
        &self.tasks[request].prompt_logprobs
    }

    /// What stands in front of a prompt's texts: the prompt, or nothing where `return_full_text` is false.
    pub fn leading_text(&self, request: usize) -> &str {
        if self.tasks[request].rules.settings.return_full_text { &self.prompts[request].text } else { "" }
    }

    /// Runs to the end: all texts of all prompts, in order. The first error ends it.
    pub fn completions(&mut self) -> Result<Vec<Completion>> {
        self.completions_with(|_| ())
    }

    /// As [`Generation::completions`], and shows each piece on its way.
    pub fn completions_with(&mut self, mut on_piece: impl FnMut(&Piece)) -> Result<Vec<Completion>> {
        let mut texts = self.empty_completions();
        for piece in self.by_ref() {
            let piece = piece?;
            on_piece(&piece);
            if let Some(text) =
                texts.iter_mut().find(|text| (text.request, text.sequence) == (piece.request, piece.sequence))
            {
                text.push(piece);
            }
        }
        Ok(texts)
    }

    fn empty_completions(&self) -> Vec<Completion> {
        let texts = |(request, task): (usize, &Task)| {
            let leading = self.leading_text(request);
            (0..task.rules.settings.num_return_sequences)
                .map(move |sequence| Completion::begin(request, sequence, leading))
                .collect::<Vec<_>>()
        };
        self.tasks.iter().enumerate().flat_map(texts).collect()
    }
}

impl Iterator for Generation {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.cancel.is_cancelled() {
                self.tasks.iter_mut().for_each(Task::stop);
            }
            if self.tasks.iter().all(Task::is_done) {
                return None;
            }
            self.ready.extend(step(&mut self.tasks, &self.loaded, &mut self.timings));
        }
    }
}
