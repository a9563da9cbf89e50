//! Attention of one token over a cache of keys and values, shared out by blocks of keys as the engine does.

use std::sync::{Arc, Mutex, PoisonError};

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::attention::{
    AttentionDecodeBlock, AttentionDecodeCombine, AttentionShape, DECODE_BLOCK, attention_decode_block,
    attention_decode_combine, attention_decode_scratch_len,
};
use smallmind_kernels::reference::{Matrix, attention};
use smallmind_kernels::{Mat, MatMut};
use smallmind_simd::{Isa, IsaKind, WithIsa};

use super::{Share, Work, Wrong, noisy_within, parts, sampled, split_rows};
use crate::case::Attention as Shape;

/// The memory of a decoded token's attention.
pub(super) struct Decode {
    shape: Shape,
    /// `[heads, head_dim]`
    q: Buffer,
    /// For each head of keys, and then for each of values, `[context, head_dim]`.
    cache: Buffer,
    /// For each head, block of keys after block, the output, the maximum and the sum.
    partials: Buffer,
    /// `[heads, head_dim]`
    out: Buffer,
}

impl Decode {
    pub(super) fn new(shape: Shape) -> Result<Self, GraphError> {
        let Shape { heads, kv_heads, head_dim, context, .. } = shape;
        Ok(Self {
            shape,
            q: noisy_within(1.0, 1, heads * head_dim)?,
            cache: noisy_within(1.0, 2, 2 * kv_heads * context * head_dim)?,
            partials: Buffer::zeroed(heads * context.div_ceil(DECODE_BLOCK) * (head_dim + 2))?,
            out: Buffer::zeroed(heads * head_dim)?,
        })
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    /// Keys (`part` below the number of their heads) or values of a head, `[context, head_dim]`.
    fn cached(&self, part: usize) -> Mat<'_> {
        let Shape { context, head_dim, .. } = self.shape;
        Mat::new(&self.cache[part * context * head_dim..(part + 1) * context * head_dim], context, head_dim)
    }
}

impl Work for Decode {
    fn reset(&mut self) {
        self.out.fill(f32::NAN);
    }

    fn shares(&mut self, isa: IsaKind, _: usize, threads: usize) -> Result<Vec<Share<'_>>, GraphError> {
        Ok(isa.with(Deal { work: self, threads })?)
    }

    fn check(&self) -> Result<(), Wrong> {
        Wrong::unless_finite("the output", &self.out)?;
        let Shape { heads, kv_heads, head_dim, context, .. } = self.shape;
        let one = AttentionShape { heads: 1, kv_heads: 1, head_dim, scale: self.scale(), dropout: None };
        for head in sampled(heads, 3) {
            let kv_head = head / (heads / kv_heads);
            let q = Matrix::from_f32(Mat::new(&self.q, heads, head_dim).rows_range(head..head + 1));
            let [k, v] = [kv_head, kv_heads + kv_head].map(|part| Matrix::from_f32(self.cached(part)));
            let want = attention::causal_attention(&q, &k, &v, &one, context - 1).0;
            for c in 0..head_dim {
                let got = self.out[head * head_dim + c];
                Wrong::unless_close(|| format!("head {head}, column {c}"), got, want.at(0, c), 1e-5)?;
            }
        }
        Ok(())
    }
}

struct Deal<'a> {
    work: &'a mut Decode,
    threads: usize,
}

impl<'a> WithIsa for Deal<'a> {
    type Output = Vec<Share<'a>>;

    fn call<I: Isa>(self, isa: I) -> Self::Output {
        let Shape { heads, kv_heads, head_dim, context, .. } = self.work.shape;
        let (group, blocks, scale) = (heads / kv_heads, context.div_ceil(DECODE_BLOCK), self.work.scale());
        let (cols, width) = (head_dim + 2, blocks * (head_dim + 2));
        let Decode { q, cache, partials, out, .. } = self.work;
        let q = Mat::new(q, heads, head_dim);
        let cache: &'a [f32] = cache;
        let cached = move |part: usize| {
            Mat::new(&cache[part * context * head_dim..(part + 1) * context * head_dim], context, head_dim)
        };
        let of_group: Vec<_> = (0..kv_heads).map(|g| g * group..(g + 1) * group).collect();
        let partials = split_rows(MatMut::new(partials, heads, width), &of_group).into_iter().map(Mutex::new).collect();
        let partials: Arc<Vec<Mutex<MatMut<'a>>>> = Arc::new(partials);
        let own: Vec<_> = parts(self.threads).map(|part| part.range(heads, 1)).collect();
        let outs = split_rows(MatMut::new(out, heads, head_dim), &own);
        let shares = parts(self.threads).zip(own).zip(outs);
        shares
            .map(|((part, own), mut out)| -> Share<'a> {
                let partials = Arc::clone(&partials);
                let mut result = vec![0.0; group * cols];
                let mut scratch = vec![0.0; attention_decode_scratch_len(group, context.min(DECODE_BLOCK))];
                Box::new(move |team| {
                    for unit in part.interleaved(blocks * kv_heads) {
                        let (block, kv_head) = (unit / kv_heads, unit % kv_heads);
                        let keys = block * DECODE_BLOCK..((block + 1) * DECODE_BLOCK).min(context);
                        let (o, stats) = MatMut::new(&mut result, group, cols).split_at_col(head_dim);
                        let call = AttentionDecodeBlock {
                            q: q.rows_range(kv_head * group..(kv_head + 1) * group),
                            k: cached(kv_head).rows_range(keys.clone()),
                            v: cached(kv_heads + kv_head).rows_range(keys),
                            scale,
                            out: o,
                            stats,
                        };
                        attention_decode_block(isa, call, &mut scratch);
                        // Other blocks of this head may be another worker's. The engine writes where it belongs at once.
                        let mut all = partials[kv_head].lock().unwrap_or_else(PoisonError::into_inner);
                        for (r, row) in result.chunks(cols).enumerate() {
                            all.row_mut(r)[block * cols..(block + 1) * cols].copy_from_slice(row);
                        }
                    }
                    team.barrier();
                    for (i, head) in own.clone().enumerate() {
                        let all = partials[head / group].lock().unwrap_or_else(PoisonError::into_inner);
                        let of_blocks = Mat::new(all.as_mat().row(head % group), blocks, cols);
                        let call = AttentionDecodeCombine {
                            partials: of_blocks.cols_range(0..head_dim),
                            stats: of_blocks.cols_range(head_dim..cols),
                            out: out.row_mut(i),
                        };
                        attention_decode_combine(isa, call);
                    }
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::holds;
    use crate::case::{Attention, Pass, Problem};

    #[test]
    fn decoded_tokens_hold() {
        for (heads, kv_heads, context) in [(1, 1, 2), (4, 2, 40), (6, 2, 513), (4, 4, 1100)] {
            holds(Problem::Attention(Attention {
                heads,
                kv_heads,
                head_dim: 24,
                len: 1,
                context,
                pass: Pass::Forward,
            }));
        }
    }
}
