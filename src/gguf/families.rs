//! The kinds of models that GGUF files hold, one entry of [`FAMILIES`] for each, by which files are read and written.
//!
//! To add one, in `families/table.rs`: what transformers calls it, which keys are which fields of config.json, which of its
//! switches have one value in all files, which tensors have which names, and what is done to their numbers. What does not fit
//! into a table goes into a function there. `families/names.rs` has the names.

mod names;
mod table;

use serde_json::{Map, Value};

use super::config::{Field, Keys};
use super::model::Gguf;
use super::names::Names;
use crate::error::{Result, quote};
use table::FAMILIES;

/// What is known of a kind of models.
pub(super) struct Family {
    /// `general.architecture`, with which its keys begin.
    pub(super) name: &'static str,
    /// Whether a file is meant, where several kinds share the name.
    pub(super) is_meant: fn(&Gguf) -> bool,
    /// config.json's `model_type` and entry of `architectures`.
    pub(super) model_type: &'static str,
    pub(super) class: &'static str,
    /// Whether a config.json is meant, where several kinds share the `model_type`.
    pub(super) is_meant_by: fn(&Value) -> bool,
    pub(super) fields: &'static [&'static [Field]],
    /// Fields of config.json that have one value in all files.
    pub(super) implied: &'static [Implied],
    /// What of the config no table says.
    pub(super) more: fn(&Keys, &mut Map<String, Value>) -> Result<()>,
    /// What of config.json a file cannot say, in the words of a message.
    pub(super) unsayable: fn(&Value) -> Option<String>,
    pub(super) names: &'static Names,
    /// How the rows of queries and keys are put for rotary positions.
    pub(super) pairs: Pairs,
    /// How the rows of a fused matrix of queries, keys and values are put.
    pub(super) fused: Fused,
    /// What is added to the weights of norms. Gemma's checkpoints have them less 1, its files do not.
    pub(super) norms_more_by: f32,
    /// Whether there is always a head, which repeats the table where the model has none.
    pub(super) has_head: bool,
    /// Kinds of `rope_scaling` that its files can say.
    pub(super) scalings: &'static [&'static str],
}

/// A field of config.json and what a file of the family means by not saying it.
pub(super) enum Implied {
    Flag(&'static str, bool),
    /// The first of these names, which mean the same.
    Name(&'static str, &'static [&'static str]),
    /// No value.
    None(&'static str),
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairs {
    /// As transformers has them, or none do.
    AsTransformers,
    /// The converter puts them side by side.
    Neighbours,
}

/// The order of rows of queries, keys and values in one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fused {
    /// As transformers has it, or there is no such matrix.
    AsTransformers,
    /// All queries, all keys, all values, where transformers has each head of keys and values behind its queries.
    Parts,
}

/// The kind of a model.
pub(super) fn of(gguf: &Gguf) -> Result<&'static Family> {
    const KEY: &str = "general.architecture";
    let metadata = &gguf.metadata;
    let name = metadata.string(KEY)?.ok_or_else(|| metadata.missing(KEY))?;
    FAMILIES.iter().find(|family| family.name == name && (family.is_meant)(gguf)).ok_or_else(|| {
        let mut known: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        known.dedup();
        metadata.unsupported(
            format!("architecture {} is not supported in GGUF files", quote(name)),
            format!("GGUF files of {} are read", known.join(", ")),
        )
    })
}

/// The kind of which a model in other files is, whose config.json says this.
pub(super) fn of_config(model_type: &str, config: &Value) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.model_type == model_type && (family.is_meant_by)(config))
}

/// The `model_type` of every kind, for messages.
pub(super) fn model_types() -> Vec<&'static str> {
    let mut known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    known.sort_unstable();
    known.dedup();
    known
}
