//! How a model can be named, and which names are refused before they reach a path or an address.
//!
//! `owner/name` · `name` · either with `@revision`, `:Q4_K_M` (a GGUF file by its quantisation) or `/file.gguf`. What is
//! on this machine (`ember`, folders, files) and the short names of cards are told apart by [`super::Hub`].

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, HubFailure, quote};

/// Longest name of a repository that the Hub gives.
const LONGEST_REPO: usize = 96;
/// Longest revision or path of a file: what most file systems take as one name.
const LONGEST_NAME: usize = 255;

/// A model on the Hub as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubName {
    pub(crate) repo: RepoId,
    pub(crate) revision: Revision,
    pub(crate) selection: Selection,
}

/// Which weights of a repository are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// The model's own: safetensors.
    Weights,
    /// The GGUF whose name holds this quantisation.
    Quantised(String),
    /// This file.
    File(RepoPath),
}

/// `owner/name`, or a bare `name` from the Hub's first years: letters, digits, `-`, `_`, `.`; safe in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RepoId(String);

/// A branch, a tag or a commit; safe in a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Revision(String);

/// A file's path inside a repository, parts joined by `/`; it stays inside every folder that it is joined to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RepoPath(String);

/// A commit: 40 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Commit(String);

impl FromStr for HubName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let bad = |problem: &str| {
            let hint =
                "name a model as `owner/name`, `owner/name@revision`, `owner/name:Q4_K_M` or `owner/name/file.gguf`";
            Error::hub(HubFailure::Name, format!("{} is no model's name: {problem}", quote(name)), hint)
        };
        let (rest, revision) = match name.split_once('@') {
            Some((rest, revision)) => {
                (rest, Revision::new(revision).ok_or_else(|| bad("expected a branch, tag or commit after `@`"))?)
            }
            None => (name, Revision::main()),
        };
        let (repo, selection) = if let Some((repo, quantisation)) = rest.split_once(':') {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
            if quantisation.is_empty() || !quantisation.chars().all(plain) || quantisation.len() > LONGEST_NAME {
                return Err(bad("expected a quantisation such as Q4_K_M after `:`"));
            }
            (repo, Selection::Quantised(quantisation.to_owned()))
        } else if let Some((at, _)) = rest.match_indices('/').nth(1) {
            let file =
                RepoPath::new(&rest[at + 1..]).ok_or_else(|| bad("expected a file's path after the second `/`"))?;
            (&rest[..at], Selection::File(file))
        } else {
            (rest, Selection::Weights)
        };
        let repo =
            RepoId::new(repo).ok_or_else(|| bad("expected letters, digits, `-`, `_` and `.`, with one `/` at most"))?;
        Ok(HubName { repo, revision, selection })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repo.fmt(f)?;
        match &self.selection {
            Selection::Weights => {}
            Selection::Quantised(quantisation) => write!(f, ":{quantisation}")?,
            Selection::File(file) => write!(f, "/{file}")?,
        }
        if self.revision != Revision::main() { write!(f, "@{}", self.revision) } else { Ok(()) }
    }
}

impl RepoId {
    pub(crate) fn new(id: &str) -> Option<Self> {
        let part = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
        };
        let sound = id.len() <= LONGEST_REPO
            && id.split('/').count() <= 2
            && id.split('/').all(part)
            && !id.contains("--") // what stands for `/` in the cache
            && !id.contains("..");
        sound.then(|| RepoId(id.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Revision {
    pub(crate) fn new(revision: &str) -> Option<Self> {
        let plain = |c: char| !c.is_control() && !c.is_whitespace() && !r#"\:*?"<>|~^["#.contains(c);
        let sound = revision.chars().all(plain) && RepoPath::new(revision).is_some() && !revision.ends_with(".lock");
        sound.then(|| Revision(revision.to_owned()))
    }

    /// Where a repository's history has its tip.
    pub(crate) fn main() -> Self {
        Revision("main".to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The commit, where the revision is one and can never mean another.
    pub(crate) fn as_commit(&self) -> Option<Commit> {
        Commit::new(&self.0)
    }
}

impl RepoPath {
    /// Refuses what could leave the folder or mean another file on some system: absolute paths, `..`, backslashes, drive
    /// letters, control characters, Windows' devices, names that end in a dot or a space.
    pub(crate) fn new(path: &str) -> Option<Self> {
        let part = |part: &str| {
            let stem = part.split('.').next().unwrap_or_default().to_ascii_uppercase();
            let numbered = |name: &str| {
                stem.strip_prefix(name).is_some_and(|rest| rest.len() == 1 && rest.as_bytes()[0].is_ascii_digit())
            };
            let device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || numbered("COM") || numbered("LPT");
            !part.is_empty()
                && part != "."
                && part != ".."
                && !part.ends_with(['.', ' '])
                && !device
                && part.len() <= LONGEST_NAME
        };
        let plain = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
        (path.len() <= 4 * LONGEST_NAME && path.chars().all(plain) && path.split('/').all(part))
            .then(|| RepoPath(path.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Commit {
    pub(crate) fn new(commit: &str) -> Option<Self> {
        let sound = commit.len() == 40 && commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        sound.then(|| Commit(commit.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! display_as_str {
    ($($name:ident)*) => {
        $(impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        })*
    };
}
display_as_str!(RepoId Revision RepoPath Commit);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_apart_into_repository_revision_and_file() {
        let check = |name: &str, repo: &str, revision: &str, selection: Selection| {
            let parsed: HubName = name.parse().unwrap();
            assert_eq!((parsed.repo.as_str(), parsed.revision.as_str()), (repo, revision), "{name}");
            assert_eq!(parsed.selection, selection, "{name}");
            assert_eq!(parsed.to_string(), name.strip_suffix("@main").unwrap_or(name));
        };
        let file = |path: &str| Selection::File(RepoPath::new(path).unwrap());
        check("gpt2", "gpt2", "main", Selection::Weights);
        check("openai-community/gpt2", "openai-community/gpt2", "main", Selection::Weights);
        check("a/b@v1.0", "a/b", "v1.0", Selection::Weights);
        check("a/b@refs/pr/3", "a/b", "refs/pr/3", Selection::Weights);
        check("a/b:Q4_K_M", "a/b", "main", Selection::Quantised("Q4_K_M".to_owned()));
        check("a/b/c.gguf", "a/b", "main", file("c.gguf"));
        check("a/b/sub/c.gguf@main", "a/b", "main", file("sub/c.gguf"));
    }

    #[test]
    fn names_that_could_leave_the_cache_are_refused() {
        let long = "x".repeat(97);
        for name in [
            "",
            "/",
            "a/",
            "/b",
            "..",
            "../b",
            "a/..",
            "a/b/../c",
            "a/b@../x",
            "a/b@",
            "a/b@x/../y",
            "a--b",
            "a/b:",
            "a/b:../x",
            "a b",
            "a/b@x y",
            "a\\b",
            "a/b/c\\d",
            "-a",
            "a.",
            "a/.b",
            "a/b/",
            "a/b//c",
            "a\u{1b}",
            "a/b@\u{7f}",
            "a/b/nul",
            "a/b/x.",
            "a/b/COM1.txt",
            "https://x/y",
            long.as_str(),
        ] {
            assert!(name.parse::<HubName>().is_err(), "{name:?}");
        }
    }
}
