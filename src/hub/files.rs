//! Which files of a repository a model needs, and no others: config, tokenizer, chat template, defaults, card, weights.
//!
//! Weights are safetensors, one file or the shards that an index names. Pickles can run code when they are read, so they
//! are never chosen.

use std::collections::BTreeSet;
use std::path::Path;

use super::name::{HubName, RepoPath, Selection};
use crate::error::{Error, HubFailure, Result, quote};
use crate::source::{PartName, is_a_model, is_gguf};

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// Small files beside config.json, in the order in which a model's reader asks for them. A repository has some of them.
pub(crate) const BESIDE: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
];

/// True for a file of further chat templates.
pub(crate) fn is_template(file: &RepoPath) -> bool {
    let name = file.as_str().strip_prefix("additional_chat_templates/").and_then(|name| name.strip_suffix(".jinja"));
    name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// The weight files of a selection, before an index is read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    Single(RepoPath),
    /// The index, which names its shards.
    Index(RepoPath),
    /// Files that the user asked for by name.
    Named(Vec<RepoPath>),
}

/// Finds the weights of what the user named among a repository's files.
pub(crate) fn weights(name: &HubName, files: &[RepoPath]) -> Result<Weights> {
    let has = |wanted: &str| files.iter().find(|file| file.as_str() == wanted).cloned();
    let repo = quote(name.repo.as_str());
    match &name.selection {
        Selection::Weights => match (has(SINGLE), has(INDEX)) {
            (Some(single), _) => Ok(Weights::Single(single)),
            (None, Some(index)) => Ok(Weights::Index(index)),
            (None, None) => match &models_in(files)[..] {
                [one] => Ok(Weights::Named(one.clone())),
                _ => Err(no_safetensors(&repo, files)),
            },
        },
        Selection::File(file) if files.contains(file) => Ok(Weights::Named(parts_of(file, files))),
        Selection::File(file) => Err(Error::hub(
            HubFailure::NotFound,
            format!("{repo} has no file {}", quote(file.as_str())),
            listing("its weights are", files.iter().filter(|file| is_weights(file))),
        )),
        Selection::Quantised(quantisation) => {
            let ggufs: Vec<&RepoPath> = files.iter().filter(|file| is_gguf_model(file)).collect();
            let mut found = models_in(files);
            found.retain(|parts| parts.iter().any(|file| is_quantised_as(file, quantisation)));
            match &found[..] {
                [one] => Ok(Weights::Named(one.clone())),
                [] => Err(Error::hub(
                    HubFailure::NotFound,
                    format!("{repo} has no GGUF file of the quantisation {}", quote(quantisation)),
                    listing("its GGUF files are", ggufs.into_iter()),
                )),
                _ => Err(Error::hub(
                    HubFailure::Name,
                    format!("{repo} has several GGUF files of the quantisation {}", quote(quantisation)),
                    listing("name one of", found.iter().filter_map(|parts| parts.first())),
                )),
            }
        }
    }
}

/// The shards that an index names, each once and in order.
pub(crate) fn shards(index: &Path, text: &str) -> Result<Vec<RepoPath>> {
    let bad = |problem: String| Error::file(index, problem, "the repository's index is damaged");
    let json: serde_json::Value = serde_json::from_str(text).map_err(|error| bad(format!("expected JSON: {error}")))?;
    let map = json.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| bad("expected an object `weight_map`, found none".to_owned()))?;
    let mut shards = BTreeSet::new();
    for (tensor, shard) in map {
        let plain = |name: &RepoPath| name.as_str().ends_with(".safetensors") && !name.as_str().contains('/');
        let name = shard.as_str().and_then(RepoPath::new).filter(plain);
        let name = name.ok_or_else(|| {
            bad(format!("expected a .safetensors file for {}, found {}", quote(tensor), quote(&shard.to_string())))
        })?;
        shards.insert(name);
    }
    Ok(shards.into_iter().collect())
}

/// Files that fit one of the patterns, in which `*` stands for any text and `?` for one character.
pub(crate) fn matching(patterns: &[String], files: &[RepoPath]) -> Vec<RepoPath> {
    files.iter().filter(|file| patterns.iter().any(|pattern| fits(pattern, file.as_str()))).cloned().collect()
}

fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut star = None; // where the last `*` was, and how far its text went
    while t < text.len() {
        if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == text[t]) {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, end)) = star {
            star = Some((at, end + 1));
            (p, t) = (at + 1, end + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// A file with all parts of its split: `m-00001-of-00003.gguf` brings the other two.
fn parts_of(file: &RepoPath, files: &[RepoPath]) -> Vec<RepoPath> {
    let whole = |file: &RepoPath| PartName::of(file.as_str()).map(|name| (name.base.to_owned(), name.parts));
    match whole(file) {
        Some(own) => files.iter().filter(|other| whole(other).as_ref() == Some(&own)).cloned().collect(),
        None => vec![file.clone()],
    }
}

/// The models in GGUF files, each with its parts in order.
pub(crate) fn models_in(files: &[RepoPath]) -> Vec<Vec<RepoPath>> {
    let ggufs = files.iter().filter(|file| is_gguf_model(file));
    let mut models: Vec<Vec<RepoPath>> = ggufs.map(|file| parts_of(file, files)).collect();
    models.iter_mut().for_each(|parts| parts.sort());
    models.sort();
    models.dedup();
    models
}

/// Whether a repository's model is in GGUF files and nowhere else.
pub(crate) fn is_gguf_alone(files: &[RepoPath]) -> bool {
    let has = |wanted: &str| files.iter().any(|file| file.as_str() == wanted);
    !has(SINGLE) && !has(INDEX) && !models_in(files).is_empty()
}

/// True where a file's name states the quantisation: `model-Q4_K_M.gguf` and `model.q4_k_m-00001-of-00002.gguf`.
fn is_quantised_as(file: &RepoPath, quantisation: &str) -> bool {
    let (name, wanted) = (file.as_str().to_ascii_uppercase(), quantisation.to_ascii_uppercase());
    name.match_indices(&wanted).any(|(at, _)| {
        let open = |c: Option<char>| c.is_none_or(|c| matches!(c, '-' | '.' | '/'));
        open(name[..at].chars().next_back()) && open(name[at + wanted.len()..].chars().next())
    })
}

fn is_gguf_model(file: &RepoPath) -> bool {
    is_gguf(file.as_str()) && is_a_model(file.as_str())
}

fn is_weights(file: &RepoPath) -> bool {
    file.as_str().ends_with(".safetensors") || is_gguf_model(file)
}

fn no_safetensors(repo: &str, files: &[RepoPath]) -> Error {
    let ggufs = files.iter().filter(|file| is_gguf_model(file));
    let pickles: Vec<&RepoPath> =
        files.iter().filter(|file| file.as_str().ends_with(".bin") || file.as_str().ends_with(".pth")).collect();
    let found = match (ggufs.clone().next(), pickles.first()) {
        (Some(_), _) => "found several GGUF files",
        (None, Some(_)) => "found only pickles, which can run code when they are read",
        (None, None) => "found no weights",
    };
    let hint = if ggufs.clone().next().is_some() {
        listing("name one of", ggufs)
    } else {
        "look for a copy with safetensors, or convert the model with transformers' `save_pretrained`".to_owned()
    };
    Error::hub(HubFailure::NotFound, format!("expected `{SINGLE}` or `{INDEX}` in {repo}, {found}"), hint)
}

fn listing<'a>(lead: &str, files: impl Iterator<Item = &'a RepoPath>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<&str> = files.map(RepoPath::as_str).collect();
    if names.is_empty() {
        return String::new();
    }
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{lead} {}{more}", names.iter().take(SHOWN).map(|name| quote(name)).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<RepoPath> {
        names.iter().map(|name| RepoPath::new(name).unwrap()).collect()
    }

    #[test]
    fn a_name_finds_its_weights() {
        let files = paths(&[
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "m-Q4_K_M.gguf",
            "m-Q4_K_S.gguf",
            "m-Q8_0-00001-of-00002.gguf",
            "m-Q8_0-00002-of-00002.gguf",
            "sub/m.q5_0.gguf",
            "CAPITALS-Q6_K-00001-of-00002.GGUF",
            "CAPITALS-Q6_K-00002-of-00002.GGUF",
            "MMPROJ-Q6_K.GGUF",
        ]);
        let check = |name: &str, expected: &[&str]| {
            let found = weights(&name.parse().unwrap(), &files).unwrap();
            let expected = match expected {
                [INDEX] => Weights::Index(RepoPath::new(INDEX).unwrap()),
                names => Weights::Named(paths(names)),
            };
            assert_eq!(found, expected, "{name}");
        };
        check("a/b", &[INDEX]);
        check("a/b:Q4_K_M", &["m-Q4_K_M.gguf"]);
        check("a/b:q4_k_s", &["m-Q4_K_S.gguf"]);
        check("a/b:Q8_0", &["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]);
        check("a/b:Q5_0", &["sub/m.q5_0.gguf"]);
        check("a/b:q6_k", &["CAPITALS-Q6_K-00001-of-00002.GGUF", "CAPITALS-Q6_K-00002-of-00002.GGUF"]);
        check("a/b/sub/m.q5_0.gguf", &["sub/m.q5_0.gguf"]);
        for name in ["a/b:Q4_K", "a/b:Q2_K", "a/b/none.gguf"] {
            assert!(weights(&name.parse().unwrap(), &files).is_err(), "{name}");
        }
        let error = weights(&"a/b".parse().unwrap(), &paths(&["pytorch_model.bin"])).unwrap_err();
        assert!(error.to_string().contains("pickles"), "{error}");
    }

    #[test]
    fn an_index_may_name_only_files_of_its_repository() {
        let shards = |json: &str| shards(Path::new("i.json"), json);
        let sound = r#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}}"#;
        assert_eq!(shards(sound).unwrap(), paths(&["m-1.safetensors", "m-2.safetensors"]));
        for json in [
            "",
            "[]",
            "{}",
            r#"{"weight_map": []}"#,
            r#"{"weight_map": {"a": 1}}"#,
            r#"{"weight_map": {"a": "../x.safetensors"}}"#,
            r#"{"weight_map": {"a": "/x.safetensors"}}"#,
            r#"{"weight_map": {"a": "x.bin"}}"#,
        ] {
            assert!(shards(json).is_err(), "{json}");
        }
    }

    #[test]
    fn further_chat_templates_lie_in_their_folder() {
        let check = |name: &str, expected| assert_eq!(is_template(&RepoPath::new(name).unwrap()), expected, "{name}");
        check("additional_chat_templates/tool_use.jinja", true);
        check("additional_chat_templates/a/b.jinja", false);
        check("additional_chat_templates/.jinja", false);
        check("additional_chat_templates/notes.txt", false);
        check("chat_template.jinja", false);
    }

    #[test]
    fn patterns_stand_for_names() {
        let files = paths(&["config.json", "model.safetensors", "onnx/model.onnx"]);
        let check = |pattern: &str, expected: &[&str]| {
            assert_eq!(matching(&[pattern.to_owned()], &files), paths(expected), "{pattern}");
        };
        check("*", &["config.json", "model.safetensors", "onnx/model.onnx"]);
        check("*.json", &["config.json"]);
        check("model.*", &["model.safetensors"]);
        check("onnx/*", &["onnx/model.onnx"]);
        check("config.jso?", &["config.json"]);
        check("none", &[]);
    }
}
