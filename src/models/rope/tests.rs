//! Frequencies of published settings, and settings that are refused.

use std::path::Path;

use super::*;

fn rotation(json: Value, head_dim: usize) -> Result<Rotation> {
    let context = json["max_position_embeddings"].as_u64().unwrap_or(4096) as usize;
    whole(&Config { path: Path::new("config.json"), json }, head_dim, context)
}

#[test]
fn frequencies_of_published_models_are_those_of_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/rope.json");
    let fixture: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON");
    let cases = fixture["cases"].as_array().expect("a list");
    assert!(cases.len() >= 7);
    for case in cases {
        let config = &case["config"];
        let head_dim = config["head_dim"].as_u64().expect("a number") as usize;
        let list = |name: &str| -> Vec<f32> { serde_json::from_value(case[name].clone()).expect("a list") };
        let found = rotation(config.clone(), head_dim).expect("frequencies");
        assert_eq!(f64::from(found.factor), case["factor"].as_f64().map_or(1.0, |x| f64::from(x as f32)), "{case}");
        let sets =
            [Some((found.frequencies, list("inv_freq"))), found.long.map(|(_, long)| (long, list("long_inv_freq")))];
        for (found, expected) in sets.into_iter().flatten() {
            // torch's power of f32 is off by the last bit now and then.
            let near = |a: &f32, b: &f32| a.to_bits().abs_diff(b.to_bits()) <= 1;
            let same = found.iter().zip(&expected).filter(|(a, b)| a == b).count();
            assert!(found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| near(a, b)), "{case}");
            assert!(same * 10 >= found.len() * 9, "{}: {same} of {}", case["name"], found.len());
        }
    }
}

#[test]
fn what_is_inside_counts_before_what_is_outside_and_the_older_name_before_the_newer() {
    let check = |json: Value, expected: Value| {
        assert_eq!(rotation(json.clone(), 8).unwrap(), rotation(expected, 8).unwrap(), "{json}");
    };
    check(json!({}), json!({ "rope_theta": 10000, "rope_scaling": null }));
    check(json!({ "rope_theta": 5, "rope_parameters": { "rope_theta": 300.0 } }), json!({ "rope_theta": 300 }));
    check(
        json!({ "rope_theta": 7, "rope_scaling": { "type": "linear", "factor": 2 }, "rope_parameters": { "rope_theta": 3 } }),
        json!({ "rope_parameters": { "rope_theta": 7, "rope_type": "linear", "factor": 2 } }),
    );
    let llama3 = |original: Value| {
        json!({ "rope_scaling": { "rope_type": "llama3", "factor": 4, "low_freq_factor": 1,
                                                             "high_freq_factor": 4, "original_max_position_embeddings": original } })
    };
    check(llama3(Value::Null), llama3(json!(4096)));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let check = |json: Value, words: &[&str]| {
        let message = rotation(json.clone(), 8).expect_err("an error").to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{json}: {message}");
    };
    for kind in ["su", "mrope", "proportional"] {
        check(json!({ "rope_scaling": { "type": kind, "factor": 2.0 } }), &["rope_scaling", kind, "not supported"]);
    }
    check(json!({ "rope_parameters": { "rope_type": "linear" } }), &["`factor`", "`rope_parameters`", "found none"]);
    check(json!({ "rope_scaling": { "type": "linear", "factor": 0 } }), &["`factor`", "found 0"]);
    check(json!({ "rope_scaling": { "type": "linear", "factor": "x" } }), &["rope_scaling", "x"]);
    check(json!({ "rope_scaling": { "rope_type": "default", "beta_fast": 32 } }), &["`beta_fast`", "`rope_scaling`"]);
    check(json!({ "rope_scaling": { "type": "linear", "factor": 2, "beta_slow": 1 } }), &["`beta_slow`", "linear"]);
    check(json!({ "rope_scaling": { "type": "dynamic" } }), &["`factor`", "found none"]);
    let yarn = |key: &str, value: Value| json!({ "rope_scaling": { "type": "yarn", "factor": 2, key: value } });
    check(yarn("beta_fast", json!(0.5)), &["`beta_fast`", "0.5"]);
    check(yarn("beta_slow", json!(-1)), &["`beta_slow`", "-1"]);
    check(yarn("attention_factor", json!(0)), &["`attention_factor`", "found 0"]);
    check(yarn("original_max_position_embeddings", json!(0)), &["`original_max_position_embeddings`", "found 0"]);
    check(yarn("mscale", json!("x")), &["rope_scaling", "x"]);
    check(yarn("short_factor", json!([1])), &["`short_factor`", "yarn"]);
    let long = |short: Value| json!({ "rope_scaling": { "type": "longrope", "short_factor": short, "long_factor": [1, 1, 1, 1] } });
    check(long(json!([1, 1, 1])), &["4 numbers in `short_factor`", "found 3"]);
    check(long(json!([1, 1, 1, 0])), &["`short_factor`", "found 0"]);
    check(long(json!(null)), &["`short_factor`", "found 0"]);
    check(json!({ "rope_parameters": { "full_attention": { "rope_type": "default" } } }), &["`full_attention`"]);
    check(json!({ "rope_theta": 0 }), &["`rope_theta`", "found 0"]);
    check(json!({ "partial_rotary_factor": 0.5 }), &["`partial_rotary_factor`", "0.5"]);
    let llama3 = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1 });
    check(json!({ "rope_scaling": llama3 }), &["`high_freq_factor`", "1 and 4"]);
    let error = rotation(json!({}), 7).expect_err("an odd head").to_string();
    assert!(error.contains("`head_dim`") && error.contains('7'), "{error}");
}
