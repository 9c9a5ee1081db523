//! The models that have a short name, and the texts that they are known to write.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::cli::{parsed, text};
use crate::program::{fireside, run};
use crate::support::{cases, fixture, json, model};

/// The short names as the files of `models` have them.
fn names() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
    let files = std::fs::read_dir(folder).expect("the folder of cards");
    let files = files.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"));
    files.filter_map(|file| file.strip_suffix(".toml").map(str::to_owned)).collect()
}

/// `fireside` with this folder as its cache and no network.
fn with_cache<const N: usize>(cache: &Path, args: [&str; N]) -> Command {
    let mut command = fireside(args);
    command.env("HF_HUB_CACHE", cache).env("HF_HUB_OFFLINE", "1");
    command
}

/// `fireside models` where nothing is in the cache.
fn models(args: &[&str]) -> String {
    let empty = tempfile::tempdir().expect("a temporary folder");
    let mut command = with_cache(empty.path(), ["models"]);
    command.args(args);
    run(command).answer()
}

/// `verify-golden` with JSON, whatever it found.
fn verified(args: &[&str]) -> (Option<i32>, Value, String) {
    let outcome = run(fireside([&["verify-golden", "--json"], args].concat()));
    (outcome.code, parsed(&outcome.stdout), outcome.stderr)
}

#[test]
fn models_lists_every_card_within_eighty_columns() {
    let table = models(&[]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).collect()).collect();
    let cells = |row: &[&str]| row.iter().map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(cells(&rows[0]), ["name", "params", "size", "licence", "runs", "here"]);
    assert!(table.lines().all(|line| line.chars().count() <= 80 && line.trim_end() == line), "{table}");
    assert!(!table.contains('\x1b'), "no colour in a pipe");
    let mut listed: BTreeSet<String> = rows[1..].iter().map(|row| cells(row)[0].clone()).collect();
    assert_eq!(listed.remove("ember"), cfg!(feature = "ember"));
    assert_eq!(listed, names());
    let row = |name: &str| cells(rows.iter().find(|row| row[0] == name).expect("a row"));
    assert_eq!(row("gpt2")[..5], ["gpt2", "124.4M", "548.1 MB", "mit", "yes"]);
    assert_eq!(row("phi-2")[..4], ["phi-2", "2.8B", "~5.6 GB", "mit"]);
    assert_eq!(row("llama-3.2-1b")[3..5], ["llama3.2, gated", "yes"]);
    for (name, runs) in
        [("mistral-7b", "yes"), ("tinyllama", "yes"), ("qwen2.5-0.5b", "yes"), ("qwen3-0.6b", "yes"), ("phi-2", "yes")]
    {
        assert_eq!(row(name)[4], runs, "{name}");
    }
    if cfg!(feature = "ember") {
        assert_eq!((rows[1][0], cells(&rows[1]).pop().as_deref()), ("ember", Some("inside")));
    }
}

#[test]
fn models_as_json_hold_everything_that_the_cards_say() {
    let list = parsed(&models(&["--json"]));
    let entries = list.as_array().expect("a list");
    let of = |name: &str| entries.iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("{name}"));
    for name in names() {
        let entry = of(&name);
        for field in ["title", "repo", "revision", "architecture", "license", "dtype"] {
            assert!(entry[field].is_string(), "{name}: {field}");
        }
        for field in ["gated", "runs", "cached"] {
            assert!(entry[field].is_boolean(), "{name}: {field}");
        }
        assert!(entry["parameters"].is_u64() && entry["files"].is_array() && entry["aliases"].is_array(), "{name}");
        let runs = fireside::ARCHITECTURES.iter().any(|architecture| entry["architecture"] == architecture.model_type);
        assert_eq!(entry["runs"], json!(runs), "{name}");
    }
    let gpt2 = of("gpt2");
    assert_eq!((&gpt2["repo"], &gpt2["aliases"]), (&json!("openai-community/gpt2"), &json!(["gpt2"])));
    assert_eq!((&gpt2["bytes"], &gpt2["golden"]["max_new_tokens"]), (&json!(548_105_171), &json!(43)));
    assert_eq!(of("gpt2-xl")["bytes"], Value::Null);
    assert_eq!(entries.len(), names().len() + usize::from(cfg!(feature = "ember")));
}

#[test]
fn a_model_in_the_cache_is_listed_as_cached_under_any_of_its_names() {
    let cached = |folder: &str, leave_out: &str| {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let (commit, repo) = ("0123456789abcdef0123456789abcdef01234567", cache.path().join(folder));
        let snapshot = repo.join("snapshots").join(commit);
        std::fs::create_dir_all(&snapshot).expect("a snapshot");
        std::fs::create_dir_all(repo.join("refs")).expect("a folder of references");
        std::fs::write(repo.join("refs/main"), commit).expect("a reference");
        for file in ["config.json", "tokenizer.json", "model.safetensors"].into_iter().filter(|f| *f != leave_out) {
            std::fs::copy(fixture("tale").join(file), snapshot.join(file)).expect("a copied file");
        }
        let list = parsed(&run(with_cache(cache.path(), ["models", "--json"])).answer());
        let entries = list.as_array().expect("a list").iter();
        let here = entries.filter(|entry| entry["cached"] == true && entry["name"] != "ember");
        here.map(|entry| text(&entry["name"]).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(cached("models--openai-community--gpt2", ""), ["gpt2"]);
    assert_eq!(cached("models--gpt2", ""), ["gpt2"]);
    assert_eq!(cached("models--somebody--gpt2", ""), [""; 0]);
    assert_eq!(cached("models--gpt2", "model.safetensors"), [""; 0]);
    assert_eq!(cached("models--gpt2", "tokenizer.json"), [""; 0]);
}

#[cfg(feature = "ember")]
#[test]
fn ember_writes_its_golden_text() {
    let (code, answer, stderr) = verified(&["ember"]);
    assert_eq!((code, &answer["identical"], stderr.as_str()), (Some(0), &json!(true), ""), "{answer}");
    assert_eq!(answer["found"], answer["expected"]);
    let plain = run(fireside(["verify-golden", "ember", "--threads", "1"])).answer();
    assert!(plain.starts_with("identical  40 tokens after `"), "{plain}");
}

/// `models/ember/golden.toml` is one of the texts that transformers made of the same weights.
#[cfg(feature = "ember")]
#[test]
fn embers_golden_text_is_that_of_transformers() {
    let expected = json("ember.json");
    let list = parsed(&models(&["--json"]));
    let golden = &list[0]["golden"];
    let full = format!("{}{}", text(&golden["prompt"]), text(&golden["output"]));
    let made = cases(&expected).iter().find(|case| case["prompt"] == golden["prompt"]);
    assert_eq!(text(&made.expect("a case with the prompt of models/ember/golden.toml")["text"]), full);
    assert_eq!(golden["max_new_tokens"], expected["max_new_tokens"]);
}

#[test]
fn another_model_does_not_write_the_golden_text() {
    let tale = model("tale");
    for name in ["gpt2", "openai-community/gpt2", "GPT2"] {
        let (code, answer, stderr) = verified(&[name, "--from", &tale]);
        assert_eq!((code, &answer["identical"]), (Some(1), &json!(false)), "{name}: {answer}");
        assert!(stderr.starts_with(&format!("error: `{name}` does not write its golden text")), "{stderr}");
    }
    let plain = run(fireside(["verify-golden", "gpt2", "--from", &tale]));
    assert_eq!(plain.code, Some(1));
    let rows: Vec<&str> = plain.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(rows, ["different", "expected", "found", "source"], "{}", plain.stdout);
    let half = run(fireside(["verify-golden", "mistral-7b-v0.1", "--from", &tale]));
    assert!(half.code == Some(1) && half.stderr.starts_with("warning: the published text was computed in f16"));
}

#[test]
fn a_name_without_a_golden_text_says_where_there_is_one() {
    let check = |name: &str, expected: &[&str]| {
        let outcome = run(fireside(["verify-golden", name]));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{name}");
        for part in expected {
            assert!(outcome.stderr.contains(part), "{name}: {part}: {}", outcome.stderr);
        }
    };
    check("tinyllama", &["no golden text of `tinyllama` is known", "ember, distilgpt2, gpt2, "]);
    check("gtp2", &["cannot find the model `gtp2`: no card has this name", "did you mean `gpt2`?"]);
    check("nothing-like-it", &["`fireside models` lists all"]);
    check("a\x1b[31m", &["`a\\u{1b}[31m`"]);
}
