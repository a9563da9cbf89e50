//! Many sequences of one session: whatever runs their tokens come in, they get the bits that they get alone.

use smallmind_kernels::attention::CacheFormat;
use smallmind_kernels::{Format, FormatKind};
use smallmind_model::{Job, Logits, Model, ModelConfig, ModelError, SequenceId, Session, SessionOptions};
use smallmind_simd::IsaKind;

use super::{CONTEXT, KINDS, Kind, close, config, last, model, packed};

/// Beyond a block of keys.
const LONG: usize = 700;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A session under test, the same model alone, and what each open sequence should hold.
struct Schedule {
    session: Session,
    alone: (Session, SequenceId),
    open: Vec<(SequenceId, Vec<u32>)>,
    pages: usize,
}

impl Schedule {
    fn new(kind: Kind, format: Format, options: SessionOptions) -> Self {
        Self::of(ModelConfig { context: LONG, d_model: 32, head_dim: 8, d_ff: 256, ..config(kind) }, format, options)
    }

    fn of(config: ModelConfig, format: Format, options: SessionOptions) -> Self {
        let model = Model::random(config, 11).unwrap();
        let model = std::sync::Arc::new(model.pack_as(IsaKind::best(), format).unwrap());
        let one = SessionOptions { cache_format: options.cache_format, ..SessionOptions::single(LONG, 1) };
        let mut alone = Session::new(model.clone(), one).unwrap();
        let sequence = alone.open().unwrap();
        let session = Session::new(model, options).unwrap();
        Self { pages: session.free_pages(), session, alone: (alone, sequence), open: vec![] }
    }

    /// Random acts, then the end of all sequences.
    fn run(&mut self, rng: &mut Rng) {
        for _ in 0..10 {
            match rng.below(12) {
                0 | 1 => self.open(),
                2 => self.fork(rng),
                3 => self.truncate(rng),
                4 => self.close(rng),
                _ => self.jobs(rng),
            }
        }
        while !self.open.is_empty() {
            self.close(rng);
        }
        assert_eq!(self.session.free_pages(), self.pages, "all pages are free");
    }

    fn open(&mut self) {
        match self.session.open() {
            Ok(id) => self.open.push((id, vec![])),
            Err(error) => {
                assert!(matches!(error, ModelError::Sequences { max } if max == self.open.len()), "{error}");
            }
        }
    }

    fn fork(&mut self, rng: &mut Rng) {
        if self.open.is_empty() || self.open.len() == self.session.options().sequences {
            return self.open();
        }
        let (of, text) = self.open[rng.below(self.open.len())].clone();
        self.open.push((self.session.fork(of).unwrap(), text));
    }

    fn truncate(&mut self, rng: &mut Rng) {
        if let Some(i) = (!self.open.is_empty()).then(|| rng.below(self.open.len())) {
            let (id, text) = &mut self.open[i];
            text.truncate(rng.below(text.len() + 1));
            self.session.truncate(*id, text.len());
            assert_eq!(self.session.len(*id), text.len());
        }
    }

    fn close(&mut self, rng: &mut Rng) {
        if let Some(i) = (!self.open.is_empty()).then(|| rng.below(self.open.len())) {
            let (id, _) = self.open.swap_remove(i);
            self.session.close(id);
            assert!(matches!(self.session.append(id, &[1]), Err(ModelError::ClosedSequence)));
        }
    }

    /// Tokens for some of the sequences in one run.
    fn jobs(&mut self, rng: &mut Rng) {
        if self.open.is_empty() {
            return self.open();
        }
        for i in (1..self.open.len()).rev() {
            self.open.swap(i, rng.below(i + 1));
        }
        let count = 1 + rng.below(self.open.len());
        let work: Vec<(Vec<u32>, Logits)> = self.open[..count]
            .iter()
            .map(|(_, text)| {
                let len = match rng.below(20) {
                    0 => 1 + rng.below(300),
                    1..5 => 1 + rng.below(40),
                    5..10 => 1 + rng.below(6),
                    _ => 1,
                };
                let len = len.min(LONG - text.len());
                let logits = [Logits::Last, Logits::Last, Logits::All, Logits::None][rng.below(4)];
                ((0..len).map(|_| rng.below(27) as u32).collect(), logits)
            })
            .collect();
        let jobs: Vec<Job<'_>> = self.open[..count]
            .iter()
            .zip(&work)
            .filter(|(_, (tokens, _))| !tokens.is_empty())
            .map(|((sequence, _), (tokens, logits))| Job { sequence: *sequence, tokens, logits: *logits })
            .collect();
        let free = self.session.free_pages();
        let results: Vec<Vec<f32>> = match self.session.run(&jobs) {
            Ok(logits) => (0..jobs.len()).map(|job| logits.job(job).unwrap().to_vec()).collect(),
            Err(error) => {
                assert!(matches!(error, ModelError::CacheFull { need, free: f } if need > f && f == free), "{error}");
                self.open
                    .iter()
                    .for_each(|(id, text)| assert_eq!(self.session.len(*id), text.len(), "nothing changed"));
                assert_eq!(self.session.free_pages(), free);
                return;
            }
        };
        for (job, logits) in jobs.iter().zip(results) {
            let Some((_, text)) = self.open.iter_mut().find(|(id, _)| *id == job.sequence) else { unreachable!() };
            let before = text.len();
            text.extend_from_slice(job.tokens);
            let rows = logits.chunks_exact(27);
            match job.logits {
                Logits::None => assert_eq!(rows.len(), 0),
                Logits::Last => assert_eq!(rows.len(), 1),
                Logits::All => assert_eq!(rows.len(), job.tokens.len()),
            }
            let ends = text.len() + 1 - rows.len()..text.len() + 1;
            let checked = if rng.chance(20) { 0 } else { rows.len().saturating_sub(2) };
            for (end, row) in ends.zip(rows).skip(checked) {
                let (alone, sequence) = &mut self.alone;
                alone.truncate(*sequence, 0);
                let want = alone.append(*sequence, &text[..end]).unwrap();
                let same = want.iter().zip(row).all(|(w, r)| w.to_bits() == r.to_bits());
                assert!(same, "{end} tokens, {before} before the run of {} jobs: {row:?}, alone {want:?}", jobs.len());
            }
        }
    }
}

#[test]
fn a_thousand_schedules_give_each_sequence_the_bits_that_it_has_alone() {
    let full = SessionOptions { sequences: 16, ..SessionOptions::single(LONG, 2) };
    // Rows of Q8_0 are blocks of 32. Where pages are given, they are fewer than all sequences can fill.
    let cases = [
        (Kind::Gpt2, Format::F32, SessionOptions { chunk: 128, ..full }),
        (Kind::Llama, Format::Bf16, SessionOptions { chunk: 7, threads: 3, pages: Some(20), ..full }),
        (Kind::Qwen2, Format::Q8_0, SessionOptions { chunk: 33, threads: 1, pages: Some(40), ..full }),
        (Kind::Mixed, Format::F16, SessionOptions { chunk: 500, ..full }),
        // Within a block of keys, and beyond one.
        (Kind::Local(90), Format::F32, SessionOptions { chunk: 33, threads: 3, ..full }),
        (Kind::Local(530), Format::F32, SessionOptions { chunk: 200, pages: Some(40), ..full }),
        (Kind::After, Format::Bf16, SessionOptions { chunk: 7, threads: 3, pages: Some(20), ..full }),
        (Kind::Around, Format::Q8_0, SessionOptions { chunk: 33, threads: 1, pages: Some(40), ..full }),
        (Kind::Parallel, Format::F16, SessionOptions { chunk: 500, ..full }),
        (Kind::SharedNorm, Format::F32, SessionOptions { chunk: 128, ..full }),
        (Kind::Experts, Format::Bf16, SessionOptions { chunk: 33, threads: 3, ..full }),
    ];
    for (i, (kind, format, options)) in (0..).zip(cases) {
        let mut schedule = Schedule::new(kind, format, options);
        for seed in 0..100 {
            schedule.run(&mut Rng(1000 * i + seed));
        }
    }
}

#[test]
fn schedules_in_every_format_of_blocks_give_each_sequence_the_bits_that_it_has_alone() {
    let formats = Format::ALL.into_iter().filter(|format| format.kind() == FormatKind::Blocks);
    for (i, format) in formats.enumerate() {
        let options = SessionOptions { sequences: 16, chunk: 33, pages: None, ..SessionOptions::single(LONG, 2) };
        let mut schedule = Schedule::new(KINDS[i % KINDS.len()], format, options);
        for seed in 0..8 {
            schedule.run(&mut Rng(77 * i as u64 + seed));
        }
    }
}

#[test]
fn schedules_over_a_cache_in_every_format_give_each_sequence_the_bits_that_it_has_alone() {
    let mut seeds = 0..;
    for cache_format in [CacheFormat::F16, CacheFormat::Q8_0, CacheFormat::Q4_0] {
        // Heads of a begun block and of two.
        for (kind, head_dim, chunk, threads) in
            [(Kind::Llama, 24, 33, 1), (Kind::Local(90), 8, 128, 2), (Kind::Gpt2, 64, 7, 3), (Kind::Around, 32, 40, 8)]
        {
            let options =
                SessionOptions { sequences: 16, chunk, cache_format, ..SessionOptions::single(LONG, threads) };
            let config = ModelConfig { context: LONG, d_model: 32, head_dim, d_ff: 64, ..config(kind) };
            let mut schedule = Schedule::of(config, Format::F32, options);
            for seed in seeds.by_ref().take(if threads == 8 { 2 } else { 10 }) {
                schedule.run(&mut Rng(seed));
            }
        }
    }
}

/// Keys of magnitudes between those that `f16` and those that `f32` holds.
#[test]
fn keys_that_a_cache_cannot_hold_are_an_error() {
    let mut model = model(Kind::Llama);
    let layout = model.layout().clone();
    let qkv: Vec<_> = model.params().iter().filter(|(_, spec)| spec.name.contains("attn.qkv")).collect();
    let ranges: Vec<_> = qkv.iter().map(|(id, spec)| layout.offset(*id)..layout.offset(*id) + spec.len()).collect();
    assert!(!ranges.is_empty());
    ranges.into_iter().for_each(|range| model.weights_mut()[range].iter_mut().for_each(|w| *w *= 5e4));
    let model = packed(&model);
    for cache_format in CacheFormat::ALL {
        let options = SessionOptions { cache_format, ..SessionOptions::single(CONTEXT, 1) };
        let mut session = Session::new(model.clone(), options).unwrap();
        let sequence = session.open().unwrap();
        let outcome = session.append(sequence, &[1, 2, 3]).map(drop);
        let is_error = matches!(outcome, Err(ModelError::NonFinite { .. }));
        assert_eq!(is_error, cache_format == CacheFormat::F16, "{cache_format}: {outcome:?}");
        assert_eq!(session.len(sequence), if is_error { 0 } else { 3 });
    }
}

#[test]
fn a_session_knows_the_bytes_of_its_cache() {
    let model = packed(&Model::random(ModelConfig { head_dim: 48, ..config(Kind::Llama) }, 1).unwrap());
    let bytes = CacheFormat::ALL.map(|cache_format| {
        let options = SessionOptions { sequences: 3, cache_format, ..SessionOptions::single(CONTEXT, 1) };
        Session::new(model.clone(), options).unwrap().working_bytes().0
    });
    // Three pages of 64 tokens in two layers, each with keys and values of two heads.
    let heads = 3 * 64 * 2 * 2 * 2;
    assert_eq!(bytes, [4 * 48, 2 * 48, 2 * 34, 2 * 18].map(|of_head| heads * of_head));
}

#[test]
fn a_fork_shares_pages_until_one_of_the_two_appends() {
    let options = SessionOptions { sequences: 3, ..SessionOptions::single(CONTEXT, 2) };
    let model = model(Kind::Llama);
    let mut session = Session::new(packed(&model), options).unwrap();
    let all = session.free_pages();
    let a = session.open().unwrap();
    session.append(a, &[1, 2, 3]).unwrap();
    let b = session.fork(a).unwrap();
    assert_eq!((session.len(b), session.free_pages()), (3, all - 1), "the page is shared");
    close("the fork", session.append(b, &[4]).unwrap(), &last(&model, &[1, 2, 3, 4]));
    assert_eq!(session.free_pages(), all - 2, "the fork has a page of its own");
    close("the first", session.append(a, &[5]).unwrap(), &last(&model, &[1, 2, 3, 5]));
    assert_eq!(session.free_pages(), all - 2);
    session.close(a);
    close("the fork alone", session.append(b, &[6]).unwrap(), &last(&model, &[1, 2, 3, 4, 6]));
    session.close(b);
    session.close(b);
    assert_eq!(session.free_pages(), all);
    assert!(matches!(session.fork(b), Err(ModelError::ClosedSequence)));
    let mut other = Session::new(packed(&model), options).unwrap();
    let elsewhere = other.open().unwrap();
    assert!(session.open().is_ok());
    assert!(
        matches!(session.append(elsewhere, &[1]), Err(ModelError::ClosedSequence)),
        "a sequence of another session"
    );
}

#[test]
fn the_last_who_appends_to_a_page_keeps_it() {
    let options = SessionOptions { sequences: 2, pages: Some(2), ..SessionOptions::single(CONTEXT, 1) };
    let model = model(Kind::Llama);
    let mut session = Session::new(packed(&model), options).unwrap();
    let a = session.open().unwrap();
    session.append(a, &[1, 2, 3]).unwrap();
    let b = session.fork(a).unwrap();
    let logits = session.run(&[Job::last(a, &[4]), Job::last(b, &[5])]).unwrap();
    close("the first", logits.job(0).unwrap(), &last(&model, &[1, 2, 3, 4]));
    close("the fork", logits.job(1).unwrap(), &last(&model, &[1, 2, 3, 5]));
    assert_eq!(session.free_pages(), 0);
}

#[test]
fn a_run_is_refused_as_a_whole() {
    let options = SessionOptions { sequences: 2, pages: Some(1), ..SessionOptions::single(CONTEXT, 2) };
    let model = model(Kind::Gpt2);
    let mut session = Session::new(packed(&model), options).unwrap();
    let (a, b) = (session.open().unwrap(), session.open().unwrap());
    assert!(matches!(session.open(), Err(ModelError::Sequences { max: 2 })));
    let good = Job::last(a, &[1, 2]);
    let refused = |session: &mut Session, bad: Job<'_>| {
        let error = session.run(&[good, bad]).map(drop).unwrap_err();
        assert_eq!((session.len(a), session.len(b), session.free_pages()), (0, 0, 1), "{error}");
        assert!(session.logits().is_empty());
        error
    };
    assert!(matches!(refused(&mut session, Job::last(b, &[])), ModelError::EmptyPrompt));
    assert!(matches!(refused(&mut session, Job::last(a, &[1])), ModelError::RepeatedSequence));
    assert!(matches!(refused(&mut session, Job::last(b, &[1; CONTEXT + 1])), ModelError::TooLong { tokens: 13, .. }));
    assert!(refused(&mut session, Job::last(b, &[27])).to_string().contains("token id"));
    assert!(matches!(refused(&mut session, Job::last(b, &[1])), ModelError::CacheFull { need: 2, free: 1 }));
    close("after", session.append(a, &[1, 2]).unwrap(), &last(&model, &[1, 2]));
}
