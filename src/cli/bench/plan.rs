//! Which tests run: the arguments against what the model and the memory have room for.

use anyhow::Result;

use super::subject::Subject;
use super::{Args, usage};
use crate::cli::model::bytes;
use crate::engine::bench::{Bench, check_context};
use crate::memory::Memory;

/// Sizes that llama-bench has by default, so that nobody has to name them.
const PROMPT: usize = 512;
const GENERATE: usize = 128;

/// One test of one model with one number of threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Test {
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    /// Tokens that are written one by one.
    pub(super) generate: usize,
    pub(super) depth: usize,
    pub(super) batch: usize,
}

/// The tests in the order in which they run.
pub(super) struct Plan {
    pub(super) tests: Vec<Test>,
}

impl Test {
    /// `pp512`, `tg128` or `pp512+tg128`, as llama-bench names them.
    pub(super) fn name(&self) -> String {
        match (self.prompt, self.generate) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generate) => format!("tg{generate}"),
            (prompt, generate) => format!("pp{prompt}+tg{generate}"),
        }
    }

    /// Tokens of each sequence when the test ends.
    fn end(&self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.generate)
    }
}

impl Plan {
    /// The tests that the arguments ask for, or what of them is impossible.
    pub(super) fn of(args: &Args, subject: &Subject) -> Result<Plan> {
        let context = subject.bench.context();
        let deepest = args.depth.iter().copied().max().unwrap_or(0);
        let sizes = |asked: &[usize], default: usize| match asked {
            // A model with a short context gets what fits, and the test's name says how much that was.
            [] => vec![default.min(context.saturating_sub(deepest))],
            asked => asked.to_vec(),
        };
        let work: Vec<(usize, usize)> = (sizes(&args.prompt, PROMPT).into_iter().map(|n| (n, 0)))
            .chain(sizes(&args.generate, GENERATE).into_iter().map(|n| (0, n)))
            .chain(args.pg.iter().copied())
            .filter(|work| *work != (0, 0))
            .collect();
        let mut tests: Vec<Test> = Vec::new();
        for depth in &args.depth {
            for batch in &args.batch {
                for (prompt, generate) in &work {
                    let test = Test { prompt: *prompt, generate: *generate, depth: *depth, batch: usize::from(*batch) };
                    if !tests.contains(&test) {
                        tests.push(test);
                    }
                }
            }
        }
        if tests.is_empty() {
            let problem = match deepest >= context {
                true => format!("a depth of {deepest} leaves no room in the model's context of {context}"),
                false => "there is nothing to measure: every test has no tokens".to_owned(),
            };
            return Err(usage(problem, "name tests with `-p`, `-n` or `--pg`, and a depth below the context"));
        }
        for test in &tests {
            let setting = if test.depth > 0 {
                "depth"
            } else if test.prompt > 0 {
                "prompt"
            } else {
                "generate"
            };
            check_context(setting, test.end(), context)?;
        }
        check_memory(&tests, &subject.bench)?;
        Ok(Plan { tests })
    }

    /// Runs every test once without counting: afterwards weights are in memory, threads awake and buffers there.
    pub(super) fn warm_up(&self, bench: &mut Bench) -> Result<()> {
        for test in &self.tests {
            let mut sequences = bench.sequences(test.batch, test.depth)?;
            bench.measure(&mut sequences, test.prompt, test.generate)?;
        }
        Ok(())
    }

    /// Whether a column for them is worth its room.
    pub(super) fn has_batches(&self) -> bool {
        self.tests.iter().any(|test| test.batch > 1)
    }
}

/// Refuses caches that the machine has no room for, before it is brought to a halt.
fn check_memory(tests: &[Test], bench: &Bench) -> Result<()> {
    let Some(available) = Memory::now().available else { return Ok(()) };
    for test in tests {
        let needed = bench.bytes_of(test.batch, test.end());
        if needed as u64 > available {
            let problem = format!(
                "{} sequences of {} tokens need {} for the cache and logits, and {} may be used",
                test.batch,
                test.end(),
                bytes(needed),
                bytes(usize::try_from(available).unwrap_or(usize::MAX))
            );
            return Err(usage(problem, "ask for fewer with `--batch`, `--depth` or `--prompt`"));
        }
    }
    Ok(())
}

/// `512,128`
pub(super) fn pair(text: &str) -> Result<(usize, usize), String> {
    let (prompt, generate) = text.split_once(',').ok_or("expected two numbers, as in `512,128`")?;
    let number = |text: &str| text.trim().parse().map_err(|_| format!("expected a number, found `{text}`"));
    match (number(prompt)?, number(generate)?) {
        (0, _) | (_, 0) => Err("expected at least one token of each; `-p` and `-n` measure one alone".to_owned()),
        pair => Ok(pair),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_as_llama_bench_names_them() {
        let check = |prompt, generate, expected: &str| {
            assert_eq!(Test { prompt, generate, depth: 9, batch: 1 }.name(), expected);
        };
        check(512, 0, "pp512");
        check(0, 128, "tg128");
        check(64, 16, "pp64+tg16");
    }

    #[test]
    fn a_pair_is_two_numbers_above_zero() {
        assert_eq!(pair("512,128"), Ok((512, 128)));
        assert_eq!(pair("512, 128"), Ok((512, 128)));
        for wrong in ["", "512", "512,", "a,b", "0,4", "4,0", "1,2,3", "-1,2", "99999999999999999999,1"] {
            assert!(pair(wrong).is_err(), "{wrong}");
        }
    }
}
