//! What goes out of the cache: shown, asked about, done, and told.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::size;
use crate::cli::output::{Usage, answer, answer_json, warning};
use crate::error::{Error, HubFailure, count, line};
use crate::hub::care::remove::{Freed, Plan, Step, What};

/// Whether something is done or only shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Ask,
    Do,
    DryRun,
}

impl Mode {
    pub(super) fn of(yes: bool, dry_run: bool) -> Mode {
        match (dry_run, yes) {
            (true, _) => Mode::DryRun,
            (false, true) => Mode::Do,
            (false, false) => Mode::Ask,
        }
    }
}

/// Shows what goes, asks where that is wanted, and does it.
pub(super) fn carry_out(plans: &[Plan], mode: Mode, as_json: bool) -> Result<()> {
    let steps: Vec<&Step> = plans.iter().flat_map(|plan| &plan.steps).collect();
    let room = size(plans.iter().map(Plan::size).sum());
    plans.iter().flat_map(|plan| &plan.kept).for_each(warning);
    if mode == Mode::DryRun {
        if as_json {
            return answer_json(&removal_json(&steps, &[], "would_remove"));
        }
        return answer(&format!("{}would free {room}\n", lines("would remove", &steps)));
    }
    if mode == Mode::Ask && !confirm(&format!("{}free {room}?", lines("remove", &steps)))? {
        warning("nothing was removed");
        return Ok(());
    }
    let freed: Vec<Freed> = plans.iter().map(Plan::execute).collect();
    let removed: Vec<&Step> = freed.iter().flat_map(|freed| &freed.removed).collect();
    let kept: Vec<&String> = freed.iter().flat_map(|freed| &freed.kept).collect();
    if as_json {
        answer_json(&removal_json(&removed, &kept, "removed"))?;
    } else {
        let room = size(removed.iter().map(|step| step.size).sum());
        answer(&format!("{}freed {room}\n", lines("removed", &removed)))?;
    }
    kept.iter().for_each(warning);
    if kept.is_empty() {
        return Ok(());
    }
    let problem = format!("{} could not be removed", count(kept.len(), "thing"));
    Err(Error::hub(HubFailure::Cache, problem, "the warnings above say why; the rest was removed").into())
}

/// A line for each thing that a user knows by name, and one for each kind of the others.
fn lines(verb: &str, steps: &[&Step]) -> String {
    let mut page = String::new();
    for step in steps.iter().filter(|step| matches!(step.what, What::Repository | What::Snapshot)) {
        let repo = line(step.repo.as_deref().unwrap_or_default());
        let name = line(&step.path.file_name().unwrap_or_default().to_string_lossy());
        match step.what {
            What::Snapshot => page += &format!("{verb} {repo}@{name}\n"),
            _ => page += &format!("{verb} {repo} ({})\n", size(step.size)),
        }
    }
    for what in [What::Blob, What::Partial, What::Reference, What::Entry, What::Shared, What::Leftover] {
        let of_kind: Vec<&&Step> = steps.iter().filter(|step| step.what == what).collect();
        if !of_kind.is_empty() {
            let room = size(of_kind.iter().map(|step| step.size).sum());
            let noun = match (what, of_kind.len()) {
                (What::Entry, n) if n > 1 => format!("{n} entries"),
                (what, n) => count(n, what.noun()),
            };
            page += &format!("{verb} {noun} ({room})\n");
        }
    }
    page
}

pub(super) fn removal_json(steps: &[&Step], kept: &[&String], verb: &str) -> Value {
    let step = |step: &&Step| {
        let path = step.path.display().to_string();
        json!({ "what": step.what.noun(), "repo": step.repo, "path": path, "size_bytes": step.size })
    };
    let freed: u64 = steps.iter().map(|step| step.size).sum();
    json!({ verb: steps.iter().map(step).collect::<Value>(), "freed_bytes": freed, "kept": kept })
}

/// Asks on the terminal. Without one there is nobody to ask, and `--yes` has to say it.
fn confirm(question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let problem = "there is no terminal to ask on before something is removed".to_owned();
        return Err(Usage { problem, hint: "add `--yes` to remove it, or `--dry-run` to see what would go" }.into());
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush()).context("cannot ask")?;
    let mut said = String::new();
    io::stdin().lock().read_line(&mut said).context("cannot read the answer")?;
    Ok(matches!(said.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
