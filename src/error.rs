//! Everything that can go wrong, and what to do about it.
//!
//! One enum; a variant exists where a caller would act differently. `Display` is one line, lower case, with what was
//! expected and what was found; [`Error::hint`] is the next step. Names that come from files pass through [`quote`], and
//! every message through `line`, so that no file can flood or drive a terminal.

use std::path::{Path, PathBuf};

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No model goes by this name.
    #[error("cannot find the model {}: {problem}", quote(name))]
    ModelNotFound {
        /// The name as it was given.
        name: String,
        /// What was looked for.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A file of the model is missing, damaged or contradicts another.
    #[error("cannot load {}: {problem}", quote(&path.display().to_string()))]
    File {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {problem}", quote(&path.display().to_string()))]
    Unwritten {
        /// The file.
        path: PathBuf,
        /// Why.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The model is sound, but this version cannot run it.
    #[error("cannot load {}: {problem}", quote(&path.display().to_string()))]
    Unsupported {
        /// The file that says so.
        path: PathBuf,
        /// The architecture, switch or dtype.
        problem: String,
        /// What is supported.
        hint: String,
    },
    /// A setting that is impossible, alone or beside another.
    #[error("`{setting}` {problem}")]
    Setting {
        /// The setting's name, as in JSON.
        setting: &'static str,
        /// Expected and found.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// There is not enough memory.
    #[error("{problem}")]
    Memory {
        /// Needed and found.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// What stopped another prompt of the same batch stopped this one too.
    #[error("{problem}")]
    Stopped {
        /// What happened.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// A prompt that cannot be run.
    #[error("{problem}")]
    Prompt {
        /// Expected and found.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The model computed a NaN or an infinity.
    #[error("the logits of token {token} are not finite: {found}")]
    NonFinite {
        /// The position of the token whose successor was asked for.
        token: usize,
        /// Which value at which vocabulary entry.
        found: String,
    },
    /// The settings forbid every token.
    #[error("no token is left to choose: the settings forbid every one of them as new token {}", step + 1)]
    NothingLeft {
        /// New tokens before it.
        step: usize,
    },
    /// The device or the kernels that were asked for are not there.
    #[error("{}", line(problem))]
    Device {
        /// Expected and found.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// The Hub, the way to it, or the cache on this machine failed.
    #[error("{problem}")]
    Hub {
        /// What kind of failure it was.
        kind: HubFailure,
        /// Expected and found.
        problem: String,
        /// What to do.
        hint: String,
    },
    /// One prompt of a batch failed.
    #[error("prompt {} of the batch: {error}", request + 1)]
    Request {
        /// Which one, from 0.
        request: usize,
        /// What went wrong.
        error: Box<Error>,
    },
    /// candle failed where no input of a user should make it fail.
    #[error("a tensor operation failed")]
    Tensor(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What stood between a model's name and its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubFailure {
    /// A name that no model, revision or file can have.
    Name,
    /// The Hub has no such repository, revision or file.
    NotFound,
    /// The Hub wants a token, or refused the one that was sent.
    Unauthorized,
    /// The model's page has terms to accept first.
    Gated,
    /// The Hub asks to come back later.
    RateLimited,
    /// The Hub answered with an error of its own, or with something that is no answer.
    Server,
    /// No connection: no route, no name, no certificate, or silence.
    Unreachable,
    /// Bytes arrived that are not the file's.
    Damaged,
    /// The answer would write outside the cache or send the token elsewhere.
    Hostile,
    /// The disk is too full.
    DiskFull,
    /// The cache cannot be read or written.
    Cache,
    /// The network is not to be used, and the cache does not have all files.
    Offline,
}

impl Error {
    /// What the user should do next.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::ModelNotFound { hint, .. }
            | Error::File { hint, .. }
            | Error::Unwritten { hint, .. }
            | Error::Unsupported { hint, .. }
            | Error::Setting { hint, .. }
            | Error::Prompt { hint, .. }
            | Error::Memory { hint, .. }
            | Error::Stopped { hint, .. }
            | Error::Device { hint, .. }
            | Error::Hub { hint, .. } => (!hint.is_empty()).then_some(hint.as_str()),
            Error::NonFinite { .. } => {
                Some("the weights overflow or are damaged; try `--dtype f32`, or load another copy of the model")
            }
            Error::NothingLeft { .. } => {
                Some("allow more: shorten `suppress_tokens` and `bad_words`, or raise `no_repeat_ngram_size`")
            }
            Error::Request { error, .. } => error.hint(),
            Error::Tensor(_) => None,
        }
    }

    /// True where the request is at fault and not the model or the machine: exit code 2 rather than 1.
    pub fn is_usage(&self) -> bool {
        match self {
            Error::Request { error, .. } => error.is_usage(),
            other => matches!(other, Error::Setting { .. } | Error::Prompt { .. }),
        }
    }

    pub(crate) fn of_request(self, request: usize) -> Self {
        Error::Request { request, error: Box::new(self) }
    }

    pub(crate) fn file(path: &Path, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), problem: line(&problem.into()), hint: line(&hint.into()) }
    }

    pub(crate) fn unsupported(path: &Path, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Unsupported { path: path.to_owned(), problem: line(&problem.into()), hint: line(&hint.into()) }
    }

    pub(crate) fn unwritten(path: &Path, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Unwritten { path: path.to_owned(), problem: line(&problem.into()), hint: line(&hint.into()) }
    }

    pub(crate) fn setting(setting: &'static str, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Setting { setting, problem: line(&problem.into()), hint: line(&hint.into()) }
    }

    pub(crate) fn hub(kind: HubFailure, problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Hub { kind, problem: line(&problem.into()), hint: line(&hint.into()) }
    }

    pub(crate) fn memory(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Memory { problem: line(&problem.into()), hint: line(&hint.into()) }
    }

    /// What stopped another prompt of a batch, and this one with it.
    pub(crate) fn stopped(problem: &str, hint: &str) -> Self {
        Error::Stopped { problem: line(problem), hint: line(hint) }
    }

    pub(crate) fn prompt(problem: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Prompt { problem: line(&problem.into()), hint: line(&hint.into()) }
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Tensor(Box::new(error))
    }
}

/// A name from outside in backticks, with control characters escaped and no longer than a line.
pub fn quote(name: &str) -> String {
    const LONGEST: usize = 160; // characters; a path fits, a flood does not
    format!("`{}`", printable(name, LONGEST))
}

/// A message that may cite a file (a parser's, a regular expression's), as one line of bounded length.
pub(crate) fn line(message: &str) -> String {
    const LONGEST: usize = 800; // characters; several quoted names fit
    printable(message, LONGEST)
}

/// `1 token`, `2 tokens`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// What drives a terminal escaped, and no more than `longest` characters of the text.
fn printable(text: &str, longest: usize) -> String {
    let mut printable = String::with_capacity(text.len().min(longest));
    for (count, c) in text.chars().enumerate() {
        if count == longest {
            printable.push('…');
            break;
        }
        if c.is_control() || reorders_or_hides(c) {
            printable.extend(c.escape_default());
        } else {
            printable.push(c);
        }
    }
    printable
}

/// Characters that are not seen and change what is: directions of writing, joiners, line separators, byte-order marks.
fn reorders_or_hides(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn quoted_names_hold_no_control_characters_and_stay_short() {
        assert_eq!(quote("gpt2"), "`gpt2`");
        assert_eq!(quote("a\x1b[31m\nb"), "`a\\u{1b}[31m\\nb`");
        assert!(quote(&"x".repeat(1 << 20)).len() < 200);
        assert_eq!(quote("safe\u{202e}txt.exe\u{2069}"), "`safe\\u{202e}txt.exe\\u{2069}`");
        assert_eq!(quote("\u{feff}a\u{200b}\u{61c}\u{2028}"), "`\\u{feff}a\\u{200b}\\u{61c}\\u{2028}`");
        assert_eq!(quote("日本語 é “ß” 🦊"), "`日本語 é “ß” 🦊`");
    }
}
