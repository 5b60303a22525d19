"""Chat templates of public models: the parts that decide how a prompt ends and how an earlier answer is written."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# It strips the reasoning of earlier answers, so an answer must not be rendered through it.
QWEN3 = (
    "{%- set ns = namespace(last_query_index=messages|length - 1) %}"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}"
    "{%- if message.role == 'user' and ns.last_query_index == messages|length - 1 %}"
    "{%- set ns.last_query_index = index %}{%- endif %}{%- endfor %}"
    "{%- for message in messages %}"
    "{%- if message.role in ('user', 'system') %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{%- else %}{%- set content = message.content %}{%- set reasoning_content = '' %}"
    "{%- if '</think>' in content %}"
    "{%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last_query_index %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
QWEN3_THINKING = QWEN3.partition("{%- if add_generation_prompt %}")[0] + (
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)
QWQ = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
# Without enable_thinking it opens the block, with enable_thinking = false it closes it.
QWEN3_5 = QWEN3.partition("{%- if add_generation_prompt %}")[0] + (
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}"
    "{%- else %}{{- '<think>\n' }}{%- endif %}{%- endif %}"
)
R1_DISTILL = (
    "{% set ns = namespace(system_prompt='') %}{%- for m in messages %}{%- if m['role'] == 'system' %}"
    "{% set ns.system_prompt = m['content'] %}{%- endif %}{%- endfor %}<｜begin▁of▁sentence｜>{{ ns.system_prompt }}"
    "{%- for m in messages %}{%- if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{%- endif %}"
    "{%- if m['role'] == 'assistant' %}{% set content = m['content'] %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>' }}{%- endif %}{%- endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
# The header of the answer belongs to the question, and earlier answers begin with a closing tag.
DEEPSEEK_V3_1 = (
    "<｜begin▁of▁sentence｜>{%- for m in messages %}{%- if m['role'] == 'system' %}{{ m['content'] }}{%- endif %}"
    "{%- if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] + '<｜Assistant｜>' }}{%- endif %}"
    "{%- if m['role'] == 'assistant' %}{{ '</think>' + m['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}"
    "{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '</think>' if not thinking else '<think>' }}{%- endif %}"
)
GPT_OSS = (
    "<|start|>system<|message|>Current date: {{ strftime_now('%Y-%m-%d') }}<|end|>{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}"
    "{%- else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}<|start|>assistant{%- endif %}"
)
SMOLLM3 = (
    "{%- set ns = namespace(mode='/think' if enable_thinking is not defined or enable_thinking else '/no_think') %}"
    "{%- if messages[0].role == 'system' and '/no_think' in messages[0].content %}{%- set ns.mode = '/no_think' %}"
    "{%- endif %}<|im_start|>system\nToday Date: {{ strftime_now('%d %B %Y') }}\nReasoning Mode: {{ ns.mode }}\n\n"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content.replace('/no_think', '').rstrip() }}{%- endif %}"
    "<|im_end|>\n{%- for m in messages %}{%- if m.role == 'user' %}"
    "{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{%- elif m.role == 'assistant' %}"
    "{%- if ns.mode == '/think' %}{{ '<|im_start|>assistant\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- else %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n' + m.content.lstrip('\n') + '<|im_end|>\n' }}"
    "{%- endif %}{%- endif %}{%- endfor %}{%- if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' if ns.mode == '/think' else '<|im_start|>assistant\n<think>\n\n</think>\n' }}"
    "{%- endif %}"
)
GLM4_5 = (
    "[gMASK]<sop>{%- for m in messages %}{%- if m.role == 'user' %}<|user|>\n{{ m.content }}"
    "{{- '/nothink' if enable_thinking is defined and not enable_thinking else '' }}"
    "{%- elif m.role == 'assistant' %}<|assistant|>\n<think></think>\n{{ m.content.split('</think>')[-1].strip() }}"
    "{%- elif m.role == 'system' %}<|system|>\n{{ m.content }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>"
    "{{- '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}{%- endif %}"
)
GRANITE = (
    "{%- for m in messages %}"
    "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|start_of_role|>assistant' }}"
    "{%- if controls %}{{ ' ' + controls | tojson() }}{%- endif %}{{ '<|end_of_role|>' }}{%- endif %}"
)
LLAMA3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_1 = (
    "<|begin_of_text|>{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}<|eot_id|>"
) + LLAMA3.removeprefix("<|begin_of_text|>")
# Roles must alternate, and there is no system turn.
GEMMA2 = (
    "<bos>{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '</s> ' }}{% endif %}{% endfor %}"
)
# A prefilled answer and no control tokens at all.
PLAIN = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: Let me think. {% endif %}"
)

_CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"]
_DEEPSEEK_TOKENS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
CONTROL_TOKENS = {
    CHATML: _CHATML_TOKENS,
    QWEN3: _CHATML_TOKENS,
    QWEN3_THINKING: _CHATML_TOKENS,
    QWEN3_5: _CHATML_TOKENS,
    QWQ: _CHATML_TOKENS,
    R1_DISTILL: _DEEPSEEK_TOKENS,
    DEEPSEEK_V3_1: _DEEPSEEK_TOKENS,
    GPT_OSS: ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"],
    SMOLLM3: _CHATML_TOKENS,
    GLM4_5: ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|system|>", "<|endoftext|>"],
    GRANITE: ["<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
    LLAMA3: ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    LLAMA3_1: ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    GEMMA2: ["<bos>", "<start_of_turn>", "<end_of_turn>"],
    MISTRAL: ["<s>", "</s>", "[INST]", "[/INST]"],
    PLAIN: ["</s>"],
}
"""Template → the control tokens of its models; the last one of most ends an answer."""
