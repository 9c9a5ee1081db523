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
use crate::models::Config;
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

/// A tensor that is to be written, and where its numbers come from: a place among the weights, or several that lie on top of
/// each other, or bytes as they are.
struct Task {
    planned: Planned,
    places: Vec<Place>,
    bytes: Vec<u8>,
}

/// A tensor among the weights, and what is done to it.
struct Place {
    name: String,
    shape: Vec<usize>,
    order: Option<Vec<usize>>,
    more_by: f32,
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
        let weights = Weights::open_sizes(&source.weights, Keep::AsStored, compute.clone())?;
        (config.architecture()?.load)(&config, &weights)?;
        weights.held()
    };
    let keep = cast.keep();
    let blocks = held.iter().find_map(|(name, held)| match held.kind {
        Kind::Blocks(format) if matches!(keep, Keep::Quantized(_)) => Some((name, format)),
        _ => None,
    });
    if let (WeightFiles::Gguf(file), Some((name, format))) = (&source.weights, blocks) {
        let problem = format!("tensor {} is quantised already ({})", quote(name), format.name());
        return Err(Error::unsupported(file.path(), problem, "quantise the model from f32, f16 or bf16"));
    }
    let weights = Weights::open(&source.weights, keep, compute)?;
    let mut plan = match &source.weights {
        WeightFiles::Gguf(file) => Plan::from_gguf(file, &weights, &held)?,
        _ => Plan::from_safetensors(&source, &config, &weights, &held)?,
    };
    plan.pairs.push(("general.file_type".to_owned(), Written::U32(cast.file_type())));
    plan.pairs.push(("general.quantization_version".to_owned(), Written::U32(QUANTIZATION_VERSION)));
    let (planned, numbers): (Vec<Planned>, Vec<_>) =
        plan.tasks.into_iter().map(|task| (task.planned, (task.places, task.bytes))).unzip();
    let mut writer = Writer::create(to, &plan.pairs, &planned)?;
    for (number, (places, bytes)) in numbers.into_iter().enumerate() {
        report(number, planned.len());
        writer.part(&bytes)?;
        for Place { name, shape, order, more_by } in places {
            let mut put = |bytes: &[u8]| writer.part(bytes);
            weights.at(&name).for_file(&shape, order.as_deref(), more_by, &mut put)?;
        }
        writer.end_tensor()?;
    }
    writer.finish()?;
    report(planned.len(), planned.len());
    Ok(Quantized::of(&planned, plan.notices))
}

fn type_of(kind: Kind) -> &'static TensorType {
    TensorType::read_as(match kind {
        Kind::Dense(Dtype::F32) => ReadAs::F32,
        Kind::Dense(Dtype::F16) => ReadAs::F16,
        Kind::Dense(Dtype::Bf16) => ReadAs::Bf16,
        Kind::Blocks(format) => ReadAs::Blocks(format),
    })
}

impl Place {
    /// The same once more.
    fn again(&self) -> Place {
        Place { name: self.name.clone(), shape: self.shape.clone(), order: self.order.clone(), more_by: self.more_by }
    }
}

const TABLE: &str = "token_embd.weight";
const HEAD: &str = "output.weight";

impl Plan {
    /// What a file says of a model that came as config.json, tokenizer and safetensors.
    fn from_safetensors(
        source: &Source,
        config: &Config,
        weights: &Weights,
        held: &BTreeMap<String, Held>,
    ) -> Result<Plan> {
        let architecture = config.architecture()?;
        let complete = (architecture.complete)(config)?;
        let model_type = complete["model_type"].as_str().unwrap_or(architecture.model_type);
        let mut description = describe(config.path, model_type, &complete)?;
        if let Some(license) = source.license() {
            description.text("general.license", &license);
        }
        let refused = |problem: String| Err(Error::unsupported(config.path, problem, "keep the model in safetensors"));
        let mut stacks: BTreeMap<String, BTreeMap<usize, (Place, Kind)>> = BTreeMap::new();
        let mut tasks = Vec::new();
        for (name, held) in held {
            let place = weights.at(name);
            if place.repeats_embedding() && !description.needs_head() {
                continue; // a file without a head has the table's
            }
            let (shape, kind) = place.in_file(&held.shape);
            let Some(to) = description.destination(name, shape[0]) else {
                return refused(format!("tensor {} has no name in a GGUF file of this architecture", quote(name)));
            };
            let place = Place { name: name.clone(), shape: held.shape.clone(), order: to.order, more_by: to.more_by };
            match to.number {
                Some(number) => _ = stacks.entry(to.name).or_default().insert(number, (place, kind)),
                None => tasks.push(Task {
                    planned: Planned { name: to.name, shape, dtype: type_of(kind) },
                    places: vec![place],
                    bytes: Vec::new(),
                }),
            }
        }
        for (name, stack) in stacks {
            let Some((place, kind)) = stack.first_key_value().map(|(_, first)| first) else { continue };
            let shape = [&[stack.len()], &place.shape[..]].concat();
            let planned = Planned { name, shape, dtype: type_of(*kind) };
            tasks.push(Task {
                planned,
                places: stack.into_values().map(|(place, _)| place).collect(),
                bytes: Vec::new(),
            });
        }
        let table = tasks.iter().find(|task| task.planned.name == TABLE);
        let rows = table.map_or(0, |task| task.planned.shape[0]);
        if description.needs_head() && !tasks.iter().any(|task| task.planned.name == HEAD) {
            let again = table.map(|Task { planned, places, .. }| Task {
                planned: Planned { name: HEAD.to_owned(), shape: planned.shape.clone(), dtype: planned.dtype },
                places: places.iter().map(Place::again).collect(),
                bytes: Vec::new(),
            });
            tasks.extend(again);
        }
        for (name, factors) in description.factors {
            tasks.push(Task {
                planned: Planned {
                    name: name.to_owned(),
                    shape: vec![factors.len()],
                    dtype: type_of(Kind::Dense(Dtype::F32)),
                },
                places: Vec::new(),
                bytes: bytemuck::cast_slice(&factors).to_vec(),
            });
        }
        tasks.sort_by_key(|task| place_in_file(&task.planned.name));
        let mut pairs = description.pairs;
        let name = source.name.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or("model");
        let tokenizer = metadata_of(&source.tokenizer, rows, &complete, name)?;
        pairs.push(("general.name".to_owned(), Written::Text(tokenizer.name)));
        pairs.extend(tokenizer.pairs);
        pairs.extend(templates(&ChatTemplate::load(&ChatFiles::beside(&source.config))?));
        let notices = [description.notices, tokenizer.notices].concat();
        Ok(Plan { pairs, tasks, notices })
    }

    /// What a file says of a model that came as a GGUF file: the same, but for the types.
    fn from_gguf(file: &Location, weights: &Weights, held: &BTreeMap<String, Held>) -> Result<Plan> {
        const CHANGED: [&str; 3] = ["general.file_type", "general.quantization_version", "general.alignment"];
        let gguf = Gguf::open(file)?;
        let keys = gguf.metadata.keys().filter(|key| !CHANGED.contains(key) && !key.starts_with("split."));
        let pairs = keys.filter_map(|key| Some((key.to_owned(), gguf.metadata.raw(key)?))).collect();
        let mut tasks = Vec::new();
        for tensor in gguf.raw_tensors()? {
            let is_held = !tensor.places.is_empty() && tensor.places.iter().all(|place| held.contains_key(place));
            let planned =
                |shape: &[usize], dtype| Planned { name: tensor.name.to_owned(), shape: shape.to_vec(), dtype };
            let is_several = tensor.places.is_empty() && tensor.shape.len() > 1; // queries, keys and values
            if is_several || is_held && tensor.each.len() > 2 {
                let problem =
                    format!("tensor {} of {} dimensions cannot be quantised", quote(tensor.name), tensor.shape.len());
                return Err(Error::unsupported(gguf.path(), problem, "quantise the model from its safetensors"));
            }
            tasks.push(match is_held && tensor.each.len() == 2 {
                true => {
                    let kind = weights.at(&tensor.places[0]).in_file(&tensor.each).1;
                    let place = |name: &String| Place {
                        name: name.clone(),
                        shape: tensor.each.clone(),
                        order: None,
                        more_by: 0.0,
                    };
                    Task {
                        planned: planned(tensor.shape, type_of(kind)),
                        places: tensor.places.iter().map(place).collect(),
                        bytes: Vec::new(),
                    }
                }
                false => Task {
                    planned: planned(tensor.shape, tensor.dtype),
                    places: Vec::new(),
                    bytes: tensor.bytes.unwrap_or_default().to_vec(),
                },
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
