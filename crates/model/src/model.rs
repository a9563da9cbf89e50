//! A model in memory: configuration, parameters and weights.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;
use smallmind_checkpoint::{CONFIG_FILE, CheckpointError, TensorData, TensorWriter, WEIGHTS_FILE, write_file_atomic};
use smallmind_graph::{Buffer, FlatLayout, Init, ParamId, Params};
use smallmind_kernels::dropout::philox4x32;

use crate::architecture;
use crate::tensor_names::{Orientation, TensorNames, TensorSlot};
use crate::{DropoutConfig, GenerationConfig, ModelConfig, ModelError};

/// A tensor as in a file: name, shape and elements.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// A model: configuration, parameters, and their values in a buffer of `f32`.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    params: Params,
    layout: FlatLayout,
    weights: Buffer,
    generation: GenerationConfig,
}

impl Model {
    /// A model whose parameters are all zero.
    pub(crate) fn zeroed(config: ModelConfig) -> Result<Self, ModelError> {
        config.check()?;
        let params = architecture::params(&config)?;
        let layout = params.layout();
        let weights = Buffer::zeroed(layout.len())?;
        Ok(Self { config, params, layout, weights, generation: GenerationConfig::default() })
    }

    /// A model with random weights, each parameter as its [`Init`] says. The weights depend only on `seed`, not on the
    /// machine.
    ///
    /// # Errors
    /// The configuration isn't a valid model, or there is too little memory.
    pub fn random(config: ModelConfig, seed: u64) -> Result<Self, ModelError> {
        let mut model = Self::zeroed(config)?;
        for (id, spec) in model.params.iter() {
            let range = model.layout.offset(id)..model.layout.offset(id) + spec.len();
            match spec.init {
                Init::Constant(value) => model.weights[range].fill(value),
                Init::Normal { std } => normal(&mut model.weights[range], std, seed, id.index() as u32),
            }
        }
        Ok(model)
    }

    /// The elements of a slot in the flat buffer.
    fn slot_range(&self, slot: &TensorSlot) -> Range<usize> {
        let found = self.params.find(&slot.param).and_then(|id| Some((id, self.params.get(id)?)));
        let Some((id, spec)) = found else {
            unreachable!("the graph declares no parameter `{}`, which the names of tensors refer to", slot.param)
        };
        let (start, elements) = (self.layout.offset(id), slot.elements(spec.cols));
        start + elements.start..start + elements.end
    }

    /// Writes `config.json` and `model.safetensors` into the existing folder `dir`; each appears complete or not at
    /// all.
    ///
    /// # Errors
    /// A disk that is full, read-only or fails; [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<(), ModelError> {
        let dir = dir.as_ref();
        self.with_writer(|writer| write_file_atomic(dir.join(WEIGHTS_FILE), |out| writer.write_to(out)))?;
        let config = self.config_bytes()?;
        write_file_atomic(dir.join(CONFIG_FILE), |out| out.write_all(&config))?;
        Ok(())
    }

    /// The bytes of `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::to_json`].
    pub fn config_bytes(&self) -> Result<Vec<u8>, ModelError> {
        Ok(pretty(&self.config.to_json()?))
    }

    /// Calls `write` with the tensors of `model.safetensors`, under Hugging Face's names. The writer borrows the
    /// weights and transposes while it writes, so the memory that writing takes does not grow with the model.
    ///
    /// # Errors
    /// The errors of `write`; [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
    pub fn with_writer<R>(
        &self,
        write: impl FnOnce(&TensorWriter<'_>) -> Result<R, CheckpointError>,
    ) -> Result<R, ModelError> {
        let names = TensorNames::of(&self.config)?;
        let (slots, zeros) = (names.slots(), names.zeros());
        let zero = vec![0.0; zeros.iter().map(|z| z.len).max().unwrap_or(0)];
        // Small: the scales of norms.
        let less_one = |slot: &TensorSlot| {
            let is_less_one = slot.orientation == Orientation::MinusOne;
            if is_less_one { self.in_file(slot).into_owned() } else { vec![] }
        };
        let less_one: Vec<Vec<f32>> = slots.iter().map(less_one).collect();
        let mut writer = TensorWriter::new();
        for (slot, less_one) in slots.iter().zip(&less_one) {
            let values = self.slot(slot);
            let data = match slot.orientation {
                Orientation::Same => TensorData::F32(values),
                Orientation::MinusOne => TensorData::F32(less_one),
                Orientation::Transposed => TensorData::F32Transposed { values, rows: slot.shape[1], block: 1 },
                // Queries, keys and values: three rows of blocks.
                Orientation::Heads { heads } => {
                    TensorData::F32Transposed { values, rows: 3, block: values.len() / (3 * heads) }
                }
                Orientation::Half { .. } | Orientation::Interleaved { .. } => unreachable!("an order of GGUF files"),
            };
            writer.add(&slot.name, &slot.shape, data)?;
        }
        for z in &zeros {
            writer.add(&z.name, &[z.len], TensorData::F32(&zero[..z.len]))?;
        }
        Ok(write(&writer)?)
    }

    /// The elements of a slot, in the order of the parameter.
    pub(crate) fn slot(&self, slot: &TensorSlot) -> &[f32] {
        &self.weights[self.slot_range(slot)]
    }

    /// The elements of a slot, in the order of the file.
    pub(crate) fn in_file(&self, slot: &TensorSlot) -> Cow<'_, [f32]> {
        let values = self.slot(slot);
        if slot.orientation == Orientation::Same {
            return Cow::Borrowed(values);
        }
        let mut in_file = vec![0.0; slot.len_in_file()];
        slot.to_file(values, &mut in_file);
        Cow::Owned(in_file)
    }

    /// The tensors that `twin` holds, such as gradients, under Hugging Face's names and in its order; `twin` is laid
    /// out like the weights. Nothing is subtracted from the scales of norms that files hold less 1.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
    ///
    /// # Panics
    /// If `twin` has another length than the weights.
    pub fn named_tensors(&self, twin: &[f32]) -> Result<Vec<NamedTensor>, ModelError> {
        assert_eq!(twin.len(), self.weights.len(), "a twin of the weights");
        let tensor = |slot: TensorSlot| {
            let from = &twin[self.slot_range(&slot)];
            let mut data = from.to_vec();
            if slot.orientation != Orientation::MinusOne {
                slot.to_file(from, &mut data);
            }
            (slot.name, slot.shape, data)
        };
        Ok(TensorNames::of(&self.config)?.slots().into_iter().map(tensor).collect())
    }

    /// A copy with its own weights.
    ///
    /// # Errors
    /// Too little memory.
    pub fn try_clone(&self) -> Result<Self, ModelError> {
        let mut copy = Self::zeroed(self.config.clone())?;
        copy.weights.copy_from_slice(&self.weights);
        copy.generation.clone_from(&self.generation);
        Ok(copy)
    }

    /// The configuration, the generation configuration and the values of all parameters.
    pub(crate) fn into_parts(self) -> (ModelConfig, GenerationConfig, Buffer) {
        (self.config, self.generation, self.weights)
    }

    /// Fills each parameter in turn.
    pub(crate) fn fill(
        &mut self,
        mut read: impl FnMut(ParamId, &mut [f32]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        for (id, spec) in self.params.iter() {
            read(id, &mut self.weights[self.layout.offset(id)..][..spec.len()])?;
        }
        Ok(())
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The `generation_config.json` of the folder that the model was read from; empty if there is none.
    pub fn generation(&self) -> &GenerationConfig {
        &self.generation
    }

    /// Adds tokens that end a text to the configuration.
    pub fn add_ends(&mut self, ends: impl IntoIterator<Item = u32>) {
        for end in ends {
            if !self.config.eos.contains(&end) {
                self.config.eos.push(end);
            }
        }
    }

    /// Sets the dropout of training.
    ///
    /// # Panics
    /// If a probability isn't in `[0, 1)`.
    pub fn set_dropout(&mut self, dropout: DropoutConfig) {
        let all = [dropout.embedding, dropout.attention, dropout.residual];
        assert!(all.iter().all(|p| (0.0..1.0).contains(p)), "a probability of dropout lies in [0, 1)");
        self.config.dropout = dropout;
    }

    /// The ranges of the weights that files hold less 1. A weight below 1/2 has digits that the file then lacks, so it
    /// is rounded when it is written and read.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`](crate::ConfigError::NotStorable).
    pub fn shifted(&self) -> Result<Vec<Range<usize>>, ModelError> {
        let slots = TensorNames::of(&self.config)?.slots();
        let shifted = slots.iter().filter(|slot| slot.orientation == Orientation::MinusOne);
        Ok(shifted.map(|slot| self.slot_range(slot)).collect())
    }

    pub(crate) fn set_generation(&mut self, generation: GenerationConfig) {
        self.generation = generation;
    }

    /// The parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The place of each parameter in [`Model::weights`].
    pub fn layout(&self) -> &FlatLayout {
        &self.layout
    }

    /// The values of all parameters.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The values of all parameters, mutable.
    pub fn weights_mut(&mut self) -> &mut [f32] {
        &mut self.weights
    }

    /// The values of one parameter.
    pub fn param(&self, id: ParamId) -> &[f32] {
        let len = self.params.get(id).map_or(0, smallmind_graph::ParamSpec::len);
        &self.weights[self.layout.offset(id)..][..len]
    }

    /// The first parameter that has an element in `values` that is not finite. `values` is laid out like the weights.
    pub fn first_non_finite(&self, values: &[f32]) -> Option<&str> {
        let bad = |(id, spec): &(ParamId, &smallmind_graph::ParamSpec)| {
            let start = self.layout.offset(*id);
            values[start..start + spec.len()].iter().any(|x| !x.is_finite())
        };
        self.params.iter().find(bad).map(|(_, spec)| spec.name.as_str())
    }
}

/// The JSON of `config.json`, indented.
fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Normal values by Box and Muller's transform (1958) of Philox numbers; element `i` depends on `seed`, `stream` and
/// `i` only.
fn normal(out: &mut [f32], std: f32, seed: u64, stream: u32) {
    // Separates this use of the seed from others, so that they draw other numbers.
    const USE: u32 = 0x1417;
    let unit = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    for (i, four) in out.chunks_mut(4).enumerate() {
        let counter = [i as u32, (i as u64 >> 32) as u32, stream, USE];
        let words = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
        for (pair, words) in four.chunks_mut(2).zip(words.chunks_exact(2)) {
            let radius = (-2.0 * unit(words[0]).ln()).sqrt() * f64::from(std);
            let angle = std::f64::consts::TAU * unit(words[1]);
            let both = [radius * angle.cos(), radius * angle.sin()];
            pair.iter_mut().zip(both).for_each(|(x, value)| *x = value as f32);
        }
    }
}
