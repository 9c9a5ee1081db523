//! One conversation: what was said, what the model still reads of it, and the next answer.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::super::input::read_file;
use super::super::model::warn;
use super::super::output::{answer, figure, interrupt_cancels, note, warning};
use crate::error::{count, line};
use crate::whole::WholeFile;
use crate::{ChatOptions, ChatPrompt, Engine, FinishReason, Generation, Message, Prompt, Sampling, Session, quote};

/// What the user sees of an answer while it comes.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Show {
    Nothing,
    Text,
    /// The text, and why it ended early; Ctrl-C stops it and not the program.
    Turn,
}

/// An answer and what it cost.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) finish: FinishReason,
    pub(super) prompt_tokens: usize,
    pub(super) cached_tokens: usize,
    pub(super) new_tokens: usize,
    pub(super) first_token: Duration,
    pub(super) total: Duration,
}

pub(super) struct Talk {
    session: Session,
    options: ChatOptions,
    pub(super) sampling: Sampling,
    pub(super) system: Option<String>,
    pub(super) messages: Vec<Message>,
    /// Messages at the start that the model no longer reads, since the context is full.
    unread: usize,
    pub(super) last: Option<Given>,
    /// How often the last question was asked anew.
    attempts: u64,
    /// What was said of the settings when one of them changed last.
    told: Vec<String>,
    verbose: bool,
}

impl Talk {
    pub(super) fn new(engine: &Engine, options: ChatOptions, sampling: Sampling, verbose: bool) -> Talk {
        Talk {
            session: engine.session(),
            options,
            sampling,
            system: None,
            messages: Vec::new(),
            unread: 0,
            last: None,
            attempts: 0,
            told: Vec::new(),
            verbose,
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        self.session.engine()
    }

    /// Without a template the model goes on with a text and knows no conversation.
    pub(super) fn has_template(&self) -> bool {
        self.engine().chat_template().is_some()
    }

    pub(super) fn introduction(&self) -> String {
        let info = self.engine().info();
        format!("{}, {} tokens of context", crate::error::line(&info.name), info.context)
    }

    /// Says what was given and changes nothing.
    pub(super) fn warn_of_no_effect(&self) {
        let Some(template) = self.engine().chat_template() else {
            if let Err(error) = self.engine().chat_prompt(&[Message::user("x")], &ChatOptions::default()) {
                warning(format_args!("{error}, so the model goes on with your text instead of answering it"));
            }
            if self.system.is_some() || !self.messages.is_empty() || !self.options.variables.is_empty() {
                warning("a system message, a conversation and variables have no effect without a chat template");
            }
            return;
        };
        let source = template.source().unwrap_or_default();
        for name in self.options.variables.keys().filter(|name| !source.contains(name.as_str())) {
            warning(format_args!("{} has no effect: the chat template does not mention it", quote(name)));
        }
    }

    pub(super) fn set_system(&mut self, text: String) {
        self.system = (!text.is_empty()).then_some(text);
    }

    /// Another conversation takes the place of this one.
    pub(super) fn replace(&mut self, mut messages: Vec<Message>) {
        self.clear();
        self.system = None;
        if messages.first().is_some_and(|first| first.role() == "system") {
            self.system = Some(messages.remove(0).text());
        }
        self.messages = messages;
    }

    pub(super) fn clear(&mut self) {
        self.messages.clear();
        self.session.clear();
        (self.unread, self.last, self.attempts) = (0, None, 0);
    }

    /// All of it, the system message included.
    pub(super) fn everything(&self) -> Vec<Message> {
        self.from(0)
    }

    fn from(&self, start: usize) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::system(text.as_str()));
        system.chain(self.messages[start..].iter().cloned()).collect()
    }

    /// Asks, and keeps question and answer.
    pub(super) fn ask(&mut self, question: String, show: Show) -> Result<Given> {
        self.attempts = 0;
        self.messages.push(Message::user(question));
        self.answer(show)
    }

    /// Asks the last question again.
    pub(super) fn ask_again(&mut self, show: Show) -> Result<Given> {
        let Some(at) = self.messages.iter().rposition(|message| message.role() == "user") else {
            bail!("there is no question yet that could be asked again");
        };
        let before = self.messages.clone();
        self.messages.truncate(at + 1);
        self.attempts += 1;
        let outcome = self.answer(show);
        if self.messages.len() == at {
            self.messages = before; // nothing came in place of the answer
        }
        outcome
    }

    /// Forgets the last question, which it gives, and its answer.
    pub(super) fn undo(&mut self) -> Result<String> {
        let Some(at) = self.messages.iter().rposition(|message| message.role() == "user") else {
            bail!("there is nothing to undo");
        };
        let question = self.messages[at].text();
        self.messages.truncate(at);
        self.unread = self.unread.min(at);
        self.attempts = 0;
        Ok(question)
    }

    /// Answers the last message. A question without an answer does not stay.
    fn answer(&mut self, show: Show) -> Result<Given> {
        let outcome = self.begin().and_then(|generation| self.receive(generation, show));
        match outcome {
            Ok(given) if given.finish != FinishReason::Cancelled || !given.text.is_empty() => {
                self.messages.push(Message::assistant(given.text.as_str()));
                self.last = Some(given.clone());
                Ok(given)
            }
            other => {
                self.messages.pop();
                self.unread = self.unread.min(self.messages.len());
                other
            }
        }
    }

    fn begin(&mut self) -> Result<Generation> {
        let mut sampling = self.sampling.clone();
        // The same seed would give the same answer.
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(self.attempts));
        let generation = if self.has_template() {
            let prompt = self.make_room()?;
            self.session.answer(prompt, sampling)?
        } else {
            sampling.return_full_text = Some(false);
            let text = self.messages.last().map(Message::text).unwrap_or_default();
            self.session.generate(text, sampling)?
        };
        let said = self.engine().warnings();
        warn(&generation.warnings().iter().filter(|warning| !said.contains(warning)).cloned().collect::<Vec<_>>());
        Ok(generation)
    }

    /// The prompt, without the oldest turns where the context is full. Then a quarter of it becomes free at once, since all
    /// that stays must be read anew.
    fn make_room(&mut self) -> Result<ChatPrompt> {
        let context = self.engine().info().context;
        let wanted = self.sampling.max_new_tokens.unwrap_or(usize::MAX).min(context / 8);
        let prompt_from = |start: usize| self.engine().chat_prompt(&self.from(start), &self.options);
        let mut prompt = prompt_from(self.unread)?;
        if prompt.tokens.len() + wanted <= context {
            return Ok(prompt);
        }
        // The first question from which on it fits: the later it begins, the shorter it is.
        let questions: Vec<usize> =
            (self.unread + 1..self.messages.len()).filter(|at| self.messages[*at].role() == "user").collect();
        let (mut start, mut low, mut high) = (self.unread, 0, questions.len());
        while low < high {
            let middle = (low + high) / 2;
            let shorter = prompt_from(questions[middle])?;
            let fits = shorter.tokens.len() + wanted <= context - context / 4;
            if fits || middle + 1 == questions.len() {
                (start, prompt) = (questions[middle], shorter);
            }
            if fits { high = middle } else { low = middle + 1 }
        }
        let found = prompt.tokens.len();
        if found >= context {
            bail!(
                "the last message needs {found} tokens with what the template puts around it, and the context holds {context}"
            );
        }
        if start > self.unread {
            let left_out = count(start, "message");
            warning(format_args!(
                "the context of {context} tokens is full: the model no longer reads the oldest {left_out}"
            ));
        }
        self.unread = start;
        Ok(prompt)
    }

    fn receive(&self, mut generation: Generation, show: Show) -> Result<Given> {
        let _stop = (show == Show::Turn).then(|| interrupt_cancels(generation.cancel_handle()));
        let (start, told) = (Instant::now(), generation.warnings().len());
        let mut given = Given {
            text: String::new(),
            finish: FinishReason::Cancelled,
            prompt_tokens: generation.prompt_tokens(0),
            cached_tokens: 0,
            new_tokens: 0,
            first_token: Duration::ZERO,
            total: Duration::ZERO,
        };
        let mut begun = !self.has_template(); // what goes on with a text may begin with a space
        for piece in generation.by_ref() {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    if begun && show != Show::Nothing {
                        answer("\n")?;
                    }
                    return Err(error.into());
                }
            };
            if given.new_tokens == 0 {
                given.first_token = start.elapsed();
            }
            given.new_tokens += 1;
            given.finish = piece.finish.unwrap_or(given.finish);
            given.text.push_str(&piece.text);
            let shown = if begun { piece.text.as_str() } else { piece.text.trim_start() };
            if !shown.is_empty() && show != Show::Nothing {
                begun = true;
                answer(shown)?;
            }
        }
        given.total = start.elapsed();
        let late = generation.warnings()[told..].to_vec();
        given.cached_tokens = generation.cached_tokens(0);
        if show != Show::Nothing {
            answer("\n")?;
        }
        warn(&late);
        if show == Show::Turn {
            match given.finish {
                FinishReason::Cancelled => note("[stopped]"),
                FinishReason::Length if self.has_template() => note("[cut: the limit of tokens is reached]"),
                FinishReason::Time => note("[cut: the time is over]"),
                _ => {}
            }
        }
        if self.verbose {
            show_figures(&given);
        }
        Ok(given)
    }

    /// Takes settings that can hold together; says which have no effect.
    pub(super) fn set_sampling(&mut self, sampling: Sampling) -> Result<()> {
        let mut warnings = super::check(&sampling)?;
        let mut engine = self.engine().clone();
        let trial = engine.generate(Prompt::Tokens(vec![0]), sampling.clone())?;
        let of_the_model = self.engine().warnings();
        warnings.extend(trial.warnings().iter().filter(|warning| !of_the_model.contains(warning)).cloned());
        warn(&warnings.iter().filter(|warning| !self.told.contains(warning)).cloned().collect::<Vec<_>>());
        self.told = warnings;
        self.sampling = sampling;
        Ok(())
    }

    /// Tokens that the conversation takes, and that the context holds.
    pub(super) fn fill(&self) -> (usize, usize) {
        (self.session.cached_tokens(), self.engine().info().context)
    }

    /// What is known of the last answer, a line each.
    pub(super) fn show_last(&self) {
        match &self.last {
            Some(given) => show_figures(given),
            None => note("nothing was answered yet"),
        }
        let (used, context) = self.fill();
        figure("context", format_args!("{used} of {}", count(context, "token")));
    }
}

fn show_figures(given: &Given) {
    let new = given.prompt_tokens - given.cached_tokens;
    figure("prompt", format_args!("{}, {new} of them new", count(given.prompt_tokens, "token")));
    figure("first", format_args!("{:.1} ms to the first token", given.first_token.as_secs_f64() * 1e3));
    let rest = (given.total - given.first_token).as_secs_f64().max(1e-9);
    let speed = given.new_tokens.saturating_sub(1) as f64 / rest;
    figure("answer", format_args!("{} ({speed:.1} tokens/s)", count(given.new_tokens, "token")));
}

/// The messages of a file: a list, or an object with a list `messages`.
pub(super) fn read_messages(path: &Path) -> Result<Vec<Message>> {
    let name = quote(&path.display().to_string());
    let text = read_file(path)?;
    let mut json: Value = serde_json::from_str(&text).with_context(|| format!("{name} is no JSON"))?;
    if let Some(messages) = json.get_mut("messages") {
        json = messages.take();
    }
    serde_json::from_value(json).map_err(|error| anyhow!("{name} is no list of messages: {}", line(&error.to_string())))
}

/// Writes messages to a file, all of it or nothing.
pub(super) fn write_messages(path: &Path, messages: &[Message]) -> Result<()> {
    let name = quote(&path.display().to_string());
    if path.is_file() && read_messages(path).is_err() {
        bail!("cannot write {name}: it is there already, and holds no conversation");
    }
    let text = serde_json::to_string_pretty(messages)? + "\n";
    WholeFile::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.finish()))
        .with_context(|| format!("cannot write {name}"))
}
