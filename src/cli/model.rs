//! Which model, and where it runs: the arguments that verbs share.

use anyhow::Result;

use super::hub::{HubArgs, describe_network};
use super::output::{figure, warning};
use crate::weights::Keep;
use crate::{CacheType, DeviceChoice, Dtype, EMBEDDED, Engine, EngineBuilder, Quant, Sampling};

/// A model and the machine under it.
#[derive(clap::Args)]
pub(super) struct ModelArgs {
    /// The model: `ember` (inside the program), a short name such as `gpt2`, `owner/name` on the Hub, a folder,
    /// or a .gguf or .safetensors file
    #[arg(short, long, value_name = "MODEL", default_value = EMBEDDED, help_heading = "Model")]
    pub(super) model: String,
    #[command(flatten)]
    pub(super) machine: MachineArgs,
}

/// Where a model runs.
#[derive(clap::Args)]
pub(super) struct MachineArgs {
    /// Where to compute: `cpu`, `cuda`, `cuda:N` or `metal` [default: cpu]
    #[arg(long, value_name = "DEVICE", help_heading = "Model")]
    pub(super) device: Option<DeviceChoice>,
    /// Keep weights as `f32`, `f16` or `bf16` [default: as stored]
    #[arg(long, value_name = "DTYPE", help_heading = "Model")]
    pub(super) dtype: Option<Dtype>,
    /// Quantise the weights while loading: `q8_0` keeps the quality at half of f16's size, `q4_k` (short for `q4_k_m`) is a
    /// little more than a quarter; also `q6_k`, `q5_k_m`, `q5_k_s`, `q5_1`, `q5_0`, `q4_k_s`, `iq4_nl`, `q4_1`, `q4_0`,
    /// `mxfp4`, `q3_k_m`, `q2_k`
    #[arg(long, value_name = "TYPE", conflicts_with = "dtype", help_heading = "Model")]
    pub(super) quant: Option<Quant>,
    /// Keep keys and values of attention as `f32`, `f16` or `q8_0`: less memory for long texts, and less exact
    /// [default: f16 beside bf16 and quantised weights, else f32]
    #[arg(long, value_name = "TYPE", help_heading = "Model")]
    pub(super) kv: Option<CacheType>,
    /// Threads to compute with [default: all that the process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Model")]
    pub(super) threads: Option<u16>,
    /// Most tokens of prompt and text together [default: the model's own limit]
    #[arg(long, value_name = "N", help_heading = "Model")]
    pub(super) context: Option<usize>,
    /// The most memory that weights and caches may take, such as `12GB` or `800MB` [default: what the system says is free]
    #[arg(long, value_name = "SIZE", value_parser = memory_size, help_heading = "Model")]
    pub(super) max_memory: Option<u64>,
    #[command(flatten)]
    pub(super) hub: HubArgs,
}

/// `12GB` → 12,000,000,000.
fn memory_size(text: &str) -> Result<u64, String> {
    let expected = || "expected a number and a unit, such as `12GB`, `7.5GB` or `800MB`".to_owned();
    let units = [
        ("GiB", 1u64 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1000),
    ];
    let (number, unit) = units
        .into_iter()
        .find_map(|(name, unit)| {
            let (number, end) = text.split_at_checked(text.len().checked_sub(name.len())?)?;
            end.eq_ignore_ascii_case(name).then_some((number.trim_end(), unit))
        })
        .ok_or_else(expected)?;
    let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let number: f64 = number.parse().ok().filter(|_| digits).ok_or_else(expected)?;
    Ok((number * unit as f64) as u64)
}

impl MachineArgs {
    /// Loads a model onto this machine.
    pub(super) fn load(&self, model: &str) -> Result<Engine> {
        self.load_with(model, self.threads.unwrap_or(0).into())
    }

    /// The same, with another number of threads.
    pub(super) fn load_with(&self, model: &str, threads: usize) -> Result<Engine> {
        Ok(self.builder_with(model, threads)?.load(model)?)
    }

    /// What loads a model onto this machine.
    pub(super) fn builder(&self, model: &str) -> Result<EngineBuilder> {
        self.builder_with(model, self.threads.unwrap_or(0).into())
    }

    fn builder_with(&self, model: &str, threads: usize) -> Result<EngineBuilder> {
        let mut builder = Engine::builder().device(self.device.unwrap_or_default()).threads(threads);
        if let Some(hub) = self.hub.open_for(model)? {
            builder = builder.hub(hub);
        }
        if let Some(dtype) = self.dtype {
            builder = builder.dtype(dtype);
        }
        if let Some(quant) = self.quant {
            builder = builder.quant(quant);
        }
        if let Some(kv) = self.kv {
            builder = builder.kv(kv);
        }
        if let Some(context) = self.context {
            builder = builder.context(context);
        }
        if let Some(bytes) = self.max_memory {
            builder = builder.max_memory(bytes);
        }
        Ok(builder)
    }

    /// What weights are kept as.
    pub(super) fn keep(&self) -> Keep {
        match (self.quant, self.dtype) {
            (Some(quant), _) => Keep::Quantized(quant),
            (None, Some(dtype)) => Keep::As(dtype),
            (None, None) => Keep::AsStored,
        }
    }
}

impl ModelArgs {
    /// Loads the model.
    pub(super) fn load(&self) -> Result<Engine> {
        self.machine.load(&self.model)
    }

    /// Loads the model for these settings.
    pub(super) fn load_for(&self, sampling: &Sampling) -> Result<Engine> {
        if !sampling.is_constrained() {
            return self.load();
        }
        Ok(self.machine.builder(&self.model)?.constrained().load(&self.model)?)
    }
}

/// What `--verbose` says of a loaded model.
pub(super) fn describe(engine: &Engine) {
    let info = engine.info();
    figure(
        "model",
        format_args!(
            "{}: {}, {} parameters, {}",
            crate::error::line(&info.name),
            info.architecture,
            count(info.parameters),
            info.dtypes.join(" + ")
        ),
    );
    figure("device", &info.device);
    describe_network();
    figure("load", format_args!("{:.1} ms", info.load_time.as_secs_f64() * 1e3));
}

/// Warnings, a line each.
pub(super) fn warn(warnings: &[String]) {
    warnings.iter().for_each(warning);
}

/// `5853184` → `5.9M`.
pub(super) fn count(n: usize) -> String {
    scaled(n, &[(1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")], "")
}

/// `11706368` → `11.7 MB`.
pub(super) fn bytes(n: usize) -> String {
    scaled(n, &[(1_000_000_000, " GB"), (1_000_000, " MB"), (1_000, " KB")], " B")
}

fn scaled(n: usize, units: &[(usize, &str)], none: &str) -> String {
    match units.iter().find(|(size, _)| n >= *size) {
        Some((size, unit)) => format!("{:.1}{unit}", n as f64 / *size as f64),
        None => format!("{n}{none}"),
    }
}
