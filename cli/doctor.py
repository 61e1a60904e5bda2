"""`medsci doctor`: is this machine ready."""

__all__ = ["doctor"]

from typing import Any

from medsci.cli.options import Json
from medsci.cli.talk import talk_of


def doctor(as_json: Json = False) -> None:
    """Show versions, processor, memory, devices and weights, and what to mend."""
    from medsci.pipelines.doctor import examine

    talk = talk_of(as_json=as_json)
    facts = examine()
    if as_json:
        talk.emit(facts)
    else:
        talk.say("\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> list[str]:
    cpu, memory = facts["cpu"], facts["memory_gib"]
    versions = [f"{name} {version or 'absent'}" for name, version in facts["versions"].items()]
    weights = [f"{w['name']} {'ok' if w['ok'] else 'DAMAGED'}" for w in facts["weights"]]
    load = "unknown" if cpu["load_average"] is None else f"{cpu['load_average']:.2f}"
    rows = {
        "medsci": f"{facts['medsci']} on Python {facts['python']}, {facts['system']}",
        "libraries": ", ".join(versions),
        "processor": f"{cpu['cores']} cores, load {load}, {' '.join(cpu['fast_flags'])}".rstrip(
            ", "
        ),
        "threads": cpu["threads_set"] or "torch's default",
        "memory": f"{memory['total']} GiB, {memory['free']} GiB free",
        "gpus": "; ".join(facts["gpus"]) or "none",
        "weights": ", ".join(weights) or "none",
    }
    lines = [f"{name:<10} {text}" for name, text in rows.items()]
    return [*lines, *(f"problem    {text}" for text in facts["problems"] or [])]
