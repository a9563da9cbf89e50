//! Attention with a soft cap and a sliding window.

use smallmind_kernels::attention::{
    AttentionBackward, AttentionForward, Scoring, attention_backward_group, attention_backward_scratch_len,
    attention_forward_head, attention_forward_scratch_len,
};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{close, inputs, number, numbers, section, whole};

/// Tokens, query heads and columns of a head.
const LEN: usize = 6;
const HEADS: usize = 2;
const DIM: usize = 4;

struct Attend {
    scoring: Scoring,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
}

impl WithIsa for &Attend {
    /// Output, log-sum-exps, and the gradients of queries, keys and values.
    type Output = [Vec<f32>; 5];

    fn call<I: Isa>(self, isa: I) -> [Vec<f32>; 5] {
        let [q, dout] = [&self.q, &self.dout].map(|data| Mat::new(data, LEN, HEADS * DIM));
        let [k, v] = [&self.k, &self.v].map(|data| Mat::new(data, LEN, DIM));
        let nan = |cols: usize| vec![f32::NAN; LEN * cols];
        let [mut out, mut lse, mut dq, mut dk, mut dv] =
            [nan(HEADS * DIM), nan(HEADS), nan(HEADS * DIM), nan(DIM), nan(DIM)];
        let mut scratch = nan(attention_forward_scratch_len(isa, LEN, LEN, DIM));
        for head in 0..HEADS {
            let cols = head * DIM..(head + 1) * DIM;
            let call = AttentionForward {
                q: q.cols_range(cols.clone()),
                k,
                v,
                past: 0,
                scoring: self.scoring,
                dropout: None,
                out: MatMut::new(&mut out, LEN, HEADS * DIM).cols_range(cols),
                lse: Some(MatMut::new(&mut lse, LEN, HEADS).cols_range(head..head + 1)),
            };
            attention_forward_head(isa, call, &mut scratch);
        }
        let call = AttentionBackward {
            q,
            k,
            v,
            out: Mat::new(&out, LEN, HEADS * DIM),
            dout,
            lse: Mat::new(&lse, LEN, HEADS),
            scoring: self.scoring,
            dropout: None,
            dq: MatMut::new(&mut dq, LEN, HEADS * DIM),
            dk: MatMut::new(&mut dk, LEN, DIM),
            dv: MatMut::new(&mut dv, LEN, DIM),
        };
        let mut scratch = nan(attention_backward_scratch_len(isa, LEN, DIM));
        attention_backward_group(isa, call, &mut scratch);
        [out, lse, dq, dk, dv]
    }
}

#[test]
fn capped_attention_in_a_window_forward_and_backward() {
    let section = section("capped_attention");
    let read = |key: &str| inputs(&section[key]);
    let [scale, cap] = ["scale", "cap"].map(|key| number(&section[key]) as f32);
    let scoring = Scoring { scale, cap: Some(cap), window: Some(whole(&section["window"]) as usize) };
    let attend = Attend { scoring, q: read("q"), k: read("k"), v: read("v"), dout: read("dout") };
    for kind in IsaKind::available() {
        let got = kind.with(&attend).unwrap();
        for (key, got) in ["out", "lse", "dq", "dk", "dv"].into_iter().zip(got) {
            close(&format!("{key} on {kind}"), &got, &numbers(&section[key]), |_| 4e-6);
        }
    }
}
