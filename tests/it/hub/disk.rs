//! A full disk is no corruption: the run says what is missing, and the next one goes on.

use std::process::Command;

use super::checks::{self, at_once, done, refused, told, wrong_files};
use super::fake::FakeHub;
use super::resume::UNDER_WAY;
use super::{Home, heavy};

/// A small file system on a folder, for as long as the value lives.
pub struct Mounted<'f>(&'f std::path::Path);

impl<'f> Mounted<'f> {
    /// `None`, and a loud line, where this process may not mount.
    pub fn tmpfs(folder: &'f std::path::Path, options: &str) -> Option<Self> {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).output();
        let mounted = status.is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: this process may not mount a tmpfs; run as root on Linux");
        }
        mounted.then_some(Mounted(folder))
    }

    pub fn resize(&self, size: u64) {
        let options = format!("remount,size={size}");
        let status = Command::new("mount").args(["-o", &options]).arg(self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "mount -o {options}");
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// Room beside the files with which a download begins.
const ENOUGH: u64 = 24 << 20;

/// How a disk gets full.
#[derive(Clone, Copy, Debug)]
pub enum Full {
    /// It has so many bytes from the beginning.
    From(u64),
    /// It has room for all, until another program fills it after so many bytes of the download.
    While(u64),
}

/// Downloads a model to disks that are too small. `None` where no disk can be made small.
pub fn full_disks(cases: &[Full], size: u64) -> Option<usize> {
    let results = at_once(4, cases, |_, case| {
        let hub = FakeHub::start();
        let home = Home::new();
        let commit = heavy(&hub, "org/m", size, 31);
        std::fs::create_dir_all(home.path()).expect("a folder");
        let room = match case {
            Full::From(room) => *room,
            Full::While(_) => size + ENOUGH,
        };
        let path = home.path();
        let mounted = Mounted::tmpfs(&path, &format!("size={room}"))?;
        let filler = path.join("filler");
        let outcome = match case {
            Full::From(_) => home.run(&hub, ["pull", "org/m"]),
            Full::While(after) => {
                hub.stall_after(*after);
                checks::run_until(home.fireside(&hub, ["pull", "org/m"]), |_| {
                    if hub.is_stalled() {
                        let _ = std::fs::write(&filler, vec![1; (size + ENOUGH) as usize]);
                        hub.bandwidth(2 << 20); // so that little is under way when the disk is found full
                        hub.go_on();
                    }
                    false
                })
            }
        };
        let what = format!("{case:?}");
        refused(&what, &outcome, &hub);
        let text = outcome.stderr.to_lowercase();
        assert!(
            text.contains("space") || text.contains("room") || text.contains("full"),
            "{what}: {}",
            told(&outcome, &hub)
        );
        assert!(!text.contains("damaged"), "{what}: a full disk is no damage: {}", told(&outcome, &hub));
        let tree = hub.tree("org/m");
        assert_eq!(wrong_files(&home.repo("org/m"), &commit, &tree), [""; 0], "{what}");
        let _ = std::fs::remove_file(&filler);
        mounted.resize(2 * (size + ENOUGH));
        hub.bandwidth(0);
        let next = home.run(&hub, ["pull", "org/m"]);
        done(&format!("{what}, then with room"), &next, &hub);
        assert_eq!(wrong_files(&home.repo("org/m"), &commit, &tree), [""; 0], "{what}");
        let served = hub.served("/cdn/");
        assert!(served <= size + UNDER_WAY, "{what}: {served} bytes for a file of {size}: {}", told(&next, &hub));
        Some(())
    });
    results.into_iter().collect::<Option<Vec<()>>>().map(|done| done.len())
}

/// Sizes from next to nothing to not quite enough, and disks that fill up on the way.
pub fn spread(count: usize, size: u64) -> Vec<Full> {
    let count = count as u64;
    (0..count)
        .map(|i| match i % 2 {
            0 => Full::From((256 << 10) + size * i / count),
            _ => Full::While(size * i / count),
        })
        .collect()
}

#[test]
fn a_full_disk_is_said_and_the_next_run_goes_on() {
    full_disks(&spread(4, 8 << 20), 8 << 20);
}
