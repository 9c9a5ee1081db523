//! Logits against transformers, and the rule that a row's bits depend on that row alone.

use fireside::{Dtype, Engine, Prompt, Sampling};
use serde_json::json;

use tempfile::TempDir;

use crate::support::{copy_of, f32_of, fixture, i64_of, name_of, tensor, write_tokenizer};

/// Tiny random models: head counts, odd widths, name styles, tied and untied heads, shards, every switch of config.json.
/// `long` ones read 400 tokens, and those with a window more than it holds.
const MODELS: &[&str] = &[
    "gpt2/base",
    "gpt2/bare",
    "gpt2/odd",
    "gpt2/untied",
    "gpt2/sharded",
    "gpt2/switches",
    "gpt2/gelu",
    "gpt2/f16",
    "gpt2/bf16",
    "gpt_neox/base",
    "gpt_neox/serial",
    "gpt_neox/new",
    "gptj/base",
    "gptj/switches",
    "gpt_neo/base",
    "gpt_neo/long",
    "opt/base",
    "opt/norms_last",
    "opt/bare",
    "opt/no_final_norm",
    "bloom/base",
    "bloom/switches",
    "bloom/long",
    "falcon/base",
    "falcon/groups",
    "falcon/one_norm",
    "falcon/alibi",
    "falcon/heads",
    "phi/base",
    "phi/switches",
    "stablelm/base",
    "stablelm/biases",
    "stablelm/parallel",
    "starcoder2/base",
    "starcoder2/window",
    "starcoder2/long",
    "llama/base",
    "llama/old",
    "llama/one_key_head",
    "llama/llama3",
    "llama/biases",
    "llama/long",
    "llama/f16",
    "llama/bf16",
    "mistral/window",
    "mistral/long",
    "mistral/no_window",
    "qwen2/base",
    "qwen2/window",
    "qwen3/base",
    "qwen3/window",
    "llama/yarn",
    "mistral/yarn",
    "qwen3/yarn",
    "llama/dynamic",
    "llama/longrope",
    "gemma/base",
    "gemma/biases",
    "gemma2/base",
    "gemma2/types",
    "gemma2/long",
    "gemma2/usual",
    "gemma3_text/base",
    "gemma3_text/newer",
    "gemma3_text/usual",
    "gemma3/base",
    "gemma3/newer",
    "phi3/base",
    "phi3/long",
    "phi3/short",
    "olmo2/base",
    "olmo2/biases",
    "granite/base",
    "granite/biases",
    "smollm3/base",
    "smollm3/usual",
    "smollm3/window",
    "smollm3/types",
    "mixtral/base",
    "mixtral/window",
    "qwen3_moe/base",
    "qwen3_moe/usual",
    "qwen3_moe/window",
];

/// Those whose rows could come to depend on more than themselves: by windows, caps, positions or experts.
const TELLING: &[&str] = &[
    "gptj/base",
    "gpt_neo/long",
    "opt/norms_last",
    "bloom/long",
    "falcon/groups",
    "falcon/alibi",
    "stablelm/parallel",
    "llama/yarn",
    "llama/longrope",
    "gemma2/base",
    "gemma2/long",
    "gemma3_text/newer",
    "phi3/base",
    "phi3/long",
    "phi3/short",
    "olmo2/base",
    "granite/base",
    "smollm3/window",
    "mixtral/base",
    "qwen3_moe/base",
];

/// A tiny model in a folder of its own, with a tokenizer.
fn tiny(name: &str) -> TempDir {
    let folder = copy_of(&fixture(name));
    write_tokenizer(folder.path());
    folder
}

fn expected(name: &str) -> (Vec<u32>, Vec<f32>) {
    let file = fixture(&format!("{name}/expected.safetensors"));
    let (_, logits) = tensor(&file, "logits", f32_of);
    (ids_in(name, "input_ids"), logits)
}

fn ids_in(name: &str, tensor_name: &str) -> Vec<u32> {
    let (_, ids) = tensor(&fixture(&format!("{name}/expected.safetensors")), tensor_name, i64_of);
    ids.into_iter().map(|id| id as u32).collect()
}

#[test]
fn every_architecture_has_a_tiny_model() {
    for architecture in fireside::ARCHITECTURES {
        let prefix = format!("{}/", architecture.model_type);
        assert!(MODELS.iter().filter(|name| name.starts_with(&prefix)).count() >= 2, "{prefix}");
    }
    for name in MODELS {
        assert!(fixture(name).join("expected.safetensors").is_file(), "{name}");
    }
}

#[test]
fn logits_at_every_position_are_those_of_transformers() {
    for name in MODELS {
        let (ids, expected) = expected(name);
        let folder = tiny(name);
        let worst = |dtype: Option<Dtype>| {
            let builder = dtype.map_or_else(Engine::builder, |dtype| Engine::builder().dtype(dtype));
            let mut engine = builder.load(&name_of(folder.path())).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(engine.warnings(), [""; 0], "{name}");
            let logits = engine.logits(Prompt::Tokens(ids.clone())).unwrap();
            assert_eq!(logits.len(), expected.len(), "{name}");
            logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let exact = worst(widened(name));
        assert!(exact < 1e-4, "{name}: logits differ by up to {exact}");
    }
    // bf16 weights meet rounded activations: less is lost than where transformers keeps everything in bf16.
    for name in ["gpt2/bf16", "llama/bf16"] {
        let folder = tiny(name);
        let (ids, expected) = expected(name);
        let (_, theirs) = tensor(&fixture(&format!("{name}/expected.safetensors")), "bf16_error", f32_of);
        let logits = Engine::load(&name_of(folder.path())).unwrap().logits(Prompt::Tokens(ids)).unwrap();
        let ours = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(ours < theirs[0], "{name}: logits differ by up to {ours}, in transformers by {}", theirs[0]);
    }
}

/// The format in which a model is as exact as the expectation, where its own is not.
fn widened(name: &str) -> Option<Dtype> {
    name.ends_with("/bf16").then_some(Dtype::F32)
}

#[test]
fn the_likeliest_words_are_those_of_transformers() {
    for name in MODELS.iter().filter(|name| !name.starts_with("gpt2/")) {
        let folder = tiny(name);
        let builder = widened(name).map_or_else(Engine::builder, |dtype| Engine::builder().dtype(dtype));
        let mut engine = builder.load(&name_of(folder.path())).unwrap();
        let expected = ids_in(name, "greedy_ids");
        let sampling = Sampling { max_new_tokens: Some(expected.len()), ignore_eos: Some(true), ..Sampling::greedy() };
        let completion =
            engine.generate(ids_in(name, "greedy_prompt"), sampling).unwrap().completions().unwrap().remove(0);
        assert_eq!(completion.tokens, expected, "{name}");
    }
}

#[test]
fn candles_own_operations_agree_with_our_kernels() {
    let run = |kernels: &str| {
        let output = std::process::Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "models::logits_at_every_position_are_those_of_transformers"])
            .env("FIRESIDE_KERNELS", kernels)
            .output()
            .expect("the test runs");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for kernels in fireside::kernels::available().iter().map(|kernels| kernels.name()).chain(["candle"]) {
        let (passed, output) = run(kernels);
        assert!(passed && output.contains("1 passed"), "FIRESIDE_KERNELS={kernels}: {output}");
    }
    assert!(!run("none such").0, "the control must fail");
}

/// Logits as bits, so that equality means the same bits.
fn bits(engine: &mut Engine, ids: &[u32]) -> Vec<u32> {
    engine.logits(Prompt::Tokens(ids.to_vec())).unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn chunks_and_threads_do_not_change_a_bit() {
    let names = ["gpt2/base", "gpt2/odd", "gpt2/f16", "gpt2/bf16", "llama/base", "llama/one_key_head", "llama/long"];
    let others = ["llama/bf16", "mistral/window", "mistral/long", "qwen2/window", "qwen3/window"];
    for name in names.into_iter().chain(others).chain(TELLING.iter().copied()) {
        let (ids, _) = expected(name);
        let folder = tiny(name);
        let reference = bits(&mut Engine::builder().threads(1).load(&name_of(folder.path())).unwrap(), &ids);
        for threads in [1, 2, 3, 8] {
            for chunk in [1, 2, 7, 33, 256] {
                let mut engine =
                    Engine::builder().threads(threads).prefill_chunk(chunk).load(&name_of(folder.path())).unwrap();
                assert_eq!(bits(&mut engine, &ids), reference, "{name}: {threads} threads, chunks of {chunk}");
            }
        }
    }
}

/// In GGUF files a fused matrix has its queries, keys and values one after the other.
#[cfg(feature = "cli")]
#[test]
fn the_order_of_a_fused_matrix_does_not_change_a_bit() {
    use crate::damage::{edit_weights, set};
    for (name, n_heads, n_kv_heads) in [("gpt_neox/base", 3, 3), ("bloom/base", 4, 4), ("falcon/groups", 6, 2)] {
        let (ids, group) = (expected(name).0, n_heads / n_kv_heads);
        let folder = tiny(name);
        let reference = bits(&mut Engine::load(&name_of(folder.path())).unwrap(), &ids);
        let queries = (0..n_heads).map(|head| head + 2 * (head / group));
        let keys = (1..=n_kv_heads).map(|head| head * (group + 2) - 2);
        let places: Vec<usize> = queries.chain(keys.clone()).chain(keys.map(|key| key + 1)).collect();
        edit_weights(folder.path(), |tensors| {
            for tensor in
                tensors.iter_mut().filter(|(name, _)| name.contains("query_key_value")).map(|(_, tensor)| tensor)
            {
                let head = tensor.data.len() / places.len();
                let parts = places.iter().map(|place| &tensor.data[place * head..][..head]);
                tensor.data = parts.collect::<Vec<_>>().concat();
            }
        });
        assert_ne!(bits(&mut Engine::load(&name_of(folder.path())).unwrap(), &ids), reference, "{name}");
        set(folder.path(), "_qkv_order", json!("parts"));
        assert_eq!(bits(&mut Engine::load(&name_of(folder.path())).unwrap(), &ids), reference, "{name}");
    }
}

#[test]
fn neighbours_in_a_batch_do_not_change_a_bit() {
    for name in ["gpt2/base", "llama/llama3", "mistral/window", "qwen3/window"].iter().chain(TELLING) {
        let folder = tiny(name);
        let mut engine = Engine::load(&name_of(folder.path())).unwrap();
        let vocab = engine.info().vocab_size;
        let sampling = Sampling {
            max_new_tokens: Some(20),
            top_logprobs: Some(vocab),
            prompt_logprobs: Some(true),
            ..Sampling::greedy()
        };
        let prompts: Vec<Vec<u32>> =
            (1..33u32).map(|n| (0..n).map(|i| (i * i * 7 + n) % vocab as u32).collect()).collect();
        let alone: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                engine.generate(prompt.clone(), sampling.clone()).unwrap().completions().unwrap().remove(0).logprobs
            })
            .collect();
        for size in [2, 5, 32] {
            for group in prompts.chunks(size).zip(alone.chunks(size)) {
                let requests = group.0.iter().map(|prompt| (Prompt::Tokens(prompt.clone()), sampling.clone()));
                let together = engine.generate_batch(requests).unwrap().completions().unwrap();
                for (together, alone) in together.iter().zip(group.1) {
                    assert_eq!(&together.logprobs, alone, "{name}: batches of {size}");
                }
            }
        }
    }
}

/// The model's positions are turned otherwise behind 48 tokens, so its cache is emptied there and the text read again.
#[test]
fn a_text_that_grows_past_the_border_is_as_if_it_had_been_read_at_once() {
    let folder = tiny("phi3/long");
    let load =
        |threads, chunk| Engine::builder().threads(threads).prefill_chunk(chunk).load(&name_of(folder.path())).unwrap();
    let mut engine = load(1, 256);
    let vocab = engine.info().vocab_size;
    let sampling = |new, lookup| Sampling {
        max_new_tokens: Some(new),
        ignore_eos: Some(true),
        top_logprobs: Some(vocab),
        prompt_lookup_num_tokens: lookup,
        ..Sampling::greedy()
    };
    let run = |engine: &mut Engine, prompt: &[u32], sampling: Sampling| {
        engine.generate(prompt.to_vec(), sampling).unwrap().completions().unwrap().remove(0)
    };
    let prompt = ids_in("phi3/long", "greedy_prompt");
    let whole = run(&mut engine, &prompt, sampling(48, None));
    let all: Vec<u32> = prompt.iter().chain(&whole.tokens).copied().collect();
    assert!(prompt.len() < 47 && all.len() > 50, "the text passes the border");
    for (step, logprob) in whole.logprobs.iter().enumerate() {
        let once = run(&mut engine, &all[..prompt.len() + step], sampling(1, None));
        assert_eq!(once.logprobs.first(), Some(logprob), "after {} tokens", prompt.len() + step);
    }
    for (threads, chunk) in [(1, 1), (2, 7), (3, 33), (1, 48)] {
        let mut engine = load(threads, chunk);
        for lookup in [None, Some(3)] {
            let found = run(&mut engine, &prompt, sampling(48, lookup));
            assert_eq!(found.logprobs, whole.logprobs, "{threads} threads, chunks of {chunk}, lookup {lookup:?}");
        }
        // Beside texts that are on either side of it.
        let prompts = [all[..20].to_vec(), prompt.clone(), all[..60].to_vec(), all[..46].to_vec()];
        let requests = prompts.iter().map(|prompt| (Prompt::Tokens(prompt.clone()), sampling(20, None)));
        let together = engine.generate_batch(requests).unwrap().completions().unwrap();
        for (prompt, together) in prompts.iter().zip(together) {
            let alone = run(&mut engine, prompt, sampling(20, None));
            assert_eq!(together.logprobs, alone.logprobs, "{} tokens, chunks of {chunk}", prompt.len());
        }
        let beams = |engine: &mut Engine| {
            let sampling = Sampling { num_beams: Some(3), top_logprobs: Some(2), ..sampling(30, None) };
            run(engine, &prompt, sampling)
        };
        assert_eq!(beams(&mut engine).logprobs, beams(&mut load(1, 256)).logprobs, "beams, chunks of {chunk}");
    }
}

#[test]
fn narrower_weights_on_request_stay_within_their_rounding() {
    let (ids, expected) = expected("gpt2/base");
    let folder = tiny("gpt2/base");
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    for (dtype, bound) in [(Dtype::F32, 1e-4), (Dtype::F16, 0.01 * largest), (Dtype::Bf16, 0.08 * largest)] {
        let mut engine = Engine::builder().dtype(dtype).load(&name_of(folder.path())).unwrap();
        let logits = engine.logits(Prompt::Tokens(ids.clone())).unwrap();
        let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < bound, "{dtype:?}: logits differ by up to {worst}, the largest is {largest}");
        assert!(dtype == Dtype::F32 || worst > 1e-4, "{dtype:?} was not applied");
    }
}

/// The tensors of the 124M shape, by the generator that `tests/oracle/part_full_size.py` defines.
fn full_size_tensors() -> Vec<(String, Vec<usize>)> {
    const DIM: usize = 768;
    let mut tensors = vec![("wte.weight".to_owned(), vec![50257, DIM]), ("wpe.weight".to_owned(), vec![1024, DIM])];
    for layer in 0..12 {
        let mut add = |name: &str, shape: &[usize]| tensors.push((format!("h.{layer}.{name}"), shape.to_vec()));
        for norm in ["ln_1", "ln_2"] {
            add(&format!("{norm}.weight"), &[DIM]);
            add(&format!("{norm}.bias"), &[DIM]);
        }
        for (linear, inputs, outputs) in [
            ("attn.c_attn", DIM, 3 * DIM),
            ("attn.c_proj", DIM, DIM),
            ("mlp.c_fc", DIM, 4 * DIM),
            ("mlp.c_proj", 4 * DIM, DIM),
        ] {
            add(&format!("{linear}.weight"), &[inputs, outputs]);
            add(&format!("{linear}.bias"), &[outputs]);
        }
    }
    tensors.extend(["weight", "bias"].map(|part| (format!("ln_f.{part}"), vec![DIM])));
    tensors
}

fn full_size_values(name: &str, count: usize) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let is_norm = name.rsplit('.').nth(1).is_some_and(|part| part.starts_with("ln_"));
    (1..=count as u64)
        .map(|i| {
            let mut z = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let u = ((z >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32;
            match () {
                () if name.ends_with(".bias") => 0.02 * u,
                () if is_norm => 1.0 + 0.1 * u,
                () => 0.034_641_016 * u,
            }
        })
        .collect()
}

#[test]
fn logits_of_the_real_124m_shape_are_those_of_transformers() {
    let fixture = crate::support::json("full_size.json");
    let folder = TempDir::new().unwrap();
    write_tokenizer(folder.path());
    std::fs::write(folder.path().join("config.json"), json!({ "model_type": "gpt2" }).to_string()).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = full_size_tensors()
        .into_iter()
        .map(|(name, shape)| {
            let values = full_size_values(&name, shape.iter().product());
            if let Some(first) = fixture["checks"].get(&name) {
                let first: Vec<f32> = serde_json::from_value(first.clone()).unwrap();
                assert_eq!(values[..first.len()], first, "{name}");
            }
            (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    drop(tensors);

    let mut engine = Engine::load(&name_of(folder.path())).unwrap();
    assert_eq!(engine.info().parameters, 124_439_808);
    let vocab = engine.info().vocab_size;
    let sampled = crate::support::ids(&fixture["sampled_ids"]);
    let logits = engine.logits(crate::support::ids(&fixture["input_ids"])).unwrap();
    let positions = crate::support::cases(&fixture);
    assert_eq!(logits.len(), positions.len() * vocab);
    for (row, expected) in logits.chunks_exact(vocab).zip(positions) {
        let position = &expected["position"];
        let wanted: Vec<f32> = serde_json::from_value(expected["logits"].clone()).unwrap();
        for (id, wanted) in sampled.iter().zip(wanted) {
            let found = row[*id as usize];
            assert!((found - wanted).abs() < 1e-4, "position {position}, token {id}: {found}, expected {wanted}");
        }
        let best = row.iter().enumerate().fold(0, |best, (i, logit)| if *logit > row[best] { i } else { best });
        assert_eq!(best as u64, expected["argmax"].as_u64().unwrap(), "position {position}");
    }
}
