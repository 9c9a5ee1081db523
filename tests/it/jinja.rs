//! Jinja against jinja2, as transformers sets it up: what small templates give, and which of them fail.

use std::time::{Duration, UNIX_EPOCH};

use fireside::{ChatOptions, ChatTemplate, Message};

use crate::support::{cases, json};

/// 26 July 2024, 12:00, when the oracle's clock stands.
const NOON: u64 = 1_721_995_200;

#[test]
fn small_templates_give_the_texts_and_errors_of_jinja2() {
    let file = json("jinja.json");
    let options = ChatOptions {
        variables: file["data"].as_object().expect("variables").clone(),
        now: Some(UNIX_EPOCH + Duration::from_secs(NOON)),
        add_generation_prompt: Some(false),
        ..ChatOptions::default()
    };
    let mut wrong = Vec::new();
    for case in cases(&file) {
        let source = case["template"].as_str().expect("a template");
        let rendered = ChatTemplate::new(source).and_then(|template| {
            let tokens = [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")];
            let template =
                tokens.into_iter().fold(template, |template, (name, token)| template.with_token(name, token));
            template.render(&[Message::user("x")], &options)
        });
        match (&rendered, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(_), None) => {}
            (Ok(text), expected) => wrong.push(format!("{source}\n   found    {text:?}\n   expected {expected:?}")),
            (Err(error), expected) => wrong.push(format!("{source}\n   error    {error}\n   expected {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases(&file).len(), wrong.join("\n"));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let file = json("jinja.json");
    let options = ChatOptions { variables: file["data"].as_object().expect("variables").clone(), ..Default::default() };
    let render = |source: &str| ChatTemplate::new(source).and_then(|t| t.render(&[Message::user("x")], &options));
    for source in file["refused"].as_array().expect("a list") {
        let source = source.as_str().expect("a template");
        let error = render(source).expect_err(source).to_string();
        assert!(!error.contains('\n') && error.len() < 300, "{source}: {error}");
    }
    // All that jinja2 offers is there, or its error says that it is not.
    let mut refused = Vec::new();
    for (kind, test) in [("filters", "filter"), ("tests", "test")] {
        for name in file["names"][kind].as_array().expect("a list") {
            let name = name.as_str().expect("a name");
            if render(&format!("{{{{ {name:?} is {test} }}}}")).unwrap() != "True" {
                let error = render(&format!("{{{{ 1 | {name} }}}}")).expect_err(name).to_string();
                assert!(error.contains(&format!("the filter '{name}' is not supported")), "{name}: {error}");
                refused.push(name);
            }
        }
    }
    assert_eq!(refused, ["random", "striptags", "urlize"]);
    for name in file["names"]["globals"].as_array().expect("a list") {
        let name = name.as_str().expect("a name");
        assert_eq!(render(&format!("{{{{ {name} is defined }}}}")).unwrap(), "True", "{name}");
    }
}
