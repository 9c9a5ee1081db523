//! Conversations: messages in, an answer out, by way of the model's chat template.

use super::load::Loaded;
use super::{Engine, Generation, Sampling, Session};
use crate::error::{Error, Result, quote};
use crate::text::{ChatOptions, ChatPrompt, ChatTemplate, Message};

impl Engine {
    /// Answers a conversation. The text that comes is the answer alone; it ends with the model's turn, or with the context
    /// where nobody sets a limit.
    ///
    /// ```no_run
    /// use fireside::{Engine, Message, Sampling};
    ///
    /// let mut engine = Engine::load("Qwen/Qwen2.5-0.5B-Instruct")?;
    /// let messages = [Message::system("Answer in one word."), Message::user("What is the capital of France?")];
    /// for piece in engine.chat(&messages, Sampling::default())? {
    ///     print!("{}", piece?);
    /// }
    /// # Ok::<(), fireside::Error>(())
    /// ```
    ///
    /// [`Session::chat`] does the same and does not read the conversation anew at each turn.
    pub fn chat(&mut self, messages: &[Message], sampling: Sampling) -> Result<Generation> {
        self.chat_with(messages, &ChatOptions::default(), sampling)
    }

    /// The same, with tools, documents or variables for the template.
    pub fn chat_with(&mut self, messages: &[Message], options: &ChatOptions, sampling: Sampling) -> Result<Generation> {
        let prompt = self.chat_prompt(messages, options)?;
        let sampling = self.loaded.chat_settings(&prompt, sampling)?;
        self.generate(prompt.tokens, sampling)
    }

    /// What the model would read of a conversation: its text and tokens.
    pub fn chat_prompt(&self, messages: &[Message], options: &ChatOptions) -> Result<ChatPrompt> {
        self.loaded.chat_template()?.prompt(&self.loaded.tokenizer, messages, options)
    }

    /// The model's chat template, where it has one that parses.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.loaded.chat_template().ok()
    }
}

impl Session {
    /// Answers a conversation, as [`Engine::chat`] does; of one that goes on, only what is new is computed.
    pub fn chat(&mut self, messages: &[Message], sampling: Sampling) -> Result<Generation> {
        self.chat_with(messages, &ChatOptions::default(), sampling)
    }

    /// The same, with tools, documents or variables for the template.
    pub fn chat_with(&mut self, messages: &[Message], options: &ChatOptions, sampling: Sampling) -> Result<Generation> {
        let prompt = self.engine().chat_prompt(messages, options)?;
        self.answer(prompt, sampling)
    }

    /// Answers a conversation that [`Engine::chat_prompt`] made a prompt of.
    pub fn answer(&mut self, prompt: ChatPrompt, sampling: Sampling) -> Result<Generation> {
        let sampling = self.engine().loaded.chat_settings(&prompt, sampling)?;
        self.generate(prompt.tokens, sampling)
    }
}

impl Loaded {
    fn chat_template(&self) -> Result<&ChatTemplate> {
        let hint = "continue a text with `generate`, or give a template with `--chat-template FILE`";
        match &self.chat {
            Ok(template) if template.is_some() => Ok(template),
            Ok(_) => Err(Error::prompt(format!("{} has no chat template", quote(&self.info.name)), hint)),
            Err(problem) => Err(Error::prompt(problem, hint)),
        }
    }

    /// The settings of a chat: the answer alone, up to the end of the turn.
    fn chat_settings(&self, prompt: &ChatPrompt, user: Sampling) -> Result<Sampling> {
        let template = self.chat_template()?;
        let mut sampling = user;
        sampling.return_full_text.get_or_insert(false);
        if sampling.eos_token_id.is_none() && sampling.ignore_eos != Some(true) {
            let mut eos = self.defaults.under(&Sampling::default()).eos_token_id.unwrap_or_default();
            let end = *self.end_of_turn.get_or_init(|| template.end_of_turn(&self.tokenizer));
            eos.extend(end.filter(|end| !eos.contains(end)));
            sampling.eos_token_id = (!eos.is_empty()).then_some(eos);
        }
        let said = self.defaults.of_the_model();
        let limited = |name: &str| said.contains_key(name);
        if sampling.max_new_tokens.is_none()
            && sampling.max_length.is_none()
            && !limited("max_new_tokens")
            && !limited("max_length")
        {
            sampling.max_new_tokens = Some(self.context.saturating_sub(prompt.tokens.len()).max(1));
        }
        Ok(sampling)
    }
}
