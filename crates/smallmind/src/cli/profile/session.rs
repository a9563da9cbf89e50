//! Prefill and decode of a session as workloads of the profiler.

use std::sync::Arc;

use smallmind::graph::{Batch, NoProbe, Plan};
use smallmind::model::{PackedModel, Session, SessionOptions};
use smallmind::profile::sampling::seconds_of_sample;
use smallmind::profile::{Recorder, Workload};

/// What a sample of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Reading the prompt.
    Prefill,
    /// Decoding one token behind so many others.
    Decode(usize),
}

/// A session and what its samples need.
pub struct SessionWorkload {
    /// The session; only slot 0 is used.
    pub session: Session,
    /// What the next samples are.
    activity: Activity,
    /// Tokens for the prompt and for the context before a decoded token.
    text: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
}

impl SessionWorkload {
    /// A session with room for the prompt and for twice the `depth`, where the model's context allows that.
    pub fn new(model: Arc<PackedModel>, prompt: Vec<u32>, depth: usize, threads: usize) -> anyhow::Result<Self> {
        let deepest = (2 * depth).min(model.config().context - 1).max(depth);
        let room = prompt.len().max(deepest + 1);
        let session = Session::new(model, SessionOptions::single(room, threads))?;
        let text = prompt.iter().copied().cycle().take(prompt.len().max(deepest)).collect();
        Ok(Self { session, activity: Activity::Prefill, text, prompt: prompt.len() })
    }

    /// The tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.text[..self.prompt]
    }

    /// The same workload, whose next samples are of `activity`.
    pub fn doing(&mut self, activity: Activity) -> &mut Self {
        self.activity = activity;
        self
    }

    /// Seconds of a decoded token behind 1 token, half of `depth`, `depth` and twice as many.
    pub fn drift(&mut self, depth: usize) -> anyhow::Result<Vec<(usize, f64)>> {
        let deepest = self.text.len().min(self.session.options().context - 1);
        let mut drift: Vec<(usize, f64)> = vec![];
        for at in [1, depth / 2, depth, 2 * depth] {
            if (1..=deepest).contains(&at) && drift.iter().all(|(d, _)| *d != at) {
                drift.push((at, seconds_of_sample(self.doing(Activity::Decode(at)))?));
            }
        }
        Ok(drift)
    }
}

impl Workload for SessionWorkload {
    type Error = anyhow::Error;

    fn about(&self) -> String {
        match self.activity {
            Activity::Prefill => {
                format!("{} tokens in chunks of {}", self.prompt, self.session.options().chunk.min(self.prompt))
            }
            Activity::Decode(depth) => format!("one token behind {depth}"),
        }
    }

    fn tokens(&self) -> usize {
        match self.activity {
            Activity::Prefill => self.prompt,
            Activity::Decode(_) => 1,
        }
    }

    fn plans(&self) -> Vec<(&'static str, &Plan)> {
        let (prefill, decode) = self.session.plans();
        match self.activity {
            Activity::Prefill => vec![("prefill", prefill)],
            Activity::Decode(_) => vec![("decode", decode)],
        }
    }

    fn start(&mut self, _samples: usize) -> anyhow::Result<Vec<Vec<Batch>>> {
        Ok(vec![match self.activity {
            Activity::Prefill => batches(self.prompt(), 0, self.session.options().chunk),
            Activity::Decode(depth) => batches(&self.text[..1], depth, 1),
        }])
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        let depth = match self.activity {
            Activity::Prefill => 0,
            Activity::Decode(depth) => depth,
        };
        let have = self.session.len(0);
        self.session.truncate(0, depth);
        if have < depth {
            self.session.append(0, &self.text[have..depth])?;
        }
        Ok(())
    }

    fn sample(&mut self, recorders: Option<&[Recorder]>) -> anyhow::Result<()> {
        let prompt = &self.text[..self.prompt];
        let token = [(0, self.text[0])];
        match (self.activity, recorders.and_then(<[Recorder]>::first)) {
            (Activity::Prefill, Some(recorder)) => self.session.append_probed(0, prompt, recorder)?,
            (Activity::Prefill, None) => self.session.append_probed(0, prompt, &NoProbe)?,
            (Activity::Decode(_), Some(recorder)) => self.session.decode_probed(&token, recorder)?,
            (Activity::Decode(_), None) => self.session.decode_probed(&token, &NoProbe)?,
        };
        Ok(())
    }

    fn with_threads(&self, threads: usize) -> anyhow::Result<Self> {
        let options = SessionOptions { threads, ..*self.session.options() };
        let session = Session::new(self.session.model().clone(), options)?;
        Ok(Self { session, activity: self.activity, text: self.text.clone(), prompt: self.prompt })
    }
}

/// The batches that append `tokens` behind `past` others, in chunks; the logits of the last token are asked for.
fn batches(tokens: &[u32], past: usize, chunk: usize) -> Vec<Batch> {
    let mut end = past;
    let mut batches = vec![];
    for tokens in tokens.chunks(chunk) {
        let mut batch = Batch::default();
        batch.push(tokens, end, 0);
        end += tokens.len();
        batches.push(batch);
    }
    if let Some(last) = batches.last_mut() {
        last.want_last();
    }
    batches
}
