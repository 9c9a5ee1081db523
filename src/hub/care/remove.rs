//! Taking things out of the cache: what goes is planned first, so that it can be shown and asked about, then done.
//!
//! - Nothing outside the cache is touched: every folder between the cache and what goes must be a folder and no link, and
//!   links are removed, never followed.
//! - A reader sees a snapshot or none, never half of one: folders are renamed out of sight before they are emptied.
//! - A kill at any moment leaves a sound cache: references go before their snapshot, snapshots before their blobs.
//! - What another process is writing stays: see [`Hold`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{
    guard, is_linked, is_shared_by_any, is_shared_store, leftovers, remove_away, remove_empty_parents, room_under,
};
use super::hold::{Hold, in_use, locks_of};
use super::{Blob, CachedRepo, CachedRevision, Content, Partial, RepoKind, Scan};
use crate::error::{Error, HubFailure, Result, quote};

/// What is to go.
#[derive(Debug)]
pub(crate) struct Plan {
    cache: PathBuf,
    /// In this order.
    pub(crate) steps: Vec<Step>,
    /// What stays although it might go, and why.
    pub(crate) kept: Vec<String>,
}

/// One thing that goes.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) what: What,
    pub(crate) path: PathBuf,
    /// Bytes that it frees.
    pub(crate) size: u64,
    /// For messages: `owner/name`, or none for what belongs to no repository.
    pub(crate) repo: Option<String>,
}

/// The kinds of things that go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// All of a repository.
    Repository,
    Reference,
    Snapshot,
    /// What is noted about a snapshot beside it.
    Note,
    /// A file of a snapshot: a link, or a damaged copy.
    Entry,
    Blob,
    Partial,
    /// Content that no repository links to any more.
    Shared,
    /// What an earlier removal left when it was stopped.
    Leftover,
}

impl What {
    pub(crate) fn noun(self) -> &'static str {
        match self {
            What::Repository => "repository",
            What::Reference => "reference",
            What::Snapshot => "revision",
            What::Note => "note",
            What::Entry => "entry",
            What::Blob => "blob",
            What::Partial => "unfinished file",
            What::Shared => "shared blob",
            What::Leftover => "leftover",
        }
    }
}

/// What went.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    pub(crate) removed: Vec<Step>,
    /// What stayed, and why.
    pub(crate) kept: Vec<String>,
}

/// How much of what no reference names goes with [`prune`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OldRevisions {
    Remove,
    Keep,
}

/// Plans the removal of a repository, or of some of its revisions where there are others.
pub(crate) fn remove(scan: &Scan, repo: &CachedRepo, revisions: &[&CachedRevision]) -> Result<Plan> {
    let mut plan = Plan::new(scan);
    if let Some(by) = in_use(scan, repo) {
        return Err(Error::hub(
            HubFailure::Cache,
            format!("{} is being downloaded by {by}", quote(&repo.id)),
            "wait for it or stop it first",
        ));
    }
    let stays = repo.revisions.iter().filter(|r| !revisions.iter().any(|gone| gone.commit == r.commit)).count();
    if revisions.is_empty() || stays == 0 {
        plan.whole(repo);
    } else {
        plan.some(repo, revisions);
    }
    let held = repo.blobs.iter().filter(|blob| blob.shared.is_some()).map(|blob| blob.size).sum::<u64>();
    if held > 0 && !scan.shared.is_empty() {
        plan.kept.push(format!(
            "{held} bytes of {} lie where several repositories share them; `fireside cache prune` frees what none uses",
            quote(&repo.id)
        ));
    }
    Ok(plan)
}

/// Plans the removal of what nobody needs: unfinished files that nobody writes, blobs without a snapshot, references and
/// links to nothing, and on demand the revisions that no reference names.
pub(crate) fn prune(scan: &Scan, repos: &[&CachedRepo], old: OldRevisions) -> Plan {
    let mut plan = Plan::new(scan);
    for repo in repos {
        let busy = in_use(scan, repo);
        if let Some(by) = &busy {
            plan.kept.push(format!("{} is being downloaded by {by}", quote(&repo.id)));
        }
        plan.of_repo(repo, old, busy.is_none());
    }
    for shared in scan.shared.iter().filter(|shared| !shared.used) {
        plan.add(None, What::Shared, shared.path.clone(), shared.size);
    }
    for folder in leftovers(&scan.cache) {
        let size = room_under(&folder);
        plan.add(None, What::Leftover, folder, size);
    }
    plan
}

/// Plans the removal of damaged files and of all that links to them, so that the next download fetches them again.
pub(crate) fn discard<'a>(scan: &Scan, damaged: impl Iterator<Item = (&'a CachedRepo, &'a Path)>) -> Plan {
    let mut plan = Plan::new(scan);
    for (repo, path) in damaged {
        for file in repo.revisions.iter().flat_map(|revision| &revision.files) {
            match &file.content {
                Content::Link(target) if target == path => plan.add(Some(repo), What::Entry, file.path.clone(), 0),
                Content::Copy | Content::Dangling(_) if file.path == path => {
                    plan.add(Some(repo), What::Entry, file.path.clone(), file.size);
                }
                _ => {}
            }
        }
        if let Some(blob) = repo.blobs.iter().find(|blob| blob.path == path) {
            plan.blob(repo, blob);
            // Python's client would link to the damaged content again, whose size it believes.
            let shared = scan.shared.iter().find(|shared| blob.shared.as_ref() == Some(&shared.path));
            if let Some(shared) = shared.filter(|shared| !plan.steps.iter().any(|step| step.path == shared.path)) {
                plan.add(Some(repo), What::Shared, shared.path.clone(), shared.size);
            }
        }
    }
    plan
}

impl Plan {
    fn new(scan: &Scan) -> Plan {
        Plan { cache: scan.cache.clone(), steps: Vec::new(), kept: Vec::new() }
    }

    /// Bytes that it frees.
    pub(crate) fn size(&self) -> u64 {
        self.steps.iter().map(|step| step.size).sum()
    }

    fn add(&mut self, repo: Option<&CachedRepo>, what: What, path: PathBuf, size: u64) {
        self.steps.push(Step { what, path, size, repo: repo.map(|repo| repo.id.clone()) });
    }

    fn whole(&mut self, repo: &CachedRepo) {
        let size = room_under(&repo.folder);
        self.add(Some(repo), What::Repository, repo.folder.clone(), size);
    }

    fn blob(&mut self, repo: &CachedRepo, blob: &Blob) {
        let size = if blob.shared.is_some() { 0 } else { blob.size };
        self.add(Some(repo), What::Blob, blob.path.clone(), size);
    }

    /// Some revisions of several, and the blobs that only they use.
    fn some(&mut self, repo: &CachedRepo, revisions: &[&CachedRevision]) {
        let goes = |revision: &CachedRevision| revisions.iter().any(|gone| gone.commit == revision.commit);
        let stay: BTreeSet<&Path> = repo
            .revisions
            .iter()
            .filter(|revision| !goes(revision))
            .flat_map(|revision| revision.files.iter().filter_map(|file| file.place()))
            .collect();
        let mut lone: BTreeSet<&Path> = BTreeSet::new();
        for revision in revisions {
            for name in &revision.refs {
                self.add(Some(repo), What::Reference, repo.folder.join("refs").join(name), 0);
            }
            self.add(Some(repo), What::Snapshot, revision.folder.clone(), room_under(&revision.folder));
            for note in [".no_exist".to_owned() + "/" + &revision.commit, format!("trees/{}.json", revision.commit)] {
                let path = repo.folder.join(note);
                if fs::symlink_metadata(&path).is_ok() {
                    let size = room_under(&path);
                    self.add(Some(repo), What::Note, path, size);
                }
            }
            lone.extend(revision.files.iter().filter_map(|file| file.place()).filter(|place| !stay.contains(place)));
        }
        for blob in repo.blobs.iter().filter(|blob| lone.contains(blob.path.as_path())) {
            self.blob(repo, blob);
        }
    }

    /// What can go of one repository; blobs only where no download may be about to link them.
    fn of_repo(&mut self, repo: &CachedRepo, old: OldRevisions, is_idle: bool) {
        let free: Vec<&Partial> = repo.partials.iter().filter(|partial| Hold::partial(repo, partial).is_ok()).collect();
        if is_idle && repo.revisions.is_empty() {
            return self.whole(repo); // nothing that anybody could use, whatever else lies in it
        }
        for partial in free {
            self.add(Some(repo), What::Partial, partial.path.clone(), partial.size);
        }
        for name in &repo.dangling_refs {
            if is_idle {
                self.add(Some(repo), What::Reference, repo.folder.join("refs").join(name), 0);
            }
        }
        for file in repo.revisions.iter().flat_map(|revision| &revision.files) {
            if is_idle && matches!(file.content, Content::Dangling(_)) {
                self.add(Some(repo), What::Entry, file.path.clone(), 0);
            }
        }
        for blob in repo.blobs.iter().filter(|blob| is_idle && !blob.used) {
            self.blob(repo, blob);
        }
        let unnamed: Vec<&CachedRevision> = repo.revisions.iter().filter(|r| r.refs.is_empty()).collect();
        match old {
            OldRevisions::Remove if is_idle && unnamed.len() == repo.revisions.len() => {
                self.steps.retain(|step| step.repo.as_ref() != Some(&repo.id));
                self.whole(repo);
            }
            OldRevisions::Remove if is_idle && !unnamed.is_empty() => self.some(repo, &unnamed),
            _ => self.kept.extend(unnamed.iter().map(|revision| {
                let commit = quote(&revision.commit);
                format!("no reference of {} names its revision {commit}; `--old-revisions` removes it", quote(&repo.id))
            })),
        }
    }

    /// Does it. What cannot go stays and is named; the rest goes.
    pub(crate) fn execute(&self) -> Freed {
        let mut freed = Freed::default();
        for step in &self.steps {
            let done = guard(&self.cache, &step.path).and_then(|()| self.take(step));
            match done {
                Ok(()) => freed.removed.push(step.clone()),
                Err(why) => freed.kept.push(format!("{} stays: {why}", quote(&step.path.display().to_string()))),
            }
        }
        let touched: BTreeSet<&Path> = self.steps.iter().filter_map(|step| self.repo_folder(&step.path)).collect();
        touched.into_iter().for_each(|folder| sweep_locks(&self.cache, folder));
        freed
    }

    /// The repository's folder that something lies in.
    fn repo_folder<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        path.ancestors().find(|folder| folder.parent() == Some(&self.cache)).filter(|folder| !folder.ends_with("blobs"))
    }

    fn take(&self, step: &Step) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let folder = self.repo_folder(&step.path);
        let name = step.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match step.what {
            What::Repository => {
                let _held = Hold::all(&locks_of(&self.cache, &step.path))?;
                remove_away(&self.cache, &step.path).map_err(text)
            }
            What::Snapshot | What::Note | What::Leftover => remove_away(&self.cache, &step.path).map_err(text),
            What::Reference | What::Entry => {
                fs::remove_file(&step.path).map_err(text)?;
                if let Some(folder) = folder {
                    remove_empty_parents(&step.path, folder);
                }
                Ok(())
            }
            What::Partial => {
                let folder = folder.ok_or("it lies in no repository")?;
                let locks = locks_of(&self.cache, folder);
                let _held = Hold::of_partial(&locks, &name, &step.path)?;
                fs::remove_file(&step.path).map_err(text)
            }
            What::Blob => {
                let folder = folder.ok_or("it lies in no repository")?;
                let _held = Hold::new(&locks_of(&self.cache, folder).join(format!("{name}.lock")))?;
                if is_linked(&folder.join("snapshots"), &step.path) {
                    return Err("a snapshot links to it by now".to_owned());
                }
                fs::remove_file(&step.path).map_err(text)
            }
            What::Shared => {
                let _held = Hold::new(&step.path.with_file_name(format!("{name}.lock")))?;
                if !is_shared_store(&self.cache) || step.repo.is_none() && is_shared_by_any(&self.cache, &step.path) {
                    return Err("a repository links to it by now".to_owned());
                }
                fs::remove_file(&step.path).map_err(text)?;
                let _ = fs::remove_file(step.path.with_file_name(format!("{name}.refs"))); // a note on who links to it
                Ok(())
            }
        }
    }
}

/// Removes the lock files of content that is gone. Who waits for one loses nothing: each writes to a file of its own.
fn sweep_locks(cache: &Path, repo_folder: &Path) {
    let locks = locks_of(cache, repo_folder);
    let blobs: Vec<String> = fs::read_dir(repo_folder.join("blobs"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    for entry in fs::read_dir(&locks).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(etag) = name.strip_suffix(".lock") else { continue };
        if guard(cache, &entry.path()).is_err() || blobs.iter().any(|blob| blob.split('.').next() == Some(etag)) {
            continue;
        }
        if let Ok(_held) = Hold::new(&entry.path()) {
            let _ = fs::remove_file(entry.path()); // one that stays harms nobody
        }
    }
    let _ = fs::remove_dir(&locks); // only where nothing is left
}

impl Scan {
    /// The repositories that are tidied without being named: models, and nothing that is only Python's.
    pub(crate) fn models(&self) -> Vec<&CachedRepo> {
        self.repos.iter().filter(|repo| repo.kind == RepoKind::Model).collect()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::hub::care::scan;

    const COMMIT: &str = "1111111111111111111111111111111111111111";

    /// A cache with one model, whose blob `used` a snapshot links to and whose blob `lone` none does.
    fn cache() -> tempfile::TempDir {
        let cache = tempfile::tempdir().expect("a folder");
        let repo = cache.path().join("models--a--b");
        fs::create_dir_all(repo.join("blobs")).expect("a folder");
        fs::create_dir_all(repo.join("snapshots").join(COMMIT)).expect("a folder");
        for name in ["used", "lone"] {
            fs::write(repo.join("blobs").join(name), name).expect("a blob");
        }
        symlink("../../blobs/used", repo.join("snapshots").join(COMMIT).join("file")).expect("a link");
        cache
    }

    #[test]
    fn what_was_linked_since_the_plan_stays() {
        let cache = cache();
        let scan = scan(cache.path()).expect("a cache");
        let plan = prune(&scan, &scan.models(), OldRevisions::Keep);
        assert_eq!(plan.steps.iter().map(|step| (step.what, step.size)).collect::<Vec<_>>(), [(What::Blob, 4)]);
        let repo = scan.repos[0].folder.clone();
        symlink("../../blobs/lone", repo.join("snapshots").join(COMMIT).join("new")).expect("a link");
        let freed = plan.execute();
        assert!(freed.removed.is_empty() && freed.kept[0].contains("links to it by now"), "{freed:?}");
        assert!(repo.join("blobs/lone").exists());
    }

    #[test]
    fn what_a_download_took_since_the_plan_stays() {
        let cache = cache();
        let locks = cache.path().join(".locks/models--a--b");
        fs::create_dir_all(&locks).expect("a folder");
        fs::write(locks.join("lone.lock"), "process 7 (fireside)").expect("a lock");
        let scan = scan(cache.path()).expect("a cache");
        let plans =
            [prune(&scan, &scan.models(), OldRevisions::Keep), remove(&scan, &scan.repos[0], &[]).expect("a plan")];
        let held = fs::File::open(locks.join("lone.lock")).expect("a lock");
        held.lock().expect("the lock");
        for plan in &plans {
            let freed = plan.execute();
            assert!(freed.removed.is_empty() && freed.kept[0].contains("process 7"), "{freed:?}");
        }
        drop(held);
        assert_eq!(plans[0].execute().removed.len(), 1);
        assert_eq!(plans[1].execute().removed.len(), 1);
        assert_eq!(fs::read_dir(cache.path()).expect("the cache").count(), 0);
    }
}
