//! Requests of all kinds in one batch: each gets what it gets alone, whatever becomes of its neighbours.

use fireside::{Engine, Error, Piece, Prompt, Sampling};

use crate::support::{copy_of, fixture, model, name_of};

fn tale() -> Engine {
    Engine::load(&model("tale")).expect("the fixture loads")
}

/// One request of each kind.
fn requests() -> Vec<(Prompt, Sampling)> {
    let base = Sampling { max_new_tokens: Some(40), ignore_eos: Some(true), ..Sampling::greedy() };
    let drawn = Sampling { do_sample: Some(true), temperature: Some(1.3), seed: Some(9), ..base.clone() };
    vec![
        (
            "The fox looked at Vera, and Vera looked at the fox. The fox".into(),
            Sampling { prompt_lookup_num_tokens: Some(10), ..base.clone() },
        ),
        ("There was once".into(), base.clone()),
        ("A king".into(), Sampling { num_return_sequences: Some(3), ..drawn.clone() }),
        ("The old".into(), Sampling { num_beams: Some(3), num_return_sequences: Some(2), ..base.clone() }),
        ("Every day the bright mouse wanted".into(), Sampling { prompt_lookup_num_tokens: Some(4), ..drawn.clone() }),
        (
            "Anna walked to the har".into(),
            Sampling { token_healing: Some(true), logprobs: Some(true), prompt_logprobs: Some(true), ..base.clone() },
        ),
        ("Snow lay on every roof.".into(), Sampling { num_beams: Some(2), seed: Some(4), ..drawn }),
        ("It took 60 steps".into(), base),
    ]
}

#[test]
fn requests_of_different_kinds_do_not_touch_each_other() {
    let mut engine = tale();
    let alone: Vec<_> = requests()
        .into_iter()
        .map(|(prompt, sampling)| engine.generate(prompt, sampling).unwrap().completions().unwrap())
        .collect();
    for rotation in 0..requests().len() {
        let mut together = requests();
        together.rotate_left(rotation);
        let outcomes = engine.generate_batch(together).unwrap().outcomes();
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let request = (i + rotation) % alone.len();
            let mut texts = outcome.unwrap();
            texts.iter_mut().for_each(|text| text.request = 0);
            assert_eq!(texts, alone[request], "request {request} behind {rotation} others");
        }
    }
}

#[test]
fn a_request_that_fails_leaves_its_neighbours_as_they_are() {
    let mut engine = tale();
    let vocab = engine.info().vocab_size as u32;
    let nothing = Sampling {
        suppress_tokens: Some((0..vocab).collect()),
        num_return_sequences: Some(2),
        do_sample: Some(true),
        ..Sampling::default()
    };
    let mut together = requests();
    let expected = engine.generate_batch(together.clone()).unwrap().completions().unwrap();
    together.insert(3, ("The end".into(), nothing));
    let mut outcomes = engine.generate_batch(together.clone()).unwrap().outcomes();
    let error = outcomes.remove(3).unwrap_err();
    assert!(
        matches!(&error, Error::Request { request: 3, error } if matches!(**error, Error::NothingLeft { step: 0 })),
        "{error}"
    );
    assert!(error.to_string().starts_with("prompt 4 of the batch: "), "{error}");
    for (text, expected) in outcomes.into_iter().flat_map(Result::unwrap).zip(expected) {
        assert_eq!((text.generated_text, text.tokens), (expected.generated_text, expected.tokens));
    }
    let items: Vec<Result<Piece, Error>> = engine.generate_batch(together).unwrap().collect();
    assert_eq!(items.iter().filter(|item| item.is_err()).count(), 1, "one error, and the others go on");
}

#[test]
fn a_request_that_cannot_begin_is_named_among_several() {
    let mut engine = tale();
    let impossible = Sampling { top_p: Some(0.0), ..Sampling::default() };
    let requests = [("a".into(), Sampling::greedy()), ("b".into(), impossible.clone())];
    let Err(error) = engine.generate_batch(requests) else { panic!("top_p 0 is impossible") };
    assert!(error.to_string().starts_with("prompt 2 of the batch: `top_p` is 0") && error.is_usage(), "{error}");
    let Err(error) = engine.generate("b", impossible) else { panic!("top_p 0 is impossible") };
    assert!(error.to_string().starts_with("`top_p` is 0"), "{error}");
}

#[test]
fn prompt_lookup_takes_fewer_steps_than_tokens() {
    let steps = |sampling: Sampling| {
        let mut generation = tale().generate("Anna carried a small lantern near the mill.", sampling).unwrap();
        let tokens = generation.completions().unwrap().remove(0).tokens;
        (tokens, generation.timings().decode_steps)
    };
    // A bias makes the text run in a circle, which a guess follows.
    let circle =
        Sampling { max_new_tokens: Some(100), logit_bias: Some(vec![(355, 40.0).into()]), ..Sampling::greedy() };
    let (tokens, plain) = steps(circle.clone());
    let (guessed, fewer) = steps(Sampling { prompt_lookup_num_tokens: Some(8), ..circle });
    assert_eq!((guessed, plain), (tokens, 99));
    assert!(fewer < 30, "{fewer} steps for 100 tokens");
}

#[test]
fn a_search_with_too_few_texts_returns_those_that_there_are() {
    let sampling = Sampling {
        num_beams: Some(3),
        num_return_sequences: Some(3),
        max_new_tokens: Some(1),
        forced_eos_token_id: Some(vec![5]),
        ..Sampling::greedy()
    };
    let texts = tale().generate("The fox", sampling).unwrap().completions().unwrap();
    assert_eq!(texts.iter().map(|text| text.tokens.clone()).collect::<Vec<_>>(), [[5]]);
}

#[test]
fn sampled_beams_are_drawn_and_not_the_best() {
    let search = |seed: Option<u64>| {
        let sampling = Sampling {
            num_beams: Some(3),
            do_sample: Some(seed.is_some()),
            temperature: seed.map(|_| 2.0),
            seed,
            max_new_tokens: Some(12),
            ..Sampling::default()
        };
        tale().generate("The old", sampling).unwrap().completions().unwrap().remove(0).tokens
    };
    let texts: std::collections::HashSet<_> = (0..6).map(|seed| search(Some(seed))).chain([search(None)]).collect();
    assert!(texts.len() >= 5, "seeds draw different texts: {texts:?}");
    assert_eq!(search(Some(3)), search(Some(3)));
}

#[test]
fn extreme_but_possible_settings_end_in_text() {
    let mut engine = tale();
    let base = Sampling { max_new_tokens: Some(60), ignore_eos: Some(false), seed: Some(1), ..Sampling::default() };
    let settings = [
        Sampling {
            exponential_decay_length_penalty: Some("1,30".parse().unwrap()),
            min_new_tokens: Some(50),
            ..base.clone()
        },
        Sampling { exponential_decay_length_penalty: Some("18446744073709551615,2".parse().unwrap()), ..base.clone() },
        Sampling { temperature: Some(1e-6), ..base.clone() },
        Sampling { temperature: Some(1e6), ..base.clone() },
        Sampling { repetition_penalty: Some(1e-6), temperature: Some(1e-6), ..base.clone() },
        Sampling {
            logit_bias: Some(vec![(5, 1e9).into(), (6, f64::NEG_INFINITY).into()]),
            temperature: Some(1e-6),
            ..base.clone()
        },
        Sampling { top_p: Some(1e-12), min_p: Some(1.0), typical_p: Some(1e-9), ..base },
    ];
    for sampling in settings {
        let texts = engine.generate("The fox", sampling.clone()).unwrap().completions();
        assert!(texts.as_ref().is_ok_and(|texts| !texts[0].tokens.is_empty()), "{sampling:?}: {texts:?}");
    }
    let certain = Sampling { logit_bias: Some(vec![(5, 1e9).into()]), max_new_tokens: Some(3), ..Sampling::default() };
    assert_eq!(engine.generate("The fox", certain).unwrap().completions().unwrap()[0].tokens, [5, 5, 5]);
}

#[test]
fn a_head_that_differs_from_the_embedding_is_used_and_told() {
    let folder = copy_of(&fixture("gpt2/untied"));
    crate::support::write_tokenizer(folder.path());
    let load = || Engine::load(&name_of(folder.path())).unwrap();
    let expected = load().logits(vec![1, 2, 3]).unwrap();
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["tie_word_embeddings"] = true.into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut engine = load();
    assert_eq!(engine.logits(vec![1, 2, 3]).unwrap(), expected);
    assert!(
        engine.warnings().iter().any(|warning| warning.contains("`tie_word_embeddings`")),
        "{:?}",
        engine.warnings()
    );
}

#[test]
fn bad_words_are_forbidden_at_a_words_start_and_inside() {
    let mut engine = tale();
    let plain = Sampling { max_new_tokens: Some(60), ignore_eos: Some(true), ..Sampling::greedy() };
    let text = engine
        .generate("Anna carried a small lantern near the mill.", plain.clone())
        .unwrap()
        .completions()
        .unwrap()
        .remove(0);
    let ids = |engine: &Engine, word: &str| engine.tokenizer().encode_plain(word).unwrap();
    let (spaced, bare) = (ids(&engine, " from"), ids(&engine, "from"));
    assert!(text.tokens.windows(spaced.len()).any(|run| run == spaced), "the word comes by itself");
    let forbidden = Sampling { bad_words: Some(vec!["from".to_owned()]), ..plain };
    let text = engine
        .generate("Anna carried a small lantern near the mill.", forbidden)
        .unwrap()
        .completions()
        .unwrap()
        .remove(0);
    for word in [spaced, bare] {
        assert!(!text.tokens.windows(word.len()).any(|run| run == word), "{}", text.generated_text);
    }
}

#[test]
fn engines_generations_and_errors_may_cross_threads() {
    fn crosses<T: Send>() {}
    crosses::<Engine>();
    crosses::<fireside::Generation>();
    crosses::<Error>();
    fn shared<T: Sync>() {}
    shared::<Engine>();
}
