"""Who may do what: everything, until a test gives rules or takes a verb away."""

from dataclasses import dataclass

from cluster.kinds import ApiError, Object


@dataclass(frozen=True)
class Request:
    """What is asked, as authorization sees it."""

    verb: str
    group: str
    resource: str  # with its subresource: pods/log
    namespace: str
    name: str


class Access:
    """RBAC for one user: ``rules`` is None (all is allowed), or a Role's rules for ``namespace``."""

    def __init__(self, user: str) -> None:
        self.user = user
        self.namespace = ""
        self.rules: list[Object] | None = None
        self._forbidden: set[tuple[str, str]] = set()

    def grant(self, namespace: str, rules: list[Object]) -> None:
        """Only what the rules of a Role in this namespace say, and its objects nowhere else."""
        self.namespace, self.rules = namespace, rules

    def forbid(self, verb: str, resource: str) -> None:
        """Takes one verb on one resource (``pods``, ``pods/log``) away."""
        self._forbidden.add((verb, resource))

    def permit(self, verb: str, resource: str) -> None:
        self._forbidden.discard((verb, resource))

    def allows(self, asked: Request) -> bool:
        if (asked.verb, asked.resource) in self._forbidden:
            return False
        if self.rules is None:
            return True
        return asked.namespace == self.namespace and any(_covers(rule, asked) for rule in self.rules)

    def refusal(self, asked: Request) -> ApiError:
        kind = asked.resource.partition("/")[0]
        qualified = f"{kind}.{asked.group}" if asked.group else kind
        named = f'{qualified} "{asked.name}"' if asked.name else qualified
        where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
        why = f'User "{self.user}" cannot {asked.verb} resource "{asked.resource}" in API group "{asked.group}" {where}'
        details = {"name": asked.name, "group": asked.group, "kind": kind}
        return ApiError(403, "Forbidden", f"{named} is forbidden: {why}", {k: v for k, v in details.items() if v})


def _covers(rule: Object, asked: Request) -> bool:
    resources = rule.get("resources") or []
    subresource = asked.resource.partition("/")[2]
    return (
        bool({"*", asked.verb} & set(rule.get("verbs") or []))
        and bool({"*", asked.group} & set(rule.get("apiGroups") or []))
        and bool({"*", asked.resource, *([f"*/{subresource}"] if subresource else [])} & set(resources))
        and (not rule.get("resourceNames") or asked.name in rule["resourceNames"])
    )
