//! `fireside pull`: fetch a model, or what of it has changed since.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::builder::NonEmptyStringValueParser;
use serde_json::{Value, json};

use super::hub::HubArgs;
use super::model::{bytes, warn};
use super::output::{Usage, answer, answer_json};
use crate::hub::lockfile::{self, LockFile, LockedFile};
use crate::{EMBEDDED, Hub, Plan};

/// Fetch a model from the Hub into the cache
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside pull gpt2
  fireside pull HuggingFaceTB/SmolLM2-135M --revision main --dry-run
  fireside pull gpt2 --file config.json --file \"tokenizer*\" --json
  fireside pull gpt2 --lock
  fireside pull --locked")]
pub(super) struct Args {
    /// The model: a short name, `owner/name`, `owner/name@revision`, `owner/name:Q4_K_M` or `owner/name/file.gguf`
    #[arg(value_name = "MODEL", required_unless_present = "locked")]
    model: Option<String>,
    /// The branch, tag or commit to fetch [default: main]
    #[arg(long, value_name = "REVISION", requires = "model")]
    revision: Option<String>,
    /// Fetch these files instead of a model's; `*` stands for any text. May be given several times
    #[arg(long = "file", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    files: Vec<String>,
    /// Show what would be fetched, and fetch no weights
    #[arg(long)]
    dry_run: bool,
    /// Put the files into this folder instead of the cache
    #[arg(long, value_name = "FOLDER", conflicts_with = "dry_run", requires = "model")]
    local_dir: Option<PathBuf>,
    /// Note commit, sizes and hashes in the lock file, so that others fetch the same bytes
    #[arg(long, group = "locking", conflicts_with_all = ["dry_run", "files"])]
    lock: bool,
    /// Fetch exactly what the lock file says, all of it where no MODEL is named; with `--offline`, check what is here
    #[arg(long, group = "locking", conflicts_with_all = ["dry_run", "files"])]
    locked: bool,
    /// The lock file [default: models.lock]
    #[arg(long, value_name = "FILE", requires = "locking")]
    lock_file: Option<PathBuf>,
    /// Print JSON: repository, commit, folder, files with size and hash
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    let hub = args.hub.open()?;
    let name = match (&args.model, &args.revision) {
        (Some(model), Some(revision)) => Some(hub.with_revision(model, revision)?),
        (model, _) => model.clone(),
    };
    if name.as_deref() == Some(EMBEDDED) {
        let problem = format!("`{EMBEDDED}` is inside the program, and there is nothing to fetch");
        return Err(Usage { problem, hint: "name a model of the Hub, such as `gpt2`" }.into());
    }
    let lock_file = args.lock_file.as_deref().unwrap_or(Path::new(lockfile::DEFAULT));
    let name = match name {
        Some(name) if !args.locked => name,
        name => return pull_locked(&hub, name.as_deref(), lock_file, &args),
    };
    if args.dry_run {
        return show(&hub, &name, &args);
    }
    let pulled = match &args.local_dir {
        Some(folder) => hub.pull_into(&name, &args.files, folder)?,
        None => hub.pull_files(&name, &args.files)?,
    };
    warn(&pulled.warnings);
    if args.lock {
        LockFile::update(lock_file, hub.lock_model(&name, &pulled)?)?;
    }
    if args.json {
        let mut json = json_of(&pulled.plan);
        json["folder"] = json!(pulled.folder);
        return answer_json(&json);
    }
    answer(&format!("{}\n", pulled.folder.display()))
}

/// What a lock file says, model by model.
fn pull_locked(hub: &Hub, name: Option<&str>, path: &Path, args: &Args) -> Result<()> {
    let lock = LockFile::read(path)?;
    for model in lock.chosen(name)? {
        let found = hub.pull_locked(&lock, model, args.local_dir.as_deref())?;
        warn(&found.warnings);
        if args.json {
            let file = |file: &LockedFile| {
                let (name, sha256) = (file.path.as_str(), file.sha256.to_string());
                json!({ "name": name, "size": file.size, "sha256": sha256 })
            };
            let files: Value = model.files.iter().map(file).collect();
            let (repo, commit) = (model.repo.as_str(), model.commit.as_str());
            answer_json(
                &json!({ "model": model.name, "repo": repo, "commit": commit, "files": files, "folder": found.folder }),
            )?;
        } else {
            answer(&format!("{}\n", found.folder.display()))?;
        }
    }
    Ok(())
}

fn show(hub: &Hub, name: &str, args: &Args) -> Result<()> {
    let plan = hub.plan(name, &args.files)?;
    if args.json {
        return answer_json(&json_of(&plan));
    }
    let size = |wanted: bool| {
        plan.files.iter().filter(|file| file.cached == wanted).map(|file| file.size as usize).sum::<usize>()
    };
    let width = plan.files.iter().map(|file| file.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for file in &plan.files {
        let cached = if file.cached { "  cached" } else { "" };
        text += &format!("{:<width$} {:>10}{cached}\n", crate::error::line(&file.name), bytes(file.size as usize));
    }
    text +=
        &format!("{} at {}: {} to fetch, {} cached\n", plan.repo, plan.commit, bytes(size(false)), bytes(size(true)));
    answer(&text)
}

fn json_of(plan: &Plan) -> Value {
    let files: Value = plan
        .files
        .iter()
        .map(|file| json!({ "name": file.name, "size": file.size, "hash": file.hash, "cached": file.cached }))
        .collect();
    json!({ "repo": plan.repo, "commit": plan.commit, "license": plan.license, "files": files })
}
