//! GGUF files that lie: the shapes of the exploits that readers of the format were published with, each made of a small
//! sound file, each refused in one line, at once, with no memory out of proportion.

use std::path::Path;

use super::file::{ARRAY, BOOL, F32, GgufFile, GgufTensor, I32, STRING, U8, U16, U32, U64, array, string};
use super::model::{Numbers, base, gguf_of, with, without};
use crate::damage::{Dice, attempt, readable, refused, says};
use crate::support::fixture;

/// Runs a file's bytes, and expects these words of the refusal.
fn check(what: &str, bytes: &[u8], words: &[&str]) {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let message = refused(&attempt(&path, "abc"), 1, what);
    says(&message, &["m.gguf"], what);
    says(&message, words, what);
}

/// A file in which a tensor is another.
fn changed(name: &str, change: impl FnOnce(&mut GgufTensor)) -> Vec<u8> {
    let mut made = base();
    change(made.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).expect("the tensor"));
    made.bytes()
}

#[test]
fn heads_that_lie_are_refused() {
    let sound = base().bytes();
    check("an empty file", b"", &["GGUF"]);
    check("four bytes", b"GGUF", &["version"]);
    check(
        "a pointer of git's large files",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        &["`GGUF`"],
    );
    check("an old format", &[&b"tjgg\x01\0\0\0"[..], &[0; 64]].concat(), &["forerunners", "convert"]);
    check("version 1", &GgufFile { version: 1, ..base() }.bytes(), &["version 1", "version 2 or 3"]);
    check("version 4", &GgufFile { version: 4, ..base() }.bytes(), &["version 4"]);
    check("big endian", &GgufFile { version: 3_u32.swap_bytes(), ..base() }.bytes(), &["big endian"]);
    for lie in [u64::MAX, 1 << 63, 1 << 61, 1 << 32, 1_000_000] {
        check("a count of tensors", &GgufFile { stated_tensors: Some(lie), ..base() }.bytes(), &["tensor"]);
        check("a count of keys", &GgufFile { stated_keys: Some(lie), ..base() }.bytes(), &["key"]);
        let long = [&lie.to_le_bytes()[..], b"name"].concat();
        check("a length of a string", &with("general.name", STRING, &long), &["`general.name`", &lie.to_string()]);
        for kind in [U8, U64, STRING, ARRAY] {
            let array = array(kind, lie, &[vec![0; 12]]);
            check("a length of an array", &with("general.tags", ARRAY, array), &["`general.tags`", &lie.to_string()]);
        }
    }
    check("no key", &base().key("", U8, [0]).bytes(), &["a key"]);
    check("a key that is not UTF-8", &base().key([0xff], U64, [0; 8]).bytes(), &["a key in UTF-8"]);
    check("a kind that does not exist", &with("general.name", 77, [0; 8]), &["`general.name`", "77"]);
    check("an array of a kind that does not exist", &with("general.name", ARRAY, array(13, 1, &[vec![0; 8]])), &["13"]);
    check("a bool of 2", &with("general.flag", BOOL, [2]), &["`general.flag`", "found 2"]);
    check("a key twice", &base().text("general.architecture", "gpt2").bytes(), &["`general.architecture`", "twice"]);
    let nested = (0..100_000).fold(vec![0; 12], |inner: Vec<u8>, _| {
        if inner.len() > 60_000 { inner } else { [&ARRAY.to_le_bytes()[..], &1_u64.to_le_bytes(), &inner].concat() }
    });
    check("arrays in arrays without end", &with("general.deep", ARRAY, nested), &["`general.deep`", "deep"]);
    check("an escape in a key", &base().key("\u{1b}[31mred", BOOL, [9]).bytes(), &["\\u{1b}[31mred"]);
    check("a cut in the middle", &sound[..sound.len() / 2], &["m.gguf"]);
    check("a cut by a byte", &sound[..sound.len() - 1], &["found a file of"]);
}

#[test]
fn alignments_that_lie_are_refused() {
    let key = "general.alignment";
    for alignment in [0, 1 << 31, 3, 24, 33, u32::MAX] {
        check("an alignment", &with(key, U32, alignment.to_le_bytes()), &[key, "power of two", &alignment.to_string()]);
    }
    check("an alignment below 0", &with(key, I32, (-32_i32).to_le_bytes()), &[key, "-32"]);
    check("an alignment that is no number", &with(key, STRING, string("32")), &[key, "string"]);
    check("an alignment of 2^63", &with(key, U64, (1_u64 << 63).to_le_bytes()), &[key]);
    check("an alignment that is not kept", &with(key, U32, 4096_u32.to_le_bytes()), &["multiple of 4096"]);
}

#[test]
fn tables_that_lie_are_refused() {
    let name = "blk.1.ffn_up.weight";
    let quoted = "`blk.1.ffn_up.weight`";
    for (what, dims, words) in [
        ("five dimensions", vec![32, 53, 1, 1, 1], "found 5"),
        ("many dimensions", vec![1; 200_000], "found 200000"),
        ("a dimension of 2^63", vec![1 << 63], "2^63"),
        ("a product that wraps to what is there", vec![1 << 33, 1 << 31, 53], "2^63"),
        ("a product that wraps to 0", vec![1 << 32, 1 << 32], "2^63"),
        ("a size that wraps", vec![1 << 62], "2^63"),
        ("a product hidden behind a 0", vec![0, 1 << 40, 1 << 40], "2^63"),
        ("more than the file has", vec![32, 1 << 40], "found a file of"),
    ] {
        check(what, &changed(name, |t| t.dims = dims), &[quoted, words]);
    }
    check("a dimension of 0", &changed(name, |t| t.dims = vec![0, 256]), &["expected shape [53, 32]", "[256, 0]"]);
    check("no dimensions", &changed(name, |t| t.dims = vec![]), &["expected shape [53, 32]", "found []"]);
    check(
        "other dimensions",
        &changed(name, |t| t.dims = vec![53, 32]),
        &["expected shape [53, 32]", "[32, 53]", "the file's metadata"],
    );
    for dtype in [4, 5, 31, 36, 43, 1000, u32::MAX] {
        check("no type", &changed(name, |t| t.dtype = dtype), &[quoted, &format!("number {dtype}")]);
    }
    check(
        "a type that is not read",
        &changed("blk.1.attn_q.weight", |t| {
            (t.dtype, t.dims) = (24, vec![32, 32]); // I8
        }),
        &["found I8", "Q4_K", "quantisation"],
    );
    check("rows that are no blocks", &changed("blk.0.ffn_down.weight", |t| t.dtype = 2), &["blocks of 32", "53"]);
    for offset in [1, 31, u64::MAX, u64::MAX - 31, 1 << 63, 1 << 40] {
        check("an offset", &changed(name, |t| t.stated_offset = Some(offset)), &[quoted, &offset.to_string()]);
    }
    check("tensors that overlap", &changed(name, |t| t.stated_offset = Some(0)), &["overlap"]);
    check("a name twice", &changed(name, |t| t.name = b"blk.0.ffn_up.weight".to_vec()), &["twice"]);
    check("no name", &changed(name, |t| t.name.clear()), &["a tensor's name"]);
    check("a name without end", &changed(name, |t| t.name = vec![b'x'; 100_000]), &["a tensor's name", "100000"]);
    check("a name that is not UTF-8", &changed(name, |t| t.name = vec![0xc3, 0x28]), &["UTF-8"]);
    check("a tensor that is not there", &changed(name, |t| t.name = b"other".to_vec()), &["up_proj", "missing"]);
    check(
        "no table of tokens",
        &changed("token_embd.weight", |t| t.name = b"other".to_vec()),
        &["`token_embd.weight`"],
    );
}

#[test]
fn models_that_cannot_be_are_refused() {
    let size = |value: u32| value.to_le_bytes();
    check("no architecture", &without("general.architecture"), &["`general.architecture`"]);
    check("an unknown architecture", &with("general.architecture", STRING, string("mamba")), &["`mamba`", "llama, "]);
    check("no architecture's name", &with("general.architecture", U32, size(1)), &["`general.architecture`", "u32"]);
    check("no layers", &with("llama.block_count", U32, size(0)), &["num_hidden_layers"]);
    check("no count of layers", &without("llama.block_count"), &["`llama.block_count`"]);
    check("layers without end", &with("llama.block_count", U32, size(u32::MAX)), &["model.layers.2.", "missing"]);
    check("layers below 0", &with("llama.block_count", I32, (-1_i32).to_le_bytes()), &["`llama.block_count`", "-1"]);
    check("layers as a float", &with("llama.block_count", F32, 2_f32.to_le_bytes()), &["`llama.block_count`", "f32"]);
    check("layers as a list", &with("llama.block_count", ARRAY, array(U32, 1, &[size(2).to_vec()])), &["1 u32"]);
    check("no heads", &with("llama.attention.head_count", U32, size(0)), &["num_attention_heads"]);
    check("no key heads", &with("llama.attention.head_count_kv", U32, size(0)), &["num_key_value_heads"]);
    check("heads that do not divide", &with("llama.attention.head_count", U32, size(3)), &["multiple"]);
    check("no width", &with("llama.embedding_length", U32, size(0)), &["hidden_size"]);
    check(
        "widths of keys and values",
        &{
            let made = base().number("llama.attention.key_length", 8);
            made.number("llama.attention.value_length", 16).bytes()
        },
        &["keys", "8", "16"],
    );
    check(
        "an epsilon that is no number",
        &with("llama.attention.layer_norm_rms_epsilon", F32, f32::NAN.to_le_bytes()),
        &["NaN"],
    );
    check("a base of 0", &with("llama.rope.freq_base", F32, 0_f32.to_le_bytes()), &["rope_theta"]);
    check("experts", &with("llama.expert_count", U32, size(8)), &["m.gguf"]);
    for kind in ["dynamic", "mrope"] {
        check("a scaling", &with("llama.rope.scaling.type", STRING, string(kind)), &["rope.scaling.type", kind]);
    }
    check("no scaling's factor", &with("llama.rope.scaling.type", STRING, string("linear")), &["rope.scaling.factor"]);
    let factors = |values: &[f32]| {
        base().tensor("rope_freqs.weight", &[values.len() as u64], 0, Numbers::F32.bytes(values)).bytes()
    };
    check("factors of too few pairs", &factors(&[1.0]), &["`rope_freqs.weight`", "4 numbers"]);
    check("a factor of 0", &factors(&[1.0, 0.0, 1.0, 1.0]), &["`rope_freqs.weight`", "found 0"]);
    check("no tokenizer", &without("tokenizer.ggml.model"), &["`tokenizer.ggml.model`"]);
    check("no tokens", &without("tokenizer.ggml.tokens"), &["`tokenizer.ggml.tokens`"]);
    check("tokens that are numbers", &with("tokenizer.ggml.tokens", ARRAY, array(U16, 2, &[vec![0; 4]])), &["2 u16s"]);
    check(
        "an end of text beyond the vocabulary",
        &with("tokenizer.ggml.eos_token_id", U32, size(101)),
        &["eos_token_id"],
    );
}

#[test]
fn numbers_that_are_none_end_in_an_error_and_no_text() {
    let made = gguf_of(&fixture("gpt2/base"), |name| {
        if name.contains("ffn_up") { Numbers::Blocks(fireside::kernels::Format::Q8_0) } else { Numbers::F32 }
    });
    let poisoned = |name: &str, at: usize, value: &[u8]| {
        let mut made = made.clone();
        let tensor = made.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).expect("the tensor");
        tensor.data[at..at + value.len()].copy_from_slice(value);
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, made.bytes()).unwrap();
        attempt(&path, "abc")
    };
    // A matrix is not looked through; the first token that meets the number ends the run, behind the prompt at the most.
    let ended = |outcome: crate::program::Outcome, what: &str| {
        assert_eq!(outcome.code, Some(1), "{what}: {outcome:?}");
        assert!(["", "abc", "abc\n"].contains(&outcome.stdout.as_str()), "{what}: {outcome:?}");
        says(&outcome.stderr, &["error: ", "not finite"], what);
    };
    for scale in [half::f16::NAN, half::f16::INFINITY] {
        ended(poisoned("blk.1.ffn_up.weight", 34 * 7, &scale.to_le_bytes()), "a scale");
    }
    ended(poisoned("blk.0.attn_qkv.weight", 40, &f32::NAN.to_le_bytes()), "a matrix");
    let message = refused(&poisoned("blk.0.attn_norm.weight", 8, &f32::NAN.to_le_bytes()), 1, "a norm");
    says(&message, &["ln_1.weight", "NaN"], "a norm");
}

#[test]
fn random_damage_is_refused_or_harmless() {
    let sound = base().bytes();
    let head = base().head().len();
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("m.gguf");
    let mut dice = Dice(7);
    for round in 0..150 {
        let mut bytes = sound.clone();
        for _ in 0..1 + dice.below(3) {
            let at = dice.below(head);
            bytes[at] = [0, 1, 0x7f, 0x80, 0xff, dice.below(256) as u8][dice.below(6)];
        }
        if dice.below(5) == 0 {
            bytes.truncate(dice.below(bytes.len()));
        }
        std::fs::write(&path, bytes).unwrap();
        let outcome = attempt(Path::new(&path), "abc");
        let what = format!("round {round}");
        match outcome.code {
            Some(0) => readable(&outcome.stderr, &what),
            // A damaged epsilon or theta: sound numbers, with which the first token cannot be computed.
            Some(1) if outcome.stderr.contains("not finite") => readable(&outcome.stderr, &what),
            Some(code) => drop(refused(&outcome, code, &what)),
            None => panic!("{what}: ended by a signal: {outcome:?}"),
        }
        assert!(outcome.code == Some(0) || outcome.code == Some(1), "{what}: {outcome:?}");
    }
}
