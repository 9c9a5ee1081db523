//! Sums, factors and caps: what is done to single numbers where no product does it on the way.
//!
//! candle's own operations hand more than 65,536 numbers to a second pool of threads, beside the one that `--threads`
//! sizes; one thread adds them in less time than that pool takes to wake.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};

use super::numbers;
use crate::device::Compute;
use crate::error::Result;
use crate::kernels::{Activation, Before, Kernels};

/// x + y, both (rows, dim).
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Ok(if x.device().is_cpu() { x.apply_op2_no_bwd(y, &Sum)? } else { (x + y)? })
}

/// x · factor
pub fn scaled(x: &Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok(x.clone());
    }
    Ok(if x.device().is_cpu() { x.apply_op1_no_bwd(&Scale(factor))? } else { (x * f64::from(factor))? })
}

/// `cap · tanh(x / cap)`, which lies between `-cap` and `cap`.
pub fn bounded(x: &Tensor, cap: f32, compute: &Compute) -> Result<Tensor> {
    Ok(match compute.kernels {
        Some(kernels) => x.apply_op1_no_bwd(&Bound { cap, kernels, compute })?,
        None => ((x / f64::from(cap))?.tanh()? * f64::from(cap))?,
    })
}

struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let sum = numbers(x, x_layout)?.iter().zip(numbers(y, y_layout)?).map(|(x, y)| x + y).collect();
        Ok((CpuStorage::F32(sum), x_layout.shape().clone()))
    }
}

struct Scale(f32);

impl CustomOp1 for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let scaled = numbers(x, layout)?.iter().map(|x| x * self.0).collect();
        Ok((CpuStorage::F32(scaled), layout.shape().clone()))
    }
}

struct Bound<'a> {
    cap: f32,
    kernels: &'static Kernels,
    compute: &'a Compute,
}

impl CustomOp1 for Bound<'_> {
    fn name(&self) -> &'static str {
        "bound"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        // A tanh takes some nanoseconds, so this is worth waking a thread for.
        const PIECE: usize = 1 << 14;
        let mut y = numbers(x, layout)?.to_vec();
        self.compute.pool.for_each(y.chunks_mut(PIECE).collect(), |y: &mut [f32]| {
            let quotients: Vec<f32> = y.iter().map(|y| y / self.cap).collect();
            self.kernels.prepare_row(Before::Activation(Activation::Tanh), &quotients, y);
            y.iter_mut().for_each(|y| *y *= self.cap);
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use candle_core::Device;

    use super::*;
    use crate::kernels::{self, Pool};

    #[test]
    fn caps_are_those_of_candle_and_the_same_bits_in_every_tier_and_on_any_number_of_threads() {
        let compute = |kernels, threads| {
            let pool = Arc::new(Pool::new(NonZeroUsize::new(threads)).expect("threads"));
            Compute { device: Device::Cpu, kernels, pool }
        };
        let x: Vec<f32> = (0..40_000).map(|i| (i as f32 - 20_000.0) / 100.0).collect();
        let x = Tensor::from_vec(x, (2, 20_000), &Device::Cpu).unwrap();
        let run = |compute: &Compute| -> Vec<f32> {
            bounded(&x, 30.0, compute).unwrap().flatten_all().unwrap().to_vec1().unwrap()
        };
        let right = run(&compute(None, 1));
        let ours = run(&compute(Some(kernels::best()), 1));
        assert!(ours.iter().zip(&right).all(|(ours, right)| (ours - right).abs() < 1e-5));
        assert!(ours.iter().all(|y| y.abs() <= 30.0) && ours.iter().any(|y| y.abs() > 29.9));
        for kernels in kernels::available() {
            assert_eq!(run(&compute(Some(kernels), 3)), ours, "{}", kernels.name());
        }
    }
}
