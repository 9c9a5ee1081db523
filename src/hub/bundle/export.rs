//! A model of the cache → a bundle. Every content is hashed on its way out, so that damage does not travel.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::archive::{BLOCK, PIECE, header, padding, read_piece};
use super::{BLOBS, Bundle, BundledFile, MANIFEST, stated_digest};
use crate::error::{Error, HubFailure, Result, quote};
use crate::hub::cache::RepoCache;
use crate::hub::care::{RepoKind, scan_repo};
use crate::hub::digest::{Digest, Hasher, digest_of_file};
use crate::hub::files::{self, Weights};
use crate::hub::name::{Commit, HubName, RepoPath, Selection};
use crate::hub::progress::{FileState, Reporter};
use crate::hub::store::cache_failure;
use crate::hub::{Hub, candidates};
use crate::source::{EMBEDDED, is_gguf};

/// From this size on the Hub names every file by its SHA-256.
const LARGE: u64 = 10 << 20;

/// A model that is ready to be written as a bundle.
pub(crate) struct Export<'h> {
    pub(crate) bundle: Bundle,
    hub: &'h Hub,
    /// Where the contents lie.
    contents: BTreeMap<Digest, PathBuf>,
}

/// What becomes of a file that has the bundle's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Keep,
    Replace,
}

impl Hub {
    /// A model of the cache, to be written as a bundle.
    pub(crate) fn export(&self, name: &str) -> Result<Export<'_>> {
        let bad = |problem: String, hint| Err(Error::hub(HubFailure::Name, problem, hint));
        if name == EMBEDDED {
            return bad(format!("`{EMBEDDED}` is inside the program and needs no bundle"), "");
        } else if Path::new(name).exists() {
            let problem = format!("{} is a file or folder of this machine and no model of the cache", quote(name));
            return bad(problem, "copy it as it is");
        }
        let mut missing = None;
        let names = candidates(name)?;
        for name in &names {
            match Export::of(self, name) {
                Err(error @ Error::Hub { kind: HubFailure::Offline, .. }) => missing = missing.or(Some(error)),
                other => return other,
            }
        }
        let problem = missing.map_or_else(|| format!("{} is not in the cache", quote(name)), |error| error.to_string());
        let hint =
            format!("`fireside pull {}` fetches it where there is network", names.first().map_or(name, |_| name));
        Err(Error::hub(HubFailure::Offline, problem, hint))
    }
}

impl<'h> Export<'h> {
    /// The files of a model that is in the cache whole.
    fn of(hub: &'h Hub, name: &HubName) -> Result<Self> {
        let absent = |what: &str| {
            let problem = format!("{} is not in the cache: {what}", quote(&name.to_string()));
            Error::hub(HubFailure::Offline, problem, "")
        };
        if name.selection == Selection::Weights {
            hub.in_cache(name)?;
        }
        let cache = RepoCache::new(&hub.settings.cache, &name.repo);
        let commit = cache.commit(&name.revision).ok_or_else(|| absent("nothing of it is there"))?;
        let repo = scan_repo(RepoKind::Model, name.repo.to_string(), &cache.folder());
        let snapshot = repo.revisions.iter().find(|revision| revision.commit == commit.as_str());
        let snapshot = snapshot.ok_or_else(|| absent("nothing of it is there"))?;
        let here: Vec<RepoPath> = snapshot.files.iter().filter_map(|file| RepoPath::new(&file.name)).collect();
        let mut bundled = BTreeMap::new();
        let mut contents = BTreeMap::new();
        for path in wanted(name, &cache, &commit, &here).map_err(|_| absent("a file of its weights is missing"))? {
            let place = cache.pointer(&commit, &path);
            let unreadable = |error: io::Error| Error::file(&place, error.to_string(), "");
            let size = fs::metadata(&place).map_err(unreadable)?.len();
            let digest = match stated_digest(&place) {
                Some(digest) => digest,
                None => digest_of_copy(&cache, &place, size).map_err(unreadable)?,
            };
            contents.insert(digest, place);
            bundled.insert(path.clone(), BundledFile { path, size, digest });
        }
        let (repo, revision) = (name.repo.clone(), name.revision.clone());
        let bundle = Bundle { repo, revision, commit, files: bundled.into_values().collect() };
        Ok(Export { bundle, hub, contents })
    }

    /// Writes the bundle in pieces, hashing every content on its way.
    pub(crate) fn write<E: From<Error>>(&self, put: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let reporter = Reporter::new(self.bundle.repo.as_str(), self.hub.on_progress.clone());
        let wanted = self.bundle.contents();
        let numbers: Vec<usize> = wanted.values().map(|file| reporter.add(file.path.as_str(), file.size)).collect();
        let manifest = self.bundle.manifest();
        put(header(MANIFEST, manifest.len() as u64).as_bytes())?;
        put(manifest.as_bytes())?;
        put(padding(manifest.len() as u64))?;
        for (file, number) in wanted.values().zip(numbers) {
            put(header(&format!("{BLOBS}{}", file.digest), file.size).as_bytes())?;
            self.write_content(file, &mut |piece| {
                reporter.state(number, FileState::Downloading);
                reporter.arrived(number, piece.len() as u64);
                put(piece)
            })?;
            put(padding(file.size))?;
            reporter.state(number, FileState::Done);
        }
        put(&[0; 2 * BLOCK])?;
        reporter.finish();
        Ok(())
    }

    fn write_content<E: From<Error>>(
        &self,
        file: &BundledFile,
        put: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (path, repo) = (quote(file.path.as_str()), quote(self.bundle.repo.as_str()));
        let damaged = |expected: String, found: String| {
            let problem = format!("{path} of {repo} is damaged in the cache: expected {expected}, found {found}");
            let hint = format!(
                "run `fireside cache verify --remove-damaged {name}`, then `fireside pull {name}`",
                name = self.bundle.repo
            );
            Error::hub(HubFailure::Damaged, problem, hint)
        };
        let place = &self.contents[&file.digest];
        let unreadable = |error: io::Error| Error::file(place, error.to_string(), "");
        let mut content = File::open(place).map_err(unreadable)?;
        let mut hasher = Hasher::new(&file.digest, file.size);
        let mut piece = vec![0; PIECE];
        let mut length = 0;
        loop {
            let n = read_piece(&mut content, &mut piece).map_err(unreadable)?;
            length += n as u64;
            if n == 0 && length == file.size {
                break;
            } else if n == 0 || length > file.size {
                return Err(damaged(format!("{} bytes", file.size), format!("{length} or more")).into());
            }
            hasher.update(&piece[..n]);
            put(&piece[..n])?;
        }
        let found = hasher.finish();
        if found == file.digest {
            return Ok(());
        }
        Err(damaged(format!("the hash {}", file.digest), found.to_string()).into())
    }

    /// Writes the bundle to a file, whole or not at all.
    pub(crate) fn write_file(&self, path: &Path, existing: Existing) -> Result<()> {
        let shown = quote(&path.display().to_string());
        let refused = |what: String, hint: &str| Err(Error::hub(HubFailure::Cache, what, hint));
        match fs::symlink_metadata(path) {
            Ok(_) if path.is_dir() => {
                return refused(format!("expected a file's name after `-o`, found the folder {shown}"), "");
            }
            Ok(found) if !found.is_file() && !path.is_file() => {
                return refused(format!("{shown} is no file"), "`-o -` writes to stdout");
            }
            Ok(_) if existing == Existing::Keep => {
                return refused(format!("{shown} is there already"), "`--force` replaces it");
            }
            _ => {}
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".incomplete");
        let unfinished = path.with_file_name(name);
        let failed = |error: io::Error| cannot_write(&unfinished, &error);
        if fs::symlink_metadata(&unfinished).is_ok_and(|found| found.is_file()) {
            let left = File::open(&unfinished).map_err(failed)?;
            if matches!(left.try_lock(), Err(fs::TryLockError::WouldBlock)) {
                return refused(format!("another process is writing {shown}"), "wait for it, or name another file");
            }
            fs::remove_file(&unfinished).map_err(failed)?; // what a killed export left
        }
        let mut file = OpenOptions::new().write(true).create_new(true).open(&unfinished).map_err(failed)?;
        let _ = file.try_lock(); // tells others that this process lives
        let written = self
            .write(&mut |piece| file.write_all(piece).map_err(failed))
            .and_then(|()| file.sync_all().and_then(|()| fs::rename(&unfinished, path)).map_err(failed));
        written.inspect_err(|_| drop(fs::remove_file(&unfinished)))
    }
}

/// The files of a snapshot that a model needs.
fn wanted(name: &HubName, cache: &RepoCache, commit: &Commit, here: &[RepoPath]) -> Result<Vec<RepoPath>> {
    let mut wanted = match files::weights(name, here)? {
        Weights::Named(paths) => return Ok(paths),
        Weights::Single(path) => vec![path],
        Weights::Index(path) => {
            let index = cache.pointer(commit, &path);
            let text = fs::read_to_string(&index).map_err(|error| Error::file(&index, error.to_string(), ""))?;
            let mut shards = files::shards(&index, &text)?;
            shards.push(path);
            shards
        }
    };
    let small = [files::CONFIG].into_iter().chain(files::BESIDE).filter_map(RepoPath::new);
    wanted.extend(small.filter(|path| here.contains(path)));
    Ok(wanted)
}

/// The hash that the Hub would name a file by that lies in a snapshot as a copy.
fn digest_of_copy(cache: &RepoCache, path: &Path, size: u64) -> io::Result<Digest> {
    let sha256 = digest_of_file(path, &Digest::Sha256([0; 32]))?;
    let git = digest_of_file(path, &Digest::GitBlob([0; 20]))?;
    let is_here = |digest: &Digest| cache.blobs().join(digest.to_string()).is_file();
    let is_weights = path.extension().is_some_and(|ending| ending == "safetensors") || is_gguf(&path.to_string_lossy());
    let is_large = size >= LARGE || is_weights;
    Ok(if is_here(&sha256) || is_large && !is_here(&git) { sha256 } else { git })
}

/// What a failed write means to the user.
fn cannot_write(path: &Path, error: &io::Error) -> Error {
    match cache_failure(path, "write", error) {
        Error::Hub { kind: kind @ HubFailure::DiskFull, problem, .. } => {
            Error::hub(kind, problem, "make room, or write the bundle to another disk")
        }
        Error::Hub { kind, problem, .. } => Error::hub(kind, problem, "name a file in a folder that can be written to"),
        other => other,
    }
}
