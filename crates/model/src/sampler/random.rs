//! Random numbers.

/// Pseudo-random numbers: xoshiro256++ (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", ACM TOMS
/// 47(4), 2021), seeded by SplitMix64 as its authors advise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Xoshiro256 {
    pub(super) state: [u64; 4],
}

impl Xoshiro256 {
    pub(super) fn new(seed: u64) -> Self {
        let mut counter = seed;
        // SplitMix64 visits each 64-bit value once, so the state is never all zero.
        let state = std::array::from_fn(|_| {
            counter = counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = counter;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub(super) fn next_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs from the state 1, 2, 3, 4, worked out by hand from the recurrence of the paper.
    #[test]
    fn xoshiro_follows_its_definition() {
        let mut rng = Xoshiro256 { state: [1, 2, 3, 4] };
        assert_eq!(rng.next(), 41_943_041);
        assert_eq!(rng.state, [7, 0, (2 << 17) | 2, 6 << 45]);
        assert_eq!(rng.next(), 58_720_359);
        assert_eq!(rng.next(), 3_588_806_011_781_223);
    }

    #[test]
    fn neighbouring_seeds_differ_and_units_are_uniform() {
        let mut means = [0.0; 4];
        for (seed, mean) in means.iter_mut().enumerate() {
            let mut rng = Xoshiro256::new(seed as u64);
            let sum: f64 = (0..10_000).map(|_| rng.next_unit()).inspect(|u| assert!((0.0..1.0).contains(u))).sum();
            *mean = sum / 10_000.0;
            assert!((*mean - 0.5).abs() < 0.015, "mean {mean} for seed {seed}");
        }
        assert!(means.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
