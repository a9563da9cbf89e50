//! A model made ready to run.

use std::sync::Arc;

use smallmind_graph::{Buffer, Graph, ParamStore, Params, Storage};
use smallmind_kernels::Format;
use smallmind_simd::IsaKind;

use crate::architecture::{self, Purpose};
use crate::{Model, ModelConfig, ModelError};

/// A model whose weights lie as one instruction set reads them: what a [`crate::Session`] runs, and what several can share.
///
/// It can't be saved or trained: that wants a [`Model`].
#[derive(Debug)]
pub struct PackedModel {
    config: ModelConfig,
    graph: Arc<Graph>,
    weights: ParamStore,
}

impl Model {
    /// Lays the weights out for `isa`, in their place: there is no second copy at any time.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks.
    pub fn pack(self, isa: IsaKind) -> Result<PackedModel, ModelError> {
        self.pack_as(isa, Format::F32)
    }

    /// [`Model::pack`] with weights converted to another format: those that linear layers multiply, and tables of embeddings. Norms, biases and
    /// position embeddings stay `f32`; rows that are not whole blocks of the format are stored as F16.
    ///
    /// # Errors
    /// As [`Model::pack`]; a weight that the format can't hold; too little memory for the converted weights beside those that are converted.
    pub fn pack_as(self, isa: IsaKind, weights: Format) -> Result<PackedModel, ModelError> {
        let (config, values) = self.into_parts();
        let graph = Arc::new(architecture::graph(&config, Purpose::Generation)?);
        let storage = Arc::new(Storage::of(&graph, isa, weights)?);
        PackedModel::new(config, graph, storage, values)
    }

    /// A copy of the weights for plans of its graph for `purpose`, in another format: see [`Model::pack_as`].
    ///
    /// # Errors
    /// As [`Model::pack_as`].
    pub fn store_for(&self, purpose: Purpose, isa: IsaKind, weights: Format) -> Result<ParamStore, ModelError> {
        let graph = architecture::graph(self.config(), purpose)?;
        let storage = Arc::new(Storage::of(&graph, isa, weights)?);
        Ok(ParamStore::of_rows(graph.params(), storage, self.weights())?)
    }
}

impl PackedModel {
    fn new(config: ModelConfig, graph: Arc<Graph>, storage: Arc<Storage>, values: Buffer) -> Result<Self, ModelError> {
        let weights = ParamStore::new(graph.params(), storage, values)?;
        Ok(Self { config, graph, weights })
    }

    /// A model of the same shape with other weights, laid out as [`Model::weights`].
    ///
    /// # Errors
    /// More or fewer weights than it has, or too little memory.
    pub fn with_weights(&self, weights: &[f32]) -> Result<Self, ModelError> {
        let (config, graph) = (self.config.clone(), self.graph.clone());
        let weights = ParamStore::of_rows(graph.params(), self.storage().clone(), weights)?;
        Ok(Self { config, graph, weights })
    }

    /// Gives it other weights, laid out as [`Model::weights`].
    ///
    /// # Errors
    /// More or fewer weights than it has.
    pub fn set_weights(&mut self, weights: &[f32]) -> Result<(), ModelError> {
        Ok(self.weights.set(weights)?)
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The graph from tokens to logits, by way of a key-value cache.
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        self.graph.params()
    }

    /// The instruction set that can run it.
    pub fn isa(&self) -> IsaKind {
        self.weights.storage().isa()
    }

    /// How the parameters lie.
    pub fn storage(&self) -> &Arc<Storage> {
        self.weights.storage()
    }

    /// The values of all parameters, for plans of its graph or of others that read them alike.
    pub fn weights(&self) -> &ParamStore {
        &self.weights
    }
}
