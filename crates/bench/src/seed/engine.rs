//! The engine's ways to compute the logits: plans over the whole text, fused or not, and a session with its cache.

use std::sync::Arc;

use smallmind_graph::op::{DropoutSpec, Heads, Index, Norm};
use smallmind_graph::{
    Batch, Bindings, Executor, Graph, GraphBuilder, Limits, NoProbe, Op, Plan, PlanOptions, Pool, Scalars, ValueId,
};
use smallmind_model::{LOGITS, Model, PackedModel, SequenceId, Session, SessionOptions};
use smallmind_simd::IsaKind;

use super::Forward;
use super::names::{Names, Pair};
use crate::BenchError;

/// Which logits are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outputs {
    /// What follows each token.
    All,
    /// What follows the last token.
    Last,
}

/// The graph of a model's logits, not fused; with dropout if `dropout` is above 0.
pub(super) fn logits_graph(model: &Model, dropout: f32) -> Result<Graph, BenchError> {
    let names = Names::of(model)?;
    let mut b = GraphBuilder::with_params(model.params().clone());
    let c = model.config();
    let heads = Heads::new(c.heads, c.kv_heads, c.head_dim);
    let spec = |b: &mut GraphBuilder| (dropout > 0.0).then(|| DropoutSpec { probability: dropout, salt: b.salt() });
    let drop = |b: &mut GraphBuilder, x: ValueId| match spec(b) {
        Some(spec) => b.value_of(Op::Dropout(spec), &[x]),
        None => Ok(x),
    };
    let norm = |b: &mut GraphBuilder, x: ValueId, pair: Pair| {
        let norm = Norm::Layer { weight: pair.weight, bias: Some(pair.bias), eps: c.norm_eps };
        b.value_of(Op::Norm(norm), &[x])
    };
    let linear = |b: &mut GraphBuilder, x: ValueId, pair: Pair| {
        b.value_of(Op::Linear { weight: pair.weight, bias: Some(pair.bias) }, &[x])
    };
    let t = b.value_of(Op::Embedding { table: names.tokens, index: Index::Tokens }, &[])?;
    let p = b.value_of(Op::Embedding { table: names.positions, index: Index::Positions }, &[])?;
    let sum = b.value_of(Op::Add, &[t, p])?;
    let mut x = drop(&mut b, sum)?;
    for block in &names.blocks {
        let y = norm(&mut b, x, block.attn_norm)?;
        let qkv = linear(&mut b, y, block.qkv)?;
        let dropout = spec(&mut b);
        let a = b.value_of(Op::Attention { heads, dropout }, &[qkv])?;
        let y = linear(&mut b, a, block.out)?;
        let y = drop(&mut b, y)?;
        x = b.value_of(Op::Add, &[x, y])?;
        let y = norm(&mut b, x, block.mlp_norm)?;
        let up = linear(&mut b, y, block.up)?;
        let a = b.value_of(Op::Gelu(names.gelu), &[up])?;
        let y = linear(&mut b, a, block.down)?;
        let y = drop(&mut b, y)?;
        x = b.value_of(Op::Add, &[x, y])?;
    }
    let y = norm(&mut b, x, names.norm)?;
    let rows = b.value_of(Op::SelectRows, &[y])?;
    let logits = b.value_of(Op::Linear { weight: names.head, bias: None }, &[rows])?;
    b.result(LOGITS, logits);
    Ok(b.finish())
}

/// The scalars of every run. Dropout masks are the same for each token, so that the logits can be checked.
pub(super) fn scalars() -> Scalars {
    Scalars { dropout_seed: 1, ..Scalars::default() }
}

/// A batch of one text.
pub(super) fn one_text(limits: &Limits, tokens: &[u32], outputs: Outputs) -> Batch {
    let mut batch = Batch::with_capacity(limits);
    fill(&mut batch, tokens, outputs);
    batch
}

fn fill(batch: &mut Batch, tokens: &[u32], outputs: Outputs) {
    batch.clear();
    batch.push(tokens, 0);
    match outputs {
        Outputs::All => batch.want_all(),
        Outputs::Last => batch.want_last(),
    }
}

/// The limits for a batch of one text of up to `tokens` tokens.
pub(super) fn limits(tokens: usize) -> Limits {
    Limits { tokens, outputs: tokens, spans: 1, context: tokens, pages: 0 }
}

/// The layout of weights in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WeightLayout {
    /// As in a file.
    Rows,
    /// In the order in which products read them.
    Packed,
}

/// A model with its weights in a layout.
enum LaidOut {
    Rows(Arc<Model>),
    Packed(Box<PackedModel>),
}

/// A plan for the whole text.
pub(super) struct Planned {
    model: LaidOut,
    vocab: usize,
    pool: Pool,
    executor: Executor,
    batch: Batch,
    outputs: Outputs,
}

impl Planned {
    /// Plans `graph` for texts of up to `tokens` tokens.
    pub(super) fn new(
        model: &Arc<Model>,
        layout: WeightLayout,
        graph: Graph,
        tokens: usize,
        (threads, isa): (usize, IsaKind),
        outputs: Outputs,
    ) -> Result<Self, BenchError> {
        let (limits, vocab) = (limits(tokens), model.config().vocab_size);
        let (model, plan) = match layout {
            WeightLayout::Rows => {
                (LaidOut::Rows(model.clone()), Plan::new(graph, PlanOptions::flat(limits, threads, isa))?)
            }
            WeightLayout::Packed => {
                let model = model.try_clone()?.pack(isa)?;
                let plan = Plan::new(graph, PlanOptions::stored(limits, threads, model.storage().clone()))?;
                (LaidOut::Packed(Box::new(model)), plan)
            }
        };
        let (executor, batch) = (Executor::new(plan)?, Batch::with_capacity(&limits));
        Ok(Self { model, vocab, pool: Pool::new(threads)?, executor, batch, outputs })
    }
}

impl Forward for Planned {
    fn logits(&mut self, tokens: &[u32]) -> Result<&[f32], BenchError> {
        fill(&mut self.batch, tokens, self.outputs);
        let bindings = match &self.model {
            LaidOut::Rows(model) => Bindings::inference(model.weights()),
            LaidOut::Packed(model) => Bindings::stored(model.weights()),
        };
        self.executor.run(&mut self.pool, &self.batch, &scalars(), bindings, &NoProbe)?;
        let logits = self.executor.result_slice(LOGITS).unwrap_or_default();
        Ok(&logits[logits.len().saturating_sub(self.vocab)..])
    }
}

/// A session, which computes only the new tokens of a text that it knows.
pub(super) struct Cached(Session, SequenceId);

impl Cached {
    pub(super) fn new(model: &Model, threads: usize, isa: IsaKind) -> Result<Self, BenchError> {
        let options = SessionOptions::single(model.config().context, threads);
        let mut session = Session::new(Arc::new(model.try_clone()?.pack(isa)?), options)?;
        let sequence = session.open()?;
        Ok(Self(session, sequence))
    }
}

impl Forward for Cached {
    fn logits(&mut self, tokens: &[u32]) -> Result<&[f32], BenchError> {
        let Self(session, sequence) = self;
        if tokens.len() <= session.len(*sequence) {
            session.truncate(*sequence, 0);
        }
        let known = session.len(*sequence);
        Ok(session.append(*sequence, &tokens[known..])?)
    }
}
