//! Logits → a token: penalties, biases and filters in transformers' order, then the likeliest or a draw.
//!
//! Each step is a pure function of the tokens so far and one row of scores. Formulas and the treatment of ties follow
//! transformers 5 (`generation/logits_process.py`); `presence_penalty` and `frequency_penalty`, which it lacks, follow
//! OpenAI's API and stand behind `repetition_penalty`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::constraint::Mask;
use super::filters::{cut_off, keep_min_p, keep_top_h, keep_top_k, keep_top_p, keep_typical, log_softmax};
use super::random::Random;
use super::settings::Settings;
use crate::error::Result;
use crate::kernels;
use crate::text::Tokenizer;

/// Where growing scores stop: the power of a length penalty soon leaves f32, and a token this far above the others is
/// certain, even at the highest penalties and the lowest temperature behind it.
const CERTAIN: f32 = 1e30;

/// The steps that one request's settings ask for.
pub(super) struct Sampler {
    steps: Vec<Step>,
    /// How many of the steps come before a mask: what sorts and cuts must see only what a constraint allows.
    before_mask: usize,
    eos: Vec<u32>,
    prompt_tokens: usize,
}

enum Step {
    /// Adds to the last token of each sequence whose others the text ends with.
    Bias(Vec<(Vec<u32>, f32)>),
    RepetitionPenalty(f32),
    CountPenalties {
        presence: f32,
        frequency: f32,
    },
    NoRepeatNgram(usize),
    /// Forbids tokens while fewer than so many are new.
    NotBefore {
        new: usize,
        ids: Vec<u32>,
    },
    /// Allows only these where the text has exactly so many tokens.
    Only {
        at: usize,
        ids: Vec<u32>,
    },
    LengthDecay {
        start: usize,
        factor: f64,
        eos: Vec<u32>,
    },
    /// Forbids tokens; with `at`, only where the text has exactly so many.
    Suppress {
        at: Option<usize>,
        ids: Vec<u32>,
    },
    Temperature(f32),
    TopH(f32),
    TopK(usize),
    TopP {
        p: f64,
        keep: usize,
    },
    MinP {
        p: f32,
        keep: usize,
    },
    TypicalP {
        p: f32,
        keep: usize,
    },
    Cutoff {
        epsilon: f32,
        falls_with_entropy: bool,
        keep: usize,
    },
    Renormalize,
}

impl Sampler {
    /// The steps for a prompt of `prompt_tokens`. The order here is the order in which they act.
    pub(super) fn new(settings: &Settings, prompt_tokens: usize, tokenizer: &Tokenizer) -> Result<Sampler> {
        let (s, eos) = (&settings.resolved, &settings.eos);
        // Beam search needs more than one candidate a beam, and as many again as there are ends.
        let keep = if settings.beams.is_some() { (eos.len() + 1).max(2) } else { 1 };
        let mut steps = Vec::new();
        if let Some(biases) = &s.sequence_bias {
            steps.push(Step::Bias(last_of_each(biases.iter().map(|b| (b.ids.clone(), b.bias as f32)))));
        }
        if let Some(biases) = &s.logit_bias {
            steps.push(Step::Bias(last_of_each(biases.iter().map(|b| (vec![b.id], b.bias as f32)))));
        }
        if let Some(penalty) = s.repetition_penalty.filter(|penalty| *penalty != 1.0) {
            steps.push(Step::RepetitionPenalty(penalty as f32));
        }
        let (presence, frequency) =
            (s.presence_penalty.unwrap_or(0.0) as f32, s.frequency_penalty.unwrap_or(0.0) as f32);
        if presence != 0.0 || frequency != 0.0 {
            steps.push(Step::CountPenalties { presence, frequency });
        }
        if let Some(n) = s.no_repeat_ngram_size.filter(|n| *n > 0) {
            steps.push(Step::NoRepeatNgram(n));
        }
        let words = forbidden_words(settings, tokenizer)?;
        if !words.is_empty() {
            steps.push(Step::Bias(last_of_each(words.into_iter().map(|ids| (ids, f32::NEG_INFINITY)))));
        }
        if settings.min_new_tokens > 0 && !eos.is_empty() {
            steps.push(Step::NotBefore { new: settings.min_new_tokens, ids: eos.clone() });
        }
        if let Some(id) = s.forced_bos_token_id {
            steps.push(Step::Only { at: 1, ids: vec![id] });
        }
        if let Some(ids) = &s.forced_eos_token_id {
            steps.push(Step::Only { at: prompt_tokens + settings.max_new_tokens - 1, ids: ids.clone() });
        }
        if let Some(decay) = s.exponential_decay_length_penalty {
            steps.push(Step::LengthDecay {
                start: prompt_tokens.saturating_add(decay.0),
                factor: decay.1,
                eos: eos.clone(),
            });
        }
        if let Some(ids) = &s.suppress_tokens {
            steps.push(Step::Suppress { at: None, ids: ids.clone() });
        }
        if let Some(ids) = &s.begin_suppress_tokens {
            let behind_forced = prompt_tokens <= 1 && s.forced_bos_token_id.is_some();
            steps.push(Step::Suppress { at: Some(prompt_tokens + usize::from(behind_forced)), ids: ids.clone() });
        }
        let before_mask = steps.len();
        if settings.do_sample {
            add_filters(&mut steps, settings, keep);
        }
        if s.renormalize_logits == Some(true) {
            steps.push(Step::Renormalize);
        }
        Ok(Sampler { steps, before_mask, eos: eos.clone(), prompt_tokens })
    }

    /// Applies all steps to the scores of the token that follows `ids`, prompt included. A mask has the last word on what
    /// may come: neither a forced token nor a bias brings back what it forbids.
    pub(super) fn process(&self, ids: &[u32], mask: Option<&Mask>, scores: &mut [f32]) {
        let (before, behind) = self.steps.split_at(self.before_mask);
        for step in before {
            let is_impossible = |forced: &[u32]| mask.is_some_and(|mask| !mask.allows_any(forced, &self.eos));
            if !matches!(step, Step::Only { ids: forced, .. } if is_impossible(forced)) {
                step.apply(ids, self.prompt_tokens, scores);
            }
        }
        if let Some(mask) = mask {
            mask.apply(&self.eos, scores);
        }
        behind.iter().for_each(|step| step.apply(ids, self.prompt_tokens, scores));
    }
}

fn add_filters(steps: &mut Vec<Step>, settings: &Settings, keep: usize) {
    let s = &settings.resolved;
    if let Some(temperature) = s.temperature.filter(|t| *t != 1.0) {
        steps.push(Step::Temperature(temperature as f32));
    }
    if let Some(h) = s.top_h {
        steps.push(Step::TopH(h as f32));
    }
    if let Some(k) = s.top_k.filter(|k| *k > 0) {
        steps.push(Step::TopK(k.max(keep)));
    }
    if let Some(p) = s.top_p.filter(|p| *p < 1.0) {
        steps.push(Step::TopP { p, keep });
    }
    if let Some(p) = s.min_p.filter(|p| *p > 0.0) {
        steps.push(Step::MinP { p: p as f32, keep });
    }
    if let Some(p) = s.typical_p.filter(|p| *p < 1.0) {
        steps.push(Step::TypicalP { p: p as f32, keep });
    }
    if let Some(epsilon) = s.epsilon_cutoff.filter(|e| *e > 0.0) {
        steps.push(Step::Cutoff { epsilon: epsilon as f32, falls_with_entropy: false, keep });
    }
    if let Some(epsilon) = s.eta_cutoff.filter(|e| *e > 0.0) {
        steps.push(Step::Cutoff { epsilon: epsilon as f32, falls_with_entropy: true, keep });
    }
}

/// Of entries with the same tokens, the last.
fn last_of_each(entries: impl Iterator<Item = (Vec<u32>, f32)>) -> Vec<(Vec<u32>, f32)> {
    entries.collect::<BTreeMap<_, _>>().into_iter().collect()
}

/// Bad words as tokens. A word may stand at the start of a text or behind a space, which are different tokens.
fn forbidden_words(settings: &Settings, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
    let mut words: Vec<Vec<u32>> = settings.resolved.bad_words_ids.iter().flatten().map(|ids| ids.0.clone()).collect();
    for word in settings.resolved.bad_words.iter().flatten() {
        words.push(tokenizer.encode_plain(word)?);
        words.push(tokenizer.encode_plain(&format!(" {}", word.trim_start()))?);
    }
    let is_end = |ids: &[u32]| matches!(ids, [id] if settings.eos.contains(id));
    words.retain(|ids| !ids.is_empty() && !is_end(ids));
    Ok(words)
}

impl Step {
    fn apply(&self, ids: &[u32], prompt_tokens: usize, scores: &mut [f32]) {
        match self {
            Step::Bias(entries) => add_biases(entries, ids, scores),
            Step::RepetitionPenalty(penalty) => {
                for id in ids.iter().collect::<HashSet<_>>() {
                    let score = &mut scores[*id as usize];
                    *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
                }
            }
            Step::CountPenalties { presence, frequency } => {
                let mut counts: HashMap<u32, f32> = HashMap::new();
                for id in &ids[prompt_tokens..] {
                    *counts.entry(*id).or_default() += 1.0;
                }
                for (id, count) in counts {
                    scores[id as usize] -= presence + frequency * count;
                }
            }
            Step::NoRepeatNgram(n) => {
                let Some(start) = (ids.len() + 1).checked_sub(*n) else { return };
                let last = &ids[start..];
                for window in ids.windows(*n).filter(|window| window[..n - 1] == *last) {
                    scores[window[n - 1] as usize] = f32::NEG_INFINITY;
                }
            }
            Step::NotBefore { new, ids: forbidden } => {
                if ids.len() - prompt_tokens < *new {
                    forbid(forbidden, scores);
                }
            }
            Step::Only { at, ids: allowed } => {
                if ids.len() == *at {
                    scores.fill(f32::NEG_INFINITY);
                    allowed.iter().for_each(|id| scores[*id as usize] = 0.0);
                }
            }
            Step::LengthDecay { start, factor, eos } => {
                if ids.len() > *start {
                    let growth = (factor.powf((ids.len() - start) as f64) - 1.0) as f32;
                    for id in eos {
                        let score = &mut scores[*id as usize];
                        if score.is_finite() {
                            *score = (*score + score.abs() * growth).min(CERTAIN);
                        }
                    }
                }
            }
            Step::Suppress { at, ids: forbidden } => {
                if at.is_none_or(|at| ids.len() == at) {
                    forbid(forbidden, scores);
                }
            }
            Step::Temperature(temperature) => scores.iter_mut().for_each(|score| *score /= temperature),
            Step::TopH(h) => keep_top_h(*h, scores),
            Step::TopK(k) => keep_top_k(*k, scores),
            Step::TopP { p, keep } => keep_top_p(*p, *keep, scores),
            Step::MinP { p, keep } => keep_min_p(*p, *keep, scores),
            Step::TypicalP { p, keep } => keep_typical(*p, *keep, scores),
            Step::Cutoff { epsilon, falls_with_entropy, keep } => cut_off(*epsilon, *falls_with_entropy, *keep, scores),
            Step::Renormalize => log_softmax(scores),
        }
    }
}

fn forbid(ids: &[u32], scores: &mut [f32]) {
    ids.iter().for_each(|id| scores[*id as usize] = f32::NEG_INFINITY);
}

fn add_biases(entries: &[(Vec<u32>, f32)], ids: &[u32], scores: &mut [f32]) {
    let mut sums: HashMap<u32, f32> = HashMap::new();
    for (sequence, bias) in entries {
        let Some((last, before)) = sequence.split_last() else { continue };
        if ids.ends_with(before) {
            *sums.entry(*last).or_default() += bias;
        }
    }
    for (id, bias) in sums {
        scores[id as usize] += bias;
    }
}

/// The likeliest token, the first among equals; `None` where every token is forbidden.
pub(super) fn likeliest(scores: &[f32]) -> Option<u32> {
    kernels::largest(scores).map(|i| i as u32)
}

/// One token at random by its probability; `None` where every token is forbidden.
pub(super) fn draw(scores: &[f32], random: &Random, step: usize) -> Option<u32> {
    draw_distinct(scores, 1, random, step).first().map(|i| *i as u32)
}

/// Up to `count` different indices at random, each by its share of what the earlier ones left.
pub(super) fn draw_distinct(scores: &[f32], count: usize, random: &Random, step: usize) -> Vec<usize> {
    let most = scores.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    if most == f32::NEG_INFINITY {
        return Vec::new();
    }
    let mut weights: Vec<(usize, f64)> = scores
        .iter()
        .enumerate()
        .filter(|(_, score)| **score > f32::NEG_INFINITY)
        .map(|(i, score)| (i, f64::from(score - most).exp()))
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    let mut drawn = Vec::with_capacity(count);
    while drawn.len() < count && !weights.is_empty() {
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let target = random.uniform(step, drawn.len()) * total;
        let mut sum = 0.0;
        let found = weights.iter().position(|(_, weight)| {
            sum += weight;
            target < sum
        });
        let (index, _) = weights.remove(found.unwrap_or(weights.len() - 1)); // rounding may leave the last sum below the total
        drawn.push(index);
    }
    drawn
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::engine::Sampling;
    use crate::engine::settings::Against;
    use crate::error::Error;

    /// A list of numbers in which `null` is minus infinity.
    fn scores(value: &Value) -> Vec<f32> {
        let numbers = value.as_array().expect("a list");
        numbers.iter().map(|x| x.as_f64().map_or(f32::NEG_INFINITY, |x| x as f32)).collect()
    }

    fn ids(value: &Value) -> Vec<u32> {
        value.as_array().expect("a list").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
    }

    /// transformers' own processors, run in its own order, on 48 scores.
    #[test]
    fn every_processor_alone_and_together_gives_the_scores_of_transformers() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
        let fixture: Value =
            serde_json::from_str(&std::fs::read_to_string(format!("{folder}/processors.json")).unwrap()).unwrap();
        let tokenizer = Tokenizer::load(&format!("{folder}/tale")).unwrap();
        let cases = fixture["cases"].as_array().unwrap();
        let mut compared = 0;
        for case in cases {
            let name = &case["name"];
            let sampling: Sampling =
                serde_json::from_value(case["settings"].clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
            let prompt_tokens = ids(&case["prompt_ids"]).len();
            let against = Against { prompt_tokens, context: 512, vocab_size: 48, tokenizer: &tokenizer };
            let settings = match Settings::resolve(sampling.clone(), &sampling, &against, &mut Vec::new()) {
                Ok(settings) => settings,
                // transformers runs a top_p of 0 and a minimum above the maximum; here both are impossible
                Err(Error::Setting { setting: "top_p" | "min_length" | "min_new_tokens", .. }) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            compared += 1;
            let mut found = scores(&case["logits"]);
            Sampler::new(&settings, prompt_tokens, &tokenizer).unwrap().process(
                &ids(&case["input_ids"]),
                None,
                &mut found,
            );
            for (i, (found, expected)) in found.iter().zip(scores(&case["expected"])).enumerate() {
                let same = *found == expected || (found - expected).abs() <= 1e-5 * expected.abs().max(1.0);
                assert!(same, "{name}: score {i} is {found}, expected {expected}; settings {}", case["settings"]);
            }
        }
        assert!(compared >= 200, "{compared}");
    }

    #[test]
    fn where_everything_is_forbidden_nothing_is_chosen() {
        let nothing = [f32::NEG_INFINITY; 3];
        assert_eq!(likeliest(&nothing), None);
        assert_eq!(draw(&nothing, &Random::new(1, 0), 0), None);
    }

    #[test]
    fn distinct_draws_take_each_index_once() {
        let random = Random::new(3, 0);
        let mut drawn = draw_distinct(&[0.0, 1.0, f32::NEG_INFINITY, 2.0], 10, &random, 0);
        drawn.sort_unstable();
        assert_eq!(drawn, [0, 1, 3]);
    }
}
