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
                "dynamic scaling",
                |f| rope(f, json!({ "type": "dynamic", "factor": 2 })),
                &["`dynamic`", "not supported"],
            ),
            ("YaRN", |f| rope(f, json!({ "rope_type": "yarn", "factor": 2 })), &["`yarn`", "llama3"]),
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
                &["`sliding_attention`", "`use_sliding_window`"],
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
