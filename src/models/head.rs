//! The table at a model's start and the product at its end, which may be one matrix.

use crate::error::Result;
use crate::nn::{Embedding, Linear};
use crate::weights::Weights;

/// [`embedding_and_head_at`] where the head is called `lm_head`.
pub(super) fn embedding_and_head(
    weights: &Weights,
    table: &Weights,
    dims: (usize, usize),
    tie_word_embeddings: bool,
) -> Result<(Embedding, Linear)> {
    embedding_and_head_at(&weights.at("lm_head"), table, dims, tie_word_embeddings)
}

/// The embedding at `table`, (vocab_size, width), and the head at `head`: a matrix of its own, or the embedding's where
/// `tie_word_embeddings` says so. A checkpoint may store a tied matrix twice, or under the head's name alone; where the two
/// differ, the head's own counts, as in transformers, whatever config.json says.
pub(super) fn embedding_and_head_at(
    head: &Weights,
    table: &Weights,
    (vocab_size, width): (usize, usize),
    tie_word_embeddings: bool,
) -> Result<(Embedding, Linear)> {
    let (has_table, has_head) = (table.at("weight").exists(), head.at("weight").exists());
    let only_head = tie_word_embeddings && !has_table && has_head;
    let embedding = Embedding::load(if only_head { head } else { table }, vocab_size, width)?;
    let is_repeated = tie_word_embeddings && !only_head && has_head;
    let is_repeated = is_repeated && embedding.is_same(&head.at("weight").stored(&[vocab_size, width])?);
    if is_repeated {
        head.at("weight").let_go();
    }
    if tie_word_embeddings && (is_repeated || only_head || !has_head) {
        let head = Linear::tied(&embedding, head.compute())?;
        return Ok((embedding, head));
    }
    if tie_word_embeddings {
        head.at("weight")
            .warn("`tie_word_embeddings` is true, but the head that is stored differs from the embedding and is used");
    }
    Ok((embedding, Linear::plain(head, width, vocab_size)?))
}
