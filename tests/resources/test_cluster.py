"""The deployment's file: what it may say, and how a fault is named."""

from typing import get_args

import pytest

from ft_assets.core.errors import FineTuneError, RecipeError
from ft_assets.deploying import IN_WORKERS
from ft_assets.recipes.pods import InPods, Pods
from resources.environment import settings
from resources.kubernetes.cluster import load_cluster

GOOD = """
namespace: training
claim: ft-home
mount: /srv/ft
image: registry.example/worker@sha256:{digest}
tolerations: [{{key: spot, operator: Exists}}]
stages:
  evaluation: {{memory_gib: 16, gpus: 1}}
""".format(digest="0" * 64)


@pytest.fixture
def load(tmp_path):
    def loaded(text):
        (tmp_path / "pods.yaml").write_text(text)
        return load_cluster(tmp_path / "pods.yaml")

    return loaded


def test_what_nobody_says_has_a_value(load):
    found = load(GOOD).settings("evaluation", {})
    assert (found.memory_gib, found.gpus, found.job_api) == (16, 1, "job")
    assert found.active_deadline_seconds > found.pending_seconds > 0
    assert found.preemptions > 0
    assert found.replan_on_oom is False
    assert load(GOOD).settings("sft_adapter", {"preemptions": 0}).preemptions == 0


@pytest.mark.parametrize(
    ("line", "field", "said"),
    [
        ("namespce: x", "namespce", "namespace (did you mean that?)"),
        ("namespace: Training", "namespace", "'Training'"),
        ("mount: srv", "mount", "an absolute path"),
        ("mount: /srv/../etc", "mount", "an absolute path"),
        ("mount: /tmp", "mount", "none of /, /tmp"),
        ("claim: a..b", "claim", "'a..b'"),
        ("env: {FT_NODES: '2'}", "env.FT_NODES", "does not set itself"),
        ("env: {A-B: x}", "env.A-B", "match pattern"),
        ("env_from_secrets: {HOME: {secret: a, key: b}}", "env_from_secrets.HOME", "does not set itself"),
        ("env_from_secrets: {TOKEN: {secret: a}}", "env_from_secrets.TOKEN.key", "nothing"),
        ("env_from_secrets: {TOKEN: plain}", "env_from_secrets.TOKEN", "not shown"),
        ("labels: {ft-assets.dev/run: x}", "labels.ft-assets.dev/run", "sets itself"),
        ("labels: {a: 'b c'}", "labels.a", "'b c'"),
        ("annotations: {-: b}", "annotations.-", "match pattern"),
        ("node_selector: {a/b/c: d}", "node_selector.a/b/c", "match pattern"),
        ("tolerations: [{effct: NoSchedule}]", "tolerations[0].effct", "effect (did you mean that?)"),
        ("tolerations: [{key: a, operator: Exists, value: b}]", "tolerations[0]", "has no value"),
        ("tolerations: [{operator: Equal}]", "tolerations[0]", "without a key"),
        ("tolerations: [{key: a, tolerationSeconds: 3}]", "tolerations[0]", "NoExecute"),
        ("queue_name: " + "q" * 64, "queue_name", "63"),
        ("job_api: cronjob", "job_api", "'job' or 'jobset'"),
        ("run_as_user: 0", "run_as_user", "greater than or equal to 1"),
        ("stages: {evaluation: {imge: x}}", "stages.evaluation.imge", "image (did you mean that?)"),
        ("image: 'a b'", "image", "'a b'"),
        ("stages: {sft_adaptor: {cpu: 1}}", "stages.sft_adaptor", "'sft_adapter'"),
        ("env: {HF_TOKEN: hf_hidden}", "env", "env_from_secrets"),
        ("env: {AWS_SECRET_ACCESS_KEY: hf_hidden}", "env", "env_from_secrets"),
        ("env: {HTTPS_PROXY: 'http://me:hf_hidden@proxy:3128'}", "env", "env_from_secrets"),
        ("env: {HF_TOKEN: {value: hf_hidden}}", "env.HF_TOKEN", "not shown"),
        ("env_from_secrets: {TOKEN: {secret: hf_hidden, key: k}}", "env_from_secrets.TOKEN.secret", "not shown"),
        ("HF_TOKEN: hf_hidden", "HF_TOKEN", "not shown"),
    ],
)
def test_a_fault_is_named_with_its_file_line_and_field(load, tmp_path, line, field, said):
    without = "".join(kept for kept in GOOD.splitlines(True) if kept.split(":")[0] != line.split(":")[0])
    if line.startswith("stages"):
        without = without[: without.index("  evaluation")]
    with pytest.raises(RecipeError) as caught:
        load(f"{line}\n{without.lstrip()}")
    assert f"{tmp_path / 'pods.yaml'}:1: {field}: " in str(caught.value)
    assert said in str(caught.value)
    assert "hf_hidden" not in str(caught.value)


def test_variables_that_only_sound_like_secrets_are_taken(load):
    names = ("TOKENIZERS_PARALLELISM", "KEYBOARD", "NCCL_SOCKET_IFNAME", "HF_TOKEN_PATH")
    assert load(GOOD + f"env: {{{', '.join(f'{name}: x' for name in names)}}}").env == dict.fromkeys(names, "x")


def test_stages_are_those_that_run_in_pods():
    assert set(get_args(InPods)) == set(IN_WORKERS.values())


def test_annotations_that_no_server_takes_are_refused(load):
    with pytest.raises(RecipeError, match="annotations take 300001 bytes"):
        load(GOOD + f"annotations: {{a: {'x' * 300_000}}}")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"no\.yaml.*readable UTF-8 YAML"):
        load_cluster(tmp_path / "no.yaml")


def test_only_fields_of_pods_are_told_to_a_stage(load):
    assert set(load(GOOD).of("evaluation")) == {"image", "tolerations", "memory_gib", "gpus"}
    pods = Pods.model_validate({"cpu": 2, "stages": {"policy": {"cpu": 4}}})
    assert (pods.of("policy"), pods.of("sft_adapter")) == ({"cpu": 4}, {"cpu": 2})


def test_the_environment_names_the_launcher_and_the_file(monkeypatch, tmp_path):
    monkeypatch.delenv("FT_PODS", raising=False)
    monkeypatch.setenv("FT_LAUNCHER", "")
    assert (settings().launcher, settings().pods) == ("local", None)
    monkeypatch.setenv("FT_LAUNCHER", "kubernetes")
    with pytest.raises(FineTuneError, match="FT_PODS names no file"):
        settings()
    monkeypatch.setenv("FT_PODS", str(tmp_path / "pods.yaml"))
    assert settings().pods == tmp_path / "pods.yaml"
    monkeypatch.setenv("FT_LAUNCHER", "slurm")
    with pytest.raises(FineTuneError, match="'slurm'; allowed: local, kubernetes"):
        settings()
