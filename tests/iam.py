"""What AWS decides by the policies of a role: an explicit deny, else an allow, else no.

moto looks at actions and resources alone; here conditions count too. What this does not know it
refuses to judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def allows(policy: Mapping[str, Any], action: str, resource: str, **context: str) -> bool:
    """Whether this policy lets its role do `action` on `resource`.

    `context` has the keys of the request, as `s3_prefix="a/"` for `s3:prefix`.
    """
    keys = {key.replace("_", ":", 1): value for key, value in context.items()}
    effects = {
        statement["Effect"]
        for statement in _listed(policy["Statement"])
        if any(_like(each, action, re.IGNORECASE) for each in _listed(_of(statement, "Action")))
        and any(_like(each, resource) for each in _listed(_of(statement, "Resource")))
        and _holds(statement.get("Condition", {}), keys)
    }
    return "Allow" in effects and "Deny" not in effects


def _of(statement: Mapping[str, Any], name: str) -> Any:
    if f"Not{name}" in statement or name not in statement:
        raise NotImplementedError(f"a statement without {name}: {statement}")
    return statement[name]


def _holds(condition: Mapping[str, Mapping[str, Any]], keys: Mapping[str, str]) -> bool:
    for operator, wanted in condition.items():
        if operator not in ("StringLike", "StringEquals"):
            raise NotImplementedError(f"the condition {operator}")
        match = _like if operator == "StringLike" else str.__eq__
        for key, values in wanted.items():
            if key not in keys or not any(match(each, keys[key]) for each in _listed(values)):
                return False
    return True


def _like(pattern: str, value: str, flags: int = 0) -> bool:
    """AWS's own wildcards: `*` is any number of characters, `?` is one; nothing else is special."""
    if "${" in pattern:
        raise NotImplementedError(f"a variable in {pattern}")
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, value, flags | re.DOTALL) is not None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
