//! The commands, run as programs: what they read, print and return.

use std::collections::BTreeSet;
use std::process::Command;

use clap::Parser;
use fireside::Sampling;
use serde_json::{Value, json};

use crate::program::{fireside, run, run_with};
use crate::support::{cases, json, model, name_of};

/// A prompt of `generate.json` with its greedy continuation by transformers.
pub const PROMPT: &str = "Anna carried a small lantern near the mill.";

/// `fireside generate` on the tiny model, greedy.
pub fn greedy(args: &[&str]) -> Command {
    let tale = model("tale");
    let mut command = fireside(["generate", "--model", &tale, "--temperature", "0"]);
    command.args(args);
    command
}

/// The tiny model's answer to `PROMPT`, 40 tokens, by transformers: the case in `generate.json`.
fn expected() -> Value {
    let fixture = json("generate.json");
    let case = cases(&fixture)
        .iter()
        .find(|case| case["settings"] == json!({ "max_new_tokens": 40 }) && case["prompt"] == PROMPT);
    case.expect("the plain greedy case").clone()
}

pub fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

pub fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_prompt_comes_from_arguments_a_pipe_or_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        name_of(&path)
    };
    let (plain, unix, dos) =
        (file("plain", PROMPT.to_owned()), file("unix", format!("{PROMPT}\n")), file("dos", format!("{PROMPT}\r\n")));
    let words: Vec<&str> = PROMPT.split(' ').collect();
    let check = |args: &[&str], stdin: &str| {
        let answer = run_with(greedy(&[&["-n", "40"], args].concat()), stdin.as_bytes()).answer();
        assert_eq!(answer, format!("{}\n", text(&expected()["texts"]["full"])), "{args:?} {stdin:?}");
    };
    check(&[PROMPT], "");
    check(&[PROMPT], "stdin is not read where there is an argument");
    check(&words, "");
    check(&["--", PROMPT], "");
    check(&["-"], PROMPT);
    check(&[], PROMPT);
    check(&[], &format!("{PROMPT}\n"));
    check(&[], &format!("{PROMPT}\r\n"));
    check(&["--file", &plain], "");
    check(&["--file", &unix], "");
    check(&["--file", &dos], "");
}

#[test]
fn only_one_line_break_is_taken_off_a_prompt_and_none_off_an_argument() {
    let check = |args: &[&str], stdin: &str, prompt: &str| {
        let answer = run_with(greedy(&[&["-n", "1"], args].concat()), stdin.as_bytes()).answer();
        assert!(answer.starts_with(prompt), "{args:?} {stdin:?}: {answer:?}");
    };
    check(&["two\n\n"], "", "two\n\n");
    check(&["-"], "two\n\n", "two\n");
    check(&[], "  kept \n", "  kept ");
    check(&["-5", "degrees"], "", "-5 degrees");
}

#[test]
fn the_embedded_model_works_without_any_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = fireside(["generate", "-t", "0", "-n", "8", "Hello World"]);
    command.current_dir(folder.path());
    let answer = run(command).answer();
    assert!(
        answer.starts_with("Hello World") && answer.len() > "Hello World\n".len() && answer.ends_with('\n'),
        "{answer:?}"
    );
    assert!(run(fireside(["info"])).answer().contains("ember"));
}

#[test]
fn generate_is_fireside_generate_byte_for_byte() {
    let tale = model("tale");
    let check = |args: &[&str]| {
        let mut short = Command::new(env!("CARGO_BIN_EXE_generate"));
        short.args(args);
        let (short, long) = (run(short), run(fireside([&["generate"], args].concat())));
        assert_eq!((short.code, short.stdout, short.stderr), (long.code, long.stdout, long.stderr), "{args:?}");
    };
    check(&["--model", &tale, "--seed", "5", PROMPT]);
    check(&["--model", &tale, "--seed", "5", "--json", "--num-return-sequences", "3", PROMPT]);
    check(&["--model", &tale, "--do-sample=false", "--top-k", "4", PROMPT]);
    check(&["--model", &tale, "--top-p", "0", PROMPT]);
    check(&["--model", "no/such/model", PROMPT]);
    check(&["--model", &tale]);
}

#[test]
fn flags_give_the_texts_of_transformers() {
    // A setting of `generate.json` as a flag.
    let flag = |name: &str, value: &Value| -> Vec<String> {
        let flag = format!("--{}", name.replace('_', "-"));
        let list = |value: &Value| match value {
            Value::Array(items) => items.iter().map(Value::to_string).collect::<Vec<_>>().join(","),
            one => one.to_string(),
        };
        let many = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        match name {
            "stop_strings" => many(value).iter().map(|stop| format!("{flag}={}", text(stop))).collect(),
            "bad_words_ids" => many(value).iter().map(|ids| format!("{flag}={}", list(ids))).collect(),
            "sequence_bias" => {
                many(value).iter().map(|entry| format!("{flag}={}={}", list(&entry[0]), entry[1])).collect()
            }
            _ => vec![format!("{flag}={}", list(value))],
        }
    };
    let fixture = json("generate.json");
    let mut checked = 0;
    for case in cases(&fixture) {
        let settings = case["settings"].as_object().expect("settings");
        let (Some(prompt), Some(full)) = (case["prompt"].as_str(), case["texts"]["full"].as_str()) else { continue };
        if prompt.is_empty() || settings.contains_key("handle_long_generation") {
            continue; // an empty prompt is an error here; the other is the pipeline's own name for `truncation=left`
        }
        let flags: Vec<String> =
            settings.iter().flat_map(|(name, value)| flag(name, value)).chain([prompt.to_owned()]).collect();
        let outcome = run(greedy(&flags.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!((outcome.code, outcome.stdout), (Some(0), format!("{full}\n")), "{}", case["name"]);
        checked += 1;
    }
    assert!(checked > 40, "only {checked} cases have a prompt and a text");
}

#[test]
fn json_is_what_the_pipeline_returns() {
    let full = text(&expected()["texts"]["full"]).to_owned();
    let answer = run(greedy(&["-n", "40", "--json", PROMPT])).answer();
    assert_eq!(answer, format!("{}\n", json!([{ "generated_text": full }])));
    let answer = run(greedy(&["-n", "40", "--json", "--return-full-text=false", PROMPT])).answer();
    assert_eq!(parsed(&answer), json!([{ "generated_text": text(&expected()["texts"]["new"]) }]));
}

#[test]
fn streamed_whole_and_json_texts_are_the_same() {
    let tale = model("tale");
    let sampled = |args: &[&str]| {
        run(fireside([&["generate", "-m", &tale, "--seed", "11", "-n", "60", PROMPT], args].concat())).answer()
    };
    let streamed = sampled(&[]);
    assert_eq!(sampled(&["--stream"]), streamed);
    assert_eq!(sampled(&["--stream=false"]), streamed);
    assert_eq!(format!("{}\n", text(&parsed(&sampled(&["--json"]))[0]["generated_text"])), streamed);
    let several = parsed(&sampled(&["--json", "--num-return-sequences", "3"]));
    let several: Vec<&str> =
        several.as_array().expect("a list").iter().map(|entry| text(&entry["generated_text"])).collect();
    assert_eq!(sampled(&["--num-return-sequences", "3"]), several.join("\n\n") + "\n");
    assert_eq!(format!("{}\n", several[0]), streamed, "the first of several is the one alone");
}

#[test]
fn details_hold_tokens_reason_seed_settings_and_timings() {
    let args = ["-n", "40", "--json", "--details", "--logprobs", "--top-logprobs", "2", "--prompt-logprobs", PROMPT];
    let answer = parsed(&run(greedy(&args)).answer());
    let (entry, expected) = (&answer[0], expected());
    let details = &entry["details"];
    assert_eq!(entry["generated_text"], expected["texts"]["full"]);
    assert_eq!(
        (&details["finish_reason"], &details["generated_tokens"], &details["prompt_tokens"]),
        (&json!("length"), &json!(40), &json!(21))
    );
    assert_eq!(details["seed"], Value::Null, "nothing is drawn");
    let of = |list: &Value, field: &str| {
        list.as_array().expect("a list").iter().map(|token| token[field].clone()).collect::<Vec<_>>()
    };
    assert_eq!(json!(of(&details["tokens"], "id")), expected["new_ids"]);
    assert_eq!(of(&details["tokens"], "text").iter().map(text).collect::<String>(), text(&expected["texts"]["new"]));
    for token in details["tokens"].as_array().expect("a list") {
        assert!(
            token["logprob"].as_f64().is_some_and(|logprob| logprob < 0.0) && token["special"] == json!(false),
            "{token}"
        );
        assert_eq!(token["top_tokens"][0]["id"], token["id"], "greedy takes the likeliest");
        assert_eq!(token["top_tokens"].as_array().map(Vec::len), Some(2));
        assert_eq!(token["top_tokens"][0]["token"], token["token"]);
    }
    assert_eq!(json!(of(&details["prefill"], "id")), expected["prompt_ids"]);
    assert_eq!(details["prefill"][0]["logprob"], Value::Null, "nothing predicts the first token");
    let score =
        parsed(&run(fireside(["score", "-m", &model("tale"), "--json", "--top-logprobs", "2", PROMPT])).answer());
    assert_eq!(details["prefill"], score["tokens"], "a token has one shape");
    assert!(details["prefill"][1]["logprob"].as_f64().is_some_and(|logprob| logprob < 0.0));
    assert_eq!(
        (&details["settings"]["max_new_tokens"], &details["settings"]["do_sample"]),
        (&json!(40), &json!(false))
    );
    for timing in ["load_ms", "prefill_ms", "decode_ms"] {
        assert!(details["timings"][timing].as_f64().is_some_and(|ms| ms > 0.0), "{timing}");
    }
    let plain = parsed(&run(greedy(&["-n", "3", "--json", "--details", PROMPT])).answer());
    assert!(
        plain[0]["details"]["prefill"].is_null() && plain[0]["details"]["tokens"][0]["logprob"].is_null(),
        "only where asked for"
    );
}

#[test]
fn a_part_of_a_character_is_told_by_its_name() {
    let tale = model("tale");
    let tokens = parsed(&run(fireside(["tokenize", "-m", &tale, "--json", "é"])).answer());
    let score = parsed(&run(fireside(["score", "-m", &tale, "--json", "é"])).answer());
    for (i, name) in ["Ã", "©"].into_iter().enumerate() {
        let (id, token) = (&tokens["ids"][i], &score["tokens"][i]);
        assert_eq!((&token["id"], &token["token"], &token["text"]), (id, &json!(name), &json!("\u{fffd}")));
        assert_eq!(tokens["tokens"][i], name);
    }
}

#[test]
fn logprobs_that_are_not_shown_are_a_warning() {
    let check = |flags: &[&str], settings: &[&str]| {
        let expected: String = settings
            .iter()
            .map(|setting| format!("warning: `{setting}` is shown only with `--json --details`\n"))
            .collect();
        for output in [&[][..], &["--json"], &["--stream=false"]] {
            let outcome = run(greedy(&[flags, output, &["-n", "2", PROMPT]].concat()));
            assert_eq!((outcome.code, &outcome.stderr), (Some(0), &expected), "{flags:?} {output:?}");
        }
        run(greedy(&[flags, &["--json", "--details", "-n", "2", PROMPT]].concat())).answer();
    };
    check(&["--logprobs"], &["logprobs"]);
    check(&["--top-logprobs", "2"], &["top_logprobs"]);
    check(&["--prompt-logprobs"], &["prompt_logprobs"]);
    check(&["--logprobs", "--prompt-logprobs"], &["logprobs", "prompt_logprobs"]);
    check(&["--logprobs=false", "--prompt-logprobs=false"], &[]);
}

#[test]
fn finish_reasons_are_told() {
    let check = |args: &[&str], reason: &str| {
        let answer = parsed(&run(greedy(&[args, &["--json", "--details", PROMPT]].concat())).answer());
        assert_eq!(answer[0]["details"]["finish_reason"], reason, "{args:?}");
    };
    check(&["-n", "5"], "length");
    check(&["--max-length", "25"], "length");
    check(&["-n", "50", "--eos-token-id", "317"], "eos");
    check(&["-n", "50", "--stop-strings", "illinin"], "stop_string");
    check(&["-n", "400", "--max-time", "0.000001"], "time");
}

#[test]
fn the_seed_in_details_repeats_the_text() {
    let tale = model("tale");
    let base = ["generate", "-m", &tale, "-n", "40", "--num-return-sequences", "2", "--json", PROMPT];
    let first = parsed(&run(fireside([&base[..], &["--details"]].concat())).answer());
    let seed = first[0]["details"]["seed"].as_u64().expect("a seed").to_string();
    assert_eq!(first[0]["details"]["settings"]["seed"], first[0]["details"]["seed"]);
    let second = parsed(&run(fireside([&base[..], &["--seed", &seed]].concat())).answer());
    for text in 0..2 {
        assert_eq!(first[text]["generated_text"], second[text]["generated_text"]);
    }
    let other = parsed(&run(fireside(base)).answer());
    assert_ne!(first[0]["generated_text"], other[0]["generated_text"], "without a seed the text differs");
}

#[test]
fn verbose_goes_to_stderr_and_leaves_stdout_alone() {
    let plain = run(greedy(&["-n", "10", PROMPT])).answer();
    let verbose = run(greedy(&["-n", "10", "--verbose", PROMPT]));
    assert_eq!((verbose.code, verbose.stdout), (Some(0), plain));
    for word in ["model", "device", "load", "settings", "prefill", "decode", "max_new_tokens=10", "tokens/s"] {
        assert!(verbose.stderr.contains(word), "{word}: {}", verbose.stderr);
    }
    let drawn = run(fireside(["generate", "-m", &model("tale"), "-n", "3", "-v", PROMPT]));
    assert!(drawn.stderr.contains(" seed="), "{}", drawn.stderr);
    let score = run(fireside(["score", "-m", &model("tale"), "-v", PROMPT]));
    assert!(score.stderr.contains("gpt2") && score.stdout.starts_with("perplexity"), "{score:?}");
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    sampling: Sampling,
}

/// Every setting as flags and as JSON.
fn settings() -> Vec<(&'static str, &'static [&'static str], Value)> {
    vec![
        ("max_new_tokens", &["--max-new-tokens", "9"], json!(9)),
        ("max_length", &["--max-length=9"], json!(9)),
        ("min_new_tokens", &["--min-new-tokens", "9"], json!(9)),
        ("min_length", &["--min-length", "9"], json!(9)),
        ("max_time", &["--max-time", "1.5"], json!(1.5)),
        ("stop_strings", &["--stop-strings", "a", "--stop-strings", "b,c"], json!(["a", "b,c"])),
        ("stop_strings", &["--stop", "a"], json!("a")),
        ("eos_token_id", &["--eos-token-id", "1,2"], json!([1, 2])),
        ("eos_token_id", &["--eos-token-id", "3"], json!(3)),
        ("ignore_eos", &["--ignore-eos"], json!(true)),
        ("ignore_eos", &["--ignore-eos=false"], json!(false)),
        ("exponential_decay_length_penalty", &["--exponential-decay-length-penalty", "20,1.05"], json!([20, 1.05])),
        ("do_sample", &["--do-sample"], json!(true)),
        ("do_sample", &["--do-sample=false"], json!(false)),
        ("temperature", &["-t", "0.5"], json!(0.5)),
        ("top_h", &["--top-h", "0.5"], json!(0.5)),
        ("top_k", &["--top-k", "5"], json!(5)),
        ("top_p", &["--top-p", "0.5"], json!(0.5)),
        ("min_p", &["--min-p", "0.5"], json!(0.5)),
        ("typical_p", &["--typical-p", "0.5"], json!(0.5)),
        ("epsilon_cutoff", &["--epsilon-cutoff", "0.01"], json!(0.01)),
        ("eta_cutoff", &["--eta-cutoff", "0.01"], json!(0.01)),
        ("seed", &["--seed", "18446744073709551615"], json!(u64::MAX)),
        ("repetition_penalty", &["--repetition-penalty", "1.2"], json!(1.2)),
        ("presence_penalty", &["--presence-penalty", "-1.5"], json!(-1.5)),
        ("frequency_penalty", &["--frequency-penalty=-1.5"], json!(-1.5)),
        ("no_repeat_ngram_size", &["--no-repeat-ngram-size", "3"], json!(3)),
        ("bad_words", &["--bad-words", "a b", "--bad-words", "c"], json!(["a b", "c"])),
        ("bad_words_ids", &["--bad-words-ids", "1,2", "--bad-words-ids", "3"], json!([[1, 2], [3]])),
        ("suppress_tokens", &["--suppress-tokens", "1,2"], json!([1, 2])),
        ("begin_suppress_tokens", &["--begin-suppress-tokens", "1,2"], json!([1, 2])),
        ("forced_bos_token_id", &["--forced-bos-token-id", "1"], json!(1)),
        ("forced_eos_token_id", &["--forced-eos-token-id", "1,2"], json!([1, 2])),
        (
            "sequence_bias",
            &["--sequence-bias", "1,2=-2.5", "--sequence-bias", "3=1"],
            json!([[[1, 2], -2.5], [[3], 1.0]]),
        ),
        ("logit_bias", &["--logit-bias", "1=-100", "--logit-bias", "2=3"], json!({ "1": -100, "2": 3 })),
        ("logit_bias", &["--logit-bias", "1=-100"], json!([[1, -100]])),
        ("renormalize_logits", &["--renormalize-logits"], json!(true)),
        ("json_schema", &["--json-schema", r#"{"type": "null"}"#], json!({ "type": "null" })),
        ("regex", &["--regex", "a|b"], json!("a|b")),
        ("choice", &["--choice", "yes", "--choice", "no, never"], json!(["yes", "no, never"])),
        ("choice", &["--choice", "yes"], json!("yes")),
        ("grammar", &["--grammar", "root ::= \"a\""], json!("root ::= \"a\"")),
        ("num_return_sequences", &["--num-return-sequences", "3"], json!(3)),
        ("num_beams", &["--num-beams", "3"], json!(3)),
        ("early_stopping", &["--early-stopping", "true"], json!(true)),
        ("early_stopping", &["--early-stopping", "never"], json!("never")),
        ("length_penalty", &["--length-penalty", "-0.5"], json!(-0.5)),
        ("prompt_lookup_num_tokens", &["--prompt-lookup-num-tokens", "3"], json!(3)),
        ("max_matching_ngram_size", &["--max-matching-ngram-size", "3"], json!(3)),
        ("token_healing", &["--token-healing"], json!(true)),
        ("truncation", &["--truncation"], json!(true)),
        ("truncation", &["--truncation=left"], json!("left")),
        ("truncation", &["--truncation=false"], json!(false)),
        ("return_full_text", &["--return-full-text=false"], json!(false)),
        ("skip_special_tokens", &["--skip-special-tokens=false"], json!(false)),
        ("logprobs", &["--logprobs"], json!(true)),
        ("top_logprobs", &["--top-logprobs", "3"], json!(3)),
        ("prompt_logprobs", &["--prompt-logprobs"], json!(true)),
    ]
}

#[test]
fn a_flag_and_its_json_are_the_same_setting() {
    for (name, flags, value) in settings() {
        let from_flags = Flags::try_parse_from([&["generate"], flags].concat())
            .unwrap_or_else(|error| panic!("{flags:?}: {error}"))
            .sampling;
        let from_json: Sampling =
            serde_json::from_value(json!({ name: value })).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(from_flags, from_json, "{name}");
        assert_ne!(from_json, Sampling::default(), "{name}");
        let back: Sampling = serde_json::from_value(serde_json::to_value(&from_json).unwrap()).unwrap();
        assert_eq!(back, from_json, "{name} survives a round trip");
    }
}

#[test]
fn every_setting_is_a_flag_under_the_same_name() {
    let Value::Object(all) = serde_json::to_value(Sampling::default()).unwrap() else { panic!("an object") };
    let names: BTreeSet<String> = all.keys().cloned().collect();
    let tested: BTreeSet<String> = settings().into_iter().map(|(name, ..)| name.to_owned()).collect();
    assert_eq!(names, tested, "the table above has every setting");

    let command = fireside::cli::command();
    let generate = command.find_subcommand("generate").expect("the verb");
    let flags: BTreeSet<String> =
        generate.get_arguments().filter_map(|arg| arg.get_long()).map(|long| long.replace('-', "_")).collect();
    let own = [
        "model",
        "device",
        "dtype",
        "quant",
        "kv",
        "threads",
        "context",
        "max_memory",
        "file",
        "stream",
        "json",
        "details",
        "verbose",
        "prompt_cache",
        "prompt_cache_ro",
        "offline",
        "progress",
    ]
    .map(str::to_owned);
    assert_eq!(
        flags,
        names.union(&BTreeSet::from(own)).cloned().collect(),
        "the flags are the settings and what is about the command itself"
    );
}

#[test]
fn a_setting_without_effect_is_a_warning_and_changes_nothing() {
    let check = |flags: &[&str], base: &[&str], setting: &str| {
        let tale = model("tale");
        let base = [&["generate", "-m", &tale, "-n", "12", PROMPT], base].concat();
        let plain = run(fireside(&base)).answer();
        let warned = run(fireside([&base[..], flags].concat()));
        assert_eq!((warned.code, warned.stdout), (Some(0), plain), "{flags:?}");
        assert!(
            warned.stderr.starts_with(&format!("warning: `{setting}` has no effect")),
            "{flags:?}: {}",
            warned.stderr
        );
        assert_eq!(warned.stderr.lines().count(), 1, "{}", warned.stderr);
    };
    let greedy = ["--do-sample=false"];
    check(&["--temperature", "0.5"], &greedy, "temperature");
    check(&["--top-k", "5"], &greedy, "top_k");
    check(&["--top-p", "0.5"], &greedy, "top_p");
    check(&["--top-h", "0.5"], &greedy, "top_h");
    check(&["--min-p", "0.5"], &greedy, "min_p");
    check(&["--typical-p", "0.5"], &greedy, "typical_p");
    check(&["--epsilon-cutoff", "0.1"], &greedy, "epsilon_cutoff");
    check(&["--eta-cutoff", "0.1"], &greedy, "eta_cutoff");
    check(&["--seed", "5"], &greedy, "seed");
    check(&["--length-penalty", "2"], &greedy, "length_penalty");
    check(&["--early-stopping", "never"], &greedy, "early_stopping");
    check(&["--max-matching-ngram-size", "3"], &greedy, "max_matching_ngram_size");
    check(&["--forced-bos-token-id", "3"], &greedy, "forced_bos_token_id");
    check(&["--max-length", "30"], &greedy, "max_length");
    check(&["--min-new-tokens", "5"], &["--do-sample=false", "--ignore-eos"], "min_new_tokens");
    check(&["--eos-token-id", "5"], &["--do-sample=false", "--ignore-eos"], "eos_token_id");
    check(&["--length-penalty", "2"], &["--seed", "1"], "length_penalty");
}
