//! Every switch that transformers knows, in every architecture: a config.json that says something else gives other logits,
//! those of transformers, or the same, or is refused by name. Nothing that counts is ignored in silence.

use std::path::Path;

use fireside::{Engine, Prompt};
use serde_json::Value;

use crate::support::{cases, copy_of, fixture, ids, json, name_of, write_tokenizer};

/// Keys whose values transformers checks and makes no use of where we make none.
const CHECKED_ALONE: &str = "layer_types";

/// What we take at its word and transformers passes over, since it knows it by another name; older versions took it too.
const TAKEN_AT_ITS_WORD: (&str, &str) = ("gpt_neox", "rope_theta");

/// What comes of a model whose config.json has one key set.
fn changed(folder: &Path, original: &Value, key: &str, value: &Value, prompt: &[u32]) -> Result<Vec<f32>, String> {
    let mut config = original.clone();
    let place = if config["text_config"].is_object() { &mut config["text_config"] } else { &mut config };
    place[key] = value.clone();
    std::fs::write(folder.join("config.json"), config.to_string()).expect("a written config");
    let engine = Engine::builder().threads(1).load(&name_of(folder));
    let logits = engine.and_then(|mut engine| engine.logits(Prompt::Tokens(prompt.to_vec())));
    logits.map_err(|error| error.to_string())
}

#[test]
fn no_switch_of_any_architecture_is_ignored_in_silence() {
    let fixture_of_switches = json("switches.json");
    let prompt = ids(&fixture_of_switches["ids"]);
    let sampled = ids(&fixture_of_switches["sampled"]);
    let mut problems = Vec::new();
    for case in cases(&fixture_of_switches) {
        let name = case["model"].as_str().expect("a name");
        let folder = copy_of(&fixture(&format!("long/{name}")));
        write_tokenizer(folder.path());
        let original = json(&format!("long/{name}/config.json"));
        let default = changed(folder.path(), &original, "torch_dtype", &Value::Null, &prompt).expect("the model");
        let shown = |logits: &[f32]| -> Vec<f32> {
            let last = &logits[logits.len() - default.len() / prompt.len()..];
            sampled.iter().map(|id| last[*id as usize]).collect()
        };
        let far = |logits: &[f32], expected: &Value| {
            let expected: Vec<f32> = serde_json::from_value(expected.clone()).expect("logits");
            shown(logits).iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert!(far(&default, &case["default"]) < 2e-4, "{name}");
        for (kind, change) in ["same", "refused", "other"]
            .into_iter()
            .flat_map(|kind| case[kind].as_array().into_iter().flatten().map(move |change| (kind, change)))
        {
            let (key, value) = (change[0].as_str().expect("a key"), &change[1]);
            let found = changed(folder.path(), &original, key, value, &prompt);
            let is_as_before = found.as_ref().is_ok_and(|logits| *logits == default);
            let other_name = if key == "rope_scaling" { "rope_parameters" } else { key };
            let names = |message: &str| {
                [key, other_name].iter().any(|key| message.contains(&format!("`{key}`"))) || message.contains("tensor ")
            };
            let problem = match (kind, &found) {
                ("refused", Err(_)) => continue,
                (_, Err(message)) if names(message) => continue,
                ("refused", Ok(_)) if is_as_before && key == CHECKED_ALONE => continue,
                ("same", Ok(_)) if is_as_before || (name, key) == TAKEN_AT_ITS_WORD => continue,
                ("other", Ok(logits)) if far(logits, &change[2]) < 2e-4 => continue,
                (_, Ok(_)) if is_as_before => "ignored".to_owned(),
                ("other", Ok(logits)) => format!("off by {}", far(logits, &change[2])),
                (_, Ok(_)) => "read".to_owned(),
                (_, Err(message)) => message.clone(),
            };
            problems.push(format!("{name}, {kind} in transformers, `{key}` {value}: {problem}"));
        }
    }
    assert!(problems.is_empty(), "{}:\n{}", problems.len(), problems.join("\n"));
}
