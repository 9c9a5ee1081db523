//! `fireside tokenize`: a text's tokens, and tokens' text.

use anyhow::{Result, anyhow};
use serde_json::json;

use super::hub::HubArgs;
use super::input::TextArgs;
use super::output::{Usage, answer, answer_json};
use crate::{EMBEDDED, Tokenizer};

/// Show a text's tokens, or the text of some tokens
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fireside tokenize \"Hello World\"
  fireside tokenize --ids \"Hello World\" | fireside tokenize --decode
  fireside tokenize --json --model ./gpt2 - < book.txt")]
pub(super) struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// The model whose tokenizer to use: `ember`, a short name, `owner/name` on the Hub, a folder, or a .gguf or
    /// .safetensors file
    #[arg(short, long, value_name = "MODEL", default_value = EMBEDDED)]
    model: String,
    /// Print the ids alone, on one line
    #[arg(long, group = "form")]
    ids: bool,
    /// Print the number of tokens alone
    #[arg(long, group = "form")]
    count: bool,
    /// Read ids and print their text
    #[arg(long, group = "form")]
    decode: bool,
    /// Add no special tokens around the text; with --decode, leave out such tokens
    #[arg(long)]
    no_special_tokens: bool,
    /// Print JSON: ids, names in the vocabulary, pieces of text, count
    #[arg(long, conflicts_with_all = ["ids", "count"])]
    json: bool,
    #[command(flatten)]
    hub: HubArgs,
}

pub(super) fn run(args: Args) -> Result<()> {
    let text = args.text.read()?;
    let tokenizer = match args.hub.open_for(&args.model)? {
        Some(hub) => Tokenizer::load_with(&args.model, &hub)?,
        None => Tokenizer::load(&args.model)?,
    };
    if args.decode {
        return decode(&args, &text, &tokenizer);
    }
    let ids = if args.no_special_tokens { tokenizer.encode_plain(&text)? } else { tokenizer.encode(&text)? };
    let piece = |id: &u32| tokenizer.decode(&[*id], false);
    if args.json {
        let names: Vec<Option<String>> = ids.iter().map(|id| tokenizer.name(*id)).collect();
        let pieces: Vec<String> = ids.iter().map(piece).collect();
        return answer_json(&json!({ "ids": ids, "tokens": names, "pieces": pieces, "count": ids.len() }));
    }
    if args.count {
        return answer(&format!("{}\n", ids.len()));
    }
    if args.ids {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        return answer(&format!("{}\n", ids.join(" ")));
    }
    let width = ids.iter().max().map_or(1, |id| id.to_string().len());
    answer(&ids.iter().map(|id| format!("{id:>width$}  {}\n", json!(piece(id)))).collect::<String>())
}

fn decode(args: &Args, text: &str, tokenizer: &Tokenizer) -> Result<()> {
    let mut ids = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty()) {
        let id: u32 = word.parse().map_err(|_| {
            let problem = format!("expected token ids, found {}", crate::quote(word));
            anyhow!(Usage { problem, hint: "pass numbers with spaces or commas between them" })
        })?;
        if tokenizer.name(id).is_none() {
            let problem = format!("expected ids of the vocabulary, found {id}");
            return Err(Usage { problem, hint: "`fireside info` shows how many tokens the model has" }.into());
        }
        ids.push(id);
    }
    let text = tokenizer.decode(&ids, args.no_special_tokens);
    if args.json {
        answer_json(&json!({ "ids": ids, "text": text, "count": ids.len() }))
    } else {
        answer(&format!("{text}\n"))
    }
}
