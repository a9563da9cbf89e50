//! Multiple choice: which of several endings a model holds to be the likeliest (Zellers et al., "HellaSwag", 2019).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use smallmind_checkpoint::json_problem;
use smallmind_kernels::attention::CacheFormat;
use smallmind_model::tokenizer::{SpecialTokens, Tokenizer};
use smallmind_model::{Job, Logits, ModelError, PackedModel, Session, SessionOptions};

use crate::TrainError;
use crate::logits::log_probability;

/// A beginning and its possible endings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The beginning.
    pub context: String,
    /// The endings, at least two.
    pub endings: Vec<String>,
    /// The number of the right ending, from 0.
    pub label: usize,
}

/// How often a model chooses the right ending.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choices {
    /// How many questions there are.
    pub questions: usize,
    /// How often the ending of the largest probability is the right one.
    pub right: usize,
    /// How often the ending with the largest logarithm of the probability for each byte is the right one.
    pub right_by_byte: usize,
}

/// Reads a `.jsonl` file with an object `{"context": …, "endings": […], "label": …}` in each line.
///
/// # Errors
/// A file that can't be read; a line that is no such object, has fewer than two endings or a label beyond them.
pub fn read_questions(path: &Path) -> Result<Vec<Question>, TrainError> {
    let text = std::fs::read_to_string(path).map_err(|source| TrainError::Read { path: path.to_owned(), source })?;
    let mut questions = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let refuse = |why: String| TrainError::Question { path: PathBuf::from(path), line: i + 1, why };
        let question: Question = serde_json::from_str(line).map_err(|error| refuse(no_question(&error)))?;
        if question.endings.len() < 2 || question.endings.iter().any(|ending| ending.trim().is_empty()) {
            return Err(refuse("`endings` must have two texts or more, none of them blank".to_owned()));
        }
        if question.label >= question.endings.len() {
            return Err(refuse(format!(
                "`label` is {}, but there are {} endings",
                question.label,
                question.endings.len()
            )));
        }
        questions.push(question);
    }
    if questions.is_empty() {
        let why = "there is no question in the file".to_owned();
        return Err(TrainError::Question { path: PathBuf::from(path), line: 1, why });
    }
    Ok(questions)
}

/// About a line that is no question. The parser counts lines within the line, which is not worth telling.
fn no_question(error: &serde_json::Error) -> String {
    let said = json_problem(error);
    let what = said.rsplit_once(" at line ").map_or(&*said, |(what, _)| what);
    let column = error.column();
    format!(
        "{what} at column {column}; each line must be {{\"context\": text, \"endings\": [texts], \"label\": number}}"
    )
}

/// Answers questions by the probability of each ending after the context and a blank, on some threads, with a key-value
/// cache in a format. `progress` gets the number of
/// questions done.
///
/// # Errors
/// A question longer than the model's context; characters that the tokenizer lacks; logits that are not finite.
pub fn answer(
    model: &Arc<PackedModel>,
    tokenizer: &Tokenizer,
    questions: &[Question],
    (threads, cache_format): (usize, CacheFormat),
    progress: &mut dyn FnMut(usize),
) -> Result<Choices, TrainError> {
    let encoded = questions.iter().map(|question| encode(tokenizer, question)).collect::<Result<Vec<_>, _>>()?;
    let longest = encoded.iter().flatten().map(|ending| ending.tokens.len() - 1).max().unwrap_or(0);
    // A longer one is an error of the run that reads it.
    let context = longest.clamp(1, model.config().context);
    let options = SessionOptions { cache_format, ..SessionOptions::single(context, threads) };
    let mut session = Session::new(model.clone(), options)?;
    let mut choices = Choices::default();
    for (i, (question, endings)) in questions.iter().zip(&encoded).enumerate() {
        let mut scores = Vec::new();
        for ending in endings {
            let score = score(&mut session, ending)?;
            scores.push((score, score / ending.bytes as f64));
        }
        choices.questions += 1;
        choices.right += usize::from(largest(scores.iter().map(|(whole, _)| *whole)) == question.label);
        choices.right_by_byte += usize::from(largest(scores.iter().map(|(_, by_byte)| *by_byte)) == question.label);
        progress(i + 1);
    }
    Ok(choices)
}

/// An ending after its context and a blank.
struct Ending {
    /// All tokens, at least two.
    tokens: Vec<u32>,
    /// How many of them are of the context.
    shared: usize,
    /// Bytes of the ending.
    bytes: usize,
}

fn encode(tokenizer: &Tokenizer, question: &Question) -> Result<Vec<Ending>, TrainError> {
    let encode = |text: &str| tokenizer.encode(text, SpecialTokens::AsText).map_err(ModelError::from);
    let context = question.context.trim_end();
    // The tokens of the context alone; the last of them may have become one with the blank.
    let alone = tokenizer.prompt(&encode(context)?);
    let ending = |text: &String| {
        let text = text.trim_start();
        let tokens = tokenizer.prompt(&encode(&format!("{context} {text}"))?);
        let same = alone.iter().zip(&tokens).take_while(|(a, b)| a == b).count();
        let shared = same.min(tokens.len() - 1).max(1);
        Ok(Ending { tokens, shared, bytes: text.len().max(1) })
    };
    question.endings.iter().map(ending).collect()
}

/// The logarithm of the probability of an ending after the context and a blank.
fn score(session: &mut Session, ending: &Ending) -> Result<f64, TrainError> {
    let Ending { tokens, shared, .. } = ending;
    let vocab = session.model().config().vocab_size;
    let sequence = session.open()?;
    let job = Job { sequence, tokens: &tokens[..tokens.len() - 1], logits: Logits::All };
    let result = session.run(&[job]).and_then(|logits| logits.job(0)).map(|logits| {
        let of_ending = logits.chunks(vocab).zip(&tokens[1..]).skip(shared - 1);
        of_ending.map(|(logits, next)| log_probability(logits, *next as usize)).sum()
    });
    session.close(sequence);
    Ok(result?)
}

/// The first of the largest numbers.
fn largest(scores: impl Iterator<Item = f64>) -> usize {
    let better = |best: (usize, f64), score: (usize, f64)| if score.1 > best.1 { score } else { best };
    scores.enumerate().fold((0, f64::NEG_INFINITY), better).0
}

#[cfg(test)]
mod tests {
    use smallmind_model::{Model, ModelConfig};
    use smallmind_simd::IsaKind;

    use super::*;

    /// The logarithm of the probability of what follows `context`, from a run for each token.
    fn naive(model: &Arc<PackedModel>, tokenizer: &Tokenizer, context: &str, ending: &str) -> f64 {
        let encode = |text: &str| tokenizer.encode(text, SpecialTokens::AsText).unwrap();
        let (first, tokens) = (encode(context).len(), encode(&format!("{context} {ending}")));
        let of_token = |at: usize| {
            let mut session = Session::new(model.clone(), SessionOptions::single(32, 1)).unwrap();
            let sequence = session.open().unwrap();
            let logits = session.append(sequence, &tokens[..at]).unwrap();
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            f64::from(logits[tokens[at] as usize]) - sum.ln()
        };
        (first..tokens.len()).map(of_token).sum()
    }

    #[test]
    fn endings_are_compared_whole_and_by_byte() {
        let config = ModelConfig {
            vocab_size: 9,
            context: 32,
            d_model: 8,
            layers: 1,
            heads: 2,
            kv_heads: 2,
            head_dim: 4,
            d_ff: 8,
            // Far from all tokens being equally likely.
            init_std: 1.0,
            ..ModelConfig::default()
        };
        let model = Arc::new(Model::random(config, 4).unwrap().pack(IsaKind::best()).unwrap());
        let tokenizer = Tokenizer::characters("abcdefgh ").unwrap();
        let endings = ["a", "cab", "hgfe", "bcdefgh"];
        let mut differ = 0;
        for context in ["a", "fade", "bad cab", "deaf head", "gaga", "h", "each", "badge bead"] {
            let scores = endings.map(|ending| naive(&model, &tokenizer, context, ending));
            let by_byte = scores.iter().zip(endings).map(|(score, ending)| score / ending.len() as f64);
            let best = [largest(scores.into_iter()), largest(by_byte)];
            differ += usize::from(best[0] != best[1]);
            for label in 0..endings.len() {
                let endings = endings.map(str::to_owned).to_vec();
                let question = Question { context: context.to_owned(), endings, label };
                let found = answer(&model, &tokenizer, &[question], (1, CacheFormat::F32), &mut |_| {}).unwrap();
                let right = best.map(|best| usize::from(best == label));
                assert_eq!([found.right, found.right_by_byte], right, "{context}: {label}");
            }
        }
        assert!(differ > 0);
    }
}
