//! What config.json of every architecture may not say: sizes that no model has, heads that do not divide.

use super::Config;
use crate::error::{Result, quote};
use crate::kernels::{Heads, Order};
use crate::nn::Activation;

/// Refuses sizes of nothing, or beyond anything that is published.
pub(super) fn sizes(config: &Config, sizes: &[(&str, usize)]) -> Result<()> {
    const MOST: usize = u32::MAX as usize;
    match sizes.iter().find(|(_, size)| *size == 0 || *size > MOST) {
        Some((name, size)) => Err(config.wrong(format!("expected `{name}` from 1 to {MOST}, found {size}"))),
        None => Ok(()),
    }
}

/// Refuses a number of positions that f32 cannot count one by one.
pub(super) fn positions(config: &Config, name: &str, positions: usize) -> Result<()> {
    const MOST: usize = 1 << 24;
    match (1..=MOST).contains(&positions) {
        true => Ok(()),
        false => Err(config.wrong(format!("expected `{name}` from 1 to {MOST}, found {positions}"))),
    }
}

/// Heads that share a width, `n_kv_heads` of them for keys and values, with the usual scale.
pub(super) fn heads(
    config: &Config,
    width: (&str, usize),
    n_heads: (&str, usize),
    n_kv_heads: (&str, usize),
) -> Result<Heads> {
    for (whole, part) in [(width, n_heads), (n_heads, n_kv_heads)] {
        if part.1 == 0 || !whole.1.is_multiple_of(part.1) {
            return Err(config.wrong(format!(
                "expected `{}` to be a multiple of `{}`, found {} and {}",
                whole.0, part.0, whole.1, part.1
            )));
        }
    }
    let head_dim = width.1 / n_heads.1;
    self::head_dim(config, head_dim)?;
    let scale = (head_dim as f32).sqrt().recip();
    Ok(Heads { n_heads: n_heads.1, n_kv_heads: n_kv_heads.1, head_dim, scale })
}

/// Refuses heads of a width that would take gigabytes of frequencies. The largest of a published model is 512.
pub(super) fn head_dim(config: &Config, head_dim: usize) -> Result<()> {
    const MOST: usize = 1 << 16;
    match head_dim <= MOST {
        true => Ok(()),
        false => Err(config.wrong(format!("expected heads of at most {MOST} numbers, found {head_dim}"))),
    }
}

/// How a fused matrix of queries, keys and values is laid out: head by head, unless the weights were put otherwise, which
/// GGUF files have done.
pub(super) fn qkv_order(config: &Config) -> Order {
    match config.json["_qkv_order"].as_str() {
        Some("parts") => Order::Parts,
        _ => Order::Groups,
    }
}

/// What a norm keeps its root from zero with.
pub(super) fn epsilon(config: &Config, name: &str, epsilon: f32) -> Result<()> {
    match epsilon >= 0.0 && epsilon.is_finite() {
        true => Ok(()),
        false => Err(config.wrong(format!("expected `{name}` of at least 0, found {epsilon}"))),
    }
}

/// The non-linearity that a field names.
pub(super) fn activation(config: &Config, field: &str, name: &str) -> Result<Activation> {
    Activation::named(name).ok_or_else(|| {
        let known: Vec<&str> = Activation::names().collect();
        config.unsupported(format!("expected `{field}` to be one of {}, found {}", known.join(", "), quote(name)))
    })
}

/// Weights in formats of other quantisers are not read.
pub(super) fn quantization(config: &Config) -> Result<()> {
    if config.json["quantization_config"].is_null() {
        return Ok(());
    }
    let method = config.json["quantization_config"]["quant_method"].as_str().unwrap_or("not stated");
    Err(config.unsupported(format!("`quantization_config` is not supported (method {})", quote(method))))
}
