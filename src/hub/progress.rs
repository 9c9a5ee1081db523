//! What a download says of itself, for whoever draws bars or logs lines.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Least time between two reports: ten a second.
const INTERVAL: Duration = Duration::from_millis(100);
/// How far back the rate looks.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// A download at one moment.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The repository.
    pub model: String,
    /// The files, in the order in which they are asked for. The list grows: which files there are stands in the first ones.
    pub files: Vec<FileProgress>,
    /// Bytes of all files that are here.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
    /// Bytes per second over the last seconds.
    pub bytes_per_second: f64,
    /// Time left at that rate.
    pub time_left: Option<Duration>,
    /// Why the next request waits, where that is for no file: the Hub asks to come back later, another process cleans up.
    pub notice: Option<String>,
    /// The last report of this download.
    pub finished: bool,
}

/// One file of a download.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FileProgress {
    /// Its path in the repository.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that are here.
    pub done: u64,
    /// What happens to it.
    pub state: FileState,
}

/// What happens to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileState {
    /// It has not begun.
    Queued,
    /// Another process downloads it: which one, as far as that is known.
    Waiting(String),
    /// Bytes arrive.
    Downloading,
    /// A request failed and is made again: why.
    Retrying(String),
    /// It was here before.
    Cached,
    /// It is here, every byte checked.
    Done,
}

/// Called with every report.
pub(crate) type OnProgress = Arc<dyn Fn(&Progress) + Send + Sync>;

/// Collects what threads report and passes it on, at most ten times a second.
pub(crate) struct Reporter {
    on_progress: Option<OnProgress>,
    state: Mutex<State>,
}

struct State {
    progress: Progress,
    reported: Option<Instant>,
    /// (time, bytes that had arrived by then), oldest first.
    arrivals: std::collections::VecDeque<(Instant, u64)>,
    arrived: u64,
}

impl Reporter {
    pub(crate) fn new(model: &str, on_progress: Option<OnProgress>) -> Self {
        let progress = Progress { model: model.to_owned(), ..Progress::default() };
        Reporter { on_progress, state: Mutex::new(State { progress, reported: None, arrivals: [].into(), arrived: 0 }) }
    }

    /// Adds a file to the list and returns its number.
    pub(crate) fn add(&self, name: &str, size: u64) -> usize {
        self.update(|progress| {
            progress.files.push(FileProgress { name: name.to_owned(), size, done: 0, state: FileState::Queued });
            progress.files.len() - 1
        })
    }

    /// A file's state changed; that is reported at once.
    pub(crate) fn state(&self, file: usize, state: FileState) {
        let mut guard = self.lock();
        let entry = &mut guard.progress.files[file];
        if entry.state == state {
            return;
        }
        if matches!(state, FileState::Done | FileState::Cached) {
            entry.done = entry.size;
        }
        let lasts = matches!(state, FileState::Waiting(_) | FileState::Retrying(_));
        entry.state = state;
        self.report_in_time(guard, lasts);
    }

    /// The whole waits for something.
    pub(crate) fn notice(&self, text: &str) {
        let mut guard = self.lock();
        guard.progress.notice = Some(text.to_owned());
        self.report_in_time(guard, true);
    }

    /// Reports now or with the next change; what `lasts` may be the last change for long, so its report waits its turn.
    fn report_in_time(&self, mut guard: MutexGuard<'_, State>, lasts: bool) {
        let passed = guard.reported.map_or(INTERVAL, |last| last.elapsed());
        if passed >= INTERVAL {
            self.report(&mut guard);
        } else if lasts && self.on_progress.is_some() {
            drop(guard);
            std::thread::sleep(INTERVAL - passed);
            let mut guard = self.lock();
            if guard.reported.is_none_or(|last| last.elapsed() >= INTERVAL) {
                self.report(&mut guard);
            }
        }
    }

    /// Bytes of a file that were here before the download went on.
    pub(crate) fn found(&self, file: usize, bytes: u64) {
        self.update(|progress| progress.files[file].done = bytes);
    }

    /// Bytes that arrived.
    pub(crate) fn arrived(&self, file: usize, bytes: u64) {
        let mut guard = self.lock();
        guard.progress.files[file].done += bytes;
        guard.arrived += bytes;
        if guard.reported.is_none_or(|last| last.elapsed() >= INTERVAL) {
            self.report(&mut guard);
        }
    }

    /// The last report, which comes in any case.
    pub(crate) fn finish(&self) {
        let mut guard = self.lock();
        if !guard.progress.finished {
            guard.progress.finished = true;
            self.report(&mut guard);
        }
    }

    fn update<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        let mut guard = self.lock();
        let result = change(&mut guard.progress);
        if guard.reported.is_none_or(|last| last.elapsed() >= INTERVAL) {
            self.report(&mut guard);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) // a callback panicked; the counts are sound
    }

    fn report(&self, state: &mut State) {
        let now = Instant::now();
        state.reported = Some(now);
        let Some(on_progress) = &self.on_progress else { return };
        state.arrivals.push_back((now, state.arrived));
        while state.arrivals.len() > 2 && now - state.arrivals[0].0 > RATE_WINDOW {
            state.arrivals.pop_front();
        }
        let (since, before) = state.arrivals[0];
        let progress = &mut state.progress;
        progress.bytes_done = progress.files.iter().map(|file| file.done).sum();
        progress.bytes_total = progress.files.iter().map(|file| file.size).sum();
        progress.bytes_per_second = (state.arrived - before) as f64 / (now - since).as_secs_f64().max(1e-3);
        let left = progress.bytes_total.saturating_sub(progress.bytes_done) as f64;
        progress.time_left = (progress.bytes_per_second > 0.0)
            .then(|| Duration::try_from_secs_f64(left / progress.bytes_per_second).ok())
            .flatten();
        on_progress(progress);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // On the way out of a panic, which may be the callback's own, a second one would end the process.
        if !std::thread::panicking() {
            self.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_callback_that_panics_is_not_called_on_the_way_out() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let reporter = Reporter::new(
            "org/m",
            Some(Arc::new(move |_| {
                counted.fetch_add(1, Ordering::Relaxed);
                panic!("the callback's own trouble");
            })),
        );
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let reporter = reporter;
            reporter.add("config.json", 2)
        }));
        assert!(ended.is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
