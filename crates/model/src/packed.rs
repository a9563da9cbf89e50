//! A model made ready to run.

use smallmind_graph::{Buffer, Graph, PackedParams, Params};
use smallmind_simd::IsaKind;

use crate::architecture::{self, Purpose};
use crate::{Model, ModelConfig, ModelError};

/// A model whose weights lie as one instruction set reads them: what a [`crate::Session`] runs, and what several can share.
///
/// It can't be saved or trained: that wants a [`Model`].
#[derive(Debug)]
pub struct PackedModel {
    config: ModelConfig,
    graph: Graph,
    weights: PackedParams,
}

impl Model {
    /// Lays the weights out for `isa`, in their place: there is no second copy at any time.
    ///
    /// # Errors
    /// An instruction set that this CPU lacks.
    pub fn pack(self, isa: IsaKind) -> Result<PackedModel, ModelError> {
        let (config, weights) = self.into_parts();
        PackedModel::new(config, weights, isa)
    }
}

impl PackedModel {
    fn new(config: ModelConfig, weights: Buffer, isa: IsaKind) -> Result<Self, ModelError> {
        let graph = architecture::graph(&config, Purpose::Generation)?;
        let weights = PackedParams::new(&graph, isa, weights)?;
        Ok(Self { config, graph, weights })
    }

    /// A model of the same shape with other weights, laid out as [`Model::weights`].
    ///
    /// # Errors
    /// More or fewer weights than it has, or too little memory.
    pub fn with_weights(&self, weights: &[f32]) -> Result<Self, ModelError> {
        let mut copy = Buffer::zeroed(weights.len())?;
        copy.copy_from_slice(weights);
        Self::new(self.config.clone(), copy, self.isa())
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
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        self.graph.params()
    }

    /// The instruction set that can run it.
    pub fn isa(&self) -> IsaKind {
        self.weights.packing().isa()
    }

    /// The values of all parameters, for plans of its graph or of others that read them alike.
    pub fn weights(&self) -> &PackedParams {
        &self.weights
    }
}
