//! Measuring an importance matrix: the sums of the squares of what each linear layer is given.

use smallmind_graph::op::Op;
use smallmind_graph::{Batch, Bindings, Executor, Limits, NoProbe, Plan, PlanOptions, Pool, Scalars};

use super::ImportanceMatrix;
use crate::architecture::{self, Purpose};
use crate::tensor_names::FileKind;
use crate::{ModelError, ModelFiles, PackedModel};

/// Runs a model on a text and sums the squares of the inputs of its linear layers.
#[allow(missing_debug_implementations)]
pub struct Calibration<'m> {
    model: &'m PackedModel,
    executor: Executor,
    pool: Pool,
    batch: Batch,
    /// The weight of each linear layer, the result that its input is, and the sums `[columns]`.
    layers: Vec<(String, String, Vec<f64>)>,
    tokens: usize,
}

impl<'m> Calibration<'m> {
    /// Plans runs of up to `context` tokens.
    ///
    /// # Errors
    /// A context beyond the model's; too little memory.
    pub fn new(model: &'m PackedModel, context: usize, threads: usize) -> Result<Self, ModelError> {
        model.config().check_context(context)?;
        let mut graph = architecture::graph(model.config(), Purpose::Logits)?;
        let mut layers = Vec::new();
        let mut inputs = Vec::new();
        for node in graph.nodes() {
            let (Op::Linear { weight, .. }, [input]) = (&node.op, node.inputs.as_slice()) else { continue };
            let Some(spec) = graph.params().get(*weight) else { continue };
            let result = format!("input of {}", spec.name);
            inputs.push((result.clone(), *input));
            layers.push((spec.name.clone(), result, vec![0.0; spec.cols]));
        }
        inputs.iter().for_each(|(result, input)| graph.add_result(result, *input));
        let limits = Limits { tokens: context, outputs: context, spans: 1, context, pages: 0 };
        let plan = Plan::new(graph, PlanOptions::stored(limits, threads, model.storage().clone()))?;
        let (executor, pool) = (Executor::new(plan)?, Pool::new(threads)?);
        Ok(Self { model, executor, pool, batch: Batch::default(), layers, tokens: 0 })
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
        for (_, result, sums) in &mut self.layers {
            let inputs = self.executor.result_slice(result).unwrap_or_default();
            for row in inputs.chunks_exact(sums.len()) {
                sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
            }
            if sums.iter().any(|sum| !sum.is_finite()) {
                return Err(ModelError::NonFinite { sequence: 0, position: tokens.len() });
            }
        }
        self.tokens += tokens.len();
        Ok(())
    }

    /// The matrix of all tokens so far, under the names of the tensors that a GGUF file of the model in `files` has.
    ///
    /// # Errors
    /// A model that GGUF can't express.
    pub fn matrix(&self, files: &ModelFiles) -> Result<ImportanceMatrix, ModelError> {
        let names = files.names_in(self.model.config(), FileKind::Gguf)?;
        let slots = names.slots();
        let of_layer = |(param, _, sums): &(String, String, Vec<f64>)| {
            let sums: Vec<f32> = sums.iter().map(|sum| *sum as f32).collect();
            let of_param = slots.iter().filter(|slot| slot.param == *param);
            of_param.map(|slot| (slot.name.clone(), sums.clone())).collect::<Vec<_>>()
        };
        Ok(ImportanceMatrix::of_sums(self.layers.iter().flat_map(of_layer), self.tokens))
    }
}
