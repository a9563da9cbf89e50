//! The parameters of the workload's model, named by their role in a GPT-2.

use smallmind_graph::ParamId;
use smallmind_graph::op::Gelu;
use smallmind_model::{Mlp, Model};

use crate::BenchError;

/// The weight and the bias of a norm or of a linear layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) weight: ParamId,
    pub(super) bias: ParamId,
}

/// The parameters of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) attn_norm: Pair,
    pub(super) qkv: Pair,
    pub(super) out: Pair,
    pub(super) mlp_norm: Pair,
    pub(super) up: Pair,
    pub(super) down: Pair,
}

/// The parameters of a GPT-2 with biases and an untied output head, and its activation.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) tokens: ParamId,
    pub(super) positions: ParamId,
    pub(super) blocks: Vec<Block>,
    pub(super) norm: Pair,
    pub(super) head: ParamId,
    pub(super) gelu: Gelu,
}

impl Names {
    pub(super) fn of(model: &Model) -> Result<Self, BenchError> {
        let find =
            |name: &str| model.params().find(name).ok_or_else(|| BenchError::Parameter { name: name.to_owned() });
        let pair = |name: &str| {
            Ok::<_, BenchError>(Pair { weight: find(&format!("{name}.weight"))?, bias: find(&format!("{name}.bias"))? })
        };
        let block = |layer: usize| {
            let part = |name: &str| pair(&format!("blocks.{layer}.{name}"));
            Ok::<_, BenchError>(Block {
                attn_norm: part("attn.norm")?,
                qkv: part("attn.qkv")?,
                out: part("attn.out")?,
                mlp_norm: part("mlp.norm")?,
                up: part("mlp.up")?,
                down: part("mlp.down")?,
            })
        };
        let Mlp::Gelu(gelu) = model.config().mlp else {
            return Err(BenchError::Parameter { name: "blocks.0.mlp.up.weight".to_owned() });
        };
        Ok(Self {
            tokens: find("embed.tokens.weight")?,
            positions: find("embed.positions.weight")?,
            blocks: (0..model.config().layers).map(block).collect::<Result<_, _>>()?,
            norm: pair("norm")?,
            head: find("head.weight")?,
            gelu,
        })
    }
}
