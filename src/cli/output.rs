//! The answer on stdout, everything else on stderr, and the exit code.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{CancelHandle, TokenLogprob, Tokenizer};

/// Exit code of a command that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Writes a part of the answer, at once.
pub(super) fn answer(text: &str) -> Result<()> {
    if stdout_was_closed() {
        let closed = io::Error::other("stdout is closed");
        return Err(closed).context("cannot write the answer");
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write the answer")
}

/// Writes a line of the answer that is JSON.
pub(super) fn answer_json(value: &impl serde::Serialize) -> Result<()> {
    answer(&format!("{}\n", serde_json::to_string(value)?))
}

/// Writes a page that clap made, `--help` or `--version`.
pub(super) fn answer_page(page: &clap::Error) -> Result<()> {
    answer("")?;
    page.print().and_then(|()| io::stdout().flush()).context("cannot write the answer")
}

/// A token as JSON, the same in every verb: its id, name in the vocabulary and text, and how likely it was where that is
/// known. Alone, a token that is part of a character has no text of its own, and its name tells it from others.
pub(super) fn token_json(tokenizer: &Tokenizer, id: u32, seen: Option<&TokenLogprob>) -> Value {
    let names = |id: u32| json!({ "id": id, "token": tokenizer.name(id), "text": tokenizer.decode(&[id], false) });
    let mut token = names(id);
    token["special"] = json!(tokenizer.is_special(id));
    if let Some(seen) = seen {
        token["logprob"] = json!(seen.logprob);
        if !seen.top.is_empty() {
            let top = seen.top.iter().map(|(id, logprob)| {
                let mut token = names(*id);
                token["logprob"] = json!(logprob);
                token
            });
            token["top_tokens"] = top.collect();
        }
    }
    token
}

/// Something that the user should know and that stops nothing.
pub(super) fn warning(text: impl Display) {
    note(&format!("{} {text}", paint("warning:", "33;1")));
}

/// A line of figures, for `--verbose`.
pub(super) fn figure(name: &str, text: impl Display) {
    note(&format!("{} {text}", paint(&format!("{name:<9}"), "2")));
}

/// A line on stderr. Where stderr is gone there is nobody to tell.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Coloured for whoever looks at stderr.
fn paint(text: &str, code: &str) -> String {
    let variable = |name| std::env::var_os(name);
    if is_coloured(io::stderr().is_terminal(), variable("NO_COLOR").as_deref(), variable("TERM").as_deref()) {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Colour on a terminal, unless `NO_COLOR` is set or the terminal has none.
fn is_coloured(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty) && term.is_none_or(|term| term != "dumb")
}

/// Says how it went.
pub(super) fn finish(outcome: Result<()>) -> ExitCode {
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    if is_closed_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    complain(&error);
    let known = error.downcast_ref::<crate::Error>();
    let usage = error.downcast_ref::<Usage>();
    if usage.is_some() || known.is_some_and(crate::Error::is_usage) { ExitCode::from(2) } else { ExitCode::FAILURE }
}

/// Says what went wrong, and what to do about it.
pub(super) fn complain(error: &anyhow::Error) {
    note(&format!("{} {error:#}", paint("error:", "31;1")));
    let known = error.downcast_ref::<crate::Error>();
    let usage = error.downcast_ref::<Usage>();
    if let Some(hint) = known.and_then(crate::Error::hint).or(usage.map(|usage| usage.hint)) {
        note(&format!("\n{} {hint}", paint("hint:", "36;1")));
    }
}

/// The reader has what it wants, as in `generate … | head -c 80`.
pub(super) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

/// Arguments that do not go together.
#[derive(Debug)]
pub(super) struct Usage {
    pub(super) problem: String,
    pub(super) hint: &'static str,
}

impl Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Usage {}

/// What Ctrl-C stops instead of the program.
static STOPPABLE: Mutex<Option<CancelHandle>> = Mutex::new(None);

/// While this lives, Ctrl-C stops a generation; a second one ends the program.
pub(super) struct InterruptCancels(());

/// Makes Ctrl-C stop a generation.
pub(super) fn interrupt_cancels(handle: CancelHandle) -> InterruptCancels {
    *STOPPABLE.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
    InterruptCancels(())
}

impl Drop for InterruptCancels {
    fn drop(&mut self) {
        *STOPPABLE.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Ctrl-C ends the process at once. Every piece of an answer is flushed as it is written, so nothing printed is lost.
pub(super) fn on_interrupt_exit() {
    let handler = || {
        let stoppable = STOPPABLE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(handle) = stoppable.filter(|handle| !handle.is_cancelled()) {
            return handle.cancel();
        }
        if io::stderr().is_terminal() {
            note("");
        }
        let _nothing_begins = crate::whole::remove_unfinished();
        std::process::exit(INTERRUPTED);
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        warning(format_args!("Ctrl-C ends the program without its own exit code: {error}"));
    }
}

/// True where the shell started us with `>&-`. Rust opens /dev/null in its place before `main`, so that writes succeed
/// and an answer would be lost in silence; the look before that is the one thing here that needs the linker's help.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn stdout_was_closed() -> bool {
    closed_stdout::found()
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn stdout_was_closed() -> bool {
    false
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
mod closed_stdout {
    use std::sync::atomic::{AtomicBool, Ordering};

    static FOUND: AtomicBool = AtomicBool::new(false);

    pub(super) fn found() -> bool {
        FOUND.load(Ordering::Relaxed)
    }

    extern "C" fn look() {
        const F_GETFD: i32 = 1; // fcntl.h, the same on Linux and macOS
        #[allow(unsafe_code)]
        unsafe extern "C" {
            fn fcntl(fd: i32, command: i32, ...) -> i32;
        }
        // SAFETY: F_GETFD takes no further argument, reads a flag of the process's own table and changes nothing.
        #[allow(unsafe_code)]
        let flags = unsafe { fcntl(1, F_GETFD) };
        FOUND.store(flags == -1, Ordering::Relaxed);
    }

    // SAFETY: the section holds pointers to functions without arguments, which the loader calls once before `main`;
    // `look` needs nothing that is set up later.
    #[allow(unsafe_code)]
    #[used]
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".init_array"))]
    #[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__mod_init_func,mod_init_funcs"))]
    static LOOK: extern "C" fn() = look;
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::is_coloured;

    #[test]
    fn colour_is_for_terminals_that_have_it_and_users_who_want_it() {
        let check = |terminal, no_color: Option<&str>, term: Option<&str>, expected| {
            let found = is_coloured(terminal, no_color.map(OsStr::new), term.map(OsStr::new));
            assert_eq!(found, expected, "{terminal} {no_color:?} {term:?}");
        };
        check(true, None, Some("xterm-256color"), true);
        check(true, None, None, true); // Windows sets no TERM
        check(true, Some(""), Some("xterm"), true); // no-color.org: only what is not empty counts
        check(true, Some("1"), Some("xterm"), false);
        check(true, Some("0"), Some("xterm"), false);
        check(true, None, Some("dumb"), false);
        check(false, None, Some("xterm"), false);
        check(false, Some(""), None, false);
    }
}
