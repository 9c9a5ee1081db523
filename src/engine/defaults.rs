//! What a model says of how it wants to be sampled, and what the pipeline says where the model is silent.
//!
//! Layers, each over the one before: the pipeline's defaults; generation_config.json, or config.json's own fields where
//! that file is absent; config.json's `task_specific_params` for text generation; the user's settings.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::settings::check_alone;
use super::{EarlyStopping, Sampling};
use crate::error::{Error, Result, quote};

/// A model's own settings.
#[derive(Clone, Debug)]
pub(super) struct ModelDefaults {
    /// What the model says, over what the pipeline says.
    merged: Sampling,
    /// What the model says, as it says it.
    said: Map<String, Value>,
    /// Entries that this engine does not know and that would have changed the text.
    pub(super) warnings: Vec<String>,
}

/// Entries of a generation_config.json that change no text: bookkeeping, special tokens that a prompt does not need,
/// caches, and what a decoder-only model cannot use.
const WITHOUT_EFFECT: &[&str] = &[
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "is_assistant",
    "low_memory",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "return_dict_in_generate",
    "return_legacy_cache",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
];

/// Entries that would change the text, with the values at which they do not.
const UNSUPPORTED: &[(&str, &[f64])] = &[
    ("constraints", &[]),
    ("diversity_penalty", &[0.0]),
    ("dola_layers", &[]),
    ("force_words_ids", &[]),
    ("guidance_scale", &[1.0]),
    ("num_beam_groups", &[1.0]),
    ("penalty_alpha", &[0.0]),
    ("remove_invalid_values", &[]),
    ("watermarking_config", &[]),
];

impl ModelDefaults {
    /// Reads what the model's files say.
    pub(super) fn read(config: (&Path, &Value), generation: Option<(&Path, &Value)>) -> Result<ModelDefaults> {
        let mut defaults = ModelDefaults { merged: pipeline_defaults(), said: Map::new(), warnings: Vec::new() };
        match generation {
            Some((path, json)) => {
                let object = json
                    .as_object()
                    .ok_or_else(|| Error::file(path, "expected a JSON object", "the file is damaged; copy it again"))?;
                defaults.push(path, object, Strictness::WarnOfUnknown)?;
            }
            None => {
                if let Some(object) = config.1.as_object() {
                    defaults.push(config.0, object, Strictness::KnownOnly)?;
                }
            }
        }
        if let Some(object) = config.1["task_specific_params"]["text-generation"].as_object() {
            defaults.push(config.0, object, Strictness::WarnOfUnknown)?;
        }
        Ok(defaults)
    }

    fn push(&mut self, path: &Path, object: &Map<String, Value>, strictness: Strictness) -> Result<()> {
        let known = known_settings();
        let (mut layer, mut ineffective) = (Sampling::default(), Vec::new());
        for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
            if known.contains_key(name) {
                let one = Sampling::deserialize(&json!({ name: value })).map_err(|error| {
                    let problem = format!("{}: {error}", quote(name));
                    Error::file(path, problem, "correct the file, or remove the entry")
                })?;
                layer = one.beside(layer);
                self.said.insert(name.clone(), value.clone());
            } else if strictness == Strictness::WarnOfUnknown && has_effect(name, value) {
                ineffective.push(quote(name));
            }
        }
        if let Some((first, more)) = ineffective.split_first() {
            let file = quote(&path.display().to_string());
            let others = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
            self.warnings.push(format!("settings in {file} are not supported and have no effect: {first}{others}"));
        }
        self.merged = layer.over(std::mem::take(&mut self.merged));
        Ok(())
    }

    /// What the model says, checked as a user's settings are; a mistake is its file's.
    pub(super) fn check(&self, path: &Path, vocab_size: usize) -> Result<()> {
        check_alone(&self.merged, vocab_size).map_err(|error| match error {
            Error::Setting { setting, problem, .. } => {
                Error::file(path, format!("`{setting}` {problem}"), "correct the file, or remove the entry")
            }
            other => other,
        })
    }

    /// The model's settings under the user's.
    pub(super) fn under(&self, user: &Sampling) -> Sampling {
        user.clone().over(self.merged.clone())
    }

    /// The model's settings alone, for `info`.
    pub(super) fn of_the_model(&self) -> Map<String, Value> {
        self.said.clone()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Strictness {
    /// A file of settings: what is unknown is worth a word.
    WarnOfUnknown,
    /// config.json, where settings stand among everything else.
    KnownOnly,
}

fn has_effect(name: &str, value: &Value) -> bool {
    if name.starts_with('_') || WITHOUT_EFFECT.contains(&name) || value.is_null() || *value == json!(false) {
        return false;
    }
    match UNSUPPORTED.iter().find(|(known, _)| *known == name) {
        Some((_, neutral)) => !value.as_f64().is_some_and(|value| neutral.contains(&value)),
        None => true,
    }
}

/// New tokens where nobody sets a limit.
pub(super) const PIPELINE_LIMIT: usize = 256;

/// What transformers' text-generation pipeline does when nobody says anything.
fn pipeline_defaults() -> Sampling {
    Sampling {
        max_new_tokens: Some(PIPELINE_LIMIT),
        do_sample: Some(true),
        temperature: Some(0.7),
        top_k: Some(50),
        num_return_sequences: Some(1),
        num_beams: Some(1),
        early_stopping: Some(EarlyStopping::False),
        length_penalty: Some(1.0),
        max_matching_ngram_size: Some(2),
        return_full_text: Some(true),
        skip_special_tokens: Some(true),
        ..Sampling::default()
    }
}

fn known_settings() -> Map<String, Value> {
    match serde_json::to_value(Sampling::default()) {
        Ok(Value::Object(all)) => all,
        _ => unreachable!("a struct serialises to an object"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(config: Value, generation: Option<Value>) -> Result<ModelDefaults> {
        let path = Path::new("generation_config.json");
        ModelDefaults::read((Path::new("config.json"), &config), generation.as_ref().map(|json| (path, json)))
    }

    #[test]
    fn the_user_is_over_the_task_over_the_model_over_the_pipeline() {
        let config = json!({ "task_specific_params": { "text-generation": { "do_sample": true, "max_length": 50 } } });
        let model = defaults(config, Some(json!({ "top_k": 7, "do_sample": false, "temperature": 0.9 }))).unwrap();
        let merged = model.under(&Sampling { top_k: Some(3), ..Sampling::default() });
        assert_eq!((merged.top_k, merged.do_sample, merged.temperature), (Some(3), Some(true), Some(0.9)));
        assert_eq!(
            (merged.max_length, merged.max_new_tokens),
            (Some(50), None),
            "the task's limit replaces the pipeline's"
        );
        let merged = model.under(&Sampling { max_new_tokens: Some(5), ..Sampling::default() });
        assert_eq!((merged.max_length, merged.max_new_tokens), (None, Some(5)), "the user's limit replaces the task's");
    }

    #[test]
    fn config_json_serves_where_generation_config_is_absent() {
        let config = json!({ "eos_token_id": 9, "n_embd": 4, "architectures": ["X"] });
        assert_eq!(defaults(config.clone(), None).unwrap().under(&Sampling::default()).eos_token_id, Some(vec![9]));
        assert_eq!(defaults(config, Some(json!({}))).unwrap().under(&Sampling::default()).eos_token_id, None);
    }

    #[test]
    fn entries_that_would_change_the_text_and_cannot_are_named() {
        let quiet = json!({ "guidance_scale": 1.0, "bos_token_id": 1, "_from_model_config": true, "transformers_version": "4" });
        assert!(defaults(json!({}), Some(quiet)).unwrap().warnings.is_empty());
        let warnings = defaults(json!({}), Some(json!({ "guidance_scale": 1.5, "frobnicate": 3 }))).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].ends_with("`guidance_scale` and 1 more"), "{warnings:?}");
        let error = defaults(json!({}), Some(json!({ "temperature": "hot" }))).unwrap_err().to_string();
        assert!(error.contains("`temperature`"), "{error}");
    }
}
