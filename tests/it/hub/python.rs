//! The Hub's own Python client against the fake Hub, and one cache shared with it.
//!
//! Needs a Python with huggingface_hub, so it runs where one is named:
//! `FIRESIDE_HUB_PYTHON=python3 cargo test --release --test it hub::python`.

use std::ffi::OsString;

use super::checks::{self, done, told, wrong_files};
use super::fake::{Access, FakeHub, Token};
use super::{Home, sharded, tale};
use crate::program::Outcome;

pub fn python() -> Option<OsString> {
    let python = std::env::var_os("FIRESIDE_HUB_PYTHON");
    if python.is_none() {
        eprintln!("SKIPPED: set FIRESIDE_HUB_PYTHON to a Python that has huggingface_hub 1.x or 2.x");
    }
    python
}

/// Runs a script of Python with its own words of the Hub.
pub fn script(python: &OsString, home: &Home, endpoint: &str, code: &str) -> Outcome {
    let mut command = home.command(python, endpoint);
    command.args(["-c", code]).env("HF_HUB_DISABLE_XET", "1").env("HF_HUB_DISABLE_TELEMETRY", "1");
    command.env("HF_HUB_DISABLE_PROGRESS_BARS", "1");
    checks::run(command)
}

#[test]
fn python_downloads_from_the_fake_hub() {
    let Some(python) = python() else { return };
    for redirects in [false, true] {
        let hub = FakeHub::start();
        if redirects {
            hub.redirects_small_files();
        }
        hub.pages_of(2);
        let home = Home::new();
        let commit = tale(&hub, "org/tale");
        let code = "from huggingface_hub import snapshot_download as d; print(d('org/tale'))";
        let outcome = script(&python, &home, &hub.url(), code);
        assert_eq!(outcome.code, Some(0), "{outcome:?}\n{:#?}", hub.seen());
        let tree = hub.tree("org/tale");
        let folder = home.repo("org/tale");
        assert_eq!(wrong_files(&folder, &commit, &tree), [""; 0]);
        assert_eq!(std::fs::read_dir(folder.join("snapshots").join(&commit)).unwrap().count(), tree.len());
        assert_eq!(hub.gets("/tree/"), 1 + (tree.len() - 1) / 2, "{:#?}", hub.seen());
        for file in tree.values() {
            assert!(folder.join("blobs").join(file.etag()).exists(), "{}", file.etag());
        }
    }
}

#[test]
fn python_names_the_fake_hubs_refusals() {
    let Some(python) = python() else { return };
    let hub = FakeHub::start();
    let home = Home::new();
    for (id, access) in [("o/gated", Access::Gated), ("o/private", Access::Private), ("o/off", Access::Disabled)] {
        hub.repo(id).file("config.json", "{}").with_access(access).publish();
    }
    hub.repo("bare").file("config.json", "{}").publish();
    hub.repo("o/old").file("config.json", "{}").publish();
    hub.rename("o/old", "o/new");
    hub.knows("hf_reader", Token::Reader);
    hub.knows("hf_member", Token::Member);
    let cases = [
        ("bare", "config.json", "None", "ok"),
        ("o/old", "config.json", "None", "ok"),
        ("bare", "nothing.json", "None", "RemoteEntryNotFoundError"),
        ("bare", "config.json', revision='v9", "None", "RevisionNotFoundError"),
        ("o/nothing", "config.json", "None", "RepositoryNotFoundError"),
        ("o/nothing", "config.json", "'hf_reader'", "RepositoryNotFoundError"),
        ("o/gated", "config.json", "None", "GatedRepoError"),
        ("o/gated", "config.json", "'hf_reader'", "GatedRepoError"),
        ("o/gated", "config.json", "'hf_member'", "ok"),
        ("o/private", "config.json", "None", "RepositoryNotFoundError"),
        ("o/private", "config.json", "'hf_member'", "ok"),
        ("o/off", "config.json", "None", "DisabledRepoError"), // the cause of its error of an empty cache
    ];
    let mut code = "from huggingface_hub import hf_hub_download as d\n".to_owned();
    for (id, file, token, _) in cases {
        code += &format!("try: d('{id}', '{file}', token={token}); print('ok')\n");
        code += "except Exception as e: print(type(e).__name__, type(e.__cause__).__name__)\n";
    }
    let outcome = script(&python, &home, &hub.url(), &code);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for ((id, file, token, expected), found) in cases.into_iter().zip(outcome.stdout.lines()) {
        assert!(
            found.split(' ').any(|name| name == expected),
            "{found}, expected {expected}: {id} {file} {token}\n{:#?}",
            hub.seen()
        );
    }
}

#[test]
fn what_python_fetched_runs_here_and_nothing_is_fetched_twice() {
    let Some(python) = python() else { return };
    from_python(&python, "org/tale", tale);
    from_python(&python, "org/shards", sharded);
}

/// A repository that Python fetched, used by us.
pub fn from_python(python: &OsString, id: &str, make: fn(&FakeHub, &str) -> String) {
    let hub = FakeHub::start();
    let home = Home::new();
    let commit = make(&hub, id);
    let code = format!("from huggingface_hub import snapshot_download as d; print(d('{id}'))");
    let fetched = script(python, &home, &hub.url(), &code);
    assert_eq!(fetched.code, Some(0), "{fetched:?}");
    hub.forget_seen();
    let run = home.run(&hub, ["generate", "--temperature", "0", "--max-new-tokens", "5", "--model", id, "abc"]);
    done("generate with Python's cache", &run, &hub);
    assert!(hub.seen().is_empty(), "everything is there: {}", told(&run, &hub));
    let pull = home.run(&hub, ["pull", id]);
    done("pull with Python's cache", &pull, &hub);
    assert_eq!(pull.stdout.trim_end(), fetched.stdout.trim_end(), "{}", told(&pull, &hub));
    assert_eq!(hub.gets("/resolve/") + hub.gets("/cdn/"), 0, "{}", told(&pull, &hub));
    assert_eq!(wrong_files(&home.repo(id), &commit, &hub.tree(id)), [""; 0]);
    no_warnings(python, &home, &hub);
}

#[test]
fn what_was_fetched_here_is_complete_for_python_and_nothing_is_fetched_twice() {
    let Some(python) = python() else { return };
    for_python(&python, "org/tale", tale);
    for_python(&python, "org/shards", sharded);
}

/// A repository that we fetched, used by Python.
pub fn for_python(python: &OsString, id: &str, make: fn(&FakeHub, &str) -> String) {
    let hub = FakeHub::start();
    let home = Home::new();
    let commit = make(&hub, id);
    let pull = home.run(&hub, ["pull", id]);
    done("pull", &pull, &hub);
    let snapshot = pull.stdout.trim_end();
    let files: Vec<String> = hub.tree(id).keys().filter(|path| home_has(snapshot, path)).cloned().collect();
    assert!(files.iter().any(|path| path.ends_with(".safetensors")), "{files:?}");
    hub.forget_seen();
    let offline = format!(
        "from huggingface_hub import hf_hub_download as f, snapshot_download as d\n\
         for path in {files:?}: print(f('{id}', path, local_files_only=True))\n\
         print(d('{id}', local_files_only=True, allow_patterns={files:?}))"
    );
    let offline = script(python, &home, &hub.url(), &offline);
    assert_eq!(offline.code, Some(0), "{offline:?}");
    assert_eq!(offline.stdout.lines().last(), Some(snapshot), "{offline:?}");
    assert!(hub.seen().is_empty(), "{}", told(&offline, &hub));
    let online = format!(
        "from huggingface_hub import hf_hub_download as f, snapshot_download as d\n\
         for path in {files:?}: f('{id}', path)\n\
         print(d('{id}'))"
    );
    let online = script(python, &home, &hub.url(), &online);
    assert_eq!(online.code, Some(0), "{online:?}");
    let tree = hub.tree(id);
    for path in &files {
        let gets = hub.gets(&tree[path].sha256) + hub.gets(&format!("/{path}")); // a name is never part of another here
        assert_eq!(gets, 0, "Python fetched {path} again: {}", told(&online, &hub));
    }
    assert_eq!(wrong_files(&home.repo(id), &commit, &tree), [""; 0]);
    no_warnings(python, &home, &hub);
}

fn home_has(snapshot: &str, path: &str) -> bool {
    std::path::Path::new(snapshot).join(path).is_file()
}

/// Python's own look at the cache finds nothing odd.
fn no_warnings(python: &OsString, home: &Home, hub: &FakeHub) {
    let code = "from huggingface_hub import scan_cache_dir as s\nfound = s()\n\
                print(len(found.repos), len(found.warnings))\nprint(*found.warnings)";
    let scan = script(python, home, &hub.url(), code);
    assert!(scan.stdout.starts_with("1 0\n"), "expected one repository and no warning: {scan:?}");
}
