//! A cached model as one file, for machines without network: an uncompressed tar that any tool can list.
//!
//! ```text
//! fireside-bundle.json     format, repository, revision, commit; path, size and hash of every file
//! blobs/<hash>             the contents, each once, by their hash
//! ```
//!
//! The same model gives the same bytes on every machine. On the way in nothing is believed: what is not in the list is
//! refused, every content is hashed while it is written to a file that nobody sees, and only behind the tar's sound end
//! do the blobs get their names, then the snapshot its links, then the branch its commit. Nothing here makes a
//! connection.

mod archive;
pub(crate) mod export;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::archive::TarReader;
use super::cache::RepoCache;
use super::care::target_of;
use super::digest::{Digest, digest_of_file};
use super::name::{Commit, RepoId, RepoPath, Revision};
use super::progress::{FileState, Reporter};
use super::store::{cache_failure, point, prepare, sync_folder, write_reference};
use super::{Hub, lock};
use crate::error::{Error, HubFailure, Result, quote};

const FORMAT: u64 = 1;
const MANIFEST: &str = "fireside-bundle.json";
const BLOBS: &str = "blobs/";
/// Far more than any model has.
const MOST_FILES: usize = 10_000;

/// What a bundle says it holds.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    pub(crate) repo: RepoId,
    pub(crate) revision: Revision,
    pub(crate) commit: Commit,
    /// By path.
    pub(crate) files: Vec<BundledFile>,
}

/// One file of a bundle.
#[derive(Clone, Debug)]
pub(crate) struct BundledFile {
    pub(crate) path: RepoPath,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
}

/// A model that a bundle brought.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) bundle: Bundle,
    /// The folder that shows it.
    pub(crate) folder: PathBuf,
    /// What the user should know.
    pub(crate) warnings: Vec<String>,
}

/// The list as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u64,
    repo: String,
    revision: String,
    commit: String,
    files: Vec<ManifestFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    path: String,
    size: u64,
    hash: String,
}

impl Hub {
    /// Puts the model of a bundle into the cache; `label` is what messages call the bundle.
    pub(crate) fn import(&self, from: &mut dyn Read, label: &str) -> Result<Imported> {
        let mut tar = TarReader { from, label };
        let bundle = tar.manifest()?;
        let cache = RepoCache::new(&self.settings.cache, &bundle.repo);
        bundle.check_places(&cache)?;
        let is_new = !cache.folder().exists();
        let received = self.receive(&mut tar, &bundle, &cache);
        if received.is_err() && is_new {
            let _ = fs::remove_dir(cache.blobs()).and_then(|()| fs::remove_dir(cache.folder())); // if they are empty
        }
        received
    }

    fn receive(&self, tar: &mut TarReader<'_>, bundle: &Bundle, cache: &RepoCache) -> Result<Imported> {
        prepare(cache)?;
        let reporter = Reporter::new(bundle.repo.as_str(), self.on_progress.clone());
        let wanted = bundle.contents();
        let numbers: BTreeMap<Digest, usize> =
            wanted.iter().map(|(digest, file)| (*digest, reporter.add(file.path.as_str(), file.size))).collect();
        let (mut seen, mut incoming) = (BTreeSet::new(), Vec::new());
        while let Some((name, size)) = tar.next()? {
            let listed = name.strip_prefix(BLOBS).and_then(Digest::of_name).and_then(|digest| wanted.get(&digest));
            let Some(file) = listed else {
                return Err(tar.hostile(format!("it holds {}, which is not in its list", quote(&name))));
            };
            if !seen.insert(file.digest) {
                return Err(tar.hostile(format!("it holds {} twice", quote(&name))));
            }
            if size != file.size {
                let (path, expected) = (quote(file.path.as_str()), file.size);
                return Err(tar.damaged(format!("expected {expected} bytes of {path}, found {size}")));
            }
            let number = numbers[&file.digest];
            incoming.extend(tar.content(file, cache, &mut |bytes| {
                reporter.state(number, FileState::Downloading);
                reporter.arrived(number, bytes);
            })?);
            reporter.state(number, FileState::Done);
        }
        if let Some(file) = wanted.values().find(|file| !seen.contains(&file.digest)) {
            return Err(tar.damaged(format!("it lacks the content of {}", quote(file.path.as_str()))));
        }
        // The whole bundle is sound. From here on each step leaves a sound cache.
        let mut locks = Vec::new(); // nobody tidies the blobs away before the links are there
        for part in &incoming {
            let waiting = |holder: &str| reporter.state(numbers[&part.digest], FileState::Waiting(holder.to_owned()));
            locks.push(lock::acquire(&cache.lock(&part.digest.to_string()), waiting)?);
        }
        incoming.into_iter().try_for_each(|part| part.finish(cache))?;
        sync_folder(&cache.blobs()).map_err(|error| cache_failure(&cache.blobs(), "write", &error))?;
        for file in &bundle.files {
            point(cache, &bundle.commit, &file.path, &file.digest.to_string())?;
        }
        let before = cache.commit(&bundle.revision).filter(|before| *before != bundle.commit);
        write_reference(cache, &bundle.revision, &bundle.commit)?;
        reporter.finish();
        let warning = before.map(|before| {
            let (revision, repo) = (quote(bundle.revision.as_str()), quote(bundle.repo.as_str()));
            format!("{revision} of {repo} was at {before} and is now at {}, as in the bundle", bundle.commit)
        });
        let folder = cache.snapshot(&bundle.commit);
        Ok(Imported { bundle: bundle.clone(), folder, warnings: warning.into_iter().collect() })
    }
}

impl Bundle {
    /// The contents, each with one of the files that have it.
    fn contents(&self) -> BTreeMap<Digest, &BundledFile> {
        self.files.iter().map(|file| (file.digest, file)).collect()
    }

    fn manifest(&self) -> String {
        let file = |file: &BundledFile| ManifestFile {
            path: file.path.to_string(),
            size: file.size,
            hash: file.digest.to_string(),
        };
        let manifest = Manifest {
            format: FORMAT,
            repo: self.repo.to_string(),
            revision: self.revision.to_string(),
            commit: self.commit.to_string(),
            files: self.files.iter().map(file).collect(),
        };
        serde_json::to_string_pretty(&manifest).unwrap_or_default() + "\n" // strings and numbers always can be written
    }

    /// What a list says, or what is wrong with it.
    fn parse(text: &[u8]) -> Result<Bundle, String> {
        #[derive(Deserialize)]
        struct Version {
            format: serde_json::Value,
        }
        let json = |error: serde_json::Error| format!("its list is no list of a bundle: {error}");
        let version: Version = serde_json::from_slice(text).map_err(json)?;
        if version.format != FORMAT {
            return Err(format!(
                "expected a bundle of the format {FORMAT}, found {}",
                quote(&version.format.to_string())
            ));
        }
        let manifest: Manifest = serde_json::from_slice(text).map_err(json)?;
        let named = |what: &str, name: &str| format!("{} in its list is no {what}", quote(name));
        let repo = RepoId::new(&manifest.repo).ok_or_else(|| named("repository's name", &manifest.repo))?;
        let revision = Revision::new(&manifest.revision).ok_or_else(|| named("revision", &manifest.revision))?;
        let commit = Commit::new(&manifest.commit).ok_or_else(|| named("commit", &manifest.commit))?;
        if revision.as_commit().is_some_and(|revision| revision != commit) {
            return Err(format!("its list says the commit {commit} of the revision {revision}"));
        }
        if manifest.files.is_empty() || manifest.files.len() > MOST_FILES {
            return Err(format!("expected 1 to {MOST_FILES} files in its list, found {}", manifest.files.len()));
        }
        let mut files = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for ManifestFile { path, size, hash } in manifest.files {
            let repo_path = RepoPath::new(&path).ok_or_else(|| named("path of a file", &path))?;
            let digest = Digest::of_name(&hash).ok_or_else(|| named("hash", &hash))?;
            if *sizes.entry(digest).or_insert(size) != size {
                return Err(format!("its list gives {} two sizes", quote(&hash)));
            }
            let file = BundledFile { path: repo_path.clone(), size, digest };
            if files.insert(repo_path, file).is_some() {
                return Err(format!("its list names {} twice", quote(&path)));
            }
        }
        let is_file = |folder: &str| RepoPath::new(folder).is_some_and(|folder| files.contains_key(&folder));
        let folders = |path: &RepoPath| path.as_str().match_indices('/').any(|(at, _)| is_file(&path.as_str()[..at]));
        if let Some(path) = files.keys().find(|path| folders(path)) {
            return Err(format!("its list names {} inside another file", quote(path.as_str())));
        }
        Ok(Bundle { repo, revision, commit, files: files.into_values().collect() })
    }

    /// Refuses what the cache has no place for, before anything is written: other content under the same name, a file
    /// or a link where a folder belongs.
    fn check_places(&self, cache: &RepoCache) -> Result<()> {
        let taken = |path: &Path, what: &str| {
            let place = quote(&path.display().to_string());
            Error::hub(
                HubFailure::Cache,
                format!("cannot import: {what} {place}"),
                "`fireside cache verify` finds damage",
            )
        };
        let folders_are_free = |path: &Path, top: &Path| {
            let above = path.ancestors().skip(1).take_while(|folder| *folder != top);
            let blocked = above.into_iter().find(|at| fs::symlink_metadata(at).is_ok_and(|found| !found.is_dir()));
            blocked.map_or(Ok(()), |at| Err(taken(at, "a folder belongs where a file or link lies:")))
        };
        let reference = cache.reference(&self.revision);
        folders_are_free(&reference, &cache.folder().join("refs"))?;
        if reference.is_dir() {
            return Err(taken(&reference, "a reference belongs where a folder lies:"));
        }
        for file in &self.files {
            let pointer = cache.pointer(&self.commit, &file.path);
            folders_are_free(&pointer, &cache.folder().join("snapshots"))?;
            if pointer.is_dir() {
                return Err(taken(&pointer, "a file belongs where a folder lies:"));
            }
            if pointer.is_file()
                && stated_digest(&pointer) != Some(file.digest)
                && !digest_of_file(&pointer, &file.digest).is_ok_and(|found| found == file.digest)
            {
                return Err(Error::hub(
                    HubFailure::Damaged,
                    format!(
                        "the bundle has other content than the cache for {} of {} at {}",
                        quote(file.path.as_str()),
                        quote(self.repo.as_str()),
                        self.commit
                    ),
                    "`fireside cache verify` says whether the cache is sound; `fireside cache rm` takes it away",
                ));
            }
        }
        Ok(())
    }
}

/// The hash that a link's target is named after.
fn stated_digest(link: &Path) -> Option<Digest> {
    Digest::of_name(target_of(link)?.file_name()?.to_str()?)
}
