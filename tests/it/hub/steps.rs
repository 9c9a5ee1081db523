//! Every step of a download on the disk, seen and stopped by strace.

use std::path::Path;
use std::process::{Command, Stdio};

use super::checks::{self, at_once, done, told, wrong_files};
use super::fake::FakeHub;
use super::{Home, heavy, tale};

/// Calls that change what others can see, or that make it last.
const CALLS: &[&str] = &[
    "rename,renameat,renameat2",
    "symlink,symlinkat",
    "fsync,fdatasync",
    "unlink,unlinkat",
    "mkdir,mkdirat",
    "ftruncate",
    "write",
    "pwrite64",
    "openat",
    "flock,fcntl",
];

fn has_strace() -> bool {
    let run = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    let has = run.is_ok_and(|status| status.success());
    if !has {
        eprintln!("SKIPPED: strace does not run here");
    }
    has
}

fn traced(home: &Home, hub: &FakeHub, options: &[&str]) -> Command {
    let mut command = home.command("strace", &hub.url());
    command.arg("-f").args(options).args([env!("CARGO_BIN_EXE_fireside"), "pull", "org/m"]);
    command
}

/// Kills a download at the n-th call of each kind, for every n up to the last. Gives the number of kills, or `None`
/// without strace.
pub fn killed_at_every_step(most: usize) -> Option<usize> {
    if !has_strace() {
        return None;
    }
    let kills = at_once(3, CALLS, |_, calls| {
        for n in 1..=most {
            let hub = FakeHub::start();
            let home = Home::new();
            let commit = heavy(&hub, "org/m", 1 << 20, 41);
            let inject = format!("inject={calls}:signal=KILL:when={n}");
            let trace = format!("trace={calls}");
            let outcome = checks::run(traced(&home, &hub, &["-o", "/dev/null", "-e", &trace, "-e", &inject]));
            let what = format!("killed at {calls} number {n}");
            let tree = hub.tree("org/m");
            assert_eq!(wrong_files(&home.repo("org/m"), &commit, &tree), [""; 0], "{what}\n{}", told(&outcome, &hub));
            let next = home.run(&hub, ["pull", "org/m"]);
            done(&format!("{what}, then run again"), &next, &hub);
            assert_eq!(wrong_files(&home.repo("org/m"), &commit, &tree), [""; 0], "{what}, then run again");
            let blob = home.repo("org/m").join("snapshots").join(&commit).join("model.safetensors");
            assert!(blob.is_file(), "{what}, then run again: {}", told(&next, &hub));
            match outcome.code {
                Some(0) => return n - 1, // there is no such call
                None | Some(137) => {}   // strace ends as its child did
                _ => panic!("{what}: expected its end by a signal: {}", told(&outcome, &hub)),
            }
        }
        most
    });
    Some(kills.into_iter().sum())
}

#[test]
fn bytes_are_on_the_disk_before_their_name_is() {
    if !has_strace() {
        return;
    }
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/m");
    let log = home.work().join("trace");
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2";
    let outcome =
        checks::run(traced(&home, &hub, &["-y", "-s", "4096", "-o", log.to_str().expect("a path"), "-e", calls]));
    done("pull", &outcome, &hub);
    let log = std::fs::read_to_string(log).expect("a trace");
    let mut synced: Vec<&str> = Vec::new();
    let mut renamed = 0;
    for line in log.lines() {
        if let Some(call) = line.split("sync(").nth(1) {
            synced.extend(call.split(['<', '>']).nth(1));
        } else if line.contains("rename") {
            let mut names = line.split('"').skip(1).step_by(2);
            let (Some(from), Some(to)) = (names.next(), names.next()) else { continue };
            let is_link = Path::new(to).components().any(|part| part.as_os_str() == "snapshots");
            if !is_link {
                renamed += 1;
                assert!(synced.contains(&from), "{from} became {to} before its bytes were on the disk:\n{log}");
            }
        }
    }
    assert!(renamed >= 5, "the check sees renames: {log}");
}
