//! The cache as data: what lies in it, how much room it takes, and what is wrong with it.
//!
//! It reads folders and links and no content, and it needs no network. Whatever is damaged becomes a line in `problems` and
//! stops nothing else. Sizes are those that Python's `scan_cache_dir` states: each blob of a repository once, however
//! many snapshots link to it. [`remove`] takes away, [`verify`] hashes.

mod disk;
mod hold;
pub(crate) mod remove;
pub(crate) mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirEntry};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, HubFailure, Result, quote};

/// What file managers leave behind.
const IGNORED: &[&str] = &[".DS_Store"];
/// Folders of one snapshot inside each other; repositories have three or four.
const DEEPEST: usize = 32;
/// Longest reference that is read: a commit has 40 digits.
const REFERENCE_LIMIT: u64 = 1 << 10;
/// Fewest digits that may stand for a commit.
const SHORTEST_COMMIT: usize = 4;

/// Everything in one cache.
#[derive(Clone, Debug)]
pub(crate) struct Scan {
    /// The cache's folder, absolute.
    pub(crate) cache: PathBuf,
    /// By kind, then by name.
    pub(crate) repos: Vec<CachedRepo>,
    /// Content that Python's client shares between repositories.
    pub(crate) shared: Vec<SharedBlob>,
    /// Entries of the cache's folder that are no repository.
    pub(crate) problems: Vec<String>,
}

/// What kind of repository: only models are ours, the others are Python's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RepoKind {
    Model,
    Dataset,
    Space,
    Kernel,
}

impl RepoKind {
    pub(crate) const ALL: [RepoKind; 4] = [RepoKind::Model, RepoKind::Dataset, RepoKind::Space, RepoKind::Kernel];

    /// As folders begin and as the Hub's addresses say.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
            RepoKind::Space => "spaces",
            RepoKind::Kernel => "kernels",
        }
    }

    pub(crate) fn noun(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::Dataset => "dataset",
            RepoKind::Space => "space",
            RepoKind::Kernel => "kernel",
        }
    }
}

/// One repository of the cache.
#[derive(Clone, Debug)]
pub(crate) struct CachedRepo {
    pub(crate) kind: RepoKind,
    /// `owner/name`.
    pub(crate) id: String,
    /// `<cache>/models--owner--name`.
    pub(crate) folder: PathBuf,
    pub(crate) revisions: Vec<CachedRevision>,
    /// References to commits that are not here: their names.
    pub(crate) dangling_refs: Vec<String>,
    /// Whole files by the name of their content.
    pub(crate) blobs: Vec<Blob>,
    /// Files that a download has not finished.
    pub(crate) partials: Vec<Partial>,
    /// Bytes of all files of all revisions.
    pub(crate) size: u64,
    /// Different files of all revisions.
    pub(crate) n_files: usize,
    pub(crate) modified: Option<SystemTime>,
    /// What is wrong, a line each.
    pub(crate) problems: Vec<String>,
}

/// One commit of a repository.
#[derive(Clone, Debug)]
pub(crate) struct CachedRevision {
    pub(crate) commit: String,
    pub(crate) folder: PathBuf,
    /// The branches and tags that point to it.
    pub(crate) refs: Vec<String>,
    pub(crate) files: Vec<CachedFile>,
    /// Bytes of its different files.
    pub(crate) size: u64,
    pub(crate) modified: Option<SystemTime>,
}

/// One file of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct CachedFile {
    /// Its path in the repository, parts joined by `/`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
    pub(crate) size: u64,
}

/// Where a snapshot's file has its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// In the file that the link leads to, as a rule a blob of the same repository.
    Link(PathBuf),
    /// In the snapshot itself, where links could not be made.
    Copy,
    /// Nowhere: the link leads to nothing.
    Dangling(PathBuf),
}

/// One blob.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    /// What its content hashes to, if the name is one of the Hub's.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// The content lies here, and the blob is a link to it.
    pub(crate) shared: Option<PathBuf>,
    /// Some snapshot links to it.
    pub(crate) used: bool,
}

/// A file that a download has not finished, or its journal.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// Bytes that it takes on the disk, which a file with holes has fewer of than its length says.
    pub(crate) size: u64,
}

/// Content that several repositories may link to.
#[derive(Clone, Debug)]
pub(crate) struct SharedBlob {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// Some repository links to it.
    pub(crate) used: bool,
}

impl Scan {
    /// Bytes of all repositories' files.
    pub(crate) fn size(&self) -> u64 {
        self.repos.iter().map(|repo| repo.size).sum()
    }

    /// The repository, and the revision if one is named, that `owner/name`, `owner/name@revision` or
    /// `datasets/owner/name` stands for. Names are compared with what is there and never made into paths.
    pub(crate) fn find(&self, name: &str) -> Result<(&CachedRepo, Option<&CachedRevision>)> {
        let (id, revision) = name.split_once('@').map_or((name, None), |(id, revision)| (id, Some(revision)));
        let matches = |repo: &&CachedRepo| {
            let plain = repo.kind == RepoKind::Model && repo.id == id;
            plain || id.strip_prefix(repo.kind.plural()).and_then(|rest| rest.strip_prefix('/')) == Some(&repo.id)
        };
        let absent = |what: String, hint: &str| Err(Error::hub(HubFailure::NotFound, what, hint));
        let Some(repo) = self.repos.iter().find(matches) else {
            let place = quote(&self.cache.display().to_string());
            return absent(
                format!("{} is not in the cache {place}", quote(id)),
                "`fireside cache ls` lists what is there",
            );
        };
        let Some(revision) = revision else { return Ok((repo, None)) };
        let by_name = |r: &&CachedRevision| r.commit == revision || r.refs.iter().any(|name| name == revision);
        if let Some(found) = repo.revisions.iter().find(by_name) {
            return Ok((repo, Some(found)));
        }
        let begins = |r: &&CachedRevision| revision.len() >= SHORTEST_COMMIT && r.commit.starts_with(revision);
        let found: Vec<&CachedRevision> = repo.revisions.iter().filter(begins).collect();
        match found[..] {
            [found] => Ok((repo, Some(found))),
            [] => absent(
                format!("{} has no revision {} in the cache", quote(id), quote(revision)),
                "`fireside cache ls --json` lists the revisions that are there",
            ),
            _ => absent(
                format!("{} commits of {} begin with {}", found.len(), quote(id), quote(revision)),
                "give more digits",
            ),
        }
    }
}

/// Looks at everything in a cache. A cache that is not there is empty.
pub(crate) fn scan(cache: &Path) -> Result<Scan> {
    // Without links and `..`, so that paths can be compared; one that is not there keeps its name.
    let cache = fs::canonicalize(cache).or_else(|_| std::path::absolute(cache)).unwrap_or_else(|_| cache.to_owned());
    let place = quote(&cache.display().to_string());
    let mut scan = Scan { cache: cache.clone(), repos: Vec::new(), shared: Vec::new(), problems: Vec::new() };
    match fs::metadata(&cache) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(scan),
        Err(error) => {
            return Err(Error::hub(HubFailure::Cache, format!("cannot read the cache {place}: {error}"), ""));
        }
        Ok(found) if !found.is_dir() => {
            return Err(Error::hub(
                HubFailure::Cache,
                format!("expected a folder as the cache, found a file: {place}"),
                "name a folder in HF_HOME, HF_HUB_CACHE or with `--cache-dir`",
            ));
        }
        Ok(_) => {}
    }
    let has_store = disk::is_shared_store(&cache);
    for entry in entries(&cache, &mut scan.problems) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == ".locks" || name == "CACHEDIR.TAG" || name == "blobs" && has_store {
            continue;
        }
        match named(&name) {
            Some((kind, id)) if entry.path().is_dir() => scan.repos.push(scan_repo(kind, id, &entry.path())),
            _ => scan.problems.push(format!("{} is no repository", quote(&name))),
        }
    }
    scan.repos.sort_by(|a, b| (a.kind, &a.id).cmp(&(b.kind, &b.id)));
    if has_store {
        scan.shared = shared_blobs(&cache, &scan.repos, &mut scan.problems);
    }
    Ok(scan)
}

/// `models--owner--name` → a model, `owner/name`.
fn named(folder: &str) -> Option<(RepoKind, String)> {
    let (kind, id) = folder.split_once("--")?;
    let kind = RepoKind::ALL.into_iter().find(|known| known.plural() == kind)?;
    (!id.is_empty()).then(|| (kind, id.replace("--", "/")))
}

/// Looks at one repository.
pub(crate) fn scan_repo(kind: RepoKind, id: String, folder: &Path) -> CachedRepo {
    let mut problems = Vec::new();
    let mut commits = references(&folder.join("refs"), &mut problems);
    let mut revisions = Vec::new();
    let mut seen: BTreeMap<PathBuf, (u64, Option<SystemTime>)> = BTreeMap::new(); // by where the content lies
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() {
        problems.push("there is no folder `snapshots`: no download was finished".to_owned());
    }
    for entry in entries(&snapshots, &mut problems) {
        let commit = entry.file_name().to_string_lossy().into_owned();
        if !entry.path().is_dir() {
            problems.push(format!("{} is a file where a snapshot's folder belongs", quote(&commit)));
            continue;
        }
        let refs = commits.remove(&commit).unwrap_or_default();
        let revision = scan_revision(commit, entry.path(), refs, &mut problems);
        for file in &revision.files {
            if let Some(place) = file.place() {
                seen.entry(place.to_owned()).or_insert_with(|| (file.size, modified(place)));
            }
        }
        revisions.push(revision);
    }
    let mut dangling_refs = Vec::new();
    for (commit, names) in commits {
        for name in names {
            problems.push(format!("the reference {} names {}, which is not here", quote(&name), quote(&commit)));
            dangling_refs.push(name);
        }
    }
    let (blobs, partials) = content(&folder.join("blobs"), &seen, &mut problems);
    CachedRepo {
        kind,
        id,
        folder: folder.to_owned(),
        revisions,
        dangling_refs,
        blobs,
        partials,
        size: seen.values().map(|(size, _)| size).sum(),
        n_files: seen.len(),
        modified: seen.values().filter_map(|(_, modified)| *modified).max().or_else(|| modified(folder)),
        problems,
    }
}

fn scan_revision(commit: String, folder: PathBuf, refs: Vec<String>, problems: &mut Vec<String>) -> CachedRevision {
    let mut files = Vec::new();
    walk(&folder, "", DEEPEST, problems, &mut |name, path, problems| {
        let Ok(known) = fs::symlink_metadata(&path) else { return };
        let (content, size) = if known.is_symlink() {
            let Some(target) = target_of(&path) else { return };
            match fs::metadata(&target) {
                Ok(found) if found.is_file() => (Content::Link(target), found.len()),
                Ok(_) => {
                    problems.push(format!("{} of {} links to no file", quote(&name), quote(&commit)));
                    return;
                }
                Err(_) => {
                    problems.push(format!("{} of {} links to nothing", quote(&name), quote(&commit)));
                    (Content::Dangling(target), 0)
                }
            }
        } else if known.is_file() {
            (Content::Copy, known.len())
        } else {
            problems.push(format!("{} of {} is neither a file nor a link", quote(&name), quote(&commit)));
            return;
        };
        files.push(CachedFile { name, path, content, size });
    });
    let places: BTreeMap<&Path, u64> = files.iter().filter_map(|file| Some((file.place()?, file.size))).collect();
    let size = places.values().sum();
    let newest = places.keys().filter_map(|place| modified(place)).max().or_else(|| modified(&folder));
    CachedRevision { commit, folder, refs, files, size, modified: newest }
}

impl CachedFile {
    /// Where the content lies.
    pub(crate) fn place(&self) -> Option<&Path> {
        match &self.content {
            Content::Link(target) => Some(target),
            Content::Copy => Some(&self.path),
            Content::Dangling(_) => None,
        }
    }
}

/// Commits and the names of the references to them.
fn references(folder: &Path, problems: &mut Vec<String>) -> BTreeMap<String, Vec<String>> {
    let mut commits: BTreeMap<String, Vec<String>> = BTreeMap::new();
    walk(folder, "", DEEPEST, problems, &mut |name, path, problems| {
        let mut commit = String::new();
        let is_file = fs::metadata(&path).is_ok_and(|found| found.is_file()); // opening a pipe would wait for ever
        let read = is_file.then(|| fs::File::open(&path)?.take(REFERENCE_LIMIT).read_to_string(&mut commit));
        match read {
            Some(Ok(_)) => commits.entry(commit.trim().to_owned()).or_default().push(name),
            _ => problems.push(format!("the reference {} cannot be read", quote(&name))),
        }
    });
    commits
}

/// What lies in `blobs`: whole files, and those that are not finished.
fn content<T>(folder: &Path, used: &BTreeMap<PathBuf, T>, problems: &mut Vec<String>) -> (Vec<Blob>, Vec<Partial>) {
    let (mut blobs, mut partials) = (Vec::new(), Vec::new());
    for entry in entries(folder, problems) {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let Ok(known) = fs::symlink_metadata(&path) else { continue };
        if name.ends_with(".incomplete") && !known.is_dir() {
            partials.push(Partial { name, path, size: room(&known) });
        } else if known.is_symlink() || known.is_file() {
            let shared = target_of(&path);
            let size = fs::metadata(&path).map_or(0, |found| found.len());
            let used = used.contains_key(&path);
            blobs.push(Blob { name, path, size, shared, used });
        } else {
            problems.push(format!("{} in `blobs` is no file", quote(&name)));
        }
    }
    (blobs, partials)
}

/// What Python's client keeps for several repositories: `blobs/<two digits>/<64 digits>`.
fn shared_blobs(cache: &Path, repos: &[CachedRepo], problems: &mut Vec<String>) -> Vec<SharedBlob> {
    let used: BTreeSet<&Path> =
        repos.iter().flat_map(|repo| &repo.blobs).filter_map(|blob| blob.shared.as_deref()).collect();
    let mut blobs = Vec::new();
    for group in entries(&cache.join("blobs"), problems) {
        if !group.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for entry in entries(&group.path(), problems) {
            let is_content = entry.file_name().len() == 64 && entry.file_type().is_ok_and(|kind| kind.is_file());
            if let (true, Ok(known)) = (is_content, entry.metadata()) {
                let path = entry.path();
                blobs.push(SharedBlob { size: known.len(), used: used.contains(path.as_path()), path });
            }
        }
    }
    blobs
}

/// The entries of a folder by name. One that is not there has none.
fn entries(folder: &Path, problems: &mut Vec<String>) -> Vec<DirEntry> {
    let mut found: Vec<DirEntry> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            problems.push(format!("the folder {} cannot be read: {error}", quote(&name)));
            Vec::new()
        }
    };
    found.retain(|entry| !IGNORED.iter().any(|ignored| entry.file_name() == *ignored));
    found.sort_by_key(DirEntry::file_name);
    found
}

/// Calls `each` for everything under a folder that is no folder. Links are not followed.
fn walk(
    folder: &Path,
    prefix: &str,
    depth: usize,
    problems: &mut Vec<String>,
    each: &mut dyn FnMut(String, PathBuf, &mut Vec<String>),
) {
    for entry in entries(folder, problems) {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            each(name, entry.path(), problems);
        } else if depth > 0 {
            walk(&entry.path(), &format!("{name}/"), depth - 1, problems, each);
        } else {
            problems.push(format!("{} lies too deep", quote(&name)));
        }
    }
}

/// What a link names, as an absolute path without `..`; `None` if it is no link. Only this one link is followed.
pub(crate) fn target_of(link: &Path) -> Option<PathBuf> {
    let target = link.parent()?.join(fs::read_link(link).ok()?);
    let mut plain = PathBuf::new();
    for part in target.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    Some(plain)
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// Bytes on the disk.
fn room(file: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    {
        const BLOCK: u64 = 512; // what st_blocks counts in
        file.len().min(std::os::unix::fs::MetadataExt::blocks(file).saturating_mul(BLOCK))
    }
    #[cfg(not(unix))]
    file.len()
}
