//! Forward passes of given sizes: what `fireside bench` times, and what they ask of the machine at least.
//!
//! The sizes are llama-bench's. A prompt of N tokens goes through in passes of at most [`PASS`] tokens, with logits for the
//! last alone; text is N passes of one token, each with logits, that follow `depth` tokens in the cache. Tokens are drawn
//! at random and nothing is sampled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Engine;
use super::line::check_finite;
use super::load::{Loaded, context_of, forward};
use super::random::Random;
use super::room::check_weights;
use crate::device::Compute;
use crate::error::{Error, Result};
use crate::kernels::{Arithmetic, CacheType, Kernels, Pool};
use crate::models::{Config, Model, Shape};
use crate::nn::{Batch, KvCache, Rows};
use crate::weights::{Dtype, Held, Keep, Kind, Made, Mix, Weights, gathered};

/// Tokens of all sequences together in one pass: llama-bench's `--ubatch-size`, so that `pp512` is one pass in both.
const PASS: usize = 512;

/// A model that is measured.
pub(crate) struct Bench {
    subject: Subject,
    work: Work,
    tokens: Random,
    drawn: usize,
}

enum Subject {
    Loaded(Arc<Loaded>),
    Random { model: Box<dyn Model>, compute: Compute, context: usize, kv: CacheType },
}

/// What a model's tokens cost, by the shapes and formats of its weights.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    /// Numbers that the model learnt.
    pub(crate) parameters: usize,
    /// Bytes of them as they are kept.
    pub(crate) weight_bytes: usize,
    /// The formats that they are kept in, most bytes first.
    pub(crate) dtypes: Vec<String>,
    /// Bytes of weights that a pass reads at least, however many tokens it has.
    pub(crate) bytes_per_pass: usize,
    /// Multiplications of a token with the weights, by the arithmetic of their format, without `wanted`.
    products: Vec<(Arithmetic, usize)>,
    /// The same of what runs only for tokens whose logits are wanted: the last layer behind its keys and values, and the head.
    wanted: Vec<(Arithmetic, usize)>,
}

/// What a measurement asks of the machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand {
    /// Bytes of weights and cache that must be read.
    pub(crate) bytes: f64,
    /// Multiplications and additions, by arithmetic.
    pub(crate) operations: Vec<(Arithmetic, f64)>,
}

/// Sequences that a measurement goes on with.
pub(crate) struct Sequences {
    caches: Vec<KvCache>,
    depth: usize,
}

impl Bench {
    /// A loaded model.
    pub(crate) fn of(engine: &Engine) -> Bench {
        Bench::new(Subject::Loaded(Arc::clone(&engine.loaded)), engine.loaded.work.clone())
    }

    /// A model of a shape that config.json describes, with random weights.
    pub(crate) fn random(
        config: &Config,
        (stored, keep): (Dtype, Keep),
        kv: Option<CacheType>,
        (context, max_memory): (Option<usize>, Option<u64>),
        compute: Compute,
    ) -> Result<Bench> {
        let architecture = config.architecture()?;
        // Laid out without numbers first, which takes no memory: for the mixture, and to see whether there is room. candle's
        // operations would copy what has no numbers.
        let without_numbers =
            Compute { kernels: Some(compute.kernels.unwrap_or_else(crate::kernels::best)), ..compute.clone() };
        let lay_out = |dtype: Dtype, mix: Option<Mix>| -> Result<(Weights, Box<dyn Model>)> {
            let sizes = Weights::random(SEED, Made::Sizes, dtype, mix, without_numbers.clone());
            let model = (architecture.load)(config, &sizes)?;
            Ok((sizes, model))
        };
        let (dtype, mix) = match keep {
            Keep::AsStored => (stored, None),
            Keep::As(dtype) => (dtype, None),
            Keep::Quantized(quant) => {
                let (sizes, model) = lay_out(stored, None)?;
                let shape = model.shape();
                let group = shape.q_width / shape.kv_width;
                let experts = shape.experts.map_or(0, |(_, experts)| experts);
                let mix = Mix::new(quant, shape.n_layers, group, !sizes.holds_head());
                (stored, Some(mix.with_experts(experts)))
            }
        };
        if compute.kernels.is_some() {
            let (sizes, model) = lay_out(dtype, mix.clone())?;
            let bytes = Work::of(&sizes, model.shape()).weight_bytes as u64;
            let hint = "ask for fewer with `--layers`, or a smaller format with `--quant` or `--dtype`";
            check_weights(max_memory, bytes, |_| hint.to_owned())?;
        }
        let weights = Weights::random(SEED, Made::Numbers, dtype, mix, compute.clone());
        let model = (architecture.load)(config, &weights)?;
        let work = Work::of(&weights, model.shape());
        let context = context_of(model.shape(), context)?;
        let kv = kv.unwrap_or_else(|| weights.main_kind().cache());
        Ok(Bench::new(Subject::Random { model, compute, context, kv }, work))
    }

    fn new_cache(&self) -> KvCache {
        KvCache::new(self.shape().n_layers, self.kv())
    }

    fn new(subject: Subject, work: Work) -> Bench {
        Bench { subject, work, tokens: Random::new(SEED, 0), drawn: 0 }
    }

    /// The sizes that the model was built with.
    pub(crate) fn shape(&self) -> &Shape {
        self.model().shape()
    }

    /// Most tokens of a sequence.
    pub(crate) fn context(&self) -> usize {
        match &self.subject {
            Subject::Loaded(loaded) => loaded.context,
            Subject::Random { context, .. } => *context,
        }
    }

    /// What a token costs.
    pub(crate) fn work(&self) -> &Work {
        &self.work
    }

    /// The threads that compute.
    pub(crate) fn pool(&self) -> &Pool {
        &self.compute().pool
    }

    /// Our kernels, where they compute and not candle or a device.
    pub(crate) fn kernels(&self) -> Option<&'static Kernels> {
        self.compute().kernels
    }

    /// Whether the processor computes, by our kernels or by candle's operations.
    pub(crate) fn is_on_cpu(&self) -> bool {
        self.compute().device.is_cpu()
    }

    /// What computes, for messages.
    pub(crate) fn device(&self) -> String {
        self.compute().describe()
    }

    /// Sequences with `depth` tokens each. Each has a cache of its own: what several share is read once for all of them.
    pub(crate) fn sequences(&mut self, count: usize, depth: usize) -> Result<Sequences> {
        let mut caches: Vec<KvCache> = (0..count).map(|_| self.new_cache()).collect();
        self.feed(&mut caches, depth)?;
        Ok(Sequences { caches, depth })
    }

    /// How long it takes to read a prompt of `tokens` tokens in each sequence, then to write `steps` further ones. The
    /// sequences are left as they were.
    pub(crate) fn measure(&mut self, sequences: &mut Sequences, tokens: usize, steps: usize) -> Result<Duration> {
        let start = Instant::now();
        let mut logits = self.feed(&mut sequences.caches, tokens)?;
        for _ in 0..steps {
            logits = self.step(&mut sequences.caches, 1, Rows::Last(1))?;
        }
        let took = start.elapsed();
        let position = sequences.caches[0].len().saturating_sub(1);
        logits.chunks_exact(self.shape().vocab_size).try_for_each(|row| check_finite(row, position))?;
        sequences.caches.iter_mut().for_each(|cache| cache.truncate(sequences.depth));
        Ok(took)
    }

    /// Runs one pass that is not timed, so that what another program, or a probe of the memory, drove out of the caches
    /// is back where the pass before a timed one would have left it.
    pub(crate) fn refresh(&mut self, sequences: &mut Sequences) -> Result<()> {
        self.measure(sequences, 0, 1).map(|_| ())
    }

    /// What [`Bench::measure`] asks of the machine at least.
    pub(crate) fn demand(&self, sequences: usize, depth: usize, tokens: usize, steps: usize) -> Demand {
        let shape = self.shape();
        let (rows, layers) = (sequences as f64, shape.n_layers as f64);
        let passes = tokens.div_ceil(chunk(sequences)) + steps;
        // Rows of the cache that a text's tokens see, and those that its passes read.
        let (after, all) = ((depth + tokens) as f64, (tokens + steps) as f64);
        let seen = all * (depth as f64 + (all + 1.0) / 2.0);
        let read = if tokens > 0 { after } else { 0.0 } + steps as f64 * (after + (steps as f64 + 1.0) / 2.0);
        let cache_row = (2 * self.kv().bytes(shape.kv_width)) as f64;
        let mut operations: Vec<(Arithmetic, f64)> = Vec::new();
        let mut add = |arithmetic: Arithmetic, count: f64| match operations.iter_mut().find(|(a, _)| *a == arithmetic) {
            Some((_, sum)) => *sum += count,
            None => operations.push((arithmetic, count)),
        };
        for (arithmetic, count) in &self.work.products {
            add(*arithmetic, 2.0 * *count as f64 * rows * all);
        }
        let wanted = steps + usize::from(tokens > 0);
        for (arithmetic, count) in &self.work.wanted {
            add(*arithmetic, 2.0 * *count as f64 * rows * wanted as f64);
        }
        // A product with the key and one with the value of every row that is seen, of the last layer by wanted tokens alone.
        add(Arithmetic::F32, 4.0 * shape.q_width as f64 * rows * ((layers - 1.0) * seen + read));
        Demand { bytes: passes as f64 * self.work.bytes_per_pass as f64 + rows * layers * cache_row * read, operations }
    }

    /// Bytes that so many sequences of so many tokens need beside the weights: cache, logits, and a pass's activations.
    pub(crate) fn bytes_of(&self, sequences: usize, tokens: usize) -> usize {
        const ACTIVATIONS: usize = 64 << 20; // a pass of 512 tokens at the widest layer of a 7B model
        let shape = self.shape();
        let cache = [2, shape.n_layers, self.kv().bytes(shape.kv_width), tokens];
        let logits = [2, shape.vocab_size, size_of::<f32>()];
        let product = |factors: &[usize]| factors.iter().fold(sequences, |product, n| product.saturating_mul(*n));
        product(&cache).saturating_add(product(&logits)).saturating_add(ACTIVATIONS)
    }

    /// Reads so many tokens in each sequence, pass by pass; the logits of the last pass.
    fn feed(&mut self, caches: &mut [KvCache], tokens: usize) -> Result<Vec<f32>> {
        let chunk = chunk(caches.len());
        let (mut left, mut logits) = (tokens, Vec::new());
        while left > 0 {
            let now = left.min(chunk);
            left -= now;
            logits = self.step(caches, now, if left == 0 { Rows::Last(1) } else { Rows::None })?;
        }
        Ok(logits)
    }

    /// One pass with so many tokens of each sequence.
    fn step(&mut self, caches: &mut [KvCache], tokens: usize, rows: Rows) -> Result<Vec<f32>> {
        let vocabulary = self.shape().vocab_size as f64;
        let ids: Vec<Vec<u32>> = caches
            .iter()
            .map(|_| {
                let drawn = self.drawn..self.drawn + tokens;
                self.drawn = drawn.end;
                drawn.map(|i| (self.tokens.uniform(i, 0) * vocabulary) as u32).collect()
            })
            .collect();
        let mut batch = Batch::default();
        for (ids, cache) in ids.iter().zip(caches) {
            batch.push(ids, cache, rows);
        }
        forward(self.model(), &mut batch)
    }

    fn model(&self) -> &dyn Model {
        match &self.subject {
            Subject::Loaded(loaded) => &*loaded.model,
            Subject::Random { model, .. } => &**model,
        }
    }

    /// What keys and values are cached as.
    pub(crate) fn kv(&self) -> CacheType {
        match &self.subject {
            Subject::Loaded(loaded) => loaded.info.kv,
            Subject::Random { kv, .. } => *kv,
        }
    }

    fn compute(&self) -> &Compute {
        match &self.subject {
            Subject::Loaded(loaded) => &loaded.compute,
            Subject::Random { compute, .. } => compute,
        }
    }
}

/// Tokens of each sequence in one pass of a prompt.
fn chunk(sequences: usize) -> usize {
    (PASS / sequences).max(1)
}

/// Of random weights and tokens: any fixed number, so that two runs do the same.
const SEED: u64 = 42;

impl Work {
    /// What the tensors that a model's layers hold cost a token.
    pub(super) fn of(weights: &Weights, shape: &Shape) -> Work {
        let held = weights.held();
        let tables = gathered(held.keys().map(String::as_str));
        let mut work = Work::default();
        let mut formats: Vec<(String, usize)> = Vec::new();
        for (name, Held { shape: dims, kind, bytes, .. }) in &held {
            let numbers: usize = dims.iter().product();
            work.parameters += numbers;
            work.weight_bytes += bytes;
            let kind_name = kind.to_string();
            match formats.iter_mut().find(|(known, _)| *known == kind_name) {
                Some((_, sum)) => *sum += bytes,
                None => formats.push((kind_name, *bytes)),
            }
            if tables.contains(&name.as_str()) {
                continue;
            }
            // Of experts only those that one token has.
            let (used, all) = shape.experts.filter(|_| name.contains(".experts.")).unwrap_or((1, 1));
            let (numbers, bytes) = (numbers * used / all, bytes * used / all);
            work.bytes_per_pass += bytes;
            if dims.len() == 2 {
                let is_behind = layer_of(name) == Some(shape.n_layers - 1) && !makes_keys(name);
                let is_wanted = is_behind || dims[0] == shape.vocab_size;
                let to = if is_wanted { &mut work.wanted } else { &mut work.products };
                let arithmetic = arithmetic_of(*kind);
                match to.iter_mut().find(|(known, _)| *known == arithmetic) {
                    Some((_, count)) => *count += numbers,
                    None => to.push((arithmetic, numbers)),
                }
            }
        }
        formats.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        work.dtypes = formats.into_iter().map(|(dtype, _)| dtype).collect();
        work
    }
}

/// The layer that a tensor belongs to: the first number in its name.
fn layer_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Whether a tensor makes queries, keys or values.
fn makes_keys(name: &str) -> bool {
    ["q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn"].iter().any(|part| name.contains(part))
}

/// What weights of a format are multiplied in; f16 is widened.
fn arithmetic_of(kind: Kind) -> Arithmetic {
    match kind {
        Kind::Dense(Dtype::F32 | Dtype::F16) => Arithmetic::F32,
        Kind::Dense(Dtype::Bf16) => Arithmetic::Bf16,
        Kind::Blocks(_) => Arithmetic::Int8,
    }
}

/// A setting of the bench that a model's context has no room for.
pub(crate) fn check_context(setting: &'static str, tokens: usize, context: usize) -> Result<()> {
    if tokens <= context {
        return Ok(());
    }
    let problem = format!("asks for {tokens} tokens in a sequence, and the model's context has {context}");
    Err(Error::setting(setting, problem, "ask for fewer, or for a model with a longer context"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;
    use crate::hub::catalog::cards;
    use crate::models::ARCHITECTURES;

    /// transformers' defaults are the shape of a published model, whose parameters are known: the sizes of every tensor that
    /// an architecture asks for are right.
    #[test]
    fn an_architecture_without_settings_has_the_parameters_of_its_first_model() {
        let compute = Compute::open(crate::device::DeviceChoice::Cpu, None).expect("the processor");
        let mut wrong = false;
        for (model_type, expected) in [
            ("gpt2", 124_439_808),         // GPT-2 124M
            ("gpt_neo", 1_315_575_808),    // GPT-Neo 1.3B
            ("gpt_neox", 20_554_567_680),  // GPT-NeoX 20B
            ("gptj", 6_050_882_784),       // GPT-J 6B
            ("opt", 125_239_296),          // OPT 125M
            ("falcon", 6_921_720_704),     // Falcon 7B
            ("bloom", 559_214_592),        // BLOOM 560M, whose sizes are not the defaults
            ("phi", 1_418_270_720),        // Phi-1.5
            ("stablelm", 2_795_443_200),   // StableLM 3B 4E1T
            ("starcoder2", 3_030_371_328), // StarCoder2 3B
            ("llama", 6_738_415_616),      // Llama 7B
            ("mistral", 7_241_732_096),    // Mistral 7B v0.1
            ("mixtral", 46_702_792_704),   // Mixtral 8x7B
            ("qwen3_moe", 30_532_122_624), // Qwen3 30B-A3B, which has more layers
            ("gemma", 8_537_680_896),      // Gemma 7B
            ("gemma2", 2_614_341_888),     // Gemma 2 2B
            ("phi3", 3_821_079_552),       // Phi-3 mini
            ("olmo2", 7_298_617_344),      // OLMo 2 7B, which has a larger vocabulary
            ("granite", 2_533_531_648),    // Granite 3.1 2B, whose sizes are not the defaults
            ("smollm3", 3_075_098_624),    // SmolLM3 3B
        ] {
            let json = match model_type {
                "bloom" => json!({ "model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16 }),
                "qwen3_moe" => json!({ "model_type": "qwen3_moe", "num_hidden_layers": 48, "head_dim": 128 }),
                "olmo2" => json!({ "model_type": "olmo2", "vocab_size": 100_352 }),
                "granite" => json!({
                    "model_type": "granite", "vocab_size": 49_155, "hidden_size": 2048, "intermediate_size": 8192,
                    "num_hidden_layers": 40, "num_key_value_heads": 8, "tie_word_embeddings": true,
                }),
                _ => json!({ "model_type": model_type }),
            };
            let config = Config { path: Path::new(model_type), json };
            let architecture = ARCHITECTURES.iter().find(|known| known.model_type == model_type).expect(model_type);
            (architecture.check)(&config).expect(model_type);
            let sizes = Weights::random(SEED, Made::Sizes, Dtype::Bf16, None, compute.clone());
            let model = (architecture.load)(&config, &sizes).expect(model_type);
            let found = Work::of(&sizes, model.shape()).parameters;
            println!("{model_type}: {found}, expected {expected}");
            wrong |= found != expected;
            // Behind the keys and values of the last layer nothing is computed for tokens without logits.
            let shape = model.shape();
            let (held, outputs) = (sizes.held(), shape.n_layers * (shape.q_width + 2 * shape.kv_width));
            let made = || held.iter().filter(|(name, held)| makes_keys(name) && held.shape.len() == 2);
            let hidden = made().map(|(_, held)| held.shape.iter().product::<usize>()).sum::<usize>() / outputs;
            assert!(hidden > 0 && made().all(|(_, held)| held.shape.contains(&hidden)), "{model_type}: {hidden}");
        }
        assert!(!wrong, "see above");
    }

    /// What an architecture asks for where config.json is silent, and what cards say of their models, against torch's count.
    #[test]
    fn shapes_have_as_many_parameters_as_torch_counts() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/parameters.json");
        let counted: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON");
        let compute = Compute::open(crate::device::DeviceChoice::Cpu, None).expect("the processor");
        let check = |name: &str, json: serde_json::Value, expected: &serde_json::Value| {
            let config = Config { path: Path::new(name), json };
            let architecture = config.architecture().expect(name);
            (architecture.check)(&config).expect(name);
            let sizes = Weights::random(SEED, Made::Sizes, Dtype::Bf16, None, compute.clone());
            let model = (architecture.load)(&config, &sizes).expect(name);
            assert_eq!(json!(Work::of(&sizes, model.shape()).parameters), *expected, "{name}");
        };
        for architecture in ARCHITECTURES {
            let name = architecture.model_type;
            check(name, json!({ "model_type": name }), &counted["defaults"][name]);
        }
        let shaped = cards().iter().filter_map(|card| Some((card, card.shape.clone()?)));
        for (card, shape) in shaped {
            let expected = &counted["cards"][&card.name];
            assert_eq!(json!(card.parameters), *expected, "{}", card.name);
            let mut json = serde_json::Value::Object(shape);
            json["model_type"] = json!(card.architecture);
            check(&card.name, json, expected);
        }
    }
}
