//! `fireside chat`: one question, turns through a pipe, and at a terminal.

use std::io::Write;
use std::process::{Command, Stdio};

use fireside::{Engine, Message, Sampling};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::parsed;
use crate::damage::LONGEST;
use crate::program::{Outcome, fireside, run, run_with};
use crate::support::{copy_of, fixture, model, name_of};

/// A template in the manner of published ones; its turns end with the tiny model's only control token.
const TEMPLATE: &str = "{% for m in messages %}{{ '[' + m.role + '] ' + m.content | trim + eos_token + '\\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '[assistant]' + (' (' ~ mood ~ ')' if mood is defined else '') }}{% endif %}";

/// The tiny model with a chat template.
fn talker() -> TempDir {
    let folder = copy_of(&fixture("tale"));
    let config = folder.path().join("tokenizer_config.json");
    let mut json = parsed(&std::fs::read_to_string(&config).unwrap());
    json["chat_template"] = json!(TEMPLATE);
    std::fs::write(config, json.to_string()).unwrap();
    folder
}

const SETTINGS: [&str; 4] = ["--temperature", "0", "-n", "12"];

fn chat(folder: &TempDir, args: &[&str]) -> Command {
    let name = name_of(folder.path());
    let mut command = fireside([&["chat", "--model", &name], &SETTINGS[..], args].concat());
    command.env_remove("XDG_STATE_HOME").env("HOME", folder.path());
    command
}

fn settings() -> Sampling {
    Sampling { temperature: Some(0.0), max_new_tokens: Some(12), ..Sampling::default() }
}

/// What the library answers, without what a screen has no use for.
fn answer(folder: &TempDir, messages: &[Message]) -> String {
    let mut engine = Engine::load(&name_of(folder.path())).expect("the model");
    engine.chat(messages, settings()).unwrap().completions().unwrap().remove(0).generated_text
}

#[test]
fn one_question_gets_one_answer_from_words_a_pipe_or_a_file() {
    let folder = talker();
    let file = folder.path().join("question");
    std::fs::write(&file, "Where is the fox?\n").unwrap();
    let expected = answer(&folder, &[Message::user("Where is the fox?")]).trim_start().to_owned() + "\n";
    assert!(expected.len() > 5, "{expected:?}");
    assert_eq!(run(chat(&folder, &["Where is the fox?"])).answer(), expected);
    assert_eq!(run(chat(&folder, &["Where", "is", "the", "fox?"])).answer(), expected);
    assert_eq!(run_with(chat(&folder, &[]), b"Where is the fox?\n").answer(), expected);
    assert_eq!(run(chat(&folder, &["--file", &name_of(&file)])).answer(), expected);

    let system = [Message::system("Be brief."), Message::user("Where is the fox?")];
    let expected = answer(&folder, &system);
    let shown = run(chat(&folder, &["--system", "Be brief.", "--json", "Where is the fox?"])).answer();
    let shown = parsed(&shown);
    assert_eq!(shown["message"], json!({ "role": "assistant", "content": expected }));
    assert_eq!(
        (shown["finish_reason"].as_str(), shown["usage"]["completion_tokens"].as_u64()),
        (Some("length"), Some(12))
    );
}

#[test]
fn a_model_without_a_template_says_so_and_goes_on_with_the_text() {
    let tale = model("tale");
    let base = ["chat", "--model", &tale, "--temperature", "0", "-n", "12", "There was once"];
    let outcome = run(fireside(base));
    let expected = Engine::load(&tale).unwrap().generate("There was once", settings()).unwrap().completions().unwrap();
    let expected = expected[0].generated_text.strip_prefix("There was once").unwrap().to_owned() + "\n";
    assert_eq!((outcome.code, outcome.stdout), (Some(0), expected));
    assert!(outcome.stderr.contains("has no chat template"), "{}", outcome.stderr);
    let outcome = run(fireside(["chat", "--system", "x", "--template-arg", "a=1", "-n", "2", "There was once"]));
    assert!(outcome.stderr.contains("have no effect without a chat template"), "{}", outcome.stderr);
}

/// Lines of a script, and what came of them.
fn script(folder: &TempDir, args: &[&str], lines: &[&str]) -> Outcome {
    run_with(chat(folder, &[&["--interactive"], args].concat()), lines.join("\n").as_bytes())
}

#[test]
fn turns_build_on_each_other_and_only_what_is_new_is_read() {
    let folder = talker();
    let questions = ["Where is the fox?", "And the mill?", "Who lives there?"];
    let mut messages = vec![Message::system("Be brief.")];
    let mut expected = String::new();
    for question in questions {
        messages.push(Message::user(question));
        let text = answer(&folder, &messages);
        expected.push_str(text.trim_start());
        expected.push('\n');
        messages.push(Message::assistant(text));
    }
    let lines: Vec<&str> = questions.iter().flat_map(|question| [*question, "/stats"]).collect();
    let outcome = script(&folder, &["--system", "Be brief."], &lines);
    assert_eq!((outcome.code, &outcome.stdout), (Some(0), &expected), "{}", outcome.stderr);

    let prompts: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("prompt")).collect();
    let numbers = |line: &str| -> Vec<usize> {
        line.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty()).map(|n| n.parse().unwrap()).collect()
    };
    let counts: Vec<Vec<usize>> = prompts.into_iter().map(numbers).collect();
    assert_eq!(counts.len(), 3, "{}", outcome.stderr);
    assert_eq!(counts[0][0], counts[0][1], "the first prompt is all new");
    for (before, now) in counts.iter().zip(&counts[1..]) {
        let reused = now[0] - now[1];
        assert!(reused + 2 >= before[0], "all of the prompt before was kept: {counts:?}");
        assert!(now[1] <= now[0] - before[0] + 2, "{counts:?}");
    }
}

#[test]
fn commands_change_the_conversation_and_the_settings() {
    let folder = talker();
    let file = name_of(&folder.path().join("saved.json"));
    let one = answer(&folder, &[Message::user("Where is the fox?")]);
    let shown = one.trim_start().to_owned() + "\n";
    let check = |lines: &[&str], expected: &str| {
        let outcome = script(&folder, &[], lines);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), expected), "{lines:?}: {}", outcome.stderr);
        outcome.stderr
    };
    let twice = shown.repeat(2);
    check(&["Where is the fox?", "/regenerate"], &twice);
    check(&["Where is the fox?", "/undo", "Where is the fox?"], &twice);
    check(&["Where is the fox?", "/clear", "Where is the fox?", "/exit", "And then?"], &twice);
    check(
        &["", "  ", "Where \\", "is the fox?"],
        &(answer(&folder, &[Message::user("Where \nis the fox?")]).trim_start().to_owned() + "\n"),
    );
    check(&["\"\"\"", "Where is the fox?", "\"\"\""], &shown);
    check(&["//slash"], &(answer(&folder, &[Message::user("/slash")]).trim_start().to_owned() + "\n"));

    check(&["/system Be brief.", "Where is the fox?", &format!("/save {file}")], &{
        answer(&folder, &[Message::system("Be brief."), Message::user("Where is the fox?")]).trim_start().to_owned()
            + "\n"
    });
    let saved: Vec<Message> = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(saved.iter().map(Message::role).collect::<Vec<_>>(), ["system", "user", "assistant"]);
    let mut more = saved.clone();
    more.push(Message::user("And the mill?"));
    let next = answer(&folder, &more).trim_start().to_owned() + "\n";
    check(&[&format!("/load {file}"), "And the mill?"], &next);
    let plain = name_of(&folder.path().join("plain.json"));
    std::fs::write(&plain, "[]").unwrap();
    check(&["/system Be brief.", &format!("/load {plain}"), "Where is the fox?"], &shown); // all of it is the file's
    assert_eq!(run(chat(&folder, &["--load", &file, "And the mill?"])).answer(), next);

    let help = check(&["/help"], "");
    for command in ["/system", "/set", "/show", "/regenerate", "/undo", "/save", "/load", "/clear", "/stats", "/exit"] {
        assert!(help.contains(command), "{command}");
    }
    let said =
        check(&["/set max_new_tokens 3", "/set stop_strings x", "/set", "/unset stop_strings", "/system", "/show"], "");
    assert!(said.contains("max_new_tokens 3") && said.contains("[\"x\"]"), "{said}");
    let said = check(&["/set logprobs true", "/set top_logprobs 1", "/set max_new_tokens 3"], "");
    assert_eq!(said.matches("`logprobs` has no effect").count(), 1, "{said}");
    let few = script(&folder, &["--json"], &[]);
    assert_eq!(few.code, Some(2), "--json answers one question");
    let outcome = script(&folder, &[], &["/set max_new_tokens 1", "Where is the fox?", "/stats"]);
    assert!(outcome.stderr.contains("1 token ("), "{}", outcome.stderr);
}

#[test]
fn what_is_wrong_is_said_as_everywhere() {
    let folder = talker();
    let missing = name_of(&folder.path().join("missing.json"));
    let not_json = folder.path().join("wrong.json");
    std::fs::write(&not_json, format!("[\"{}\"]", "x".repeat(9000))).unwrap();
    for (line, expected) in [
        ("/set temperature -1", "`temperature` is -1"),
        ("/set temperature hot", "invalid value 'hot'"),
        ("/set do_sample maybe", "[possible values: true, false]"),
        ("/set frobnicate 1", "no setting `frobnicate`"),
        ("/set temperature", "expects a value"),
        ("/set num_return_sequences 3", "one answer"),
        ("/frobnicate", "no command `/frobnicate`"),
        ("/undo now", "takes no argument"),
        ("/undo", "nothing to undo"),
        ("/regenerate", "no question yet"),
        (&format!("/load {missing}"), "cannot read"),
        (&format!("/load {}", name_of(&not_json)), "no list of messages"),
        ("/save /nowhere/of/a/test", "cannot write"),
    ] {
        let outcome = script(&folder, &[], &[line, "Where is the fox?"]);
        assert!(matches!(outcome.code, Some(1 | 2)) && outcome.stdout.is_empty(), "{line}: {outcome:?}");
        let first = outcome.stderr.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: ") && first.contains(expected), "{line}: {}", outcome.stderr);
        assert!(outcome.stderr.len() < LONGEST, "{line}: {} bytes", outcome.stderr.len());
    }
    let wrong = folder.path().join("wrong.jinja");
    std::fs::write(&wrong, "{% for %}").unwrap();
    for (args, expected) in [
        (&["--chat-template", &name_of(&wrong), "x"][..], "does not parse"),
        (&["--chat-template", "/nowhere", "x"], "cannot read"),
        (&["--template-arg", "x", "x"], "expected a name"),
        (&["--template-arg", "=x", "x"], "expected a name"),
        (&["--num-return-sequences", "2", "x"], "one answer"),
        (&["--load", "/nowhere", "x"], "cannot read"),
        (&["--", " "], "expected a question"),
        (&[], "expected a question"),
    ] {
        let outcome = run(chat(&folder, args));
        assert!(matches!(outcome.code, Some(1 | 2)) && outcome.stderr.contains(expected), "{args:?}: {outcome:?}");
    }
    let outcome = run(chat(&folder, &["--template-arg", "absent=1", "--no-think", "x"]));
    for name in ["absent", "enable_thinking"] {
        assert!(outcome.stderr.contains(&format!("`{name}` has no effect")), "{}", outcome.stderr);
    }
}

#[test]
fn templates_come_from_files_and_take_variables() {
    let folder = talker();
    let moody = run(chat(&folder, &["--template-arg", "mood=glad", "--verbose", "x"]));
    let plain = run(chat(&folder, &["--verbose", "x"]));
    let prompt = |outcome: &Outcome| outcome.stderr.lines().find(|line| line.starts_with("prompt")).map(str::to_owned);
    assert_ne!(prompt(&moody), prompt(&plain), "the variable is in the prompt");

    let other = folder.path().join("other.jinja");
    std::fs::write(&other, "{{ messages[-1].content }}").unwrap();
    let tale = model("tale");
    let text = "There was once a fox";
    let expected = Engine::load(&tale).unwrap().generate(text, settings()).unwrap().completions().unwrap();
    let expected = expected[0].generated_text.strip_prefix(text).unwrap().trim_start().to_owned() + "\n";
    assert_eq!(run(chat(&folder, &["--chat-template", &name_of(&other), text])).answer(), expected);
    std::fs::copy(&other, folder.path().join("chat_template.jinja")).unwrap();
    assert_eq!(run(chat(&folder, &[text])).answer(), expected, "chat_template.jinja is over tokenizer_config.json");
}

#[test]
fn a_full_context_leaves_the_oldest_turns_out_and_says_so() {
    let folder = talker();
    let lines: Vec<String> =
        (0..12).map(|i| format!("Question {i}: where is the old fox, and where is the mill?")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let outcome = script(&folder, &["--context", "200", "--system", "Be brief."], &lines);
    assert_eq!((outcome.code, outcome.stdout.lines().count() >= 12), (Some(0), true), "{}", outcome.stderr);
    let said: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("no longer reads the oldest")).collect();
    assert!((1..8).contains(&said.len()), "not at every turn: {said:?}");
    let long = "where is the fox? ".repeat(100);
    let outcome = script(&folder, &["--context", "200"], &[&long]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("the context holds 200"), "{}", outcome.stderr);
}

#[cfg(unix)]
mod terminal {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::process::Child;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    /// Longer than anything here takes, on a crowded machine too.
    const PATIENCE: Duration = Duration::from_secs(120);

    /// What an editor tells the terminal once a line is taken: no more brackets around what is pasted.
    const TAKEN: &str = "\x1b[?2004l\r\n";

    /// A program at a terminal.
    struct Terminal {
        child: Child,
        keyboard: File,
        screen: Arc<Mutex<String>>,
        seen: usize,
    }

    impl Terminal {
        fn start(mut command: Command) -> Terminal {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
            grantpt(&master).expect("a terminal of ours");
            unlockpt(&master).expect("an open terminal");
            let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("a plain name");
            let slave: OwnedFd = File::options().read(true).write(true).open(name).expect("the other end").into();
            let ends = || Stdio::from(slave.try_clone().expect("a copy"));
            command.stdin(ends()).stdout(ends()).stderr(ends()).env("TERM", "xterm").env("NO_COLOR", "1");
            let child = command.spawn().expect("the program starts");
            let keyboard = File::from(master);
            let mut reader = keyboard.try_clone().expect("a copy");
            let screen = Arc::new(Mutex::new(String::new()));
            let shown = Arc::clone(&screen);
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count) = reader.read(&mut bytes) {
                    shown.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
            });
            Terminal { child, keyboard, screen, seen: 0 }
        }

        fn press(&mut self, keys: &str) {
            self.keyboard.write_all(keys.as_bytes()).expect("keys");
        }

        /// Waits until a text is on the screen behind what was seen before.
        #[track_caller]
        fn wait_for(&mut self, text: &str) {
            let start = Instant::now();
            loop {
                let screen = self.screen.lock().unwrap().clone();
                if let Some(at) = screen[self.seen..].find(text) {
                    self.seen += at + text.len();
                    return;
                }
                assert!(start.elapsed() < PATIENCE, "{text:?} is not in {:?}", &screen[self.seen..]);
                std::thread::sleep(Duration::from_millis(5));
            }
        }

        fn interrupt(&self) {
            let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().expect("kill");
            assert!(sent.success());
        }

        #[track_caller]
        fn leave(mut self) {
            self.wait_for("> "); // while no line is read, a terminal makes of Ctrl-D what it likes
            self.press("\x04");
            let start = Instant::now();
            while start.elapsed() < PATIENCE {
                if let Some(status) = self.child.try_wait().expect("a status") {
                    assert_eq!(status.code(), Some(0), "{:?}", self.screen.lock().unwrap());
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            panic!("the program goes on: {:?}", self.screen.lock().unwrap());
        }
    }

    #[test]
    fn lines_are_edited_and_remembered() {
        let folder = talker();
        let mut terminal = Terminal::start(chat(&folder, &[]));
        terminal.wait_for("Ctrl-D leaves");
        terminal.wait_for("> ");
        terminal.press("/sytsem Be brief\x1b[D\x1b[D"); // two to the left …
        terminal.press("\x05\x15/system Be brief.\r"); // … and all of it anew
        terminal.wait_for("> ");
        terminal.press("/system\r");
        terminal.wait_for("Be brief.\r\n");
        terminal.press("first \\\rsecond\r");
        terminal.wait_for("[cut: the limit of tokens is reached]");
        terminal.wait_for("> ");
        terminal.press("\x03"); // at the prompt Ctrl-C gives up the line
        terminal.wait_for("/exit leaves");
        terminal.press("/stat\t\r");
        terminal.wait_for("to the first token");
        terminal.wait_for("> ");
        terminal.press("/regenerate\r"); // what nothing on the screen would show is said
        terminal.wait_for("[the same answer: /set do_sample true");
        terminal.wait_for("> ");
        terminal.press("/undo\r");
        terminal.wait_for("[forgot `first ");
        terminal.wait_for("> ");
        terminal.press("/clear\r");
        terminal.wait_for("[begun anew; the system message stays]");
        terminal.wait_for("> ");
        terminal.press("/stats\r");
        terminal.wait_for("nothing was answered yet");
        terminal.leave();

        let history = folder.path().join(".local/state/fireside/chat_history");
        let kept = std::fs::read_to_string(&history).unwrap();
        assert!(kept.contains("/system Be brief.") && kept.contains("/stats"), "{kept}");
        let mut terminal = Terminal::start(chat(&folder, &[]));
        terminal.wait_for("> ");
        terminal.press("\x1b[A\r"); // the line before
        terminal.wait_for("nothing was answered yet");
        terminal.leave();

        std::fs::remove_file(&history).unwrap();
        let mut terminal = Terminal::start(chat(&folder, &["--no-history"]));
        terminal.wait_for("> ");
        terminal.press("/stats\r");
        terminal.wait_for("nothing was answered yet");
        terminal.leave();
        assert!(!history.exists());
    }

    #[test]
    fn what_is_typed_ahead_or_is_no_text_loses_nothing() {
        let folder = talker();
        let mut terminal = Terminal::start(chat(&folder, &["--no-history"]));
        terminal.wait_for("> ");
        terminal.keyboard.write_all(b"abc\xff").expect("keys"); // as a terminal in Latin-1 sends it
        terminal.wait_for("is no UTF-8 text");
        terminal.wait_for("> ");
        terminal.press("/stats\n/system\n"); // Enter as the terminal hands it on while no line is read
        terminal.wait_for("nothing was answered yet");
        terminal.wait_for("there is no system message");
        terminal.leave();
    }

    #[test]
    fn an_answer_stays_where_no_other_comes() {
        let folder = talker();
        let mut terminal = Terminal::start(chat(&folder, &["--no-history"]));
        for (keys, shown) in [
            ("Where is the fox?\r", "[cut: the limit of tokens is reached]"),
            ("/set regex [^\\x00-\\x{10ffff}]\r", TAKEN), // no text at all
            ("/regenerate\r", "allows no further text"),
            ("/show\r", "user: Where is the fox?\r\nassistant: "),
        ] {
            terminal.wait_for("> ");
            terminal.press(keys);
            terminal.wait_for(shown);
        }
        terminal.leave();
    }

    #[test]
    fn ctrl_c_stops_the_answer_and_not_the_program() {
        let folder = crate::cli_shell::long_winded();
        let config = folder.path().join("tokenizer_config.json");
        let mut json: Value = parsed(&std::fs::read_to_string(&config).unwrap());
        json["chat_template"] = json!(TEMPLATE);
        std::fs::write(config, json.to_string()).unwrap();
        let name = name_of(folder.path());
        let mut command = fireside(["chat", "-m", &name, "--ignore-eos", "--temperature", "0", "--no-history"]);
        command.env("FIRESIDE_KERNELS", "scalar");
        let mut terminal = Terminal::start(command);
        for _ in 0..2 {
            terminal.wait_for("> ");
            terminal.press("Where is the fox?\r");
            terminal.wait_for(TAKEN);
            let before = terminal.screen.lock().unwrap().len();
            while terminal.screen.lock().unwrap().len() < before + 100 {
                std::thread::sleep(Duration::from_millis(5));
            }
            terminal.interrupt();
            terminal.wait_for("[stopped]");
        }
        terminal.wait_for("> ");
        terminal.press("/stats\r");
        terminal.wait_for("of them new");
        terminal.leave();
    }
}
