//! Rows to pack.

/// Uniform numbers from 0 to 1: an additive recurrence, mixed (SplitMix64).
pub struct Uniform(pub u64);

impl Uniform {
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normally distributed (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let (radius, angle) = ((1.0 - self.next()).ln() * -2.0, self.next() * std::f64::consts::TAU);
        radius.sqrt() * angle.cos()
    }
}

/// How the elements of a row are distributed.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Normal,
    Uniform,
    /// The third power of a normal variable: a kurtosis of 46.
    HeavyTailed,
    Constant,
}

pub const KINDS: [Kind; 4] = [Kind::Normal, Kind::Uniform, Kind::HeavyTailed, Kind::Constant];

/// A row of a kind.
pub fn row(kind: Kind, len: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut random = Uniform(seed);
    let constant = random.next() - 0.5;
    let element = |_| match kind {
        Kind::Normal => random.normal(),
        Kind::Uniform => 2.0 * random.next() - 1.0,
        Kind::HeavyTailed => random.normal().powi(3),
        Kind::Constant => constant,
    };
    (0..len).map(element).map(|x| scale * x as f32).collect()
}
