"""What a fresh database holds: the five built-in plan categories and their templates."""

from sqlalchemy import Connection
from sqlmodel import Session

from models import Category

REQUIREMENT = """\
你是一位经验丰富的产品经理。请根据下面的对话, 整理出一份完整、可执行的需求计划。

要求:
1. 背景与目标: 说明要解决什么问题, 为谁解决, 成功的标准是什么。
2. 功能需求: 逐条列出, 每条写明输入、处理与输出, 并标注优先级 (高 / 中 / 低)。
3. 非功能需求: 性能、安全、兼容性、可维护性等。
4. 范围之外: 明确本次不做的内容。
5. 待确认的问题: 对话中没有说清楚、需要进一步确认的地方。

只依据对话内容, 不要编造; 对话里有矛盾时, 以较晚的说法为准并注明。用 Markdown 输出。

项目环境:
{env}

对话内容:
{doc}
"""

DEVELOPMENT = """\
你是一位资深软件工程师。请根据下面的内容, 制定一份可以直接执行的开发计划。

要求:
1. 总体方案: 架构、模块划分与数据流, 说明关键的技术选择及理由。
2. 任务分解: 按先后顺序列出任务, 每项写明目标、涉及的文件或模块、完成标准与依赖。
3. 接口与数据结构: 给出需要新增或修改的接口、表与字段。
4. 风险与对策: 列出主要风险及应对办法。
5. 验收方式: 说明如何确认每项任务已经完成。

方案要符合项目环境, 优先采用简单、可靠的做法。用 Markdown 输出。

项目环境:
{env}

内容:
{doc}
"""

TESTING = """\
你是一位严谨的测试工程师。请根据下面的内容, 制定一份测试计划。

要求:
1. 测试范围: 要测什么, 不测什么。
2. 测试用例: 用表格列出编号、前置条件、步骤、预期结果与优先级, 覆盖正常流程、边界条件与异常情况。
3. 测试环境与数据: 所需的环境、工具与测试数据。
4. 自动化建议: 哪些用例适合自动化, 如何实现。
5. 通过标准: 达到什么条件可以发布。

用 Markdown 输出。

项目环境:
{env}

内容:
{doc}
"""

CORRECTION = """\
你是一位负责质量改进的技术负责人。请根据下面的内容, 制定一份整改计划。

要求:
1. 问题清单: 逐条列出发现的问题, 写明现象、影响与严重程度。
2. 原因分析: 说明每个问题的根本原因。
3. 整改措施: 每个问题对应的具体修改办法、涉及的文件或模块与先后顺序。
4. 验证方法: 如何确认问题已经解决且没有引入新的问题。
5. 预防措施: 今后如何避免同类问题。

用 Markdown 输出。

项目环境:
{env}

内容:
{doc}
"""

BUILTIN_CATEGORIES = [
    (1, "需求计划", "PlanGetRequest", REQUIREMENT),
    (2, "开发计划", "PlanExecuteRequest", DEVELOPMENT),
    (3, "测试计划", "PlanExecuteRequest", TESTING),
    (4, "整改计划", "PlanExecuteRequest", CORRECTION),
    (5, "知识库", "PlanGetRequest", "{doc}"),
]


def plant(connection: Connection) -> None:
    """Insert the built-in categories into a new file."""
    with Session(connection) as session:
        for id_, name, method, template in BUILTIN_CATEGORIES:
            category = Category(id=id_, name=name, is_builtin=True)
            category.message_method, category.prompt_template = method, template
            session.add(category)
        session.flush()


def untouched(category: Category) -> bool:
    """Whether this is a built-in category as it was planted."""
    planted = (category.id, category.name, category.message_method, category.prompt_template)
    others = (category.summary_model, category.auto_save_category_id)
    return category.is_builtin and planted in BUILTIN_CATEGORIES and others == (None, None)
