//! What the Hub says of a model before any of its weights move: its listing, its config.json, its weights' headers.
//!
//! Some requests and kilobytes; nothing is written to the cache. Whether the model runs and fits others judge.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use safetensors::tensor::Metadata;

use super::api::{RemoteFile, Repository, file_path, repository};
use super::cache::RepoCache;
use super::client::Client;
use super::files::{self, Weights};
use super::name::{HubName, RepoPath, Selection};
use super::pull::{Plan, PlannedFile};
use super::transfer::is_whole;
use super::{Hub, headers};
use crate::error::{Error, HubFailure, Result, quote};

/// Headers that are asked for at the same time.
const AT_ONCE: usize = 4;

/// A model of the Hub that is not here.
pub(crate) struct Preflight {
    /// Its files, and which of them are in the cache.
    pub(crate) plan: Plan,
    /// Whether its page has terms to accept first.
    pub(crate) gated: bool,
    /// config.json: its name for messages, and its text.
    pub(crate) config: Option<(PathBuf, String)>,
    /// The headers of its weights, each with its file's name for messages. None of them for other formats.
    pub(crate) headers: Vec<(PathBuf, Metadata)>,
    /// Whether the weights are single files that the user named, in whatever format.
    pub(crate) is_selection: bool,
    pub(crate) has_tokenizer: bool,
    /// The cache's folder, and the free bytes of its disk where that tells.
    pub(crate) folder: PathBuf,
    pub(crate) disk_free: Option<u64>,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

impl Hub {
    /// Asks the Hub what a model is. Nothing is fetched but small texts and the beginnings of weight files.
    pub(crate) fn preflight(&self, name: &str) -> Result<Preflight> {
        let name = self.wanted(name)?;
        let client = Client::new(&self.settings)?;
        let remote = repository(&client, &name.repo, &name.revision)?;
        let cache = RepoCache::new(&self.settings.cache, &name.repo);
        let is_here = |file: &RemoteFile| is_whole(&cache.blobs().join(file.digest.to_string()), file.size);
        let text = |file: &RemoteFile| {
            let here = is_here(file).then(|| std::fs::read_to_string(cache.blobs().join(file.digest.to_string())).ok());
            here.flatten().map_or_else(
                || client.text(&file_path(&remote.id, &remote.commit, &file.path)).map(|(text, _)| text),
                Ok,
            )
        };

        let config = remote.file(files::CONFIG);
        let is_selection = name.selection != Selection::Weights;
        if config.is_none() && !is_selection {
            let problem = format!("expected `{}` in {}, found none", files::CONFIG, quote(remote.id.as_str()));
            return Err(Error::hub(HubFailure::NotFound, problem, "this is no model's repository"));
        }
        let (index, weights) = match files::weights(&name, &remote.paths())? {
            Weights::Single(path) => (None, vec![path]),
            Weights::Named(paths) => (None, paths),
            Weights::Index(path) => {
                let index = present(&remote, &path)?;
                (Some(index), files::shards(&shown(&remote, index), &text(index)?)?)
            }
        };
        let weights = weights.iter().map(|path| present(&remote, path)).collect::<Result<Vec<_>>>()?;
        let headers = if is_selection { Vec::new() } else { read_headers(&client, &remote, &weights)? };
        let beside = files::BESIDE.iter().filter_map(|name| remote.file(name));
        let wanted = match is_selection {
            true => weights,
            false => config.into_iter().chain(beside).chain(index).chain(weights).collect(),
        };
        let has = |name: &str| remote.file(name).is_some();
        let planned = |file: &RemoteFile| PlannedFile {
            name: file.path.to_string(),
            size: file.size,
            hash: file.digest.to_string(),
            cached: is_here(file),
        };
        Ok(Preflight {
            config: config.map(|file| Ok::<_, Error>((shown(&remote, file), text(file)?))).transpose()?,
            gated: remote.gated,
            headers,
            is_selection,
            has_tokenizer: has("tokenizer.json") || has("vocab.json") && has("merges.txt"),
            folder: cache.root.clone(),
            disk_free: free_space(&cache.root),
            warnings: warnings(&name, &remote),
            plan: Plan {
                repo: remote.id.to_string(),
                commit: remote.commit.to_string(),
                license: remote.license.clone(),
                files: wanted.into_iter().map(planned).collect(),
            },
        })
    }
}

/// The headers of weight files, several at once, in the order of the files.
fn read_headers(client: &Client, remote: &Repository, files: &[&RemoteFile]) -> Result<Vec<(PathBuf, Metadata)>> {
    let next = AtomicUsize::new(0);
    let read: Mutex<Vec<(usize, Result<Metadata>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(files.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(at) else { return };
                    let header = headers::read(client, remote, file);
                    if header.is_err() {
                        next.store(files.len(), Ordering::Relaxed);
                    }
                    read.lock().unwrap_or_else(PoisonError::into_inner).push((at, header));
                }
            });
        }
    });
    let mut read = read.into_inner().unwrap_or_else(PoisonError::into_inner);
    read.sort_by_key(|(at, _)| *at);
    read.into_iter().map(|(at, header)| Ok((shown(remote, files[at]), header?))).collect()
}

fn present<'r>(remote: &'r Repository, path: &RepoPath) -> Result<&'r RemoteFile> {
    remote.file(path.as_str()).ok_or_else(|| {
        let problem = format!("expected {} in {}, found none", quote(path.as_str()), quote(remote.id.as_str()));
        Error::hub(HubFailure::NotFound, problem, "the repository is incomplete; try another revision")
    })
}

/// How messages name a file that is not here.
fn shown(remote: &Repository, file: &RemoteFile) -> PathBuf {
    PathBuf::from(format!("{}/{}", remote.id, file.path))
}

/// Free bytes where the cache is, or will be.
fn free_space(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    fs4::available_space(there).ok()
}

fn warnings(name: &HubName, remote: &Repository) -> Vec<String> {
    if remote.id == name.repo {
        return Vec::new();
    }
    let (old, new) = (quote(name.repo.as_str()), quote(remote.id.as_str()));
    vec![format!("{old} is now called {new} on the Hub; both names work")]
}
