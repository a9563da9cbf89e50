//! `chat` and `generate --chat`: a tiny model with random weights answers nonsense, which is all that is needed.

use std::fs;

use serde_json::{Value, json};
use smallmind::model::tokenizer::Tokenizer;
use smallmind::model::{Model, ModelConfig, preset};

use crate::support::{Bench, Ran};

/// A template that any vocabulary of ASCII can spell.
const TEMPLATE: &str = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\
                        <{{ m.role }}>{{ m.content }};{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// A folder `model` of random weights with room for 256 tokens, and a vocabulary of ASCII, some of which steers terminals.
pub fn bench() -> Bench {
    let bench = bench_without_template();
    bench.write("model/chat_template.jinja", TEMPLATE);
    bench
}

fn bench_without_template() -> Bench {
    let bench = Bench::new();
    let characters: String = (' '..='~').chain('а'..='ъ').collect();
    bench.write("text.txt", (characters + "\n\t\u{1b}\u{9b}\u{7}é").repeat(10));
    bench.run("tokenizer train --kind characters --data text.txt --out tokenizer.json").ok();
    // As many entries as there are characters, so that each token has a text.
    let tokenizer = Tokenizer::from_file(bench.path("tokenizer.json")).unwrap();
    let config = ModelConfig { vocab_size: tokenizer.vocab_size(), ..preset::find("quickstart").unwrap().config() };
    fs::create_dir(bench.path("model")).unwrap();
    Model::random(config, 7).unwrap().save(bench.path("model")).unwrap();
    tokenizer.save(bench.path("model/tokenizer.json")).unwrap();
    bench
}

fn chat(bench: &Bench, more: &str, input: &str) -> Ran {
    bench.run_with_input(&format!("chat -m model --threads 1 --seed 3 -n 12 {more}"), input.as_bytes())
}

/// The events of one kind.
fn of<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

fn saved(bench: &Bench, file: &str) -> Value {
    let text = fs::read_to_string(bench.path(file)).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["messages"].clone()
}

#[test]
fn each_line_of_a_pipe_is_a_question() {
    let bench = bench();
    let events = chat(&bench, "--json", "hello\n\nand you?\n").events();
    assert_eq!((&events[0]["event"], &events[0]["context"]), (&json!("started"), &json!(256)));
    let answers = of(&events, "answer");
    assert_eq!(answers.len(), 2);
    let texts: String = of(&events, "text").iter().map(|event| event["text"].as_str().unwrap()).collect();
    let joined: String = answers.iter().map(|answer| answer["text"].as_str().unwrap()).collect();
    assert_eq!(texts, joined);
    assert_eq!((&answers[0]["finish"], &answers[0]["tokens"]), (&json!("length"), &json!(12)));
    // Of the second prompt only what is new is read: the end of the answer, the question, and what the template adds.
    let new = 1 + ";<user>and you?;<assistant>".len();
    assert_eq!(answers[0]["prompt_tokens"], json!("<user>hello;<assistant>".len()));
    assert_eq!(answers[1]["read_tokens"], json!(new));
    assert_eq!(answers[1]["prompt_tokens"], json!("<user>hello;<assistant>".len() + 12 + new - 1));

    let ran = chat(&bench, "", "hello\n\nand you?\n");
    assert!(ran.stderr.contains("as many tokens as it may have"), "{ran:#?}");
    let lines = |text: &str| text.trim_end_matches('\n').to_owned();
    let expected: String = answers.iter().map(|answer| lines(answer["text"].as_str().unwrap()) + "\n").collect();
    assert_eq!(ran.ok().replace("\n\n", "\n"), expected.replace("\n\n", "\n"));
}

#[test]
fn the_text_is_that_of_generate_with_the_same_template() {
    let bench = bench();
    let events = chat(&bench, "--json --temp 0", "hello\n").events();
    let answer = of(&events, "answer")[0]["text"].clone();
    let generate = |more: &str| bench.run(&format!("generate -m model --threads 1 -n 12 --temp 0 -p hello {more}"));
    assert_eq!(generate("--chat --json").json()["text"], answer);
    assert_eq!(generate("--chat").ok().trim_end_matches('\n'), answer.as_str().unwrap().trim_end_matches('\n'));
    // Without the flag nothing changes, whatever the model has.
    let plain = generate("").ok();
    assert!(plain.starts_with("hello"), "{plain}");
    fs::remove_file(bench.path("model/chat_template.jinja")).unwrap();
    assert_eq!(generate("").ok(), plain);
    generate("--chat").fails(2, &["model", "no chat template", "--template"]);
    bench.write("mine.jinja", TEMPLATE);
    assert_eq!(generate("--chat --json --template mine.jinja").json()["text"], answer);
}

#[test]
fn a_model_without_a_template_says_what_to_do() {
    let bench = bench_without_template();
    chat(&bench, "", "hi\n").fails(2, &["model", "no chat template", "generate -p", "--template"]);
    bench.write("model/tokenizer_config.json", json!({"chat_template": "{{ 'x' }"}).to_string());
    chat(&bench, "", "hi\n").fails(3, &["tokenizer_config.json", "chat_template", "line 1"]);
    bench.write("model/tokenizer_config.json", json!({"chat_template": "x", "bos_token": 1}).to_string());
    chat(&bench, "", "hi\n").fails(3, &["tokenizer_config.json", "`bos_token`"]);
    let named = json!({"chat_template": [{"name": "a", "template": "x"}, {"name": "b", "template": TEMPLATE}]});
    bench.write("model/tokenizer_config.json", named.to_string());
    chat(&bench, "", "hi\n").fails(2, &["a, b", "--template-name"]);
    chat(&bench, "--template-name c", "hi\n").fails(2, &["\"c\"", "a, b"]);
    assert_eq!(of(&chat(&bench, "--template-name b --json", "hi\n").events(), "answer").len(), 1);
    chat(&bench, "--template none.jinja", "hi\n").fails(3, &["none.jinja", "no such file"]);
    bench.write("endless.jinja", "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}");
    chat(&bench, "--template endless.jinja", "hi\n").fails(4, &["endless.jinja", "steps"]);
}

#[test]
fn commands_do_what_they_say() {
    let bench = bench();
    let input = "/system Be brief.\nhello\n/save a.json\n/regen\n/save b.json\n/clear\n/save c.json\n/load a.json\n/stats\n\
                 /set temp 0\n/set\n/help\n//x\n/system\n/save d.json\n/quit\nnever\n";
    let events = chat(&bench, "--json", input).events();
    let answers = of(&events, "answer");
    assert_eq!(answers.len(), 3);
    let (a, b) = (saved(&bench, "a.json"), saved(&bench, "b.json"));
    let system = json!({"role": "system", "content": "Be brief."});
    assert_eq!(a[0], system);
    assert_eq!((&a[1], a.as_array().unwrap().len()), (&json!({"role": "user", "content": "hello"}), 3));
    assert_eq!((&a[2]["content"], &b[2]["content"]), (&answers[0]["text"], &answers[1]["text"]));
    assert_ne!(a[2], b[2], "another seed");
    assert_eq!(saved(&bench, "c.json"), json!([system]));
    let stats = of(&events, "stats")[0];
    assert_eq!((&stats["messages"], &stats["answers"], &stats["tokens"]), (&json!(3), &json!(2), &json!(24)));
    let settings = &of(&events, "settings")[0]["settings"];
    assert_eq!((&settings["temperature"], &settings["top_p"]), (&json!(0.0), &json!(0.95)));
    assert!(of(&events, "help")[0]["text"].as_str().unwrap().contains("/regen"));
    let d = saved(&bench, "d.json");
    assert_eq!((&d[0], &d[2]), (&a[1], &json!({"role": "user", "content": "/x"})));

    for (input, code, word) in [
        ("/nothing\n", 2, "/help"),
        ("/set temp hot\n", 2, "number"),
        ("/set nothing 1\n", 2, "temperature"),
        ("/load none.json\n", 3, "none.json"),
        ("/load model/config.json\n", 3, "no `messages`"),
        ("/regen\n", 2, "no question"),
        ("/save a.json\n", 2, "--overwrite"),
        ("\"\"\"never ends\n", 3, "no end"),
    ] {
        chat(&bench, "", input).fails(code, &[word]);
    }
    chat(&bench, "--overwrite --json", "hi\n/save a.json\n").events();
    assert_eq!(saved(&bench, "a.json")[0], json!({"role": "user", "content": "hi"}));
    bench.write("tools.json", json!([{"role": "tool", "content": "x"}]).to_string());
    chat(&bench, "", "/load tools.json\n").fails(2, &["tools.json", "refuses this conversation: no tools"]);
    bench.write("image.json", json!([{"role": "user", "content": [{"type": "image", "url": "x"}]}]).to_string());
    chat(&bench, "", "/load image.json\n").fails(2, &["image", "text only"]);
}

#[test]
fn texts_of_several_lines() {
    let bench = bench();
    let input = "a\\\nb\\\nc\n\"\"\"\nd\n\n e\n\"\"\"\n\"\"\"f\"\"\"\n/save a.json\n";
    chat(&bench, "--json", input).events();
    let messages = saved(&bench, "a.json");
    let asked: Vec<_> = messages.as_array().unwrap().iter().filter(|message| message["role"] == "user").collect();
    assert_eq!(asked.iter().map(|message| &message["content"]).collect::<Vec<_>>(), ["a\nb\nc", "d\n\n e", "f"]);
}

#[test]
fn a_full_context_forgets_whole_turns_and_keeps_the_system_prompt() {
    let bench = bench();
    let input = "one one one one\ntwo two two two\nthree three three\nfour four four\n/stats\n/save a.json\n";
    let events = chat(&bench, "--json --context 120 --system SYSTEM", input).events();
    let dropped: u64 = of(&events, "context_full").iter().map(|event| event["dropped_turns"].as_u64().unwrap()).sum();
    assert!(dropped >= 1, "{events:#?}");
    assert!(of(&events, "answer").iter().all(|answer| answer["prompt_tokens"].as_u64().unwrap() <= 120));
    let stats = of(&events, "stats")[0];
    assert_eq!(stats["left_out"], json!(2 * dropped));
    assert_eq!(saved(&bench, "a.json").as_array().unwrap().len(), 9, "nothing is lost");
    let ran = chat(&bench, "--context 120 --system SYSTEM --overwrite", input);
    assert!(ran.stderr.contains("forgotten; the system prompt stays"), "{ran:#?}");
    ran.ok();

    // An answer that is longer than the context goes on while there is a turn to forget, and then ends.
    let events = bench.run_with_input("chat -m model --threads 1 --seed 3 --context 60 --json", b"ab\ncd\n").events();
    let answers = of(&events, "answer");
    assert!(answers.iter().all(|answer| answer["finish"] == "context_full"), "{answers:#?}");
    assert_eq!(answers[0]["tokens"], json!(60 - "<user>ab;<assistant>".len() + 1));
    assert_eq!(of(&events, "context_full").len(), 1);
    chat(&bench, "--context 30", "this question alone is longer than that\n").fails(4, &["30", "--context"]);
}

#[test]
fn a_template_may_refuse_the_system_prompt() {
    let bench = bench();
    let template = TEMPLATE.replace("'tool'", "'system'").replace("no tools", "no system role");
    bench.write("model/chat_template.jinja", template);
    chat(&bench, "--system x", "hi\n").fails(2, &["refuses", "no system role"]);
    let ran = chat(&bench, "", "hi\n/system x\n");
    assert_eq!(ran.code, Some(2), "{ran:#?}");
    assert!(ran.stderr.contains("no system role"), "{ran:#?}");
}

#[test]
fn thoughts_are_folded() {
    let bench = bench();
    // The prompt opens the thoughts, and this model never closes them.
    bench.write("model/chat_template.jinja", format!("{TEMPLATE}<think>"));
    let events = chat(&bench, "--json", "hi\n/save a.json\n").events();
    let answer = of(&events, "answer")[0];
    assert_eq!(answer["text"], json!(""));
    let thought: String = of(&events, "thinking").iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(json!(thought), answer["thinking"]);
    assert_eq!(saved(&bench, "a.json")[1]["reasoning_content"], json!(thought.trim()));
    let ran = chat(&bench, "", "hi\n");
    assert!(ran.stderr.contains("thinking …") && ran.stderr.contains("/set thinking on"), "{ran:#?}");
    assert_eq!(ran.ok(), "\n");
    assert!(chat(&bench, "--show-thinking", "hi\n").ok().contains(thought.trim_end_matches('\n')));
}

#[test]
fn variables_speed_and_profile() {
    let bench = bench();
    bench.write(
        "model/chat_template.jinja",
        "{% if mood is defined %}{{ mood }}{{ n + 1 }}{% endif %}{{ messages[0].content }}",
    );
    let prompt = |more: &str| {
        of(&chat(&bench, &format!("--json {more}"), "hi\n").events(), "answer")[0]["prompt_tokens"].clone()
    };
    assert_eq!([prompt(""), prompt("--variable mood=good --variable n=41")], [json!(2), json!(8)]);
    let ran = chat(&bench, "--speed", "hi\n/stats\n");
    assert!(ran.stderr.contains("tokens/s") && ran.stderr.contains("tokens in use"), "{ran:#?}");
    let events = chat(&bench, "--json", "hi\n/profile\n").events();
    let phases = of(&events, "profile")[0]["report"]["phases"].as_array().unwrap().len();
    assert_eq!(phases, 2, "{events:#?}");
    chat(&bench, "--variable x", "hi\n").fails(2, &["NAME=VALUE"]);
    chat(&bench, "--temp -1", "hi\n").fails(2, &["--temp"]);
    chat(&bench, "--context 0", "hi\n").fails(2, &["0"]);
}
