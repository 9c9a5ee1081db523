//! Attention and its cache against plain loops in `f64`; the same bits in every tier, on any number of threads, however the
//! tokens were cut and whatever stands beside them.

use std::sync::Arc;

use half::f16;

use super::*;

/// Factors, and summands where there are any.
type Affine = (Vec<f32>, Option<Vec<f32>>);

/// One sequence's layer: what `attend` is told of it, and all rows that are to go through it.
struct Case {
    heads: Heads,
    order: Order,
    window: Option<usize>,
    rotary: Option<Rotary>,
    /// Weights of queries and keys, with biases where they are layer norms.
    norms: Option<[Affine; 2]>,
    alibi: Option<(Vec<f32>, Steps)>,
    cap: Option<f32>,
    qkv: Vec<f32>,
    tokens: usize,
}

impl Case {
    fn new(n_heads: usize, n_kv_heads: usize, head_dim: usize, tokens: usize) -> Case {
        let mut numbers = Numbers((n_heads * 1000 + n_kv_heads * 100 + head_dim) as u64);
        let heads = Heads { n_heads, n_kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() };
        let width = (n_heads + 2 * n_kv_heads) * head_dim;
        // Large enough for weights that differ, and so for maxima that change from tile to tile.
        let qkv = numbers.many(tokens * width).iter().map(|x| x * 2.0).collect();
        let order = Order::Parts;
        Case { heads, order, window: None, rotary: None, norms: None, alibi: None, cap: None, qkv, tokens }
    }

    fn layer(&self) -> Attend<'_> {
        let norms = self.norms.as_ref().map(|[query, key]| HeadNorms { query: norm(query), key: norm(key) });
        let alibi = self.alibi.as_ref().map(|(slopes, steps)| Alibi { slopes, scale: 0.7, steps: *steps });
        let (heads, order, window, rotary) = (self.heads, self.order, self.window, self.rotary.as_ref());
        Attend { heads, order, window, rotary, norms, cap: self.cap, alibi }
    }

    fn width(&self) -> usize {
        self.qkv.len() / self.tokens
    }

    fn cache(&self, kind: CacheType) -> Cache {
        Cache {
            shape: CacheShape { kind, n_kv_heads: self.heads.n_kv_heads, head_dim: self.heads.head_dim },
            chunks: vec![],
        }
    }

    /// All tokens, so many at a time.
    fn run(&self, kernels: &Kernels, pool: &Pool, kind: CacheType, piece: usize) -> Vec<f32> {
        let mut cache = self.cache(kind);
        let mut out = Vec::new();
        for start in (0..self.tokens).step_by(piece) {
            out.extend(self.step(kernels, pool, &mut cache, start..self.tokens.min(start + piece)));
        }
        out
    }

    fn step(&self, kernels: &Kernels, pool: &Pool, cache: &mut Cache, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let qkv = &self.qkv[tokens.start * self.width()..tokens.end * self.width()];
        let mut out = vec![f32::NAN; tokens.len() * self.heads.n_heads * self.heads.head_dim];
        let (chunks, attending) = (cache.grow(tokens.end), tokens.len());
        let sequence = Sequence { chunks, tokens: 0..tokens.len(), attending, position: tokens.start };
        kernels.attend(pool, &self.layer(), &mut [sequence], qkv, &mut out);
        out
    }

    /// The last token over an `f32` cache with the numbers that `cache` reads as.
    fn last_over_numbers_of(&self, cache: &Cache) -> Vec<f32> {
        let mut wide = self.cache(CacheType::F32);
        for (chunk, from) in wide.grow(self.tokens).iter_mut().zip(&cache.chunks) {
            for row in 0..CHUNK_ROWS {
                let (keys, values) = from.read(row);
                Arc::make_mut(chunk).write(row, &keys, &values);
            }
        }
        // Its own row has to go in as the cache says it: such as it is, since it is in `f32`.
        let Heads { n_heads, n_kv_heads, head_dim, .. } = self.heads;
        let last = self.tokens - 1;
        let (key, value) = cache.chunks[last / CHUNK_ROWS].read(last % CHUNK_ROWS);
        let mut qkv = self.qkv[last * self.width()..].to_vec();
        for (i, number) in key.iter().chain(&value).enumerate() {
            qkv[self.place(n_heads + i / head_dim) * head_dim + i % head_dim] = *number;
        }
        let mut out = vec![f32::NAN; n_heads * head_dim];
        assert_eq!(qkv.len(), (n_heads + 2 * n_kv_heads) * head_dim);
        let sequence = Sequence { chunks: &mut wide.chunks, tokens: 0..1, attending: 1, position: last };
        best().attend(&pool(1), &self.layer(), &mut [sequence], &qkv, &mut out);
        out
    }

    /// Where a head lies in its row: queries, then keys, then values.
    fn place(&self, head: usize) -> usize {
        let Heads { n_heads, n_kv_heads, .. } = self.heads;
        let group = n_heads / n_kv_heads;
        let (kind, number) = match head {
            _ if head < n_heads => return if self.order == Order::Parts { head } else { head + 2 * (head / group) },
            _ if head < n_heads + n_kv_heads => (0, head - n_heads),
            _ => (1, head - n_heads - n_kv_heads),
        };
        if self.order == Order::Parts { head } else { (number + 1) * group + 2 * number + kind }
    }

    /// A head of a token, normalised and turned.
    fn head(&self, token: usize, head: usize) -> Vec<f64> {
        let Heads { n_heads, n_kv_heads, head_dim, .. } = self.heads;
        let from = &self.qkv[token * self.width() + self.place(head) * head_dim..][..head_dim];
        let mut x: Vec<f64> = from.iter().map(|x| f64::from(*x)).collect();
        if head >= n_heads + n_kv_heads {
            return x;
        }
        if let Some([query, key]) = &self.norms {
            let ((weight, bias), head) = if head < n_heads { (query, head) } else { (key, head - n_heads) };
            let first = if weight.len() == head_dim { 0 } else { head * head_dim };
            if bias.is_some() {
                let mean = x.iter().sum::<f64>() / head_dim as f64;
                x.iter_mut().for_each(|x| *x -= mean);
            }
            let root = (x.iter().map(|x| x * x).sum::<f64>() / head_dim as f64 + 1e-6).sqrt();
            for (i, x) in x.iter_mut().enumerate() {
                let bias = bias.as_ref().map_or(0.0, |bias| f64::from(bias[first + i]));
                *x = *x / root * f64::from(weight[first + i]) + bias;
            }
        }
        if let Some(rotary) = &self.rotary {
            let (cos, sin) = rotary.angles(token);
            for i in 0..cos.len() {
                let (a, b) = match rotary.pairing() {
                    Pairing::Halves => (i, i + cos.len()),
                    Pairing::Neighbours => (2 * i, 2 * i + 1),
                };
                let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
                (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
            }
        }
        x
    }

    /// What a key's place adds to its scores.
    fn bias(&self, head: usize, key: usize) -> f64 {
        let Some((slopes, steps)) = &self.alibi else { return 0.0 };
        let narrow = |x: f32| if *steps == Steps::Bf16 { half::bf16::from_f32(x).to_f32() } else { x };
        let (slope, key) = (narrow(slopes[head]), narrow(key as f32));
        let product =
            if *steps == Steps::Bf16 { f64::from(narrow(slope * key)) } else { f64::from(slope) * f64::from(key) };
        product * 0.7f32 as f64
    }

    fn naive(&self) -> Vec<f64> {
        let Heads { n_heads, n_kv_heads, head_dim, scale } = self.heads;
        let group = n_heads / n_kv_heads;
        let keys: Vec<Vec<Vec<f64>>> = (0..self.tokens)
            .map(|token| (n_heads..n_heads + 2 * n_kv_heads).map(|head| self.head(token, head)).collect())
            .collect();
        let mut out = Vec::new();
        for token in 0..self.tokens {
            let seen = self.window.map_or(0, |window| (token + 1).saturating_sub(window))..token + 1;
            for head in 0..n_heads {
                let q = self.head(token, head);
                let dot = |key: &[f64]| q.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() * f64::from(scale);
                let cap = |score: f64| self.cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                let scores = seen.clone().map(|row| cap(dot(&keys[row][head / group])) + self.bias(head, row));
                let scores: Vec<f64> = scores.collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
                let mut sums = vec![0.0; head_dim];
                for (row, score) in seen.clone().zip(&scores) {
                    for (sum, value) in sums.iter_mut().zip(&keys[row][n_kv_heads + head / group]) {
                        *sum += (score - max).exp() / total * value;
                    }
                }
                out.extend(sums);
            }
        }
        out
    }

    /// The properties that hold for every case; returns the result with an `f32` cache.
    fn check(&self, what: &str) -> Vec<f32> {
        let right = self.run(best(), &pool(1), CacheType::F32, self.tokens);
        for (i, (out, naive)) in right.iter().zip(self.naive()).enumerate() {
            assert!((f64::from(*out) - naive).abs() <= 4e-6, "{what}: number {i} is {out} instead of {naive}");
        }
        for kind in CacheType::ALL {
            let mut cache = self.cache(kind);
            let right = self.step(best(), &pool(1), &mut cache, 0..self.tokens);
            if self.rotary.is_none() && self.norms.is_none() {
                let last = self.last_over_numbers_of(&cache);
                let same = bits(&right[right.len() - last.len()..]) == bits(&last);
                assert!(same, "{what} {kind}: not what the cache says");
            }
            for kernels in available() {
                // The scalar tier calls a function for every multiplication.
                let slow = kernels.name() == "scalar" && self.tokens > 200;
                let pieces: &[usize] = if slow { &[64] } else { &[1, 5, 16, 63, 64, 200, usize::MAX / 2] };
                for &piece in pieces {
                    let out = self.run(kernels, &pool(1), kind, piece);
                    assert!(bits(&right) == bits(&out), "{what} {kind}: {} in pieces of {piece}", kernels.name());
                }
                for threads in [2, 3] {
                    for piece in [37, usize::MAX / 2] {
                        let out = self.run(kernels, &pool(threads), kind, piece);
                        assert!(bits(&right) == bits(&out), "{what} {kind}: {} on {threads}", kernels.name());
                        if slow {
                            break;
                        }
                    }
                }
            }
        }
        right
    }
}

fn norm((weight, bias): &Affine) -> HeadNorm<'_> {
    match bias {
        Some(bias) => HeadNorm::Layer { weight, bias, eps: 1e-6 },
        None => HeadNorm::Rms { weight, eps: 1e-6 },
    }
}

#[derive(Clone)]
struct Cache {
    shape: CacheShape,
    chunks: Vec<Arc<Chunk>>,
}

impl Cache {
    /// All chunks, with room for `rows` rows.
    fn grow(&mut self, rows: usize) -> &mut [Arc<Chunk>] {
        while self.chunks.len() * CHUNK_ROWS < rows {
            self.chunks.push(Arc::new(Chunk::new(self.shape)));
        }
        &mut self.chunks
    }
}

#[test]
fn attention_is_right_and_knows_no_cuts_threads_tiers_or_cache_types() {
    for (n_heads, n_kv_heads, head_dim, tokens) in [
        (1, 1, 1, 70),
        (2, 2, 7, 66),
        (2, 2, 64, 150),
        (6, 2, 16, 100),
        (8, 1, 33, 67),
        (4, 1, 80, 65),
        (9, 1, 24, 40),
        (7, 1, 128, 30),
        (5, 5, 96, 129),
    ] {
        Case::new(n_heads, n_kv_heads, head_dim, tokens).check(&format!("{n_heads} over {n_kv_heads} of {head_dim}"));
    }
}

#[test]
fn long_sequences_are_merged_from_sections() {
    for (n_heads, n_kv_heads, head_dim, tokens) in [(1, 1, 16, 600), (3, 1, 40, 300)] {
        Case::new(n_heads, n_kv_heads, head_dim, tokens).check(&format!("{tokens} tokens"));
    }
    // One token of so many has few units and many sections.
    let case = Case::new(2, 1, 32, 1500);
    let mut cache = case.cache(CacheType::F32);
    case.step(best(), &pool(1), &mut cache, 0..1490);
    let right = case.step(best(), &pool(1), &mut cache.clone(), 1490..1500);
    for threads in [2, 3, 7] {
        let pool = pool(threads);
        let mut out = Vec::new();
        let mut cache = cache.clone();
        for token in 1490..1500 {
            out.extend(case.step(best(), &pool, &mut cache, token..token + 1));
        }
        assert_eq!(bits(&right), bits(&out), "on {threads} threads");
    }
}

#[test]
fn a_window_hides_what_lies_behind_it() {
    for window in [1, 2, 16, 17, 63, 64, 100, 280, 1000] {
        let mut case = Case::new(3, 1, 24, if window > 100 { 330 } else { 150 });
        case.window = Some(window);
        case.check(&format!("window of {window}"));
    }
}

#[test]
fn scores_are_kept_below_their_cap() {
    // Scores of these numbers reach about 10.
    for (cap, window) in [(0.5, None), (3.0, Some(70)), (50.0, None)] {
        let mut case = Case::new(6, 2, 24, 150);
        let free = case.naive();
        (case.cap, case.window) = (Some(cap), window);
        let out = case.check(&format!("a cap of {cap}"));
        let change = out.iter().zip(&free).map(|(out, free)| (f64::from(*out) - free).abs()).fold(0.0, f64::max);
        assert!(change > 1e-3, "a cap of {cap} changes numbers by {change}");
    }
}

#[test]
fn queries_and_keys_are_normalised_and_turned() {
    for (pairing, head_dim, pairs) in
        [(Pairing::Halves, 16, 8), (Pairing::Neighbours, 16, 8), (Pairing::Halves, 24, 6), (Pairing::Neighbours, 7, 2)]
    {
        for normed in [false, true] {
            let mut case = Case::new(4, 2, head_dim, 90);
            let frequencies = (0..pairs).map(|i| 10_000f32.powf(-(i as f32) / pairs as f32)).collect();
            case.rotary = Some(Rotary::new(frequencies, pairing, 1.0, 90));
            let mut numbers = Numbers(head_dim as u64);
            case.norms = normed.then(|| [(); 2].map(|()| (numbers.many(head_dim), None)));
            case.check(&format!("{pairing:?} of {head_dim} with {pairs} pairs, normed: {normed}"));
        }
    }
}

#[test]
fn heads_lie_where_the_order_says() {
    for (n_heads, n_kv_heads) in [(3, 3), (6, 2), (4, 1)] {
        let mut case = Case::new(n_heads, n_kv_heads, 16, 90);
        case.order = Order::Groups;
        case.check(&format!("{n_heads} over {n_kv_heads} in groups"));
    }
}

#[test]
fn heads_have_layer_norms_of_their_own_or_one_for_all() {
    for (order, per_head) in [(Order::Parts, false), (Order::Parts, true), (Order::Groups, true)] {
        let mut case = Case::new(4, 2, 24, 90);
        let mut numbers = Numbers(5);
        case.order = order;
        case.rotary = Some(Rotary::new(vec![1.0, 0.1, 0.01], Pairing::Halves, 1.0, 90));
        case.norms = Some([4, 2].map(|heads| {
            let len = if per_head { heads * 24 } else { 24 };
            (numbers.many(len), Some(numbers.many(len)))
        }));
        case.check(&format!("{order:?}, a norm for each head: {per_head}"));
    }
}

#[test]
fn scores_fall_with_the_distance() {
    for steps in [Steps::Exact, Steps::Bf16] {
        for (n_heads, n_kv_heads, tokens, window) in
            [(2, 2, 150, None), (3, 1, 330, None), (4, 2, 150, Some(70)), (8, 8, 70, None)]
        {
            let mut case = Case::new(n_heads, n_kv_heads, 24, tokens);
            let without = case.naive();
            let slopes = (0..n_heads).map(|head| 0.8f32.powi(1 + 3 * head as i32)).collect();
            (case.alibi, case.window) = (Some((slopes, steps)), window);
            let out = case.check(&format!("{n_heads} slopes over {n_kv_heads}, {steps:?}, {tokens} tokens"));
            let change = out.iter().zip(&without).map(|(out, free)| (f64::from(*out) - free).abs()).fold(0.0, f64::max);
            assert!(change > 0.1, "slopes change numbers by {change}");
        }
    }
    // Steps are seen: places behind 256 are no longer apart by one.
    let mut case = Case::new(1, 1, 8, 330);
    let [exact, rounded] = [Steps::Exact, Steps::Bf16].map(|steps| {
        case.alibi = Some((vec![0.5], steps));
        case.run(best(), &pool(1), CacheType::F32, 330)
    });
    let apart = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart > 1e-3, "rounding changes numbers by {apart}");
}

#[test]
fn angles_are_cosines_and_sines_times_the_factor() {
    let rotary = Rotary::new(vec![1.0, 0.25], Pairing::Halves, 2.0, 200);
    assert_eq!(rotary.dim(), 4);
    for position in [0, 1, 63, 64, 199] {
        let (cos, sin) = rotary.angles(position);
        for (i, frequency) in [1.0, 0.25].into_iter().enumerate() {
            let angle = position as f64 * frequency;
            assert_eq!((cos[i], sin[i]), (2.0 * angle.cos() as f32, 2.0 * angle.sin() as f32), "position {position}");
        }
    }
}

#[test]
fn sequences_of_one_batch_do_not_know_of_each_other() {
    for kernels in available() {
        for kind in CacheType::ALL {
            // Prompts and single tokens of several lengths.
            let cases: Vec<Case> = [3, 70, 1, 130, 64].into_iter().map(|tokens| Case::new(4, 2, 16, tokens)).collect();
            let fed = [3, 1, 1, 20, 64];
            let layer = cases[0].layer();
            // All of them attend, or some of the last ones.
            for attending in [fed, [1, 0, 1, 7, 30], [0; 5]] {
                let mut caches: Vec<Cache> = cases.iter().map(|case| case.cache(kind)).collect();
                let (mut alone, mut stored, mut qkv) = (Vec::new(), Vec::new(), Vec::new());
                for (((case, cache), fed), attending) in cases.iter().zip(&mut caches).zip(fed).zip(attending) {
                    let past = case.tokens - fed;
                    case.step(kernels, &pool(1), cache, 0..past);
                    let mut cache = cache.clone();
                    let out = case.step(kernels, &pool(1), &mut cache, past..case.tokens);
                    alone.extend_from_slice(&out[out.len() / fed * (fed - attending)..]);
                    stored.push(cache);
                    qkv.extend_from_slice(&case.qkv[past * case.width()..]);
                }
                let pool = pool(2);
                let (mut sequences, mut next) = (Vec::new(), 0);
                for (((case, cache), fed), attending) in cases.iter().zip(&mut caches).zip(fed).zip(attending) {
                    let (chunks, position) = (cache.grow(case.tokens), case.tokens - fed);
                    sequences.push(Sequence { chunks, tokens: next..next + fed, attending, position });
                    next += fed;
                }
                let mut out = vec![f32::NAN; alone.len()];
                kernels.attend(&pool, &layer, &mut sequences, &qkv, &mut out);
                assert_eq!(bits(&alone), bits(&out), "{} {kind}", kernels.name());
                for ((case, cache), stored) in cases.iter().zip(&caches).zip(&stored) {
                    for row in 0..case.tokens {
                        let read = |cache: &Cache| cache.chunks[row / CHUNK_ROWS].read(row % CHUNK_ROWS);
                        assert_eq!(
                            read(cache),
                            read(stored),
                            "row {row} of {}: {} {kind}",
                            case.tokens,
                            kernels.name()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn scores_that_would_overflow_an_exponential_are_survived() {
    let mut case = Case::new(2, 1, 16, 20);
    case.heads.scale = 1e4;
    for kernels in available() {
        let out = case.run(kernels, &pool(1), CacheType::F32, 20);
        assert!(out.iter().all(|x| x.is_finite()), "{}", kernels.name());
    }
}

#[test]
fn a_nan_reaches_its_own_token_and_later_ones_only() {
    for part in 0..3 {
        for kind in CacheType::ALL {
            for kernels in available() {
                let mut case = Case::new(1, 1, 16, 80);
                let clean = case.run(kernels, &pool(1), kind, 80);
                case.qkv[70 * 48 + part * 16 + 3] = f32::NAN;
                let out = case.run(kernels, &pool(1), kind, 80);
                let what = format!("{} {kind} part {part}", kernels.name());
                assert_eq!(bits(&clean[..70 * 16]), bits(&out[..70 * 16]), "{what}: earlier tokens");
                assert!(out[70 * 16..71 * 16].iter().any(|x| x.is_nan()), "{what}: its own token");
                let later = out[71 * 16..].iter().any(|x| x.is_nan());
                assert_eq!(later, part > 0, "{what}: later tokens");
            }
        }
    }
}

#[test]
fn a_cache_gives_back_what_was_written_as_far_as_its_type_allows() {
    let mut numbers = Numbers(9);
    for head_dim in [1, 16, 31, 32, 33, 64, 80] {
        let width = 3 * head_dim;
        let (keys, values) = (numbers.wild(CHUNK_ROWS * width), numbers.wild(CHUNK_ROWS * width));
        for kind in CacheType::ALL {
            let mut chunk = Chunk::new(CacheShape { kind, n_kv_heads: 3, head_dim });
            chunk.write(0, &keys[..5 * width], &values[..5 * width]);
            chunk.write(5, &keys[5 * width..], &values[5 * width..]);
            let copy = chunk.clone();
            for row in 0..CHUNK_ROWS {
                let read = chunk.read(row);
                assert_eq!(read, copy.read(row));
                for (from, to) in [(&keys, read.0), (&values, read.1)] {
                    let from = &from[row * width..][..width];
                    for (head, to) in from.chunks(head_dim).zip(to.chunks(head_dim)) {
                        for (block, to) in head.chunks(32).zip(to.chunks(32)) {
                            check_block(kind, block, to);
                        }
                    }
                }
            }
        }
    }
}

/// Numbers that share a scale, and what became of them.
fn check_block(kind: CacheType, from: &[f32], to: &[f32]) {
    let largest = from.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (from, to) in from.iter().zip(to) {
        let bound = match kind {
            CacheType::F32 => 0.0,
            CacheType::F16 if from.abs() > 65504.0 => from.abs() - 65504.0,
            CacheType::F16 => (from.abs() / 2048.0).max(f32::powi(2.0, -25)),
            // Half a step, and what the scale was rounded by; a scale below 2^-25 is none.
            CacheType::Q8_0 => largest / 127.0 * 0.5 + largest / 2000.0 + 127.0 * f32::powi(2.0, -25),
        };
        assert!((from - to).abs() <= bound, "{kind}: {from} became {to}, largest {largest}");
    }
}

#[test]
fn half_precision_is_rounded_as_the_standard_says() {
    let halves = (0..=u16::MAX).map(f16::from_bits).filter(|half| half.is_finite());
    let mut numbers: Vec<f32> = halves.map(f32::from).collect();
    numbers.sort_by(f32::total_cmp);
    let between: Vec<f32> = numbers.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
    let near = between.iter().flat_map(|x| [x.next_down(), *x, x.next_up()]);
    let all: Vec<f32> = numbers.iter().copied().chain(near).chain(Numbers(4).wild(10_000)).collect();
    for x in all {
        let mut chunk = Chunk::new(CacheShape { kind: CacheType::F16, n_kv_heads: 1, head_dim: 1 });
        chunk.write(0, &[x], &[-x]);
        let right = f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f32();
        assert_eq!(chunk.read(0), (vec![right], vec![-right]), "{x:e}");
    }
}

#[test]
fn two_to_the_power_of_x_is_within_an_ulp_below_zero() {
    let mut worst = 0.0f64;
    for x in sweep(-124.9, 0.0, 2_000_000).chain(sweep(-1.0, 0.0, 1_000_000)) {
        worst = worst.max(ulps(math::exp2_below_zero(x), f64::from(x).exp2()));
    }
    assert!(worst <= 1.0, "{worst} ulps");
    for (x, expected) in
        [(0.0, 1.0f32), (-0.0, 1.0), (-1.0, 0.5), (-125.1, 0.0), (f32::MIN, 0.0), (f32::NEG_INFINITY, 0.0)]
    {
        assert_eq!(math::exp2_below_zero(x).to_bits(), expected.to_bits(), "{x}");
    }
    assert!(math::exp2_below_zero(f32::NAN).is_nan());
}

#[test]
#[should_panic(expected = "chunks for 65 rows")]
fn a_cache_that_is_too_short_is_named() {
    let case = Case::new(1, 1, 4, 65);
    let mut cache = case.cache(CacheType::F32);
    let sequence = Sequence { chunks: cache.grow(64), tokens: 0..65, attending: 65, position: 0 };
    best().attend(&pool(1), &case.layer(), &mut [sequence], &case.qkv, &mut [0.0; 65 * 4]);
}
