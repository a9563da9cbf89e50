"""Twenty conversations, and one with an image, for comparing chat templates with transformers."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, in °C; \"now\" or later",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town & its country <name>"},
                "days": {"type": "integer", "default": 1, "enum": [1, 3, 7]},
            },
            "required": ["place"],
        },
        "return": {"type": "string", "description": "words"},
    },
}
NESTED = {
    "type": "function",
    "function": {
        "name": "plan",
        "description": "Plans a day.",
        "parameters": {
            "type": "object",
            "properties": {
                "items": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"at": {"type": "number", "minimum": 0.5}, "ok": {"type": "boolean"}}},
                },
                "note": {"type": ["string", "null"], "default": None},
            },
            "required": [],
        },
    },
}


def call(name, arguments, at="call00001"):
    return {"id": at, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def system(text):
    return {"role": "system", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def tool(text, at="call00001", name="get_weather"):
    return {"role": "tool", "tool_call_id": at, "name": name, "content": text}


def conversations():
    """Pairs of a name and the arguments of `apply_chat_template`."""
    asked = user("What is the weather in Köln?")
    called = assistant("", tool_calls=[call("get_weather", {"place": "Köln", "days": 3})])
    two = [call("get_weather", {"place": "Köln"}), call("plan", {"items": [{"at": 1.5, "ok": True}], "note": None}, "call00002")]
    prompt = {"add_generation_prompt": True}
    cases = {
        "one question": {"messages": [user("Hello")]},
        "system": {"messages": [system("Be brief."), user("Hello")]},
        "several turns": {"messages": [system("Be brief."), user("1+1?"), assistant("2"), user("And 2+2?")]},
        "empty question": {"messages": [user("")]},
        "empty answer": {"messages": [user("Hm"), assistant(""), user("?")]},
        "blanks": {"messages": [system("  a \n"), user("\n b\t"), assistant("  c  "), user(" d ")]},
        "characters": {"messages": [user("é 漢字 🙂 <b>&amp;</b> \"x\" 'y' \\n {{ x }} {% y %}")]},
        "lines": {"messages": [user("a\n\nb\n"), assistant("```\nc\n```\n"), user("\n")]},
        "thinking in the text": {"messages": [user("2+2?"), assistant("<think>\nIt is 4.\n</think>\n\n4"), user("Sure?")]},
        "thinking beside the text": {"messages": [user("2+2?"), assistant("4", reasoning_content="It is 4."), user("Sure?")]},
        "thinking off": {"messages": [system("Be brief."), user("2+2?")], "enable_thinking": False},
        "tools": {"messages": [asked], "tools": [WEATHER]},
        "tools and system": {"messages": [system("Use tools."), asked], "tools": [WEATHER, NESTED]},
        "a call and its result": {"messages": [asked, called, tool("sunny")], "tools": [WEATHER]},
        "two calls": {
            "messages": [asked, assistant("", tool_calls=two), tool("rain"), tool("{\"ok\": true}", "call00002", "plan"), assistant("Stay in."), user("Thanks")],
            "tools": [WEATHER, NESTED],
        },
        "a call without a text": {"messages": [asked, {**called, "content": None}, tool("sunny")], "tools": [WEATHER]},
        "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": " you"}]}]},
        "no prompt": {"messages": [system("Be brief."), user("Hi"), assistant("Hello!")], "add_generation_prompt": False},
        "two questions": {"messages": [user("a"), user("b")]},
        "documents": {"messages": [user("Who?")], "documents": [{"title": "A", "text": "It was Bob."}]},
    }
    assert len(cases) == 20
    return [(name, {**prompt, **case}) for name, case in cases.items()]


IMAGE = {"messages": [{"role": "user", "content": [{"type": "image", "url": "x.png"}, {"type": "text", "text": "What?"}]}]}
