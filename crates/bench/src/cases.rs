//! The list of cases.

use smallmind_graph::{GraphError, Op};
use smallmind_kernels::Format;
use smallmind_kernels::activation::Gelu;
use smallmind_model::{Purpose, SessionOptions, architecture, preset};

use crate::case::{Attention, Case, NormKind, Pass, Problem, Product};

/// Sides of the square products.
const SQUARES: [usize; 11] = [64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048];
/// Tokens of a linear layer's product.
const FORWARD_TOKENS: [usize; 5] = [1, 8, 64, 512, 2048];
/// Tokens of a layer's product with packed weights, a session's chunk among them.
const PACKED_TOKENS: [usize; 5] = [1, 8, 64, SessionOptions::CHUNK, 512];
/// Tokens of the products of its gradients.
const BACKWARD_TOKENS: [usize; 3] = [64, 512, 2048];
/// The most tokens of an output head: the engine computes logits of more tokens in chunks.
const HEAD_TOKENS: usize = 512;
/// Presets whose linear layers are measured.
const PRESETS: [&str; 7] =
    ["nanogpt-cpu", "gpt2-124m", "nanogpt-gpu", "seed-deep", "smollm2-135m", "qwen2.5-0.5b", "llama-3.2-1b"];
/// The preset whose layers are measured in `bf16` too.
const NARROW_PRESET: &str = "gpt2-124m";
/// The first this many presets belong to [`Extent::Default`].
const DEFAULT_PRESETS: usize = 2;
/// The most bytes that the operands of a case may take.
const MAX_BYTES: f64 = 2.0 * (1u64 << 30) as f64;

/// Cases to be measured, and cases that can't be.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// The cases to be measured.
    pub cases: Vec<Case>,
    /// Cases that are left out, each with the reason.
    pub left_out: Vec<String>,
}

/// Which cases are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All but the layers of most presets.
    Default,
    /// Everything.
    All,
}

impl Cases {
    /// All cases of an extent, with packed weights in `weights`.
    ///
    /// # Errors
    /// A preset whose graph can't be built.
    pub fn of(extent: Extent, weights: Format) -> Result<Self, GraphError> {
        let mut list = Self::default();
        for side in SQUARES {
            for product in [Product::nn, Product::nt, Product::tn] {
                list.product(product(side, side, side), &["square"]);
            }
        }
        let presets = match extent {
            Extent::Default => &PRESETS[..DEFAULT_PRESETS],
            Extent::All => &PRESETS,
        };
        for name in presets {
            list.preset(name, weights)?;
        }
        list.narrow();
        list.few_rows();
        list.gemv(weights);
        list.attention();
        list.norms();
        list.elements();
        list.losses();
        list.optimizer();
        Ok(list)
    }

    /// The cases that meet `filters`.
    pub fn filtered(mut self, filters: &[String]) -> Self {
        self.cases.retain(|case| case.matches(filters));
        self.left_out.retain(|text| filters.iter().all(|f| f.split(',').any(|word| text.contains(word.trim()))));
        self
    }

    /// Adds a case in `f32`, or its tags if the case is there already.
    fn add(&mut self, problem: Problem, tags: &[&str]) {
        self.add_in(Format::F32, problem, tags);
    }

    fn add_in(&mut self, format: Format, problem: Problem, tags: &[&str]) {
        self.add_case(Case { problem, format, tags: tags.iter().map(|t| t.to_string()).collect() });
    }

    fn add_case(&mut self, case: Case) {
        let cost = case.cost();
        if let Problem::PackedMatmul { k, .. } = case.problem
            && !case.format.divides(k)
        {
            self.left_out.push(format!("{case} ({}): rows of {k} are no whole blocks", case.tags.join(" ")));
            return;
        }
        if cost.read + if cost.in_place { 0.0 } else { cost.written } > MAX_BYTES {
            self.left_out.push(format!(
                "{case} ({}): more than {} GiB",
                case.tags.join(" "),
                MAX_BYTES / f64::from(1 << 30)
            ));
            return;
        }
        match self.cases.iter_mut().find(|c| c.problem == case.problem && c.format == case.format) {
            Some(known) => {
                for tag in case.tags {
                    if !known.tags.contains(&tag) {
                        known.tags.push(tag);
                    }
                }
            }
            None => self.cases.push(case),
        }
    }

    fn product(&mut self, product: Product, tags: &[&str]) {
        self.add(Problem::Matmul(product), tags);
    }

    /// The linear layers of a preset and their gradients. All blocks have the same layers, so one block is enough.
    fn preset(&mut self, name: &str, weights: Format) -> Result<(), GraphError> {
        let Some(preset) = preset::PRESETS.iter().find(|preset| preset.name == name) else { return Ok(()) };
        let mut config = preset.config();
        config.layers = 1;
        let graph = architecture::graph(&config, Purpose::Generation)?;
        for node in graph.nodes() {
            let Op::Linear { weight, .. } = node.op else { continue };
            let Some(spec) = graph.params().get(weight) else { continue };
            let (n, k, layer) = (spec.rows, spec.cols, node.path.trim_start_matches("blocks.0."));
            let max = if n == config.vocab_size { HEAD_TOKENS } else { usize::MAX };
            for tokens in FORWARD_TOKENS.into_iter().filter(|t| *t <= max) {
                self.product(Product::nt(tokens, n, k), &[name, layer]);
            }
            for m in PACKED_TOKENS {
                self.add_in(weights, Problem::PackedMatmul { m, n, k }, &[name, layer]);
            }
            for tokens in BACKWARD_TOKENS.into_iter().filter(|t| *t <= max) {
                self.product(Product::nn(tokens, k, n), &[name, layer]);
                self.product(Product { accumulate: true, ..Product::tn(n, k, tokens) }, &[name, layer]);
            }
        }
        Ok(())
    }

    /// The squares and the layers of a preset in `bf16`.
    fn narrow(&mut self) {
        let is_product = |case: &Case| matches!(case.problem, Problem::Matmul(_));
        let wanted =
            |case: &&Case| is_product(case) && case.tags.iter().any(|tag| tag == "square" || tag == NARROW_PRESET);
        let narrow: Vec<Case> =
            self.cases.iter().filter(wanted).map(|case| Case { format: Format::Bf16, ..case.clone() }).collect();
        narrow.into_iter().for_each(|case| self.add_case(case));
    }

    /// Products around the number of rows from which tiles are faster than streaming the rows of the weight.
    fn few_rows(&mut self) {
        for rows in (1..=16).chain([20, 24]) {
            for (n, k) in [(512, 128), (768, 768), (3072, 768), (2048, 2048)] {
                self.product(Product::nt(rows, n, k), &["few-rows"]);
            }
        }
    }

    fn gemv(&mut self, weights: Format) {
        for (n, k) in [(4096, 4096), (2048, 8192), (49_152, 576)] {
            self.add(Problem::Gemv { n, k }, &["few-rows"]);
            self.add_in(weights, Problem::PackedMatmul { m: 1, n, k }, &["decode"]);
        }
    }

    fn attention(&mut self) {
        let eight = Attention { heads: 8, kv_heads: 8, len: 1024, context: 1024, head_dim: 64, pass: Pass::Forward };
        let grouped = Attention { heads: 32, kv_heads: 8, ..eight };
        for pass in [Pass::Forward, Pass::Backward] {
            for context in [64, 128, 256, 512, 1024, 2048, 4096] {
                self.add(Problem::Attention(Attention { len: context, context, pass, ..eight }), &[]);
            }
            for context in [256, 1024] {
                self.add(Problem::Attention(Attention { len: context, context, pass, ..grouped }), &["grouped"]);
            }
        }
        for context in [512, 2048, 8192, 32_768] {
            for (heads, tag) in [(eight, "decode"), (grouped, "decode grouped")] {
                self.add(Problem::Attention(Attention { len: 1, context, ..heads }), &[tag]);
            }
        }
    }

    fn norms(&mut self) {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for pass in [Pass::Forward, Pass::Backward] {
                for (rows, cols, tag) in [(1024, 512, "in-cache"), (8192, 768, "step"), (65_536, 768, "out-of-cache")] {
                    self.add(Problem::Norm { kind, rows, cols, pass }, &[tag]);
                }
            }
        }
    }

    fn elements(&mut self) {
        for pass in [Pass::Forward, Pass::Backward] {
            for kind in [Gelu::Exact, Gelu::Tanh] {
                self.add(Problem::Gelu { elements: 1 << 20, kind, pass }, &[]);
            }
            self.add(Problem::SwiGlu { rows: 512, cols: 1536, pass }, &["smollm2-135m"]);
            self.add(Problem::SwiGlu { rows: 512, cols: 8192, pass }, &["llama-3.2-1b"]);
            self.add(Problem::Embedding { rows: 1024, vocab: 50_257, cols: 768, pass }, &["gpt2-124m"]);
        }
        self.add(Problem::Softmax { rows: 1000, cols: 1000 }, &[]);
        self.add(Problem::Rope { rows: 512, heads: 12, head_dim: 64 }, &["smollm2-135m"]);
        self.add(Problem::Rope { rows: 512, heads: 40, head_dim: 64 }, &["llama-3.2-1b"]);
    }

    fn losses(&mut self) {
        for pass in [Pass::Forward, Pass::Backward] {
            for vocab in [2048, 50_257] {
                self.add(Problem::CrossEntropy { rows: 512, vocab, pass }, &[]);
            }
        }
    }

    fn optimizer(&mut self) {
        for (elements, tag) in [(2_359_296, "step"), (124_000_000, "out-of-cache")] {
            self.add(Problem::AdamW { elements }, &[tag]);
            self.add(Problem::SumOfSquares { elements }, &[tag]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_stands_once_and_presets_are_found() {
        let all = Cases::of(Extent::All, Format::F32).unwrap();
        let names: HashSet<String> = all.cases.iter().map(Case::to_string).collect();
        assert_eq!(names.len(), all.cases.len());
        for preset in PRESETS {
            assert!(all.cases.iter().filter(|c| c.matches(&[preset.to_owned()])).count() > 20, "{preset}");
        }
        for kernel in ["matmul", "gemv", "attention", "layer_norm", "rms_norm", "gelu", "swiglu", "softmax", "rope"] {
            assert!(all.cases.iter().any(|c| c.problem.kernel() == kernel), "{kernel}");
        }
        let default = Cases::of(Extent::Default, Format::F32).unwrap();
        assert!(default.cases.len() < all.cases.len());
        assert!(default.cases.iter().all(|case| names.contains(&case.to_string())));
    }

    #[test]
    fn what_is_too_large_is_named() {
        let mut list = Cases::default();
        list.product(Product::nt(1, 151_936, 8192), &["giant"]);
        assert!(list.cases.is_empty() && list.left_out[0].contains("giant"), "{list:?}");
    }

    #[test]
    fn packed_weights_come_in_the_format_asked_for() {
        let plain = Cases::of(Extent::All, Format::F32).unwrap();
        let q8 = Cases::of(Extent::All, Format::Q8_0).unwrap();
        let packed = |case: &&Case| matches!(case.problem, Problem::PackedMatmul { .. });
        assert!(q8.cases.iter().filter(packed).all(|case| case.format == Format::Q8_0));
        let others = |list: &Cases| list.cases.iter().filter(|case| !packed(case)).cloned().collect::<Vec<_>>();
        assert_eq!(others(&q8), others(&plain));
        let mut list = Cases::default();
        list.add_in(Format::Q8_0, Problem::PackedMatmul { m: 1, n: 8, k: 33 }, &["odd"]);
        assert!(list.cases.is_empty() && list.left_out[0].contains("no whole blocks"), "{list:?}");
    }

    #[test]
    fn gpt2_has_its_layers() {
        let list = Cases::of(Extent::Default, Format::F32).unwrap().filtered(&["gpt2-124m".into(), "matmul".into()]);
        let has = |product| list.cases.iter().any(|c| c.problem == Problem::Matmul(product));
        assert!(has(Product::nt(512, 2304, 768)) && has(Product::nt(1, 50_257, 768)));
        assert!(has(Product::nn(64, 768, 3072)) && has(Product { accumulate: true, ..Product::tn(768, 3072, 2048) }));
    }
}
