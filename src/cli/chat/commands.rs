//! `/help` and the other commands of a conversation.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use serde_json::{Map, Value};

use super::super::output::{Usage, figure, note};
use super::talk::{Show, Talk, read_messages, write_messages};
use crate::error::count;
use crate::{FinishReason, Message, Sampling, quote};

/// What a line asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Help,
    System(Option<String>),
    Set(Option<(String, String)>),
    Unset(String),
    Show,
    Regenerate,
    Undo,
    Save(PathBuf),
    Load(PathBuf),
    Clear,
    Stats,
    Exit,
    /// A command that is none, and what is wrong with it.
    Wrong(String),
}

/// Whether the conversation goes on.
pub(super) enum Next {
    Go,
    Leave,
}

/// Commands, their arguments, and what they do.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("/help", "", "show this"),
    ("/system", "[TEXT]", "show or set what the model is to keep to; - removes it"),
    ("/set", "[NAME VALUE]", "show the settings, or change one: /set temperature 0.7"),
    ("/unset", "NAME", "leave a setting to the model again"),
    ("/show", "", "show the model, the settings and the conversation"),
    ("/regenerate", "", "ask the last question again"),
    ("/undo", "", "forget the last question and its answer"),
    ("/save", "FILE", "write the conversation to a file, as JSON"),
    ("/load", "FILE", "go on with the conversation of a file"),
    ("/clear", "", "begin anew"),
    ("/stats", "", "show what the last answer took"),
    ("/exit", "", "leave, as Ctrl-D does"),
];

/// What a line is: nothing, a command, or a text for the model. `//` begins a text with one `/`.
pub(super) fn parse(line: &str) -> Option<Result<Command, String>> {
    let text = line.trim();
    if text.is_empty() {
        return None;
    }
    if let Some(rest) = text.strip_prefix("//") {
        return Some(Err(format!("/{rest}")));
    }
    if !text.starts_with('/') {
        return Some(Err(line.to_owned()));
    }
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let file = |make: fn(PathBuf) -> Command| {
        if rest.is_empty() { Command::Wrong(format!("{name} expects a file")) } else { make(PathBuf::from(rest)) }
    };
    let command = match name {
        "/help" | "/?" => Command::Help,
        "/system" => Command::System((!rest.is_empty()).then(|| rest.to_owned())),
        "/set" if rest.is_empty() => Command::Set(None),
        "/set" => match rest.split_once(|c: char| c.is_whitespace() || c == '=') {
            Some((name, value)) => Command::Set(Some((name.to_owned(), value.trim().to_owned()))),
            None => Command::Wrong(format!("/set {rest} expects a value; /unset {rest} leaves it to the model")),
        },
        "/unset" if rest.is_empty() => Command::Wrong("/unset expects the name of a setting".to_owned()),
        "/unset" => Command::Unset(rest.to_owned()),
        "/save" => return Some(Ok(file(Command::Save))),
        "/load" => return Some(Ok(file(Command::Load))),
        "/show" => Command::Show,
        "/regenerate" | "/retry" => Command::Regenerate,
        "/undo" => Command::Undo,
        "/clear" => Command::Clear,
        "/stats" => Command::Stats,
        "/exit" | "/quit" | "/bye" => Command::Exit,
        other => {
            Command::Wrong(format!("there is no command {}; /help shows them, // begins a text with a /", quote(other)))
        }
    };
    let takes_nothing = COMMANDS.iter().any(|(known, argument, _)| *known == name && argument.is_empty());
    if takes_nothing && !rest.is_empty() {
        return Some(Ok(Command::Wrong(format!("{name} takes no argument, found {}", quote(rest)))));
    }
    Some(Ok(command))
}

pub(super) fn run(command: Command, talk: &mut Talk, at_terminal: bool) -> Result<Next> {
    // What nothing on the screen would show.
    let told = |text: &str| {
        if at_terminal {
            note(text);
        }
    };
    match command {
        Command::Help => COMMANDS.iter().for_each(|(name, argument, does)| {
            note(&format!("  {:<20} {does}", format!("{name} {argument}")));
        }),
        Command::System(None) => match &talk.system {
            Some(text) => note(text),
            None => note("there is no system message"),
        },
        Command::System(Some(text)) => {
            let is_removed = text == "-";
            talk.set_system(if is_removed { String::new() } else { text });
            told(if is_removed { "[there is no system message any more]" } else { "[holds from the next answer on]" });
        }
        Command::Set(None) => show_settings(talk),
        Command::Set(Some((name, value))) => {
            let sampling = changed(&talk.sampling, &name, Some(&value))?;
            talk.set_sampling(sampling)?;
        }
        Command::Unset(name) => {
            let sampling = changed(&talk.sampling, &name, None)?;
            talk.set_sampling(sampling)?;
        }
        Command::Show => show(talk),
        Command::Regenerate => {
            let before = talk.messages.last().map(Message::text);
            let given = talk.ask_again(Show::Turn)?;
            if before == Some(given.text) && given.finish != FinishReason::Cancelled {
                told("[the same answer: /set do_sample true and /set temperature 1 draw another]");
            }
        }
        Command::Undo => {
            let question = talk.undo()?;
            told(&format!("[forgot {}]", quote(&question)));
        }
        Command::Save(path) => {
            let messages = talk.everything();
            write_messages(&path, &messages)?;
            if at_terminal {
                note(&format!("wrote {} to {}", count(messages.len(), "message"), quote(&path.display().to_string())));
            }
        }
        Command::Load(path) => {
            talk.replace(read_messages(&path)?);
            if at_terminal {
                note(&format!("read {}", count(talk.everything().len(), "message")));
            }
        }
        Command::Clear => {
            talk.clear();
            told(if talk.system.is_some() { "[begun anew; the system message stays]" } else { "[begun anew]" });
        }
        Command::Stats => talk.show_last(),
        Command::Exit => return Ok(Next::Leave),
        Command::Wrong(problem) => bail!(problem),
    }
    Ok(Next::Go)
}

/// One setting as a flag of the command line, so that it is read and refused in the same way.
#[derive(Parser)]
#[command(name = "/set", disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    sampling: Sampling,
}

/// The settings with one of them changed, or left to the model.
fn changed(settings: &Sampling, name: &str, value: Option<&str>) -> Result<Sampling> {
    let name = name.trim_start_matches("--").replace('-', "_");
    let mut all = entries(settings);
    if !all.contains_key(&name) {
        let problem = format!("there is no setting {}", quote(&name));
        return Err(Usage { problem, hint: "/set shows those in force; README has all of them" }.into());
    }
    let mut new = Value::Null;
    if let Some(value) = value {
        let flag = format!("--{}={value}", name.replace('_', "-"));
        let parsed = Line::try_parse_from(["/set", &flag]).map_err(|error| {
            let text = super::super::plain(error).render().to_string();
            let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let problem = lines.join(" ").trim_start_matches("error: ").to_owned();
            Usage { problem, hint: "/set shows the settings" }
        })?;
        new = entries(&parsed.sampling).remove(&name).unwrap_or_default();
    }
    all.insert(name, new);
    Ok(serde_json::from_value(Value::Object(all))?)
}

fn entries(settings: &Sampling) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(all)) => all,
        _ => Map::new(),
    }
}

fn show_settings(talk: &Talk) {
    let given: Map<String, Value> = entries(&talk.sampling).into_iter().filter(|(_, value)| !value.is_null()).collect();
    let of_the_model = &talk.engine().info().defaults;
    for (name, value) in &given {
        figure(name, value);
    }
    for (name, value) in of_the_model.iter().filter(|(name, _)| !given.contains_key(*name)) {
        figure(name, format_args!("{value} (the model's own)"));
    }
    if given.is_empty() && of_the_model.is_empty() {
        note("the pipeline's defaults; see README");
    }
}

fn show(talk: &Talk) {
    note(&talk.introduction());
    show_settings(talk);
    let (used, context) = talk.fill();
    figure("context", format_args!("{used} of {}", count(context, "token")));
    for message in talk.everything() {
        note(&format!("{}: {}", crate::error::line(message.role()), message.text()));
    }
}

/// How a command that is being typed may go on: where the word begins, and the words.
pub(super) fn completions(line: &str) -> (usize, Vec<String>) {
    if !line.starts_with('/') {
        return (0, Vec::new());
    }
    let begin = line.rfind(' ').map_or(0, |at| at + 1);
    let word = &line[begin..];
    let fits = |name: &&str| name.starts_with(word);
    if begin == 0 {
        return (0, COMMANDS.iter().map(|(name, ..)| *name).filter(fits).map(str::to_owned).collect());
    }
    if line[..begin].trim_end() == "/set" || line[..begin].trim_end() == "/unset" {
        let names = entries(&Sampling::default());
        return (begin, names.keys().filter(|name| name.starts_with(word)).cloned().collect());
    }
    (0, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_command_or_a_text() {
        assert_eq!(parse("  "), None);
        assert_eq!(parse("hello "), Some(Err("hello ".to_owned())));
        assert_eq!(parse("//etc/hosts"), Some(Err("/etc/hosts".to_owned())));
        assert_eq!(parse(" /undo "), Some(Ok(Command::Undo)));
        assert_eq!(parse("/system Be brief."), Some(Ok(Command::System(Some("Be brief.".to_owned())))));
        let set = |name: &str, value: &str| Some(Ok(Command::Set(Some((name.to_owned(), value.to_owned())))));
        assert_eq!(parse("/set temperature 0.7"), set("temperature", "0.7"));
        assert_eq!(parse("/set temperature=0.7"), set("temperature", "0.7"));
        for wrong in ["/set temperature", "/unset", "/save", "/frobnicate", "/undo twice"] {
            assert!(matches!(parse(wrong), Some(Ok(Command::Wrong(_)))), "{wrong}");
        }
    }

    #[test]
    fn settings_change_one_at_a_time() {
        let settings = changed(&Sampling::default(), "temperature", Some("0.5")).unwrap();
        let settings = changed(&settings, "stop-strings", Some("a, b")).unwrap();
        let settings = changed(&settings, "do_sample", Some("true")).unwrap();
        assert_eq!((settings.temperature, settings.do_sample), (Some(0.5), Some(true)));
        assert_eq!(settings.stop_strings, Some(vec!["a, b".to_owned()]));
        assert_eq!(changed(&settings, "temperature", None).unwrap().temperature, None);
        for (name, value) in [("temperature", "hot"), ("frobnicate", "1"), ("top_k", "-1")] {
            assert!(changed(&settings, name, Some(value)).is_err(), "{name}");
        }
    }

    #[test]
    fn commands_and_settings_complete() {
        assert_eq!(completions("/re"), (0, vec!["/regenerate".to_owned()]));
        assert_eq!(completions("/set top_h"), (5, vec!["top_h".to_owned()]));
        assert_eq!(completions("hello"), (0, vec![]));
    }
}
