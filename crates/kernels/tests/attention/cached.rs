//! Queries against pages of a key-value cache.

use std::ops::Range;

use smallmind_kernels::attention::{
    AttentionShape, BlockQueries, CacheFormat, KEY_BLOCK, PAGE, PageMut, Pages, Scoring, append_to_page, attend_block,
    attend_block_scratch_len, fold, fold_end, page_len, partial_cols,
};
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::attention::causal_attention;
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Noise, Window};

/// A group of heads, and adjacent queries of a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub group: usize,
    /// Tokens before the first query.
    pub past: usize,
    /// Queries of each head.
    pub tokens: usize,
    pub head_dim: usize,
    /// Queries and keys lie in `[-size, size)`.
    pub size: f32,
    pub scoring: Scoring,
    /// Of the cache.
    pub format: CacheFormat,
}

impl Case {
    pub fn new(group: usize, past: usize, tokens: usize, head_dim: usize) -> Self {
        let scoring = Scoring::new(1.0 / (head_dim as f32).sqrt());
        Self { group, past, tokens, head_dim, size: 2.0, scoring, format: CacheFormat::F32 }
    }

    pub fn with(self, window: Option<usize>, cap: Option<f32>) -> Self {
        Self { scoring: Scoring { window, cap, ..self.scoring }, ..self }
    }

    pub fn keys(&self) -> usize {
        self.past + self.tokens
    }

    pub fn inputs(&self) -> Inputs {
        let mut noise = Noise(self.keys() as u64);
        Inputs {
            q: Window::random(self.tokens, self.group * self.head_dim, self.size, &mut noise),
            k: Window::random(self.keys(), self.head_dim, self.size, &mut noise),
            v: Window::random(self.keys(), self.head_dim, 1.0, &mut noise),
        }
    }

    /// What the reference gives, `[tokens, group · head_dim]`.
    fn want(&self, inputs: &Inputs) -> Matrix {
        let Self { group, head_dim, past, scoring, .. } = *self;
        let shape = AttentionShape { heads: group, kv_heads: 1, head_dim, scoring, dropout: None };
        causal_attention(&inputs.q.reference(), &inputs.k.reference(), &inputs.v.reference(), &shape, past).0
    }
}

pub struct Inputs {
    /// `[tokens, group · head_dim]`.
    pub q: Window,
    /// `[keys, head_dim]`.
    pub k: Window,
    pub v: Window,
}

/// NaN in every format: as a float, as two floats of 16 bits, and as a scale.
pub const NAN: f32 = f32::from_bits(u32::MAX);

/// Pages of a cache that hold all keys and values, appended by runs of `step`, with NaN everywhere else.
pub fn pages<I: Isa>(isa: I, case: &Case, inputs: &Inputs, step: usize) -> Vec<Vec<f32>> {
    let mut pages = vec![vec![NAN; page_len(case.format, case.head_dim)]; case.keys().div_ceil(PAGE)];
    let mut at = 0;
    while at < case.keys() {
        let end = (at + step).min(case.keys()).min((at / PAGE + 1) * PAGE);
        let [keys, values] = [&inputs.k, &inputs.v].map(|window| window.mat().rows_range(at..end));
        let page = PageMut { format: case.format, words: &mut pages[at / PAGE] };
        append_to_page(isa, page, at % PAGE, keys, values);
        at = end;
    }
    pages
}

/// The outputs of the queries of `tokens` and of `heads` of the group, computed together, `[tokens, heads · head_dim]`.
/// Pages hold NaN where they end before the window of the first query.
pub fn attend<I: Isa>(isa: I, case: &Case, inputs: &Inputs, tokens: Range<usize>, heads: Range<usize>) -> Window {
    let (group, head_dim, cols) = (heads.len(), case.head_dim, partial_cols(case.head_dim));
    let scoring = case.scoring;
    let mut pages = pages(isa, case, inputs, 1 + case.past % 70);
    let first_key = scoring.first_key(case.past + tokens.start);
    pages[..first_key / PAGE].iter_mut().for_each(|page| page.fill(NAN));
    let rows = tokens.len() * group;
    let columns = heads.start * head_dim..heads.end * head_dim;
    let q: Vec<f32> =
        tokens.clone().flat_map(|token| inputs.q.mat().row(token)[columns.clone()].iter().copied()).collect();
    let queries = BlockQueries { q: Mat::new(&q, rows, head_dim), group, past: case.past + tokens.start, scoring };
    let mut state = vec![f32::NAN; rows * cols];
    for block in first_key / KEY_BLOCK..(case.past + tokens.end).div_ceil(KEY_BLOCK) {
        let mut partials = vec![f32::NAN; rows * cols];
        let mut scratch = vec![f32::NAN; attend_block_scratch_len(isa, case.format, rows, head_dim)];
        let pages = Pages { format: case.format, page: &|i| &pages[i] };
        attend_block(isa, queries, block, pages, MatMut::new(&mut partials, rows, cols), &mut scratch);
        for (row, (state, partial)) in state.chunks_mut(cols).zip(partials.chunks(cols)).enumerate() {
            let first_block = scoring.first_key(queries.past + row / group) / KEY_BLOCK;
            if block > first_block {
                fold(isa, MatMut::new(state, 1, cols), Mat::new(partial, 1, cols));
            } else {
                // Of a block before its window a row gets nothing.
                assert!(
                    block == first_block
                        || (&partial[..head_dim], partial[head_dim + 1]) == (&vec![0.0; head_dim], 0.0)
                );
                state.copy_from_slice(partial);
            }
        }
    }
    let mut out = Window::nan(tokens.len(), group * head_dim);
    fold_end(isa, Mat::new(&state, rows, cols), out.mat_mut());
    out
}

/// Windows of few keys, around pages, around blocks, and longer than any context here.
pub const WINDOWS: [usize; 12] = [
    1,
    2,
    PAGE - 1,
    PAGE,
    PAGE + 1,
    100,
    KEY_BLOCK - 1,
    KEY_BLOCK,
    KEY_BLOCK + 1,
    KEY_BLOCK + 37,
    2 * KEY_BLOCK + 1,
    10 * KEY_BLOCK,
];

struct AgainstReference;

impl WithIsa for AgainstReference {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let mut cases = vec![];
        for (i, past) in [0, 1, 6, 30, 63, 64, 70, 128].into_iter().enumerate() {
            for (j, head_dim) in [1, 7, 8, 16, 17, 31, 32, 48, 64, 80, 128, 150].into_iter().enumerate() {
                for (k, tokens) in [1, 2, 5, 33].into_iter().enumerate() {
                    cases.push(Case::new((i + j + k) % 9 + 1, past, tokens, head_dim));
                }
            }
        }
        let mut noise = Noise(31);
        cases.extend(
            (0..3_000)
                .map(|_| Case::new(1 + noise.below(9), noise.below(150), 1 + noise.below(6), 1 + noise.below(70))),
        );
        for past in [KEY_BLOCK - 2, KEY_BLOCK - 1, KEY_BLOCK, 3 * KEY_BLOCK - 2] {
            cases.extend([1, 4, 40].map(|tokens| Case::new(3, past, tokens, 64)));
        }
        for (i, window) in WINDOWS.into_iter().enumerate() {
            for (j, past) in [0, 1, 70, KEY_BLOCK - 2, KEY_BLOCK, 2 * KEY_BLOCK + 65].into_iter().enumerate() {
                for (k, tokens) in [1, 5, 33].into_iter().enumerate() {
                    let case = Case::new([1, 2, 3][(i + j) % 3], past, tokens, [12, 64, 80, 128, 17][(i + j + k) % 5]);
                    cases.push(case.with(Some(window), [None, Some(1.5)][(j + k) % 2]));
                }
            }
        }
        for _ in 0..1_000 {
            let case = Case::new(1 + noise.below(9), noise.below(150), 1 + noise.below(6), 1 + noise.below(70));
            let window = [None, Some(1 + noise.below(160))][noise.below(2)];
            cases.push(case.with(window, Some(0.1 + 4.0 * noise.unit().abs())));
        }
        for case in cases {
            let inputs = case.inputs();
            let out = attend(isa, &case, &inputs, 0..case.tokens, 0..case.group);
            out.assert_close(&case.want(&inputs), 4e-6, &format!("{isa:?} {case:?}"));
        }
    }
}

#[test]
fn agrees_with_the_reference_at_awkward_and_at_random_sizes() {
    for kind in IsaKind::available() {
        kind.with(AgainstReference).unwrap();
    }
}

struct Alone;

impl WithIsa for Alone {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for group in 1..=9 {
            for head_dim in [5, 16, 64, 72, 128, 400] {
                let plain = [3, 75, KEY_BLOCK - 5].map(|past| (past, None, None));
                let windows = [
                    (75, Some(1), Some(1.5)),
                    (75, Some(70), None),
                    (KEY_BLOCK + 60, Some(64), None),
                    (KEY_BLOCK + 60, Some(66), Some(1.5)),
                    (2 * KEY_BLOCK - 4, Some(KEY_BLOCK), None),
                ];
                for (past, window, cap) in plain.into_iter().chain(windows) {
                    let case = Case::new(group, past, 9, head_dim).with(window, cap);
                    let inputs = case.inputs();
                    let together = attend(isa, &case, &inputs, 0..9, 0..group);
                    for (tokens, heads) in [(0..1, 0..1), (8..9, 0..group), (2..7, group - 1..group), (4..6, 0..1)] {
                        let alone = attend(isa, &case, &inputs, tokens.clone(), heads.clone());
                        for (row, token) in tokens.clone().enumerate() {
                            let columns = heads.start * head_dim..heads.end * head_dim;
                            let want = &together.mat().row(token)[columns];
                            let same = want.iter().zip(alone.mat().row(row)).all(|(w, g)| w.to_bits() == g.to_bits());
                            assert!(same, "{isa:?}: token {token} of {case:?} has other bits in {tokens:?}, {heads:?}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn the_queries_beside_it_change_no_bit_of_a_query() {
    for kind in IsaKind::available() {
        kind.with(Alone).unwrap();
    }
}

struct Extremes;

impl WithIsa for Extremes {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for (group, past) in [(1, 0), (3, 39), (5, 2 * KEY_BLOCK + 9)] {
            let attend = |case: &Case, inputs: &Inputs| attend(isa, case, inputs, 0..1, 0..case.group);
            // Scores up to 50 · 50 · √8 = 7,000, and differences between blocks of thousands.
            let case = Case { size: 50.0, ..Case::new(group, past, 1, 8) };
            let out = attend(&case, &case.inputs());
            out.assert_close(&case.want(&case.inputs()), 1e-2, &format!("{isa:?} {case:?}"));

            // A block whose scores all overflow to -inf adds nothing, whether it comes first or last.
            let case = Case { size: 2.0, ..case };
            for blocks in [0..KEY_BLOCK, 2 * KEY_BLOCK..case.keys()] {
                if case.keys() <= KEY_BLOCK {
                    continue;
                }
                let mut inputs = case.inputs();
                for head in 0..group {
                    inputs.q.mat_mut().row_mut(0)[head * 8] = 1e20;
                }
                let below = |key: usize| if blocks.contains(&key) { -1e20 } else { 1e-20 };
                (0..case.keys()).for_each(|key| inputs.k.mat_mut().row_mut(key)[0] = below(key));
                let out = attend(&case, &inputs);
                out.assert_close(&case.want(&inputs), 4e-6, &format!("{isa:?} {case:?}: {blocks:?} far below"));
            }

            for bad in [f32::NAN, f32::INFINITY] {
                let mut inputs = case.inputs();
                inputs.q.mat_mut().row_mut(0)[0] = 1.0;
                inputs.k.mat_mut().row_mut(case.keys() / 2)[0] = bad;
                let out = attend(&Case { group: 1, ..case }, &inputs);
                assert!(out.mat().row(0).iter().all(|x| x.is_nan()), "{isa:?} {case:?} hides a {bad}");
                // A cap bounds an infinite score, but hides no NaN.
                let capped = Case { group: 1, ..case }.with(None, Some(30.0));
                let shows = attend(&capped, &inputs).mat().row(0).iter().all(|x| x.is_nan());
                assert_eq!(shows, bad.is_nan(), "{isa:?} {capped:?}: {bad}");
            }
        }
    }
}

#[test]
fn extremes_stay_finite_and_non_finite_scores_show() {
    for kind in IsaKind::available() {
        kind.with(Extremes).unwrap();
    }
}
