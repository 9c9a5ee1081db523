//! Perplexity against transformers' recipe for texts longer than the context.

use fireside::{Engine, Prompt, ScoreOptions};

use crate::support::{cases, ids, json, model};

#[test]
fn perplexity_is_that_of_transformers_for_every_window_and_stride() {
    let fixture = json("perplexity.json");
    let all = ids(&fixture["ids"]);
    let mut engine = Engine::load(&model("tale")).unwrap();
    for case in cases(&fixture) {
        let number = |key: &str| case[key].as_u64().expect("a number") as usize;
        let (window, stride, total) = (number("window"), number("stride"), number("total_tokens"));
        let options = ScoreOptions { window: Some(window), stride: Some(stride), ..Default::default() };
        let score = engine.score(Prompt::Tokens(all[..total].to_vec()), options).unwrap();
        let expected = &case["exact"];
        assert_eq!(
            score.scored_tokens as u64,
            expected["tokens"].as_u64().expect("a number"),
            "window {window}, stride {stride}"
        );
        let relative = score.perplexity / expected["perplexity"].as_f64().expect("a number") - 1.0;
        assert!(relative.abs() < 1e-4, "window {window}, stride {stride}: off by {relative}");
    }
}

#[test]
fn bits_per_byte_are_the_nats_over_the_bytes() {
    let mut engine = Engine::load(&model("tale")).unwrap();
    let text = "The fox and the owl walked to the harbour — 世界.";
    let score = engine.score(text, ScoreOptions::default()).unwrap();
    let nats: f64 = score.tokens.iter().filter_map(|token| token.logprob).map(|logprob| -f64::from(logprob)).sum();
    assert!((score.bits_per_byte - nats / 2f64.ln() / text.len() as f64).abs() < 1e-9);
}
