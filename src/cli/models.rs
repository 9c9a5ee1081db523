//! `fireside models`: the models that have a short name.

use anyhow::Result;
use serde_json::{Value, json};

use super::model::{bytes, count};
use super::output::{answer, answer_json};
use crate::error::line;
use crate::hub::catalog::{Card, cards};
use crate::{ARCHITECTURES, Hub};

/// List the models that have a short name: size, licence, whether they run and are here
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside models
  fireside models --json")]
pub(super) struct Args {
    /// Print JSON: everything that is known of each model
    #[arg(long)]
    json: bool,
}

/// A model of the list, as the table and as JSON show it.
struct Entry {
    /// Name, parameters, size, licence, whether this version runs it, whether it is here.
    cells: [String; 6],
    json: Value,
}

const HEADS: [&str; 6] = ["name", "params", "size", "licence", "runs", "here"];
/// Columns of numbers, whose units should stand below each other.
const NUMBERS: [bool; 6] = [false, true, true, false, false, false];

pub(super) fn run(args: Args) -> Result<()> {
    let hub = Hub::from_env()?;
    let mut entries = embedded()?;
    for card in cards() {
        let cached = hub.is_cached(&card.repo) || card.aliases.iter().any(|alias| hub.is_cached(alias));
        entries.push(entry(card, cached)?);
    }
    if args.json {
        return answer_json(&entries.into_iter().map(|entry| entry.json).collect::<Value>());
    }
    let rows = || entries.iter().map(|entry| &entry.cells);
    let width = |column: usize| {
        rows().map(|cells| cells[column].chars().count()).chain([HEADS[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut table = row(&HEADS.map(str::to_owned), &widths);
    rows().for_each(|cells| table.push_str(&row(cells, &widths)));
    answer(&table)
}

fn row(cells: &[String; 6], widths: &[usize; 6]) -> String {
    let cells = cells.iter().zip(widths).zip(NUMBERS);
    let padded = cells.map(|((cell, width), number)| match number {
        true => format!("{cell:>width$}"),
        false => format!("{cell:<width$}"),
    });
    padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
}

/// A card's model.
fn entry(card: &Card, cached: bool) -> Result<Entry> {
    let runs = ARCHITECTURES.iter().any(|architecture| architecture.model_type == card.architecture);
    let size = match card.bytes {
        Some(known) => bytes(known as usize),
        None => format!("~{}", bytes((card.parameters * if card.dtype == "f32" { 4 } else { 2 }) as usize)),
    };
    let licence = if card.gated { format!("{}, gated", card.license) } else { card.license.clone() };
    let mut json = serde_json::to_value(card)?;
    json["runs"] = json!(runs);
    json["cached"] = json!(cached);
    Ok(Entry {
        cells: [
            card.name.clone(),
            count(card.parameters as usize),
            size,
            licence,
            if runs { "yes" } else { "no" }.to_owned(),
            if cached { "cached" } else { "no" }.to_owned(),
        ],
        json,
    })
}

/// The model inside the program, which needs no cache.
#[cfg(feature = "ember")]
fn embedded() -> Result<Vec<Entry>> {
    let engine = crate::Engine::load(crate::EMBEDDED)?;
    let info = engine.info();
    let licence = line(info.license.as_deref().unwrap_or("not stated"));
    Ok(vec![Entry {
        cells: [
            crate::EMBEDDED.to_owned(),
            count(info.parameters),
            bytes(info.weight_bytes),
            licence.clone(),
            "yes".to_owned(),
            "inside".to_owned(),
        ],
        json: json!({
            "name": crate::EMBEDDED,
            "title": "the model inside the program",
            "architecture": info.architecture,
            "license": licence,
            "gated": false,
            "parameters": info.parameters,
            "bytes": info.weight_bytes,
            "dtype": info.dtypes.join("+"),
            "golden": super::verify_golden::embedded()?,
            "runs": true,
            "cached": true,
        }),
    }])
}

#[cfg(not(feature = "ember"))]
fn embedded() -> Result<Vec<Entry>> {
    Ok(Vec::new())
}
