//! Whether the numbers of a configuration make a model.

use smallmind_graph::op::RopeScaling;

use super::{ConfigError, ExpertsConfig, Mlp, ModelConfig, NormPlacement, Positions, Residual, RopeConfig};

/// Limits of sizes, so that products of them don't overflow; no known model is beyond them.
pub(super) const MAX_DIMENSION: usize = 1 << 24;
pub(super) const MAX_LAYERS: usize = 1 << 10;
/// Limit of the experts of all layers: files name each of them.
const MAX_EXPERTS: usize = 1 << 15;
const MAX_PARAMETERS: f64 = (1u64 << 42) as f64;

/// Checks a number of layers.
pub(super) fn layers(layers: usize) -> Result<(), ConfigError> {
    if layers <= MAX_LAYERS {
        return Ok(());
    }
    Err(ConfigError::invalid("layers", layers, format!("it must lie between 1 and {MAX_LAYERS}")))
}

impl ModelConfig {
    /// Checks that the numbers make a model.
    ///
    /// # Errors
    /// The first field with a wrong number, by its name here.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_positions()?;
        self.attention_windows.check()?;
        self.check_blocks()?;
        self.check_experts()?;
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(ConfigError::invalid("norm_eps", self.norm_eps, "it must lie between 0 and 1"));
        }
        if !(self.init_std >= 0.0 && self.init_std.is_finite()) {
            return Err(ConfigError::invalid("init_std", self.init_std, "it must be finite and not negative"));
        }
        let d = &self.dropout;
        for (key, p) in [("embedding", d.embedding), ("attention", d.attention), ("residual", d.residual)] {
            if !(0.0..1.0).contains(&p) {
                return Err(ConfigError::invalid(&format!("dropout ({key})"), p, "it must lie in [0, 1)"));
            }
        }
        self.check_tokens()
    }

    fn check_tokens(&self) -> Result<(), ConfigError> {
        for (key, id) in self.bos.iter().map(|id| ("bos", id)).chain(self.eos.iter().map(|id| ("eos", id))) {
            if *id as usize >= self.vocab_size {
                let why = format!("the vocabulary has {} tokens", self.vocab_size);
                return Err(ConfigError::invalid(key, id, why));
            }
        }
        Ok(())
    }

    fn check_experts(&self) -> Result<(), ConfigError> {
        let Some(ExpertsConfig { count, per_token, .. }) = self.experts else { return Ok(()) };
        if count == 0 || count > MAX_EXPERTS / self.layers.max(1) {
            let why = format!("there must be at least one, and at most {MAX_EXPERTS} in all layers");
            return Err(ConfigError::invalid("experts", count, why));
        }
        if per_token == 0 || per_token > count {
            return Err(ConfigError::invalid("experts per token", per_token, format!("there are {count} experts")));
        }
        if self.mlp != Mlp::SwiGlu || self.biases.mlp {
            let got = format!("{:?}", self.mlp);
            return Err(ConfigError::invalid("mlp", got, "experts are SwiGlu without biases"));
        }
        Ok(())
    }

    /// Where norms stand, what is added, and all factors.
    fn check_blocks(&self) -> Result<(), ConfigError> {
        for (key, scale) in [
            ("attention_scale", self.attention_scale),
            ("attention_softcap", self.attention_softcap),
            ("residual_scale", self.residual_scale),
            ("embedding_scale", self.embedding_scale),
            ("logit_divisor", self.logit_divisor),
            ("logit_softcap", self.logit_softcap),
        ] {
            if let Some(scale) = scale.filter(|scale| !(*scale > 0.0 && scale.is_finite())) {
                return Err(ConfigError::invalid(key, scale, "it must be finite and positive"));
            }
        }
        if self.residual != Residual::Sequential && self.norm_placement != NormPlacement::Before {
            let got = format!("{:?}", self.norm_placement);
            let why = "attention and MLP that are added in parallel have norms before them only";
            return Err(ConfigError::invalid("norm_placement", got, why));
        }
        Ok(())
    }

    fn check_positions(&self) -> Result<(), ConfigError> {
        if let Positions::RopeByLayer(layers) = &self.positions
            && layers.len() != self.layers
        {
            let (got, why) = (layers.len(), format!("the model has {} layers", self.layers));
            return Err(ConfigError::invalid("positions", got, why));
        }
        (0..self.layers).filter_map(|layer| self.positions.rope_of(layer)).try_for_each(|rope| self.check_rope(rope))
    }

    fn check_rope(&self, rope: &RopeConfig) -> Result<(), ConfigError> {
        let dim = rope.dim.unwrap_or(self.head_dim);
        if !dim.is_multiple_of(2) {
            let key = if rope.dim.is_some() { "rope_dim" } else { "head_dim" };
            return Err(ConfigError::invalid(key, dim, "rotary positions need an even number"));
        }
        if dim == 0 || dim > self.head_dim {
            let why = format!("a head has {} features, of which an even number is rotated", self.head_dim);
            return Err(ConfigError::invalid("rope_dim", dim, why));
        }
        if !(rope.theta > 0.0 && rope.theta.is_finite()) {
            return Err(ConfigError::invalid("rope_theta", rope.theta, "it must be finite and positive"));
        }
        rope.scaling.as_ref().map_or(Ok(()), |scaling| check_scaling(scaling, dim, rope.theta))
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        for (key, n) in [
            ("vocab_size", self.vocab_size),
            ("context", self.context),
            ("d_model", self.d_model),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("d_ff", self.d_ff),
        ] {
            if n == 0 || n > MAX_DIMENSION {
                return Err(ConfigError::invalid(key, n, format!("it must lie between 1 and {MAX_DIMENSION}")));
            }
        }
        layers(self.layers)?;
        let parameters = self.matrix_elements();
        if parameters > MAX_PARAMETERS {
            let why = format!("with it the model has {parameters:.1e} parameters, more than any that is known");
            return Err(ConfigError::invalid("d_model", self.d_model, why));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let why = format!("it must divide the number of query heads, {}", self.heads);
            return Err(ConfigError::invalid("kv_heads", self.kv_heads, why));
        }
        Ok(())
    }
}

/// Whether a scaling of `dim` rotated features gives finite frequencies.
fn check_scaling(scaling: &RopeScaling, dim: usize, theta: f64) -> Result<(), ConfigError> {
    let positive = |key: &str, x: f64| {
        let is = x > 0.0 && x.is_finite();
        if is { Ok(()) } else { Err(ConfigError::invalid(key, x, "it must be finite and positive")) }
    };
    let original = |positions: usize| positive("rope_scaling.original_max_position_embeddings", positions as f64);
    positive("rope_scaling.attention_factor", scaling.attention_factor())?;
    match scaling {
        RopeScaling::Linear { factor } => positive("rope_scaling.factor", *factor),
        RopeScaling::Dynamic { factor, original_max_position } => {
            if !(*factor >= 1.0 && factor.is_finite()) {
                return Err(ConfigError::invalid("rope_scaling.factor", factor, "it must be finite and at least 1"));
            }
            if dim <= 2 {
                let why = "dynamic scaling needs more than 2 rotated features";
                return Err(ConfigError::invalid("rope_dim", dim, why));
            }
            original(*original_max_position)
        }
        RopeScaling::Llama3(s) => {
            for (key, x) in [("factor", s.factor), ("low_freq_factor", s.low_freq_factor)] {
                positive(&format!("rope_scaling.{key}"), x)?;
            }
            if !(s.high_freq_factor > s.low_freq_factor && s.high_freq_factor.is_finite()) {
                let (key, got) = ("rope_scaling.high_freq_factor", s.high_freq_factor);
                return Err(ConfigError::invalid(key, got, "it must exceed low_freq_factor"));
            }
            original(s.original_max_position)
        }
        RopeScaling::Yarn(s) => {
            for (key, x) in [("factor", s.factor), ("beta_fast", s.beta_fast), ("beta_slow", s.beta_slow)] {
                positive(&format!("rope_scaling.{key}"), x)?;
            }
            if theta <= 1.0 {
                return Err(ConfigError::invalid("rope_theta", theta, "yarn needs a base above 1"));
            }
            original(s.original_max_position)
        }
        RopeScaling::LongRope(s) => {
            for (key, factors) in [("short_factor", &s.short), ("long_factor", &s.long)] {
                let key = format!("rope_scaling.{key}");
                if factors.len() != dim / 2 {
                    let why = format!("it must be an array of {} numbers, half the rotated features", dim / 2);
                    return Err(ConfigError::invalid(&key, format!("{} numbers", factors.len()), why));
                }
                factors.iter().try_for_each(|factor| positive(&key, *factor))?;
            }
            original(s.original_max_position)
        }
    }
}
