//! Prefill and decode of a session, repeated to be measured.

use std::sync::Arc;

use smallmind_graph::{Batch, Plan, Probe, Workload};

use crate::{Job, Logits, ModelError, PackedModel, SequenceId, Session, SessionOptions};

/// What a sample of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Reading the prompt.
    Prefill,
    /// Decoding one token after this many others.
    Decode(usize),
}

/// A session and what its samples need.
pub struct SessionWorkload {
    session: Session,
    sequence: SequenceId,
    /// What the next samples are.
    activity: Activity,
    /// Tokens for the prompt and for the context before a decoded token.
    text: Vec<u32>,
    /// Tokens of the prompt.
    prompt: usize,
}

impl SessionWorkload {
    /// A session for the prompt and for twice the `depth`, if the model's context is long enough. `options` are those of
    /// the session, but for its context and its pages.
    ///
    /// # Errors
    /// An empty prompt; a prompt, or a token after `depth` others, beyond the model's context; too little memory.
    pub fn new(
        model: Arc<PackedModel>,
        prompt: Vec<u32>,
        depth: usize,
        options: SessionOptions,
    ) -> Result<Self, ModelError> {
        if prompt.is_empty() {
            return Err(ModelError::EmptyPrompt);
        }
        let deepest = depth.saturating_mul(2).min(model.config().context.saturating_sub(1)).max(depth);
        let room = prompt.len().max(deepest.saturating_add(1));
        let mut session = Session::new(model, SessionOptions { context: room, pages: None, ..options })?;
        let sequence = session.open()?;
        let text = prompt.iter().copied().cycle().take(prompt.len().max(deepest)).collect();
        Ok(Self { session, sequence, activity: Activity::Prefill, text, prompt: prompt.len() })
    }

    /// The session and its sequence. Samples begin with the tokens that the sequence has.
    pub fn session(&mut self) -> (&mut Session, SequenceId) {
        (&mut self.session, self.sequence)
    }

    /// The tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.text[..self.prompt]
    }

    fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        parts(&self.session, self.activity, &self.text, self.prompt).into_iter().flatten()
    }

    /// The same workload, whose next samples are of `activity`.
    pub fn doing(&mut self, activity: Activity) -> &mut Self {
        self.activity = activity;
        self
    }

    /// The numbers of earlier tokens with which decoding is compared: 1, half of `depth`, `depth` and twice as many, as
    /// far as the context allows.
    pub fn depths(&self, depth: usize) -> Vec<usize> {
        let deepest = self.text.len().min(self.session.options().context - 1);
        let mut depths: Vec<usize> = vec![];
        for at in [1, depth / 2, depth, depth.saturating_mul(2)] {
            if (1..=deepest).contains(&at) && !depths.contains(&at) {
                depths.push(at);
            }
        }
        depths
    }
}

impl Workload for SessionWorkload {
    type Error = ModelError;

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
        let chunk = self.session.options().chunk;
        self.parts().map(|(name, _, tokens)| (name, self.session.plan(tokens.len().min(chunk)))).collect()
    }

    fn start(&mut self, _samples: usize) -> Result<Vec<Vec<Batch>>, ModelError> {
        let chunk = self.session.options().chunk;
        let mut of_plans: Vec<_> = self.parts().map(|(_, past, tokens)| batches(tokens, past, chunk)).collect();
        of_plans.last_mut().and_then(|batches| batches.last_mut()).map(Batch::want_last);
        Ok(of_plans)
    }

    fn prepare(&mut self) -> Result<(), ModelError> {
        let depth = match self.activity {
            Activity::Prefill => 0,
            Activity::Decode(depth) => depth,
        };
        let have = self.session.len(self.sequence);
        self.session.truncate(self.sequence, depth);
        if have < depth {
            let (context, max) = (self.session.options().context, self.session.model().config().context);
            let rest = self.text.get(have..depth);
            self.session.append(self.sequence, rest.ok_or(ModelError::TooLong { tokens: depth, context, max })?)?;
        }
        Ok(())
    }

    fn sample<P: Probe>(&mut self, probes: &[P]) -> Result<(), ModelError> {
        let Self { session, sequence, activity, text, prompt } = self;
        let [first, last] = parts(session, *activity, text, *prompt);
        for ((part, probe), is_last) in [first, last].into_iter().flatten().zip(probes).zip([last.is_none(), true]) {
            let logits = if is_last { Logits::Last } else { Logits::None };
            session.run_probed(&[Job { sequence: *sequence, tokens: part.2, logits }], probe)?.job(0)?;
        }
        Ok(())
    }

    fn with_threads(&self, threads: usize) -> Result<Self, ModelError> {
        let options = SessionOptions { threads, ..*self.session.options() };
        let mut session = Session::new(self.session.model().clone(), options)?;
        let sequence = session.open()?;
        Ok(Self { session, sequence, activity: self.activity, text: self.text.clone(), prompt: self.prompt })
    }
}

/// A part of a sample that runs one plan: what it is, the number of tokens before it, and its tokens.
type Part<'t> = (&'static str, usize, &'t [u32]);

/// The parts of a sample, one or two.
fn parts<'t>(session: &Session, activity: Activity, text: &'t [u32], prompt: usize) -> [Option<Part<'t>>; 2] {
    let (prompt, chunk) = match activity {
        Activity::Decode(depth) => return [Some(("decode", depth, &text[..1])), None],
        Activity::Prefill => (&text[..prompt], session.options().chunk),
    };
    let (whole, rest) = prompt.split_at(prompt.len() - prompt.len() % chunk);
    let plan = |tokens: usize| session.plan(tokens).limits().tokens;
    if whole.is_empty() || rest.is_empty() || plan(rest.len()) == plan(chunk) {
        return [Some(("prefill", 0, prompt)), None];
    }
    [Some(("prefill", 0, whole)), Some(("last chunk", whole.len(), rest))]
}

/// Pseudo-random tokens of a vocabulary. The time of a token does not depend on its id.
pub fn random_tokens(count: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % vocabulary.max(1)
    };
    (0..count).map(|_| next() as u32).collect()
}

/// The batches in which a session appends `count` tokens after `past` others, in chunks; the last asks for logits.
/// Their tokens are all 0: the work does not depend on them.
pub fn batches_of(count: usize, past: usize, chunk: usize) -> Vec<Batch> {
    let mut batches = batches(&vec![0; count], past, chunk);
    batches.last_mut().map(Batch::want_last);
    batches
}

/// The batches that append `tokens` after `past` others, in chunks.
fn batches(tokens: &[u32], past: usize, chunk: usize) -> Vec<Batch> {
    let mut end = past;
    let mut batches = vec![];
    for tokens in tokens.chunks(chunk) {
        let mut batch = Batch::default();
        batch.push(tokens, end);
        end += tokens.len();
        batches.push(batch);
    }
    batches
}

#[cfg(test)]
mod tests {
    use smallmind_graph::NoProbe;
    use smallmind_simd::IsaKind;

    use super::*;
    use crate::{Model, ModelConfig, preset};

    #[test]
    fn samples_begin_where_their_activity_says() {
        let config = ModelConfig { layers: 1, ..preset::find("nanogpt-cpu").unwrap().config() };
        let model = Arc::new(Model::random(config, 1).unwrap().pack(IsaKind::best()).unwrap());
        let new = |prompt: &[u32], depth| {
            SessionWorkload::new(model.clone(), prompt.to_vec(), depth, SessionOptions::single(1, 1))
        };
        assert!(matches!(new(&[], 8).map(|_| ()), Err(ModelError::EmptyPrompt)));
        assert!(matches!(new(&[1], usize::MAX).map(|_| ()), Err(ModelError::Context { .. })));

        let mut workload = new(&[1, 2, 3, 4, 5], 10).unwrap();
        assert_eq!(workload.depths(10), [1, 5, 10, 20]);
        for (activity, tokens, about) in [
            (Activity::Prefill, 5, "5 tokens in chunks of 5"),
            (Activity::Decode(20), 1, "one token behind 20"),
            (Activity::Decode(7), 1, "one token behind 7"),
        ] {
            let workload = workload.doing(activity);
            assert_eq!((workload.tokens(), &workload.about()[..]), (tokens, about));
            let batches = workload.start(3).unwrap().remove(0);
            let span = batches[0].spans()[0];
            assert_eq!((batches.len(), span.len, batches[0].outputs().len()), (1, tokens, 1));
            for _ in 0..3 {
                workload.prepare().unwrap();
                let (session, sequence) = workload.session();
                assert_eq!(session.len(sequence), span.past, "{activity:?}");
                workload.sample(&[NoProbe]).unwrap();
                let (session, sequence) = workload.session();
                assert_eq!(session.len(sequence), span.past + tokens, "{activity:?}");
            }
        }
        // A last chunk of few tokens runs another plan; one of many, or no other chunk, doesn't.
        let most = SessionOptions::CHUNK;
        let deep = ModelConfig { context: 4 * most, layers: 1, ..preset::find("nanogpt-cpu").unwrap().config() };
        let model = Arc::new(Model::random(deep, 1).unwrap().pack(IsaKind::best()).unwrap());
        for (prompt, plans) in [(40, vec![40]), (2 * most, vec![2 * most]), (2 * most + 5, vec![2 * most, 5])] {
            let mut workload =
                SessionWorkload::new(model.clone(), vec![1; prompt], 1, SessionOptions::single(1, 1)).unwrap();
            let batches = workload.start(1).unwrap();
            let tokens = |batches: &Vec<Batch>| batches.iter().map(Batch::len).sum::<usize>();
            assert_eq!(batches.iter().map(tokens).collect::<Vec<_>>(), plans);
            for ((_, plan), batches) in workload.plans().into_iter().zip(&batches) {
                let runs = |batch: &Batch| workload.session.plan(batch.len()).limits() == plan.limits();
                assert!(batches.iter().all(runs), "{prompt}");
            }
            assert_eq!(batches.iter().flatten().map(|batch| batch.outputs().len()).sum::<usize>(), 1);
            let probes = vec![NoProbe; plans.len()];
            workload.sample(&probes).unwrap();
            let (session, sequence) = workload.session();
            assert_eq!((session.len(sequence), session.logits().len()), (prompt, 65));
        }

        let beyond = workload.doing(Activity::Decode(60)).prepare();
        assert!(matches!(beyond, Err(ModelError::TooLong { tokens: 60, .. })), "{beyond:?}");
    }
}
