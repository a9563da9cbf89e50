//! Random models: stacks of parts on a residual stream, in common and in odd mixtures.

use smallmind_graph::op::{Gelu, Llama3Scaling, RopeScaling, YarnScaling};

use super::rng::Rng;

pub const DROPOUT: f32 = 0.3;

/// Which kind of model to draw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    /// Pre-norm blocks with LayerNorm, biases, learned positions, GELU and dropout.
    Gpt2,
    /// Pre-norm blocks with RMSNorm, rope, grouped heads and SwiGLU, without biases.
    Llama,
    /// Anything that the shape rules allow.
    Odd,
}

/// What the graph of a model is for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head {
    /// Training: attention within the batch, the loss of every token.
    Loss,
    /// Attention within the batch, logits of the rows asked for.
    Logits,
    /// Attention over the cache, logits of the rows asked for.
    Cached,
}

#[derive(Clone, Copy, Debug)]
pub enum NormKind {
    Layer { bias: bool },
    Rms,
}

/// The scaling of rotary positions.
#[derive(Clone, Copy, Debug)]
pub enum Scaling {
    None,
    Linear,
    Llama3,
    Yarn,
}

impl Scaling {
    pub fn get(self) -> Option<RopeScaling> {
        let (factor, original_max_position) = (8.0, 40);
        match self {
            Scaling::None => None,
            Scaling::Linear => Some(RopeScaling::Linear { factor }),
            Scaling::Llama3 => Some(RopeScaling::Llama3(Llama3Scaling {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position,
            })),
            Scaling::Yarn => Some(RopeScaling::Yarn(YarnScaling {
                factor,
                attention_factor: 1.2,
                beta_fast: 4.0,
                beta_slow: 1.0,
                original_max_position,
                truncate: false,
            })),
        }
    }
}

/// What is normalised of queries and of keys.
#[derive(Clone, Copy, Debug)]
pub enum QkGroups {
    Heads,
    Rows,
}

#[derive(Clone, Copy, Debug)]
pub struct AttentionPart {
    pub norm: Option<NormKind>,
    /// Query heads for each key head.
    pub group: usize,
    pub qk_norm: Option<QkGroups>,
    pub rope: Option<Scaling>,
    /// Whether only a part of each head is rotated, where it has four features or more.
    pub partial: bool,
    pub bias: bool,
    pub weights_dropout: bool,
    pub output_dropout: bool,
    pub window: Option<usize>,
    pub cap: Option<f32>,
}

#[derive(Clone, Copy, Debug)]
pub enum Activation {
    None,
    Gelu(Gelu),
    SwiGlu,
    GeGlu(Gelu),
}

#[derive(Clone, Copy, Debug)]
pub struct MlpPart {
    pub norm: Option<NormKind>,
    pub hidden: usize,
    pub activation: Activation,
    pub bias: bool,
    pub dropout: bool,
    /// The residual enters as the second input of the last linear layer instead of by an addition.
    pub residual_in_linear: bool,
}

/// A part of a model: the residual stream `x` to a new one.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    Attention(AttentionPart),
    Mlp(MlpPart),
    /// Two layers and an activation all read one norm's output.
    Parallel(NormKind),
    /// `x + x`.
    Twice,
    /// `x / 2`.
    Half,
    /// `x` plus the stream as it was before the part before.
    Earlier,
    /// A norm in the stream itself, which is read both before and after it: `norm(x) + x`.
    PostNorm(NormKind),
    Dropout,
    /// Through another width and back, nothing added.
    Detour(usize),
}

impl Part {
    fn attention_mut(&mut self) -> Option<&mut AttentionPart> {
        if let Part::Attention(attention) = self { Some(attention) } else { None }
    }
}

#[derive(Clone, Debug)]
pub struct Model {
    pub seed: u64,
    pub vocab: usize,
    pub d: usize,
    pub context: usize,
    /// Key heads of the layers with an even number; the others have one more.
    pub kv_heads: usize,
    pub head_dim: usize,
    pub positions: bool,
    pub tied: bool,
    pub embedding_dropout: bool,
    pub final_norm: Option<NormKind>,
    /// Soft cap of the logits.
    pub cap: Option<f32>,
    pub parts: Vec<Part>,
}

impl Model {
    /// The model of a seed.
    pub fn random(family: Family, seed: u64) -> Model {
        let rng = &mut Rng::new(seed);
        let d = rng.pick(&[1, 2, 3, 7, 8, 16, 17, 32, 33]);
        let head_dim = if family == Family::Llama { rng.pick(&[2, 4, 6, 16]) } else { rng.pick(&[1, 2, 3, 4, 8, 17]) };
        let blocks = rng.range(1..=2);
        let mut parts: Vec<Part> = match family {
            Family::Gpt2 => (0..blocks).flat_map(|_| gpt2_block(rng, d)).collect(),
            Family::Llama => (0..blocks).flat_map(|_| llama_block(rng, d)).collect(),
            Family::Odd => (0..rng.range(1..=5)).map(|_| odd_part(rng, d, head_dim)).collect(),
        };
        // Of numbers of its own: without it a seed makes the same model.
        let scoring = &mut Rng::new(seed ^ 1 << 40);
        for attention in parts.iter_mut().filter_map(Part::attention_mut).filter(|_| family != Family::Gpt2) {
            attention.window = scoring.chance(50).then(|| scoring.pick(&[1, 2, 5, 31, 32, 33, 64, 100, 1000]));
            attention.cap = scoring.chance(40).then(|| scoring.pick(&[0.5, 2.0, 30.0]));
        }
        let final_norm = match family {
            Family::Gpt2 => Some(NormKind::Layer { bias: true }),
            Family::Llama => Some(NormKind::Rms),
            Family::Odd => rng.chance(70).then(|| norm(rng)),
        };
        let parts = varied(&mut Rng::new(!seed), family, parts);
        Model {
            seed,
            vocab: rng.pick(&[2, 3, 17, 31, 64]),
            d,
            context: 160,
            kv_heads: if family == Family::Gpt2 { rng.range(1..=3) } else { rng.range(1..=2) },
            head_dim,
            positions: family == Family::Gpt2 || family == Family::Odd && rng.chance(40),
            tied: rng.chance(50),
            embedding_dropout: family != Family::Llama && rng.chance(40),
            final_norm,
            cap: seed.is_multiple_of(5).then_some(2.0),
            parts,
        }
    }

    /// The same with a sliding window and a soft cap in every attention.
    pub fn with_scoring(mut self, window: Option<usize>, cap: Option<f32>) -> Model {
        for attention in self.parts.iter_mut().filter_map(Part::attention_mut) {
            (attention.window, attention.cap) = (window, cap);
        }
        self
    }

    /// Whether it has a layer that reads the cache.
    pub fn has_attention(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Attention(_)))
    }
}

fn norm(rng: &mut Rng) -> NormKind {
    if rng.chance(40) { NormKind::Rms } else { NormKind::Layer { bias: rng.chance(60) } }
}

fn gpt2_block(rng: &mut Rng, d: usize) -> [Part; 2] {
    let norm = Some(NormKind::Layer { bias: true });
    let dropout = rng.chance(50);
    let activation = Activation::Gelu(rng.pick(&[Gelu::Tanh, Gelu::Exact]));
    [
        Part::Attention(AttentionPart {
            norm,
            group: 1,
            qk_norm: None,
            rope: None,
            partial: false,
            bias: true,
            weights_dropout: dropout,
            output_dropout: dropout,
            window: None,
            cap: None,
        }),
        Part::Mlp(MlpPart { norm, hidden: 4 * d, activation, bias: true, dropout, residual_in_linear: false }),
    ]
}

fn llama_block(rng: &mut Rng, d: usize) -> [Part; 2] {
    let norm = Some(NormKind::Rms);
    [
        Part::Attention(AttentionPart {
            norm,
            group: rng.range(1..=3),
            qk_norm: None,
            rope: Some(scaling(rng)),
            partial: false,
            bias: false,
            weights_dropout: false,
            output_dropout: false,
            window: None,
            cap: None,
        }),
        Part::Mlp(MlpPart {
            norm,
            hidden: rng.range(d..=3 * d),
            activation: Activation::SwiGlu,
            bias: false,
            dropout: false,
            residual_in_linear: false,
        }),
    ]
}

fn scaling(rng: &mut Rng) -> Scaling {
    if rng.chance(30) { Scaling::Llama3 } else { Scaling::None }
}

/// The parts with features that only some models of a family have.
fn varied(rng: &mut Rng, family: Family, mut parts: Vec<Part>) -> Vec<Part> {
    for part in &mut parts {
        if let Part::Attention(a) = part {
            a.qk_norm = rng.chance(40).then(|| rng.pick(&[QkGroups::Heads, QkGroups::Rows]));
            a.partial = rng.chance(40);
            if let Some(Scaling::Llama3) = a.rope {
                a.rope = Some(rng.pick(&[Scaling::Linear, Scaling::Llama3, Scaling::Yarn]));
            }
        }
    }
    for part in &mut parts {
        if let Part::Mlp(MlpPart { activation: activation @ Activation::SwiGlu, .. }) = part
            && rng.chance(40)
        {
            *activation = Activation::GeGlu(rng.pick(&[Gelu::Tanh, Gelu::Exact]));
        }
    }
    if family == Family::Odd && rng.chance(40) {
        parts.insert(rng.below(parts.len() + 1), Part::Half);
    }
    parts
}

fn odd_part(rng: &mut Rng, d: usize, head_dim: usize) -> Part {
    match rng.below(10) {
        0..=2 => Part::Attention(AttentionPart {
            norm: rng.chance(70).then(|| norm(rng)),
            group: rng.range(1..=3),
            qk_norm: None,
            rope: (head_dim.is_multiple_of(2) && rng.chance(60)).then(|| scaling(rng)),
            partial: false,
            bias: rng.chance(50),
            weights_dropout: rng.chance(40),
            output_dropout: rng.chance(40),
            window: None,
            cap: None,
        }),
        3..=4 => Part::Mlp(MlpPart {
            norm: rng.chance(70).then(|| norm(rng)),
            hidden: rng.range(1..=2 * d + 1),
            activation: rng.pick(&[
                Activation::None,
                Activation::Gelu(Gelu::Exact),
                Activation::Gelu(Gelu::Tanh),
                Activation::SwiGlu,
            ]),
            bias: rng.chance(50),
            dropout: rng.chance(40),
            residual_in_linear: rng.chance(50),
        }),
        5 => Part::Parallel(norm(rng)),
        6 => rng.pick(&[Part::Twice, Part::Dropout]),
        7 => Part::Earlier,
        8 => Part::PostNorm(norm(rng)),
        _ => Part::Detour(rng.pick(&[1, 3, 17, 33])),
    }
}
