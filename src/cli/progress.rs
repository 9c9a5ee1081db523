//! A download on a terminal, in a log, or as JSON lines for a program. All of it goes to stderr.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use serde_json::{Value, json};

use super::model::bytes;
use super::output::note;
use crate::error::line;
use crate::{FileProgress, FileState, Progress};

/// Time between two lines of a log.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How a download is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ProgressStyle {
    /// Bars on a terminal, plain lines elsewhere
    #[default]
    Auto,
    /// A line now and then
    Plain,
    /// A JSON object per line, at most ten a second
    Json,
    /// Nothing
    None,
}

/// What shows reports in this style.
pub(super) fn shown(style: ProgressStyle) -> Box<dyn Fn(&Progress) + Send + Sync> {
    match style {
        ProgressStyle::None => Box::new(|_| {}),
        ProgressStyle::Json => Box::new(|progress| note(&json_of(progress).to_string())),
        ProgressStyle::Auto if io::stderr().is_terminal() => {
            let bars = Mutex::new(Bars::default());
            Box::new(move |progress| bars.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).show(progress))
        }
        ProgressStyle::Auto | ProgressStyle::Plain => {
            let lines = Mutex::new(Lines::default());
            Box::new(move |progress| lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).show(progress))
        }
    }
}

fn json_of(progress: &Progress) -> Value {
    let files: Value = progress
        .files
        .iter()
        .map(|file| {
            let (state, detail) = match &file.state {
                FileState::Queued => ("queued", None),
                FileState::Waiting(holder) => ("waiting", Some(holder)),
                FileState::Downloading => ("downloading", None),
                FileState::Retrying(why) => ("retrying", Some(why)),
                FileState::Cached => ("cached", None),
                FileState::Done => ("done", None),
            };
            let mut json = json!({ "name": file.name, "size": file.size, "done": file.done, "state": state });
            if let Some(detail) = detail {
                json["detail"] = json!(line(detail));
            }
            json
        })
        .collect();
    json!({
        "model": progress.model,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "bytes_per_second": progress.bytes_per_second.round(),
        "seconds_left": progress.time_left.map(|left| left.as_secs()),
        "notice": progress.notice.as_deref().map(line),
        "finished": progress.finished,
        "files": files,
    })
}

/// Lines of a log: what begins, how far it is every few seconds, every trouble, what is done.
#[derive(Default)]
struct Lines {
    began: Option<Instant>,
    said: Option<Instant>,
    notice: Option<String>,
    /// What was last said of a file's trouble.
    troubles: HashMap<String, String>,
}

impl Lines {
    fn show(&mut self, progress: &Progress) {
        for file in &progress.files {
            let trouble = trouble_of(file);
            if let Some(trouble) = trouble.filter(|trouble| self.troubles.get(&file.name) != Some(trouble)) {
                note(&format!("{}: {trouble}", line(&file.name)));
                self.troubles.insert(file.name.clone(), trouble);
            }
        }
        if progress.notice != self.notice {
            self.notice.clone_from(&progress.notice);
            if let Some(notice) = &self.notice {
                note(&format!("{}: {}", line(&progress.model), line(notice)));
            }
        }
        let active = progress.files.iter().any(|file| matches!(file.state, FileState::Downloading | FileState::Done));
        if !active {
            return;
        }
        let began = *self.began.get_or_insert_with(|| {
            note(&format!("fetching {}", line(&progress.model)));
            Instant::now()
        });
        let done = progress.files.iter().all(|file| matches!(file.state, FileState::Done | FileState::Cached));
        if progress.finished && done {
            let came = progress.files.iter().filter(|file| file.state == FileState::Done).map(|file| file.size);
            let came = came.sum::<u64>() as usize;
            let seconds = began.elapsed().as_secs_f64();
            note(&format!("fetched {}: {} in {seconds:.1} s", line(&progress.model), bytes(came)));
        } else if progress.finished {
            // The error that ends it says why.
        } else if self.said.unwrap_or(began).elapsed() >= LINE_EVERY {
            self.said = Some(Instant::now());
            let left = progress.time_left.map_or_else(String::new, |left| format!(", {} left", clock(left)));
            note(&format!(
                "{}: {} of {}, {}/s{left}",
                line(&progress.model),
                bytes(progress.bytes_done as usize),
                bytes(progress.bytes_total as usize),
                bytes(progress.bytes_per_second as usize)
            ));
        }
    }
}

fn trouble_of(file: &FileProgress) -> Option<String> {
    match &file.state {
        FileState::Waiting(holder) => Some(format!("waiting for {}, which is fetching it", line(holder))),
        FileState::Retrying(why) => Some(format!("trying again: {}", line(why))),
        _ => None,
    }
}

/// `75` → `1:15`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{seconds} s")
    } else if seconds < 3600 {
        format!("{}:{:02}", seconds / 60, seconds % 60)
    } else {
        format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

/// One bar per file that is on its way, and one for all.
#[derive(Default)]
struct Bars {
    notice: Option<String>,
    drawn: Option<(MultiProgress, ProgressBar)>,
    files: HashMap<String, ProgressBar>,
}

impl Bars {
    fn show(&mut self, progress: &Progress) {
        if progress.notice != self.notice {
            self.notice.clone_from(&progress.notice);
            let text = self.notice.as_deref().map(line).unwrap_or_default();
            match &self.drawn {
                Some((all, _)) => all.suspend(|| note(&text)),
                None => note(&text),
            }
        }
        if progress.finished {
            if let Some((all, _)) = self.drawn.take() {
                let _ = all.clear();
            }
            self.files.clear();
            return;
        }
        let busy =
            |file: &&FileProgress| !matches!(file.state, FileState::Queued | FileState::Cached | FileState::Done);
        if self.drawn.is_none() && !progress.files.iter().any(|file| busy(&file)) {
            return;
        }
        let (all, total) = self.drawn.get_or_insert_with(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
            let total = all.add(
                ProgressBar::new(0)
                    .with_style(style("{prefix:24!} {bar:20} {decimal_bytes:>10} of {decimal_total_bytes:<10} {msg}")),
            );
            (all, total)
        });
        for file in &progress.files {
            if !busy(&file) {
                if let Some(bar) = self.files.remove(&file.name) {
                    bar.finish_and_clear();
                }
                continue;
            }
            let bar = self.files.entry(file.name.clone()).or_insert_with(|| {
                let bar = ProgressBar::new(file.size)
                    .with_style(style("{prefix:24!} {bar:20} {decimal_bytes:>10} of {decimal_total_bytes:<10} {msg}"));
                all.insert_before(total, bar.with_prefix(tail(&file.name)))
            });
            bar.set_position(file.done);
            bar.set_message(trouble_of(file).unwrap_or_default());
        }
        total.set_prefix(tail(&progress.model));
        total.set_length(progress.bytes_total);
        total.set_position(progress.bytes_done);
        let left = progress.time_left.map_or_else(String::new, |left| format!("  {} left", clock(left)));
        total.set_message(format!("{}/s{left}", bytes(progress.bytes_per_second as usize)));
    }
}

fn style(template: &str) -> BarStyle {
    BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar())
}

/// The end of a long name, which tells shards apart.
fn tail(name: &str) -> String {
    const WIDTH: usize = 24;
    let name = line(name);
    let length = name.chars().count();
    if length <= WIDTH { name } else { format!("…{}", name.chars().skip(length - WIDTH + 1).collect::<String>()) }
}
