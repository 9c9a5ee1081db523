//! The machine: what it is, what it could do, and what it spent.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::timing::{median, name_of};
use crate::engine::bench::Bench;
use crate::kernels::{self, Arithmetic, Kernels};
use crate::memory::{Memory, caches};

/// A machine, as the report names it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    /// What the process may use.
    pub(super) cores: usize,
    pub(super) memory_bytes: Option<u64>,
    pub(super) system: String,
    /// What computed: `avx512`, or a device.
    pub(super) kernels: String,
    pub(super) roofs: Roofs,
}

/// What the machine could do at most, measured in the same run; `null` where it has no instruction for it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Roofs {
    /// With the most threads of the run, like the rates below.
    pub(super) threads: usize,
    pub(super) read_gb_s: Option<f64>,
    pub(super) read_1t_gb_s: Option<f64>,
    pub(super) f32_gflop_s: Option<f64>,
    pub(super) bf16_gflop_s: Option<f64>,
    pub(super) int8_gop_s: Option<f64>,
}

/// Rates of one number of threads, in bytes and operations per second.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) threads: usize,
    pub(super) read: Option<f64>,
    pub(super) read_1t: Option<f64>,
    pub(super) f32: Option<f64>,
    pub(super) bf16: Option<f64>,
    pub(super) int8: Option<f64>,
}

impl Rates {
    /// The rate of an arithmetic, or of f32 where there are no instructions for it.
    pub(super) fn best_for(&self, arithmetic: Arithmetic) -> Option<(Arithmetic, f64)> {
        let own = match arithmetic {
            Arithmetic::F32 => None,
            Arithmetic::Bf16 => self.bf16,
            Arithmetic::Int8 => self.int8,
        };
        own.map(|rate| (arithmetic, rate)).or(self.f32.map(|rate| (Arithmetic::F32, rate)))
    }
}

impl Roofs {
    /// Takes the rates of another number of threads in; those of the most threads are shown.
    pub(super) fn add(&mut self, rates: &Rates) {
        self.read_1t_gb_s = self.read_1t_gb_s.or(rates.read_1t.map(giga));
        if rates.threads >= self.threads {
            self.threads = rates.threads;
            self.read_gb_s = rates.read.map(giga);
            self.f32_gflop_s = rates.f32.map(giga);
            self.bf16_gflop_s = rates.bf16.map(giga);
            self.int8_gop_s = rates.int8.map(giga);
        }
    }

    /// The rate of an arithmetic, G(FL)OP/s.
    pub(super) fn arithmetic(&self, arithmetic: Arithmetic) -> Option<f64> {
        match arithmetic {
            Arithmetic::F32 => self.f32_gflop_s,
            Arithmetic::Bf16 => self.bf16_gflop_s,
            Arithmetic::Int8 => self.int8_gop_s,
        }
    }

    /// `read 45.7 GB/s (41.8 with one thread), f32 505, bf16 1010 GFLOP/s, int8 1993 GOP/s`
    pub(super) fn line(&self) -> String {
        let number = |rate: Option<f64>| rate.map_or_else(|| "n/a".to_owned(), |rate| format!("{rate:.0}"));
        let read = self.read_gb_s.map_or_else(|| "n/a".to_owned(), |rate| format!("{rate:.1} GB/s"));
        let one = match self.read_1t_gb_s {
            Some(rate) if self.threads > 1 => format!(" ({rate:.1} with one thread)"),
            _ => String::new(),
        };
        format!(
            "read {read}{one}; {} {}, {} {} GFLOP/s, {} {} GOP/s",
            name_of(Arithmetic::F32),
            number(self.f32_gflop_s),
            name_of(Arithmetic::Bf16),
            number(self.bf16_gflop_s),
            name_of(Arithmetic::Int8),
            number(self.int8_gop_s)
        )
    }
}

fn giga(rate: f64) -> f64 {
    rate / 1e9
}

/// The machine under a model. Its roofs are measured later.
pub(super) fn machine(bench: &Bench) -> Machine {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let named = |key: &str| {
        let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpu = named("model name").or_else(|| named("Model")).unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    Machine {
        cpu: crate::error::line(&cpu),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        memory_bytes: Memory::now().total,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        kernels: bench.kernels().map_or_else(|| bench.device(), |kernels| kernels.name().to_owned()),
        roofs: Roofs::default(),
    }
}

/// Memory that is read to see how fast it can be.
pub(super) struct Probe {
    data: Vec<u8>,
}

/// Passes over the memory in one look at its speed: some 20 ms each.
const PASSES: usize = 3;
/// Looks at the speed of arithmetic, of which the fastest counts: it is lower only while something else has the core.
const LOOKS: usize = 5;

impl Probe {
    /// Takes memory of 16 times the caches, so that no more than a few percent of a pass comes out of them.
    pub(super) fn new() -> Probe {
        const UNKNOWN_CACHES: u64 = 32 << 20;
        let wanted = (16 * caches(Path::new("/")).unwrap_or(UNKNOWN_CACHES)).clamp(256 << 20, 1 << 30);
        let room = Memory::now().available.map_or(wanted, |available| available / 4);
        let mut data = vec![0; wanted.min(room) as usize];
        // Memory that was never written is one page of zeros, which a cache holds.
        data.iter_mut().step_by(512).for_each(|byte| *byte = 1);
        Probe { data }
    }

    /// Bytes per second that the threads of a model read now; `None` where the processor does not compute.
    pub(super) fn read(&self, bench: &Bench) -> Option<f64> {
        let kernels = kernels_of(bench)?;
        median(&(0..PASSES).map(|_| kernels.read_rate(bench.pool(), &self.data)).collect::<Vec<f64>>())
    }

    /// All rates with the threads of a model.
    pub(super) fn roofs(&self, bench: &Bench) -> Rates {
        let Some(kernels) = kernels_of(bench) else { return Rates::default() };
        let pool = bench.pool();
        let fastest = |arithmetic| {
            (0..LOOKS).filter_map(|_| kernels.arithmetic_rate(pool, arithmetic)).max_by(|a, b| a.total_cmp(b))
        };
        let alone = |_| kernels::Pool::new(std::num::NonZeroUsize::new(1)).ok();
        let read_1t = alone(())
            .and_then(|pool| median(&(0..PASSES).map(|_| kernels.read_rate(&pool, &self.data)).collect::<Vec<f64>>()));
        Rates {
            threads: pool.threads(),
            read: self.read(bench),
            read_1t,
            f32: fastest(Arithmetic::F32),
            bf16: fastest(Arithmetic::Bf16),
            int8: fastest(Arithmetic::Int8),
        }
    }
}

/// The kernels whose roofs a model is held against. candle's own operations run on the same processor.
fn kernels_of(bench: &Bench) -> Option<&'static Kernels> {
    bench.kernels().or_else(|| bench.is_on_cpu().then(kernels::best))
}

/// The most memory that this process has had, as Linux counts it.
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The meters of all processor packages at one moment, in microjoules.
pub(super) struct Energy {
    meters: Vec<(PathBuf, u64)>,
}

impl Energy {
    /// The meters, where the system shows them to this user.
    pub(super) fn now() -> Option<Energy> {
        Energy::below(Path::new("/sys/class/powercap"))
    }

    fn below(root: &Path) -> Option<Energy> {
        let mut meters = Vec::new();
        for entry in std::fs::read_dir(root).ok()?.flatten() {
            // `intel-rapl:0` is a package, `intel-rapl:0:0` a part of it. AMD's packages have the same name.
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.starts_with("intel-rapl:") && name.matches(':').count() == 1 {
                meters.push((entry.path(), number(&entry.path().join("energy_uj"))?));
            }
        }
        (!meters.is_empty()).then_some(Energy { meters })
    }

    /// What was spent since. A meter that has gone round once says its range.
    pub(super) fn joules_since(self) -> Option<f64> {
        let mut spent = 0;
        for (meter, before) in &self.meters {
            let now = number(&meter.join("energy_uj"))?;
            spent += match now.checked_sub(*before) {
                Some(spent) => spent,
                None => now + number(&meter.join("max_energy_range_uj"))?.checked_sub(*before)?,
            };
        }
        Some(spent as f64 / 1e6)
    }
}

fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Now, in UTC: `2026-11-20T18:11:51Z`.
pub(super) fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    date_of(seconds)
}

fn date_of(seconds: u64) -> String {
    // Years that begin in March end with the leap day: Richards 2013, "Calendars", Gregorian day numbers.
    let (day, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = 400 * era + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @… +%FT%TZ` prints them.
        let check = |seconds, expected: &str| assert_eq!(date_of(seconds), expected);
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(1_795_198_311, "2026-11-20T18:11:51Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
    }

    #[test]
    fn energy_is_that_of_packages_and_survives_a_meter_that_goes_round() {
        let root = tempfile::TempDir::new().expect("a temporary folder");
        assert!(Energy::below(&root.path().join("absent")).is_none());
        assert!(Energy::below(root.path()).is_none());
        let write = |zone: &str, file: &str, value: u64| {
            std::fs::create_dir_all(root.path().join(zone)).expect("a folder");
            std::fs::write(root.path().join(zone).join(file), format!("{value}\n")).expect("a file");
        };
        for (zone, energy) in [("intel-rapl:0", 1_000_000), ("intel-rapl:1", 9_000_000), ("intel-rapl:0:0", 5)] {
            write(zone, "energy_uj", energy);
            write(zone, "max_energy_range_uj", 10_000_000);
        }
        let before = Energy::below(root.path()).expect("meters");
        write("intel-rapl:0", "energy_uj", 3_500_000);
        write("intel-rapl:1", "energy_uj", 500_000); // 1.5 J later, once round
        write("intel-rapl:0:0", "energy_uj", 5_000_000);
        assert_eq!(before.joules_since(), Some(4.0));
    }
}
