"""What may be sent and what comes back: the examples that the OpenAPI document gives."""

from typing import Any

CONVERSATION = "0d7a6c1e-3f0f-4c39-9b0e-0a3f5d1c9a10"

# By the name of the body's shape.
BODIES: dict[str, dict[str, Any]] = {
    "ProjectCreate": {"name": "Home", "dev_environment": "Python 3.11, SQLite"},
    "ProjectUpdate": {"llm_model": "echo"},
    "ConversationCreate": {"name": "First steps", "system_prompt": "Be brief.", "project_id": 0},
    "ConversationUpdate": {"name": "Second steps", "status": 1},
    "MessageCreate": {"role": "user", "content": "Hello, 你好!", "model": "echo", "stream": False},
    "MessageUpdate": {"content": "Hello again"},
    "MessageIds": {"message_ids": [1, 2]},
    "Regenerate": {"model": "echo", "stream": False},
    "StopStream": {"session_id": "5f0c7f1b8f5e4d0f9b6c2d3a4e5f6071"},
    "CategoryCreate": {"name": "Minutes", "prompt_template": "Summarise:\n\n{doc}"},
    "CategoryUpdate": {"summary_model": "echo"},
    "DocumentCreate": {
        "project_id": 0,
        "category_id": 1,
        "filename": "plan.md",
        "content": "# Plan",
    },
    "DocumentUpdate": {"content": "# A better plan"},
    "DocumentIds": {"document_ids": [1]},
    "MigrateHistory": {
        "project_id": 0,
        "source_category_id": 1,
        "target_category_id": 2,
        "filename": "plan.md",
    },
    "MigrateCurrent": {"document_id": 1, "target_category_id": 2},
    "Generate": {"conversation_id": CONVERSATION, "category_id": 1, "model": "echo"},
    "ReferenceIds": {"document_ids": []},
}

# By the name of the operation, where several share a shape.
CALLS: dict[str, dict[str, Any]] = {
    "create_completion": {
        "model": "echo",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": False,
        "store": True,
    },
    "create_response": {"model": "openai/gpt-5", "input": "Hello"},
    "create_embeddings": {"model": "openai/text-embedding-3-small", "input": "Hello"},
}

STREAM = (
    'data: {"content": "", "user_message_id": 106, "assistant_message_id": 107,'
    f' "conversation_id": "{CONVERSATION}", "session_id": "5f0c7f1b8f5e4d0f9b6c2d3a4e5f6071"}}\n\n'
    'data: {"content": "Hello,"}\n\n'
    'data: {"content": " 你好!"}\n\n'
    'data: {"content": "", "finish_reason": "stop", "usage": {"total_tokens": 4}}\n\n'
    "data: [DONE]\n\n"
)
IMPORT_STREAM = (
    'data: {"done": 65536, "total": 4194304}\n\n'
    'data: {"result": {"added": {"conversations": 12, "messages": 480}, "existing": {},'
    ' "left_out": {"pictures": 3}, "skipped": [], "skipped_count": 0}}\n\n'
    "data: [DONE]\n\n"
)
