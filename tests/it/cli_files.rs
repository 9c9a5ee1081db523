//! Files that the commands write and read: links, devices, folders that are not there, what somebody else wrote, what
//! never ends.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::program::{Outcome, fireside, piped, run, run_with};
use crate::support::name_of;

#[track_caller]
fn refused(outcome: Outcome, code: i32, problem: &str) {
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{}", outcome.stderr);
    let first = outcome.stderr.lines().find(|line| !line.starts_with("warning: ")).unwrap_or_default();
    assert!(first.starts_with("error: ") && first.contains(problem), "{problem}: {}", outcome.stderr);
}

/// What takes the name of a file and puts another in its place.
const WRITERS: [fn(&str) -> Outcome; 3] = [
    |place| run(fireside(["quantize", "ember", "--to", "q8_0", "--force", "-o", place])),
    |place| run(fireside(["generate", "-n", "2", "--temperature", "0", "--prompt-cache", place, "Once upon a time"])),
    |place| run_with(fireside(["chat", "--interactive"]), format!("/save {place}").as_bytes()),
];

#[test]
fn what_is_no_file_stays_what_it_is() {
    let folder = TempDir::new().unwrap();
    let socket = folder.path().join("socket");
    let open = UnixListener::bind(&socket).unwrap();
    for write in WRITERS {
        refused(write(&name_of(&socket)), 1, "it is a device or a pipe");
        refused(write(&name_of(folder.path())), 1, "it is a folder");
        refused(write(&name_of(&folder.path().join("missing/file"))), 1, "/missing` is not there");
    }
    drop(open);
    assert!(std::fs::metadata(&socket).is_ok_and(|found| !found.is_file()), "the socket was replaced");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was left behind");
    refused(run(fireside(["quantize", "ember", "--to", "q8_0", "-o", "-"])), 1, "is not written to stdout");
}

#[test]
fn a_link_leads_to_what_was_written() {
    let folder = TempDir::new().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    symlink("file", &link).unwrap();
    let [quantize, cache, save] = WRITERS;
    for (write, begins) in [(quantize, &b"GGUF"[..]), (save, b"[]"), (cache, b"")] {
        std::fs::write(&file, "[]").unwrap();
        if begins.is_empty() {
            std::fs::remove_file(&file).unwrap();
            assert_eq!(write(&name_of(&file)).code, Some(0));
            let mut damaged = std::fs::read(&file).unwrap(); // a sound one would stay
            *damaged.last_mut().unwrap() ^= 1;
            std::fs::write(&file, damaged).unwrap();
        }
        let before = std::fs::read(&file).unwrap();
        let outcome = write(&name_of(&link));
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink(), "the link was replaced");
        let now = std::fs::read(&file).unwrap();
        assert!(now.starts_with(begins) && now != before, "{outcome:?}");
    }
}

#[test]
fn a_conversation_is_saved_over_conversations_only() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("notes");
    let save = || run_with(fireside(["chat", "--interactive"]), format!("/save {}", name_of(&place)).as_bytes());
    std::fs::write(&place, "what somebody wrote").unwrap();
    std::fs::write(folder.path().join("notes.part"), "more of it").unwrap();
    refused(save(), 1, "it is there already, and holds no conversation");
    assert_eq!(std::fs::read_to_string(&place).unwrap(), "what somebody wrote");
    std::fs::write(&place, r#"[{"role": "user", "content": "x"}]"#).unwrap();
    assert_eq!(save().code, Some(0));
    assert_eq!(std::fs::read_to_string(&place).unwrap(), "[]\n");
    assert_eq!(std::fs::read_to_string(folder.path().join("notes.part")).unwrap(), "more of it");
}

#[test]
fn a_bench_that_cannot_be_saved_is_not_run() {
    for (flag, place, problem) in
        [("--save", "/nowhere/at/all.json", "`/nowhere/at` is not there"), ("--plot", "/", "it is a folder")]
    {
        refused(run(fireside(["bench", "-p", "8", "-n", "0", "-r", "1", flag, place])), 1, problem);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_grammar_that_never_ends_is_refused() {
    for flag in ["--grammar", "--json-schema"] {
        refused(run(fireside(["generate", flag, "@/dev/zero", "x"])), 2, "expected a file of at most");
    }
}

#[test]
fn quantising_what_is_quantised_is_refused_in_the_words_of_the_verb() {
    let folder = TempDir::new().unwrap();
    let (once, twice) = (folder.path().join("once.gguf"), name_of(&folder.path().join("twice.gguf")));
    run(fireside(["quantize", "ember", "--to", "q8_0", "-o", &name_of(&once)])).answer();
    let outcome = run(fireside(["quantize", &name_of(&once), "--to", "q4_0", "-o", &twice]));
    assert!(!outcome.stderr.contains("--quant"), "{}", outcome.stderr);
    refused(outcome, 1, "is quantised already (q8_0)");
}

#[test]
fn ctrl_c_leaves_nothing_unfinished() {
    let folder = TempDir::new().unwrap();
    let file = name_of(&folder.path().join("model.gguf"));
    let names = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    for _ in 0..50 {
        let mut command = fireside(["quantize", "ember", "--to", "iq4_nl", "--threads", "1", "--force", "-o", &file]);
        let mut child = piped(command.env("FIRESIDE_KERNELS", "scalar"));
        while child.try_wait().unwrap().is_none() && !names().iter().any(|name| name.ends_with(".part")) {
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
        let code = child.wait().unwrap().code();
        assert!(names().iter().all(|name| name == "model.gguf"), "{:?}", names());
        if code == Some(130) {
            return;
        }
    }
    panic!("every run was faster than Ctrl-C");
}
