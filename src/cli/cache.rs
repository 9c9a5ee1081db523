//! `fireside cache`: what was downloaded, how much room it takes, whether it is sound, and how it goes away.

mod removal;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde_json::{Value, json};

use self::removal::{Mode, carry_out, removal_json};
use super::model::bytes;
use super::output::{answer, answer_json, warning};
use crate::error::{Error, HubFailure, count, line, quote};
use crate::hub::care::remove::{OldRevisions, Plan, Step, discard, prune, remove};
use crate::hub::care::verify::{Checked, Chosen, Verdict, bytes_to_read, verify};
use crate::hub::care::{CachedRepo, CachedRevision, RepoKind, Scan, scan};
use crate::hub::{Hub, catalog};

/// Look after the cache of downloaded models
#[derive(clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:
  fireside cache ls
  fireside cache rm gpt2
  fireside cache verify --json
  fireside cache prune --dry-run
  fireside cache path"
)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
    /// The cache [default: HF_HUB_CACHE, or where Python's huggingface_hub has it]
    #[arg(long, value_name = "DIR", global = true)]
    cache_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Verb {
    /// List what is in the cache
    #[command(after_help = "Examples:
  fireside cache ls
  fireside cache ls --json")]
    Ls,
    /// Remove models, or single revisions of them
    #[command(after_help = "Examples:
  fireside cache rm gpt2
  fireside cache rm openai-community/gpt2@main --yes
  fireside cache rm --dry-run gpt2 distilgpt2")]
    Rm {
        /// A short name, `owner/name`, `owner/name@revision`, or `datasets/owner/name`
        #[arg(value_name = "MODEL", required = true)]
        models: Vec<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Hash every file and compare it with its name; needs no network
    #[command(after_help = "Examples:
  fireside cache verify
  fireside cache verify gpt2 --json
  fireside cache verify --remove-damaged")]
    Verify {
        /// Which models [default: all models]
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
        /// Remove what is damaged, so that the next download fetches it again
        #[arg(long)]
        remove_damaged: bool,
    },
    /// Remove what nobody needs: unfinished files, and content that no revision uses
    #[command(after_help = "Examples:
  fireside cache prune
  fireside cache prune --dry-run
  fireside cache prune --old-revisions --yes gpt2")]
    Prune {
        /// Which models [default: all models]
        #[arg(value_name = "MODEL")]
        models: Vec<String>,
        /// Remove revisions that no branch or tag names as well
        #[arg(long)]
        old_revisions: bool,
        /// Do not ask before revisions go
        #[arg(short, long)]
        yes: bool,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Print the cache's folder, or that of a model's files
    #[command(after_help = "Examples:
  fireside cache path
  fireside cache path gpt2")]
    Path {
        /// A model
        #[arg(value_name = "MODEL")]
        model: Option<String>,
    },
}

pub(super) fn run(args: Args) -> Result<()> {
    let folder = match args.cache_dir {
        Some(folder) => folder,
        None => Hub::from_env()?.cache_folder().to_owned(),
    };
    if let Verb::Path { model: None } = args.verb {
        let shown = folder.display().to_string();
        return if args.json { answer_json(&json!({ "path": shown })) } else { answer(&(shown + "\n")) };
    }
    let scan = scan(&folder)?;
    match args.verb {
        Verb::Ls => list(&scan, args.json),
        Verb::Rm { models, yes, dry_run } => remove_models(&scan, &models, Mode::of(yes, dry_run), args.json),
        Verb::Verify { models, remove_damaged } => {
            let chosen = choose(&scan, &models)?;
            let damaged = if remove_damaged { Damaged::Remove } else { Damaged::Report };
            check(&scan, &chosen, damaged, args.json)
        }
        Verb::Prune { models, old_revisions, yes, dry_run } => {
            let repos: Vec<&CachedRepo> = choose(&scan, &models)?.into_iter().map(|(repo, _)| repo).collect();
            let old = if old_revisions { OldRevisions::Remove } else { OldRevisions::Keep };
            let plan = prune(&scan, &repos, old);
            let mode = Mode::of(yes || !old_revisions || plan.steps.is_empty(), dry_run);
            carry_out(&[plan], mode, args.json)
        }
        Verb::Path { model } => {
            let (repo, revision) = find(&scan, model.as_deref().unwrap_or_default())?;
            let revision = revision.or_else(|| current(repo)).ok_or_else(|| {
                let problem = format!("no file of {} is in the cache yet", quote(&repo.id));
                Error::hub(HubFailure::NotFound, problem, format!("`fireside pull {}` fetches it", line(&repo.id)))
            })?;
            let shown = revision.folder.display().to_string();
            if args.json {
                return answer_json(&json!({ "path": shown, "commit": revision.commit }));
            }
            answer(&(shown + "\n"))
        }
    }
}

/// The repository that a user's name stands for: a card's first, then one that is called so.
fn find<'a>(scan: &'a Scan, name: &str) -> Result<(&'a CachedRepo, Option<&'a CachedRevision>), Error> {
    let (id, revision) = name.split_once('@').map_or((name, ""), |(id, _)| (id, &name[id.len()..]));
    let card = catalog::find(id);
    let mut repos = card.into_iter().flat_map(|card| std::iter::once(&card.repo).chain(&card.aliases));
    repos.find_map(|repo| scan.find(&format!("{repo}{revision}")).ok()).map_or_else(|| scan.find(name), Ok)
}

/// The named repositories and revisions, or all models.
fn choose<'a>(scan: &'a Scan, names: &[String]) -> Result<Vec<Chosen<'a>>, Error> {
    if names.is_empty() {
        return Ok(scan.models().into_iter().map(|repo| (repo, None)).collect());
    }
    names.iter().map(|name| find(scan, name)).collect()
}

/// The revision that a name without one means.
fn current(repo: &CachedRepo) -> Option<&CachedRevision> {
    let main = repo.revisions.iter().find(|revision| revision.refs.iter().any(|name| name == "main"));
    main.or_else(|| repo.revisions.iter().max_by_key(|revision| revision.modified))
}

/// As it is named on the command line: `owner/name`, `datasets/owner/name`.
fn shown(repo: &CachedRepo) -> String {
    match repo.kind {
        RepoKind::Model => line(&repo.id),
        kind => format!("{}/{}", kind.plural(), line(&repo.id)),
    }
}

fn list(scan: &Scan, as_json: bool) -> Result<()> {
    if as_json {
        return answer_json(&json!({
            "cache": scan.cache.display().to_string(),
            "size_bytes": scan.size(),
            "repos": scan.repos.iter().map(repo_json).collect::<Value>(),
            "problems": scan.problems,
        }));
    }
    let rows: Vec<[String; 5]> = scan.repos.iter().map(row).collect();
    let mut page = String::new();
    if !rows.is_empty() {
        let heads = ["name", "size", "files", "modified", "revision"].map(str::to_owned);
        let width = |column: usize| {
            std::iter::once(&heads).chain(&rows).map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let widths = [width(0), width(1), width(2), width(3)];
        for [name, size, files, modified, revision] in std::iter::once(&heads).chain(&rows) {
            page += &format!(
                "{name:<0$}  {size:>1$}  {files:>2$}  {modified:<3$}  {revision}\n",
                widths[0], widths[1], widths[2], widths[3]
            );
        }
        page.push('\n');
    }
    let repos = match scan.repos.len() {
        0 => "nothing".to_owned(),
        1 => "1 repository".to_owned(),
        n => format!("{n} repositories"),
    };
    page += &format!("{repos}, {} in {}\n", size(scan.size()), line(&scan.cache.display().to_string()));
    answer(&page)?;
    for problem in &scan.problems {
        warning(problem);
    }
    for repo in &scan.repos {
        for problem in &repo.problems {
            warning(format_args!("{}: {problem}", shown(repo)));
        }
        let unfinished: u64 = repo.partials.iter().map(|partial| partial.size).sum();
        if !repo.partials.is_empty() {
            let files = count(repo.partials.len(), "file");
            warning(format_args!(
                "{}: {files} of unfinished downloads, {}; `fireside pull` goes on with them, `fireside cache prune` removes them",
                shown(repo),
                size(unfinished)
            ));
        }
    }
    Ok(())
}

fn row(repo: &CachedRepo) -> [String; 5] {
    let short = |commit: &str| line(&commit.chars().take(8).collect::<String>());
    let revisions: Vec<String> = repo
        .revisions
        .iter()
        .map(|revision| match revision.refs.join(", ") {
            names if names.is_empty() => short(&revision.commit),
            names => format!("{} ({})", line(&names), short(&revision.commit)),
        })
        .collect();
    [shown(repo), size(repo.size), repo.n_files.to_string(), date(repo.modified), revisions.join(" · ")]
}

fn repo_json(repo: &CachedRepo) -> Value {
    let revision = |revision: &CachedRevision| {
        let files = revision.files.iter().map(|file| json!({ "name": file.name, "size_bytes": file.size }));
        json!({
            "commit": revision.commit,
            "refs": revision.refs,
            "size_bytes": revision.size,
            "modified": seconds(revision.modified),
            "path": revision.folder.display().to_string(),
            "files": files.collect::<Value>(),
        })
    };
    let unused = repo.blobs.iter().filter(|blob| !blob.used);
    json!({
        "id": repo.id,
        "kind": repo.kind.noun(),
        "size_bytes": repo.size,
        "files": repo.n_files,
        "modified": seconds(repo.modified),
        "revisions": repo.revisions.iter().map(revision).collect::<Value>(),
        "unfinished": repo.partials.iter().map(|p| json!({ "name": p.name, "size_bytes": p.size })).collect::<Value>(),
        "unused_blobs": unused.map(|b| json!({ "name": b.name, "size_bytes": b.size })).collect::<Value>(),
        "problems": repo.problems,
    })
}

fn remove_models(scan: &Scan, names: &[String], mode: Mode, as_json: bool) -> Result<()> {
    // Several revisions of one repository go together: what they share alone goes as well.
    let mut by_repo: Vec<(&CachedRepo, Option<Vec<&CachedRevision>>)> = Vec::new();
    for name in names {
        let (repo, revision) = find(scan, name)?;
        let at = by_repo.iter().position(|(known, _)| known.folder == repo.folder).unwrap_or_else(|| {
            by_repo.push((repo, Some(Vec::new())));
            by_repo.len() - 1
        });
        match (&mut by_repo[at].1, revision) {
            (Some(revisions), Some(revision)) if !revisions.iter().any(|r| r.commit == revision.commit) => {
                revisions.push(revision);
            }
            (revisions, None) => *revisions = None,
            _ => {}
        }
    }
    let plan_of = |(repo, revisions): &(&CachedRepo, Option<Vec<&CachedRevision>>)| {
        remove(scan, repo, revisions.as_deref().unwrap_or_default())
    };
    let plans = by_repo.iter().map(plan_of).collect::<Result<Vec<Plan>, Error>>()?;
    carry_out(&plans, mode, as_json)
}

/// What becomes of damaged files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Damaged {
    Report,
    Remove,
}

fn check(scan: &Scan, chosen: &[Chosen<'_>], damaged: Damaged, as_json: bool) -> Result<()> {
    let bar = indicatif::ProgressBar::new(bytes_to_read(chosen)); // drawn on a terminal only
    if let Ok(style) = indicatif::ProgressStyle::with_template(
        "{bar:30} {decimal_bytes} of {decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} left",
    ) {
        bar.set_style(style);
    }
    let checked = verify(chosen, &|n| bar.inc(n));
    bar.finish_and_clear();
    let bad: Vec<&Checked<'_>> = checked.iter().filter(|file| file.verdict.is_bad()).collect();
    let removed = (damaged == Damaged::Remove && !bad.is_empty()).then(|| {
        // What cannot be read may be sound: a disk or a permission is at fault, and removal is not the cure.
        let gone = bad.iter().filter(|file| !matches!(file.verdict, Verdict::Unreadable(_)));
        discard(scan, gone.map(|file| (file.repo, file.path.as_path()))).execute()
    });
    let kept: Vec<&String> = removed.iter().flat_map(|freed| &freed.kept).collect();
    if as_json {
        let mut page = json!({ "files": checked.iter().map(file_json).collect::<Value>(), "bad": bad.len() });
        if let Some(freed) = &removed {
            let steps: Vec<&Step> = freed.removed.iter().collect();
            page["removal"] = removal_json(&steps, &kept, "removed");
        }
        answer_json(&page)?;
    } else {
        answer(&verdicts(chosen, &checked))?;
    }
    kept.iter().for_each(warning);
    if bad.is_empty() {
        return Ok(());
    }
    let files = count(bad.len(), "file");
    let (problem, hint) = match &removed {
        Some(_) if kept.is_empty() => {
            (format!("{files} of the cache had damage"), "it was removed; the next download fetches it again")
        }
        Some(_) => (format!("{files} of the cache had damage"), "the warnings above say what could not be removed"),
        None => (
            format!("{files} of the cache {} damaged", if bad.len() == 1 { "is" } else { "are" }),
            "`fireside cache verify --remove-damaged` removes them, and the next download fetches them again",
        ),
    };
    Err(Error::hub(HubFailure::Damaged, problem, hint).into())
}

/// A line for each repository, and one for each file that is not sound.
fn verdicts(chosen: &[Chosen<'_>], checked: &[Checked<'_>]) -> String {
    if chosen.is_empty() {
        return "nothing to check\n".to_owned();
    }
    let mut page = String::new();
    for (repo, _) in chosen {
        let files = || checked.iter().filter(|file| file.repo.folder == repo.folder);
        let sound: Vec<&Checked<'_>> = files().filter(|file| file.verdict == Verdict::Sound).collect();
        let room = size(sound.iter().map(|file| file.size).sum());
        page += &format!("{:<10} {}: {}, {room}\n", "sound", shown(repo), count(sound.len(), "file"));
        for file in files().filter(|file| file.verdict != Verdict::Sound) {
            let blob = file.path.file_name().unwrap_or_default().to_string_lossy();
            let name = if file.names.is_empty() { format!("blob {blob}") } else { file.names.join(", ") };
            let why = match &file.verdict {
                Verdict::Damaged { expected, found } => format!("expected {expected}, found {found}"),
                Verdict::Dangling => "the link leads to nothing".to_owned(),
                Verdict::Unreadable(why) => why.clone(),
                Verdict::Unknown(why) => (*why).to_owned(),
                Verdict::Sound => continue,
            };
            page += &format!("{:<10} {} {}: {}\n", word(&file.verdict), shown(repo), line(&name), line(&why));
        }
    }
    page
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Sound => "sound",
        Verdict::Damaged { .. } => "damaged",
        Verdict::Dangling => "dangling",
        Verdict::Unreadable(_) => "unreadable",
        Verdict::Unknown(_) => "unknown",
    }
}

fn file_json(file: &Checked<'_>) -> Value {
    let mut page = json!({
        "repo": file.repo.id,
        "kind": file.repo.kind.noun(),
        "names": file.names,
        "path": file.path.display().to_string(),
        "size_bytes": file.size,
        "verdict": word(&file.verdict),
    });
    match &file.verdict {
        Verdict::Damaged { expected, found } => {
            page["expected"] = json!(expected.to_string());
            page["found"] = json!(found.to_string());
        }
        Verdict::Unreadable(why) => page["why"] = json!(why),
        Verdict::Unknown(why) => page["why"] = json!(why),
        Verdict::Sound | Verdict::Dangling => {}
    }
    page
}

fn size(n: u64) -> String {
    bytes(usize::try_from(n).unwrap_or(usize::MAX))
}

/// Seconds since 1970.
fn seconds(time: Option<SystemTime>) -> Option<u64> {
    time?.duration_since(UNIX_EPOCH).ok().map(|since: Duration| since.as_secs())
}

/// `2026-03-01`, in UTC.
fn date(time: Option<SystemTime>) -> String {
    const CYCLE: u64 = 146_097; // days of 400 years, after which the calendar repeats
    let Some(seconds) = seconds(time) else { return "unknown".to_owned() };
    let (mut day, mut year) = (seconds / 86_400, 1970);
    year += day / CYCLE * 400;
    day %= CYCLE;
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", day + 1)
}

#[cfg(test)]
mod tests {
    use super::date;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn dates_follow_the_calendar() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(date(Some(UNIX_EPOCH + Duration::from_secs(seconds))), expected);
        };
        // What `date -u -d @SECONDS +%F` says.
        check(0, "1970-01-01");
        check(951_782_400, "2000-02-29");
        check(951_868_800, "2000-03-01");
        check(1_735_689_599, "2024-12-31");
        check(4_107_542_400, "2100-03-01");
        check(13_569_465_600, "2400-01-01");
        assert_eq!(date(None), "unknown");
    }
}
