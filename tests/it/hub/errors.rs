//! What the Hub, the network and the disk refuse: each has its own sentence and a next step, and the token stays
//! secret.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::Command;

use super::checks::{self, at_once, refused, told};
use super::disk::Mounted;
use super::fake::{Access, FakeHub, Token};
use super::{Home, tale};
use crate::program::Outcome;

const SECRET: &str = "hf_tHiSiSnObOdYsBuSiNeSs";

/// A refusal: its name, how it comes about, and what its message must say.
struct Case {
    what: &'static str,
    args: &'static [&'static str],
    token: Option<&'static str>,
    make: fn(&FakeHub, &Home, &mut Command),
    /// Each of these in the error's line or its hint, in any case; `a|b` is either.
    says: &'static [&'static str],
}

fn nothing(_: &FakeHub, _: &Home, _: &mut Command) {}

fn access(hub: &FakeHub, access: Access) {
    hub.repo("org/tale").with_access(access).publish();
}

const PULL: &[&str] = &["pull", "org/tale"];

const CASES: &[Case] = &[
    Case {
        what: "a token that the Hub does not know",
        args: PULL,
        token: Some(SECRET),
        make: nothing,
        says: &["token", "HF_TOKEN"],
    },
    Case {
        what: "a gated model without a token",
        args: PULL,
        token: None,
        make: |hub, _, _| access(hub, Access::Gated),
        says: &["gated|access|asks|agree", "org/tale", "token", "HF_TOKEN|login"],
    },
    Case {
        what: "a gated model that the token's owner may not have",
        args: PULL,
        token: Some(SECRET),
        make: |hub, _, _| {
            access(hub, Access::Gated);
            hub.knows(SECRET, Token::Reader);
        },
        says: &["gated|access", "/org/tale", "HF_TOKEN"],
    },
    Case {
        what: "no such repository, without a token",
        args: &["pull", "org/nothing"],
        token: None,
        make: nothing,
        says: &["org/nothing", "private|token|spelling|name"],
    },
    Case {
        what: "no such repository, with a token",
        args: &["pull", "org/nothing"],
        token: Some(SECRET),
        make: |hub, _, _| hub.knows(SECRET, Token::Reader),
        says: &["org/nothing"],
    },
    Case {
        what: "no such revision",
        args: &["pull", "org/tale@v9"],
        token: None,
        make: nothing,
        says: &["org/tale", "v9", "revision|branch"],
    },
    Case {
        what: "no such file",
        args: &["pull", "org/tale/nothing.gguf"],
        token: None,
        make: nothing,
        says: &["org/tale", "nothing.gguf"],
    },
    Case {
        what: "too many requests",
        args: PULL,
        token: None,
        make: |hub, _, _| hub.on("GET", "/api/").always().answers(429, &[("Retry-After", "4000")]),
        says: &["requests|limit|wait|later"],
    },
    Case {
        what: "the Hub is broken",
        args: PULL,
        token: None,
        make: |hub, _, _| hub.on("GET", "/api/").always().answers(500, &[]),
        says: &["500|broken|error"],
    },
    Case {
        what: "nothing listens",
        args: PULL,
        token: None,
        make: |_, _, command| {
            command.env("HF_ENDPOINT", "http://127.0.0.1:9");
        },
        says: &["127.0.0.1:9|nothing answers|connect", "connection|HF_ENDPOINT|offline|cache"],
    },
    Case {
        what: "no such host",
        args: PULL,
        token: None,
        make: |_, _, command| {
            command.env("HF_ENDPOINT", "http://nothing.invalid");
        },
        says: &["nothing.invalid"],
    },
    Case {
        what: "a Hub without encryption where it was promised",
        args: PULL,
        token: None,
        make: |hub, _, command| {
            command.env("HF_ENDPOINT", hub.url().replace("http:", "https:"));
        },
        says: &["trust|certificate|TLS|encrypt|answer"],
    },
    Case {
        what: "a model that was taken down",
        args: PULL,
        token: None,
        make: |hub, _, _| access(hub, Access::Disabled),
        says: &["org/tale", "disabled"],
    },
    Case {
        what: "a page in place of a listing",
        args: PULL,
        token: None,
        make: |hub, _, _| {
            hub.on("GET", "/api/").always().answers_with(
                200,
                &[("Content-Type", "text/html")],
                b"<html>Sign in</html>",
            );
        },
        says: &["HF_ENDPOINT|proxy|network"],
    },
    Case {
        what: "a cache that is a file",
        args: PULL,
        token: None,
        make: |_, home, _| std::fs::write(home.path(), "a file").expect("a written file"),
        says: &["folder|directory|cache", "HF_HOME|HF_HUB_CACHE"],
    },
];

/// The message and its hint.
fn message(outcome: &Outcome) -> String {
    let kept = |line: &&str| line.starts_with("error: ") || line.starts_with("hint: ");
    outcome.stderr.lines().filter(kept).collect::<Vec<_>>().join("\n")
}

fn run(case: &Case) -> String {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    let mut command = home.fireside(&hub, case.args);
    if let Some(token) = case.token {
        command.env("HF_TOKEN", token);
    }
    (case.make)(&hub, &home, &mut command);
    let outcome = checks::run(command);
    let line = refused(case.what, &outcome, &hub);
    let text = message(&outcome).to_lowercase();
    for words in case.says {
        assert!(
            words.split('|').any(|word| text.contains(&word.to_lowercase())),
            "{}: expected {words:?} in {text:?}\n{}",
            case.what,
            told(&outcome, &hub)
        );
    }
    assert!(!text.contains(&SECRET.to_lowercase()[4..]), "{}: the token is in {text}", case.what);
    // Ports and folders differ from run to run.
    line.replace(&hub.url().replace("http://", ""), "HUB").replace(&home.path().display().to_string(), "HOME")
}

#[test]
fn every_refusal_has_its_own_sentence_and_a_next_step() {
    let lines = at_once(CASES.len(), CASES, |_, case| run(case));
    let mut by_line: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (line, case) in lines.iter().zip(CASES) {
        by_line.entry(line).or_default().push(case.what);
    }
    for (line, cases) in by_line {
        assert!(cases.len() == 1, "one sentence for {cases:?}: {line}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let hub = FakeHub::start();
    let home = Home::new();
    tale(&hub, "org/tale");
    std::fs::create_dir_all(home.cache()).unwrap();
    // Modes do not stop root, so a file system that is read-only does.
    let cache = home.cache();
    let Some(_mounted) = Mounted::tmpfs(&cache, "size=1m,ro") else { return };
    let outcome = home.run(&hub, PULL);
    let line = refused("a read-only cache", &outcome, &hub);
    assert!(message(&outcome).to_lowercase().contains("read-only"), "{line}: {}", told(&outcome, &hub));
    assert_eq!(hub.served("/cdn/"), 0, "nothing is fetched that cannot be kept: {:#?}", hub.seen());
}

#[test]
fn every_way_to_give_a_token_works_and_none_shows_it() {
    type Give = fn(&Home, &mut Command);
    let ways: &[(&str, Give)] = &[
        ("HF_TOKEN", |_, command| {
            command.env("HF_TOKEN", SECRET);
        }),
        ("HUGGING_FACE_HUB_TOKEN", |_, command| {
            command.env("HUGGING_FACE_HUB_TOKEN", SECRET);
        }),
        ("HUGGINGFACE_API_KEY", |_, command| {
            command.env("HUGGINGFACE_API_KEY", SECRET);
        }),
        (".env", |home, _| {
            std::fs::write(home.work().join(".env"), format!("HUGGINGFACE_API_KEY={SECRET}\n"))
                .expect("a written file");
        }),
        ("HF_TOKEN_PATH", |home, command| {
            let path = home.work().join("secret");
            std::fs::write(&path, format!("{SECRET}\n")).expect("a written file");
            command.env("HF_TOKEN_PATH", path);
        }),
        ("the stored token", |home, _| {
            std::fs::create_dir_all(home.path()).expect("a folder");
            std::fs::write(home.path().join("token"), SECRET).expect("a written file");
        }),
    ];
    at_once(4, ways, |_, (what, give)| {
        let hub = FakeHub::start();
        let home = Home::new();
        tale(&hub, "org/tale");
        access(&hub, Access::Private);
        hub.knows(SECRET, Token::Member);
        let mut command = home.fireside(&hub, PULL);
        give(&home, &mut command);
        let outcome = checks::run(command);
        checks::done(what, &outcome, &hub);
        assert!(!format!("{}{}", outcome.stdout, outcome.stderr).contains(SECRET), "{what}: {outcome:?}");
        let secrets = home.everything().into_iter().filter(|(path, bytes)| {
            let given = path.ends_with(".env") || path.ends_with("secret") || path.ends_with("token");
            !given && bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
        });
        assert_eq!(secrets.map(|(path, _)| path).collect::<Vec<_>>(), [""; 0].map(std::path::PathBuf::from), "{what}");
    });
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_named_and_one_that_is_vouched_for_is_taken() {
    let folder = tempfile::TempDir::new().unwrap();
    let openssl = |args: &str| {
        let run = Command::new("openssl").args(args.split(' ')).current_dir(folder.path()).output();
        run.is_ok_and(|output| output.status.success())
    };
    std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let made = openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem")
        && openssl("req -newkey rsa:2048 -nodes -subj /CN=hub -keyout hub.key -out hub.csr")
        && openssl("x509 -req -in hub.csr -CA ca.pem -CAkey ca.key -days 2 -set_serial 7 -extfile names -out hub.pem");
    if !made {
        eprintln!("SKIPPED: openssl does not run here");
        return;
    }
    // It chooses its port itself, so that nobody else can have taken it meanwhile, and says which.
    let mut server = Command::new("openssl")
        .args(["s_server", "-www", "-cert", "hub.pem", "-key", "hub.key", "-accept", "127.0.0.1:0"])
        .current_dir(folder.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(server.stdout.take().unwrap()).lines().map_while(Result::ok);
    let accepts = said.find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.trim().parse::<u16>().ok());
    let port = accepts.expect("the server says its port");
    let chatter = std::thread::spawn(move || said.count());
    let hub = FakeHub::start();
    let home = Home::new();
    let pull = |trusted: Option<&str>| {
        let mut command = home.fireside(&hub, PULL);
        command.env("HF_ENDPOINT", format!("https://127.0.0.1:{port}"));
        if let Some(name) = trusted {
            command.env("SSL_CERT_FILE", folder.path().join(name));
        }
        checks::run(command)
    };
    let (unknown, known, missing) = (pull(None), pull(Some("ca.pem")), pull(Some("nothing.pem")));
    server.kill().unwrap();
    server.wait().unwrap();
    chatter.join().unwrap();
    let line = refused("an unknown authority", &unknown, &hub);
    assert!(line.contains("certificate") || line.contains("trusted"), "{line}");
    assert!(unknown.stderr.contains("SSL_CERT_FILE"), "the hint names the way out: {unknown:?}");
    assert!(
        unknown.stderr.starts_with("error: "),
        "it does not pass by waiting, so nothing is tried again: {unknown:?}"
    );
    // That server is no Hub, and that is what is wrong now.
    let line = refused("a known authority", &known, &hub);
    assert!(!line.contains("certificate") && !line.contains("trusted"), "{line}");
    let line = refused("a file that is not there", &missing, &hub);
    assert!(line.contains("nothing.pem"), "{line}");
}
