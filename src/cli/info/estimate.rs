//! What a model would need of this machine and reach on it, from sizes alone.
//!
//! Memory is the weights as they are kept and the cache of keys and values at full context, as `nn/kv_cache.rs`
//! keeps it. Speed is the bandwidth at which the kernels read memory over the weights that one token reads: a text is
//! written one token at a time, and each reads every weight once, except tables of which it needs a row.

use std::num::NonZeroUsize;

use anyhow::Result;
use serde_json::{Value, json};

use crate::Dtype;
use crate::cli::model::{MachineArgs, bytes};
use crate::device::Compute;
use crate::kernels::Slice;
use crate::memory::{Memory, read_bandwidth};
use crate::weights::Kind;

/// Bytes that a model needs.
pub(super) struct Needs {
    pub(super) weights: u64,
    /// Keys and values at full context, where config.json says enough to tell.
    pub(super) cache: Option<u64>,
    /// What of the weights a token reads.
    pub(super) per_token: u64,
}

/// What this machine has for it. On other devices than the processor nothing is known.
pub(super) struct Machine {
    /// What computes, for messages.
    pub(super) device: String,
    memory: Memory,
    bandwidth: Option<f64>,
}

impl Needs {
    /// All that must be in memory at full context.
    pub(super) fn memory(&self) -> u64 {
        self.weights.saturating_add(self.cache.unwrap_or(0))
    }
}

impl Machine {
    /// Looks at the machine, for weights of a format; this takes a quarter of a second.
    pub(super) fn measure(args: &MachineArgs, kind: Kind) -> Result<Self> {
        let threads = args.threads.and_then(|threads| NonZeroUsize::new(threads.into()));
        let compute = Compute::open(args.device.unwrap_or_default(), threads)?;
        let like = match kind {
            Kind::Dense(Dtype::F32) => Slice::F32(&[]),
            Kind::Dense(Dtype::F16) => Slice::F16(&[]),
            Kind::Dense(Dtype::Bf16) => Slice::Bf16(&[]),
            Kind::Blocks(format) => Slice::Blocks(format, &[]),
        };
        let now = Memory::now();
        let memory = match compute.device.is_cpu() {
            true => Memory { available: args.max_memory.or(now.available), ..now },
            false => Memory { total: None, available: None },
        };
        let bandwidth = compute.kernels.and_then(|kernels| read_bandwidth(kernels, &compute.pool, like));
        Ok(Machine { device: compute.describe(), memory, bandwidth })
    }

    /// Whether a model's weights and cache fit into what this process may use.
    fn fits(&self, needs: &Needs) -> Option<bool> {
        self.memory.available.map(|available| needs.memory() <= available)
    }

    /// Tokens per second of one text, where its weights fit.
    fn speed(&self, needs: &Needs) -> Option<f64> {
        let fits = self.memory.available.is_none_or(|available| needs.weights <= available);
        self.bandwidth.filter(|_| fits && needs.per_token > 0).map(|bandwidth| bandwidth / needs.per_token as f64)
    }

    /// The rows `fits` and `speed`.
    pub(super) fn rows(&self, needs: &Needs) -> [(&'static str, String); 2] {
        let available = bytes_of(self.memory.available.unwrap_or(0));
        let total = self.memory.total.map_or_else(String::new, |total| format!(" of {}", bytes_of(total)));
        let fits = match self.fits(needs) {
            Some(true) => format!("yes: {available}{total} may be used"),
            Some(false) if self.memory.available.is_some_and(|available| needs.weights <= available) => {
                format!("not at full context: {available}{total} may be used; try --context with fewer tokens")
            }
            Some(false) => format!("no: {available}{total} may be used"),
            None => "not known: this system does not say what may be used".to_owned(),
        };
        let speed = match (self.speed(needs), self.bandwidth) {
            (Some(speed), Some(bandwidth)) => format!(
                "about {} tokens/s: the kernels read {}/s of memory here, and a token {} of weights",
                if speed < 9.95 { format!("{speed:.1}") } else { format!("{speed:.0}") },
                bytes_of(bandwidth as u64),
                bytes_of(needs.per_token)
            ),
            (None, Some(_)) => "not estimated: the weights do not fit into memory".to_owned(),
            (_, None) => {
                "not estimated: this is measured for the processor's kernels, with room for a probe".to_owned()
            }
        };
        [("fits", fits), ("speed", speed)]
    }

    /// The same, for programs.
    pub(super) fn add_to(&self, answer: &mut Value, needs: &Needs) {
        answer["memory_total_bytes"] = json!(self.memory.total);
        answer["memory_available_bytes"] = json!(self.memory.available);
        answer["fits"] = json!(self.fits(needs));
        answer["weight_bytes_per_token"] = json!(needs.per_token);
        answer["bandwidth_bytes_per_second"] = json!(self.bandwidth.map(f64::round));
        answer["estimated_tokens_per_second"] = json!(self.speed(needs).map(|speed| (speed * 100.0).round() / 100.0));
    }
}

/// `11706368` → `11.7 MB`.
pub(super) fn bytes_of(n: u64) -> String {
    bytes(usize::try_from(n).unwrap_or(usize::MAX))
}
