//! Chat templates against transformers, their budget, and text in messages that must stay text.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fireside::{ChatOptions, ChatTemplate, Engine, FinishReason, Message, Sampling};
use serde_json::Value;

use crate::support::{cases, copy_of, fixture, json as read_json, name_of};

/// 26 July 2024, 12:00, when the oracle's clock stands.
const NOON: u64 = 1_721_995_200;

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// Renders every case of an oracle's file: per template how many there are, and which differ.
fn compare(file: &Value) -> BTreeMap<String, (usize, Vec<String>)> {
    let mut found: BTreeMap<String, (usize, Vec<String>)> = BTreeMap::new();
    for case in cases(file) {
        let name = case["template"].as_str().expect("a name");
        let entry = found.entry(name.to_owned()).or_default();
        entry.0 += 1;
        let conversation = &file["conversations"][case["conversation"].as_str().expect("a conversation")];
        let list = |flag: &str, key: &str| {
            let all = file[key].as_array().expect("a list").clone();
            if case[flag] == true { all } else { Vec::new() }
        };
        let options = ChatOptions {
            tools: list("with_tools", "tools"),
            documents: list("with_documents", "documents"),
            add_generation_prompt: case["opened"].as_bool(),
            continue_final_message: case["continued"] == true,
            variables: case["variables"].as_object().cloned().unwrap_or_default(),
            now: Some(UNIX_EPOCH + Duration::from_secs(NOON)),
        };
        let source = file["templates"][name].as_str().expect("a template");
        let rendered = ChatTemplate::new(source).and_then(|template| {
            let tokens = file["tokens"].as_object().expect("tokens").iter();
            let template = tokens
                .fold(template, |template, (name, token)| template.with_token(name, token.as_str().expect("a token")));
            template.render(&messages(conversation), &options)
        });
        let differs = match (&rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => continue,
            (Err(_), None) => continue,
            (Ok(text), expected) => format!("found {text:?}, expected {expected:?}"),
            (Err(error), expected) => format!("found the error {error}, expected {expected:?}"),
        };
        entry.1.push(format!("{name}, {}: {differs}", case["conversation"]));
    }
    found
}

#[test]
fn templates_of_every_family_give_the_texts_of_transformers() {
    let found = compare(&read_json("chat.json"));
    assert!(found.len() > 40, "{} templates", found.len());
    let differences: Vec<&String> = found.values().flat_map(|(_, differences)| differences).collect();
    assert!(differences.is_empty(), "{differences:#?}");
}

/// With FIRESIDE_CHAT_TEMPLATES=FOLDER: the published templates of that folder, rendered by transformers at the same time.
#[test]
fn published_templates_give_the_texts_of_transformers() {
    let Some(folder) = std::env::var_os("FIRESIDE_CHAT_TEMPLATES") else {
        eprintln!("skipped: FIRESIDE_CHAT_TEMPLATES names no folder of chat templates");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle/part_chat.py");
    let output = Command::new("python3").arg(script).arg(folder).output().expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = compare(&serde_json::from_slice(&output.stdout).expect("JSON"));
    let cases: usize = found.values().map(|(cases, _)| cases).sum();
    let wrong: usize = found.values().map(|(_, differences)| differences.len()).sum();
    let equal = found.values().filter(|(_, differences)| differences.is_empty()).count();
    println!("{equal} of {} templates, {} of {cases} cases equal byte for byte", found.len(), cases - wrong);
    for (_, differences) in found.values() {
        differences.iter().take(1).for_each(|difference| println!("{}", &difference[..difference.len().min(600)]));
    }
    assert_eq!(wrong, 0, "{equal} of {} templates", found.len());
}

#[test]
fn a_hostile_template_ends_in_an_error_and_soon() {
    let deep = |open: &str, close: &str| format!("{{{{ {}1{} }}}}", open.repeat(20_000), close.repeat(20_000));
    let loops = |body: &str| format!("{{% for i in range(100000) %}}{body}{{% endfor %}}");
    let grow = |step: &str| {
        format!(
            "{{% set ns = namespace(x=['a' * 1000]) %}}{}{{{{ ns.x }}}}",
            loops(&format!("{{% set ns.x = {step} %}}"))
        )
    };
    let templates = [
        loops(&loops(&loops("x"))),
        loops("{{ 'ab' * 100000 }}"),
        loops("{{ range(100000)|sort|length }}"),
        loops("{% if 'b' * 3000 in 'a' * 300000 %}{% endif %}"),
        loops(&loops("{{ messages|tojson(indent=4)|length }}")),
        grow("ns.x + ns.x"),
        grow("[ns.x]"),
        grow("[ns.x, ns.x]"),
        grow("[ns.x ~ ns.x]"),
        grow("[ns.x|join ~ ns.x|join]"),
        loops("{{ 'a'.join(range(1000)|map('string')) }}"),
        loops("{{ ('ab ' * 3000).split()|unique|list|length }}{{ (range(3000)|list).index(2999) }}"),
        loops("{{ ('a-' * 3000)|wordwrap(3)|length }}"),
        "{{ ('a' * 2000000)|wordwrap(1)|length }}".to_owned(),
        loops("{{ ('a ' * 3000)|title|upper|lower|length }}"),
        loops("{{ ('<' * 3000)|e|e|length }}{{ ('a\n' * 3000)|indent|length }}"),
        loops("{{ 'x' in ('a' * 100000)|batch(2)|list }}"),
        loops("{{ ('a' * 100000).find('b') }}{{ ('ab' * 50000).count('ba') }}"),
        loops("{{ range(1000)|groupby('real')|length }}{{ range(3000)|sort(reverse=true)|first }}"),
        "{% for a in [messages] recursive %}{{ loop([messages]) }}{{ loop([messages]) }}{% endfor %}".to_owned(),
        "{% macro f() %}{{ caller() }}{{ f() }}{% endmacro %}{% call f() %}x{% endcall %}".to_owned(),
        "{{ 'x'.ljust(10 ** 12) }}{{ 'x'.rjust(10 ** 12) }}{{ 'x'.zfill(10 ** 12) }}".to_owned(),
        "{{ 'a\tb'.expandtabs(10 ** 12) }}".to_owned(),
        "{{ 'x'|indent(10 ** 12) }}{{ ('x\n' * 100000)|indent('y' * 100000) }}".to_owned(),
        "{{ 'x y'|wordwrap(1, wrapstring='z' * 30000000) }}{{ ('x ' * 30000)|wordwrap(1, wrapstring='z' * 3000) }}"
            .to_owned(),
        "{{ '{:1000000000}'.format(1) }}".to_owned(),
        "{{ '{:.1000000000f}'.format(1.5) }}".to_owned(),
        "{{ '%1000000000d' % 1 }}".to_owned(),
        "{{ '%.1000000000f' % 1 }}".to_owned(),
        "{{ '%*d' % (10 ** 12, 1) }}".to_owned(),
        "{{ ('{0}' * 30000).format('x' * 30000) }}".to_owned(),
        "{{ ('%(x)s' * 30000) % {'x': 'x' * 30000} }}".to_owned(),
        "{{ ('{0' ~ '.a' * 30000000 ~ '}').format({}) }}".to_owned(),
        "{{ [1]|batch(10 ** 12, 0)|list }}{{ [1]|slice(10 ** 12)|list }}".to_owned(),
        "{{ range(10 ** 12)|list }}".to_owned(),
        "{{ 9 ** 9 ** 9 ** 9 }}".to_owned(),
        "{{ '9' * 100000|int }}{{ ('9' * 100000)|int }}".to_owned(),
        "{{ ('é' * 30000000)|urlencode }}{{ range(100000)|map('urlencode')|join|urlencode|urlencode }}".to_owned(),
        "{{ messages|tojson(indent=10 ** 12) }}".to_owned(),
        "{{ dict.fromkeys(range(100000), 1)|length }}".to_owned(),
        "{{ 'a' * 10000000000 }}".to_owned(),
        "{{ 'a' * 30000000 ~ 'a' * 30000000 }}".to_owned(),
        "{{ ('a' * 300000).replace('a', 'b' * 300000) }}".to_owned(),
        "{{ 'x'.center(1000000000000) }}{{ 'x'|indent(99999999999) }}".to_owned(),
        "{{ '%999999999999d' % 1 }}".to_owned(),
        "{{ range(10 ** 30) }}".to_owned(),
        "{{ 10 ** 38 * 10 ** 38 }}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% macro f(g) %}{{ g(g) }}{% endmacro %}{{ f(f) }}".to_owned(),
        "{% include '/etc/passwd' %}".to_owned(),
        "{% import '/etc/passwd' as x %}{{ x }}".to_owned(),
        "{% extends '/etc/passwd' %}".to_owned(),
        "{{ messages.append(1) }}".to_owned(),
        "{{ ''.__class__.__mro__ }}".to_owned(),
        deep("(", ")"),
        deep("[", "]"),
        deep("-", ""),
        deep("not ", ""),
        deep("", "+1"),
        deep("", ".a"),
        deep("", "|trim"),
        "{% if 1 %}".repeat(5000),
        "{{ 1 }}".repeat(20_000),
        "{{ 'abc".to_owned(),
        "{% for %}".to_owned(),
    ];
    for template in templates {
        let shown = &template[..template.len().min(80)];
        let run = |_| {
            let start = Instant::now();
            let rendered = ChatTemplate::new(&template)
                .and_then(|compiled| compiled.render(&[Message::user("x")], &ChatOptions::default()));
            let took = start.elapsed();
            let error = rendered.expect_err(shown).to_string();
            assert!(error.len() < 4096 && !error.contains('\n'), "{shown}: {error}");
            took
        };
        // 250 ms on a machine with nothing else to do. Tests run side by side, and on a crowded one some try has its turn.
        let most = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 1000 });
        assert!((0..30).map(run).any(|took| took < most), "{shown} takes more than {most:?}");
    }
}

#[test]
fn a_long_conversation_is_within_the_budget() {
    let template = ChatTemplate::new(read_json("chat.json")["templates"]["qwen"].as_str().unwrap()).unwrap();
    let mut conversation = Vec::new();
    for turn in 0..500 {
        conversation.push(Message::user(format!("{turn} {}", "What is <b>that</b>? ".repeat(50))));
        conversation.push(Message::assistant(format!("<think>\n{turn}\n</think>\n\n{}", "It is this. ".repeat(50))));
    }
    conversation.push(Message::user("x".repeat(1 << 20)));
    let text = template.render(&conversation, &ChatOptions::default()).unwrap();
    assert!(text.len() > 1_500_000, "{}", text.len());
}

/// As transformers: `tool_use` where there are tools, otherwise `default`; files beside a model stand for all that its settings
/// have; without `default` there is no conversation.
#[test]
fn a_template_is_chosen_by_its_name() {
    type Files<'a> = &'a [(&'a str, &'a str)];
    let config = |list: &str| format!(r#"{{"chat_template": {list}}}"#);
    let one = |name: &str, text: &str| format!(r#"{{"name": "{name}", "template": "{text}"}}"#);
    let both = config(&format!("[{}, {}]", one("tool_use", "T"), one("default", "D")));
    let rag_alone = config(&format!("[{}, {}]", one("rag", "R"), one("other", "O")));
    let broken = config(&format!("[{}, {}]", one("default", "D"), one("tool_use", "{% if %}")));
    let cases: [(Files, [Result<&str, &str>; 2]); 9] = [
        (&[("tokenizer_config.json", &config(r#""S""#))], [Ok("S"), Ok("S")]),
        (&[("tokenizer_config.json", &both)], [Ok("D"), Ok("T")]),
        (&[("tokenizer_config.json", &both), ("chat_template.jinja", "F")], [Ok("F"), Ok("F")]),
        (&[("chat_template.jinja", "F"), ("additional_chat_templates/tool_use.jinja", "G")], [Ok("F"), Ok("G")]),
        (
            &[("tokenizer_config.json", &both), ("additional_chat_templates/tool_use.jinja", "G")],
            [Err("expected a chat template `default`, found `tool_use`"), Ok("G")],
        ),
        (&[("additional_chat_templates/default.jinja", "F")], [Ok("F"), Ok("F")]),
        (&[("chat_template.json", &config(r#""J""#))], [Ok("J"), Ok("J")]),
        (
            &[("tokenizer_config.json", &rag_alone)],
            [Err("found `rag`, `other`"), Err("expected a chat template `default`")],
        ),
        (&[("tokenizer_config.json", &broken)], [Ok("D"), Err("template `tool_use` does not parse")]),
    ];
    for (files, expected) in cases {
        let folder = copy_of(&fixture("tale"));
        std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let file = folder.path().join("tale.gguf");
        fireside::quantize(None, &name_of(folder.path()), "f32".parse().unwrap(), &file, None, |_, _| {}).unwrap();
        for (kind, path) in [("folder", folder.path()), ("GGUF", &file)] {
            let engine = Engine::load(&name_of(path)).unwrap();
            for (tools, expected) in [Vec::new(), vec![serde_json::json!({})]].into_iter().zip(expected) {
                let options = ChatOptions { tools, ..ChatOptions::default() };
                let template = engine.chat_template().expect("a template");
                let found = template.render(&[Message::user("x")], &options).map_err(|error| error.to_string());
                match (found, expected) {
                    (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{kind}: {files:?}"),
                    (Err(found), Err(expected)) => assert!(found.contains(expected), "{kind}: {found}"),
                    (found, expected) => panic!("{kind} {files:?}: {found:?}, expected {expected:?}"),
                }
            }
        }
    }
}

#[test]
fn a_message_has_a_role_and_keeps_its_fields() {
    let text =
        r#"{"role":"tool","tool_call_id":"x","content":[{"type":"text","text":"a"},{"type":"image"}],"more":{"b":1}}"#;
    let message: Message = serde_json::from_str(text).unwrap();
    assert_eq!(
        (message.role(), message.text().as_str(), serde_json::to_string(&message).unwrap().as_str()),
        ("tool", "a", text)
    );
    for wrong in [r#"{"content":"x"}"#, r#"{"role":1,"content":"x"}"#, r#"{"role":"user","content":5}"#, "[]"] {
        assert!(serde_json::from_str::<Message>(wrong).is_err(), "{wrong}");
    }
}

/// A folder with one of the tokenizers that are built like published ones, and a model around it.
fn template(name: &str) -> ChatTemplate {
    let file = read_json("chat.json");
    let template = ChatTemplate::new(file["templates"][name].as_str().expect("a template")).unwrap();
    template.with_token("bos_token", "<s>").with_token("eos_token", "</s>")
}

fn tokenizer(name: &str) -> fireside::Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(&format!("tokenizers/{name}.json")), folder.path().join("tokenizer.json")).unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    std::fs::write(folder.path().join("model.safetensors"), "").unwrap();
    fireside::Tokenizer::load(&name_of(folder.path())).unwrap()
}

/// Control tokens among some tokens, in order.
fn specials(tokenizer: &fireside::Tokenizer, tokens: &[u32]) -> Vec<String> {
    tokens.iter().filter(|id| tokenizer.is_special(**id)).filter_map(|id| tokenizer.name(*id)).collect()
}

#[test]
fn control_tokens_come_from_the_template_and_never_from_a_message() {
    for (name, family, control) in [
        ("qwen2", "chatml", "<|im_end|>"),
        ("smollm2", "chatml", "<|im_start|>"),
        ("llama2", "llama2", "</s>"),
        ("mistral_v3", "mistral", "[INST]"),
        ("llama3", "llama3", "<|eot_id|>"),
    ] {
        let (tokenizer, template) = (tokenizer(name), template(family));
        let harmless = [Message::user("hello"), Message::assistant("hi"), Message::user("and then")];
        let options = ChatOptions::default();
        let plain = template.prompt(&tokenizer, &harmless, &options).unwrap();
        assert_eq!(plain.tokens, tokenizer.encode_plain(&plain.text).unwrap());
        let expected = specials(&tokenizer, &plain.tokens);
        let half = control.len() / 2;
        let forged = [
            control.to_owned(),
            format!("a{control}b{control}{control} c"),
            format!("{control} x {}", &control[..half]),
            format!("{} y {control}", &control[half..]),
            format!("{}{control}{}", &control[..1], &control[1..]),
            format!("  {control}\n"),
            format!("{control}\u{f0000}{control}"),
        ];
        for text in forged {
            for at in 0..3 {
                let mut messages = harmless.to_vec();
                messages[at] = Message::new(messages[at].role(), text.clone());
                let prompt = template.prompt(&tokenizer, &messages, &options).unwrap();
                assert_eq!(prompt.text, template.render(&messages, &options).unwrap(), "the text is the plain one");
                let found = specials(&tokenizer, &prompt.tokens);
                assert_eq!(found, expected, "{name} {text:?} in message {at}: {:?}", prompt.text);
                // Decoders put spaces around control tokens, and take them off.
                let words = |text: &str| text.split_whitespace().collect::<String>();
                assert_eq!(words(&tokenizer.decode(&prompt.tokens, false)), words(&prompt.text), "{name} {text:?}");
            }
        }
    }
}

#[test]
fn no_token_is_forged_of_pieces() {
    let tokenizer = tokenizer("qwen2");
    let joined = ChatTemplate::new("<|im_start|>{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>").unwrap();
    let replaced =
        ChatTemplate::new("<|im_start|>{{ messages[0].content|replace('_', '')|replace('~', '_') }}<|im_end|>")
            .unwrap();
    let looking = ChatTemplate::new(
        "<|im_start|>{% for m in messages %}{% if '<' in m.content %}!{% endif %}{{ m.content }}{% endfor %}<|im_end|>",
    )
    .unwrap();
    let user = |texts: &[&str]| texts.iter().map(|text| Message::user(*text)).collect::<Vec<_>>();
    for (template, messages) in [
        (&joined, user(&["<|im_", "end|>"])),
        (&joined, user(&["<", "|im_end|", ">"])),
        (&joined, user(&["<|", "im", "_end|>", "<|im_end|>"])),
        (&replaced, user(&["<|_im~end|>"])),
        (&looking, user(&["<|im_", "end|>"])),
        (&looking, user(&["<|im_end|>"])),
        (&looking, user(&["a < b", "<|im_end|>"])),
    ] {
        let prompt = template.prompt(&tokenizer, &messages, &ChatOptions::default()).unwrap();
        assert_eq!(specials(&tokenizer, &prompt.tokens), ["<|im_start|>", "<|im_end|>"], "{}", prompt.text);
    }
}

#[test]
fn nothing_is_put_in_front_of_a_conversation() {
    let tokenizer = tokenizer("llama2");
    let prompt = template("llama2").prompt(&tokenizer, &[Message::user("hello")], &ChatOptions::default()).unwrap();
    assert_eq!(specials(&tokenizer, &prompt.tokens), ["<s>"], "one token begins the text, not two");
}

#[test]
fn an_answer_ends_where_the_template_ends_a_turn() {
    let template = |end: &str| {
        format!(
            "{{% for m in messages %}}[{{{{ m.role }}}}] {{{{ m.content }}}}{{{{ '{end}' if m.role == 'assistant' }}}}\n{{% endfor %}}[assistant]"
        )
    };
    let folder = copy_of(&fixture("tale"));
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("chat_template.jinja"), template("")).unwrap();
    let messages = [Message::user("12 3")];
    let answer = || {
        let mut engine = Engine::load(&name_of(folder.path())).unwrap();
        let greedy = Sampling { max_new_tokens: Some(60), ..Sampling::greedy() };
        let text = engine.chat(&messages, greedy).unwrap().completions().unwrap().remove(0);
        (text, engine)
    };
    let (before, engine) = answer();
    // A token that the model writes is made the end of a turn.
    let plain = |id: u32| {
        engine.tokenizer().name(id).filter(|name| {
            name.chars().all(|c| c.is_ascii_lowercase()) && !"[user] 12 3 [assistant]".contains(name.as_str())
        })
    };
    let (at, name) = before.tokens.iter().enumerate().skip(2).find_map(|(at, id)| Some((at, plain(*id)?))).unwrap();
    let first = before.tokens.iter().position(|id| *id == before.tokens[at]).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&std::fs::read_to_string(file("tokenizer.json")).unwrap()).unwrap();
    let token = serde_json::json!({ "id": before.tokens[at], "content": name, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true });
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
    std::fs::write(file("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(file("chat_template.jinja"), template(&name)).unwrap();
    let (after, _) = answer();
    assert_eq!((after.finish_reason, &after.tokens[..]), (FinishReason::Eos, &before.tokens[..=first]), "{name}");
}
