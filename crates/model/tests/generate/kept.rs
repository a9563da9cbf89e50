//! A text in the place of another: what the session keeps of the earlier one changes nothing.

use std::ops::ControlFlow;
use std::slice;

use smallmind_model::{Generator, Sequence};

use crate::{Kind, generator, greedy, model};

/// Steps a text to its end; its tokens.
fn finished(generator: &mut Generator, sequence: &mut Sequence) -> Vec<u32> {
    while sequence.finish().is_none() {
        generator
            .step(slice::from_mut(sequence), |_, piece| {
                piece.map_or_else(|error| panic!("{error}"), |_| ControlFlow::Continue(()))
            })
            .unwrap();
    }
    sequence.tokens().to_vec()
}

/// The tokens of a text by itself.
fn alone(kind: Kind, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut generator = generator(&model(kind));
    let mut sequence = generator.begin(prompt, &greedy(count)).unwrap();
    finished(&mut generator, &mut sequence)
}

#[test]
fn a_text_after_another_is_the_text_alone() {
    for kind in [Kind::Gpt2, Kind::Llama] {
        let mut generator = generator(&model(kind));
        let mut sequence = generator.begin(&[1, 2, 3, 4], &greedy(3)).unwrap();
        let first = finished(&mut generator, &mut sequence);
        let extended = [&first[..], &[9]].concat();
        for prompt in [&extended[..], &[1, 2, 7], &[8], &first[..2], &[1, 2, 3, 4], &[1, 2, 3, 4]] {
            sequence = generator.begin_after(sequence, prompt, &greedy(3)).unwrap();
            generator.read_some(&mut sequence).unwrap();
            assert_eq!(finished(&mut generator, &mut sequence), alone(kind, prompt, 3), "{kind:?} {prompt:?}");
        }
        // After the generator has gone on with the latest half of a text, the session does not hold its beginning.
        sequence = generator.begin_after(sequence, &[1, 2, 3, 4], &greedy(30)).unwrap();
        finished(&mut generator, &mut sequence);
        sequence = generator.begin_after(sequence, &[1, 2, 3, 5], &greedy(3)).unwrap();
        assert_eq!(finished(&mut generator, &mut sequence), alone(kind, &[1, 2, 3, 5], 3), "{kind:?}");
        // Nothing but the end of an earlier text is left of a text that can't begin.
        assert!(generator.begin_after(sequence, &[], &greedy(1)).is_err());
        assert!(generator.begin(&[1], &greedy(1)).is_ok());
    }
}

#[test]
fn a_prompt_that_is_replaced_leaves_what_was_generated() {
    let kind = Kind::Llama;
    let mut generator = generator(&model(kind));
    let mut sequence = generator.begin(&[1, 2, 3, 4, 5, 6], &greedy(5)).unwrap();
    for _ in 0..3 {
        generator.step(slice::from_mut(&mut sequence), |_, _| ControlFlow::Continue(())).unwrap();
    }
    let generated = sequence.tokens()[6..].to_vec();
    assert_eq!(generated.len(), 3);
    generator.replace_prompt(&mut sequence, &[1, 9]);
    let expected = alone(kind, &[&[1, 9], &generated[..]].concat(), 2);
    assert_eq!(finished(&mut generator, &mut sequence), expected);
    assert_eq!((sequence.prompt_tokens(), sequence.generated_tokens()), (2, 5));
}
