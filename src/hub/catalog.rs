//! The cards of `models/*.toml`: models with a short name, one file each, read into the program.
//!
//! A card says where a model is, what it is and, where such a text is published, what it writes. A new one is a file
//! and its name in the list at the end. Nothing here opens a connection or looks at the cache.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What is known of a model before any of its files is here.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// The short name, which is the file's.
    pub name: String,
    /// The model in a line.
    pub title: String,
    /// The repository on the Hub.
    pub repo: String,
    /// Other names under which a cache may hold the same repository.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The branch, tag or commit that the name stands for.
    pub revision: String,
    /// The commit that `revision` was at when the card was written: the one that its figures are of.
    pub commit: Option<String>,
    /// `model_type` of config.json.
    pub architecture: String,
    /// The licence as the Hub names it.
    pub license: String,
    /// Whether the model's page has terms to accept first.
    pub gated: bool,
    /// Numbers that were learnt, each counted once.
    pub parameters: u64,
    /// Bytes of the weight files.
    pub bytes: Option<u64>,
    /// How the weights are stored: `f32`, `f16` or `bf16`.
    pub dtype: String,
    /// The files that make the model; `*` stands for digits.
    pub files: Vec<String>,
    /// config.json's fields of the sizes of its layers.
    pub shape: Option<Map<String, Value>>,
    /// A published text of the model.
    pub golden: Option<Golden>,
}

/// A prompt and what the model adds to it by likelihood alone.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// What is given.
    pub prompt: String,
    /// What follows it.
    pub output: String,
    /// How many tokens `output` has, where no end of text comes first.
    pub max_new_tokens: usize,
    /// Beams of the search, where there are several.
    pub num_beams: Option<usize>,
    /// What the published text was computed in: `f32`, `f16` or `bf16`.
    pub computed_in: String,
    /// Where it is published.
    pub source: String,
}

/// Every card, in the order of the list: families together, small before large.
pub(crate) fn cards() -> &'static [Card] {
    static CARDS: LazyLock<Vec<Card>> = LazyLock::new(|| {
        TEXTS.iter().map(|text| toml::from_str(text).expect("a card of this program, which its tests read")).collect()
    });
    &CARDS
}

/// The card with a short name, in any case of letters.
pub(crate) fn find(name: &str) -> Option<&'static Card> {
    cards().iter().find(|card| card.name.eq_ignore_ascii_case(name))
}

/// The short name that was probably meant.
pub(crate) fn closest(name: &str) -> Option<&'static str> {
    const LONGEST: usize = 64; // characters; a longer name is no slip of the finger
    let wanted = letters(name);
    if wanted.is_empty() || wanted.len() > LONGEST {
        return None;
    }
    let nearest = cards().iter().map(|card| (distance(&wanted, &letters(&card.name)), card)).min_by_key(|near| near.0);
    let (edits, card) = nearest?;
    let slip = edits == 0 || edits <= 2 && edits * 3 < wanted.len() || edits == 1 && wanted.len() == 3;
    let begins = || cards().iter().find(|card| wanted.len() >= 3 && letters(&card.name).starts_with(&wanted[..]));
    if slip { Some(&card.name) } else { begins().map(|card| card.name.as_str()) }
}

/// A name's letters and digits: `Llama3.2-1B` and `llama-3.2-1b` are one.
fn letters(name: &str) -> Vec<char> {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Characters to add, drop, change or swap with their neighbour, at the least (Damerau 1964, one edit a place).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut edits = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                edits = edits.min(rows[i - 2][j - 2] + 1);
            }
            row.push(edits);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// `NAMES` and `TEXTS` of the files `models/<name>.toml`.
macro_rules! texts_of {
    ($($name:literal)*) => {
        /// The cards' short names.
        #[cfg(test)]
        const NAMES: &[&str] = &[$($name),*];
        /// The cards as they are written.
        const TEXTS: &[&str] = &[$(include_str!(concat!("../../models/", $name, ".toml"))),*];
    };
}

texts_of! {
    "distilgpt2" "gpt2" "gpt2-medium" "gpt2-large" "gpt2-xl"
    "pythia-70m" "pythia-160m" "pythia-410m" "pythia-410m-deduped"
    "smollm2-135m" "smollm2-135m-instruct" "smollm2-360m" "smollm2-360m-instruct" "smollm2-1.7b" "smollm2-1.7b-instruct"
    "tinyllama"
    "qwen2.5-0.5b" "qwen2.5-0.5b-instruct" "qwen2.5-1.5b" "qwen2.5-1.5b-instruct" "qwen2.5-3b" "qwen2.5-3b-instruct"
    "qwen3-0.6b" "qwen3-0.6b-base" "qwen3-1.7b" "qwen3-4b"
    "llama-3.2-1b" "llama-3.2-1b-instruct" "llama-3.2-3b" "llama-3.2-3b-instruct"
    "gemma-3-270m" "gemma-3-270m-it" "gemma-3-1b" "gemma-3-1b-it"
    "phi-2" "phi-3-mini"
    "mistral-7b" "mistral-7b-instruct" "mistral-7b-v0.1"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_a_card_under_its_own_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("the folder of cards")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .filter_map(|file| file.strip_suffix(".toml").map(str::to_owned))
            .collect();
        let listed: BTreeSet<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(files, listed);
        assert_eq!(listed.len(), NAMES.len(), "no name twice");
        let names: Vec<&str> = cards().iter().map(|card| card.name.as_str()).collect();
        assert_eq!(names, NAMES);
    }

    #[test]
    fn what_a_card_says_is_plausible() {
        let model_types = ["gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "phi", "phi3", "qwen2", "qwen3"];
        let mut repos = BTreeSet::new();
        for card in cards() {
            let name = &card.name;
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c)), "{name}");
            assert_eq!(card.repo.split('/').count(), 2, "{name}: {}", card.repo);
            for id in card.aliases.iter().chain([&card.repo]) {
                let plain = |part: &str| {
                    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
                };
                assert!(id.split('/').count() <= 2 && id.split('/').all(plain), "{name}: {id}");
                assert!(repos.insert(id), "{name}: {id} is another card's");
            }
            assert_eq!(card.revision, "main", "{name}");
            if let Some(commit) = &card.commit {
                assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{name}: {commit}");
            }
            assert!(model_types.contains(&card.architecture.as_str()), "{name}: {}", card.architecture);
            assert!(["f32", "f16", "bf16"].contains(&card.dtype.as_str()), "{name}: {}", card.dtype);
            assert!(!card.title.is_empty() && !card.title.ends_with('.') && !card.license.is_empty(), "{name}");
            // What is stored more than once or is no parameter: a head that is tied, masks of attention.
            let least = card.parameters * if card.dtype == "f32" { 4 } else { 2 };
            let bytes = card.bytes.unwrap_or(least);
            assert!(least <= bytes && bytes as f64 <= least as f64 * 1.3, "{name}: {bytes} bytes for {least}");
            for file in ["config.json", "tokenizer.json"] {
                assert!(card.files.iter().any(|listed| listed == file), "{name}: {file}");
            }
            assert!(card.files.iter().any(|file| file.ends_with(".safetensors")), "{name}");
            if let Some(golden) = &card.golden {
                assert!(!golden.prompt.is_empty() && !golden.output.is_empty(), "{name}");
                assert!(golden.source.starts_with("https://"), "{name}: {}", golden.source);
                assert!(
                    golden.output.chars().count() >= golden.max_new_tokens,
                    "{name}: a token is a character or more"
                );
            }
        }
        assert!(cards().iter().filter(|card| card.golden.is_some()).count() >= 5);
    }

    #[test]
    fn a_card_is_found_by_its_name() {
        assert_eq!(find("gpt2").expect("a card").repo, "openai-community/gpt2");
        assert_eq!(find("GPT2-XL").expect("a card").name, "gpt2-xl");
        assert!(find("gpt").is_none() && find("openai-community/gpt2").is_none() && find("").is_none());
    }

    #[test]
    fn a_slip_of_the_finger_is_seen_and_nothing_is_guessed() {
        let check = |name: &str, expected: Option<&str>| assert_eq!(closest(name), expected, "{name}");
        check("gtp2", Some("gpt2"));
        check("gpt-2", Some("gpt2"));
        check("gpt2medium", Some("gpt2-medium"));
        check("distillgpt2", Some("distilgpt2"));
        check("Llama3.2:1b", Some("llama-3.2-1b"));
        check("qwen25-0.5b", Some("qwen2.5-0.5b"));
        check("mistral", Some("mistral-7b"));
        check("mistal-7b", Some("mistral-7b"));
        check("smollm", Some("smollm2-135m"));
        for name in ["", "x", "bert", "ember", "stories", "🔥🔥🔥🔥", &"gpt2".repeat(100)] {
            check(name, None);
        }
    }
}
