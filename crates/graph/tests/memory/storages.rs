//! Layouts of parameters that a plan, a store or a format can not have.

use super::*;

/// A plan runs on the parameters that lie as it reads them, and on no others.
#[test]
fn parameters_that_lie_otherwise_are_refused() {
    let (graph, batch) = (small(Head::Cached), sequence(&[1], 0, 0));
    let limits = Limits { tokens: 4, outputs: 4, spans: 2, context: 8, pages: 2 };
    let best = IsaKind::best();
    let mut refusals = Refusals::new(graph.clone(), limits, &batch, "logits");
    let mut packed = Refusals::of(Runner::packed(graph.clone(), limits, 2, best), &batch, "logits");
    let params = refusals.memory.params.clone();
    let refuse = |refusals: &mut Refusals, params: ParamMemory<'_>, need: &str, got: &str| {
        let bindings = |m: &mut Memory, run: Run<'_>| {
            run(Bindings { params, grads: None, moments: None, cache: m.cache.as_mut() })
        };
        let error = refusals.refuse_with(&batch, bindings).to_string();
        assert_eq!(error, format!("the plan reads parameters {need}, the run was given parameters {got}"));
    };
    let lie = |isa: IsaKind| Storage::of(&graph, isa, Format::F32).unwrap().to_string();
    assert!(lie(best).starts_with(&format!("2 packed for {}, ", best.name())), "{}", lie(best));
    let flat = "flat, in rows of f32";
    let same = pack(&graph, best, &params);
    refuse(&mut refusals, ParamMemory::Stored(&same), flat, &lie(best));
    refuse(&mut packed, ParamMemory::Shared(&params), &lie(best), flat);
    for &isa in IsaKind::available().iter().filter(|isa| **isa != best) {
        let other = pack(&graph, isa, &params);
        refuse(&mut packed, ParamMemory::Stored(&other), &lie(best), &lie(isa));
    }
}

/// Two graphs with as many parameters and elements, which lie elsewhere.
#[test]
fn parameters_packed_for_another_graph_are_refused() {
    let graph = |[hidden, outputs]: [usize; 2]| {
        let mut b = GraphBuilder::new();
        let table = matrix(&mut b, "wte", 5, 16, 1.0)?;
        let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[])?;
        let weight = matrix(&mut b, "up", hidden, 16, 1.0)?;
        let x = b.value_of(Op::Linear { weight, bias: None }, &[x])?;
        let weight = matrix(&mut b, "head", outputs, hidden, 1.0)?;
        let y = b.value_of(Op::Linear { weight, bias: None }, &[x])?;
        b.result("logits", y);
        Ok::<Graph, GraphError>(b.finish())
    };
    let (one, other) = (graph([32, 16]).unwrap(), graph([16, 48]).unwrap());
    let (limits, batch) = (Limits { tokens: 4, outputs: 4, spans: 2, context: 8, pages: 0 }, sequence(&[1], 0, 0));
    let mut refusals = Refusals::of(Runner::packed(one, limits, 2, IsaKind::best()), &batch, "logits");
    let params = pack(&other, IsaKind::best(), &refusals.memory.params);
    let error = refusals.refuse_with(&batch, |_, run| run(Bindings::stored(&params)));
    assert!(error.to_string().ends_with(", for another graph"), "{error}");
}

#[test]
fn values_of_another_length_are_not_packed() {
    let graph = small(Head::Cached);
    let need = graph.params().layout().len();
    let values = |len| Buffer::zeroed(len).unwrap();
    let storage = Arc::new(Storage::of(&graph, IsaKind::best(), Format::F32).unwrap());
    let error = ParamStore::new(graph.params(), storage.clone(), values(need + 1)).unwrap_err();
    assert!(matches!(error, GraphError::ParamsLen { got, .. } if got == need + 1), "{error}");
    let mut packed = ParamStore::new(graph.params(), storage, values(need)).unwrap();
    assert!(matches!(packed.set(&vec![0.0; need - 1]), Err(GraphError::ParamsLen { .. })));
}

#[test]
fn packing_is_for_products_and_what_looks_rows_up() {
    let held = |graph: &Graph| {
        let storage = Storage::of(graph, IsaKind::best(), Format::F32).unwrap();
        let packed = |id| storage.get(id).is_packed();
        let names = graph.params().iter().filter(|(id, _)| packed(*id)).map(|(_, spec)| spec.name.clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(held(&small(Head::Cached)), ["qkv.weight", "head.weight"]);
    assert_eq!(held(&small(Head::Loss)), ["wte", "qkv.weight"]);
    // Gradients read all of them otherwise.
    assert_eq!(held(&grad(&small(Head::Loss), "loss").unwrap()), [""; 0]);
}

#[test]
fn storages_that_a_plan_can_not_read_and_values_that_a_format_can_not_hold_are_refused() {
    let graph = small(Head::Cached);
    let limits = Limits { tokens: 4, outputs: 4, spans: 2, context: 8, pages: 2 };
    let best = IsaKind::best();
    let storage = Arc::new(Storage::of(&graph, best, Format::Bf16).unwrap());
    for &isa in IsaKind::available().iter().filter(|isa| **isa != best) {
        let options = PlanOptions { isa, ..PlanOptions::stored(limits, 1, storage.clone()) };
        assert!(matches!(Plan::new(graph.clone(), options), Err(GraphError::Storage { .. })), "{isa}");
    }
    // Of training graphs the gradients read weights in rows.
    let training = grad(&small(Head::Loss), "loss").unwrap();
    let of_loss = Arc::new(Storage::of(&small(Head::Loss), best, Format::F32).unwrap());
    let options = PlanOptions::stored(Limits { outputs: 0, pages: 0, ..limits }, 1, of_loss);
    assert!(matches!(Plan::new(training, options), Err(GraphError::Storage { .. })));

    let id = graph.params().find("qkv.weight").unwrap();
    let at = graph.params().layout().offset(id) + 2;
    for format in [Format::F16, Format::Bf16, Format::Q8_0] {
        let storage = Arc::new(Storage::of(&graph, best, format).unwrap());
        let stored = storage.get(id).segments[0].format;
        let mut values = vec![0.25; graph.params().layout().len()];
        let mut store = ParamStore::of_rows(graph.params(), storage, &values).unwrap();
        for bad in [f32::NAN, f32::INFINITY, -2.0 * stored.largest()] {
            values[at] = bad;
            let error = store.set(&values).unwrap_err();
            assert!(matches!(&error, GraphError::Range { param, at: 2, .. } if param == "qkv.weight"), "{error}");
        }
        values[at] = stored.largest();
        store.set(&values).unwrap();
    }
}

#[test]
fn rows_that_can_not_lie_in_several_formats_are_refused() {
    let mut b = GraphBuilder::new();
    let table = matrix(&mut b, "wte", 31, 64, 1.0).unwrap();
    let x = b.value_of(Op::Embedding { table, index: Index::Tokens }, &[]).unwrap();
    let y = Layer::new("odd", x, 50).apply(&mut b).unwrap();
    b.result("y", y);
    let graph = b.finish();
    let of = |name: &str, formats: &[(usize, Format)]| {
        let of_param =
            |spec: &ParamSpec| if spec.name == name { formats.to_vec() } else { vec![(spec.rows, Format::F32)] };
        Storage::by_rows(&graph, IsaKind::best(), of_param)
    };
    let error = |name: &str, formats: &[(usize, Format)]| of(name, formats).unwrap_err().to_string();
    let storage = of("odd.weight", &[(16, Format::F16), (34, Format::F32)]).unwrap();
    let id = graph.params().find("odd.weight").unwrap();
    assert_eq!(storage.get(id).segments.iter().map(|s| s.rows.clone()).collect::<Vec<_>>(), [0..16, 16..50]);
    let none: [(usize, Format); 0] = [];
    let too_many = [(usize::MAX, Format::F16), (51, Format::F16)];
    for formats in [&none[..], &[(51, Format::F16)], &[(50, Format::F16), (0, Format::F32)], &too_many] {
        let error = error("odd.weight", formats);
        assert!(error.ends_with("the parameter has 50 rows"), "{error}");
    }
    assert_eq!(
        error("odd.weight", &[(15, Format::F16), (35, Format::Bf16)]),
        "the rows of `odd.weight` can't be stored as 15 in f16, 35 in bf16: each but the last must be for a multiple \
         of 16 rows"
    );
    let error = error("wte", &[(16, Format::F16), (15, Format::F32)]);
    assert!(error.ends_with("an embedding, a loss or experts read the parameter, which takes one format"), "{error}");
}

/// New values in a store are as good as a new store.
#[test]
fn values_are_replaced_in_every_format() {
    let graph = layer_of_blocks();
    let [old, new] = [1, 2].map(|seed| Memory::new(graph.params(), seed).params);
    for &isa in IsaKind::available() {
        for format in Format::ALL {
            let storage = Arc::new(Storage::of(&graph, isa, format).unwrap());
            let y = |store: &ParamStore| output(&graph, store);
            let of = |values: &[f32]| ParamStore::of_rows(graph.params(), storage.clone(), values).unwrap();
            let mut store = of(&old);
            let before = y(&store);
            store.set(&new).unwrap();
            assert_eq!(y(&store), y(&of(&new)), "{format} on {isa}");
            assert_ne!(y(&store), before, "{format} on {isa}");
        }
    }
}

/// What was being done stands in the message.
#[test]
fn a_storage_of_another_graph_is_refused() {
    let (one, other) = (small(Head::Cached), small(Head::Loss));
    let storage = Arc::new(Storage::of(&one, IsaKind::best(), Format::F32).unwrap());
    let limits = Limits { tokens: 4, outputs: 4, spans: 2, context: 8, pages: 2 };
    let plan = Plan::new(other.clone(), PlanOptions::stored(limits, 1, storage.clone())).map(|_| ()).unwrap_err();
    assert!(plan.to_string().starts_with("the graph to be planned reads parameters "), "{plan}");
    let values = vec![0.0; other.params().layout().len()];
    let store = ParamStore::of_rows(other.params(), storage, &values).map(|_| ()).unwrap_err();
    assert!(store.to_string().starts_with("the storage is for parameters "), "{store}");
    assert!(store.to_string().ends_with("the values to be stored are parameters of another graph"), "{store}");
}
