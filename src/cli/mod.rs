//! Words on a screen: one file per verb, each its arguments and what it does with them.
//!
//! stdout carries the answer and nothing else; warnings, timings and errors go to stderr. Exit codes: 0 done, 1 failed,
//! 2 bad usage, 130 on Ctrl-C; a closed pipe ends quietly.

mod allocator;
mod bench;
mod bundle;
mod cache;
mod chat;
mod completions;
mod generate;
mod hub;
mod info;
mod input;
mod model;
mod models;
mod output;
mod progress;
#[cfg(feature = "hub")]
mod pull;
mod quantize;
mod score;
mod tokenize;
mod verify_golden;

use std::ffi::OsString;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::Styles;
use clap::builder::styling::AnsiColor;
use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Run language models on the machine in front of you
#[derive(Parser)]
#[command(name = "fireside", version, styles = STYLES, arg_required_else_help = true, after_help = "Examples:
  fireside generate \"Hello World\"
  fireside generate --model gpt2 --temperature 0 -n 40 \"The capital of France is\"
  fireside chat --model Qwen/Qwen2.5-0.5B-Instruct
  fireside info Qwen/Qwen2.5-0.5B")]
struct Fireside {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Generate(Box<generate::Args>), // by far the largest
    Chat(Box<chat::Args>),
    Tokenize(tokenize::Args),
    #[command(visible_alias = "perplexity")]
    Score(score::Args),
    Info(info::Args),
    Bench(Box<bench::Args>),
    #[cfg(feature = "hub")]
    Pull(pull::Args),
    Models(models::Args),
    VerifyGolden(verify_golden::Args),
    Cache(cache::Args),
    Quantize(quantize::Args),
    Export(bundle::ExportArgs),
    Import(bundle::ImportArgs),
    Completions(completions::Args),
}

/// Continue a text: `fireside generate` under its own name
#[derive(Parser)]
#[command(name = "generate", version, styles = STYLES, about = "Continue a text", after_help = generate::EXAMPLES)]
struct Generate {
    #[command(flatten)]
    args: generate::Args,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Green.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs the command `fireside`.
pub fn fireside() -> ExitCode {
    with_arguments(|parsed: Fireside| match parsed.verb {
        Verb::Generate(args) => generate::run(*args),
        Verb::Chat(args) => chat::run(*args),
        Verb::Tokenize(args) => tokenize::run(args),
        Verb::Score(args) => score::run(args),
        Verb::Info(args) => info::run(args),
        Verb::Bench(args) => bench::run(*args),
        #[cfg(feature = "hub")]
        Verb::Pull(args) => pull::run(args),
        Verb::Models(args) => models::run(args),
        Verb::VerifyGolden(args) => verify_golden::run(args),
        Verb::Cache(args) => cache::run(args),
        Verb::Quantize(args) => quantize::run(args),
        Verb::Export(args) => bundle::export(args),
        Verb::Import(args) => bundle::import(args),
        Verb::Completions(args) => completions::run(args),
    })
}

/// Runs the command `generate`.
pub fn generate() -> ExitCode {
    with_arguments(|parsed: Generate| generate::run(parsed.args))
}

/// Parses the arguments and runs the command, or says what is wrong with them and exits with 2. `--help` and `--version`
/// are answers like any other.
fn with_arguments<C: CommandFactory + FromArgMatches>(run: impl FnOnce(C) -> Result<()>) -> ExitCode {
    allocator::keep_freed_memory();
    output::on_interrupt_exit();
    let command = complete(C::command());
    let loose = loose_values(&command, std::env::args_os());
    let parsed = command
        .try_get_matches()
        .and_then(|matches| C::from_arg_matches(&matches).map_err(|error| error.format(&mut C::command())));
    match parsed {
        Ok(parsed) => {
            loose.iter().for_each(output::warning);
            output::finish(run(parsed))
        }
        Err(error) if error.use_stderr() => plain(error).exit(),
        Err(page) => output::finish(output::answer_page(&page)),
    }
}

/// What is said of `--do-sample false`, where `false` is a word of the text and not the setting.
fn loose_values(command: &clap::Command, args: impl Iterator<Item = OsString>) -> Vec<String> {
    let verbs = command.get_subcommands().chain([command]);
    let flags: Vec<String> = verbs
        .flat_map(clap::Command::get_arguments)
        .filter(|arg| arg.is_require_equals_set())
        .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
        .collect();
    let args: Vec<String> = args.map_while(|arg| arg.into_string().ok()).take_while(|arg| arg != "--").collect();
    let is_value = |word: &str| ["true", "false", "left", "right"].contains(&word);
    args.windows(2)
        .filter(|pair| flags.contains(&pair[0]) && is_value(&pair[1]))
        .map(|pair| format!("`{1}` is part of the text; `{0}={1}` is the setting", pair[0], pair[1]))
        .collect()
}

/// The same error where it says how a number is parsed and not what is expected.
fn plain(error: clap::Error) -> clap::Error {
    let source = std::error::Error::source(&error);
    let expected = match source.and_then(|source| source.downcast_ref::<ParseIntError>()).map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow | IntErrorKind::NegOverflow) => "the number is too large",
        Some(_) => "expected a whole number, 0 or more",
        None if source.is_some_and(|source| source.is::<ParseFloatError>()) => "expected a number",
        None => return error,
    };
    let of = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let (value, arg) = (of(ContextKind::InvalidValue), of(ContextKind::InvalidArg));
    clap::Error::raw(ErrorKind::ValueValidation, format!("invalid value '{value}' for '{arg}': {expected}\n"))
}

/// `--temperature -1` is a wrong temperature and no unknown flag; `-5 degrees` is a text.
fn complete(command: clap::Command) -> clap::Command {
    let takes_negative_numbers = |arg: clap::Arg| {
        let takes_a_value = arg.is_positional() || arg.get_action().takes_values();
        if takes_a_value { arg.allow_negative_numbers(true) } else { arg }
    };
    command.mut_args(takes_negative_numbers).mut_subcommands(|verb| verb.mut_args(takes_negative_numbers))
}

/// All of `fireside`'s command line, for completions and for the tests that hold it against the documentation.
pub fn command() -> clap::Command {
    complete(Fireside::command())
}

/// All of `generate`'s command line.
pub fn generate_command() -> clap::Command {
    complete(Generate::command())
}
