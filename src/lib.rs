//! Fireside runs language models on the machine in front of you.
//!
#![cfg_attr(feature = "ember", doc = "```")]
#![cfg_attr(not(feature = "ember"), doc = "```no_run")]
//! use fireside::{Engine, Sampling};
//!
//! let mut engine = Engine::load("ember")?;
//! for piece in engine.generate("Hello World", Sampling::default())? {
//!     print!("{}", piece?);
//! }
//! # Ok::<(), fireside::Error>(())
//! ```
//!
//! `ember` is a small model inside the library, so that this runs on a machine with nothing else on it; a folder with
//! `config.json`, `model.safetensors` and `tokenizer.json` is named by its path. [`Sampling`] has every control of
//! transformers' text-generation pipeline under the same name. [`Generation`] is an iterator of [`Piece`]s: text, token,
//! log-probability and the reason for the end. Several engines may live in one process; each is `Send`, and clones share
//! their weights.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod device;
mod engine;
mod error;
#[cfg_attr(not(feature = "hub"), allow(dead_code))] // heads of files that are on the Hub
mod gguf;
#[cfg_attr(not(all(feature = "cli", feature = "hub")), allow(dead_code))]
// commands and downloads together use all of it
mod hub;
#[doc(hidden)]
pub mod kernels;
mod mapped;
#[cfg_attr(not(feature = "cli"), allow(dead_code))] // only the command tells what a model would need
mod memory;
mod models;
mod nn;
mod prompt_cache;
mod source;
mod text;
mod weights;
mod whole;

pub use device::DeviceChoice;
pub use engine::{
    CancelHandle, Completion, EarlyStopping, Engine, EngineBuilder, FinishReason, Generation, Ids, Info, LengthDecay,
    LogitBias, Piece, Prompt, Quantized, Sampling, Schema, Score, ScoreOptions, SequenceBias, Session, Timings,
    TokenLogprob, Truncation, quantize,
};
pub use error::{Error, HubFailure, Result, quote};
pub use hub::{FileProgress, FileState, Hub, NetworkBan, Progress, forbid_network};
#[cfg(feature = "hub")]
pub use hub::{Plan, PlannedFile, Pulled};
pub use kernels::CacheType;
pub use models::{ARCHITECTURES, Architecture};
pub use source::EMBEDDED;
pub use text::{ChatOptions, ChatPrompt, ChatTemplate, Message, Specials, TextStream, Tokenizer};
pub use weights::{Cast, Dtype, Quant};
