//! The cost of a graph's nodes: floating-point operations and bytes, counted from shapes.

use smallmind_kernels::attention::CacheFormat;

use crate::graph::{Graph, Node};
use crate::op::{Cost, Operands};
use crate::{Batch, ParamId, Storage, ValueId};

/// The cost of `node` on `batch`, with parameters in the formats of `storage`, or else in `f32`, and a key-value cache in
/// `cache_format`.
pub fn cost(graph: &Graph, node: &Node, batch: &Batch, storage: Option<&Storage>, cache_format: CacheFormat) -> Cost {
    let size = |value: &ValueId| {
        let shape = graph.shape(*value);
        [shape.rows.resolve(batch.len(), batch.outputs().len()), shape.cols]
    };
    let bytes = |id: &ParamId| match storage {
        Some(storage) => storage.get(*id).bytes(),
        None => graph.params().get(*id).map_or(0, |param| param.len() * 4),
    };
    let info = node.op.info();
    let operands = Operands {
        inputs: node.inputs.iter().map(size).collect(),
        outputs: node.outputs.iter().map(size).collect(),
        params: graph.params(),
        param_bytes: info.params.iter().map(bytes).sum::<usize>() as f64,
        cache_format,
        batch,
    };
    info.cost_of(&operands)
}

#[cfg(test)]
mod tests {
    use smallmind_kernels::Format;
    use smallmind_simd::IsaKind;

    use super::*;
    use crate::op::{Bytes, Heads, Index, Op};
    use crate::{Decay, GraphBuilder, Init, ParamSpec};

    #[test]
    fn a_linear_layer_costs_two_operations_a_weight_and_token() {
        let mut b = GraphBuilder::new();
        let spec =
            |rows, cols| ParamSpec { name: String::new(), rows, cols, init: Init::Constant(0.0), decay: Decay::No };
        let table = b.param("t", spec(10, 8)).unwrap();
        let weight = b.param("w", spec(6, 8)).unwrap();
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
        b.value_of(Op::Linear { weight, bias: None }, &[x]).unwrap();
        let graph = b.finish();
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], 0);
        let found = cost(&graph, &graph.nodes()[1], &batch, None, CacheFormat::F32);
        assert_eq!(found.flops, 2.0 * 3.0 * 48.0 + 18.0);
        assert_eq!(found.bytes(), Bytes { read: 4.0 * (24.0 + 48.0), written: 4.0 * 18.0 });
    }

    /// Rows of 96 elements are three blocks each, and 48 rows are whole strips on every instruction set.
    #[test]
    fn weights_cost_the_bytes_of_their_format() {
        let mut b = GraphBuilder::new();
        let spec =
            |rows| ParamSpec { name: String::new(), rows, cols: 96, init: Init::Constant(0.0), decay: Decay::No };
        let table = b.param("t", spec(64)).unwrap();
        let weight = b.param("w", spec(48)).unwrap();
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
        let y = b.value_of(Op::Linear { weight, bias: None }, &[x]).unwrap();
        b.result("y", y);
        let graph = b.finish();
        let mut batch = Batch::default();
        batch.push(&[1, 2, 3], 0);
        let formats = [
            (Format::F32, 384),
            (Format::F16, 192),
            (Format::Bf16, 192),
            (Format::Q8_0, 102),
            (Format::Q4_0, 54),
            (Format::Q5_1, 72),
            (Format::Mxfp4, 51),
        ];
        for (format, bytes_of_96) in formats {
            let storage = Storage::of(&graph, IsaKind::best(), format).unwrap();
            let found = [0, 1].map(|i| cost(&graph, &graph.nodes()[i], &batch, Some(&storage), CacheFormat::F32));
            let (rows, weight) = (3.0 * f64::from(bytes_of_96), 48.0 * f64::from(bytes_of_96));
            assert_eq!(
                found.map(|cost| cost.weights),
                [rows, weight].map(|read| Bytes { read, written: 0.0 }),
                "{format}"
            );
            assert_eq!(found[1].values, Bytes { read: 4.0 * 3.0 * 96.0, written: 4.0 * 3.0 * 48.0 });
            assert_eq!(found.map(|cost| cost.flops), [0.0, 2.0 * 3.0 * 96.0 * 48.0 + 3.0 * 48.0]);
        }
    }

    /// Each pair is 2 products of 4 features and 4 operations more, for each of 2 query heads.
    #[test]
    fn attention_costs_what_its_windows_see() {
        let attention = |window| Heads { window, ..Heads::new(2, 1, 4) };
        let keys = |past: usize, len: usize, window: usize| {
            (past..past + len).map(|position| (position + 1).min(window)).sum::<usize>() as f64
        };
        for (past, len) in [(0, 1), (0, 5), (3, 4), (9, 2)] {
            for window in [1, 2, 5, 7, 100] {
                let mut b = GraphBuilder::new();
                let spec =
                    ParamSpec { name: String::new(), rows: 10, cols: 16, init: Init::Constant(0.0), decay: Decay::No };
                let table = b.param("t", spec).unwrap();
                let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
                let heads = attention(Some(window));
                b.value_of(Op::CachedAttention { layer: 0, heads }, &[x]).unwrap();
                let graph = b.finish();
                let mut batch = Batch::default();
                batch.push(&vec![1; len], past);
                let found = cost(&graph, &graph.nodes()[1], &batch, None, CacheFormat::F32);
                let pairs = 2.0 * keys(past, len, window);
                assert_eq!((found.flops, found.exponentials), (20.0 * pairs, pairs), "{len} after {past}, {window}");
                let read = past + len - (past + 1).saturating_sub(window);
                assert_eq!(found.cache, Bytes { read: 4.0 * 8.0 * read as f64, written: 0.0 });
                // Four columns of a head are half as many bytes, or a block as any begun one.
                for (format, bytes) in [(CacheFormat::F16, 16), (CacheFormat::Q8_0, 68), (CacheFormat::Q4_0, 36)] {
                    let found = cost(&graph, &graph.nodes()[1], &batch, None, format);
                    assert_eq!(found.cache, Bytes { read: (bytes * read) as f64, written: 0.0 }, "{format}");
                }
            }
        }
    }
}
