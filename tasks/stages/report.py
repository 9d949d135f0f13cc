"""report: everything on one page."""

from sifthinker.core import scores
from sifthinker.evaluation import history
from sifthinker.reporting import lineage_picture
from sifthinker.reporting import report as domain
from sifthinker.store import lineage
from sifthinker.system import machine
from tasks.runtime.results import ROOT
from tasks.runtime.stage import PAGE, Job, stage
from tasks.runtime.stage_results import RESULTS


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
    before = {
        name: scores.read_with_model(job.inputs[f"evaluate_{name}"].path)
        for name in ("base", "sft")
        if f"evaluate_{name}" in job.inputs
    }
    last = scores.read_with_model(job.inputs["evaluate"].path)
    facts = domain.Facts(
        stages=manifests,
        title=job.config.name,
        dataset=job.inputs["sif"].parts("sif"),
        examples=job.config.report.examples,
        histories={name: job.inputs[name].path / "history.jsonl" for name in ("sft", "grpo")},
        completions=job.inputs["grpo"].path / "completions.parquet",
        scores=last,
        before=before,
        headlines=history.headlines([score for of in (*before.values(), last) for score in of]),
        predictions=job.inputs["evaluate"].path / "predictions.parquet",
        shown=job.inputs["evaluate"].path / "shown.parquet",
        machine=machine.describe(),
        commit=machine.commit(ROOT),
        config=job.config.model_dump(mode="json"),
        versions=job.manifest["versions"],
        standins=statements,
        lineage=lineage_picture.picture(lineage.trace(job.store.manifest, job.inputs["model"].ref)),
    )
    domain.write(job.out / "report.html", facts)
    (job.out / PAGE).write_text(domain.page(facts), encoding="utf-8")
    job.draft.rows = {"in": len(manifests), "kept": len(manifests), "rejected": {}}
