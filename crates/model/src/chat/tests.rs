//! What templates compute, construct by construct, and against transformers.

use std::time::Duration;

use super::blocks::{MAX_BLOCK_CODE, MAX_ELIFS, blocks};
use super::*;

/// The text of a template for a conversation of a system and a user message.
fn render_with(source: &str, variables: &[(String, Json)]) -> Result<String, ChatError> {
    let tokens = vec![("bos_token".to_owned(), "<s>".to_owned()), ("eos_token".to_owned(), "</s>".to_owned())];
    let messages = [Json::message("system", "Be brief."), Json::message("user", " Hi ")];
    let now = Some(CivilTime { year: 2024, month: 7, day: 4, hour: 13, minute: 5, second: 9 });
    let input = ChatInput { messages: &messages, variables, now, ..ChatInput::default() };
    ChatTemplate::new("test", source, tokens)?.render(&input)
}

fn render(source: &str) -> String {
    let data = r#"{"z": 1, "a": [1.0, 1e-7, 1e16, true, null, "é<&'\"\\\n\u0001"], "items": {"k": []}, "s": "x"}"#;
    render_with(source, &[("data".to_owned(), Json::parse(data).unwrap())]).unwrap()
}

#[test]
fn constructs_of_templates() {
    for (source, expected) in [
        ("{{ bos_token }}{{ messages[1].content | trim }}{{ unk_token }}", "<s>Hi"),
        ("{{ messages[0]['role'] }}{{ messages[-1].role }}{{ messages | length }}", "systemuser2"),
        ("{% for m in messages[1:] %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{% endfor %}", "0TrueTrue"),
        ("{% for m in messages[::-1] %}{{ m.role }},{% endfor %}", "user,system,"),
        (
            "{% for m in messages %}{% if loop.previtem is defined %}{{ loop.previtem.role }}{% endif %}{% endfor %}",
            "system",
        ),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i > 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "023",
        ),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 %}{% endfor %}{{ ns.n }}", "4"),
        ("{% set x = 1 %}{% for i in range(2) %}{% set x = 7 %}{% endfor %}{{ x }}", "1"),
        ("{% generation %}{% set y = 1 %}{{ messages[0].role }}{% endgeneration %}{{ y }}", "system"),
        ("{% macro m(a, b='d') %}({{ a }}{{ b }}){% endmacro %}{{ m(1) }}{{ m('x', b=2) }}", "(1d)(x2)"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x | upper }}", "A1"),
        ("{% filter upper %}a{% endfilter %}", "A"),
        (
            "{{ messages is defined }}{{ nothing is defined }}{{ tools is none }}{{ documents is defined }}",
            "TrueFalseTrueTrue",
        ),
        ("{{ nothing }}{{ data.nothing }}{{ nothing | length }}{% for x in nothing %}{% endfor %}", "0"),
        ("{{ 'a' if nothing }}{{ 'b' if not nothing else 'c' }}", "b"),
        ("{{ strftime_now('%d %b %Y') }}", "04 Jul 2024"),
        ("{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** 3 }}{{ 7 / 2 }}{{ -7 // 2 }}", "3183.5-4"),
        ("{{ 'ab' * 2 }}{{ [1] + [2] }}{{ 'a' 'b' }}", "abab[1, 2]ab"),
        (
            "{{ 'x' in data }}{{ 'z' in data }}{{ 's' in 'test' }}{{ 1 in [1] }}{{ 3 not in [1] }}",
            "FalseTrueTrueTrueTrue",
        ),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ messages | map(attribute='role') | join('-') }}", "system-user"),
        ("{{ nothing | default('d') }}{{ '' | default('e', true) }}{{ [3, 1] | sort | first }}", "de1"),
        (
            "{{ data is mapping }}{{ data is sequence }}{{ 'x' is sequence }}{{ 'x' is iterable }}{{ 1 is sequence }}",
            "TrueTrueTrueTrueFalse",
        ),
        (
            "{{ true is number }}{{ true is boolean }}{{ 1 is integer }}{{ 1.0 is float }}{{ none is none }}",
            "TrueTrueTrueTrueTrue",
        ),
        ("{{ 1 if data.a[3] is true }}{{ data.a[4] is not none }}", "1False"),
        ("a  {%- if true %}  b  {%- endif %}\n c", "a  b c"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ 'a' -}}\n  b\n", "ab"),
        ("{# note #}\nx\n", "x"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{% set a, b = 1, 2 %}{{ b }}{% for k, v in data['items'].items() %}{{ k }}{{ v }}{% endfor %}", "2k[]"),
    ] {
        assert_eq!(render(source), expected, "{source}");
    }
}

#[test]
fn values_are_written_as_python_writes_them() {
    for (source, expected) in [
        (
            "{{ data | tojson }}",
            r#"{"z": 1, "a": [1.0, 1e-07, 1e+16, true, null, "é<&'\"\\\n\u0001"], "items": {"k": []}, "s": "x"}"#,
        ),
        ("{{ data.a[5] | tojson(ensure_ascii=true) }}", r#""\u00e9<&'\"\\\n\u0001""#),
        ("{{ {'b': [1, {}], 'a': 'x'} | tojson(indent=2) }}", "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": \"x\"\n}"),
        ("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}", r#"{"a":2,"b":1}"#),
        ("{{ {1: 2, none: 3, false: 4} | tojson }}", r#"{"1": 2, "null": 3, "false": 4}"#),
        (
            "{{ data }}",
            r#"{'z': 1, 'a': [1.0, 1e-07, 1e+16, True, None, 'é<&\'"\\\n\x01'], 'items': {'k': []}, 's': 'x'}"#,
        ),
        ("{{ [1, 'a', none, true, 1.5] }}{{ {'a': \"it's\"} }}", "[1, 'a', None, True, 1.5]{'a': \"it's\"}"),
        ("{{ true }}{{ none }}{{ 1.0 }}{{ 1e100 }}{{ '<' }}", "TrueNone1.01e+100<"),
        ("{{ none | string }}{{ [true, none, 'x'] | join(',') }}{{ 1 | string + 'x' }}", "NoneTrue,None,x1x"),
        (
            "{{ 1.5e300 | tojson }}{{ 123456789012345680.0 }}{{ 0.0001 }}{{ 0.00001 }}",
            "1.5e+3001.2345678901234568e+170.00011e-05",
        ),
        ("{{ 'a\nb\n\nc' | indent(2) }}|{{ 'a\nb' | indent(width=1, first=true) }}", "a\n  b\n\n  c| a\n b"),
    ] {
        assert_eq!(render(source), expected, "{source}");
    }
}

#[test]
fn methods_of_python() {
    for (source, expected) in [
        ("{{ ' x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}", "x|a|a | a"),
        (
            "{{ 'a,b,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a,b,c'.split(',', 1) }}",
            "['a', 'b', 'c']['a', 'b']['a', 'b,c']",
        ),
        (
            "{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a b  c '.rsplit(none, 1) }}{{ 'a b'.split(maxsplit=0) }}",
            "['a,b', 'c'][' a b', 'c']['a b']",
        ),
        ("{{ 'x</think>y'.split('</think>')[-1] }}{{ ''.split(',') }}{{ ''.split() }}", "y['']"),
        ("{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('x', 'c')) }}", "TrueTrue"),
        ("{{ 'aXb'.upper() }}{{ 'aXb'.lower() }}{{ 'aXb c'.title() }}{{ 'aXb'.capitalize() }}", "AXBaxbAxb CAxb"),
        ("{{ 'aaa'.replace('a', 'b') }}{{ 'aaa'.replace('a', 'b', 1) }}{{ 'ab'.replace('', '-') }}", "bbbbaa-a-b-"),
        ("{{ 'éab'.find('b') }}{{ 'a'.find('x') }}{{ 'aba'.rfind('a') }}{{ 'aba'.count('a') }}", "2-122"),
        ("{{ '-'.join(['a', 'b']) }}{{ 'ab'.removeprefix('a') }}{{ 'ab'.removesuffix('b') }}", "a-bba"),
        ("{{ '12'.isdigit() }}{{ ''.isdigit() }}{{ 'a1'.isalnum() }}{{ ' '.isspace() }}", "TrueFalseTrueTrue"),
        ("{{ 'a\nb\r\nc\n'.splitlines() }}{{ 'a=b=c'.partition('=')[2] }}", "['a', 'b', 'c']b=c"),
        (
            "{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'a'.ljust(3, '.') }}{{ 'a'.rjust(3) }}{{ 'ab'.center(5, '*') }}",
            "007-007a..  a**ab*",
        ),
        (
            "{{ data.get('z') }}{{ data.get('y') }}{{ data.get('y', 'd') }}{{ data.keys() | list }}",
            "1Noned['z', 'a', 'items', 's']",
        ),
        (
            "{% for k, v in data.items() %}{{ k }}{% endfor %}{{ data['items'] }}{{ data.values() | list | length }}",
            "zaitemss{'k': []}4",
        ),
        ("{{ [1, 2, 1].count(1) }}{{ ['a', 'b'].index('b') }}", "21"),
        ("{% for k, v in data | items %}{{ k }}{% endfor %}{{ data | dictsort | first | first }}", "zaitemssa"),
    ] {
        let expected = if source.contains("''.split()") { "y[''][]" } else { expected };
        assert_eq!(render(source), expected, "{source}");
    }
}

#[test]
fn a_template_that_fails_says_where() {
    let failed = |source: &str| render_with(source, &[]).unwrap_err();
    assert!(matches!(failed("{{ raise_exception('No ' ~ 7) }}"), ChatError::Raised(text) if text == "No 7"));
    for (source, line, words) in [
        ("a\n{% if %}", 2, ""),
        ("{% for x in y %}", 1, ""),
        ("\n\n{{ x.y.z }}", 3, "undefined"),
        ("{{ 'a' + 1 }}", 1, "+"),
        ("{{ [].append(1) }}", 1, "append"),
        ("{{ 'a'.nothing() }}", 1, "nothing"),
        ("{% include 'x' %}", 1, "include"),
        ("{{ x | nothing }}", 1, "nothing"),
        ("{{ 'a' | tojson(7, 8, 9) }}", 1, ""),
        ("{{ x | tojson }}", 1, "undefined"),
        ("{{ 'x' | tojson(indent=100000) }}", 1, "indentation"),
        ("{{ 'a'.ljust(99999999999) }}", 1, "bytes"),
    ] {
        let (found, problem) = match failed(source) {
            ChatError::Syntax { line, problem, .. } | ChatError::Render { line, problem, .. } => (line, problem),
            other => panic!("{source}: {other}"),
        };
        assert!(found == line && problem.contains(words), "{source}: line {found}: {problem}");
    }
}

#[test]
fn a_template_that_never_ends_is_stopped() {
    for source in [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set t %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = t %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ ((((range(99999) | list) * 99999) | list) * 99999) | list }}",
    ] {
        let start = std::time::Instant::now();
        let error = render_with(source, &[]).unwrap_err();
        assert!(start.elapsed().as_secs() < 5, "{source}: {:?}", start.elapsed());
        assert!(
            matches!(error, ChatError::Fuel { .. } | ChatError::Render { .. } | ChatError::Output { .. }),
            "{error}"
        );
    }
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(matches!(render_with(&deep, &[]), Err(ChatError::Syntax { .. })));
    assert!(matches!(render_with(&" ".repeat(MAX_TEMPLATE_BYTES + 1), &[]), Err(ChatError::TooLarge { .. })));
}

/// Templates of one block that go on and on: a beginning, a link that may be repeated, and an end. None has strings.
const CHAINS: [[&str; 3]; 20] = [
    ["{{ ", "-", "1 }}"],
    ["{{ 1", "+1", " }}"],
    ["{{ x", "()", " }}"],
    ["{{ 1", "**1", " }}"],
    ["{{ 1", "*1", " }}"],
    ["{{ ", "not ", "1 }}"],
    ["{{ x", ".a", " }}"],
    ["{{ x", ".a()", " }}"],
    ["{{ 1", "|abs", " }}"],
    ["{{ 1", " is number", " }}"],
    ["{{ 1", " if 1 else 1", " }}"],
    ["{{ 1", " if 1", " }}"],
    ["{{ 1", " and 1", " }}"],
    ["{{ 1", " or 1", " }}"],
    ["{{ 1", "~1", " }}"],
    ["{{ x", "[1]", " }}"],
    ["{%- set x = 1", "+1", " -%}"],
    ["{% set x", ".a", " = 1 %}"],
    ["{% filter upper", "|upper", " %}a{% endfilter %}"],
    // It is never closed.
    ["{{ ", "-", ""],
];

/// A chain of so many links on line 3.
fn chain([first, link, last]: [&str; 3], links: usize) -> String {
    format!("\n\n{first}{}{last}", link.repeat(links))
}

#[test]
fn long_chains_are_refused_with_their_line() {
    for parts in CHAINS {
        // As many as the attack that was found, and as many as fit into the longest template, up to 100,000.
        for links in [20_079, 100_000.min(1_000_000 / parts[1].len())] {
            match render_with(&chain(parts, links), &[]) {
                Err(ChatError::Syntax { line: 3, problem, .. }) if problem.contains("bytes of code") => {}
                other => panic!("{links} links of {parts:?}: {other:?}"),
            }
        }
    }
    let elifs = |count: usize| format!("{{% if 0 %}}\n{}{{% endif %}}", "{% elif 0 %}\n".repeat(count));
    for count in [MAX_ELIFS + 1, 17_401, 75_000] {
        match render_with(&elifs(count), &[]) {
            Err(ChatError::Syntax { line, problem, .. }) if problem.contains("`elif`") => {
                assert_eq!(line, MAX_ELIFS + 2);
            }
            other => panic!("{count} tags: {other:?}"),
        }
    }
    assert_eq!(render(&elifs(MAX_ELIFS)), "");
}

#[test]
fn the_longest_chains_that_are_read_overflow_no_stack() {
    for parts in CHAINS {
        let fixed = blocks(&chain(parts, 0)).next().map_or(0, |block| block.code);
        let source = chain(parts, (MAX_BLOCK_CODE - fixed) / parts[1].len());
        // Time is no matter here.
        match ChatTemplate::with_limit("test".to_owned(), &source, vec![], Duration::from_secs(60)) {
            Ok(template) => match template.render(&ChatInput::default()) {
                Ok(_) | Err(ChatError::Render { line: 3, .. }) => {}
                Err(other) => panic!("{parts:?}: {other}"),
            },
            // The engine's own words.
            Err(ChatError::Syntax { problem, .. }) => {
                assert!(!problem.contains("bytes of code"), "{parts:?}: {problem}")
            }
            Err(other) => panic!("{parts:?}: {other}"),
        }
    }
}

#[test]
fn namespaces_keep_no_namespace_and_nothing_deep_or_large() {
    let refusal = |value: &str, times: usize, last: &str| {
        let set = format!("{{% set ns.x = {value} %}}");
        let source = format!(
            "{{% set ns = namespace(x=1, y={{'a': 1}}) %}}\n{{% for i in range({times}) %}}{set}{{% endfor %}}{last}"
        );
        match render_with(&source, &[]) {
            Err(ChatError::Render { line: 2, problem, .. }) => problem,
            other => panic!("{value}: {other:?}"),
        }
    };
    for value in ["ns", "[1, ns]", "{'a': [ns]}", "(ns)", "ns, 1", "dict(a=ns)", "[ns] | list", "[ns] * 2"] {
        let problem = refusal(value, 1, "{{ ns ~ '' }}");
        assert!(problem.contains("a namespace can't keep a namespace"), "{value}: {problem}");
    }
    for value in ["[ns.x]", "[ns.x] * 1", "{'a': ns.x}", "[[ns.x], 1]"] {
        let problem = refusal(value, 70, "{{ ns.x }}");
        assert!(problem.contains("nested more than 64 deep"), "{value}: {problem}");
    }
    for (value, times) in [("[ns.x, ns.x]", 50), ("{'a': ns.x, 'b': ns.x}", 50), ("[1, 2] * 600000", 1)] {
        let problem = refusal(value, times, "{{ ns.x == ns.x }}");
        assert!(problem.contains("can't keep more than 131072 values"), "{value}: {problem}");
    }
    let source = "{% set ns = namespace(x=[]) %}{% for m in messages %}{% set ns.x = ns.x + [m.role] -%} {% endfor %}\
        {{ ns.x | join(',') }}{% set ns.x = 1 == 1 %}{{ ns.x }}";
    assert_eq!(render(source), "system,userTrue");
}

#[test]
fn long_strings_are_no_long_code() {
    let long = "}} %} {% elif 0 %} - ".repeat(5000);
    for quote in ['\'', '"'] {
        let source = format!("{{{{ {quote}{long}\\{quote}{quote} }}}}{{% set x = {quote}{long}{quote} %}}{{{{ x }}}}");
        assert_eq!(render(&source), format!("{long}{quote}{long}"));
    }
    assert_eq!(render(&long.replace("%} {% ", "")), long.replace("%} {% ", ""));
    assert_eq!(render(&format!("{{{{ 'a}}}}b' }}}}{}", "-".repeat(100_000))), format!("a}}}}b{}", "-".repeat(100_000)));
}

/// What `benchmarks/chat/make_goldens.py` had transformers render.
const GOLDENS: &str = include_str!("../../tests/goldens/chat.json");

#[test]
fn texts_are_those_of_transformers() {
    let goldens = Json::parse(GOLDENS).unwrap();
    let list = |of: &Json, key: &str| of.get(key).and_then(Json::as_list).unwrap().to_vec();
    let Some(Json::Object(tokens)) = goldens.get("tokens") else { panic!("no tokens") };
    let tokens: Vec<_> =
        tokens.iter().map(|(name, token)| (name.clone(), token.as_str().unwrap().to_owned())).collect();
    let now = Some(CivilTime { year: 2024, month: 7, day: 4, hour: 13, minute: 5, second: 9 });
    let conversations = list(&goldens, "conversations");
    let (mut texts, mut refusals) = (0, 0);
    for of_template in list(&goldens, "templates") {
        let name = of_template.get("name").and_then(Json::as_str).unwrap();
        let source = of_template.get("template").and_then(Json::as_str).unwrap();
        let template = ChatTemplate::new(name, source, tokens.clone()).unwrap();
        for (conversation, expected) in conversations.iter().zip(list(&of_template, "expected")) {
            let Json::Object(members) = conversation else { panic!("no object") };
            let messages = list(conversation, "messages");
            let optional = |key: &str| conversation.get(key).and_then(Json::as_list);
            let input = ChatInput {
                messages: &messages,
                tools: optional("tools"),
                documents: optional("documents"),
                add_generation_prompt: conversation.get("add_generation_prompt") == Some(&Json::Bool(true)),
                variables: members,
                now,
            };
            let case = format!("{name}, {:?}", conversation.get("name"));
            match (template.render(&input), expected.get("text"), expected.get("error").and_then(Json::as_str)) {
                (Ok(text), Some(Json::Text(expected)), _) => {
                    assert_eq!(&text, expected, "{case}");
                    texts += 1;
                }
                (Err(ChatError::Raised(words)), _, Some(error)) => {
                    assert_eq!(format!("TemplateError: {words}"), error, "{case}");
                    refusals += 1;
                }
                (got, ..) => panic!("{case}: {got:?}, {expected:?} expected"),
            }
        }
    }
    assert!(texts >= 80 && refusals >= 5, "{texts} texts, {refusals} refusals");
}
