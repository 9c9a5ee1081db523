//! One request, checked: a prompt becomes tokens that fit, its settings become a task.

use std::sync::Arc;

use super::constraint::Constraint;
use super::defaults::PIPELINE_LIMIT;
use super::generation::PromptText;
use super::line::Rules;
use super::load::Loaded;
use super::sampler::Sampler;
use super::sampling::{Sampling, Truncation};
use super::scheduler::{Task, take_tail};
use super::settings::{Against, Settings};
use crate::error::{Error, Result, count};

/// What a generation continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text, tokenised by the model's tokenizer.
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<u32>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt::Text(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Prompt {
        Prompt::Text(text)
    }
}

impl From<&String> for Prompt {
    fn from(text: &String) -> Prompt {
        Prompt::Text(text.clone())
    }
}

impl From<&[u32]> for Prompt {
    fn from(tokens: &[u32]) -> Prompt {
        Prompt::Tokens(tokens.to_vec())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Prompt {
        Prompt::Tokens(tokens)
    }
}

impl Loaded {
    /// Turns one request into a task: its prompt into tokens, its settings into what cannot be wrong.
    pub(super) fn task(
        &self,
        request: usize,
        prompt: Prompt,
        user: &Sampling,
        warnings: &mut Vec<String>,
    ) -> Result<(Task, PromptText)> {
        let merged = self.defaults.under(user);
        if let (Prompt::Text(text), None | Some(Truncation::Off)) = (&prompt, merged.truncation) {
            let least = self.tokenizer.fewest_tokens(text); // so that megabytes are refused before they are tokenised
            if least >= self.context {
                return Err(self.too_long(&format!("at least {least}")));
            }
        }
        let (mut tokens, text) = self.tokens_of(prompt, merged.skip_special_tokens.unwrap_or(true))?;
        if tokens.is_empty() {
            return Err(self.nothing_to_continue());
        }
        let found = tokens.len();
        self.fit(&mut tokens, &merged, user)?;
        if tokens.len() < found {
            let end = if merged.truncation == Some(Truncation::Left) { "last" } else { "first" };
            warnings.push(format!("the prompt was cut to the {end} {} of its {found} tokens", tokens.len()));
        }
        let against = Against {
            prompt_tokens: tokens.len(),
            context: self.context,
            vocab_size: self.model.shape().vocab_size,
            tokenizer: &self.tokenizer,
        };
        let settings = Settings::resolve(merged, user, &against, warnings)?;
        let sampler = Sampler::new(&settings, tokens.len(), &self.tokenizer)?;
        let constraint = Constraint::of(&settings.resolved)?;
        let guide = constraint.map(|constraint| self.vocabulary()?.guide(constraint)).transpose()?;
        let prompt = PromptText { text, tokens: tokens.len() };
        let healing = settings.resolved.token_healing == Some(true);
        let heal = if healing { take_tail(&mut tokens, self)? } else { None };
        if healing && heal.is_none() {
            warnings.push("`token_healing` has no effect: no longer token begins with the prompt's last one, or it is the only one".to_owned());
        }
        let rules = Rules { request, settings, sampler, tokenizer: Arc::clone(&self.tokenizer), guide, deadline: None };
        Ok((Task::new(rules, tokens, heal), prompt))
    }

    /// The tokens of a text, none for an empty one, and the text.
    pub(super) fn tokens_of(&self, prompt: Prompt, skip_special_tokens: bool) -> Result<(Vec<u32>, String)> {
        let (tokens, text) = match prompt {
            Prompt::Text(text) => (self.tokenizer.encode(&text)?, text),
            Prompt::Tokens(tokens) => {
                let text = self.tokenizer.decode(&tokens, skip_special_tokens);
                (tokens, text)
            }
        };
        let vocab = self.model.shape().vocab_size;
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::prompt(
                format!("the prompt holds the token {id}, expected ids below {vocab}"),
                "`fireside tokenize` shows the ids of a text",
            ));
        }
        Ok((tokens, text))
    }

    fn nothing_to_continue(&self) -> Error {
        let ends = self.defaults.under(&Sampling::default()).eos_token_id;
        let start = ends.and_then(|ids| self.tokenizer.name(*ids.first()?));
        let hint = match start {
            Some(name) => format!("pass a text to continue; `{name}` starts from nothing"),
            None => "pass a text to continue".to_owned(),
        };
        Error::prompt("the prompt is empty, expected at least one token", hint)
    }

    /// A prompt's tokens, which fit the context.
    pub(super) fn prompt_tokens(&self, prompt: Prompt) -> Result<Vec<u32>> {
        let (tokens, _) = self.tokens_of(prompt, false)?;
        if tokens.is_empty() || tokens.len() > self.context {
            let found = count(tokens.len(), "token");
            return Err(Error::prompt(
                format!("the text has {found}, expected from 1 to {}, the model's context", self.context),
                if tokens.is_empty() { "pass a longer text" } else { "shorten it" },
            ));
        }
        Ok(tokens)
    }

    fn too_long(&self, found: &str) -> Error {
        let most = self.context - 1;
        Error::prompt(
            format!(
                "the prompt has {found} tokens, expected at most {most}: the model's context holds {}",
                self.context
            ),
            "shorten it, or cut it with `--truncation=left` (keeps its end) or `--truncation=right` (keeps its start)",
        )
    }

    /// Cuts a prompt that is too long where that was asked for, so that the new tokens fit behind it.
    fn fit(&self, tokens: &mut Vec<u32>, merged: &Sampling, user: &Sampling) -> Result<()> {
        let found = tokens.len();
        let side = merged.truncation.unwrap_or(Truncation::Off);
        if side == Truncation::Off {
            if found < self.context {
                return Ok(());
            }
            return Err(self.too_long(&found.to_string()));
        }
        // Limits that the user did not set give way: at least half the context is left to the prompt.
        let unasked = merged.max_new_tokens.unwrap_or(PIPELINE_LIMIT).min(self.context / 2);
        let (new, room) = match (user.max_new_tokens, user.max_length) {
            (Some(new), _) => (new, self.context.saturating_sub(new)),
            (None, Some(length)) => (1, length.min(self.context).saturating_sub(1)),
            (None, None) => (unasked, self.context - unasked),
        };
        if found <= room || room == 0 && found < self.context {
            return Ok(()); // it fits, or the new tokens take what room there is
        }
        if room == 0 {
            return Err(Error::setting(
                "truncation",
                format!(
                    "leaves no room for a prompt: the context holds {} tokens and `max_new_tokens` is {new}",
                    self.context
                ),
                "ask for fewer new tokens",
            ));
        }
        match side {
            Truncation::Left => drop(tokens.drain(..found.saturating_sub(room))),
            Truncation::Right | Truncation::Off => tokens.truncate(room),
        }
        Ok(())
    }
}
