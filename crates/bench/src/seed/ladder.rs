//! The ladder: the same tokens computed in several ways, each with one improvement more than the way before.

use std::time::{Duration, Instant};

use smallmind_graph::fuse;
use smallmind_simd::IsaKind;

use super::engine::{Cached, Outputs, Planned, WeightLayout, logits_graph};
use super::plain::{Attention, Plain, Products, Remedies, Rows, Softmax};
use super::tensors::Memory;
use super::workload::Prepared;
use super::{Forward, TOLERANCE};
use crate::BenchError;

/// Stride of the tokens that are timed if products are three loops, which are slow.
const SLOW_STRIDE: usize = 5;
/// Texts are generated until this time has passed, so that fast rungs have enough samples.
const LEAST_TIME: Duration = Duration::from_millis(500);
/// The most texts.
const MAX_RUNS: usize = 50;

/// How the logits of a text are computed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// By the plain pass with some remedies.
    Plain(Remedies),
    /// By a plan over the whole text.
    Planned { fused: bool, weights: WeightLayout, outputs: Outputs, dropout: f32 },
    /// By a session with its cache.
    Cached,
}

/// A rung.
#[derive(Clone, Debug)]
pub(super) struct Rung {
    pub(super) name: String,
    pub(super) note: &'static str,
    pub(super) threads: usize,
    pub(super) isa: IsaKind,
    pub(super) way: Way,
}

impl Rung {
    /// Opens the way of this rung.
    pub(super) fn open(&self, prepared: &Prepared) -> Result<Box<dyn Forward>, BenchError> {
        let model = prepared.model.clone();
        Ok(match self.way {
            Way::Plain(remedies) => Box::new(Plain::new(model, remedies)?),
            Way::Planned { fused, weights, outputs, dropout } => {
                let graph = logits_graph(&model, dropout)?;
                let graph = if fused { fuse(&graph) } else { graph };
                let place = (self.threads, self.isa);
                Box::new(Planned::new(&model, weights, graph, prepared.tokens.len(), place, outputs)?)
            }
            Way::Cached => Box::new(Cached::new(&model, self.threads, self.isa)?),
        })
    }

    /// Every how many tokens one is timed.
    pub(super) fn stride(&self) -> usize {
        match self.way {
            Way::Plain(Remedies { products: Products::Loops, .. }) => SLOW_STRIDE,
            Way::Plain(_) | Way::Planned { .. } | Way::Cached => 1,
        }
    }
}

/// The rungs from the naive way up to the engine's own, with instructions up to `isa` and up to `threads` threads.
pub(super) fn rungs(threads: usize, isa: IsaKind) -> Vec<Rung> {
    let mut rungs = vec![];
    let mut push = |name: &str, note, threads, isa, way| {
        rungs.push(Rung { name: name.to_owned(), note, threads, isa, way });
    };
    let mut r = Remedies::NONE;
    let scalar = IsaKind::Scalar;
    push(
        "naive",
        "a vector a value, a dot product a pair of tokens, passes over T x T, three loops",
        1,
        scalar,
        Way::Plain(r),
    );
    r.memory = Memory::Pooled;
    push("+ tensor pool", "buffers are used again", 1, scalar, Way::Plain(r));
    r.attention = Attention::Products;
    push("+ attention as products", "two matrix products a head", 1, scalar, Way::Plain(r));
    r.softmax = Softmax::Causal;
    push("+ fused causal softmax", "in place, over the keys that a query sees", 1, scalar, Way::Plain(r));
    r.rows = Rows::Vectors(isa);
    push("+ vectors by rows", "norms, softmax, GELU and sums by the engine's kernels", 1, scalar, Way::Plain(r));
    for kind in IsaKind::available().iter().filter(|kind| **kind <= isa) {
        r.products = Products::Blocked(*kind);
        let (name, note) = match kind {
            IsaKind::Scalar => ("+ blocked products", "the engine's, packed and blocked, in portable code"),
            IsaKind::Avx2 => ("+ AVX2 in products", "8 lanes"),
            IsaKind::Avx512 => ("+ AVX-512 in products", "16 lanes"),
        };
        push(name, note, 1, *kind, Way::Plain(r));
    }
    let planned = |fused, weights, outputs| Way::Planned { fused, weights, outputs, dropout: 0.0 };
    push(
        "+ plan, one arena",
        "the engine; attention in blocks",
        1,
        isa,
        planned(false, WeightLayout::Rows, Outputs::All),
    );
    push("+ fused graph", "sums within products and norms", 1, isa, planned(true, WeightLayout::Rows, Outputs::All));
    push(
        "+ weights packed once",
        "strips that products read in place",
        1,
        isa,
        planned(true, WeightLayout::Packed, Outputs::All),
    );
    if threads > 1 {
        push(
            &format!("+ {threads} threads"),
            "full forward as then",
            threads,
            isa,
            planned(true, WeightLayout::Packed, Outputs::All),
        );
    }
    push(
        "+ head of the last token",
        "no logits that nobody reads",
        threads,
        isa,
        planned(true, WeightLayout::Packed, Outputs::Last),
    );
    push("+ key-value cache", "the engine's session; the prompt's time counts", threads, isa, Way::Cached);
    rungs
}

/// The plain way with every remedy, and the plain way with all but one, for each remedy.
pub(super) fn all_but_one(isa: IsaKind) -> (Rung, Vec<Rung>) {
    let all = Remedies {
        memory: Memory::Pooled,
        attention: Attention::Products,
        softmax: Softmax::Causal,
        rows: Rows::Vectors(isa),
        products: Products::Blocked(isa),
    };
    let rung =
        |name: &str, note, remedies| Rung { name: name.to_owned(), note, threads: 1, isa, way: Way::Plain(remedies) };
    let none = Remedies::NONE;
    let without = vec![
        rung("tensor pool", "a vector a value", Remedies { memory: none.memory, ..all }),
        rung("attention as products", "a dot product a pair", Remedies { attention: none.attention, ..all }),
        rung("fused causal softmax", "six passes over T x T", Remedies { softmax: none.softmax, ..all }),
        rung("vectors by rows", "norms, softmax, GELU and sums in loops", Remedies { rows: none.rows, ..all }),
        rung("blocked products", "three loops", Remedies { products: none.products, ..all }),
    ];
    (rung("nothing", "all remedies of the plain way", all), without)
}

/// Whether a way computes the right logits.
///
/// # Errors
/// Logits can't be computed. The inner result tells the first wrong logit.
pub(super) fn check(
    forward: &mut dyn Forward,
    tokens: &[u32],
    references: &[(usize, Vec<f32>)],
) -> Result<Result<(), String>, BenchError> {
    for (len, want) in references {
        let got = forward.logits(&tokens[..*len])?;
        if got.len() != want.len() {
            return Ok(Err(format!("{} logits instead of {}", got.len(), want.len())));
        }
        let bound = TOLERANCE * want.iter().fold(0.0_f32, |size, x| size.max(x.abs()));
        let wrong = |(_, (got, want)): &(usize, (&f32, &f32))| (*got - *want).is_nan() || (*got - *want).abs() > bound;
        if let Some((i, (got, want))) = got.iter().zip(want).enumerate().find(wrong) {
            return Ok(Err(format!("wrong result: logit {i} after {len} tokens is {got} instead of {want}")));
        }
    }
    Ok(Ok(()))
}

/// What is timed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    /// Every how many tokens one is computed.
    pub(super) stride: usize,
    /// Whether the time of the prompt, which gives the first token, is left out.
    pub(super) decode_only: bool,
    /// The least number of texts.
    pub(super) runs: usize,
    /// Returns the bytes that this process has allocated so far.
    pub(super) allocated: fn() -> u64,
}

/// How long the tokens of a text took.
#[derive(Clone, Debug)]
pub(super) struct Timing {
    /// Tokens of a run.
    pub(super) tokens: usize,
    /// Seconds of each run.
    pub(super) seconds: Vec<f64>,
    /// Bytes allocated for a token in the last run.
    pub(super) bytes_per_token: f64,
}

/// Generates the text several times. Its tokens are given, so that every way works on the same text. The likeliest
/// token is found too, since that takes time, but is not used.
pub(super) fn time(forward: &mut dyn Forward, prepared: &Prepared, timed: Timed) -> Result<Timing, BenchError> {
    let mut lengths: Vec<usize> = prepared.lengths(timed.stride).collect();
    if timed.decode_only {
        lengths.remove(0);
    }
    let mut seconds = Vec::with_capacity(MAX_RUNS.max(timed.runs));
    let mut bytes = 0;
    let began = Instant::now();
    while seconds.len() < timed.runs || (seconds.len() < MAX_RUNS && began.elapsed() < LEAST_TIME) {
        if timed.decode_only {
            forward.logits(&prepared.tokens[..prepared.workload.prompt])?;
        }
        let before = (timed.allocated)();
        let start = Instant::now();
        for len in &lengths {
            let logits = forward.logits(&prepared.tokens[..*len])?;
            std::hint::black_box(super::greatest(logits));
        }
        seconds.push(start.elapsed().as_secs_f64());
        bytes = (timed.allocated)() - before;
    }
    Ok(Timing { tokens: lengths.len(), seconds, bytes_per_token: bytes as f64 / lengths.len().max(1) as f64 })
}
