//! Settings that cannot be wrong: merged, checked against each other, the prompt and the model.
//!
//! An impossible setting is an error, one without effect a warning; none is ignored in silence.

use std::time::Duration;

use super::defaults::PIPELINE_LIMIT;
use super::random::fresh_seed;
use super::{EarlyStopping, Sampling};
use crate::error::{Error, Result, count};
use crate::text::Tokenizer;

/// What one request runs by.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Everything as it was resolved, the seed that is in use included; for people and `--details`.
    pub(super) resolved: Sampling,
    pub(super) max_new_tokens: usize,
    pub(super) min_new_tokens: usize,
    pub(super) max_time: Option<Duration>,
    pub(super) stop_strings: Vec<Vec<u8>>,
    pub(super) eos: Vec<u32>,
    pub(super) do_sample: bool,
    pub(super) seed: u64,
    pub(super) num_return_sequences: usize,
    pub(super) beams: Option<BeamSettings>,
    pub(super) lookup: Option<Lookup>,
    pub(super) skip_special_tokens: bool,
    pub(super) return_full_text: bool,
    /// What the user said of the end, which a grammar may overrule.
    pub(super) about_end: Vec<&'static str>,
    /// Log-probabilities of new tokens, with so many alternatives.
    pub(super) logprobs: Option<usize>,
    pub(super) prompt_logprobs: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BeamSettings {
    pub(super) beams: usize,
    pub(super) early_stopping: EarlyStopping,
    pub(super) length_penalty: f64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    pub(super) tokens: usize,
    pub(super) ngram: usize,
}

/// What the settings are checked against.
pub(super) struct Against<'a> {
    pub(super) prompt_tokens: usize,
    pub(super) context: usize,
    pub(super) vocab_size: usize,
    pub(super) tokenizer: &'a Tokenizer,
}

/// Beams are sequences of a batch; more than this is a slip of the keyboard.
const MOST_SEQUENCES: usize = 1024;

impl Settings {
    /// Checks `merged`, the user's settings over the model's. `user` tells what deserves a warning. Warnings are appended.
    pub(super) fn resolve(
        merged: Sampling,
        user: &Sampling,
        against: &Against,
        warnings: &mut Vec<String>,
    ) -> Result<Settings> {
        check_alone(&merged, against.vocab_size)?;
        check_said_once(user, warnings)?;
        let greedy_by_temperature = merged.temperature == Some(0.0);
        let do_sample = merged.do_sample.unwrap_or(false) && !greedy_by_temperature;
        if greedy_by_temperature && user.do_sample == Some(true) {
            return Err(Error::setting(
                "temperature",
                "is 0 while `do_sample` is true",
                "0 takes the likeliest token; leave out one of the two",
            ));
        }
        let eos =
            if merged.ignore_eos == Some(true) { Vec::new() } else { merged.eos_token_id.clone().unwrap_or_default() };
        if user.ignore_eos == Some(true) && merged.eos_token_id.is_none() {
            warnings.push("`ignore_eos` has no effect without an `eos_token_id`".to_owned());
        }
        let max_new_tokens = most_new_tokens(&merged, user, against, warnings)?;
        let min_new_tokens = least_new_tokens(&merged, user, max_new_tokens, against, warnings)?;
        let beams = beam_settings(&merged)?;
        let num_return_sequences = merged.num_return_sequences.unwrap_or(1);
        if num_return_sequences > 1 && beams.is_none() && !do_sample {
            return Err(Error::setting(
                "num_return_sequences",
                format!("is {num_return_sequences}, but the likeliest text is one text"),
                "add `do_sample`, or as many `num_beams`",
            ));
        }
        let lookup = lookup_settings(&merged, beams.is_some(), num_return_sequences)?;
        let seed = merged.seed.unwrap_or_else(fresh_seed);
        let logprobs = (merged.logprobs == Some(true) || merged.top_logprobs.is_some())
            .then_some(merged.top_logprobs.unwrap_or(0));
        if user.logprobs == Some(false) && user.top_logprobs.is_some_and(|n| n > 0) {
            return Err(Error::setting("top_logprobs", "is set while `logprobs` is false", "leave out one of the two"));
        }

        let settings = Settings {
            max_new_tokens,
            min_new_tokens,
            max_time: merged.max_time.map(Duration::from_secs_f64),
            stop_strings: merged.stop_strings.iter().flatten().map(|s| s.clone().into_bytes()).collect(),
            eos,
            do_sample,
            seed,
            num_return_sequences,
            beams,
            lookup,
            skip_special_tokens: merged.skip_special_tokens.unwrap_or(true),
            return_full_text: merged.return_full_text.unwrap_or(true),
            about_end: about_end(user),
            logprobs,
            prompt_logprobs: merged.prompt_logprobs == Some(true),
            resolved: in_force(Sampling {
                do_sample: Some(do_sample),
                seed: Some(seed),
                max_new_tokens: Some(max_new_tokens),
                max_length: None,
                ..merged
            }),
        };
        warn_of_no_effect(&settings, user, against, warnings);
        Ok(settings)
    }
}

/// What can be said of settings without a prompt.
pub(super) fn check_alone(settings: &Sampling, vocab_size: usize) -> Result<()> {
    check_ranges(settings)?;
    check_ids(settings, vocab_size)
}

/// Without what has no effect, so that what is shown is what acts.
fn in_force(mut s: Sampling) -> Sampling {
    if s.do_sample != Some(true) {
        (s.temperature, s.top_h, s.top_k, s.top_p, s.min_p) = (None, None, None, None, None);
        (s.typical_p, s.epsilon_cutoff, s.eta_cutoff, s.seed) = (None, None, None, None);
    }
    if s.num_beams.is_none_or(|beams| beams == 1) {
        (s.early_stopping, s.length_penalty) = (None, None);
    }
    if s.prompt_lookup_num_tokens.is_none() {
        s.max_matching_ngram_size = None;
    }
    if s.ignore_eos == Some(true) {
        s.eos_token_id = None;
    }
    if s.min_new_tokens.is_some() {
        s.min_length = None;
    }
    s
}

fn about_end(user: &Sampling) -> Vec<&'static str> {
    let said = [
        ("min_new_tokens", user.min_new_tokens.is_some_and(|least| least > 0)),
        ("min_length", user.min_length.is_some_and(|least| least > 0) && user.min_new_tokens.is_none()),
        ("ignore_eos", user.ignore_eos == Some(true)),
        ("eos_token_id", user.eos_token_id.is_some() && user.ignore_eos != Some(true)),
        ("exponential_decay_length_penalty", user.exponential_decay_length_penalty.is_some()),
    ];
    said.into_iter().filter(|(_, is_said)| *is_said).map(|(setting, _)| setting).collect()
}

/// A number's range: the setting, its value, the test, what was expected.
type Range = (&'static str, Option<f64>, fn(f64) -> bool, &'static str);

fn check_ranges(s: &Sampling) -> Result<()> {
    let numbers: [Range; 14] = [
        ("max_time", s.max_time, |x| x > 0.0 && x < 1e9, "seconds above 0 and below 1e9"),
        ("temperature", s.temperature, |x| x == 0.0 || (1e-6..=1e6).contains(&x), "0 or a number from 1e-6 to 1e6"),
        ("top_h", s.top_h, |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1"),
        ("top_p", s.top_p, |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1"),
        ("min_p", s.min_p, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1"),
        ("typical_p", s.typical_p, |x| x > 0.0 && x <= 1.0, "a number above 0 and at most 1"),
        ("epsilon_cutoff", s.epsilon_cutoff, |x| (0.0..1.0).contains(&x), "a number of at least 0 and below 1"),
        ("eta_cutoff", s.eta_cutoff, |x| (0.0..1.0).contains(&x), "a number of at least 0 and below 1"),
        ("repetition_penalty", s.repetition_penalty, |x| (1e-6..=1e6).contains(&x), "a number from 1e-6 to 1e6"),
        ("presence_penalty", s.presence_penalty, |x| x.abs() <= 1e6, "a number from -1e6 to 1e6"),
        ("frequency_penalty", s.frequency_penalty, |x| x.abs() <= 1e6, "a number from -1e6 to 1e6"),
        ("length_penalty", s.length_penalty, |x| x.abs() <= 100.0, "a number from -100 to 100"),
        (
            "exponential_decay_length_penalty",
            s.exponential_decay_length_penalty.map(|d| d.1),
            |x| x > 0.0 && x.is_finite(),
            "a factor above 0",
        ),
        (
            "sequence_bias",
            s.sequence_bias.iter().flatten().map(|b| b.bias).find(|b| !is_bias(*b)),
            is_bias,
            "numbers from -1e9 to 1e9",
        ),
    ];
    for (setting, value, fits, expected) in numbers {
        if let Some(value) = value.filter(|value| !fits(*value)) {
            return Err(Error::setting(setting, format!("is {value}, expected {expected}"), ""));
        }
    }
    let counts = [
        ("max_new_tokens", s.max_new_tokens, usize::MAX),
        ("max_length", s.max_length, usize::MAX),
        ("num_return_sequences", s.num_return_sequences, MOST_SEQUENCES),
        ("num_beams", s.num_beams, MOST_SEQUENCES),
        ("prompt_lookup_num_tokens", s.prompt_lookup_num_tokens, MOST_SEQUENCES),
        ("max_matching_ngram_size", s.max_matching_ngram_size, usize::MAX),
    ];
    for (setting, value, most) in counts {
        if let Some(value) = value.filter(|value| *value == 0 || *value > most) {
            let expected = if most == usize::MAX { "at least 1".to_owned() } else { format!("from 1 to {most}") };
            return Err(Error::setting(setting, format!("is {value}, expected {expected}"), ""));
        }
    }
    if let Some(wrong) = s.logit_bias.iter().flatten().find(|b| !is_bias(b.bias) && b.bias != f64::NEG_INFINITY) {
        let found = if wrong.bias.is_nan() { "a NaN".to_owned() } else { wrong.bias.to_string() };
        return Err(Error::setting(
            "logit_bias",
            format!("holds {found}, expected numbers from -1e9 to 1e9, or `-inf`"),
            "",
        ));
    }
    let empty = |setting, what| Err(Error::setting(setting, format!("holds an empty {what}"), "leave it out"));
    if s.stop_strings.iter().flatten().any(String::is_empty) {
        return empty("stop_strings", "text, which would stop at once");
    }
    if s.bad_words.iter().flatten().any(String::is_empty) {
        return empty("bad_words", "text, which would forbid everything");
    }
    if s.bad_words_ids.iter().flatten().any(|ids| ids.0.is_empty()) {
        return empty("bad_words_ids", "list of tokens");
    }
    if s.sequence_bias.iter().flatten().any(|b| b.ids.is_empty()) {
        return empty("sequence_bias", "list of tokens");
    }
    Ok(())
}

/// Two biases of one token are a slip: the APIs that have `logit_bias` take a map. Of two for the same sequence transformers
/// takes the last, and so do we.
fn check_said_once(user: &Sampling, warnings: &mut Vec<String>) -> Result<()> {
    let of_tokens: Vec<&[u32]> =
        user.logit_bias.iter().flatten().map(|entry| std::slice::from_ref(&entry.id)).collect();
    if let Some([id]) = twice(of_tokens) {
        let hint = "leave out one of the two, or give their sum";
        return Err(Error::setting("logit_bias", format!("is given twice for the token {id}"), hint));
    }
    if let Some(ids) = twice(user.sequence_bias.iter().flatten().map(|entry| &entry.ids[..]).collect()) {
        let ids = ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        warnings.push(format!("`sequence_bias` is given twice for {ids}, and the last one counts"));
    }
    Ok(())
}

/// What is there twice.
fn twice(mut all: Vec<&[u32]>) -> Option<&[u32]> {
    all.sort_unstable();
    all.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

/// A bias that keeps scores inside f32, whatever is done to them behind it.
fn is_bias(x: f64) -> bool {
    x.abs() <= 1e9
}

fn check_ids(s: &Sampling, vocab_size: usize) -> Result<()> {
    let forced_bos: Vec<u32> = s.forced_bos_token_id.into_iter().collect();
    let biased: Vec<u32> = s.logit_bias.iter().flatten().map(|b| b.id).collect();
    let sequences: Vec<u32> = s.sequence_bias.iter().flatten().flat_map(|b| b.ids.clone()).collect();
    let words: Vec<u32> = s.bad_words_ids.iter().flatten().flat_map(|ids| ids.0.clone()).collect();
    let none = Vec::new();
    let lists = [
        ("eos_token_id", s.eos_token_id.as_ref().unwrap_or(&none)),
        ("suppress_tokens", s.suppress_tokens.as_ref().unwrap_or(&none)),
        ("begin_suppress_tokens", s.begin_suppress_tokens.as_ref().unwrap_or(&none)),
        ("forced_eos_token_id", s.forced_eos_token_id.as_ref().unwrap_or(&none)),
        ("forced_bos_token_id", &forced_bos),
        ("logit_bias", &biased),
        ("sequence_bias", &sequences),
        ("bad_words_ids", &words),
    ];
    for (setting, ids) in lists {
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::setting(
                setting,
                format!("holds the token {id}, expected ids below {vocab_size}"),
                "`fireside tokenize` shows the ids of a text",
            ));
        }
    }
    Ok(())
}

fn most_new_tokens(s: &Sampling, user: &Sampling, against: &Against, warnings: &mut Vec<String>) -> Result<usize> {
    let Against { prompt_tokens, context, .. } = *against;
    if user.max_new_tokens.is_some() && user.max_length.is_some() {
        warnings.push("`max_length` has no effect beside `max_new_tokens`".to_owned());
    }
    let wanted = match (s.max_new_tokens, s.max_length) {
        (Some(new), _) => new,
        (None, Some(length)) if length <= prompt_tokens && user.max_length.is_none() => {
            let (own, rest) = (count(prompt_tokens, "token"), count(PIPELINE_LIMIT, "new token"));
            warnings.push(format!(
                "the model's own `max_length` of {length} is spent by a prompt of {own}; up to {rest} follow"
            ));
            PIPELINE_LIMIT
        }
        (None, Some(length)) if length <= prompt_tokens => {
            return Err(Error::setting(
                "max_length",
                format!("is {length}, but the prompt alone has {}", count(prompt_tokens, "token")),
                "`max_length` counts the prompt; set `max_new_tokens` to count new tokens only",
            ));
        }
        (None, Some(length)) => length - prompt_tokens,
        (None, None) => context,
    };
    let room = context - prompt_tokens;
    if wanted > room && (user.max_new_tokens.is_some() || user.max_length.is_some()) {
        warnings.push(format!(
            "only {} fit: the prompt has {} and the model's context holds {context}",
            count(room, "new token"),
            count(prompt_tokens, "token")
        ));
    }
    Ok(wanted.min(room))
}

fn least_new_tokens(
    s: &Sampling,
    user: &Sampling,
    max_new_tokens: usize,
    against: &Against,
    warnings: &mut Vec<String>,
) -> Result<usize> {
    if let (Some(least), Some(most)) = (user.min_new_tokens, user.max_new_tokens)
        && least > most
    {
        return Err(Error::setting(
            "min_new_tokens",
            format!("is {least}, above `max_new_tokens`, which is {most}"),
            "",
        ));
    }
    if let (Some(least), Some(most)) = (user.min_length, user.max_length)
        && least > most
    {
        return Err(Error::setting("min_length", format!("is {least}, above `max_length`, which is {most}"), ""));
    }
    let asked = user.min_new_tokens.is_some() || user.min_length.is_some();
    let (setting, least) = match (s.min_new_tokens, s.min_length) {
        (Some(new), _) => ("min_new_tokens", new),
        (None, length) => ("min_length", length.unwrap_or(0).saturating_sub(against.prompt_tokens)),
    };
    if least > max_new_tokens && !asked {
        warnings.push(format!(
            "the model's own `{setting}` asks for {least} new tokens, of which {max_new_tokens} are allowed"
        ));
        return Ok(max_new_tokens);
    }
    if least > max_new_tokens {
        return Err(Error::setting(
            setting,
            format!("asks for {least} new tokens, but at most {max_new_tokens} are allowed"),
            "raise `max_new_tokens`, or shorten the prompt",
        ));
    }
    Ok(least)
}

fn beam_settings(s: &Sampling) -> Result<Option<BeamSettings>> {
    let beams = s.num_beams.unwrap_or(1);
    if beams == 1 {
        return Ok(None);
    }
    if let Some(wanted) = s.num_return_sequences.filter(|wanted| *wanted > beams) {
        return Err(Error::setting(
            "num_return_sequences",
            format!("is {wanted}, above `num_beams`, which is {beams}"),
            "a search returns at most as many texts as it has beams",
        ));
    }
    Ok(Some(BeamSettings {
        beams,
        early_stopping: s.early_stopping.unwrap_or(EarlyStopping::False),
        length_penalty: s.length_penalty.unwrap_or(1.0),
    }))
}

fn lookup_settings(s: &Sampling, beams: bool, returned: usize) -> Result<Option<Lookup>> {
    let Some(tokens) = s.prompt_lookup_num_tokens else { return Ok(None) };
    if beams || returned > 1 {
        let other = if beams { "num_beams" } else { "num_return_sequences" };
        return Err(Error::setting(
            "prompt_lookup_num_tokens",
            format!("does not work with `{other}` above 1"),
            "leave out one of the two",
        ));
    }
    Ok(Some(Lookup { tokens, ngram: s.max_matching_ngram_size.unwrap_or(2) }))
}

fn warn_of_no_effect(settings: &Settings, user: &Sampling, against: &Against, warnings: &mut Vec<String>) {
    let mut warn = |present: bool, setting: &str, why: &str| {
        if present {
            warnings.push(format!("`{setting}` has no effect {why}"));
        }
    };
    let is_one = settings.resolved.top_k == Some(1) && settings.beams.is_none();
    if !settings.do_sample || is_one {
        let why = match settings.do_sample {
            true => "because `top_k` 1 leaves one token to draw from",
            false => "because the likeliest token is taken; add `do_sample` to draw at random",
        };
        warn(user.temperature.is_some_and(|t| t != 0.0), "temperature", why);
        warn(user.top_h.is_some(), "top_h", why);
        warn(user.top_k.is_some() && !settings.do_sample, "top_k", why);
        warn(user.top_p.is_some(), "top_p", why);
        warn(user.min_p.is_some(), "min_p", why);
        warn(user.typical_p.is_some(), "typical_p", why);
        warn(user.epsilon_cutoff.is_some(), "epsilon_cutoff", why);
        warn(user.eta_cutoff.is_some(), "eta_cutoff", why);
        warn(user.seed.is_some(), "seed", why);
    }
    if settings.beams.is_none() {
        let why = "without `num_beams` above 1";
        warn(user.early_stopping.is_some(), "early_stopping", why);
        warn(user.length_penalty.is_some(), "length_penalty", why);
        warn(user.renormalize_logits == Some(true), "renormalize_logits", why);
    }
    let may_end = !settings.eos.is_empty()
        || !settings.stop_strings.is_empty()
        || settings.max_time.is_some()
        || user.is_constrained();
    warn(
        user.early_stopping.is_some() && settings.beams.is_some() && !may_end,
        "early_stopping",
        "where nothing ends a text before its limit",
    );
    warn(
        user.max_matching_ngram_size.is_some() && settings.lookup.is_none(),
        "max_matching_ngram_size",
        "without `prompt_lookup_num_tokens`",
    );
    warn(user.min_length.is_some() && user.min_new_tokens.is_some(), "min_length", "beside `min_new_tokens`");
    let is_end = |ids: &[u32]| matches!(ids, [id] if settings.eos.contains(id));
    let forbids_end = user.bad_words_ids.iter().flatten().any(|ids| is_end(&ids.0));
    let instead = "on an end token; `suppress_tokens` and `ignore_eos` have one";
    warn(forbids_end, "bad_words_ids", instead);
    let ids_of = |word: &String| against.tokenizer.encode_plain(word).unwrap_or_default();
    warn(user.bad_words.iter().flatten().any(|word| is_end(&ids_of(word))), "bad_words", instead);
    warn(
        user.forced_bos_token_id.is_some() && against.prompt_tokens != 1,
        "forced_bos_token_id",
        "unless the prompt is one token",
    );
    warn(
        user.forced_bos_token_id.is_some() && user.forced_eos_token_id.is_some() && settings.max_new_tokens == 1,
        "forced_bos_token_id",
        "beside `forced_eos_token_id` where one new token is all",
    );
    let late =
        user.exponential_decay_length_penalty.filter(|decay| decay.0.saturating_add(1) >= settings.max_new_tokens);
    if let Some(decay) = late.filter(|_| !settings.eos.is_empty()) {
        let why = format!("because it begins behind {} of {} new tokens", decay.0, settings.max_new_tokens);
        warn(true, "exponential_decay_length_penalty", &why);
    }
    if settings.eos.is_empty() {
        let why = if user.ignore_eos == Some(true) { "beside `ignore_eos`" } else { "without an `eos_token_id`" };
        warn(user.min_new_tokens.is_some(), "min_new_tokens", why);
        warn(user.min_length.is_some(), "min_length", why);
        warn(user.exponential_decay_length_penalty.is_some(), "exponential_decay_length_penalty", why);
        warn(user.ignore_eos == Some(true) && user.eos_token_id.is_some(), "eos_token_id", why);
    }
    for (setting, is_said) in [
        ("forced_bos_token_id", user.forced_bos_token_id.is_some()),
        ("forced_eos_token_id", user.forced_eos_token_id.is_some()),
    ] {
        if is_said && user.is_constrained() {
            warnings.push(format!("`{setting}` has no effect where the constraint does not allow the token"));
        }
    }
    let kept = |limit: usize, tokenizer: &Tokenizer| tokenizer.id_limit() < limit / 2;
    if kept(against.vocab_size, against.tokenizer) {
        let (known, size) = (against.tokenizer.id_limit(), against.vocab_size);
        warnings.push(format!("the tokenizer knows {known} of the model's {size} tokens; the others have no text"));
    }
}
