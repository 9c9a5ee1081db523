//! Flags beside each other: where one makes another impossible or idle, somebody says so, by name.

use crate::cli::PROMPT;
use crate::damage::{refused, says};
use crate::program::{fireside, run, run_with};
use crate::support::{copy_of, fixture, model, name_of};

/// What is said of a pair.
enum Said {
    /// It is refused, with these words.
    Refused(&'static [&'static str]),
    /// It runs, and this setting is said to be idle, with these words.
    Idle(&'static str, &'static str),
    /// It runs, and nothing is said, because both act or the one asks for what the other brings.
    Nothing,
}
use Said::{Idle, Nothing, Refused};

/// Two flags or groups of flags on the tiny model with twelve new tokens at most, unless they say otherwise.
const PAIRS: &[(&str, &str, Said)] = &[
    ("--max-length 30", "--max-new-tokens 4", Idle("max_length", "beside `max_new_tokens`")),
    ("--min-length 2", "--min-new-tokens 2", Idle("min_length", "beside `min_new_tokens`")),
    ("--min-new-tokens 9", "--max-new-tokens 4", Refused(&["`min_new_tokens` is 9", "`max_new_tokens`"])),
    ("--min-new-tokens 9", "--ignore-eos", Idle("min_new_tokens", "beside `ignore_eos`")),
    ("--min-length 9", "--ignore-eos", Idle("min_length", "beside `ignore_eos`")),
    ("--eos-token-id 9", "--ignore-eos", Idle("eos_token_id", "beside `ignore_eos`")),
    (
        "--exponential-decay-length-penalty 2,1.5",
        "--ignore-eos",
        Idle("exponential_decay_length_penalty", "beside `ignore_eos`"),
    ),
    (
        "--exponential-decay-length-penalty 11,1.5",
        "--max-new-tokens 12",
        Idle("exponential_decay_length_penalty", "begins behind 11 of 12 new tokens"),
    ),
    ("--exponential-decay-length-penalty 10,1.5", "--max-new-tokens 12", Nothing),
    ("--do-sample", "--temperature 0", Refused(&["`temperature` is 0 while `do_sample` is true"])),
    ("--do-sample=false", "--temperature 0", Nothing),
    ("--seed 3", "--temperature 0", Idle("seed", "the likeliest token is taken")),
    ("--top-k 5", "--temperature 0", Idle("top_k", "the likeliest token is taken")),
    ("--top-p 0.5", "--temperature 0", Idle("top_p", "the likeliest token is taken")),
    ("--temperature 2", "--do-sample=false", Idle("temperature", "the likeliest token is taken")),
    ("--seed 3", "--top-k 1", Idle("seed", "`top_k` 1 leaves one token")),
    ("--temperature 2", "--top-k 1", Idle("temperature", "`top_k` 1 leaves one token")),
    ("--top-p 0.5", "--top-k 1", Idle("top_p", "`top_k` 1 leaves one token")),
    ("--top-h 0.5", "--top-k 1", Idle("top_h", "`top_k` 1 leaves one token")),
    ("--min-p 0.5", "--top-k 1", Idle("min_p", "`top_k` 1 leaves one token")),
    ("--typical-p 0.5", "--top-k 1", Idle("typical_p", "`top_k` 1 leaves one token")),
    ("--epsilon-cutoff 0.1", "--top-k 1", Idle("epsilon_cutoff", "`top_k` 1 leaves one token")),
    ("--eta-cutoff 0.1", "--top-k 1", Idle("eta_cutoff", "`top_k` 1 leaves one token")),
    ("--seed 3", "--top-k 1 --num-beams 2", Nothing),
    ("--do-sample=false", "--num-return-sequences 2", Refused(&["`num_return_sequences` is 2", "one text"])),
    ("--num-beams 2", "--num-return-sequences 3", Refused(&["`num_return_sequences` is 3, above `num_beams`"])),
    ("--num-beams 2", "--prompt-lookup-num-tokens 3", Refused(&["`prompt_lookup_num_tokens`", "`num_beams`"])),
    (
        "--num-return-sequences 2",
        "--prompt-lookup-num-tokens 3",
        Refused(&["`prompt_lookup_num_tokens`", "`num_return_sequences`"]),
    ),
    ("--num-beams 2", "--stream", Refused(&["`stream`", "`num_beams`"])),
    ("--json", "--stream=false", Refused(&["--json", "--stream"])),
    ("--num-beams 1", "--length-penalty 2", Idle("length_penalty", "without `num_beams` above 1")),
    ("--num-beams 1", "--early-stopping true", Idle("early_stopping", "without `num_beams` above 1")),
    ("--num-beams 1", "--renormalize-logits", Idle("renormalize_logits", "without `num_beams` above 1")),
    ("--num-beams 2 --ignore-eos", "--early-stopping true", Idle("early_stopping", "nothing ends a text before")),
    ("--num-beams 2 --ignore-eos --stop fox", "--early-stopping true", Nothing),
    ("--num-beams 2 --seed 1", "--early-stopping true", Nothing),
    ("--num-beams 1", "--max-matching-ngram-size 3", Idle("max_matching_ngram_size", "without `prompt_lookup")),
    ("--top-logprobs 2 --json --details", "--logprobs=false", Refused(&["`top_logprobs`", "`logprobs` is false"])),
    ("--logprobs", "--json", Idle("logprobs", "is shown only with")),
    ("--prompt-logprobs", "--stream", Idle("prompt_logprobs", "is shown only with")),
    ("--bad-words-ids 512", "--seed 1", Idle("bad_words_ids", "on an end token")),
    ("--bad-words <|endoftext|>", "--seed 1", Idle("bad_words", "on an end token")),
    ("--choice yes", "--regex a+", Refused(&["`choice` is given beside `regex`"])),
    ("--choice yes", "--grammar root::=[a-z]", Refused(&["`grammar` is given beside `choice`"])),
    ("--choice yes --choice no", "--min-new-tokens 9", Idle("min_new_tokens", "`choice` allows nothing further")),
    ("--choice yes --choice no", "--min-length 30", Idle("min_length", "`choice` allows nothing further")),
    ("--choice yes --choice no", "--ignore-eos", Idle("ignore_eos", "`choice` allows nothing further")),
    ("--choice yes --choice no", "--eos-token-id 512", Idle("eos_token_id", "`choice` allows nothing further")),
    (
        "--choice yes --choice no",
        "--exponential-decay-length-penalty 1,2",
        Idle("exponential_decay_length_penalty", "`choice` allows nothing further"),
    ),
    ("--choice yes --choice no --num-beams 2", "--ignore-eos", Idle("ignore_eos", "`choice` allows nothing further")),
    ("--regex [a-z]{3}", "--ignore-eos", Idle("ignore_eos", "`regex` allows nothing further")),
    ("--regex [a-z]{3,200}", "--min-new-tokens 4", Nothing),
    ("--regex [a-z]+", "--ignore-eos", Nothing),
    (
        "--choice yes --choice no",
        "--forced-eos-token-id 512",
        Idle("forced_eos_token_id", "the constraint does not allow the token"),
    ),
    ("--threads 1", "--prompt-cache-ro", Refused(&["--prompt-cache"])),
    ("--quant q8_0", "--dtype f32", Refused(&["--quant", "--dtype"])),
    ("--offline", "--progress json", Idle("--progress", "beside `--offline`")),
    ("--offline", "--progress none", Nothing),
    ("--logit-bias 5=1", "--logit-bias 5=2", Refused(&["`logit_bias` is given twice for the token 5"])),
    (
        "--sequence-bias 5,6=1",
        "--sequence-bias 5,6=2",
        Idle("sequence_bias", "given twice for 5,6, and the last one counts"),
    ),
    ("--seed 1", "--seed 2", Refused(&["--seed", "multiple times"])),
    ("--model x", "--model y", Refused(&["--model", "multiple times"])),
];

#[test]
fn no_flag_is_idle_in_silence_beside_another() {
    let tale = model("tale");
    for (one, other, said) in PAIRS {
        for (first, second) in [(one, other), (other, one)] {
            let what = format!("{first} {second}");
            let mut args: Vec<&str> = vec!["generate", PROMPT];
            args.extend(first.split(' ').chain(second.split(' ')));
            if !what.contains("--max-new-tokens") {
                args.extend(["-n", "12"]);
            }
            if !what.contains("--model") {
                args.extend(["--model", &tale]);
            }
            let outcome = run(fireside(args));
            let warnings: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
            match said {
                Refused(words) => {
                    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{what}: {outcome:?}");
                    assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{what}: {}", outcome.stderr);
                }
                Idle(setting, words) => {
                    assert_eq!(outcome.code, Some(0), "{what}: {outcome:?}");
                    let told = |line: &&&str| line.contains(&format!("`{setting}`")) && line.contains(words);
                    assert_eq!(warnings.iter().filter(told).count(), 1, "{what}: {}", outcome.stderr);
                }
                Nothing => assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{what}"),
            }
        }
    }
}

#[test]
fn a_wish_for_the_end_that_was_kept_is_not_called_idle() {
    let tale = model("tale");
    let check = |flags: &str| {
        let flags: Vec<&str> = flags.split(' ').collect();
        let args =
            [&["generate", "-m", &tale, "--temperature", "0", "--return-full-text=false"], &flags[..], &[PROMPT]];
        run(fireside(args.concat())).answer()
    };
    // The end is open from the third letter on, so that each of these has something to choose.
    check("-n 40 --regex [a-z]{3,30} --exponential-decay-length-penalty 1,4");
    let long = check("-n 60 --regex [a-z]{3,30} --ignore-eos");
    assert_eq!(long.trim_end().len(), 30, "{long:?}");
}

#[test]
fn a_variable_of_a_template_is_given_once() {
    let folder = copy_of(&fixture("tale"));
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }} {{ enable_thinking }}")
        .unwrap();
    let name = name_of(folder.path());
    let check = |flags: &[&str], words: &[&str]| {
        let outcome = run(fireside([&["chat", "-m", &name, "-n", "2"], flags, &["x"]].concat()));
        says(&refused(&outcome, 2, &format!("{flags:?}")), words, "chat");
    };
    let thinking = "enable_thinking=true";
    check(&["--template-arg", "a=1", "--template-arg", "a=2"], &["`template_arg` gives `a` twice", "hint: "]);
    check(&["--no-think", "--template-arg", thinking], &["`template_arg` gives `enable_thinking` twice"]);
    let outcome = run(fireside(["chat", "-m", &name, "-n", "2", "--template-arg", thinking, "x"]));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    let told = run_with(fireside(["chat", "-m", &name, "-n", "9", "--choice", "yes", "--min-new-tokens", "8"]), b"x");
    assert!(told.stderr.contains("`min_new_tokens` has no effect where `choice`"), "{}", told.stderr);
}
