//! The commands among other programs: terminals, pipes, signals, full disks.

use std::io::{Read, Write};
use std::process::Command;

use serde_json::json;

use crate::cli::{PROMPT, greedy, parsed};
use crate::program::{Outcome, edit_tensors, fireside, piped, run};
use crate::support::{copy_of, fixture, model, name_of};

#[test]
fn nothing_is_coloured_without_a_terminal_or_with_no_color() {
    let tale = model("tale");
    let lines: [&[&str]; 6] = [
        &["--help"],
        &["generate", "--help"],
        &["nonsense"],
        &["generate", "-m", "nonsense", "x"],
        &["generate", "-m", &tale, "-v", "--do-sample=false", "--top-k", "3", "-n", "3", "x"],
        &["info", &tale],
    ];
    for args in lines {
        for no_color in ["", "1"] {
            let mut command = fireside(args);
            command.env("NO_COLOR", no_color).env("TERM", "xterm-256color");
            let Outcome { stdout, stderr, .. } = run(command);
            assert!(!stdout.contains('\x1b') && !stderr.contains('\x1b'), "{args:?}");
        }
    }
}

#[test]
fn a_missing_environment_changes_nothing() {
    let expected = run(greedy(&["-n", "10", PROMPT])).answer();
    let mut command = greedy(&["-n", "10", PROMPT]);
    for name in ["HOME", "USER", "PATH", "TERM", "LANG", "XDG_CACHE_HOME", "TMPDIR"] {
        command.env_remove(name);
    }
    assert_eq!(run(command).answer(), expected);
}

#[test]
fn an_empty_choice_of_kernels_is_none() {
    let info = |kernels: Option<&str>| {
        let mut command = fireside(["info", "--json"]);
        match kernels {
            Some(kernels) => command.env("FIRESIDE_KERNELS", kernels),
            None => command.env_remove("FIRESIDE_KERNELS"),
        };
        parsed(&run(command).answer())["device"].clone()
    };
    assert_eq!(info(Some("")), info(None));
    assert!(info(Some("scalar")).as_str().is_some_and(|device| device.starts_with("cpu (scalar")));
}

#[test]
fn bad_usage_exits_with_2_and_says_so_on_stderr() {
    for args in [
        &["nonsense"][..],
        &["generate", "--nonsense", "x"],
        &[],
        &["completions", "nonsense"],
        &["generate", "--details", "x"],
        &["generate", "--json", "--stream", "x"],
        &["tokenize", "--count", "--json", "x"],
        &["tokenize", "--ids", "--json", "x"],
        &["completions", "bash", "nonsense"],
    ] {
        let outcome = run(fireside(args));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(!outcome.stderr.is_empty(), "{args:?}");
    }
    for (args, problem) in [
        (&["generate", "-n", "-1", "x"][..], "invalid value '-1' for '--max-new-tokens <N>': expected a whole number"),
        (&["generate", "--top-k", "1e3", "x"], "'1e3' for '--top-k <K>': expected a whole number, 0 or more"),
        (&["generate", "--suppress-tokens", "1,", "x"], "'' for '--suppress-tokens <ID,…>': expected a whole number"),
        (&["generate", "--seed", "99999999999999999999", "x"], "the number is too large"),
        (&["generate", "--top-p", "half", "x"], "'half' for '--top-p <P>': expected a number"),
        (&["bench", "--threads", "two"], "expected a whole number"),
        (&["bench", "--random", "ember"], "`ember` is here with its own weights"),
    ] {
        let outcome = run(fireside(args));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(outcome.stderr.starts_with("error: ") && outcome.stderr.contains(problem), "{}", outcome.stderr);
    }
    let help = run(fireside(["--help"])).answer();
    for verb in ["generate", "tokenize", "score", "info", "completions"] {
        assert!(help.contains(verb), "{verb}");
    }
    assert!(run(fireside(["--version"])).answer().starts_with("fireside "));
}

/// A copy of the tiny model with room for so many tokens that a text of them takes many seconds.
pub fn long_winded() -> tempfile::TempDir {
    const CONTEXT: usize = 50_000;
    let folder = copy_of(&fixture("tale"));
    let config = folder.path().join("config.json");
    let mut json = parsed(&std::fs::read_to_string(&config).unwrap());
    json["n_positions"] = json!(CONTEXT);
    std::fs::write(config, json.to_string()).unwrap();
    edit_tensors(&folder.path().join("model.safetensors"), |tensors| {
        let wpe = tensors.iter_mut().find(|(name, _)| name.ends_with("wpe.weight")).expect("positions").1;
        wpe.data.resize(CONTEXT * wpe.shape[1] * 4, 0);
        wpe.shape[0] = CONTEXT;
    });
    folder
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_was_printed_and_exits_with_130() {
    let folder = long_winded();
    let name = name_of(folder.path());
    let mut command = fireside(["generate", "-m", &name, "-n", "49000", "--ignore-eos", "--seed", "3", PROMPT]);
    command.env("FIRESIDE_KERNELS", "scalar");
    let mut child = piped(&mut command);
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut printed = vec![0; PROMPT.len() + 200];
    stdout.read_exact(&mut printed).expect("a text");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    stdout.read_to_end(&mut printed).expect("the rest");
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(130), ""));
    let printed = String::from_utf8(printed).expect("whole characters");
    assert!(printed.starts_with(PROMPT) && printed.len() < 80_000, "{} bytes", printed.len());
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_enough_ends_the_program_quietly() {
    let folder = long_winded();
    let name = name_of(folder.path());
    let lines: [&[&str]; 4] = [
        &["generate", "-m", &name, "-n", "49000", "--ignore-eos", PROMPT],
        &["tokenize", "-m", &name, "--ids", "-"],
        &["completions", "bash"],
        &["generate", "--help"],
    ];
    for args in lines {
        let mut child = piped(&mut fireside(args));
        let mut stdin = child.stdin.take().expect("a pipe");
        // Ids that no pipe's buffer holds; the other commands read no stdin.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&b"zq".repeat(200_000))));
        let mut stdout = child.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0; 8]).expect("a first word");
        drop(stdout);
        let output = child.wait_with_output().expect("an end");
        writer.join().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{args:?}");
    }
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let tale = model("tale");
    let program = env!("CARGO_BIN_EXE_fireside");
    let lines = [
        format!("generate -m '{tale}' -n 5 hello"),
        format!("generate -m '{tale}' -n 5 --json hello"),
        format!("tokenize -m '{tale}' hello"),
        format!("score -m '{tale}' hello"),
        format!("info '{tale}'"),
        "completions bash".to_owned(),
        "--help".to_owned(),
        "--version".to_owned(),
        "help".to_owned(),
        "generate --help".to_owned(),
        "help score".to_owned(),
    ];
    for line in lines {
        let ends = [(">/dev/full", "No space left"), (">&-", "stdout is closed")];
        let ends = if cfg!(target_os = "macos") { &ends[1..] } else { &ends }; // macOS has no /dev/full
        for (redirection, reason) in ends {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("exec '{program}' {line} {redirection}")]);
            let outcome = run(shell);
            assert_eq!(outcome.code, Some(1), "{line} {redirection}: {outcome:?}");
            assert!(
                outcome.stderr.starts_with("error: cannot write the answer") && outcome.stderr.contains(*reason),
                "{}",
                outcome.stderr
            );
        }
    }
}

#[cfg(feature = "hub")]
#[test]
fn pulling_what_needs_no_fetching_is_bad_usage() {
    for (args, problem) in [
        (&["pull", "ember"][..], "`ember` is inside the program"),
        (&["pull", "gpt2", "--file", ""], "a value is required for '--file <NAME>'"),
    ] {
        let outcome = run(fireside(args));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{args:?}");
        assert!(outcome.stderr.starts_with("error: ") && outcome.stderr.contains(problem), "{}", outcome.stderr);
    }
}

#[cfg(feature = "hub")]
#[test]
fn a_model_that_cannot_be_fetched_is_named_and_a_mistaken_path_found() {
    for verb in [&["info"][..], &["pull"], &["generate", "x", "-m"]] {
        let outcome = run(fireside([verb, &["tests/nothing"]].concat()));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{verb:?}");
        let (error, hint) = outcome.stderr.split_once("\n\nhint: ").unwrap_or_default();
        assert!(error.starts_with("error: cannot fetch `tests/nothing`: "), "{error}");
        assert!(hint.starts_with("the folder `tests` here has no such model; otherwise "), "{hint}");
    }
}

#[test]
fn a_setting_that_became_a_word_of_the_text_is_told() {
    let tale = model("tale");
    let check = |args: &[&str], expected: &str| {
        let outcome = run(fireside([&["generate", "-m", &tale, "-n", "2", "--seed", "1"], args].concat()));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), expected), "{args:?}");
    };
    check(
        &["--do-sample", "false", "hi"],
        "warning: `false` is part of the text; `--do-sample=false` is the setting\n",
    );
    check(&["--truncation", "left", "hi"], "warning: `left` is part of the text; `--truncation=left` is the setting\n");
    check(&["--do-sample", "falsehoods"], "");
    check(&["--do-sample", "--", "true", "story"], "");
}

#[cfg(unix)]
#[test]
fn closed_stdin_and_stderr_are_survived() {
    let tale = model("tale");
    let program = env!("CARGO_BIN_EXE_fireside");
    let check = |line: &str, code: i32| {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec '{program}' {line}")]);
        assert_eq!(run(shell).code, Some(code), "{line}");
    };
    check(&format!("generate -m '{tale}' -n 2 hello <&-"), 0);
    check(&format!("generate -m '{tale}' -n 2 <&-"), 2);
    check(&format!("generate -m '{tale}' -v -n 2 hello 2>&-"), 0);
    check("generate -m nonsense hello 2>&-", 1);
}

#[test]
fn a_constraint_may_be_a_file_and_is_judged_before_a_model_is_looked_for() {
    let folder = tempfile::TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        format!("@{}", name_of(&file))
    };
    let generated =
        |flag: &str, value: &str| run(greedy(&["-n", "60", "--return-full-text=false", flag, value, PROMPT])).answer();
    let schema = r#"{ "type": "array", "items": { "const": "a" }, "minItems": 2, "maxItems": 2 }"#;
    assert_eq!(parsed(&generated("--json-schema", schema)), json!(["a", "a"]));
    assert_eq!(generated("--json-schema", &write("schema", schema)), generated("--json-schema", schema));
    assert_eq!(generated("--grammar", &write("gbnf", "root ::= \"one\" | \"two\"{2}")).trim_end().len() % 3, 0);
    let refused = |flag: &str, value: &str, problem: &str| {
        let outcome = run(fireside(["generate", "-m", "no/such/model", flag, value, PROMPT]));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error: ") && outcome.stderr.contains(problem), "{}", outcome.stderr);
    };
    refused("--regex", "[a", "`regex` cannot be read: unclosed character class");
    refused("--json-schema", "{", "expected a JSON schema");
    refused("--json-schema", "@no such file", "cannot read the file");
    refused("--json-schema", r#"{"minimun": 1}"#, "the keyword `minimun`");
    refused("--grammar", &write("lark", "start: nothing"), "`grammar` cannot be read at line 1");
}
