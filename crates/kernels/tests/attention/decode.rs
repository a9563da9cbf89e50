//! One token against a cache cut into blocks of keys.

use smallmind_kernels::attention::{
    AttentionDecodeBlock, AttentionDecodeCombine, AttentionShape, DECODE_BLOCK, attention_decode_block,
    attention_decode_combine, attention_decode_scratch_len,
};
use smallmind_kernels::reference::Matrix;
use smallmind_kernels::reference::attention::causal_attention;
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Noise, Window};

/// A group of heads and the keys of one query.
#[derive(Clone, Copy, Debug)]
struct Case {
    group: usize,
    keys: usize,
    head_dim: usize,
    /// Keys of a block.
    block: usize,
    /// Queries and keys lie in `[-size, size)`.
    size: f32,
}

impl Case {
    fn new(group: usize, keys: usize, head_dim: usize, block: usize) -> Self {
        Self { group, keys, head_dim, block, size: 2.0 }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    fn inputs(&self) -> Inputs {
        let mut noise = Noise(self.keys as u64);
        Inputs {
            q: Window::random(self.group, self.head_dim, self.size, &mut noise),
            k: Window::random(self.keys, self.head_dim, self.size, &mut noise),
            v: Window::random(self.keys, self.head_dim, 1.0, &mut noise),
        }
    }

    /// What the reference gives, `[group, head_dim]`.
    fn want(&self, inputs: &Inputs) -> Matrix {
        let Self { group, keys, head_dim, .. } = *self;
        let shape = AttentionShape { heads: group, kv_heads: 1, head_dim, scale: self.scale(), dropout: None };
        let q = Matrix::new(1, group * head_dim, inputs.q.reference().data);
        let (out, _) = causal_attention(&q, &inputs.k.reference(), &inputs.v.reference(), &shape, keys - 1);
        Matrix::new(group, head_dim, out.data)
    }
}

struct Inputs {
    q: Window,
    k: Window,
    v: Window,
}

/// The output of `heads` of the group, `[heads, head_dim]`.
fn decode<I: Isa>(isa: I, case: &Case, inputs: &Inputs, heads: std::ops::Range<usize>) -> Window {
    let (group, head_dim) = (heads.len(), case.head_dim);
    let blocks: Vec<(Window, Window)> = (0..case.keys)
        .step_by(case.block)
        .map(|first| {
            let keys = first..case.keys.min(first + case.block);
            let (mut out, mut stats) = (Window::nan(group, head_dim), Window::nan(group, 2));
            let call = AttentionDecodeBlock {
                q: inputs.q.mat().rows_range(heads.clone()),
                k: inputs.k.mat().rows_range(keys.clone()),
                v: inputs.v.mat().rows_range(keys.clone()),
                scale: case.scale(),
                out: out.mat_mut(),
                stats: stats.mat_mut(),
            };
            let mut scratch = vec![f32::NAN; attention_decode_scratch_len(group, keys.len())];
            attention_decode_block(isa, call, &mut scratch);
            (out, stats)
        })
        .collect();
    let mut out = Window::nan(group, head_dim);
    for head in 0..group {
        let mut partials = Window::nan(blocks.len(), head_dim);
        let mut stats = Window::nan(blocks.len(), 2);
        for (b, (of_block, stats_of_block)) in blocks.iter().enumerate() {
            partials.mat_mut().row_mut(b).copy_from_slice(of_block.mat().row(head));
            stats.mat_mut().row_mut(b).copy_from_slice(stats_of_block.mat().row(head));
        }
        let mut mat = out.mat_mut();
        let call = AttentionDecodeCombine { partials: partials.mat(), stats: stats.mat(), out: mat.row_mut(head) };
        attention_decode_combine(isa, call);
    }
    out
}

struct AgainstReference;

impl WithIsa for AgainstReference {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        let mut cases = vec![];
        for (i, keys) in [1, 2, 7, 31, 32, 33, 70, 129].into_iter().enumerate() {
            for (j, head_dim) in [1, 7, 8, 16, 17, 31, 32, 48, 64, 80, 128, 150].into_iter().enumerate() {
                for (k, block) in [1, 5, 32, 40, DECODE_BLOCK].into_iter().enumerate() {
                    cases.push(Case::new((i + j + k) % 9 + 1, keys, head_dim, block));
                }
            }
        }
        let mut noise = Noise(31);
        cases.extend(
            (0..10_000)
                .map(|_| Case::new(1 + noise.below(9), 1 + noise.below(60), 1 + noise.below(70), 1 + noise.below(40))),
        );
        for keys in [DECODE_BLOCK, DECODE_BLOCK + 1, 3 * DECODE_BLOCK - 1] {
            cases.push(Case::new(3, keys, 64, DECODE_BLOCK));
        }
        for case in cases {
            let inputs = case.inputs();
            let out = decode(isa, &case, &inputs, 0..case.group);
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

struct HeadsAlone;

impl WithIsa for HeadsAlone {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for group in 1..=9 {
            for head_dim in [5, 16, 64, 72, 128] {
                let case = Case::new(group, 75, head_dim, 40);
                let inputs = case.inputs();
                let together = decode(isa, &case, &inputs, 0..group);
                for head in 0..group {
                    let alone = decode(isa, &case, &inputs, head..head + 1);
                    let same = together.mat().row(head) == alone.mat().row(0);
                    assert!(same, "{isa:?}: head {head} of {case:?} has other bits alone");
                }
            }
        }
    }
}

#[test]
fn the_heads_beside_it_change_no_bit_of_a_head() {
    for kind in IsaKind::available() {
        kind.with(HeadsAlone).unwrap();
    }
}

struct Extremes;

impl WithIsa for Extremes {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for (group, keys) in [(1, 1), (3, 40), (5, 130)] {
            // Scores up to 50 · 50 · √8 = 7,000, and differences between blocks of thousands.
            let case = Case { size: 50.0, ..Case::new(group, keys, 8, 32) };
            let mut inputs = case.inputs();
            let out = decode(isa, &case, &inputs, 0..group);
            out.assert_close(&case.want(&inputs), 1e-2, &format!("{isa:?} {case:?}"));

            // A block whose scores all overflow to -inf adds nothing, whether it comes first or last.
            let case = Case { size: 2.0, ..case };
            for blocks in [0..32, 96..keys] {
                inputs = case.inputs();
                for head in 0..group {
                    inputs.q.mat_mut().row_mut(head)[0] = 1e20;
                }
                let below = |key: usize| if blocks.contains(&key) { -1e20 } else { 1e-20 };
                (0..keys).for_each(|key| inputs.k.mat_mut().row_mut(key)[0] = below(key));
                if keys > 32 {
                    let out = decode(isa, &case, &inputs, 0..group);
                    out.assert_close(&case.want(&inputs), 4e-6, &format!("{isa:?} {case:?}: {blocks:?} far below"));
                }
            }

            for bad in [f32::NAN, f32::INFINITY] {
                let mut inputs = case.inputs();
                inputs.q.mat_mut().row_mut(0)[0] = 1.0;
                inputs.k.mat_mut().row_mut(keys / 2)[0] = bad;
                let out = decode(isa, &case, &inputs, 0..1);
                assert!(out.mat().row(0).iter().all(|x| x.is_nan()), "{isa:?} {case:?} hides a {bad}");
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
