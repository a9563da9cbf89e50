//! A model whose weights are packed for inference.

use std::sync::Arc;

use smallmind_graph::{Graph, ParamStore, Params, Storage};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

use crate::architecture::{self, Purpose};
use crate::{GenerationConfig, Model, ModelConfig, ModelError};

/// A model whose weights are packed for an instruction set. Sessions run it, and several can share it.
///
/// Only a [`Model`] can be saved or trained.
#[derive(Debug)]
pub struct PackedModel {
    config: ModelConfig,
    generation: GenerationConfig,
    graph: Arc<Graph>,
    weights: ParamStore,
}

impl Model {
    /// Packs the weights for `isa` in place, without a second copy.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks.
    pub fn pack(self, isa: IsaKind) -> Result<PackedModel, ModelError> {
        self.pack_as(isa, Format::F32)
    }

    /// [`Model::pack`] that also converts weights of linear layers and token embeddings to another format. Norms,
    /// biases and position embeddings stay F32. Rows that are no whole number of blocks are stored as F16.
    ///
    /// # Errors
    /// As [`Model::pack`]; a weight that the format can't hold; too little memory for both copies during the
    /// conversion.
    pub fn pack_as(self, isa: IsaKind, weights: Format) -> Result<PackedModel, ModelError> {
        let (config, generation, values) = self.into_parts();
        let graph = Arc::new(architecture::graph(&config, Purpose::Generation)?);
        let storage = Arc::new(Storage::of(&graph, isa, weights)?);
        let store = ParamStore::new(graph.params(), storage, values)?;
        Ok(PackedModel::new(config, generation, graph, store))
    }
}

impl PackedModel {
    pub(crate) fn new(
        config: ModelConfig,
        generation: GenerationConfig,
        graph: Arc<Graph>,
        weights: ParamStore,
    ) -> Self {
        Self { config, generation, graph, weights }
    }

    /// A model of the same configuration with other weights, laid out like [`Model::weights`].
    ///
    /// # Errors
    /// Another number of weights than the model's, or too little memory.
    pub fn with_weights(&self, weights: &[f32]) -> Result<Self, ModelError> {
        let weights = ParamStore::of_rows(self.params(), self.storage().clone(), weights)?;
        Ok(Self::new(self.config.clone(), self.generation.clone(), self.graph.clone(), weights))
    }

    /// Replaces the weights; `weights` is laid out like [`Model::weights`].
    ///
    /// # Errors
    /// Another number of weights than the model's.
    pub fn set_weights(&mut self, weights: &[f32]) -> Result<(), ModelError> {
        Ok(self.weights.set(weights)?)
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The `generation_config.json` of the folder that the model was read from; empty if there is none.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// The graph from tokens to logits, with a key-value cache.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        self.graph.params()
    }

    /// The instruction set that the weights are packed for.
    pub fn isa(&self) -> IsaKind {
        self.weights.storage().isa()
    }

    /// Formats and orders of the parameters in memory.
    pub fn storage(&self) -> &Arc<Storage> {
        self.weights.storage()
    }

    /// The values of all parameters, for plans with the same storage.
    pub fn weights(&self) -> &ParamStore {
        &self.weights
    }
}
