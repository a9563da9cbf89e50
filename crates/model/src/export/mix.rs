//! Which format each tensor of a quantized file has.
//!
//! Tensors suffer differently from few bits: the output head, values of attention and the second layer of the MLP most.
//! The mixes give these more bits, in some layers only; the rules are those of llama.cpp (`llama-quant.cpp`,
//! `llama_tensor_get_type`), so that files have the sizes that users know.

use std::fmt;

use smallmind_kernels::Format;

use crate::{Family, Head, ModelConfig};

/// The formats of a file's weights, by the names that users of llama.cpp know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named after the format of most weights; M and L have more bits than S")]
#[expect(non_camel_case_types, reason = "the names are those that users know")]
pub enum WeightMix {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q5_K_S,
    Q5_1,
    Q5_0,
    Q4_K_M,
    Q4_K_S,
    Q4_1,
    Q4_0,
    IQ4_NL,
    IQ4_XS,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
}

use WeightMix::*;

/// Name, number in `general.file_type`, format of most weights.
const TABLE: [(WeightMix, &str, u32, Format); 19] = [
    (F32, "F32", 0, Format::F32),
    (F16, "F16", 1, Format::F16),
    (BF16, "BF16", 32, Format::Bf16),
    (Q8_0, "Q8_0", 7, Format::Q8_0),
    (Q6_K, "Q6_K", 18, Format::Q6K),
    (Q5_K_M, "Q5_K_M", 17, Format::Q5K),
    (Q5_K_S, "Q5_K_S", 16, Format::Q5K),
    (Q5_1, "Q5_1", 9, Format::Q5_1),
    (Q5_0, "Q5_0", 8, Format::Q5_0),
    (Q4_K_M, "Q4_K_M", 15, Format::Q4K),
    (Q4_K_S, "Q4_K_S", 14, Format::Q4K),
    (Q4_1, "Q4_1", 3, Format::Q4_1),
    (Q4_0, "Q4_0", 2, Format::Q4_0),
    (IQ4_NL, "IQ4_NL", 25, Format::Iq4Nl),
    (IQ4_XS, "IQ4_XS", 30, Format::Iq4Xs),
    (Q3_K_L, "Q3_K_L", 13, Format::Q3K),
    (Q3_K_M, "Q3_K_M", 12, Format::Q3K),
    (Q3_K_S, "Q3_K_S", 11, Format::Q3K),
    (Q2_K, "Q2_K", 10, Format::Q2K),
];

/// What the rules depend on besides the tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MixModel {
    pub(crate) layers: usize,
    /// Query heads for each key head.
    pub(crate) group: usize,
    /// Whether the output head is the table of token embeddings.
    pub(crate) is_tied: bool,
    /// How many experts a layer has; 0 for none.
    pub(crate) experts: usize,
    /// Whether it is known which elements matter.
    pub(crate) has_importance: bool,
    /// Whether llama.cpp counts it among the models of 70 billion parameters.
    pub(crate) is_70b: bool,
}

impl MixModel {
    /// Of a model that is written as a family's.
    pub(crate) fn new(config: &ModelConfig, family: Family, has_importance: bool) -> Self {
        let (layers, group) = (config.layers, config.heads / config.kv_heads.max(1));
        let experts = config.experts.map_or(0, |experts| experts.count);
        let is_70b = match family.architecture() {
            "llama" => experts == 0 && group > 1,
            architecture => architecture == "qwen2",
        };
        let is_tied = config.head == Head::Tied;
        Self { layers, group, is_tied, experts, has_importance, is_70b: is_70b && layers == 80 }
    }
}

impl WeightMix {
    /// Every mix, from the most bits to the fewest.
    pub const ALL: [Self; 19] = [
        F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, Q3_K_L,
        Q3_K_M, Q3_K_S, Q2_K,
    ];

    fn row(self) -> (WeightMix, &'static str, u32, Format) {
        TABLE[self as usize]
    }

    /// The name in capitals.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The mix of that name, in upper or lower case. `Q3_K`, `Q4_K` and `Q5_K` are the mixes `M`.
    pub fn from_name(name: &str) -> Option<Self> {
        let with_m = format!("{name}_M");
        let named = |wanted: &str| Self::ALL.into_iter().find(|mix| mix.name().eq_ignore_ascii_case(wanted));
        named(name).or_else(|| named(&with_m))
    }

    /// The number in the key `general.file_type`.
    pub fn file_type(self) -> u32 {
        self.row().2
    }

    /// The mix of a number in the key `general.file_type`.
    pub fn from_file_type(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mix| mix.file_type() == number)
    }

    /// The format of most weights.
    pub fn format(self) -> Format {
        self.row().3
    }

    /// The format of a tensor: `name` as in GGUF files, `shape` with the slowest dimension first.
    ///
    /// Vectors, position embeddings and routers of experts are F32. Where rows are not whole blocks of a format, see
    /// [`Format::for_rows_of`].
    pub(crate) fn format_of(self, name: &str, shape: &[usize], model: MixModel) -> Format {
        self.wanted_of(name, shape, model).for_rows_of(shape.last().copied().unwrap_or(1))
    }

    /// [`WeightMix::format_of`] for rows that are whole blocks of every format.
    pub(crate) fn wanted_of(self, name: &str, shape: &[usize], model: MixModel) -> Format {
        let is_vector = shape.iter().filter(|size| **size > 1).count() < 2;
        let stays = ["_norm.weight", "ffn_gate_inp.weight", "position_embd.weight"];
        if is_vector || !name.ends_with(".weight") || stays.iter().any(|part| name.ends_with(part)) {
            return Format::F32;
        }
        self.of_weight(name, model)
    }

    fn of_weight(self, name: &str, model: MixModel) -> Format {
        let base = self.format();
        if matches!(base, Format::F32 | Format::F16 | Format::Bf16 | Format::Q8_0) {
            return base;
        }
        if name == "output.weight" || model.is_tied && name == "token_embd.weight" {
            return Format::Q6K;
        }
        let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else { return base };
        let Ok(layer) = layer.parse::<usize>() else { return base };
        match part {
            // Fused with queries and keys, too.
            "attn_v.weight" | "attn_qkv.weight" => self.of_values(layer, model),
            "attn_k.weight" if model.experts == 8 => Format::Q8_0,
            "attn_output.weight" => self.of_attention_output(model),
            "ffn_down.weight" | "ffn_down_exps.weight" => self.of_down(layer, model),
            _ => base,
        }
    }

    fn of_values(self, layer: usize, model: MixModel) -> Format {
        if model.experts == 8 {
            return Format::Q8_0;
        }
        match self.of_usual_values(layer, model) {
            // Eight heads share the values of these models, so more bits cost little.
            Format::Q3K | Format::Q4K if model.is_70b => Format::Q5K,
            usual => usual,
        }
    }

    fn of_usual_values(self, layer: usize, model: MixModel) -> Format {
        let is_shared = model.group >= 4;
        match self {
            Q2_K if is_shared => Format::Q4K,
            Q2_K => Format::Q3K,
            Q3_K_M if layer < 2 => Format::Q5K,
            Q3_K_M => Format::Q4K,
            Q3_K_L => Format::Q5K,
            IQ4_NL | IQ4_XS if is_shared => Format::Q5K,
            Q4_K_M | Q5_K_M if has_more_bits(layer, model.layers) => Format::Q6K,
            Q4_K_S if layer < 4 => Format::Q5K,
            _ => self.format(),
        }
    }

    fn of_attention_output(self, model: MixModel) -> Format {
        if model.experts == 8 {
            let is_small = matches!(self, Q2_K | Q3_K_S | Q3_K_M | IQ4_NL | Q4_K_S | Q4_K_M | IQ4_XS);
            return if is_small { Format::Q5K } else { self.format() };
        }
        match self {
            Q2_K => Format::Q3K,
            Q3_K_M => Format::Q4K,
            Q3_K_L => Format::Q5K,
            _ => self.format(),
        }
    }

    fn of_down(self, layer: usize, model: MixModel) -> Format {
        let is_first_eighth = layer < model.layers / 8;
        match self {
            Q2_K => Format::Q3K,
            Q3_K_M => {
                if layer < model.layers / 16 {
                    Format::Q5K
                } else {
                    Format::Q4K
                }
            }
            Q3_K_L => Format::Q5K,
            Q4_K_M | Q5_K_M if has_more_bits(layer, model.layers) => Format::Q6K,
            IQ4_NL | IQ4_XS if is_first_eighth && !model.has_importance => Format::Q5K,
            Q4_K_S if is_first_eighth => Format::Q5K,
            Q4_0 if is_first_eighth && model.has_importance => Format::Q4_1,
            Q5_0 if is_first_eighth && model.has_importance => Format::Q5_1,
            _ => self.format(),
        }
    }
}

/// Whether a layer is among those that a mix `M` gives more bits: the first and last eighth, and every third between.
fn has_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl fmt::Display for WeightMix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: MixModel =
        MixModel { layers: 16, group: 4, is_tied: false, experts: 0, has_importance: false, is_70b: false };

    #[test]
    fn names_and_numbers() {
        for (i, mix) in WeightMix::ALL.into_iter().enumerate() {
            assert_eq!(TABLE[i].0, mix);
            assert_eq!(WeightMix::from_name(&mix.name().to_lowercase()), Some(mix));
        }
        assert_eq!(WeightMix::from_name("q4_k"), Some(Q4_K_M));
        assert_eq!(WeightMix::from_name("q6"), None);
    }

    #[test]
    fn mixes_are_those_of_llama_cpp() {
        let of = |mix: WeightMix, name: &str| mix.format_of(name, &[64, 512], MODEL);
        assert_eq!(of(Q4_K_M, "token_embd.weight"), Format::Q4K);
        assert_eq!(of(Q4_K_M, "output.weight"), Format::Q6K);
        assert_eq!(of(Q4_K_M, "blk.3.attn_q.weight"), Format::Q4K);
        // More bits: layers 0 and 1, 14 and 15, and 4, 7, 10 and 13.
        let more: Vec<usize> =
            (0..16).filter(|layer| of(Q4_K_M, &format!("blk.{layer}.attn_v.weight")) == Format::Q6K).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(of(Q4_K_S, "blk.3.attn_v.weight"), Format::Q5K);
        assert_eq!(of(Q4_K_S, "blk.4.attn_v.weight"), Format::Q4K);
        assert_eq!(of(Q2_K, "blk.9.attn_v.weight"), Format::Q4K);
        assert_eq!(of(Q2_K, "blk.9.ffn_down.weight"), Format::Q3K);
        assert_eq!(of(Q3_K_M, "blk.0.ffn_down.weight"), Format::Q5K);
        assert_eq!(of(Q3_K_M, "blk.1.ffn_down.weight"), Format::Q4K);
        assert_eq!(of(Q5_K_M, "blk.2.attn_qkv.weight"), Format::Q5K);
        assert_eq!(of(Q4_K_M, "blk.1.attn_qkv.weight"), Format::Q6K);
        assert_eq!(of(Q4_K_S, "blk.3.attn_qkv.weight"), Format::Q5K);
        assert_eq!(of(Q2_K, "blk.2.attn_qkv.weight"), Format::Q4K);
        assert_eq!(of(Q2_K, "blk.2.attn_norm.weight"), Format::F32);
        assert_eq!(of(Q2_K, "blk.2.ffn_gate_inp.weight"), Format::F32);
        assert_eq!(Q2_K.format_of("blk.2.attn_q.bias", &[512], MODEL), Format::F32);
        let tied = MixModel { is_tied: true, ..MODEL };
        assert_eq!(Q4_0.format_of("token_embd.weight", &[64, 512], tied), Format::Q6K);
        assert_eq!(Q4_0.format_of("token_embd.weight", &[64, 96], tied), Format::Q8_0);
        let important = MixModel { has_importance: true, ..MODEL };
        assert_eq!(Q4_0.format_of("blk.1.ffn_down.weight", &[64, 512], important), Format::Q4_1);
    }

    #[test]
    fn values_of_70b_models_have_more_bits() {
        let sizes = |layers, heads, kv_heads| ModelConfig { layers, heads, kv_heads, ..ModelConfig::default() };
        let model = |config: &ModelConfig, family| MixModel::new(config, family, false);
        let large = model(&sizes(80, 64, 8), Family::Llama);
        for (config, family, is_70b) in [
            (sizes(80, 64, 8), Family::Llama, true),
            (sizes(80, 64, 64), Family::Llama, false),
            (sizes(79, 64, 8), Family::Llama, false),
            (sizes(80, 64, 64), Family::Qwen2, true),
            (sizes(80, 64, 8), Family::Granite, false),
        ] {
            assert_eq!(model(&config, family).is_70b, is_70b, "{family:?} {config:?}");
        }
        let of = |mix: WeightMix| mix.format_of("blk.40.attn_v.weight", &[64, 512], large);
        for mix in [Q2_K, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, IQ4_XS] {
            assert_eq!(of(mix), Format::Q5K, "{mix}");
        }
        // Where more bits are usual, they stay.
        assert_eq!(Q4_K_M.format_of("blk.79.attn_v.weight", &[64, 512], large), Format::Q6K);
        assert_eq!(of(Q6_K), Format::Q6K);
        assert_eq!(Q2_K.format_of("blk.40.attn_k.weight", &[64, 512], large), Format::Q2K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_other_formats() {
        let of = |mix: WeightMix, cols| mix.format_of("blk.8.ffn_up.weight", &[64, cols], MODEL);
        assert_eq!(of(Q4_K_M, 576), Format::Q5_0);
        assert_eq!(of(Q5_K_M, 576), Format::Q5_1);
        assert_eq!(of(Q6_K, 576), Format::Q8_0);
        assert_eq!(of(Q2_K, 576), Format::Iq4Nl);
        assert_eq!(of(Q4_0, 40), Format::F16);
    }
}
