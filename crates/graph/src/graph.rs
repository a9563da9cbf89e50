//! The graph: operations in order, the values between them, and the results.

use std::fmt;

use crate::{GraphError, Op, ParamId, ParamSpec, Params, Shape};

/// Names a value of a [`Graph`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) u32);

impl ValueId {
    /// Its index among the graph's values.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Names a node of a [`Graph`] by its index in the order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    /// Its index in the order of execution.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which pass over the model an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// From the inputs to the loss or the logits.
    Forward,
    /// From the loss to the gradients.
    Backward,
    /// From the gradients to new parameters.
    Update,
}

/// An operation applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operation.
    pub op: Op,
    /// The values that it reads.
    pub inputs: Vec<ValueId>,
    /// The values that it makes.
    pub outputs: Vec<ValueId>,
    /// Its place in the model, such as `blocks.3.attn.qkv`.
    pub path: String,
    /// The pass that it belongs to.
    pub phase: Phase,
}

/// Operations in an order in which every value is produced before it is used. Effects (gradients, cache) happen in that
/// order too.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    pub(crate) params: Params,
    pub(crate) nodes: Vec<Node>,
    pub(crate) shapes: Vec<Shape>,
    pub(crate) results: Vec<(String, ValueId)>,
}

impl Graph {
    /// The parameters that the operations refer to.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The operations, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many values there are.
    pub fn value_count(&self) -> usize {
        self.shapes.len()
    }

    /// The shape of a value.
    pub fn shape(&self, value: ValueId) -> Shape {
        self.shapes[value.index()]
    }

    /// The values that a caller reads after a run, by name.
    pub fn results(&self) -> &[(String, ValueId)] {
        &self.results
    }

    /// The value of a named result.
    pub fn result(&self, name: &str) -> Option<ValueId> {
        self.results.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }

    /// How many nodes read each value; a result counts as a reader.
    pub(crate) fn use_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.shapes.len()];
        self.nodes.iter().flat_map(|n| &n.inputs).for_each(|v| counts[v.index()] += 1);
        self.results.iter().for_each(|(_, v)| counts[v.index()] += 1);
        counts
    }

    /// Makes `value` a result with this name.
    pub fn add_result(&mut self, name: &str, value: ValueId) {
        self.results.push((name.to_owned(), value));
    }

    /// Removes the nodes that have no effect and whose outputs nothing reads.
    pub(crate) fn remove_dead_code(&mut self) {
        let mut live = vec![false; self.shapes.len()];
        self.results.iter().for_each(|(_, v)| live[v.index()] = true);
        let mut keep = vec![false; self.nodes.len()];
        for (i, node) in self.nodes.iter().enumerate().rev() {
            let effects = node.op.effects();
            let has_effect = (effects.gradients && !matches!(node.op, Op::GradSquares))
                || effects.parameters
                || matches!(node.op, Op::CacheAppend { .. });
            if has_effect || node.outputs.iter().any(|v| live[v.index()]) {
                keep[i] = true;
                node.inputs.iter().for_each(|v| live[v.index()] = true);
            }
        }
        let mut keep = keep.into_iter();
        self.nodes.retain(|_| keep.next().unwrap_or(true));
    }
}

impl fmt::Display for Graph {
    /// One line per node: `%outputs = op %inputs : shapes @ path`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[ValueId]| values.iter().map(|v| format!("%{}", v.0)).collect::<Vec<_>>().join(", ");
        for node in &self.nodes {
            let shapes: Vec<_> = node.outputs.iter().map(|v| self.shape(*v).to_string()).collect();
            let params: Vec<_> =
                node.op.params().iter().filter_map(|p| self.params.get(*p)).map(|p| p.name.as_str()).collect();
            writeln!(
                f,
                "{:<12} = {:<24} {:<20} {:<30} @ {} {}",
                list(&node.outputs),
                node.op.name(),
                list(&node.inputs),
                shapes.join(" "),
                node.path,
                if params.is_empty() { String::new() } else { format!("({})", params.join(", ")) },
            )?;
        }
        for (name, value) in &self.results {
            writeln!(f, "result {name} = %{}", value.0)?;
        }
        Ok(())
    }
}

/// Builds a [`Graph`] node by node, and checks the shapes of each.
///
/// A parameter that is declared again with the same name and shape is the same parameter: this is how a tied output
/// head uses the table of the embedding.
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    scope: Vec<String>,
    phase: Phase,
    salts: u32,
}

impl Default for GraphBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new() -> Self {
        Self::extend(Graph { params: Params::default(), nodes: vec![], shapes: vec![], results: vec![] })
    }

    /// A builder without nodes that has the parameters `params` with their ids.
    pub fn with_params(params: Params) -> Self {
        Self::extend(Graph { params, nodes: vec![], shapes: vec![], results: vec![] })
    }

    /// A builder that adds to `graph`. New salts differ from those in `graph`.
    pub(crate) fn extend(graph: Graph) -> Self {
        let salts = graph.nodes.iter().filter_map(|node| node.op.info().dropout).map(|dropout| dropout.salt).max();
        Self { graph, scope: vec![], phase: Phase::Forward, salts: salts.unwrap_or(0) }
    }

    /// The nodes that are added from now on belong to `phase`.
    pub(crate) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
    }

    /// Runs `build` with `name` appended to the path.
    pub fn scope<R>(&mut self, name: impl Into<String>, build: impl FnOnce(&mut Self) -> R) -> R {
        self.scope.push(name.into());
        let result = build(self);
        self.scope.pop();
        result
    }

    /// The path of the nodes that are added now.
    pub fn path(&self) -> String {
        self.scope.join(".")
    }

    /// Declares a parameter called `path.name`.
    ///
    /// # Errors
    /// A size of zero or beyond the address space, or the same name with another shape.
    pub fn param(&mut self, name: &str, spec: ParamSpec) -> Result<ParamId, GraphError> {
        let path = self.path();
        let name = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        self.graph.params.declare(ParamSpec { name, ..spec })
    }

    /// A number that no other dropout of this graph has.
    pub fn salt(&mut self) -> u32 {
        self.salts += 1;
        self.salts
    }

    /// Applies `op` to `inputs` and returns its outputs, as many as its shape rule says.
    ///
    /// # Errors
    /// Inputs that break the shape rule.
    pub fn apply(&mut self, op: Op, inputs: &[ValueId]) -> Result<Vec<ValueId>, GraphError> {
        let path = self.path();
        self.apply_at(op, inputs, path)
    }

    pub(crate) fn apply_at(&mut self, op: Op, inputs: &[ValueId], path: String) -> Result<Vec<ValueId>, GraphError> {
        let shapes: Vec<Shape> = inputs.iter().map(|v| self.graph.shape(*v)).collect();
        let shapes = op.info().outputs(&path, &shapes, &self.graph.params)?;
        let outputs: Vec<ValueId> = shapes.into_iter().map(|shape| self.value(shape)).collect();
        let node = Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), path, phase: self.phase };
        self.graph.nodes.push(node);
        Ok(outputs)
    }

    /// Applies an operation with at least one output and returns the first.
    ///
    /// # Errors
    /// As [`GraphBuilder::apply`].
    pub fn value_of(&mut self, op: Op, inputs: &[ValueId]) -> Result<ValueId, GraphError> {
        let name = op.name();
        let outputs = self.apply(op, inputs)?;
        outputs.first().copied().ok_or(GraphError::NoOutput { op: name })
    }

    fn value(&mut self, shape: Shape) -> ValueId {
        self.graph.shapes.push(shape);
        ValueId((self.graph.shapes.len() - 1) as u32)
    }

    /// Names a value that the caller reads after a run.
    pub fn result(&mut self, name: &str, value: ValueId) {
        self.graph.results.push((name.to_owned(), value));
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{DropoutSpec, Heads, Index};
    use crate::{Decay, Init};

    #[test]
    fn a_builder_that_goes_on_gives_new_salts() {
        let (probability, heads) = (0.5, Heads::new(1, 1, 4));
        let mut b = GraphBuilder::new();
        let spec = ParamSpec { name: String::new(), rows: 3, cols: 12, init: Init::Constant(0.0), decay: Decay::No };
        let table = b.param("table", spec).unwrap();
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
        let dropout = DropoutSpec { probability, salt: b.salt() };
        let x = b.value_of(Op::Dropout(dropout), &[x]).unwrap();
        let mut b = GraphBuilder::extend(b.finish());
        assert_eq!(b.salt(), 2, "after the salt of a dropout");
        let dropout = DropoutSpec { probability, salt: b.salt() };
        b.apply(Op::Attention { heads, dropout: Some(dropout) }, &[x]).unwrap();
        assert_eq!(GraphBuilder::extend(b.finish()).salt(), 4, "after the salt of an attention");
        assert_eq!(GraphBuilder::new().salt(), 1);
    }
}
