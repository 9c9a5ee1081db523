//! Memory is refused with numbers before it is used, and what was written until then is kept.

use fireside::{CacheType, Engine, Error, Prompt, Sampling, ScoreOptions};

use crate::support::model;

/// What the model of these tests takes, as `it_is_told_what_a_model_takes` proves.
const WEIGHTS: u64 = 233_088;
const PER_TOKEN: u64 = 512;

fn allowed(bytes: u64) -> Result<Engine, Error> {
    Engine::builder().max_memory(bytes).load(&model("tale"))
}

fn with_room_for(tokens: u64) -> Engine {
    allowed(WEIGHTS + tokens * PER_TOKEN).expect("room for the weights")
}

fn greedy(new: usize) -> Sampling {
    Sampling { max_new_tokens: Some(new), ignore_eos: Some(true), ..Sampling::greedy() }
}

fn prompt(tokens: u32) -> Prompt {
    Prompt::Tokens((1..=tokens).collect())
}

/// From its config: two layers of keys and values, 32 numbers wide, in f32.
#[test]
fn it_is_told_what_a_model_takes() {
    let engine = Engine::load(&model("tale")).unwrap();
    let file = std::fs::metadata(crate::support::fixture("tale/model.safetensors")).unwrap().len();
    assert_eq!(engine.info().weight_bytes as u64, WEIGHTS);
    assert!(file > WEIGHTS && file < WEIGHTS + 5000, "and a header: {file}");
    assert_eq!(engine.info().cache_bytes_per_token as u64, PER_TOKEN);
    let halved = Engine::builder().kv(CacheType::F16).load(&model("tale")).unwrap();
    assert_eq!(halved.info().cache_bytes_per_token as u64, PER_TOKEN / 2);
}

#[test]
fn weights_that_do_not_fit_are_refused_with_both_numbers() {
    assert!(allowed(WEIGHTS).is_ok());
    let error = allowed(WEIGHTS - 1000).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error:?}");
    assert_eq!(error.to_string(), "the weights take 233.1 KB, and `max_memory` leaves 232.1 KB");
    let hint = error.hint().unwrap();
    assert!(hint.starts_with("quantise with `--quant q8_0` ("), "{hint}");
    let hint = allowed(1).unwrap_err().hint().unwrap().to_owned();
    assert!(hint.starts_with("take a smaller model"), "{hint}");
    // And what the hint says helps.
    let quantised = Engine::builder().max_memory(WEIGHTS - 1000).quant("q8_0".parse().unwrap()).load(&model("tale"));
    assert!((quantised.unwrap().info().weight_bytes as u64) < WEIGHTS - 1000);
}

/// Whose blocks are not quantised again.
#[test]
fn of_a_quantised_file_a_smaller_model_is_advised() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("tale.gguf");
    fireside::quantize(None, &model("tale"), "q8_0".parse().unwrap(), &file, None, |_, _| {}).unwrap();
    let error = Engine::builder().max_memory(50_000).load(&crate::support::name_of(&file)).unwrap_err();
    assert!(error.to_string().ends_with("`max_memory` leaves 50.0 KB"), "{error}");
    assert!(error.hint().unwrap().starts_with("take a smaller model, or allow more"), "{:?}", error.hint());
}

#[test]
fn a_text_of_a_known_length_is_refused_before_it_begins() {
    let mut engine = with_room_for(30);
    assert_eq!(engine.generate(prompt(10), greedy(20)).unwrap().completions().unwrap()[0].tokens.len(), 20);
    let error = engine.generate(prompt(10), greedy(21)).unwrap_err();
    let expected =
        "the keys and values of 31 tokens take 15.9 KB, and `max_memory` leaves 15.4 KB beside 233.1 KB of weights";
    assert_eq!(error.to_string(), expected);
    for several in [
        Sampling { num_beams: Some(3), ..greedy(10) },
        Sampling { num_return_sequences: Some(3), do_sample: Some(true), ..greedy(10) },
    ] {
        let error = engine.generate(prompt(10), several).unwrap_err();
        assert!(error.to_string().starts_with("the keys and values of 40 tokens"), "{error}");
    }
    assert!(engine.generate_batch([(prompt(10), greedy(5)), (prompt(10), greedy(6))]).is_err());
    assert!(engine.logits(prompt(30)).is_ok() && engine.logits(prompt(31)).is_err());
    assert!(engine.score(prompt(31), ScoreOptions::default()).is_err());
}

/// Such as a conversation's answer, which may be short.
#[test]
fn a_text_of_any_length_goes_on_to_where_the_memory_ends() {
    let whole = Engine::load(&model("tale")).unwrap().generate(prompt(10), greedy(502)).unwrap().completions().unwrap();
    for room in [11, 40, 100] {
        let mut engine = with_room_for(room);
        let mut written = Vec::new();
        let mut refused = None;
        for piece in engine.generate(prompt(10), greedy(502)).expect("it may be short") {
            match piece {
                Ok(piece) => written.push(piece.token),
                Err(error) => refused = Some(error),
            }
        }
        // The last token needs no room: nothing comes behind it.
        assert_eq!(written, whole[0].tokens[..room as usize - 10 + 1], "room for {room}");
        let expected = format!("the keys and values of {} tokens", room + 1);
        let error = refused.expect("an error").to_string();
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn all_texts_of_a_batch_are_told_why_they_end() {
    let mut engine = with_room_for(60);
    let outcomes = engine.generate_batch([(prompt(10), greedy(502)), (prompt(20), greedy(492))]).unwrap().outcomes();
    for outcome in outcomes {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("the keys and values of"), "{error}");
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_program_keeps_what_it_wrote_and_ends_with_one_line() {
    use crate::program::{fireside, run};
    let said = |max_memory: &str, new: &str| {
        let args = ["generate", "--model", &model("tale"), "--do-sample=false", "--ignore-eos", "-n", new];
        run(fireside(args.into_iter().chain(["--max-memory", max_memory, "A king"])))
    };
    let whole = said("1GB", "400").answer();
    let cut = said("0.25MB", "600");
    assert_eq!(cut.code, Some(1), "{cut:?}");
    assert!(whole.starts_with(cut.stdout.trim_end()) && cut.stdout.len() > 40, "{cut:?}");
    assert!(cut.stderr.contains("error: the keys and values of "), "{cut:?}");
    let none = said("10KB", "4");
    assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""));
    assert!(none.stderr.starts_with("error: the weights take 233.1 KB, and `max_memory` leaves 10.0 KB\n"), "{none:?}");
    for wrong in ["12", "GB", "1e3MB", "NaNGB", "1.2.3GB", "12 TB", "infGB"] {
        let refused = said(wrong, "4");
        assert_eq!(refused.code, Some(2), "{wrong}: {refused:?}");
        assert!(refused.stderr.contains("expected a number and a unit"), "{wrong}: {refused:?}");
    }
}
