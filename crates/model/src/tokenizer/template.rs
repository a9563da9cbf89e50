//! The tokens that a file's post-processor puts around a text.

use super::check::require;
use super::error::TokenizerError;
use super::file::{Part, TemplatePiece};

/// The template of a file: tokens before and after the text, which may occur in it several times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Template {
    /// Tokens before the first text.
    pub prefix: Vec<u32>,
    /// Tokens between each text and the next.
    between: Vec<Vec<u32>>,
    /// Tokens after the last text.
    pub suffix: Vec<u32>,
}

/// Checks a template without the vocabulary.
pub(super) fn check(path: &str, part: &Part) -> Result<(), TokenizerError> {
    let field = format!("{path}.single");
    let known = part.special_tokens.as_ref();
    let mut texts = 0;
    for piece in require(path, "single", &part.single)? {
        match piece {
            TemplatePiece::SpecialToken { id, .. } if !known.is_some_and(|known| known.contains_key(id)) => {
                return Err(TokenizerError::field(field, format!("{id:?} is not among special_tokens")));
            }
            TemplatePiece::Sequence { id, .. } if id != "A" => {
                return Err(TokenizerError::unsupported(field, format!("the sequence {id:?}"), "the sequence \"A\""));
            }
            TemplatePiece::Sequence { .. } => texts += 1,
            TemplatePiece::SpecialToken { .. } => {}
        }
    }
    if texts > 0 {
        Ok(())
    } else {
        Err(TokenizerError::field(field, "the text is left out: there is no sequence \"A\""))
    }
}

impl Template {
    /// The template of a checked post-processor, for `vocabulary` ids.
    ///
    /// # Errors
    /// More than one template, or an id that is not in the vocabulary.
    pub fn new(part: Option<&Part>, vocabulary: usize) -> Result<Self, TokenizerError> {
        let mut templates = Vec::new();
        part.into_iter().for_each(|part| collect(part, &mut templates));
        let part = match templates.as_slice() {
            [] => return Ok(Self::default()),
            [part] => *part,
            _ => {
                let found = format!("{} parts that add tokens", templates.len());
                return Err(TokenizerError::unsupported("post_processor", found, "one"));
            }
        };
        // Tokens before each text, and after the last.
        let mut stretches = vec![Vec::new()];
        // Of BertProcessing and RobertaProcessing.
        if let (Some((_, cls)), Some((_, sep))) = (&part.cls, &part.sep) {
            stretches = vec![vec![*cls], vec![*sep]];
        }
        for piece in part.single.iter().flatten() {
            match piece {
                TemplatePiece::Sequence { .. } => stretches.push(Vec::new()),
                TemplatePiece::SpecialToken { id, .. } => {
                    let token = part.special_tokens.as_ref().and_then(|known| known.get(id));
                    if let (Some(token), Some(stretch)) = (token, stretches.last_mut()) {
                        stretch.extend_from_slice(&token.ids);
                    }
                }
            }
        }
        if let Some(id) = stretches.iter().flatten().find(|id| **id as usize >= vocabulary) {
            let problem = format!("the id {id} is not in the vocabulary");
            return Err(TokenizerError::field("post_processor", problem));
        }
        let suffix = stretches.pop().unwrap_or_default();
        let mut stretches = stretches.into_iter();
        Ok(Self { prefix: stretches.next().unwrap_or_default(), between: stretches.collect(), suffix })
    }

    /// Whether the text occurs several times.
    pub fn repeats(&self) -> bool {
        !self.between.is_empty()
    }

    /// The ids of a text with the template's tokens, except the suffix.
    pub fn open(&self, text: &[u32]) -> Vec<u32> {
        let mut ids = [&self.prefix, text].concat();
        for between in &self.between {
            ids.extend_from_slice(between);
            ids.extend_from_slice(text);
        }
        ids
    }
}

/// The templates of a post-processor and of the parts of a sequence.
fn collect<'p>(part: &'p Part, templates: &mut Vec<&'p Part>) {
    if matches!(part.kind.as_str(), "TemplateProcessing" | "BertProcessing" | "RobertaProcessing") {
        templates.push(part);
    }
    part.processors.iter().flatten().for_each(|child| collect(child, templates));
}
