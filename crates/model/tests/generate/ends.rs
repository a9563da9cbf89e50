//! Which tokens end a text.

use serde_json::{Value, json};

use super::*;

#[test]
fn the_end_of_a_text_is_not_part_of_it() {
    let model = model(Kind::Gpt2);
    let (whole, _) = generate(&mut generator(&model), &[5, 6], &greedy(20));
    let letter = whole.chars().nth(4).unwrap();
    let id = LETTERS.chars().position(|c| c == letter).unwrap() as u32;
    let end = whole.chars().position(|c| c == letter).unwrap();
    let ending = ModelConfig { eos: vec![26, id], ..config(Kind::Gpt2) };
    let mut ending = Model::random(ending, 11).unwrap();
    ending.weights_mut().copy_from_slice(model.weights());
    let (text, generation) = generate(&mut generator(&ending), &[5, 6], &greedy(20));
    assert_eq!((text, generation.tokens), (whole.chars().take(end).collect(), end));
    assert_eq!(generation.finish, Finish::EndOfText);
}

/// Models often end a turn with a token that no key of their files names.
#[test]
fn a_token_known_by_its_text_ends_a_text() {
    let model = model(Kind::Gpt2);
    let (whole, _) = generate(&mut generator(&model), &[5, 6], &greedy(20));
    let letter = whole.chars().nth(4).unwrap();
    let end = whole.chars().position(|c| c == letter).unwrap();
    let file: Value = serde_json::from_str(&Tokenizer::characters(LETTERS).unwrap().to_json().unwrap()).unwrap();
    let with = |mut file: Value, content: &str| {
        let vocab = file["model"]["vocab"].as_object_mut().unwrap();
        let id = vocab.remove(&letter.to_string()).unwrap();
        vocab.insert(content.to_owned(), id.clone());
        file["added_tokens"] = json!([{
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        }]);
        let tokenizer = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
        let mut generator = Generator::new(session(&model, 5), Arc::new(tokenizer)).unwrap();
        generate(&mut generator, &[5, 6], &greedy(20))
    };
    let (text, generation) = with(file.clone(), "<|im_end|>");
    assert_eq!((text, generation.finish), (whole.chars().take(end).collect(), Finish::EndOfText));
    // Another special token doesn't.
    let (text, generation) = with(file, "<|im_start|>");
    assert_eq!((text, generation.finish), (whole.replace(letter, "<|im_start|>"), Finish::Length));
}

/// Breaking off is asked for between the chunks of a prompt and after tokens without a text; what is read is the same.
#[test]
fn a_text_can_be_broken_off_between_chunks_and_tokens() {
    let model = model(Kind::Gpt2);
    let prompt = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    let whole = generate(&mut generator(&model), &prompt, &greedy(9)).0;
    let broken = |after: usize, options: &GenerateOptions| {
        let (mut asked, mut text) = (0, String::new());
        let mut generator = generator(&model);
        let go_on = || {
            asked += 1;
            if asked > after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let on_text = |piece: &str| {
            text += piece;
            ControlFlow::Continue(())
        };
        let generation = generator.generate_while(&prompt, options, go_on, on_text).unwrap();
        assert_eq!(generator.session().free_pages(), generator.session().options().pages.unwrap());
        (text, generation.tokens, generation.finish)
    };
    // Two chunks of five tokens are read before the run that ends with the last token.
    let nine = greedy(9);
    assert_eq!(broken(0, &nine), (String::new(), 0, Finish::Interrupted));
    assert_eq!(broken(1, &nine), (String::new(), 0, Finish::Interrupted));
    assert_eq!(broken(2, &nine), (whole.chars().take(1).collect(), 1, Finish::Interrupted));
    assert_eq!(broken(1000, &nine), (whole, 9, Finish::Length));

    // Each character may begin a stop string, so that the latest is held back; with a full context, half of the text
    // is read anew, in two chunks.
    let stops = LETTERS.chars().map(|letter| format!("{letter}!")).collect();
    let held = GenerateOptions { stops, ..greedy(30) };
    let whole = generate(&mut generator(&model), &prompt, &held).0;
    for after in 0..40 {
        let (text, tokens, finish) = broken(after, &held);
        let expected: String = whole.chars().take(tokens).collect();
        assert_eq!(text, expected, "{finish:?} after {after}");
    }

    // No token has a text: the tokenizer knows none of those that the model chooses.
    let few = Arc::new(Tokenizer::characters("a").unwrap());
    let mut silent = Generator::new(session(&model, 5), few).unwrap();
    let mut asked = 0;
    let go_on = || {
        asked += 1;
        if asked == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let generation = silent.generate_while(&[5, 6], &greedy(1000), go_on, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((generation.tokens, generation.finish), (5, Finish::Interrupted));

    // A prompt that is too long is refused before any of it is read.
    let long = [5; CONTEXT + 6];
    let never = || -> ControlFlow<()> { panic!("a chunk was read") };
    let error = generator(&model).generate_while(&long, &greedy(1), never, |_| ControlFlow::Continue(()));
    assert!(matches!(error, Err(ModelError::TooLong { .. })));
}
