//! Constrained output: every text is what was asked for, whatever else is set.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fireside::{Completion, Engine, Error, FinishReason, Sampling, Schema};
use regex::Regex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{model, name_of, time_of_thread, write_weights};

const PROMPT: &str = "There was once";

fn tale() -> Engine {
    Engine::load(&model("tale")).expect("the fixture loads")
}

/// All tokens at their own probabilities, as many as the context holds.
fn drawn() -> Sampling {
    Sampling {
        do_sample: Some(true),
        temperature: Some(1.0),
        top_k: Some(0),
        max_new_tokens: Some(400),
        return_full_text: Some(false),
        ..Sampling::default()
    }
}

fn json_schema(schema: Value) -> Sampling {
    Sampling { json_schema: Some(Schema(schema)), ..drawn() }
}

fn regex(regex: &str) -> Sampling {
    Sampling { regex: Some(regex.to_owned()), ..drawn() }
}

fn choice(texts: &[&str]) -> Sampling {
    Sampling { choice: Some(texts.iter().map(|text| (*text).to_owned()).collect()), ..drawn() }
}

fn grammar(grammar: &str) -> Sampling {
    Sampling { grammar: Some(grammar.to_owned()), ..drawn() }
}

/// `count` texts, each with a seed of its own.
fn texts(engine: &mut Engine, sampling: &Sampling, count: u64) -> Vec<Completion> {
    let batch = (0..count).map(|seed| (PROMPT.into(), Sampling { seed: Some(seed), ..sampling.clone() }));
    engine.generate_batch(batch).unwrap().completions().unwrap()
}

/// A schema of every kind of value, in which no text can grow for ever.
fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 2, "maxLength": 12 },
            "age": { "type": "integer", "minimum": 7, "maximum": 130 },
            "height": { "type": "number", "exclusiveMinimum": 0, "maximum": 2.5, "multipleOf": 0.25 },
            "born": { "type": "string", "format": "date" },
            "code": { "type": "string", "pattern": "^[A-Z]{2}-\\d{3}$" },
            "kind": { "enum": ["king", "fox", 7, null, { "a": [true] }] },
            "tags": { "type": "array", "items": { "$ref": "#/$defs/tag" }, "minItems": 1, "maxItems": 3 },
            "home": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/home" }] }
        },
        "required": ["name", "age", "height", "born", "code", "kind", "tags", "home"],
        "additionalProperties": false,
        "$defs": {
            "tag": { "type": "string", "maxLength": 4 },
            "home": { "type": "object", "properties": { "old": { "type": "boolean" } }, "required": ["old"], "additionalProperties": false }
        }
    })
}

/// The same by hand, in words that are not the generator's.
fn is_person(value: &Value) -> bool {
    let text = |key: &str| value[key].as_str().unwrap_or("?");
    let characters = text("name").chars().count();
    let tag = |tag: &Value| tag.as_str().is_some_and(|tag| tag.chars().count() <= 4);
    let kinds = [json!("king"), json!("fox"), json!(7), Value::Null, json!({ "a": [true] })];
    value.as_object().is_some_and(|object| object.len() == 8)
        && (2..=12).contains(&characters)
        && value["age"].as_u64().is_some_and(|age| (7..=130).contains(&age))
        && value["height"].as_f64().is_some_and(|x| x > 0.0 && x <= 2.5 && (x * 4.0).fract() == 0.0)
        && Regex::new(r"^\d{4}-\d{2}-\d{2}$").unwrap().is_match(text("born"))
        && Regex::new(r"^[A-Z]{2}-[0-9]{3}$").unwrap().is_match(text("code"))
        && kinds.contains(&value["kind"])
        && value["tags"].as_array().is_some_and(|tags| (1..=3).contains(&tags.len()) && tags.iter().all(tag))
        && (value["home"].is_null()
            || value["home"]["old"].is_boolean() && value["home"].as_object().unwrap().len() == 1)
}

/// Balanced brackets in llama.cpp's form, at most as deep as a text may be long.
const BRACKETS: &str = "# nested lists of digits
root ::= list
list ::= \"[\" (item (\",\" item){0,2})? \"]\"
item ::= list | \"0\" | [1-9] [0-9]?   # either
";

const SUMS: &str = r#"
start: sum
sum: NUMBER | "(" sum SIGN sum ")"
SIGN: "+" | "-" | "*"
NUMBER: /[1-9][0-9]?/
"#;

fn is_list(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.len() <= 3 && items.iter().all(|item| is_list(item) || item.is_number()),
        _ => false,
    }
}

/// Whether a text is a sum, by recursive descent.
fn is_sum(text: &str) -> bool {
    fn sum(text: &[u8]) -> Option<&[u8]> {
        if let Some(rest) = text.strip_prefix(b"(") {
            let rest = sum(rest)?;
            let (sign, rest) = rest.split_first()?;
            return if b"+-*".contains(sign) { sum(rest)?.strip_prefix(b")") } else { None };
        }
        let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        ((1..=2).contains(&digits) && text[0] != b'0').then(|| &text[digits..])
    }
    sum(text.as_bytes()).is_some_and(<[u8]>::is_empty)
}

/// What is asked for, and whether a text is that.
type Case = (&'static str, Sampling, fn(&str) -> bool);

fn cases() -> Vec<Case> {
    fn matches(regex: &str, text: &str) -> bool {
        Regex::new(&format!("^(?s:{regex})$")).unwrap().is_match(text)
    }
    vec![
        ("a schema", json_schema(person()), |text| serde_json::from_str(text).is_ok_and(|value| is_person(&value))),
        (
            "any JSON",
            Sampling { max_new_tokens: Some(60), ..json_schema(json!({ "type": ["boolean", "null"] })) },
            |text| ["true", "false", "null"].contains(&text),
        ),
        ("a regex", regex(r"(yes|no), [A-Z][a-zß]{2,9}!\n\d{1,3}€"), |text| {
            matches(r"(yes|no), [A-Z][a-zß]{2,9}!\n\d{1,3}€", text)
        }),
        ("any three characters", regex("(?s:.{3})"), |text| text.chars().count() == 3),
        ("a choice", choice(&["yes", "no", "no, never", "ünless / \"so\""]), |text| {
            ["yes", "no", "no, never", "ünless / \"so\""].contains(&text)
        }),
        ("GBNF", grammar(BRACKETS), |text| serde_json::from_str(text).is_ok_and(|value| is_list(&value))),
        ("Lark", grammar(SUMS), is_sum),
    ]
}

/// A model that finds all tokens about as likely, with Llama 2's kind of vocabulary.
fn sentencepiece() -> Engine {
    let folder = TempDir::new().unwrap();
    let tokenizer = crate::support::json("tokenizers/llama2.json");
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let vocab = tokenizer["model"]["vocab"].as_object().unwrap().len();
    let config = json!({ "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": vocab, "n_positions": 512,
        "n_embd": 16, "n_layer": 1, "n_head": 2, "eos_token_id": 2 });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let shapes: [(&str, Vec<usize>); 16] = [
        ("wte.weight", vec![vocab, 16]),
        ("wpe.weight", vec![512, 16]),
        ("h.0.ln_1.weight", vec![16]),
        ("h.0.ln_1.bias", vec![16]),
        ("h.0.attn.c_attn.weight", vec![16, 48]),
        ("h.0.attn.c_attn.bias", vec![48]),
        ("h.0.attn.c_proj.weight", vec![16, 16]),
        ("h.0.attn.c_proj.bias", vec![16]),
        ("h.0.ln_2.weight", vec![16]),
        ("h.0.ln_2.bias", vec![16]),
        ("h.0.mlp.c_fc.weight", vec![16, 64]),
        ("h.0.mlp.c_fc.bias", vec![64]),
        ("h.0.mlp.c_proj.weight", vec![64, 16]),
        ("h.0.mlp.c_proj.bias", vec![16]),
        ("ln_f.weight", vec![16]),
        ("ln_f.bias", vec![16]),
    ];
    let numbers = |shape: &[usize]| {
        (0..shape.iter().product()).map(|i: usize| (i * 7919 % 101) as f32 / 500.0 - 0.1).collect::<Vec<f32>>()
    };
    let tensors = shapes.map(|(name, shape)| (name.to_owned(), (shape.clone(), numbers(&shape))));
    write_weights(folder.path(), &tensors.into());
    Engine::load(&name_of(folder.path())).unwrap()
}

#[test]
fn every_text_is_what_was_asked_for() {
    for (engine, name) in [(&mut tale(), "tale"), (&mut sentencepiece(), "SentencePiece")] {
        for (what, sampling, is_right) in cases() {
            let (mut complete, mut different) = (0, BTreeSet::new());
            for text in texts(engine, &sampling, 30) {
                if text.finish_reason == FinishReason::Length {
                    continue; // cut, and it says so
                }
                assert!(is_right(&text.generated_text), "{name}, {what}: {:?}", text.generated_text);
                assert!(matches!(text.finish_reason, FinishReason::Grammar | FinishReason::Eos), "{what}");
                complete += 1;
                different.insert(text.generated_text);
            }
            assert!(complete >= 10, "{name}, {what}: {complete}");
            assert!(different.len() > 1 || name == "tale", "{name}, {what}: {different:?}"); // the tale knows what it wants
        }
    }
}

#[test]
fn special_tokens_never_stand_in_a_text() {
    let mut engine = tale();
    let tokenizer = std::sync::Arc::clone(engine.tokenizer());
    for text in texts(&mut engine, &regex("(?s:.{20})"), 30) {
        let inside = &text.tokens[..text.tokens.len() - usize::from(text.finish_reason == FinishReason::Eos)];
        assert!(inside.iter().all(|id| !tokenizer.is_special(*id)), "{:?}", text.tokens);
    }
    let eos = (0..tokenizer.id_limit() as u32).find(|id| tokenizer.is_special(*id)).expect("an end token");
    let name = tokenizer.name(eos).unwrap();
    let text = &texts(&mut engine, &choice(&[&name]), 1)[0];
    assert_eq!(text.generated_text, name, "its name is text like any other");
    assert!(text.tokens.len() > 1, "{:?}", text.tokens);
}

#[test]
fn it_holds_beside_every_other_setting() {
    let mut engine = tale();
    let id = |engine: &Engine, text: &str| engine.tokenizer().encode_plain(text).unwrap()[0];
    let (letter, brace) = (id(&engine, "x"), id(&engine, "{"));
    let base = Sampling { seed: Some(3), ..drawn() };
    let others = [
        ("greedy", Sampling { do_sample: Some(false), temperature: None, top_k: None, ..base.clone() }),
        ("top_k", Sampling { top_k: Some(1), ..base.clone() }),
        ("top_p", Sampling { top_p: Some(0.1), ..base.clone() }),
        ("min_p", Sampling { min_p: Some(0.9), typical_p: Some(0.3), ..base.clone() }),
        ("top_h", Sampling { top_h: Some(0.1), epsilon_cutoff: Some(0.1), eta_cutoff: Some(0.1), ..base.clone() }),
        ("temperature", Sampling { temperature: Some(50.0), ..base.clone() }),
        ("sequences", Sampling { num_return_sequences: Some(4), ..base.clone() }),
        (
            "beams",
            Sampling { num_beams: Some(3), do_sample: Some(false), temperature: None, top_k: None, ..base.clone() },
        ),
        ("drawn beams", Sampling { num_beams: Some(3), num_return_sequences: Some(2), ..base.clone() }),
        ("lookup", Sampling { prompt_lookup_num_tokens: Some(8), ..base.clone() }),
        ("penalties", Sampling { repetition_penalty: Some(1.5), presence_penalty: Some(2.0), ..base.clone() }),
        (
            "bias",
            Sampling {
                logit_bias: Some([letter, brace].map(|id| fireside::LogitBias { id, bias: 1e9 }).to_vec()),
                ..base.clone()
            },
        ),
        ("forced end", Sampling { forced_eos_token_id: Some(vec![0]), max_new_tokens: Some(400), ..base.clone() }),
        ("forced start", Sampling { forced_bos_token_id: Some(letter), ..base.clone() }),
        ("no end", Sampling { ignore_eos: Some(true), ..base.clone() }),
        ("least", Sampling { min_new_tokens: Some(3), ..base.clone() }),
        ("log-probabilities", Sampling { logprobs: Some(true), top_logprobs: Some(2), ..base.clone() }),
        ("n-grams", Sampling { no_repeat_ngram_size: Some(9), ..base.clone() }),
        ("length decay", Sampling { exponential_decay_length_penalty: Some(fireside::LengthDecay(0, 3.0)), ..base }),
    ];
    for (what, constraint, is_right) in cases() {
        for (other, settings) in &others {
            let sampling = Sampling {
                json_schema: constraint.json_schema.clone(),
                regex: constraint.regex.clone(),
                choice: constraint.choice.clone(),
                grammar: constraint.grammar.clone(),
                max_new_tokens: Some(if *other == "beams" || *other == "drawn beams" { 60 } else { 300 }),
                ..settings.clone()
            };
            for prompt in [PROMPT, "a"] {
                let found = engine.generate(prompt, sampling.clone()).unwrap().completions();
                for text in found.unwrap_or_else(|error| panic!("{what} and {other}: {error}")) {
                    let cut = text.finish_reason == FinishReason::Length;
                    assert!(cut || is_right(&text.generated_text), "{what} and {other}: {:?}", text.generated_text);
                }
            }
        }
    }
}

#[test]
fn a_text_that_was_cut_says_so() {
    let mut engine = tale();
    for text in texts(&mut engine, &Sampling { max_new_tokens: Some(5), ..json_schema(person()) }, 4) {
        assert_eq!((text.finish_reason, text.tokens.len()), (FinishReason::Length, 5));
    }
    let stopped = Sampling { stop_strings: Some(vec!["\"age\"".into()]), ..json_schema(person()) };
    for text in texts(&mut engine, &stopped, 4) {
        assert_eq!(text.finish_reason, FinishReason::StopString);
        assert!(text.generated_text.ends_with("\"age\""), "{:?}", text.generated_text);
    }
}

#[test]
fn the_end_comes_where_the_grammar_may_end_and_at_its_end_by_itself() {
    let mut engine = tale();
    let reasons = |engine: &mut Engine, sampling: &Sampling| -> BTreeSet<String> {
        texts(engine, sampling, 12).iter().map(|text| format!("{:?}", text.finish_reason)).collect()
    };
    assert_eq!(reasons(&mut engine, &regex("[0-9]{4}")), BTreeSet::from(["Grammar".to_owned()]));
    assert_eq!(reasons(&mut engine, &choice(&["the end"])), BTreeSet::from(["Grammar".to_owned()]));
    let open = Sampling { logit_bias: Some(vec![fireside::LogitBias { id: 0, bias: 1e9 }]), ..regex("a+") };
    assert_eq!(
        reasons(&mut engine, &open),
        BTreeSet::from(["Eos".to_owned()]),
        "an end that is certain, where it may be"
    );
    let endless = Sampling { ignore_eos: Some(true), max_new_tokens: Some(9), ..regex("a+") };
    assert_eq!(reasons(&mut engine, &endless), BTreeSet::from(["Length".to_owned()]));
}

#[test]
fn a_healed_prompt_and_its_text_go_on_as_the_grammar_says() {
    let mut engine = tale();
    let healed = Sampling { token_healing: Some(true), ..choice(&["bor.", "zebra"]) };
    for seed in 0..8 {
        let sampling = Sampling { seed: Some(seed), ..healed.clone() };
        let text = engine.generate("Anna walked to the har", sampling).unwrap().completions().unwrap().remove(0);
        assert!(["bor.", "zebra"].contains(&text.generated_text.as_str()), "{:?}", text.generated_text);
    }
}

#[test]
fn a_constrained_text_is_the_same_alone_and_in_a_batch() {
    let mut engine = tale();
    let requests = || {
        let free = Sampling { seed: Some(1), max_new_tokens: Some(30), ..drawn() };
        let all = cases().into_iter().map(|(_, sampling, _)| Sampling { seed: Some(5), ..sampling });
        all.chain([free]).map(|sampling| (PROMPT.into(), sampling))
    };
    let together = engine.generate_batch(requests()).unwrap().completions().unwrap();
    for (request, text) in requests().zip(together) {
        let mut alone = engine.generate_batch([request]).unwrap().completions().unwrap();
        assert_eq!((&alone.remove(0).tokens, text.finish_reason), (&text.tokens, text.finish_reason));
    }
}

#[test]
fn what_cannot_be_kept_is_refused_by_name() {
    let mut engine = tale();
    let mut check = |sampling: Sampling, setting: &str, problem: &str| {
        let before = sampling.check_constraint().expect_err("a refusal without a model");
        let error = engine.generate(PROMPT, sampling).expect_err("a refusal");
        assert_eq!(before.to_string(), error.to_string());
        assert!(matches!(&error, Error::Setting { setting: found, .. } if *found == setting), "{error:?}");
        assert!(error.to_string().contains(problem), "expected {problem:?}: {error}");
        assert!(error.is_usage() && !error.to_string().contains('\n') && error.to_string().len() < 400, "{error}");
    };
    let of = |value: Value| json_schema(value);
    check(of(json!({ "type": "string", "minimun": 3 })), "json_schema", "keyword `minimun`");
    check(of(json!({ "properties": { "a": { "not": {} } } })), "json_schema", "keyword `not` at `/properties/a`");
    check(
        of(json!({ "items": { "$ref": "#/$defs/x" }, "$defs": { "x": { "if": {} } } })),
        "json_schema",
        "`if` at `#/$defs/x`",
    );
    check(of(json!({ "uniqueItems": true })), "json_schema", "keyword `uniqueItems`");
    check(of(json!({ "nullable": true })), "json_schema", "keyword `nullable`");
    check(of(json!({ "x-guidance": { "lenient": true } })), "json_schema", "keyword `x-guidance`");
    check(of(json!({ "$ref": "https://example.org/a.json" })), "json_schema", "a place in the schema itself");
    check(of(json!({ "$ref": "#/$defs/a" })), "json_schema", "`#/$defs/a`, which it does not hold");
    check(of(json!({ "type": "objekt" })), "json_schema", "objekt");
    check(of(json!({ "type": "string", "format": "zip" })), "json_schema", "zip");
    check(of(json!({ "type": "string", "pattern": "(" })), "json_schema", "");
    for (format, text) in [("date", "2023-02-29"), ("date", "1900-02-29"), ("date-time", "^0000"), ("time", ":60")] {
        check(
            of(json!({ "type": "string", "format": format, "pattern": text })),
            "json_schema",
            "no text has together",
        );
    }
    let leap_day = json_schema(json!({ "type": "string", "format": "date", "pattern": "2000-02-29" }));
    assert_eq!(texts(&mut tale(), &leap_day, 1)[0].generated_text, "\"2000-02-29\"");
    check(of(json!({ "type": "integer", "minimum": 5, "maximum": 3 })), "json_schema", "");
    check(of(json!({ "const": 9_007_199_254_740_993u64 })), "json_schema", "expected at most 2^53");
    check(of(json!({ "minProperties": 2 })), "json_schema", "`minProperties`");
    check(of(json!({ "oneOf": [{ "type": "string" }, { "minLength": 2 }] })), "json_schema", "");
    check(of(json!(false)), "json_schema", "allows no text");
    check(of(json!([])), "json_schema", "a list, expected a schema");
    check(regex("["), "regex", "");
    check(regex(""), "regex", "is empty");
    check(regex("a\\"), "regex", "ends in a backslash");
    check(regex("a(?=b)"), "regex", "look-around");
    check(regex(r"a\bb"), "regex", "");
    check(choice(&[]), "choice", "is empty");
    check(choice(&["a", ""]), "choice", "an empty text");
    check(grammar(" \n"), "grammar", "is empty");
    check(grammar("start: item"), "grammar", "item");
    check(grammar("start: \"a\" ["), "grammar", "");
    check(grammar("start: <[5]>"), "grammar", "names tokens by their numbers");
    check(grammar("start: r\nr[temperature=0.5]: /[<][a-z]+/"), "grammar", "sets a temperature");
    check(grammar("root ::= item"), "grammar", "does not define it");
    let two = Sampling { regex: Some("a".into()), ..choice(&["a"]) };
    check(two, "choice", "is given beside `regex`");
}

#[test]
fn hostile_grammars_end_in_bounded_time() {
    let mut engine = tale();
    let doubled = |lines: usize| -> String {
        let rules = (1..=lines).map(|i| format!("T{i}: T{} T{}\n", i - 1, i - 1)).collect::<String>();
        format!("start: T{lines}\nT0: \"a\"\n{rules}")
    };
    let doubled_rules = |lines: usize| -> String {
        let rules = (1..=lines).map(|i| format!("t{i}: t{} t{}\n", i - 1, i - 1)).collect::<String>();
        format!("start: t{lines}\nt0: \"a\"\n{rules}")
    };
    let chain = |length: usize| -> Value {
        let definitions: serde_json::Map<String, Value> =
            (0..length).map(|i| (format!("d{i}"), json!({ "$ref": format!("#/$defs/d{}", i + 1) }))).collect();
        json!({ "$ref": "#/$defs/d0", "$defs": definitions })
    };
    let deep = (0..120).fold(json!({ "type": "null" }), |inner, _| json!({ "type": "array", "items": inner }));
    let hostile = [
        ("repeated repetitions", regex("(((a{1000}){1000}){1000}){1000}")),
        ("a large optional repetition", regex("[a-z]{0,1000000}x")),
        ("an automaton of 2^300 states", regex("(a|b)*a(a|b){300}")),
        ("brackets", regex(&format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000)))),
        ("brackets of Lark", grammar(&format!("start: {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000)))),
        ("brackets of GBNF", grammar(&format!("root ::= {}\"a\"{}", "(".repeat(100_000), ")".repeat(100_000)))),
        ("doubling tokens", grammar(&doubled(40))),
        ("doubling rules", grammar(&doubled_rules(40))),
        ("left recursion", grammar("root ::= root root | \"a\" | \"\"")),
        ("ambiguity", grammar("start: a a a a a a\na: \"x\"* | a a")),
        ("rules that end nowhere", grammar("root ::= \"a\" root")),
        ("a large choice", choice(&vec!["aaaaaaaaaaaaaaaaaaaaaaaaaaaab"; 20_000])),
        ("a chain of references", json_schema(chain(5000))),
        (
            "a circle of references",
            json_schema(json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/a" } } })),
        ),
        ("a deep schema", json_schema(deep)),
        ("a million items", json_schema(json!({ "type": "array", "minItems": 1_000_000 }))),
        ("a long text", json_schema(json!({ "type": "string", "minLength": 100_000_000 }))),
        (
            "many properties",
            json_schema(json!({
                "properties": (0..5000).map(|i| (format!("p{i}"), json!({}))).collect::<serde_json::Map<_, _>>()
            })),
        ),
    ];
    for (what, sampling) in hostile {
        let (start, before) = (Instant::now(), time_of_thread());
        let sampling = Sampling { max_new_tokens: Some(10), seed: Some(1), ..sampling };
        let outcome = engine.generate(PROMPT, sampling).and_then(|mut generation| generation.completions());
        let time = start.elapsed();
        eprintln!(
            "{what}: {time:?}, {:?}",
            outcome.as_ref().map(|texts| texts[0].generated_text.clone()).map_err(|e| e.to_string())
        );
        let worked = time_of_thread() - before;
        assert!(worked < Duration::from_secs(30) && time < Duration::from_secs(200), "{what}: {worked:?} in {time:?}");
    }
}

/// `FIRESIDE_JSONSCHEMA_PYTHON=python3 cargo test --release --test it constrained::a_thousand`
#[test]
fn a_thousand_samples_are_valid_for_python() {
    let Some(python) = std::env::var_os("FIRESIDE_JSONSCHEMA_PYTHON") else {
        eprintln!("SKIPPED: set FIRESIDE_JSONSCHEMA_PYTHON to a Python that has jsonschema 4.x");
        return;
    };
    let mut engine = Engine::load("ember").unwrap();
    for (what, sampling, is_right) in cases() {
        let mut found = Vec::new();
        for seed in 0..1000 {
            let sampling = Sampling { seed: Some(seed), max_new_tokens: Some(250), ..sampling.clone() };
            let text = engine.generate("A king", sampling).unwrap().completions().unwrap().remove(0);
            if text.finish_reason == FinishReason::Length {
                eprintln!("{what}: cut, {:?}", text.generated_text);
            } else {
                assert!(is_right(&text.generated_text), "{what}: {:?}", text.generated_text);
                found.push(text.generated_text);
            }
        }
        eprintln!("{what}: {} of 1000 complete, all of them right", found.len());
        let Some(Schema(schema)) = &sampling.json_schema else { continue };
        let check = "import json, sys, jsonschema
task = json.load(sys.stdin)
validator = jsonschema.Draft202012Validator(task['schema'], format_checker=jsonschema.FormatChecker())
for text in task['texts']: validator.validate(json.loads(text))
print(len(task['texts']))";
        let mut child =
            Command::new(&python).args(["-c", check]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let task = json!({ "schema": schema, "texts": found });
        child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{what}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), found.len().to_string());
    }
}
