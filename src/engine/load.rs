//! From a model's name to a model that runs: [`EngineBuilder`], and what it builds.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Engine;
use super::bench::Work;
use super::constraint::Vocabulary;
use super::defaults::ModelDefaults;
use super::fetch::SUPPORTED;
use super::line::{Reading, check_finite};
use super::room::{Grant, Room, check_weights, shown};
use crate::device::{Compute, DeviceChoice};
use crate::error::{Error, Result, quote};
use crate::gguf::Gguf;
use crate::hub::Hub;
use crate::kernels::CacheType;
use crate::models::{Config, Model, Shape};
use crate::nn::{Batch, KvCache, Rows};
use crate::prompt_cache::{Identity, hex};
use crate::source::{Location, Source, WeightFiles};
use crate::text::{ChatFiles, ChatTemplate, Tokenizer};
use crate::weights::{Dtype, Keep, Kind, Quant, Sizes, Tensors, Weights};

/// Tokens of a prompt that one step takes: enough that each weight read serves many rows, few enough that a cancelled
/// prompt stops soon.
const PREFILL_CHUNK: usize = 512;

/// How to load a model.
///
#[cfg_attr(feature = "ember", doc = "```")]
#[cfg_attr(not(feature = "ember"), doc = "```no_run")]
/// let engine = fireside::Engine::builder().threads(2).context(128).load("ember")?;
/// # Ok::<(), fireside::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    device: DeviceChoice,
    dtype: Option<Dtype>,
    quant: Option<Quant>,
    kv: Option<CacheType>,
    threads: Option<NonZeroUsize>,
    context: Option<usize>,
    prefill_chunk: Option<NonZeroUsize>,
    constrained: bool,
    max_memory: Option<u64>,
    only_described: bool,
    hub: Option<Hub>,
    chat_template: Option<String>,
}

impl EngineBuilder {
    /// Where models are fetched from and kept; by default what the environment says.
    #[must_use]
    pub fn hub(mut self, hub: Hub) -> Self {
        self.hub = Some(hub);
        self
    }

    /// Where to compute; the processor by default.
    #[must_use]
    pub fn device(mut self, device: DeviceChoice) -> Self {
        self.device = device;
        self
    }

    /// The format to keep weights in; as stored by default.
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Quantise the weights while they are loaded; by default they are as stored. Not together with [`Self::dtype`].
    #[must_use]
    pub fn quant(mut self, quant: Quant) -> Self {
        self.quant = Some(quant);
        self
    }

    /// What to keep keys and values of attention as; by default `f16` beside bf16 and quantised weights, and `f32` beside others.
    #[must_use]
    pub fn kv(mut self, kv: CacheType) -> Self {
        self.kv = Some(kv);
        self
    }

    /// How many threads compute; by default as many as the process may use. 0 means the default too.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = NonZeroUsize::new(threads);
        self
    }

    /// Most tokens of a sequence, prompt and text together; the model's own limit by default.
    #[must_use]
    pub fn context(mut self, tokens: usize) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Tokens of a prompt that one step takes, 512 by default. A cancelled prompt stops between two chunks; the results
    /// do not depend on it.
    #[must_use]
    pub fn prefill_chunk(mut self, tokens: usize) -> Self {
        self.prefill_chunk = NonZeroUsize::new(tokens);
        self
    }

    /// The most bytes that weights and caches may take; by default what the system says is free. More than that is refused
    /// before it is used.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64) -> Self {
        self.max_memory = Some(bytes);
        self
    }

    /// Looks at no weights but their headers: for [`Engine::info`] alone, of a model of any size.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn only_described(mut self) -> Self {
        self.only_described = true;
        self
    }

    /// Prepare for constrained output beside the loading of weights. Without it the first request that asks for it does,
    /// which takes a tenth of a second for a vocabulary of 50,000.
    #[must_use]
    pub fn constrained(mut self) -> Self {
        self.constrained = true;
        self
    }

    /// The chat template to use, in Jinja; by default the model's own.
    #[must_use]
    pub fn chat_template(mut self, source: impl Into<String>) -> Self {
        self.chat_template = Some(source.into());
        self
    }

    /// Loads a model: `ember`, a folder, a `.gguf` file, a `.safetensors` file with its siblings, or a model of the Hub by its short name
    /// or as `owner/name`, which is fetched once and then found in the cache.
    pub fn load(mut self, name: &str) -> Result<Engine> {
        let keep = self.keep()?;
        let source = match Source::local(name)? {
            Some(source) => source,
            None => self.hub.take().map_or_else(Hub::from_env, Ok)?.resolve(name, &SUPPORTED)?,
        };
        let start = Instant::now();
        let compute = Compute::open(self.device, self.threads)?;
        let (config, gguf) = read_config(&source)?;
        let architecture = config.architecture()?;
        let defaults = read_defaults(&config, source.generation_config.as_ref())?;
        // The tokenizer's tables take about as long as looking through the weights of a small model, on one thread.
        let (tokenizer, model) = std::thread::scope(|scope| {
            let tokenizer = scope.spawn(|| {
                let tokenizer = Tokenizer::open(&source.tokenizer)?;
                let vocabulary = OnceLock::new();
                if self.constrained {
                    let _ = vocabulary.set(Vocabulary::new(&tokenizer)?); // it is empty
                }
                Ok::<_, Error>((tokenizer, vocabulary))
            });
            let model = self
                .open(&source.weights, keep, &compute)
                .and_then(|(weights, sizes)| Ok(((architecture.load)(&config, &weights)?, weights, sizes)));
            (tokenizer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), model)
        });
        let ((tokenizer, vocabulary), (model, weights, sizes)) = (tokenizer?, model?);

        let shape = model.shape().clone();
        defaults.check(source.generation_config.as_ref().unwrap_or(&source.config).path(), shape.vocab_size)?;
        // Special tokens may lie behind it, such as the one that stands for an image in Gemma 3's models without vision; a
        // prompt with one of them is refused.
        let beyond = (shape.vocab_size..tokenizer.id_limit()).find(|id| !tokenizer.is_special(*id as u32));
        if let Some(id) = beyond {
            return Err(Error::file(
                source.tokenizer.path(),
                format!("expected tokens below the model's vocabulary of {}, found token {id}", shape.vocab_size),
                "the tokenizer belongs to another model; copy it from where the weights came from",
            ));
        }
        let context = context_of(&shape, self.context)?;
        let prefill_chunk = self.prefill_chunk.map_or(PREFILL_CHUNK, NonZeroUsize::get);
        let mut warnings = defaults.warnings.clone();
        warnings.extend(weights.warnings());
        warnings.extend(unused_warning(&weights.unused()));
        let kept = weights.kept();
        let kv = self.kv.unwrap_or_else(|| weights.main_kind().cache());
        let mapped = weights.held().values().filter(|held| held.is_mapped).map(|held| held.bytes).sum();
        let info = Info {
            name: source.name.clone(),
            architecture: architecture.model_type,
            parameters: kept.iter().map(|(_, numbers, _)| numbers).sum(),
            weight_bytes: kept.iter().map(|(_, _, bytes)| bytes).sum(),
            dtypes: kept.iter().map(|(dtype, ..)| dtype.to_string()).collect(),
            vocab_size: shape.vocab_size,
            tokenizer: format!("{}, {} tokens", tokenizer.kind(), tokenizer.vocab_size()),
            context,
            layers: shape.n_layers,
            cache_bytes_per_token: 2 * shape.n_layers * kv.bytes(shape.kv_width),
            kv,
            license: source.license().or_else(|| gguf.as_ref()?.license()),
            device: compute.describe(),
            defaults: defaults.of_the_model(),
            load_time: start.elapsed(),
        };
        let room = Room::new(self.max_memory, info.weight_bytes, mapped);
        let work = Work::of(&weights, model.shape());
        let chat = read_template(&source.config, gguf.as_ref(), self.chat_template.as_deref())?;
        let tokenizer = Arc::new(tokenizer);
        let made_of = format!("{} {keep:?}", config.json);
        let loaded = Loaded {
            weights,
            made_of,
            model,
            tokenizer,
            vocabulary,
            defaults,
            compute,
            context,
            prefill_chunk,
            info,
            sizes,
            room,
            warnings,
            chat,
            end_of_turn: OnceLock::new(),
            work,
        };
        Ok(Engine { loaded: Arc::new(loaded) })
    }

    /// The weights, where there is room for them.
    fn open(&self, files: &WeightFiles, keep: Keep, compute: &Compute) -> Result<(Weights, Sizes)> {
        if self.only_described {
            // candle's operations would copy what is not there.
            let kernels = Some(compute.kernels.unwrap_or_else(crate::kernels::best));
            let weights = Weights::open_sizes(files, keep, Compute { kernels, ..compute.clone() })?;
            let sizes = Sizes::of(&weights.listed(), keep);
            return Ok((weights, sizes));
        }
        let weights = Weights::open(files, keep, compute.clone())?;
        let listed = weights.listed();
        let sizes = Sizes::of(&listed, keep);
        if compute.device.is_cpu() {
            check_weights(self.max_memory, sizes.bytes, |most| smaller(&listed, most))?;
        }
        Ok((weights, sizes))
    }

    fn keep(&self) -> Result<Keep> {
        match (self.dtype, self.quant) {
            (Some(dtype), Some(quant)) => {
                let problem = format!("is `{quant}`, which `--dtype {dtype}` contradicts");
                Err(Error::setting("quant", problem, "give one of the two: what stays unquantised is kept as stored"))
            }
            (Some(dtype), None) => Ok(Keep::As(dtype)),
            (None, Some(quant)) => Ok(Keep::Quantized(quant)),
            (None, None) => Ok(Keep::AsStored),
        }
    }
}

/// What somebody may do whose memory holds `most` bytes.
fn smaller(listed: &Tensors, most: u64) -> String {
    // Blocks are not quantised again.
    let are_blocks = listed.values().any(|tensor| matches!(tensor.stored_as, Ok(Kind::Blocks(_))));
    let choices = if are_blocks { &[][..] } else { &[Quant::Q8_0, Quant::Q4KM, Quant::Q2K] };
    let quantised = choices.iter().find_map(|quant| {
        let bytes = Sizes::of(listed, Keep::Quantized(*quant)).bytes;
        (bytes <= most).then(|| format!("quantise with `--quant {quant}` ({})", shown(bytes)))
    });
    let first = quantised.unwrap_or_else(|| "take a smaller model".to_owned());
    format!("{first}, or allow more with `--max-memory`: what does not fit is read from the disk at every token")
}

/// The model's chat template, or the user's in its place. A template that does not parse stands in nobody's way but a
/// conversation's.
fn read_template(config: &Location, gguf: Option<&Gguf>, given: Option<&str>) -> Result<Result<ChatTemplate, String>> {
    let own = match gguf {
        Some(gguf) => template_in(gguf, config),
        None => ChatTemplate::load(&ChatFiles::beside(config)),
    };
    match given {
        Some(source) => own.or_else(|_| ChatTemplate::new(source))?.replaced(source).map(Ok),
        None => Ok(own.map_err(|error| error.to_string())),
    }
}

/// The chat templates of a GGUF file, or those that lie beside it.
fn template_in(gguf: &Gguf, file: &Location) -> Result<ChatTemplate> {
    const KEY: &str = "tokenizer.chat_template";
    let mut sources = Vec::new();
    let further = gguf.metadata.keys().filter_map(|key| Some((key, key.strip_prefix(KEY)?.strip_prefix('.')?)));
    for (key, name) in [(KEY, "default")].into_iter().chain(further) {
        sources.extend(gguf.metadata.string(key)?.map(|source| (name.to_owned(), source.to_owned())));
    }
    let mut template = match sources.is_empty() {
        false => ChatTemplate::named(sources, "the chat template of the GGUF file")?,
        true => ChatTemplate::load(&ChatFiles::beside(file))?,
    };
    for (name, token) in gguf.special_tokens()? {
        template = template.with_token(name, &token);
    }
    Ok(template)
}

/// Most tokens of a sequence, as the user or the model says.
pub(super) fn context_of(shape: &Shape, wanted: Option<usize>) -> Result<usize> {
    let context = wanted.unwrap_or(shape.context);
    if context < 2 || context > shape.context {
        return Err(Error::setting(
            "context",
            format!("is {context}, expected from 2 to {}, the model's own", shape.context),
            "",
        ));
    }
    Ok(context)
}

/// config.json, or what a GGUF file says instead, and that file.
pub(super) fn read_config(source: &Source) -> Result<(Config<'_>, Option<Gguf>)> {
    let path = source.config.path();
    match &source.weights {
        WeightFiles::Gguf(file) => {
            let gguf = Gguf::open(file)?;
            Ok((Config { path, json: gguf.config()? }, Some(gguf)))
        }
        WeightFiles::Single(_) | WeightFiles::Sharded(_) => {
            Ok((Config::parse(path, &source.config.read_text()?)?, None))
        }
    }
}

fn read_defaults(config: &Config, generation: Option<&Location>) -> Result<ModelDefaults> {
    let generation = generation.map(|location| Ok::<_, Error>((location.path(), parse_json(location)?))).transpose()?;
    let generation = generation.as_ref().map(|(path, json)| (*path, json));
    ModelDefaults::read((config.path, &config.json), generation)
}

fn parse_json(location: &Location) -> Result<Value> {
    let text = location.read_text()?;
    serde_json::from_str(&text).map_err(|error| {
        Error::file(location.path(), format!("expected JSON: {error}"), "the file is damaged; copy it again")
    })
}

fn unused_warning(names: &[String]) -> Option<String> {
    let first = names.first()?;
    let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
    Some(format!("the weights hold tensors that the architecture does not use: {}{more}", quote(first)))
}

/// What is loaded once and shared by all that runs.
pub(crate) struct Loaded {
    pub(super) model: Box<dyn Model>,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// What constrained output needs of it, once it was asked for.
    vocabulary: OnceLock<Vocabulary>,
    pub(super) defaults: ModelDefaults,
    pub(super) compute: Compute,
    /// Most tokens of a sequence: the model's own, or fewer where the builder says so.
    pub(super) context: usize,
    /// Tokens of a prompt that one step takes.
    pub(super) prefill_chunk: usize,
    pub(super) info: Info,
    /// What the headers of its files say.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))] // only `info` asks
    pub(super) sizes: Sizes,
    /// What it leaves of the memory.
    pub(super) room: Room,
    pub(super) warnings: Vec<String>,
    /// The files' tensors, and what else the numbers depend on: the config, and what weights are kept as.
    weights: Weights,
    made_of: String,
    /// How the model is talked to, or why that cannot be known.
    pub(super) chat: Result<ChatTemplate, String>,
    /// The token that ends an assistant's message, once somebody asked.
    pub(super) end_of_turn: OnceLock<Option<u32>>,
    /// What a token costs; only `bench` asks.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    pub(super) work: Work,
}

/// What is known of a loaded model.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// The name that it was loaded by.
    pub name: String,
    /// config.json's `model_type`.
    pub architecture: &'static str,
    /// Numbers in the tensors that the architecture uses.
    pub parameters: usize,
    /// Bytes of those, as they are kept.
    pub weight_bytes: usize,
    /// The formats that they are kept in, most bytes first.
    pub dtypes: Vec<String>,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// What kind of tokenizer it has, and how many tokens that knows.
    pub tokenizer: String,
    /// Most tokens of a sequence.
    pub context: usize,
    /// Layers.
    pub layers: usize,
    /// What keys and values of attention are kept as.
    pub kv: CacheType,
    /// Bytes of cached keys and values for one token.
    pub cache_bytes_per_token: usize,
    /// The licence that the model's card names.
    pub license: Option<String>,
    /// What computes: device, kernels, threads.
    pub device: String,
    /// The model's own sampling settings.
    pub defaults: Map<String, Value>,
    /// How long loading took.
    pub load_time: Duration,
}

impl Loaded {
    pub(super) fn new_cache(&self) -> KvCache {
        let shape = self.model.shape();
        KvCache::new(shape.n_layers, self.info.kv)
    }

    /// Room for the caches of a generation.
    pub(super) fn grant(&self) -> Grant {
        Grant::new(self.room, self.info.cache_bytes_per_token)
    }

    /// What a prompt cache must have been made by to be used.
    pub(super) fn identity(&self) -> Identity {
        let model = Sha256::new().chain_update(&self.made_of).chain_update(self.weights.fingerprint()).finalize();
        Identity {
            name: self.info.name.clone(),
            model: hex(&model),
            layers: self.model.shape().n_layers,
            kind: self.info.kv,
        }
    }

    pub(super) fn vocabulary(&self) -> Result<&Vocabulary> {
        if let Some(vocabulary) = self.vocabulary.get() {
            return Ok(vocabulary);
        }
        let vocabulary = Vocabulary::new(&self.tokenizer)?;
        Ok(self.vocabulary.get_or_init(|| vocabulary))
    }

    /// How texts are read.
    pub(super) fn reading(&self) -> Reading {
        Reading { chunk: self.prefill_chunk, border: self.model.shape().border }
    }

    /// Reads `ids` as a text of their own, chunk by chunk, and hands each wanted row of logits, (vocabulary), to `on_row`
    /// with its position. Rows before `first` are not wanted.
    pub(super) fn read(
        &self,
        ids: &[u32],
        first: usize,
        mut on_row: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.grant().check(ids.len())?;
        let mut cache = self.new_cache();
        while cache.len() < ids.len() {
            let Range { start, end } = self.reading().missing(ids, &mut cache);
            let first = first.clamp(start, end);
            let mut batch = Batch::default();
            batch.push(&ids[start..end], &mut cache, if first == end { Rows::None } else { Rows::Last(end - first) });
            let logits = self.forward(&mut batch)?;
            for (position, row) in (first..).zip(logits.chunks_exact(self.model.shape().vocab_size)) {
                check_finite(row, position)?;
                on_row(position, row)?;
            }
        }
        Ok(())
    }

    /// One forward pass: the wanted rows of logits, each (vocabulary).
    pub(super) fn forward(&self, batch: &mut Batch) -> Result<Vec<f32>> {
        forward(&*self.model, batch)
    }
}

/// One forward pass: the wanted rows of logits, each (vocabulary).
pub(super) fn forward(model: &dyn Model, batch: &mut Batch) -> Result<Vec<f32>> {
    let logits = model.forward(batch)?;
    batch.commit();
    Ok(logits.flatten_all()?.to_vec1()?)
}
