//! A generation in progress: an iterator of pieces, which does the work as it is asked for them.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::load::Loaded;
use super::piece::{Completion, Piece, TokenLogprob};
use super::room::Grant;
use super::sampling::Sampling;
use super::scheduler::{Task, Timings, step};
use super::session::Memory;
use crate::error::{Error, Result};

/// Texts on their way. Each `next` gives one new token of one of them; dropping it stops the work.
///
/// An error ends the prompt that it belongs to; in a batch the others go on. Prompts are counted from 0, in the order in
/// which they were given; to ask for one that was not given is an error of the program and panics.
pub struct Generation {
    loaded: Arc<Loaded>,
    tasks: Vec<Task>,
    prompts: Vec<PromptText>,
    ready: VecDeque<(usize, Result<Piece>)>,
    cancel: CancelHandle,
    warnings: Vec<String>,
    timings: Timings,
    grant: Grant,
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

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("prompts", &self.prompts.len())
            .field("timings", &self.timings)
            .finish_non_exhaustive()
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
            grant: loaded.grant(),
            loaded,
            tasks,
            prompts,
            ready: VecDeque::new(),
            cancel: CancelHandle::default(),
            warnings,
            timings,
        }
    }

    /// The prompts begin with what `memory` holds, and leave their caches there.
    pub(super) fn remember(&mut self, memory: &Memory) {
        self.tasks.iter_mut().for_each(|task| task.remember(memory.clone()));
    }

    /// A handle that another thread may keep to stop this generation.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Settings that were given and have no effect, and what else the user should know, a line each. Most are there before
    /// the first piece; a few are found on the way.
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

    /// How many of those a [`crate::Session`] had kept from the sequence before; known once the first piece is there.
    pub fn cached_tokens(&self, request: usize) -> usize {
        self.tasks[request].cached
    }

    /// How likely a prompt's own tokens were, where `prompt_logprobs` asks for it; whole once the first piece is there.
    pub fn prompt_logprobs(&self, request: usize) -> &[TokenLogprob] {
        &self.tasks[request].prompt_logprobs
    }

    /// What stands in front of a prompt's texts: the prompt, or nothing where `return_full_text` is false.
    pub fn leading_text(&self, request: usize) -> &str {
        if self.tasks[request].rules.settings.return_full_text { &self.prompts[request].text } else { "" }
    }

    /// Runs to the end: all texts of all prompts, in order. The first error ends it; [`Generation::outcomes`] keeps the
    /// texts of the other prompts.
    pub fn completions(&mut self) -> Result<Vec<Completion>> {
        self.outcomes().into_iter().collect::<Result<Vec<_>>>().map(|texts| texts.into_iter().flatten().collect())
    }

    /// Runs to the end: for each prompt its texts, or what went wrong with it.
    pub fn outcomes(&mut self) -> Vec<Result<Vec<Completion>>> {
        self.outcomes_with(|_| ControlFlow::Continue(()))
    }

    pub(super) fn outcomes_with(
        &mut self,
        mut on_piece: impl FnMut(&Piece) -> ControlFlow<()>,
    ) -> Vec<Result<Vec<Completion>>> {
        let begin = |(request, task): (usize, &Task)| {
            let leading = self.leading_text(request);
            let count = task.rules.settings.num_return_sequences;
            Ok((0..count).map(|sequence| Completion::begin(request, sequence, leading)).collect::<Vec<_>>())
        };
        let mut outcomes: Vec<Result<Vec<Completion>>> = self.tasks.iter().enumerate().map(begin).collect();
        while let Some((request, piece)) = self.next_of() {
            match piece {
                Ok(piece) => {
                    let flow = on_piece(&piece);
                    if let Ok(texts) = &mut outcomes[request] {
                        texts[piece.sequence].push(piece);
                    }
                    if flow.is_break() {
                        self.cancel.cancel();
                        break;
                    }
                }
                Err(error) => outcomes[request] = Err(self.in_batch(request, error)),
            }
        }
        if !self.cancel.is_cancelled() {
            // A search among few allowed tokens may end with fewer texts than were asked for.
            outcomes.iter_mut().flatten().for_each(|texts| texts.retain(|text| !text.tokens.is_empty()));
        }
        outcomes
    }

    /// Names the prompt where there are several.
    fn in_batch(&self, request: usize, error: Error) -> Error {
        if self.tasks.len() == 1 { error } else { error.of_request(request) }
    }

    fn next_of(&mut self) -> Option<(usize, Result<Piece>)> {
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
            self.ready.extend(step(&mut self.tasks, &self.loaded, &mut self.grant, &mut self.timings));
            self.warnings.extend(self.tasks.iter_mut().flat_map(|task| task.warnings.drain(..)));
        }
    }
}

impl Iterator for Generation {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        let (request, piece) = self.next_of()?;
        Some(piece.map_err(|error| self.in_batch(request, error)))
    }
}
