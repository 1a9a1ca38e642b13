"""What a stage's pods may wait for: each wait is explained, bounded, and ends."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster.kinds import QUOTA, SERVICE_ACCOUNT
from following import OTHER_RUN, Site, site


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with site(tmp_path, monkeypatch) as found:
        yield found


def no_gpu(here: Site) -> Callable[[], None]:
    for name in ("node-a", "node-b"):
        here.cluster.cordon_node(name)
    here.cluster.add_node("small", gpus=0)
    return lambda: here.cluster.add_node("large", gpus=4)


def unbound(here: Site) -> Callable[[], None]:
    here.cluster.add_claim("late", here.folder / "home", bound=False)
    here.deploy(claim="late")
    return lambda: here.cluster.bind_claim("late")


def no_image(here: Site) -> Callable[[], None]:
    here.cluster.kubelet.missing_images.add(here.deployment["image"])

    def heal() -> None:
        here.cluster.kubelet.missing_images.clear()
        here.cluster.advance(300)

    return heal


def no_secret(here: Site) -> Callable[[], None]:
    here.deploy(env_from_secrets={"HF_TOKEN": {"secret": "hub", "key": "token"}})
    return lambda: here.cluster.add_secret("hub", token="t")


def no_quota(here: Site) -> Callable[[], None]:
    here.cluster.add_quota("team", {"requests.nvidia.com/gpu": "1"})

    def heal() -> None:
        here.cluster.delete(QUOTA, "team")
        here.cluster.advance(60)

    return heal


def no_jobs(here: Site) -> Callable[[], None]:
    here.cluster.add_quota("team", {"count/jobs.batch": "0"})
    return lambda: here.cluster.delete(QUOTA, "team")


def queued(here: Site) -> Callable[[], None]:
    here.cluster.use_kueue()
    here.deploy(queue_name="gpus")
    return lambda: here.cluster.admit(here.job())


WAITS = {
    "unschedulable GPU": (no_gpu, "Insufficient nvidia.com/gpu", "pending_seconds"),
    "claim that does not bind": (unbound, "unbound immediate PersistentVolumeClaims", "pending_seconds"),
    "image": (no_image, "cannot be pulled", "image_seconds"),
    "secret": (no_secret, 'secret "hub" not found', "start_seconds"),
    "quota": (no_quota, "exceeded quota: team", "pending_seconds"),
    "quota of jobs": (no_jobs, "exceeded quota: team", "pending_seconds"),
    "queue": (queued, "waits in Kueue's queue gpus", "active_deadline_seconds"),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_is_explained_and_goes_on_when_its_cause_is_gone(here: Site, name: str) -> None:
    cause, words, _ = WAITS[name]
    heal = cause(here)
    step = here.start()
    here.cluster.advance(30)
    step.says(words)
    heal()
    here.running()
    here.cluster.finish_job(here.job())
    step.ends_well()


@pytest.mark.parametrize("name", WAITS)
def test_a_wait_ends_at_its_bound(here: Site, name: str) -> None:
    cause, words, setting = WAITS[name]
    cause(here)
    deadline = 600 if name == "queue" else 6000
    request = here.request(pods={"active_deadline_seconds": deadline})
    step = here.start(request=request, image_seconds=600, start_seconds=600)
    step.says(words)
    here.cluster.advance(700)
    said = step.fails()
    assert words in said
    assert setting in said
    assert here.jobs() == []


def test_a_namespace_that_refuses_the_pods_ends_it_at_once(here: Site) -> None:
    here.cluster.label_namespace({"pod-security.kubernetes.io/enforce": "restricted"})
    step = here.start()
    here.running()  # what the launcher asks for passes
    here.cluster.finish_job(here.job())
    step.ends_well()
    here.cluster.delete(SERVICE_ACCOUNT, "default")
    again = here.start(OTHER_RUN, here.request(fingerprint="cd" * 32))
    assert 'serviceaccount "default" not found' in again.fails()
