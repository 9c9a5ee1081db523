//! The structure that ARCHITECTURE.md describes, held against the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules by layer, lowest first. `use crate::…` points down, or sideways without a circle.
const LAYERS: &[&[&str]] = &[
    &["kernels", "device", "error", "mapped", "memory", "whole"],
    &["source", "gguf", "hub"],
    &["nn", "weights", "text"],
    &["models", "prompt_cache"],
    &["engine"],
    &["cli"],
];

/// The only files that may say `unsafe`: entries compiled for instruction sets, the memory map, and the look at stdout
/// before `main`.
/// Folders and files.
const UNSAFE_HOMES: &[&str] = &["src/kernels/", "src/mapped.rs", "src/cli/allocator.rs", "src/cli/output.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every source file, relative to the root, with its text.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("src"), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| (path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/"), read(&path)))
        .collect()
}

/// `src/engine/line.rs` → `engine`; `src/error.rs` → `error`; `src/main.rs` and the like → `None`.
fn module_of(file: &str) -> Option<&str> {
    let name = file.strip_prefix("src/")?.split('/').next()?.trim_end_matches(".rs");
    (!["lib", "main", "bin"].contains(&name)).then_some(name)
}

fn layer_of(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&module))
        .unwrap_or_else(|| panic!("`{module}` has no layer; give it one here and in ARCHITECTURE.md"))
}

/// A file without its comments.
fn code_of(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The names that stand directly behind `path`: `b` in `a::b::c`, and `b` and `d` in `a::{b::{self, c}, d as e}`.
fn names_behind(path: &str, code: &str) -> BTreeSet<String> {
    let name_of =
        |text: &str| -> String { text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(path) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue; // the end of a longer name
        }
        let rest = &code[at + path.len()..];
        let Some(group) = rest.trim_start().strip_prefix('{') else {
            names.insert(name_of(rest));
            continue;
        };
        let (mut depth, mut begin) = (0, 0);
        for (end, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    names.insert(name_of(&group[begin..end]));
                    begin = end + 1;
                }
                _ => {}
            }
            if c == '}' && begin == end + 1 {
                break; // the group's own end
            }
        }
    }
    names.remove(""); // behind a comma that ends a list
    names
}

/// The root's public names and the modules that they come from: `Engine` → `engine`.
fn reexports() -> BTreeMap<String, String> {
    let code = code_of(&read("src/lib.rs"));
    let modules = LAYERS.iter().flat_map(|layer| layer.iter());
    modules
        .flat_map(|module| {
            names_behind(&format!("pub use {module}::"), &code).into_iter().map(|name| (name, (*module).to_owned()))
        })
        .collect()
}

/// Modules that a file uses by way of the crate's root, as `crate::module` or by a name that the root re-exports.
fn uses(text: &str, reexports: &BTreeMap<String, String>) -> BTreeSet<String> {
    let names = names_behind("crate::", &code_of(text));
    names.into_iter().map(|name| reexports.get(&name).cloned().unwrap_or(name)).collect()
}

#[test]
fn imports_are_seen_in_every_form() {
    let check = |code: &str, expected: &[&str]| {
        let found = uses(code, &reexports());
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{code}");
    };
    check("use crate::nn::Batch;", &["nn"]);
    check("let x = crate::nn::f(crate::text::g());", &["nn", "text"]);
    check("use crate::{nn, text};", &["nn", "text"]);
    check(
        "use crate::{\n    models::{self, Model},\n    nn::{Batch, Linear},\n    text,\n};\nuse other::{engine, cli};",
        &["models", "nn", "text"],
    );
    check("use crate::Engine;", &["engine"]);
    check("use crate::{Dtype, Engine as E, quote};", &["engine", "error", "weights"]);
    check("fn f() -> crate::Result<()> {}", &["error"]);
    check("pub(crate) fn f() {}", &[]);
    check("// crate::engine", &[]);
}

#[test]
fn imports_point_down_and_never_in_a_circle() {
    let reexports = reexports();
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in sources() {
        let Some(module) = module_of(&file) else { continue };
        for used in uses(&text, &reexports) {
            assert!(
                layer_of(&used) <= layer_of(module),
                "{file} is in layer {} and uses `{used}` of layer {}",
                layer_of(module) + 1,
                layer_of(&used) + 1
            );
            if used != module {
                graph.entry(module.to_owned()).or_default().insert(used);
            }
        }
    }
    assert!(graph["models"].contains("nn") && graph["nn"].contains("kernels"), "the check sees imports: {graph:?}");
    // Modules that use nothing that is left are taken away until none is left; a circle would stay.
    let mut left: BTreeSet<String> =
        LAYERS.iter().flat_map(|layer| layer.iter().map(|module| (*module).to_owned())).collect();
    while !left.is_empty() {
        let free: Vec<String> = left
            .iter()
            .filter(|module| graph.get(*module).is_none_or(|uses| uses.is_disjoint(&left)))
            .cloned()
            .collect();
        assert!(!free.is_empty(), "these modules use each other in a circle: {left:?}");
        left.retain(|module| !free.contains(module));
    }
}

#[test]
fn what_is_absent_stays_absent() {
    let absences: &[(&str, &[&str], &str)] = &[
        ("src/kernels/", &["candle", "crate::nn", "crate::error", "std::fs"], "kernels take slices and give slices"),
        (
            "src/models/",
            &["candle_core::Device", "safetensors", "cfg(", "Dtype", "kernels::Kernels"],
            "a model knows no device, file format or feature",
        ),
        ("src/nn/", &["serde", "std::fs", "safetensors"], "a layer knows no file"),
        (
            "src/engine/",
            &["println!", "clap::Parser", "std::io", "TcpStream"],
            "the engine has no words and no sockets",
        ),
        ("src/cli/", &["ureq"], "only the hub makes requests"),
        ("src/engine/", &["ureq"], "only the hub makes requests"),
        ("src/source.rs", &["ureq"], "only the hub makes requests"),
        ("src/", &["std::net", "unix::net", "TcpStream", "TcpListener", "UdpSocket"], "nothing here opens a socket"),
    ];
    for (file, text) in sources() {
        for (place, words, why) in absences.iter().filter(|(place, ..)| file.starts_with(place)) {
            let code = code_of(&text);
            let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            for word in *words {
                assert!(!code.contains(word), "{file} says `{word}`: {why} ({place})");
            }
        }
        assert!(
            file.starts_with("src/engine/") || file.starts_with("src/models/") || !text.contains("model.forward("),
            "{file}: only the engine runs a model"
        );
    }
}

#[test]
fn unsafe_code_stays_at_home_and_gives_its_reason() {
    for (file, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if !code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe") {
                continue;
            }
            assert!(
                UNSAFE_HOMES.iter().any(|home| file.starts_with(home)),
                "{file}:{}: unsafe code lives in {UNSAFE_HOMES:?}",
                number + 1
            );
        }
    }
}

#[test]
fn the_readme_names_exactly_the_architectures_of_the_registry() {
    let readme = read("README.md");
    let table =
        readme.split("## Models").nth(1).expect("README has a section `## Models`").split("\n## ").next().unwrap();
    let rows: Vec<Vec<String>> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
        .collect();
    let registry: Vec<Vec<String>> = fireside::ARCHITECTURES
        .iter()
        .map(|a| vec![a.model_type.to_owned(), a.class.to_owned(), a.models.to_owned()])
        .collect();
    assert_eq!(rows, registry);
}

#[test]
fn the_architecture_page_names_every_source_file() {
    let page = read("ARCHITECTURE.md");
    for (file, _) in sources() {
        let name = file.rsplit('/').next().unwrap();
        let folder = file.strip_prefix("src/").unwrap().rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
        assert!(
            page.contains(&format!("`{name}`")) || page.contains(&format!("`{file}`")),
            "ARCHITECTURE.md has no line for {file}"
        );
        if let Some(folder) = folder {
            assert!(page.contains(&format!("`{folder}`")), "ARCHITECTURE.md has no place for {folder}");
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn every_help_page_has_examples_and_every_example_parses() {
    let (fireside, generate) = (fireside::cli::command(), fireside::cli::generate_command());
    /// The pages of all verbs below a command, each with the words that its examples begin with.
    fn below(name: &str, command: &clap::Command) -> Vec<(String, clap::Command)> {
        let verbs = command.get_subcommands().filter(|verb| verb.get_name() != "help");
        verbs
            .flat_map(|verb| {
                let name = format!("{name} {}", verb.get_name());
                let mut pages = below(&name, verb);
                pages.push((name, verb.clone()));
                pages
            })
            .collect()
    }
    let mut pages = below("fireside", &fireside);
    assert!(pages.len() >= 5, "the check sees verbs");
    pages.extend([("fireside".to_owned(), fireside.clone()), ("generate".to_owned(), generate.clone())]);
    for (name, page) in pages {
        let help = page.get_after_help().unwrap_or_else(|| panic!("`{name} --help` has examples")).to_string();
        let examples = help.strip_prefix("Examples:\n").unwrap_or_else(|| panic!("{name}: {help}"));
        let of_this = |command: &str| {
            let mut aliases = page.get_visible_aliases().map(|alias| format!("fireside {alias}"));
            command.starts_with(&name) || aliases.any(|alias| command.starts_with(&alias))
        };
        for line in examples.lines() {
            let commands: Vec<&str> =
                line.split(" | ").map(str::trim).filter(|part| !part.starts_with("cat ")).collect();
            assert!(commands.iter().any(|command| of_this(command)), "`{name} --help` shows `{line}`");
            for command in commands {
                let parser = if command.starts_with("generate ") { &generate } else { &fireside };
                let parsed = parser.clone().try_get_matches_from(shell_words(command));
                parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
        let shown = page.clone().render_help().to_string();
        assert!(shown.trim_end().ends_with(help.trim_end()), "`{name} --help` shows its examples: {shown}");
    }
}

/// Words and double-quoted texts of a line, without its redirections.
#[cfg(feature = "cli")]
fn shell_words(line: &str) -> Vec<String> {
    let line = line.split([' ']).take_while(|word| !["<", ">"].contains(word)).collect::<Vec<_>>().join(" ");
    let mut words = Vec::new();
    for (i, part) in line.split('"').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn no_room_is_larger_than_a_reader_can_hold() {
    for (file, text) in sources() {
        let most = if file.starts_with("src/kernels/") { 900 } else { 500 };
        let lines = text.lines().count();
        assert!(
            lines <= most,
            "{file} has {lines} lines, more than {most}; look for the second thing that it has become"
        );
    }
}

#[test]
fn without_features_nothing_can_open_a_socket() {
    let tree = |features: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--prefix",
                "none",
                "--format",
                "{p}",
                "--edges",
                "normal,build",
                "--no-default-features",
            ])
            .args(features)
            .current_dir(root())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let crates =
        |tree: &str| tree.lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<BTreeSet<_>>();
    let sockets = [
        "curl",
        "h2",
        "hyper",
        "isahc",
        "mio",
        "native-tls",
        "openssl",
        "quinn",
        "reqwest",
        "rustls",
        "smol",
        "socket2",
        "tokio",
        "ureq",
    ];
    for features in [&[][..], &["--features", "ember"][..], &["--features", "cli,ember"][..]] {
        let found = crates(&tree(features));
        assert!(found.contains("candle-core") && found.contains("tokenizers"), "the check sees crates: {found:?}");
        let opened: Vec<&str> = sockets.into_iter().filter(|name| found.contains(*name)).collect();
        assert!(opened.is_empty(), "{features:?}: these crates open sockets: {opened:?}");
    }
    assert!(!crates(&tree(&[])).contains("clap"), "the library compiles no argument parser");
}
