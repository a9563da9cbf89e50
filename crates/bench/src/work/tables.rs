//! What works with ids: embeddings and the loss.

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::embedding::{embedding, embedding_backward};
use smallmind_kernels::loss::{cross_entropy, cross_entropy_backward};
use smallmind_kernels::matmul::ROW_GRANULE;
use smallmind_kernels::reference::{self, Matrix};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, col_parts, noise, noisy, parts, row_parts, sampled, split_cols, split_rows};
use crate::case::Pass;

/// Rows that a check looks at.
const SAMPLES: usize = 9;
/// Seed of the logits' noise.
const SEED: u64 = 1;

/// Ids below `vocab` in no order.
fn ids(rows: usize, vocab: usize) -> Vec<u32> {
    (0..rows).map(|r| ((f64::from(noise(5, r)) + 0.5) * vocab as f64) as u32 % vocab.max(1) as u32).collect()
}

/// The memory of an embedding.
pub(super) struct Embedding {
    pass: Pass,
    rows: usize,
    vocab: usize,
    cols: usize,
    ids: Vec<u32>,
    /// The table, or its gradient.
    table: Buffer,
    /// The embedded tokens, or their gradient.
    tokens: Buffer,
}

impl Embedding {
    pub(super) fn new(rows: usize, vocab: usize, cols: usize, pass: Pass) -> Result<Self, GraphError> {
        let (table, tokens) = match pass {
            Pass::Forward => (noisy(1, vocab * cols)?, Buffer::zeroed(rows * cols)?),
            Pass::Backward => (Buffer::zeroed(vocab * cols)?, noisy(1, rows * cols)?),
        };
        Ok(Self { pass, rows, vocab, cols, ids: ids(rows, vocab), table, tokens })
    }
}

impl Work for Embedding {
    fn reset(&mut self) {
        match self.pass {
            Pass::Forward => self.tokens.fill(f32::NAN),
            Pass::Backward => self.table.fill(0.0),
        }
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        Ok(isa.with(EmbeddingShares { work: self, threads })?)
    }

    fn check(&self) -> Result<(), Wrong> {
        let Self { rows, cols, .. } = *self;
        for r in sampled(rows, SAMPLES) {
            let id = self.ids[r] as usize;
            let (got, at) = match self.pass {
                Pass::Forward => (&self.tokens, r),
                Pass::Backward => (&self.table, id),
            };
            // Forward: a row is that of the table. Backward: it is the sum of all gradients with its id.
            let same: Vec<usize> = match self.pass {
                Pass::Forward => vec![id],
                Pass::Backward => (0..rows).filter(|other| self.ids[*other] as usize == id).collect(),
            };
            let source = if self.pass == Pass::Forward { &self.table } else { &self.tokens };
            for c in 0..cols {
                let want: f64 = same.iter().map(|row| f64::from(source[row * cols + c])).sum();
                let bound = f64::from(f32::EPSILON) * (same.len() * (same.len() - 1)) as f64;
                Wrong::unless_close(|| format!("row {at}, column {c}"), got[at * cols + c], want, bound)?;
            }
        }
        Ok(())
    }
}

struct EmbeddingShares<'a> {
    work: &'a mut Embedding,
    threads: usize,
}

impl<'a> WithIsa for EmbeddingShares<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Embedding { pass, rows, vocab, cols, ids, table, tokens } = self.work;
        let (rows, vocab, cols, ids): (_, _, _, &'a [u32]) = (*rows, *vocab, *cols, ids);
        match pass {
            Pass::Forward => {
                let table = Mat::new(table, vocab, cols);
                let ranges = row_parts(rows, rows * cols, self.threads);
                let outs = split_rows(MatMut::new(tokens, rows, cols), &ranges);
                let share = |(range, mut out): (std::ops::Range<usize>, MatMut<'a>)| -> Share<'a> {
                    Box::new(move |_| embedding(isa, table, &ids[range.clone()], out.reborrow()))
                };
                ranges.iter().cloned().zip(outs).map(share).collect()
            }
            Pass::Backward => {
                let dy = Mat::new(tokens, rows, cols);
                let ranges = col_parts(cols, self.threads);
                let outs = split_cols(MatMut::new(table, vocab, cols), &ranges);
                let share = |(range, mut dtable): (std::ops::Range<usize>, MatMut<'a>)| -> Share<'a> {
                    let dy = dy.cols_range(range);
                    Box::new(move |_| embedding_backward(isa, dy, ids, dtable.reborrow()))
                };
                ranges.iter().cloned().zip(outs).map(share).collect()
            }
        }
    }
}

/// The memory of a loss.
pub(super) struct CrossEntropy {
    pass: Pass,
    rows: usize,
    vocab: usize,
    targets: Vec<u32>,
    logits: Buffer,
    losses: Buffer,
}

impl CrossEntropy {
    pub(super) fn new(rows: usize, vocab: usize, pass: Pass) -> Result<Self, GraphError> {
        let (logits, losses) = (Buffer::zeroed(rows * vocab)?, Buffer::zeroed(rows)?);
        let mut work = Self { pass, rows, vocab, targets: ids(rows, vocab), logits, losses };
        work.reset();
        Ok(work)
    }

    /// What a mean over the rows is multiplied by.
    fn scale(&self) -> f32 {
        1.0 / self.rows.max(1) as f32
    }
}

impl Work for CrossEntropy {
    fn reset(&mut self) {
        self.logits.iter_mut().enumerate().for_each(|(i, x)| *x = 8.0 * noise(SEED, i));
        self.losses.fill(f32::NAN);
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        Ok(isa.with(LossShares { work: self, threads })?)
    }

    fn check(&self) -> Result<(), Wrong> {
        Wrong::unless_finite("losses", &self.losses)?;
        let Self { rows, vocab, .. } = *self;
        let relative = (16.0 + vocab as f64 / 32.0) * f64::from(f32::EPSILON);
        for r in sampled(rows, SAMPLES) {
            let logits = Matrix::from_fn(1, vocab, |_, c| f64::from(8.0 * noise(SEED, r * vocab + c)));
            let target = &self.targets[r..=r];
            let loss = reference::loss::cross_entropy(&logits, target)[0];
            let bound = relative + f64::from(f32::EPSILON) * loss;
            Wrong::unless_close(|| format!("the loss of row {r}"), self.losses[r], loss, bound)?;
            if self.pass == Pass::Backward {
                let scale = f64::from(self.scale());
                let want = reference::loss::cross_entropy_backward(&logits, target, scale);
                for c in 0..vocab {
                    let got = self.logits[r * vocab + c];
                    Wrong::unless_close(|| format!("row {r}, column {c}"), got, want.at(0, c), relative * scale)?;
                }
            }
        }
        Ok(())
    }
}

struct LossShares<'a> {
    work: &'a mut CrossEntropy,
    threads: usize,
}

impl<'a> WithIsa for LossShares<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let scale = self.work.scale();
        let CrossEntropy { pass, rows, vocab, targets, logits, losses } = self.work;
        let (pass, rows, vocab, targets): (_, _, _, &'a [u32]) = (*pass, *rows, *vocab, targets);
        let ranges: Vec<_> = parts(self.threads).map(|part| part.range(rows, ROW_GRANULE)).collect();
        let logits = split_rows(MatMut::new(logits, rows, vocab), &ranges);
        let losses = split_rows(MatMut::new(losses, rows, 1), &ranges);
        let share = |((range, mut logits), mut losses): ((_, MatMut<'a>), MatMut<'a>)| -> Share<'a> {
            let targets = &targets[range];
            match pass {
                Pass::Forward => Box::new(move |_| cross_entropy(isa, logits.as_mat(), targets, losses.reborrow())),
                Pass::Backward => Box::new(move |_| {
                    cross_entropy_backward(isa, logits.reborrow(), targets, scale, losses.reborrow());
                }),
            }
        };
        ranges.iter().cloned().zip(logits).zip(losses).map(share).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use super::*;
    use crate::case::Problem;

    #[test]
    fn embeddings_and_losses_hold() {
        for pass in [Pass::Forward, Pass::Backward] {
            holds(Problem::Embedding { rows: 50, vocab: 20, cols: 33, pass });
            holds(Problem::Embedding { rows: 500, vocab: 20, cols: 64, pass });
            holds(Problem::CrossEntropy { rows: 5, vocab: 33, pass });
            holds(Problem::CrossEntropy { rows: 40, vocab: 1000, pass });
        }
    }
}
