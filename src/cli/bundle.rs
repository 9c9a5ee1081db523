//! `fireside export` and `fireside import`: a cached model as one file, out of one machine and into another.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::model::warn;
use super::output::{Usage, answer, answer_json, note};
use super::progress::{self, ProgressStyle};
use crate::error::{Error, HubFailure, line, quote};
use crate::hub::bundle::export::Existing;
use crate::hub::bundle::{Bundle, Imported};
use crate::{FileState, Hub, Progress, forbid_network};

/// Write a model of the cache to one file, for machines without network
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside export gpt2 -o gpt2.tar
  fireside export HuggingFaceTB/SmolLM2-135M@main -o smollm2.tar --force --json
  fireside export gpt2 -o - | fireside import -")]
pub(super) struct ExportArgs {
    /// The model: a short name, `owner/name`, `owner/name@revision`, `owner/name:Q4_K_M` or `owner/name/file.gguf`
    #[arg(value_name = "MODEL")]
    model: String,
    /// The file to write, a tar; `-` is stdout
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Print JSON: repository, commit, files with size and hash
    #[arg(long)]
    json: bool,
    /// Open no socket, which exporting never does
    #[arg(long)]
    offline: bool,
}

/// Put a model that `fireside export` wrote into the cache
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside import gpt2.tar
  fireside import gpt2.tar --json
  cat gpt2.tar | fireside import -")]
pub(super) struct ImportArgs {
    /// The bundle; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON: repository, commit, folder, files with size and hash
    #[arg(long)]
    json: bool,
}

pub(super) fn export(args: ExportArgs) -> Result<()> {
    let ExportArgs { model, output, force, json, offline: _ } = args;
    let hub = hub()?;
    if output == Path::new("-") {
        let usage = |problem: &str, hint| Err(Usage { problem: problem.to_owned(), hint }.into());
        if json || force {
            return usage(
                "`-o -` writes the bundle to stdout, where `--json` and `--force` have no place",
                "name a file",
            );
        }
        answer("")?; // refuses a stdout that is closed
        let mut stdout = io::stdout().lock();
        if stdout.is_terminal() {
            return usage("a bundle is nothing for a terminal", "name a file with `-o`, or lead stdout into one");
        }
        hub.export(&model)?
            .write(&mut |piece| stdout.write_all(piece).context("cannot write the bundle"))
            .and_then(|()| stdout.flush().context("cannot write the bundle"))
    } else {
        let export = hub.export(&model)?;
        export.write_file(&output, if force { Existing::Replace } else { Existing::Keep })?;
        let path = output.display();
        if json { answer_json(&json_of(&export.bundle, "file", &output)) } else { answer(&format!("{path}\n")) }
    }
}

pub(super) fn import(args: ImportArgs) -> Result<()> {
    let hub = hub()?;
    let label = args.file.display().to_string();
    let Imported { bundle, folder, warnings } = if args.file == Path::new("-") {
        let mut stdin = io::stdin().lock();
        if stdin.is_terminal() {
            let problem = "expected a bundle on stdin, found a terminal".to_owned();
            return Err(Usage { problem, hint: "name a file, or lead one into stdin" }.into());
        }
        hub.import(&mut stdin, "stdin")?
    } else {
        let failed = |problem: String| {
            let problem = format!("cannot read {}: {problem}", quote(&label));
            Error::hub(HubFailure::NotFound, problem, "name a file that `fireside export` wrote, or `-` for stdin")
        };
        if args.file.is_dir() {
            return Err(failed("it is a folder".to_owned()).into());
        }
        let mut file = File::open(&args.file).map_err(|error| failed(error.to_string()))?;
        hub.import(&mut file, &label)?
    };
    warn(&warnings);
    if args.json {
        return answer_json(&json_of(&bundle, "folder", &folder));
    }
    answer(&format!("{}\n", folder.display()))
}

/// The cache, in a process that has given up sockets.
fn hub() -> Result<Hub> {
    let _ = forbid_network(); // nothing here connects; where the kernel can, it holds us to that
    let hub = Hub::from_env()?.offline();
    if io::stderr().is_terminal() {
        return Ok(hub.on_progress(progress::shown(ProgressStyle::Auto)));
    }
    Ok(hub.on_progress(name_whom_we_wait_for()))
}

/// Says each wait once.
fn name_whom_we_wait_for() -> impl Fn(&Progress) + Send + Sync {
    let said = Mutex::new(HashSet::new());
    move |progress| {
        for file in &progress.files {
            if let FileState::Waiting(holder) = &file.state {
                let waiting = format!("{}: waiting for {}", line(&file.name), line(holder));
                let mut said = said.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if said.insert(waiting.clone()) {
                    note(&waiting);
                }
            }
        }
    }
}

fn json_of(bundle: &Bundle, place_name: &str, place: &Path) -> Value {
    let files: Value = bundle
        .files
        .iter()
        .map(|file| json!({ "name": file.path.as_str(), "size": file.size, "hash": file.digest.to_string() }))
        .collect();
    let (repo, revision, commit) = (bundle.repo.as_str(), bundle.revision.as_str(), bundle.commit.as_str());
    let mut json = json!({ "repo": repo, "revision": revision, "commit": commit, "files": files });
    json[place_name] = json!(place);
    json
}
