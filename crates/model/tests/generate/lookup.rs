//! Drafts by look-up: whatever is drafted, each text is the text without.

use std::collections::HashSet;

use smallmind_model::Lookup;
use smallmind_model::sampler::{Dry, DynamicTemperature, LogitBias, Mirostat, Xtc};

use super::*;

/// Tokens in which each letter is followed by each other one, so that there is a draft after every text.
fn all_pairs() -> Vec<u32> {
    let (mut tokens, mut seen) = (vec![0u32], HashSet::new());
    // Of the letters that have not followed the latest one, the last: that goes through all pairs.
    while let Some(next) = (0..27).rev().find(|next| !seen.contains(&(tokens[tokens.len() - 1], *next))) {
        seen.insert((tokens[tokens.len() - 1], next));
        tokens.push(next);
    }
    assert_eq!(seen.len(), 27 * 27);
    tokens
}

/// Where drafts come from, and how long they are: as far as they pay, and always.
fn lookups() -> Vec<Lookup> {
    let pairs = Lookup::in_corpus(all_pairs());
    let always = [1, 3, 15].map(|len| [Lookup::in_text().always(len), pairs.clone().always(len)]);
    [Lookup::in_text(), pairs].into_iter().chain(always.into_iter().flatten()).collect()
}

/// A generator with room for `context` tokens, 16 of them in a run.
fn roomy(model: &Model, context: usize) -> Generator {
    let options = SessionOptions { chunk: 16, ..SessionOptions::single(context, 1) };
    let session = Session::new(packed(model), options).unwrap();
    Generator::new(session, Arc::new(Tokenizer::characters(LETTERS).unwrap())).unwrap()
}

fn wide(kind: Kind) -> Model {
    Model::random(ModelConfig { context: 100, ..config(kind) }, 11).unwrap()
}

/// Greedy, and with every setting that depends on the tokens before or on random numbers.
fn samplers() -> Vec<SamplerConfig> {
    let usual = SamplerConfig { seed: 5, ..SamplerConfig::default() };
    vec![
        SamplerConfig::greedy(),
        usual.clone(),
        SamplerConfig { temperature: 0.3, top_k: 5, top_p: 0.9, min_p: 0.02, ..usual.clone() },
        SamplerConfig { repetition_penalty: 1.2, frequency_penalty: 0.3, presence_penalty: 0.2, ..usual.clone() },
        SamplerConfig { dry: Dry { multiplier: 0.8, ..Dry::default() }, ..SamplerConfig::greedy() },
        SamplerConfig { xtc: Xtc { probability: 0.5, threshold: 0.05 }, ..usual.clone() },
        SamplerConfig { mirostat: Some(Mirostat::default()), ..usual.clone() },
        SamplerConfig {
            dynamic_temperature: DynamicTemperature { range: 0.5, ..DynamicTemperature::default() },
            logit_bias: vec![LogitBias { token: 3, bias: 1.5 }],
            ..usual
        },
    ]
}

#[test]
fn a_text_is_the_same_whatever_is_drafted() {
    let samplers = samplers();
    for (number, kind) in KINDS.into_iter().enumerate() {
        let model = wide(kind);
        for which in [0, 1 + number % (samplers.len() - 1)] {
            let sampler = samplers[which].clone();
            let options = GenerateOptions { sampler, ..greedy(60) };
            let (plain, expected) = generate(&mut roomy(&model, 100), &[2, 7, 1], &options);
            assert_eq!((expected.lookup.runs, expected.lookup.drafted), (60, 0));
            for lookup in lookups() {
                let mut generator = roomy(&model, 100);
                generator.set_lookup(Some(lookup));
                let (text, generation) = generate(&mut generator, &[2, 7, 1], &options);
                assert_eq!(text, plain, "{kind:?}, sampler {which}");
                let counts = generation.lookup;
                assert_eq!((generation.finish, counts.runs + counts.accepted), (Finish::Length, 60), "{counts:?}");
            }
        }
    }
}

/// Drafts are made, accepted and rejected, in as many runs as that takes.
#[test]
fn drafts_save_runs() {
    let model = wide(Kind::Llama);
    let counts = |lookup: Lookup, prompt: &[u32], max_tokens: usize| {
        let mut generator = roomy(&model, 100);
        generator.set_lookup(Some(lookup));
        generate(&mut generator, prompt, &greedy(max_tokens)).1.lookup
    };
    // The text itself as the corpus: all is accepted, and the drafts end with the text.
    let (text, _) = generate(&mut roomy(&model, 100), &[2, 7, 1], &greedy(65));
    let ids = text.chars().map(|letter| LETTERS.chars().position(|l| l == letter).unwrap() as u32);
    let corpus: Vec<u32> = [2, 7, 1].into_iter().chain(ids).collect();
    let known = counts(Lookup::in_corpus(corpus).always(15), &[2, 7, 1], 65);
    // One token after the prompt, four runs of 16, of which the last has no need to read the last token.
    assert_eq!((known.runs, known.accepted, known.drafted), (5, 60, 60));
    assert_eq!(known.accepted_share(), 1.0);
    // Of nonsense, little is accepted, and each token is from a run.
    let nonsense = counts(Lookup::in_corpus(all_pairs()).always(3), &[2, 7, 1], 65);
    assert!(nonsense.drafted > 100 && nonsense.accepted < nonsense.drafted / 2, "{nonsense:?}");
    assert_eq!(nonsense.runs + nonsense.accepted, 65);
    // Without a corpus there is nothing to draft from a text that has not repeated itself yet.
    assert_eq!(counts(Lookup::in_text().always(15), &[2, 7, 1], 2).drafted, 0);
}

/// The end of the text comes within a draft: stop strings, tokens that end a text, the most tokens, and the caller.
#[test]
fn a_text_ends_where_it_ends_without_drafts() {
    let plain = wide(Kind::Llama);
    let (whole, _) = generate(&mut roomy(&plain, 100), &[5], &greedy(40));
    let letters: Vec<char> = whole.chars().collect();
    let end = LETTERS.chars().position(|letter| letter == letters[17]).unwrap() as u32;
    let mut ending = Model::random(ModelConfig { eos: vec![end], ..plain.config().clone() }, 11).unwrap();
    ending.weights_mut().copy_from_slice(plain.weights());
    let stops = |at: usize| GenerateOptions { stops: vec![letters[at..at + 2].iter().collect()], ..greedy(40) };
    let cases =
        [(&plain, stops(3)), (&plain, stops(20)), (&plain, greedy(7)), (&plain, greedy(1)), (&plain, greedy(0))];
    for (model, options) in cases.into_iter().chain([(&ending, greedy(40))]) {
        let mut without = roomy(model, 100);
        let mut expected = without.begin(&[5], &options).unwrap();
        let expected_text = stepped(&mut without, &mut expected, usize::MAX);
        for lookup in lookups() {
            let mut generator = roomy(model, 100);
            generator.set_lookup(Some(lookup));
            let mut sequence = generator.begin(&[5], &options).unwrap();
            assert_eq!(stepped(&mut generator, &mut sequence, usize::MAX), expected_text);
            assert_eq!((sequence.finish(), sequence.tokens()), (expected.finish(), expected.tokens()));
            // Of the draft, the session has no more than the text.
            assert_eq!(generator.session().len(sequence.id()), without.session().len(expected.id()));
            for broken_at in [1, 2, 6, 7, 30] {
                sequence = generator.begin_after(sequence, &[5], &options).unwrap();
                expected = without.begin_after(expected, &[5], &options).unwrap();
                let text = stepped(&mut generator, &mut sequence, broken_at);
                assert_eq!(text, stepped(&mut without, &mut expected, broken_at), "broken off after {broken_at}");
                assert_eq!((sequence.finish(), sequence.tokens()), (expected.finish(), expected.tokens()));
            }
        }
    }
}

/// Steps a text to its end, or until it has so many letters; its text.
fn stepped(generator: &mut Generator, sequence: &mut Sequence, letters: usize) -> String {
    let mut text = String::new();
    while sequence.finish().is_none() {
        let step = generator.step(std::slice::from_mut(sequence), |_, piece| {
            text += piece.unwrap();
            if text.chars().count() >= letters { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        step.unwrap();
    }
    text
}

#[test]
fn beyond_the_context_it_goes_on_in_the_same_way() {
    for kind in [Kind::Gpt2, Kind::Llama, Kind::Local(4), Kind::Parallel] {
        let model = model(kind);
        for max_tokens in [10, 60] {
            let (plain, expected) = generate(&mut roomy(&model, CONTEXT), &[2, 7, 1], &greedy(max_tokens));
            for lookup in lookups() {
                let mut generator = roomy(&model, CONTEXT);
                generator.set_lookup(Some(lookup));
                let (text, generation) = generate(&mut generator, &[2, 7, 1], &greedy(max_tokens));
                assert_eq!(text, plain, "{kind:?}");
                assert_eq!(generation.context_shifts, expected.context_shifts);
            }
        }
    }
}

/// Texts that begin after each other and end in other ways, side by side, and each after another in its place.
#[test]
fn several_texts_at_once_are_the_same_with_drafts() {
    let model = wide(Kind::Llama);
    let sampled = |seed| SamplerConfig { seed, repetition_penalty: 1.3, ..SamplerConfig::default() };
    let texts: [(&[u32], GenerateOptions); 5] = [
        (&[5], greedy(30)),
        (&[1, 2, 3, 4, 5, 6, 7], GenerateOptions { sampler: sampled(1), ..greedy(4) }),
        (&[1, 2], GenerateOptions { sampler: sampled(2), ..greedy(60) }),
        (&[9], greedy(0)),
        (&[3, 3], greedy(50)),
    ];
    let alone: Vec<String> =
        texts.iter().map(|(prompt, options)| generate(&mut roomy(&model, 100), prompt, options).0).collect();
    for lookup in lookups() {
        for sequences in [2, 3, 5] {
            let options = SessionOptions { sequences, chunk: 16, ..SessionOptions::single(100, 1) };
            let tokenizer = Arc::new(Tokenizer::characters(LETTERS).unwrap());
            let mut together = Generator::new(Session::new(packed(&model), options).unwrap(), tokenizer).unwrap();
            together.set_lookup(Some(lookup.clone()));
            let (mut running, mut number): (Vec<Sequence>, Vec<usize>) = (vec![], vec![]);
            let mut written = vec![String::new(); texts.len()];
            let mut waiting = 0..texts.len();
            loop {
                if running.len() < sequences
                    && let Some(text) = waiting.next()
                {
                    running.push(together.begin(texts[text].0, &texts[text].1).unwrap());
                    number.push(text);
                }
                let step = together.step(&mut running, |which, piece| {
                    written[number[which]] += piece.unwrap();
                    ControlFlow::Continue(())
                });
                step.unwrap();
                while let Some(ended) = running.iter().position(|sequence| sequence.finish().is_some()) {
                    number.remove(ended);
                    together.end(running.remove(ended));
                }
                if running.is_empty() && waiting.is_empty() {
                    break;
                }
            }
            assert_eq!(written, alone);
            assert_eq!(Some(together.session().free_pages()), together.session().options().pages);
        }
    }
}

/// A draft that runs into a page that another text needs is given up.
#[test]
fn drafts_do_not_take_the_pages_that_texts_need() {
    let model = wide(Kind::Llama);
    let prompts = [[[1u32, 2, 3]; 20].concat(), [[4u32, 5, 6]; 19].concat()];
    // The first text ends before its page is full, by a stop string of which a draft knows nothing.
    let (text, _) = generate(&mut roomy(&model, 100), &prompts[0], &greedy(20));
    let stop: String = text.chars().take(3).collect();
    let options = [GenerateOptions { stops: vec![stop], ..greedy(20) }, greedy(20)];
    let [first, second] = [0, 1].map(|i| generate(&mut roomy(&model, 100), &prompts[i], &options[i]).0);
    let session_options = SessionOptions { sequences: 2, pages: Some(3), ..SessionOptions::single(100, 1) };
    let tokenizer = Arc::new(Tokenizer::characters(LETTERS).unwrap());
    let mut together = Generator::new(Session::new(packed(&model), session_options).unwrap(), tokenizer).unwrap();
    together.set_lookup(Some(Lookup::in_corpus(all_pairs()).always(15)));
    let mut running = [0, 1].map(|i| together.begin(&prompts[i], &options[i]).unwrap());
    let mut written = [String::new(), String::new()];
    while running.iter().any(|sequence| sequence.finish().is_none()) {
        let step = together.step(&mut running, |which, piece| {
            written[which] += piece.unwrap();
            ControlFlow::Continue(())
        });
        step.unwrap();
    }
    assert_eq!(written, [first, second]);
}

/// Logits that are not finite matter only where the text gets to.
#[test]
fn a_draft_with_logits_that_are_not_finite_is_given_up() {
    let bad = 26;
    let mut broken = wide(Kind::Gpt2);
    let (expected, _) = generate(&mut roomy(&broken, 100), &[1, 2], &greedy(40));
    assert!(!expected.contains('é'), "the text doesn't get to the bad token");
    let table = broken.layout().offset(broken.params().find("embed.tokens.weight").unwrap());
    broken.weights_mut()[table + bad * 16..][..16].fill(f32::NAN);
    // After each pair of letters, the bad one is drafted as the first or the second.
    let corpus: Vec<u32> = all_pairs().windows(2).flat_map(|pair| [pair[0], pair[1], bad as u32]).collect();
    for corpus in [corpus, all_pairs()] {
        for len in [1, 3, 15] {
            let mut generator = roomy(&broken, 100);
            generator.set_lookup(Some(Lookup::in_corpus(corpus.clone()).always(len)));
            assert_eq!(generate(&mut generator, &[1, 2], &greedy(40)).0, expected, "{len}");
        }
    }
    // Where the text gets to it, it is the same error after the same text.
    let letter = expected.chars().nth(25).unwrap();
    let bad = LETTERS.chars().position(|l| l == letter).unwrap();
    broken.weights_mut()[table + bad * 16..][..16].fill(f32::NAN);
    let until_error = |lookup: Option<Lookup>| {
        let (mut generator, mut text) = (roomy(&broken, 100), String::new());
        generator.set_lookup(lookup);
        let error = generator.generate(&[1, 2], &greedy(40), |piece| {
            text += piece;
            ControlFlow::Continue(())
        });
        (text, error.unwrap_err().to_string())
    };
    let plain = until_error(None);
    assert!(plain.1.contains("finite") && !plain.0.is_empty(), "{plain:?}");
    lookups().into_iter().for_each(|lookup| assert_eq!(until_error(Some(lookup)), plain));
}

/// A text in the place of another, and a prompt in the place of another.
#[test]
fn what_a_text_has_looked_up_is_of_its_own_tokens() {
    let model = wide(Kind::Llama);
    let prompt = [[1u32, 2, 3, 4]; 4].concat();
    let mut plain = roomy(&model, 100);
    for lookup in lookups() {
        let mut generator = roomy(&model, 100);
        generator.set_lookup(Some(lookup));
        let [after, alone] = [&mut generator, &mut plain].map(|generator| {
            let mut sequence = generator.begin(&prompt, &greedy(10)).unwrap();
            stepped(generator, &mut sequence, usize::MAX);
            let mut sequence =
                generator.begin_after(sequence, &[&prompt[..6], &[9, 2, 3]].concat(), &greedy(30)).unwrap();
            // As many tokens as a run may give.
            while sequence.generated_tokens() < 1 {
                generator.step(std::slice::from_mut(&mut sequence), |_, _| ControlFlow::Continue(())).unwrap();
            }
            generator.replace_prompt(&mut sequence, &[8, 2, 3]);
            stepped(generator, &mut sequence, usize::MAX);
            let tokens = sequence.tokens().to_vec();
            generator.end(sequence);
            tokens
        });
        assert_eq!(after, alone);
    }
}

/// Tokens that the model does not have are never drafted.
#[test]
fn a_corpus_may_have_tokens_of_another_vocabulary() {
    let model = wide(Kind::Llama);
    let corpus: Vec<u32> = all_pairs().into_iter().flat_map(|token| [token, token, 27, u32::MAX]).collect();
    let (plain, _) = generate(&mut roomy(&model, 100), &[5, 5], &greedy(40));
    let mut generator = roomy(&model, 100);
    generator.set_lookup(Some(Lookup::in_corpus(corpus).always(15)));
    assert_eq!(generate(&mut generator, &[5, 5], &greedy(40)).0, plain);
}
