//! Bundles that nobody's `fireside export` wrote: all are refused, and nothing of them is left.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::{REPO, content, import, on, refused, visible};
use crate::cache::{Cache, NEW, Named, OLD, noise};
use crate::program::{fireside, run_with};

/// An entry of a tar; any name, any kind.
fn entry(name: &[u8], kind: EntryType, content: &[u8], edit: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    edit(&mut header);
    let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
    [header.as_bytes(), content, &padding].concat()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(name.as_bytes(), EntryType::Regular, content, |_| {})
}

const END: &[u8] = &[0; 1024];
/// Two contents and their names.
const LARGE: (&[u8], &str) = (b"hello", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
const SMALL: (&[u8], &str) = (b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a");

/// A sound list of two files.
fn list() -> Value {
    json!({ "format": 1, "repo": "org/tale", "revision": "main", "commit": NEW, "files": [
        { "path": "config.json", "size": 6, "hash": SMALL.1 },
        { "path": "sub/weights.bin", "size": 5, "hash": LARGE.1 },
    ] })
}

fn blobs() -> Vec<u8> {
    [file(&format!("blobs/{}", LARGE.1), LARGE.0), file(&format!("blobs/{}", SMALL.1), SMALL.0)].concat()
}

/// A bundle with this list and sound contents.
fn with_list(list: &str) -> Vec<u8> {
    [file("fireside-bundle.json", list.as_bytes()), blobs(), END.to_vec()].concat()
}

fn with_edit(place: &str, value: impl Into<Value>) -> Vec<u8> {
    let mut list = list();
    *list.pointer_mut(place).expect("a place in the list") = value.into();
    with_list(&list.to_string())
}

/// A bundle with a sound list and these entries behind it.
fn with_entries(entries: &[u8]) -> Vec<u8> {
    [&file("fireside-bundle.json", list().to_string().as_bytes()), entries, END].concat()
}

/// Bundles that must be refused, and a part of the reason.
fn hostile_bundles() -> Vec<(String, Vec<u8>, &'static str)> {
    let mut found: Vec<(String, Vec<u8>, &'static str)> = Vec::new();
    let mut add = |what: &str, bundle: Vec<u8>, reason| found.push((what.to_owned(), bundle, reason));
    let sound = with_entries(&blobs());
    let blob = |content: &[u8]| file(&format!("blobs/{}", SMALL.1), content);
    add("nothing", vec![], "ends too early");
    add("a text", b"hello".to_vec(), "ends too early");
    add("noise", noise(4096, 3), "header of a tar");
    add("a gzip file", [b"\x1f\x8b\x08\x00".as_slice(), &noise(4096, 4)].concat(), "header of a tar");
    add("an empty tar", END.to_vec(), "it is empty");
    for length in (512..sound.len() - 512).step_by(512).chain([1, 511, 513, sound.len() - 513, sound.len() - 1]) {
        add(&format!("{length} bytes of a bundle"), sound[..length].to_vec(), "ends too early");
    }
    add("bytes behind the end", [&sound, b"x".as_slice()].concat(), "behind its end");
    add("a second tar behind the end", [&sound[..], &sound].concat(), "behind its end");
    add("zeros without end", [&sound[..], &[0; 1 << 20]].concat(), "behind its end");
    let mut one_block = sound.clone();
    let length = one_block.len();
    one_block[length - 512] = 1;
    add("one block of zeros and then bytes", one_block, "behind its end");

    add("no list", [blobs(), END.to_vec()].concat(), "as its first file");
    add("a list that is no JSON", with_list("hello"), "no list of a bundle");
    add("a list that is a list", with_list("[]"), "no list of a bundle");
    add("an empty list", with_list("{}"), "no list of a bundle");
    add("deep JSON", with_list(&"[".repeat(100_000)), "no list of a bundle");
    add("a list of 5 MB", with_list(&" ".repeat(5 << 20)), "at most");
    add("an unknown key", with_list(&list().to_string().replacen('{', "{\"run\": \"x\", ", 1)), "unknown field");
    add("a key twice", with_list(&list().to_string().replacen('{', "{\"repo\": \"a/b\", ", 1)), "duplicate field");
    for format in [json!(0), json!(2), json!(u64::MAX), json!(-1), json!("1"), json!(1.5), json!(null)] {
        add(&format!("the format {format}"), with_edit("/format", format), "the format 1");
    }
    add("no files", with_edit("/files", json!([])), "1 to 10000 files");
    let many: Value = (0..10_001).map(|i| json!({ "path": i.to_string(), "size": 6, "hash": SMALL.1 })).collect();
    add("10,001 files", with_edit("/files", many), "1 to 10000 files");
    for repo in ["", "..", "../evil", "a/b/c", "a--b", "/etc", "a/..", "a\u{1b}[31m/b", "a\0b", ".locks"] {
        add(&format!("the repository {repo:?}"), with_edit("/repo", repo), "no repository's name");
    }
    for revision in ["", "..", "../../../evil", "/evil", "a/../../b", "main.lock", "a b", "a\nb"] {
        add(&format!("the revision {revision:?}"), with_edit("/revision", revision), "no revision");
    }
    add("another commit's revision", with_edit("/revision", OLD), "of the revision");
    for commit in ["", "main", "..", "../../../../evil", &NEW[1..], &"A".repeat(40), &"é".repeat(20)] {
        add(&format!("the commit {commit:?}"), with_edit("/commit", commit), "no commit");
    }
    for path in
        ["", ".", "..", "../evil", "/etc/evil", "a/../../../evil", "a//b", "C:evil", "a\\..\\b", "nul", "a\0b", "x/"]
    {
        add(&format!("the path {path:?}"), with_edit("/files/0/path", path), "no path of a file");
    }
    for hash in ["", "..", "../../evil", &SMALL.1[1..], &LARGE.1.to_uppercase(), &"g".repeat(64)] {
        add(&format!("the hash {hash:?}"), with_edit("/files/0/hash", hash), "no hash");
    }
    add("a path twice", with_edit("/files/1/path", "config.json"), "twice");
    add("a file inside a file", with_edit("/files/1/path", "config.json/x"), "inside another file");
    add("a negative size", with_edit("/files/0/size", -1), "no list of a bundle");
    add("a size that is a text", with_edit("/files/0/size", "6"), "no list of a bundle");
    add("a small size in the list", with_edit("/files/1/size", 4), "expected 4 bytes");
    add("a large size in the list", with_edit("/files/1/size", u64::MAX), "bytes of `sub/weights.bin`");
    let mut two_sizes = list();
    two_sizes["files"].as_array_mut().unwrap().push(json!({ "path": "z", "size": 7, "hash": SMALL.1 }));
    add("two sizes of one content", with_list(&two_sizes.to_string()), "two sizes");

    add("no contents", with_entries(&[]), "lacks the content");
    add("a content less", with_entries(&blob(SMALL.0)), "lacks the content");
    add("a wrong content", with_entries(&[blobs()[..1024].to_vec(), blob(b"hullo\n")].concat()), "expected the hash");
    let wrong = [file(&format!("blobs/{}", LARGE.1), b"hullo"), blob(SMALL.0)].concat();
    add("a wrong large content", with_entries(&wrong), "expected the hash");
    add("a content twice", with_entries(&[blobs(), blob(SMALL.0)].concat()), "twice");
    add("a shorter content", with_entries(&blob(b"hell\n")), "expected 6 bytes");
    add("a longer content", with_entries(&blob(b"hello!\n")), "expected 6 bytes");
    add("the list twice", with_entries(&[file("fireside-bundle.json", b"{}"), blobs()].concat()), "not in its list");
    let unlisted = format!("blobs/{}", "0".repeat(64));
    for name in
        ["evil", "../evil", "/tmp/fireside-evil", "blobs/../../evil", "blobs/", &unlisted, "blobs/x", "refs/main"]
    {
        add(&format!("the entry {name}"), with_entries(&[blobs(), file(name, b"evil")].concat()), "not in its list");
    }
    let upper = file(&format!("blobs/{}", SMALL.1.to_uppercase()), SMALL.0);
    add("an entry in capitals", with_entries(&upper), "not in its list");
    add(
        "an entry that is no UTF-8",
        with_entries(&entry(b"blobs/\xff", EntryType::Regular, b"", |_| {})),
        "not in its list",
    );
    let name = format!("blobs/{}", SMALL.1);
    for kind in [
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Directory,
        EntryType::Fifo,
        EntryType::Char,
        EntryType::Block,
        EntryType::GNUSparse,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
        EntryType::Continuous,
        EntryType::new(b'?'),
    ] {
        let link = |header: &mut Header| {
            header.set_link_name_literal("/etc/passwd").unwrap();
            header.set_cksum();
        };
        let bad = entry(name.as_bytes(), kind, SMALL.0, link);
        add(&format!("an entry of the kind {kind:?}"), with_entries(&[bad, blobs()].concat()), "expected plain files");
    }
    let edited = |edit: fn(&mut Header)| entry(name.as_bytes(), EntryType::Regular, SMALL.0, edit);
    add("a wrong checksum", with_entries(&edited(|header| header.set_mtime(1))), "header of a tar");
    let no_number = edited(|header| {
        header.as_old_mut().size = *b"six bytes!!!";
        header.set_cksum();
    });
    add("a size that is no number", with_entries(&no_number), "found no number");
    let huge = edited(|header| {
        header.set_size(u64::MAX);
        header.set_cksum();
    });
    add("a size of 16 EB", with_entries(&huge), "expected 6 bytes");
    let mut hidden = blobs();
    hidden[512 + 100] = 7;
    add("bytes in the padding", with_entries(&hidden), "between its files");
    let mut huge_list = file("fireside-bundle.json", list().to_string().as_bytes());
    huge_list.splice(124..136, *b"77777777777\0");
    let mut header = Header::from_byte_slice(&huge_list[..512]).clone();
    header.set_cksum();
    huge_list.splice(..512, *header.as_bytes());
    add("a list of 8 GB", huge_list, "at most");
    found
}

#[test]
fn hostile_bundles_are_refused_and_leave_nothing() {
    let sound = with_entries(&blobs());
    let cache = Cache::new();
    import(&cache, &sound).answer();
    assert_eq!(visible(&cache).len(), 2 + 2 + 1, "the control is taken: {:?}", visible(&cache));
    import(&Cache::new(), &[&sound[..], &[0; 8192]].concat()).answer(); // a record filled with zeros, as GNU tar has it
    // One empty cache for all, and one that has the model.
    let (empty, full) = (Cache::new(), cache);
    let (nothing, before) = (content(&empty), full.everything());
    let bundles = hostile_bundles();
    assert!(bundles.len() >= 100, "{} bundles", bundles.len());
    let evil = Path::new("/tmp/fireside-evil");
    for (what, bundle, reason) in &bundles {
        for cache in [&empty, &full] {
            let outcome = import(cache, bundle);
            let line = refused(what, &outcome);
            assert!(line.contains(reason), "{what}: expected `{reason}` in {line}");
            assert!(outcome.stderr.contains("hint: "), "{what}: {outcome:?}");
        }
        assert_eq!(content(&empty), nothing, "{what}");
        assert_eq!(full.everything(), before, "{what}");
        assert!(!evil.exists(), "{what}");
    }
    eprintln!("{} hostile bundles were refused", bundles.len());
}

#[test]
fn a_bundle_cannot_change_what_the_cache_knows() {
    // Other content under the same commit and name, as a link and as a copy.
    let bundle = with_entries(&blobs());
    for link in [true, false] {
        let cache = Cache::new();
        if link {
            let blob = cache.blob(REPO, b"other", Named::Git);
            cache.link(REPO, NEW, "config.json", &blob);
        } else {
            cache.write(&format!("{REPO}/snapshots/{NEW}/config.json"), "other");
        }
        let before = content(&cache);
        let line = refused("other content", &import(&cache, &bundle));
        assert!(line.contains("other content than the cache for `config.json`"), "{line}");
        assert_eq!(content(&cache), before);
    }
    // Links and files where folders belong: nothing is written behind them.
    type Obstacle = (&'static str, fn(&Cache, &Path));
    let obstacles: [Obstacle; 5] = [
        ("a snapshot's folder is a link", |cache, outside| {
            cache.write(&format!("{REPO}/snapshots/x"), "");
            symlink(outside, cache.repo(REPO).join("snapshots").join(NEW)).unwrap();
        }),
        ("a folder inside a snapshot is a link", |cache, outside| {
            cache.write(&format!("{REPO}/snapshots/{NEW}/x"), "");
            symlink(outside, cache.repo(REPO).join("snapshots").join(NEW).join("sub")).unwrap();
        }),
        ("a folder inside a snapshot is a file", |cache, _| {
            cache.write(&format!("{REPO}/snapshots/{NEW}/sub"), "");
        }),
        ("a file of a snapshot is a folder", |cache, _| {
            cache.write(&format!("{REPO}/snapshots/{NEW}/config.json/x"), "");
        }),
        ("a reference is a folder", |cache, _| {
            cache.write(&format!("{REPO}/refs/main/x"), NEW);
        }),
    ];
    for (what, obstacle) in obstacles {
        let (cache, outside) = (Cache::new(), TempDir::new().unwrap());
        obstacle(&cache, outside.path());
        let before = content(&cache);
        refused(what, &import(&cache, &bundle));
        assert_eq!(content(&cache), before, "{what}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{what}");
    }
    // A branch that was at another commit moves, and the user hears of it.
    let cache = Cache::new();
    cache.write(&format!("{REPO}/refs/main"), OLD);
    let outcome = import(&cache, &bundle);
    assert!(outcome.code == Some(0) && outcome.stderr.contains(OLD) && outcome.stderr.contains(NEW), "{outcome:?}");
    assert_eq!(fs::read(cache.repo(REPO).join("refs/main")).unwrap(), NEW.as_bytes());
    // Damage in the cache is healed.
    let blob = cache.repo(REPO).join("blobs").join(LARGE.1);
    fs::write(&blob, "hullo").unwrap();
    import(&cache, &bundle).answer();
    assert_eq!(fs::read(&blob).unwrap(), LARGE.0);
}

#[test]
fn what_cannot_be_read_or_written_is_an_error() {
    let cache = Cache::new();
    let check = |args: &[&str], reason: &str| {
        let line = refused(reason, &on(&cache, &[&["import"], args].concat()));
        assert!(line.contains(reason), "{line}");
    };
    check(&["none.tar"], "cannot read `none.tar`");
    check(&["."], "it is a folder");
    check(&["/dev/null"], "ends too early");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let mut import = fireside(["import", "-"]);
    import.env("HF_HUB_CACHE", &file);
    refused("a cache that is a file", &run_with(import, &with_entries(&blobs())));
}
