//! Fetching a model and using it: which files come, which never do, and what the second time costs.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::checks::{self, done, refused, told, wrong_files};
use super::content::Content;
use super::fake::{FakeHub, RepoFile};
use super::{Home, heavy, sharded, tale};
use crate::support::fixture;

const GENERATE: [&str; 7] = ["generate", "--temperature", "0", "--max-new-tokens", "20", "--model", "org/tale"];
/// What a look at the header of a weight file costs at most.
const HEADER: u64 = 64 << 10;
const PROMPT: &str = "Once upon a time";

fn generate() -> Vec<&'static str> {
    [&GENERATE[..], &[PROMPT]].concat()
}

#[test]
fn a_model_of_the_hub_is_fetched_once_and_then_needs_no_hub() {
    let mut hub = FakeHub::start();
    let home = Home::new();
    let commit = tale(&hub, "org/tale");
    let first = home.run(&hub, generate());
    done("the first run", &first, &hub);
    assert!(!first.stdout.trim().is_empty(), "{first:?}");
    assert_eq!(wrong_files(&home.repo("org/tale"), &commit, &hub.tree("org/tale")), [""; 0]);

    let local = [
        "generate",
        "--temperature",
        "0",
        "--max-new-tokens",
        "20",
        "--model",
        fixture("tale").to_str().unwrap(),
        PROMPT,
    ]
    .map(str::to_owned);
    assert_eq!(home.run(&hub, local).stdout, first.stdout, "the same model from a folder writes the same");

    hub.forget_seen();
    let second = home.run(&hub, generate());
    done("the second run", &second, &hub);
    assert_eq!(second.stdout, first.stdout);
    assert!(hub.seen().is_empty(), "a cached model needs no request\n{}", told(&second, &hub));

    hub.stop();
    let third = home.run(&hub, generate());
    done("the third run, without a hub", &third, &hub);
    assert_eq!(third.stdout, first.stdout);
    assert!(second.stderr.is_empty() && third.stderr.is_empty(), "nothing to say of a cached model: {third:?}");
}

#[test]
fn a_cached_model_runs_without_a_network_and_makes_no_socket() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    let first = home.run(&hub, generate());
    done("the first run", &first, &hub);
    let within = |wrapper: &[&str]| {
        let mut command = home.command(wrapper[0], &hub.url());
        command.args(&wrapper[1..]).arg(env!("CARGO_BIN_EXE_fireside")).args(generate());
        checks::run(command)
    };
    let can = |wrapper: &[&str]| {
        let run = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").stderr(Stdio::null()).status();
        let can = run.is_ok_and(|status| status.success());
        if !can {
            eprintln!("SKIPPED: `{}` does not run here", wrapper.join(" "));
        }
        can
    };
    let nowhere = ["unshare", "--net"];
    if can(&nowhere) {
        assert_eq!(within(&nowhere).stdout, first.stdout);
    }
    let trace = home.work().join("trace");
    let traced = ["strace", "-f", "-e", "trace=socket,socketpair,connect,bind", "-o", trace.to_str().unwrap()];
    if can(&traced) {
        assert_eq!(within(&traced).stdout, first.stdout);
        let calls = std::fs::read_to_string(&trace).unwrap();
        let calls: Vec<&str> = calls.lines().filter(|line| line.contains('(')).collect();
        assert!(calls.is_empty(), "a cached model needs no socket: {calls:#?}");
    }
}

#[test]
fn only_the_files_that_a_model_needs_are_fetched() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    let others = [
        "pytorch_model.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "rust_model.ot",
        "64.tflite",
        "model.fp16.safetensors",
        "onnx/model.onnx",
        "onnx/config.json",
        "original/consolidated.00.pth",
        "coreml/model.mlpackage/weights.bin",
        "training_args.bin",
        "optimizer.pt",
        ".gitattributes",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ];
    let further = "additional_chat_templates/tool_use.jinja";
    let mut draft = hub.repo("org/tale").file("README.md", "# A tale\n").file(further, "x");
    for other in others {
        draft = draft.large_file(other, format!("{other}, which nobody needs").repeat(1000));
    }
    let commit = draft.publish();
    let outcome = home.run(&hub, ["pull", "org/tale"]);
    done("pull", &outcome, &hub);
    for other in others {
        assert!(
            !hub.seen().iter().any(|seen| seen.path.contains(&format!("/{other}"))),
            "nobody needs {other}\n{}",
            told(&outcome, &hub)
        );
    }
    let snapshot = home.repo("org/tale").join("snapshots").join(&commit);
    for needed in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model.safetensors",
        further,
    ] {
        assert!(snapshot.join(needed).is_file(), "{needed}\n{}", told(&outcome, &hub));
        let quoted = hub.file("org/tale", needed);
        let gets = hub.gets(&quoted.sha256) + hub.gets(&format!("/resolve/{commit}/{needed}"));
        assert!((1..=2).contains(&gets), "{needed} was fetched {gets} times\n{}", told(&outcome, &hub));
    }
    let weights = hub.file("org/tale", "model.safetensors").content.len();
    let served = hub.served("/cdn/");
    assert!(served <= weights + HEADER, "{served} bytes for {weights}\n{}", told(&outcome, &hub));
}

#[test]
fn a_model_in_shards_comes_whole_and_runs() {
    let hub = FakeHub::start();
    hub.pages_of(3);
    hub.redirects_small_files();
    let home = Home::new();
    let commit = sharded(&hub, "org/shards");
    let args = ["generate", "--temperature", "0", "--max-new-tokens", "5", "--model", "org/shards", "abcabc"];
    let outcome = home.run(&hub, args);
    done("generate", &outcome, &hub);
    assert_eq!(wrong_files(&home.repo("org/shards"), &commit, &hub.tree("org/shards")), [""; 0]);
    for shard in 1..=3 {
        let file = hub.file("org/shards", &format!("model-0000{shard}-of-00003.safetensors"));
        assert!(home.repo("org/shards").join("blobs").join(file.etag()).is_file(), "{}", told(&outcome, &hub));
    }
    hub.forget_seen();
    assert_eq!(home.run(&hub, args).stdout, outcome.stdout);
    assert!(hub.seen().is_empty(), "{:#?}", hub.seen());
}

#[test]
fn branches_tags_and_commits_name_what_they_named_on_the_hub() {
    let hub = FakeHub::start();
    let old = tale(&hub, "org/tale");
    hub.tag("org/tale", "v1", &old);
    let new = hub.repo("org/tale").file("README.md", "new").publish();
    let dev = hub.repo("org/tale").file("README.md", "dev").on_branch("refs/pr/1").publish();
    assert!(old != new && new != dev);
    let cases = [
        (vec!["pull", "org/tale"], &new, Some("main")),
        (vec!["pull", "org/tale@main"], &new, Some("main")),
        (vec!["pull", "org/tale", "--revision", "v1"], &old, Some("v1")),
        (vec!["pull", "org/tale@v1"], &old, Some("v1")),
        (vec!["pull", "org/tale@refs/pr/1"], &dev, Some("refs/pr/1")),
        (vec!["pull", "org/tale", "--revision", &old], &old, None),
        (vec!["pull", "org/tale", "--revision", &dev], &dev, None),
    ];
    for (args, commit, reference) in cases {
        let home = Home::new();
        let outcome = home.run(&hub, &args);
        let what = args.join(" ");
        done(&what, &outcome, &hub);
        let repo = home.repo("org/tale");
        let snapshot = repo.join("snapshots").join(commit);
        assert_eq!(Path::new(outcome.stdout.trim_end()), snapshot, "{what}: `pull` prints where the model is");
        assert_eq!(outcome.stdout.lines().count(), 1, "{what}: {outcome:?}");
        assert!(snapshot.join("model.safetensors").is_file(), "{what}");
        match reference {
            Some(name) => assert_eq!(&std::fs::read_to_string(repo.join("refs").join(name)).unwrap(), commit, "{what}"),
            None => assert!(!repo.join("refs").exists(), "{what}: a commit needs no reference"),
        }
        #[cfg(unix)]
        {
            let link = std::fs::read_link(snapshot.join("config.json")).unwrap();
            let etag = hub.file("org/tale", "config.json").etag().to_owned();
            assert_eq!(
                link,
                Path::new("../../blobs").join(etag),
                "{what}: a relative link, as Python's client makes it"
            );
        }
    }
}

#[test]
fn a_pull_follows_its_branch_and_fetches_only_what_changed() {
    let hub = FakeHub::start();
    let home = Home::new();
    let old = tale(&hub, "org/tale");
    done("the first pull", &home.run(&hub, ["pull", "org/tale"]), &hub);
    let changed = fixture("tale").join("generation_config.json");
    let new =
        hub.repo("org/tale").file("generation_config.json", format!("{}\n", std::fs::read_to_string(changed).unwrap()));
    let new = new.publish();
    hub.forget_seen();
    let used = home.run(&hub, generate());
    done("a run", &used, &hub);
    assert!(hub.seen().is_empty(), "what is cached is used as it is: {:#?}", hub.seen());
    let outcome = home.run(&hub, ["pull", "org/tale"]);
    done("the second pull", &outcome, &hub);
    assert!(outcome.stdout.trim_end().ends_with(&new), "{}", told(&outcome, &hub));
    assert_eq!(hub.served("/cdn/"), 0, "the weights are the same\n{}", told(&outcome, &hub));
    assert_eq!(hub.gets("/resolve/"), 1, "one small file changed\n{}", told(&outcome, &hub));
    assert!(home.repo("org/tale").join("snapshots").join(&old).join("config.json").is_file(), "the old one stays");
}

#[test]
fn a_dry_run_says_what_would_come_and_fetches_no_weights() {
    let hub = FakeHub::start();
    let home = Home::new();
    heavy(&hub, "org/heavy", 8 << 20, 1);
    let outcome = home.run(&hub, ["pull", "org/heavy", "--dry-run"]);
    done("pull --dry-run", &outcome, &hub);
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(said.contains("model.safetensors"), "{}", told(&outcome, &hub));
    assert!(hub.served("/cdn/") < 200 << 10, "{}", told(&outcome, &hub));
    let weights = hub.file("org/heavy", "model.safetensors");
    assert!(!home.repo("org/heavy").join("blobs").join(weights.etag()).exists());

    let json = home.run(&hub, ["pull", "org/heavy", "--dry-run", "--json"]);
    done("pull --dry-run --json", &json, &hub);
    let value: Value = serde_json::from_str(&json.stdout).unwrap_or_else(|error| panic!("{error}: {json:?}"));
    assert!(value.is_object(), "{value}");
}

#[test]
fn a_local_folder_gets_plain_files() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    for _ in 0..2 {
        let outcome = home.run(&hub, ["pull", "org/tale", "--local-dir", "here"]);
        done("pull --local-dir", &outcome, &hub);
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            let path = home.work().join("here").join(name);
            assert!(path.symlink_metadata().is_ok_and(|it| it.is_file()), "{name}\n{}", told(&outcome, &hub));
            let same = std::fs::read(&path).unwrap() == hub.file("org/tale", name).content.bytes();
            assert!(same, "{name}\n{}", told(&outcome, &hub));
        }
        let weights = hub.file("org/tale", "model.safetensors").content.len();
        let most = weights + 2 * HEADER;
        assert!(hub.served("/cdn/") <= most, "once is enough\n{}", told(&outcome, &hub));
    }
    let outcome =
        home.run(&hub, ["generate", "--temperature", "0", "--max-new-tokens", "5", "--model", "here", PROMPT]);
    done("generate --model here", &outcome, &hub);
}

#[test]
fn a_renamed_repository_is_followed() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/old");
    hub.rename("org/old", "org/new");
    let outcome = home.run(&hub, ["pull", "org/old"]);
    done("pull org/old", &outcome, &hub);
    let snapshot = Path::new(outcome.stdout.trim_end());
    assert!(snapshot.join("model.safetensors").is_file(), "{}", told(&outcome, &hub));
    hub.forget_seen();
    let run = home.run(&hub, ["generate", "-t", "0", "--max-new-tokens", "3", "--model", "org/old", PROMPT]);
    done("generate by the old name", &run, &hub);
    assert!(hub.seen().is_empty(), "{}", told(&run, &hub));
}

#[test]
fn what_cannot_run_is_refused_before_its_weights_move() {
    let size = 4 << 20; // so many that a look at the header is told from a download
    let config = std::fs::read_to_string(fixture("tale").join("config.json")).unwrap();
    let other_config = config.replace("GPT2LMHeadModel", "FooForCausalLM").replace("\"gpt2\"", "\"foo\"");
    let header = format!(r#"{{"wte.weight":{{"dtype":"F8_E4M3","shape":[{size}],"data_offsets":[0,{size}]}}}}"#);
    let odd = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; size]].concat();
    let sound = Content::weights(size as u64, 1).bytes();
    let yarn = std::fs::read_to_string(fixture("llama/base/config.json")).unwrap();
    let yarn = yarn.replace("\"rope_scaling\": null", r#""rope_scaling": {"type": "mystery", "factor": 4.0}"#);
    let cases = [
        ("an architecture", other_config, sound.clone(), "foo"),
        ("a switch", yarn, sound, "`mystery` is not supported"),
        ("a dtype", config, odd, "F8_E4M3"),
    ];
    for (what, config, weights, named) in cases {
        let hub = FakeHub::start();
        let home = Home::new();
        let weights = RepoFile::new(Content::of(weights), true);
        tale(&hub, "org/odd");
        hub.repo("org/odd").file("config.json", config).with("model.safetensors", weights).publish();
        let line = refused(what, &home.run(&hub, ["pull", "org/odd"]), &hub);
        assert!(line.to_lowercase().contains(&named.to_lowercase()), "{what}: {line}");
        let most = if what == "a dtype" { HEADER } else { 0 };
        assert!(hub.served("/cdn/") <= most, "{what}: the weights moved: {:#?}", hub.seen());
    }
}

#[test]
fn a_repository_with_pickles_only_is_refused_by_name() {
    let hub = FakeHub::start();
    let home = Home::new();
    let config = std::fs::read(fixture("tale").join("config.json")).unwrap();
    hub.repo("org/pickle").file("config.json", config).large_file("pytorch_model.bin", vec![0x80; 4096]).publish();
    let line = refused("pull", &home.run(&hub, ["pull", "org/pickle"]), &hub);
    assert!(line.contains("pickle"), "{line}");
    assert_eq!(hub.served("/cdn/"), 0, "{:#?}", hub.seen());
}

#[test]
fn progress_as_json_is_one_object_per_line() {
    let hub = FakeHub::start();
    let home = Home::new();
    heavy(&hub, "org/heavy", 8 << 20, 2);
    hub.bandwidth(16 << 20);
    let outcome = home.run(&hub, ["pull", "org/heavy", "--progress", "json"]);
    assert_eq!(outcome.code, Some(0), "{}", told(&outcome, &hub));
    let lines: Vec<Value> = outcome
        .stderr
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{}", told(&outcome, &hub)))
        })
        .collect();
    assert!(lines.len() >= 2 && lines.iter().all(Value::is_object), "{}", told(&outcome, &hub));
    let most = 10.0 * outcome.took.as_secs_f64() + 40.0; // ten a second, and one for each change of a file's state
    assert!((lines.len() as f64) < most, "{} lines in {:?}", lines.len(), outcome.took);
}

#[test]
fn a_pipe_gets_plain_lines_and_none_of_them_many_times() {
    let hub = FakeHub::start();
    heavy(&hub, "org/heavy", 4 << 20, 3);
    hub.bandwidth(8 << 20);
    for progress in ["auto", "plain", "none"] {
        let home = Home::new();
        let outcome = home.run(&hub, ["pull", "org/heavy", "--progress", progress]);
        done(progress, &outcome, &hub);
        assert!(outcome.stderr.lines().count() <= 20, "{}", told(&outcome, &hub));
        assert!(progress != "none" || outcome.stderr.is_empty(), "{}", told(&outcome, &hub));
    }
}

#[test]
fn named_files_come_and_no_others() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    let commit = hub.repo("org/tale").file("extra/notes.txt", "a note").large_file("other.bin", "pickle").publish();
    let outcome = home.run(&hub, ["pull", "org/tale", "--file", "extra/*", "--file", "config.json"]);
    done("pull --file", &outcome, &hub);
    let snapshot = home.repo("org/tale").join("snapshots").join(commit);
    assert!(snapshot.join("extra/notes.txt").is_file() && snapshot.join("config.json").is_file(), "{outcome:?}");
    assert_eq!(hub.served("/cdn/"), 0, "{}", told(&outcome, &hub));
}

#[test]
fn offline_asks_nobody_and_names_the_command_that_would_help() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    let mut by_variable = home.fireside(&hub, generate());
    by_variable.env("HF_HUB_OFFLINE", "1");
    let by_flag = home.fireside(&hub, [&generate()[..], &["--offline"]].concat());
    for command in [by_variable, by_flag] {
        let outcome = checks::run(command);
        refused("offline", &outcome, &hub);
        assert!(outcome.stderr.contains("fireside pull org/tale"), "{}", told(&outcome, &hub));
        assert!(hub.seen().is_empty(), "{}", told(&outcome, &hub));
    }
}

#[test]
fn file_systems_without_links_get_copies() {
    let hub = FakeHub::start();
    let home = Home::new();
    let commit = tale(&hub, "org/tale");
    let mut command = home.fireside(&hub, ["pull", "org/tale"]);
    command.env("HF_HUB_DISABLE_SYMLINKS", "1");
    done("pull without links", &checks::run(command), &hub);
    let snapshot = home.repo("org/tale").join("snapshots").join(&commit);
    assert!(snapshot.join("config.json").symlink_metadata().unwrap().is_file());
    assert_eq!(wrong_files(&home.repo("org/tale"), &commit, &hub.tree("org/tale")), [""; 0]);
    hub.forget_seen();
    done("generate", &home.run(&hub, generate()), &hub);
    assert!(hub.seen().is_empty(), "{:#?}", hub.seen());
}
