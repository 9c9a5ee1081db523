//! The command against a Hub on loopback: a fake one that speaks the real one's protocol and can be made to fail.

mod checks;
mod content;
mod corners;
mod disk;
mod errors;
pub mod fake;
mod faults;
mod flow;
mod full;
mod gguf;
mod hostile;
mod preflight;
mod pull;
mod python;
mod resume;
mod routes;
mod rules;
mod steps;
mod wire;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::program::Outcome;
use crate::support::{copy_of, fixture, write_tokenizer};
use content::Content;
use fake::{Draft, FakeHub, RepoFile};

/// A user with nothing: a home of their own, no settings, no token.
pub struct Home {
    folder: TempDir,
}

impl Home {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("work")).expect("a working folder");
        Home { folder }
    }

    /// What `HF_HOME` is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("hf")
    }

    pub fn cache(&self) -> PathBuf {
        self.path().join("hub")
    }

    /// The folder that commands run in.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// The cache's folder of a repository.
    pub fn repo(&self, id: &str) -> PathBuf {
        self.cache().join(format!("models--{}", id.replace('/', "--")))
    }

    /// Everything in this home except logs, as `path → bytes or link's target`.
    pub fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        walk(self.folder.path(), &mut |path| {
            let bytes = match std::fs::read_link(path) {
                Ok(target) => target.into_os_string().into_encoded_bytes(),
                Err(_) => std::fs::read(path).unwrap_or_default(),
            };
            let name = path.strip_prefix(self.folder.path()).expect("a path of this home").to_owned();
            found.insert(name, bytes);
        });
        found
    }

    /// A command of this user, in an environment without anybody's settings.
    pub fn command(&self, program: impl AsRef<OsStr>, endpoint: &str) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let upper = name.to_string_lossy().to_uppercase();
            let foreign = ["HF_", "HUGGING", "XDG_", "TRANSFORMERS_"].iter().any(|start| upper.starts_with(start));
            if foreign || upper.ends_with("_PROXY") || upper.ends_with("_CA_BUNDLE") || upper.starts_with("SSL_CERT") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.work()).env("HOME", self.folder.path()).env("HF_HOME", self.path());
        command.env("HF_ENDPOINT", endpoint);
        command
    }

    /// `fireside` of this user.
    pub fn fireside<A: AsRef<OsStr>>(&self, hub: &FakeHub, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_fireside"), &hub.url());
        command.args(args);
        command
    }

    /// Runs `fireside` of this user.
    pub fn run<A: AsRef<OsStr>>(&self, hub: &FakeHub, args: impl IntoIterator<Item = A>) -> Outcome {
        checks::run(self.fireside(hub, args))
    }
}

/// Calls with each file and link below a folder.
fn walk(folder: &Path, call: &mut impl FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), call),
            _ => call(&entry.path()),
        }
    }
}

/// A small GPT-2 that writes words, with the files that its repository on the Hub would have.
pub fn tale(hub: &FakeHub, id: &str) -> String {
    from_folder(hub.repo(id), &fixture("tale")).with_license("mit").publish()
}

/// A small GPT-2 in three shards, of ten letters.
pub fn sharded(hub: &FakeHub, id: &str) -> String {
    let folder = copy_of(&fixture("gpt2/sharded"));
    write_tokenizer(folder.path());
    from_folder(hub.repo(id), folder.path()).publish()
}

/// A repository of one large file of weights; its config is a GPT-2's.
pub fn heavy(hub: &FakeHub, id: &str, bytes: u64, seed: u64) -> String {
    let small = |name: &str| std::fs::read(fixture("tale").join(name)).expect("a fixture");
    let draft = hub.repo(id).file("config.json", small("config.json")).file("tokenizer.json", small("tokenizer.json"));
    draft.with("model.safetensors", RepoFile::new(Content::weights(bytes, seed), true)).publish()
}

/// Adds a folder's files as the Hub would keep them: weights as large files.
fn from_folder<'h>(mut draft: Draft<'h>, folder: &Path) -> Draft<'h> {
    for entry in std::fs::read_dir(folder).expect("a model's folder").flatten() {
        let name = entry.file_name().into_string().expect("a plain name");
        let bytes = std::fs::read(entry.path()).expect("a file");
        draft = match name.rsplit('.').next() {
            _ if name == "expected.safetensors" => draft, // the oracle's, not the model's
            Some("safetensors") => draft.large_file(&name, bytes),
            _ => draft.file(&name, bytes),
        };
    }
    draft
}
