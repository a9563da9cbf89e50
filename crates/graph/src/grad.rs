//! Reverse-mode differentiation of a graph, as a table of rules.

use crate::GraphError;
use crate::graph::{Graph, GraphBuilder, Node, Phase, ValueId};
use crate::op::{Direction, Op};

/// The graph of the loss called `loss` and of the gradients of all parameters.
///
/// The loss must come from [`Op::LinearCrossEntropy`]. Gradients of parameters are accumulated into the run's gradient
/// buffer, scaled by the run's loss scale; values on which the loss does not depend are left out.
///
/// # Errors
/// No such loss, or an operation without a gradient on which the loss depends.
pub fn grad(graph: &Graph, loss: &str) -> Result<Graph, GraphError> {
    let no_loss = || GraphError::NoLoss { name: loss.to_owned() };
    let loss_value = graph.result(loss).ok_or_else(no_loss)?;
    let is_head = |n: &&Node| matches!(n.op, Op::LinearCrossEntropy { .. }) && n.outputs.contains(&loss_value);
    let head = graph.nodes.iter().find(is_head).ok_or_else(no_loss)?;
    let Op::LinearCrossEntropy { weight, cap } = head.op else { return Err(no_loss()) };

    let mut backward =
        Backward { contributions: vec![vec![]; graph.value_count()], b: GraphBuilder::extend(graph.clone()) };
    let fused = backward.b.apply_at(Op::LinearCrossEntropyGrad { weight, cap }, &head.inputs, head.path.clone())?;
    backward.contributions[head.inputs[0].index()].push(fused[1]);
    backward.b.set_phase(Phase::Backward);
    for node in graph.nodes.iter().rev().filter(|n| !is_head(n)) {
        backward.differentiate(node)?;
    }
    let mut graph = backward.b.finish();
    for (_, value) in graph.results.iter_mut().filter(|(_, v)| *v == loss_value) {
        *value = fused[0];
    }
    graph.remove_dead_code();
    Ok(graph)
}

struct Backward {
    /// For each value, the gradients from those of its readers that have been differentiated so far.
    contributions: Vec<Vec<ValueId>>,
    b: GraphBuilder,
}

impl Backward {
    /// The gradient of `value`: the sum of the gradients from its readers, in the order in which they were added.
    fn gradient(&mut self, value: ValueId, path: &str) -> Result<Option<ValueId>, GraphError> {
        let parts = std::mem::take(&mut self.contributions[value.index()]);
        let mut parts = parts.into_iter();
        let Some(mut sum) = parts.next() else { return Ok(None) };
        for part in parts {
            sum = self.one(Op::Add, &[sum, part], path)?;
        }
        Ok(Some(sum))
    }

    fn one(&mut self, op: Op, inputs: &[ValueId], path: &str) -> Result<ValueId, GraphError> {
        let name = op.name();
        let outputs = self.b.apply_at(op, inputs, path.to_owned())?;
        outputs.first().copied().ok_or(GraphError::NoOutput { op: name })
    }

    fn send(&mut self, value: ValueId, gradient: ValueId) {
        self.contributions[value.index()].push(gradient);
    }

    /// The rules: how each operation turns the gradient `dy` of its first output into the gradients of its inputs.
    fn differentiate(&mut self, node: &Node) -> Result<(), GraphError> {
        let path = node.path.as_str();
        let Some(&first) = node.outputs.first() else { return self.no_rule(node) };
        // Further outputs, such as statistics, are only for the backward: no rule expects a gradient of them.
        if node.outputs[1..].iter().any(|v| !self.contributions[v.index()].is_empty()) {
            return self.no_rule(node);
        }
        let Some(dy) = self.gradient(first, path)? else { return Ok(()) };
        let x = |i: usize| node.inputs[i];
        match node.op {
            Op::Embedding { table, index } => {
                self.b.apply_at(Op::EmbeddingGrad { table, index }, &[dy], path.to_owned())?;
            }
            Op::Add => {
                self.send(x(0), dy);
                self.send(x(1), dy);
            }
            Op::Scale { factor } => {
                let dx = self.one(Op::Scale { factor }, &[dy], path)?;
                self.send(x(0), dx);
            }
            Op::Dropout(spec) => {
                let dx = self.one(Op::Dropout(spec), &[dy], path)?;
                self.send(x(0), dx);
            }
            Op::Norm(norm) => {
                let inputs = [dy, x(0), node.outputs[1]];
                let dx = self.one(Op::NormGrad(norm), &inputs, path)?;
                self.send(x(0), dx);
            }
            Op::QkNorm(norm) => {
                let inputs = [dy, x(0), node.outputs[1]];
                let dx = self.one(Op::QkNormGrad(norm), &inputs, path)?;
                self.send(x(0), dx);
            }
            Op::Linear { weight, bias } => {
                let dx = self.one(Op::LinearGradInput { weight }, &[dy], path)?;
                self.b.apply_at(Op::LinearGradWeight { weight }, &[dy, x(0)], path.to_owned())?;
                if let Some(bias) = bias {
                    self.b.apply_at(Op::BiasGrad { bias }, &[dy], path.to_owned())?;
                }
                self.send(x(0), dx);
                if let Some(&residual) = node.inputs.get(1) {
                    self.send(residual, dy);
                }
            }
            Op::Rope { ref rope, heads, direction: Direction::Forward } => {
                let backward = Op::Rope { rope: rope.clone(), heads, direction: Direction::Backward };
                let dx = self.one(backward, &[dy], path)?;
                self.send(x(0), dx);
            }
            Op::Gelu(kind) => {
                let dx = self.one(Op::GeluGrad(kind), &[x(0), dy], path)?;
                self.send(x(0), dx);
            }
            Op::GeGlu(kind) => {
                let dx = self.one(Op::GeGluGrad(kind), &[x(0), dy], path)?;
                self.send(x(0), dx);
            }
            Op::SwiGlu => {
                let dx = self.one(Op::SwiGluGrad, &[x(0), dy], path)?;
                self.send(x(0), dx);
            }
            Op::Attention { heads, dropout } => {
                let inputs = [dy, x(0), node.outputs[0], node.outputs[1]];
                let dx = self.one(Op::AttentionGrad { heads, dropout }, &inputs, path)?;
                self.send(x(0), dx);
            }
            Op::EmbeddingGrad { .. }
            | Op::AddNorm(_)
            | Op::NormGrad(_)
            | Op::QkNormGrad(_)
            | Op::LinearGradInput { .. }
            | Op::LinearGradWeight { .. }
            | Op::BiasGrad { .. }
            | Op::Rope { direction: Direction::Backward, .. }
            | Op::GeluGrad(_)
            | Op::SwiGluGrad
            | Op::GeGluGrad(_)
            | Op::AttentionGrad { .. }
            | Op::CacheAppend { .. }
            | Op::CachedAttention { .. }
            | Op::SelectRows
            | Op::SoftCap { .. }
            | Op::Experts(_)
            | Op::LinearCrossEntropy { .. }
            | Op::LinearCrossEntropyGrad { .. }
            | Op::GradSquares
            | Op::ClipFactor { .. }
            | Op::AdamW(_) => return self.no_rule(node),
        }
        Ok(())
    }

    fn no_rule(&self, node: &Node) -> Result<(), GraphError> {
        Err(GraphError::NotDifferentiable { op: node.op.name(), path: node.path.clone() })
    }
}
