//! The full counts, by one command that needs some minutes:
//! `FIRESIDE_HUB_FAULTS=full FIRESIDE_HUB_REPORT=report.md cargo test --release --test it hub::full -- --nocapture`.
//!
//! It runs what the quick tests run, more often and on larger files. Every count is of cases that went as they should;
//! a row whose cases did not all do so says FAILED, and so does the run at its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::checks::{Watch, done};
use super::fake::FakeHub;
use super::resume::UNDER_WAY;
use super::{Home, disk, faults, heavy, hostile, python, resume, sharded, steps, tale};

const MIB: u64 = 1 << 20;

/// Lines of a table in Markdown, printed as they come.
struct Report {
    lines: Vec<String>,
    failed: usize,
}

impl Report {
    fn row(&mut self, what: &str, work: impl FnOnce() -> String) {
        let start = Instant::now();
        let found = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
            self.failed += 1;
            "FAILED".to_owned()
        });
        let line = format!("| {what} | {found} | {:.0} s |", start.elapsed().as_secs_f64());
        println!("{line}");
        self.lines.push(line);
    }
}

fn skipped() -> String {
    "SKIPPED here".to_owned()
}

#[test]
fn the_full_counts_hold() {
    if std::env::var_os("FIRESIDE_HUB_FAULTS").is_none_or(|value| value != "full") {
        eprintln!("SKIPPED: set FIRESIDE_HUB_FAULTS=full for the full counts, which need some minutes");
        return;
    }
    let heads = ["| what | found | took |", "|---|---|---|"].map(str::to_owned);
    let mut report = Report { lines: heads.to_vec(), failed: 0 };
    report.row("kill -9 at 200 points of a download of 40 MiB at 48 MiB/s, then a run to the end", || {
        let size = 40 * MIB;
        let (served, wanted) = resume::kill_points(&resume::spread(200, size, 0..40_000), size, 48 * MIB);
        format!("200 of 200 complete, 0 wrong visible files at any look, {served} bytes served for {wanted} wanted")
    });
    report.row("kill -9 at every call of each kind that changes the disk", || {
        let kills = steps::killed_at_every_step(60);
        kills.map_or_else(skipped, |kills| format!("{kills} kills, 0 wrong visible files, every next run complete"))
    });
    report.row("20 kills of a file of 1 GiB at 128 MiB/s", || {
        let size = 1024 * MIB;
        let served = resume::kills_in_a_row(size, 20, 128 * MIB);
        let most = size + size / 50 + 20 * UNDER_WAY;
        assert!(served <= most, "{served} bytes served, expected {most} at most");
        format!("{:.4} × its size served; {:.4} allowed", served as f64 / size as f64, most as f64 / size as f64)
    });
    report.row("1,000 injected corruptions of 11 kinds", || {
        let (repaired, refused) = faults::corruptions(1000, 3 * MIB);
        format!(
            "{} of 1000 caught before the file was visible: {repaired} repaired in the run, {refused} refused",
            repaired + refused
        )
    });
    report.row("16 processes on one empty cache, 50 rounds", || {
        let rounds: Vec<(u64, u64)> = (0..50).map(|_| resume::together(16, 8 * MIB, 0)).collect();
        let (served, wanted) = rounds.iter().fold((0, 0), |sum, round| (sum.0 + round.0, sum.1 + round.1));
        format!("800 of 800 complete, {:.4} × the bytes of one download", served as f64 / wanted as f64)
    });
    report.row("hostile names, tags, commits, redirections and headers", || {
        let attacks = hostile::withstand(&hostile::attacks()) + hostile::withstand(&hostile::tags());
        format!("{attacks} withstood: 0 writes outside the cache, 0 tokens elsewhere")
    });
    report.row("faults that pass: 429, 5xx, resets, stalls, slow bodies, hops", || {
        format!("{} of them waited out", faults::passing(12))
    });
    report.row("faults that last", || {
        let tries = faults::lasting(faults::LASTING);
        format!("{} named errors, at most {tries} tries of one request", faults::LASTING.len())
    });
    report.row("50 sizes of a full disk, half of them filled on the way", || {
        let disks = disk::full_disks(&disk::spread(50, 16 * MIB), 16 * MIB);
        disks.map_or_else(skipped, |count| format!("{count} of 50: an error, no wrong blob, the next run continues"))
    });
    if let Some(python) = python::python() {
        report.row("one cache with Python's client, 20 repositories of two kinds each way", || {
            for i in 0..10 {
                for (id, make) in
                    [(format!("org/tale{i}"), tale as fn(&FakeHub, &str) -> String), (format!("bare{i}"), sharded)]
                {
                    python::from_python(&python, &id, make);
                    python::for_python(&python, &id, make);
                }
            }
            "40 of 40 complete offline, 0 second downloads, 0 warnings".to_owned()
        });
    }
    report.row("1 GiB over loopback, best of three", || {
        let hub = FakeHub::start();
        let commit = heavy(&hub, "org/m", 1024 * MIB, 51);
        let ours = best_of_three(|home| done("pull", &home.run(&hub, ["pull", "org/m"]), &hub));
        let theirs = python::python().map(|python| {
            best_of_three(|home| {
                let code = "from huggingface_hub import snapshot_download as d; d('org/m')";
                let outcome = python::script(&python, home, &hub.url(), code);
                assert_eq!(outcome.code, Some(0), "{outcome:?}");
            })
        });
        let home = Home::new();
        let watch = Watch::start(home.repo("org/m"), &commit, hub.tree("org/m"));
        done("pull", &home.run(&hub, ["pull", "org/m"]), &hub);
        assert_eq!(watch.end(), [""; 0]);
        let rate = |time: Duration| format!("{:.0} MiB/s", 1024.0 / time.as_secs_f64());
        format!("{} here, checked; {} with Python's client, unchecked", rate(ours), theirs.map_or_else(skipped, rate))
    });
    if let Some(path) = std::env::var_os("FIRESIDE_HUB_REPORT") {
        std::fs::write(path, report.lines.join("\n") + "\n").expect("a written report");
    }
    assert_eq!(report.failed, 0, "rows that failed");
}

/// The shortest of three runs on empty caches.
fn best_of_three(run: impl Fn(&Home)) -> Duration {
    let time = || {
        let home = Home::new();
        let start = Instant::now();
        run(&home);
        start.elapsed()
    };
    (0..3).map(|_| time()).min().expect("three runs")
}
