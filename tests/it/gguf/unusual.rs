//! GGUF files that are unusual and sound: each has one property that the plain file lacks, loads without a word, and gives the
//! plain file's logits bit by bit.

use std::path::PathBuf;

use fireside::{Engine, Prompt};
use tempfile::TempDir;

use super::file::{ARRAY, BOOL, F32, F64, GgufFile, I16, I32, I64, STRING, U8, U16, U32, U64, array, string};
use super::model::{Numbers, base, with, without};
use super::{expected, in_parts, logits};
use crate::support::name_of;

fn aligned(alignment: usize, kind: u32, value: &[u8]) -> Vec<u8> {
    GgufFile { alignment, ..base() }.key("general.alignment", kind, value).bytes()
}

fn changed(change: impl FnOnce(&mut GgufFile)) -> Vec<u8> {
    let mut made = base();
    change(&mut made);
    made.bytes()
}

/// The tensors' numbers in the reverse order of the table.
fn backwards() -> Vec<u8> {
    let mut made = base();
    let mut place = 0;
    for tensor in made.tensors.iter_mut().rev() {
        tensor.stated_offset = Some(place);
        place += tensor.data.len().next_multiple_of(32) as u64;
    }
    let mut bytes = made.head();
    for tensor in made.tensors.iter().rev() {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&tensor.data);
    }
    bytes
}

/// Each tensor's dimensions with ones behind them, as tools write them that know four at all times.
fn in_four_dimensions() -> Vec<u8> {
    changed(|made| made.tensors.iter_mut().for_each(|tensor| tensor.dims.resize(4, 1)))
}

/// Queries, keys and values of each layer in one tensor, as converters write them that are told to.
fn fused() -> Vec<u8> {
    changed(|made| {
        for layer in 0..2 {
            let mut take = |name: &str| {
                let name = format!("blk.{layer}.{name}.weight");
                let at = made.tensors.iter().position(|tensor| tensor.name == name.as_bytes()).expect("the tensor");
                made.tensors.remove(at)
            };
            let [mut q, k, v] = ["attn_q", "attn_k", "attn_v"].map(&mut take);
            q.name = format!("blk.{layer}.attn_qkv.weight").into_bytes();
            q.dims[1] += k.dims[1] + v.dims[1];
            q.data.extend([k.data, v.data].concat());
            made.tensors.push(q);
        }
    })
}

/// What is unusual, and the file.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let nested = array(ARRAY, 2, &[array(ARRAY, 1, &[array(U8, 1, &[vec![0]])]), array(STRING, 1, &[string("x")])]);
    let two = |kind: u32, bytes: &[u8]| with("llama.block_count", kind, bytes);
    let spread = changed(|made| {
        let first = made.tensors[0].data.len();
        made.tensors[0].data.resize(first + 4096, 7);
        let mut place = 0;
        for tensor in &mut made.tensors {
            tensor.stated_offset = Some(place);
            place += tensor.data.len().next_multiple_of(32) as u64;
        }
    });
    vec![
        ("version 2", GgufFile { version: 2, ..base() }.bytes()),
        ("an alignment of a byte", aligned(1, U32, &1_u32.to_le_bytes())),
        ("an alignment of 2 bytes, less than a number has", aligned(2, U32, &2_u32.to_le_bytes())),
        ("an alignment below the usual", aligned(8, U32, &8_u32.to_le_bytes())),
        ("the usual alignment, said", aligned(32, U32, &32_u32.to_le_bytes())),
        ("an alignment of a page", aligned(4096, U32, &4096_u32.to_le_bytes())),
        ("an alignment of many pages", aligned(65_536, U32, &65_536_u32.to_le_bytes())),
        ("an alignment in 64 bits", aligned(64, U64, &64_u64.to_le_bytes())),
        ("a size of one byte", two(U8, &[2])),
        ("a size of two bytes", two(U16, &2_u16.to_le_bytes())),
        ("a signed size of two bytes", two(I16, &2_i16.to_le_bytes())),
        ("a signed size", two(I32, &2_i32.to_le_bytes())),
        ("a size of eight bytes", two(U64, &2_u64.to_le_bytes())),
        ("a signed size of eight bytes", two(I64, &2_i64.to_le_bytes())),
        ("an epsilon in 64 bits", with("llama.attention.layer_norm_rms_epsilon", F64, 1e-5_f64.to_le_bytes())),
        ("keys in another order", changed(|made| made.keys.reverse())),
        ("a table in another order", changed(|made| made.tensors.reverse())),
        ("tensors in another order than in the table", backwards()),
        ("tensors of four dimensions", in_four_dimensions()),
        ("queries, keys and values in one tensor", fused()),
        ("room between tensors", spread),
        ("bytes behind the last tensor", [base().bytes(), vec![1; 1000]].concat()),
        ("arrays of arrays that nobody knows", base().key("x.nested", ARRAY, nested).bytes()),
        ("a key in other letters", base().text("\u{1f98a} key", "").bytes()),
        ("a key of 60 000 bytes", base().text(&"k".repeat(60_000), "v").bytes()),
        ("a value of a megabyte", base().text("general.description", &"long ".repeat(200_000)).bytes()),
        ("an array of nothing", base().key("general.tags", ARRAY, array(STRING, 0, &[])).bytes()),
        ("an array of nothing of no known use", base().key("x.none", ARRAY, array(BOOL, 0, &[])).bytes()),
        ("texts of no letters", base().texts("general.languages", &["", ""]).bytes()),
        ("a name that is no UTF-8", base().key("general.name", STRING, string([0xff, 0xfe])).bytes()),
        ("a scaling of none", base().text("llama.rope.scaling.type", "none").bytes()),
        ("a linear scaling by 1", {
            base().text("llama.rope.scaling.type", "linear").float("llama.rope.scaling.factor", 1.0).bytes()
        }),
        ("an older key of a scaling by 1", base().float("llama.rope.scale_linear", 1.0).bytes()),
        ("a factor of 0, which stands for none", base().float("llama.rope.scaling.factor", 0.0).bytes()),
        ("frequencies divided by 1", {
            base().tensor("rope_freqs.weight", &[4], 0, Numbers::F32.bytes(&[1.0; 4])).bytes()
        }),
        ("rotated wholly, as it says", base().number("llama.rope.dimension_count", 8).bytes()),
        ("no base of frequencies, which is the usual one", without("llama.rope.freq_base")),
        ("a base of frequencies in 64 bits", with("llama.rope.freq_base", F64, 10_000_f64.to_le_bytes())),
        ("no experts, as it says", base().number("llama.expert_count", 0).bytes()),
        ("a window of 0, which stands for none", base().number("llama.attention.sliding_window", 0).bytes()),
        ("causal, as it says", base().flag("llama.attention.causal", true).bytes()),
        ("lengths of keys and values that follow", {
            base().number("llama.attention.key_length", 8).number("llama.attention.value_length", 8).bytes()
        }),
        ("one part of one", base().key("split.count", U16, 1_u16.to_le_bytes()).bytes()),
        ("parts that are none", base().key("split.count", U16, 0_u16.to_le_bytes()).bytes()),
        ("a padding token of -1", base().key("tokenizer.ggml.padding_token_id", I32, (-1_i32).to_le_bytes()).bytes()),
        ("an unknown token of all ones", base().number("tokenizer.ggml.unknown_token_id", u32::MAX).bytes()),
        ("templates by name", base().texts("tokenizer.chat_templates", &["tool_use"]).bytes()),
        ("scores of the wrong kind of tokenizer", base().floats("x.scores", &[f32::NAN, f32::INFINITY]).bytes()),
        ("a number that is none where nobody looks", base().key("general.x", F32, f32::NAN.to_le_bytes()).bytes()),
        ("more keys than models have", (0..500).fold(base(), |made, i| made.number(&format!("x.{i}"), i)).bytes()),
    ]
}

#[test]
fn unusual_files_load_and_give_the_same_bits() {
    let (ids, _) = expected("llama/base");
    let folder = TempDir::new().unwrap();
    let bits = |path: PathBuf| -> Vec<u32> { logits(&path, &ids).into_iter().map(f32::to_bits).collect() };
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("plain.gguf"), base().bytes()).unwrap();
    let reference = bits(path("plain.gguf"));
    let files = files();
    for (what, bytes) in &files {
        let path = path("a model é 🦊 [1] (copy).gguf");
        std::fs::write(&path, bytes).unwrap();
        assert!(bits(path) == reference, "{what}");
    }
    let mut names: Vec<&str> = files.iter().map(|(what, _)| *what).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() >= 50, "{} unusual files", names.len());
}

/// Where what is unusual is not in the bytes of one file.
#[test]
fn unusual_places_are_no_obstacle() {
    let (ids, _) = expected("llama/base");
    let folder = TempDir::new().unwrap();
    let bits = |path: PathBuf| -> Vec<u32> { logits(&path, &ids).into_iter().map(f32::to_bits).collect() };
    let plain = folder.path().join("plain.gguf");
    std::fs::write(&plain, base().bytes()).unwrap();
    let reference = bits(plain.clone());
    #[cfg(unix)]
    {
        let link = folder.path().join("link.gguf");
        std::os::unix::fs::symlink(&plain, &link).unwrap();
        assert!(bits(link) == reference, "a link");
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        std::fs::set_permissions(&plain, read_only).unwrap();
        assert!(bits(plain) == reference, "a file that nobody may write");
    }
    let many = TempDir::new().unwrap();
    let first = in_parts(many.path(), &base(), base().tensors.len());
    assert!(bits(first) == reference, "a part for each tensor");
}

#[test]
fn tensors_that_nobody_asks_for_are_told_whatever_they_are() {
    let check = |what: &str, made: GgufFile, told: &str| {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, made.bytes()).unwrap();
        let mut engine = Engine::load(&name_of(&path)).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(engine.warnings().len() == 1 && engine.warnings()[0].contains(told), "{what}: {:?}", engine.warnings());
        let (ids, expected) = expected("llama/base");
        let found = engine.logits(Prompt::Tokens(ids)).unwrap();
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{what}: {worst}");
    };
    check("no dimensions", base().tensor("scalar", &[], 0, vec![0; 4]), "`scalar`");
    check("no numbers", base().tensor("empty", &[0, 3], 1, Vec::new()), "`empty`");
    check("whole numbers", base().tensor("places", &[4], 26, vec![0; 16]), "`places`");
    check("numbers of 64 bits", base().tensor("doubles", &[2], 28, vec![0; 16]), "`doubles`");
    check("a type that no kernel reads", base().tensor("ternary", &[256], 34, vec![0; 54]), "`ternary`");
    check("a name in other letters", base().tensor("гирлянда 🦊", &[1], 0, vec![0; 4]), "🦊");
}
