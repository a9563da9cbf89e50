//! The statistics of repeated measurements.

/// The mean; 0 for no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The median; 0 for no values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value with a share `q` of all values below it, interpolated linearly between neighbours; 0 for no values.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    match (sorted.get(low), sorted.get(low + 1)) {
        (Some(a), Some(b)) => a + (b - a) * part,
        (Some(a), None) => *a,
        (None, _) => 0.0,
    }
}

/// The standard deviation of the population from which the values are a sample; 0 for fewer than two.
pub fn spread(values: &[f64]) -> f64 {
    variance(values).sqrt()
}

fn variance(values: &[f64]) -> f64 {
    let m = mean(values);
    let squares: f64 = values.iter().map(|x| (x - m) * (x - m)).sum();
    if values.len() < 2 { 0.0 } else { squares / (values.len() - 1) as f64 }
}

/// A repeat that takes more than this many times the lower quartile shared a CPU with another program.
const DISTURBED: f64 = 1.08;

/// The repeats that nothing disturbed. The limit is relative, so that a slower program loses no repeats.
fn undisturbed(repeats: &[f64]) -> Vec<f64> {
    let limit = DISTURBED * quantile(repeats, 0.25);
    repeats.iter().copied().filter(|x| *x <= limit).collect()
}

/// The relative change from one sample's mean to another's, with its 99 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Change {
    /// The new value divided by the old, less 1.
    pub estimate: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

impl Change {
    /// No change.
    pub const NONE: Self = Self { estimate: 0.0, low: 0.0, high: 0.0 };

    /// The change of a whole if only a part, the `share` of its time, changes by this.
    #[must_use]
    pub fn times(self, share: f64) -> Self {
        Self { estimate: self.estimate * share, low: self.low * share, high: self.high * share }
    }

    /// Welch's interval for the difference of two means (Welch, "The generalization of Student's problem when several
    /// different population variances are involved", 1947), divided by the old mean. Disturbed repeats are left out;
    /// with fewer than two repeats the interval is infinite. The interval covers differences between repeats. For a
    /// machine that became slower or faster in between see [`Change::allowing`].
    pub fn between(old: &[f64], new: &[f64]) -> Self {
        let (old, new) = (&undisturbed(old)[..], &undisturbed(new)[..]);
        let (a, b) = (mean(old), mean(new));
        let estimate = b / a - 1.0;
        if old.len() < 2 || new.len() < 2 {
            return Self { estimate, low: f64::NEG_INFINITY, high: f64::INFINITY };
        }
        let (va, vb) = (variance(old) / old.len() as f64, variance(new) / new.len() as f64);
        let parts = va * va / (old.len() - 1) as f64 + vb * vb / (new.len() - 1) as f64;
        let freedom = if parts > 0.0 { (va + vb) * (va + vb) / parts } else { f64::INFINITY };
        let half = student_99(freedom) * (va + vb).sqrt() / a;
        Self { estimate, low: estimate - half, high: estimate + half }
    }

    /// The same change, with its interval widened by a change of the machine's speed. A change of the machine that
    /// isn't certain is ignored.
    #[must_use]
    pub fn allowing(self, machine: &Self) -> Self {
        if !machine.is_certain() || !machine.estimate.is_finite() {
            return self;
        }
        Self { low: self.low - machine.estimate.max(0.0), high: self.high - machine.estimate.min(0.0), ..self }
    }

    /// Whether the interval excludes 0.
    pub fn is_certain(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The two-sided 99 % quantile of Student's distribution: from tables for few degrees of freedom, else by Cornish and
/// Fisher's expansion.
fn student_99(freedom: f64) -> f64 {
    const TABLE: [f64; 8] = [63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355];
    let whole = freedom.floor().max(1.0);
    if whole <= TABLE.len() as f64 {
        return TABLE[whole as usize - 1];
    }
    if !freedom.is_finite() {
        return Z_99;
    }
    let (z, n) = (Z_99, whole);
    let (z3, z5) = (z.powi(3), z.powi(5));
    let third = (3.0 * z.powi(7) + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * n.powi(3));
    z + (z3 + z) / (4.0 * n) + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * n * n) + third
}

/// The two-sided 99 % quantile of the normal distribution.
const Z_99: f64 = 2.575_829_3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let all = [4.0, 1.0, 3.0, 2.0];
        assert_eq!((median(&all), quantile(&all, 0.0), quantile(&all, 1.0)), (2.5, 1.0, 4.0));
        assert_eq!((median(&[]), mean(&[]), spread(&[1.0])), (0.0, 0.0, 0.0));
        assert!((spread(&[1.0, 2.0, 3.0]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn students_quantiles_are_those_of_tables() {
        for (freedom, expected) in [(1.0, 63.657), (4.0, 4.604), (9.0, 3.250), (18.0, 2.878), (60.0, 2.660)] {
            assert!((student_99(freedom) - expected).abs() < 0.006, "{freedom}: {}", student_99(freedom));
        }
        assert_eq!(student_99(f64::INFINITY), Z_99);
    }
}
