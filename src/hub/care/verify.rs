//! Checking content against names: a blob is called by its hash, so damage shows without network.
//!
//! Every blob is read and hashed, whether a snapshot links to it or not; several files at a time, and large ones first. A
//! copy in a snapshot has no such name. It is held against the listing that Python's client keeps beside it, or else
//! against the blobs of the repository. Nothing is changed here.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::{CachedRepo, CachedRevision, Content};
use crate::hub::digest::{Digest, digest_of_open_file};
use crate::hub::threads::on_threads;

/// Longest listing that is read: a repository of 100,000 files has 20 MB.
const LISTING_LIMIT: u64 = 64 << 20;

/// One file that was looked at.
#[derive(Clone, Debug)]
pub(crate) struct Checked<'a> {
    pub(crate) repo: &'a CachedRepo,
    /// The file's names in the repository; none for a blob without a snapshot.
    pub(crate) names: Vec<String>,
    /// The content, or the link that leads to none.
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) verdict: Verdict,
}

/// How a file turned out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The content is what the name says.
    Sound,
    Damaged {
        expected: Digest,
        found: Digest,
    },
    /// A link that leads to nothing.
    Dangling,
    Unreadable(String),
    /// Nothing says what the content should be; why.
    Unknown(&'static str),
}

impl Verdict {
    /// True for what has to be fetched again.
    pub(crate) fn is_bad(&self) -> bool {
        matches!(self, Verdict::Damaged { .. } | Verdict::Dangling | Verdict::Unreadable(_))
    }
}

/// Called with the bytes that were read since the last call, from several threads.
pub(crate) type OnRead<'a> = &'a (dyn Fn(u64) + Sync);

/// A repository, and the one revision of it that is meant, if not all.
pub(crate) type Chosen<'a> = (&'a CachedRepo, Option<&'a CachedRevision>);

/// A file to look at.
struct Task<'a> {
    repo: &'a CachedRepo,
    names: Vec<String>,
    path: PathBuf,
    size: u64,
    expected: Expected,
}

enum Expected {
    Digest(Digest),
    /// A copy: any blob of the repository may be its content.
    SomeBlob,
    Unknown(&'static str),
    Dangling,
}

/// What will be read, for progress.
pub(crate) fn bytes_to_read(chosen: &[Chosen<'_>]) -> u64 {
    tasks(chosen).iter().map(Task::work).sum()
}

/// Checks all files of some repositories. The answer is in the order of their names, whichever thread was first.
pub(crate) fn verify<'a>(chosen: &[Chosen<'a>], on_read: OnRead<'_>) -> Vec<Checked<'a>> {
    let tasks = tasks(chosen);
    let mut by_size: Vec<usize> = (0..tasks.len()).collect();
    by_size.sort_by_key(|index| std::cmp::Reverse(tasks[*index].size));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(tasks.len().max(1));
    let next = AtomicUsize::new(0);
    let verdicts: Mutex<BTreeMap<usize, Verdict>> = Mutex::default();
    let work = || {
        while let Some(&index) = by_size.get(next.fetch_add(1, Ordering::Relaxed)) {
            let verdict = tasks[index].check(on_read);
            verdicts.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(index, verdict);
        }
    };
    on_threads(threads, work);
    let mut verdicts = verdicts.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    tasks
        .into_iter()
        .enumerate()
        .map(|(index, task)| Checked {
            repo: task.repo,
            names: task.names,
            path: task.path,
            size: task.size,
            verdict: verdicts.remove(&index).unwrap_or(Verdict::Unknown("it was not looked at")),
        })
        .collect()
}

fn tasks<'a>(chosen: &[Chosen<'a>]) -> Vec<Task<'a>> {
    let mut tasks = Vec::new();
    for (repo, only) in chosen {
        let mut by_place: BTreeMap<PathBuf, Task<'a>> = BTreeMap::new();
        let revisions = repo.revisions.iter().filter(|r| only.is_none_or(|only| only.commit == r.commit));
        for revision in revisions {
            add_files(repo, revision, &mut by_place);
        }
        for blob in repo.blobs.iter().filter(|_| only.is_none()) {
            by_place.entry(blob.path.clone()).or_insert_with(|| Task {
                repo,
                names: Vec::new(),
                path: blob.path.clone(),
                size: blob.size,
                expected: of_name(&blob.path),
            });
        }
        let mut of_repo: Vec<Task<'a>> = by_place.into_values().collect();
        of_repo.sort_by(|a, b| (a.names.is_empty(), &a.names, &a.path).cmp(&(b.names.is_empty(), &b.names, &b.path)));
        tasks.extend(of_repo);
    }
    tasks
}

fn add_files<'a>(repo: &'a CachedRepo, revision: &'a CachedRevision, by_place: &mut BTreeMap<PathBuf, Task<'a>>) {
    let has_copies = revision.files.iter().any(|file| file.content == Content::Copy);
    let listing = if has_copies { listing(&repo.folder, &revision.commit) } else { Value::Null };
    for file in &revision.files {
        let (path, expected) = match &file.content {
            Content::Link(target) => (target.clone(), of_name(target)),
            Content::Dangling(_) => (file.path.clone(), Expected::Dangling),
            Content::Copy => {
                let listed = &listing["files"][&file.name];
                let hash = listed["lfs_sha256"].as_str().or(listed["blob_id"].as_str());
                let expected = hash.and_then(Digest::of_name).map_or(Expected::SomeBlob, Expected::Digest);
                (file.path.clone(), expected)
            }
        };
        let task = by_place.entry(path.clone()).or_insert_with(|| Task {
            repo,
            names: Vec::new(),
            path,
            size: file.size,
            expected,
        });
        if !task.names.contains(&file.name) {
            task.names.push(file.name.clone());
        }
    }
}

fn of_name(path: &Path) -> Expected {
    let digest = path.file_name().and_then(|name| name.to_str()).and_then(Digest::of_name);
    digest.map_or(Expected::Unknown("its name is no hash"), Expected::Digest)
}

/// Python's note on the files of a commit.
fn listing(repo: &Path, commit: &str) -> Value {
    let path = repo.join("trees").join(format!("{commit}.json"));
    let is_small = fs::metadata(&path).is_ok_and(|known| known.is_file() && known.len() <= LISTING_LIMIT);
    let text = if is_small { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
    serde_json::from_str(&text).unwrap_or(Value::Null)
}

impl Task<'_> {
    /// Bytes to read.
    fn work(&self) -> u64 {
        match self.expected {
            Expected::Digest(_) => self.size,
            Expected::SomeBlob => self.size * self.kinds().len() as u64,
            Expected::Unknown(_) | Expected::Dangling => 0,
        }
    }

    fn check(&self, on_read: OnRead<'_>) -> Verdict {
        match &self.expected {
            Expected::Unknown(why) => Verdict::Unknown(why),
            Expected::Dangling => Verdict::Dangling,
            Expected::Digest(expected) => match self.hash(expected, on_read) {
                Ok(found) if found == *expected => Verdict::Sound,
                Ok(found) => Verdict::Damaged { expected: *expected, found },
                Err(why) => Verdict::Unreadable(why),
            },
            Expected::SomeBlob => {
                for kind in self.kinds() {
                    match self.hash(&kind, on_read) {
                        Ok(found) if self.blobs().any(|blob| blob == found) => return Verdict::Sound,
                        Ok(_) => {}
                        Err(why) => return Verdict::Unreadable(why),
                    }
                }
                Verdict::Unknown("a copy without a blob: nothing says what its hash should be")
            }
        }
    }

    /// The hashes of the repository's blobs that have this size.
    fn blobs(&self) -> impl Iterator<Item = Digest> {
        self.repo.blobs.iter().filter(|blob| blob.size == self.size).filter_map(|blob| Digest::of_name(&blob.name))
    }

    /// One hash of each kind among them.
    fn kinds(&self) -> Vec<Digest> {
        let is_sha256 = |digest: &Digest| matches!(digest, Digest::Sha256(_));
        let of = |sha256: bool| self.blobs().find(|digest| is_sha256(digest) == sha256);
        [of(true), of(false)].into_iter().flatten().collect()
    }

    fn hash(&self, like: &Digest, on_read: OnRead<'_>) -> Result<Digest, String> {
        let known = fs::metadata(&self.path).map_err(|error| error.to_string())?;
        if !known.is_file() {
            return Err("it is no file".to_owned()); // opening a pipe would wait for ever
        }
        File::open(&self.path)
            .and_then(|mut file| digest_of_open_file(&mut file, like, &mut |n| on_read(n as u64)))
            .map_err(|error| error.to_string())
    }
}
