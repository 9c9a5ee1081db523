//! Prompts, settings and arguments that cannot be: each is told by name.

use std::ffi::OsString;

use tempfile::TempDir;

use crate::damage::{readable, refused, says, write};
use crate::program::{Outcome, fireside, run, run_with};
use crate::support::{model, name_of};

#[test]
fn prompts_that_cannot_be_run_are_told() {
    let tale = model("tale");
    let check = |stdin: &[u8], args: &[&str], words: &[&str]| {
        for verb in ["generate", "score"] {
            let outcome = run_with(fireside([&[verb, "-m", &tale], args].concat()), stdin);
            says(&refused(&outcome, 2, &format!("{verb} {args:?}")), words, verb);
        }
    };
    for args in [&[][..], &["-"], &[""]] {
        let answer = |verb| refused(&run(fireside([&[verb, "-m", &tale], args].concat())), 2, verb);
        says(&answer("generate"), &["the prompt is empty", "`<|endoftext|>` starts from nothing"], "generate");
        says(&answer("score"), &["the text has 0 tokens, expected at least 2", "hint: score a longer text"], "score");
        let told = refused(&run(fireside([&["chat", "-m", &tale], args].concat())), 2, "chat");
        says(&told, &["expected a question, found none"], "chat");
    }
    check(b"ab\xffcd", &[], &["UTF-8", "at 2", "stdin"]);
    check(b"\xff\xfeU\0T\0F\0", &["-"], &["UTF-8", "at 0", "stdin"]);
    check(&[0xe2, 0x82], &[], &["UTF-8", "stdin"]);

    let long = "many words ".repeat(300);
    let outcome = run_with(fireside(["generate", "-m", &tale]), long.as_bytes());
    says(&refused(&outcome, 2, "long"), &["tokens, expected at most 511", "512", "hint: ", "--truncation"], "long");
    let outcome = run_with(fireside(["generate", "-m", &tale, "--truncation=left", "-n", "2"]), long.as_bytes());
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let outcome = run(fireside(["score", "-m", &tale, "."]));
    says(&refused(&outcome, 2, "score"), &["the text has 1 token, expected at least 2"], "score");

    let folder = TempDir::new().unwrap();
    write(folder.path(), "latin1.txt", b"na\xefve");
    let file = |name: &str| name_of(&folder.path().join(name));
    for (path, code, words) in [
        (file("latin1.txt"), 2, &["UTF-8", "at 2", "latin1.txt`"][..]),
        (file("absent.txt"), 1, &["cannot read", "absent.txt"]),
        (file(""), 1, &["cannot read"]),
    ] {
        let outcome = run(fireside(["generate", "-m", &tale, "--file", &path]));
        says(&refused(&outcome, code, &path), words, &path);
    }
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    for args in [
        vec![b"generate".to_vec(), b"ab\xff".to_vec()],
        vec![b"generate".to_vec(), b"-m".to_vec(), b"\xff".to_vec(), b"x".to_vec()],
    ] {
        let outcome = run(fireside(args.into_iter().map(OsString::from_vec)));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{outcome:?}");
        says(&outcome.stderr, &["error: ", "UTF-8"], "argument");
    }
}

#[test]
fn ids_that_are_not_in_the_vocabulary_are_refused() {
    let tale = model("tale");
    for (ids, words) in [
        ("1 2 three", &["expected token ids, found `three`"][..]),
        ("1 -2", &["found `-2`"]),
        ("513", &["found 513"]),
        ("4294967295", &["found 4294967295"]),
        ("4294967296", &["`4294967296`"]),
        ("1\x1b[31m", &["\\u{1b}[31m"]),
    ] {
        let outcome = run_with(fireside(["tokenize", "-m", &tale, "--decode"]), ids.as_bytes());
        says(&refused(&outcome, 2, ids), words, ids);
    }
}

/// `generate` on the tiny model with these flags and a prompt.
fn with_flags(flags: &str) -> Outcome {
    let tale = model("tale");
    let flags: Vec<&str> = flags.split(' ').collect();
    run(fireside([&["generate", "-m", &tale], &flags[..], &["abc"]].concat()))
}

#[test]
fn impossible_settings_are_told_by_name() {
    let check = |args: &str, words: &[&str]| {
        let outcome = with_flags(args);
        says(&refused(&outcome, 2, args), words, args);
    };
    check("--top-p 0", &["`top_p` is 0", "above 0"]);
    check("--top-p 1.5", &["`top_p` is 1.5", "at most 1"]);
    check("--top-h 0", &["`top_h` is 0"]);
    check("--min-p 2", &["`min_p` is 2"]);
    check("--min-p -0.1", &["`min_p` is -0.1"]);
    check("--typical-p 0", &["`typical_p` is 0"]);
    check("--epsilon-cutoff 1", &["`epsilon_cutoff` is 1"]);
    check("--eta-cutoff -1", &["`eta_cutoff` is -1"]);
    check("--temperature -1", &["`temperature` is -1", "1e-6"]);
    check("--temperature 0 --do-sample", &["`temperature` is 0 while `do_sample` is true"]);
    check("--repetition-penalty 0", &["`repetition_penalty` is 0"]);
    check("--repetition-penalty -2", &["`repetition_penalty` is -2"]);
    check("--exponential-decay-length-penalty 3,0", &["`exponential_decay_length_penalty` is 0"]);
    check("--max-time 0", &["`max_time` is 0"]);
    check("--max-time -1", &["`max_time` is -1"]);
    check("--max-new-tokens 0", &["`max_new_tokens` is 0"]);
    check("--max-length 0", &["`max_length` is 0"]);
    check("--max-length 1", &["`max_length` is 1", "prompt alone has"]);
    check("--min-new-tokens 9 --max-new-tokens 5", &["`min_new_tokens` is 9", "`max_new_tokens`"]);
    check("--min-length 90 --max-length 50", &["`min_length` is 90", "`max_length`"]);
    check("--min-new-tokens 600", &["`min_new_tokens`", "600"]);
    check("--num-beams 0", &["`num_beams` is 0"]);
    check("--num-beams 100000", &["`num_beams` is 100000", "1024"]);
    check("--num-return-sequences 0", &["`num_return_sequences` is 0"]);
    check("--num-return-sequences 1000000", &["`num_return_sequences` is 1000000"]);
    check("--num-beams 2 --num-return-sequences 3", &["`num_return_sequences` is 3", "`num_beams`"]);
    check("--num-return-sequences 2 --do-sample=false", &["`num_return_sequences` is 2", "likeliest"]);
    check("--num-beams 4 --stream", &["`stream`", "`num_beams`"]);
    check("--num-return-sequences 2 --stream", &["`stream`", "`num_return_sequences`"]);
    check("--num-beams 2 --prompt-lookup-num-tokens 3", &["`prompt_lookup_num_tokens`", "`num_beams`"]);
    check(
        "--num-return-sequences 2 --prompt-lookup-num-tokens 3",
        &["`prompt_lookup_num_tokens`", "`num_return_sequences`"],
    );
    check("--prompt-lookup-num-tokens 0", &["`prompt_lookup_num_tokens` is 0"]);
    check("--max-matching-ngram-size 0 --prompt-lookup-num-tokens 3", &["`max_matching_ngram_size` is 0"]);
    check("--stop-strings=", &["`stop_strings` holds an empty text"]);
    check("--bad-words=", &["`bad_words` holds an empty text"]);
    check("--eos-token-id 513", &["`eos_token_id` holds the token 513", "below 513"]);
    check("--suppress-tokens 1,99999", &["`suppress_tokens` holds the token 99999"]);
    check("--begin-suppress-tokens 513", &["`begin_suppress_tokens` holds the token 513"]);
    check("--forced-bos-token-id 513", &["`forced_bos_token_id` holds the token 513"]);
    check("--forced-eos-token-id 513", &["`forced_eos_token_id` holds the token 513"]);
    check("--bad-words-ids 1,513", &["`bad_words_ids` holds the token 513"]);
    check("--logit-bias 513=1", &["`logit_bias` holds the token 513"]);
    check("--logit-bias 5=1 --logit-bias 7=1 --logit-bias 5=2", &["`logit_bias` is given twice for the token 5"]);
    check("--sequence-bias 1,513=1", &["`sequence_bias` holds the token 513"]);
    check("--context 0", &["`context` is 0", "from 2 to 512"]);
    check("--context 1", &["`context` is 1", "from 2 to 512"]);
    check("--context 513", &["`context` is 513", "from 2 to 512"]);
    check("--context 18446744073709551615", &["`context`", "from 2 to 512"]);
    check("--top-logprobs 2 --logprobs=false", &["`top_logprobs`", "`logprobs` is false"]);
    let tale = model("tale");
    let score = |args: &[&str], words: &[&str]| {
        let outcome = run(fireside([&["score", "-m", &tale, "abc def"], args].concat()));
        says(&refused(&outcome, 2, &format!("{args:?}")), words, "score");
    };
    score(&["--window", "1"], &["`window` is 1", "from 2 to 512"]);
    score(&["--window", "513"], &["`window` is 513"]);
    score(&["--stride", "0"], &["`stride` is 0"]);
    score(&["--window", "10", "--stride", "11"], &["`stride` is 11", "from 1 to 10"]);
}

#[test]
fn settings_that_are_no_finite_numbers_are_told_by_name() {
    let check = |args: &str, words: &[&str]| {
        let outcome = with_flags(args);
        says(&refused(&outcome, 2, args), words, args);
    };
    check("--top-p nan", &["`top_p` is NaN"]);
    check("--temperature nan", &["`temperature` is NaN"]);
    check("--temperature inf", &["`temperature` is inf"]);
    check("--presence-penalty inf", &["`presence_penalty` is inf"]);
    check("--frequency-penalty nan", &["`frequency_penalty` is NaN"]);
    check("--length-penalty nan --num-beams 2", &["`length_penalty` is NaN"]);
    check("--max-time nan", &["`max_time` is NaN"]);
    check("--logit-bias 5=nan", &["`logit_bias` holds a NaN"]);
    check("--sequence-bias 1=inf", &["`sequence_bias` is inf"]);
    check("--sequence-bias 1=nan", &["`sequence_bias` is NaN"]);
    check("--exponential-decay-length-penalty 3,nan", &["`exponential_decay_length_penalty` is NaN"]);
}

#[test]
fn a_bias_of_minus_infinity_forbids_a_token() {
    let tale = model("tale");
    let text = |flags: &[&str]| {
        run(fireside(
            [&["generate", "-m", &tale, "-n", "8", "-t", "0", "Anna carried a small lantern near the mill."], flags]
                .concat(),
        ))
        .answer()
    };
    assert_eq!(text(&["--logit-bias", "504=-inf"]), text(&["--suppress-tokens", "504"]));
}

#[test]
fn arguments_that_do_not_parse_are_bad_usage() {
    let check = |args: &str, words: &[&str]| {
        let outcome = with_flags(args);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{args}: {outcome:?}");
        assert!(outcome.stderr.starts_with("error: "), "{args}: {}", outcome.stderr);
        readable(&outcome.stderr, args);
        says(&outcome.stderr, words, args);
    };
    check("--threads 0", &["--threads", "0"]);
    check("--threads 100000", &["--threads", "100000"]);
    check("--device tpu", &["--device", "`cpu`, `cuda`, `cuda:N` or `metal`"]);
    check("--device cuda:x", &["--device", "GPU's index", "x"]);
    check("--dtype q4", &["--dtype", "`f32`, `f16` or `bf16`"]);
    check("--temperature hot", &["--temperature", "hot"]);
    check("--top-k -1", &["--top-k", "-1"]);
    check("--top-k 1.5", &["--top-k", "1.5"]);
    check("--max-new-tokens 99999999999999999999", &["--max-new-tokens"]);
    check("--seed -1", &["--seed"]);
    check("--early-stopping maybe", &["`true`, `false` or `never`"]);
    check("--truncation=middle", &["`right`, `left` or `false`"]);
    check("--exponential-decay-length-penalty 5", &["20,1.05"]);
    check("--logit-bias 5", &["`=`", "11,12=-2.5"]);
    check("--logit-bias 5,6=1", &["sequence_bias"]);
    check("--sequence-bias 5=x", &["expected a number"]);
    check("--bad-words-ids a", &["--bad-words-ids", "token ids"]);
    check("--do-sample=maybe", &["--do-sample", "maybe"]);
    check("--json --stream", &["--json", "--stream"]);
    check("--details", &["--json"]);
    check("--file x", &["--file"]);
    check("--top-p 0.5 --top-p 0.6", &["--top-p", "multiple"]);
    check("--no-such-flag", &["--no-such-flag"]);
}

#[test]
fn hardware_that_is_not_there_is_told() {
    let tale = model("tale");
    let check = |args: &[&str], kernels: Option<&str>, words: &[&str]| {
        let mut command = fireside([&["generate", "-m", &tale], args, &["abc"]].concat());
        kernels.map(|kernels| command.env("FIRESIDE_KERNELS", kernels));
        says(&refused(&run(command), 1, &format!("{args:?} {kernels:?}")), words, "hardware");
    };
    if !cfg!(feature = "cuda") {
        check(&["--device", "cuda"], None, &["cannot use `cuda`", "--features cuda"]);
        check(&["--device", "cuda:7"], None, &["cannot use `cuda`"]);
    }
    if !cfg!(feature = "metal") {
        check(&["--device", "metal"], None, &["cannot use `metal`", "--features metal"]);
    }
    check(&[], Some("foo"), &["`FIRESIDE_KERNELS` is `foo`", "scalar"]);
    check(&[], Some("\x1b[31m"), &["\\u{1b}[31m"]);
    check(&[], Some(&"x".repeat(20_000)), &["xxx…"]);
}
