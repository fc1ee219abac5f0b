"""Chat templates that write calls of tools in the ways that models do."""

from __future__ import annotations

HEAD = (
    "{% if tools %}<|start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|end|>\n{% endif %}"
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}"
)
TAIL = "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"


def _template(calls: str) -> str:
    return HEAD + "{% if m.tool_calls %}" + calls + "{% endif %}" + TAIL


TAGS = _template(
    "{% for call in m.tool_calls %}{% if m.content or not loop.first %}\n{% endif %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}"
)
ONE_OBJECT = _template(
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
)
LIST = _template(
    "[TOOL_CALLS] [{% for call in m.tool_calls %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}, "id": "{{ call.id }}"}'
    "{% if not loop.last %}, {% endif %}{% endfor %}]"
)
NAMED = _template(
    "{% for call in m.tool_calls %}[TOOL_CALLS]{{ call.function.name }}[ARGS]{{ call.function.arguments | tojson }}"
    "{% endfor %}"
)
UNKNOWN = _template(
    "{% for call in m.tool_calls %}<call>{% for key, value in call.function.arguments.items() %}"
    "<{{ key }}>{{ value }}</{{ key }}>{% endfor %}</call>{% endfor %}"
)
MARKERS = ["[TOOL_CALLS]", "[ARGS]"]  # special tokens of LIST and NAMED
FORMS = {"tags": TAGS, "one object": ONE_OBJECT, "list": LIST, "named": NAMED}
