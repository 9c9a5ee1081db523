//! Which tensors a token needs only a row of.

/// Names of tables of which a token needs a row: positions, and the vocabulary's where the head has weights of its own.
pub fn gathered<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<&'a str> {
    const POSITIONS: [&str; 3] = ["wpe", "embed_positions", "position_embeddings"];
    const VOCABULARY: [&str; 5] = ["wte", "embed_tokens", "embed_in", "tok_embeddings", "word_embeddings"];
    const HEADS: [&str; 3] = ["lm_head", "embed_out", "output"];
    let is_of = |name: &str, layers: &[&str]| {
        let layer = name.strip_suffix(".weight").map(|layer| layer.rsplit('.').next().unwrap_or(layer));
        layer.is_some_and(|layer| layers.contains(&layer))
    };
    let has_head = names.clone().any(|name| HEADS.iter().any(|head| name.strip_suffix(".weight") == Some(head)));
    names.filter(|name| is_of(name, &POSITIONS) || has_head && is_of(name, &VOCABULARY)).collect()
}

#[cfg(test)]
mod tests {
    use super::gathered;

    #[test]
    fn tables_of_which_a_token_needs_a_row_are_told_by_their_names() {
        let check = |names: &[&str], expected: &[&str]| assert_eq!(gathered(names.iter().copied()), expected);
        check(&["wte.weight", "wpe.weight", "h.0.attn.c_attn.weight"], &["wpe.weight"]);
        check(
            &["transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"],
            &["transformer.wte.weight", "transformer.wpe.weight"],
        );
        check(&["model.embed_tokens.weight", "model.norm.weight"], &[]);
        check(&["model.embed_tokens.weight", "lm_head.weight"], &["model.embed_tokens.weight"]);
        check(&["gpt_neox.embed_in.weight", "embed_out.weight"], &["gpt_neox.embed_in.weight"]);
        check(&["h.0.attention.output.weight", "wte.weight"], &[]);
    }
}
