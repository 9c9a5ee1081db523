//! config.json of Llama, Mistral and Qwen: what contradicts itself or asks for too much is refused by name.

use std::path::Path;

use serde_json::{Value, json};

use crate::damage::{check_damage, edit_weights, set};

fn rope(folder: &Path, value: Value) {
    set(folder, "rope_scaling", value);
}

#[test]
fn a_damaged_config_of_llama_is_told_with_what_was_expected() {
    check_damage(
        "llama/base",
        &[
            ("no heads", |f| set(f, "num_attention_heads", json!(0)), &["`num_attention_heads`", "found 0"]),
            ("no key heads", |f| set(f, "num_key_value_heads", json!(0)), &["`num_key_value_heads`", "found 0"]),
            (
                "key heads that do not divide",
                |f| set(f, "num_key_value_heads", json!(3)),
                &["multiple of `num_key_value_heads`", "4 and 3"],
            ),
            (
                "heads that do not divide",
                |f| {
                    set(f, "num_attention_heads", json!(5));
                    set(f, "num_key_value_heads", json!(5));
                },
                &["`hidden_size` to be a multiple", "32 and 5"],
            ),
            ("an odd head", |f| set(f, "head_dim", json!(7)), &["even `head_dim`", "found 7"]),
            ("a head of nothing", |f| set(f, "head_dim", json!(0)), &["`head_dim`", "found 0"]),
            ("a head without end", |f| set(f, "head_dim", json!(4_000_000_000_u64)), &["at most 65536", "4000000000"]),
            ("a width without end", |f| set(f, "hidden_size", json!(4_000_000_000_u64)), &["heads", "1000000000"]),
            ("another head", |f| set(f, "head_dim", json!(10)), &["self_attn.q_proj.weight", "[40, 32]", "[32, 32]"]),
            ("another width", |f| set(f, "hidden_size", json!(64)), &["embed_tokens.weight", "[101, 64]"]),
            ("an inner width of 0", |f| set(f, "intermediate_size", json!(0)), &["`intermediate_size`", "found 0"]),
            ("half a layer", |f| set(f, "num_hidden_layers", json!(1.5)), &["num_hidden_layers", "1.5"]),
            (
                "layers without end",
                |f| set(f, "num_hidden_layers", json!(4_000_000_000_u64)),
                &["layers.2.", "missing"],
            ),
            (
                "positions without end",
                |f| set(f, "max_position_embeddings", json!(4_000_000_000_u64)),
                &["`max_position_embeddings`", "4000000000"],
            ),
            ("an unknown activation", |f| set(f, "hidden_act", json!("foo\u{1b}")), &["`hidden_act`", "foo\\u{1b}"]),
            ("a negative epsilon", |f| set(f, "rms_norm_eps", json!(-1)), &["`rms_norm_eps`", "-1"]),
            ("biases that are absent", |f| set(f, "attention_bias", json!(true)), &["q_proj.bias", "missing"]),
            ("inner biases that are absent", |f| set(f, "mlp_bias", json!(true)), &["gate_proj.bias", "missing"]),
            (
                "a separate head that is absent",
                |f| edit_weights(f, |tensors| drop(tensors.remove("lm_head.weight"))),
                &["lm_head.weight", "missing"],
            ),
            ("no theta", |f| set(f, "rope_theta", json!(0)), &["`rope_theta`", "found 0"]),
            (
                "scaling of another kind",
                |f| rope(f, json!({ "type": "mrope", "factor": 2 })),
                &["`mrope`", "not supported", "longrope"],
            ),
            ("YaRN of nothing", |f| rope(f, json!({ "rope_type": "yarn", "factor": 0 })), &["`factor`", "found 0"]),
            (
                "LongRoPE of too few",
                |f| rope(f, json!({ "rope_type": "longrope", "short_factor": [1], "long_factor": [1] })),
                &["4 numbers in `long_factor`", "found 1"],
            ),
            ("scaling by nothing", |f| rope(f, json!({ "type": "linear" })), &["`factor`", "found none"]),
            ("scaling as a word", |f| rope(f, json!("linear")), &["`rope_scaling`", "linear"]),
            ("an unknown field", |f| rope(f, json!({ "type": "default", "x": 1 })), &["`x`", "`rope_scaling`"]),
            ("half of a head", |f| set(f, "partial_rotary_factor", json!(0.5)), &["`partial_rotary_factor`", "0.5"]),
            (
                "quantised by others",
                |f| set(f, "quantization_config", json!({ "quant_method": "gptq", "bits": 4 })),
                &["`quantization_config`", "`gptq`"],
            ),
        ],
    );
}

#[test]
fn windows_that_cannot_be_are_told() {
    check_damage(
        "mistral/window",
        &[
            ("a window of nothing", |f| set(f, "sliding_window", json!(0)), &["`sliding_window`", "found 0"]),
            ("a window of -1", |f| set(f, "sliding_window", json!(-1)), &["`sliding_window`", "-1"]),
            ("layers of kinds", |f| set(f, "layer_types", json!(["full_attention"])), &["`layer_types`"]),
        ],
    );
    check_damage(
        "qwen3/window",
        &[
            ("too few kinds", |f| set(f, "layer_types", json!(["full_attention"])), &["3 `layer_types`", "found 1"]),
            (
                "an unknown kind",
                |f| set(f, "layer_types", json!(["full_attention", "linear_attention", "full_attention"])),
                &["`linear_attention`", "`sliding_attention`"],
            ),
            (
                "kinds without a window",
                |f| set(f, "use_sliding_window", json!(false)),
                &["`sliding_attention`", "`sliding_window`"],
            ),
            ("a window of nothing", |f| set(f, "sliding_window", json!(0)), &["`sliding_window`", "found 0"]),
            (
                "no norm of keys",
                |f| edit_weights(f, |tensors| drop(tensors.remove("model.layers.1.self_attn.k_norm.weight"))),
                &["layers.1.self_attn.k_norm.weight", "missing"],
            ),
        ],
    );
}

#[test]
fn what_the_relatives_of_llama_do_not_do_is_refused_by_name() {
    let absent = json!(null);
    let cases: &[(&str, &str, Value, &[&str])] = &[
        ("gemma/base", "use_bidirectional_attention", json!(true), &["`use_bidirectional_attention`"]),
        ("gemma/base", "hidden_act", json!("foo"), &["`hidden_act`", "foo"]),
        ("gemma/base", "attention_bias", json!(true), &["q_proj.bias", "missing"]),
        ("gemma2/base", "hidden_activation", json!("foo"), &["`hidden_activation`", "foo"]),
        ("gemma2/base", "use_bidirectional_attention", json!(true), &["`use_bidirectional_attention`"]),
        ("gemma2/base", "attn_logit_softcapping", json!(0), &["`attn_logit_softcapping`", "found 0"]),
        ("gemma2/base", "final_logit_softcapping", json!(-1), &["`final_logit_softcapping`", "-1"]),
        ("gemma2/base", "query_pre_attn_scalar", json!(0), &["`query_pre_attn_scalar`", "found 0"]),
        ("gemma2/base", "sliding_window", json!(0), &["`sliding_window`", "found 0"]),
        ("gemma2/base", "layer_types", json!(["full_attention"]), &["3 `layer_types`", "found 1"]),
        ("gemma2/types", "sliding_window", absent.clone(), &["`sliding_attention`", "`sliding_window`"]),
        ("gemma3_text/base", "use_bidirectional_attention", json!(true), &["`use_bidirectional_attention`"]),
        ("gemma3_text/base", "attn_logit_softcapping", json!(50), &["`attn_logit_softcapping`"]),
        ("gemma3_text/base", "sliding_window_pattern", json!(0), &["`sliding_window_pattern`", "found 0"]),
        ("gemma3_text/base", "rope_scaling", json!("linear"), &["`rope_scaling`", "linear"]),
        ("gemma3_text/base", "rope_local_base_freq", json!(0), &["`rope_theta`", "found 0"]),
        ("gemma3_text/base", "rope_parameters", json!({ "rope_theta": 5 }), &["`rope_parameters`", "kind of layer"]),
        ("gemma3/base", "text_config", json!(7), &["`text_config`", "found 7"]),
        (
            "gemma3/base",
            "text_config",
            json!({ "final_logit_softcapping": 30 }),
            &["`final_logit_softcapping`", "`gemma3`"],
        ),
        ("phi3/base", "attention_bias", json!(true), &["`attention_bias`", "phi3"]),
        ("phi3/base", "mlp_bias", json!(true), &["`mlp_bias`", "phi3"]),
        ("phi3/base", "lm_head_bias", json!(true), &["`lm_head_bias`", "phi3"]),
        ("phi3/base", "rope_scaling", json!({ "type": "linear", "factor": 2 }), &["`linear`", "longrope"]),
        ("phi3/base", "partial_rotary_factor", json!(0), &["`partial_rotary_factor`", "found 0"]),
        ("phi3/base", "partial_rotary_factor", json!(0.8), &["`partial_rotary_factor`", "3 of 4"]),
        ("phi3/base", "head_dim", json!(4_000_000_000_u64), &["at most 65536", "4000000000"]),
        ("gemma3_text/base", "head_dim", json!(4_000_000_000_u64), &["at most 65536", "4000000000"]),
        ("phi3/base", "sliding_window", json!(0), &["`sliding_window`", "found 0"]),
        ("phi3/long", "partial_rotary_factor", json!(1), &["4 numbers in `long_factor`", "found 3"]),
        ("olmo2/base", "clip_qkv", json!(8), &["`clip_qkv`", "olmo2"]),
        ("granite/base", "embedding_multiplier", json!(0), &["`embedding_multiplier`", "found 0"]),
        ("granite/base", "attention_multiplier", json!(-1), &["`attention_multiplier`", "-1"]),
        ("granite/base", "residual_multiplier", json!(0), &["`residual_multiplier`", "found 0"]),
        ("granite/base", "logits_scaling", json!(0), &["`logits_scaling`", "found 0"]),
        ("smollm3/base", "no_rope_layer_interval", json!(0), &["`no_rope_layer_interval`", "found 0"]),
        ("smollm3/window", "no_rope_layers", json!([0, 1]), &["3 `no_rope_layers`", "found 2"]),
        ("smollm3/types", "use_sliding_window", json!(false), &["`sliding_attention`", "`sliding_window`"]),
        ("mixtral/base", "num_experts_per_tok", json!(6), &["`num_experts_per_tok`", "1 to 5", "found 6"]),
        ("mixtral/base", "num_local_experts", json!(0), &["`num_local_experts`", "found 0"]),
        ("mixtral/base", "num_local_experts", json!(6), &["experts.5.w1.weight", "missing"]),
        ("mixtral/window", "sliding_window", json!(0), &["`sliding_window`", "found 0"]),
        ("qwen3_moe/base", "decoder_sparse_step", json!(0), &["`decoder_sparse_step`", "found 0"]),
        ("qwen3_moe/base", "moe_intermediate_size", json!(0), &["`moe_intermediate_size`", "found 0"]),
        ("qwen3_moe/base", "mlp_only_layers", json!([0, 1]), &["layers.1.mlp.gate_proj.weight", "missing"]),
        ("qwen3_moe/window", "sliding_window", json!(0), &["`sliding_window`", "found 0"]),
    ];
    for (model, key, value, words) in cases {
        let folder = crate::support::copy_of(&crate::support::fixture(model));
        crate::support::write_tokenizer(folder.path());
        set(folder.path(), key, value.clone());
        let error = fireside::Engine::load(&crate::support::name_of(folder.path())).err();
        let message = error.unwrap_or_else(|| panic!("{model} with `{key}` {value} was loaded")).to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{model} with `{key}` {value}: {message}");
    }
}

#[test]
fn special_tokens_behind_the_vocabulary_are_known_and_refused_in_a_prompt() {
    let folder = crate::support::copy_of(&crate::support::fixture("gemma3_text/base"));
    crate::support::write_tokenizer(folder.path());
    let name = crate::support::name_of(folder.path());
    let add = |special: bool| {
        let token = json!([{ "id": 53, "content": "<image>", "single_word": false, "lstrip": false, "rstrip": false,
                             "normalized": false, "special": special }]);
        crate::damage::edit_json(folder.path(), "tokenizer.json", |tokenizer| {
            tokenizer["added_tokens"] = token;
            for id in 10..53 {
                tokenizer["model"]["vocab"][format!("k{id}")] = json!(id);
            }
        });
    };
    add(true);
    let mut engine = fireside::Engine::load(&name).expect("a model");
    assert!(engine.logits("abc").is_ok());
    let error = engine.logits("abc<image>").expect_err("no row of the table").to_string();
    assert!(error.contains("token 53") && error.contains("below 53"), "{error}");
    add(false);
    let error = fireside::Engine::load(&name).expect_err("a token of another model").to_string();
    assert!(error.contains("vocabulary of 53") && error.contains("token 53"), "{error}");
}
