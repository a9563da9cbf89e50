//! Runs a graph on the reference kernels: in `f64`, with a buffer for each value, without a plan. Tests compare plans
//! with it.

use std::collections::BTreeMap;

use smallmind_kernels::attention::{AttentionDropout, AttentionShape, CacheFormat};
use smallmind_kernels::matmul::Layout;
use smallmind_kernels::optimizer::SUM_BLOCK;
use smallmind_kernels::reference::{
    Matrix, activation, attention, dropout, elementwise, embedding, experts, formats, loss, matmul, norm, optimizer,
    rope, soft_cap,
};

use crate::graph::{Graph, Node, ValueId};
use crate::op::{AdamWSpec, Direction, DropoutSpec, Experts, Heads, Index, Norm, Op, QkNorm, RopeSpec};
use crate::params::ParamId;
use crate::update::clip_factor;
use crate::{Batch, GraphError, PAGE_TOKENS, Scalars, Span};

/// A model's parameters, gradients, moments and cache in `f64`, and the values of the last run.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// Parameters, by id.
    pub params: Vec<Matrix>,
    /// Their gradients.
    pub grads: Vec<Matrix>,
    /// AdamW's means of gradients and of squared gradients.
    pub moments: (Vec<Matrix>, Vec<Matrix>),
    /// For each layer the pages that have been written, `[PAGE_TOKENS, keys | values]`.
    cache: Vec<BTreeMap<u32, Matrix>>,
    /// How the cache rounds keys and values; in `F32` not at all.
    pub cache_format: CacheFormat,
    values: Vec<Option<Matrix>>,
}

impl Interpreter {
    /// An interpreter with the parameters in `params`, laid out as the graph's [`crate::FlatLayout`] says, and with
    /// zero gradients and moments.
    ///
    /// # Errors
    /// [`GraphError::Binding`] if `params` has another length.
    pub fn new(graph: &Graph, params: &[f32]) -> Result<Self, GraphError> {
        let layout = graph.params().layout();
        if params.len() != layout.len() {
            return Err(GraphError::Binding { what: "parameters", need: layout.len(), got: params.len() });
        }
        let load = |(id, spec): (ParamId, &crate::ParamSpec)| {
            let data = &params[layout.offset(id)..layout.offset(id) + spec.len()];
            Matrix::new(spec.rows, spec.cols, data.iter().map(|x| f64::from(*x)).collect())
        };
        let zeros = || -> Vec<Matrix> { graph.params().iter().map(|(_, s)| Matrix::zeros(s.rows, s.cols)).collect() };
        Ok(Self {
            params: graph.params().iter().map(load).collect(),
            grads: zeros(),
            moments: (zeros(), zeros()),
            cache: vec![],
            cache_format: CacheFormat::F32,
            values: vec![],
        })
    }

    /// Runs every node of `graph` on `batch`.
    pub fn run(&mut self, graph: &Graph, batch: &Batch, scalars: &Scalars) {
        self.values = vec![None; graph.value_count()];
        for node in graph.nodes() {
            let outputs = self.node(graph, node, batch, scalars);
            for (value, matrix) in node.outputs.iter().zip(outputs) {
                self.values[value.index()] = Some(matrix);
            }
        }
    }

    /// A result of the last run.
    pub fn result(&self, graph: &Graph, name: &str) -> Option<&Matrix> {
        self.values.get(graph.result(name)?.index())?.as_ref()
    }

    fn value(&self, value: ValueId) -> &Matrix {
        match &self.values[value.index()] {
            Some(matrix) => matrix,
            None => unreachable!("{value:?} is read before it is made"),
        }
    }

    fn param(&self, id: ParamId) -> &Matrix {
        &self.params[id.index()]
    }

    /// Adds to the gradient of a parameter; an operation that does only this has no outputs.
    fn accumulate(&mut self, id: ParamId, gradient: &[f64]) -> Vec<Matrix> {
        self.grads[id.index()].data.iter_mut().zip(gradient).for_each(|(g, d)| *g += d);
        vec![]
    }

    fn node(&mut self, graph: &Graph, node: &Node, batch: &Batch, scalars: &Scalars) -> Vec<Matrix> {
        let x = |i: usize| self.value(node.inputs[i]);
        match node.op {
            Op::Embedding { table, index } => vec![embedding::embedding(self.param(table), ids(batch, index))],
            Op::EmbeddingGrad { table, index } => {
                let d = embedding::embedding_backward(x(0), ids(batch, index), self.param(table).rows);
                self.accumulate(table, &d.data)
            }
            Op::Add => vec![elementwise::add(x(0), x(1))],
            Op::Scale { factor } => vec![elementwise::scale(x(0), f64::from(factor))],
            Op::Dropout(spec) => vec![dropout::dropout(spec.key(scalars), spec.probability, x(0))],
            Op::Norm(norm) => self.norm(norm, x(0)).into(),
            Op::AddNorm(norm) => {
                let sum = elementwise::add(x(0), x(1));
                let [y, stats] = self.norm(norm, &sum);
                vec![sum, y, stats]
            }
            Op::NormGrad(norm) => self.norm_grad(node, norm),
            Op::QkNorm(norm) => self.qk_norm(norm, x(0)).into(),
            Op::QkNormGrad(norm) => self.qk_norm_grad(node, norm),
            Op::Linear { weight, bias } => self.linear(node, weight, bias),
            Op::LinearGradInput { weight } => {
                let dx = matmul::matmul(x(0), Layout::Normal, self.param(weight), Layout::Normal);
                vec![self.plus(dx, node, 1)]
            }
            Op::LinearGradWeight { weight } => {
                let dw = matmul::matmul(x(0), Layout::Transposed, x(1), Layout::Normal);
                self.accumulate(weight, &dw.data)
            }
            Op::BiasGrad { bias } => {
                let sum = elementwise::column_sum(x(0));
                self.accumulate(bias, &sum)
            }
            Op::Rope { rope: ref spec, heads, direction } => vec![rotate(x(0), spec, heads, direction, batch)],
            Op::Gelu(kind) => vec![activation::gelu(kind, x(0))],
            Op::GeluGrad(kind) => vec![activation::gelu_backward(kind, x(0), x(1))],
            Op::SwiGlu => vec![activation::swiglu(x(0))],
            Op::SwiGluGrad => vec![activation::swiglu_backward(x(0), x(1))],
            Op::GeGlu(kind) => vec![activation::geglu(kind, x(0))],
            Op::GeGluGrad(kind) => vec![activation::geglu_backward(kind, x(0), x(1))],
            Op::Experts(Experts { gate_up, down, routing, keeps_active }) => {
                let [y, active] = experts::experts(x(0), x(1), self.param(gate_up), self.param(down), routing);
                if keeps_active { vec![y, active] } else { vec![y] }
            }
            Op::Attention { heads, dropout } => attend(x(0), heads, dropout, batch, scalars),
            Op::AttentionGrad { heads, dropout } => {
                vec![attend_backward(x(0), x(1), heads, dropout, batch, scalars)]
            }
            Op::CacheAppend { layer, heads } => {
                let kv = x(0).columns(heads.q_cols()..heads.qkv_cols());
                batch
                    .spans()
                    .iter()
                    .for_each(|span| self.append((layer, heads), batch, span, kv.rows_range(span.rows())));
                vec![]
            }
            Op::CachedAttention { layer, heads } => vec![self.attend_cache(x(0), layer, heads, batch)],
            Op::SelectRows => vec![elementwise::gather_rows(x(0), batch.outputs())],
            Op::SoftCap { cap } => vec![soft_cap::soft_cap(f64::from(cap), x(0))],
            Op::LinearCrossEntropy { weight, cap } => {
                let logits = self.logits(x(0), weight, cap);
                vec![Matrix::new(logits.rows, 1, loss::cross_entropy(&logits, batch.targets()))]
            }
            Op::LinearCrossEntropyGrad { weight, cap } => {
                self.linear_cross_entropy_grad(node, weight, cap, batch, scalars)
            }
            Op::GradSquares => vec![self.grad_squares(graph)],
            Op::ClipFactor { max_norm } => {
                let norm = x(0).data.iter().sum::<f64>().sqrt();
                vec![Matrix::new(1, 2, vec![norm, clip_factor(norm, max_norm)])]
            }
            Op::AdamW(spec) => self.adamw(node, graph, spec, scalars),
        }
    }

    fn linear(&self, node: &Node, weight: ParamId, bias: Option<ParamId>) -> Vec<Matrix> {
        let x = self.value(node.inputs[0]);
        let mut y = matmul::matmul(x, Layout::Normal, self.param(weight), Layout::Transposed);
        if let Some(bias) = bias {
            let bias = &self.param(bias).data;
            (0..y.rows).for_each(|r| y.row_mut(r).iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        vec![self.plus(y, node, 1)]
    }

    fn norm_grad(&mut self, node: &Node, norm: Norm) -> Vec<Matrix> {
        let [dy, x] = [0, 1].map(|i| self.value(node.inputs[i]));
        let (dx, dweight, dbias) = self.norm_backward(norm, dy, x);
        let dx = self.plus(dx, node, 3);
        self.accumulate(norm.weight(), &dweight);
        norm.bias().into_iter().for_each(|bias| drop(self.accumulate(bias, &dbias)));
        vec![dx]
    }

    /// The logits of `x`, capped if there is a cap.
    fn logits(&self, x: &Matrix, weight: ParamId, cap: Option<f32>) -> Matrix {
        let logits = matmul::matmul(x, Layout::Normal, self.param(weight), Layout::Transposed);
        match cap {
            Some(cap) => soft_cap::soft_cap(f64::from(cap), &logits),
            None => logits,
        }
    }

    fn qk_norm(&self, norm: QkNorm, x: &Matrix) -> [Matrix; 2] {
        let [q, k] = [norm.q, norm.k].map(|id| &self.param(id).data);
        norm::qk_norm(x, q, k, [norm.q_groups, norm.k_groups], f64::from(norm.eps)).into()
    }

    fn qk_norm_grad(&mut self, node: &Node, norm: QkNorm) -> Vec<Matrix> {
        let [dy, x] = [0, 1].map(|i| self.value(node.inputs[i]));
        let [q, k] = [norm.q, norm.k].map(|id| &self.param(id).data);
        let groups = [norm.q_groups, norm.k_groups];
        let (dx, dq, dk) = norm::qk_norm_backward(dy, x, q, k, groups, f64::from(norm.eps));
        self.accumulate(norm.q, &dq);
        self.accumulate(norm.k, &dk);
        vec![dx]
    }

    fn linear_cross_entropy_grad(
        &mut self,
        node: &Node,
        weight: ParamId,
        cap: Option<f32>,
        batch: &Batch,
        scalars: &Scalars,
    ) -> Vec<Matrix> {
        let (x, w) = (self.value(node.inputs[0]), self.param(weight));
        let logits = self.logits(x, weight, cap);
        let losses = Matrix::new(logits.rows, 1, loss::cross_entropy(&logits, batch.targets()));
        let dlogits = loss::cross_entropy_backward(&logits, batch.targets(), f64::from(scalars.loss_scale));
        let dlogits = match cap {
            Some(cap) => soft_cap::soft_cap_backward(f64::from(cap), &logits, &dlogits),
            None => dlogits,
        };
        let dx = matmul::matmul(&dlogits, Layout::Normal, w, Layout::Normal);
        let dw = matmul::matmul(&dlogits, Layout::Transposed, x, Layout::Normal);
        self.accumulate(weight, &dw.data);
        vec![losses, dx]
    }

    /// The sum of the squares of all gradients, in the first of the partial sums.
    fn grad_squares(&self, graph: &Graph) -> Matrix {
        let sum: f64 = self.grads.iter().map(|g| optimizer::sum_of_squares(&g.data)).sum();
        let mut partials = Matrix::zeros(graph.params().layout().len().div_ceil(SUM_BLOCK), 1);
        partials.data.iter_mut().take(1).for_each(|p| *p = sum);
        partials
    }

    /// `y` plus the node's input `i`, if it has one.
    fn plus(&self, y: Matrix, node: &Node, i: usize) -> Matrix {
        match node.inputs.get(i) {
            Some(addend) => elementwise::add(&y, self.value(*addend)),
            None => y,
        }
    }

    fn norm(&self, n: Norm, x: &Matrix) -> [Matrix; 2] {
        let (y, stats) = match n {
            Norm::Layer { weight, bias, eps } => {
                let bias = bias.map(|b| self.param(b).data.as_slice());
                norm::layer_norm(x, &self.param(weight).data, bias, f64::from(eps))
            }
            Norm::Rms { weight, eps } => norm::rms_norm(x, &self.param(weight).data, f64::from(eps)),
        };
        [y, stats]
    }

    fn norm_backward(&self, n: Norm, dy: &Matrix, x: &Matrix) -> (Matrix, Vec<f64>, Vec<f64>) {
        match n {
            Norm::Layer { weight, eps, .. } => {
                norm::layer_norm_backward(dy, x, &self.param(weight).data, f64::from(eps))
            }
            Norm::Rms { weight, eps } => {
                let (dx, dweight) = norm::rms_norm_backward(dy, x, &self.param(weight).data, f64::from(eps));
                (dx, dweight, vec![])
            }
        }
    }

    /// Writes new rows `[keys | values]` of a span to its pages, rounded head by head.
    fn append(&mut self, (layer, heads): (usize, Heads), batch: &Batch, span: &Span, mut new: Matrix) {
        if self.cache_format != CacheFormat::F32 {
            for head in new.data.chunks_exact_mut(heads.head_dim) {
                let row: Vec<f32> = head.iter().map(|x| *x as f32).collect();
                head.copy_from_slice(&formats::cached(self.cache_format, &row));
            }
        }
        if self.cache.len() <= layer {
            self.cache.resize(layer + 1, BTreeMap::new());
        }
        for row in 0..new.rows {
            let at = span.past + row;
            let page = batch.pages(span)[at / PAGE_TOKENS];
            let page = self.cache[layer].entry(page).or_insert_with(|| Matrix::zeros(PAGE_TOKENS, new.cols));
            page.row_mut(at % PAGE_TOKENS).copy_from_slice(new.row(row));
        }
    }

    fn attend_cache(&self, qkv: &Matrix, layer: usize, heads: Heads, batch: &Batch) -> Matrix {
        let mut out = Matrix::zeros(qkv.rows, heads.q_cols());
        for span in batch.spans() {
            let q = qkv.rows_range(span.rows()).columns(0..heads.q_cols());
            let kv: Vec<f64> =
                batch.pages(span).iter().flat_map(|page| &self.cache[layer][page].data).copied().collect();
            let kv = Matrix::new(batch.pages(span).len() * PAGE_TOKENS, 2 * heads.kv_cols(), kv);
            let kv = kv.rows_range(0..span.past + span.len);
            let (k, v) = (kv.columns(0..heads.kv_cols()), kv.columns(heads.kv_cols()..2 * heads.kv_cols()));
            let part = attention::causal_attention(&q, &k, &v, &shape(heads, None), span.past).0;
            set_rows(&mut out, span.start, &part);
        }
        out
    }

    fn adamw(&mut self, node: &Node, graph: &Graph, spec: AdamWSpec, scalars: &Scalars) -> Vec<Matrix> {
        let clip = self.value(node.inputs[0]);
        let (norm, factor) = (clip.at(0, 0), clip.at(0, 1));
        if !norm.is_finite() {
            return vec![];
        }
        for (id, param) in graph.params().iter() {
            let config = spec.step(scalars, param.decay, factor);
            let i = id.index();
            let (m, v) = (&mut self.moments.0[i].data, &mut self.moments.1[i].data);
            optimizer::adamw(&config, &mut self.params[i].data, &mut self.grads[i].data, m, v);
        }
        vec![]
    }
}

fn ids(batch: &Batch, index: Index) -> &[u32] {
    match index {
        Index::Tokens => batch.tokens(),
        Index::Positions => batch.positions(),
    }
}

/// The table ends with the batch's last position: a scaling that looks at the length of the table sees that one.
fn rotate(x: &Matrix, spec: &RopeSpec, heads: usize, direction: Direction, batch: &Batch) -> Matrix {
    let positions = batch.positions();
    let longest = positions.iter().max().map_or(0, |p| *p as usize + 1);
    let table = spec.table(longest);
    rope::rope(x, positions, &table, heads, direction)
}

fn shape(heads: Heads, dropout: Option<AttentionDropout>) -> AttentionShape {
    let scoring = heads.scoring();
    let Heads { heads, kv_heads, head_dim, .. } = heads;
    AttentionShape { heads, kv_heads, head_dim, scoring, dropout }
}

fn span_shape(heads: Heads, spec: Option<DropoutSpec>, scalars: &Scalars, span: &Span) -> AttentionShape {
    let of_span = |d: DropoutSpec| AttentionDropout { key: d.key(scalars), p: d.probability, first_row: span.start };
    shape(heads, spec.map(of_span))
}

fn set_rows(to: &mut Matrix, first: usize, part: &Matrix) {
    (0..part.rows).for_each(|r| to.row_mut(first + r).copy_from_slice(part.row(r)));
}

/// Queries, keys and values of a span.
fn split(qkv: &Matrix, heads: Heads, span: &Span) -> [Matrix; 3] {
    let rows = qkv.rows_range(span.rows());
    let (q, kv) = (heads.q_cols(), heads.kv_cols());
    [rows.columns(0..q), rows.columns(q..q + kv), rows.columns(q + kv..q + 2 * kv)]
}

fn attend(qkv: &Matrix, heads: Heads, spec: Option<DropoutSpec>, batch: &Batch, scalars: &Scalars) -> Vec<Matrix> {
    let mut out = Matrix::zeros(qkv.rows, heads.q_cols());
    let mut lse = Matrix::zeros(qkv.rows, heads.heads);
    for span in batch.spans() {
        let [q, k, v] = split(qkv, heads, span);
        let (o, l) = attention::causal_attention(&q, &k, &v, &span_shape(heads, spec, scalars, span), 0);
        set_rows(&mut out, span.start, &o);
        set_rows(&mut lse, span.start, &l);
    }
    vec![out, lse]
}

fn attend_backward(
    dout: &Matrix,
    qkv: &Matrix,
    heads: Heads,
    spec: Option<DropoutSpec>,
    batch: &Batch,
    scalars: &Scalars,
) -> Matrix {
    let mut dqkv = Matrix::zeros(qkv.rows, qkv.cols);
    for span in batch.spans() {
        let [q, k, v] = split(qkv, heads, span);
        let shape = span_shape(heads, spec, scalars, span);
        let d = attention::causal_attention_backward(&q, &k, &v, &dout.rows_range(span.rows()), &shape);
        let mut part = Matrix::zeros(span.len, qkv.cols);
        part.set_columns(0, &d.dq);
        part.set_columns(heads.q_cols(), &d.dk);
        part.set_columns(heads.q_cols() + heads.kv_cols(), &d.dv);
        set_rows(&mut dqkv, span.start, &part);
    }
    dqkv
}
