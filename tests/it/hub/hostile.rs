//! A Hub that means harm: names, tags and addresses that lead elsewhere. Nothing is written outside the cache, and the
//! token goes nowhere else.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::checks::{self, at_once, done, quiet_terminal, refused, told, wrong_files};
use super::fake::{FakeHub, Origin, Token};
use super::rules::Fault;
use super::{Home, sharded, tale};
use crate::program::Outcome;
use crate::support::fixture;

const SECRET: &str = "hf_SeCrEtSeCrEt";

/// A hostile answer: what it is, and how the hub gives it.
type Attack = (String, Box<dyn Fn(&FakeHub) + Sync>);

const NAMES: &[&str] = &[
    "../../../evil.json",
    "../evil.json",
    "..",
    "/evil.json",
    "//evil.json",
    "a/../../../../evil.json",
    "./config.json",
    "a//b.json",
    "..\\..\\evil.json",
    "C:\\evil.json",
    "C:evil.json",
    "con",
    "evil\u{0}.json",
    "evil\u{1b}[2J.json",
    "evil\n.json",
    "evil.json.",
    "evil.json ",
    "~/evil.json",
    "\u{202e}nosj.live",
];

const TAGS: &[&str] = &[
    "../../../evil",
    "../evil",
    "/evil",
    "..",
    ".",
    "",
    "a/b",
    "a\\b",
    "evil",
    "ZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZZ",
    "evil\u{1b}[2J",
    "0000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000000",
];

const COMMITS: &[&str] = &["../../evil", "/evil", "", "main", "..", "evil\u{1b}[2J", "0123456789abcdef", "a/b"];

/// Attacks that a client gives up only after all its tries.
pub fn tags() -> Vec<Attack> {
    let mut attacks: Vec<Attack> = Vec::new();
    for tag in TAGS {
        for path in ["config.json", "model.safetensors"] {
            attacks.push((
                format!("the ETag {tag:?} of {path}"),
                Box::new(move |hub| drop(hub.repo("org/m").lies_about(path, tag).publish())),
            ));
        }
    }
    for header in [("Content-Length", "99999999999999999999"), ("Content-Length", "-1"), ("ETag", "\u{1b}[2J")] {
        attacks.push((
            format!("the header {header:?}"),
            Box::new(move |hub| {
                let headers = vec![(header.0.to_owned(), header.1.to_owned())];
                hub.on("GET", "/resolve/").always().does(Fault::Headers(headers));
            }),
        ));
    }
    attacks
}

/// All other attacks, those with names in all places where a name can stand.
pub fn attacks() -> Vec<Attack> {
    let mut attacks = words();
    for name in NAMES {
        attacks.push((
            format!("a file named {name:?} in the listings"),
            Box::new(move |hub| drop(hub.repo("org/m").file(name, "evil").publish())),
        ));
        attacks.push((
            format!("a shard named {name:?} in the index"),
            Box::new(move |hub| {
                sharded(hub, "org/m");
                let shards = json!({ "wte.weight": name, "wpe.weight": format!("{name}.safetensors") });
                let index = json!({ "metadata": {}, "weight_map": shards });
                let draft = hub.repo("org/m").file("model.safetensors.index.json", index.to_string());
                draft.large_file(name, "evil").large_file(&format!("{name}.safetensors"), "evil").publish();
                hub.without("org/m", "model.safetensors");
            }),
        ));
    }
    for tag in TAGS {
        attacks.push((
            format!("the hash {tag:?} in the listing"),
            Box::new(move |hub| {
                let lfs = json!({ "oid": tag, "size": 235_688, "pointerSize": 134 });
                let file = |path: &str| json!({ "type": "file", "oid": tag, "size": 300, "path": path });
                let mut weights = file("model.safetensors");
                weights["lfs"] = lfs;
                let listing = json!([file("config.json"), file("tokenizer.json"), weights]).to_string();
                hub.on("GET", "/tree/").always().answers_with(200, &[], listing.as_bytes());
            }),
        ));
    }
    for commit in COMMITS {
        attacks.push((
            format!("the commit {commit:?}"),
            Box::new(move |hub| drop(hub.repo("org/m").with_commit(commit).publish())),
        ));
        attacks.push((
            format!("the commit {commit:?} of a file"),
            Box::new(move |hub| {
                let header = vec![("X-Repo-Commit".to_owned(), (*commit).to_owned())];
                hub.on("GET", "/resolve/").always().does(Fault::Headers(header));
            }),
        ));
    }
    for to in [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "http://",
        "http://[::1",
        "",
        "http://user:pass@127.0.0.1:9/x",
        "javascript:1",
    ] {
        attacks.push((
            format!("a redirection to {to:?}"),
            Box::new(move |hub| hub.on("GET", "/resolve/").always().does(Fault::Redirect(302, to.to_owned()))),
        ));
    }
    attacks
}

/// Runs a pull under each attack. Gives how many there were.
pub fn withstand(attacks: &[Attack]) -> usize {
    at_once(8, attacks, |_, (what, attack)| {
        let hub = FakeHub::start();
        let home = Home::new();
        hub.knows(SECRET, Token::Member);
        tale(&hub, "org/m");
        attack(&hub);
        std::fs::write(home.work().join("mine.txt"), "mine").expect("a written file");
        let before = outside(&home);
        let mut command = home.fireside(&hub, ["pull", "org/m"]);
        command.env("HF_TOKEN", SECRET).env("HF_HUB_DOWNLOAD_TIMEOUT", "2");
        let outcome = checks::run(command);
        harmless(what, &outcome, &hub, &home, &before);
    });
    for path in ["/evil.json", "/evil", "/evil.json.safetensors"] {
        assert!(!std::path::Path::new(path).exists(), "{path} was written");
    }
    attacks.len()
}

/// What is in a home beside the cache.
fn outside(home: &Home) -> BTreeMap<PathBuf, Vec<u8>> {
    home.everything().into_iter().filter(|(path, _)| !path.starts_with("hf/hub")).collect()
}

#[track_caller]
fn harmless(what: &str, outcome: &Outcome, hub: &FakeHub, home: &Home, before: &BTreeMap<PathBuf, Vec<u8>>) {
    match outcome.code {
        Some(0) => done(what, outcome, hub),
        _ => drop(refused(what, outcome, hub)),
    }
    assert_eq!(&outside(home), before, "{what}: something outside the cache changed\n{}", told(outcome, hub));
    let folder = home.repo("org/m");
    for (path, bytes) in home.everything() {
        let Ok(inside) = path.strip_prefix("hf/hub") else { continue };
        let place = inside.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned());
        let known = ["models--org--m", ".locks", "CACHEDIR.TAG"];
        assert!(place.is_some_and(|place| known.contains(&place.as_str())), "{what}: {} was written", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(!name.contains(|c: char| c.is_control()), "{what}: {name:?}");
        let is_secret = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!is_secret, "{what}: the token is in {}", path.display());
    }
    // Whatever became visible is the Hub's.
    for snapshot in std::fs::read_dir(folder.join("snapshots")).into_iter().flatten().flatten() {
        let commit = snapshot.file_name().to_string_lossy().into_owned();
        assert_eq!(wrong_files(&folder, &commit, &hub.tree("org/m")), [""; 0], "{what}\n{}", told(outcome, hub));
    }
    no_leak(what, hub);
}

/// The token reached the Hub's own origin and no other, in no header and no address.
#[track_caller]
fn no_leak(what: &str, hub: &FakeHub) {
    for seen in hub.seen().iter().filter(|seen| seen.origin != Origin::Hub) {
        let said = format!("{} {:?}", seen.path, seen.headers);
        assert!(
            !said.contains(SECRET) && seen.header("authorization").is_none(),
            "{what}: {seen:?} had the token: {said}"
        );
    }
}

#[test]
fn hostile_names_tags_and_commits_write_nothing_elsewhere() {
    // Every other one; the full run takes all, and the tags.
    withstand(&attacks().into_iter().step_by(2).collect::<Vec<_>>());
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    type Place = fn(&FakeHub) -> String;
    let cases: &[(&str, Place)] = &[
        ("another port", |hub| hub.url_of(Origin::Stranger)),
        ("another name of the host", |hub| hub.url().replace("127.0.0.1", "localhost")),
        ("another name and port", |hub| hub.url_of(Origin::Stranger).replace("127.0.0.1", "localhost")),
        ("no scheme", |hub| hub.url_of(Origin::Stranger).replace("http:", "")),
    ];
    at_once(4, cases, |_, (what, place)| {
        for (path, status) in
            [("/api/models/", 302), ("/resolve/", 302), ("/resolve/", 307), ("/resolve/", 308), ("/cdn/", 302)]
        {
            let hub = FakeHub::start();
            let home = Home::new();
            hub.knows(SECRET, Token::Member);
            tale(&hub, "org/m");
            let target = place(&hub);
            // The first request at the Hub that fits leads to the same path elsewhere.
            let on = hub.on("GET", path).at(if path == "/cdn/" { Origin::Cdn } else { Origin::Hub });
            let to = match path {
                "/api/models/" => "/api/models/org/m/revision/main".to_owned(),
                "/cdn/" => format!("/cdn/{}", hub.file("org/m", "model.safetensors").sha256),
                _ => "/org/m/resolve/main/config.json".to_owned(),
            };
            on.does(Fault::Redirect(status, format!("{target}{to}")));
            let mut command = home.fireside(&hub, ["pull", "org/m"]);
            command.env("HF_TOKEN", SECRET);
            let outcome = checks::run(command);
            let what = format!("{what}, {status} for {path}");
            quiet_terminal(&what, &outcome, &hub);
            no_leak(&what, &hub);
            // One listener, two names: by its other name it is a stranger too.
            for seen in hub.seen() {
                let host = seen.header("host").unwrap_or_default();
                let strange = host.starts_with("localhost");
                assert!(!strange || seen.header("authorization").is_none(), "{what}: {seen:?} {:?}", seen.headers);
            }
            let own = hub.seen().iter().filter(|seen| seen.header("authorization").is_some()).count();
            assert!(own > 0, "{what}: the Hub itself gets the token\n{}", told(&outcome, &hub));
        }
    });
}

#[test]
fn thirty_hops_and_loops_end() {
    type Make = fn(&FakeHub);
    let cases: &[(&str, Make)] = &[
        ("thirty hops", |hub| hub.on("GET", "/resolve/").always().does(Fault::Hops(30))),
        ("a loop", |hub| {
            let to = hub.url() + "/org/m/resolve/main/config.json";
            hub.on("GET", "config.json").always().does(Fault::Redirect(302, to));
        }),
    ];
    for (what, make) in cases {
        let hub = FakeHub::start();
        let home = Home::new();
        tale(&hub, "org/m");
        make(&hub);
        let outcome = home.run(&hub, ["pull", "org/m"]);
        refused(what, &outcome, &hub);
        assert!(hub.seen().len() < 60, "{what}: {}", told(&outcome, &hub));
    }
}

/// Words that drive a terminal, wherever a Hub can say some.
fn words() -> Vec<Attack> {
    let evil = || "\u{1b}]0;pwned\u{7}\u{1b}[2J\u{9b}31m\u{202e}".repeat(2000);
    let attack = |what: &str, make: fn(&FakeHub, String)| -> Attack {
        (what.to_owned(), Box::new(move |hub: &FakeHub| make(hub, evil())))
    };
    vec![
        attack("a message in a body", |hub, evil| {
            let body = json!({ "error": evil }).to_string();
            hub.on("GET", "/api/").always().answers_with(400, &[], body.as_bytes());
        }),
        attack("a listing of escapes", |hub, evil| {
            hub.on("GET", "/api/").always().answers_with(200, &[], evil.as_bytes());
        }),
        attack("a page of escapes", |hub, evil| {
            hub.on("GET", "/resolve/").always().answers_with(404, &[], evil.as_bytes());
        }),
        attack("a config of escapes", |hub, evil| {
            let config = std::fs::read_to_string(fixture("tale").join("config.json")).expect("a fixture");
            let config = config.replace("\"gpt2\"", &json!(evil).to_string()).replace("GPT2LMHeadModel", "\\u001b[2J");
            hub.repo("org/m").file("config.json", config).publish();
        }),
        attack("a code of an error that nobody knows", |hub, _| {
            hub.on("GET", "/api/")
                .always()
                .answers(403, &[("X-Error-Code", "\u{202e}"), ("X-Error-Message", "\u{9b}2J")]);
        }),
    ]
}

#[test]
fn what_a_hub_says_cannot_drive_the_terminal() {
    withstand(&words());
}

#[test]
fn answers_without_end_are_not_read_to_the_end() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/m");
    let files: Vec<_> = (0..40_000)
        .map(|i| json!({ "type": "file", "oid": "0".repeat(40), "size": 1, "path": format!("f{i}") }))
        .collect();
    let page = json!(files).to_string();
    let next = format!("<{}/api/models/org/m/tree/main?recursive=true&cursor=1>; rel=\"next\"", hub.url());
    hub.on("GET", "/tree/").always().answers_with(200, &[("Link", &next)], page.as_bytes());
    let outcome = home.run(&hub, ["pull", "org/m"]);
    refused("a listing without end", &outcome, &hub);
    assert!(hub.served("/tree/") < 400 << 20, "{} bytes were read", hub.served("/tree/"));
}
