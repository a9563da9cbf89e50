//! The textual dumps of graphs and plans.

mod common;

use common::build::{Layer, matrix, norm};
use common::model::NormKind;
use smallmind_graph::op::{Gelu, Heads, Index};
use smallmind_graph::{Graph, GraphBuilder, GraphError, Limits, Op, Plan, PlanOptions, fuse, grad};
use smallmind_simd::IsaKind;

fn model() -> Result<Graph, GraphError> {
    let (mut b, vocab, d) = (GraphBuilder::new(), 50, 16);
    let table = matrix(&mut b, "wte", vocab, d, 1.0)?;
    let x = b.scope("embed", |b| b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]))?;
    let heads = Heads::new(2, 1, 8);
    let x = b.scope("blocks.0.attn", |b| {
        let y = norm(b, NormKind::Rms, x)?;
        let qkv = Layer::new("qkv", y, heads.qkv_cols()).apply(b)?;
        let y = b.value_of(Op::Attention { heads, dropout: None }, &[qkv])?;
        let y = Layer::new("proj", y, d).bias(true).apply(b)?;
        b.value_of(Op::Add, &[x, y])
    })?;
    let x = b.scope("blocks.0.mlp", |b| {
        let y = b.value_of(Op::Gelu(Gelu::Tanh), &[x])?;
        let y = b.value_of(Op::Add, &[y, x])?;
        norm(b, NormKind::Layer { bias: true }, y)
    })?;
    let loss = b.scope("head", |b| b.value_of(Op::LinearCrossEntropy { weight: table, cap: None }, &[x]))?;
    b.result("loss", loss);
    Ok(b.finish())
}

/// The lines of a dump with single spaces.
fn lines(dump: &str) -> Vec<String> {
    dump.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[track_caller]
fn assert_has(dump: &str, wanted: &[&str]) {
    let lines = lines(dump);
    for want in wanted {
        assert!(lines.iter().any(|l| l == want), "no line `{want}` in\n{dump}");
    }
}

#[test]
fn a_graph_reads_as_a_list_of_operations() {
    let graph = model().unwrap();
    let dump = graph.to_string();
    assert_eq!(lines(&dump).len(), graph.nodes().len() + graph.results().len());
    assert_has(
        &dump,
        &[
            "%0 = embedding [tokens, 16] @ embed (wte)",
            "%1, %2 = rms_norm %0 [tokens, 16] [tokens, 1] @ blocks.0.attn (blocks.0.attn.norm.weight)",
            "%4, %5 = attention %3 [tokens, 16] [tokens, 2] @ blocks.0.attn",
            "%7 = add %0, %6 [tokens, 16] @ blocks.0.attn",
            "%12 = linear_cross_entropy %10 [tokens, 1] @ head (wte)",
            "result loss = %12",
        ],
    );
}

#[test]
fn gradients_and_fusions_show() {
    let graph = fuse(&grad(&model().unwrap(), "loss").unwrap());
    let dump = graph.to_string();
    assert_has(
        &dump,
        &[
            // The residual is folded into the layer before it.
            "%7 = linear %4, %0 [tokens, 16] @ blocks.0.attn (blocks.0.attn.proj.weight, blocks.0.attn.proj.bias)",
            // A sum and the norm of it are one pass.
            "%9, %10, %11 = add_layer_norm %8, %7 [tokens, 16] [tokens, 16] [tokens, 2] @ blocks.0.mlp \
             (blocks.0.mlp.norm.weight, blocks.0.mlp.norm.bias)",
            "%13, %14 = linear_cross_entropy_grad %10 [tokens, 1] [tokens, 16] @ head (wte)",
            "= bias_grad %17 @ blocks.0.attn (blocks.0.attn.proj.bias)",
            // The gradient that goes around the block is added as the norm's is stored.
            "%22 = rms_norm_grad %20, %0, %2, %17 [tokens, 16] @ blocks.0.attn (blocks.0.attn.norm.weight)",
            "= embedding_grad %22 @ embed (wte)",
            "result loss = %13",
        ],
    );
}

#[test]
fn a_plan_shows_barriers_workers_and_memory() {
    let graph = fuse(&grad(&model().unwrap(), "loss").unwrap());
    let limits = Limits { tokens: 1024, outputs: 0, spans: 4, context: 512, pages: 0 };
    let plan = Plan::new(graph.clone(), PlanOptions::flat(limits, 2, IsaKind::Scalar)).unwrap();
    let dump = plan.to_string();
    let head = format!(
        "plan: 1024 tokens, 0 outputs, 4 spans, context 512, 0 pages; scalar on 2 threads; {} steps, {} barriers; \
         arena {} bytes, \
         unplanned {} bytes",
        plan.steps().len(),
        plan.barriers(),
        plan.arena_bytes(),
        plan.unplanned_bytes(),
    );
    assert_has(&dump, &[&head]);
    let lines = lines(&dump);
    assert_eq!(lines.len(), 1 + plan.steps().len());
    let line = |op: &str| lines.iter().find(|l| l.contains(&format!(" {op} "))).expect("a line of that operation");
    assert!(line("embedding").starts_with("0 all embedding ←param 0+800 unpartitioned; →"), "{dump}");
    assert!(line("attention").starts_with("3 | all attention ←"), "{dump}");
    assert!(line("attention").ends_with("unpartitioned; @ blocks.0.attn"), "{dump}");
    assert!(line("rms_norm").contains(" rows; ←param 800+16 unpartitioned; →"), "{dump}");
    assert!(line("embedding_grad").contains("→grad 0+800 columns;"), "{dump}");

    let alone = Plan::new(graph, PlanOptions::flat(limits, 1, IsaKind::Scalar)).unwrap().to_string();
    assert!(alone.contains("scalar on 1 threads") && alone.contains(" one attention ") && !alone.contains(" | "));
}
