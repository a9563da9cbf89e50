//! Cases ready to be run: their memory, how they are run, and how results are checked.
//!
//! A case that an op of the engine computes is run as a graph of that op ([`engine`]). Other cases are run as calls of
//! a kernel ([`kernel`], [`products`]):
//!
//! * softmax and cross-entropy, which the engine computes within attention and within its output head;
//! * products of `bf16` factors, and products that are neither a linear layer nor its gradient (`tn` without
//!   accumulation);
//! * the kernels between which the engine chooses, since a plan has only the one that was chosen.

mod attention;
mod engine;
mod kernel;
mod linear;
mod norm;
mod products;
mod rows;
mod update;
mod values;

use smallmind_graph::{GraphError, Pool};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

use crate::case::{Case, Problem, Product};
pub(crate) use values::noise;

/// What a case runs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The instruction set.
    pub(crate) isa: IsaKind,
    /// Workers.
    pub(crate) threads: usize,
}

/// A case ready to be run.
pub(crate) trait Work {
    /// The ways to compute it. The engine's own choice comes first.
    fn routes(&self) -> Vec<&'static str> {
        vec![crate::OWN]
    }

    /// Sets the operands. Fills memory with NaN where a run overwrites it, and with numbers where a run adds to it.
    fn reset(&mut self);

    /// Runs `iterations` iterations by the route with index `route` on all workers of `pool`; returns their seconds.
    ///
    /// # Errors
    /// A pool of another number of threads.
    fn run(&mut self, pool: &mut Pool, route: usize, iterations: usize) -> Result<f64, GraphError>;

    /// What has been computed.
    fn outputs(&self) -> Vec<Output<'_>>;

    /// The cost of the op as the engine counts it, if the case is an op.
    #[cfg(test)]
    fn op_cost(&self) -> Option<smallmind_graph::Cost> {
        None
    }

    /// Compares the outputs of one iteration after [`Work::reset`] with the `f64` reference, large ones in samples.
    ///
    /// # Errors
    /// The first element that is wrong.
    fn compare(&self, found: &Found<'_>) -> Result<(), Wrong>;

    /// Compares what has been computed; all of it must be finite.
    ///
    /// # Errors
    /// As [`Work::compare`].
    fn check(&self) -> Result<(), Wrong> {
        Found(self.outputs()).check(|found| self.compare(found))
    }
}

/// A matrix that has been computed.
pub(crate) struct Output<'a> {
    pub(crate) name: &'static str,
    pub(crate) cols: usize,
    /// Row by row; empty before the first run.
    pub(crate) data: &'a [f32],
}

/// The matrices that have been computed.
pub(crate) struct Found<'a>(pub(crate) Vec<Output<'a>>);

impl Found<'_> {
    fn check(&self, compare: impl FnOnce(&Self) -> Result<(), Wrong>) -> Result<(), Wrong> {
        for (which, output) in self.0.iter().enumerate() {
            if let Some(i) = output.data.iter().position(|x| !x.is_finite()) {
                self.close(which, (i / output.cols, i % output.cols), 0.0, f64::INFINITY)?;
            }
        }
        compare(self)
    }

    /// An error unless the element at `(row, column)` of output `which` is within `bound` of `want`.
    fn close(&self, which: usize, (row, col): (usize, usize), want: f64, bound: f64) -> Result<(), Wrong> {
        let Output { name, cols, data } = self.0[which];
        // A missing element is as wrong as one that has not been written.
        let got = data.get(row * cols + col).copied().unwrap_or(f32::NAN);
        let close = got.is_finite() && (f64::from(got) - want).abs() <= bound;
        if close { Ok(()) } else { Err(Wrong { what: format!("{name}[{row}, {col}]"), got, want, bound }) }
    }
}

/// A wrong element.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what} is {got}, the reference says {want} ± {bound:.1e}")]
pub(crate) struct Wrong {
    /// Which element.
    what: String,
    /// The kernel's result.
    got: f32,
    /// What it should be.
    want: f64,
    /// How far it may be off.
    bound: f64,
}

/// The distance between 1 and the next `f32`.
const EPSILON: f64 = f32::EPSILON as f64;

/// The case as the engine runs it; `None` if the kernel does not exist in this format, or not for this instruction set.
///
/// # Errors
/// Too little memory, or an instruction set that this CPU lacks.
pub(crate) fn prepare(case: &Case, on: Target) -> Result<Option<Box<dyn Work>>, GraphError> {
    let work: Box<dyn Work> = match (case.problem, case.format) {
        (Problem::PackedMatmul { m, n, k }, format) if format.divides(k) => {
            Box::new(linear::packed(m, n, k, format, on)?)
        }
        (Problem::Matmul(product), Format::Bf16) if products::has_bf16(on.isa) => {
            Box::new(products::Products::bf16(product, on)?)
        }
        (Problem::PackedMatmul { .. }, _) => return Ok(None),
        (_, format) if format != Format::F32 => return Ok(None),
        (Problem::Matmul(product), _) => match linear::flat(product, on)? {
            Some(engine) => Box::new(engine),
            None => Box::new(products::Products::flat(product, on)?),
        },
        (Problem::Gemv { n, k }, _) => return prepare(&case.with(Problem::Matmul(Product::nt(1, n, k))), on),
        (Problem::Attention(shape), _) if shape.len == shape.context => Box::new(attention::sequence(shape, on)?),
        (Problem::Attention(shape), _) if shape.len == 1 => Box::new(attention::decode(shape, on)?),
        (Problem::Attention(_), _) => return Ok(None),
        (Problem::Norm { kind, rows, cols, pass }, _) => Box::new(norm::norm(kind, rows, cols, pass, on)?),
        (Problem::Gelu { elements, kind, pass }, _) => Box::new(rows::gelu(elements, kind, pass, on)?),
        (Problem::SwiGlu { rows, cols, pass }, _) => Box::new(rows::swiglu(rows, cols, pass, on)?),
        (Problem::Rope { rows, heads, head_dim }, _) => Box::new(rows::rope(rows, heads, head_dim, on)?),
        (Problem::Embedding { rows, vocab, cols, pass }, _) => Box::new(rows::embedding(rows, vocab, cols, pass, on)?),
        (Problem::Softmax { rows, cols }, _) => Box::new(kernel::RowKernel::softmax(rows, cols, on)?),
        (Problem::CrossEntropy { rows, vocab, pass }, _) => {
            Box::new(kernel::RowKernel::cross_entropy(rows, vocab, pass, on)?)
        }
        (Problem::AdamW { elements }, _) => Box::new(update::adamw(elements, on)?),
        (Problem::SumOfSquares { elements }, _) => Box::new(update::sum_of_squares(elements, on)?),
    };
    Ok(Some(work))
}

/// The kernels between which the engine chooses for a case, its choice first; `None` if there is only one.
///
/// # Errors
/// As [`prepare`].
pub(crate) fn candidates(case: &Case, on: Target) -> Result<Option<Box<dyn Work>>, GraphError> {
    let products = match (case.problem, case.format) {
        (Problem::Matmul(product), Format::F32) => products::Products::flat(product, on)?,
        (Problem::Gemv { n, k }, Format::F32) => products::Products::flat(Product::nt(1, n, k), on)?,
        (Problem::PackedMatmul { m, n, k }, Format::F32) => products::Products::packed(m, n, k, on)?,
        _ => return Ok(None),
    };
    Ok((products.routes().len() > 1).then(|| Box::new(products) as Box<dyn Work>))
}

/// Up to `count` indices below `len`: the ends, and others between them.
fn sampled(len: usize, count: usize) -> Vec<usize> {
    if len <= count {
        return (0..len).collect();
    }
    let last = count - 1;
    // Every second index is shifted a little, so that not all fall on multiples of a vector's length.
    (0..count)
        .map(|i| if i == last { len - 1 } else { i * (len - 1) / last + i % 2 * (i * 5 % 7) }.min(len - 1))
        .collect()
}

/// An output of at most this many elements is checked completely.
const ALL_CHECKED: usize = 1 << 16;
/// The number of rows of a larger output that are checked.
const ROWS_CHECKED: usize = 9;

/// The rows of `[rows, cols]` that a check looks at.
fn checked_rows(rows: usize, cols: usize) -> Vec<usize> {
    sampled(rows, if rows * cols <= ALL_CHECKED { rows } else { ROWS_CHECKED })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs every route of a case on every instruction set and on several numbers of threads, and checks the result.
    /// The check must fail before a run and after a reset, as for a kernel that writes nothing. It must fail if a
    /// single element is NaN or a little off.
    pub(crate) fn holds(problem: Problem) {
        holds_in(problem, Format::F32);
    }

    /// [`holds`], with weights or factors in a format.
    pub(crate) fn holds_in(problem: Problem, format: Format) {
        let case = Case { problem, format, tags: vec![] };
        for isa in IsaKind::available() {
            for threads in [1, 3] {
                let on = Target { isa: *isa, threads };
                let mut pool = Pool::new(threads).unwrap();
                let engine = prepare(&case, on).unwrap().unwrap_or_else(|| panic!("{case} has no kernel"));
                if let Some(op) = engine.op_cost() {
                    costs_agree(&case, op);
                }
                for mut work in std::iter::once(engine).chain(candidates(&case, on).unwrap()) {
                    for route in 0..work.routes().len() {
                        work.reset();
                        assert!(work.check().is_err(), "{case}: nothing has been computed yet");
                        let seconds = work.run(&mut pool, route, 1).unwrap();
                        assert!(seconds > 0.0 && seconds < 100.0, "{case}: {seconds} s");
                        let what = format!("{case} on {isa}, {threads} threads, {}", work.routes()[route]);
                        work.check().unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
                        if (route, threads) == (0, 1) {
                            finds_spoiled_elements(&*work, &case);
                        }
                        work.reset();
                        assert!(work.check().is_err(), "{what}: what has been computed is still there");
                    }
                }
            }
        }
    }

    /// The op that is timed has the shape that its case names: the engine and the case count nearly the same work.
    /// (Packed weights fill up their last strip.)
    fn costs_agree(case: &Case, op: smallmind_graph::Cost) {
        let named = case.cost();
        let near = |a: f64, b: f64| (a - b).abs() <= 0.3 * a.max(b) + 1200.0;
        let bytes = (op.bytes().read + op.bytes().written, named.read + named.written);
        assert!(near(op.flops, named.flops) && near(bytes.0, bytes.1), "{case} is {named:?}, its op {op:?}");
    }

    fn finds_spoiled_elements(work: &dyn Work, case: &Case) {
        for (which, Output { name, data, .. }) in work.outputs().into_iter().enumerate() {
            let size = data.iter().fold(1e-2_f32, |most, x| most.max(x.abs()));
            for at in sampled(data.len(), 5) {
                for spoiled in [f32::NAN, data[at] + 2e-3 * size, data[at] - 2e-3 * size] {
                    let mut copy = data.to_vec();
                    copy[at] = spoiled;
                    let mut found = Found(work.outputs());
                    found.0[which].data = &copy;
                    let wrong = found.check(|found| work.compare(found)).expect_err(&format!("{case}: {at}"));
                    assert!(wrong.what.starts_with(name), "{case}: {wrong}");
                }
            }
        }
    }

    #[test]
    fn samples_are_in_range_and_hold_the_ends() {
        for len in [0, 1, 7, 8, 9, 1000] {
            let all = sampled(len, 8);
            assert!(all.iter().all(|i| *i < len) && all.len() == len.min(8), "{all:?}");
            assert!(len == 0 || (all[0] == 0 && all.contains(&(len - 1))), "{all:?}");
        }
    }
}
