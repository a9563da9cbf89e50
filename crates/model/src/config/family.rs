//! The families of published models: which features their files can express.

use std::fmt;

use smallmind_graph::op::{Gelu, Heads, RopeScaling};

use super::windows::WindowKeys;
use super::{
    AttentionWindows, Biases, ConfigError, ExpertsConfig, Mlp, ModelConfig, NormKind, NormPlacement, Positions, QkNorm,
    Residual, RopeConfig, gemma,
};

/// A family of models with the same keys of `config.json` and names of tensors. It says how files are read and written;
/// [`ModelConfig`] says what a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Radford et al., "Language Models are Unsupervised Multitask Learners" (2019):
    /// <https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf>.
    Gpt2,
    /// Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023):
    /// <https://arxiv.org/abs/2302.13971>.
    Llama,
    /// Yang et al., "Qwen2 Technical Report" (2024): <https://arxiv.org/abs/2407.10671>.
    Qwen2,
    /// Yang et al., "Qwen3 Technical Report" (2025): <https://arxiv.org/abs/2505.09388>.
    Qwen3,
    /// OLMo Team, "2 OLMo 2 Furious" (2024): <https://arxiv.org/abs/2501.00656>.
    Olmo2,
    /// Black et al., "GPT-NeoX-20B: An Open-Source Autoregressive Language Model" (2022):
    /// <https://arxiv.org/abs/2204.06745>.
    GptNeoX,
    /// Bellagente et al., "Stable LM 2 1.6B Technical Report" (2024): <https://arxiv.org/abs/2402.17834>.
    StableLm,
    /// Granite Team, "Granite 3.0 Language Models" (2024).
    Granite,
    /// Hugging Face, "SmolLM3: smol, multilingual, long-context reasoner" (2025).
    SmolLm3,
    /// Abdin et al., "Phi-3 Technical Report" (2024): <https://arxiv.org/abs/2404.14219>.
    Phi3,
    /// Gemma Team, "Gemma: Open Models Based on Gemini Research and Technology" (2024):
    /// <https://arxiv.org/abs/2403.08295>.
    Gemma,
    /// Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size" (2024):
    /// <https://arxiv.org/abs/2408.00118>.
    Gemma2,
    /// The text models of Gemma Team, "Gemma 3 Technical Report" (2025): <https://arxiv.org/abs/2503.19786>.
    Gemma3,
    /// Jiang et al., "Mistral 7B" (2023): <https://arxiv.org/abs/2310.06825>.
    Mistral,
    /// The mixtures of experts of Yang et al., "Qwen3 Technical Report" (2025): <https://arxiv.org/abs/2505.09388>.
    Qwen3Moe,
    /// Muennighoff et al., "OLMoE: Open Mixture-of-Experts Language Models" (2024): <https://arxiv.org/abs/2409.02060>.
    Olmoe,
    /// The mixtures of experts of Granite Team, "Granite 3.0 Language Models" (2024).
    GraniteMoe,
    /// Jiang et al., "Mixtral of Experts" (2024): <https://arxiv.org/abs/2401.04088>.
    Mixtral,
}

/// A field of [`ModelConfig`] that a family's files can't express.
struct Mismatch {
    key: &'static str,
    got: String,
    takes: String,
}

impl Family {
    /// All families. If several can state a model, the first is chosen.
    pub const ALL: [Family; 18] = [
        Family::Gpt2,
        Family::Llama,
        Family::Mistral,
        Family::Qwen2,
        Family::Qwen3,
        Family::Olmo2,
        Family::GptNeoX,
        Family::StableLm,
        Family::Granite,
        Family::SmolLm3,
        Family::Phi3,
        Family::Gemma,
        Family::Gemma2,
        Family::Gemma3,
        Family::Mixtral,
        Family::Qwen3Moe,
        Family::Olmoe,
        Family::GraniteMoe,
    ];

    /// The `model_type` of `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Gpt2 => "gpt2",
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Olmo2 => "olmo2",
            Family::GptNeoX => "gpt_neox",
            Family::StableLm => "stablelm",
            Family::Granite => "granite",
            Family::SmolLm3 => "smollm3",
            Family::Phi3 => "phi3",
            Family::Gemma => "gemma",
            Family::Gemma2 => "gemma2",
            Family::Gemma3 => "gemma3_text",
            Family::Mistral => "mistral",
            Family::Qwen3Moe => "qwen3_moe",
            Family::Olmoe => "olmoe",
            Family::GraniteMoe => "granitemoe",
            Family::Mixtral => "mixtral",
        }
    }

    /// The names of all families, as a sentence lists them.
    pub fn names() -> String {
        let names = Self::ALL.map(Self::name);
        let (last, others) = names.split_last().unwrap_or((&"", &[]));
        format!("{} and {last}", others.join(", "))
    }

    /// The family of a `model_type`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// The family whose files can express `config`.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] if there is none.
    pub(crate) fn of(config: &ModelConfig) -> Result<Self, ConfigError> {
        if let Some(family) = Self::stating(config).next() {
            return Ok(family);
        }
        let mismatches = Self::ALL.map(|family| (family, family.mismatches(config)));
        let nearest = mismatches.into_iter().min_by_key(|(_, mismatches)| mismatches.len());
        let Some((family, Some(Mismatch { key, got, takes }))) = nearest.map(|(f, m)| (f, m.into_iter().next())) else {
            unreachable!("there are families, and each that states the model has been returned")
        };
        Err(ConfigError::NotStorable { key, got, model_type: family.name(), takes })
    }

    /// The families whose files can state `config`.
    pub(crate) fn stating(config: &ModelConfig) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |family| family.mismatches(config).is_empty())
    }

    /// The fields of `config` that this family's files can't state. All fields are named, so that a new one does not
    /// compile until it is handled here.
    fn mismatches(self, config: &ModelConfig) -> Vec<Mismatch> {
        #[rustfmt::skip]
        let &ModelConfig {
            ref positions, attention_scale, ref attention_windows, attention_softcap, norm, norm_placement, qk_norm, residual, residual_scale, embedding_scale,
            logit_divisor, logit_softcap, mlp, experts, biases, d_model, heads, kv_heads, head_dim,
            // Every family can state these.
            vocab_size: _, context: _, layers: _, d_ff: _, norm_eps: _, head: _, dropout: _, init_std: _, bos: _, eos: _,
        } = config;
        let mut all = Vec::new();
        let mut takes = |holds: bool, key, got: &dyn fmt::Debug, takes: &str| {
            if !holds {
                all.push(Mismatch { key, got: format!("{got:?}"), takes: takes.to_owned() });
            }
        };
        let usual = Heads::new(heads, kv_heads, head_dim).scale;
        let multiplies = self.multiplies();
        let is_usual = attention_scale.unwrap_or(usual) == usual;
        if self.states_scalar() {
            let stated = gemma::scalar(config).is_some();
            takes(stated, "attention_scale", &attention_scale, "1/√n for a whole number n");
        } else {
            takes(is_usual || multiplies, "attention_scale", &attention_scale, "None, for 1/√head_dim");
        }
        let caps = attention_softcap.is_none() || self == Family::Gemma2;
        takes(caps, "attention_softcap", &attention_softcap, "None");
        let windows = self.windows();
        let stated = windows.state(attention_windows, config.context);
        takes(stated, "attention_windows", attention_windows, windows.stated());
        takes(
            self.states_norm(norm),
            "norm",
            &norm,
            if self.norm() == NormKind::RmsNorm { "RmsNorm" } else { "LayerNorm" },
        );
        takes(self.states_positions(config), "positions", positions, self.positions_stated());
        takes(self.states_mlp(mlp), "mlp", &mlp, self.mlp_stated());
        takes(self.states_experts(experts), "experts", &experts, self.experts_stated());
        takes(self.states_biases(biases, norm), "biases", &biases, &self.biases_stated());
        let placement = self.norm_placement();
        takes(norm_placement == placement, "norm_placement", &norm_placement, &format!("{placement:?}"));
        takes(qk_norm == self.qk_norm(), "qk_norm", &qk_norm, &format!("{:?}", self.qk_norm()));
        takes(self.residuals().contains(&residual), "residual", &residual, &format!("{:?}", self.residuals()));
        let root = (d_model as f32).sqrt();
        if self.is_gemma() {
            takes(embedding_scale == Some(root), "embedding_scale", &embedding_scale, &format!("√d_model, {root}"));
        } else {
            let none = embedding_scale.is_none_or(|scale| scale == 1.0);
            takes(none || multiplies, "embedding_scale", &embedding_scale, "None, for 1");
        }
        for (key, scale) in [("residual_scale", residual_scale), ("logit_divisor", logit_divisor)] {
            takes(scale.is_none_or(|scale| scale == 1.0) || multiplies, key, &scale, "None, for 1");
        }
        takes(logit_softcap.is_none() || self.states_scalar(), "logit_softcap", &logit_softcap, "None");
        if matches!(self, Family::Gpt2 | Family::GptNeoX) {
            takes(kv_heads == heads, "kv_heads", &kv_heads, &format!("as many as query heads, {heads}"));
        }
        if matches!(self, Family::Gpt2 | Family::GptNeoX | Family::StableLm | Family::Olmoe) {
            let width = format!("d_model / heads, {d_model} / {heads}");
            takes(heads.checked_mul(head_dim) == Some(d_model), "head_dim", &head_dim, &width);
        }
        all
    }

    /// The kind of norm; a GPT-2 may be without shifts.
    pub(super) fn norm(self) -> NormKind {
        match self {
            Family::Gpt2 | Family::GptNeoX | Family::StableLm => NormKind::LayerNorm { bias: true },
            _ => NormKind::RmsNorm,
        }
    }

    fn states_norm(self, norm: NormKind) -> bool {
        norm == self.norm() || self == Family::Gpt2 && norm == NormKind::LayerNorm { bias: false }
    }

    /// Where the norms of a block stand.
    pub(super) fn norm_placement(self) -> NormPlacement {
        match self {
            Family::Olmo2 => NormPlacement::After,
            Family::Gemma2 | Family::Gemma3 => NormPlacement::BeforeAndAfter,
            _ => NormPlacement::Before,
        }
    }

    /// The norm of queries and keys.
    pub(super) fn qk_norm(self) -> Option<QkNorm> {
        match self {
            Family::Qwen3 | Family::Gemma3 | Family::Qwen3Moe => Some(QkNorm::Heads),
            Family::Olmo2 | Family::Olmoe => Some(QkNorm::Rows),
            _ => None,
        }
    }

    /// How attention and MLP may be added.
    fn residuals(self) -> &'static [Residual] {
        match self {
            Family::GptNeoX => &[Residual::Parallel { shared_norm: false }, Residual::Sequential],
            Family::StableLm => &[Residual::Sequential, Residual::Parallel { shared_norm: true }],
            _ => &[Residual::Sequential],
        }
    }

    /// Whether the norms of files hold their scale less 1, the MLP has a gate with a GELU, and embeddings are scaled.
    pub(crate) fn is_gemma(self) -> bool {
        matches!(self, Family::Gemma | Family::Gemma2 | Family::Gemma3)
    }

    /// Whether files state the factor of scores as a number `n`, for 1/√n, and a soft cap of the logits.
    fn states_scalar(self) -> bool {
        matches!(self, Family::Gemma2 | Family::Gemma3)
    }

    /// Whether files state factors of scores, residuals, embeddings and logits.
    pub(crate) fn multiplies(self) -> bool {
        matches!(self, Family::Granite | Family::GraniteMoe)
    }

    /// Whether MLPs are made of experts.
    pub(crate) fn has_experts(self) -> bool {
        matches!(self, Family::Qwen3Moe | Family::Olmoe | Family::GraniteMoe | Family::Mixtral)
    }

    /// The families whose models can be trained: all but mixtures of experts.
    pub fn trained() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|family| !family.has_experts())
    }

    /// Whether files state if the weights of a token's experts sum to 1; others mean that they do.
    pub(super) fn states_sum(self) -> bool {
        matches!(self, Family::Qwen3Moe | Family::Olmoe)
    }

    fn states_experts(self, experts: Option<ExpertsConfig>) -> bool {
        match experts {
            None => !self.has_experts(),
            Some(experts) => self.has_experts() && (experts.sums_to_one || self.states_sum()),
        }
    }

    fn experts_stated(self) -> &'static str {
        match self.has_experts() {
            false => "None",
            true if self.states_sum() => "Some",
            true => "Some, with weights that sum to 1",
        }
    }

    fn has_gelu(self) -> bool {
        matches!(self, Family::Gpt2 | Family::GptNeoX)
    }

    fn states_mlp(self, mlp: Mlp) -> bool {
        match mlp {
            Mlp::Gelu(_) => self.has_gelu(),
            Mlp::SwiGlu => !self.has_gelu() && !self.is_gemma(),
            Mlp::GeGlu(kind) => self.is_gemma() && kind == Gelu::Tanh,
        }
    }

    fn mlp_stated(self) -> &'static str {
        match self {
            Family::Gpt2 | Family::GptNeoX => "Gelu",
            _ if self.is_gemma() => "GeGlu(Tanh)",
            _ => "SwiGlu",
        }
    }

    /// Whether the key `attention_bias` says if queries, keys, values and the output have biases.
    pub(super) fn states_attention_bias(self) -> bool {
        use Family::{GptNeoX, Granite, GraniteMoe, Llama, Olmo2, Olmoe, Qwen3, Qwen3Moe, SmolLm3};
        let others = matches!(self, Qwen3Moe | Olmoe | GraniteMoe) || self.is_gemma();
        others || matches!(self, Llama | Qwen3 | Olmo2 | Granite | SmolLm3 | GptNeoX)
    }

    /// Whether the key `mlp_bias` says if the layers of the MLP have biases.
    pub(super) fn states_mlp_bias(self) -> bool {
        matches!(self, Family::Llama | Family::Granite | Family::SmolLm3)
    }

    /// How sliding windows are stated.
    pub(super) fn windows(self) -> WindowKeys {
        match self {
            Family::Qwen2 | Family::Qwen3 => WindowKeys::Switched,
            Family::Mistral => WindowKeys::All { has_default: true },
            Family::Phi3 | Family::Mixtral => WindowKeys::All { has_default: false },
            Family::Gemma2 => WindowKeys::AllBut { every: 2 },
            Family::Gemma3 => WindowKeys::AllBut { every: 6 },
            Family::Gpt2
            | Family::Llama
            | Family::Olmo2
            | Family::GptNeoX
            | Family::StableLm
            | Family::Granite
            | Family::SmolLm3
            | Family::Gemma
            | Family::Qwen3Moe
            | Family::Olmoe
            | Family::GraniteMoe => WindowKeys::None,
        }
    }

    fn states_biases(self, biases: Biases, norm: NormKind) -> bool {
        let Biases { qkv, attn_out, mlp } = biases;
        match self {
            Family::Gpt2 => {
                biases == if norm == (NormKind::LayerNorm { bias: true }) { Biases::ALL } else { Biases::NONE }
            }
            Family::GptNeoX => qkv == attn_out && mlp,
            Family::Qwen2 => biases == Biases::QKV,
            Family::StableLm => !attn_out && !mlp,
            _ => {
                let attention = qkv == attn_out && (!qkv || self.states_attention_bias());
                attention && (!mlp || self.states_mlp_bias())
            }
        }
    }

    fn biases_stated(self) -> String {
        match self {
            Family::Gpt2 => "all of them or none, that of norms included".to_owned(),
            Family::GptNeoX => "mlp, and qkv and attn_out together or none".to_owned(),
            Family::StableLm => "qkv or none".to_owned(),
            Family::Qwen2 => format!("{:?}", Biases::QKV),
            _ if self.states_mlp_bias() => "qkv and attn_out together or none, mlp or none".to_owned(),
            _ if self.states_attention_bias() => "qkv and attn_out together or none".to_owned(),
            _ => format!("{:?}", Biases::NONE),
        }
    }

    /// The biases where those of a model can't be stated.
    fn usual_biases(self) -> Biases {
        match self {
            Family::Qwen2 => Biases::QKV,
            Family::GptNeoX => Biases::ALL,
            _ => Biases::NONE,
        }
    }

    fn states_positions(self, config: &ModelConfig) -> bool {
        if self == Family::Gemma3 {
            let stated = |rope| self.states_rope(rope, config.context);
            let is_local = (0..config.layers).any(|layer| config.attention_windows.of(layer).is_some());
            return gemma::rotations(config).is_some_and(|(global, local)| {
                stated(global) && stated(local) && (!is_local || local.scaling.is_none())
            });
        }
        match &config.positions {
            Positions::Learned => self == Family::Gpt2,
            Positions::Rope(rope) => self.states_rope(rope, config.context),
            Positions::RopeByLayer(layers) => {
                let mut ropes = layers.iter().flatten();
                let first = ropes.next();
                let alike = ropes.all(|rope| Some(rope) == first);
                let stated = first.is_none_or(|rope| self.states_rope(rope, config.context));
                self == Family::SmolLm3 && alike && stated
            }
        }
    }

    fn states_rope(self, rope: &RopeConfig, context: usize) -> bool {
        let scaling = match &rope.scaling {
            None | Some(RopeScaling::LongRope(_)) => true,
            // The key of the context is that of the length up to which nothing is scaled.
            Some(RopeScaling::Dynamic { original_max_position, .. }) => {
                *original_max_position == context && self != Family::Phi3
            }
            Some(_) => self != Family::Phi3,
        };
        self != Family::Gpt2 && scaling && (rope.dim.is_none() || self.rotates_in_part())
    }

    /// Whether the rotated part of a head can be stated.
    fn rotates_in_part(self) -> bool {
        matches!(self, Family::GptNeoX | Family::StableLm | Family::Phi3)
    }

    fn positions_stated(self) -> &'static str {
        match self {
            Family::Gpt2 => "Learned",
            Family::SmolLm3 => "Rope of whole heads, the same in all layers that have it",
            Family::Phi3 => "Rope, not scaled or by longrope",
            Family::Gemma3 => "Rope of whole heads, one for layers with a window, not scaled, and one for the others",
            _ if self.rotates_in_part() => "Rope, the same in all layers",
            _ => "Rope of whole heads, the same in all layers",
        }
    }

    /// `config` with the features of this family. Features that it can state and sizes stay as they are.
    pub fn applied_to(self, config: ModelConfig) -> ModelConfig {
        if self == Family::Gpt2 {
            return gpt2_of(config);
        }
        let multiplies = self.multiplies();
        let kept = |scale: Option<f32>| scale.filter(|_| multiplies);
        let has_scale = multiplies || self.states_scalar() && gemma::scalar(&config).is_some();
        let stated = self.states_positions(&config);
        let attention_windows = match self.windows().state(&config.attention_windows, config.context) {
            true => config.attention_windows.clone(),
            false => AttentionWindows::None,
        };
        let biases = if self.states_biases(config.biases, self.norm()) { config.biases } else { self.usual_biases() };
        let residual = if self.residuals().contains(&config.residual) { config.residual } else { self.residuals()[0] };
        ModelConfig {
            attention_scale: config.attention_scale.filter(|_| has_scale),
            residual_scale: kept(config.residual_scale),
            embedding_scale: match self {
                _ if self.is_gemma() => Some((config.d_model as f32).sqrt()),
                _ => kept(config.embedding_scale),
            },
            logit_divisor: kept(config.logit_divisor),
            logit_softcap: config.logit_softcap.filter(|_| self.states_scalar()),
            norm: self.norm(),
            norm_placement: self.norm_placement(),
            qk_norm: self.qk_norm(),
            mlp: match config.mlp {
                Mlp::Gelu(kind) if self.has_gelu() => Mlp::Gelu(kind),
                Mlp::GeGlu(kind) if self.has_gelu() => Mlp::Gelu(kind),
                _ if self.has_gelu() => Mlp::Gelu(Gelu::Exact),
                _ if self.is_gemma() => Mlp::GeGlu(Gelu::Tanh),
                _ => Mlp::SwiGlu,
            },
            experts: self.nearest_experts(config.experts),
            biases,
            residual,
            attention_softcap: config.attention_softcap.filter(|_| self == Family::Gemma2),
            positions: if stated { config.positions } else { Positions::Rope(self.nearest_rope(&config)) },
            attention_windows,
            ..config
        }
    }

    /// The experts of a model of this family, as near to `experts` as it can state.
    fn nearest_experts(self, experts: Option<ExpertsConfig>) -> Option<ExpertsConfig> {
        let usual = ExpertsConfig { count: 8, per_token: 2, sums_to_one: true };
        let experts = experts.unwrap_or(usual);
        let sums_to_one = experts.sums_to_one || !self.states_sum();
        self.has_experts().then_some(ExpertsConfig { sums_to_one, ..experts })
    }

    /// The rotation of `config`, or of its first layer that has one, as far as this family can state it.
    fn nearest_rope(self, config: &ModelConfig) -> RopeConfig {
        let rope = (0..config.layers).find_map(|layer| config.positions.rope_of(layer)).cloned().unwrap_or_default();
        let dim = rope.dim.filter(|_| self.rotates_in_part());
        let rope = RopeConfig { dim, ..rope };
        let is_local = self == Family::Gemma3 && config.attention_windows != AttentionWindows::None;
        if self.states_rope(&rope, config.context) && !is_local { rope } else { RopeConfig { scaling: None, ..rope } }
    }
}

fn gpt2_of(config: ModelConfig) -> ModelConfig {
    let shift = config.norm == NormKind::LayerNorm { bias: true } && config.biases == Biases::ALL;
    ModelConfig {
        experts: None,
        attention_scale: None,
        attention_softcap: None,
        attention_windows: AttentionWindows::None,
        residual_scale: None,
        embedding_scale: None,
        logit_divisor: None,
        logit_softcap: None,
        norm_placement: NormPlacement::Before,
        qk_norm: None,
        residual: Residual::Sequential,
        positions: Positions::Learned,
        norm: NormKind::LayerNorm { bias: shift },
        mlp: Mlp::Gelu(match config.mlp {
            Mlp::Gelu(kind) | Mlp::GeGlu(kind) => kind,
            Mlp::SwiGlu => Gelu::Exact,
        }),
        biases: if shift { Biases::ALL } else { Biases::NONE },
        ..config
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ModelConfig {
    /// The `model_type` of this model in `config.json`.
    ///
    /// # Errors
    /// [`ConfigError::NotStorable`] if none can.
    pub fn model_type(&self) -> Result<&'static str, ConfigError> {
        Ok(Family::of(self)?.name())
    }
}
