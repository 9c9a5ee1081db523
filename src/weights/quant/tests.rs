//! Mixtures against what `llama-quantize` gives models of these shapes.

use super::*;

#[test]
fn names_are_read_back_and_others_refused_with_the_list() {
    for (name, quant) in NAMES.iter().chain(ALIASES) {
        assert_eq!(name.parse(), Ok(*quant));
        assert_eq!(name.to_uppercase().parse(), Ok(*quant));
        assert_eq!(quant.to_string().parse(), Ok(*quant));
    }
    for wrong in ["", "q9", "f16", "q4", "q4_k_l", "q4_k_m "] {
        let refused = wrong.parse::<Quant>().expect_err(wrong);
        assert!(NAMES.iter().all(|(name, _)| refused.contains(&format!("`{name}`"))), "{wrong}: {refused}");
    }
}

/// The formats of the tensors of each kind, from the first layer on, and of the table and the head.
fn check(quant: Quant, tensors: &[(String, Vec<usize>)], expected: &[(&str, &str)]) {
    let all = tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
    let mix = Mix::of(quant, all, false);
    for (kind, formats) in expected {
        let of_kind = tensors.iter().filter(|(name, _)| name.ends_with(&format!("{kind}.weight")));
        let names = of_kind.map(|(name, shape)| mix.of_tensor(name, shape).map_or("-", Format::name));
        let found: Vec<&str> = names.collect();
        assert_eq!(found.join(" "), *formats, "{quant} {kind}");
    }
}

fn gpt2(width: usize) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("transformer.wte.weight".to_owned(), vec![50257, width]),
        ("transformer.wpe.weight".to_owned(), vec![1024, width]),
    ];
    for layer in 0..12 {
        for (name, inputs, outputs) in [
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ] {
            tensors.push((format!("transformer.h.{layer}.{name}.weight"), vec![inputs, outputs]));
        }
    }
    tensors
}

fn llama(layers: usize, width: usize, heads: (usize, usize), is_tied: IsTied) -> Vec<(String, Vec<usize>)> {
    let kv = width / heads.0 * heads.1;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![32000, width])];
    for layer in 0..layers {
        for (name, inputs, outputs) in [
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", width, kv),
            ("self_attn.v_proj", width, kv),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", width, width / 3 * 8),
            ("mlp.down_proj", width / 3 * 8, width),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![outputs, inputs]));
        }
    }
    if is_tied == IsTied::No {
        tensors.push(("lm_head.weight".to_owned(), vec![32000, width]));
    }
    tensors
}

#[derive(PartialEq)]
enum IsTied {
    Yes,
    No,
}

/// What `llama-quantize` gives models of these shapes, read from the files that it wrote.
#[test]
fn formats_are_mixed_as_by_the_reference() {
    let all = |format: &str| [format; 12].join(" ");
    let more = "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k q6_k";
    check(
        Quant::Q4KM,
        &gpt2(768),
        &[("wte", "q6_k"), ("wpe", "-"), ("c_attn", more), ("attn.c_proj", &all("q4_k")), ("mlp.c_proj", more)],
    );
    check(Quant::Q5KM, &gpt2(768), &[("wte", "q6_k"), ("c_attn", &more.replace("q4", "q5")), ("c_fc", &all("q5_k"))]);
    let first = "q5_k q5_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k q4_k";
    check(
        Quant::Q3KM,
        &gpt2(768),
        &[("c_attn", first), ("attn.c_proj", &all("q4_k")), ("mlp.c_proj", &all("q4_k")), ("c_fc", &all("q3_k"))],
    );
    check(
        Quant::Q2K,
        &gpt2(768),
        &[("wte", "q6_k"), ("c_attn", &all("q3_k")), ("attn.c_proj", &all("q3_k")), ("c_fc", &all("q2_k"))],
    );
    let first = all("iq4_nl").replacen("iq4_nl", "q5_k", 1);
    check(Quant::Iq4Nl, &gpt2(768), &[("wte", "q6_k"), ("c_attn", &all("iq4_nl")), ("mlp.c_proj", &first)]);
    check(Quant::Q4_0, &gpt2(768), &[("wte", "q6_k"), ("wpe", "-"), ("c_attn", &all("q4_0"))]);
    check(Quant::Q8_0, &gpt2(768), &[("wte", "q8_0"), ("wpe", "-"), ("mlp.c_proj", &all("q8_0"))]);
    check(Quant::Mxfp4, &gpt2(768), &[("wte", "q8_0"), ("mlp.c_proj", &all("mxfp4"))]);
    // Mistral's shape with four layers, whose head is its own.
    check(
        Quant::Q4KM,
        &llama(4, 4608, (32, 8), IsTied::No),
        &[
            ("embed_tokens", "q4_k"),
            ("lm_head", "q6_k"),
            ("q_proj", "q4_k q4_k q4_k q4_k"),
            ("v_proj", "q4_k q4_k q6_k q6_k"),
            ("down_proj", "q4_k q4_k q6_k q6_k"),
            ("gate_proj", "q4_k q4_k q4_k q4_k"),
        ],
    );
    check(Quant::Q2K, &llama(2, 4608, (32, 8), IsTied::No), &[("v_proj", "q4_k q4_k"), ("embed_tokens", "q2_k")]);
    check(Quant::Iq4Nl, &llama(2, 4608, (32, 8), IsTied::No), &[("v_proj", "q5_k q5_k")]);
}

/// Names of other architectures: what each matrix gets in the first layer, which is among those that get more.
#[test]
fn names_of_every_architecture_have_their_roles() {
    let check = |head: &str, table: &str, matrices: &[(&str, [usize; 2], &str)]| {
        let mut tensors =
            vec![(format!("{table}.weight"), vec![1000, 512]), (format!("{head}.weight"), vec![1000, 512])];
        tensors.push(("word_embeddings_layernorm.weight".to_owned(), vec![512])); // which Bloom has and Falcon has not
        for layer in 0..8 {
            let named = matrices.iter().map(|(name, shape, _)| (format!("h.{layer}.{name}.weight"), shape.to_vec()));
            tensors.extend(named);
        }
        let mix = Mix::of(Quant::Q2K, tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..])), false);
        let format = |name: &str, shape: &[usize]| mix.of_tensor(name, shape).map_or("-", Format::name);
        assert_eq!(format(&tensors[0].0, &tensors[0].1), "q2_k", "{table}");
        assert_eq!(format(&tensors[1].0, &tensors[1].1), "q6_k", "{head}");
        for (name, shape, expected) in matrices {
            assert_eq!(format(&format!("h.0.{name}.weight"), shape), *expected, "{name}");
        }
    };
    let fused = |attention: &str| {
        check(
            "embed_out",
            "gpt_neox.embed_in",
            &[
                (&format!("{attention}.query_key_value"), [1536, 512], "q3_k"),
                (&format!("{attention}.dense"), [512, 512], "q3_k"),
                ("mlp.dense_h_to_4h", [2048, 512], "q2_k"),
                ("mlp.dense_4h_to_h", [512, 2048], "q3_k"),
            ],
        );
    };
    fused("attention");
    fused("self_attention");
    let apart = |output: &str, up: &str, down: &str| {
        let matrices = [
            ("attn.q_proj", [512, 512], "q2_k"),
            ("attn.v_proj", [512, 512], "q3_k"),
            (output, [512, 512], "q3_k"),
            (up, [768, 512], "q2_k"),
            (down, [512, 768], "q3_k"),
        ];
        check("lm_head", "transformer.wte", &matrices);
    };
    apart("attn.out_proj", "mlp.fc_in", "mlp.fc_out"); // GPT-J
    apart("attn.attention.out_proj", "mlp.c_fc", "mlp.c_proj"); // GPT-Neo
    apart("self_attn.out_proj", "fc1", "fc2"); // OPT
    apart("self_attn.dense", "mlp.fc1", "mlp.fc2"); // Phi
    apart("self_attn.o_proj", "mlp.c_fc", "mlp.c_proj"); // StarCoder2
    // Rows of GPT-Neo's `c_proj` are its inputs, though GPT-2's are its outputs.
    let tensors = [("h.0.attn.attention.v_proj.weight", vec![512, 512]), ("h.0.mlp.c_proj.weight", vec![512, 800])];
    let mix = Mix::of(Quant::Q2K, tensors.iter().map(|(name, shape)| (*name, &shape[..])), false);
    assert_eq!(mix.of_tensor(tensors[1].0, &tensors[1].1), Some(Format::Q4_0));
}

/// As llama-quantize has it: more for the head and less for the ways out; queries that share keys are told by the shapes.
#[test]
fn falcon_is_mixed_otherwise() {
    let mut tensors = vec![("transformer.word_embeddings.weight".to_owned(), vec![1000, 256])];
    for layer in 0..16 {
        for (name, outputs, inputs) in [
            ("self_attention.query_key_value", 384, 256),
            ("self_attention.dense", 256, 256),
            ("mlp.dense_4h_to_h", 256, 1024),
        ] {
            tensors.push((format!("transformer.h.{layer}.{name}.weight"), vec![outputs, inputs]));
        }
    }
    let down = "q6_k q5_k q4_k q4_k q5_k q4_k q4_k q5_k q4_k q4_k q5_k q4_k q4_k q5_k q5_k q5_k";
    check(Quant::Q4KM, &tensors, &[("word_embeddings", "q8_0"), ("4h_to_h", down)]);
    check(
        Quant::Q2K,
        &tensors,
        &[("query_key_value", &["q4_k"; 16].join(" ")), ("attention.dense", &["q2_k"; 16].join(" "))],
    );
    check(Quant::Iq4Nl, &tensors, &[("query_key_value", &["q5_k"; 16].join(" "))]);
}

/// The kinds of tensors in a GGUF file, their names in a model's layer or outside of all, outputs and inputs; `{}` is an expert.
fn names_of(case: &serde_json::Value, head: usize, hidden: usize) -> Vec<(&'static str, &'static str, [usize; 2])> {
    let size = |name: &str| case[name].as_u64().expect("a size") as usize;
    let (q, kv, inner, experts) = (head * size("heads"), head * size("kv_heads"), size("inner"), size("experts"));
    let [gate, up, down, router] = match case["model"].as_str() {
        Some("qwen3_moe") => {
            ["mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj", "mlp.gate"]
        }
        Some("mixtral") => [
            "block_sparse_moe.experts.{}.w1",
            "block_sparse_moe.experts.{}.w3",
            "block_sparse_moe.experts.{}.w2",
            "block_sparse_moe.gate",
        ],
        _ => ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", ""],
    };
    let kinds = match experts {
        0 => ["ffn_gate", "ffn_up", "ffn_down"],
        _ => ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"],
    };
    vec![
        ("attn_q", "self_attn.q_proj", [q, hidden]),
        ("attn_k", "self_attn.k_proj", [kv, hidden]),
        ("attn_v", "self_attn.v_proj", [kv, hidden]),
        ("attn_output", "self_attn.o_proj", [hidden, q]),
        (kinds[0], gate, [inner, hidden]),
        (kinds[1], up, [inner, hidden]),
        (kinds[2], down, [hidden, inner]),
        ("ffn_gate_inp", router, [experts, hidden]),
    ]
}

/// Thirteen mixtures of nine models, most of them of experts, as llama-quantize wrote them; routers stay as they are.
#[test]
fn every_tensor_gets_the_format_that_the_reference_gives_it() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/mixtures.json");
    let file: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).unwrap();
    let size = |name: &str| file[name].as_u64().expect("a size") as usize;
    let (hidden, head, rows) = (size("hidden"), size("head"), size("rows"));
    let mut compared = 0;
    for case in file["cases"].as_array().expect("cases") {
        let [layers, experts] = ["layers", "experts"].map(|name| case[name].as_u64().expect("a size") as usize);
        // (kind, layer, name, shape)
        let mut tensors = vec![("token_embd", 0, "model.embed_tokens.weight".to_owned(), [rows, hidden])];
        if case["tied"] == false {
            tensors.push(("output", 0, "lm_head.weight".to_owned(), [rows, hidden]));
        }
        for layer in 0..layers {
            for (kind, name, shape) in names_of(case, head, hidden).into_iter().filter(|(_, name, _)| !name.is_empty())
            {
                for expert in 0..if name.contains("{}") { experts } else { 1 } {
                    let name = name.replace("{}", &expert.to_string());
                    tensors.push((kind, layer, format!("model.layers.{layer}.{name}.weight"), shape));
                }
            }
        }
        let kinds: std::collections::BTreeSet<&str> = tensors.iter().map(|(kind, ..)| *kind).collect();
        for (quant, formats) in case["formats"].as_object().expect("mixtures") {
            let all = tensors.iter().map(|(_, _, name, shape)| (name.as_str(), &shape[..]));
            let mix = Mix::of(quant.parse().expect("a mixture"), all, false);
            assert!(formats.as_object().is_some_and(|known| known.keys().eq(kinds.iter())), "{case}");
            for (kind, layer, name, shape) in &tensors {
                let runs = formats[*kind].as_str().expect("runs").split(' ');
                let all = runs.flat_map(|run| {
                    let (count, format) = run.split_once('*').expect("a number and a format");
                    std::iter::repeat_n(format, count.parse().expect("a number"))
                });
                let expected = all.skip(*layer).collect::<Vec<_>>()[0];
                let found = mix.of_tensor(name, shape).map_or("F32", Format::name);
                assert!(found.eq_ignore_ascii_case(expected), "{quant} {name}: {found} is not {expected} in {case}");
                compared += 1;
            }
        }
    }
    assert!(compared > 30_000, "{compared}");
}

/// SmolLM2's widths, 576 and 1536: not whole blocks of 256, and whole ones.
#[test]
fn rows_that_are_not_whole_blocks_get_the_next_format() {
    check(
        Quant::Q4KM,
        &llama(8, 576, (9, 3), IsTied::Yes),
        &[
            ("embed_tokens", "q8_0"),
            ("q_proj", "q5_0 q5_0 q5_0 q5_0 q5_0 q5_0 q5_0 q5_0"),
            ("v_proj", "q8_0 q5_0 q5_0 q8_0 q5_0 q5_0 q8_0 q8_0"),
            ("down_proj", "q6_k q4_k q4_k q6_k q4_k q4_k q6_k q6_k"),
        ],
    );
    check(Quant::Q5KS, &llama(1, 576, (9, 3), IsTied::Yes), &[("q_proj", "q5_1"), ("embed_tokens", "q8_0")]);
    check(Quant::Q2K, &llama(1, 576, (9, 3), IsTied::Yes), &[("gate_proj", "q4_0"), ("down_proj", "q3_k")]);
    // Rows of 304 are no blocks of any format.
    check(Quant::Q8_0, &gpt2(304), &[("wte", "-"), ("c_fc", &["-"; 12].join(" "))]);
    check(Quant::Q8_0, &gpt2(304), &[("mlp.c_proj", &["q8_0"; 12].join(" "))]);
}

#[test]
fn a_head_that_repeats_the_embedding_is_one_with_it() {
    let tensors = llama(2, 768, (12, 12), IsTied::No);
    let all = tensors.iter().map(|(name, shape)| (name.as_str(), &shape[..]));
    let format = |tied| Mix::of(Quant::Q4KM, all.clone(), tied).format("model.embed_tokens.weight", 768);
    assert_eq!((format(false), format(true)), (Some(Format::Q4K), Some(Format::Q6K)));
}
