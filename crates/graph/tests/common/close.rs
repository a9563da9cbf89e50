//! Comparisons of `f32` results with what they should be.

/// How far a result may be off: `relative` times the largest magnitude of its own tensor, plus `of_all` times the
/// largest magnitude of all the tensors that it is compared among. The second term is for tensors that cancel to
/// nothing, like the gradient of the bias of the keys, which is zero but for rounding.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub relative: f64,
    pub of_all: f64,
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// Widens.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Named tensors that are compared together.
pub type Tensors<T> = Vec<(String, Vec<T>)>;

/// Asserts that all of `got` lies within `bound` of `want`.
pub fn assert_close(what: &str, got: &Tensors<f32>, want: &Tensors<f64>, bound: Bound) {
    let got: Tensors<f64> = got.iter().map(|(name, values)| (name.clone(), wide(values))).collect();
    assert_close_wide(what, &got, want, bound);
}

/// [`assert_close`] of two results in `f64`.
pub fn assert_close_wide(what: &str, got: &Tensors<f64>, want: &Tensors<f64>, bound: Bound) {
    assert_eq!(got.len(), want.len(), "{what}: number of tensors");
    let all = want.iter().map(|(_, w)| largest(w)).fold(0.0, f64::max);
    for ((name, got), (_, want)) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len(), "{what}: length of {name}");
        let allowed = bound.relative * largest(want) + bound.of_all * all;
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let off = (g - w).abs();
            // Not `off > allowed`: NaN must fail.
            assert!(off <= allowed, "{what}: {name}[{i}] is {g} for {w}, off by {off:e}, allowed {allowed:e}");
        }
    }
}
