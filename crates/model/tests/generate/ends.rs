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
