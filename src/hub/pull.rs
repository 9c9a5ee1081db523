//! A whole model from the Hub: what it needs, whether it can run here, then its files, then the links that show them.
//!
//! The order is what makes a kill harmless and a refusal cheap: the small files and the weights' headers are judged before
//! weights move, every blob is checked before a link shows it, and the branch points to a commit only when that commit's
//! files are all here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::api::{RemoteFile, Repository, repository};
use super::cache::RepoCache;
use super::choice::{choose, gguf_of, has_tokenizer, plan_of, present, shown, warnings};
use super::client::Client;
use super::digest::digest_of_file;
use super::files;
use super::name::{HubName, RepoPath, Selection};
use super::progress::Reporter;
use super::settings::Settings;
use super::transfer::{Transfer, is_whole};
use super::{OnProgress, Requirements, store};
use super::{headers, lock};
use crate::error::{Error, HubFailure, Result, quote};

/// Longest config.json or index that is read.
const LONGEST_TEXT: u64 = 64 << 20;
/// Room that is left on the disk for everybody else.
const SPARE_ROOM: u64 = 16 << 20;

/// A model that is to be here.
pub(super) struct Pull<'a> {
    pub(super) settings: &'a Settings,
    pub(super) name: &'a HubName,
    /// The files to fetch instead of a model's, as patterns.
    pub(super) patterns: &'a [String],
    pub(super) check: Option<&'a Requirements>,
    pub(super) on_progress: Option<OnProgress>,
}

/// What a model consists of and how much of it is here.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The repository's name on the Hub.
    pub repo: String,
    /// The commit that the revision is at.
    pub commit: String,
    /// The licence that its card names.
    pub license: Option<String>,
    /// What it consists of.
    pub files: Vec<PlannedFile>,
}

/// One file of a [`Plan`].
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Its path in the repository.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its hash, which is its name in the cache: sha256, or git's sha1 for small files.
    pub hash: String,
    /// True where it is in the cache in full length.
    pub cached: bool,
}

/// A model that is in the cache.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What it consists of; `cached` says what was here before.
    pub plan: Plan,
    /// The folder that shows it.
    pub folder: PathBuf,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Pull<'_> {
    /// Says what would be fetched, with no change to the cache.
    pub(super) fn plan(&self) -> Result<Plan> {
        let client = Client::new(self.settings)?;
        let remote = repository(&client, &self.name.repo, &self.name.revision)?;
        let cache = RepoCache::new(&self.settings.cache, &self.name.repo);
        let read = |file: &RemoteFile| {
            let here = cache.blob(&file.digest);
            match std::fs::read_to_string(here) {
                Ok(text) if text.len() as u64 == file.size => Ok(text),
                _ => client.text(&super::api::file_path(&remote.id, &remote.commit, &file.path)).map(|(text, _)| text),
            }
        };
        let wanted = self.wanted(&client, &remote, &cache, &read)?;
        Ok(plan_of(&remote, &wanted, &cache))
    }

    /// Fetches what is missing into the cache and shows the whole.
    pub(super) fn run(&self) -> Result<Pulled> {
        let cache = RepoCache::new(&self.settings.cache, &self.name.repo);
        let reporter = self.reporter();
        let client = self.client(&reporter)?;
        let remote = repository(&client, &self.name.repo, &self.name.revision)?;
        store::prepare(&cache)?;
        let _pulling = lock::share(&cache.lock("pull"), |holder| reporter.notice(&format!("waiting for {holder}")))?;
        let plan = self.fetch(&client, &remote, &cache, &reporter, &|_| Ok(()))?;
        for file in &plan.files {
            if let Some(path) = RepoPath::new(&file.name) {
                store::point(&cache, &remote.commit, &path, &file.hash)?;
            }
        }
        let whole = self.patterns.is_empty() && self.name.selection == Selection::Weights;
        if whole {
            note_absences(&cache, &remote)?;
        }
        // Single files of a newer commit do not take a branch away from the commit that is whole.
        if whole || cache.commit(&self.name.revision).is_none() {
            store::write_reference(&cache, &self.name.revision, &remote.commit)?;
        }
        reporter.finish();
        Ok(Pulled { plan, folder: cache.snapshot(&remote.commit), warnings: warnings(self.name, &remote) })
    }

    /// Fetches the files into a folder, from the cache where they are there. What is half done waits in
    /// `FOLDER/.cache/fireside` for the next run.
    pub(super) fn run_into(&self, folder: &Path) -> Result<Pulled> {
        let shared = RepoCache::new(&self.settings.cache, &self.name.repo);
        let beside = RepoCache::new(&folder.join(".cache").join("fireside"), &self.name.repo);
        let reporter = self.reporter();
        let client = self.client(&reporter)?;
        let remote = repository(&client, &self.name.repo, &self.name.revision)?;
        let waiting =
            |holder: &str| reporter.notice(&format!("waiting for {holder}, which fetches into the same folder"));
        let _pulling = lock::acquire(&beside.root.join("folder.lock"), waiting)?;
        store::prepare(&beside)?;
        let bring = |files: &[&RemoteFile]| {
            files.iter().try_for_each(|file| {
                let there = beside.blob(&file.digest);
                let known = shared.blob(&file.digest);
                if there.exists() {
                    Ok(())
                } else {
                    bring(file, &folder.join(file.path.as_str()), &known, &beside, &there)
                }
            })
        };
        let plan = self.fetch(&client, &remote, &beside, &reporter, &bring)?;
        for (index, file) in plan.files.iter().enumerate() {
            let (here, there) = (folder.join(&file.name), beside.blobs().join(&file.hash));
            here.parent().map_or(Ok(()), store::make_folder)?;
            let used_again = plan.files[index + 1..].iter().any(|other| other.hash == file.hash);
            let placed = if used_again {
                let copy = store::temporary(&beside, "copy");
                std::fs::copy(&there, &copy).and_then(|_| std::fs::rename(&copy, &here))
            } else {
                std::fs::rename(&there, &here)
            };
            placed.map_err(|error| store::cache_failure(&here, "write", &error))?;
        }
        let _ = std::fs::remove_dir_all(beside.folder()); // whatever is left is of no use to anybody
        reporter.finish();
        Ok(Pulled { plan, folder: folder.to_owned(), warnings: warnings(self.name, &remote) })
    }

    fn reporter(&self) -> Arc<Reporter> {
        Arc::new(Reporter::new(&self.name.to_string(), self.on_progress.clone()))
    }

    fn client(&self, reporter: &Arc<Reporter>) -> Result<Client> {
        let reporter = Arc::clone(reporter);
        Ok(Client::new(self.settings)?.telling(move |error| reporter.notice(&format!("trying again: {error}"))))
    }

    /// Fetches what is missing into a cache's blobs. `before` sees what is wanted before weights move.
    fn fetch(
        &self,
        client: &Client,
        remote: &Repository,
        cache: &RepoCache,
        reporter: &Reporter,
        before: &dyn Fn(&[&RemoteFile]) -> Result<()>,
    ) -> Result<Plan> {
        let transfer = Transfer {
            client,
            cache,
            repo: &remote.id,
            commit: &remote.commit,
            reporter,
            stall: self.settings.stall,
            stop: AtomicBool::new(false),
        };
        let early = std::cell::RefCell::new(BTreeSet::new());
        let read = |file: &RemoteFile| {
            if file.size > LONGEST_TEXT {
                let problem = format!("expected a text of at most {LONGEST_TEXT} bytes, found {}", file.size);
                return Err(Error::file(&shown(remote, &file.path), problem, "the repository is damaged"));
            }
            early.borrow_mut().insert(file.digest);
            room_for(cache, &[(0, file)])?;
            transfer.fetch(&[(reporter.add(file.path.as_str(), file.size), file)])?;
            let blob = cache.blob(&file.digest);
            std::fs::read_to_string(&blob)
                .or_else(|_| std::fs::read_to_string(cache.pointer(&remote.commit, &file.path)))
                .map_err(|error| Error::file(&blob, format!("expected text: {error}"), "the repository is damaged"))
        };
        let wanted = self.wanted(client, remote, cache, &read)?;
        let plan = plan_of(remote, &wanted, cache);
        before(&wanted)?;
        let mut known = early.into_inner(); // two files of one content are fetched once
        let rest: Vec<(usize, &RemoteFile)> = wanted
            .iter()
            .filter(|file| known.insert(file.digest))
            .map(|file| (reporter.add(file.path.as_str(), file.size), *file))
            .collect();
        room_for(cache, &rest)?;
        transfer.fetch(&rest)?;
        Ok(plan)
    }

    /// The files that the user wants, small ones first, after they were judged.
    fn wanted<'r>(
        &self,
        client: &Client,
        remote: &'r Repository,
        cache: &RepoCache,
        read: &dyn Fn(&RemoteFile) -> Result<String>,
    ) -> Result<Vec<&'r RemoteFile>> {
        if !self.patterns.is_empty() {
            let paths = files::matching(self.patterns, &remote.paths());
            if paths.is_empty() {
                let (repo, patterns) = (quote(remote.id.as_str()), quote(&self.patterns.join(" ")));
                let problem = format!("{repo} has no file that fits {patterns}");
                return Err(Error::hub(HubFailure::NotFound, problem, "`--file '*' --dry-run` lists all"));
            }
            return paths.iter().map(|path| present(remote, path)).collect();
        }
        let judge = |path: PathBuf, text: &str| self.check.map_or(Ok(()), |check| (check.config)(&path, text));
        let choice = choose(self.name, remote, read, &judge)?;
        if choice.config.is_some() {
            if !has_tokenizer(remote) {
                return Err(no_tokenizer(remote));
            }
            let is_missing = |file: &&&RemoteFile| !is_whole(&cache.blob(&file.digest), file.size);
            let missing: Vec<&RemoteFile> = choice.weights.iter().filter(is_missing).copied().collect();
            if let Some(check) = self.check {
                for (path, header) in headers::read_all(client, remote, &missing)? {
                    (check.weights)(&path, &header)?;
                }
            }
        }
        if let (Some(check), Some(files)) = (self.check, gguf_of(&choice))
            && files.iter().any(|file| !is_whole(&cache.blob(&file.digest), file.size))
        {
            (check.gguf)(&headers::read_gguf(client, remote, &files)?)?;
        }
        Ok(choice.files())
    }
}

/// Notes which of the files that a model's reader asks for the repository does not have.
fn note_absences(cache: &RepoCache, remote: &Repository) -> Result<()> {
    let absent = [files::CONFIG].into_iter().chain(files::BESIDE).filter(|name| remote.file(name).is_none());
    absent.filter_map(RepoPath::new).try_for_each(|path| store::write_absence(cache, &remote.commit, &path))
}

/// Saves a download where a file lies in its folder already, as a second name of it, or in the shared cache, as a copy.
fn bring(file: &RemoteFile, here: &Path, known: &Path, beside: &RepoCache, there: &Path) -> Result<()> {
    let failed = |error: std::io::Error| store::cache_failure(there, "write", &error);
    let sound =
        |path: &Path| is_whole(path, file.size) && digest_of_file(path, &file.digest).is_ok_and(|d| d == file.digest);
    if sound(here) && std::fs::hard_link(here, there).is_ok() || !sound(known) {
        return Ok(());
    }
    let copy = store::temporary(beside, "copy");
    std::fs::copy(known, &copy).and_then(|_| std::fs::rename(&copy, there)).map_err(failed)
}

/// Asks the disk before anything large is begun.
fn room_for(cache: &RepoCache, files: &[(usize, &RemoteFile)]) -> Result<()> {
    let missing = |file: &RemoteFile| {
        let etag = file.digest.to_string();
        let partly = super::part::bytes_on_disk(&cache.blobs(), &etag);
        if is_whole(&cache.blobs().join(&etag), file.size) { 0 } else { file.size.saturating_sub(partly) }
    };
    let needed: u64 = files.iter().map(|(_, file)| missing(file)).sum();
    let Ok(free) = fs4::available_space(cache.blobs()) else { return Ok(()) }; // a file system that does not tell
    if needed == 0 || needed + SPARE_ROOM <= free {
        return Ok(());
    }
    let needed = needed + SPARE_ROOM;
    Err(Error::hub(
        HubFailure::DiskFull,
        format!(
            "the disk of {} is too full: expected room for {needed} bytes, found {free}",
            quote(&cache.root.display().to_string())
        ),
        "make room (`fireside cache ls` shows what is there), or name another folder in HF_HOME",
    ))
}

fn no_tokenizer(remote: &Repository) -> Error {
    Error::unsupported(
        Path::new(remote.id.as_str()),
        "expected `tokenizer.json`, `tokenizer.model`, or `vocab.json` and `merges.txt`, found none",
        "look for a copy of the model with tokenizer.json",
    )
}
