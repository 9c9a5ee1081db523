//! `models.lock`: which bytes a project's models are made of, in a file that is kept under version control.
//!
//! ```toml
//! version = 1
//!
//! [[model]]
//! name = "gpt2"
//! repo = "openai-community/gpt2"
//! revision = "main"
//! commit = "607a30d783dfa663caf39e06633721c8d4cfcd7e"
//!
//! [[model.file]]
//! path = "config.json"
//! size = 665
//! sha256 = "…"
//! ```
//!
//! Models by name, files by path, a line per fact: a change is a small diff. Every file has the SHA-256 of its content,
//! also those that the Hub names by git's weaker SHA-1.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cache::RepoCache;
use super::digest::{Digest, digest_of_file};
use super::name::{Commit, HubName, RepoId, RepoPath, Revision, Selection};
use super::store::write_reference;
use super::{Hub, Pulled, candidates, unnamed};
use crate::error::{Error, HubFailure, Result, quote};
use crate::whole::WholeFile;

/// What a lock file is called where nobody says otherwise.
pub(crate) const DEFAULT: &str = "models.lock";

const VERSION: u64 = 1;
/// Longest lock file that is read: 100,000 files.
const LIMIT: u64 = 16 << 20;
const HEAD: &str =
    "# `fireside pull MODEL --lock` writes this file, `fireside pull --locked` fetches exactly what it says.";

/// A lock file.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    /// By name.
    models: BTreeMap<String, LockedModel>,
}

/// One model of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockedModel {
    /// As the user names it.
    pub(crate) name: String,
    pub(crate) repo: RepoId,
    pub(crate) revision: Revision,
    pub(crate) commit: Commit,
    /// By path.
    pub(crate) files: Vec<LockedFile>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockedFile {
    pub(crate) path: RepoPath,
    pub(crate) size: u64,
    pub(crate) sha256: Digest,
}

/// The text as TOML has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(rename = "version")]
    _version: u64,
    #[serde(default)]
    model: Vec<TextModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextModel {
    name: String,
    repo: String,
    revision: String,
    commit: String,
    #[serde(default)]
    file: Vec<TextFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TextFile {
    path: String,
    size: u64,
    sha256: String,
}

impl LockFile {
    /// Reads a lock file.
    pub(crate) fn read(path: &Path) -> Result<LockFile> {
        match LockFile::read_if_there(path)? {
            Some(lock) => Ok(lock),
            None => Err(Error::file(path, "no such file", "`fireside pull MODEL --lock` writes it")),
        }
    }

    fn read_if_there(path: &Path) -> Result<Option<LockFile>> {
        let failed = |problem: String| Error::file(path, problem, "`--lock-file` names another lock file");
        let mut bytes = Vec::new();
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened
                .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
                .map_err(|error| failed(error.to_string()))?,
        };
        if bytes.len() as u64 > LIMIT {
            return Err(failed(format!("expected a lock file of at most {LIMIT} bytes, found more")));
        }
        let text = String::from_utf8(bytes).map_err(|_| failed("expected UTF-8 text, found other bytes".to_owned()))?;
        let hint = "restore the file, or take it away and write it anew with `fireside pull MODEL --lock`";
        let models = parse(&text).map_err(|problem| Error::file(path, problem, hint))?;
        Ok(Some(LockFile { path: path.to_owned(), models }))
    }

    /// The model of this name, or all.
    pub(crate) fn chosen(&self, name: Option<&str>) -> Result<Vec<&LockedModel>> {
        let Some(name) = name else { return Ok(self.models.values().collect()) };
        if let Some(model) = self.models.get(name) {
            return Ok(vec![model]);
        }
        const SHOWN: usize = 8;
        let names: Vec<String> = self.models.keys().take(SHOWN).map(|name| quote(name)).collect();
        let more = if self.models.len() > SHOWN { " and more" } else { "" };
        let found = if names.is_empty() { "no model".to_owned() } else { names.join(", ") + more };
        let problem = format!("expected the model {}, found {found}", quote(name));
        Err(Error::file(&self.path, problem, format!("`fireside pull {} --lock` adds it", crate::error::line(name))))
    }

    /// Writes a model's entry, whole or not at all, and keeps the others.
    pub(crate) fn update(path: &Path, model: LockedModel) -> Result<()> {
        let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()); // a link stays a link
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |error: io::Error| {
            let problem = format!("cannot write {}: {error}", quote(&path.display().to_string()));
            Error::hub(HubFailure::Cache, problem, "`--lock-file` names another lock file")
        };
        // Of two processes that add a model each the second reads what the first wrote. Without locks the last wins.
        let held = File::open(folder).ok();
        let _ = held.as_ref().map(File::lock);
        let mut lock =
            LockFile::read_if_there(path)?.unwrap_or_else(|| LockFile { path: path.clone(), models: BTreeMap::new() });
        if lock.models.get(&model.name) == Some(&model) {
            return Ok(());
        }
        lock.models.insert(model.name.clone(), model);
        let mut file = WholeFile::create(path).map_err(failed)?;
        file.write_all(lock.text().as_bytes()).and_then(|()| file.finish()).map_err(failed)
    }

    fn text(&self) -> String {
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default(); // TOML's escapes are JSON's
        let mut text = format!("{HEAD}\nversion = {VERSION}\n");
        for LockedModel { name, repo, revision, commit, files } in self.models.values() {
            let (name, revision) = (quoted(name), quoted(revision.as_str()));
            text += &format!("\n[[model]]\nname = {name}\nrepo = \"{repo}\"\nrevision = {revision}\n");
            text += &format!("commit = \"{commit}\"\n");
            for LockedFile { path, size, sha256 } in files {
                let path = quoted(path.as_str());
                text += &format!("\n[[model.file]]\npath = {path}\nsize = {size}\nsha256 = \"{sha256}\"\n");
            }
        }
        text
    }
}

/// The models that a text says, or what is wrong with it.
fn parse(text: &str) -> Result<BTreeMap<String, LockedModel>, String> {
    #[derive(Deserialize)]
    struct Version {
        version: Option<serde_json::Value>,
    }
    let toml = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        format!("expected a lock file, found in line {line}: {}", error.message())
    };
    let version: Version = toml::from_str(text).map_err(toml)?;
    match version.version {
        Some(version) if version == VERSION => {}
        found => {
            let found = found.map_or_else(|| "none".to_owned(), |found| quote(&found.to_string()));
            return Err(format!("expected version = {VERSION}, found {found}"));
        }
    }
    let Text { model: models, .. } = toml::from_str(text).map_err(toml)?;
    let mut found = BTreeMap::new();
    for TextModel { name, repo, revision, commit, file: files } in models {
        let bad =
            |what: &str, value: &str| format!("expected {what} of the model {}, found {}", quote(&name), quote(value));
        let _: HubName = name.parse().map_err(|error: Error| error.to_string())?;
        let repo = RepoId::new(&repo).ok_or_else(|| bad("a repository", &repo))?;
        let revision = Revision::new(&revision).ok_or_else(|| bad("a revision", &revision))?;
        let commit = Commit::new(&commit).ok_or_else(|| bad("a commit of 40 hex digits", &commit))?;
        if revision.as_commit().is_some_and(|revision| revision != commit) {
            return Err(bad(&format!("the commit {revision}"), commit.as_str()));
        }
        let (mut locked, mut paths) = (Vec::new(), BTreeSet::new());
        for TextFile { path, size, sha256 } in files {
            let digest = Digest::of_name(&sha256).filter(|digest| matches!(digest, Digest::Sha256(_)));
            let sha256 = digest.ok_or_else(|| bad(&format!("a sha256 for {}", quote(&path)), &sha256))?;
            let path = RepoPath::new(&path).ok_or_else(|| bad("the path of a file", &path))?;
            if !paths.insert(path.clone()) {
                return Err(format!("the model {} names {} twice", quote(&name), quote(path.as_str())));
            }
            locked.push(LockedFile { path, size, sha256 });
        }
        if locked.is_empty() {
            return Err(format!("expected files of the model {}, found none", quote(&name)));
        }
        locked.sort_by(|a, b| a.path.cmp(&b.path));
        let model = LockedModel { name: name.clone(), repo, revision, commit, files: locked };
        if found.insert(name.clone(), model).is_some() {
            return Err(format!("it names the model {} twice", quote(&name)));
        }
    }
    Ok(found)
}

/// A locked model that is here, as it is in the lock.
#[derive(Debug)]
pub(crate) struct Found {
    /// The folder that shows it.
    pub(crate) folder: PathBuf,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

impl Hub {
    /// What a lock file says of a model that was just pulled.
    pub(crate) fn lock_model(&self, name: &str, pulled: &Pulled) -> Result<LockedModel> {
        let named = candidates(name)?.into_iter().next().ok_or_else(|| unnamed(name))?;
        let commit = Commit::new(&pulled.plan.commit).ok_or_else(|| unnamed(&pulled.plan.commit))?;
        let mut files = Vec::new();
        for file in &pulled.plan.files {
            let place = pulled.folder.join(&file.name);
            let unreadable = |error: io::Error| Error::file(&place, error.to_string(), "");
            let (Some(path), Some(expected)) = (RepoPath::new(&file.name), Digest::of_name(&file.hash)) else {
                return Err(unnamed(&file.name));
            };
            let sha256 = digest_of_file(&place, &Digest::Sha256([0; 32])).map_err(unreadable)?;
            let found = match expected {
                Digest::Sha256(_) => sha256,
                Digest::GitBlob(_) => digest_of_file(&place, &expected).map_err(unreadable)?,
            };
            if found != expected {
                let (path, repo) = (quote(path.as_str()), quote(&pulled.plan.repo));
                return Err(Error::hub(
                    HubFailure::Damaged,
                    format!("{path} of {repo} is damaged: expected the hash {expected}, found {found}"),
                    format!("run `fireside cache verify --remove-damaged {}`, then the same command", named.repo),
                ));
            }
            files.push(LockedFile { path, size: file.size, sha256 });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(LockedModel { name: name.to_owned(), repo: named.repo, revision: named.revision, commit, files })
    }

    /// Brings exactly what a lock says into the cache, or into a folder. What is here as it should be is not asked for;
    /// offline, that is all that is looked at.
    pub(crate) fn pull_locked(&self, lock: &LockFile, model: &LockedModel, into: Option<&Path>) -> Result<Found> {
        let cache = RepoCache::new(&self.settings.cache, &model.repo);
        let folder = into.map_or_else(|| cache.snapshot(&model.commit), Path::to_owned);
        let mut warnings = Vec::new();
        let is_at = cache.commit(&model.revision);
        let (repo, revision) = (quote(model.repo.as_str()), quote(model.revision.as_str()));
        match (model.first_missing(lock, &folder), self.offline_because()) {
            (Ok(None), _) => {}
            (Err(error), because) if into.is_none() || because.is_some() => return Err(error),
            (Ok(Some(file)), Some(because)) => {
                let problem =
                    format!("{} of {repo} at {} is not here, and {because}", quote(file.path.as_str()), model.commit);
                let hint = format!("`fireside pull {} --locked` fetches it where there is network", model.name);
                return Err(Error::hub(HubFailure::Offline, problem, hint));
            }
            _ => warnings = self.fetch_locked(lock, model, &folder, into)?,
        }
        let is_elsewhere = into.is_none() && is_at.as_ref() != Some(&model.commit);
        if is_elsewhere && self.offline_because().is_none() {
            write_reference(&cache, &model.revision, &model.commit)?;
        } else if is_elsewhere {
            let is_at = is_at.map_or_else(|| "nowhere".to_owned(), |commit| commit.to_string());
            warnings.push(format!(
                "{revision} of {repo} is at {is_at} in the cache, and not at {} as in the lock; the same command with \
                 network sets it",
                model.commit
            ));
        }
        Ok(Found { folder, warnings })
    }

    fn fetch_locked(
        &self,
        lock: &LockFile,
        model: &LockedModel,
        folder: &Path,
        into: Option<&Path>,
    ) -> Result<Vec<String>> {
        let revision = Revision::new(model.commit.as_str()).ok_or_else(|| unnamed(&model.name))?;
        let name = HubName { repo: model.repo.clone(), revision, selection: Selection::Weights };
        let paths: Vec<String> = model.files.iter().map(|file| file.path.to_string()).collect(); // no `*` is in a path
        let pull = self.pull_of(&name, &paths, None);
        // The Hub's own list is held against the lock before anything moves.
        let plan = pull.plan()?;
        for file in &model.files {
            let planned = plan.files.iter().find(|planned| planned.name == file.path.as_str());
            let Some(planned) = planned else {
                let problem = format!(
                    "the Hub has no file {} in {} at {}",
                    quote(file.path.as_str()),
                    quote(model.repo.as_str()),
                    model.commit
                );
                return Err(Error::hub(HubFailure::NotFound, problem, renew(&model.name)));
            };
            let sha256 = Digest::of_name(&planned.hash).filter(|digest| matches!(digest, Digest::Sha256(_)));
            if planned.size != file.size || sha256.is_some_and(|sha256| sha256 != file.sha256) {
                return Err(model.differs(lock, file, planned.size, sha256, "on the Hub"));
            }
        }
        let pulled = into.map_or_else(|| pull.run(), |folder| pull.run_into(folder))?;
        match model.first_missing(lock, folder)? {
            None => Ok(pulled.warnings),
            Some(file) => {
                Err(Error::file(&folder.join(file.path.as_str()), "it vanished", "run the same command again"))
            }
        }
    }
}

impl LockedModel {
    /// The first file that is not in a folder. A file that is there and differs is an error.
    fn first_missing(&self, lock: &LockFile, folder: &Path) -> Result<Option<&LockedFile>> {
        let mut missing = None;
        for file in &self.files {
            let place = folder.join(file.path.as_str());
            let unreadable = |error: io::Error| Error::file(&place, error.to_string(), "");
            let size = match fs::metadata(&place) {
                Ok(known) if known.is_file() => known.len(),
                _ => {
                    missing = missing.or(Some(file));
                    continue;
                }
            };
            let sha256 =
                if size == file.size { Some(digest_of_file(&place, &file.sha256).map_err(unreadable)?) } else { None };
            if sha256 != Some(file.sha256) {
                return Err(self.differs(lock, file, size, sha256, "here"));
            }
        }
        Ok(missing)
    }

    fn differs(&self, lock: &LockFile, file: &LockedFile, size: u64, sha256: Option<Digest>, place: &str) -> Error {
        let found = match sha256 {
            Some(sha256) if size == file.size => format!("the sha256 {sha256}"),
            _ => format!("{size} bytes"),
        };
        let expected = if sha256.is_some() && size == file.size {
            format!("the sha256 {}", file.sha256)
        } else {
            format!("{} bytes", file.size)
        };
        let problem = format!(
            "{} of {} differs from {}: expected {expected}, found {found} {place}",
            quote(file.path.as_str()),
            quote(self.repo.as_str()),
            quote(&lock.path.display().to_string())
        );
        let hint = if place == "here" {
            format!(
                "run `fireside cache verify --remove-damaged {}`, then the same command; {}",
                self.repo,
                renew(&self.name)
            )
        } else {
            renew(&self.name)
        };
        Error::hub(HubFailure::Damaged, problem, hint)
    }
}

fn renew(name: &str) -> String {
    format!("where the change is meant, `fireside pull {name} --lock` writes the lock anew")
}
