//! What is measured: a model of this machine or the Hub, or a shape with random weights.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Args, usage};
use crate::cli::model::warn;
use crate::device::Compute;
use crate::engine::bench::Bench;
use crate::hub::catalog::{cards, closest, find};
use crate::models::Config;
use crate::{ARCHITECTURES, Dtype, EMBEDDED, Error};

/// A model that is ready.
pub(super) struct Subject {
    pub(super) bench: Bench,
    name: String,
    architecture: String,
    random: bool,
}

/// A model, as the report names it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) architecture: String,
    /// The formats of the weights, the one with the most bytes first: `q4_0+f32`.
    #[serde(rename = "type")]
    pub(super) dtype: String,
    /// What keys and values are cached as.
    pub(super) kv: String,
    /// True where only the shape is the model's.
    pub(super) random_weights: bool,
    pub(super) parameters: usize,
    pub(super) weight_bytes: usize,
    pub(super) bytes_per_token: usize,
    pub(super) layers: usize,
    pub(super) vocab_size: usize,
    pub(super) context: usize,
}

impl Subject {
    /// Loads or makes the model.
    pub(super) fn open(args: &Args, threads: Option<NonZeroUsize>) -> Result<Subject> {
        if let Some(shape) = &args.random {
            return Subject::random(args, shape, threads);
        }
        let model = args.model.as_deref().unwrap_or(EMBEDDED);
        let engine = args.machine.load_with(model, threads.map_or(0, NonZeroUsize::get))?;
        warn(engine.warnings());
        let info = engine.info();
        let (name, architecture) = (crate::error::line(&info.name), info.architecture.to_owned());
        Ok(Subject { bench: Bench::of(&engine), name, architecture, random: false })
    }

    fn random(args: &Args, shape: &str, threads: Option<NonZeroUsize>) -> Result<Subject> {
        let (name, mut config, stored) = config_of(shape)?;
        if let Some(layers) = args.layers {
            config.remove("n_layer");
            config.insert("num_hidden_layers".to_owned(), json!(layers));
        }
        let compute = Compute::open(args.machine.device.unwrap_or_default(), threads)?;
        let config = Config { path: Path::new(shape), json: Value::Object(config) };
        let architecture = config.architecture()?.model_type.to_owned();
        let (keep, kv) = (args.machine.keep(), args.machine.kv);
        let bench =
            Bench::random(&config, (stored, keep), kv, (args.machine.context, args.machine.max_memory), compute)?;
        let name = match args.layers {
            Some(layers) => format!("{name}, {}", crate::error::count(layers as usize, "layer")),
            None => name,
        };
        Ok(Subject { bench, name, architecture, random: true })
    }

    /// The model for the report.
    pub(super) fn describe(&self) -> Model {
        let (work, shape) = (self.bench.work(), self.bench.shape());
        Model {
            name: self.name.clone(),
            architecture: self.architecture.clone(),
            dtype: work.dtypes.join("+"),
            kv: self.bench.kv().to_string(),
            random_weights: self.random,
            parameters: work.parameters,
            weight_bytes: work.weight_bytes,
            bytes_per_token: work.bytes_per_pass,
            layers: shape.n_layers,
            vocab_size: shape.vocab_size,
            context: self.bench.context(),
        }
    }
}

/// The name, config.json and stored format of a shape: of a card that knows its own, or an architecture's own defaults.
fn config_of(shape: &str) -> Result<(String, Map<String, Value>, Dtype)> {
    if shape == EMBEDDED {
        return Err(usage(format!("`{EMBEDDED}` is here with its own weights"), "measure it with `--model ember`"));
    }
    if let Some(card) = find(shape) {
        let Some(sizes) = &card.shape else {
            let with: Vec<&str> = cards().iter().filter(|card| card.shape.is_some()).map(|card| &*card.name).collect();
            let problem = format!("the shape of `{}` is not known; known are {}", card.name, with.join(", "));
            return Err(usage(problem, "measure the model itself with `--model`"));
        };
        let mut config = sizes.clone();
        config.insert("model_type".to_owned(), json!(card.architecture));
        return Ok((card.name.clone(), config, card.dtype.parse().unwrap_or(Dtype::Bf16)));
    }
    if let Some(architecture) = ARCHITECTURES.iter().find(|architecture| architecture.model_type == shape) {
        let config = Map::from_iter([("model_type".to_owned(), json!(architecture.model_type))]);
        return Ok((architecture.model_type.to_owned(), config, Dtype::F32));
    }
    let known: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.model_type).collect();
    let hint = match closest(shape) {
        Some(near) => format!("did you mean `{near}`? `fireside models` lists all"),
        None => format!("`fireside models` lists all; architectures are {}", known.join(", ")),
    };
    let problem = "no card and no architecture has this name".to_owned();
    Err(Error::ModelNotFound { name: shape.to_owned(), problem, hint }.into())
}
