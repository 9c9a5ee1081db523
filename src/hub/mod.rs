//! A model's name → local files, by way of the standard Hub cache and, with the feature `hub`, the network.
//!
//! Cache first: what is complete there is used without a request. The modules below read and write the cache and are
//! always compiled; those that make connections need the feature.

pub(crate) mod bundle;
mod cache;
pub(crate) mod care;
pub(crate) mod catalog;
mod digest;
mod files;
mod lock;
mod name;
pub(crate) mod offline;
mod progress;
mod settings;
mod store;
mod threads;

#[cfg(feature = "hub")]
mod api;
#[cfg(feature = "hub")]
mod choice;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod headers;
#[cfg(feature = "hub")]
pub(crate) mod lockfile;
#[cfg(feature = "hub")]
mod part;
#[cfg(feature = "hub")]
pub(crate) mod preflight;
#[cfg(feature = "hub")]
mod pull;
#[cfg(feature = "hub")]
mod transfer;
#[cfg(feature = "hub")]
mod trouble;

use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

use self::cache::RepoCache;
use self::name::{Commit, HubName, RepoId, RepoPath, Revision, Selection};
pub use self::offline::{NetworkBan, forbid_network};
use self::progress::OnProgress;
pub use self::progress::{FileProgress, FileState, Progress};
#[cfg(feature = "hub")]
pub use self::pull::{Plan, PlannedFile, Pulled};
use self::settings::{Network, Settings, Token};
use crate::error::{Error, HubFailure, Result, quote};
use crate::gguf::Gguf;
use crate::source::{Location, PartName, Source, TokenizerFiles, is_gguf};

/// What a model is held against before its weights move.
pub(crate) struct Requirements {
    /// config.json: is the architecture known?
    pub(crate) config: fn(&Path, &str) -> Result<()>,
    /// The header of a weight file: are its dtypes known?
    pub(crate) weights: fn(&Path, &Metadata) -> Result<()>,
    /// The head of a GGUF file: all of that.
    pub(crate) gguf: fn(&Gguf) -> Result<()>,
}

/// The Hub and this machine's cache of it.
///
/// ```no_run
/// use fireside::{Engine, Hub};
///
/// let hub = Hub::from_env()?.on_progress(|progress| eprintln!("{} bytes", progress.bytes_done));
/// let engine = Engine::builder().hub(hub).load("gpt2")?;
/// # Ok::<(), fireside::Error>(())
/// ```
#[derive(Clone)]
pub struct Hub {
    settings: Settings,
    on_progress: Option<OnProgress>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Hub {
    /// As the environment says: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and the rest of
    /// what Python's client reads.
    pub fn from_env() -> Result<Hub> {
        Ok(Hub { settings: Settings::from_env()?, on_progress: None })
    }

    /// Keeps models in this folder.
    #[must_use]
    pub fn cache_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.settings.cache = folder.into();
        self
    }

    /// Asks this Hub, a mirror for example.
    #[must_use]
    pub fn endpoint(mut self, address: &str) -> Self {
        self.settings.endpoint = address.trim_end_matches('/').to_owned();
        self
    }

    /// Sends this token to the Hub, and to nobody else.
    pub fn token(mut self, token: &str) -> Result<Self> {
        self.settings.token = Token::new(token, "the program")?;
        Ok(self)
    }

    /// Makes no request.
    #[must_use]
    pub fn offline(mut self) -> Self {
        self.settings.network = Network::Forbidden("--offline");
        self
    }

    /// Calls a function with what a download does, at most ten times a second.
    #[must_use]
    pub fn on_progress(mut self, report: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(std::sync::Arc::new(report));
        self
    }

    /// The cache's folder.
    pub fn cache_folder(&self) -> &Path {
        &self.settings.cache
    }

    /// True where no request may be made, by the environment's word or the program's.
    pub fn is_offline(&self) -> bool {
        self.settings.network != Network::Allowed
    }

    /// The same name at another revision.
    pub fn with_revision(&self, name: &str, revision: &str) -> Result<String> {
        let named: HubName = name.parse()?;
        if named.revision != Revision::main() && named.revision.as_str() != revision {
            let problem = format!("is {}, but the name says {}", quote(revision), quote(named.revision.as_str()));
            return Err(Error::setting("revision", problem, "say it once"));
        }
        let again = format!("{}@{revision}", HubName { revision: Revision::main(), ..named });
        again.parse::<HubName>().map(|_| again)
    }

    /// True where all files of a model are in the cache.
    pub fn is_cached(&self, name: &str) -> bool {
        candidates(name).is_ok_and(|names| names.iter().any(|name| self.in_cache(name).is_ok()))
    }

    /// Finds the files of a model that is named as on the Hub: in the cache, or else on the Hub.
    pub(crate) fn resolve(&self, name: &str, check: &Requirements) -> Result<Source> {
        let names = candidates(name)?;
        if let Some(other) = names.first().filter(|name| is_single_file(name)) {
            return Err(not_a_model(other));
        }
        let mut missing = None;
        for candidate in &names {
            match self.in_cache(candidate) {
                Ok(source) => return Ok(Source { name: name.to_owned(), ..source }),
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        let Some(wanted) = names.first() else { return Err(unnamed(name)) };
        if let Some(why) = self.offline_because() {
            let problem = missing.map_or_else(String::new, |error| error.to_string());
            let hint = format!("`fireside pull {wanted}` fetches it where there is network");
            return Err(named(Error::hub(HubFailure::Offline, format!("{problem}, and {why}"), hint), name));
        }
        self.fetch(wanted, check).map_err(|error| named(error, name))?;
        let source = self.in_cache(wanted)?;
        Ok(Source { name: name.to_owned(), ..source })
    }

    /// Finds a model's tokenizer, and fetches no more than that.
    pub(crate) fn tokenizer(&self, name: &str) -> Result<TokenizerFiles> {
        let names = candidates(name)?;
        let here = |name: &HubName| {
            if let Ok(Source { tokenizer: tokenizer @ TokenizerFiles::Gguf(_), .. }) = self.in_cache(name) {
                return Some(tokenizer);
            }
            let cache = RepoCache::new(&self.settings.cache, &name.repo);
            TokenizerFiles::in_folder(&cache.snapshot(&cache.commit(&name.revision)?)).ok()
        };
        if let Some(files) = names.iter().find_map(here) {
            return Ok(files);
        }
        let Some(wanted) = names.first() else { return Err(unnamed(name)) };
        if wanted.selection != Selection::Weights {
            let problem = format!("the tokenizer of {} is in its weight file, which is not in the cache", quote(name));
            return Err(Error::hub(HubFailure::NotFound, problem, format!("`fireside pull {wanted}` fetches it")));
        }
        if let Some(why) = self.offline_because() {
            return Err(Error::hub(
                HubFailure::Offline,
                format!("the tokenizer of {} is not in the cache, and {why}", quote(name)),
                format!("`fireside pull {wanted}` fetches the model where there is network"),
            ));
        }
        let folder = self.fetch_files(
            wanted,
            &["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt"],
        )?;
        TokenizerFiles::in_folder(&folder)
    }

    /// The files of a model, if all are in the cache; or an error that names what is missing.
    fn in_cache(&self, name: &HubName) -> Result<Source> {
        let cache = RepoCache::new(&self.settings.cache, &name.repo);
        let missing = |what: &str| {
            let problem = format!("{} is not in the cache: {what}", quote(&name.to_string()));
            Error::hub(HubFailure::Offline, problem, "")
        };
        let commit = cache.commit(&name.revision).ok_or_else(|| missing("nothing of it is there"))?;
        let file = |path: &str| RepoPath::new(path).and_then(|path| cache.file(&commit, &path));
        let need = |path: &str| file(path).ok_or_else(|| missing(&format!("its `{path}` is missing")));
        if is_single_file(name) {
            return Err(not_a_model(name));
        }
        if name.selection != Selection::Weights || file(files::SINGLE).is_none() && file(files::INDEX).is_none() {
            if let Some(found) = self.gguf_in_cache(name, &cache, &commit) {
                return Ok(found);
            }
            if name.selection != Selection::Weights {
                return Err(missing("its file is missing"));
            }
        }
        need(files::CONFIG)?;
        if file(files::SINGLE).is_none() {
            let index = file(files::INDEX).ok_or_else(|| missing(&format!("its `{}` is missing", files::SINGLE)))?;
            let text = std::fs::read_to_string(&index)
                .map_err(|error| Error::file(&index, error.to_string(), "`fireside cache verify` finds damage"))?;
            for shard in files::shards(&index, &text)? {
                need(shard.as_str())?;
            }
        }
        let has = |name: &str| file(name).is_some();
        if !(has("tokenizer.json") || has("tokenizer.model") || has("vocab.json") && has("merges.txt")) {
            return Err(missing("its `tokenizer.json` is missing"));
        }
        Source::in_folder(&name.to_string(), &cache.snapshot(&commit))
    }

    /// A model in GGUF files of the commit that the revision is at, or else of another one that is here: single files do
    /// not move a branch.
    fn gguf_in_cache(&self, name: &HubName, cache: &RepoCache, commit: &Commit) -> Option<Source> {
        let others = || {
            let folder = std::fs::read_dir(cache.folder().join("snapshots")).into_iter().flatten().flatten();
            let mut others: Vec<_> = folder
                .filter_map(|entry| {
                    let time = entry.metadata().and_then(|metadata| metadata.modified()).ok()?;
                    Some((std::cmp::Reverse(time), Commit::new(entry.file_name().to_str()?)?))
                })
                .collect();
            others.sort_by_key(|(time, _)| *time);
            others.into_iter().map(|(_, commit)| commit)
        };
        let is_a_branch = name.revision.as_commit().is_none() && name.selection != Selection::Weights;
        let commits = std::iter::once(commit.clone()).chain(is_a_branch.then(others).into_iter().flatten());
        commits.into_iter().find_map(|commit| {
            let here = cache.files(&commit);
            let files::Weights::Named(parts) = files::weights(name, &here).ok()? else { return None };
            let first = parts.first()?;
            let all = PartName::of(first.as_str()).map_or(1, |part| part.parts as usize);
            let path = cache.file(&commit, first).filter(|_| parts.len() == all)?;
            Some(Source::of_gguf(&name.to_string(), Location::Disk(path)))
        })
    }

    /// Why no request may be made.
    fn offline_because(&self) -> Option<String> {
        match self.settings.network {
            _ if !cfg!(feature = "hub") => Some("this build has no network code".to_owned()),
            Network::Forbidden(why) => Some(format!("the network is not to be used ({why})")),
            Network::Allowed => None,
        }
    }

    #[cfg(feature = "hub")]
    fn fetch(&self, name: &HubName, check: &Requirements) -> Result<()> {
        self.pull_of(name, &[], Some(check)).run().map(drop)
    }

    #[cfg(feature = "hub")]
    fn fetch_files(&self, name: &HubName, files: &[&str]) -> Result<PathBuf> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        Ok(self.pull_of(name, &files, None).run()?.folder)
    }

    // `offline_because` has told the caller of the next two.
    #[cfg(not(feature = "hub"))]
    fn fetch(&self, name: &HubName, _: &Requirements) -> Result<()> {
        Err(unnamed(&name.to_string()))
    }

    #[cfg(not(feature = "hub"))]
    fn fetch_files(&self, name: &HubName, _: &[&str]) -> Result<PathBuf> {
        Err(unnamed(&name.to_string()))
    }
}

#[cfg(feature = "hub")]
impl Hub {
    /// Fetches a model, or what of it has changed on the Hub since; with patterns, those files and no others. A `folder`
    /// gets the files instead of the cache.
    pub(crate) fn pull_checked(
        &self,
        name: &str,
        patterns: &[String],
        check: &Requirements,
        folder: Option<&Path>,
    ) -> Result<Pulled> {
        let wanted = self.wanted(name)?;
        let pull = self.pull_of(&wanted, patterns, Some(check));
        folder.map_or_else(|| pull.run(), |folder| pull.run_into(folder)).map_err(|error| named(error, name))
    }

    /// Says what [`Hub::pull_checked`] would fetch.
    pub(crate) fn plan_checked(&self, name: &str, patterns: &[String], check: &Requirements) -> Result<Plan> {
        let wanted = self.wanted(name)?;
        self.pull_of(&wanted, patterns, Some(check)).plan().map_err(|error| named(error, name))
    }

    fn wanted(&self, name: &str) -> Result<HubName> {
        if let Some(why) = self.offline_because() {
            let problem = format!("cannot fetch {}: {why}", quote(name));
            let hint = "allow the network, or use what `fireside cache ls` lists";
            return Err(Error::hub(HubFailure::Offline, problem, hint));
        }
        candidates(name)?.into_iter().next().ok_or_else(|| unnamed(name))
    }

    fn pull_of<'a>(
        &'a self,
        name: &'a HubName,
        patterns: &'a [String],
        check: Option<&'a Requirements>,
    ) -> pull::Pull<'a> {
        pull::Pull { settings: &self.settings, name, patterns, check, on_progress: self.on_progress.clone() }
    }
}

/// What a name may stand for, the likeliest first: a card's repository, that repository under its other names, or the
/// repository that the name spells.
fn candidates(name: &str) -> Result<Vec<HubName>> {
    let spelled: HubName = name.parse()?;
    let Some(card) = catalog::find(spelled.repo.as_str()) else { return Ok(vec![spelled]) };
    let revision = if name.contains('@') { Some(spelled.revision.clone()) } else { Revision::new(&card.revision) };
    let named =
        |repo: &String| Some(HubName { repo: RepoId::new(repo)?, revision: revision.clone()?, ..spelled.clone() });
    Ok(std::iter::once(&card.repo).chain(&card.aliases).filter_map(named).collect())
}

/// An error that names the model, with the short name or the folder that was probably meant.
fn named(error: Error, name: &str) -> Error {
    match error {
        Error::Hub { kind, problem, hint } => {
            let problem =
                if problem.contains(name) { problem } else { format!("cannot fetch {}: {problem}", quote(name)) };
            let meant = catalog::closest(name).filter(|_| catalog::find(name).is_none() && !name.contains('/'));
            let folder = Path::new(name).parent().filter(|folder| name.contains('/') && folder.is_dir());
            let hint = match (meant, folder) {
                (Some(meant), _) => format!("did you mean `{meant}`? Otherwise {hint}"),
                (None, Some(folder)) => {
                    format!(
                        "the folder {} here has no such model; otherwise {hint}",
                        quote(&folder.display().to_string())
                    )
                }
                (None, None) => hint,
            };
            Error::hub(kind, problem, hint)
        }
        other => other,
    }
}

fn unnamed(name: &str) -> Error {
    Error::hub(HubFailure::Name, format!("{} is no model's name", quote(name)), "")
}

/// Whether a name stands for one file that is not GGUF.
fn is_single_file(name: &HubName) -> bool {
    matches!(&name.selection, Selection::File(file) if !is_gguf(file.as_str()))
}

fn not_a_model(name: &HubName) -> Error {
    Error::unsupported(
        Path::new(&name.to_string()),
        "a single file of a repository is a model only if it is a .gguf file",
        format!("name the repository alone; `fireside pull {name}` fetches the file all the same"),
    )
}
