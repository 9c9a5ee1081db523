//! What one generation leaves to the next: a sequence's tokens with their keys and values.
//!
//! A prompt that begins as the last text did is computed only from where the two part. A row's keys and values do not
//! depend on what was computed beside it, so the text is the one that would come without the memory, bit for bit.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Engine, Generation, Prompt, Sampling};
use crate::error::Result;
use crate::nn::KvCache;

/// One conversation with a model, or one document that grows: each prompt reuses what it shares with the text before it.
///
#[cfg_attr(feature = "ember", doc = "```")]
#[cfg_attr(not(feature = "ember"), doc = "```no_run")]
/// use fireside::{Engine, Sampling};
///
/// let mut session = Engine::load("ember")?.session();
/// let mut text = String::from("Once upon a time");
/// for _ in 0..3 {
///     let sampling = Sampling { max_new_tokens: Some(8), ..Sampling::greedy() };
///     text = session.generate(&text, sampling)?.completions()?[0].generated_text.clone();
/// }
/// # Ok::<(), fireside::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    engine: Engine,
    memory: Memory,
}

impl Engine {
    /// Begins a session, with nothing in its memory.
    pub fn session(&self) -> Session {
        Session { engine: self.clone(), memory: Memory::default() }
    }
}

impl Session {
    /// Continues a prompt, as [`Engine::generate`] does. What the prompt shares with the sequence before it is not computed
    /// again; [`crate::Timings`] says how much that was. The memory is left by a generation that ends or is dropped.
    pub fn generate(&mut self, prompt: impl Into<Prompt>, sampling: Sampling) -> Result<Generation> {
        let mut generation = self.engine.generate(prompt, sampling)?;
        generation.remember(&self.memory);
        Ok(generation)
    }

    /// The engine under it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Tokens in its memory.
    pub fn cached_tokens(&self) -> usize {
        self.memory.with(|kept| kept.as_ref().map_or(0, |kept| kept.cache.len()))
    }

    /// Forgets everything and frees the memory.
    pub fn clear(&mut self) {
        self.memory.with(Option::take);
    }
}

/// The place in which one generation leaves its cache for the next.
#[derive(Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Option<Kept>>>);

/// Tokens, and a cache that holds all of them.
pub(super) struct Kept {
    pub(super) tokens: Vec<u32>,
    pub(super) cache: KvCache,
}

impl Memory {
    /// Takes out the cache, cut to what it shares with the tokens; `None` where that is nothing.
    pub(super) fn recall(&self, tokens: &[u32]) -> Option<KvCache> {
        let Kept { tokens: known, mut cache } = self.with(Option::take)?;
        let shared = known.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        cache.truncate(shared);
        (shared > 0).then_some(cache)
    }

    /// Leaves a cache and the tokens that it begins with.
    pub(super) fn keep(&self, tokens: &[u32], cache: KvCache) {
        let tokens = tokens[..cache.len()].to_vec();
        self.with(|kept| *kept = Some(Kept { tokens, cache }));
    }

    /// Looks at it. A thread that panicked cannot have left half of a `Kept`.
    fn with<T>(&self, look: impl FnOnce(&mut Option<Kept>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tokens = self.with(|kept| kept.as_ref().map_or(0, |kept| kept.tokens.len()));
        f.debug_struct("Memory").field("tokens", &tokens).finish()
    }
}
