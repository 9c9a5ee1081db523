//! Corners in which downloads of this project once went wrong.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use fireside::Hub;

use super::checks::{done, refused, told};
use super::fake::FakeHub;
use super::{Home, heavy, sharded, tale};

#[test]
fn a_folder_keeps_what_others_have_in_it() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    let of_python = home.work().join("ld/.cache/huggingface/download");
    fs::create_dir_all(&of_python).unwrap();
    fs::write(of_python.join("other.safetensors.metadata"), "theirs").unwrap();
    fs::write(home.work().join("ld/notes.txt"), "mine").unwrap();
    for _ in 0..2 {
        done("pull --local-dir", &home.run(&hub, ["pull", "org/tale", "--local-dir", "ld"]), &hub);
        assert_eq!(fs::read(of_python.join("other.safetensors.metadata")).unwrap(), b"theirs");
        assert_eq!(fs::read(home.work().join("ld/notes.txt")).unwrap(), b"mine");
    }
    assert_eq!(hub.gets("tokenizer.json"), 1, "what lies in the folder is not fetched again");
}

#[test]
fn two_files_of_one_content_are_one_download_and_two_files() {
    let hub = FakeHub::start();
    let home = Home::new();
    let same = vec![7; 70_000];
    hub.repo("org/twins").file("a.bin", same.clone()).file("sub/b.bin", same.clone()).publish();
    let outcome = home.run(&hub, ["pull", "org/twins", "--file", "*", "--local-dir", "ld"]);
    done("into a folder", &outcome, &hub);
    let outcome = home.run(&hub, ["pull", "org/twins", "--file", "*"]);
    done("into the cache", &outcome, &hub);
    assert!(!outcome.stderr.contains("waiting"), "{}", told(&outcome, &hub));
    let snapshot = Path::new(outcome.stdout.trim());
    for file in [
        home.work().join("ld/a.bin"),
        home.work().join("ld/sub/b.bin"),
        snapshot.join("a.bin"),
        snapshot.join("sub/b.bin"),
    ] {
        assert_eq!(fs::read(&file).unwrap(), same, "{}", file.display());
    }
    assert_eq!(hub.gets(".bin"), 2, "one request for the folder, one for the cache");
}

#[test]
fn single_files_of_a_newer_commit_do_not_break_the_model_that_is_whole() {
    let mut hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    done("pull", &home.run(&hub, ["pull", "org/tale"]), &hub);
    hub.repo("org/tale").file("README.md", "newer").file("config.json", "{}").publish();
    done("pull --file", &home.run(&hub, ["pull", "org/tale", "--file", "README.md"]), &hub);
    hub.stop();
    let outcome = home.run(&hub, ["generate", "--offline", "--model", "org/tale", "-n", "3", "-t", "0", "The fox"]);
    done("generate --offline", &outcome, &hub);
}

#[test]
fn a_token_that_the_server_echoes_is_not_printed() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    hub.on("GET", "/revision/").always().answers(403, &[("x-error-message", "bad Bearer hf_SECRETSECRET")]);
    let mut command = home.fireside(&hub, ["pull", "org/tale"]);
    command.env("HF_TOKEN", "hf_SECRETSECRET");
    let outcome = super::checks::run(command);
    refused("an echoed token", &outcome, &hub);
    assert!(!outcome.stderr.contains("SECRET"), "{outcome:?}");
}

#[test]
fn settings_that_cannot_be_meant_are_errors() {
    let hub = FakeHub::start();
    let home = Home::new();
    for (name, value) in [
        ("HF_HUB_DOWNLOAD_TIMEOUT", "18446744073709551615"),
        ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
        ("HF_ENDPOINT", "http://user:hunter2@127.0.0.1:1"),
        ("HF_ENDPOINT", "ftp://x"),
    ] {
        let mut command = home.fireside(&hub, ["pull", "org/tale"]);
        command.env(name, value);
        let outcome = super::checks::run(command);
        let line = refused(value, &outcome, &hub);
        assert!(line.contains(name) && !outcome.stderr.contains("hunter2"), "{outcome:?}");
        // What has nothing to do with the Hub works all the same.
        let mut command = home.fireside(&hub, ["generate", "-n", "2", "Hello"]);
        command.env(name, value);
        assert_eq!(super::checks::run(command).code, if cfg!(feature = "ember") { Some(0) } else { Some(1) });
    }
    let outcome = home.run(&hub, ["pull", "org/tale@v1", "--revision", "v2"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[test]
fn a_callback_that_panics_ends_the_download_and_not_the_patience() {
    let hub = FakeHub::start();
    let home = Home::new();
    heavy(&hub, "org/m", 3 << 20, 7);
    let client = Hub::from_env().unwrap().cache_dir(home.cache()).endpoint(&hub.url());
    let broken = client.clone().on_progress(|progress| {
        assert!(progress.bytes_done == 0, "the callback's own trouble");
    });
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| broken.pull("org/m").is_ok()));
        let _ = send.send(ended);
    });
    let ended = receive.recv_timeout(Duration::from_secs(100)).expect("an end");
    let panic = ended.expect_err("the panic reaches the program");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the callback's own trouble"), "as it was");
    let pulled = client.pull("org/m").expect("the next download goes on");
    assert_eq!(std::fs::metadata(pulled.folder.join("model.safetensors")).unwrap().len(), 3 << 20);
}

#[test]
fn reports_come_at_most_ten_times_a_second_and_end_with_a_last_one() {
    let hub = FakeHub::start();
    let home = Home::new();
    let mut draft = hub.repo("org/many");
    for i in 0..61 {
        draft = draft.file(&format!("{i}.txt"), format!("file {i}"));
    }
    draft.publish();
    let outcome = home.run(&hub, ["pull", "org/many", "--file", "*", "--progress", "json"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let most = 12 + 10 * outcome.took.as_secs() as usize;
    assert!(lines.len() <= most + 1, "{} lines in {:?}", lines.len(), outcome.took);
    assert!(lines.last().unwrap().contains("\"finished\":true"), "{outcome:?}");
}

#[test]
fn a_cache_without_links_is_used_and_repaired() {
    let hub = FakeHub::start();
    let home = Home::new();
    let commit = sharded(&hub, "org/shards");
    let without_links = |args: &[&str]| {
        let mut command = home.fireside(&hub, args);
        command.env("HF_HUB_DISABLE_SYMLINKS", "1");
        super::checks::run(command)
    };
    done("pull", &without_links(&["pull", "org/shards"]), &hub);
    // As Python's client leaves it there: content in the snapshot, no blobs.
    let repo = home.repo("org/shards");
    fs::remove_dir_all(repo.join("blobs")).unwrap();
    hub.forget_seen();
    done("pull again", &without_links(&["pull", "org/shards"]), &hub);
    assert_eq!(hub.gets("/resolve/"), 0, "what is here is not fetched again");

    let config = repo.join("snapshots").join(&commit).join("config.json");
    let whole = fs::read(&config).unwrap();
    fs::write(&config, &whole[..whole.len() / 2]).unwrap();
    done("pull of a cut file", &without_links(&["pull", "org/shards"]), &hub);
    assert_eq!(fs::read(&config).unwrap(), whole);
}

#[test]
fn a_body_that_goes_on_is_cut_at_its_end_without_a_strange_request() {
    let hub = FakeHub::start();
    let home = Home::new();
    hub.repo("org/f").file("a.txt", "exactly").publish();
    hub.on("GET", "a.txt").nth(1).does(super::rules::Fault::IgnoreRange);
    done("pull", &home.run(&hub, ["pull", "org/f", "--file", "*"]), &hub);
    for seen in hub.seen() {
        assert!(seen.header("range").is_none_or(|range| range == "bytes=0-6"), "{:?}", seen.header("range"));
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    fs::write(home.work().join("ld"), "a file").unwrap();
    let outcome = home.run(&hub, ["pull", "org/tale", "--local-dir", "ld"]);
    let line = refused("a file where the folder should be", &outcome, &hub);
    assert!(line.contains("ld"), "{outcome:?}");
}
