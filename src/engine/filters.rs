//! Which tokens of a distribution stay: each filter sets the scores of the others to minus infinity.
//!
//! Ties are treated as transformers treats them, since what is cut decides what can be drawn.

use std::collections::HashSet;

use crate::kernels::nth_largest;

/// Of the hundred likeliest tokens those that hold a share `h` of the entropy among them; the likeliest always.
pub(super) fn keep_top_h(h: f32, scores: &mut [f32]) {
    const CONSIDERED: usize = 100; // as in transformers: further tokens hold next to none of it
    let order = best(scores, CONSIDERED);
    let sorted: Vec<f32> = order.iter().map(|i| scores[*i]).collect();
    let shares: Vec<f32> = softmax(&sorted).into_iter().map(|p| if p > 0.0 { -p * p.ln() } else { 0.0 }).collect();
    let limit = h * shares.iter().sum::<f32>();
    let mut sum = 0.0;
    let within = shares
        .iter()
        .take_while(|share| {
            sum += **share;
            sum <= limit
        })
        .count();
    let kept: HashSet<usize> = order[..within.max(1)].iter().copied().collect();
    keep_where(scores, |_, i| kept.contains(&i));
}

/// Everything below the k-th largest goes; ties with it stay.
pub(super) fn keep_top_k(k: usize, scores: &mut [f32]) {
    if k < scores.len() {
        let least = nth_largest(k, scores);
        keep_where(scores, |score, _| score >= least);
    }
}

/// From the least likely up, goes what adds up to at most 1 − p; among equals the lower index first.
pub(super) fn keep_top_p(p: f64, keep: usize, scores: &mut [f32]) {
    let mut order: Vec<usize> = (0..scores.len()).filter(|i| scores[*i] > f32::NEG_INFINITY).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let sorted: Vec<f32> = order.iter().map(|i| scores[*i]).collect();
    let limit = (1.0 - p) as f32;
    let mut sum = 0.0f64;
    let removable = order.len().saturating_sub(keep);
    for (index, probability) in order.iter().zip(softmax(&sorted)).take(removable) {
        sum += f64::from(probability);
        if sum as f32 > limit {
            break;
        }
        scores[*index] = f32::NEG_INFINITY;
    }
}

pub(super) fn keep_min_p(p: f32, keep: usize, scores: &mut [f32]) {
    let probabilities = softmax(scores);
    let limit = p * probabilities.iter().fold(0.0f32, |most, x| most.max(*x));
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
    for index in &order[keep.min(order.len())..] {
        if probabilities[*index] < limit {
            scores[*index] = f32::NEG_INFINITY;
        }
    }
}

/// Meister et al. 2022: the tokens whose surprise is nearest to the expected one.
pub(super) fn keep_typical(p: f32, keep: usize, scores: &mut [f32]) {
    let mut logs = scores.to_vec();
    log_softmax(&mut logs);
    let entropy = entropy_of(&logs);
    let distance: Vec<f32> = logs.iter().map(|log| (-log - entropy).abs()).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| distance[*a].total_cmp(&distance[*b]));
    let sorted: Vec<f32> = order.iter().map(|i| scores[*i]).collect();
    let mut sum = 0.0f64;
    let covered = softmax(&sorted)
        .iter()
        .take_while(|probability| {
            sum += f64::from(**probability);
            (sum as f32) < p
        })
        .count();
    let limit = distance[order[covered.min(order.len() - 1)]];
    for index in &order[keep.min(order.len())..] {
        if distance[*index] > limit {
            scores[*index] = f32::NEG_INFINITY;
        }
    }
}

/// Hewitt et al. 2022: drops what is less likely than epsilon, or than a bound that falls with the entropy.
pub(super) fn cut_off(epsilon: f32, falls_with_entropy: bool, keep: usize, scores: &mut [f32]) {
    let probabilities = softmax(scores);
    let mut limit = epsilon;
    if falls_with_entropy {
        let mut logs = scores.to_vec();
        log_softmax(&mut logs);
        limit = epsilon.min(epsilon.sqrt() * (-entropy_of(&logs)).exp());
    }
    let least_kept = nth_largest(keep.min(scores.len()), scores);
    keep_where(scores, |score, i| probabilities[i] >= limit || score >= least_kept);
}

fn keep_where(scores: &mut [f32], kept: impl Fn(f32, usize) -> bool) {
    for (i, score) in scores.iter_mut().enumerate() {
        if !kept(*score, i) {
            *score = f32::NEG_INFINITY;
        }
    }
}

fn entropy_of(logs: &[f32]) -> f32 {
    -logs.iter().filter(|log| **log > f32::NEG_INFINITY).map(|log| f64::from(log * log.exp())).sum::<f64>() as f32
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let most = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let exps: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum = exps.iter().map(|e| f64::from(*e)).sum::<f64>() as f32;
    exps.into_iter().map(|e| e / sum).collect()
}

/// Scores → log-probabilities, in place.
pub(super) fn log_softmax(scores: &mut [f32]) {
    let most = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = scores.iter().map(|score| f64::from((score - most).exp())).sum();
    let log_sum = sum.ln() as f32;
    scores.iter_mut().for_each(|score| *score = *score - most - log_sum);
}

/// The `count` best, best first; the lower index first among equals.
pub(super) fn best(scores: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let count = count.min(order.len());
    if count == 0 {
        return Vec::new();
    }
    let by_score = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    order.select_nth_unstable_by(count - 1, by_score);
    order.truncate(count);
    order.sort_by(by_score);
    order
}
