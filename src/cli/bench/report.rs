//! What was measured, as a table, as JSON and as CSV.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::compare::Comparison;
use super::machine::Machine;
use super::subject::Model;
use super::timing::Found;
use crate::cli::model::{bytes, count};

/// How the result is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// A table for people, which is Markdown
    #[default]
    Md,
    /// Everything that is known, as one object
    Json,
    /// An object for each test, a line each
    Jsonl,
    /// A line for each test
    Csv,
}

/// All of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Report {
    pub(super) fireside: Program,
    pub(super) date: String,
    pub(super) command: String,
    pub(super) machine: Machine,
    pub(super) model: Model,
    pub(super) tests: Vec<Found>,
    /// From the start of a process; `null` for random weights.
    pub(super) first_token_ms: Option<f64>,
    /// Of loading the model and running each test once.
    pub(super) peak_memory_bytes: Option<u64>,
}

/// Which program it was.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Program {
    pub(super) version: String,
    /// The commit, where the build knew it.
    pub(super) commit: Option<String>,
}

impl Program {
    pub(super) fn this() -> Program {
        let commit = option_env!("FIRESIDE_COMMIT").filter(|commit| !commit.is_empty());
        Program { version: env!("CARGO_PKG_VERSION").to_owned(), commit: commit.map(str::to_owned) }
    }
}

/// What stands above the table.
pub(super) fn head(report: &Report, batches: bool) -> String {
    let Report { fireside, machine, model, .. } = report;
    let commit = fireside.commit.as_ref().map_or_else(String::new, |commit| format!(" ({commit})"));
    let memory = machine.memory_bytes.map_or_else(String::new, |total| format!(", {}", bytes(total as usize)));
    let mut head = format!(
        "fireside {}{commit}, {} kernels, {}\n{}: {} usable cores{memory}, {}\n{}: {}, {}{} parameters, {} in {}\n\n",
        fireside.version,
        machine.kernels,
        report.date,
        machine.cpu,
        machine.cores,
        machine.system,
        model.name,
        model.architecture,
        if model.random_weights { "random weights, " } else { "" },
        count(model.parameters),
        bytes(model.weight_bytes),
        model.dtype,
    );
    let (name, rule) = if batches { (" batch |", " ----: |") } else { ("", "") };
    head.push_str(&format!(
        "| test             | threads |{name}             tokens/s |     median | of the roof     |\n\
         | :--------------- | ------: |{rule} -------------------: | ---------: | :-------------- |\n"
    ));
    head
}

/// A line of the table.
pub(super) fn row(found: &Found, batches: bool) -> String {
    let name = if found.depth > 0 { format!("{} @ d{}", found.name, found.depth) } else { found.name.clone() };
    let batch = if batches { format!(" {:>5} |", found.batch) } else { String::new() };
    let speed = &found.tokens_per_s;
    let (mean, median) = (format!("{:.2} ± {:.2}", speed.mean, speed.sd), format!("{:.2}", speed.median));
    format!("| {name:<16} | {:>7} |{batch} {mean:>20} | {median:>10} | {:<15} |\n", found.threads, share(found))
}

/// `92 % of read`, `64 % of f32`
fn share(found: &Found) -> String {
    match (found.percent_of_roof, &found.limit) {
        (Some(percent), Some(limit)) => format!("{percent:.1} % of {limit}"),
        _ => "n/a".to_owned(),
    }
}

/// What stands below the table.
pub(super) fn foot(report: &Report) -> String {
    let mut foot = format!("\nroofs: {}\n", report.machine.roofs.line());
    if let Some(ms) = report.first_token_ms {
        foot.push_str(&format!("first token: {ms:.1} ms after the process starts, with a prompt of 16 tokens\n"));
    }
    if let Some(peak) = report.peak_memory_bytes {
        foot.push_str(&format!("peak memory: {}\n", bytes(usize::try_from(peak).unwrap_or(usize::MAX))));
    }
    for found in &report.tests {
        if let Some(joules) = found.joules_per_token {
            foot.push_str(&format!("energy: {joules:.3} J per token in {}\n", found.name));
        }
    }
    foot
}

impl Report {
    /// One object, indented, with a line break at its end.
    pub(super) fn json(&self, comparison: Option<&Comparison>) -> Result<String> {
        let mut value = serde_json::to_value(self)?;
        if let Some(comparison) = comparison {
            value["comparison"] = serde_json::to_value(&comparison.rows)?;
        }
        Ok(serde_json::to_string_pretty(&value)? + "\n")
    }

    /// A line for each test, with what all of them share in every one.
    pub(super) fn jsonl(&self) -> String {
        self.tests.iter().map(|found| format!("{}\n", Value::Object(self.record(found)))).collect()
    }

    /// The same with commas.
    pub(super) fn csv(&self) -> String {
        let records: Vec<Map<String, Value>> = self.tests.iter().map(|found| self.record(found)).collect();
        let Some(first) = records.first() else { return String::new() };
        let mut lines = vec![first.keys().cloned().collect::<Vec<_>>().join(",")];
        lines.extend(records.iter().map(|record| record.values().map(cell).collect::<Vec<_>>().join(",")));
        lines.join("\n") + "\n"
    }

    fn record(&self, found: &Found) -> Map<String, Value> {
        let (speed, roofs) = (&found.tokens_per_s, &self.machine.roofs);
        let record = json!({
            "test": found.name,
            "threads": found.threads,
            "depth": found.depth,
            "batch": found.batch,
            "repetitions": speed.runs.len(),
            "tokens_per_s_median": speed.median,
            "tokens_per_s_mean": speed.mean,
            "tokens_per_s_sd": speed.sd,
            "percent_of_roof": found.percent_of_roof,
            "limit": found.limit,
            "read_gb_s": found.read_gb_s,
            "joules_per_token": found.joules_per_token,
            "model": self.model.name,
            "type": self.model.dtype,
            "random_weights": self.model.random_weights,
            "parameters": self.model.parameters,
            "weight_bytes": self.model.weight_bytes,
            "cpu": self.machine.cpu,
            "kernels": self.machine.kernels,
            "roof_read_gb_s": roofs.read_gb_s,
            "roof_f32_gflop_s": roofs.f32_gflop_s,
            "roof_bf16_gflop_s": roofs.bf16_gflop_s,
            "roof_int8_gop_s": roofs.int8_gop_s,
            "first_token_ms": self.first_token_ms,
            "peak_memory_bytes": self.peak_memory_bytes,
            "version": self.fireside.version,
            "commit": self.fireside.commit,
            "date": self.date,
        });
        match record {
            Value::Object(record) => record,
            _ => Map::new(),
        }
    }
}

/// A value as RFC 4180 wants it: quoted where it holds what separates.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_with_separators_are_quoted() {
        let check = |value: Value, expected: &str| assert_eq!(cell(&value), expected);
        check(json!("gpt2"), "gpt2");
        check(json!("mistral-7b, 4 layers"), "\"mistral-7b, 4 layers\"");
        check(json!("a \"b\""), "\"a \"\"b\"\"\"");
        check(json!(null), "");
        check(json!(1.5), "1.5");
    }
}
