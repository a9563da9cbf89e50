"""Writes crates/model/tests/goldens/chat.json: our own templates, rendered by transformers.

    pip install transformers jinja2
    python benchmarks/chat/make_goldens.py
"""

import json
import pathlib

import transformers

from conversations import conversations
from reference import NOW, render

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

TEMPLATES = {
    "tags": """{%- for message in messages %}
{{- '<|' + message.role + '|>\\n' + (message.content if message.content is string else '') + eos_token + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>\\n' }}
{%- endif %}
""",
    "strict": """{{ bos_token }}
{% if messages[0]['role'] == 'system' %}
    {{ raise_exception('No system messages, please: ' ~ messages[0].content | trim) }}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate') -}}
    {% endif %}
    {%- generation %}
    [{{ loop.index }}{{ ',' if not loop.last }}] {{ message['content'] | trim }}
    {%- endgeneration %}

{% endfor %}""",
    "thinking": """{% set ns = namespace(last=-1, tools=0) %}
{% for message in messages[::-1] %}{% set index = messages|length - 1 - loop.index0 %}
{% if message.role == 'user' and ns.last < 0 %}{% set ns.last = index %}{% endif %}{% endfor %}
{% for message in messages %}
{%- set content = message.content if message.content is defined and message.content is string else '' %}
{%- set thought = '' %}
{%- if message.reasoning_content is defined and message.reasoning_content is not none %}
{%- set thought = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{{- message.role | upper }}: {% if thought and loop.index0 > ns.last - 2 %}({{ thought }}) {% endif %}{{ content }}
{% if message.tool_calls %}{% for call in message.tool_calls %}{% set call = call.function %}
{{ '{"name": "' ~ call.name ~ '", "arguments": ' }}{{ call.arguments | tojson }}}
{% endfor %}{% endif %}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% if enable_thinking is defined and enable_thinking is false %} (){% endif %}{% endif %}""",
    "tools": """{% macro kind(schema) %}
{%- if schema.type is string %}{{ schema.type }}{% elif schema.type is iterable %}{{ schema.type | join(' or ') }}{% endif %}
{%- if schema.enum %} one of {{ schema.enum | join(', ') }}{% endif %}
{%- if schema.default is defined %} = {{ schema.default }}{% endif %}
{%- if 'items' in schema %} of {{ kind(schema['items']) }}{% endif %}
{%- endmacro %}
Today is {{ strftime_now('%A, %-d %B %Y') }}.
{% if tools is not none %}
{% for tool in tools %}
{% set function = tool.function %}
{{ function.name }}({% for name, schema in function.parameters.properties.items() %}{{ name }}: {{ kind(schema) }}{{ ', ' if not loop.last }}{% endfor %})
{{ tool | tojson }}
{{ tool.function | tojson(indent=2) }}
{{ tool }}
{{ function.parameters.required | length }} {{ function.get('return', {}).get('type', 'nothing') }}
{% endfor %}
{% endif %}
{% if documents %}{% for d in documents %}{{ d.title }}: {{ d['text'] }}{% endfor %}{% endif %}
{% for m in messages if m.role != 'tool' %}
{%- if m.content is string %}{{ m.content }}{% elif m.content is iterable %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}
{%- if not loop.last %}

{% endif %}{% endfor %}""",
    "odd": """{{ messages | map(attribute='role') | unique | list }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{% for m in messages %}{% if loop.index > 3 %}{% break %}{% endif %}{% if m.role == 'system' %}{% continue %}{% endif %}
{{ loop.previtem.role if loop.previtem is defined else 'first' }} {{ m.content is mapping }} {{ m.content is sequence }} {{ m.nothing }}{{ m.get('nothing', 1.0) }}
{%- endfor %}
{{ messages[-1].content | default('none', true) | replace('a', 'b') | indent(2) }}
{{ {'a': [1, 2.5, none, true], 'ü': "it's"} }} {{ ('x', 1)[0] }} {{ 'abc'[1:] }} {{ 7 // 2 }} {{ 1 / 2 }}
{{- ' ' ~ none ~ true ~ 1.0 ~ [] }} {{ add_generation_prompt }} {{ unknown_token }} {{ range(3) | list }}
{%- set text %}
  block {{ eos_token }}
{% endset %}
{{ text.strip().title().split() }}
""",
}


def main():
    cases = conversations()
    goldens = {
        "made_by": f"transformers {transformers.__version__}",
        "now": NOW,
        "tokens": TOKENS,
        "conversations": [{"name": name, **case} for name, case in cases],
        "templates": [
            {"name": name, "template": template, "expected": [render(template, TOKENS, case) for _, case in cases]}
            for name, template in TEMPLATES.items()
        ],
    }
    path = pathlib.Path(__file__).parents[2] / "crates/model/tests/goldens/chat.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes")


main()
