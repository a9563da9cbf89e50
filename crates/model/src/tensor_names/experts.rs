//! The tensors of mixtures of experts.

use super::{Orientation, TensorSlot};
use crate::ModelConfig;

/// The parameter of the router.
const ROUTER: &str = "mlp.router.weight";
/// For each expert its gate and below it its up.
const GATE_UP: &str = "mlp.experts.gate_up.weight";
const DOWN: &str = "mlp.experts.down.weight";

/// How the files of a family name the parts of a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpertNames {
    /// Each expert by itself: `mlp.experts.0.gate_proj`, as in Qwen3-MoE and OLMoE.
    Projections,
    /// Each expert by itself: `block_sparse_moe.experts.0.w1`, as in Mixtral.
    Numbered,
    /// All experts in one tensor, `block_sparse_moe.input_linear` with gates and ups, as in Granite-MoE.
    Linear,
    /// All experts in one tensor, gates and ups apart: the names of llama.cpp.
    Gguf,
}

impl ExpertNames {
    /// The tensors of a layer, whose names in the file and in the model `name` and `param` complete.
    pub(super) fn slots(
        self,
        c: &ModelConfig,
        name: &dyn Fn(&str) -> String,
        param: &dyn Fn(&str) -> String,
    ) -> Vec<TensorSlot> {
        let (d, ff, experts) = (c.d_model, c.d_ff, c.experts.map_or(0, |experts| experts.count));
        let router = |file: &str| TensorSlot::matrix(name(file), param(ROUTER), experts, d);
        let all = |file: &str, of: &str, rows: usize, cols: usize| TensorSlot {
            shape: vec![experts, rows, cols],
            ..TensorSlot::matrix(name(file), param(of), experts * rows, cols)
        };
        let (router, [gate, up, down]) = match self {
            Self::Projections => (router("mlp.gate.weight"), ["gate_proj", "up_proj", "down_proj"]),
            Self::Numbered => (router("block_sparse_moe.gate.weight"), ["w1", "w3", "w2"]),
            Self::Linear => {
                return vec![
                    router("block_sparse_moe.router.layer.weight"),
                    all("block_sparse_moe.input_linear.weight", GATE_UP, 2 * ff, d),
                    all("block_sparse_moe.output_linear.weight", DOWN, d, ff),
                ];
            }
            Self::Gguf => {
                let half = |file, half| TensorSlot {
                    part: 0..experts * 2 * ff,
                    orientation: Orientation::Half { experts, half },
                    ..all(file, GATE_UP, ff, d)
                };
                return vec![
                    router("ffn_gate_inp.weight"),
                    half("ffn_gate_exps.weight", 0),
                    half("ffn_up_exps.weight", 1),
                    all("ffn_down_exps.weight", DOWN, d, ff),
                ];
            }
        };
        let block = if self == Self::Projections { "mlp" } else { "block_sparse_moe" };
        let mut slots = vec![router];
        for expert in 0..experts {
            let parts = [
                (gate, GATE_UP, 2 * ff * expert, ff, d),
                (up, GATE_UP, 2 * ff * expert + ff, ff, d),
                (down, DOWN, d * expert, d, ff),
            ];
            slots.extend(parts.map(|(file, of, first, rows, cols)| {
                let file = name(&format!("{block}.experts.{expert}.{file}.weight"));
                TensorSlot { part: first..first + rows, ..TensorSlot::matrix(file, param(of), rows, cols) }
            }));
        }
        slots
    }
}
