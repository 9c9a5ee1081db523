//! The machine's memory: how much of it this process may use, and how fast the kernels read it.
//!
//! Linux tells both the machine's and the cgroup's figures in files; elsewhere the answer is `None`, not a guess.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use half::{bf16, f16};

use crate::kernels::{Before, Kernels, Layout, Matrix, Part, Pool, Slice};

/// Bytes of memory; `None` where the system does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the machine has, or what the process's group is limited to.
    pub total: Option<u64>,
    /// What this process may still use: free, or held by nothing but copies of files.
    pub available: Option<u64>,
}

impl Memory {
    /// The figures of this moment.
    pub fn now() -> Memory {
        Memory::below(Path::new("/"))
    }

    /// The same, with `/proc` and `/sys` below another folder.
    fn below(root: &Path) -> Memory {
        let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let field = |name: &str| {
            let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        let mut memory = Memory { total: field("MemTotal"), available: field("MemAvailable") };
        for group in groups(root) {
            let Some(limit) = group.limit() else { continue };
            let left = limit.saturating_sub(group.held());
            memory.total = Some(memory.total.map_or(limit, |total| total.min(limit)));
            memory.available = Some(memory.available.map_or(left, |available| available.min(left)));
        }
        memory
    }
}

/// A folder of a cgroup hierarchy, and how its version calls its files.
struct Group {
    folder: PathBuf,
    files: &'static GroupFiles,
}

struct GroupFiles {
    limits: &'static [&'static str],
    used: &'static str,
    /// Lines of memory.stat that count copies of files, which give way when memory is needed.
    copies: [&'static str; 2],
}

const V1: GroupFiles = GroupFiles {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    copies: ["total_inactive_file", "total_active_file"],
};
const V2: GroupFiles = GroupFiles {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    copies: ["inactive_file", "active_file"],
};

impl Group {
    fn number(&self, file: &str) -> Option<u64> {
        std::fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    /// The smallest limit; `max` is none.
    fn limit(&self) -> Option<u64> {
        self.files.limits.iter().filter_map(|file| self.number(file)).min()
    }

    /// What the group holds and cannot give up.
    fn held(&self) -> u64 {
        let stat = std::fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let count = |name: &str| -> u64 {
            let found = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
            found.unwrap_or(0)
        };
        let copies = self.files.copies.map(count).iter().fold(0u64, |sum, n| sum.saturating_add(*n));
        self.number(self.files.used).unwrap_or(0).saturating_sub(copies)
    }
}

/// The groups that limit this process: its own and those above it, as far as they are mounted.
fn groups(root: &Path) -> Vec<Group> {
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
    let (mounts, own) = (read("proc/self/mountinfo"), read("proc/self/cgroup"));
    let mut groups = Vec::new();
    for mount in mounts.lines() {
        let Some((place, kind)) = mount.split_once(" - ") else { continue };
        let mut place = place.split(' ').skip(3); // id, parent, device
        let (Some(mounted), Some(point)) = (place.next(), place.next()) else { continue };
        let mut kind = kind.split(' ');
        let (files, is_ours): (_, fn(&str) -> bool) = match (kind.next(), kind.nth(1)) {
            (Some("cgroup2"), _) => (&V2, str::is_empty),
            (Some("cgroup"), Some(options)) if options.split(',').any(|option| option == "memory") => {
                (&V1, |controllers| controllers.split(',').any(|controller| controller == "memory"))
            }
            _ => continue,
        };
        let Some(path) = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            is_ours(controllers).then_some(path)
        }) else {
            continue;
        };
        // A container may see its own group at the mount point and be told its path on the host.
        let below = path.strip_prefix(mounted).unwrap_or_default().trim_matches('/');
        let top = root.join(point.trim_start_matches('/'));
        let bottom = if below.split('/').any(|part| part == "..") { top.clone() } else { top.join(below) };
        let chain = bottom.ancestors().take_while(|folder| folder.starts_with(&top));
        groups.extend(chain.map(|folder| Group { folder: folder.to_owned(), files }));
    }
    groups
}

/// How long the probe reads.
const PROBE_TIME: Duration = Duration::from_millis(200);
/// Bytes of caches where the system does not tell: more than most processors have.
const UNKNOWN_CACHES: u64 = 64 << 20;
/// Length of the probe's rows: that of a model of a hundred million parameters or more.
const INPUTS: usize = 1024;

/// Bytes of weights per second that the kernels read from memory in the format of `like`, by multiplying one row with a
/// matrix that no cache holds, as decoding does. What else runs on the machine slows this down as it slows down
/// decoding, so the pass in the middle counts and not the fastest. It takes about a quarter of a second; `None` where
/// there is no room for the matrix.
pub fn read_bandwidth(kernels: &Kernels, pool: &Pool, like: Slice<'_>) -> Option<f64> {
    let bytes = (2 * caches(Path::new("/")).unwrap_or(UNKNOWN_CACHES)).clamp(128 << 20, 768 << 20);
    if Memory::now().available.is_some_and(|available| available / 2 < bytes) {
        return None;
    }
    const NUMBER: f32 = 0.01; // any that is no special case
    match like {
        Slice::F32(_) => probe(kernels, pool, bytes, NUMBER, |w| Slice::F32(w)),
        Slice::F16(_) => probe(kernels, pool, bytes, f16::from_f32(NUMBER), |w| Slice::F16(w)),
        Slice::Bf16(_) => probe(kernels, pool, bytes, bf16::from_f32(NUMBER), |w| Slice::Bf16(w)),
        Slice::Blocks(format, _) => {
            let mut row = vec![0; format.bytes(INPUTS)];
            kernels.quantize(format, &[NUMBER; INPUTS], &mut row);
            let rows = bytes as usize / row.len();
            let mut weights = vec![0; rows * row.len()];
            pool.for_each(weights.chunks_exact_mut(row.len()).collect(), |to| to.copy_from_slice(&row));
            time(kernels, pool, Slice::Blocks(format, &weights), rows).map(|pass| weights.len() as f64 / pass)
        }
    }
}

fn probe<T: Copy + Send + Sync + Default>(
    kernels: &Kernels,
    pool: &Pool,
    bytes: u64,
    number: T,
    slice: for<'a> fn(&'a [T]) -> Slice<'a>,
) -> Option<f64> {
    let outputs = bytes as usize / size_of::<T>() / INPUTS;
    let mut weights = vec![T::default(); outputs * INPUTS];
    // Memory that was never written is one page of zeros, which a cache holds.
    let piece = weights.len().div_ceil(8 * pool.threads()).max(1);
    pool.for_each(weights.chunks_mut(piece).collect(), |piece| piece.fill(number));
    time(kernels, pool, slice(&weights), outputs).map(|pass| size_of_val(&weights[..]) as f64 / pass)
}

/// Seconds of the middle one of several products.
fn time(kernels: &Kernels, pool: &Pool, data: Slice<'_>, outputs: usize) -> Option<f64> {
    let matrix = Matrix { data, layout: Layout::OutIn, inputs: INPUTS, outputs };
    let (part, x) = (Part { matrix, bias: None }, vec![1.0; INPUTS]);
    let mut passes = Vec::new();
    let start = Instant::now();
    while start.elapsed() < PROBE_TIME {
        let pass = Instant::now();
        std::hint::black_box(kernels.linear(pool, &[part], Before::Nothing, &x, None));
        passes.push(pass.elapsed());
    }
    passes.sort();
    let middle = passes.get(passes.len() / 2)?.as_secs_f64();
    (middle > 0.0).then_some(middle)
}

/// Bytes of all last-level caches together, as Linux lists them.
pub(crate) fn caches(root: &Path) -> Option<u64> {
    let mut largest: BTreeMap<u32, BTreeMap<String, u64>> = BTreeMap::new(); // level → who shares it → bytes
    for cpu in std::fs::read_dir(root.join("sys/devices/system/cpu")).ok()?.flatten() {
        for index in std::fs::read_dir(cpu.path().join("cache")).into_iter().flatten().flatten() {
            let read = |file: &str| std::fs::read_to_string(index.path().join(file)).ok();
            let (Some(level), Some(size), Some(shared)) = (read("level"), read("size"), read("shared_cpu_list")) else {
                continue;
            };
            let bytes = size.trim().strip_suffix('K').and_then(|size| size.parse::<u64>().ok());
            if let (Ok(level), Some(kilobytes)) = (level.trim().parse(), bytes) {
                largest.entry(level).or_default().insert(shared, kilobytes << 10);
            }
        }
    }
    Some(largest.last_key_value()?.1.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Format;

    const MEMINFO: &str = "MemTotal:       24684092 kB\nMemFree:        17002344 kB\nMemAvailable:   21410644 kB\n";
    const V2_MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1_MOUNT: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";

    fn seen(files: &[(&str, &str)]) -> Memory {
        let root = tempfile::TempDir::new().unwrap();
        for (file, text) in files {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Memory::below(root.path())
    }

    #[test]
    fn what_may_be_used_is_the_least_of_the_machine_and_the_groups() {
        let check = |files: &[(&str, &str)], total: Option<u64>, available: Option<u64>| {
            assert_eq!(seen(files), Memory { total, available }, "{files:?}");
        };
        let (all, free) = (24_684_092 * 1024, 21_410_644 * 1024);
        check(&[], None, None);
        check(&[("proc/meminfo", "MemTotal: lots\nMemAvailable:\n")], None, None);
        check(&[("proc/meminfo", MEMINFO)], Some(all), Some(free));
        let v2 = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", V2_MOUNT),
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "700\n"),
            ("sys/fs/cgroup/a/memory.max", "5000\n"),
            ("sys/fs/cgroup/a/memory.current", "1200\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 1000\ninactive_file 150\nactive_file 50\n"),
        ];
        check(&v2, Some(5000), Some(4000));
        check(&v2[..5], Some(all), Some(free));
        let v1 = [
            ("proc/meminfo", MEMINFO),
            ("proc/self/mountinfo", V1_MOUNT),
            ("proc/self/cgroup", "9:name=systemd:/\n4:memory:/job\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "4096\n"),
            ("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "5000\n"),
        ];
        check(&v1, Some(4096), Some(0));
        check(&v1[..4], Some(all), Some(free));
        // A container whose group is mounted at the top, and one that is told a path outside of what it sees.
        let inside = "35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        for path in ["4:memory:/docker/x\n", "4:memory:/../other\n", "4:memory:/elsewhere\n"] {
            check(
                &[
                    ("proc/meminfo", MEMINFO),
                    ("proc/self/mountinfo", inside),
                    ("proc/self/cgroup", path),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
                ],
                Some(4096),
                Some(4096),
            );
        }
    }

    #[test]
    fn the_last_caches_are_counted_once_each() {
        let root = tempfile::TempDir::new().unwrap();
        assert_eq!(caches(root.path()), None);
        for (cpu, level, size, shared) in
            [(0, 2, "1024K", "0"), (0, 3, "32768K", "0-1"), (1, 3, "32768K", "0-1"), (2, 3, "16384K", "2-3")]
        {
            let folder = root.path().join(format!("sys/devices/system/cpu/cpu{cpu}/cache/index{level}"));
            std::fs::create_dir_all(&folder).unwrap();
            let write = |file: &str, text: &str| std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
            write("level", &level.to_string());
            write("size", size);
            write("shared_cpu_list", shared);
        }
        assert_eq!(caches(root.path()), Some((32 << 20) + (16 << 20)));
    }

    #[test]
    fn reading_memory_takes_a_moment_and_gives_a_plausible_figure() {
        let pool = Pool::new(std::num::NonZeroUsize::new(2)).unwrap();
        let start = Instant::now();
        for like in [Slice::F32(&[]), Slice::F16(&[]), Slice::Bf16(&[]), Slice::Blocks(Format::Q4K, &[])] {
            let Some(bandwidth) = read_bandwidth(crate::kernels::best(), &pool, like) else { return };
            assert!((1e7..1e13).contains(&bandwidth), "{like:?}: {bandwidth} bytes/s");
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed()); // other tests run at the same time
    }
}
