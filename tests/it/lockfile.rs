//! `models.lock`: written after a pull, and held against every byte by `pull --locked`, with the fake Hub and without.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::cache::{Cache, NEW, Named, OLD};
use crate::hub::fake::FakeHub;
use crate::hub::{Home, sharded, tale};
use crate::program::{Outcome, fireside, run};
use crate::support::fixture;

const REPO: &str = "models--org--tale";
const FILES: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];
const HEAD: &str = "\
# `fireside pull MODEL --lock` writes this file, `fireside pull --locked` fetches exactly what it says.
version = 1
";

/// A model's entry as it must be written.
fn entry(name: &str, repo: &str, revision: &str, commit: &str, files: &[(&str, Vec<u8>)]) -> String {
    let mut text = format!(
        "\n[[model]]\nname = \"{name}\"\nrepo = \"{repo}\"\nrevision = \"{revision}\"\ncommit = \"{commit}\"\n"
    );
    for (path, bytes) in files {
        let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        text += &format!("\n[[model.file]]\npath = \"{path}\"\nsize = {}\nsha256 = \"{sha256}\"\n", bytes.len());
    }
    text
}

/// The entry of a model on the fake Hub, at its newest commit.
fn entry_of(hub: &FakeHub, name: &str, repo: &str, commit: &str) -> String {
    let tree = hub.tree(repo);
    let files: Vec<(&str, Vec<u8>)> = tree
        .keys()
        .map(|path| {
            let folder = if repo.ends_with("sharded") { "gpt2/sharded" } else { "tale" };
            let written = fixture(folder).join(path);
            (path.as_str(), fs::read(written).unwrap_or_else(|_| tokenizer()))
        })
        .collect();
    entry(name, repo, "main", commit, &files)
}

/// What `write_tokenizer` writes.
fn tokenizer() -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    crate::support::write_tokenizer(folder.path());
    fs::read(folder.path().join("tokenizer.json")).unwrap()
}

/// A cache that holds a model without any Hub, and its lock.
struct Local {
    cache: Cache,
    work: TempDir,
}

impl Local {
    fn new() -> Local {
        let (cache, work) = (Cache::new(), TempDir::new().unwrap());
        let mut files = Vec::new();
        for name in FILES {
            let bytes = fs::read(fixture("tale").join(name)).unwrap();
            let named = if name.ends_with(".safetensors") { Named::Sha256 } else { Named::Git };
            let blob = cache.blob(REPO, &bytes, named);
            cache.link(REPO, NEW, name, &blob);
            files.push((name, bytes));
        }
        cache.write(&format!("{REPO}/refs/main"), NEW);
        let lock = HEAD.to_owned() + &entry("org/tale", "org/tale", "main", NEW, &files);
        fs::write(work.path().join("models.lock"), lock).unwrap();
        Local { cache, work }
    }

    fn lock(&self) -> PathBuf {
        self.work.path().join("models.lock")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = fireside(args);
        for name in ["HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_DISABLE_SYMLINKS"] {
            command.env_remove(name);
        }
        command.env("HF_HUB_CACHE", self.cache.path()).env("HF_HOME", self.cache.path()).current_dir(self.work.path());
        command
    }

    fn check(&self, args: &[&str]) -> Outcome {
        run(self.command(&[&["pull", "--offline", "--locked"], args].concat()))
    }

    /// Runs against an edited lock, and expects a refusal that says all this.
    #[track_caller]
    fn refuses(&self, edit: impl Fn(&str) -> String, parts: &[&str]) {
        let sound = fs::read_to_string(self.lock()).unwrap();
        let edited = edit(&sound);
        assert_ne!(edited, sound, "{parts:?}");
        fs::write(self.lock(), edited).unwrap();
        let outcome = self.check(&[]);
        fs::write(self.lock(), sound).unwrap();
        refused(&outcome, parts);
    }
}

#[track_caller]
fn refused(outcome: &Outcome, parts: &[&str]) {
    assert!(outcome.code == Some(1) && outcome.stdout.is_empty(), "{parts:?}: {outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(lines.len() == 1 && outcome.stderr.contains("hint: "), "{parts:?}: {outcome:?}");
    let drives = |c: char| c.is_control() && c != '\n';
    assert!(outcome.stderr.len() <= 4096 && !outcome.stderr.contains(drives), "{parts:?}: {outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "expected {part}: {outcome:?}");
    }
}

#[test]
fn a_cache_is_held_against_the_lock_without_network() {
    let local = Local::new();
    let snapshot = local.cache.repo(REPO).join("snapshots").join(NEW);
    let before = local.cache.everything();
    let folder = format!("{}\n", snapshot.display());
    assert_eq!(local.check(&[]).answer(), folder);
    assert_eq!(local.check(&["org/tale"]).answer(), folder);
    let json: serde_json::Value = serde_json::from_str(&local.check(&["--json"]).answer()).unwrap();
    assert_eq!((&json["model"], &json["commit"]), (&"org/tale".into(), &NEW.into()));
    assert_eq!(json["files"].as_array().unwrap().len(), FILES.len());
    // Where everything is here, nobody is asked: this address answers nobody.
    let mut online = local.command(&["pull", "--locked"]);
    online.env("HF_ENDPOINT", "http://127.0.0.1:9");
    assert_eq!(run(online).answer(), folder);
    assert_eq!(local.cache.everything(), before);

    refused(
        &local.check(&["org/none"]),
        &["expected the model `org/none`", "`org/tale`", "fireside pull org/none --lock"],
    );
    let nowhere = local.check(&["--lock-file", "none.lock"]);
    refused(&nowhere, &["none.lock", "no such file", "--lock"]);
    fs::rename(local.lock(), local.work.path().join("other.lock")).unwrap();
    refused(&local.check(&[]), &["models.lock"]);
    assert_eq!(local.check(&["--lock-file", "other.lock"]).answer(), folder);
    fs::rename(local.work.path().join("other.lock"), local.lock()).unwrap();

    // The branch is elsewhere: the user hears of it, and the next run with network sets it.
    local.cache.write(&format!("{REPO}/refs/main"), OLD);
    let outcome = local.check(&[]);
    assert!(
        outcome.code == Some(0) && outcome.stderr.contains("warning: ") && outcome.stderr.contains(OLD),
        "{outcome:?}"
    );
    run(local.command(&["pull", "--locked"])).answer();
    assert_eq!(local.cache.everything(), before);

    // Damage and absence.
    let weights = snapshot.join("model.safetensors").canonicalize().unwrap();
    let sound = fs::read(&weights).unwrap();
    let mut damaged = sound.clone();
    damaged[1000] ^= 1;
    fs::write(&weights, &damaged).unwrap();
    let name = weights.file_name().unwrap().to_str().unwrap();
    refused(&local.check(&[]), &["`model.safetensors` of `org/tale` differs", name, "cache verify"]);
    fs::write(&weights, &sound[1..]).unwrap();
    refused(&local.check(&[]), &[&format!("expected {} bytes, found {} bytes", sound.len(), sound.len() - 1)]);
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    refused(
        &local.check(&[]),
        &["`model.safetensors` of `org/tale`", "is not here", "fireside pull org/tale --locked"],
    );
}

#[test]
fn a_lock_file_that_is_wrong_is_refused() {
    let local = Local::new();
    let replace = |from: &'static str, to: &'static str| move |text: &str| text.replacen(from, to, 1);
    let config = fs::metadata(fixture("tale/config.json")).unwrap().len();
    local.refuses(
        |text| text.replacen(&format!("size = {config}"), "size = 7", 1),
        &["`config.json`", "expected 7 bytes", &format!("found {config} bytes"), "--lock"],
    );
    let zeros = "0".repeat(64);
    local.refuses(
        |text| {
            let at = text.find("sha256 = \"").unwrap() + 10;
            format!("{}{zeros}{}", &text[..at], &text[at + 64..])
        },
        &[
            "`config.json` of `org/tale` differs from `models.lock`",
            &format!("expected the sha256 {zeros}, found the sha256 "),
        ],
    );
    local.refuses(|_| String::new(), &["version = 1, found none"]);
    local.refuses(replace("version = 1", "version = 2"), &["version = 1, found `2`"]);
    local.refuses(replace("version = 1", "version = \"1\""), &["version = 1, found"]);
    local.refuses(replace("version = 1", "version = 1\nextra = 1"), &["line ", "extra"]);
    local.refuses(replace("name = ", "nam = "), &["line "]);
    local.refuses(replace("[[model]]", "[[model"), &["line 4"]);
    local.refuses(replace("repo = \"org/tale\"", "repo = \"../evil\""), &["`../evil`"]);
    local.refuses(replace("name = \"org/tale\"", "name = \"/etc\""), &["`/etc`"]);
    local.refuses(replace("revision = \"main\"", "revision = \"../../x\""), &["`../../x`"]);
    local.refuses(replace("commit = \"2", "commit = \"x"), &["commit"]);
    local.refuses(replace("path = \"config.json\"", "path = \"../../config.json\""), &["`../../config.json`"]);
    local.refuses(replace("path = \"config.json\"", "path = \"tokenizer.json\""), &["`tokenizer.json` twice"]);
    local.refuses(replace("sha256 = \"", "sha256 = \"0"), &["sha256"]);
    local.refuses(replace("size = ", "size = -"), &["line "]);
    local.refuses(|text| text.split("\n[[model.file]]").next().unwrap().to_owned(), &["expected files"]);
    local.refuses(|text| format!("{text}{}", &text[HEAD.len()..]), &["the model `org/tale` twice"]);
    local.refuses(|text| format!("{text}\u{1b}[31m"), &["line "]);
    local.refuses(|text| format!("{text}x = {}", "[".repeat(100_000)), &["line "]);
    local.refuses(|text| format!("{text}{}", "#".repeat(17 << 20)), &["at most"]);
    fs::write(local.lock(), b"\xff").unwrap();
    refused(&local.check(&[]), &["UTF-8"]);
    // A lock of nothing is done at once.
    fs::write(local.lock(), HEAD).unwrap();
    assert_eq!(local.check(&[]).answer(), "");
}

#[test]
fn arguments_that_do_not_go_together_are_refused() {
    let local = Local::new();
    for args in [
        &[][..],
        &["--lock"],
        &["org/tale", "--lock", "--locked"],
        &["org/tale", "--lock-file", "x"],
        &["org/tale", "--lock", "--dry-run"],
        &["org/tale", "--locked", "--file", "x"],
        &["--locked", "--revision", "v1"],
        &["--locked", "--local-dir", "x"],
    ] {
        let outcome = run(local.command(&[&["pull"], args].concat()));
        assert_eq!(outcome.code, Some(2), "{args:?}: {outcome:?}");
    }
}

/// The lock of a user.
fn lock_of(home: &Home) -> PathBuf {
    home.work().join("models.lock")
}

#[track_caller]
fn done(home: &Home, hub: &FakeHub, args: &[&str]) -> String {
    let outcome = home.run(hub, args);
    assert_eq!(outcome.code, Some(0), "{args:?}: {outcome:?}");
    outcome.stdout
}

#[test]
fn pull_writes_a_lock_that_another_machine_fetches() {
    let (hub, mine, yours) = (FakeHub::start(), Home::new(), Home::new());
    let first = tale(&hub, "org/tale");
    let second = sharded(&hub, "org/sharded");
    done(&mine, &hub, &["pull", "org/tale", "--lock"]);
    let tale_entry = entry_of(&hub, "org/tale", "org/tale", &first);
    assert_eq!(fs::read_to_string(lock_of(&mine)).unwrap(), format!("{HEAD}{tale_entry}"));
    // Another model comes before it by name, and leaves it as it is.
    done(&mine, &hub, &["pull", "org/sharded", "--lock"]);
    let both = format!("{HEAD}{}{tale_entry}", entry_of(&hub, "org/sharded", "org/sharded", &second));
    assert_eq!(fs::read_to_string(lock_of(&mine)).unwrap(), both);
    // The same once more is the same file.
    let written = fs::metadata(lock_of(&mine)).unwrap().modified().unwrap();
    done(&mine, &hub, &["pull", "org/tale", "--lock"]);
    assert_eq!(fs::metadata(lock_of(&mine)).unwrap().modified().unwrap(), written);
    assert_eq!(fs::read_dir(mine.work()).unwrap().count(), 1);

    // The branch moves on. A machine with the lock fetches what the lock says.
    let newer = hub.repo("org/tale").file("config.json", "{}").publish();
    fs::copy(lock_of(&mine), lock_of(&yours)).unwrap();
    let folders = done(&yours, &hub, &["pull", "--locked", "--progress", "none"]);
    let snapshot = |home: &Home, repo: &str, commit: &str| home.repo(repo).join("snapshots").join(commit);
    let expected = [snapshot(&yours, "org/sharded", &second), snapshot(&yours, "org/tale", &first)];
    assert_eq!(folders.lines().map(Path::new).collect::<Vec<_>>(), expected);
    assert!(!snapshot(&yours, "org/tale", &newer).exists());
    assert_eq!(fs::read_to_string(yours.repo("org/tale").join("refs/main")).unwrap(), first);
    let text =
        done(&yours, &hub, &["generate", "--offline", "--model", "org/tale", "-t", "0", "-n", "8", "Once upon a time"]);
    assert!(text.len() > 10, "{text}");
    // From here on it needs nobody.
    hub.forget_seen();
    done(&yours, &hub, &["pull", "--locked"]);
    done(&yours, &hub, &["pull", "--locked", "--offline", "org/tale"]);
    assert_eq!(hub.seen().len(), 0);
    // Into a folder.
    done(&yours, &hub, &["pull", "--locked", "org/tale", "--local-dir", "here"]);
    for entry in fs::read_dir(snapshot(&yours, "org/tale", &first)).unwrap().flatten() {
        let here = fs::read(yours.work().join("here").join(entry.file_name())).unwrap();
        assert!(here == fs::read(entry.path()).unwrap());
    }
    done(&yours, &hub, &["pull", "--locked", "--offline", "org/tale", "--local-dir", "here"]);
    // Another revision is another entry.
    let v2 = hub.repo("org/sharded").file("README.md", "more").on_branch("v2").publish();
    let of_v2 = ["pull", "org/sharded", "--revision", "v2", "--lock-file", "x.lock"];
    done(&yours, &hub, &[&of_v2[..], &["--lock"]].concat());
    let text = fs::read_to_string(yours.work().join("x.lock")).unwrap();
    let head = "[[model]]\nname = \"org/sharded@v2\"\nrepo = \"org/sharded\"\nrevision = \"v2\"\ncommit = ";
    assert!(text.contains(&format!("{head}\"{v2}\"\n")) && text.contains("README.md"), "{text}");
    let folder = done(&yours, &hub, &[&of_v2[..], &["--locked", "--offline"]].concat());
    assert_eq!(Path::new(folder.trim_end()), snapshot(&yours, "org/sharded", &v2));
}

#[test]
fn what_differs_from_the_lock_is_refused_before_it_moves() {
    let (hub, home) = (FakeHub::start(), Home::new());
    let commit = tale(&hub, "org/tale");
    let sound = format!("{HEAD}{}", entry_of(&hub, "org/tale", "org/tale", &commit));
    let check = |path: &str, key: &str, value: &str, parts: &[&str]| {
        let place = sound.find(&format!("path = \"{path}\"")).unwrap();
        let at = place + sound[place..].find(&format!("{key} = ")).unwrap();
        let end = at + sound[at..].find('\n').unwrap();
        fs::write(lock_of(&home), format!("{}{key} = {value}{}", &sound[..at], &sound[end..])).unwrap();
        let outcome = home.run(&hub, ["pull", "--locked", "org/tale", "--progress", "none"]);
        refused(&outcome, parts);
        assert!(!home.repo("org/tale").join("refs/main").exists(), "{path} {key}");
    };
    let zeros = format!("\"{}\"", "0".repeat(64));
    check(
        "model.safetensors",
        "sha256",
        &zeros,
        &["`model.safetensors`", "expected the sha256 000", "on the Hub", "--lock"],
    );
    check("model.safetensors", "size", "5", &["expected 5 bytes", "on the Hub"]);
    check("config.json", "size", "5", &["`config.json`", "expected 5 bytes", "on the Hub"]);
    assert_eq!((hub.gets("model.safetensors"), hub.gets("resolve")), (0, 0), "{:#?}", hub.seen());
    check(
        "none.json".replace("none", "config").as_str(),
        "path",
        "\"none.json\"",
        &["the Hub has no file", "`none.json`"],
    );
    // git's hash says nothing of a small file's SHA-256: it is held against the lock when it is here.
    check("config.json", "sha256", &zeros, &["`config.json`", "expected the sha256 000", "found the sha256", "--lock"]);
    fs::write(lock_of(&home), &sound).unwrap();
    done(&home, &hub, &["pull", "--locked"]);
    // A commit that the Hub does not have.
    let gone = Home::new();
    fs::write(lock_of(&gone), sound.replace(&commit, &"9".repeat(40))).unwrap();
    refused(&gone.run(&hub, ["pull", "--locked"]), &[&"9".repeat(40)]);
    refused(&gone.run(&hub, ["pull", "--locked", "--offline"]), &["is not here", "fireside pull org/tale --locked"]);
}

#[test]
fn damage_does_not_get_into_a_lock() {
    let (hub, home) = (FakeHub::start(), Home::new());
    let commit = tale(&hub, "org/tale");
    done(&home, &hub, &["pull", "org/tale"]);
    for name in ["model.safetensors", "vocab.json"] {
        let blob = home.repo("org/tale").join("snapshots").join(&commit).join(name).canonicalize().unwrap();
        let sound = fs::read(&blob).unwrap();
        let mut damaged = sound.clone();
        damaged[100] ^= 1;
        fs::write(&blob, damaged).unwrap();
        let outcome = home.run(&hub, ["pull", "org/tale", "--lock"]);
        refused(&outcome, &[&format!("`{name}` of `org/tale` is damaged"), "cache verify --remove-damaged"]);
        assert!(!lock_of(&home).exists());
        fs::write(&blob, sound).unwrap();
    }
    // Nor does a pull change a lock that it cannot read, or write where it may not.
    fs::write(lock_of(&home), "version = 7\n").unwrap();
    refused(&home.run(&hub, ["pull", "org/tale", "--lock"]), &["version = 1, found `7`"]);
    assert_eq!(fs::read(lock_of(&home)).unwrap(), b"version = 7\n");
    refused(&home.run(&hub, ["pull", "org/tale", "--lock", "--lock-file", "none/x.lock"]), &["none/x.lock"]);
    // A link to a lock stays a link.
    fs::remove_file(lock_of(&home)).unwrap();
    fs::write(home.work().join("real.lock"), HEAD).unwrap();
    std::os::unix::fs::symlink("real.lock", lock_of(&home)).unwrap();
    done(&home, &hub, &["pull", "org/tale", "--lock"]);
    assert!(lock_of(&home).is_symlink());
    assert!(fs::read_to_string(home.work().join("real.lock")).unwrap().contains(&commit));
}

#[test]
fn two_pulls_at_once_both_get_into_the_lock() {
    let (hub, home) = (FakeHub::start(), Home::new());
    let names: Vec<String> = (0..6).map(|i| format!("org/tale{i}")).collect();
    let commits: Vec<String> = names.iter().map(|name| tale(&hub, name)).collect();
    std::thread::scope(|scope| {
        let pull = |name: &String| home.run(&hub, ["pull", name, "--lock", "--progress", "none"]);
        let runs: Vec<_> = names.iter().map(|name| scope.spawn(move || pull(name))).collect();
        for run in runs {
            let outcome = run.join().unwrap();
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
        }
    });
    let entries: String = names.iter().zip(&commits).map(|(name, commit)| entry_of(&hub, name, name, commit)).collect();
    assert_eq!(fs::read_to_string(lock_of(&home)).unwrap(), format!("{HEAD}{entries}"));
}
