//! `fireside cache` on caches that are built by hand: what it lists and what it takes away.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::program::{Outcome, fireside, piped, run};

/// Two commits.
pub const OLD: &str = "1111111111111111111111111111111111111111";
pub const NEW: &str = "2222222222222222222222222222222222222222";
/// A process that is not there: above what Linux gives out.
pub const DEAD: &str = "4194999-0badcafe";

/// A cache in a temporary folder, with something beside it that must never change.
pub struct Cache {
    folder: TempDir,
}

/// How a blob is named.
#[derive(Clone, Copy)]
pub enum Named {
    /// As large files are.
    Sha256,
    /// As small files are.
    Git,
}

impl Cache {
    pub fn new() -> Cache {
        let folder = TempDir::new().expect("a temporary folder");
        fs::create_dir(folder.path().join("outside")).expect("a folder");
        fs::write(folder.path().join("outside/precious"), "precious").expect("a file");
        fs::create_dir(folder.path().join("hub")).expect("a folder");
        Cache { folder }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("a folder").join("hub")
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().canonicalize().expect("a folder").join("outside")
    }

    pub fn repo(&self, folder: &str) -> PathBuf {
        self.path().join(folder)
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        fs::write(&path, content).expect("a written file");
        path
    }

    /// A blob, by the hash of its content.
    pub fn blob(&self, repo: &str, content: &[u8], named: Named) -> String {
        let name = match named {
            Named::Sha256 => hex(&Sha256::digest(content)),
            Named::Git => hex(&Sha1::digest([format!("blob {}\0", content.len()).as_bytes(), content].concat())),
        };
        self.write(&format!("{repo}/blobs/{name}"), content);
        name
    }

    /// A snapshot's file that links to a blob.
    pub fn link(&self, repo: &str, commit: &str, file: &str, blob: &str) -> PathBuf {
        let path = self.repo(repo).join("snapshots").join(commit).join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        let up = "../".repeat(2 + file.matches('/').count());
        symlink(format!("{up}blobs/{blob}"), &path).expect("a link");
        path
    }

    /// A model of two revisions: weights that both have, a config of each, and one that only the old one has.
    pub fn model(&self, repo: &str) {
        let weights = self.blob(repo, &noise(100_000, 7), Named::Sha256);
        for (commit, config) in [(OLD, "{\"n\": 1}"), (NEW, "{\"n\": 2, \"more\": true}")] {
            let config = self.blob(repo, config.as_bytes(), Named::Git);
            self.link(repo, commit, "model.safetensors", &weights);
            self.link(repo, commit, "config.json", &config);
        }
        let old = self.blob(repo, &noise(5_000, 8), Named::Sha256);
        self.link(repo, OLD, "onnx/model.onnx", &old);
        self.write(&format!("{repo}/refs/main"), NEW);
        self.write(&format!("{repo}/refs/refs/pr/1"), OLD);
        self.write(&format!("{repo}/.no_exist/{OLD}/chat_template.jinja"), "");
        self.write(&format!("{repo}/.no_exist/{NEW}/chat_template.jinja"), "");
        self.write(&format!("{repo}/trees/{OLD}.json"), "{}");
        self.write(&format!(".locks/{repo}/{weights}.lock"), "");
        self.write(&format!(".locks/{repo}/{old}.lock"), "");
        self.write("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n");
    }

    /// `fireside cache …`.
    pub fn run(&self, args: &[&str]) -> Outcome {
        let cache = self.path();
        let mut command = fireside(["cache"].iter().chain(args));
        command.arg("--cache-dir").arg(cache).env_remove("HF_HUB_OFFLINE");
        run(command)
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let outcome = self.run(&[args, &["--json"]].concat());
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    }

    /// Every path in the cache and beside it, with its content or the link's target.
    pub fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect(self.folder.path(), &mut found);
        found
    }

    #[track_caller]
    fn is_untouched_outside(&self) {
        assert_eq!(fs::read(self.outside().join("precious")).expect("what lies outside"), b"precious");
    }

    /// Every link leads somewhere, except among what is on its way out.
    #[track_caller]
    pub fn is_whole(&self) {
        let is_seen = |path: &&PathBuf| path.is_symlink() && !path.to_string_lossy().contains("/.removed-");
        for path in self.everything().keys().filter(is_seen) {
            assert!(path.exists(), "{} leads to nothing", path.display());
        }
    }
}

fn collect(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_symlink() {
            let target = fs::read_link(&entry).expect("a link");
            found.insert(entry, target.into_os_string().into_encoded_bytes());
        } else if entry.is_dir() {
            collect(&entry, found);
            found.insert(entry, Vec::new());
        } else {
            let content = fs::read(&entry).expect("a file");
            found.insert(entry, content);
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that repeat nowhere (xorshift, Marsaglia 2003).
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

pub const MODEL: &str = "models--org--tale";
const SIZE: u64 = 100_000 + 8 + 22 + 5_000;

#[test]
fn ls_counts_each_blob_once_and_names_every_damage() {
    let cache = Cache::new();
    cache.model(MODEL);
    let data = cache.blob("datasets--org--data", b"rows", Named::Git);
    cache.link("datasets--org--data", NEW, "data.csv", &data);
    cache.write("datasets--org--data/refs/main", NEW);
    let page = cache.run(&["ls"]).answer();
    assert!(page.contains("org/tale           105.0 KB"), "{page}");
    assert!(page.contains("datasets/org/data       4 B"), "{page}");
    assert!(page.contains("refs/pr/1 (11111111) · main (22222222)"), "{page}");
    assert!(page.contains("2 repositories, 105.0 KB in "), "{page}");
    let json = cache.json(&["ls"]);
    assert_eq!(json["size_bytes"], SIZE + 4);
    let tale = json["repos"].as_array().unwrap().iter().find(|repo| repo["id"] == "org/tale").unwrap();
    assert_eq!((&tale["size_bytes"], &tale["files"]), (&SIZE.into(), &4.into()));
    assert_eq!(tale["revisions"][0]["size_bytes"], 100_000 + 8 + 5_000);
    assert_eq!(tale["revisions"][0]["files"][2]["name"], "onnx/model.onnx");
    assert_eq!(tale["problems"], Value::Array(vec![]));

    // Each of these is a line, and none hides the rest.
    cache.write(&format!("{MODEL}/blobs/{}.{DEAD}.incomplete", "a".repeat(64)), noise(300, 1));
    cache.write(&format!("{MODEL}/refs/v9"), "9".repeat(40));
    cache.link(MODEL, NEW, "evil\x1b[31m.json", &"b".repeat(40));
    cache.write("models--org--empty/blobs/nothing", "");
    cache.write("strange\nentry", "");
    fs::create_dir_all(cache.repo("models--org--file")).unwrap();
    cache.write("models--org--file/snapshots", "");
    let outcome = cache.run(&["ls"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for words in [
        "org/tale: 1 file of unfinished downloads, 300 B",
        "the reference `v9` names `9999",
        "`evil\\u{1b}[31m.json` of `2222",
        "org/empty: there is no folder `snapshots`",
        "`strange\\nentry` is no repository",
        "org/file: there is no folder `snapshots`",
    ] {
        assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
    }
    assert!(!(outcome.stdout + &outcome.stderr).contains('\x1b'));
    assert_eq!(cache.json(&["ls"])["size_bytes"], SIZE + 4);
}

#[test]
fn a_cache_that_is_not_there_is_empty_and_a_file_is_no_cache() {
    let cache = Cache::new();
    fs::remove_dir(cache.path()).unwrap();
    assert!(cache.run(&["ls"]).answer().starts_with("nothing, 0 B in "));
    assert_eq!(cache.json(&["ls"])["repos"], Value::Array(vec![]));
    assert_eq!(cache.run(&["path"]).answer().trim_end(), cache.path().to_str().unwrap());
    assert_eq!(cache.run(&["verify"]).answer(), "nothing to check\n");
    assert_eq!(cache.run(&["prune"]).answer(), "freed 0 B\n");
    assert!(!cache.path().exists());
    fs::write(cache.path(), "").unwrap();
    let outcome = cache.run(&["ls"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("expected a folder as the cache, found a file"), "{outcome:?}");
}

#[test]
fn the_environment_says_where_the_cache_is() {
    let cache = Cache::new();
    cache.model(MODEL);
    let check = |variable: &str, value: PathBuf| {
        let mut command = fireside(["cache", "path", "org/tale"]);
        for name in ["HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command.env(variable, value);
        let shown = run(command).answer();
        assert_eq!(Path::new(shown.trim_end()), cache.repo(MODEL).join("snapshots").join(NEW), "{variable}");
    };
    check("HF_HUB_CACHE", cache.path());
    check("HF_HOME", cache.path().parent().unwrap().to_owned());
}

#[test]
fn rm_of_a_revision_keeps_what_another_one_uses() {
    for name in ["org/tale@refs/pr/1", "org/tale@1111", &format!("org/tale@{OLD}"), "models/org/tale@11111111"] {
        let cache = Cache::new();
        cache.model(MODEL);
        let before = cache.everything();
        let planned = cache.json(&["rm", name, "--dry-run"]);
        assert_eq!(cache.everything(), before, "--dry-run changes nothing");
        let page = cache.run(&["rm", name, "--yes"]).answer();
        assert!(page.contains(&format!("removed org/tale@{OLD}\n")) && page.contains("freed 5.0 KB"), "{page}");
        assert_eq!(planned["freed_bytes"], 5_000 + 8 + 2); // and Python's listing, `{}`
        let after = cache.everything();
        cache.is_whole();
        cache.is_untouched_outside();
        let gone: Vec<String> = before
            .keys()
            .filter(|path| !after.contains_key(*path))
            .map(|path| path.strip_prefix(cache.folder.path()).unwrap().display().to_string())
            .collect();
        assert!(
            gone.iter().all(|path| path.contains(OLD)
                || path.contains("blobs/")
                || path.contains("refs/")
                || path.ends_with(".lock")),
            "{gone:?}"
        );
        assert_eq!(gone.iter().filter(|path| path.contains("blobs/")).count(), 2, "{gone:?}");
        assert_eq!(gone.iter().filter(|path| path.contains("refs/")).count(), 3, "a file and its folders: {gone:?}");
        assert!(after.keys().all(|path| before.contains_key(path)), "nothing new lies about");
        assert_eq!(cache.run(&["verify"]).answer(), "sound      org/tale: 2 files, 100.0 KB\n");
    }
}

#[test]
fn rm_of_a_model_leaves_no_trace_of_it_and_all_of_the_others() {
    let cache = Cache::new();
    cache.model("models--openai-community--gpt2");
    cache.model("models--org--other");
    cache.model("datasets--openai-community--gpt2");
    let others = |cache: &Cache| {
        let mut all = cache.everything();
        all.retain(|path, _| !path.to_str().unwrap().contains("models--openai-community--gpt2"));
        all
    };
    let before = others(&cache);
    // The short name is the card's repository; the dataset of the same name is not meant.
    let page = cache.run(&["rm", "gpt2", "--yes"]).answer();
    assert_eq!(page, "removed openai-community/gpt2 (105.1 KB)\nfreed 105.1 KB\n");
    assert_eq!(cache.everything(), before);
    // Both revisions by name are all of it; the dataset goes when it is named.
    let rm = ["rm", "--yes", "org/other@main", "org/other@1111", "datasets/openai-community/gpt2"];
    cache.run(&rm).answer();
    let left: Vec<_> = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "CACHEDIR.TAG" || name == ".locks"), "{left:?}");
}

#[test]
fn rm_asks_and_refuses_what_it_does_not_know() {
    let cache = Cache::new();
    cache.model(MODEL);
    let before = cache.everything();
    let check = |args: &[&str], code: i32, words: &str| {
        let outcome = cache.run(args);
        assert_eq!(outcome.code, Some(code), "{args:?} {outcome:?}");
        assert!(outcome.stderr.contains(words), "{args:?} {outcome:?}");
        assert_eq!(cache.everything(), before, "{args:?}");
    };
    check(&["rm", "org/tale"], 2, "no terminal to ask on");
    check(&["rm"], 2, "MODEL");
    for name in ["../outside", "..", ".", "/", "", "org/../outside", "models--org--tale", "org--tale", ".locks", "tale"]
    {
        check(&["rm", "--yes", name], 1, "is not in the cache");
    }
    check(&["rm", "--yes", "org/tale@v9"], 1, "no revision `v9`");
    check(&["rm", "--yes", "org/tale@222"], 1, "no revision `222`"); // too few digits to mean a commit
    check(&["rm", "--yes", "org/tale@../../../outside"], 1, "no revision");
    check(&["rm", "--yes", "org/tale", "org/none"], 1, "`org/none` is not in the cache");
}

#[test]
fn rm_and_prune_never_follow_a_link_out_of_the_cache() {
    let outside = |cache: &Cache| {
        let mut found = BTreeMap::new();
        collect(&cache.outside(), &mut found);
        found
    };
    let check = |build: &dyn Fn(&Cache), args: &[&str]| {
        let cache = Cache::new();
        cache.model(MODEL);
        build(&cache);
        let before = outside(&cache);
        let outcome = cache.run(args);
        assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:?}");
        assert_eq!(outside(&cache), before, "{args:?} {outcome:?}");
    };
    // Parts of the cache that the user moved to another disk.
    let moved = |cache: &Cache, path: PathBuf| {
        fs::rename(&path, cache.outside().join("moved")).unwrap();
        symlink(cache.outside().join("moved"), &path).unwrap();
    };
    for args in [&["rm", "--yes", "org/tale"][..], &["rm", "--yes", "org/tale@1111"], &["prune"]] {
        check(&|cache| symlink(cache.outside(), cache.repo(MODEL).join("snapshots/3333")).unwrap(), args);
        check(&|cache| symlink(cache.outside().join("precious"), cache.repo(MODEL).join("refs/out")).unwrap(), args);
        check(&|cache| symlink(cache.outside().join("precious"), cache.repo(MODEL).join("blobs/b")).unwrap(), args);
        check(&|cache| moved(cache, cache.repo(MODEL)), args);
        check(&|cache| moved(cache, cache.path().join(".locks")), args);
        for inside in ["blobs", "snapshots", "refs", ".no_exist", &format!("snapshots/{OLD}")] {
            let build = |cache: &Cache| {
                cache.blob(MODEL, b"nobody links to me", Named::Git);
                moved(cache, cache.repo(MODEL).join(inside));
            };
            check(&build, args);
        }
    }
}

#[test]
fn rm_and_prune_leave_alone_what_somebody_is_writing() {
    let cache = Cache::new();
    cache.model(MODEL);
    let etag = "c".repeat(64);
    let partial = cache.write(&format!("{MODEL}/blobs/{etag}.{DEAD}.incomplete"), noise(300, 1));
    let lock = cache.write(&format!(".locks/{MODEL}/{etag}.lock"), "process 77 (fireside)");
    cache.blob(MODEL, b"perhaps about to be linked", Named::Git);
    let before = cache.everything();
    for path in [&lock, &partial] {
        let held = File::options().read(true).write(true).open(path).unwrap();
        held.lock().unwrap();
        let outcome = cache.run(&["rm", "--yes", "org/tale"]);
        assert!(outcome.code == Some(1) && outcome.stderr.contains("is being downloaded by"), "{outcome:?}");
        let outcome = cache.run(&["prune"]);
        assert!(outcome.code == Some(0) && outcome.stderr.contains("org/tale` is being downloaded by"), "{outcome:?}");
        assert_eq!(cache.everything(), before);
    }
    // A process that lives and has the file open, where locks do not work.
    let own = cache.write(&format!("{MODEL}/blobs/{etag}.{}-1.incomplete", std::process::id()), "");
    let open = File::open(&own).unwrap();
    assert!(cache.run(&["rm", "--yes", "org/tale"]).code == Some(1) || !cfg!(target_os = "linux"));
    drop(open); // it lives, and has closed the file
    assert_eq!(cache.run(&["prune"]).code, Some(0));
    assert!(!own.exists() && !partial.exists() && !lock.exists());
}

#[test]
fn prune_takes_what_nobody_needs_and_nothing_else() {
    let cache = Cache::new();
    cache.model(MODEL);
    cache.model("datasets--org--data");
    let needed = cache.everything();
    for repo in [MODEL, "models--org--empty"] {
        cache.write(&format!("{repo}/blobs/{}.{DEAD}.incomplete", "a".repeat(64)), noise(300, 1));
        cache.write(&format!("{repo}/blobs/{}.{DEAD}.journal.incomplete", "a".repeat(64)), noise(30, 1));
        cache.write(&format!("{repo}/blobs/{}.0badcafe.incomplete", "a".repeat(64)), noise(200, 1)); // as Python names it
        cache.blob(repo, b"nobody links to me", Named::Git);
        cache.write(&format!("{repo}/refs/gone"), "9".repeat(40));
        cache.write(&format!(".locks/{repo}/{}.lock", "a".repeat(64)), "");
    }
    cache.link(MODEL, NEW, "sub/missing.json", &"b".repeat(40));
    cache.write(&format!(".locks/.removed-{DEAD}/blobs/x"), "left by a removal that was stopped");
    let all = cache.everything();
    let planned = cache.json(&["prune", "--dry-run"]);
    assert_eq!(cache.everything(), all);
    let done = cache.json(&["prune"]);
    assert_eq!(planned["freed_bytes"], done["freed_bytes"]);
    assert_eq!(done["freed_bytes"], 300 + 30 + 200 + 18 + (300 + 30 + 200 + 18 + 40) + 34, "{done:#}");
    let mut left = cache.everything();
    left.retain(|path, _| !path.ends_with(format!("snapshots/{NEW}/sub")));
    assert_eq!(left, needed);
    assert_eq!(cache.run(&["prune"]).answer(), "freed 0 B\n", "twice finds nothing");

    // A revision without a name is only told of, until it is asked for.
    fs::remove_dir_all(cache.repo(MODEL).join("refs/refs")).unwrap();
    let outcome = cache.run(&["prune"]);
    assert!(outcome.stderr.contains(&format!("no reference of `org/tale` names its revision `{OLD}`")), "{outcome:?}");
    assert!(cache.repo(MODEL).join("snapshots").join(OLD).exists());
    assert_eq!(cache.run(&["prune", "--old-revisions"]).code, Some(2), "there is nobody to ask");
    cache.run(&["prune", "--old-revisions", "--yes"]).answer();
    assert!(!cache.repo(MODEL).join("snapshots").join(OLD).exists());
    cache.is_whole();
    assert_eq!(cache.json(&["ls"])["repos"][0]["size_bytes"], 100_000 + 22);
}

/// A repository of one revision with many files, to be caught in the middle of.
fn many_files(cache: &Cache, repo: &str) -> Vec<PathBuf> {
    cache.write(&format!("{repo}/refs/main"), NEW);
    let link = |number: u64| {
        let blob = cache.blob(repo, &noise(64, number), Named::Git);
        cache.link(repo, NEW, &format!("part/{number}.bin"), &blob)
    };
    (0..60).map(link).collect()
}

#[test]
fn a_reader_sees_a_snapshot_or_none() {
    let cache = Cache::new();
    let mut seen_whole = 0;
    for _ in 0..10 {
        let files = many_files(&cache, MODEL);
        let folder = cache.repo(MODEL).join("snapshots").join(NEW);
        let mut command = fireside(["cache", "rm", "--yes", "org/tale", "--cache-dir"]);
        let mut child = piped(command.arg(cache.path()));
        while child.try_wait().expect("the program").is_none() {
            // The last first: a file that is gone while an earlier look found its neighbours is half a model.
            let found = files.iter().rev().filter(|file| file.exists()).count();
            let is_there = folder.exists();
            assert!(!is_there || found == files.len(), "{found} files of a snapshot that is there");
            seen_whole += usize::from(is_there);
        }
        assert!(!cache.repo(MODEL).exists());
    }
    assert!(seen_whole > 0, "the reader was there in time");
}

#[test]
fn a_removal_that_is_killed_leaves_a_sound_cache() {
    let cache = Cache::new();
    cache.model("models--org--other");
    let mut unfinished = 0;
    for (round, args) in (0..600).zip([["rm", "--yes", "org/tale"], ["rm", "--yes", "org/tale@main"]].iter().cycle()) {
        if round >= 60 && unfinished > 10 {
            break; // on a crowded machine a kill comes late
        }
        many_files(&cache, MODEL);
        let old = cache.blob(MODEL, b"of an old revision", Named::Git);
        cache.link(MODEL, OLD, "old.txt", &old);
        let mut command = fireside(["cache"].iter().chain(args));
        let mut child = piped(command.arg("--cache-dir").arg(cache.path()));
        std::thread::sleep(std::time::Duration::from_micros(100 * (round % 30)));
        child.kill().expect("a process");
        unfinished += usize::from(!child.wait().expect("its end").success());
        cache.is_whole();
        let repos = cache.json(&["ls"]);
        for repo in repos["repos"].as_array().expect("a list") {
            assert_eq!(repo["problems"], Value::Array(vec![]), "round {round}: {repo:#}");
        }
        assert_eq!(cache.run(&["verify"]).code, Some(0));
        let _ = cache.run(&["rm", "--yes", "org/tale"]);
        assert_eq!(cache.run(&["prune"]).code, Some(0));
    }
    assert!(unfinished > 10, "{unfinished} removals were killed");
    let mut left: Vec<_> = fs::read_dir(cache.path().join(".locks")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.retain(|name| name != "models--org--other");
    assert!(left.is_empty(), "nothing lies about: {left:?}");
}
