//! Turns, as they are typed or as they come through a pipe.

use std::borrow::Cow;
use std::io::{BufRead, ErrorKind};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use rustyline::completion::Completer;
use rustyline::config::Configurer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, Context, Editor, EventHandler, Helper, KeyCode, KeyEvent, Modifiers};

use super::super::output::{note, warning};
use super::commands;

/// Where turns come from.
pub(super) enum Lines {
    Terminal { editor: Box<Editor<Assistance, DefaultHistory>>, history: Option<PathBuf> },
    Pipe,
}

/// What opens and closes a turn of several lines.
const FENCE: &str = "\"\"\"";
const PROMPT: &str = "> ";
/// Lines that the history keeps.
const KEPT: usize = 1000;

impl Lines {
    /// An editor where somebody sits at a terminal that can do that.
    pub(super) fn new(at_terminal: bool, keep_history: bool) -> Lines {
        if !at_terminal {
            return Lines::Pipe;
        }
        match Lines::editor(keep_history) {
            Ok(lines) => lines,
            Err(error) => {
                warning(format_args!("lines cannot be edited here: {error}"));
                Lines::Pipe
            }
        }
    }

    fn editor(keep_history: bool) -> rustyline::Result<Lines> {
        let mut editor: Editor<Assistance, DefaultHistory> = Editor::new()?;
        editor.set_helper(Some(Assistance));
        editor.set_auto_add_history(true);
        editor.set_max_history_size(KEPT)?;
        // Not Ctrl-J: it is what Enter becomes where somebody types on while an answer is written.
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), EventHandler::Simple(Cmd::Newline));
        let history = if keep_history { history_file() } else { None };
        if let Some(path) = &history
            && path.exists()
            && let Err(error) = editor.load_history(path)
        {
            warning(format_args!("the history {} cannot be read: {error}", crate::quote(&path.display().to_string())));
        }
        Ok(Lines::Terminal { editor: Box::new(editor), history })
    }

    pub(super) fn at_terminal(&self) -> bool {
        matches!(self, Lines::Terminal { .. })
    }

    /// The next turn, whole; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<String>> {
        let Lines::Terminal { editor, history } = self else { return from_pipe() };
        loop {
            match editor.readline(PROMPT) {
                Ok(turn) => {
                    if let Some(path) = history
                        && let Err(error) = keep(editor, path)
                    {
                        warning(format_args!("the history is not kept: {error}"));
                        *history = None;
                    }
                    return Ok(Some(unfenced(&turn)));
                }
                Err(ReadlineError::Interrupted) => note("Ctrl-D or /exit leaves."),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    warning("what was typed is no UTF-8 text, and was left out");
                }
                Err(error) => return Err(error).context("cannot read the terminal"),
            }
        }
    }
}

fn keep(editor: &mut Editor<Assistance, DefaultHistory>, path: &PathBuf) -> rustyline::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if path.exists() { editor.append_history(path) } else { editor.save_history(path) }
}

/// `$XDG_STATE_HOME/fireside/chat_history`, where state that is no configuration belongs.
fn history_file() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = from("XDG_STATE_HOME")
        .or_else(|| from("LOCALAPPDATA"))
        .or_else(|| from("HOME").map(|home| home.join(".local/state")))?;
    Some(folder.join("fireside").join("chat_history"))
}

fn from_pipe() -> Result<Option<String>> {
    let mut turn = String::new();
    loop {
        let before = turn.len();
        let read = std::io::stdin().lock().read_line(&mut turn).context("cannot read stdin")?;
        if read == 0 {
            return Ok((before > 0).then(|| unfenced(&turn)));
        }
        turn.truncate(turn.trim_end_matches(['\n', '\r']).len().max(before));
        if is_complete(&turn) {
            return Ok(Some(unfenced(&turn)));
        }
        turn.push('\n');
    }
}

/// False while more lines belong to the turn.
fn is_complete(turn: &str) -> bool {
    match turn.trim_start().strip_prefix(FENCE) {
        Some(rest) => rest.contains(FENCE),
        None => !turn.ends_with('\\'),
    }
}

/// The turn without what held its lines together.
fn unfenced(turn: &str) -> String {
    match turn.trim_start().strip_prefix(FENCE) {
        Some(rest) => {
            let inside = rest.split_once(FENCE).map_or(rest, |(inside, _)| inside);
            inside.strip_prefix('\n').unwrap_or(inside).trim_end_matches('\n').to_owned()
        }
        None => turn.replace("\\\n", "\n").trim_end_matches('\\').to_owned(),
    }
}

/// What the editor knows of our lines: when they are whole, and how commands go on.
pub(super) struct Assistance;

impl Validator for Assistance {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if is_complete(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for Assistance {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(commands::completions(&line[..at]))
    }
}

impl Hinter for Assistance {
    type Hint = String;
}

impl Highlighter for Assistance {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}

impl Helper for Assistance {}

#[cfg(test)]
mod tests {
    use super::{is_complete, unfenced};

    #[test]
    fn a_turn_is_a_line_unless_it_says_that_it_goes_on() {
        let check = |turn: &str, expected: Option<&str>| {
            assert_eq!(is_complete(turn).then(|| unfenced(turn)).as_deref(), expected, "{turn:?}");
        };
        check("hello", Some("hello"));
        check("", Some(""));
        check("hello \\", None);
        check("hello \\\nworld", Some("hello \nworld"));
        check("\"\"\"", None);
        check("\"\"\"\na\nb", None);
        check("\"\"\"\na\n\nb\n\"\"\"", Some("a\n\nb"));
        check("\"\"\"a\nb\"\"\"", Some("a\nb"));
        check("say \"\"\"", Some("say \"\"\""));
    }
}
