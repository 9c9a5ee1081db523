//! What one generation leaves to the next: a sequence's tokens with their keys and values.
//!
//! A prompt that begins as the last text did is computed only from where the two part. A row's keys and values do not
//! depend on what was computed beside it, so the text is the one that would come without the memory, bit for bit.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Engine, Generation, Prompt, Sampling};
use crate::error::{Error, Result};
use crate::nn::KvCache;
use crate::prompt_cache::{self, Found};

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

    /// Starts from what [`Session::save`] left in a file; without the file, from nothing. A file of another model, or one
    /// that is no prompt cache, is an error. What is stale or damaged is not used: the answer says why, and the next
    /// [`Session::save`] writes it anew. The text is the one that would come without the file, bit for bit: beside the hashes
    /// in the file its last row that a prompt uses is computed again and compared.
    pub fn load(&mut self, file: impl AsRef<Path>) -> Result<Option<String>> {
        let found = prompt_cache::read(file.as_ref(), &self.engine.loaded.identity())?;
        self.memory.note_stored(&[]);
        match found {
            Found::Nothing => Ok(None),
            Found::Stale(why) => Ok(Some(why)),
            Found::Cache(tokens, cache) => {
                self.memory.note_stored(&tokens);
                self.memory.with(|kept| *kept = Some(Kept { tokens, cache, proven: false }));
                Ok(None)
            }
        }
    }

    /// Leaves the memory in a file, where it has something that the file has not. True where it was written.
    pub fn save(&mut self, file: impl AsRef<Path>) -> Result<bool> {
        let identity = self.engine.loaded.identity();
        let stored = self.memory.stored();
        let written = self.memory.with(|kept| match kept {
            Some(kept) if kept.proven && !stored.starts_with(&kept.tokens) => {
                prompt_cache::write(file.as_ref(), &identity, &kept.tokens, &kept.cache)?;
                Ok::<_, Error>(Some(kept.tokens.clone()))
            }
            _ => Ok(None),
        })?;
        written.iter().for_each(|tokens| self.memory.note_stored(tokens));
        Ok(written.is_some())
    }

    /// Forgets everything and frees the memory.
    pub fn clear(&mut self) {
        self.memory.with(Option::take);
    }
}

/// The place in which one generation leaves its cache for the next.
#[derive(Clone, Default)]
pub(super) struct Memory {
    kept: Arc<Mutex<Option<Kept>>>,
    /// The tokens of the file that was read or written last.
    stored: Arc<Mutex<Vec<u32>>>,
}

/// Tokens, and a cache that holds all of them.
pub(super) struct Kept {
    pub(super) tokens: Vec<u32>,
    pub(super) cache: KvCache,
    /// False for what a file said and no forward pass has confirmed.
    pub(super) proven: bool,
}

/// What a generation starts from.
pub(super) struct Recalled {
    pub(super) cache: KvCache,
    /// The same with a row more, which the first forward pass must compute to the bit.
    pub(super) proof: Option<KvCache>,
}

impl Memory {
    /// Takes out the cache, cut to what it shares with the prompt; `None` where that is nothing. The prompt's last token is
    /// left to compute: the logits behind it are wanted.
    pub(super) fn recall(&self, prompt: &[u32]) -> Option<Recalled> {
        let Kept { tokens: known, mut cache, proven } = self.with(Option::take)?;
        let shared = known.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        if proven {
            cache.truncate(shared.min(prompt.len() - 1));
            return (cache.len() > 0).then_some(Recalled { cache, proof: None });
        }
        cache.truncate(shared);
        let proof = cache.clone();
        cache.truncate(shared.saturating_sub(1));
        (shared > 0).then_some(Recalled { cache, proof: Some(proof) })
    }

    /// Leaves a cache and the tokens that it begins with. One that is ahead of its tokens was left by a panic.
    pub(super) fn keep(&self, tokens: &[u32], cache: KvCache) {
        let Some(tokens) = tokens.get(..cache.len()).map(<[u32]>::to_vec) else { return };
        self.with(|kept| *kept = Some(Kept { tokens, cache, proven: true }));
    }

    /// The tokens that the session's file holds.
    fn stored(&self) -> Vec<u32> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_stored(&self, tokens: &[u32]) {
        *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = tokens.to_vec();
    }

    /// What the file holds is of no use.
    pub(super) fn forget_stored(&self) {
        self.note_stored(&[]);
    }

    /// Looks at it. A thread that panicked cannot have left half of a `Kept`.
    fn with<T>(&self, look: impl FnOnce(&mut Option<Kept>) -> T) -> T {
        look(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tokens = self.with(|kept| kept.as_ref().map_or(0, |kept| kept.tokens.len()));
        f.debug_struct("Memory").field("tokens", &tokens).finish()
    }
}
