//! `fireside export` and `fireside import`: a model goes through one file into another machine's cache, and nothing
//! else does.
//!
//! `FIRESIDE_HUB_PYTHON=python3 cargo test --release --test it bundle::` also asks Python's client to find what was
//! imported.

mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tar::EntryType;
use tempfile::TempDir;

use crate::cache::{Cache, NEW, Named, noise};
use crate::program::{Outcome, fireside, run, run_with};
use crate::support::fixture;

const REPO: &str = "models--org--tale";

/// What a visible file of a cache is: a path and its bytes, or the link's target.
type Everything = BTreeMap<PathBuf, Vec<u8>>;

/// Puts a small model that writes words into a cache, linked as after a download.
fn add_tale(cache: &Cache, repo: &str) {
    for entry in fs::read_dir(fixture("tale")).expect("a fixture").flatten() {
        let name = entry.file_name().into_string().expect("a plain name");
        let named = if name.ends_with(".safetensors") { Named::Sha256 } else { Named::Git };
        let blob = cache.blob(repo, &fs::read(entry.path()).expect("a file"), named);
        cache.link(repo, NEW, &name, &blob);
    }
    cache.write(&format!("{repo}/refs/main"), NEW);
}

fn cache_of_tale() -> Cache {
    let cache = Cache::new();
    add_tale(&cache, REPO);
    cache
}

/// A command of a user with this cache and no other settings.
fn command(cache: &Cache, args: &[&str]) -> Command {
    let mut command = fireside(args);
    for name in ["HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_DISABLE_SYMLINKS"] {
        command.env_remove(name);
    }
    command.env("HF_HUB_CACHE", cache.path()).env("HF_HOME", cache.path());
    command
}

fn on(cache: &Cache, args: &[&str]) -> Outcome {
    run(command(cache, args))
}

/// The tale as a bundle.
fn bundle_of_tale() -> Vec<u8> {
    let folder = TempDir::new().expect("a temporary folder");
    let file = folder.path().join("tale.tar");
    on(&cache_of_tale(), &["export", "org/tale", "-o", file.to_str().unwrap()]).answer();
    fs::read(file).expect("a bundle")
}

fn import(cache: &Cache, bundle: &[u8]) -> Outcome {
    run_with(command(cache, &["import", "-"]), bundle)
}

/// What the model in a cache writes.
fn text_of(cache: &Cache, model: &str) -> String {
    let args = ["generate", "--offline", "--model", model, "--temperature", "0", "-n", "12", "Once upon a time"];
    let text = on(cache, &args).answer();
    assert!(text.len() > 20, "{text}");
    text
}

/// A run that failed as a failure should; gives its line.
#[track_caller]
fn refused(what: &str, outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(1), "{what}: {outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(lines.len() == 1 && outcome.stdout.is_empty(), "{what}: {outcome:?}");
    let drives = |c: char| c.is_control() && c != '\n';
    assert!(outcome.stderr.len() <= 4096 && !outcome.stderr.contains(drives), "{what}: {outcome:?}");
    lines[0].to_owned()
}

/// A cache without the marks that carry no content.
fn content(cache: &Cache) -> Everything {
    let marks =
        |path: &Path| path.ends_with("CACHEDIR.TAG") || path.components().any(|part| part.as_os_str() == ".locks");
    cache.everything().into_iter().filter(|(path, _)| !marks(path)).collect()
}

/// The same, as a user of the cache sees it: names below the cache, without folders.
fn visible(cache: &Cache) -> Everything {
    let root = cache.path();
    let name = |path: PathBuf| path.canonicalize().is_ok().then(|| path.strip_prefix(&root).ok().map(Path::to_owned));
    let mut found = Everything::new();
    for (path, bytes) in content(cache) {
        if (path.is_symlink() || path.is_file()) && path.starts_with(&root) {
            found.insert(name(path).flatten().expect("links lead somewhere"), bytes);
        }
    }
    found
}

#[test]
fn a_model_goes_through_a_bundle_into_another_cache() {
    let (here, there) = (cache_of_tale(), Cache::new());
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (first, second, third) = (file("a.tar"), file("b.tar"), file("c.tar"));
    let before = here.everything();
    assert_eq!(on(&here, &["export", "org/tale", "-o", &first]).answer(), format!("{first}\n"));
    assert_eq!(here.everything(), before, "exporting changes nothing");

    let snapshot = there.repo(REPO).join("snapshots").join(NEW);
    assert_eq!(on(&there, &["import", &first]).answer(), format!("{}\n", snapshot.display()));
    assert_eq!(visible(&there), visible(&here));
    assert_eq!(text_of(&there, "org/tale"), text_of(&here, "org/tale"));
    on(&there, &["cache", "verify"]).answer();

    // The same bytes again, from the other cache too, and by way of stdout.
    on(&here, &["export", "org/tale@main", "--offline", "-o", &second]).answer();
    let json: Value =
        serde_json::from_str(&on(&there, &["export", "org/tale", "-o", &third, "--json"]).answer()).unwrap();
    let bytes = fs::read(&first).unwrap();
    assert!(fs::read(&second).unwrap() == bytes && fs::read(&third).unwrap() == bytes);
    let stdout = command(&here, &["export", "org/tale", "-o", "-"]).output().unwrap();
    assert!(stdout.status.success() && stdout.stdout == bytes);
    assert_eq!((&json["repo"], &json["commit"], &json["file"]), (&json!("org/tale"), &json!(NEW), &json!(third)));
    assert_eq!(json["files"].as_array().unwrap().len(), fs::read_dir(fixture("tale")).unwrap().count());

    // Importing what is there already changes nothing; from stdin, with JSON.
    let again = run_with(command(&there, &["import", "-", "--json"]), &bytes).answer();
    let again: Value = serde_json::from_str(&again).unwrap();
    assert_eq!((&again["files"], &again["folder"]), (&json["files"], &json!(snapshot)));
    assert_eq!(visible(&there), visible(&here));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "nothing unfinished is left");
}

#[test]
fn a_bundle_is_a_plain_tar_that_says_nothing_of_its_maker() {
    let bytes = bundle_of_tale();
    let mut names = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        let facts = (header.mode().unwrap(), header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap());
        assert_eq!((facts, header.entry_type()), ((0o644, 0, 0, 0), EntryType::Regular));
        assert!(header.username().unwrap().unwrap_or_default().is_empty());
        names.push(entry.path().unwrap().to_str().unwrap().to_owned());
    }
    assert_eq!(names[0], "fireside-bundle.json");
    assert!(names[1..].iter().all(|name| name.starts_with("blobs/")));
    // One content has one entry; vocab.json and its kin have 40 digits, the weights 64.
    let digits: Vec<usize> = names[1..].iter().map(|name| name.len() - "blobs/".len()).collect();
    assert!(digits.contains(&40) && digits.iter().filter(|length| **length == 64).count() == 1, "{names:?}");
    // GNU tar, where there is one, reads it and complains of nothing.
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tale.tar");
    fs::write(&file, &bytes).unwrap();
    match Command::new("tar").arg("-tf").arg(&file).output() {
        Ok(output) => {
            assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), names);
            assert!(output.stderr.is_empty());
        }
        Err(error) => eprintln!("SKIPPED: no tar that could list a bundle: {error}"),
    }
}

#[test]
fn cards_aliases_copies_and_shared_content_are_exported_alike() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("x.tar");
    let export = |cache: &Cache, model: &str| {
        on(cache, &["export", model, "--force", "-o", file.to_str().unwrap()]).answer();
        fs::read(&file).unwrap()
    };
    // A card's short name finds its repository, also under the name of the Hub's first years.
    for repo in ["models--openai-community--gpt2", "models--gpt2"] {
        let (here, there) = (Cache::new(), Cache::new());
        add_tale(&here, repo);
        import(&there, &export(&here, "gpt2")).answer();
        assert_eq!(visible(&there), visible(&here));
        assert_eq!(text_of(&there, "gpt2"), text_of(&here, "gpt2"));
    }
    // A snapshot of copies, as where links cannot be made, has the hashes that the Hub gives.
    let (linked, copied, shared) = (cache_of_tale(), Cache::new(), cache_of_tale());
    for entry in fs::read_dir(fixture("tale")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        copied.write(&format!("{REPO}/snapshots/{NEW}/{name}"), fs::read(entry.path()).unwrap());
    }
    copied.write(&format!("{REPO}/refs/main"), NEW);
    let expected = export(&linked, "org/tale");
    assert!(export(&copied, "org/tale") == expected);
    // Blobs that are links into a store elsewhere are read through.
    let store = TempDir::new().unwrap();
    for entry in fs::read_dir(shared.repo(REPO).join("blobs")).unwrap().flatten() {
        let elsewhere = store.path().join(entry.file_name());
        fs::rename(entry.path(), &elsewhere).unwrap();
        symlink(&elsewhere, entry.path()).unwrap();
    }
    assert!(export(&shared, "org/tale") == expected);
    import(&shared, &expected).answer();
    assert!(shared.repo(REPO).join("blobs").read_dir().unwrap().flatten().all(|entry| entry.path().is_symlink()));
    // A cache that cannot have links gets copies.
    let there = Cache::new();
    let mut no_links = command(&there, &["import", "-"]);
    no_links.env("HF_HUB_DISABLE_SYMLINKS", "1");
    run_with(no_links, &expected).answer();
    assert_eq!(text_of(&there, "org/tale"), text_of(&linked, "org/tale"));
    assert!(export(&there, "org/tale") == expected);
}

#[test]
fn a_bundle_holds_what_the_model_needs_and_no_more() {
    let here = cache_of_tale();
    for (name, content) in [("pytorch_model.bin", noise(9_000, 1)), ("onnx/model.onnx", noise(9_000, 2))] {
        let blob = here.blob(REPO, &content, Named::Sha256);
        here.link(REPO, NEW, name, &blob);
    }
    let gguf = here.blob(REPO, &noise(9_000, 3), Named::Sha256);
    here.link(REPO, NEW, "tale-Q4_K_M.gguf", &gguf);
    let names = |model: &str| -> Vec<String> {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("x.tar");
        let json = on(&here, &["export", model, "--json", "-o", file.to_str().unwrap()]).answer();
        let json: Value = serde_json::from_str(&json).unwrap();
        json["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap().to_owned()).collect()
    };
    let tale: Vec<String> = names("org/tale");
    assert!(tale.contains(&"config.json".to_owned()) && tale.contains(&"model.safetensors".to_owned()));
    assert!(
        !tale.iter().any(|name| name.contains("bin") || name.contains("onnx") || name.contains("gguf")),
        "{tale:?}"
    );
    assert_eq!(names("org/tale:Q4_K_M"), ["tale-Q4_K_M.gguf"]);
    assert_eq!(names("org/tale/onnx/model.onnx"), ["onnx/model.onnx"]);
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let here = cache_of_tale();
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let check = |code: i32, args: &[&str], parts: &[&str]| {
        let outcome = run_in(command(&here, &[&["export"], args].concat()), folder.path());
        assert_eq!(outcome.code, Some(code), "{args:?}: {outcome:?}");
        for part in parts {
            assert!(outcome.stderr.contains(part), "{args:?}: expected {part} in {}", outcome.stderr);
        }
    };
    check(1, &["org/none", "-o", "x.tar"], &["`org/none` is not in the cache", "fireside pull org/none"]);
    check(1, &["org/tale@v2", "-o", "x.tar"], &["org/tale@v2", "fireside pull"]);
    check(1, &["org/tale:Q8_0", "-o", "x.tar"], &["org/tale:Q8_0", "fireside pull"]);
    check(1, &["gpt2", "-o", "x.tar"], &["openai-community/gpt2", "fireside pull"]);
    check(1, &["ember", "-o", "x.tar"], &["inside the program"]);
    check(1, &[".", "-o", "x.tar"], &["copy it as it is"]);
    check(1, &["../nobodys-model", "-o", "x.tar"], &["no model's name"]);
    check(2, &["org/tale"], &["--output"]);
    check(2, &["org/tale", "-o", "-", "--json"], &["stdout"]);
    check(1, &["org/tale", "-o", "."], &["folder"]);
    check(1, &["org/tale", "-o", "none/x.tar"], &["cannot write"]);
    check(1, &["org/tale", "-o", "/dev/null", "--force"], &["`/dev/null` is no file"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    // What is there stays, unless the user says so. What a killed export left is no obstacle.
    fs::write(path("x.tar"), "mine").unwrap();
    fs::write(path("x.tar.incomplete"), "left").unwrap();
    check(1, &["org/tale", "-o", "x.tar"], &["`x.tar` is there already", "--force"]);
    assert_eq!(fs::read(path("x.tar")).unwrap(), b"mine");
    check(0, &["org/tale", "-o", "x.tar", "--force"], &[]);
    assert_eq!(fs::read(path("x.tar")).unwrap(), bundle_of_tale());
    assert!(!Path::new(&path("x.tar.incomplete")).exists());
    fs::remove_file(path("x.tar")).unwrap();

    // Damage is found on the way, in a large file, a small one, one that is too short and one that is too long.
    let snapshot = here.repo(REPO).join("snapshots").join(NEW);
    let flip: fn(&mut Vec<u8>) = |bytes| bytes[100] ^= 1;
    for (name, damage) in [
        ("model.safetensors", flip),
        ("config.json", flip),
        ("vocab.json", |bytes| bytes.truncate(100)),
        ("merges.txt", |bytes| bytes.push(b' ')),
    ] {
        let blob = snapshot.join(name).canonicalize().unwrap();
        let sound = fs::read(&blob).unwrap();
        let mut damaged = sound.clone();
        damage(&mut damaged);
        fs::write(&blob, damaged).unwrap();
        check(1, &["org/tale", "-o", "x.tar"], &[&format!("`{name}` of `org/tale` is damaged"), "cache verify"]);
        fs::write(&blob, sound).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn run_in(mut command: Command, folder: &Path) -> Outcome {
    command.current_dir(folder);
    run(command)
}

/// Every visible content is what its name says, and every link leads somewhere.
#[track_caller]
fn is_sound(what: &str, cache: &Cache) {
    let outcome = on(cache, &["cache", "verify", "--json"]);
    assert_eq!(outcome.code, Some(0), "{what}: {outcome:?}");
    for path in cache.everything().keys().filter(|path| path.is_symlink()) {
        assert!(path.exists(), "{what}: {} leads to nothing", path.display());
    }
    if cache.repo(REPO).join("refs/main").exists() {
        text_of(cache, "org/tale");
    }
}

#[test]
fn an_import_that_is_killed_leaves_a_sound_cache() {
    let bundle = bundle_of_tale();
    let cache = Cache::new();
    let whole = import(&Cache::new(), &bundle).took;
    let mut late = 0;
    for round in 0..24 {
        // Either a part of the bundle has come, or all of it and some of the time that an import takes has passed.
        let sent = if round < 12 { bundle.len() * round / 12 } else { bundle.len() };
        let mut import = command(&cache, &["import", "-"]);
        let start = Instant::now();
        let mut child = import.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(&bundle[..sent]).unwrap();
        if round < 12 {
            let is_begun = || cache.repo(REPO).join("blobs").read_dir().is_ok_and(|mut blobs| blobs.next().is_some());
            while sent > 100_000 && !is_begun() && start.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(1));
            }
        } else {
            drop(pipe);
            std::thread::sleep((whole * (round as u32 - 6) / 14).saturating_sub(start.elapsed()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let what = format!("round {round}");
        if round < 12 {
            assert!(!cache.repo(REPO).join("snapshots").exists() && !cache.repo(REPO).join("refs").exists(), "{what}");
            let is_unfinished = |name: &str| name.ends_with(".incomplete");
            let blobs = cache.repo(REPO).join("blobs");
            let mut names = blobs.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
            assert!(names.all(|name| is_unfinished(name.to_str().unwrap())), "{what}");
        } else {
            late += usize::from(!cache.repo(REPO).join("refs/main").exists());
        }
        is_sound(&what, &cache);
        // Every other time on what the killed one left.
        if round % 2 == 1 {
            import_again(&cache, &bundle);
            let names = cache.repo(REPO).join("blobs").read_dir().unwrap().flatten().map(|entry| entry.file_name());
            let left: Vec<_> = names.filter(|name| name.len() > 64 + ".incomplete".len()).collect();
            assert!(left.is_empty(), "{what}: what the killed ones left is gone: {left:?}");
            fs::remove_dir_all(cache.repo(REPO)).unwrap();
        }
    }
    eprintln!("of 12 kills behind the end of the bundle {late} came before its model was visible");
    import_again(&cache, &bundle);
    // What the killed ones left is known for what it is.
    on(&cache, &["cache", "prune"]);
    assert!(visible(&cache).keys().all(|name| !name.to_str().unwrap().ends_with(".incomplete")));
    assert_eq!(visible(&cache), visible(&cache_of_tale()));
}

#[track_caller]
fn import_again(cache: &Cache, bundle: &[u8]) {
    import(cache, bundle).answer();
    text_of(cache, "org/tale");
}

#[test]
fn eight_imports_at_once_leave_one_sound_model() {
    let bundle = bundle_of_tale();
    let cache = Cache::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| import(&cache, &bundle))).collect();
        for run in runs {
            let outcome = run.join().unwrap();
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
    });
    assert_eq!(visible(&cache), visible(&cache_of_tale()));
}

#[test]
fn python_finds_what_was_imported() {
    let Some(python) = std::env::var_os("FIRESIDE_HUB_PYTHON") else {
        eprintln!("SKIPPED: set FIRESIDE_HUB_PYTHON to a Python that has huggingface_hub 1.x or 2.x");
        return;
    };
    let cache = Cache::new();
    import(&cache, &bundle_of_tale()).answer();
    let code = "import os
from huggingface_hub import snapshot_download, hf_hub_download, scan_cache_dir
folder = snapshot_download('org/tale', local_files_only=True)
file = hf_hub_download('org/tale', 'model.safetensors', local_files_only=True)
assert os.path.samefile(os.path.join(folder, 'model.safetensors'), file)
found = scan_cache_dir()
assert not found.warnings, found.warnings
print(folder, found.size_on_disk)";
    let mut script = Command::new(python);
    script.args(["-c", code]).env("HF_HUB_CACHE", cache.path()).env("HF_HUB_OFFLINE", "1");
    let outcome = run(script);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let size: u64 = fs::read_dir(fixture("tale")).unwrap().flatten().map(|entry| entry.metadata().unwrap().len()).sum();
    let snapshot = cache.repo(REPO).join("snapshots").join(NEW);
    assert_eq!(outcome.stdout, format!("{} {size}\n", snapshot.display()));
}
