//! Models of the Hub in GGUF files: named by quantisation or by file, judged before they move, found again without a Hub.

use fireside::kernels::Format;
use serde_json::Value;

use super::checks::{done, refused, told};
use super::content::Content;
use super::fake::{FakeHub, RepoFile};
use super::{Home, tale};
use crate::gguf::file::GgufFile;
use crate::gguf::model::{Numbers, gguf_of};
use crate::support::fixture;

const PROMPT: &str = "abc";

fn made(kind: Numbers) -> GgufFile {
    gguf_of(&fixture("llama/base"), |name| if name.contains("ffn_down") { Numbers::F32 } else { kind })
}

fn q8() -> GgufFile {
    made(Numbers::Blocks(Format::Q8_0))
}

fn large(made: &GgufFile) -> std::sync::Arc<RepoFile> {
    RepoFile::new(Content::of(made.bytes()), true)
}

/// A repository of two quantisations, with what lies beside models under the same ending.
fn quantised(hub: &FakeHub, id: &str) -> String {
    hub.repo(id)
        .file("README.md", "a model")
        .with("m-Q8_0.gguf", large(&q8()))
        .with("sub/m-F16.gguf", large(&made(Numbers::F16)))
        .with("mmproj-m-Q8_0.gguf", RepoFile::new(Content::of("no language model"), true))
        .publish()
}

fn generate(name: &str) -> Vec<String> {
    let args = ["generate", "--temperature", "0", "--max-new-tokens", "8", "--ignore-eos", "--model", name, PROMPT];
    args.map(str::to_owned).to_vec()
}

#[test]
fn a_quantisation_is_fetched_once_and_then_needs_no_hub() {
    let mut hub = FakeHub::start();
    let home = Home::new();
    quantised(&hub, "org/m");
    let local = home.work().join("local.gguf");
    std::fs::write(&local, q8().bytes()).unwrap();
    let expected = home.run(&hub, generate(local.to_str().unwrap()));
    done("the file itself", &expected, &hub);
    let names = ["org/m:Q8_0", "org/m:q8_0", "org/m/m-Q8_0.gguf"];
    for (run, name) in names.iter().enumerate() {
        hub.forget_seen();
        let outcome = home.run(&hub, generate(name));
        done(name, &outcome, &hub);
        assert_eq!(outcome.stdout, expected.stdout, "{name}");
        assert_eq!(hub.seen().is_empty(), run > 0, "{name}\n{}", told(&outcome, &hub));
    }
    assert_eq!(hub.gets("F16"), 0);
    let other = home.run(&hub, generate("org/m/sub/m-F16.gguf"));
    done("a file in a folder", &other, &hub);
    hub.stop();
    for name in ["org/m:Q8_0", "org/m:F16", "org/m/sub/m-F16.gguf"] {
        let outcome = home.run(&hub, generate(name));
        done(name, &outcome, &hub);
        assert!(!outcome.stderr.contains("fetch"), "{outcome:?}");
    }
}

#[test]
fn names_that_fit_several_files_or_none_are_refused_with_the_files() {
    let hub = FakeHub::start();
    let home = Home::new();
    quantised(&hub, "org/m");
    hub.repo("org/twice")
        .with("a-Q8_0.gguf", large(&q8()))
        .with("b-Q8_0.gguf", large(&q8()))
        .file("config.json", "{}")
        .publish();
    tale(&hub, "org/tale");
    let check = |name: &str, words: &[&str]| {
        for verb in [vec!["info".to_owned(), name.to_owned()], vec!["pull".to_owned(), name.to_owned()], generate(name)]
        {
            let outcome = home.run(&hub, verb);
            assert_eq!(outcome.code, Some(1), "{name}: {outcome:?}");
            let said = &outcome.stderr;
            assert!(words.iter().all(|word| said.contains(word)), "{name}: {words:?}: {said}");
            assert!(!said.contains("mmproj"), "{said}");
        }
    };
    check("org/m", &["several GGUF files", "`m-Q8_0.gguf`", "`sub/m-F16.gguf`"]);
    check("org/m:Q4_K_M", &["no GGUF file of the quantisation `Q4_K_M`", "`m-Q8_0.gguf`"]);
    check("org/m/other.gguf", &["no file `other.gguf`", "m-Q8_0.gguf"]);
    check("org/twice:Q8_0", &["several GGUF files of the quantisation", "`a-Q8_0.gguf`", "`b-Q8_0.gguf`"]);
    let line = refused("a file", &home.run(&hub, generate("org/tale/config.json")), &hub);
    assert!(line.contains("only if it is a .gguf file"), "{line}");
}

#[test]
fn a_repository_of_one_gguf_needs_no_more_than_its_name() {
    let hub = FakeHub::start();
    let home = Home::new();
    for (id, file) in [("org/one", "m.gguf"), ("org/capitals", "M.GGUF")] {
        hub.repo(id).with(file, large(&q8())).file("README.md", "a model").publish();
        done("the first run", &home.run(&hub, generate(id)), &hub);
        hub.forget_seen();
        done("the second run", &home.run(&hub, generate(id)), &hub);
        done("by the file's name", &home.run(&hub, generate(&format!("{id}/{file}"))), &hub);
        assert!(hub.seen().is_empty(), "{id}");
    }
}

#[test]
fn all_parts_of_a_model_are_fetched() {
    let mut hub = FakeHub::start();
    let home = Home::new();
    let base = q8();
    let mut draft = hub.repo("org/parts");
    for part in 0..3_usize {
        let mut made = if part == 0 { base.clone() } else { GgufFile::default() };
        made.tensors = base.tensors.iter().skip(part).step_by(3).cloned().collect();
        let number = |n: usize| (n as u16).to_le_bytes();
        made = made.key("split.no", 2, number(part)).key("split.count", 2, number(3));
        draft = draft.with(&format!("m-Q8_0-{:05}-of-00003.gguf", part + 1), large(&made));
    }
    draft.publish();
    let first = home.run(&hub, generate("org/parts:Q8_0"));
    done("a model in parts", &first, &hub);
    hub.stop();
    let again = home.run(&hub, generate("org/parts:Q8_0"));
    done("without a hub", &again, &hub);
    assert_eq!(first.stdout, again.stdout);
}

#[test]
fn a_model_that_moved_on_does_not_lose_its_files() {
    let mut hub = FakeHub::start();
    let home = Home::new();
    quantised(&hub, "org/m");
    done("the first", &home.run(&hub, generate("org/m:Q8_0")), &hub);
    hub.repo("org/m").with("m-Q8_0.gguf", large(&q8())).with("m-BF16.gguf", large(&made(Numbers::Bf16))).publish();
    done("another of a newer commit", &home.run(&hub, generate("org/m:BF16")), &hub);
    hub.stop();
    for name in ["org/m:Q8_0", "org/m:BF16"] {
        done(name, &home.run(&hub, generate(name)), &hub);
    }
}

#[test]
fn what_is_said_of_a_file_that_is_not_here_is_what_loading_it_finds() {
    let hub = FakeHub::start();
    let home = Home::new();
    let mut padded = q8();
    padded = padded.text("general.padding", &"x".repeat(300_000)); // a head that needs a second look
    hub.repo("org/m").with("m-Q8_0.gguf", large(&padded)).publish();
    let before = home.everything();
    let outcome = home.run(&hub, ["info", "--json", "org/m:Q8_0"]);
    done("info", &outcome, &hub);
    assert!(home.everything() == before);
    let remote: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(remote["supported"], true, "{remote}");
    done("pull", &home.run(&hub, ["pull", "org/m:Q8_0"]), &hub);
    let outcome = home.run(&hub, ["info", "--json", "org/m:Q8_0"]);
    done("info of what is here", &outcome, &hub);
    let here: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for field in [
        "architecture",
        "parameters",
        "dtypes",
        "layers",
        "vocab_size",
        "context",
        "license",
        "weight_bytes",
        "cache_bytes_per_token",
        "memory_bytes",
        "weight_bytes_per_token",
    ] {
        assert_eq!(remote[field], here[field], "{field}");
    }
}

#[test]
fn what_cannot_run_is_refused_before_it_moves() {
    let hub = FakeHub::start();
    let home = Home::new();
    let mut other = q8();
    other.keys[0].2 = crate::gguf::file::string("mamba");
    let mut unread = q8();
    let tensor = unread.tensors.iter_mut().find(|tensor| tensor.name == b"blk.0.attn_q.weight").unwrap();
    (tensor.dtype, tensor.dims, tensor.data) = (24, vec![32, 32], vec![0; 1024]);
    for made in [&mut other, &mut unread] {
        made.tensors.push(crate::gguf::file::GgufTensor {
            name: b"weight.of.weights".to_vec(),
            dims: vec![1 << 18],
            dtype: 0,
            data: vec![0; 1 << 20],
            stated_offset: None,
        });
    }
    for (id, made, words) in [("org/other", &other, ["`mamba`", "GGUF"]), ("org/unread", &unread, ["I8", "Q4_K"])] {
        hub.repo(id).with("m.gguf", large(made)).publish();
        for verb in [vec!["pull".to_owned(), id.to_owned()], generate(id)] {
            hub.forget_seen();
            let line = refused(id, &home.run(&hub, verb), &hub);
            assert!(words.iter().all(|word| line.contains(word)), "{id}: {line}");
            assert!(hub.served("") < 200_000, "{id}: {} bytes moved", hub.served(""));
        }
        let answer = home.run(&hub, ["info", id]);
        done(id, &answer, &hub);
        assert!(answer.stdout.contains("not supported") && answer.stdout.contains(words[0]), "{answer:?}");
    }
}
