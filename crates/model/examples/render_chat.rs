//! Renders chat templates for `benchmarks/chat/compare.py`: a JSON request a line, a JSON answer a line.
//!
//! A request has `template`, `tokens` (special tokens by name), `now`, `messages`, and what else a template takes;
//! unknown keys are variables. An answer has `text` or `error`.

use std::error::Error;
use std::io::{self, BufRead, Write};

use serde_json::json;
use smallmind_model::chat::{ChatError, ChatInput, ChatTemplate, CivilTime, Json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let answer = match render(&line?) {
            Ok(text) => json!({ "text": text }),
            Err(error) => json!({ "error": error.to_string() }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

fn render(line: &str) -> Result<String, ChatError> {
    let Json::Object(request) = Json::parse(line)? else {
        return Err(ChatError::Json { problem: "a request must be an object".to_owned() });
    };
    let get = |key: &str| request.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    let list = |key: &str| get(key).and_then(Json::as_list);
    let tokens = match get("tokens") {
        Some(Json::Object(tokens)) => {
            tokens.iter().filter_map(|(name, token)| Some((name.clone(), token.as_str()?.to_owned()))).collect()
        }
        _ => vec![],
    };
    let number = |key: &str| match get("now").and_then(|now| now.get(key)) {
        Some(Json::Int(number)) => u16::try_from(*number).unwrap_or_default(),
        _ => 0,
    };
    let part = |key: &str| number(key) as u8;
    let (year, month, day) = (number("year"), part("month"), part("day"));
    let now = CivilTime { year, month, day, hour: part("hour"), minute: part("minute"), second: part("second") };
    let own = ["template", "tokens", "now", "messages", "tools", "documents", "add_generation_prompt"];
    let variables: Vec<_> = request.iter().filter(|(name, _)| !own.contains(&name.as_str())).cloned().collect();
    let template = get("template").and_then(Json::as_str).unwrap_or_default();
    ChatTemplate::new("template", template, tokens)?.render(&ChatInput {
        messages: list("messages").unwrap_or_default(),
        tools: list("tools"),
        documents: list("documents"),
        add_generation_prompt: get("add_generation_prompt") == Some(&Json::Bool(true)),
        variables: &variables,
        now: Some(now),
    })
}
