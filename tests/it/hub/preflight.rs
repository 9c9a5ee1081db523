//! `info` of a model that is not here: what it says, that it is true, and how little it costs.

use std::path::Path;

use serde_json::{Value, json};

use super::checks::{done, refused, told};
use super::fake::{Access, FakeHub, Token};
use super::{Home, from_folder, heavy, sharded, tale};
use crate::program::edit_tensors;
use crate::support::{copy_of, fixture, name_of, write_tokenizer};

/// Most bytes that an answer may cost.
const KILOBYTES: u64 = 200 << 10;

/// The answer as JSON of a run that left this home as it was.
#[track_caller]
fn asked(home: &Home, hub: &FakeHub, args: &[&str]) -> Value {
    hub.forget_seen();
    let before = home.everything();
    let outcome = home.run(hub, [&["info", "--json"], args].concat());
    done(&args.join(" "), &outcome, hub);
    assert!(home.everything() == before, "{args:?} wrote files\n{}", told(&outcome, hub));
    assert!(hub.served("") <= KILOBYTES, "{args:?} cost {} bytes\n{}", hub.served(""), told(&outcome, hub));
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[track_caller]
fn rows(home: &Home, hub: &FakeHub, args: &[&str]) -> String {
    let outcome = home.run(hub, [&["info"], args].concat());
    done(&args.join(" "), &outcome, hub);
    outcome.stdout
}

#[test]
fn what_is_said_of_a_model_that_is_not_here_is_what_loading_it_finds() {
    let hub = FakeHub::start();
    let home = Home::new();
    let mut folders = vec![copy_of(&fixture("tale"))];
    for name in ["base", "bare", "bf16", "f16", "odd", "sharded", "switches", "untied"] {
        let folder = copy_of(&fixture("gpt2").join(name));
        write_tokenizer(folder.path());
        folders.push(folder);
    }
    let masked = copy_of(&fixture("tale"));
    edit_tensors(&masked.path().join("model.safetensors"), |tensors| {
        let mask = |shape: &[usize]| crate::program::Tensor {
            dtype: safetensors::Dtype::F32,
            shape: shape.to_vec(),
            data: vec![0; 4 * shape.iter().product::<usize>()],
        };
        let block = if tensors.contains_key("h.0.ln_1.weight") { "h.0" } else { "transformer.h.0" };
        tensors.insert(format!("{block}.attn.bias"), mask(&[1, 1, 512, 512]));
        tensors.insert(format!("{block}.attn.masked_bias"), mask(&[]));
    });
    folders.push(masked);
    for (number, folder) in folders.iter().enumerate() {
        let id = format!("org/model-{number}");
        from_folder(hub.repo(&id), folder.path()).publish();
        for options in [&[][..], &["--dtype", "bf16"], &["--dtype", "f32", "--context", "5"]] {
            let remote = asked(&home, &hub, &[&[id.as_str()], options].concat());
            let local = asked(&home, &hub, &[&[name_of(folder.path()).as_str()], options].concat());
            assert!(hub.seen().is_empty(), "a folder needs no Hub");
            for field in [
                "architecture",
                "supported",
                "dtypes",
                "layers",
                "vocab_size",
                "context",
                "cache_bytes_per_token",
                "memory_total_bytes",
                "weight_bytes_per_token",
                "fits",
                "device",
            ] {
                assert_eq!(remote[field], local[field], "{field} of {id} with {options:?}: {remote}\n{local}");
            }
            // Masks that old checkpoints store are no parameters.
            let masks = remote["buffers"].as_u64().unwrap();
            for field in ["parameters", "weight_bytes", "memory_bytes"] {
                let (there, here) = (remote[field].as_u64().unwrap(), local[field].as_u64().unwrap());
                let most = there + masks * if field == "parameters" { 1 } else { 4 };
                assert!((there..=most).contains(&here), "{field} of {id} with {options:?}: {remote}\n{local}");
            }
            let speed = remote["estimated_tokens_per_second"].as_f64();
            assert!(
                remote["bandwidth_bytes_per_second"].is_null() || speed.is_some_and(|speed| speed > 1.0),
                "{remote}"
            );
        }
    }
}

#[test]
fn a_large_model_is_judged_for_kilobytes() {
    const SIZE: u64 = 300 << 20;
    let hub = FakeHub::start();
    let home = Home::new();
    let commit = heavy(&hub, "org/heavy", SIZE, 7);
    let answer = asked(&home, &hub, &["org/heavy"]);
    assert_eq!(hub.seen().iter().filter(|seen| seen.path.starts_with("/api/")).count(), 2, "one listing");
    let small = |name: &str| fixture("tale").join(name).metadata().unwrap().len();
    for (field, expected) in [
        ("repo", json!("org/heavy")),
        ("commit", json!(commit)),
        ("parameters", json!((SIZE - 128) / 4)),
        ("weight_bytes", json!(SIZE - 128)),
        ("download_bytes", json!(SIZE + small("config.json") + small("tokenizer.json"))),
        ("cached_bytes", json!(0)),
        ("gated", json!(false)),
        ("supported", json!(true)),
    ] {
        assert_eq!(answer[field], expected, "{field}");
    }
    let text = rows(&home, &hub, &["org/heavy", "--dtype", "bf16"]);
    for word in [
        format!("org/heavy@{commit}"),
        "gpt2, supported".to_owned(),
        "78.6M (bf16)".to_owned(),
        "314.6 MB of 3 files".to_owned(),
        "157.3 MB of weights".to_owned(),
        "\nfits ".to_owned(),
        "\nspeed ".to_owned(),
        "\ndisk ".to_owned(),
    ] {
        assert!(text.contains(&word), "{word}: {text}");
    }
}

#[test]
fn shards_are_judged_together_and_what_is_cached_is_told_apart() {
    let hub = FakeHub::start();
    let home = Home::new();
    sharded(&hub, "org/shards");
    let before = asked(&home, &hub, &["org/shards"]);
    let pulled = home.run(&hub, ["pull", "org/shards", "--file", "config.json", "--file", "*00001*"]);
    done("pull", &pulled, &hub);
    let after = asked(&home, &hub, &["org/shards"]);
    assert_eq!(after["parameters"], before["parameters"]);
    let number = |answer: &Value, field: &str| answer[field].as_u64().unwrap();
    assert!(number(&after, "cached_bytes") > 0);
    assert_eq!(number(&before, "download_bytes"), number(&after, "download_bytes") + number(&after, "cached_bytes"));
    let text = rows(&home, &hub, &["org/shards"]);
    assert!(text.contains("more are in the cache"), "{text}");
}

#[test]
fn a_cached_model_is_loaded_and_also_told_whether_it_fits() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    let remote = asked(&home, &hub, &["org/tale"]);
    assert_eq!(remote["license"], "mit");
    done("pull", &home.run(&hub, ["pull", "org/tale"]), &hub);
    let cached = asked(&home, &hub, &["org/tale"]);
    assert!(hub.seen().is_empty(), "what is here needs no request: {:?}", hub.seen());
    assert_eq!(cached["memory_bytes"], remote["memory_bytes"]);
    assert_eq!(cached["tokenizer"], "byte-level BPE, 513 tokens");
    let text = rows(&home, &hub, &["org/tale"]);
    assert!(text.contains("\nfits ") && text.contains("\nspeed "), "{text}");
}

/// A repository with the tale's files, some of them changed.
fn changed(hub: &FakeHub, id: &str, change: impl FnOnce(&Path)) {
    let folder = copy_of(&fixture("tale"));
    change(folder.path());
    from_folder(hub.repo(id), folder.path()).publish();
}

fn change_config(folder: &Path, name: &str, value: Value) {
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config[name] = value;
    std::fs::write(file, config.to_string()).unwrap();
}

#[test]
fn that_a_model_cannot_run_is_an_answer() {
    let hub = FakeHub::start();
    let home = Home::new();
    changed(&hub, "org/foo", |folder| {
        change_config(folder, "model_type", json!("foo"));
        change_config(folder, "architectures", json!(["FooForCausalLM"]));
    });
    changed(&hub, "org/doubles", |folder| {
        edit_tensors(&folder.join("model.safetensors"), |tensors| {
            let (_, tensor) = tensors.iter_mut().find(|(name, _)| name.ends_with("ln_f.weight")).unwrap();
            tensor.dtype = safetensors::Dtype::F64;
            tensor.data = [&tensor.data[..], &tensor.data[..]].concat();
        });
    });
    changed(&hub, "org/mute", |folder| {
        let _ = std::fs::remove_file(folder.join("tokenizer.json"));
        std::fs::remove_file(folder.join("vocab.json")).unwrap();
    });
    let check = |name: &str, words: &[&str]| {
        let answer = asked(&home, &hub, &[name]);
        let because = answer["unsupported_because"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(answer["supported"], false, "{name}");
        let text = rows(&home, &hub, &[name]);
        assert!(text.contains(because), "{name}: {because}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{name}: {word}: {text}"));
    };
    check("org/foo", &["foo, not supported: supported are bloom, falcon", "58.3K (f32)", "tokens/s"]);
    check("org/doubles", &["gpt2, not supported: tensor", "F64", "32 f64"]);
    check("org/mute", &["not supported: expected `tokenizer.json`"]);
    check("org/mute/config.json", &["only if it is a .gguf file", "of 1 file"]);
}

#[test]
fn what_does_not_fit_is_said() {
    let hub = FakeHub::start();
    let home = Home::new();
    changed(&hub, "org/long", |folder| change_config(folder, "n_positions", json!(1_000_000_000_000u64)));
    let answer = asked(&home, &hub, &["org/long"]);
    if answer["memory_available_bytes"].is_null() {
        return; // a system that does not say what may be used
    }
    assert_eq!(answer["fits"], false);
    let text = rows(&home, &hub, &["org/long"]);
    assert!(text.contains("not at full context"), "{text}");
    assert_eq!(asked(&home, &hub, &["org/long", "--context", "100"])["fits"], true);
    for context in ["1", "1000000000001"] {
        let outcome = home.run(&hub, ["info", "org/long", "--context", context]);
        assert!(outcome.code == Some(2) && outcome.stderr.contains("`context` is"), "{outcome:?}");
    }
}

#[test]
fn a_question_that_cannot_be_answered_is_an_error() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    from_folder(hub.repo("org/gate"), &fixture("tale")).with_access(Access::Gated).publish();
    hub.repo("org/pickles").file("config.json", "{\"model_type\": \"gpt2\"}").file("pytorch_model.bin", "x").publish();
    hub.repo("org/nothing").file("README.md", "x").publish();
    hub.knows("member", Token::Member);
    let check = |args: &[&str], words: &[&str]| {
        let before = home.everything();
        let outcome = home.run(&hub, [&["info"], args].concat());
        let line = refused(&args.join(" "), &outcome, &hub);
        words.iter().for_each(|word| assert!(line.contains(word), "{args:?}: {word}: {line}"));
        assert!(home.everything() == before, "{args:?} wrote files");
    };
    check(&["org/none"], &["org/none"]);
    check(&["org/tale@none"], &["no revision"]);
    check(&["org/gate"], &["gated"]);
    check(&["org/pickles"], &["pickles"]);
    check(&["org/nothing"], &["config.json"]);
    check(&["org/tale", "--offline"], &["not in the cache", "--offline"]);

    let mut command = home.fireside(&hub, ["info", "org/gate"]);
    command.env("HF_TOKEN", "member");
    let outcome = super::checks::run(command);
    done("a gated model with a token", &outcome, &hub);
    assert!(outcome.stdout.contains("terms to accept first (gated)"), "{outcome:?}");
}

#[test]
fn a_header_that_lies_is_refused() {
    let hub = FakeHub::start();
    let home = Home::new();
    let check = |id: &str, header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(vec![0; data]);
        changed(&hub, id, |folder| std::fs::write(folder.join("model.safetensors"), &bytes).unwrap());
        for verb in ["info", "pull"] {
            let line = refused(id, &home.run(&hub, [verb, id]), &hub);
            assert!(line.contains("header"), "{verb} {id}: {line}");
        }
    };
    check("org/long", r#"{"wte.weight":{"dtype":"F32","shape":[8],"data_offsets":[0,16]}}"#, 16);
    check("org/hole", r#"{"wte.weight":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#, 16);
    check("org/short", r#"{"wte.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 16);
    check("org/none", "[]", 16);
}

#[test]
fn a_renamed_repository_is_named_anew() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "old/tale");
    hub.rename("old/tale", "new/tale");
    let outcome = home.run(&hub, ["info", "old/tale"]);
    assert!(outcome.code == Some(0) && outcome.stderr.contains("is now called `new/tale`"), "{outcome:?}");
    assert!(outcome.stdout.contains("new/tale@"), "{outcome:?}");
}
