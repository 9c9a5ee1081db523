//! A feed-forward block of which each token uses a few parts: a router chooses, the chosen experts compute, the others cost
//! nothing.
//!
//! Shazeer et al. 2017; Jiang et al. 2024, "Mixtral of Experts". Rows that chose the same expert go through it together, as
//! one product, and come out as they would alone: what a row gets depends on its own choice. Its experts' results are added
//! up in the order of their numbers, as in transformers.

use candle_core::Tensor;

use super::{Activation, Before, Linear, add};
use crate::error::Result;

/// How experts are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Routing {
    /// Experts of each token.
    pub per_token: usize,
    /// Whether the weights of the chosen are divided by their sum.
    pub normalised: bool,
}

/// The router and the experts of one layer.
pub struct Experts {
    routing: Routing,
    gate: Linear,
    experts: Vec<Expert>,
    activation: Activation,
}

/// `down(activation(gate x) · up x)`
pub struct Expert {
    /// Gate and up side by side.
    pub gate_up: Linear,
    /// The way out.
    pub down: Linear,
}

impl Experts {
    /// `gate` gives each of the experts a score.
    pub fn new(routing: Routing, gate: Linear, experts: Vec<Expert>, activation: Activation) -> Experts {
        Experts { routing, gate, experts, activation }
    }

    /// (rows, dim) → (rows, dim), plus the residual where there is one.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let (rows, dim) = x.dims2()?;
        let scores = self.gate.forward(x, Before::Nothing, None)?.to_vec2::<f32>()?;
        let mut chosen: Vec<Vec<(usize, f32)>> = vec![Vec::new(); self.experts.len()]; // rows and weights of each
        for (row, scores) in scores.iter().enumerate() {
            for (expert, weight) in self.routing.choose(scores) {
                chosen[expert].push((row, weight));
            }
        }
        let numbers = x.flatten_all()?.to_vec1::<f32>()?;
        let mut sums = vec![0.0; rows * dim];
        for (expert, chosen) in self.experts.iter().zip(&chosen).filter(|(_, chosen)| !chosen.is_empty()) {
            let mine: Vec<f32> = chosen.iter().flat_map(|(row, _)| &numbers[row * dim..][..dim]).copied().collect();
            let mine = Tensor::from_vec(mine, (chosen.len(), dim), x.device())?;
            let inner = expert.gate_up.forward(&mine, Before::Nothing, None)?; // (chosen, 2 · inner)
            let out =
                expert.down.forward(&inner, Before::Gated(self.activation), None)?.flatten_all()?.to_vec1::<f32>()?;
            for ((row, weight), out) in chosen.iter().zip(out.chunks_exact(dim)) {
                for (sum, out) in sums[row * dim..][..dim].iter_mut().zip(out) {
                    *sum += out * weight;
                }
            }
        }
        let sums = Tensor::from_vec(sums, (rows, dim), x.device())?;
        match residual {
            Some(residual) => add(residual, &sums),
            None => Ok(sums),
        }
    }
}

impl Routing {
    /// The experts with the best scores and their shares, the best first; of equal ones the first.
    fn choose(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let shares: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
        let all: f32 = shares.iter().sum();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        // Scores and not shares, of which rounding makes equal ones. The sort is stable.
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order.truncate(self.per_token);
        let chosen: Vec<f32> = order.iter().map(|expert| shares[*expert] / all).collect();
        let sum = if self.normalised { chosen.iter().sum() } else { 1.0 };
        order.into_iter().zip(chosen).map(|(expert, share)| (expert, share / sum)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_scores_are_chosen_and_of_equal_ones_the_first() {
        let check = |per_token: usize, normalised: bool, scores: &[f32], expected: &[(usize, f32)]| {
            let chosen = Routing { per_token, normalised }.choose(scores);
            assert_eq!(chosen.len(), expected.len(), "{scores:?}");
            for (found, expected) in chosen.iter().zip(expected) {
                assert!(found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-6, "{scores:?}: {chosen:?}");
            }
        };
        let ln = |x: f32| x.ln();
        check(2, false, &[ln(1.0), ln(5.0), ln(4.0)], &[(1, 0.5), (2, 0.4)]);
        check(2, true, &[ln(1.0), ln(6.0), ln(2.0)], &[(1, 0.75), (2, 0.25)]);
        check(3, true, &[1.0, 2.0, 2.0, 1.0, 2.0], &[(1, 1.0 / 3.0), (2, 1.0 / 3.0), (4, 1.0 / 3.0)]);
        check(1, true, &[-3e38, 3e38], &[(1, 1.0)]);
        // What is no number is a choice like any other and shows in the logits.
        let chosen = Routing { per_token: 2, normalised: true }.choose(&[1.0, f32::NAN, 0.0]);
        assert!(chosen.len() == 2 && chosen.iter().any(|(_, weight)| weight.is_nan()), "{chosen:?}");
    }
}
