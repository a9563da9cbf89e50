//! The messages of a conversation: what they must be, and the form in which templates get them.

use super::{ChatError, Json};

/// Names under which programs pass what a model thought before it answered. The first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Types of the parts of a message that are text.
const TEXT_TYPES: [&str; 3] = ["text", "input_text", "output_text"];

/// The messages as transformers hands them to a template: without keys of the value `null`, and with what the model
/// thought under every name that templates read.
///
/// # Errors
/// [`ChatError::Message`] for what is no message; [`ChatError::Media`] for a part that is no text.
pub(super) fn normalized(messages: &[Json]) -> Result<Vec<Json>, ChatError> {
    messages.iter().enumerate().map(|(index, message)| one(index, message)).collect()
}

fn one(index: usize, message: &Json) -> Result<Json, ChatError> {
    let problem = |problem: &str| ChatError::Message { index, problem: problem.to_owned() };
    let Json::Object(members) = message else { return Err(problem("must be an object")) };
    match message.get("role") {
        Some(Json::Text(_)) => {}
        Some(_) => return Err(problem("`role` must be a text")),
        None => return Err(problem("there is no `role`")),
    }
    match message.get("content") {
        None | Some(Json::Null | Json::Text(_)) => {}
        Some(Json::List(parts)) => parts.iter().try_for_each(|part| check_part(index, part))?,
        Some(_) => return Err(problem("`content` must be a text, or a list of parts")),
    }
    let reasoning = REASONING.iter().find_map(|name| message.get(name).filter(|value| **value != Json::Null)).cloned();
    let mut members: Vec<_> = members.iter().filter(|(_, value)| *value != Json::Null).cloned().collect();
    if let Some(reasoning) = reasoning {
        if !members.iter().any(|(key, _)| key == "thinking") {
            members.insert(0, ("thinking".to_owned(), reasoning.clone()));
        }
        members.retain(|(key, _)| key != REASONING[0]);
        members.push((REASONING[0].to_owned(), reasoning));
    }
    Ok(Json::Object(members))
}

/// Refuses a part that is an image, a sound or a film: this program would leave it out without a word.
fn check_part(index: usize, part: &Json) -> Result<(), ChatError> {
    let Json::Object(members) = part else {
        return Err(ChatError::Message { index, problem: "a part of `content` must be an object".to_owned() });
    };
    let kind = match part.get("type") {
        Some(kind) => kind.as_str().unwrap_or_default(),
        // Some templates take parts without a type.
        None if part.get("text").is_some() => "text",
        None => members.first().map_or("", |(key, _)| key),
    };
    if TEXT_TYPES.contains(&kind) {
        return Ok(());
    }
    Err(ChatError::Media { index, kind: super::error::quoted(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, ChatError> {
        let messages = Json::parse(text).unwrap();
        let messages = normalized(messages.as_list().unwrap())?;
        Ok(serde_json::to_string(&messages).unwrap())
    }

    #[test]
    fn messages_are_normalized_as_transformers_does() {
        assert_eq!(of(r#"[{"role":"a","content":null,"tool_calls":null}]"#).unwrap(), r#"[{"role":"a"}]"#);
        assert_eq!(
            of(r#"[{"role":"a","reasoning":"r","content":"c"}]"#).unwrap(),
            r#"[{"thinking":"r","role":"a","reasoning":"r","content":"c","reasoning_content":"r"}]"#
        );
        let parts = r#"[{"role":"u","content":[{"type":"text","text":"x"},{"text":"y"}]}]"#;
        assert_eq!(of(parts).unwrap(), parts);
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for (messages, word) in [
            (
                r#"[{"role":"u","content":"a"},{"role":"u","content":[{"type":"image","url":"x"}]}]"#,
                "message 1: a part of type \"image\"",
            ),
            (r#"[{"role":"u","content":[{"type":"text","text":""},{"image_url":"x"}]}]"#, "\"image_url\""),
            (r#"[{"role":"u","content":[{"type":"input_audio"}]}]"#, "text only"),
            (r#"[{"role":"u","content":["x"]}]"#, "must be an object"),
            (r#"[{"role":"u","content":7}]"#, "`content` must be"),
            (r#"[{"content":"x"}]"#, "no `role`"),
            (r#"[{"role":1,"content":"x"}]"#, "`role` must be a text"),
            (r#"["x"]"#, "must be an object"),
        ] {
            let error = of(messages).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
