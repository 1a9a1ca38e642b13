"""Nodes meet in whatever order they come; one that does not come is named within the bound; a made artifact ends all well."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from pods import free_port
from waiting import until

from ft_assets.worker import nodes
from ft_assets.worker.nodes import NodeMissing, Nodes, follow, gather, keep_store


@dataclass
class Group:
    """Two nodes of one process, and whether the artifact is made."""

    port: int = field(default_factory=free_port)
    made: bool = False

    def node(self, index: int, host: str = "127.0.0.1") -> Nodes:
        return Nodes(2, index, host, self.port)

    @property
    def job(self) -> Any:
        return SimpleNamespace(is_made=lambda: self.made)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.05)


def settled(following: "Future[Any]") -> Any:
    return following.result(20)


def test_the_second_waits_for_the_firsts_word_though_that_comes_later(pool: ThreadPoolExecutor) -> None:
    group = Group()
    following = pool.submit(follow, group.node(1), group.job, 20)
    store = keep_store(group.node(0))
    until(lambda: store.check(["came/node/1"]), 90, "the second's note")
    assert not following.done()  # the first may wait long for the lock
    gather(store, group.node(0), 20)
    assert settled(following) is not None


def test_the_first_names_one_that_does_not_come() -> None:
    group = Group()
    with pytest.raises(NodeMissing, match="pod 1 of 2 did not come within 0 s"):
        gather(keep_store(group.node(0)), group.node(0), 0.2)


@pytest.mark.parametrize("host", ["127.0.0.1", "pod-0.of-no-service.invalid"])
def test_the_second_names_a_first_that_does_not_answer(host: str) -> None:
    group = Group()
    with pytest.raises(NodeMissing, match=rf"pod 0 of 2 \({host}:{group.port}\) did not answer within 0 s"):
        follow(group.node(1, host), group.job, 0.2)


def test_a_first_that_goes_before_it_gave_its_word_is_named(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "LATE_SECONDS", 0.2)
    group = Group()
    stores = [keep_store(group.node(0))]
    following = pool.submit(follow, group.node(1), group.job, 20)
    until(lambda: stores[0].check(["came/node/1"]), 90, "the second's note")
    stores.clear()
    with pytest.raises(NodeMissing, match="went before training began"):
        settled(following)


def test_a_first_that_finds_it_made_and_goes_ends_the_second_well(pool: ThreadPoolExecutor) -> None:
    group = Group()
    stores = [keep_store(group.node(0))]
    following = pool.submit(follow, group.node(1), group.job, 20)
    until(lambda: stores[0].check(["came/node/1"]), 90, "the second's note")
    stores.clear()
    group.made = True  # seen later than by the first
    assert settled(following) is None


def test_a_second_that_comes_after_the_first_has_gone_ends_well() -> None:
    assert follow(Group(made=True).node(1), Group(made=True).job, 0) is None


def test_one_made_while_nobody_answers_is_seen(pool: ThreadPoolExecutor) -> None:
    group = Group()
    following = pool.submit(follow, group.node(1), group.job, 20)
    group.made = True
    assert settled(following) is None
