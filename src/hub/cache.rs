//! The standard Hub cache: where a repository's files lie, and which of them are here. It only reads.
//!
//! ```text
//! models--owner--name/blobs/<etag>                     the content; the name is its sha256 or git's sha1
//!                     snapshots/<commit>/<file>        a relative link to a blob, or a copy where links cannot be
//!                     refs/<revision>                  the commit that a branch or tag was seen at
//!                     .no_exist/<commit>/<file>        this file is known to be absent
//! .locks/models--owner--name/<etag>.lock
//! ```

use std::path::{Path, PathBuf};

use hf_hub::{Repo, RepoType};

use super::digest::Digest;
use super::name::{Commit, RepoId, RepoPath, Revision};

/// One repository's folder in the cache.
#[derive(Clone, Debug)]
pub(crate) struct RepoCache {
    /// The whole cache.
    pub(crate) root: PathBuf,
    /// `models--owner--name`.
    pub(crate) folder_name: String,
}

impl RepoCache {
    pub(crate) fn new(root: &Path, repo: &RepoId) -> Self {
        let folder_name = Repo::new(repo.as_str().to_owned(), RepoType::Model).folder_name();
        RepoCache { root: root.to_owned(), folder_name }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.root.join(&self.folder_name)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.folder().join("blobs")
    }

    /// Where a content is, or will be.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.to_string())
    }

    pub(crate) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder().join("snapshots").join(commit.as_str())
    }

    /// Where a file of a snapshot is, or will be.
    pub(crate) fn pointer(&self, commit: &Commit, file: &RepoPath) -> PathBuf {
        self.snapshot(commit).join(file.as_str())
    }

    pub(crate) fn reference(&self, revision: &Revision) -> PathBuf {
        self.folder().join("refs").join(revision.as_str())
    }

    /// The marker of a file that the repository does not have.
    pub(crate) fn absence(&self, commit: &Commit, file: &RepoPath) -> PathBuf {
        self.folder().join(".no_exist").join(commit.as_str()).join(file.as_str())
    }

    pub(crate) fn lock(&self, etag: &str) -> PathBuf {
        self.root.join(".locks").join(&self.folder_name).join(format!("{etag}.lock"))
    }

    /// The commit that a revision was last seen at.
    pub(crate) fn commit(&self, revision: &Revision) -> Option<Commit> {
        if let Some(commit) = revision.as_commit() {
            return Some(commit);
        }
        Commit::new(std::fs::read_to_string(self.reference(revision)).ok()?.trim())
    }

    /// The files of a snapshot that are here, in folders of it as well.
    pub(crate) fn files(&self, commit: &Commit) -> Vec<RepoPath> {
        /// Folders within folders; models lie at the top or one below.
        const DEEPEST: usize = 4;
        fn walk(folder: &Path, before: &str, depth: usize, found: &mut Vec<RepoPath>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let (name, path) = (format!("{before}{name}"), entry.path());
                if path.is_dir() && depth < DEEPEST {
                    walk(&path, &format!("{name}/"), depth + 1, found);
                } else if path.is_file() {
                    found.extend(RepoPath::new(&name));
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.snapshot(commit), "", 0, &mut found);
        found.sort();
        found
    }

    /// A file of a snapshot, if it is here.
    pub(crate) fn file(&self, commit: &Commit, file: &RepoPath) -> Option<PathBuf> {
        let path = self.pointer(commit, file);
        path.is_file().then_some(path)
    }
}
