//! `fireside cache verify` finds damage, and Python's client agrees with what we say of a cache and leave of it.
//!
//! `FIRESIDE_HUB_PYTHON=python3 cargo test --release --test it cache_verify` asks that client.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cache::{Cache, DEAD, MODEL, NEW, Named, hex, noise};
use crate::program::run;

#[test]
fn verify_finds_every_flipped_bit() {
    let cache = Cache::new();
    cache.model(MODEL);
    cache.blob(MODEL, b"nobody links to me", Named::Sha256);
    assert_eq!(cache.run(&["verify"]).answer(), "sound      org/tale: 5 files, 105.0 KB\n");
    let blobs: Vec<PathBuf> =
        fs::read_dir(cache.repo(MODEL).join("blobs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for (round, dice) in noise(4 * 100, 99).chunks(4).enumerate() {
        let blob = &blobs[round % blobs.len()];
        let sound = fs::read(blob).unwrap();
        let mut damaged = sound.clone();
        let at = u32::from_le_bytes(dice.try_into().unwrap()) as usize % (8 * sound.len());
        damaged[at / 8] ^= 1 << (at % 8);
        fs::write(blob, damaged).unwrap();
        let json = cache.json(&["verify", "org/tale"]);
        let bad: Vec<&Value> =
            json["files"].as_array().unwrap().iter().filter(|file| file["verdict"] != "sound").collect();
        assert_eq!((json["bad"].as_u64(), bad.len()), (Some(1), 1), "bit {at} of {}: {json:#}", blob.display());
        assert_eq!((&bad[0]["verdict"], &bad[0]["path"]), (&"damaged".into(), &blob.to_str().unwrap().into()));
        assert_eq!(bad[0]["expected"], blob.file_name().unwrap().to_str().unwrap());
        fs::write(blob, sound).unwrap();
    }
    for length in [0, 1, 50_000, 99_999] {
        let weights = blobs.iter().find(|blob| blob.metadata().unwrap().len() == 100_000).unwrap();
        let sound = fs::read(weights).unwrap();
        fs::write(weights, &sound[..length]).unwrap();
        assert_eq!(cache.run(&["verify"]).code, Some(1), "{length} bytes are left");
        fs::write(weights, sound).unwrap();
    }
    assert_eq!(cache.run(&["verify"]).code, Some(0));
}

#[test]
fn verify_says_what_it_cannot_know_and_removes_damage_on_demand() {
    let cache = Cache::new();
    cache.model(MODEL);
    let repo = cache.repo(MODEL);
    // Copies, where links could not be made: of a blob beside it, of a file that Python's client listed, of neither.
    let listed = noise(700, 3);
    let copy = |name: &str, content: &[u8]| cache.write(&format!("{MODEL}/snapshots/{NEW}/{name}"), content);
    copy("a_copy.json", b"{\"n\": 1}");
    let bad_copy = copy("listed.bin", &noise(700, 4));
    copy("lone.txt", b"who am I");
    let hash = hex(&Sha256::digest(&listed));
    let listing = format!(
        r#"{{"format_version": 1, "files": {{"listed.bin": {{"size": 700, "blob_id": "x", "lfs_sha256": "{hash}"}}}}}}"#
    );
    cache.write(&format!("{MODEL}/trees/{NEW}.json"), listing);
    let named_oddly = cache.write(&format!("{MODEL}/blobs/W%22odd%22"), "odd");
    cache.link(MODEL, NEW, "odd.txt", "W%22odd%22");
    let dangling = cache.link(MODEL, NEW, "gone.json", &"b".repeat(40));
    let weights = fs::read_link(repo.join("snapshots").join(NEW).join("model.safetensors")).unwrap();
    let weights = repo.join("blobs").join(weights.file_name().unwrap());
    fs::write(&weights, noise(100_000, 1)).unwrap();

    let before = cache.everything();
    let outcome = cache.run(&["verify"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for words in [
        "sound      org/tale: 4 files",
        "damaged    org/tale model.safetensors: expected ",
        "damaged    org/tale listed.bin: expected ",
        "dangling   org/tale gone.json: the link leads to nothing",
        "unknown    org/tale lone.txt: a copy without a blob",
        "unknown    org/tale odd.txt: its name is no hash",
    ] {
        assert!(outcome.stdout.contains(words), "{words}: {}", outcome.stdout);
    }
    assert!(outcome.stderr.contains("3 files of the cache are damaged"), "{outcome:?}");
    assert_eq!(cache.everything(), before, "verify alone changes nothing");

    let outcome = cache.run(&["verify", "--remove-damaged"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    for path in [&weights, &bad_copy, &dangling] {
        assert!(fs::symlink_metadata(path).is_err(), "{}", path.display());
    }
    assert!(named_oddly.exists());
    cache.is_whole();
    let missing: Vec<&PathBuf> = before.keys().filter(|path| fs::symlink_metadata(path).is_err()).collect();
    assert_eq!(missing.len(), 6, "three files, a link of each revision to the weights, their lock: {missing:?}");
    assert_eq!(cache.run(&["verify"]).code, Some(0));
}

#[test]
fn content_that_python_shares_goes_with_its_last_user() {
    let cache = Cache::new();
    let content = noise(9_000, 5);
    let (etag, xet) = (hex(&Sha256::digest(&content)), "d".repeat(64));
    let shared = cache.write(&format!("blobs/dd/{xet}"), &content);
    cache.write("blobs/.huggingface-shared-blobs", "1\n");
    cache.write(&format!("blobs/dd/{xet}.refs"), "");
    for repo in [MODEL, "models--org--twin"] {
        fs::create_dir_all(cache.repo(repo).join("blobs")).unwrap();
        symlink(format!("../../blobs/dd/{xet}"), cache.repo(repo).join("blobs").join(&etag)).unwrap();
        cache.link(repo, NEW, "model.safetensors", &etag);
        cache.write(&format!("{repo}/refs/main"), NEW);
    }
    assert_eq!(cache.json(&["ls"])["repos"][0]["size_bytes"], 9_000);
    assert!(cache.run(&["verify"]).answer().contains("sound      org/twin: 1 file, 9.0 KB"));
    for (name, freed) in [("org/tale", 0), ("org/twin", 9_000)] {
        let outcome = cache.run(&["rm", "--yes", name]);
        assert!(outcome.code == Some(0) && outcome.stderr.contains("several repositories share them"), "{outcome:?}");
        assert!(shared.exists());
        assert_eq!(cache.json(&["prune"])["freed_bytes"], freed);
        assert_eq!(shared.exists(), freed == 0);
    }
}

#[test]
fn python_sees_the_same_and_nothing_wrong_after_us() {
    let Some(python) = std::env::var_os("FIRESIDE_HUB_PYTHON") else {
        eprintln!("SKIPPED: set FIRESIDE_HUB_PYTHON to a Python that has huggingface_hub 1.x or 2.x");
        return;
    };
    let cache = Cache::new();
    let seen = |cache: &Cache| -> Value {
        const SCRIPT: &str = "
import json, sys, huggingface_hub as h
c = h.scan_cache_dir(sys.argv[1])
print(json.dumps({'warnings': len(c.warnings), 'repos': {r.repo_type + ' ' + r.repo_id: {'size': r.size_on_disk, 'files': r.nb_files,
  'revisions': {v.commit_hash: [v.size_on_disk, sorted(v.refs), len(v.files), int(v.last_modified)] for v in r.revisions}} for r in c.repos}}))";
        let mut command = Command::new(&python);
        command.args(["-c", SCRIPT]).arg(cache.path());
        let outcome = run(command);
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    };
    let ours = |cache: &Cache| -> Value {
        let page = cache.json(&["ls"]);
        let repos = page["repos"].as_array().unwrap().iter().map(|repo| {
            let revisions = repo["revisions"].as_array().unwrap().iter().map(|r| {
                let page = json!([r["size_bytes"], r["refs"], r["files"].as_array().unwrap().len(), r["modified"]]);
                (r["commit"].as_str().unwrap().to_owned(), page)
            });
            let revisions: serde_json::Map<String, Value> = revisions.collect();
            let name = format!("{} {}", repo["kind"].as_str().unwrap(), repo["id"].as_str().unwrap());
            (name, json!({ "size": repo["size_bytes"], "files": repo["files"], "revisions": revisions }))
        });
        json!({ "warnings": 0, "repos": repos.collect::<serde_json::Map<_, _>>() })
    };
    cache.model(MODEL);
    cache.model("models--org--other");
    cache.model("datasets--org--data");
    cache.write(&format!("{MODEL}/snapshots/{NEW}/copied.txt"), "a copy");
    assert_eq!(seen(&cache), ours(&cache));
    cache.run(&["rm", "--yes", "org/tale@1111"]).answer();
    assert_eq!(seen(&cache), ours(&cache));
    // What makes Python warn, and give up on the whole repository, goes with our pruning.
    cache.write(&format!("{MODEL}/refs/gone"), "9".repeat(40));
    cache.link("models--org--other", NEW, "missing.json", &"b".repeat(40));
    cache.write(&format!("models--org--begun/blobs/{}.{DEAD}.incomplete", "a".repeat(64)), "begun");
    assert_eq!(seen(&cache)["warnings"], 3);
    assert_eq!(cache.run(&["prune"]).code, Some(0));
    assert_eq!(seen(&cache), ours(&cache));
    assert_eq!(seen(&cache)["repos"].as_object().unwrap().len(), 3);
    cache.run(&["rm", "--yes", "org/other", "datasets/org/data", "org/tale"]).answer();
    assert_eq!(seen(&cache), json!({ "warnings": 0, "repos": {} }));
}
