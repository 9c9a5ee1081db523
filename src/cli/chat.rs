//! `fireside chat`: a conversation with a model, at a terminal, from a pipe, or one question and its answer.
//!
//! stdout carries the model's answers and nothing else, so that a script may read them; what is said about them goes to
//! stderr.

mod commands;
mod input;
mod talk;

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::input::{TextArgs, read_file};
use super::model::{ModelArgs, describe, warn};
use super::output::{Usage, answer_json, complain, is_closed_pipe, note};
use crate::{ChatOptions, Message, Sampling};
use commands::Next;
use input::Lines;
use talk::{Show, Talk};

/// Talk with a model
///
/// At a terminal turn follows turn: /help shows the commands, a line that ends with \ goes on, """ begins and ends several
/// lines, Ctrl-C stops an answer, Ctrl-D leaves. With a question, or one from a pipe, its answer is all that is printed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside chat --model Qwen/Qwen2.5-0.5B-Instruct
  fireside chat -m Qwen/Qwen3-0.6B --no-think \"What is the capital of France?\"
  cat changes.diff | fireside chat -m my-model --system \"Write a commit title.\"")]
pub(super) struct Args {
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sampling: Sampling,
    /// What the model is to keep to
    #[arg(long, value_name = "TEXT", help_heading = "Chat")]
    system: Option<String>,
    /// Begin with the messages of a file, such as /save writes: JSON, [{"role": …, "content": …}, …]
    #[arg(long, value_name = "FILE", help_heading = "Chat")]
    load: Option<PathBuf>,
    /// Use another chat template, in Jinja
    #[arg(long, value_name = "FILE", help_heading = "Chat")]
    chat_template: Option<PathBuf>,
    /// Give the template a variable; the value is JSON or a text; may be repeated
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Chat")]
    template_arg: Vec<TemplateArg>,
    /// Ask a model that can think not to: --template-arg enable_thinking=false
    #[arg(long, help_heading = "Chat")]
    no_think: bool,
    /// Read turns and commands line by line from a pipe too
    #[arg(long, conflicts_with_all = ["words", "file", "json"], help_heading = "Chat")]
    interactive: bool,
    /// Neither read nor keep the lines that were typed
    #[arg(long, help_heading = "Chat")]
    no_history: bool,
    /// Print one answer as JSON: the message, why it ended, and how many tokens it took
    #[arg(long, help_heading = "Prompt and output")]
    json: bool,
    /// Print model, settings and speed, on stderr
    #[arg(short, long, help_heading = "Prompt and output")]
    verbose: bool,
}

/// A variable for a template.
#[derive(Clone)]
struct TemplateArg(String, Value);

impl std::str::FromStr for TemplateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.trim().is_empty())
            .ok_or("expected a name, `=` and a value, such as `enable_thinking=false`")?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        Ok(TemplateArg(key.trim().to_owned(), value))
    }
}

pub(super) fn run(args: Args) -> Result<()> {
    warn(&check(&args.sampling)?);
    let at_terminal =
        args.text.is_empty() && !args.json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let talks = args.interactive || at_terminal;
    let question = if talks { None } else { Some(args.text.read_prompt()?) };
    if question.as_ref().is_some_and(|question| question.trim().is_empty()) {
        let problem = "expected a question, found none".to_owned();
        return Err(Usage { problem, hint: "pass it as an argument, with `--file`, or through a pipe" }.into());
    }
    let variables = variables(&args)?;
    let loaded = args.load.as_deref().map(talk::read_messages).transpose()?;
    let mut builder = args.model.machine.builder(&args.model.model)?;
    if let Some(path) = &args.chat_template {
        builder = builder.chat_template(read_file(path)?);
    }
    let engine = builder.load(&args.model.model)?;
    warn(engine.warnings());
    if args.verbose {
        describe(&engine);
    }
    let options = ChatOptions { variables, ..ChatOptions::default() };
    let mut talk = Talk::new(&engine, options, args.sampling.clone(), args.verbose);
    if let Some(messages) = loaded {
        talk.replace(messages);
    }
    if let Some(system) = args.system {
        talk.set_system(system);
    }
    talk.warn_of_no_effect();
    match question {
        Some(question) => one_answer(&mut talk, question, args.json),
        None => converse(&mut talk, Lines::new(at_terminal, !args.no_history)),
    }
}

/// What the template is given, each of it once.
fn variables(args: &Args) -> Result<Map<String, Value>> {
    let thinking = args.no_think.then(|| ("enable_thinking".to_owned(), json!(false)));
    let given = args.template_arg.iter().map(|TemplateArg(key, value)| (key.clone(), value.clone())).chain(thinking);
    let mut variables = Map::new();
    for (key, value) in given {
        let problem = format!("`template_arg` gives {} twice", crate::quote(&key));
        if variables.insert(key, value).is_some() {
            let hint = "leave out one of the two; `--no-think` is `--template-arg enable_thinking=false`";
            return Err(Usage { problem, hint }.into());
        }
    }
    Ok(variables)
}

/// Settings that a conversation has no place for.
fn check(sampling: &Sampling) -> Result<Vec<String>> {
    if sampling.num_return_sequences.is_some_and(|count| count > 1) {
        let problem = "`num_return_sequences` is above 1, but a question gets one answer".to_owned();
        return Err(Usage { problem, hint: "leave it out, or use `generate` for several texts" }.into());
    }
    let without_effect = [
        ("logprobs", sampling.logprobs == Some(true)),
        ("top_logprobs", sampling.top_logprobs.is_some()),
        ("prompt_logprobs", sampling.prompt_logprobs == Some(true)),
        ("return_full_text", sampling.return_full_text == Some(true)),
    ];
    let asked = without_effect.into_iter().filter(|(_, is_asked)| *is_asked);
    Ok(asked.map(|(setting, _)| format!("`{setting}` has no effect in a conversation")).collect())
}

fn one_answer(talk: &mut Talk, question: String, as_json: bool) -> Result<()> {
    if !as_json {
        return talk.ask(question, Show::Text).map(drop);
    }
    let given = talk.ask(question, Show::Nothing)?;
    answer_json(&json!({
        "message": Message::assistant(given.text),
        "finish_reason": given.finish,
        "usage": {
            "prompt_tokens": given.prompt_tokens,
            "cached_tokens": given.cached_tokens,
            "completion_tokens": given.new_tokens,
        },
        "timings": { "first_token_ms": given.first_token.as_secs_f64() * 1e3, "total_ms": given.total.as_secs_f64() * 1e3 },
    }))
}

/// Turn after turn, until the input ends or somebody leaves.
fn converse(talk: &mut Talk, mut lines: Lines) -> Result<()> {
    if lines.at_terminal() {
        note(&format!("{}. /help shows the commands, Ctrl-D leaves.", talk.introduction()));
    }
    while let Some(line) = lines.next()? {
        let outcome = match commands::parse(&line) {
            None => Ok(()),
            Some(Ok(command)) => match commands::run(command, talk, lines.at_terminal()) {
                Ok(Next::Leave) => break,
                Ok(Next::Go) => Ok(()),
                Err(error) => Err(error),
            },
            Some(Err(text)) => talk.ask(text, Show::Turn).map(drop),
        };
        match outcome {
            // A script's next lines build on this one; a person sees what went wrong and goes on.
            Err(error) if lines.at_terminal() && !is_closed_pipe(&error) => complain(&error),
            outcome => outcome?,
        }
    }
    Ok(())
}
