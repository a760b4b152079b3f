-- A file as version 1 of the schema made it, with a chat and a document made from it.

CREATE TABLE project (
    dev_environment VARCHAR,
    llm_model VARCHAR,
    grpc_server_address VARCHAR,
    llm_url VARCHAR,
    git_work_dir VARCHAR,
    ai_work_dir VARCHAR,
    id INTEGER NOT NULL,
    name VARCHAR NOT NULL,
    created_time VARCHAR NOT NULL,
    updated_time VARCHAR NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (name)
);

CREATE TABLE conversation (
    name VARCHAR,
    system_prompt VARCHAR,
    model VARCHAR,
    assistance_role VARCHAR,
    id VARCHAR NOT NULL,
    status INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    active_message_id INTEGER,
    source VARCHAR,
    external_id VARCHAR,
    created_at VARCHAR NOT NULL,
    updated_at VARCHAR NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (source, external_id)
);

CREATE INDEX ix_conversation_recent ON conversation (updated_at);

CREATE INDEX ix_conversation_project ON conversation (project_id, updated_at);

CREATE TABLE plan_category (
    prompt_template VARCHAR NOT NULL,
    message_method VARCHAR(255) NOT NULL,
    summary_model VARCHAR,
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name VARCHAR NOT NULL,
    is_builtin BOOLEAN NOT NULL,
    auto_save_category_id INTEGER,
    created_time VARCHAR NOT NULL,
    updated_time VARCHAR NOT NULL,
    UNIQUE (name),
    FOREIGN KEY(auto_save_category_id) REFERENCES plan_category (id) ON DELETE SET NULL
);

CREATE TABLE message (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    conversation_id VARCHAR NOT NULL,
    parent_id INTEGER,
    role VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    parts JSON,
    reasoning VARCHAR,
    model VARCHAR,
    provider VARCHAR,
    status VARCHAR NOT NULL,
    finish_reason VARCHAR,
    error VARCHAR,
    error_status INTEGER,
    usage JSON,
    cost FLOAT,
    session_id VARCHAR,
    request JSON,
    extra JSON,
    omitted INTEGER,
    idempotency_key VARCHAR,
    idempotency_hash VARCHAR,
    source VARCHAR,
    external_id VARCHAR,
    created_at VARCHAR NOT NULL,
    updated_at VARCHAR NOT NULL,
    UNIQUE (source, external_id),
    UNIQUE (conversation_id, idempotency_key),
    FOREIGN KEY(conversation_id) REFERENCES conversation (id) ON DELETE CASCADE,
    FOREIGN KEY(parent_id) REFERENCES message (id),
    UNIQUE (session_id)
);

CREATE INDEX ix_message_conversation_id ON message (conversation_id);

CREATE INDEX ix_message_running ON message (status) WHERE status = 'streaming';

CREATE INDEX ix_message_reply ON message (substr(trim(content, char(32, 9, 10, 11, 12, 13)), 1, 64)) WHERE role = 'assistant';

CREATE INDEX ix_message_tool_call ON message (json_extract(extra, '$.tool_calls[0].id')) WHERE extra IS NOT NULL;

CREATE INDEX ix_message_parent_id ON message (parent_id);

CREATE TABLE plan_document (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    category_id INTEGER NOT NULL,
    filename VARCHAR NOT NULL,
    content VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    source VARCHAR NOT NULL,
    related_log_id INTEGER,
    conversation_id VARCHAR,
    message_ids JSON,
    read_at VARCHAR,
    template_hash VARCHAR,
    model VARCHAR,
    usage JSON,
    created_time VARCHAR NOT NULL,
    updated_time VARCHAR NOT NULL,
    UNIQUE (project_id, category_id, filename, version),
    FOREIGN KEY(category_id) REFERENCES plan_category (id)
);

CREATE INDEX ix_plan_document_category_id ON plan_document (category_id);

CREATE TABLE plan_draft (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    category_id INTEGER NOT NULL,
    filename VARCHAR NOT NULL,
    conversation_id VARCHAR NOT NULL,
    message_ids JSON,
    template_hash VARCHAR NOT NULL,
    document_id INTEGER,
    content VARCHAR NOT NULL,
    reasoning VARCHAR,
    extra JSON,
    model VARCHAR,
    provider VARCHAR,
    status VARCHAR NOT NULL,
    finish_reason VARCHAR,
    error VARCHAR,
    error_status INTEGER,
    usage JSON,
    omitted INTEGER,
    session_id VARCHAR NOT NULL,
    created_time VARCHAR NOT NULL,
    updated_at VARCHAR NOT NULL,
    FOREIGN KEY(category_id) REFERENCES plan_category (id),
    UNIQUE (session_id)
);

CREATE INDEX ix_plan_draft_category_id ON plan_draft (category_id);

CREATE INDEX ix_draft_running ON plan_draft (status) WHERE status = 'streaming';

CREATE TABLE document_reference (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    project_id INTEGER NOT NULL,
    conversation_id VARCHAR,
    document_id INTEGER NOT NULL,
    reference_type VARCHAR NOT NULL,
    created_time VARCHAR NOT NULL,
    UNIQUE (conversation_id, document_id),
    FOREIGN KEY(conversation_id) REFERENCES conversation (id) ON DELETE CASCADE,
    FOREIGN KEY(document_id) REFERENCES plan_document (id) ON DELETE CASCADE
);

CREATE INDEX ix_reference_project ON document_reference (project_id, document_id);

CREATE INDEX ix_document_reference_document_id ON document_reference (document_id);

CREATE VIRTUAL TABLE message_search
USING fts5(content, content='', columnsize=0, tokenize='ascii');

CREATE VIRTUAL TABLE document_search
USING fts5(filename, content, content='', columnsize=0, tokenize='ascii');

CREATE TRIGGER message_search_insert AFTER INSERT ON message
WHEN new.status <> 'streaming' BEGIN
    INSERT INTO message_search (rowid, content) VALUES (new.id, search_tokens(new.content));
END;

CREATE TRIGGER message_search_update AFTER UPDATE OF content, status ON message
WHEN old.content <> new.content OR (old.status = 'streaming') <> (new.status = 'streaming') BEGIN
    INSERT INTO message_search (message_search, rowid, content)
    SELECT 'delete', old.id, search_tokens(old.content) WHERE old.status <> 'streaming';
    INSERT INTO message_search (rowid, content)
    SELECT new.id, search_tokens(new.content) WHERE new.status <> 'streaming';
END;

CREATE TRIGGER message_search_delete AFTER DELETE ON message
WHEN old.status <> 'streaming' BEGIN
    INSERT INTO message_search (message_search, rowid, content)
    VALUES ('delete', old.id, search_tokens(old.content));
END;

CREATE TRIGGER document_search_insert AFTER INSERT ON plan_document BEGIN
    INSERT INTO document_search (rowid, filename, content)
    VALUES (new.id, search_tokens(new.filename), search_tokens(new.content));
END;

CREATE TRIGGER document_search_update AFTER UPDATE OF filename, content ON plan_document BEGIN
    INSERT INTO document_search (document_search, rowid, filename, content)
    VALUES ('delete', old.id, search_tokens(old.filename), search_tokens(old.content));
    INSERT INTO document_search (rowid, filename, content)
    VALUES (new.id, search_tokens(new.filename), search_tokens(new.content));
END;

CREATE TRIGGER document_search_delete AFTER DELETE ON plan_document BEGIN
    INSERT INTO document_search (document_search, rowid, filename, content)
    VALUES ('delete', old.id, search_tokens(old.filename), search_tokens(old.content));
END;

INSERT INTO project (id, name, created_time, updated_time)
VALUES (1, 'Boats', '2026-01-02T03:04:05.000000Z', '2026-01-02T03:04:05.000000Z');

INSERT INTO conversation
    (id, name, status, project_id, active_message_id, created_at, updated_at)
VALUES
    ('old', '旧对话', 0, 1, 2, '2026-01-02T03:04:05.000000Z', '2026-01-02T03:04:07.000000Z');

INSERT INTO message
    (id, conversation_id, parent_id, role, content, model, provider, status, finish_reason, usage,
     session_id, created_at, updated_at)
VALUES
    (1, 'old', NULL, 'user', '明天的天气?', NULL, NULL, 'complete', NULL, NULL,
     NULL, '2026-01-02T03:04:05.000000Z', '2026-01-02T03:04:05.000000Z'),
    (2, 'old', 1, 'assistant', '晴', 'gpt', 'openai', 'complete', 'stop',
     '{"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}',
     's', '2026-01-02T03:04:06.000000Z', '2026-01-02T03:04:07.000000Z');

INSERT INTO plan_category
    (id, prompt_template, message_method, name, is_builtin, created_time, updated_time)
VALUES
    (1, '{doc}', 'PlanGetRequest', '需求计划', 1,
     '2026-01-02T03:04:05.000000Z', '2026-01-02T03:04:05.000000Z');

INSERT INTO plan_document
    (id, project_id, category_id, filename, content, version, source, conversation_id, model,
     usage, created_time, updated_time)
VALUES
    (1, 1, 1, 'a.md', '计划', 1, 'chat', 'old', 'gpt',
     '{"prompt_tokens": 5, "completion_tokens": 1}',
     '2026-01-03T03:04:05.000000Z', '2026-01-03T03:04:05.000000Z');

INSERT INTO plan_draft
    (id, project_id, category_id, filename, conversation_id, template_hash, document_id, content,
     model, provider, status, usage, session_id, created_time, updated_at)
VALUES
    (1, 1, 1, 'a.md', 'old', 'x', 1, '',
     'gpt', 'openai', 'complete', '{"prompt_tokens": 5, "completion_tokens": 1}', 'd',
     '2026-01-03T03:04:05.000000Z', '2026-01-03T03:04:06.000000Z');

PRAGMA user_version = 1;

