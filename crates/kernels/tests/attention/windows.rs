//! Sliding windows and soft caps in the attention of whole sequences.

use super::{Case, Window, backward, check_all, forward};
use smallmind_kernels::attention::QUERY_BLOCK;
use smallmind_simd::{Isa, IsaKind, WithIsa};

/// Windows of few keys, around blocks of queries, and longer than any context here.
const WINDOWS: [usize; 10] =
    [1, 2, 7, QUERY_BLOCK - 1, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK - 1, 2 * QUERY_BLOCK + 1, 100, usize::MAX];

#[test]
fn windows_and_caps_agree_with_the_reference_at_awkward_sizes() {
    let mut cases = Vec::new();
    for (i, window) in WINDOWS.into_iter().enumerate() {
        for (j, len) in [1, 2, 31, 32, 33, 65, 97, 130].into_iter().enumerate() {
            for (k, past) in [0, 1, 37].into_iter().enumerate() {
                let heads = [[1, 1], [2, 1], [4, 2]][(i + j + k) % 3];
                let case = Case::new(len, past, heads, [12, 64, 80, 128, 7][(i + j) % 5]).with_window(Some(window));
                let case = case.with_cap([None, Some(0.7), Some(5.0), Some(30.0)][(j + k) % 4]);
                cases.push(if (i + k) % 3 == 0 { case.with_dropout(0.3) } else { case });
            }
        }
    }
    check_all(&cases);
}

#[test]
fn caps_agree_with_the_reference_without_a_window() {
    let mut cases = Vec::new();
    for len in [1, 33, 70] {
        for (past, head_dim) in [(0, 12), (0, 128), (5, 80)] {
            // Far below the scores, around them and far above.
            cases.extend([0.01, 0.7, 5.0, 50.0].map(|cap| Case::new(len, past, [2, 1], head_dim).with_cap(Some(cap))));
        }
    }
    check_all(&cases);
}

struct KeysBeforeTheWindowAreNotRead;

impl WithIsa for KeysBeforeTheWindowAreNotRead {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for len in [1, 2, 32, 65] {
            for window in [1, 9, 40] {
                let case = Case::new(len, 50, [2, 1], 16).with_window(Some(window));
                let mut inputs = case.inputs();
                let (want, _) = forward(isa, &case, &inputs, usize::MAX);
                for key in 0..50 + 1 - window {
                    inputs.k.mat_mut().row_mut(key).fill(f32::NAN);
                    inputs.v.mat_mut().row_mut(key).fill(f32::NAN);
                }
                let (out, _) = forward(isa, &case, &inputs, usize::MAX);
                assert!(out.bits() == want.bits(), "{isa:?} {case:?}");
                // The first key that the first query sees counts.
                inputs.v.mat_mut().row_mut(51 - window).fill(9.0);
                let (out, _) = forward(isa, &case, &inputs, usize::MAX);
                assert_ne!(out.mat().row(0), want.mat().row(0), "{isa:?} {case:?}");
            }
        }
    }
}

#[test]
fn keys_before_the_window_of_all_queries_are_not_read() {
    for kind in IsaKind::available() {
        kind.with(KeysBeforeTheWindowAreNotRead).unwrap();
    }
}

struct WideWindows;

impl WithIsa for WideWindows {
    type Output = ();

    fn call<I: Isa>(self, isa: I) {
        for len in [1, 33, 70] {
            let plain = Case::new(len, 0, [2, 1], 20).with_dropout(0.2);
            let inputs = plain.inputs();
            let all = |case: &Case| {
                let (out, lse) = forward(isa, case, &inputs, usize::MAX);
                let [dq, dk, dv] = backward(isa, case, &inputs, &out, &lse);
                [out, lse, dq, dk, dv].map(|window: Window| window.bits())
            };
            for window in [len, len + 1, usize::MAX] {
                assert!(all(&plain) == all(&plain.with_window(Some(window))), "{isa:?} {plain:?}: {window}");
            }
        }
    }
}

#[test]
fn a_window_of_the_whole_sequence_changes_no_bit() {
    for kind in IsaKind::available() {
        kind.with(WideWindows).unwrap();
    }
}
