//! A model that is on the Hub and not here: does it run, how large is it, does it fit, how fast would it be.

use anyhow::Result;
use safetensors::tensor::{Dtype as FileDtype, Metadata, TensorInfo};
use serde_json::{Value, json};

use super::estimate::{Machine, Needs, bytes_of};
use super::{Args, answer_rows, memory};
use crate::cli::model::{count, warn};
use crate::cli::output::answer_json;
use crate::engine::SUPPORTED;
use crate::error::{Error, quote};
use crate::gguf::{Gguf, Tensor};
use crate::hub::preflight::Preflight;
use crate::models::Config;
use crate::weights::{Kind, Listed, Sizes, Tensors, check_header, kind_of};
use crate::{ARCHITECTURES, CacheType, Dtype, Hub};

/// Room that a download leaves on the disk for everybody else.
const SPARE_ROOM: u64 = 16 << 20;

/// Answers about a model without fetching it. That it cannot run is an answer too.
pub(super) fn show(hub: &Hub, name: &str, args: &Args) -> Result<()> {
    let found = hub.preflight(name)?;
    warn(&found.warnings);
    let mut config = found.config.as_ref().map(|(path, text)| Config::parse(path, text)).transpose()?;
    // A GGUF file of an unknown kind has no config, and that is an answer too.
    let refused = match &found.gguf {
        Some(gguf) => match gguf.config() {
            Ok(json) => {
                config = Some(Config { path: gguf.path(), json });
                (SUPPORTED.gguf)(gguf).err()
            }
            Err(error) => Some(error),
        },
        None => None,
    };
    let shape = config.as_ref().map(|config| Shape::of(&config.json)).unwrap_or_default();
    let architecture = config.as_ref().and_then(|config| named(&config.json)).or_else(|| found.gguf.as_ref()?.kind());
    let problem = match &found.gguf {
        Some(_) => refused.map(problem_of),
        None => why_not(&found, config.as_ref()),
    };
    let tensors = match &found.gguf {
        Some(gguf) => in_gguf(gguf).unwrap_or_default(),
        None => in_headers(found.headers.iter().map(|(_, header)| header)),
    };
    let sizes = Sizes::of(&tensors, args.machine.keep());
    let context = context(&shape, args)?;
    let machine = Machine::measure(&args.machine, sizes.main_kind())?;
    let download: u64 = total(found.plan.files.iter().filter(|file| !file.cached).map(|file| file.size));
    let cached: u64 = total(found.plan.files.iter().filter(|file| file.cached).map(|file| file.size));
    let kv = args.machine.kv.unwrap_or_else(|| sizes.main_kind().cache());
    let cache = shape.cache_bytes_per_token(kv).zip(context).map(|(bytes, tokens)| bytes.saturating_mul(tokens));
    let needs = Needs { weights: sizes.bytes, cache, per_token: sizes.per_token };
    let room = found.disk_free.map(|free| download == 0 || download.saturating_add(SPARE_ROOM) <= free);

    if args.json {
        let plan = &found.plan;
        let files = plan.files.iter().map(|f| json!({ "name": f.name, "size": f.size, "cached": f.cached }));
        let mut json = json!({
            "name": name,
            "repo": plan.repo,
            "commit": plan.commit,
            "license": plan.license.clone().or_else(|| found.gguf.as_ref()?.license()),
            "gated": found.gated,
            "architecture": architecture,
            "supported": problem.is_none(),
            "unsupported_because": problem,
            "parameters": sizes.parameters,
            "buffers": sizes.buffers,
            "dtypes": sizes.dtypes.iter().map(|(dtype, ..)| dtype).collect::<Vec<_>>(),
            "layers": shape.layers,
            "vocab_size": shape.vocabulary,
            "context": context,
            "weight_bytes": sizes.bytes,
            "cache_bytes_per_token": shape.cache_bytes_per_token(kv),
            "memory_bytes": needs.memory(),
            "device": machine.device.clone(),
            "files": files.collect::<Value>(),
            "download_bytes": download,
            "cached_bytes": cached,
            "disk_free_bytes": found.disk_free,
            "disk_has_room": room,
        });
        if found.is_selection {
            for unknown in ["parameters", "buffers", "dtypes", "weight_bytes", "memory_bytes"] {
                json[unknown] = Value::Null;
            }
        } else {
            machine.add_to(&mut json, &needs);
        }
        return answer_json(&json);
    }

    let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "not stated in config.json".to_owned());
    let mut rows = vec![("name", format!("{}@{}", found.plan.repo, found.plan.commit))];
    rows.push((
        "architecture",
        match (&problem, architecture.unwrap_or_else(|| "not stated".to_owned())) {
            (None, architecture) => format!("{architecture}, supported"),
            (Some(problem), architecture) => format!("{architecture}, not supported: {problem}"),
        },
    ));
    if !found.is_selection {
        rows.push(("parameters", describe(&sizes)));
    }
    if config.is_some() {
        rows.push(("layers", or_unknown(shape.layers.map(|n| n.to_string()))));
        rows.push(("context", or_unknown(context.map(|n| format!("{n} tokens")))));
        rows.push(("vocabulary", or_unknown(shape.vocabulary.map(|n| format!("{n} tokens")))));
    }
    let here = if cached > 0 { format!(", {} more are in the cache", bytes_of(cached)) } else { String::new() };
    let files = crate::error::count(found.plan.files.len(), "file");
    rows.push(("download", format!("{} of {files}{here}", bytes_of(download))));
    rows.push(("disk", describe_disk(&found, room)));
    if !found.is_selection {
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        rows.push((
            "memory",
            match cache {
                Some(cache) => memory(size(sizes.bytes), size(cache)),
                None => format!("{} of weights; config.json does not state the cache's size", bytes_of(sizes.bytes)),
            },
        ));
    }
    rows.push(("licence", {
        let stated = found.plan.license.clone().or_else(|| found.gguf.as_ref()?.license());
        let licence = stated.unwrap_or_else(|| "not stated".to_owned());
        let page = if found.gated { "; its page has terms to accept first (gated)" } else { "" };
        format!("{licence}{page}")
    }));
    rows.push(("runs on", machine.device.clone()));
    if !found.is_selection {
        rows.extend(machine.rows(&needs));
    }
    answer_rows(&rows)
}

fn describe_disk(found: &Preflight, room: Option<bool>) -> String {
    let place = found.folder.display();
    match (room, found.disk_free) {
        (Some(true), Some(free)) => format!("enough room: {} free at {place}", bytes_of(free)),
        (_, Some(free)) => format!("too full: {} free at {place}", bytes_of(free)),
        (_, None) => format!("free room at {place} is not known"),
    }
}

/// `--context`, or the model's own; the same limits as when it is loaded.
fn context(shape: &Shape, args: &Args) -> Result<Option<u64>> {
    let Some(asked) = args.machine.context else { return Ok(shape.context) };
    let own = shape.context.unwrap_or(u64::MAX);
    if asked < 2 || asked as u64 > own {
        let problem = format!("is {asked}, expected from 2 to {own}, the model's own");
        return Err(Error::setting("context", problem, "").into());
    }
    Ok(Some(asked as u64))
}

/// Why this version does not run the model.
fn why_not(found: &Preflight, config: Option<&Config>) -> Option<String> {
    if found.is_selection {
        return Some("a single file of a repository is a model only if it is a .gguf file".to_owned());
    }
    let known = config?.json["model_type"].as_str().into_iter().chain(config?.json["architectures"][0].as_str());
    let known = known.filter(|name| ARCHITECTURES.iter().any(|a| [a.model_type, a.class].contains(name))).count() > 0;
    match config?.architecture() {
        Ok(_) => {}
        Err(Error::Unsupported { .. }) if !known => {
            let names: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.model_type).collect();
            return Some(format!("supported are {}", names.join(", ")));
        }
        Err(error) => return Some(problem_of(error)),
    }
    let wrong = found.headers.iter().find_map(|(path, header)| check_header(path, header).err());
    let no_tokenizer = "expected `tokenizer.json`, `tokenizer.model`, or `vocab.json` and `merges.txt`, found none";
    wrong.map(problem_of).or_else(|| (!found.has_tokenizer).then(|| no_tokenizer.to_owned()))
}

/// An error's own words, without the file that it names.
fn problem_of(error: Error) -> String {
    match error {
        Error::Unsupported { problem, .. } | Error::File { problem, .. } => problem,
        other => other.to_string(),
    }
}

/// How config.json calls the architecture.
fn named(json: &Value) -> Option<String> {
    let name = json["model_type"].as_str().or_else(|| json["architectures"][0].as_str())?;
    Some(quote(name).trim_matches('`').to_owned())
}

/// What config.json says of sizes, under the names that are usual.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    layers: Option<u64>,
    context: Option<u64>,
    vocabulary: Option<u64>,
    /// Numbers in one cached row of keys.
    kv_width: Option<u64>,
}

impl Shape {
    fn of(json: &Value) -> Self {
        // Models that also see and hear keep the language model's fields below one name.
        let field = |names: &[&str]| {
            let places = [json, &json["text_config"]];
            places.iter().find_map(|place| names.iter().find_map(|name| place[*name].as_u64()))
        };
        let heads = field(&["n_head", "num_attention_heads", "n_heads", "num_heads"]);
        let kv_heads = field(&["num_key_value_heads", "num_kv_heads", "n_head_kv"]).or(heads);
        // Falcon's first architecture has one of them, whatever it says of their number.
        let has_one = json["multi_query"] == true && json["new_decoder_architecture"] != true;
        let kv_heads = if has_one { Some(1) } else { kv_heads };
        let own_dim = field(&["head_dim"]);
        let width = field(&["n_embd", "hidden_size", "d_model", "n_embed"]);
        let head_dim = own_dim.or_else(|| width?.checked_div(heads?));
        Shape {
            layers: field(&["n_layer", "num_hidden_layers", "n_layers", "num_layers"]),
            context: field(&["n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length"]),
            vocabulary: field(&["vocab_size"]),
            kv_width: kv_heads.zip(head_dim).map(|(heads, dim)| heads.saturating_mul(dim)),
        }
    }

    /// Keys and values of one token in all layers.
    fn cache_bytes_per_token(&self, kv: CacheType) -> Option<u64> {
        let numbers = self.layers?.saturating_mul(self.kv_width?).saturating_mul(2);
        const FEW: usize = 32; // that have whole bytes
        Some(numbers.saturating_mul(kv.bytes(FEW) as u64) / FEW as u64)
    }
}

fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// `124.4M (f32)`
fn describe(sizes: &Sizes) -> String {
    let numbers = |n: u64| count(usize::try_from(n).unwrap_or(usize::MAX));
    let dtypes: Vec<String> = match &sizes.dtypes[..] {
        [(dtype, ..)] => vec![dtype.clone()],
        several => several.iter().map(|(dtype, n, _)| format!("{} {dtype}", numbers(*n))).collect(),
    };
    let buffers = match sizes.buffers {
        0 => String::new(),
        n => format!("; {} more in buffers are not counted", numbers(n)),
    };
    format!("{} ({}){buffers}", numbers(sizes.parameters), dtypes.join(" + "))
}

/// What the headers of safetensors files list.
fn in_headers<'a>(headers: impl Iterator<Item = &'a Metadata>) -> Tensors {
    let listed = |info: &TensorInfo| Listed {
        shape: info.shape.clone(),
        stored_as: read_as(info.dtype).map(Kind::Dense).ok_or_else(|| format!("{:?}", info.dtype).to_lowercase()),
        bytes: (info.data_offsets.1 - info.data_offsets.0) as u64,
        is_turned: false,
    };
    headers.flat_map(Metadata::tensors).map(|(name, info)| (name, listed(info))).collect()
}

/// What the head of a GGUF file lists.
fn in_gguf(gguf: &Gguf) -> crate::Result<Tensors> {
    let listed = |tensor: Tensor| {
        let stored_as = tensor.read_as.map(kind_of).map_err(str::to_lowercase);
        let bytes = tensor.range.len() as u64;
        (tensor.name, Listed { shape: tensor.shape, stored_as, bytes, is_turned: true })
    };
    Ok(gguf.tensors()?.into_iter().map(listed).collect())
}

fn read_as(dtype: FileDtype) -> Option<Dtype> {
    match dtype {
        FileDtype::F32 => Some(Dtype::F32),
        FileDtype::F16 => Some(Dtype::F16),
        FileDtype::BF16 => Some(Dtype::Bf16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_names_of_sizes_are_known() {
        let check = |json: Value, expected: [Option<u64>; 4]| {
            let [layers, context, vocabulary, kv_width] = expected;
            assert_eq!(Shape::of(&json), Shape { layers, context, vocabulary, kv_width }, "{json}");
        };
        check(
            json!({ "n_layer": 12, "n_positions": 1024, "n_embd": 768, "n_head": 12, "vocab_size": 50257 }),
            [Some(12), Some(1024), Some(50257), Some(768)],
        );
        let llama = json!({
            "num_hidden_layers": 16, "max_position_embeddings": 131072, "hidden_size": 2048, "head_dim": 64,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        });
        let expected = [Some(16), Some(131_072), Some(128_256), Some(512)];
        check(llama.clone(), expected);
        check(json!({ "model_type": "x", "text_config": llama }), expected);
        check(
            json!({ "num_hidden_layers": 32, "hidden_size": 4544, "num_attention_heads": 71, "num_kv_heads": 71, "multi_query": true }),
            [Some(32), None, None, Some(64)],
        );
        check(
            json!({ "num_layers": 12, "num_heads": 12, "hidden_size": 768, "max_position_embeddings": 2048 }),
            [Some(12), Some(2048), None, Some(768)],
        );
        check(json!({ "n_head": 0, "n_embd": 768, "n_layer": -1, "vocab_size": "many" }), [None; 4]);
        let hostile = Shape::of(&json!({ "n_layer": u64::MAX, "num_kv_heads": u64::MAX, "head_dim": u64::MAX }));
        for kv in CacheType::ALL {
            assert!(hostile.cache_bytes_per_token(kv) > Some(u64::MAX / 64), "{kv}");
        }
    }
}
