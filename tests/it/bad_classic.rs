//! config.json of the architectures that keep GPT-2's layer norms: what contradicts itself or asks for too much is refused by
//! name.

use serde_json::json;

use crate::damage::{check_damage, edit_weights, set};

#[test]
fn a_damaged_config_of_gpt_neox_is_told_with_what_was_expected() {
    check_damage(
        "gpt_neox/base",
        &[
            ("no vocabulary", |f| set(f, "vocab_size", json!(0)), &["`vocab_size`", "found 0"]),
            ("no heads", |f| set(f, "num_attention_heads", json!(0)), &["`num_attention_heads`", "24 and 0"]),
            (
                "heads that do not divide",
                |f| set(f, "num_attention_heads", json!(5)),
                &["`hidden_size` to be a multiple of `num_attention_heads`", "24 and 5"],
            ),
            (
                "a width without end",
                |f| set(f, "hidden_size", json!(3_000_000_000_u64)),
                &["at most 65536", "1000000000"],
            ),
            ("a width beyond that", |f| set(f, "hidden_size", json!(u64::MAX)), &["`hidden_size`"]),
            ("another width", |f| set(f, "hidden_size", json!(48)), &["embed_in.weight", "[43, 48]", "[43, 24]"]),
            ("another inner width", |f| set(f, "intermediate_size", json!(31)), &["dense_h_to_4h.weight", "[31, 24]"]),
            (
                "positions without end",
                |f| set(f, "max_position_embeddings", json!(4_000_000_000_u64)),
                &["`max_position_embeddings`", "4000000000"],
            ),
            (
                "layers without end",
                |f| set(f, "num_hidden_layers", json!(4_000_000_000_u64)),
                &["layers.2.", "missing"],
            ),
            ("an unknown activation", |f| set(f, "hidden_act", json!("foo")), &["`hidden_act`", "`foo`", "gelu_new"]),
            ("a negative epsilon", |f| set(f, "layer_norm_eps", json!(-1)), &["`layer_norm_eps`", "-1"]),
            ("an odd part of a head", |f| set(f, "rotary_pct", json!(0.4)), &["`partial_rotary_factor`", "3 of 8"]),
            ("more than a head", |f| set(f, "rotary_pct", json!(1.5)), &["`partial_rotary_factor`", "1.5"]),
            ("no theta", |f| set(f, "rotary_emb_base", json!(0)), &["`rope_theta`", "found 0"]),
            (
                "an unknown scaling",
                |f| set(f, "rope_scaling", json!({ "type": "stretched", "factor": 2 })),
                &["`stretched`", "not supported"],
            ),
            (
                "no head",
                |f| edit_weights(f, |tensors| drop(tensors.remove("embed_out.weight"))),
                &["embed_out.weight", "missing"],
            ),
            (
                "a bias that is absent",
                |f| edit_weights(f, |tensors| drop(tensors.remove("gpt_neox.layers.1.attention.dense.bias"))),
                &["gpt_neox.layers.1.attention.dense.bias", "missing"],
            ),
            (
                "quantised by others",
                |f| set(f, "quantization_config", json!({ "quant_method": "gptq", "bits": 4 })),
                &["`quantization_config`", "`gptq`"],
            ),
        ],
    );
}

#[test]
fn switches_of_the_gpts_that_cannot_be_are_told() {
    check_damage(
        "gptj/base",
        &[
            ("no part of a head", |f| set(f, "rotary_dim", json!(0)), &["`rotary_dim`", "found 0"]),
            ("an odd part", |f| set(f, "rotary_dim", json!(3)), &["even `rotary_dim`", "found 3"]),
            ("more than a head", |f| set(f, "rotary_dim", json!(10)), &["`rotary_dim`", "the 8 numbers", "found 10"]),
            ("all of it", |f| set(f, "rotary_dim", json!(null)), &["`rotary_dim` of null"]),
            ("no inner width", |f| set(f, "n_inner", json!(0)), &["`n_inner`", "found 0"]),
            ("heads that do not divide", |f| set(f, "n_head", json!(3)), &["`n_embd`", "`n_head`", "16 and 3"]),
            ("another spelling", |f| set(f, "n_positions", json!(0)), &["`n_positions`", "found 0"]),
            (
                "no bias of the head",
                |f| edit_weights(f, |tensors| drop(tensors.remove("lm_head.bias"))),
                &["lm_head.bias", "missing"],
            ),
        ],
    );
    check_damage(
        "gpt_neo/base",
        &[
            ("a window of nothing", |f| set(f, "window_size", json!(0)), &["`window_size`", "found 0"]),
            (
                "an unknown kind of layer",
                |f| set(f, "attention_types", json!([[["global", "linear"], 1]])),
                &["`attention_types`", "`linear`"],
            ),
            (
                "too few kinds",
                |f| set(f, "attention_types", json!([[["global"], 1]])),
                &["`attention_types`", "the 2 layers", "for 1"],
            ),
            (
                "kinds without end",
                |f| set(f, "attention_types", json!([[["global", "local"], u64::MAX], [[], u64::MAX]])),
                &["`attention_types`", "the 2 layers"],
            ),
            ("kinds as a word", |f| set(f, "attention_types", json!("global")), &["attention_types", "global"]),
            (
                "too few layers",
                |f| set(f, "attention_layers", json!(["local"])),
                &["`attention_layers`", "the 2 layers", "for 1"],
            ),
            ("an unknown kind", |f| set(f, "attention_layers", json!(["local", "x"])), &["`attention_layers`", "`x`"]),
            (
                "two values of one field",
                |f| set(f, "num_hidden_layers", json!(3)),
                &["`num_hidden_layers` is `3`", "`num_layers`", "`2`"],
            ),
        ],
    );
    check_damage(
        "opt/norms_last",
        &[
            ("no table", |f| set(f, "word_embed_proj_dim", json!(0)), &["`word_embed_proj_dim`", "found 0"]),
            ("another table", |f| set(f, "word_embed_proj_dim", json!(16)), &["embed_tokens.weight", "[43, 16]"]),
            ("no inner width", |f| set(f, "ffn_dim", json!(0)), &["`ffn_dim`", "found 0"]),
            (
                "norms first",
                |f| set(f, "do_layer_norm_before", json!(true)),
                &["decoder.final_layer_norm.weight", "missing"],
            ),
            (
                "a short table of positions",
                |f| set(f, "max_position_embeddings", json!(81)),
                &["embed_positions.weight", "[83, 16]", "[82, 16]"],
            ),
        ],
    );
}

#[test]
fn switches_of_bloom_falcon_and_later_ones_that_cannot_be_are_told() {
    check_damage(
        "bloom/base",
        &[
            ("no positions", |f| set(f, "seq_length", json!(0)), &["`seq_length`", "found 0"]),
            ("heads that do not divide", |f| set(f, "n_head", json!(3)), &["`hidden_size`", "`n_head`", "16 and 3"]),
            ("the older name", |f| set(f, "n_embed", json!(32)), &["word_embeddings.weight", "[43, 32]"]),
        ],
    );
    check_damage(
        "falcon/groups",
        &[
            (
                "key heads that do not divide",
                |f| set(f, "num_kv_heads", json!(4)),
                &["`num_attention_heads`", "`num_kv_heads`", "6 and 4"],
            ),
            (
                "halves one after the other",
                |f| set(f, "parallel_attn", json!(false)),
                &["`parallel_attn`", "`new_decoder_architecture`"],
            ),
            (
                "three norms",
                |f| set(f, "num_ln_in_parallel_attn", json!(3)),
                &["`num_ln_in_parallel_attn`", "3", "1 or 2"],
            ),
            ("one norm", |f| set(f, "num_ln_in_parallel_attn", json!(1)), &["input_layernorm.weight", "missing"]),
            ("no inner width", |f| set(f, "ffn_hidden_size", json!(0)), &["`ffn_hidden_size`", "found 0"]),
            ("an unknown activation", |f| set(f, "activation", json!("foo")), &["`activation`", "`foo`"]),
        ],
    );
    check_damage(
        "falcon/heads",
        &[
            ("few key heads", |f| set(f, "num_kv_heads", json!(1)), &["`num_kv_heads` of 2", "found 1"]),
            (
                "two norms",
                |f| set(f, "num_ln_in_parallel_attn", json!(2)),
                &["`num_ln_in_parallel_attn`", "without `new_decoder_architecture`"],
            ),
        ],
    );
    check_damage(
        "phi/switches",
        &[
            ("another part", |f| set(f, "partial_rotary_factor", json!(0.2)), &["`partial_rotary_factor`", "1 of 8"]),
            ("key heads that do not divide", |f| set(f, "num_key_value_heads", json!(3)), &["4 and 3"]),
            (
                "no norm of keys",
                |f| edit_weights(f, |tensors| drop(tensors.remove("layers.1.self_attn.k_layernorm.bias"))),
                &["layers.1.self_attn.k_layernorm.bias", "missing"],
            ),
        ],
    );
    check_damage(
        "stablelm/parallel",
        &[
            (
                "no norm of one head",
                |f| {
                    edit_weights(f, |tensors| {
                        drop(tensors.remove("model.layers.0.self_attn.q_layernorm.norms.3.weight"))
                    })
                },
                &["q_layernorm.norms.3.weight", "missing"],
            ),
            ("biases that are absent", |f| set(f, "use_qkv_bias", json!(true)), &["q_proj.bias", "missing"]),
            (
                "halves one after the other",
                |f| set(f, "use_parallel_residual", json!(false)),
                &["post_attention_layernorm.weight", "missing"],
            ),
        ],
    );
    check_damage(
        "starcoder2/window",
        &[
            ("a window of nothing", |f| set(f, "sliding_window", json!(0)), &["`sliding_window`", "found 0"]),
            ("biases that are absent", |f| set(f, "use_bias", json!(true)), &["q_proj.bias", "missing"]),
            ("a negative epsilon", |f| set(f, "norm_epsilon", json!(-1)), &["`norm_epsilon`", "-1"]),
            ("half of a head", |f| set(f, "partial_rotary_factor", json!(0.5)), &["`partial_rotary_factor`", "0.5"]),
        ],
    );
}
