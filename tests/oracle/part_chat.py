"""chat.json: chat templates of our own, in the manner of published families, and the texts that transformers' template
engine makes of conversations with them; and single lines of Jinja whose results hang on Python.

`templates` and `conversations` map names to what they stand for. A case has one of each, whether the assistant's turn is
`opened`, its last message `continued`, `with_tools` and `with_documents` those of the file, `variables`, and `text`, or
`error` where transformers raises one. The clock stands at 26 July 2024, 12:00.

`part_chat.py FOLDER` prints the same for every `*.jinja` of a folder: that is how `tests/it/chat.rs` compares published
templates, which are not committed.
"""

import datetime
import json
import sys
from pathlib import Path

import transformers.utils.chat_template_utils as engine


class Noon(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 12, 0, 0)


engine.datetime = Noon

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather of a <city> & "its" suburbs',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name, as in Orléans"},
                "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
NOTHING = {
    "type": "function",
    "function": {"name": "nothing", "description": "Does it", "parameters": {"type": "object", "properties": {}}},
}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(number, name, arguments):
    return {"id": f"abcdef12{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def tool(number, name, text):
    return {"role": "tool", "tool_call_id": f"abcdef12{number}", "name": name, "content": text}


TERSE = system("You are terse.")
ARGUMENTS = {"city": 'Saint "Malo"', "unit": "c", "deep": [1, 2.5, True, None], "é": {}}
CONVERSATIONS = {
    "question": [user("Hello")],
    "system": [TERSE, user("Hello")],
    "turns": [
        TERSE,
        user("Hello "),
        assistant(" Hi there.\n"),
        user(" How are <you> & 'it'? \n"),
        assistant("Fine"),
        user("好 🦊\tok"),
    ],
    "answered": [user("Hello"), assistant("Hi")],
    "thought": [user("2+2?"), assistant("<think>\nadd\n</think>\n\n4"), user("3+3?")],
    "reasoned": [user("2+2?"), assistant("4", reasoning_content="add them"), user("3+3?")],
    "tool": [
        TERSE,
        user("Weather?"),
        assistant("", tool_calls=[call(3, "get_weather", ARGUMENTS)]),
        tool(3, "get_weather", '{"t": 20}'),
    ],
    "tools": [
        user("Weather?"),
        assistant("Let me see", tool_calls=[call(3, "get_weather", {"city": "Brest"}), call(4, "nothing", {})]),
        tool(3, "get_weather", "20"),
        tool(4, "nothing", "ok"),
        assistant("It is 20."),
        user("Thanks"),
    ],
    "tool_text": [
        user("Weather?"),
        assistant(None, tool_calls=[call(3, "get_weather", '{"city": "Brest"}')]),
        tool(3, "get_weather", "20"),
    ],
    "parts": [TERSE, user([{"type": "text", "text": "Hello "}, {"type": "text", "text": "world"}])],
    "disorder": [assistant("Hi"), user("x"), user("y")],
}


# A message that is left open, and what lines of Jinja see.
CONVERSATIONS |= {f"open {n}": [user("Hello"), assistant(text)] for n, text in enumerate(["Hi", " Hi there ", "Hi\n"])}
LINE = [user("x")]
DOCUMENTS = [{"title": "One", "text": "First"}, {"title": "Two", "text": "Second"}]
HEAD = {
    "tokens": TOKENS,
    "conversations": CONVERSATIONS | {"line": LINE},
    "tools": [WEATHER, NOTHING],
    "documents": DOCUMENTS,
}


def variants():
    """Every conversation as it is asked for: opened or not, with tools or not, left open, with variables."""
    for name in CONVERSATIONS:
        if name.startswith("open"):
            yield {"conversation": name, "opened": False, "continued": True}
            continue
        for opened in (True, False):
            yield {"conversation": name, "opened": opened}
            if name in ("question", "system", "tool", "tools", "tool_text"):
                yield {"conversation": name, "opened": opened, "with_tools": True}
    for thinking in (False, True):
        yield {"conversation": "system", "opened": True, "variables": {"enable_thinking": thinking}}
    yield {"conversation": "system", "opened": True, "with_documents": True}
    yield {"conversation": "parts", "opened": False, "continued": True}


def expected(source, case):
    messages = HEAD["conversations"][case["conversation"]]
    messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    try:
        texts, _ = engine.render_jinja_template(
            [messages],
            tools=HEAD["tools"] if case.get("with_tools") else None,
            documents=HEAD["documents"] if case.get("with_documents") else None,
            chat_template=source,
            add_generation_prompt=case["opened"],
            continue_final_message=case.get("continued", False),
            **TOKENS,
            **case.get("variables", {}),
        )
        return {"text": texts[0]}
    except Exception as error:  # any: a template may fail in every way that Python has
        return {"error": type(error).__name__}


TEMPLATES = {
    "chatml": """{%- for message in messages %}
{%- if loop.first and message.role != 'system' %}{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set first = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set first = false %}{% endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must take turns: user, assistant, user, …') }}
    {%- endif %}
    {%- if loop.index0 == 0 and first != false %}
        {%- set content = '<<SYS>>\\n' + first + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {%- else %}
        {%- set content = message['content'] %}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% else %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- endif %}
{%- if messages[0].role == 'system' %}
    {%- set system_message = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today is " + date_string + ".\\n\\n" }}
{%- if tools is not none %}
    {{- "Functions:\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == 'tool' or message.role == 'ipython' %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- elif 'tool_calls' in message and message.tool_calls %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("One call at a time!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages if message.role in ["user", "assistant"] and not message.tool_calls is defined %}
    {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must take turns") }}
    {%- endif %}
    {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Ids of calls have 9 letters or digits!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content|string + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Roles are user, assistant, system and tool") }}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('There is no system role') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must take turns') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "phi3": """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'user' %}{{'<|user|>
' + message['content'] + '<|end|>
'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>
' + message['content'] + '<|end|>
'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>
' }}{% else %}{{ eos_token }}{% endif %}""",
    "phi4": """{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}{{ '<|assistant|>' if add_generation_prompt else '<|endoftext|>' }}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "qwen": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Functions\\n\\nSignatures in <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools>\\nAnswer with <tool_call>{\\"name\\": …}</tool_call><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(searching=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "commander": """{% macro doc(d, n) %}Document: {{ n }}
{% for key, value in d|items %}{{ key }}: {{ value|string }}
{% endfor %}{% endmacro -%}
{{ bos_token }}
{%- macro of_type(schema) -%}
{%- if schema.type == 'array' -%}List[{{ of_type(schema['items']) }}]
{%- elif schema.type is defined -%}{{ {'string': 'str', 'integer': 'int'}.get(schema.type, schema.type) }}
{%- else -%}Any{%- endif -%}
{%- endmacro -%}
{% for t in tools or [] %}
def {{ t.function.name }}({% for name, schema in t.function.parameters.properties|dictsort %}{{ name }}: {{ of_type(schema) }}{{ ", " if not loop.last }}{% endfor %}):
    \"\"\"{{ t.function.description|replace('"', "'")|indent(4) }}\"\"\"
{% endfor %}
{%- for d in documents or [] %}{{ doc(d, loop.index0) }}{% endfor %}
{%- for m in messages %}
{%- set name = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'}[m.role]|default(m.role|upper) %}
<|{{ name }}|>{% if m.content is string %}{{ m.content }}{% else %}{{ m.content|map(attribute='text')|join('') }}{% endif %}<|END|>
{%- if m.tool_calls %}
{%- for c in m.tool_calls %}
Action: {{ loop.index }}/{{ loop.length }} {{ c.function.name }} {{ c.function.arguments }}
{%- endfor %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|CHATBOT|>{% endif %}""",
    "marked": """{%- for m in messages %}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{%- else %}[{{ m.role|capitalize }}] {{ m.content }}
{% endif %}
{%- endfor %}""",
    "steps": """{%- set ns = namespace(seen=[], tools=0) -%}
{%- for m in messages -%}
{%- if m.role == 'tool' %}{% set ns.tools = ns.tools + 1 %}{% continue %}{% endif -%}
{%- if loop.index > 4 %}…{% break %}{% endif -%}
{%- set ns.seen = ns.seen + [m.role[0]|upper ~ loop.revindex] -%}
{{ m.role|title }}: {% filter trim %}{{ m.content if m.content is defined else 'none' }}{% endfilter %}
{% else %}nothing{% endfor -%}
{{ ns.seen|join('/') }} {{ ns.tools }} {{ messages|map(attribute='role')|unique|list }} {{ messages[-1] }}
{% if add_generation_prompt %}{{ "Assistant:" }}{% endif %}""",
    "vicuna": """{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }} {% endif %}{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'].strip() }} {% elif m['role'] == 'assistant' %}ASSISTANT: {{ m['content'] }}</s>{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}""",
}

# Single expressions whose result hangs on Python: printing, truth, methods, filters, white space.
LINES = r"""
{{ none }}|{{ true }}|{{ 2.5 }}|{{ 1e20 }}|{{ 1e-7 }}|{{ [3, 'a', none] }}|{{ {'a': "x'y"} }}|{{ (1,) }}|{{ (1, 2) }}
{{ none ~ true ~ [1] ~ 1.0 }}|{{ 10 / 4 }}|{{ 10 // 4 }}|{{ -7 // 2 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 7.5 // 2 }}
{{ ' a b '.strip() }}|{{ ' a b '|trim }}|{{ ' a  b '.split() }}|{{ 'a,b,,c'.split(',') }}|{{ 'a,b,,c'.split(',', 1) }}|{{ 'a b  c'.rsplit(None, 1) }}
{{ 'abc'[::-1] }}|{{ [3, 1, 2][1:] }}|{{ [3, 1, 2][-1] }}|{{ 'abcdef'[4:1:-1] }}|{{ [3, 1, 2][5:] }}|{{ [3, 1, 2][::2] }}
{{ x is defined }}|{{ x }}|{{ x|default('D') }}|{{ ''|default('D') }}|{{ ''|default('D', true) }}|{{ true is number }}|{{ true is integer }}|{{ 'a' is sequence }}|{{ {} is sequence }}|{{ 1 is iterable }}
{{ 'a' in 'abc' }}|{{ 1 == 1.0 }}|{{ true == 1 }}|{{ '1' == 1 }}|{{ 1 < 2 < 3 }}|{{ none or 'x' }}|{{ 'yes' if false }}|{{ not [] }}
{{ [3, 1, 2]|sort }}|{{ ['b', 'A', 'c']|sort }}|{{ [3, 1, 2]|sum }}|{{ [3, 1, 2]|max }}|{{ 'abc'|reverse }}|{{ ['a', 'A']|unique|list }}|{{ "it's o'clock"|title }}|{{ "it's".title() }}
{{ 'T' if []|selectattr('a') else 'F' }}|{{ 'T' if [{}]|selectattr('a') else 'F' }}|{{ 'T' if [{}]|selectattr('a')|list else 'F' }}|{{ none|selectattr('a')|list }}
{{ {'a': {}, 'b': [], 'é': "<'>"}|tojson }}|{{ {'b': [1, {'c': 2}], 'a': 1.0}|tojson(indent=2, sort_keys=true) }}|{{ [1, 2]|tojson(separators=(',', ':')) }}|{{ 'é🦊'|tojson(ensure_ascii=true) }}
{{ '%s-%d-%05.1f|%5s|%-5s|' % ('a', 3, 2.25, 'b', 'c') }}|{{ '{} {}'.format('a', 1) }}
{% macro f(a, b='B', c=a) %}[{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}]{% endmacro %}{{ f(1) }}{{ f(1, 2, 3, 4) }}{{ f(1, b=5, z=3) }}
{% macro g() %}({{ caller() }}){% endmacro %}{% call g() %}in{% endcall %}|{% set x %}block {{ 1 }}{% endset %}{{ x }}|{% with q = 3 %}{{ q }}{% endwith %}{{ q }}
{% set x = 1 %}{% for a in [2, 3] %}{% set x = a %}{% endfor %}{{ x }}|{% for a in [1, 2, 3] %}{{ loop.cycle('x', 'y') }}{{ loop.changed(a > 1) }}{{ loop.previtem }}{% endfor %}
{{ strftime_now('%d %B %Y %H:%M %A %j %y %b') }}|{{ range(1, 10, 3)|list }}|{{ dict(a=1)|tojson }}|{{ 'ab\n\ncd'|indent(2) }}|{{ '3.5'|int }}|{{ 2.5|round }}|{{ 'a&<'|e }}
{{ {'items': 5}['items'] }}|{{ {'items': 5}.items()|list }}|{{ {'a': 1}.b is defined }}|{{ {'a': 1}.get('b', 2) }}|{{ {'a': 1}|items|list }}|{{ {'b': 1, 'a': 2}|dictsort }}
{{ 'a\nb\r\nc'.splitlines() }}|{{ 'a b'.partition(' ') }}|{{ 'aaa'.replace('a', 'b', 2) }}|{{ 'xaxx'.lstrip('x') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ 'x'.zfill(3) }}|{{ 'x'.center(4) }}.|{{ 'é'|length }}
{{ x.y }}
{{ none.y is defined }}
{{ 'a' + 1 }}
{{ x + 'a' }}
{{ raise_exception('no') }}
{{ [].append(4) }}
{{ {}.update({'x': 1}) }}
{{ ().__class__.__mro__ }}
{% for a in 5 %}{% endfor %}
{{ 1 < 'a' }}
{{ 5 // 0 }}
{% include 'x' %}
{% if %}
"""
BLOCKS = [
    "{% if true %}\n    line\n{% endif %}\nnext\n   {% if true %}indented{% endif %}\n{{- 'a' }}\n\n",
    "a\r\nb{% if true %}\r\nc{% endif %}\r\n",
    "{% for m in [1, 2] -%}\n {{ m }}\n{%- endfor %}\n  {#- c -#}  \n end\n",
    "  {%- if true %}  x  {% endif -%}   y",
    "{%+ if true %} x {%+ endif %}\n  {{ 'y' }}  \n{% raw %} {{ z }} {% endraw %}\n",
]


def make():
    from common import write_json

    cases = [
        {"template": name, **case, **expected(source, case)} for name, source in TEMPLATES.items() for case in variants()
    ]
    templates = dict(TEMPLATES)
    for number, line in enumerate(LINES.strip("\n").split("\n") + BLOCKS):
        case = {"conversation": "line", "opened": False}
        templates[f"line {number}"] = line
        cases.append({"template": f"line {number}", **case, **expected(line, case)})
    write_json("chat.json", HEAD | {"templates": templates}, cases)


if __name__ == "__main__":
    files = sorted(Path(sys.argv[1]).glob("*.jinja"))
    sources = {file.name: file.read_bytes().decode("utf-8") for file in files}
    cases = [{"template": name, **case, **expected(sources[name], case)} for name in sources for case in variants()]
    print(json.dumps(HEAD | {"templates": sources, "cases": cases}))
