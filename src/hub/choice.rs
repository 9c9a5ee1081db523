//! What of a repository on the Hub makes the model that a name stands for, the same for `pull` and for `info`.

use std::path::PathBuf;

use super::api::{RemoteFile, Repository};
use super::cache::RepoCache;
use super::files::{self, Weights};
use super::name::{HubName, RepoPath, Selection};
use super::pull::{Plan, PlannedFile};
use super::transfer::is_whole;
use crate::error::{Error, HubFailure, Result, quote};
use crate::source::is_gguf;

/// The files of a model, or those that the user named.
pub(super) struct Choice<'r> {
    /// config.json and its text; of a model, not of named files.
    pub(super) config: Option<(&'r RemoteFile, String)>,
    /// What lies beside: tokenizer, defaults, card, index.
    pub(super) beside: Vec<&'r RemoteFile>,
    /// The weights.
    pub(super) weights: Vec<&'r RemoteFile>,
}

impl<'r> Choice<'r> {
    /// All files, small ones first.
    pub(super) fn files(&self) -> Vec<&'r RemoteFile> {
        let config = self.config.iter().map(|(config, _)| *config);
        config.chain(self.beside.iter().copied()).chain(self.weights.iter().copied()).collect()
    }
}

/// Chooses. `read` brings the text of a small file; `judge` sees config.json before anything else is read.
pub(super) fn choose<'r>(
    name: &HubName,
    remote: &'r Repository,
    read: &dyn Fn(&RemoteFile) -> Result<String>,
    judge: &dyn Fn(PathBuf, &str) -> Result<()>,
) -> Result<Choice<'r>> {
    let all_of = |paths: &[RepoPath]| paths.iter().map(|path| present(remote, path)).collect::<Result<Vec<_>>>();
    if name.selection != Selection::Weights || files::is_gguf_alone(&remote.paths()) {
        let weights = match files::weights(name, &remote.paths())? {
            Weights::Named(paths) => all_of(&paths)?,
            Weights::Single(path) | Weights::Index(path) => all_of(&[path])?,
        };
        return Ok(Choice { config: None, beside: Vec::new(), weights });
    }
    let config = remote.file(files::CONFIG).ok_or_else(|| {
        let problem = format!("expected `{}` in {}, found none", files::CONFIG, quote(remote.id.as_str()));
        Error::hub(
            HubFailure::NotFound,
            problem,
            "this is no model's repository; `fireside pull --file` fetches single files",
        )
    })?;
    let text = read(config)?;
    judge(shown(remote, &config.path), &text)?;
    let mut beside: Vec<&RemoteFile> = files::BESIDE.iter().filter_map(|name| remote.file(name)).collect();
    let templates: Vec<RepoPath> = remote.paths().into_iter().filter(files::is_template).collect();
    beside.extend(all_of(&templates)?);
    let weights = match files::weights(name, &remote.paths())? {
        Weights::Single(path) => all_of(&[path])?,
        Weights::Named(paths) => all_of(&paths)?,
        Weights::Index(path) => {
            let index = present(remote, &path)?;
            beside.push(index);
            all_of(&files::shards(&shown(remote, &path), &read(index)?)?)?
        }
    };
    Ok(Choice { config: Some((config, text)), beside, weights })
}

/// The files of a model in GGUF, where it is one.
pub(super) fn gguf_of<'r>(choice: &Choice<'r>) -> Option<Vec<&'r RemoteFile>> {
    let is_gguf = choice.config.is_none() && choice.weights.iter().all(|file| is_gguf(file.path.as_str()));
    (is_gguf && !choice.weights.is_empty()).then(|| choice.weights.clone())
}

/// Whether a repository has a tokenizer that is read.
pub(super) fn has_tokenizer(remote: &Repository) -> bool {
    let has = |name: &str| remote.file(name).is_some();
    has("tokenizer.json") || has("tokenizer.model") || has("vocab.json") && has("merges.txt")
}

/// Files as a plan, with which of them are in a cache.
pub(super) fn plan_of(remote: &Repository, files: &[&RemoteFile], cache: &RepoCache) -> Plan {
    let planned = |file: &&RemoteFile| PlannedFile {
        name: file.path.to_string(),
        size: file.size,
        hash: file.digest.to_string(),
        cached: is_whole(&cache.blob(&file.digest), file.size),
    };
    Plan {
        repo: remote.id.to_string(),
        commit: remote.commit.to_string(),
        license: remote.license.clone(),
        files: files.iter().map(planned).collect(),
    }
}

/// What the user should know of a repository.
pub(super) fn warnings(name: &HubName, remote: &Repository) -> Vec<String> {
    let mut warnings = Vec::new();
    if remote.id != name.repo {
        let (old, new) = (quote(name.repo.as_str()), quote(remote.id.as_str()));
        warnings.push(format!("{old} is now called {new} on the Hub; both names work"));
    }
    if let Some(first) = remote.refused.first() {
        let (count, first) = (crate::error::count(remote.refused.len(), "file"), quote(first));
        let which = format!("{count} under names that could leave the cache, such as {first}");
        warnings.push(format!("the repository lists {which}; they are never fetched"));
    }
    warnings
}

/// How messages name a file of a repository that is not here.
pub(super) fn shown(remote: &Repository, path: &RepoPath) -> PathBuf {
    PathBuf::from(format!("{}/{path}", remote.id))
}

pub(super) fn present<'r>(remote: &'r Repository, path: &RepoPath) -> Result<&'r RemoteFile> {
    remote.file(path.as_str()).ok_or_else(|| {
        let problem = format!("expected {} in {}, found none", quote(path.as_str()), quote(remote.id.as_str()));
        Error::hub(HubFailure::NotFound, problem, "the repository is incomplete; try another revision")
    })
}
