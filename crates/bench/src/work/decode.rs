//! Attention of one token over a cache of keys and values, shared out by blocks of keys as the engine does.

use std::sync::{Arc, Mutex, PoisonError};

use smallmind_graph::{Buffer, GraphError};
use smallmind_kernels::attention::{
    AttentionShape, BlockQueries, KEY_BLOCK, PAGE, append_to_page, attend_block, attend_block_scratch_len, fold,
    fold_end, page_len, partial_cols,
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
    /// The same in pages, for each head its pages.
    pages: Buffer,
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
            pages: Buffer::zeroed(kv_heads * context.div_ceil(PAGE) * page_len(head_dim))?,
            partials: Buffer::zeroed(heads * context.div_ceil(KEY_BLOCK) * (head_dim + 2))?,
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
        let (group, blocks, scale) = (heads / kv_heads, context.div_ceil(KEY_BLOCK), self.work.scale());
        let (cols, width) = (partial_cols(head_dim), blocks * partial_cols(head_dim));
        let of_head = context.div_ceil(PAGE) * page_len(head_dim);
        let Decode { q, cache, pages, partials, out, .. } = self.work;
        let q = Mat::new(q, heads, head_dim);
        let cached = |part: usize| {
            Mat::new(&cache[part * context * head_dim..(part + 1) * context * head_dim], context, head_dim)
        };
        for (kv_head, pages) in pages.chunks_exact_mut(of_head).enumerate() {
            for (i, page) in pages.chunks_exact_mut(page_len(head_dim)).enumerate() {
                let rows = i * PAGE..((i + 1) * PAGE).min(context);
                let of = |part| cached(part).rows_range(rows.clone());
                append_to_page(page, 0, of(kv_head), of(kv_heads + kv_head));
            }
        }
        let pages: &'a [f32] = pages;
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
                let mut scratch = vec![0.0; attend_block_scratch_len(isa, group, head_dim)];
                Box::new(move |team| {
                    for unit in part.interleaved(blocks * kv_heads) {
                        let (block, kv_head) = (unit / kv_heads, unit % kv_heads);
                        let q = q.rows_range(kv_head * group..(kv_head + 1) * group);
                        let queries = BlockQueries { q, group, past: context - 1, scale };
                        let of_head = &pages[kv_head * of_head..];
                        let page = |i: usize| &of_head[i * page_len(head_dim)..][..page_len(head_dim)];
                        let to = MatMut::new(&mut result, group, cols);
                        attend_block(isa, queries, block, page, to, &mut scratch);
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
                        let state = &mut result[..cols];
                        state.copy_from_slice(&of_blocks.row(0)[..cols]);
                        for block in 1..blocks {
                            fold(isa, MatMut::new(state, 1, cols), of_blocks.rows_range(block..block + 1));
                        }
                        fold_end(isa, state, out.row_mut(i));
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
