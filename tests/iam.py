"""What AWS decides by the policies of a role: an explicit deny, else an allow, else no.

moto looks at actions and resources alone; here conditions count too, and tags of the session. What
this does not know it refuses to judge.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TAG = re.compile(r"\$\{aws:PrincipalTag/([^}]+)\}")
NONE: Mapping[str, str] = {}


def allows(
    policy: Mapping[str, Any],
    action: str,
    resource: str,
    tags: Mapping[str, str] = NONE,
    **context: str,
) -> bool:
    """Whether this policy lets its role do `action` on `resource`.

    `tags` are those of the role's session; `context` has the keys of the request, as
    `s3_prefix="a/"` for `s3:prefix`.
    """
    keys = {key.replace("_", ":", 1): value for key, value in context.items()}
    effects = {
        statement["Effect"]
        for statement in _listed(policy["Statement"])
        if any(_like(each, action, re.IGNORECASE) for each in _listed(_of(statement, "Action")))
        and any(_like(each, resource, tags=tags) for each in _listed(_of(statement, "Resource")))
        and _holds(statement.get("Condition", {}), keys, tags)
    }
    return "Allow" in effects and "Deny" not in effects


def _of(statement: Mapping[str, Any], name: str) -> Any:
    if f"Not{name}" in statement or name not in statement:
        raise NotImplementedError(f"a statement without {name}: {statement}")
    return statement[name]


def _holds(
    condition: Mapping[str, Mapping[str, Any]], keys: Mapping[str, str], tags: Mapping[str, str]
) -> bool:
    for operator, wanted in condition.items():
        if operator not in ("StringLike", "StringEquals"):
            raise NotImplementedError(f"the condition {operator}")
        wild = operator == "StringLike"
        for key, values in wanted.items():
            if key not in keys:
                return False
            if not any(_like(each, keys[key], tags=tags, wild=wild) for each in _listed(values)):
                return False
    return True


def _like(
    pattern: str, value: str, flags: int = 0, tags: Mapping[str, str] = NONE, wild: bool = True
) -> bool:
    """AWS's own wildcards: `*` is any number of characters, `?` is one; nothing else is special.

    The value of a tag stands in the place of its variable; without such a tag nothing fits.
    """
    pieces = TAG.split(pattern)  # text, and at each second place the name of a tag
    if set(pieces[1::2]) - set(tags):
        return False
    if any("${" in text for text in pieces[::2]):
        raise NotImplementedError(f"a variable in {pattern}")
    expressions = [re.escape(text) for text in pieces]
    if wild:
        expressions = [each.replace(r"\*", ".*").replace(r"\?", ".") for each in expressions]
    expressions[1::2] = [re.escape(tags[name]) for name in pieces[1::2]]
    return re.fullmatch("".join(expressions), value, flags | re.DOTALL) is not None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
