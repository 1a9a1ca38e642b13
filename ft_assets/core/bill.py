"""The bill of materials of a release: CycloneDX 1.6 JSON (ECMA-424, a machine-learning bill), named ``bill.cdx.json``.

It lists the model with its model card, every file with its sha-256, the base model, each batch of data with its licence and
the hash of its rows, and the libraries that made it. The schema's own validator checks it in a test.
"""

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from ft_assets.core.publish import Listed
from ft_assets.core.release import Batch, Release

BILL = "bill.cdx.json"
NAMESPACE = uuid.UUID("5b6c0a5e-8d0f-4c1c-9a57-6a1c8d3b7e21")  # of serial numbers, so that one release has one


def bill(release: Release, files: Iterable[Listed]) -> dict[str, Any]:
    """``files``: every file of the release but the bill and what is made after it."""
    model = _model(release)
    model["components"] = [_file(file) for file in files]
    libraries = [_library(name, number) for name, number in release.versions]
    parts = [_base(release), *(_batch(batch) for batch in release.batches), *libraries]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, release.fingerprint)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(release.made_at, UTC).isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": "ft-assets", "version": version("ft-assets")}]},
            "component": model,
        },
        "components": parts,
        "dependencies": [{"ref": "model", "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def listed(body: Mapping[str, Any]) -> dict[str, str]:
    """The sha-256 of each file that a bill lists, by name.

    Raises:
        KeyError, TypeError: it is no bill of a release.
    """
    return {part["name"]: part["hashes"][0]["content"] for part in body["metadata"]["component"]["components"]}


def _model(release: Release) -> dict[str, Any]:
    recipe = release.recipe
    metrics = [
        {
            "type": metric,
            "value": f"{score['mean']:.6g}",
            "slice": f"{score['n']} rows",
            "confidenceInterval": {"lowerBound": f"{score['low']:.6g}", "upperBound": f"{score['high']:.6g}"},
        }
        for metric, score in release.scores.items()
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": recipe.name,
        "version": release.fingerprint[:16],
        "description": recipe.description or release.verdict,
        **({"licenses": _licences(recipe.publish.license)} if recipe.publish.license else {}),
        "modelCard": {
            "modelParameters": {
                "approach": {
                    "type": "reinforcement-learning" if recipe.policy and recipe.policy.online else "supervised"
                },
                "task": release.task,
                "architectureFamily": "transformer",
                "datasets": [{"ref": f"data:{batch.key}"} for batch in release.batches],
            },
            "quantitativeAnalysis": {"performanceMetrics": metrics},
            "considerations": {"technicalLimitations": list(release.results["warnings"])},
        },
        "properties": [
            {"name": "ft:verdict", "value": release.verdict},
            {"name": "ft:gate", "value": gate_word(release.gate)},
            *({"name": f"ft:fingerprint:{stage}", "value": digest} for stage, digest in release.lineage.items()),
        ],
    }


def gate_word(gate: Mapping[str, Any]) -> str:
    """What came of a gate.json, in a word."""
    if gate["override"]:
        return f"overridden by {gate['override']['by']}"
    if not gate["conditions"]:
        return "no conditions"
    return "passed" if gate["passed"] else "failed"


def _file(file: Listed) -> dict[str, Any]:
    return {"type": "file", "bom-ref": f"file:{file.name}", "name": file.name, "hashes": [_sha256(file.sha256)]}


def _base(release: Release) -> dict[str, Any]:
    base = release.base
    revision = f"@{base.revision}" if base.revision else ""
    return {
        "type": "machine-learning-model",
        "bom-ref": "base-model",
        "name": base.name,
        **({"version": base.revision} if base.revision else {}),
        **({"purl": f"pkg:huggingface/{base.repository}{revision}"} if base.repository else {}),
        **({"licenses": _licences(base.licence)} if base.licence else {}),
        "hashes": [_sha256(base.content_hash)],
    }


def _batch(batch: Batch) -> dict[str, Any]:
    dropped = f", {batch.quarantined} quarantined" if batch.quarantined else ""
    return {
        "type": "data",
        "bom-ref": f"data:{batch.key}",
        "name": batch.key,
        "version": batch.fingerprint[:16],
        "licenses": _licences(batch.licence),
        "hashes": [_sha256(batch.rows)],
        "data": [
            {
                "type": "dataset",
                "name": batch.key,
                "description": f"{batch.rows_kept} rows kept{dropped}; used as {', '.join(batch.roles)}. "
                f"{batch.description}".strip(),
            }
        ],
    }


def _library(name: str, number: str) -> dict[str, Any]:
    found = {"type": "library", "bom-ref": f"library:{name}@{number}", "name": name, "version": number}
    return found | ({"type": "platform"} if name == "python" else {"purl": f"pkg:pypi/{name}@{quote(number)}"})


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _licences(licence: str) -> list[dict[str, Any]]:
    """A licence by its SPDX expression, or by its name where it is none."""
    try:
        return [{"expression": str(canonicalize_license_expression(licence))}]
    except InvalidLicenseExpression:
        return [{"license": {"name": licence}}]
