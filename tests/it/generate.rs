//! Texts against transformers: greedy, processed, searched, healed, looked up; and sampling that repeats itself.

use fireside::{Completion, Engine, FinishReason, Piece, Prompt, Sampling};
use serde_json::{Value, json};

use crate::support::{cases, fixture, ids, json, model, tensor};

fn tale() -> Engine {
    Engine::load(&model("tale")).expect("the fixture loads")
}

/// transformers' settings as ours: the names are the same, and `generate()` is greedy unless told otherwise.
fn sampling(settings: &Value) -> Sampling {
    let mut settings = settings.clone();
    if settings.get("do_sample").is_none() {
        settings["do_sample"] = json!(false);
    }
    serde_json::from_value(settings.clone()).unwrap_or_else(|error| panic!("{settings}: {error}"))
}

fn complete(engine: &mut Engine, prompt: impl Into<Prompt>, sampling: Sampling) -> Vec<Completion> {
    engine.generate(prompt, sampling).and_then(|mut generation| generation.completions()).expect("a completion")
}

fn tokens(engine: &mut Engine, prompt: &[u32], sampling: Sampling) -> Vec<u32> {
    complete(engine, prompt.to_vec(), sampling).remove(0).tokens
}

#[test]
fn greedy_ids_are_those_of_transformers_over_256_tokens_on_100_prompts() {
    let prompts = json("greedy.json");
    let u32_of = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let (shape, expected) = tensor(&fixture("greedy.safetensors"), "new_ids", u32_of);
    assert_eq!(shape, [100, 256]);
    let greedy = Sampling { max_new_tokens: Some(256), ignore_eos: Some(true), ..Sampling::greedy() };
    let requests = cases(&prompts).iter().map(|case| (Prompt::Tokens(ids(&case["prompt_ids"])), greedy.clone()));
    let texts = tale().generate_batch(requests).unwrap().completions().unwrap();
    assert_eq!(texts.len(), 100);
    for (text, expected) in texts.iter().zip(expected.chunks_exact(256)) {
        assert_eq!(text.tokens, expected, "prompt {}", text.request);
    }
}

#[test]
fn every_setting_gives_the_ids_and_texts_of_transformers() {
    let fixture = json("generate.json");
    let mut engine = tale();
    let mut compared = 0;
    for case in cases(&fixture) {
        let name = case["name"].as_str().expect("a name");
        let mut settings = case["settings"].clone();
        if case["prompt"] == "" {
            continue; // transformers begins with <|endoftext|>; here an empty prompt is an error (bad_input.rs)
        }
        if settings == json!({}) {
            settings = json!({ "max_new_tokens": 20 }); // generate()'s own default, which the pipeline replaces
        }
        if settings.as_object_mut().and_then(|s| s.remove("handle_long_generation")).is_some() {
            settings["truncation"] = json!("left");
        }
        let prompt = match &case["prompt"] {
            Value::String(text) => Prompt::Text(text.clone()),
            _ => Prompt::Tokens(ids(&case["prompt_ids"])),
        };
        let healed = case.get("new_ids_with_spaces");
        if healed.is_some() && case["prompt"].as_str().is_some_and(|text| text.ends_with(' ')) {
            continue; // transformers strips the prompt before it heals it; we heal the spaces
        }
        let text = complete(&mut engine, prompt, sampling(&settings)).remove(0);
        assert_eq!(text.tokens, ids(healed.unwrap_or(&case["new_ids"])), "{name}: {settings}");
        if let Some(texts) = case.get("texts") {
            assert_eq!(text.generated_text, texts["full"].as_str().expect("text"), "{name}: {settings}");
            for (full, skip, key) in [(false, true, "new"), (false, false, "new_with_special")] {
                let sampling =
                    Sampling { return_full_text: Some(full), skip_special_tokens: Some(skip), ..sampling(&settings) };
                let text = complete(&mut engine, case["prompt"].as_str().expect("a prompt"), sampling).remove(0);
                assert_eq!(text.generated_text, texts[key].as_str().expect("text"), "{name}: {settings}");
            }
        }
        compared += 1;
    }
    assert!(compared >= 70, "{compared}");
}

#[test]
fn beam_search_returns_the_texts_and_scores_of_transformers() {
    let fixture = json("beams.json");
    let mut engine = tale();
    for (number, case) in cases(&fixture).iter().enumerate() {
        let texts = complete(&mut engine, ids(&case["prompt_ids"]), sampling(&case["settings"]));
        let expected: Vec<Vec<u32>> = serde_json::from_value(case["sequences"].clone()).expect("sequences");
        let found: Vec<Vec<u32>> = texts.iter().map(|text| text.tokens.clone()).collect();
        assert_eq!(found, expected, "case {number}: {}", case["settings"]);
        for (text, expected) in texts.iter().zip(case["sequences_scores"].as_array().expect("scores")) {
            let (found, expected) = (f64::from(text.score.expect("a score")), expected.as_f64().expect("a score"));
            assert!((found - expected).abs() < 1e-3, "case {number}: score {found}, expected {expected}");
        }
    }
}

#[test]
fn prompt_lookup_changes_the_speed_and_not_the_text() {
    let mut engine = tale();
    let repetitive = "The fox looked at Vera, and Vera looked at the fox. The fox looked at";
    for sampling in [
        Sampling::greedy(),
        Sampling { repetition_penalty: Some(1.3), ..Sampling::greedy() },
        Sampling { do_sample: Some(true), temperature: Some(0.3), seed: Some(5), ..Sampling::default() },
    ] {
        let plain = Sampling {
            max_new_tokens: Some(120),
            logprobs: Some(true),
            stop_strings: Some(vec!["zz".to_owned()]),
            ..sampling
        };
        let expected = complete(&mut engine, repetitive, plain.clone());
        for (guessed, ngram) in [(1, 1), (4, 2), (10, 3), (40, 1)] {
            let looked_up = Sampling {
                prompt_lookup_num_tokens: Some(guessed),
                max_matching_ngram_size: Some(ngram),
                ..plain.clone()
            };
            assert_eq!(complete(&mut engine, repetitive, looked_up), expected, "{guessed} tokens by {ngram}");
        }
    }
}

fn drawn(seed: u64) -> Sampling {
    Sampling {
        do_sample: Some(true),
        temperature: Some(1.1),
        top_k: Some(0),
        seed: Some(seed),
        max_new_tokens: Some(40),
        ignore_eos: Some(true),
        ..Sampling::default()
    }
}

#[test]
fn a_seed_gives_the_same_text_alone_in_a_batch_with_any_threads_and_streamed() {
    let prompts: Vec<String> = (0..8).map(|i| format!("Anna walked {} steps to the", "many ".repeat(i * 5))).collect();
    let mut engine = tale();
    let alone: Vec<Completion> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| complete(&mut engine, prompt.as_str(), drawn(i as u64)).remove(0))
        .collect();
    assert_eq!(
        alone.iter().map(|text| &text.tokens).collect::<std::collections::HashSet<_>>().len(),
        8,
        "seeds differ, and so do the texts"
    );
    for threads in [1, 2, 5] {
        for chunk in [1, 16, 256] {
            let mut engine = Engine::builder().threads(threads).prefill_chunk(chunk).load(&model("tale")).unwrap();
            let requests =
                prompts.iter().enumerate().map(|(i, prompt)| (Prompt::from(prompt.as_str()), drawn(i as u64)));
            let together = engine.generate_batch(requests).unwrap().completions().unwrap();
            for (together, alone) in together.iter().zip(&alone) {
                assert_eq!(
                    (&together.generated_text, &together.tokens),
                    (&alone.generated_text, &alone.tokens),
                    "{threads} threads, chunks of {chunk}"
                );
            }
        }
    }
    let pieces: Vec<Piece> = engine.generate(prompts[3].as_str(), drawn(3)).unwrap().map(Result::unwrap).collect();
    assert_eq!(prompts[3].clone() + &pieces.iter().map(Piece::to_string).collect::<String>(), alone[3].generated_text);
    assert_eq!(pieces.last().and_then(|piece| piece.finish), Some(FinishReason::Length));
}

#[test]
fn several_sequences_of_one_prompt_are_distinct_and_repeatable() {
    let mut engine = tale();
    let sampling = Sampling { num_return_sequences: Some(5), ..drawn(11) };
    let texts = complete(&mut engine, "There was once", sampling.clone());
    assert_eq!(texts.iter().map(|text| text.sequence).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(texts.iter().map(|text| &text.tokens).collect::<std::collections::HashSet<_>>().len(), 5);
    assert_eq!(complete(&mut engine, "There was once", sampling), texts);
    assert_eq!(
        complete(&mut engine, "There was once", drawn(11))[0].tokens,
        texts[0].tokens,
        "the first is the one that comes alone"
    );
}

/// The chance that a sample of a distribution is at least this far from it, by the Wilson-Hilferty approximation.
fn chi_square_z(observed: &[f64], expected: &[f64]) -> f64 {
    let degrees = (expected.len() - 1) as f64;
    let chi: f64 = observed.iter().zip(expected).map(|(o, e)| (o - e).powi(2) / e).sum();
    ((chi / degrees).cbrt() - (1.0 - 2.0 / (9.0 * degrees))) / (2.0 / (9.0 * degrees)).sqrt()
}

#[test]
fn the_sampler_draws_what_it_says() {
    const DRAWS: usize = 20_000;
    let mut engine = tale();
    let prompt = engine.tokenizer().encode("The old").unwrap();
    let logits = engine.logits(prompt.clone()).unwrap();
    let last = &logits[logits.len() - engine.info().vocab_size..];
    for (temperature, top_k) in [(1.0, 12), (0.7, 40), (2.5, 100)] {
        let mut order: Vec<usize> = (0..last.len()).collect();
        order.sort_by(|a, b| last[*b].total_cmp(&last[*a]));
        order.truncate(top_k);
        let weights: Vec<f64> =
            order.iter().map(|i| ((f64::from(last[*i]) - f64::from(last[order[0]])) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();

        let mut observed = vec![0.0; top_k];
        for round in 0..DRAWS / 1000 {
            let sampling = Sampling {
                do_sample: Some(true),
                temperature: Some(temperature),
                top_k: Some(top_k),
                seed: Some(7_000 + round as u64),
                num_return_sequences: Some(1000),
                max_new_tokens: Some(1),
                ..Sampling::default()
            };
            for text in complete(&mut engine, prompt.clone(), sampling) {
                let place = order.iter().position(|i| *i == text.tokens[0] as usize).expect("a token among the top k");
                observed[place] += 1.0;
            }
        }
        let expected: Vec<f64> = weights.iter().map(|weight| weight / total * DRAWS as f64).collect();
        // Rare tokens are pooled, as the test asks for at least five of each.
        let (mut pooled_o, mut pooled_e) = (vec![0.0], vec![0.0]);
        for (o, e) in observed.into_iter().zip(expected) {
            if e >= 5.0 {
                pooled_o.push(o);
                pooled_e.push(e);
            } else {
                pooled_o[0] += o;
                pooled_e[0] += e;
            }
        }
        if pooled_e[0] < 5.0 {
            pooled_o.remove(0);
            pooled_e.remove(0);
        }
        let z = chi_square_z(&pooled_o, &pooled_e);
        assert!(z < 4.0, "temperature {temperature}, top_k {top_k}: {z} standard deviations off");
    }
}

#[test]
fn presence_and_frequency_penalties_are_subtracted_for_generated_tokens_only() {
    let mut engine = tale();
    let prompt = engine.tokenizer().encode("The fox and the owl and the fox").unwrap();
    let check = |engine: &mut Engine, presence: f32, frequency: f32| {
        let sampling = Sampling {
            presence_penalty: Some(presence.into()),
            frequency_penalty: Some(frequency.into()),
            max_new_tokens: Some(30),
            ignore_eos: Some(true),
            ..Sampling::greedy()
        };
        let found = tokens(engine, &prompt, sampling);
        // The definition of OpenAI's API, step by step on the raw logits.
        let mut ids = prompt.clone();
        for token in &found {
            let logits = engine.logits(ids.clone()).unwrap();
            let mut row = logits[logits.len() - engine.info().vocab_size..].to_vec();
            for (id, score) in row.iter_mut().enumerate() {
                let count = ids[prompt.len()..].iter().filter(|seen| **seen as usize == id).count() as f32;
                *score -= count * frequency + if count > 0.0 { presence } else { 0.0 };
            }
            let best = row.iter().enumerate().fold(0, |best, (i, score)| if *score > row[best] { i } else { best });
            assert_eq!(*token as usize, best, "presence {presence}, frequency {frequency}");
            ids.push(*token);
        }
    };
    check(&mut engine, 3.0, 0.0);
    check(&mut engine, 0.0, 1.5);
    check(&mut engine, -2.0, 0.7);
}

#[test]
fn logprobs_are_those_of_the_raw_distribution_for_prompt_and_text() {
    let mut engine = tale();
    let prompt = engine.tokenizer().encode("Anna walked to the").unwrap();
    let sampling = Sampling {
        logprobs: Some(true),
        top_logprobs: Some(3),
        prompt_logprobs: Some(true),
        max_new_tokens: Some(12),
        repetition_penalty: Some(1.5),
        ..Sampling::greedy()
    };
    let mut generation = engine.generate(prompt.clone(), sampling).unwrap();
    let text = generation.completions().unwrap().remove(0);
    let all: Vec<_> = generation.prompt_logprobs(0).iter().chain(&text.logprobs).cloned().collect();
    let ids = [prompt, text.tokens].concat();
    assert_eq!(all.iter().map(|entry| entry.token).collect::<Vec<_>>(), ids);
    assert_eq!(all[0].logprob, None, "nothing stands before the first token");
    let score = engine.score(ids, fireside::ScoreOptions { top_logprobs: 3, ..Default::default() }).unwrap();
    assert_eq!(all, score.tokens, "generation and scoring say the same, bit for bit");
    assert!(all[1..].iter().all(|entry| entry.top.len() == 3 && entry.top[0].1 >= entry.top[1].1));
}

#[test]
fn cancelling_from_another_thread_ends_the_iterator() {
    let mut engine = tale();
    let sampling = Sampling { max_new_tokens: Some(400), ignore_eos: Some(true), ..Sampling::greedy() };
    let mut generation = engine.generate("There was once", sampling).unwrap();
    let handle = generation.cancel_handle();
    assert!(generation.next().is_some());
    std::thread::spawn(move || handle.cancel()).join().unwrap();
    assert!(generation.next().is_none());
    let text = engine
        .generate_with("There was once", Sampling::greedy(), |_| std::ops::ControlFlow::Break(()))
        .unwrap()
        .remove(0);
    assert_eq!((text.tokens.len(), text.finish_reason), (1, FinishReason::Cancelled));
}

#[test]
fn engines_are_send_and_live_side_by_side() {
    let expected = complete(&mut tale(), "The fox", Sampling::greedy()).remove(0).generated_text;
    let threads: Vec<_> = (0..3)
        .map(|i| {
            let mut engine = if i == 0 { Engine::builder().threads(1).load(&model("tale")).unwrap() } else { tale() };
            std::thread::spawn(move || complete(&mut engine, "The fox", Sampling::greedy()).remove(0).generated_text)
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }
}

#[test]
fn time_runs_out_after_a_token_and_not_before() {
    let sampling = Sampling { max_time: Some(1e-6), max_new_tokens: Some(100), ..Sampling::greedy() };
    let text = complete(&mut tale(), "The fox", sampling).remove(0);
    assert_eq!((text.tokens.len(), text.finish_reason), (1, FinishReason::Time));
}
