//! Models whose text files are missing or damaged: one clear line each, soon, and never a panic.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::damage::{
    Dice, attempt, check_damage, edit_header, edit_json, readable, refused, remove, says, set, within_memory, write,
};
use crate::program::{fireside, run};
use crate::support::{copy_of, fixture, name_of};

#[test]
fn a_model_that_is_not_there_is_named() {
    let (empty, there) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let here = there.path();
    let check = |name: &str, words: &[&str]| {
        for args in [&["generate", "-m", name, "x"][..], &["info", name], &["score", "-m", name, "x y"]] {
            let mut command = fireside(args);
            command.current_dir(here);
            says(&refused(&run(command), 1, name), words, name);
        }
        let mut command = fireside(["tokenize", "-m", name, "x"]);
        command.current_dir(here);
        refused(&run(command), 1, name);
    };
    for (file, copied) in [
        ("alone.safetensors", "model.safetensors"),
        ("tokenized/m.safetensors", "model.safetensors"),
        ("tokenized/tokenizer.json", "tokenizer.json"),
        ("configured/m.safetensors", "model.safetensors"),
        ("configured/config.json", "config.json"),
    ] {
        std::fs::create_dir_all(here.join(file).parent().unwrap()).unwrap();
        std::fs::copy(fixture("tale").join(copied), here.join(file)).unwrap();
    }
    let (tale, folder) = (fixture("tale"), name_of(empty.path()));
    check("no-such-model", &["`no-such-model`", "nothing answers at", "hint:"]);
    check("owner/name", &["`owner/name`", "nothing answers at", "hint:"]);
    check("./no/such/folder", &["`./no/such/folder`", "no such file or folder"]);
    check("", &["``"]);
    check(&folder, &["model.safetensors", "an empty folder"]);
    check(&name_of(&tale.join("config.json")), &["config.json", "`.safetensors`"]);
    check(&name_of(&tale.join("merges.txt")), &["merges.txt", "`.safetensors`"]);
    check(
        "./alone.safetensors",
        &["`./alone.safetensors`", "expected `config.json`, and `tokenizer.json`", "beside the weights, found none"],
    );
    check("alone.safetensors", &["`alone.safetensors`", "`config.json`, and `tokenizer.json`"]);
    check("tokenized/m.safetensors", &["`tokenized/m.safetensors`", "expected `config.json` beside"]);
    check(
        "configured/m.safetensors",
        &["`configured/m.safetensors`", "expected `tokenizer.json`, `tokenizer.model`, or"],
    );
    check("configured", &["`configured`", "expected `model.safetensors`"]);
    #[cfg(unix)]
    {
        check("/dev/null", &["`/dev/null`", "expected a file or a folder, found a device"]);
        let made = std::process::Command::new("mkfifo").arg(here.join("fifo")).status().expect("mkfifo");
        assert!(made.success());
        let _socket = std::os::unix::net::UnixListener::bind(here.join("socket")).expect("a socket");
        check("fifo", &["`fifo`", "expected a file or a folder, found a pipe"]);
        check("./socket", &["`./socket`", "expected a file or a folder, found a socket"]);
    }
    check("a\x1b[31mb\u{9b}c\nd", &["\\u{1b}[31m"]);
    check(&"x".repeat(20_000), &["xxx…"]);
    check(&"/x".repeat(10_000), &["/x/x"]);
}

#[test]
fn a_damaged_config_is_told_with_what_was_expected() {
    check_damage(
        "tale",
        &[
            ("missing", |f| remove(f, "config.json"), &["config.json", "found none"]),
            ("empty", |f| write(f, "config.json", ""), &["config.json", "expected JSON"]),
            ("no JSON", |f| write(f, "config.json", "n_embd = 3"), &["config.json", "expected JSON", "line 1"]),
            ("binary", |f| write(f, "config.json", b"\xff\xfe\x00"), &["config.json", "UTF-8", "at 0"]),
            ("an array", |f| write(f, "config.json", "[]"), &["config.json", "expected a JSON object"]),
            (
                "nested without end",
                |f| write(f, "config.json", "[".repeat(100_000)),
                &["config.json", "recursion limit"],
            ),
            (
                "an empty object",
                |f| write(f, "config.json", "{}"),
                &["`model_type`", "`architectures`", "found neither"],
            ),
            (
                "another architecture",
                |f| set(f, "architectures", json!(["FooForCausalLM"])),
                &["`FooForCausalLM` is not supported", "hint: supported architectures are"],
            ),
            ("another type", |f| write(f, "config.json", r#"{"model_type": "foo"}"#), &["`foo` is not supported"]),
            ("no heads", |f| set(f, "n_head", json!(0)), &["`n_head`", "found 0"]),
            ("heads that do not divide", |f| set(f, "n_head", json!(5)), &["multiple of `n_head`", "32 and 5"]),
            ("no width", |f| set(f, "n_embd", json!(0)), &["`n_embd`", "found 0"]),
            ("another width", |f| set(f, "n_embd", json!(64)), &["wte.weight", "[513, 64]", "[513, 32]"]),
            (
                "a vocabulary too large",
                |f| set(f, "vocab_size", json!(4_000_000_000_u64)),
                &["wte.weight", "[4000000000, 32]", "[513, 32]"],
            ),
            ("a vocabulary beyond all bounds", |f| set(f, "vocab_size", json!(u64::MAX)), &["`vocab_size`"]),
            ("a vocabulary of -1", |f| set(f, "vocab_size", json!(-1)), &["config.json", "-1"]),
            ("a vocabulary of 0", |f| set(f, "vocab_size", json!(0)), &["`vocab_size`", "found 0"]),
            (
                "two fields that are wrong in the same way",
                |f| {
                    set(f, "n_layer", json!([2]));
                    set(f, "n_head", json!([4]));
                },
                &["config.json", "`n_", "invalid type: sequence"],
            ),
            ("half a vocabulary", |f| set(f, "vocab_size", json!(256.5)), &["config.json", "256.5"]),
            ("a vocabulary of words", |f| set(f, "vocab_size", json!("many")), &["config.json", "many"]),
            ("1e30 numbers", |f| set(f, "n_embd", json!(1e30)), &["config.json"]),
            ("more positions", |f| set(f, "n_positions", json!(2_000_000)), &["wpe.weight", "2000000"]),
            (
                "positions without end",
                |f| set(f, "n_positions", json!(4_000_000_000_u64)),
                &["`n_positions`", "4000000000"],
            ),
            ("layers without end", |f| set(f, "n_layer", json!(4_000_000_000_u64)), &["h.2.", "missing"]),
            ("an inner width of 0", |f| set(f, "n_inner", json!(0)), &["`n_inner`", "found 0"]),
            ("an inner width without end", |f| set(f, "n_inner", json!(u64::MAX)), &["n_inner"]),
            (
                "an unknown activation",
                |f| set(f, "activation_function", json!("foo\u{1b}[31m")),
                &["activation_function", "foo\\u{1b}[31m"],
            ),
            ("a negative epsilon", |f| set(f, "layer_norm_epsilon", json!(-1)), &["layer_norm_epsilon", "-1"]),
            (
                "a separate head that is absent",
                |f| set(f, "tie_word_embeddings", json!(false)),
                &["lm_head.weight", "missing"],
            ),
            ("cross attention", |f| set(f, "add_cross_attention", json!(true)), &["add_cross_attention"]),
        ],
    );
}

#[test]
fn a_damaged_generation_config_is_told() {
    fn set(folder: &Path, field: &str, value: Value) {
        edit_json(folder, "generation_config.json", |config| config[field] = value);
    }
    check_damage(
        "tale",
        &[
            (
                "garbage",
                |f| write(f, "generation_config.json", "garbage"),
                &["generation_config.json", "expected JSON"],
            ),
            (
                "a list",
                |f| write(f, "generation_config.json", "[]"),
                &["generation_config.json", "expected a JSON object"],
            ),
            (
                "a word for a number",
                |f| set(f, "temperature", json!("hot")),
                &["generation_config.json", "`temperature`", "hot"],
            ),
            (
                "a flood for a number",
                |f| set(f, "temperature", json!("\u{9b}31m".repeat(200_000))),
                &["generation_config.json", "`temperature`"],
            ),
            (
                "a fraction for a count",
                |f| set(f, "max_new_tokens", json!(1.5)),
                &["generation_config.json", "`max_new_tokens`"],
            ),
            (
                "a word for an id",
                |f| set(f, "eos_token_id", json!("end")),
                &["generation_config.json", "`eos_token_id`", "string \"end\", expected u32"],
            ),
            (
                "a number for a word",
                |f| set(f, "early_stopping", json!(2)),
                &["generation_config.json", "`early_stopping`: expected `true`, `false` or a word"],
            ),
            ("a negative count", |f| set(f, "max_length", json!(-1)), &["generation_config.json", "`max_length`"]),
            ("a word for a switch", |f| set(f, "do_sample", json!("yes")), &["generation_config.json", "`do_sample`"]),
            (
                "an object for an id",
                |f| set(f, "eos_token_id", json!({ "a": 1 })),
                &["generation_config.json", "`eos_token_id`"],
            ),
        ],
    );
    let warned = |field: &str, value: Value, word: &str| {
        let folder = copy_of(&fixture("tale"));
        set(folder.path(), field, value);
        let outcome = attempt(folder.path(), "abc");
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.starts_with("warning: ") && outcome.stderr.lines().count() == 1, "{}", outcome.stderr);
        says(&outcome.stderr, &[word, "generation_config.json"], field);
        readable(&outcome.stderr, field);
    };
    warned("guidance_scale", json!(1.5), "`guidance_scale`");
    warned("frobnicate", json!(3), "`frobnicate`");
    warned(&format!("\x1b[31m{}", "x".repeat(1 << 20)), json!(3), "`\\u{1b}[31mxxx");
}

#[test]
fn a_json_file_cut_anywhere_is_refused_by_its_name() {
    let mut dice = Dice(2);
    for file in ["config.json", "tokenizer.json", "generation_config.json", "vocab.json"] {
        let folder = copy_of(&fixture("tale"));
        if file == "vocab.json" {
            remove(folder.path(), "tokenizer.json");
        }
        let whole = std::fs::read(folder.path().join(file)).unwrap();
        let end = whole.trim_ascii_end().len();
        for cut in (0..30).map(|_| dice.below(end)) {
            write(folder.path(), file, &whole[..cut]);
            let what = format!("{file} cut at {cut}");
            says(&refused(&attempt(folder.path(), "abc"), 1, &what), &[file], &what);
        }
    }
}

#[test]
fn names_that_are_floods_or_drive_a_terminal_stay_in_their_file() {
    let flood = || format!("\x1b]0;title\x07\u{9b}31m\r{}", "x".repeat(1 << 20));
    let check = |what: &str, damage: &dyn Fn(&Path)| {
        let folder = copy_of(&fixture("tale"));
        damage(folder.path());
        let name = name_of(folder.path());
        for args in [
            &["generate", "-m", &name, ""][..],
            &["generate", "-m", &name, "-n", "2", "--do-sample=false", "abc"],
            &["info", &name],
            &["score", "-m", &name, "abc"],
        ] {
            let outcome = run(within_memory(fireside(args)));
            assert!(matches!(outcome.code, Some(0..=2)), "{what}: {outcome:?}");
            readable(&outcome.stderr, what);
            readable(&outcome.stdout, what);
        }
    };
    check("architecture", &|f| set(f, "architectures", json!([flood()])));
    check("activation", &|f| set(f, "activation_function", json!(flood())));
    check("a number", &|f| set(f, "n_embd", json!(flood())));
    check("licence", &|f| write(f, "README.md", format!("---\nlicense: {}\n---\n", flood())));
    check("a default", &|f| edit_json(f, "generation_config.json", |config| config["bad_words"] = json!([flood()])));
    check("the token that starts a text", &|f| {
        edit_json(f, "tokenizer.json", |tokenizer| tokenizer["added_tokens"][0]["content"] = json!(flood()));
    });
    check("a normalizer", &|f| {
        edit_json(f, "tokenizer.json", |tokenizer| tokenizer["normalizer"] = json!({ "type": flood() }))
    });
    check("an expression", &|f| {
        edit_json(f, "tokenizer.json", |tokenizer| {
            tokenizer["pre_tokenizer"] = json!({ "type": "Split", "pattern": { "Regex": format!("({}", flood()) }, "behavior": "Isolated", "invert": false });
        })
    });
    check("a tensor", &|f| {
        edit_header(f, |header| {
            let first = header.keys().next().expect("a tensor").clone();
            let tensor = header.remove(&first).expect("the tensor");
            header.insert(flood(), tensor);
        })
    });
}

#[test]
fn random_damage_to_any_file_works_or_is_told() {
    let folder = copy_of(&fixture("tale"));
    let files =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt"];
    let mut dice = Dice(3);
    let mut refusals = 0;
    for case in 0..300 {
        let file = files[case % files.len()];
        let hidden = matches!(file, "vocab.json" | "merges.txt").then(|| folder.path().join("tokenizer.json"));
        let tokenizer = hidden.as_ref().map(|path| std::fs::read(path).unwrap());
        if let Some(path) = &hidden {
            std::fs::remove_file(path).unwrap();
        }
        let whole = std::fs::read(folder.path().join(file)).unwrap();
        let mut damaged = whole.clone();
        for _ in 0..=dice.below(4) {
            // Half of the damage goes where the structure is: most of a weight file is numbers.
            let reach = if dice.below(2) == 0 { damaged.len() } else { damaged.len().min(2048) };
            let at = dice.below(reach);
            match dice.below(3) {
                0 => damaged[at] ^= 1 << dice.below(8),
                1 => damaged[at] = dice.below(256) as u8,
                _ => drop(damaged.drain(at..(at + dice.below(40)).min(damaged.len()))),
            }
        }
        write(folder.path(), file, &damaged);
        let outcome = attempt(folder.path(), "Anna carried a small lantern");
        let what = format!("case {case}, {file}");
        match outcome.code {
            Some(0) => readable(&outcome.stderr, &what),
            // Numbers that overflow are found after the prompt was printed.
            Some(1) if outcome.stderr.contains("not finite") => readable(&outcome.stderr, &what),
            Some(code @ (1 | 2)) => {
                refused(&outcome, code, &what);
                refusals += 1;
            }
            _ => panic!("{what}: {outcome:?}"),
        }
        write(folder.path(), file, &whole);
        if let (Some(path), Some(tokenizer)) = (hidden, tokenizer) {
            std::fs::write(path, tokenizer).unwrap();
        }
    }
    assert!(refusals > 100, "only {refusals} of 300 were refused: the damage is too tame");
}
