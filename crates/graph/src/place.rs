//! Where each value is stored: liveness first, then offsets into one arena.

use std::ops::Range;

use crate::access::{Space, View};
use crate::graph::Graph;
use crate::{GraphError, Limits, Rows, ValueId};

/// Elements to which values are aligned: 64 bytes.
pub(crate) const ALIGN: usize = 16;

/// Where a value is stored in the arena, and when it is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The value, or none for memory that only its node uses.
    pub value: Option<ValueId>,
    /// Its elements in the arena.
    pub elements: Range<usize>,
    /// Indices of the nodes while it is alive: from the first that touches it to the last, the end excluded.
    pub alive: Range<usize>,
}

/// Where values and temporaries are stored in the arena.
pub(crate) struct Placed {
    /// The view of each value that is produced; others have none.
    pub(crate) views: Vec<Option<View>>,
    /// The view of each node's temporary, if it has one.
    pub(crate) temporaries: Vec<Option<View>>,
    pub(crate) placements: Vec<Placement>,
    pub(crate) len: usize,
}

/// Places every value of `graph` for batches within `limits`, and each node's temporary, given as rows and columns.
///
/// The largest is placed first. Each takes the lowest offset at which it overlaps no placed value that is alive at the
/// same time ("greedy by size": Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020).
pub(crate) fn place(
    graph: &Graph,
    limits: &Limits,
    temporaries: &[Option<(usize, usize)>],
) -> Result<Placed, GraphError> {
    let mut wanted = lifetimes(graph, limits)?;
    for (i, temporary) in temporaries.iter().enumerate() {
        if let Some((rows, cols)) = *temporary {
            wanted.push(Wanted {
                owner: Owner::Node(i),
                rows: Rows::Fixed(rows),
                cols,
                len: size(rows, cols)?,
                alive: i..i + 1,
            });
        }
    }
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(wanted[*i].len), *i));

    let mut placed: Vec<(Range<usize>, usize)> = Vec::with_capacity(wanted.len());
    let mut map = Placed {
        views: vec![None; graph.value_count()],
        temporaries: vec![None; graph.nodes.len()],
        placements: Vec::with_capacity(wanted.len()),
        len: 0,
    };
    for i in order {
        let want = &wanted[i];
        let offset = lowest_gap(&placed, &wanted, want);
        let end = offset.checked_add(want.len).ok_or(GraphError::OutOfMemory { bytes: usize::MAX })?;
        let at = placed.partition_point(|(r, _)| r.start <= offset);
        placed.insert(at, (offset..end, i));
        let view = View::new(Space::Arena, offset, want.rows, want.cols);
        let value = match want.owner {
            Owner::Value(v) => {
                map.views[v.index()] = Some(view);
                Some(v)
            }
            Owner::Node(n) => {
                map.temporaries[n] = Some(view);
                None
            }
        };
        map.placements.push(Placement { value, elements: offset..end, alive: want.alive.clone() });
        map.len = map.len.max(end);
    }
    debug_assert!(disjoint(&map.placements), "two live values share memory");
    Ok(map)
}

enum Owner {
    Value(ValueId),
    Node(usize),
}

struct Wanted {
    owner: Owner,
    rows: Rows,
    cols: usize,
    len: usize,
    alive: Range<usize>,
}

/// Elements of a value, rounded up to [`ALIGN`].
fn size(rows: usize, cols: usize) -> Result<usize, GraphError> {
    let bytes = rows.saturating_mul(cols).saturating_mul(size_of::<f32>());
    let len = rows.checked_mul(cols).and_then(|n| n.checked_next_multiple_of(ALIGN));
    len.filter(|n| *n < isize::MAX as usize / 16).ok_or(GraphError::OutOfMemory { bytes })
}

/// A value lives from the node that makes it to the last node that reads it; a result lives to the end.
fn lifetimes(graph: &Graph, limits: &Limits) -> Result<Vec<Wanted>, GraphError> {
    let mut alive: Vec<Option<Range<usize>>> = vec![None; graph.value_count()];
    for (i, node) in graph.nodes.iter().enumerate() {
        for v in &node.outputs {
            alive[v.index()] = Some(i..i + 1);
        }
        for v in &node.inputs {
            if let Some(range) = &mut alive[v.index()] {
                range.end = i + 1;
            }
        }
    }
    for (_, v) in &graph.results {
        if let Some(range) = &mut alive[v.index()] {
            range.end = graph.nodes.len();
        }
    }
    let mut wanted = Vec::new();
    for (i, alive) in alive.into_iter().enumerate() {
        let Some(alive) = alive else { continue };
        let value = ValueId(i as u32);
        let shape = graph.shape(value);
        let rows = shape.rows.resolve(limits.tokens, limits.outputs);
        let len = size(rows, shape.cols)?;
        wanted.push(Wanted { owner: Owner::Value(value), rows: shape.rows, cols: shape.cols, len, alive });
    }
    Ok(wanted)
}

/// The lowest offset at which `want` overlaps no placed value of its lifetime. `placed` is sorted by offset.
fn lowest_gap(placed: &[(Range<usize>, usize)], wanted: &[Wanted], want: &Wanted) -> usize {
    let mut offset = 0;
    for (range, other) in placed {
        let other = &wanted[*other].alive;
        let together = other.start < want.alive.end && want.alive.start < other.end;
        if !together || range.end <= offset {
            continue;
        }
        if offset + want.len <= range.start {
            break;
        }
        offset = range.end;
    }
    offset
}

/// Whether no two values that are alive together share an element.
fn disjoint(placements: &[Placement]) -> bool {
    let meet = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
    placements
        .iter()
        .enumerate()
        .all(|(i, a)| placements[..i].iter().all(|b| !(meet(&a.alive, &b.alive) && meet(&a.elements, &b.elements))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_memory_are_told_in_bytes() {
        assert_eq!(size(3, 5).unwrap(), ALIGN);
        let bytes = |rows, cols| match size(rows, cols) {
            Err(GraphError::OutOfMemory { bytes }) => bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(bytes(1 << 58, 2), 1 << 61);
        assert_eq!(bytes(1 << 60, 16), usize::MAX);
    }
}
