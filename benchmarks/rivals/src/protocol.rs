//! The lines that `smallmind bench kernels` and a rival exchange.

use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// The first line: who is here and what it can do.
#[derive(Serialize)]
pub struct Greeting {
    pub rival: &'static str,
    pub version: String,
    pub contenders: Vec<Introduction>,
}

/// One library, with its version and the kernels it offers as `name/dtype`.
#[derive(Serialize)]
pub struct Introduction {
    pub name: &'static str,
    pub version: &'static str,
    pub kernels: Vec<&'static str>,
}

/// A line of input.
#[derive(Deserialize)]
pub struct Request {
    #[serde(default)]
    pub id: u64,
    #[serde(flatten)]
    pub operation: Operation,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Operation {
    /// Make the operands, check the result, warm up.
    Prepare(Case),
    /// Time that many iterations together.
    Sample { iterations: u64 },
    /// Forget the case.
    Release,
    /// End the process.
    Quit,
}

/// What to compute, and with how many threads.
#[derive(Deserialize)]
pub struct Case {
    pub contender: String,
    pub kernel: String,
    pub dtype: String,
    pub params: Params,
    pub threads: usize,
}

/// `C[m, n] = op(A) op(B)`, or `+=` where `accumulate` is set. A `gemv` may leave all but `n` and `k` out.
#[derive(Deserialize, Clone, Copy)]
pub struct Params {
    #[serde(default)]
    pub layout: Layout,
    #[serde(default = "one")]
    pub m: usize,
    pub n: usize,
    pub k: usize,
    #[serde(default)]
    pub accumulate: bool,
}

fn one() -> usize {
    1
}

/// How the operands lie, row by row: `Nn` is `A[m, k] B[k, n]`, `Nt` is `A[m, k] B[n, k]`, `Tn` is `A[k, m] B[k, n]`.
#[derive(Deserialize, Clone, Copy, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    Nn,
    #[default]
    Nt,
    Tn,
}

/// A line of output.
#[derive(Serialize, Default)]
pub struct Answer {
    pub id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<[f64; 1]>,
}

impl Answer {
    pub fn done(id: u64) -> Self {
        Self { id, ok: Some(true), ..Self::default() }
    }

    pub fn refused(id: u64, why: String) -> Self {
        Self { id, ok: Some(false), why: Some(why), ..Self::default() }
    }

    pub fn timed(id: u64, seconds: f64) -> Self {
        Self { id, seconds: Some([seconds]), ..Self::default() }
    }
}

/// The id of a line that is no request, as far as it has one: the answer has to name it.
pub fn id_of(line: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    value["id"].as_u64().unwrap_or_default()
}

/// Writes one line of JSON.
pub fn send(message: &impl Serialize) -> io::Result<()> {
    send_line(&serde_json::to_string(message)?)
}

/// Writes one line at once, as the other side waits for it.
pub fn send_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
