//! Where a text comes from: arguments, a file, or stdin.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::output::Usage;
use crate::whole::within;

/// Bytes of a text: a library's worth. What never ends must not fill the memory.
const LONGEST: u64 = 1 << 30;

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
            return read_file(path);
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
        read_text(std::io::stdin().lock(), "stdin", LONGEST)
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

/// The text of a file.
pub(super) fn read_file(path: &Path) -> Result<String> {
    let name = crate::quote(&path.display().to_string());
    let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
    read_text(file, &name, LONGEST)
}

fn read_text(from: impl Read, origin: &str, longest: u64) -> Result<String> {
    let Some(bytes) = within(from, longest).with_context(|| format!("cannot read {origin}"))? else {
        let problem = format!("expected a text of at most {longest} bytes, found more in {origin}");
        return Err(Usage { problem, hint: "cut it into parts" }.into());
    };
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Usage {
            problem: format!("expected UTF-8 text, found an invalid byte at {at} of {origin}"),
            hint: "convert it first, such as with `iconv -f latin1 -t utf-8`",
        }
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::read_text;

    #[test]
    fn what_never_ends_is_refused() {
        let error = read_text(std::io::repeat(b'a'), "stdin", 1000).unwrap_err();
        assert_eq!(error.to_string(), "expected a text of at most 1000 bytes, found more in stdin");
        assert_eq!(read_text(&[b'a'; 1000][..], "stdin", 1000).unwrap().len(), 1000);
    }
}
