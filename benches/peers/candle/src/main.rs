//! candle's part of run.py: the `quantized_llama` model of candle-transformers on a GGUF file, the result as JSON.
//!
//!     RAYON_NUM_THREADS=2 candle-peer MODEL.gguf PROMPT NEW REPEAT
//!
//! NEW 0 measures the prompt, otherwise the decoding after it. candle-transformers has no GPT-2.

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Result, Tensor, D};
use candle_transformers::models::quantized_llama::ModelWeights;
use std::time::Instant;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<usize> = args.iter().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let &[prompt_length, new, repeat] = numbers.as_slice() else {
        eprintln!("usage: candle-peer MODEL.gguf PROMPT NEW REPEAT");
        std::process::exit(2);
    };
    let device = Device::Cpu;
    let mut file = std::fs::File::open(&args[0])?;
    let content = Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &device)?;
    let prompt: Vec<u32> = (0..prompt_length as u32).map(|i| 1000 + i * 7919 % 8000).collect();
    let prompt = Tensor::new(prompt, &device)?.unsqueeze(0)?;

    let mut rates = Vec::new();
    for run in 0..=repeat {
        let start = Instant::now();
        let mut token = likeliest(&model.forward(&prompt, 0)?)?; // position 0 empties the cache
        let prefill = start.elapsed().as_secs_f64();
        let start = Instant::now();
        for i in 0..if run == 0 { new.min(4) } else { new } {
            token = likeliest(&model.forward(&token, prompt_length + i)?)?;
        }
        if run > 0 {
            // the first run allocates
            rates.push(if new > 0 { new as f64 / start.elapsed().as_secs_f64() } else { prompt_length as f64 / prefill });
        }
    }
    rates.sort_by(f64::total_cmp);
    println!(r#"{{"tokens_per_s": {}, "all": {rates:?}, "version": "0.11.1"}}"#, rates[rates.len() / 2]);
    Ok(())
}

/// The likeliest token of `(1, vocab)` logits as the next input, `(1, 1)`.
fn likeliest(logits: &Tensor) -> Result<Tensor> {
    let id = logits.argmax(D::Minus1)?.to_vec1::<u32>()?[0];
    Tensor::new(&[[id]], logits.device())
}
