//! Rows of parameters that are set from the blocks of a file.

use std::ops::Range;
use std::sync::Arc;

use smallmind_graph::op::Index;
use smallmind_graph::{
    Bindings, Graph, GraphBuilder, GraphError, Limits, Op, ParamId, ParamSpec, ParamStore, Scalars, Storage,
};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

use crate::common::build::{Layer, matrix};
use crate::common::close::bits;
use crate::common::memory::{Memory, Runner};
use crate::sequence;

/// A graph of an embedding and a layer of 50 rows, all of 256 elements.
pub(super) fn layer_of_blocks() -> Graph {
    let mut b = GraphBuilder::new();
    let table = matrix(&mut b, "wte", 33, 256, 1.0).unwrap();
    let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
    let y = Layer::new("odd", x, 50).bias(true).apply(&mut b).unwrap();
    b.result("y", y);
    b.finish()
}

/// The output of [`layer_of_blocks`] on some tokens.
pub(super) fn output(graph: &Graph, store: &ParamStore) -> Vec<u32> {
    let limits = Limits { tokens: 4, outputs: 0, spans: 1, context: 4, pages: 0 };
    let mut runner = Runner::on(graph.clone(), limits, 1, (**store.storage()).clone());
    let batch = sequence(&[0, 32, 7], 0, 0);
    runner.try_run(&batch, &Scalars::default(), Bindings::stored(store)).unwrap();
    bits(&runner.result("y"))
}

/// Sets rows of a parameter of an undivided store.
fn set(
    store: &mut ParamStore,
    id: ParamId,
    rows: Range<usize>,
    format: Format,
    bytes: &[u8],
) -> Result<(), GraphError> {
    store.divide(|_| vec![]).swap_remove(id.index()).set(rows, format, bytes)
}

/// Blocks that are set, in pieces and in any order, are those into which the store packs `f32`; blocks of another
/// format are packed again, as `f32` with their values is.
#[test]
fn blocks_are_stored_as_they_are() {
    let graph = layer_of_blocks();
    let values = Memory::new(graph.params(), 1).params;
    let layout = graph.params().layout();
    for &isa in IsaKind::available() {
        for format in Format::ALL {
            for of_file in [format, Format::Q5_0] {
                let storage = Arc::new(Storage::of(&graph, isa, format).unwrap());
                let mut store = ParamStore::zeroed(graph.params(), storage.clone()).unwrap();
                let mut unpacked = values.clone();
                for (id, spec) in graph.params().iter() {
                    // Biases are rows of floats.
                    let of_file = if spec.rows == 1 { Format::F32 } else { of_file };
                    let rows = &mut unpacked[layout.offset(id)..][..spec.len()];
                    let mut bytes = vec![0; spec.rows * of_file.row_bytes(spec.cols).unwrap()];
                    let row_bytes = bytes.len() / spec.rows;
                    for (bytes, row) in bytes.chunks_exact_mut(row_bytes).zip(rows.chunks_exact_mut(spec.cols)) {
                        of_file.pack(row, None, bytes);
                        if of_file != format {
                            of_file.unpack(bytes, row);
                        }
                    }
                    let cut = spec.rows / 3;
                    set(&mut store, id, cut..spec.rows, of_file, &bytes[cut * row_bytes..]).unwrap();
                    set(&mut store, id, 0..cut, of_file, &bytes[..cut * row_bytes]).unwrap();
                }
                let want = ParamStore::of_rows(graph.params(), storage, &unpacked).unwrap();
                assert_eq!(output(&graph, &store), output(&graph, &want), "{of_file} as {format} on {isa}");
            }
        }
    }
}

/// A weight whose rows differ in format takes rows of one format across its segments.
#[test]
fn blocks_are_stored_across_segments() {
    let graph = layer_of_blocks();
    let id = graph.params().find("odd.weight").unwrap();
    let formats = [(16, Format::Q4K), (32, Format::F32), (2, Format::Q6K)];
    let of =
        |spec: &ParamSpec| if spec.name == "odd.weight" { formats.to_vec() } else { vec![(spec.rows, Format::F32)] };
    let storage = Arc::new(Storage::by_rows(&graph, IsaKind::best(), of).unwrap());
    let mut values = Memory::new(graph.params(), 1).params;
    let mut store = ParamStore::of_rows(graph.params(), storage.clone(), &values).unwrap();
    let rows = &mut values[graph.params().layout().offset(id)..][..50 * 256];
    let row_bytes = Format::Q4K.row_bytes(256).unwrap();
    let mut bytes = vec![0; 40 * row_bytes];
    for (bytes, row) in bytes.chunks_exact_mut(row_bytes).zip(rows[9 * 256..].chunks_exact_mut(256)) {
        row.iter_mut().for_each(|x| *x = -*x);
        Format::Q4K.pack(row, None, bytes);
    }
    set(&mut store, id, 9..49, Format::Q4K, &bytes).unwrap();
    // What leaves Q4_K is unpacked.
    for (row, bytes) in (9..49).zip(bytes.chunks_exact(row_bytes)).filter(|(row, _)| *row >= 16) {
        Format::Q4K.unpack(bytes, &mut rows[row * 256..(row + 1) * 256]);
    }
    let want = ParamStore::of_rows(graph.params(), storage, &values).unwrap();
    assert_eq!(output(&graph, &store), output(&graph, &want));
}

/// A weight in blocks of one format, row after row.
fn packed(format: Format, rows: &[f32], cols: usize) -> Vec<u8> {
    let row_bytes = format.row_bytes(cols).unwrap();
    let mut bytes = vec![0; rows.len() / cols * row_bytes];
    bytes
        .chunks_exact_mut(row_bytes)
        .zip(rows.chunks_exact(cols))
        .for_each(|(bytes, row)| format.pack(row, None, bytes));
    bytes
}

/// A divided store holds what an undivided one does, whatever the order in which its rows are set. It is not divided
/// within a strip.
#[test]
fn a_store_is_divided_between_strips() {
    let graph = layer_of_blocks();
    let [table, id, bias] = ["wte", "odd.weight", "odd.bias"].map(|name| graph.params().find(name).unwrap());
    let values = Memory::new(graph.params(), 1).params;
    let layout = graph.params().layout();
    let (q4_0, q6_k, f16, f32) = (Format::Q4_0, Format::Q6K, Format::F16, Format::F32);
    for &isa in IsaKind::available() {
        for segments in [vec![(50, q4_0)], vec![(50, f16)], vec![(50, f32)], vec![(16, f16), (16, q6_k), (18, f32)]] {
            let formats = |spec: &ParamSpec| if spec.rows == 50 { segments.clone() } else { vec![(spec.rows, f32)] };
            let storage = Arc::new(Storage::by_rows(&graph, isa, formats).unwrap());
            let mut store = ParamStore::zeroed(graph.params(), storage.clone()).unwrap();
            let mut divided = store.divide(|id| if id == bias { vec![] } else { vec![0, 5, 16, 17, 32, 48, 50, 70] });
            let of =
                |id| divided.iter().filter(move |rows| rows.id() == id).map(|rows| rows.rows()).collect::<Vec<_>>();
            assert_eq!(of(id), [0..16, 16..32, 32..48, 48..50], "{segments:?} on {isa}");
            assert_eq!(of(table), [0..5, 5..16, 16..17, 17..32, 32..33], "a table of floats lies in rows");
            assert_eq!(of(bias).len(), 1, "a parameter of one row stays whole");
            for rows in divided.iter_mut().rev() {
                let (all, cols) = (rows.rows(), rows.spec().cols);
                let of_rows = &values[layout.offset(rows.id()) + all.start * cols..][..all.len() * cols];
                rows.set(all, f32, &packed(f32, of_rows, cols)).unwrap();
            }
            let want = ParamStore::of_rows(graph.params(), storage, &values).unwrap();
            assert_eq!(output(&graph, &store), output(&graph, &want), "{segments:?} on {isa}");
        }
    }
}

#[test]
fn blocks_that_can_not_be_rows_are_refused() {
    let graph = layer_of_blocks();
    let id = graph.params().find("odd.weight").unwrap();
    let bias = graph.params().find("odd.bias").unwrap();
    let storage = Arc::new(Storage::of(&graph, IsaKind::best(), Format::Q4K).unwrap());
    let mut store = ParamStore::zeroed(graph.params(), storage).unwrap();
    let before = output(&graph, &store);
    let mut error = |id, rows, format, bytes: &[u8]| set(&mut store, id, rows, format, bytes).unwrap_err().to_string();
    let of = "of `odd.weight` can't be set from";
    assert_eq!(
        error(id, 48..51, Format::Q4K, &[0; 3 * 144]),
        format!("rows 48..51 {of} 432 bytes in q4_k: only rows 0..50 can be set")
    );
    assert_eq!(
        error(id, 3..5, Format::Q4K, &[0; 143]),
        format!("rows 3..5 {of} 143 bytes in q4_k: 2 rows of 256 elements have 144 bytes each")
    );
    let backwards = Range { start: 5, end: 3 };
    assert!(error(id, backwards, Format::Q4K, &[]).ends_with("only rows 0..50 can be set"));
    let error = error(bias, 0..1, Format::Q4_0, &[0; 18]);
    assert!(error.ends_with("rows of 50 elements are not whole blocks of 32"), "{error}");
    assert_eq!(output(&graph, &store), before, "nothing has changed");
    // A value that fits into the file's format and not into that of the store.
    let storage = Arc::new(Storage::of(&graph, IsaKind::best(), Format::F16).unwrap());
    let mut store = ParamStore::zeroed(graph.params(), storage).unwrap();
    let mut bytes = vec![0; 1024];
    Format::F32.pack(&[1e6; 256], None, &mut bytes);
    let error = set(&mut store, id, 7..8, Format::F32, &bytes).unwrap_err();
    assert!(matches!(error, GraphError::Range { at: 1792, format: Format::F16, .. }), "{error}");
}
