//! Measuring an importance matrix: the sums of the squares of what each linear layer and each expert is given.

use smallmind_graph::op::{Op, Routing};
use smallmind_graph::{
    Batch, Bindings, Executor, Graph, Limits, NoProbe, ParamId, Plan, PlanOptions, Pool, Scalars, ValueId,
};
use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::experts::{choose, index};

use super::ImportanceMatrix;
use super::importance::Squares;
use crate::architecture::{self, Purpose};
use crate::tensor_names::FileKind;
use crate::{ModelError, ModelFiles, PackedModel};

/// A weight whose inputs are measured.
struct Weight {
    /// The parameter.
    param: String,
    /// The result that its input is: rows of `columns` elements, or of so many for each expert of a token.
    input: String,
    /// The result with the logits of its experts; `None` for one matrix.
    experts: Option<(String, Routing)>,
    columns: usize,
    /// Sums of squares `[matrices, columns]`.
    sums: Vec<f64>,
    /// Rows that the sums are of, `[matrices]`.
    counts: Vec<usize>,
}

impl Weight {
    /// Adds the rows of a run: the input, and the logits of experts.
    fn add(&mut self, input: &[f32], logits: &[f32]) {
        let Self { columns, .. } = *self;
        let Some((_, Routing { experts, per_token, .. })) = self.experts else {
            input.chunks_exact(columns).for_each(|row| self.add_row(0, row));
            return;
        };
        let mut chosen = vec![0.0; per_token];
        let cols = input.len() / (logits.len() / experts).max(1);
        for (logits, row) in logits.chunks_exact(experts).zip(input.chunks_exact(cols.max(1))) {
            choose(logits, &mut chosen);
            // Gates and ups get the token's row, downs a row for each of the token's experts.
            let rows = row.chunks_exact(columns).cycle();
            chosen.iter().zip(rows).for_each(|(expert, row)| self.add_row(index(*expert), row));
        }
    }

    fn add_row(&mut self, matrix: usize, row: &[f32]) {
        let sums = &mut self.sums[matrix * self.columns..][..self.columns];
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
        self.counts[matrix] += 1;
    }
}

/// The weights of a graph for [`Purpose::Importance`], whose inputs become results.
fn weights(graph: &mut Graph) -> Vec<Weight> {
    let mut results: Vec<(String, ValueId)> = Vec::new();
    let mut result = |name: String, value: ValueId| {
        results.push((name.clone(), value));
        name
    };
    let mut weights = Vec::new();
    let mut weight = |id: ParamId, input: ValueId, experts: Option<(ValueId, Routing)>| {
        let Some(spec) = graph.params().get(id) else { return };
        let matrices = experts.map_or(1, |(_, routing)| routing.experts);
        weights.push(Weight {
            param: spec.name.clone(),
            input: result(format!("input of {}", spec.name), input),
            experts: experts.map(|(logits, routing)| (result(format!("experts of {}", spec.name), logits), routing)),
            columns: spec.cols,
            sums: vec![0.0; matrices * spec.cols],
            counts: vec![0; matrices],
        });
    };
    for node in graph.nodes() {
        match (&node.op, &node.inputs[..], &node.outputs[..]) {
            (Op::Linear { weight: id, .. }, [input, ..], _) => weight(*id, *input, None),
            (Op::Experts(experts), [input, logits], [_, active]) => {
                weight(experts.gate_up, *input, Some((*logits, experts.routing)));
                weight(experts.down, *active, Some((*logits, experts.routing)));
            }
            _ => {}
        }
    }
    results.iter().for_each(|(name, value)| graph.add_result(name, *value));
    weights
}

/// Runs a model on a text and sums the squares of the inputs of its linear layers and experts.
#[allow(missing_debug_implementations)]
pub struct Calibration<'m> {
    model: &'m PackedModel,
    executor: Executor,
    pool: Pool,
    batch: Batch,
    weights: Vec<Weight>,
}

impl<'m> Calibration<'m> {
    /// Plans runs of up to `context` tokens.
    ///
    /// # Errors
    /// A context beyond the model's; too little memory.
    pub fn new(model: &'m PackedModel, context: usize, threads: usize) -> Result<Self, ModelError> {
        model.config().check_context(context)?;
        let mut graph = architecture::graph(model.config(), Purpose::Importance)?;
        let weights = weights(&mut graph);
        let limits = Limits { tokens: context, outputs: context, spans: 1, context, pages: 0 };
        let plan = Plan::new(graph, PlanOptions::stored(limits, threads, model.storage().clone()))?;
        let (executor, pool) = (Executor::new(plan)?, Pool::new(threads)?);
        Ok(Self { model, executor, pool, batch: Batch::default(), weights })
    }

    /// Adds a sequence of tokens, at most as many as the context.
    ///
    /// # Errors
    /// Tokens beyond the context or the vocabulary; activations that are not finite.
    pub fn add(&mut self, tokens: &[u32]) -> Result<(), ModelError> {
        self.batch.clear();
        self.batch.push(tokens, 0);
        self.batch.want_span();
        let bindings = Bindings::stored(self.model.weights());
        self.executor.run(&mut self.pool, &self.batch, &Scalars::default(), bindings, &NoProbe)?;
        let result = |name: &str| self.executor.result_slice(name).unwrap_or_default();
        for weight in &mut self.weights {
            let logits = weight.experts.as_ref().map_or(&[][..], |(logits, _)| result(logits));
            weight.add(result(&weight.input), logits);
            if weight.sums.iter().any(|sum| !sum.is_finite()) {
                return Err(ModelError::NonFinite {
                    sequence: 0,
                    position: tokens.len(),
                    cache_format: CacheFormat::F32,
                });
            }
        }
        Ok(())
    }

    /// The matrix of all tokens so far, under the names of the tensors that a GGUF file of the model in `files` has.
    ///
    /// # Errors
    /// A model that GGUF can't express.
    pub fn matrix(&self, files: &ModelFiles) -> Result<ImportanceMatrix, ModelError> {
        let names = files.names_in(self.model.config(), FileKind::Gguf)?;
        let slots = names.slots();
        let of_weight = |weight: &Weight| {
            let squares = Squares {
                sums: weight.sums.iter().map(|sum| *sum as f32).collect(),
                counts: weight.counts.iter().map(|count| *count as f32).collect(),
            };
            let of_param = slots.iter().filter(|slot| slot.param == weight.param);
            of_param.map(|slot| (slot.name.clone(), squares.clone())).collect::<Vec<_>>()
        };
        Ok(ImportanceMatrix::new(self.weights.iter().flat_map(of_weight).collect()))
    }
}

#[cfg(test)]
mod tests {
    use smallmind_checkpoint::{GgufData, GgufValue, GgufWriter};
    use smallmind_graph::interpret::Interpreter;
    use smallmind_kernels::FormatKind;
    use smallmind_kernels::reference::experts::choices;
    use smallmind_simd::IsaKind;

    use super::super::{ExportOptions, GgufExport, WeightMix};
    use super::*;
    use crate::chat::ChatTemplates;
    use crate::{ExpertsConfig, Family, Head, LoadOptions, Model, ModelConfig};

    const CHOICE: ExpertsConfig = ExpertsConfig { count: 5, per_token: 2, sums_to_one: true };
    const TEXTS: [&[u32]; 2] = [&[1, 5, 3, 9, 9, 2, 7], &[4, 0, 8, 10]];

    fn model(family: Family, experts: Option<ExpertsConfig>) -> Model {
        let config = family.applied_to(ModelConfig {
            vocab_size: 11,
            context: 32,
            d_model: 32,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            d_ff: 64,
            experts,
            head: Head::Untied,
            init_std: 0.2,
            ..ModelConfig::default()
        });
        Model::random(config, 3).unwrap()
    }

    /// Sums and counts of the weights of a graph, from the values in `f64` and the mixture's own choices.
    fn expected(model: &Model) -> Vec<(Vec<f64>, Vec<usize>)> {
        let mut graph = architecture::graph(model.config(), Purpose::Importance).unwrap();
        let weights = weights(&mut graph);
        let mut found: Vec<_> =
            weights.iter().map(|weight| (vec![0.0; weight.sums.len()], vec![0; weight.counts.len()])).collect();
        for text in TEXTS {
            let mut batch = Batch::default();
            batch.push(text, 0);
            batch.want_span();
            let mut interpreter = Interpreter::new(&graph, model.weights()).unwrap();
            interpreter.run(&graph, &batch, &Scalars::default());
            for (weight, (sums, counts)) in weights.iter().zip(&mut found) {
                let input = interpreter.result(&graph, &weight.input).unwrap();
                for t in 0..input.rows {
                    let chosen = weight.experts.as_ref().map_or(vec![0], |(logits, routing)| {
                        let logits = interpreter.result(&graph, logits).unwrap();
                        choices(logits.row(t), *routing).into_iter().map(|(expert, _)| expert).collect()
                    });
                    let own = input.cols > weight.columns;
                    for (place, expert) in chosen.into_iter().enumerate() {
                        let first = if own { place * weight.columns } else { 0 };
                        for column in 0..weight.columns {
                            sums[expert * weight.columns + column] += input.row(t)[first + column].powi(2);
                        }
                        counts[expert] += 1;
                    }
                }
            }
        }
        found
    }

    #[test]
    fn the_squares_of_what_layers_and_experts_are_given() {
        // Two weights of attention and two of the MLP in each of two layers, with a router before experts; and the head.
        for (family, experts, count) in [(Family::Mixtral, Some(CHOICE), 11), (Family::Llama, None, 9)] {
            let model = model(family, experts);
            let expected = expected(&model);
            let packed = model.pack(IsaKind::best()).unwrap();
            let mut calibration = Calibration::new(&packed, 16, 2).unwrap();
            TEXTS.iter().for_each(|text| calibration.add(text).unwrap());
            assert_eq!(calibration.weights.len(), count, "{family}");
            for (weight, (sums, counts)) in calibration.weights.iter().zip(expected) {
                assert_eq!(weight.counts, counts, "{family}: {}", weight.param);
                for (x, y) in weight.sums.iter().zip(sums) {
                    assert!((x - y).abs() <= 1e-4 * y.abs().max(1e-3), "{family}: {}: {x} is not {y}", weight.param);
                }
            }
        }
    }

    #[test]
    fn experts_are_quantized_by_their_own_importance() {
        let model = model(Family::Mixtral, Some(CHOICE));
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let options = |mix, importance| ExportOptions { mix, overrides: vec![], importance, threads: 2 };
        let write = |files: &ModelFiles, name: &str, mix, importance| {
            let export = GgufExport::new(files, LoadOptions::default(), options(mix, importance)).unwrap();
            let mut out = std::fs::File::create(path(name)).unwrap();
            export.write("mixture", None, &ChatTemplates::new(), &mut out, &|_| {}).unwrap();
            ModelFiles::open(path(name)).unwrap()
        };
        std::fs::create_dir(path("folder")).unwrap();
        model.save(path("folder")).unwrap();
        let plain = write(&ModelFiles::open(path("folder")).unwrap(), "plain.gguf", WeightMix::F32, None);
        let packed = model.pack(IsaKind::best()).unwrap();
        let mut calibration = Calibration::new(&packed, 16, 1).unwrap();
        TEXTS.iter().for_each(|text| calibration.add(text).unwrap());
        let matrix = calibration.matrix(&plain).unwrap();
        let mut out = std::fs::File::create(path("imatrix.gguf")).unwrap();
        matrix.write(&["text".to_owned()], (2, 16), &mut out).unwrap();
        let read = ImportanceMatrix::open(path("imatrix.gguf")).unwrap();
        assert_eq!(read, matrix);
        let quantized = write(&plain, "quantized.gguf", WeightMix::Q4_0, Some(&read));
        let export = GgufExport::new(&plain, LoadOptions::default(), options(WeightMix::Q4_0, Some(&read))).unwrap();
        for (part, param, rows, cols) in
            [("gate", "gate_up", 64, 32), ("up", "gate_up", 64, 32), ("down", "down", 32, 64)]
        {
            let name = format!("blk.1.ffn_{part}_exps.weight");
            let find = |weight: &&Weight| {
                weight.param.contains("blocks.1") && weight.param.contains(&format!("experts.{param}"))
            };
            let weight = calibration.weights.iter().find(find).unwrap();
            let tensor = quantized.weights().tensor(&name).unwrap();
            let (mut bytes, mut values) = (vec![0; tensor.bytes as usize], vec![0.0; 5 * rows * cols]);
            quantized.weights().read_at(&name, 0, &mut bytes).unwrap();
            plain.weights().read_rows_f32(&name, 0, &mut values).unwrap();
            let format = export.tensors().iter().find(|tensor| tensor.name == name).unwrap().to;
            assert_eq!(format.kind(), FormatKind::Blocks);
            let mut wanted = vec![0; format.row_bytes(cols).unwrap()];
            for (row, values) in values.chunks_exact(cols).enumerate() {
                let expert = row / rows;
                let count = weight.counts[expert];
                let of_expert = &weight.sums[expert * cols..][..cols];
                let means: Vec<f32> =
                    of_expert.iter().map(|sum| if count == 0 { 1.0 } else { *sum as f32 / count as f32 }).collect();
                format.pack(values, Some(&means), &mut wanted);
                let written = &bytes[row * wanted.len()..][..wanted.len()];
                assert_eq!(written, wanted, "{name}, row {row}");
            }
        }
        // Of another number of experts.
        let mut other = GgufWriter::new();
        other.set("general.type", GgufValue::String("imatrix".into())).unwrap();
        let (sums, counts) = ([1.0; 4 * 64], [1.0; 4]);
        let name = "blk.1.ffn_down_exps.weight";
        other.add(&format!("{name}.in_sum2"), &[4, 64], GgufData::F32(&sums)).unwrap();
        other.add(&format!("{name}.counts"), &[4, 1], GgufData::F32(&counts)).unwrap();
        other.write_file(path("other.gguf")).unwrap();
        let other = ImportanceMatrix::open(path("other.gguf")).unwrap();
        let error =
            GgufExport::new(&plain, LoadOptions::default(), options(WeightMix::Q4_0, Some(&other))).unwrap_err();
        assert!(error.to_string().contains("4 × 64 numbers") && error.to_string().contains("5 × 64"), "{error}");
    }
}
