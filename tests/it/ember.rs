//! The embedded model: what transformers makes of the same weights, and the script that trains it.

use std::process::Command;

use fireside::{Engine, Sampling, ScoreOptions};

use crate::support::{cases, fixture, json};

#[test]
fn bits_per_byte_of_a_page_it_never_saw_are_those_of_transformers() {
    let expected = json("ember.json");
    let page = std::fs::read_to_string(fixture("ember/page.txt")).unwrap();
    let mut engine = Engine::load("ember").unwrap();
    let options = ScoreOptions { window: Some(256), stride: Some(128), ..Default::default() };
    let score = engine.score(page, options).unwrap();
    assert_eq!(score.scored_tokens as u64, expected["tokens"].as_u64().unwrap());
    let bits = expected["bits_per_byte"].as_f64().unwrap();
    assert!((score.bits_per_byte / bits - 1.0).abs() < 1e-4, "{}, expected {bits}", score.bits_per_byte);
}

#[test]
fn greedy_texts_are_those_of_transformers() {
    let expected = json("ember.json");
    let mut engine = Engine::load("ember").unwrap();
    let new = expected["max_new_tokens"].as_u64().unwrap() as usize;
    for case in cases(&expected) {
        let sampling = Sampling { max_new_tokens: Some(new), ..Sampling::greedy() };
        let mut generation = engine.generate(case["prompt"].as_str().unwrap(), sampling).unwrap();
        assert_eq!(generation.completions().unwrap()[0].generated_text, case["text"].as_str().unwrap());
    }
}

/// Needs a Python with torch, so it runs where one is named: `FIRESIDE_TORCH_PYTHON=python3 cargo test --release ember`.
#[test]
fn a_few_steps_of_training_lower_the_loss_and_write_a_model_that_loads() {
    let Some(python) = std::env::var_os("FIRESIDE_TORCH_PYTHON") else {
        eprintln!("SKIPPED: set FIRESIDE_TORCH_PYTHON to a Python that has torch, numpy, tokenizers and safetensors");
        return;
    };
    let folder = tempfile::TempDir::new().unwrap();
    let page = std::fs::read_to_string(fixture("ember/page.txt")).unwrap();
    std::fs::write(folder.path().join("train.txt"), page.repeat(4)).unwrap();
    std::fs::write(folder.path().join("valid.txt"), &page).unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/models/ember/train.py");
    let flags =
        "--vocab 300 --context 32 --width 32 --layers 1 --heads 2 --batch 4 --warmup 5 --tokens 12800 --threads 1";
    let output = Command::new(python)
        .arg(script)
        .args(flags.split(' '))
        .args([
            "--corpus".as_ref(),
            folder.path(),
            "--work".as_ref(),
            &folder.path().join("work"),
            "--out".as_ref(),
            &out,
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let curve = std::fs::read_to_string(out.join("loss.csv")).unwrap();
    let column = curve
        .lines()
        .next()
        .unwrap()
        .split(',')
        .position(|name| name == "train_nats_per_token")
        .expect("a column of losses");
    let losses: Vec<f64> =
        curve.lines().skip(1).map(|row| row.split(',').nth(column).unwrap().parse().unwrap()).collect();
    assert!(losses.len() >= 3 && losses[losses.len() - 1] < losses[0] - 0.5, "{losses:?}");
    let mut trained = Engine::load(out.to_str().unwrap()).unwrap();
    assert_eq!(trained.info().context, 32);
    assert!(trained.generate("High above", Sampling::greedy()).unwrap().next().unwrap().is_ok());
}
