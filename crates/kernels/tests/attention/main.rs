//! Attention against its `f64` twin: every instruction set, strided windows between NaNs, outputs and scratch that hold
//! NaN.

mod cached;
mod formats;
mod windows;

use smallmind_kernels::attention::{
    AttentionBackward, AttentionDropout, AttentionForward, AttentionShape, HeadDropout, QUERY_BLOCK, Scoring,
    attention_backward_group, attention_backward_scratch_len, attention_forward_head, attention_forward_scratch_len,
};
use smallmind_kernels::dropout::DropoutKey;
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::attention::{causal_attention, causal_attention_backward};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

/// Splitmix64.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In `[-1, 1)`.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

/// A window `[rows, cols]` of a wider matrix that holds NaN around it.
struct Window {
    data: Vec<f32>,
    rows: usize,
    cols: usize,
    stride: usize,
    at: usize,
}

impl Window {
    const BEFORE: usize = 3;
    const BESIDE: usize = 5;

    fn nan(rows: usize, cols: usize) -> Self {
        let stride = cols + Self::BESIDE;
        Self { data: vec![f32::NAN; rows * stride], rows, cols, stride, at: Self::BEFORE }
    }

    fn random(rows: usize, cols: usize, size: f32, noise: &mut Noise) -> Self {
        let mut window = Self::nan(rows, cols);
        for r in 0..rows {
            window.mat_mut().row_mut(r).fill_with(|| size * noise.unit());
        }
        window
    }

    fn mat(&self) -> Mat<'_> {
        Mat::new(&self.data, self.rows, self.stride).cols_range(self.at..self.at + self.cols)
    }

    fn mat_mut(&mut self) -> MatMut<'_> {
        MatMut::new(&mut self.data, self.rows, self.stride).cols_range(self.at..self.at + self.cols)
    }

    fn reference(&self) -> Matrix {
        Matrix::from_f32(self.mat())
    }

    fn bits(&self) -> Vec<u32> {
        self.data.iter().map(|x| x.to_bits()).collect()
    }

    /// Asserts that the window agrees with `want` to `tolerance` times its greatest element (at least 1), and that NaN
    /// still stands around it.
    fn assert_close(&self, want: &Matrix, tolerance: f64, what: &str) {
        let size = want.data.iter().fold(1.0, |size: f64, x| size.max(x.abs()));
        for r in 0..self.rows {
            for (c, &got) in self.mat().row(r).iter().enumerate() {
                let want = want.at(r, c);
                assert!((f64::from(got) - want).abs() <= tolerance * size, "{what} [{r}, {c}]: {got} for {want}");
            }
            let row = &self.data[r * self.stride..][..self.stride];
            let around = row[..self.at].iter().chain(&row[self.at + self.cols..]);
            assert!(around.into_iter().all(|x| x.is_nan()), "{what}: something was written beside row {r}");
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Case {
    len: usize,
    past: usize,
    shape: AttentionShape,
    /// Queries and keys lie in `[-size, size)`.
    size: f32,
    seed: u64,
}

impl Case {
    fn new(len: usize, past: usize, heads: [usize; 2], head_dim: usize) -> Self {
        let [heads, kv_heads] = heads;
        let scoring = Scoring::new(1.0 / (head_dim as f32).sqrt());
        let shape = AttentionShape { heads, kv_heads, head_dim, scoring, dropout: None };
        Self { len, past, shape, size: 2.0, seed: 1 }
    }

    fn with_dropout(mut self, p: f32) -> Self {
        let key = DropoutKey { seed: 7, step: 3, salt: 5 };
        self.shape.dropout = Some(AttentionDropout { key, p, first_row: 11 });
        self
    }

    fn with_window(mut self, window: Option<usize>) -> Self {
        self.shape.scoring.window = window;
        self
    }

    fn with_cap(mut self, cap: Option<f32>) -> Self {
        self.shape.scoring.cap = cap;
        self
    }

    fn inputs(&self) -> Inputs {
        let mut noise = Noise(self.seed);
        let (q_cols, kv_cols) = (self.shape.heads * self.shape.head_dim, self.shape.kv_heads * self.shape.head_dim);
        let context = self.past + self.len;
        Inputs {
            q: Window::random(self.len, q_cols, self.size, &mut noise),
            k: Window::random(context, kv_cols, self.size, &mut noise),
            v: Window::random(context, kv_cols, 1.0, &mut noise),
            dout: Window::random(self.len, q_cols, 1.0, &mut noise),
        }
    }
}

struct Inputs {
    q: Window,
    k: Window,
    v: Window,
    dout: Window,
}

/// All heads forward: the output `[len, heads * head_dim]` and the log-sum-exps `[len, heads]`. The queries are cut
/// into calls at the multiples of `cut`.
fn forward<I: Isa>(isa: I, case: &Case, inputs: &Inputs, cut: usize) -> (Window, Window) {
    let Case { len, past, shape, .. } = *case;
    let hd = shape.head_dim;
    let mut out = Window::nan(len, shape.heads * hd);
    let mut lse = Window::nan(len, shape.heads);
    for head in 0..shape.heads {
        let (cols, kv) = (head * hd..(head + 1) * hd, head / shape.group() * hd);
        for start in (0..len).step_by(cut) {
            let rows = start..len.min(start + cut);
            let seen = 0..past + rows.end;
            let call = AttentionForward {
                q: inputs.q.mat().rows_range(rows.clone()).cols_range(cols.clone()),
                k: inputs.k.mat().rows_range(seen.clone()).cols_range(kv..kv + hd),
                v: inputs.v.mat().rows_range(seen).cols_range(kv..kv + hd),
                past: past + start,
                scoring: shape.scoring,
                dropout: shape.head_dropout(head).map(|d| HeadDropout { first_row: d.first_row + start, ..d }),
                out: out.mat_mut().rows_range(rows.clone()).cols_range(cols.clone()),
                lse: Some(lse.mat_mut().rows_range(rows.clone()).cols_range(head..head + 1)),
            };
            let scratch = attention_forward_scratch_len(isa, rows.len(), past + rows.end, hd);
            attention_forward_head(isa, call, &mut vec![f32::NAN; scratch]);
        }
    }
    (out, lse)
}

/// All groups backward: `dq`, `dk`, `dv`.
fn backward<I: Isa>(isa: I, case: &Case, inputs: &Inputs, out: &Window, lse: &Window) -> [Window; 3] {
    let Case { len, shape, .. } = *case;
    let (hd, group) = (shape.head_dim, shape.group());
    let mut dq = Window::nan(len, shape.heads * hd);
    let mut dk = Window::nan(len, shape.kv_heads * hd);
    let mut dv = Window::nan(len, shape.kv_heads * hd);
    for kv_head in 0..shape.kv_heads {
        let heads = kv_head * group..(kv_head + 1) * group;
        let (cols, kv) = (heads.start * hd..heads.end * hd, kv_head * hd..(kv_head + 1) * hd);
        let call = AttentionBackward {
            q: inputs.q.mat().cols_range(cols.clone()),
            k: inputs.k.mat().cols_range(kv.clone()),
            v: inputs.v.mat().cols_range(kv.clone()),
            out: out.mat().cols_range(cols.clone()),
            dout: inputs.dout.mat().cols_range(cols.clone()),
            lse: lse.mat().cols_range(heads.clone()),
            scoring: shape.scoring,
            dropout: shape.head_dropout(heads.start),
            dq: dq.mat_mut().cols_range(cols),
            dk: dk.mat_mut().cols_range(kv.clone()),
            dv: dv.mat_mut().cols_range(kv),
        };
        let mut scratch = vec![f32::NAN; attention_backward_scratch_len(isa, len, hd)];
        attention_backward_group(isa, call, &mut scratch);
    }
    [dq, dk, dv]
}

/// The forward, and without a past the backward, against the reference.
struct AgainstReference<'a>(&'a [Case]);

impl WithIsa for AgainstReference<'_> {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for case in self.0 {
            let inputs = case.inputs();
            let (q, k, v) = (inputs.q.reference(), inputs.k.reference(), inputs.v.reference());
            let (want_out, want_lse) = causal_attention(&q, &k, &v, &case.shape, case.past);
            let (out, lse) = forward(isa, case, &inputs, usize::MAX);
            out.assert_close(&want_out, 4e-6, &format!("{isa:?} {case:?}: out"));
            lse.assert_close(&want_lse, 4e-6, &format!("{isa:?} {case:?}: lse"));
            if case.past == 0 {
                let want = causal_attention_backward(&q, &k, &v, &inputs.dout.reference(), &case.shape);
                let [dq, dk, dv] = backward(isa, case, &inputs, &out, &lse);
                dq.assert_close(&want.dq, 1e-5, &format!("{isa:?} {case:?}: dq"));
                dk.assert_close(&want.dk, 1e-5, &format!("{isa:?} {case:?}: dk"));
                dv.assert_close(&want.dv, 1e-5, &format!("{isa:?} {case:?}: dv"));
            }
        }
    }
}

fn check_all(cases: &[Case]) {
    for kind in IsaKind::available() {
        kind.with(AgainstReference(cases)).unwrap();
    }
}

#[test]
fn agrees_with_the_reference_at_awkward_sizes() {
    let mut cases = vec![Case::new(0, 0, [2, 1], 8), Case::new(0, 5, [1, 1], 8)];
    for len in [1, 2, 63, 64, 65, 130] {
        for past in [0, 1, 37] {
            for head_dim in [1, 8, 17, 32, 64] {
                let heads = [[1, 1], [2, 1], [4, 1], [4, 2]][(len + past + head_dim) % 4];
                cases.push(Case::new(len, past, heads, head_dim));
            }
        }
    }
    check_all(&cases);
}

#[test]
fn agrees_with_the_reference_at_random_shapes() {
    let mut noise = Noise(2024);
    let random = |seed: u64| {
        let kv_heads = 1 + noise.below(3);
        let heads = [kv_heads * [1, 2, 4][noise.below(3)], kv_heads];
        let past = [0, 0, 1, noise.below(70)][noise.below(4)];
        // Most are small, since the reference takes long.
        let (len, head_dim) = if seed.is_multiple_of(40) { (150, 80) } else { (20, 40) };
        let case = Case::new(1 + noise.below(len), past, heads, 1 + noise.below(head_dim));
        let case = Case { seed, size: 0.1 + 3.0 * noise.unit().abs(), ..case };
        let case = if noise.below(4) == 0 { case.with_dropout(0.05 + 0.9 * noise.unit().abs()) } else { case };
        let case = if noise.below(4) == 0 { case.with_window(Some(1 + noise.below(60))) } else { case };
        if noise.below(4) == 0 { case.with_cap(Some(0.1 + 5.0 * noise.unit().abs())) } else { case }
    };
    let cases: Vec<Case> = (1..=10_000).map(random).collect();
    check_all(&cases);
}

#[test]
fn dropout_masks_as_the_reference_does() {
    let mut cases = Vec::new();
    for (len, past) in [(1, 0), (1, 30), (64, 0), (65, 0), (100, 3), (130, 0)] {
        for heads in [[1, 1], [4, 2]] {
            cases.extend([0.0, 0.2, 0.9].map(|p| Case::new(len, past, heads, 24).with_dropout(p)));
        }
    }
    check_all(&cases);
}

struct CutsAreBitEqual;

impl WithIsa for CutsAreBitEqual {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for len in [65, 128, 129, 200] {
            for past in [0, 37] {
                for case in [
                    Case::new(len, past, [2, 1], 32),
                    Case::new(len, past, [2, 2], 20).with_dropout(0.3),
                    Case::new(len, past, [2, 1], 12).with_window(Some(29)),
                    Case::new(len, past, [2, 2], 20).with_window(Some(80)).with_cap(Some(3.0)),
                ] {
                    let inputs = case.inputs();
                    let (out, lse) = forward(isa, &case, &inputs, usize::MAX);
                    for cut in [QUERY_BLOCK, 2 * QUERY_BLOCK] {
                        let (cut_out, cut_lse) = forward(isa, &case, &inputs, cut);
                        assert_eq!(out.bits(), cut_out.bits(), "{isa:?} {case:?} cut at {cut}");
                        assert_eq!(lse.bits(), cut_lse.bits(), "{isa:?} {case:?} cut at {cut}");
                    }
                }
            }
        }
    }
}

#[test]
fn cuts_at_block_multiples_change_no_bit() {
    for kind in IsaKind::available() {
        kind.with(CutsAreBitEqual).unwrap();
    }
}

struct SingleAgreesWithBlock;

impl WithIsa for SingleAgreesWithBlock {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for past in [1, 2, 3, 15, 16, 17, 64, 301] {
            for head_dim in [1, 7, 8, 16, 31, 32, 48, 64, 80, 128, 150] {
                let two = Case::new(2, past - 1, [2, 1], head_dim).with_dropout(0.2);
                let inputs = two.inputs();
                let (block, block_lse) = forward(isa, &two, &inputs, usize::MAX);
                let (single, single_lse) = forward(isa, &two, &inputs, 1);
                block.assert_close(&single.reference(), 4e-6, &format!("{isa:?} {two:?}"));
                block_lse.assert_close(&single_lse.reference(), 4e-6, &format!("{isa:?} {two:?}"));
            }
        }
    }
}

#[test]
fn single_queries_agree_with_blocks() {
    for kind in IsaKind::available() {
        kind.with(SingleAgreesWithBlock).unwrap();
    }
}

struct LargeScores;

impl WithIsa for LargeScores {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for len in [1, 40, 65] {
            // Scores up to 8 · 50 · 50 = 20,000.
            let mut case = Case::new(len, 0, [2, 1], 8);
            (case.size, case.shape.scoring.scale) = (50.0, 1.0);
            let inputs = case.inputs();
            let (q, k, v) = (inputs.q.reference(), inputs.k.reference(), inputs.v.reference());
            let (want, want_lse) = causal_attention(&q, &k, &v, &case.shape, 0);
            assert!(len == 1 || want_lse.data.iter().any(|lse| lse.abs() > 8e3), "the scores are meant to be large");
            let (out, lse) = forward(isa, &case, &inputs, usize::MAX);
            // A score of 2^13 is known to 2^-10, so a probability to about a thousandth.
            out.assert_close(&want, 1e-2, &format!("{isa:?} {case:?}: out"));
            lse.assert_close(&want_lse, 1e-6, &format!("{isa:?} {case:?}: lse"));
            let finite = |w: &Window| (0..w.rows).all(|r| w.mat().row(r).iter().all(|x| x.is_finite()));
            assert!(backward(isa, &case, &inputs, &out, &lse).iter().all(finite), "{isa:?} {case:?}: gradients");
        }
    }
}

#[test]
fn large_scores_stay_finite() {
    for kind in IsaKind::available() {
        kind.with(LargeScores).unwrap();
    }
}

struct LaterKeysAreUnseen;

impl WithIsa for LaterKeysAreUnseen {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let case = Case::new(70, 5, [1, 1], 16);
        let mut inputs = case.inputs();
        let (before, _) = forward(isa, &case, &inputs, usize::MAX);
        for position in 40..75 {
            inputs.k.mat_mut().row_mut(position).fill(3.0);
            inputs.v.mat_mut().row_mut(position).fill(-9.0);
        }
        let (after, _) = forward(isa, &case, &inputs, usize::MAX);
        for row in 0..70 {
            let same = before.mat().row(row) == after.mat().row(row);
            assert_eq!(same, row < 35, "{isa:?}: query {row} at position {}", row + 5);
        }
    }
}

#[test]
fn later_keys_change_no_bit_of_earlier_queries() {
    for kind in IsaKind::available() {
        kind.with(LaterKeysAreUnseen).unwrap();
    }
}
