//! The verbs beside `generate`: tokenize, score, info, completions.

use serde_json::{Value, json};

use crate::cli::{PROMPT, greedy, parsed, text};
use crate::program::{Tensor, edit_tensors, fireside, run, run_with};
use crate::support::{cases, copy_of, f32_of, fixture, ids, json, model, name_of};

#[test]
fn tokenize_gives_the_ids_of_pythons_tokenizers_and_takes_them_back() {
    let (tale, fixture) = (model("tale"), json("tokens.json"));
    let tokenize = |args: &[&str], stdin: &str| {
        run_with(fireside([&["tokenize", "--model", &tale], args].concat()), stdin.as_bytes()).answer()
    };
    let words = |ids: &[u32]| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
    for case in cases(&fixture).iter().step_by(3) {
        let (input, expected) = (text(&case["text"]), ids(&case["ids"]));
        assert_eq!(tokenize(&["--ids", "-"], input), format!("{}\n", words(&expected)), "{input:?}");
        assert_eq!(tokenize(&["--decode"], &words(&expected)), format!("{}\n", text(&case["decoded"])), "{input:?}");
    }
    for case in fixture["random_ids"].as_array().expect("a list").iter().step_by(4) {
        let ids = words(&ids(&case["ids"]));
        assert_eq!(tokenize(&["--decode", &ids], ""), format!("{}\n", text(&case["decoded"])));
        assert_eq!(
            tokenize(&["--decode", "--no-special-tokens", &ids], ""),
            format!("{}\n", text(&case["decoded_without_special"]))
        );
    }
}

#[test]
fn tokenize_prints_pieces_ids_a_count_or_json() {
    let tale = model("tale");
    let check = |args: &[&str], expected: &str| {
        assert_eq!(run(fireside([&["tokenize", "--model", &tale], args].concat())).answer(), expected, "{args:?}");
    };
    let lines = " 39  \"H\"\n312  \"el\"\n 75  \"l\"\n 78  \"o\"\n343  \" W\"\n281  \"or\"\n 75  \"l\"\n 67  \"d\"\n";
    check(&["Hello World"], lines);
    check(&["Hello", "World"], lines);
    check(&["--no-special-tokens", "Hello World"], lines);
    check(&["--ids", "Hello World"], "39 312 75 78 343 281 75 67\n");
    check(&["--count", "Hello World"], "8\n");
    check(&["--count", ""], "0\n");
    let expected = json!({
        "ids": [39, 312, 75, 78, 343, 281, 75, 67], "tokens": ["H", "el", "l", "o", "ĠW", "or", "l", "d"],
        "pieces": ["H", "el", "l", "o", " W", "or", "l", "d"], "count": 8,
    });
    check(&["--json", "Hello World"], &format!("{expected}\n"));
    check(
        &["--json", "--decode", "39,312, 512"],
        &format!("{}\n", json!({ "ids": [39, 312, 512], "text": "Hel<|endoftext|>", "count": 3 })),
    );
    check(&["--decode", "--no-special-tokens", "39 312 512"], "Hel\n");
}

#[test]
fn score_is_the_perplexity_of_transformers() {
    let (tale, fixture) = (model("tale"), json("perplexity.json"));
    let score = |command: &str, args: &[&str]| {
        run_with(fireside([&[command, "--model", &tale], args].concat()), text(&fixture["text"]).as_bytes()).answer()
    };
    for case in cases(&fixture).iter().filter(|case| case["total_tokens"] == json!(ids(&fixture["ids"]).len())) {
        let (window, stride) = (case["window"].to_string(), case["stride"].to_string());
        let expected = case["exact"]["perplexity"].as_f64().expect("a number");
        let answer = parsed(&score("score", &["--window", &window, "--stride", &stride, "--json"]));
        let found = answer["perplexity"].as_f64().expect("a number");
        assert!(
            (found / expected - 1.0).abs() < 1e-4,
            "window {window}, stride {stride}: {found}, expected {expected}"
        );
        assert_eq!(answer["scored_tokens"], case["exact"]["tokens"]);
        let printed = score("perplexity", &["--window", &window, "--stride", &stride]);
        let printed: f64 = printed
            .lines()
            .next()
            .and_then(|line| line.split_whitespace().last())
            .and_then(|n| n.parse().ok())
            .expect("a number");
        assert!((printed / expected - 1.0).abs() < 1e-4, "{printed}");
    }
    let top = parsed(&run(fireside(["score", "-m", &tale, "--json", "--top-logprobs", "3", PROMPT])).answer());
    assert_eq!(top["tokens"][0]["logprob"], Value::Null);
    assert_eq!(top["tokens"][1]["top_tokens"].as_array().map(Vec::len), Some(3));
    assert_eq!((&top["tokens"][0]["token"], &top["tokens"][0]["text"]), (&json!("A"), &json!("A")));
}

#[test]
fn a_perplexity_beyond_all_numbers_is_an_error() {
    let folder = copy_of(&fixture("tale"));
    edit_tensors(&folder.path().join("model.safetensors"), |tensors| {
        let weight = tensors.iter_mut().find(|(name, _)| name.ends_with("ln_f.weight")).expect("the last norm").1;
        let scaled = |bytes: &[u8]| (f32_of(bytes) * 1e5).to_le_bytes();
        weight.data = weight.data.chunks_exact(4).flat_map(scaled).collect();
    });
    for form in [&[][..], &["--json"]] {
        let outcome = run(fireside([&["score", "-m", &name_of(folder.path()), PROMPT], form].concat()));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{form:?}");
        assert!(outcome.stderr.starts_with("error: the perplexity is too large"), "{}", outcome.stderr);
    }
}

#[test]
fn what_loading_finds_is_a_warning_of_every_verb_once() {
    let folder = copy_of(&fixture("tale"));
    edit_tensors(&folder.path().join("model.safetensors"), |tensors| {
        let spare = Tensor { dtype: safetensors::Dtype::F32, shape: vec![1], data: vec![0; 4] };
        tensors.insert("spare".to_owned(), spare);
    });
    let name = name_of(folder.path());
    let lines: [&[&str]; 5] = [
        &["generate", "-m", &name, "-n", "2", PROMPT],
        &["score", "-m", &name, PROMPT],
        &["score", "-m", &name, "--json", PROMPT],
        &["info", &name],
        &["info", &name, "--json"],
    ];
    for args in lines {
        let outcome = run(fireside(args));
        let warnings: Vec<&str> = outcome.stderr.lines().collect();
        assert!(outcome.code == Some(0) && warnings.len() == 1 && warnings[0].starts_with("warning: "), "{args:?}");
        assert!(warnings[0].contains("`spare`"), "{args:?}: {warnings:?}");
    }
}

#[test]
fn info_tells_what_a_model_is_and_needs() {
    let tale = model("tale");
    let answer = parsed(&run(fireside(["info", &tale, "--json"])).answer());
    for (field, expected) in [
        ("architecture", json!("gpt2")),
        ("parameters", json!(58272)),
        ("dtypes", json!(["f32"])),
        ("layers", json!(2)),
        ("vocab_size", json!(513)),
        ("context", json!(512)),
        ("tokenizer", json!("byte-level BPE, 513 tokens")),
        ("chat_templates", json!([])),
        ("license", Value::Null),
        ("weight_bytes", json!(58272 * 4)),
        ("cache_bytes_per_token", json!(2 * 2 * 32 * 4)),
        ("memory_bytes", json!(58272 * 4 + 512 * 2 * 2 * 32 * 4)),
        ("defaults", json!({ "eos_token_id": 512 })),
    ] {
        assert_eq!(answer[field], expected, "{field}");
    }
    let text = run(fireside(["info", &tale])).answer();
    for word in [
        "gpt2",
        "58.3K (f32)",
        "512 tokens",
        "byte-level BPE, 513 tokens",
        "has no chat template",
        "495.2 KB",
        "licence",
        "eos_token_id=512",
        "cpu (",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let card = copy_of(&fixture("tale"));
    let further = card.path().join("additional_chat_templates");
    std::fs::create_dir(&further).unwrap();
    std::fs::write(card.path().join("chat_template.jinja"), "x").unwrap();
    std::fs::write(further.join("tool_use.jinja"), "y").unwrap();
    let answer = run(fireside(["info", &name_of(card.path())])).answer();
    assert!(answer.contains("chat          the model's templates default, tool_use\n"), "{answer}");
    std::fs::write(card.path().join("README.md"), "---\nlanguage: en\nlicense: \"mit\"\n---\n# Tale\n").unwrap();
    assert_eq!(parsed(&run(fireside(["info", &name_of(card.path()), "--json"])).answer())["license"], "mit");
}

#[test]
fn info_takes_its_model_as_the_other_verbs_do() {
    let tale = model("tale");
    let named = run(fireside(["info", &tale])).answer();
    for flag in ["-m", "--model"] {
        assert_eq!(run(fireside(["info", flag, &tale])).answer(), named, "{flag}");
    }
    let little = run(fireside(["info", &tale, "--max-memory", "1KB"])).answer();
    assert!(little.contains("fits          no: 1.0 KB"), "a limit that is given is one that is answered: {little}");
    let twice = run(fireside(["info", "--model", &tale, &tale]));
    assert!(twice.code == Some(2) && twice.stderr.contains("cannot be used with"), "{twice:?}");
}

#[test]
fn threads_dtype_and_context_reach_the_engine() {
    let tale = model("tale");
    let info = |args: &[&str]| parsed(&run(fireside([&["info", &tale, "--json"], args].concat())).answer());
    for threads in ["1", "3"] {
        let device = info(&["--threads", threads])["device"].clone();
        assert!(text(&device).contains(&format!(", {threads} thread")), "{device}");
        let verbose = run(fireside(["score", "-m", &tale, "-v", "--threads", threads, PROMPT]));
        assert!(verbose.stderr.contains(text(&device)), "{}", verbose.stderr);
    }
    for dtype in ["f16", "bf16"] {
        let answer = info(&["--dtype", dtype]);
        assert_eq!(answer["dtypes"], json!([dtype]));
        assert_eq!(answer["weight_bytes"], json!(58272 * 2));
    }
    assert_eq!(info(&["--context", "100"])["context"], 100);
    let few = run(greedy(&["--context", "24", "-n", "9", "--ignore-eos", "--json", "--details", PROMPT]));
    let details = &parsed(&few.stdout)[0]["details"];
    assert_eq!((&details["prompt_tokens"], &details["generated_tokens"]), (&json!(21), &json!(3)));
    assert!(few.stderr.starts_with("warning: only 3 new tokens fit"), "{}", few.stderr);
}

#[test]
fn completions_are_there_for_every_shell_and_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = run(fireside(["completions", shell])).answer();
        assert!(script.contains("num-return-sequences") && script.contains("fireside"), "{shell}");
        assert_eq!(run(fireside(["completions", shell, "fireside"])).answer(), script, "{shell}");
        let script = run(fireside(["completions", shell, "generate"])).answer();
        assert!(script.contains("num-return-sequences") && !script.contains("fireside"), "{shell}");
    }
}

#[test]
fn every_instruction_set_prints_the_same_log_probabilities_to_the_last_bit() {
    let tale = model("tale");
    let text = "Anna walked to the harbour with a small lantern, and the fox looked at the owl — 世界 🔥. ".repeat(4);
    let score = |kernels: &str| {
        let mut command = fireside(["score", "-m", &tale, "--json", "--top-logprobs", "20", &text]);
        command.env("FIRESIDE_KERNELS", kernels);
        run(command).answer()
    };
    let reference = score("scalar");
    assert!(reference.len() > 50_000, "the numbers are there");
    for kernels in fireside::kernels::available() {
        assert!(score(kernels.name()) == reference, "{} prints other numbers than scalar", kernels.name());
    }
    assert!(score("candle") != reference, "candle adds in another order, and the comparison sees it");
}

/// Commands of README whose output is the same in every run, against what README shows under them.
#[cfg(all(unix, feature = "ember"))]
#[test]
fn the_readme_shows_what_the_commands_print() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let blocks = readme.split("```console\n").skip(1).map(|block| block.split("```").next().unwrap());
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_fireside"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut compared = 0;
    for entry in blocks.flat_map(|block| block.split("$ ").skip(1)) {
        let (command, shown) = entry.split_once('\n').unwrap();
        let repeatable = command.contains("fireside ")
            && !["cargo", "--verbose", "completions", "#"].iter().any(|word| command.contains(word));
        if !repeatable {
            continue;
        }
        let output = std::process::Command::new("sh").args(["-c", command]).env("PATH", &path).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        let lines = |text: &str| {
            text.lines().filter(|line| !line.starts_with("runs on")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&printed), lines(shown), "$ {command}");
        compared += 1;
    }
    assert!(compared >= 8, "only {compared} commands were found");
}

#[test]
fn info_counts_the_parameters_of_every_tiny_model_as_torch_does() {
    let counted = json("parameters.json");
    let counted = counted["models"].as_object().expect("an object");
    for architecture in fireside::ARCHITECTURES {
        let known = |name: &&String| json(&format!("{name}/config.json"))["model_type"] == architecture.model_type;
        assert!(counted.keys().any(|name| known(&name)), "{}", architecture.model_type);
    }
    for (name, parameters) in counted {
        let folder = copy_of(&fixture(name));
        crate::support::write_tokenizer(folder.path());
        let model = name_of(folder.path());
        let info = parsed(&run(fireside(["info", &model, "--json"])).answer());
        assert_eq!(info["parameters"], *parameters, "{name}");
        let rows = run(fireside(["info", &model])).answer();
        assert!(rows.lines().any(|row| row.starts_with("parameters ")), "{name}: {rows}");
    }
}
