//! A model that is here runs without network: no call that could make a connection, and the same bytes where there is no
//! interface at all.

use std::process::Command;

use crate::cache::{Cache, NEW, Named};
use crate::program::{Outcome, fireside, run};
use crate::support::fixture;

/// The model that is run, as the cache knows it.
const NAME: &str = "org/tiny";

/// A cache with one tiny model in it, linked as after a download.
fn cache_of_a_model() -> Cache {
    let cache = Cache::new();
    let repo = "models--org--tiny";
    for entry in std::fs::read_dir(fixture("tale")).expect("a model's folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a plain name");
        let named = if name.ends_with(".safetensors") { Named::Sha256 } else { Named::Git };
        let content = std::fs::read(&path).expect("a file");
        let blob = cache.blob(repo, &content, named);
        cache.link(repo, NEW, name, &blob);
    }
    cache.write(&format!("{repo}/refs/main"), NEW);
    cache
}

/// The program on this cache, perhaps under another one.
fn on(cache: &Cache, under: &[&str], args: &[&str]) -> Outcome {
    let program = fireside(args);
    let mut command = match under {
        [] => program,
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program.get_program()).args(program.get_args());
            command
        }
    };
    command.env("HF_HUB_CACHE", cache.path()).env_remove("HF_HUB_OFFLINE");
    run(command)
}

/// True where a tool does what it is for; otherwise it says loudly what was not shown.
fn works(tool: &[&str], shows: &str) -> bool {
    let works = Command::new(tool[0]).args(&tool[1..]).arg("true").output().is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("SKIPPED: `{}` does not work here, so it was not shown that {shows}", tool.join(" "));
    }
    works
}

const GENERATE: &[&str] =
    &["generate", "--model", NAME, "--offline", "--temperature", "0", "-n", "8", "Once upon a time"];

#[test]
fn offline_says_that_the_kernel_holds_it() {
    let cache = cache_of_a_model();
    let outcome = on(&cache, &[], &[GENERATE, &["--verbose"]].concat());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let line = outcome.stderr.lines().find(|line| line.starts_with("network")).unwrap_or_else(|| panic!("{outcome:?}"));
    assert!(line.contains("blocked"), "{line}");
    assert!(line.contains("blocked by the kernel (seccomp)") || !cfg!(target_os = "linux"), "{line}");
}

#[test]
fn a_cached_model_makes_no_call_that_could_reach_a_network() {
    let calls = "--trace=network,io_uring_setup";
    if !works(&["strace", "-f", calls], "a cached model opens no socket") {
        return;
    }
    let cache = cache_of_a_model();
    let log = tempfile::NamedTempFile::new().expect("a file");
    let path = log.path().to_str().expect("a plain path");
    let under = ["strace", "-f", calls, "-e", "signal=none", "-o", path];
    let plain: Vec<&str> = GENERATE.iter().copied().filter(|arg| *arg != "--offline").collect();
    for args in [GENERATE, &plain, &["cache", "verify"], &["cache", "ls"]] {
        let outcome = on(&cache, &under, args);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let log = std::fs::read_to_string(log.path()).expect("strace's log");
        // A thread that the end of the program took before strace could read its call has this line and no name in it.
        let is_unread =
            |line: &&str| line.split_once(' ').is_some_and(|(_, rest)| rest.trim() == "???( <unfinished ...>");
        let calls: Vec<&str> = log.lines().filter(|line| !line.contains("exited with") && !is_unread(line)).collect();
        assert_eq!(calls, [""; 0], "{args:?}");
        assert!(log.contains("exited with 0"), "strace saw the program: {log}");
    }
    // Where there is something to fetch, a socket is what strace sees.
    if cfg!(feature = "hub") {
        let mut command = Command::new(under[0]);
        command.args(&under[1..]).arg(env!("CARGO_BIN_EXE_fireside")).args(["pull", "org/none"]);
        command.env("HF_HUB_CACHE", cache.path()).env("HF_ENDPOINT", "http://127.0.0.1:9").env_remove("HF_HUB_OFFLINE");
        run(command);
        let log = std::fs::read_to_string(log.path()).expect("strace's log");
        assert!(log.contains("socket(AF_INET"), "{log}");
    }
}

#[test]
fn a_cached_model_writes_the_same_text_where_there_is_no_network() {
    let under = ["unshare", "--map-root-user", "--net"];
    if !works(&under, "a cached model runs without network") {
        return;
    }
    let interfaces = Command::new(under[0]).args(&under[1..]).args(["cat", "/proc/net/dev"]).output().expect("unshare");
    let interfaces = String::from_utf8_lossy(&interfaces.stdout).lines().skip(2).count();
    assert!(interfaces <= 1, "nothing but a loopback that is down");
    let cache = cache_of_a_model();
    let plain: Vec<&str> = GENERATE.iter().copied().filter(|arg| *arg != "--offline").collect();
    let expected = on(&cache, &[], &plain).answer();
    assert!(expected.len() > 3, "{expected:?}");
    for args in [GENERATE, &plain] {
        assert_eq!(on(&cache, &under, args).answer(), expected, "{args:?}");
    }
    assert!(on(&cache, &under, &["cache", "verify"]).answer().starts_with("sound      org/tiny: 7 files"));
}

#[test]
fn offline_names_the_missing_file_and_the_command_that_fetches_it() {
    let cache = cache_of_a_model();
    let weights = cache.repo("models--org--tiny").join("snapshots").join(NEW).join("model.safetensors");
    std::fs::remove_file(weights).expect("a link");
    let outcome = on(&cache, &[], GENERATE);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stdout.is_empty(), "{outcome:?}");
    for words in ["`model.safetensors`", "fireside pull org/tiny"] {
        assert!(outcome.stderr.contains(words), "{words}: {outcome:?}");
    }
    assert!(outcome.stderr.starts_with("error: "), "nothing was tried again: {outcome:?}");
    assert!(outcome.effort().as_millis() < 1_000 && outcome.took.as_secs() < 60, "{outcome:?}");
}
