//! Fusions: the same results in fewer passes over memory.

use crate::graph::{Graph, Node, ValueId};
use crate::op::Op;

/// Applies every fusion. The results and effects of the graph stay the same, up to rounding.
///
/// * *fold addends*: `add(r, linear(x))` becomes `linear(x, r)`, whose kernel adds as it stores; likewise for the
///   gradients of the input of a linear layer and of a norm.
/// * *add + norm*: `s = add(a, b); norm(s)` becomes one pass that writes both.
pub fn fuse(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    fold_addends(&mut graph);
    fuse_add_norm(&mut graph);
    graph.remove_dead_code();
    graph
}

/// Whether `node` can add another value to its first output as it stores it.
fn takes_addend(node: &Node) -> bool {
    node.op.info().takes_addend == Some(node.inputs.len())
}

/// If nothing else reads `y`, replaces `add(r, y)` by the producer of `y` with `r` as its last input.
fn fold_addends(graph: &mut Graph) {
    let uses = graph.use_counts();
    let mut producer: Vec<Option<usize>> = vec![None; graph.shapes.len()];
    let mut folded = Vec::new();
    for i in 0..graph.nodes.len() {
        if graph.nodes[i].op == Op::Add {
            let [a, b] = [graph.nodes[i].inputs[0], graph.nodes[i].inputs[1]];
            let candidate = |y: ValueId| {
                let p = producer[y.index()].filter(|_| uses[y.index()] == 1)?;
                (takes_addend(&graph.nodes[p]) && graph.nodes[p].phase == graph.nodes[i].phase).then_some(p)
            };
            let choice = candidate(b).map(|p| (p, a)).or_else(|| candidate(a).map(|p| (p, b)));
            if let Some((p, addend)) = choice {
                let mut node = graph.nodes[p].clone();
                node.inputs.push(addend);
                node.outputs = graph.nodes[i].outputs.clone();
                graph.nodes[i] = node;
                folded.push(p);
            }
        }
        graph.nodes[i].outputs.iter().for_each(|v| producer[v.index()] = Some(i));
    }
    remove(graph, &folded);
}

/// If the norm is the first reader of `s`, replaces `s = add(a, b)`, `norm(s)` by one node.
fn fuse_add_norm(graph: &mut Graph) {
    let mut fused = Vec::new();
    for i in 0..graph.nodes.len() {
        if graph.nodes[i].op != Op::Add {
            continue;
        }
        let sum = graph.nodes[i].outputs[0];
        let reader = (i + 1..graph.nodes.len()).find(|&j| graph.nodes[j].inputs.contains(&sum));
        let Some(j) = reader else { continue };
        if let Op::Norm(norm) = graph.nodes[j].op {
            let inputs = graph.nodes[i].inputs.clone();
            let node = &mut graph.nodes[j];
            node.op = Op::AddNorm(norm);
            node.outputs.insert(0, sum);
            node.inputs = inputs;
            fused.push(i);
        }
    }
    remove(graph, &fused);
}

/// Removes the nodes at `places`.
fn remove(graph: &mut Graph, places: &[usize]) {
    let mut place = 0..;
    graph.nodes.retain(|_| place.next().is_none_or(|i| !places.contains(&i)));
}
