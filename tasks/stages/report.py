"""report: everything on one page."""

import json

from sifthinker.reporting import report as domain
from sifthinker.store import lineage
from tasks.runtime.results import RESULTS
from tasks.runtime.stage import PAGE, Job, stage


@stage(
    config=lambda c: {"report": c.report.model_dump(), "name": c.name},
    results=RESULTS["report"],
)
def report(job: Job) -> None:
    """Writes the self-contained HTML page, and a short one for the UI."""
    manifests = [artifact.manifest for artifact in job.inputs.values()]
    toys = [m for m in manifests if m["notes"].get("toy")]
    statements = [
        *(
            f"{m['label']}: {m['notes']['toy']} is a random toy. It learns nothing; scores are chance."
            for m in toys
        ),
        *(
            f"{m['label']}: {m['notes']['miniature']} is a small model trained on rendered scenes, a stand-in for the "
            "published weights."
            for m in manifests
            if m["notes"].get("miniature")
        ),
        *(f"{m['label']}: {m['notes']['standin']}" for m in manifests if m["notes"].get("standin")),
    ]
    scores = json.loads((job.inputs["evaluate"].path / "scores.json").read_text(encoding="utf-8"))
    facts = domain.Facts(
        stages=manifests,
        title=job.config.name,
        dataset=job.inputs["sif"].parts("sif"),
        examples=job.config.report.examples,
        histories={name: job.inputs[name].path / "history.jsonl" for name in ("sft", "grpo")},
        completions=job.inputs["grpo"].path / "completions.parquet",
        scores=[{"model": scores["model"], "box_frame": scores["box_frame"], **score} for score in scores["scores"]],
        predictions=job.inputs["evaluate"].path / "predictions.parquet",
        config=job.config.model_dump(mode="json"),
        versions=job.manifest["versions"],
        standins=statements,
        lineage=lineage.picture(lineage.trace(job.store.manifest, job.inputs["model"].ref)),
    )
    domain.write(job.out / "report.html", facts)
    (job.out / PAGE).write_text(domain.page(facts), encoding="utf-8")
    job.draft.rows = {"in": len(manifests), "kept": len(manifests), "rejected": {}}
