//! What several test files need: fixtures, models in temporary folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `tests/fixtures/<name>`, made by `tests/oracle/make.py`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A fixture that is a model's folder, as a name for `Engine::load`.
pub fn model(name: &str) -> String {
    fixture(name).to_str().expect("fixtures have plain names").to_owned()
}

/// A copy of a model's folder that a test may change.
pub fn copy_of(folder: &Path) -> TempDir {
    let copy = TempDir::new().expect("a temporary folder");
    for entry in std::fs::read_dir(folder).expect("the model's folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copied file");
    }
    copy
}

/// A byte-level tokenizer of ten letters, for models that are given token ids and never text.
pub fn write_tokenizer(folder: &Path) {
    let vocab: serde_json::Map<String, Value> =
        ('a'..='j').enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                   "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": [] },
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("a written tokenizer");
}

/// Weights in f32, by name: shapes and numbers.
pub fn write_weights(folder: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    let bytes: Vec<Vec<u8>> =
        tensors.values().map(|(_, numbers)| numbers.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, (shape, _)), bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a view")));
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).expect("written weights");
}

/// A folder as a name for `Engine::load`.
pub fn name_of(folder: &Path) -> String {
    folder.to_str().expect("a plain path").to_owned()
}

/// What this thread has had of processors so far, which a crowded machine does not stretch; where the system does not tell,
/// the time since the first call.
pub fn time_of_thread() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| BEGUN.elapsed(), Duration::from_nanos)
}

/// A fixture that is JSON.
pub fn json(name: &str) -> Value {
    let path = fixture(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cases of a JSON fixture.
pub fn cases(fixture: &Value) -> &[Value] {
    fixture["cases"].as_array().expect("a list of cases")
}

/// A list of token ids in JSON.
pub fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// One tensor of a safetensors fixture: shape and bytes, four or eight to a number.
pub fn tensor<T>(file: &Path, name: &str, number: impl Fn(&[u8]) -> T) -> (Vec<usize>, Vec<T>) {
    let bytes = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("a safetensors fixture");
    let view = tensors.tensor(name).expect("the tensor");
    let numbers = view.data().chunks_exact(view.dtype().bitsize() / 8).map(number).collect();
    (view.shape().to_vec(), numbers)
}

pub fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes(bytes.try_into().expect("four bytes"))
}

pub fn i64_of(bytes: &[u8]) -> i64 {
    i64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}
