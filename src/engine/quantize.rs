//! A model → a GGUF file: [`quantize`].
//!
//! Tensor by tensor, so that a model of any size needs the memory of its largest matrix. What an architecture asks for is
//! what is written: the model is loaded once before, which also looks through all of its numbers.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use super::fetch::SUPPORTED;
use super::load::read_config;
use crate::device::{Compute, DeviceChoice};
use crate::error::{Error, Result, quote};
use crate::gguf::{Gguf, Planned, ReadAs, TensorType, Writer, Written, describe};
use crate::hub::Hub;
use crate::models::{Config, llama3_factors};
use crate::source::{Location, Source, WeightFiles};
use crate::text::{ChatFiles, ChatTemplate, metadata_of};
use crate::weights::{Cast, Dtype, Held, Keep, Kind, Weights};

/// The version of the block formats' layout, as llama.cpp counts.
const QUANTIZATION_VERSION: u32 = 2;

/// What [`quantize`] wrote.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Quantized {
    /// Numbers in all tensors.
    pub parameters: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// The types of tensors, each with how many there are and their bytes, most bytes first.
    pub types: Vec<(&'static str, usize, u64)>,
    /// What the user should know of the file.
    pub notices: Vec<String>,
}

/// A tensor that is to be written.
struct Task {
    planned: Planned,
    numbers: Numbers,
}

/// Where a tensor's numbers come from.
enum Numbers {
    /// A place among the weights, its shape there, and the order of its rows where it is another one.
    Weights { name: String, shape: Vec<usize>, order: Option<Vec<usize>> },
    /// Bytes as they are.
    Bytes(Vec<u8>),
}

/// What a file will hold.
struct Plan {
    pairs: Vec<(String, Written)>,
    tasks: Vec<Task>,
    notices: Vec<String>,
}

/// Writes the model `name` as a GGUF file at `to`, its matrices as `cast`, with as many threads as the process may use or
/// `threads`. `hub` is where a model is fetched from, by default what the environment says. `report` hears before each
/// tensor how many are written, and of how many.
///
/// ```no_run
/// let written = fireside::quantize(None, "ember", "q8_0".parse()?, "ember.gguf".as_ref(), None, |_, _| {})?;
/// println!("{} bytes", written.bytes);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn quantize(
    hub: Option<Hub>,
    name: &str,
    cast: Cast,
    to: &Path,
    threads: Option<NonZeroUsize>,
    mut report: impl FnMut(usize, usize),
) -> Result<Quantized> {
    let source = match Source::local(name)? {
        Some(source) => source,
        None => hub.map_or_else(Hub::from_env, Ok)?.resolve(name, &SUPPORTED)?,
    };
    let compute = Compute::open(DeviceChoice::default(), threads)?;
    let (config, _) = read_config(&source)?;
    let held = {
        let weights = Weights::open(&source.weights, Keep::AsStored, compute.clone())?;
        (config.architecture()?.load)(&config, &weights)?;
        weights.held()
    };
    let weights = Weights::open(&source.weights, cast.keep(), compute)?;
    let mut plan = match &source.weights {
        WeightFiles::Gguf(file) => Plan::from_gguf(file, &weights, &held)?,
        _ => Plan::from_safetensors(&source, &config, &weights, &held)?,
    };
    plan.pairs.push(("general.file_type".to_owned(), Written::U32(cast.file_type())));
    plan.pairs.push(("general.quantization_version".to_owned(), Written::U32(QUANTIZATION_VERSION)));
    let (planned, numbers): (Vec<Planned>, Vec<Numbers>) =
        plan.tasks.into_iter().map(|task| (task.planned, task.numbers)).unzip();
    let mut writer = Writer::create(to, &plan.pairs, &planned)?;
    for (number, from) in numbers.into_iter().enumerate() {
        report(number, planned.len());
        match from {
            Numbers::Bytes(bytes) => writer.tensor(&bytes)?,
            Numbers::Weights { name, shape, order } => {
                let bytes = weights.at(&name).for_file(&shape)?;
                match order {
                    Some(order) => writer.tensor(&in_order(&bytes, &order))?,
                    None => writer.tensor(&bytes)?,
                }
            }
        }
    }
    writer.finish()?;
    report(planned.len(), planned.len());
    Ok(Quantized::of(&planned, plan.notices))
}

/// The factors of Llama 3.1's rotary positions, which a file has in a tensor.
fn factors_of(config: &Config) -> Result<Option<Vec<f32>>> {
    let size = |name: &str| config.json[name].as_u64().map(|size| size as usize);
    let head_dim = size("head_dim").or_else(|| size("hidden_size")?.checked_div(size("num_attention_heads")?));
    match head_dim.zip(size("max_position_embeddings")) {
        Some((head_dim, context)) => llama3_factors(config, head_dim, context),
        None => Ok(None), // of an architecture without rotary positions
    }
}

/// Rows of bytes in another order.
fn in_order(bytes: &[u8], order: &[usize]) -> Vec<u8> {
    let width = bytes.len() / order.len();
    order.iter().flat_map(|row| &bytes[row * width..(row + 1) * width]).copied().collect()
}

fn type_of(kind: Kind) -> &'static TensorType {
    TensorType::read_as(match kind {
        Kind::Dense(Dtype::F32) => ReadAs::F32,
        Kind::Dense(Dtype::F16) => ReadAs::F16,
        Kind::Dense(Dtype::Bf16) => ReadAs::Bf16,
        Kind::Blocks(format) => ReadAs::Blocks(format),
    })
}

impl Plan {
    /// What a file says of a model that came as config.json, tokenizer and safetensors.
    fn from_safetensors(
        source: &Source,
        config: &Config,
        weights: &Weights,
        held: &BTreeMap<String, Held>,
    ) -> Result<Plan> {
        let mut description = describe(config.path, &config.json)?;
        description
            .text("general.name", source.name.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("model"));
        if let Some(license) = source.license() {
            description.text("general.license", &license);
        }
        let mut tasks = Vec::new();
        let mut rows = 0;
        for (name, held) in held {
            let place = weights.at(name);
            if place.repeats_embedding() {
                continue; // a file without a head has the table's
            }
            let (shape, kind) = place.in_file(&held.shape);
            let own = description.name_of(name).ok_or_else(|| {
                let problem = format!("tensor {} has no name in a GGUF file of this architecture", quote(name));
                Error::unsupported(config.path, problem, "keep the model in safetensors")
            })?;
            if own == "token_embd.weight" {
                rows = shape[0];
            }
            let order = description.order_of_rows(name, shape[0]);
            tasks.push(Task {
                planned: Planned { name: own, shape, dtype: type_of(kind) },
                numbers: Numbers::Weights { name: name.clone(), shape: held.shape.clone(), order },
            });
        }
        if let Some(factors) = factors_of(config)? {
            tasks.push(Task {
                planned: Planned {
                    name: "rope_freqs.weight".to_owned(),
                    shape: vec![factors.len()],
                    dtype: type_of(Kind::Dense(Dtype::F32)),
                },
                numbers: Numbers::Bytes(factors.iter().flat_map(|factor| factor.to_le_bytes()).collect()),
            });
        }
        tasks.sort_by_key(|task| place_in_file(&task.planned.name));
        let mut pairs = description.pairs;
        pairs.extend(metadata_of(&source.tokenizer, rows, &config.json)?);
        pairs.extend(templates(&ChatTemplate::load(&ChatFiles::beside(&source.config))?));
        Ok(Plan { pairs, tasks, notices: description.notices })
    }

    /// What a file says of a model that came as a GGUF file: the same, but for the types.
    fn from_gguf(file: &Location, weights: &Weights, held: &BTreeMap<String, Held>) -> Result<Plan> {
        const CHANGED: [&str; 3] = ["general.file_type", "general.quantization_version", "general.alignment"];
        let gguf = Gguf::open(file)?;
        let keys = gguf.metadata.keys().filter(|key| !CHANGED.contains(key) && !key.starts_with("split."));
        let pairs = keys.filter_map(|key| Some((key.to_owned(), gguf.metadata.raw(key)?))).collect();
        let mut tasks = Vec::new();
        for tensor in gguf.raw_tensors()? {
            let as_it_is = || Task {
                planned: Planned { name: tensor.name.to_owned(), shape: tensor.shape.to_vec(), dtype: tensor.dtype },
                numbers: Numbers::Bytes(tensor.bytes.unwrap_or_default().to_vec()),
            };
            tasks.push(match tensor.place.filter(|place| held.contains_key(place)) {
                Some(place) if tensor.shape.len() <= 2 => {
                    let (shape, kind) = weights.at(&place).in_file(tensor.shape);
                    Task {
                        planned: Planned { name: tensor.name.to_owned(), shape, dtype: type_of(kind) },
                        numbers: Numbers::Weights { name: place, shape: tensor.shape.to_vec(), order: None },
                    }
                }
                None if tensor.shape.len() > 1 => {
                    return Err(Error::unsupported(
                        gguf.path(),
                        format!(
                            "tensor {} of {} dimensions cannot be quantised",
                            quote(tensor.name),
                            tensor.shape.len()
                        ),
                        "quantise the model from its safetensors",
                    ));
                }
                _ => as_it_is(),
            });
        }
        Ok(Plan { pairs, tasks, notices: Vec::new() })
    }
}

/// Chat templates as converters write them: the default one, and others under their names, of which there is a list.
fn templates(template: &ChatTemplate) -> Vec<(String, Written)> {
    const KEY: &str = "tokenizer.chat_template";
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let (mut pairs, mut names) = (Vec::new(), Vec::new());
    for (name, source) in template.sources() {
        let name: String = name.chars().map(plain).collect();
        let key = if name == "default" { KEY.to_owned() } else { format!("{KEY}.{name}") };
        if pairs.iter().any(|(known, _)| *known == key) {
            continue;
        }
        if name != "default" {
            names.push(name);
        }
        pairs.push((key, Written::Text(source.to_owned())));
    }
    if !names.is_empty() {
        pairs.push((format!("{KEY}s"), Written::Texts(names)));
    }
    pairs
}

/// Tables first, then the layers by their numbers, then what follows them: as they are used.
fn place_in_file(name: &str) -> (usize, usize, String) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse().ok());
    match layer {
        Some(layer) => (1, layer, name.to_owned()),
        None => (if name.starts_with("output") { 2 } else { 0 }, 0, name.to_owned()),
    }
}

impl Quantized {
    fn of(planned: &[Planned], notices: Vec<String>) -> Quantized {
        let mut types: Vec<(&'static str, usize, u64)> = Vec::new();
        for tensor in planned {
            let bytes = tensor.bytes().unwrap_or_default();
            match types.iter_mut().find(|(name, ..)| *name == tensor.dtype.name) {
                Some((_, count, all)) => (*count, *all) = (*count + 1, *all + bytes),
                None => types.push((tensor.dtype.name, 1, bytes)),
            }
        }
        types.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        Quantized {
            parameters: planned.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum(),
            bytes: types.iter().map(|(_, _, bytes)| bytes).sum(),
            types,
            notices,
        }
    }
}
