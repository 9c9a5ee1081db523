//! Where a text comes from: arguments, a file, or stdin.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::output::Usage;

/// A text to work on.
#[derive(clap::Args)]
pub(super) struct TextArgs {
    /// The text; several words are joined by spaces, `-` reads stdin
    #[arg(value_name = "TEXT")]
    words: Vec<String>,
    /// Read the text from a file
    #[arg(long, value_name = "FILE", conflicts_with = "words")]
    file: Option<PathBuf>,
}

impl TextArgs {
    /// True where neither words nor a file are given.
    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty() && self.file.is_none()
    }

    /// The text, exactly as it stands.
    pub(super) fn read(&self) -> Result<String> {
        let from_stdin = self.words.is_empty() && self.file.is_none() || self.words == ["-"];
        if let Some(path) = &self.file {
            let bytes = std::fs::read(path)
                .with_context(|| format!("cannot read {}", crate::quote(&path.display().to_string())))?;
            return text_of(bytes, "the file");
        }
        if !from_stdin {
            return Ok(self.words.join(" "));
        }
        if self.words.is_empty() && std::io::stdin().is_terminal() {
            return Err(Usage {
                problem: "expected a text, found none".to_owned(),
                hint: "pass it as an argument, with `--file`, or through a pipe",
            }
            .into());
        }
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
        text_of(bytes, "stdin")
    }

    /// The text without the line break that editors and `echo` put at its end.
    pub(super) fn read_prompt(&self) -> Result<String> {
        let mut text = self.read()?;
        if self.words.is_empty() || self.words == ["-"] {
            let end = text.strip_suffix('\n').map(|rest| rest.strip_suffix('\r').unwrap_or(rest).len());
            text.truncate(end.unwrap_or(text.len()));
        }
        Ok(text)
    }
}

fn text_of(bytes: Vec<u8>, origin: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Usage {
            problem: format!("expected UTF-8 text, found an invalid byte at {at} of {origin}"),
            hint: "convert it first, such as with `iconv -f latin1 -t utf-8`",
        }
        .into()
    })
}
