//! `fireside bench`: that its figures are there, hang together, and can be used as a gate. How large they are is the
//! machine's business and no test's.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::{parsed, text};
use crate::program::{Outcome, fireside, run};
use crate::support::name_of;

/// `fireside bench` on sizes that take no time.
fn bench(args: &[&str]) -> Outcome {
    run(fireside([&["bench", "-p", "16", "-n", "4", "-r", "2"], args].concat()))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"))
}

fn saved(path: &Path) -> Value {
    parsed(&std::fs::read_to_string(path).expect("a saved result"))
}

#[cfg(feature = "ember")]
#[test]
fn a_sweep_runs_every_test_with_every_depth_batch_and_number_of_threads() {
    let answer = bench(&["-d", "0,8", "--batch", "1,3", "-t", "1,2", "--pg", "8,2", "--output", "json"]).answer();
    let report = parsed(&answer);
    let tests = report["tests"].as_array().expect("a list of tests");
    let key = |test: &Value| {
        let size = |name: &str| test[name].as_u64().expect("a whole number");
        (text(&test["name"]).to_owned(), size("threads"), size("depth"), size("batch"))
    };
    let found: Vec<_> = tests.iter().map(key).collect();
    let mut expected = BTreeSet::new();
    for name in ["pp16", "tg4", "pp8+tg2"] {
        for (threads, depth, batch) in
            [(1, 0, 1), (1, 0, 3), (1, 8, 1), (1, 8, 3), (2, 0, 1), (2, 0, 3), (2, 8, 1), (2, 8, 3)]
        {
            expected.insert((name.to_owned(), threads, depth, batch));
        }
    }
    assert_eq!(found.len(), expected.len(), "each test once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    for test in tests {
        let speed = &test["tokens_per_s"];
        let runs: Vec<f64> = speed["runs"].as_array().expect("a list").iter().map(number).collect();
        assert_eq!(runs.len(), 2, "{test}");
        let mean = runs.iter().sum::<f64>() / 2.0;
        assert!((number(&speed["mean"]) / mean - 1.0).abs() < 1e-9 && number(&speed["median"]) > 0.0, "{test}");
        assert!((number(&speed["sd"]) - (runs[0] - runs[1]).abs() / 2f64.sqrt()).abs() < 1e-6 * mean, "{test}");
        let share = 100.0 * number(&speed["median"]) / number(&test["roof_tokens_per_s"]);
        assert!((number(&test["percent_of_roof"]) / share - 1.0).abs() < 1e-9, "{test}");
        assert!(["read", "f32", "bf16", "int8"].contains(&text(&test["limit"])), "{test}");
    }
    // What a test must read and compute at least is counted, not measured: a deeper cache is more of both, several
    // sequences share one reading of the weights.
    let of = |name: &str, depth: u64, batch: u64, field: &str| {
        number(&tests.iter().find(|test| key(test) == (name.to_owned(), 1, depth, batch)).expect("the test")[field])
    };
    for field in ["bytes_per_token", "operations_per_token"] {
        assert!(of("tg4", 8, 1, field) > of("tg4", 0, 1, field), "{field}");
    }
    assert!(of("tg4", 0, 3, "bytes_per_token") < of("tg4", 0, 1, "bytes_per_token") / 2.5);
    assert_eq!(of("tg4", 0, 3, "operations_per_token"), of("tg4", 0, 1, "operations_per_token"));
    let weights = number(&report["model"]["bytes_per_token"]);
    assert!(of("tg4", 0, 1, "bytes_per_token") > weights && of("tg4", 0, 1, "bytes_per_token") < 1.1 * weights);
    // Twice the numbers of all matrices: those of ember's f16 are two bytes each.
    assert!((of("tg4", 0, 1, "operations_per_token") / weights - 1.0).abs() < 0.1);

    let roofs = &report["machine"]["roofs"];
    for roof in ["read_gb_s", "read_1t_gb_s", "f32_gflop_s"] {
        assert!(number(&roofs[roof]) > 0.0, "{roof}: {roofs}");
    }
    for roof in ["bf16_gflop_s", "int8_gop_s"] {
        assert!(roofs[roof].is_null() || number(&roofs[roof]) > 0.0, "{roof}: {roofs}");
    }
    assert_eq!(roofs["threads"], json!(2));
    assert_eq!((&report["model"]["name"], &report["model"]["type"]), (&json!("ember"), &json!("f16")));
    assert!(number(&report["first_token_ms"]) > 0.0);
    if cfg!(target_os = "linux") {
        assert!(number(&report["peak_memory_bytes"]) > number(&report["model"]["weight_bytes"]));
    }
    assert_eq!(
        report["command"],
        json!("fireside bench -p 16 -n 4 -r 2 -d 0,8 --batch 1,3 -t 1,2 --pg 8,2 --output json")
    );
}

#[cfg(feature = "ember")]
#[test]
fn the_table_the_lines_and_the_columns_show_the_same_tests() {
    let table = bench(&["-d", "0,8"]).answer();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).collect();
    let cells = |row: &str| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    assert_eq!(cells(rows[0]), ["test", "threads", "tokens/s", "median", "of the roof"]);
    let names: Vec<String> = rows[2..].iter().map(|row| cells(row).swap_remove(0)).collect();
    assert_eq!(names, ["pp16", "tg4", "pp16 @ d8", "tg4 @ d8"]);
    assert!(table.starts_with("fireside "), "{table}");
    for part in ["kernels", "ember: gpt2, 5.8M parameters, 11.6 MB in f16", "\nroofs: read ", "\nfirst token: "] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let batches = bench(&["--batch", "2", "-n", "0"]).answer();
    assert!(batches.contains("| test             | threads | batch |"), "{batches}");

    let lines = bench(&["--output", "jsonl"]).answer();
    let records: Vec<Value> = lines.lines().map(parsed).collect();
    assert_eq!(records.iter().map(|record| text(&record["test"])).collect::<Vec<_>>(), ["pp16", "tg4"]);
    let columns = bench(&["--output", "csv"]).answer();
    let mut columns = columns.lines();
    let head: Vec<&str> = columns.next().expect("a head").split(',').collect();
    let keys: Vec<&String> = records[0].as_object().expect("an object").keys().collect();
    assert_eq!(head, keys);
    let first: Vec<&str> = columns.map(|line| line.split(',').next().unwrap_or_default()).collect();
    assert_eq!(first, ["pp16", "tg4"]);
}

#[cfg(feature = "ember")]
#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let check = |args: &[&str], code: i32, expected: &str| {
        let outcome = run(fireside([&["bench"], args].concat()));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(code), ""), "{args:?}: {}", outcome.stderr);
        let begins = outcome.stderr.starts_with("error: ");
        assert!(begins && outcome.stderr.contains(expected), "{args:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("panicked"), "{args:?}: {}", outcome.stderr);
    };
    check(&["-p", "0", "-n", "0"], 2, "nothing to measure");
    check(&["-p", "10000000"], 2, "`prompt` asks for 10000000 tokens in a sequence, and the model's context has 256");
    check(&["-n", "257"], 2, "`generate` asks for 257 tokens");
    check(&["-p", "18446744073709551615"], 2, "the model's context has 256");
    check(&["-p", "1", "-d", "256"], 2, "`depth` asks for 257 tokens");
    check(&["-d", "256"], 2, "a depth of 256 leaves no room");
    check(&["--context", "64", "-p", "65"], 2, "the model's context has 64");
    check(&["-p", "-1"], 2, "--prompt");
    check(&["-p", "many"], 2, "--prompt");
    check(&["--pg", "4"], 2, "expected two numbers");
    check(&["--pg", "0,4"], 2, "at least one token of each");
    check(&["--batch", "0"], 2, "--batch");
    check(&["-t", "0"], 2, "-t");
    check(&["-t", "1", "--threads", "2"], 2, "cannot be used with");
    check(&["-r", "0"], 2, "--repetitions");
    check(&["--output", "xml"], 2, "--output");
    check(&["--layers", "2"], 2, "--random");
    check(&["--random", "gpt2", "--model", "ember"], 2, "cannot be used with");
    check(&["--random", "gpt2", "--layers", "0"], 2, "--layers");
    check(&["--random", "gtp2"], 1, "cannot find the model `gtp2`");
    check(&["--fail-if-slower", "5%"], 2, "--compare");
    check(&["--compare", "/nowhere/x", "--fail-if-slower", "-5"], 2, "percentage");
    check(&["--compare", "/nowhere/x"], 1, "cannot read `/nowhere/x`");
    check(&["--compare", "Cargo.toml"], 1, "`Cargo.toml` is not a result that `fireside bench --save` wrote");
}

#[test]
fn a_shape_with_random_weights_needs_no_files() {
    let report = |args: &[&str]| parsed(&bench(&[args, &["--output", "json"]].concat()).answer());
    let gpt2 = report(&["--random", "gpt2", "--layers", "1"]);
    let model = &gpt2["model"];
    assert_eq!((&model["name"], &model["random_weights"]), (&json!("gpt2, 1 layer"), &json!(true)));
    // A layer, two tables and the last norm of the published shape.
    let parameters = 12 * 768 * 768 + 13 * 768 + (50257 + 1024) * 768 + 2 * 768;
    assert_eq!((&model["parameters"], &model["weight_bytes"]), (&json!(parameters), &json!(4 * parameters)));
    assert_eq!((&model["context"], &model["type"]), (&json!(1024), &json!("f32")));
    // A token reads everything but the table of positions.
    assert_eq!(model["bytes_per_token"], json!(4 * (parameters - 1024 * 768)));
    assert_eq!(gpt2["first_token_ms"], Value::Null, "what is made is not read");

    let half = report(&["--random", "gpt2", "--layers", "1", "--dtype", "bf16"]);
    assert_eq!((&half["model"]["type"], &half["model"]["weight_bytes"]), (&json!("bf16"), &json!(2 * parameters)));
    let quantised = report(&["--random", "smollm2-135m", "--layers", "2", "--quant", "q4_0"]);
    assert!(text(&quantised["model"]["type"]).starts_with("q"), "{}", quantised["model"]);
    assert_eq!(quantised["model"]["architecture"], json!("llama"));
    for (name, architecture) in [
        ("tinyllama", "llama"),
        ("qwen2.5-0.5b", "qwen2"),
        ("qwen3-0.6b", "qwen3"),
        ("gemma-3-270m", "gemma3_text"),
        ("phi-3-mini", "phi3"),
    ] {
        let one = report(&["--random", name, "--layers", "1"]);
        assert_eq!(one["model"]["architecture"], json!(architecture));
    }
    // 900 times the weights of a layer of Mistral, which no test machine has room for.
    let outcome = bench(&["--random", "mistral-7b", "--layers", "900", "--dtype", "f32"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("error: the weights take 786.3 GB, and "), "{}", outcome.stderr);
}

/// Tables of real size take minutes, so it is on request.
#[test]
fn every_card_and_every_architecture_runs_with_random_weights() {
    if std::env::var_os("FIRESIDE_ALL_SHAPES").is_none() {
        eprintln!("SKIPPED: set FIRESIDE_ALL_SHAPES=1 to run a layer of every card and of every architecture");
        return;
    }
    let counted = crate::support::json("parameters.json");
    let names = ["cards", "defaults"].map(|kind| counted[kind].as_object().expect("an object").keys());
    for name in names.into_iter().flatten() {
        for quant in [&[][..], &["--quant", "q4_k"]] {
            let one = ["--random", name, "--layers", "1", "--output", "json", "-r", "1"];
            let report = parsed(&bench(&[&one[..], quant].concat()).answer());
            assert!(number(&report["tests"][1]["tokens_per_s"]["median"]) > 0.0, "{name} {quant:?}");
        }
    }
}

#[cfg(feature = "ember")]
#[test]
fn the_gate_fails_where_it_is_slower_and_says_by_how_much() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, other) = (folder.path().join("before.json"), folder.path().join("other.json"));
    let path = name_of(&file);
    bench(&["--threads", "1", "--save", &path]).answer();
    let fresh = saved(&file);
    assert_eq!(fresh["tests"].as_array().map(Vec::len), Some(2));
    // The same result, as it would have been on a machine that is so many times as fast.
    let before = |factor: f64| {
        let mut report = fresh.clone();
        for test in report["tests"].as_array_mut().expect("tests") {
            test["tokens_per_s"]["median"] = json!(number(&test["tokens_per_s"]["median"]) * factor);
        }
        std::fs::write(&file, report.to_string()).expect("a written file");
    };
    let compare = |args: &[&str]| bench(&[&["--threads", "1", "--compare", &path], args].concat());

    before(1e-6);
    let faster = compare(&["--fail-if-slower", "5%"]).answer();
    let table = faster.split("| ratio |").nth(1).expect("a table of ratios");
    assert!(table.contains("| pp16") && table.contains("| tg4"), "{faster}");
    before(1e6);
    let slower = compare(&["--fail-if-slower", "5%"]);
    assert_eq!(slower.code, Some(1));
    let line = slower.stderr.lines().next().unwrap_or_default();
    assert!(line.starts_with(&format!("error: slower than `{path}` by more than 5 %: pp16 by 100.0 %")), "{line}");
    assert!(line.contains("tg4 by 100.0 % (1 thread"), "{line}");
    assert_eq!(slower.stderr.lines().count(), 1, "{}", slower.stderr);
    // Without the gate the ratios are told and nothing fails.
    let told = parsed(&compare(&["--output", "json"]).answer());
    assert_eq!(told["comparison"].as_array().map(Vec::len), Some(2));
    assert!(number(&told["comparison"][0]["ratio"]) < 1e-3);

    before(1.0);
    let refused = |args: &[&str], expected: &str| {
        let outcome = run(fireside([&["bench", "--threads", "1", "--compare", &path], args].concat()));
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(2), ""), "{args:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{args:?}: {}", outcome.stderr);
    };
    refused(&["-p", "16", "-n", "5"], "holds no test `tg5`");
    refused(&["-p", "16", "-n", "4", "-d", "2"], "holds no test `pp16` at depth 2");
    refused(&["-p", "16", "-n", "4", "--dtype", "f32"], "holds the type `f16`, and this is `f32`");
    refused(
        &["-p", "16", "-n", "4", "--random", "gpt2", "--layers", "1"],
        "holds the model `ember`, and this is `gpt2, 1 layer`",
    );

    // With other threads there is nothing to judge by, which is no success.
    std::fs::copy(&file, &other).expect("a copied file");
    let unlike = bench(&["--threads", "2", "--compare", &name_of(&other), "--fail-if-slower", "5"]);
    assert_eq!(unlike.code, Some(1));
    assert!(
        unlike.stderr.contains("with 2 threads") && unlike.stderr.contains("nothing can be judged"),
        "{}",
        unlike.stderr
    );
}

#[cfg(feature = "ember")]
#[test]
fn the_plot_is_a_picture_that_any_viewer_can_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("roof.svg");
    bench(&["-d", "0,8", "--plot", &name_of(&file)]).answer();
    let svg = std::fs::read_to_string(&file).expect("a picture");
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.contains("prefers-color-scheme: dark"));
    assert_eq!(svg.matches("<circle").count(), 4);
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    // Elements end in the order in which they began, and nothing of a name or a figure breaks out of its place.
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("an element ends: {tag}"));
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).expect("a name");
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{svg}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    let unwritable = bench(&["--plot", "/nowhere/at/all.svg"]);
    assert_eq!(unwritable.code, Some(1));
    assert!(unwritable.stderr.starts_with("error: cannot write `/nowhere/at/all.svg`"), "{}", unwritable.stderr);
}
