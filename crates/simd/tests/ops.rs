//! Every vector operation of every instruction set against its definition on one number.

use smallmind_simd::{CacheLevel, Isa, IsaKind, WithIsa, prefetch};

/// Numbers where operations differ: signed zeros, halves, the edge of whole numbers, extremes, NaN.
const EDGES: [f32; 27] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.499_999_97,
    -0.499_999_97,
    3.3,
    -7.7,
    4_194_304.5,
    8_388_607.5,
    -8_388_607.5,
    8_388_609.0,
    1e30,
    -1e30,
    f32::MAX,
    f32::MIN,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-40,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// A sequence of random words (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x >> 32) as u32
    }
}

/// Triples of operands: all pairs of edges, then random bit patterns. The length is a multiple of 16.
fn operands() -> [Vec<f32>; 3] {
    let mut random = Random(7);
    let mut all = [Vec::new(), Vec::new(), Vec::new()];
    for a in EDGES {
        for b in EDGES {
            let c = EDGES[random.next() as usize % EDGES.len()];
            all.iter_mut().zip([a, b, c]).for_each(|(list, x)| list.push(x));
        }
    }
    while all[0].len() < 4096 {
        all.iter_mut().for_each(|list| list.push(f32::from_bits(random.next())));
    }
    all
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    Div,
    MulAdd,
    NegMulAdd,
    Min,
    Max,
    Neg,
    Abs,
    Sqrt,
    Round,
    SelectLt,
    SelectLe,
    Zero,
    Splat,
}

const OPS: [Op; 16] = [
    Op::Add,
    Op::Sub,
    Op::Mul,
    Op::Div,
    Op::MulAdd,
    Op::NegMulAdd,
    Op::Min,
    Op::Max,
    Op::Neg,
    Op::Abs,
    Op::Sqrt,
    Op::Round,
    Op::SelectLt,
    Op::SelectLe,
    Op::Zero,
    Op::Splat,
];

fn vector<I: Isa>(isa: I, op: Op, [a, b, c]: [I::F32; 3]) -> I::F32 {
    match op {
        Op::Add => isa.add(a, b),
        Op::Sub => isa.sub(a, b),
        Op::Mul => isa.mul(a, b),
        Op::Div => isa.div(a, b),
        Op::MulAdd => isa.mul_add(a, b, c),
        Op::NegMulAdd => isa.neg_mul_add(a, b, c),
        Op::Min => isa.min(a, b),
        Op::Max => isa.max(a, b),
        Op::Neg => isa.neg(a),
        Op::Abs => isa.abs(a),
        Op::Sqrt => isa.sqrt(a),
        Op::Round => isa.round(a),
        Op::SelectLt => isa.select(isa.lt(a, b), b, c),
        Op::SelectLe => isa.select(isa.le(a, b), b, c),
        Op::Zero => isa.zero(),
        Op::Splat => isa.splat(-3.25),
    }
}

fn one(kind: IsaKind, op: Op, [a, b, c]: [f32; 3]) -> f32 {
    let fused = kind != IsaKind::Scalar;
    match op {
        Op::Add => a + b,
        Op::Sub => a - b,
        Op::Mul => a * b,
        Op::Div => a / b,
        Op::MulAdd if fused => a.mul_add(b, c),
        Op::MulAdd => a * b + c,
        Op::NegMulAdd if fused => (-a).mul_add(b, c),
        Op::NegMulAdd => c - a * b,
        Op::Min => [b, a][usize::from(a < b)],
        Op::Max => [b, a][usize::from(a > b)],
        Op::Neg => -a,
        Op::Abs => a.abs(),
        Op::Sqrt => a.sqrt(),
        Op::Round => a.round_ties_even(),
        Op::SelectLt => [c, b][usize::from(a < b)],
        Op::SelectLe => [c, b][usize::from(a <= b)],
        Op::Zero => 0.0,
        Op::Splat => -3.25,
    }
}

struct Float(Op);

impl WithIsa for Float {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let [a, b, c] = operands();
        for i in (0..a.len()).step_by(I::LANES) {
            let mut got = [f32::NAN; 16];
            isa.store(vector(isa, self.0, [isa.load(&a[i..]), isa.load(&b[i..]), isa.load(&c[i..])]), &mut got);
            for (l, got) in got[..I::LANES].iter().enumerate() {
                let at = [a[i + l], b[i + l], c[i + l]];
                let expected = one(I::KIND, self.0, at);
                let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
                assert!(same, "{:?}{at:?} on {}: {got}, expected {expected}", self.0, I::KIND);
            }
        }
    }
}

#[test]
fn float_operations_match_their_definitions() {
    for kind in IsaKind::available() {
        OPS.into_iter().for_each(|op| kind.with(Float(op)).unwrap());
    }
}

/// Integer operations, on the bits of the operands.
struct Integer;

impl WithIsa for Integer {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let [a, b, _] = operands();
        for i in (0..a.len()).step_by(I::LANES) {
            let (x, y) = (isa.bits(isa.load(&a[i..])), isa.bits(isa.load(&b[i..])));
            let (low, high) = isa.widening_mul_u32(x, y);
            let wide = |a: u32, b: u32| u64::from(a) * u64::from(b);
            type Definition<'a> = &'a dyn Fn(u32, u32) -> u32;
            let cases: [(&str, I::I32, Definition); 15] = [
                ("bits", x, &|a, _| a),
                ("splat_i32", isa.splat_i32(-77), &|_, _| -77i32 as u32),
                ("add_i32", isa.add_i32(x, y), &|a, b| a.wrapping_add(b)),
                ("and_i32", isa.and_i32(x, y), &|a, b| a & b),
                ("or_i32", isa.or_i32(x, y), &|a, b| a | b),
                ("xor_i32", isa.xor_i32(x, y), &|a, b| a ^ b),
                ("shl_i32 0", isa.shl_i32::<0>(x), &|a, _| a),
                ("shl_i32 7", isa.shl_i32::<7>(x), &|a, _| a << 7),
                ("shl_i32 31", isa.shl_i32::<31>(x), &|a, _| a << 31),
                ("shr_i32 0", isa.shr_i32::<0>(x), &|a, _| a),
                ("shr_i32 9", isa.shr_i32::<9>(x), &|a, _| a >> 9),
                ("shr_i32 31", isa.shr_i32::<31>(x), &|a, _| a >> 31),
                ("low", low, &|a, b| wide(a, b) as u32),
                ("high", high, &|a, b| (wide(a, b) >> 32) as u32),
                ("to_f32", isa.bits(isa.to_f32(x)), &|a, _| (a as i32 as f32).to_bits()),
            ];
            for (name, got, definition) in cases {
                let mut lanes = [0.0; 16];
                isa.store(isa.from_bits(got), &mut lanes);
                for (l, got) in lanes[..I::LANES].iter().enumerate() {
                    let (x, y) = (a[i + l].to_bits(), b[i + l].to_bits());
                    assert_eq!(got.to_bits(), definition(x, y), "{name}({x:#x}, {y:#x}) on {}", I::KIND);
                }
            }
        }
    }
}

#[test]
fn integer_operations_match_their_definitions() {
    for kind in IsaKind::available() {
        kind.with(Integer).unwrap();
    }
}

/// `to_i32` within the range of `i32`.
struct ToInteger;

impl WithIsa for ToInteger {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let mut random = Random(3);
        let edges = [0.5, 1.5, -0.5, -2.5, 2.5, 1e9, -2_147_483_648.0, 2_147_483_520.0, -0.0];
        let mut xs: Vec<f32> = edges.to_vec();
        xs.resize_with(1024, || random.next() as i32 as f32 / (1u64 << (random.next() % 40)) as f32);
        for xs in xs.chunks(I::LANES) {
            let mut got = [0.0; 16];
            isa.store(isa.from_bits(isa.to_i32(isa.load(xs))), &mut got);
            for (x, got) in xs.iter().zip(got) {
                assert_eq!(got.to_bits() as i32, x.round_ties_even() as i32, "{x} on {}", I::KIND);
            }
        }
    }
}

#[test]
fn to_i32_rounds_ties_to_even() {
    for kind in IsaKind::available() {
        kind.with(ToInteger).unwrap();
    }
}

/// `mul_pow2` for every exponent it promises.
struct PowersOfTwo;

impl WithIsa for PowersOfTwo {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        for n in -160..=160 {
            for a in [1.0, 0.5, 2.0, 1.999_999_9, 0.749_999_94, -1.337, 1.25] {
                let mut got = [0.0; 16];
                isa.store(isa.mul_pow2(isa.splat(a), isa.splat(n as f32)), &mut got);
                let expected = (f64::from(a) * f64::from(n).exp2()) as f32;
                assert_eq!(got[..I::LANES], vec![expected; I::LANES], "{a} * 2^{n} on {}", I::KIND);
            }
        }
    }
}

#[test]
fn powers_of_two_are_rounded_once() {
    for kind in IsaKind::available() {
        kind.with(PowersOfTwo).unwrap();
    }
}

/// Loads and stores, whole and partial, with slices of every length.
struct Memory;

impl WithIsa for Memory {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let src: Vec<f32> = (1..=40).map(|i| i as f32).collect();
        let full = isa.load(&src);
        for n in 0..=2 * I::LANES {
            let mut got = [f32::NAN; 40];
            isa.store(isa.load_partial(&src[3..3 + n]), &mut got);
            for (l, &got) in got[..I::LANES].iter().enumerate() {
                assert_eq!(got, if l < n { src[3 + l] } else { 0.0 }, "{} of {n} on {}", l, I::KIND);
            }
            let mut dst = [-1.0; 40];
            isa.store_partial(full, &mut dst[5..5 + n]);
            let mut expected = [-1.0; 40];
            expected[5..5 + n.min(I::LANES)].copy_from_slice(&src[..n.min(I::LANES)]);
            assert_eq!(dst, expected, "{n} on {}", I::KIND);
        }
        let mut dst = [-1.0; 40];
        isa.store(full, &mut dst);
        assert_eq!((&dst[..I::LANES], dst[I::LANES]), (&src[..I::LANES], -1.0), "{}", I::KIND);
    }
}

#[test]
fn loads_and_stores_stay_within_their_slices() {
    for kind in IsaKind::available() {
        kind.with(Memory).unwrap();
    }
}

/// Loads (or stores) with a slice that is one element too short.
struct TooShort {
    store: bool,
}

impl WithIsa for TooShort {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let mut short = vec![0.0; I::LANES - 1];
        if self.store { isa.store(isa.zero(), &mut short) } else { isa.store(isa.load(&short), &mut [0.0; 16]) }
    }
}

#[test]
fn short_slices_are_refused() {
    for kind in IsaKind::available() {
        for store in [false, true] {
            let refused = std::panic::catch_unwind(|| kind.with(TooShort { store })).is_err();
            assert!(refused, "{kind}, store: {store}");
        }
    }
}

/// Sums and maxima over lanes.
struct Reductions;

impl WithIsa for Reductions {
    type Output = ();
    fn call<I: Isa>(self, isa: I) {
        let powers: Vec<f32> = (0..I::LANES).map(|i| (1 << i) as f32).collect();
        assert_eq!(isa.sum(isa.load(&powers)), ((1 << I::LANES) - 1) as f32, "{}", I::KIND);
        let mut random = Random(5);
        for _ in 0..200 {
            let xs: Vec<f32> = (0..I::LANES).map(|_| random.next() as i32 as f32 / 1e9).collect();
            let exact: f64 = xs.iter().copied().map(f64::from).sum();
            assert!((f64::from(isa.sum(isa.load(&xs))) - exact).abs() < 1e-5, "{xs:?} on {}", I::KIND);
            let greatest = xs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(isa.max_lane(isa.load(&xs)), greatest, "{xs:?} on {}", I::KIND);
        }
        for l in 0..I::LANES {
            let mut xs = vec![f32::NEG_INFINITY; I::LANES];
            xs[l] = -3.0;
            assert_eq!(isa.max_lane(isa.load(&xs)), -3.0, "lane {l} on {}", I::KIND);
        }
    }
}

#[test]
fn reductions_take_every_lane_once() {
    for kind in IsaKind::available() {
        kind.with(Reductions).unwrap();
    }
}

/// Looks up the first in a table whose entry `i` is `i` + ½, and adds the squares of the second twice to 0.
struct Wide<'a>(&'a [i32], &'a [f32]);

impl WithIsa for Wide<'_> {
    type Output = (Vec<f32>, Vec<f64>);

    fn call<I: Isa>(self, isa: I) -> (Vec<f32>, Vec<f64>) {
        let table: [f32; 16] = std::array::from_fn(|i| i as f32 + 0.5);
        let (mut found, mut sums) = (vec![f32::NAN; 16], vec![f64::NAN; 16]);
        for at in (0..16).step_by(I::LANES) {
            let lanes: Vec<f32> = self.0[at..at + I::LANES].iter().map(|i| f32::from_bits(*i as u32)).collect();
            isa.store(isa.lookup(&table, isa.bits(isa.load(&lanes))), &mut found[at..]);
            let once = isa.add_squares(&self.1[at..], isa.zero_f64());
            isa.store_f64(isa.add_squares(&self.1[at..], once), &mut sums[at..]);
        }
        (found, sums)
    }
}

#[test]
fn lookups_take_the_lowest_four_bits_and_squares_are_exact() {
    let mut random = Random(9);
    for _ in 0..1000 {
        let index: Vec<i32> = (0..16).map(|_| random.next() as i32).collect();
        let x: Vec<f32> =
            (0..16).map(|_| f32::from_bits(random.next())).map(|x| if x.is_nan() { 1.5 } else { x }).collect();
        let found: Vec<f32> = index.iter().map(|i| (i & 15) as f32 + 0.5).collect();
        let sums: Vec<f64> = x.iter().map(|x| 2.0 * f64::from(*x) * f64::from(*x)).collect();
        for kind in IsaKind::available() {
            assert_eq!(kind.with(Wide(&index, &x)), Ok((found.clone(), sums.clone())), "{kind}");
        }
    }
}

/// Widens bytes, adds 256 · 7 to each, and writes the lowest bits.
struct Narrow<'a>(&'a [i8]);

impl WithIsa for Narrow<'_> {
    type Output = (Vec<f32>, Vec<i8>);

    fn call<I: Isa>(self, isa: I) -> (Vec<f32>, Vec<i8>) {
        let (mut wide, mut narrow) = (vec![f32::NAN; 16], vec![0; 17]);
        for at in (0..16).step_by(I::LANES) {
            let x = isa.load_i8(&self.0[at..]);
            isa.store(isa.to_f32(x), &mut wide[at..]);
            isa.store_i8(isa.add_i32(x, isa.splat_i32(256 * 7)), &mut narrow[at..]);
        }
        (wide, narrow)
    }
}

#[test]
fn bytes_are_widened_and_narrowed() {
    let mut random = Random(11);
    for _ in 0..300 {
        let mut x: Vec<i8> = (0..17).map(|_| random.next() as i8).collect();
        (x[random.next() as usize % 16], x[16]) = (-128, 0);
        let wide: Vec<f32> = x[..16].iter().map(|x| f32::from(*x)).collect();
        for kind in IsaKind::available() {
            assert_eq!(kind.with(Narrow(&x)), Ok((wide.clone(), x.clone())), "{kind}");
        }
    }
}

/// A vector written past the caches, between others.
struct PastCaches;

impl WithIsa for PastCaches {
    type Output = Vec<f32>;

    #[allow(unsafe_code)]
    fn call<I: Isa>(self, isa: I) -> Vec<f32> {
        let mut buffer = vec![0.0; 4 * I::LANES];
        let start = buffer.as_ptr().align_offset(I::LANES * size_of::<f32>());
        let values: Vec<f32> = (0..I::LANES).map(|i| 1.0 + i as f32).collect();
        // SAFETY: of the four vectors at most the first lies before the aligned start, so that this is the second after
        // it, whole.
        unsafe { isa.store_past_caches_ptr(isa.load(&values), buffer.as_mut_ptr().add(start + I::LANES)) };
        isa.fence();
        buffer.drain(..start);
        buffer
    }
}

#[test]
fn what_goes_past_the_caches_is_there_behind_a_fence() {
    for kind in IsaKind::available() {
        let found = kind.with(PastCaches).unwrap();
        let lanes = found.iter().filter(|x| **x != 0.0).count();
        let want = |i: usize| if (lanes..2 * lanes).contains(&i) { (i - lanes + 1) as f32 } else { 0.0 };
        assert!(lanes > 0 && found.iter().enumerate().all(|(i, &x)| x == want(i)), "{kind}: {found:?}");
    }
}

#[test]
fn prefetching_what_is_not_there_is_harmless() {
    let x = [1.0; 32];
    for level in [CacheLevel::First, CacheLevel::Second] {
        for address in [x.as_ptr(), x.as_ptr().wrapping_add(1 << 40), std::ptr::null()] {
            prefetch(address, level);
        }
    }
}
