//! A real model beside llama.cpp. Opt-in, since both must be there:
//!
//! * `FIRESIDE_SMOLLM2=<file>`: a GGUF file of SmolLM2-135M. Texts are held against `smollm2.json`, if that has the file's.
//! * `FIRESIDE_SMOLLM2_KL=<file>`: what `llama-perplexity -m MODEL -f TEXT --kl-divergence-base FILE` wrote of it.

use fireside::{Engine, Prompt};
use serde_json::Value;

use crate::support::json;

fn model() -> Option<String> {
    let model = std::env::var("FIRESIDE_SMOLLM2").ok();
    if model.is_none() {
        eprintln!("SKIPPED: FIRESIDE_SMOLLM2 names no GGUF file of SmolLM2-135M");
    }
    model
}

/// llama.cpp's greedy texts are ours, but for near ties. Both engines round activations to 8 bits, and what a last bit changes
/// grows from layer to layer: of llama.cpp's own texts with `-fa on` and with `-fa off` 3 to 7 of the 20 are the same. So at each
/// token of theirs it is asked how far ours is ahead.
#[test]
fn greedy_texts_of_a_real_model_are_those_of_llama_cpp() {
    let Some(model) = model() else { return };
    let mut engine = Engine::load(&model).unwrap();
    let fixture = json("smollm2.json");
    let kind = engine.info().dtypes[0].clone();
    let Some(texts) = fixture["files"].get(&kind).and_then(Value::as_array) else {
        eprintln!("SKIPPED: smollm2.json has no texts of a file in {kind}");
        return;
    };
    assert!(texts.len() >= 20);
    let vocabulary = engine.info().vocab_size;
    let (mut all, mut same, mut worst) = (0, 0, 0.0_f32);
    for case in texts {
        let (prompt, text) = (case["prompt"].as_str().unwrap(), case["text"].as_str().unwrap());
        let text = text.trim_end_matches('\n').trim_end_matches(" [end of text]"); // what its command adds
        let begin = engine.tokenizer().encode(prompt).unwrap();
        let ids = [&begin[..], &engine.tokenizer().encode_plain(text).unwrap()].concat();
        let logits = engine.logits(Prompt::Tokens(ids.clone())).unwrap();
        for (row, id) in logits.chunks_exact(vocabulary).zip(&ids[1..]).skip(begin.len() - 1) {
            let best = row.iter().fold(f32::NEG_INFINITY, |best, x| best.max(*x));
            let behind = best - row[*id as usize];
            (all, same, worst) = (all + 1, same + usize::from(behind == 0.0), worst.max(behind));
            if behind > 0.5 {
                println!("{behind} behind in {prompt:?}: {:?}", engine.tokenizer().decode(&[*id], false));
            }
        }
    }
    println!("{kind}: {same} of {all} tokens the same, the others behind by up to {worst}");
    assert!(all > 400 && same * 100 >= all * 95 && worst < 1.0, "see above");
}

/// Reads what llama-perplexity wrote: for the second half of each chunk, the logarithms of all probabilities in 16 bits.
#[test]
fn probabilities_of_a_real_model_are_those_of_llama_cpp() {
    let (Some(model), Ok(base)) = (model(), std::env::var("FIRESIDE_SMOLLM2_KL")) else {
        eprintln!("SKIPPED: FIRESIDE_SMOLLM2_KL names no file that llama-perplexity wrote");
        return;
    };
    let mut engine = Engine::load(&model).unwrap();
    let bytes = std::fs::read(base).unwrap();
    let (magic, rest) = bytes.split_at(8);
    assert_eq!(magic, b"_logits_");
    let word = |bytes: &[u8], i: usize| u32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
    let [n_ctx, n_vocab, n_chunk] = [0, 1, 2].map(|i| word(rest, i) as usize);
    assert_eq!(n_vocab, engine.info().vocab_size);
    let rest = &rest[12..];
    let tokens: Vec<u32> = (0..n_ctx * n_chunk).map(|i| word(rest, i)).collect();
    let mut rows = rest[4 * tokens.len()..].chunks_exact(2 * (2 * n_vocab.div_ceil(2) + 4));
    let (mut all, mut largest, mut same) = (Vec::new(), 0.0_f64, 0);
    for chunk in tokens.chunks(n_ctx) {
        let logits = engine.logits(Prompt::Tokens(chunk.to_vec())).unwrap();
        for ours in logits.chunks_exact(n_vocab).take(n_ctx - 1).skip(n_ctx / 2) {
            let row = rows.next().expect("a row");
            let float = |i: usize| f64::from(f32::from_bits(word(row, i)));
            let (scale, least) = (float(0), float(1));
            let theirs = row[8..].as_chunks::<2>().0[..n_vocab].iter().map(|b| u16::from_le_bytes(*b));
            let most = f64::from(ours.iter().fold(f32::NEG_INFINITY, |most, x| most.max(*x)));
            let sum: f64 = ours.iter().map(|x| (f64::from(*x) - most).exp()).sum();
            let (mut divergence, mut best) = (0.0, (f64::NEG_INFINITY, 0));
            for (token, (theirs, ours)) in theirs.zip(ours).enumerate().filter(|(_, (theirs, _))| *theirs > 0) {
                // 0 stands for all that is 16 or more below the best, whatever it is.
                let (theirs, ours) = (scale * f64::from(theirs) + least, f64::from(*ours) - most - sum.ln());
                divergence += theirs.exp() * (theirs - ours);
                best = if theirs > best.0 { (theirs, token) } else { best };
            }
            same += usize::from(ours.iter().all(|x| *x <= ours[best.1]));
            largest = largest.max(divergence);
            all.push(divergence);
        }
    }
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let kind = engine.info().dtypes.join(" + ");
    println!("{kind}: mean divergence {mean:.2e}, largest {largest:.2e}, {same} of {} best tokens the same", all.len());
    // Activations are rounded to 8 bits, and a last bit that differs grows through thirty layers: llama.cpp with `-fa on` and
    // with `-fa off` are 3.9e-3 apart in Q8_0, and each is 3.7e-3 off the logits of the widened numbers, of which we are 3.5e-3.
    assert!(mean <= 1e-2, "{mean}");
}
