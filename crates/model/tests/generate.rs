//! Sessions and generation: against the whole forward, in any chunks, beyond the context, and to every kind of end.

#[path = "generate/ends.rs"]
mod ends;
#[path = "generate/kept.rs"]
mod kept;
#[path = "generate/lookup.rs"]
mod lookup;
#[path = "generate/sessions.rs"]
mod sessions;

use std::ops::ControlFlow;
use std::sync::Arc;

use smallmind_graph::op::{Gelu, RopeScaling};
use smallmind_graph::{Batch, Bindings, Executor, GraphError, Limits, NoProbe, Plan, PlanOptions, Pool, Scalars};
use smallmind_model::sampler::{SamplerConfig, SamplerError};
use smallmind_model::tokenizer::{BpeTraining, Tokenizer};
use smallmind_model::{
    AttentionWindows, Biases, DropoutConfig, ExpertsConfig, Finish, GenerateOptions, Generation, Generator, Job,
    LOGITS, Logits, Mlp, Model, ModelConfig, ModelError, NormKind, NormPlacement, PackedModel, Positions, Purpose,
    QkNorm, Residual, RopeConfig, Sequence, SequenceId, Session, SessionOptions, architecture,
};
use smallmind_simd::IsaKind;

const CONTEXT: usize = 12;
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzé";

/// Models of different features.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Learned positions, LayerNorm, GELU, biases.
    Gpt2,
    /// Rope, RMSNorm, SwiGLU, grouped heads.
    Llama,
    /// The same with biases of queries, keys and values.
    Qwen2,
    /// What no file can state: rope, LayerNorm, GELU, some biases, another scale of scores.
    Mixed,
    /// Layers with a sliding window of so many tokens and layers without one in turn, capped scores.
    Local(usize),
    /// Norms after attention and MLP and of all queries and keys, every multiplier.
    After,
    /// Norms before and after, of each head too, a gated GELU, and capped logits.
    Around,
    /// Attention and MLP of the same stream, a part of each head rotated, and that in one layer only.
    Parallel,
    /// The same with one norm for both.
    SharedNorm,
    /// A mixture of experts.
    Experts,
}

fn config(kind: Kind) -> ModelConfig {
    let llama = ModelConfig {
        vocab_size: 27,
        context: CONTEXT,
        d_model: 16,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        d_ff: 40,
        dropout: DropoutConfig { embedding: 0.5, attention: 0.5, residual: 0.5 },
        // Large, so that the tokens before matter.
        init_std: 0.4,
        ..ModelConfig::default()
    };
    let (norm, mlp) = (NormKind::LayerNorm { bias: true }, Mlp::Gelu(Gelu::Tanh));
    match kind {
        Kind::Gpt2 => {
            ModelConfig { kv_heads: 4, positions: Positions::Learned, norm, mlp, biases: Biases::ALL, ..llama }
        }
        Kind::Llama => llama,
        Kind::Qwen2 => ModelConfig { biases: Biases::QKV, ..llama },
        Kind::Mixed => {
            let biases = Biases { qkv: false, ..Biases::ALL };
            ModelConfig { head_dim: 6, attention_scale: Some(0.9), norm, mlp, biases, ..llama }
        }
        Kind::Local(window) => ModelConfig {
            attention_windows: AttentionWindows::Pattern { window, local: vec![true, false] },
            attention_softcap: Some(2.0),
            ..llama
        },
        Kind::After => ModelConfig {
            norm_placement: NormPlacement::After,
            qk_norm: Some(QkNorm::Rows),
            residual_scale: Some(0.7),
            embedding_scale: Some(3.0),
            logit_divisor: Some(0.5),
            ..llama
        },
        Kind::Around => {
            let (mlp, logit_softcap) = (Mlp::GeGlu(Gelu::Tanh), Some(3.0));
            let norm_placement = NormPlacement::BeforeAndAfter;
            ModelConfig { norm_placement, qk_norm: Some(QkNorm::Heads), mlp, logit_softcap, ..llama }
        }
        Kind::Parallel => ModelConfig {
            norm,
            mlp,
            residual: Residual::Parallel { shared_norm: false },
            positions: Positions::RopeByLayer(vec![Some(part_of_heads()), None]),
            ..llama
        },
        Kind::SharedNorm => {
            let residual = Residual::Parallel { shared_norm: true };
            ModelConfig { norm, residual, positions: Positions::Rope(part_of_heads()), ..llama }
        }
        Kind::Experts => {
            let experts = ExpertsConfig { count: 5, per_token: 2, sums_to_one: true };
            ModelConfig { experts: Some(experts), d_ff: 12, ..llama }
        }
    }
}

/// Half of each head is rotated, with frequencies that are stretched.
fn part_of_heads() -> RopeConfig {
    RopeConfig { dim: Some(2), scaling: Some(RopeScaling::Linear { factor: 2.0 }), ..RopeConfig::default() }
}

fn model(kind: Kind) -> Model {
    Model::random(config(kind), 11).unwrap()
}

fn packed(model: &Model) -> Arc<PackedModel> {
    Arc::new(model.try_clone().unwrap().pack(IsaKind::best()).unwrap())
}

fn session(model: &Model, chunk: usize) -> Session {
    let options = SessionOptions { chunk, ..SessionOptions::single(CONTEXT, 2) };
    Session::new(packed(model), options).unwrap()
}

/// A session with one sequence.
fn opened(mut session: Session) -> (Session, SequenceId) {
    let sequence = session.open().unwrap();
    (session, sequence)
}

fn generator(model: &Model) -> Generator {
    Generator::new(session(model, 5), Arc::new(Tokenizer::characters(LETTERS).unwrap())).unwrap()
}

/// The logits of every position of whole sequences, without a cache.
fn whole(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let graph = architecture::graph(model.config(), Purpose::Logits).unwrap();
    let n = tokens.len();
    let limits = Limits { tokens: n, outputs: n, spans: 1, context: n, pages: 0 };
    let mut executor = Executor::new(Plan::new(graph, PlanOptions::flat(limits, 1, IsaKind::best())).unwrap()).unwrap();
    let mut batch = Batch::with_capacity(&limits);
    batch.push(tokens, 0);
    batch.want_all();
    let mut pool = Pool::new(1).unwrap();
    executor.run(&mut pool, &batch, &Scalars::default(), Bindings::inference(model.weights()), &NoProbe).unwrap();
    executor.result_slice(LOGITS).unwrap().to_vec()
}

/// The logits after the last of `tokens`.
fn last(model: &Model, tokens: &[u32]) -> Vec<f32> {
    whole(model, tokens).split_off((tokens.len() - 1) * model.config().vocab_size)
}

fn close(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0f32, |m, x| m.max(x.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= 1e-5 * largest, "{what}: {got}, {expected} expected");
    }
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, sampler: SamplerConfig::greedy(), stops: vec![] }
}

/// What is generated, as text and as numbers.
fn generate(generator: &mut Generator, prompt: &[u32], options: &GenerateOptions) -> (String, Generation) {
    let mut text = String::new();
    let generation = generator.generate(prompt, options, |piece| {
        text.push_str(piece);
        ControlFlow::Continue(())
    });
    (text, generation.unwrap())
}

fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|t| LETTERS.chars().nth(*t as usize).unwrap()).collect()
}

const KINDS: [Kind; 10] = [
    Kind::Gpt2,
    Kind::Llama,
    Kind::Qwen2,
    Kind::Mixed,
    Kind::Local(4),
    Kind::After,
    Kind::Around,
    Kind::Parallel,
    Kind::SharedNorm,
    Kind::Experts,
];

#[test]
fn chunks_of_any_size_give_the_logits_of_the_whole() {
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];
    for kind in KINDS {
        let model = model(kind);
        let expected = whole(&model, &tokens);
        let vocab = model.config().vocab_size;
        for chunk in [1, 2, 3, 5, 64] {
            for len in 1..=tokens.len() {
                let (mut session, a) = opened(session(&model, chunk));
                let logits = session.append(a, &tokens[..len]).unwrap().to_vec();
                close(
                    &format!("{kind:?} {len} in chunks of {chunk}"),
                    &logits,
                    &expected[(len - 1) * vocab..len * vocab],
                );
                assert!(session.logits() == logits);
                assert_eq!((session.len(a), session.is_empty(a)), (len, false));
            }
        }
        // In two appends, cut anywhere, and after tokens that were taken back.
        for cut in 1..tokens.len() {
            let (mut session, a) = opened(session(&model, 3));
            session.append(a, &tokens[..cut]).unwrap();
            session.append(a, &[20; CONTEXT][..CONTEXT - cut]).unwrap();
            session.truncate(a, cut);
            let logits = session.append(a, &tokens[cut..]).unwrap();
            close(&format!("{kind:?} cut at {cut}"), logits, &expected[11 * vocab..]);
        }
    }
}

#[test]
fn several_sequences_do_not_see_each_other() {
    let model = model(Kind::Llama);
    let vocab = model.config().vocab_size;
    let options = SessionOptions { sequences: 3, chunk: 4, ..SessionOptions::single(CONTEXT, 2) };
    let mut session = Session::new(packed(&model), options).unwrap();
    let ids = [0; 3].map(|_| session.open().unwrap());
    let mut texts = [vec![1, 2, 3, 4, 5], vec![7], vec![9, 8, 7]];
    for (id, text) in ids.iter().zip(&texts) {
        session.append(*id, text).unwrap();
    }
    for round in 0..5u32 {
        let next = [(2, 5 + round), (0, 3 * round), (1, 20 - round)];
        let jobs = next.each_ref().map(|(i, token)| Job::last(ids[*i], std::slice::from_ref(token)));
        let logits = session.run(&jobs).unwrap();
        for (job, (i, token)) in next.iter().enumerate() {
            texts[*i].push(*token);
            let got = logits.job(job).unwrap();
            assert_eq!(got.len(), vocab);
            close(&format!("sequence {i}, round {round}"), got, &last(&model, &texts[*i]));
        }
    }
    assert_eq!(ids.map(|id| session.len(id)), texts.map(|t| t.len()));
}

#[test]
fn greedy_takes_the_likeliest_of_the_whole_forward() {
    for kind in KINDS {
        let model = model(kind);
        let mut tokens = vec![2, 7, 1];
        let (text_found, generation) = generate(&mut generator(&model), &tokens, &greedy(9));
        for _ in 0..9 {
            tokens.push(argmax(&last(&model, &tokens)));
        }
        assert_eq!(text_found, text(&tokens[3..]), "{kind:?}");
        assert_eq!((generation.finish, generation.prompt_tokens, generation.tokens), (Finish::Length, 3, 9));
    }
}

#[test]
fn beyond_the_context_it_goes_on_with_the_latest_half() {
    for kind in KINDS {
        let model = model(kind);
        let mut tokens = vec![2, 7, 1];
        let (found, generation) = generate(&mut generator(&model), &tokens, &greedy(40));
        // What the cache holds of the text: a window that starts anew from its latest half when it is full.
        let mut start = 0;
        for _ in 0..40 {
            if tokens.len() - start > CONTEXT {
                start = tokens.len() - CONTEXT / 2;
            }
            let next = argmax(&last(&model, &tokens[start..]));
            tokens.push(next);
        }
        assert_eq!(found, text(&tokens[3..]), "{kind:?}");
        assert_eq!((generation.finish, generation.tokens), (Finish::Length, 40));
    }
    // The narrowest context there is.
    let narrow = ModelConfig { context: 1, ..config(Kind::Llama) };
    let model = Model::random(narrow, 3).unwrap();
    let session = Session::new(packed(&model), SessionOptions::single(1, 1)).unwrap();
    let mut generator = Generator::new(session, Arc::new(Tokenizer::characters(LETTERS).unwrap())).unwrap();
    let mut tokens = vec![4];
    for _ in 0..6 {
        tokens.push(argmax(&last(&model, &tokens[tokens.len() - 1..])));
    }
    assert_eq!(generate(&mut generator, &[4], &greedy(6)).0, text(&tokens[1..]));
}

#[test]
fn the_same_seed_writes_the_same_text() {
    let model = model(Kind::Gpt2);
    let of_seed = |seed| GenerateOptions { sampler: SamplerConfig { seed, ..SamplerConfig::default() }, ..greedy(30) };
    let mut one = generator(&model);
    let (first, _) = generate(&mut one, &[1, 2], &of_seed(7));
    assert_eq!(first.chars().count(), 30);
    // Whatever was generated in between, and on whichever generator.
    assert_ne!(generate(&mut one, &[1, 2], &of_seed(8)).0, first);
    assert_eq!(generate(&mut one, &[1, 2], &of_seed(7)).0, first);
    assert_eq!(generate(&mut generator(&model), &[1, 2], &of_seed(7)).0, first);
    assert_ne!(generate(&mut one, &[1, 3], &of_seed(7)).0, first);
}

#[test]
fn stop_strings_end_the_text_and_are_not_in_it() {
    let model = model(Kind::Llama);
    let (whole, _) = generate(&mut generator(&model), &[5], &greedy(30));
    let characters: Vec<char> = whole.chars().collect();
    for at in [0, 1, 4, 9, 20] {
        for len in [1, 2, 3] {
            let stop: String = characters[at..at + len].iter().collect();
            let end = whole.find(&stop).unwrap();
            let options = GenerateOptions { stops: vec!["never in it!".into(), stop.clone()], ..greedy(30) };
            let (text, generation) = generate(&mut generator(&model), &[5], &options);
            assert_eq!(text, whole[..end], "stopped by {stop:?}");
            assert_eq!(generation.finish, Finish::Stop(stop.clone()));
            assert_eq!(generation.tokens, whole[..end].chars().count() + len);
        }
    }
    // The beginning of a stop string at the very end is text after all.
    let half: String = characters[28..30].iter().collect::<String>() + "!";
    let (text, generation) =
        generate(&mut generator(&model), &[5], &GenerateOptions { stops: vec![half], ..greedy(30) });
    assert_eq!((text, generation.finish), (whole, Finish::Length));
}

#[test]
fn a_text_can_be_broken_off() {
    let model = model(Kind::Llama);
    let (whole, _) = generate(&mut generator(&model), &[5], &greedy(20));
    let mut generator = generator(&model);
    let mut text = String::new();
    let generation = generator.generate(&[5], &greedy(20), |piece| {
        text.push_str(piece);
        if text.chars().count() == 6 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let generation = generation.unwrap();
    assert_eq!((text, generation.finish), (whole.chars().take(6).collect(), Finish::Interrupted));
    assert_eq!(generation.tokens, 6);
    // The generator is as good as new.
    assert_eq!(generate(&mut generator, &[5], &greedy(20)).0, whole);
}

/// Texts that begin at different times, have other settings and end in other ways are, side by side, what each is alone.
#[test]
fn several_texts_at_once_are_each_the_text_alone() {
    for kind in KINDS {
        let model = model(kind);
        let (alone, _) = generate(&mut generator(&model), &[5], &greedy(30));
        let stop: String = alone.chars().skip(9).take(2).collect();
        let sampled = |seed| SamplerConfig { seed, repetition_penalty: 1.3, ..SamplerConfig::default() };
        let texts: [(&[u32], GenerateOptions); 5] = [
            (&[5], GenerateOptions { stops: vec![stop], ..greedy(30) }),
            (&[1, 2, 3, 4, 5, 6, 7], GenerateOptions { sampler: sampled(1), ..greedy(4) }),
            (&[1, 2], GenerateOptions { sampler: sampled(2), ..greedy(25) }),
            (&[9], greedy(0)),
            (&[3, 3], greedy(1)),
        ];
        let options = SessionOptions { sequences: 3, chunk: 5, ..SessionOptions::single(CONTEXT, 2) };
        let tokenizer = Arc::new(Tokenizer::characters(LETTERS).unwrap());
        let mut together = Generator::new(Session::new(packed(&model), options).unwrap(), tokenizer).unwrap();
        let (mut waiting, mut ended) = (0, 0);
        let (mut running, mut found): (Vec<Sequence>, Vec<usize>) = (vec![], vec![]);
        let mut written = vec![String::new(); texts.len()];
        while ended < texts.len() {
            if waiting < texts.len() && running.len() < 3 {
                running.push(together.begin(texts[waiting].0, &texts[waiting].1).unwrap());
                found.push(waiting);
                waiting += 1;
            }
            let step = together.step(&mut running, |which, piece| {
                written[found[which]] += piece.unwrap();
                ControlFlow::Continue(())
            });
            step.unwrap();
            while let Some(which) = running.iter().position(|sequence| sequence.finish().is_some()) {
                let (sequence, text) = (running.remove(which), found.remove(which));
                let (expected, generation) = generate(&mut generator(&model), texts[text].0, &texts[text].1);
                assert_eq!(written[text], expected, "{kind:?}, text {text}");
                assert_eq!(sequence.finish(), Some(&generation.finish));
                assert_eq!(sequence.generated_tokens(), generation.tokens);
                together.end(sequence);
                ended += 1;
            }
        }
        let session = together.session();
        assert_eq!(Some(session.free_pages()), session.options().pages);
    }
}

/// A text without finite logits ends with its error; the one beside it goes on.
#[test]
fn a_text_that_fails_leaves_the_others() {
    let mut model = model(Kind::Gpt2);
    let (expected, _) = generate(&mut generator(&model), &[1], &greedy(6));
    let bad = 26;
    assert!(!expected.contains(LETTERS.chars().nth(bad).unwrap()), "the other text doesn't read the bad token");
    let table = model.layout().offset(model.params().find("embed.tokens.weight").unwrap());
    model.weights_mut()[table + bad * 16..][..16].fill(f32::NAN);
    let options = SessionOptions { sequences: 2, ..SessionOptions::single(CONTEXT, 1) };
    let session = Session::new(packed(&model), options).unwrap();
    let mut generator = Generator::new(session, Arc::new(Tokenizer::characters(LETTERS).unwrap())).unwrap();
    let mut running = [generator.begin(&[bad as u32], &greedy(6)).unwrap(), generator.begin(&[1], &greedy(6)).unwrap()];
    let (mut text, mut errors) = (String::new(), 0);
    while running.iter().any(|sequence| sequence.finish().is_none()) {
        let step = generator.step(&mut running, |which, piece| {
            match piece {
                Ok(piece) => text += piece,
                Err(error) => {
                    assert!(matches!(error, ModelError::NonFinite { sequence: 0, position: 1, .. }), "{error}");
                    assert_eq!(which, 0);
                    errors += 1;
                }
            }
            ControlFlow::Continue(())
        });
        step.unwrap();
    }
    assert_eq!((text, errors), (expected, 1));
    assert_eq!(running.map(|s| s.finish().cloned()), [Some(Finish::Interrupted), Some(Finish::Length)]);
}

#[test]
fn no_tokens_no_text() {
    let model = model(Kind::Llama);
    let (text, generation) = generate(&mut generator(&model), &[5, 6], &greedy(0));
    assert_eq!((text.as_str(), generation.tokens, generation.finish), ("", 0, Finish::Length));
}

#[test]
fn an_empty_prompt_is_the_token_that_begins_a_text() {
    let beginning = ModelConfig { bos: Some(9), ..config(Kind::Llama) };
    let beginning = Arc::new(Model::random(beginning, 11).unwrap());
    let (text, generation) = generate(&mut generator(&beginning), &[], &greedy(5));
    assert_eq!(text, generate(&mut generator(&beginning), &[9], &greedy(5)).0);
    assert_eq!(generation.prompt_tokens, 1);
    let error = generator(&model(Kind::Llama)).generate(&[], &greedy(5), |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(ModelError::EmptyPrompt)));
    // A byte-level vocabulary brings one of its own.
    let tokenizer = Tokenizer::train_bpe(["aaa"], &BpeTraining { vocab_size: 257, ..BpeTraining::default() }).unwrap();
    let wide = ModelConfig { vocab_size: 257, ..config(Kind::Llama) };
    let session = session(&Arc::new(Model::random(wide, 1).unwrap()), 5);
    let mut generator = Generator::new(session, Arc::new(tokenizer)).unwrap();
    assert_eq!(generate(&mut generator, &[], &greedy(1)).1.prompt_tokens, 1);
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = model(Kind::Llama);
    let (mut one, a) = opened(session(&model, 5));
    let too_long = |result: Result<&[f32], ModelError>| match result {
        Err(ModelError::TooLong { tokens, context, max }) => (tokens, context, max),
        other => panic!("{other:?}"),
    };
    assert_eq!(too_long(one.append(a, &[1; CONTEXT + 1])), (13, 12, 12));
    assert_eq!(one.len(a), 0, "none of them was appended");
    one.append(a, &[1; CONTEXT - 1]).unwrap();
    assert_eq!(too_long(one.append(a, &[1, 2])), (13, 12, 12));
    one.append(a, &[2]).unwrap();
    assert_eq!(too_long(one.append(a, &[1])), (13, 12, 12));
    // The session goes on after each.
    one.truncate(a, 3);
    close("after all that", one.append(a, &[6]).unwrap(), &last(&model, &[1, 1, 1, 6]));
    let error = generator(&model).generate(&[1; CONTEXT + 1], &greedy(5), |_| ControlFlow::Continue(()));
    assert!(error.as_ref().is_err_and(|e| e.to_string().contains("13 tokens don't fit")), "{error:?}");

    let (mut narrow, a) = opened(Session::new(packed(&model), SessionOptions::single(4, 1)).unwrap());
    assert_eq!(too_long(narrow.append(a, &[1; 5])), (5, 4, 12));
    for context in [0, CONTEXT + 1] {
        let error = Session::new(packed(&model), SessionOptions::single(context, 1)).err();
        assert!(matches!(error, Some(ModelError::Context { asked, max: CONTEXT }) if asked == context));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let model = model(Kind::Gpt2);
    let (mut session, a) = opened(session(&model, 5));
    assert!(matches!(session.append(a, &[]), Err(ModelError::EmptyPrompt)));
    for tokens in [&[27][..], &[1, u32::MAX, 2]] {
        assert!(session.append(a, tokens).unwrap_err().to_string().contains("token id"), "beyond the vocabulary");
    }
    // All or nothing: the chunk before the bad one is not appended.
    close("before", session.append(a, &[3, 4]).unwrap(), &last(&model, &[3, 4]));
    let long = [1, 2, 3, 4, 5, 6, 27];
    assert!(session.append(a, &long).is_err());
    assert_eq!(session.len(a), 2, "chunks of 5: the second has the bad token");
    close("after", session.append(a, &[5]).unwrap(), &last(&model, &[3, 4, 5]));
    assert!(session.run(&[]).is_ok() && session.logits().is_empty());

    let more = Tokenizer::characters(&format!("{LETTERS}ABC")).unwrap();
    let error = Generator::new(self::session(&model, 5), Arc::new(more)).err();
    assert!(matches!(error, Some(ModelError::Vocabulary { tokenizer: 30, model: 27 })));
    let bad = SamplerConfig { temperature: -1.0, ..SamplerConfig::default() };
    let error =
        generator(&model).generate(&[1], &GenerateOptions { sampler: bad, ..greedy(1) }, |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(ModelError::Sampler(SamplerError::Setting { field: "temperature", .. }))));
    let empty = GenerateOptions { stops: vec![String::new()], ..greedy(1) };
    let error = generator(&model).generate(&[1], &empty, |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(ModelError::Stop(_))));
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY, 3e38] {
        let mut model = Model::random(config(Kind::Gpt2), 11).unwrap();
        let head = model.layout().offset(model.params().find("head.weight").unwrap());
        model.weights_mut()[head..head + 16].fill(bad);
        let norm = model.layout().offset(model.params().find("norm.bias").unwrap());
        model.weights_mut()[norm..norm + 16].fill(2.0);
        let (mut session, a) = opened(session(&model, 5));
        assert!(matches!(session.append(a, &[1, 2, 3]), Err(ModelError::NonFinite { position: 3, .. })), "{bad}");
        assert_eq!(session.len(a), 0, "{bad}: nothing is appended");
        let error = generator(&model).generate(&[1, 2], &greedy(3), |_| ControlFlow::Continue(()));
        assert!(matches!(error, Err(ModelError::NonFinite { position: 2, .. })), "{bad}");
    }
}

#[test]
fn logits_that_are_not_finite_name_their_sequence() {
    let mut model = Model::random(config(Kind::Gpt2), 11).unwrap();
    // Only a sequence that holds this token has anything but numbers.
    let table = model.layout().offset(model.params().find("embed.tokens.weight").unwrap());
    let row = table + 7 * model.config().d_model;
    model.weights_mut()[row..row + 16].fill(f32::NAN);
    let options = SessionOptions { sequences: 3, ..SessionOptions::single(CONTEXT, 1) };
    let mut session = Session::new(packed(&model), options).unwrap();
    let ids = [0; 3].map(|_| session.open().unwrap());
    session.append(ids[0], &[1]).unwrap();
    session.append(ids[2], &[1, 2, 3]).unwrap();
    let logits = session.run(&[Job::last(ids[0], &[1]), Job::last(ids[2], &[7]), Job::last(ids[1], &[1])]).unwrap();
    let error = logits.job(1).map(drop).unwrap_err();
    assert!(matches!(error, ModelError::NonFinite { sequence: 2, position: 4, .. }), "{error}");
    close("the first", logits.job(0).unwrap(), &last(&model, &[1, 1]));
    close("the third", logits.job(2).unwrap(), &last(&model, &[1]));
    assert_eq!(ids.map(|id| session.len(id)), [2, 1, 3], "nothing is appended to the second");
    let all = Job { sequence: ids[1], tokens: &[1, 7], logits: Logits::All };
    let error = session.run(&[all]).unwrap().job(0).map(drop).unwrap_err();
    assert!(matches!(error, ModelError::NonFinite { sequence: 1, .. }), "{error}");
    close("after", session.append(ids[2], &[4]).unwrap(), &last(&model, &[1, 2, 3, 4]));
}

#[test]
fn other_weights_are_another_model() {
    let (first, second) = (model(Kind::Llama), Model::random(config(Kind::Llama), 12).unwrap());
    let shared = packed(&first);
    let options = SessionOptions { chunk: 5, ..SessionOptions::single(CONTEXT, 2) };
    let (mut session, a) = opened(Session::new(shared.clone(), options).unwrap());
    session.append(a, &[1, 2, 3]).unwrap();
    // The model is held here too, and stays as it was.
    session.set_weights(second.weights()).unwrap();
    assert_eq!(session.len(a), 0);
    close("the other", session.append(a, &[4, 5]).unwrap(), &last(&second, &[4, 5]));
    let (mut held, b) = opened(Session::new(shared, options).unwrap());
    close("the first beside it", held.append(b, &[4, 5]).unwrap(), &last(&first, &[4, 5]));
    // What has another length is refused, and nothing changes.
    let short = &second.weights()[1..];
    assert!(matches!(session.set_weights(short), Err(ModelError::Graph(GraphError::ParamsLen { .. }))));
    assert!(held.model().with_weights(short).is_err());
    assert_eq!(session.len(a), 2);
    close("still the other", session.append(a, &[6]).unwrap(), &last(&second, &[4, 5, 6]));
    // Now the session's is its own.
    assert!(session.set_weights(short).is_err());
    session.set_weights(first.weights()).unwrap();
    close("the first again", session.append(a, &[4, 5]).unwrap(), &last(&first, &[4, 5]));
}

#[test]
fn bit_equal_for_any_number_of_threads() {
    for kind in KINDS {
        let model = model(kind);
        let results = [1, 2, 3, 8].map(|threads| {
            let options = SessionOptions { chunk: 4, ..SessionOptions::single(CONTEXT, threads) };
            let (mut session, a) = opened(Session::new(packed(&model), options).unwrap());
            let mut all = session.append(a, &[3, 1, 4, 1, 5, 9]).unwrap().to_vec();
            all.extend(session.append(a, &[2]).unwrap());
            all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        });
        assert!(results.iter().all(|r| *r == results[0]), "{kind:?}");
    }
}
