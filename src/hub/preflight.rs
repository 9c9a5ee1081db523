//! What the Hub says of a model before any of its weights move: its listing, its config.json, its weights' headers.
//!
//! Some requests and kilobytes; nothing is written to the cache. Whether the model runs and fits others judge.

use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

use super::api::{RemoteFile, file_path, repository};
use super::cache::RepoCache;
use super::choice::{choose, gguf_of, has_tokenizer, plan_of, shown, warnings};
use super::client::Client;
use super::name::HubName;
use super::pull::Plan;
use super::transfer::is_whole;
use super::{Hub, headers, named};
use crate::error::Result;
use crate::gguf::Gguf;

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
    /// The head of a model in GGUF.
    pub(crate) gguf: Option<Gguf>,
    /// Whether the weights are single files that the user named, in another format.
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
        self.look_at(self.wanted(name)?).map_err(|error| named(error, name))
    }

    fn look_at(&self, name: HubName) -> Result<Preflight> {
        let client = Client::new(&self.settings)?;
        let remote = repository(&client, &name.repo, &name.revision)?;
        let cache = RepoCache::new(&self.settings.cache, &name.repo);
        let text = |file: &RemoteFile| {
            let blob = cache.blob(&file.digest);
            let here = is_whole(&blob, file.size).then(|| std::fs::read_to_string(&blob).ok()).flatten();
            here.map_or_else(
                || client.text(&file_path(&remote.id, &remote.commit, &file.path)).map(|(text, _)| text),
                Ok,
            )
        };
        let choice = choose(&name, &remote, &text, &|_, _| Ok(()))?;
        let gguf = gguf_of(&choice).map(|files| headers::read_gguf(&client, &remote, &files)).transpose()?;
        let (has_config, is_selection) = (choice.config.is_some(), choice.config.is_none() && gguf.is_none());
        let headers = if has_config { headers::read_all(&client, &remote, &choice.weights)? } else { Vec::new() };
        Ok(Preflight {
            plan: plan_of(&remote, &choice.files(), &cache),
            config: choice.config.map(|(file, text)| (shown(&remote, &file.path), text)),
            gated: remote.gated,
            headers,
            gguf,
            is_selection,
            has_tokenizer: has_tokenizer(&remote),
            folder: cache.root.clone(),
            disk_free: free_space(&cache.root),
            warnings: warnings(&name, &remote),
        })
    }
}

/// Free bytes where the cache is, or will be.
fn free_space(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    fs4::available_space(there).ok()
}
