//! A result held against an earlier one, and the gate that fails where it is slower.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use super::plan::Plan;
use super::report::Report;
use super::subject::Model;
use super::usage;
use crate::error::{count, line};
use crate::quote;

/// An earlier result.
pub(super) struct Baseline {
    report: Report,
    file: String,
}

/// How two results stand to each other.
pub(super) struct Comparison {
    pub(super) rows: Vec<Row>,
    /// What differs beside the program, and may be why.
    pub(super) warnings: Vec<String>,
    file: String,
}

/// One test, before and now, in tokens per second.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    name: String,
    threads: usize,
    depth: usize,
    batch: usize,
    before: f64,
    now: f64,
    /// Above 1 where it is faster now.
    ratio: f64,
}

/// What makes two tests the same.
type Key<'a> = (&'a str, usize, usize, usize);

impl Baseline {
    /// Reads what `--save` wrote.
    pub(super) fn read(path: &Path) -> Result<Baseline> {
        let file = quote(&path.display().to_string());
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
        let report = serde_json::from_str(&text).map_err(|error| {
            anyhow!("{file} is not a result that `fireside bench --save` wrote: {}", line(&error.to_string()))
        })?;
        Ok(Baseline { report, file })
    }

    /// Another model, another number of layers or another format cannot be compared.
    pub(super) fn check_model(&self, now: &Model) -> Result<()> {
        let before = &self.report.model;
        for (what, before, now) in [
            ("model", &before.name, &now.name),
            ("type", &before.dtype, &now.dtype),
            ("cache type", &before.kv, &now.kv),
            ("parameters", &before.parameters.to_string(), &now.parameters.to_string()),
        ] {
            if before != now {
                let problem = format!("{} holds the {what} {}, and this is {}", self.file, quote(before), quote(now));
                return Err(usage(problem, "compare results of the same model in the same format"));
            }
        }
        Ok(())
    }

    /// The same tests must have run; the threads are seen when they have.
    pub(super) fn check_tests(&self, plan: &Plan) -> Result<()> {
        for test in &plan.tests {
            let same =
                |(name, _, depth, batch): Key<'_>| (name, depth, batch) == (&*test.name(), test.depth, test.batch);
            if !keys(&self.report).any(same) {
                let name = test.name();
                let problem = format!(
                    "{} holds no test {} at depth {} in batches of {}",
                    self.file,
                    quote(&name),
                    test.depth,
                    test.batch
                );
                return Err(usage(problem, "run the tests that were saved; the file's `command` says how"));
            }
        }
        Ok(())
    }

    /// Test by test. One that was saved with another number of threads has no counterpart and is named.
    pub(super) fn compare(&self, now: &Report) -> Comparison {
        let (before, mut rows, mut warnings) = (&self.report, Vec::new(), Vec::new());
        for test in &now.tests {
            let key = (&*test.name, test.threads, test.depth, test.batch);
            let found = before.tests.iter().find(|test| (&*test.name, test.threads, test.depth, test.batch) == key);
            let Some(found) = found else {
                warnings.push(format!("{} holds no `{}` with {}", self.file, test.name, count(test.threads, "thread")));
                continue;
            };
            let (before, now) = (found.tokens_per_s.median, test.tokens_per_s.median);
            rows.push(Row {
                name: test.name.clone(),
                threads: test.threads,
                depth: test.depth,
                batch: test.batch,
                before,
                now,
                ratio: now / before,
            });
        }
        for key in keys(before).filter(|key| !keys(now).any(|now| now == *key)) {
            warnings.push(format!("`{}` with {} was saved and did not run now", key.0, count(key.1, "thread")));
        }
        for (what, before, now) in [
            ("processor", &before.machine.cpu, &now.machine.cpu),
            ("kernels", &before.machine.kernels, &now.machine.kernels),
        ] {
            if before != now {
                warnings.push(format!("the {what} differ: {} before, {} now", quote(before), quote(now)));
            }
        }
        Comparison { rows, warnings, file: self.file.clone() }
    }
}

fn keys(report: &Report) -> impl Iterator<Item = Key<'_>> {
    report.tests.iter().map(|test| (&*test.name, test.threads, test.depth, test.batch))
}

impl Comparison {
    /// The ratios for people.
    pub(super) fn table(&self) -> String {
        let mut table = "| test             | threads | batch |     before |        now | ratio |\n\
                         | :--------------- | ------: | ----: | ---------: | ---------: | ----: |\n"
            .to_owned();
        for row in &self.rows {
            let name = if row.depth > 0 { format!("{} @ d{}", row.name, row.depth) } else { row.name.clone() };
            let _ = writeln!(
                table,
                "| {name:<16} | {:>7} | {:>5} | {:>10.2} | {:>10.2} | {:>5.3} |",
                row.threads, row.batch, row.before, row.now, row.ratio
            );
        }
        table
    }

    /// Fails where a test's median is slower by more than so many percent, or where nothing could be compared.
    pub(super) fn judge(&self, percent: f64) -> Result<()> {
        if self.rows.is_empty() {
            bail!("no test of {} ran with the same number of threads, so nothing can be judged", self.file);
        }
        let slower = |row: &&Row| row.ratio.is_nan() || row.ratio < 1.0 - percent / 100.0;
        let slower: Vec<String> = (self.rows.iter().filter(slower))
            .map(|row| {
                let depth = if row.depth > 0 { format!(" @ d{}", row.depth) } else { String::new() };
                let lost = 100.0 * (1.0 - row.ratio);
                let threads = count(row.threads, "thread");
                format!("{}{depth} by {lost:.1} % ({threads}, batch {})", row.name, row.batch)
            })
            .collect();
        if slower.is_empty() {
            return Ok(());
        }
        bail!("slower than {} by more than {percent} %: {}", self.file, slower.join(", "))
    }
}

/// `5%` or `5`
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end().parse::<f64>();
    match number {
        Ok(number) if (0.0..100.0).contains(&number) => Ok(number),
        _ => Err("expected a percentage from 0 to below 100, as in `5%`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(ratios: &[f64]) -> Comparison {
        let row = |ratio: &f64| Row {
            name: "tg128".to_owned(),
            threads: 2,
            depth: 0,
            batch: 1,
            before: 100.0,
            now: 100.0 * ratio,
            ratio: *ratio,
        };
        Comparison { rows: ratios.iter().map(row).collect(), warnings: Vec::new(), file: "`f`".to_owned() }
    }

    #[test]
    fn the_gate_fails_only_beyond_its_limit() {
        let check =
            |ratios: &[f64], passes: bool| assert_eq!(comparison(ratios).judge(5.0).is_ok(), passes, "{ratios:?}");
        check(&[1.2, 1.0, 0.96], true);
        check(&[0.951], true);
        check(&[1.2, 0.949], false);
        check(&[f64::NAN], false);
        check(&[], false);
        let error = comparison(&[1.0, 0.5]).judge(5.0).expect_err("half as fast").to_string();
        assert_eq!(error, "slower than `f` by more than 5 %: tg128 by 50.0 % (2 threads, batch 1)");
    }

    #[test]
    fn a_percentage_may_have_its_sign() {
        assert_eq!((percent("5%"), percent("0.5"), percent("7 %")), (Ok(5.0), Ok(0.5), Ok(7.0)));
        for wrong in ["", "%", "-1", "100", "five", "NaN", "inf"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }
}
