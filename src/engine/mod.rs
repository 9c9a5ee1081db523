//! Requests → batches → tokens → events.
//!
//! An [`Engine`] is a loaded model. It turns prompts and [`Sampling`] into a [`Generation`], an iterator of [`Piece`]s.
//! `load` builds it. `sampling` names the settings, `defaults` and `settings` resolve them, `request` makes a task of a
//! prompt; `scheduler` runs the steps, `line` and `beams` are the two ways in which texts grow, `sampler` picks tokens
//! with the `filters` and the numbers of `random`, among those that a `constraint` leaves. `session` keeps caches between
//! generations; `chat` turns messages into prompts. `score` judges a given text, `bench` makes
//! passes of given sizes.

mod beams;
#[cfg_attr(not(feature = "cli"), allow(dead_code))] // only the command measures
pub(crate) mod bench;
mod chat;
mod constraint;
mod defaults;
mod fetch;
mod filters;
mod generation;
mod line;
mod load;
mod piece;
mod quantize;
mod random;
mod request;
mod room;
mod sampler;
mod sampling;
mod scheduler;
mod score;
mod session;
mod settings;

use std::ops::ControlFlow;
use std::sync::Arc;

pub use constraint::Schema;
#[cfg(all(feature = "cli", feature = "hub"))]
pub(crate) use fetch::SUPPORTED;
pub use generation::{CancelHandle, Generation};
pub use load::{EngineBuilder, Info};
pub use piece::{Completion, FinishReason, Piece, TokenLogprob};
pub use quantize::{Quantized, quantize};
pub use request::Prompt;
pub use sampling::{EarlyStopping, Ids, LengthDecay, LogitBias, Sampling, SequenceBias, Truncation};
pub use scheduler::Timings;
pub use score::{Score, ScoreOptions};
pub use session::Session;

use crate::error::Result;
use crate::text::Tokenizer;
use load::Loaded;

/// A loaded model, ready to generate. It is `Send`; clones share the weights and cost nothing, so that each thread has one.
#[derive(Clone)]
pub struct Engine {
    loaded: Arc<Loaded>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("info", self.info()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads a model with all defaults.
    pub fn load(name: &str) -> Result<Engine> {
        Engine::builder().load(name)
    }

    /// Loads a model with a choice of device, dtype, threads or context.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// Continues a prompt. The work is done as the pieces are asked for.
    pub fn generate(&mut self, prompt: impl Into<Prompt>, sampling: Sampling) -> Result<Generation> {
        self.generate_batch([(prompt.into(), sampling)])
    }

    /// Continues several prompts in the same forward passes. Each gets the text that it would get alone.
    pub fn generate_batch(&mut self, requests: impl IntoIterator<Item = (Prompt, Sampling)>) -> Result<Generation> {
        let mut warnings = self.loaded.warnings.clone();
        let (mut tasks, mut prompts) = (Vec::new(), Vec::new());
        let requests: Vec<(Prompt, Sampling)> = requests.into_iter().collect();
        let several = requests.len() > 1;
        for (request, (prompt, sampling)) in requests.into_iter().enumerate() {
            let task = self.loaded.task(request, prompt, &sampling, &mut warnings);
            let (task, prompt) = task.map_err(|error| if several { error.of_request(request) } else { error })?;
            tasks.push(task);
            prompts.push(prompt);
        }
        warnings.dedup();
        self.loaded.grant().check(tasks.iter().map(|task| task.most_tokens(self.loaded.context)).sum())?;
        Ok(Generation::new(Arc::clone(&self.loaded), tasks, prompts, warnings))
    }

    /// Continues a prompt and hands each piece to `on_piece`, which may end it with `ControlFlow::Break`.
    pub fn generate_with(
        &mut self,
        prompt: impl Into<Prompt>,
        sampling: Sampling,
        on_piece: impl FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Vec<Completion>> {
        let mut generation = self.generate(prompt, sampling)?;
        let outcomes = generation.outcomes_with(on_piece);
        outcomes.into_iter().collect::<Result<Vec<_>>>().map(|texts| texts.into_iter().flatten().collect())
    }

    /// How likely the model finds a given text.
    pub fn score(&mut self, text: impl Into<Prompt>, options: ScoreOptions) -> Result<Score> {
        score::score(&self.loaded, text.into(), options)
    }

    /// The logits that follow each token of a text: (tokens, vocabulary), row after row.
    pub fn logits(&mut self, text: impl Into<Prompt>) -> Result<Vec<f32>> {
        let tokens = self.loaded.prompt_tokens(text.into())?;
        let mut logits = Vec::new();
        self.loaded.read(&tokens, 0, |_, row| {
            logits.extend_from_slice(row);
            Ok(())
        })?;
        Ok(logits)
    }

    /// What is known of the model.
    pub fn info(&self) -> &Info {
        &self.loaded.info
    }

    /// What the headers of its files say.
    #[cfg(feature = "cli")]
    pub(crate) fn sizes(&self) -> &crate::weights::Sizes {
        &self.loaded.sizes
    }

    /// What loading found that the user should know, a line each. Generations repeat it among their own warnings.
    pub fn warnings(&self) -> &[String] {
        &self.loaded.warnings
    }

    /// The model's tokenizer; shared, as a [`crate::TextStream`] wants it.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.loaded.tokenizer
    }
}
