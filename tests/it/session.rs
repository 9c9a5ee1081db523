//! Sessions: what the text before left in the cache is not computed again, and changes nothing.

use fireside::{CacheType, Completion, Engine, Generation, Prompt, Sampling, Session};

use crate::support::{copy_of, fixture, model, name_of, write_tokenizer};

const STORY: &str = "There was once a fox who lived beside the river, and every day the fox";

/// Models with every kind of cache: learned positions, sliding windows, grouped heads, scaled rotations, and other types.
fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::load(&model("tale")).expect("the fixture loads")];
    for name in ["mistral/window", "qwen3/base", "llama/llama3"] {
        let folder = copy_of(&fixture(name));
        write_tokenizer(folder.path());
        engines.push(Engine::load(&name_of(folder.path())).expect("the fixture loads"));
    }
    for kv in [CacheType::F16, CacheType::Q8_0] {
        engines.push(Engine::builder().kv(kv).prefill_chunk(7).load(&model("tale")).expect("the fixture loads"));
    }
    engines
}

fn tokens(vocab: u32, seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 7) % vocab)
        .collect()
}

fn finish(mut generation: Generation) -> (Completion, usize, usize) {
    let text = generation.completions().expect("a text").remove(0);
    let timings = generation.timings();
    assert_eq!(timings.cached_tokens, generation.cached_tokens(0));
    assert_eq!(timings.cached_tokens + timings.computed_tokens, timings.prompt_tokens);
    (text, timings.cached_tokens, timings.computed_tokens)
}

#[test]
fn each_turn_computes_only_what_is_new_and_says_what_it_would_say_alone() {
    for mut engine in engines() {
        let vocab = engine.info().vocab_size as u32;
        let mut session = engine.session();
        let settings = Sampling {
            max_new_tokens: Some(12),
            ignore_eos: Some(true),
            do_sample: Some(true),
            temperature: Some(1.1),
            seed: Some(5),
            logprobs: Some(true),
            return_full_text: Some(false),
            ..Sampling::default()
        };
        let mut prompt = tokens(vocab, 1, 40);
        let mut known = 0;
        for turn in 0..5 {
            let (text, cached, computed) = finish(session.generate(prompt.clone(), settings.clone()).unwrap());
            let (alone, none, all) = finish(engine.generate(prompt.clone(), settings.clone()).unwrap());
            assert_eq!(text, alone, "turn {turn} of {engine:?}: the same tokens and log-probabilities, bit for bit");
            assert_eq!((cached, computed, none, all), (known, prompt.len() - known, 0, prompt.len()));
            prompt.extend(&text.tokens);
            known = prompt.len() - 1; // the last token was never fed
            assert_eq!(session.cached_tokens(), known);
            prompt.extend(tokens(vocab, turn + 2, 9));
        }
    }
}

#[test]
fn a_prompt_that_parts_from_the_last_one_reuses_what_they_share() {
    let engine = Engine::load(&model("tale")).unwrap();
    let greedy = Sampling { max_new_tokens: Some(6), ignore_eos: Some(true), ..Sampling::greedy() };
    let check = |session: &mut Session, prompt: &[u32], expected: usize| {
        let (text, cached, _) = finish(session.generate(prompt, greedy.clone()).unwrap());
        let (alone, ..) = finish(engine.clone().generate(prompt, greedy.clone()).unwrap());
        assert_eq!((text, cached), (alone, expected));
    };
    let story = engine.tokenizer().encode(STORY).unwrap();
    let mut session = engine.session();
    check(&mut session, &story, 0);
    check(&mut session, &story, story.len() - 1); // the last token's logits are wanted
    check(&mut session, &story[..10], 9);
    let mut other = story.clone();
    other[7] = (other[7] + 1) % 90;
    check(&mut session, &other, 7);
    other[0] = (other[0] + 1) % 90;
    check(&mut session, &other, 0);
    session.clear();
    assert_eq!(session.cached_tokens(), 0);
    check(&mut session, &other, 0);
}

#[test]
fn a_generation_that_is_dropped_or_cancelled_leaves_its_cache() {
    let engine = Engine::builder().prefill_chunk(4).load(&model("tale")).unwrap();
    let greedy = Sampling { max_new_tokens: Some(30), ignore_eos: Some(true), ..Sampling::greedy() };
    let mut session = engine.session();
    let mut generation = session.generate(STORY, greedy.clone()).unwrap();
    let first: Vec<u32> = generation.by_ref().take(5).map(|piece| piece.unwrap().token).collect();
    let prompt = generation.prompt_tokens(0);
    drop(generation);
    assert_eq!(session.cached_tokens(), prompt + 4);

    let mut generation = session.generate(STORY, greedy.clone()).unwrap();
    generation.cancel_handle().cancel();
    assert!(generation.next().is_none());
    assert_eq!(session.cached_tokens(), prompt + 4, "a generation that never began takes nothing");

    let (text, cached, _) = finish(session.generate(STORY, greedy.clone()).unwrap());
    assert_eq!((&text.tokens[..5], cached), (&first[..], prompt - 1));
}

/// A panic of the program's own code, in a callback or between two pieces.
fn panics(run: impl FnOnce()) {
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let panic = ended.expect_err("the panic reaches the program");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the program's own trouble"), "as it was");
}

#[test]
fn a_program_that_panics_between_pieces_ends_that_text_and_nothing_else() {
    let engine = Engine::load(&model("tale")).unwrap();
    let base = Sampling { max_new_tokens: Some(20), ignore_eos: Some(true), ..Sampling::greedy() };
    let several = Sampling { num_return_sequences: Some(3), do_sample: Some(true), seed: Some(3), ..base.clone() };
    let constrained = Sampling { regex: Some("[a-z ]{40}".to_owned()), ..base.clone() };
    for settings in [base.clone(), several, Sampling { num_beams: Some(3), ..base.clone() }, constrained] {
        let alone = engine.clone().generate(STORY, settings.clone()).unwrap().completions().unwrap();
        let mut session = engine.session();
        for count in [1, 2, 7] {
            panics(|| {
                let mut pieces = 0;
                let on_piece = |_: &fireside::Piece| {
                    pieces += 1;
                    assert!(pieces < count, "the program's own trouble");
                    std::ops::ControlFlow::Continue(())
                };
                drop(engine.clone().generate_with(STORY, settings.clone(), on_piece));
            });
            panics(|| {
                let generation = session.generate(STORY, settings.clone()).unwrap();
                assert_eq!(generation.take(count).filter(Result::is_ok).count(), count);
                panic!("the program's own trouble");
            });
            let again = session.generate(STORY, settings.clone()).unwrap().completions().unwrap();
            assert_eq!(again, alone, "the session goes on after {count} pieces and a panic");
        }
        let mut engine = engine.clone();
        assert_eq!(engine.generate(STORY, settings.clone()).unwrap().completions().unwrap(), alone, "and the engine");
    }
}

#[test]
fn several_texts_beams_healing_lookup_and_scores_come_out_the_same_in_a_session() {
    let mut engine = Engine::load(&model("tale")).unwrap();
    let base = Sampling { max_new_tokens: Some(20), ignore_eos: Some(true), ..Sampling::greedy() };
    let kinds = [
        base.clone(),
        Sampling { num_beams: Some(3), ..base.clone() },
        Sampling { num_return_sequences: Some(3), do_sample: Some(true), seed: Some(3), ..base.clone() },
        Sampling { prompt_lookup_num_tokens: Some(6), ..base.clone() },
        Sampling { token_healing: Some(true), ..base.clone() },
        Sampling { prompt_logprobs: Some(true), logprobs: Some(true), ..base },
    ];
    let mut session = engine.session();
    for (i, before) in kinds.iter().enumerate() {
        for (j, after) in kinds.iter().enumerate() {
            drop(session.generate(STORY, before.clone()).unwrap().completions().unwrap());
            let mut kept = session.generate(Prompt::from(STORY), after.clone()).unwrap();
            let mut alone = engine.generate(STORY, after.clone()).unwrap();
            assert_eq!(kept.completions().unwrap(), alone.completions().unwrap(), "{j} after {i}");
            assert_eq!(kept.prompt_logprobs(0), alone.prompt_logprobs(0), "{j} after {i}");
            let reused = kept.timings().cached_tokens > 0;
            assert_eq!(reused, after.prompt_logprobs.is_none(), "{j} after {i}");
        }
    }
}

/// Phi-3 turns all positions otherwise behind 48 tokens, so what was kept before that is of no use behind it.
#[test]
fn a_turn_that_comes_behind_the_border_of_rotations_reads_everything_again_once() {
    let folder = copy_of(&fixture("phi3/long"));
    write_tokenizer(folder.path());
    let mut engine = Engine::load(&name_of(folder.path())).expect("the fixture loads");
    let vocab = engine.info().vocab_size as u32;
    let settings = Sampling {
        max_new_tokens: Some(8),
        ignore_eos: Some(true),
        logprobs: Some(true),
        return_full_text: Some(false),
        ..Sampling::greedy()
    };
    let mut session = engine.session();
    let mut prompt = tokens(vocab, 3, 20);
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (text, cached, _) = finish(session.generate(prompt.clone(), settings.clone()).unwrap());
        let (alone, ..) = finish(engine.generate(prompt.clone(), settings.clone()).unwrap());
        assert_eq!(text, alone, "{} tokens: the same tokens and log-probabilities, bit for bit", prompt.len());
        seen.push((prompt.len(), cached));
        prompt.extend(&text.tokens);
        prompt.extend(tokens(vocab, prompt.len() as u32, 2));
    }
    // The text of the fourth turn passes the border, and what it leaves is of use to the fifth.
    assert_eq!(seen, [(20, 0), (30, 27), (40, 37), (50, 0), (60, 57), (70, 67)]);
}

/// Behind 48 tokens LongRoPE turns all positions of a text otherwise.
#[test]
fn a_session_that_goes_over_longropes_border_and_back_says_what_it_would_say_alone() {
    for name in ["phi3_longrope", "llama_longrope"] {
        let folder = copy_of(&fixture(&format!("long/{name}")));
        write_tokenizer(folder.path());
        let mut engine = Engine::load(&name_of(folder.path())).expect("the fixture loads");
        let all = tokens(96, 3, 80);
        let mut session = engine.session();
        for (length, new) in
            [(30, 5), (44, 4), (44, 5), (44, 6), (48, 1), (49, 1), (70, 3), (47, 2), (60, 12), (20, 40)]
        {
            let settings = Sampling {
                max_new_tokens: Some(new),
                ignore_eos: Some(true),
                logprobs: Some(true),
                ..Sampling::greedy()
            };
            let alone = finish(engine.generate(all[..length].to_vec(), settings.clone()).expect("a text")).0;
            let found = finish(session.generate(all[..length].to_vec(), settings).expect("a text")).0;
            assert_eq!(found, alone, "{name}: {length} tokens and {new} new ones");
        }
    }
}
